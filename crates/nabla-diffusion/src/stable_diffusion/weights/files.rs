//! Weights files: the locations of their tensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::DType;
use pytorch_reader::{DType as TorchDtype, PytorchError, PytorchReader};
use safetensors::tensor::Dtype;

use super::{Entry, Place, WeightsError};
use crate::stable_diffusion::safetensors_header::Header;

/// Whether a file starts like those of `torch.save`: as an archive or, before PyTorch 1.6, as a pickle.
pub(super) fn is_checkpoint(path: &Path) -> Result<bool, WeightsError> {
    let io = |source| WeightsError::Io {
        path: path.to_owned(),
        source,
    };
    let mut begin = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(9).read_to_end(&mut begin).map_err(io)?;
    // A safetensors file starts with the length of its header, which starts with a brace.
    let header = begin.get(8) == Some(&b'{');
    Ok(!header && (begin.starts_with(b"PK\x03\x04") || begin.starts_with(&[0x80])))
}

/// The tensors of a checkpoint.
pub(super) fn checkpoint(path: &Path, number: usize) -> Result<Vec<(String, Entry)>, WeightsError> {
    let wrong = |error: PytorchError| match error {
        PytorchError::Io(source) => WeightsError::Io {
            path: path.to_owned(),
            source,
        },
        other => WeightsError::Format {
            path: path.to_owned(),
            reason: other.to_string(),
        },
    };
    let reader = match PytorchReader::with_top_level_key(path, "state_dict") {
        Err(PytorchError::KeyNotFound(_)) => PytorchReader::new(path),
        found => found,
    };
    let tensors = reader.map_err(wrong)?.into_tensors();
    Ok(tensors
        .into_iter()
        .map(|(name, tensor)| {
            let entry = Entry {
                file: number,
                dtype: torch_dtype(tensor.dtype()),
                kind: format!("{:?}", tensor.dtype()).to_lowercase(),
                shape: tensor.shape().to_vec(),
                place: Place::Checkpoint(tensor),
            };
            (name, entry)
        })
        .collect())
}

fn torch_dtype(dtype: TorchDtype) -> Option<DType> {
    match dtype {
        TorchDtype::F64 => Some(DType::F64),
        TorchDtype::F32 => Some(DType::F32),
        TorchDtype::F16 => Some(DType::F16),
        TorchDtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// The tensors of a `safetensors` file.
pub(super) fn safetensors(
    path: &Path,
    number: usize,
) -> Result<Vec<(String, Entry)>, WeightsError> {
    let (file, first, header) = header(path)?;
    let file = Arc::new(file);
    let entries = header.entries.into_iter().map(|tensor| {
        let entry = Entry {
            file: number,
            dtype: dtype(tensor.dtype),
            kind: tensor.dtype.to_string(),
            shape: tensor.shape,
            place: Place::Bytes {
                file: Arc::clone(&file),
                start: first + tensor.start as u64,
                length: tensor.end - tensor.start,
            },
        };
        (tensor.name, entry)
    });
    Ok(entries.collect())
}

/// The metadata of a `safetensors` file; empty for a checkpoint.
pub(in crate::stable_diffusion) fn file_metadata(
    path: &Path,
) -> Result<BTreeMap<String, String>, WeightsError> {
    match is_checkpoint(path)? {
        true => Ok(BTreeMap::new()),
        false => Ok(header(path)?.2.metadata),
    }
}

/// The header of a `safetensors` file, and the position after it.
fn header(path: &Path) -> Result<(File, u64, Header), WeightsError> {
    let io = |source| WeightsError::Io {
        path: path.to_owned(),
        source,
    };
    let format = |reason: String| WeightsError::Format {
        path: path.to_owned(),
        reason,
    };
    let mut file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut count = [0; 8];
    if length < 8 {
        return Err(format(format!("it has {length} bytes")));
    }
    file.read_exact(&mut count).map_err(io)?;
    let count = u64::from_le_bytes(count);
    if count > length - 8 {
        return Err(format(format!(
            "its header has {count} bytes, but the file has {length}"
        )));
    }
    let mut text = vec![0; count as usize];
    file.read_exact(&mut text).map_err(io)?;
    let header = Header::parse(&text, length - 8 - count).map_err(format)?;
    Ok((file, 8 + count, header))
}

fn dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F64 => Some(DType::F64),
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        _ => None,
    }
}
