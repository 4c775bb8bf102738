//! The autoencoder of latent diffusion: pixels become a latent picture of an eighth of their width and
//! height, and a latent picture becomes pixels.
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
//! Memory and the time of the attention grow with the picture, so that a large one is computed in tiles
//! ([`AutoencoderKl::with_tiling`]). Cut plainly, a tile is not what the whole picture would be there: its
//! convolutions see zeros behind its border, and group norms and the attention see all of what they are
//! given. There are two ways to join tiles.
//!
//! [`Tiling::Seamless`]: what has the size of the latent (the attention among it) is computed whole. The
//! rest, which needs nearly all of the memory, is computed in tiles with as much of their neighbourhood as
//! the convolutions reach, so that nothing of a border is left. All tiles' group norms have the same
//! statistics: those of a smaller version of the picture, of the size of a tile, that keeps each channel's
//! mean and spread. (Where that version is the picture itself, tiles change nothing.)
//!
//! [`Tiling::Faded`]: as in `diffusers`. Each tile is computed alone, and where two overlap the one fades
//! into the other linearly. The fading hides the border, but a tile may differ in tone from the next.
//!
//! Sources: Rombach et al., *High-Resolution Image Synthesis with Latent Diffusion Models*, 2022, arXiv
//! 2112.10752; Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, arXiv 1312.6114.

use std::ops::Range;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, PaddingConfig2d};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde::Deserialize;
use serde_json::json;

use super::attention::{AttentionNames, PositionAttention};
use super::model_folder::{ModelFolderError, Part};
use super::norm_statistics::NormStatistics;
use super::resnet_block::{GroupNormOptions, ResnetBlock};
use super::unet2d_condition::nearest;
use super::weights::{Precision, Scope, Weights, WeightsError};
use nabla_kernels::picture::convolution;

/// What is added to a variance.
const EPSILON: f64 = 1e-6;

/// An autoencoder's sizes, as in its `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct AutoencoderKlConfig {
    /// Channels of a picture that is encoded.
    pub in_channels: usize,
    /// Channels of a picture that is decoded.
    pub out_channels: usize,
    /// Kinds of the encoder's levels; each `DownEncoderBlock2D`.
    pub down_block_types: Vec<String>,
    /// Kinds of the decoder's levels; each `UpDecoderBlock2D`.
    pub up_block_types: Vec<String>,
    /// Channels of each level, from the largest picture to the smallest.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// What stands between convolutions: `silu`.
    pub act_fn: String,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Groups of channels of a norm.
    pub norm_num_groups: usize,
    /// The width of the pictures that it was trained with.
    pub sample_size: SampleSize,
    /// `scale`.
    pub scaling_factor: f64,
    /// `shift`; none is 0.
    pub shift_factor: Option<f64>,
    /// Whether it must not compute in `f16`, whose range its activations leave.
    pub force_upcast: bool,
    /// Whether there is `Q`.
    pub use_quant_conv: bool,
    /// Whether there is `P`.
    pub use_post_quant_conv: bool,
    /// Whether there is an attention at the smallest size.
    pub mid_block_add_attention: bool,
}

/// A width, or a height and a width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum SampleSize {
    /// Of a square.
    Square(usize),
    /// Height and width.
    Sides([usize; 2]),
}

impl SampleSize {
    /// The width by which `diffusers` cuts tiles.
    pub fn side(self) -> usize {
        match self {
            Self::Square(side) | Self::Sides([side, _]) => side,
        }
    }
}

/// What `diffusers` takes for a key that is not there; but `force_upcast` is off, as old files that lack
/// it need none.
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

    /// Checks it for `part`, which errors name.
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

    /// In what precision it computes where `asked` is wanted.
    pub fn precision(&self, asked: Precision) -> Precision {
        match asked {
            Precision::F16 if self.force_upcast => Precision::F32,
            other => other,
        }
    }

    /// How many pixels a position of the latent has across: 8 of Stable Diffusion.
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

