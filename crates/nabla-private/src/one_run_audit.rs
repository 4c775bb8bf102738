//! An audit of a private training in one run: at least how much it reveals.
//!
//! An accountant says what a training reveals at most, if the theory holds and the program is right. An audit finds out
//! from outside what it reveals at least. Of `m` canaries, examples that are made for it, each takes part or not by the
//! flip of a coin. From what the training released, the auditor guesses for `r` of them, the most and the least
//! conspicuous ones, whether they took part, and counts the right guesses `v`. If the training is `(ε, δ)`-private, each
//! guess is right with probability at most `e^ε/(1 + e^ε)`, whatever the others are, up to `δ`:
//!
//! ```text
//! P(right ≥ v) ≤ β + 2 m δ max_{1≤i≤v} P(v − i ≤ B < v)/i,     β = P(B ≥ v),   B ~ Binomial(r, e^ε/(1 + e^ε))
//! ```
//!
//! The lower bound is the greatest `ε` for which this is at most 1 less the confidence: a training with that `ε` or a
//! smaller one would hardly have been guessed so well. An `ε` below it is refuted, a higher one is not confirmed.
//!
//! Source: Steinke, Nasr, Jagielski, *Privacy Auditing with One (1) Training Run*, 2023, arXiv 2305.08846, theorem 5.2.

use libm::lgamma;
use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

use crate::accountant::bisection::bisect;
use crate::accountant::rdp::log_1p_exp;

/// `ln P(B = k)` for `B ~ Binomial(r, q)` with `ln q` and `ln(1 − q)`.
fn ln_binomial(r: u64, k: u64, ln_q: f64, ln_rest: f64) -> f64 {
    let of = |n: u64| lgamma(n as f64 + 1.0);
    of(r) - of(k) - of(r - k) + k as f64 * ln_q + (r - k) as f64 * ln_rest
}

/// At most how probable it is that `right` or more of `guesses` guesses about `canaries` canaries are right, if the
/// training is `(ε, δ)`-private.
///
/// # Errors
/// If there are more right guesses than guesses or more guesses than canaries, `ε` is negative, or `δ` is not in
/// `[0, 1]`.
pub fn p_value(
    canaries: u64,
    guesses: u64,
    right: u64,
    epsilon: f64,
    delta: f64,
) -> Result<f64, OutOfRange> {
    range::within("number of guesses", guesses, 0..=canaries)?;
    range::within("number of right guesses", right, 0..=guesses)?;
    range::not_negative("epsilon", epsilon)?;
    range::within("delta", delta, 0.0..=1.0)?;
    Ok(bound(canaries, guesses, right, epsilon, delta))
}

/// [`p_value`] of numbers that are in range.
fn bound(canaries: u64, guesses: u64, right: u64, epsilon: f64, delta: f64) -> f64 {
    // q = e^ε/(1 + e^ε), without overflow.
    let [ln_rest, ln_q] = [epsilon, -epsilon].map(|x| -log_1p_exp(x));
    let probability = |k: u64| ln_binomial(guesses, k, ln_q, ln_rest).exp();
    let beta: f64 = (right..=guesses).map(probability).sum();
    let (mut below, mut highest) = (0.0, 0.0);
    for i in 1..=right {
        below += probability(right - i);
        highest = f64::max(highest, below / i as f64);
    }
    (beta + 2.0 * canaries as f64 * delta * highest).min(1.0)
}

/// The lower bound of `ε` at a confidence.
///
/// - `right`, of `guesses`, about `canaries`
/// - `confidence`: 0.95 is usual
///
/// # Errors
/// As [`p_value`], or if the confidence is not between 0 and 1.
///
/// ```
/// use nabla_private::one_run_audit::epsilon_at_least;
///
/// // All of 100 guesses about 1000 canaries were right.
/// let bound = epsilon_at_least(1000, 100, 100, 1e-5, 0.95)?;
/// assert!(bound > 3.4 && bound < 3.5);
/// // Half of them: nothing is known.
/// assert_eq!(epsilon_at_least(1000, 100, 50, 1e-5, 0.95)?, 0.0);
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
pub fn epsilon_at_least(
    canaries: u64,
    guesses: u64,
    right: u64,
    delta: f64,
    confidence: f64,
) -> Result<f64, OutOfRange> {
    range::between("confidence", confidence, 0.0, 1.0)?;
    if p_value(canaries, guesses, right, 0.0, delta)? > 1.0 - confidence {
        return Ok(0.0);
    }
    // No number of guesses refutes more than a hundred.
    let refuted = |epsilon| bound(canaries, guesses, right, epsilon, delta) <= 1.0 - confidence;
    let [_, highest] = bisect([100.0, 0.0], refuted);
    Ok(highest)
}

