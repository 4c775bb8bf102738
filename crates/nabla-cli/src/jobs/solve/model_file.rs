//! The model that a solver leaves: a JSON file with the method, what it was told, the weights and the
//! certificate.

use std::fs;
use std::path::Path;

use nabla::base::write_bytes_atomically;
use nabla::data::{IndexBase, LabelledRows};
use nabla::solve::convex_relu::{DenseExamples, TwoLayerRelu};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::errors::Failure;

/// More numbers than this do not fit as a dense table: 2 GB.
const MOST_DENSE: usize = 250_000_000;

/// What was solved, and what came out.
#[derive(Serialize, Deserialize)]
pub struct Model {
    /// The version of the program.
    pub nabla: String,
    /// The subcommand of `nabla solve`.
    pub method: String,
    /// Number of features of an example.
    pub features: usize,
    /// From where the indices of features count in the file that it is of.
    #[serde(default = "one")]
    pub index_base: IndexBase,
    /// Whether they are followed by one that is 1 in all examples.
    pub bias: bool,
    /// The label that became 1, against all others.
    pub positive: Option<f64>,
    /// What the scores say.
    pub task: Task,
    /// What the method was told.
    pub configuration: Value,
    /// What it found, with the certificate.
    pub result: Value,
    /// What gives the scores.
    pub predictor: Predictor,
}

/// What the models count from that do not say it.
fn one() -> IndexBase {
    IndexBase::One
}

/// What the scores of an example say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// The score is the label.
    Regression,
    /// The sign of the score is the label, −1 or 1.
    TwoClasses,
    /// The largest of the scores, one for each of these labels, shows the label.
    Classes(Vec<f64>),
}

/// What gives the scores of an example.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Predictor {
    /// The products with these weights, one list for each score, the bias last.
    Linear(Vec<Vec<f64>>),
    /// The output of a network.
    Network(TwoLayerRelu),
    /// The labels that label propagation found for its own examples.
    Labels(Vec<f64>),
}

/// How good the predictions are.
#[derive(Serialize)]
pub struct Measured {
    /// Of so many examples.
    examples: usize,
    /// How many of them got another label than they have; nothing for regression, or if no label of the
    /// examples is one of the model's.
    wrong: Option<usize>,
    /// The share of the others.
    accuracy: Option<f64>,
    /// Of regression.
    mean_squared_error: Option<f64>,
    /// `1 − Σ (prediction − label)² / Σ (label − mean)²`; nothing if the labels are all the same.
    r_squared: Option<f64>,
}

impl Model {
    /// Reads a model, and checks that its parts fit.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let wrong = |reason: String| {
            Failure::input(format!(
                "{} is not a model of `nabla solve`: {reason}",
                path.display()
            ))
        };
        let text = fs::read_to_string(path)
            .map_err(|e| Failure::input(format!("cannot read {}: {e}", path.display())))?;
        let model: Self = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let scores = match &model.task {
            Task::Classes(classes) if classes.len() < 2 => {
                return Err(wrong("it has fewer than 2 classes".into()));
            }
            Task::Classes(classes) => classes.len(),
            Task::Regression | Task::TwoClasses => 1,
        };
        match &model.predictor {
            Predictor::Linear(weights) => {
                let inputs = model.features.saturating_add(usize::from(model.bias));
                if weights.len() != scores || weights.iter().any(|w| w.len() != inputs) {
                    return Err(wrong(format!(
                        "its weights must be {scores} times {inputs} numbers"
                    )));
                }
            }
            Predictor::Network(network) => {
                if scores != 1 || network.features() != model.features {
                    return Err(wrong(format!(
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

    /// Writes the model, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let mut json = serde_json::to_vec_pretty(self).map_err(Failure::run)?;
        json.push(b'\n');
        Ok(write_bytes_atomically(path, &json)?)
    }

    /// The scores of all examples, `[examples][scores]`.
    pub fn scores(&self, rows: &LabelledRows) -> Result<Vec<Vec<f64>>, Failure> {
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
                let outputs = network
                    .outputs(dense(rows)?.features())
                    .map_err(Failure::input)?;
                Ok(outputs.into_iter().map(|score| vec![score]).collect())
            }
            Predictor::Labels(_) => Err(Failure::input(
                "label propagation gives labels to the examples of its own file only, so that its \
                 result cannot be applied to others",
            )),
        }
    }

    /// The label that the scores of an example show.
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

    /// The label of a file as the model knows it.
    pub fn known_label(&self, label: f64) -> f64 {
        match self.positive {
            Some(positive) if label == positive => 1.0,
            Some(_) => -1.0,
            None => label,
        }
    }

    /// How good `predictions` are for `labels`, both as the model knows them.
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

    /// How good the model is on examples whose labels are as in their file.
    pub fn measured_on(&self, rows: &LabelledRows) -> Result<Measured, Failure> {
        let scores = self.scores(rows)?;
        let predictions: Vec<f64> = scores.iter().map(|s| self.label(s)).collect();
        let labels = rows.labels().iter().map(|&y| self.known_label(y));
        Ok(self.measure(&predictions, &labels.collect::<Vec<_>>()))
    }
}

/// A sparse table as a dense one, if it fits.
pub fn dense(rows: &LabelledRows) -> Result<DenseExamples, Failure> {
    match rows.len().checked_mul(rows.features() + 1) {
        Some(count) if count <= MOST_DENSE => DenseExamples::try_from(rows).map_err(Failure::input),
        _ => Err(Failure::input(format!(
            "a network takes all features of all examples at once, but {} examples of {} features \
             do not fit",
            rows.len(),
            rows.features()
        ))),
    }
}

impl Measured {
    /// In a line.
    ///
    /// - `what`: the examples
    pub fn told(&self, what: &str) -> String {
        let mut text = format!("{what}: ");
        match (self.accuracy, self.wrong, self.mean_squared_error) {
            (Some(accuracy), Some(wrong), _) => {
                text += &format!(
                    "{:.2} % right ({wrong} of {} wrong)",
                    100.0 * accuracy,
                    self.examples
                );
            }
            (_, _, Some(error)) => {
                text += &format!("root of the mean squared error {:.4}", error.sqrt());
                if let Some(r_squared) = self.r_squared {
                    text += &format!(", R² {r_squared:.4}");
                }
                text += &format!(" ({} examples)", self.examples);
            }
            _ => text += "not measured, as no label is one of the model's",
        }
        text + "\n"
    }
}
