//! Block coordinate descent: a solver for large convex problems that moves a few coordinates at a
//! time, chosen greedily, far, and exactly where it can.
//!
//! The problem is `F(x) = f(x) + g(x)` with a smooth [`SmoothProblem`] `f` and a separable
//! [`Penalty`] `g`. Three choices make the method. In every step
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
//! For a quadratic the matrix update is exact. Where the block is a forest in the graph of the second
//! derivatives, [message passing](solve_forest) does it in linear time, for blocks of half of all
//! coordinates. With a penalty that makes solutions sparse, the steps find the
//! [active set](active_set_complexity) after finitely many; from then on, variable blocks at least as
//! large as the support make matrix updates finite and Newton updates superlinear.
//!
//! `X x`, the slopes of the losses and, for the greedy rules, the gradient are kept up to date: a step
//! costs the entries of the block's columns, or of the rows that they touch. Everything is `f64`.
//! The same seed gives the same bits.
//!
//! Source: Nutini, Laradji, Schmidt, *Let's Make Block Coordinate Descent Converge Faster: Faster
//! Greedy Rules, Message-Passing, Active-Set Complexity, and Superlinear Convergence*, JMLR 23 (131),
//! 2022, arXiv 1712.08859.

mod active_set;
mod automatic;
mod linear_model;
mod message_passing;
mod partition;
mod problem;
mod quadratic;
mod selection;
mod update;

use std::ops::ControlFlow;

use burn::config::Config;
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

pub use active_set::{active_set_complexity, identification_radius, nondegeneracy, random_round};
pub use automatic::{BlockDescentChoices, BlockKind, Objective};
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

use problem::solve_positive;
use selection::{Selector, View, largest_of, largest_of_bound};
use update::{TwoMetricStep, halving_search, interpolating_search, proximal_quadratic, sufficient};

/// Why a problem cannot be solved as asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BlockDescentError {
    /// There is nothing to solve.
    #[error("the problem has no {0}")]
    Empty(&'static str),
    /// A label that is not −1 or 1.
    #[error("the label of example {example} is {label}, but it must be -1 or 1")]
    Label {
        /// The example, from 0.
        example: usize,
        /// Its label.
        label: f64,
    },
    /// Too few classes.
    #[error("softmax needs labels of at least 2 classes, but there are {0}")]
    Classes(usize),
    /// A weight that is negative or not finite.
    #[error("the {name} weight is {weight}, but it must be at least 0 and finite")]
    Weight {
        /// Of what.
        name: &'static str,
        /// The weight.
        weight: f64,
    },
    /// Bounds without room between them.
    #[error("the bounds are {low} and {high}, but the lower must be less than the upper")]
    Bounds {
        /// The lower.
        low: f64,
        /// The upper.
        high: f64,
    },
    /// A coordinate that the problem does not have.
    #[error("a {name} has coordinate {coordinate}, but there are {dimension}, from 0")]
    Coordinate {
        /// In what.
        name: &'static str,
        /// The coordinate.
        coordinate: usize,
        /// How many there are.
        dimension: usize,
    },
    /// Sets that are no partition.
    #[error("coordinate {coordinate} is in {times} {name}s, but it must be in 1")]
    Cover {
        /// What the sets are.
        name: &'static str,
        /// The coordinate.
        coordinate: usize,
        /// In how many.
        times: usize,
    },
    /// A number of values that does not fit.
    #[error("the {name} has {found} numbers, but it must have {expected}")]
    Length {
        /// Of what.
        name: &'static str,
        /// How many it must have.
        expected: usize,
        /// How many it has.
        found: usize,
    },
    /// An entry that a matrix or graph cannot have.
    #[error(
        "the entry ({i}, {j}) is {value}, but it must be finite, off the diagonal, and positive in a graph"
    )]
    Entry {
        /// Row.
        i: usize,
        /// Column.
        j: usize,
        /// Value.
        value: f64,
    },
    /// Blocks that are too small or too large.
    #[error("blocks of {size} coordinates were asked for, but they can have 1 to {dimension}")]
    BlockSize {
        /// What was asked for.
        size: usize,
        /// The most.
        dimension: usize,
    },
    /// Neighbours of a graph that there are not.
    #[error(
        "{count} nearest neighbours were asked for, but with {examples} examples it must be at least 1 and less than that"
    )]
    Neighbours {
        /// What was asked for.
        count: usize,
        /// How many examples there are.
        examples: usize,
    },
    /// A node that no label reaches.
    #[error("node {0} is linked to no node with a known label")]
    Unreachable(usize),
    /// A rule that the blocks or the penalty do not allow.
    #[error("the selection rule {rule} {why}")]
    Selection {
        /// The rule.
        rule: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// An update that the penalty does not allow.
    #[error("the update {update} {why}")]
    Update {
        /// The update.
        update: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// Blocks that tear a group apart.
    #[error("a group penalty needs fixed blocks that consist of whole groups")]
    Groups,
    /// A block for message passing with a cycle.
    #[error("message passing needs blocks without cycles, but coordinate {coordinate} lies on one")]
    NotForest {
        /// A coordinate on it.
        coordinate: usize,
    },
    /// A matrix that is not positive definite.
    #[error("the matrix is not positive definite at coordinate {coordinate}")]
    NotPositiveDefinite {
        /// Where.
        coordinate: usize,
    },
    /// A tolerance that is negative or NaN.
    #[error("the tolerance is {0}, but it must be at least 0")]
    Tolerance(f64),
    /// A start that is not finite, or outside the bounds.
    #[error(
        "coordinate {coordinate} of the start is {value}, but it must be finite and within the bounds"
    )]
    Start {
        /// The coordinate.
        coordinate: usize,
        /// Its value.
        value: f64,
    },
    /// The objective has left the finite numbers.
    #[error(
        "the objective is not finite any more: the problem's numbers are too large, or it has no minimum"
    )]
    Diverged,
}

