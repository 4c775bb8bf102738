//! The problem: examples, a loss, the weight `β`, and the linear maps of its convex program.

use faer::{Mat, MatRef};
use nabla_base::range;
use nabla_data::LabelledRows;
use serde::{Deserialize, Serialize};

use super::error::ConvexReluError;
use super::loss::Loss;
use super::patterns::ActivationPatterns;

/// Labelled examples as a dense matrix.
///
/// ```
/// use nabla_data::LabelledRows;
/// use nabla_solve::convex_relu::DenseExamples;
///
/// let dense = DenseExamples::new(&[[0.5, 2.0], [0.0, 1.0]], &[1.0, -1.0])?;
/// let rows: LabelledRows = "+1 1:0.5 2:2\n-1 2:1\n".parse()?;
/// assert_eq!(dense, DenseExamples::try_from(&rows)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DenseExamples {
    /// `[n, features]`.
    features: Mat<f64>,
    labels: Vec<f64>,
}

impl DenseExamples {
    /// Creates examples from `rows`, `[n][features]`, and their labels, `[n]`.
    ///
    /// # Errors
    /// If there are no rows or features, the rows differ in length, a number is not finite, or the number of
    /// labels is not that of the rows.
    pub fn new(rows: &[impl AsRef<[f64]>], labels: &[f64]) -> Result<Self, ConvexReluError> {
        let Some(first) = rows.first() else {
            return Err(ConvexReluError::Empty);
        };
        let expected = first.as_ref().len();
        if let Some((example, row)) = rows
            .iter()
            .enumerate()
            .find(|(_, row)| row.as_ref().len() != expected)
        {
            return Err(ConvexReluError::RowLength {
                example,
                found: row.as_ref().len(),
                expected,
            });
        }
        let features = Mat::from_fn(rows.len(), expected, |k, j| rows[k].as_ref()[j]);
        Self::from_matrix(features, labels.to_vec())
    }

    /// Creates examples from a matrix `[n, features]` and labels `[n]`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_matrix(features: Mat<f64>, labels: Vec<f64>) -> Result<Self, ConvexReluError> {
        if features.nrows() == 0 {
            return Err(ConvexReluError::Empty);
        }
        if features.ncols() == 0 {
            return Err(ConvexReluError::NoFeatures);
        }
        if labels.len() != features.nrows() {
            return Err(ConvexReluError::LabelCount {
                found: labels.len(),
                expected: features.nrows(),
            });
        }
        check_finite(features.as_ref())?;
        Ok(Self { features, labels })
    }

    /// The features, `[n, features]`.
    pub fn features(&self) -> MatRef<'_, f64> {
        self.features.as_ref()
    }

    /// The labels, `[n]`.
    pub fn labels(&self) -> &[f64] {
        &self.labels
    }

    /// The number `n` of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no examples, which never occurs.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

impl TryFrom<&LabelledRows> for DenseExamples {
    type Error = ConvexReluError;

    fn try_from(rows: &LabelledRows) -> Result<Self, ConvexReluError> {
        let mut features = Mat::zeros(rows.len(), rows.features());
        for k in 0..rows.len() {
            for (j, value) in rows.row(k) {
                features[(k, j)] = value;
            }
        }
        Self::from_matrix(features, rows.labels().to_vec())
    }
}

fn check_finite(x: MatRef<'_, f64>) -> Result<(), ConvexReluError> {
    for example in 0..x.nrows() {
        for feature in 0..x.ncols() {
            let value = x[(example, feature)];
            if !value.is_finite() {
                return Err(ConvexReluError::NotFinite {
                    example,
                    feature,
                    value,
                });
            }
        }
    }
    Ok(())
}

/// `min ℓ(Σ_j (X u_j)_+ α_j, y) + β/2 Σ (‖u_j‖² + α_j²)`: what all solvers of this module work on.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvexReluProblem {
    /// `X`, `[n, d]`; the last column is 1 if there is a bias.
    design: Mat<f64>,
    labels: Vec<f64>,
    loss: Loss,
    beta: f64,
    bias: bool,
}

