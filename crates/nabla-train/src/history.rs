//! The history of a training, step by step and epoch by epoch.

use serde::{Deserialize, Serialize};

use crate::validation::{Measured, NamedEpoch};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Mean loss over the batch, before the step; the sum of the losses, if there were several. None if there were no
    /// examples, as a private training can draw.
    pub loss: Option<f32>,
    /// Euclidean norm of the gradient before it was limited; over all updates, if there were several.
    pub gradient_norm: f32,
    /// The learning rate; that of the first update, if there were several.
    pub learning_rate: f64,
}

/// One epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Epochs done, this one included.
    pub epoch: usize,
    /// Mean loss of the epoch's examples, each at the time of its batch.
    pub training_loss: f64,
    /// The share of these examples that was classified correctly then.
    pub training_accuracy: f64,
    /// Mean loss of the test examples after the epoch.
    pub test_loss: f64,
    /// The share of the test examples that is classified correctly.
    pub test_accuracy: f64,
}

/// The times, in seconds of wall clock time. They are not reproducible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// All steps: batches, forward, backward, optimizer.
    pub steps: f64,
    /// The optimizer's part of it, including the clipping of gradients.
    pub optimizer: f64,
    /// Measuring on the test examples.
    pub evaluation: f64,
}

/// A training so far; `R` is the type of the task's measurements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History<R = EpochRecord> {
    /// Every step.
    pub steps: Vec<StepRecord>,
    /// All measurements; for a classifier, every completed epoch.
    pub epochs: Vec<R>,
    /// The time.
    pub timing: Timing,
}

impl<R> Default for History<R> {
    fn default() -> Self {
        Self {
            steps: Vec::new(),
            epochs: Vec::new(),
            timing: Timing::default(),
        }
    }
}

impl<R> History<R> {
    /// The last measurement.
    pub fn last(&self) -> Option<&R> {
        self.epochs.last()
    }

    /// The loss of every step that had examples.
    pub fn losses(&self) -> Vec<f32> {
        self.steps.iter().filter_map(|step| step.loss).collect()
    }

    /// The steps as CSV, with a header; where there is no loss, the field is empty.
    pub fn steps_csv(&self) -> String {
        let mut text = String::from("step,loss,gradient_norm,learning_rate\n");
        for (i, s) in self.steps.iter().enumerate() {
            text += &format!(
                "{},{},{},{}\n",
                i + 1,
                s.loss.map_or_else(String::new, |loss| loss.to_string()),
                s.gradient_norm,
                s.learning_rate
            );
        }
        text
    }
}

impl History {
    /// The epochs, whose measurements have the name of their examples.
    ///
    /// - `measured`: what these examples are
    pub fn named_epochs(&self, measured: Measured) -> Vec<NamedEpoch> {
        self.epochs.iter().map(|e| measured.named(e)).collect()
    }

    /// The history as JSON, in which measurements have the name of their examples.
    ///
    /// # Errors
    /// If a number has no form in JSON.
    pub fn json(&self, measured: Measured) -> Result<Vec<u8>, serde_json::Error> {
        #[derive(Serialize)]
        struct Named<'a> {
            steps: &'a [StepRecord],
            epochs: Vec<NamedEpoch>,
            timing: Timing,
        }
        serde_json::to_vec_pretty(&Named {
            steps: &self.steps,
            epochs: self.named_epochs(measured),
            timing: self.timing,
        })
    }

    /// The epochs as CSV, with a header.
    ///
    /// - `measured`: what the examples are by which they were measured
    pub fn epochs_csv(&self, measured: Measured) -> String {
        let part = measured.name();
        let mut text =
            format!("epoch,training_loss,training_accuracy,{part}_loss,{part}_accuracy\n");
        for e in &self.epochs {
            text += &format!(
                "{},{},{},{},{}\n",
                e.epoch, e.training_loss, e.training_accuracy, e.test_loss, e.test_accuracy
            );
        }
        text
    }
}
