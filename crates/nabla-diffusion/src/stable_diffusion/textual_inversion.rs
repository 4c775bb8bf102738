//! Textual inversions: words whose vectors were learned from a few pictures, in small files of their own.
//!
//! The vectors take the place of those that the text encoder's table has for a token, before the positions
//! are added. A word may have several of them, and then takes as many tokens of the text.
//!
//! | file | layout |
//! |---|---|
//! | `learned_embeds.safetensors`, `.bin` of `diffusers` | one tensor, `[channels]` or `[vectors, channels]`; its name is the word |
//! | `.pt` of the original code and AUTOMATIC1111 | a dictionary `string_to_param` with one tensor |
//! | `.safetensors` of AUTOMATIC1111 | `emb_params`, `[vectors, channels]` |
//! | for SDXL | `clip_l` and `clip_g`, `[vectors, channels]` of the two text encoders |
//!
//! In the first layout, the word is the tensor's name, such as `<cat-toy>`. Otherwise it is the file's name
//! without the ending, as in AUTOMATIC1111's program, and any other can be given. Nothing in a `.pt` or `.bin`
//! file is run.
//!
//! Source: Gal et al., *An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual
//! Inversion*, 2022, arXiv 2208.01618.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::weights::{Precision, Weights, WeightsError};

/// The reason why a textual inversion cannot be read or used.
#[derive(Debug, thiserror::Error)]
pub enum TextualInversionError {
    /// The file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The file has another layout.
    #[error(
        "{} holds no textual inversion: one tensor, string_to_param, emb_params, or clip_l and clip_g \
         were expected, but {found}",
        path.display()
    )]
    Layout {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// The word is empty or contains white space at an end.
    #[error("the word of {} is {word:?}, but it must be a text without spaces around it", path.display())]
    Word {
        /// The file.
        path: PathBuf,
        /// The word.
        word: String,
    },
    /// Another one has the word.
    #[error("{} and {} are both for the word {word:?}: give one of them another", path.display(), other.display())]
    Taken {
        /// The file.
        path: PathBuf,
        /// The other file.
        other: PathBuf,
        /// The word.
        word: String,
    },
    /// It belongs to another model.
    #[error(
        "{} is for another model: its vectors have {found:?} channels, but the text encoders take {expected:?}",
        path.display()
    )]
    Channels {
        /// The file.
        path: PathBuf,
        /// Channels of its tensors.
        found: Vec<usize>,
        /// Channels of the model's text encoders.
        expected: Vec<usize>,
    },
    /// It has too many vectors.
    #[error("{} has {vectors} vectors, but a text has room for {most} tokens", path.display())]
    Vectors {
        /// The file.
        path: PathBuf,
        /// The number of its vectors.
        vectors: usize,
        /// The most.
        most: usize,
    },
}

/// A learned word; see the [module](self).
#[derive(Clone, Debug)]
pub struct TextualInversion {
    path: PathBuf,
    word: String,
    /// For each text encoder.
    tables: Vec<Table>,
    /// The same as tensors, while it is learned: gradients reach them.
    learned: Vec<Tensor<2>>,
}

/// The vectors for one text encoder.
#[derive(Clone, Debug)]
struct Table {
    /// One after the other.
    values: Vec<f32>,
    vectors: usize,
    channels: usize,
}

