//! The convex programs by an interior-point method, and convex adversarial training.
//!
//! If every example may move by up to `ε` in each feature, the constraints must hold for all such moves, and
//! the loss is the worst case (section 4 of the paper):
//!
//! ```text
//! (2D_i − I) X v_i ≥ ε ‖v_i‖₁,   (2D_i − I) X w_i ≥ ε ‖w_i‖₁,   p_k = Σ_i D_i[k,k] (v_i − w_i)
//!
//! hinge          Σ_k (1 − y_k x_k·p_k + ε ‖p_k‖₁)_+
//! squared        ½ Σ_k (|x_k·p_k − y_k| + ε ‖p_k‖₁)²
//! cross entropy  Σ_k log(1 + exp(2 (−y_k x_k·p_k + ε ‖p_k‖₁)))
//! ```
//!
//! `+ β Σ (‖v_i‖ + ‖w_i‖)`. The norms leave out the bias, which does not move. Because no example changes an
//! activation within its box, the network is linear in each box, and the loss of the program is the
//! worst-case loss of the recovered network on the training examples, which is a certificate. `ε = 0` means
//! training without an adversary.
//!
//! The norms are second-order cones, the cross entropy is two exponential cones per example; everything else
//! is linear. The crate `clarabel` solves the program (Goulart, Chen, *Clarabel: An interior-point solver for
//! conic programs with quadratic objectives*, 2024, arXiv 2405.12762). It factors a sparse system of all
//! variables in every iteration, so it is for small problems, and for checking ADMM.

use clarabel::algebra::CscMatrix;
use clarabel::solver::{DefaultSettings, DefaultSolver, IPSolver, SolverStatus, SupportedConeT};
use faer::Mat;
use nabla_base::range;
use serde::{Deserialize, Serialize};

use super::error::ConvexReluError;
use super::loss::Loss;
use super::patterns::ActivationPatterns;
use super::problem::{ConvexReluProblem, ConvexReluSolution, Form, Program};

/// The interior-point method and its settings; see the [module](self).
///
/// ```
/// use nabla_solve::convex_relu::*;
///
/// let rows = [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]];
/// let examples = DenseExamples::new(&rows, &[1.0, 1.0, -1.0, -1.0])?;
/// let problem = ConvexReluProblem::new(&examples, Loss::Hinge, 0.01, true)?;
/// let patterns = ActivationPatterns::enumerate(&problem, 1000)?;
/// let robust = InteriorPoint::new().with_epsilon(0.3).solve(&problem, &patterns, Form::Relu)?;
/// let attacked = Attack::pgd(0.3).perturb(&robust.network(), &examples, Loss::Hinge)?;
/// assert_eq!(robust.network().accuracy(&attacked)?, 1.0);
/// # Ok::<(), ConvexReluError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InteriorPoint {
    /// `ε`, the maximum change of a feature. Default 0.
    pub epsilon: f64,
    /// The tolerance of the relative gap and of the feasibility. Default 1e-8.
    pub tolerance: f64,
    /// Default 200.
    pub max_iterations: usize,
}

impl Default for InteriorPoint {
    fn default() -> Self {
        Self {
            epsilon: 0.0,
            tolerance: 1e-8,
            max_iterations: 200,
        }
    }
}

/// Rows `b − A x` of one kind of cone.
#[derive(Default)]
struct Rows {
    /// Row, column, entry of `A`.
    entries: Vec<(usize, usize, f64)>,
    b: Vec<f64>,
}

impl Rows {
    /// Adds `constant + Σ value · x[column]`.
    fn push(&mut self, constant: f64, terms: impl IntoIterator<Item = (usize, f64)>) {
        let row = self.b.len();
        for (column, value) in terms {
            if value != 0.0 {
                self.entries.push((row, column, -value));
            }
        }
        self.b.push(constant);
    }
}

/// A conic program under construction.
#[derive(Default)]
struct Conic {
    variables: usize,
    /// Linear costs and, half of them squared, quadratic ones.
    linear: Vec<(usize, f64)>,
    squared: Vec<usize>,
    zero: Rows,
    nonnegative: Rows,
    second_order: Rows,
    second_order_sizes: Vec<usize>,
    exponential: Rows,
}

impl Conic {
    /// The index of the first of `count` new variables.
    fn variables(&mut self, count: usize) -> usize {
        let first = self.variables;
        self.variables += count;
        first
    }
}

