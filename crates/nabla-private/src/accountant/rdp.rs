//! Rényi differential privacy of the Poisson-subsampled Gaussian mechanism, by its exact series.
//!
//! For the order `α > 1`, noise multiplier `σ` and rate `q`, a step has the Rényi divergence
//!
//! ```text
//! ρ(α) = ln A(α)/(α − 1),    A(α) = E_{z ~ N(0, σ²)} (1 − q + q e^{(2z − 1)/(2σ²)})^α
//! ```
//!
//! that of the other direction (an example added instead of removed) is never larger. The divergences of steps of the
//! same order add up. For an integer order,
//!
//! ```text
//! A(α) − 1 = Σ_{k=2}^α C(α, k) (1 − q)^{α−k} q^k (e^{k(k−1)/(2σ²)} − 1)
//! ```
//!
//! where the terms of `k = 0, 1` vanish and nothing cancels. For a fractional one, the expectation is split at
//! `z₀ = ½ + σ² ln(1/q − 1)`, where both terms of the sum are equal, and each side has its own binomial series. With
//! `j = α − i`,
//!
//! ```text
//! A(α) = Σ_{i≥0} C(α, i) [ (1 − q)^j q^i e^{i(i−1)/(2σ²)} ½ erfc((i − z₀)/(√2 σ))
//!                        + (1 − q)^i q^j e^{j(j−1)/(2σ²)} ½ erfc((z₀ − j)/(√2 σ)) ]
//! ```
//!
//! Beyond `i = α` the sign of `C(α, i)` alternates. (dp-accounting 0.6 adds all terms with a plus sign, which is an
//! upper bound, and for large rates none for the lowest orders.) Where it is broken off, the rest is added as a geometric series:
//! the error is below the rounding.
//!
//! For every order, with `ρ` the sum over all steps,
//!
//! ```text
//! ε(δ) = ρ + ln(1 − 1/α) − ln(δα)/(α − 1)
//! ln δ(ε) = (α − 1)(ρ − ε + ln(1 − 1/α)) − ln α
//! ```
//!
//! and the answer is the least over the orders. Besides, `δ(0)` is the total variation, which is at most
//! `√(1 − e^{−ρ})` for every `ρ`: what reveals nearly nothing has `ε = 0`.
//!
//! Sources: Mironov, Talwar, Zhang, *Rényi Differential Privacy of the Sampled Gaussian Mechanism*, 2019, arXiv
//! 1908.10530, section 3.3; Mironov, *Rényi Differential Privacy*, 2017, arXiv 1702.07476 (composition); Canonne, Kamath,
//! Steinke, *The Discrete Gaussian for Differential Privacy*, 2020, arXiv 2004.00010, Proposition 12 (conversion);
//! Bretagnolle, Huber, *Estimation des densités: risque minimax*, 1979 (total variation).

use std::f64::consts::SQRT_2;

use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

use super::log_sum::LogSum;
use super::normal::log_erfc;
use super::{AccountError, Accountant, Epsilon, History, Phase, check_delta, check_epsilon};

/// The accountant `rdp`; see the [module](self).
///
/// ```
/// use nabla_private::accountant::rdp::Rdp;
/// use nabla_private::accountant::{Accountant, History};
///
/// let history = History::new().with(1.1, 0.01, 10_000)?;
/// let spent = Rdp::default().epsilon(&history, 1e-5)?;
/// assert!((5.0..7.0).contains(&spent.epsilon));
/// assert_eq!(spent.order, Some(4.7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rdp {
    /// The orders that are tried, each greater than 1. Default 1.1 to 10.9 by 0.1, 11 to 64, 128, 256, 512
    /// and 1024.
    pub orders: Vec<f64>,
}

impl Default for Rdp {
    fn default() -> Self {
        // Tenths of integers, which are the numbers closest to 1.1, 1.2 ...
        let low = (11..110).map(|tenths| f64::from(tenths) / 10.0);
        let high = (11..=64).chain([128, 256, 512, 1024]).map(f64::from);
        Self {
            orders: low.chain(high).collect(),
        }
    }
}

/// The highest order: the sum of an integer order has as many terms.
const HIGHEST: f64 = 1e6;