/// How a problem is solved.
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
    /// The blocks. Default any 5 coordinates: the paper's smallest, and its better kind.
    #[config(default = "Blocks::Variable { size: 5 }")]
    pub blocks: Blocks,
    /// Which block is next. Default GSD, which is as cheap as GS.
    #[config(default = "Selection::GaussSouthwellDiagonal(DiagonalBound::Coordinate)")]
    pub selection: Selection,
    /// How it moves. Default a matrix update.
    #[config(default = "Update::Matrix")]
    pub update: Update,
    /// How the linear systems of matrix and Newton updates are solved. Default dense.
    #[config(default = "BlockSolver::Dense")]
    pub solver: BlockSolver,
    /// How the scores of a fixed block are summed. Default the Euclidean norm.
    #[config(default = "BlockNorm::Euclidean")]
    pub block_norm: BlockNorm,
    /// The most steps. Default 100 000.
    #[config(default = 100_000)]
    pub max_iterations: usize,
    /// The [residual](Certificate::residual) at which to stop, as a share of that of 0. Default 1e-6.
    #[config(default = 1e-6)]
    pub tolerance: f64,
    /// Of the random rules and partitions. Default 0.
    #[config(default = 0)]
    pub seed: u64,
    /// One of so many steps is kept in the [trace](BlockDescentSolution::trace), beside the first and
    /// the last; 0 for none. Default 1.
    #[config(default = 1)]
    pub trace_every: usize,
}

/// What is known before a step.
#[derive(Clone, Copy, Debug)]
pub struct BlockStep<'a> {
    /// Steps done.
    pub iteration: usize,
    /// Coordinates updated, divided by their number.
    pub epochs: f64,
    /// `F(x)`.
    pub objective: f64,
    /// The present point.
    pub x: &'a [f64],
    /// The block that the last step moved; empty before the first.
    pub block: &'a [usize],
    /// The [residual](Certificate::residual), where it was computed at this step.
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

