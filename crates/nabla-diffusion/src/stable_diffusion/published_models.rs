//! The sizes of the published models: Stable Diffusion 1.x, 2.x and XL.
//!
//! A folder describes its networks. A single-file checkpoint does not, and is assumed to be the published
//! model of its kind.
//!
//! | | 1.x | 2.x | XL |
//! |---|---|---|---|
//! | channels of the UNet | 320, 640, 1280, 1280 | the same | 320, 640, 1280 |
//! | layers of its transformers | 1, 1, 1, none | the same | none, 2, 10 |
//! | heads | 8 | of 64 channels | of 64 channels |
//! | text encoder | CLIP ViT-L | OpenCLIP ViT-H | CLIP ViT-L and OpenCLIP ViT-bigG |
//! | channels of the text | 768 | 1024 | 768 + 1280 |
//!
//! Sources: the configurations published with Rombach et al., 2022, arXiv 2112.10752, and Podell et al.,
//! *SDXL*, 2023, arXiv 2307.01952, as they are in `diffusers`.

use serde_json::json;

use super::autoencoder_kl::{AutoencoderKlConfig, SampleSize};
use super::clip_text::ClipTextConfig;
use super::clip_tokenizer::ClipFilling;
use super::unet2d_condition::{PerLevel, UNet2DConditionConfig};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishedModel {
    /// 1.1 to 1.5, and models trained from them.
    StableDiffusion1,
    /// 2.0 and 2.1.
    StableDiffusion2,
    /// XL 1.0, without its refiner.
    StableDiffusionXl,
}

impl PublishedModel {
    /// The model whose UNet attends to a text with this number of channels.
    ///
    /// ```
    /// use nabla_diffusion::stable_diffusion::published_models::PublishedModel;
    ///
    /// let model = PublishedModel::of_text_channels(2048);
    /// assert_eq!(model, Some(PublishedModel::StableDiffusionXl));
    /// assert_eq!(PublishedModel::of_text_channels(16), None);
    /// ```
    pub fn of_text_channels(channels: usize) -> Option<Self> {
        let all = [
            Self::StableDiffusion1,
            Self::StableDiffusion2,
            Self::StableDiffusionXl,
        ];
        all.into_iter()
            .find(|model| model.unet().cross_attention_dim == channels)
    }

