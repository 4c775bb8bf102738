//! The least noise for a budget.
//!
//! An accountant's `ε` decreases with the noise multiplier, so the least noise that keeps to a budget lies where `ε` is
//! the budget. It is enclosed between a noise that is too little and one that is enough: by powers of 2, then by the
//! secant of `ln ε` over `ln noise`, which is nearly straight, moved a little to either side, so that both ends close
//! in. The answer is the end that is enough.

use nabla_base::range::{self, OutOfRange};

use super::{AccountError, Accountant, History, NOISE_MULTIPLIERS};

/// How much the noise may be above the least, relatively.
const TOLERANCE: f64 = 2e-5;

/// The least noise multiplier with which `steps` more steps of a sampling rate keep `(ε, δ)` for all that was done,
/// to 2e-5 of it.
///
/// - `accountant`: who computes `ε`
/// - `epsilon`, `delta`: the budget
/// - `sampling_rate`: the probability that an example takes part in a step, greater than 0 and at most 1
/// - `steps`: the number of steps, at least 1
/// - `spent`: what was done with the data before
///
/// If even the least noise multiplier of [`NOISE_MULTIPLIERS`] is enough, it is the answer.
///
/// # Errors
/// If a number is out of range, the accountant has no answer, the earlier steps have spent the budget, or no noise
/// multiplier is enough.
///
/// ```
/// use nabla_private::accountant::calibrate::noise_multiplier;
/// use nabla_private::accountant::rdp::Rdp;
/// use nabla_private::accountant::{AccountError, History};
///
/// let noise = noise_multiplier(&Rdp::default(), 2.0, 1e-5, 0.1, 50, &History::new())?;
/// assert!((noise - 1.88993).abs() < 1e-4);
///
/// let spent = History::new().with(1.0, 0.1, 50)?;
/// let error = noise_multiplier(&Rdp::default(), 2.0, 1e-5, 0.1, 50, &spent).unwrap_err();
/// assert!(matches!(error, AccountError::Spent { .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn noise_multiplier(
    accountant: &dyn Accountant,
    epsilon: f64,
    delta: f64,
    sampling_rate: f64,
    steps: u64,
    spent: &History,
) -> Result<f64, AccountError> {
    range::positive("epsilon", epsilon)?;
    range::at_least("number of steps", steps, 1)?;
    let before = accountant.epsilon(spent, delta)?.epsilon;
    if before > epsilon {
        return Err(AccountError::Spent {
            epsilon,
            spent: before,
            accountant: accountant.name(),
        });
    }
    least(accountant, epsilon, delta, |noise| {
        spent.clone().with(noise, sampling_rate, steps)
    })
}

