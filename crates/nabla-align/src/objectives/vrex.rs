//! V-REx: risks that are the same in every domain.
//!
//! ```text
//! L = L̄ + λ · 1/E Σ_e (L_e − L̄)²,     L̄ = 1/E Σ_e L_e
//! ```
//!
//! `λ` is 1 until the step `anneal_steps` and `penalty` from then on, where the optimizer restarts.
//!
//! Source: Krueger et al., *Out-of-Distribution Generalization via Risk Extrapolation (REx)*, 2020, arXiv 2003.00688, in
//! the form of DomainBed.

use burn::tensor::Tensor;
use nabla_base::range;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::objective::{DomainPlan, DomainStep, Objective, ObjectiveError, check_domains};
use crate::search::{Draw, Searched};

/// The objective; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vrex {
    /// `λ` after the annealing. Default 10.
    pub penalty: f64,
    /// The step from which on it counts. Default 500.
    pub anneal_steps: usize,
}

impl Default for Vrex {
    fn default() -> Self {
        Self {
            penalty: 10.0,
            anneal_steps: 500,
        }
    }
}

impl<M: Classifier> Objective<M> for Vrex {
    fn name(&self) -> &str {
        "vrex"
    }

    fn check(&self, _model: &M, plan: &DomainPlan) -> Result<(), ObjectiveError> {
        check_domains("V-REx", plan.batches.len())?;
        Ok(range::not_negative("V-REx' penalty", self.penalty)?)
    }

    fn loss(&mut self, step: &mut DomainStep<'_, M>) -> Result<Tensor<1>, ObjectiveError> {
        let weight = step.annealed(self.anneal_steps, self.penalty)?;
        let losses = step.together().iter().map(|pass| pass.loss()).collect();
        let losses = Tensor::cat(losses, 0); // [domains]
        let mean = losses.clone().mean();
        let variance = (losses - mean.clone()).square().mean();
        Ok(mean + variance * weight)
    }

    fn search(&self) -> Vec<Searched> {
        vec![
            Searched::new("penalty", Draw::Power(-1.0, 5.0)),
            Searched::new("anneal_steps", Draw::PowerOfSteps(0.0, 4.0)),
        ]
    }

    fn settings(&self) -> Value {
        json!(self)
    }
}
