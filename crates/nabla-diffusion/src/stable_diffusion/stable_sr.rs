//! StableSR: Stable Diffusion as a prior for super-resolution.
//!
//! Stable Diffusion 2.1 is unchanged. StableSR adds a [time-aware encoder](super::time_aware_encoder) of the
//! enlarged small picture, whose features [modulate](super::spatial_feature_transform) every residual block
//! of the UNet, and a decoder that [uses that picture](super::controllable_feature_wrapping):
//!
//! ```text
//! c = scale · encode(x_small),   ε = UNet(z, t, "", encoder(c, t)),   x = decode(z₀ / scale, features(x_small), w)
//! ```
//!
//! The text is always empty. Latents larger than those of the training are predicted in
//! [tiles](StableSr::predict).
//!
//! A folder needs only the two files as they are published:
//!
//! ```text
//! stablesr_000117.ckpt      or .safetensors: UNet, encoder, text encoder, autoencoder
//! vqgan_cfw_00011.ckpt      or .safetensors: the autoencoder with feature wrapping
//! config.json               optional: other sizes than the published, see StableSrConfig
//! ```
//!
//! ```no_run
//! use std::path::Path;
//! use burn::tensor::{Device, Tensor};
//! use nabla_diffusion::stable_diffusion::stable_sr::StableSr;
//! use nabla_diffusion::stable_diffusion::weights::Precision;
//!
//! let model = StableSr::load(Path::new("StableSR"), &Device::flex(), Precision::F32)?;
//! let small = Tensor::<4>::zeros([1, 3, 512, 512], model.device()); // enlarged already
//! let condition = model.encode(small.clone())?.mode() * model.config().vae.scaling_factor;
//! let epsilon = model.predict(condition.clone(), 999.0, &condition, None)?;
//! # let _ = epsilon;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Wang, Yue, Zhou, Chan, Loy, *Exploiting Diffusion Prior for Real-World Image
//! Super-Resolution*, IJCV 2024, arXiv 2305.07015.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;

use super::autoencoder_kl::{
    AutoencoderError, AutoencoderKl, AutoencoderKlConfig, Posterior, TileOptions,
};
use super::clip_text::{ClipTextConfig, ClipTextEncoder};
use super::controllable_feature_wrapping::{FeatureWrappingConfig, WrappedAutoencoder};
use super::latent_diffusion_names::LatentDiffusionNames;
use super::model_folder::{ModelFolderError, Part};
use super::published_models::PublishedModel;
use super::spatial_feature_transform::UNetFeatureTransforms;
use super::time_aware_encoder::{TimeAwareEncoder, TimeAwareEncoderConfig};
use super::unet2d_condition::{UNet2DCondition, UNet2DConditionConfig};
use super::weights::{Precision, Weights};
use crate::denoiser::Prediction;

/// The sizes of a StableSR, as in the optional `config.json`. Missing values default to the published ones.
///
/// ```json
/// {
///   "unet": { "in_channels": 4, "block_out_channels": [320, 640, 1280, 1280], "…": "as in diffusers" },
///   "text_encoder": { "hidden_size": 1024, "…": "as in transformers" },
///   "vae": { "block_out_channels": [128, 256, 512, 512], "…": "as in diffusers" },
///   "structure_encoder": { "model_channels": 256, "…": "as in TimeAwareEncoderConfig" },
///   "feature_transform_channels": 128,
///   "feature_wrapping": { "blocks": 2, "growth": 32 },
///   "prediction_type": "epsilon",
///   "tile": 64, "tile_overlap": 32
/// }
/// ```
///
/// Each of the first four is either complete or missing.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct StableSrConfig {
    /// The UNet.
    pub unet: UNet2DConditionConfig,
    /// The text encoder, without the last layer, whose output the UNet does not use.
    pub text_encoder: ClipTextConfig,
    /// The autoencoder.
    pub vae: AutoencoderKlConfig,
    /// The time-aware encoder.
    pub structure_encoder: TimeAwareEncoderConfig,
    /// Channels within a spatial feature transform. Default 128.
    pub feature_transform_channels: usize,
    /// Feature wrapping.
    pub feature_wrapping: FeatureWrappingConfig,
    /// What the UNet predicts: `epsilon`, or `v_prediction` in the variant for 768 x 768 pixels. Default
    /// `epsilon`.
    pub prediction_type: PredictionType,
    /// The side of the latents on which the UNet was trained, and of the tiles of larger latents. Default 64.
    pub tile: usize,
    /// How far tiles overlap. Default 32.
    pub tile_overlap: usize,
}

