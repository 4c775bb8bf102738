//! DDIM: deterministic sampling in few steps, and its inversion.
//!
//! Draws a picture from a diffusion model by stepping from one noise level to any lower one along the model's
//! prediction of picture and noise, with an amount of fresh noise set by `η`:
//!
//! ```text
//! x_{t−1} = √ᾱ_{t−1} x̂_0 + √(1 − ᾱ_{t−1} − σ_t²) ε̂ + σ_t z
//! σ_t² = η² (1 − ᾱ_{t−1}) / (1 − ᾱ_t) (1 − ᾱ_t / ᾱ_{t−1})
//! ```
//!
//! `η = 1` is the ancestral sampler of [`ddpm`](crate::ddpm) with the small variance; `η = 0` is a
//! first-order step of the probability-flow ordinary differential equation, which can be undone:
//! [`Ddim::invert`] finds the noise from which a given sample is drawn. The inverse step from
//! `x = x_{t−1}` solves
//!
//! ```text
//! x_t = √(ᾱ_t/ᾱ_{t−1}) x_{t−1} + (√(1 − ᾱ_t) − √(ᾱ_t (1 − ᾱ_{t−1}) / ᾱ_{t−1})) ε̂(x_t, t)
//! ```
//!
//! by fixed-point iteration from `x_t = x_{t−1}`. One iteration is the usual DDIM inversion; more of
//! them undo the sampler's step exactly. [`Ddim::invert_with`] inverts a guided run.
//!
//! Sources: Song, Meng, Ermon, *Denoising Diffusion Implicit Models*, 2021, arXiv 2010.02502, eq.
//! 12 and 16; Mokady et al., *Null-text Inversion*, 2022, arXiv 2211.09794 (the usual inversion);
//! Pan et al., *Effective Real Image Editing with Accelerated Iterative Diffusion Inversion*, 2023,
//! arXiv 2309.04907 (fixed-point iteration).

use burn::config::Config;
use burn::tensor::Tensor;
use nabla_base::range;

use crate::asking::{Asking, Direction, Reading};
use crate::denoiser::{Denoised, Denoiser};
use crate::level::{Level, Levels, signal_ratio};
use crate::sampler::{Sampling, Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip, check_eta};
use crate::seeded_noise::SeededNoise;

/// The sampler; see the [module documentation](self).
///
/// To run it step by step, alternate [`denoise`](Self::denoise) and [`step`](Self::step) with an index that
/// falls to 0.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::ddim::Ddim;
/// use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
/// use nabla_diffusion::sampler::Sampler;
/// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
/// use nabla_diffusion::seeded_noise::SeededNoise;
///
/// let device = Device::flex();
/// let model = GaussianDenoiser::new(
///     Tensor::<4>::zeros([1, 3, 8, 8], &device),
///     Tensor::ones([1, 3, 8, 8], &device) * 0.25,
///     Prediction::Epsilon,
/// );
/// let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 20)?;
/// let sampler = Sampler::new(Ddim::new(), schedule)?;
/// let mut noise = SeededNoise::new(42, 0);
/// let start = noise.normal([2, 3, 8, 8], &device);
/// let pictures = sampler.sample(&model, start.clone(), &mut noise)?;
/// let found = Ddim::new().invert(sampler.levels(), &model, pictures, 5)?;
/// assert!((found - start).abs().max().into_scalar::<f32>() < 1e-2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Ddim {
    /// The share of fresh noise, in `[0, 1]`. Default 0: deterministic.
    #[config(default = 0.0)]
    pub eta: f64,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit; 1 suits a model of
    /// pixels in `[−1, 1]`.
    pub clip: Option<f64>,
    /// Whether `ε̂` is recomputed from the clipped `x̂_0` (as in GLIDE) instead of keeping the model's `ε̂`.
    /// Default false.
    #[config(default = false)]
    pub rederive_epsilon: bool,
}

/// Needs noise if `η` is above 0.
impl<const D: usize> Solver<D> for Ddim {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        check_eta("DDIM", self.eta)?;
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let answer = ask.ask(x, index, levels.level(index))?;
            let noisy = self.noise_std(levels, index) > 0.0;
            let z = noisy.then(|| ask.normal(&answer.x));
            let denoised = Denoised::new(answer.sample, answer.epsilon);
            Ok(self.step(levels, denoised, index, z))
        }))
    }

    fn reading(&self) -> Reading {
        Reading {
            clip: self.clip,
            direction: match self.rederive_epsilon {
                true => Direction::OfClipped,
                false => Direction::OfModel,
            },
        }
    }
}

