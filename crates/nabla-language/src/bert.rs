//! Encoders of the BERT family, such as MiniLM, and the sentence embeddings that are made with them.
//!
//! ```text
//! x = LayerNorm(word + position + type)
//! x ← LayerNorm(x + O attention(Q x, K x, V x)),   x ← LayerNorm(x + W₂ gelu(W₁ x))
//! embedding = mean x / ‖mean x‖
//! ```
//!
//! [`lower`](Bert::lower) and [`upper`](Bert::upper) cut the model before a block.
//!
//! Source: Devlin et al., *BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding*, 2018, arXiv
//! 1810.04805; Reimers, Gurevych, *Sentence-BERT*, 2019, arXiv 1908.10084; Wang et al., *MiniLM*, 2020, arXiv 2002.10957.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::nn::{Embedding, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Int, Tensor, TensorData};
use half::{bf16, f16};
use nabla_base::range::{self, OutOfRange};
use nabla_kernels::activation::gelu;
use nabla_kernels::attention::attention;
use nabla_kernels::embedding::embedding;
use nabla_kernels::linear::linear;
use nabla_kernels::normalization::layer_norm;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use crate::checks::{NotFinite, finite, sizes};

/// The reason why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum BertError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file is damaged or something else.
    #[error("{} is no {expected}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Another kind of model.
    #[error("{} is a model of the kind {found:?}, but bert is read", path.display())]
    Kind {
        /// Its configuration.
        path: PathBuf,
        /// What it names.
        found: String,
    },
    /// A size is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A tensor is missing.
    #[error("{} has no tensor {name:?}", path.display())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
    },
    /// A tensor has a number that is NaN or infinite.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// A tensor is of another shape or number format.
    #[error("the tensor {name:?} of {} is {found}, where {expected:?} was expected", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
        /// Its shape and number format.
        found: String,
        /// The shape of the model.
        expected: Vec<usize>,
    },
}

/// The sizes of a model, as in its `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BertConfig {
    #[serde(default)]
    model_type: String,
    /// Pieces of the vocabulary.
    #[serde(rename = "vocab_size")]
    pub vocabulary: usize,
    /// Of the residual stream.
    #[serde(rename = "hidden_size")]
    pub width: usize,
    /// Units of a block's inner layer.
    #[serde(rename = "intermediate_size")]
    pub hidden: usize,
    /// Blocks.
    #[serde(rename = "num_hidden_layers")]
    pub blocks: usize,
    /// Heads.
    #[serde(rename = "num_attention_heads")]
    pub heads: usize,
    /// Positions at most.
    #[serde(rename = "max_position_embeddings")]
    pub context: usize,
    /// Kinds of text.
    #[serde(rename = "type_vocab_size", default = "two")]
    pub kinds: usize,
    /// Added to a variance.
    #[serde(rename = "layer_norm_eps", default = "tiny")]
    pub epsilon: f64,
    /// Of the inner layer.
    #[serde(rename = "hidden_act", default = "gelu_name")]
    activation: String,
}

fn two() -> usize {
    2
}

fn tiny() -> f64 {
    1e-12
}

fn gelu_name() -> String {
    "gelu".to_owned()
}

impl BertConfig {
    fn validate(&self) -> Result<(), OutOfRange> {
        sizes(&[
            ("vocabulary", self.vocabulary),
            ("width", self.width),
            ("hidden units", self.hidden),
            ("number of blocks", self.blocks),
            ("number of heads", self.heads),
            ("context", self.context),
            ("number of kinds", self.kinds),
        ])?;
        range::positive("model's epsilon", self.epsilon)?;
        let heads = self.width.is_multiple_of(self.heads);
        range::check(
            heads,
            "model's width",
            self.width as f64,
            "a multiple of its heads",
        )
    }
}

/// A block.
#[derive(Module, Debug)]
pub struct BertBlock {
    /// Of the queries.
    pub q: Linear,
    /// Of the keys.
    pub k: Linear,
    /// Of the values.
    pub v: Linear,
    /// Behind the attention.
    pub o: Linear,
    /// Behind it.
    pub attention_norm: LayerNorm,
    /// Of the inner layer.
    pub inner: Linear,
    /// Behind it.
    pub outer: Linear,
    /// Behind that.
    pub norm: LayerNorm,
}

