//! Taking a gradient, and taking it apart: the ground that Nabla's methods share.
//!
//! * [`flat`]: a module's parameters and gradients as one flat vector, and back;
//! * [`per_example`]: the gradient of every example of a batch;
//! * [`curvature`]: products with the Hessian, the Gauss-Newton matrix and the empirical Fisher;
//! * [`trace`]: Hutchinson's and Hutch++'s estimates of a trace;
//! * [`spectrum`]: power iteration, Lanczos, the density of eigenvalues;
//! * [`decomposition`]: the parts of one vector along and across another;
//! * [`proximal`]: proximal operators and projections;
//! * [`compressor`] and [`sketch`]: fewer numbers for a vector, with the constants that convergence
//!   theory asks for;
//! * [`clipping`]: gradients limited by their norm or by value;
//! * [`elementwise`]: operations on the elements of several tensors in one pass, for optimizers;
//! * [`long_rows`]: products with a window of gradients, at the speed of the memory;
//! * [`fingerprint`]: by which a damaged checkpoint is known;
//! * [`seeded_noise`]: random numbers that are the same on every device.

pub mod clipping;
pub mod compressor;
pub mod curvature;
pub mod decomposition;
pub mod elementwise;
pub mod fingerprint;
pub mod flat;
pub mod long_rows;
pub mod per_example;
pub mod proximal;
pub mod seeded_noise;
pub mod sketch;
pub mod spectrum;
pub mod trace;