/// How far from the minimum a point can be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// `max_i L_i |x_i − prox_{g_i/L_i}(x_i − ∇_i f/L_i)|`, the largest entry of the gradient where
    /// there is no penalty; 0 at the minimum and only there.
    pub residual: f64,
    /// The residual as a share of that of 0.
    pub relative_residual: f64,
    /// `F(x)` less a lower bound of the minimum, where the problem has one for this penalty.
    pub duality_gap: Option<f64>,
}

/// What was found of the active set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveSet {
    /// The coordinates that lie on no kink or bound: the support, with `λ ‖x‖₁`.
    pub free: Vec<usize>,
    /// The number of the last step that changed which coordinates these are, or the bound that one
    /// lies on; 0 if none did.
    pub last_change: usize,
    /// [`nondegeneracy`] at the solution.
    pub nondegeneracy: Option<f64>,
}

/// What came out.
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
    /// How far from the minimum it can be.
    pub certificate: Certificate,
    /// Which coordinates are off their kinks and bounds, and since when.
    pub active_set: ActiveSet,
    /// The objective over the steps.
    pub trace: Vec<TracePoint>,
}

impl BlockCoordinateDescentConfig {
    /// Exact updates of large blocks by message passing, for sparse quadratics such as label
    /// propagation: forests that are chosen greedily in every step.
    pub fn message_passing() -> Self {
        Self::new()
            .with_blocks(Blocks::Forest)
            .with_selection(Selection::GaussSouthwellLipschitz)
            .with_solver(BlockSolver::MessagePassing)
    }

    /// Sparse solutions with superlinear ends: proximal Newton steps over blocks of the `size`
    /// coordinates that promise most. `size` should not be below the number of those that are not 0
    /// in the solution.
    pub fn proximal_newton(size: usize) -> Self {
        Self::new()
            .with_blocks(Blocks::Variable { size })
            .with_selection(Selection::ProximalDecrease)
            .with_update(Update::Newton)
    }

    /// Lowers `f + g` from `start`, `[n]`, or from the feasible point nearest to 0, until the
    /// tolerance, the last iteration or `observe`, which sees the state before every step, ends it.
    ///
    /// Not to reach the tolerance is a result ([`BlockDescentSolution::converged`]), not an error.
    ///
    /// # Errors
    /// If the blocks, the rule, the update, the penalty and the problem do not fit each other, the
    /// start does not fit, or the objective leaves the finite numbers.
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
        if self.tolerance.is_nan() || self.tolerance < 0.0 {
            return Err(BlockDescentError::Tolerance(self.tolerance));
        }
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

/// After how many rounds of all coordinates the state is computed anew, so that rounding does not
/// gather.
const REFRESH_EPOCHS: usize = 8;

struct Descent<'a, P: SmoothProblem> {
    config: &'a BlockCoordinateDescentConfig,
    problem: &'a P,
    penalty: &'a Penalty,
    x: Vec<f64>,
    state: P::State,
    objective: f64,
    selector: Selector,
    noise: SeededNoise,
    /// `L_i`.
    lipschitz: Vec<f64>,
    /// What backtracking thinks of `L_i`, as selection reads it.
    estimates: Option<Vec<f64>>,
    /// `L`, where the update has it.
    global: f64,
    /// The residual at the feasible point nearest to 0.
    first_residual: f64,
    faces: Vec<Option<i8>>,
    free: usize,
    last_change: usize,
    /// The place of every coordinate in the present block, for message passing.
    places: Vec<usize>,
}

/// Where a block is to go.
struct Proposal {
    /// `[block]`.
    target: Vec<f64>,
    /// The constant that backtracking ended with.
    estimate: Option<f64>,
}

