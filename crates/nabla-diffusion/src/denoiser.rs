//! What a diffusion model predicts, and the trait that samplers see of it.
//!
//! Given `x = a x_0 + b ε` on an affine Gaussian path, with `a = √ᾱ` and `b = √(1 − ᾱ)` in the
//! variance-preserving form, a network may be trained to predict the noise `ε`, the clean picture `x_0`,
//! the velocity `v`, the score `s`, or the velocity `u` of a straight flow; at a known level each one gives
//! the others:
//!
//! ```text
//! v = a ε − b x_0                  x_0 = (a x − b v) / (a² + b²)    ε = (b x + a v) / (a² + b²)
//! s = ∇_x log p(x) = −ε / b        x_0 = (x + b² s) / a             ε = −b s
//! u = ε − x_0                      x_0 = (x − b u) / (a + b)        ε = (x + a u) / (a + b)
//! ```
//!
//! (where `x_0` and `ε` stand for their expectations given `x`; the second line is Tweedie's formula.) `u`
//! is the `dx/dt` of rectified flow and flow matching, whose path `x_t = (1 − t) x_0 + t ε` runs from the
//! picture at time 0 to the noise at time 1; where a source counts time from the noise to the picture, it
//! is `−u`. It is the same number on every path, but such a network takes its `x` on the straight line:
//! [`flow_denoiser`] brings it there.
//!
//! Sources: Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020, arXiv 2006.11239
//! (`ε`); Salimans, Ho, *Progressive Distillation for Fast Sampling of Diffusion Models*, 2022,
//! arXiv 2202.00512 (`v`); Song et al., *Score-Based Generative Modeling through Stochastic Differential
//! Equations*, 2021, arXiv 2011.13456 (`s`); Liu, Gong, Liu, *Flow Straight and Fast*, 2023, arXiv
//! 2209.03003; Lipman et al., *Flow Matching for Generative Modeling*, 2023, arXiv 2210.02747 (`u`).

use burn::config::Config;
use burn::tensor::Tensor;

use crate::schedule::{AffineLevel, NoiseLevel, NoiseSchedule};

