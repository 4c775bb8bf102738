//! OmniSSR: super-resolution of 360-degree panoramas with a planar diffusion prior.
//!
//! A low-resolution equirectangular panorama `y` gets `s` times as many pixels along each side. A
//! prior that knows only planar pictures runs on 18 tangent planes `x⁽ⁱ⁾` at once, and two corrections of
//! its clean prediction at every step make the planes agree with one another and with `y`:
//!
//! * *Octadecaplex tangent information interaction* (OTII): the planes are blended into a panorama,
//!   where overlapping planes meet, and projected back;
//! * *gradient decomposition* (GD): the panorama moves in the range of the degradation `A` only,
//!   `Ẽ = E − γ A†(A E − y)`.
//!
//! ```text
//! E_up = bicubic(y, s),   x_init = ERP→TP(E_up),   z_N from x_init and noise
//! for k = N − 1 … 0:
//!   z_0 = prior(z_k, k | x_init)
//!   x   = clamp(decode(z_0))
//!   E   = clamp(merge(x));   E ← E − γ_e A†(A E − y)                     OTII, GD
//!   x̃   = clamp(ERP→TP(E))                                               OTII
//!   z_0 ← (1 − γ_l) z_0 + γ_l encode(x̃)
//!   z_{k−1} = step(z_k, z_0)
//! x = colour_fix(finish(z_0), x_init)
//! E = merge(x);   E ← E − γ_p A†(A E − y)                                post-processing
//!
//! merge(x) = E_up + TP→ERP(x − x_init), or TP→ERP(x) in the published code   (see Merge)
//! ```
//!
//! The pipeline is generic over the [`TangentPrior`], which brings its sampler: a latent one with
//! its encoder and decoder, or one of pixels, for which both are the identity. Two are here:
//! [`SuperResolutionPrior`] (RDDM, what the program carries) and [`AncestralPrior`] (any noise
//! predictor, with the paper's ancestral sampler); the paper's own is
//! [`StableSrPrior`](crate::StableSrPrior).
//!
//! Source: Li, Sheng, Li, Zhang, *OmniSSR: Zero-shot Omnidirectional Image Super-Resolution using
//! Stable Diffusion Model*, ECCV 2024, arXiv 2404.10312, with three differences to the official
//! code: samples lie at pixel centres, which makes its fourfold enlargement before each projection
//! needless ([`TangentOptions::official`] is its way); what the planes cannot hold of the panorama
//! is not lost in the exchange ([`Merge`]); and `A` acts on the whole panorama, around the
//! 180-degree meridian, instead of on blocks.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use nabla_data::Raster;
use nabla_diffusion::asking::Step;
use nabla_diffusion::ddpm::Ddpm;
use nabla_diffusion::denoiser::{Denoised, Denoiser};
use nabla_diffusion::prior::SuperResolutionPrior;
use nabla_diffusion::rddm::{RddmError, ResidualPrediction};
use nabla_diffusion::rddm_sampler::{RddmInput, RddmSamplingConfig, ResidualDenoiser};
use nabla_diffusion::sampler::{Sampler, Sampling};
use nabla_diffusion::sampler_error::{Cancelled, OwnError, SamplerError};
use nabla_diffusion::schedule::{NoiseSchedule, ScheduleError, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::stable_diffusion::stable_sr::StableSrError;
use serde::{Deserialize, Serialize};

use crate::pixels::{to_rasters, to_tensor};
use crate::{
    BicubicDown, Boundary, ColourFix, ColourFixError, DegradationError, Erp, ErpArea, ErpError,
    Interpolation, ResampleError, TangentError, TangentGrid, TangentOptions, TangentProjection,
    gradient_decomposition, resize_erp,
};

/// Why a panorama cannot be made larger.
#[derive(Debug, thiserror::Error)]
pub enum OmniSsrError {
    /// A strength outside [0, 1].
    #[error("OmniSSR's {field} is {value}, but it must lie in [0, 1]")]
    Gamma {
        /// Which one.
        field: &'static str,
        /// Its value.
        value: f64,
    },
    /// The panorama has another number of channels than three.
    #[error("OmniSSR needs a panorama of 3 channels (red, green, blue), but this one has {0}")]
    Channels(usize),
    /// The panorama has another size than the one OmniSSR was set up for.
    #[error(
        "OmniSSR was set up for panoramas of {} x {} pixels, but this one is {width} x {height}",
        expected.width(),
        expected.height()
    )]
    Size {
        /// What it was set up for.
        expected: ErpArea,
        /// Columns found.
        width: usize,
        /// Rows found.
        height: usize,
    },
    /// A sample is not a number or infinite.
    #[error(
        "the panorama holds a sample that is not finite: channel {channel}, row {row}, column {column}"
    )]
    NotFinite {
        /// Channel, 0 for red.
        channel: usize,
        /// Row.
        row: usize,
        /// Column.
        column: usize,
    },
    /// The prior needs planes whose side is a multiple of its own.
    #[error(
        "the prior needs tangent planes whose side is a multiple of {multiple}, but it is {side}"
    )]
    PlaneSide {
        /// The multiple.
        multiple: usize,
        /// The side.
        side: usize,
    },
    /// The observer broke off.
    #[error("the super-resolution was cancelled")]
    Cancelled,
    /// The size is not that of a panorama.
    #[error(transparent)]
    Erp(#[from] ErpError),
    /// The planes cannot be set up.
    #[error(transparent)]
    Tangent(#[from] TangentError),
    /// The degradation cannot be set up.
    #[error(transparent)]
    Degradation(#[from] DegradationError),
    /// The panorama cannot be enlarged.
    #[error(transparent)]
    Resample(#[from] ResampleError),
    /// The colours cannot be corrected.
    #[error(transparent)]
    ColourFix(#[from] ColourFixError),
    /// The sampler of the RDDM prior fails.
    #[error(transparent)]
    Rddm(#[from] RddmError),
    /// The sampler fails.
    #[error(transparent)]
    Sampler(SamplerError),
    /// The schedule does not have as many steps as asked for.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// StableSR cannot take the planes.
    #[error(transparent)]
    StableSr(#[from] StableSrError),
}

/// An error of OmniSSR's own that went through a sampler is itself again.
impl From<SamplerError> for OmniSsrError {
    fn from(error: SamplerError) -> Self {
        match error.own::<Self>() {
            Ok(own) => own,
            Err(SamplerError::Cancelled) => Self::Cancelled,
            Err(SamplerError::Rddm(error)) => Self::Rddm(error),
            Err(error) => Self::Sampler(error),
        }
    }
}

impl From<Cancelled> for OmniSsrError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// How a prior is to run.
#[derive(Clone, Copy)]
pub struct PriorRun<'a> {
    /// Steps of its sampler.
    pub steps: usize,
    /// Greatest side, in pixels, of what its network computes at once; 0 for whole planes.
    pub tile: usize,
    /// To be called after each plane of each step; its error asks the prior to end at once with it.
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

/// What OmniSSR makes of a clean prediction: `[planes, channels, P, P]` of the prior's latents to
/// the same. Its error ends the run.
pub type CleanCorrection<'a> = dyn FnMut(Tensor<4>) -> Result<Tensor<4>, OmniSsrError> + 'a;

/// A generative prior of planar pictures, with its sampler.
///
/// Pixels are `[planes, 3, P, P]` in `[−1, 1]`; latents have whatever shape the prior gives them.
pub trait TangentPrior {
    /// Where its tensors live.
    fn device(&self) -> Device;

    /// Steps of its sampler unless told otherwise.
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
    /// - `correct`: to be called with every clean prediction `z_0` before the update that uses it
    /// - returns `z_0` of the last step, latents
    ///
    /// # Errors
    /// If the sampler cannot take so many steps, the network does not fit, or those of `run` and `correct`.
    fn sample(
        &self,
        init: &Tensor<4>,
        run: PriorRun<'_>,
        noise: &mut SeededNoise,
        correct: &mut CleanCorrection<'_>,
    ) -> Result<Tensor<4>, OmniSsrError>;

    /// The final decoding, which may look at `init` (StableSR's controllable feature wrapping).
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
        // Plane by plane, which bounds the memory and shows the progress.
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
/// // A "model" that knows the enlarged picture up to a standard deviation of 0.1.
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
                // The denoiser is asked for all planes at once.
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

/// What of the planes `x` is merged into the panorama `E`, in OTII and at the end.
///
/// Without resampling both are the same, since `x_init = ERP→TP(E_up)`. With it, whatever the planes
/// cannot hold of the panorama is lost in each exchange with [`Pictures`](Self::Pictures): above all
/// near the poles, where a panorama's pixels lie much closer along its rows than a plane's. With
/// [`Changes`](Self::Changes) a prior that changes nothing gives exactly the enlarged panorama.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Merge {
    /// What the prior changed: `E = E_up + TP→ERP(x − x_init)`.
    #[default]
    Changes,
    /// The planes themselves, as in the published code: `E = TP→ERP(x)`.
    Pictures,
}

nabla_base::choices! {
    Merge: "merge" {
        "changes" => Self::Changes, "What the model changed in them, so that resampling takes nothing from the rest";
        "pictures" => Self::Pictures, "The planes themselves, as in the published code";
    }
}

/// Configuration of [`OmniSsr`]. The defaults are the paper's, but for `merge`.
#[derive(Clone, Debug, PartialEq)]
pub struct OmniSsrConfig {
    /// Factor `s` of enlargement along each side.
    pub scale: usize,
    /// Steps `N` of the prior's sampler. Default: the prior's own (the paper's is 200 for Stable
    /// Diffusion).
    pub steps: Option<usize>,
    /// `γ_l`, how much of the corrected planes enters the clean prediction, in `[0, 1]`. With 0
    /// there is neither OTII nor GD within the steps. Default 0.5.
    pub gamma_latent: f64,
    /// `γ_e`, strength of GD within the steps, in `[0, 1]`. Default 1.
    pub gamma_erp: f64,
    /// `γ_p`, strength of GD on the final panorama, in `[0, 1]`. Default 1.
    pub gamma_post: f64,
    /// How the colours of the final planes are corrected. Default: as the prior needs it.
    pub colour_fix: Option<ColourFix>,
    /// The tangent planes. Default: the octadecaplex with 75 degrees.
    pub grid: TangentGrid,
    /// Side `P` of a plane, pixels. Default: half the height of the large panorama, at which both
    /// sample alike, rounded up to what the prior needs.
    pub plane_size: Option<usize>,
    /// How panorama and planes are resampled.
    pub tangent: TangentOptions,
    /// What of the planes is merged into the panorama. Default: their changes.
    pub merge: Merge,
    /// Seed of the noise. Default 42.
    pub seed: u64,
    /// Greatest side, in pixels, of what the network computes at once; 0 for whole planes. Default
    /// 1024.
    pub tile: usize,
}

impl OmniSsrConfig {
    /// The paper's configuration for the factor `scale`.
    pub fn new(scale: usize) -> Self {
        Self {
            scale,
            steps: None,
            gamma_latent: 0.5,
            gamma_erp: 1.0,
            gamma_post: 1.0,
            colour_fix: None,
            grid: TangentGrid::octadecaplex(),
            plane_size: None,
            tangent: TangentOptions::of(Interpolation::BICUBIC),
            merge: Merge::default(),
            seed: 42,
            tile: 1024,
        }
    }

    /// Prepares the super-resolution of panoramas of the size `low`.
    ///
    /// # Errors
    /// If a strength is out of range, the enlarged panorama is too large, or planes or degradation
    /// cannot be set up.
    pub fn init<P: TangentPrior>(&self, prior: P, low: Erp) -> Result<OmniSsr<P>, OmniSsrError> {
        self.init_area(prior, ErpArea::full(low))
    }

    /// Prepares the super-resolution of pictures of a part of the sphere.
    ///
    /// Only the planes that see something of the part are computed. `A` acts on the part: around the
    /// 180-degree meridian if it covers the full circle, and reflected at its borders otherwise.
    ///
    /// # Errors
    /// As [`Self::init`].
    pub fn init_area<P: TangentPrior>(
        &self,
        prior: P,
        low: ErpArea,
    ) -> Result<OmniSsr<P>, OmniSsrError> {
        for (field, value) in [
            ("gamma_latent", self.gamma_latent),
            ("gamma_erp", self.gamma_erp),
            ("gamma_post", self.gamma_post),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(OmniSsrError::Gamma { field, value });
            }
        }
        if self.scale == 0 {
            return Err(DegradationError::Scale { scale: 0 }.into());
        }
        let area = low.enlarged(self.scale)?;
        let (high, height) = (area.whole(), area.whole().height());
        let sides = if area.is_full_circle() {
            Boundary::Wrap
        } else {
            Boundary::Reflect
        };
        let size = [area.height(), area.width()];
        let operator = BicubicDown::with_boundaries(self.scale, size, Boundary::Reflect, sides)?;
        let multiple = prior.multiple().max(1);
        let side = self
            .plane_size
            .unwrap_or_else(|| height.div_ceil(2).next_multiple_of(multiple));
        if !side.is_multiple_of(multiple) {
            return Err(OmniSsrError::PlaneSide { multiple, side });
        }
        let mut projection = TangentProjection::new(self.grid.clone(), high, side, self.tangent)?;
        let mut seen = None;
        if !area.is_full() {
            projection = projection.facing(&area)?;
            seen = Some(projection.coverage());
        }
        Ok(OmniSsr {
            prior,
            projection,
            operator,
            low,
            area,
            seen,
            config: self.clone(),
        })
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OmniSsrStep {
    /// Planes that the network has predicted, over all steps.
    pub done: usize,
    /// Planes that it predicts in all.
    pub total: usize,
}

/// What one run gave, before it is made a file.
#[derive(Clone, Debug)]
pub struct OmniSsrOutput {
    /// The panorama or the part of it, `[3, s h, s w]`, not clamped (8-bit files clamp).
    pub panorama: Raster,
    /// How much the prior's final planes disagree where they overlap
    /// ([`TangentProjection::spread`]), in the squared unit of the samples.
    pub spread: f64,
    /// The greatest difference between `A` of the panorama and the input.
    pub inconsistency: f64,
}

/// OmniSSR; see the [module documentation](self).
///
/// ```
/// use std::ops::ControlFlow;
/// use burn::tensor::Device;
/// use nabla_data::Raster;
/// use nabla_diffusion::prior::SuperResolutionPrior;
/// use nabla_panorama::{Erp, OmniSsrConfig};
///
/// let low = Raster::from_fn(3, 16, 32, |c, y, x| (c + y + x) as f32 / 50.0);
/// let prior = SuperResolutionPrior::embedded(&Device::flex())?;
/// let config = OmniSsrConfig { steps: Some(1), ..OmniSsrConfig::new(2) };
/// let omnissr = config.init(&prior, Erp::of(&low)?)?;
/// let high = omnissr.upscale(&low, &mut |_| ControlFlow::Continue(()))?;
/// assert_eq!(high.shape(), [3, 32, 64]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct OmniSsr<P> {
    prior: P,
    projection: TangentProjection,
    operator: BicubicDown,
    /// What the input covers, and the output.
    low: ErpArea,
    area: ErpArea,
    /// How many of the planes see each pixel, if some see none.
    seen: Option<Raster>,
    config: OmniSsrConfig,
}

impl<P: TangentPrior> OmniSsr<P> {
    /// The prior.
    pub fn prior(&self) -> &P {
        &self.prior
    }

    /// What the panorama covers before it is enlarged.
    pub fn low(&self) -> ErpArea {
        self.low
    }

    /// What the enlarged panorama covers.
    pub fn area(&self) -> ErpArea {
        self.area
    }

    /// The projection between the large panorama and the planes, those that see the area.
    pub fn projection(&self) -> &TangentProjection {
        &self.projection
    }

    /// The degradation `A`.
    pub fn operator(&self) -> &BicubicDown {
        &self.operator
    }

    /// Steps of the prior's sampler.
    pub fn steps(&self) -> usize {
        self.config
            .steps
            .unwrap_or_else(|| self.prior.default_steps())
    }

    /// Enlarges `low`, `[3, h, w]` in `[0, 1]`, to `[3, s h, s w]`; of a whole panorama `w = 2 h`.
    ///
    /// `observe` sees the network at work, and may break off.
    ///
    /// # Errors
    /// If the panorama has another size than this was set up for, other channels or samples that are
    /// not finite; if the sampler cannot take so many steps; [`OmniSsrError::Cancelled`] after a
    /// break.
    pub fn upscale(
        &self,
        low: &Raster,
        observe: &mut dyn FnMut(OmniSsrStep) -> ControlFlow<()>,
    ) -> Result<Raster, OmniSsrError> {
        Ok(self.run(low, observe)?.panorama)
    }

    /// [`upscale`](Self::upscale) with what can be told of the result.
    ///
    /// # Errors
    /// As [`upscale`](Self::upscale).
    pub fn run(
        &self,
        low: &Raster,
        observe: &mut dyn FnMut(OmniSsrStep) -> ControlFlow<()>,
    ) -> Result<OmniSsrOutput, OmniSsrError> {
        self.check(low)?;
        let config = &self.config;
        let device = self.prior.device();
        let height = self.projection.erp().height();
        let enlarged = if self.low.is_full() {
            resize_erp(low, height, Interpolation::BICUBIC)?
        } else {
            resize_erp(&self.low.extended(low), height, Interpolation::BICUBIC)?
        };
        let init = to_tensor(&self.projection.to_tangent(&enlarged)?, &device);
        let start = Start {
            low,
            enlarged,
            init,
        };

        let done = Cell::new(0);
        let total = self.steps() * self.projection.planes().len();
        let observe = RefCell::new(observe);
        let plane_done = || {
            done.set((done.get() + 1).min(total));
            let step = OmniSsrStep {
                done: done.get(),
                total,
            };
            match (observe.borrow_mut())(step).is_break() {
                true => Err(Cancelled),
                false => Ok(()),
            }
        };
        let run = PriorRun {
            steps: self.steps(),
            tile: config.tile,
            plane_done: &plane_done,
        };

        let mut noise = SeededNoise::new(config.seed, 0);
        // An encoder's noise comes from a stream of its own: the sampler's does not move with it.
        let mut encoder_noise = SeededNoise::new(config.seed, 1);
        let mut correct = |clean: Tensor<4>| match config.gamma_latent == 0.0 {
            true => Ok(clean),
            false => self.correct(clean, &start, &mut encoder_noise),
        };
        let clean = self
            .prior
            .sample(&start.init, run, &mut noise, &mut correct)?;

        let fix = config.colour_fix.unwrap_or_else(|| self.prior.colour_fix());
        let mut planes = to_rasters(self.prior.finish(clean, &start.init)?);
        if fix != ColourFix::None {
            let style = to_rasters(start.init.clone());
            planes = planes
                .into_iter()
                .zip(&style)
                .map(|(plane, style)| fix.apply(plane, style))
                .collect::<Result<_, _>>()?;
        }
        let spread = self.projection.spread(&planes)?;
        let panorama = self.cut(self.merge(planes, &start)?);
        let gamma = config.gamma_post as f32;
        let panorama = gradient_decomposition(&self.operator, &panorama, low, gamma)?;
        let inconsistency = crate::LinearOperator::apply(&self.operator, &panorama)?
            .data()
            .iter()
            .zip(low.data())
            .map(|(a, y)| f64::from((a - y).abs()))
            .fold(0.0, f64::max);
        Ok(OmniSsrOutput {
            panorama,
            spread,
            inconsistency,
        })
    }

    pub(crate) fn check(&self, low: &Raster) -> Result<(), OmniSsrError> {
        let [channels, height, width] = low.shape();
        if channels != 3 {
            return Err(OmniSsrError::Channels(channels));
        }
        if [height, width] != [self.low.height(), self.low.width()] {
            return Err(OmniSsrError::Size {
                expected: self.low,
                width,
                height,
            });
        }
        match low.data().iter().position(|v| !v.is_finite()) {
            Some(i) => Err(OmniSsrError::NotFinite {
                channel: i / (height * width),
                row: i / width % height,
                column: i % width,
            }),
            None => Ok(()),
        }
    }

    /// What the output covers of a panorama.
    fn cut(&self, panorama: Raster) -> Raster {
        if self.area.is_full() {
            panorama
        } else {
            self.area.cut(&panorama)
        }
    }

    /// TP→ERP of `planes`, as [`Merge`] has it.
    fn merge(&self, planes: Vec<Raster>, start: &Start<'_>) -> Result<Raster, OmniSsrError> {
        Ok(match self.config.merge {
            Merge::Pictures => {
                let mut merged = self.projection.to_erp(&planes)?;
                if let Some(seen) = &self.seen {
                    for channel in 0..merged.channels() {
                        let enlarged = start.enlarged.plane(channel).iter();
                        let pixels = merged.plane_mut(channel).iter_mut();
                        for ((pixel, before), &seen) in pixels.zip(enlarged).zip(seen.data()) {
                            if seen == 0.0 {
                                *pixel = *before;
                            }
                        }
                    }
                }
                merged
            }
            Merge::Changes => {
                let before = to_rasters(start.init.clone());
                self.projection
                    .merge_changes(&start.enlarged, &before, planes)?
            }
        })
    }

    /// OTII and GD: `z_0` to `(1 − γ_l) z_0 + γ_l encode(x̃)`.
    fn correct(
        &self,
        clean: Tensor<4>,
        start: &Start<'_>,
        noise: &mut SeededNoise,
    ) -> Result<Tensor<4>, OmniSsrError> {
        let config = &self.config;
        let device = clean.device();
        let planes = to_rasters(self.prior.decode(clean.clone())?.clamp(-1.0, 1.0));
        let clamp = |panorama: Raster| panorama.map(|v| v.clamp(0.0, 1.0));
        let mut panorama = clamp(self.merge(planes, start)?);
        if config.gamma_erp > 0.0 {
            let gamma = config.gamma_erp as f32;
            if self.area.is_full() {
                panorama = gradient_decomposition(&self.operator, &panorama, start.low, gamma)?;
            } else {
                let part = self.area.cut(&panorama);
                let part = gradient_decomposition(&self.operator, &part, start.low, gamma)?;
                self.area.paste(&part, &mut panorama);
            }
        }
        let planes = to_tensor(&self.projection.to_tangent(&panorama)?, &device);
        let corrected = self.prior.encode(planes.clamp(-1.0, 1.0), noise)?;
        Ok(clean * (1.0 - config.gamma_latent) + corrected * config.gamma_latent)
    }
}

/// What a run begins with.
struct Start<'a> {
    /// `y`
    low: &'a Raster,
    /// `E_up`
    enlarged: Raster,
    /// `x_init`, `[planes, 3, P, P]` in `[−1, 1]`.
    init: Tensor<4>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LinearOperator, ws_psnr};
    use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction, denoiser};
    use nabla_diffusion::schedule::NoiseScheduleConfig;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A smooth picture of the sphere.
    fn scene(height: usize) -> Raster {
        let erp = Erp::new(height, 2 * height).unwrap();
        Raster::from_fn(3, height, 2 * height, |c, y, x| {
            let d = crate::direction(erp.longitude(x as f64), erp.latitude(y as f64));
            let wave = (7.0 * d[0] + c as f64).sin() * (9.0 * d[1]).cos() + (8.0 * d[2]).sin();
            (0.5 + 0.2 * wave) as f32
        })
    }

    fn go(_: OmniSsrStep) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// A prior that knows the planes up to a standard deviation and draws the rest.
    fn gaussian(deviation: f64) -> impl TangentPrior {
        AncestralPrior::new(
            NoiseScheduleConfig::new().init().unwrap(),
            Device::flex(),
            move |init: &Tensor<4>| {
                let variance = init.ones_like() * deviation * deviation;
                Box::new(GaussianDenoiser::new(
                    init.clone(),
                    variance,
                    Prediction::Epsilon,
                )) as _
            },
        )
    }

    #[test]
    fn the_result_reduces_to_the_input() {
        let high = scene(64);
        for scale in [2, 4] {
            let low = BicubicDown::new(scale, Erp::of(&high).unwrap())
                .unwrap()
                .apply(&high)
                .unwrap();
            let config = OmniSsrConfig {
                steps: Some(10),
                ..OmniSsrConfig::new(scale)
            };
            let omnissr = config.init(gaussian(0.1), Erp::of(&low).unwrap()).unwrap();
            let out = omnissr.run(&low, &mut go).unwrap();
            assert_eq!(out.panorama.shape(), high.shape());
            assert!(out.inconsistency < 1e-4, "{}", out.inconsistency);
        }
    }

    /// A part of the sphere is enlarged as the whole is: the same far from its borders, and close to
    /// them still what the input was reduced from.
    #[test]
    fn a_part_of_the_sphere_is_enlarged_in_its_place() {
        let high = scene(64);
        let erp = Erp::of(&high).unwrap();
        let low = BicubicDown::new(2, erp).unwrap().apply(&high).unwrap();
        let whole = Erp::of(&low).unwrap();
        let parts = [([0, 8], [64, 16]), ([10, 6], [30, 20]), ([50, 0], [30, 14])];
        for (offset, size) in parts {
            let area = ErpArea::new(whole, offset, size).unwrap();
            for merge in [Merge::Changes, Merge::Pictures] {
                let config = OmniSsrConfig {
                    steps: Some(5),
                    merge,
                    colour_fix: Some(ColourFix::None),
                    ..OmniSsrConfig::new(2)
                };
                let omnissr = config.init_area(gaussian(0.02), area).unwrap();
                // A band around the full circle is seen from everywhere.
                let fewer = omnissr.projection().planes().len() < 18;
                assert_eq!(fewer, size[0] < 64, "{offset:?}");
                let part = area.cut(&low);
                let out = omnissr.run(&part, &mut go).unwrap();
                assert_eq!(out.panorama.shape(), [3, 2 * size[1], 2 * size[0]]);
                assert!(out.inconsistency < 1e-4, "{}", out.inconsistency);
                let truth = omnissr.area().cut(&high);
                let quality = crate::psnr(&out.panorama, &truth).unwrap();
                let enlarged =
                    resize_erp(&area.extended(&part), 64, Interpolation::BICUBIC).unwrap();
                let enlarged = crate::psnr(&omnissr.area().cut(&enlarged), &truth).unwrap();
                // The prior is the enlarged panorama with a little noise: not worse but for that.
                assert!(quality > enlarged.min(34.0) - 1.0, "{quality} {enlarged}");
            }
        }
    }

    /// A band around the full circle goes around the meridian, another part does not.
    #[test]
    fn only_a_full_circle_wraps() {
        let whole = Erp::new(16, 32).unwrap();
        let operator = |size: [usize; 2]| {
            let area = ErpArea::new(whole, [0, 4], size).unwrap();
            let omnissr = OmniSsrConfig::new(2)
                .init_area(gaussian(0.1), area)
                .unwrap();
            let large = omnissr.area();
            // A bright first column: does it reach the last one?
            let bright = Raster::from_fn(1, large.height(), large.width(), |_, _, x| {
                f32::from(u8::from(x < 2))
            });
            omnissr.operator().apply(&bright).unwrap()
        };
        let (band, part) = (operator([32, 8]), operator([20, 8]));
        assert!(band.get(0, 3, 31).abs() > 1e-3);
        assert_eq!(part.get(0, 3, 19), 0.0);
    }

    /// With planes that agree and an exact input nothing is left to correct.
    #[test]
    fn a_prior_that_draws_nothing_gives_the_enlarged_panorama() {
        let low = scene(32);
        let config = OmniSsrConfig {
            steps: Some(5),
            gamma_post: 0.0,
            gamma_erp: 0.0,
            colour_fix: Some(ColourFix::None),
            ..OmniSsrConfig::new(2)
        };
        let enlarged = resize_erp(&low, 64, Interpolation::BICUBIC).unwrap();
        let psnr = |merge| {
            let config = OmniSsrConfig {
                merge,
                ..config.clone()
            };
            let omnissr = config.init(gaussian(1e-4), Erp::of(&low).unwrap()).unwrap();
            let out = omnissr.upscale(&low, &mut go).unwrap();
            ws_psnr(&out, &enlarged).unwrap()
        };
        let (pictures, changes) = (psnr(Merge::Pictures), psnr(Merge::Changes));
        assert!(pictures > 40.0, "{pictures}");
        // The noise of the prior is all that is left.
        assert!(changes > 75.0, "{changes}");
    }

    /// The paper's reason for OTII: what the planes draw independently is made to agree.
    #[test]
    fn interaction_makes_overlapping_planes_agree() {
        let low = scene(32);
        let spread = |gamma_latent| {
            let config = OmniSsrConfig {
                steps: Some(20),
                gamma_latent,
                colour_fix: Some(ColourFix::None),
                ..OmniSsrConfig::new(2)
            };
            let omnissr = config.init(gaussian(0.2), Erp::of(&low).unwrap()).unwrap();
            omnissr.run(&low, &mut go).unwrap().spread
        };
        let (alone, together) = (spread(0.0), spread(0.5));
        assert!(together < 0.5 * alone, "{together} against {alone}");
    }

    #[test]
    fn the_seed_decides_every_bit() {
        let low = scene(16);
        let run = |seed| {
            let config = OmniSsrConfig {
                steps: Some(3),
                seed,
                ..OmniSsrConfig::new(2)
            };
            let omnissr = config.init(gaussian(0.1), Erp::of(&low).unwrap()).unwrap();
            omnissr.upscale(&low, &mut go).unwrap()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn progress_reaches_its_end_and_a_break_ends_the_run() {
        let low = scene(16);
        let config = OmniSsrConfig {
            steps: Some(3),
            ..OmniSsrConfig::new(2)
        };
        let omnissr = config.init(gaussian(0.1), Erp::of(&low).unwrap()).unwrap();
        let mut steps = Vec::new();
        omnissr
            .upscale(&low, &mut |step| {
                steps.push(step.done);
                assert_eq!(step.total, 54);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(steps, (1..=54).collect::<Vec<_>>());
        let error = omnissr
            .upscale(&low, &mut |_| ControlFlow::Break(()))
            .unwrap_err();
        assert!(matches!(error, OmniSsrError::Cancelled));
    }

    /// A prior that cannot encode what it is given back: its error, and no other, ends the run.
    struct Mute(AtomicUsize);

    impl TangentPrior for Mute {
        fn device(&self) -> Device {
            Device::flex()
        }
        fn default_steps(&self) -> usize {
            5
        }
        fn encode(
            &self,
            _pixels: Tensor<4>,
            _noise: &mut SeededNoise,
        ) -> Result<Tensor<4>, OmniSsrError> {
            Err(OmniSsrError::Channels(7))
        }
        fn sample(
            &self,
            init: &Tensor<4>,
            run: PriorRun<'_>,
            noise: &mut SeededNoise,
            correct: &mut CleanCorrection<'_>,
        ) -> Result<Tensor<4>, OmniSsrError> {
            let schedule = NoiseScheduleConfig::new().init().unwrap();
            let network = denoiser(Prediction::Sample, |z: Tensor<4>, _| {
                self.0.fetch_add(1, Ordering::Relaxed);
                z
            });
            ancestral(&schedule, run.steps, &network, init, noise, correct)
        }
    }

    #[test]
    fn an_error_of_a_correction_comes_out_as_itself_and_at_once() {
        let low = scene(16);
        let config = OmniSsrConfig::new(2);
        let omnissr = config
            .init(Mute(AtomicUsize::new(0)), Erp::of(&low).unwrap())
            .unwrap();
        let error = omnissr.upscale(&low, &mut go).unwrap_err();
        assert!(matches!(error, OmniSsrError::Channels(7)), "{error}");
        assert_eq!(omnissr.prior().0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn wrong_panoramas_and_strengths_are_refused() {
        let low = scene(16);
        let erp = Erp::of(&low).unwrap();
        let error = |config: OmniSsrConfig, picture: &Raster| match config.init(gaussian(0.1), erp)
        {
            Ok(omnissr) => omnissr.upscale(picture, &mut go).unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        let config = OmniSsrConfig {
            steps: Some(1),
            ..OmniSsrConfig::new(2)
        };
        let wrong = OmniSsrConfig {
            gamma_latent: 1.5,
            ..config.clone()
        };
        assert!(error(wrong, &low).contains("gamma_latent is 1.5"));
        assert!(
            error(
                OmniSsrConfig {
                    scale: 0,
                    ..config.clone()
                },
                &low
            )
            .len()
                > 10
        );
        assert!(
            error(
                OmniSsrConfig {
                    scale: 5000,
                    ..config.clone()
                },
                &low
            )
            .contains("at most")
        );
        let wrong = OmniSsrConfig {
            steps: Some(0),
            ..config.clone()
        };
        assert!(error(wrong, &low).contains("0 steps"));
        assert!(error(config.clone(), &scene(32)).contains("set up for panoramas of 32 x 16"));
        assert!(error(config.clone(), &Raster::zeros(1, 16, 32)).contains("has 1"));
        let mut broken = low.clone();
        broken.data_mut()[16 * 32 + 33] = f32::NAN;
        assert!(error(config, &broken).contains("channel 1, row 1, column 1"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        /// Turning the camera by whole longitudes of the grid's symmetry turns the result.
        #[test]
        fn no_longitude_is_special(turn in 1usize..3) {
            let low = scene(12);
            // The octadecaplex has a threefold symmetry about the poles.
            let shift = turn * 24 / 3;
            let turned = Raster::from_fn(3, 12, 24, |c, y, x| low.get(c, y, (x + shift) % 24));
            let config = OmniSsrConfig { steps: Some(1), ..OmniSsrConfig::new(2) };
            let omnissr = config.init(gaussian(1e-3), Erp::of(&low).unwrap()).unwrap();
            let a = omnissr.upscale(&low, &mut go).unwrap();
            let b = omnissr.upscale(&turned, &mut go).unwrap();
            for c in 0..3 {
                for y in 0..24 {
                    for x in 0..48 {
                        let d = a.get(c, y, (x + 2 * shift) % 48) - b.get(c, y, x);
                        prop_assert!(d.abs() < 0.02, "{d}");
                    }
                }
            }
        }
    }
}
