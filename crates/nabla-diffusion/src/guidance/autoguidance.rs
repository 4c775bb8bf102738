//! Autoguidance: away from a worse version of the model.
//!
//! ```text
//! D = D_weak(x; c) + w (D(x; c) − D_weak(x; c))
//! ```
//!
//! The weak model has the same task as the good one, under the same condition, but is smaller, trained less, or
//! otherwise degraded in the same way as the good model, only more. What the two disagree about is what the good
//! model does not know well either, so the difference leads to better pictures without making them less varied,
//! also without a condition.
//!
//! Source: Karras, Aittala, Kynkäänniemi, Lehtinen, Aila, Laine, *Guiding a Diffusion Model with a Bad Version of
//! Itself*, 2024, arXiv 2406.02507, section 3.

use super::{ClassifierFree, Guidance, ModelAt};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised, Denoiser};
use crate::sampler_error::OwnError;

/// Autoguidance: `D_weak + w (D − D_weak)`.
///
/// The weak model may be of another kind of prediction. Its evaluations are counted as
/// [`of_others`](super::Evaluations::of_others), as they usually cost less. Source: Karras et al., 2024, arXiv
/// 2406.02507.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::ddim::Ddim;
/// use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
/// use nabla_diffusion::guidance::Autoguidance;
/// use nabla_diffusion::sampler::{Sampler, Sampling};
/// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
/// use nabla_diffusion::seeded_noise::SeededNoise;
///
/// let device = Device::flex();
/// // The weak one has seen the same data, but blurred.
/// let [good, weak] = [0.1, 0.4].map(|variance: f64| {
///     let full = |value| Tensor::<2>::full([1, 4], value, &device);
///     GaussianDenoiser::new(full(0.5), full(variance), Prediction::Epsilon)
/// });
/// let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 20)?;
/// let sampler = Sampler::new(Ddim::new(), schedule)?;
/// let mut noise = SeededNoise::new(42, 0);
/// let start = noise.normal([200, 4], &device);
/// let mut guidance = Autoguidance::new(&weak, 2.0);
/// let sampling = Sampling::of(&good).guided_by(&mut guidance);
/// let found = sampling.run(&sampler, start, &mut noise)?;
/// assert!(found.var(0).mean().into_scalar::<f32>() < 0.1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Autoguidance<'a, const D: usize = 4> {
    weak: &'a dyn Denoiser<D>,
    combined: ClassifierFree,
}

impl<const D: usize> std::fmt::Debug for Autoguidance<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Autoguidance")
            .field("scale", &self.combined.scale)
            .finish_non_exhaustive()
    }
}

impl<'a, const D: usize> Autoguidance<'a, D> {
    /// - `weak`: the worse model, under the same conditions
    /// - `scale`: `w`; 1 gives the good model, the paper's best values lie between 1.4 and 3
    pub fn new(weak: &'a dyn Denoiser<D>, scale: f64) -> Self {
        Self {
            weak,
            combined: ClassifierFree::new().with_scale(scale),
        }
    }
}

impl<const D: usize> Guidance<D> for Autoguidance<'_, D> {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        Ok(self.combined.check()?)
    }

    fn guide(
        &mut self,
        _step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let [good] = model.ask([Condition::FIRST])?;
        let weak = model.ask_other(self.weak, Condition::FIRST)?;
        Ok(model.read(self.combined.guided(weak, good))?)
    }
}
