//! How a sampler queries the model: through an object that knows the model, its guidance and the corrections,
//! counts the calls, draws the noise, and carries errors.
//!
//! A query goes through the same stages in every run, of every sampler:
//!
//! 1. A [`Source`] predicts. In diffusion, the [`Guidance`](crate::guidance::Guidance) asks the model, once or
//!    several times, and combines the answers; in residual denoising diffusion, the network is called.
//! 2. Each [`Correction`] sees the [`Step`], and may change the prediction, fail, or stop the run.
//! 3. The source settles what is left open, according to the sampler's [`Reading`].
//!
//! The prediction is a [`Predicted`]: a clean sample and a direction ([`Denoised`]), or residual, noise and
//! clean picture ([`ResidualPrediction`](crate::rddm::ResidualPrediction)).

use std::fmt::Debug;

use burn::tensor::Tensor;

use crate::correction::Correction;
use crate::denoiser::{Denoised, Prediction};
use crate::level::Level;
use crate::sampler_error::SamplerError;
use crate::seeded_noise::SeededNoise;

/// The type of the predictions in a run.
///
/// - `D`: the rank of its tensors
pub trait Predicted<const D: usize>: Sized {
    /// The position of a state on its path: how much of each component it contains.
    type Level: Copy + Debug;

    /// The form in which the network returns its predictions.
    type Kind: Copy + Debug;
}

impl<const D: usize> Predicted<D> for Denoised<D> {
    type Level = Level;
    type Kind = Prediction;
}

/// The position of a run at a query.
#[derive(Debug)]
pub struct Step<'a, const D: usize = 4, P: Predicted<D> = Denoised<D>> {
    /// The index into the levels of the run, falling from `steps − 1` to 0. All queries of one step have the
    /// same index.
    pub index: usize,
    /// The number of steps of the run.
    pub steps: usize,
    /// The number of queries before this one.
    pub call: usize,
    /// The level of `x`.
    pub level: P::Level,
    /// The state, `[batch, …]`.
    pub x: &'a Tensor<D>,
}

impl<const D: usize, P: Predicted<D>> Step<'_, D, P> {
    /// The number of steps that are done.
    pub fn done(&self) -> usize {
        self.steps - 1 - self.index
    }
}

impl<const D: usize, P: Predicted<D>> Clone for Step<'_, D, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<const D: usize, P: Predicted<D>> Copy for Step<'_, D, P> {}

/// Answers the queries of a run, before and after the corrections.
pub trait Source<const D: usize, P: Predicted<D>> {
    /// The form in which the network returns its predictions.
    fn kind(&self) -> P::Kind;

    /// Returns the prediction for `step.x`.
    ///
    /// # Errors
    /// If the network fails, or its output does not fit.
    fn predict(&mut self, step: &Step<'_, D, P>) -> Result<P, SamplerError>;

    /// Returns the prediction as the sampler reads it, after the corrections.
    ///
    /// # Errors
    /// If a correction's result does not fit.
    fn settle(&mut self, step: &Step<'_, D, P>, prediction: P) -> Result<P, SamplerError>;
}

/// How a sampler reads predictions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
    /// The direction that the sampler takes, unless it was set independently of the sample. Default
    /// [`Direction::OfSample`].
    pub direction: Direction,
}

impl Reading {
    /// The default, with a limit on the sample.
    pub fn clipped(clip: Option<f64>) -> Self {
        Self {
            clip,
            ..Self::default()
        }
    }
}

/// The direction `ε̂` that a sampler takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// The direction that makes up `x` with the clean sample after the corrections.
    #[default]
    OfSample,
    /// The direction that makes up `x` with the clipped sample, unless a correction changes it.
    OfClipped,
    /// The model's direction, unless a correction changes it.
    OfModel,
}

/// The answer with which a sampler continues.
#[derive(Clone, Debug)]
pub struct Answer<const D: usize = 4> {
    /// Where the step starts: the queried state or, if sample and direction were set independently, the state
    /// that the two make up.
    pub x: Tensor<D>,
    /// `x̂_0`.
    pub sample: Tensor<D>,
    /// `ε̂`.
    pub epsilon: Tensor<D>,
    /// The predicted variance, as a position between its bounds, if the model predicts it.
    pub variance: Option<Tensor<D>>,
    /// Whether `x` differs from the queried state.
    pub moved: bool,
    /// See [`Denoised::remembered`].
    pub remembered: Option<Tensor<D>>,
}

/// The object through which a sampler's steps query the model; see the [module documentation](self).
pub struct Asking<'a, const D: usize = 4, P: Predicted<D> = Denoised<D>> {
    source: &'a mut dyn Source<D, P>,
    corrections: Vec<&'a mut (dyn Correction<D, P> + 'a)>,
    noise: &'a mut SeededNoise,
    steps: usize,
    calls: usize,
}

impl<const D: usize, P: Predicted<D>> Debug for Asking<'_, D, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asking")
            .field("steps", &self.steps)
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

impl<'a, const D: usize, P: Predicted<D>> Asking<'a, D, P> {
    /// - `corrections`: in the order in which they see a prediction
    /// - `noise`: the noise of the steps
    /// - `steps`: the number of steps of the run
    pub fn new(
        source: &'a mut dyn Source<D, P>,
        corrections: Vec<&'a mut (dyn Correction<D, P> + 'a)>,
        noise: &'a mut SeededNoise,
        steps: usize,
    ) -> Self {
        Self {
            source,
            corrections,
            noise,
            steps,
            calls: 0,
        }
    }

    /// Returns the prediction for a state, after all stages.
    ///
    /// - `index`: the index of the step, see [`Step::index`]
    ///
    /// # Errors
    /// If the network, the guidance or a correction fails, or stops the run.
    pub fn predict(
        &mut self,
        x: &Tensor<D>,
        index: usize,
        level: P::Level,
    ) -> Result<P, SamplerError> {
        let step = Step {
            index,
            steps: self.steps,
            call: self.calls,
            level,
            x,
        };
        self.calls += 1;
        let mut prediction = self.source.predict(&step)?;
        for correction in &mut self.corrections {
            prediction = correction.correct(&step, prediction)?;
        }
        self.source.settle(&step, prediction)
    }

    /// The form in which the network returns its predictions.
    pub fn kind(&self) -> P::Kind {
        self.source.kind()
    }

    /// The noise of the steps.
    pub fn noise(&mut self) -> &mut SeededNoise {
        self.noise
    }

    /// Fresh standard normal noise of the shape of `x`.
    pub fn normal(&mut self, x: &Tensor<D>) -> Tensor<D> {
        self.noise.normal(x.dims(), &x.device())
    }

    /// The number of steps of the run.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The number of queries so far.
    pub fn calls(&self) -> usize {
        self.calls
    }
}

impl<const D: usize> Asking<'_, D> {
    /// Returns the prediction for a state, and the state from which the step continues.
    ///
    /// - `x`: `[batch, …]`, at the level `level`
    /// - `index`: the index of the step, see [`Step::index`]
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    pub fn ask(
        &mut self,
        x: Tensor<D>,
        index: usize,
        level: Level,
    ) -> Result<Answer<D>, SamplerError> {
        let Denoised {
            sample,
            epsilon,
            variance,
            apart,
            remembered,
        } = self.predict(&x, index, level)?;
        let x = match apart {
            true => level.mix(sample.clone(), epsilon.clone()),
            false => x,
        };
        Ok(Answer {
            x,
            sample,
            epsilon,
            variance,
            moved: apart,
            remembered,
        })
    }
}
