//! The names of Stable Diffusion's tensors in checkpoints of the original code.
//!
//! Our networks load their tensors by the names of the `diffusers` library. Single-file checkpoints use the
//! names of the code with which latent diffusion was published:
//!
//! | ours                                      | theirs                                                  |
//! |-------------------------------------------|---------------------------------------------------------|
//! | `unet.down_blocks.0.resnets.0.conv1`      | `model.diffusion_model.input_blocks.1.0.in_layers.2`    |
//! | `vae.decoder.up_blocks.0.resnets.0.conv1` | `first_stage_model.decoder.up.3.block.0.conv1`          |
//! | `text_encoder.text_model.….q_proj`        | `cond_stage_model.transformer.text_model.….q_proj` (1.x) |
//! |                                           | the first third of `cond_stage_model.model.….attn.in_proj_weight` (2.x) |
//! |                                           | `conditioner.embedders.0.transformer.text_model.….q_proj` (XL) |
//! | `text_encoder_2.text_model.….q_proj`      | the first third of `conditioner.embedders.1.model.….attn.in_proj_weight` (XL) |
//!
//! Their UNet numbers its blocks consecutively from the input, including the samplers between the levels.
//! Their autoencoder numbers levels from the finest, also on the way up. OpenCLIP stores the three
//! projections of an attention as one matrix, and the projection of the pooled text transposed.
//!
//! ```no_run
//! use burn::tensor::Device;
//! use nabla_diffusion::stable_diffusion::latent_diffusion_names::LatentDiffusionNames;
//! use nabla_diffusion::stable_diffusion::unet2d_condition::{UNet2DCondition, UNet2DConditionConfig};
//! use nabla_diffusion::stable_diffusion::weights::{Precision, Weights};
//!
//! let config: UNet2DConditionConfig = serde_json::from_str("…the sizes of SD 1.5…")?;
//! let names = LatentDiffusionNames::new(&config, 4);
//! let paths = ["v1-5-pruned-emaonly.ckpt".into()];
//! let weights = Weights::open(&paths, &Device::flex(), Precision::F16)?
//!     .with_names(move |name| names.find(name));
//! let unet = UNet2DCondition::from_scope(&config, &weights.root().at("unet"))?;
//! # let _ = unet;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: the names in the published checkpoints of Rombach et al., *High-Resolution Image Synthesis
//! with Latent Diffusion Models*, 2022, arXiv 2112.10752.

use super::unet2d_condition::UNet2DConditionConfig;
use super::weights::{Rows, Stored};

/// The names of one checkpoint; see the [module](self).
#[derive(Clone, Debug)]
pub struct LatentDiffusionNames {
    /// Residual blocks of a level of the UNet on the way down.
    layers: usize,
    /// Whether each level of the UNet has attention on the way up.
    attends_up: Vec<bool>,
    /// Levels of the autoencoder.
    autoencoder_levels: usize,
    texts: &'static [TextEncoderNames],
}

/// The tensors of a text encoder: the prefix of their names, and the naming scheme after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextEncoderNames {
    /// Those of `transformers`.
    Transformers(&'static str),
    /// OpenCLIP's.
    OpenClip(&'static str),
}

impl TextEncoderNames {
    /// The prefix of the names.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Transformers(prefix) | Self::OpenClip(prefix) => prefix,
        }
    }

    /// Of the tensor `name` of `transformers`; `None` if OpenCLIP has no such tensor.
    pub(super) fn find(self, name: &str) -> Option<Stored> {
        match self {
            Self::Transformers(prefix) => Some(Stored::from(format!("{prefix}{name}"))),
            Self::OpenClip(prefix) => Some(open_clip(name)?.below(prefix)),
        }
    }
}

/// The text encoder of Stable Diffusion 1.x.
pub(super) const TEXT_OF_1: &[TextEncoderNames] = &[TextEncoderNames::Transformers(
    "cond_stage_model.transformer.",
)];

/// That of 2.x.
pub(super) const TEXT_OF_2: &[TextEncoderNames] =
    &[TextEncoderNames::OpenClip("cond_stage_model.model.")];

/// The two of XL.
pub(super) const TEXTS_OF_XL: &[TextEncoderNames] = &[
    TextEncoderNames::Transformers("conditioner.embedders.0.transformer."),
    TextEncoderNames::OpenClip("conditioner.embedders.1.model."),
];

impl LatentDiffusionNames {
    /// The names in a checkpoint with this UNet and an autoencoder with `autoencoder_levels` levels.
    pub fn new(unet: &UNet2DConditionConfig, autoencoder_levels: usize) -> Self {
        Self {
            layers: unet.layers_per_block,
            attends_up: unet
                .up_block_types
                .iter()
                .map(|kind| kind.starts_with("CrossAttn"))
                .collect(),
            autoencoder_levels,
            texts: TEXT_OF_1,
        }
    }

