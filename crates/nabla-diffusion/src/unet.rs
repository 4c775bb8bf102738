//! The UNet of the diffusion models.
//!
//! Residual blocks on a pyramid of resolutions with skip connections, self-attention at selected levels, and
//! a sinusoidal time embedding that scales and shifts the features of every block. Optional conditions are
//! pictures concatenated to the input channels (super-resolution, inpainting), and a class embedding added to
//! the time embedding.
//!
//! Sources: Ronneberger, Fischer, Brox, *U-Net*, 2015, arXiv 1505.04597 (the pyramid);
//! Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020, arXiv 2006.11239 (time
//! embedding, attention); Dhariwal, Nichol, *Diffusion Models Beat GANs on Image Synthesis*, 2021,
//! arXiv 2105.05233 (scale-shift blocks, class embedding); Shi et al., *Real-Time Single Image and
//! Video Super-Resolution Using an Efficient Sub-Pixel CNN*, 2016, arXiv 1609.05158 (the
//! space-to-depth `patch`); Liu et al., *Residual Denoising Diffusion Models*, 2023, arXiv
//! 2308.13712 (several decoders on one encoder).

use burn::config::Config;
use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Embedding, EmbeddingConfig, GroupNorm};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions, PadMode};
use burn::tensor::{Device, Int, Tensor};

use nabla_base::range::{self, OutOfRange};
use nabla_kernels::activation::silu;
use nabla_kernels::convolution::conv2d;

use crate::block_skipping::{BlockCounter, BlockSet};

mod blocks;

pub use blocks::sinusoidal_embedding;
use blocks::{ResidualBlock, SelfAttention, TimeEmbedding, conv3x3, norm, normalize_silu};

/// The normalisation in front of every convolution of a residual block.
#[derive(Config, Debug, PartialEq)]
pub enum Normalization {
    /// Group normalisation over the whole picture, the usual choice.
    Group {
        /// Number of channel groups; must divide every level's channels.
        groups: usize,
    },
    /// No normalisation: every output pixel depends only on its receptive field, so a picture computed in
    /// tiles with a margin equals the picture computed whole. Common in super-resolution (EDSR), and cheapest
    /// on a CPU.
    None,
}

/// How a decoder uses the encoder's features.
#[derive(Config, Debug, PartialEq)]
pub enum Decoder {
    /// Concatenates the encoder's features of the same resolution (the U of the UNet).
    Skip,
    /// Sees only the bottleneck: RDDM's residual branch when the encoder is shared.
    NoSkip,
}

/// The reason why a [`UNetConfig`] describes no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UNetConfigError {
    /// A count that must be at least one is zero.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The channels of a level are not divisible.
    #[error(
        "the UNet has {channels} channels at level {level}, which {field} = {divisor} does not divide"
    )]
    Indivisible {
        /// Pyramid level, 0 the finest.
        level: usize,
        /// Channels of that level.
        channels: usize,
        /// The dividing field's name.
        field: &'static str,
        /// Its value.
        divisor: usize,
    },
    /// An attention level beyond the pyramid.
    #[error("the UNet has {levels} levels, so attention level {level} does not exist")]
    NoSuchLevel {
        /// The requested level.
        level: usize,
        /// The number of levels.
        levels: usize,
    },
}

/// Configuration of a [`UNet`].
///
/// ```
/// use nabla_diffusion::unet::UNetConfig;
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::flex();
/// let unet = UNetConfig::new(3, 3).with_base_channels(32).init(&device)?;
/// let x = Tensor::<4>::zeros([1, 3, 16, 16], &device); // [batch, channels, height, width]
/// let t = Tensor::<1>::from_floats([500.0], &device); // [batch]
/// assert_eq!(unet.forward(x, t, None, None)[0].dims(), [1, 3, 16, 16]);
/// # Ok::<(), nabla_diffusion::unet::UNetConfigError>(())
/// ```
#[derive(Config, Debug, PartialEq)]
pub struct UNetConfig {
    /// Channels of the noisy picture.
    pub in_channels: usize,
    /// Channels of each decoder's output.
    pub out_channels: usize,
    /// Channels of the conditioning picture that is concatenated to the input. Default 0.
    #[config(default = 0)]
    pub condition_channels: usize,
    /// Channels of the finest level. Default 64.
    #[config(default = 64)]
    pub base_channels: usize,
    /// Channels of each level as multiples of `base_channels`. Default `[1, 2, 4]`.
    #[config(default = "vec![1, 2, 4]")]
    pub multipliers: Vec<usize>,
    /// Residual blocks of each level of the encoder (a decoder has one more). Default 2.
    #[config(default = 2)]
    pub blocks_per_level: usize,
    /// Levels with self-attention (0 is the finest). Default `[2]`.
    #[config(default = "vec![2]")]
    pub attention_levels: Vec<usize>,
    /// Whether the bottleneck has self-attention. Default true.
    #[config(default = true)]
    pub middle_attention: bool,
    /// Channels of one attention head. Default 32.
    #[config(default = 32)]
    pub head_channels: usize,
    /// The number of classes of the class embedding; 0 for no embedding. Default 0.
    #[config(default = 0)]
    pub classes: usize,
    /// Space-to-depth factor between the picture and the finest level. Default 1.
    #[config(default = 1)]
    pub patch: usize,
    /// Normalisation. Default `Group { groups: 32 }`.
    #[config(default = "Normalization::Group { groups: 32 }")]
    pub normalization: Normalization,
    /// The decoders, with one output each. Default `[Skip]`.
    #[config(default = "vec![Decoder::Skip]")]
    pub decoders: Vec<Decoder>,
}

