//! ADMM on the convex program (algorithm 3.1 of the paper).
//!
//! A second copy `v` of the weights carries the regularizer, and slacks `s` the constraints:
//!
//! ```text
//! min ℓ(F u, y) + β Σ ‖v_i‖ + 1[s ≥ 0]   with  u = v,  G u = s
//!
//! u ← argmin ℓ(F u, y) + ρ/2 ‖u − v + λ‖² + ρ/2 ‖G u − s + ν‖²
//! v_i ← (1 − β/(ρ ‖u_i + λ_i‖))_+ (u_i + λ_i)
//! s ← (G u + ν)_+
//! λ ← λ + γ/ρ (u − v),   ν ← ν + γ/ρ (G u − s)
//! ```
//!
//! The update of `u` is
//!
//! * for the squared loss, the system `(I + FᵀF/ρ + GᵀG) u = Fᵀy/ρ + v − λ + Gᵀ(s − ν)`, factored
//!   once. An iteration costs `O(ndP + m²)`, where `m` is the smaller of `n` and `dP`: quadratic in
//!   the data. (The paper solves `2dP` rows; the system of `n` rows gives the same `u`.)
//! * for the other losses with [`PrimalStep::Factored`], the same after one more copy `t = F u`, whose
//!   update is the proximal point of the loss, number by number: exact for the hinge too. Its matrix
//!   `I + FᵀF + GᵀG` does not depend on `ρ`;
//! * with [`PrimalStep::BlockDescent`] the paper's inner solver, randomized block coordinate descent
//!   (algorithm 3.2), for losses with a gradient: `O(nd)` for each block step and no factorisation.
//!
//! ADMM converges for every `ρ`, and linearly for small enough `γ`; how fast depends on `ρ`. The paper
//! fixes `ρ` by hand for each data set ([`Penalty::Fixed`]). Small multiples of `β` suit features of a
//! size of 1, as `ρ λ_i` has a length of up to `β`; [`Penalty::Balanced`] starts there, and for a limited
//! number of iterations moves `ρ` by up to 32 times either way to keep the two residuals alike (Boyd et
//! al., *Distributed Optimization and Statistical Learning via ADMM*, 2011, §3.4.1). After that the
//! theory of a fixed `ρ` holds.

use std::ops::ControlFlow;

use faer::Mat;
use nabla_base::range;
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::error::ConvexReluError;
use super::loss::Loss;
use super::patterns::ActivationPatterns;
use super::problem::{
    ConvexReluProblem, ConvexReluSolution, Form, Program, column_norm,
    largest_squared_singular_value,
};
use super::ridge_system::RidgeSystem;

/// The penalty `ρ`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Penalty {
    /// The same in all iterations.
    Fixed(f64),
    /// From `start · β`, doubled or halved where one relative residual is 10 times the other.
    Balanced {
        /// The first `ρ`, in multiples of `β`.
        start: f64,
        /// After so many iterations it is fixed.
        until: usize,
    },
}

impl Penalty {
    pub(super) fn first(self, beta: f64) -> f64 {
        match self {
            Self::Fixed(rho) => rho,
            Self::Balanced { start, .. } => start * beta,
        }
    }

    /// The factor of `rho`.
    pub(super) fn factor(self, seen: &AdmmStep, beta: f64) -> f64 {
        let Self::Balanced { start, until } = self else {
            return 1.0;
        };
        let factor = if seen.iteration > until || !seen.iteration.is_multiple_of(BALANCE_EVERY) {
            1.0
        } else if seen.primal_residual > 10.0 * seen.dual_residual {
            2.0
        } else if seen.dual_residual > 10.0 * seen.primal_residual {
            0.5
        } else {
            1.0
        };
        // Far from the well-posed range, the residuals say nothing about the penalty.
        let distance = seen.rho * factor / (start * beta);
        if (1.0 / BALANCE_RANGE..=BALANCE_RANGE).contains(&distance) {
            factor
        } else {
            1.0
        }
    }
}

/// The penalty is changed only after this number of iterations, so that the residuals can settle.
const BALANCE_EVERY: usize = 50;
/// The penalty stays within this factor of its start.
const BALANCE_RANGE: f64 = 32.0;

