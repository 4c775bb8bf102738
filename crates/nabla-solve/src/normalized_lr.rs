//! Finding a separating hyperplane by gradient descent with large steps: Normalized LR+GD, and the
//! perceptrons that are the limits of it and of plain logistic regression.
//!
//! Given examples `a_i` with labels `y_i ∈ {−1, 1}` that some hyperplane through the origin
//! separates, and `z_i = y_i a_i`, the task is a `θ` with `z_i·θ > 0` for all `i`. With the logistic
//! loss
//!
//! ```text
//! f(θ) = 1/n Σ log(1 + exp(−z_i·θ)),   s_i(θ) = 1 / (1 + exp(z_i·θ)),   ∇f = −1/n Σ s_i z_i
//! ```
//!
//! the rules are, from `θ_0 = 0` until all margins are positive,
//!
//! ```text
//! LR+GD                         θ ← θ − γ ∇f(θ)                      = θ + γ/n Σ s_i z_i
//! Normalized LR+GD              θ ← θ − γ ∇f(θ) / (1/n Σ s_i)        = θ + γ Σ s_i z_i / Σ s_i
//! Batch Perceptron              θ ← θ + 1/n Σ_{i∈S} z_i,   S = {i : z_i·θ ≤ 0},   θ_1 = 1/2n Σ z_i
//! Normalized Batch Perceptron   θ ← θ + 1/|S| Σ_{i∈S} z_i
//! Perceptron                    θ ← θ + z_j,   one j ∈ S
//! ```
//!
//! For `γ → ∞` the first becomes the third and the second the fourth (`θ/γ`). With `R = max ‖a_i‖` and the
//! margin `μ = max_{‖θ‖=1} min_i z_i·θ`, LR+GD with a large step needs up to `n R²/μ²` steps, and on some
//! data a number that grows with `n`. Normalized LR+GD needs at most `R²/μ² + 2 log(2n − 1)/(γ μ²)`
//! ([`iteration_bound`]). The loss may rise on the way; only the number of examples on the wrong side counts.
//!
//! Weights `s_i / Σ s` are computed from `log s_i`, so no step is lost to underflow, however large `γ` is.
//!
//! Source: Tyurin, *From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent
//! with Large Step Sizes*, AAAI 2025, arXiv 2412.08424.

use std::fmt;
use std::ops::ControlFlow;

use nabla_base::range::{self, OutOfRange};
use nabla_base::vector;
use nabla_data::LabelledRows;
use serde::{Deserialize, Serialize};

/// The reason why the search for a hyperplane cannot start.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SeparatorError {
    /// There is nothing to separate.
    #[error("there are no examples to separate")]
    Empty,
    /// A label that is not −1 or 1.
    #[error("the label of example {example} is {label}, but it must be -1 or 1")]
    Label {
        /// The example, from 0.
        example: usize,
        /// Its label.
        label: f64,
    },
    /// A step size or a tolerance is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

/// The default step size of the rules that have one.
const USUAL_STEP_SIZE: f64 = 10.0;

/// How `θ` moves; the [module](self) has the equations.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// LR+GD: gradient descent on the logistic loss with the step size `γ`.
    GradientDescent(f64),
    /// Normalized LR+GD, the method of the paper, with the step size `γ`: the larger the better in
    /// theory; 0.1 to 100 in the paper.
    NormalizedGradientDescent(f64),
    /// All examples on the wrong side, divided by the number of all examples.
    BatchPerceptron,
    /// All examples on the wrong side, divided by their number.
    NormalizedBatchPerceptron,
    /// One example on the wrong side: the next one after that of the previous step, in the order of the
    /// examples.
    Perceptron,
}

nabla_base::choices! {
    Rule: "rule" {
        "normalized-lr" => Self::NormalizedGradientDescent(USUAL_STEP_SIZE), "Normalized LR+GD: logistic regression by gradient descent, the gradient divided by the mean of its weights";
        "lr" => Self::GradientDescent(USUAL_STEP_SIZE), "LR+GD: logistic regression by gradient descent";
        "batch-perceptron" => Self::BatchPerceptron, "The sum of the examples on the wrong side, divided by the number of all examples";
        "normalized-batch-perceptron" => Self::NormalizedBatchPerceptron, "The mean of the examples on the wrong side";
        "perceptron" => Self::Perceptron, "One example on the wrong side";
    }
}

