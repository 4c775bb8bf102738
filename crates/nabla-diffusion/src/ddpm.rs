//! DDPM: ancestral sampling.
//!
//! Draws a picture from a diffusion model by removing the noise one step at a time, each time drawing from
//! the posterior of the previous step given the model's prediction of the clean picture:
//!
//! ```text
//! x_{t−1} = √ᾱ_{t−1} β_t / (1 − ᾱ_t) x̂_0 + √α_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t) x_t + σ_t z
//! ```
//!
//! with `σ_t² = β̃_t = β_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t)`, `σ_t² = β_t`, or a learned value between the two, and
//! without noise in the last step.
//!
//! Sources: Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020, arXiv 2006.11239,
//! algorithm 2 and eq. 6–7; Nichol, Dhariwal, *Improved Denoising Diffusion Probabilistic Models*,
//! 2021, arXiv 2102.09672, eq. 15 (learned variance) and section 4 (fewer steps).

use burn::config::Config;
use burn::tensor::Tensor;

use crate::asking::{Asking, Direction, Reading};
use crate::denoiser::{Denoised, Denoiser};
use crate::level::Levels;
use crate::sampler::{Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip};

/// The variance `σ_t²` of a reverse step.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Variance {
    /// `β̃_t`, which is exact if the data are a single picture.
    FixedSmall,
    /// `β_t`, which is exact if the data are white noise.
    FixedLarge,
    /// `exp(u ln β_t + (1 − u) ln β̃_t)`, `u = (v + 1) / 2`, with the `v` in `[−1, 1]` that the model returns
    /// in the second half of its channels.
    LearnedRange,
}

/// The ancestral sampler; see the [module documentation](self).
///
/// To run it step by step, alternate [`denoise`](Self::denoise) and [`step`](Self::step) with an index that
/// falls to 0.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::ddpm::Ddpm;
/// use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
/// use nabla_diffusion::sampler::Sampler;
/// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
/// use nabla_diffusion::seeded_noise::SeededNoise;
///
/// let device = Device::flex();
/// let model = GaussianDenoiser::new(
///     Tensor::<4>::zeros([1, 3, 8, 8], &device),
///     Tensor::ones([1, 3, 8, 8], &device) * 0.25,
///     Prediction::Epsilon,
/// );
/// let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Linspace, 50)?;
/// let mut noise = SeededNoise::new(42, 0);
/// let start = noise.normal([2, 3, 8, 8], &device);
/// let pictures = Sampler::new(Ddpm::new(), schedule)?.sample(&model, start, &mut noise)?;
/// assert_eq!(pictures.dims(), [2, 3, 8, 8]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Ddpm {
    /// `σ_t²`. Default [`Variance::FixedSmall`].
    #[config(default = "Variance::FixedSmall")]
    pub variance: Variance,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit; 1 suits a model of
    /// pixels in `[−1, 1]`.
    pub clip: Option<f64>,
}

/// Needs noise in every step but the last.
impl<const D: usize> Solver<D> for Ddpm {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let answer = ask.ask(x, index, levels.level(index))?;
            let z = (index > 0).then(|| ask.normal(&answer.x));
            let denoised = Denoised {
                variance: answer.variance,
                ..Denoised::new(answer.sample, answer.epsilon)
            };
            self.step(levels, answer.x, denoised, index, z)
        }))
    }

    /// The direction is not used.
    fn reading(&self) -> Reading {
        Reading {
            clip: self.clip,
            direction: Direction::OfModel,
        }
    }
}

impl Ddpm {
    /// The model's prediction at step `index`, clipped as configured.
    ///
    /// - `x`: `x_t`, `[batch, …]`
    ///
    /// # Errors
    /// If the model fails, its output has the wrong shape, or it predicts `ε` where no signal is left.
    ///
    /// # Panics
    /// If `index` is not below the number of steps.
    pub fn denoise<const D: usize>(
        &self,
        levels: &Levels,
        model: &dyn Denoiser<D>,
        x: &Tensor<D>,
        index: usize,
    ) -> Result<Denoised<D>, SamplerError> {
        let denoised = Denoised::predict(model, x, levels.level(index))?;
        Ok(denoised.clip(self.clip))
    }

    /// `x_{t−1}` from `x_t`.
    ///
    /// - `x`: `x_t`, `[batch, …]`
    /// - `noise`: `z`, of the same shape, standard normal; if `None`, the posterior mean is returned. Not
    ///   used at `index` 0.
    ///
    /// # Errors
    /// If the variance is learned, but `denoised` has none.
    ///
    /// # Panics
    /// If `index` is not below the number of steps, or the shapes do not agree.
    pub fn step<const D: usize>(
        &self,
        levels: &Levels,
        x: Tensor<D>,
        denoised: Denoised<D>,
        index: usize,
        noise: Option<Tensor<D>>,
    ) -> Result<Tensor<D>, SamplerError> {
        let posterior = levels.posterior(index);
        // The posterior is for the variance-preserving form, in which both scales are 1.
        let (from, to) = (
            levels.level(index).scale(),
            levels.level_after(index).scale(),
        );
        let mean = denoised.sample * (posterior.sample * to) + x * (posterior.x * (to / from));
        let Some(noise) = noise.filter(|_| index > 0) else {
            return Ok(mean);
        };
        let beta = levels.beta(index);
        let noise = match self.variance {
            Variance::FixedSmall => noise * (posterior.variance.sqrt() * to),
            Variance::FixedLarge => noise * (beta.sqrt() * to),
            Variance::LearnedRange => {
                let v = denoised.variance.ok_or(SamplerError::NoLearnedVariance)?;
                let (min, max) = (posterior.variance.ln(), beta.ln());
                // Half the log variance: (u max + (1 − u) min) / 2 with u = (v + 1) / 2.
                let log_deviation = v * (0.25 * (max - min)) + (0.25 * (max + min) + to.ln());
                noise * log_deviation.exp()
            }
        };
        Ok(mean + noise)
    }
}
