//! The baseline of convex training: gradient descent on both layers, with the same objective.
//!
//! ```text
//! ℓ(Σ_j (X u_j)_+ α_j, y) + β/2 Σ (‖u_j‖² + α_j²)
//! ```
//!
//! from `u ~ N(0, 2/d)`, `α ~ N(0, 1/m)`, with all examples in a step or with batches whose loss is scaled to
//! that of all examples, optionally with momentum; with an [`Attack`] on every batch, it is adversarial
//! training (GD-FGSM and GD-PGD in the paper).

use std::ops::ControlFlow;

use faer::Mat;
use nabla_base::range;
use nabla_grad::seeded_noise::SeededNoise;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::attack::Attack;
use super::error::ConvexReluError;
use super::network::TwoLayerRelu;
use super::problem::{ConvexReluProblem, DenseExamples, with_bias};

/// Back-propagation and its settings; see the [module](self).
///
/// ```
/// use std::ops::ControlFlow;
/// use nabla_solve::convex_relu::*;
///
/// let rows = [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]];
/// let examples = DenseExamples::new(&rows, &[1.0, 1.0, -1.0, -1.0])?;
/// let problem = ConvexReluProblem::new(&examples, Loss::Squared, 0.01, true)?;
/// let descent = BackPropagation::new(20, 0.05, 2000);
/// let network = descent.train(&problem, |_| ControlFlow::Continue(()))?;
/// assert_eq!(network.accuracy(&examples)?, 1.0);
/// # Ok::<(), ConvexReluError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackPropagation {
    /// The number `m` of hidden units.
    pub units: usize,
    /// The step size.
    pub learning_rate: f64,
    /// The number of steps.
    pub iterations: usize,
    /// The share of the last step in the next one. Default 0.
    pub momentum: f64,
    /// Examples per step; `None` for all of them.
    pub batch_size: Option<usize>,
    /// The attack that perturbs every batch.
    pub attack: Option<Attack>,
    /// The seed of the initial weights and the batches. Default 0.
    pub seed: u64,
}

/// The state before a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackPropagationStep {
    /// Steps done.
    pub iteration: usize,
    /// The objective on the batch, its loss scaled to that of all examples.
    pub objective: f64,
}

impl BackPropagation {
    /// Gradient descent from random weights, with all examples in a step.
    pub fn new(units: usize, learning_rate: f64, iterations: usize) -> Self {
        Self {
            units,
            learning_rate,
            iterations,
            momentum: 0.0,
            batch_size: None,
            attack: None,
            seed: 0,
        }
    }

