//! Attention over a sequence of vectors, with several heads.
//!
//! ```text
//! softmax(q kᵀ/√d) v,   q = x W_q,   k = c W_k,   v = c W_v
//! ```
//!
//! for each head of `d` channels, where the context `c` is `x` itself (self-attention) or another sequence,
//! such as the words of a text (cross-attention). Beside the text, it may be pictures, each with projections
//! of its own and a scale: `softmax(q kᵀ/√d) v + Σ s softmax(q k'ᵀ/√d) v'`
//! ([IP-Adapter](super::ip_adapter)). Only a part of the scores is in memory at a time (Dao et
//! al., *FlashAttention*, 2022, arXiv 2205.14135), so a picture of 64 x 64 positions needs no matrix of 4096
//! x 4096: see [`nabla_kernels::attention`].
//!
//! Source: Vaswani et al., *Attention Is All You Need*, 2017, arXiv 1706.03762.

use burn::module::Module;
use burn::nn::{GroupNorm, Linear};
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Tensor};

use super::resnet_block::GroupNormOptions;
use super::weights::{Scope, WeightsError};
use nabla_kernels::attention::attention;
use nabla_kernels::linear::linear;
use nabla_kernels::normalization::group_norm;

/// Attention with projections before and after it.
#[derive(Module, Debug)]
pub struct MultiHeadAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    upcast: bool,
    /// For each picture beside the text.
    pictures: Vec<PictureProjection>,
}

/// The projections of a picture's tokens.
#[derive(Module, Debug)]
pub struct PictureProjection {
    to_k: Linear,
    to_v: Linear,
}

impl PictureProjection {
    /// Loads `to_k_ip` and `to_v_ip` from `scope`, from `input` to `output` channels.
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn load(scope: &Scope<'_>, input: usize, output: usize) -> Result<Self, WeightsError> {
        let project = |name| scope.at(name).linear_without_bias(input, output);
        Ok(Self {
            to_k: project("to_k_ip")?,
            to_v: project("to_v_ip")?,
        })
    }
}

/// What a UNet attends to.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The text, `[batch, words, channels]`.
    pub text: &'a Tensor<3>,
    /// The tokens of each picture, `[batch, tokens, channels]`, and the scale of its attention; as many as the
    /// network has projections for.
    pub pictures: &'a [(Tensor<3>, f64)],
}

impl<'a> Context<'a> {
    /// A text alone.
    pub fn text(text: &'a Tensor<3>) -> Self {
        Self {
            text,
            pictures: &[],
        }
    }
}

/// The names of the projections.
#[derive(Clone, Copy, Debug)]
pub struct AttentionNames {
    /// `W_q`, `W_k`, `W_v` and the projection after.
    pub projections: [&'static str; 4],
    /// Whether `W_q`, `W_k` and `W_v` have a bias.
    pub bias: bool,
}

impl AttentionNames {
    /// Of `diffusers`, for transformers in a UNet.
    pub const TRANSFORMER: Self = Self {
        projections: ["to_q", "to_k", "to_v", "to_out.0"],
        bias: false,
    };
    /// Of `diffusers`, for the attention of an autoencoder.
    pub const AUTOENCODER: Self = Self {
        bias: true,
        ..Self::TRANSFORMER
    };
    /// Of `transformers`, for CLIP.
    pub const CLIP: Self = Self {
        projections: ["q_proj", "k_proj", "v_proj", "out_proj"],
        bias: true,
    };
}

impl MultiHeadAttention {
    /// Loads it from `scope`.
    ///
    /// - `channels`: of `x` and the result; `context`: of `c`
    /// - `heads`, each of `head_channels`
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn load(
        scope: &Scope<'_>,
        names: AttentionNames,
        [channels, context]: [usize; 2],
        [heads, head_channels]: [usize; 2],
    ) -> Result<Self, WeightsError> {
        let inner = heads * head_channels;
        let project = |name: &str, input| match names.bias {
            true => scope.at(name).linear(input, inner),
            false => scope.at(name).linear_without_bias(input, inner),
        };
        let [q, k, v, out] = names.projections;
        Ok(Self {
            to_q: project(q, channels)?,
            to_k: project(k, context)?,
            to_v: project(v, context)?,
            to_out: scope.at(out).linear(inner, channels)?,
            heads,
            upcast: false,
            pictures: Vec::new(),
        })
    }

    /// Whether the scores are computed in 32 bits, whatever the precision of the network.
    pub fn with_upcast(mut self, upcast: bool) -> Self {
        self.upcast = upcast;
        self
    }

    /// Applies the attention.
    ///
    /// - `x`: `[batch, length, channels]`
    /// - `context`: `[batch, words, context channels]`; `None` for `x` itself
    /// - `causal`: whether a position attends only to itself and earlier positions
    /// - returns the shape of `x`
    pub fn forward(&self, x: Tensor<3>, context: Option<Tensor<3>>, causal: bool) -> Tensor<3> {
        let context = context.unwrap_or_else(|| x.clone());
        self.attend(x, context, &[], causal)
    }

