//! From where the indices of a LIBSVM file count: the option, and the line that says what was found.

use clap::ValueEnum;
use nabla::data::IndexBase;

/// What `--index-base` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IndexBaseChoice {
    /// What the files show: from 0 if they have an index 0, otherwise from 1
    #[default]
    Auto,
    /// From 0, as scikit-learn's dump_svmlight_file writes them
    Zero,
    /// From 1, as LIBSVM's own files have them
    One,
}

impl IndexBaseChoice {
    /// The base, if it is said.
    pub fn base(self) -> Option<IndexBase> {
        match self {
            Self::Auto => None,
            Self::Zero => Some(IndexBase::Zero),
            Self::One => Some(IndexBase::One),
        }
    }
}

/// From where indices count, and why it is thought so, in a line.
///
/// - `said`: whether it was
pub fn told(base: IndexBase, said: bool) -> String {
    let why = match (base, said) {
        (_, true) => "as was said",
        (IndexBase::Zero, false) => "as the file shows",
        (IndexBase::One, false) => "as no index 0 shows otherwise (--index-base zero does)",
    };
    format!("indices count from {base}, {why}\n")
}
