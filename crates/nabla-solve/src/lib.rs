//! Stepping along a gradient to the solution of a problem, where [Burn's](https://burn.dev) optimizers, which
//! step along the gradients of a network, don't fit.
//!
//! * [`normalized_lr`]: Normalized LR+GD and perceptrons, for a separating hyperplane;
//! * [`matrix_sensing`]: low-rank matrices from measurements by their factors;
//! * [`zo_rank_sgd`]: ZO-RankSGD, descent where only the order of points is known;
//! * [`ranking_oracle`]: what puts points in order: a function, with noise, a Burn module;
//! * [`ranking_protocol`]: the same by a person or a program, over lines of text;
//! * [`zo_sgd`], [`scobo`], [`gld`], [`cma_es`]: descent by values, by comparisons, by random jumps and
//!   by evolution, which ZO-RankSGD is measured against;
//! * [`zeroth_order`]: perturbations, schedules and the line search of these;
//! * [`block_coordinate_descent`]: block coordinate descent, for regression, classification and graphs;
//! * [`convex_relu`]: two-layer ReLU networks to global optimality, by convex programs;
//! * [`model`]: the model that a solver leaves, and its file.
//!
//! The names that programs use most are here at the root, too.

pub mod block_coordinate_descent;
pub mod cma_es;
pub mod convex_relu;
pub mod gld;
pub mod matrix_sensing;
pub mod model;
pub mod normalized_lr;
pub mod ranking_oracle;
pub mod ranking_protocol;
pub mod scobo;
pub mod zeroth_order;
pub mod zo_rank_sgd;
pub mod zo_sgd;

pub use block_coordinate_descent::{
    BlockCoordinateDescentConfig, BlockDescentError, BlockDescentSolution,
};
pub use cma_es::CmaEs;
pub use gld::GradientlessDescent;
pub use matrix_sensing::{
    AsymmetricFactors, FactorStart, FullObservation, GaussianSensing, LinearMeasurement,
    MatrixSensingError, SymmetricFactors,
};
pub use normalized_lr::{Separation, SeparatorError, maximal_margin, separate};
pub use ranking_oracle::{FunctionOracle, ModuleOracle, Ranking, RankingError, RankingOracle};
pub use ranking_protocol::ProtocolOracle;
pub use scobo::{Scobo, ScoboConfig};
pub use zo_rank_sgd::{ZoRankSgd, ZoRankSgdConfig};
pub use zo_sgd::{ZoSgd, ZoSgdConfig};
