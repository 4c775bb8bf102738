//! Language models as [hooked models](HookedModel), cut before a block, and the texts that light up a feature.
//!
//! * A **decoder** answers with the next piece, at every place but the last. The first place is left out of what is
//!   recorded and replaced: nothing stands before it. So are *massive activations*, which are many times as large as all
//!   others at a few places, often the first full stop, and work as constants (Sun, Chen, Kolter, Liu, *Massive Activations
//!   in Large Language Models*, 2024, arXiv 2402.17762); a dictionary would describe nothing else.
//! * An **encoder** has no answers of its own once it is published, so its own training is asked again: of the passages of a
//!   batch, which one follows this one? The logits are cosines of sentence embeddings, times 20, as in Reimers, Gurevych,
//!   *Sentence-BERT*, 2019, arXiv 1908.10084 and the training of MiniLM's sentence embeddings.

use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_language::bert::{Bert, sentence_embedding};
use nabla_language::language_model::{LanguageModel, LanguageModelError, Network, continued};
use nabla_language::llama::Llama;
use nabla_language::text_tokenizer::TokenizerError;
use serde::{Deserialize, Serialize};

use crate::feature_effect::{Before, Coder, EffectError, GradientOf, HookedModel, asked};
use crate::sparse_autoencoder::{SaeError, read, read_single, times_rows};

/// The reason why a text cannot be read by a model.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model.
    #[error(transparent)]
    Model(#[from] LanguageModelError),
    /// What is measured.
    #[error(transparent)]
    Effect(#[from] EffectError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The tokenizer is of another model.
    #[error("the tokenizer gives the piece {id}, but the model's vocabulary has {vocabulary}")]
    Vocabulary {
        /// The number of the piece.
        id: u32,
        /// Pieces of the model.
        vocabulary: usize,
    },
    /// The text is too short.
    #[error("the texts fill passages of {found} pieces, but {needed} are needed")]
    Short {
        /// Its pieces.
        found: usize,
        /// The least number.
        needed: usize,
    },
}

/// What a model reads at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passages {
    /// The pieces of a text, for a decoder.
    Text(Vec<u32>),
    /// Passages and those that follow them, for an encoder.
    Pairs(Vec<[Vec<u32>; 2]>),
}

impl Passages {
    /// The number of pieces.
    pub fn pieces(&self) -> usize {
        match self {
            Self::Text(ids) => ids.len(),
            Self::Pairs(pairs) => pairs.iter().flatten().map(Vec::len).sum(),
        }
    }

    /// The pieces of the passage to which a row of the activation belongs, and its place in them.
    pub fn around(&self, row: usize) -> (&[u32], usize) {
        match self {
            Self::Text(ids) => (ids, row),
            Self::Pairs(pairs) => {
                let mut row = row;
                for ids in pairs.iter().flatten() {
                    match row.checked_sub(ids.len()) {
                        Some(rest) => row = rest,
                        None => return (ids, row),
                    }
                }
                (&[], 0)
            }
        }
    }
}

/// The places of a text of a decoder that may be recorded: neither the first, before which nothing stands, nor the last,
/// which answers nothing.
fn places(length: usize) -> std::ops::Range<usize> {
    1..length.saturating_sub(1).max(1)
}

/// How many times as large as the median an activation is that counts as massive.
const MASSIVE: f64 = 10.0;

/// Pairs that an encoder is asked about together.
const PAIRS: usize = 8;

/// Pieces that a model reads at once, in passages of `length` pieces: one of them, or for an encoder a batch of pairs.
///
/// # Errors
/// If a passage is shorter than 8 pieces, or longer than the model reads.
pub fn pieces_together(model: &LanguageModel, length: usize) -> Result<usize, OutOfRange> {
    range::within("length of a passage", length, 8..=model.context())?;
    let passages = match &model.network {
        Network::Llama(_) => 1,
        Network::Bert(_) => 2 * PAIRS,
    };
    Ok(passages * length)
}

