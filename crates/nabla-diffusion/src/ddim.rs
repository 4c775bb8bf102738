//! DDIM: deterministic sampling in few steps, and its inversion.
//!
//! Draws a picture from a diffusion model by going from one noise level to any lower one along the
//! model's own guess of picture and noise, with as much fresh noise as `η` says:
//!
//! ```text
//! x_{t−1} = √ᾱ_{t−1} x̂_0 + √(1 − ᾱ_{t−1} − σ_t²) ε̂ + σ_t z
//! σ_t² = η² (1 − ᾱ_{t−1}) / (1 − ᾱ_t) (1 − ᾱ_t / ᾱ_{t−1})
//! ```
//!
//! `η = 1` is the ancestral sampler of [`ddpm`](crate::ddpm) with the small variance; `η = 0` is a
//! first-order step of the probability-flow ordinary differential equation, which can be undone:
//! [`Ddim::invert`] finds the noise from which a given picture is drawn. The inverse step from
//! `x = x_{t−1}` solves
//!
//! ```text
//! x_t = √(ᾱ_t/ᾱ_{t−1}) x_{t−1} + (√(1 − ᾱ_t) − √(ᾱ_t (1 − ᾱ_{t−1}) / ᾱ_{t−1})) ε̂(x_t, t)
//! ```
//!
//! by fixed-point iteration from `x_t = x_{t−1}`. One iteration is the usual DDIM inversion; more of
//! them undo the sampler's step exactly.
//!
//! Sources: Song, Meng, Ermon, *Denoising Diffusion Implicit Models*, 2021, arXiv 2010.02502, eq.
//! 12 and 16; Mokady et al., *Null-text Inversion*, 2022, arXiv 2211.09794 (the usual inversion);
//! Pan et al., *Effective Real Image Editing with Accelerated Iterative Diffusion Inversion*, 2023,
//! arXiv 2309.04907 (fixed-point iteration).

use burn::config::Config;
use burn::tensor::Tensor;

use crate::denoiser::{
    Denoised, Denoiser, SamplerError, SamplerHook, SamplerStep, check_clip, check_eta,
};
use crate::schedule::NoiseSchedule;
use crate::seeded_noise::SeededNoise;

/// The deterministic step from the level `alpha_bar` to the level `to`:
///
/// ```text
/// φ(x, ε) = √(ᾱ'/ᾱ) x − (ᾱ' − ᾱ) / (√ᾱ (√((1 − ᾱ') ᾱ) + √((1 − ᾱ) ᾱ'))) ε
/// ```
///
/// which is `√ᾱ' x̂_0 + √(1 − ᾱ') ε` without the difference of two nearly equal numbers. The transfer
/// of PNDM (Liu et al., arXiv 2202.09778, eq. 11), and a step `(σ' − σ) ε` of `x/√ᾱ`.
///
/// - `x`, `epsilon`: `[batch, channels, height, width]`
/// - `alpha_bar`: `ᾱ`, above 0; `to`: `ᾱ'`
pub fn transfer(x: Tensor<4>, epsilon: Tensor<4>, alpha_bar: f64, to: f64) -> Tensor<4> {
    let roots = ((1.0 - to) * alpha_bar).sqrt() + ((1.0 - alpha_bar) * to).sqrt();
    x * (to / alpha_bar).sqrt() - epsilon * ((to - alpha_bar) / (alpha_bar.sqrt() * roots))
}

/// Configuration of [`Ddim`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct DdimConfig {
    /// Share of fresh noise, in `[0, 1]`. Default 0: deterministic.
    #[config(default = 0.0)]
    pub eta: f64,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none; 1 for a model of
    /// pixels in `[−1, 1]`.
    pub clip: Option<f64>,
    /// Whether `ε̂` is computed anew from the clipped `x̂_0` (as in GLIDE) instead of kept as the
    /// model gave it. Default false.
    #[config(default = false)]
    pub rederive_epsilon: bool,
}

impl DdimConfig {
    /// The sampler over `schedule`.
    ///
    /// # Errors
    /// If `eta` is not in `[0, 1]`, or `clip` is not positive and finite.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::ddim::DdimConfig;
    /// use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
    /// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
    /// use nabla_diffusion::seeded_noise::SeededNoise;
    ///
    /// let device = Device::flex();
    /// let model = GaussianDenoiser::new(
    ///     Tensor::zeros([1, 3, 8, 8], &device),
    ///     Tensor::ones([1, 3, 8, 8], &device) * 0.25,
    ///     Prediction::Epsilon,
    /// );
    /// let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 20)?;
    /// let ddim = DdimConfig::new().init(schedule)?;
    /// let mut noise = SeededNoise::new(42, 0);
    /// let start = noise.normal([2, 3, 8, 8], &device);
    /// let pictures = ddim.sample(&model, start.clone(), &mut noise)?;
    /// let found = ddim.invert(&model, pictures, 5)?;
    /// assert!((found - start).abs().max().into_scalar::<f32>() < 1e-2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn init(&self, schedule: NoiseSchedule) -> Result<Ddim, SamplerError> {
        check_clip(self.clip)?;
        check_eta(self.eta)?;
        Ok(Ddim {
            schedule,
            config: *self,
        })
    }
}

/// The sampler; see the [module documentation](self).
///
/// [`sample`](Self::sample) runs it whole. To run it step by step, alternate
/// [`denoise`](Self::denoise) and [`step`](Self::step) with an index that falls to 0.
#[derive(Clone, Debug)]
pub struct Ddim {
    schedule: NoiseSchedule,
    config: DdimConfig,
}

