//! Block coordinate descent: a solver for large convex problems that moves a few coordinates at a time:
//! greedily chosen, by long steps, and exactly if possible.
//!
//! The problem is `F(x) = f(x) + g(x)` with a smooth [`SmoothProblem`] `f` and a separable
//! [`Penalty`] `g`. Three choices define the method. In every step
//!
//! ```text
//! blocks      B ∋ b: a fixed partition (in order, random, sorted or averaged by Lipschitz constants,
//!             red-black, forests), or any |b| coordinates, or any forest
//! selection   cyclic, random, Lipschitz sampling, or with L_b, D and H_b from
//!                 f(x + U_b d) ≤ f(x) + ∇_b f·d + ½ dᵀ H_b d,   H_b ⪯ D,  H_b ⪯ L_b I
//!             GS    argmax ‖∇_b f‖
//!             GSL   argmax ‖∇_b f‖² / L_b
//!             GSD   argmax Σ_{i∈b} (∇_i f)² / D_i
//!             GSQ   argmax ∇_b fᵀ H_b⁻¹ ∇_b f
//!             MI    argmax f(x) − f(x⁺)
//!             and with g: GS-s, GS-r, GS-q (least subgradient, longest step, largest decrease)
//! update      gradient   x_b ← prox_{g/L_b}(x_b − ∇_b f / L_b), with L, L_b, or backtracking
//!             matrix     x_b ← argmin of the model with H_b, plus g
//!             Newton     x_b ← the same with ∇²_bb f, and a line search
//!             two-metric projection, for bounds and λ‖x‖₁
//! ```
//!
//! For a quadratic function, the matrix update is exact. If the block is a forest in the graph of the second
//! derivatives, [message passing](solve_forest) takes linear time, even for blocks of half of all
//! coordinates. With a penalty that makes solutions sparse, finitely many steps find the [active
//! set](active_set_complexity). From then on, with variable blocks at least as large as the support, matrix
//! updates end after finitely many steps, and Newton updates converge superlinearly.
//!
//! `X x`, the slopes of the losses and, for the greedy rules, the gradient are updated incrementally: a step
//! costs as much as the entries of the block's columns, or of the rows that they touch. Everything is `f64`.
//! The same seed gives the same bits.
//!
//! Source: Nutini, Laradji, Schmidt, *Let's Make Block Coordinate Descent Converge Faster: Faster
//! Greedy Rules, Message-Passing, Active-Set Complexity, and Superlinear Convergence*, JMLR 23 (131),
//! 2022, arXiv 1712.08859.

mod active_set;
mod automatic;
mod descent;
mod error;
mod linear_model;
mod message_passing;
mod partition;
mod problem;
mod quadratic;
mod selection;
mod update;

use std::ops::ControlFlow;

use burn::config::Config;
use nabla_base::range;
use serde::{Deserialize, Serialize};

pub use active_set::{active_set_complexity, identification_radius, nondegeneracy, random_round};
pub use automatic::{BlockDescentChoices, BlockKind, Objective};
pub use error::BlockDescentError;
pub use linear_model::{
    LinearModel, LinearState, LogisticLoss, PredictionLoss, SoftmaxLoss, SquaredLoss,
};
pub use message_passing::{
    DealOrder, forest_partition, lattice_trees, red_black_partition, solve_forest,
};
pub use partition::{Blocks, Partition};
pub use problem::{Curvature, Penalty, SmoothProblem};
pub use quadratic::{LabelPropagation, SparseQuadratic, nearest_neighbour_edges};
pub use selection::{BlockNorm, DiagonalBound, Selection};
pub use update::{BlockSolver, StepSize, Update};

use descent::Descent;

