//! The files of a [ControlNet](super::control_net): its configuration, and the names of its tensors.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Map, Value, json};

use super::control_net::ControlNetError;
use super::latent_diffusion_names::LatentDiffusionNames;
use super::model_folder::{ModelFolderError, Part};
use super::pipeline::StableDiffusion;
use super::unet2d_condition::UNet2DConditionConfig;
use super::weights::{Precision, Weights};

/// The sizes of a ControlNet.
#[derive(Clone, Debug)]
pub(super) struct ControlNetConfig {
    /// The way down.
    pub(super) unet: UNet2DConditionConfig,
    /// Channels of the picture.
    pub(super) hint_channels: usize,
    /// Channels of the maps of the picture, the finest first.
    pub(super) hint_widths: Vec<usize>,
    /// Whether the picture's channels are in the order blue, green, red.
    pub(super) reversed: bool,
    /// Whether the outputs are averaged over all positions.
    pub(super) pooled: bool,
}

impl ControlNetConfig {
    /// By how many halvings the picture becomes a latent's size.
    pub(super) fn halvings(&self) -> usize {
        self.hint_widths.len() - 1
    }

    /// Checks that it is for this model.
    pub(super) fn check_model(
        &self,
        path: &Path,
        model: &StableDiffusion,
    ) -> Result<(), ControlNetError> {
        let (own, unet) = (&self.unet, &model.config);
        let numbers = |values: Option<usize>| match values {
            Some(value) => value.to_string(),
            None => "missing".to_owned(),
        };
        for (what, found, expected) in [
            (
                "number of channels of the latents",
                own.in_channels.to_string(),
                model.latent_channels.to_string(),
            ),
            (
                "number of channels of the text",
                own.cross_attention_dim.to_string(),
                unet.cross_attention_dim.to_string(),
            ),
            (
                "number of channels of the pooled text",
                numbers(own.pooled_text_channels()),
                numbers(unet.pooled_text_channels()),
            ),
            (
                "list of channels of the maps",
                format!("{:?}", own.skip_channels()),
                format!("{:?}", unet.skip_channels()),
            ),
            (
                "factor between pictures and latents",
                (1usize << self.halvings()).to_string(),
                model.factor().to_string(),
            ),
        ] {
            if found != expected {
                return Err(ControlNetError::Model {
                    path: path.to_owned(),
                    what,
                    found,
                    expected,
                });
            }
        }
        Ok(())
    }
}

/// A ControlNet's configuration, and its weights under the names of `diffusers`, none of them read yet.
#[derive(Debug)]
pub(super) struct ControlNetFiles {
    pub(super) config: ControlNetConfig,
    pub(super) weights: Weights,
}

/// The prefix of the original code's names.
const ORIGINAL: &str = "control_model.";

impl ControlNetFiles {
    /// - `unet`: the configuration of the model that a single file is for
    pub(super) fn open(
        path: &Path,
        unet: &UNet2DConditionConfig,
        device: &Device,
        precision: Precision,
    ) -> Result<Self, ControlNetError> {
        if path.is_dir() {
            let part = Part::open(path, "ControlNetModel")?;
            return Ok(Self {
                config: read_config(&part)?,
                weights: part.weights("diffusion_pytorch_model", device, precision)?,
            });
        }
        if !path.is_file() {
            return Err(ControlNetError::Nothing(path.to_owned()));
        }
        let weights = Weights::open(&[path.to_owned()], device, precision)?;
        let prefix = match weights.names_below(ORIGINAL).next() {
            Some(_) => ORIGINAL,
            None => "",
        };
        let has = |name: &str| weights.root().has(name);
        let weights = if has("controlnet_cond_embedding.conv_in.weight") {
            weights
        } else if has(&format!("{prefix}input_hint_block.0.weight")) {
            // The way up and the autoencoder have no part in it.
            let names = LatentDiffusionNames::new(unet, 1);
            weights.with_names(move |name| format!("{prefix}{}", original_name(&names, name)))
        } else {
            return Err(ControlNetError::Other(path.to_owned()));
        };
        Ok(Self {
            config: guessed_config(path, unet, &weights)?,
            weights,
        })
    }
}

