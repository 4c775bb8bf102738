//! The layers in which networks spend their time, forward and backward, written for the CPU backend `flex` of
//! [Burn](https://burn.dev).
//!
//! Each function takes one of Burn's own layers and computes what its `forward` computes, with autodiff or without it;
//! [`nn`] has layers that do so by themselves, with the same records. So any Burn model can have the kernels, in one
//! place or everywhere:
//!
//! | kernels | of |
//! |---|---|
//! | [`linear`], [`matmul`] | linear layers, gated ones (GEGLU), products of batches |
//! | [`convolution`] | convolutions and transposed convolutions in 1, 2 and 3 dimensions, of any stride, dilation, padding and groups |
//! | [`normalization`] | batch, group, instance, layer and RMS norms, some with the activation after them |
//! | [`attention`] | softmax attention without a matrix of all scores |
//! | [`activation`], [`prelu`] | ReLU and its relatives, GELU, SiLU, sigmoid, tanh, softplus, Mish |
//! | [`pooling`], [`embedding`], [`residual`] | maxima and averages, rows of a table, sums of branches |
//! | [`selected_rows`] | products with a few rows of a table |
//! | [`cross_entropy`], [`mean_squared_error`] | losses |
//! | [`layer_hooks`] | layers computed by someone else, in a network that knows nothing of it |
//! | [`row_combination`] | sums of multiples of matrices, errors against tolerances |
//! | [`linear_pieces`] | networks held on the linear piece of their rectified units |
//! | [`per_example`] | the gradients of every example from one backward pass |
//!
//! They compute in `f32`, and in `f64` for checking; numbers of 16 bits are widened before an operation and rounded
//! after it. On other devices, and where a layer has an option that a kernel doesn't know, Burn's own operations run.
//! Results don't depend on the number of threads. [`memory`] says what happens to the memory of arrays.

pub mod activation;
mod aligned;
mod array;
pub mod attention;
pub mod convolution;
pub mod cross_entropy;
mod elementwise;
pub mod embedding;
mod half_precision;
pub mod layer_hooks;
pub mod linear;
pub mod linear_pieces;
pub mod matmul;
pub mod mean_squared_error;
pub mod memory;
pub mod nn;
pub mod normalization;
mod operation;
pub mod per_example;
pub mod pooling;
pub mod prelu;
mod product;
mod real;
pub mod residual;
pub mod row_combination;
pub mod selected_rows;
mod taps;
pub mod threads;
mod vector_registers;
