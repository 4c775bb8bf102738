//! The jobs of the program, one file each.

pub mod claims;
pub mod doctor;
pub mod evaluate;
pub mod list;
pub mod project;
pub mod train;
pub mod upscale;
