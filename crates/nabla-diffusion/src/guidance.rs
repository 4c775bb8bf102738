//! Guidance: under which conditions a model is asked in a step, and how the answers are combined into one
//! prediction.
//!
//! | name | guidance | evaluations of the network |
//! |---|---|---|
//! | `none` | [`NoGuidance`] | 1 |
//! | `classifier-free` | [`ClassifierFree`], with a rescale | 2 |
//! | `cfg++` | [`CfgPlusPlus`]: the guided sample with the unguided direction | 2 |
//! | `apg` | [`AdaptiveProjected`]: high scales without oversaturation | 2 |
//! | `adaptive` | [`Adaptive`]: classifier-free until it no longer matters | 2, later 1 |
//! | `limited-interval` | [`LimitedInterval`]: at some noise levels only | 2, elsewhere 1 |
//! | `perturbed-attention` | [`PerturbedAttention`], for networks with self-attention | 3 |
//! | `self-attention` | [`SelfAttention`], for the same networks | 3 |
//!
//! Some need more than options: a second model, a classifier, a file.
//!
//! | guidance | needs | evaluations |
//! |---|---|---|
//! | [`LimitedInterval`] of any other | a guidance | those of it, elsewhere 1 |
//! | [`Autoguidance`] | a weak model | 1, and 1 of the weak model |
//! | [`ClassifierGuidance`] | a differentiable classifier of noisy samples | 1 |
//! | [`GradientFreeClassifier`] | a classifier of clean samples | 1 to 3 |
//! | [`LinearAdaptive`] | fitted [`LinearCoefficients`] | 2 or 1 |
//! | [`GuidancePolicy`] | a plan of the steps, which [`PolicySearch`] finds | 2 or 1 |
//!
//! Each works in every sampler and for tensors of any rank. What a run costs is counted in [`Evaluations`].
//!
//! # Your own guidance
//! [`guide`](Guidance::guide) asks the model ([`ModelAt`]) as often as it needs to, for the whole batch or for
//! some rows, gets the answers in the network's own form, and reads their combination with [`ModelAt::read`]. A
//! step with one evaluation costs half as much as one with two. The result may pair the sample of one prediction
//! with the direction of another ([`Denoised::with_direction`]), which every sampler respects. A guidance keeps
//! its state between steps (a momentum, for example) in its own fields, and [`begin`](Guidance::begin) resets it.
//!
//! Here the scale falls to 1 over the run:
//!
//! ```
//! use nabla_diffusion::asking::Step;
//! use nabla_diffusion::denoiser::{Condition, Denoised};
//! use nabla_diffusion::guidance::{Guidance, ModelAt};
//! use nabla_diffusion::sampler_error::OwnError;
//!
//! #[derive(Debug)]
//! struct Fading {
//!     scale: f64,
//! }
//!
//! impl<const D: usize> Guidance<D> for Fading {
//!     fn guide(
//!         &mut self,
//!         step: &Step<'_, D>,
//!         model: &mut ModelAt<'_, D>,
//!     ) -> Result<Denoised<D>, OwnError> {
//!         let left = step.index as f64 / step.steps as f64;
//!         let scale = 1.0 + (self.scale - 1.0) * left;
//!         let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
//!         let guided = without.clone() + (with - without) * scale;
//!         Ok(model.read(guided)?)
//!     }
//! }
//! ```
//!
//! Sources: see the file of each guidance.

use std::fmt::Debug;

use burn::tensor::Tensor;

use crate::asking::{Direction, Reading, Source, Step};
use crate::denoiser::{Denoised, Denoiser, Prediction};
use crate::registry::Registry;
use crate::sampler_error::{OwnError, SamplerError};

mod adaptive;
mod adaptive_projected;
mod autoguidance;
mod cfg_plus_plus;
mod classifier_free;
mod classifier_guidance;
mod evaluations;
mod gradient_free_classifier;
mod limited_interval;
mod linear_adaptive;
mod model_at;
mod no_guidance;
mod perturbed_attention;
mod policy;
mod policy_search;
mod self_attention;
mod stored;

pub use adaptive::{Adaptive, AdaptiveConfig, Cosines};
pub use adaptive_projected::{AdaptiveProjected, AdaptiveProjectedConfig};
pub use autoguidance::Autoguidance;
pub use cfg_plus_plus::{CfgPlusPlus, History, equivalent_omega, mean_equivalent_omega};
pub use classifier_free::ClassifierFree;
pub use classifier_guidance::{ClassifierGuidance, NoisyClassifier};
pub use evaluations::Evaluations;
pub use gradient_free_classifier::{
    Classifier, GradientFreeClassifier, GradientFreeClassifierConfig, Reference, ReferencePlan,
    ScaleRule,
};
pub use limited_interval::LimitedInterval;
pub use linear_adaptive::{
    CfgTrajectory, LinearAdaptive, LinearCoefficients, LinearStep, TrajectoryRecorder,
};
pub use model_at::ModelAt;
pub use no_guidance::NoGuidance;
pub use perturbed_attention::PerturbedAttention;
pub use policy::{GuidancePolicy, PolicyStep};
pub use policy_search::{FoundPolicy, PolicySearch, Relaxation};
pub use self_attention::SelfAttention;
pub use stored::{StoredGuidance, StoredGuidanceError};

