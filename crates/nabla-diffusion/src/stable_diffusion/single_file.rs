//! A single-file checkpoint (`.safetensors` or `.ckpt`), as Stable Diffusion was first published and as
//! people still exchange models, with the names of [the original code](super::latent_diffusion_names).
//!
//! ```text
//! model.diffusion_model.…               UNet
//! first_stage_model.…                   autoencoder
//! cond_stage_model.transformer.…        text encoder of 1.x
//! cond_stage_model.model.…              text encoder of 2.x, or conditioner.embedders.0.model.…
//! conditioner.embedders.0.transformer.… first text encoder of XL
//! conditioner.embedders.1.model.…       second text encoder of XL
//! ```
//!
//! Such a file has only weights. By default, it is assumed to be the [published
//! model](super::published_models) whose UNet attends to a text with the same number of channels, with its
//! number of input channels (9 are for inpainting) and CLIP's own vocabulary. A folder of configurations in
//! the diffusers layout, which needs no weights, overrides this.
//!
//! The file does not say what the UNet predicts. As in other programs, a 2.x model with 4 input channels is
//! assumed to predict the velocity if the standard deviation of a bias in its last transformer is more than
//! 0.09. An XL model is assumed to predict the velocity if the file has a tensor `v_pred`; if it also has a
//! tensor `ztsnr`, its schedule ends in pure noise. [`LoadOptions::prediction`](super::pipeline::LoadOptions)
//! overrides this.
//!
//! A tensor that belongs to no network and is not on the list of those to ignore (averages of the training,
//! tables of the schedule) is an error that names it.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use nabla_diffusion::stable_diffusion::pipeline::{LoadOptions, StableDiffusion};
//! use nabla_diffusion::stable_diffusion::single_file::SingleFile;
//!
//! let file = SingleFile::open("v1-5-pruned-emaonly.safetensors".as_ref(), None)?;
//! let model = StableDiffusion::load_file(&file, &Device::flex(), &LoadOptions::default())?;
//! # let _ = model;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::clip_tokenizer::ClipTokenizer;
use super::latent_diffusion_names::{
    AUTOENCODER, LatentDiffusionNames, TEXT_OF_1, TEXT_OF_2, TEXTS_OF_XL, TextEncoderNames, UNET,
};
use super::lora::LoraTarget;
use super::model_folder::{ModelFolder, ModelFolderError};
use super::model_parts::{ModelConfig, ModelWeights, TextConfig};
use super::published_models::PublishedModel;
use super::scheduler_config::SchedulerConfig;
use super::weights::{Precision, Stored, Weights, WeightsError};

/// If the spread of [`SPREAD_OF`] is above this, a 2.x model predicts the velocity.
const VELOCITY_SPREAD: f64 = 0.09;

/// Below the UNet's prefix.
const SPREAD_OF: &str = "output_blocks.11.1.transformer_blocks.0.norm1.bias";

