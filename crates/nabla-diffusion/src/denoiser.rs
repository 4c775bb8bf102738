//! A model as samplers see it: the [`Denoiser`], what it is asked for, and how its answer is read.
//!
//! Given `x = signal · x_0 + noise · ε` at a [`Level`], a denoiser returns one [`Prediction`] for each
//! requested [`Condition`], all from one call of its network. A [`Guidance`](crate::guidance::Guidance)
//! combines them into a [`Denoised`]: the clean sample and the direction of the noise.
//!
//! # Your own denoiser
//! A closure is enough ([`denoiser`]), for tensors of any rank; it may fail. For a model with several
//! conditions, or with a state, implement the trait. If a condition means something else for each row of the
//! batch, implement [`predict_rows`](Denoiser::predict_rows) too; [`RowConditions`] does so for a model whose
//! conditions are classes.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_diffusion::denoiser::{Condition, Denoiser, Prediction};
//! use nabla_diffusion::level::Level;
//! use nabla_diffusion::sampler_error::{OwnError, SamplerError};
//!
//! /// Knows one point for each condition, and without a condition their middle.
//! struct Points([f32; 2]);
//!
//! impl Denoiser<2> for Points {
//!     fn prediction(&self) -> Prediction {
//!         Prediction::Sample
//!     }
//!
//!     fn predict(
//!         &self,
//!         x: Tensor<2>,
//!         _level: Level,
//!         conditions: &[Condition],
//!     ) -> Result<Vec<Tensor<2>>, OwnError> {
//!         let point = |condition: &Condition| match condition {
//!             Condition::Without => Ok((self.0[0] + self.0[1]) / 2.0),
//!             Condition::Given(i) if *i < 2 => Ok(self.0[*i]),
//!             Condition::Given(_) => Err(SamplerError::NoCondition {
//!                 condition: *condition,
//!                 known: "2 points".to_owned(),
//!             }),
//!         };
//!         let points = conditions.iter().map(|c| Ok(x.ones_like() * point(c)?));
//!         points.collect()
//!     }
//! }
//!
//! let x = Tensor::zeros([5, 3], &Device::flex());
//! let found = Points([1.0, 3.0]).predict(x, Level::straight(0.5), &[Condition::Without]);
//! assert_eq!(found?[0].clone().mean().into_scalar::<f32>(), 2.0);
//! # Ok::<(), OwnError>(())
//! ```

use std::fmt;

use burn::tensor::Tensor;

use crate::level::Level;
pub use crate::prediction::Prediction;
use crate::sampler_error::IntoOwnResult;
pub use crate::sampler_error::{OwnError, SamplerError};

mod gaussian_mixture;
mod row_conditions;
pub(crate) mod rows;

pub use gaussian_mixture::{GaussianMixture, MixturePart};
pub use row_conditions::RowConditions;

/// The condition under which a model predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// No condition: the model's empty text, its empty class, or its negative text.
    Without,
    /// The condition with this number, from 0. If a model has only one condition, bound to it, that is number
    /// 0.
    Given(usize),
}

impl Condition {
    /// The first condition.
    pub const FIRST: Self = Self::Given(0);
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Without => f.write_str("without a condition"),
            Self::Given(number) => write!(f, "under the condition number {number}"),
        }
    }
}

/// A diffusion model, as samplers and guidance see it.
///
/// - `D`: the rank of its tensors: 4 for pictures; sequences, volumes, graphs and vectors work too
pub trait Denoiser<const D: usize = 4> {
    /// The kind of prediction that [`predict`](Self::predict) returns.
    fn prediction(&self) -> Prediction;

