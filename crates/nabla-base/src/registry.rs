//! Registries: the members of a family by name, with options by name.
//!
//! A [`Registry`] holds the members of a family. A member is a configuration with defaults; its options are
//! the fields, which [`Options`] sets from text or JSON. A new member therefore needs only its own file and one
//! line in its family, and you add your own members with [`with`](Registry::with):
//!
//! ```
//! use nabla_base::registry::{Options, Registry};
//! use serde::{Deserialize, Serialize};
//!
//! trait Shape: std::fmt::Debug {
//!     fn area(&self) -> f64;
//! }
//!
//! #[derive(Debug, Deserialize, Serialize)]
//! struct Rectangle {
//!     width: f64,
//!     height: f64,
//! }
//!
//! impl Shape for Rectangle {
//!     fn area(&self) -> f64 {
//!         self.width * self.height
//!     }
//! }
//!
//! let square = Rectangle { width: 1.0, height: 1.0 };
//! let boxed = |shape: Rectangle| -> Box<dyn Shape> { Box::new(shape) };
//! let shapes = Registry::new("shape").with("rectangle", "four right angles", square, boxed);
//! let wide = shapes.make("rectangle", &Options::parse(&["width=3"])?)?;
//! assert_eq!(wide.area(), 3.0);
//!
//! let error = shapes.make("rectangle", &Options::parse(&["depth=2"])?).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "the shape rectangle has no option \"depth\"; it has: height, width"
//! );
//! # Ok::<(), nabla_base::registry::RegistryError>(())
//! ```

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::words::without_types;

mod options;

pub use options::Options;

use options::shown;

/// The reason why a member cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RegistryError {
    /// The family has no member of this name.
    #[error("there is no {family} {name:?}; there are: {known}")]
    Unknown {
        /// What a member is called.
        family: &'static str,
        /// The name.
        name: String,
        /// The existing names.
        known: String,
    },
    /// The member has no option of this name.
    #[error("the {family} {member} has no option {option:?}; it has: {known}")]
    UnknownOption {
        /// What a member is called.
        family: &'static str,
        /// The member.
        member: String,
        /// The option.
        option: String,
        /// The existing options.
        known: String,
    },
    /// The option cannot have this value.
    #[error("the option {option} of the {family} {member} cannot be {value}: {reason}")]
    Value {
        /// What a member is called.
        family: &'static str,
        /// The member.
        member: String,
        /// The option.
        option: String,
        /// The value.
        value: String,
        /// The reason.
        reason: String,
    },
    /// The text is not `NAME=VALUE`.
    #[error("{0:?} sets no option: it must be NAME=VALUE, as eta=0.5")]
    NotAnOption(String),
}

/// Makes a member with the given options, or returns the wrong option and the reason.
type Make<T> = dyn Fn(&Options) -> Result<T, Refusal> + Send + Sync;

/// A refused option.
enum Refusal {
    Unknown(String),
    Value { option: String, reason: String },
}

/// A member of a family.
#[derive(Clone)]
pub struct Entry<T> {
    name: &'static str,
    about: &'static str,
    defaults: Options,
    make: Arc<Make<T>>,
}

impl<T> Entry<T> {
    /// The name, as used in commands.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A description in one line.
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// The options with their defaults.
    pub fn defaults(&self) -> &Options {
        &self.defaults
    }
}

impl<T> fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("name", &self.name)
            .field("about", &self.about)
            .field("defaults", &self.defaults)
            .finish_non_exhaustive()
    }
}

/// The members of a family; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Registry<T> {
    family: &'static str,
    entries: Vec<Entry<T>>,
}

impl<T> Registry<T> {
    /// Creates a family without members.
    ///
    /// - `family`: what a member is called in errors
    pub fn new(family: &'static str) -> Self {
        Self {
            family,
            entries: Vec::new(),
        }
    }

    /// Adds a member, which replaces one of the same name.
    ///
    /// - `about`: a description in one line
    /// - `config`: the configuration with its defaults
    /// - `wrap`: makes the member from its configuration
    #[must_use]
    pub fn with<C>(
        mut self,
        name: &'static str,
        about: &'static str,
        config: C,
        wrap: impl Fn(C) -> T + Send + Sync + 'static,
    ) -> Self
    where
        C: Serialize + DeserializeOwned,
    {
        // A configuration that is not a table of values has no options.
        let defaults = Options::of(&config).unwrap_or_default();
        let base = defaults.clone();
        let make = move |options: &Options| Ok(wrap(configured(&base, options)?));
        self.entries.retain(|entry| entry.name != name);
        self.entries.push(Entry {
            name,
            about,
            defaults,
            make: Arc::new(make),
        });
        self
    }

    /// All members in their order.
    pub fn entries(&self) -> &[Entry<T>] {
        &self.entries
    }