impl Rdp {
    /// The Rényi divergence of everything that was done, for each order.
    ///
    /// # Errors
    /// If an order is not greater than 1, or is greater than 10⁶.
    pub fn divergences(&self, history: &History) -> Result<Vec<[f64; 2]>, OutOfRange> {
        range::at_least("number of orders", self.orders.len(), 1)?;
        let of_order = |&order: &f64| {
            range::check(
                order > 1.0 && order <= HIGHEST,
                "order",
                order,
                "greater than 1 and at most 1000000",
            )?;
            let phases = history.phases().iter();
            let total = phases.map(|phase| phase.steps() as f64 * divergence(phase, order));
            Ok([order, total.sum()])
        };
        self.orders.iter().map(of_order).collect()
    }
}

impl Accountant for Rdp {
    fn name(&self) -> &'static str {
        "rdp"
    }

    fn epsilon(&self, history: &History, delta: f64) -> Result<Epsilon, AccountError> {
        check_delta(delta)?;
        let mut least = Epsilon::at_most(f64::INFINITY);
        for [order, divergence] in self.divergences(history)? {
            let hidden = total_variation(divergence) <= delta;
            let epsilon = match hidden {
                true => 0.0,
                false => {
                    let tail = (delta.ln() + order.ln()) / (order - 1.0);
                    (divergence + (-1.0 / order).ln_1p() - tail).max(0.0)
                }
            };
            if epsilon < least.epsilon {
                least = Epsilon {
                    order: Some(order),
                    ..Epsilon::at_most(epsilon)
                };
            }
        }
        Ok(least)
    }

    fn delta(&self, history: &History, epsilon: f64) -> Result<f64, AccountError> {
        check_epsilon(epsilon)?;
        let of_order = |[order, divergence]: [f64; 2]| {
            let excess = divergence - epsilon + (-1.0 / order).ln_1p();
            let tail = ((order - 1.0) * excess - order.ln()).exp();
            tail.min(total_variation(divergence))
        };
        let deltas = self.divergences(history)?.into_iter().map(of_order);
        Ok(deltas.fold(1.0, f64::min))
    }
}

/// The largest total variation that a divergence allows.
fn total_variation(divergence: f64) -> f64 {
    (-(-divergence).exp_m1()).sqrt()
}

/// The Rényi divergence of one step.
fn divergence(phase: &Phase, order: f64) -> f64 {
    let (noise, rate) = (phase.noise_multiplier(), phase.sampling_rate());
    if rate == 1.0 {
        return order / (2.0 * noise * noise);
    }
    let log_moment = match order.fract() == 0.0 {
        true => integer_log_moment(noise, rate, order),
        false => fractional_log_moment(noise, rate, order),
    };
    // A divergence near 0 may be rounded below it.
    (log_moment / (order - 1.0)).max(0.0)
}

/// `ln A(α)` of an integer order.
fn integer_log_moment(noise: f64, rate: f64, order: f64) -> f64 {
    let (log_rate, log_rest) = (rate.ln(), (-rate).ln_1p());
    let mut log_binomial = order.ln();
    let mut excess = LogSum::default();
    for k in 2..=order as u64 {
        let k = k as f64;
        log_binomial += ((order - k + 1.0) / k).ln();
        let exponent = k * (k - 1.0) / (2.0 * noise * noise);
        let log_growth = exponent + (-(-exponent).exp()).ln_1p();
        // Where the exponent is tiny, 1 − e^{−x} has lost its digits, and x is exact.
        let log_growth = match exponent < 1.0 {
            true => exponent.exp_m1().ln(),
            false => log_growth,
        };
        excess.add(log_binomial + k * log_rate + (order - k) * log_rest + log_growth);
    }
    log_1p_exp(excess.log())
}

/// The terms of a fractional order that are added at most. With a rate of ½ and the order 1.1, 20,000 suffice.
const MOST_TERMS: u32 = 1_000_000;

/// The change from the last term to the one after it, below which the series is broken off.
const NEGLIGIBLE: f64 = 1e-17;

