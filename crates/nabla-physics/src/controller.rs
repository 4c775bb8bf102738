//! How long the next step is.
//!
//! From the scaled error `E` of a step, which is accepted if `E ≤ 1`, a controller finds the factor for its length. With
//! the order `k` of the error estimate ([`Tableau::error_order`](crate::tableau::Tableau::error_order)):
//!
//! ```text
//! integral    s E^(−1/k)                                        clipped; at most 1 after a rejection
//! PI          s E^(−β1) E_before^β2,  E_before ≥ 10⁻⁴            clipped; s E^(−β1) at a rejection
//! PID         s E^(−(p+i+d)/k) E_before^((p+2d)/k) E_first^(−d/k) clipped; at least 1 if accepted
//! ```
//!
//! The defaults are those of SciPy, of OrdinaryDiffEq.jl (with `β1 = 7/(10 k)`, `β2 = 2/(5 k)`) and of diffrax, so that each
//! takes the steps of its package.
//!
//! Sources: Hairer, Nørsett, Wanner, *Solving Ordinary Differential Equations I*, II.4; Gustafsson, *Control-Theoretic
//! Techniques for Stepsize Selection in Explicit Runge-Kutta Methods*, 1991; Söderlind, *Digital Filters in Adaptive
//! Time-Stepping*, 2003.

use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

/// The controller; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Controller {
    /// Steps of one length, that of the first step; errors are estimated, but nothing is rejected.
    Constant,
    /// From the error of this step alone.
    Integral {
        /// `s`.
        safety: f64,
        /// The least factor.
        least: f64,
        /// The largest factor.
        most: f64,
    },
    /// From this error and that of the step accepted before.
    ProportionalIntegral {
        /// `β1 k`.
        beta1: f64,
        /// `β2 k`.
        beta2: f64,
        /// `s`.
        safety: f64,
        /// The least factor.
        least: f64,
        /// The largest factor.
        most: f64,
    },
    /// From this error and those of the two steps accepted before.
    Pid {
        /// `p`.
        proportional: f64,
        /// `i`.
        integral: f64,
        /// `d`.
        derivative: f64,
        /// `s`.
        safety: f64,
        /// The least factor.
        least: f64,
        /// The largest factor.
        most: f64,
    },
}

impl Default for Controller {
    fn default() -> Self {
        Self::PI
    }
}

/// The error before the first step in a PI controller, and the least that counts later.
const LEAST_ERROR: f64 = 1e-4;

impl Controller {
    /// SciPy's.
    pub const INTEGRAL: Self = Self::Integral {
        safety: 0.9,
        least: 0.2,
        most: 10.0,
    };

    /// That of OrdinaryDiffEq.jl, the default.
    pub const PI: Self = Self::ProportionalIntegral {
        beta1: 0.7,
        beta2: 0.4,
        safety: 0.9,
        least: 0.2,
        most: 10.0,
    };

    /// diffrax's, with its default of `p = d = 0`, `i = 1`; its documentation proposes `p = 0.4, i = 0.3` for PI control.
    pub const PID: Self = Self::Pid {
        proportional: 0.0,
        integral: 1.0,
        derivative: 0.0,
        safety: 0.9,
        least: 0.2,
        most: 10.0,
    };

    /// Whether steps may be rejected.
    pub fn is_adaptive(&self) -> bool {
        !matches!(self, Self::Constant)
    }

    /// By which share of itself a step may be longer, instead of another that is as short as that share: many steps of one
    /// length end near the end by rounding.
    pub(crate) fn slack(&self) -> f64 {
        if self.is_adaptive() { 1e-10 } else { 1e-6 }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// If a factor is out of its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        let (safety, least, most) = match *self {
            Self::Constant => return Ok(()),
            Self::Integral {
                safety,
                least,
                most,
            }
            | Self::ProportionalIntegral {
                safety,
                least,
                most,
                ..
            }
            | Self::Pid {
                safety,
                least,
                most,
                ..
            } => (safety, least, most),
        };
        range::between("safety factor of the steps", safety, 0.0, 1.0)?;
        range::between("least factor of the steps", least, 0.0, 1.0)?;
        range::check(
            most > 1.0,
            "largest factor of the steps",
            most,
            "greater than 1",
        )?;
        match *self {
            Self::ProportionalIntegral { beta1, beta2, .. } => {
                range::positive("β1 of the controller", beta1)?;
                range::not_negative("β2 of the controller", beta2)
            }
            Self::Pid {
                proportional,
                integral,
                derivative,
                ..
            } => {
                range::not_negative("proportional part of the controller", proportional)?;
                range::positive("integral part of the controller", integral)?;
                range::not_negative("derivative part of the controller", derivative)
            }
            _ => Ok(()),
        }
    }
}

