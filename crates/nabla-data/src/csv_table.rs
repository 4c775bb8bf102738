//! Labelled examples as a table of comma-separated values (RFC 4180).
//!
//! Each row is one example. One column is the label, which may be any text, or none is; all others are numbers. The
//! separator is the most frequent one of comma, semicolon and tab in the first line, or a space if the line
//! has none of them. The first row is a header if one of its cells, other than the label's, is not a number.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The reason why a text is not a table of labelled examples.
#[derive(Debug, thiserror::Error)]
pub enum CsvError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The rows are not a table.
    #[error("the text is not a table: {0}")]
    NoTable(String),
    /// There are no examples.
    #[error("the table has no rows")]
    Empty,
    /// There is only one column.
    #[error("the table has one column, but it needs a label and a feature")]
    NoFeatures,
    /// There is only one column besides those that are left out.
    #[error(
        "without {}, the table has {left} column(s), but it needs a label and a feature",
        quoted(without)
    )]
    NoneLeft {
        /// The columns that are left out.
        without: Vec<String>,
        /// The number of the other columns.
        left: usize,
    },
    /// A column does not exist.
    #[error("the table has no column {name:?}, only {}", columns.join(", "))]
    NoColumn {
        /// The column that was requested.
        name: String,
        /// The columns that exist.
        columns: Vec<String>,
    },
    /// The column of the labels is to be left out.
    #[error("the column {0:?} holds the labels and cannot be left out")]
    LabelDropped(String),
    /// A cell is not a finite number.
    #[error("row {row}, column {column:?}: {cell:?} is not a finite number")]
    Cell {
        /// The row, from 1, the header included.
        row: usize,
        /// The column.
        column: String,
        /// The content of the cell.
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

fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    names.join(", ")
}

/// The column of the labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LabelColumn {
    /// The first column that is not left out.
    First,
    /// The last column that is not left out.
    #[default]
    Last,
    /// The column with this name in the header, or with this number, counted from 1.
    Named(String),
    /// None: every column is a feature, and every label is empty.
    None,
}

/// Options for reading a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CsvOptions {
    /// The column of the labels. Default: the last.
    pub label: LabelColumn,
    /// Columns that are left out, by their names in the header or their numbers from 1; a name shared by
    /// several columns means all of them. Default: none.
    pub drop: Vec<String>,
    /// Whether row numbers (see [`CsvTable`]) are kept as a feature. Default: no.
    pub keep_row_names: bool,
}

impl From<LabelColumn> for CsvOptions {
    fn from(label: LabelColumn) -> Self {
        Self {
            label,
            ..Self::default()
        }
    }
}

/// Rows of numbers, each with a label.
///
/// # Row numbers and row names
/// pandas and R write the numbers or the names of the rows as a first column without a name. As a feature,
/// this column would give away the label in a table that is sorted by class. So leading columns without a
/// name are left out and [reported](Self::row_names):
///
/// | written by | header |
/// |---|---|
/// | pandas' `to_csv`, R's `write.csv` | an empty cell |
/// | pandas, after reading such a file | `Unnamed: 0`, `Unnamed: 0.1` … |
/// | readr, after reading such a file | `...1` |
/// | R's `write.table` | one cell fewer than the rows have |
///
/// The cells of such a column must be whole numbers from 0, or some must not be numbers at all. Any other
/// column of numbers is a feature without a name, and is kept. A column of whole numbers with a name is
/// always a feature. [`CsvOptions`] overrides this rule where it is wrong.
///
/// ```
/// use nabla_data::{CsvOptions, CsvTable};
/// // As pandas writes it.
/// let text = b",width,height,kind\n0,1.5,2,cat\n1,3,4,dog\n";
/// let table = CsvTable::parse(text, &CsvOptions::default())?;
/// assert_eq!(table.row_names(), [""]);
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
    row_names: Vec<String>,
    named: bool,
}

pub(crate) fn is_number(cell: &str) -> bool {
    cell.parse::<f64>().is_ok()
}

/// Whether a column has no real name; pandas and readr name such a column by its number.
pub(crate) fn is_nameless(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let numbers = name.strip_prefix("Unnamed: ");
    name.is_empty()
        || name.strip_prefix("...").is_some_and(digits)
        || numbers.is_some_and(|numbers| numbers.split('.').all(digits))
}

