//! The autoencoder of latent diffusion: it converts pixels to a latent picture with an eighth of their width
//! and height, and back.
//!
//! ```text
//! encode:  (mean, logvar) = Q·E(x),      z = mean + exp(logvar/2)·n
//! decode:  x = D(P·z)
//! ```
//!
//! `E` and `D` are residual blocks at four sizes with an attention over all positions at the smallest,
//! `Q` and `P` are 1 x 1 convolutions that some models leave out. A diffusion model works on
//! `(z − shift)·scale`, see [`AutoencoderKl::normalize`].
//!
//! # Tiles
//! Memory and the time of the attention grow with the picture, so a large picture can be computed in tiles
//! ([`AutoencoderKl::with_tiling`]). A plain tile differs from that part of the whole picture: its
//! convolutions see zeros beyond its border, and group norms and attention see only the tile. There are two
//! ways to join tiles.
//!
//! [`Tiling::Seamless`]: the layers at the size of the latent, including the attention, are computed on the
//! whole latent. The other layers, which need nearly all of the memory, are computed in tiles that include as
//! much of their neighbourhood as the convolutions reach, so no border is visible. The group norms of all
//! tiles use the same statistics: those of a smaller version of the picture, of the size of a tile, that
//! keeps each channel's mean and spread. (If that version is the picture itself, tiling changes nothing.)
//!
//! [`Tiling::Faded`]: as in `diffusers`. Each tile is computed separately, and where two tiles overlap, one
//! fades into the other linearly. The fading hides the border, but neighbouring tiles may differ in tone.
//!
//! Sources: Rombach et al., *High-Resolution Image Synthesis with Latent Diffusion Models*, 2022, arXiv
//! 2112.10752; Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, arXiv 1312.6114.

mod networks;
mod tiles;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use serde_json::json;

use super::model_folder::{ModelFolderError, Part};
use super::norm_statistics::NormStatistics;
use super::weights::{Precision, Scope, Weights, WeightsError};
use nabla_kernels::convolution::conv2d;
use networks::{Decoder, Encoder};
use tiles::{faded, seamless, shrunk};

/// The constant added to a variance.
const EPSILON: f64 = 1e-6;

/// An autoencoder's sizes, as in its `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct AutoencoderKlConfig {
    /// Channels of an encoded picture.
    pub in_channels: usize,
    /// Channels of a decoded picture.
    pub out_channels: usize,
    /// Kinds of the encoder's levels; each `DownEncoderBlock2D`.
    pub down_block_types: Vec<String>,
    /// Kinds of the decoder's levels; each `UpDecoderBlock2D`.
    pub up_block_types: Vec<String>,
    /// Channels of each level, from the largest picture to the smallest.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// The activation between convolutions: `silu`.
    pub act_fn: String,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Groups of channels of a norm.
    pub norm_num_groups: usize,
    /// The width of the pictures on which it was trained.
    pub sample_size: SampleSize,
    /// `scale`.
    pub scaling_factor: f64,
    /// `shift`; `None` means 0.
    pub shift_factor: Option<f64>,
    /// Whether it must not compute in `f16`, because its activations exceed the range.
    pub force_upcast: bool,
    /// Whether it has `Q`.
    pub use_quant_conv: bool,
    /// Whether it has `P`.
    pub use_post_quant_conv: bool,
    /// Whether there is an attention at the smallest size.
    pub mid_block_add_attention: bool,
}

/// A width, or a height and a width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum SampleSize {
    /// The side of a square.
    Square(usize),
    /// Height and width.
    Sides([usize; 2]),
}

impl SampleSize {
    /// The width that `diffusers` uses for tiles.
    pub fn side(self) -> usize {
        match self {
            Self::Square(side) | Self::Sides([side, _]) => side,
        }
    }
}

