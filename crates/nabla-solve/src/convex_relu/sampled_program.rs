//! Sampled convex programs (algorithm 2.2 of the paper): a network whose first layer is drawn.
//!
//! ```text
//! h_j ~ N(0, I_d),  u_j = h_j/‖h_j‖,  j = 1 … N
//! min_α ℓ(Σ_j (X u_j)_+ α_j, y) + β ‖α‖₁
//! ```
//!
//! There are no constraints and no patterns. The dual of the training problem requires `|gᵀ(X u)_+| ≤ β` for
//! all `u` of length 1; this program requires it for `N` of them, so its value is never below that of
//! training, and falls towards it with growing `N`. [`sample_size`](super::sample_size) tells how large `N`
//! must be so that, with high probability, one more unit changes nothing.
//!
//! It is solved by ADMM with the copies `α = a` and `t = Φ α`, `Φ = (X U)_+`, for any loss: the matrix
//! `I + ΦᵀΦ` is factored once, with the smaller of `N` and `n` rows.

use std::ops::ControlFlow;

use faer::linalg::solvers::Llt;
use faer::prelude::Solve;
use faer::{Mat, MatRef, Side};
use nabla_base::range;
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

use super::admm::{AdmmStep, Penalty};
use super::error::ConvexReluError;
use super::network::TwoLayerRelu;
use super::problem::ConvexReluProblem;

/// The sampled program and its settings; see the [module](self).
///
/// ```
/// use std::ops::ControlFlow;
/// use nabla_solve::convex_relu::*;
///
/// let rows = [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]];
/// let examples = DenseExamples::new(&rows, &[1.0, 1.0, -1.0, -1.0])?;
/// let problem = ConvexReluProblem::new(&examples, Loss::Squared, 0.01, true)?;
/// let solution = SampledProgram::new(200).solve(&problem, |_| ControlFlow::Continue(()))?;
/// assert_eq!(solution.network().accuracy(&examples)?, 1.0);
/// # Ok::<(), ConvexReluError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampledProgram {
    /// The number `N` of drawn units. Default 1000.
    pub units: usize,
    /// The seed of the units. Default 0.
    pub seed: u64,
    /// `ρ` of ADMM. Default balanced from 2 β for 1000 iterations.
    pub penalty: Penalty,
    /// The duality gap, relative to the objective or 1, at which it ends. Default 1e-6.
    pub tolerance: f64,
    /// Default 20 000.
    pub max_iterations: usize,
}

impl Default for SampledProgram {
    fn default() -> Self {
        Self {
            units: 1000,
            seed: 0,
            penalty: Penalty::Balanced {
                start: 2.0,
                until: 1000,
            },
            tolerance: 1e-6,
            max_iterations: 20_000,
        }
    }
}

/// A network with a drawn first layer.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledSolution {
    /// `u_1 … u_N`, of length 1, `[d, N]`; the last row is the bias if there is one.
    pub directions: Mat<f64>,
    /// `α`, `[N]`.
    pub alpha: Vec<f64>,
    /// `ℓ + β ‖α‖₁`, which is also the objective of the [network](Self::network).
    pub objective: f64,
    /// A lower bound of the sampled program (not of training, whose optimum may be lower).
    pub lower_bound: f64,
    /// Iterations done.
    pub iterations: usize,
    /// Whether the tolerance was reached.
    pub converged: bool,
    bias: bool,
}

impl SampledSolution {
    /// The network of the units with `α_j ≠ 0`, with both layers scaled to the same length:
    /// `√|α_j| u_j` and `α_j/√|α_j|`.
    pub fn network(&self) -> TwoLayerRelu {
        let kept: Vec<usize> = (0..self.alpha.len())
            .filter(|&j| self.alpha[j] != 0.0)
            .collect();
        let root = |j: usize| self.alpha[j].abs().sqrt();
        let hidden = Mat::from_fn(self.directions.nrows(), kept.len(), |i, j| {
            self.directions[(i, kept[j])] * root(kept[j])
        });
        let output = kept
            .iter()
            .map(|&j| self.alpha[j].signum() * root(j))
            .collect();
        TwoLayerRelu::from_parts(hidden, output, self.bias)
    }
}

/// How often the gap is computed.
const CHECK_EVERY: usize = 10;

impl SampledProgram {
    /// Creates the program with `units` drawn units, and defaults.
    pub fn new(units: usize) -> Self {
        Self {
            units,
            ..Self::default()
        }
    }

    /// Another seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Another penalty.
    #[must_use]
    pub fn with_penalty(mut self, penalty: Penalty) -> Self {
        self.penalty = penalty;
        self
    }

    /// Another tolerance of the relative duality gap.
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