impl Rule {
    /// The same with another step size `γ`, if the rule has one.
    pub fn with_step_size(self, step_size: f64) -> Self {
        match self {
            Self::GradientDescent(_) => Self::GradientDescent(step_size),
            Self::NormalizedGradientDescent(_) => Self::NormalizedGradientDescent(step_size),
            Self::BatchPerceptron | Self::NormalizedBatchPerceptron | Self::Perceptron => self,
        }
    }

    /// The `C` in the theorem that the rule separates `rows` in at most `C/μ²` steps, where `μ` is the
    /// largest margin; there is no theorem for LR+GD with an arbitrary step size.
    pub fn bound_factor(self, rows: &LabelledRows) -> Option<f64> {
        let radius = radius(rows);
        match self {
            Self::NormalizedGradientDescent(step_size) => {
                Some(iteration_bound(radius, 1.0, rows.len(), step_size))
            }
            Self::GradientDescent(_) => None,
            Self::BatchPerceptron => Some(rows.len() as f64 * radius * radius),
            Self::NormalizedBatchPerceptron | Self::Perceptron => Some(radius * radius),
        }
    }
}

/// The name of the rule in texts.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NormalizedGradientDescent(step) => {
                write!(f, "normalized LR+GD with step size {step}")
            }
            Self::GradientDescent(step) => write!(f, "LR+GD with step size {step}"),
            Self::BatchPerceptron => f.write_str("batch perceptron"),
            Self::NormalizedBatchPerceptron => f.write_str("normalized batch perceptron"),
            Self::Perceptron => f.write_str("perceptron"),
        }
    }
}

/// The state before a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SeparatorStep {
    /// Steps done.
    pub iteration: usize,
    /// Mean logistic loss.
    pub loss: f64,
    /// The least of `z_i·θ`.
    pub least_margin: f64,
    /// Examples with `z_i·θ ≤ 0`.
    pub wrong: usize,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Separation {
    /// The normal of the hyperplane, `[features]`.
    pub theta: Vec<f64>,
    /// Steps done.
    pub iterations: usize,
    /// Whether all examples are on the correct side.
    pub separated: bool,
    /// The margin `min_i z_i·θ / ‖θ‖` of this hyperplane (not the largest there is); negative if an
    /// example is on the wrong side, 0 for `θ = 0`.
    pub margin: f64,
}

/// Moves `θ` from 0 by `rule` until all examples are on the correct side, at most `max_iterations` times.
///
/// `observe` is called before every step and may end the search.
///
/// If the examples are not separated within the limit, that is a result ([`Separation::separated`]), not an
/// error.
///
/// ```
/// use std::ops::ControlFlow;
/// use nabla_data::LabelledRows;
/// use nabla_solve::normalized_lr::{Rule, separate};
///
/// let rows: LabelledRows = "1 1:1 2:2\n1 1:2 2:1\n-1 1:-1 2:0.5\n".parse()?;
/// let rule = Rule::NormalizedGradientDescent(10.0);
/// let found = separate(&rows, rule, 1000, &mut |_| ControlFlow::Continue(()))?;
/// assert!(found.separated && found.margin > 0.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If there are no examples, a label is not −1 or 1, or the step size is not positive and finite.
pub fn separate(
    rows: &LabelledRows,
    rule: Rule,
    max_iterations: usize,
    observe: &mut dyn FnMut(SeparatorStep) -> ControlFlow<()>,
) -> Result<Separation, SeparatorError> {
    check(rows)?;
    if let Rule::GradientDescent(step) | Rule::NormalizedGradientDescent(step) = rule {
        range::positive("step size", step)?;
    }
    let n = rows.len() as f64;
    let mut theta = vec![0.0; rows.features()];
    let mut weights = vec![0.0; rows.len()];
    // The example after the one that the perceptron took last.
    let mut next = 0;
    let mut iteration = 0;
    loop {
        let margins = margins(rows, &theta);
        let wrong = margins.iter().filter(|&&m| m <= 0.0).count();
        let state = SeparatorStep {
            iteration,
            loss: margins.iter().map(|&m| softplus(-m)).sum::<f64>() / n,
            least_margin: margins.iter().copied().fold(f64::INFINITY, f64::min),
            wrong,
        };
        let stop = observe(state).is_break();
        if wrong == 0 || iteration >= max_iterations || stop {
            let length = vector::norm(&theta);
            return Ok(Separation {
                margin: if length > 0.0 {
                    state.least_margin / length
                } else {
                    0.0
                },
                theta,
                iterations: iteration,
                separated: wrong == 0,
            });
        }
        // θ ← θ + Σ weights_i z_i
        match rule {
            Rule::GradientDescent(step) => {
                for (weight, &margin) in weights.iter_mut().zip(&margins) {
                    *weight = step / n * (-softplus(margin)).exp();
                }
            }
            Rule::NormalizedGradientDescent(step) => {
                // The softmax of log s_i = −log(1 + exp(z_i·θ)).
                let logs = || margins.iter().map(|&m| -softplus(m));
                let largest = logs().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = logs().map(|l| (l - largest).exp()).sum();
                for (weight, log) in weights.iter_mut().zip(logs()) {
                    *weight = step * (log - largest).exp() / sum;
                }
            }
            Rule::BatchPerceptron | Rule::NormalizedBatchPerceptron => {
                let each = match rule {
                    // At θ = 0 the logistic weights are ½, whatever the step size.
                    Rule::BatchPerceptron if iteration == 0 => 0.5 / n,
                    Rule::BatchPerceptron => 1.0 / n,
                    _ => 1.0 / wrong as f64,
                };
                for (weight, &margin) in weights.iter_mut().zip(&margins) {
                    *weight = if margin <= 0.0 { each } else { 0.0 };
                }
            }
            Rule::Perceptron => {
                weights.fill(0.0);
                let order = (next..rows.len()).chain(0..next);
                if let Some(j) = order.into_iter().find(|&j| margins[j] <= 0.0) {
                    weights[j] = 1.0;
                    next = j + 1;
                }
            }
        }
        add(rows, &weights, &mut theta);
        iteration += 1;
    }
}

