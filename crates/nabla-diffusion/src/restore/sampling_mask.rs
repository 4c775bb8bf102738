//! Which frequencies an MRI scan measures: patterns for simulations.
//!
//! Every pattern measures the middle whole, from which the coil maps can be estimated, and `1/acceleration` of all
//! frequencies.

use nabla_base::range;
use serde::{Deserialize, Serialize};

use super::operator::{OperatorError, check_sides};
use crate::seeded_noise::SeededNoise;

/// A pattern of measured frequencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplingPattern {
    /// Whole columns, evenly distributed at random.
    #[default]
    Uniform1d,
    /// Whole columns, more of them near the middle.
    Gaussian1d,
    /// Single frequencies, more of them near the middle.
    Gaussian2d,
    /// Single frequencies that keep a distance from each other, which grows towards the edge.
    Poisson,
}

/// The standard deviation of the Gaussian patterns, as a share of the side.
const DEVIATION: f64 = 0.2;

impl SamplingPattern {
    /// Whether each frequency is measured, row after row, the frequency 0 in the middle.
    ///
    /// - `sides`: `[height, width]`
    /// - `acceleration`: at least 1
    /// - `centre`: the share of each side that is measured whole, in `[0, 1]`
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn mask(
        self,
        sides: [usize; 2],
        acceleration: f64,
        centre: f64,
        seed: u64,
    ) -> Result<Vec<bool>, OperatorError> {
        check_sides(&sides)?;
        let fits = acceleration >= 1.0 && acceleration.is_finite();
        range::check(fits, "acceleration", acceleration, "at least 1 and finite")?;
        let fits = (0.0..=1.0).contains(&centre);
        range::check(fits, "share of the centre", centre, "in [0, 1]")?;
        let [height, width] = sides;
        let mut noise = SeededNoise::new(seed, 1);
        if matches!(self, Self::Uniform1d | Self::Gaussian1d) {
            let spread = (self == Self::Gaussian1d).then_some(DEVIATION);
            let columns = chosen(&mut noise, [1, width], acceleration, centre, spread);
            return Ok((0..height).flat_map(|_| columns.iter().copied()).collect());
        }
        if self == Self::Poisson {
            return Ok(poisson(&mut noise, sides, acceleration, centre));
        }
        Ok(chosen(
            &mut noise,
            sides,
            acceleration,
            centre,
            Some(DEVIATION),
        ))
    }
}

/// How far a place is from the middle of its axis, as a share of the side.
fn distance(i: usize, n: usize) -> f64 {
    match n {
        1 => 0.0,
        n => (i as f64 - (n / 2) as f64).abs() / n as f64,
    }
}

/// Whether the place is in the centre, which is measured whole.
fn is_central(i: usize, n: usize, centre: f64) -> bool {
    let side = (centre * n as f64).round() as usize;
    let first = n / 2 - (side / 2).min(n / 2);
    n == 1 || (first..first + side).contains(&i)
}

/// The centre, and so many other places that `1/acceleration` of all are chosen: those that arrive first if the
/// time of each is exponential and its rate the Gaussian density of the place.
fn chosen(
    noise: &mut SeededNoise,
    [height, width]: [usize; 2],
    acceleration: f64,
    centre: f64,
    spread: Option<f64>,
) -> Vec<bool> {
    let pixels = height * width;
    let wanted = ((pixels as f64 / acceleration).round() as usize).clamp(1, pixels);
    let drawn = noise.normal_values(2 * pixels);
    let mut order: Vec<(f64, usize)> = (0..pixels)
        .map(|place| {
            let (y, x) = (place / width, place % width);
            if is_central(y, height, centre) && is_central(x, width, centre) {
                return (f64::NEG_INFINITY, place);
            }
            let square = distance(y, height).powi(2) + distance(x, width).powi(2);
            let weight = spread.map_or(0.0, |s| -0.5 * square / (s * s));
            // The sum of the squares of two normal numbers is exponential.
            let square = drawn[2 * place].powi(2) + drawn[2 * place + 1].powi(2);
            (f64::from(square).ln() - weight, place)
        })
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let central = order
        .iter()
        .filter(|(time, _)| *time == f64::NEG_INFINITY)
        .count();
    let mut mask = vec![false; pixels];
    for &(_, place) in &order[..wanted.max(central)] {
        mask[place] = true;
    }
    mask
}

