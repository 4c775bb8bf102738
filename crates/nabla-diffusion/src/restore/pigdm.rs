//! PiGDM: guided by the pseudo-inverse of the operator.
//!
//! If the clean picture, given the noisy one, is about `N(x̂_0, r² I)`, the measurement is `N(A x̂_0, r² AAᵀ + σ_y² I)`,
//! and
//!
//! ```text
//! ∇_x ln p(y | x) = Jᵀ Aᵀ (r² AAᵀ + σ_y² I)⁻¹ (y − A x̂_0) = Jᵀ q/r²,   J = ∂x̂_0/∂x
//! q = Aᵀ (AAᵀ + (σ_y/r)² I)⁻¹ (y − A x̂_0),   r² = σ²/(1 + σ²)
//! ```
//!
//! Without noise `q = A⁺(y − A x̂_0)`. `q` comes from the singular values if they are known, otherwise from conjugate
//! gradients.
//!
//! [`Weighting::Adaptive`] is the published method: the estimate moves by `√ᾱ Jᵀ q` (with `J` on the
//! variance-preserving path), the direction of the network is kept. [`Weighting::Bayes`] adds the gradient to the
//! score, as Bayes' rule says, so that both the estimate and the direction change, the estimate by `noise²/(signal r²)
//! Jᵀ q`; for white Gaussian data of variance 1 this is exact.
//!
//! Source: Song, Vahdat, Mardani, Kautz, *Pseudoinverse-Guided Diffusion Models for Inverse Problems*, ICLR 2023,
//! algorithm 1 and section 3.

use burn::config::Config;
use burn::tensor::Tensor;
use nabla_base::range;
use serde::{Deserialize, Serialize};

use super::conjugate_gradient::ConjugateGradient;
use super::differentiated::Differentiated;
use super::operator::{OperatorError, SMALLEST};
use super::renoising::Renoising;
use super::{Parts, Problem, RestoreError, Restorer};
use crate::asking::Step;
use crate::denoiser::Denoised;
use crate::guidance::{Guidance, ModelAt};
use crate::level::Levels;
use crate::sampler_error::{OwnError, check_clip, check_eta};

/// How much the gradient counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// The weights of the paper, which are smaller where there is much noise.
    #[default]
    Adaptive,
    /// Bayes' rule.
    Bayes,
}

/// PiGDM; see the [module documentation](self).
///
/// Source: Song, Vahdat, Mardani, Kautz, ICLR 2023.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct PiGdm {
    /// The share of fresh noise of DDIM, in `[0, 1]`. Default 1.
    #[config(default = 1.0)]
    pub eta: f64,
    /// Default: the paper's.
    #[config(default = "Weighting::Adaptive")]
    pub weighting: Weighting,
    /// The largest number of conjugate gradient iterations, for operators without known singular values. Default 20.
    #[config(default = 20)]
    pub cg_iterations: usize,
    /// Limits `x̂_0` to `[−clip, clip]`. Default: no limit.
    pub clip: Option<f64>,
}

impl<const D: usize> Restorer<D> for PiGdm {
    fn parts(&self, problem: &Problem<D>, _levels: &Levels) -> Result<Parts<D>, RestoreError> {
        check_eta("PiGDM", self.eta)?;
        check_clip(self.clip)?;
        range::at_least(
            "number of conjugate gradient iterations",
            self.cg_iterations,
            1,
        )?;
        let guidance = PiGdmGuidance {
            config: *self,
            problem: problem.clone(),
        };
        Ok(Parts {
            solver: Renoising::Ddim.solver(self.eta, None),
            guidance: Some(Box::new(guidance)),
            correction: None,
            pull: None,
        })
    }

    fn steps(&self) -> usize {
        100
    }

    fn differentiates(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct PiGdmGuidance<const D: usize> {
    config: PiGdm,
    problem: Problem<D>,
}

impl<const D: usize> PiGdmGuidance<D> {
    /// `q = Aᵀ (AAᵀ + δ I)⁻¹ (y − A x̂_0) = (AᵀA + δ I)⁻¹ Aᵀ (y − A x̂_0)`.
    fn towards(&self, sample: Tensor<D>, delta: f64) -> Result<Tensor<D>, OperatorError> {
        let operator = self.problem.operator();
        let projected = operator.adjoint(self.problem.residual(sample)?)?;
        match operator.decomposed() {
            Some(decomposed) => decomposed.filtered(projected, &|s| match s > SMALLEST {
                true => 1.0 / (s * s + delta),
                false => 0.0,
            }),
            None => {
                let solver = ConjugateGradient {
                    iterations: self.config.cg_iterations,
                    tolerance: 1e-5,
                };
                let start = projected.zeros_like();
                let apply = |x: Tensor<D>| Ok(operator.normal(x.clone())? + x * delta);
                Ok(solver.solve(apply, projected, start)?.x)
            }
        }
    }
}

impl<const D: usize> Guidance<D> for PiGdmGuidance<D> {
    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let level = step.level;
        let found = Differentiated::ask(step, model, self.config.clip)?;
        let spread = 1.0 - level.alpha_bar(); // r² = σ²/(1 + σ²)
        let delta = self.problem.noise().powi(2) / spread;
        let q = self.towards(found.denoised.sample.clone(), delta)?;
        let gradient = found.pull_back(q)?; // Jᵀ q
        let denoised = found.denoised;
        match self.config.weighting {
            Weighting::Adaptive => {
                // `J` is the derivative at the scale of the path.
                let weight = level.alpha_bar().sqrt() * level.scale();
                let sample = denoised.sample.clone() + gradient * weight;
                Ok(denoised.with_sample(sample))
            }
            Weighting::Bayes => {
                let along = gradient * (level.noise() / spread);
                let epsilon = denoised.epsilon - along.clone();
                let sample = denoised.sample + along * level.sigma();
                Ok(Denoised {
                    variance: denoised.variance,
                    ..Denoised::new(sample, epsilon)
                })
            }
        }
    }
}