/// Cuts texts into what a model reads at once.
///
/// - `length`: pieces of a passage, with what stands around it
/// - `wanted`: pieces in all, rounded up to what is read at once; the rest of the texts is left out
///
/// # Errors
/// If a text cannot be cut, a passage is longer than the model reads, a piece is not in the model's vocabulary, or the texts
/// are too short.
pub fn passages(
    model: &LanguageModel,
    texts: &[String],
    length: usize,
    wanted: usize,
) -> Result<Vec<Passages>, TextError> {
    let together = pieces_together(model, length)?;
    let around = model.tokenizer.encode("")?;
    let own = length - around.len();
    let (before, after) = match &model.network {
        Network::Llama(_) => (&around[..], &[][..]),
        Network::Bert(_) => around.split_at(around.len().min(1)),
    };
    let vocabulary = match &model.network {
        Network::Llama(model) => model.config.vocabulary,
        Network::Bert(model) => model.config.vocabulary,
    };
    let most = wanted.div_ceil(together) * (together / length);
    let mut found: Vec<Vec<u32>> = Vec::new();
    'texts: for text in texts {
        let ids = model.tokenizer.encode(text)?;
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(TextError::Vocabulary { id, vocabulary });
        }
        let inner = ids[before.len()..ids.len() - after.len()].chunks_exact(own);
        for inner in inner {
            if found.len() == most {
                break 'texts;
            }
            found.push([before, inner, after].concat());
        }
    }
    let total = found.len() * length;
    let passages: Vec<Passages> = match &model.network {
        Network::Llama(_) => found.into_iter().map(Passages::Text).collect(),
        Network::Bert(_) => {
            let pairs: Vec<[Vec<u32>; 2]> = found
                .as_chunks::<2>()
                .0
                .iter()
                .map(|[a, b]| [a.clone(), b.clone()])
                .collect();
            let batches = pairs.chunks_exact(PAIRS);
            batches
                .map(|batch| Passages::Pairs(batch.to_vec()))
                .collect()
        }
    };
    match passages.is_empty() {
        true => Err(TextError::Short {
            found: total,
            needed: together,
        }),
        false => Ok(passages),
    }
}

/// A language model, cut before a block.
#[derive(Debug)]
pub struct HookedLanguageModel {
    network: Network,
    block: usize,
    device: Device,
}

impl HookedLanguageModel {
    /// - `block`: before which the activation is read, from 0
    /// - `device`: that of the model, an autodiff device
    ///
    /// # Errors
    /// If there is no such block, or nothing before it.
    pub fn new(network: Network, block: usize, device: Device) -> Result<Self, OutOfRange> {
        let blocks = match &network {
            Network::Llama(model) => model.config.blocks,
            Network::Bert(model) => model.config.blocks,
        };
        range::within("block", block, 1..=blocks.saturating_sub(1).max(1))?;
        Ok(Self {
            network,
            block,
            device,
        })
    }

    fn decoder(&self) -> Result<&Llama, EffectError> {
        match &self.network {
            Network::Llama(model) => Ok(model),
            Network::Bert(_) => Err(EffectError::model("an encoder reads pairs of passages")),
        }
    }

    fn encoder(&self) -> Result<&Bert, EffectError> {
        match &self.network {
            Network::Bert(model) => Ok(model),
            Network::Llama(_) => Err(EffectError::model("a decoder reads a text")),
        }
    }

