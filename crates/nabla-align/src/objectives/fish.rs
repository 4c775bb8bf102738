//! Fish: gradients of the domains with large inner products, by steps within a step.
//!
//! ```text
//! θ̃ ← θ
//! for each domain e:  θ̃ ← optimizer(θ̃, ∇L_e(θ̃))          the optimizer keeps its state over all steps
//! θ ← θ + ε (θ̃ − θ)
//! ```
//!
//! To first order in the rate, the differences `θ̃ − θ` rise along the mean loss and along the inner products
//! `∇L_e · ∇L_f`, whose own gradient would need second derivatives. The optimizer of the training is that of the inner
//! steps.
//!
//! Source: Shi et al., *Gradient Matching for Domain Generalization*, 2021, arXiv 2104.09937, algorithm 2, in the form of
//! DomainBed.

use burn::optim::GradientsParams;
use nabla_base::range;
use nabla_grad::flat::ParameterLayout;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::objective::{DomainPlan, DomainStep, Objective, ObjectiveError, number};
use crate::search::{Draw, Searched};

/// The objective; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fish {
    /// `ε`, the share of the way that is gone. Default 0.5.
    pub meta_rate: f64,
}

impl Default for Fish {
    fn default() -> Self {
        Self { meta_rate: 0.5 }
    }
}

impl<M: Classifier> Objective<M> for Fish {
    fn name(&self) -> &str {
        "fish"
    }

    fn check(&self, _model: &M, _plan: &DomainPlan) -> Result<(), ObjectiveError> {
        Ok(range::positive("Fish' meta rate", self.meta_rate)?)
    }

    fn step(&mut self, step: &mut DomainStep<'_, M>) -> Result<(), ObjectiveError> {
        let layout = ParameterLayout::trainable(step.model())?;
        let before = layout.flatten_parameters(step.model())?; // θ
        let batches = step.domains().to_vec();
        let share = 1.0 / batches.len().max(1) as f32;
        let mut passes = Vec::with_capacity(batches.len());
        for batch in &batches {
            let pass = step.pass_of(step.model(), batch);
            let loss = pass.loss();
            let told = number(&loss)?;
            let gradients = GradientsParams::from_grads(loss.backward(), step.model());
            // The history has the mean of the losses on the way.
            step.learner().contribute(gradients, Some(told * share))?;
            step.learner().apply()?;
            passes.push(pass);
        }
        step.tell(&passes);
        let after = layout.flatten_parameters(step.model())?; // θ̃
        let weights = before.clone() + (after - before) * self.meta_rate;
        step.learner().set_weights(weights)?;
        Ok(())
    }

    fn search(&self) -> Vec<Searched> {
        vec![Searched::new("meta_rate", Draw::OneOf(&[0.05, 0.1, 0.5]))]
    }

    fn settings(&self) -> Value {
        json!(self)
    }
}
