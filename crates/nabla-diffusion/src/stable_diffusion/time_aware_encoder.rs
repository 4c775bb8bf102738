//! StableSR's time-aware encoder, which extracts from a small picture what it shows of the large one, at each
//! noise level.
//!
//! The encoder is the first half of a UNet. From the latent of the enlarged picture and the time, it computes
//! a feature map for each level of the denoising UNet, and every residual block of that level is
//! [modulated](super::spatial_feature_transform) with the map. From the time, the encoder knows how much the
//! picture should contribute: much while the sampler decides the structure, less at the end.
//!
//! ```text
//! h₀ = conv(c),   hₗ = blocks(hₗ₋₁, t),   f = block(hₗ before the next level, t)     one f for each level
//! ```
//!
//! where the last level's `f` is taken after a middle part. A block is a
//! [residual block](super::resnet_block), at most levels followed by self-attention of the positions.
//!
//! Source: Wang, Yue, Zhou, Chan, Loy, *Exploiting Diffusion Prior for Real-World Image
//! Super-Resolution*, IJCV 2024, arXiv 2305.07015, section 3.1.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{DType, Tensor};
use serde::Deserialize;

use super::attention::{AttentionNames, PositionAttention};
use super::latent_diffusion_names::residual_block;
use super::resnet_block::{GroupNormOptions, ResnetBlock};
use super::unet_encoder::TimestepEmbedding;
use super::weights::{Rows, Scope, Stored, WeightsError};
use crate::unet::sinusoidal_embedding;
use nabla_kernels::convolution::conv2d;

/// The sizes of a time-aware encoder, by the names of the published configuration. The defaults are the
/// published model's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct TimeAwareEncoderConfig {
    /// Channels of the latent. Default 4.
    pub in_channels: usize,
    /// Channels of the finest level. Default 256.
    pub model_channels: usize,
    /// Channels of each map of features. Default 256.
    pub out_channels: usize,
    /// Channels of each level, in units of `model_channels`, the finest first. Default 1, 1, 2, 2.
    pub channel_mult: Vec<usize>,
    /// Residual blocks of a level. Default 2.
    pub num_res_blocks: usize,
    /// At which reductions of the size there is attention. Default 4, 2, 1.
    pub attention_resolutions: Vec<usize>,
    /// Heads of the attention. Default 4.
    pub num_heads: usize,
    /// Groups of the normalisation. Default 32.
    pub norm_num_groups: usize,
}

impl Default for TimeAwareEncoderConfig {
    fn default() -> Self {
        Self {
            in_channels: 4,
            model_channels: 256,
            out_channels: 256,
            channel_mult: vec![1, 1, 2, 2],
            num_res_blocks: 2,
            attention_resolutions: vec![4, 2, 1],
            num_heads: 4,
            norm_num_groups: 32,
        }
    }
}

impl TimeAwareEncoderConfig {
    /// The fault of the configuration, if there is one: the key, its value, and the expected value.
    pub(super) fn fault(&self) -> Option<[String; 3]> {
        let told = |key: &str, value: String, expected: String| {
            Some([format!("structure_encoder.{key}"), value, expected])
        };
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("num_res_blocks", self.num_res_blocks),
            ("num_heads", self.num_heads),
            ("norm_num_groups", self.norm_num_groups),
        ] {
            if value == 0 {
                return told(key, "0".to_owned(), "it must be at least 1".to_owned());
            }
        }
        if self.model_channels == 0 || !self.model_channels.is_multiple_of(2) {
            let value = self.model_channels.to_string();
            return told(
                "model_channels",
                value,
                "it must be even and positive".to_owned(),
            );
        }
        if self.channel_mult.is_empty() || self.channel_mult.contains(&0) {
            let value = format!("{:?}", self.channel_mult);
            return told(
                "channel_mult",
                value,
                "its entries must be positive, and there must be one".to_owned(),
            );
        }
        let channels = self.channels();
        for (key, divisor) in [
            ("num_heads", self.num_heads),
            ("norm_num_groups", self.norm_num_groups),
        ] {
            let widths = channels.iter().chain([&self.out_channels]);
            let widths = widths.take(channels.len() + usize::from(key != "num_heads"));
            for width in widths {
                if *width == 0 || !width.is_multiple_of(divisor) {
                    let expected = format!("it must divide the {width} channels of a level");
                    return told(key, divisor.to_string(), expected);
                }
            }
        }
        None
    }

    /// Channels of each level.
    pub fn channels(&self) -> Vec<usize> {
        let channels = self.channel_mult.iter();
        channels.map(|m| m * self.model_channels).collect()
    }
}

/// The encoder; see the [module](self).
#[derive(Module, Debug)]
pub struct TimeAwareEncoder {
    time: TimestepEmbedding,
    conv_in: Conv2d,
    levels: Vec<Level>,
    middle: [ResnetBlock; 2],
    middle_attention: PositionAttention,
    /// One for each level.
    features: Vec<ResnetBlock>,
    channels: usize,
}