    /// With batches of `batch_size` examples.
    #[must_use]
    pub fn with_batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = Some(batch_size);
        self
    }

    /// With momentum.
    #[must_use]
    pub fn with_momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// With perturbed batches.
    #[must_use]
    pub fn with_attack(mut self, attack: Attack) -> Self {
        self.attack = Some(attack);
        self
    }

    /// Another seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Trains a network; `observe` is called before every step and may end the training.
    ///
    /// # Errors
    /// If a setting is out of range, or the weights are no longer finite.
    pub fn train(
        &self,
        problem: &ConvexReluProblem,
        mut observe: impl FnMut(BackPropagationStep) -> ControlFlow<()>,
    ) -> Result<TwoLayerRelu, ConvexReluError> {
        range::at_least("number of hidden units", self.units, 1)?;
        range::positive("learning rate", self.learning_rate)?;
        let holds = (0.0..1.0).contains(&self.momentum);
        range::check(
            holds,
            "momentum",
            self.momentum,
            "at least 0 and less than 1",
        )?;
        let n = problem.len();
        let batch_size = self.batch_size.unwrap_or(n);
        let holds = (1..=n).contains(&batch_size);
        range::check(
            holds,
            "batch size",
            batch_size as f64,
            "at least 1 and at most the number of examples",
        )?;
        if let Some(attack) = self.attack {
            attack.check()?;
        }
        let (d, m) = (problem.design().ncols(), self.units);
        let mut noise = SeededNoise::new(self.seed, 0);
        let mut draw = |rows: usize, columns: usize, scale: f64| {
            let values = noise.normal_values(rows * columns);
            Mat::from_fn(rows, columns, |i, j| {
                scale * f64::from(values[i * columns + j])
            })
        };
        let hidden = draw(d, m, (2.0 / d as f64).sqrt());
        let alpha = draw(m, 1, (1.0 / m as f64).sqrt());
        let output = (0..m).map(|j| alpha[(j, 0)]).collect();
        let mut network = TwoLayerRelu::from_parts(hidden, output, problem.has_bias());
        let mut velocity = (Mat::<f64>::zeros(d, m), vec![0.0; m]);
        let mut order: Vec<usize> = (0..n).collect();
        let mut shuffle = SeededNoise::new(self.seed, 1);
        let mut next = n;
        for iteration in 0..self.iterations {
            if batch_size < n && next + batch_size > n {
                order.shuffle(&mut shuffle);
                next = 0;
            }
            let batch = if batch_size < n {
                &order[next..next + batch_size]
            } else {
                &order[..]
            };
            next += batch_size;
            let (x, labels) = self.batch(problem, &network, batch)?;
            let gradient = Gradient::new(problem, &network, &x, &labels);
            let seen = BackPropagationStep {
                iteration,
                objective: gradient.objective,
            };
            if !seen.objective.is_finite() {
                return Err(ConvexReluError::Diverged("learning rate"));
            }
            if observe(seen).is_break() {
                break;
            }
            let (hidden, output) = (network.hidden().to_owned(), network.output().to_vec());
            let rate = self.learning_rate;
            velocity.0 = &velocity.0 * self.momentum - gradient.hidden * rate;
            for (v, g) in velocity.1.iter_mut().zip(&gradient.output) {
                *v = self.momentum * *v - rate * g;
            }
            let output = output.iter().zip(&velocity.1).map(|(a, v)| a + v).collect();
            network = TwoLayerRelu::from_parts(hidden + &velocity.0, output, problem.has_bias());
        }
        if network.objective(problem)?.is_finite() {
            Ok(network)
        } else {
            Err(ConvexReluError::Diverged("learning rate"))
        }
    }

    /// The design matrix of the batch, and its labels.
    fn batch(
        &self,
        problem: &ConvexReluProblem,
        network: &TwoLayerRelu,
        batch: &[usize],
    ) -> Result<(Mat<f64>, Vec<f64>), ConvexReluError> {
        let design = problem.design();
        let labels: Vec<f64> = batch.iter().map(|&k| problem.labels()[k]).collect();
        let Some(attack) = self.attack else {
            let x = Mat::from_fn(batch.len(), design.ncols(), |k, j| design[(batch[k], j)]);
            return Ok((x, labels));
        };
        let features = Mat::from_fn(batch.len(), problem.features(), |k, j| {
            design[(batch[k], j)]
        });
        let examples = DenseExamples::from_matrix(features, labels)?;
        let moved = attack.perturb(network, &examples, problem.loss())?;
        let x = with_bias(moved.features(), problem.has_bias());
        Ok((x, moved.labels().to_vec()))
    }
}

/// Of the objective, with the loss of the batch scaled to that of all examples.
struct Gradient {
    objective: f64,
    /// `[d, m]`.
    hidden: Mat<f64>,
    /// `[m]`.
    output: Vec<f64>,
}

