//! IGA: gradients of all weights that are the same in every domain.
//!
//! ```text
//! L = L̄ + λ Σ_e ‖g_e − ḡ‖²,     g_e = ∇L_e(θ),  ḡ = 1/E Σ_e g_e
//! ∇L = ḡ + 2 λ Σ_e H_e (g_e − ḡ)
//! ```
//!
//! The products with the Hessians `H_e` are [differences](crate::landscape) of gradients at moved weights.
//!
//! Source: Koyama, Yamaguchi, *Out-of-Distribution Generalization with Maximal Invariant Predictor*, 2020, arXiv
//! 2008.01883, in the form of DomainBed, which adds up over the domains.

use nabla_base::range;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::landscape::{Landscape, norm};
use crate::objective::{DomainPlan, DomainStep, Objective, ObjectiveError, check_domains};
use crate::search::{Draw, Searched};

/// The objective; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Iga {
    /// `λ`. Default 1000.
    pub penalty: f64,
    /// By how much the weights are moved for a difference. Default 0.03.
    pub difference: f64,
}

impl Default for Iga {
    fn default() -> Self {
        Self {
            penalty: 1000.0,
            difference: 0.03,
        }
    }
}

impl<M: Classifier> Objective<M> for Iga {
    fn name(&self) -> &str {
        "iga"
    }

    fn check(&self, _model: &M, plan: &DomainPlan) -> Result<(), ObjectiveError> {
        check_domains("IGA", plan.batches.len())?;
        range::not_negative("IGA's penalty", self.penalty)?;
        Ok(range::positive("IGA's difference", self.difference)?)
    }

    fn step(&mut self, step: &mut DomainStep<'_, M>) -> Result<(), ObjectiveError> {
        let landscape = Landscape::of(step.model())?;
        let batches = step.domains().to_vec();
        let share = 1.0 / batches.len().max(1) as f64;
        let (slopes, passes) = landscape.slopes_of_domains(step)?;
        step.tell(&passes);
        drop(passes);
        let mut loss = slopes.iter().map(|s| f64::from(s.loss)).sum::<f64>() * share;
        let mean = slopes
            .iter()
            .map(|s| s.gradient.clone())
            .reduce(|sum, g| sum + g);
        let Some(mean) = mean.map(|sum| sum * share) else {
            return Ok(());
        };
        let mut gradient = mean.clone();
        for (batch, slope) in batches.iter().zip(&slopes) {
            let apart = slope.gradient.clone() - mean.clone();
            loss += self.penalty * norm(&apart)?.powi(2);
            let product = landscape.hessian_product(&apart, self.difference, &|model| {
                step.pass_of(model, batch).loss()
            })?;
            gradient = gradient + product * (2.0 * self.penalty);
        }
        let gradients = landscape.layout().to_gradients(gradient)?;
        step.learner().contribute(gradients, Some(loss as f32))?;
        Ok(())
    }

    fn search(&self) -> Vec<Searched> {
        vec![Searched::new("penalty", Draw::Power(1.0, 5.0))]
    }

    fn settings(&self) -> Value {
        json!(self)
    }
}
