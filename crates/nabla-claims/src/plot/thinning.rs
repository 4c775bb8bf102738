//! Curves with as few points as possible that look the same.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::drawing::{CURVES, SCALE, WIDTH};
use super::{DOTTED, LinePlot, Series};

/// See [`LinePlot::thinned`].
pub(super) fn thinned(plot: &LinePlot) -> LinePlot {
    let points = || plot.series.iter().flat_map(Series::points);
    let shown = || points().filter(|p| plot.shows(p));
    let x = Scale::over(shown().map(|p| p[0]), plot.log_x, WIDTH * SCALE);
    let y = Scale::over(shown().map(|p| p[1]), plot.log_y, CURVES * SCALE);
    let series = plot.series.iter().map(|series| {
        let shown = series.points.iter().filter(|p| plot.shows(p));
        let points: Vec<[f64; 2]> = shown.copied().collect();
        let drawn: Vec<[f64; 2]> = points
            .iter()
            .map(|p| [x.drawn(p[0]), y.drawn(p[1])])
            .collect();
        let kept = farthest_first(&drawn).into_iter().map(|i| points[i]);
        Series {
            name: series.name.clone(),
            points: kept.map(|p| [x.rounded(p[0]), y.rounded(p[1])]).collect(),
        }
    });
    LinePlot {
        series: series.collect(),
        ..plot.clone()
    }
}

/// Converts values of an axis to drawing units.
struct Scale {
    from: f64,
    units: f64,
    log: bool,
    /// Decimals that show a ten-thousandth of a linear axis.
    decimals: i32,
}

impl Scale {
    fn over(values: impl Iterator<Item = f64>, log: bool, length: i32) -> Self {
        let scaled = values.map(|v| if log { v.log10() } else { v });
        let (low, high) = scaled.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v), high.max(v))
        });
        let range = match high - low {
            range if range > 0.0 => range,
            _ if high != 0.0 => high.abs(),
            _ => 1.0,
        };
        Self {
            from: low,
            units: f64::from(length) / range,
            log,
            decimals: 4 - range.log10().floor() as i32,
        }
    }

    fn drawn(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        (value - self.from) * self.units
    }

    /// Rounds to the visible digits.
    fn rounded(&self, value: f64) -> f64 {
        let text = if self.log {
            format!("{value:.4e}")
        } else {
            format!("{value:.*}", self.decimals.clamp(0, 17) as usize)
        };
        text.parse().unwrap_or(value)
    }
}

/// A stretch between two kept points, and the point within it that is farthest from their line.
struct Stretch {
    distance: f64,
    from: usize,
    farthest: usize,
    to: usize,
}

impl Stretch {
    fn between(points: &[[f64; 2]], from: usize, to: usize) -> Self {
        let (a, b) = (points[from], points[to]);
        let (mut distance, mut farthest) = (0.0, from);
        for (i, p) in points.iter().enumerate().take(to).skip(from + 1) {
            let d = from_segment(*p, a, b);
            if d > distance {
                (distance, farthest) = (d, i);
            }
        }
        // If all points are on the line, keep the middle one, if one must be kept.
        if farthest == from {
            farthest = (from + to) / 2;
        }
        Self {
            distance,
            from,
            farthest,
            to,
        }
    }
}

impl Ord for Stretch {
    fn cmp(&self, other: &Self) -> Ordering {
        // Among stretches with equal distances, the longer one, then the first.
        self.distance
            .total_cmp(&other.distance)
            .then((self.to - self.from).cmp(&(other.to - other.from)))
            .then(other.from.cmp(&self.from))
    }
}

