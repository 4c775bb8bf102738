//! CLIP's encoder of pictures, which turns a picture into one vector and a sequence of them.
//!
//! ```text
//! h₀ = norm([class, patches W] + P),   hᵢ₊₁ = layer(hᵢ),   embedding = W_p norm(h_layers at the class)
//! ```
//!
//! A patch is a square of 14 x 14 pixels or so; attention is not causal.
//! [IP-Adapters](super::ip_adapter) read the embedding, or the state before the last layer.
//!
//! Source: Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, 2021,
//! arXiv 2103.00020.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{LayerNorm, Linear, PaddingConfig2d};
use burn::tensor::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::json;

use super::clip_layer::{Activation, ClipLayer, ClipLayerSizes};
use super::clip_text::SILENT;
use super::model_folder::{ModelFolderError, Part};
use super::weights::{Precision, Scope, WeightsError};
use nabla_kernels::convolution::conv2d;
use nabla_kernels::linear::linear;

/// The mean of the pixels of CLIP's training pictures, in the order red, green, blue.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];

/// Their standard deviation.
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// An encoder's sizes, as in its `config.json`. Missing keys have the defaults of `transformers`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Height and width of the pictures.
    pub image_size: usize,
    /// Height and width of a patch.
    pub patch_size: usize,
    /// Channels.
    pub hidden_size: usize,
    /// Channels within the two linear layers that follow an attention.
    pub intermediate_size: usize,
    /// Channels of the embedding.
    pub projection_dim: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of an attention.
    pub num_attention_heads: usize,
    /// `quick_gelu`, or `gelu`.
    pub hidden_act: String,
    /// The constant added to a variance.
    pub layer_norm_eps: f64,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            image_size: 224,
            patch_size: 32,
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
        }
    }
}

impl ClipVisionConfig {
    /// Reads and checks a part's configuration.
    ///
    /// # Errors
    /// If the file is missing, or holds an option that is not implemented.
    pub fn read(part: &Part) -> Result<Self, ModelFolderError> {
        let silent: Vec<&str> = SILENT.iter().copied().chain(["architectures"]).collect();
        let config: Self = part.config("config.json", &silent, &[("num_channels", json!(3))])?;
        if Activation::named(&config.hidden_act).is_none() {
            let expected = "only quick_gelu and gelu are implemented";
            return Err(part.unsupported("hidden_act", &config.hidden_act, expected));
        }
        for (key, value, of) in [
            (
                "num_attention_heads",
                config.num_attention_heads,
                ("hidden_size", config.hidden_size),
            ),
            (
                "patch_size",
                config.patch_size,
                ("image_size", config.image_size),
            ),
        ] {
            if value == 0 || of.1 == 0 || of.1 % value != 0 {
                let expected = format!("it must divide {} = {}", of.0, of.1);
                return Err(part.unsupported(key, value, expected));
            }
        }
        if config.num_hidden_layers == 0 {
            return Err(part.unsupported("num_hidden_layers", 0, "it must be at least 1"));
        }
        Ok(config)
    }

    fn layer(&self) -> ClipLayerSizes {
        ClipLayerSizes {
            channels: self.hidden_size,
            inner: self.intermediate_size,
            heads: self.num_attention_heads,
            epsilon: self.layer_norm_eps,
            activation: Activation::named(&self.hidden_act).unwrap_or_default(),
        }
    }
}

/// The result of encoding a picture.
#[derive(Clone, Debug)]
pub struct ClipVisionOutput {
    /// `[batch, projection_dim]`
    pub embedding: Tensor<2>,
    /// The state before the last layer, `[batch, 1 + patches, channels]`.
    pub penultimate: Tensor<3>,
}

/// The encoder; see the [module](self).
#[derive(Module, Debug)]
pub struct ClipVisionEncoder {
    class: Tensor<3>,
    patches: Conv2d,
    positions: Tensor<3>,
    norm_in: LayerNorm,
    layers: Vec<ClipLayer>,
    norm_out: LayerNorm,
    projection: Linear,
    size: usize,
}

