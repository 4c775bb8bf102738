//! Arrays in HDF5 files, such as the k-space of fastMRI's files: real or complex numbers of any shape.
//!
//! A complex number is a compound of two floating-point numbers of one size, real part first, as h5py and fastMRI write
//! them (`r` and `i`). Chunked and compressed data sets are read. The acquisitions of ISMRMRD files are sequences of
//! variable length, which no reader without the C library gives; convert such a file to an array first.
//!
//! The format itself is read by the crate `hdf5-pure`.

use std::path::{Path, PathBuf};

use hdf5_pure::{Dataset, Datatype, DatatypeByteOrder, File};

use crate::npy::{Kind, NpyArray};

/// The name of the k-space in fastMRI's files.
pub const KSPACE: &str = "kspace";

/// The reason why a file has no such array.
#[derive(Debug, thiserror::Error)]
pub enum Hdf5Error {
    /// The file cannot be read, or is damaged.
    #[error("{} cannot be read as an HDF5 file: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the reader.
        source: hdf5_pure::Error,
    },
    /// There is no data set of this name.
    #[error("{} has no data set {name:?}; it has: {known}", path.display())]
    NoDataset {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// The data sets of the file's top level.
        known: String,
    },
    /// The values are no numbers.
    #[error(
        "the data set {name:?} of {} has values of another type than whole, floating-point or complex numbers",
        path.display()
    )]
    Type {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
}

/// Reads an array.
///
/// - `name`: of the data set, such as [`KSPACE`], with its groups: `group/name`
///
/// # Errors
/// If the file cannot be read, or has no such array of numbers.
///
/// ```no_run
/// use std::path::Path;
/// use nabla_data::{KSPACE, read_hdf5};
///
/// let kspace = read_hdf5(Path::new("file1000000.h5"), KSPACE)?;
/// assert_eq!(kspace.shape.len(), 4); // [slices, coils, height, width]
/// # Ok::<(), nabla_data::Hdf5Error>(())
/// ```
pub fn read_hdf5(path: &Path, name: &str) -> Result<NpyArray, Hdf5Error> {
    let read = |source| Hdf5Error::Read {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(read)?;
    let Ok(dataset) = file.dataset(name) else {
        let known = file.root().datasets().map_err(read)?;
        return Err(Hdf5Error::NoDataset {
            path: path.into(),
            name: name.into(),
            known: match known.is_empty() {
                true => "none".into(),
                false => known.join(", "),
            },
        });
    };
    let shape = dataset.shape().map_err(read)?;
    let shape: Vec<usize> = shape.into_iter().map(|side| side as usize).collect();
    let (kind, big_endian) = kind(&dataset)
        .map_err(read)?
        .ok_or_else(|| Hdf5Error::Type {
            path: path.into(),
            name: name.into(),
        })?;
    let bytes = dataset.read_raw().map_err(read)?;
    Ok(NpyArray {
        values: kind.values(&bytes, big_endian),
        shape,
    })
}

/// The numbers of a data set, and whether their bytes are in the big-endian order.
fn kind(dataset: &Dataset) -> Result<Option<(Kind, bool)>, hdf5_pure::Error> {
    let real = |datatype: &Datatype| match datatype {
        Datatype::FloatingPoint {
            size: size @ (2 | 4 | 8),
            byte_order,
            ..
        } => Some((Kind::Float(*size as usize), *byte_order)),
        Datatype::FixedPoint {
            size: size @ (1 | 2 | 4 | 8),
            byte_order,
            layout,
        } => {
            let size = *size as usize;
            Some(match layout.signed {
                true => (Kind::Signed(size), *byte_order),
                false => (Kind::Unsigned(size), *byte_order),
            })
        }
        _ => None,
    };
    let datatype = dataset.datatype()?;
    let found = match &datatype {
        Datatype::Compound { size, members } => match members.as_slice() {
            [first, second] => match (real(&first.datatype), real(&second.datatype)) {
                (Some((Kind::Float(n), order)), Some((Kind::Float(m), other)))
                    if n == m
                        && order == other
                        && n >= 4
                        && (first.byte_offset, second.byte_offset) == (0, n as u64)
                        && *size as usize == 2 * n =>
                {
                    Some((Kind::Complex(2 * n), order))
                }
                _ => None,
            },
            _ => None,
        },
        other => real(other),
    };
    Ok(found.and_then(|(kind, order)| match order {
        DatatypeByteOrder::LittleEndian => Some((kind, false)),
        DatatypeByteOrder::BigEndian => Some((kind, true)),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NpyValues;

    fn path(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/reference")
            .join(name)
    }

    /// What `arrays.py` wrote with h5py.
    #[test]
    fn arrays_of_h5py_are_read() {
        let file = path("arrays.h5");
        let kspace = read_hdf5(&file, KSPACE).unwrap();
        assert_eq!(kspace.shape, [2, 3, 4, 5]);
        let NpyValues::Complex(values) = kspace.values else {
            panic!("complex numbers were expected");
        };
        for (i, [real, imaginary]) in values.into_iter().enumerate() {
            assert_eq!((real, imaginary), (i as f64 / 4.0, -(i as f64)));
        }
        for (name, expected) in [
            ("mask", [1.0, 0.0, 1.0, 1.0, 0.0]),
            ("group/big_endian", [-2.0, -1.0, 0.0, 1.0, 2.0]),
            ("group/half", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ] {
            let array = read_hdf5(&file, name).unwrap();
            assert_eq!(array.shape, [5], "{name}");
            assert_eq!(array.values, NpyValues::Real(expected.to_vec()), "{name}");
        }
        let double = read_hdf5(&file, "group/complex_big_endian").unwrap();
        assert_eq!(
            double.values,
            NpyValues::Complex(vec![[1.5, -2.5], [0.0, 1e300]])
        );
    }

    #[test]
    fn what_is_wrong_is_told() {
        let file = path("arrays.h5");
        let told = |path: &Path, name: &str| read_hdf5(path, name).unwrap_err().to_string();
        let unknown = told(&file, "image");
        assert!(
            unknown.contains("has no data set \"image\"; it has: "),
            "{unknown}"
        );
        assert!(
            unknown.contains("kspace") && unknown.contains("mask"),
            "{unknown}"
        );
        assert!(told(&file, "name").contains("values of another type"));
        assert!(told(&path("none.h5"), KSPACE).contains("cannot be read as an HDF5 file"));
        assert!(told(&path("arrays.py"), KSPACE).contains("cannot be read as an HDF5 file"));
    }
}