    /// The same, with OpenCLIP's text encoder: Stable Diffusion 2.x.
    pub fn with_open_clip(self) -> Self {
        Self {
            texts: TEXT_OF_2,
            ..self
        }
    }

    /// The same, with the two text encoders of Stable Diffusion XL.
    pub fn with_both_text_encoders(self) -> Self {
        Self {
            texts: TEXTS_OF_XL,
            ..self
        }
    }

    /// The form of `name` in the checkpoint, where `name` starts with `unet.`, `vae.`, `text_encoder.` or
    /// `text_encoder_2.`; any other name is unchanged.
    pub fn find(&self, name: &str) -> Stored {
        let found = match name.split_once('.') {
            Some(("unet", rest)) => self.unet(rest).map(|there| {
                let there = format!("{UNET}{there}");
                Stored::from(there)
            }),
            Some(("vae", rest)) => Some(Stored::from(self.autoencoder(rest)).below(AUTOENCODER)),
            Some(("text_encoder", rest)) => self.texts.first().and_then(|text| text.find(rest)),
            Some(("text_encoder_2", rest)) => self.texts.get(1).and_then(|text| text.find(rest)),
            _ => None,
        };
        found.unwrap_or_else(|| Stored::from(name.to_owned()))
    }

    /// The form of the UNet's tensor `name`, without the common prefix of the UNet's names.
    pub fn find_in_unet(&self, name: &str) -> Stored {
        Stored::from(self.unet(name).unwrap_or_else(|| name.to_owned()))
    }

    /// Of the UNet, below its prefix.
    fn unet(&self, name: &str) -> Option<String> {
        for (ours, theirs) in [
            ("conv_in.", "input_blocks.0.0."),
            ("time_embedding.linear_1.", "time_embed.0."),
            ("time_embedding.linear_2.", "time_embed.2."),
            ("add_embedding.linear_1.", "label_emb.0.0."),
            ("add_embedding.linear_2.", "label_emb.0.2."),
            ("conv_norm_out.", "out.0."),
            ("conv_out.", "out.2."),
        ] {
            if let Some(rest) = name.strip_prefix(ours) {
                return Some(format!("{theirs}{rest}"));
            }
        }
        if let Some(rest) = name.strip_prefix("mid_block.") {
            let (kind, number, rest) = numbered(rest)?;
            return Some(match kind {
                "resnets" => format!("middle_block.{}.{}", 2 * number, residual_block(rest)),
                _ => format!("middle_block.1.{rest}"),
            });
        }
        let (way, level, rest) = numbered(name)?;
        let (kind, number, rest) = numbered(rest)?;
        let layers = self.layers;
        // A level has its blocks, followed by the sampler to the next level.
        let (blocks, first, last) = match way {
            "down_blocks" => {
                let first = 1 + level * (layers + 1);
                ("input_blocks", first, first + layers)
            }
            "up_blocks" => {
                let first = level * (layers + 1);
                ("output_blocks", first, first + layers)
            }
            _ => return None,
        };
        Some(match kind {
            "resnets" => format!("{blocks}.{}.0.{}", first + number, residual_block(rest)),
            "attentions" => format!("{blocks}.{}.1.{rest}", first + number),
            "downsamplers" => format!("{blocks}.{last}.0.op.{}", rest.strip_prefix("conv.")?),
            "upsamplers" => {
                // The sampler belongs to the level's last block, after its attention.
                let place = 1 + usize::from(*self.attends_up.get(level)?);
                format!("{blocks}.{last}.{place}.{rest}")
            }
            _ => return None,
        })
    }

    /// Of the autoencoder, below its prefix.
    fn autoencoder(&self, name: &str) -> String {
        let found = || {
            let (half, rest) = name.split_once('.')?;
            if rest.starts_with("fusion_layer_") {
                // StableSR's tensors have their own names.
                return Some(name.replace(".conv_shortcut.", ".conv_out."));
            }
            if let Some(rest) = rest.strip_prefix("mid_block.") {
                let (kind, number, rest) = numbered(rest)?;
                return Some(match kind {
                    "resnets" => {
                        format!("{half}.mid.block_{}.{}", number + 1, shortcut(rest))
                    }
                    _ => format!("{half}.mid.attn_1.{}", autoencoder_attention(rest)),
                });
            }
            if let Some(rest) = rest.strip_prefix("conv_norm_out.") {
                return Some(format!("{half}.norm_out.{rest}"));
            }
            let (way, level, rest) = numbered(rest)?;
            let (kind, number, rest) = numbered(rest)?;
            let (way, level) = match way {
                "down_blocks" => ("down", level),
                "up_blocks" => ("up", self.autoencoder_levels.checked_sub(level + 1)?),
                _ => return None,
            };
            Some(match kind {
                "resnets" => format!("{half}.{way}.{level}.block.{number}.{}", shortcut(rest)),
                "downsamplers" => format!("{half}.{way}.{level}.downsample.{rest}"),
                "upsamplers" => format!("{half}.{way}.{level}.upsample.{rest}"),
                _ => return None,
            })
        };
        found().unwrap_or_else(|| name.to_owned())
    }

