//! The prior of a restoration, from a folder: a class-conditional denoiser, or a super-resolution prior.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;

use crate::class_denoiser::{ClassDenoiser, ClassDenoiserError};
use crate::correction::Correction;
use crate::denoiser::{Condition, RowConditions};
use crate::level::Levels;
use crate::prior::{PriorError, SuperResolutionPrior};
use crate::sampler::Solver;
use crate::schedule::{ScheduleError, Spacing};

use super::{
    OperatorError, OperatorRecipe, PriorDenoiser, Problem, Restoration, RestoreError, Restored,
    Restorer,
};

/// The reason why a prior cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum TrainedPriorError {
    /// The class-conditional denoiser is not usable, or it has no such class.
    #[error(transparent)]
    Classes(#[from] ClassDenoiserError),
    /// The super-resolution prior is not usable.
    #[error(transparent)]
    Prior(#[from] PriorError),
    /// A class was given for a prior without classes.
    #[error("a class is for a model of nabla train denoiser, but {} is a super-resolution prior", .0.display())]
    NoClasses(PathBuf),
    /// The prior has no such noise levels.
    #[error(transparent)]
    Levels(#[from] ScheduleError),
    /// The operator gives no estimate.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// A super-resolution prior has nothing to begin with.
    #[error(
        "a super-resolution prior needs a picture to begin with, but a scan shows none: give a model of \
         nabla train denoiser with --model"
    )]
    NoPicture,
    /// The restoration failed or was stopped.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// A trained prior.
#[derive(Debug)]
pub enum TrainedPrior {
    /// A denoiser, and the class of all pictures.
    Classes {
        /// The denoiser.
        network: Box<ClassDenoiser>,
        /// The class.
        condition: Condition,
    },
    /// A super-resolution prior.
    SuperResolution(Box<SuperResolutionPrior>),
}

impl TrainedPrior {
    /// Opens the prior in `folder`, or the embedded one, for pictures of `class`, which only a denoiser with
    /// classes has.
    ///
    /// # Errors
    /// If the folder contains no prior, or the prior no such class.
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use nabla_diffusion::restore::TrainedPrior;
    ///
    /// let embedded = TrainedPrior::open(None, None, &Device::flex())?;
    /// assert_eq!((embedded.channels(), embedded.sides()), (3, None));
    /// # Ok::<(), nabla_diffusion::restore::TrainedPriorError>(())
    /// ```
    pub fn open(
        folder: Option<&Path>,
        class: Option<&str>,
        device: &Device,
    ) -> Result<Self, TrainedPriorError> {
        if let Some(folder) = folder.filter(|folder| ClassDenoiser::is_folder(folder)) {
            let network = ClassDenoiser::load(folder, device)?;
            let condition = match class {
                Some(name) => Condition::Given(network.config().class(name)?),
                None => Condition::Without,
            };
            return Ok(Self::Classes {
                network: Box::new(network),
                condition,
            });
        }
        if class.is_some() {
            let name = folder.unwrap_or(Path::new("the embedded model"));
            return Err(TrainedPriorError::NoClasses(name.into()));
        }
        Ok(Self::SuperResolution(Box::new(match folder {
            Some(folder) => SuperResolutionPrior::load(folder, device)?,
            None => SuperResolutionPrior::embedded(device)?,
        })))
    }

    /// The channels of its pictures.
    pub fn channels(&self) -> usize {
        match self {
            Self::Classes { network, .. } => network.config().shape[0],
            Self::SuperResolution(_) => 3,
        }
    }

    /// `[height, width]` of its pictures, if it knows one size only.
    pub fn sides(&self) -> Option<[usize; 2]> {
        match self {
            Self::Classes { network, .. } => {
                let [_, height, width] = network.config().shape;
                Some([height, width])
            }
            Self::SuperResolution(_) => None,
        }
    }

    /// The levels of a run. Without a number of steps: for a super-resolution prior those that it is made for, because each
    /// further one costs fidelity, unless the method approaches the measurement step by step; otherwise those that the
    /// method is published with.
    ///
    /// # Errors
    /// If the prior has fewer levels.
    pub fn levels(
        &self,
        steps: Option<usize>,
        method: &dyn Restorer,
    ) -> Result<Levels, TrainedPriorError> {
        let usual = match self {
            Self::SuperResolution(prior) if !method.differentiates() => {
                prior.config().sampling_steps
            }
            // One less than training steps, because the last level of a prior has nothing of the picture.
            _ => method.steps().min(999),
        };
        let steps = steps.unwrap_or(usual);
        Ok(match self {
            Self::Classes { network, .. } => network.levels(steps)?,
            Self::SuperResolution(prior) => {
                let training = PriorDenoiser::noise_schedule(prior)?;
                training.respace(Spacing::Trailing, steps)?.into()
            }
        })
    }

    /// Restores pictures.
    ///
    /// # Errors
    /// If the run fails or is stopped, or the prior needs a first estimate that the operator does not give.
    pub fn restore(
        &self,
        restorer: &dyn Restorer,
        recipe: &dyn OperatorRecipe,
        problem: &Problem,
        levels: &Levels,
        options: RunOptions,
        observe: &mut dyn Correction,
    ) -> Result<Restored, TrainedPriorError> {
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
            Self::SuperResolution(prior) => {
                let estimate = recipe
                    .first_estimate(problem)?
                    .ok_or(TrainedPriorError::NoPicture)?;
                let model = PriorDenoiser::new(prior, estimate, options.tile)?;
                Ok(restoration.run(&model, options.seed)?)
            }
        }
    }
}

/// How a run goes.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Instead of the method's own sampler.
    pub solver: Option<Arc<dyn Solver>>,
    /// The most pixels along a side that a super-resolution prior sees at once; 0 for all.
    pub tile: usize,
    /// The seed of the noise.
    pub seed: u64,
}
