//! OmniSSR: super-resolution of 360-degree panoramas with a planar diffusion prior.
//!
//! A low-resolution equirectangular panorama `y` is enlarged `s` times along each side. A prior for planar
//! pictures runs on 18 tangent planes `x⁽ⁱ⁾` at once. In every step, two corrections of its clean prediction
//! make the planes agree with one another and with `y`:
//!
//! * *Octadecaplex tangent information interaction* (OTII): the planes are blended into a panorama,
//!   where overlapping planes meet, and projected back;
//! * *gradient decomposition* (GD): the panorama moves only in the range of the degradation `A`,
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
//! The pipeline is generic over the [`TangentPrior`], which has its own sampler: a latent prior with its
//! encoder and decoder, or a pixel prior, for which both are the identity. There are two here:
//! [`SuperResolutionPrior`](nabla_diffusion::SuperResolutionPrior) (RDDM, built into the program) and
//! [`AncestralPrior`] (any noise predictor, with the paper's ancestral sampler); the paper's own is
//! [`StableSrPrior`](crate::StableSrPrior).
//!
//! Source: Li, Sheng, Li, Zhang, *OmniSSR: Zero-shot Omnidirectional Image Super-Resolution using Stable
//! Diffusion Model*, ECCV 2024, arXiv 2404.10312, with three differences from the official code: samples lie
//! at pixel centres, which makes the code's fourfold enlargement before each projection unnecessary
//! ([`TangentOptions::official`] works like the code); detail of the panorama that the planes cannot hold is
//! not lost in the exchange ([`Merge`]); and `A` acts on the whole panorama, around the 180-degree meridian,
//! instead of on blocks.

mod tangent_prior;

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};
use nabla_data::Raster;
use nabla_diffusion::rddm::RddmError;
use nabla_diffusion::sampler_error::{Cancelled, SamplerError};
use nabla_diffusion::schedule::ScheduleError;
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::stable_diffusion::stable_sr::StableSrError;
use serde::{Deserialize, Serialize};

use crate::pixels::{to_rasters, to_tensor};
use crate::{
    BicubicDown, Boundary, ColourFix, ColourFixError, DegradationError, Erp, ErpArea, ErpError,
    Interpolation, ResampleError, TangentError, TangentGrid, TangentOptions, TangentProjection,
    gradient_decomposition, resize_erp,
};

pub(crate) use tangent_prior::ancestral;
pub use tangent_prior::{AncestralPrior, CleanCorrection, PriorRun, TangentPrior};

/// Why a panorama cannot be made larger.
#[derive(Debug, thiserror::Error)]
pub enum OmniSsrError {
    /// A strength or the scale is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
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

/// Unwraps OmniSSR's own errors that passed through a sampler.
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

/// What is merged from the planes `x` into the panorama `E`, in OTII and at the end.
///
/// Without resampling, both would be the same, because `x_init = ERP→TP(E_up)`. With resampling,
/// [`Pictures`](Self::Pictures) loses in each exchange the detail that the planes cannot hold, especially
/// near the poles, where a panorama's pixels lie much closer together along its rows than a plane's. With
/// [`Changes`](Self::Changes), a prior that changes nothing gives exactly the enlarged panorama.
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
        "changes" => Self::Changes, "What the model changed in them, so that resampling loses nothing of the rest";
        "pictures" => Self::Pictures, "The planes themselves, as in the published code";
    }
}

/// Configuration of [`OmniSsr`]. The defaults are the paper's, except for `merge`.
#[derive(Clone, Debug, PartialEq)]
pub struct OmniSsrConfig {
    /// Factor `s` of enlargement along each side.
    pub scale: usize,
    /// Steps `N` of the prior's sampler. Default: the prior's own (the paper's is 200 for Stable
    /// Diffusion).
    pub steps: Option<usize>,
    /// `γ_l`, the share of the corrected planes in the clean prediction, in `[0, 1]`. With 0 there is neither
    /// OTII nor GD within the steps. Default 0.5.
    pub gamma_latent: f64,
    /// `γ_e`, strength of GD within the steps, in `[0, 1]`. Default 1.
    pub gamma_erp: f64,
    /// `γ_p`, strength of GD on the final panorama, in `[0, 1]`. Default 1.
    pub gamma_post: f64,
    /// The colour correction of the final planes. Default: the one that the prior needs.
    pub colour_fix: Option<ColourFix>,
    /// The tangent planes. Default: the octadecaplex with 75 degrees.
    pub grid: TangentGrid,
    /// Side `P` of a plane, pixels. Default: half the height of the large panorama, at which both sample
    /// equally finely, rounded up as the prior requires.
    pub plane_size: Option<usize>,
    /// How panorama and planes are resampled.
    pub tangent: TangentOptions,
    /// What is merged from the planes into the panorama. Default: their changes.
    pub merge: Merge,
    /// Seed of the noise. Default 42.
    pub seed: u64,
    /// The maximum side, in pixels, that the network computes at once; 0 for whole planes. Default 1024.
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
    /// Only the planes that overlap the part are computed. `A` acts on the part: around the
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
            range::within(format!("{field} of OmniSSR"), value, 0.0..=1.0)?;
        }
        if self.scale == 0 {
            // A panorama without pixels would give no operator below; the other scales are checked by their operators.
            BicubicDown::check_scale(0)?;
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

/// The progress of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OmniSsrStep {
    /// The number of planes that the network has predicted, over all steps.
    pub done: usize,
    /// The total number of planes that it will predict.
    pub total: usize,
}

/// The result of a run, before it is written to a file.
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
    /// The areas of the input and of the output.
    low: ErpArea,
    area: ErpArea,
    /// The number of planes that see each pixel, if some pixels are not seen by any plane.
    seen: Option<Raster>,
    config: OmniSsrConfig,
}

impl<P: TangentPrior> OmniSsr<P> {
    /// The prior.
    pub fn prior(&self) -> &P {
        &self.prior
    }

    /// The area of the panorama before it is enlarged.
    pub fn low(&self) -> ErpArea {
        self.low
    }

    /// The area of the enlarged panorama.
    pub fn area(&self) -> ErpArea {
        self.area
    }

    /// The projection between the large panorama and the planes that see the area.
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

    /// Enlarges `low`, `[3, h, w]` in `[0, 1]`, to `[3, s h, s w]`; for a whole panorama, `w = 2 h`.
    ///
    /// `observe` is called while the network works, and may stop the run.
    ///
    /// # Errors
    /// If the panorama has the wrong size or number of channels, or samples that are not finite; if the
    /// sampler does not support the number of steps; [`OmniSsrError::Cancelled`] if `observe` stops the run.
    pub fn upscale(
        &self,
        low: &Raster,
        observe: &mut dyn FnMut(OmniSsrStep) -> ControlFlow<()>,
    ) -> Result<Raster, OmniSsrError> {
        Ok(self.run(low, observe)?.panorama)
    }

    /// [`upscale`](Self::upscale) with measurements of the result.
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
        // An encoder's noise comes from a separate stream, so it does not affect the sampler's noise.
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

    /// The area of the output.
    fn cut(&self, panorama: Raster) -> Raster {
        if self.area.is_full() {
            panorama
        } else {
            self.area.cut(&panorama)
        }
    }

    /// TP→ERP of `planes`, according to [`Merge`].
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

/// The start of a run.
struct Start<'a> {
    /// `y`
    low: &'a Raster,
    /// `E_up`
    enlarged: Raster,
    /// `x_init`, `[planes, 3, P, P]` in `[−1, 1]`.
    init: Tensor<4>,
}

#[cfg(test)]
mod tests;
