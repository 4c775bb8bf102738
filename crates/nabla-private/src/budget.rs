//! The noise that a budget needs.
//!
//! A training is planned with a budget `(ε, δ)`; its noise multipliers follow from the number of steps. If a step is
//! one mechanism, there is one of them, which [`calibrate`](crate::accountant::calibrate) finds. If it is two, they
//! share the budget so that the noise is least.

use crate::accountant::calibrate::least;
use crate::accountant::rdp::Rdp;
use crate::accountant::{AccountError, Accountant, History};

/// The budget of a training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// `ε`.
    pub epsilon: f64,
    /// `δ`.
    pub delta: f64,
}

/// The two noise multipliers of least noise if a step is a subsampled mechanism and one that sees everything.
///
/// - `rate`, `steps`: of the first; the second has the rate 1
/// - `second`: the sensitivity of the second in multiples of that of the first; what is least is the sum of squares of
///   both noises
///
/// # Errors
/// As [`least`].
pub fn two_multipliers(
    accountant: &dyn Accountant,
    budget: Budget,
    rate: f64,
    steps: u64,
    second: f64,
) -> Result<[f64; 2], AccountError> {
    let rdp = Rdp::default();
    let history = |[z, y]: [f64; 2]| History::new().with(z, rate, steps)?.with(y, 1.0, steps);
    // With the ratio y/z of the multipliers, the budget gives their scale.
    let scale = |accountant: &dyn Accountant, ratio: f64| {
        least(accountant, budget.epsilon, budget.delta, |z| {
            history([z, z * ratio])
        })
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
            let found = least(accountant.as_ref(), 3.0, 1e-5, history).unwrap();
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
                let z = least(accountant.as_ref(), 3.0, 1e-5, |z| history([z, z * ratio])).unwrap();
                assert!(
                    noise([z, z * ratio]) >= noise(found) * (1.0 - 1e-3),
                    "{second} {factor}"
                );
            }
        }
    }
}
