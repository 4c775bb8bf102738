//! Decoders of the Llama family: Llama, SmolLM2, TinyLlama and others that differ in their sizes only.
//!
//! ```text
//! x ← x + O attention(rope(Q n), rope(K n), V n),   n = RMSNorm(x)        causal; a key serves several queries
//! x ← x + D (silu(G n) ⊙ U n),                      n = RMSNorm(x)
//! logits = E RMSNorm(x),   E the embedding, or a matrix of its own
//! rope: (x_i, x_{i+d/2}) turned by position · base^(−2i/d)
//! ```
//!
//! [`lower`](Llama::lower) and [`upper`](Llama::upper) cut the model before a block, where its residual stream can be read
//! and replaced.
//!
//! Source: Touvron et al., *LLaMA: Open and Efficient Foundation Language Models*, 2023, arXiv 2302.13971; Su et al.,
//! *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021, arXiv 2104.09864.

use burn::module::{Module, Param};
use burn::nn::{Embedding, Linear, RmsNorm};
use burn::tensor::{Device, Int, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::activation::silu;
use nabla_kernels::attention::attention;
use nabla_kernels::embedding::embedding;
use nabla_kernels::linear::linear;
use nabla_kernels::matmul::product;
use nabla_kernels::normalization::rms_norm;

use crate::checks::sizes;
use crate::gguf::{Gguf, GgufError};

/// The reason why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum LlamaError {
    /// The file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A size is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// Another kind of model.
    #[error("{path} is of the architecture {found:?}, but llama is read")]
    Architecture {
        /// The file.
        path: String,
        /// What it names.
        found: String,
    },
}

/// The sizes of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Pieces of the vocabulary.
    pub vocabulary: usize,
    /// Of the residual stream.
    pub width: usize,
    /// Units of a block's gated layer.
    pub hidden: usize,
    /// Blocks.
    pub blocks: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values, each for as many queries.
    pub key_heads: usize,
    /// Positions at most.
    pub context: usize,
    /// Added to a mean square.
    pub epsilon: f64,
    /// Of the rotations.
    pub rope_base: f64,
}

impl LlamaConfig {
    /// Refuses sizes that don't fit.
    ///
    /// # Errors
    /// An error with the size.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        sizes(&[
            ("vocabulary", self.vocabulary),
            ("width", self.width),
            ("hidden units", self.hidden),
            ("number of blocks", self.blocks),
            ("number of heads", self.heads),
            ("number of key heads", self.key_heads),
            ("context", self.context),
        ])?;
        range::positive("model's epsilon", self.epsilon)?;
        range::positive("model's base of rotations", self.rope_base)?;
        let heads = self.width.is_multiple_of(2 * self.heads);
        range::check(
            heads,
            "model's width",
            self.width as f64,
            "an even number for each head",
        )?;
        let keys = self.heads.is_multiple_of(self.key_heads);
        range::check(
            keys,
            "model's number of key heads",
            self.key_heads as f64,
            "a divisor of the number of heads",
        )
    }

    fn of_gguf(gguf: &Gguf) -> Result<Self, LlamaError> {
        let found = gguf.text("general.architecture")?;
        if found != "llama" {
            return Err(LlamaError::Architecture {
                path: gguf.path().display().to_string(),
                found: found.to_owned(),
            });
        }
        let count = |name: &str| gguf.count(&format!("llama.{name}"));
        let heads = count("attention.head_count")?;
        let tokens = gguf.texts("tokenizer.ggml.tokens");
        let config = Self {
            vocabulary: count("vocab_size").or_else(|_| tokens.map(|tokens| tokens.len()))?,
            width: count("embedding_length")?,
            hidden: count("feed_forward_length")?,
            blocks: count("block_count")?,
            heads,
            key_heads: count("attention.head_count_kv").unwrap_or(heads),
            context: count("context_length")?,
            epsilon: gguf.number("llama.attention.layer_norm_rms_epsilon")?,
            rope_base: gguf.number("llama.rope.freq_base").unwrap_or(10_000.0),
        };
        config.validate()?;
        Ok(config)
    }

    /// A model with random weights, to be trained.
    ///
    /// # Errors
    /// If a size doesn't fit.
    pub fn init(&self, seed: u64, device: &Device) -> Result<Llama, OutOfRange> {
        self.validate()?;
        let mut noise = SeededNoise::new(seed, 0);
        // Layers that write to the residual stream begin smaller, so that it doesn't grow with the depth.
        let deep = (2.0 * self.blocks as f64).sqrt().recip();
        let mut drawn = |rows: usize, columns: usize, factor: f64| {
            noise.normal::<2>([rows, columns], device) * (0.02 * factor)
        };
        let mut weights = Weights {
            embedding: drawn(self.vocabulary, self.width, 1.0),
            blocks: Vec::new(),
        };
        for _ in 0..self.blocks {
            let keys = self.width / self.heads * self.key_heads;
            weights.blocks.push([
                drawn(self.width, self.width, 1.0),
                drawn(self.width, keys, 1.0),
                drawn(self.width, keys, 1.0),
                drawn(self.width, self.width, deep),
                drawn(self.width, self.hidden, 1.0),
                drawn(self.width, self.hidden, 1.0),
                drawn(self.hidden, self.width, deep),
            ]);
        }
        let ones = || self.norm(Tensor::ones([self.width], device));
        let blocks = weights.blocks.into_iter().map(|layers| {
            let [q, k, v, o, gate, up, down] = layers.map(without_bias);
            LlamaBlock {
                attention_norm: ones(),
                q,
                k,
                v,
                o,
                hidden_norm: ones(),
                gate,
                up,
                down,
            }
        });
        Ok(Llama {
            embedding: Embedding {
                weight: Param::from_tensor(weights.embedding),
            },
            blocks: blocks.collect(),
            norm: ones(),
            output: None,
            config: self.clone(),
        })
    }

    fn norm(&self, gamma: Tensor<1>) -> RmsNorm {
        RmsNorm {
            gamma: Param::from_tensor(gamma),
            epsilon: self.epsilon,
        }
    }
}

