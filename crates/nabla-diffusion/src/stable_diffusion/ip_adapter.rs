//! IP-Adapter: a picture as a prompt. Its tokens stand beside those of the text, with projections of their own
//! in every attention to the text.
//!
//! ```text
//! y = softmax(q kᵀ/√d) v + s softmax(q k'ᵀ/√d) v',   k' = c' W'_k,   v' = c' W'_v
//! ```
//!
//! The tokens `c'` come from CLIP's [encoder of pictures](super::clip_vision): in the plain form four, by a
//! linear layer and a norm from the picture's embedding, in the "plus" form sixteen, which a
//! [resampler] draws from the state before the last layer. Without the text, as guidance needs it,
//! the tokens are those of an embedding of zeros (plain), or of a picture whose normalized pixels are 0 (plus).
//!
//! A file is one of those of `h94/IP-Adapter` (`ip-adapter_sd15.safetensors`, `ip-adapter-plus_sdxl_vit-h.bin`
//! …), with tensors `image_proj.…` and `ip_adapter.1.to_k_ip.weight` …; the encoder is the folder
//! `image_encoder` beside them. FaceID and the full-face form are not implemented.
//!
//! ```no_run
//! use burn::tensor::Tensor;
//! use nabla_diffusion::stable_diffusion::ip_adapter::IpAdapter;
//! use nabla_diffusion::stable_diffusion::pipeline::{RunDoors, StableDiffusion};
//!
//! # fn run(model: StableDiffusion, picture: Tensor<4>) -> Result<(), Box<dyn std::error::Error>> {
//! let (file, encoder) = ("ip-adapter_sd15.safetensors", "models/image_encoder");
//! let adapter = IpAdapter::load(file.as_ref(), encoder.as_ref(), &model)?;
//! let model = model.with_ip_adapter(&adapter);
//! // [1, 3, 224, 224], from 0 to 1.
//! let doors = RunDoors::default().prompted_by(adapter.prompt(picture, 0.6)?);
//! # let _ = (model, doors);
//! # Ok(())
//! # }
//! ```
//!
//! Source: Ye, Zhang, Liu, Han, Yang, *IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image
//! Diffusion Models*, 2023, arXiv 2308.06721.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};

use super::attention::PictureProjection;
use super::clip_vision::{ClipVisionConfig, ClipVisionEncoder};
use super::model_folder::{ModelFolderError, Part};
use super::pipeline::StableDiffusion;
use super::weights::{Scope, Weights, WeightsError};
use nabla_kernels::linear::linear;
use resampler::Resampler;

pub mod resampler;

/// The reason why an IP-Adapter cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum IpAdapterError {
    /// The folder of the encoder of pictures.
    #[error(transparent)]
    Folder(#[from] ModelFolderError),
    /// The file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Another file.
    #[error(
        "{} holds no IP-Adapter: image_proj.proj.weight or image_proj.latents, and \
         ip_adapter.1.to_k_ip.weight were expected",
        .0.display()
    )]
    Other(PathBuf),
    /// It is for another model or encoder.
    #[error("the IP-Adapter {} is for another {whole}: {what} {found}, but {expected} were expected", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// The model, or the encoder of pictures.
        whole: &'static str,
        /// What does not fit.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The value that fits.
        expected: usize,
    },
    /// The picture has the wrong shape.
    #[error(
        "the picture for an IP-Adapter has the shape {found:?}, but it must be [1, 3, {size}, {size}]"
    )]
    Picture {
        /// Its shape.
        found: [usize; 4],
        /// The expected height and width.
        size: usize,
    },
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

/// An IP-Adapter; see the [module](self).
#[derive(Debug)]
pub struct IpAdapter {
    path: PathBuf,
    encoder: ClipVisionEncoder,
    tokens: TokenProjection,
    /// For each attention to the text.
    attentions: Vec<PictureProjection>,
}

/// From the encoder's result to tokens.
#[derive(Debug)]
enum TokenProjection {
    Linear(Box<LinearTokens>),
    Resampler(Box<Resampler>),
}

/// Tokens as parts of one linear layer's result.
#[derive(Module, Debug)]
struct LinearTokens {
    project: Linear,
    norm: LayerNorm,
    channels: usize,
}

/// A picture as a prompt.
#[derive(Clone, Debug)]
pub struct ImagePrompt {
    /// The picture's tokens, `[1, tokens, channels]`.
    pub(super) with: Tensor<3>,
    /// Those for no picture.
    pub(super) without: Tensor<3>,
    pub(super) scale: f64,
}