/// Why a sampler cannot be built or cannot take a step.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// `x_0` does not follow from `ε` where nothing is left of the picture.
    #[error(
        "the model predicts the noise or the score, which say nothing of the picture at timestep \
         {timestep}, where alpha-bar is 0: use a model that predicts the sample or a velocity, or a \
         schedule without zero terminal SNR"
    )]
    NoSignal {
        /// What the network was told.
        timestep: f64,
    },
    /// The model's output does not fit the picture.
    #[error(
        "the model's output has the shape {found:?}, but for a picture of the shape {picture:?} it \
         must have the same shape, or twice the channels if it also predicts the variance"
    )]
    OutputShape {
        /// Shape of the output.
        found: [usize; 4],
        /// Shape of the picture.
        picture: [usize; 4],
    },
    /// A learned variance was asked for, but the model gives none.
    #[error("the sampler is to use the learned variance, but the model predicts none")]
    NoLearnedVariance,
    /// The limit of clipping is not positive and finite.
    #[error("the clip range is {0}, but it must be positive and finite")]
    Clip(f64),
    /// η outside [0, 1].
    #[error("DDIM's eta is {0}, but it must lie in [0, 1]")]
    Eta(f64),
    /// A sampler that works with `σ` meets an infinite one.
    #[error(
        "the sampler works with sigma, which is infinite at timestep {timestep}, where alpha-bar is \
         0: use DDIM or DDPM, or a schedule without zero terminal SNR"
    )]
    InfiniteSigma {
        /// What the network is told.
        timestep: f64,
    },
    /// A sampler that cannot end where there is no noise.
    #[error(
        "{sampler} cannot step to sigma 0: use a schedule that ends above it (final_sigmas_type \
         sigma_min)"
    )]
    FinalSigma {
        /// The sampler.
        sampler: &'static str,
    },
    /// Churn that is negative or not finite.
    #[error("the churn's {what} is {value}, but it must be finite and at least 0")]
    Churn {
        /// Which of its numbers.
        what: &'static str,
        /// The value.
        value: f64,
    },
    /// The scaling of times of a consistency model is negative or not finite.
    #[error("the timestep scaling is {0}, but it must be finite and at least 0")]
    TimestepScaling(f64),
    /// An equation that is not solved in single steps.
    #[error("SDE-DPM-Solver has no single steps: use the picture's form, SDE-DPM-Solver++")]
    NoSingleStep,
    /// A multistep order that the sampler does not have.
    #[error("the order of {sampler} is {order}, but it must lie in {least} to {most}")]
    Order {
        /// The sampler.
        sampler: &'static str,
        /// The order asked for.
        order: usize,
        /// The lowest.
        least: usize,
        /// The highest.
        most: usize,
    },
    /// A schedule too short for the sampler's start.
    #[error("{sampler} needs a schedule of at least {least} steps, but it has {steps}")]
    TooFewSteps {
        /// The sampler.
        sampler: &'static str,
        /// Steps of the schedule.
        steps: usize,
        /// Steps needed.
        least: usize,
    },
    /// Time steps that a linear multistep method cannot interpolate between.
    #[error(
        "timestep number {index} of the schedule is {value}, but for this sampler the timesteps \
         must rise strictly"
    )]
    Times {
        /// Index into the schedule.
        index: usize,
        /// The value.
        value: f64,
    },
    /// A sampler that starts in the middle of its schedule.
    #[error(
        "sampling is to start at step {start} of a schedule of {steps} steps, but it must lie in 1 to {steps}"
    )]
    Start {
        /// Steps that are to be done.
        start: usize,
        /// Steps there are.
        steps: usize,
    },
    /// A tolerance that cannot be met.
    #[error("the tolerance {what} is {value}, but it must be finite and at least {least:e}")]
    Tolerance {
        /// Which.
        what: &'static str,
        /// The value.
        value: f64,
        /// The least that can be.
        least: f64,
    },
    /// A time outside the schedule.
    #[error("the time {value} lies outside the schedule, which goes from {least} to {most}")]
    OutsideTime {
        /// The time.
        value: f64,
        /// The schedule's first.
        least: f64,
        /// The schedule's last.
        most: f64,
    },
    /// An adaptive step that became too short.
    #[error(
        "at time {time} no step is short enough for the tolerances: raise them, or look whether the \
         model's output is a number there"
    )]
    StepTooShort {
        /// The time, in training steps.
        time: f64,
    },
    /// A name that is none of a sampler.
    #[error("there is no sampler {name:?}; there are: {known}")]
    UnknownSampler {
        /// The name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// No iterations of the inversion.
    #[error("DDIM inversion needs at least 1 fixed-point iteration, but 0 were asked for")]
    NoIterations,
}

/// What a network predicts; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Prediction {
    /// The noise `ε`.
    Epsilon,
    /// The clean picture `x_0`.
    Sample,
    /// The velocity `v = a ε − b x_0`, in the variance-preserving form `√ᾱ ε − √(1 − ᾱ) x_0`.
    Velocity,
    /// The score `∇_x log p(x) = −ε / b` of the noisy pictures, in the form that `x` has.
    Score,
    /// The velocity `u = dx_t/dt = ε − x_0` of the straight path `x_t = (1 − t) x_0 + t ε`.
    Flow,
}

nabla_base::choices! {
    Prediction: "prediction" {
        "epsilon" => Self::Epsilon, "The noise";
        "v" => Self::Velocity, "The velocity";
        "sample" => Self::Sample, "The clean picture";
        "score" => Self::Score, "The score";
        "flow" => Self::Flow, "The velocity of the straight path";
    }
}

