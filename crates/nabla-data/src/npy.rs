//! The `.npy` format of NumPy: one array of real or complex numbers, of any shape.
//!
//! ```text
//! 147 "NUMPY", version, length of the header (little-endian, 2 or 4 bytes), the header:
//! {'descr': '<c8', 'fortran_order': False, 'shape': (4, 64, 64), }
//! and the values, the last index fastest (the first one, in Fortran's order)
//! ```
//!
//! Read are booleans, whole numbers, floating-point numbers of 16, 32 and 64 bit, and complex numbers of these, in
//! either byte order. Written are `f4` and `c8`.
//!
//! Source: *NumPy Enhancement Proposal 1: A Simple File Format for NumPy Arrays*, versions 1.0 to 3.0.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The reason why bytes are not an array of NumPy.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The first bytes are not those of the format.
    #[error(
        "the data is not a NumPy array: it does not begin with \\x93NUMPY and a version of 1 to 3"
    )]
    NotNpy,
    /// The header cannot be read.
    #[error("the header of the NumPy array is damaged: it has no {0}")]
    Header(&'static str),
    /// The type of the values cannot be read.
    #[error(
        "the NumPy array has values of type {0:?}, but can be read with booleans, whole, floating-point or complex \
         numbers only (such as <f4 or <c8)"
    )]
    Type(String),
    /// The number of values is another than the shape says.
    #[error(
        "the NumPy array of the shape {shape:?} needs {expected} bytes of values, but has {found}"
    )]
    Length {
        /// The shape.
        shape: Vec<usize>,
        /// Bytes needed; the largest number if they cannot be counted.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// The file with this error.
    #[error("{}: {source}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// The error.
        source: Box<NpyError>,
    },
}

/// The values of an array, the last index fastest.
#[derive(Clone, Debug, PartialEq)]
pub enum NpyValues {
    /// Real numbers.
    Real(Vec<f64>),
    /// Complex numbers, `[real, imaginary]`.
    Complex(Vec<[f64; 2]>),
}

/// An array of NumPy.
///
/// ```
/// use nabla_data::{NpyArray, NpyValues};
///
/// let array = NpyArray { shape: vec![2, 1], values: NpyValues::Complex(vec![[1.0, 2.0], [0.5, 0.0]]) };
/// assert_eq!(NpyArray::decode(&array.encode())?, array);
/// # Ok::<(), nabla_data::NpyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct NpyArray {
    /// The sizes of the dimensions; none for a single number.
    pub shape: Vec<usize>,
    /// The values.
    pub values: NpyValues,
}

const MAGIC: &[u8] = b"\x93NUMPY";

impl NpyArray {
    /// Reads a file.
    ///
    /// # Errors
    /// If the file cannot be read, or is not such an array.
    pub fn read(path: &Path) -> Result<Self, NpyError> {
        let bytes = fs::read(path).map_err(|source| NpyError::Read {
            path: path.into(),
            source,
        })?;
        Self::decode(&bytes).map_err(|source| NpyError::In {
            path: path.into(),
            source: Box::new(source),
        })
    }

    /// Reads an array that fills all of the bytes.
    ///
    /// # Errors
    /// If they are not such an array.
    pub fn decode(bytes: &[u8]) -> Result<Self, NpyError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(NpyError::NotNpy)?;
        let (length, rest) = match rest {
            [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
            [2 | 3, _, a, b, c, d, rest @ ..] => {
                (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest)
            }
            _ => return Err(NpyError::NotNpy),
        };
        let (header, values) = rest
            .split_at_checked(length)
            .ok_or(NpyError::Header("end"))?;
        let header = Header::parse(&String::from_utf8_lossy(header))?;
        let (shape, width) = (header.shape, header.kind.width());
        let count = shape
            .iter()
            .try_fold(1_usize, |n, side| n.checked_mul(*side));
        let expected = count.and_then(|count| count.checked_mul(width));
        if expected != Some(values.len()) {
            return Err(NpyError::Length {
                shape,
                expected: expected.unwrap_or(usize::MAX),
                found: values.len(),
            });
        }
        let values = match header.kind.values(values, header.big_endian) {
            NpyValues::Complex(values) => {
                NpyValues::Complex(in_rows(values, &shape, header.fortran))
            }
            NpyValues::Real(values) => NpyValues::Real(in_rows(values, &shape, header.fortran)),
        };
        Ok(Self { shape, values })
    }

