//! The common error for something that is given twice where once is meant, and the check that returns it.
//!
//! ```
//! use nabla_base::Repeated;
//!
//! assert!(Repeated::check("seed", &[1, 2], i32::to_string).is_ok());
//! let error = Repeated::check("seed", &[1, 2, 1], i32::to_string).unwrap_err();
//! assert_eq!(error.to_string(), "the seed 1 is given twice");
//! ```

/// Something is given twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {what} {value} is given twice")]
pub struct Repeated {
    /// Its kind, as it follows "the".
    pub what: &'static str,
    /// It.
    pub value: String,
}

impl Repeated {
    /// Refuses values of which two are the same.
    ///
    /// - `what`: their kind, as it follows "the"
    /// - `told`: a value in words
    ///
    /// # Errors
    /// The second of the first pair.
    pub fn check<T: PartialEq>(
        what: &'static str,
        values: &[T],
        told: impl Fn(&T) -> String,
    ) -> Result<(), Self> {
        let mut later = values.iter().enumerate();
        match later.find(|(i, value)| values[..*i].contains(value)) {
            Some((_, value)) => Err(Self {
                what,
                value: told(value),
            }),
            None => Ok(()),
        }
    }
}