impl<'a, P: SmoothProblem> Descent<'a, P> {
    fn new(
        config: &'a BlockCoordinateDescentConfig,
        problem: &'a P,
        penalty: &'a Penalty,
        x: Vec<f64>,
        nearest: &[f64],
    ) -> Result<Self, BlockDescentError> {
        let n = problem.dimension();
        let state = problem.state(&x, config.selection.reads_gradient());
        let lipschitz = problem.coordinate_lipschitz(&state);
        let estimated = config.update == Update::Backtracking;
        let estimates = estimated.then(|| vec![1.0; n]);
        let mut noise = SeededNoise::new(config.seed, 0);
        let view = View {
            problem,
            state: &state,
            penalty,
            x: &x,
            lipschitz: &lipschitz,
            gradient: &[],
        };
        let selector = Selector::new(
            config.selection,
            config.block_norm,
            &config.blocks,
            &view,
            estimated,
            &mut noise,
        )?;
        let global = match config.update {
            Update::Gradient(StepSize::Global) => largest_of_bound(problem, &state)?,
            _ => 0.0,
        };
        let faces: Vec<Option<i8>> = x.iter().map(|&x| penalty.face(x)).collect();
        let objective = problem.value(&state, &x) + penalty.value(&x);
        let first_residual = {
            let gradient = problem.full_gradient(&problem.state(nearest, false), nearest);
            residual(penalty, nearest, &gradient, &lipschitz)
        };
        if !objective.is_finite() || !first_residual.is_finite() {
            return Err(BlockDescentError::Diverged);
        }
        Ok(Self {
            config,
            problem,
            penalty,
            state,
            objective,
            selector,
            noise,
            lipschitz,
            estimates,
            global,
            first_residual,
            free: faces.iter().filter(|f| f.is_none()).count(),
            faces,
            last_change: 0,
            places: vec![usize::MAX; n],
            x,
        })
    }

