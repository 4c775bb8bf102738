//! Stable Diffusion and its relatives, from the usual folders and files.
//!
//! CLIP turns a text into a sequence of vectors, a UNet that attends to them predicts the noise of a latent
//! picture, a sampler of this crate removes the noise, and an autoencoder turns the latent into pixels.
//! Everything is built from the configuration files of the folder, or with the published sizes for a single
//! file, in `f32`, `f16` or `bf16`, on any of Burn's devices.
//!
//! Sources: Rombach et al., *High-Resolution Image Synthesis with Latent Diffusion Models*, 2022, arXiv
//! 2112.10752; Podell et al., *SDXL*, 2023, arXiv 2307.01952; Radford et al., *Learning Transferable
//! Visual Models From Natural Language Supervision*, 2021, arXiv 2103.00020 (CLIP).

pub mod attention;
pub mod autoencoder_kl;
mod clip_layer;
pub mod clip_text;
pub mod clip_tokenizer;
pub mod clip_vision;
pub mod conditioned_unet;
pub mod control_net;
mod control_net_files;
pub mod controllable_feature_wrapping;
pub mod effect;
pub mod ip_adapter;
pub mod latent_diffusion_names;
pub mod lora;
pub mod model_folder;
pub mod model_parts;
pub mod norm_statistics;
pub mod pipeline;
pub mod prompt;
mod prompt_parts;
pub mod published_models;
pub mod resnet_block;
mod safetensors_header;
mod sampler_choice;
pub mod scheduler_config;
pub mod single_file;
pub mod spatial_feature_transform;
pub mod stable_sr;
pub mod style;
pub mod text_encoding;
pub mod text_plan_trial;
pub mod textual_inversion;
pub mod time_aware_encoder;
pub mod tiny_autoencoder;
pub mod transformer;
pub mod unet2d_condition;
pub mod unet_encoder;
pub mod weights;
