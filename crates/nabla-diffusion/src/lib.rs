//! Diffusion models on Burn: schedules, denoisers, samplers, training.
//!
//! * [`NoiseSchedule`] says how noisy each step is, a [`Denoiser`] what a model makes of it
//!   ([`Prediction`]: `ε`, `x_0`, `v`, the score, a flow);
//! * [`SamplerKind`] names the samplers; one by one they are [`ddim`], [`ddpm`], [`pndm`], [`euler`],
//!   [`heun`], [`lms`], [`dpm_solver_multistep`], [`dpm_solver_singlestep`], [`deis`], [`dpm2`], [`unipc`],
//!   [`lcm`] and [`probability_flow`]. Each is made of a schedule by `init`, and draws by `sample` or
//!   `sample_with_hook`, which take the same;
//! * [`stable_diffusion`]: Stable Diffusion from files, whole ([`StableDiffusion`]) and as a denoiser
//!   ([`ConditionedUNet`]), by the feature `stable-diffusion`, on by default;
//! * [`rddm`], [`rddm_sampler`], [`rddm_trainer`]: residual denoising diffusion; [`prior`]: the
//!   super-resolution prior made of it;
//! * [`unet`], [`ema`]: a network and what trains it; its operations are those of [`nabla_kernels`].

pub mod churn;
pub mod ddim;
pub mod ddpm;
pub mod deis;
pub mod denoiser;
pub mod dpm2;
pub mod dpm_solver_multistep;
pub mod dpm_solver_singlestep;
pub mod euler;
pub mod heun;
pub mod lcm;
pub mod lms;
pub mod multistep;
mod phi;
pub mod pndm;
pub mod prior;
pub mod probability_flow;
pub mod rddm;
pub mod rddm_sampler;
pub mod rddm_trainer;
pub mod sampler;
pub mod schedule;
/// Random numbers that are the same on every device; see [`nabla_grad::seeded_noise`].
pub use nabla_grad::seeded_noise;
/// A moving average of the weights; see [`nabla_train::ema`].
pub use nabla_train::ema;
pub mod sigma_spacing;
#[cfg(feature = "stable-diffusion")]
pub mod stable_diffusion;
pub mod unet;
pub mod unipc;

pub use ddim::{Ddim, DdimConfig};
pub use ddpm::{Ddpm, DdpmConfig};
pub use denoiser::{
    ClosureDenoiser, Denoised, Denoiser, GaussianDenoiser, Prediction, SamplerError, SamplerHook,
    SamplerStep, denoiser, flow_denoiser,
};
pub use dpm_solver_multistep::{DpmSolverMultistep, DpmSolverMultistepConfig};
pub use ema::{Ema, EmaConfig};
pub use euler::{Euler, EulerConfig};
pub use heun::{Heun, HeunConfig};
pub use pndm::{Pndm, PndmConfig};
pub use prior::{PriorConfig, PriorError, SuperResolutionPrior};
pub use probability_flow::{ProbabilityFlow, ProbabilityFlowConfig};
pub use sampler::{Sampler, SamplerConfig, SamplerKind};
pub use schedule::{
    AffineLevel, BetaSchedule, KarrasSigmas, NoiseLevel, NoiseSchedule, NoiseScheduleConfig,
    ScheduleError, Spacing,
};
pub use seeded_noise::SeededNoise;
pub use sigma_spacing::SigmaSpacing;
#[cfg(feature = "stable-diffusion")]
pub use stable_diffusion::conditioned_unet::{ConditionedUNet, classifier_free_guidance};
#[cfg(feature = "stable-diffusion")]
pub use stable_diffusion::model_folder::ModelFolder;
#[cfg(feature = "stable-diffusion")]
pub use stable_diffusion::pipeline::{
    Conditioning, LoadOptions, SamplingOptions, StableDiffusion, StableDiffusionError, Start,
};
#[cfg(feature = "stable-diffusion")]
pub use stable_diffusion::single_file::SingleFile;
pub use unet::{UNet, UNetConfig};
pub use unipc::{UniPc, UniPcConfig};