impl Prediction {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Epsilon,
        Self::Sample,
        Self::Velocity,
        Self::Score,
        Self::Flow,
    ];

    /// Turns a prediction of this kind into one of the kind `to`.
    ///
    /// - `output`: the prediction; `x`: the noisy picture; both of one shape
    /// - `level`: of `x`, on any path; a [`NoiseLevel`] is one of the variance-preserving form. From `ε`
    ///   and the score its signal must be above 0, from `x_0` its noise, and to the score too; otherwise the
    ///   result is not finite. The two velocities have no such places.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::denoiser::Prediction;
    /// use nabla_diffusion::schedule::AffineLevel;
    ///
    /// let device = Device::flex();
    /// let (sample, noise) = (Tensor::<1>::from_floats([0.5], &device), Tensor::from_floats([-1.0], &device));
    /// // A quarter of the way from the picture to the noise.
    /// let x = sample.clone() * 0.75 + noise.clone() * 0.25;
    /// let level = AffineLevel::rectified_flow(0.25);
    /// let back = Prediction::Flow.convert(Prediction::Sample, noise - sample.clone(), x, level);
    /// assert!((back - sample).abs().into_scalar::<f32>() < 1e-6);
    /// ```
    pub fn convert<const D: usize>(
        self,
        to: Self,
        output: Tensor<D>,
        x: Tensor<D>,
        level: impl Into<AffineLevel>,
    ) -> Tensor<D> {
        let AffineLevel { signal, noise } = level.into();
        // a² + b², of which rounding alone makes another number than 1 in the variance-preserving form.
        let power = match signal * signal + noise * noise {
            power if (power - 1.0).abs() < 1e-12 => 1.0,
            power => power,
        };
        let over = |x: Tensor<D>| match power == 1.0 {
            true => x,
            false => x / power,
        };
        let both = signal + noise;
        match (self, to) {
            (Self::Epsilon, Self::Sample) => (x - output * noise) / signal,
            (Self::Epsilon, Self::Velocity) if power == 1.0 => (output - x * noise) / signal,
            (Self::Epsilon, Self::Velocity) => (output * power - x * noise) / signal,
            (Self::Epsilon, Self::Score) => output / -noise,
            (Self::Epsilon, Self::Flow) => (output * both - x) / signal,
            (Self::Sample, Self::Epsilon) => (x - output * signal) / noise,
            (Self::Sample, Self::Velocity) if power == 1.0 => (x * signal - output) / noise,
            (Self::Sample, Self::Velocity) => (x * signal - output * power) / noise,
            (Self::Sample, Self::Score) => (output * signal - x) / (noise * noise),
            (Self::Sample, Self::Flow) => (x - output * both) / noise,
            (Self::Velocity, Self::Sample) => over(x * signal - output * noise),
            (Self::Velocity, Self::Epsilon) => over(x * noise + output * signal),
            (Self::Velocity, Self::Score) => over(x * noise + output * signal) / -noise,
            (Self::Velocity, Self::Flow) => over(x * (noise - signal) + output * both),
            (Self::Score, Self::Epsilon) => output * -noise,
            (Self::Score, Self::Sample) => (x + output * (noise * noise)) / signal,
            (Self::Score, Self::Velocity) => (x + output * power) * (-noise / signal),
            (Self::Score, Self::Flow) => (x + output * (noise * both)) / -signal,
            (Self::Flow, Self::Sample) => (x - output * noise) / both,
            (Self::Flow, Self::Epsilon) => (x + output * signal) / both,
            (Self::Flow, Self::Velocity) => (x * (signal - noise) + output * power) / both,
            (Self::Flow, Self::Score) => (x + output * signal) / (-noise * both),
            (Self::Epsilon, Self::Epsilon)
            | (Self::Sample, Self::Sample)
            | (Self::Velocity, Self::Velocity)
            | (Self::Score, Self::Score)
            | (Self::Flow, Self::Flow) => output,
        }
    }

    /// What a network of this kind is trained to give for the variance-preserving `x_t` made of `sample` and
    /// `noise`.
    ///
    /// - `sample`, `noise`: `[batch, channels, height, width]`
    /// - `index`: `batch` indices into `schedule`
    ///
    /// # Panics
    /// If an index is not below `schedule.steps()`, or the shapes do not agree.
    pub fn target(
        self,
        sample: Tensor<4>,
        noise: Tensor<4>,
        schedule: &NoiseSchedule,
        index: &[usize],
    ) -> Tensor<4> {
        match self {
            Self::Epsilon => noise,
            Self::Sample => sample,
            Self::Velocity => {
                let (signal, scale) = schedule.scales(index, &sample.device());
                noise * signal - sample * scale
            }
            Self::Score => {
                let (_, scale) = schedule.scales(index, &sample.device());
                noise.neg() / scale
            }
            Self::Flow => noise - sample,
        }
    }
}

/// A diffusion model with its condition already bound to it: what samplers and guidance see.
///
/// A conditional network becomes one by a closure that holds the condition ([`denoiser`]), or by a
/// struct of the network and the condition; classifier-free guidance is then a denoiser made of
/// two.
pub trait Denoiser {
    /// What [`predict`](Self::predict) predicts.
    fn prediction(&self) -> Prediction;

