//! The model that a solver returns: a JSON file with the method, its configuration, the weights and the
//! certificate.
//!
//! A [`Model`] computes [`scores`](Model::scores) for examples, which determine their [`label`](Model::label):
//!
//! | [`Task`] | scores of an example | label |
//! |---|---|---|
//! | regression | 1 | the score |
//! | two classes | 1 | the sign of the score, −1 or 1 |
//! | classes | 1 for each class | the class of the largest score, the first of equal ones |
//!
//! [`Model::read`] checks that the parts of a file fit together, so that no other checks are needed. If a
//! file has no `index_base`, its indices start at 1.
//!
//! ```
//! use nabla_data::{IndexBase, LibsvmText};
//! use nabla_solve::model::{Model, Predictor, Task};
//! use serde_json::Value;
//!
//! // y = 2 x_1 - x_2 + 1
//! let model = Model {
//!     nabla: env!("CARGO_PKG_VERSION").into(),
//!     method: "bcd".into(),
//!     features: 2,
//!     index_base: IndexBase::One,
//!     bias: true,
//!     positive: None,
//!     task: Task::Regression,
//!     configuration: Value::Null,
//!     result: Value::Null,
//!     predictor: Predictor::Linear(vec![vec![2.0, -1.0, 1.0]]),
//! };
//! let rows = LibsvmText::parse("2 1:1 2:1\n5 1:2\n")?.into_rows(IndexBase::One, None)?;
//! let scores = model.scores(&rows)?;
//! assert_eq!(scores, [[2.0], [5.0]]);
//! assert_eq!(model.measured_on(&rows)?.mean_squared_error, Some(0.0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use nabla_base::{OutputError, write_bytes_atomically};
use nabla_data::{IndexBase, LabelledRows};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::convex_relu::{ConvexReluError, DenseExamples, TwoLayerRelu};

/// The reason why a model cannot be read, written or applied.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is not a model, or its parts do not fit together.
    #[error("{} is not a model of `nabla solve`: {reason}", path.display())]
    NoModel {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The model cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The model contains values that JSON cannot represent.
    #[error("the model cannot be written as JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// The result of label propagation cannot be applied.
    #[error(
        "label propagation labels only the examples of its own file, so its result cannot be \
         applied to others"
    )]
    OwnExamplesOnly,
    /// The examples do not fit in memory as a dense table.
    #[error(
        "a network takes all features of all examples at once, but {examples} examples of {features} \
         features do not fit"
    )]
    TooLarge {
        /// How many examples there are.
        examples: usize,
        /// How many features each of them has.
        features: usize,
    },
    /// The network does not accept the examples.
    #[error(transparent)]
    Network(#[from] ConvexReluError),
}

/// More numbers than this do not fit as a dense table: 2 GB.
const MOST_DENSE: usize = 250_000_000;

/// The problem that was solved, and its solution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// The version of Nabla that wrote it.
    pub nabla: String,
    /// The subcommand of `nabla solve`.
    pub method: String,
    /// Number of features of an example.
    pub features: usize,
    /// Where the feature indices of its data file start.
    #[serde(default = "one")]
    pub index_base: IndexBase,
    /// Whether there is an additional last feature that is 1 in all examples.
    pub bias: bool,
    /// The label that became 1; all others became −1.
    pub positive: Option<f64>,
    /// The meaning of the scores.
    pub task: Task,
    /// The configuration of the method.
    pub configuration: Value,
    /// The result, with the certificate.
    pub result: Value,
    /// The computation of the scores.
    pub predictor: Predictor,
}

/// The index base of models that do not state it.
fn one() -> IndexBase {
    IndexBase::One
}

/// The meaning of the scores of an example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// The score is the label.
    Regression,
    /// The sign of the score is the label, −1 or 1.
    TwoClasses,
    /// There is one score for each of these labels, and the largest determines the label.
    Classes(Vec<f64>),
}

/// The computation of the scores of an example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Predictor {
    /// The products with these weights, one list for each score, the bias last.
    Linear(Vec<Vec<f64>>),
    /// The output of a network.
    Network(TwoLayerRelu),
    /// The labels that label propagation found for its own examples.
    Labels(Vec<f64>),
}

/// The quality of the predictions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The number of examples.
    pub examples: usize,
    /// The number of wrong labels; `None` for regression, or if the model knows none of the labels.
    pub wrong: Option<usize>,
    /// The share of correct labels.
    pub accuracy: Option<f64>,
    /// The mean squared error, for regression.
    pub mean_squared_error: Option<f64>,
    /// `1 − Σ (prediction − label)² / Σ (label − mean)²`; `None` if the labels are all the same.
    pub r_squared: Option<f64>,
}

