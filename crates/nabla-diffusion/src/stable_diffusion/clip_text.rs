//! CLIP's text encoder, which turns token ids into the sequence of vectors to which a UNet attends.
//!
//! ```text
//! h₀ = E[ids] + P
//! h  = hᵢ + attention(norm(hᵢ)),   hᵢ₊₁ = h + W₂ σ(W₁ norm(h)),   i = 0 … layers − 1
//! last = norm(h_layers),           pooled = last at the end of the text
//! ```
//!
//! Attention is causal. `σ` is GELU, or in OpenAI's own weights its approximation `x·sigmoid(1.702 x)`.
//!
//! Models use different states. Stable Diffusion 1.5 and 2.1 use `last` (the file of 2.1 already lacks
//! OpenCLIP's last layer). SDXL uses the state before the last layer, without the norm, of two encoders, and
//! the pooled and projected text of the second. "Clip skip" `n` uses the `h` that is `n` layers before the
//! last, with the norm: `encoder.normalize(output.skip(n))`.
//!
//! Sources: Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*,
//! 2021, arXiv 2103.00020; Hendrycks and Gimpel, *Gaussian Error Linear Units*, 2016, arXiv 1606.08415.

use burn::module::Module;
use burn::nn::{Embedding, LayerNorm, Linear};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde::Deserialize;

use super::clip_layer::{Activation, ClipLayer, ClipLayerSizes};
use super::model_folder::{ModelFolderError, Part};
use super::weights::{Precision, Scope, Weights, WeightsError};
use nabla_kernels::linear::linear;

/// Keys of a configuration that do not affect the computation of a trained network.
pub(super) const SILENT: &[&str] = &[
    "attention_dropout",
    "bos_token_id",
    "dropout",
    "dtype",
    "initializer_factor",
    "initializer_range",
    "model_type",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
];

/// An encoder's sizes, as in its `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Its class: `CLIPTextModel`, or `CLIPTextModelWithProjection`.
    pub architectures: Vec<String>,
    /// The size of the vocabulary.
    pub vocab_size: usize,
    /// Channels.
    pub hidden_size: usize,
    /// Channels within the two linear layers that follow an attention.
    pub intermediate_size: usize,
    /// Channels of the projected text, if there is one.
    pub projection_dim: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of an attention.
    pub num_attention_heads: usize,
    /// The longest text, in tokens.
    pub max_position_embeddings: usize,
    /// `quick_gelu`, or `gelu`.
    pub hidden_act: String,
    /// The constant added to a variance.
    pub layer_norm_eps: f64,
    /// The token that ends a text. 2 is a mistake of older files; then the largest id ends the text.
    pub eos_token_id: u32,
}

/// The defaults of `transformers` for missing keys.
impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            architectures: Vec::new(),
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

impl ClipTextConfig {
    /// Reads and checks it. The class is the one that the model's index names.
    ///
    /// # Errors
    /// If the file is missing, or holds an option that is not implemented.
    pub fn read(part: &Part) -> Result<Self, ModelFolderError> {
        let mut config: Self = part.config("config.json", SILENT, &[])?;
        config.architectures = vec![part.class().to_owned()];
        if !["CLIPTextModel", "CLIPTextModelWithProjection"].contains(&part.class()) {
            let expected = "only CLIPTextModel and CLIPTextModelWithProjection are implemented";
            return Err(part.unsupported("architectures", part.class(), expected));
        }
        config.check(part)?;
        Ok(config)
    }

    /// Checks its sizes; errors name `part`.
    pub(super) fn check(&self, part: &Part) -> Result<(), ModelFolderError> {
        if Activation::named(&self.hidden_act).is_none() {
            let expected = "only quick_gelu and gelu are implemented";
            return Err(part.unsupported("hidden_act", &self.hidden_act, expected));
        }
        let (channels, heads) = (self.hidden_size, self.num_attention_heads);
        if heads == 0 || channels % heads != 0 {
            let expected = format!("it must divide hidden_size = {channels}");
            return Err(part.unsupported("num_attention_heads", heads, expected));
        }
        Ok(())
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

    /// Whether the pooled text is projected.
    pub fn projects(&self) -> bool {
        let with = "CLIPTextModelWithProjection";
        self.architectures.iter().any(|class| class == with)
    }
}

/// The reason why a text cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClipTextError {
    /// No text.
    #[error("there is no text to encode")]
    NoText,
    /// The texts have different lengths.
    #[error(
        "the texts of a batch must have the same length, but one has {first} tokens and another {other}"
    )]
    Ragged {
        /// Tokens of the first.
        first: usize,
        /// Tokens of another.
        other: usize,
    },
    /// A text is empty or too long.
    #[error("a text has {length} tokens, but the encoder takes 1 to {longest}")]
    Length {
        /// Its tokens.
        length: usize,
        /// The maximum number.
        longest: usize,
    },
    /// A token belongs to another tokenizer.
    #[error(
        "the token id {id} is not one of the encoder's {count}: the tokenizer belongs to another model"
    )]
    Token {
        /// The id.
        id: u32,
        /// The number of ids.
        count: usize,
    },
    /// A vector does not fit.
    #[error(
        "a vector of {found} channels cannot be number {} of text {}: it must have {channels} channels \
         and a place in a text",
        place[1],
        place[0]
    )]
    Vector {
        /// Its channels.
        found: usize,
        /// Those of the encoder.
        channels: usize,
        /// The text, and the place in it.
        place: [usize; 2],
    },
}

