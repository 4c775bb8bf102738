//! Why a run fails; errors of your own parts, and the request to stop, are passed through.
//!
//! Your own denoiser, guidance or correction may fail with any error ([`OwnError`]). The run then ends at
//! once, and its caller finds that error in [`SamplerError::Own`]:
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

/// An error of a user-defined denoiser, guidance, correction or sampler.
pub type OwnError = Box<dyn Error + Send + Sync>;

/// The return value of a user-defined closure: a value, or a `Result` with one.
pub trait IntoOwnResult<T> {
    /// Converts it to a `Result`.
    ///
    /// # Errors
    /// The error of the closure.
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

/// The error that a denoiser, a guidance or a correction returns to stop the run, which then ends with
/// [`SamplerError::Cancelled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sampling was cancelled")]
pub struct Cancelled;

/// The reason why a sampler cannot be built or cannot take a step.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// `x_0` does not follow from `ε` where no signal is left.
    #[error(
        "the model predicts the noise or the score, which do not determine the sample at time \
         {time}, where no signal is left: use a model that predicts the sample or a velocity, or a \
         schedule without zero terminal SNR"
    )]
    NoSignal {
        /// The time that the network gets.
        time: f64,
    },
    /// The model's output does not fit the state.
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
    /// A tensor from a guidance or a correction does not fit the state.
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
    /// A guidance requests a condition that the model does not have.
    #[error("the guidance asks for the prediction {condition}, but the model has only {known}")]
    NoCondition {
        /// The requested condition.
        condition: Condition,
        /// The available conditions.
        known: String,
    },
    /// The model returns a different number of predictions than requested.
    #[error("the model was asked for {asked} prediction(s), but returned {found}")]
    Predictions {
        /// The number of requested conditions.
        asked: usize,
        /// The number of returned predictions.
        found: usize,
    },
    /// A guidance asks for a row that the batch does not have.
    #[error("the guidance asks for row {row}, but the batch has {rows} row(s), counted from 0")]
    NoRow {
        /// The requested row.
        row: usize,
        /// The number of rows.
        rows: usize,
    },
    /// A guidance needs the self-attention of a model that has none.
    #[error(
        "the guidance works with the self-attention of the network, but this model gives none to work with"
    )]
    NoSelfAttention,
    /// A guidance cannot work with a sampler that calls the model several times in a step.
    #[error(
        "{guidance} needs a sampler that calls the model once in each step, but this one called it again \
         in step {step}: use, for example, ddim or dpm++2m"
    )]
    SeveralCalls {
        /// The guidance.
        guidance: &'static str,
        /// The step, from 1.
        step: usize,
    },
    /// The sampler needs a learned variance, but the model predicts none.
    #[error("the sampler is set to use the learned variance, but the model predicts none")]
    NoLearnedVariance,
    /// A sampler that works with `σ` meets an infinite one.
    #[error(
        "the sampler works with sigma, which is infinite at time {time}, where no signal is left: use \
         DDIM or DDPM, or a schedule without zero terminal SNR"
    )]
    InfiniteSigma {
        /// The time that the network gets.
        time: f64,
    },
    /// A sampler cannot end where there is no noise.
    #[error(
        "{sampler} cannot step to sigma 0: use a schedule that ends above it (final_sigmas_type \
         sigma_min)"
    )]
    FinalSigma {
        /// The sampler.
        sampler: &'static str,
    },
    /// The equation cannot be solved in single steps.
    #[error("SDE-DPM-Solver has no single steps: use the picture's form, SDE-DPM-Solver++")]
    NoSingleStep,
    /// The schedule is too short for the sampler's start.
    #[error("{sampler} needs a schedule of at least {least} steps, but it has {steps}")]
    TooFewSteps {
        /// The sampler.
        sampler: &'static str,
        /// Steps of the schedule.
        steps: usize,
        /// Minimum number of steps.
        least: usize,
    },
    /// A linear multistep method cannot interpolate between the time steps.
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
    /// The requested start is not a step of the schedule.
    #[error(
        "sampling was asked to start at step {start}, but the schedule has the steps 1 to {steps}"
    )]
    Start {
        /// The requested number of steps.
        start: usize,
        /// The number of steps of the schedule.
        steps: usize,
    },
    /// The time is outside the schedule.
    #[error("the time {value} lies outside the schedule, which goes from {least} to {most}")]
    OutsideTime {
        /// The time.
        value: f64,
        /// The first time of the schedule.
        least: f64,
        /// The last time of the schedule.
        most: f64,
    },
    /// An adaptive step became too short.
    #[error(
        "at time {time} no step is short enough for the tolerances: raise them, or check that the \
         model's output is not NaN there"
    )]
    StepTooShort {
        /// The time, in training steps.
        time: f64,
    },
    /// An option is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A wrong name or option of a sampler or a guidance.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The levels are invalid.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Residual denoising diffusion failed.
    #[error(transparent)]
    Rddm(RddmError),
    /// The run was stopped.
    #[error("{}", Cancelled)]
    Cancelled,
    /// A user-defined denoiser, guidance or correction failed.
    #[error("{0}")]
    Own(#[source] OwnError),
}

impl SamplerError {
    /// The user-defined error that ended the run, if it is an `E`.
    ///
    /// # Errors
    /// This error itself, if it is not an `E`.
    pub fn own<E: Error + 'static>(self) -> Result<E, Self> {
        match self {
            Self::Own(error) => error.downcast().map(|own| *own).map_err(Self::Own),
            other => Err(other),
        }
    }
}

/// Unwraps errors of this crate that passed through user code; [`Cancelled`] becomes
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

/// Unwraps the error with which a network failed.
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

/// Checks that a multistep sampler supports the order: 1 to `most`.
pub(crate) fn check_order(sampler: &str, order: usize, most: usize) -> Result<(), OutOfRange> {
    range::within(format!("order of {sampler}"), order, 1..=most)
}

/// Checks that a schedule is long enough for a sampler's start. The loop cannot check this for all samplers:
/// it gets runs that have already begun, and the probability flow can also be solved without it.
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

/// Checks a share of noise to renew.
pub(crate) fn check_eta(sampler: &str, eta: f64) -> Result<(), OutOfRange> {
    let fits = (0.0..=1.0).contains(&eta);
    range::check(fits, format!("eta of {sampler}"), eta, "in [0, 1]")
}

/// Checks a limit for predicted samples.
pub(crate) fn check_clip(clip: Option<f64>) -> Result<(), OutOfRange> {
    clip.map_or(Ok(()), |clip| range::positive("clip range", clip))
}
