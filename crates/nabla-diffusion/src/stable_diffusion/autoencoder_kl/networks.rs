//! Encoder and decoder.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, PaddingConfig2d};
use burn::tensor::Tensor;
use nabla_kernels::convolution::conv2d;

use super::{AutoencoderKlConfig, EPSILON};
use crate::stable_diffusion::attention::{AttentionNames, PositionAttention};
use crate::stable_diffusion::norm_statistics::NormStatistics;
use crate::stable_diffusion::resnet_block::{GroupNormOptions, ResnetBlock};
use crate::stable_diffusion::unet2d_condition::nearest;
use crate::stable_diffusion::weights::{Scope, WeightsError};

fn norm_options(config: &AutoencoderKlConfig) -> GroupNormOptions {
    GroupNormOptions {
        groups: config.norm_num_groups,
        epsilon: EPSILON,
    }
}

/// Residual blocks of one size, and a convolution that changes it.
#[derive(Module, Debug)]
struct Level {
    resnets: Vec<ResnetBlock>,
    resize: Option<Conv2d>,
}

impl Level {
    fn load(
        config: &AutoencoderKlConfig,
        scope: &Scope<'_>,
        [input, output]: [usize; 2],
        blocks: usize,
        resize: Option<Conv2d>,
    ) -> Result<Self, WeightsError> {
        let resnets = (0..blocks).map(|i| {
            let channels = [if i == 0 { input } else { output }, output];
            let scope = scope.at("resnets").at(i);
            ResnetBlock::load(&scope, channels, None, norm_options(config))
        });
        Ok(Self {
            resnets: resnets.collect::<Result<_, _>>()?,
            resize,
        })
    }

    fn blocks(&self, x: Tensor<4>, norms: &mut NormStatistics) -> Tensor<4> {
        let blocks = self.resnets.iter();
        blocks.fold(x, |h, resnet| resnet.forward_normalized(h, norms))
    }
}

/// The blocks at the smallest size.
#[derive(Module, Debug)]
struct Middle {
    resnets: [ResnetBlock; 2],
    attention: Option<PositionAttention>,
}

impl Middle {
    fn load(
        config: &AutoencoderKlConfig,
        scope: &Scope<'_>,
        channels: usize,
    ) -> Result<Self, WeightsError> {
        let options = norm_options(config);
        let resnet = |i: usize| {
            let scope = scope.at("resnets").at(i);
            ResnetBlock::load(&scope, [channels, channels], None, options)
        };
        let attention = match config.mid_block_add_attention {
            true => {
                let scope = scope.at("attentions.0");
                let names = AttentionNames::AUTOENCODER;
                let loaded =
                    PositionAttention::load(&scope, "group_norm", names, channels, 1, options)?;
                Some(loaded.with_upcast(true))
            }
            false => None,
        };
        Ok(Self {
            resnets: [resnet(0)?, resnet(1)?],
            attention,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut h = self.resnets[0].forward(x, None);
        if let Some(attention) = &self.attention {
            h = attention.forward(h);
        }
        self.resnets[1].forward(h, None)
    }
}

/// The last layers.
#[derive(Module, Debug)]
struct End {
    norm: GroupNorm,
    conv: Conv2d,
}

impl End {
    fn load(
        config: &AutoencoderKlConfig,
        scope: &Scope<'_>,
        [input, output]: [usize; 2],
    ) -> Result<Self, WeightsError> {
        let norm = scope.at("conv_norm_out");
        Ok(Self {
            norm: norm.group_norm(config.norm_num_groups, input, EPSILON)?,
            conv: scope.at("conv_out").conv2d(input, output, 3, 1)?,
        })
    }

    fn forward(&self, h: Tensor<4>, norms: &mut NormStatistics) -> Tensor<4> {
        conv2d(&self.conv, norms.group_norm_silu(&self.norm, h))
    }
}

/// `E`.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    pub(super) conv_in: Conv2d,
    levels: Vec<Level>,
    middle: Middle,
    end: End,
}

impl Encoder {
    pub(super) fn load(
        config: &AutoencoderKlConfig,
        scope: &Scope<'_>,
    ) -> Result<Self, WeightsError> {
        let channels = &config.block_out_channels;
        let mut width = channels.first().copied().unwrap_or_default();
        let conv_in = scope
            .at("conv_in")
            .conv2d(config.in_channels, width, 3, 1)?;
        let mut levels = Vec::with_capacity(channels.len());
        for (i, &output) in channels.iter().enumerate() {
            let scope = scope.at("down_blocks").at(i);
            let resize = match i + 1 < channels.len() {
                true => {
                    let conv = scope.at("downsamplers.0.conv");
                    // Pad with zeros only on the right and at the bottom.
                    Some(Conv2d {
                        padding: PaddingConfig2d::Explicit(0, 0, 1, 1),
                        ..conv.conv2d(output, output, 3, 2)?
                    })
                }
                false => None,
            };
            let blocks = config.layers_per_block;
            levels.push(Level::load(
                config,
                &scope,
                [width, output],
                blocks,
                resize,
            )?);
            width = output;
        }
        Ok(Self {
            conv_in,
            levels,
            middle: Middle::load(config, &scope.at("mid_block"), width)?,
            end: End::load(config, scope, [width, 2 * config.latent_channels])?,
        })
    }

