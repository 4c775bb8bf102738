//! The spatial transformer of latent diffusion's UNet: its positions attend to each other and to the text.
//!
//! ```text
//! h = proj_in(norm(x)),  as a sequence of positions
//! h ← h + attention(norm(h));   h ← h + attention(norm(h), text);   h ← h + feed-forward(norm(h))   (repeated)
//! y = x + proj_out(h)
//! ```
//!
//! The feed-forward layer is `W₂ (a · gelu(b))` with `[a, b] = W₁ h` (GEGLU; Shazeer, *GLU Variants
//! Improve Transformer*, 2020, arXiv 2002.05202).
//!
//! Source: Rombach et al., *High-Resolution Image Synthesis with Latent Diffusion Models*, 2022, arXiv
//! 2112.10752.

use burn::module::Module;
use burn::nn::{GroupNorm, LayerNorm, Linear};
use burn::tensor::Tensor;

use super::attention::{AttentionNames, Context, MultiHeadAttention};
use super::weights::{Scope, WeightsError};
use nabla_kernels::linear::{linear, linear_geglu};
use nabla_kernels::normalization::{group_norm, layer_norm};
use nabla_kernels::residual::add;

/// The ε of the layer norms.
const EPSILON: f64 = 1e-5;

/// The transformer; see the [module](self).
#[derive(Module, Debug)]
pub struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

/// The options of a transformer.
#[derive(Clone, Copy, Debug)]
pub struct TransformerOptions {
    /// Channels of the picture.
    pub channels: usize,
    /// Heads of the attention.
    pub heads: usize,
    /// Channels of the text.
    pub context: usize,
    /// The number of repetitions of the block.
    pub layers: usize,
    /// Groups of the normalisation.
    pub groups: usize,
    /// Whether scores are computed in 32 bits, whatever the network's precision.
    pub upcast: bool,
}

impl SpatialTransformer {
    /// Loads it from `scope`. `options.heads` must divide the channels.
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn load(scope: &Scope<'_>, options: TransformerOptions) -> Result<Self, WeightsError> {
        let c = options.channels;
        Ok(Self {
            norm: scope.at("norm").group_norm(options.groups, c, 1e-6)?,
            // In some models, this is a convolution with kernel 1; the numbers are the same.
            proj_in: scope.at("proj_in").linear(c, c)?,
            blocks: (0..options.layers)
                .map(|i| {
                    let scope = scope.at("transformer_blocks").at(i);
                    TransformerBlock::load(&scope, options)
                })
                .collect::<Result<_, _>>()?,
            proj_out: scope.at("proj_out").linear(c, c)?,
        })
    }

    /// `y`.
    ///
    /// - `x`: `[batch, channels, height, width]`
    /// - `context`: the text, `[batch, words, context]`, and pictures beside it
    pub fn forward(&self, x: Tensor<4>, context: &Context<'_>) -> Tensor<4> {
        let h = self.positions(&x);
        self.finish(x, h, context, SelfAttentionMap::Own)
    }

    /// `y` with the identity as the map of every self-attention; see
    /// [`MultiHeadAttention::forward_identity`].
    ///
    /// - `x`, `context`: as in [`forward`](Self::forward)
    pub fn forward_perturbed(&self, x: Tensor<4>, context: &Context<'_>) -> Tensor<4> {
        let h = self.positions(&x);
        self.finish(x, h, context, SelfAttentionMap::Identity)
    }

    /// `y`, and the attention that each place gets in the first self-attention, `[batch, height, width]`; see
    /// [`MultiHeadAttention::received`].
    ///
    /// - `x`, `context`: as in [`forward`](Self::forward)
    pub fn forward_attending(&self, x: Tensor<4>, context: &Context<'_>) -> (Tensor<4>, Tensor<3>) {
        let [batch, _, height, width] = x.dims();
        let h = self.positions(&x);
        let received = match self.blocks.first() {
            Some(block) => block
                .attn1
                .received(layer_norm(&block.norm1, EPSILON, h.clone())),
            None => Tensor::ones([batch, height * width], &x.device()),
        };
        let y = self.finish(x, h, context, SelfAttentionMap::Own);
        (y, received.reshape([batch, height, width]))
    }

    /// `proj_in(norm(x))`, `[batch, positions, channels]`.
    fn positions(&self, x: &Tensor<4>) -> Tensor<3> {
        let [batch, channels, height, width] = x.dims();
        let h = group_norm(&self.norm, x.clone())
            .reshape([batch, channels, height * width])
            .swap_dims(1, 2); // [batch, positions, channels]
        linear(&self.proj_in, h)
    }

    /// `y` from the positions.
    fn finish(
        &self,
        x: Tensor<4>,
        mut h: Tensor<3>,
        context: &Context<'_>,
        map: SelfAttentionMap,
    ) -> Tensor<4> {
        let shape = x.dims();
        for block in &self.blocks {
            h = block.forward(h, context, map);
        }
        let y = linear(&self.proj_out, h).swap_dims(1, 2).reshape(shape);
        add(x, y)
    }

    /// The attentions to the text, in order.
    pub(super) fn cross_attentions(&mut self) -> impl Iterator<Item = &mut MultiHeadAttention> {
        self.blocks.iter_mut().map(|block| &mut block.attn2)
    }
}

/// The map of the self-attention.
#[derive(Clone, Copy)]
enum SelfAttentionMap {
    Own,
    Identity,
}

#[derive(Module, Debug)]
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: MultiHeadAttention,
    norm2: LayerNorm,
    attn2: MultiHeadAttention,
    norm3: LayerNorm,
    up: Linear,
    down: Linear,
}

impl TransformerBlock {
    fn load(scope: &Scope<'_>, options: TransformerOptions) -> Result<Self, WeightsError> {
        let c = options.channels;
        let norm = |name: &str| scope.at(name).layer_norm(c, EPSILON);
        let attend = |name: &str, context| {
            let heads = [options.heads, c / options.heads];
            let names = AttentionNames::TRANSFORMER;
            let attention = MultiHeadAttention::load(&scope.at(name), names, [c, context], heads)?;
            Ok::<_, WeightsError>(attention.with_upcast(options.upcast))
        };
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: attend("attn1", c)?,
            norm2: norm("norm2")?,
            attn2: attend("attn2", options.context)?,
            norm3: norm("norm3")?,
            up: scope.at("ff.net.0.proj").linear(c, 8 * c)?,
            down: scope.at("ff.net.2").linear(4 * c, c)?,
        })
    }

    fn forward(&self, x: Tensor<3>, context: &Context<'_>, map: SelfAttentionMap) -> Tensor<3> {
        let h = layer_norm(&self.norm1, EPSILON, x.clone());
        let h = match map {
            SelfAttentionMap::Own => self.attn1.forward(h, None, false),
            SelfAttentionMap::Identity => self.attn1.forward_identity(h),
        };
        let x = add(x, h);
        let h = self
            .attn2
            .forward_crossed(layer_norm(&self.norm2, EPSILON, x.clone()), context);
        let x = add(x, h);
        let h = linear_geglu(&self.up, layer_norm(&self.norm3, EPSILON, x.clone()));
        add(x, linear(&self.down, h))
    }
}
