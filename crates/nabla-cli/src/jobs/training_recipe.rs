//! The file of a classifier's training: an experiment, and how its gradients are made.

use std::path::Path;

use nabla::private::private_training::PrivacyConfig;
use nabla::share::coded_training::CodingConfig;
use nabla::share::data_parallel::SharingConfig;
use nabla::train::classification::TrainingConfig;
use nabla::train::data_set::DataConfig;
use nabla::train::experiment::{Experiment, ModelConfig};
use serde::{Deserialize, Serialize};

use crate::errors::Failure;
use crate::jobs::sharing_flags::Sharing;
use crate::recipe_file::read_toml;

/// What the file has.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingRecipe {
    data: DataConfig,
    model: ModelConfig,
    training: TrainingConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    privacy: Option<PrivacyConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sharing: Option<SharingConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coding: Option<CodingConfig>,
}

/// How the gradients are made, if not from the mean loss of a batch.
#[derive(Clone, Default)]
pub struct Sources {
    /// Privately.
    pub privacy: Option<PrivacyConfig>,
    /// By several workers.
    pub sharing: Sharing,
}

impl TrainingRecipe {
    /// The recipe of an experiment.
    pub fn new(experiment: &Experiment, sources: &Sources) -> Self {
        let Experiment {
            data,
            model,
            training,
        } = experiment.clone();
        Self {
            data,
            model,
            training,
            privacy: sources.privacy.clone(),
            sharing: sources.sharing.parts.clone(),
            coding: sources.sharing.coded.clone(),
        }
    }

    /// The recipe in a file, or the defaults.
    ///
    /// # Errors
    /// If the file cannot be read, or is no recipe.
    pub fn read(path: Option<&Path>) -> Result<Self, Failure> {
        match path {
            Some(path) => read_toml(path, "an experiment"),
            None => Ok(Self::default()),
        }
    }

    /// The experiment, and how its gradients are made.
    pub fn parts(self) -> (Experiment, Sources) {
        let Self {
            data,
            model,
            training,
            privacy,
            sharing,
            coding,
        } = self;
        let experiment = Experiment {
            data,
            model,
            training,
        };
        let sharing = Sharing {
            parts: sharing,
            coded: coding,
        };
        (experiment, Sources { privacy, sharing })
    }

    /// The text of its file.
    ///
    /// # Errors
    /// If a value has no form in TOML.
    pub fn text(&self) -> Result<String, Failure> {
        toml::to_string_pretty(self).map_err(Failure::run)
    }
}
