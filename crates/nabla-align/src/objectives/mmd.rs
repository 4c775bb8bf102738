//! MMD: features with the same distribution in every domain, as far as Gaussian kernels can tell.
//!
//! ```text
//! k(x, y) = Σ_g exp(−g ‖x − y‖²)
//! MMD²(X, Y) = mean k(X, X) + mean k(Y, Y) − 2 mean k(X, Y)
//! L = 1/E Σ_e L_e + γ · mean over pairs (e, f) of MMD²(Z_e, Z_f)
//! ```
//!
//! Source: Gretton et al., *A Kernel Two-Sample Test*, 2012; Li et al., *Domain Generalization with Adversarial Feature
//! Learning*, 2018, in the form of DomainBed.

use burn::tensor::Tensor;
use nabla_base::range;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::objective::{DomainPlan, DomainStep, Objective, ObjectiveError, check_domains};
use crate::objectives::coral::with_distances;
use crate::search::{Draw, Searched};

/// The objective; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mmd {
    /// `γ`. Default 1.
    pub penalty: f64,
    /// `g` of each kernel. Default 0.001, 0.01, …, 1000.
    pub kernels: Vec<f64>,
}

impl Default for Mmd {
    fn default() -> Self {
        Self {
            penalty: 1.0,
            kernels: vec![0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0],
        }
    }
}

impl Mmd {
    /// The mean of the kernel over all pairs, `[1]`.
    ///
    /// - `x`, `y`: `[examples, d]`
    fn kernel(&self, x: &Tensor<2>, y: &Tensor<2>) -> Tensor<1> {
        let norms = |x: &Tensor<2>| x.clone().square().sum_dim(1); // [examples, 1]
        let product = x.clone().matmul(y.clone().transpose());
        let distances = norms(y).transpose() - product * 2.0 + norms(x); // [examples of x, of y]
        // Rounding may make the distance of a point to itself negative.
        let distances = distances.clamp_min(1e-30);
        let terms = self
            .kernels
            .iter()
            .map(|&g| (distances.clone() * -g).exp().mean());
        Tensor::cat(terms.collect(), 0).sum()
    }

    fn distance(&self, x: &Tensor<2>, y: &Tensor<2>) -> Tensor<1> {
        self.kernel(x, x) + self.kernel(y, y) - self.kernel(x, y) * 2.0
    }
}

impl<M: Classifier> Objective<M> for Mmd {
    fn name(&self) -> &str {
        "mmd"
    }

    fn check(&self, _model: &M, plan: &DomainPlan) -> Result<(), ObjectiveError> {
        check_domains("MMD", plan.batches.len())?;
        range::not_negative("MMD's penalty", self.penalty)?;
        range::at_least("number of MMD's kernels", self.kernels.len(), 1)?;
        for &kernel in &self.kernels {
            range::positive("kernel of MMD", kernel)?;
        }
        Ok(())
    }

    fn loss(&mut self, step: &mut DomainStep<'_, M>) -> Result<Tensor<1>, ObjectiveError> {
        let passes = step.apart();
        Ok(with_distances(&passes, self.penalty, |x, y| {
            self.distance(x, y)
        }))
    }

    fn search(&self) -> Vec<Searched> {
        vec![Searched::new("penalty", Draw::Power(-1.0, 1.0))]
    }

    fn settings(&self) -> Value {
        json!(self)
    }
}
