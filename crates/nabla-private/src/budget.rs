//! The noise that a budget needs.
//!
//! A training is planned with a budget `(ε, δ)`; its noise multipliers follow from the number of steps. If a step is
//! one mechanism, there is one of them, which [`calibrate`](crate::accountant::calibrate) finds. If it is several, they
//! share the budget.

use crate::accountant::{AccountError, Accountant, History};
use nabla_base::OutOfRange;

/// The budget of a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// `ε`.
    pub epsilon: f64,
    /// `δ`.
    pub delta: f64,
}

/// The least scale of noise whose history keeps the budget, up to a relative 1e-4.
///
/// - `history`: what is revealed with a scale; a larger scale reveals less
///
/// # Errors
/// If no scale up to 1e6 is enough, or the accountant can't judge the history.
pub fn least_scale(
    accountant: &dyn Accountant,
    budget: Budget,
    history: impl Fn(f64) -> Result<History, OutOfRange>,
) -> Result<f64, AccountError> {
    let reveals = |scale: f64| -> Result<f64, AccountError> {
        Ok(accountant.epsilon(&history(scale)?, budget.delta)?.epsilon)
    };
    let (mut low, mut high) = (1.0, 1.0);
    while reveals(high)? > budget.epsilon {
        low = high;
        high *= 2.0;
        if high > 1e6 {
            return Err(AccountError::Unreachable {
                epsilon: budget.epsilon,
                reached: reveals(low)?,
                noise: low,
                accountant: accountant.name(),
            });
        }
    }
    // The noise of a scale may become too small to be counted.
    while low > 1e-3 && reveals(low).is_ok_and(|epsilon| epsilon <= budget.epsilon) {
        high = low;
        low /= 2.0;
    }
    while high > low * (1.0 + 1e-4) {
        let middle = (low * high).sqrt();
        match reveals(middle) {
            Ok(epsilon) if epsilon <= budget.epsilon => high = middle,
            _ => low = middle,
        }
    }
    Ok(high)
}

/// The two noise multipliers of least noise if a step is a subsampled mechanism and one that sees everything.
///
/// - `rate`, `steps`: of the first; the second has the rate 1
/// - `second`: the sensitivity of the second in multiples of that of the first; what is least is the sum of squares of
///   both noises
///
/// # Errors
/// As [`least_scale`].
pub fn two_multipliers(
    accountant: &dyn Accountant,
    budget: Budget,
    rate: f64,
    steps: u64,
    second: f64,
) -> Result<[f64; 2], AccountError> {
    let rdp = crate::accountant::rdp::Rdp::default();
    let history = |[z, y]: [f64; 2]| History::new().with(z, rate, steps)?.with(y, 1.0, steps);
    // With the ratio y/z of the multipliers, the budget gives their scale.
    let scale = |accountant: &dyn Accountant, ratio: f64| {
        least_scale(accountant, budget, |z| history([z, z * ratio]))
    };
    let noise = |ratio: f64| -> Result<f64, AccountError> {
        Ok((scale(&rdp, ratio)? * (ratio * second).hypot(1.0)).ln())
    };
    // The noise has one minimum; the fast accountant finds it.
    let (mut low, mut high) = (-6.0_f64, 9.0_f64);
    while high - low > 1e-2 {
        let third = (high - low) / 3.0;
        let [a, b] = [low + third, high - third];
        if noise(a.exp())? < noise(b.exp())? {
            high = b;
        } else {
            low = a;
        }
    }
    let ratio = (0.5 * (low + high)).exp();
    let z = scale(accountant, ratio)?;
    Ok([z, z * ratio])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accountant::accountants;

    const BUDGET: Budget = Budget {
        epsilon: 3.0,
        delta: 1e-5,
    };

    #[test]
    fn the_least_scale_keeps_the_budget_and_a_smaller_one_does_not() {
        for name in ["rdp", "pld"] {
            let accountant = accountants().get(name).unwrap();
            let history = |scale| History::new().with(scale, 0.05, 200);
            let found = least_scale(accountant.as_ref(), BUDGET, history).unwrap();
            let spent = |scale| {
                let history = history(scale).unwrap();
                accountant.epsilon(&history, BUDGET.delta).unwrap().epsilon
            };
            assert!(
                spent(found) <= 3.0 && spent(0.999 * found) > 3.0,
                "{name}: {found}"
            );
        }
    }

    #[test]
    fn two_mechanisms_share_a_budget_with_the_least_noise() {
        let accountant = accountants().get("rdp").unwrap();
        let (rate, steps) = (0.05, 200);
        for second in [0.01, 1.0, 100.0] {
            let found = two_multipliers(accountant.as_ref(), BUDGET, rate, steps, second).unwrap();
            let noise = |[z, y]: [f64; 2]| z.hypot(y * second);
            let history =
                |[z, y]: [f64; 2]| History::new().with(z, rate, steps)?.with(y, 1.0, steps);
            let spent = accountant
                .epsilon(&history(found).unwrap(), BUDGET.delta)
                .unwrap();
            assert!(spent.epsilon <= 3.0 && spent.epsilon > 2.99);
            for factor in [0.8, 1.25] {
                let ratio = factor * found[1] / found[0];
                let z =
                    least_scale(accountant.as_ref(), BUDGET, |z| history([z, z * ratio])).unwrap();
                assert!(
                    noise([z, z * ratio]) >= noise(found) * (1.0 - 1e-3),
                    "{second} {factor}"
                );
            }
        }
    }
}
