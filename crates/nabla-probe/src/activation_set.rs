//! Recorded activations of a model, with the gradients of its loss by them.
//!
//! A dictionary is trained on many of them, one row for each token or example. Up to a limit they are held in memory, and
//! above it in a temporary file, from which the rows of a batch are read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use nabla_base::range::{self, OutOfRange};

/// The reason why activations cannot be recorded or read.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// A size is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The rows are of another width.
    #[error("the {what} have {found} values, where rows of {width} were expected")]
    Width {
        /// What was recorded: activations or gradients.
        what: &'static str,
        /// Their number of values.
        found: usize,
        /// Values of an activation.
        width: usize,
    },
    /// There is not one gradient for each activation.
    #[error("there are {gradients} gradients for {activations} activations")]
    Counts {
        /// Rows of activations.
        activations: usize,
        /// Rows of gradients.
        gradients: usize,
    },
    /// A number is NaN or infinite.
    #[error("the {what} of row {row} are not finite")]
    NotFinite {
        /// Which.
        what: &'static str,
        /// The row, from 0.
        row: usize,
    },
    /// There is no such row.
    #[error("row {row} was asked for, but there are {rows} rows")]
    Row {
        /// The row.
        row: usize,
        /// Their number.
        rows: usize,
    },
    /// The temporary file.
    #[error("cannot keep activations in {}: {source}", folder.display())]
    File {
        /// Its folder.
        folder: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

/// Where activations are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Bytes in memory, above which the file is used; 1 GiB by default.
    pub memory: u64,
    /// The folder of the temporary file; that of the operating system by default.
    pub folder: PathBuf,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            memory: 1 << 30,
            folder: std::env::temp_dir(),
        }
    }
}

/// Rows of an activation and its gradient.
///
/// ```
/// use nabla_probe::activation_set::{ActivationSet, Storage};
///
/// let mut set = ActivationSet::new(2, Storage::default())?;
/// set.push(&[1.0, 2.0, 3.0, 4.0], Some(&[0.0, 0.1, 0.2, 0.3]))?;
/// assert_eq!(set.rows(), 2);
/// assert_eq!(set.read(&[1])?.activations, [3.0, 4.0]);
/// # Ok::<(), nabla_probe::activation_set::ActivationError>(())
/// ```
#[derive(Debug)]
pub struct ActivationSet {
    width: usize,
    rows: usize,
    storage: Storage,
    kept: Kept,
}

/// Each row: an activation, then its gradient.
#[derive(Debug)]
enum Kept {
    Memory(Vec<f32>),
    File(Mutex<File>),
}

/// Some rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// `[rows, width]`.
    pub activations: Vec<f32>,
    /// `[rows, width]`; zeros where none was recorded.
    pub gradients: Vec<f32>,
}

impl ActivationSet {
    /// Without rows yet.
    ///
    /// - `width`: values of an activation
    ///
    /// # Errors
    /// If the width is 0.
    pub fn new(width: usize, storage: Storage) -> Result<Self, ActivationError> {
        range::at_least("width of an activation", width, 1)?;
        Ok(Self {
            width,
            rows: 0,
            storage,
            kept: Kept::Memory(Vec::new()),
        })
    }

    /// Values of an activation.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Recorded rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether the rows lie in a file.
    pub fn is_on_disk(&self) -> bool {
        matches!(self.kept, Kept::File(_))
    }

    /// Records rows.
    ///
    /// - `activations`: `[rows, width]`
    /// - `gradients`: `[rows, width]`, or none, which counts as zeros
    ///
    /// # Errors
    /// If the rows don't fit, a number is not finite, or the file cannot be written; nothing is recorded then.
    pub fn push(
        &mut self,
        activations: &[f32],
        gradients: Option<&[f32]>,
    ) -> Result<(), ActivationError> {
        let rows = self.whole("activations", activations)?;
        if let Some(gradients) = gradients {
            let found = self.whole("gradients", gradients)?;
            if found != rows {
                return Err(ActivationError::Counts {
                    activations: rows,
                    gradients: found,
                });
            }
        }
        let zeros = vec![0.0; self.width];
        let mut joined = Vec::with_capacity(2 * activations.len());
        for (row, activation) in activations.chunks_exact(self.width).enumerate() {
            joined.extend_from_slice(activation);
            let own = row * self.width..(row + 1) * self.width;
            joined.extend_from_slice(gradients.map_or(&zeros[..], |g| &g[own]));
        }
        let error = |source| ActivationError::File {
            folder: self.storage.folder.clone(),
            source,
        };
        let end = (self.rows * self.bytes_of_a_row()) as u64;
        match &mut self.kept {
            Kept::Memory(values) => {
                let bytes = 4 * (values.len() + joined.len()) as u64;
                if bytes <= self.storage.memory {
                    values.extend_from_slice(&joined);
                } else {
                    let mut file = tempfile::tempfile_in(&self.storage.folder).map_err(error)?;
                    for part in [&values[..], &joined] {
                        write(&mut file, part).map_err(error)?;
                    }
                    self.kept = Kept::File(Mutex::new(file));
                }
            }
            Kept::File(file) => {
                let file = file.get_mut().unwrap_or_else(|broken| broken.into_inner());
                // What an earlier call could not write whole is overwritten.
                file.seek(SeekFrom::Start(end)).map_err(error)?;
                write(file, &joined).map_err(error)?;
            }
        }
        self.rows += rows;
        Ok(())
    }

