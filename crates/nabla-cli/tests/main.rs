//! All integration tests of the crate, in one binary: each binary links the whole of Burn.

// What is not a test itself but called by tests isn't recognised as one.
#![allow(clippy::unwrap_used)]

mod desk;
mod domains;
mod equations;
mod inspect;
mod interrupts;
mod leakage;
mod linear_systems;
mod panorama_files;
mod privacy;
mod private_training;
mod program;
mod quantization;
mod restore;
mod sample_attachments;
mod sampling;
mod searching;
mod solve;
#[path = "../../nabla-diffusion/tests/tiny_models/single_file.rs"]
mod tiny_single_file;
mod training;
mod tuning;
