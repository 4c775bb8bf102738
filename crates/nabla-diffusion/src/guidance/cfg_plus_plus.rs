//! CFG++: the sample is guided, the direction is not.
//!
//! With the predictions `ε_∅` without the condition and `ε_c` with it,
//!
//! ```text
//! ε_λ = ε_∅ + λ (ε_c − ε_∅),   0 ≤ λ ≤ 1
//! x̂_0 = (x − noise ε_λ)/signal
//! x'  = signal' x̂_0 + noise' ε_∅                 classifier-free guidance: … + noise' ε_λ
//! ```
//!
//! `λ` interpolates between the two clean samples, where classifier-free guidance extrapolates, and the picture
//! is made noisy again along the manifold of all pictures. This saturates less, and a run can be inverted
//! better. `λ = 0` ignores the condition; `λ = 1` is not the model under the condition, because the direction
//! is still `ε_∅`.
//!
//! **As classifier-free guidance.** A DDIM step with `λ` equals one with the scale
//! `ω = λ σ/(σ − σ')` ([`equivalent_omega`]): it grows with the number of steps, and falls to `λ` in the last
//! step. (With 50 steps, `λ = 0.6` looks like 7.5.)
//!
//! **Inversion** swaps the roles, `x̂_0 = (x' − noise' ε_∅)/signal'`, `x = signal x̂_0 + noise ε_λ`:
//! [`Ddim::invert_guided`](crate::ddim::Ddim::invert_guided) with this guidance.
//!
//! # In the samplers
//! `x̂_0` and `ε_∅` make up the state `signal x̂_0 + noise ε_∅`, from which every sampler continues. This is
//! the published step in `ddim`, `euler` and `euler-ancestral`, and in every method in its first order. For
//! the others:
//!
//! - **`dpm++2m`, `dpm++3m`, `dpm++2m-sde`, `dpm++3m-sde`** extrapolate from earlier clean samples, here the
//!   guided ones: `D − D^old`. The authors' code, which has order 2 without noise, keeps the unguided ones,
//!   `D − D_∅^old`, so that its difference holds the whole guidance of a step, also for a constant prediction,
//!   where there is nothing to extrapolate. [`History::Published`] does the same; the default is
//!   [`History::Guided`].
//! - **Methods with several calls in a step** (`heun`, `dpm2`, Runge and Kutta's steps in `pndm`): the first
//!   call sets the state and guides, the further ones give directions. In the authors' "2S", the first call
//!   goes ahead unguided, and the second one guides. `dpm++2s` makes the same last step as theirs, up to the
//!   change of `λ (D_c − D_∅)` between the two calls, from a middle that is guided.
//! - **`deis`, `lms`, `pndm`, `plms`** extrapolate from the directions `ε_∅`.
//!
//! Source: Chung, Kim, Park, Nam, Ye, *CFG++: Manifold-constrained Classifier Free Guidance for Diffusion
//! Models*, 2024, arXiv 2406.08070, algorithm 2.

use burn::config::Config;
use nabla_base::range;

use super::{Guidance, ModelAt};
use crate::asking::Step;
use crate::denoiser::{Condition, Denoised};
use crate::level::{Level, Levels};
use crate::sampler_error::OwnError;

/// CFG++: the guided sample with the unguided direction.
///
/// ```text
/// ε_λ = ε_∅ + λ (ε_c − ε_∅),   x̂_0 = (x − noise ε_λ)/signal,   x' = signal' x̂_0 + noise' ε_∅
/// ```
///
/// Source: Chung et al., 2024, arXiv 2406.08070.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct CfgPlusPlus {
    /// `λ`, in `[0, 1]`. Default 0.6, the paper's for texts and for inversion.
    #[config(default = 0.6)]
    pub scale: f64,
    /// Which clean samples DPM-Solver++ keeps for its extrapolation. Default [`History::Guided`].
    #[config(default = "History::Guided")]
    pub history: History,
    /// Whether a `λ` outside `[0, 1]` is accepted. It extrapolates, which the method is there to avoid.
    /// Default false.
    #[config(default = false)]
    pub extrapolate: bool,
}

/// The clean samples that multistep DPM-Solver++ keeps of earlier steps.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum History {
    /// The guided ones.
    Guided,
    /// The unguided ones, as in the authors' code.
    Published,
}

impl<const D: usize> Guidance<D> for CfgPlusPlus {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        range::finite("scale of CFG++", self.scale)?;
        let fits = self.extrapolate || (0.0..=1.0).contains(&self.scale);
        let expected = "in [0, 1], where 0.6 is about as strong as 7.5 in classifier-free guidance";
        Ok(range::check(fits, "scale of CFG++", self.scale, expected)?)
    }

    fn guide(
        &mut self,
        _step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
        let guided = without.clone() + (with - without.clone()) * self.scale;
        let without = model.read(without)?;
        let guided = model.read(guided)?.with_direction(without.epsilon);
        Ok(match self.history {
            History::Guided => guided,
            History::Published => guided.remembered_as(without.sample),
        })
    }
}

/// The scale `ω = λ σ/(σ − σ')` with which classifier-free guidance makes the same DDIM step as CFG++ with `λ`.
///
/// - `from`, `to`: the levels of the step, `to` cleaner than `from`
///
/// ```
/// use nabla_diffusion::guidance::equivalent_omega;
/// use nabla_diffusion::level::Level;
///
/// let [noisy, cleaner, clean] = [4.0, 3.0, 0.0].map(|sigma| Level::variance_exploding(0.0, sigma));
/// assert_eq!(equivalent_omega(noisy, cleaner, 0.6), 2.4);
/// assert_eq!(equivalent_omega(cleaner, clean, 0.6), 0.6);
/// ```
pub fn equivalent_omega(from: Level, to: Level, lambda: f64) -> f64 {
    // σ' / σ is 0 from pure noise.
    lambda / (1.0 - to.sigma() / from.sigma())
}

/// The scale of classifier-free guidance of which a run of CFG++ with `λ` reminds most: [`equivalent_omega`], averaged
/// over the steps.
///
/// ```
/// use nabla_diffusion::guidance::mean_equivalent_omega;
/// use nabla_diffusion::level::Levels;
/// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
///
/// let levels: Levels = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 50)?.into();
/// let omega = mean_equivalent_omega(&levels, 1.0);
/// assert!((omega - 7.71).abs() < 0.01);
/// # Ok::<(), nabla_diffusion::schedule::ScheduleError>(())
/// ```
pub fn mean_equivalent_omega(levels: &Levels, lambda: f64) -> f64 {
    let steps = levels.steps();
    let each = (0..steps).map(|i| equivalent_omega(levels.level(i), levels.level_after(i), lambda));
    each.sum::<f64>() / steps.max(1) as f64
}
