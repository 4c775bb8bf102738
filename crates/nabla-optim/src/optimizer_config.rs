//! Checks for the configuration of an optimizer.
//!
//! Every optimizer makes these checks: a decay rate of a moving average lies in [0, 1), an ε does not vanish
//! in the 32 bits of a state, and other values are not negative. Your own optimizer can use the same
//! functions, which return the checked value:
//!
//! ```
//! use nabla_optim::optimizer_config::decay_rate;
//!
//! assert_eq!(decay_rate("beta_1", 0.9), Ok(0.9));
//! let told = decay_rate("beta_1", 1.0).unwrap_err().to_string();
//! assert_eq!(told, "the beta_1 of the optimizer is 1, but it must be at least 0 and less than 1");
//! ```

use burn::grad_clipping::GradientClippingConfig;
use burn::optim::{ModuleOptimizer, Optimizer};
use nabla_base::OutOfRange;

/// `value` if `holds`.
fn check(
    field: &'static str,
    value: f64,
    holds: bool,
    expected: &'static str,
) -> Result<f64, OutOfRange> {
    if holds {
        Ok(value)
    } else {
        let name = format!("{field} of the optimizer");
        Err(OutOfRange::new(name, value, expected))
    }
}

/// A decay rate of a moving average, in [0, 1).
///
/// # Errors
/// If it is not.
pub fn decay_rate(field: &'static str, value: f64) -> Result<f64, OutOfRange> {
    let holds = (0.0..1.0).contains(&value);
    check(field, value, holds, "at least 0 and less than 1")
}

/// A factor or threshold, at least 0.
///
/// # Errors
/// If it is negative or not finite.
pub fn non_negative(field: &'static str, value: f64) -> Result<f64, OutOfRange> {
    let holds = value >= 0.0 && value.is_finite();
    check(field, value, holds, "at least 0 and finite")
}

/// A ratio, in [0, 1].
///
/// # Errors
/// If it is not.
pub fn ratio(field: &'static str, value: f64) -> Result<f64, OutOfRange> {
    let holds = (0.0..=1.0).contains(&value);
    check(field, value, holds, "at least 0 and at most 1")
}

/// A learning rate, more than 0.
///
/// # Errors
/// If it is 0, negative or not finite.
pub fn rate(field: &'static str, value: f64) -> Result<f64, OutOfRange> {
    let holds = value > 0.0 && value.is_finite();
    check(field, value, holds, "positive and finite")
}

/// A divisor that is stored in 32 bits.
///
/// # Errors
/// If it is 0 in 32 bits, negative or not finite.
pub fn positive(field: &'static str, value: f64) -> Result<f64, OutOfRange> {
    let holds = value >= f64::from(f32::MIN_POSITIVE) && value.is_finite();
    check(field, value, holds, "at least 1.2e-38 and finite")
}

/// A number that is added to a denominator, at least 0.
///
/// # Errors
/// If it is negative, or if it is not 0 but becomes 0 in 32 bits.
pub fn epsilon(value: f64) -> Result<f64, OutOfRange> {
    let value = non_negative("epsilon", value)?;
    let holds = value == 0.0 || value >= f64::from(f32::MIN_POSITIVE);
    let expected = "0 or a normal number of 32 bits, at least 1.2e-38";
    check("epsilon", value, holds, expected)
}

/// Wraps `optimizer` for a whole module.
pub(crate) fn for_module<O: Optimizer>(
    optimizer: O,
    clipping: Option<&GradientClippingConfig>,
) -> ModuleOptimizer {
    let optimizer = ModuleOptimizer::from(optimizer);
    match clipping {
        Some(clipping) => optimizer.with_grad_clipping(clipping.init()),
        None => optimizer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_outside_their_range_are_refused_by_name() {
        for value in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
            assert!(decay_rate("beta_1", value).is_err());
        }
        assert_eq!(decay_rate("beta_1", 0.0), Ok(0.0));
        for value in [-1e-9, f64::NAN, f64::INFINITY] {
            assert!(non_negative("weight_decay", value).is_err());
        }
        assert_eq!(non_negative("weight_decay", 2.0), Ok(2.0));
        for value in [-0.1, 1.1, f64::NAN] {
            assert!(ratio("wd_ratio", value).is_err());
        }
        assert_eq!(ratio("wd_ratio", 1.0), Ok(1.0));
        for value in [-1e-8, 1e-40, f64::NAN] {
            assert!(epsilon(value).is_err());
        }
        assert_eq!((epsilon(0.0), epsilon(1e-16)), (Ok(0.0), Ok(1e-16)));
        let message = decay_rate("beta_2", 1.0).unwrap_err().to_string();
        assert_eq!(
            message,
            "the beta_2 of the optimizer is 1, but it must be at least 0 and less than 1"
        );
    }
}
