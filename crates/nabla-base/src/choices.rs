//! Named values for flags and files, with a line about each.
//!
//! The type lists its own values, so every program that shows them and every parser knows all of them. A new
//! value is one line:
//!
//! ```
//! use nabla_base::choices;
//! use nabla_base::choices::Choices;
//!
//! #[derive(Clone, Debug, PartialEq)]
//! enum Kernel {
//!     Nearest,
//!     Cubic { a: f32 },
//! }
//!
//! choices! {
//!     Kernel: "kernel" {
//!         "nearest" => Self::Nearest, "The nearest pixel";
//!         "cubic" => Self::Cubic { a: -0.5 }, "4 x 4 pixels";
//!     }
//! }
//!
//! assert_eq!("cubic".parse(), Ok(Kernel::Cubic { a: -0.5 }));
//! assert_eq!(Kernel::Nearest.choice_name(), Some("nearest"));
//! // A variant with its own parameter has no name.
//! assert_eq!(Kernel::Cubic { a: 0.3 }.choice_name(), None);
//! let error = "linear".parse::<Kernel>().unwrap_err();
//! assert_eq!(error.to_string(), "there is no kernel named 'linear'; the names are nearest, cubic");
//! ```

/// A value that has a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice<T> {
    /// The name.
    pub name: &'static str,
    /// The value.
    pub value: T,
    /// A description, on one line.
    pub about: &'static str,
}

/// A type that lists its values by name; the macro [`choices!`](crate::choices!) implements it.
pub trait Choices: Sized {
    /// The kind of the values, as it follows "a".
    const WHAT: &'static str;

    /// The values that have names.
    fn choices() -> Vec<Choice<Self>>;

    /// The value of a name.
    ///
    /// # Errors
    /// If no value has this name.
    fn choice(name: &str) -> Result<Self, UnknownName> {
        let mut choices = Self::choices();
        match choices.iter().position(|choice| choice.name == name) {
            Some(index) => Ok(choices.swap_remove(index).value),
            None => Err(UnknownName {
                what: Self::WHAT,
                name: name.to_owned(),
                known: choices.iter().map(|choice| choice.name).collect(),
            }),
        }
    }

    /// The name of the value, if it has one.
    fn choice_name(&self) -> Option<&'static str>
    where
        Self: PartialEq,
    {
        let mut choices = Self::choices().into_iter();
        let choice = choices.find(|choice| choice.value == *self)?;
        Some(choice.name)
    }
}

/// No value has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {what} named '{name}'; the names are {}", known.join(", "))]
pub struct UnknownName {
    /// The kind of the values.
    pub what: &'static str,
    /// The name.
    pub name: String,
    /// The existing names.
    pub known: Vec<&'static str>,
}

/// Names the values of a type, each with a line about it: [the module](mod@crate::choices) has an example.
#[macro_export]
macro_rules! choices {
    ($kind:ty: $what:literal { $($name:literal => $value:expr, $about:literal;)+ }) => {
        impl $crate::choices::Choices for $kind {
            const WHAT: &'static str = $what;

            fn choices() -> Vec<$crate::choices::Choice<Self>> {
                vec![$($crate::choices::Choice {
                    name: $name,
                    value: $value,
                    about: $about,
                }),+]
            }
        }

        impl std::str::FromStr for $kind {
            type Err = $crate::choices::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                $crate::choices::Choices::choice(name)
            }
        }
    };
}