    /// The bytes of a file, with numbers of 32 bit.
    pub fn encode(&self) -> Vec<u8> {
        let descr = match self.values {
            NpyValues::Real(_) => "<f4",
            NpyValues::Complex(_) => "<c8",
        };
        let sides: String = self.shape.iter().map(|side| format!("{side}, ")).collect();
        let sides = match self.shape.len() {
            1 => sides.trim_end(),
            _ => sides.trim_end().trim_end_matches(','),
        };
        let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sides}), }}");
        // The values begin at a multiple of 64 bytes.
        let before = MAGIC.len() + 4;
        let length = (before + text.len() + 1).next_multiple_of(64) - before;
        let mut bytes = [MAGIC, &[1, 0], &(length as u16).to_le_bytes()].concat();
        bytes.extend(format!("{text:<0$}\n", length - 1).bytes());
        let mut put = |value: f64| bytes.extend((value as f32).to_le_bytes());
        match &self.values {
            NpyValues::Real(values) => values.iter().for_each(|value| put(*value)),
            NpyValues::Complex(values) => values.iter().flatten().for_each(|value| put(*value)),
        }
        bytes
    }
}

/// The type of the values, with the bytes of a number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Bool,
    Signed(usize),
    Unsigned(usize),
    Float(usize),
    /// Of both parts together.
    Complex(usize),
}

impl Kind {
    fn width(self) -> usize {
        match self {
            Self::Bool => 1,
            Self::Signed(n) | Self::Unsigned(n) | Self::Float(n) | Self::Complex(n) => n,
        }
    }

    /// All values.
    pub(crate) fn values(self, bytes: &[u8], big_endian: bool) -> NpyValues {
        let numbers = self.numbers(bytes, big_endian);
        match self {
            Self::Complex(_) => NpyValues::Complex(numbers.as_chunks::<2>().0.to_vec()),
            _ => NpyValues::Real(numbers),
        }
    }

    /// All numbers; a complex one is two.
    fn numbers(self, bytes: &[u8], big_endian: bool) -> Vec<f64> {
        let part = match self {
            Self::Complex(n) => n / 2,
            other => other.width(),
        };
        let number = |bytes: &[u8]| {
            let mut little = [0; 8];
            for (i, byte) in bytes.iter().enumerate() {
                little[if big_endian { part - 1 - i } else { i }] = *byte;
            }
            let whole = u64::from_le_bytes(little);
            match self {
                Self::Bool => f64::from(u8::from(whole != 0)),
                Self::Unsigned(_) => whole as f64,
                Self::Signed(n) => {
                    let unused = 64 - 8 * n as u32;
                    ((whole << unused) as i64 >> unused) as f64
                }
                Self::Float(_) | Self::Complex(_) => match part {
                    2 => half(whole as u16),
                    4 => f32::from_bits(whole as u32).into(),
                    _ => f64::from_bits(whole),
                },
            }
        };
        bytes.chunks_exact(part).map(number).collect()
    }
}

/// A number of 16 bit: sign, 5 bits of exponent, 10 of fraction.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023) / 1024.0);
    sign * match exponent {
        0 => fraction * 2f64.powi(-14),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => (1.0 + fraction) * 2f64.powi(exponent - 15),
    }
}

#[derive(Debug)]
struct Header {
    kind: Kind,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
}

impl Header {
    fn parse(text: &str) -> Result<Self, NpyError> {
        // The text after the key's colon.
        let after = |key: &'static str| {
            let quoted = [format!("'{key}'"), format!("\"{key}\"")];
            let found = quoted
                .iter()
                .find_map(|quoted| text.split_once(quoted.as_str()));
            let value = found.and_then(|(_, rest)| rest.trim_start().strip_prefix(':'));
            value.map(str::trim_start).ok_or(NpyError::Header(key))
        };
        let descr = after("descr")?;
        let name = match descr.chars().next() {
            Some(quote @ ('\'' | '"')) => descr[1..].split_once(quote).map(|(name, _)| name),
            _ => None,
        };
        let name = name.ok_or_else(|| NpyError::Type(descr.chars().take(40).collect()))?;
        let unknown = || NpyError::Type(name.to_owned());
        let (order, kind) = name.split_at_checked(1).ok_or_else(unknown)?;
        let (letter, width) = kind.split_at_checked(1).ok_or_else(unknown)?;
        let width: usize = width.parse().map_err(|_| unknown())?;
        let kind = match (letter, width) {
            ("b", 1) => Kind::Bool,
            ("i", 1 | 2 | 4 | 8) => Kind::Signed(width),
            ("u", 1 | 2 | 4 | 8) => Kind::Unsigned(width),
            ("f", 2 | 4 | 8) => Kind::Float(width),
            ("c", 8 | 16) => Kind::Complex(width),
            _ => return Err(unknown()),
        };
        let big_endian = match order {
            "<" | "|" => false,
            ">" => true,
            "=" => cfg!(target_endian = "big"),
            _ => return Err(unknown()),
        };
        let fortran = match after("fortran_order")? {
            value if value.starts_with("True") => true,
            value if value.starts_with("False") => false,
            _ => return Err(NpyError::Header("fortran_order")),
        };
        let sides = after("shape")?.strip_prefix('(');
        let sides = sides.and_then(|rest| rest.split_once(')'));
        let (sides, _) = sides.ok_or(NpyError::Header("shape"))?;
        let sides = sides
            .split(',')
            .map(str::trim)
            .filter(|side| !side.is_empty());
        let shape: Result<Vec<usize>, _> = sides.map(str::parse).collect();
        Ok(Self {
            kind,
            big_endian,
            fortran,
            shape: shape.map_err(|_| NpyError::Header("shape"))?,
        })
    }
}

