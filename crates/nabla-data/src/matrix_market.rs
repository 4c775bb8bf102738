//! The Matrix Market exchange format: sparse and dense matrices and vectors as text.
//!
//! ```text
//! %%MatrixMarket matrix coordinate real symmetric
//! % a comment
//! 3 3 4
//! 1 1  2.0
//! 2 2  2.0
//! 3 3  2.0
//! 2 1 -1.0
//! ```
//!
//! Read are the layouts `coordinate` and `array`, the fields `real`, `double`, `integer`, `unsigned-integer` and `pattern`, and the
//! symmetries `general`, `symmetric` and `skew-symmetric`. The words of the banner may be in any case of letters, and exponents
//! may have Fortran's `D`. A symmetric file holds one triangle: a file with both is refused, where others add them. What is
//! unusual but has one meaning becomes a [note](MarketNote).
//!
//! Source: Boisvert, Pozo, Remington, *The Matrix Market Exchange Formats: Initial Design*, NISTIR 5935, 1996, and
//! <https://math.nist.gov/MatrixMarket/formats.html>.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nabla_base::OutputError;
use nabla_base::words::{count, shortened};

mod writing;

pub use writing::{matrix_text, vector_text, write_vector};

/// Why a text is no such matrix. Lines are counted from 1.
#[derive(Debug, thiserror::Error)]
pub enum MatrixMarketError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The first line is no banner.
    #[error(
        "line 1 is no banner of a Matrix Market file, such as \"%%MatrixMarket matrix coordinate real symmetric\": {0}"
    )]
    Banner(String),
    /// A line is wrong.
    #[error("line {line}: {reason}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The file ends too early.
    #[error("the file ends after line {line} with {found} of {expected} entries")]
    Truncated {
        /// The last line.
        line: usize,
        /// Entries found.
        found: usize,
        /// Entries that the size announces.
        expected: usize,
    },
    /// The file has no size.
    #[error("the file ends after line {line} without the size of its matrix")]
    NoSize {
        /// The last line.
        line: usize,
    },
    /// A symmetric file has an entry and its mirror image.
    #[error(
        "line {line} has the entry ({row}, {column}), whose mirror image is in line {other}: a file that says it is {symmetry} \
         holds one triangle"
    )]
    BothTriangles {
        /// The later line.
        line: usize,
        /// The earlier line.
        other: usize,
        /// From 1.
        row: usize,
        /// From 1.
        column: usize,
        /// What the banner says.
        symmetry: Symmetry,
    },
    /// It is no vector.
    #[error("it is a matrix of {rows} x {columns}, but a vector has one column")]
    NotVector {
        /// Rows.
        rows: usize,
        /// Columns.
        columns: usize,
    },
    /// The file with this error.
    #[error("{}: {source}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// The error.
        source: Box<MatrixMarketError>,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl MatrixMarketError {
    /// The error with the name of its file.
    #[must_use]
    pub fn of(self, path: &Path) -> Self {
        Self::In {
            path: path.into(),
            source: Box::new(self),
        }
    }
}

/// What a file says of its other triangle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Symmetry {
    /// Nothing: all entries are stored.
    General,
    /// `a_ji = a_ij`.
    Symmetric,
    /// `a_ji = −a_ij`, with nothing on the diagonal.
    Skew,
}

impl fmt::Display for Symmetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::General => "general",
            Self::Symmetric => "symmetric",
            Self::Skew => "skew-symmetric",
        })
    }
}

/// What is unusual in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarketNote {
    /// Comments between the entries, which other readers refuse.
    Comments {
        /// The first of them.
        line: usize,
    },
    /// Entries of one place, which are added.
    Duplicates {
        /// How many there are besides the first ones.
        count: usize,
        /// The first of them.
        line: usize,
    },
    /// The entries of a symmetric file above its diagonal, where the format wants those below.
    Upper {
        /// The first of them.
        line: usize,
    },
}