    /// The prediction for `x`.
    ///
    /// - `x`: `[batch, channels, height, width]`, all at the same noise level
    /// - returns the same shape, or twice the channels if the model also predicts the variance
    ///   (the first half is then the prediction, the second lies in `[−1, 1]`)
    fn predict(&self, x: Tensor<4>, level: NoiseLevel) -> Tensor<4>;
}

/// A denoiser made of a closure.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::denoiser::{denoiser, Denoiser, Prediction};
/// use nabla_diffusion::schedule::NoiseLevel;
///
/// // The denoiser of a data set whose only picture is black.
/// let model = denoiser(Prediction::Sample, |x, _level| x.zeros_like());
/// let x = Tensor::ones([1, 3, 8, 8], &Device::flex());
/// let level = NoiseLevel { timestep: 10.0, alpha_bar: 0.9 };
/// assert_eq!(model.predict(x, level).max().into_scalar::<f32>(), 0.0);
/// ```
pub fn denoiser<F>(prediction: Prediction, predict: F) -> ClosureDenoiser<F>
where
    F: Fn(Tensor<4>, NoiseLevel) -> Tensor<4>,
{
    ClosureDenoiser {
        prediction,
        predict,
    }
}

/// A denoiser made of a network of rectified flow or flow matching.
///
/// - `velocity`: given `x_t = (1 − t) x_0 + t ε` and its time `t` in `[0, 1]`, the velocity
///   `dx_t/dt = ε − x_0`. Networks that count from noise to picture are given `1 − t`, and their answer is
///   negated; most are told `1000 t`.
///
/// The samplers' `x`, which is in the variance-preserving form, is scaled to the straight line, to the
/// point with the same signal-to-noise ratio.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::denoiser::{Denoised, flow_denoiser};
/// use nabla_diffusion::schedule::{NoiseLevel, alpha_bar_from_flow_time};
///
/// // The flow to a data set whose only picture is black: ε is x_t / t.
/// let model = flow_denoiser(|x, time| x / time);
/// let level = NoiseLevel { timestep: 250.0, alpha_bar: alpha_bar_from_flow_time(0.25) };
/// let x = Tensor::ones([1, 3, 8, 8], &Device::flex());
/// let black = Denoised::predict(&model, &x, level)?.sample;
/// assert!(black.abs().max().into_scalar::<f32>() < 1e-6);
/// # Ok::<(), nabla_diffusion::denoiser::SamplerError>(())
/// ```
pub fn flow_denoiser<F>(velocity: F) -> ClosureDenoiser<impl Fn(Tensor<4>, NoiseLevel) -> Tensor<4>>
where
    F: Fn(Tensor<4>, f64) -> Tensor<4>,
{
    denoiser(Prediction::Flow, move |x, level| {
        velocity(x / (level.signal() + level.noise()), level.flow_time())
    })
}

/// See [`denoiser`].
#[derive(Clone, Copy, Debug)]
pub struct ClosureDenoiser<F> {
    prediction: Prediction,
    predict: F,
}

impl<F> Denoiser for ClosureDenoiser<F>
where
    F: Fn(Tensor<4>, NoiseLevel) -> Tensor<4>,
{
    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn predict(&self, x: Tensor<4>, level: NoiseLevel) -> Tensor<4> {
        (self.predict)(x, level)
    }
}

/// What a model says of one `x_t = √ᾱ sample + √(1 − ᾱ) epsilon`.
#[derive(Clone, Debug)]
pub struct Denoised {
    /// `x_0`, `[batch, channels, height, width]`.
    pub sample: Tensor<4>,
    /// `ε`, `[batch, channels, height, width]`.
    pub epsilon: Tensor<4>,
    /// The variance's place between its bounds, in `[−1, 1]`, if the model predicts it.
    pub variance: Option<Tensor<4>>,
}

impl Denoised {
    /// Asks `model` about `x`, `[batch, channels, height, width]`.
    ///
    /// # Errors
    /// If the model's output has the wrong shape, or it predicts `ε` or the score where `ᾱ` is 0.
    pub fn predict(
        model: &dyn Denoiser,
        x: &Tensor<4>,
        level: NoiseLevel,
    ) -> Result<Self, SamplerError> {
        Self::from_output(
            model.predict(x.clone(), level),
            x,
            level,
            model.prediction(),
        )
    }

