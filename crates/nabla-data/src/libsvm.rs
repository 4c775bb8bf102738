//! The LIBSVM text format: labelled examples with few non-zero features.
//!
//! Each line is one example, `label index:value index:value …`, with indices that increase within the line.
//! Text after a `#` is a comment, empty lines are skipped, and `qid:` (the query of an example, in ranking
//! data) is available on request. Source: Chang, Lin, *LIBSVM: A library for support vector machines*, 2011,
//! and the README of its data sets, <https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/>.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nabla_base::{OutputError, write_bytes_atomically};

/// The reason why a text is not in the LIBSVM format, or a table cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum LibsvmError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A line is not an example.
    #[error("line {line} is not a LIBSVM example, at column {column}: {reason}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// The position in the line, in characters from 1.
        column: usize,
        /// What is wrong.
        reason: String,
    },
    /// An example cannot be added to a table.
    #[error("example {row} is not valid: {reason}")]
    Row {
        /// The example, from 1.
        row: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// There is an index 0, although indices were declared to count from 1.
    #[error("line {line} has an index 0, but indices must start at 1")]
    IndexZero {
        /// The first such line, from 1.
        line: usize,
    },
    /// Some examples have no `qid:`.
    #[error("line {line} has no qid, but every example must have one if query ids are requested")]
    NoQuery {
        /// The first such line, from 1.
        line: usize,
    },
    /// There are no examples.
    #[error("the text contains no LIBSVM examples")]
    Empty,
    /// The number of features is below the highest index.
    #[error("the examples have {found} features, but {wanted} were requested")]
    Features {
        /// The number of features requested.
        wanted: usize,
        /// The number that the highest index shows.
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

impl LibsvmError {
    /// The error with the name of its file.
    #[must_use]
    pub fn of(self, path: &Path) -> Self {
        Self::In {
            path: path.into(),
            source: Box::new(self),
        }
    }
}

/// Whether the indices of a file start at 0 or at 1.
///
/// LIBSVM's own indices start at 1. scikit-learn's `dump_svmlight_file` writes them from 0 by default, and
/// XGBoost and LightGBM read them so. A file does not state its base: only an index 0 shows that it counts
/// from 0 ([`LibsvmText::index_base`], the rule of scikit-learn's reader), or the line that scikit-learn adds
/// to a comment at the top of a file. A file from 0 whose first feature is 0 in all examples shows nothing.
/// So files that belong together, such as a training and a test set, must be read with one base, which any of
/// them may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IndexBase {
    /// Indices start at 0, as scikit-learn's `dump_svmlight_file` writes them by default, and as XGBoost and
    /// LightGBM read them.
    Zero,
    /// Indices start at 1, as in LIBSVM.
    One,
}

nabla_base::choices! {
    IndexBase: "index base" {
        "zero" => Self::Zero, "At 0, as scikit-learn's dump_svmlight_file writes them";
        "one" => Self::One, "At 1, as in LIBSVM's own files";
    }
}

impl IndexBase {
    /// The index of the first feature.
    pub fn first(self) -> usize {
        match self {
            Self::Zero => 0,
            Self::One => 1,
        }
    }

    /// The base of texts that belong together, such as a training and a test set: [`Zero`](Self::Zero) if any
    /// of them [shows](LibsvmText::shown_base) it.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a LibsvmText>) -> Self {
        let mut texts = texts.into_iter();
        match texts.any(|text| text.shown_base() == Some(Self::Zero)) {
            true => Self::Zero,
            false => Self::One,
        }
    }
}

/// The index of the first feature.
impl std::fmt::Display for IndexBase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.first())
    }
}

/// A text in the LIBSVM format whose index base is not yet decided.
///
/// ```
/// use nabla_data::{IndexBase, LibsvmText};
/// // What scikit-learn's dump_svmlight_file writes.
/// let text = LibsvmText::parse("1 0:0.5 2:2\n-1 1:1\n")?;
/// assert_eq!(text.index_base(), IndexBase::Zero);
/// let rows = text.into_rows(IndexBase::Zero, None)?;
/// assert_eq!(rows.features(), 3);
/// assert_eq!(rows.row(0).collect::<Vec<_>>(), [(0, 0.5), (2, 2.0)]);
///
/// // Its test set may have no index 0, but its indices start there too.
/// let test = LibsvmText::parse("1 1:3\n")?.into_rows(IndexBase::Zero, Some(3))?;
/// assert_eq!(test.row(0).collect::<Vec<_>>(), [(1, 3.0)]);
/// # Ok::<(), nabla_data::LibsvmError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LibsvmText {
    /// Its columns are the indices as written in the text.
    rows: LabelledRows,
    /// The first line with an index 0.
    zero: Option<usize>,
    /// The base that a comment of scikit-learn states.
    said: Option<IndexBase>,
    /// The highest index, including those of zero values.
    highest: Option<usize>,
    /// The query of each example, and its line.
    queries: Vec<(usize, Option<i64>)>,
}