/// `ln A(α)` of a fractional order.
fn fractional_log_moment(noise: f64, rate: f64, order: f64) -> f64 {
    let (log_rate, log_rest) = (rate.ln(), (-rate).ln_1p());
    let split = 0.5 + noise * noise * (log_rest - log_rate);
    let scale = SQRT_2 * noise;
    let (mut positive, mut negative) = (LogSum::default(), LogSum::default());
    let (mut log_binomial, mut sign) = (0.0, 1.0);
    let mut previous = f64::NEG_INFINITY;
    for i in 0..MOST_TERMS {
        let i = f64::from(i);
        let j = order - i;
        let growth = |k: f64| k * (k - 1.0) / (2.0 * noise * noise);
        let left = j * log_rest + i * log_rate + growth(i) + log_erfc((i - split) / scale);
        let right = i * log_rest + j * log_rate + growth(j) + log_erfc((split - j) / scale);
        let mut term = LogSum::default();
        [left, right].into_iter().for_each(|side| term.add(side));
        let term = log_binomial + term.log() - 2_f64.ln();
        let ratio = (term - previous).exp();
        previous = term;
        let change = term + (1.0 - ratio).max(0.0).ln() - positive.log();
        let last = i > order + 1.0 && ratio < 1.0 && change < NEGLIGIBLE.ln();
        let counted = match last {
            // The rest alternates, and its ratio hardly changes.
            true => term - ratio.ln_1p(),
            false => term,
        };
        match sign > 0.0 {
            true => positive.add(counted),
            false => negative.add(counted),
        }
        if last {
            break;
        }
        let factor = j / (i + 1.0);
        log_binomial += factor.abs().ln();
        sign *= factor.signum();
    }
    let cancelled = (-(negative.log() - positive.log()).exp()).ln_1p();
    // The largest terms are about 1, and many steps would add up what is rounded off.
    positive.log() + cancelled + 16.0 * f64::EPSILON
}

/// `ln(1 + e^x)`.
pub(crate) fn log_1p_exp(x: f64) -> f64 {
    match x > 0.0 {
        true => x + (-x).exp().ln_1p(),
        false => x.exp().ln_1p(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(noise: f64, rate: f64, order: f64) -> f64 {
        divergence(&Phase::new(noise, rate, 1).unwrap(), order)
    }

    #[test]
    fn fractional_orders_are_exact() {
        // Quadrature with 30 digits (mpmath). dp-accounting has .00108878587745 and .0469485.
        let found = at(0.7, 0.01, 2.8);
        assert!((found - 0.001_084_543_053_42).abs() < 1e-14, "{found}");
        let found = at(1.5, 0.25, 2.5);
        assert!((found - 0.045_366_514_084_5).abs() < 1e-13, "{found}");
    }

    #[test]
    fn both_series_meet_at_the_integers() {
        for noise in [0.5, 1.0, 3.0] {
            for rate in [1e-4, 0.01, 0.3, 0.5, 0.9, 0.999] {
                for order in [2.0, 3.0, 7.0, 20.0] {
                    let exact = at(noise, rate, order);
                    let beside = [at(noise, rate, order - 1e-9), at(noise, rate, order + 1e-9)];
                    for near in beside {
                        let bound = 1e-7 * exact + 1e-14;
                        assert!(
                            (near - exact).abs() < bound,
                            "{noise} {rate} {order} {near} {exact}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_lost_where_the_divergence_is_tiny() {
        // To first order in q², ρ = α q² (e^{1/σ²} − 1)/2.
        for (noise, rate) in [(1.0, 1e-9), (1000.0, 1e-6)] {
            for order in [2.0, 32.0] {
                let expected = 0.5 * order * rate * rate * f64::exp_m1(1.0 / (noise * noise));
                let found = at(noise, rate, order);
                assert!(
                    (found / expected - 1.0).abs() < 1e-4,
                    "{noise} {rate} {found}"
                );
            }
        }
    }

    #[test]
    fn orders_are_checked() {
        let history = History::new().with(1.0, 0.1, 1).unwrap();
        for orders in [vec![], vec![1.0], vec![2.0, f64::NAN], vec![1e9]] {
            assert!(Rdp { orders }.epsilon(&history, 1e-5).is_err());
        }
    }
}