/// Why a picture cannot be encoded, or a latent decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AutoencoderError {
    /// Something with other channels.
    #[error("the autoencoder takes {expected} channels, but there are {found}")]
    Channels {
        /// What there is.
        found: usize,
        /// What must be.
        expected: usize,
    },
    /// A picture of which an eighth is not whole.
    #[error(
        "the picture has {height} x {width} pixels, but both must be multiples of {factor}, at least {factor}"
    )]
    Size {
        /// Its height.
        height: usize,
        /// Its width.
        width: usize,
        /// What must divide both.
        factor: usize,
    },
    /// Tiles that cannot be joined.
    #[error("tiles of {size} positions cannot overlap by {overlap}: at most half, and none of 0")]
    Tiles {
        /// Positions across.
        size: usize,
        /// Positions that two share.
        overlap: usize,
    },
}

/// How a large picture is computed; see the [module](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiling {
    /// At once.
    #[default]
    Whole,
    /// In tiles of the same statistics, with their neighbourhood.
    Seamless {
        /// Height and width of a tile without its neighbourhood, in positions of the latent.
        size: usize,
    },
    /// In overlapping tiles that fade into each other.
    Faded(TileOptions),
}

/// How something large is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileOptions {
    /// Height and width of a tile, in positions of the latent.
    pub size: usize,
    /// How far two tiles overlap, in positions of the latent.
    pub overlap: usize,
}

impl TileOptions {
    /// Tiles as `diffusers` cuts them: of the size that the network was trained with, a quarter of which
    /// overlaps.
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

    /// The likeliest latent: the mean.
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
    /// How far the tiled parts of encoder and decoder reach, in positions of the latent.
    reach: [usize; 2],
}

impl AutoencoderKl {
    /// The autoencoder of a folder, with its configuration. With `force_upcast`, `f16` becomes `f32`.
    ///
    /// # Errors
    /// If a file is missing, the configuration is of another network, or the weights are.
    pub fn load(
        part: &Part,
        device: &Device,
        precision: Precision,
    ) -> Result<(Self, AutoencoderKlConfig), ModelFolderError> {
        let config = AutoencoderKlConfig::read(part)?;
        let weights = Self::weights(&config, part, device, precision)?;
        Ok((Self::from_weights(&config, &weights)?, config))
    }

    /// The weights of a folder, in which the attention's tensors have the names of today's `diffusers`,
    /// whatever the file calls them.
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

    /// The autoencoder of weights that are named as in `diffusers`, all of which must be its own.
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

    /// The autoencoder of the weights below a prefix.
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

    /// The same, which computes what is larger than a tile in tiles.
    ///
    /// # Errors
    /// If tiles have no size, or fade by more than a half.
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

    /// The latents of pictures.
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

    /// The same without tiles, where `see(i, h)` is shown what the level `i` of the encoder computes
    /// before its size is halved, `[batch, channels, height/2ⁱ, width/2ⁱ]`.
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
            Some(quant) => convolution(quant, h),
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

    /// The pictures of latents, `[batch, channels, 8 · height, 8 · width]`, about from −1 to 1.
    ///
    /// - `z`: `[batch, latent channels, height, width]`, without scale and shift, see
    ///   [`denormalize`](Self::denormalize)
    ///
    /// # Errors
    /// If `z` has other channels, or no position.
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

    /// The same without tiles, where what the level `i` of the decoder computes before its size is
    /// doubled, `h`, becomes `change(i, h)`. Levels are counted as the encoder's, so that the last is 0
    /// and has the picture's size.
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
            Some(post_quant) => convolution(post_quant, z),
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

