//! The file of a classifier's training: an experiment, and how its gradients are made.

use std::path::{Path, PathBuf};

use nabla::align::domain_config::DomainConfig;
use nabla::private::private_training::PrivacyConfig;
use nabla::probe::robust_gradients::RobustGradient;
use nabla::quantize::QuantizationConfig;
use nabla::share::coded_training::CodingConfig;
use nabla::share::data_parallel::SharingConfig;
use nabla::train::classification::TrainingConfig;
use nabla::train::data_set::DataConfig;
use nabla::train::experiment::{Experiment, ModelConfig};
use serde::{Deserialize, Serialize};

use crate::errors::Failure;
use crate::jobs::sharing_flags::Sharing;
use crate::recipe_file::{read_toml, wrong_toml};

/// The name of a choice without options that is given one, and the option. Serde takes any field for such a choice.
fn option_of_none(given: &toml::Table, known: &toml::Table) -> Option<(String, String)> {
    if let (1, Some(name)) = (known.len(), known.get("name").and_then(toml::Value::as_str))
        && let Some(key) = given.keys().find(|key| *key != "name")
    {
        return Some((name.to_owned(), key.clone()));
    }
    given.iter().find_map(|(key, value)| {
        let (given, known) = (value.as_table()?, known.get(key)?.as_table()?);
        option_of_none(given, known)
    })
}

/// What the file has.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingRecipe {
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<PathBuf>,
    data: DataConfig,
    model: ModelConfig,
    training: TrainingConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantization: Option<QuantizationConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    privacy: Option<PrivacyConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sharing: Option<SharingConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coding: Option<CodingConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    robust: Option<RobustGradient>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domains: Option<DomainConfig>,
}

/// How the gradients are made, if not from the mean loss of a batch.
#[derive(Clone, Default)]
pub struct Sources {
    /// Privately.
    pub privacy: Option<PrivacyConfig>,
    /// By several workers.
    pub sharing: Sharing,
    /// Averaged robustly.
    pub robust: Option<RobustGradient>,
    /// On several domains.
    pub domains: Option<DomainConfig>,
}

impl TrainingRecipe {
    /// The recipe of an experiment.
    pub fn new(experiment: &Experiment, sources: &Sources) -> Self {
        let Experiment {
            data,
            model,
            training,
            start,
            quantization,
        } = experiment.clone();
        Self {
            start,
            data,
            model,
            training,
            quantization,
            privacy: sources.privacy.clone(),
            sharing: sources.sharing.parts.clone(),
            coding: sources.sharing.coded.clone(),
            robust: sources.robust,
            domains: sources.domains.clone(),
        }
    }

    /// The recipe in a file, or the defaults.
    ///
    /// # Errors
    /// If the file cannot be read, or is no recipe.
    pub fn read(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let given: toml::Table = read_toml(path, "an experiment")?;
        let wrong = |reason: &dyn std::fmt::Display| wrong_toml(path, "an experiment", reason);
        let recipe: Self = given
            .clone()
            .try_into()
            .map_err(|e: toml::de::Error| wrong(&e.message()))?;
        let known = toml::Table::try_from(&recipe).map_err(Failure::run)?;
        match option_of_none(&given, &known) {
            Some((name, key)) => Err(wrong(&format!("{name} has no option `{key}`"))),
            None => Ok(recipe),
        }
    }

    /// The experiment, and how its gradients are made.
    pub fn parts(self) -> (Experiment, Sources) {
        let Self {
            start,
            data,
            model,
            training,
            quantization,
            privacy,
            sharing,
            coding,
            robust,
            domains,
        } = self;
        let experiment = Experiment {
            data,
            model,
            training,
            start,
            quantization,
        };
        let sharing = Sharing {
            parts: sharing,
            coded: coding,
        };
        let sources = Sources {
            privacy,
            sharing,
            robust,
            domains,
        };
        (experiment, sources)
    }

    /// The text of its file.
    ///
    /// # Errors
    /// If a value has no form in TOML.
    pub fn text(&self) -> Result<String, Failure> {
        toml::to_string_pretty(self).map_err(Failure::run)
    }
}
