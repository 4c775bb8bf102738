//! The UNet of Stable Diffusion: `UNet2DConditionModel` of `diffusers`.
//!
//! Residual blocks on a pyramid of resolutions with skip connections; at most levels, each block is followed
//! by a [transformer](super::transformer) that attends to the text. A sinusoidal embedding of the time is
//! added in every residual block; SDXL adds to it an embedding of the pooled text and of the picture's size
//! and crop.
//!
//! The configuration sets the blocks of a level, the number of heads and of transformer layers, and whether
//! the projections are linear layers. So this one module is the UNet of Stable Diffusion 1.x, 2.x and XL, and
//! of their inpainting forms (whose 9 input channels are the noisy latent, the mask, and the masked latent).
//!
//! Sources: Rombach et al., *High-Resolution Image Synthesis with Latent Diffusion Models*, 2022, arXiv
//! 2112.10752; Podell et al., *SDXL: Improving Latent Diffusion Models for High-Resolution Image
//! Synthesis*, 2023, arXiv 2307.01952.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, Linear};
use burn::tensor::activation::silu;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use serde_json::json;

use super::model_folder::{ModelFolderError, Part};
use super::resnet_block::{GroupNormOptions, ResnetBlock};
use super::transformer::{SpatialTransformer, TransformerOptions};
use super::weights::{Precision, Scope, Weights, WeightsError};
use crate::unet::sinusoidal_embedding;
use nabla_kernels::picture::{convolution, group_norm_silu};
use nabla_kernels::transformer::linear;

/// One number for all levels, or one for each.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PerLevel {
    /// The same for all.
    All(usize),
    /// One for each, the finest first.
    Each(Vec<usize>),
}

impl PerLevel {
    /// The numbers of `count` levels; `None` if the list has another length.
    pub fn levels(&self, count: usize) -> Option<Vec<usize>> {
        match self {
            Self::All(value) => Some(vec![*value; count]),
            Self::Each(values) if values.len() == count => Some(values.clone()),
            Self::Each(_) => None,
        }
    }
}

/// The contents of `unet/config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct UNet2DConditionConfig {
    /// Channels of the latent and of the pictures concatenated to it.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Side of the latents that the network was trained on.
    #[serde(default)]
    pub sample_size: Option<usize>,
    /// Channels of each level, the finest first.
    pub block_out_channels: Vec<usize>,
    /// `CrossAttnDownBlock2D` or `DownBlock2D` for each level.
    pub down_block_types: Vec<String>,
    /// `CrossAttnUpBlock2D` or `UpBlock2D` for each level, the coarsest first.
    pub up_block_types: Vec<String>,
    /// Residual blocks of a level on the way down.
    pub layers_per_block: usize,
    /// The number of attention heads; the key has this name by mistake.
    #[serde(default = "default_heads")]
    pub attention_head_dim: PerLevel,
    /// Channels of the text.
    pub cross_attention_dim: usize,
    /// Layers of each transformer.
    #[serde(default = "one")]
    pub transformer_layers_per_block: PerLevel,
    /// Whether the projections around a transformer are linear layers; the numbers are the same.
    #[serde(default)]
    pub use_linear_projection: bool,
    /// Whether scores are computed in 32 bits.
    #[serde(default)]
    pub upcast_attention: bool,
    /// Groups of the normalisation.
    #[serde(default = "default_groups")]
    pub norm_num_groups: usize,
    /// The constant added to the variance.
    #[serde(default = "default_epsilon")]
    pub norm_eps: f64,
    /// `text_time` for SDXL.
    #[serde(default)]
    pub addition_embed_type: Option<String>,
    /// Channels of the embedding of each of SDXL's six numbers.
    #[serde(default)]
    pub addition_time_embed_dim: Option<usize>,
    /// Channels of the pooled text and those numbers together.
    #[serde(default)]
    pub projection_class_embeddings_input_dim: Option<usize>,
}

fn default_heads() -> PerLevel {
    PerLevel::All(8)
}