/// A vector in the place of a token's.
#[derive(Clone, Debug)]
pub struct TokenVector {
    /// The number of the text.
    pub text: usize,
    /// The place in it, counted from its start token, which is 0.
    pub position: usize,
    /// `[channels]`
    pub vector: Tensor<1>,
}

/// The result of encoding some texts.
#[derive(Clone, Debug)]
pub struct ClipTextOutput {
    /// The embedded tokens, and the state after each layer; all `[batch, length, channels]`, without the
    /// final norm.
    pub hidden: Vec<Tensor<3>>,
    /// The state after the last layer, with the final norm: `[batch, length, channels]`.
    pub last: Tensor<3>,
    /// `last` at the end of each text: `[batch, channels]`.
    pub pooled: Tensor<2>,
    /// The pooled text, projected: `[batch, projection_dim]`. Only for a `CLIPTextModelWithProjection`.
    pub projected: Option<Tensor<2>>,
}

impl ClipTextOutput {
    /// The state `layers` layers before the last, without the final norm; for 0 the state after the last
    /// layer. `None` if there are not enough layers.
    pub fn skip(&self, layers: usize) -> Option<Tensor<3>> {
        let last = self.hidden.len().checked_sub(1)?;
        self.hidden.get(last.checked_sub(layers)?).cloned()
    }
}

/// The encoder; see the [module](self).
#[derive(Module, Debug)]
pub struct ClipTextEncoder {
    tokens: Embedding,
    positions: Tensor<3>,
    layers: Vec<ClipLayer>,
    norm: LayerNorm,
    projection: Option<Linear>,
    vocabulary: usize,
    end: u32,
}

impl ClipTextEncoder {
    /// Loads the encoder of a folder, with its configuration.
    ///
    /// # Errors
    /// If a file is missing, the configuration or the weights are for another network.
    pub fn load(
        part: &Part,
        device: &Device,
        precision: Precision,
    ) -> Result<(Self, ClipTextConfig), ModelFolderError> {
        let config = ClipTextConfig::read(part)?;
        let weights = Self::weights(part, device, precision)?;
        Ok((Self::from_weights(&config, &weights)?, config))
    }

    /// The weights of a folder, with tensors named `text_model.…`, whether or not the file has this prefix.
    ///
    /// # Errors
    /// As [`Part::weights`].
    pub fn weights(
        part: &Part,
        device: &Device,
        precision: Precision,
    ) -> Result<Weights, ModelFolderError> {
        let weights = part.weights("model", device, precision)?;
        let short = |name: &str| name.strip_prefix("text_model.").unwrap_or(name).to_owned();
        Ok(weights.with_names(str::to_owned).with_names(short))
    }

    /// Loads the encoder from weights named `text_model.…`, all of which must belong to it.
    ///
    /// # Errors
    /// If they are not.
    pub fn from_weights(config: &ClipTextConfig, weights: &Weights) -> Result<Self, WeightsError> {
        let encoder = Self::from_scope(config, &weights.root())?;
        // Older files have a table of 0, 1, 2 …
        weights.finish(|name| name.ends_with("embeddings.position_ids"))?;
        Ok(encoder)
    }

    /// Loads the encoder from the weights below a prefix.
    ///
    /// # Errors
    /// As [`Scope::tensor`].
    pub fn from_scope(config: &ClipTextConfig, scope: &Scope<'_>) -> Result<Self, WeightsError> {
        let text = scope.at("text_model");
        let (channels, longest) = (config.hidden_size, config.max_position_embeddings);
        let table = text.at("embeddings");
        let projection = match config.projects() {
            true => {
                let scope = scope.at("text_projection");
                Some(scope.linear_without_bias(channels, config.projection_dim)?)
            }
            false => None,
        };
        Ok(Self {
            tokens: table
                .at("token_embedding")
                .embedding(config.vocab_size, channels)?,
            positions: table
                .at("position_embedding")
                .tensor("weight", [longest, channels])?
                .unsqueeze(),
            layers: (0..config.num_hidden_layers)
                .map(|i| ClipLayer::load(config.layer(), &text.at("encoder.layers").at(i)))
                .collect::<Result<_, _>>()?,
            norm: text
                .at("final_layer_norm")
                .layer_norm(channels, config.layer_norm_eps)?,
            projection,
            vocabulary: config.vocab_size,
            end: config.eos_token_id,
        })
    }