    /// Goes on with a text, with the activation at every place but the first moved along a direction.
    ///
    /// - `direction`: `[width]`, of length 1; none to go on with the model as it is
    /// - `strength`: in units of the mean size of the activations
    ///
    /// # Errors
    /// If the model is an encoder, the direction is of another width, or the text is empty.
    pub fn continued(
        &self,
        text: &[u32],
        count: usize,
        direction: Option<(&[f64], f64)>,
    ) -> Result<Vec<u32>, TextError> {
        let model = self.decoder()?;
        continued(text, count, |ids| {
            let tensor = LanguageModel::tensor(ids, &self.device);
            let mut x = model.lower(tensor, self.block);
            if let Some((direction, strength)) = direction {
                let [_, length, width] = x.dims();
                if direction.len() != width {
                    let (dictionary, found) = (direction.len(), width);
                    let error = SaeError::Width { dictionary, found };
                    return Err(TextError::Effect(error.into()));
                }
                let later = x.clone().narrow(1, 1.min(length - 1), length.max(2) - 1);
                let size = later.square().mean().sqrt() * (strength * (width as f64).sqrt());
                let mut along = vec![0.0; length * width];
                for row in along.chunks_exact_mut(width).skip(1) {
                    row.copy_from_slice(direction);
                }
                let along = TensorData::new(along, [1, length, width]);
                let along = Tensor::<3>::from_data(along, (&x.device(), x.dtype()));
                x = x + along * size.unsqueeze::<3>();
            }
            Ok(model.upper(x, self.block))
        })
    }
}

impl HookedLanguageModel {
    /// The pieces that become likelier by a direction in the residual stream, the most so first: those with the largest
    /// products of their row of the output with the direction, weighted as by the last norm. None for an encoder, which
    /// has no such rows.
    ///
    /// - `directions`: `[directions, width]`
    ///
    /// # Errors
    /// If the directions are of another width, or a value cannot be read.
    pub fn promoted(
        &self,
        directions: Tensor<2>,
        count: usize,
    ) -> Result<Option<Vec<Vec<u32>>>, EffectError> {
        let Network::Llama(model) = &self.network else {
            return Ok(None);
        };
        let [rows, found] = directions.dims();
        if found != model.config.width {
            let dictionary = model.config.width;
            return Err(SaeError::Width { dictionary, found }.into());
        }
        let weight = model.norm.gamma.val().without_autodiff().unsqueeze();
        let table = match &model.output {
            Some(output) => output.weight.val().transpose(),
            None => model.embedding.weight.val(),
        };
        let products = times_rows(directions * weight, table.without_autodiff());
        let values = read_single(products)?;
        let pieces = values.len() / rows.max(1);
        let best = values.chunks_exact(pieces.max(1)).map(|row| {
            let mut order: Vec<u32> = (0..row.len() as u32).collect();
            let larger = |&a: &u32, &b: &u32| row[b as usize].total_cmp(&row[a as usize]);
            let count = count.min(order.len());
            if count > 0 && count < order.len() {
                order.select_nth_unstable_by(count - 1, larger);
            }
            order.truncate(count);
            order.sort_by(larger);
            order
        });
        Ok(Some(best.collect()))
    }
}

impl HookedModel for HookedLanguageModel {
    type Input = Passages;

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn lower(&self, input: &Passages) -> Result<Tensor<2>, EffectError> {
        let rows = |x: Tensor<3>| {
            let [batch, length, width] = x.dims();
            x.reshape([batch * length, width])
        };
        match input {
            Passages::Text(ids) => {
                let ids = LanguageModel::tensor(ids, &self.device);
                Ok(rows(self.decoder()?.lower(ids, self.block)))
            }
            Passages::Pairs(pairs) => {
                let model = self.encoder()?;
                let each = pairs.iter().flatten().map(|ids| {
                    rows(model.lower(LanguageModel::tensor(ids, &self.device), self.block))
                });
                Ok(Tensor::cat(each.collect(), 0))
            }
        }
    }

