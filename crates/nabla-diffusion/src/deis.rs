//! DEIS: a multistep exponential integrator of the predicted noise.
//!
//! The probability-flow equation `dx̃/dσ = ε̂` of `x̃ = x/√ᾱ` is integrated with the polynomial in `ln σ`
//! ("log-ρ") through the last `ε̂`: with `λ = −ln σ`, `h = λ' − λ`, and the polynomial
//! `c_0 + c_1 u + c_2 u²` in the time `u = λ − λ_now`,
//!
//! ```text
//! x' = √(ᾱ'/ᾱ) x − √(1 − ᾱ') h (φ_1(h) c_0 + φ_2(h) h c_1 + 2 φ_3(h) h² c_2)
//! ```
//!
//! with the `φ` functions of exponential integrators. Order 1 is DDIM. The orders are those of
//! [`lms`](crate::lms), whose polynomial is one in `σ`, and the second that of
//! [`DpmAlgorithm::DpmSolver`](crate::dpm_solver_multistep::DpmAlgorithm) with `Heun`.
//!
//! Source: Zhang, Chen, *Fast Sampling of Diffusion Models with Exponential Integrator*, 2022, arXiv
//! 2204.13902, section 3.3 and appendix (log-ρ); that orders fall at the end below 15 steps is from the
//! diffusers library.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::denoiser::{
    Denoiser, Questions, SamplerError, SamplerHook, check_clip, check_order, check_sigmas,
    sample_without_hook,
};
use crate::dpm_solver_multistep::{DpmAlgorithm, StepWeights, order_at};
use crate::multistep::History;
use crate::schedule::NoiseSchedule;
use crate::seeded_noise::SeededNoise;

/// Configuration of [`Deis`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct DeisConfig {
    /// How many predictions a step uses, 1 to 3. Default 2.
    #[config(default = 2)]
    pub order: usize,
    /// Whether the last step of a schedule of fewer than 15 steps has order 1, and that before it at most
    /// 2. Towards `σ = 0` the last step has order 1 in any case. Default true.
    #[config(default = true)]
    pub lower_order_final: bool,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none.
    pub clip: Option<f64>,
}

impl DeisConfig {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If the order is not 1 to 3, `clip` is not positive and finite, or an `ᾱ` is 0.
    pub fn init(&self, schedule: NoiseSchedule) -> Result<Deis, SamplerError> {
        check_clip(self.clip)?;
        check_sigmas(&schedule)?;
        check_order("DEIS", self.order, 3)?;
        Ok(Deis {
            schedule,
            config: *self,
        })
    }
}

/// The sampler; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Deis {
    schedule: NoiseSchedule,
    config: DeisConfig,
}

sample_without_hook!(Deis);

impl Deis {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step, in the variance-preserving
    ///   form; `[batch, channels, height, width]`
    /// - `_noise`: not touched: no step adds any
    /// - `hook`: sees, and may replace, the predicted picture of every step
    ///
    /// # Errors
    /// If the model's output has the wrong shape.
    pub fn sample_with_hook(
        &self,
        model: &dyn Denoiser,
        mut x: Tensor<4>,
        _noise: &mut SeededNoise,
        hook: &mut SamplerHook<'_>,
    ) -> Result<Tensor<4>, SamplerError> {
        let config = self.config;
        let algorithm = DpmAlgorithm::DpmSolver;
        let mut questions = Questions::new(model, hook, config.clip, self.schedule.steps());
        // Over λ.
        let mut history = History::new(config.order);
        // The equation has none.
        let mut none = SeededNoise::new(0, 0);
        for index in (0..self.schedule.steps()).rev() {
            let level = self.schedule.level(index);
            let to = self.schedule.level_after(index);
            let value = algorithm.value(&mut questions, &x, index, level)?;
            history.push(level.lambda(), value);
            let order = order_at(
                &self.schedule,
                index,
                config.order,
                config.lower_order_final,
            );
            let differences = history.polynomial(order);
            x = algorithm.step(x, level, to, differences, StepWeights::EXACT, &mut none);
        }
        Ok(x)
    }
}