impl ConvexReluProblem {
    /// Creates the problem with the weight `beta` of the regularizer, and a loss that is a sum over the
    /// examples. With `bias`, the first layer has a bias: `X` gets a column of ones, whose weights are
    /// regularized like all others.
    ///
    /// # Errors
    /// If the loss is not defined for a label or `beta` is not positive and finite.
    pub fn new(
        examples: &DenseExamples,
        loss: Loss,
        beta: f64,
        bias: bool,
    ) -> Result<Self, ConvexReluError> {
        range::positive("weight of the regularizer", beta)?;
        loss.check(&examples.labels)?;
        Ok(Self {
            design: with_bias(examples.features(), bias),
            labels: examples.labels.clone(),
            loss,
            beta,
            bias,
        })
    }

    /// `X`, `[n, d]`, with the column of the bias.
    pub fn design(&self) -> MatRef<'_, f64> {
        self.design.as_ref()
    }

    /// The number of features, without the bias.
    pub fn features(&self) -> usize {
        self.design.ncols() - usize::from(self.bias)
    }

    /// The labels, `[n]`.
    pub fn labels(&self) -> &[f64] {
        &self.labels
    }

    /// The number `n` of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no examples; never.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The loss.
    pub fn loss(&self) -> Loss {
        self.loss
    }

    /// The weight `β` of the regularizer.
    pub fn beta(&self) -> f64 {
        self.beta
    }

    /// Whether the first layer has a bias.
    pub fn has_bias(&self) -> bool {
        self.bias
    }
}

/// `x`, with a column of ones if there is a bias.
pub(super) fn with_bias(x: MatRef<'_, f64>, bias: bool) -> Mat<f64> {
    let features = x.ncols();
    Mat::from_fn(x.nrows(), features + usize::from(bias), |k, j| {
        if j < features { x[(k, j)] } else { 1.0 }
    })
}

/// The form of the convex program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// `min ℓ(Σ D_i X (v_i − w_i), y) + β Σ (‖v_i‖ + ‖w_i‖)` with `(2D_i − I) X v_i ≥ 0` and
    /// `(2D_i − I) X w_i ≥ 0`: a ReLU network.
    #[default]
    Relu,
    /// `min ℓ(Σ D_i X v_i, y) + β Σ ‖v_i‖` without constraints: a gated network, whose unit `i` is
    /// active where `x·h_i ≥ 0`. Its value is never above that of the ReLU program with the same patterns.
    Gated,
}

/// The maps of a convex program. A point `u` is `[d, blocks]`: `v_1 … v_P`, and in the ReLU form then
/// `w_1 … w_P`.
pub(super) struct Program<'a> {
    pub(super) x: MatRef<'a, f64>,
    /// `[n, P]`.
    pub(super) active: MatRef<'a, f64>,
    pub(super) labels: &'a [f64],
    pub(super) loss: Loss,
    pub(super) beta: f64,
    pub(super) form: Form,
}

impl<'a> Program<'a> {
    pub(super) fn new(
        problem: &'a ConvexReluProblem,
        patterns: &'a ActivationPatterns,
        form: Form,
    ) -> Result<Self, ConvexReluError> {
        if patterns.is_empty() {
            return Err(ConvexReluError::NoPatterns);
        }
        if patterns.examples() != problem.len() {
            return Err(ConvexReluError::PatternLength {
                found: patterns.examples(),
                expected: problem.len(),
            });
        }
        if form == Form::Gated && patterns.gates().is_none() {
            return Err(ConvexReluError::NoGates);
        }
        Ok(Self {
            x: problem.design(),
            active: patterns.active(),
            labels: problem.labels(),
            loss: problem.loss(),
            beta: problem.beta(),
            form,
        })
    }

    pub(super) fn examples(&self) -> usize {
        self.x.nrows()
    }

    pub(super) fn width(&self) -> usize {
        self.x.ncols()
    }

    pub(super) fn patterns(&self) -> usize {
        self.active.ncols()
    }

    pub(super) fn blocks(&self) -> usize {
        match self.form {
            Form::Relu => 2 * self.patterns(),
            Form::Gated => self.patterns(),
        }
    }

