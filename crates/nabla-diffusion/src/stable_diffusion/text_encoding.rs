//! From a text to what the UNet attends to: tokens, text encoders, weights.
//!
//! ```text
//! z = text encoder(part) for each part of 75 tokens,   z ← w ⊙ z · mean(z)/mean(w ⊙ z),   c = [z₁ z₂ …]
//! ```
//!
//! A [`Prompt`] has weights `w` and any length. Each part is encoded by itself, and the UNet attends to the
//! vectors of all parts. The mean is that over all tokens and channels of a part, also those of start, end and
//! padding, whose weight is 1. With two encoders (SDXL), each has its own mean, and the pooled text is that of
//! the first part, without weights. A prompt of one part without weights gives the same bits as
//! [`StableDiffusion::encode_text`].
//!
//! ```no_run
//! use nabla_diffusion::stable_diffusion::pipeline::StableDiffusion;
//! use nabla_diffusion::stable_diffusion::prompt::Prompt;
//!
//! # fn encode(model: &StableDiffusion) -> Result<(), Box<dyn std::error::Error>> {
//! let prompt = Prompt::parse("a (red:1.3) house BREAK at night")?;
//! let [positive, negative] = model.encode_prompts(&prompt, None, 0)?;
//! assert_eq!(positive.text.dims()[1], 2 * 77);
//! assert_eq!(negative.text.dims(), positive.text.dims());
//! # Ok(())
//! # }
//! ```
//!
//! Source: AUTOMATIC1111's `stable-diffusion-webui` 1.10 (`sd_hijack_clip.py`, `sd_emphasis.py`), whose rule
//! for the mean is not derived from anything; it keeps pictures from burning out. [`Emphasis::NoNorm`] leaves
//! it out.

use burn::tensor::{DType, Tensor};
use nabla_base::range::OutOfRange;

use super::clip_text::{ClipTextEncoder, TokenVector};
use super::clip_tokenizer::{ClipTokenizer, ClipTokenizerError};
use super::pipeline::{Conditioning, StableDiffusion, StableDiffusionError};
use super::prompt::{Emphasis, Prompt};
use super::prompt_parts::{PromptPart, Word, empty_part, first_part, prompt_parts};
use super::textual_inversion::TextualInversion;

/// A tokenizer and its text encoder.
#[derive(Debug)]
pub(super) struct TextPart {
    pub(super) tokenizer: ClipTokenizer,
    pub(super) encoder: ClipTextEncoder,
}

impl StableDiffusion {
    /// The same model with one more [textual inversion](super::textual_inversion): its word, wherever it
    /// occurs in a text, stands for its vectors.
    ///
    /// # Errors
    /// If it belongs to another model, has more vectors than a text may have tokens, or its word is taken.
    pub fn with_embedding(
        mut self,
        embedding: TextualInversion,
    ) -> Result<Self, StableDiffusionError> {
        self.add_embedding(embedding)?;
        Ok(self)
    }

    /// See [`with_embedding`](Self::with_embedding).
    pub(super) fn add_embedding(
        &mut self,
        embedding: TextualInversion,
    ) -> Result<(), StableDiffusionError> {
        let channels: Vec<usize> = self.texts.iter().map(|t| t.encoder.channels()).collect();
        let capacities = self.texts.iter().map(|text| text.tokenizer.capacity());
        embedding.check(&channels, capacities.min().unwrap_or(0), &self.embeddings)?;
        self.embeddings.push(embedding);
        Ok(())
    }

    /// The vectors of a text's tokens in the table of each text encoder, `[count, channels]`: repeated if the text
    /// has fewer, cut if it has more.
    ///
    /// # Errors
    /// If the text has no token, or the tokenizer fails.
    pub(super) fn token_vectors(
        &self,
        text: &str,
        count: usize,
    ) -> Result<Vec<Tensor<2>>, StableDiffusionError> {
        let prompt = Prompt::plain(text);
        let tables = self.texts.iter().map(|part| {
            let empty = empty_part(&part.tokenizer);
            let (found, _) = first_part(&prompt, &part.tokenizer, &[])?;
            // Between the start and the first place where nothing is left.
            let own = found.ids.iter().zip(&empty.ids).skip(1);
            let tokens: Vec<u32> = own.take_while(|(a, b)| a != b).map(|(&id, _)| id).collect();
            if tokens.is_empty() {
                let name = "number of tokens of the text to start from";
                return Err(OutOfRange::new(name, 0, "at least 1").into());
            }
            let ids: Vec<u32> = tokens.iter().copied().cycle().take(count).collect();
            Ok(part.encoder.vectors(&ids))
        });
        tables.collect()
    }

    /// Encodes a text, positive or negative, without weights. What does not fit into the encoder is left out;
    /// [`encode_prompts`](Self::encode_prompts) has room for it.
    ///
    /// # Errors
    /// If the tokenizer or the encoder fails.
    pub fn encode_text(&self, text: &str) -> Result<Conditioning, StableDiffusionError> {
        self.encode_text_skipping(text, 0)
    }

    /// Encodes a text without the last `layers` layers of each text encoder ("clip skip", counted as in
    /// `diffusers`: 1 is what other programs call 2). SDXL's encoders always leave out their last layer;
    /// `layers` more are left out. The pooled text still uses all layers.
    ///
    /// # Errors
    /// If an encoder has no more layers than that, and as [`encode_text`](Self::encode_text).
    pub fn encode_text_skipping(
        &self,
        text: &str,
        layers: usize,
    ) -> Result<Conditioning, StableDiffusionError> {
        let (prompt, words) = (Prompt::plain(text), self.words());
        let mut most = 0;
        let parts = self.texts.iter().map(|text| {
            let (part, cut) = first_part(&prompt, &text.tokenizer, &words)?;
            most = most.max(cut);
            Ok(vec![part])
        });
        let parts = parts.collect::<Result<Vec<_>, ClipTokenizerError>>()?;
        Ok(Conditioning {
            cut: most,
            ..self.encode_parts(&parts, Emphasis::None, layers)?
        })
    }

