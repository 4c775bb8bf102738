//! The weights of a trained network, under their usual names.
//!
//! [`Weights`] is a set of named tensors in files. A tensor is read only when it is requested, so a network
//! of 3 GB needs 3 GB and no more. A network takes its layers from a [`Scope`] (the names below a prefix) and
//! states the shape of each tensor. A missing tensor, a wrong shape and a superfluous tensor are errors that
//! name the tensor.
//!
//! A file is in the `safetensors` format, or is a checkpoint that `torch.save` wrote. Its first bytes decide,
//! not its name. A checkpoint is a pickle, that is, a program that builds objects: only the dictionaries,
//! numbers, texts and tensors in it are read, and nothing in it is ever run.
//!
//! If publications of the same network use different names, the code of the architecture uses those of the
//! `diffusers` library, and [`Weights::with_names`] maps them to the names in the file. Several tensors in
//! one publication may be a single tensor in another: see [`Stored`].

mod files;
mod scope;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::{DType, Device, TensorData};

use files::{checkpoint, is_checkpoint, safetensors};

pub(super) use files::file_metadata;
pub use scope::Scope;

/// The reason why weights cannot be loaded from a file.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file is damaged, or not a weights file.
    #[error("{} is not a file of weights: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that the network needs is missing.
    #[error("{} holds no tensor {name}, which the network needs", path.display())]
    Missing {
        /// The file, or the first of several.
        path: PathBuf,
        /// Its name in the file.
        name: String,
    },
    /// A tensor has the wrong shape.
    #[error(
        "the tensor {name} in {} has the shape {found:?}, but the network needs {expected:?}",
        path.display()
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// What the network needs.
        expected: Vec<usize>,
    },
    /// A tensor has the wrong kind of numbers.
    #[error("the tensor {name} in {} holds {found}, but it must hold f32, f16 or bf16", path.display())]
    Numbers {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Their kind.
        found: String,
    },
    /// Tensors that do not belong to the network.
    #[error(
        "{} holds the tensor {name}, for which the network has no place{}",
        path.display(),
        others(*.count)
    )]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// The first of them.
        name: String,
        /// The number of such tensors.
        count: usize,
    },
    /// A change does not fit: its tensor is missing or has another size, as with a LoRA for another network.
    #[error("{change} changes the tensor {name}, {reason}")]
    Change {
        /// The source of the change.
        change: String,
        /// The tensor.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

fn others(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        2 => ", and one more".to_owned(),
        n => format!(", and {} more", n - 1),
    }
}

/// The precision in which a network computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, of which 5 are the exponent.
    F16,
    /// 16 bits, of which 8 are the exponent.
    Bf16,
}

nabla_base::choices! {
    Precision: "precision" {
        "f32" => Self::F32, "32 bits";
        "f16" => Self::F16, "16 bits, as models are published";
        "bf16" => Self::Bf16, "16 bits, with the range of f32";
    }
}

impl Precision {
    /// The corresponding type of Burn.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// The location of a tensor.
#[derive(Clone, Debug)]
struct Entry {
    file: usize,
    dtype: Option<DType>,
    kind: String,
    shape: Vec<usize>,
    place: Place,
}

/// The location of a tensor's numbers.
#[derive(Clone, Debug)]
enum Place {
    /// In a file, from its start.
    Bytes {
        file: Arc<File>,
        start: u64,
        length: usize,
    },
    /// In a checkpoint's storage, with any order of axes.
    Checkpoint(pytorch_reader::Tensor),
}

impl Place {
    fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Self::Bytes {
                file,
                start,
                length,
            } => {
                let mut bytes = vec![0; *length];
                let mut file = &**file;
                file.seek(SeekFrom::Start(*start))?;
                file.read_exact(&mut bytes)?;
                Ok(bytes)
            }
            Self::Checkpoint(tensor) => tensor.read(),
        }
    }
}

/// How a file stores a tensor: under a name, as some rows of the tensor of that name, or as its transpose.
///
/// ```
/// use nabla_diffusion::stable_diffusion::weights::{Rows, Stored};
///
/// // The queries of an attention whose three projections are one matrix.
/// let queries = Stored::rows("attn.in_proj_weight", Rows::part(0, 3));
/// assert_eq!(Stored::from("norm.weight".to_owned()).name(), "norm.weight");
/// # let _ = queries;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    name: String,
    form: Form,
}

