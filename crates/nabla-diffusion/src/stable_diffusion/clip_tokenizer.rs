//! CLIP's tokenizer, which turns a text into the ids of its pieces.
//!
//! The text is converted to lower case, runs of spaces become one space, and the text is cut into words,
//! digits and runs of punctuation. Each of these is spelled in bytes and merged pair by pair in the order of
//! a learned list (byte pair encoding; Sennrich et al., *Neural Machine Translation of Rare Words with
//! Subword Units*, 2016, arXiv 1508.07909); a piece that ends a word is marked `</w>`. A start and an end
//! token are added, the middle is truncated to fit, and the rest is padded, so that every text has the length
//! for which the encoder was trained, 77.
//!
//! A folder has its own vocabulary. The vocabulary of CLIP itself, with which every published Stable
//! Diffusion was trained, is part of this crate, for single-file checkpoints: [`ClipTokenizer::published`].
//!
//! The `tokenizers` library does the merging; this module configures it. The ids equal those of
//! `CLIPTokenizer` in `transformers`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::utils::{Lowercase, Sequence as Normalizers};
use tokenizers::normalizers::{NFC, NormalizerWrapper, Replace};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::model_folder::{ModelFolderError, Part, read_json};

/// The pattern by which a text is cut before pieces are merged.
const WORDS: &str = concat!(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d",
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
);

/// CLIP's merges, a line each, gzipped; see `assets/README.md`.
const PUBLISHED: &[u8] = include_bytes!("../../assets/clip/bpe_simple_vocab_16e6.txt.gz");

/// Its name in error messages.
const PUBLISHED_NAME: &str = "bpe_simple_vocab_16e6.txt.gz";

/// The mark that begins a text.
const START: &str = "<|startoftext|>";

/// The mark that ends it.
const END: &str = "<|endoftext|>";

/// The number of merges with which CLIP was trained; its file has more.
const PUBLISHED_MERGES: usize = 49_152 - 256 - 2;

/// The length of a text if no file states it.
const LENGTH: usize = 77;

/// The reason why a text cannot be tokenized.
#[derive(Debug, thiserror::Error)]
#[error("the text {text:?} cannot be tokenized: {reason}")]
pub struct ClipTokenizerError {
    /// The text.
    pub text: String,
    /// What is wrong.
    pub reason: String,
}

/// A text as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipTokens {
    /// Start, pieces, end and padding; their number is [`ClipTokenizer::length`].
    pub ids: Vec<u32>,
    /// The number of ids that are not padding.
    pub used: usize,
    /// The number of pieces of the text that did not fit and were dropped.
    pub cut: usize,
}

/// The padding of a short text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipFilling {
    /// The mark that ends a text, as in Stable Diffusion 1.x.
    End,
    /// The id 0, an exclamation mark, as in OpenCLIP and so in Stable Diffusion 2.x.
    Zero,
}

/// A tokenizer; see the [module](self).
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    begin: u32,
    end: u32,
    pad: u32,
    length: usize,
}

impl ClipTokenizer {
    /// Loads the tokenizer of a folder from `vocab.json` and `merges.txt` or, if these are missing, from
    /// `tokenizer.json`; uses `tokenizer_config.json` and `special_tokens_map.json` if they exist.
    ///
    /// # Errors
    /// If a file is missing or damaged, or a special token is not in the vocabulary.
    pub fn load(part: &Part) -> Result<Self, ModelFolderError> {
        let special = SpecialTokens::read(part.folder())?;
        let [vocabulary, merges, whole] =
            ["vocab.json", "merges.txt", "tokenizer.json"].map(|name| part.folder().join(name));
        let (path, tokenizer) = if vocabulary.is_file() {
            let merges = match merges.is_file() {
                true => merges,
                false => part.file("merges.txt")?,
            };
            let text = |path: &Path| path.to_string_lossy().into_owned();
            let model = BPE::from_file(&text(&vocabulary), &text(&merges));
            let unknown = &special.unknown.content;
            let tokenizer = byte_pairs(&vocabulary, model, unknown)?;
            (vocabulary, tokenizer)
        } else if whole.is_file() {
            let tokenizer = Tokenizer::from_file(&whole).map_err(|e| damaged(&whole, e))?;
            (whole, tokenizer)
        } else {
            return Err(ModelFolderError::NoFile {
                folder: part.folder().to_owned(),
                file: "vocab.json and merges.txt, nor tokenizer.json".to_owned(),
            });
        };
        Self::with_special_tokens(tokenizer, &special, path)
    }

