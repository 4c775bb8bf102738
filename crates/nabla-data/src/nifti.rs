//! Volumes in the NIfTI-1 format, in one file (`.nii`), plain or gzip-compressed (`.nii.gz`).
//!
//! The header of 348 bytes gives the sizes, the type and the scale of the values, and the place of the volume in the
//! patient. Only the first and the second are read; the others are kept, so that a volume that is written with the
//! header of another has its place. The first index is the fastest; it runs along a row of a slice.
//!
//! Source: Cox et al., *A (Sort of) New Image Data Format Standard: NIfTI-1*, 2004,
//! <https://nifti.nimh.nih.gov/nifti-1>.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

/// The reason why bytes are not a volume.
#[derive(Debug, thiserror::Error)]
pub enum NiftiError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The compression is damaged, or the volume too large.
    #[error("the NIfTI data is damaged or truncated: {0}")]
    Damaged(String),
    /// It is another format.
    #[error(
        "the data is not NIfTI-1 in one file: it has no header of 348 bytes that ends with n+1"
    )]
    NotNifti,
    /// The sizes make no volume.
    #[error(
        "the NIfTI data has the sizes {0:?}, but must have two or three dimensions, or more of size 1"
    )]
    Sizes(Vec<i16>),
    /// The type of the values is unknown.
    #[error(
        "the NIfTI data has values of type {0}, but can be read with the types 2, 4, 8, 16, 64, 256, 512 and 768"
    )]
    Type(i16),
    /// There are fewer values than the sizes say.
    #[error("the NIfTI data has {found} bytes of values, but the sizes {shape:?} need {expected}")]
    Length {
        /// `[slices, height, width]`.
        shape: [usize; 3],
        /// Bytes needed.
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
        source: Box<NiftiError>,
    },
}

/// A volume.
///
/// ```
/// use nabla_data::NiftiVolume;
///
/// let volume = NiftiVolume::new([2, 1, 3], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
/// assert_eq!(NiftiVolume::decode(&volume.encode())?.values, volume.values);
/// # Ok::<(), nabla_data::NiftiError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct NiftiVolume {
    /// `[slices, height, width]`.
    pub shape: [usize; 3],
    /// Slice after slice, row after row.
    pub values: Vec<f32>,
    /// The header, little-endian.
    header: Vec<u8>,
}

const HEADER: usize = 348;
/// Where the values begin in what is written: after the header and four bytes that say that nothing else follows.
const OFFSET: usize = 352;
/// The largest file that is read, uncompressed.
const MOST: u64 = 1 << 32;

/// Where the fields of the header are, and how many bytes each of their numbers has, for the byte order.
const FIELDS: [(usize, usize, usize); 12] = [
    (0, 4, 1),    // sizeof_hdr
    (32, 4, 1),   // extents
    (36, 2, 1),   // session_error
    (40, 2, 8),   // dim
    (56, 4, 3),   // intent_p
    (68, 2, 4),   // intent_code, datatype, bitpix, slice_start
    (76, 4, 11),  // pixdim, vox_offset, scl_slope, scl_inter
    (120, 2, 1),  // slice_end
    (124, 4, 6),  // cal_max … glmin
    (252, 2, 2),  // qform_code, sform_code
    (256, 4, 6),  // quatern, qoffset
    (280, 4, 12), // srow
];

impl NiftiVolume {
    /// A volume with voxels of 1 mm, at no place in particular.
    ///
    /// - `shape`: `[slices, height, width]`, each at most 32767
    pub fn new(shape: [usize; 3], values: Vec<f32>) -> Self {
        let mut header = vec![0; HEADER];
        put(&mut header, 0, (HEADER as i32).to_le_bytes());
        for i in 0..8 {
            put(&mut header, 76 + 4 * i, 1f32.to_le_bytes());
        }
        header[123] = 2; // millimetres
        Self {
            shape,
            values,
            header,
        }
    }

    /// A volume at the place of another one, with voxels of the same size.
    #[must_use]
    pub fn with_values(&self, shape: [usize; 3], values: Vec<f32>) -> Self {
        Self {
            shape,
            values,
            header: self.header.clone(),
        }
    }