/// The form of a tensor in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Whole,
    Rows(Rows),
    Transposed,
}

impl Stored {
    /// Some rows of the tensor `name`.
    pub fn rows(name: impl Into<String>, rows: Rows) -> Self {
        Self {
            name: name.into(),
            form: Form::Rows(rows),
        }
    }

    /// The matrix `name`, transposed.
    pub fn transposed(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            form: Form::Transposed,
        }
    }

    /// The name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same with a prefix before the name.
    pub fn below(self, prefix: &str) -> Self {
        Self {
            name: format!("{prefix}{}", self.name),
            ..self
        }
    }

    /// The shape that a tensor of `shape` has in this form; `None` if it cannot be cut or transposed like
    /// this.
    fn shape(&self, shape: &[usize]) -> Option<Vec<usize>> {
        let mut shape = shape.to_vec();
        match self.form {
            Form::Whole => {}
            Form::Rows(Rows { of, blocks, .. }) => {
                let rows = shape.first_mut()?;
                if of == 0 || blocks == 0 || !rows.is_multiple_of(of * blocks) {
                    return None;
                }
                *rows /= of;
            }
            Form::Transposed if shape.len() == 2 => shape.reverse(),
            Form::Transposed => return None,
        }
        Some(shape)
    }

    /// The shape in the file for which this form has the shape `shape`.
    fn whole(&self, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        match (self.form, shape.first_mut()) {
            (Form::Rows(rows), Some(first)) => *first *= rows.of,
            (Form::Transposed, _) => shape.reverse(),
            _ => {}
        }
        shape
    }

    /// Extracts the bytes of this form from those of a tensor of `shape`.
    fn bytes(&self, bytes: Vec<u8>, shape: &[usize]) -> Vec<u8> {
        match (self.form, shape) {
            (Form::Rows(rows), _) => rows.cut(&bytes),
            (Form::Transposed, &[rows, columns]) => {
                let size = bytes.len() / (rows * columns).max(1);
                let place = |at: usize| (at % rows * columns + at / rows) * size;
                (0..rows * columns)
                    .flat_map(|at| bytes.get(place(at)..place(at) + size).unwrap_or_default())
                    .copied()
                    .collect()
            }
            _ => bytes,
        }
    }
}

impl From<String> for Stored {
    fn from(name: String) -> Self {
        Self {
            name,
            form: Form::Whole,
        }
    }
}

/// Some rows (indices of the first axis) of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    part: usize,
    of: usize,
    blocks: usize,
}

impl Rows {
    /// Part number `part` of `of` parts of equal size.
    pub fn part(part: usize, of: usize) -> Self {
        Self {
            part,
            of,
            blocks: 1,
        }
    }

    /// This part of each of `blocks` blocks of equal size, one after the other: a single projection, if a
    /// file stores the projections of each attention head together.
    pub fn of_each_block(self, blocks: usize) -> Self {
        Self { blocks, ..self }
    }

    /// Extracts these rows; `bytes` are those of all rows.
    fn cut(self, bytes: &[u8]) -> Vec<u8> {
        let step = bytes.len() / (self.of * self.blocks).max(1);
        (0..self.blocks)
            .flat_map(|block| {
                let start = (block * self.of + self.part) * step;
                bytes.get(start..start + step).unwrap_or_default().to_vec()
            })
            .collect()
    }
}

/// Changes that are added to tensors when they are loaded: `W + Δ`. Tensors have the names of `diffusers`.
pub trait WeightChanges: fmt::Debug {
    /// The source of the changes, for error messages.
    fn name(&self) -> String;

    /// Whether `tensor` is changed.
    fn changes(&self, tensor: &str) -> bool;

    /// The `Δ` of a `tensor` that is changed, with the same number of values in the same order.
    ///
    /// - `shape`: the shape of the tensor in the file
    /// - `weight`: `W`, with earlier changes
    ///
    /// # Errors
    /// What is wrong, if the change does not fit the shape.
    fn delta(&self, tensor: &str, shape: &[usize], weight: &[f32]) -> Result<Vec<f32>, String>;