    /// How something of a size in positions of the latent is computed.
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

/// `compute` of `x` in tiles that see their neighbourhood and have the statistics of `small`; see the
/// [module](self).
///
/// - `size`: of a tile, and `reach`: of its neighbourhood, in positions of the latent
/// - `scales`: how many of its own positions `x`, and the result, has for one of the latent
fn seamless(
    x: Tensor<4>,
    small: Tensor<4>,
    size: usize,
    reach: usize,
    [source, target]: [usize; 2],
    compute: &dyn Fn(Tensor<4>, &mut NormStatistics) -> Tensor<4>,
) -> Tensor<4> {
    let mut norms = NormStatistics::Record(Vec::new());
    compute(small, &mut norms);
    let norms = norms.recorded();
    let [_, _, height, width] = x.dims();
    let [height, width] = [height / source, width / source];
    let around = |part: &Range<usize>, side: usize| {
        part.start.saturating_sub(reach)..(part.end + reach).min(side)
    };
    let scaled = |part: Range<usize>, scale: usize| part.start * scale..part.end * scale;
    let rows = spans(height, size).map(|rows| {
        let columns = spans(width, size).map(|columns| {
            let (top, left) = (around(&rows, height), around(&columns, width));
            let window = x
                .clone()
                .slice_dim(2, scaled(top.clone(), source))
                .slice_dim(3, scaled(left.clone(), source));
            let own = |part: &Range<usize>, around: &Range<usize>| {
                scaled(part.start - around.start..part.end - around.start, target)
            };
            compute(window, &mut norms.clone())
                .slice_dim(2, own(&rows, &top))
                .slice_dim(3, own(&columns, &left))
        });
        Tensor::cat(columns.collect(), 3)
    });
    Tensor::cat(rows.collect(), 2)
}

/// A smaller version of `x` of about as many positions as a square of `side`, each of `unit` numbers along
/// a side: every so manyth number, shifted and stretched so that each channel keeps its mean and spread.
fn shrunk(x: &Tensor<4>, side: usize, unit: usize) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let positions = (height / unit * (width / unit)) as f64;
    let scale = (side as f64 / positions.sqrt()).min(1.0);
    let mut small = x.clone();
    for (dim, length) in [(2, height), (3, width)] {
        let kept = ((length / unit) as f64 * scale).round().max(1.0) as usize * unit;
        let step = length as f64 / kept as f64;
        let places: Vec<i32> = (0..kept)
            .map(|i| ((i as f64 + 0.5) * step) as i32)
            .collect();
        let places = TensorData::new(places, [kept]);
        let places = Tensor::<1, Int>::from_data(places, &x.device());
        small = small.select(dim, places);
    }
    let dtype = x.dtype();
    let moments = |x: &Tensor<4>| {
        let x = x.clone().cast(DType::F32).flatten::<3>(2, 3);
        let (variance, mean) = x.var_mean_bias(2);
        [mean, variance.sqrt()].map(|v| v.unsqueeze_dim::<4>(3))
    };
    let [mean, spread] = moments(x);
    let [small_mean, small_spread] = moments(&small);
    // A channel of one value has no spread to restore.
    let stretch = (spread / small_spread.clamp_min(f32::MIN_POSITIVE)).clamp_max(2.0);
    ((small.cast(DType::F32) - small_mean) * stretch + mean).cast(dtype)
}

/// The parts of `side` that tiles of `size` have, of about the same length.
fn spans(side: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    let count = side.div_ceil(size);
    (0..count).map(move |i| i * side / count..(i + 1) * side / count)
}

/// `compute` of tiles of `x` that fade into each other.
///
/// - `scales`: how many of its own positions `x`, and the result, has for one of the latent
fn faded(
    x: Tensor<4>,
    TileOptions { size, overlap }: TileOptions,
    scales: [usize; 2],
    compute: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let [source, target] = scales;
    let (tile, step) = (size * source, (size - overlap) * source);
    let (kept, fade) = ((size - overlap) * target, overlap * target);
    let piece = |top: usize, left: usize| {
        let x = x.clone().narrow(2, top, tile.min(height - top));
        compute(x.narrow(3, left, tile.min(width - left)))
    };
    let mut rows = Vec::new();
    // The faded tiles of the row above.
    let mut above: Vec<Tensor<4>> = Vec::new();
    for top in (0..height).step_by(step) {
        let mut row: Vec<Tensor<4>> = Vec::new();
        for (j, left) in (0..width).step_by(step).enumerate() {
            let mut y = piece(top, left);
            if let Some(above) = above.get(j) {
                y = mixed(above, y, 2, fade);
            }
            if let Some(before) = row.last() {
                y = mixed(before, y, 3, fade);
            }
            row.push(y);
        }
        let kept_of = |y: &Tensor<4>| {
            let [_, _, height, width] = y.dims();
            y.clone()
                .narrow(2, 0, kept.min(height))
                .narrow(3, 0, kept.min(width))
        };
        rows.push(Tensor::cat(row.iter().map(kept_of).collect(), 3));
        above = row;
    }
    Tensor::cat(rows, 2)
}

