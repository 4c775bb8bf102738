//! The way down of Stable Diffusion's UNet, and its middle: the part that a ControlNet copies.
//!
//! ```text
//! h = conv(x) (+ hint),   h ← blocks(h, time, text), once for each level,   h ← middle(h)
//! ```
//!
//! The maps after the first convolution, each block and each step to the next level are the skips: the way up
//! of a [UNet](super::unet2d_condition) joins them, and a [ControlNet](super::control_net) has an output for
//! each.

use burn::module::Module;
use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::tensor::{DType, Tensor};

use super::resnet_block::{GroupNormOptions, ResnetBlock};
use super::transformer::{SpatialTransformer, TransformerOptions};
use super::unet2d_condition::{AddedCondition, Inputs, Level, UNet2DConditionConfig};
use super::weights::{Scope, WeightsError};
use crate::block_skipping::BlockCounter;
use crate::unet::sinusoidal_embedding;
use nabla_kernels::activation::silu;
use nabla_kernels::convolution::conv2d;
use nabla_kernels::linear::linear;

/// The way down and the middle; see the [module](self).
#[derive(Module, Debug)]
pub struct UNetEncoder {
    conv_in: Conv2d,
    time: TimestepEmbedding,
    added: Option<TimestepEmbedding>,
    down: Vec<DownLevel>,
    middle: [ResnetBlock; 2],
    middle_attention: SpatialTransformer,
    channels: usize,
    added_channels: usize,
}

#[derive(Module, Debug)]
struct DownLevel {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<SpatialTransformer>,
    downsample: Option<Conv2d>,
}

/// The result of the way down.
#[derive(Clone, Debug)]
pub(super) struct Encoded<'a> {
    /// After the middle, `[batch, channels, height, width]`.
    pub(super) middle: Tensor<4>,
    /// The maps that the way up joins, the finest first.
    pub(super) skips: Vec<Tensor<4>>,
    /// The embedded time, `[batch, channels]`.
    pub(super) time: Tensor<2>,
    /// The number of residual blocks so far.
    pub(super) blocks: usize,
    /// Counts residual blocks and transformers.
    pub(super) counter: BlockCounter<'a>,
}

/// Loads a level's residual block and transformer.
pub(super) struct BlockLoader<'a> {
    config: &'a UNet2DConditionConfig,
    norm: GroupNormOptions,
}

impl<'a> BlockLoader<'a> {
    pub(super) fn new(config: &'a UNet2DConditionConfig) -> Self {
        Self {
            config,
            norm: GroupNormOptions {
                groups: config.norm_num_groups,
                epsilon: config.norm_eps,
            },
        }
    }

    /// Block number `i` of a level.
    pub(super) fn resnet(
        &self,
        scope: &Scope<'_>,
        i: usize,
        channels: [usize; 2],
    ) -> Result<ResnetBlock, WeightsError> {
        let time = self.config.time_channels();
        ResnetBlock::load(&scope.at("resnets").at(i), channels, Some(time), self.norm)
    }

    /// The transformer after it.
    pub(super) fn transformer(
        &self,
        scope: &Scope<'_>,
        i: usize,
        level: &Level,
    ) -> Result<SpatialTransformer, WeightsError> {
        let options = TransformerOptions {
            channels: level.channels,
            heads: level.heads,
            context: self.config.cross_attention_dim,
            layers: level.layers,
            groups: self.config.norm_num_groups,
            upcast: self.config.upcast_attention,
        };
        SpatialTransformer::load(&scope.at("attentions").at(i), options)
    }
}

impl UNetEncoder {
    /// Loads it from the weights below a prefix.
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn from_scope(
        config: &UNet2DConditionConfig,
        scope: &Scope<'_>,
    ) -> Result<Self, WeightsError> {
        let levels = config.levels();
        let last = levels.len() - 1;
        let time = config.time_channels();
        let load = BlockLoader::new(config);

        let first = levels[0].channels;
        let conv_in = scope
            .at("conv_in")
            .conv2d(config.in_channels, first, 3, 1)?;
        let mut width = first;
        let mut down = Vec::with_capacity(levels.len());
        for (i, level) in levels.iter().enumerate() {
            let scope = scope.at("down_blocks").at(i);
            let attends = config.down_block_types[i] == "CrossAttnDownBlock2D";
            let (mut resnets, mut attentions) = (Vec::new(), Vec::new());
            for block in 0..config.layers_per_block {
                resnets.push(load.resnet(&scope, block, [width, level.channels])?);
                if attends {
                    attentions.push(load.transformer(&scope, block, level)?);
                }
                width = level.channels;
            }
            let downsample = match i < last {
                true => Some(scope.at("downsamplers.0.conv").conv2d(width, width, 3, 2)?),
                false => None,
            };
            down.push(DownLevel {
                resnets,
                attentions,
                downsample,
            });
        }

        let scope_middle = scope.at("mid_block");
        let middle = [
            load.resnet(&scope_middle, 0, [width, width])?,
            load.resnet(&scope_middle, 1, [width, width])?,
        ];
        let middle_attention = load.transformer(&scope_middle, 0, &levels[last])?;

        let added_channels = config.addition_time_embed_dim.unwrap_or(0);
        let added = match (
            &config.addition_embed_type,
            config.projection_class_embeddings_input_dim,
        ) {
            (Some(_), Some(input)) => {
                let scope = scope.at("add_embedding");
                Some(TimestepEmbedding::load(&scope, input, time)?)
            }
            _ => None,
        };
        Ok(Self {
            conv_in,
            time: TimestepEmbedding::load(&scope.at("time_embedding"), first, time)?,
            added,
            down,
            middle,
            middle_attention,
            channels: first,
            added_channels,
        })
    }

