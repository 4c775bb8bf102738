//! The parts of a text-to-picture model: the configuration of every part, and the weights.
//!
//! A [folder](super::model_folder) has them in separate files. A [single-file checkpoint](super::single_file)
//! has only the weights of all networks; the rest is known, or comes from elsewhere.
//! [`StableDiffusion`](super::pipeline::StableDiffusion) is built from these parts, whatever their source.

use burn::tensor::Device;
use serde_json::Value;

use super::autoencoder_kl::{AutoencoderKl, AutoencoderKlConfig};
use super::clip_text::{ClipTextConfig, ClipTextEncoder};
use super::clip_tokenizer::ClipTokenizer;
use super::lora::LoraTarget;
use super::model_folder::{ModelFolder, ModelFolderError};
use super::scheduler_config::SchedulerConfig;
use super::unet2d_condition::UNet2DConditionConfig;
use super::weights::{Precision, Weights};

/// The names of a tokenizer and its text encoder, and the encoder as the target of a LoRA.
const TEXTS: [(&str, &str, LoraTarget); 2] = [
    ("tokenizer", "text_encoder", LoraTarget::TextEncoder),
    ("tokenizer_2", "text_encoder_2", LoraTarget::TextEncoder2),
];

/// The configuration of a model, without its weights.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The schedule and the sampler.
    pub scheduler: SchedulerConfig,
    /// Text encoders, in the order in which their states are concatenated.
    pub texts: Vec<TextConfig>,
    /// The UNet.
    pub unet: UNet2DConditionConfig,
    /// The autoencoder.
    pub autoencoder: AutoencoderKlConfig,
    /// Whether a missing negative prompt means zeros instead of an empty text.
    pub zeros_for_nothing: bool,
}

/// A text encoder and its tokenizer.
#[derive(Clone, Debug)]
pub struct TextConfig {
    /// Which of the two it is.
    pub target: LoraTarget,
    /// Its tokenizer.
    pub tokenizer: ClipTokenizer,
    /// Its sizes.
    pub encoder: ClipTextConfig,
}

/// The weights of a model's networks, none of them read yet.
#[derive(Debug)]
pub struct ModelWeights {
    /// The weights of each of [`ModelConfig::texts`].
    pub texts: Vec<Weights>,
    /// The weights of the UNet.
    pub unet: Weights,
    /// The weights of the autoencoder.
    pub autoencoder: Weights,
}

impl ModelConfig {
    /// The configuration of a folder, which need not contain weights.
    ///
    /// # Errors
    /// If a file is missing, or belongs to a model that is not implemented.
    pub fn of_folder(folder: &ModelFolder) -> Result<Self, ModelFolderError> {
        let scheduler = SchedulerConfig::load(&folder.part("scheduler", &[])?)?;
        let mut texts = Vec::new();
        for (tokenizer, encoder, target) in TEXTS {
            if !folder.has(encoder) {
                continue;
            }
            let classes = ["CLIPTextModel", "CLIPTextModelWithProjection"];
            let encoder = ClipTextConfig::read(&folder.part(encoder, &classes)?)?;
            let classes = ["CLIPTokenizer", "CLIPTokenizerFast"];
            texts.push(TextConfig {
                target,
                tokenizer: ClipTokenizer::load(&folder.part(tokenizer, &classes)?)?,
                encoder,
            });
        }
        let unet = folder.part("unet", &["UNet2DConditionModel"])?;
        let autoencoder = folder.part("vae", &["AutoencoderKL"])?;
        Ok(Self {
            scheduler,
            texts,
            unet: UNet2DConditionConfig::read(&unet)?,
            autoencoder: AutoencoderKlConfig::read(&autoencoder)?,
            zeros_for_nothing: folder.option("force_zeros_for_empty_prompt")?
                == Some(Value::Bool(true)),
        })
    }

    /// Why its parts do not fit together, if they do not.
    pub fn fault(&self) -> Option<String> {
        let width: usize = self.texts.iter().map(|text| text.encoder.hidden_size).sum();
        if width != self.unet.cross_attention_dim {
            return Some(format!(
                "the text encoders give {width} channels, but the UNet takes {}",
                self.unet.cross_attention_dim
            ));
        }
        let projects = self.texts.iter().filter(|text| text.encoder.projects());
        let pooled = projects.last().map(|text| text.encoder.projection_dim);
        let taken = self.unet.pooled_text_channels();
        if taken.is_some() && taken != pooled {
            return Some(format!(
                "the pooled text has {} channels, but the UNet takes {}",
                pooled.unwrap_or(0),
                taken.unwrap_or(0)
            ));
        }
        let latent = self.autoencoder.latent_channels;
        let (input, output) = (self.unet.in_channels, self.unet.out_channels);
        // An inpainting UNet also gets a mask and a masked latent.
        if output != latent || ![latent, 2 * latent + 1].contains(&input) {
            return Some(format!(
                "the latent has {latent} channels, but the UNet takes {input} and gives {output}"
            ));
        }
        None
    }
}

impl ModelWeights {
    /// The weights of a folder with this configuration.
    ///
    /// # Errors
    /// If there are no weights, or they cannot be read.
    pub fn of_folder(
        folder: &ModelFolder,
        config: &ModelConfig,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, ModelFolderError> {
        let texts = TEXTS.iter().filter(|(_, encoder, _)| folder.has(encoder));
        let texts = texts.map(|(_, encoder, _)| {
            let part = folder.part(encoder, &[])?;
            ClipTextEncoder::weights(&part, device, precision)
        });
        let unet = folder.part("unet", &[])?;
        let autoencoder = folder.part("vae", &[])?;
        Ok(Self {
            texts: texts.collect::<Result<_, _>>()?,
            unet: unet.weights("diffusion_pytorch_model", device, precision)?,
            autoencoder: AutoencoderKl::weights(
                &config.autoencoder,
                &autoencoder,
                device,
                precision,
            )?,
        })
    }
}