/// `after`, into whose beginning along `dim` the end of `before` fades: `(1 − t)·before + t·after`.
fn mixed(before: &Tensor<4>, after: Tensor<4>, dim: usize, fade: usize) -> Tensor<4> {
    let (length, other) = (after.dims()[dim], before.dims()[dim]);
    let fade = fade.min(length).min(other);
    if fade == 0 {
        return after;
    }
    let weights: Vec<f32> = (0..fade).map(|i| i as f32 / fade as f32).collect();
    let mut shape = [1; 4];
    shape[dim] = fade;
    let t = Tensor::<1>::from_floats(weights.as_slice(), &after.device())
        .cast(after.dtype())
        .reshape(shape);
    let end = before.clone().narrow(dim, other - fade, fade);
    let start = after.clone().narrow(dim, 0, fade);
    let both = end * (t.clone().neg() + 1.0) + start * t;
    match length == fade {
        true => both,
        false => Tensor::cat(vec![both, after.narrow(dim, fade, length - fade)], dim),
    }
}

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

/// What is computed at the smallest size.
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

/// What is computed last.
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
        convolution(&self.conv, norms.group_norm_silu(&self.norm, h))
    }
}

/// `E`.
#[derive(Module, Debug)]
struct Encoder {
    conv_in: Conv2d,
    levels: Vec<Level>,
    middle: Middle,
    end: End,
}

impl Encoder {
    fn load(config: &AutoencoderKlConfig, scope: &Scope<'_>) -> Result<Self, WeightsError> {
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
                    // Zeros on the right and below only.
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

    /// What is larger than the latent: all levels but the last.
    fn outer(
        &self,
        x: Tensor<4>,
        norms: &mut NormStatistics,
        see: &mut dyn FnMut(usize, &Tensor<4>),
    ) -> Tensor<4> {
        let mut h = convolution(&self.conv_in, x);
        for (i, level) in self.levels.iter().enumerate() {
            let Some(downsample) = &level.resize else {
                break;
            };
            h = level.blocks(h, norms);
            see(i, &h);
            h = convolution(downsample, h);
        }
        h
    }

    /// What has the size of the latent.
    fn inner(&self, mut h: Tensor<4>, see: &mut dyn FnMut(usize, &Tensor<4>)) -> Tensor<4> {
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
struct Decoder {
    conv_in: Conv2d,
    middle: Middle,
    levels: Vec<Level>,
    end: End,
}

impl Decoder {
    fn load(config: &AutoencoderKlConfig, scope: &Scope<'_>) -> Result<Self, WeightsError> {
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

    /// What has the size of the latent.
    fn inner(
        &self,
        z: Tensor<4>,
        change: &mut dyn FnMut(usize, Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let h = self.middle.forward(convolution(&self.conv_in, z));
        match self.levels.first() {
            Some(level) => {
                let h = level.blocks(h, &mut NormStatistics::Own);
                change(self.levels.len() - 1, h)
            }
            None => h,
        }
    }

    /// What is larger than the latent: all levels but the first.
    fn outer(
        &self,
        mut h: Tensor<4>,
        norms: &mut NormStatistics,
        change: &mut dyn FnMut(usize, Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        for (i, pair) in self.levels.windows(2).enumerate() {
            if let Some(upsample) = &pair[0].resize {
                let [_, _, height, width] = h.dims();
                h = convolution(upsample, nearest(h, [2 * height, 2 * width]));
            }
            h = change(self.levels.len() - 2 - i, pair[1].blocks(h, norms));
        }
        self.end.forward(h, norms)
    }
}
