//! 360-degree panoramas: spherical geometry, metrics, and OmniSSR super-resolution.

pub mod colour_fix;
pub mod cubemap;
pub mod degradation;
mod erp;
mod erp_area;
mod gnomonic;
pub mod linear_light;
pub mod metrics;
pub mod omnissr;
pub mod open_prior;
pub mod pictures;
pub mod pixels;
pub mod prior_training;
pub mod projection_files;
pub mod resample;
pub mod stable_sr_prior;
pub mod tangent;
pub mod whole_picture;

pub use colour_fix::{ColourFix, ColourFixError, adain, wavelet_colour_fix};
pub use cubemap::{CubeFace, CubeLayout, Cubemap, CubemapError, CubemapProjection};
pub use degradation::{
    BicubicDown, Boundary, DegradationError, LinearOperator, gradient_decomposition,
};
pub use erp::{Erp, ErpError, direction, longitude_latitude};
pub use erp_area::{ErpArea, ErpAreaError};
pub use metrics::{
    AreaEvaluation, Evaluation, MetricError, POLE_LATITUDE_DEGREES, PoleError, SeamError,
    SsimWeights, evaluate, evaluate_area, latitude_weights, pole_error, psnr, seam_error, ssim,
    to_8_bit, ws_psnr, ws_ssim, ws_ssim_with,
};
pub use omnissr::{
    Merge, OmniSsr, OmniSsrConfig, OmniSsrError, OmniSsrOutput, OmniSsrStep, PriorRun, TangentPrior,
};
pub use open_prior::{OpenPriorError, open_prior};
pub use resample::{Interpolation, PixelSampler, ResampleError, resize_erp, resize_planar};
pub use stable_sr_prior::StableSrPrior;
pub use tangent::{
    Blend, Convention, TangentError, TangentGrid, TangentGridError, TangentOptions, TangentPlane,
    TangentProjection,
};
pub use whole_picture::EnlargedPicture;