/// The name in the original code.
fn original_name(names: &LatentDiffusionNames, name: &str) -> String {
    if let Some(rest) = name.strip_prefix("controlnet_down_blocks.")
        && let Some((number, rest)) = rest.split_once('.')
    {
        return format!("zero_convs.{number}.0.{rest}");
    }
    if let Some(rest) = name.strip_prefix("controlnet_mid_block.") {
        return format!("middle_block_out.0.{rest}");
    }
    if let Some(rest) = name.strip_prefix("controlnet_cond_embedding.") {
        // Every other one is an activation.
        if let Some(rest) = rest.strip_prefix("conv_in.") {
            return format!("input_hint_block.0.{rest}");
        }
        if let Some(rest) = rest.strip_prefix("conv_out.") {
            return format!("input_hint_block.14.{rest}");
        }
        let block = rest.strip_prefix("blocks.").and_then(|rest| {
            let (number, rest) = rest.split_once('.')?;
            let number: usize = number.parse().ok()?;
            Some(format!("input_hint_block.{}.{rest}", 2 * (number + 1)))
        });
        if let Some(block) = block {
            return block;
        }
    }
    names.find_in_unet(name).name().to_owned()
}

/// The sizes of a single file, as far as its tensors show them; the rest is the model's.
fn guessed_config(
    path: &Path,
    unet: &UNet2DConditionConfig,
    weights: &Weights,
) -> Result<ControlNetConfig, ControlNetError> {
    let root = weights.root();
    let channels = |name: &str| {
        let shape = root.shape(name)?;
        Some([*shape.first()?, *shape.get(1)?])
    };
    let hint = |name: String| channels(&format!("controlnet_cond_embedding.{name}.weight"));
    let other = || ControlNetError::Other(path.to_owned());
    let [first, hint_channels] = hint("conv_in".to_owned()).ok_or_else(other)?;
    let mut hint_widths = vec![first];
    while let Some([width, _]) = hint(format!("blocks.{}", 2 * hint_widths.len() - 1)) {
        hint_widths.push(width);
    }
    let [_, in_channels] = channels("conv_in.weight").ok_or_else(other)?;
    Ok(ControlNetConfig {
        unet: UNet2DConditionConfig {
            in_channels,
            out_channels: in_channels,
            ..unet.clone()
        },
        hint_channels,
        hint_widths,
        reversed: false,
        pooled: false,
    })
}

/// The configuration of a folder: that of a UNet's way down, and some keys more.
fn read_config(part: &Part) -> Result<ControlNetConfig, ModelFolderError> {
    part.check_class()?;
    let mut own = Map::new();
    let unet = UNet2DConditionConfig::read_adapted(part, |values| {
        for key in [
            "conditioning_channels",
            "conditioning_embedding_out_channels",
            "controlnet_conditioning_channel_order",
            "global_pool_conditions",
        ] {
            own.extend(values.remove_entry(key));
        }
        if let Some(channels) = values.get("in_channels").cloned() {
            values.insert("out_channels".to_owned(), channels);
        }
        // It has no way up.
        let levels = values.get("down_block_types").and_then(Value::as_array);
        let up = vec![json!("UpBlock2D"); levels.map_or(0, Vec::len)];
        values.insert("up_block_types".to_owned(), up.into());
    })?;
    let unsupported = |key: &str, value: &Value, expected: &str| {
        Err(part.unsupported(key, value, expected.to_owned()))
    };
    let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let hint_channels = match own.get("conditioning_channels") {
        None => 3,
        Some(value) => match number(value) {
            Some(channels) if channels > 0 => channels,
            _ => return unsupported("conditioning_channels", value, "it must be at least 1"),
        },
    };
    let key = "conditioning_embedding_out_channels";
    let hint_widths = match own.get(key) {
        None => vec![16, 32, 96, 256],
        Some(value) => {
            let widths = value.as_array().map(|v| v.iter().map(number).collect());
            match widths {
                Some(Some::<Vec<usize>>(widths)) if !widths.is_empty() && !widths.contains(&0) => {
                    widths
                }
                _ => return unsupported(key, value, "it must be a list of positive numbers"),
            }
        }
    };
    let key = "controlnet_conditioning_channel_order";
    let reversed = match own.get(key).map(Value::as_str) {
        None | Some(Some("rgb")) => false,
        Some(Some("bgr")) => true,
        Some(_) => return unsupported(key, &own[key], "it must be \"rgb\" or \"bgr\""),
    };
    Ok(ControlNetConfig {
        unet,
        hint_channels,
        hint_widths,
        reversed,
        pooled: own.get("global_pool_conditions") == Some(&Value::Bool(true)),
    })
}
