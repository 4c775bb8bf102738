//! Examples that choose among the weights of a training, in place of examples that test them.
//!
//! The examples by which a training is measured after every epoch are usually those of the test. A source of gradients
//! may hand it validation examples instead ([`GradientSources::validation`](crate::gradient_source::GradientSources)), in
//! groups that count alike: the accuracy of an epoch is then the mean of the groups' accuracies, and the weights after the
//! epoch with the highest one are kept.

use nabla_base::choices;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::history::EpochRecord;

/// Which weights a training leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// Those after the epoch with the highest validation accuracy, the first of several.
    #[default]
    Best,
    /// Those after the last epoch.
    Last,
}

choices! {
    Keep: "choice of weights" {
        "best" => Self::Best, "Those after the epoch with the highest validation accuracy (default)";
        "last" => Self::Last, "Those after the last epoch";
    }
}

/// How a training is measured by validation examples; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// The numbers of examples of the groups, in the order of the data set's test examples.
    pub groups: Vec<usize>,
    /// Which weights are left.
    pub keep: Keep,
    /// Where the examples come from, for checkpoints: by name, what else belongs to the identity of the training.
    pub settings: Map<String, Value>,
}

/// What the examples are by which a training is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measured {
    /// Those of the test.
    #[default]
    Test,
    /// Those of the validation.
    Validation,
}

impl Measured {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Validation => "validation",
        }
    }

    /// An epoch whose measurement has this name in files.
    pub fn named(self, epoch: &EpochRecord) -> NamedEpoch {
        match self {
            Self::Test => NamedEpoch::Test(*epoch),
            Self::Validation => NamedEpoch::Validation {
                epoch: epoch.epoch,
                training_loss: epoch.training_loss,
                training_accuracy: epoch.training_accuracy,
                validation_loss: epoch.test_loss,
                validation_accuracy: epoch.test_accuracy,
            },
        }
    }
}

/// An epoch in files.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum NamedEpoch {
    /// Measured on test examples.
    Test(EpochRecord),
    /// Measured on validation examples; the numbers are those of an [`EpochRecord`].
    Validation {
        /// Epochs done.
        epoch: usize,
        /// Mean loss of the epoch's examples.
        training_loss: f64,
        /// The share of them that was classified correctly.
        training_accuracy: f64,
        /// The loss of the validation examples.
        validation_loss: f64,
        /// Their accuracy.
        validation_accuracy: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_the_name_of_its_examples() {
        let epoch = EpochRecord {
            epoch: 1,
            training_loss: 0.5,
            training_accuracy: 0.25,
            test_loss: 2.0,
            test_accuracy: 0.75,
        };
        let text = |measured: Measured| serde_json::to_string(&measured.named(&epoch)).unwrap();
        let test = r#"{"epoch":1,"training_loss":0.5,"training_accuracy":0.25,"test_loss":2.0,"test_accuracy":0.75}"#;
        assert_eq!(text(Measured::Test), test);
        assert_eq!(
            text(Measured::Validation),
            test.replace("test_", "validation_")
        );
    }
}