/// The defaults of `diffusers` for missing keys, except that `force_upcast` is off, because old files that
/// lack it do not need it.
impl Default for AutoencoderKlConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".to_owned()],
            up_block_types: vec!["UpDecoderBlock2D".to_owned()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".to_owned(),
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: SampleSize::Square(32),
            scaling_factor: 0.18215,
            shift_factor: None,
            force_upcast: false,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl AutoencoderKlConfig {
    /// Reads and checks it.
    ///
    /// # Errors
    /// If the file is missing, or holds an option that is not implemented.
    pub fn read(part: &Part) -> Result<Self, ModelFolderError> {
        let config: Self = part.config(
            "config.json",
            &[],
            &[("mid_block_type", json!("UNetMidBlock2D"))],
        )?;
        config.check(part)?;
        Ok(config)
    }

    /// Checks it; errors name `part`.
    pub(super) fn check(&self, part: &Part) -> Result<(), ModelFolderError> {
        if self.act_fn != "silu" {
            return Err(part.unsupported("act_fn", &self.act_fn, "only silu is implemented"));
        }
        let levels = self.block_out_channels.len();
        for (key, kinds, kind) in [
            (
                "down_block_types",
                &self.down_block_types,
                "DownEncoderBlock2D",
            ),
            ("up_block_types", &self.up_block_types, "UpDecoderBlock2D"),
        ] {
            if let Some(other) = kinds.iter().find(|other| *other != kind) {
                let expected = format!("only {kind} is implemented");
                return Err(part.unsupported(key, other, expected));
            }
            if kinds.len() != levels || levels == 0 {
                let expected =
                    format!("block_out_channels has {levels} levels, and needs at least 1");
                return Err(part.unsupported(key, format!("{kinds:?}"), expected));
            }
        }
        let groups = self.norm_num_groups;
        let channels = &self.block_out_channels;
        if groups == 0 || channels.iter().any(|channels| channels % groups != 0) {
            let expected = format!("it must divide each of block_out_channels = {channels:?}");
            return Err(part.unsupported("norm_num_groups", groups, expected));
        }
        if self.layers_per_block == 0 {
            return Err(part.unsupported("layers_per_block", 0, "it must be at least 1"));
        }
        Ok(())
    }

    /// The precision in which it computes if `asked` is requested.
    pub fn precision(&self, asked: Precision) -> Precision {
        match asked {
            Precision::F16 if self.force_upcast => Precision::F32,
            other => other,
        }
    }

    /// The number of pixels along a side of one position of the latent: 8 for Stable Diffusion.
    pub fn factor(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    /// How many positions of the latent around it a position of the encoder's outer part, and one of the
    /// decoder's, depends on.
    fn reach(&self) -> [usize; 2] {
        let (factor, layers) = (self.factor(), self.layers_per_block);
        // In pixels: convolutions of 3 x 3, one pixel of each level being 2ⁱ of the picture's.
        let outer = || (0..self.block_out_channels.len().saturating_sub(1)).map(|i| 1 << i);
        let down: usize = outer().map(|scale| (2 * layers + 2) * scale).sum();
        let up: usize = outer().map(|scale| (2 * (layers + 1) + 1) * scale).sum();
        [1 + down, 1 + up].map(|pixels| pixels.div_ceil(factor))
    }
}

/// The reason why a picture cannot be encoded, or a latent decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AutoencoderError {
    /// The number of channels is wrong.
    #[error("the autoencoder takes {expected} channels, but there are {found}")]
    Channels {
        /// What there is.
        found: usize,
        /// The required number of channels.
        expected: usize,
    },
    /// A side of the picture is not a multiple of the factor.
    #[error(
        "the picture has {height} x {width} pixels, but both must be multiples of {factor}, at least {factor}"
    )]
    Size {
        /// Its height.
        height: usize,
        /// Its width.
        width: usize,
        /// The factor that must divide both.
        factor: usize,
    },
    /// The tiles cannot be joined.
    #[error(
        "tiles of {size} positions cannot overlap by {overlap}: the size must be positive, and \
         the overlap at most half of it"
    )]
    Tiles {
        /// The side of a tile, in positions.
        size: usize,
        /// The overlap of two tiles, in positions.
        overlap: usize,
    },
}

/// How a large picture is computed; see the [module](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiling {
    /// In one piece.
    #[default]
    Whole,
    /// In tiles with their neighbourhood and common statistics.
    Seamless {
        /// Height and width of a tile without its neighbourhood, in positions of the latent.
        size: usize,
    },
    /// In overlapping tiles that fade into each other.
    Faded(TileOptions),
}

