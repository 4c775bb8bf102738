//! StableSR as the prior of OmniSSR, with which the method was published.
//!
//! ```text
//! c   = scale · encode(x_init)                                  condition, a draw from the posterior
//! z_N = √ᾱ_N c + √(1 − ᾱ_N) ε,   then the ancestral sampler along N of 1000 training steps
//! x   = decode(z_0 / scale, features of x_init, w)              controllable feature wrapping, w = 0.5
//! ```
//!
//! The text is empty and there is no guidance. The networks process a few planes at a time, so the memory
//! does not grow with their number; planes larger than the training size of the network (512 pixels) are
//! predicted in overlapping tiles.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use std::path::Path;
//! use burn::tensor::Device;
//! use nabla_data::Raster;
//! use nabla_diffusion::stable_diffusion::stable_sr::StableSr;
//! use nabla_diffusion::stable_diffusion::weights::Precision;
//! use nabla_panorama::{Erp, OmniSsrConfig, StableSrPrior};
//!
//! let model = StableSr::load(Path::new("StableSR"), &Device::flex(), Precision::F32)?;
//! let low = Raster::zeros(3, 256, 512);
//! let omnissr = OmniSsrConfig::new(4).init(StableSrPrior::new(model), Erp::of(&low)?)?;
//! let high = omnissr.upscale(&low, &mut |_| ControlFlow::Continue(()))?;
//! assert_eq!(high.shape(), [3, 1024, 2048]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Sources: Li, Sheng, Li, Zhang, *OmniSSR*, ECCV 2024, arXiv 2404.10312; Wang et al., *Exploiting
//! Diffusion Prior for Real-World Image Super-Resolution*, IJCV 2024, arXiv 2305.07015.

use burn::tensor::{Device, Tensor};
use nabla_diffusion::denoiser::denoiser;
use nabla_diffusion::schedule::{BetaSchedule, NoiseScheduleConfig};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::stable_diffusion::autoencoder_kl::TileOptions;
use nabla_diffusion::stable_diffusion::stable_sr::StableSr;

use crate::ColourFix;
use crate::omnissr::{CleanCorrection, OmniSsrError, PriorRun, TangentPrior, ancestral};

/// Pixels of all planes that a network processes at once: four of 512 x 512. The decoder needs about
/// 1 GiB for each of these in 32 bits.
const PIXELS_AT_ONCE: usize = 4 * 512 * 512;

/// StableSR with the sampler of OmniSSR; see the [module](self).
#[derive(Debug)]
pub struct StableSrPrior {
    model: StableSr,
    wrapping: f64,
}

impl StableSrPrior {
    /// The prior of a model, with a feature wrapping of 0.5.
    pub fn new(model: StableSr) -> Self {
        Self {
            model,
            wrapping: 0.5,
        }
    }

    /// The same with another feature wrapping `w`: 0 for the sampler's details, 1 for those of the enlarged
    /// picture.
    pub fn with_wrapping(mut self, wrapping: f64) -> Self {
        self.wrapping = wrapping;
        self
    }

    /// The model.
    pub fn model(&self) -> &StableSr {
        &self.model
    }

    /// Applies `compute` to a few planes at a time.
    ///
    /// - `positions`: the number of pixels of a position of `x`, along a side
    fn by_planes(
        x: &Tensor<4>,
        positions: usize,
        mut compute: impl FnMut(Tensor<4>, std::ops::Range<usize>) -> Result<Tensor<4>, OmniSsrError>,
    ) -> Result<Tensor<4>, OmniSsrError> {
        let [planes, _, height, width] = x.dims();
        let pixels = height * width * positions * positions;
        let count = (PIXELS_AT_ONCE / pixels.max(1)).max(1);
        let parts = (0..planes).step_by(count).map(|first| {
            let range = first..(first + count).min(planes);
            compute(x.clone().slice_dim(0, range.clone()), range)
        });
        Ok(Tensor::cat(parts.collect::<Result<Vec<_>, _>>()?, 0))
    }

    fn scale(&self) -> f64 {
        self.model.config().vae.scaling_factor
    }

    /// Tiles of at most `pixels` (0 for whole planes), and not larger than the network's training size.
    fn tiles(&self, pixels: usize) -> Option<TileOptions> {
        let TileOptions { size, overlap } = self.model.config().tiles();
        if pixels == 0 {
            return None;
        }
        let smaller = (pixels / self.model.factor()).clamp(1, size);
        Some(TileOptions {
            size: smaller,
            overlap: overlap * smaller / size,
        })
    }
}

impl TangentPrior for StableSrPrior {
    fn device(&self) -> Device {
        self.model.device().clone()
    }

    /// The paper's 200.
    fn default_steps(&self) -> usize {
        200
    }

    fn multiple(&self) -> usize {
        self.model.factor()
    }

    fn colour_fix(&self) -> ColourFix {
        ColourFix::Adain
    }

    fn encode(
        &self,
        pixels: Tensor<4>,
        noise: &mut SeededNoise,
    ) -> Result<Tensor<4>, OmniSsrError> {
        let latents = Self::by_planes(&pixels, 1, |pixels, _| {
            let posterior = self.model.encode(pixels)?;
            let draw = noise.normal(posterior.mean.dims(), &self.device());
            Ok(posterior.sample(draw))
        })?;
        Ok(latents * self.scale())
    }

    fn decode(&self, latents: Tensor<4>) -> Result<Tensor<4>, OmniSsrError> {
        let latents = latents / self.scale();
        Self::by_planes(&latents, self.model.factor(), |z, _| {
            Ok(self.model.decode(z)?)
        })
    }

    fn sample(
        &self,
        init: &Tensor<4>,
        run: PriorRun<'_>,
        noise: &mut SeededNoise,
        correct: &mut CleanCorrection<'_>,
    ) -> Result<Tensor<4>, OmniSsrError> {
        let condition = self.encode(init.clone(), noise)?;
        let tiles = self.tiles(run.tile);
        let network = denoiser(self.model.prediction(), |z: Tensor<4>, level| {
            Self::by_planes(&z, self.model.factor(), |z, planes| {
                let condition = condition.clone().slice_dim(0, planes.clone());
                let predicted = self.model.predict(z, level.time(), &condition, tiles)?;
                for _ in planes {
                    (run.plane_done)()?;
                }
                Ok(predicted)
            })
        });
        let schedule = NoiseScheduleConfig::new()
            .with_betas(BetaSchedule::STABLE_DIFFUSION)
            .init()?;
        ancestral(&schedule, run.steps, &network, &condition, noise, correct)
    }

    fn finish(&self, latents: Tensor<4>, init: &Tensor<4>) -> Result<Tensor<4>, OmniSsrError> {
        let latents = latents / self.scale();
        Self::by_planes(&latents, self.model.factor(), |z, planes| {
            let pixels = init.clone().slice_dim(0, planes);
            Ok(self.model.decode_wrapped(z, pixels, self.wrapping)?)
        })
    }
}
