//! Euler and Euler ancestral: the plainest samplers in `σ`.
//!
//! With `x̃ = x/√ᾱ = x_0 + σ ε` the probability-flow ordinary differential equation is
//! `dx̃/dσ = (x̃ − x̂_0)/σ = ε̂`, and a step of Euler's method to the level `σ'` is
//!
//! ```text
//! x̃' = x̃ + (σ_down − σ) ε̂ + σ_up z
//! σ_up² = η² σ'² (σ² − σ'²) / σ²,   σ_down² = σ'² − σ_up²
//! ```
//!
//! with fresh noise `z`. `η = 0` is Euler's method, which is DDIM; `η = 1` the ancestral sampler, which
//! is DDIM with `η = 1`. What tells them from [`ddim`](crate::ddim) is the schedule that people run them
//! on: see [`SchedulerConfig`](crate::stable_diffusion::scheduler_config::SchedulerConfig).
//!
//! Sources: Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative
//! Models*, 2022, arXiv 2206.00364, section 3; the ancestral form from the k-diffusion library.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::ddim::transfer;
use crate::denoiser::{Denoiser, Questions, SamplerError, SamplerHook, check_clip, check_sigmas};
use crate::schedule::{NoiseSchedule, alpha_bar_from_sigma, sigma_from_alpha_bar};
use crate::seeded_noise::SeededNoise;

/// Configuration of [`Euler`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct EulerConfig {
    /// How much noise is renewed, in `[0, 1]`: 0 is deterministic, 1 ancestral. Default 0.
    #[config(default = 0.0)]
    pub eta: f64,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none.
    pub clip: Option<f64>,
}

impl EulerConfig {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If `eta` is not in `[0, 1]`, `clip` is not positive and finite, or an `ᾱ` is 0.
    pub fn init(&self, schedule: NoiseSchedule) -> Result<Euler, SamplerError> {
        check_clip(self.clip)?;
        check_sigmas(&schedule)?;
        if !(0.0..=1.0).contains(&self.eta) {
            return Err(SamplerError::Eta(self.eta));
        }
        Ok(Euler {
            schedule,
            config: *self,
        })
    }
}

/// The sampler; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Euler {
    schedule: NoiseSchedule,
    config: EulerConfig,
}

impl Euler {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step, in the variance-preserving
    ///   form `√ᾱ x_0 + √(1 − ᾱ) ε`; `[batch, channels, height, width]`
    /// - `noise`: the noise of the steps; not touched if `η` is 0
    /// - `hook`: sees, and may replace, the predicted picture of every step
    ///
    /// # Errors
    /// If the model's output has the wrong shape.
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
            let epsilon = questions.ask(&x, index, level)?.epsilon;
            let to = self.schedule.previous_alpha_bar(index);
            let (sigma, sigma_to) = (level.sigma(), sigma_from_alpha_bar(to));
            let kept = ((sigma * sigma - sigma_to * sigma_to).max(0.0)).sqrt() / sigma;
            let up = self.config.eta * sigma_to * kept;
            let down = alpha_bar_from_sigma((sigma_to * sigma_to - up * up).max(0.0).sqrt());
            x = transfer(x, epsilon, level.alpha_bar, down);
            if up > 0.0 {
                // The step down ends at another ᾱ than x̃' has: back to x̃ by 1/√ᾱ_down.
                let z = noise.normal(x.dims(), &x.device());
                x = x * (to / down).sqrt() + z * (up * to.sqrt());
            }
        }
        Ok(x)
    }
}
