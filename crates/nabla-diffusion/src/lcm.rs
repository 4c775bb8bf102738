//! LCM: sampling from a latent consistency model in 1 to 8 steps.
//!
//! A consistency model is distilled so that its answer at any time is already the picture at the end of the
//! probability-flow equation. Each step takes this answer and adds new noise up to the next level:
//!
//! ```text
//! f(x, t) = c_skip(t) x + c_out(t) x̂_0
//! x' = √ᾱ' f(x, t) + √(1 − ᾱ') z,   in the last step x' = f(x, t)
//! c_skip = σ_d² / ((s t)² + σ_d²),   c_out = s t / √((s t)² + σ_d²)
//! ```
//!
//! with fresh noise `z`, `σ_d = 0.5` and `s = 10`, which make `f(x, 0) = x`. The times are some of the
//! `original_inference_steps` for which the model was distilled:
//! [`SchedulerConfig`](crate::stable_diffusion::scheduler_config::SchedulerConfig) selects them. A run from a
//! picture takes the last of these steps, as with every sampler here; diffusers' pipeline instead spreads all
//! of them below the strength. With a model that is not a consistency model, the pictures are blurred.
//!
//! Sources: Luo, Tan, Huang, Li, Zhao, *Latent Consistency Models: Synthesizing High-Resolution Images with
//! Few-Step Inference*, 2023, arXiv 2310.04378, algorithm 3; the multistep sampler and the boundary
//! condition are of Song, Dhariwal, Chen, Sutskever, *Consistency Models*, 2023, arXiv 2303.01469.

use burn::config::Config;
use nabla_base::range;

use crate::asking::{Asking, Reading};
use crate::level::Levels;
use crate::sampler::{Grid, Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip};

/// `σ_d`, the standard deviation of the data in the boundary condition.
const SIGMA_DATA: f64 = 0.5;

/// The sampler; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::denoiser::{Prediction, denoiser};
/// use nabla_diffusion::lcm::Lcm;
/// use nabla_diffusion::sampler::Sampler;
/// use nabla_diffusion::schedule::NoiseScheduleConfig;
/// use nabla_diffusion::seeded_noise::SeededNoise;
///
/// let device = Device::flex();
/// // A consistency model of a data set whose only picture is black.
/// let model = denoiser(Prediction::Sample, |x: Tensor<4>, _level| x.zeros_like());
/// let schedule = NoiseScheduleConfig::new().init()?.respace_to(&[259, 499, 759, 999])?;
/// let sampler = Sampler::new(Lcm::new(), schedule)?;
/// let mut noise = SeededNoise::new(42, 0);
/// let start = noise.normal([1, 3, 8, 8], &device);
/// let picture = sampler.sample(&model, start, &mut noise)?;
/// assert!(picture.abs().max().into_scalar::<f32>() < 1e-3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Lcm {
    /// `s`, the factor of the times in the boundary condition. At least 0; default 10.
    #[config(default = 10.0)]
    pub timestep_scaling: f64,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
}

impl<const D: usize> Solver<D> for Lcm {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        check_clip(self.clip)?;
        range::not_negative("timestep scaling", self.timestep_scaling)?;
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let level = levels.level(index);
            let answer = ask.ask(x, index, level)?;
            let time = self.timestep_scaling * level.time();
            let hypot = time.hypot(SIGMA_DATA);
            // The scales apply to x in the variance-preserving form.
            let skip = (SIGMA_DATA / hypot).powi(2) / level.scale();
            let consistent = answer.x * skip + answer.sample * (time / hypot);
            Ok(match index {
                0 => consistent,
                _ => {
                    let z = ask.normal(&consistent);
                    levels.level_after(index).mix(consistent, z)
                }
            })
        }))
    }

    fn reading(&self) -> Reading {
        Reading::clipped(self.clip)
    }

    fn grid(&self) -> Grid {
        Grid::Distilled
    }
}