impl UNetConfig {
    /// Builds the network with random weights. The last convolution of each residual block and
    /// each attention's projection start at zero, so that every block starts as the identity.
    ///
    /// # Errors
    /// If a count is zero, a normalisation group or head does not divide its channels, or an
    /// attention level does not exist.
    pub fn init(&self, device: &Device) -> Result<UNet, UNetConfigError> {
        self.validate()?;
        let channels = self.level_channels();
        let levels = channels.len();
        let time_channels = 4 * self.base_channels;
        let block = |input: usize, output: usize| {
            ResidualBlock::new(input, output, time_channels, &self.normalization, device)
        };
        let attend = |level: usize| {
            self.attention_levels
                .contains(&level)
                .then(|| self.attention(channels[level], device))
        };

        let area = self.patch * self.patch;
        let stem = conv3x3(
            (self.in_channels + self.condition_channels) * area,
            channels[0],
            1,
        )
        .init(device);

        // The encoder; `skips` is the stack of feature widths that a decoder pops.
        let mut width = channels[0];
        let mut skips = vec![width];
        let mut encoder = Vec::with_capacity(levels);
        for (level, &output) in channels.iter().enumerate() {
            let mut blocks = Vec::new();
            let mut attentions = Vec::new();
            for _ in 0..self.blocks_per_level {
                blocks.push(block(width, output));
                attentions.extend(attend(level));
                width = output;
                skips.push(width);
            }
            let downsample = (level + 1 < levels).then(|| conv3x3(width, width, 2).init(device));
            if downsample.is_some() {
                skips.push(width);
            }
            encoder.push(EncoderLevel {
                blocks,
                attentions,
                downsample,
            });
        }

        let middle_attention = self.middle_attention.then(|| self.attention(width, device));
        let middle = [block(width, width), block(width, width)];

        let decoders = self
            .decoders
            .iter()
            .map(|kind| {
                let skip = *kind == Decoder::Skip;
                let mut skips = skips.clone();
                let mut width = width;
                let mut decoder = Vec::with_capacity(levels);
                for level in (0..levels).rev() {
                    let mut blocks = Vec::new();
                    let mut attentions = Vec::new();
                    for _ in 0..=self.blocks_per_level {
                        let joined = if skip { skips.pop().unwrap_or(0) } else { 0 };
                        blocks.push(block(width + joined, channels[level]));
                        attentions.extend(attend(level));
                        width = channels[level];
                    }
                    let upsample = (level > 0).then(|| conv3x3(width, width, 1).init(device));
                    decoder.push(DecoderLevel {
                        blocks,
                        attentions,
                        upsample,
                    });
                }
                DecoderBranch {
                    levels: decoder,
                    norm: norm(width, &self.normalization, device),
                    head: conv3x3(width, self.out_channels * area, 1).init(device),
                    skip,
                }
            })
            .collect();

        Ok(UNet {
            time: TimeEmbedding::new(self.base_channels, time_channels, device),
            class: (self.classes > 0)
                .then(|| EmbeddingConfig::new(self.classes, time_channels).init(device)),
            stem,
            encoder,
            middle,
            middle_attention,
            decoders,
            patch: self.patch,
            multiple: self.multiple(),
        })
    }

    /// The side of the square of pixels that is one position at the coarsest level; heights and widths are
    /// padded to a multiple of it.
    pub fn multiple(&self) -> usize {
        self.patch << self.multipliers.len().saturating_sub(1)
    }

    /// How far, in pixels along each axis, an input pixel influences the output of a network without
    /// normalisation and attention.
    pub fn receptive_radius(&self) -> usize {
        let levels = self.multipliers.len();
        (0..levels)
            .map(|level| {
                // Two convolutions of kernel 3 in each block of the encoder and of the decoder.
                let mut convolutions = 2 * (2 * self.blocks_per_level + 1);
                if level == 0 {
                    convolutions += 2; // the stem and the head
                }
                if level + 1 < levels {
                    convolutions += 2; // towards the coarser level and back
                } else {
                    convolutions += 4; // the bottleneck
                }
                // Add one cell, because pixels can share a cell of this level.
                (convolutions + 1) * (self.patch << level)
            })
            .sum()
    }

