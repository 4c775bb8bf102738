//! Training that does not tell what its data were, and the accounts of what it reveals.
//!
//! * [`accountant`]: what a training with noisy gradients reveals at most, by several accounts, and the noise that a
//!   budget asks for;
//! * [`private_training`]: the gradients of a private training, for any classifier of `nabla-train`;
//! * [`clipping`]: no example counts for more than a limit; [`secret_noise`]: what nobody can predict; [`budget`]: the
//!   noise that a budget needs;
//! * [`release`]: what is released of a step: [`dp_sgd`]; [`dicesgd`], with error feedback; [`diff2`], by differences of
//!   whole gradients;
//! * [`private_sketch`]: sketches that are private, for the clients of a sketched averaging;
//! * [`one_run_audit`]: at least how much a training reveals, by [`canaries`];
//! * [`leakage`]: what one shared gradient gives away of the pictures behind it.

pub mod accountant;
pub mod budget;
pub mod canaries;
pub mod clipping;
pub mod dicesgd;
pub mod diff2;
pub mod dp_sgd;
pub mod leakage;
pub mod one_run_audit;
pub mod private_sketch;
pub mod private_training;
pub mod release;
pub mod secret_noise;

pub use canaries::CanaryConfig;
pub use clipping::Clipping;
pub use private_training::{AuditedTraining, PrivacyConfig, PrivacyError, PrivacyReport};