#[derive(Module, Debug)]
struct Level {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<PositionAttention>,
    downsample: Option<Conv2d>,
}

impl TimeAwareEncoder {
    /// The form of our tensor `name` in the published checkpoint, for an encoder with this number of heads:
    /// the three projections of an attention are one matrix, head by head.
    pub fn names(heads: usize) -> impl Fn(&str) -> Stored {
        move |name| {
            let parts: Vec<&str> = name.rsplitn(3, '.').collect();
            let [number, layer, before] = parts[..] else {
                return Stored::from(name.to_owned());
            };
            let part = match layer {
                "to_q" => 0,
                "to_k" => 1,
                "to_v" => 2,
                "linear_1" => return Stored::from(format!("{before}.0.{number}")),
                "linear_2" => return Stored::from(format!("{before}.2.{number}")),
                _ => {
                    let layer = residual_block(&format!("{layer}.{number}"));
                    return Stored::from(format!("{before}.{layer}"));
                }
            };
            Stored::rows(
                format!("{before}.qkv.{number}"),
                Rows::part(part, 3).of_each_block(heads),
            )
        }
    }

    /// Loads it from `scope`, which is that of a checkpoint with [`names`](Self::names).
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn from_scope(
        config: &TimeAwareEncoderConfig,
        scope: &Scope<'_>,
    ) -> Result<Self, WeightsError> {
        let first = config.model_channels;
        let time = 4 * first;
        let norm = GroupNormOptions {
            groups: config.norm_num_groups,
            epsilon: 1e-5,
        };
        let names = AttentionNames {
            projections: ["to_q", "to_k", "to_v", "proj_out"],
            bias: true,
        };
        let resnet =
            |scope: &Scope<'_>, channels| ResnetBlock::load(scope, channels, Some(time), norm);
        let attend = |scope: &Scope<'_>, channels| {
            PositionAttention::load(scope, "norm", names, channels, config.num_heads, norm)
        };

        let blocks = scope.at("input_blocks");
        let conv_in = blocks.at("0.0").conv2d(config.in_channels, first, 3, 1)?;
        let channels = config.channels();
        let last = channels.len() - 1;
        let (mut levels, mut width, mut number) = (Vec::new(), first, 1);
        for (i, &channels) in channels.iter().enumerate() {
            let (mut resnets, mut attentions) = (Vec::new(), Vec::new());
            for _ in 0..config.num_res_blocks {
                let block = blocks.at(number);
                resnets.push(resnet(&block.at(0), [width, channels])?);
                if config.attention_resolutions.contains(&(1 << i)) {
                    attentions.push(attend(&block.at(1), channels)?);
                }
                (width, number) = (channels, number + 1);
            }
            let downsample = match i < last {
                true => {
                    let scope = blocks.at(number).at("0.op");
                    number += 1;
                    Some(scope.conv2d(width, width, 3, 2)?)
                }
                false => None,
            };
            levels.push(Level {
                resnets,
                attentions,
                downsample,
            });
        }
        let middle = scope.at("middle_block");
        let features = scope.at("fea_tran");
        Ok(Self {
            time: TimestepEmbedding::load(&scope.at("time_embed"), first, time)?,
            conv_in,
            levels,
            middle: [
                resnet(&middle.at(0), [width, width])?,
                resnet(&middle.at(2), [width, width])?,
            ],
            middle_attention: attend(&middle.at(1), width)?,
            features: channels
                .iter()
                .enumerate()
                .map(|(i, &channels)| resnet(&features.at(i), [channels, config.out_channels]))
                .collect::<Result<_, _>>()?,
            channels: first,
        })
    }

    /// The maps of features, `[batch, out_channels, height, width]` of each level, the finest first; each map
    /// has half the size of the one before it, rounded up.
    ///
    /// - `latent`: of the enlarged picture, `[batch, in_channels, height, width]`
    /// - `timestep`: `[batch]`, in the units of training steps
    pub fn forward(&self, latent: Tensor<4>, timestep: Tensor<1>) -> Vec<Tensor<4>> {
        let dtype = latent.dtype();
        let time = sinusoidal_embedding(timestep.cast(DType::F32), self.channels);
        let time = self.time.forward(time.cast(dtype)); // [batch, 4 model_channels]
        let mut h = conv2d(&self.conv_in, latent);
        let mut states = Vec::with_capacity(self.levels.len());
        for level in &self.levels {
            for (i, resnet) in level.resnets.iter().enumerate() {
                h = resnet.forward(h, Some(&time));
                if let Some(attention) = level.attentions.get(i) {
                    h = attention.forward(h);
                }
            }
            if let Some(downsample) = &level.downsample {
                states.push(h.clone());
                h = conv2d(downsample, h);
            }
        }
        h = self.middle[0].forward(h, Some(&time));
        h = self.middle_attention.forward(h);
        states.push(self.middle[1].forward(h, Some(&time)));
        let blocks = self.features.iter().zip(states);
        blocks
            .map(|(block, h)| block.forward(h, Some(&time)))
            .collect()
    }
}