    fn level_channels(&self) -> Vec<usize> {
        self.multipliers
            .iter()
            .map(|m| m * self.base_channels)
            .collect()
    }

    fn attention(&self, channels: usize, device: &Device) -> SelfAttention {
        let heads = channels / self.head_channels;
        SelfAttention::new(channels, heads, &self.normalization, device)
    }

    fn validate(&self) -> Result<(), UNetConfigError> {
        for (field, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("base_channels", self.base_channels),
            ("blocks_per_level", self.blocks_per_level),
            ("head_channels", self.head_channels),
            ("patch", self.patch),
            ("number of levels", self.multipliers.len()),
            ("number of decoders", self.decoders.len()),
        ] {
            range::at_least(format!("UNet's {field}"), value, 1)?;
        }
        let channels = self.level_channels();
        for &multiplier in &self.multipliers {
            range::at_least("UNet's channel multiplier", multiplier, 1)?;
        }
        let levels = channels.len();
        if let Some(&level) = self.attention_levels.iter().find(|&&level| level >= levels) {
            return Err(UNetConfigError::NoSuchLevel { level, levels });
        }
        // The sinusoidal embedding needs a sine and a cosine.
        if !self.base_channels.is_multiple_of(2) {
            return Err(UNetConfigError::Indivisible {
                level: 0,
                channels: self.base_channels,
                field: "the sine-cosine pair",
                divisor: 2,
            });
        }
        for (level, &width) in channels.iter().enumerate() {
            let indivisible = |field, divisor| UNetConfigError::Indivisible {
                level,
                channels: width,
                field,
                divisor,
            };
            if let Normalization::Group { groups } = self.normalization {
                range::at_least("UNet's number of normalization groups", groups, 1)?;
                if width % groups != 0 {
                    return Err(indivisible("normalization groups", groups));
                }
            }
            let attends = self.attention_levels.contains(&level)
                || (self.middle_attention && level + 1 == levels);
            if attends && width % self.head_channels != 0 {
                return Err(indivisible("head_channels", self.head_channels));
            }
        }
        Ok(())
    }
}

/// A UNet; see the [module documentation](self).
#[derive(Module, Debug)]
pub struct UNet {
    time: TimeEmbedding,
    class: Option<Embedding>,
    stem: Conv2d,
    encoder: Vec<EncoderLevel>,
    middle: [ResidualBlock; 2],
    middle_attention: Option<SelfAttention>,
    decoders: Vec<DecoderBranch>,
    patch: usize,
    /// Height and width are padded to a multiple of this.
    multiple: usize,
}

#[derive(Module, Debug)]
struct EncoderLevel {
    blocks: Vec<ResidualBlock>,
    attentions: Vec<SelfAttention>,
    downsample: Option<Conv2d>,
}

#[derive(Module, Debug)]
struct DecoderLevel {
    blocks: Vec<ResidualBlock>,
    attentions: Vec<SelfAttention>,
    upsample: Option<Conv2d>,
}

#[derive(Module, Debug)]
struct DecoderBranch {
    levels: Vec<DecoderLevel>,
    norm: Option<GroupNorm>,
    head: Conv2d,
    skip: bool,
}

impl UNet {
    /// One prediction per decoder, each `[batch, out_channels, height, width]`.
    ///
    /// - `x`: the noisy picture, `[batch, in_channels, height, width]`; any height and width (they are padded
    ///   by edge replication as the pyramid requires, and cropped again).
    /// - `timestep`: `[batch]`, in the units of training steps.
    /// - `condition`: `[batch, condition_channels, height, width]`, if the network has any.
    /// - `class`: `[batch]`, if the network has a class embedding.
    ///
    /// # Panics
    /// If a shape is not the configured one, as in Burn's modules.
    pub fn forward(
        &self,
        x: Tensor<4>,
        timestep: Tensor<1>,
        condition: Option<Tensor<4>>,
        class: Option<Tensor<1, Int>>,
    ) -> Vec<Tensor<4>> {
        self.forward_skipping(x, timestep, condition, class, BlockSet::none())
    }

