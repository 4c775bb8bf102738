//! Heun's method in `σ`: two network calls per step, order 2.
//!
//! ```text
//! ε_1 = ε̂(x̃, σ),   x̃_1 = x̃ + (σ' − σ) ε_1,   ε_2 = ε̂(x̃_1, σ')
//! x̃' = x̃ + (σ' − σ) (ε_1 + ε_2) / 2
//! ```
//!
//! for `x̃ = x/signal`; the step to `σ' = 0` is Euler's. With [`Churn`] a step first goes up to a higher level,
//! which makes it the stochastic sampler of the source.
//!
//! Source: Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative
//! Models*, 2022, arXiv 2206.00364, algorithms 1 and 2.

use burn::config::Config;

use crate::asking::{Asking, Reading};
use crate::churn::Churn;
use crate::level::{Levels, transfer};
use crate::sampler::{Grid, Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip};

/// The sampler; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Heun {
    /// Noise that is added on the way and removed again. Default: none.
    pub churn: Option<Churn>,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
}

impl<const D: usize> Solver<D> for Heun {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        self.churn.map_or(Ok(()), |churn| churn.check())?;
        levels.check_sigmas()?;
        Ok(steps(move |mut x, index, ask: &mut Asking<'_, D>| {
            let mut level = levels.level(index);
            if let Some(churn) = self.churn {
                (x, level) = churn.raise(x, level, levels, ask.noise());
            }
            let to = levels.level_after(index);
            let first = ask.ask(x, index, level)?;
            let mut epsilon = first.epsilon;
            if to.noise() > 0.0 {
                let guess = transfer(first.x.clone(), epsilon.clone(), level, to);
                epsilon = (epsilon + ask.ask(guess, index, to)?.epsilon) * 0.5;
            }
            Ok(transfer(first.x, epsilon, level, to))
        }))
    }

    fn reading(&self) -> Reading {
        Reading::clipped(self.clip)
    }

    fn calls(&self, steps: usize) -> usize {
        (2 * steps).saturating_sub(1)
    }

    fn grid(&self) -> Grid {
        Grid::Interpolated
    }
}