/// Combines predictions of a model into one; see the [module documentation](self).
pub trait Guidance<const D: usize = 4>: Debug {
    /// Starts a run of `steps` steps, and resets the state of a previous run.
    ///
    /// # Errors
    /// If an option is out of range.
    fn begin(&mut self, steps: usize) -> Result<(), OwnError> {
        let _ = steps;
        Ok(())
    }

    /// Returns the prediction for the state of a query.
    ///
    /// - `model`: the model at that state, which answers as often as it is asked, or not at all
    ///
    /// # Errors
    /// Any error, which ends the run; [`Cancelled`](crate::sampler_error::Cancelled) stops it.
    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError>;
}

impl<const D: usize> Guidance<D> for Box<dyn Guidance<D>> {
    fn begin(&mut self, steps: usize) -> Result<(), OwnError> {
        (**self).begin(steps)
    }

    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        (**self).guide(step, model)
    }
}

/// All of Nabla's guidances that need no more than options, by name.
///
/// ```
/// use nabla_diffusion::guidance::guidances;
/// use nabla_diffusion::registry::Options;
///
/// let options = Options::parse(&["scale=5", "rescale=0.7"])?;
/// let guidance = guidances::<4>().make("classifier-free", &options)?;
/// assert!(format!("{guidance:?}").contains("0.7"));
/// # Ok::<(), nabla_diffusion::registry::RegistryError>(())
/// ```
pub fn guidances<const D: usize>() -> Registry<Box<dyn Guidance<D>>> {
    fn boxed<const D: usize>(guidance: impl Guidance<D> + 'static) -> Box<dyn Guidance<D>> {
        Box::new(guidance)
    }
    Registry::new("guidance")
        .with("none", "the model as it is", NoGuidance::new(), boxed)
        .with(
            "classifier-free",
            "away from the prediction without the condition, with rescale",
            ClassifierFree::new(),
            boxed,
        )
        .with(
            "cfg++",
            "CFG++: the guided sample with the unguided direction, scale 0 to 1",
            CfgPlusPlus::new(),
            boxed,
        )
        .with(
            "apg",
            "APG: high scales without oversaturation",
            AdaptiveProjectedConfig::new(),
            |config| boxed(config.init::<D>()),
        )
        .with(
            "adaptive",
            "Adaptive Guidance: classifier-free until it no longer matters",
            AdaptiveConfig::new(),
            |config| boxed(config.init()),
        )
        .with(
            "limited-interval",
            "classifier-free between two noise levels only",
            LimitedInterval::default(),
            boxed,
        )
        .with(
            "perturbed-attention",
            "PAG: classifier-free, and away from pictures without structure",
            PerturbedAttention::new(),
            boxed,
        )
        .with(
            "self-attention",
            "SAG: classifier-free, and away from what is blurred where it matters",
            SelfAttention::new(),
            boxed,
        )
}

/// A model with a guidance, as a source of predictions for a sampler.
pub(crate) struct Guided<'a, const D: usize> {
    pub(crate) model: &'a dyn Denoiser<D>,
    pub(crate) guidance: &'a mut dyn Guidance<D>,
    pub(crate) evaluations: &'a mut Evaluations,
    pub(crate) reading: Reading,
}

impl<const D: usize> Source<D, Denoised<D>> for Guided<'_, D> {
    fn kind(&self) -> Prediction {
        self.model.prediction()
    }

    fn predict(&mut self, step: &Step<'_, D>) -> Result<Denoised<D>, SamplerError> {
        self.evaluations.query(step.x.dims()[0]);
        let mut model = ModelAt::new(self.model, step.x, step.level, self.evaluations);
        let denoised = self.guidance.guide(step, &mut model)?;
        let denoised = denoised.clip(self.reading.clip);
        Ok(match self.reading.direction {
            Direction::OfClipped if !denoised.apart => {
                denoised.rederive_epsilon(step.x, step.level)
            }
            _ => denoised,
        })
    }

    fn settle(
        &mut self,
        step: &Step<'_, D>,
        denoised: Denoised<D>,
    ) -> Result<Denoised<D>, SamplerError> {
        let state = step.x.dims();
        let remembered = denoised.remembered.as_ref();
        for (what, tensor) in [
            ("clean sample", Some(&denoised.sample)),
            ("direction", Some(&denoised.epsilon)),
            ("remembered sample", remembered),
        ] {
            if let Some(found) = tensor.map(Tensor::dims)
                && found != state
            {
                return Err(SamplerError::PredictionShape {
                    what,
                    found: found.to_vec(),
                    state: state.to_vec(),
                });
            }
        }
        Ok(match self.reading.direction {
            Direction::OfSample if !denoised.apart => denoised.rederive_epsilon(step.x, step.level),
            _ => denoised,
        })
    }
}
