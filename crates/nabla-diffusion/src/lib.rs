//! Diffusion models on Burn: paths, denoisers, guidance, samplers, training.
//!
//! * [`Level`] says how noisy a state is, on any affine Gaussian path: a [`NoiseSchedule`], a
//!   [`StraightLine`], or your own [`NoisePath`];
//! * a [`Denoiser`] is a model on tensors of any rank ([`Prediction`]: `ε`, `x_0`, `v`, the score, a flow);
//! * a [`Guidance`] combines the predictions under several conditions into one ([`guidance`]); a
//!   [`Correction`] sees every prediction, and may change it, fail, or stop the run ([`correction`]);
//! * a [`Solver`] is the mathematics of a sampler ([`sampler`]): [`ddim`], [`ddpm`], [`pndm`], [`euler`],
//!   [`heun`], [`lms`], [`dpm_solver_multistep`], [`dpm_solver_singlestep`], [`deis`], [`dpm2`], [`unipc`],
//!   [`lcm`] and [`probability_flow`]. [`samplers`] has them by name, with options by name. A solver over
//!   [`Levels`] is a [`Sampler`], which draws samples;
//! * [`stable_diffusion`]: Stable Diffusion from files, as a whole ([`StableDiffusion`]) and as a denoiser
//!   ([`ConditionedUNet`]), behind the feature `stable-diffusion`, which is on by default;
//! * [`autodiffusion`]: which steps to take, and which blocks of the network to skip ([`block_skipping`]);
//! * [`adjoint_dpm`]: gradients of a finished sample through all steps;
//! * [`kinetic_optimal`]: the path on which the flow to given data moves least;
//! * [`flow_matching`]: flows of points, learned on any path;
//! * [`likelihood`]: the density of a sample;
//! * [`rddm`], [`rddm_sampler`], [`rddm_trainer`]: residual denoising diffusion; [`prior`]: the
//!   super-resolution prior built on it;
//! * [`class_denoiser`], [`denoiser_training`]: small models of labelled pictures, which `nabla train denoiser`
//!   trains;
//! * [`restore`]: pictures from linear measurements of them, with a denoiser as the prior;
//! * [`unet`], [`ema`]: a network, and the moving average for its training; the network uses the operations
//!   of [`nabla_kernels`].
//!
//! Paths, denoisers, guidances, corrections and solvers are open traits: each module shows how to write your
//! own.

pub mod adjoint_dpm;
pub mod asking;
pub mod autodiffusion;
pub mod block_skipping;
pub mod churn;
pub mod class_denoiser;
pub mod correction;
pub mod cosine_path;
pub mod ddim;
pub mod ddpm;
pub mod deis;
pub mod denoiser;
pub mod denoiser_training;
pub mod dpm2;
pub mod dpm_solver_multistep;
pub mod dpm_solver_singlestep;
pub mod euler;
pub mod exploding_path;
pub mod filter_prompt;
pub mod flow_matching;
pub mod flow_velocity;
pub mod guidance;
pub mod guidance_trial;
pub mod heun;
pub mod kinetic_optimal;
pub mod lcm;
pub mod level;
pub mod likelihood;
pub mod lms;
pub mod multistep;
pub mod ode_method;
mod phi;
pub mod pndm;
pub mod prediction;
pub mod prior;
pub mod probability_flow;
pub mod rddm;
pub mod rddm_sampler;
pub mod rddm_trainer;
pub mod restore;
pub mod sample_quality;
pub mod sampler;
pub mod sampler_error;
pub mod schedule;
/// Registries: the members of a family by name, with options by name; see [`nabla_base::registry`].
pub use nabla_base::registry;
/// Random numbers that are the same on every device; see [`nabla_grad::seeded_noise`].
pub use nabla_grad::seeded_noise;
/// A moving average of the weights; see [`nabla_train::ema`].
pub use nabla_train::ema;
pub mod sigma_spacing;
#[cfg(feature = "stable-diffusion")]
pub mod stable_diffusion;
pub mod unet;
pub mod unipc;
mod vector_jacobian;
pub mod vp_path;

pub use adjoint_dpm::AdjointDpm;
pub use asking::{Answer, Asking, Direction, Reading, Step};
pub use class_denoiser::{ClassDenoiser, ClassDenoiserConfig};
pub use correction::Correction;
pub use ddim::Ddim;
pub use ddpm::Ddpm;
pub use denoiser::{
    ClosureDenoiser, Condition, Denoised, Denoiser, GaussianDenoiser, denoiser, flow_denoiser,
};
pub use dpm_solver_multistep::DpmSolverMultistep;
pub use ema::{Ema, EmaConfig};
pub use euler::Euler;
pub use guidance::{ClassifierFree, Evaluations, Guidance, ModelAt, NoGuidance, guidances};
pub use heun::Heun;
pub use level::{Level, Levels, NoisePath, StraightLine};
pub use pndm::Pndm;
pub use prediction::Prediction;
pub use prior::{PriorConfig, PriorError, SuperResolutionPrior};
pub use probability_flow::ProbabilityFlow;
pub use registry::{Options, Registry, RegistryError};
pub use sampler::{Sampler, Sampling, Solver, SolverRun, Steps, samplers, steps};
pub use sampler_error::{Cancelled, OwnError, SamplerError};
pub use schedule::{BetaSchedule, NoiseSchedule, NoiseScheduleConfig, ScheduleError, Spacing};
pub use seeded_noise::SeededNoise;
pub use sigma_spacing::{KarrasSigmas, SigmaSpacing};
#[cfg(feature = "stable-diffusion")]
pub use stable_diffusion::conditioned_unet::ConditionedUNet;
#[cfg(feature = "stable-diffusion")]
pub use stable_diffusion::model_folder::ModelFolder;
#[cfg(feature = "stable-diffusion")]
pub use stable_diffusion::pipeline::{
    Conditioning, LoadOptions, SamplingOptions, StableDiffusion, StableDiffusionError, Start,
};
#[cfg(feature = "stable-diffusion")]
pub use stable_diffusion::single_file::SingleFile;
pub use unet::{UNet, UNetConfig};
pub use unipc::UniPc;