    /// Encodes texts of the same length.
    ///
    /// - `ids`: the tokens of each text, from a [`ClipTokenizer`](super::clip_tokenizer::ClipTokenizer)
    ///
    /// # Errors
    /// If there is no text, the texts have different lengths, one is too long, or the encoder does not have a
    /// token.
    pub fn forward(&self, ids: &[Vec<u32>]) -> Result<ClipTextOutput, ClipTextError> {
        self.forward_replacing(ids, &[])
    }

    /// The same, with other vectors than the table's in some places: those of a
    /// [textual inversion](super::textual_inversion).
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and if a vector has another number of channels or a place that does not
    /// exist.
    pub fn forward_replacing(
        &self,
        ids: &[Vec<u32>],
        replaced: &[TokenVector],
    ) -> Result<ClipTextOutput, ClipTextError> {
        let (batch, length) = self.check(ids)?;
        let channels = self.channels();
        let device = self.positions.device();
        let data: Vec<i32> = ids.iter().flatten().map(|&id| id as i32).collect();
        let table = Tensor::<2, Int>::from_data(TensorData::new(data, [batch, length]), &device);
        let positions = self.positions.clone().narrow(1, 0, length);

        let mut tokens = self.tokens.forward(table); // [batch, length, channels]
        for TokenVector {
            text,
            position,
            vector,
        } in replaced
        {
            let [found] = vector.dims();
            if *text >= batch || *position >= length || found != channels {
                return Err(ClipTextError::Vector {
                    found,
                    channels,
                    place: [*text, *position],
                });
            }
            let place = [*text..text + 1, *position..position + 1, 0..channels];
            let vector = vector.clone().cast(tokens.dtype());
            tokens = tokens.slice_assign(place, vector.reshape([1, 1, channels]));
        }
        let mut hidden = vec![tokens + positions];
        for layer in &self.layers {
            let state = hidden[hidden.len() - 1].clone();
            hidden.push(layer.forward(state, true));
        }
        let last = self.normalize(hidden[hidden.len() - 1].clone());

        let ends: Vec<i32> = ids
            .iter()
            .enumerate()
            .map(|(text, ids)| (text * length + self.end_of(ids)) as i32)
            .collect();
        let ends = Tensor::<1, Int>::from_data(TensorData::new(ends, [batch]), &device);
        let pooled = last
            .clone()
            .reshape([batch * length, channels])
            .select(0, ends); // [batch, channels]
        let projected = self.projection.as_ref().map(|p| linear(p, pooled.clone()));
        Ok(ClipTextOutput {
            hidden,
            last,
            pooled,
            projected,
        })
    }

    /// The vectors of tokens in the encoder's table, `[tokens, channels]`, in `f32`.
    ///
    /// - `ids`: at least one, each below the size of the vocabulary
    pub(super) fn vectors(&self, ids: &[u32]) -> Tensor<2> {
        let count = ids.len();
        let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let data = TensorData::new(ids, [1, count]);
        let table = Tensor::<2, Int>::from_data(data, &self.positions.device());
        self.tokens.forward(table).squeeze_dim(0).cast(DType::F32)
    }

    /// Channels of its states.
    pub fn channels(&self) -> usize {
        let [_, _, channels] = self.positions.dims();
        channels
    }

    /// Applies the final norm to a state, `[batch, length, channels]`.
    pub fn normalize(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.norm.forward(hidden)
    }

    /// The number of texts and of their tokens.
    fn check(&self, ids: &[Vec<u32>]) -> Result<(usize, usize), ClipTextError> {
        let Some(first) = ids.first() else {
            return Err(ClipTextError::NoText);
        };
        let (length, longest) = (first.len(), self.positions.dims()[1]);
        if let Some(other) = ids.iter().find(|other| other.len() != length) {
            return Err(ClipTextError::Ragged {
                first: length,
                other: other.len(),
            });
        }
        if length == 0 || length > longest {
            return Err(ClipTextError::Length { length, longest });
        }
        let count = self.vocabulary;
        match ids.iter().flatten().find(|&&id| id as usize >= count) {
            Some(&id) => Err(ClipTextError::Token { id, count }),
            None => Ok((ids.len(), length)),
        }
    }

    /// The end of a text, by the rule of `transformers`.
    fn end_of(&self, ids: &[u32]) -> usize {
        let end = match self.end {
            // This wrong id was once in every published file; the true end is the largest id.
            2 => ids.iter().copied().max(),
            end => Some(end),
        };
        // A text without an end token is pooled at its start.
        ids.iter().position(|&id| Some(id) == end).unwrap_or(0)
    }
}
