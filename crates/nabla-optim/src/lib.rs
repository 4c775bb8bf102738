//! Stepping along a gradient: optimizers that Burn's learner takes, and solvers.
//!
//! * [`adamp`]: AdamP and SGDP, which keep momentum from inflating scale-invariant weights;
//! * [`diffgrad`]: diffGrad, Adam with a friction where the gradient does not change;
//! * [`adabelief`]: AdaBelief, whose steps are long where the gradient is as expected;
//! * [`m_fac`]: M-FAC, products with the inverse empirical Fisher matrix, for pruning and steps;
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
//! * [`rate_fit`]: how fast an error falls;
//! * [`weight_decay`]: coupled, decoupled and fixed weight decay;
//! * [`optimizer_config`]: why a configuration is refused;
//! * [`mod@checked_step`]: a step that refuses gradients with NaN or infinity;
//! * [`checked_record`]: loading an optimizer's record, or the reason why it does not fit.
//!
//! An optimizer is a Burn `Optimizer`: `XConfig::init` makes one for a whole module, and
//! `XConfig::build` one for a parameter group of a `ModuleOptimizer`. M-FAC, which needs the gradient of the
//! whole module as one vector, has `MFacConfig::init` and the same methods, and no `build`; see [`MFac`].
//!
//! The names that programs use most are here at the root, too:
//!
//! ```
//! use nabla_optim::{AdaBeliefConfig, AdamPConfig, MFacConfig};
//! ```

pub mod adabelief;
pub mod adamp;
pub mod block_coordinate_descent;
pub mod checked_record;
pub mod checked_step;
pub mod cma_es;
pub mod convex_relu;
pub mod diffgrad;
pub mod gld;
pub mod m_fac;
pub mod matrix_sensing;
pub mod normalized_lr;
pub mod optimizer_config;
mod precision;
pub mod ranking_oracle;
pub mod ranking_protocol;
pub mod rate_fit;
pub mod scobo;
pub mod weight_decay;
pub mod zeroth_order;
pub mod zo_rank_sgd;
pub mod zo_sgd;

pub use adabelief::{AdaBelief, AdaBeliefConfig};
pub use adamp::{AdamP, AdamPConfig, SgdP, SgdPConfig};
pub use block_coordinate_descent::{
    BlockCoordinateDescentConfig, BlockDescentError, BlockDescentSolution,
};
pub use checked_record::{LoadError, checked_load};
pub use checked_step::{StepError, check_gradients, checked_step};
pub use cma_es::CmaEs;
pub use diffgrad::{DiffGrad, DiffGradConfig, EpsilonPlacement, Friction};
pub use gld::GradientlessDescent;
pub use m_fac::{
    BlockFisher, EmpiricalFisher, InverseFisher, MFac, MFacConfig, MFacError, SlidingFisher,
    optimal_brain_surgeon,
};
pub use matrix_sensing::{
    AsymmetricFactors, FactorStart, FullObservation, GaussianSensing, LinearMeasurement,
    MatrixSensingError, SymmetricFactors,
};
pub use normalized_lr::{Separation, SeparatorError, maximal_margin, separate};
pub use optimizer_config::OptimizerConfigError;
pub use ranking_oracle::{FunctionOracle, ModuleOracle, Ranking, RankingError, RankingOracle};
pub use ranking_protocol::ProtocolOracle;
pub use rate_fit::{RateFit, exponential_rate, power_rate};
pub use scobo::{Scobo, ScoboConfig};
pub use weight_decay::WeightDecayMode;
pub use zo_rank_sgd::{ZoRankSgd, ZoRankSgdConfig};
pub use zo_sgd::{ZoSgd, ZoSgdConfig};

// Burn's derive of `RecordState` looks for these in the root of the crate.
pub(crate) use burn::optim::{RecordState, StateSink, StateSource};