    /// Reads a model's output for `x`.
    ///
    /// - `output`: `[batch, channels, height, width]`, or with twice the channels
    /// - `x`: `[batch, channels, height, width]`
    ///
    /// # Errors
    /// If the output has the wrong shape, or is an `ε` or a score where `ᾱ` is 0.
    pub fn from_output(
        output: Tensor<4>,
        x: &Tensor<4>,
        level: NoiseLevel,
        prediction: Prediction,
    ) -> Result<Self, SamplerError> {
        let of_noise = matches!(prediction, Prediction::Epsilon | Prediction::Score);
        if of_noise && level.alpha_bar == 0.0 {
            return Err(SamplerError::NoSignal {
                timestep: level.timestep,
            });
        }
        let (found, picture) = (output.dims(), x.dims());
        let [batch, channels, height, width] = picture;
        let (output, variance) = if found == picture {
            (output, None)
        } else if found == [batch, 2 * channels, height, width] {
            let variance = output.clone().slice_dim(1, channels..2 * channels);
            (output.slice_dim(1, 0..channels), Some(variance))
        } else {
            return Err(SamplerError::OutputShape { found, picture });
        };
        let as_kind = |kind| prediction.convert(kind, output.clone(), x.clone(), level);
        Ok(Self {
            sample: as_kind(Prediction::Sample),
            epsilon: as_kind(Prediction::Epsilon),
            variance,
        })
    }

    /// The noise that, with the present `sample`, makes up `x`.
    ///
    /// A sampler keeps the model's `epsilon` when `sample` is clipped or replaced; this replaces it
    /// too.
    pub fn rederive_epsilon(mut self, x: &Tensor<4>, level: NoiseLevel) -> Self {
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

/// Where a sampler is, for the hook that sees every step.
#[derive(Clone, Copy, Debug)]
pub struct SamplerStep<'a> {
    /// Index into the sampler's schedule: falls from `steps − 1` to 0.
    pub index: usize,
    /// Steps of the sampler's schedule.
    pub steps: usize,
    /// The noise level of `x`.
    pub level: NoiseLevel,
    /// `x_t`, `[batch, channels, height, width]`.
    pub x: &'a Tensor<4>,
}

/// Sees every step of a sampler between the model's prediction and the update, and may replace the
/// prediction: range-space projection (OmniSSR), data consistency (DDS), guidance that changes
/// `sample` and `epsilon` differently (CFG++), progress bars.
pub type SamplerHook<'a> = dyn FnMut(SamplerStep<'_>, Denoised) -> Denoised + 'a;

/// `sample`, which every sampler has beside its `sample_with_hook`.
macro_rules! sample_without_hook {
    ($sampler:ty) => {
        impl $sampler {
            /// [`sample_with_hook`](Self::sample_with_hook) without a hook.
            ///
            /// # Errors
            /// As [`sample_with_hook`](Self::sample_with_hook).
            pub fn sample(
                &self,
                model: &dyn crate::denoiser::Denoiser,
                x: burn::tensor::Tensor<4>,
                noise: &mut crate::seeded_noise::SeededNoise,
            ) -> Result<burn::tensor::Tensor<4>, crate::denoiser::SamplerError> {
                self.sample_with_hook(model, x, noise, &mut |_, denoised| denoised)
            }
        }
    };
}

pub(crate) use sample_without_hook;

/// What a sampler of the probability-flow equation asks: the model, its clipping and the hook.
pub(crate) struct Questions<'a, 'h> {
    model: &'a dyn Denoiser,
    hook: &'a mut SamplerHook<'h>,
    clip: Option<f64>,
    steps: usize,
}

impl<'a, 'h> Questions<'a, 'h> {
    /// - `steps`: those of the sampler's schedule
    pub(crate) fn new(
        model: &'a dyn Denoiser,
        hook: &'a mut SamplerHook<'h>,
        clip: Option<f64>,
        steps: usize,
    ) -> Self {
        Self {
            model,
            hook,
            clip,
            steps,
        }
    }

    /// The kind that the model predicts.
    pub(crate) fn prediction(&self) -> Prediction {
        self.model.prediction()
    }

    /// The picture that the model sees in `x`, clipped, and as the hook leaves it; `epsilon` is what
    /// makes up `x` with it.
    pub(crate) fn ask(
        &mut self,
        x: &Tensor<4>,
        index: usize,
        level: NoiseLevel,
    ) -> Result<Denoised, SamplerError> {
        let denoised = Denoised::predict(self.model, x, level)?.clip(self.clip);
        let step = SamplerStep {
            index,
            steps: self.steps,
            level,
            x,
        };
        Ok((self.hook)(step, denoised).rederive_epsilon(x, level))
    }
}

