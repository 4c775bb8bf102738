//! LCM: sampling from a latent consistency model in 1 to 8 steps.
//!
//! A consistency model is distilled so that its answer at any time is already the picture at the end of
//! the probability-flow equation. Each step takes that answer, and noises it anew to the next level:
//!
//! ```text
//! f(x, t) = c_skip(t) x + c_out(t) x̂_0
//! x' = √ᾱ' f(x, t) + √(1 − ᾱ') z,   in the last step x' = f(x, t)
//! c_skip = σ_d² / ((s t)² + σ_d²),   c_out = s t / √((s t)² + σ_d²)
//! ```
//!
//! with fresh noise `z`, `σ_d = 0.5` and `s = 10`, which make `f(x, 0) = x`. The times are some of the
//! `original_inference_steps` that the model was distilled with:
//! [`SchedulerConfig`](crate::stable_diffusion::scheduler_config::SchedulerConfig) makes them. A
//! run from a picture takes the last of its steps, as with every sampler here, while diffusers' pipeline
//! spreads all of them below the strength. On a model that is none of consistency the pictures are blurred.
//!
//! Sources: Luo, Tan, Huang, Li, Zhao, *Latent Consistency Models: Synthesizing High-Resolution Images with
//! Few-Step Inference*, 2023, arXiv 2310.04378, algorithm 3; the multistep sampler and the boundary
//! condition are of Song, Dhariwal, Chen, Sutskever, *Consistency Models*, 2023, arXiv 2303.01469.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::denoiser::{
    Denoiser, Questions, SamplerError, SamplerHook, check_clip, sample_without_hook,
};
use crate::schedule::NoiseSchedule;
use crate::seeded_noise::SeededNoise;

/// `σ_d`, the standard deviation of the data in the boundary condition.
const SIGMA_DATA: f64 = 0.5;

/// Configuration of [`Lcm`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct LcmConfig {
    /// `s`, what times are multiplied by in the boundary condition. At least 0; default 10.
    #[config(default = 10.0)]
    pub timestep_scaling: f64,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none.
    pub clip: Option<f64>,
}

impl LcmConfig {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If `clip` is not positive and finite, or `timestep_scaling` is negative or not finite.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::denoiser::{Prediction, denoiser};
    /// use nabla_diffusion::lcm::LcmConfig;
    /// use nabla_diffusion::schedule::NoiseScheduleConfig;
    /// use nabla_diffusion::seeded_noise::SeededNoise;
    ///
    /// let device = Device::flex();
    /// // A consistency model of a data set whose only picture is black.
    /// let model = denoiser(Prediction::Sample, |x, _level| x.zeros_like());
    /// let schedule = NoiseScheduleConfig::new().init()?.respace_to(&[259, 499, 759, 999])?;
    /// let lcm = LcmConfig::new().init(schedule)?;
    /// let mut noise = SeededNoise::new(42, 0);
    /// let start = noise.normal([1, 3, 8, 8], &device);
    /// let picture = lcm.sample_with_hook(&model, start, &mut noise, &mut |_, denoised| denoised)?;
    /// assert!(picture.abs().max().into_scalar::<f32>() < 1e-3);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn init(&self, schedule: NoiseSchedule) -> Result<Lcm, SamplerError> {
        check_clip(self.clip)?;
        if !(self.timestep_scaling >= 0.0 && self.timestep_scaling.is_finite()) {
            return Err(SamplerError::TimestepScaling(self.timestep_scaling));
        }
        Ok(Lcm {
            schedule,
            config: *self,
        })
    }
}

/// The sampler; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Lcm {
    schedule: NoiseSchedule,
    config: LcmConfig,
}

sample_without_hook!(Lcm);

impl Lcm {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step, in the variance-preserving
    ///   form; `[batch, channels, height, width]`
    /// - `noise`: the noise of all steps but the last
    /// - `hook`: sees, and may replace, the predicted picture of every step
    ///
    /// # Errors
    /// If the model's output has the wrong shape, or it predicts `ε` where `ᾱ` is 0.
    pub fn sample_with_hook(
        &self,
        model: &dyn Denoiser,
        mut x: Tensor<4>,
        noise: &mut SeededNoise,
        hook: &mut SamplerHook<'_>,
    ) -> Result<Tensor<4>, SamplerError> {
        let steps = self.schedule.steps();
        let mut questions = Questions::new(model, hook, self.config.clip, steps);
        for index in (0..steps).rev() {
            let level = self.schedule.level(index);
            let sample = questions.ask(&x, index, level)?.sample;
            let time = self.config.timestep_scaling * level.timestep;
            let hypot = time.hypot(SIGMA_DATA);
            let consistent = x * (SIGMA_DATA / hypot).powi(2) + sample * (time / hypot);
            x = match index {
                0 => consistent,
                _ => {
                    let to = self.schedule.level(index - 1);
                    let z = noise.normal(consistent.dims(), &consistent.device());
                    consistent * to.signal() + z * to.noise()
                }
            };
        }
        Ok(x)
    }
}