fn one() -> PerLevel {
    PerLevel::All(1)
}

fn default_groups() -> usize {
    32
}

fn default_epsilon() -> f64 {
    1e-5
}

/// One level, with its entries from the configuration's lists.
struct Level {
    channels: usize,
    heads: usize,
    layers: usize,
}

impl UNet2DConditionConfig {
    /// Reads a part's configuration.
    ///
    /// # Errors
    /// If it is missing, or describes another kind of network.
    pub fn read(part: &Part) -> Result<Self, ModelFolderError> {
        let off = [
            ("act_fn", json!("silu")),
            ("attention_type", json!("default")),
            ("center_input_sample", json!(false)),
            ("conv_in_kernel", json!(3)),
            ("conv_out_kernel", json!(3)),
            ("downsample_padding", json!(1)),
            ("dropout", json!(0.0)),
            ("flip_sin_to_cos", json!(true)),
            ("freq_shift", json!(0)),
            ("mid_block_scale_factor", json!(1)),
            ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
            ("resnet_out_scale_factor", json!(1.0)),
            ("resnet_time_scale_shift", json!("default")),
            ("time_embedding_type", json!("positional")),
            ("addition_embed_type_num_heads", json!(64)),
        ];
        let config: Self = part.config("config.json", &[], &off)?;
        config.check(part)?;
        Ok(config)
    }

    /// Checks it; errors name `part`.
    pub(super) fn check(&self, part: &Part) -> Result<(), ModelFolderError> {
        let count = self.block_out_channels.len();
        let wrong = |key: &str, value: &dyn std::fmt::Debug, expected: &str| {
            Err(part.unsupported(key, format!("{value:?}"), expected))
        };
        if count == 0 {
            return wrong("block_out_channels", &[0; 0], "it must have a level");
        }
        for (key, types, with) in [
            (
                "down_block_types",
                &self.down_block_types,
                ["CrossAttnDownBlock2D", "DownBlock2D"],
            ),
            (
                "up_block_types",
                &self.up_block_types,
                ["CrossAttnUpBlock2D", "UpBlock2D"],
            ),
        ] {
            if types.len() != count {
                let expected = format!("it must have {count} entries, as block_out_channels");
                return wrong(key, types, &expected);
            }
            if let Some(other) = types.iter().find(|t| !with.contains(&t.as_str())) {
                let expected = format!("only {} and {} are implemented", with[0], with[1]);
                return wrong(key, other, &expected);
            }
        }
        for (key, value) in [
            ("attention_head_dim", &self.attention_head_dim),
            (
                "transformer_layers_per_block",
                &self.transformer_layers_per_block,
            ),
        ] {
            if value.levels(count).is_none_or(|values| values.contains(&0)) {
                let expected = format!("it must be positive, one number or {count}");
                return wrong(key, value, &expected);
            }
        }
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("cross_attention_dim", self.cross_attention_dim),
            ("norm_num_groups", self.norm_num_groups),
        ] {
            if value == 0 {
                return wrong(key, &0, "it must be at least 1");
            }
        }
        let levels = self.levels();
        for level in &levels {
            for (key, divisor) in [
                ("norm_num_groups", self.norm_num_groups),
                ("attention_head_dim", level.heads),
            ] {
                if !level.channels.is_multiple_of(divisor) || level.channels == 0 {
                    let expected =
                        format!("it must divide the {} channels of a level", level.channels);
                    return wrong(key, &divisor, &expected);
                }
            }
        }
        if !self.block_out_channels[0].is_multiple_of(2) {
            return wrong(
                "block_out_channels",
                &self.block_out_channels,
                "the first must be even",
            );
        }
        match self.addition_embed_type.as_deref() {
            None => Ok(()),
            Some("text_time") => match (
                self.addition_time_embed_dim,
                self.projection_class_embeddings_input_dim,
            ) {
                (Some(time), Some(all)) if time > 0 && time.is_multiple_of(2) && all > 6 * time => {
                    Ok(())
                }
                (time, all) => wrong(
                    "addition_embed_type",
                    &"text_time",
                    &format!(
                        "then addition_time_embed_dim (here {time:?}) must be even and \
                         projection_class_embeddings_input_dim (here {all:?}) larger than six of it"
                    ),
                ),
            },
            Some(other) => wrong(
                "addition_embed_type",
                &other,
                "only \"text_time\" is implemented",
            ),
        }
    }

    fn levels(&self) -> Vec<Level> {
        let count = self.block_out_channels.len();
        let heads = self.attention_head_dim.levels(count).unwrap_or_default();
        let layers = self
            .transformer_layers_per_block
            .levels(count)
            .unwrap_or_default();
        self.block_out_channels
            .iter()
            .zip(heads)
            .zip(layers)
            .map(|((&channels, heads), layers)| Level {
                channels,
                heads,
                layers,
            })
            .collect()
    }

    /// Channels of the time embedding.
    pub fn time_channels(&self) -> usize {
        4 * self.block_out_channels[0]
    }

    /// Channels of SDXL's pooled text; `None` for other networks.
    pub fn pooled_text_channels(&self) -> Option<usize> {
        let time = self.addition_time_embed_dim?;
        let all = self.projection_class_embeddings_input_dim?;
        self.addition_embed_type.as_ref()?;
        all.checked_sub(6 * time)
    }
}