    /// Returns the predictions for `x`, one under each condition, from one call of the network.
    ///
    /// - `x`: `[batch, …]`, all at the same noise level
    /// - `conditions`: at least one
    /// - returns one tensor for each condition, in their order, each with the shape of `x`. If the model also
    ///   predicts the variance, each has twice the channels (the second axis): the first half is the
    ///   prediction, the second half lies in `[−1, 1]`
    ///
    /// # Errors
    /// Any error that prevents the prediction; it ends the run.
    /// [`Cancelled`](crate::sampler_error::Cancelled) stops the run.
    fn predict(
        &self,
        x: Tensor<D>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<D>>, OwnError>;

    /// Returns predictions for some rows of the batch, each under its own condition; a guidance that needs
    /// not the same for every row asks like this.
    ///
    /// - `x`: the states of these rows, `[rows, …]`, all at the same noise level; a row may occur several times
    /// - `rows`: for each of them, its index in the batch of the run, and the condition
    /// - returns `[rows, …]`, as [`predict`](Self::predict)
    ///
    /// The default calls [`predict`](Self::predict) once for each of the different conditions, with the rows
    /// for which it is asked. This is right if a condition means the same for every row. A model whose
    /// conditions differ from row to row (a label for each, for example) must implement this method too.
    ///
    /// # Errors
    /// As [`predict`](Self::predict).
    fn predict_rows(
        &self,
        x: Tensor<D>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<D>, OwnError> {
        rows::by_condition(rows, &x, |x, condition| {
            let outputs = self.predict(x, level, &[condition])?;
            let found = outputs.len();
            let output = <[Tensor<D>; 1]>::try_from(outputs);
            let [output] = output.map_err(|_| SamplerError::Predictions { asked: 1, found })?;
            Ok(output)
        })
    }

    /// As [`predict_rows`](Self::predict_rows), from the network with perturbed self-attention, which makes
    /// its predictions worse in structure; for
    /// [`PerturbedAttention`](crate::guidance::PerturbedAttention). Default: an error, as there is no such
    /// network.
    ///
    /// # Errors
    /// If the model has no self-attention to perturb, and as [`predict`](Self::predict).
    fn predict_perturbed(
        &self,
        x: Tensor<D>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<D>, OwnError> {
        let _ = (x, level, rows);
        Err(SamplerError::NoSelfAttention.into())
    }

    /// As [`predict_rows`](Self::predict_rows), with the places that the network attends to; for
    /// [`SelfAttention`](crate::guidance::SelfAttention). Default: an error, as there are none.
    ///
    /// - returns the predictions, `[rows, …]`, and the share of attention that each place gets from all
    ///   places, `[rows, height, width]` at the resolution of the network's middle: 1 on average
    ///
    /// # Errors
    /// If the model has no self-attention, and as [`predict`](Self::predict).
    fn predict_attending(
        &self,
        x: Tensor<D>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<(Tensor<D>, Tensor<3>), OwnError> {
        let _ = (x, level, rows);
        Err(SamplerError::NoSelfAttention.into())
    }
}

/// Creates a denoiser from a closure, which contains the condition if there is one.
///
/// The closure returns the prediction, or a `Result` with it; see [`sampler_error`](crate::sampler_error#)
/// for a closure that fails.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::denoiser::{Denoised, Prediction, denoiser};
/// use nabla_diffusion::level::Level;
///
/// // The denoiser of a data set whose only picture is black.
/// let model = denoiser(Prediction::Sample, |x: Tensor<4>, _level| x.zeros_like());
/// let x = Tensor::ones([1, 3, 8, 8], &Device::flex());
/// let level = Level::variance_preserving(10.0, 0.9);
/// let black = Denoised::predict(&model, &x, level)?.sample;
/// assert_eq!(black.max().into_scalar::<f32>(), 0.0);
/// # Ok::<(), nabla_diffusion::denoiser::SamplerError>(())
/// ```
pub fn denoiser<const D: usize, F, R>(prediction: Prediction, predict: F) -> ClosureDenoiser<F>
where
    F: Fn(Tensor<D>, Level) -> R,
    R: IntoOwnResult<Tensor<D>>,
{
    ClosureDenoiser {
        prediction,
        predict,
    }
}

/// Creates a denoiser from a network of rectified flow or flow matching.
///
/// - `velocity`: given `x_t = (1 − t) x_0 + t ε` and its time `t` in `[0, 1]`, the velocity `dx_t/dt = ε −
///   x_0`. If your network counts from the noise to the picture, give it `1 − t` and negate its answer. Most
///   networks expect `1000 t`.
///
/// On a [`StraightLine`](crate::level::StraightLine), the network gets the sampler's `x`. On every other
/// path, `x` is scaled to the point on the straight line with the same signal-to-noise ratio.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::denoiser::{Denoised, flow_denoiser};
/// use nabla_diffusion::level::{Level, alpha_bar_from_flow_time};
///
/// // The flow to a data set whose only picture is black: ε is x_t / t.
/// let model = flow_denoiser(|x: Tensor<4>, time| x / time);
/// let level = Level::variance_preserving(250.0, alpha_bar_from_flow_time(0.25));
/// let x = Tensor::ones([1, 3, 8, 8], &Device::flex());
/// let black = Denoised::predict(&model, &x, level)?.sample;
/// assert!(black.abs().max().into_scalar::<f32>() < 1e-6);
/// # Ok::<(), nabla_diffusion::denoiser::SamplerError>(())
/// ```
pub fn flow_denoiser<const D: usize, F, R>(
    velocity: F,
) -> ClosureDenoiser<impl Fn(Tensor<D>, Level) -> R>
where
    F: Fn(Tensor<D>, f64) -> R,
    R: IntoOwnResult<Tensor<D>>,
{
    denoiser(Prediction::Flow, move |x: Tensor<D>, level: Level| {
        velocity(x / (level.signal() + level.noise()), level.flow_time())
    })
}

/// See [`denoiser`].
#[derive(Clone, Copy, Debug)]
pub struct ClosureDenoiser<F> {
    prediction: Prediction,
    predict: F,
}

impl<F, R, const D: usize> Denoiser<D> for ClosureDenoiser<F>
where
    F: Fn(Tensor<D>, Level) -> R,
    R: IntoOwnResult<Tensor<D>>,
{
    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn predict(
        &self,
        x: Tensor<D>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<D>>, OwnError> {
        only_first(conditions)?;
        let predicted: Result<Tensor<D>, OwnError> = (self.predict)(x, level).into_own_result();
        Ok(vec![predicted?])
    }
}

/// Checks that a model with one condition bound to it is asked for that condition only.
///
/// # Errors
/// If it is asked for another condition, or for several.
pub fn only_first(conditions: &[Condition]) -> Result<(), SamplerError> {
    match conditions.iter().find(|&&c| c != Condition::FIRST) {
        Some(&condition) => Err(SamplerError::NoCondition {
            condition,
            known: "the one that is bound to it".to_owned(),
        }),
        None if conditions.len() == 1 => Ok(()),
        None => Err(SamplerError::Predictions {
            asked: conditions.len(),
            found: 1,
        }),
    }
}

/// The prediction for one `x = signal · sample + noise · epsilon`.
///
/// When they come from the model, sample and direction make up `x`. A [`Guidance`](crate::guidance::Guidance)
/// or a [`Correction`](crate::correction::Correction) may change that in two ways, which every sampler
/// respects:
///
/// - It replaces `sample` ([`with_sample`](Self::with_sample)). The sampler continues from `x`, and its
///   direction is the one that makes up `x` with the new sample. Only DDIM keeps `epsilon` unchanged, because
///   Song et al. clip `x̂_0` without a new `ε̂`; in that case you may replace both.
/// - It sets both independently ([`with_direction`](Self::with_direction)): the sample of one prediction, the
///   direction of another, as CFG++ does. The sampler then continues from the state that the two make up,
///   `signal · sample + noise · epsilon`, instead of `x`. A DDIM step is `signal' · sample + noise' ·
///   epsilon`. In a method with several calls per step, the first call determines the state.
#[derive(Clone, Debug)]
pub struct Denoised<const D: usize = 4> {
    /// `x_0`, `[batch, …]`.
    pub sample: Tensor<D>,
    /// `ε`, of the same shape.
    pub epsilon: Tensor<D>,
    /// The predicted variance, as a position between its bounds in `[−1, 1]`, if the model predicts it.
    pub variance: Option<Tensor<D>>,
    /// Whether sample and direction were set independently.
    pub apart: bool,
    /// The clean sample that multistep DPM-Solver++ keeps of this prediction for later steps; `None` for
    /// `sample` itself.
    pub remembered: Option<Tensor<D>>,
}

impl<const D: usize> Denoised<D> {
    /// Creates a prediction whose sample and noise make up `x`.
    ///
    /// - `sample`, `epsilon`: of the same shape
    pub fn new(sample: Tensor<D>, epsilon: Tensor<D>) -> Self {
        Self {
            sample,
            epsilon,
            variance: None,
            apart: false,
            remembered: None,
        }
    }

    /// Calls `model` on `x`, under its first condition.
    ///
    /// # Errors
    /// If the model fails, its output has the wrong shape, or it predicts `ε` or the score where no signal is
    /// left.
    pub fn predict(
        model: &dyn Denoiser<D>,
        x: &Tensor<D>,
        level: Level,
    ) -> Result<Self, SamplerError> {
        let outputs = model.predict(x.clone(), level, &[Condition::FIRST])?;
        let found = outputs.len();
        match <[Tensor<D>; 1]>::try_from(outputs) {
            Ok([output]) => Self::from_output(output, x, level, model.prediction()),
            Err(_) => Err(SamplerError::Predictions { asked: 1, found }),
        }
    }

    /// Reads a model's output for `x`.
    ///
    /// - `output`: of the shape of `x`, or with twice the channels
    ///
    /// # Errors
    /// If the output has the wrong shape, or is an `ε` or a score where no signal is left.
    pub fn from_output(
        output: Tensor<D>,
        x: &Tensor<D>,
        level: Level,
        prediction: Prediction,
    ) -> Result<Self, SamplerError> {
        let of_noise = matches!(prediction, Prediction::Epsilon | Prediction::Score);
        if of_noise && level.signal() == 0.0 {
            return Err(SamplerError::NoSignal { time: level.time() });
        }
        let (found, state) = (output.dims(), x.dims());
        let mut doubled = state;
        if D > 1 {
            doubled[1] *= 2;
        }
        let (output, variance) = if found == state {
            (output, None)
        } else if found == doubled {
            let channels = state[1];
            let variance = output.clone().slice_dim(1, channels..2 * channels);
            (output.slice_dim(1, 0..channels), Some(variance))
        } else {
            return Err(SamplerError::OutputShape {
                found: found.to_vec(),
                state: state.to_vec(),
            });
        };
        let as_kind = |kind| prediction.convert(kind, output.clone(), x.clone(), level);
        Ok(Self {
            variance,
            ..Self::new(as_kind(Prediction::Sample), as_kind(Prediction::Epsilon))
        })
    }

    /// The same prediction with another clean sample.
    #[must_use]
    pub fn with_sample(self, sample: Tensor<D>) -> Self {
        Self {
            sample,
            remembered: None,
            ..self
        }
    }

    /// The same prediction, of which multistep DPM-Solver++ keeps another clean sample than it uses now, as the
    /// authors' code of CFG++ does.
    #[must_use]
    pub fn remembered_as(self, sample: Tensor<D>) -> Self {
        Self {
            remembered: Some(sample),
            ..self
        }
    }

    /// The same prediction with another direction, independent of the sample.
    #[must_use]
    pub fn with_direction(self, epsilon: Tensor<D>) -> Self {
        Self {
            epsilon,
            apart: true,
            ..self
        }
    }

    /// The noise that makes up `x` together with the current `sample`.
    #[must_use]
    pub fn rederive_epsilon(mut self, x: &Tensor<D>, level: Level) -> Self {
        self.epsilon =
            Prediction::Sample.convert(Prediction::Epsilon, self.sample.clone(), x.clone(), level);
        self
    }

    pub(crate) fn clip(mut self, range: Option<f64>) -> Self {
        if let Some(range) = range {
            self.sample = self.sample.clamp(-range, range);
        }
        self
    }
}

/// The exact denoiser of Gaussian data with independent numbers, `x_0 ~ N(μ, diag(s²))`:
///
/// ```text
/// E[x_0 | x] = μ + signal s² / (signal² s² + noise²) (x − signal μ)
/// ```
///
/// This model is exact, so it can be used to measure the error of a sampler.
#[derive(Clone, Debug)]
pub struct GaussianDenoiser<const D: usize = 4> {
    mean: Tensor<D>,
    variance: Tensor<D>,
    prediction: Prediction,
}

impl<const D: usize> GaussianDenoiser<D> {
    /// - `mean`: `μ`; `variance`: `s²`, positive; both `[1 or batch, …]`
    /// - `prediction`: the kind of the prediction that it returns
    pub fn new(mean: Tensor<D>, variance: Tensor<D>, prediction: Prediction) -> Self {
        Self {
            mean,
            variance,
            prediction,
        }
    }

    /// `signal μ` and `signal² s² + noise²`: the mean and the variance of `x`.
    fn marginal(&self, level: Level) -> (Tensor<D>, Tensor<D>) {
        (
            self.mean.clone() * level.signal(),
            self.variance.clone() * level.signal_power() + level.noise_power(),
        )
    }

    /// The answer for `x` at a level of any path, as the kind of prediction that the model was made with.
    pub fn answer(&self, x: Tensor<D>, level: Level) -> Tensor<D> {
        let (mean, variance) = self.marginal(level);
        let gain = self.variance.clone() * level.signal() / variance;
        let sample = self.mean.clone() + (x.clone() - mean) * gain;
        Prediction::Sample.convert(self.prediction, sample, x, level)
    }

    /// The point to which the probability-flow ordinary differential equation takes `x` from one level to
    /// another: the affine map between the two Gaussians that keeps the quantile of every number.
    pub fn transport(&self, x: Tensor<D>, from: Level, to: Level) -> Tensor<D> {
        let (mean, variance) = self.marginal(from);
        let (mean_to, variance_to) = self.marginal(to);
        (x - mean) * (variance_to / variance).sqrt() + mean_to
    }
}

impl<const D: usize> Denoiser<D> for GaussianDenoiser<D> {
    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn predict(
        &self,
        x: Tensor<D>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<D>>, OwnError> {
        only_first(conditions)?;
        Ok(vec![self.answer(x, level)])
    }

    /// Mean and variance may differ from row to row.
    fn predict_rows(
        &self,
        x: Tensor<D>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<D>, OwnError> {
        let each: Vec<usize> = rows.iter().map(|&(row, _)| row).collect();
        for &(_, condition) in rows {
            only_first(&[condition])?;
        }
        let of_rows = |tensor: &Tensor<D>| match tensor.dims()[0] {
            1 => tensor.clone(),
            _ => rows::select(tensor, &each),
        };
        let of_rows = Self::new(
            of_rows(&self.mean),
            of_rows(&self.variance),
            self.prediction,
        );
        Ok(of_rows.answer(x, level))
    }
}