    /// The form of the autoencoder's tensor `name`, which starts with `vae.`, in a file that contains nothing
    /// else.
    pub fn find_in_autoencoder(&self, name: &str) -> Stored {
        Stored::from(self.autoencoder(name.strip_prefix("vae.").unwrap_or(name)))
    }

    /// Whether `name` is a tensor of a checkpoint that no network needs: tables of the schedule, averages of
    /// the weights in addition to the weights themselves, tensors that only the training needs, and parts of
    /// the text encoder for other uses. The latter are the layer after the `text_layers` that the model uses
    /// (2.x uses the state before the last layer), the projection into the space of pictures, and tables of
    /// positions.
    pub fn is_spare(name: &str, text_layers: usize) -> bool {
        const TABLES: [&str; 17] = [
            "alphas_cumprod",
            "alphas_cumprod_prev",
            "betas",
            "cond_ids",
            "denoiser.sigmas",
            "global_step",
            "log_one_minus_alphas_cumprod",
            "logvar",
            "lvlb_weights",
            "model_ema",
            "scale_factor",
            "sqrt_alphas_cumprod",
            "sqrt_one_minus_alphas_cumprod",
            "sqrt_recip_alphas_cumprod",
            "sqrt_recipm1_alphas_cumprod",
            // These mark what the UNet predicts.
            "v_pred",
            "ztsnr",
        ];
        const BELOW: [&str; 7] = [
            "model_ema.",
            "posterior_",
            "loss.",
            "first_stage_model.loss.",
            "first_stage_model.model_ema.",
            "embedding_manager.",
            "usm_sharpener.",
        ];
        TABLES.contains(&name)
            || BELOW.iter().any(|below| name.starts_with(below))
            || is_spare_of_text_encoder(name, text_layers)
    }
}

/// The prefix of the UNet's tensors.
pub(super) const UNET: &str = "model.diffusion_model.";

/// The prefix of the autoencoder's tensors.
pub(super) const AUTOENCODER: &str = "first_stage_model.";

/// As [`LatentDiffusionNames::is_spare`].
fn is_spare_of_text_encoder(name: &str, layers: usize) -> bool {
    for prefix in ["cond_stage_model.", "conditioner.embedders.0."] {
        let Some(rest) = name.strip_prefix(prefix) else {
            continue;
        };
        // A single text encoder of 2.x; the pooled text is not used.
        let last_layer = rest
            .strip_prefix("model.transformer.resblocks.")
            .and_then(|rest| rest.split('.').next()?.parse::<usize>().ok())
            .is_some_and(|layer| layer == layers);
        let unused = [
            "logit_scale",
            "model.attn_mask",
            "model.logit_scale",
            "model.text_projection",
            "model.text_projection.weight",
            "text_projection",
            "transformer.embeddings.position_ids",
            "transformer.text_model.embeddings.position_ids",
            "transformer.text_projection.weight",
        ];
        return last_layer || unused.contains(&rest);
    }
    let rest = name.strip_prefix("conditioner.embedders.1.model.");
    rest.is_some_and(|rest| ["attn_mask", "logit_scale"].contains(&rest))
}

/// `resnets.3.conv1.weight` as `("resnets", 3, "conv1.weight")`.
fn numbered(name: &str) -> Option<(&str, usize, &str)> {
    let mut parts = name.splitn(3, '.');
    Some((parts.next()?, parts.next()?.parse().ok()?, parts.next()?))
}

/// Of a residual block of the UNet; other names within it stay.
pub(super) fn residual_block(name: &str) -> String {
    const NAMES: [(&str, &str); 6] = [
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("time_emb_proj", "emb_layers.1"),
        ("norm2", "out_layers.0"),
        ("conv2", "out_layers.3"),
        ("conv_shortcut", "skip_connection"),
    ];
    first_renamed(name, &NAMES)
}

/// Of a residual block of the autoencoder.
fn shortcut(name: &str) -> String {
    first_renamed(name, &[("conv_shortcut", "nin_shortcut")])
}