    /// Whether a path names such a file.
    pub fn is_path(path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_ascii_lowercase();
        name.ends_with(".nii") || name.ends_with(".nii.gz")
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If the file cannot be read, or is no such volume.
    pub fn read(path: &Path) -> Result<Self, NiftiError> {
        let bytes = fs::read(path).map_err(|source| NiftiError::Read {
            path: path.into(),
            source,
        })?;
        Self::decode(&bytes).map_err(|source| NiftiError::In {
            path: path.into(),
            source: Box::new(source),
        })
    }

    /// The bytes of a file: compressed if its name ends in `.gz`.
    ///
    /// # Errors
    /// If they cannot be compressed.
    pub fn encode_for(&self, path: &Path) -> io::Result<Vec<u8>> {
        let bytes = self.encode();
        match path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gz"))
        {
            false => Ok(bytes),
            true => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(&bytes)?;
                encoder.finish()
            }
        }
    }

    /// Reads a volume, compressed or not.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, NiftiError> {
        let unpacked;
        let bytes = match bytes {
            [0x1f, 0x8b, ..] => {
                let mut plain = Vec::new();
                let mut reader = GzDecoder::new(bytes).take(MOST);
                let read = reader.read_to_end(&mut plain);
                read.map_err(|error| NiftiError::Damaged(error.to_string()))?;
                unpacked = plain;
                &unpacked[..]
            }
            bytes => bytes,
        };
        let mut header = bytes.get(..HEADER).ok_or(NiftiError::NotNifti)?.to_vec();
        let big_endian = match i32::from_le_bytes(at(&header, 0)) {
            348 => false,
            0x5c01_0000 => true,
            _ => return Err(NiftiError::NotNifti),
        };
        if &header[344..347] != b"n+1" {
            return Err(NiftiError::NotNifti);
        }
        if big_endian {
            for (place, width, count) in FIELDS {
                let field = &mut header[place..place + width * count];
                field.chunks_exact_mut(width).for_each(<[u8]>::reverse);
            }
        }
        let shape = shape(&header)?;
        let kind = i16::from_le_bytes(at(&header, 70));
        let width = match kind {
            2 | 256 => 1,
            4 | 512 => 2,
            8 | 16 | 768 => 4,
            64 => 8,
            other => return Err(NiftiError::Type(other)),
        };
        let offset = f32::from_le_bytes(at(&header, 108));
        let values = bytes
            .get(offset.max(HEADER as f32) as usize..)
            .unwrap_or(&[]);
        // At most 2^45 bytes.
        let expected = shape.iter().product::<usize>().saturating_mul(width);
        let values = values.get(..expected).ok_or(NiftiError::Length {
            shape,
            expected,
            found: values.len(),
        })?;
        let slope = f32::from_le_bytes(at(&header, 112));
        let intercept = f32::from_le_bytes(at(&header, 116));
        let [slope, intercept] = match slope != 0.0 && slope.is_finite() && intercept.is_finite() {
            true => [slope, intercept].map(f64::from),
            false => [1.0, 0.0],
        };
        let number = |bytes: &[u8]| {
            let mut little = [0; 8];
            little[..width].copy_from_slice(bytes);
            if big_endian {
                little[..width].reverse();
            }
            let [a, b, c, d, ..] = little;
            let value = match kind {
                2 => a.into(),
                256 => (a as i8).into(),
                4 => i16::from_le_bytes([a, b]).into(),
                512 => u16::from_le_bytes([a, b]).into(),
                8 => i32::from_le_bytes([a, b, c, d]).into(),
                768 => u32::from_le_bytes([a, b, c, d]).into(),
                16 => f32::from_le_bytes([a, b, c, d]).into(),
                _ => f64::from_le_bytes(little),
            };
            (slope * value + intercept) as f32
        };
        Ok(Self {
            shape,
            values: values.chunks_exact(width).map(number).collect(),
            header,
        })
    }

    /// The bytes of a file with numbers of 32 bit, not compressed.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.header.clone();
        let [slices, height, width] = self.shape.map(|side| side as i16);
        for (i, side) in [3, width, height, slices, 1, 1, 1, 1]
            .into_iter()
            .enumerate()
        {
            put(&mut bytes, 40 + 2 * i, side.to_le_bytes());
        }
        put(&mut bytes, 70, 16i16.to_le_bytes());
        put(&mut bytes, 72, 32i16.to_le_bytes());
        put(&mut bytes, 108, (OFFSET as f32).to_le_bytes());
        put(&mut bytes, 112, 1f32.to_le_bytes());
        put(&mut bytes, 116, 0f32.to_le_bytes());
        put(&mut bytes, 344, *b"n+1\0");
        bytes.extend([0; OFFSET - HEADER]);
        bytes.extend(self.values.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }
}