    fn upper(&self, input: &Passages, activation: Tensor<2>) -> Result<Tensor<2>, EffectError> {
        let [_, width] = activation.dims();
        match input {
            Passages::Text(ids) => {
                let length = ids.len();
                let x = activation.reshape([1, length, width]);
                let logits = self.decoder()?.upper(x, self.block);
                let [_, _, vocabulary] = logits.dims();
                let answers = length - 1;
                Ok(logits.narrow(1, 0, answers).reshape([answers, vocabulary]))
            }
            Passages::Pairs(pairs) => {
                /// As in the training of sentence embeddings.
                const SCALE: f64 = 20.0;
                let model = self.encoder()?;
                let mut at = 0;
                let (mut anchors, mut followers) = (Vec::new(), Vec::new());
                for pair in pairs {
                    for (ids, to) in pair.iter().zip([&mut anchors, &mut followers]) {
                        let x = activation.clone().narrow(0, at, ids.len());
                        at += ids.len();
                        to.push(sentence_embedding(model.upper(x.unsqueeze(), self.block)));
                    }
                }
                let (a, b) = (Tensor::cat(anchors, 0), Tensor::cat(followers, 0));
                Ok(times_rows(a, b) * SCALE)
            }
        }
    }

    fn labels(&self, input: &Passages) -> Vec<u32> {
        match input {
            Passages::Text(ids) => ids[1..].to_vec(),
            Passages::Pairs(pairs) => (0..pairs.len() as u32).collect(),
        }
    }

    fn rows(&self, input: &Passages, activation: &Tensor<2>) -> Result<Vec<usize>, EffectError> {
        let squares = read(activation.clone().square().sum_dim(1))?;
        let places = match input {
            Passages::Text(ids) => places(ids.len()),
            Passages::Pairs(_) => 0..squares.len(),
        };
        let mut sorted = squares[places.clone()].to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        Ok(places
            .filter(|&place| squares[place] <= MASSIVE * MASSIVE * median)
            .collect())
    }
}

/// A place in a text at which a feature is active.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lit {
    /// Which of the passages.
    pub passage: usize,
    /// Which row of its activation.
    pub row: usize,
    /// How strongly.
    pub activity: f64,
}

/// What lights up a feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    /// Its number.
    pub latent: usize,
    /// The share of rows in which it is active.
    pub density: f64,
    /// Where it is most active, one place of a passage, the strongest first.
    pub strongest: Vec<Lit>,
}

/// For every latent, where it is most active; those that are never active are left out.
///
/// - `keep`: places for each
///
/// # Errors
/// If a passage doesn't fit the model, an activation the dictionary, or it was stopped.
pub fn features<M: HookedModel>(
    model: &M,
    inputs: &[M::Input],
    coder: &dyn Coder,
    of: GradientOf,
    keep: usize,
    before: Before<'_>,
) -> Result<Vec<Feature>, EffectError> {
    let mut features: Vec<Feature> = Vec::new();
    let (mut counts, mut rows) = (Vec::new(), 0);
    for (passage, input) in inputs.iter().enumerate() {
        asked(before)?;
        let (codes, places) = crate::feature_effect::codes(model, input, coder, of)?;
        counts.resize(codes.latents(), 0_usize);
        while features.len() < codes.latents() {
            features.push(Feature {
                latent: features.len(),
                density: 0.0,
                strongest: Vec::new(),
            });
        }
        rows += codes.examples();
        for (example, &row) in places.iter().enumerate() {
            for (latent, activity) in codes.of(example) {
                counts[latent] += 1;
                let activity = f64::from(activity);
                let lit = Lit {
                    passage,
                    row,
                    activity,
                };
                insert(&mut features[latent].strongest, lit, keep);
            }
        }
    }
    for (feature, count) in features.iter_mut().zip(counts) {
        feature.density = count as f64 / rows.max(1) as f64;
    }
    features.retain(|feature| feature.density > 0.0);
    Ok(features)
}

/// Keeps the strongest place of each passage, and of these the strongest.
fn insert(strongest: &mut Vec<Lit>, lit: Lit, keep: usize) {
    if let Some(known) = strongest.iter().position(|l| l.passage == lit.passage) {
        if strongest[known].activity >= lit.activity {
            return;
        }
        strongest.remove(known);
    }
    let place = strongest.partition_point(|l| l.activity >= lit.activity);
    strongest.insert(place, lit);
    strongest.truncate(keep);
}

#[cfg(test)]
mod tests;
