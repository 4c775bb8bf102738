//! The score of a plan: the Fréchet distance of a class denoiser's pictures.

use std::sync::Arc;

use nabla_train::frechet::MomentsError;
use serde::{Deserialize, Serialize};

use super::{Plan, PlannedDenoiser, Space};
use crate::block_skipping::SkippableDenoiser;
use crate::guidance_trial::{GuidanceTrials, TrialError, TrialRun};
use crate::registry::{Options, RegistryError};
use crate::sample_quality::QualityError;
use crate::sampler::{Sampler, Solver, samplers};
use crate::sampler_error::OwnError;

/// A sampler for the uneven steps of a plan: PNDM's multistep weights reach to the end of the last step, unless the
/// options say otherwise.
///
/// ```
/// use nabla_diffusion::autodiffusion::planned_sampler;
/// use nabla_diffusion::registry::Options;
///
/// let plms = planned_sampler::<4>("plms", &Options::new())?;
/// assert!(format!("{plms:?}").contains("ToEnd"));
/// # Ok::<(), nabla_diffusion::registry::RegistryError>(())
/// ```
///
/// # Errors
/// If there is no such sampler, or it has no such option.
pub fn planned_sampler<const D: usize>(
    name: &str,
    options: &Options,
) -> Result<Arc<dyn Solver<D>>, RegistryError> {
    samplers::<D>().make(name, &planned_options(name, options)?)
}

/// The options of a sampler for a plan.
pub(crate) fn planned_options(name: &str, options: &Options) -> Result<Options, RegistryError> {
    let family = samplers::<4>();
    let mut all = Options::new();
    if family.entry(name)?.defaults().get("weights").is_some() {
        all.set("weights", "ToEnd".into());
    }
    Ok(all.overridden(options))
}

/// How good the pictures of a plan are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanTrial {
    /// The Fréchet distance to real pictures; none if the pictures are not finite.
    pub frechet_distance: Option<f64>,
    /// The number of pictures.
    pub pictures: usize,
    /// Evaluations of the network for a picture.
    pub evaluations: f64,
    /// Seconds of drawing, without those of judging.
    pub seconds: f64,
}

/// Draws pictures by plans and judges them: the score of a search for a model of `nabla train denoiser`.
#[derive(Debug)]
pub struct PlanTrials<'a> {
    /// The model, its judge, and how many pictures are drawn; the configuration's steps and sampler have no effect.
    pub trials: GuidanceTrials<'a>,
    /// The sampler.
    pub sampler: Arc<dyn Solver>,
    /// The guidance, by a name of [`GuidanceTrials::guidances`].
    pub guidance: String,
    /// Its options, besides the scale.
    pub guidance_options: Options,
    /// Its scale; see [`GuidanceTrials::run`].
    pub scale: f64,
}

impl PlanTrials<'_> {
    /// What the model offers to a plan.
    pub fn space(&self) -> Space {
        Space {
            steps: self.trials.model.training_steps(),
            blocks: self.trials.model.blocks(),
        }
    }

    /// Draws pictures by a plan, and judges them.
    ///
    /// - `seed`: of the noise
    /// - `drawn`: is called with the number of pictures after each batch; an error ends the trial
    ///
    /// # Errors
    /// If the plan does not fit the model or the sampler, or the run fails.
    pub fn run(
        &self,
        plan: &Plan,
        seed: u64,
        drawn: &mut dyn FnMut(usize) -> Result<(), OwnError>,
    ) -> Result<PlanTrial, TrialError> {
        let model = self.trials.model;
        plan.check(self.space())?;
        let levels = plan.levels(&model.levels(model.training_steps())?)?;
        let planned = PlannedDenoiser::new(model, plan, &levels)?;
        let run = TrialRun {
            sampler: &Sampler::new(self.sampler.clone(), levels)?,
            model: &planned,
        };
        let (guidance, options) = (&self.guidance, &self.guidance_options);
        let made = self
            .trials
            .draw(run, guidance, options, self.scale, seed, drawn)?;
        let distance = match self.trials.judge.frechet_distance(&made.values) {
            Ok(distance) => Some(distance).filter(|distance| distance.is_finite()),
            Err(QualityError::Moments(MomentsError::NotFinite { .. })) => None,
            Err(error) => return Err(error.into()),
        };
        let pictures = made.classes.len();
        Ok(PlanTrial {
            frechet_distance: distance,
            pictures,
            evaluations: made.evaluations.total() as f64 / pictures as f64,
            seconds: made.seconds,
        })
    }
}
