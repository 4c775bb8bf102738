//! Everything you can do with a gradient, as one toolkit on [Burn](https://burn.dev): published
//! methods as parts that work on any Burn model, and a measured claim for each.
//!
//! This crate is the facade. It only re-exports the crates of Nabla under common names:
//!
//! * [`data`]: pictures in PNG, JPEG, WebP, TIFF, Radiance HDR and OpenEXR with their metadata, and the data
//!   sets in the repository;
//! * [`panorama`]: 360-degree panoramas, their geometry, their metrics, and super-resolution;
//! * [`diffusion`]: noise paths, denoisers, guidance, samplers, training, and the embedded prior;
//! * [`grad`]: tools for a module's gradients: flat vectors, per-example gradients, curvature,
//!   traces and spectra, proximal operators, compressors and sketches;
//! * [`kernels`]: the most expensive operations of networks, fast on CPUs;
//! * [`optim`]: optimizers for Burn's learner, and M-FAC;
//! * [`align`]: classifiers for domains that nobody has seen in training: the objectives of domain generalisation;
//! * [`physics`]: solvers of differential equations, gradients through them, and what is learnt from their steps;
//! * [`private`]: training that does not tell what its data were, and the accounts of what it reveals;
//! * [`language`]: language models, read from the files in which they are published;
//! * [`probe`]: what gradients and curvature tell of a network: sharpness, and where SGD can rest;
//! * [`quantize`]: networks of few bits, trained as such, and their integers;
//! * [`share`]: gradients shared between workers;
//! * [`solve`]: solvers for problems other than networks;
//! * [`train`]: one trainer for every task, optimizers by name, classifiers on real data sets, and
//!   comparisons of optimizers;
//! * [`claims`]: measuring and reporting the claims of papers. The experiments themselves are in separate
//!   crates next to the families (`nabla-optim-experiments` ...);
//! * [`base`]: the list of methods with their papers, progress, files that are complete or absent, and the
//!   error for a number out of range.
//!
//! The program `nabla` (crate `nabla-cli`) does the same jobs on files.
//!
//! # Devices
//! A Burn `Device` determines where tensors live. The pure-Rust CPU backend is always there; the features
//! `cuda` and `wgpu` add the GPU backends, which load their drivers at run time.
//!
//! # Example
//! Enlarge the built-in sample by Lanczos interpolation on the sphere, and compare it with the original:
//!
//! ```
//! use nabla::prelude::*;
//!
//! let (truth, small) = sample_panorama()?;
//! let large = resize_erp(&small.raster, truth.raster.height(), Interpolation::Lanczos3)?;
//! let measured = evaluate(&to_8_bit(large), &truth.raster)?;
//! assert!(measured.area.ws_psnr > 20.0 && measured.area.ws_ssim > 0.5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use nabla_align as align;
pub use nabla_base as base;
pub use nabla_claims as claims;
pub use nabla_data as data;
pub use nabla_diffusion as diffusion;
pub use nabla_grad as grad;
pub use nabla_kernels as kernels;
pub use nabla_language as language;
pub use nabla_optim as optim;
pub use nabla_panorama as panorama;
pub use nabla_physics as physics;
pub use nabla_private as private;
pub use nabla_probe as probe;
pub use nabla_quantize as quantize;
pub use nabla_share as share;
pub use nabla_solve as solve;
pub use nabla_train as train;

/// The names that most programs need: `use nabla::prelude::*`.
pub mod prelude {
    // Not inlined: their pages link to targets that exist only in their own crates.
    #[doc(no_inline)]
    pub use nabla_base::methods::{METHODS, Paper};
    #[doc(no_inline)]
    pub use nabla_claims::{
        Bench, Cell, Check, Claim, ClaimContext, ClaimError, ClaimResult, Measurement, Metric,
        Stage, Table, Task, Variant, Verdict, run_claim,
    };
    #[doc(no_inline)]
    pub use nabla_data::{
        BitDepth, FileFormat, GainMap, Light, Metadata, PhotoSphere, Picture, Raster, ReadOptions,
        ToneCurve, WriteOptions, sample_panorama,
    };
    #[doc(no_inline)]
    pub use nabla_diffusion::{
        Condition, Correction, Denoised, Denoiser, Guidance, Level, Levels, NoisePath,
        NoiseSchedule, NoiseScheduleConfig, Prediction, Sampler, Sampling, SeededNoise, Solver,
        Spacing, StraightLine, SuperResolutionPrior, samplers,
    };
    #[doc(no_inline)]
    pub use nabla_optim::{
        AdaBeliefConfig, AdamPConfig, AdamWConfig, DiffGradConfig, MFac, MFacConfig, SgdPConfig,
    };
    #[doc(no_inline)]
    pub use nabla_panorama::{
        BicubicDown, CubeLayout, Cubemap, CubemapProjection, Erp, ErpArea, Evaluation,
        Interpolation, LinearOperator, OmniSsr, OmniSsrConfig, TangentGrid, TangentOptions,
        TangentPrior, TangentProjection, evaluate, evaluate_area, resize_erp, to_8_bit, ws_psnr,
        ws_ssim,
    };
    // Claims have tasks, too.
    #[doc(no_inline)]
    pub use nabla_train::Task as TrainingTask;
    #[doc(no_inline)]
    pub use nabla_train::{
        Averaging, ClipByNorm, ClipByValue, Comparison, DataConfig, Decay, Ema, EmaConfig,
        Experiment, GradientTransform, Gradients, Learner, Method, OptimizerConfig, OtherOptimizer,
        Schedule, Trainer, TrainerConfig, TrainingConfig, TrainingError, he_normal,
    };
}