impl Ddim {
    /// The schedule it steps along.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// `σ_t`, the standard deviation of the fresh noise at step `index`.
    ///
    /// # Panics
    /// If `index` is not below the number of steps.
    pub fn noise_std(&self, index: usize) -> f64 {
        self.config.eta * self.schedule.posterior(index).variance.sqrt()
    }

    /// The model's prediction at step `index`, clipped as configured.
    ///
    /// # Errors
    /// If the model's output has the wrong shape, or it predicts `ε` where `ᾱ` is 0.
    ///
    /// # Panics
    /// If `index` is not below the number of steps.
    pub fn denoise(
        &self,
        model: &dyn Denoiser,
        x: &Tensor<4>,
        index: usize,
    ) -> Result<Denoised, SamplerError> {
        let level = self.schedule.level(index);
        let denoised = Denoised::predict(model, x, level)?.clip(self.config.clip);
        Ok(if self.config.rederive_epsilon {
            denoised.rederive_epsilon(x, level)
        } else {
            denoised
        })
    }

    /// `x_{t−1}` from the prediction for `x_t`.
    ///
    /// - `noise`: `z`, `[batch, channels, height, width]`, standard normal; without it, the mean.
    ///   Not used where [`noise_std`](Self::noise_std) is 0.
    ///
    /// # Panics
    /// If `index` is not below the number of steps, or the shapes do not agree.
    pub fn step(&self, denoised: Denoised, index: usize, noise: Option<Tensor<4>>) -> Tensor<4> {
        let previous = self.schedule.previous_alpha_bar(index);
        let std = self.noise_std(index);
        // Never negative but by rounding: σ_t² is at most 1 − ᾱ_{t−1}.
        let direction = (1.0 - previous - std * std).max(0.0).sqrt();
        let mean = denoised.sample * previous.sqrt() + denoised.epsilon * direction;
        match noise {
            Some(noise) if std > 0.0 => mean + noise * std,
            _ => mean,
        }
    }

    /// Draws pictures.
    ///
    /// - `x`: where to start, at the level of the schedule's last step: standard normal noise, or
    ///   a noised picture; `[batch, channels, height, width]`
    /// - `noise`: the noise of the steps; not touched if `η` is 0
    /// - returns `[batch, channels, height, width]`
    ///
    /// # Errors
    /// As [`denoise`](Self::denoise).
    pub fn sample(
        &self,
        model: &dyn Denoiser,
        x: Tensor<4>,
        noise: &mut SeededNoise,
    ) -> Result<Tensor<4>, SamplerError> {
        self.sample_with_hook(model, x, noise, &mut |_, denoised| denoised)
    }

    /// [`sample`](Self::sample) with a hook that sees, and may replace, every prediction.
    ///
    /// # Errors
    /// As [`denoise`](Self::denoise).
    pub fn sample_with_hook(
        &self,
        model: &dyn Denoiser,
        mut x: Tensor<4>,
        noise: &mut SeededNoise,
        hook: &mut SamplerHook<'_>,
    ) -> Result<Tensor<4>, SamplerError> {
        let steps = self.schedule.steps();
        for index in (0..steps).rev() {
            let level = self.schedule.level(index);
            let denoised = self.denoise(model, &x, index)?;
            let denoised = hook(
                SamplerStep {
                    index,
                    steps,
                    level,
                    x: &x,
                },
                denoised,
            );
            let z = (self.noise_std(index) > 0.0).then(|| noise.normal(x.dims(), &x.device()));
            x = self.step(denoised, index, z);
        }
        Ok(x)
    }

    /// `x_t` from `x_{t−1}`: undoes the deterministic step at `index`, without clipping.
    ///
    /// - `x`: `x_{t−1}`, `[batch, channels, height, width]`
    /// - `iterations`: calls of the model; 1 is the usual inversion
    ///
    /// # Errors
    /// If `iterations` is 0, the model's output has the wrong shape, or it predicts `ε` where `ᾱ`
    /// is 0.
    ///
    /// # Panics
    /// If `index` is not below the number of steps.
    pub fn invert_step(
        &self,
        model: &dyn Denoiser,
        x: &Tensor<4>,
        index: usize,
        iterations: usize,
    ) -> Result<Tensor<4>, SamplerError> {
        if iterations == 0 {
            return Err(SamplerError::NoIterations);
        }
        let level = self.schedule.level(index);
        let previous = self.schedule.previous_alpha_bar(index);
        let scale = (level.alpha_bar / previous).sqrt();
        let direction = level.noise() - scale * (1.0 - previous).sqrt();
        let mut noisier = x.clone();
        for _ in 0..iterations {
            let denoised = Denoised::predict(model, &noisier, level)?;
            noisier = x.clone() * scale + denoised.epsilon * direction;
        }
        Ok(noisier)
    }

    /// The noise from which [`sample`](Self::sample) with `η = 0` draws the picture `x`.
    ///
    /// - `x`: `x_0`, `[batch, channels, height, width]`
    /// - `iterations`: calls of the model per step; 1 is the usual inversion, whose error falls
    ///   with the number of steps; a few more make it exact if the steps are small enough to
    ///   converge
    /// - returns `x_T`, `[batch, channels, height, width]`
    ///
    /// # Errors
    /// As [`invert_step`](Self::invert_step).
    pub fn invert(
        &self,
        model: &dyn Denoiser,
        mut x: Tensor<4>,
        iterations: usize,
    ) -> Result<Tensor<4>, SamplerError> {
        for index in 0..self.schedule.steps() {
            x = self.invert_step(model, &x, index, iterations)?;
        }
        Ok(x)
    }
}