impl LibsvmText {
    /// The highest index that is read.
    pub const MAX_INDEX: usize = LabelledRows::MAX_FEATURES - 1;

    /// Reads a text.
    ///
    /// # Errors
    /// [`LibsvmError::Line`] with the line and the column of what is wrong, [`LibsvmError::Empty`].
    pub fn parse(text: &str) -> Result<Self, LibsvmError> {
        let mut out = Self {
            rows: LabelledRows::new(LabelledRows::MAX_FEATURES),
            zero: None,
            said: None,
            highest: None,
            queries: Vec::new(),
        };
        for (i, line) in text.lines().enumerate() {
            let (line, comment) = line.split_once('#').unwrap_or((line, ""));
            match comment.trim() {
                "Column indices are zero-based" => out.said = Some(IndexBase::Zero),
                "Column indices are one-based" => out.said = Some(IndexBase::One),
                _ => {}
            }
            // The words and their starts, in bytes.
            let mut words = line.split_ascii_whitespace().map(|word| {
                let begin = word.as_ptr() as usize - line.as_ptr() as usize;
                (begin, word)
            });
            let wrong = |begin: usize, reason: String| LibsvmError::Line {
                line: i + 1,
                column: line[..begin].chars().count() + 1,
                reason,
            };
            let finite = |begin: usize, text: &str| match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(value),
                Ok(_) => Err(wrong(begin, format!("{text:?} is not a finite number"))),
                Err(_) => Err(wrong(begin, format!("{text:?} is not a number"))),
            };
            let Some((begin, label)) = words.next() else {
                continue;
            };
            let label = finite(begin, label)?;
            let mut row: Vec<(usize, f64)> = Vec::new();
            let mut query = None;
            for (begin, word) in words {
                let (index, value) = word
                    .split_once(':')
                    .ok_or_else(|| wrong(begin, format!("{word:?} is not index:value")))?;
                let value_begin = begin + index.len() + 1;
                if index == "qid" {
                    if query.is_some() || !row.is_empty() {
                        let reason = "qid comes right after the label, and only once".to_owned();
                        return Err(wrong(begin, reason));
                    }
                    query = Some(value.parse().map_err(|_| {
                        wrong(
                            value_begin,
                            format!("the qid {value:?} is not a whole number"),
                        )
                    })?);
                    continue;
                }
                let index: usize = index
                    .parse()
                    .ok()
                    .filter(|&index| index <= Self::MAX_INDEX)
                    .ok_or_else(|| {
                        let reason = format!("the index {index:?} is not a whole number from 0");
                        wrong(begin, reason)
                    })?;
                if let Some(&(last, _)) = row.last()
                    && index <= last
                {
                    let reason = match row.iter().any(|&(met, _)| met == index) {
                        true => format!("the index {index} occurs twice"),
                        false => format!("the index {index} does not rise above {last}"),
                    };
                    return Err(wrong(begin, reason));
                }
                row.push((index, finite(value_begin, value)?));
                if index == 0 && out.zero.is_none() {
                    out.zero = Some(i + 1);
                }
            }
            out.highest = out.highest.max(row.last().map(|&(index, _)| index));
            out.rows.push(label, row)?;
            out.queries.push((i + 1, query));
        }
        match out.rows.is_empty() {
            true => Err(LibsvmError::Empty),
            false => Ok(out),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), with the name of the file.
    pub fn read(path: &Path) -> Result<Self, LibsvmError> {
        let text = fs::read_to_string(path).map_err(|source| LibsvmError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(&text).map_err(|e| e.of(path))
    }

    /// The base of the indices, if the text shows it by an index 0, or by the comment `Column indices are
    /// zero-based` (`one-based`) of scikit-learn.
    pub fn shown_base(&self) -> Option<IndexBase> {
        match self.zero {
            Some(_) => Some(IndexBase::Zero),
            None => self.said,
        }
    }

    /// The base that the text [shows](Self::shown_base), or [`IndexBase::One`] if it shows none.
    pub fn index_base(&self) -> IndexBase {
        self.shown_base().unwrap_or(IndexBase::One)
    }

    /// The number of features that the highest index shows, if indices count from `base`.
    pub fn features(&self, base: IndexBase) -> usize {
        self.highest.map_or(0, |index| index + 1 - base.first())
    }

    /// The query of every example (`qid:`), in order.
    ///
    /// # Errors
    /// [`LibsvmError::NoQuery`] if an example has none.
    pub fn queries(&self) -> Result<Vec<i64>, LibsvmError> {
        let queries = self.queries.iter();
        queries
            .map(|&(line, query)| query.ok_or(LibsvmError::NoQuery { line }))
            .collect()
    }

    /// The examples.
    ///
    /// - `base`: where the indices start
    /// - `features`: the number of features, if the text may not show the last ones; `None` for the number
    ///   that the highest index shows
    ///
    /// # Errors
    /// [`LibsvmError::IndexZero`] if there is an index 0, but `base` is 1;
    /// [`LibsvmError::Features`] if there are more than `features`.
    pub fn into_rows(
        self,
        base: IndexBase,
        features: Option<usize>,
    ) -> Result<LabelledRows, LibsvmError> {
        if let (IndexBase::One, Some(line)) = (base, self.zero) {
            return Err(LibsvmError::IndexZero { line });
        }
        let found = self.features(base);
        let mut rows = self.rows;
        rows.features = match features {
            Some(wanted) if wanted < found => return Err(LibsvmError::Features { wanted, found }),
            Some(wanted) => wanted,
            None => found,
        };
        for column in &mut rows.columns {
            *column -= base.first() as u32;
        }
        Ok(rows)
    }
}

/// Examples as sparse rows, each with a label.
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
    /// The start of each row in `columns` and `values`, and the end of the last row.
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f64>,
    features: usize,
}