    /// The tokenizer of CLIP itself, with its vocabulary of 49408 pieces.
    ///
    /// ```
    /// use nabla_diffusion::stable_diffusion::clip_tokenizer::{ClipFilling, ClipTokenizer};
    ///
    /// let tokenizer = ClipTokenizer::published(ClipFilling::Zero)?;
    /// let tokens = tokenizer.encode("a cat")?;
    /// assert_eq!(tokens.ids[..6], [49406, 320, 2368, 49407, 0, 0]);
    /// assert_eq!(tokens.ids.len(), 77);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Never, unless the program itself is damaged.
    pub fn published(filling: ClipFilling) -> Result<Self, ModelFolderError> {
        let path = PathBuf::from(PUBLISHED_NAME);
        let mut text = String::new();
        GzDecoder::new(PUBLISHED)
            .read_to_string(&mut text)
            .map_err(|e| damaged(&path, e.into()))?;
        let merges: Vec<(String, String)> = text
            .lines()
            .skip(1)
            .take(PUBLISHED_MERGES)
            .filter_map(|line| line.split_once(' '))
            .map(|(left, right)| (left.to_owned(), right.to_owned()))
            .collect();
        let letters = byte_letters();
        let pieces = letters
            .iter()
            .map(char::to_string)
            .chain(letters.iter().map(|letter| format!("{letter}</w>")))
            .chain(merges.iter().map(|(left, right)| format!("{left}{right}")))
            .chain([START, END].map(str::to_owned));
        let vocabulary: Vocab = pieces.zip(0u32..).collect();
        let mut special = SpecialTokens::published();
        if filling == ClipFilling::Zero {
            special.pad = Token::plain("!");
        }
        let model = BPE::builder().vocab_and_merges(vocabulary, merges);
        let tokenizer = byte_pairs(&path, model, &special.unknown.content)?;
        Self::with_special_tokens(tokenizer, &special, path)
    }

    /// - `path`: its source, for error messages
    fn with_special_tokens(
        mut tokenizer: Tokenizer,
        special: &SpecialTokens,
        path: PathBuf,
    ) -> Result<Self, ModelFolderError> {
        // Texts are truncated and padded here.
        let _ = tokenizer.with_truncation(None);
        tokenizer.with_padding(None);
        for (id, token) in special.all() {
            let found = tokenizer.token_to_id(&token.content);
            let next = tokenizer.get_vocab_size(true) as u32;
            // A token that is not in the vocabulary gets the next id.
            if id.is_some_and(|id| found.unwrap_or(next) != id) || id.or(found).is_none() {
                return Err(ModelFolderError::Config {
                    path,
                    reason: match id {
                        Some(id) => format!("its token {} cannot have the id {id}", token.content),
                        None => format!("it has no token {}", token.content),
                    },
                });
            }
            // The properties of tokens in a `tokenizer.json` take precedence.
            let known = tokenizer.get_added_tokens_decoder();
            if known.values().any(|known| known.content == token.content) {
                continue;
            }
            let added = match token.special {
                true => tokenizer.add_special_tokens([token.added()]),
                false => tokenizer.add_tokens([token.added()]),
            };
            added.map_err(|e| damaged(&path, e))?;
        }
        let id = |token: &Token| {
            let id = tokenizer.token_to_id(&token.content);
            id.ok_or_else(|| ModelFolderError::Config {
                path: path.clone(),
                reason: format!("it has no token {}", token.content),
            })
        };
        Ok(Self {
            begin: id(&special.begin)?,
            end: id(&special.end)?,
            pad: id(&special.pad)?,
            length: special.length,
            tokenizer,
        })
    }

