//! Mean and spread, and the formatting of numbers.
//!
//! For the values `x_1 … x_n` of one cell, one per seed, the mean and the spread are
//!
//! ```text
//! mean = (1/n) Σ x_i        spread = sqrt( Σ (x_i − mean)² / (n − 1) )
//! ```
//!
//! so the spread is the sample standard deviation; a single seed has none.

use std::fmt;

/// Mean and spread of a cell's values over the seeds.
///
/// It is displayed as `28.130 ± 0.021`: the spread with two significant digits, the mean with as many
/// decimals. Values that are all the same, except for the rounding of the last bits, are displayed as one
/// number of at most five significant digits, without a spread: `0.1`. Small and large numbers share a power
/// of ten: `(1.500 ± 0.020)e-9`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The arithmetic mean.
    pub mean: f64,
    /// The sample standard deviation; `None` for fewer than two values.
    pub spread: Option<f64>,
}

/// The middle of values, or the mean of the two in the middle; not a number if there are none.
///
/// ```
/// use nabla_claims::median;
/// assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
/// assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
/// ```
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
    f64::midpoint(
        middle(sorted.len().saturating_sub(1) / 2),
        middle(sorted.len() / 2),
    )
}

/// A spread below this share of the mean is the rounding of the mean itself: three times 0.1, added and divided
/// by 3, is not 0.1.
const ROUNDING: f64 = 8.0 * f64::EPSILON;

impl Summary {
    /// Summarises `values`; `None` if there are none.
    ///
    /// ```
    /// use nabla_claims::Summary;
    /// let summary = Summary::of(&[1.0, 2.0, 3.0]).unwrap();
    /// assert_eq!((summary.mean, summary.spread), (2.0, Some(1.0)));
    /// ```
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        // Two passes: the one-pass form loses precision when the spread is small compared with the mean.
        let spread = (values.len() > 1).then(|| {
            (values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0)).sqrt()
        });
        Some(Self { mean, spread })
    }

    /// Whether the absolute mean is smaller than the spread. For [differences](crate::Table::difference) between two
    /// variants, this means that their means differ by less than the differences vary over the seeds. A single
    /// value has no spread, so it returns `false`.
    ///
    /// ```
    /// use nabla_claims::Summary;
    /// // Both have a spread of 1.
    /// assert!(Summary::of(&[-0.1, 0.9, 1.9]).is_some_and(|s| s.within_spread()));
    /// assert!(Summary::of(&[0.1, 1.1, 2.1]).is_some_and(|s| !s.within_spread()));
    /// ```
    pub fn within_spread(&self) -> bool {
        self.spread.is_some_and(|spread| self.mean.abs() < spread)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mean = self.mean;
        let spread = match self.spread {
            Some(spread) if spread.is_finite() && spread > ROUNDING * mean.abs() => spread,
            _ => return f.write_str(&plain(mean, 5)),
        };
        let size = mean.abs().max(spread);
        if (1e-3..1e6).contains(&size) {
            let (mean, spread) = beside(mean, spread);
            write!(f, "{mean} ± {spread}")
        } else {
            let power = size.log10().floor() as i32;
            let unit = 10f64.powi(power);
            let (mean, spread) = beside(mean / unit, spread / unit);
            write!(f, "({mean} ± {spread})e{power}")
        }
    }
}

/// A mean of a usual size and its spread, as text.
fn beside(mean: f64, spread: f64) -> (String, String) {
    // Digits of the mean beyond the seventh are meaningless, even if the spread is smaller.
    let decimals = decimals_for(spread, 2).min(decimals_for(mean.abs().max(spread), 7));
    let decimals = decimals.max(0) as usize;
    let written = format!("{spread:.decimals$}");
    // A spread below the last displayed decimal must not be displayed as 0.
    if written.bytes().all(|b| b == b'0' || b == b'.') {
        (plain(mean, 7), format!("{spread:.1e}"))
    } else {
        (format!("{mean:.decimals$}"), written)
    }
}

/// How many decimals show `digits` significant digits of `value`.
pub(crate) fn decimals_for(value: f64, digits: i32) -> i32 {
    if value == 0.0 || !value.is_finite() {
        return digits - 1;
    }
    digits - 1 - value.abs().log10().floor() as i32
}

/// `value` with `digits` significant digits, in scientific notation if it is very large or small.
pub(crate) fn significant(value: f64, digits: i32) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 {
            "∞".to_owned()
        } else {
            "−∞".to_owned()
        }
    } else if value != 0.0 && (value.abs() < 1e-4 || value.abs() >= 1e6) {
        format!("{value:.*e}", (digits - 1).max(0) as usize)
    } else {
        format!(
            "{value:.*}",
            decimals_for(value, digits).clamp(0, 12) as usize
        )
    }
}