/// What a UNet predicts, as `diffusers` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    #[default]
    Epsilon,
    /// The velocity.
    VPrediction,
}

impl Default for StableSrConfig {
    /// The published sizes: those of Stable Diffusion 2.1.
    fn default() -> Self {
        let published = PublishedModel::StableDiffusion2;
        let mut texts = published.text_encoders();
        Self {
            unet: UNet2DConditionConfig {
                upcast_attention: false,
                ..published.unet()
            },
            text_encoder: texts.pop().map(|(text, _)| text).unwrap_or_default(),
            vae: AutoencoderKlConfig {
                sample_size: AutoencoderKlConfig::default().sample_size,
                ..published.autoencoder()
            },
            structure_encoder: TimeAwareEncoderConfig::default(),
            feature_transform_channels: 128,
            feature_wrapping: FeatureWrappingConfig::default(),
            prediction_type: PredictionType::Epsilon,
            tile: 64,
            tile_overlap: 32,
        }
    }
}

impl StableSrConfig {
    /// Reads and checks `config.json`; the published sizes if there is none.
    ///
    /// # Errors
    /// If the file has an option that is not implemented, or sizes that do not fit together.
    pub fn read(folder: &Part) -> Result<Self, ModelFolderError> {
        let config = match folder.folder().join("config.json").is_file() {
            true => folder.config("config.json", &[], &[])?,
            false => Self::default(),
        };
        config.check(folder)?;
        Ok(config)
    }

    fn check(&self, part: &Part) -> Result<(), ModelFolderError> {
        self.unet.check(part)?;
        self.vae.check(part)?;
        self.text_encoder.check(part)?;
        if let Some([key, value, expected]) = self.structure_encoder.fault() {
            return Err(part.unsupported(&key, value, expected));
        }
        let levels = self.unet.block_out_channels.len();
        let latent = self.vae.latent_channels;
        for (key, value, expected, what) in [
            (
                "unet.in_channels",
                self.unet.in_channels,
                latent,
                "vae.latent_channels",
            ),
            (
                "unet.out_channels",
                self.unet.out_channels,
                latent,
                "vae.latent_channels",
            ),
            (
                "structure_encoder.in_channels",
                self.structure_encoder.in_channels,
                latent,
                "vae.latent_channels",
            ),
            (
                "structure_encoder.channel_mult",
                self.structure_encoder.channel_mult.len(),
                levels,
                "the number of the UNet's levels",
            ),
            (
                "unet.cross_attention_dim",
                self.unet.cross_attention_dim,
                self.text_encoder.hidden_size,
                "text_encoder.hidden_size",
            ),
        ] {
            if value != expected {
                let expected = format!("it must be {what}, {expected}");
                return Err(part.unsupported(key, value, expected));
            }
        }
        for (key, value, least) in [
            ("text_encoder.vocab_size", self.text_encoder.vocab_size, 2),
            (
                "text_encoder.max_position_embeddings",
                self.text_encoder.max_position_embeddings,
                2,
            ),
            (
                "feature_transform_channels",
                self.feature_transform_channels,
                1,
            ),
            ("feature_wrapping.growth", self.feature_wrapping.growth, 1),
            ("tile", self.tile, 1),
        ] {
            if value < least {
                return Err(part.unsupported(key, value, format!("it must be at least {least}")));
            }
        }
        if self.tile_overlap >= self.tile {
            let expected = format!("it must be less than tile = {}", self.tile);
            return Err(part.unsupported("tile_overlap", self.tile_overlap, expected));
        }
        Ok(())
    }

    /// The empty text: the start and end tokens, and padding.
    fn empty_text(&self) -> Vec<u32> {
        let count = self.text_encoder.vocab_size as u32;
        let mut ids = vec![0; self.text_encoder.max_position_embeddings];
        for (id, special) in ids.iter_mut().zip([count - 2, count - 1]) {
            *id = special;
        }
        ids
    }

    /// Tiles as the network was trained.
    pub fn tiles(&self) -> TileOptions {
        TileOptions {
            size: self.tile,
            overlap: self.tile_overlap,
        }
    }
}

