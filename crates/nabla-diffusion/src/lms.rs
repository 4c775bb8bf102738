//! LMS: a linear multistep method in `σ`.
//!
//! The probability-flow equation `dx̃/dσ = ε̂` of `x̃ = x/√ᾱ` is integrated with the polynomial in `σ`
//! through the last `ε̂` (Adams and Bashforth's method on the uneven grid of the `σ`): one call of the
//! network a step. The first steps have lower orders.
//!
//! Sources: the k-diffusion library of K. Crowson, from which the name is; the equation is that of
//! Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative Models*,
//! 2022, arXiv 2206.00364.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::ddim::transfer;
use crate::denoiser::{
    Denoiser, Questions, SamplerError, SamplerHook, check_clip, check_order, check_sigmas,
    sample_without_hook,
};
use crate::multistep::History;
use crate::schedule::{NoiseSchedule, sigma_from_alpha_bar};
use crate::seeded_noise::SeededNoise;

/// Configuration of [`Lms`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct LmsConfig {
    /// How many values the polynomial goes through, 1 to 4. Default 4.
    #[config(default = 4)]
    pub order: usize,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none.
    pub clip: Option<f64>,
}

impl LmsConfig {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If the order is not 1 to 4, `clip` is not positive and finite, or an `ᾱ` is 0.
    pub fn init(&self, schedule: NoiseSchedule) -> Result<Lms, SamplerError> {
        check_clip(self.clip)?;
        check_sigmas(&schedule)?;
        check_order("LMS", self.order, 4)?;
        Ok(Lms {
            schedule,
            config: *self,
        })
    }
}

/// The sampler; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Lms {
    schedule: NoiseSchedule,
    config: LmsConfig,
}

sample_without_hook!(Lms);

impl Lms {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step, in the variance-preserving
    ///   form; `[batch, channels, height, width]`
    /// - `_noise`: not touched: no step adds any
    /// - `hook`: sees, and may replace, the predicted picture of every step
    ///
    /// # Errors
    /// If the model's output has the wrong shape.
    pub fn sample_with_hook(
        &self,
        model: &dyn Denoiser,
        mut x: Tensor<4>,
        _noise: &mut SeededNoise,
        hook: &mut SamplerHook<'_>,
    ) -> Result<Tensor<4>, SamplerError> {
        let steps = self.schedule.steps();
        let mut questions = Questions::new(model, hook, self.config.clip, steps);
        let mut history = History::new(self.config.order);
        for index in (0..steps).rev() {
            let level = self.schedule.level(index);
            let to = self.schedule.previous_alpha_bar(index);
            let epsilon = questions.ask(&x, index, level)?.epsilon;
            let mean = history.mean(level.sigma(), epsilon, sigma_from_alpha_bar(to));
            x = transfer(x, mean, level.alpha_bar, to);
        }
        Ok(x)
    }
}