impl fmt::Display for MarketNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Comments { line } => {
                write!(
                    f,
                    "line {line} is a comment between entries, which not every reader takes"
                )
            }
            Self::Duplicates { count: n, line } => write!(
                f,
                "{} (the first in line {line}) added to an earlier one of the same place",
                match n {
                    1 => "1 entry is".to_owned(),
                    n => format!("{n} entries are"),
                }
            ),
            Self::Upper { line } => write!(
                f,
                "line {line} is above the diagonal, but a symmetric file holds what is below: its mirror image is taken"
            ),
        }
    }
}

/// A stored number, its row and column from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MarketEntry {
    /// From 0.
    pub row: u32,
    /// From 0.
    pub column: u32,
    /// The number; 1 in a pattern.
    pub value: f64,
}

/// A matrix as its file stores it.
///
/// ```
/// use nabla_data::matrix_market::MatrixMarket;
///
/// let text = "%%MatrixMarket MATRIX Coordinate Real Symmetric\n2 2 3\n1 1 2.0D0\n2 2 2\n2 1 -1\n";
/// let matrix = MatrixMarket::parse(text.as_bytes())?;
/// let all: Vec<_> = matrix.all_entries().collect();
/// assert_eq!(all, [(0, 0, 2.0), (1, 1, 2.0), (1, 0, -1.0), (0, 1, -1.0)]);
/// # Ok::<(), nabla_data::matrix_market::MatrixMarketError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixMarket {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Of what is stored.
    pub symmetry: Symmetry,
    /// Whether the file lists all numbers, and not those alone that are not zero.
    pub dense: bool,
    /// The line of the size, from 1.
    pub size_line: usize,
    /// What is unusual.
    pub notes: Vec<MarketNote>,
    entries: Vec<MarketEntry>,
    /// Entries whose line is not one below that of the entry before, and their lines.
    lines: Vec<(usize, usize)>,
}

/// Rows and columns of a matrix are below this.
const MOST: usize = u32::MAX as usize;

struct Banner {
    dense: bool,
    pattern: bool,
    symmetry: Symmetry,
}

impl Banner {
    fn parse(line: &[u8]) -> Result<Self, MatrixMarketError> {
        let wrong = |reason: String| MatrixMarketError::Banner(reason);
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if first != "%%MatrixMarket" {
            return Err(wrong(format!("it begins with {:?}", shortened(first))));
        }
        let words: Vec<String> = words.map(str::to_ascii_lowercase).collect();
        let [object, layout, field, symmetry] = words.as_slice() else {
            return Err(wrong(format!(
                "after %%MatrixMarket it has {}, but 4 are expected",
                count(words.len() as u64, "word")
            )));
        };
        let unknown = |what: &str, word: &str, expected: &str| {
            let word = shortened(word);
            Err(wrong(format!("the {what} {word:?} is not {expected}")))
        };
        if object != "matrix" {
            return unknown("object", object, "matrix");
        }
        let dense = match layout.as_str() {
            "coordinate" => false,
            "array" => true,
            other => return unknown("layout", other, "coordinate or array"),
        };
        let pattern = match field.as_str() {
            "real" | "double" | "integer" | "unsigned-integer" => false,
            "pattern" if !dense => true,
            other => {
                let expected = "real, integer or, of coordinates, pattern";
                return unknown("field", other, expected);
            }
        };
        let symmetry = match symmetry.as_str() {
            "general" => Symmetry::General,
            "symmetric" => Symmetry::Symmetric,
            "skew-symmetric" if !pattern => Symmetry::Skew,
            other => {
                let expected = "general, symmetric or, of numbers, skew-symmetric";
                return unknown("symmetry", other, expected);
            }
        };
        Ok(Self {
            dense,
            pattern,
            symmetry,
        })
    }
}

fn wrong(line: usize, reason: impl Into<String>) -> MatrixMarketError {
    MatrixMarketError::Line {
        line,
        reason: reason.into(),
    }
}

fn shown(word: &[u8]) -> String {
    shortened(&String::from_utf8_lossy(word))
}

fn whole(line: usize, what: &str, word: &[u8]) -> Result<usize, MatrixMarketError> {
    let found = std::str::from_utf8(word).ok().and_then(|w| w.parse().ok());
    found.ok_or_else(|| {
        let word = shown(word);
        wrong(line, format!("the {what} {word:?} is not a whole number"))
    })
}

