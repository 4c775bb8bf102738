//! A model as a folder of two files: its configuration as JSON, and `model.safetensors`, its weights in half
//! precision, or in single precision where the last bits count.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::{ApplyError, ApplyResult, FloatCastAdapter, ModuleSnapshot, SafetensorsStore};
use burn::tensor::DType;
use nabla_base::words::{count, without_types};
use nabla_base::{OutputError, write_bytes_atomically};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The weights' file name.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// The reason why a model's folder cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum NetworkFolderError {
    /// The folder does not exist.
    #[error("there is no model folder {}", path.display())]
    NoFolder {
        /// The requested folder.
        path: PathBuf,
    },
    /// A file of the folder is missing.
    #[error("the model folder {} holds no {file}", folder.display())]
    NoFile {
        /// The folder.
        folder: PathBuf,
        /// The file that the model needs.
        file: &'static str,
    },
    /// The folder holds a model of another kind, whose weights would be lost.
    #[error("{} holds a model that is no {kind}, since it has no {file}: choose another folder", folder.display())]
    OtherKind {
        /// What was to be written, such as `prior`.
        kind: &'static str,
        /// The folder.
        folder: PathBuf,
        /// The file that such a model would have.
        file: &'static str,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The configuration cannot be parsed.
    #[error("{} is not the configuration of a {kind}: {reason}", path.display())]
    Config {
        /// What the folder should hold, such as `prior`.
        kind: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The weights are damaged or have the wrong shape.
    #[error("{} does not hold the weights that {config} describes: {reason}", path.display())]
    Weights {
        /// The configuration's file name.
        config: &'static str,
        /// The file.
        path: PathBuf,
        /// Which tensor is wrong, and how.
        reason: String,
    },
}

/// What does not fit, in a sentence; none if everything does.
fn misfit(found: &ApplyResult) -> Option<String> {
    if let Some(error) = found.errors.first() {
        return Some(match error {
            ApplyError::ShapeMismatch {
                path,
                expected,
                found,
            } => format!("{path} has the shape {found}, but {expected} is expected"),
            ApplyError::DTypeMismatch {
                path,
                expected,
                found,
            } => format!("{path} has the type {found:?}, but {expected:?} is expected"),
            ApplyError::AdapterError { path, message }
            | ApplyError::LoadError { path, message } => {
                format!("{path} cannot be read: {message}")
            }
        });
    }
    let named = |names: &[&str]| match names {
        [] => None,
        [one] => Some((*one).to_owned()),
        [first, rest @ ..] => Some(format!("{first} and {}", count(rest.len() as u64, "other"))),
    };
    let mut missing: Vec<&str> = found
        .missing
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    let mut unused: Vec<&str> = found.unused.iter().map(String::as_str).collect();
    missing.sort_unstable();
    unused.sort_unstable();
    match (named(&missing), named(&unused)) {
        (None, None) => None,
        (Some(missing), None) => Some(format!("it lacks {missing}")),
        (None, Some(unused)) => Some(format!("it has {unused} besides")),
        (Some(missing), Some(unused)) => Some(format!("it lacks {missing}, but has {unused}")),
    }
}

/// A kind of folder.
#[derive(Clone, Copy, Debug)]
pub struct NetworkFolder {
    /// The model in a word, for messages.
    pub kind: &'static str,
    /// The configuration's file name.
    pub config: &'static str,
}

impl NetworkFolder {
    /// The contents of the configuration and of the weights.
    ///
    /// # Errors
    /// If the folder or a file is missing or cannot be read.
    pub fn read(self, folder: &Path) -> Result<[Vec<u8>; 2], NetworkFolderError> {
        if !folder.is_dir() {
            return Err(NetworkFolderError::NoFolder {
                path: folder.into(),
            });
        }
        let read = |file: &'static str| {
            let path = folder.join(file);
            fs::read(&path).map_err(|source| {
                if source.kind() == io::ErrorKind::NotFound {
                    NetworkFolderError::NoFile {
                        folder: folder.into(),
                        file,
                    }
                } else {
                    NetworkFolderError::Read { path, source }
                }
            })
        };
        Ok([read(self.config)?, read(WEIGHTS_FILE)?])
    }

    /// Parses a configuration.
    ///
    /// - `folder`: for messages
    ///
    /// # Errors
    /// If it is not that of such a model.
    pub fn config<C: DeserializeOwned>(
        self,
        bytes: &[u8],
        folder: &Path,
    ) -> Result<C, NetworkFolderError> {
        serde_json::from_slice(bytes).map_err(|error| self.wrong_config(folder, &error))
    }

    fn wrong_config(self, folder: &Path, error: &serde_json::Error) -> NetworkFolderError {
        NetworkFolderError::Config {
            kind: self.kind,
            path: folder.join(self.config),
            reason: without_types(&error.to_string()),
        }
    }

    fn wrong_weights(self, folder: &Path, reason: &str) -> NetworkFolderError {
        NetworkFolderError::Weights {
            config: self.config,
            path: folder.join(WEIGHTS_FILE),
            // Join the lines: the report of a store may have several.
            reason: reason.lines().map(str::trim).collect::<Vec<_>>().join(" "),
        }
    }

    /// Loads weights of 16 or 32 bits into a network of 32 bits.
    ///
    /// - `folder`: for messages
    ///
    /// # Errors
    /// If the weights are damaged, of another type, or do not fit the network.
    pub fn load<M: Module>(
        self,
        network: &mut M,
        weights: Vec<u8>,
        folder: &Path,
    ) -> Result<(), NetworkFolderError> {
        let wrong = |reason: String| self.wrong_weights(folder, &reason);
        let header = safetensors::SafeTensors::deserialize(&weights)
            .map_err(|error| wrong(error.to_string()))?;
        for (name, view) in header.tensors() {
            use safetensors::Dtype::{BF16, F16, F32};
            if !matches!(view.dtype(), F16 | BF16 | F32) {
                return Err(wrong(format!(
                    "{name} has the type {:?}, but F16, BF16 or F32 is expected",
                    view.dtype()
                )));
            }
        }
        // What does not fit is told by the result, in place of an error of many lines.
        let mut store = SafetensorsStore::from_bytes(Some(weights))
            .skip_enum_variants(true)
            .with_from_adapter(FloatCastAdapter::to(DType::F32))
            .validate(false)
            .allow_partial(true);
        let found = network
            .load_from(&mut store)
            .map_err(|error| wrong(error.to_string()))?;
        misfit(&found).map_or(Ok(()), |reason| Err(wrong(reason)))
    }

    /// Checks, before a long job, that no model of another kind would be overwritten.
    ///
    /// # Errors
    /// If the folder has weights, but not this configuration.
    pub fn check(self, folder: &Path) -> Result<(), NetworkFolderError> {
        match folder.join(WEIGHTS_FILE).exists() && !folder.join(self.config).exists() {
            true => Err(NetworkFolderError::OtherKind {
                kind: self.kind,
                folder: folder.into(),
                file: self.config,
            }),
            false => Ok(()),
        }
    }

    /// Writes a folder. The same configuration and weights give the same bytes.
    ///
    /// # Errors
    /// If a file cannot be written, or the folder holds a model of another kind.
    pub fn save<M: Module>(
        self,
        config: &impl Serialize,
        network: &M,
        folder: &Path,
    ) -> Result<(), NetworkFolderError> {
        self.save_as(config, network, folder, DType::F16)
    }

    /// Like [`save`](Self::save), with weights in single precision: what is read again is the same to the bit.
    ///
    /// # Errors
    /// Its.
    pub fn save_exactly<M: Module>(
        self,
        config: &impl Serialize,
        network: &M,
        folder: &Path,
    ) -> Result<(), NetworkFolderError> {
        self.save_as(config, network, folder, DType::F32)
    }

    fn save_as<M: Module>(
        self,
        config: &impl Serialize,
        network: &M,
        folder: &Path,
        dtype: DType,
    ) -> Result<(), NetworkFolderError> {
        self.check(folder)?;
        fs::create_dir_all(folder).map_err(|source| OutputError::Io {
            path: folder.into(),
            source,
        })?;
        let mut store = SafetensorsStore::from_bytes(None)
            // With several entries, the order would differ from run to run.
            .clear_metadata()
            .metadata("format", "pt")
            .with_to_adapter(FloatCastAdapter::to(dtype));
        network
            .save_into(&mut store)
            .map_err(|error| self.wrong_weights(folder, &error.to_string()))?;
        let bytes = store
            .get_bytes()
            .map_err(|error| self.wrong_weights(folder, &error.to_string()))?;
        let json = serde_json::to_string_pretty(config)
            .map_err(|error| self.wrong_config(folder, &error))?;
        let text = format!("{json}\n");
        // First, so that no moment leaves weights of an unknown kind.
        write_bytes_atomically(&folder.join(self.config), text.as_bytes())?;
        Ok(write_bytes_atomically(&folder.join(WEIGHTS_FILE), &bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    const FOLDER: NetworkFolder = NetworkFolder {
        kind: "layer",
        config: "layer.json",
    };

    fn layer(inputs: usize) -> Linear {
        LinearConfig::new(inputs, 2).init(&Device::flex())
    }

    #[test]
    fn weights_of_another_shape_are_told_in_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        FOLDER.save(&3, &layer(3), folder.path()).unwrap();
        let [_, weights] = FOLDER.read(folder.path()).unwrap();
        let error = FOLDER
            .load(&mut layer(4), weights, folder.path())
            .unwrap_err();
        let told = error.to_string();
        assert!(
            told.ends_with("weight has the shape [3, 2], but [4, 2] is expected"),
            "{told}"
        );
    }

    #[test]
    fn weights_of_another_model_are_told_in_a_sentence() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let told = |error: NetworkFolderError| {
            let told = error.to_string();
            assert_eq!(told.lines().count(), 1, "{told}");
            told
        };
        let two = vec![layer(3), layer(2)];
        FOLDER.save(&3, &two, folder.path()).unwrap();
        let [_, weights] = FOLDER.read(folder.path()).unwrap();
        let load = |network: &mut Vec<Linear>| FOLDER.load(network, weights.clone(), folder.path());
        load(&mut two.clone()).unwrap();
        let error = load(&mut vec![layer(3), layer(2), layer(2)]).unwrap_err();
        let wrong = told(error);
        assert!(wrong.ends_with(": it lacks 2.bias and 1 other"), "{wrong}");
        // Layers for which the configuration has no place are not left out silently.
        let wrong = told(load(&mut vec![layer(3)]).unwrap_err());
        assert!(wrong.contains("it has 1."), "{wrong}");
        assert!(wrong.ends_with(" besides"), "{wrong}");
        let mut norm = burn::nn::LayerNormConfig::new(3).init(&device);
        let error = FOLDER
            .load(&mut norm, weights.clone(), folder.path())
            .unwrap_err();
        let wrong = told(error);
        assert!(
            wrong.contains("it lacks ") && wrong.contains(", but has "),
            "{wrong}"
        );
    }

    #[test]
    fn a_model_of_another_kind_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        FOLDER.save(&3, &layer(3), folder.path()).unwrap();
        FOLDER.save(&3, &layer(3), folder.path()).unwrap();
        let other = NetworkFolder {
            kind: "generator",
            config: "generator.json",
        };
        let before = fs::read(folder.path().join(WEIGHTS_FILE)).unwrap();
        assert!(other.save(&3, &layer(4), folder.path()).is_err());
        assert_eq!(fs::read(folder.path().join(WEIGHTS_FILE)).unwrap(), before);
    }
}
