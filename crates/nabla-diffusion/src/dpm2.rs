//! DPM2: the midpoint method in `ln σ`, two calls of the network a step, with or without fresh noise.
//!
//! ```text
//! σ_down, σ_up of σ and σ' as in euler.rs,   σ_m = √(σ σ_down)
//! ε_1 = ε̂(x̃, σ),   x̃_m = x̃ + (σ_m − σ) ε_1,   ε_2 = ε̂(x̃_m, σ_m)
//! x̃' = x̃ + (σ_down − σ) ε_2 + σ_up z
//! ```
//!
//! for `x̃ = x/√ᾱ`; the step to `σ' = 0` is Euler's. `η = 0` adds no noise, `η = 1` is the ancestral sampler.
//! The network is told the time of the middle level, which may lie between two training steps.
//!
//! Sources: `sample_dpm_2` and `sample_dpm_2_ancestral` of the k-diffusion library of K. Crowson, diffusers'
//! `KDPM2DiscreteScheduler` and `KDPM2AncestralDiscreteScheduler`; the method is that of Lu et al.,
//! *DPM-Solver*, 2022, arXiv 2206.00927 (its second order), in the setting of Karras et al., 2022, arXiv
//! 2206.00364.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::ddim::transfer;
use crate::denoiser::{
    Denoiser, Questions, SamplerError, SamplerHook, check_clip, check_eta, check_sigmas,
    sample_without_hook,
};
use crate::euler::Ancestral;
use crate::schedule::NoiseSchedule;
use crate::seeded_noise::SeededNoise;

/// Configuration of [`Dpm2`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Dpm2Config {
    /// How much noise is renewed, in `[0, 1]`: 0 is deterministic, 1 ancestral. Default 0.
    #[config(default = 0.0)]
    pub eta: f64,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none.
    pub clip: Option<f64>,
}

impl Dpm2Config {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If `eta` is not in `[0, 1]`, `clip` is not positive and finite, or an `ᾱ` is 0.
    pub fn init(&self, schedule: NoiseSchedule) -> Result<Dpm2, SamplerError> {
        check_clip(self.clip)?;
        check_sigmas(&schedule)?;
        check_eta(self.eta)?;
        Ok(Dpm2 {
            schedule,
            config: *self,
        })
    }
}

/// The sampler; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Dpm2 {
    schedule: NoiseSchedule,
    config: Dpm2Config,
}

sample_without_hook!(Dpm2);

impl Dpm2 {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step, in the variance-preserving
    ///   form; `[batch, channels, height, width]`
    /// - `noise`: the noise of the steps; not touched if `η` is 0
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
            let level = self.schedule.level(index);
            let to = self.schedule.level_after(index);
            let step = Ancestral::new(self.config.eta, level.sigma(), to.sigma());
            let mut epsilon = questions.ask(&x, index, level)?.epsilon;
            if step.down > 0.0 {
                let sigma = (level.sigma() * step.down).sqrt();
                let middle = self.schedule.training().level_of_sigma(sigma);
                let ahead = transfer(x.clone(), epsilon, level.alpha_bar, middle.alpha_bar);
                epsilon = questions.ask(&ahead, index, middle)?.epsilon;
            }
            x = step.take(x, epsilon, level, to.alpha_bar, noise);
        }
        Ok(x)
    }
}