    /// The first tensor to change that is not in `taken`, the tensors of the network.
    fn left(&self, taken: &BTreeSet<String>) -> Option<String>;
}

/// Turns a name of the `diffusers` library into that of a file.
type Names = Box<dyn Fn(&str) -> Stored>;

/// Named tensors in files; see the [module](self).
pub struct Weights {
    paths: Vec<PathBuf>,
    entries: BTreeMap<String, Entry>,
    /// The tensors that were loaded, by their names in the files.
    taken: RefCell<BTreeSet<String>>,
    /// The tensors that were requested, by their names in `diffusers`.
    asked: RefCell<BTreeSet<String>>,
    names: Vec<Names>,
    changes: Vec<Box<dyn WeightChanges>>,
    device: Device,
    precision: Precision,
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weights")
            .field("paths", &self.paths)
            .field("tensors", &self.entries.len())
            .finish_non_exhaustive()
    }
}

impl Weights {
    /// Opens the tensors of some files, which will be loaded to `device` in `precision`. Only the headers are
    /// read. If a checkpoint has a `state_dict`, only the tensors in it are used; the others belong to the
    /// training.
    ///
    /// # Errors
    /// If a file cannot be read, or is in neither the `safetensors` nor the PyTorch format.
    pub fn open(
        paths: &[PathBuf],
        device: &Device,
        precision: Precision,
    ) -> Result<Self, WeightsError> {
        let mut entries = BTreeMap::new();
        for (number, path) in paths.iter().enumerate() {
            match is_checkpoint(path)? {
                true => entries.extend(checkpoint(path, number)?),
                false => entries.extend(safetensors(path, number)?),
            }
        }
        Ok(Self::of(paths, entries, device, precision))
    }

    /// Tensors under the files' own names, none of them loaded yet.
    fn of(
        paths: &[PathBuf],
        entries: BTreeMap<String, Entry>,
        device: &Device,
        precision: Precision,
    ) -> Self {
        Self {
            paths: paths.to_vec(),
            entries,
            taken: RefCell::default(),
            asked: RefCell::default(),
            names: Vec::new(),
            changes: Vec::new(),
            device: device.clone(),
            precision,
        }
    }

    /// The tensors whose names in the files satisfy `keep`, in another precision: one of several networks in
    /// a file. None of them counts as loaded yet, and the names and changes of `self` are not applied.
    pub fn only(&self, keep: impl Fn(&str) -> bool, precision: Precision) -> Self {
        let kept = self.entries.iter().filter(|(name, _)| keep(name));
        let kept = kept.map(|(name, entry)| (name.clone(), entry.clone()));
        Self::of(&self.paths, kept.collect(), &self.device, precision)
    }

    /// The same tensors, where `names(name)` is the form of `name` in the file. With several such functions,
    /// the first that names an existing tensor is used; a name that none of them finds is looked up
    /// unchanged.
    pub fn with_names<N: Into<Stored>>(mut self, names: impl Fn(&str) -> N + 'static) -> Self {
        self.names.push(Box::new(move |name| names(name).into()));
        self
    }

    /// The same tensors with changes added to some of them.
    pub fn with_changes(mut self, changes: impl WeightChanges + 'static) -> Self {
        self.changes.push(Box::new(changes));
        self
    }

