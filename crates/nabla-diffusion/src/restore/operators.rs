//! The operators: what measurements do to pictures. One file each.

pub mod blur;
mod inpainting;
mod matrix;
pub mod mri;
pub mod radon;
mod right_vectors;
pub mod separable;

pub use blur::Blur;
pub use inpainting::Inpainting;
pub use matrix::MatrixOperator;
pub use mri::MultiCoilMri;
pub use radon::{FanBeam, ParallelBeam, Radon, views};
pub use separable::{Boundary, Reduction, Separable, bicubic_taps};
