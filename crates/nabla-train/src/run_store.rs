//! The finished runs of a comparison in a file, so that an interrupted comparison goes on without repeating them.
//!
//! The file is written completely or not at all, after every run. It has the comparison, a fingerprint of its examples and
//! the runs; another comparison, or one of other examples, is refused.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nabla_base::{OutputError, write_bytes_atomically};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::difference::Difference;

/// The file of runs in a folder.
pub const RUNS_FILE: &str = "runs.json";

/// The reason why runs cannot be kept or taken up.
#[derive(Debug, thiserror::Error)]
pub enum RunStoreError {
    /// The file of runs cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file of runs belongs to another comparison.
    #[error("{} holds the runs of another comparison ({difference}): choose another folder", path.display())]
    OtherComparison {
        /// The file.
        path: PathBuf,
        /// The first setting that differs.
        difference: Difference,
    },
    /// The examples have changed.
    #[error("{} holds the runs of other examples than those that are there now: choose another folder", path.display())]
    OtherExamples {
        /// The file.
        path: PathBuf,
    },
    /// The file of runs cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// What the file has.
#[derive(Deserialize)]
struct Stored {
    comparison: Value,
    #[serde(default)]
    examples: Option<String>,
    runs: Vec<Value>,
}

/// The finished runs; see the [module documentation](self).
///
/// ```
/// use nabla_train::run_store::RunStore;
///
/// # let folder = tempfile::tempdir()?;
/// let seeds = vec![1, 2];
/// let mut store = RunStore::<f64>::open(&seeds, Some(folder.path()))?;
/// store.push(0.7)?;
/// assert_eq!(RunStore::<f64>::open(&seeds, Some(folder.path()))?.runs(), [0.7]);
/// assert!(RunStore::<f64>::open(&vec![3], Some(folder.path())).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct RunStore<R> {
    comparison: Value,
    examples: Option<String>,
    path: Option<PathBuf>,
    runs: Vec<R>,
}

impl<R: Serialize + DeserializeOwned> RunStore<R> {
    /// The runs that a folder has, if there is one.
    ///
    /// # Errors
    /// If its file of runs cannot be read, or belongs to another comparison.
    pub fn open<C>(comparison: &C, folder: Option<&Path>) -> Result<Self, RunStoreError>
    where
        C: Serialize + DeserializeOwned + PartialEq,
    {
        let path = folder.map(|folder| folder.join(RUNS_FILE));
        let mut store = Self {
            comparison: Value::Null,
            examples: None,
            path,
            runs: Vec::new(),
        };
        let described = serde_json::to_value(comparison);
        store.comparison = described.map_err(|e| store.unreadable(e.to_string()))?;
        let Some(path) = &store.path else {
            return Ok(store);
        };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(store),
            Err(e) => return Err(store.unreadable(e.to_string())),
        };
        let damaged = |e: serde_json::Error| store.unreadable(format!("it is damaged: {e}"));
        let stored: Stored = serde_json::from_slice(&bytes).map_err(damaged)?;
        // With what the file leaves out; what is not registered here is compared by its serialised form.
        let is_same = match serde_json::from_value::<C>(stored.comparison.clone()) {
            Ok(found) => found == *comparison,
            Err(_) => stored.comparison == store.comparison,
        };
        if !is_same
            && let Some(difference) = Difference::between(&stored.comparison, &store.comparison)
        {
            return Err(RunStoreError::OtherComparison {
                path: path.clone(),
                difference,
            });
        }
        // After that: the runs of another kind of comparison are not damaged.
        let runs = stored.runs.into_iter().map(serde_json::from_value);
        let runs = runs.collect::<Result<Vec<R>, _>>().map_err(damaged)?;
        store.examples = stored.examples;
        store.runs = runs;
        Ok(store)
    }

    /// Says which examples the runs are of.
    ///
    /// - `fingerprint`: of all of them
    ///
    /// # Errors
    /// If those that are stored are of others.
    pub fn of_examples(&mut self, fingerprint: &str) -> Result<(), RunStoreError> {
        match (&self.examples, &self.path) {
            (Some(known), Some(path)) if known != fingerprint => {
                Err(RunStoreError::OtherExamples { path: path.clone() })
            }
            _ => {
                self.examples = Some(fingerprint.to_owned());
                Ok(())
            }
        }
    }

    /// The runs, in the order in which they were finished.
    pub fn runs(&self) -> &[R] {
        &self.runs
    }

    /// All runs.
    pub fn into_runs(self) -> Vec<R> {
        self.runs
    }

    /// Adds a run, and writes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn push(&mut self, run: R) -> Result<(), RunStoreError> {
        self.runs.push(run);
        let Some(path) = &self.path else {
            return Ok(());
        };
        let text = self.text().map_err(|e| self.unreadable(e.to_string()))?;
        Ok(write_bytes_atomically(path, text.as_bytes())?)
    }

    /// The file, with a line for each run.
    fn text(&self) -> Result<String, serde_json::Error> {
        let runs = self.runs.iter().map(serde_json::to_string);
        let runs: Vec<String> = runs.collect::<Result<_, _>>()?;
        let examples = match &self.examples {
            Some(examples) => format!("\"examples\": {},\n", serde_json::to_string(examples)?),
            None => String::new(),
        };
        Ok(format!(
            "{{\n\"comparison\": {},\n{examples}\"runs\": [\n{}\n]\n}}\n",
            serde_json::to_string(&self.comparison)?,
            runs.join(",\n")
        ))
    }

    fn unreadable(&self, reason: String) -> RunStoreError {
        RunStoreError::Read {
            path: self.path.clone().unwrap_or_default(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn another_comparison_and_other_examples_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = |seed: u64| {
            RunStore::<f64>::open(&json!({ "seed": seed, "epochs": 2 }), Some(folder.path()))
        };
        let mut store = open(1).unwrap();
        store.of_examples("one").unwrap();
        store.push(0.1).unwrap();
        store.push(1.0 / 3.0).unwrap();
        let mut again = open(1).unwrap();
        assert_eq!(again.runs(), [0.1, 1.0 / 3.0]);
        again.of_examples("one").unwrap();
        let told = again.of_examples("two").unwrap_err().to_string();
        assert!(told.contains("holds the runs of other examples"), "{told}");
        let told = open(2).unwrap_err().to_string();
        assert!(
            told.ends_with("(seed was 1 there, but 2 is asked for): choose another folder"),
            "{told}"
        );
        fs::write(folder.path().join(RUNS_FILE), "{").unwrap();
        let told = open(1).unwrap_err().to_string();
        assert!(told.contains("it is damaged"), "{told}");
    }

    #[test]
    fn without_a_folder_nothing_is_written() {
        let mut store = RunStore::<u32>::open(&1, None).unwrap();
        store.push(3).unwrap();
        assert_eq!(store.into_runs(), [3]);
    }
}
