//! SAGM: the gradient at the worst weights nearby, aligned with the gradient here.
//!
//! ```text
//! g = ∇L(θ),   θ_p = θ + (ρ/‖g‖ − α) g
//! gradient of the step:  ½ g + ½ ∇L(θ_p)
//! ```
//!
//! To first order, `L(θ_p) = L(θ + ρ g/‖g‖) − α ⟨∇L(θ + ρ g/‖g‖), g⟩`: the step makes both losses small and their
//! gradients agree, without a second derivative.
//!
//! Source: Wang, Zhang, Lei, Zhang, *Sharpness-Aware Gradient Matching for Domain Generalization*, 2023, arXiv 2303.10353.

use nabla_base::range;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::objective::{DomainPlan, DomainStep, Objective, ObjectiveError};
use crate::objectives::sam::Ascent;
use crate::search::{Draw, Searched};

/// The objective; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sagm {
    /// `ρ`. Default 0.05.
    pub rho: f64,
    /// `α`. Default 0.001.
    pub alpha: f64,
}

impl Default for Sagm {
    fn default() -> Self {
        Self {
            rho: 0.05,
            alpha: 1e-3,
        }
    }
}

impl<M: Classifier> Objective<M> for Sagm {
    fn name(&self) -> &str {
        "sagm"
    }

    fn check(&self, _model: &M, _plan: &DomainPlan) -> Result<(), ObjectiveError> {
        range::positive("SAGM's rho", self.rho)?;
        Ok(range::not_negative("SAGM's alpha", self.alpha)?)
    }

    fn step(&mut self, step: &mut DomainStep<'_, M>) -> Result<(), ObjectiveError> {
        let ascent = Ascent::of(step)?;
        let there = ascent.aligned(self.rho, self.alpha, step)?; // at θ_p
        let gradient = (ascent.slope.gradient.clone() + there) * 0.5;
        let gradients = ascent.landscape.layout().to_gradients(gradient)?;
        step.learner()
            .contribute(gradients, Some(ascent.slope.loss))?;
        Ok(())
    }

    fn search(&self) -> Vec<Searched> {
        vec![
            Searched::new("rho", Draw::OneOf(&[0.01, 0.02, 0.05, 0.1])),
            Searched::new("alpha", Draw::Power(-4.0, -2.0)),
        ]
    }

    fn settings(&self) -> Value {
        json!(self)
    }
}