/// The most steps that Normalized LR+GD takes: `R²/μ² + 2 log(2n − 1)/(γ μ²)` (theorem 6.1), with
/// the radius `R`, the margin `μ`, the number `n` of examples and the step size `γ`.
///
/// ```
/// use nabla_solve::normalized_lr::iteration_bound;
/// assert_eq!(iteration_bound(2.0, 0.5, 1, 1.0), 16.0);
/// ```
pub fn iteration_bound(radius: f64, margin: f64, examples: usize, step_size: f64) -> f64 {
    let n = examples as f64;
    (radius / margin).powi(2) + 2.0 * (2.0 * n - 1.0).ln() / (step_size * margin * margin)
}

/// `R = max ‖a_i‖`.
pub fn radius(rows: &LabelledRows) -> f64 {
    (0..rows.len())
        .map(|i| squared_norm(rows, i).sqrt())
        .fold(0.0, f64::max)
}

/// The margin `μ = max_{‖θ‖=1} min_i z_i·θ`, within a relative `tolerance` below it, by the algorithm
/// of Mitchell, Demyanov and Malozemov: `μ` is the distance of the origin from the convex hull of
/// the `z_i`, and each step moves weight from the example that lies highest along the nearest point
/// found so far to the one that lies lowest.
///
/// `None` if `max_iterations` do not reach the tolerance, for example because the data cannot be separated
/// and the hull contains the origin.
///
/// # Errors
/// If there are no examples, a label is not −1 or 1, or the tolerance is not between 0 and 1.
pub fn maximal_margin(
    rows: &LabelledRows,
    tolerance: f64,
    max_iterations: usize,
) -> Result<Option<f64>, SeparatorError> {
    check(rows)?;
    range::between("tolerance of the margin", tolerance, 0.0, 1.0)?;
    let mut weights = vec![0.0; rows.len()];
    weights[0] = 1.0;
    let mut point = vec![0.0; rows.features()];
    add(rows, &weights, &mut point);
    for _ in 0..max_iterations {
        let heights = margins(rows, &point);
        let mut lowest = 0;
        let mut highest = None;
        for (i, &height) in heights.iter().enumerate() {
            if height < heights[lowest] {
                lowest = i;
            }
            if weights[i] > 0.0 && highest.is_none_or(|h: usize| height > heights[h]) {
                highest = Some(i);
            }
        }
        let length = vector::norm(&point);
        // The margin lies between the lowest height and the distance of the point.
        if length > 0.0 && heights[lowest] / length >= (1.0 - tolerance) * length {
            return Ok(Some(heights[lowest] / length));
        }
        let Some(highest) = highest else {
            return Ok(None);
        };
        // Along z_lowest − z_highest, as far as the available weight allows.
        let mut direction = vec![0.0; rows.features()];
        for (i, sign) in [(lowest, 1.0), (highest, -1.0)] {
            for (column, value) in rows.row(i) {
                direction[column] += sign * rows.labels()[i] * value;
            }
        }
        let squared = vector::squared_norm(&direction);
        if squared == 0.0 {
            return Ok(None);
        }
        let step = ((heights[highest] - heights[lowest]) / squared).min(weights[highest]);
        vector::add_scaled(&mut point, step, &direction);
        weights[lowest] += step;
        weights[highest] -= step;
    }
    Ok(None)
}