impl InteriorPoint {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// For perturbations of up to `epsilon` in each feature.
    #[must_use]
    pub fn with_epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Another tolerance.
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

    /// Solves the program of `problem` over `patterns`. For `ε > 0` they should cover the perturbed
    /// examples ([`ActivationPatterns::sample_perturbed`]).
    ///
    /// In the solution, [`objective`](ConvexReluSolution::objective) is the solver's (for `ε > 0` with the
    /// worst-case loss), [`violation`](ConvexReluSolution::violation) is that of the constraints without `ε`,
    /// and [`lower_bound`](ConvexReluSolution::lower_bound) the dual objective.
    ///
    /// # Errors
    /// If a setting is out of range, the patterns do not belong to the problem, the gated form is used with
    /// patterns without directions or with `ε > 0`, or the solver finds no solution.
    pub fn solve(
        &self,
        problem: &ConvexReluProblem,
        patterns: &ActivationPatterns,
        form: Form,
    ) -> Result<ConvexReluSolution, ConvexReluError> {
        let epsilon = self.epsilon;
        range::not_negative("radius of the perturbations", epsilon)?;
        if form == Form::Gated {
            range::check(
                epsilon == 0.0,
                "radius of the perturbations",
                epsilon,
                "0 in the gated form",
            )?;
        }
        range::positive("tolerance of the interior-point method", self.tolerance)?;
        range::at_least("number of iterations", self.max_iterations, 1)?;
        let program = Program::new(problem, patterns, form)?;
        let (d, blocks) = (program.width(), program.blocks());
        let mut conic = Conic::default();
        let u = conic.variables(d * blocks);
        add_regularizer(&mut conic, &program, u);
        if form == Form::Relu {
            add_sides(&mut conic, &program, u, epsilon, problem.features());
        }
        add_loss(&mut conic, &program, u, epsilon, problem.features());
        let (x, [primal, dual], iterations) = self.run(&conic)?;
        let u = Mat::from_fn(d, blocks, |j, i| x[u + i * d + j]);
        let ending = (iterations, true);
        let mut solution =
            ConvexReluSolution::of(&program, u.as_ref(), dual, ending, problem.has_bias());
        if epsilon > 0.0 {
            solution.objective = primal;
        }
        Ok(solution)
    }

