//! Diffusion models on Burn: schedules, denoisers, samplers, training.

pub mod unet;
