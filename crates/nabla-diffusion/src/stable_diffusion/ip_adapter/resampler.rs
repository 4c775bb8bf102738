//! The resampler of the "plus" form of IP-Adapter: learned queries that draw tokens from a longer sequence.
//!
//! ```text
//! l ← l + attention(norm(l), [norm(x), norm(l)]),   l ← l + W₂ gelu(W₁ norm(l))      (repeated)
//! tokens = norm(W l),   x = W_in states
//! ```
//!
//! Source: Alayrac et al., *Flamingo: a Visual Language Model for Few-Shot Learning*, 2022, arXiv 2204.14198
//! (the perceiver resampler), as in the code of IP-Adapter.

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::Tensor;

use crate::stable_diffusion::weights::{Scope, WeightsError};
use nabla_kernels::activation::gelu;
use nabla_kernels::attention::attention;
use nabla_kernels::linear::linear;

/// Channels of a head.
const HEAD: usize = 64;

/// The resampler; see the [module](self).
#[derive(Module, Debug)]
pub struct Resampler {
    latents: Tensor<3>,
    project_in: Linear,
    layers: Vec<Layer>,
    project_out: Linear,
    norm_out: LayerNorm,
}

#[derive(Module, Debug)]
struct Layer {
    norm_states: LayerNorm,
    norm_latents: LayerNorm,
    to_q: Linear,
    to_kv: Linear,
    to_out: Linear,
    norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
    heads: usize,
}

impl Resampler {
    /// Loads it from `scope`, with the sizes of its tensors.
    ///
    /// - `output`: channels of the tokens
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn load(output: usize, scope: &Scope<'_>) -> Result<Self, WeightsError> {
        let sizes = |name: &str| match scope.shape(name).as_deref() {
            Some([.., rows, columns]) => [*rows, *columns],
            _ => [0; 2],
        };
        let [queries, width] = sizes("latents");
        let [_, input] = sizes("proj_in.weight");
        let mut layers = Vec::new();
        while scope.has(&format!("layers.{}.0.to_q.weight", layers.len())) {
            layers.push(Layer::load(width, &scope.at("layers").at(layers.len()))?);
        }
        Ok(Self {
            latents: scope.tensor("latents", [1, queries, width])?,
            project_in: scope.at("proj_in").linear(input, width)?,
            layers,
            project_out: scope.at("proj_out").linear(width, output)?,
            norm_out: scope.at("norm_out").layer_norm(output, 1e-5)?,
        })
    }

    /// `[batch, states, channels]` to `[batch, tokens, output channels]`.
    pub fn forward(&self, states: Tensor<3>) -> Tensor<3> {
        let mut latents = self.latents.clone().repeat_dim(0, states.dims()[0]);
        let x = linear(&self.project_in, states);
        for layer in &self.layers {
            latents = layer.forward(&x, latents);
        }
        self.norm_out.forward(linear(&self.project_out, latents))
    }
}

impl Layer {
    fn load(width: usize, scope: &Scope<'_>) -> Result<Self, WeightsError> {
        let rows = |name: &str| {
            let shape = scope.shape(name);
            shape.and_then(|shape| shape.first().copied()).unwrap_or(0)
        };
        let (inner, wide) = (rows("0.to_q.weight"), rows("1.1.weight"));
        let attend = scope.at("0");
        let norm = |scope: &Scope<'_>| scope.layer_norm(width, 1e-5);
        Ok(Self {
            norm_states: norm(&attend.at("norm1"))?,
            norm_latents: norm(&attend.at("norm2"))?,
            to_q: attend.at("to_q").linear_without_bias(width, inner)?,
            to_kv: attend.at("to_kv").linear_without_bias(width, 2 * inner)?,
            to_out: attend.at("to_out").linear_without_bias(inner, width)?,
            norm: norm(&scope.at("1.0"))?,
            widen: scope.at("1.1").linear_without_bias(width, wide)?,
            narrow: scope.at("1.3").linear_without_bias(wide, width)?,
            heads: (inner / HEAD).max(1),
        })
    }

    fn forward(&self, x: &Tensor<3>, latents: Tensor<3>) -> Tensor<3> {
        let normed = self.norm_latents.forward(latents.clone());
        let all = Tensor::cat(vec![self.norm_states.forward(x.clone()), normed.clone()], 1);
        let q = linear(&self.to_q, normed);
        let inner = q.dims()[2];
        let both = linear(&self.to_kv, all); // [batch, states + tokens, 2 inner]
        let k = both.clone().slice_dim(2, 0..inner);
        let v = both.slice_dim(2, inner..2 * inner);
        let latents = latents + linear(&self.to_out, attention(q, k, v, self.heads, false));
        let h = gelu(linear(&self.widen, self.norm.forward(latents.clone())));
        latents + linear(&self.narrow, h)
    }
}
