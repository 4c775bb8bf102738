//! The steps of a descent.

use std::ops::ControlFlow;

use nabla_base::vector;
use nabla_grad::seeded_noise::SeededNoise;

use super::problem::solve_positive;
use super::selection::{Selector, View, largest_of, largest_of_bound};
use super::update::{
    TwoMetricStep, halving_search, interpolating_search, proximal_quadratic, sufficient,
};
use super::{
    ActiveSet, BlockCoordinateDescentConfig, BlockDescentError, BlockDescentSolution, BlockSolver,
    BlockStep, Certificate, Curvature, Penalty, Selection, SmoothProblem, StepSize, TracePoint,
    Update, nondegeneracy, solve_forest,
};

/// The number of rounds of all coordinates after which the state is recomputed, so that rounding errors do
/// not accumulate.
const REFRESH_EPOCHS: usize = 8;

pub(super) struct Descent<'a, P: SmoothProblem> {
    pub(super) config: &'a BlockCoordinateDescentConfig,
    pub(super) problem: &'a P,
    pub(super) penalty: &'a Penalty,
    pub(super) x: Vec<f64>,
    pub(super) state: P::State,
    pub(super) objective: f64,
    selector: Selector,
    pub(super) noise: SeededNoise,
    /// `L_i`.
    lipschitz: Vec<f64>,
    /// Backtracking's estimates of `L_i`, for the selection.
    estimates: Option<Vec<f64>>,
    /// `L`, if the update uses it.
    global: f64,
    /// The residual at the feasible point nearest to 0.
    first_residual: f64,
    faces: Vec<Option<i8>>,
    pub(super) free: usize,
    pub(super) last_change: usize,
    /// The position of every coordinate in the current block, for message passing.
    places: Vec<usize>,
}

/// The target of a block.
struct Proposal {
    /// `[block]`.
    target: Vec<f64>,
    /// The final constant of backtracking.
    estimate: Option<f64>,
}

impl<'a, P: SmoothProblem> Descent<'a, P> {
    pub(super) fn new(
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

    pub(super) fn run(
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
            // Greedy rules have the whole gradient at no cost; otherwise it is computed once per round.
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
                // The values that are updated incrementally may have rounding errors.
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

    /// The possible error of a change of the objective, because of which a line search must not end the
    /// descent.
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
                    let along = vector::dot(&delta, &g);
                    let squares = vector::squared_norm(&delta);
                    let change = self.problem.change(&mut self.state, &self.x, block, &delta);
                    // Rounding errors are no reason to double.
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
        // Empty columns have the constant 0 and the slope 0.
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

    /// Moves from `x_b` towards `full`, as far as a line search allows.
    fn searched(&mut self, block: &[usize], x: &[f64], g: &[f64], full: Vec<f64>) -> Vec<f64> {
        let delta = self.delta(block, &full);
        let along = vector::dot(&delta, g);
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
pub(super) fn residual(penalty: &Penalty, x: &[f64], gradient: &[f64], lipschitz: &[f64]) -> f64 {
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