impl TextualInversion {
    /// Reads a file.
    ///
    /// - `word`: the word in texts; `None` for the file's own
    ///
    /// # Errors
    /// If the file cannot be read or has another layout, or the word is empty.
    pub fn read(path: &Path, word: Option<&str>) -> Result<Self, TextualInversionError> {
        let weights = Weights::open(&[path.to_owned()], &Device::flex(), Precision::F32)?;
        let names: Vec<&str> = weights.names_below("").collect();
        // Original files also have a tensor with the token's number.
        let params: Vec<&str> = weights.names_below(PARAM).collect();
        let wrong = |found: String| TextualInversionError::Layout {
            path: path.to_owned(),
            found,
        };
        let (tables, own) = match (&params[..], &names[..]) {
            ([one], _) => (vec![*one], None),
            ([], ["clip_g", "clip_l"]) => (vec!["clip_l", "clip_g"], None),
            ([], [one]) => {
                let named = *one != "emb_params" && *one != "*";
                (vec![*one], named.then_some(*one))
            }
            ([], []) => return Err(wrong("it has none".to_owned())),
            ([], [first, ..]) => {
                return Err(wrong(format!(
                    "it has {} tensors, such as {first}",
                    names.len()
                )));
            }
            (several, _) => {
                return Err(wrong(format!(
                    "string_to_param has {} tensors",
                    several.len()
                )));
            }
        };
        let tables = tables.into_iter().map(|name| {
            let (values, shape) = weights.root().values(name)?;
            let (vectors, channels) = match shape[..] {
                [channels] => (1, channels),
                [vectors, channels] => (vectors, channels),
                _ => (0, 0),
            };
            match vectors > 0 && channels > 0 {
                true => Ok(Table {
                    values,
                    vectors,
                    channels,
                }),
                false => Err(wrong(format!("{name} has the shape {shape:?}"))),
            }
        });
        let tables = tables.collect::<Result<Vec<_>, TextualInversionError>>()?;
        if let [first, second] = &tables[..]
            && first.vectors != second.vectors
        {
            return Err(wrong(format!(
                "clip_l has {} vectors and clip_g {}",
                first.vectors, second.vectors
            )));
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let word = word.or(own).unwrap_or(&stem);
        if word.is_empty() || word.trim() != word {
            return Err(TextualInversionError::Word {
                path: path.to_owned(),
                word: word.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            word: word.to_owned(),
            tables,
            learned: Vec::new(),
        })
    }

    /// A word with these vectors, which may require gradients.
    ///
    /// - `vectors`: for each text encoder, `[vectors, channels]`, on the device of the model
    ///
    /// # Errors
    /// If the word is empty or has white space at an end, or there are no vectors, or not as many for each encoder.
    pub fn of_vectors(word: &str, vectors: Vec<Tensor<2>>) -> Result<Self, TextualInversionError> {
        let path = PathBuf::from(format!("the learned word {word}"));
        if word.is_empty() || word.trim() != word {
            let word = word.to_owned();
            return Err(TextualInversionError::Word { path, word });
        }
        let count = vectors.first().map_or(0, |first| first.dims()[0]);
        let same = vectors.iter().all(|table| table.dims()[0] == count);
        if count == 0 || !same || vectors.len() > 2 {
            let shapes: Vec<_> = vectors.iter().map(Tensor::dims).collect();
            let found = format!("the vectors have the shapes {shapes:?}");
            return Err(TextualInversionError::Layout { path, found });
        }
        let tables = vectors.iter().map(|table| {
            let [vectors, channels] = table.dims();
            let data = table.clone().inner().into_data().convert::<f32>();
            Table {
                values: data.iter::<f32>().collect(),
                vectors,
                channels,
            }
        });
        Ok(Self {
            path,
            word: word.to_owned(),
            tables: tables.collect(),
            learned: vectors,
        })
    }

    /// The bytes of a `.safetensors` file that this module, `diffusers`, AUTOMATIC1111's program and ComfyUI read:
    /// one tensor with the word as its name, or `clip_l` and `clip_g` for SDXL.
    ///
    /// # Errors
    /// If the tensors cannot be written.
    pub fn file(&self) -> Result<Vec<u8>, TextualInversionError> {
        let names = match self.tables.len() {
            1 => vec![self.word.as_str()],
            _ => vec!["clip_l", "clip_g"],
        };
        let failed = |error: safetensors::SafeTensorError| TextualInversionError::Layout {
            path: self.path.clone(),
            found: error.to_string(),
        };
        let bytes = self.tables.iter().map(|table| {
            let values = table.values.iter();
            values.flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()
        });
        let bytes: Vec<Vec<u8>> = bytes.collect();
        let views = names.into_iter().zip(&self.tables).zip(&bytes);
        let views = views.map(|((name, table), bytes)| {
            let shape = vec![table.vectors, table.channels];
            Ok((name, TensorView::new(Dtype::F32, shape, bytes)?))
        });
        let views = views.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        safetensors::serialize(views, None).map_err(failed)
    }

    /// The file that it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The word that stands for it; case does not matter.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// The number of its vectors.
    pub fn vectors(&self) -> usize {
        self.tables.first().map_or(0, |table| table.vectors)
    }

    /// - `channels`: of each text encoder of a model
    /// - `most`: tokens of a text
    /// - `others`: those that the model already has
    pub(super) fn check(
        &self,
        channels: &[usize],
        most: usize,
        others: &[Self],
    ) -> Result<(), TextualInversionError> {
        let found: Vec<usize> = self.tables.iter().map(|table| table.channels).collect();
        if found != channels {
            return Err(TextualInversionError::Channels {
                path: self.path.clone(),
                found,
                expected: channels.to_vec(),
            });
        }
        if self.vectors() > most {
            return Err(TextualInversionError::Vectors {
                path: self.path.clone(),
                vectors: self.vectors(),
                most,
            });
        }
        let word = self.word.to_lowercase();
        match others
            .iter()
            .find(|other| other.word.to_lowercase() == word)
        {
            Some(other) => Err(TextualInversionError::Taken {
                path: self.path.clone(),
                other: other.path.clone(),
                word: self.word.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Vector number `row` for text encoder number `encoder`, `[channels]`. Both must exist.
    pub(super) fn vector(&self, encoder: usize, row: usize, device: &Device) -> Tensor<1> {
        if let Some(table) = self.learned.get(encoder) {
            let vector = table.clone().slice_dim(0, row..row + 1);
            return vector.flatten(0, 1);
        }
        let table = &self.tables[encoder];
        let first = row * table.channels;
        Tensor::from_floats(&table.values[first..first + table.channels], device)
    }
}

/// The prefix of a vector's name in the original layout.
const PARAM: &str = "string_to_param.";