/// Whether the cells are row numbers or row names rather than measurements.
pub(crate) fn name_rows<'a>(mut cells: impl Iterator<Item = &'a str> + Clone) -> bool {
    let whole = |cell: &str| !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit());
    cells.clone().all(whole) || cells.any(|cell| !cell.is_empty() && !is_number(cell))
}

/// The most frequent separator of a line.
fn separator(line: &[u8]) -> u8 {
    let count = |separator: u8| line.iter().filter(|&&b| b == separator).count();
    // With equal counts the last one wins, which is the comma.
    let best = [b'\t', b';', b','].into_iter().max_by_key(|&s| count(s));
    match best {
        Some(best) if count(best) > 0 => best,
        _ if count(b' ') > 0 => b' ',
        _ => b',',
    }
}

/// A text without the mark of the byte order that some programs begin it with.
pub(crate) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// All rows, of as many cells as each has, or why there are none.
pub(crate) fn records(text: &[u8]) -> Result<Vec<csv::StringRecord>, String> {
    let first_line = text.split(|&b| b == b'\n').next().unwrap_or_default();
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(separator(first_line))
        .trim(csv::Trim::All)
        .from_reader(text);
    let rows = reader.records().collect::<Result<Vec<_>, _>>();
    rows.map_err(|e| e.to_string())
}

/// The line of the text at which a row begins, from 1. That of the position counts from the end of the row before, so
/// empty lines between two rows would not count.
pub(crate) fn line_of(text: &[u8], row: &csv::StringRecord) -> u64 {
    let end_of_line = |byte: &&u8| matches!(**byte, b'\r' | b'\n');
    let begin = row.position().map_or(0, csv::Position::byte) as usize;
    let rest = text.get(begin..).unwrap_or_default();
    let begin = begin + rest.iter().take_while(end_of_line).count();
    let before = text.get(..begin).unwrap_or_default();
    let mut lines = 1;
    for (place, &byte) in before.iter().enumerate() {
        let alone = byte == b'\r' && before.get(place + 1) != Some(&b'\n');
        lines += u64::from(byte == b'\n' || alone);
    }
    lines
}

