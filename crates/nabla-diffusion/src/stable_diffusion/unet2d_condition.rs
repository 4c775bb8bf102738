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
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::attention::{Context, MultiHeadAttention};
use super::model_folder::{ModelFolderError, Part};
use super::resnet_block::ResnetBlock;
use super::transformer::SpatialTransformer;
use super::unet_encoder::{BlockLoader, Encoded, UNetEncoder};
use super::weights::{Precision, Scope, Weights, WeightsError};
use crate::block_skipping::BlockSet;
use nabla_kernels::convolution::conv2d;
use nabla_kernels::normalization::group_norm_silu;

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
pub(super) struct Level {
    pub(super) channels: usize,
    pub(super) heads: usize,
    pub(super) layers: usize,
}

impl UNet2DConditionConfig {
    /// Reads a part's configuration.
    ///
    /// # Errors
    /// If it is missing, or describes another kind of network.
    pub fn read(part: &Part) -> Result<Self, ModelFolderError> {
        Self::read_adapted(part, |_| {})
    }

    /// The same for the configuration of a related network, which `adapt` turns into one of a UNet.
    pub(super) fn read_adapted(
        part: &Part,
        adapt: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<Self, ModelFolderError> {
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
        let config: Self = part.config_adapted("config.json", &[], &off, adapt)?;
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

    pub(super) fn levels(&self) -> Vec<Level> {
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

    /// Channels of the maps that the way up joins, in the order of the way down.
    pub(super) fn skip_channels(&self) -> Vec<usize> {
        let widths = &self.block_out_channels;
        let mut skips = vec![widths[0]];
        for (i, &width) in widths.iter().enumerate() {
            // One for each block, and one for the step to the next level.
            let count = self.layers_per_block + usize::from(i + 1 < widths.len());
            skips.extend(vec![width; count]);
        }
        skips
    }

    /// Each attention to the text in the order in which `diffusers` counts them, down, up, middle: its name in the files
    /// of `diffusers`, and its channels.
    pub(super) fn cross_attentions(&self) -> Vec<(String, usize)> {
        let levels = self.levels();
        let mut all = Vec::new();
        let mut add = |transformer: String, level: &Level| {
            let each = (0..level.layers).map(|i| {
                let name = format!("{transformer}.transformer_blocks.{i}.attn2");
                (name, level.channels)
            });
            all.extend(each);
        };
        for (i, (level, kind)) in levels.iter().zip(&self.down_block_types).enumerate() {
            if kind == "CrossAttnDownBlock2D" {
                for j in 0..self.layers_per_block {
                    add(format!("down_blocks.{i}.attentions.{j}"), level);
                }
            }
        }
        let up = levels.iter().rev().zip(&self.up_block_types);
        for (i, (level, kind)) in up.enumerate() {
            if kind == "CrossAttnUpBlock2D" {
                for j in 0..=self.layers_per_block {
                    add(format!("up_blocks.{i}.attentions.{j}"), level);
                }
            }
        }
        if let Some(level) = levels.last() {
            add("mid_block.attentions.0".to_owned(), level);
        }
        all
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

/// What is added to the maps of a UNet: the outputs of a [ControlNet](super::control_net), or the sum of
/// several.
#[derive(Clone, Debug)]
pub struct Residuals {
    /// For each map that the way up joins, in the order of the way down.
    pub skips: Vec<Tensor<4>>,
    /// For the map after the middle.
    pub middle: Tensor<4>,
}

impl Residuals {
    /// The same with `change` applied to each map.
    pub(super) fn map(self, mut change: impl FnMut(Tensor<4>) -> Tensor<4>) -> Self {
        Self {
            skips: self.skips.into_iter().map(&mut change).collect(),
            middle: change(self.middle),
        }
    }

    /// The sum of both.
    pub(super) fn plus(self, other: Self) -> Self {
        let skips = self.skips.into_iter().zip(other.skips);
        Self {
            skips: skips.map(|(a, b)| a + b).collect(),
            middle: self.middle + other.middle,
        }
    }
}

/// The UNet; see the [module](self).
#[derive(Module, Debug)]
pub struct UNet2DCondition {
    encoder: UNetEncoder,
    up: Vec<UpLevel>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Module, Debug)]
struct UpLevel {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<SpatialTransformer>,
    upsample: Option<Conv2d>,
}

/// What the UNet takes.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// `[batch, in_channels, height, width]`; any height and width.
    pub x: Tensor<4>,
    /// `[batch]`, in the units of training steps.
    pub timestep: Tensor<1>,
    /// The texts, and pictures beside them.
    pub context: &'a Context<'a>,
    /// For SDXL.
    pub added: Option<&'a AddedCondition>,
    /// The outputs of ControlNets.
    pub residuals: Option<Residuals>,
    /// The residual blocks and transformers that are not computed; see
    /// [`block_skipping`](crate::block_skipping).
    pub skipped: &'a BlockSet,
}

impl<'a> Inputs<'a> {
    /// Without anything that is not in every model.
    pub fn new(x: Tensor<4>, timestep: Tensor<1>, context: &'a Context<'a>) -> Self {
        Self {
            x,
            timestep,
            context,
            added: None,
            residuals: None,
            skipped: BlockSet::none(),
        }
    }
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
        let encoder = UNetEncoder::from_scope(config, scope)?;
        let levels = config.levels();
        let last = levels.len() - 1;
        let load = BlockLoader::new(config);
        let mut skips = config.skip_channels();
        let mut width = levels[last].channels;
        let mut up = Vec::with_capacity(levels.len());
        for (i, level) in levels.iter().rev().enumerate() {
            let scope = scope.at("up_blocks").at(i);
            let attends = config.up_block_types[i] == "CrossAttnUpBlock2D";
            let (mut resnets, mut attentions) = (Vec::new(), Vec::new());
            for block in 0..=config.layers_per_block {
                let joined = width + skips.pop().unwrap_or(0);
                resnets.push(load.resnet(&scope, block, [joined, level.channels])?);
                if attends {
                    attentions.push(load.transformer(&scope, block, level)?);
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
        let first = levels[0].channels;
        Ok(Self {
            encoder,
            up,
            norm_out: scope.at("conv_norm_out").group_norm(
                config.norm_num_groups,
                first,
                config.norm_eps,
            )?,
            conv_out: scope
                .at("conv_out")
                .conv2d(first, config.out_channels, 3, 1)?,
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
        let context = Context::text(text);
        let inputs = Inputs {
            added,
            ..Inputs::new(x, timestep, &context)
        };
        self.forward_joined(inputs, change)
    }

    /// The same, with pictures to attend to beside the text, and with the outputs of ControlNets.
    pub fn forward_joined(
        &self,
        inputs: Inputs<'_>,
        change: &mut dyn FnMut(usize, Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let context = inputs.context;
        let middle = &mut |transformer: &SpatialTransformer, h| transformer.forward(h, context);
        self.pass(inputs, change, middle)
    }

    /// The prediction with the identity as the map of the self-attention in the middle block, as
    /// perturbed-attention guidance needs it.
    pub fn forward_perturbed(&self, inputs: Inputs<'_>) -> Tensor<4> {
        let context = inputs.context;
        let middle =
            &mut |transformer: &SpatialTransformer, h| transformer.forward_perturbed(h, context);
        self.pass(inputs, &mut |_, h| h, middle)
    }

    /// The prediction, and the attention that each place of the middle block gets from all of them, `[batch,
    /// height, width]` there.
    pub fn forward_attending(&self, inputs: Inputs<'_>) -> (Tensor<4>, Tensor<3>) {
        let mut attention = Tensor::zeros([1, 1, 1], &inputs.x.device());
        let context = inputs.context;
        let middle = &mut |transformer: &SpatialTransformer, h| {
            let (h, received) = transformer.forward_attending(h, context);
            attention = received;
            h
        };
        let y = self.pass(inputs, &mut |_, h| h, middle);
        (y, attention)
    }

    /// - `middle`: applies the transformer of the middle block
    fn pass(
        &self,
        mut inputs: Inputs<'_>,
        change: &mut dyn FnMut(usize, Tensor<4>) -> Tensor<4>,
        middle: &mut dyn FnMut(&SpatialTransformer, Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let (context, residuals) = (inputs.context, inputs.residuals.take());
        let Encoded {
            middle: mut h,
            mut skips,
            time,
            blocks,
            mut counter,
        } = self.encoder.forward(inputs, None, change, middle);
        if let Some(residuals) = residuals {
            h = h + residuals.middle;
            let joined = skips.into_iter().zip(residuals.skips);
            skips = joined.map(|(skip, residual)| skip + residual).collect();
        }
        let mut number = blocks;
        for level in &self.up {
            for (i, resnet) in level.resnets.iter().enumerate() {
                if let Some(skip) = skips.pop() {
                    h = Tensor::cat(vec![h, skip], 1);
                }
                h = match counter.computes_next() {
                    true => resnet.forward_with(h, Some(&time), |h| change(number, h)),
                    false => resnet.shortcut(h),
                };
                number += 1;
                if let Some(attention) = level.attentions.get(i)
                    && counter.computes_next()
                {
                    h = attention.forward(h, context);
                }
            }
            if let (Some(upsample), Some(skip)) = (&level.upsample, skips.last()) {
                // Enlarge to the size of the map with which it will be joined, which may be odd.
                let [_, _, height, width] = skip.dims();
                h = conv2d(upsample, nearest(h, [height, width]));
            }
        }
        conv2d(&self.conv_out, group_norm_silu(&self.norm_out, h))
    }

    /// The number of blocks that can be skipped: residual blocks and transformers.
    pub fn blocks(&self) -> usize {
        let up = self.up.iter();
        let up = up.map(|level| level.resnets.len() + level.attentions.len());
        self.encoder.blocks() + up.sum::<usize>()
    }

    /// The attentions to the text in the order in which `diffusers` counts them: down, up, middle.
    pub(super) fn cross_attentions(&mut self) -> impl Iterator<Item = &mut MultiHeadAttention> {
        let Self { encoder, up, .. } = self;
        let up = up.iter_mut().flat_map(|level| &mut level.attentions);
        let (down, middle) = encoder.transformers();
        let all = down.chain(up).chain([middle]);
        all.flat_map(SpatialTransformer::cross_attentions)
    }
}

/// Enlarges by the nearest neighbour.
pub(super) fn nearest(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let options = InterpolateOptions::new(InterpolateMode::Nearest)
        .with_align_corners(false)
        .with_output_size(size);
    interpolate(x, options)
}