    fn run(&self, conic: &Conic) -> Result<(Vec<f64>, [f64; 2], usize), ConvexReluError> {
        let parts = [
            &conic.zero,
            &conic.nonnegative,
            &conic.second_order,
            &conic.exponential,
        ];
        let (mut rows, mut columns, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let mut b = Vec::new();
        for part in parts {
            let first = b.len();
            for &(row, column, value) in &part.entries {
                rows.push(first + row);
                columns.push(column);
                values.push(value);
            }
            b.extend_from_slice(&part.b);
        }
        let a = CscMatrix::new_from_triplets(b.len(), conic.variables, rows, columns, values);
        let mut cones = vec![
            SupportedConeT::ZeroConeT(conic.zero.b.len()),
            SupportedConeT::NonnegativeConeT(conic.nonnegative.b.len()),
        ];
        cones.extend(
            conic
                .second_order_sizes
                .iter()
                .map(|&size| SupportedConeT::SecondOrderConeT(size)),
        );
        let exponential = conic.exponential.b.len() / 3;
        cones.extend((0..exponential).map(|_| SupportedConeT::ExponentialConeT()));
        let p = CscMatrix::new_from_triplets(
            conic.variables,
            conic.variables,
            conic.squared.clone(),
            conic.squared.clone(),
            vec![1.0; conic.squared.len()],
        );
        let mut q = vec![0.0; conic.variables];
        for &(column, value) in &conic.linear {
            q[column] += value;
        }
        let settings = DefaultSettings {
            verbose: false,
            max_iter: u32::try_from(self.max_iterations).unwrap_or(u32::MAX),
            tol_gap_abs: self.tolerance,
            tol_gap_rel: self.tolerance,
            tol_feas: self.tolerance,
            // Use one thread, so that the result does not depend on the number of cores.
            max_threads: 1,
            ..DefaultSettings::default()
        };
        let mut solver = DefaultSolver::new(&p, &q, &a, &b, &cones, settings)
            .map_err(|e| ConvexReluError::InteriorPoint(e.to_string()))?;
        solver.solve();
        let solution = &solver.solution;
        match solution.status {
            SolverStatus::Solved | SolverStatus::AlmostSolved => Ok((
                solution.x.clone(),
                [solution.obj_val, solution.obj_val_dual],
                solution.iterations as usize,
            )),
            status => Err(ConvexReluError::InteriorPoint(format!("{status:?}"))),
        }
    }
}

/// `β Σ t_i` with `‖u_i‖ ≤ t_i`.
fn add_regularizer(conic: &mut Conic, program: &Program<'_>, u: usize) {
    let d = program.width();
    let t = conic.variables(program.blocks());
    for i in 0..program.blocks() {
        conic.linear.push((t + i, program.beta));
        conic.second_order.push(0.0, [(t + i, 1.0)]);
        for j in 0..d {
            conic.second_order.push(0.0, [(u + i * d + j, 1.0)]);
        }
        conic.second_order_sizes.push(d + 1);
    }
}

/// `(2D_i − I) X u_i ≥ ε ‖u_i‖₁`.
fn add_sides(conic: &mut Conic, program: &Program<'_>, u: usize, epsilon: f64, features: usize) {
    let d = program.width();
    for i in 0..program.blocks() {
        let block = u + i * d;
        let moved = (epsilon > 0.0).then(|| {
            let sizes = conic.variables(features);
            for j in 0..features {
                for sign in [1.0, -1.0] {
                    conic
                        .nonnegative
                        .push(0.0, [(sizes + j, 1.0), (block + j, sign)]);
                }
            }
            sizes
        });
        for k in 0..program.examples() {
            let side = program.side(k, i);
            let product = (0..d).map(|j| (block + j, side * program.x[(k, j)]));
            let away = moved
                .into_iter()
                .flat_map(|sizes| (0..features).map(move |j| (sizes + j, -epsilon)));
            conic.nonnegative.push(0.0, product.chain(away));
        }
    }
}

/// The worst loss of every example.
fn add_loss(conic: &mut Conic, program: &Program<'_>, u: usize, epsilon: f64, features: usize) {
    let (n, d, blocks) = (program.examples(), program.width(), program.blocks());
    let cost = conic.variables(n);
    for k in 0..n {
        let y = program.labels[k];
        // scale · x_k·p_k
        let output = |scale: f64| {
            (0..blocks).flat_map(move |i| {
                let weight = scale * program.weight(k, i);
                (0..d).map(move |j| (u + i * d + j, weight * program.x[(k, j)]))
            })
        };
        // |p_k|
        let moved = (epsilon > 0.0).then(|| {
            let sizes = conic.variables(features);
            for j in 0..features {
                for sign in [1.0, -1.0] {
                    let parts = (0..blocks).map(|i| (u + i * d + j, sign * program.weight(k, i)));
                    conic.nonnegative.push(0.0, parts.chain([(sizes + j, 1.0)]));
                }
            }
            sizes
        });
        let away = |scale: f64| {
            moved
                .into_iter()
                .flat_map(move |sizes| (0..features).map(move |j| (sizes + j, scale * epsilon)))
        };
        let own = cost + k;
        match program.loss {
            Loss::Squared => {
                conic.squared.push(own);
                if epsilon > 0.0 {
                    for sign in [1.0, -1.0] {
                        let terms = output(-sign).chain(away(-1.0)).chain([(own, 1.0)]);
                        conic.nonnegative.push(sign * y, terms);
                    }
                } else {
                    conic.zero.push(y, output(-1.0).chain([(own, 1.0)]));
                }
            }
            Loss::Hinge => {
                conic.linear.push((own, 1.0));
                conic.nonnegative.push(0.0, [(own, 1.0)]);
                let terms = output(y).chain(away(-1.0)).chain([(own, 1.0)]);
                conic.nonnegative.push(-1.0, terms);
            }
            Loss::BinaryCrossEntropy => {
                // exp(2z − cost) + exp(−cost) ≤ 1
                conic.linear.push((own, 1.0));
                let parts = conic.variables(2);
                let terms = output(-2.0 * y).chain(away(2.0)).chain([(own, -1.0)]);
                conic.exponential.push(0.0, terms);
                conic.exponential.push(1.0, []);
                conic.exponential.push(0.0, [(parts, 1.0)]);
                conic.exponential.push(0.0, [(own, -1.0)]);
                conic.exponential.push(1.0, []);
                conic.exponential.push(0.0, [(parts + 1, 1.0)]);
                conic
                    .nonnegative
                    .push(1.0, [(parts, -1.0), (parts + 1, -1.0)]);
            }
        }
    }
}
