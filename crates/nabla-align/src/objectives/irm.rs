//! Invariant risk minimisation: no domain would gain if its scores were scaled.
//!
//! ```text
//! L = 1/E Σ_e [ L_e + λ D_e ],     D_e = ∂L_e¹(s·logits)/∂s · ∂L_e²(s·logits)/∂s   at s = 1
//! ```
//!
//! The square of the derivative is estimated without bias from two halves of the batch (every other example). For the
//! softmax `p` of the scores `a`, the derivative is `1/n Σ_i (p_i − y_i)·a_i`: one pass is enough.
//!
//! `λ` is 1 until the step `anneal_steps` and `penalty` from then on. The optimizer restarts there, since Adam does not
//! like the jump of the gradient.
//!
//! Source: Arjovsky, Bottou, Gulrajani, Lopez-Paz, *Invariant Risk Minimization*, 2019, arXiv 1907.02893, in the form of
//! DomainBed.

use burn::tensor::activation::softmax;
use burn::tensor::{Tensor, s};
use nabla_base::range;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::objective::{DomainPlan, DomainStep, Objective, ObjectiveError, Pass};
use crate::search::{Draw, Searched};

/// The objective; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Irm {
    /// `λ` after the annealing. Default 100.
    pub penalty: f64,
    /// The step from which on it counts. Default 500.
    pub anneal_steps: usize,
}

impl Default for Irm {
    fn default() -> Self {
        Self {
            penalty: 100.0,
            anneal_steps: 500,
        }
    }
}

/// `∂L(s·logits)/∂s` at `s = 1`, `[1]`, of every other example.
fn scale_slope(pass: &Pass, from: i64) -> Tensor<1> {
    let every_other = |rows: &Tensor<2>| rows.clone().slice(s![from..;2, ..]); // [examples/2, classes]
    let (logits, targets) = (every_other(&pass.logits), every_other(&pass.targets));
    let [examples, _] = logits.dims();
    let slope = (softmax(logits.clone(), 1) - targets) * logits;
    slope.sum() * (1.0 / examples.max(1) as f64)
}

impl<M: Classifier> Objective<M> for Irm {
    fn name(&self) -> &str {
        "irm"
    }

    fn check(&self, _model: &M, _plan: &DomainPlan) -> Result<(), ObjectiveError> {
        Ok(range::not_negative("IRM's penalty", self.penalty)?)
    }

    fn loss(&mut self, step: &mut DomainStep<'_, M>) -> Result<Tensor<1>, ObjectiveError> {
        let weight = step.annealed(self.anneal_steps, self.penalty)?;
        let passes = step.together();
        let terms = passes
            .iter()
            .map(|pass| pass.loss() + scale_slope(pass, 0) * scale_slope(pass, 1) * weight);
        let loss = Tensor::cat(terms.collect(), 0).mean();
        Ok(loss)
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