/// How `u` is updated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrimalStep {
    /// With a matrix that is factored once.
    Factored {
        /// The most rows it may have; the memory is 8 times the square in bytes.
        max_side: usize,
    },
    /// By randomized block coordinate descent, starting from the current `u`.
    BlockDescent {
        /// It ends when the gradient of its objective, as seen by the blocks, is below this share of
        /// `ρ` times the norm of `u`, or of 1.
        tolerance: f64,
        /// The maximum number of sweeps, each with one step per block.
        max_sweeps: usize,
        /// The seed of the choice of blocks.
        seed: u64,
    },
}

/// ADMM and its settings; see the [module](self).
///
/// ```
/// use std::ops::ControlFlow;
/// use nabla_solve::convex_relu::*;
///
/// // XOR
/// let rows = [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]];
/// let examples = DenseExamples::new(&rows, &[1.0, 1.0, -1.0, -1.0])?;
/// let problem = ConvexReluProblem::new(&examples, Loss::Squared, 0.01, true)?;
/// let patterns = ActivationPatterns::enumerate(&problem, 1000)?;
/// let solution = Admm::new().solve(&problem, &patterns, Form::Relu, |_| ControlFlow::Continue(()))?;
/// let network = solution.network();
/// assert_eq!(network.accuracy(&examples)?, 1.0);
/// // All patterns: no network of any width is better by more than the gap.
/// assert!(network.objective(&problem)? - solution.lower_bound < 1e-3);
/// # Ok::<(), ConvexReluError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admm {
    /// `ρ`. Default balanced from 2 β for 1000 iterations.
    pub penalty: Penalty,
    /// `γ/ρ`, the step of the dual updates. Default 1; below the golden ratio 1.618.
    pub dual_step: f64,
    /// How `u` is updated. Default factored, up to 20 000 rows.
    pub primal_step: PrimalStep,
    /// The tolerance of the primal and the dual residual, relative to the terms of their differences. Default
    /// 1e-6.
    pub tolerance: f64,
    /// Default 20 000.
    pub max_iterations: usize,
    /// The residuals are computed, and the observer is called, every this many iterations. Default 10.
    pub check_every: usize,
}

impl Default for Admm {
    fn default() -> Self {
        Self {
            penalty: Penalty::Balanced {
                start: 2.0,
                until: 1000,
            },
            dual_step: 1.0,
            primal_step: PrimalStep::Factored { max_side: 20_000 },
            tolerance: 1e-6,
            max_iterations: 20_000,
            check_every: 10,
        }
    }
}

/// The state after some iterations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdmmStep {
    /// Iterations done.
    pub iteration: usize,
    /// The program at `v`.
    pub objective: f64,
    /// How much `v` violates the worst constraint.
    pub violation: f64,
    /// `‖(u − v, G u − s)‖`, relative to the larger of the two sides.
    pub primal_residual: f64,
    /// `ρ ‖Δv + Gᵀ Δs‖`, relative to the duals.
    pub dual_residual: f64,
    /// The present penalty.
    pub rho: f64,
}

/// The state of the iteration.
struct State {
    u: Mat<f64>,
    v: Mat<f64>,
    lambda: Mat<f64>,
    /// `s` and `ν`; `None` in the gated form.
    cone: Option<[Mat<f64>; 2]>,
    /// `t` and `τ`, the copy of `F u` and its dual; `None` if the loss stays with `u`.
    copy: Option<[Vec<f64>; 2]>,
}

/// The squared norms of both sides of the constraints `u = v`, `Gu = s`, `Fu = t`.
#[derive(Default)]
struct Squares {
    difference: f64,
    left: f64,
    right: f64,
}

impl Squares {
    fn add(&mut self, left: f64, right: f64) {
        self.difference += (left - right).powi(2);
        self.left += left * left;
        self.right += right * right;
    }

    fn relative(&self) -> f64 {
        let whole = self.left.sqrt().max(self.right.sqrt());
        self.difference.sqrt() / whole.max(SMALLEST_WHOLE)
    }
}

/// If all weights and outputs vanish, that is convergence, too.
const SMALLEST_WHOLE: f64 = 1e-3;

impl Admm {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another penalty.
    #[must_use]
    pub fn with_penalty(mut self, penalty: Penalty) -> Self {
        self.penalty = penalty;
        self
    }

    /// Another dual step `γ/ρ`.
    #[must_use]
    pub fn with_dual_step(mut self, dual_step: f64) -> Self {
        self.dual_step = dual_step;
        self
    }

    /// Another primal step.
    #[must_use]
    pub fn with_primal_step(mut self, primal_step: PrimalStep) -> Self {
        self.primal_step = primal_step;
        self
    }