impl Ddim {
    /// `σ_t`, the standard deviation of the fresh noise at step `index`.
    ///
    /// # Panics
    /// If `index` is not below the number of steps.
    pub fn noise_std(&self, levels: &Levels, index: usize) -> f64 {
        let scale = levels.level_after(index).scale();
        self.eta * levels.posterior(index).variance.sqrt() * scale
    }

    /// The model's prediction at step `index`, clipped as configured.
    ///
    /// - `x`: `x_t`, `[batch, …]`
    ///
    /// # Errors
    /// If the model fails, its output has the wrong shape, or it predicts `ε` where no signal is left.
    ///
    /// # Panics
    /// If `index` is not below the number of steps.
    pub fn denoise<const D: usize>(
        &self,
        levels: &Levels,
        model: &dyn Denoiser<D>,
        x: &Tensor<D>,
        index: usize,
    ) -> Result<Denoised<D>, SamplerError> {
        let level = levels.level(index);
        let denoised = Denoised::predict(model, x, level)?.clip(self.clip);
        Ok(match self.rederive_epsilon {
            true => denoised.rederive_epsilon(x, level),
            false => denoised,
        })
    }

    /// `x_{t−1}` from the prediction for `x_t`.
    ///
    /// - `noise`: `z`, of the shape of the prediction, standard normal; if `None`, the mean is returned. Not
    ///   used if [`noise_std`](Self::noise_std) is 0.
    ///
    /// # Panics
    /// If `index` is not below the number of steps, or the shapes do not agree.
    pub fn step<const D: usize>(
        &self,
        levels: &Levels,
        denoised: Denoised<D>,
        index: usize,
        noise: Option<Tensor<D>>,
    ) -> Tensor<D> {
        let to = levels.level_after(index);
        let std = self.noise_std(levels, index);
        // Negative only through rounding: σ_t² is at most 1 − ᾱ_{t−1}.
        let direction = (to.noise_power() - std * std).max(0.0).sqrt();
        let mean = denoised.sample * to.signal() + denoised.epsilon * direction;
        match noise {
            Some(noise) if std > 0.0 => mean + noise * std,
            _ => mean,
        }
    }

    /// `x_t` from `x_{t−1}`: undoes the deterministic step at `index`, without clipping.
    ///
    /// - `x`: `x_{t−1}`, `[batch, …]`
    /// - `iterations`: the number of model calls; 1 is the usual inversion
    ///
    /// # Errors
    /// If `iterations` is 0, the model fails, its output has the wrong shape, or it predicts `ε` where no
    /// signal is left.
    ///
    /// # Panics
    /// If `index` is not below the number of steps.
    pub fn invert_step<const D: usize>(
        &self,
        levels: &Levels,
        model: &dyn Denoiser<D>,
        x: &Tensor<D>,
        index: usize,
        iterations: usize,
    ) -> Result<Tensor<D>, SamplerError> {
        inverted_step(levels, x, index, iterations, |noisier, level| {
            Denoised::predict(model, noisier, level)
        })
    }

    /// The noise from which a run with `η = 0` draws the sample `x`.
    ///
    /// - `x`: `x_0`, `[batch, …]`
    /// - `iterations`: the number of model calls per step; 1 is the usual inversion, whose error falls with
    ///   the number of steps; a few more make it exact if the steps are small enough for the iteration to
    ///   converge
    /// - returns `x_T`, of the shape of `x`
    ///
    /// # Errors
    /// As [`invert_step`](Self::invert_step).
    pub fn invert<const D: usize>(
        &self,
        levels: &Levels,
        model: &dyn Denoiser<D>,
        x: Tensor<D>,
        iterations: usize,
    ) -> Result<Tensor<D>, SamplerError> {
        self.invert_with(levels, Sampling::of(model), x, iterations)
    }