    /// Some rows, in the order of `rows`.
    ///
    /// # Errors
    /// If there is no such row, or the file cannot be read.
    pub fn read(&self, rows: &[usize]) -> Result<Rows, ActivationError> {
        let mut found = Rows {
            activations: Vec::with_capacity(rows.len() * self.width),
            gradients: Vec::with_capacity(rows.len() * self.width),
        };
        let mut bytes = vec![0; self.bytes_of_a_row()];
        let mut add = |row: &[f32]| {
            let (activation, gradient) = row.split_at(self.width);
            found.activations.extend_from_slice(activation);
            found.gradients.extend_from_slice(gradient);
        };
        for &row in rows {
            if row >= self.rows {
                return Err(ActivationError::Row {
                    row,
                    rows: self.rows,
                });
            }
            match &self.kept {
                Kept::Memory(values) => add(&values[2 * self.width * row..][..2 * self.width]),
                Kept::File(file) => {
                    let mut file = file.lock().unwrap_or_else(|broken| broken.into_inner());
                    let place = SeekFrom::Start((row * self.bytes_of_a_row()) as u64);
                    let read = file
                        .seek(place)
                        .and_then(|_| file.read_exact(&mut bytes))
                        .map_err(|source| ActivationError::File {
                            folder: self.storage.folder.clone(),
                            source,
                        });
                    read?;
                    let (fours, _) = bytes.as_chunks::<4>();
                    let row: Vec<f32> =
                        fours.iter().map(|four| f32::from_le_bytes(*four)).collect();
                    add(&row);
                }
            }
        }
        Ok(found)
    }

    /// The mean activation, `[width]`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn mean(&self) -> Result<Vec<f64>, ActivationError> {
        /// Rows that are read at once.
        const TOGETHER: usize = 4096;
        let rows: Vec<usize> = (0..self.rows).collect();
        let mut mean = vec![0.0; self.width];
        for part in rows.chunks(TOGETHER) {
            for row in self.read(part)?.activations.chunks_exact(self.width) {
                for (mean, &x) in mean.iter_mut().zip(row) {
                    *mean += f64::from(x) / self.rows as f64;
                }
            }
        }
        Ok(mean)
    }

    fn bytes_of_a_row(&self) -> usize {
        2 * 4 * self.width
    }

    /// The number of rows, if they are whole and finite.
    fn whole(&self, what: &'static str, values: &[f32]) -> Result<usize, ActivationError> {
        if !values.len().is_multiple_of(self.width) {
            return Err(ActivationError::Width {
                what,
                found: values.len(),
                width: self.width,
            });
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(place) => Err(ActivationError::NotFinite {
                what,
                row: self.rows + place / self.width,
            }),
            None => Ok(values.len() / self.width),
        }
    }
}

fn write(file: &mut File, values: &[f32]) -> io::Result<()> {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    file.write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(memory: u64) -> ActivationSet {
        let folder = std::env::temp_dir();
        let mut set = ActivationSet::new(3, Storage { memory, folder }).unwrap();
        for part in 0..4 {
            let values: Vec<f32> = (0..6).map(|i| (part * 6 + i) as f32).collect();
            let gradients: Vec<f32> = values.iter().map(|v| -v).collect();
            set.push(&values, (part != 2).then_some(&gradients))
                .unwrap();
        }
        set
    }

    #[test]
    fn rows_are_the_same_in_memory_and_on_disk() {
        let (memory, disk) = (filled(1 << 20), filled(60));
        assert!(!memory.is_on_disk() && disk.is_on_disk());
        let rows = [7, 0, 4, 0];
        let found = memory.read(&rows).unwrap();
        assert_eq!(found, disk.read(&rows).unwrap());
        assert_eq!(found.activations[..3], [21.0, 22.0, 23.0]);
        assert_eq!(found.gradients[..3], [-21.0, -22.0, -23.0]);
        assert_eq!(found.gradients[6..9], [0.0; 3]);
        assert_eq!((disk.rows(), disk.width()), (8, 3));
        assert_eq!(memory.mean().unwrap(), [10.5, 11.5, 12.5]);
        assert_eq!(memory.mean().unwrap(), disk.mean().unwrap());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut set = filled(60);
        let told = |error: ActivationError| error.to_string();
        assert_eq!(
            told(set.push(&[1.0; 4], None).unwrap_err()),
            "the activations have 4 values, where rows of 3 were expected"
        );
        assert_eq!(
            told(set.push(&[1.0; 6], Some(&[1.0; 3])).unwrap_err()),
            "there are 1 gradients for 2 activations"
        );
        assert_eq!(
            told(
                set.push(&[1.0, 2.0, 3.0], Some(&[0.0, f32::NAN, 0.0]))
                    .unwrap_err()
            ),
            "the gradients of row 8 are not finite"
        );
        assert_eq!(
            told(set.read(&[8]).unwrap_err()),
            "row 8 was asked for, but there are 8 rows"
        );
        assert_eq!(set.rows(), 8);
        let nowhere = Storage {
            memory: 0,
            folder: PathBuf::from("/nonexistent/folder"),
        };
        let mut set = ActivationSet::new(1, nowhere).unwrap();
        assert!(told(set.push(&[1.0], None).unwrap_err()).contains("/nonexistent/folder"));
        assert_eq!(set.rows(), 0);
        assert!(ActivationSet::new(0, Storage::default()).is_err());
    }
}