fn check(rows: &LabelledRows) -> Result<(), SeparatorError> {
    if rows.is_empty() {
        return Err(SeparatorError::Empty);
    }
    match rows.labels().iter().position(|&y| y != 1.0 && y != -1.0) {
        None => Ok(()),
        Some(example) => Err(SeparatorError::Label {
            example,
            label: rows.labels()[example],
        }),
    }
}

/// `z_i·θ` of every example.
fn margins(rows: &LabelledRows, theta: &[f64]) -> Vec<f64> {
    rows.labels()
        .iter()
        .enumerate()
        .map(|(i, y)| y * rows.dot(i, theta))
        .collect()
}

/// `θ ← θ + Σ weights_i z_i`.
fn add(rows: &LabelledRows, weights: &[f64], theta: &mut [f64]) {
    for (i, (&weight, y)) in weights.iter().zip(rows.labels()).enumerate() {
        if weight != 0.0 {
            for (column, value) in rows.row(i) {
                theta[column] += weight * y * value;
            }
        }
    }
}

fn squared_norm(rows: &LabelledRows, i: usize) -> f64 {
    rows.row(i).map(|(_, value)| value * value).sum()
}

/// `log(1 + exp(x))`, of any `x`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of theorem 5.1: one example against `n − 1` equal ones.
    fn worst_case(n: usize) -> LabelledRows {
        let mut rows = LabelledRows::new(2);
        rows.push(1.0, [(0, 0.5), (1, -1.0)]).unwrap();
        for _ in 1..n {
            rows.push(-1.0, [(0, -0.5), (1, -1.0)]).unwrap();
        }
        rows
    }

    fn iterations(rows: &LabelledRows, rule: Rule) -> usize {
        let found = separate(rows, rule, 100_000, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(found.separated && found.margin > 0.0);
        found.iterations
    }

    /// The paper's table 1 for this data set of 1000 examples, and the perceptrons' counts.
    #[test]
    fn the_papers_counts_on_the_worst_case() {
        let rows = worst_case(1000);
        let normalized =
            [100.0, 10.0, 1.0, 0.1].map(|g| iterations(&rows, Rule::NormalizedGradientDescent(g)));
        assert_eq!(normalized, [2, 2, 16, 157]);
        assert_eq!(iterations(&rows, Rule::GradientDescent(100.0)), 308);
        assert_eq!(iterations(&rows, Rule::BatchPerceptron), 301);
        assert_eq!(iterations(&rows, Rule::NormalizedBatchPerceptron), 2);
    }

    /// Theorem 5.1: LR+GD's count grows like n, Normalized LR+GD's like log n at most.
    #[test]
    fn only_plain_gradient_descent_slows_down_with_more_examples() {
        let slope = |rule: Rule| {
            let [few, many] = [100, 2000].map(|n| iterations(&worst_case(n), rule) as f64);
            (many / few).ln() / 20f64.ln()
        };
        let plain = slope(Rule::GradientDescent(100.0));
        assert!((plain - 1.0).abs() < 0.05, "{plain}");
        let normalized = slope(Rule::NormalizedGradientDescent(0.1));
        assert!(normalized < 0.2, "{normalized}");
    }

    /// Theorem 4.1: after the first large step the loss is large, after the second all is right.
    #[test]
    fn the_loss_explodes_on_the_way_to_the_solution() {
        let mut rows = LabelledRows::new(2);
        rows.push(1.0, [(0, 1.0), (1, -1.0)]).unwrap();
        rows.push(-1.0, [(0, -1.0), (1, -4.0)]).unwrap();
        let mut losses = Vec::new();
        let found = separate(&rows, Rule::GradientDescent(1e4), 10, &mut |step| {
            losses.push(step.loss);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!((found.iterations, found.separated), (2, true));
        assert!(losses[1] > 1e3 && losses[2] < 1e-6, "{losses:?}");
    }

    /// Points of two classes around a direction, from a fixed sequence.
    fn points(n: usize, features: usize) -> LabelledRows {
        let mut rows = LabelledRows::new(features);
        let mut state = 1u64;
        let mut uniform = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as f64 / (1u64 << 31) as f64 * 2.0 - 1.0
        };
        while rows.len() < n {
            let x: Vec<f64> = (0..features).map(|_| uniform()).collect();
            if x[0].abs() > 0.2 {
                rows.push(x[0].signum(), x.into_iter().enumerate()).unwrap();
            }
        }
        rows
    }

    /// Theorem 3.2 and its counterpart: θ/γ of the gradient rules tends to the batch perceptrons'.
    #[test]
    fn large_steps_make_perceptrons() {
        let rows = points(60, 5);
        for steps in 1..20 {
            let run = |rule| {
                separate(&rows, rule, steps, &mut |_| ControlFlow::Continue(()))
                    .unwrap()
                    .theta
            };
            let step = 1e7;
            for (gradient, limit) in [
                (Rule::GradientDescent(step), Rule::BatchPerceptron),
                (
                    Rule::NormalizedGradientDescent(step),
                    Rule::NormalizedBatchPerceptron,
                ),
            ] {
                for (a, b) in run(gradient).iter().zip(run(limit)) {
                    assert!((a / step - b).abs() < 1e-6, "{gradient:?}, {steps} steps");
                }
            }
        }
    }

    #[test]
    fn the_counts_stay_within_the_theorems() {
        let rows = points(80, 4);
        let (r, mu) = (
            radius(&rows),
            maximal_margin(&rows, 1e-3, 100_000).unwrap().unwrap(),
        );
        for step in [0.1, 1.0, 100.0] {
            let count = iterations(&rows, Rule::NormalizedGradientDescent(step)) as f64;
            let bound = iteration_bound(r, mu, rows.len(), step);
            assert!(count > 0.0 && count <= bound, "{count} > {bound}");
        }
        for rule in [Rule::Perceptron, Rule::NormalizedBatchPerceptron] {
            assert!(iterations(&rows, rule) as f64 <= (r / mu).powi(2));
        }
        let batch = iterations(&rows, Rule::BatchPerceptron) as f64;
        assert!(batch <= rows.len() as f64 * (r / mu).powi(2));
    }

    /// Two pairs of points have the margin of their nearest ones, by hand.
    #[test]
    fn the_margin_of_a_square() {
        let mut rows = LabelledRows::new(2);
        for (y, x) in [
            (1.0, [1.0, 1.0]),
            (1.0, [1.0, -1.0]),
            (-1.0, [-3.0, 1.0]),
            (-1.0, [-3.0, -2.0]),
        ] {
            rows.push(y, x.into_iter().enumerate()).unwrap();
        }
        let margin = maximal_margin(&rows, 1e-9, 10_000).unwrap().unwrap();
        assert!((margin - 1.0).abs() < 1e-6, "{margin}");
        // Both signs of one point: nothing separates them.
        let mut torn = LabelledRows::new(1);
        torn.push(1.0, [(0, 1.0)]).unwrap();
        torn.push(-1.0, [(0, 1.0)]).unwrap();
        assert_eq!(maximal_margin(&torn, 0.01, 1000).unwrap(), None);
        let rule = Rule::NormalizedGradientDescent(1.0);
        let found = separate(&torn, rule, 50, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!((found.separated, found.iterations), (false, 50));
    }

    #[test]
    fn steps_without_end_do_not_overflow() {
        let rows = points(40, 3);
        for step in [1e200, 1e-200] {
            let rule = Rule::NormalizedGradientDescent(step);
            let found = separate(&rows, rule, 30, &mut |_| ControlFlow::Continue(())).unwrap();
            assert!(found.theta.iter().all(|t| t.is_finite()));
        }
    }

    #[test]
    fn wrong_input_is_told() {
        let run = |text: &str, rule| {
            let rows: LabelledRows = text.parse().unwrap();
            separate(&rows, rule, 10, &mut |_| ControlFlow::Continue(()))
                .unwrap_err()
                .to_string()
        };
        let told = run("1 1:1\n0 1:2\n", Rule::Perceptron);
        assert_eq!(told, "the label of example 1 is 0, but it must be -1 or 1");
        for step in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(run("1 1:1\n", Rule::GradientDescent(step)).starts_with("the step size is"));
        }
        let none = LabelledRows::new(2);
        let error = separate(&none, Rule::Perceptron, 1, &mut |_| {
            ControlFlow::Continue(())
        });
        assert_eq!(error, Err(SeparatorError::Empty));
    }
}
