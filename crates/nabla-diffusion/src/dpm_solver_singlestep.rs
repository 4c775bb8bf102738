//! DPM-Solver and DPM-Solver++ in single steps: each needs no prediction from before it.
//!
//! The levels of the schedule are taken in blocks of `order`. Within a block every step starts again at the
//! block's first level, and goes further with one prediction more:
//!
//! ```text
//! x_1 = step(x_0, λ_0 → λ_1; m_0),   x_2 = step(x_0, λ_0 → λ_2; m_0, m_1),
//! x_3 = step(x_0, λ_0 → λ_3; m_0, m_1, m_2)
//! ```
//!
//! where `m_k` is the prediction at `x_k`, and a step is that of
//! [`dpm_solver_multistep`](crate::dpm_solver_multistep) with the polynomial in the time since `λ_0`, whose
//! quadratic term here has its exact weight `2 φ_3`. With [`DpmSolverType::Midpoint`], `x_3` takes the line
//! through `m_0` and `m_2` alone. A block costs `order` calls of the network for `order` levels, so that
//! the whole costs a call a level. Blocks of lower order fill up what remains.
//!
//! In the third order of diffusers' `sde-dpmsolver++` with `heun` a constant 1/2 has the wrong sign; here
//! it has the right one.
//!
//! Sources: Lu, Zhou, Bao, Chen, Li, Zhu, *DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model
//! Sampling in Around 10 Steps*, 2022, arXiv 2206.00927, algorithms 1 and 2; the same, *DPM-Solver++*, 2022,
//! arXiv 2211.01095, algorithm 1 ("2S"). How blocks are filled up is from their code.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::denoiser::{
    Denoiser, Questions, SamplerError, SamplerHook, check_clip, check_order, check_sigmas,
    sample_without_hook,
};
use crate::dpm_solver_multistep::{DpmAlgorithm, DpmSolverType, StepWeights};
use crate::multistep::History;
use crate::schedule::NoiseSchedule;
use crate::seeded_noise::SeededNoise;

/// Configuration of [`DpmSolverSinglestep`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct DpmSolverSinglestepConfig {
    /// Levels in a block, 1 to 3. Default 2.
    #[config(default = 2)]
    pub order: usize,
    /// The equation, not [`DpmAlgorithm::SdeDpmSolver`]. Default [`DpmAlgorithm::DpmSolverPlusPlus`].
    #[config(default = "DpmAlgorithm::DpmSolverPlusPlus")]
    pub algorithm: DpmAlgorithm,
    /// How a block ends. Default [`DpmSolverType::Midpoint`].
    #[config(default = "DpmSolverType::Midpoint")]
    pub solver_type: DpmSolverType,
    /// Whether the last step of a whole block at the end has order 1 instead. Towards `σ = 0` the last
    /// step has in any case. Default true.
    #[config(default = true)]
    pub lower_order_final: bool,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none.
    pub clip: Option<f64>,
}

impl DpmSolverSinglestepConfig {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If the order is not 1 to 3, `clip` is not positive and finite, an `ᾱ` is 0, or the algorithm is
    /// [`DpmAlgorithm::SdeDpmSolver`].
    pub fn init(&self, schedule: NoiseSchedule) -> Result<DpmSolverSinglestep, SamplerError> {
        check_clip(self.clip)?;
        check_sigmas(&schedule)?;
        check_order("DPM-Solver in single steps", self.order, 3)?;
        if self.algorithm == DpmAlgorithm::SdeDpmSolver {
            return Err(SamplerError::NoSingleStep);
        }
        Ok(DpmSolverSinglestep {
            schedule,
            config: *self,
        })
    }
}

/// The sampler; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct DpmSolverSinglestep {
    schedule: NoiseSchedule,
    config: DpmSolverSinglestepConfig,
}

sample_without_hook!(DpmSolverSinglestep);

impl DpmSolverSinglestep {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step, in the variance-preserving
    ///   form; `[batch, channels, height, width]`
    /// - `noise`: the noise of the steps; only touched by the stochastic algorithm, once a step
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
        let config = self.config;
        let steps = self.schedule.steps();
        let mut questions = Questions::new(model, hook, config.clip, steps);
        let mut first = (x.clone(), self.schedule.level(steps - 1));
        // Of this block, over λ.
        let mut values: Vec<(f64, Tensor<4>)> = Vec::new();
        for (order, index) in self.orders().into_iter().zip((0..steps).rev()) {
            let level = self.schedule.level(index);
            let value = config.algorithm.value(&mut questions, &x, index, level)?;
            if order == 1 {
                first = (x, level);
                values.clear();
            }
            values.push((level.lambda(), value));
            // The polynomial is that around the newest value: here the block's first.
            let mut history = History::new(3);
            let middle = order == 3 && config.solver_type == DpmSolverType::Midpoint;
            for (place, (node, value)) in values.iter().enumerate().rev() {
                if !(middle && place == 1) {
                    history.push(*node, value.clone());
                }
            }
            let weights = match config.solver_type {
                DpmSolverType::Midpoint if order == 2 => StepWeights {
                    second: DpmSolverType::Midpoint,
                    ..StepWeights::EXACT
                },
                _ => StepWeights::EXACT,
            };
            let (start, level) = first.clone();
            let to = self.schedule.level_after(index);
            let differences = history.polynomial(order);
            x = config
                .algorithm
                .step(start, level, to, differences, weights, noise);
        }
        Ok(x)
    }

    /// Of every step, the place in its block, from 1.
    fn orders(&self) -> Vec<usize> {
        let (steps, order) = (self.schedule.steps(), self.config.order);
        let to_zero = self.schedule.previous_alpha_bar(0) == 1.0;
        let mut orders: Vec<usize> = (0..steps).map(|step| step % order + 1).collect();
        let whole = orders[steps - 1] == order;
        if to_zero || (whole && self.config.lower_order_final) {
            orders[steps - 1] = 1;
        }
        orders
    }
}
