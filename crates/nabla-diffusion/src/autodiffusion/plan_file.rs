//! A plan as a file: what was found, for which kind of model, with which sampler and guidance.

use std::fs;
use std::path::{Path, PathBuf};

use nabla_base::{OutputError, write_bytes_atomically};
use serde::{Deserialize, Serialize};

use super::{Plan, PlanError, Space};
use crate::registry::Options;

/// The usual name of the file.
pub const PLAN_FILE: &str = "plan.json";

/// The reason why a plan's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    /// The file cannot be read.
    #[error("cannot read the plan {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] OutputError),
    /// A number of the plan cannot be written as JSON.
    #[error("the plan cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// The file is something else.
    #[error("{} is not a plan of `nabla search steps`: {reason}", path.display())]
    NoPlan {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The plan was searched for another kind of model.
    #[error("the plan is for a {plan}, but the model is a {model}")]
    OtherModel {
        /// The kind of the plan.
        plan: String,
        /// The kind of the model.
        model: String,
    },
    /// The plan does not fit the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// The kind of model that a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedModel {
    /// A model of `nabla train denoiser`.
    ClassDenoiser,
    /// Stable Diffusion.
    StableDiffusion,
}

impl std::fmt::Display for PlannedModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ClassDenoiser => "denoiser of labelled pictures",
            Self::StableDiffusion => "Stable Diffusion model",
        })
    }
}

/// What a plan was chosen by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanScore {
    /// What the number is, such as "FD (cnn)".
    pub name: String,
    /// The lower the better.
    pub value: f64,
    /// The number of pictures that it was computed from.
    pub pictures: usize,
}

/// A plan and what it is for. A file is indented JSON.
///
/// ```
/// use nabla_diffusion::autodiffusion::{Plan, PlanFile, PlannedModel, Space};
/// use nabla_diffusion::registry::Options;
///
/// let file = PlanFile {
///     model: PlannedModel::ClassDenoiser,
///     space: Space { steps: 1000, blocks: 7 },
///     sampler: "ddim".to_owned(),
///     sampler_options: Options::new(),
///     guidance: "classifier-free".to_owned(),
///     guidance_scale: Some(2.0),
///     score: None,
///     steps: Plan::of_steps([100, 600])?,
/// };
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("plan.json");
/// file.write(&path)?;
/// assert_eq!(PlanFile::read(&path)?, file);
/// let other = file.check(PlannedModel::StableDiffusion, Space { steps: 1000, blocks: 7 });
/// assert!(other.is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// The kind of the model.
    pub model: PlannedModel,
    /// What the model offers.
    pub space: Space,
    /// The sampler's name.
    pub sampler: String,
    /// Its options, besides the defaults.
    #[serde(default)]
    pub sampler_options: Options,
    /// The guidance's name.
    pub guidance: String,
    /// Its scale, if it has one.
    pub guidance_scale: Option<f64>,
    /// What it was chosen by; none if it was not.
    pub score: Option<PlanScore>,
    /// The plan.
    pub steps: Plan,
}

impl PlanFile {
    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or holds no plan.
    pub fn read(path: &Path) -> Result<Self, PlanFileError> {
        let bytes = fs::read(path).map_err(|source| PlanFileError::Read {
            path: path.to_owned(),
            source,
        })?;
        let no_plan = |reason: String| PlanFileError::NoPlan {
            path: path.to_owned(),
            reason,
        };
        let file: Self = serde_json::from_slice(&bytes).map_err(|e| no_plan(e.to_string()))?;
        file.steps
            .check(file.space)
            .map_err(|e| no_plan(e.to_string()))?;
        Ok(file)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PlanFileError> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(write_bytes_atomically(path, text.as_bytes())?)
    }

    /// Checks that the plan is for such a model. A plan that skips no blocks is for networks of any size.
    ///
    /// # Errors
    /// If it is for another kind, for other training steps, or skips blocks of another network.
    pub fn check(&self, model: PlannedModel, space: Space) -> Result<(), PlanFileError> {
        let told = |model: PlannedModel, space: Space| {
            format!(
                "{model} with {} training steps and {} blocks",
                space.steps, space.blocks
            )
        };
        let same_blocks = self.steps.skipped() == 0 || self.space.blocks == space.blocks;
        match self.model == model && self.space.steps == space.steps && same_blocks {
            true => Ok(self.steps.check(space)?),
            false => Err(PlanFileError::OtherModel {
                plan: told(self.model, self.space),
                model: told(model, space),
            }),
        }
    }
}