fn autoencoder_attention(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("to_out.0.") {
        return format!("proj_out.{rest}");
    }
    const NAMES: [(&str, &str); 4] = [
        ("group_norm", "norm"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
    ];
    first_renamed(name, &NAMES)
}

/// `name` with its first part renamed, if that is in `names`.
fn first_renamed(name: &str, names: &[(&str, &str)]) -> String {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    match names.iter().find(|(ours, _)| *ours == first) {
        Some((_, theirs)) => format!("{theirs}.{rest}"),
        None => name.to_owned(),
    }
}

/// Of OpenCLIP's text encoder.
fn open_clip(name: &str) -> Option<Stored> {
    if name == "text_projection.weight" {
        return Some(Stored::transposed("text_projection"));
    }
    let name = name.strip_prefix("text_model.")?;
    for (ours, theirs) in [
        (
            "embeddings.token_embedding.weight",
            "token_embedding.weight",
        ),
        (
            "embeddings.position_embedding.weight",
            "positional_embedding",
        ),
        ("final_layer_norm.weight", "ln_final.weight"),
        ("final_layer_norm.bias", "ln_final.bias"),
    ] {
        if name == ours {
            return Some(Stored::from(theirs.to_owned()));
        }
    }
    let (_, layer, rest) = numbered(name.strip_prefix("encoder.")?)?;
    let layer = format!("transformer.resblocks.{layer}");
    if let Some(rest) = rest.strip_prefix("self_attn.") {
        let (projection, number) = rest.split_once('.')?;
        let part = match projection {
            "q_proj" => 0,
            "k_proj" => 1,
            "v_proj" => 2,
            _ => return Some(Stored::from(format!("{layer}.attn.{rest}"))),
        };
        let fused = format!("{layer}.attn.in_proj_{number}");
        return Some(Stored::rows(fused, Rows::part(part, 3)));
    }
    let rest = match rest.strip_prefix("mlp.") {
        Some(rest) => {
            let rest = first_renamed(rest, &[("fc1", "c_fc"), ("fc2", "c_proj")]);
            format!("mlp.{rest}")
        }
        None => first_renamed(rest, &[("layer_norm1", "ln_1"), ("layer_norm2", "ln_2")]),
    };
    Some(Stored::from(format!("{layer}.{rest}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::stable_sr::StableSrConfig;
    use super::*;

    /// Stable Diffusion 1.x and 2.x have the same levels and blocks.
    fn names() -> LatentDiffusionNames {
        LatentDiffusionNames::new(&StableSrConfig::default().unet, 4)
    }

    /// By the conversion of `diffusers`, from the names of the original modules.
    #[test]
    fn names_are_those_of_the_original_code() {
        let text = include_str!("../../tests/reference/tiny/stable_sr/names.json");
        let parts: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(text).unwrap();
        let mut count = 0;
        for (part, prefix) in [
            ("unet", "model.diffusion_model."),
            ("vae", "first_stage_model."),
            ("text_encoder", "cond_stage_model.model."),
        ] {
            for (ours, theirs) in &parts[part] {
                let found = names().with_open_clip().find(&format!("{part}.{ours}"));
                assert_eq!(found.name(), format!("{prefix}{theirs}"), "{part}.{ours}");
                count += 1;
            }
        }
        assert!(count > 130, "{count}");
    }

    #[test]
    fn open_clip_keeps_three_projections_as_one() {
        let names = names().with_open_clip();
        for (part, projection) in ["q_proj", "k_proj", "v_proj"].iter().enumerate() {
            let ours = format!("text_encoder.text_model.encoder.layers.7.self_attn.{projection}");
            let theirs = "cond_stage_model.model.transformer.resblocks.7.attn.in_proj";
            for number in ["weight", "bias"] {
                let found = names.find(&format!("{ours}.{number}"));
                let expected = Stored::rows(format!("{theirs}_{number}"), Rows::part(part, 3));
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn the_text_encoder_of_1_x_has_its_names_behind_a_prefix() {
        let found = names().find("text_encoder.text_model.final_layer_norm.bias");
        assert_eq!(
            found.name(),
            "cond_stage_model.transformer.text_model.final_layer_norm.bias"
        );
        assert_eq!(names().find("other.name").name(), "other.name");
    }

    #[test]
    fn only_what_no_network_needs_is_spare() {
        for name in [
            "betas",
            "posterior_mean_coef1",
            "model_ema.decay",
            "model_ema.diffusion_modelinput_blocks00weight",
            "cond_stage_model.model.transformer.resblocks.23.ln_1.weight",
            "cond_stage_model.model.logit_scale",
        ] {
            assert!(LatentDiffusionNames::is_spare(name, 23), "{name}");
        }
        for name in [
            "model.diffusion_model.out.3.weight",
            "first_stage_model.encoder.extra",
            "cond_stage_model.model.transformer.resblocks.22.ln_1.weight",
            "cond_stage_model.model.transformer.resblocks.24.ln_1.weight",
            "betas.more",
        ] {
            assert!(!LatentDiffusionNames::is_spare(name, 23), "{name}");
        }
    }
}
