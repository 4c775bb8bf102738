//! Readers and writers of the real formats, and the small data sets that the repository carries.

mod raster;

pub use raster::{Raster, RasterSizeError};
