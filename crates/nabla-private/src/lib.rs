//! Training that does not tell what its data were, and the accounts of what it reveals.
//!
//! * [`accountant`]: what a training with noisy gradients reveals at most, by several accounts, and the noise that a
//!   budget asks for.

pub mod accountant;