/// The configuration of a descent.
///
/// ```
/// use std::ops::ControlFlow;
/// use nabla_data::LabelledRows;
/// use nabla_solve::block_coordinate_descent::{
///     BlockCoordinateDescentConfig, Blocks, LinearModel, Penalty, Selection, Update,
/// };
///
/// let rows: LabelledRows = "1 1:1 2:0.5\n-1 1:-0.5 2:1 3:1\n1 1:2 3:-1\n".parse()?;
/// let problem = LinearModel::logistic(&rows, 0.1)?;
/// let found = BlockCoordinateDescentConfig::new()
///     .with_blocks(Blocks::Variable { size: 2 })
///     .with_selection(Selection::GaussSouthwellQuadratic)
///     .with_update(Update::Newton)
///     .with_tolerance(1e-9)
///     .solve(&problem, &Penalty::None, None, &mut |_| ControlFlow::Continue(()))?;
/// assert!(found.converged && found.certificate.duality_gap.is_some_and(|gap| gap < 1e-12));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Config, Debug)]
pub struct BlockCoordinateDescentConfig {
    /// The blocks. Default: any 5 coordinates, the smallest size in the paper, and the better kind.
    #[config(default = "Blocks::Variable { size: 5 }")]
    pub blocks: Blocks,
    /// The rule that selects the next block. Default GSD, which is as cheap as GS.
    #[config(default = "Selection::GaussSouthwellDiagonal(DiagonalBound::Coordinate)")]
    pub selection: Selection,
    /// How a block moves. Default: a matrix update.
    #[config(default = "Update::Matrix")]
    pub update: Update,
    /// How the linear systems of matrix and Newton updates are solved. Default: dense.
    #[config(default = "BlockSolver::Dense")]
    pub solver: BlockSolver,
    /// How the scores of a fixed block are summed. Default: the Euclidean norm.
    #[config(default = "BlockNorm::Euclidean")]
    pub block_norm: BlockNorm,
    /// The maximum number of steps. Default 100 000.
    #[config(default = 100_000)]
    pub max_iterations: usize,
    /// The [residual](Certificate::residual) at which to stop, as a share of the residual at 0. Default 1e-6.
    #[config(default = 1e-6)]
    pub tolerance: f64,
    /// The seed of the random rules and partitions. Default 0.
    #[config(default = 0)]
    pub seed: u64,
    /// Every how many steps one is stored in the [trace](BlockDescentSolution::trace), in addition to the
    /// first and the last; 0 for none. Default 1.
    #[config(default = 1)]
    pub trace_every: usize,
}

/// The state before a step.
#[derive(Clone, Copy, Debug)]
pub struct BlockStep<'a> {
    /// Steps done.
    pub iteration: usize,
    /// Coordinates updated, divided by their number.
    pub epochs: f64,
    /// `F(x)`.
    pub objective: f64,
    /// The current point.
    pub x: &'a [f64],
    /// The block that the last step moved; empty before the first step.
    pub block: &'a [usize],
    /// The [residual](Certificate::residual), if it was computed in this step.
    pub residual: Option<f64>,
    /// Coordinates that lie on no kink or bound.
    pub free: usize,
}

/// One step of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TracePoint {
    /// Steps done.
    pub iteration: usize,
    /// Coordinates updated, divided by their number.
    pub epochs: f64,
    /// `F(x)`.
    pub objective: f64,
    /// Coordinates that lie on no kink or bound.
    pub free: usize,
}

/// A bound on the distance of a point from the minimum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// `max_i L_i |x_i − prox_{g_i/L_i}(x_i − ∇_i f/L_i)|`, the largest entry of the gradient if there is no
    /// penalty; 0 only at the minimum.
    pub residual: f64,
    /// The residual as a share of the residual at 0.
    pub relative_residual: f64,
    /// `F(x)` minus a lower bound of the minimum, if the problem has one for this penalty.
    pub duality_gap: Option<f64>,
}