    /// The embedded time and, for SDXL, the sizes and the pooled text, `[batch, channels]`.
    fn embed(
        &self,
        timestep: Tensor<1>,
        added: Option<&AddedCondition>,
        dtype: DType,
    ) -> Tensor<2> {
        let time = sinusoidal_embedding(timestep.cast(DType::F32), self.channels);
        let mut time = self.time.forward(time.cast(dtype)); // [batch, time_channels]
        if let (Some(embedding), Some(added)) = (&self.added, added) {
            let [batch, numbers] = added.size.dims();
            let size = added.size.clone().cast(DType::F32);
            let size = sinusoidal_embedding(size.reshape([batch * numbers]), self.added_channels)
                .reshape([batch, numbers * self.added_channels])
                .cast(dtype);
            let all = Tensor::cat(vec![added.text.clone(), size], 1);
            time = time + embedding.forward(all);
        }
        time
    }

    /// The way down and the middle.
    ///
    /// - `hint`: is added after the first convolution
    /// - `change`: as of [`UNet2DCondition::forward_with`](super::unet2d_condition::UNet2DCondition::forward_with)
    /// - `middle`: applies the transformer of the middle
    pub(super) fn forward<'a>(
        &self,
        inputs: Inputs<'a>,
        hint: Option<Tensor<4>>,
        change: &mut dyn FnMut(usize, Tensor<4>) -> Tensor<4>,
        middle: &mut dyn FnMut(&SpatialTransformer, Tensor<4>) -> Tensor<4>,
    ) -> Encoded<'a> {
        let Inputs {
            x,
            timestep,
            context,
            added,
            residuals: _,
            skipped,
        } = inputs;
        let time = self.embed(timestep, added, x.dtype());
        let mut counter = BlockCounter::new(skipped);
        let mut blocks = 0;
        let mut block = |resnet: &ResnetBlock, h: Tensor<4>, counter: &mut BlockCounter<'_>| {
            let h = match counter.computes_next() {
                true => resnet.forward_with(h, Some(&time), |h| change(blocks, h)),
                false => resnet.shortcut(h),
            };
            blocks += 1;
            h
        };
        let mut h = conv2d(&self.conv_in, x);
        if let Some(hint) = hint {
            h = h + hint;
        }
        let mut skips = vec![h.clone()];
        for level in &self.down {
            for (i, resnet) in level.resnets.iter().enumerate() {
                h = block(resnet, h, &mut counter);
                if let Some(attention) = level.attentions.get(i)
                    && counter.computes_next()
                {
                    h = attention.forward(h, context);
                }
                skips.push(h.clone());
            }
            if let Some(downsample) = &level.downsample {
                h = conv2d(downsample, h);
                skips.push(h.clone());
            }
        }
        h = block(&self.middle[0], h, &mut counter);
        if counter.computes_next() {
            h = middle(&self.middle_attention, h);
        }
        h = block(&self.middle[1], h, &mut counter);
        Encoded {
            middle: h,
            skips,
            time,
            blocks,
            counter,
        }
    }

    /// The number of residual blocks and transformers.
    pub(super) fn blocks(&self) -> usize {
        let down = self.down.iter();
        let down = down.map(|level| level.resnets.len() + level.attentions.len());
        down.sum::<usize>() + self.middle.len() + 1
    }

    /// The transformers of the way down, in order, and that of the middle.
    pub(super) fn transformers(
        &mut self,
    ) -> (
        impl Iterator<Item = &mut SpatialTransformer>,
        &mut SpatialTransformer,
    ) {
        let down = self.down.iter_mut().flat_map(|level| &mut level.attentions);
        (down, &mut self.middle_attention)
    }
}

/// `W₂ silu(W₁ x)`.
#[derive(Module, Debug)]
pub(super) struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    pub(super) fn load(
        scope: &Scope<'_>,
        input: usize,
        output: usize,
    ) -> Result<Self, WeightsError> {
        Ok(Self {
            linear_1: scope.at("linear_1").linear(input, output)?,
            linear_2: scope.at("linear_2").linear(output, output)?,
        })
    }

    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        linear(&self.linear_2, silu(linear(&self.linear_1, x)))
    }
}