/// A model.
#[derive(Module, Debug)]
pub struct Bert {
    /// A row for each piece.
    pub words: Embedding,
    /// A row for each position.
    pub positions: Embedding,
    /// A row for each kind of text.
    pub kinds: Embedding,
    /// Behind their sum.
    pub norm: LayerNorm,
    /// One after the other.
    pub blocks: Vec<BertBlock>,
    /// The sizes.
    #[module(skip)]
    pub config: BertConfig,
}

/// The shape of a tensor, and its values in single precision or the number format that isn't read.
type Found = (Vec<usize>, Result<Vec<f32>, String>);

/// The tensors of a file.
struct Tensors {
    path: PathBuf,
    found: BTreeMap<String, Found>,
    prefix: &'static str,
}

impl Tensors {
    fn read(path: &Path) -> Result<Self, BertError> {
        let bytes = fs::read(path).map_err(|source| BertError::Read {
            path: path.to_owned(),
            source,
        })?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| BertError::Damaged {
            path: path.to_owned(),
            expected: "safetensors file",
            reason: e.to_string(),
        })?;
        let found: BTreeMap<String, Found> = file
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                let data = view.data();
                let values = match view.dtype() {
                    Dtype::F32 => Ok(data
                        .as_chunks::<4>()
                        .0
                        .iter()
                        .map(|b| f32::from_le_bytes(*b))
                        .collect()),
                    Dtype::F16 => Ok(data
                        .as_chunks::<2>()
                        .0
                        .iter()
                        .map(|b| f16::from_le_bytes(*b).to_f32())
                        .collect()),
                    Dtype::BF16 => Ok(data
                        .as_chunks::<2>()
                        .0
                        .iter()
                        .map(|b| bf16::from_le_bytes(*b).to_f32())
                        .collect()),
                    other => Err(format!("{other:?}")),
                };
                (name, (view.shape().to_vec(), values))
            })
            .collect();
        let bare = found.contains_key("embeddings.word_embeddings.weight");
        Ok(Self {
            path: path.to_owned(),
            found,
            prefix: if bare { "" } else { "bert." },
        })
    }

    fn take(&self, name: &str, shape: &[usize]) -> Result<&[f32], BertError> {
        let name = format!("{}{name}", self.prefix);
        match self.found.get(&name) {
            Some((found, Ok(values))) if found == shape => {
                finite(values, &self.path, &name)?;
                Ok(values)
            }
            Some((found, values)) => Err(BertError::Tensor {
                path: self.path.clone(),
                name,
                found: match values {
                    Ok(_) => format!("{found:?}"),
                    Err(format) => format!("{found:?} in the number format {format}"),
                },
                expected: shape.to_vec(),
            }),
            None => Err(BertError::NoTensor {
                path: self.path.clone(),
                name,
            }),
        }
    }
}