impl Model {
    /// Reads a model, and checks that its parts fit.
    ///
    /// # Errors
    /// If the file cannot be read, is not a model, or its weights do not fit its features or scores.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let wrong = |reason: &dyn Display| ModelError::NoModel {
            path: path.into(),
            reason: reason.to_string(),
        };
        let text = fs::read_to_string(path).map_err(|source| ModelError::Read {
            path: path.into(),
            source,
        })?;
        let model: Self = serde_json::from_str(&text).map_err(|e| wrong(&e))?;
        let scores = match &model.task {
            Task::Classes(classes) if classes.len() < 2 => {
                return Err(wrong(&"it has fewer than 2 classes"));
            }
            Task::Classes(classes) => classes.len(),
            Task::Regression | Task::TwoClasses => 1,
        };
        match &model.predictor {
            Predictor::Linear(weights) => {
                let inputs = model.features.saturating_add(usize::from(model.bias));
                if weights.len() != scores || weights.iter().any(|w| w.len() != inputs) {
                    return Err(wrong(&format_args!(
                        "its weights must be {scores} times {inputs} numbers"
                    )));
                }
            }
            Predictor::Network(network) => {
                if scores != 1 || network.features() != model.features {
                    return Err(wrong(&format_args!(
                        "its network takes {} features and gives 1 score, but it has {} and {scores}",
                        network.features(),
                        model.features
                    )));
                }
            }
            Predictor::Labels(_) => {}
        }
        Ok(model)
    }

    /// Writes the model, completely or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ModelError> {
        let mut json = serde_json::to_vec_pretty(self).map_err(ModelError::Json)?;
        json.push(b'\n');
        Ok(write_bytes_atomically(path, &json)?)
    }

    /// The scores of all examples, `[examples][scores]`.
    ///
    /// # Errors
    /// If the model is from label propagation, or if it is a network and the examples do not fit in memory or
    /// have other features.
    pub fn scores(&self, rows: &LabelledRows) -> Result<Vec<Vec<f64>>, ModelError> {
        match &self.predictor {
            Predictor::Linear(weights) => {
                let score = |i: usize, w: &Vec<f64>| {
                    let constant = if self.bias { w[self.features] } else { 0.0 };
                    rows.dot(i, w) + constant
                };
                Ok((0..rows.len())
                    .map(|i| weights.iter().map(|w| score(i, w)).collect())
                    .collect())
            }
            Predictor::Network(network) => {
                let outputs = network.outputs(dense(rows)?.features())?;
                Ok(outputs.into_iter().map(|score| vec![score]).collect())
            }
            Predictor::Labels(_) => Err(ModelError::OwnExamplesOnly),
        }
    }

    /// The label according to the scores of an example.
    pub fn label(&self, scores: &[f64]) -> f64 {
        match &self.task {
            Task::Regression => scores[0],
            Task::TwoClasses if scores[0] > 0.0 => 1.0,
            Task::TwoClasses => -1.0,
            Task::Classes(classes) => {
                let mut best = 0;
                for (class, score) in scores.iter().enumerate() {
                    if *score > scores[best] {
                        best = class;
                    }
                }
                classes[best]
            }
        }
    }

    /// The label of a file in the form of the model.
    pub fn known_label(&self, label: f64) -> f64 {
        match self.positive {
            Some(positive) if label == positive => 1.0,
            Some(_) => -1.0,
            None => label,
        }
    }

    /// Measures `predictions` against `labels`, both in the form of the model.
    pub fn measure(&self, predictions: &[f64], labels: &[f64]) -> Measured {
        let pairs = || predictions.iter().zip(labels);
        let examples = labels.len();
        let mut measured = Measured {
            examples,
            wrong: None,
            accuracy: None,
            mean_squared_error: None,
            r_squared: None,
        };
        let known = match &self.task {
            Task::Regression => {
                let squares: f64 = pairs().map(|(p, y)| (p - y).powi(2)).sum();
                let mean = labels.iter().sum::<f64>() / examples as f64;
                let spread: f64 = labels.iter().map(|y| (y - mean).powi(2)).sum();
                measured.mean_squared_error = Some(squares / examples as f64);
                measured.r_squared = (spread > 0.0).then(|| 1.0 - squares / spread);
                false
            }
            Task::TwoClasses => labels.iter().any(|y| y.abs() == 1.0),
            Task::Classes(classes) => labels.iter().any(|y| classes.contains(y)),
        };
        if known {
            let wrong = pairs().filter(|(p, y)| p != y).count();
            measured.wrong = Some(wrong);
            measured.accuracy = Some(1.0 - wrong as f64 / examples as f64);
        }
        measured
    }

    /// Measures the model on examples with the labels of their file.
    ///
    /// # Errors
    /// As [`Self::scores`].
    pub fn measured_on(&self, rows: &LabelledRows) -> Result<Measured, ModelError> {
        let scores = self.scores(rows)?;
        let predictions: Vec<f64> = scores.iter().map(|s| self.label(s)).collect();
        let labels = rows.labels().iter().map(|&y| self.known_label(y));
        Ok(self.measure(&predictions, &labels.collect::<Vec<_>>()))
    }
}

