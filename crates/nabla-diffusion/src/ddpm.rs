//! DDPM: ancestral sampling.
//!
//! Draws a picture from a diffusion model by undoing the noise one step at a time, each time from
//! the posterior of the previous step given the model's guess of the clean picture:
//!
//! ```text
//! x_{t−1} = √ᾱ_{t−1} β_t / (1 − ᾱ_t) x̂_0 + √α_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t) x_t + σ_t z
//! ```
//!
//! with `σ_t² = β̃_t = β_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t)`, `σ_t² = β_t`, or a learned value between, and
//! no noise at the last step.
//!
//! Sources: Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020, arXiv 2006.11239,
//! algorithm 2 and eq. 6–7; Nichol, Dhariwal, *Improved Denoising Diffusion Probabilistic Models*,
//! 2021, arXiv 2102.09672, eq. 15 (learned variance) and section 4 (fewer steps).

use burn::config::Config;
use burn::tensor::Tensor;

use crate::denoiser::{Denoised, Denoiser, SamplerError, SamplerHook, SamplerStep, check_clip};
use crate::schedule::NoiseSchedule;
use crate::seeded_noise::SeededNoise;

/// The variance `σ_t²` of a reverse step.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Variance {
    /// `β̃_t`, right for data that is a single picture.
    FixedSmall,
    /// `β_t`, right for data that is white noise.
    FixedLarge,
    /// `exp(u ln β_t + (1 − u) ln β̃_t)`, `u = (v + 1) / 2`, with the `v` in `[−1, 1]` that the
    /// model gives in the second half of its channels.
    LearnedRange,
}

/// Configuration of [`Ddpm`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct DdpmConfig {
    /// `σ_t²`. Default [`Variance::FixedSmall`].
    #[config(default = "Variance::FixedSmall")]
    pub variance: Variance,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none; 1 for a model of
    /// pixels in `[−1, 1]`.
    pub clip: Option<f64>,
}

impl DdpmConfig {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If `clip` is not positive and finite.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::ddpm::DdpmConfig;
    /// use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
    /// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
    /// use nabla_diffusion::seeded_noise::SeededNoise;
    ///
    /// let device = Device::flex();
    /// let model = GaussianDenoiser::new(
    ///     Tensor::zeros([1, 3, 8, 8], &device),
    ///     Tensor::ones([1, 3, 8, 8], &device) * 0.25,
    ///     Prediction::Epsilon,
    /// );
    /// let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Linspace, 50)?;
    /// let mut noise = SeededNoise::new(42, 0);
    /// let start = noise.normal([2, 3, 8, 8], &device);
    /// let pictures = DdpmConfig::new().init(schedule)?.sample(&model, start, &mut noise)?;
    /// assert_eq!(pictures.dims(), [2, 3, 8, 8]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn init(&self, schedule: NoiseSchedule) -> Result<Ddpm, SamplerError> {
        check_clip(self.clip)?;
        Ok(Ddpm {
            schedule,
            config: *self,
        })
    }
}

/// The ancestral sampler; see the [module documentation](self).
///
/// [`sample`](Self::sample) runs it whole. To run it step by step, alternate
/// [`denoise`](Self::denoise) and [`step`](Self::step) with an index that falls to 0.
#[derive(Clone, Debug)]
pub struct Ddpm {
    schedule: NoiseSchedule,
    config: DdpmConfig,
}

impl Ddpm {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// The model's prediction at step `index`, clipped as configured.
    ///
    /// # Errors
    /// If the model's output has the wrong shape, or it predicts `ε` where `ᾱ` is 0.
    ///
    /// # Panics
    /// If `index` is not below the number of steps.
    pub fn denoise(
        &self,
        model: &dyn Denoiser,
        x: &Tensor<4>,
        index: usize,
    ) -> Result<Denoised, SamplerError> {
        let denoised = Denoised::predict(model, x, self.schedule.level(index))?;
        Ok(denoised.clip(self.config.clip))
    }

    /// `x_{t−1}` from `x_t`.
    ///
    /// - `x`: `x_t`, `[batch, channels, height, width]`
    /// - `noise`: `z`, of the same shape, standard normal; without it, the posterior mean. Not used
    ///   at `index` 0.
    ///
    /// # Errors
    /// If the variance is learned, but `denoised` has none.
    ///
    /// # Panics
    /// If `index` is not below the number of steps, or the shapes do not agree.
    pub fn step(
        &self,
        x: Tensor<4>,
        denoised: Denoised,
        index: usize,
        noise: Option<Tensor<4>>,
    ) -> Result<Tensor<4>, SamplerError> {
        let posterior = self.schedule.posterior(index);
        let mean = denoised.sample * posterior.sample + x * posterior.x;
        let Some(noise) = noise.filter(|_| index > 0) else {
            return Ok(mean);
        };
        let beta = self.schedule.beta(index);
        let noise = match self.config.variance {
            Variance::FixedSmall => noise * posterior.variance.sqrt(),
            Variance::FixedLarge => noise * beta.sqrt(),
            Variance::LearnedRange => {
                let v = denoised.variance.ok_or(SamplerError::NoLearnedVariance)?;
                let (min, max) = (posterior.variance.ln(), beta.ln());
                // Half the log variance: (u max + (1 − u) min) / 2 with u = (v + 1) / 2.
                let log_deviation = v * (0.25 * (max - min)) + 0.25 * (max + min);
                noise * log_deviation.exp()
            }
        };
        Ok(mean + noise)
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step: standard normal noise, or
    ///   a noised picture; `[batch, channels, height, width]`
    /// - `noise`: the noise of the steps
    /// - returns `[batch, channels, height, width]`
    ///
    /// # Errors
    /// As [`denoise`](Self::denoise) and [`step`](Self::step).
    pub fn sample(
        &self,
        model: &dyn Denoiser,
        x: Tensor<4>,
        noise: &mut SeededNoise,
    ) -> Result<Tensor<4>, SamplerError> {
        self.sample_with_hook(model, x, noise, &mut |_, denoised| denoised)
    }

    /// [`sample`](Self::sample) with a hook that sees, and may replace, every prediction.
    ///
    /// # Errors
    /// As [`denoise`](Self::denoise) and [`step`](Self::step).
    pub fn sample_with_hook(
        &self,
        model: &dyn Denoiser,
        mut x: Tensor<4>,
        noise: &mut SeededNoise,
        hook: &mut SamplerHook<'_>,
    ) -> Result<Tensor<4>, SamplerError> {
        let steps = self.schedule.steps();
        for index in (0..steps).rev() {
            let level = self.schedule.level(index);
            let denoised = self.denoise(model, &x, index)?;
            let denoised = hook(
                SamplerStep {
                    index,
                    steps,
                    level,
                    x: &x,
                },
                denoised,
            );
            let z = (index > 0).then(|| noise.normal(x.dims(), &x.device()));
            x = self.step(x, denoised, index, z)?;
        }
        Ok(x)
    }
}
