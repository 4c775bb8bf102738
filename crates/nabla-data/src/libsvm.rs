//! The LIBSVM text format: labelled examples with few non-zero features.
//!
//! One example a line, `label index:value index:value …`, with indices from 1 that rise within a
//! line. What follows a `#` is a comment, empty lines are skipped, and `qid:` (a query of ranking
//! data) is passed over. Source: Chang, Lin, *LIBSVM: A library for support vector machines*, 2011,
//! and the README of its data sets, <https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/>.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::atomic_file::{OutputError, write_bytes_atomically};

/// A text that is not in the LIBSVM format, or a table that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum LibsvmError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A line that is not an example.
    #[error("line {line} is no LIBSVM example: {reason}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// There are no examples.
    #[error("the text holds no LIBSVM examples")]
    Empty,
    /// A number of features below the highest index.
    #[error("the examples have {found} features, but {wanted} were asked for")]
    Features {
        /// What was asked for.
        wanted: usize,
        /// The highest index.
        found: usize,
    },
    /// The file with this error.
    #[error("{}: {source}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// The error.
        source: Box<LibsvmError>,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Examples as sparse rows, with a label each.
///
/// ```
/// use nabla_data::LabelledRows;
/// let rows: LabelledRows = "+1 1:0.5 3:2 # first\n-1 2:1\n".parse()?;
/// assert_eq!((rows.len(), rows.features()), (2, 3));
/// assert_eq!(rows.labels(), [1.0, -1.0]);
/// assert_eq!(rows.row(0).collect::<Vec<_>>(), [(0, 0.5), (2, 2.0)]);
/// # Ok::<(), nabla_data::LibsvmError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelledRows {
    labels: Vec<f64>,
    /// Where each row begins in `columns` and `values`, and where the last ends.
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f64>,
    features: usize,
}

impl LabelledRows {
    /// The highest index that is read.
    pub const MAX_FEATURES: usize = u32::MAX as usize;

    /// A table without examples, of so many features.
    pub fn new(features: usize) -> Self {
        Self {
            starts: vec![0],
            features,
            ..Self::default()
        }
    }

    /// Adds an example, of which zeros are not stored.
    ///
    /// # Errors
    /// If a column is not below the number of features, is not higher than the one before, or a
    /// number is not finite.
    pub fn push(
        &mut self,
        label: f64,
        row: impl IntoIterator<Item = (usize, f64)>,
    ) -> Result<(), LibsvmError> {
        let line = self.labels.len() + 1;
        let wrong = |reason: String| LibsvmError::Line { line, reason };
        if !label.is_finite() {
            return Err(wrong(format!("the label {label} is not a finite number")));
        }
        let (columns, values) = (self.columns.len(), self.values.len());
        let mut last = None;
        let mut result = Ok(());
        for (column, value) in row {
            if column >= self.features {
                result = Err(wrong(format!(
                    "it has feature {}, but the table has {}",
                    column + 1,
                    self.features
                )));
            } else if last.is_some_and(|last| last >= column) {
                result = Err(wrong(format!(
                    "the index {} does not rise above the one before",
                    column + 1
                )));
            } else if !value.is_finite() {
                result = Err(wrong(format!(
                    "the value {value} of feature {} is not a finite number",
                    column + 1
                )));
            }
            if result.is_err() {
                break;
            }
            last = Some(column);
            if value != 0.0 {
                self.columns.push(column as u32);
                self.values.push(value);
            }
        }
        if result.is_err() {
            self.columns.truncate(columns);
            self.values.truncate(values);
            return result;
        }
        self.labels.push(label);
        self.starts.push(self.columns.len());
        Ok(())
    }

