//! The common error for a number out of range, and the checks that return it.
//!
//! An error enum of a method contains it as `#[error(transparent)] Range(#[from] OutOfRange)`, and a check is
//! one line:
//!
//! ```
//! use nabla_base::range::{self, OutOfRange};
//!
//! fn check(rate: f64, beta: f64, steps: usize) -> Result<(), OutOfRange> {
//!     range::positive("learning rate", rate)?;
//!     range::check(
//!         (0.0..1.0).contains(&beta),
//!         "decay rate beta",
//!         beta,
//!         "at least 0 and less than 1",
//!     )?;
//!     range::at_least("number of steps", steps, 1)
//! }
//!
//! assert!(check(0.1, 0.9, 10).is_ok());
//! let error = check(-1.0, 0.9, 10).unwrap_err();
//! assert_eq!(error.to_string(), "the learning rate is -1, but it must be positive and finite");
//! let error = check(0.1, 0.9, 0).unwrap_err();
//! assert_eq!(error.to_string(), "the number of steps is 0, but it must be at least 1");
//! ```

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::words::shortened;

/// A number is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {name} is {value}, but it must be {expected}")]
pub struct OutOfRange {
    /// The name of the number, as it follows "the".
    pub name: Cow<'static, str>,
    /// The number, [shortened].
    pub value: String,
    /// The requirement, as it follows "must be".
    pub expected: Cow<'static, str>,
}

impl OutOfRange {
    /// - `name`: the name of the number, as it follows "the"; `expected`: the requirement, as it follows
    ///   "must be"
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        value: impl Display,
        expected: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            name: name.into(),
            // A f64 is displayed with up to 300 digits.
            value: shortened(&value.to_string()),
            expected: expected.into(),
        }
    }
}

/// Checks a custom condition.
///
/// # Errors
/// If `fits` is false.
pub fn check(
    fits: bool,
    name: impl Into<Cow<'static, str>>,
    value: impl Display,
    expected: impl Into<Cow<'static, str>>,
) -> Result<(), OutOfRange> {
    match fits {
        true => Ok(()),
        false => Err(OutOfRange::new(name, value, expected)),
    }
}

/// Checks that a number is positive and finite.
///
/// # Errors
/// If it is not.
pub fn positive(name: impl Into<Cow<'static, str>>, value: f64) -> Result<(), OutOfRange> {
    let fits = value > 0.0 && value.is_finite();
    check(fits, name, value, "positive and finite")
}

/// Checks that a number is at least 0 and finite.
///
/// # Errors
/// If it is not.
pub fn not_negative(name: impl Into<Cow<'static, str>>, value: f64) -> Result<(), OutOfRange> {
    let fits = value >= 0.0 && value.is_finite();
    check(fits, name, value, "at least 0 and finite")
}

/// Checks that a number is finite.
///
/// # Errors
/// If it is not.
pub fn finite(name: impl Into<Cow<'static, str>>, value: f64) -> Result<(), OutOfRange> {
    check(value.is_finite(), name, value, "finite")
}

/// Checks that a number is at least `least`.
///
/// # Errors
/// If it is less, or NaN.
pub fn at_least<T: PartialOrd + Display>(
    name: impl Into<Cow<'static, str>>,
    value: T,
    least: T,
) -> Result<(), OutOfRange> {
    match value >= least {
        true => Ok(()),
        false => Err(OutOfRange::new(name, value, format!("at least {least}"))),
    }
}

/// Checks that a number lies in a range, including both ends.
///
/// # Errors
/// If it lies outside, or is NaN.
///
/// ```
/// let error = nabla_base::range::within("order", 4, 1..=3).unwrap_err();
/// assert_eq!(error.to_string(), "the order is 4, but it must be from 1 to 3");
/// ```
pub fn within<T: PartialOrd + Display>(
    name: impl Into<Cow<'static, str>>,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), OutOfRange> {
    match range.contains(&value) {
        true => Ok(()),
        false => {
            let [least, most] = [range.start(), range.end()].map(|end| shortened(&end.to_string()));
            let expected = format!("from {least} to {most}");
            Err(OutOfRange::new(name, value, expected))
        }
    }
}

/// Checks that a number lies strictly between two others.
///
/// # Errors
/// If it does not, or is NaN.
///
/// ```
/// let error = nabla_base::range::between("share", 1.0, 0.0, 1.0).unwrap_err();
/// assert_eq!(error.to_string(), "the share is 1, but it must be greater than 0 and less than 1");
/// ```
pub fn between(
    name: impl Into<Cow<'static, str>>,
    value: f64,
    low: f64,
    high: f64,
) -> Result<(), OutOfRange> {
    match low < value && value < high {
        true => Ok(()),
        false => {
            let expected = format!("greater than {low} and less than {high}");
            Err(OutOfRange::new(name, value, expected))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_fits_no_range() {
        let nan = f64::NAN;
        assert!(positive("x", nan).is_err() && not_negative("x", nan).is_err());
        assert!(finite("x", nan).is_err() && at_least("x", nan, 0.0).is_err());
        assert!(within("x", nan, 0.0..=1.0).is_err() && between("x", nan, 0.0, 1.0).is_err());
    }

    #[test]
    fn no_number_is_told_with_hundreds_of_digits() {
        let told = |found: Result<(), OutOfRange>| found.unwrap_err().to_string();
        assert_eq!(
            told(within("x", -1e300, 0.0..=1e30)),
            "the x is -1e300, but it must be from 0 to 1e30"
        );
        assert!(told(at_least("x", 3, u64::MAX)).ends_with("at least 18446744073709551615"));
    }

    #[test]
    fn no_end_of_an_interval_fits() {
        assert!(between("x", 0.0, 0.0, 1.0).is_err() && between("x", 1.0, 0.0, 1.0).is_err());
        assert!(between("x", 0.5, 0.0, 1.0).is_ok());
    }

    #[test]
    fn both_ends_of_a_range_fit() {
        assert!(within("x", 0.0, 0.0..=1.0).is_ok() && within("x", 1.0, 0.0..=1.0).is_ok());
        assert!(not_negative("x", 0.0).is_ok() && positive("x", 0.0).is_err());
        assert!(positive("x", f64::INFINITY).is_err() && at_least("x", 1, 1).is_ok());
    }
}
