//! A model in the layout of the `diffusers` library: a folder with one subfolder per part.
//!
//! ```text
//! model_index.json                     which class each part is of
//! unet/config.json                     what the network is
//! unet/diffusion_pytorch_model.safetensors
//! vae/…, text_encoder/…, tokenizer/…, scheduler/scheduler_config.json
//! ```
//!
//! Weights may be in one file, in several files with an index (`….safetensors.index.json`), or in a variant
//! (`….fp16.safetensors`).
//!
//! Configurations are read by [`Part::config`] into a struct that has a field for each known key. Any other
//! key is an error, unless it is a key that does not affect the network (`_class_name`, `_diffusers_version`
//! …) or its value turns the option off. Otherwise a network with an unknown option would be silently
//! computed wrongly.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::weights::{Precision, Weights, WeightsError};

/// The reason why a model cannot be loaded from its folder.
#[derive(Debug, thiserror::Error)]
pub enum ModelFolderError {
    /// No folder.
    #[error("there is no model folder {}", .0.display())]
    NoFolder(PathBuf),
    /// A required file is missing.
    #[error("the model folder {} holds no {file}", folder.display())]
    NoFile {
        /// The folder.
        folder: PathBuf,
        /// The file, or the alternatives, one of which is needed.
        file: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A configuration is invalid.
    #[error("{} cannot be understood: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A configuration asks for something that is not implemented.
    #[error("{} has {key} = {value}, but {expected}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// The expected value.
        expected: String,
    },
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// A folder with a model.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    path: PathBuf,
    /// The library and the class of each part, by name.
    parts: BTreeMap<String, [Option<String>; 2]>,
    class: String,
}