/// Drawn matrices, `[inputs, outputs]`.
struct Weights {
    embedding: Tensor<2>,
    blocks: Vec<[Tensor<2>; 7]>,
}

fn without_bias(weight: Tensor<2>) -> Linear {
    Linear {
        weight: Param::from_tensor(weight),
        bias: None,
    }
}

/// A block.
#[derive(Module, Debug)]
pub struct LlamaBlock {
    /// Before the attention.
    pub attention_norm: RmsNorm,
    /// Of the queries.
    pub q: Linear,
    /// Of the keys.
    pub k: Linear,
    /// Of the values.
    pub v: Linear,
    /// Behind the attention.
    pub o: Linear,
    /// Before the gated layer.
    pub hidden_norm: RmsNorm,
    /// Of the gate.
    pub gate: Linear,
    /// Of what is gated.
    pub up: Linear,
    /// Behind the gate.
    pub down: Linear,
}

/// A model.
#[derive(Module, Debug)]
pub struct Llama {
    /// A row for each piece.
    pub embedding: Embedding,
    /// One after the other.
    pub blocks: Vec<LlamaBlock>,
    /// Before the logits.
    pub norm: RmsNorm,
    /// Of the logits, if it isn't the embedding.
    pub output: Option<Linear>,
    /// The sizes.
    #[module(skip)]
    pub config: LlamaConfig,
}

impl Llama {
    /// Reads a model from a GGUF file.
    ///
    /// # Errors
    /// If it is another kind of model, or a tensor is missing or of another shape.
    pub fn of_gguf(gguf: &Gguf, device: &Device) -> Result<Self, LlamaError> {
        let config = LlamaConfig::of_gguf(gguf)?;
        let (width, hidden) = (config.width, config.hidden);
        let head = width / config.heads;
        let keys = head * config.key_heads;
        // Files have a row for each output.
        let matrix = |name: &str, outputs: usize, inputs: usize| -> Result<Linear, GgufError> {
            let values = gguf.tensor(name, &[outputs, inputs])?;
            Ok(without_bias(transposed(&values, outputs, inputs, device)))
        };
        // Files have the rows of queries and keys in the order in which neighbours are turned together.
        let turned = |name: &str, outputs: usize| -> Result<Linear, GgufError> {
            let values = gguf.tensor(name, &[outputs, width])?;
            let mut rows = Vec::with_capacity(values.len());
            for first in (0..outputs).step_by(head) {
                for half in 0..2 {
                    for i in 0..head / 2 {
                        let row = first + 2 * i + half;
                        rows.extend_from_slice(&values[row * width..(row + 1) * width]);
                    }
                }
            }
            Ok(without_bias(transposed(&rows, outputs, width, device)))
        };
        let norm = |name: &str| -> Result<RmsNorm, GgufError> {
            let gamma = TensorData::new(gguf.tensor(name, &[width])?, [width]);
            Ok(config.norm(Tensor::from_data(gamma, device)))
        };
        let blocks = (0..config.blocks).map(|block| {
            let name = |layer: &str| format!("blk.{block}.{layer}.weight");
            Ok(LlamaBlock {
                attention_norm: norm(&name("attn_norm"))?,
                q: turned(&name("attn_q"), width)?,
                k: turned(&name("attn_k"), keys)?,
                v: matrix(&name("attn_v"), keys, width)?,
                o: matrix(&name("attn_output"), width, width)?,
                hidden_norm: norm(&name("ffn_norm"))?,
                gate: matrix(&name("ffn_gate"), hidden, width)?,
                up: matrix(&name("ffn_up"), hidden, width)?,
                down: matrix(&name("ffn_down"), width, hidden)?,
            })
        });
        let blocks = blocks.collect::<Result<Vec<_>, GgufError>>()?;
        let table = [config.vocabulary, width];
        let table = TensorData::new(gguf.tensor("token_embd.weight", &table)?, table);
        let output = match gguf.has("output.weight") {
            true => Some(matrix("output.weight", config.vocabulary, width)?),
            false => None,
        };
        Ok(Self {
            embedding: Embedding {
                weight: Param::from_tensor(Tensor::from_data(table, device)),
            },
            blocks,
            norm: norm("output_norm.weight")?,
            output,
            config,
        })
    }