/// The size and overlap of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileOptions {
    /// Height and width of a tile, in positions of the latent.
    pub size: usize,
    /// How far two tiles overlap, in positions of the latent.
    pub overlap: usize,
}

impl TileOptions {
    /// Tiles as in `diffusers`: of the size on which the network was trained, overlapping by a quarter.
    pub fn of(config: &AutoencoderKlConfig) -> Self {
        let size = (config.sample_size.side() / config.factor()).max(1);
        Self {
            size,
            overlap: size / 4,
        }
    }
}

/// The distribution of the latents of a picture: a Gaussian at each position.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// Its mean, `[batch, latent channels, height/8, width/8]`.
    pub mean: Tensor<4>,
    /// The logarithm of its variance, of the same shape, from −30 to 20.
    pub logvar: Tensor<4>,
}

impl Posterior {
    /// Of `[batch, 2 · latent channels, height, width]`, where the means come first.
    fn new(moments: Tensor<4>) -> Self {
        let channels = moments.dims()[1] / 2;
        Self {
            mean: moments.clone().narrow(1, 0, channels),
            logvar: moments.narrow(1, channels, channels).clamp(-30.0, 20.0),
        }
    }

    /// The most likely latent: the mean.
    pub fn mode(&self) -> Tensor<4> {
        self.mean.clone()
    }

    /// `mean + exp(logvar/2)·noise`.
    ///
    /// - `noise`: of the mean's shape, standard normal
    pub fn sample(&self, noise: Tensor<4>) -> Tensor<4> {
        self.mean.clone() + (self.logvar.clone() * 0.5).exp() * noise
    }
}

/// The autoencoder; see the [module](self).
#[derive(Module, Debug)]
pub struct AutoencoderKl {
    encoder: Encoder,
    decoder: Decoder,
    quant: Option<Conv2d>,
    post_quant: Option<Conv2d>,
    latent_channels: usize,
    in_channels: usize,
    factor: usize,
    scale: f64,
    shift: f64,
    #[module(skip)]
    tiling: Tiling,
    /// The reach of the tiled parts of encoder and decoder, in positions of the latent.
    reach: [usize; 2],
}

impl AutoencoderKl {
    /// Loads the autoencoder of a folder, with its configuration. With `force_upcast`, `f16` becomes `f32`.
    ///
    /// # Errors
    /// If a file is missing, the configuration or the weights are for another network.
    pub fn load(
        part: &Part,
        device: &Device,
        precision: Precision,
    ) -> Result<(Self, AutoencoderKlConfig), ModelFolderError> {
        let config = AutoencoderKlConfig::read(part)?;
        let weights = Self::weights(&config, part, device, precision)?;
        Ok((Self::from_weights(&config, &weights)?, config))
    }

    /// The weights of a folder, with the attention's tensors under the names of current `diffusers`, whatever
    /// their names in the file.
    ///
    /// # Errors
    /// As [`Part::weights`].
    pub fn weights(
        config: &AutoencoderKlConfig,
        part: &Part,
        device: &Device,
        precision: Precision,
    ) -> Result<Weights, ModelFolderError> {
        let precision = config.precision(precision);
        let weights = part.weights("diffusion_pytorch_model", device, precision)?;
        let first_names = |name: &str| {
            let names = [
                ("to_q", "query"),
                ("to_k", "key"),
                ("to_v", "value"),
                ("to_out.0", "proj_attn"),
            ];
            let mut name = name.to_owned();
            for (new, old) in names {
                name = name.replace(
                    &format!(".attentions.0.{new}."),
                    &format!(".attentions.0.{old}."),
                );
            }
            name
        };
        Ok(weights.with_names(str::to_owned).with_names(first_names))
    }

    /// Loads the autoencoder from weights named as in `diffusers`, all of which must belong to it.
    ///
    /// # Errors
    /// If they are not.
    pub fn from_weights(
        config: &AutoencoderKlConfig,
        weights: &Weights,
    ) -> Result<Self, WeightsError> {
        let network = Self::from_scope(config, &weights.root())?;
        weights.finish(|_| false)?;
        Ok(network)
    }

