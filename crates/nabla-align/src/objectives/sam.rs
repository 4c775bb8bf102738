//! SAM: the gradient at the worst weights nearby, which leads to flat minima.
//!
//! ```text
//! g = ∇L(θ),   ε = ρ g/‖g‖                    adaptive:  ε = ρ θ²∘g/‖|θ|∘g‖
//! gradient of the step:  ∇L(θ + ε)
//! ```
//!
//! `L` is the mean loss of all examples, and the norm that of all weights together. Batch normalisations do not count the
//! second pass in their statistics. Where the gradient is 0, the step is plain.
//!
//! Sources: Foret, Kleiner, Mobahi, Neyshabur, *Sharpness-Aware Minimization for Efficiently Improving Generalization*,
//! 2021, arXiv 2010.01412; Kwon et al., *ASAM*, 2021, arXiv 2102.11600 (adaptive).

use burn::tensor::Tensor;
use nabla_base::range;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::landscape::{Landscape, Slope, norm};
use crate::objective::{DomainPlan, DomainStep, Objective, ObjectiveError};
use crate::search::{Draw, Searched};

/// The objective; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sam {
    /// `ρ`. Default 0.05.
    pub rho: f64,
    /// Whether weights move in proportion to their size. Default no.
    pub adaptive: bool,
}

impl Default for Sam {
    fn default() -> Self {
        Self {
            rho: 0.05,
            adaptive: false,
        }
    }
}

/// The gradient of all examples of a step at the weights, and what is needed to go on from there.
pub(crate) struct Ascent<M> {
    pub(crate) landscape: Landscape<M>,
    pub(crate) slope: Slope,
    /// `‖g‖`.
    pub(crate) norm: f64,
}

impl<M: Classifier> Ascent<M> {
    pub(crate) fn of(step: &mut DomainStep<'_, M>) -> Result<Self, ObjectiveError> {
        let landscape = Landscape::of(step.model())?;
        let loss = step.pooled().loss();
        let slope = landscape.slope(|_| loss)?;
        let norm = norm(&slope.gradient)?;
        Ok(Self {
            landscape,
            slope,
            norm,
        })
    }

    /// The gradient of the step at `θ + offset`.
    pub(crate) fn at(
        &self,
        offset: Tensor<1>,
        step: &DomainStep<'_, M>,
    ) -> Result<Slope, ObjectiveError> {
        let batch = step.pooled_batch();
        self.landscape
            .slope_at(offset, |model| step.pass_of(model, &batch).loss())
    }

    /// The gradient of the step at `θ + (ρ/‖g‖ − α) g`, as [SAGM](super::sagm) takes it.
    pub(crate) fn aligned(
        &self,
        rho: f64,
        alpha: f64,
        step: &DomainStep<'_, M>,
    ) -> Result<Tensor<1>, ObjectiveError> {
        let offset = self.offset(rho) - self.slope.gradient.clone() * alpha;
        Ok(self.at(offset, step)?.gradient)
    }

    /// `ρ g/‖g‖`, or no step where there is no direction.
    pub(crate) fn offset(&self, rho: f64) -> Tensor<1> {
        let factor = match self.norm > 0.0 {
            true => rho / self.norm,
            false => 0.0,
        };
        self.slope.gradient.clone() * factor
    }
}

impl<M: Classifier> Objective<M> for Sam {
    fn name(&self) -> &str {
        "sam"
    }

    fn check(&self, _model: &M, _plan: &DomainPlan) -> Result<(), ObjectiveError> {
        Ok(range::positive("SAM's rho", self.rho)?)
    }

    fn step(&mut self, step: &mut DomainStep<'_, M>) -> Result<(), ObjectiveError> {
        let ascent = Ascent::of(step)?;
        let offset = match self.adaptive {
            false => ascent.offset(self.rho),
            true => {
                let weights = ascent.landscape.weights();
                let scaled = weights.clone().abs() * ascent.slope.gradient.clone();
                let length = norm(&scaled)?;
                let factor = if length > 0.0 { self.rho / length } else { 0.0 };
                scaled * weights.clone().abs() * factor
            }
        };
        let found = ascent.at(offset, step)?;
        let gradients = ascent.landscape.layout().to_gradients(found.gradient)?;
        step.learner()
            .contribute(gradients, Some(ascent.slope.loss))?;
        Ok(())
    }

    fn search(&self) -> Vec<Searched> {
        vec![Searched::new("rho", Draw::OneOf(&[0.01, 0.02, 0.05, 0.1]))]
    }

    fn settings(&self) -> Value {
        json!(self)
    }
}
