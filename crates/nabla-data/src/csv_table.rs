//! Labelled examples as a table of comma-separated values (RFC 4180).
//!
//! One example a row; one column is the label, any text; the others are numbers. The separator may
//! be a comma, a semicolon or a tab, whichever the first line has most of. The first row is a header
//! if one of its cells, other than the label's, is not a number.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a text is not a table of labelled examples.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The rows are not a table.
    #[error("the text is no table: {0}")]
    NoTable(String),
    /// There are no examples.
    #[error("the table has no rows")]
    Empty,
    /// Only one column.
    #[error("the table has one column, but needs a label and a feature")]
    NoFeatures,
    /// The column of the labels does not exist.
    #[error("the table has no column {name:?}, only {}", columns.join(", "))]
    NoColumn {
        /// What was asked for.
        name: String,
        /// What there is.
        columns: Vec<String>,
    },
    /// A cell that is not a finite number.
    #[error("row {row}, column {column:?}: {cell:?} is not a finite number")]
    Cell {
        /// The row, from 1, the header included.
        row: usize,
        /// The column.
        column: String,
        /// What stands there.
        cell: String,
    },
    /// The file with this error.
    #[error("{}: {source}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// The error.
        source: Box<CsvError>,
    },
}

/// Which column holds the labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LabelColumn {
    /// The first.
    First,
    /// The last.
    #[default]
    Last,
    /// The one with this name in the header, or, without a header, this number from 1.
    Named(String),
}

/// Rows of numbers with a label each.
///
/// ```
/// use nabla_data::{CsvTable, LabelColumn};
/// let table = CsvTable::parse(b"width,height,kind\n1.5,2,cat\n3,4,dog\n", &LabelColumn::Last)?;
/// assert_eq!(table.features(), ["width", "height"]);
/// assert_eq!(table.labels(), ["cat", "dog"]);
/// assert_eq!(table.row(1), [3.0, 4.0]);
/// # Ok::<(), nabla_data::CsvError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct CsvTable {
    features: Vec<String>,
    values: Vec<f64>,
    labels: Vec<String>,
}

