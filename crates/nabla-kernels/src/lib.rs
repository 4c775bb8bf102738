//! The operations in which networks spend their time, written for the CPU backend `flex` of
//! [Burn](https://burn.dev), with gradients; other devices run Burn's own operations.
//!
//! * [`picture`]: convolutions, group norm and SiLU, forward and backward;
//! * [`transformer`]: attention, linear layers and GEGLU, forward.
//!
//! They take Burn's own layers ([`Conv2d`](burn::nn::conv::Conv2d), [`GroupNorm`](burn::nn::GroupNorm),
//! [`Linear`](burn::nn::Linear)) and tensors, so any module can call them instead of `forward`.
//! Results don't depend on the number of threads.

pub mod activation;
pub mod attention;
pub mod convolution;
pub mod cross_entropy;
mod elementwise;
pub mod embedding;
mod half_precision;
pub mod linear;
pub mod matmul;
pub mod mean_squared_error;
pub mod memory;
pub mod normalization;
mod operation;
pub mod pooling;
mod product;
mod real;
pub mod residual;
mod taps;