/// `value` with at most `digits` significant digits: without the zeros at the end of its decimals.
pub(crate) fn plain(value: f64, digits: i32) -> String {
    let text = significant(value, digits);
    let (mantissa, exponent) = match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, format!("e{exponent}")),
        None => (text.as_str(), String::new()),
    };
    if mantissa.contains('.') {
        let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
        format!("{mantissa}{exponent}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_match_their_closed_forms() {
        // 1 … n has mean (n+1)/2 and sample variance n(n+1)/12.
        for n in [2_u32, 3, 7, 50] {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            let s = Summary::of(&values).unwrap();
            let n = f64::from(n);
            assert!((s.mean - (n + 1.0) / 2.0).abs() < 1e-12);
            assert!((s.spread.unwrap() - (n * (n + 1.0) / 12.0).sqrt()).abs() < 1e-12);
        }
        // A large offset must not cancel the spread away: 1e9 + {0, 1, 2} has spread 1.
        let s = Summary::of(&[1e9, 1e9 + 1.0, 1e9 + 2.0]).unwrap();
        assert_eq!((s.mean, s.spread), (1e9 + 1.0, Some(1.0)));
        assert_eq!(
            Summary::of(&[4.0]).unwrap(),
            Summary {
                mean: 4.0,
                spread: None
            }
        );
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn a_mean_is_within_the_spread_on_either_side_of_zero() {
        let within = |values: &[f64]| Summary::of(values).unwrap().within_spread();
        // The spread of {−1, 0, 1} is 1, also with a constant added.
        for (mean, inside) in [(0.0, true), (0.99, true), (1.01, false)] {
            for sign in [1.0, -1.0] {
                assert_eq!(within(&[-1.0, 0.0, 1.0].map(|x| x + sign * mean)), inside);
            }
        }
        // Equal values are not within their spread of 0, even if they are 0. One seed has no spread, nor has a
        // value that is not finite.
        assert!(!within(&[0.5; 3]) && !within(&[0.0; 3]) && !within(&[0.5]));
        assert!(!within(&[f64::NEG_INFINITY, -1.0, 1.0]) && !within(&[f64::NAN; 3]));
    }

    #[test]
    fn summaries_show_the_digits_that_the_spread_allows() {
        let show = |mean, spread| Summary { mean, spread }.to_string();
        assert_eq!(show(28.1303, Some(0.0213)), "28.130 ± 0.021");
        assert_eq!(show(28.1303, None), "28.13");
        assert_eq!(show(28.1347, None), "28.135");
        assert_eq!(show(1234.5, Some(321.0)), "1234 ± 321");
        assert_eq!(show(0.02237, Some(6.1e-6)), "0.0223700 ± 0.0000061");
        assert_eq!(show(30.0, Some(1e-7)), "30 ± 1.0e-7");
        assert_eq!(show(1.5e-9, Some(2e-11)), "(1.500 ± 0.020)e-9");
        assert_eq!(show(4.4e-5, Some(1.2e-5)), "(4.4 ± 1.2)e-5");
        assert_eq!(show(1e-7, Some(2.0e-3)), "0.0000 ± 0.0020");
        assert_eq!(show(12_345_678.0, Some(1234.0)), "(1.23457 ± 0.00012)e7");
        assert_eq!(show(f64::INFINITY, Some(f64::NAN)), "∞");
        assert_eq!(show(0.0, Some(0.0)), "0");
    }

    /// A value that is the same for every seed has no spread, and no digits of rounding.
    #[test]
    fn constants_read_as_they_were_given() {
        for (constant, text) in [
            (0.1, "0.1"),
            (0.001, "0.001"),
            (40.0, "40"),
            (100.0, "100"),
            (29.931_26, "29.931"),
            (2.5e-7, "2.5e-7"),
            (3e8, "3e8"),
            (-0.3, "-0.3"),
        ] {
            let shown = Summary::of(&[constant; 3]).unwrap().to_string();
            assert_eq!(shown, text);
            assert_eq!(Summary::of(&[constant]).unwrap().to_string(), text);
        }
        // A difference that is more than rounding shows.
        let shown = Summary::of(&[1.0, 1.0, 1.0 + 1e-9]).unwrap().to_string();
        assert_eq!(shown, "1 ± 5.8e-10");
    }
}
