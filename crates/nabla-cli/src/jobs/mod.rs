//! The jobs of the program, one file each.

pub mod claims;
pub mod compare;
pub mod doctor;
pub mod evaluate;
mod experiment_flags;
mod index_base;
pub mod list;
pub mod measure;
mod measure_guidance;
pub mod privacy;
mod privacy_flags;
pub mod project;
pub mod restore;
pub mod sample;
pub mod search;
mod search_guidance;
mod search_steps;
pub mod solve;
pub mod train;
mod train_denoiser;
mod train_flow;
mod train_model;
pub mod tune;
mod tune_noise;
mod tune_style;
pub mod upscale;