    /// Another tolerance of the relative residuals.
    #[must_use]
    pub fn with_tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Another limit of the iterations.
    #[must_use]
    pub fn with_max_iterations(mut self, max_iterations: usize) -> Self {
        self.max_iterations = max_iterations;
        self
    }

    /// Another interval of the checks.
    #[must_use]
    pub fn with_check_every(mut self, check_every: usize) -> Self {
        self.check_every = check_every;
        self
    }

    fn check(&self, loss: Loss, beta: f64) -> Result<f64, ConvexReluError> {
        let rho = self.penalty.first(beta);
        range::positive("penalty of ADMM", rho)?;
        let golden = 0.5 * (1.0 + 5f64.sqrt());
        let holds = self.dual_step > 0.0 && self.dual_step < golden;
        range::check(
            holds,
            "dual step of ADMM",
            self.dual_step,
            "greater than 0 and less than 1.618",
        )?;
        range::positive("tolerance of ADMM", self.tolerance)?;
        range::at_least("number of iterations of ADMM", self.max_iterations, 1)?;
        range::at_least("interval of the checks of ADMM", self.check_every, 1)?;
        if let PrimalStep::BlockDescent {
            tolerance,
            max_sweeps,
            ..
        } = self.primal_step
        {
            range::positive("tolerance of the block descent", tolerance)?;
            range::at_least("number of sweeps of the block descent", max_sweeps, 1)?;
            if loss.curvature().is_none() {
                return Err(ConvexReluError::NotDifferentiable);
            }
        }
        Ok(rho)
    }

    /// Solves the program of `problem` over `patterns`, from 0.
    ///
    /// `observe` is called every [`check_every`](Self::check_every) iterations and may end the solution. If
    /// the tolerance is not reached, that is a result ([`ConvexReluSolution::converged`]), not an error.
    ///
    /// # Errors
    /// If a setting is out of range, the patterns do not belong to the problem, the gated form is used
    /// with patterns without directions, the factorisation would be too large or fails, block descent is used
    /// with the hinge loss, or the weights are no longer finite.
    pub fn solve(
        &self,
        problem: &ConvexReluProblem,
        patterns: &ActivationPatterns,
        form: Form,
        mut observe: impl FnMut(AdmmStep) -> ControlFlow<()>,
    ) -> Result<ConvexReluSolution, ConvexReluError> {
        let program = Program::new(problem, patterns, form)?;
        let mut rho = self.check(program.loss, program.beta)?;
        let (n, d, blocks) = (program.examples(), program.width(), program.blocks());
        let factored = matches!(self.primal_step, PrimalStep::Factored { .. });
        // The loss of the closed form stays with u.
        let copied = factored && program.loss != Loss::Squared;
        let mut state = State {
            u: Mat::zeros(d, blocks),
            v: Mat::zeros(d, blocks),
            lambda: Mat::zeros(d, blocks),
            cone: (form == Form::Relu).then(|| [Mat::zeros(n, blocks), Mat::zeros(n, blocks)]),
            copy: copied.then(|| [vec![0.0; n], vec![0.0; n]]),
        };
        let mut step = match self.primal_step {
            PrimalStep::Factored { max_side } => {
                let (side, by_weights) = RidgeSystem::smaller(&program);
                if side > max_side {
                    return Err(ConvexReluError::TooLarge {
                        side,
                        limit: max_side,
                    });
                }
                let c = if copied { 1.0 } else { 1.0 / rho };
                Step::Factored(RidgeSystem::new(&program, c, by_weights)?, by_weights)
            }
            PrimalStep::BlockDescent {
                tolerance,
                max_sweeps,
                seed,
            } => Step::Descent(Box::new(BlockDescent {
                noise: SeededNoise::new(seed, 0),
                squared_singular_value: largest_squared_singular_value(program.x),
                tolerance,
                max_sweeps,
            })),
        };

        let mut converged = false;
        let mut iteration = 0;
        while iteration < self.max_iterations {
            iteration += 1;
            let check = iteration % self.check_every == 0 || iteration == self.max_iterations;
            state.u = step.primal(&program, &state, rho)?;
            let xu = program.x * &state.u;
            let old = check.then(|| {
                let s = state.cone.as_ref().map(|[s, _]| s.clone());
                let t = state.copy.as_ref().map(|[t, _]| t.clone());
                (state.v.clone(), s, t)
            });
            let squares = self.update_copies(&program, &mut state, &xu, rho);
            let Some((v, s, t)) = old else {
                continue;
            };
            if !squares.left.is_finite() {
                return Err(ConvexReluError::Diverged("dual step or penalty of ADMM"));
            }
            let primal_residual = squares.relative();
            let dual_residual = dual_residual(&program, &state, &v, s, t, rho);
            let (objective, violation) = program.evaluate(state.v.as_ref());
            let seen = AdmmStep {
                iteration,
                objective,
                violation,
                primal_residual,
                dual_residual,
                rho,
            };
            converged = primal_residual <= self.tolerance && dual_residual <= self.tolerance;
            if observe(seen).is_break() || converged {
                break;
            }
            let factor = self.penalty.factor(&seen, program.beta);
            if factor != 1.0 {
                rho *= factor;
                state.rescale(1.0 / factor);
                if let Step::Factored(system, by_weights) = &mut step
                    && !copied
                {
                    *system = RidgeSystem::new(&program, 1.0 / rho, *by_weights)?;
                }
            }
        }
        let bound = lower_bound(&program, &state, rho);
        let ending = (iteration, converged);
        Ok(ConvexReluSolution::of(
            &program,
            state.v.as_ref(),
            bound,
            ending,
            problem.has_bias(),
        ))
    }