    /// The residual stream before block `block`, `[batch, length, width]`; before the logits, if that is their number.
    ///
    /// - `ids`: `[batch, length]`, the numbers of pieces
    pub fn lower(&self, ids: Tensor<2, Int>, block: usize) -> Tensor<3> {
        let x = embedding(&self.embedding, ids);
        self.through(x, 0, block)
    }

    /// The logits of every next piece, `[batch, length, vocabulary]`, from the residual stream before block `block`.
    pub fn upper(&self, x: Tensor<3>, block: usize) -> Tensor<3> {
        let x = self.through(x, block, self.blocks.len());
        let x = rms_norm(&self.norm, x);
        match &self.output {
            Some(output) => linear(output, x),
            None => {
                let [batch, length, width] = x.dims();
                let table = self.embedding.weight.val().transpose();
                let logits = product(x.reshape([batch * length, width]), table);
                logits.reshape([batch, length, self.config.vocabulary])
            }
        }
    }

    /// The logits of every next piece, `[batch, length, vocabulary]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.upper(self.lower(ids, 0), 0)
    }

    fn through(&self, mut x: Tensor<3>, from: usize, to: usize) -> Tensor<3> {
        let [_, length, _] = x.dims();
        let turn = Rotation::new(&self.config, length, &x);
        for block in self.blocks.iter().take(to).skip(from) {
            x = block.forward(x, &self.config, &turn);
        }
        x
    }
}

/// A matrix `[inputs, outputs]` from rows of outputs.
fn transposed(values: &[f32], outputs: usize, inputs: usize, device: &Device) -> Tensor<2> {
    let mut turned = Vec::with_capacity(values.len());
    for input in 0..inputs {
        turned.extend((0..outputs).map(|output| values[output * inputs + input]));
    }
    Tensor::from_data(TensorData::new(turned, [inputs, outputs]), device)
}

/// Cosines and sines of all positions, `[1, length, 1, d/2]`.
struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotation {
    fn new(config: &LlamaConfig, length: usize, like: &Tensor<3>) -> Self {
        let half = config.width / config.heads / 2;
        let angles = (0..length).flat_map(|position| {
            (0..half)
                .map(move |i| position as f64 * config.rope_base.powf(-(i as f64) / half as f64))
        });
        let angles: Vec<f64> = angles.collect();
        let tensor = |f: fn(f64) -> f64| {
            let values: Vec<f64> = angles.iter().copied().map(f).collect();
            let data = TensorData::new(values, [1, length, 1, half]);
            Tensor::from_data(data, (&like.device(), like.dtype()))
        };
        Self {
            cos: tensor(f64::cos),
            sin: tensor(f64::sin),
        }
    }

    /// Turns `x`, `[batch, length, heads · d]`.
    fn turn(&self, x: Tensor<3>, heads: usize) -> Tensor<3> {
        let [batch, length, width] = x.dims();
        let half = width / heads / 2;
        let x = x.reshape([batch, length, heads, 2 * half]);
        let (a, b) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        let first = a.clone() * cos.clone() - b.clone() * sin.clone();
        let second = b * cos + a * sin;
        Tensor::cat(vec![first, second], 3).reshape([batch, length, width])
    }
}

impl LlamaBlock {
    fn forward(&self, x: Tensor<3>, config: &LlamaConfig, rotation: &Rotation) -> Tensor<3> {
        let n = rms_norm(&self.attention_norm, x.clone());
        let q = rotation.turn(linear(&self.q, n.clone()), config.heads);
        let k = rotation.turn(linear(&self.k, n.clone()), config.key_heads);
        let (k, v) = (spread(k, config), spread(linear(&self.v, n), config));
        let x = x + linear(&self.o, attention(q, k, v, config.heads, true));
        let n = rms_norm(&self.hidden_norm, x.clone());
        x + linear(
            &self.down,
            silu(linear(&self.gate, n.clone())) * linear(&self.up, n),
        )
    }
}