/// Values with the last index fastest.
fn in_rows<T: Copy>(values: Vec<T>, shape: &[usize], fortran: bool) -> Vec<T> {
    if !fortran || shape.len() < 2 || values.is_empty() {
        return values;
    }
    let mut index = vec![0; shape.len()];
    let mut rows = Vec::with_capacity(values.len());
    for _ in 0..values.len() {
        let place = index
            .iter()
            .zip(shape)
            .rev()
            .fold(0, |place, (i, n)| place * n + i);
        rows.push(values[place]);
        for (i, n) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *n {
                break;
            }
            *i = 0;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(header: &str, values: &[u8]) -> Vec<u8> {
        let length = (header.len() as u16).to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), values].concat()
    }

    fn real(header: &str, values: &[u8]) -> Vec<f64> {
        match NpyArray::decode(&file(header, values)).unwrap().values {
            NpyValues::Real(values) => values,
            NpyValues::Complex(values) => panic!("{values:?}"),
        }
    }

    /// Written out by hand from the specification.
    #[test]
    fn every_type_is_read() {
        let header = |descr: &str, shape: &str| {
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")
        };
        assert_eq!(real(&header("|b1", "(2,)"), &[0, 1]), [0.0, 1.0]);
        assert_eq!(real(&header("|i1", "(1,)"), &[254]), [-2.0]);
        assert_eq!(real(&header("|u1", "(1,)"), &[254]), [254.0]);
        assert_eq!(real(&header("<i2", "(1,)"), &[0, 255]), [-256.0]);
        assert_eq!(real(&header(">i2", "(1,)"), &[255, 0]), [-256.0]);
        assert_eq!(real(&header(">u4", "()"), &[0, 0, 1, 0]), [256.0]);
        // 1.5, the smallest number, −0.5 in 16 bit.
        let halves = [0x00, 0x3e, 0x01, 0x00, 0x00, 0xb8];
        let expected = [1.5, 2f64.powi(-24), -0.5];
        assert_eq!(real(&header("<f2", "(3,)"), &halves), expected);
        assert_eq!(
            real(&header(">f4", "(1, 1)"), &1.25f32.to_be_bytes()),
            [1.25]
        );
        assert_eq!(
            real(&header("<f8", "(1,)"), &1e300f64.to_le_bytes()),
            [1e300]
        );
        let complex = [1.0f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat();
        let found = NpyArray::decode(&file(&header("<c8", "(1,)"), &complex)).unwrap();
        assert_eq!(found.values, NpyValues::Complex(vec![[1.0, -2.0]]));
    }

    #[test]
    fn fortrans_order_is_turned() {
        let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }\n";
        // Columns one after the other.
        assert_eq!(
            real(header, &[1, 4, 2, 5, 3, 6]),
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        );
    }

    #[test]
    fn what_is_wrong_is_told_in_a_sentence() {
        let told = |bytes: &[u8]| NpyArray::decode(bytes).unwrap_err().to_string();
        assert!(told(b"PK").contains("not a NumPy array"));
        assert!(told(&file("{}", &[])).contains("no descr"));
        let header =
            |descr: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2,), }}");
        assert!(told(&file(&header("'<U4'"), &[])).contains("\"<U4\""));
        assert!(told(&file(&header("[('a', '<f4')]"), &[])).contains("values of type"));
        assert!(
            told(&file(&header("'<f4'"), &[0; 7])).contains("needs 8 bytes of values, but has 7")
        );
        let huge = "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }";
        assert!(told(&file(huge, &[])).contains("but has 0"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_give_an_array_or_an_error(
            header in "\\{'descr': '[<>|=][bfciuU][0-9]', 'fortran_order': (True|False), 'shape': \\([0-3]?,[0-9]?\\), \\}",
            values in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let _ = NpyArray::decode(&values);
            let _ = NpyArray::decode(&[MAGIC, &values[..]].concat());
            let _ = NpyArray::decode(&file(&header, &values));
        }

        #[test]
        fn arrays_survive(values in proptest::collection::vec(any::<f32>(), 0..40)) {
            let values: Vec<f64> = values.into_iter().filter(|v| !v.is_nan()).map(f64::from).collect();
            let array = NpyArray { shape: vec![values.len()], values: NpyValues::Real(values) };
            let bytes = array.encode();
            prop_assert_eq!(NpyArray::decode(&bytes).unwrap(), array);
        }
    }
}
