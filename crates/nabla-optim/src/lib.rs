//! Stepping along a gradient: optimizers for Burn's learner, and M-FAC, which is used differently.
//!
//! * [`adamp`]: AdamP and SGDP, which keep momentum from inflating scale-invariant weights;
//! * [`diffgrad`]: diffGrad, Adam with a friction where the gradient does not change;
//! * [`adamw`]: AdamW with AMSGrad and cautious weight decay, Burn's in one pass over memory;
//! * [`adabelief`]: AdaBelief, whose steps are long where the gradient is as expected;
//! * [`m_fac`]: M-FAC, products with the inverse empirical Fisher matrix, for pruning and steps;
//! * [`weight_decay`]: coupled, decoupled and fixed weight decay;
//! * [`optimizer_config`]: the checks of configurations;
//! * [`mod@checked_step`]: a step that refuses gradients with NaN or infinity;
//! * [`checked_record`]: loading an optimizer's record, or the reason why it does not fit.
//!
//! An optimizer is a Burn `Optimizer`: `XConfig::init` makes one for a whole module, and `XConfig::build` one
//! for a parameter group of a `ModuleOptimizer`. M-FAC needs the gradient of the whole module as one vector.
//! It has `MFacConfig::init` and the same methods, but no `build`: Burn's learner cannot use it as an
//! optimizer, but takes the same steps with gradients from [`MFac::precondition`].
//!
//! The steps of AdamW, AdamP, SGDP, diffGrad and AdaBelief are [rules](nabla_grad::elementwise::Rule), which are
//! written once. For 32-bit numbers on the CPU they run in one pass over memory, for every other device and
//! precision with Burn's operations. Only the sums over a tensor (of the projection's test, of diffGrad's
//! deviations) are taken in two ways, and in one pass a projection gives back what a step without it took. Tests
//! check that both agree for all options, and for the registry of `nabla-train`.
//!
//! The most used names are also at the root:
//!
//! ```
//! use nabla_optim::{AdaBeliefConfig, AdamPConfig, MFacConfig};
//! ```

pub mod adabelief;
pub mod adamp;
pub mod adamw;
pub mod checked_record;
pub mod checked_step;
pub mod diffgrad;
pub mod m_fac;
pub mod optimizer_config;
mod precision;
pub mod weight_decay;

pub use adabelief::{AdaBelief, AdaBeliefConfig};
pub use adamp::{AdamP, AdamPConfig, SgdP, SgdPConfig};
pub use adamw::{AdamW, AdamWConfig};
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