/// That no `σ` of the schedule is infinite.
pub(crate) fn check_sigmas(schedule: &NoiseSchedule) -> Result<(), SamplerError> {
    let level = schedule.level(schedule.steps() - 1);
    match level.alpha_bar > 0.0 {
        true => Ok(()),
        false => Err(SamplerError::InfiniteSigma {
            timestep: level.timestep,
        }),
    }
}

/// That the times of the schedule rise strictly.
pub(crate) fn check_times(schedule: &NoiseSchedule) -> Result<(), SamplerError> {
    let time = |index: usize| schedule.timestep(index);
    match (1..schedule.steps()).find(|&i| time(i) <= time(i - 1)) {
        Some(index) => Err(SamplerError::Times {
            index,
            value: time(index),
        }),
        None => Ok(()),
    }
}

/// That a multistep sampler has the order: 1 to `most`.
pub(crate) fn check_order(
    sampler: &'static str,
    order: usize,
    most: usize,
) -> Result<(), SamplerError> {
    match (1..=most).contains(&order) {
        true => Ok(()),
        false => Err(SamplerError::Order {
            sampler,
            order,
            least: 1,
            most,
        }),
    }
}

/// That a share of the noise can be renewed.
pub(crate) fn check_eta(eta: f64) -> Result<(), SamplerError> {
    match (0.0..=1.0).contains(&eta) {
        true => Ok(()),
        false => Err(SamplerError::Eta(eta)),
    }
}

pub(crate) fn check_clip(clip: Option<f64>) -> Result<(), SamplerError> {
    match clip {
        Some(range) if !(range > 0.0 && range.is_finite()) => Err(SamplerError::Clip(range)),
        _ => Ok(()),
    }
}

/// The exact denoiser of Gaussian data with independent pixels, `x_0 ~ N(μ, diag(s²))`:
///
/// ```text
/// E[x_0 | x_t] = μ + √ᾱ s² / (ᾱ s² + 1 − ᾱ) (x_t − √ᾱ μ)
/// ```
///
/// A model without an error of its own, to measure a sampler's.
#[derive(Clone, Debug)]
pub struct GaussianDenoiser {
    mean: Tensor<4>,
    variance: Tensor<4>,
    prediction: Prediction,
}

impl GaussianDenoiser {
    /// - `mean`: `μ`; `variance`: `s²`, positive; both `[1 or batch, channels, height, width]`
    /// - `prediction`: the form in which [`predict`](Denoiser::predict) gives its answer
    pub fn new(mean: Tensor<4>, variance: Tensor<4>, prediction: Prediction) -> Self {
        Self {
            mean,
            variance,
            prediction,
        }
    }

    /// `√ᾱ μ` and `ᾱ s² + 1 − ᾱ`: mean and variance of `x_t`.
    fn marginal(&self, alpha_bar: f64) -> (Tensor<4>, Tensor<4>) {
        (
            self.mean.clone() * alpha_bar.sqrt(),
            self.variance.clone() * alpha_bar + (1.0 - alpha_bar),
        )
    }

    /// Where the probability-flow ordinary differential equation takes `x` from the level
    /// `alpha_bar` to the level `to`: the affine map between the two Gaussians that keeps the
    /// quantile of every pixel.
    ///
    /// - `x`: `[batch, channels, height, width]`
    pub fn transport(&self, x: Tensor<4>, alpha_bar: f64, to: f64) -> Tensor<4> {
        let (mean, variance) = self.marginal(alpha_bar);
        let (mean_to, variance_to) = self.marginal(to);
        (x - mean) * (variance_to / variance).sqrt() + mean_to
    }
}

impl Denoiser for GaussianDenoiser {
    fn prediction(&self) -> Prediction {
        self.prediction
    }

    fn predict(&self, x: Tensor<4>, level: NoiseLevel) -> Tensor<4> {
        let (mean, variance) = self.marginal(level.alpha_bar);
        let gain = self.variance.clone() * level.signal() / variance;
        let sample = self.mean.clone() + (x.clone() - mean) * gain;
        Prediction::Sample.convert(self.prediction, sample, x, level)
    }
}
