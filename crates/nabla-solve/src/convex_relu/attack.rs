//! Perturbations that an adversary finds: FGSM and PGD in the ℓ∞ ball.
//!
//! ```text
//! Δ ← clip(Δ + γ sgn(∇_x ℓ(f(x + Δ), y)), −ε, ε)
//! ```
//!
//! once with `γ = ε` is FGSM (Goodfellow, Shlens, Szegedy, *Explaining and Harnessing Adversarial Examples*,
//! ICLR 2015, arXiv 1412.6572), more often PGD (Madry et al., *Towards Deep Learning Models Resistant to
//! Adversarial Attacks*, ICLR 2018, arXiv 1706.06083). For the classification losses, the direction is the
//! one that lowers `y f`, which is that of the loss wherever the loss has a slope; a satisfied hinge would
//! stop the attack.

use faer::Mat;
use nabla_base::range;
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::error::ConvexReluError;
use super::loss::Loss;
use super::network::TwoLayerRelu;
use super::problem::DenseExamples;

/// An attack and its settings; see the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attack {
    /// `ε`, the maximum change of a feature.
    pub epsilon: f64,
    /// The number of steps.
    pub steps: usize,
    /// `γ`, the change of a feature in one step.
    pub step_size: f64,
    /// The seed of a random start, uniform in the ball; `None` to start from the examples themselves.
    pub random_start: Option<u64>,
}

impl Attack {
    /// FGSM: one step of `epsilon`.
    pub fn fgsm(epsilon: f64) -> Self {
        Self {
            epsilon,
            steps: 1,
            step_size: epsilon,
            random_start: None,
        }
    }

    /// PGD of 40 steps of `epsilon/30`.
    pub fn pgd(epsilon: f64) -> Self {
        Self {
            epsilon,
            steps: 40,
            step_size: epsilon / 30.0,
            random_start: None,
        }
    }

    /// Sets a random start.
    #[must_use]
    pub fn with_random_start(mut self, seed: u64) -> Self {
        self.random_start = Some(seed);
        self
    }

    pub(super) fn check(&self) -> Result<(), ConvexReluError> {
        range::not_negative("radius of the attack", self.epsilon)?;
        if self.epsilon > 0.0 {
            range::positive("step size of the attack", self.step_size)?;
        }
        Ok(range::at_least(
            "number of steps of the attack",
            self.steps,
            1,
        )?)
    }

    /// The perturbed examples to which the attack on `network` leads, with their labels.
    ///
    /// # Errors
    /// If a setting is out of range, the examples have another number of features or a label that
    /// the loss is not defined for.
    pub fn perturb(
        &self,
        network: &TwoLayerRelu,
        examples: &DenseExamples,
        loss: Loss,
    ) -> Result<DenseExamples, ConvexReluError> {
        self.check()?;
        loss.check(examples.labels())?;
        network.check_features(examples.features().ncols())?;
        let x = examples.features();
        let (n, features) = (x.nrows(), x.ncols());
        let mut moved = x.to_owned();
        if let Some(seed) = self.random_start {
            let mut noise = SeededNoise::new(seed, 0);
            for k in 0..n {
                for j in 0..features {
                    moved[(k, j)] += self.epsilon * (2.0 * noise.random::<f64>() - 1.0);
                }
            }
        }
        for _ in 0..self.steps {
            let gradient = network.input_gradient(moved.as_ref())?;
            let upwards = self.signs(network, &moved, examples.labels(), loss)?;
            for k in 0..n {
                for j in 0..features {
                    let slope = upwards[k] * gradient[(k, j)];
                    if slope != 0.0 {
                        let value = moved[(k, j)] + self.step_size * slope.signum();
                        let (low, high) = (x[(k, j)] - self.epsilon, x[(k, j)] + self.epsilon);
                        moved[(k, j)] = value.clamp(low, high);
                    }
                }
            }
        }
        DenseExamples::from_matrix(moved, examples.labels().to_vec())
    }

    /// The direction of the output in which the loss rises.
    fn signs(
        &self,
        network: &TwoLayerRelu,
        x: &Mat<f64>,
        labels: &[f64],
        loss: Loss,
    ) -> Result<Vec<f64>, ConvexReluError> {
        Ok(match loss {
            Loss::Squared => network
                .outputs(x.as_ref())?
                .iter()
                .zip(labels)
                .map(|(output, label)| if output >= label { 1.0 } else { -1.0 })
                .collect(),
            Loss::Hinge | Loss::BinaryCrossEntropy => labels.iter().map(|y| -y).collect(),
        })
    }
}
