//! DPS: diffusion posterior sampling.
//!
//! ```text
//! x_{t−1} = DDPM(x_t, x̂_0) − ζ_t ∇_{x_t} ‖y − A x̂_0(x_t)‖²,   ζ_t = ζ/‖y − A x̂_0(x_t)‖
//! ```
//!
//! Each step is one of the ancestral sampler, and then one down the gradient of the distance to the measurement. The
//! gradient goes through the network, so that a step costs about three times as much as one without it, and the steps
//! are many.
//!
//! The published code differentiates `‖y − A x̂_0‖` instead of the square divided by it: its scale is twice this one
//! for the same step. It also takes one norm of a whole batch; here every picture has its own.
//!
//! Source: Chung, Kim, McCann, Klasky, Ye, *Diffusion Posterior Sampling for General Noisy Inverse Problems*, 2023,
//! arXiv 2209.14687, algorithm 1 and section 4 (the step).

use burn::config::Config;
use burn::tensor::Tensor;
use nabla_base::range;

use super::differentiated::Differentiated;
use super::operator::norms;
use super::{Parts, Problem, Pull, RestoreError, Restorer};
use crate::asking::Step;
use crate::ddpm::Ddpm;
use crate::denoiser::Denoised;
use crate::guidance::{Guidance, ModelAt};
use crate::level::Levels;
use crate::sampler::shared;
use crate::sampler_error::{OwnError, check_clip};

/// DPS; see the [module documentation](self).
///
/// Source: Chung et al., 2023, arXiv 2209.14687.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Dps {
    /// `ζ`, at least 0. Default 1; the paper has 0.3 to 1.
    #[config(default = 1.0)]
    pub scale: f64,
    /// Limits `x̂_0` to `[−clip, clip]`. Default: no limit.
    pub clip: Option<f64>,
}

impl<const D: usize> Restorer<D> for Dps {
    fn parts(&self, problem: &Problem<D>, _levels: &Levels) -> Result<Parts<D>, RestoreError> {
        range::not_negative("scale of DPS", self.scale)?;
        check_clip(self.clip)?;
        let pull = Pull::default();
        let guidance = DpsGuidance {
            config: *self,
            problem: problem.clone(),
            pull: pull.clone(),
        };
        Ok(Parts {
            solver: shared(Ddpm::new()),
            guidance: Some(Box::new(guidance)),
            correction: None,
            pull: Some(pull),
        })
    }

    fn steps(&self) -> usize {
        1000
    }

    fn differentiates(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct DpsGuidance<const D: usize> {
    config: Dps,
    problem: Problem<D>,
    pull: Pull<D>,
}

impl<const D: usize> Guidance<D> for DpsGuidance<D> {
    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let found = Differentiated::ask(step, model, self.config.clip)?;
        let residual = self.problem.residual(found.denoised.sample.clone())?;
        // Of a picture that fits exactly, the gradient is 0.
        let norm: Tensor<D> = norms(&residual).clamp_min(f64::from(f32::MIN_POSITIVE));
        let towards = self.problem.operator().adjoint(residual)?;
        let gradient = found.pull_back(towards)?; // −½ ∇‖y − A x̂_0‖²
        self.pull.put(gradient / norm * (2.0 * self.config.scale));
        Ok(found.denoised)
    }
}