    /// The part larger than the latent: all levels except the last.
    pub(super) fn outer(
        &self,
        x: Tensor<4>,
        norms: &mut NormStatistics,
        see: &mut dyn FnMut(usize, &Tensor<4>),
    ) -> Tensor<4> {
        let mut h = conv2d(&self.conv_in, x);
        for (i, level) in self.levels.iter().enumerate() {
            let Some(downsample) = &level.resize else {
                break;
            };
            h = level.blocks(h, norms);
            see(i, &h);
            h = conv2d(downsample, h);
        }
        h
    }

    /// The part of the latent's size.
    pub(super) fn inner(
        &self,
        mut h: Tensor<4>,
        see: &mut dyn FnMut(usize, &Tensor<4>),
    ) -> Tensor<4> {
        if let Some(level) = self.levels.last() {
            h = level.blocks(h, &mut NormStatistics::Own);
            see(self.levels.len() - 1, &h);
        }
        let h = self.middle.forward(h);
        self.end.forward(h, &mut NormStatistics::Own)
    }
}

/// `D`.
#[derive(Module, Debug)]
pub(super) struct Decoder {
    pub(super) conv_in: Conv2d,
    middle: Middle,
    levels: Vec<Level>,
    end: End,
}

impl Decoder {
    pub(super) fn load(
        config: &AutoencoderKlConfig,
        scope: &Scope<'_>,
    ) -> Result<Self, WeightsError> {
        let channels = &config.block_out_channels;
        let mut width = channels.last().copied().unwrap_or_default();
        let conv_in = scope
            .at("conv_in")
            .conv2d(config.latent_channels, width, 3, 1)?;
        let middle = Middle::load(config, &scope.at("mid_block"), width)?;
        let mut levels = Vec::with_capacity(channels.len());
        for (i, &output) in channels.iter().rev().enumerate() {
            let scope = scope.at("up_blocks").at(i);
            let resize = match i + 1 < channels.len() {
                true => Some(scope.at("upsamplers.0.conv").conv2d(output, output, 3, 1)?),
                false => None,
            };
            let blocks = config.layers_per_block + 1;
            levels.push(Level::load(
                config,
                &scope,
                [width, output],
                blocks,
                resize,
            )?);
            width = output;
        }
        Ok(Self {
            conv_in,
            middle,
            levels,
            end: End::load(config, scope, [width, config.out_channels])?,
        })
    }

    /// The part of the latent's size.
    pub(super) fn inner(
        &self,
        z: Tensor<4>,
        change: &mut dyn FnMut(usize, Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let h = self.middle.forward(conv2d(&self.conv_in, z));
        match self.levels.first() {
            Some(level) => {
                let h = level.blocks(h, &mut NormStatistics::Own);
                change(self.levels.len() - 1, h)
            }
            None => h,
        }
    }

    /// The part larger than the latent: all levels except the first.
    pub(super) fn outer(
        &self,
        mut h: Tensor<4>,
        norms: &mut NormStatistics,
        change: &mut dyn FnMut(usize, Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        for (i, pair) in self.levels.windows(2).enumerate() {
            if let Some(upsample) = &pair[0].resize {
                let [_, _, height, width] = h.dims();
                h = conv2d(upsample, nearest(h, [2 * height, 2 * width]));
            }
            h = change(self.levels.len() - 2 - i, pair[1].blocks(h, norms));
        }
        self.end.forward(h, norms)
    }
}