    /// Loads the autoencoder from the weights below a prefix.
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn from_scope(
        config: &AutoencoderKlConfig,
        scope: &Scope<'_>,
    ) -> Result<Self, WeightsError> {
        let latent = config.latent_channels;
        let pointwise = |there: bool, name: &str, channels| match there {
            true => scope.at(name).conv2d(channels, channels, 1, 1).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            encoder: Encoder::load(config, &scope.at("encoder"))?,
            decoder: Decoder::load(config, &scope.at("decoder"))?,
            quant: pointwise(config.use_quant_conv, "quant_conv", 2 * latent)?,
            post_quant: pointwise(config.use_post_quant_conv, "post_quant_conv", latent)?,
            latent_channels: latent,
            in_channels: config.in_channels,
            factor: config.factor(),
            scale: config.scaling_factor,
            shift: config.shift_factor.unwrap_or(0.0),
            tiling: Tiling::Whole,
            reach: config.reach(),
        })
    }

    /// The same autoencoder with a tiling for pictures larger than a tile.
    ///
    /// # Errors
    /// If tiles have no size, or overlap by more than half.
    pub fn with_tiling(mut self, tiling: Tiling) -> Result<Self, AutoencoderError> {
        let (size, overlap) = match tiling {
            Tiling::Whole => (1, 0),
            Tiling::Seamless { size } => (size, 0),
            Tiling::Faded(TileOptions { size, overlap }) => (size, overlap),
        };
        if size == 0 || 2 * overlap > size {
            return Err(AutoencoderError::Tiles { size, overlap });
        }
        self.tiling = tiling;
        Ok(self)
    }

    /// How many pixels a position of the latent has across.
    pub fn factor(&self) -> usize {
        self.factor
    }

    /// `(z − shift)·scale`: what a diffusion model works on.
    pub fn normalize(&self, z: Tensor<4>) -> Tensor<4> {
        (z - self.shift) * self.scale
    }

    /// `z/scale + shift`: the latent of what a diffusion model made.
    pub fn denormalize(&self, z: Tensor<4>) -> Tensor<4> {
        z / self.scale + self.shift
    }

    /// Encodes pictures to latents.
    ///
    /// - `x`: `[batch, channels, height, width]`, from −1 to 1; height and width multiples of
    ///   [`factor`](Self::factor)
    ///
    /// # Errors
    /// If `x` has another shape.
    pub fn encode(&self, x: Tensor<4>) -> Result<Posterior, AutoencoderError> {
        self.check_picture(&x)?;
        let [_, _, height, width] = x.dims();
        let dtype = x.dtype();
        let x = x.cast(self.encoder.conv_in.weight.dtype());
        let size = [height / self.factor, width / self.factor];
        let moments = match self.cut(size) {
            Tiling::Whole => self.moments(x, &mut |_, _| {}),
            Tiling::Seamless { size } => {
                let outer = |x, norms: &mut _| self.encoder.outer(x, norms, &mut |_, _| {});
                let small = shrunk(&x, size + 2 * self.reach[0], self.factor);
                let h = seamless(x, small, size, self.reach[0], [self.factor, 1], &outer);
                self.quantized(self.encoder.inner(h, &mut |_, _| {}))
            }
            Tiling::Faded(tiles) => faded(x, tiles, [self.factor, 1], |x| {
                self.moments(x, &mut |_, _| {})
            }),
        };
        Ok(Posterior::new(moments.cast(dtype)))
    }

    /// The same without tiles; `see(i, h)` gets the output of level `i` of the encoder before its size is
    /// halved, `[batch, channels, height/2ⁱ, width/2ⁱ]`.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with(
        &self,
        x: Tensor<4>,
        see: &mut dyn FnMut(usize, &Tensor<4>),
    ) -> Result<Posterior, AutoencoderError> {
        self.check_picture(&x)?;
        let dtype = x.dtype();
        let x = x.cast(self.encoder.conv_in.weight.dtype());
        Ok(Posterior::new(self.moments(x, see).cast(dtype)))
    }

    fn moments(&self, x: Tensor<4>, see: &mut dyn FnMut(usize, &Tensor<4>)) -> Tensor<4> {
        let h = self.encoder.outer(x, &mut NormStatistics::Own, see);
        self.quantized(self.encoder.inner(h, see))
    }

    /// `Q`.
    fn quantized(&self, h: Tensor<4>) -> Tensor<4> {
        match &self.quant {
            Some(quant) => conv2d(quant, h),
            None => h,
        }
    }

    fn check_picture(&self, x: &Tensor<4>) -> Result<(), AutoencoderError> {
        let [_, channels, height, width] = x.dims();
        check_channels(channels, self.in_channels)?;
        let factor = self.factor;
        if height % factor != 0 || width % factor != 0 || height == 0 || width == 0 {
            return Err(AutoencoderError::Size {
                height,
                width,
                factor,
            });
        }
        Ok(())
    }

    /// Decodes latents to pictures, `[batch, channels, 8 · height, 8 · width]`, approximately from −1 to 1.
    ///
    /// - `z`: `[batch, latent channels, height, width]`, without scale and shift, see
    ///   [`denormalize`](Self::denormalize)
    ///
    /// # Errors
    /// If `z` has the wrong number of channels, or no positions.
    pub fn decode(&self, z: Tensor<4>) -> Result<Tensor<4>, AutoencoderError> {
        self.check_latent(&z)?;
        let [_, _, height, width] = z.dims();
        let dtype = z.dtype();
        let z = z.cast(self.decoder.conv_in.weight.dtype());
        let x = match self.cut([height, width]) {
            Tiling::Whole => self.picture(z, &mut |_, h| h),
            Tiling::Seamless { size } => {
                let small = shrunk(&z, size + 2 * self.reach[1], 1);
                let [h, small] =
                    [z, small].map(|z| self.decoder.inner(self.unquantized(z), &mut |_, h| h));
                let outer = |h, norms: &mut _| self.decoder.outer(h, norms, &mut |_, h| h);
                seamless(h, small, size, self.reach[1], [1, self.factor], &outer)
            }
            Tiling::Faded(tiles) => faded(z, tiles, [1, self.factor], |z| {
                self.picture(z, &mut |_, h| h)
            }),
        };
        Ok(x.cast(dtype))
    }

    /// The same without tiles, with the output `h` of level `i` of the decoder replaced by `change(i, h)`
    /// before its size is doubled. Levels are numbered as in the encoder, so the last one is 0 and has the
    /// size of the picture.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_with(
        &self,
        z: Tensor<4>,
        change: &mut dyn FnMut(usize, Tensor<4>) -> Tensor<4>,
    ) -> Result<Tensor<4>, AutoencoderError> {
        self.check_latent(&z)?;
        let dtype = z.dtype();
        let z = z.cast(self.decoder.conv_in.weight.dtype());
        Ok(self.picture(z, change).cast(dtype))
    }

    fn picture(
        &self,
        z: Tensor<4>,
        change: &mut dyn FnMut(usize, Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let h = self.decoder.inner(self.unquantized(z), change);
        self.decoder.outer(h, &mut NormStatistics::Own, change)
    }

    /// `P`.
    fn unquantized(&self, z: Tensor<4>) -> Tensor<4> {
        match &self.post_quant {
            Some(post_quant) => conv2d(post_quant, z),
            None => z,
        }
    }

    fn check_latent(&self, z: &Tensor<4>) -> Result<(), AutoencoderError> {
        let [_, channels, height, width] = z.dims();
        check_channels(channels, self.latent_channels)?;
        let factor = self.factor;
        if height == 0 || width == 0 {
            return Err(AutoencoderError::Size {
                height,
                width,
                factor,
            });
        }
        Ok(())
    }

    /// The tiling for a size in positions of the latent.
    fn cut(&self, [height, width]: [usize; 2]) -> Tiling {
        match self.tiling {
            Tiling::Seamless { size } | Tiling::Faded(TileOptions { size, .. })
                if height > size || width > size =>
            {
                self.tiling
            }
            _ => Tiling::Whole,
        }
    }
}

fn check_channels(found: usize, expected: usize) -> Result<(), AutoencoderError> {
    match found == expected {
        true => Ok(()),
        false => Err(AutoencoderError::Channels { found, expected }),
    }
}
