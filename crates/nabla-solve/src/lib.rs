//! Solvers that step along a gradient, for problems that do not fit [Burn's](https://burn.dev) optimizers,
//! which step along the gradients of a network.
//!
//! * [`normalized_lr`]: Normalized LR+GD and perceptrons, for a separating hyperplane;
//! * [`matrix_sensing`]: low-rank matrices from measurements by their factors;
//! * [`zo_rank_sgd`]: ZO-RankSGD, descent if only the order of points is known;
//! * [`ranking_oracle`]: oracles that put points in order: a function, with or without noise, a Burn module;
//! * [`ranking_protocol`]: the same by a person or a program, over lines of text;
//! * [`zo_sgd`], [`scobo`], [`gld`], [`cma_es`]: descent by values, by comparisons, by random jumps and by
//!   evolution, with which ZO-RankSGD is compared;
//! * [`zeroth_order`]: perturbations, schedules and the line search of these;
//! * [`block_coordinate_descent`]: block coordinate descent, for regression, classification and graphs;
//! * [`convex_relu`]: globally optimal two-layer ReLU networks, by convex programs;
//! * [`model`]: the model that a solver returns, and its file.
//!
//! The most used names are also at the root.

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
