//! Trajectories as a table of comma-separated values: one column of times, columns of values, and perhaps one that
//! names the trajectory of a row.
//!
//! ```text
//! id,t,hare,lynx
//! a,0,30,4
//! a,1,,6.1          an empty cell is a gap
//! b,0.5,21,11       trajectories have times of their own
//! ```
//!
//! The first line names the columns. Separators are found, and row numbers of pandas and R left out, as for
//! [`CsvTable`](crate::CsvTable), unless they are the only column that could be the time. The rows of a trajectory may be anywhere in the file, but their times must rise: a table
//! that is not sorted, or holds several trajectories without saying so, is refused.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::csv_table::{is_nameless, is_number, line_of, name_rows, records, without_mark};

/// Why a text is no table of trajectories.
#[derive(Debug, thiserror::Error)]
pub enum TrajectoryError {
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
    /// There are no rows.
    #[error("the table has no rows below its header")]
    Empty,
    /// The first row is none.
    #[error("the first line holds only numbers, but it must name the columns")]
    NoHeader,
    /// A column does not exist.
    #[error("the table has no column {name:?}, only {}", columns.join(", "))]
    NoColumn {
        /// The column that was asked for.
        name: String,
        /// The columns that exist.
        columns: Vec<String>,
    },
    /// Two columns have one name.
    #[error("two columns are named {0:?}, but names must differ")]
    RepeatedColumn(String),
    /// A column is to be two things.
    #[error("the column {name:?} cannot be both {first} and {second}")]
    TwoRoles {
        /// The column.
        name: String,
        /// What it is.
        first: &'static str,
        /// What else it should be.
        second: &'static str,
    },
    /// There are no columns of values.
    #[error("the table has no column of values besides {}", columns.join(" and "))]
    NoValues {
        /// The columns that there are.
        columns: Vec<String>,
    },
    /// A column of values is empty.
    #[error("the column {0:?} has no values")]
    EmptyColumn(String),
    /// A time is missing.
    #[error("line {line}, column {column:?}: the time is missing")]
    NoTime {
        /// From 1.
        line: u64,
        /// The column of times.
        column: String,
    },
    /// The name of a trajectory is missing.
    #[error("line {line}, column {column:?}: the name of the trajectory is missing")]
    NoName {
        /// From 1.
        line: u64,
        /// The column of names.
        column: String,
    },
    /// A cell is not a finite number.
    #[error(
        "line {line}, column {column:?}: {cell:?} is not a finite number; a gap is an empty cell"
    )]
    Cell {
        /// From 1.
        line: u64,
        /// The column.
        column: String,
        /// What it holds.
        cell: String,
    },
    /// The times do not rise.
    #[error(
        "line {line}, column {column:?}: the time {time} follows {before}{}, but times must rise{}",
        within(trajectory.as_deref()),
        hint(trajectory.as_deref())
    )]
    TimesDoNotRise {
        /// From 1.
        line: u64,
        /// The column of times.
        column: String,
        /// The time.
        time: f64,
        /// The one before.
        before: f64,
        /// The trajectory, if the table names them.
        trajectory: Option<String>,
    },
    /// The file with this error.
    #[error("{}: {source}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// The error.
        source: Box<TrajectoryError>,
    },
}

fn within(trajectory: Option<&str>) -> String {
    trajectory.map_or_else(String::new, |name| format!(" in the trajectory {name:?}"))
}

fn hint(trajectory: Option<&str>) -> &'static str {
    match trajectory {
        Some(_) => "",
        None => "; if the table holds several trajectories, a column must name them",
    }
}

/// Which columns are what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrajectoryOptions {
    /// The column of times. Default: the first that is named `t` or `time`, in any case, or else the first that does
    /// not name trajectories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The column that names the trajectory of a row. Default: the first that is named `id` or `trajectory`, in any
    /// case; without one, the table is one trajectory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trajectory: Option<String>,
    /// The columns of values, in this order. Default: all others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

