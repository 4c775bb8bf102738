//! Tools for gradients that all of Nabla's methods share.
//!
//! * [`flat`]: conversion of a module's parameters and gradients to one flat vector and back;
//! * [`per_example`]: the gradient of every example of a batch;
//! * [`training_mode`]: finding and fixing layers that behave differently in training;
//! * [`curvature`]: products with the Hessian, the Gauss-Newton matrix and the empirical Fisher;
//! * [`trace`]: Hutchinson's and Hutch++'s estimates of a trace;
//! * [`spectrum`]: power iteration, Lanczos, the density of eigenvalues;
//! * [`decomposition`]: the parts of one vector along and across another;
//! * [`proximal`]: proximal operators and projections;
//! * [`compressor`] and [`sketch`]: fewer numbers for a vector, with the constants that convergence theory
//!   needs;
//! * [`covariance_adaptation`]: CMA-ES, a search by the order of values alone;
//! * [`error_feedback`]: sending later what a compressor leaves out;
//! * [`clipping`]: limits of a gradient's norm or values;
//! * [`elementwise`]: operations on the elements of several tensors in one pass, for optimizers;
//! * [`long_rows`]: products with a window of gradients, at the speed of the memory;
//! * [`mod@module_path`]: the names of a module's parameters, for visitors;
//! * [`fingerprint`]: a hash that reveals a damaged checkpoint;
//! * [`seeded_noise`]: random numbers that are the same on every device.
//!
//! The names used most are also here at the root:
//!
//! ```
//! use nabla_grad::{Hessian, ParameterLayout, PowerConfig, top_eigenpairs};
//! ```

pub mod clipping;
pub mod compressor;
pub mod covariance_adaptation;
pub mod curvature;
pub mod decomposition;
pub mod elementwise;
pub mod error_feedback;
pub mod fingerprint;
pub mod flat;
pub mod long_rows;
pub mod module_path;
pub mod per_example;
pub mod proximal;
pub mod seeded_noise;
pub mod sketch;
pub mod spectrum;
pub mod trace;
pub mod training_mode;

pub use clipping::{ClippingError, clip_norm, clip_value, gradient_norm};
pub use compressor::{
    Compressed, Compressor, CompressorError, Constant, Identity, Natural, Qsgd, RandK, ScaledSign,
    TopK, WireError,
};
pub use covariance_adaptation::{AdaptationError, CovarianceAdaptation, Generation};
pub use curvature::{
    CurvatureError, CurvatureOperator, Damped, DenseOperator, Difference, DifferenceConfig,
    EmpiricalFisher, FunctionOperator, GaussNewton, GradientField, Hessian, ModuleLoss,
    ModuleOutputs, Order, OutputFunction, OutputLoss, Product, Step,
};
pub use decomposition::{
    DecompositionError, Views, cosine_similarity, decompose, orthogonal, parallel,
};
pub use error_feedback::{Ef21, Ef21Server, ErrorFeedback, ErrorFeedbackError, ef21_step_size};
pub use flat::{FlatError, ParameterEntry, ParameterKey, ParameterLayout, with_float_type};
pub use per_example::{
    LayerGradients, PerExampleError, PerExampleGradients, Recorded, Reduction, SquaredNorms,
    per_example_gradients, record,
};
pub use proximal::{
    BoxConstraint, ElasticNet, GroupL2, L1, L1Ball, L2Ball, LInfBall, NuclearNorm, Proximal,
    ProximalError, Simplex, SquaredL2,
};
pub use seeded_noise::{NoiseState, SeededNoise};
pub use sketch::{
    AmsSketch, CountSketch, DrawnSketch, GaussianSketch, IdentitySketch, LinearSketch, SketchError,
    SketchFamily, SketchMessage, Srht,
};
pub use spectrum::{
    DensityConfig, Eigenpair, LanczosConfig, PowerConfig, Quadrature, RitzPair, SpectralDensity,
    SpectrumError, Tridiagonal, lanczos, spectral_density, spectral_quadratures, top_eigenpairs,
};
pub use trace::{
    DiagonalEstimate, Probe, TraceConfig, TraceError, TraceEstimate, diagonal, hutch_plus_plus,
    hutchinson, hutchinson_until_settled,
};
pub use training_mode::{TrainingLayer, freeze_layers, freeze_norms, training_layers};
