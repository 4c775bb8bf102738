//! What every model is checked for.

use std::path::{Path, PathBuf};

use nabla_base::range::{self, OutOfRange};

/// A tensor of a file has a number that is NaN or infinite.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the tensor {name:?} of {} is damaged: its value {place} is {value}", path.display())]
pub struct NotFinite {
    /// The file.
    pub path: PathBuf,
    /// The tensor's name.
    pub name: String,
    /// Which value, from 0.
    pub place: usize,
    /// The value.
    pub value: f32,
}

/// Refuses numbers that are not finite.
pub(crate) fn finite(values: &[f32], path: &Path, name: &str) -> Result<(), NotFinite> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(place) => Err(NotFinite {
            path: path.to_owned(),
            name: name.to_owned(),
            place,
            value: values[place],
        }),
    }
}

/// Refuses a size of a model that is 0.
pub(crate) fn sizes(sizes: &[(&str, usize)]) -> Result<(), OutOfRange> {
    sizes
        .iter()
        .try_for_each(|(name, value)| range::at_least(format!("model's {name}"), *value, 1))
}
