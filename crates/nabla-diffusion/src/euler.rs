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
//! with fresh noise `z`. With [`Churn`] a step first goes up to a higher level. `η = 0` is Euler's method, which is DDIM; `η = 1` the ancestral sampler, which
//! is DDIM with `η = 1`. What tells them from [`ddim`](crate::ddim) is the schedule that people run them
//! on: see [`SchedulerConfig`](crate::stable_diffusion::scheduler_config::SchedulerConfig).
//!
//! Sources: Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative
//! Models*, 2022, arXiv 2206.00364, section 3; the ancestral form from the k-diffusion library.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::churn::Churn;
use crate::ddim::transfer;
use crate::denoiser::{
    Denoiser, Questions, SamplerError, SamplerHook, check_clip, check_eta, check_sigmas,
    sample_without_hook,
};
use crate::schedule::{NoiseLevel, NoiseSchedule, alpha_bar_from_sigma, sigma_from_alpha_bar};
use crate::seeded_noise::SeededNoise;

/// Configuration of [`Euler`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct EulerConfig {
    /// How much noise is renewed, in `[0, 1]`: 0 is deterministic, 1 ancestral. Default 0.
    #[config(default = 0.0)]
    pub eta: f64,
    /// Noise that is added on the way and removed again. Default none.
    pub churn: Option<Churn>,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none.
    pub clip: Option<f64>,
}

impl EulerConfig {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If `eta` is not in `[0, 1]`, `clip` is not positive and finite, churn is negative, or an `ᾱ` is 0.
    pub fn init(&self, schedule: NoiseSchedule) -> Result<Euler, SamplerError> {
        check_clip(self.clip)?;
        self.churn.map_or(Ok(()), |churn| churn.check())?;
        check_sigmas(&schedule)?;
        check_eta(self.eta)?;
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

sample_without_hook!(Euler);

impl Euler {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step, in the variance-preserving
    ///   form `√ᾱ x_0 + √(1 − ᾱ) ε`; `[batch, channels, height, width]`
    /// - `noise`: the noise of the steps; not touched if `η` is 0 and there is no churn
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
            let mut level = self.schedule.level(index);
            if let Some(churn) = self.config.churn {
                (x, level) = churn.raise(x, level, steps, self.schedule.training(), noise);
            }
            let epsilon = questions.ask(&x, index, level)?.epsilon;
            let to = self.schedule.previous_alpha_bar(index);
            let step = Ancestral::new(self.config.eta, level.sigma(), sigma_from_alpha_bar(to));
            x = step.take(x, epsilon, level, to, noise);
        }
        Ok(x)
    }
}

/// A step that goes down further than it leads, and up again by fresh noise.
pub(crate) struct Ancestral {
    /// `σ_down`
    pub(crate) down: f64,
    /// `σ_up`
    up: f64,
}

impl Ancestral {
    /// From the level `sigma` to the level `to`.
    pub(crate) fn new(eta: f64, sigma: f64, to: f64) -> Self {
        let kept = ((sigma * sigma - to * to).max(0.0)).sqrt() / sigma;
        let up = eta * to * kept;
        Self {
            down: (to * to - up * up).max(0.0).sqrt(),
            up,
        }
    }

    /// Along `epsilon`.
    ///
    /// - `to`: `ᾱ` where it leads
    pub(crate) fn take(
        &self,
        x: Tensor<4>,
        epsilon: Tensor<4>,
        level: NoiseLevel,
        to: f64,
        noise: &mut SeededNoise,
    ) -> Tensor<4> {
        let down = alpha_bar_from_sigma(self.down);
        let x = transfer(x, epsilon, level.alpha_bar, down);
        if self.up == 0.0 {
            return x;
        }
        // The step down ends at another ᾱ than x̃' has: back to x̃ by 1/√ᾱ_down.
        let z = noise.normal(x.dims(), &x.device());
        x * (to / down).sqrt() + z * (self.up * to.sqrt())
    }
}
