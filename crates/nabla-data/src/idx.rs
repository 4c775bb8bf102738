//! The IDX format of MNIST and its relatives: arrays of any rank, plain or gzip-compressed.
//!
//! ```text
//! 0, 0, type, rank, the sizes (big-endian, 32 bit each), the values (big-endian, last index fastest)
//! type: 8 u8, 9 i8, 11 i16, 12 i32, 13 f32, 14 f64
//! ```
//!
//! Source: LeCun, Cortes, Burges, *The MNIST database of handwritten digits*,
//! <http://yann.lecun.com/exdb/mnist/>.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

/// The reason why bytes are not an IDX array.
#[derive(Debug, thiserror::Error)]
pub enum IdxError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The stream ends early, or its compression is damaged.
    #[error("the IDX data is damaged or truncated: {0}")]
    Damaged(String),
    /// The first two bytes are not zero.
    #[error("the data is not IDX: it begins with {0:?}, but must begin with two zeros")]
    NotIdx([u8; 2]),
    /// The type of the values is unknown.
    #[error("the IDX data has values of type {0}, but the valid types are 8, 9, 11, 12, 13 and 14")]
    Type(u8),
    /// The rank is 0 or above [`IdxArray::MAX_RANK`].
    #[error("the IDX data has {0} dimensions, but must have 1 to 8")]
    Rank(u8),
    /// The array has more than [`IdxArray::MAX_BYTES`].
    #[error("the IDX data has the shape {0:?}, which is more than 2 GiB")]
    TooLarge(Vec<usize>),
    /// There are bytes after the last value.
    #[error("the IDX data continues after the {0} bytes of its values")]
    Trailing(u64),
    /// The file with this error.
    #[error("{}: {source}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// The error.
        source: Box<IdxError>,
    },
}

/// The values of an array, the last index fastest.
#[derive(Clone, Debug, PartialEq)]
pub enum IdxValues {
    /// Type 8.
    U8(Vec<u8>),
    /// Type 9.
    I8(Vec<i8>),
    /// Type 11.
    I16(Vec<i16>),
    /// Type 12.
    I32(Vec<i32>),
    /// Type 13.
    F32(Vec<f32>),
    /// Type 14.
    F64(Vec<f64>),
}

impl IdxValues {
    /// The name of the type of the values.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::I16(_) => "i16",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
        }
    }
}

/// An array of the IDX format.
///
/// ```
/// use nabla_data::{IdxArray, IdxValues};
/// let bytes = [0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9];
/// let array = IdxArray::from_reader(&bytes[..])?;
/// assert_eq!(array.shape, [1, 3]);
/// assert_eq!(array.values, IdxValues::U8(vec![7, 8, 9]));
/// # Ok::<(), nabla_data::IdxError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct IdxArray {
    /// The sizes of the dimensions.
    pub shape: Vec<usize>,
    /// The values.
    pub values: IdxValues,
}

/// Big-endian numbers of `N` bytes.
fn numbers<const N: usize, T>(bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|b| read(*b)).collect()
}

impl IdxArray {
    /// The largest number of bytes of values that is read.
    pub const MAX_BYTES: u64 = 1 << 31;
    /// The largest number of dimensions.
    pub const MAX_RANK: u8 = 8;

    /// Reads an array that fills all of the data. Memory is allocated only for values that are present,
    /// whatever size the header claims.
    ///
    /// # Errors
    /// If the data is not IDX, is too large, or does not have the length that its header states.
    pub fn from_reader(mut reader: impl Read) -> Result<Self, IdxError> {
        let damaged = |e: io::Error| IdxError::Damaged(e.to_string());
        let mut head = [0; 4];
        reader.read_exact(&mut head).map_err(damaged)?;
        let [a, b, kind, rank] = head;
        if [a, b] != [0, 0] {
            return Err(IdxError::NotIdx([a, b]));
        }
        let width: u64 = match kind {
            8 | 9 => 1,
            11 => 2,
            12 | 13 => 4,
            14 => 8,
            other => return Err(IdxError::Type(other)),
        };
        if !(1..=Self::MAX_RANK).contains(&rank) {
            return Err(IdxError::Rank(rank));
        }
        let mut shape = Vec::with_capacity(rank.into());
        for _ in 0..rank {
            let mut size = [0; 4];
            reader.read_exact(&mut size).map_err(damaged)?;
            shape.push(u32::from_be_bytes(size) as usize);
        }
        let length = shape
            .iter()
            .try_fold(width, |product, &n| product.checked_mul(n as u64))
            .filter(|&length| length <= Self::MAX_BYTES)
            .ok_or_else(|| IdxError::TooLarge(shape.clone()))?;
        let mut bytes = Vec::new();
        let read = reader.take(length + 1).read_to_end(&mut bytes);
        read.map_err(damaged)?;
        match (bytes.len() as u64).cmp(&length) {
            std::cmp::Ordering::Less => {
                return Err(IdxError::Damaged(format!(
                    "it has {} of {length} bytes of values",
                    bytes.len()
                )));
            }
            std::cmp::Ordering::Greater => return Err(IdxError::Trailing(length)),
            std::cmp::Ordering::Equal => {}
        }
        let values = match kind {
            8 => IdxValues::U8(bytes),
            9 => IdxValues::I8(numbers(&bytes, i8::from_be_bytes)),
            11 => IdxValues::I16(numbers(&bytes, i16::from_be_bytes)),
            12 => IdxValues::I32(numbers(&bytes, i32::from_be_bytes)),
            13 => IdxValues::F32(numbers(&bytes, f32::from_be_bytes)),
            _ => IdxValues::F64(numbers(&bytes, f64::from_be_bytes)),
        };
        Ok(Self { shape, values })
    }