impl Bert {
    /// Reads a model from a folder with `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// If a file is missing, damaged, or of another kind of model.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, BertError> {
        let path = folder.join("config.json");
        let text = fs::read_to_string(&path).map_err(|source| BertError::Read {
            path: path.clone(),
            source,
        })?;
        let config: BertConfig = serde_json::from_str(&text).map_err(|e| BertError::Damaged {
            path: path.clone(),
            expected: "configuration of a BERT model",
            reason: e.to_string(),
        })?;
        if config.model_type != "bert" || config.activation != "gelu" {
            let found = match config.model_type.as_str() {
                "bert" => format!("bert with {}", config.activation),
                other => other.to_owned(),
            };
            return Err(BertError::Kind { path, found });
        }
        config.validate()?;
        let tensors = Tensors::read(&folder.join("model.safetensors"))?;
        let (width, hidden) = (config.width, config.hidden);
        let vector = |name: &str, size: usize| -> Result<Tensor<1>, BertError> {
            let data = TensorData::new(tensors.take(name, &[size])?.to_vec(), [size]);
            Ok(Tensor::from_data(data, device))
        };
        let matrix = |name: &str, rows: usize, columns: usize| -> Result<Tensor<2>, BertError> {
            let values = tensors.take(name, &[rows, columns])?.to_vec();
            Ok(Tensor::from_data(
                TensorData::new(values, [rows, columns]),
                device,
            ))
        };
        let table = |name: &str, rows: usize| -> Result<Embedding, BertError> {
            let weight = matrix(&format!("embeddings.{name}.weight"), rows, width)?;
            Ok(Embedding {
                weight: Param::from_tensor(weight),
            })
        };
        let norm = |name: &str| -> Result<LayerNorm, BertError> {
            let shape = LayerNormConfig::new(width).with_epsilon(config.epsilon);
            let mut norm = shape.init(device);
            norm.gamma = Param::from_tensor(vector(&format!("{name}.weight"), width)?);
            norm.beta = Some(Param::from_tensor(vector(&format!("{name}.bias"), width)?));
            Ok(norm)
        };
        let layer = |name: &str, inputs: usize, outputs: usize| -> Result<Linear, BertError> {
            // Files have a row for each output.
            let weight = matrix(&format!("{name}.weight"), outputs, inputs)?.transpose();
            let bias = vector(&format!("{name}.bias"), outputs)?;
            Ok(Linear {
                weight: Param::from_tensor(weight),
                bias: Some(Param::from_tensor(bias)),
            })
        };
        let blocks = (0..config.blocks).map(|block| {
            let name = |part: &str| format!("encoder.layer.{block}.{part}");
            Ok(BertBlock {
                q: layer(&name("attention.self.query"), width, width)?,
                k: layer(&name("attention.self.key"), width, width)?,
                v: layer(&name("attention.self.value"), width, width)?,
                o: layer(&name("attention.output.dense"), width, width)?,
                attention_norm: norm(&name("attention.output.LayerNorm"))?,
                inner: layer(&name("intermediate.dense"), width, hidden)?,
                outer: layer(&name("output.dense"), hidden, width)?,
                norm: norm(&name("output.LayerNorm"))?,
            })
        });
        Ok(Self {
            words: table("word_embeddings", config.vocabulary)?,
            positions: table("position_embeddings", config.context)?,
            kinds: table("token_type_embeddings", config.kinds)?,
            norm: norm("embeddings.LayerNorm")?,
            blocks: blocks.collect::<Result<Vec<_>, BertError>>()?,
            config,
        })
    }

    /// The activation before block `block`, `[batch, length, width]`; behind the last, if that is their number.
    ///
    /// - `ids`: `[batch, length]`, texts of one length
    pub fn lower(&self, ids: Tensor<2, Int>, block: usize) -> Tensor<3> {
        let [_, length] = ids.dims();
        let positions = self.positions.weight.val().narrow(0, 0, length);
        let kind = self.kinds.weight.val().narrow(0, 0, 1); // [1, width]
        let x = embedding(&self.words, ids) + (positions + kind).unsqueeze();
        let x = layer_norm(&self.norm, self.config.epsilon, x);
        self.through(x, 0, block)
    }

    /// The activation behind the last block, from that before block `block`; `[batch, length, width]` both.
    pub fn upper(&self, x: Tensor<3>, block: usize) -> Tensor<3> {
        self.through(x, block, self.blocks.len())
    }

    fn through(&self, mut x: Tensor<3>, from: usize, to: usize) -> Tensor<3> {
        for block in self.blocks.iter().take(to).skip(from) {
            x = block.forward(x, &self.config);
        }
        x
    }
}

/// What a text means, `[batch, width]` of length 1, from the activation behind the last block.
pub fn sentence_embedding(x: Tensor<3>) -> Tensor<2> {
    let mean: Tensor<2> = x.mean_dim(1).squeeze_dim(1);
    let length = mean.clone().square().sum_dim(1).sqrt();
    mean / length.clamp_min(f32::MIN_POSITIVE)
}

impl BertBlock {
    fn forward(&self, x: Tensor<3>, config: &BertConfig) -> Tensor<3> {
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|layer| linear(layer, x.clone()));
        let seen = linear(&self.o, attention(q, k, v, config.heads, false));
        let x = layer_norm(&self.attention_norm, config.epsilon, x + seen);
        let inner = linear(&self.outer, gelu(linear(&self.inner, x.clone())));
        layer_norm(&self.norm, config.epsilon, x + inner)
    }
}

#[cfg(test)]
mod tests;