    /// Applies the attention to a text and to pictures beside it.
    pub fn forward_crossed(&self, x: Tensor<3>, context: &Context<'_>) -> Tensor<3> {
        self.attend(x, context.text.clone(), context.pictures, false)
    }

    /// `W_q`, `W_k`, `W_v` and the projection after, in the order of [`AttentionNames::projections`].
    pub(super) fn projections(&mut self) -> [&mut Linear; 4] {
        [
            &mut self.to_q,
            &mut self.to_k,
            &mut self.to_v,
            &mut self.to_out,
        ]
    }

    /// Adds the projections of one more picture.
    pub(super) fn add_picture(&mut self, projection: PictureProjection) {
        self.pictures.push(projection);
    }

    fn attend(
        &self,
        x: Tensor<3>,
        context: Tensor<3>,
        pictures: &[(Tensor<3>, f64)],
        causal: bool,
    ) -> Tensor<3> {
        let dtype = x.dtype();
        let wide = |y: Tensor<3>| if self.upcast { y.cast(DType::F32) } else { y };
        let q = wide(linear(&self.to_q, x));
        let of = |q, to_k: &Linear, to_v: &Linear, context: Tensor<3>| {
            let k = wide(linear(to_k, context.clone()));
            let v = wide(linear(to_v, context));
            attention(q, k, v, self.heads, causal).cast(dtype)
        };
        let pictures = self.pictures.iter().zip(pictures);
        let beside = pictures.map(|(projection, (tokens, scale))| {
            let PictureProjection { to_k, to_v } = projection;
            of(q.clone(), to_k, to_v, tokens.clone()) * *scale
        });
        let beside: Vec<Tensor<3>> = beside.collect();
        let y = of(q, &self.to_k, &self.to_v, context);
        let y = beside.into_iter().fold(y, |y, beside| y + beside);
        linear(&self.to_out, y)
    }

    /// Applies the attention with the identity as its map: each position keeps its own value (Ahn et al., 2024,
    /// arXiv 2403.17377).
    ///
    /// - `x`: `[batch, length, channels]`
    pub fn forward_identity(&self, x: Tensor<3>) -> Tensor<3> {
        linear(&self.to_out, linear(&self.to_v, x))
    }

    /// The attention that each position of `x` gets from all of them, the mean over the heads: `[batch, length]`
    /// in 32 bits, 1 on average.
    ///
    /// - `x`: `[batch, length, channels]`; a map of `length` x `length` is computed
    pub fn received(&self, x: Tensor<3>) -> Tensor<2> {
        let [batch, length, _] = x.dims();
        let heads = |y: Tensor<3>| -> Tensor<4> {
            let width = y.dims()[2] / self.heads;
            let y = y.cast(DType::F32);
            y.reshape([batch, length, self.heads, width])
                .swap_dims(1, 2)
        };
        let (q, k) = (
            heads(linear(&self.to_q, x.clone())),
            heads(linear(&self.to_k, x)),
        );
        let scale = (q.dims()[3] as f64).sqrt();
        let map = softmax(q.matmul(k.swap_dims(2, 3)) / scale, 3); // [batch, heads, from, to]
        map.mean_dim(1).sum_dim(2).reshape([batch, length])
    }
}

/// Self-attention of the positions of a picture, with a shortcut: `x + attention(norm(x))`.
#[derive(Module, Debug)]
pub struct PositionAttention {
    norm: GroupNorm,
    attention: MultiHeadAttention,
}

impl PositionAttention {
    /// Loads it from `scope`.
    ///
    /// - `norm`: the name of the normalisation
    /// - `heads` must divide `channels`
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn load(
        scope: &Scope<'_>,
        norm: &str,
        names: AttentionNames,
        channels: usize,
        heads: usize,
        options: GroupNormOptions,
    ) -> Result<Self, WeightsError> {
        let heads = [heads, channels / heads];
        Ok(Self {
            norm: scope
                .at(norm)
                .group_norm(options.groups, channels, options.epsilon)?,
            attention: MultiHeadAttention::load(scope, names, [channels; 2], heads)?,
        })
    }

    /// Whether the scores are computed in 32 bits, whatever the precision of the network.
    pub fn with_upcast(mut self, upcast: bool) -> Self {
        self.attention = self.attention.with_upcast(upcast);
        self
    }

    /// `x + attention(norm(x))`, `[batch, channels, height, width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let h = group_norm(&self.norm, x.clone())
            .reshape([batch, channels, height * width])
            .swap_dims(1, 2); // [batch, positions, channels]
        let h = self.attention.forward(h, None, false);
        x + h.swap_dims(1, 2).reshape([batch, channels, height, width])
    }
}
