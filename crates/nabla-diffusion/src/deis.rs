//! DEIS: a multistep exponential integrator of the predicted noise.
//!
//! The probability-flow equation `dx̃/dσ = ε̂` of `x̃ = x/signal` is integrated with the polynomial in `ln σ`
//! ("log-ρ") through the last `ε̂`: with `λ = −ln σ`, `h = λ' − λ`, and the polynomial
//! `c_0 + c_1 u + c_2 u²` in the time `u = λ − λ_now`,
//!
//! ```text
//! x' = √(ᾱ'/ᾱ) x − √(1 − ᾱ') h (φ_1(h) c_0 + φ_2(h) h c_1 + 2 φ_3(h) h² c_2)
//! ```
//!
//! with the `φ` functions of exponential integrators. Order 1 is DDIM. The orders work as in
//! [`lms`](crate::lms), whose polynomial is in `σ`; order 2 equals that of
//! [`DpmAlgorithm::DpmSolver`](crate::dpm_solver_multistep::DpmAlgorithm) with `Heun`.
//!
//! Source: Zhang, Chen, *Fast Sampling of Diffusion Models with Exponential Integrator*, 2022, arXiv
//! 2204.13902, section 3.3 and appendix (log-ρ); the lower orders at the end of runs with fewer than 15 steps
//! are from the diffusers library.

use burn::config::Config;

use crate::asking::{Asking, Reading};
use crate::dpm_solver_multistep::{Asked, DpmAlgorithm, StepWeights, order_at};
use crate::level::Levels;
use crate::multistep::History;
use crate::sampler::{Grid, Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip, check_order};

/// The sampler; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Deis {
    /// The number of predictions that a step uses, 1 to 3. Default 2.
    #[config(default = 2)]
    pub order: usize,
    /// Whether, in a schedule of fewer than 15 steps, the last step has order 1 and the one before it at most
    /// order 2. A last step to `σ = 0` always has order 1. Default true.
    #[config(default = true)]
    pub lower_order_final: bool,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
}

impl<const D: usize> Solver<D> for Deis {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        levels.check_sigmas()?;
        check_order("DEIS", self.order, 3)?;
        let algorithm = DpmAlgorithm::DpmSolver;
        // Over λ.
        let mut history = History::new(self.order);
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let (level, to) = (levels.level(index), levels.level_after(index));
            let Asked { x, value, .. } = algorithm.ask(ask, x, index, level)?;
            history.push(level.lambda(), value);
            let order = order_at(levels, index, self.order, self.lower_order_final);
            let differences = history.polynomial(order);
            let weights = StepWeights::EXACT;
            Ok(algorithm.step(x, level, to, differences, weights, ask.noise()))
        }))
    }

    fn reading(&self) -> Reading {
        Reading::clipped(self.clip)
    }

    fn grid(&self) -> Grid {
        Grid::WithoutLowest
    }
}