impl ModelFolder {
    /// Reads `model_index.json`.
    ///
    /// # Errors
    /// If the folder or the file does not exist, or the file cannot be parsed.
    pub fn open(path: &Path) -> Result<Self, ModelFolderError> {
        if !path.is_dir() {
            return Err(ModelFolderError::NoFolder(path.to_owned()));
        }
        let file = path.join("model_index.json");
        if !file.is_file() {
            return Err(ModelFolderError::NoFile {
                folder: path.to_owned(),
                file: "model_index.json".to_owned(),
            });
        }
        let index: BTreeMap<String, Value> = read_json(&file)?;
        let class = index.get("_class_name").and_then(Value::as_str);
        let Some(class) = class.map(str::to_owned) else {
            return Err(ModelFolderError::Config {
                path: file,
                reason: "it has no _class_name".to_owned(),
            });
        };
        // An entry that is not a pair is an option of the pipeline.
        let parts = index
            .iter()
            .filter(|(key, _)| !key.starts_with('_'))
            .filter_map(|(key, value)| {
                let pair = <[Option<String>; 2]>::deserialize(value).ok()?;
                Some((key.clone(), pair))
            })
            .collect();
        Ok(Self {
            path: path.to_owned(),
            parts,
            class,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The class of the pipeline, such as `StableDiffusionPipeline`.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// An option of the pipeline in `model_index.json`.
    ///
    /// # Errors
    /// If the file can no longer be read.
    pub fn option(&self, key: &str) -> Result<Option<Value>, ModelFolderError> {
        let mut index: BTreeMap<String, Value> = read_json(&self.path.join("model_index.json"))?;
        Ok(index.remove(key))
    }

    /// Whether the index names such a part.
    pub fn has(&self, name: &str) -> bool {
        matches!(self.parts.get(name), Some([_, Some(_)]))
    }

    /// Returns a part, which must have one of the `classes`, unless that list is empty.
    ///
    /// # Errors
    /// If the index does not name it, it has another class, or its folder is missing.
    pub fn part(&self, name: &str, classes: &[&str]) -> Result<Part, ModelFolderError> {
        let index = || self.path.join("model_index.json");
        let class = match self.parts.get(name) {
            Some([_, Some(class)]) => class.clone(),
            _ => {
                return Err(ModelFolderError::Config {
                    path: index(),
                    reason: format!("it names no {name}"),
                });
            }
        };
        if !classes.is_empty() && !classes.contains(&class.as_str()) {
            return Err(ModelFolderError::Unsupported {
                path: index(),
                key: name.to_owned(),
                value: class,
                expected: format!("it must be one of: {}", classes.join(", ")),
            });
        }
        let folder = self.path.join(name);
        if !folder.is_dir() {
            return Err(ModelFolderError::NoFile {
                folder: self.path.clone(),
                file: format!("folder {name}, which model_index.json names"),
            });
        }
        Ok(Part { folder, class })
    }
}

/// A part of a model: a folder with a configuration and, for most parts, weights.
#[derive(Clone, Debug)]
pub struct Part {
    folder: PathBuf,
    class: String,
}

impl Part {
    /// Opens a folder with a single part.
    ///
    /// - `class`: the class of the part
    ///
    /// # Errors
    /// If there is no such folder.
    pub fn open(folder: &Path, class: &str) -> Result<Self, ModelFolderError> {
        if !folder.is_dir() {
            return Err(ModelFolderError::NoFolder(folder.to_owned()));
        }
        Ok(Self {
            folder: folder.to_owned(),
            class: class.to_owned(),
        })
    }

    /// Its class, such as `UNet2DConditionModel`.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Checks that `config.json`, if it names a class, names that of this part.
    ///
    /// # Errors
    /// If it is missing or names another class.
    pub fn check_class(&self) -> Result<(), ModelFolderError> {
        let values: BTreeMap<String, Value> = read_json(&self.file("config.json")?)?;
        match values.get("_class_name").and_then(Value::as_str) {
            Some(other) if other != self.class => {
                let expected = format!("{} was expected", self.class);
                Err(self.unsupported("_class_name", other, expected))
            }
            _ => Ok(()),
        }
    }

    /// Returns the path of a file that must exist.
    ///
    /// # Errors
    /// If it does not.
    pub fn file(&self, name: &str) -> Result<PathBuf, ModelFolderError> {
        let path = self.folder.join(name);
        match path.is_file() {
            true => Ok(path),
            false => Err(ModelFolderError::NoFile {
                folder: self.folder.clone(),
                file: name.to_owned(),
            }),
        }
    }

    /// Its configuration, from `config.json` or another file.
    ///
    /// - `silent`: keys that do not affect the computation, in addition to those that start with `_`
    /// - `off`: keys of options that are not implemented, each with the value that turns it off. `null`
    ///   and `false` turn off every option.
    ///
    /// # Errors
    /// If the file is missing, a value is of the wrong kind, or there is a key that is in none of `T`,
    /// `silent` and `off`.
    pub fn config<T: DeserializeOwned>(
        &self,
        file: &str,
        silent: &[&str],
        off: &[(&str, Value)],
    ) -> Result<T, ModelFolderError> {
        self.config_adapted(file, silent, off, |_| {})
    }

    /// The same for a configuration that `adapt` changes first: one that shares most of its keys with another.
    pub(super) fn config_adapted<T: DeserializeOwned>(
        &self,
        file: &str,
        silent: &[&str],
        off: &[(&str, Value)],
        adapt: impl FnOnce(&mut serde_json::Map<String, Value>),
    ) -> Result<T, ModelFolderError> {
        let path = self.file(file)?;
        let mut values: serde_json::Map<String, Value> = read_json(&path)?;
        adapt(&mut values);
        // A null value counts as missing.
        values.retain(|_, value| !value.is_null());
        let mut unknown = BTreeSet::new();
        let kept = Value::Object(values.clone());
        let config = serde_ignored::deserialize(kept.clone(), |key| {
            unknown.insert(key.to_string());
        })
        .map_err(|e: serde_json::Error| ModelFolderError::Config {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        for key in unknown {
            // A nested key is named by both keys, separated by a dot.
            let inner = key.split('.').try_fold(&kept, |value, key| value.get(key));
            let value = values.get(&key).or(inner).unwrap_or(&Value::Null);
            let known = key.starts_with('_')
                || silent.contains(&key.as_str())
                || *value == Value::Bool(false)
                || off.iter().any(|(k, v)| *k == key && v == value);
            if !known {
                let expected = match off.iter().find(|(k, _)| *k == key) {
                    Some((_, v)) => format!("only {v} is implemented"),
                    None => "this option is not known".to_owned(),
                };
                return Err(ModelFolderError::Unsupported {
                    path,
                    key,
                    value: value.to_string(),
                    expected,
                });
            }
        }
        Ok(config)
    }

    /// The error for a value of the configuration that is not implemented.
    pub fn unsupported(
        &self,
        key: &str,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> ModelFolderError {
        ModelFolderError::Unsupported {
            path: self.folder.join("config.json"),
            key: key.to_owned(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }

    /// Its weights: `stem.safetensors`, the files of `stem.safetensors.index.json`, or those of the `fp16`
    /// variant. With a 16-bit precision, the variant is tried first.
    ///
    /// - `stem`: `diffusion_pytorch_model`, or `model` for text encoders
    ///
    /// # Errors
    /// If there are no weights, or they cannot be read.
    pub fn weights(
        &self,
        stem: &str,
        device: &Device,
        precision: Precision,
    ) -> Result<Weights, ModelFolderError> {
        let mut stems = [stem.to_owned(), format!("{stem}.fp16")];
        if precision != Precision::F32 {
            stems.reverse();
        }
        for stem in &stems {
            let path = self.folder.join(format!("{stem}.safetensors"));
            if path.is_file() {
                return Ok(Weights::open(&[path], device, precision)?);
            }
            // The variant is written before `json` in the name of the index, or as in the name of the file.
            let plain = stem.trim_end_matches(".fp16");
            for index in [
                format!("{stem}.safetensors.index.json"),
                format!("{plain}.safetensors.index{}.json", &stem[plain.len()..]),
            ] {
                let index = self.folder.join(index);
                if index.is_file() {
                    let paths = self.shards(&index)?;
                    return Ok(Weights::open(&paths, device, precision)?);
                }
            }
        }
        let pickled = self.folder.join(format!("{stem}.bin")).is_file()
            || self.folder.join(format!("pytorch_{stem}.bin")).is_file();
        let hint = match pickled {
            true => " (only a .bin, which may hold programs: convert it to safetensors)",
            false => "",
        };
        Err(ModelFolderError::NoFile {
            folder: self.folder.clone(),
            file: format!("{stem}.safetensors{hint}"),
        })
    }

    fn shards(&self, index: &Path) -> Result<Vec<PathBuf>, ModelFolderError> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let map: Index = read_json(index)?;
        let names: BTreeSet<String> = map.weight_map.into_values().collect();
        names
            .iter()
            .map(|name| {
                // Only plain file names are allowed, not paths to other places.
                if Path::new(name).components().count() != 1 || name.starts_with('.') {
                    return Err(ModelFolderError::Config {
                        path: index.to_owned(),
                        reason: format!("{name:?} is not the name of a file beside it"),
                    });
                }
                self.file(name)
            })
            .collect()
    }
}

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ModelFolderError> {
    let text = fs::read_to_string(path).map_err(|source| ModelFolderError::Io {
        path: path.to_owned(),
        source,
    })?;
    let text = without_infinities(&text);
    serde_json::from_str(&text).map_err(|e| ModelFolderError::Config {
        path: path.to_owned(),
        reason: e.to_string(),
    })
}

/// Python writes infinities and NaN into JSON, which does not allow them: replaces them by `null`, outside of
/// strings.
fn without_infinities(text: &str) -> String {
    let mut found = String::with_capacity(text.len());
    let mut rest = text;
    let (mut quoted, mut escaped) = (false, false);
    while let Some(c) = rest.chars().next() {
        let word = ["-Infinity", "Infinity", "NaN"]
            .into_iter()
            .find(|word| !quoted && rest.starts_with(word));
        if let Some(word) = word {
            found += "null";
            rest = &rest[word.len()..];
            continue;
        }
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        found.push(c);
        rest = &rest[c.len_utf8()..];
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(folder: &Path, name: &str, value: &Value) {
        let path = folder.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).unwrap();
        }
        fs::write(path, value.to_string()).unwrap();
    }

    #[derive(Debug, Deserialize)]
    struct Known {
        size: usize,
    }

    #[test]
    fn infinities_are_read_as_nothing() {
        let text = r#"{"a": -Infinity, "b": [NaN, 1], "c": "NaN \" Infinity \\"}"#;
        let value: Value = serde_json::from_str(&without_infinities(text)).unwrap();
        assert_eq!(
            value,
            json!({"a": null, "b": [null, 1], "c": "NaN \" Infinity \\"})
        );
    }

    #[test]
    fn options_that_are_not_known_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let read = |value: Value| {
            write(folder.path(), "config.json", &value);
            let part = Part::open(folder.path(), "Net").unwrap();
            let known = part.config::<Known>("config.json", &["note"], &[("act", json!("silu"))]);
            known
                .map(|known| known.size)
                .map_err(|error| error.to_string())
        };
        let plain = json!({"_class_name": "Net", "size": 3, "note": 1, "act": "silu", "a": null, "b": false});
        assert_eq!(read(plain), Ok(3));
        let told = read(json!({"size": 3, "act": "relu"})).unwrap_err();
        assert!(
            told.contains("act = \"relu\"") && told.contains("only \"silu\""),
            "{told}"
        );
        let told = read(json!({"size": 3, "new": 2})).unwrap_err();
        assert!(
            told.contains("new = 2") && told.contains("not known"),
            "{told}"
        );
        let told = read(json!({"size": "big"})).unwrap_err();
        assert!(told.contains("cannot be understood"), "{told}");
    }

    #[test]
    fn what_a_folder_lacks_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let told = |error: ModelFolderError| error.to_string();
        let none = told(ModelFolder::open(&folder.path().join("none")).unwrap_err());
        assert!(none.contains("there is no model folder"), "{none}");
        let empty = told(ModelFolder::open(folder.path()).unwrap_err());
        assert!(empty.contains("holds no model_index.json"), "{empty}");
        let index =
            json!({"_class_name": "P", "unet": ["diffusers", "Net"], "vae": [null, null], "x": 1});
        write(folder.path(), "model_index.json", &index);
        let model = ModelFolder::open(folder.path()).unwrap();
        assert_eq!(model.class(), "P");
        assert!(model.has("unet") && !model.has("vae") && !model.has("x"));
        let missing = told(model.part("vae", &["Vae"]).unwrap_err());
        assert!(missing.contains("names no vae"), "{missing}");
        let other = told(model.part("unet", &["UNet"]).unwrap_err());
        assert!(
            other.contains("unet = Net") && other.contains("UNet"),
            "{other}"
        );
        let missing = told(model.part("unet", &["Net"]).unwrap_err());
        assert!(missing.contains("holds no folder unet"), "{missing}");
        fs::create_dir(folder.path().join("unet")).unwrap();
        let part = model.part("unet", &["Net"]).unwrap();
        let weights = || {
            part.weights("w", &Device::flex(), Precision::F32)
                .unwrap_err()
                .to_string()
        };
        assert!(
            weights().contains("holds no w.safetensors"),
            "{}",
            weights()
        );
        fs::write(folder.path().join("unet/w.bin"), b"").unwrap();
        assert!(
            weights().contains("convert it to safetensors"),
            "{}",
            weights()
        );
        write(
            folder.path(),
            "unet/w.safetensors.index.json",
            &json!({"weight_map": {"a": "../x"}}),
        );
        assert!(
            weights().contains("not the name of a file beside it"),
            "{}",
            weights()
        );
        write(
            folder.path(),
            "unet/w.safetensors.index.json",
            &json!({"weight_map": {"a": "x"}}),
        );
        assert!(weights().contains("holds no x"), "{}", weights());
    }
}