/// The least scale of noise whose history keeps `(ε, δ)`, to 2e-5 of it, for steps that are several mechanisms.
///
/// - `accountant`: who computes `ε`
/// - `epsilon`, `delta`: the budget
/// - `history`: what is revealed with a scale: the greater it is, the less. Noise that is too little to be counted is
///   too little
///
/// If even the least of [`NOISE_MULTIPLIERS`] is enough, it is the answer.
///
/// # Errors
/// If the budget is out of range, the accountant has no answer, or no scale is enough.
pub fn least(
    accountant: &dyn Accountant,
    epsilon: f64,
    delta: f64,
    history: impl Fn(f64) -> Result<History, OutOfRange>,
) -> Result<f64, AccountError> {
    range::positive("epsilon", epsilon)?;
    // The logarithm of ε/budget by that of the scale.
    let excess = |log_noise: f64| {
        let found = accountant
            .epsilon(&history(log_noise.exp())?, delta)?
            .epsilon;
        // What is 0 has no logarithm, and is far enough below; what is infinite is far enough above.
        Ok::<_, AccountError>((found / epsilon).clamp(1e-9, 1e300).ln())
    };
    // Rounding must not lead out of the range.
    let log_least = NOISE_MULTIPLIERS.start().ln() + 1e-12;
    let log_most = NOISE_MULTIPLIERS.end().ln() - 1e-12;
    let [mut little, mut enough] = [(0.0, excess(0.0)?); 2];
    while enough.1 > 0.0 {
        if enough.0 == log_most {
            return Err(AccountError::Unreachable {
                epsilon,
                reached: enough.1.exp() * epsilon,
                noise: *NOISE_MULTIPLIERS.end(),
                accountant: accountant.name(),
            });
        }
        little = enough;
        let next = (enough.0 + 2_f64.ln()).min(log_most);
        enough = (next, excess(next)?);
    }
    while little.1 <= 0.0 {
        if little.0 == log_least {
            return Ok(*NOISE_MULTIPLIERS.start());
        }
        enough = little;
        let next = (little.0 - 2_f64.ln()).max(log_least);
        little = match excess(next) {
            Err(AccountError::Range(_)) => (next, 1.0),
            found => (next, found?),
        };
    }
    while enough.0 - little.0 > TOLERANCE {
        let width = enough.0 - little.0;
        let secant = little.0 + width * little.1 / (little.1 - enough.1);
        // Toward the side that is further away: the next point is then on the other side of the root.
        let further = match secant - little.0 > enough.0 - secant {
            true => -0.4 * TOLERANCE,
            false => 0.4 * TOLERANCE,
        };
        let inside = [little.0 + 0.02 * width, enough.0 - 0.02 * width];
        let next = (secant + further).clamp(inside[0], inside[1]);
        let point = (next, excess(next)?);
        match point.1 > 0.0 {
            true => little = point,
            false => enough = point,
        }
    }
    Ok(enough.0.exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accountant::accountants;

    #[test]
    fn the_noise_is_the_least() {
        for name in accountants().names() {
            let accountant = accountants().get(name).unwrap();
            for (epsilon, delta, rate, steps) in [
                (1.0, 1e-5, 1.0, 1),
                (0.5, 1e-6, 0.01, 300),
                (8.0, 1e-5, 0.1, 100),
                (0.05, 1e-8, 1.0, 10),
            ] {
                if name == "gaussian" && rate < 1.0 {
                    continue;
                }
                let none = History::new();
                let noise =
                    noise_multiplier(accountant.as_ref(), epsilon, delta, rate, steps, &none)
                        .unwrap();
                let spent = |noise: f64| {
                    let history = History::new().with(noise, rate, steps).unwrap();
                    accountant.epsilon(&history, delta).unwrap().epsilon
                };
                assert!(spent(noise) <= epsilon, "{name} {epsilon}");
                assert!(
                    spent(noise * (1.0 - 1e-4)) > epsilon,
                    "{name} {epsilon} {noise}"
                );
            }
        }
    }

    #[test]
    fn what_was_spent_before_counts() {
        let accountant = accountants().get("gaussian").unwrap();
        // 1/1.5² + 1/noise² = 1/1² at the ε of the noise multiplier 1.
        let budget = 4.377_177_6;
        let spent = History::new().with(1.5, 1.0, 1).unwrap();
        let noise = noise_multiplier(accountant.as_ref(), budget, 1e-5, 1.0, 1, &spent).unwrap();
        assert!((noise - 1.8_f64.sqrt()).abs() < 1e-4, "{noise}");
    }

    #[test]
    fn what_cannot_be_reached_is_said() {
        let told = |name: &str, epsilon, delta, rate, steps, spent: &History| {
            let accountant = accountants().get(name).unwrap();
            noise_multiplier(accountant.as_ref(), epsilon, delta, rate, steps, spent)
                .unwrap_err()
                .to_string()
        };
        let none = History::new();
        let spent = History::new().with(1.0, 1.0, 1).unwrap();
        let error = told("gaussian", 1.0, 1e-5, 1.0, 1, &spent);
        assert!(
            error.contains("what was done before has spent 4.377"),
            "{error}"
        );
        let few = super::super::rdp::Rdp { orders: vec![2.0] };
        let error = noise_multiplier(&few, 1.0, 1e-12, 1.0, 10, &none)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("an ε of 1 cannot be reached: by the accountant rdp, even"),
            "{error}"
        );
        assert!(told("rdp", 0.0, 1e-5, 0.1, 1, &none).contains("the epsilon is 0"));
        assert!(told("rdp", 1.0, 0.0, 0.1, 1, &none).contains("the delta is 0"));
        assert!(told("rdp", 1.0, 1e-5, 0.0, 1, &none).contains("the sampling rate is 0"));
        assert!(told("rdp", 1.0, 1e-5, 0.1, 0, &none).contains("the number of steps is 0"));
        assert!(told("gaussian", 1.0, 1e-5, 0.1, 1, &none).contains("ask rdp, pld or prv"));
    }

    #[test]
    fn where_any_noise_is_enough_there_is_the_least() {
        let accountant = accountants().get("pld").unwrap();
        // The example takes part in none of the steps with a probability of more than 1 − δ.
        let none = History::new();
        let noise = noise_multiplier(accountant.as_ref(), 1.0, 0.1, 0.001, 10, &none).unwrap();
        assert_eq!(noise, *NOISE_MULTIPLIERS.start());
    }
}