    /// The noise from which a guided run with `η = 0` draws the sample `x`, for editing: invert under one
    /// condition, and sample under another from the noise that was found.
    ///
    /// With [`CfgPlusPlus`](crate::guidance::CfgPlusPlus) this is the inversion of its paper, whose error is
    /// smaller than under classifier-free guidance. If a prediction sets sample and direction independently, the
    /// step that is undone is `signal' x̂_0 + noise' ε̂`:
    ///
    /// ```text
    /// x̂_0 = (x_{t−1} − noise' ε̂)/signal',   x_t = signal x̂_0 + noise ε̂_0
    /// ```
    ///
    /// where `ε̂_0` makes up the state of the call with its clean sample.
    ///
    /// - `sampling`: the model, its guidance, and corrections, which see every call
    /// - `x`: `x_0`, `[batch, …]`
    /// - `iterations`: the number of queries per step, see [`invert`](Self::invert)
    /// - returns `x_T`, of the shape of `x`
    ///
    /// # Errors
    /// As [`invert_step`](Self::invert_step), and if the guidance or a correction fails.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::ddim::Ddim;
    /// use nabla_diffusion::denoiser::{Condition, GaussianMixture, MixturePart, RowConditions};
    /// use nabla_diffusion::guidance::CfgPlusPlus;
    /// use nabla_diffusion::sampler::{Sampler, Sampling};
    /// use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
    /// use nabla_diffusion::seeded_noise::SeededNoise;
    ///
    /// let part = |class, place| MixturePart { class, weight: 1.0, mean: vec![place; 2], deviation: 0.3 };
    /// let model = GaussianMixture::new(vec![part(0, -1.0), part(1, 1.0)])?;
    /// let [from, to] = [0, 1].map(|class| RowConditions::new(&model, vec![Condition::Given(class)]));
    /// let schedule = NoiseScheduleConfig::new().init()?.respace(Spacing::Trailing, 50)?;
    /// let sampler = Sampler::new(Ddim::new(), schedule)?;
    /// let mut guidance = CfgPlusPlus::new();
    ///
    /// // A point of class 0 becomes one of class 1.
    /// let point = Tensor::<2>::from_floats([[-1.1, -0.9]], &Device::flex());
    /// let inverted = Sampling::of(&from).guided_by(&mut guidance);
    /// let noise = Ddim::new().invert_with(sampler.levels(), inverted, point, 1)?;
    /// let drawn = Sampling::of(&to).guided_by(&mut guidance);
    /// let edited = drawn.run(&sampler, noise, &mut SeededNoise::new(0, 0))?;
    /// assert!(edited.min().into_scalar::<f32>() > 0.2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn invert_with<const D: usize>(
        &self,
        levels: &Levels,
        sampling: Sampling<'_, D>,
        mut x: Tensor<D>,
        iterations: usize,
    ) -> Result<Tensor<D>, SamplerError> {
        let reading = Reading {
            clip: None,
            direction: Direction::OfModel,
        };
        // No noise is drawn.
        let mut noise = SeededNoise::new(0, 0);
        sampling.asking(reading, levels.steps(), &mut noise, |ask| {
            for index in 0..levels.steps() {
                x = inverted_step(levels, &x, index, iterations, |noisier, level| {
                    ask.predict(noisier, index, level)
                })?;
            }
            Ok(x)
        })
    }
}

/// Undoes the step at `index` by fixed-point iteration.
fn inverted_step<const D: usize>(
    levels: &Levels,
    x: &Tensor<D>,
    index: usize,
    iterations: usize,
    mut predict: impl FnMut(&Tensor<D>, Level) -> Result<Denoised<D>, SamplerError>,
) -> Result<Tensor<D>, SamplerError> {
    range::at_least("number of iterations of the inversion", iterations, 1)?;
    let (level, previous) = (levels.level(index), levels.level_after(index));
    let scale = signal_ratio(previous, level);
    let direction = level.noise() - scale * previous.noise();
    let mut noisier = x.clone();
    for _ in 0..iterations {
        let denoised = predict(&noisier, level)?;
        noisier = match denoised.apart {
            false => x.clone() * scale + denoised.epsilon * direction,
            true => {
                let epsilon = denoised.epsilon.clone();
                let sample = (x.clone() - epsilon * previous.noise()) / previous.signal();
                level.mix(sample, denoised.rederive_epsilon(&noisier, level).epsilon)
            }
        };
    }
    Ok(noisier)
}
