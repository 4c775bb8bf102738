//! Stepping along a gradient: optimizers that Burn's learner takes, and M-FAC, which has a way of its own.
//!
//! * [`adamp`]: AdamP and SGDP, which keep momentum from inflating scale-invariant weights;
//! * [`diffgrad`]: diffGrad, Adam with a friction where the gradient does not change;
//! * [`adabelief`]: AdaBelief, whose steps are long where the gradient is as expected;
//! * [`m_fac`]: M-FAC, products with the inverse empirical Fisher matrix, for pruning and steps;
//! * [`weight_decay`]: coupled, decoupled and fixed weight decay;
//! * [`optimizer_config`]: why a configuration is refused;
//! * [`mod@checked_step`]: a step that refuses gradients with NaN or infinity;
//! * [`checked_record`]: loading an optimizer's record, or the reason why it does not fit.
//!
//! An optimizer is a Burn `Optimizer`: `XConfig::init` makes one for a whole module, and
//! `XConfig::build` one for a parameter group of a `ModuleOptimizer`. M-FAC, which needs the gradient of the
//! whole module as one vector, has `MFacConfig::init` and the same methods, and no `build`: Burn's learner cannot
//! take it as an optimizer, but steps as it does along gradients that [`MFac::precondition`] has multiplied.
//!
//! The steps of AdamP, SGDP, diffGrad and AdaBelief stand twice in their files: as one pass over memory, for
//! numbers of 32 bits on the processor, and of Burn's operations, for every other device and precision. One
//! expression for both would cost either the bits or the speed: Burn's operations take their constants in 64
//! bits and round after each, and the pass is compiled for each coefficient by itself with sums on the way.
//! Tests hold the two equal over all options, and over the registry of `nabla-train`.
//!
//! The names that programs use most are here at the root, too:
//!
//! ```
//! use nabla_optim::{AdaBeliefConfig, AdamPConfig, MFacConfig};
//! ```

pub mod adabelief;
pub mod adamp;
pub mod checked_record;
pub mod checked_step;
pub mod diffgrad;
pub mod m_fac;
pub mod optimizer_config;
mod precision;
pub mod weight_decay;

pub use adabelief::{AdaBelief, AdaBeliefConfig};
pub use adamp::{AdamP, AdamPConfig, SgdP, SgdPConfig};
pub use checked_record::{LoadError, checked_load};
pub use checked_step::{StepError, check_gradients, checked_step};
pub use diffgrad::{DiffGrad, DiffGradConfig, EpsilonPlacement, Friction};
pub use m_fac::{
    BlockFisher, InverseFisher, MFac, MFacConfig, MFacError, SlidingFisher, StaticFisher,
    optimal_brain_surgeon,
};
pub use weight_decay::WeightDecayMode;

// Burn's derive of `RecordState` looks for these in the root of the crate.
pub(crate) use burn::optim::{RecordState, StateSink, StateSource};
