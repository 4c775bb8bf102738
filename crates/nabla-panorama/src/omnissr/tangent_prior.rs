//! Priors of planar pictures, with their samplers, which OmniSSR runs on the planes.

use burn::tensor::{Device, Tensor};
use nabla_diffusion::asking::Step;
use nabla_diffusion::ddpm::Ddpm;
use nabla_diffusion::denoiser::{Denoised, Denoiser};
use nabla_diffusion::prior::SuperResolutionPrior;
use nabla_diffusion::rddm::ResidualPrediction;
use nabla_diffusion::rddm_sampler::{RddmInput, RddmSamplingConfig, ResidualDenoiser};
use nabla_diffusion::sampler::{Sampler, Sampling};
use nabla_diffusion::sampler_error::{Cancelled, OwnError};
use nabla_diffusion::schedule::{NoiseSchedule, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;

use super::OmniSsrError;
use crate::ColourFix;

/// The options of a prior's run.
#[derive(Clone, Copy)]
pub struct PriorRun<'a> {
    /// Steps of its sampler.
    pub steps: usize,
    /// The maximum side, in pixels, that its network computes at once; 0 for whole planes.
    pub tile: usize,
    /// Must be called after each plane of each step; if it returns an error, the prior must return that error
    /// at once.
    pub plane_done: &'a dyn Fn() -> Result<(), Cancelled>,
}

impl std::fmt::Debug for PriorRun<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PriorRun")
            .field("steps", &self.steps)
            .field("tile", &self.tile)
            .finish_non_exhaustive()
    }
}

/// OmniSSR's correction of a clean prediction, from the prior's latents `[planes, channels, P, P]` to the
/// same. Its error ends the run.
pub type CleanCorrection<'a> = dyn FnMut(Tensor<4>) -> Result<Tensor<4>, OmniSsrError> + 'a;

/// A generative prior of planar pictures, with its sampler.
///
/// Pixels are `[planes, 3, P, P]` in `[−1, 1]`; latents have whatever shape the prior uses.
pub trait TangentPrior {
    /// The device of its tensors.
    fn device(&self) -> Device;

    /// The default number of sampler steps.
    fn default_steps(&self) -> usize;

    /// The side of a plane must be a multiple of this.
    fn multiple(&self) -> usize {
        1
    }

    /// The colour fix that it needs: the paper's for latent priors, whose colours drift.
    fn colour_fix(&self) -> ColourFix {
        ColourFix::None
    }

    /// Pixels to latents. A variational encoder draws from `noise`.
    ///
    /// # Errors
    /// If the planes do not have the size that the prior needs.
    fn encode(
        &self,
        pixels: Tensor<4>,
        noise: &mut SeededNoise,
    ) -> Result<Tensor<4>, OmniSsrError> {
        let _ = noise;
        Ok(pixels)
    }

    /// Latents to pixels, not clamped.
    ///
    /// # Errors
    /// If the latents are not the prior's.
    fn decode(&self, latents: Tensor<4>) -> Result<Tensor<4>, OmniSsrError> {
        Ok(latents)
    }

    /// Runs the sampler from the noised latents of `init` down to clean ones.
    ///
    /// - `init`: the planes of the enlarged panorama, `x_init`: the start and the condition, pixels
    /// - `correct`: must be called with every clean prediction `z_0` before the update that uses it
    /// - returns `z_0` of the last step, latents
    ///
    /// # Errors
    /// If the sampler does not support the number of steps, the network does not fit, and the errors of `run`
    /// and `correct`.
    fn sample(
        &self,
        init: &Tensor<4>,
        run: PriorRun<'_>,
        noise: &mut SeededNoise,
        correct: &mut CleanCorrection<'_>,
    ) -> Result<Tensor<4>, OmniSsrError>;

    /// The final decoding, which may use `init` (StableSR's controllable feature wrapping).
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    fn finish(&self, latents: Tensor<4>, init: &Tensor<4>) -> Result<Tensor<4>, OmniSsrError> {
        let _ = init;
        self.decode(latents)
    }
}

impl<P: TangentPrior + ?Sized> TangentPrior for &P {
    fn device(&self) -> Device {
        (**self).device()
    }
    fn default_steps(&self) -> usize {
        (**self).default_steps()
    }
    fn multiple(&self) -> usize {
        (**self).multiple()
    }
    fn colour_fix(&self) -> ColourFix {
        (**self).colour_fix()
    }
    fn encode(
        &self,
        pixels: Tensor<4>,
        noise: &mut SeededNoise,
    ) -> Result<Tensor<4>, OmniSsrError> {
        (**self).encode(pixels, noise)
    }
    fn decode(&self, latents: Tensor<4>) -> Result<Tensor<4>, OmniSsrError> {
        (**self).decode(latents)
    }
    fn sample(
        &self,
        init: &Tensor<4>,
        run: PriorRun<'_>,
        noise: &mut SeededNoise,
        correct: &mut CleanCorrection<'_>,
    ) -> Result<Tensor<4>, OmniSsrError> {
        (**self).sample(init, run, noise, correct)
    }
    fn finish(&self, latents: Tensor<4>, init: &Tensor<4>) -> Result<Tensor<4>, OmniSsrError> {
        (**self).finish(latents, init)
    }
}

/// The RDDM prior of pixels; its sampler is RDDM's, with `x_init` as the degraded picture.
impl TangentPrior for SuperResolutionPrior {
    fn device(&self) -> Device {
        SuperResolutionPrior::device(self).clone()
    }

    fn default_steps(&self) -> usize {
        self.config().sampling_steps
    }

