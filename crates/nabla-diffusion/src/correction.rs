//! Corrections, which see every prediction of a run, and may change it, fail, or stop the run.
//!
//! Range-space projection (OmniSSR), data consistency (DDS), the known region of a picture, a limit, a
//! progress bar: each of these is a [`Correction`], and so is a closure. A correction returns the prediction,
//! or a `Result` with it. If it returns its own error, the run ends at once, and the caller gets that error;
//! [`Cancelled`](crate::sampler_error::Cancelled) stops the run.
//!
//! [`Denoised`] describes what a correction may change, and how samplers use it. Several corrections see a
//! prediction one after the other.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_diffusion::asking::Step;
//! use nabla_diffusion::ddim::Ddim;
//! use nabla_diffusion::denoiser::{Denoised, Prediction, denoiser};
//! use nabla_diffusion::sampler::{Sampler, Sampling};
//! use nabla_diffusion::sampler_error::{Cancelled, OwnError, SamplerError};
//! use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
//! use nabla_diffusion::seeded_noise::SeededNoise;
//!
//! let device = Device::flex();
//! let model = denoiser(Prediction::Sample, |x: Tensor<4>, _level| x.zeros_like());
//! let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 10)?;
//! let sampler = Sampler::new(Ddim::new(), schedule)?;
//! let start = || Tensor::<4>::zeros([1, 3, 8, 8], &device);
//!
//! // Every number is at least a quarter.
//! let mut bright = |_: &Step<'_>, d: Denoised| {
//!     let sample = d.sample.clone().clamp_min(0.25);
//!     d.with_sample(sample)
//! };
//! let sampling = Sampling::of(&model).corrected_by(&mut bright);
//! let picture = sampling.run(&sampler, start(), &mut SeededNoise::new(0, 0))?;
//! assert_eq!(picture.min().into_scalar::<f32>(), 0.25);
//!
//! // Three calls, and no more.
//! let mut patience = |step: &Step<'_>, d: Denoised| -> Result<Denoised, OwnError> {
//!     match step.call < 3 {
//!         true => Ok(d),
//!         false => Err(Cancelled.into()),
//!     }
//! };
//! let sampling = Sampling::of(&model).corrected_by(&mut patience);
//! let stopped = sampling.run(&sampler, start(), &mut SeededNoise::new(0, 0));
//! assert!(matches!(stopped, Err(SamplerError::Cancelled)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::asking::{Predicted, Step};
use crate::denoiser::Denoised;
use crate::sampler_error::{IntoOwnResult, OwnError};

/// Sees every prediction of a run; see the [module documentation](self).
///
/// - `P`: the type of the predictions
pub trait Correction<const D: usize = 4, P: Predicted<D> = Denoised<D>> {
    /// Returns the prediction that the sampler will use.
    ///
    /// # Errors
    /// Any error, which ends the run; [`Cancelled`](crate::sampler_error::Cancelled) stops it.
    fn correct(&mut self, step: &Step<'_, D, P>, prediction: P) -> Result<P, OwnError>;
}

impl<F, R, const D: usize, P: Predicted<D>> Correction<D, P> for F
where
    F: FnMut(&Step<'_, D, P>, P) -> R,
    R: IntoOwnResult<P>,
{
    fn correct(&mut self, step: &Step<'_, D, P>, prediction: P) -> Result<P, OwnError> {
        self(step, prediction).into_own_result()
    }
}
