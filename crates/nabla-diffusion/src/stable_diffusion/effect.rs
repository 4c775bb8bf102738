//! An effect turned into a word: vectors of a [textual inversion](super::textual_inversion), learned by AdjointDPM
//! from a finished picture.
//!
//! The usual textual inversion predicts the noise of one random step. Here the loss is one of the picture that the
//! sampler makes in all its steps, such as its distance from a target, whose noise is known; the gradient comes back
//! through all of them, in the memory of one ([`adjoint_dpm`](crate::adjoint_dpm)):
//!
//! ```text
//! c = text encoder(prompt with the word v),   x_0 = sampler(x_T, c),   v ← AdamW(v, ∂L(x_0)/∂v)
//! ∂L/∂c = through the sampler,   ∂L/∂v = (∂c/∂v)ᵀ ∂L/∂c
//! ```
//!
//! The authors' code learns what the text encoder gives at the places of the padding. A word's own vectors do the same
//! within any text, and other programs read them.
//!
//! Source: Pan et al., 2024, arXiv 2307.10711, section 5.1.

use std::ops::ControlFlow;

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use nabla_base::range;

use super::pipeline::{Conditioning, SamplingOptions, StableDiffusion, StableDiffusionError};
use super::textual_inversion::TextualInversion;
use crate::adjoint_dpm::{AdjointDpm, AdjointError, LeafGradient, Tuning, TuningProgress};
use crate::denoiser::{Condition, Denoiser, Prediction};
use crate::guidance::ClassifierFree;
use crate::level::{Level, Levels};
use crate::sampler_error::{Cancelled, OwnError, SamplerError};

/// Why a word or a [style](super::style) cannot be learned.
#[derive(Debug, thiserror::Error)]
pub enum EffectError {
    /// The model.
    #[error(transparent)]
    Model(#[from] StableDiffusionError),
    /// The gradient.
    #[error(transparent)]
    Adjoint(AdjointError),
    /// The prompt does not contain the word.
    #[error("the prompt {prompt:?} does not contain the word {word:?}, which is to be learned")]
    NoWord {
        /// The prompt.
        prompt: String,
        /// The word.
        word: String,
    },
    /// The observer stopped the run.
    #[error("{}", Cancelled)]
    Cancelled,
}

impl From<AdjointError> for EffectError {
    fn from(error: AdjointError) -> Self {
        match error {
            AdjointError::Sampler(SamplerError::Cancelled) => Self::Cancelled,
            other => Self::Adjoint(other),
        }
    }
}

/// How a word is learned.
#[derive(Clone, Debug)]
pub struct EffectConfig {
    /// The word, such as `<glow>`.
    pub word: String,
    /// Its number of vectors.
    pub vectors: usize,
    /// A text from whose vectors it starts, repeated or cut to their number.
    pub init: String,
    /// The text that is drawn, which contains the word.
    pub prompt: String,
    /// The steps of AdamW.
    pub tuning: Tuning,
    /// How the picture is drawn and differentiated.
    pub adjoint: AdjointDpm,
}

impl EffectConfig {
    /// One vector that starts as `init`; otherwise the paper's: the defaults of [`Tuning`], and Euler's method.
    pub fn new(word: &str, init: &str, prompt: &str) -> Self {
        Self {
            word: word.to_owned(),
            vectors: 1,
            init: init.to_owned(),
            prompt: prompt.to_owned(),
            tuning: Tuning::new(),
            adjoint: AdjointDpm::new(),
        }
    }

    /// Checks what needs no model: the numbers, and that the prompt contains the word.
    ///
    /// # Errors
    /// If a number is out of range, or the word is not in the prompt.
    pub fn check(&self) -> Result<(), EffectError> {
        self.tuning
            .check()
            .and_then(|()| range::at_least("number of vectors", self.vectors, 1))
            .map_err(|error| EffectError::Model(error.into()))?;
        let folded = self.prompt.to_lowercase();
        match folded.contains(&self.word.to_lowercase()) {
            true => Ok(()),
            false => Err(EffectError::NoWord {
                prompt: self.prompt.clone(),
                word: self.word.clone(),
            }),
        }
    }
}

/// A learned word.
#[derive(Clone, Debug)]
pub struct LearnedEffect {
    /// The word, with the vectors of the least loss.
    pub inversion: TextualInversion,
    /// The loss before each iteration.
    pub losses: Vec<f64>,
}

/// The vectors, for each text encoder.
#[derive(Module, Debug)]
struct Vectors {
    tables: Vec<Param<Tensor<2>>>,
}

/// A text whose tensors are leaves, bound to the UNet anew in each call.
struct TextLeaf<'a> {
    model: &'a StableDiffusion,
    text: Conditioning,
    without: &'a Conditioning,
    options: &'a SamplingOptions,
}

