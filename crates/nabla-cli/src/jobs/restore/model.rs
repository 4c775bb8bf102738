//! The prior of a restoration: a model of `nabla train denoiser`, or a super-resolution prior.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use nabla::diffusion::class_denoiser::ClassDenoiser;
use nabla::diffusion::denoiser::{Condition, RowConditions};
use nabla::diffusion::level::Levels;
use nabla::diffusion::prior::SuperResolutionPrior;
use nabla::diffusion::restore::{
    PriorDenoiser, Problem, Restoration, RestoreError, Restored, Restorer,
};
use nabla::diffusion::sampler_error::SamplerError;

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

    /// The levels of a run; of the number that a method is published with, at most as many as there are.
    pub fn levels(&self, steps: Option<u32>, usual: usize) -> Result<Levels, Failure> {
        let of = |steps: usize| match self {
            Self::Classes { network, .. } => network.levels(steps).map_err(Failure::input),
            Self::Prior(prior) => {
                let training = PriorDenoiser::noise_schedule(prior).map_err(Failure::input)?;
                let spacing = nabla::diffusion::schedule::Spacing::Trailing;
                let schedule = training.respace(spacing, steps).map_err(Failure::input)?;
                Ok(schedule.into())
            }
        };
        match steps {
            Some(steps) => of(steps as usize),
            None => of(usual).or_else(|_| of(usual - 1)),
        }
    }

    /// Restores.
    ///
    /// - `estimate`: what the prior takes for the blurred picture
    pub fn restore(
        &self,
        restorer: &dyn Restorer,
        problem: &Problem,
        levels: &Levels,
        run: impl FnOnce(Restoration<'_>) -> Restoration<'_>,
        estimate: impl FnOnce() -> Result<Tensor<4>, Failure>,
        [tile, seed]: [u64; 2],
    ) -> Result<Restored, Failure> {
        let restoration = run(Restoration::new(restorer, problem, levels));
        match self {
            Self::Classes { network, condition } => {
                let rows = problem.measurement().dims()[0];
                let model = RowConditions::new(network.as_ref(), vec![*condition; rows]);
                Ok(restoration.run(&model, seed)?)
            }
            Self::Prior(prior) => {
                let model = PriorDenoiser::new(prior, estimate()?, tile as usize);
                Ok(restoration.run(&model.map_err(Failure::input)?, seed)?)
            }
        }
    }
}
