//! 360-degree panoramas: spherical geometry, metrics, and OmniSSR super-resolution.

pub mod cubemap;
mod erp;
mod gnomonic;
pub mod resample;
pub mod tangent;

pub use cubemap::{CubeFace, CubeLayout, Cubemap, CubemapError, CubemapProjection};
pub use erp::{Erp, ErpError, direction, longitude_latitude};
pub use resample::{Interpolation, ResampleError, Sampler, resize_erp, resize_planar};
pub use tangent::{
    Blend, Convention, TangentError, TangentGrid, TangentGridError, TangentOptions, TangentPlane,
    TangentProjection,
};