    /// The names of all members.
    pub fn names(&self) -> Vec<&'static str> {
        self.entries.iter().map(Entry::name).collect()
    }

    /// The member with this name.
    ///
    /// # Errors
    /// If there is none; the message names the existing ones.
    pub fn entry(&self, name: &str) -> Result<&Entry<T>, RegistryError> {
        let found = self.entries.iter().find(|entry| entry.name == name);
        found.ok_or_else(|| RegistryError::Unknown {
            family: self.family,
            name: name.to_owned(),
            known: self.names().join(", "),
        })
    }

    /// The member with this name and its defaults.
    ///
    /// # Errors
    /// If there is none.
    pub fn get(&self, name: &str) -> Result<T, RegistryError> {
        self.make(name, &Options::new())
    }

    /// The member with this name and these options, with its defaults for the others.
    ///
    /// # Errors
    /// If there is no such member, it has no such option (the message names the options it has), or a value has
    /// the wrong type.
    pub fn make(&self, name: &str, options: &Options) -> Result<T, RegistryError> {
        let entry = self.entry(name)?;
        (entry.make)(options).map_err(|refusal| {
            let (family, member) = (self.family, name.to_owned());
            match refusal {
                Refusal::Unknown(option) => {
                    let mut names: Vec<&str> = entry.defaults.names().collect();
                    names.sort_unstable();
                    let known = match names.is_empty() {
                        true => "none".to_owned(),
                        false => names.join(", "),
                    };
                    RegistryError::UnknownOption {
                        family,
                        member,
                        option,
                        known,
                    }
                }
                Refusal::Value { option, reason } => {
                    let value = options.get(&option).map_or_else(String::new, shown);
                    RegistryError::Value {
                        family,
                        member,
                        option,
                        value,
                        reason,
                    }
                }
            }
        })
    }
}

/// A configuration with these options, and its defaults for the others.
fn configured<C: DeserializeOwned>(defaults: &Options, options: &Options) -> Result<C, Refusal> {
    let mut fields = defaults.clone();
    for (name, value) in options.iter() {
        if defaults.get(name).is_none() {
            return Err(Refusal::Unknown(name.to_owned()));
        }
        fields.set(name, value.clone());
        // They are set one by one, so that the error can name the wrong one.
        if let Err(error) = fields.to_config::<C>() {
            return Err(Refusal::Value {
                option: name.to_owned(),
                reason: reason(&error),
            });
        }
    }
    fields.to_config().map_err(|error| Refusal::Value {
        option: String::new(),
        reason: reason(&error),
    })
}

/// What was expected; the value that was found is told already.
fn reason(error: &serde_json::Error) -> String {
    let told = without_types(&error.to_string());
    let expected = told.rsplit_once(", expected ");
    expected.map_or(told.clone(), |(_, expected)| format!("expected {expected}"))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
    enum Kind {
        Plain,
        Fancy,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Member {
        number: f64,
        limit: Option<usize>,
        kind: Kind,
    }

    fn family() -> Registry<Member> {
        let member = Member {
            number: 0.1,
            limit: None,
            kind: Kind::Plain,
        };
        Registry::new("animal").with("cat", "purrs", member, |m| m)
    }

    #[test]
    fn options_replace_defaults() {
        let texts = ["number=3", "limit = 4", "kind=Fancy"];
        let made = family().make("cat", &Options::parse(&texts).unwrap());
        let expected = Member {
            number: 3.0,
            limit: Some(4),
            kind: Kind::Fancy,
        };
        assert_eq!(made.unwrap(), expected);
        // The defaults survive the conversion to text bit for bit.
        assert_eq!(
            family().get("cat").unwrap().number.to_bits(),
            0.1_f64.to_bits()
        );
        let over = Options::new()
            .with("limit", 4)
            .overridden(&Options::new().with("limit", Value::Null));
        assert_eq!(family().make("cat", &over).unwrap().limit, None);
    }

    #[test]
    fn what_is_wrong_is_named_in_a_sentence() {
        let told = |name: &str, texts: &[&str]| match Options::parse(texts) {
            Ok(options) => family().make(name, &options).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(
            told("dog", &[]),
            "there is no animal \"dog\"; there are: cat"
        );
        assert_eq!(
            told("cat", &["colour=red"]),
            "the animal cat has no option \"colour\"; it has: kind, limit, number"
        );
        let wrong = told("cat", &["number=much"]);
        assert!(
            wrong == "the option number of the animal cat cannot be much: expected a number",
            "{wrong}"
        );
        let wrong = told("cat", &["limit=-1"]);
        assert!(
            wrong.contains("limit of the animal cat cannot be -1")
                && wrong.ends_with("expected a whole number of at least 0"),
            "{wrong}"
        );
        let wrong = told("cat", &["kind=Odd"]);
        assert!(
            wrong.contains("Plain") && wrong.contains("Fancy"),
            "{wrong}"
        );
        for text in ["eta", "=3", ""] {
            assert!(told("cat", &[text]).contains("NAME=VALUE"), "{text}");
        }
    }

    #[test]
    fn one_of_the_same_name_takes_its_place() {
        let other = Member {
            number: 9.0,
            limit: None,
            kind: Kind::Fancy,
        };
        let family = family().with("cat", "roars", other, |m| m);
        assert_eq!(family.names(), ["cat"]);
        assert_eq!(family.get("cat").unwrap().number, 9.0);
        assert_eq!(family.entries()[0].about(), "roars");
    }
}
