//! The prior of a restoration: a model of `nabla train denoiser`, or a super-resolution prior.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use nabla::diffusion::class_denoiser::ClassDenoiser;
use nabla::diffusion::correction::Correction;
use nabla::diffusion::denoiser::{Condition, RowConditions};
use nabla::diffusion::level::Levels;
use nabla::diffusion::prior::SuperResolutionPrior;
use nabla::diffusion::restore::{
    OperatorRecipe, PriorDenoiser, Problem, Restoration, RestoreError, Restored, Restorer,
};
use nabla::diffusion::sampler::Solver;
use nabla::diffusion::sampler_error::SamplerError;
use nabla::diffusion::schedule::Spacing;

use crate::errors::Failure;

/// The model.
pub enum Model {
    Classes {
        network: Box<ClassDenoiser>,
        condition: Condition,
    },
    Prior(Box<SuperResolutionPrior>),
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Sampler(SamplerError::Cancelled) => Self::interrupted(),
            other => Self::input(other),
        }
    }
}

impl Model {
    /// Loads a folder, or the embedded prior.
    pub fn load(
        folder: Option<&PathBuf>,
        class: Option<&str>,
        device: &Device,
    ) -> Result<Self, Failure> {
        let not_classes = |path: &Path| match class {
            Some(_) => Err(Failure::input(format!(
                "--class is for a model of nabla train denoiser, but {} is a super-resolution prior",
                path.display()
            ))),
            None => Ok(()),
        };
        match folder {
            Some(folder) if ClassDenoiser::is_folder(folder) => {
                let network = ClassDenoiser::load(folder, device).map_err(Failure::input)?;
                let condition = match class {
                    Some(name) => {
                        Condition::Given(network.config().class(name).map_err(Failure::input)?)
                    }
                    None => Condition::Without,
                };
                Ok(Self::Classes {
                    network: Box::new(network),
                    condition,
                })
            }
            Some(folder) => {
                not_classes(folder)?;
                Ok(Self::Prior(Box::new(SuperResolutionPrior::load(
                    folder, device,
                )?)))
            }
            None => {
                not_classes(Path::new("the embedded model"))?;
                Ok(Self::Prior(Box::new(SuperResolutionPrior::embedded(
                    device,
                )?)))
            }
        }
    }

    /// The channels of its pictures.
    pub fn channels(&self) -> usize {
        match self {
            Self::Classes { network, .. } => network.config().shape[0],
            Self::Prior(_) => 3,
        }
    }

    /// `[height, width]` of its pictures, if it knows one size only.
    pub fn sides(&self) -> Option<[usize; 2]> {
        match self {
            Self::Classes { network, .. } => {
                let [_, height, width] = network.config().shape;
                Some([height, width])
            }
            Self::Prior(_) => None,
        }
    }

    /// The levels of a run. Without a number of steps: for a super-resolution prior those that it is made for, because each
    /// further one costs fidelity, unless the method approaches the measurement step by step; otherwise those that the
    /// method is published with.
    pub fn levels(&self, steps: Option<u32>, method: &dyn Restorer) -> Result<Levels, Failure> {
        let usual = match self {
            Self::Prior(prior) if !method.differentiates() => prior.config().sampling_steps,
            // One less than training steps, because the last level of a prior has nothing of the picture.
            _ => method.steps().min(999),
        };
        let steps = steps.map_or(usual, |steps| steps as usize);
        Ok(match self {
            Self::Classes { network, .. } => network.levels(steps).map_err(Failure::input)?,
            Self::Prior(prior) => {
                let training = PriorDenoiser::noise_schedule(prior).map_err(Failure::input)?;
                let schedule = training.respace(Spacing::Trailing, steps);
                schedule.map_err(Failure::input)?.into()
            }
        })
    }

    /// Restores pictures.
    pub fn restore(
        &self,
        restorer: &dyn Restorer,
        recipe: &dyn OperatorRecipe,
        problem: &Problem,
        levels: &Levels,
        options: RunOptions,
        observe: &mut dyn Correction,
    ) -> Result<Restored, Failure> {
        let mut restoration = Restoration::new(restorer, problem, levels).observed_by(observe);
        if let Some(solver) = options.solver {
            restoration = restoration.sampled_by(solver);
        }
        match self {
            Self::Classes { network, condition } => {
                let rows = problem.measurement().dims()[0];
                let model = RowConditions::new(network.as_ref(), vec![*condition; rows]);
                Ok(restoration.run(&model, options.seed)?)
            }
            Self::Prior(prior) => {
                let estimate = recipe.first_estimate(problem).map_err(Failure::input)?;
                let estimate = estimate.ok_or_else(|| {
                    Failure::input(
                        "a super-resolution prior needs a picture to begin with, but a scan shows none: give a model of \
                         nabla train denoiser with --model",
                    )
                })?;
                let model = PriorDenoiser::new(prior, estimate, options.tile);
                Ok(restoration.run(&model.map_err(Failure::input)?, options.seed)?)
            }
        }
    }
}

/// How a run goes.
pub struct RunOptions {
    /// Instead of the method's own sampler.
    pub solver: Option<Arc<dyn Solver>>,
    /// For a super-resolution prior.
    pub tile: usize,
    pub seed: u64,
}