/// What an audit found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// The lower bound of `ε`.
    pub epsilon: f64,
    /// Canaries.
    pub canaries: u64,
    /// Guesses about them.
    pub guesses: u64,
    /// Right ones.
    pub right: u64,
}

/// Guesses that the canaries of the highest scores took part and those of the lowest did not, and says what follows.
/// The number of guesses is chosen from a few, `m/2ᵏ`, and the confidence shared among them (the union bound), so that
/// the best of them may be taken.
///
/// - `scores`: how conspicuous each canary is
/// - `included`: whether it took part
///
/// # Errors
/// If there are no canaries, or `δ` or the confidence is out of range.
pub fn audit(
    scores: &[f64],
    included: &[bool],
    delta: f64,
    confidence: f64,
) -> Result<Audit, OutOfRange> {
    let mut order: Vec<usize> = (0..scores.len().min(included.len())).collect();
    range::at_least("number of canaries", order.len(), 2)?;
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let halves: Vec<usize> = (0..)
        .map(|k| (order.len() / 2) >> k)
        .take_while(|&half| half >= 5 || half == order.len() / 2)
        .collect();
    let share = (1.0 - confidence) / halves.len() as f64;
    let mut best = Audit {
        epsilon: 0.0,
        canaries: order.len() as u64,
        guesses: 0,
        right: 0,
    };
    for half in halves {
        let ahead = order[..half].iter().filter(|&&i| included[i]).count();
        let behind = order[order.len() - half..].iter();
        let right = (ahead + behind.filter(|&&i| !included[i]).count()) as u64;
        let (canaries, guesses) = (best.canaries, 2 * half as u64);
        let epsilon = epsilon_at_least(canaries, guesses, right, delta, 1.0 - share)?;
        if epsilon > best.epsilon || best.guesses == 0 {
            best = Audit {
                epsilon,
                canaries,
                guesses,
                right,
            };
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Without `δ`: all right guesses of `r` refute `ε` when `q^r` is the error: by hand.
    #[test]
    fn all_right_guesses_refute_what_the_closed_form_says() {
        for guesses in [1_u64, 10, 1000] {
            let bound = epsilon_at_least(guesses, guesses, guesses, 0.0, 0.95).unwrap();
            let q = 0.05_f64.powf(1.0 / guesses as f64);
            let expected = (q / (1.0 - q)).ln().max(0.0);
            assert!(
                (bound - expected).abs() < 1e-9,
                "{guesses}: {bound} {expected}"
            );
        }
    }

    #[test]
    fn more_right_guesses_refute_more_and_delta_costs() {
        let bound = |right, delta| epsilon_at_least(1000, 200, right, delta, 0.95).unwrap();
        let mut last = 0.0;
        for right in (100..=200).step_by(10) {
            let found = bound(right, 1e-5);
            assert!(found >= last && found <= bound(right, 0.0));
            last = found;
        }
        assert!(last > 4.0);
        assert_eq!(bound(100, 1e-5), 0.0);
    }

    /// Randomised response is private with exactly `ε`: the bound is below that as often as the confidence says.
    #[test]
    fn randomised_response_is_not_refuted_but_almost() {
        let epsilon = 1.5_f64;
        let truth = epsilon.exp() / (1.0 + epsilon.exp());
        let mut draw = ChaCha8Rng::seed_from_u64(1);
        let (mut above, mut sum, runs) = (0, 0.0, 200);
        for _ in 0..runs {
            let included: Vec<bool> = (0..2000).map(|_| draw.random_bool(0.5)).collect();
            let scores: Vec<f64> = included
                .iter()
                .map(|&i| {
                    f64::from(u8::from(i == draw.random_bool(truth))) + 1e-9 * draw.random::<f64>()
                })
                .collect();
            let found = audit(&scores, &included, 0.0, 0.95).unwrap();
            above += usize::from(found.epsilon > epsilon);
            sum += found.epsilon;
        }
        // 5 %, and three standard errors.
        assert!(above <= 20, "{above}");
        assert!(sum / f64::from(runs) > 1.2, "{}", sum / f64::from(runs));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert!(p_value(10, 11, 0, 1.0, 0.0).is_err());
        assert!(p_value(10, 10, 11, 1.0, 0.0).is_err());
        assert!(p_value(10, 10, 5, -1.0, 0.0).is_err());
        assert!(p_value(10, 10, 5, 1.0, 2.0).is_err());
        assert!(epsilon_at_least(10, 10, 5, 0.0, 1.0).is_err());
        assert!(audit(&[], &[], 0.0, 0.95).is_err());
        assert!(audit(&[1.0, 2.0], &[true], 0.0, 0.95).is_err());
    }
}