    fn sample(
        &self,
        init: &Tensor<4>,
        run: PriorRun<'_>,
        noise: &mut SeededNoise,
        correct: &mut CleanCorrection<'_>,
    ) -> Result<Tensor<4>, OmniSsrError> {
        let predictor = self.predictor(run.tile);
        // Plane by plane, which limits the memory and shows the progress.
        let network = |x: Tensor<4>, times: [Tensor<1>; 2], condition: Option<Tensor<4>>| {
            let [planes, ..] = x.dims();
            let mut outputs: Vec<Vec<Tensor<4>>> = Vec::new();
            for plane in 0..planes {
                let one = plane..plane + 1;
                let x = x.clone().slice_dim(0, one.clone());
                let times = times.clone().map(|t| t.slice_dim(0, one.clone()));
                let condition = condition.clone().map(|c| c.slice_dim(0, one));
                outputs.push(predictor.predict(x, times, condition)?);
                (run.plane_done)()?;
            }
            let each = 0..outputs.first().map_or(0, Vec::len);
            let joined =
                each.map(|i| Tensor::cat(outputs.iter().map(|o| o[i].clone()).collect(), 0));
            Ok::<Vec<Tensor<4>>, OwnError>(joined.collect())
        };
        let sampler = self
            .rddm()
            .sampler(RddmSamplingConfig::new().with_steps(run.steps))?;
        let x = sampler.start(init, noise);
        let given = RddmInput::new(init.clone());
        let mut correction = |step: &Step<'_, 4, ResidualPrediction>,
                              prediction: ResidualPrediction|
         -> Result<ResidualPrediction, OmniSsrError> {
            Ok(step.prediction_of_clean(correct(prediction.clean)?, init))
        };
        Ok(sampler.run(&network, x, &given, noise, vec![&mut correction])?)
    }
}

/// Any diffusion model of pixels that predicts noise, picture or velocity, with the paper's
/// ancestral sampler: `N` of the training steps, evenly spaced, from `x_init` noised to the last.
///
/// `bind` gives the denoiser its condition, the planes `[planes, 3, P, P]` of the enlarged panorama.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::denoiser::{Denoiser, GaussianDenoiser, Prediction};
/// use nabla_diffusion::schedule::NoiseScheduleConfig;
/// use nabla_panorama::omnissr::AncestralPrior;
///
/// let device = Device::flex();
/// // A "model" that assumes the enlarged picture up to a standard deviation of 0.1.
/// let prior = AncestralPrior::new(NoiseScheduleConfig::new().init()?, device, |init: &Tensor<4>| {
///     let variance = init.ones_like() * 0.01;
///     Box::new(GaussianDenoiser::new(init.clone(), variance, Prediction::Epsilon)) as Box<dyn Denoiser>
/// });
/// # let _ = prior;
/// # Ok::<(), nabla_diffusion::schedule::ScheduleError>(())
/// ```
#[derive(Clone, Debug)]
pub struct AncestralPrior<F> {
    schedule: NoiseSchedule,
    device: Device,
    bind: F,
}

impl<F> AncestralPrior<F>
where
    F: Fn(&Tensor<4>) -> Box<dyn Denoiser>,
{
    /// A prior over the training schedule `schedule` on `device`.
    pub fn new(schedule: NoiseSchedule, device: Device, bind: F) -> Self {
        Self {
            schedule,
            device,
            bind,
        }
    }
}

impl<F> TangentPrior for AncestralPrior<F>
where
    F: Fn(&Tensor<4>) -> Box<dyn Denoiser>,
{
    fn device(&self) -> Device {
        self.device.clone()
    }

    /// The paper's 200, or as many as the schedule has.
    fn default_steps(&self) -> usize {
        self.schedule.steps().min(200)
    }

    fn colour_fix(&self) -> ColourFix {
        ColourFix::Adain
    }

    fn sample(
        &self,
        init: &Tensor<4>,
        run: PriorRun<'_>,
        noise: &mut SeededNoise,
        correct: &mut CleanCorrection<'_>,
    ) -> Result<Tensor<4>, OmniSsrError> {
        let denoiser = (self.bind)(init);
        let [planes, ..] = init.dims();
        ancestral(
            &self.schedule,
            run.steps,
            denoiser.as_ref(),
            init,
            noise,
            &mut |clean| {
                // The denoiser is called on all planes at once.
                for _ in 0..planes {
                    (run.plane_done)()?;
                }
                correct(clean)
            },
        )
    }
}

/// The paper's sampler: `steps` of the training steps, evenly spaced, from `init` noised to the last,
/// with fresh noise at each.
pub(crate) fn ancestral(
    schedule: &NoiseSchedule,
    steps: usize,
    denoiser: &dyn Denoiser,
    init: &Tensor<4>,
    noise: &mut SeededNoise,
    correct: &mut CleanCorrection<'_>,
) -> Result<Tensor<4>, OmniSsrError> {
    let schedule = schedule.respace(Spacing::Linspace, steps)?;
    let sampler = Sampler::new(Ddpm::new(), schedule)?;
    let z = noise.normal(init.dims(), &init.device());
    let start = sampler.levels().add_noise(init.clone(), z);
    let mut correction = |_: &Step<'_>, denoised: Denoised| -> Result<Denoised, OmniSsrError> {
        let sample = correct(denoised.sample.clone())?;
        Ok(denoised.with_sample(sample))
    };
    let sampling = Sampling::of(denoiser).corrected_by(&mut correction);
    Ok(sampling.run(&sampler, start, noise)?)
}
