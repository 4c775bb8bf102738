//! LMS: a linear multistep method in `σ`.
//!
//! The probability-flow equation `dx̃/dσ = ε̂` of `x̃ = x/signal` is integrated with the polynomial in `σ`
//! through the last `ε̂` (Adams and Bashforth's method on the uneven grid of the `σ`): one network call per
//! step. The first steps have lower orders.
//!
//! Sources: the k-diffusion library of K. Crowson, which is the source of the name; the equation is from
//! Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative Models*, 2022,
//! arXiv 2206.00364.

use burn::config::Config;

use crate::asking::{Asking, Reading};
use crate::level::{Levels, transfer};
use crate::multistep::History;
use crate::sampler::{Grid, Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip, check_order};

/// The sampler; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Lms {
    /// The number of values that the polynomial interpolates, 1 to 4. Default 4.
    #[config(default = 4)]
    pub order: usize,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
}

impl<const D: usize> Solver<D> for Lms {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        levels.check_sigmas()?;
        check_order("LMS", self.order, 4)?;
        let mut history = History::new(self.order);
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let (level, to) = (levels.level(index), levels.level_after(index));
            let answer = ask.ask(x, index, level)?;
            let mean = history.mean(level.sigma(), answer.epsilon, to.sigma());
            Ok(transfer(answer.x, mean, level, to))
        }))
    }

    fn reading(&self) -> Reading {
        Reading::clipped(self.clip)
    }

    fn grid(&self) -> Grid {
        Grid::Interpolated
    }
}
