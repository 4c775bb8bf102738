//! DDS: the decomposed diffusion sampler.
//!
//! Each step corrects the denoised estimate by a few conjugate gradient iterations, which stay in a Krylov space: if
//! that is the tangent space of the clean pictures at the estimate, the result stays among them, and no gradient through
//! the network is needed.
//!
//! ```text
//! x̂_0 = (x_t − √(1 − ᾱ_t) ε̂)/√ᾱ_t                                 Tweedie
//! x̂_0' = DC(x̂_0)                                                   M iterations, from x̂_0
//! x_{t−1} = √ᾱ_{t−1} x̂_0' + √(1 − ᾱ_{t−1} − η² β̃²) ε̂ + η β̃ z
//! ```
//!
//! The data consistency ([`Consistency`]) is
//!
//! ```text
//! without noise:  AᵀA x = Aᵀ y
//! with noise:     (I + γ AᵀA) x = x̂_0 + γ Aᵀ y,   the minimum of ½‖x − x̂_0‖² + (γ/2)‖y − A x‖²
//! projection:     x = x̂_0 − A⁺(A x̂_0 − y)
//! volumes:        one step of ADMM with total variation across slices (see [`TotalVariation`])
//! ```
//!
//! `ε̂` stays that of the network. On a variance-exploding path ([`Level::variance_exploding`]) the same formulas are
//! `x̂_0 = x + σ² s` and `x' = x̂_0' + …` with `σ'` in place of `√(1 − ᾱ_{t−1})`. More iterations are not better: few of
//! them keep the estimate near the clean pictures, and with noise, many fit the noise.
//!
//! The published code takes one inner product for a whole batch; here every picture is a system of its own. It also
//! takes fresh noise as [`Renoising::Shares`] does, from which its default `η` comes.
//!
//! Source: Chung, Lee, Ye, *Decomposed Diffusion Sampler for Accelerating Large-Scale Inverse Problems*, ICLR 2024, arXiv
//! 2303.05754, algorithms 1 to 4.
//!
//! [`Level::variance_exploding`]: crate::level::Level::variance_exploding

use burn::config::Config;
use burn::tensor::Tensor;
use nabla_base::range;
use serde::{Deserialize, Serialize};

use super::conjugate_gradient::ConjugateGradient;
use super::renoising::Renoising;
use super::volume::{Admm, TotalVariation};
use super::{Parts, Problem, RestoreError, Restorer};
use crate::asking::Step;
use crate::correction::Correction;
use crate::denoiser::Denoised;
use crate::level::{Level, Levels};
use crate::sampler_error::{OwnError, check_clip, check_eta};

/// How the estimate is made consistent with the measurement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// [`Normal`](Self::Normal) without noise, otherwise [`Proximal`](Self::Proximal).
    #[default]
    Automatic,
    /// `AᵀA x = Aᵀ y`.
    Normal,
    /// `(I + γ AᵀA) x = x̂_0 + γ Aᵀ y`.
    Proximal,
    /// `x̂_0 − A⁺(A x̂_0 − y)`: exact, where the pseudo-inverse is cheap.
    Projection,
}

/// DDS; see the [module documentation](self).
///
/// Source: Chung, Lee, Ye, ICLR 2024, arXiv 2303.05754.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Dds {
    /// `η`, in `[0, 1]`. Default 0.85.
    #[config(default = 0.85)]
    pub eta: f64,
    /// `M`, the number of conjugate gradient iterations, at least 1. Default 5.
    #[config(default = 5)]
    pub cg_iterations: usize,
    /// `γ`, above 0; `null` for `r²/σ_y²` with `r² = σ²/(1 + σ²)`, what Bayes' rule gives for pictures of variance 1.
    /// Default 1.
    #[config(default = "Some(1.0)")]
    pub gamma: Option<f64>,
    /// Default [`Consistency::Automatic`].
    #[config(default = "Consistency::Automatic")]
    pub consistency: Consistency,
    /// How much of the noise is fresh. Default: as in DDIM, which is the paper's formula.
    #[config(default = "Renoising::Ddim")]
    pub renoising: Renoising,
    /// `λ` of the total variation across slices, at least 0. Default 0: none.
    #[config(default = 0.0)]
    pub tv_weight: f64,
    /// `ρ` of its ADMM. Default 10.
    #[config(default = 10.0)]
    pub tv_penalty: f64,
    /// Whether the first slice follows the last one, as in the published code. Default false.
    #[config(default = false)]
    pub tv_cyclic: bool,
    /// Limits `x̂_0` to `[−clip, clip]` before it is corrected. Default: no limit.
    pub clip: Option<f64>,
}

