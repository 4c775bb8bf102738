//! TOML files that describe trainings, and the folders of the trainings.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use nabla::base::write_bytes_atomically;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::errors::Failure;

/// Reads a TOML file as a `T`.
///
/// - `kind`: what the file should be, with its article: "a recipe"
pub fn read_toml<T: DeserializeOwned>(path: &Path, kind: &str) -> Result<T, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|e| Failure::input_because(format!("cannot read {}", path.display()), e))?;
    toml::from_str(&text).map_err(|e| wrong_toml(path, kind, &e.message()))
}

/// Creates the folder of a training, if it does not exist, and writes the description into it.
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

/// The failure for a file that is not what it should be.
pub fn wrong_toml(path: &Path, kind: &str, reason: &dyn Display) -> Failure {
    Failure::input(format!("{} is not {kind}: {reason}", path.display()))
}

/// The defaults, overridden by the values that a file gives. Returns the reason if the result is no `T`.
pub fn overlaid<T: Serialize + DeserializeOwned>(
    defaults: &T,
    given: toml::Table,
) -> Result<T, String> {
    let mut whole = toml::Table::try_from(defaults).map_err(|e| e.to_string())?;
    overlay(&mut whole, given);
    whole
        .try_into()
        .map_err(|e: toml::de::Error| e.message().to_owned())
}

/// Overrides the values of `whole` by those of `given`, table by table.
fn overlay(whole: &mut toml::Table, given: toml::Table) {
    for (key, value) in given {
        match (whole.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => overlay(inner, value),
            (_, value) => {
                whole.insert(key, value);
            }
        }
    }
}