    /// Decodes bytes, which may be gzip-compressed.
    ///
    /// # Errors
    /// As [`from_reader`](Self::from_reader).
    pub fn decode(bytes: &[u8]) -> Result<Self, IdxError> {
        match bytes {
            [0x1f, 0x8b, ..] => Self::from_reader(GzDecoder::new(bytes)),
            plain => Self::from_reader(plain),
        }
    }

    /// Reads a file, which may be gzip-compressed, whatever its name.
    ///
    /// # Errors
    /// As [`from_reader`](Self::from_reader), with the name of the file.
    pub fn read(path: &Path) -> Result<Self, IdxError> {
        let unreadable = |source| IdxError::Read {
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.is_dir() {
            return Err(unreadable(io::ErrorKind::IsADirectory.into()));
        }
        let mut reader = BufReader::new(file);
        let begin = io::BufRead::fill_buf(&mut reader).map_err(unreadable)?;
        let array = if begin.starts_with(&[0x1f, 0x8b]) {
            Self::from_reader(GzDecoder::new(reader))
        } else {
            Self::from_reader(reader)
        };
        array.map_err(|source| IdxError::In {
            path: path.into(),
            source: Box::new(source),
        })
    }

    /// The bytes of the array in the IDX format, uncompressed; [`decode`](Self::decode) reads them.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, values): (u8, Vec<u8>) = match &self.values {
            IdxValues::U8(v) => (8, v.clone()),
            IdxValues::I8(v) => (9, v.iter().flat_map(|x| x.to_be_bytes()).collect()),
            IdxValues::I16(v) => (11, v.iter().flat_map(|x| x.to_be_bytes()).collect()),
            IdxValues::I32(v) => (12, v.iter().flat_map(|x| x.to_be_bytes()).collect()),
            IdxValues::F32(v) => (13, v.iter().flat_map(|x| x.to_be_bytes()).collect()),
            IdxValues::F64(v) => (14, v.iter().flat_map(|x| x.to_be_bytes()).collect()),
        };
        let mut bytes = vec![0, 0, kind, self.shape.len() as u8];
        for &size in &self.shape {
            bytes.extend((size as u32).to_be_bytes());
        }
        bytes.extend(values);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(bytes: &[u8]) -> String {
        IdxArray::decode(bytes).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(told(&[]).contains("truncated"));
        assert!(told(&[1, 2, 8, 1, 0, 0, 0, 0]).contains("begins with [1, 2]"));
        assert!(told(&[0, 0, 7, 1, 0, 0, 0, 0]).contains("of type 7"));
        assert!(told(&[0, 0, 8, 0]).contains("has 0 dimensions"));
        assert!(told(&[0, 0, 8, 200]).contains("has 200 dimensions"));
        assert!(told(&[0, 0, 8, 1, 0, 0, 0, 3, 1, 2]).contains("2 of 3 bytes"));
        assert!(told(&[0, 0, 8, 1, 0, 0, 0, 1, 1, 2]).contains("continues after the 1 bytes"));
        let huge = [0, 0, 14, 2, 255, 255, 255, 255, 255, 255, 255, 255];
        assert!(told(&huge).contains("more than 2 GiB"));
        assert!(told(&[0x1f, 0x8b, 8, 0, 1]).contains("truncated"));
    }

    /// The type bytes and the byte order, written out by hand from the specification.
    #[test]
    fn every_type_is_read_and_written_by_the_specification() {
        let one = |kind: u8, value: &[u8]| {
            let bytes = [&[0, 0, kind, 1, 0, 0, 0, 1], value].concat();
            let array = IdxArray::decode(&bytes).unwrap();
            assert_eq!(array.encode(), bytes);
            array.values
        };
        assert_eq!(one(8, &[200]), IdxValues::U8(vec![200]));
        assert_eq!(one(9, &[0xff]), IdxValues::I8(vec![-1]));
        assert_eq!(one(11, &[1, 2]), IdxValues::I16(vec![258]));
        assert_eq!(one(12, &[0, 0, 1, 0]), IdxValues::I32(vec![256]));
        assert_eq!(
            one(13, &[0x40, 0x49, 0x0f, 0xdb]),
            IdxValues::F32(vec![std::f32::consts::PI])
        );
        assert_eq!(
            one(14, &[0xbf, 0xf0, 0, 0, 0, 0, 0, 0]),
            IdxValues::F64(vec![-1.0])
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_give_an_array_or_an_error(
            kind in 7u8..16,
            rank in 0u8..10,
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = IdxArray::decode(&bytes);
            let _ = IdxArray::decode(&[&[0x1f, 0x8b], &bytes[..]].concat());
            let with_head = [&[0, 0, kind, rank], &bytes[..]].concat();
            if let Ok(array) = IdxArray::decode(&with_head) {
                prop_assert_eq!(array.encode(), with_head);
            }
        }

        #[test]
        fn arrays_survive(values in proptest::collection::vec(any::<i16>(), 0..60)) {
            let array = IdxArray { shape: vec![values.len(), 1], values: IdxValues::I16(values) };
            prop_assert_eq!(IdxArray::decode(&array.encode()).unwrap(), array);
        }
    }
}
