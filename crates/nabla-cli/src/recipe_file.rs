//! Descriptions of trainings in TOML files, and the folders that they are kept in.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use nabla::base::write_bytes_atomically;
use serde::de::DeserializeOwned;

use crate::errors::Failure;

/// The text of a file as a `T`.
///
/// - `kind`: what it should be, with its article: "a recipe"
pub fn read_toml<T: DeserializeOwned>(path: &Path, kind: &str) -> Result<T, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|e| Failure::input_because(format!("cannot read {}", path.display()), e))?;
    toml::from_str(&text).map_err(|e| wrong_toml(path, kind, &e.message()))
}

/// Makes the folder of a training, if it is not there, with its description in it.
///
/// - `file`: the name of the description's file
pub fn begin_folder(folder: &Path, file: &str, description: &str) -> Result<(), Failure> {
    fs::create_dir_all(folder)
        .map_err(|e| Failure::input_because(format!("cannot write to {}", folder.display()), e))?;
    Ok(write_bytes_atomically(
        &folder.join(file),
        description.as_bytes(),
    )?)
}

/// That a file is not what it should be.
pub fn wrong_toml(path: &Path, kind: &str, reason: &dyn Display) -> Failure {
    Failure::input(format!("{} is not {kind}: {reason}", path.display()))
}
