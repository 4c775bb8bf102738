//! DPM2: the midpoint method in `ln σ`, with two network calls per step, with or without fresh noise.
//!
//! ```text
//! σ_down, σ_up of σ and σ' as in euler.rs,   σ_m = √(σ σ_down)
//! ε_1 = ε̂(x̃, σ),   x̃_m = x̃ + (σ_m − σ) ε_1,   ε_2 = ε̂(x̃_m, σ_m)
//! x̃' = x̃ + (σ_down − σ) ε_2 + σ_up z
//! ```
//!
//! for `x̃ = x/signal`; the step to `σ' = 0` is Euler's. `η = 0` adds no noise, `η = 1` is the ancestral sampler.
//! The network gets the time of the middle level, which may lie between two training steps.
//!
//! Sources: `sample_dpm_2` and `sample_dpm_2_ancestral` of the k-diffusion library of K. Crowson, diffusers'
//! `KDPM2DiscreteScheduler` and `KDPM2AncestralDiscreteScheduler`; the method is that of Lu et al.,
//! *DPM-Solver*, 2022, arXiv 2206.00927 (its second order), in the setting of Karras et al., 2022, arXiv
//! 2206.00364.

use burn::config::Config;

use crate::asking::{Asking, Reading};
use crate::euler::Ancestral;
use crate::level::{Levels, transfer};
use crate::sampler::{Grid, Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip, check_eta};

/// The sampler; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Dpm2 {
    /// The share of noise that is renewed, in `[0, 1]`: 0 is deterministic, 1 ancestral. Default 0.
    #[config(default = 0.0)]
    pub eta: f64,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
}

impl<const D: usize> Solver<D> for Dpm2 {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        levels.check_sigmas()?;
        check_eta("DPM2", self.eta)?;
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let (level, to) = (levels.level(index), levels.level_after(index));
            let step = Ancestral::new(self.eta, level.sigma(), to.sigma());
            let first = ask.ask(x, index, level)?;
            let mut epsilon = first.epsilon;
            if step.down > 0.0 {
                let sigma = (level.sigma() * step.down).sqrt();
                let middle = levels.path().level_of_sigma(sigma);
                let ahead = transfer(first.x.clone(), epsilon, level, middle);
                epsilon = ask.ask(ahead, index, middle)?.epsilon;
            }
            Ok(step.take(first.x, epsilon, level, to, ask.noise()))
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