/// Values at times.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// Its name; empty if the table has one trajectory without a name.
    pub name: String,
    /// Rising.
    pub times: Vec<f64>,
    /// Row after row; `None` is a gap.
    pub values: Vec<Option<f64>>,
}

impl Trajectory {
    /// The number of times.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are no times.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The values at time `row`; none if there is no such time.
    pub fn row(&self, row: usize) -> &[Option<f64>] {
        let columns = self.values.len() / self.times.len().max(1);
        let begin = row.saturating_mul(columns);
        self.values
            .get(begin..begin.saturating_add(columns))
            .unwrap_or(&[])
    }
}

/// A table of trajectories; see the [module documentation](self).
///
/// ```
/// use nabla_data::trajectories::{Trajectories, TrajectoryOptions};
/// let text = b"id,t,hare,lynx\na,0,30,4\na,1,,6.1\nb,0.5,21,11\n";
/// let table = Trajectories::parse(text, &TrajectoryOptions::default())?;
/// assert_eq!(table.columns, ["hare", "lynx"]);
/// assert_eq!(table.trajectories[0].row(1), [None, Some(6.1)]);
/// assert_eq!(table.trajectories[1].times, [0.5]);
/// # Ok::<(), nabla_data::trajectories::TrajectoryError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectories {
    /// The name of the column of times.
    pub time: String,
    /// The name of the column of names, if there is one.
    pub trajectory: Option<String>,
    /// The names of the columns of values.
    pub columns: Vec<String>,
    /// In the order in which they begin in the table; none is empty.
    pub trajectories: Vec<Trajectory>,
}