    /// Reads a text.
    ///
    /// - `features`: how many there are, where the text may not show the last ones (a test set
    ///   beside its training set); `None` for the highest index
    ///
    /// # Errors
    /// [`LibsvmError::Line`] with the line that is wrong, [`LibsvmError::Empty`],
    /// [`LibsvmError::Features`] if an index is higher than `features`.
    pub fn parse(text: &str, features: Option<usize>) -> Result<Self, LibsvmError> {
        let mut rows = Self::new(Self::MAX_FEATURES);
        let mut highest = 0;
        for (i, line) in text.lines().enumerate() {
            let wrong = |reason: String| LibsvmError::Line {
                line: i + 1,
                reason,
            };
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let Some(label) = words.next() else {
                continue;
            };
            let label: f64 = label
                .parse()
                .map_err(|_| wrong(format!("{label:?} is not a number")))?;
            let mut row = Vec::new();
            for word in words {
                let (index, value) = word
                    .split_once(':')
                    .ok_or_else(|| wrong(format!("{word:?} is not index:value")))?;
                if index == "qid" {
                    continue;
                }
                let index: usize = index
                    .parse()
                    .ok()
                    .filter(|i| (1..=Self::MAX_FEATURES).contains(i))
                    .ok_or_else(|| {
                        wrong(format!("the index {index:?} is not a whole number from 1"))
                    })?;
                let value: f64 = value
                    .parse()
                    .map_err(|_| wrong(format!("{value:?} is not a number")))?;
                highest = highest.max(index);
                row.push((index - 1, value));
            }
            rows.push(label, row).map_err(|error| match error {
                // Its own count leaves out the lines without an example.
                LibsvmError::Line { reason, .. } => wrong(reason),
                other => other,
            })?;
        }
        if rows.is_empty() {
            return Err(LibsvmError::Empty);
        }
        rows.features = match features {
            Some(wanted) if wanted < highest => {
                return Err(LibsvmError::Features {
                    wanted,
                    found: highest,
                });
            }
            Some(wanted) => wanted,
            None => highest,
        };
        Ok(rows)
    }

