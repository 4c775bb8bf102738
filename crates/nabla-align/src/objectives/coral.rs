//! CORAL: features whose mean and covariance are the same in every domain.
//!
//! ```text
//! L = 1/E Σ_e L_e + γ · mean over pairs (e, f) of [ mean (μ_e − μ_f)² + mean (C_e − C_f)² ]
//! ```
//!
//! `μ_e` and `C_e` (with `1/(n − 1)`) are of the input of the last layer.
//!
//! Source: Sun, Saenko, *Deep CORAL: Correlation Alignment for Deep Domain Adaptation*, 2016, arXiv 1607.01719, in the
//! form of DomainBed, which has the means besides.

use burn::tensor::Tensor;
use nabla_base::range;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::objective::{DomainPlan, DomainStep, Objective, ObjectiveError, Pass, check_domains};
use crate::search::{Draw, Searched};

/// The objective; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coral {
    /// `γ`. Default 1.
    pub penalty: f64,
}

impl Default for Coral {
    fn default() -> Self {
        Self { penalty: 1.0 }
    }
}

/// The distance between the means and covariances of two sets of features, `[1]`.
///
/// - `x`, `y`: `[examples, d]`
fn distance(x: &Tensor<2>, y: &Tensor<2>) -> Tensor<1> {
    let moments = |x: &Tensor<2>| {
        let [examples, _] = x.dims();
        let mean = x.clone().mean_dim(0); // [1, d]
        let centred = x.clone() - mean.clone();
        let rest = 1.0 / (examples.max(2) - 1) as f64;
        (mean, centred.clone().transpose().matmul(centred) * rest) // [d, d]
    };
    let ((mean_x, covariance_x), (mean_y, covariance_y)) = (moments(x), moments(y));
    (mean_x - mean_y).square().mean() + (covariance_x - covariance_y).square().mean()
}

/// The mean loss of the domains, and a penalty of the mean distance between the features of two of them, `[1]`.
pub(crate) fn with_distances(
    passes: &[Pass],
    penalty: f64,
    distance: impl Fn(&Tensor<2>, &Tensor<2>) -> Tensor<1>,
) -> Tensor<1> {
    let losses = passes.iter().map(Pass::loss).collect();
    let loss = Tensor::cat(losses, 0).mean();
    let pairs = (0..passes.len()).flat_map(|i| (i + 1..passes.len()).map(move |j| (i, j)));
    let distances = pairs.map(|(i, j)| distance(&passes[i].features, &passes[j].features));
    let distances: Vec<Tensor<1>> = distances.collect();
    match distances.is_empty() {
        true => loss,
        false => loss + Tensor::cat(distances, 0).mean() * penalty,
    }
}

impl<M: Classifier> Objective<M> for Coral {
    fn name(&self) -> &str {
        "coral"
    }

    fn check(&self, _model: &M, plan: &DomainPlan) -> Result<(), ObjectiveError> {
        check_domains("CORAL", plan.batches.len())?;
        Ok(range::not_negative("CORAL's penalty", self.penalty)?)
    }

    fn loss(&mut self, step: &mut DomainStep<'_, M>) -> Result<Tensor<1>, ObjectiveError> {
        Ok(with_distances(&step.apart(), self.penalty, distance))
    }

    fn search(&self) -> Vec<Searched> {
        vec![Searched::new("penalty", Draw::Power(-1.0, 1.0))]
    }

    fn settings(&self) -> Value {
        json!(self)
    }
}