    /// The updates of `v`, `s`, `t` and the duals.
    fn update_copies(
        &self,
        program: &Program<'_>,
        state: &mut State,
        xu: &Mat<f64>,
        rho: f64,
    ) -> Squares {
        let mut squares = Squares::default();
        let gamma = self.dual_step;
        let (n, d) = (program.examples(), program.width());
        for i in 0..program.blocks() {
            for j in 0..d {
                state.v[(j, i)] = state.u[(j, i)] + state.lambda[(j, i)];
            }
            let length = column_norm(state.v.as_ref(), i);
            let kept = if length > 0.0 {
                (1.0 - program.beta / (rho * length)).max(0.0)
            } else {
                0.0
            };
            for j in 0..d {
                state.v[(j, i)] *= kept;
                let (u, v) = (state.u[(j, i)], state.v[(j, i)]);
                state.lambda[(j, i)] += gamma * (u - v);
                squares.add(u, v);
            }
        }
        if let Some([s, nu]) = &mut state.cone {
            for b in 0..program.blocks() {
                for k in 0..n {
                    let side = program.side(k, b) * xu[(k, b)];
                    let slack = (side + nu[(k, b)]).max(0.0);
                    nu[(k, b)] += gamma * (side - slack);
                    s[(k, b)] = slack;
                    squares.add(side, slack);
                }
            }
        }
        if let Some([t, tau]) = &mut state.copy {
            let outputs = program.outputs(xu.as_ref());
            for k in 0..n {
                t[k] = program
                    .loss
                    .prox(outputs[k] + tau[k], program.labels[k], rho);
                tau[k] += gamma * (outputs[k] - t[k]);
                squares.add(outputs[k], t[k]);
            }
        }
        squares
    }
}

impl State {
    /// Scaled duals are those of the Lagrangian divided by `ρ`.
    fn rescale(&mut self, factor: f64) {
        self.lambda = &self.lambda * factor;
        if let Some([_, nu]) = &mut self.cone {
            *nu = &*nu * factor;
        }
        if let Some([_, tau]) = &mut self.copy {
            for tau in tau {
                *tau *= factor;
            }
        }
    }
}

/// `‖Δv + GᵀΔs + FᵀΔt‖` relative to `‖λ‖`, which the slope of the loss and the other duals balance.
fn dual_residual(
    program: &Program<'_>,
    state: &State,
    v: &Mat<f64>,
    s: Option<Mat<f64>>,
    t: Option<Vec<f64>>,
    rho: f64,
) -> f64 {
    let moved_slack = state.cone.as_ref().zip(s).map(|([new, _], old)| new - old);
    let moved_copy = match (&state.copy, t) {
        (Some([new, _]), Some(old)) => new.iter().zip(&old).map(|(a, b)| a - b).collect(),
        _ => vec![0.0; program.examples()],
    };
    let moved = &state.v - v + program.adjoint(&moved_copy, moved_slack.as_ref());
    // The parts of ρλ have lengths up to β.
    moved.norm_l2() / state.lambda.norm_l2().max(program.beta / rho)
}

