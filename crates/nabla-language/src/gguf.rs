//! GGUF, the container of llama.cpp: facts about a model, and its tensors.
//!
//! The [specification](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): a header with the numbers of tensors and
//! facts, the facts (names with typed values), the tensors' names, shapes and formats, and the tensors themselves at
//! multiples of an alignment. Shapes are in memory order: the number of columns first.
//!
//! Versions 2 and 3 are read, in the little-endian order that all published files have.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::checks::{NotFinite, finite};
use crate::gguf_blocks::BlockType;

/// The reason why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The operating system's.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
    /// It is something else.
    #[error("{} is not a GGUF file: it begins with {found:?} instead of \"GGUF\"", path.display())]
    Magic {
        /// The file.
        path: PathBuf,
        /// Its first four bytes.
        found: String,
    },
    /// Its version is not known here.
    #[error("{} has version {version} of GGUF, but 2 and 3 are read", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// It is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where, and how.
        reason: String,
    },
    /// A fact is missing, or of another type.
    #[error("{} has no {expected} under {key:?}", path.display())]
    Fact {
        /// The file.
        path: PathBuf,
        /// Its name.
        key: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A tensor is missing.
    #[error("{} has no tensor {name:?}", path.display())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
    },
    /// A tensor has another shape.
    #[error("the tensor {name:?} of {} is {found:?}, where {expected:?} was expected", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
        /// Its shape, rows first.
        found: Vec<usize>,
        /// The shape of the model.
        expected: Vec<usize>,
    },
    /// A tensor has a number that is NaN or infinite.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// A tensor's numbers are in a format that isn't known here.
    #[error("the tensor {name:?} of {} is in the number format {format} of ggml, which is not read", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
        /// The format's number.
        format: u32,
    },
}

/// The value of a fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A whole number that is not negative.
    Count(u64),
    /// A negative whole number.
    Negative(i64),
    /// A number.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// A text.
    Text(String),
    /// A list of one type.
    List(Vec<Fact>),
}

/// Where a tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Rows first.
    shape: Vec<usize>,
    format: u32,
    /// From the beginning of the file.
    offset: u64,
}

/// An opened file, of which the facts are read, but no tensor yet.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    facts: BTreeMap<String, Fact>,
    tensors: BTreeMap<String, Place>,
}

/// The dimensions of a tensor at most.
const MOST_DIMENSIONS: u32 = 8;

/// Lists in lists at most.
const DEEPEST: usize = 4;

/// Reads numbers and texts, and knows how much is left.
struct Source<R> {
    read: R,
    left: u64,
    at: u64,
}

/// Why the header cannot be parsed.
enum Broken {
    Io(io::Error),
    Said(String),
}

impl<R: Read> Source<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let mut bytes = [0; N];
        self.take(N as u64)?;
        self.read.read_exact(&mut bytes).map_err(Broken::Io)?;
        Ok(bytes)
    }

    fn take(&mut self, count: u64) -> Result<(), Broken> {
        if count > self.left {
            let at = self.at;
            let left = self.left;
            return Err(Broken::Said(format!(
                "at byte {at}, {count} bytes should follow, but the file has only {left}"
            )));
        }
        self.left -= count;
        self.at += count;
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, Broken> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, Broken> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn text(&mut self) -> Result<String, Broken> {
        let count = self.u64()?;
        self.take(count)?;
        let mut bytes = vec![0; count as usize];
        self.read.read_exact(&mut bytes).map_err(Broken::Io)?;
        // Vocabularies of old files have pieces that are no UTF-8.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn fact(&mut self, kind: u32, depth: usize) -> Result<Fact, Broken> {
        let signed = |value: i64| match u64::try_from(value) {
            Ok(value) => Fact::Count(value),
            Err(_) => Fact::Negative(value),
        };
        Ok(match kind {
            0 => Fact::Count(u64::from(self.bytes::<1>()?[0])),
            1 => signed(i64::from(i8::from_le_bytes(self.bytes()?))),
            2 => Fact::Count(u64::from(u16::from_le_bytes(self.bytes()?))),
            3 => signed(i64::from(i16::from_le_bytes(self.bytes()?))),
            4 => Fact::Count(u64::from(self.u32()?)),
            5 => signed(i64::from(i32::from_le_bytes(self.bytes()?))),
            6 => Fact::Number(f64::from(f32::from_le_bytes(self.bytes()?))),
            7 => Fact::Flag(self.bytes::<1>()?[0] != 0),
            8 => Fact::Text(self.text()?),
            9 if depth < DEEPEST => {
                let (kind, count) = (self.u32()?, self.u64()?);
                // Every value has a byte at least.
                if count > self.left {
                    let at = self.at;
                    return Err(Broken::Said(format!(
                        "at byte {at}, a list of {count} values should follow"
                    )));
                }
                let facts = (0..count).map(|_| self.fact(kind, depth + 1));
                Fact::List(facts.collect::<Result<_, _>>()?)
            }
            10 => Fact::Count(self.u64()?),
            11 => signed(i64::from_le_bytes(self.bytes()?)),
            12 => Fact::Number(f64::from_le_bytes(self.bytes()?)),
            kind => {
                let at = self.at;
                return Err(Broken::Said(format!(
                    "at byte {at}, a value of the unknown type {kind} should follow"
                )));
            }
        })
    }
}