/// Dart throwing in a random order: a place is measured if no measured one is closer than its radius. The radius is
/// scaled until the number of places fits.
fn poisson(
    noise: &mut SeededNoise,
    [height, width]: [usize; 2],
    acceleration: f64,
    centre: f64,
) -> Vec<bool> {
    let pixels = height * width;
    let drawn = noise.normal_values(pixels);
    let mut order: Vec<usize> = (0..pixels).collect();
    order.sort_by(|&a, &b| drawn[a].total_cmp(&drawn[b]));
    let central = |place: usize| {
        is_central(place / width, height, centre) && is_central(place % width, width, centre)
    };
    let thrown = |scale: f64| {
        let mut mask: Vec<bool> = (0..pixels).map(central).collect();
        for &place in order.iter().filter(|&&place| !central(place)) {
            let (y, x) = (place / width, place % width);
            let away = distance(y, height).hypot(distance(x, width));
            let radius = scale * (0.3 + 2.0 * away);
            let reach = radius.ceil() as usize;
            let rows = y.saturating_sub(reach)..(y + reach + 1).min(height);
            let mut near = rows.flat_map(|b| {
                let columns = x.saturating_sub(reach)..(x + reach + 1).min(width);
                columns.map(move |a| (b, a))
            });
            let taken = near.any(|(b, a)| {
                let square = (b.abs_diff(y).pow(2) + a.abs_diff(x).pow(2)) as f64;
                mask[b * width + a] && square < radius * radius
            });
            mask[place] = !taken;
        }
        mask
    };
    let wanted = pixels as f64 / acceleration;
    let (mut low, mut high) = (0.0, 4.0 * acceleration.sqrt());
    for _ in 0..12 {
        let middle = 0.5 * (low + high);
        let count = thrown(middle).iter().filter(|m| **m).count() as f64;
        match count > wanted {
            true => low = middle,
            false => high = middle,
        }
    }
    thrown(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_has_its_centre_and_its_share() {
        for pattern in [
            SamplingPattern::Uniform1d,
            SamplingPattern::Gaussian1d,
            SamplingPattern::Gaussian2d,
            SamplingPattern::Poisson,
        ] {
            let (height, width) = (40, 48);
            let mask = pattern.mask([height, width], 4.0, 0.1, 3).unwrap();
            let share = mask.iter().filter(|m| **m).count() as f64 / mask.len() as f64;
            assert!((share - 0.25).abs() < 0.03, "{pattern:?}: {share}");
            for y in 19..22 {
                assert!((23..26).all(|x| mask[y * width + x]), "{pattern:?}");
            }
            assert_eq!(mask, pattern.mask([height, width], 4.0, 0.1, 3).unwrap());
            assert_ne!(mask, pattern.mask([height, width], 4.0, 0.1, 4).unwrap());
            // More in the inner half than in the outer one, unless the columns are even.
            let inner = |i: usize| distance(i % width, width) < 0.25;
            let inside = (0..mask.len()).filter(|&i| mask[i] && inner(i)).count();
            let outside = (0..mask.len()).filter(|&i| mask[i] && !inner(i)).count();
            if pattern != SamplingPattern::Uniform1d {
                assert!(inside > outside, "{pattern:?}");
            }
        }
        let told = SamplingPattern::Poisson
            .mask([4, 4], 0.5, 0.1, 0)
            .unwrap_err();
        assert!(told.to_string().contains("acceleration is 0.5"), "{told}");
    }
}