/// From the duals: `ρτ` or the slope of the loss, and `−ρν` as multipliers.
fn lower_bound(program: &Program<'_>, state: &State, rho: f64) -> f64 {
    let slopes: Vec<f64> = match &state.copy {
        Some([t, tau]) => tau
            .iter()
            .zip(t)
            .zip(program.labels)
            .map(|((tau, t), &y)| match program.loss {
                // With a dual step of 1 it is a slope of the loss; clipped where it is not.
                Loss::Hinge => y * (y * rho * tau).clamp(-1.0, 0.0),
                loss => loss.slope(*t, y),
            })
            .collect(),
        None => {
            let outputs = program.outputs((program.x * &state.u).as_ref());
            outputs
                .iter()
                .zip(program.labels)
                .map(|(&t, &y)| program.loss.slope(t, y))
                .collect()
        }
    };
    let multipliers = state.cone.as_ref().map(|[_, nu]| nu * -rho);
    program.dual_bound(&slopes, multipliers, 300)
}

enum Step {
    Factored(RidgeSystem, bool),
    Descent(Box<BlockDescent>),
}

impl Step {
    fn primal(
        &mut self,
        program: &Program<'_>,
        state: &State,
        rho: f64,
    ) -> Result<Mat<f64>, ConvexReluError> {
        match self {
            Self::Factored(system, _) => {
                let g: Vec<f64> = match &state.copy {
                    Some([t, tau]) => t.iter().zip(tau).map(|(t, tau)| t - tau).collect(),
                    None => program.labels.iter().map(|y| y / rho).collect(),
                };
                let slack = state.cone.as_ref().map(|[s, nu]| s - nu);
                let r = &state.v - &state.lambda + program.adjoint(&g, slack.as_ref());
                Ok(system.solve(program, r))
            }
            Self::Descent(descent) => descent.primal(program, state, rho),
        }
    }
}

/// Randomized block coordinate descent on `ℓ(F u) + ρ/2 ‖u − a‖² + ρ/2 ‖G u − b‖²`, `a = v − λ`,
/// `b = s − ν`:
///
/// ```text
/// u_i ← u_i − γ_r ( F_iᵀ ∇ℓ(ŷ) + ρ (u_i − a_i) + ρ G_iᵀ (G_i u_i − b_i) ),   ŷ kept up to date
/// ```
///
/// with `1/γ_r = (L_ℓ + ρ) σ_max(X)² + ρ`, a bound of the curvature within a block.
struct BlockDescent {
    noise: SeededNoise,
    squared_singular_value: f64,
    tolerance: f64,
    max_sweeps: usize,
}

impl BlockDescent {
    fn primal(
        &mut self,
        program: &Program<'_>,
        state: &State,
        rho: f64,
    ) -> Result<Mat<f64>, ConvexReluError> {
        let (n, d, blocks) = (program.examples(), program.width(), program.blocks());
        let curvature = program
            .loss
            .curvature()
            .ok_or(ConvexReluError::NotDifferentiable)?;
        let cone = if state.cone.is_some() { rho } else { 0.0 };
        let step = 1.0 / ((curvature + cone) * self.squared_singular_value + rho);
        let mut u = state.u.clone();
        let mut outputs = program.outputs((program.x * &u).as_ref());
        let mut through = Mat::<f64>::zeros(n, 1);
        for _ in 0..self.max_sweeps {
            let mut squared = 0.0;
            for _ in 0..blocks {
                let i = self.noise.random_range(0..blocks);
                let xu = program.x * u.subcols(i, 1);
                for k in 0..n {
                    let slope = program.loss.slope(outputs[k], program.labels[k]);
                    let mut value = program.weight(k, i) * slope;
                    if let Some([s, nu]) = &state.cone {
                        let side = program.side(k, i);
                        value += rho * side * (side * xu[(k, 0)] - s[(k, i)] + nu[(k, i)]);
                    }
                    through[(k, 0)] = value;
                }
                let mut gradient = program.x.transpose() * &through; // [d, 1]
                for j in 0..d {
                    gradient[(j, 0)] += rho * (u[(j, i)] - state.v[(j, i)] + state.lambda[(j, i)]);
                    squared += gradient[(j, 0)].powi(2);
                    u[(j, i)] -= step * gradient[(j, 0)];
                }
                let moved = program.x * &gradient;
                for (k, output) in outputs.iter_mut().enumerate() {
                    *output -= step * program.weight(k, i) * moved[(k, 0)];
                }
            }
            if !squared.is_finite() {
                return Err(ConvexReluError::Diverged("penalty of ADMM"));
            }
            if squared.sqrt() <= self.tolerance * rho * u.norm_l2().max(1.0) {
                break;
            }
        }
        Ok(u)
    }
}