/// What a controller remembers of a trajectory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// The errors of the last two accepted steps, the later one first.
    errors: [f64; 2],
    rejected: bool,
}

impl Memory {
    pub(crate) fn new(controller: &Controller) -> Self {
        let first = match controller {
            Controller::ProportionalIntegral { .. } => LEAST_ERROR,
            _ => 1.0,
        };
        Self {
            errors: [first; 2],
            rejected: false,
        }
    }

    /// Whether a step with this error is accepted, and the factor for the length of the next one.
    ///
    /// - `order`: `k`
    pub(crate) fn next(&mut self, controller: &Controller, error: f64, order: f64) -> (bool, f64) {
        let accepted = error <= 1.0;
        let (factor, least_error) = match *controller {
            Controller::Constant => return (true, 1.0),
            Controller::Integral {
                safety,
                least,
                most,
            } => {
                let factor = safety * error.powf(-1.0 / order);
                let most = if self.rejected { 1.0 } else { most };
                (clipped(factor, least, most), 0.0)
            }
            Controller::ProportionalIntegral {
                beta1,
                beta2,
                safety,
                least,
                most,
            } => {
                let own = error.powf(beta1 / order);
                let factor = match accepted {
                    true => safety * self.errors[0].powf(beta2 / order) / own,
                    false => safety / own,
                };
                (clipped(factor, least, most), LEAST_ERROR)
            }
            Controller::Pid {
                proportional: p,
                integral: i,
                derivative: d,
                safety,
                least,
                most,
            } => {
                let factor = safety
                    * error.powf(-(p + i + d) / order)
                    * self.errors[0].powf((p + 2.0 * d) / order)
                    * self.errors[1].powf(-d / order);
                let factor = match accepted {
                    true => clipped(factor, 1.0, most),
                    false => clipped(factor, least, safety),
                };
                (factor, 0.0)
            }
        };
        self.rejected = !accepted;
        if accepted {
            // An error of 0 would make the next step infinitely long or short.
            let error = match error > 0.0 || least_error > 0.0 {
                true => error.max(least_error),
                false => 1.0,
            };
            self.errors = [error, self.errors[0]];
        }
        (accepted, factor)
    }
}

/// In the range, and at its lower end if it is not a number.
fn clipped(factor: f64, least: f64, most: f64) -> f64 {
    if factor.is_nan() {
        least
    } else {
        factor.clamp(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_after_small_errors_and_shrink_after_large_ones() {
        for controller in [Controller::INTEGRAL, Controller::PI, Controller::PID] {
            controller.check().unwrap();
            let mut memory = Memory::new(&controller);
            let (accepted, factor) = memory.next(&controller, 1e-6, 5.0);
            assert!(accepted && factor > 1.5, "{controller:?} {factor}");
            let (accepted, factor) = memory.next(&controller, 50.0, 5.0);
            assert!(!accepted && factor < 0.9, "{controller:?} {factor}");
            let (accepted, factor) = memory.next(&controller, f64::NAN, 5.0);
            assert!(!accepted && factor == 0.2, "{controller:?} {factor}");
            let (accepted, factor) = memory.next(&controller, 0.0, 5.0);
            assert!(
                accepted && (1.0..=10.0).contains(&factor),
                "{controller:?} {factor}"
            );
            let (_, factor) = memory.next(&controller, 0.01, 5.0);
            assert!(factor.is_finite() && factor > 0.0);
        }
    }

    /// `E* = s^(1/(β1 − β2))`, at which a PI controller changes nothing.
    #[test]
    fn the_pi_controller_rests_where_its_equation_says() {
        let mut memory = Memory::new(&Controller::PI);
        let rest = 0.9_f64.powf(1.0 / 0.06);
        assert!((rest - 0.1727).abs() < 1e-4);
        memory.next(&Controller::PI, rest, 5.0);
        let (_, factor) = memory.next(&Controller::PI, rest, 5.0);
        assert!((factor - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let wrong = Controller::Integral {
            safety: 1.5,
            least: 0.2,
            most: 10.0,
        };
        assert!(
            wrong
                .check()
                .unwrap_err()
                .to_string()
                .starts_with("the safety factor of the steps is 1.5")
        );
        let wrong = Controller::Integral {
            safety: 0.9,
            least: 0.2,
            most: 0.5,
        };
        assert!(wrong.check().is_err());
    }
}
