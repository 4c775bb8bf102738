//! Guidance: which conditions a model is called with in a step, and how the answers are combined into one
//! prediction.
//!
//! | name | guidance | conditions |
//! |---|---|---|
//! | `none` | [`NoGuidance`] | the first |
//! | `classifier-free` | [`ClassifierFree`] | without, and the first |
//!
//! # Your own guidance
//! [`conditions`](Guidance::conditions) may differ from step to step: a step that needs one prediction costs
//! half as much as one that needs two. [`combine`](Guidance::combine) gets the answers in the network's own
//! form, reads them with [`Answers::read`], and may pair the sample of one with the direction of another
//! ([`Denoised::with_direction`]), which every sampler respects. A guidance keeps its state between steps (a
//! momentum, for example) in its own fields, and [`begin`](Guidance::begin) resets it.
//!
//! CFG++ guides the sample, but takes the direction without the condition:
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
//! Sources: see the file of each guidance; CFG++ is from Chung, Kim, Park, Nam, Ye, *CFG++:
//! Manifold-constrained Classifier Free Guidance for Diffusion Models*, 2024, arXiv 2406.08070.

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

/// Combines the predictions under several conditions into one; see the [module documentation](self).
pub trait Guidance<const D: usize = 4>: Debug {
    /// Starts a run of `steps` steps, and resets the state of a previous run.
    ///
    /// # Errors
    /// If an option is out of range.
    fn begin(&mut self, steps: usize) -> Result<(), OwnError> {
        let _ = steps;
        Ok(())
    }

    /// The conditions under which the model must predict. One call of the network answers all of them; an
    /// empty list if the guidance needs no call.
    fn conditions(&mut self, step: &Step<'_, D>) -> Vec<Condition>;

    /// Combines the answers into one prediction.
    ///
    /// # Errors
    /// Any error, which ends the run; [`Cancelled`](crate::sampler_error::Cancelled) stops it.
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

/// The answers of a model under the requested conditions.
#[derive(Clone, Debug)]
pub struct Answers<'a, const D: usize = 4> {
    outputs: Vec<Tensor<D>>,
    prediction: Prediction,
    x: &'a Tensor<D>,
    level: Level,
}

impl<'a, const D: usize> Answers<'a, D> {
    /// - `outputs`: of a model that predicts `prediction`
    /// - `x`: the queried state, at the level `level`
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

    /// The kind of the model's predictions.
    pub fn prediction(&self) -> Prediction {
        self.prediction
    }

    /// The model's own outputs, in the order of the conditions.
    pub fn all(&self) -> &[Tensor<D>] {
        &self.outputs
    }

    /// The model's own outputs, which must be `N`.
    ///
    /// # Errors
    /// If their number is not `N`.
    pub fn outputs<const N: usize>(&self) -> Result<[Tensor<D>; N], SamplerError> {
        let found = self.outputs.len();
        <[Tensor<D>; N]>::try_from(self.outputs.clone())
            .map_err(|_| SamplerError::Predictions { asked: N, found })
    }

    /// Reads an output, or a combination of outputs, as a prediction for the state.
    ///
    /// # Errors
    /// If it has the wrong shape, or is an `ε` or a score where no signal is left.
    pub fn read(&self, output: Tensor<D>) -> Result<Denoised<D>, SamplerError> {
        Denoised::from_output(output, self.x, self.level, self.prediction)
    }
}

/// All of Nabla's guidances, by name.
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

/// A model with a guidance, as a source of predictions for a sampler.
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
