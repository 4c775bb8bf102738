//! Guidance: which conditions a model is asked for at a step, and one prediction made of the answers.
//!
//! | name | guidance | conditions |
//! |---|---|---|
//! | `none` | [`NoGuidance`] | the first |
//! | `classifier-free` | [`ClassifierFree`] | without, and the first |
//!
//! # A guidance of one's own
//! [`conditions`](Guidance::conditions) may differ from step to step: a step that needs one prediction costs
//! half of one that needs two. [`combine`](Guidance::combine) gets the answers in the network's own form, reads
//! them by [`Answers::read`], and may give the sample of one of them with the direction of another
//! ([`Denoised::with_direction`]), which every sampler honours. What it remembers from step to step (a momentum,
//! say) lives in itself, and [`begin`](Guidance::begin) forgets it.
//!
//! CFG++, whose sample is guided and whose direction is that without the condition:
//!
//! ```
//! use burn::tensor::Tensor;
//! use nabla_diffusion::asking::Step;
//! use nabla_diffusion::denoiser::{Condition, Denoised};
//! use nabla_diffusion::guidance::{Answers, Guidance};
//! use nabla_diffusion::sampler_error::OwnError;
//!
//! #[derive(Debug)]
//! struct CfgPlusPlus {
//!     strength: f64,
//! }
//!
//! impl<const D: usize> Guidance<D> for CfgPlusPlus {
//!     fn conditions(&mut self, _step: &Step<'_, D>) -> Vec<Condition> {
//!         vec![Condition::Without, Condition::FIRST]
//!     }
//!
//!     fn combine(
//!         &mut self,
//!         _step: &Step<'_, D>,
//!         answers: Answers<'_, D>,
//!     ) -> Result<Denoised<D>, OwnError> {
//!         let [without, with] = answers.outputs()?;
//!         let guided = without.clone() + (with - without.clone()) * self.strength;
//!         let direction = answers.read(without)?.epsilon;
//!         Ok(answers.read(guided)?.with_direction(direction))
//!     }
//! }
//! ```
//!
//! Sources: of each guidance in its file; CFG++ is Chung, Kim, Park, Nam, Ye, *CFG++: Manifold-constrained
//! Classifier Free Guidance for Diffusion Models*, 2024, arXiv 2406.08070.

use std::fmt::Debug;

use burn::tensor::Tensor;

use crate::asking::{Direction, Reading, Source, Step};
use crate::denoiser::{Condition, Denoised, Denoiser, Prediction};
use crate::level::Level;
use crate::registry::Registry;
use crate::sampler_error::{OwnError, SamplerError};

mod classifier_free;
mod no_guidance;

pub use classifier_free::ClassifierFree;
pub use no_guidance::NoGuidance;

/// Makes one prediction of those under several conditions; see the [module documentation](self).
pub trait Guidance<const D: usize = 4>: Debug {
    /// A run of so many steps begins: what is remembered of another one is forgotten.
    ///
    /// # Errors
    /// If one of its numbers is out of range.
    fn begin(&mut self, steps: usize) -> Result<(), OwnError> {
        let _ = steps;
        Ok(())
    }

    /// The conditions under which the model is to predict, which costs one call of the network for all of them
    /// together; none if the guidance knows the answer without a call.
    fn conditions(&mut self, step: &Step<'_, D>) -> Vec<Condition>;

    /// One prediction of the answers.
    ///
    /// # Errors
    /// Any, which ends the run; [`Cancelled`](crate::sampler_error::Cancelled) to stop it.
    fn combine(
        &mut self,
        step: &Step<'_, D>,
        answers: Answers<'_, D>,
    ) -> Result<Denoised<D>, OwnError>;
}

impl<const D: usize> Guidance<D> for Box<dyn Guidance<D>> {
    fn begin(&mut self, steps: usize) -> Result<(), OwnError> {
        (**self).begin(steps)
    }

    fn conditions(&mut self, step: &Step<'_, D>) -> Vec<Condition> {
        (**self).conditions(step)
    }

    fn combine(
        &mut self,
        step: &Step<'_, D>,
        answers: Answers<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        (**self).combine(step, answers)
    }
}

/// What a model answers under the conditions that it was asked for.
#[derive(Clone, Debug)]
pub struct Answers<'a, const D: usize = 4> {
    outputs: Vec<Tensor<D>>,
    prediction: Prediction,
    x: &'a Tensor<D>,
    level: Level,
}

impl<'a, const D: usize> Answers<'a, D> {
    /// - `outputs`: of a model that predicts `prediction`
    /// - `x`: what it was asked about, at the level `level`
    pub fn new(
        outputs: Vec<Tensor<D>>,
        prediction: Prediction,
        x: &'a Tensor<D>,
        level: Level,
    ) -> Self {
        Self {
            outputs,
            prediction,
            x,
            level,
        }
    }

    /// What the model predicts.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// The model's own outputs, in the order of the conditions.
    pub fn all(&self) -> &[Tensor<D>] {
        &self.outputs
    }

    /// The model's own outputs, of which there are to be `N`.
    ///
    /// # Errors
    /// If there is another number of them.
    pub fn outputs<const N: usize>(&self) -> Result<[Tensor<D>; N], SamplerError> {
        let found = self.outputs.len();
        <[Tensor<D>; N]>::try_from(self.outputs.clone())
            .map_err(|_| SamplerError::Predictions { asked: N, found })
    }

    /// What an output, or a combination of outputs, says of the state.
    ///
    /// # Errors
    /// If it has the wrong shape, or is an `ε` or a score where nothing is left of the sample.
    pub fn read(&self, output: Tensor<D>) -> Result<Denoised<D>, SamplerError> {
        Denoised::from_output(output, self.x, self.level, self.prediction)
    }
}

/// All of ours, by name.
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
}

/// A model under a guidance, as a sampler reads it.
pub(crate) struct Guided<'a, const D: usize> {
    pub(crate) model: &'a dyn Denoiser<D>,
    pub(crate) guidance: &'a mut dyn Guidance<D>,
    pub(crate) reading: Reading,
}

impl<const D: usize> Source<D, Denoised<D>> for Guided<'_, D> {
    fn kind(&self) -> Prediction {
        self.model.prediction()
    }

    fn predict(&mut self, step: &Step<'_, D>) -> Result<Denoised<D>, SamplerError> {
        let conditions = self.guidance.conditions(step);
        let outputs = match conditions.is_empty() {
            true => Vec::new(),
            false => self
                .model
                .predict(step.x.clone(), step.level, &conditions)?,
        };
        let (asked, found) = (conditions.len(), outputs.len());
        if asked != found {
            return Err(SamplerError::Predictions { asked, found });
        }
        let answers = Answers::new(outputs, self.model.prediction(), step.x, step.level);
        let denoised = self.guidance.combine(step, answers)?;
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
        for (what, tensor) in [
            ("clean sample", &denoised.sample),
            ("direction", &denoised.epsilon),
        ] {
            if tensor.dims() != state {
                return Err(SamplerError::PredictionShape {
                    what,
                    found: tensor.dims().to_vec(),
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
