//! A published model with its tokenizer, opened from a file or a folder.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};

use crate::bert::{Bert, BertError};
use crate::gguf::{Gguf, GgufError};
use crate::llama::{Llama, LlamaError};
use crate::text_tokenizer::{TextTokenizer, TokenizerError};

/// The reason why a model cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum LanguageModelError {
    /// There is nothing.
    #[error("there is no file or folder {}", .0.display())]
    Missing(PathBuf),
    /// It is no model.
    #[error("{} is no model: a .gguf file was expected, or a folder with config.json, model.safetensors and tokenizer.json", .0.display())]
    NoModel(PathBuf),
    /// The file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A decoder.
    #[error(transparent)]
    Llama(#[from] LlamaError),
    /// An encoder.
    #[error(transparent)]
    Bert(#[from] BertError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

/// The network of a model.
#[derive(Clone, Debug)]
pub enum Network {
    /// A decoder, which gives the next piece.
    Llama(Llama),
    /// An encoder, which gives the meaning of a text.
    Bert(Bert),
}

/// A model with its tokenizer.
#[derive(Clone, Debug)]
pub struct LanguageModel {
    /// The network; its weights are constants.
    pub network: Network,
    /// Its tokenizer.
    pub tokenizer: TextTokenizer,
}

impl LanguageModel {
    /// Opens a GGUF file of the Llama family, or a folder with a model of the BERT family.
    ///
    /// # Errors
    /// If there is no such model, or a file is damaged.
    pub fn open(path: &Path, device: &Device) -> Result<Self, LanguageModelError> {
        if path.is_file() {
            let gguf = Gguf::open(path)?;
            return Ok(Self {
                tokenizer: TextTokenizer::of_gguf(&gguf)?,
                network: Network::Llama(Llama::of_gguf(&gguf, device)?.no_grad()),
            });
        }
        if !path.is_dir() {
            return Err(LanguageModelError::Missing(path.to_owned()));
        }
        if !path.join("config.json").is_file() {
            return Err(LanguageModelError::NoModel(path.to_owned()));
        }
        Ok(Self {
            network: Network::Bert(Bert::load(path, device)?.no_grad()),
            tokenizer: TextTokenizer::of_json(&path.join("tokenizer.json"))?,
        })
    }

    /// The blocks of the network.
    pub fn blocks(&self) -> usize {
        match &self.network {
            Network::Llama(model) => model.config.blocks,
            Network::Bert(model) => model.config.blocks,
        }
    }

    /// Values of an activation.
    pub fn width(&self) -> usize {
        match &self.network {
            Network::Llama(model) => model.config.width,
            Network::Bert(model) => model.config.width,
        }
    }

    /// Positions at most.
    pub fn context(&self) -> usize {
        match &self.network {
            Network::Llama(model) => model.config.context,
            Network::Bert(model) => model.config.context,
        }
    }

    /// The numbers of a text's pieces, `[1, length]`.
    pub fn tensor(ids: &[u32], device: &Device) -> Tensor<2, Int> {
        let values: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        Tensor::from_data(TensorData::new(values, [1, ids.len()]), device)
    }
}

/// Goes on with a text by the likeliest piece, again and again.
///
/// - `text`: the numbers of its pieces
/// - `count`: pieces to add
/// - `logits`: of every next piece, `[1, length, vocabulary]`, from the numbers of pieces `[1, length]`: the model's
///   own, or those of a model that was changed
///
/// # Errors
/// If the text is empty, its logits cannot be had, or they cannot be read.
pub fn continued<E: From<LanguageModelError>>(
    text: &[u32],
    count: usize,
    mut logits: impl FnMut(&[u32]) -> Result<Tensor<3>, E>,
) -> Result<Vec<u32>, E> {
    let wrong = |error: OutOfRange| E::from(error.into());
    range::at_least("number of pieces of the text", text.len(), 1).map_err(wrong)?;
    let mut ids = text.to_vec();
    for _ in 0..count {
        let all = logits(&ids)?;
        let [_, length, vocabulary] = all.dims();
        let last = all.narrow(1, length - 1, 1).reshape([1, vocabulary]);
        let best = last.argmax(1).try_into_vec_as::<i64>();
        let best = best.map_err(|e| E::from(LanguageModelError::Device(e.to_string())))?;
        ids.extend(best.first().map(|&best| best as u32));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_is_told() {
        let device = Device::flex();
        let folder = tempfile::tempdir().unwrap();
        let told = |path: &Path| {
            let error = LanguageModel::open(path, &device).unwrap_err();
            error.to_string()
        };
        assert!(told(&folder.path().join("none")).starts_with("there is no file or folder"));
        assert!(told(folder.path()).contains("is no model: a .gguf file was expected"));
        let file = folder.path().join("model.gguf");
        std::fs::write(&file, "not a model").unwrap();
        assert!(told(&file).contains("is not a GGUF file"));
        std::fs::write(folder.path().join("config.json"), "{}").unwrap();
        assert!(told(folder.path()).contains("is no configuration of a BERT model"));
        let config = r#"{"model_type": "gpt2", "vocab_size": 5, "hidden_size": 4, "intermediate_size": 4,
            "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 8}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        assert!(told(folder.path()).contains("is a model of the kind \"gpt2\", but bert is read"));
    }

    #[test]
    fn a_text_goes_on_with_what_is_likeliest() {
        let next = |ids: &[u32]| -> Result<Tensor<3>, LanguageModelError> {
            let mut values = vec![0.0_f32; ids.len() * 5];
            for (place, &id) in ids.iter().enumerate() {
                values[place * 5 + (id as usize + 2) % 5] = 1.0;
            }
            let data = TensorData::new(values, [1, ids.len(), 5]);
            Ok(Tensor::from_data(data, &Device::flex()))
        };
        assert_eq!(continued(&[1], 4, next).unwrap(), [1, 3, 0, 2, 4]);
        assert!(continued(&[], 4, next).is_err());
    }
}