    /// Its UNet, of 4 input channels.
    pub fn unet(self) -> UNet2DConditionConfig {
        let kinds = |kinds: &[&str]| kinds.iter().map(|&kind| kind.to_owned()).collect();
        let one = UNet2DConditionConfig {
            in_channels: 4,
            out_channels: 4,
            sample_size: Some(64),
            block_out_channels: vec![320, 640, 1280, 1280],
            down_block_types: kinds(&[
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "CrossAttnDownBlock2D",
                "DownBlock2D",
            ]),
            up_block_types: kinds(&[
                "UpBlock2D",
                "CrossAttnUpBlock2D",
                "CrossAttnUpBlock2D",
                "CrossAttnUpBlock2D",
            ]),
            layers_per_block: 2,
            attention_head_dim: PerLevel::All(8),
            cross_attention_dim: 768,
            transformer_layers_per_block: PerLevel::All(1),
            use_linear_projection: false,
            upcast_attention: false,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
        };
        match self {
            Self::StableDiffusion1 => one,
            Self::StableDiffusion2 => UNet2DConditionConfig {
                attention_head_dim: PerLevel::Each(vec![5, 10, 20, 20]),
                cross_attention_dim: 1024,
                use_linear_projection: true,
                // 2.1 needs this in 16 bits, and it does no harm to 2.0.
                upcast_attention: true,
                ..one
            },
            Self::StableDiffusionXl => UNet2DConditionConfig {
                sample_size: Some(128),
                block_out_channels: vec![320, 640, 1280],
                down_block_types: kinds(&[
                    "DownBlock2D",
                    "CrossAttnDownBlock2D",
                    "CrossAttnDownBlock2D",
                ]),
                up_block_types: kinds(&["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]),
                attention_head_dim: PerLevel::Each(vec![5, 10, 20]),
                cross_attention_dim: 2048,
                transformer_layers_per_block: PerLevel::Each(vec![1, 2, 10]),
                use_linear_projection: true,
                addition_embed_type: Some("text_time".to_owned()),
                addition_time_embed_dim: Some(256),
                projection_class_embeddings_input_dim: Some(2816),
                ..one
            },
        }
    }

    /// Its autoencoder. All have the same sizes; the autoencoder of XL was trained again, with another scale.
    pub fn autoencoder(self) -> AutoencoderKlConfig {
        let one = AutoencoderKlConfig {
            down_block_types: vec!["DownEncoderBlock2D".to_owned(); 4],
            up_block_types: vec!["UpDecoderBlock2D".to_owned(); 4],
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            sample_size: SampleSize::Square(512),
            ..AutoencoderKlConfig::default()
        };
        match self {
            Self::StableDiffusion1 => one,
            Self::StableDiffusion2 => AutoencoderKlConfig {
                sample_size: SampleSize::Square(768),
                ..one
            },
            Self::StableDiffusionXl => AutoencoderKlConfig {
                sample_size: SampleSize::Square(1024),
                scaling_factor: 0.13025,
                force_upcast: true,
                ..one
            },
        }
    }

    /// Its text encoders, each with the padding of the texts on which it was trained.
    pub fn text_encoders(self) -> Vec<(ClipTextConfig, ClipFilling)> {
        let large = ClipTextConfig {
            architectures: vec!["CLIPTextModel".to_owned()],
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            ..ClipTextConfig::default()
        };
        let huge = ClipTextConfig {
            architectures: vec!["CLIPTextModel".to_owned()],
            hidden_size: 1024,
            intermediate_size: 4096,
            // Its 24th layer is not used.
            num_hidden_layers: 23,
            num_attention_heads: 16,
            hidden_act: "gelu".to_owned(),
            ..ClipTextConfig::default()
        };
        let giant = ClipTextConfig {
            architectures: vec!["CLIPTextModelWithProjection".to_owned()],
            hidden_size: 1280,
            intermediate_size: 5120,
            projection_dim: 1280,
            num_hidden_layers: 32,
            num_attention_heads: 20,
            hidden_act: "gelu".to_owned(),
            ..ClipTextConfig::default()
        };
        match self {
            Self::StableDiffusion1 => vec![(large, ClipFilling::End)],
            Self::StableDiffusion2 => vec![(huge, ClipFilling::Zero)],
            Self::StableDiffusionXl => {
                vec![(large, ClipFilling::End), (giant, ClipFilling::Zero)]
            }
        }
    }

    /// Its `scheduler_config.json`.
    ///
    /// - `velocity`: whether it predicts the velocity instead of the noise
    /// - `zero_terminal_snr`: whether it was trained with a last step of pure noise
    pub fn scheduler(self, velocity: bool, zero_terminal_snr: bool) -> serde_json::Value {
        let prediction = match velocity {
            true => "v_prediction",
            false => "epsilon",
        };
        let mut config = json!({
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "num_train_timesteps": 1000,
            "prediction_type": prediction,
            "clip_sample": false,
            "set_alpha_to_one": false,
            "steps_offset": 1,
        });
        let class = match (self, prediction) {
            (Self::StableDiffusionXl, _) => "EulerDiscreteScheduler",
            (Self::StableDiffusion2, "v_prediction") => "DDIMScheduler",
            _ => "PNDMScheduler",
        };
        config["_class_name"] = json!(class);
        if self == Self::StableDiffusionXl {
            config["timestep_spacing"] = json!("leading");
        }
        if class == "PNDMScheduler" {
            config["skip_prk_steps"] = json!(true);
        }
        if zero_terminal_snr {
            config["rescale_betas_zero_snr"] = json!(true);
            // Without this, the step of pure noise would be left out.
            config["timestep_spacing"] = json!("trailing");
        }
        config
    }
}
