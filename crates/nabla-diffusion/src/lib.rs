//! Diffusion models on Burn: schedules, denoisers, samplers, training.

pub mod ddim;
pub mod ddpm;
pub mod denoiser;
pub mod dpm_solver_multistep;
pub mod ema;
pub mod euler;
pub mod heun;
pub mod kernels;
pub mod lms;
pub mod multistep;
pub mod pndm;
pub mod prior;
pub mod rddm;
pub mod rddm_sampler;
pub mod rddm_trainer;
pub mod sampler;
pub mod schedule;
/// Random numbers that are the same on every device; see [`nabla_grad::seeded_noise`].
pub use nabla_grad::seeded_noise;
pub mod stable_diffusion;
pub mod transformer_kernels;
pub mod unet;
pub mod unipc;
