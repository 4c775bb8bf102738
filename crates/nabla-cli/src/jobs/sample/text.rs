//! How the texts are understood: weights, parts, and learned words.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use nabla::base::choices::Choices;
use nabla::diffusion::stable_diffusion::pipeline::{Conditioning, StableDiffusion};
use nabla::diffusion::stable_diffusion::prompt::{Emphasis, Prompt};
use nabla::diffusion::stable_diffusion::textual_inversion::TextualInversion;
use serde::Serialize;

use crate::choice::choice;
use crate::errors::Failure;

/// The flags.
#[derive(Args)]
pub struct TextFlags {
    /// How weights in --prompt and --negative act: (word:1.3) has 1.3, (word) 1.1 and [word] 1/1.1, a bracket
    /// that is text is written \\(; BREAK begins a new part of a long text
    #[arg(long, value_parser = choice::<Emphasis>(), default_value = "original")]
    emphasis: Emphasis,
    /// A textual inversion, with the word for it in --prompt and --negative if that is not the file's own;
    /// may be given several times
    #[arg(long, value_name = "FILE[:TOKEN]")]
    embedding: Vec<String>,
}

/// The texts as read.
pub struct Texts {
    positive: Prompt,
    negative: Option<Prompt>,
    embeddings: Vec<TextualInversion>,
}

/// What is told about them.
#[derive(Serialize)]
pub struct Told {
    emphasis: Option<&'static str>,
    embeddings: Vec<Embedding>,
}

#[derive(Serialize)]
struct Embedding {
    file: PathBuf,
    token: String,
    vectors: usize,
}

impl TextFlags {
    pub fn read(&self, positive: &str, negative: Option<&str>) -> Result<Texts, Failure> {
        let read = |text: &str| Prompt::with_emphasis(text, self.emphasis).map_err(Failure::input);
        let embeddings = self.embedding.iter().map(|text| {
            let (file, word) = file_and_word(text);
            TextualInversion::read(file, word).map_err(Failure::input)
        });
        Ok(Texts {
            positive: read(positive)?,
            negative: negative.map(read).transpose()?,
            embeddings: embeddings.collect::<Result<_, _>>()?,
        })
    }

    /// What the picture's metadata say.
    pub fn parameters(&self) -> String {
        let mut text = String::new();
        match self.emphasis {
            Emphasis::Original => {}
            Emphasis::NoNorm => text += ", Emphasis: No norm",
            Emphasis::None => text += ", Emphasis: None",
        }
        for embedding in &self.embedding {
            let (file, word) = file_and_word(embedding);
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let _ = write!(text, ", Embedding: {name}");
            if let Some(word) = word {
                let _ = write!(text, ":{word}");
            }
        }
        text
    }
}

/// `FILE` or `FILE:TOKEN`.
fn file_and_word(text: &str) -> (&Path, Option<&str>) {
    match text.rsplit_once(':') {
        Some((file, word)) if !Path::new(text).is_file() => (Path::new(file), Some(word)),
        _ => (Path::new(text), None),
    }
}

impl Texts {
    /// The model with the learned words.
    pub fn teach(&self, model: StableDiffusion) -> Result<StableDiffusion, Failure> {
        let mut embeddings = self.embeddings.iter().cloned();
        let model = embeddings.try_fold(model, StableDiffusion::with_embedding)?;
        Ok(model)
    }

    /// The positive and the negative text.
    pub fn encode(
        &self,
        model: &StableDiffusion,
        skip: usize,
    ) -> Result<[Conditioning; 2], Failure> {
        Ok(model.encode_prompts(&self.positive, self.negative.as_ref(), skip)?)
    }

    pub fn told(&self) -> Told {
        let embeddings = self.embeddings.iter().map(|embedding| Embedding {
            file: embedding.path().to_owned(),
            token: embedding.word().to_owned(),
            vectors: embedding.vectors(),
        });
        Told {
            emphasis: self.positive.emphasis().choice_name(),
            embeddings: embeddings.collect(),
        }
    }
}
