//! Classifier-free guidance, and its rescale.
//!
//! With the predictions `m₀` without the condition and `m` with it, in the form in which the network gives
//! them,
//!
//! ```text
//! g = m₀ + s (m − m₀)
//! g ← g (φ std(m)/std(g) + 1 − φ)
//! ```
//!
//! The second line moves the standard deviation of `g` towards that of `m`, by the share `φ`, for each
//! example of the batch. Without it, strong guidance makes pictures too bright and saturated.
//!
//! Sources: Ho, Salimans, *Classifier-Free Diffusion Guidance*, 2022, arXiv 2207.12598; Lin, Liu, Li, Yang,
//! *Common Diffusion Noise Schedules and Sample Steps are Flawed*, 2023, arXiv 2305.08891, section 3.4 (the
//! rescale).

use burn::config::Config;
use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};

use super::{Guidance, ModelAt};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised};
use crate::sampler_error::OwnError;

/// Classifier-free guidance: `g = m₀ + s (m − m₀)`, and its rescale by `φ`.
///
/// The rescale moves the standard deviation of `g` towards that of the prediction with the condition, by the
/// share `φ`, for each example of the batch. Sources: Ho, Salimans, 2022, arXiv 2207.12598; Lin et al., 2023,
/// arXiv 2305.08891, section 3.4.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::guidance::ClassifierFree;
///
/// let [without, with] = [1.0, 2.0].map(|v: f64| Tensor::<2>::full([1, 3], v, &Device::flex()));
/// let guided = ClassifierFree::new().with_scale(7.5).guided(without, with);
/// assert_eq!(guided.mean().into_scalar::<f32>(), 8.5);
/// ```
#[derive(Config, Debug, Copy, PartialEq)]
pub struct ClassifierFree {
    /// `s`: 0 gives the prediction without the condition, 1 the one with it. Default 7.5.
    #[config(default = 7.5)]
    pub scale: f64,
    /// `φ`, in `[0, 1]`. Default 0: no rescale.
    #[config(default = 0.0)]
    pub rescale: f64,
}

impl ClassifierFree {
    /// # Errors
    /// If the scale is not finite, or the rescale not in `[0, 1]`.
    pub(crate) fn check(&self) -> Result<(), OutOfRange> {
        range::finite("guidance scale", self.scale)?;
        let fits = (0.0..=1.0).contains(&self.rescale);
        range::check(fits, "guidance rescale", self.rescale, "in [0, 1]")
    }

    /// Computes `g`.
    ///
    /// - `without`, `with`: the predictions without and with the condition, `[batch, …]`
    pub fn guided<const D: usize>(&self, without: Tensor<D>, with: Tensor<D>) -> Tensor<D> {
        let guided = without.clone() + (with.clone() - without) * self.scale;
        if self.rescale == 0.0 {
            return guided;
        }
        let deviation = |x: Tensor<D>| -> Tensor<D> {
            let shape = x.dims();
            let numbers: Tensor<2> = x.reshape([shape[0], shape[1..].iter().product()]);
            let mut each = [1; D];
            each[0] = shape[0];
            numbers.var(1).sqrt().reshape(each)
        };
        let ratio = deviation(with) / deviation(guided.clone());
        guided * (ratio * self.rescale + (1.0 - self.rescale))
    }
}

impl<const D: usize> Guidance<D> for ClassifierFree {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        self.check().map_err(Into::into)
    }

    fn guide(
        &mut self,
        _step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
        Ok(model.read(self.guided(without, with))?)
    }
}