impl TextLeaf<'_> {
    fn with<R>(
        &self,
        ask: impl FnOnce(&dyn Denoiser) -> Result<R, OwnError>,
    ) -> Result<R, OwnError> {
        let texts = [&self.text];
        let bound = self
            .model
            .denoiser(&texts, Some(self.without), self.options, None)?;
        ask(&bound)
    }
}

impl Denoiser for TextLeaf<'_> {
    fn prediction(&self) -> Prediction {
        self.model.prediction()
    }

    fn predict(
        &self,
        x: Tensor<4>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<4>>, OwnError> {
        self.with(|bound| bound.predict(x, level, conditions))
    }

    fn predict_rows(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<4>, OwnError> {
        self.with(|bound| bound.predict_rows(x, level, rows))
    }
}

impl StableDiffusion {
    /// Learns a word; see the [module](self). The model knows it afterwards.
    ///
    /// - `options`: size, steps and guidance scale of the picture
    /// - `noise`: the noise from which it is drawn, `[1, channels, height/8, width/8]`
    /// - `loss`: of the latent that was drawn; [`decode`](Self::decode) is differentiable for a loss of the picture
    /// - `observe`: is called after each iteration, and may stop the run
    ///
    /// # Errors
    /// If a number is out of range, the word is taken or not in the prompt, the model or the loss fails, or `observe`
    /// stops the run.
    pub fn learn_effect(
        &mut self,
        config: &EffectConfig,
        options: &SamplingOptions,
        noise: &Tensor<4>,
        loss: &mut dyn FnMut(&Self, Tensor<4>) -> Result<Tensor<1>, OwnError>,
        observe: &mut dyn FnMut(TuningProgress) -> ControlFlow<()>,
    ) -> Result<LearnedEffect, EffectError> {
        config.check()?;
        let model_error = |error: StableDiffusionError| EffectError::Model(error);
        let made = self.ddim(options.steps)?;
        let levels: Levels = made.sampler.levels().clone();
        let without = self.encode_nothing()?;
        let start = self.token_vectors(&config.init, config.vectors)?;
        let first = TextualInversion::of_vectors(&config.word, start.clone())
            .map_err(|error| model_error(error.into()))?;
        self.add_embedding(first)?;
        let place = self.embeddings.len() - 1;
        let tables = start
            .into_iter()
            .map(|table| Param::from_tensor(table.autodiff().require_grad()));
        let vectors = Vectors {
            tables: tables.collect(),
        };
        let mut best: Option<(f64, Vec<Tensor<2>>)> = None;
        let mut gradient = |vectors: &Vectors, _: usize| {
            let leaves: Vec<Tensor<2>> = vectors.tables.iter().map(Param::val).collect();
            let values: Vec<Tensor<2>> = leaves.iter().map(|leaf| leaf.clone().inner()).collect();
            self.embeddings[place] = TextualInversion::of_vectors(&config.word, leaves)
                .map_err(|error| model_error(error.into()))?;
            // The text with the graph of the encoders, and as leaves of the sampler.
            let encoded = self.encode_text(&config.prompt)?;
            let text = encoded.text.clone().inner().autodiff().require_grad();
            let pooled = encoded.pooled.clone();
            let pooled = pooled.map(|pooled| pooled.inner().autodiff().require_grad());
            let bound = TextLeaf {
                model: self,
                text: Conditioning {
                    text: text.clone(),
                    pooled: pooled.clone(),
                    cut: 0,
                },
                without: &without,
                options,
            };
            let of_pooled = pooled.unwrap_or_else(|| {
                let none = Tensor::<2>::zeros([1, 1], &text.device());
                none.require_grad()
            });
            let mut wanted = (LeafGradient::new(text), LeafGradient::new(of_pooled));
            let mut guidance = ClassifierFree::new().with_scale(options.guidance_scale);
            let mut run = config
                .adjoint
                .of(&bound, &levels)?
                .classifier_free(&mut guidance);
            let start = noise.clone() * made.start_scale;
            let found = run.gradient(start, &mut |x| loss(self, x), &mut wanted)?;
            if best.as_ref().is_none_or(|(least, _)| found.loss < *least) {
                best = Some((found.loss, values));
            }
            let mut scalar = (encoded.text * wanted.0.gradient()).sum();
            if let Some(pooled) = encoded.pooled {
                scalar = scalar + (pooled * wanted.1.gradient()).sum();
            }
            let gradients = GradientsParams::from_grads(scalar.backward(), vectors);
            Ok::<_, EffectError>((found.loss, gradients))
        };
        let (_, losses) = config.tuning.run(vectors, &mut gradient, observe)?;
        let values = best.map(|(_, values)| values).unwrap_or_default();
        let inversion = TextualInversion::of_vectors(&config.word, values)
            .map_err(|error| model_error(error.into()))?;
        self.embeddings[place] = inversion.clone();
        Ok(LearnedEffect { inversion, losses })
    }
}

impl From<SamplerError> for EffectError {
    fn from(error: SamplerError) -> Self {
        Self::Adjoint(error.into())
    }
}
