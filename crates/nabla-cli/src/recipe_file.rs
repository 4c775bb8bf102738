//! Descriptions of trainings in TOML files.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::errors::Failure;

/// The text of a file as a `T`.
///
/// - `kind`: what it should be, with its article: "a recipe"
pub fn read_toml<T: DeserializeOwned>(path: &Path, kind: &str) -> Result<T, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|e| Failure::input(format!("cannot read {}: {e}", path.display())))?;
    toml::from_str(&text).map_err(|e| wrong_toml(path, kind, &e.message()))
}

/// That a file is not what it should be.
pub fn wrong_toml(path: &Path, kind: &str, reason: &dyn Display) -> Failure {
    Failure::input(format!("{} is not {kind}: {reason}", path.display()))
}