    /// `D_i[k, k]` of the block's pattern, with the sign of the block in the output.
    pub(super) fn weight(&self, k: usize, block: usize) -> f64 {
        let p = self.patterns();
        if block < p {
            self.active[(k, block)]
        } else {
            -self.active[(k, block - p)]
        }
    }

    /// `(2D_i − I)[k, k]` of the block's pattern.
    pub(super) fn side(&self, k: usize, block: usize) -> f64 {
        2.0 * self.active[(k, block % self.patterns())] - 1.0
    }

    /// `F u = Σ D_i X (v_i − w_i)`, `[n]`, of `X u`, `[n, blocks]`.
    pub(super) fn outputs(&self, xu: MatRef<'_, f64>) -> Vec<f64> {
        let mut out = vec![0.0; self.examples()];
        for block in 0..self.blocks() {
            for (k, out) in out.iter_mut().enumerate() {
                *out += self.weight(k, block) * xu[(k, block)];
            }
        }
        out
    }

    /// `Gu`: every `(2D_i − I) X u_i`, `[n, blocks]`, of `X u`.
    pub(super) fn sides(&self, xu: MatRef<'_, f64>) -> Mat<f64> {
        Mat::from_fn(self.examples(), self.blocks(), |k, b| {
            self.side(k, b) * xu[(k, b)]
        })
    }

    /// `Fᵀg + Gᵀs`, `[d, blocks]`, of `g`, `[n]`, and `s`, `[n, blocks]`.
    pub(super) fn adjoint(&self, g: &[f64], s: Option<&Mat<f64>>) -> Mat<f64> {
        let weighted = Mat::from_fn(self.examples(), self.blocks(), |k, b| {
            let through = self.weight(k, b) * g[k];
            match s {
                Some(s) => through + self.side(k, b) * s[(k, b)],
                None => through,
            }
        });
        self.x.transpose() * weighted
    }

    /// `β Σ ‖u_i‖`.
    pub(super) fn regularizer(&self, u: MatRef<'_, f64>) -> f64 {
        self.beta * (0..u.ncols()).map(|i| column_norm(u, i)).sum::<f64>()
    }

    /// The objective, and by how much the worst constraint is violated, at `u`.
    pub(super) fn evaluate(&self, u: MatRef<'_, f64>) -> (f64, f64) {
        let xu = self.x * u;
        let loss = self.loss.sum(&self.outputs(xu.as_ref()), self.labels);
        let mut violation: f64 = 0.0;
        if self.form == Form::Relu {
            for b in 0..self.blocks() {
                for k in 0..self.examples() {
                    violation = violation.max(-self.side(k, b) * xu[(k, b)]);
                }
            }
        }
        (loss + self.regularizer(u), violation)
    }

    /// A lower bound of the program by weak duality. The dual is
    ///
    /// ```text
    /// max −ℓ*(g)   with   min_{μ ≥ 0} ‖F_iᵀ g − G_iᵀ μ‖ ≤ β   for every block
    /// ```
    ///
    /// and any `g` can be scaled to be feasible. `g` is a slope vector of the loss, `μ` an estimate of the
    /// multipliers, `[n, blocks]`, which is improved by `polish` accelerated projected gradient steps.
    pub(super) fn dual_bound(&self, g: &[f64], mu: Option<Mat<f64>>, polish: usize) -> f64 {
        let target = self.adjoint(g, None);
        let mut worst = (0..self.blocks())
            .map(|i| column_norm(target.as_ref(), i))
            .fold(0.0, f64::max);
        if self.form == Form::Relu {
            let mut mu = mu.unwrap_or_else(|| Mat::zeros(self.examples(), self.blocks()));
            for b in 0..self.blocks() {
                for k in 0..self.examples() {
                    mu[(k, b)] = mu[(k, b)].max(0.0);
                }
            }
            let step = 1.0 / largest_squared_singular_value(self.x).max(f64::MIN_POSITIVE);
            let none = vec![0.0; self.examples()];
            let mut ahead = mu.clone();
            let mut momentum = 1.0f64;
            // The best norm of each block over all multipliers.
            let mut best: Vec<f64> = (0..self.blocks())
                .map(|i| column_norm(target.as_ref(), i))
                .collect();
            for _ in 0..=polish {
                let residual = &target - self.adjoint(&none, Some(&ahead));
                for (i, best) in best.iter_mut().enumerate() {
                    *best = best.min(column_norm(residual.as_ref(), i));
                }
                if best.iter().all(|&b| b <= self.beta) {
                    break;
                }
                let slope = self.sides((self.x * &residual).as_ref());
                let next_momentum = 0.5 * (1.0 + (1.0 + 4.0 * momentum * momentum).sqrt());
                let share = (momentum - 1.0) / next_momentum;
                momentum = next_momentum;
                for b in 0..self.blocks() {
                    for k in 0..self.examples() {
                        let moved = (ahead[(k, b)] + step * slope[(k, b)]).max(0.0);
                        // Extrapolated multipliers must stay feasible to be a certificate.
                        ahead[(k, b)] = (moved + share * (moved - mu[(k, b)])).max(0.0);
                        mu[(k, b)] = moved;
                    }
                }
            }
            worst = best.iter().copied().fold(0.0, f64::max);
        }
        let largest = if worst > 0.0 {
            self.beta / worst
        } else {
            f64::MAX
        };
        self.loss.dual_objective(g, self.labels, largest)
    }
}

