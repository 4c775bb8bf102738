//! DPM-Solver and DPM-Solver++ in single steps: a step needs no earlier predictions.
//!
//! The levels of the schedule are taken in blocks of `order`. Within a block, every step starts again at the
//! block's first level, and goes further with one more prediction:
//!
//! ```text
//! x_1 = step(x_0, λ_0 → λ_1; m_0),   x_2 = step(x_0, λ_0 → λ_2; m_0, m_1),
//! x_3 = step(x_0, λ_0 → λ_3; m_0, m_1, m_2)
//! ```
//!
//! where `m_k` is the prediction at `x_k`, and a step is that of
//! [`dpm_solver_multistep`](crate::dpm_solver_multistep) with the polynomial in the time since `λ_0`, whose
//! quadratic term here has its exact weight `2 φ_3`. With [`DpmSolverType::Midpoint`], `x_3` takes the line
//! through `m_0` and `m_2` alone. A block costs `order` network calls for `order` levels, so a run costs one
//! call per level. Blocks of lower order fill the remaining levels.
//!
//! In the third order of diffusers' `sde-dpmsolver++` with `heun` a constant 1/2 has the wrong sign; here
//! it has the right one.
//!
//! Sources: Lu, Zhou, Bao, Chen, Li, Zhu, *DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model
//! Sampling in Around 10 Steps*, 2022, arXiv 2206.00927, algorithms 1 and 2; the same, *DPM-Solver++*, 2022,
//! arXiv 2211.01095, algorithm 1 ("2S"). The lower-order blocks are from their code.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::asking::{Asking, Reading};
use crate::dpm_solver_multistep::{Asked, DpmAlgorithm, DpmSolverType, StepWeights};
use crate::level::{Level, Levels};
use crate::multistep::History;
use crate::sampler::{Grid, Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip, check_order};

/// The sampler; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct DpmSolverSinglestep {
    /// The number of levels in a block, 1 to 3. Default 2.
    #[config(default = 2)]
    pub order: usize,
    /// The equation, not [`DpmAlgorithm::SdeDpmSolver`]. Default [`DpmAlgorithm::DpmSolverPlusPlus`].
    #[config(default = "DpmAlgorithm::DpmSolverPlusPlus")]
    pub algorithm: DpmAlgorithm,
    /// The form of the last step of a block. Default [`DpmSolverType::Midpoint`].
    #[config(default = "DpmSolverType::Midpoint")]
    pub solver_type: DpmSolverType,
    /// Whether the last step of the last block has order 1, if the block is complete. A last step to `σ = 0`
    /// always has order 1. Default true.
    #[config(default = true)]
    pub lower_order_final: bool,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
}

/// Needs noise with the stochastic algorithm, once per step.
impl<const D: usize> Solver<D> for DpmSolverSinglestep {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        levels.check_sigmas()?;
        check_order("DPM-Solver in single steps", self.order, 3)?;
        if self.algorithm == DpmAlgorithm::SdeDpmSolver {
            return Err(SamplerError::NoSingleStep);
        }
        let orders = self.orders(levels);
        let mut first: Option<(Tensor<D>, Level)> = None;
        // The values of this block, over λ.
        let mut values: Vec<(f64, Tensor<D>)> = Vec::new();
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let order = orders[levels.steps() - 1 - index];
            let level = levels.level(index);
            let Asked { x, value, .. } = self.algorithm.ask(ask, x, index, level)?;
            let (start, from) = match first.take() {
                Some(first) if order > 1 => first,
                _ => {
                    values.clear();
                    (x, level)
                }
            };
            values.push((level.lambda(), value));
            // The polynomial is that around the newest value: here the block's first.
            let mut history = History::new(3);
            let middle = order == 3 && self.solver_type == DpmSolverType::Midpoint;
            for (place, (node, value)) in values.iter().enumerate().rev() {
                if !(middle && place == 1) {
                    history.push(*node, value.clone());
                }
            }
            let weights = match self.solver_type {
                DpmSolverType::Midpoint if order == 2 => StepWeights {
                    second: DpmSolverType::Midpoint,
                    ..StepWeights::EXACT
                },
                _ => StepWeights::EXACT,
            };
            first = Some((start.clone(), from));
            let to = levels.level_after(index);
            let differences = history.polynomial(order);
            let step = self.algorithm;
            Ok(step.step(start, from, to, differences, weights, ask.noise()))
        }))
    }

    fn reading(&self) -> Reading {
        Reading::clipped(self.clip)
    }

    fn grid(&self) -> Grid {
        Grid::WithoutLowest
    }
}

impl DpmSolverSinglestep {
    /// For every step, its position in its block, from 1.
    fn orders(&self, levels: &Levels) -> Vec<usize> {
        let count = levels.steps();
        let mut orders: Vec<usize> = (0..count).map(|step| step % self.order + 1).collect();
        let whole = orders[count - 1] == self.order;
        if levels.end().noise() == 0.0 || (whole && self.lower_order_final) {
            orders[count - 1] = 1;
        }
        orders
    }
}
