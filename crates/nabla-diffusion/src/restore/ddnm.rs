//! DDNM: the part of the picture that was measured is replaced, the part in the null space is the model's.
//!
//! ```text
//! x̂_0' = x̂_0 − A⁺(A x̂_0 − y),   so that A x̂_0' = y
//! x_{t−1} = √ᾱ_{t−1} x̂_0' + √(1 − ᾱ_{t−1}) (√(1 − η²) ε̂ + η z)
//! ```
//!
//! With noise in `y`, DDNM+ replaces only as much as the noise of the next state hides, direction by direction. In the
//! direction of a singular value `s`, with `a = √ᾱ_{t−1}` and `σ = √(1 − ᾱ_{t−1})`:
//!
//! ```text
//! x̂_0' = x̂_0 − V λ(S) Vᵀ A⁺(A x̂_0 − y)
//! σ ≥ a σ_y/s:   λ = 1,                             fresh noise √(σ² − a² σ_y²/s²)
//! σ < a σ_y/s:   λ = s σ √(1 − η²)/(a σ_y),         fresh noise σ η
//! not measured:                                     fresh noise σ η, and σ √(1 − η²) of ε̂
//! ```
//!
//! The noise of the measurement is then a part of the noise of the state, which has the right variance in every
//! direction.
//!
//! Source: Wang, Yu, Zhang, *Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model*, ICLR 2023, arXiv
//! 2212.00490, algorithm 1, section 3.3 and appendix (DDNM+ by singular values); Lugmayr et al., *RePaint*, 2022,
//! arXiv 2201.09865 (the time travel).

use std::sync::Arc;

use burn::config::Config;
use burn::tensor::Tensor;
use nabla_base::range;

use super::operator::{Decomposed, OperatorError, SMALLEST};
use super::renoising::{Renoising, Travelling};
use super::{Parts, Problem, RestoreError, Restorer};
use crate::asking::{Asking, Direction, Reading, Step};
use crate::correction::Correction;
use crate::denoiser::Denoised;
use crate::level::{Level, Levels};
use crate::sampler::{Solver, Steps, shared, steps};
use crate::sampler_error::{OwnError, SamplerError, check_clip, check_eta};

/// DDNM, and DDNM+ if the measurement is noisy; see the [module documentation](self).
///
/// Source: Wang, Yu, Zhang, ICLR 2023, arXiv 2212.00490.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Ddnm {
    /// `η`, in `[0, 1]`. Default 0.85.
    #[config(default = 0.85)]
    pub eta: f64,
    /// How often each step is taken, with the noise put back between: the time travel. Default 1: no travel.
    #[config(default = 1)]
    pub repeats: usize,
    /// Limits `x̂_0` to `[−clip, clip]`. Default: no limit.
    pub clip: Option<f64>,
}

const NAME: &str = "DDNM";

impl<const D: usize> Restorer<D> for Ddnm {
    fn parts(&self, problem: &Problem<D>, levels: &Levels) -> Result<Parts<D>, RestoreError> {
        check_eta(NAME, self.eta)?;
        check_clip(self.clip)?;
        range::at_least("number of repeats of DDNM", self.repeats, 1)?;
        let noisy = problem.noise() > 0.0;
        if noisy && problem.operator().decomposed().is_none() {
            return Err(RestoreError::NoSingularValues {
                method: NAME,
                operator: problem.operator().name(),
            });
        }
        let plus = Plus {
            config: *self,
            problem: problem.clone(),
        };
        let solver: Arc<dyn Solver<D>> = match noisy {
            true => shared(plus.clone()),
            false => Renoising::Shares.solver(self.eta, self.clip),
        };
        let solver = match self.repeats {
            1 => solver,
            repeats => shared(Travelling { solver, repeats }),
        };
        let levels = levels.clone();
        Ok(Parts {
            solver,
            guidance: None,
            correction: Some(Box::new(RangeProjection { plus, levels })),
            pull: None,
        })
    }

    fn steps(&self) -> usize {
        100
    }
}

/// The formulas of DDNM+.
#[derive(Clone, Debug)]
struct Plus<const D: usize> {
    config: Ddnm,
    problem: Problem<D>,
}

impl<const D: usize> Plus<D> {
    fn decomposed(&self) -> Result<&dyn Decomposed<D>, OwnError> {
        let operator = self.problem.operator();
        operator.decomposed().ok_or_else(|| {
            Box::new(RestoreError::NoSingularValues {
                method: NAME,
                operator: operator.name(),
            }) as OwnError
        })
    }

    /// `√(1 − η²)`.
    fn kept(&self) -> f64 {
        (1.0 - self.config.eta * self.config.eta).sqrt()
    }

    /// The noise of the measurement in the direction of `s`, at the scale of the next state: `a σ_y/s`.
    fn measured(&self, to: Level, s: f64) -> f64 {
        to.signal() * self.problem.noise() / s
    }

    /// `λ(s)`.
    fn share(&self, to: Level, s: f64) -> f64 {
        match self.measured(to, s) {
            measured if to.noise() >= measured => 1.0,
            measured => to.noise() * self.kept() / measured,
        }
    }
}

/// The correction.
#[derive(Debug)]
struct RangeProjection<const D: usize> {
    plus: Plus<D>,
    levels: Levels,
}

impl<const D: usize> Correction<D> for RangeProjection<D> {
    fn correct(
        &mut self,
        step: &Step<'_, D>,
        prediction: Denoised<D>,
    ) -> Result<Denoised<D>, OwnError> {
        let problem = &self.plus.problem;
        let sample = prediction.sample.clone();
        let residual = problem.residual(sample.clone())?;
        let missing = match problem.noise() > 0.0 {
            false => problem.operator().pseudo_inverse(residual)?,
            true => {
                let to = self.levels.level_after(step.index);
                let projected = problem.operator().adjoint(residual)?;
                self.plus
                    .decomposed()?
                    .filtered(projected, &|s| match s > SMALLEST {
                        true => self.plus.share(to, s) / (s * s),
                        false => 0.0,
                    })?
            }
        };
        Ok(prediction.with_sample(sample + missing))
    }
}

/// The sampler of DDNM+.
impl<const D: usize> Solver<D> for Plus<D> {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let answer = ask.ask(x, index, levels.level(index))?;
            let to = levels.level_after(index);
            if to.noise() == 0.0 {
                return Ok(answer.sample * to.signal());
            }
            let decomposed = self.decomposed()?;
            let z = ask.normal(&answer.x);
            let fresh = |s: f64| match (s > SMALLEST).then(|| self.measured(to, s)) {
                Some(measured) if to.noise() >= measured => {
                    (to.noise().powi(2) - measured.powi(2)).sqrt()
                }
                _ => to.noise() * self.config.eta,
            };
            let old = |s: f64| match s > SMALLEST {
                true => 0.0,
                false => to.noise() * self.kept(),
            };
            let filtered = |x: Tensor<D>, f: &(dyn Fn(f64) -> f64 + Sync)| {
                let found = decomposed.filtered(x, f);
                found.map_err(|error: OperatorError| SamplerError::Own(Box::new(error)))
            };
            let noise = filtered(z, &fresh)? + filtered(answer.epsilon, &old)?;
            Ok(answer.sample * to.signal() + noise)
        }))
    }

    fn reading(&self) -> Reading {
        Reading {
            clip: self.config.clip,
            direction: Direction::OfModel,
        }
    }
}