/// The reason why a file is not a usable model.
#[derive(Debug, thiserror::Error)]
pub enum SingleFileError {
    /// The file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The configuration.
    #[error(transparent)]
    Folder(#[from] ModelFolderError),
    /// A required network is missing.
    #[error("{} holds no {network}: none of its tensors is called {names}", path.display())]
    Lacks {
        /// The file.
        path: PathBuf,
        /// The network.
        network: &'static str,
        /// The expected names of its tensors.
        names: &'static str,
    },
    /// The file is another model.
    #[error("{} is a model that is not implemented: {reason}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The text encoders do not match the configuration.
    #[error("the number of text encoders in {} is {found}, but the model has {expected}", path.display())]
    TextEncoders {
        /// The file.
        path: PathBuf,
        /// The number that was found.
        found: usize,
        /// The required number.
        expected: usize,
    },
}

/// A checkpoint; see the [module](self).
#[derive(Clone, Debug)]
pub struct SingleFile {
    path: PathBuf,
    config: Option<ModelFolder>,
}

/// The text encoders of XL, of 1.x and of 2.x, in the order in which they are searched for.
const TEXT_ENCODERS: [&[TextEncoderNames]; 4] = [
    TEXTS_OF_XL,
    TEXT_OF_1,
    TEXT_OF_2,
    &[TextEncoderNames::OpenClip("conditioner.embedders.0.model.")],
];

/// The weights of a text encoder alone, with the names of `diffusers`.
fn text_encoder(names: TextEncoderNames, weights: Weights) -> Weights {
    let prefix = names.prefix();
    let same = move |name: &str| format!("{prefix}{name}");
    let known = move |name: &str| {
        let found = names.find(name);
        found.unwrap_or_else(|| Stored::from(same(name)))
    };
    let weights = weights.with_names(known);
    match names {
        // Early files lack the outermost name.
        TextEncoderNames::Transformers(_) => {
            weights.with_names(move |name| same(name.strip_prefix("text_model.").unwrap_or(name)))
        }
        // Some programs write the projection as transformers has it.
        TextEncoderNames::OpenClip(_) => weights.with_names(same),
    }
}

impl SingleFile {
    /// Opens the checkpoint `path`, without reading it yet.
    ///
    /// - `config`: a folder in the diffusers layout, for a model with other sizes than the published ones
    ///
    /// # Errors
    /// If the folder is not a model folder.
    pub fn open(path: &Path, config: Option<&Path>) -> Result<Self, SingleFileError> {
        Ok(Self {
            path: path.to_owned(),
            config: config.map(ModelFolder::open).transpose()?,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The parts of the model.
    ///
    /// # Errors
    /// If the file cannot be read, lacks a network, is a model that is not implemented, or contains a tensor
    /// that belongs to no network.
    pub fn parts(
        &self,
        device: &Device,
        precision: Precision,
    ) -> Result<(ModelConfig, ModelWeights), SingleFileError> {
        let all = Weights::open(std::slice::from_ref(&self.path), device, precision)?;
        let has = |prefix: &str| all.names_below(prefix).next().is_some();
        for (network, prefix, names) in [
            ("UNet", UNET, "model.diffusion_model.…"),
            ("autoencoder", AUTOENCODER, "first_stage_model.…"),
        ] {
            if !has(prefix) {
                return Err(self.lacks(network, names));
            }
        }
        let mut encoders = TEXT_ENCODERS.into_iter();
        let encoders = encoders.find(|names| names.iter().all(|names| has(names.prefix())));
        let Some(encoders) = encoders else {
            return Err(self.lacks(
                "text encoder",
                "cond_stage_model.… or conditioner.embedders.…",
            ));
        };
        let config = match &self.config {
            Some(folder) => ModelConfig::of_folder(folder)?,
            None => self.published(&all)?,
        };
        if encoders.len() != config.texts.len() {
            return Err(SingleFileError::TextEncoders {
                path: self.path.clone(),
                found: encoders.len(),
                expected: config.texts.len(),
            });
        }
        let layers = config.texts[0].encoder.num_hidden_layers;
        let networks = [UNET, AUTOENCODER].into_iter();
        let networks: Vec<&str> = networks
            .chain(encoders.iter().map(|names| names.prefix()))
            .collect();
        let spare = |name: &str| LatentDiffusionNames::is_spare(name, layers);
        all.finish(|name| spare(name) || networks.iter().any(|below| name.starts_with(below)))?;

        let levels = config.autoencoder.block_out_channels.len();
        let names = LatentDiffusionNames::new(&config.unet, levels);
        let network = |prefix: &'static str, precision| {
            all.only(|name| name.starts_with(prefix) && !spare(name), precision)
        };
        let unet_names = names.clone();
        let weights = ModelWeights {
            texts: encoders
                .iter()
                .map(|&names| text_encoder(names, network(names.prefix(), precision)))
                .collect(),
            unet: network(UNET, precision)
                .with_names(move |name| unet_names.find_in_unet(name).below(UNET)),
            autoencoder: network(AUTOENCODER, config.autoencoder.precision(precision))
                .with_names(move |name| names.find_in_autoencoder(name).below(AUTOENCODER)),
        };
        Ok((config, weights))
    }

    fn lacks(&self, network: &'static str, names: &'static str) -> SingleFileError {
        SingleFileError::Lacks {
            path: self.path.clone(),
            network,
            names,
        }
    }

    fn unknown(&self, reason: impl Into<String>) -> SingleFileError {
        SingleFileError::Model {
            path: self.path.clone(),
            reason: reason.into(),
        }
    }

    /// The configuration of the published model with the file's shapes.
    fn published(&self, all: &Weights) -> Result<ModelConfig, SingleFileError> {
        let root = all.root();
        for name in ["edm_mean", "edm_vpred.sigma_max"] {
            if root.has(name) {
                return Err(self.unknown(format!(
                    "its tensor {name} belongs to a schedule of continuous noise levels"
                )));
            }
        }
        let mut names = all.names_below(UNET);
        let keys = names.find(|name| name.ends_with(".attn2.to_k.weight"));
        let channels = keys.and_then(|name| root.shape(name)?.get(1).copied());
        let Some(channels) = channels else {
            return Err(self.unknown("its UNet attends to no text"));
        };
        let Some(model) = PublishedModel::of_text_channels(channels) else {
            let hint = match channels {
                1280 => " (the refiner of SDXL takes 1280)",
                _ => " (a folder of configurations can tell more of it)",
            };
            return Err(self.unknown(format!(
                "its UNet takes a text of {channels} channels, not 768, 1024 or 2048{hint}"
            )));
        };
        let mut unet = model.unet();
        let first = root.shape(&format!("{UNET}input_blocks.0.0.weight"));
        if let Some(&[_, channels, ..]) = first.as_deref() {
            unet.in_channels = channels;
        }
        let velocity = match model {
            PublishedModel::StableDiffusion1 => false,
            PublishedModel::StableDiffusion2 => {
                unet.in_channels == 4 && self.spread(all)? > VELOCITY_SPREAD
            }
            PublishedModel::StableDiffusionXl => root.has("v_pred"),
        };
        if model == PublishedModel::StableDiffusion2 && velocity {
            unet.sample_size = Some(96);
        }
        let scheduler = model.scheduler(velocity, velocity && root.has("ztsnr"));
        let targets = [LoraTarget::TextEncoder, LoraTarget::TextEncoder2];
        let texts = model.text_encoders().into_iter().zip(targets);
        let texts = texts.map(|((encoder, filling), target)| {
            let tokenizer = ClipTokenizer::published(filling)?;
            Ok(TextConfig {
                target,
                tokenizer,
                encoder,
            })
        });
        Ok(ModelConfig {
            scheduler: SchedulerConfig::from_values(&self.path, scheduler)?,
            texts: texts.collect::<Result<_, ModelFolderError>>()?,
            unet,
            autoencoder: model.autoencoder(),
            zeros_for_nothing: model == PublishedModel::StableDiffusionXl,
        })
    }

    /// The standard deviation of [`SPREAD_OF`]; 0 if there is none.
    fn spread(&self, all: &Weights) -> Result<f64, WeightsError> {
        let (root, name) = (all.root(), format!("{UNET}{SPREAD_OF}"));
        if !root.has(&name) {
            return Ok(0.0);
        }
        let (values, _) = root.values(&name)?;
        let count = values.len().max(1) as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
        let square = |&v: &f32| (f64::from(v) - mean).powi(2);
        Ok((values.iter().map(square).sum::<f64>() / count).sqrt())
    }
}
