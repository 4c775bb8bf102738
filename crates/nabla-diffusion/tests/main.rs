//! All integration tests of the crate, in one binary: each binary links the whole of Burn.

// What is not a test itself but called by tests isn't recognised as one.
#![allow(clippy::unwrap_used)]

mod attachments;
mod autodiffusion;
mod autoencoder_kl;
mod clip_text;
mod doors;
mod effects;
mod ema;
mod flow_matching;
mod guidance;
mod guidance_methods;
mod guidance_reference;
mod guidance_trial;
mod named_samplers;
mod probability_flow;
mod rddm;
mod rddm_trainer;
mod reference_values;
mod restore;
mod samplers;
mod schedule;
mod single_file;
mod stable_diffusion_guidance;
mod stable_diffusion_pipeline;
mod stable_diffusion_unet;
mod stable_sr;
mod styles;
mod tiny_models;
#[path = "tiny_models/single_file.rs"]
mod tiny_single_file;
mod unet_gradients;