/// The reason why a StableSR cannot take a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StableSrError {
    /// A latent has the wrong shape, or the condition has another size.
    #[error(
        "StableSR takes latents of {channels} channels and at least {least} x {least} positions with a \
         condition of the same shape, but the latents are {latents:?} and the condition {condition:?}"
    )]
    Latents {
        /// Their shape.
        latents: [usize; 4],
        /// Its shape.
        condition: [usize; 4],
        /// The required number of channels.
        channels: usize,
        /// The minimum side.
        least: usize,
    },
    /// The tiles cannot be joined.
    #[error("tiles of {size} positions cannot overlap by {overlap}")]
    Tiles {
        /// The side of a tile, in positions.
        size: usize,
        /// The overlap of two tiles, in positions.
        overlap: usize,
    },
    /// The autoencoder.
    #[error(transparent)]
    Autoencoder(#[from] AutoencoderError),
}

/// The model; see the [module](self).
#[derive(Debug)]
pub struct StableSr {
    unet: UNet2DCondition,
    transforms: UNetFeatureTransforms,
    structure: TimeAwareEncoder,
    vae: AutoencoderKl,
    wrapped: WrappedAutoencoder,
    /// The encoded empty text, `[1, words, channels]`.
    text: Tensor<3>,
    config: StableSrConfig,
    device: Device,
    precision: Precision,
}

impl StableSr {
    /// Whether a folder contains a StableSR: a file whose name starts like those of the published models.
    pub fn is_in(folder: &Path) -> bool {
        !files(folder, "stablesr_").is_empty()
    }

    /// The model of a folder.
    ///
    /// # Errors
    /// If a file is missing, there are several of one kind, the configuration cannot be parsed, or the
    /// weights belong to another network.
    pub fn load(
        folder: &Path,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, ModelFolderError> {
        let part = Part::open(folder, "StableSR")?;
        let config = StableSrConfig::read(&part)?;
        let [model, wrapping] = ["stablesr_", "vqgan_cfw_"].map(|begin| only_file(folder, begin));
        let (model, wrapping) = (model?, wrapping?);

        let levels = config.vae.block_out_channels.len();
        let names = LatentDiffusionNames::new(&config.unet, levels).with_open_clip();
        let structure_names = TimeAwareEncoder::names(config.structure_encoder.num_heads);
        let both = {
            let names = names.clone();
            move |name: &str| match name.starts_with("structcond_stage_model.") {
                true => structure_names(name),
                false => names.find(name),
            }
        };
        let weights = Weights::open(std::slice::from_ref(&model), device, precision)?;
        let weights = weights.with_names(both);
        let root = weights.root();
        let unet = UNet2DCondition::from_scope(&config.unet, &root.at("unet"))?;
        let channels = [
            config.structure_encoder.out_channels,
            config.feature_transform_channels,
        ];
        let transforms =
            UNetFeatureTransforms::from_scope(&config.unet, channels, &root.at("unet"))?;
        let structure = TimeAwareEncoder::from_scope(
            &config.structure_encoder,
            &root.at("structcond_stage_model"),
        )?;
        let vae = AutoencoderKl::from_scope(&config.vae, &root.at("vae"))?;
        let encoder = ClipTextEncoder::from_scope(&config.text_encoder, &root.at("text_encoder"))?;
        let layers = config.text_encoder.num_hidden_layers;
        weights.finish(|name| LatentDiffusionNames::is_spare(name, layers))?;
        let text = encoder
            .forward(&[config.empty_text()])
            .map_err(|e| ModelFolderError::Config {
                path: model,
                reason: e.to_string(),
            })?
            .last;

        let weights = Weights::open(std::slice::from_ref(&wrapping), device, precision)?;
        let below = names.clone();
        let weights = weights
            .with_names(move |name| names.find_in_autoencoder(name))
            .with_names(move |name| below.find_in_autoencoder(name).below("first_stage_model."));
        let wrapped = WrappedAutoencoder::from_scope(
            &config.vae,
            config.feature_wrapping,
            &weights.root().at("vae"),
        )?;
        weights.finish(|name| LatentDiffusionNames::is_spare(name, layers))?;
        Ok(Self {
            unet,
            transforms,
            structure,
            vae,
            wrapped,
            text,
            config,
            device: device.clone(),
            precision,
        })
    }

    /// The sizes.
    pub fn config(&self) -> &StableSrConfig {
        &self.config
    }

    /// The device on which it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The precision in which it computes; inputs and outputs are `f32`.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What [`predict`](Self::predict) predicts.
    pub fn prediction(&self) -> Prediction {
        match self.config.prediction_type {
            PredictionType::Epsilon => Prediction::Epsilon,
            PredictionType::VPrediction => Prediction::Velocity,
        }
    }

    /// The encoded empty text, `[1, words, channels]`.
    pub fn text(&self) -> &Tensor<3> {
        &self.text
    }

    /// The number of pixels along a side of one position of the latent.
    pub fn factor(&self) -> usize {
        self.config.vae.factor()
    }

    fn inside<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        x.cast(self.precision.dtype())
    }

