//! Texts as the numbers of their pieces, as a model was trained to read them.
//!
//! The `tokenizers` library does the work; a `tokenizer.json` is its own file, and the vocabulary of a GGUF file is
//! configured here: byte pairs, cut before by a pattern that the file only names.

use std::path::{Path, PathBuf};

use tokenizers::decoders::byte_level::ByteLevel as ByteDecoder;
use tokenizers::models::bpe::{BpeBuilder, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use crate::gguf::{Fact, Gguf, GgufError};

/// The reason why there is no tokenizer, or a text cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A kind that isn't known here.
    #[error("{} has a tokenizer of the kind {kind:?}, but only byte pairs cut as in gpt-2 and smollm are read", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it names.
        kind: String,
    },
    /// It cannot be made.
    #[error("the tokenizer of {} cannot be used: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the library says.
        reason: String,
    },
    /// A text cannot be cut.
    #[error("the text {text:?} cannot be cut into pieces: {reason}")]
    Text {
        /// Its beginning.
        text: String,
        /// What the library says.
        reason: String,
    },
}

/// A tokenizer.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// What stands before every text.
    begin: Option<u32>,
}

impl TextTokenizer {
    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// If its facts are missing, or name a kind that isn't known here.
    pub fn of_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let kind = gguf.text("tokenizer.ggml.model")?;
        let cut = gguf.text("tokenizer.ggml.pre").unwrap_or("default");
        let refused = |kind: &str| TokenizerError::Kind {
            path: gguf.path().to_owned(),
            kind: kind.to_owned(),
        };
        if kind != "gpt2" {
            return Err(refused(kind));
        }
        let bytes = ByteLevel::new(false, true, true);
        let before = match cut {
            "smollm" => PreTokenizerWrapper::Sequence(Sequence::new(vec![
                PreTokenizerWrapper::Digits(Digits::new(true)),
                PreTokenizerWrapper::ByteLevel(bytes),
            ])),
            "gpt-2" | "default" => PreTokenizerWrapper::ByteLevel(bytes),
            other => return Err(refused(other)),
        };
        let pieces = gguf.texts("tokenizer.ggml.tokens")?;
        let vocabulary: Vocab = pieces
            .iter()
            .enumerate()
            .map(|(id, piece)| ((*piece).to_owned(), id as u32))
            .collect();
        let damaged = |reason: String| TokenizerError::Damaged {
            path: gguf.path().to_owned(),
            reason,
        };
        let merges = gguf.texts("tokenizer.ggml.merges")?.into_iter();
        let merges = merges.map(|merge| match merge.split_once(' ') {
            Some((a, b)) => Ok((a.to_owned(), b.to_owned())),
            None => Err(damaged(format!("the merge {merge:?} has no space"))),
        });
        let merges = merges.collect::<Result<Vec<_>, _>>()?;
        let model = BpeBuilder::new().vocab_and_merges(vocabulary, merges);
        let model = model.build().map_err(|e| damaged(e.to_string()))?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(before));
        tokenizer.with_decoder(Some(ByteDecoder::default()));
        // Control tokens are of the type 3.
        if let Some(Fact::List(types)) = gguf.fact("tokenizer.ggml.token_type") {
            let control = pieces.iter().zip(types);
            let control = control.filter(|(_, kind)| **kind == Fact::Count(3));
            let control = control.map(|(piece, _)| AddedToken::from(*piece, true));
            let added = tokenizer.add_special_tokens(control);
            added.map_err(|e| damaged(e.to_string()))?;
        }
        // What stood between the texts of the training, before what begins a conversation.
        let begin = tokenizer.token_to_id("<|endoftext|>").or_else(|| {
            let id = gguf.count("tokenizer.ggml.bos_token_id").ok()?;
            u32::try_from(id).ok()
        });
        Ok(Self { tokenizer, begin })
    }

    /// The tokenizer of a `tokenizer.json`, which says itself what stands around a text.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_json(path: &Path) -> Result<Self, TokenizerError> {
        let mut tokenizer = Tokenizer::from_file(path).map_err(|e| TokenizerError::Damaged {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        // Whoever reads texts one by one needs no padding, and says how long they may be.
        tokenizer.with_padding(None);
        let endless = tokenizer.with_truncation(None);
        endless.map_err(|e| TokenizerError::Damaged {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        Ok(Self {
            tokenizer,
            begin: None,
        })
    }

    /// The numbers of the pieces of a text, with what stands around it.
    ///
    /// # Errors
    /// If it has bytes that the vocabulary lacks.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let found = self.tokenizer.encode(text, true);
        let found = found.map_err(|e| TokenizerError::Text {
            text: text.chars().take(40).collect(),
            reason: e.to_string(),
        })?;
        let pieces = found.get_ids().iter().copied();
        Ok(self.begin.into_iter().chain(pieces).collect())
    }

    /// The text of some pieces.
    ///
    /// # Errors
    /// If a number isn't that of a piece.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let text = self.tokenizer.decode(ids, false);
        text.map_err(|e| TokenizerError::Text {
            text: format!("{ids:?}"),
            reason: e.to_string(),
        })
    }

    /// Pieces of the vocabulary.
    pub fn size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny() -> Gguf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
        Gguf::open(&folder.join("tiny_llama.gguf")).unwrap()
    }

    #[test]
    fn pieces_are_merged_and_digits_are_apart() {
        let tokenizer = TextTokenizer::of_gguf(&tiny()).unwrap();
        assert_eq!(tokenizer.size(), 23);
        // The mark, "abc", " ", "ab", "1", "2": "ab" is merged before " a".
        let ids = tokenizer.encode("abc ab12").unwrap();
        assert_eq!(ids, [0, 22, 17, 20, 18, 19]);
        assert_eq!(tokenizer.decode(&ids).unwrap(), "<|endoftext|>abc ab12");
        assert_eq!(tokenizer.encode("").unwrap(), [0]);
        // A mark in a text is the mark itself.
        assert_eq!(tokenizer.encode("b<|endoftext|>b").unwrap(), [0, 2, 0, 2]);
    }

    #[test]
    fn a_tokenizer_that_cannot_be_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        std::fs::write(&path, "{}").unwrap();
        let told = TextTokenizer::of_json(&path).unwrap_err().to_string();
        assert!(told.contains("cannot be used"), "{told}");
    }
}
