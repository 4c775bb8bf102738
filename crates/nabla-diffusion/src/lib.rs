//! Diffusion models on Burn: schedules, denoisers, samplers, training.

pub mod churn;
pub mod ddim;
pub mod ddpm;
pub mod deis;
pub mod denoiser;
pub mod dpm2;
pub mod dpm_solver_multistep;
pub mod dpm_solver_singlestep;
pub mod ema;
pub mod euler;
mod half_precision;
pub mod heun;
pub mod kernels;
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
pub mod sigma_spacing;
pub mod stable_diffusion;
pub mod transformer_kernels;
pub mod unet;
pub mod unipc;