/// A sparse table as a dense one, if it fits.
///
/// # Errors
/// If it would have more than 250 million numbers, or there are no examples.
pub fn dense(rows: &LabelledRows) -> Result<DenseExamples, ModelError> {
    match rows.len().checked_mul(rows.features() + 1) {
        Some(count) if count <= MOST_DENSE => Ok(DenseExamples::try_from(rows)?),
        _ => Err(ModelError::TooLarge {
            examples: rows.len(),
            features: rows.features(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use nabla_data::LibsvmText;

    use super::*;

    fn rows(text: &str) -> LabelledRows {
        let text = LibsvmText::parse(text).unwrap();
        text.into_rows(IndexBase::One, Some(2)).unwrap()
    }

    fn model(task: Task, weights: Vec<Vec<f64>>) -> Model {
        Model {
            nabla: "0".to_owned(),
            method: "bcd".to_owned(),
            features: 2,
            index_base: IndexBase::One,
            bias: true,
            positive: None,
            task,
            configuration: Value::Null,
            result: Value::Null,
            predictor: Predictor::Linear(weights),
        }
    }

    #[test]
    fn a_model_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.json");
        let whole = model(Task::Classes(vec![1.0, 2.0, 7.0]), vec![vec![0.5; 3]; 3]);
        whole.write(&path).unwrap();
        assert_eq!(Model::read(&path).unwrap(), whole);
        // One that does not say where its indices count from counts from 1.
        let text = fs::read_to_string(&path).unwrap();
        let old = text.replace("  \"index_base\": \"one\",\n", "");
        assert_ne!(old, text);
        fs::write(&path, old).unwrap();
        assert_eq!(Model::read(&path).unwrap(), whole);
    }

    #[test]
    fn models_whose_parts_do_not_fit_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.json");
        let told = |path: &Path| Model::read(path).unwrap_err().to_string();
        assert!(told(&path).starts_with("cannot read"));
        fs::write(&path, "{").unwrap();
        assert!(told(&path).contains("is not a model"));
        for (task, weights, reason) in [
            (Task::Classes(vec![1.0]), vec![vec![0.0; 3]], "2 classes"),
            (Task::Regression, vec![vec![0.0; 2]], "1 times 3 numbers"),
            (Task::TwoClasses, vec![vec![0.0; 3]; 2], "1 times 3 numbers"),
        ] {
            model(task, weights).write(&path).unwrap();
            assert!(told(&path).contains(reason), "{}", told(&path));
        }
    }

    #[test]
    fn scores_show_labels_and_are_measured() {
        let rows = rows("3 1:1\n7 2:1\n3 1:-1\n");
        let weights = vec![vec![1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0]];
        let classes = model(Task::Classes(vec![3.0, 7.0]), weights);
        let measured = classes.measured_on(&rows).unwrap();
        // The last example has the scores -1 and 0.
        assert_eq!((measured.examples, measured.wrong), (3, Some(1)));
        assert!((measured.accuracy.unwrap() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(classes.label(&[0.5, 0.5]), 3.0);

        let mut two = model(Task::TwoClasses, vec![vec![1.0, -1.0, 0.0]]);
        two.positive = Some(3.0);
        let measured = two.measured_on(&rows).unwrap();
        assert_eq!((two.known_label(3.0), two.known_label(7.0)), (1.0, -1.0));
        assert_eq!(measured.wrong, Some(1));

        let line = model(Task::Regression, vec![vec![0.0, 4.0, 3.0]]);
        let measured = line.measured_on(&rows).unwrap();
        assert_eq!(measured.mean_squared_error, Some(0.0));
        assert_eq!((measured.r_squared, measured.wrong), (Some(1.0), None));
    }

    #[test]
    fn labels_that_were_propagated_belong_to_their_own_examples() {
        let mut labels = model(Task::Classes(vec![1.0, 2.0]), Vec::new());
        labels.predictor = Predictor::Labels(vec![1.0, 2.0]);
        let error = labels.scores(&rows("1 1:1\n")).unwrap_err();
        assert!(matches!(error, ModelError::OwnExamplesOnly));
    }
}