/// The active set that was found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveSet {
    /// The coordinates that lie on no kink or bound: the support, with `λ ‖x‖₁`.
    pub free: Vec<usize>,
    /// The number of the last step that changed this set, or the bound on which a coordinate lies; 0 if none
    /// did.
    pub last_change: usize,
    /// [`nondegeneracy`] at the solution.
    pub nondegeneracy: Option<f64>,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockDescentSolution {
    /// The point, `[n]`.
    pub x: Vec<f64>,
    /// `F(x)`.
    pub objective: f64,
    /// Steps done.
    pub iterations: usize,
    /// Coordinates updated, divided by their number.
    pub epochs: f64,
    /// Whether the tolerance was reached.
    pub converged: bool,
    /// The bound on its distance from the minimum.
    pub certificate: Certificate,
    /// The coordinates off their kinks and bounds, and since when.
    pub active_set: ActiveSet,
    /// The objective over the steps.
    pub trace: Vec<TracePoint>,
}

impl BlockCoordinateDescentConfig {
    /// Exact updates of large blocks by message passing, for sparse quadratics such as label propagation,
    /// with forests that are chosen greedily in every step.
    pub fn message_passing() -> Self {
        Self::new()
            .with_blocks(Blocks::Forest)
            .with_selection(Selection::GaussSouthwellLipschitz)
            .with_solver(BlockSolver::MessagePassing)
    }

    /// Sparse solutions with superlinear convergence at the end: proximal Newton steps over blocks of the
    /// `size` most promising coordinates. `size` should be at least the number of nonzero coordinates in the
    /// solution.
    pub fn proximal_newton(size: usize) -> Self {
        Self::new()
            .with_blocks(Blocks::Variable { size })
            .with_selection(Selection::ProximalDecrease)
            .with_update(Update::Newton)
    }

    /// Minimises `f + g` from `start`, `[n]`, or from the feasible point nearest to 0, until the tolerance or
    /// the last iteration is reached, or `observe`, which is called before every step, ends it.
    ///
    /// If the tolerance is not reached, that is a result ([`BlockDescentSolution::converged`]), not an error.
    ///
    /// # Errors
    /// If the blocks, the rule, the update, the penalty and the problem do not fit together, the start does
    /// not fit, or the objective is no longer finite.
    pub fn solve<P: SmoothProblem>(
        &self,
        problem: &P,
        penalty: &Penalty,
        start: Option<&[f64]>,
        observe: &mut dyn FnMut(BlockStep<'_>) -> ControlFlow<()>,
    ) -> Result<BlockDescentSolution, BlockDescentError> {
        let n = problem.dimension();
        if n == 0 {
            return Err(BlockDescentError::Empty("coordinates"));
        }
        range::at_least("tolerance", self.tolerance, 0.0)?;
        penalty.check(n)?;
        self.check_update(penalty)?;
        let (low, high) = penalty.bounds();
        let nearest = vec![0.0_f64.clamp(low, high); n];
        let x = match start {
            None => nearest.clone(),
            Some(start) if start.len() != n => {
                return Err(BlockDescentError::Length {
                    name: "start",
                    expected: n,
                    found: start.len(),
                });
            }
            Some(start) => {
                let wrong = |x: &f64| !x.is_finite() || *x < low || *x > high;
                if let Some(coordinate) = start.iter().position(wrong) {
                    return Err(BlockDescentError::Start {
                        coordinate,
                        value: start[coordinate],
                    });
                }
                start.to_vec()
            }
        };
        Descent::new(self, problem, penalty, x, &nearest)?.run(observe)
    }

    fn check_update(&self, penalty: &Penalty) -> Result<(), BlockDescentError> {
        let refused = |update, why| Err(BlockDescentError::Update { update, why });
        let grouped = matches!(penalty, Penalty::GroupL1 { .. });
        match self.update {
            Update::Matrix | Update::Newton | Update::TwoMetric if grouped => refused(
                "matrix, newton or two-metric",
                "has no form for a group penalty: take gradient or backtracking",
            ),
            Update::TwoMetric if *penalty == Penalty::None => refused(
                "two-metric",
                "is for bounds and sparse penalties: take newton",
            ),
            Update::Matrix | Update::Newton
                if self.solver == BlockSolver::MessagePassing && *penalty != Penalty::None =>
            {
                refused("by message passing", "has no form for a penalty")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
