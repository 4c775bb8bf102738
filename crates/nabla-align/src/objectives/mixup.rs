//! Mixup between domains: mixtures of the examples of two domains, with both labels.
//!
//! ```text
//! π ← a random order of the domains;  for each i, j = i + 1 (the first after the last):  λ ← Beta(α, α)
//!   x = λ x_πi + (1 − λ) x_πj
//!   L += 1/E [ λ ℓ(θ; x, y_πi) + (1 − λ) ℓ(θ; x, y_πj) ]
//! ```
//!
//! If two domains have batches of different sizes, the first examples of the larger one are mixed.
//!
//! Sources: Zhang et al., *mixup: Beyond Empirical Risk Minimization*, 2018, arXiv 1710.09412; Yan et al., *Improve
//! Unsupervised Domain Adaptation with Mixup Training*, 2020, arXiv 2001.00677; in the form of DomainBed.

use burn::tensor::Tensor;
use nabla_base::range;
use nabla_train::classification::rightly;
use nabla_train::classifier::Classifier;
use nabla_train::order::permutation;
use rand_distr::{Beta, Distribution};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::objective::{DomainBatch, DomainPlan, DomainStep, Objective, ObjectiveError};
use crate::search::{Draw, Searched};

/// The objective; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mixup {
    /// `α` of the distribution of the shares. Default 0.2.
    pub alpha: f64,
}

impl Default for Mixup {
    fn default() -> Self {
        Self { alpha: 0.2 }
    }
}

/// A mixture of two domains.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The places of both.
    pub domains: [usize; 2],
    /// `λ`, the share of the first.
    pub share: f64,
}

/// The loss of mixtures, `[1]`.
///
/// # Errors
/// Never, with places of domains of the step.
pub fn mixed<M: Classifier>(step: &mut DomainStep<'_, M>, pairs: &[Pair]) -> Tensor<1> {
    let domains = step.domains().len().max(1);
    let (mut terms, mut right, mut examples) = (Vec::new(), 0, 0);
    for pair in pairs {
        let [first, second] = pair.domains.map(|i| &step.domains()[i]);
        let count = first.labels.len().min(second.labels.len());
        let head = |batch: &DomainBatch| {
            let [_, width] = batch.input.dims();
            DomainBatch {
                input: batch.input.clone().slice([0..count, 0..width]),
                labels: batch.labels[..count].to_vec(),
            }
        };
        let (first, second) = (head(first), head(second));
        let mixture = DomainBatch {
            input: first.input * pair.share + second.input * (1.0 - pair.share),
            labels: first.labels,
        };
        let pass = step.pass_of(step.model(), &mixture);
        let other = step.targets_of(&second.labels, &pass.logits);
        // A mixture counts as what it is more of.
        let labels = match pair.share >= 0.5 {
            true => &mixture.labels,
            false => &second.labels,
        };
        right += rightly(pass.logits.clone().without_autodiff(), labels);
        examples += count;
        let mut also = pass.clone();
        also.targets = other;
        terms.push(pass.loss() * pair.share + also.loss() * (1.0 - pair.share));
    }
    step.count(right, examples);
    Tensor::cat(terms, 0).sum() * (1.0 / domains as f64)
}

impl<M: Classifier> Objective<M> for Mixup {
    fn name(&self) -> &str {
        "mixup"
    }

    fn check(&self, _model: &M, _plan: &DomainPlan) -> Result<(), ObjectiveError> {
        Ok(range::positive("mixup's alpha", self.alpha)?)
    }

    fn loss(&mut self, step: &mut DomainStep<'_, M>) -> Result<Tensor<1>, ObjectiveError> {
        let count = step.domains().len();
        let order = permutation(count, step.noise());
        let beta = Beta::new(self.alpha, self.alpha)
            .map_err(|error| ObjectiveError::Own(Box::new(error)))?;
        let pairs: Vec<Pair> = (0..count)
            .map(|i| Pair {
                domains: [order[i], order[(i + 1) % count]],
                share: beta.sample(step.noise()),
            })
            .collect();
        Ok(mixed(step, &pairs))
    }

    fn search(&self) -> Vec<Searched> {
        vec![Searched::new("alpha", Draw::Power(-1.0, 1.0))]
    }

    fn settings(&self) -> Value {
        json!(self)
    }
}
