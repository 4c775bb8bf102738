//! How fast a sequence falls: the slope of its logarithm by least squares.
//!
//! An error `e(t) = c t^p` is a line of slope `p` over `log t` ([`power_rate`]), and `e(t) = c exp(r t)` is
//! one of slope `r` over `t` ([`exponential_rate`]). Both need a window of `t` after the initial phase and
//! before the rounding floor.

/// A fitted line of `log e`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateFit {
    /// The slope: the power `p`, or the rate `r` per step; negative if the error falls.
    pub rate: f64,
    /// The share of the variance of `log e` that the line explains, in `[0, 1]`.
    pub explained: f64,
}

/// The power `p` of `e(t) = c t^p`, from `(t, e)` pairs; `None` if fewer than two of them have `t > 0` and `e
/// > 0`, or if all have the same `t`.
///
/// ```
/// use nabla_base::rate_fit::power_rate;
/// let errors = (1..100).map(|t| (t as f64, 3.0 / (t * t) as f64));
/// let fit = power_rate(errors).unwrap();
/// assert!((fit.rate + 2.0).abs() < 1e-12 && fit.explained > 0.999_999);
/// ```
pub fn power_rate(errors: impl IntoIterator<Item = (f64, f64)>) -> Option<RateFit> {
    let points = errors.into_iter().filter(|&(t, _)| t > 0.0);
    line(points.map(|(t, e)| (t.ln(), e)))
}

/// The rate `r` of `e(t) = c exp(r t)`, like [`power_rate`].
///
/// ```
/// use nabla_base::rate_fit::exponential_rate;
/// let errors = (0..100).map(|t| (t as f64, 3.0 * (-0.25 * t as f64).exp()));
/// assert!((exponential_rate(errors).unwrap().rate + 0.25).abs() < 1e-12);
/// ```
pub fn exponential_rate(errors: impl IntoIterator<Item = (f64, f64)>) -> Option<RateFit> {
    line(errors)
}

fn line(points: impl IntoIterator<Item = (f64, f64)>) -> Option<RateFit> {
    let points: Vec<(f64, f64)> = points
        .into_iter()
        .filter(|&(x, e)| x.is_finite() && e > 0.0 && e.is_finite())
        .map(|(x, e)| (x, e.ln()))
        .collect();
    let n = points.len() as f64;
    let mean = |part: fn(&(f64, f64)) -> f64| points.iter().map(part).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let sum =
        |f: &dyn Fn(f64, f64) -> f64| -> f64 { points.iter().map(|&(a, b)| f(a - x, b - y)).sum() };
    let (xx, xy, yy) = (sum(&|a, _| a * a), sum(&|a, b| a * b), sum(&|_, b| b * b));
    (points.len() >= 2 && xx > 0.0).then(|| RateFit {
        rate: xy / xx,
        explained: if yy > 0.0 { xy * xy / (xx * yy) } else { 1.0 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_gives_nothing() {
        assert_eq!(power_rate([]), None);
        assert_eq!(power_rate([(1.0, 2.0)]), None);
        assert_eq!(power_rate([(0.0, 2.0), (1.0, 2.0)]), None);
        assert_eq!(exponential_rate([(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(
            exponential_rate([(1.0, 0.0), (2.0, f64::NAN), (3.0, 1.0)]),
            None
        );
    }

    #[test]
    fn what_is_no_line_is_explained_less() {
        let power = |t: f64| 1.0 / (t * t);
        let points = || (1..200).map(|t| (f64::from(t), power(f64::from(t))));
        assert!(power_rate(points()).unwrap().explained > 0.999);
        assert!(exponential_rate(points()).unwrap().explained < 0.8);
        assert_eq!(
            exponential_rate([(0.0, 5.0), (1.0, 5.0)])
                .unwrap()
                .explained,
            1.0
        );
    }
}
