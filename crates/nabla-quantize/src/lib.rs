//! Networks of few bits.
//!
//! | | |
//! |---|---|
//! | [`lsq`] | LSQ: the grid of a quantiser, and its rounding with gradients for numbers and step size |
//! | [`quantized`] | any Burn model, its layers computed with rounded weights and inputs |
//! | [`integers`] | the same network as packed integers, and a pass in integer arithmetic that gives the same bits |
//!
//! A model needs no change: [`Quantized`] finds its linear layers and two-dimensional convolutions by computing it once,
//! if it computes them by [`nabla_kernels`], or by the layers of [`nabla_kernels::nn`].

pub mod integers;
pub mod lsq;
mod parameters;
pub mod quantized;

pub use integers::{IntegerError, IntegerNetwork};
pub use lsq::{Levels, codes};
pub use quantized::{
    QuantizationConfig, QuantizationError, Quantized, QuantizedLayer, Quantizer, Role,
};
