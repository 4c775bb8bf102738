//! How a sampler asks: through an object that knows the model, its guidance and the corrections, counts the
//! calls, draws the noise, and carries errors.
//!
//! A question goes through the same stations in every run, of every sampler:
//!
//! 1. a [`Source`] predicts: for diffusion the model under the conditions that its
//!    [`Guidance`](crate::guidance::Guidance) needs, which combines the answers; for residual denoising
//!    diffusion its network;
//! 2. each [`Correction`] sees the [`Step`], and may change the prediction, fail, or stop the run;
//! 3. the source settles what is left open, as the sampler reads predictions ([`Reading`]).
//!
//! What is predicted is a [`Predicted`]: a clean sample and a direction ([`Denoised`]), or residual, noise and
//! clean picture ([`ResidualPrediction`](crate::rddm::ResidualPrediction)).

use std::fmt::Debug;

use burn::tensor::Tensor;

use crate::correction::Correction;
use crate::denoiser::{Denoised, Prediction};
use crate::level::Level;
use crate::sampler_error::SamplerError;
use crate::seeded_noise::SeededNoise;

/// What is predicted in the steps of a run.
///
/// - `D`: the rank of its tensors
pub trait Predicted<const D: usize>: Sized {
    /// Where a state is: how much of what it contains.
    type Level: Copy + Debug;

    /// In which form the network gives it.
    type Kind: Copy + Debug;
}

impl<const D: usize> Predicted<D> for Denoised<D> {
    type Level = Level;
    type Kind = Prediction;
}

/// Where a run is when it asks.
#[derive(Debug)]
pub struct Step<'a, const D: usize = 4, P: Predicted<D> = Denoised<D>> {
    /// Index into the levels of the run: falls from `steps − 1` to 0. All questions of one step have the same.
    pub index: usize,
    /// Steps of the run.
    pub steps: usize,
    /// Questions before this one.
    pub call: usize,
    /// The level of `x`.
    pub level: P::Level,
    /// The state, `[batch, …]`.
    pub x: &'a Tensor<D>,
}

impl<const D: usize, P: Predicted<D>> Step<'_, D, P> {
    /// Steps that are done.
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

/// What answers the questions of a run, before and after corrections.
pub trait Source<const D: usize, P: Predicted<D>> {
    /// In which form the network gives its predictions.
    fn kind(&self) -> P::Kind;

    /// The prediction for `step.x`.
    ///
    /// # Errors
    /// If the network fails, or what it gives does not fit.
    fn predict(&mut self, step: &Step<'_, D, P>) -> Result<P, SamplerError>;

    /// The prediction as the sampler reads it, after the corrections.
    ///
    /// # Errors
    /// If what a correction made of it does not fit.
    fn settle(&mut self, step: &Step<'_, D, P>, prediction: P) -> Result<P, SamplerError>;
}

/// How a sampler reads predictions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default none.
    pub clip: Option<f64>,
    /// Which direction it takes, unless it was given apart from the sample. Default
    /// [`Direction::OfSample`].
    pub direction: Direction,
}

impl Reading {
    /// The default, with a limit.
    pub fn clipped(clip: Option<f64>) -> Self {
        Self {
            clip,
            ..Self::default()
        }
    }
}

/// Which direction `ε̂` a sampler takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// That which makes up `x` with the clean sample as the corrections leave it.
    #[default]
    OfSample,
    /// That which makes up `x` with the clipped sample, or what a correction makes of it.
    OfClipped,
    /// The model's, or what a correction makes of it.
    OfModel,
}

/// What a sampler goes on with.
#[derive(Clone, Debug)]
pub struct Answer<const D: usize = 4> {
    /// Where the step starts: the state that was asked about, or, where sample and direction were given apart
    /// from each other, the state that they make up.
    pub x: Tensor<D>,
    /// `x̂_0`.
    pub sample: Tensor<D>,
    /// `ε̂`.
    pub epsilon: Tensor<D>,
    /// The variance's place between its bounds, if the model predicts it.
    pub variance: Option<Tensor<D>>,
    /// Whether `x` is another state than that which was asked about.
    pub moved: bool,
}

/// What a sampler's steps ask through; see the [module documentation](self).
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
    /// - `noise`: of the steps
    /// - `steps`: of the run
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

    /// The prediction for a state, through all stations.
    ///
    /// - `index`: of the step, see [`Step::index`]
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

    /// In which form the network gives its predictions.
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

    /// Steps of the run.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Questions so far.
    pub fn calls(&self) -> usize {
        self.calls
    }
}

impl<const D: usize> Asking<'_, D> {
    /// What is known of a state, and from where the step goes on.
    ///
    /// - `x`: `[batch, …]`, at the level `level`
    /// - `index`: of the step, see [`Step::index`]
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
        })
    }
}
