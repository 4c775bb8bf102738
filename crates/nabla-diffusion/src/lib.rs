//! Diffusion models on Burn: schedules, denoisers, samplers, training.

pub mod ddim;
pub mod ddpm;
pub mod denoiser;
pub mod ema;
pub mod kernels;
pub mod rddm;
pub mod schedule;
pub mod seeded_noise;
pub mod unet;