    /// All names in the files that start with `prefix`, in order.
    pub fn names_below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let names = self.entries.keys().map(String::as_str);
        names.filter(move |name| name.starts_with(prefix))
    }

    /// The names themselves, without a prefix.
    pub fn root(&self) -> Scope<'_> {
        Scope {
            weights: self,
            prefix: String::new(),
        }
    }

    /// The device of the tensors.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The precision of the tensors.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Checks that all tensors were loaded and all changes applied. If some are left, the file is for another
    /// network.
    ///
    /// - `but`: tells which names may be left over, such as the tables of positions in older files
    ///
    /// # Errors
    /// The first tensor or change that was not used.
    pub fn finish(&self, but: impl Fn(&str) -> bool) -> Result<(), WeightsError> {
        let taken = self.taken.borrow();
        let mut left = self
            .entries
            .iter()
            .filter(|(name, _)| !taken.contains(*name) && !but(name));
        if let Some((name, entry)) = left.next() {
            return Err(WeightsError::Unexpected {
                path: self.paths[entry.file].clone(),
                name: name.clone(),
                count: 1 + left.count(),
            });
        }
        for changes in &self.changes {
            if let Some(name) = changes.left(&self.asked.borrow()) {
                return Err(WeightsError::Change {
                    change: changes.name(),
                    name,
                    reason: "which the network does not have: it is for another model".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn lookup(&self, name: &str) -> (Stored, Option<&Entry>) {
        let mut first = None;
        for names in &self.names {
            let there = names(name);
            if let Some(entry) = self.entries.get(there.name()) {
                return (there, Some(entry));
            }
            first.get_or_insert(there);
        }
        let same = Stored::from(name.to_owned());
        match self.entries.get(name) {
            Some(entry) => (same, Some(entry)),
            None => (first.unwrap_or(same), None),
        }
    }

    fn is_nonzero(&self, name: &str) -> Result<bool, WeightsError> {
        let (there, entry) = self.lookup(name);
        let Some(entry) = entry else {
            return Err(self.missing(there));
        };
        let bytes = entry.place.read().map_err(|source| WeightsError::Io {
            path: self.paths[entry.file].clone(),
            source,
        })?;
        Ok(bytes.iter().any(|&byte| byte != 0))
    }

    fn missing(&self, there: Stored) -> WeightsError {
        WeightsError::Missing {
            path: self.paths.first().cloned().unwrap_or_default(),
            name: there.name,
        }
    }

    /// The numbers of a tensor, in the precision of the file unless the tensor is changed.
    fn read(&self, name: &str, expected: &[usize]) -> Result<TensorData, WeightsError> {
        let (there, entry) = self.lookup(name);
        let Some(entry) = entry else {
            return Err(self.missing(there));
        };
        let path = || self.paths[entry.file].clone();
        // A linear layer may be stored as a convolution of kernel 1, and the reverse.
        let proper = |shape: &[usize]| {
            let end = shape
                .iter()
                .rposition(|&n| n != 1)
                .map_or(0, |last| last + 1);
            shape[..end].to_vec()
        };
        let shape = match there.shape(&entry.shape) {
            Some(shape) if proper(&shape) == proper(expected) => shape,
            _ => {
                return Err(WeightsError::Shape {
                    path: path(),
                    expected: there.whole(expected),
                    name: there.name,
                    found: entry.shape.clone(),
                });
            }
        };
        let Some(dtype) = entry.dtype else {
            return Err(WeightsError::Numbers {
                path: path(),
                name: there.name,
                found: entry.kind.clone(),
            });
        };
        let bytes = entry.place.read().map_err(|source| WeightsError::Io {
            path: path(),
            source,
        })?;
        let bytes = there.bytes(bytes, &entry.shape);
        self.taken.borrow_mut().insert(there.name);
        self.asked.borrow_mut().insert(name.to_owned());
        let data =
            TensorData::try_from_bytes_vec(bytes, expected.to_vec(), dtype).map_err(|e| {
                WeightsError::Format {
                    path: path(),
                    reason: format!("the tensor {name} is cut off: {e:?}"),
                }
            })?;
        let mut applied = self.changes.iter().filter(|c| c.changes(name)).peekable();
        if applied.peek().is_none() {
            return Ok(data);
        }
        let data = data.convert_dtype(DType::F32);
        let mut values: Vec<f32> = data.try_to_vec().map_err(|e| WeightsError::Format {
            path: path(),
            reason: format!("the tensor {name} cannot be changed: {e:?}"),
        })?;
        for changes in applied {
            let wrong = |reason| WeightsError::Change {
                change: changes.name(),
                name: name.to_owned(),
                reason,
            };
            let delta = changes.delta(name, &shape, &values);
            let delta = delta.map_err(wrong)?;
            if delta.len() != values.len() {
                let (found, expected) = (delta.len(), values.len());
                return Err(wrong(format!(
                    "which has {expected} numbers, by {found} numbers"
                )));
            }
            for (value, delta) in values.iter_mut().zip(delta) {
                *value += delta;
            }
        }
        Ok(TensorData::new(values, expected.to_vec()))
    }
}

#[cfg(test)]
mod tests;