    /// Reads a file; see [`Self::parse`].
    ///
    /// # Errors
    /// As [`Self::parse`], with the name of the file.
    pub fn read(path: &Path, features: Option<usize>) -> Result<Self, LibsvmError> {
        let text = fs::read_to_string(path).map_err(|source| LibsvmError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(&text, features).map_err(|source| LibsvmError::In {
            path: path.into(),
            source: Box::new(source),
        })
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), LibsvmError> {
        Ok(write_bytes_atomically(path, self.to_string().as_bytes())?)
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of features.
    pub fn features(&self) -> usize {
        self.features
    }

    /// The labels.
    pub fn labels(&self) -> &[f64] {
        &self.labels
    }

    /// The columns, from 0, and values of the entries of example `i` that are not zero; nothing if
    /// there is no such example.
    pub fn row(&self, i: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        let range = match (self.starts.get(i), self.starts.get(i + 1)) {
            (Some(&start), Some(&end)) => start..end,
            _ => 0..0,
        };
        self.columns[range.clone()]
            .iter()
            .map(|&column| column as usize)
            .zip(self.values[range].iter().copied())
    }

    /// The product of example `i` with a vector of [`features`](Self::features) numbers.
    ///
    /// # Panics
    /// If the vector is shorter.
    pub fn dot(&self, i: usize, vector: &[f64]) -> f64 {
        self.row(i)
            .map(|(column, value)| value * vector[column])
            .sum()
    }

    /// The same examples with labels changed by `map`.
    #[must_use]
    pub fn map_labels(mut self, map: impl FnMut(f64) -> f64) -> Self {
        self.labels = self.labels.into_iter().map(map).collect();
        self
    }

    /// The same examples with one more feature, which is 1 in all of them: the bias of a linear
    /// model.
    #[must_use]
    pub fn with_bias(self) -> Self {
        let mut out = Self::new(self.features + 1);
        for i in 0..self.len() {
            let row = self.row(i).chain(std::iter::once((self.features, 1.0)));
            out.labels.push(self.labels[i]);
            for (column, value) in row {
                out.columns.push(column as u32);
                out.values.push(value);
            }
            out.starts.push(out.columns.len());
        }
        out
    }
}

impl std::str::FromStr for LabelledRows {
    type Err = LibsvmError;

    fn from_str(text: &str) -> Result<Self, LibsvmError> {
        Self::parse(text, None)
    }
}

/// The LIBSVM format; reading it again gives the same table, but for features at the end that no
/// example has.
impl std::fmt::Display for LabelledRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, label) in self.labels.iter().enumerate() {
            write!(f, "{label}")?;
            for (column, value) in self.row(i) {
                write!(f, " {}:{value}", column + 1)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(text: &str) -> String {
        LabelledRows::parse(text, None).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_line_is_named() {
        assert_eq!(told(""), "the text holds no LIBSVM examples");
        assert_eq!(told("# nothing\n\n"), "the text holds no LIBSVM examples");
        assert!(told("1 1:2\nx 1:1").contains("line 2 is no LIBSVM example: \"x\""));
        assert!(told("\n1 1:2 2").contains("line 2"));
        assert!(told("1 0:2").contains("whole number from 1"));
        assert!(told("1 2:1 2:1").contains("does not rise"));
        assert!(told("1 1:nan").contains("not a finite number"));
        assert!(told("inf 1:1").contains("not a finite number"));
        assert!(told("1 1:").contains("\"\" is not a number"));
        assert!(told("1 99999999999999999999:1").contains("whole number"));
        let error = LabelledRows::parse("1 5:1", Some(4)).unwrap_err();
        assert!(error.to_string().contains("have 5 features, but 4"));
    }

    #[test]
    fn files_say_which_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let error = LabelledRows::read(&path, None).unwrap_err().to_string();
        assert!(error.starts_with("cannot read"), "{error}");
        fs::write(&path, "one").unwrap();
        let error = LabelledRows::read(&path, None).unwrap_err().to_string();
        assert!(error.contains("a.txt: line 1"), "{error}");
        let rows: LabelledRows = "3 qid:7 1:1e-3 4:-2\n".parse().unwrap();
        rows.write(&path).unwrap();
        assert_eq!(LabelledRows::read(&path, None).unwrap(), rows);
    }

    #[test]
    fn a_wrong_row_leaves_the_table_as_it_was() {
        let mut rows = LabelledRows::new(3);
        rows.push(1.0, [(0, 1.0), (1, 0.0), (2, 3.0)]).unwrap();
        let before = rows.clone();
        assert!(rows.push(1.0, [(0, 1.0), (3, 1.0)]).is_err());
        assert!(rows.push(1.0, [(1, 1.0), (0, 1.0)]).is_err());
        assert!(rows.push(f64::NAN, []).is_err());
        assert_eq!(rows, before);
        assert_eq!(rows.row(0).count(), 2);
        assert_eq!(rows.row(1).count(), 0);
        assert_eq!(rows.dot(0, &[2.0, 5.0, -1.0]), -1.0);
        let biased = rows.with_bias();
        assert_eq!(biased.features(), 4);
        assert_eq!(biased.dot(0, &[0.0, 0.0, 0.0, 7.0]), 7.0);
    }

    proptest! {
        #[test]
        fn any_text_gives_a_table_or_an_error(text in "[-0-9.:eE #a-z\\n+]{0,200}") {
            if let Ok(rows) = LabelledRows::parse(&text, None) {
                let again: LabelledRows = rows.to_string().parse().unwrap();
                prop_assert_eq!(again.labels(), rows.labels());
            }
        }

        #[test]
        fn a_table_written_and_read_is_the_same(
            rows in proptest::collection::vec(
                (-1e9f64..1e9, proptest::collection::btree_map(0usize..50, -1e-3f64..1e6, 0..8)), 1..20)
        ) {
            let mut table = LabelledRows::new(50);
            for (label, row) in rows {
                table.push(label, row).unwrap();
            }
            prop_assert_eq!(LabelledRows::parse(&table.to_string(), Some(50)).unwrap(), table);
        }
    }
}
