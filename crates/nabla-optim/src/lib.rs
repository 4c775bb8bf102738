//! Stepping along a gradient: optimizers that Burn's learner takes, and solvers.

pub mod adabelief;
pub mod adamp;
pub mod diffgrad;
pub mod normalized_lr;