    fn run(
        mut self,
        observe: &mut dyn FnMut(BlockStep<'_>) -> ControlFlow<()>,
    ) -> Result<BlockDescentSolution, BlockDescentError> {
        let n = self.x.len();
        let greedy = self.config.selection.reads_gradient();
        let limit = self.config.tolerance * self.first_residual;
        let mut trace = Vec::new();
        let mut block: Vec<usize> = Vec::new();
        let (mut iteration, mut updated) = (0, 0_usize);
        let (mut checked, mut refreshed) = (None, 0);
        loop {
            let gradient = if greedy {
                self.problem.full_gradient(&self.state, &self.x)
            } else {
                Vec::new()
            };
            // A look at the whole gradient is free for a greedy rule, and once a round otherwise.
            let due = checked.is_none_or(|at| updated - at >= n)
                || iteration == self.config.max_iterations;
            let mut seen = None;
            if greedy {
                seen = Some(residual(self.penalty, &self.x, &gradient, &self.lipschitz));
            } else if due {
                checked = Some(updated);
                let gradient = self.problem.full_gradient(&self.state, &self.x);
                seen = Some(residual(self.penalty, &self.x, &gradient, &self.lipschitz));
            }
            let mut converged = false;
            if seen.is_some_and(|seen| seen <= limit) {
                // Not by the rounding of what was kept up to date.
                self.refresh()?;
                refreshed = updated;
                let gradient = self.problem.full_gradient(&self.state, &self.x);
                let exact = residual(self.penalty, &self.x, &gradient, &self.lipschitz);
                converged = exact <= limit;
                seen = Some(exact);
            }
            let epochs = updated as f64 / n as f64;
            let last = converged || iteration == self.config.max_iterations;
            let stop = observe(BlockStep {
                iteration,
                epochs,
                objective: self.objective,
                x: &self.x,
                block: &block,
                residual: seen,
                free: self.free,
            })
            .is_break();
            let every = self.config.trace_every;
            if every > 0 && (last || stop || iteration % every == 0) {
                trace.push(TracePoint {
                    iteration,
                    epochs,
                    objective: self.objective,
                    free: self.free,
                });
            }
            if last || stop {
                return self.finish(iteration, epochs, converged, trace);
            }
            let (chosen, proposal) = self.choose(&gradient)?;
            self.move_to(&chosen, proposal, iteration + 1)?;
            updated += chosen.len();
            block = chosen;
            iteration += 1;
            if updated - refreshed >= REFRESH_EPOCHS * n {
                self.refresh()?;
                refreshed = updated;
            }
        }
    }

    fn finish(
        mut self,
        iterations: usize,
        epochs: f64,
        converged: bool,
        mut trace: Vec<TracePoint>,
    ) -> Result<BlockDescentSolution, BlockDescentError> {
        self.refresh()?;
        if let Some(last) = trace.last_mut() {
            last.objective = self.objective;
        }
        let gradient = self.problem.full_gradient(&self.state, &self.x);
        let residual = residual(self.penalty, &self.x, &gradient, &self.lipschitz);
        let first = self.first_residual;
        Ok(BlockDescentSolution {
            objective: self.objective,
            iterations,
            epochs,
            converged,
            certificate: Certificate {
                residual,
                relative_residual: if first > 0.0 {
                    residual / first
                } else {
                    residual
                },
                duality_gap: self.problem.duality_gap(&self.state, &self.x, self.penalty),
            },
            active_set: ActiveSet {
                free: (0..self.x.len())
                    .filter(|&i| self.faces[i].is_none())
                    .collect(),
                last_change: self.last_change,
                nondegeneracy: nondegeneracy(self.penalty, &self.x, &gradient),
            },
            trace,
            x: self.x,
        })
    }

    fn refresh(&mut self) -> Result<(), BlockDescentError> {
        let greedy = self.config.selection.reads_gradient();
        self.state = self.problem.state(&self.x, greedy);
        self.objective = self.problem.value(&self.state, &self.x) + self.penalty.value(&self.x);
        if self.objective.is_finite() {
            Ok(())
        } else {
            Err(BlockDescentError::Diverged)
        }
    }

    fn choose(&mut self, gradient: &[f64]) -> Result<(Vec<usize>, Proposal), BlockDescentError> {
        if self.config.selection == Selection::MaximumImprovement {
            let blocks = self.selector.fixed().unwrap_or_default().to_vec();
            let mut best: Option<(f64, Vec<usize>, Proposal)> = None;
            for block in blocks {
                let proposal = self.propose(&block)?;
                let change = self.change(&block, &proposal.target);
                if best.as_ref().is_none_or(|(least, ..)| change < *least) {
                    best = Some((change, block, proposal));
                }
            }
            return match best {
                Some((_, block, proposal)) => Ok((block, proposal)),
                None => Err(BlockDescentError::Empty("coordinates")),
            };
        }
        let view = View {
            problem: self.problem,
            state: &self.state,
            penalty: self.penalty,
            x: &self.x,
            lipschitz: self.estimates.as_ref().unwrap_or(&self.lipschitz),
            gradient,
        };
        let block = self.selector.select(&view, &mut self.noise)?;
        let proposal = self.propose(&block)?;
        Ok((block, proposal))
    }

    fn move_to(
        &mut self,
        block: &[usize],
        proposal: Proposal,
        iteration: usize,
    ) -> Result<(), BlockDescentError> {
        let delta = self.delta(block, &proposal.target);
        self.objective += self.penalty.change(&self.x, block, &delta);
        self.objective += self
            .problem
            .advance(&mut self.state, &self.x, block, &delta);
        if !self.objective.is_finite() {
            return Err(BlockDescentError::Diverged);
        }
        for (&i, &new) in block.iter().zip(&proposal.target) {
            self.x[i] = new;
            let face = self.penalty.face(new);
            if face != self.faces[i] {
                self.last_change = iteration;
                self.free -= usize::from(self.faces[i].is_none());
                self.free += usize::from(face.is_none());
                self.faces[i] = face;
            }
        }
        if let (Some(estimates), Some(estimate)) = (&mut self.estimates, proposal.estimate) {
            for &i in block {
                estimates[i] = estimate;
            }
        }
        Ok(())
    }

    fn delta(&self, block: &[usize], target: &[f64]) -> Vec<f64> {
        block
            .iter()
            .zip(target)
            .map(|(&i, target)| target - self.x[i])
            .collect()
    }

    /// `F` with the block at `target` less `F(x)`.
    fn change(&mut self, block: &[usize], target: &[f64]) -> f64 {
        let delta = self.delta(block, target);
        let penalty = self.penalty.change(&self.x, block, &delta);
        if !penalty.is_finite() {
            return f64::INFINITY;
        }
        self.problem.change(&mut self.state, &self.x, block, &delta) + penalty
    }

    /// What a change of the objective can be off by: a line search must not end the descent for it.
    fn rounding(&self) -> f64 {
        f64::EPSILON * self.objective.abs()
    }

    fn propose(&mut self, block: &[usize]) -> Result<Proposal, BlockDescentError> {
        let g = self.problem.gradient(&self.state, &self.x, block);
        let x: Vec<f64> = block.iter().map(|&i| self.x[i]).collect();
        let mut estimate = None;
        let target = match self.config.update {
            Update::Gradient(size) => {
                let constant = match size {
                    StepSize::Global => self.global,
                    StepSize::Block => self.problem.block_lipschitz(&self.state, block)?,
                };
                self.gradient_target(block, &x, &g, constant)
            }
            Update::Backtracking => {
                let mut constant = match &self.estimates {
                    Some(estimates) => largest_of(estimates, block),
                    None => 1.0,
                };
                loop {
                    let target = self.gradient_target(block, &x, &g, constant);
                    let delta = self.delta(block, &target);
                    let along: f64 = delta.iter().zip(&g).map(|(d, g)| d * g).sum();
                    let squares: f64 = delta.iter().map(|d| d * d).sum();
                    let change = self.problem.change(&mut self.state, &self.x, block, &delta);
                    // Rounding is no reason to double.
                    let slack = 1e-14 * along.abs();
                    if change <= along + 0.5 * constant * squares + slack || constant > 1e300 {
                        estimate = Some(constant);
                        break target;
                    }
                    constant *= 2.0;
                }
            }
            Update::Matrix => self.curved_target(Curvature::Bound, block, &x, &g)?,
            Update::Newton => {
                let full = self.curved_target(Curvature::Here, block, &x, &g)?;
                self.searched(block, &x, &g, full)
            }
            Update::TwoMetric => {
                let h = self
                    .problem
                    .curvature_block(&self.state, Curvature::Here, block);
                let constants: Vec<f64> = block.iter().map(|&i| self.lipschitz[i]).collect();
                let step = TwoMetricStep::new(&h, &g, &x, &constants, self.penalty)?;
                let alpha = halving_search(|alpha| {
                    let point = step.point(&x, alpha);
                    let expected = step.expected(&x, &point, alpha);
                    sufficient(self.change(block, &point) - self.rounding(), expected)
                });
                if alpha > 0.0 {
                    step.point(&x, alpha)
                } else {
                    x
                }
            }
        };
        Ok(Proposal { target, estimate })
    }

    /// `prox_{g/L}(x_b − ∇_b f/L)`.
    fn gradient_target(&self, block: &[usize], x: &[f64], g: &[f64], constant: f64) -> Vec<f64> {
        // Columns without entries have the constant 0 and the slope 0.
        let constant = constant.max(f64::MIN_POSITIVE.sqrt());
        let moved: Vec<f64> = x.iter().zip(g).map(|(x, g)| x - g / constant).collect();
        self.penalty.block_prox(block, &moved, 1.0 / constant)
    }

    /// The minimum of the quadratic model of the block, plus `g`.
    fn curved_target(
        &mut self,
        kind: Curvature,
        block: &[usize],
        x: &[f64],
        g: &[f64],
    ) -> Result<Vec<f64>, BlockDescentError> {
        if *self.penalty != Penalty::None {
            let h = self.problem.curvature_block(&self.state, kind, block);
            return proximal_quadratic(&h, g, x, self.penalty);
        }
        let step = match self.config.solver {
            BlockSolver::Dense => {
                let h = self.problem.curvature_block(&self.state, kind, block);
                solve_positive(&h, g)?
            }
            BlockSolver::MessagePassing => self.pass_messages(kind, block, g)?,
        };
        Ok(x.iter().zip(step).map(|(x, d)| x - d).collect())
    }

    /// `H_bb⁻¹ r` of a block that is a forest.
    fn pass_messages(
        &mut self,
        kind: Curvature,
        block: &[usize],
        right: &[f64],
    ) -> Result<Vec<f64>, BlockDescentError> {
        for (place, &i) in block.iter().enumerate() {
            self.places[i] = place;
        }
        let mut diagonal = vec![0.0; block.len()];
        let mut edges = Vec::new();
        for (place, &i) in block.iter().enumerate() {
            for (j, value) in self.problem.curvature_row(&self.state, kind, i) {
                if j == i {
                    diagonal[place] = value;
                } else if i < j && value != 0.0 && self.places[j] != usize::MAX {
                    edges.push((place, self.places[j], value));
                }
            }
        }
        for &i in block {
            self.places[i] = usize::MAX;
        }
        let named = |error| match error {
            BlockDescentError::NotForest { coordinate } => BlockDescentError::NotForest {
                coordinate: block[coordinate],
            },
            BlockDescentError::NotPositiveDefinite { coordinate } => {
                BlockDescentError::NotPositiveDefinite {
                    coordinate: block[coordinate],
                }
            }
            other => other,
        };
        solve_forest(&diagonal, &edges, right).map_err(named)
    }

    /// From `x_b` towards `full`, as far as a line search allows.
    fn searched(&mut self, block: &[usize], x: &[f64], g: &[f64], full: Vec<f64>) -> Vec<f64> {
        let delta = self.delta(block, &full);
        let along: f64 = delta.iter().zip(g).map(|(d, g)| d * g).sum();
        let slope = along + self.penalty.change(&self.x, block, &delta);
        if slope.is_nan() || slope >= 0.0 {
            return x.to_vec();
        }
        let at = |alpha: f64| -> Vec<f64> {
            if alpha == 1.0 {
                return full.clone();
            }
            x.iter().zip(&delta).map(|(x, d)| x + alpha * d).collect()
        };
        let alpha = if *self.penalty == Penalty::None {
            interpolating_search(slope, |alpha| {
                self.change(block, &at(alpha)) - self.rounding()
            })
        } else {
            halving_search(|alpha| {
                sufficient(
                    self.change(block, &at(alpha)) - self.rounding(),
                    -alpha * slope,
                )
            })
        };
        if alpha > 0.0 { at(alpha) } else { x.to_vec() }
    }
}

/// `max_i L_i |x_i − prox_{g_i/L_i}(x_i − ∇_i f/L_i)|`; a group has the largest of its constants.
fn residual(penalty: &Penalty, x: &[f64], gradient: &[f64], lipschitz: &[f64]) -> f64 {
    let single = |i: usize, constant: f64| {
        let l = constant.max(f64::MIN_POSITIVE.sqrt());
        let new = penalty.coordinate_prox(x[i] - gradient[i] / l, 1.0 / l);
        l * (x[i] - new).abs()
    };
    match penalty {
        Penalty::None => gradient.iter().fold(0.0, |m, g| largest(m, g.abs())),
        Penalty::GroupL1 { groups, .. } => {
            let mut most = 0.0;
            for group in groups.iter().filter(|group| !group.is_empty()) {
                let mut group = group.clone();
                group.sort_unstable();
                let l = largest_of(lipschitz, &group).max(f64::MIN_POSITIVE.sqrt());
                let moved: Vec<f64> = group.iter().map(|&i| x[i] - gradient[i] / l).collect();
                let new = penalty.block_prox(&group, &moved, 1.0 / l);
                for (&i, new) in group.iter().zip(new) {
                    most = largest(most, l * (x[i] - new).abs());
                }
            }
            most
        }
        _ => (0..x.len()).fold(0.0, |m, i| largest(m, single(i, lipschitz[i]))),
    }
}

/// The larger, or NaN if one is.
fn largest(a: f64, b: f64) -> f64 {
    if a > b || a.is_nan() { a } else { b }
}

#[cfg(test)]
mod tests;
