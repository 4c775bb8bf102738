//! Why a run fails, with errors of one's own and the wish to stop carried through.
//!
//! A denoiser, a guidance or a correction of one's own may fail with any error ([`OwnError`]); the run then
//! ends at once, and its caller finds that error in [`SamplerError::Own`]:
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_diffusion::ddim::Ddim;
//! use nabla_diffusion::denoiser::{Prediction, denoiser};
//! use nabla_diffusion::sampler::Sampler;
//! use nabla_diffusion::sampler_error::SamplerError;
//! use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
//! use nabla_diffusion::seeded_noise::SeededNoise;
//!
//! let device = Device::flex();
//! let model = denoiser(Prediction::Sample, |_x: Tensor<4>, level| match level.time() < 500.0 {
//!     true => Err(std::io::Error::other("the line is dead")),
//!     false => Ok(Tensor::zeros([1, 3, 8, 8], &device)),
//! });
//! let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 10)?;
//! let start = Tensor::zeros([1, 3, 8, 8], &device);
//! let sampler = Sampler::new(Ddim::new(), schedule)?;
//! let failed = sampler.sample(&model, start, &mut SeededNoise::new(0, 0)).unwrap_err();
//! assert_eq!(failed.to_string(), "the line is dead");
//! assert!(failed.own::<std::io::Error>().is_ok());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::error::Error;

use nabla_base::range::{self, OutOfRange};

use crate::denoiser::Condition;
use crate::rddm::RddmError;
use crate::registry::RegistryError;
use crate::schedule::ScheduleError;

/// An error of whoever brought a denoiser, a guidance, a correction or a sampler.
pub type OwnError = Box<dyn Error + Send + Sync>;

/// What a closure of one's own may return: a value, or a result with one.
pub trait IntoOwnResult<T> {
    /// As a result.
    ///
    /// # Errors
    /// That of the closure.
    fn into_own_result(self) -> Result<T, OwnError>;
}

impl<T> IntoOwnResult<T> for T {
    fn into_own_result(self) -> Result<T, OwnError> {
        Ok(self)
    }
}

impl<T, E: Into<OwnError>> IntoOwnResult<T> for Result<T, E> {
    fn into_own_result(self) -> Result<T, OwnError> {
        self.map_err(Into::into)
    }
}

/// What a denoiser, a guidance or a correction returns as its error to stop the run, which then ends with
/// [`SamplerError::Cancelled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sampling was cancelled")]
pub struct Cancelled;

/// Why a sampler cannot be built or cannot take a step.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// `x_0` does not follow from `ε` where nothing is left of the picture.
    #[error(
        "the model predicts the noise or the score, which say nothing of the sample at time {time}, \
         where nothing is left of it: use a model that predicts the sample or a velocity, or a \
         schedule without zero terminal SNR"
    )]
    NoSignal {
        /// What the network gets as its time.
        time: f64,
    },
    /// The model's output does not fit the picture.
    #[error(
        "the model's output has the shape {found:?}, but for a state of the shape {state:?} it must \
         have the same shape, or twice the channels if it also predicts the variance"
    )]
    OutputShape {
        /// Shape of the output.
        found: Vec<usize>,
        /// Shape of the state.
        state: Vec<usize>,
    },
    /// What a guidance or a correction gives does not fit the state.
    #[error(
        "the {what} of a guidance or a correction has the shape {found:?}, but the state has {state:?}"
    )]
    PredictionShape {
        /// Which of its tensors.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// Shape of the state.
        state: Vec<usize>,
    },
    /// A guidance asks for a condition that the model does not have.
    #[error("the guidance asks for the prediction {condition}, but the model has only {known}")]
    NoCondition {
        /// What was asked for.
        condition: Condition,
        /// What there is.
        known: String,
    },
    /// The model gives another number of predictions than were asked for.
    #[error("the model was asked for {asked} prediction(s), but gave {found}")]
    Predictions {
        /// Conditions that were asked for.
        asked: usize,
        /// Predictions that came.
        found: usize,
    },
    /// A learned variance was asked for, but the model gives none.
    #[error("the sampler is to use the learned variance, but the model predicts none")]
    NoLearnedVariance,
    /// A sampler that works with `σ` meets an infinite one.
    #[error(
        "the sampler works with sigma, which is infinite at time {time}, where nothing is left of the \
         sample: use DDIM or DDPM, or a schedule without zero terminal SNR"
    )]
    InfiniteSigma {
        /// What the network gets as its time.
        time: f64,
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
    /// An equation that is not solved in single steps.
    #[error("SDE-DPM-Solver has no single steps: use the picture's form, SDE-DPM-Solver++")]
    NoSingleStep,
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
    /// An option out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A name or an option of a sampler or a guidance.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The levels.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Residual denoising diffusion.
    #[error(transparent)]
    Rddm(RddmError),
    /// Somebody stopped the run.
    #[error("{}", Cancelled)]
    Cancelled,
    /// A denoiser, a guidance or a correction of one's own failed.
    #[error("{0}")]
    Own(#[source] OwnError),
}

impl SamplerError {
    /// The error of one's own that ended the run, if it is an `E`.
    ///
    /// # Errors
    /// This error, if it is another one.
    pub fn own<E: Error + 'static>(self) -> Result<E, Self> {
        match self {
            Self::Own(error) => error.downcast().map(|own| *own).map_err(Self::Own),
            other => Err(other),
        }
    }
}

/// An error of this crate that went through somebody's code is itself again, and [`Cancelled`] is
/// [`SamplerError::Cancelled`].
impl From<OwnError> for SamplerError {
    fn from(error: OwnError) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(ours) => return *ours,
            Err(error) => error,
        };
        let error = match error.downcast::<OutOfRange>() {
            Ok(range) => return Self::Range(*range),
            Err(error) => error,
        };
        match error.downcast::<Cancelled>() {
            Ok(_) => Self::Cancelled,
            Err(error) => Self::Own(error),
        }
    }
}

/// What a network failed with is itself again.
impl From<RddmError> for SamplerError {
    fn from(error: RddmError) -> Self {
        match error {
            RddmError::Network(own) => own.into(),
            other => Self::Rddm(other),
        }
    }
}

impl From<Cancelled> for SamplerError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// That a multistep sampler has the order: 1 to `most`.
pub(crate) fn check_order(sampler: &str, order: usize, most: usize) -> Result<(), OutOfRange> {
    range::within(format!("order of {sampler}"), order, 1..=most)
}

/// That a schedule is long enough for a sampler's start. The loop cannot ask this for all samplers: it gets
/// runs that have begun, and the probability flow is followed without it too.
pub(crate) fn check_steps(
    sampler: &'static str,
    steps: usize,
    least: usize,
) -> Result<(), SamplerError> {
    match steps >= least {
        true => Ok(()),
        false => Err(SamplerError::TooFewSteps {
            sampler,
            steps,
            least,
        }),
    }
}

/// That a share of the noise can be renewed.
pub(crate) fn check_eta(sampler: &str, eta: f64) -> Result<(), OutOfRange> {
    let fits = (0.0..=1.0).contains(&eta);
    range::check(fits, format!("eta of {sampler}"), eta, "in [0, 1]")
}

/// That predicted samples can be limited to so much.
pub(crate) fn check_clip(clip: Option<f64>) -> Result<(), OutOfRange> {
    clip.map_or(Ok(()), |clip| range::positive("clip range", clip))
}