impl Dds {
    /// Checks the options.
    fn check(&self) -> Result<(), RestoreError> {
        check_eta("DDS", self.eta)?;
        check_clip(self.clip)?;
        range::at_least(
            "number of conjugate gradient iterations",
            self.cg_iterations,
            1,
        )?;
        if let Some(gamma) = self.gamma {
            range::positive("gamma of DDS", gamma)?;
        }
        self.total_variation().check()?;
        Ok(())
    }

    fn total_variation(&self) -> TotalVariation {
        TotalVariation {
            weight: self.tv_weight,
            penalty: self.tv_penalty,
            cyclic: self.tv_cyclic,
        }
    }
}

impl<const D: usize> Restorer<D> for Dds {
    fn parts(&self, problem: &Problem<D>, _levels: &Levels) -> Result<Parts<D>, RestoreError> {
        self.check()?;
        let correction = DataConsistency {
            config: *self,
            projected: problem.operator().adjoint(problem.measurement().clone())?,
            problem: problem.clone(),
            admm: (self.tv_weight > 0.0).then(|| Admm::new(self.total_variation())),
        };
        Ok(Parts {
            solver: self.renoising.solver(self.eta, self.clip),
            guidance: None,
            correction: Some(Box::new(correction)),
            pull: None,
        })
    }
}

/// The correction of a run.
#[derive(Debug)]
struct DataConsistency<const D: usize> {
    config: Dds,
    problem: Problem<D>,
    /// `Aᵀ y`.
    projected: Tensor<D>,
    admm: Option<Admm<D>>,
}

impl<const D: usize> DataConsistency<D> {
    /// `γ` at a level.
    fn gamma(&self, level: Level) -> f64 {
        let noise = self.problem.noise();
        self.config.gamma.unwrap_or(match noise > 0.0 {
            true => (1.0 - level.alpha_bar()) / (noise * noise),
            false => 1.0,
        })
    }

    /// `x̂_0'`.
    fn consistent(&mut self, sample: Tensor<D>, level: Level) -> Result<Tensor<D>, OwnError> {
        let solver = ConjugateGradient {
            iterations: self.config.cg_iterations,
            tolerance: 1e-7,
        };
        if let Some(admm) = &mut self.admm {
            return Ok(admm.step(&self.problem, &self.projected, sample, solver)?);
        }
        let operator = self.problem.operator();
        let consistency = match self.config.consistency {
            Consistency::Automatic if self.problem.noise() > 0.0 => Consistency::Proximal,
            Consistency::Automatic => Consistency::Normal,
            chosen => chosen,
        };
        let projected = self.projected.clone();
        Ok(match consistency {
            Consistency::Projection => {
                let residual = self.problem.residual(sample.clone())?;
                sample + operator.pseudo_inverse(residual)?
            }
            Consistency::Proximal => {
                let gamma = self.gamma(level);
                let apply = |x: Tensor<D>| Ok(x.clone() + operator.normal(x)? * gamma);
                let right = sample.clone() + projected * gamma;
                solver.solve(apply, right, sample)?.x
            }
            Consistency::Normal | Consistency::Automatic => {
                solver.solve(|x| operator.normal(x), projected, sample)?.x
            }
        })
    }
}

impl<const D: usize> Correction<D> for DataConsistency<D> {
    fn correct(
        &mut self,
        step: &Step<'_, D>,
        prediction: Denoised<D>,
    ) -> Result<Denoised<D>, OwnError> {
        let sample = self.consistent(prediction.sample.clone(), step.level)?;
        Ok(prediction.with_sample(sample))
    }
}