/// SDXL's inputs besides text and time.
#[derive(Clone, Debug)]
pub struct AddedCondition {
    /// The pooled text, `[batch, channels]`.
    pub text: Tensor<2>,
    /// Height and width of the original picture, top and left of the crop, height and width of the
    /// result; `[batch, 6]`, in pixels.
    pub size: Tensor<2>,
}

/// The UNet; see the [module](self).
#[derive(Module, Debug)]
pub struct UNet2DCondition {
    conv_in: Conv2d,
    time: TimestepEmbedding,
    added: Option<TimestepEmbedding>,
    down: Vec<DownLevel>,
    middle: [ResnetBlock; 2],
    middle_attention: SpatialTransformer,
    up: Vec<UpLevel>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    channels: usize,
    added_channels: usize,
}

#[derive(Module, Debug)]
struct DownLevel {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<SpatialTransformer>,
    downsample: Option<Conv2d>,
}

#[derive(Module, Debug)]
struct UpLevel {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<SpatialTransformer>,
    upsample: Option<Conv2d>,
}

impl UNet2DCondition {
    /// Loads the network of a folder, with its configuration.
    ///
    /// # Errors
    /// If a file is missing, the configuration or the weights are for another network.
    pub fn load(
        part: &Part,
        device: &Device,
        precision: Precision,
    ) -> Result<(Self, UNet2DConditionConfig), ModelFolderError> {
        let config = UNet2DConditionConfig::read(part)?;
        let weights = part.weights("diffusion_pytorch_model", device, precision)?;
        let network = Self::from_weights(&config, &weights)?;
        Ok((network, config))
    }

    /// Loads the network from weights named as in `diffusers`, all of which must belong to it.
    ///
    /// # Errors
    /// If they are not.
    pub fn from_weights(
        config: &UNet2DConditionConfig,
        weights: &Weights,
    ) -> Result<Self, WeightsError> {
        let network = Self::from_scope(config, &weights.root())?;
        weights.finish(|_| false)?;
        Ok(network)
    }