    /// The conditioning for a missing negative text.
    ///
    /// # Errors
    /// As [`encode_text`](Self::encode_text).
    pub fn encode_nothing(&self) -> Result<Conditioning, StableDiffusionError> {
        let empty = self.encode_text("")?;
        Ok(match self.zeros_for_nothing {
            true => zeros_like(&empty),
            false => empty,
        })
    }

    /// Encodes a prompt, without the last `skip` layers as in
    /// [`encode_text_skipping`](Self::encode_text_skipping), and a negative prompt with all layers; `None` is
    /// a missing one. Both get the same number of parts, the missing ones being empty.
    ///
    /// # Errors
    /// As [`encode_text_skipping`](Self::encode_text_skipping).
    pub fn encode_prompts(
        &self,
        positive: &Prompt,
        negative: Option<&Prompt>,
        skip: usize,
    ) -> Result<[Conditioning; 2], StableDiffusionError> {
        let nothing = Prompt::plain("");
        let prompts = [positive, negative.unwrap_or(&nothing)];
        let words = self.words();
        let parts_of = |prompt: &Prompt| {
            let texts = self.texts.iter();
            let parts = texts.map(|text| prompt_parts(prompt, &text.tokenizer, &words));
            parts.collect::<Result<Vec<_>, _>>()
        };
        let [mut with, mut without] = [parts_of(prompts[0])?, parts_of(prompts[1])?];
        let most = with.iter().chain(&without).map(Vec::len).max();
        for parts in [&mut with, &mut without] {
            for (parts, text) in parts.iter_mut().zip(&self.texts) {
                parts.resize(most.unwrap_or(1), empty_part(&text.tokenizer));
            }
        }
        let with = self.encode_parts(&with, positive.emphasis(), skip)?;
        let without = self.encode_parts(&without, prompts[1].emphasis(), 0)?;
        Ok(match negative {
            None if self.zeros_for_nothing => [with, zeros_like(&without)],
            _ => [with, without],
        })
    }

    /// The words that stand for vectors.
    fn words(&self) -> Vec<Word<'_>> {
        let words = self.embeddings.iter().map(|embedding| Word {
            text: embedding.word(),
            vectors: embedding.vectors(),
        });
        words.collect()
    }

    /// - `parts`: of each text encoder, the same number for all
    fn encode_parts(
        &self,
        parts: &[Vec<PromptPart>],
        emphasis: Emphasis,
        layers: usize,
    ) -> Result<Conditioning, StableDiffusionError> {
        let (mut states, mut pooled) = (Vec::new(), None);
        for (encoder, (text, parts)) in self.texts.iter().zip(parts).enumerate() {
            let mut of_parts = Vec::with_capacity(parts.len());
            for (number, part) in parts.iter().enumerate() {
                let replaced = part.replaced.iter().map(|replaced| TokenVector {
                    text: 0,
                    position: replaced.position,
                    vector: self.embeddings[replaced.word].vector(
                        encoder,
                        replaced.row,
                        &self.device,
                    ),
                });
                let replaced: Vec<TokenVector> = replaced.collect();
                let ids = [part.ids.clone()];
                let output = text.encoder.forward_replacing(&ids, &replaced)?;
                let state = match (self.takes_sizes(), layers) {
                    (true, layers) => output.skip(layers.saturating_add(1)),
                    (false, 0) => Some(output.last),
                    (false, layers) => output.skip(layers).map(|h| text.encoder.normalize(h)),
                };
                let Some(state) = state else {
                    let most = output.hidden.len() - 1 - usize::from(self.takes_sizes());
                    let name = "number of text encoder layers to skip";
                    let expected = format!("at most {most}");
                    return Err(OutOfRange::new(name, layers, expected).into());
                };
                of_parts.push(weighted(state, &part.weights, emphasis));
                if number == 0 {
                    pooled = output.projected.or(pooled);
                }
            }
            states.push(Tensor::cat(of_parts, 1));
        }
        Ok(Conditioning {
            text: Tensor::cat(states, 2),
            pooled,
            cut: 0,
        })
    }
}

fn zeros_like(conditioning: &Conditioning) -> Conditioning {
    Conditioning {
        text: conditioning.text.zeros_like(),
        pooled: conditioning.pooled.as_ref().map(Tensor::zeros_like),
        cut: 0,
    }
}

/// The state of a part with the weights of its tokens, `[1, length, channels]`.
fn weighted(state: Tensor<3>, weights: &[f32], emphasis: Emphasis) -> Tensor<3> {
    if weights.iter().all(|&weight| weight == 1.0) {
        return state;
    }
    let dtype = state.dtype();
    let state = state.cast(DType::F32);
    let weights = Tensor::<1>::from_floats(weights, &state.device());
    let weighted = state.clone() * weights.reshape([1, -1, 1]);
    let weighted = match emphasis {
        Emphasis::Original => {
            let [before, after] = [state, weighted.clone()].map(|z| z.mean().into_scalar::<f32>());
            let factor = before / after;
            // No factor gives a mean of 0 another value.
            match factor.is_finite() {
                true => weighted * factor,
                false => weighted,
            }
        }
        Emphasis::NoNorm | Emphasis::None => weighted,
    };
    weighted.cast(dtype)
}
