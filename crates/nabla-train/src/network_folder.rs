//! A model as a folder of two files: its configuration as JSON, and `model.safetensors`, its weights in half
//! precision.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::{FloatCastAdapter, ModuleSnapshot, SafetensorsStore};
use burn::tensor::DType;
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
            reason: error.to_string(),
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
        let mut store = SafetensorsStore::from_bytes(Some(weights))
            .with_from_adapter(FloatCastAdapter::to(DType::F32));
        network
            .load_from(&mut store)
            .map_err(|error| wrong(error.to_string()))?;
        Ok(())
    }

    /// Writes a folder. The same configuration and weights give the same bytes.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save<M: Module>(
        self,
        config: &impl Serialize,
        network: &M,
        folder: &Path,
    ) -> Result<(), NetworkFolderError> {
        fs::create_dir_all(folder).map_err(|source| OutputError::Io {
            path: folder.into(),
            source,
        })?;
        let mut store = SafetensorsStore::from_bytes(None)
            // With several entries, the order would differ from run to run.
            .clear_metadata()
            .metadata("format", "pt")
            .with_to_adapter(FloatCastAdapter::to(DType::F16));
        network
            .save_into(&mut store)
            .map_err(|error| self.wrong_weights(folder, &error.to_string()))?;
        let bytes = store
            .get_bytes()
            .map_err(|error| self.wrong_weights(folder, &error.to_string()))?;
        write_bytes_atomically(&folder.join(WEIGHTS_FILE), &bytes)?;
        let json = serde_json::to_string_pretty(config)
            .map_err(|error| self.wrong_config(folder, &error))?;
        let text = format!("{json}\n");
        Ok(write_bytes_atomically(
            &folder.join(self.config),
            text.as_bytes(),
        )?)
    }
}