    /// Solves the program; `observe` is called every tenth iteration and may end it.
    ///
    /// # Errors
    /// If a setting is out of range, the matrix cannot be factored, or the weights are no longer finite.
    pub fn solve(
        &self,
        problem: &ConvexReluProblem,
        mut observe: impl FnMut(AdmmStep) -> ControlFlow<()>,
    ) -> Result<SampledSolution, ConvexReluError> {
        range::at_least("number of drawn units", self.units, 1)?;
        let mut rho = self.penalty.first(problem.beta());
        range::positive("penalty of ADMM", rho)?;
        range::positive("tolerance of the sampled program", self.tolerance)?;
        range::at_least("number of iterations of ADMM", self.max_iterations, 1)?;
        let (n, units) = (problem.len(), self.units);
        let (loss, beta, labels) = (problem.loss(), problem.beta(), problem.labels());
        let directions = self.directions(problem.design().ncols());
        let heights = problem.design() * &directions;
        let phi = Mat::from_fn(n, units, |k, j| heights[(k, j)].max(0.0));
        let system = Ridge::new(phi.as_ref())?;

        let mut a = Mat::<f64>::zeros(units, 1);
        let mut lambda = Mat::<f64>::zeros(units, 1);
        let mut t = Mat::<f64>::zeros(n, 1);
        let mut tau = Mat::<f64>::zeros(n, 1);
        let mut best = (f64::INFINITY, a.clone());
        let mut lower_bound = f64::NEG_INFINITY;
        let mut iteration = 0;
        let mut converged = false;
        while iteration < self.max_iterations && !converged {
            iteration += 1;
            let r = &a - &lambda + phi.transpose() * (&t - &tau);
            let alpha = system.solve(phi.as_ref(), r);
            let outputs = &phi * &alpha;
            let old = (a.clone(), t.clone());
            for j in 0..units {
                let sum = alpha[(j, 0)] + lambda[(j, 0)];
                a[(j, 0)] = sum.signum() * (sum.abs() - beta / rho).max(0.0);
                lambda[(j, 0)] = sum - a[(j, 0)];
            }
            for k in 0..n {
                let sum = outputs[(k, 0)] + tau[(k, 0)];
                t[(k, 0)] = loss.prox(sum, labels[k], rho);
                tau[(k, 0)] = sum - t[(k, 0)];
            }
            if iteration % CHECK_EVERY != 0 && iteration != self.max_iterations {
                continue;
            }
            // Any α is feasible, so the best one counts.
            let at = entries((&phi * &a).as_ref());
            let objective = loss.sum(&at, labels) + beta * a.norm_l1();
            if !objective.is_finite() {
                return Err(ConvexReluError::Diverged("penalty of ADMM"));
            }
            if objective < best.0 {
                best = (objective, a.clone());
            }
            // ρτ is a slope of the loss at t.
            let slopes = entries((&tau * rho).as_ref());
            let worst = (phi.transpose() * (&tau * rho)).norm_max();
            let largest = if worst > 0.0 { beta / worst } else { f64::MAX };
            lower_bound = lower_bound.max(loss.dual_objective(&slopes, labels, largest));
            converged = best.0 - lower_bound <= self.tolerance * best.0.abs().max(1.0);

            let share = |part: f64, whole: f64| part / whole.max(1e-12);
            let apart = (&alpha - &a).norm_l2().hypot((&outputs - &t).norm_l2());
            let primal = share(apart, a.norm_l2().hypot(t.norm_l2()));
            let moved = (&a - &old.0) + phi.transpose() * (&t - &old.1);
            let dual = share(moved.norm_l2(), lambda.norm_l2().max(beta / rho));
            let seen = AdmmStep {
                iteration,
                objective: best.0,
                violation: 0.0,
                primal_residual: primal,
                dual_residual: dual,
                rho,
            };
            if observe(seen).is_break() {
                break;
            }
            let factor = self.penalty.factor(&seen, beta);
            if factor != 1.0 {
                rho *= factor;
                lambda *= 1.0 / factor;
                tau *= 1.0 / factor;
            }
        }
        Ok(SampledSolution {
            directions,
            alpha: entries(best.1.as_ref()),
            objective: best.0,
            lower_bound,
            iterations: iteration,
            converged,
            bias: problem.has_bias(),
        })
    }

    fn directions(&self, d: usize) -> Mat<f64> {
        let mut noise = SeededNoise::new(self.seed, 0);
        let mut out = Mat::zeros(d, self.units);
        for j in 0..self.units {
            let h: Vec<f64> = noise.normal_values(d).into_iter().map(f64::from).collect();
            let length = h.iter().map(|v| v * v).sum::<f64>().sqrt();
            for (i, v) in h.iter().enumerate() {
                out[(i, j)] = v / length.max(f64::MIN_POSITIVE);
            }
        }
        out
    }
}

fn entries(column: MatRef<'_, f64>) -> Vec<f64> {
    (0..column.nrows()).map(|i| column[(i, 0)]).collect()
}

/// `(I + ΦᵀΦ)⁻¹`.
struct Ridge {
    factor: Llt<f64>,
    by_units: bool,
}

impl Ridge {
    fn new(phi: MatRef<'_, f64>) -> Result<Self, ConvexReluError> {
        let by_units = phi.ncols() < phi.nrows();
        let mut gram = if by_units {
            phi.transpose() * phi
        } else {
            phi * phi.transpose()
        };
        for i in 0..gram.nrows() {
            gram[(i, i)] += 1.0;
        }
        let factor = gram
            .llt(Side::Lower)
            .map_err(|e| ConvexReluError::Factorization(format!("{e:?}")))?;
        Ok(Self { factor, by_units })
    }

    fn solve(&self, phi: MatRef<'_, f64>, r: Mat<f64>) -> Mat<f64> {
        if self.by_units {
            self.factor.solve(r)
        } else {
            let inner = self.factor.solve(phi * &r);
            r - phi.transpose() * inner
        }
    }
}