impl Gradient {
    fn new(
        problem: &ConvexReluProblem,
        network: &TwoLayerRelu,
        x: &Mat<f64>,
        labels: &[f64],
    ) -> Self {
        let beta = problem.beta();
        let scale = problem.len() as f64 / labels.len() as f64;
        let heights = x * network.hidden(); // [batch, m]
        let alpha = network.output();
        let (mut output, mut slopes) = (vec![0.0; alpha.len()], Vec::with_capacity(labels.len()));
        let mut objective = 0.0;
        for (k, &label) in labels.iter().enumerate() {
            let f = alpha
                .iter()
                .enumerate()
                .map(|(j, a)| a * heights[(k, j)].max(0.0))
                .sum::<f64>();
            objective += scale * problem.loss().value(f, label);
            slopes.push(scale * problem.loss().slope(f, label));
        }
        let through = Mat::from_fn(labels.len(), alpha.len(), |k, j| {
            if heights[(k, j)] > 0.0 {
                slopes[k] * alpha[j]
            } else {
                0.0
            }
        });
        for (j, out) in output.iter_mut().enumerate() {
            let loss = |(k, slope): (usize, &f64)| slope * heights[(k, j)].max(0.0);
            *out = beta * alpha[j] + slopes.iter().enumerate().map(loss).sum::<f64>();
        }
        let squared: f64 =
            network.hidden().squared_norm_l2() + alpha.iter().map(|a| a * a).sum::<f64>();
        Self {
            objective: objective + 0.5 * beta * squared,
            hidden: x.transpose() * through + network.hidden() * beta,
            output,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Loss;
    use super::*;

    #[test]
    fn the_gradient_is_that_of_the_objective() {
        let rows: Vec<Vec<f64>> = (0..7)
            .map(|k| {
                (0..3)
                    .map(|j| ((k * 5 + j * 3) % 7) as f64 / 3.0 - 1.0)
                    .collect()
            })
            .collect();
        let labels: Vec<f64> = (0..7)
            .map(|k| if k % 3 == 0 { 1.0 } else { -1.0 })
            .collect();
        let examples = DenseExamples::new(&rows, &labels).unwrap();
        for loss in [Loss::Squared, Loss::Hinge, Loss::BinaryCrossEntropy] {
            let problem = ConvexReluProblem::new(&examples, loss, 0.3, true).unwrap();
            let network = BackPropagation::new(5, 0.01, 0)
                .train(&problem, |_| ControlFlow::Continue(()))
                .unwrap();
            let x = problem.design().to_owned();
            let gradient = Gradient::new(&problem, &network, &x, &labels);
            let objective = network.objective(&problem).unwrap();
            assert!((gradient.objective - objective).abs() < 1e-12);
            let h = 1e-6;
            let moved = |i: usize, j: usize, by: f64| {
                let mut hidden = network.hidden().to_owned();
                hidden[(i, j)] += by;
                TwoLayerRelu::from_parts(hidden, network.output().to_vec(), true)
                    .objective(&problem)
                    .unwrap()
            };
            for (i, j) in [(0, 0), (3, 2), (1, 4)] {
                let slope = (moved(i, j, h) - moved(i, j, -h)) / (2.0 * h);
                assert!((slope - gradient.hidden[(i, j)]).abs() < 1e-6, "{loss:?}");
            }
            let moved = |j: usize, by: f64| {
                let mut output = network.output().to_vec();
                output[j] += by;
                TwoLayerRelu::from_parts(network.hidden().to_owned(), output, true)
                    .objective(&problem)
                    .unwrap()
            };
            for j in [0, 3] {
                let slope = (moved(j, h) - moved(j, -h)) / (2.0 * h);
                assert!((slope - gradient.output[j]).abs() < 1e-6, "{loss:?}");
            }
        }
    }

    #[test]
    fn batches_are_unbiased_and_settings_checked() {
        let rows: Vec<[f64; 1]> = (0..6).map(|k| [f64::from(k) - 2.5]).collect();
        let labels = [1.0, -1.0, 1.0, -1.0, 1.0, -1.0];
        let examples = DenseExamples::new(&rows, &labels).unwrap();
        let problem = ConvexReluProblem::new(&examples, Loss::Squared, 0.1, true).unwrap();
        let start = BackPropagation::new(4, 0.01, 0);
        let network = start
            .train(&problem, |_| ControlFlow::Continue(()))
            .unwrap();
        let x = problem.design();
        let whole = Gradient::new(&problem, &network, &x.to_owned(), &labels);
        let mut mean = Mat::<f64>::zeros(2, 4);
        for k in 0..3 {
            let part = x.subrows(2 * k, 2).to_owned();
            let gradient = Gradient::new(&problem, &network, &part, &labels[2 * k..2 * k + 2]);
            mean += gradient.hidden * (1.0 / 3.0);
        }
        assert!((mean - whole.hidden).norm_max() < 1e-12);

        let told = |descent: BackPropagation| {
            descent
                .train(&problem, |_| ControlFlow::Continue(()))
                .unwrap_err()
                .to_string()
        };
        assert!(told(start.with_batch_size(7)).contains("batch size is 7"));
        assert!(told(start.with_momentum(1.0)).contains("momentum is 1"));
        assert!(told(BackPropagation::new(0, 0.1, 1)).contains("hidden units is 0"));
        assert!(told(BackPropagation::new(4, f64::NAN, 1)).contains("learning rate is NaN"));
        assert!(told(BackPropagation::new(4, 1e6, 100)).contains("lower the learning rate"));
        assert!(told(start.with_attack(Attack::pgd(-1.0))).contains("radius of the attack is -1"));
    }
}
