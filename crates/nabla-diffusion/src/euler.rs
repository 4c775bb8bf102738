//! Euler and Euler ancestral: the simplest samplers in `σ`.
//!
//! With `x̃ = x/signal = x_0 + σ ε` the probability-flow ordinary differential equation is
//! `dx̃/dσ = (x̃ − x̂_0)/σ = ε̂`, and a step of Euler's method to the level `σ'` is
//!
//! ```text
//! x̃' = x̃ + (σ_down − σ) ε̂ + σ_up z
//! σ_up² = η² σ'² (σ² − σ'²) / σ²,   σ_down² = σ'² − σ_up²
//! ```
//!
//! with fresh noise `z`. With [`Churn`] a step first goes up to a higher level. `η = 0` is Euler's method,
//! which is DDIM; `η = 1` the ancestral sampler, which is DDIM with `η = 1`. They differ from
//! [`ddim`](crate::ddim) only in the schedule on which they are customarily run: see
//! [`SchedulerConfig`](crate::stable_diffusion::scheduler_config::SchedulerConfig).
//!
//! Sources: Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative
//! Models*, 2022, arXiv 2206.00364, section 3; the ancestral form from the k-diffusion library.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::asking::{Asking, Reading};
use crate::churn::Churn;
use crate::level::{Level, Levels, signal_ratio, transfer};
use crate::sampler::{Grid, Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip, check_eta};
use crate::seeded_noise::SeededNoise;

/// The sampler; see the [module documentation](self).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Euler {
    /// The share of noise that is renewed, in `[0, 1]`: 0 is deterministic, 1 ancestral. Default 0.
    #[config(default = 0.0)]
    pub eta: f64,
    /// Noise that is added on the way and removed again. Default: none.
    pub churn: Option<Churn>,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
}

/// Needs noise if `η` or the churn is above 0.
impl<const D: usize> Solver<D> for Euler {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        self.churn.map_or(Ok(()), |churn| churn.check())?;
        levels.check_sigmas()?;
        check_eta("Euler", self.eta)?;
        Ok(steps(move |mut x, index, ask: &mut Asking<'_, D>| {
            let mut level = levels.level(index);
            if let Some(churn) = self.churn {
                (x, level) = churn.raise(x, level, levels, ask.noise());
            }
            let to = levels.level_after(index);
            let answer = ask.ask(x, index, level)?;
            let step = Ancestral::new(self.eta, level.sigma(), to.sigma());
            Ok(step.take(answer.x, answer.epsilon, level, to, ask.noise()))
        }))
    }

    fn reading(&self) -> Reading {
        Reading::clipped(self.clip)
    }

    fn grid(&self) -> Grid {
        Grid::Interpolated
    }
}

/// A step that goes down below its end level, and up again by fresh noise.
pub(crate) struct Ancestral {
    /// `σ_down`
    pub(crate) down: f64,
    /// `σ_up`
    up: f64,
}

impl Ancestral {
    /// From the level `sigma` to the level `to`.
    pub(crate) fn new(eta: f64, sigma: f64, to: f64) -> Self {
        let kept = ((sigma * sigma - to * to).max(0.0)).sqrt() / sigma;
        let up = eta * to * kept;
        Self {
            down: (to * to - up * up).max(0.0).sqrt(),
            up,
        }
    }

    /// Along `epsilon`, from `level` to the level `to`.
    pub(crate) fn take<const D: usize>(
        &self,
        x: Tensor<D>,
        epsilon: Tensor<D>,
        level: Level,
        to: Level,
        noise: &mut SeededNoise,
    ) -> Tensor<D> {
        let down = to.at_sigma(self.down);
        let x = transfer(x, epsilon, level, down);
        if self.up == 0.0 {
            return x;
        }
        // In the variance-preserving form, the step down ends at a signal different from that of x'.
        let z = noise.normal(x.dims(), &x.device());
        x * signal_ratio(down, to) + z * (self.up * to.signal())
    }
}