impl Trajectories {
    /// Reads a text.
    ///
    /// # Errors
    /// If it is no table with a header, a column is missing, has a name twice or no value, a time or a name is missing, a
    /// cell is neither empty nor a finite number, or times do not rise.
    pub fn parse(text: &[u8], options: &TrajectoryOptions) -> Result<Self, TrajectoryError> {
        let text = without_mark(text);
        let mut rows = records(text).map_err(TrajectoryError::NoTable)?;
        let first = rows.first().ok_or(TrajectoryError::Empty)?;
        let names: Vec<String> = first.iter().map(str::to_owned).collect();
        if names.iter().all(|name| is_number(name)) {
            return Err(TrajectoryError::NoHeader);
        }
        let rows = rows.split_off(1);
        if let Some(row) = rows.iter().find(|row| row.len() != names.len()) {
            return Err(TrajectoryError::NoTable(format!(
                "line {} has {} cells, but {} are expected",
                line_of(text, row),
                row.len(),
                names.len()
            )));
        }
        let roles = Roles::of(&names, &rows, options)?;
        if rows.is_empty() {
            return Err(TrajectoryError::Empty);
        }
        let mut trajectories: Vec<Trajectory> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for row in &rows {
            let line = || line_of(text, row);
            let cell = |column: usize| row.get(column).unwrap_or_default();
            let number = |column: usize| -> Result<Option<f64>, TrajectoryError> {
                let cell = cell(column);
                if cell.is_empty() {
                    return Ok(None);
                }
                let value = cell.parse().ok().filter(|value: &f64| value.is_finite());
                value.map(Some).ok_or_else(|| TrajectoryError::Cell {
                    line: line(),
                    column: names[column].clone(),
                    cell: cell.to_owned(),
                })
            };
            let name = roles.trajectory.map(cell).unwrap_or_default();
            if let (Some(column), "") = (roles.trajectory, name) {
                return Err(TrajectoryError::NoName {
                    line: line(),
                    column: names[column].clone(),
                });
            }
            let time = number(roles.time)?.ok_or_else(|| TrajectoryError::NoTime {
                line: line(),
                column: names[roles.time].clone(),
            })?;
            let place = *places.entry(name).or_insert_with(|| {
                trajectories.push(Trajectory {
                    name: name.to_owned(),
                    times: Vec::new(),
                    values: Vec::new(),
                });
                trajectories.len() - 1
            });
            let trajectory = &mut trajectories[place];
            if let Some(&before) = trajectory.times.last()
                && time <= before
            {
                return Err(TrajectoryError::TimesDoNotRise {
                    line: line(),
                    column: names[roles.time].clone(),
                    time,
                    before,
                    trajectory: roles.trajectory.map(|_| name.to_owned()),
                });
            }
            trajectory.times.push(time);
            for &column in &roles.values {
                trajectory.values.push(number(column)?);
            }
        }
        let width = roles.values.len();
        for (place, &column) in roles.values.iter().enumerate() {
            let mut all = trajectories
                .iter()
                .flat_map(|trajectory| trajectory.values.iter().skip(place).step_by(width));
            if all.all(Option::is_none) {
                return Err(TrajectoryError::EmptyColumn(names[column].clone()));
            }
        }
        Ok(Self {
            time: match names[roles.time].as_str() {
                "" => "time".to_owned(),
                name => name.to_owned(),
            },
            trajectory: roles.trajectory.map(|column| names[column].clone()),
            columns: roles.values.iter().map(|&c| names[c].clone()).collect(),
            trajectories,
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), with the name of the file.
    pub fn read(path: &Path, options: &TrajectoryOptions) -> Result<Self, TrajectoryError> {
        let text = fs::read(path).map_err(|source| TrajectoryError::Read {
            path: path.into(),
            source,
        })?;
        Self::parse(&text, options).map_err(|source| TrajectoryError::In {
            path: path.into(),
            source: Box::new(source),
        })
    }

    /// The number of rows of all trajectories.
    pub fn rows(&self) -> usize {
        self.trajectories.iter().map(Trajectory::len).sum()
    }

    /// The number of empty cells.
    pub fn gaps(&self) -> usize {
        let values = self.trajectories.iter().flat_map(|t| &t.values);
        values.filter(|value| value.is_none()).count()
    }
}

/// What the columns are.
struct Roles {
    time: usize,
    trajectory: Option<usize>,
    values: Vec<usize>,
}

impl Roles {
    fn of(
        names: &[String],
        rows: &[csv::StringRecord],
        options: &TrajectoryOptions,
    ) -> Result<Self, TrajectoryError> {
        let mut begin = 0;
        while begin < names.len()
            && is_nameless(&names[begin])
            && name_rows(rows.iter().filter_map(|row| row.get(begin)))
        {
            begin += 1;
        }
        let known = &names[begin..];
        if let Some(twice) = known
            .iter()
            .enumerate()
            .find_map(|(i, name)| known[..i].contains(name).then_some(name))
        {
            return Err(TrajectoryError::RepeatedColumn(twice.clone()));
        }
        let named = |name: &String| {
            let found = known.iter().position(|known| known == name);
            let found = found.map(|place| begin + place);
            found.ok_or_else(|| TrajectoryError::NoColumn {
                name: name.clone(),
                columns: known.to_vec(),
            })
        };
        // Without being told; not a column that is to be something else.
        let usual = |usual: [&str; 2], taken: &[Option<usize>]| {
            (begin..names.len()).find(|&column| {
                !taken.contains(&Some(column))
                    && !options.columns.contains(&names[column])
                    && usual.iter().any(|u| names[column].eq_ignore_ascii_case(u))
            })
        };
        let mut time = options.time.as_ref().map(named).transpose()?;
        let trajectory = match &options.trajectory {
            Some(name) => Some(named(name)?),
            None => usual(["id", "trajectory"], &[time]),
        };
        time = time.or_else(|| usual(["t", "time"], &[trajectory]));
        time = time.or_else(|| {
            (0..names.len()).find(|&column| {
                Some(column) != trajectory && !options.columns.contains(&names[column])
            })
        });
        let Some(time) = time else {
            return Err(TrajectoryError::NoValues {
                columns: known.to_vec(),
            });
        };
        let two_roles = |column: usize, first, second| TrajectoryError::TwoRoles {
            name: names[column].clone(),
            first,
            second,
        };
        if Some(time) == trajectory {
            return Err(two_roles(time, "the time", "the name of a trajectory"));
        }
        let values = match options.columns.is_empty() {
            false => options
                .columns
                .iter()
                .map(named)
                .collect::<Result<Vec<_>, _>>()?,
            true => (begin..names.len())
                .filter(|&column| column != time && Some(column) != trajectory)
                .collect(),
        };
        for (i, &column) in values.iter().enumerate() {
            if column == time {
                return Err(two_roles(column, "the time", "a value"));
            }
            if Some(column) == trajectory {
                return Err(two_roles(column, "the name of a trajectory", "a value"));
            }
            if values[..i].contains(&column) {
                return Err(TrajectoryError::RepeatedColumn(names[column].clone()));
            }
        }
        if values.is_empty() {
            return Err(TrajectoryError::NoValues {
                columns: known.to_vec(),
            });
        }
        Ok(Self {
            time,
            trajectory,
            values,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str, options: &TrajectoryOptions) -> Result<Trajectories, String> {
        Trajectories::parse(text.as_bytes(), options).map_err(|error| error.to_string())
    }

    fn plain(text: &str) -> Result<Trajectories, String> {
        parsed(text, &TrajectoryOptions::default())
    }

    fn options(time: &str, trajectory: &str, columns: &[&str]) -> TrajectoryOptions {
        let given = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        TrajectoryOptions {
            time: given(time),
            trajectory: given(trajectory),
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn columns_are_found_by_their_usual_names_or_by_place() {
        let expected = plain("id,t,a,b\nx,0,1,\ny,5,3,4\nx,2,2,6\n").unwrap();
        assert_eq!(expected.time, "t");
        assert_eq!(expected.trajectory.as_deref(), Some("id"));
        assert_eq!(expected.columns, ["a", "b"]);
        let [x, y] = [0, 1].map(|i| &expected.trajectories[i]);
        assert_eq!((x.name.as_str(), &x.times[..]), ("x", &[0.0, 2.0][..]));
        assert_eq!(x.row(0), [Some(1.0), None]);
        assert_eq!(x.row(1), [Some(2.0), Some(6.0)]);
        assert!(x.row(2).is_empty());
        assert_eq!((y.len(), y.is_empty()), (1, false));
        assert_eq!([expected.rows(), expected.gaps()], [3, 1]);
        // Other places, separators, row numbers of pandas, a mark of the byte order.
        for text in [
            "\u{feff},a,Time,b,Trajectory\n0,1,0,,x\n1,3,5,4,y\n2,2,2,6,x\n",
            "a;b;Trajectory;Time\n1;;x;0\n3;4;y;5\n2;6;x;2\n",
        ] {
            let found = plain(text).unwrap();
            assert_eq!(found.trajectories, expected.trajectories, "{text}");
            assert_eq!(found.columns, ["a", "b"]);
        }
        // The first column is the time if none has its name.
        let found = plain("year,a\n1900,1\n1901,2\n").unwrap();
        assert_eq!((found.time.as_str(), &found.trajectory), ("year", &None));
        assert_eq!(found.trajectories[0].name, "");
        // Also the index of a data frame, unless a column has such a name.
        let found = plain(",a\n1900,1\n1901,2\n").unwrap();
        assert_eq!(
            (found.time.as_str(), &found.columns[..]),
            ("time", &["a".to_owned()][..])
        );
        assert_eq!(found.trajectories[0].times, [1900.0, 1901.0]);
        // What was asked for.
        let text = "t,id,a,when,who\n9,1,2,0,p\n8,1,3,1,p\n";
        let found = parsed(text, &options("when", "who", &["a", "t"])).unwrap();
        assert_eq!(found.columns, ["a", "t"]);
        assert_eq!(found.trajectories[0].row(1), [Some(3.0), Some(8.0)]);
        let found = parsed(text, &options("when", "", &["t"])).unwrap();
        assert_eq!(found.trajectory.as_deref(), Some("id"));
        // A text in a column that nobody asked for is nobody's concern.
        let found = parsed("t,a,note\n0,1,good\n", &options("", "", &["a"])).unwrap();
        assert_eq!(found.columns, ["a"]);
    }

    #[test]
    fn what_is_wrong_is_said_with_line_and_column() {
        let told = |text: &str| plain(text).unwrap_err();
        assert_eq!(told(""), "the table has no rows below its header");
        assert_eq!(told("t,a\n"), "the table has no rows below its header");
        assert!(told("0,1\n1,2\n").starts_with("the first line holds only numbers"));
        assert_eq!(
            told("t,a\n0,1\n\n1,2,3\n"),
            "the text is not a table: line 4 has 3 cells, but 2 are expected"
        );
        for cell in ["NaN", "inf", "-inf", "1e999", "x", "NA", "1,5"] {
            let text = format!("t,a\n0,1\n1,\"{cell}\"\n");
            let expected = format!(
                "line 3, column \"a\": {cell:?} is not a finite number; a gap is an empty cell"
            );
            assert_eq!(told(&text), expected);
            let text = format!("t,a\n0,1\n\"{cell}\",2\n");
            assert!(told(&text).starts_with("line 3, column \"t\": "), "{cell}");
        }
        assert_eq!(
            told("t,a\n0,1\n,2\n"),
            "line 3, column \"t\": the time is missing"
        );
        assert_eq!(
            told("id,t,a\nx,0,1\n,1,2\n"),
            "line 3, column \"id\": the name of the trajectory is missing"
        );
        assert_eq!(
            told("t,a\n0,1\n1,2\n0,3\n"),
            "line 4, column \"t\": the time 0 follows 1, but times must rise; if the table holds several trajectories, \
             a column must name them"
        );
        assert_eq!(
            told("id,t,a\nx,0,1\ny,0,2\nx,0,3\n"),
            "line 4, column \"t\": the time 0 follows 0 in the trajectory \"x\", but times must rise"
        );
        assert_eq!(
            told("t,a,a\n0,1,2\n"),
            "two columns are named \"a\", but names must differ"
        );
        assert_eq!(told("t,a,b\n0,1,\n"), "the column \"b\" has no values");
        assert!(told("t\n0\n").contains("no column of values besides t"));
        assert!(told("id,t\nx,0\n").contains("no column of values besides id and t"));
        let told = |options: &TrajectoryOptions| parsed("t,id,a\n0,x,1\n", options).unwrap_err();
        for wrong in [
            options("b", "", &[]),
            options("", "b", &[]),
            options("", "", &["b"]),
        ] {
            assert_eq!(told(&wrong), "the table has no column \"b\", only t, id, a");
        }
        assert!(told(&options("t", "t", &[])).contains("cannot be both the time and"));
        assert!(told(&options("t", "", &["t"])).contains("cannot be both the time and a value"));
        assert!(told(&options("", "id", &["id"])).contains("the name of a trajectory and a value"));
        assert!(told(&options("", "", &["a", "a"])).contains("two columns are named"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let read = |path: &Path| {
            let error = Trajectories::read(path, &TrajectoryOptions::default());
            error.unwrap_err().to_string()
        };
        assert!(read(&path).starts_with("cannot read"));
        fs::write(&path, "t,a\n0,x\n").unwrap();
        assert!(read(&path).contains("a.csv: line 2, column \"a\""));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_give_trajectories_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            text in "[ta][0-9ta,;\"\n\r\t .]{0,60}",
            time in proptest::option::of("[0-9ta]{0,1}"),
            trajectory in proptest::option::of("[0-9ta]{0,1}"),
            columns in proptest::collection::vec("[0-9ta]{0,1}", 0..2),
        ) {
            let options = TrajectoryOptions { time, trajectory, columns };
            let _ = Trajectories::parse(&bytes, &options);
            if let Ok(table) = Trajectories::parse(text.as_bytes(), &options) {
                prop_assert!(table.rows() > 0);
                for trajectory in &table.trajectories {
                    let width = table.columns.len();
                    prop_assert_eq!(trajectory.values.len(), width * trajectory.len());
                    prop_assert!(trajectory.times.windows(2).all(|pair| pair[0] < pair[1]));
                }
            }
        }
    }
}
