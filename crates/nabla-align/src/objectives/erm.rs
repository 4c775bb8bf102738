//! Empirical risk minimisation: the mean loss of all examples, whatever their domain.
//!
//! ```text
//! L = 1/n Σ_i ℓ(θ; x_i, y_i)
//! ```
//!
//! With tuned models and honest model selection it is hard to beat: Gulrajani, Lopez-Paz, *In Search of Lost Domain
//! Generalization*, 2021, arXiv 2007.01434 (DomainBed).

use burn::tensor::Tensor;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};

use crate::objective::{DomainStep, Objective, ObjectiveError};

/// The objective; see the [module documentation](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erm {}

impl<M: Classifier> Objective<M> for Erm {
    fn name(&self) -> &str {
        "erm"
    }

    fn loss(&mut self, step: &mut DomainStep<'_, M>) -> Result<Tensor<1>, ObjectiveError> {
        Ok(step.pooled().loss())
    }
}