/// A copy of each key head for each of its queries.
fn spread(x: Tensor<3>, config: &LlamaConfig) -> Tensor<3> {
    let (heads, keys) = (config.heads, config.key_heads);
    if heads == keys {
        return x;
    }
    let [batch, length, width] = x.dims();
    let (d, each) = (width / keys, heads / keys);
    let x = x.reshape([batch, length, keys, 1, d]);
    x.expand([batch, length, keys, each, d])
        .reshape([batch, length, heads * d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LlamaConfig {
        LlamaConfig {
            vocabulary: 11,
            width: 16,
            hidden: 24,
            blocks: 3,
            heads: 4,
            key_heads: 2,
            context: 32,
            epsilon: 1e-5,
            rope_base: 1000.0,
        }
    }

    fn ids(values: &[i32]) -> Tensor<2, Int> {
        Tensor::<1, Int>::from_ints(values, &Device::flex()).unsqueeze()
    }

    fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter().collect()
    }

    #[test]
    fn logits_are_those_of_transformers() {
        let text = include_str!("../tests/reference/tiny_llama.json");
        let reference: serde_json::Value = serde_json::from_str(text).unwrap();
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
        let gguf = Gguf::open(&folder.join("tiny_llama.gguf")).unwrap();
        let model = Llama::of_gguf(&gguf, &Device::flex()).unwrap();
        let numbers = |value: &serde_json::Value| -> Vec<f64> {
            let values = value.as_array().unwrap().iter();
            values.map(|v| v.as_f64().unwrap()).collect()
        };
        let text: Vec<i32> = numbers(&reference["ids"])
            .iter()
            .map(|&i| i as i32)
            .collect();
        let near = |found: Vec<f32>, expected: Vec<f64>| {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                let apart = (f64::from(*found) - expected).abs();
                assert!(apart < 2e-4 * (1.0 + expected.abs()), "{found} {expected}");
            }
        };
        for block in 0..2 {
            let stream = numbers(&reference["stream"][block]);
            near(read(model.lower(ids(&text), block)), stream);
        }
        near(
            read(model.forward(ids(&text))),
            numbers(&reference["logits"]),
        );
    }

    #[test]
    fn the_model_cut_in_two_is_the_model() {
        let model = config().init(1, &Device::flex()).unwrap();
        let text = ids(&[3, 1, 4, 1, 5, 9]);
        let whole = read(model.forward(text.clone()));
        for block in 0..=3 {
            let cut = model.upper(model.lower(text.clone(), block), block);
            assert_eq!(read(cut), whole);
        }
    }

    #[test]
    fn no_position_sees_a_later_one() {
        let model = config().init(1, &Device::flex()).unwrap();
        let one = read(model.forward(ids(&[3, 1, 4, 1, 5])));
        let other = read(model.forward(ids(&[3, 1, 4, 7, 2])));
        assert_eq!(one[..3 * 11], other[..3 * 11]);
        assert_ne!(one[3 * 11..], other[3 * 11..]);
    }

    #[test]
    fn what_a_head_sees_depends_on_distances_only() {
        let config = config();
        let like = Tensor::<3>::zeros([1, 1, 1], &Device::flex());
        let rotation = Rotation::new(&config, 12, &like);
        let mut noise = SeededNoise::new(4, 0);
        let [q, k] = [0, 1].map(|_| noise.normal::<3>([1, 1, 16], &Device::flex()));
        let at = |x: &Tensor<3>, position: usize| {
            let all = x.clone().expand([1, 12, 16]);
            let turned = rotation.turn(all, config.heads);
            read(turned.narrow(1, position, 1))
        };
        let product = |a: usize, b: usize| -> f32 {
            at(&q, a).iter().zip(at(&k, b)).map(|(a, b)| a * b).sum()
        };
        assert!((product(3, 1) - product(9, 7)).abs() < 1e-4);
        assert!((product(3, 1) - product(3, 2)).abs() > 1e-3);
        assert!((product(0, 0) - product(11, 11)).abs() < 1e-4);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let refused = |change: fn(&mut LlamaConfig)| {
            let mut config = config();
            change(&mut config);
            config.init(0, &Device::flex()).unwrap_err().to_string()
        };
        assert!(refused(|c| c.key_heads = 3).contains("divisor of the number of heads"));
        assert!(refused(|c| c.width = 20).contains("even number for each head"));
        assert!(refused(|c| c.blocks = 0).contains("number of blocks"));
        assert!(refused(|c| c.epsilon = 0.0).contains("epsilon"));
    }
}