    /// The number of ids of every text.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The id of the padding.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The id that ends a text.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The most pieces of a text that fit between its start and its end.
    pub fn capacity(&self) -> usize {
        self.length - 2
    }

    /// The id of a comma that ends a word, if the vocabulary has it.
    pub fn comma(&self) -> Option<u32> {
        self.tokenizer.token_to_id(",</w>")
    }

    /// The ids of a text.
    ///
    /// # Errors
    /// If the vocabulary has neither a piece for one of its bytes nor one for unknown pieces.
    pub fn encode(&self, text: &str) -> Result<ClipTokens, ClipTokenizerError> {
        let pieces = self.pieces(text)?;
        let kept = pieces.len().min(self.capacity());
        Ok(ClipTokens {
            ids: self.framed(&pieces[..kept]),
            used: kept + 2,
            cut: pieces.len() - kept,
        })
    }

    /// The ids of the pieces of a text, of any number, without start, end and padding.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn pieces(&self, text: &str) -> Result<Vec<u32>, ClipTokenizerError> {
        let found = self.tokenizer.encode_fast(text, false);
        let found = found.map_err(|e| ClipTokenizerError {
            text: text.to_owned(),
            reason: e.to_string(),
        })?;
        Ok(found.get_ids().to_vec())
    }

    /// Start, `pieces`, end and padding; at most [`capacity`](Self::capacity) pieces are taken.
    pub fn framed(&self, pieces: &[u32]) -> Vec<u32> {
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.begin);
        ids.extend(pieces.iter().take(self.capacity()));
        ids.push(self.end);
        ids.resize(self.length, self.pad);
        ids
    }
}

/// Byte pair encoding as CLIP was trained with it.
///
/// - `vocabulary`: the source of the pieces, for error messages
/// - `unknown`: the piece for anything that is not in the vocabulary
fn byte_pairs(
    vocabulary: &Path,
    model: BpeBuilder,
    unknown: &str,
) -> Result<Tokenizer, ModelFolderError> {
    let model = model
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".to_owned())
        .unk_token(unknown.to_owned())
        .build()
        .map_err(|e| damaged(vocabulary, e))?;
    let spaces = ReplacePattern::Regex(r"\s+".to_owned());
    let words = SplitPattern::Regex(WORDS.to_owned());
    let own = |e| damaged(vocabulary, e);
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(Normalizers::new(vec![
            NormalizerWrapper::NFC(NFC),
            NormalizerWrapper::Replace(Replace::new(spaces, " ").map_err(own)?),
            NormalizerWrapper::Lowercase(Lowercase),
        ])))
        .map_err(own)?
        .with_pre_tokenizer(Some(PreTokenizers::new(vec![
            PreTokenizerWrapper::Split(
                Split::new(words, SplitDelimiterBehavior::Removed, true).map_err(own)?,
            ),
            PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
        ])));
    Ok(tokenizer)
}

/// The letter for each byte, in the order of CLIP's ids: printable bytes come first and are their own
/// letters, the others are the letters from U+0100 on.
fn byte_letters() -> Vec<char> {
    let printed = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let (first, rest): (Vec<u8>, Vec<u8>) = (0..=255).partition(printed);
    let rest = (0x100u32..)
        .zip(rest)
        .filter_map(|(letter, _)| char::from_u32(letter));
    first.into_iter().map(char::from).chain(rest).collect()
}

fn damaged(path: &Path, e: tokenizers::Error) -> ModelFolderError {
    ModelFolderError::Config {
        path: path.to_owned(),
        reason: e.to_string(),
    }
}

