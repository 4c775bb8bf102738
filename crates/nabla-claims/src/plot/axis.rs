//! Axes with round ticks.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;

use crate::summary::significant;

/// An axis, linear or logarithmic, with round ticks.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    range: Range<f64>,
    log: bool,
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// An axis over `values` (finite; positive if `log`) with a margin, and about `count` ticks.
    pub(super) fn over(values: impl Iterator<Item = f64>, log: bool, count: usize) -> Option<Self> {
        let scale = |x: f64| if log { x.log10() } else { x };
        let (lo, hi) = values
            .map(scale)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), x| {
                (lo.min(x), hi.max(x))
            });
        if lo > hi {
            return None;
        }
        let margin = if hi > lo {
            0.05 * (hi - lo)
        } else if log {
            0.1
        } else {
            // A single value: an axis a little around it.
            (0.01 * lo.abs()).max(1e-6)
        };
        let (lo, hi) = (lo - margin, hi + margin);
        if log {
            let ticks = log_ticks(lo, hi, count);
            Some(Self {
                range: 10f64.powf(lo)..10f64.powf(hi),
                log,
                ticks,
            })
        } else {
            Some(Self {
                range: lo..hi,
                log,
                ticks: round_ticks(lo, hi, count),
            })
        }
    }

    /// The labels of the ticks, all with the same number of decimals on a linear axis.
    pub(super) fn label(&self, value: f64) -> String {
        let largest = self.ticks.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        let step = self
            .ticks
            .windows(2)
            .map(|w| w[1] - w[0])
            .fold(f64::INFINITY, f64::min);
        if self.log {
            log_label(value)
        } else if step.is_finite() && largest < 1e5 && step >= 1e-5 {
            let decimals = (-step.log10() - 1e-9).ceil().clamp(0.0, 6.0) as usize;
            // A tick at zero may be off by rounding; it must not be printed as −0.
            let value = if value.abs() < step * 1e-6 {
                0.0
            } else {
                value
            };
            format!("{value:.decimals$}").replace('-', "−")
        } else {
            significant(value, 3)
        }
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let scale = |x: f64| if self.log { x.ln() } else { x };
        let linear = RangedCoordf64::from(scale(self.range.start)..scale(self.range.end));
        linear.map(&scale(*value), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Multiples of 1, 2 or 5 times a power of ten within `lo..=hi`, about `count` of them and at least two.
fn round_ticks(lo: f64, hi: f64, count: usize) -> Vec<f64> {
    let rough = (hi - lo) / count.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let steps = [10.0, 5.0, 2.0, 1.0, 0.5, 0.2].map(|m| m * power);
    let usual = steps.iter().rposition(|step| *step >= rough);
    // A single tick tells no scale, so where only one lies between the ends, the step is finer.
    for (finer, step) in steps[usual.unwrap_or(0)..].iter().enumerate() {
        let (first, last) = ((lo / step).ceil() as i64, (hi / step).floor() as i64);
        let ticks: Vec<f64> = (first..=last).map(|i| i as f64 * step).collect();
        if ticks.len() > 1 {
            // There is room for the labels of about `count`.
            let stride = if finer > 0 && ticks.len() > count + 1 {
                2
            } else {
                1
            };
            return ticks.into_iter().step_by(stride).collect();
        }
    }
    Vec::new()
}

/// Ticks for a logarithmic axis over the exponents `lo..=hi`: powers of ten where there are
/// enough, else their multiples by 2 and 5, else round values.
fn log_ticks(lo: f64, hi: f64, count: usize) -> Vec<f64> {
    let (first, last) = (lo.ceil() as i32, hi.floor() as i32);
    if last - first >= 2 {
        let stride = (last - first) as usize / count.max(1) + 1;
        return (first..=last)
            .step_by(stride)
            .map(|e| 10f64.powi(e))
            .collect();
    }
    let within = |x: &f64| (lo..=hi).contains(&x.log10());
    let ticks: Vec<f64> = (first - 1..=last)
        .flat_map(|e| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(e)))
        .filter(within)
        .collect();
    if ticks.len() >= 3 {
        ticks
    } else {
        round_ticks(10f64.powf(lo), 10f64.powf(hi), 4)
    }
}

fn log_label(value: f64) -> String {
    let exponent = value.log10();
    if (1e-3..1e5).contains(&(value * 1.000001)) {
        let decimals = (1.0 - exponent - 1e-9).ceil().clamp(0.0, 6.0) as usize;
        let text = format!("{value:.decimals$}");
        return if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        };
    }
    let power = (exponent + 1e-9).floor() as i32;
    let mantissa = value / 10f64.powi(power);
    let raised: String = power.to_string().chars().map(superscript).collect();
    if (mantissa - 1.0).abs() < 1e-6 {
        format!("10{raised}")
    } else {
        format!(
            "{}×10{raised}",
            significant(mantissa, 2).trim_end_matches(".0")
        )
    }
}

fn superscript(c: char) -> char {
    match c {
        '-' => '⁻',
        '0' => '⁰',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        other => other
            .to_digit(10)
            .and_then(|digit| char::from_u32('⁰' as u32 + digit))
            .unwrap_or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_range() {
        assert_eq!(round_ticks(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        // Two ticks at least, however they lie between the ends.
        assert_eq!(round_ticks(18.5, 21.2, 2), [19.0, 20.0, 21.0]);
        for start in 0..200 {
            for length in 1..50 {
                let lo = 0.37 * f64::from(start) - 31.0;
                let hi = lo + 0.113 * f64::from(length);
                let ticks = round_ticks(lo, hi, 2);
                assert!((2..=4).contains(&ticks.len()), "{lo} {hi} {ticks:?}");
            }
        }
        assert_eq!(log_ticks(-3.2, 1.1, 6), [1e-3, 1e-2, 1e-1, 1.0, 10.0]);
        let ticks = log_ticks(0.3, 0.9, 6); // 2.0 … 7.9
        assert!(
            ticks.len() >= 2 && ticks.iter().all(|t| (1.99..=7.95).contains(t)),
            "{ticks:?}"
        );
        assert_eq!(log_label(1e-4), "10⁻⁴");
        assert_eq!(log_label(0.02), "0.02");
        assert_eq!(log_label(2e7), "2×10⁷");
        assert_eq!(log_label(1000.0), "1000");
    }
}
