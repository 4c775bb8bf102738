//! The step from a corrected estimate to the next state, and the way back.
//!
//! ```text
//! x' = signal' x̂_0 + direction · ε̂ + fresh · z
//! ddim:    fresh = η β̃,      direction² = noise'² − fresh²
//! shares:  fresh = η noise',  direction  = √(1 − η²) noise'
//! ```
//!
//! The first is the step of DDIM, with `β̃` the standard deviation of the posterior of the step: DDS as it is
//! written. The second is what the published code of DDS and DDNM does: the same amount of noise in all, of which a
//! share is fresh that does not depend on the length of the step.

use std::sync::Arc;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::asking::{Asking, Direction, Reading};
use crate::ddim::Ddim;
use crate::level::Levels;
use crate::sampler::{Solver, Steps, shared, steps};
use crate::sampler_error::{SamplerError, check_clip, check_eta};

/// How much of the noise of the next state is fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Renoising {
    /// As in DDIM: `η` times the standard deviation of the step's posterior.
    #[default]
    Ddim,
    /// The share `η` of the next level's noise.
    Shares,
}

impl Renoising {
    /// The sampler that takes such steps.
    pub(crate) fn solver<const D: usize>(self, eta: f64, clip: Option<f64>) -> Arc<dyn Solver<D>> {
        match self {
            Self::Ddim => shared(Ddim::new().with_eta(eta).with_clip(clip)),
            Self::Shares => shared(Shares { eta, clip }),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Shares {
    eta: f64,
    clip: Option<f64>,
}

impl<const D: usize> Solver<D> for Shares {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_eta("the restoration", self.eta)?;
        check_clip(self.clip)?;
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let answer = ask.ask(x, index, levels.level(index))?;
            let to = levels.level_after(index);
            let kept = answer.epsilon * (1.0 - self.eta * self.eta).sqrt();
            let noise = match self.eta * to.noise() > 0.0 {
                true => kept + ask.normal(&answer.x) * self.eta,
                false => kept,
            };
            Ok(to.mix(answer.sample, noise))
        }))
    }

    fn reading(&self) -> Reading {
        Reading {
            clip: self.clip,
            direction: Direction::OfModel,
        }
    }
}

/// Takes each step several times, and between two of them goes back to the noise of its beginning: the time travel of
/// RePaint and DDNM, of length 1.
///
/// ```text
/// x = (signal/signal') x' + √(noise² − (signal/signal')² noise'²) z
/// ```
#[derive(Debug)]
pub(crate) struct Travelling<const D: usize> {
    pub(crate) solver: Arc<dyn Solver<D>>,
    pub(crate) repeats: usize,
}

impl<const D: usize> Solver<D> for Travelling<D> {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        let mut run = self.solver.begin(levels)?;
        Ok(steps(
            move |mut x: Tensor<D>, index, ask: &mut Asking<'_, D>| {
                let (from, to) = (levels.level(index), levels.level_after(index));
                let ratio = from.signal() / to.signal();
                let fresh = (from.noise().powi(2) - (ratio * to.noise()).powi(2)).max(0.0);
                for _ in 1..self.repeats {
                    let end = run.step(x, index, ask)?;
                    let z = ask.normal(&end);
                    x = end * ratio + z * fresh.sqrt();
                }
                run.step(x, index, ask)
            },
        ))
    }

    fn reading(&self) -> Reading {
        self.solver.reading()
    }

    fn calls(&self, steps: usize) -> usize {
        self.repeats * self.solver.calls(steps)
    }
}
