//! Churn: noise that a sampler adds on the way, and removes again.
//!
//! Before a step from the level `σ`, the picture is made noisier,
//!
//! ```text
//! γ = min(S_churn/N, √2 − 1) if S_tmin ≤ σ ≤ S_tmax, otherwise 0
//! σ̂ = σ + γ σ,   x̂ = x̃ + √(σ̂² − σ²) S_noise z
//! ```
//!
//! for `x̃ = x/√ᾱ`, and the step goes from there: the network is asked about `x̂` at `σ̂`. That corrects
//! errors of the steps before. `EulerDiscreteScheduler` of the diffusers library adds the same noise, but
//! has asked the network about the picture without it; here it is as in the source and in k-diffusion.
//!
//! Source: Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative
//! Models*, 2022, arXiv 2206.00364, algorithm 2.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::denoiser::SamplerError;
use crate::schedule::{NoiseLevel, NoiseSchedule};
use crate::seeded_noise::SeededNoise;

/// How much, and where; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Churn {
    /// `S_churn`: shared among the steps. At least 0; the source uses 40 to 80.
    pub amount: f64,
    /// `S_tmin`: the lowest level with churn. Default 0.
    #[config(default = 0.0)]
    pub sigma_min: f64,
    /// `S_tmax`: the highest level with churn. Default none.
    pub sigma_max: Option<f64>,
    /// `S_noise`: standard deviation of the noise; slightly above 1 keeps detail. Default 1.
    #[config(default = 1.0)]
    pub noise_scale: f64,
}

impl Churn {
    /// # Errors
    /// If `amount` or `noise_scale` is negative or not finite.
    pub(crate) fn check(&self) -> Result<(), SamplerError> {
        for (what, value) in [("amount", self.amount), ("noise scale", self.noise_scale)] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(SamplerError::Churn { what, value });
            }
        }
        Ok(())
    }

    /// The noisier picture and its level.
    ///
    /// - `steps`: `N`
    /// - `training`: says which time has a level
    pub(crate) fn raise(
        &self,
        x: Tensor<4>,
        level: NoiseLevel,
        steps: usize,
        training: &NoiseSchedule,
        noise: &mut SeededNoise,
    ) -> (Tensor<4>, NoiseLevel) {
        let sigma = level.sigma();
        let within = sigma >= self.sigma_min && self.sigma_max.is_none_or(|most| sigma <= most);
        let gamma = (self.amount / steps as f64).min(2.0_f64.sqrt() - 1.0);
        if !within || gamma == 0.0 {
            return (x, level);
        }
        let raised = sigma * (1.0 + gamma);
        let to = training.level_of_sigma(raised);
        let added = self.noise_scale * (raised * raised - sigma * sigma).sqrt();
        let z = noise.normal(x.dims(), &x.device());
        let x = x * (to.signal() / level.signal()) + z * (to.signal() * added);
        (x, to)
    }
}