impl CsvTable {
    /// Reads a text.
    ///
    /// # Errors
    /// If the rows differ in length or there are none, a named column does not exist, no feature is left, or
    /// a cell is not a finite number.
    pub fn parse(text: &[u8], options: &CsvOptions) -> Result<Self, CsvError> {
        let text = without_mark(text);
        let mut rows = records(text).map_err(CsvError::NoTable)?;
        let first = rows.first().ok_or(CsvError::Empty)?;
        let mut cells: Vec<String> = first.iter().map(str::to_owned).collect();
        // R's write.table has no cell above the names of the rows.
        let short = rows.get(1).is_some_and(|row| row.len() == cells.len() + 1)
            && !cells.iter().any(|cell| is_number(cell));
        if short {
            cells.insert(0, String::new());
        }
        let columns = cells.len();
        let ragged = rows
            .iter()
            .skip(usize::from(short))
            .find(|row| row.len() != columns);
        if let Some(row) = ragged {
            return Err(CsvError::NoTable(format!(
                "line {} has {} cells, but {columns} are expected",
                line_of(text, row),
                row.len()
            )));
        }
        if columns < 2 && options.label != LabelColumn::None {
            return Err(CsvError::NoFeatures);
        }
        // A name that is a number means the column's number, unless the header contains it.
        let position = |name: &str, header: bool| {
            let named = cells.iter().position(|cell| cell == name);
            let number = || name.parse().ok().filter(|n| (1..=columns).contains(n));
            named
                .filter(|_| header || !is_number(name))
                .or_else(|| number().map(|n: usize| n - 1))
                .ok_or_else(|| CsvError::NoColumn {
                    name: name.to_owned(),
                    columns: cells.clone(),
                })
        };
        // Finding the label column by name needs the header, and recognising a header needs the label column.
        // So a first row that contains the name counts as a header.
        let is_header = |label: Option<usize>| {
            let mut others = cells.iter().enumerate().filter(|&(i, _)| Some(i) != label);
            short || others.any(|(_, cell)| !is_number(cell))
        };
        let (named_label, header) = match &options.label {
            LabelColumn::First => (None, is_header(Some(0))),
            LabelColumn::Last => (None, is_header(Some(columns - 1))),
            LabelColumn::None => (None, is_header(None)),
            LabelColumn::Named(name) => {
                let label = position(name, false)?;
                let in_header = cells[label] == *name && !is_number(name);
                let header = in_header || is_header(Some(label));
                (Some(position(name, header)?), header)
            }
        };
        let data = rows.split_off(usize::from(header));
        let mut row_names = 0;
        while header
            && !options.keep_row_names
            && row_names < columns
            && Some(row_names) != named_label
            && is_nameless(&cells[row_names])
            && name_rows(data.iter().filter_map(|row| row.get(row_names)))
        {
            row_names += 1;
        }
        let mut kept: Vec<bool> = (0..columns).map(|i| i >= row_names).collect();
        for name in &options.drop {
            let dropped = position(name, header)?;
            kept[dropped] = false;
            if header && cells[dropped] == *name {
                for (kept, cell) in kept.iter_mut().zip(&cells) {
                    *kept &= cell != name;
                }
            }
        }
        let names = match header {
            true => cells,
            false => (1..=columns).map(|i| i.to_string()).collect(),
        };
        let left: Vec<usize> = (0..columns).filter(|&i| kept[i]).collect();
        let none_left = || CsvError::NoneLeft {
            without: (0..columns)
                .filter(|&i| !kept[i])
                .map(|i| names[i].clone())
                .collect(),
            left: left.len(),
        };
        let label = match (&options.label, named_label) {
            (_, Some(label)) if !kept[label] => {
                return Err(CsvError::LabelDropped(names[label].clone()));
            }
            (_, Some(label)) => Some(label),
            (LabelColumn::None, None) => None,
            (LabelColumn::First, None) => Some(*left.first().ok_or_else(none_left)?),
            (_, None) => Some(*left.last().ok_or_else(none_left)?),
        };
        if left.len() < 1 + usize::from(label.is_some()) {
            return Err(none_left());
        }
        let features: Vec<usize> = left.into_iter().filter(|&i| Some(i) != label).collect();
        let mut table = Self {
            features: features.iter().map(|&i| names[i].clone()).collect(),
            values: Vec::with_capacity(features.len() * data.len()),
            labels: Vec::with_capacity(data.len()),
            row_names: names[..row_names].to_vec(),
            named: header,
        };
        for (i, row) in data.iter().enumerate() {
            let cell = |column: usize| row.get(column).unwrap_or_default();
            table
                .labels
                .push(label.map(cell).unwrap_or_default().to_owned());
            for &column in &features {
                let value: Option<f64> = cell(column).parse().ok();
                let value = value.filter(|value| value.is_finite());
                table.values.push(value.ok_or_else(|| CsvError::Cell {
                    row: i + 1 + usize::from(header),
                    column: names[column].clone(),
                    cell: cell(column).to_owned(),
                })?);
            }
        }
        match table.labels.is_empty() {
            true => Err(CsvError::Empty),
            false => Ok(table),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), with the name of the file.
    pub fn read(path: &Path, options: &CsvOptions) -> Result<Self, CsvError> {
        let text = fs::read(path).map_err(|source| CsvError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(&text, options).map_err(|source| CsvError::In {
            path: path.into(),
            source: Box::new(source),
        })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no examples, which is never so for a table that was read.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The names of the features; without a header, their numbers from 1.
    pub fn features(&self) -> &[String] {
        &self.features
    }

    /// Whether the names come from a header.
    pub fn has_header(&self) -> bool {
        self.named
    }

    /// The header's cells above the row numbers or row names that were left out; usually these are empty.
    pub fn row_names(&self) -> &[String] {
        &self.row_names
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
        let error = CsvTable::parse(text.as_bytes(), &label.clone().into()).unwrap_err();
        error.to_string()
    }

    #[test]
    fn headers_separators_and_label_columns_are_found() {
        let parse = |text: &str, label: &str| {
            let label = LabelColumn::Named(label.into());
            CsvTable::parse(text.as_bytes(), &label.into()).unwrap()
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
        let first = CsvTable::parse(b"x,1,2\ny,3,4\n", &LabelColumn::First.into()).unwrap();
        assert_eq!(first, plain);
        // Numbers alone, of which one column is enough.
        let points = CsvTable::parse(b"a\n5\n6\n", &LabelColumn::None.into()).unwrap();
        assert_eq!(
            (points.len(), points.features()),
            (2, &["a".to_owned()][..])
        );
        assert_eq!(
            (points.row(1), points.labels()),
            (&[6.0][..], &[String::new(), String::new()][..])
        );
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
        // Empty lines count.
        let ragged = told("a,b\n\n1,x\r\n\r\n2\n", &last);
        assert!(ragged.contains("line 5 has 1 cells"), "{ragged}");
        assert!(told("1\n2\n", &last).contains("one column"));
        assert!(told("1,x\n2\n", &last).contains("not a table"));
        assert_eq!(
            told("a,b\n1,x\n,y\n", &last),
            "row 3, column \"a\": \"\" is not a finite number"
        );
        assert!(told("1,x\ninf,y\n", &last).contains("row 2, column \"1\""));
        let named = LabelColumn::Named("kind".into());
        assert!(told("a,b\n1,x\n", &named).contains("no column \"kind\", only a, b"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let read = |path: &Path| {
            CsvTable::read(path, &last.clone().into())
                .unwrap_err()
                .to_string()
        };
        assert!(read(&path).starts_with("cannot read"));
        fs::write(&path, "1,x\n2\n").unwrap();
        assert!(read(&path).contains("a.csv: the text is not a table"));
    }

    /// What pandas 3.1 and R 4.2 wrote, with `tests/reference/tables.py` and `tables.R`.
    #[test]
    fn row_numbers_of_pandas_and_r_are_left_out() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tables");
        let read = |name: &str, options: &CsvOptions| {
            CsvTable::read(&folder.join(name), options).unwrap_or_else(|e| panic!("{e}"))
        };
        let plain = read("pandas_plain.csv", &CsvOptions::default());
        assert_eq!((plain.row_names().len(), plain.has_header()), (0, true));
        let written: [(&str, &[&str]); 11] = [
            ("pandas.csv", &[""]),
            ("pandas_again.csv", &["Unnamed: 0"]),
            ("pandas_twice.csv", &["", "Unnamed: 0"]),
            ("pandas_thrice.csv", &["Unnamed: 0.1", "Unnamed: 0"]),
            ("pandas_names.csv", &[""]),
            ("pandas_levels.csv", &["", ""]),
            ("pandas_shuffled.csv", &[""]),
            ("r_write_csv.csv", &[""]),
            ("r_write_csv_names.csv", &[""]),
            ("r_write_table.txt", &[""]),
            ("r_write_table_comma.csv", &[""]),
        ];
        for (name, row_names) in written {
            let table = read(name, &CsvOptions::default());
            assert_eq!(table.row_names(), row_names, "{name}");
            assert_eq!(table.features(), ["width", "height"], "{name}");
            if name != "pandas_shuffled.csv" {
                let expected = CsvTable {
                    row_names: table.row_names.clone(),
                    ..plain.clone()
                };
                assert_eq!(table, expected, "{name}");
            }
            // `first` is the first that is left.
            let options = CsvOptions {
                label: LabelColumn::First,
                drop: vec!["kind".into()],
                keep_row_names: false,
            };
            let first = read(name, &options);
            assert_eq!(first.labels().len(), 4, "{name}");
            assert!(first.labels().contains(&"1.5".to_owned()), "{name}");
        }
        assert_eq!(read("pandas_joined.csv", &CsvOptions::default()).len(), 8);
        let numbered = read("pandas_numbered_columns.csv", &CsvOptions::default());
        assert_eq!(
            (numbered.features(), numbered.len()),
            (&["0".into(), "1".into()][..], 2)
        );
        // On request they are a feature.
        let keep = CsvOptions {
            keep_row_names: true,
            ..CsvOptions::default()
        };
        let kept = read("pandas_again.csv", &keep);
        assert_eq!(kept.features(), ["Unnamed: 0", "width", "height"]);
        assert_eq!(
            (kept.row(3), kept.row_names().len()),
            (&[3.0, 4.5, 1.0][..], 0)
        );
        assert_eq!(read("r_write_csv.csv", &keep).row(0)[0], 1.0);
        // Or the label.
        let label = LabelColumn::Named("Unnamed: 0".into());
        let text = b"Unnamed: 0,a\n0,5\n1,6\n";
        assert_eq!(
            CsvTable::parse(text, &label.into()).unwrap().labels(),
            ["0", "1"]
        );
    }

    #[test]
    fn only_columns_without_a_name_that_count_or_name_are_row_numbers() {
        let features = |text: &str| {
            let table = CsvTable::parse(text.as_bytes(), &CsvOptions::default()).unwrap();
            table.features().to_vec()
        };
        // With a name it is a feature, whatever its position and its numbers.
        assert_eq!(features("id,a,y\n0,5,x\n1,6,x\n"), ["id", "a"]);
        assert_eq!(features("index,a,y\n0,5,x\n1,6,x\n"), ["index", "a"]);
        assert_eq!(features("Unnamed,a,y\n0,5,x\n1,6,x\n"), ["Unnamed", "a"]);
        assert_eq!(features("Unnamed: x,a,y\n0,5,x\n"), ["Unnamed: x", "a"]);
        // Without a name, but measured, or not the first.
        assert_eq!(features(",a,y\n0.5,5,x\n1,6,x\n"), ["", "a"]);
        assert_eq!(features(",a,y\n-1,5,x\n1,6,x\n"), ["", "a"]);
        assert_eq!(features("a,,y\n5,0,x\n6,1,x\n"), ["a", ""]);
        assert_eq!(
            features("a,Unnamed: 1,y\n5,0,x\n6,1,x\n"),
            ["a", "Unnamed: 1"]
        );
        // No header, no names.
        assert_eq!(features("0,5,x\n1,6,x\n"), ["1", "2"]);
        // readr's name for it; a table of one row.
        assert_eq!(features("...1,a,y\n1,5,x\n"), ["a"]);
        // A short row above numbers is no header of R's.
        let last = LabelColumn::Last;
        assert!(told("1,2\n0,1,2\n", &last).contains("line 2 has 3 cells, but 2 are expected"));
        assert!(told("a,b\n0,1,2\n0,1\n", &last).contains("line 3 has 2 cells, but 3"));
        assert_eq!(
            told(",y\n0,x\n1,y\n", &last),
            "without \"\", the table has 1 column(s), but it needs a label and a feature"
        );
    }

    #[test]
    fn columns_are_dropped_by_name_or_number() {
        let drop = |text: &str, label: &str, names: &[&str]| {
            let options = CsvOptions {
                label: LabelColumn::Named(label.into()),
                drop: names.iter().map(|&n| n.to_owned()).collect(),
                keep_row_names: false,
            };
            CsvTable::parse(text.as_bytes(), &options)
                .map(|table| table.features().join(" "))
                .map_err(|e| e.to_string())
        };
        let text = ",id,a,b,y\n0,7,1,2,x\n1,8,3,4,y\n";
        assert_eq!(drop(text, "y", &["id"]).unwrap(), "a b");
        assert_eq!(drop(text, "y", &["b", "id"]).unwrap(), "a");
        // A column that is left out anyway may be named.
        assert_eq!(drop(text, "y", &["", "id"]).unwrap(), "a b");
        // A text is not a number, but the column may be left out all the same.
        assert_eq!(
            drop("name,a,y\nbob,1,x\nann,2,y\n", "y", &["name"]).unwrap(),
            "a"
        );
        assert_eq!(drop("a,b,a,y\n1,2,3,x\n", "y", &["a"]).unwrap(), "b");
        assert_eq!(drop("5,6,7,x\n5,6,7,y\n", "4", &["2"]).unwrap(), "1 3");
        // In a header a number is a name first.
        assert_eq!(drop(",0,1,y\n0,5,6,x\n", "y", &["1"]).unwrap(), "0");
        assert!(
            drop(text, "y", &["c"])
                .unwrap_err()
                .contains("has no column \"c\"")
        );
        assert!(
            drop(text, "y", &["9"])
                .unwrap_err()
                .contains("has no column \"9\"")
        );
        let told = drop(text, "y", &["y"]).unwrap_err();
        assert_eq!(
            told,
            "the column \"y\" holds the labels and cannot be left out"
        );
        let told = drop(text, "y", &["id", "a", "b"]).unwrap_err();
        assert!(told.starts_with("without \"\", \"id\", \"a\", \"b\", the table has 1 column"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_give_a_table_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            text in "[0-9a,;\"\n\r\t .]{0,60}",
            name in "[0-9a]{0,2}",
            drop in proptest::option::of("[0-9a]{0,1}"),
            keep: bool,
        ) {
            for label in [LabelColumn::First, LabelColumn::Last, LabelColumn::Named(name)] {
                let options = CsvOptions {
                    label,
                    drop: drop.clone().into_iter().collect(),
                    keep_row_names: keep,
                };
                let _ = CsvTable::parse(&bytes, &options);
                if let Ok(table) = CsvTable::parse(text.as_bytes(), &options) {
                    prop_assert!(!table.is_empty());
                    prop_assert_eq!(table.row(table.len() - 1).len(), table.features().len());
                }
            }
        }
    }
}