impl IpAdapter {
    /// Loads a file and its encoder of pictures for a model, in the model's precision and to its device.
    ///
    /// # Errors
    /// If a file is missing or holds something else, or is for another model or encoder.
    pub fn load(
        file: &Path,
        encoder: &Path,
        model: &StableDiffusion,
    ) -> Result<Self, IpAdapterError> {
        let weights = Weights::open(&[file.to_owned()], &model.device, model.precision)?;
        let root = weights.root();
        let wrong = |whole, what, found, expected| IpAdapterError::Model {
            path: file.to_owned(),
            whole,
            what,
            found,
            expected,
        };
        let first = root.shape("ip_adapter.1.to_k_ip.weight");
        let Some([_, context]) = first.as_deref() else {
            return Err(IpAdapterError::Other(file.to_owned()));
        };
        let expected = model.config.cross_attention_dim;
        if *context != expected {
            let what = "the channels of its tokens are";
            return Err(wrong("model", what, *context, expected));
        }
        let crossed = model.config.cross_attentions();
        let count = weights.names_below("ip_adapter.");
        let count = count
            .filter(|name| name.ends_with(".to_k_ip.weight"))
            .count();
        if count != crossed.len() {
            let what = "the number of its attentions is";
            return Err(wrong("model", what, count, crossed.len()));
        }
        let part = Part::open(encoder, "CLIPVisionModelWithProjection")?;
        let (encoder, config) = ClipVisionEncoder::load(&part, &model.device, model.precision)?;
        let tokens = TokenProjection::load(file, &config, *context, &root.at("image_proj"))?;
        let attentions = crossed.iter().enumerate().map(|(number, (_, width))| {
            // The attentions of positions to each other have the even numbers.
            let scope = root.at("ip_adapter").at(2 * number + 1);
            PictureProjection::load(&scope, *context, *width)
        });
        let attentions = attentions.collect::<Result<_, _>>()?;
        weights.finish(|_| false)?;
        Ok(Self {
            path: file.to_owned(),
            encoder,
            tokens,
            attentions,
        })
    }

    /// The file that it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Height and width of the pictures that it takes.
    pub fn picture_size(&self) -> usize {
        self.encoder.size()
    }

    /// A picture as a prompt.
    ///
    /// - `picture`: `[1, 3, size, size]` from 0 to 1, of the [size](Self::picture_size) that it takes
    /// - `scale`: how strongly it acts; 0 is not at all
    ///
    /// # Errors
    /// If the picture has another shape, or the scale is not finite.
    pub fn prompt(&self, picture: Tensor<4>, scale: f64) -> Result<ImagePrompt, IpAdapterError> {
        range::finite("scale of the IP-Adapter", scale)?;
        let (found, size) = (picture.dims(), self.picture_size());
        if found != [1, 3, size, size] {
            return Err(IpAdapterError::Picture { found, size });
        }
        let pixels = ClipVisionEncoder::normalize(picture);
        let [with, without] = match &self.tokens {
            TokenProjection::Linear(project) => {
                let embedding = self.encoder.forward(self.cast(pixels)).embedding;
                let none = embedding.zeros_like();
                [embedding, none].map(|embedding| project.forward(embedding))
            }
            TokenProjection::Resampler(resampler) => {
                let none = pixels.zeros_like();
                [pixels, none].map(|pixels| {
                    let state = self.encoder.forward(self.cast(pixels)).penultimate;
                    resampler.forward(state)
                })
            }
        };
        Ok(ImagePrompt {
            with,
            without,
            scale,
        })
    }

    /// Pixels in the precision and on the device of the encoder.
    fn cast(&self, pixels: Tensor<4>) -> Tensor<4> {
        let (device, dtype) = self.encoder.place();
        pixels.to_device(&device).cast(dtype)
    }
}

impl StableDiffusion {
    /// The same model with the projections of an IP-Adapter. Without a [prompt](IpAdapter::prompt) in a run,
    /// they have no effect; prompts are given in the order of the adapters.
    #[must_use]
    pub fn with_ip_adapter(mut self, adapter: &IpAdapter) -> Self {
        let attentions = self.unet.cross_attentions();
        for (attention, projection) in attentions.zip(&adapter.attentions) {
            attention.add_picture(projection.clone());
        }
        self.ip_adapters += 1;
        self
    }
}

impl TokenProjection {
    /// - `context`: channels of the tokens
    fn load(
        file: &Path,
        encoder: &ClipVisionConfig,
        context: usize,
        scope: &Scope<'_>,
    ) -> Result<Self, IpAdapterError> {
        let fits = |what, found, expected| match found == expected {
            true => Ok(()),
            false => Err(IpAdapterError::Model {
                path: file.to_owned(),
                whole: "encoder of pictures",
                what,
                found,
                expected,
            }),
        };
        if let Some([rows, input]) = scope.shape("proj.weight").as_deref() {
            let what = "the channels of the embedding that it takes are";
            fits(what, *input, encoder.projection_dim)?;
            return Ok(Self::Linear(Box::new(LinearTokens {
                project: scope.at("proj").linear(*input, *rows)?,
                norm: scope.at("norm").layer_norm(context, 1e-5)?,
                channels: context,
            })));
        }
        match scope.shape("proj_in.weight").as_deref() {
            Some([_, input]) if scope.has("latents") => {
                let what = "the channels of the states that it takes are";
                fits(what, *input, encoder.hidden_size)?;
                Ok(Self::Resampler(Box::new(Resampler::load(context, scope)?)))
            }
            _ => Err(IpAdapterError::Other(file.to_owned())),
        }
    }
}

impl LinearTokens {
    /// `[1, embedding]` to `[1, tokens, channels]`.
    fn forward(&self, embedding: Tensor<2>) -> Tensor<3> {
        let tokens = linear(&self.project, embedding);
        let [batch, all] = tokens.dims();
        self.norm
            .forward(tokens.reshape([batch, all / self.channels, self.channels]))
    }
}
