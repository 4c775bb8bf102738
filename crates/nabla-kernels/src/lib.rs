//! The operations in which networks spend their time, written for the CPU backend `flex` of
//! [Burn](https://burn.dev), with gradients; other devices run Burn's own operations.
//!
//! * [`picture`]: convolutions, group norm and SiLU, forward and backward;
//! * [`transformer`]: attention, linear layers and GEGLU, forward.
//!
//! They take Burn's own layers ([`Conv2d`](burn::nn::conv::Conv2d), [`GroupNorm`](burn::nn::GroupNorm),
//! [`Linear`](burn::nn::Linear)) and tensors, so any module can call them instead of `forward`.
//! Results don't depend on the number of threads.

pub mod convolution;
mod half_precision;
mod operation;
pub mod picture;
mod real;
mod taps;
pub mod transformer;