fn number(line: usize, word: &[u8]) -> Result<f64, MatrixMarketError> {
    let parsed = |word: &[u8]| std::str::from_utf8(word).ok().and_then(|w| w.parse().ok());
    let found: Option<f64> = parsed(word).or_else(|| {
        // Fortran's exponents.
        let e = |&byte: &u8| {
            if matches!(byte, b'd' | b'D') {
                b'e'
            } else {
                byte
            }
        };
        parsed(&word.iter().map(e).collect::<Vec<u8>>())
    });
    match found {
        Some(value) if value.is_finite() => Ok(value),
        Some(_) => {
            let word = shown(word);
            Err(wrong(line, format!("{word:?} is not a finite number")))
        }
        None => Err(wrong(line, format!("{:?} is not a number", shown(word)))),
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

impl MatrixMarket {
    /// Reads a text.
    ///
    /// # Errors
    /// With the line of what is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, MatrixMarketError> {
        let body = text.strip_suffix(b"\n").unwrap_or(text);
        let mut lines = body.split(|&byte| byte == b'\n').enumerate();
        let banner = Banner::parse(lines.next().map_or(&[], |(_, line)| line))?;
        let last_line = body.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let is_comment = |line: &[u8]| line.trim_ascii_start().starts_with(b"%");
        let mut lines = lines
            .map(|(place, line)| (place + 1, line))
            .filter(|(_, line)| !line.trim_ascii().is_empty());
        let (size_line, size) = lines
            .find(|(_, line)| !is_comment(line))
            .ok_or(MatrixMarketError::NoSize { line: last_line })?;
        let (mut out, announced) = Self::of_size(&banner, size_line, size)?;
        let expected = announced.unwrap_or_else(|| out.dense_count());
        // Not more than the text can hold.
        out.entries.reserve_exact(expected.min(text.len() / 2));
        let mut comment = None;
        let mut pending_comment = None;
        let mut dense_place = out.first_dense_place();
        for (line, text) in lines {
            if is_comment(text) {
                pending_comment = pending_comment.or(Some(line));
                continue;
            }
            // Before the first and after the last entry they are nothing unusual.
            if !out.entries.is_empty() {
                comment = comment.or(pending_comment);
            }
            pending_comment = None;
            let mut words = words(text);
            if banner.dense {
                for word in words {
                    out.check_place(line, expected)?;
                    let value = number(line, word)?;
                    let (row, column) = dense_place;
                    out.put(line, MarketEntry { row, column, value });
                    dense_place = out.next_dense_place(dense_place);
                }
                continue;
            }
            out.check_place(line, expected)?;
            let of_an_entry = if banner.pattern { 2 } else { 3 };
            let mut found = [&[] as &[u8]; 3];
            let mut count = 0;
            for word in words.by_ref() {
                if let Some(place) = found.get_mut(count) {
                    *place = word;
                }
                count += 1;
            }
            if count != of_an_entry {
                let parts = match banner.pattern {
                    true => "a row and a column",
                    false => "a row, a column and a number",
                };
                let reason =
                    format!("an entry is {parts}, but the line has {count} of {of_an_entry} words");
                return Err(wrong(line, reason));
            }
            let index = |what: &str, word: &[u8], sides: usize| {
                let index = whole(line, what, word)?;
                match (1..=sides).contains(&index) {
                    true => Ok((index - 1) as u32),
                    false => Err(wrong(
                        line,
                        format!("the {what} {index} is not between 1 and {sides}"),
                    )),
                }
            };
            let row = index("row", found[0], out.rows)?;
            let column = index("column", found[1], out.columns)?;
            if out.symmetry == Symmetry::Skew && row == column {
                let reason = "a skew-symmetric matrix has nothing on its diagonal";
                return Err(wrong(line, reason));
            }
            let value = match banner.pattern {
                true => 1.0,
                false => number(line, found[2])?,
            };
            out.put(line, MarketEntry { row, column, value });
        }
        if out.entries.len() < expected {
            return Err(MatrixMarketError::Truncated {
                line: last_line,
                found: out.entries.len(),
                expected,
            });
        }
        let comment = comment.map(|line| MarketNote::Comments { line });
        out.notes.extend(comment);
        if !banner.dense {
            out.find_repeated()?;
        }
        Ok(out)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), with the name of the file.
    pub fn read(path: &Path) -> Result<Self, MatrixMarketError> {
        let text = fs::read(path).map_err(|source| MatrixMarketError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(&text).map_err(|error| error.of(path))
    }

    /// A matrix without its entries, and how many are announced.
    fn of_size(
        banner: &Banner,
        line: usize,
        size: &[u8],
    ) -> Result<(Self, Option<usize>), MatrixMarketError> {
        let sizes: Vec<&[u8]> = words(size).collect();
        let (rows, columns, announced) = match (sizes.as_slice(), banner.dense) {
            ([rows, columns, entries], false) => (rows, columns, Some(entries)),
            ([rows, columns], true) => (rows, columns, None),
            (found, dense) => {
                let expected = match dense {
                    true => "2 (rows and columns)",
                    false => "3 (rows, columns and entries)",
                };
                let found = count(found.len() as u64, "word");
                let reason = format!("the size has {found}, but {expected} are expected");
                return Err(wrong(line, reason));
            }
        };
        let rows = whole(line, "number of rows", rows)?;
        let columns = whole(line, "number of columns", columns)?;
        let announced = announced.map(|word| whole(line, "number of entries", word));
        let announced = announced.transpose()?;
        let matrix = Self {
            rows,
            columns,
            symmetry: banner.symmetry,
            dense: banner.dense,
            size_line: line,
            notes: Vec::new(),
            entries: Vec::new(),
            lines: Vec::new(),
        };
        if rows >= MOST || columns >= MOST || (banner.dense && rows.checked_mul(columns).is_none())
        {
            return Err(wrong(line, format!("{rows} x {columns} is too large")));
        }
        if banner.symmetry != Symmetry::General && rows != columns {
            let symmetry = banner.symmetry;
            let reason = format!("a {symmetry} matrix is square, but this is {rows} x {columns}");
            return Err(wrong(line, reason));
        }
        Ok((matrix, announced))
    }

    fn check_place(&self, line: usize, expected: usize) -> Result<(), MatrixMarketError> {
        match self.entries.len() < expected {
            true => Ok(()),
            false => Err(wrong(
                line,
                format!(
                    "there are more entries than the {expected} of the size in line {}",
                    self.size_line
                ),
            )),
        }
    }

    fn put(&mut self, line: usize, entry: MarketEntry) {
        let place = self.entries.len();
        let follows = self
            .lines
            .last()
            .is_some_and(|&(first, at)| at + (place - first) == line);
        if !follows {
            self.lines.push((place, line));
        }
        self.entries.push(entry);
    }

    /// Entries of a dense matrix.
    fn dense_count(&self) -> usize {
        let (rows, columns) = (self.rows, self.columns);
        match self.symmetry {
            Symmetry::General => rows * columns,
            Symmetry::Symmetric => rows * (rows + 1) / 2,
            Symmetry::Skew => rows * rows.saturating_sub(1) / 2,
        }
    }

    fn first_dense_place(&self) -> (u32, u32) {
        (u32::from(self.symmetry == Symmetry::Skew), 0)
    }

    /// Columns one after the other, of a symmetric matrix from the diagonal on.
    fn next_dense_place(&self, (row, column): (u32, u32)) -> (u32, u32) {
        if (row as usize) + 1 < self.rows {
            return (row + 1, column);
        }
        let column = column + 1;
        match self.symmetry {
            Symmetry::General => (0, column),
            Symmetry::Symmetric => (column, column),
            Symmetry::Skew => (column + 1, column),
        }
    }

    /// The line of a stored entry, from 1.
    ///
    /// - `place`: of the entry in the file, from 0
    pub fn line_of(&self, place: usize) -> usize {
        let after = self.lines.partition_point(|&(first, _)| first <= place);
        match after.checked_sub(1).map(|run| self.lines[run]) {
            Some((first, line)) => line + (place - first),
            None => 0,
        }
    }

    /// The line of the first entry at a place, or at its mirror image in a symmetric file, from 1.
    ///
    /// - `row`, `column`: from 0
    pub fn line_of_place(&self, row: usize, column: usize) -> Option<usize> {
        let is = |entry: &MarketEntry, row, column| {
            entry.row as usize == row && entry.column as usize == column
        };
        let mirrored = self.symmetry != Symmetry::General;
        let found = self
            .entries
            .iter()
            .position(|entry| is(entry, row, column) || (mirrored && is(entry, column, row)));
        found.map(|place| self.line_of(place))
    }

    /// Notes or refuses entries of one place.
    fn find_repeated(&mut self) -> Result<(), MatrixMarketError> {
        let symmetric = self.symmetry != Symmetry::General;
        let key = |entry: &MarketEntry| match symmetric && entry.row < entry.column {
            true => (entry.column, entry.row),
            false => (entry.row, entry.column),
        };
        let mut starts = vec![0_usize; self.rows + 1];
        for entry in &self.entries {
            starts[key(entry).0 as usize + 1] += 1;
        }
        for row in 0..self.rows {
            starts[row + 1] += starts[row];
        }
        let mut next = starts.clone();
        let mut order = vec![(0_u32, 0_usize); self.entries.len()];
        for (place, entry) in self.entries.iter().enumerate() {
            let (row, column) = key(entry);
            order[next[row as usize]] = (column, place);
            next[row as usize] += 1;
        }
        let (mut repeated, mut first_repeated) = (0, usize::MAX);
        let mut refused: Option<(usize, usize)> = None;
        for row in 0..self.rows {
            let own = &mut order[starts[row]..starts[row + 1]];
            own.sort_unstable();
            for pair in own.windows(2) {
                let [(column, before), (same, after)] = [pair[0], pair[1]];
                if column != same {
                    continue;
                }
                let [one, two] = [self.entries[before], self.entries[after]];
                if symmetric && (one.row, one.column) != (two.row, two.column) {
                    refused = match refused {
                        Some((_, earlier)) if earlier < after => refused,
                        _ => Some((before, after)),
                    };
                }
                repeated += 1;
                first_repeated = first_repeated.min(after);
            }
        }
        if let Some((before, after)) = refused {
            let entry = self.entries[after];
            return Err(MatrixMarketError::BothTriangles {
                line: self.line_of(after),
                other: self.line_of(before),
                row: entry.row as usize + 1,
                column: entry.column as usize + 1,
                symmetry: self.symmetry,
            });
        }
        if repeated > 0 {
            self.notes.push(MarketNote::Duplicates {
                count: repeated,
                line: self.line_of(first_repeated),
            });
        }
        if symmetric && let Some(place) = self.entries.iter().position(|e| e.row < e.column) {
            let line = self.line_of(place);
            self.notes.push(MarketNote::Upper { line });
        }
        Ok(())
    }

    /// Entries that the file stores.
    pub fn stored(&self) -> usize {
        self.entries.len()
    }

    /// The entries as they are stored.
    pub fn entries(&self) -> &[MarketEntry] {
        &self.entries
    }

    /// All entries, `(row, column, value)` from 0: also those of the triangle that the file leaves out. Entries of one place are
    /// to be added.
    pub fn all_entries(&self) -> impl Iterator<Item = (usize, usize, f64)> + Clone {
        let symmetry = self.symmetry;
        self.entries.iter().flat_map(move |entry| {
            let (row, column) = (entry.row as usize, entry.column as usize);
            let mirrored = match symmetry {
                Symmetry::General => None,
                _ if row == column => None,
                Symmetry::Symmetric => Some((column, row, entry.value)),
                Symmetry::Skew => Some((column, row, -entry.value)),
            };
            std::iter::once((row, column, entry.value)).chain(mirrored)
        })
    }

    /// The numbers of a matrix with one column.
    ///
    /// # Errors
    /// If there are more columns.
    pub fn vector(&self) -> Result<Vec<f64>, MatrixMarketError> {
        if self.columns != 1 {
            return Err(MatrixMarketError::NotVector {
                rows: self.rows,
                columns: self.columns,
            });
        }
        let mut values = vec![0.0; self.rows];
        for (row, _, value) in self.all_entries() {
            values[row] += value;
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests;
