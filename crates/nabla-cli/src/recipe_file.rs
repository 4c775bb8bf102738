//! TOML files that describe trainings, and the folders of the trainings.

use std::fmt::Display;
use std::fs::{self, File, TryLockError};
use std::ops::ControlFlow;
use std::path::Path;

use nabla::base::words::without_types;
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

/// Creates a folder for what a job writes, if it does not exist.
pub fn create_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder)
        .map_err(|e| Failure::input_because(format!("cannot write to {}", folder.display()), e))
}

/// Keeps other trainings out of a folder until this is dropped or the process has ended, however it does.
#[derive(Default)]
pub struct FolderLock(Option<File>);

impl FolderLock {
    /// Locks the folder of a training, if it exists.
    ///
    /// # Errors
    /// If another training has locked it.
    pub fn of(folder: &Path) -> Result<Self, Failure> {
        let mut lock = Self::default();
        if folder.is_dir() {
            lock.hold(folder)?;
        }
        Ok(lock)
    }

    /// Locks the folder, unless it was locked already.
    fn hold(&mut self, folder: &Path) -> Result<(), Failure> {
        if self.0.is_some() {
            return Ok(());
        }
        // The folder itself, so that nothing is left in it.
        #[cfg(unix)]
        let opened = File::open(folder);
        #[cfg(not(unix))]
        let opened = File::create(folder.join(".nabla-lock"));
        // Some file systems have no locks; a folder that cannot be opened is refused when it is read or written.
        let Ok(file) = opened else { return Ok(()) };
        match file.try_lock() {
            Ok(()) => self.0 = Some(file),
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::input(format!(
                    "another training is running in {}: wait until it has ended, or choose another folder",
                    folder.display()
                )));
            }
            Err(TryLockError::Error(_)) => {}
        }
        Ok(())
    }
}

/// Creates the folder of a training, if it does not exist, locks it, and writes the description into it.
///
/// - `file`: the name of the description's file
pub fn begin_folder(
    lock: &mut FolderLock,
    folder: &Path,
    file: &str,
    description: &str,
) -> Result<(), Failure> {
    create_folder(folder)?;
    lock.hold(folder)?;
    Ok(write_bytes_atomically(
        &folder.join(file),
        description.as_bytes(),
    )?)
}

/// The folder of a comparison, if it has one: locked, and created when the first training begins. A wrong comparison has
/// been refused by then, so no folder is created for it.
pub struct ComparisonFolder<'a> {
    folder: Option<&'a Path>,
    lock: FolderLock,
    failure: Option<Failure>,
}

impl<'a> ComparisonFolder<'a> {
    /// # Errors
    /// If another training has locked it.
    pub fn of(folder: Option<&'a Path>) -> Result<Self, Failure> {
        Ok(Self {
            folder,
            lock: folder.map_or(Ok(FolderLock::default()), FolderLock::of)?,
            failure: None,
        })
    }

    /// Creates it, and writes the description into it; breaks if that fails.
    pub fn begin(&mut self, description: &str) -> ControlFlow<()> {
        let Some(folder) = self.folder else {
            return ControlFlow::Continue(());
        };
        match begin_folder(&mut self.lock, folder, "comparison.toml", description) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                self.failure = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    /// The failure of [`begin`](Self::begin), if it has failed.
    pub fn failure(&mut self) -> Result<(), Failure> {
        self.failure.take().map_or(Ok(()), Err)
    }
}

/// The failure for a file that is not what it should be.
pub fn wrong_toml(path: &Path, kind: &str, reason: &dyn Display) -> Failure {
    let reason = without_types(&reason.to_string());
    Failure::input(format!("{} is not {kind}: {reason}", path.display()))
}

/// The values of a recipe's file, if there is one.
#[derive(Default)]
pub struct GivenRecipe<'a>(Option<(&'a Path, toml::Table)>);

impl<'a> GivenRecipe<'a> {
    /// - `path`: of the file, if it was named
    ///
    /// # Errors
    /// If it cannot be read, or is no TOML.
    pub fn read(path: Option<&'a Path>) -> Result<Self, Failure> {
        Ok(Self(match path {
            Some(path) => Some((path, read_toml(path, KIND)?)),
            None => None,
        }))
    }

    /// A value that the file gives, for defaults that depend on it.
    pub fn get(&self, keys: &[&str]) -> Option<&toml::Value> {
        let (_, table) = self.0.as_ref()?;
        let (last, tables) = keys.split_last()?;
        let mut inner = table;
        for key in tables {
            inner = inner.get(*key)?.as_table()?;
        }
        inner.get(*last)
    }

    /// The defaults, overridden by the file.
    ///
    /// # Errors
    /// If it has a value that is none of a `T`.
    pub fn over<T: Serialize + DeserializeOwned>(self, defaults: T) -> Result<T, Failure> {
        let Some((path, table)) = self.0 else {
            return Ok(defaults);
        };
        overlaid(&defaults, table).map_err(|reason| wrong_toml(path, KIND, &reason))
    }
}

const KIND: &str = "a recipe";

/// The defaults, overridden by the values that a file gives. Returns the reason if the result is no `T`.
fn overlaid<T: Serialize + DeserializeOwned>(
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
///
/// A choice with options of its own is a table with one entry, named after what was chosen: another choice takes
/// its place.
fn overlay(whole: &mut toml::Table, given: toml::Table) {
    let chosen = |table: &toml::Table| match table.len() {
        1 => table.keys().next().cloned(),
        _ => None,
    };
    if let (Some(before), Some(now)) = (chosen(whole), chosen(&given))
        && before != now
    {
        *whole = given;
        return;
    }
    for (key, value) in given {
        match (whole.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => overlay(inner, value),
            (_, value) => {
                whole.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla::diffusion::class_denoiser::{ClassDenoiserConfig, TrainingPath};
    use nabla::diffusion::schedule::BetaSchedule;

    #[test]
    fn a_recipe_overrides_values_and_choices() {
        let names = ["a", "b"].map(str::to_owned).to_vec();
        let defaults = ClassDenoiserConfig::for_pictures(names, [1, 28, 28]);
        let given = |text: &str| overlaid(&defaults, text.parse().unwrap());
        let other = given(
            "[network]\nbase_channels = 32\n\
             [path.VariancePreserving.betas.Linear]\nstart = 1e-4\nend = 0.02\n",
        );
        let other = other.unwrap();
        assert_eq!(other.network.base_channels, 32);
        assert_eq!(other.network.patch, defaults.network.patch);
        let TrainingPath::VariancePreserving(path) = other.path else {
            panic!("{other:?}");
        };
        let linear = BetaSchedule::Linear {
            start: 1e-4,
            end: 0.02,
        };
        assert_eq!(path.betas, linear);
        assert_eq!(
            given("path = \"Straight\"").unwrap().path,
            TrainingPath::Straight
        );
        // Within a choice, a value.
        let offset = given("[path.VariancePreserving.betas.Cosine]\noffset = 0.02").unwrap();
        assert!(format!("{:?}", offset.path).contains("0.02"));
        assert!(given("[path.VariancePreserving.betas.Sine]\noffset = 0.02").is_err());
    }
}
