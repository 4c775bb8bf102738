//! DPM-Solver++ (2M): the multistep exponential integrator in the logarithm of the signal-to-noise ratio.
//!
//! In `λ = ln(√ᾱ/√(1 − ᾱ)) = −ln σ` the linear part of the probability-flow equation has an exact
//! solution, and only the predicted picture `x̂_0` is interpolated. From `λ` to `λ' = λ + h`,
//!
//! ```text
//! x' = √((1 − ᾱ')/(1 − ᾱ)) x + √ᾱ' (1 − e^{−h}) D
//! D  = x̂_0 + h/(2 h_{-1}) (x̂_0 − x̂_{0,-1})
//! ```
//!
//! where `-1` is the step before, and `D = x̂_0` in the first step and towards `σ = 0` (which is DDIM).
//! The stochastic variant solves the stochastic equation:
//!
//! ```text
//! x' = √((1 − ᾱ')/(1 − ᾱ)) e^{−h} x + √ᾱ' (1 − e^{−2h}) D + √(1 − ᾱ') √(1 − e^{−2h}) z
//! ```
//!
//! Sources: Lu, Zhou, Bao, Chen, Li, Zhu, *DPM-Solver++: Fast Solver for Guided Sampling of Diffusion
//! Probabilistic Models*, 2022, arXiv 2211.01095, algorithm 2 and appendix (stochastic); that the last
//! step has a lower order below 15 steps is from its code.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::denoiser::{
    Denoiser, Questions, SamplerError, SamplerHook, check_clip, check_order, check_sigmas,
};
use crate::schedule::NoiseSchedule;
use crate::seeded_noise::SeededNoise;

/// Configuration of [`DpmSolverMultistep`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct DpmSolverMultistepConfig {
    /// How many predictions a step uses, 1 or 2. Default 2.
    #[config(default = 2)]
    pub order: usize,
    /// Whether noise is added on the way (SDE-DPM-Solver++). Default false.
    #[config(default = false)]
    pub stochastic: bool,
    /// Whether the last step of a schedule of fewer than 15 steps has order 1. Towards `σ = 0` it has
    /// in any case. Default true.
    #[config(default = true)]
    pub lower_order_final: bool,
    /// Whether the last step has order 1 in any schedule. Default false.
    #[config(default = false)]
    pub euler_at_final: bool,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none.
    pub clip: Option<f64>,
}

impl DpmSolverMultistepConfig {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If the order is not 1 or 2, `clip` is not positive and finite, or an `ᾱ` is 0.
    pub fn init(&self, schedule: NoiseSchedule) -> Result<DpmSolverMultistep, SamplerError> {
        check_clip(self.clip)?;
        check_sigmas(&schedule)?;
        check_order("DPM-Solver++", self.order, 2)?;
        Ok(DpmSolverMultistep {
            schedule,
            config: *self,
        })
    }
}

/// The sampler; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct DpmSolverMultistep {
    schedule: NoiseSchedule,
    config: DpmSolverMultistepConfig,
}

impl DpmSolverMultistep {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step, in the variance-preserving
    ///   form; `[batch, channels, height, width]`
    /// - `noise`: the noise of the steps; only touched by the stochastic variant, once a step
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
        let mut last: Option<(Tensor<4>, f64)> = None;
        for index in (0..steps).rev() {
            let level = self.schedule.level(index);
            let to = self.schedule.level_after(index);
            let sample = questions.ask(&x, index, level)?.sample;
            // e^{−h} and h, which is infinite towards σ = 0.
            let decay = to.sigma() / level.sigma();
            let step = -decay.ln();
            let first_order = index == 0
                && (to.alpha_bar == 1.0
                    || self.config.euler_at_final
                    || (self.config.lower_order_final && steps < 15));
            let direction = match last {
                Some((before, step_before)) if self.config.order == 2 && !first_order => {
                    sample.clone() + (sample.clone() - before) * (0.5 * step / step_before)
                }
                _ => sample.clone(),
            };
            let keep = to.noise() / level.noise();
            x = if self.config.stochastic {
                let fresh = 1.0 - decay * decay;
                let z = noise.normal(x.dims(), &x.device());
                x * (keep * decay)
                    + direction * (to.signal() * fresh)
                    + z * (to.noise() * fresh.sqrt())
            } else {
                x * keep + direction * (to.signal() * (1.0 - decay))
            };
            last = Some((sample, step));
        }
        Ok(x)
    }
}