    /// Loads the network from the weights below a prefix.
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
        let norm = GroupNormOptions {
            groups: config.norm_num_groups,
            epsilon: config.norm_eps,
        };
        let resnet = |scope: &Scope<'_>, i: usize, channels| {
            ResnetBlock::load(&scope.at("resnets").at(i), channels, Some(time), norm)
        };
        let attend = |scope: &Scope<'_>, i: usize, level: &Level| {
            let options = TransformerOptions {
                channels: level.channels,
                heads: level.heads,
                context: config.cross_attention_dim,
                layers: level.layers,
                groups: config.norm_num_groups,
                upcast: config.upcast_attention,
            };
            SpatialTransformer::load(&scope.at("attentions").at(i), options)
        };

        let first = levels[0].channels;
        let conv_in = scope
            .at("conv_in")
            .conv2d(config.in_channels, first, 3, 1)?;
        let mut width = first;
        let mut skips = vec![width];
        let mut down = Vec::with_capacity(levels.len());
        for (i, level) in levels.iter().enumerate() {
            let scope = scope.at("down_blocks").at(i);
            let attends = config.down_block_types[i] == "CrossAttnDownBlock2D";
            let (mut resnets, mut attentions) = (Vec::new(), Vec::new());
            for block in 0..config.layers_per_block {
                resnets.push(resnet(&scope, block, [width, level.channels])?);
                if attends {
                    attentions.push(attend(&scope, block, level)?);
                }
                width = level.channels;
                skips.push(width);
            }
            let downsample = match i < last {
                true => Some(scope.at("downsamplers.0.conv").conv2d(width, width, 3, 2)?),
                false => None,
            };
            if downsample.is_some() {
                skips.push(width);
            }
            down.push(DownLevel {
                resnets,
                attentions,
                downsample,
            });
        }

        let scope_middle = scope.at("mid_block");
        let middle = [
            resnet(&scope_middle, 0, [width, width])?,
            resnet(&scope_middle, 1, [width, width])?,
        ];
        let middle_attention = attend(&scope_middle, 0, &levels[last])?;

        let mut up = Vec::with_capacity(levels.len());
        for (i, level) in levels.iter().rev().enumerate() {
            let scope = scope.at("up_blocks").at(i);
            let attends = config.up_block_types[i] == "CrossAttnUpBlock2D";
            let (mut resnets, mut attentions) = (Vec::new(), Vec::new());
            for block in 0..=config.layers_per_block {
                let joined = width + skips.pop().unwrap_or(0);
                resnets.push(resnet(&scope, block, [joined, level.channels])?);
                if attends {
                    attentions.push(attend(&scope, block, level)?);
                }
                width = level.channels;
            }
            let upsample = match i < last {
                true => Some(scope.at("upsamplers.0.conv").conv2d(width, width, 3, 1)?),
                false => None,
            };
            up.push(UpLevel {
                resnets,
                attentions,
                upsample,
            });
        }

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
            up,
            norm_out: scope
                .at("conv_norm_out")
                .group_norm(norm.groups, first, norm.epsilon)?,
            conv_out: scope
                .at("conv_out")
                .conv2d(first, config.out_channels, 3, 1)?,
            channels: first,
            added_channels,
        })
    }

    /// The prediction, `[batch, out_channels, height, width]`.
    ///
    /// - `x`: `[batch, in_channels, height, width]`; any height and width
    /// - `timestep`: `[batch]`, in the units of training steps
    /// - `text`: `[batch, words, cross_attention_dim]`
    /// - `added`: for SDXL
    pub fn forward(
        &self,
        x: Tensor<4>,
        timestep: Tensor<1>,
        text: &Tensor<3>,
        added: Option<&AddedCondition>,
    ) -> Tensor<4> {
        self.forward_with(x, timestep, text, added, &mut |_, h| h)
    }

    /// The same, except that residual block number `i` adds `change(i, h)` to its shortcut instead of `h`;
    /// blocks are numbered in the order in which they are computed.
    pub fn forward_with(
        &self,
        x: Tensor<4>,
        timestep: Tensor<1>,
        text: &Tensor<3>,
        added: Option<&AddedCondition>,
        change: &mut dyn FnMut(usize, Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let middle = &mut |transformer: &SpatialTransformer, h| transformer.forward(h, text);
        self.pass(x, timestep, text, added, change, middle)
    }

    /// The prediction with the identity as the map of the self-attention in the middle block, as
    /// perturbed-attention guidance needs it; inputs as in [`forward`](Self::forward).
    pub fn forward_perturbed(
        &self,
        x: Tensor<4>,
        timestep: Tensor<1>,
        text: &Tensor<3>,
        added: Option<&AddedCondition>,
    ) -> Tensor<4> {
        let middle =
            &mut |transformer: &SpatialTransformer, h| transformer.forward_perturbed(h, text);
        self.pass(x, timestep, text, added, &mut |_, h| h, middle)
    }

    /// The prediction, and the attention that each place of the middle block gets from all of them, `[batch,
    /// height, width]` there; inputs as in [`forward`](Self::forward).
    pub fn forward_attending(
        &self,
        x: Tensor<4>,
        timestep: Tensor<1>,
        text: &Tensor<3>,
        added: Option<&AddedCondition>,
    ) -> (Tensor<4>, Tensor<3>) {
        let mut attention = Tensor::zeros([1, 1, 1], &x.device());
        let middle = &mut |transformer: &SpatialTransformer, h| {
            let (h, received) = transformer.forward_attending(h, text);
            attention = received;
            h
        };
        let y = self.pass(x, timestep, text, added, &mut |_, h| h, middle);
        (y, attention)
    }

    /// - `middle`: applies the transformer of the middle block
    fn pass(
        &self,
        x: Tensor<4>,
        timestep: Tensor<1>,
        text: &Tensor<3>,
        added: Option<&AddedCondition>,
        change: &mut dyn FnMut(usize, Tensor<4>) -> Tensor<4>,
        middle: &mut dyn FnMut(&SpatialTransformer, Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let dtype = x.dtype();
        let time = sinusoidal_embedding(timestep.cast(burn::tensor::DType::F32), self.channels);
        let mut time = self.time.forward(time.cast(dtype)); // [batch, time_channels]
        if let (Some(embedding), Some(added)) = (&self.added, added) {
            let [batch, numbers] = added.size.dims();
            let size = added.size.clone().cast(burn::tensor::DType::F32);
            let size = sinusoidal_embedding(size.reshape([batch * numbers]), self.added_channels)
                .reshape([batch, numbers * self.added_channels])
                .cast(dtype);
            let all = Tensor::cat(vec![added.text.clone(), size], 1);
            time = time + embedding.forward(all);
        }
        let mut number = 0;
        let mut block = |resnet: &ResnetBlock, h: Tensor<4>| {
            let h = resnet.forward_with(h, Some(&time), |h| change(number, h));
            number += 1;
            h
        };

        let mut h = convolution(&self.conv_in, x);
        let mut skips = vec![h.clone()];
        for level in &self.down {
            for (i, resnet) in level.resnets.iter().enumerate() {
                h = block(resnet, h);
                if let Some(attention) = level.attentions.get(i) {
                    h = attention.forward(h, text);
                }
                skips.push(h.clone());
            }
            if let Some(downsample) = &level.downsample {
                h = convolution(downsample, h);
                skips.push(h.clone());
            }
        }
        h = block(&self.middle[0], h);
        h = middle(&self.middle_attention, h);
        h = block(&self.middle[1], h);
        for level in &self.up {
            for (i, resnet) in level.resnets.iter().enumerate() {
                if let Some(skip) = skips.pop() {
                    h = Tensor::cat(vec![h, skip], 1);
                }
                h = block(resnet, h);
                if let Some(attention) = level.attentions.get(i) {
                    h = attention.forward(h, text);
                }
            }
            if let (Some(upsample), Some(skip)) = (&level.upsample, skips.last()) {
                // Enlarge to the size of the map with which it will be joined, which may be odd.
                let [_, _, height, width] = skip.dims();
                h = convolution(upsample, nearest(h, [height, width]));
            }
        }
        convolution(&self.conv_out, group_norm_silu(&self.norm_out, h))
    }
}

/// Enlarges by the nearest neighbour.
pub(super) fn nearest(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let options = InterpolateOptions::new(InterpolateMode::Nearest)
        .with_align_corners(false)
        .with_output_size(size);
    interpolate(x, options)
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