/// A token that is found in a text as a whole.
#[derive(Clone, Debug, Deserialize)]
struct Token {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// Whether it is searched for after the conversion to lower case.
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

impl Token {
    fn plain(content: &str) -> Self {
        Self {
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        }
    }

    fn added(&self) -> AddedToken {
        AddedToken::from(self.content.clone(), self.special)
            .single_word(self.single_word)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .normalized(self.normalized)
    }
}

/// The special tokens that the two configurations name.
#[derive(Debug)]
struct SpecialTokens {
    begin: Token,
    end: Token,
    unknown: Token,
    pad: Token,
    /// By their ids.
    others: BTreeMap<u32, Token>,
    length: usize,
}

impl SpecialTokens {
    fn read(folder: &Path) -> Result<Self, ModelFolderError> {
        let optional = |name: &str| -> Result<(PathBuf, BTreeMap<String, Value>), _> {
            let path = folder.join(name);
            match path.is_file() {
                true => read_json(&path).map(|values| (path, values)),
                false => Ok((path, BTreeMap::new())),
            }
        };
        let wrong = |path: &Path, key: &str, value: &Value| ModelFolderError::Config {
            path: path.to_owned(),
            reason: format!("{key} cannot be {value}"),
        };
        let (path, config) = optional("tokenizer_config.json")?;
        let (map_path, map) = optional("special_tokens_map.json")?;

        let mut others = BTreeMap::new();
        let decoder = config.get("added_tokens_decoder");
        if let Some(decoder) = decoder {
            let read = BTreeMap::<u32, Token>::deserialize(decoder);
            others = read.map_err(|_| wrong(&path, "added_tokens_decoder", decoder))?;
        }
        // In older files, the map takes precedence; newer ones have everything in the configuration.
        let sources = match decoder {
            Some(_) => [(&path, &config), (&map_path, &map)],
            None => [(&map_path, &map), (&path, &config)],
        };
        let token = |key: &str, otherwise: &str| {
            let found = sources.iter().find_map(|(path, values)| {
                let value = values.get(key).filter(|value| !value.is_null())?;
                Some((path, value))
            });
            match found {
                None => Ok(Token::plain(otherwise)),
                Some((_, Value::String(content))) => Ok(Token::plain(content)),
                Some((path, value)) => Token::deserialize(value)
                    .map(|token| Token {
                        special: true,
                        ..token
                    })
                    .map_err(|_| wrong(path, key, value)),
            }
        };
        let length = match config.get("model_max_length") {
            None | Some(Value::Null) => LENGTH,
            Some(value) => match value.as_f64() {
                // Some files have 10³⁰, which means that the length is unknown.
                Some(length) if length >= 1e6 => LENGTH,
                Some(length) if length >= 2.0 => length as usize,
                _ => return Err(wrong(&path, "model_max_length", value)),
            },
        };
        Ok(Self {
            begin: token("bos_token", START)?,
            end: token("eos_token", END)?,
            unknown: token("unk_token", END)?,
            pad: token("pad_token", END)?,
            others,
            length,
        })
    }

    /// CLIP's own.
    fn published() -> Self {
        let [begin, end] = [START, END].map(|content| Token {
            // As in the published files: they are found in a text in any case.
            normalized: true,
            ..Token::plain(content)
        });
        Self {
            begin,
            unknown: end.clone(),
            end,
            pad: Token::plain(END),
            others: BTreeMap::new(),
            length: LENGTH,
        }
    }

    /// All tokens, each once, with their ids if given. If two have the same text, the later one determines
    /// how it is searched for.
    fn all(&self) -> Vec<(Option<u32>, &Token)> {
        let named = [&self.begin, &self.end, &self.unknown, &self.pad];
        let named = named.into_iter().map(|token| (None, token));
        let others = self.others.iter().map(|(&id, token)| (Some(id), token));
        let mut all: Vec<(Option<u32>, &Token)> = Vec::new();
        for (id, token) in named.chain(others) {
            all.retain(|(_, known)| known.content != token.content);
            all.push((id, token));
        }
        all
    }
}