impl LabelledRows {
    /// The highest index that is read.
    pub const MAX_FEATURES: usize = u32::MAX as usize;

    /// Creates a table without examples, with this many features.
    pub fn new(features: usize) -> Self {
        Self {
            starts: vec![0],
            features,
            ..Self::default()
        }
    }

    /// Adds an example. Zeros are not stored.
    ///
    /// # Errors
    /// If a column is not below the number of features, is not higher than the one before, or a
    /// number is not finite.
    pub fn push(
        &mut self,
        label: f64,
        row: impl IntoIterator<Item = (usize, f64)>,
    ) -> Result<(), LibsvmError> {
        let row_number = self.labels.len() + 1;
        let wrong = |reason: String| LibsvmError::Row {
            row: row_number,
            reason,
        };
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

    /// Reads a text; indices count from 0 if there is an index 0, otherwise from 1. To choose the base, use
    /// [`LibsvmText`].
    ///
    /// - `features`: the number of features, if the text may not show the last ones (a test set that belongs
    ///   to a training set); `None` for the number that the highest index shows
    ///
    /// # Errors
    /// As [`LibsvmText::parse`] and [`LibsvmText::into_rows`].
    pub fn parse(text: &str, features: Option<usize>) -> Result<Self, LibsvmError> {
        let text = LibsvmText::parse(text)?;
        let base = text.index_base();
        text.into_rows(base, features)
    }

    /// Reads a file; see [`Self::parse`].
    ///
    /// # Errors
    /// As [`Self::parse`], with the name of the file.
    pub fn read(path: &Path, features: Option<usize>) -> Result<Self, LibsvmError> {
        let text = LibsvmText::read(path)?;
        let base = text.index_base();
        text.into_rows(base, features).map_err(|e| e.of(path))
    }

    /// Returns the text in the LIBSVM format, with indices from `base`. If that is 0, the text always
    /// contains an index 0, even if the first feature is 0 in all examples, so that readers see the base. The
    /// last features are missing from it if no example has them.
    pub fn to_text(&self, base: IndexBase) -> String {
        let shown = base == IndexBase::One || self.columns.contains(&0);
        let mut text = String::new();
        for (i, label) in self.labels.iter().enumerate() {
            text += &label.to_string();
            if i == 0 && !shown {
                text += " 0:0";
            }
            for (column, value) in self.row(i) {
                text += &format!(" {}:{value}", column + base.first());
            }
            text.push('\n');
        }
        text
    }

    /// Writes a file, completely or not at all.
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

    /// The columns, from 0, and values of the entries of example `i` that are not zero; empty if there is no
    /// such example.
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

    /// Returns the same examples with labels changed by `map`.
    #[must_use]
    pub fn map_labels(mut self, map: impl FnMut(f64) -> f64) -> Self {
        self.labels = self.labels.into_iter().map(map).collect();
        self
    }

    /// Returns the same examples with one more feature, which is 1 in all of them: the bias of a linear
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

/// Writes the LIBSVM format with indices from 1. Reading it again gives the same table, except for features
/// at the end that no example has.
impl std::fmt::Display for LabelledRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_text(IndexBase::One))
    }
}

#[cfg(test)]
mod tests;