/// The bytes at a place of the header.
fn at<const N: usize>(header: &[u8], place: usize) -> [u8; N] {
    std::array::from_fn(|i| header[place + i])
}

fn put<const N: usize>(header: &mut [u8], place: usize, bytes: [u8; N]) {
    header[place..place + N].copy_from_slice(&bytes);
}

/// `[slices, height, width]`.
fn shape(header: &[u8]) -> Result<[usize; 3], NiftiError> {
    let sizes: Vec<i16> = (0..8)
        .map(|i| i16::from_le_bytes(at(header, 40 + 2 * i)))
        .collect();
    let count = sizes[0];
    let used = &sizes[1..8.min(count.max(0) as usize + 1)];
    let fits = (2..=7).contains(&count)
        && used.iter().all(|&side| side >= 1)
        && used.iter().skip(3).all(|&side| side == 1);
    match fits {
        true => {
            let side = |i: usize| used.get(i).map_or(1, |&side| side as usize);
            Ok([side(2), side(1), side(0)])
        }
        false => Err(NiftiError::Sizes(sizes)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn volume() -> NiftiVolume {
        NiftiVolume::new([2, 2, 1], vec![0.5, -1.0, 2.0, 1e-3])
    }

    #[test]
    fn types_scales_and_byte_orders_are_read() {
        let mut bytes = volume().encode();
        put(&mut bytes, 70, 4i16.to_le_bytes());
        put(&mut bytes, 112, 0.5f32.to_le_bytes());
        put(&mut bytes, 116, 10f32.to_le_bytes());
        bytes.truncate(OFFSET);
        bytes.extend([2i16, -4, 0, 1000].iter().flat_map(|v| v.to_le_bytes()));
        let expected = [11.0, 8.0, 10.0, 510.0];
        assert_eq!(NiftiVolume::decode(&bytes).unwrap().values, expected);
        // The same in the other order.
        for (place, width, count) in FIELDS {
            let field = &mut bytes[place..place + width * count];
            field.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        bytes[OFFSET..]
            .chunks_exact_mut(2)
            .for_each(<[u8]>::reverse);
        let found = NiftiVolume::decode(&bytes).unwrap();
        assert_eq!((found.shape, found.values), ([2, 2, 1], expected.to_vec()));
    }

    #[test]
    fn a_volume_keeps_its_place() {
        let mut bytes = volume().encode();
        // 3 mm slices.
        put(&mut bytes, 88, 3f32.to_le_bytes());
        let found = NiftiVolume::decode(&bytes).unwrap();
        let other = found.with_values([1, 1, 1], vec![7.0]).encode();
        assert_eq!(f32::from_le_bytes(at(&other, 88)), 3.0);
        let compressed = found.encode_for(Path::new("a.nii.gz")).unwrap();
        assert_eq!(compressed[..2], [0x1f, 0x8b]);
        assert_eq!(NiftiVolume::decode(&compressed).unwrap(), found);
        assert!(NiftiVolume::is_path(Path::new("x/A.NII.gz")));
        assert!(!NiftiVolume::is_path(Path::new("x/a.gz")));
    }

    #[test]
    fn what_is_wrong_is_told_in_a_sentence() {
        let told = |bytes: &[u8]| NiftiVolume::decode(bytes).unwrap_err().to_string();
        assert!(told(b"not").contains("not NIfTI-1"));
        let bytes = volume().encode();
        assert!(told(&bytes[..OFFSET + 9]).contains("has 9 bytes of values"));
        let changed = |place: usize, value: i16| {
            let mut bytes = bytes.clone();
            put(&mut bytes, place, value.to_le_bytes());
            bytes
        };
        assert!(told(&changed(70, 32)).contains("values of type 32"));
        assert!(told(&changed(42, 0)).contains("has the sizes [3, 0, 2, 2"));
        assert!(told(&[0x1f, 0x8b, 8, 0, 1]).contains("damaged"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_give_a_volume_or_an_error(
            places in proptest::collection::vec((0usize..HEADER, any::<u8>()), 0..20),
            length in 0usize..400,
        ) {
            let mut bytes = volume().encode();
            places.into_iter().for_each(|(place, byte)| bytes[place] = byte);
            let _ = NiftiVolume::decode(&bytes);
            bytes.truncate(length);
            let _ = NiftiVolume::decode(&bytes);
        }
    }
}