pub(super) fn column_norm(u: MatRef<'_, f64>, i: usize) -> f64 {
    (0..u.nrows())
        .map(|j| u[(j, i)] * u[(j, i)])
        .sum::<f64>()
        .sqrt()
}

/// `σ_max(X)²`, from above: by power iteration on the smaller Gram matrix, and a margin.
pub(super) fn largest_squared_singular_value(x: MatRef<'_, f64>) -> f64 {
    let gram = if x.nrows() < x.ncols() {
        x * x.transpose()
    } else {
        x.transpose() * x
    };
    let side = gram.nrows();
    let mut v = Mat::from_fn(side, 1, |i, _| 1.0 + 0.01 * (i % 7) as f64);
    let mut value = 0.0;
    for _ in 0..100 {
        let length = v.norm_l2();
        if length == 0.0 {
            break;
        }
        let next = &gram * &v;
        value = next.norm_l2() / length;
        v = next * (1.0 / (value * length).max(f64::MIN_POSITIVE));
    }
    let trace: f64 = (0..side).map(|i| gram[(i, i)]).sum();
    // The power iteration comes from below; the trace is a bound.
    (1.05 * value).min(trace)
}

/// A point of the convex program, with its certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvexReluSolution {
    /// `v_1 … v_P`, `[d, P]`; the last row is the bias.
    pub v: Mat<f64>,
    /// `w_1 … w_P`, `[d, P]`; no columns in the gated form.
    pub w: Mat<f64>,
    /// The form of the program.
    pub form: Form,
    /// The value of the program at this point.
    pub objective: f64,
    /// A lower bound of the program over the same patterns: `objective − lower_bound` is the duality
    /// gap. With all patterns, it is a lower bound of the objective of every network.
    pub lower_bound: f64,
    /// How much the worst constraint is violated: the largest of `−(2D_i − I) X v_i`, at least 0.
    pub violation: f64,
    /// Iterations done.
    pub iterations: usize,
    /// Whether the tolerance was reached.
    pub converged: bool,
    /// Whether the last feature is a bias.
    pub bias: bool,
}

impl ConvexReluSolution {
    pub(super) fn of(
        program: &Program<'_>,
        u: MatRef<'_, f64>,
        lower_bound: f64,
        (iterations, converged): (usize, bool),
        bias: bool,
    ) -> Self {
        let (objective, violation) = program.evaluate(u);
        let p = program.patterns();
        Self {
            v: u.subcols(0, p).to_owned(),
            w: u.subcols(p, u.ncols() - p).to_owned(),
            form: program.form,
            objective,
            lower_bound,
            violation,
            iterations,
            converged,
            bias,
        }
    }

    /// `(objective − lower_bound) / max(1, |objective|)`.
    pub fn relative_gap(&self) -> f64 {
        (self.objective - self.lower_bound) / self.objective.abs().max(1.0)
    }
}