    fn outside<const D: usize>(x: Tensor<D>) -> Tensor<D> {
        x.cast(Precision::F32.dtype())
    }

    /// Encodes pictures to latents, without the scale.
    ///
    /// - `pixels`: `[batch, 3, height, width]`, from −1 to 1; both sides multiples of
    ///   [`factor`](Self::factor)
    ///
    /// # Errors
    /// If they have another shape.
    pub fn encode(&self, pixels: Tensor<4>) -> Result<Posterior, StableSrError> {
        let posterior = self.vae.encode(self.inside(pixels))?;
        Ok(Posterior {
            mean: Self::outside(posterior.mean),
            logvar: Self::outside(posterior.logvar),
        })
    }

    /// Decodes latents without the scale to pictures, `[batch, 3, height, width]`, approximately from −1 to 1.
    ///
    /// # Errors
    /// If the latents have other channels.
    pub fn decode(&self, latents: Tensor<4>) -> Result<Tensor<4>, StableSrError> {
        Ok(Self::outside(self.vae.decode(self.inside(latents))?))
    }

    /// The same with the features of pictures of the result's size, mixed in with the given `weight`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn decode_wrapped(
        &self,
        latents: Tensor<4>,
        pixels: Tensor<4>,
        weight: f64,
    ) -> Result<Tensor<4>, StableSrError> {
        let [_, _, height, width] = latents.dims();
        let [_, _, rows, columns] = pixels.dims();
        let factor = self.factor();
        if latents.dims()[0] != pixels.dims()[0]
            || [rows, columns] != [height * factor, width * factor]
        {
            return Err(StableSrError::Latents {
                latents: latents.dims(),
                condition: pixels.dims(),
                channels: self.config.vae.latent_channels,
                least: 1,
            });
        }
        let features = self.wrapped.features(self.inside(pixels))?;
        let latents = self.inside(latents);
        Ok(Self::outside(
            self.wrapped.decode(latents, &features, weight)?,
        ))
    }

    /// The maps of the time-aware encoder, one per level, the finest first, in the model's precision.
    ///
    /// - `condition`: latents of the enlarged small pictures, with the scale
    /// - `timestep`: in the units of training steps
    pub fn structure(&self, condition: Tensor<4>, timestep: f64) -> Vec<Tensor<4>> {
        let time = Tensor::full([condition.dims()[0]], timestep, &self.device);
        self.structure.forward(self.inside(condition), time)
    }

    /// Returns the prediction of the UNet, with the shape of `x`.
    ///
    /// - `x`: noisy latents with the scale, `[batch, channels, height, width]`
    /// - `timestep`: in the units of training steps
    /// - `condition`: latents of the enlarged small pictures, with the scale, of the same shape
    /// - `tiles`: how to cut inputs larger than a tile, if at all. Where tiles overlap, the result is the
    ///   mean of their predictions, weighted by a Gaussian around the middle of each tile (of variance 0.01
    ///   in units of its side, half a position below the middle, as published).
    ///
    /// # Errors
    /// If the shapes do not agree, or the tiles overlap completely.
    pub fn predict(
        &self,
        x: Tensor<4>,
        timestep: f64,
        condition: &Tensor<4>,
        tiles: Option<TileOptions>,
    ) -> Result<Tensor<4>, StableSrError> {
        let [_, channels, height, width] = x.dims();
        if x.dims() != condition.dims()
            || channels != self.config.unet.in_channels
            || height == 0
            || width == 0
        {
            return Err(StableSrError::Latents {
                latents: x.dims(),
                condition: condition.dims(),
                channels: self.config.unet.in_channels,
                least: 1,
            });
        }
        let Some(TileOptions { size, overlap }) = tiles else {
            return Ok(self.predict_whole(x, timestep, condition.clone()));
        };
        if overlap >= size {
            return Err(StableSrError::Tiles { size, overlap });
        }
        if height <= size && width <= size {
            return Ok(self.predict_whole(x, timestep, condition.clone()));
        }
        let mut sum = x.zeros_like();
        let mut weights = Tensor::zeros([1, 1, height, width], &x.device());
        for rows in spans(height, size, overlap) {
            for columns in spans(width, size, overlap) {
                let cut = |x: &Tensor<4>| {
                    x.clone()
                        .slice_dim(2, rows.clone())
                        .slice_dim(3, columns.clone())
                };
                let tile = self.predict_whole(cut(&x), timestep, cut(condition));
                let weight = gaussian([rows.len(), columns.len()], &x.device());
                let add = |all: Tensor<4>, part: Tensor<4>| {
                    let [batch, channels, ..] = all.dims();
                    let whole = [0..batch, 0..channels, rows.clone(), columns.clone()];
                    let part = cut(&all) + part;
                    all.slice_assign(whole, part)
                };
                sum = add(sum, tile * weight.clone());
                weights = add(weights, weight);
            }
        }
        Ok(sum / weights)
    }

    fn predict_whole(&self, x: Tensor<4>, timestep: f64, condition: Tensor<4>) -> Tensor<4> {
        let batch = x.dims()[0];
        let features = self.structure(condition, timestep);
        let time = Tensor::full([batch], timestep, &self.device);
        let text = self.text.clone().repeat_dim(0, batch);
        let x = self.inside(x);
        let prediction = self
            .unet
            .forward_with(x, time, &text, None, &mut |block, h| {
                self.transforms.change(&features, block, h)
            });
        Self::outside(prediction)
    }
}