impl ClipVisionEncoder {
    /// Loads the encoder of a folder, a `CLIPVisionModelWithProjection`, with its configuration.
    ///
    /// # Errors
    /// If a file is missing, the configuration or the weights are for another network.
    pub fn load(
        part: &Part,
        device: &Device,
        precision: Precision,
    ) -> Result<(Self, ClipVisionConfig), ModelFolderError> {
        let config = ClipVisionConfig::read(part)?;
        let weights = part.weights("model", device, precision)?;
        let encoder = Self::from_scope(&config, &weights.root())?;
        // Older files have a table of 0, 1, 2 …
        weights.finish(|name| name.ends_with("embeddings.position_ids"))?;
        Ok((encoder, config))
    }

    /// Loads the encoder from the weights below a prefix.
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn from_scope(config: &ClipVisionConfig, scope: &Scope<'_>) -> Result<Self, WeightsError> {
        let vision = scope.at("vision_model");
        let (channels, patch) = (config.hidden_size, config.patch_size);
        let table = vision.at("embeddings");
        let positions = 1 + (config.image_size / patch).pow(2);
        // The name is misspelt in the published files.
        let norm = |name| vision.at(name).layer_norm(channels, config.layer_norm_eps);
        let weight = table
            .at("patch_embedding")
            .tensor("weight", [channels, 3, patch, patch])?;
        Ok(Self {
            class: table.tensor("class_embedding", [channels])?.unsqueeze(),
            patches: Conv2d {
                weight: burn::module::Param::from_tensor(weight),
                bias: None,
                stride: [patch; 2],
                kernel_size: [patch; 2],
                dilation: [1; 2],
                groups: 1,
                padding: PaddingConfig2d::Valid,
            },
            positions: table
                .at("position_embedding")
                .tensor("weight", [positions, channels])?
                .unsqueeze(),
            norm_in: norm("pre_layrnorm")?,
            layers: (0..config.num_hidden_layers)
                .map(|i| ClipLayer::load(config.layer(), &vision.at("encoder.layers").at(i)))
                .collect::<Result<_, _>>()?,
            norm_out: norm("post_layernorm")?,
            projection: scope
                .at("visual_projection")
                .linear_without_bias(channels, config.projection_dim)?,
            size: config.image_size,
        })
    }

    /// Height and width of the pictures that it takes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Where and in which precision it computes.
    pub(super) fn place(&self) -> (Device, DType) {
        (self.positions.device(), self.positions.dtype())
    }

    /// Pixels from 0 to 1 as the encoder takes them, by the mean and the deviation of CLIP's training pictures.
    ///
    /// - `picture`: `[batch, 3, height, width]`
    pub fn normalize(picture: Tensor<4>) -> Tensor<4> {
        let device = picture.device();
        let of = |values: [f32; 3]| Tensor::<1>::from_floats(values, &device).reshape([1, 3, 1, 1]);
        (picture - of(MEAN)) / of(DEVIATION)
    }

    /// Encodes pictures.
    ///
    /// - `pixels`: [normalized](Self::normalize), `[batch, 3, size, size]`
    pub fn forward(&self, pixels: Tensor<4>) -> ClipVisionOutput {
        let patches = conv2d(&self.patches, pixels);
        let [batch, channels, height, width] = patches.dims();
        let patches = patches
            .reshape([batch, channels, height * width])
            .swap_dims(1, 2); // [batch, patches, channels]
        let class = self.class.clone().repeat_dim(0, batch);
        let mut state = Tensor::cat(vec![class, patches], 1) + self.positions.clone();
        state = self.norm_in.forward(state);
        let mut penultimate = state.clone();
        for layer in &self.layers {
            penultimate = state.clone();
            state = layer.forward(state, false);
        }
        let class = state.slice_dim(1, 0..1).squeeze_dim::<2>(1);
        let embedding = linear(&self.projection, self.norm_out.forward(class));
        ClipVisionOutput {
            embedding,
            penultimate,
        }
    }
}