    /// The same without some blocks, which are not computed; see [`block_skipping`](crate::block_skipping).
    /// Further decoders are counted after the first.
    ///
    /// # Panics
    /// As [`forward`](Self::forward).
    pub fn forward_skipping(
        &self,
        x: Tensor<4>,
        timestep: Tensor<1>,
        condition: Option<Tensor<4>>,
        class: Option<Tensor<1, Int>>,
        skipped: &BlockSet,
    ) -> Vec<Tensor<4>> {
        let mut time = self.time.forward(timestep); // [batch, time_channels]
        if let (Some(embedding), Some(class)) = (&self.class, class) {
            let [batch] = class.dims();
            // [batch, 1] -> [batch, 1, time_channels] -> [batch, time_channels]
            time = time + embedding.forward(class.reshape([batch, 1])).squeeze_dim(1);
        }
        // Every residual block applies the same activation to the embedding first.
        let time = silu(time);

        let x = match condition {
            Some(condition) => Tensor::cat(vec![x, condition], 1),
            None => x,
        };
        let [_, _, height, width] = x.dims();
        let x = space_to_depth(pad_to_multiple(x, self.multiple), self.patch);

        let blocks = &mut BlockCounter::new(skipped);
        let mut h = conv2d(&self.stem, x);
        let mut skips = vec![h.clone()];
        for level in &self.encoder {
            for (i, block) in level.blocks.iter().enumerate() {
                h = block.forward_counted(h, &time, blocks);
                if let Some(attention) = level.attentions.get(i) {
                    h = attention.forward_counted(h, blocks);
                }
                skips.push(h.clone());
            }
            if let Some(downsample) = &level.downsample {
                h = conv2d(downsample, h);
                skips.push(h.clone());
            }
        }

        h = self.middle[0].forward_counted(h, &time, blocks);
        if let Some(attention) = &self.middle_attention {
            h = attention.forward_counted(h, blocks);
        }
        h = self.middle[1].forward_counted(h, &time, blocks);

        self.decoders
            .iter()
            .map(|decoder| {
                let y = decoder.forward(h.clone(), skips.clone(), &time, blocks);
                depth_to_space(y, self.patch)
                    .slice_dim(2, 0..height)
                    .slice_dim(3, 0..width)
            })
            .collect()
    }

    /// The number of blocks that can be skipped: residual blocks and attention blocks.
    pub fn blocks(&self) -> usize {
        let down = self.encoder.iter();
        let down = down.map(|level| level.blocks.len() + level.attentions.len());
        let up = self.decoders.iter().flat_map(|decoder| &decoder.levels);
        let up = up.map(|level| level.blocks.len() + level.attentions.len());
        let middle = self.middle.len() + usize::from(self.middle_attention.is_some());
        down.sum::<usize>() + middle + up.sum::<usize>()
    }
}

impl DecoderBranch {
    fn forward(
        &self,
        mut h: Tensor<4>,
        mut skips: Vec<Tensor<4>>,
        time: &Tensor<2>,
        blocks: &mut BlockCounter<'_>,
    ) -> Tensor<4> {
        for level in &self.levels {
            for (i, block) in level.blocks.iter().enumerate() {
                if self.skip
                    && let Some(skip) = skips.pop()
                {
                    h = Tensor::cat(vec![h, skip], 1);
                }
                h = block.forward_counted(h, time, blocks);
                if let Some(attention) = level.attentions.get(i) {
                    h = attention.forward_counted(h, blocks);
                }
            }
            if let Some(upsample) = &level.upsample {
                let [_, _, height, width] = h.dims();
                h = conv2d(
                    upsample,
                    interpolate(
                        h,
                        InterpolateOptions::new(InterpolateMode::Nearest)
                            .with_align_corners(false)
                            .with_output_size([2 * height, 2 * width]),
                    ),
                );
            }
        }
        conv2d(&self.head, normalize_silu(&self.norm, h))
    }
}

/// `[batch, c, h * p, w * p]` to `[batch, c * p², h, w]`.
fn space_to_depth(x: Tensor<4>, patch: usize) -> Tensor<4> {
    if patch == 1 {
        return x;
    }
    let [batch, channels, height, width] = x.dims();
    let (rows, columns) = (height / patch, width / patch);
    x.reshape([batch, channels, rows, patch, columns, patch])
        .permute([0, 1, 3, 5, 2, 4])
        .reshape([batch, channels * patch * patch, rows, columns])
}

/// The inverse of [`space_to_depth`].
fn depth_to_space(x: Tensor<4>, patch: usize) -> Tensor<4> {
    if patch == 1 {
        return x;
    }
    let [batch, depth, rows, columns] = x.dims();
    let channels = depth / (patch * patch);
    x.reshape([batch, channels, patch, patch, rows, columns])
        .permute([0, 1, 4, 2, 5, 3])
        .reshape([batch, channels, rows * patch, columns * patch])
}

/// Replicates the bottom and right edge until both sides are multiples of `multiple`.
fn pad_to_multiple(x: Tensor<4>, multiple: usize) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let bottom = height.next_multiple_of(multiple) - height;
    let right = width.next_multiple_of(multiple) - width;
    if bottom == 0 && right == 0 {
        return x;
    }
    x.pad((0, right, 0, bottom), PadMode::Edge)
}