impl CsvTable {
    /// Reads a text.
    ///
    /// # Errors
    /// If its rows differ in length, there are none, the column of the labels does not exist, or a
    /// cell is not a finite number.
    pub fn parse(text: &[u8], label: &LabelColumn) -> Result<Self, CsvError> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let line = text.split(|&b| b == b'\n').next().unwrap_or_default();
        let count = |separator: u8| line.iter().filter(|&&b| b == separator).count();
        // Of equal counts the last is taken: the comma.
        let separator = [b'\t', b';', b','].into_iter().max_by_key(|&s| count(s));
        let mut rows = csv::ReaderBuilder::new()
            .has_headers(false)
            .delimiter(separator.unwrap_or(b','))
            .trim(csv::Trim::All)
            .from_reader(text)
            .into_records();
        let no_table = |e: csv::Error| CsvError::NoTable(e.to_string());
        let first = rows.next().ok_or(CsvError::Empty)?.map_err(no_table)?;
        let columns = first.len();
        if columns < 2 {
            return Err(CsvError::NoFeatures);
        }
        let numbered: Vec<String> = (1..=columns).map(|i| i.to_string()).collect();
        let position = |names: &[String], name: &String| names.iter().position(|n| n == name);
        let is_number = |cell: &str| cell.parse::<f64>().is_ok();
        // The name of the label column is known only with the header, which is known only without
        // the label's cell: a name that stands in the first row makes that a header.
        let cells: Vec<String> = first.iter().map(str::to_owned).collect();
        let (label, named) = match label {
            LabelColumn::First => (0, false),
            LabelColumn::Last => (columns - 1, false),
            LabelColumn::Named(name) => match position(&cells, name) {
                Some(i) if !is_number(name) => (i, true),
                _ => {
                    let i = position(&numbered, name).ok_or_else(|| CsvError::NoColumn {
                        name: name.clone(),
                        columns: cells.clone(),
                    })?;
                    (i, false)
                }
            },
        };
        let header = named
            || cells
                .iter()
                .enumerate()
                .any(|(i, cell)| i != label && !is_number(cell));
        let names = if header { cells } else { numbered };
        let mut table = Self {
            features: Vec::with_capacity(columns - 1),
            values: Vec::new(),
            labels: Vec::new(),
        };
        let data = (!header).then_some(Ok(first)).into_iter().chain(rows);
        for (i, row) in data.enumerate() {
            let row = row.map_err(no_table)?;
            for (column, cell) in row.iter().enumerate() {
                if column == label {
                    table.labels.push(cell.to_owned());
                    continue;
                }
                let value: Option<f64> = cell.parse().ok().filter(|v: &f64| v.is_finite());
                table.values.push(value.ok_or_else(|| CsvError::Cell {
                    row: i + 1 + usize::from(header),
                    column: names[column].clone(),
                    cell: cell.to_owned(),
                })?);
            }
        }
        if table.labels.is_empty() {
            return Err(CsvError::Empty);
        }
        let mut names = names;
        names.remove(label);
        table.features = names;
        Ok(table)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), with the name of the file.
    pub fn read(path: &Path, label: &LabelColumn) -> Result<Self, CsvError> {
        let text = fs::read(path).map_err(|source| CsvError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(&text, label).map_err(|source| CsvError::In {
            path: path.into(),
            source: Box::new(source),
        })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none, which a table that was read is not.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The names of the features; their numbers from 1 where there is no header.
    pub fn features(&self) -> &[String] {
        &self.features
    }

    /// The features of example `i`; none if there is no such example.
    pub fn row(&self, i: usize) -> &[f64] {
        let begin = i.saturating_mul(self.features.len());
        self.values
            .get(begin..begin.saturating_add(self.features.len()))
            .unwrap_or(&[])
    }

    /// The labels.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(text: &str, label: &LabelColumn) -> String {
        let error = CsvTable::parse(text.as_bytes(), label).unwrap_err();
        error.to_string()
    }

    #[test]
    fn headers_separators_and_label_columns_are_found() {
        let parse = |text: &str, label: &str| {
            let label = LabelColumn::Named(label.into());
            CsvTable::parse(text.as_bytes(), &label).unwrap()
        };
        let expected = parse("a,b,kind\n1,2,x\n3,4,\"y, z\"\n", "kind");
        assert_eq!(expected.labels(), ["x", "y, z"]);
        assert_eq!(
            parse("kind;a;b\r\nx;1;2\r\n\"y, z\";3;4\r\n", "kind"),
            expected
        );
        assert_eq!(
            parse("\u{feff}a\tkind\tb\n1\tx\t2\n3\ty, z\t4\n", "kind"),
            expected
        );
        // Without a header, columns have numbers; a label that is a text is no header.
        let plain = parse("x,1,2\ny,3,4\n", "1");
        assert_eq!(
            (plain.len(), plain.features()),
            (2, &["2".to_owned(), "3".into()][..])
        );
        let first = CsvTable::parse(b"x,1,2\ny,3,4\n", &LabelColumn::First).unwrap();
        assert_eq!(first, plain);
        // All columns numeric, with a header that names the label.
        let named = parse("a,class\n5,0\n6,1\n", "class");
        assert_eq!(
            (named.row(1), named.labels()),
            (&[6.0][..], &["0".to_owned(), "1".into()][..])
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let last = LabelColumn::Last;
        assert_eq!(told("", &last), "the table has no rows");
        assert_eq!(told("a,b\n", &last), "the table has no rows");
        assert!(told("1\n2\n", &last).contains("one column"));
        assert!(told("1,x\n2\n", &last).contains("no table"));
        assert_eq!(
            told("a,b\n1,x\n,y\n", &last),
            "row 3, column \"a\": \"\" is not a finite number"
        );
        assert!(told("1,x\ninf,y\n", &last).contains("row 2, column \"1\""));
        let named = LabelColumn::Named("kind".into());
        assert!(told("a,b\n1,x\n", &named).contains("no column \"kind\", only a, b"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let read = |path: &Path| CsvTable::read(path, &last).unwrap_err().to_string();
        assert!(read(&path).starts_with("cannot read"));
        fs::write(&path, "1,x\n2\n").unwrap();
        assert!(read(&path).contains("a.csv: the text is no table"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_give_a_table_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            text in "[0-9a,;\"\n\r\t .]{0,60}",
            name in "[0-9a]{0,2}",
        ) {
            for label in [LabelColumn::First, LabelColumn::Last, LabelColumn::Named(name)] {
                let _ = CsvTable::parse(&bytes, &label);
                if let Ok(table) = CsvTable::parse(text.as_bytes(), &label) {
                    prop_assert!(!table.is_empty());
                    prop_assert_eq!(table.row(table.len() - 1).len(), table.features().len());
                }
            }
        }
    }
}
