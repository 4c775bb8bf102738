//! Heun's method in `σ`: two calls of the network a step, second order.
//!
//! ```text
//! ε_1 = ε̂(x̃, σ),   x̃_1 = x̃ + (σ' − σ) ε_1,   ε_2 = ε̂(x̃_1, σ')
//! x̃' = x̃ + (σ' − σ) (ε_1 + ε_2) / 2
//! ```
//!
//! for `x̃ = x/√ᾱ`; the step to `σ' = 0` is Euler's. With [`Churn`] a step first goes up to a higher level,
//! which makes it the stochastic sampler of the source.
//!
//! Source: Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative
//! Models*, 2022, arXiv 2206.00364, algorithms 1 and 2.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::churn::Churn;
use crate::ddim::transfer;
use crate::denoiser::{
    Denoiser, Questions, SamplerError, SamplerHook, check_clip, check_sigmas, sample_without_hook,
};
use crate::schedule::NoiseSchedule;
use crate::seeded_noise::SeededNoise;

/// Configuration of [`Heun`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct HeunConfig {
    /// Noise that is added on the way and removed again. Default none.
    pub churn: Option<Churn>,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none.
    pub clip: Option<f64>,
}

impl HeunConfig {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If `clip` is not positive and finite, churn is negative, or an `ᾱ` is 0.
    pub fn init(&self, schedule: NoiseSchedule) -> Result<Heun, SamplerError> {
        check_clip(self.clip)?;
        self.churn.map_or(Ok(()), |churn| churn.check())?;
        check_sigmas(&schedule)?;
        Ok(Heun {
            schedule,
            config: *self,
        })
    }
}

/// The sampler; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Heun {
    schedule: NoiseSchedule,
    config: HeunConfig,
}

sample_without_hook!(Heun);

impl Heun {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step, in the variance-preserving
    ///   form; `[batch, channels, height, width]`
    /// - `noise`: the noise of churn; not touched without
    /// - `hook`: sees, and may replace, the predicted picture of every call of the network: two a
    ///   step, with the same index
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
            let to = self.schedule.level_after(index);
            let mut epsilon = questions.ask(&x, index, level)?.epsilon;
            if to.alpha_bar < 1.0 {
                let guess = transfer(x.clone(), epsilon.clone(), level.alpha_bar, to.alpha_bar);
                epsilon = (epsilon + questions.ask(&guess, index, to)?.epsilon) * 0.5;
            }
            x = transfer(x, epsilon, level.alpha_bar, to.alpha_bar);
        }
        Ok(x)
    }
}
