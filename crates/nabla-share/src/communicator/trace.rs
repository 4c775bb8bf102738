//! Recorded rounds: when each worker had computed, and when its answer arrived.
//!
//! The file is CSV with one line per worker and round. Numbers are written such that reading gives the same bits.
//!
//! ```text
//! round,worker,load,computed_seconds,answered_seconds
//! 0,0,0.25,0.61,0.63
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use nabla_base::range::OutOfRange;
use nabla_base::{OutputError, write_bytes_atomically};

use super::delays::{Delays, LoadFit};

const HEADER: &str = "round,worker,load,computed_seconds,answered_seconds";

/// The reason why a trace cannot be written, read or used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A line is none of a trace.
    #[error("line {line} of the trace is {text:?}, but it must be {expected}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// The line.
        text: String,
        /// What it must be.
        expected: &'static str,
    },
    /// The trace has no round in which every worker answered.
    #[error("the trace has no round in which all {workers} workers answered")]
    NoWholeRound {
        /// The number of workers.
        workers: usize,
    },
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

/// One worker in one round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceRow {
    /// The round, from 0.
    pub round: usize,
    /// The worker, from 0.
    pub worker: usize,
    /// The share of a batch that it processed.
    pub load: f64,
    /// The seconds that it computed.
    pub computed_seconds: f64,
    /// The seconds from the start of the round until its answer arrived, whether in time or late.
    pub answered_seconds: f64,
}

/// See the [module documentation](self).
///
/// ```
/// use nabla_share::communicator::trace::{Trace, TraceRow};
///
/// let mut trace = Trace::default();
/// trace.push(TraceRow {
///     round: 0,
///     worker: 0,
///     load: 0.25,
///     computed_seconds: 0.61,
///     answered_seconds: 0.63,
/// });
/// let read = Trace::from_csv(&trace.to_csv())?;
/// assert_eq!(read, trace);
/// assert_eq!(read.delays(1)?.of_round(0), [0.63]);
/// # Ok::<(), nabla_share::communicator::trace::TraceError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    rows: Vec<TraceRow>,
}

impl Trace {
    /// Adds a worker's answer of a round.
    pub fn push(&mut self, row: TraceRow) {
        self.rows.push(row);
    }

    /// All answers, in the order in which they arrived.
    pub fn rows(&self) -> &[TraceRow] {
        &self.rows
    }

    /// The times of all rounds in which every worker answered, in order.
    ///
    /// # Errors
    /// If there is no such round, or a time is negative or not finite.
    pub fn delays(&self, workers: usize) -> Result<Delays, TraceError> {
        // Only of the rounds that there are: a file may name any.
        let mut table: BTreeMap<usize, Vec<Option<f64>>> = BTreeMap::new();
        let mut loads = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            // Of an answer that was computed twice, the first counts.
            let round = table
                .entry(row.round)
                .or_insert_with(|| vec![None; workers]);
            if let Some(slot @ None) = round.get_mut(row.worker) {
                *slot = Some(row.answered_seconds);
                loads.push(row.load);
            }
        }
        let whole = table.into_values().filter_map(|round| {
            let times: Option<Vec<f64>> = round.into_iter().collect();
            times
        });
        let seconds: Vec<f64> = whole.flatten().collect();
        if seconds.is_empty() {
            return Err(TraceError::NoWholeRound { workers });
        }
        let load = loads.iter().sum::<f64>() / loads.len() as f64;
        Ok(Delays::new(workers, load, seconds)?)
    }

    /// Fits the time of an answer as a function of the load, over all answers of some traces; `None` if all have the
    /// same load.
    pub fn load_fit<'a>(traces: impl IntoIterator<Item = &'a Self>) -> Option<LoadFit> {
        let rows = traces.into_iter().flat_map(|trace| &trace.rows);
        LoadFit::of(rows.map(|row| (row.load, row.answered_seconds)))
    }

    /// The text of the file.
    pub fn to_csv(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for row in &self.rows {
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "{},{},{},{},{}",
                row.round, row.worker, row.load, row.computed_seconds, row.answered_seconds
            );
        }
        text
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// If a line is none of a trace.
    pub fn from_csv(text: &str) -> Result<Self, TraceError> {
        let mut lines = text.lines().zip(1..);
        match lines.next() {
            Some((HEADER, _)) => {}
            first => {
                return Err(TraceError::Line {
                    line: 1,
                    text: first.map_or_else(String::new, |(text, _)| text.to_owned()),
                    expected: HEADER,
                });
            }
        }
        let rows = lines.map(|(text, line)| {
            row_of(text).ok_or_else(|| TraceError::Line {
                line,
                text: text.to_owned(),
                expected: "a round and a worker below 2^32, and three finite numbers of at least 0",
            })
        });
        Ok(Self {
            rows: rows.collect::<Result<_, _>>()?,
        })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TraceError> {
        Ok(write_bytes_atomically(path, self.to_csv().as_bytes())?)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it cannot be read, or a line is none of a trace.
    pub fn read(path: &Path) -> Result<Self, TraceError> {
        let text = fs::read_to_string(path).map_err(|source| TraceError::Input {
            path: path.to_owned(),
            source,
        })?;
        Self::from_csv(&text)
    }
}

fn row_of(text: &str) -> Option<TraceRow> {
    let mut cells = text.split(',').map(str::trim);
    let mut whole = || cells.next()?.parse::<u32>().ok();
    let (round, worker) = (whole()? as usize, whole()? as usize);
    let mut number = || {
        let value = cells.next()?.parse::<f64>().ok()?;
        (value.is_finite() && value >= 0.0).then_some(value)
    };
    let row = TraceRow {
        round,
        worker,
        load: number()?,
        computed_seconds: number()?,
        answered_seconds: number()?,
    };
    cells.next().is_none().then_some(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(round: usize, worker: usize, answered_seconds: f64) -> TraceRow {
        TraceRow {
            round,
            worker,
            load: 0.1,
            computed_seconds: 0.0,
            answered_seconds,
        }
    }

    #[test]
    fn only_whole_rounds_are_delays() {
        let mut trace = Trace::default();
        for each in [
            row(0, 0, 1.0),
            row(1, 1, 4.0),
            row(1, 0, 3.0),
            row(2, 1, 9.0),
        ] {
            trace.push(each);
        }
        let delays = trace.delays(2).unwrap();
        assert_eq!((delays.rounds(), delays.of_round(0)), (1, &[3.0, 4.0][..]));
        let error = trace.delays(3).unwrap_err().to_string();
        assert_eq!(
            error,
            "the trace has no round in which all 3 workers answered"
        );
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_another_one_is_refused() {
        let mut trace = Trace::default();
        trace.push(row(3, 1, 0.1 + 0.2));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.csv");
        trace.save(&path).unwrap();
        assert_eq!(Trace::read(&path).unwrap(), trace);
        for text in [
            "",
            "round\n",
            "round,worker,load,computed_seconds,answered_seconds\n1,2,3,4",
        ] {
            assert!(Trace::from_csv(text).is_err(), "{text}");
        }
        let error = Trace::from_csv(&trace.to_csv().replace("0.1", "-1")).unwrap_err();
        assert!(
            error.to_string().starts_with("line 2 of the trace is"),
            "{error}"
        );
    }
}
