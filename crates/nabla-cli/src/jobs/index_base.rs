//! From where the indices of a LIBSVM file count: the option, and the line that says what was found.

use nabla::base::choices::{Choice, Choices};
use nabla::data::IndexBase;

/// What was said, or what the files show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundOr<T> {
    /// What the files show.
    Found,
    /// What was said.
    Said(T),
}

impl<T> FoundOr<T> {
    /// What was said, if it was.
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
            about: "What the files show: from 0 if they have an index 0, otherwise from 1",
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

/// From where indices count, and why it is thought so, in a line.
///
/// - `said`: whether it was
pub fn base_line(base: IndexBase, said: bool) -> String {
    let why = match (base, said) {
        (_, true) => "as was said",
        (IndexBase::Zero, false) => "as the file shows",
        (IndexBase::One, false) => "as no index 0 shows otherwise (--index-base zero does)",
    };
    format!("indices count from {base}, {why}\n")
}
