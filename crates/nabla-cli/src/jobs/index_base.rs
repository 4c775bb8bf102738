//! Where the indices of a LIBSVM file start: the option, and the line that reports it.

use nabla::base::choices::{Choice, Choices};
use nabla::data::IndexBase;

/// A given value, or the one that the files show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundOr<T> {
    /// The value that the files show.
    Found,
    /// The value that was given.
    Said(T),
}

impl<T> FoundOr<T> {
    /// The given value, if there is one.
    pub fn said(self) -> Option<T> {
        match self {
            Self::Found => None,
            Self::Said(value) => Some(value),
        }
    }
}

impl Choices for FoundOr<IndexBase> {
    const WHAT: &'static str = IndexBase::WHAT;

    fn choices() -> Vec<Choice<Self>> {
        let found = Choice {
            name: "auto",
            value: Self::Found,
            about: "As the files show: at 0 if an index 0 occurs, otherwise at 1",
        };
        let said = IndexBase::choices().into_iter();
        let said = said.map(|Choice { name, value, about }| Choice {
            name,
            value: Self::Said(value),
            about,
        });
        std::iter::once(found).chain(said).collect()
    }
}

/// A line that says where indices start, and why.
///
/// - `said`: whether the user gave the base
pub fn base_line(base: IndexBase, said: bool) -> String {
    let why = match (base, said) {
        (_, true) => "as given by --index-base",
        (IndexBase::Zero, false) => "as the file shows",
        (IndexBase::One, false) => "since no index is 0 (--index-base zero overrides this)",
    };
    format!("feature indices start at {base}, {why}\n")
}