impl PartialOrd for Stretch {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Stretch {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Stretch {}

/// The kept points, in ascending order.
fn farthest_first(points: &[[f64; 2]]) -> Vec<usize> {
    let count = points.len();
    if count <= DOTTED {
        return (0..count).collect();
    }
    let mut kept = vec![0, count - 1];
    let mut stretches = BinaryHeap::from([Stretch::between(points, 0, count - 1)]);
    while let Some(stretch) = stretches.pop() {
        // A drawing unit is a quarter of a CSS pixel.
        if stretch.distance <= 1.0 && kept.len() > DOTTED {
            break;
        }
        let Stretch {
            from, farthest, to, ..
        } = stretch;
        if from < farthest && farthest < to {
            kept.push(farthest);
            stretches.push(Stretch::between(points, from, farthest));
            stretches.push(Stretch::between(points, farthest, to));
        }
    }
    kept.sort_unstable();
    kept
}

/// The distance of a point from a segment.
fn from_segment(p: [f64; 2], a: [f64; 2], b: [f64; 2]) -> f64 {
    let (along, off) = ([b[0] - a[0], b[1] - a[1]], [p[0] - a[0], p[1] - a[1]]);
    let length = along[0] * along[0] + along[1] * along[1];
    let share = if length > 0.0 {
        ((along[0] * off[0] + along[1] * off[1]) / length).clamp(0.0, 1.0)
    } else {
        0.0
    };
    (off[0] - share * along[0]).hypot(off[1] - share * along[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(count: usize, f: impl Fn(f64) -> f64) -> LinePlot {
        let points = (1..=count).map(|i| [i as f64, f(i as f64)]);
        LinePlot::new("a curve", "x", "y").with_series(Series::new("f", points))
    }

    /// No point of the whole curve is farther than a quarter of a pixel (and what rounding adds) from the
    /// thinned one.
    #[test]
    fn a_thinned_curve_looks_the_same() {
        let wave = |x: f64| (x / 90.0).sin() + 0.2 * (x / 7.0).cos();
        let plots = [
            curve(2000, wave),
            curve(2000, |x| 1e-12 + (-x / 100.0).exp()).log_y(),
            curve(2000, |x| 1.0 / (x * x)).log_x().log_y(),
            curve(2000, |x| 1e6 + if x == 700.0 { 1.0 } else { 0.0 }),
        ];
        for whole in plots {
            let thin = whole.thinned();
            let (before, after) = (whole.series[0].points(), thin.series[0].points());
            assert!(after.len() < before.len() / 3, "{} of 2000", after.len());
            let x = Scale::over(before.iter().map(|p| p[0]), whole.log_x, WIDTH * SCALE);
            let y = Scale::over(before.iter().map(|p| p[1]), whole.log_y, CURVES * SCALE);
            let drawn = |p: &[f64; 2]| [x.drawn(p[0]), y.drawn(p[1])];
            for point in before {
                let distances = after
                    .windows(2)
                    .map(|w| from_segment(drawn(point), drawn(&w[0]), drawn(&w[1])));
                let nearest = distances.fold(f64::INFINITY, f64::min);
                assert!(nearest < 1.5, "{point:?} is {nearest} units away");
            }
        }
    }

    #[test]
    fn dots_are_neither_lost_nor_made() {
        let few = curve(DOTTED, |x| x).thinned();
        assert_eq!(few.series[0].points().len(), DOTTED);
        // A straight line needs two points, but with so few each would get a dot.
        let line = curve(500, |x| 3.0 * x).thinned();
        assert_eq!(line.series[0].points().len(), DOTTED + 1);
        assert!(
            line.series[0]
                .points()
                .windows(2)
                .all(|w| w[0][0] < w[1][0])
        );
        // Thinned once more it is the same.
        assert_eq!(line.thinned(), line);
    }

    #[test]
    fn what_an_axis_cannot_show_is_left_out_and_digits_are_few() {
        let plot = curve(3, |x| (x - 2.0) / 3.0).log_y().thinned();
        assert_eq!(plot.series[0].points(), [[3.0, 0.33333]]);
        let flat = curve(2, |_| 0.1 + 0.2).thinned();
        assert_eq!(flat.series[0].points(), [[1.0, 0.3], [2.0, 0.3]]);
        assert!(LinePlot::new("none", "x", "y").thinned().series.is_empty());
    }
}