impl Gguf {
    /// Opens a file and reads its facts.
    ///
    /// # Errors
    /// If it cannot be read, is something else, or is damaged.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let read = |source| GgufError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read)?;
        let left = file.metadata().map_err(read)?.len();
        let mut source = Source {
            read: BufReader::new(file),
            left,
            at: 0,
        };
        let broken = |broken| match broken {
            Broken::Io(source) => read(source),
            Broken::Said(reason) => GgufError::Damaged {
                path: path.to_owned(),
                reason,
            },
        };
        let magic: [u8; 4] = source.bytes().map_err(broken)?;
        if &magic != b"GGUF" {
            return Err(GgufError::Magic {
                path: path.to_owned(),
                found: String::from_utf8_lossy(&magic).into_owned(),
            });
        }
        let version = source.u32().map_err(broken)?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version {
                path: path.to_owned(),
                version,
            });
        }
        let (facts, tensors) = parsed(&mut source).map_err(broken)?;
        let gguf = Self {
            path: path.to_owned(),
            facts,
            tensors,
        };
        gguf.check(left)?;
        Ok(gguf)
    }

    /// Refuses tensors that end behind the file.
    fn check(&self, size: u64) -> Result<(), GgufError> {
        for (name, place) in &self.tensors {
            let Some(kind) = BlockType::of(place.format) else {
                continue;
            };
            let numbers = place
                .shape
                .iter()
                .try_fold(1_usize, |n, &d| n.checked_mul(d));
            let whole = numbers.filter(|n| n.is_multiple_of(kind.numbers()));
            let bytes = whole.and_then(|n| (n / kind.numbers()).checked_mul(kind.bytes()));
            let end = bytes.and_then(|bytes| place.offset.checked_add(bytes as u64));
            if end.is_none_or(|end| end > size) {
                return Err(GgufError::Damaged {
                    path: self.path.clone(),
                    reason: format!(
                        "the tensor {name:?} of shape {:?} does not lie within its {size} bytes",
                        place.shape
                    ),
                });
            }
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A fact; none if there is no such one.
    pub fn fact(&self, key: &str) -> Option<&Fact> {
        self.facts.get(key)
    }

    /// Names and values of all facts.
    pub fn facts(&self) -> impl Iterator<Item = (&str, &Fact)> {
        self.facts.iter().map(|(key, fact)| (key.as_str(), fact))
    }

    /// Names and shapes of all tensors, rows first.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        let places = self.tensors.iter();
        places.map(|(name, place)| (name.as_str(), place.shape.as_slice()))
    }

    fn expected(&self, key: &str, expected: &'static str) -> GgufError {
        GgufError::Fact {
            path: self.path.clone(),
            key: key.to_owned(),
            expected,
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// If there is none under this name.
    pub fn count(&self, key: &str) -> Result<usize, GgufError> {
        match self.fact(key) {
            Some(&Fact::Count(value)) => usize::try_from(value).ok(),
            _ => None,
        }
        .ok_or_else(|| self.expected(key, "whole number"))
    }

    /// A number.
    ///
    /// # Errors
    /// If there is none under this name.
    pub fn number(&self, key: &str) -> Result<f64, GgufError> {
        match self.fact(key) {
            Some(&Fact::Number(value)) => Ok(value),
            Some(&Fact::Count(value)) => Ok(value as f64),
            _ => Err(self.expected(key, "number")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// If there is none under this name.
    pub fn text(&self, key: &str) -> Result<&str, GgufError> {
        match self.fact(key) {
            Some(Fact::Text(value)) => Ok(value),
            _ => Err(self.expected(key, "text")),
        }
    }

    /// A list of texts.
    ///
    /// # Errors
    /// If there is none under this name.
    pub fn texts(&self, key: &str) -> Result<Vec<&str>, GgufError> {
        let texts = match self.fact(key) {
            Some(Fact::List(list)) => list
                .iter()
                .map(|fact| match fact {
                    Fact::Text(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        texts.ok_or_else(|| self.expected(key, "list of texts"))
    }

    /// A tensor in single precision, row after row.
    ///
    /// - `shape`: that of the model, rows first
    ///
    /// # Errors
    /// If there is no such tensor, it has another shape, its format is not known, it cannot be read, or a number is not
    /// finite.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, GgufError> {
        let place = self.tensors.get(name).ok_or_else(|| GgufError::NoTensor {
            path: self.path.clone(),
            name: name.to_owned(),
        })?;
        if place.shape != shape {
            return Err(GgufError::Shape {
                path: self.path.clone(),
                name: name.to_owned(),
                found: place.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let kind = BlockType::of(place.format).ok_or_else(|| GgufError::Format {
            path: self.path.clone(),
            name: name.to_owned(),
            format: place.format,
        })?;
        // The size was checked when the file was opened.
        let bytes = shape.iter().product::<usize>() / kind.numbers() * kind.bytes();
        let mut data = vec![0; bytes];
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(place.offset))?;
            file.read_exact(&mut data)
        });
        read.map_err(|source| GgufError::Read {
            path: self.path.clone(),
            source,
        })?;
        let values = kind.widen(&data);
        finite(&values, &self.path, name)?;
        Ok(values)
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

type Header = (BTreeMap<String, Fact>, BTreeMap<String, Place>);

/// All behind the version.
fn parsed<R: Read>(source: &mut Source<R>) -> Result<Header, Broken> {
    let (tensors, facts) = (source.u64()?, source.u64()?);
    let mut known = BTreeMap::new();
    for _ in 0..facts {
        let key = source.text()?;
        let kind = source.u32()?;
        let fact = source.fact(kind, 0)?;
        known.insert(key, fact);
    }
    let mut places = BTreeMap::new();
    for _ in 0..tensors {
        let name = source.text()?;
        let dimensions = source.u32()?;
        if dimensions > MOST_DIMENSIONS {
            return Err(Broken::Said(format!(
                "the tensor {name:?} has {dimensions} dimensions"
            )));
        }
        let shape = (0..dimensions).map(|_| Ok(source.u64()? as usize));
        let mut shape: Vec<usize> = shape.collect::<Result<_, Broken>>()?;
        shape.reverse();
        let (format, offset) = (source.u32()?, source.u64()?);
        places.insert(
            name,
            Place {
                shape,
                format,
                offset,
            },
        );
    }
    let alignment = match known.get("general.alignment") {
        Some(&Fact::Count(alignment)) if alignment > 0 => alignment,
        None => 32,
        Some(other) => {
            return Err(Broken::Said(format!("its alignment is {other:?}")));
        }
    };
    let begin = source.at.checked_next_multiple_of(alignment);
    for (name, place) in &mut places {
        let offset = begin.and_then(|begin| begin.checked_add(place.offset));
        place.offset = offset
            .ok_or_else(|| Broken::Said(format!("the tensor {name:?} lies beyond all files")))?;
    }
    Ok((known, places))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file with facts of all types and two tensors.
    fn file() -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        };
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend(5_u64.to_le_bytes());
        text(&mut bytes, "a.count");
        bytes.extend(4_u32.to_le_bytes());
        bytes.extend(7_u32.to_le_bytes());
        text(&mut bytes, "a.negative");
        bytes.extend(5_u32.to_le_bytes());
        bytes.extend((-2_i32).to_le_bytes());
        text(&mut bytes, "a.number");
        bytes.extend(6_u32.to_le_bytes());
        bytes.extend(0.5_f32.to_le_bytes());
        text(&mut bytes, "a.text");
        bytes.extend(8_u32.to_le_bytes());
        text(&mut bytes, "words");
        text(&mut bytes, "a.list");
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(8_u32.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        text(&mut bytes, "one");
        text(&mut bytes, "two");
        for (name, columns, rows, format, offset) in [
            ("plain", 3_u64, 2_u64, 0_u32, 0_u64),
            ("packed", 32, 1, 8, 32),
        ] {
            text(&mut bytes, name);
            bytes.extend(2_u32.to_le_bytes());
            bytes.extend(columns.to_le_bytes());
            bytes.extend(rows.to_le_bytes());
            bytes.extend(format.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        for value in 0..6 {
            bytes.extend((value as f32).to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(half::f16::from_f32(2.0).to_le_bytes());
        bytes.extend((0..32).map(|i| (i as i8 - 16) as u8));
        bytes
    }

    fn opened(bytes: &[u8]) -> Result<(tempfile::TempDir, Gguf), GgufError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        Ok((folder, Gguf::open(&path)?))
    }

    #[test]
    fn facts_and_tensors_are_read() {
        let (_folder, gguf) = opened(&file()).unwrap();
        assert_eq!(gguf.count("a.count").unwrap(), 7);
        assert_eq!(gguf.fact("a.negative"), Some(&Fact::Negative(-2)));
        assert_eq!(gguf.number("a.number").unwrap(), 0.5);
        assert_eq!(gguf.number("a.count").unwrap(), 7.0);
        assert_eq!(gguf.text("a.text").unwrap(), "words");
        assert_eq!(gguf.texts("a.list").unwrap(), ["one", "two"]);
        assert_eq!(gguf.facts().count(), 5);
        assert_eq!(
            gguf.tensor("plain", &[2, 3]).unwrap(),
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
        );
        let packed = gguf.tensor("packed", &[1, 32]).unwrap();
        assert_eq!((packed[0], packed[31]), (-32.0, 30.0));
        let names: Vec<&str> = gguf.tensors().map(|(name, _)| name).collect();
        assert_eq!(names, ["packed", "plain"]);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let told = |bytes: &[u8]| opened(bytes).unwrap_err().to_string();
        assert!(told(b"GGML1234").ends_with("it begins with \"GGML\" instead of \"GGUF\""));
        assert!(told(b"GG").contains("4 bytes should follow, but the file has only 2"));
        let mut other = file();
        other[4] = 1;
        assert!(told(&other).contains("version 1"));
        let whole = file();
        assert!(told(&whole[..whole.len() - 1]).contains("\"packed\""));
        for end in 8..200 {
            told(&whole[..end]);
        }
        let (_folder, gguf) = opened(&whole).unwrap();
        let told = |error: GgufError| error.to_string();
        assert!(told(gguf.tensor("plain", &[3, 2]).unwrap_err()).contains("[2, 3], where [3, 2]"));
        assert!(told(gguf.tensor("none", &[1]).unwrap_err()).contains("no tensor \"none\""));
        assert!(
            told(gguf.count("a.text").unwrap_err()).contains("no whole number under \"a.text\"")
        );
        assert!(gguf.texts("a.count").is_err() && gguf.text("x").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_file_or_an_error(
            changes in proptest::collection::vec((4_usize..300, any::<u8>()), 1..6)
        ) {
            let mut bytes = file();
            for (place, value) in changes {
                bytes[place] = value;
            }
            if let Ok((_folder, gguf)) = opened(&bytes) {
                for (name, shape) in gguf.tensors() {
                    let numbers = gguf.tensor(name, shape);
                    let told = matches!(
                        numbers,
                        Err(GgufError::Format { .. } | GgufError::NotFinite(_))
                    );
                    prop_assert!(numbers.is_ok() || told);
                }
            }
        }
    }
}
