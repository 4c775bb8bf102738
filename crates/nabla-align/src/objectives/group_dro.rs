//! Group DRO: the loss of a mixture of the domains, in which those with a high loss weigh more and more.
//!
//! ```text
//! q_e ← q_e exp(η L_e),   q ← q/Σ_e q_e                at first q_e = 1
//! L = Σ_e q_e L_e
//! ```
//!
//! Source: Sagawa, Koh, Hashimoto, Liang, *Distributionally Robust Neural Networks for Group Shifts*, 2020, arXiv
//! 1911.08731, algorithm 1.

use burn::tensor::{Tensor, TensorData};
use nabla_base::range;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::objective::{DomainPlan, DomainStep, Objective, ObjectiveError, read};
use crate::search::{Draw, Searched};

/// Configuration of [`GroupDro`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupDroConfig {
    /// `η`, the step of the mixture. Default 0.01.
    pub eta: f64,
}

impl Default for GroupDroConfig {
    fn default() -> Self {
        Self { eta: 1e-2 }
    }
}

/// The objective; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct GroupDro {
    config: GroupDroConfig,
    /// `q`; empty before the first step.
    weights: Vec<f64>,
}

impl GroupDro {
    /// With equal weights.
    pub fn new(config: GroupDroConfig) -> Self {
        Self {
            config,
            weights: Vec::new(),
        }
    }

    /// `q`, the weights of the domains; empty before the first step.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }
}

impl<M: Classifier> Objective<M> for GroupDro {
    fn name(&self) -> &str {
        "group-dro"
    }

    fn check(&self, _model: &M, _plan: &DomainPlan) -> Result<(), ObjectiveError> {
        Ok(range::not_negative("GroupDRO's eta", self.config.eta)?)
    }

    fn loss(&mut self, step: &mut DomainStep<'_, M>) -> Result<Tensor<1>, ObjectiveError> {
        let losses = step.apart().iter().map(|pass| pass.loss()).collect();
        let losses = Tensor::<1>::cat(losses, 0); // [domains]
        let told = read(losses.clone())?;
        if self.weights.is_empty() {
            self.weights = vec![1.0; told.len()];
        }
        // A common factor of all weights doesn't count: the largest power is 1, so that none overflows.
        let highest = told.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for (weight, &loss) in self.weights.iter_mut().zip(&told) {
            *weight *= (self.config.eta * f64::from(loss - highest)).exp();
        }
        let sum: f64 = self.weights.iter().sum();
        self.weights.iter_mut().for_each(|weight| *weight /= sum);
        let weights: Vec<f32> = self.weights.iter().map(|&w| w as f32).collect();
        let weights = TensorData::new(weights, [told.len()]);
        let weights = Tensor::<1>::from_data(weights, &losses.device()).cast(losses.dtype());
        Ok((losses * weights).sum())
    }

    fn search(&self) -> Vec<Searched> {
        vec![Searched::new("eta", Draw::Power(-3.0, -1.0))]
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    fn state(&self) -> Result<Vec<u8>, ObjectiveError> {
        Ok(self.weights.iter().flat_map(|w| w.to_le_bytes()).collect())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), ObjectiveError> {
        let (numbers, rest) = state.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(ObjectiveError::State {
                objective: "GroupDRO",
                found: state.len(),
                expected: "8 for each domain".into(),
            });
        }
        self.weights = numbers.iter().map(|&n| f64::from_le_bytes(n)).collect();
        Ok(())
    }

    fn report(&self) -> Value {
        json!({ "domain_weights": self.weights })
    }
}
