//! A layer of CLIP's encoders, of the one for texts and of the one for pictures.
//!
//! ```text
//! h = x + attention(norm(x)),   y = h + W₂ σ(W₁ norm(h))
//! ```
//!
//! `σ` is GELU, or in OpenAI's own weights its approximation `x·sigmoid(1.702 x)`.

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::Tensor;

use super::attention::{AttentionNames, MultiHeadAttention};
use super::weights::{Scope, WeightsError};
use nabla_kernels::activation::{gelu, sigmoid};
use nabla_kernels::linear::linear;

/// The activation between two linear layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Activation {
    /// `x·sigmoid(1.702 x)`.
    #[default]
    QuickGelu,
    /// The exact one.
    Gelu,
}

impl Activation {
    /// By its name in a configuration.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "quick_gelu" => Some(Self::QuickGelu),
            "gelu" => Some(Self::Gelu),
            _ => None,
        }
    }
}

/// The sizes of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClipLayerSizes {
    pub(super) channels: usize,
    /// Channels within the two linear layers.
    pub(super) inner: usize,
    pub(super) heads: usize,
    /// The constant added to a variance.
    pub(super) epsilon: f64,
    pub(super) activation: Activation,
}

/// Attention and two linear layers, each with a shortcut.
#[derive(Module, Debug)]
pub(super) struct ClipLayer {
    norm1: LayerNorm,
    attention: MultiHeadAttention,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    quick: bool,
}

impl ClipLayer {
    /// Loads it from `scope`; `sizes.heads` must divide the channels.
    pub(super) fn load(sizes: ClipLayerSizes, scope: &Scope<'_>) -> Result<Self, WeightsError> {
        let ClipLayerSizes {
            channels,
            inner,
            heads,
            epsilon,
            activation,
        } = sizes;
        let norm = |name| scope.at(name).layer_norm(channels, epsilon);
        Ok(Self {
            norm1: norm("layer_norm1")?,
            attention: MultiHeadAttention::load(
                &scope.at("self_attn"),
                AttentionNames::CLIP,
                [channels, channels],
                [heads, channels / heads],
            )?,
            norm2: norm("layer_norm2")?,
            fc1: scope.at("mlp.fc1").linear(channels, inner)?,
            fc2: scope.at("mlp.fc2").linear(inner, channels)?,
            quick: activation == Activation::QuickGelu,
        })
    }

    /// The next state, `[batch, length, channels]`.
    ///
    /// - `causal`: whether a token attends only to itself and earlier ones
    pub(super) fn forward(&self, x: Tensor<3>, causal: bool) -> Tensor<3> {
        let attended = self
            .attention
            .forward(self.norm1.forward(x.clone()), None, causal);
        let x = x + attended;
        let h = linear(&self.fc1, self.norm2.forward(x.clone())); // [batch, length, inner]
        let h = match self.quick {
            true => h.clone() * sigmoid(h * 1.702),
            false => gelu(h),
        };
        x + linear(&self.fc2, h)
    }
}