/// The ranges of `length` that tiles of `size` cover; the last tile ends at the end.
fn spans(length: usize, size: usize, overlap: usize) -> Vec<std::ops::Range<usize>> {
    if length <= size {
        let whole = 0..length;
        return vec![whole];
    }
    let step = size - overlap;
    let count = 1 + (length - size).div_ceil(step);
    (0..count)
        .map(|i| (i * step).min(length - size))
        .map(|start| start..start + size)
        .collect()
}

/// The weights of a tile, `[1, 1, height, width]`.
fn gaussian([height, width]: [usize; 2], device: &Device) -> Tensor<4> {
    let side = |length: usize, middle: f64| -> Vec<f64> {
        (0..length)
            .map(|i| {
                let distance = (i as f64 - middle) / length as f64;
                (-distance * distance / 0.02).exp()
            })
            .collect()
    };
    let columns = side(width, (width as f64 - 1.0) / 2.0);
    let values: Vec<f32> = side(height, height as f64 / 2.0)
        .iter()
        .flat_map(|row| columns.iter().map(move |column| (row * column) as f32))
        .collect();
    Tensor::from_data(TensorData::new(values, [1, 1, height, width]), device)
}

/// The weights files in a folder whose names start with `begin`, in order.
fn files(folder: &Path, begin: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(begin))
                && path
                    .extension()
                    .is_some_and(|e| e == "ckpt" || e == "safetensors")
                && path.is_file()
        })
        .collect();
    paths.sort();
    paths
}

/// The only file whose name starts with `begin`.
fn only_file(folder: &Path, begin: &str) -> Result<PathBuf, ModelFolderError> {
    let mut paths = files(folder, begin);
    match (paths.pop(), paths.pop()) {
        (Some(path), None) => Ok(path),
        (None, _) => Err(ModelFolderError::NoFile {
            folder: folder.to_owned(),
            file: format!("{begin}*.ckpt or {begin}*.safetensors"),
        }),
        (Some(path), Some(other)) => Err(ModelFolderError::Config {
            path: folder.to_owned(),
            reason: format!(
                "it holds several models: {} and {}",
                other.display(),
                path.display()
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_all_and_end_at_the_end() {
        let starts: [(_, _, _, &[usize]); 6] = [
            (64, 64, 32, &[0]),
            (10, 64, 32, &[0]),
            (65, 64, 32, &[0, 1]),
            (128, 64, 32, &[0, 32, 64]),
            (10, 8, 4, &[0, 2]),
            (13, 8, 0, &[0, 5]),
        ];
        for (length, size, overlap, starts) in starts {
            let found = spans(length, size, overlap);
            let expected = starts.iter().map(|&at| at..at + size.min(length));
            assert!(found.into_iter().eq(expected), "{length} {size} {overlap}");
        }
    }

    #[test]
    fn the_published_sizes_fit_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let part = Part::open(folder.path(), "StableSR").unwrap();
        let config = StableSrConfig::read(&part).unwrap();
        assert_eq!(config.vae.factor(), 8);
        let text = config.empty_text();
        assert_eq!(text[..3], [49406, 49407, 0]);
        assert_eq!(text.len(), 77);
    }
}
