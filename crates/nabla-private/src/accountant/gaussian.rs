//! Gaussian differential privacy: exact, for steps that take all examples.
//!
//! The answer of a Gaussian mechanism tells two neighbouring data sets apart as well as one number tells `N(0, 1)`
//! from `N(μ, 1)`, with `μ = 1/noise multiplier`. Mechanisms compose by `μ² = Σ μ_i²`, without any loss. With
//! the normal distribution function `Φ`,
//!
//! ```text
//! δ(ε) = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2)
//! ```
//!
//! which is decreasing in `ε`, so that `ε(δ)` is found by bisection. Both terms may be large and their difference
//! tiny; since `e^ε φ(ε/μ + μ/2) = φ(ε/μ − μ/2)`, with `x = ε/μ − μ/2` and Mills's ratio `R = Φ(−x)/φ(x)`,
//!
//! ```text
//! δ(ε) = φ(x) (R(x) − R(x + μ))
//! ```
//!
//! keeps its digits down to the smallest `δ`.
//!
//! There is such an account for Poisson samples too, by the central limit theorem, but it is an approximation that can
//! be too low (Gopi et al., the source of [`prv`](super::prv)), so it isn't here.
//!
//! Sources: Dong, Roth, Su, *Gaussian Differential Privacy*, 2019, arXiv 1905.02383; Balle, Wang, *Improving the
//! Gaussian Mechanism for Differential Privacy: Analytical Calibration and Optimal Denoising*, 2018, arXiv
//! 1805.06530, Theorem 8 (`δ(ε)`).

use serde::{Deserialize, Serialize};

use super::bisection::bisect;
use super::normal::{below, density, mills_ratio};
use super::{AccountError, Accountant, Epsilon, History, check_delta, check_epsilon};

/// The accountant `gaussian`; see the [module](self).
///
/// ```
/// use nabla_private::accountant::gaussian::Gaussian;
/// use nabla_private::accountant::{Accountant, History};
///
/// let history = History::new().with(10.0, 1.0, 100)?; // μ = 1
/// let spent = Gaussian {}.epsilon(&history, 1e-5)?;
/// assert!((spent.epsilon - 4.377178).abs() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gaussian {}

/// The δ of a Gaussian mechanism at an ε.
fn delta_of(mu: f64, epsilon: f64) -> f64 {
    if mu == 0.0 {
        return 0.0;
    }
    let x = epsilon / mu - 0.5 * mu;
    // Mills's ratio has no limit to the left, and there nothing cancels.
    let delta = match x < 0.0 {
        true => below(-x) - density(x) * mills_ratio(x + mu),
        false => density(x) * (mills_ratio(x) - mills_ratio(x + mu)),
    };
    delta.clamp(0.0, 1.0)
}

/// The ε of a Gaussian mechanism at a δ.
fn epsilon_of(mu: f64, delta: f64) -> f64 {
    if delta_of(mu, 0.0) <= delta {
        return 0.0;
    }
    // δ(ε) ≤ Φ(−x) ≤ e^{−x²/2}
    let enough = mu * (0.5 * mu + (-2.0 * delta.ln()).sqrt());
    let [_, epsilon] = bisect([0.0, enough], |epsilon| delta_of(mu, epsilon) <= delta);
    epsilon
}

/// The `μ` of a history without samples.
fn mu_of(history: &History) -> Result<f64, AccountError> {
    let (sampled, mu) = history.sampled_and_mu();
    match sampled.first() {
        None => Ok(mu),
        Some(phase) => Err(AccountError::Sampled {
            rate: phase.sampling_rate(),
        }),
    }
}

impl Accountant for Gaussian {
    fn name(&self) -> &'static str {
        "gaussian"
    }

    fn epsilon(&self, history: &History, delta: f64) -> Result<Epsilon, AccountError> {
        check_delta(delta)?;
        Ok(Epsilon::exactly(epsilon_of(mu_of(history)?, delta)))
    }

    fn delta(&self, history: &History, epsilon: f64) -> Result<f64, AccountError> {
        check_epsilon(epsilon)?;
        Ok(delta_of(mu_of(history)?, epsilon))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // scipy 1.17.1 and mpmath 1.3.0 with 40 digits.
        for (mu, epsilon, delta) in [
            (1.0, 1.0, 0.126_936_737_505_722_94),
            (1.0, 0.0, 0.382_924_922_548_026_2),
            (0.719_117_4, 3.0, 1e-5),
        ] {
            let found = delta_of(mu, epsilon);
            assert!((found / delta - 1.0).abs() < 1e-6, "{mu} {epsilon} {found}");
        }
    }

    #[test]
    fn epsilon_and_delta_are_inverse_at_any_scale() {
        for mu in [1e-9, 1e-3, 0.1, 1.0, 30.0, 3e4, 1e8] {
            for delta in [1e-300, 1e-12, 1e-5, 0.1, 0.5] {
                let epsilon = epsilon_of(mu, delta);
                assert!(epsilon.is_finite() && epsilon >= 0.0);
                if epsilon > 0.0 {
                    // The rounding of ε, which ln δ magnifies, and of the difference of two ratios μ apart.
                    let back = delta_of(mu, epsilon);
                    let bound =
                        1e-12 + 1e-15 * ((epsilon / mu).powi(2) + delta.ln().powi(2) + 10.0 / mu);
                    assert!(
                        (back / delta).ln().abs() < bound,
                        "{mu:e} {delta:e} {back:e}"
                    );
                }
            }
        }
    }
}
