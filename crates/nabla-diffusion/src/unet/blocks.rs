//! The blocks of the [UNet](super).

use burn::module::{Initializer, Module};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use nabla_kernels::activation::silu;
use nabla_kernels::attention::attention;
use nabla_kernels::convolution::conv2d;
use nabla_kernels::linear::linear;
use nabla_kernels::normalization::{group_norm, group_norm_silu, modulated_silu};
use nabla_kernels::residual::add;

use super::Normalization;
use crate::block_skipping::BlockCounter;

/// `x + conv(silu(scale_shift(norm(conv(silu(norm(x))))))))`.
#[derive(Module, Debug)]
pub(super) struct ResidualBlock {
    norm_in: Option<GroupNorm>,
    conv_in: Conv2d,
    modulation: Linear,
    norm_out: Option<GroupNorm>,
    conv_out: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResidualBlock {
    pub(super) fn new(
        input: usize,
        output: usize,
        time_channels: usize,
        normalization: &Normalization,
        device: &Device,
    ) -> Self {
        // The number of groups may not divide the channels of a concatenation with a skip connection; their
        // greatest common divisor is then used as the number of groups.
        let input_normalization = match normalization {
            Normalization::Group { groups } if !input.is_multiple_of(*groups) => {
                Normalization::Group {
                    groups: greatest_common_divisor(input, *groups),
                }
            }
            other => other.clone(),
        };
        Self {
            norm_in: norm(input, &input_normalization, device),
            conv_in: conv3x3(input, output, 1).init(device),
            modulation: LinearConfig::new(time_channels, 2 * output)
                .with_initializer(Initializer::Zeros)
                .init(device),
            norm_out: norm(output, normalization, device),
            conv_out: zero(conv3x3(output, output, 1)).init(device),
            shortcut: (input != output)
                .then(|| Conv2dConfig::new([input, output], [1, 1]).init(device)),
        }
    }

    /// The block as the next one of a call; skipped, its shortcut.
    pub(super) fn forward_counted(
        &self,
        x: Tensor<4>,
        time: &Tensor<2>,
        blocks: &mut BlockCounter<'_>,
    ) -> Tensor<4> {
        match (blocks.computes_next(), &self.shortcut) {
            (true, _) => self.forward(x, time),
            (false, Some(shortcut)) => conv2d(shortcut, x),
            (false, None) => x,
        }
    }

    fn forward(&self, x: Tensor<4>, time: &Tensor<2>) -> Tensor<4> {
        let h = conv2d(&self.conv_in, normalize_silu(&self.norm_in, x.clone()));
        let [batch, channels, _, _] = h.dims();
        // [batch, 2 * channels] -> two of [batch, channels]
        let modulation = linear(&self.modulation, time.clone());
        let scale = modulation.clone().slice([0..batch, 0..channels]);
        let shift = modulation.slice([0..batch, channels..2 * channels]);
        let h = modulated_silu(normalize(&self.norm_out, h), scale, shift);
        let h = conv2d(&self.conv_out, h);
        match &self.shortcut {
            Some(shortcut) => add(h, conv2d(shortcut, x)),
            None => add(h, x),
        }
    }
}

/// `x + projection(softmax(q kᵀ / √d) v)` over all pixels.
#[derive(Module, Debug)]
pub(super) struct SelfAttention {
    norm: Option<GroupNorm>,
    qkv: Conv2d,
    projection: Conv2d,
    heads: usize,
}

impl SelfAttention {
    pub(super) fn new(
        channels: usize,
        heads: usize,
        normalization: &Normalization,
        device: &Device,
    ) -> Self {
        Self {
            norm: norm(channels, normalization, device),
            qkv: Conv2dConfig::new([channels, 3 * channels], [1, 1]).init(device),
            projection: zero(Conv2dConfig::new([channels, channels], [1, 1])).init(device),
            heads,
        }
    }

    /// The block as the next one of a call; skipped, the identity.
    pub(super) fn forward_counted(&self, x: Tensor<4>, blocks: &mut BlockCounter<'_>) -> Tensor<4> {
        match blocks.computes_next() {
            true => self.forward(x),
            false => x,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let qkv = conv2d(&self.qkv, normalize(&self.norm, x.clone()));
        // [batch, channels, pixels] -> [batch, pixels, channels]
        let part = |i: usize| {
            let part = qkv.clone().slice_dim(1, i * channels..(i + 1) * channels);
            part.reshape([batch, channels, height * width])
                .swap_dims(1, 2)
        };
        let out = attention(part(0), part(1), part(2), self.heads, false)
            .swap_dims(1, 2)
            .reshape([batch, channels, height, width]);
        add(x, conv2d(&self.projection, out))
    }
}

/// Sinusoids of the time step through a two-layer perceptron.
#[derive(Module, Debug)]
pub(super) struct TimeEmbedding {
    hidden: Linear,
    output: Linear,
    channels: usize,
}

impl TimeEmbedding {
    pub(super) fn new(channels: usize, time_channels: usize, device: &Device) -> Self {
        Self {
            hidden: LinearConfig::new(channels, time_channels).init(device),
            output: LinearConfig::new(time_channels, time_channels).init(device),
            channels,
        }
    }

    pub(super) fn forward(&self, timestep: Tensor<1>) -> Tensor<2> {
        let h = sinusoidal_embedding(timestep, self.channels);
        linear(&self.output, silu(linear(&self.hidden, h)))
    }
}

/// `[cos(t ω_i), sin(t ω_i)]` with `ω_i = 10000^(-i / half)`, `i < half = channels / 2`
/// (the convention of Stable Diffusion).
///
/// - `timestep`: `[batch]`
/// - returns `[batch, channels]`; `channels` must be even.
pub fn sinusoidal_embedding(timestep: Tensor<1>, channels: usize) -> Tensor<2> {
    let half = channels / 2;
    let frequencies: Vec<f32> = (0..half)
        .map(|i| (-(10_000f64.ln()) * i as f64 / half as f64).exp() as f32)
        .collect();
    let device = timestep.device();
    let [batch] = timestep.dims();
    let phase = timestep.reshape([batch, 1])
        * Tensor::<1>::from_floats(frequencies.as_slice(), &device).reshape([1, half]);
    Tensor::cat(vec![phase.clone().cos(), phase.sin()], 1)
}

pub(super) fn conv3x3(input: usize, output: usize, stride: usize) -> Conv2dConfig {
    Conv2dConfig::new([input, output], [3, 3])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
}

fn zero(config: Conv2dConfig) -> Conv2dConfig {
    config.with_initializer(Initializer::Zeros)
}

pub(super) fn norm(
    channels: usize,
    normalization: &Normalization,
    device: &Device,
) -> Option<GroupNorm> {
    match normalization {
        Normalization::Group { groups } => {
            Some(GroupNormConfig::new(*groups, channels).init(device))
        }
        Normalization::None => None,
    }
}

fn normalize(norm: &Option<GroupNorm>, x: Tensor<4>) -> Tensor<4> {
    match norm {
        Some(norm) => group_norm(norm, x),
        None => x,
    }
}

pub(super) fn normalize_silu(norm: &Option<GroupNorm>, x: Tensor<4>) -> Tensor<4> {
    match norm {
        Some(norm) => group_norm_silu(norm, x),
        None => silu(x),
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests;
