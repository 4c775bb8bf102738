//! The table of measurements: for each task, variant and metric one value per seed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::measurement::Check;
use crate::names::{Direction, Metric, Task, Variant};
use crate::summary::Summary;

mod stored;

use stored::StoredTable;

/// The reason why a table refused a value or a query.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TableError {
    /// The table does not have a name.
    #[error("the table has no {kind} named '{name}'; it has: {known}")]
    UnknownName {
        /// `metric`, `variant` or `task`.
        kind: &'static str,
        /// The requested name.
        name: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// A name was given twice, or no name at all.
    #[error("the table needs at least one {kind} and no {kind} twice, but got: {given}")]
    BadNames {
        /// `seed`, `metric`, `variant` or `task`.
        kind: &'static str,
        /// The names given.
        given: String,
    },
    /// The table was not made for this seed.
    #[error("the table has no column for seed {seed}; its seeds are {known}")]
    UnknownSeed {
        /// The requested seed.
        seed: u64,
        /// The seeds that exist.
        known: String,
    },
    /// A cell got a second value for a seed.
    #[error("{cell} already has a value for seed {seed}")]
    RecordedTwice {
        /// The cell in words.
        cell: String,
        /// The seed.
        seed: u64,
    },
    /// A cell has no value, or values for only some of the seeds.
    #[error("{cell} has no value for seed {seed}; every cell needs one value per seed or none")]
    Missing {
        /// The cell in words.
        cell: String,
        /// The first seed without a value.
        seed: u64,
    },
    /// No value was recorded at all.
    #[error("the table is empty; an experiment has to record at least one value")]
    Empty,
    /// A comparison used a metric that has no better direction.
    #[error("the metric '{0}' is informative only, so no variant is better than another by it")]
    NotComparable(String),
    /// A stored table contradicts itself.
    #[error("the stored {what} of {cell} is {stored}, but its values give {computed}")]
    Contradiction {
        /// `mean` or `spread`.
        what: &'static str,
        /// The cell in words.
        cell: String,
        /// The value in the file.
        stored: String,
        /// The numbers derived from its values.
        computed: String,
    },
    /// A stored cell does not have one value per seed.
    #[error("{cell} has {values} values for {seeds} seeds; it needs one per seed")]
    WrongCount {
        /// The cell in words.
        cell: String,
        /// The number of values.
        values: usize,
        /// The number of seeds.
        seeds: usize,
    },
}

/// The measured numbers: for each task (a scale, a data set), variant and metric one value per seed.
///
/// A whole cell may be left out, if a variant does not exist in a task; a cell with
/// values for only some seeds is an error ([`Table::check_complete`]). A value may be infinite or
/// NaN, since a baseline that diverges is a result too.
///
/// ```
/// use nabla_claims::{Metric, Table, Task, Variant};
///
/// const PSNR: Metric = Metric::higher("WS-PSNR", "dB");
/// const OMNISSR: Variant = Variant::method("OmniSSR");
/// const BICUBIC: Variant = Variant::baseline("bicubic");
/// const X4: Task = Task::named("x4");
///
/// let mut table = Table::new(&[0, 1, 2], [PSNR], [OMNISSR, BICUBIC], [X4])?;
/// for (seed, value) in [(0, 27.0), (1, 28.0), (2, 29.0)] {
///     table.record(&X4, &OMNISSR, &PSNR, seed, value)?;
/// }
/// table.record_for_every_seed(&X4, &BICUBIC, &PSNR, 26.0)?;
/// assert_eq!(table.summary(&X4, &OMNISSR, &PSNR)?.to_string(), "28.0 ± 1.0");
/// let check = table.compare(&X4, &PSNR, &OMNISSR, &BICUBIC)?;
/// assert!(check.holds);
/// // The difference of 2 dB exceeds its spread of 1 dB; otherwise the detail would say so.
/// assert_eq!(check.detail, "28.0 ± 1.0 dB against 26 dB");
/// # Ok::<(), nabla_claims::TableError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "StoredTable", try_from = "StoredTable")]
pub struct Table {
    seeds: Vec<u64>,
    metrics: Vec<Metric>,
    variants: Vec<Variant>,
    tasks: Vec<Task>,
    /// Keyed by (task, variant, metric) in that order, so that iteration is row by row.
    cells: BTreeMap<(usize, usize, usize), Vec<Option<f64>>>,
}

impl Table {
    /// An empty table for these seeds, metrics (columns), variants (rows) and tasks. An experiment on a
    /// single data set still names it, so that the report can show it.
    ///
    /// # Errors
    /// [`TableError::BadNames`] if any of the four is empty or contains a name twice.
    pub fn new(
        seeds: &[u64],
        metrics: impl IntoIterator<Item = Metric>,
        variants: impl IntoIterator<Item = Variant>,
        tasks: impl IntoIterator<Item = Task>,
    ) -> Result<Self, TableError> {
        let table = Self {
            seeds: seeds.to_vec(),
            metrics: metrics.into_iter().collect(),
            variants: variants.into_iter().collect(),
            tasks: tasks.into_iter().collect(),
            cells: BTreeMap::new(),
        };
        let seed_names: Vec<String> = table.seeds.iter().map(u64::to_string).collect();
        distinct("seed", seed_names.iter().map(String::as_str))?;
        distinct("metric", table.metrics.iter().map(Metric::name))?;
        distinct("variant", table.variants.iter().map(Variant::name))?;
        distinct("task", table.tasks.iter().map(Task::name))?;
        Ok(table)
    }

    /// The seeds, in the order of each cell's values.
    pub fn seeds(&self) -> &[u64] {
        &self.seeds
    }

    /// The columns.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// The rows.
    pub fn variants(&self) -> &[Variant] {
        &self.variants
    }

    /// The tasks.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Records one value.
    ///
    /// # Errors
    /// If a name or the seed is unknown, or the cell has a value for that seed already.
    pub fn record(
        &mut self,
        task: &Task,
        variant: &Variant,
        metric: &Metric,
        seed: u64,
        value: f64,
    ) -> Result<(), TableError> {
        let key = self.key(task, variant, metric)?;
        self.record_at(key, seed, value)
    }

    fn record_at(
        &mut self,
        key: (usize, usize, usize),
        seed: u64,
        value: f64,
    ) -> Result<(), TableError> {
        let column =
            self.seeds
                .iter()
                .position(|s| *s == seed)
                .ok_or_else(|| TableError::UnknownSeed {
                    seed,
                    known: join(self.seeds.iter().map(u64::to_string)),
                })?;
        let seeds = self.seeds.len();
        let cell = self.cells.entry(key).or_insert_with(|| vec![None; seeds]);
        if cell[column].is_some() {
            let cell = self.cell_name(key);
            return Err(TableError::RecordedTwice { cell, seed });
        }
        cell[column] = Some(value);
        Ok(())
    }

    /// Records the same value for every seed, for a variant without randomness, such as bicubic
    /// interpolation; its spread is then zero.
    ///
    /// # Errors
    /// As [`Table::record`].
    pub fn record_for_every_seed(
        &mut self,
        task: &Task,
        variant: &Variant,
        metric: &Metric,
        value: f64,
    ) -> Result<(), TableError> {
        for seed in self.seeds.clone() {
            self.record(task, variant, metric, seed, value)?;
        }
        Ok(())
    }

    /// The values of a cell, in the order of [`Table::seeds`].
    ///
    /// # Errors
    /// If a name is unknown, or the cell lacks a value.
    pub fn values(
        &self,
        task: &Task,
        variant: &Variant,
        metric: &Metric,
    ) -> Result<Vec<f64>, TableError> {
        let key = self.key(task, variant, metric)?;
        let missing = |column: usize| TableError::Missing {
            cell: cell_name(task.name(), variant.name(), metric.name()),
            seed: self.seeds[column],
        };
        let cell = self.cells.get(&key).ok_or_else(|| missing(0))?;
        cell.iter()
            .enumerate()
            .map(|(column, value)| value.ok_or_else(|| missing(column)))
            .collect()
    }

    /// Mean and spread of a cell.
    ///
    /// # Errors
    /// As [`Table::values`].
    pub fn summary(
        &self,
        task: &Task,
        variant: &Variant,
        metric: &Metric,
    ) -> Result<Summary, TableError> {
        let values = self.values(task, variant, metric)?;
        Summary::of(&values).ok_or(TableError::Empty)
    }

    /// Mean of a cell.
    ///
    /// # Errors
    /// As [`Table::values`].
    pub fn mean(&self, task: &Task, variant: &Variant, metric: &Metric) -> Result<f64, TableError> {
        Ok(self.summary(task, variant, metric)?.mean)
    }

    /// Whether the cell was recorded at all.
    pub fn has(&self, task: &Task, variant: &Variant, metric: &Metric) -> bool {
        self.key(task, variant, metric)
            .is_ok_and(|key| self.cells.contains_key(&key))
    }

    /// The mean and the spread of the differences of a metric, `one` minus `other`, seed by seed. Effects of a seed
    /// on both variants, such as the data that it draws, do not enter this spread.
    ///
    /// # Errors
    /// The errors of [`Table::values`].
    pub fn difference(
        &self,
        task: &Task,
        metric: &Metric,
        one: &Variant,
        other: &Variant,
    ) -> Result<Summary, TableError> {
        let one = self.values(task, one, metric)?;
        let other = self.values(task, other, metric)?;
        let differences: Vec<f64> = one.iter().zip(&other).map(|(a, b)| a - b).collect();
        Summary::of(&differences).ok_or(TableError::Empty)
    }

    /// The check that the mean of `better` is strictly better than that of `worse`, by the metric's own
    /// direction, with both cells as its detail. If the means differ by less than the spread of the seed-by-seed
    /// [differences](Table::difference), the detail ends with `within the spread`; the means still decide the
    /// outcome.
    ///
    /// # Errors
    /// As [`Table::values`], and [`TableError::NotComparable`] for an informative metric.
    pub fn compare(
        &self,
        task: &Task,
        metric: &Metric,
        better: &Variant,
        worse: &Variant,
    ) -> Result<Check, TableError> {
        let a = self.summary(task, better, metric)?;
        let b = self.summary(task, worse, metric)?;
        let side = match metric.direction() {
            Direction::HigherIsBetter => "above",
            Direction::LowerIsBetter => "below",
            Direction::Informative => {
                return Err(TableError::NotComparable(metric.name().to_owned()));
            }
        };
        let within = match self
            .difference(task, metric, better, worse)?
            .within_spread()
        {
            true => ", within the spread",
            false => "",
        };
        Ok(Check::new(
            format!("{task}, {metric}: {better} is {side} {worse}"),
            metric.direction().is_better(a.mean, b.mean),
            format!("{}{within}", against(metric, &a, &b)),
        ))
    }

    /// The check that the mean of `ours` is not worse than that of `theirs` by more than the spread of `theirs`
    /// over the seeds, with both cells as its detail. This is the meaning of "as good as" and "competitive" in
    /// a claim. A single seed has no spread.
    ///
    /// # Errors
    /// As [`Table::compare`].
    pub fn not_worse(
        &self,
        task: &Task,
        metric: &Metric,
        ours: &Variant,
        theirs: &Variant,
    ) -> Result<Check, TableError> {
        let a = self.summary(task, ours, metric)?;
        let b = self.summary(task, theirs, metric)?;
        let spread = b.spread.unwrap_or(0.0);
        let (side, holds) = match metric.direction() {
            Direction::HigherIsBetter => ("below", a.mean >= b.mean - spread),
            Direction::LowerIsBetter => ("above", a.mean <= b.mean + spread),
            Direction::Informative => {
                return Err(TableError::NotComparable(metric.name().to_owned()));
            }
        };
        Ok(Check::new(
            format!(
                "{task}, {metric}: {ours} is not {side} {theirs} by more than the spread of the latter"
            ),
            holds,
            against(metric, &a, &b),
        ))
    }

    /// The variant with the best mean of a metric in a task; `None` if the metric is informative or nothing
    /// comparable was recorded.
    pub fn best(&self, task: &Task, metric: &Metric) -> Option<&Variant> {
        let direction = metric.direction();
        let mut best: Option<(&Variant, f64)> = None;
        for variant in &self.variants {
            let Ok(mean) = self.mean(task, variant, metric) else {
                continue;
            };
            let wins = match best {
                None => direction != Direction::Informative && !mean.is_nan(),
                Some((_, other)) => direction.is_better(mean, other),
            };
            if wins {
                best = Some((variant, mean));
            }
        }
        best.map(|(variant, _)| variant)
    }

    /// Checks that something was recorded, and that each recorded cell has a value for each seed.
    ///
    /// # Errors
    /// [`TableError::Empty`] or [`TableError::Missing`].
    pub fn check_complete(&self) -> Result<(), TableError> {
        if self.cells.is_empty() {
            return Err(TableError::Empty);
        }
        for (key, cell) in &self.cells {
            if let Some(column) = cell.iter().position(Option::is_none) {
                return Err(TableError::Missing {
                    cell: self.cell_name(*key),
                    seed: self.seeds[column],
                });
            }
        }
        Ok(())
    }

    fn key(
        &self,
        task: &Task,
        variant: &Variant,
        metric: &Metric,
    ) -> Result<(usize, usize, usize), TableError> {
        self.key_named(task.name(), variant.name(), metric.name())
    }

    fn key_named(
        &self,
        task: &str,
        variant: &str,
        metric: &str,
    ) -> Result<(usize, usize, usize), TableError> {
        let (variants, metrics) = (self.variants.iter(), self.metrics.iter());
        Ok((
            find("task", task, self.tasks.iter().map(Task::name))?,
            find("variant", variant, variants.map(Variant::name))?,
            find("metric", metric, metrics.map(Metric::name))?,
        ))
    }

    fn cell_name(&self, (task, variant, metric): (usize, usize, usize)) -> String {
        let (variant, metric) = (self.variants[variant].name(), self.metrics[metric].name());
        cell_name(self.tasks[task].name(), variant, metric)
    }
}

fn cell_name(task: &str, variant: &str, metric: &str) -> String {
    format!("the cell '{task}' / '{variant}' / '{metric}'")
}

fn join(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn find<'a>(
    kind: &'static str,
    name: &str,
    mut names: impl Iterator<Item = &'a str> + Clone,
) -> Result<usize, TableError> {
    let known = names.clone();
    names
        .position(|n| n == name)
        .ok_or_else(|| TableError::UnknownName {
            kind,
            name: name.to_owned(),
            known: join(known.map(str::to_owned)),
        })
}

fn distinct<'a>(
    kind: &'static str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), TableError> {
    let mut seen = std::collections::BTreeSet::new();
    if names.clone().next().is_none() || !names.clone().all(|name| seen.insert(name)) {
        return Err(TableError::BadNames {
            kind,
            given: join(names.map(str::to_owned)),
        });
    }
    Ok(())
}

/// Two cells of a metric, as the detail of a check that compares them.
fn against(metric: &Metric, a: &Summary, b: &Summary) -> String {
    let unit = match metric.unit() {
        "" => String::new(),
        unit => format!(" {unit}"),
    };
    format!("{a}{unit} against {b}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PSNR: Metric = Metric::higher("PSNR", "dB");
    const ERROR: Metric = Metric::lower("error", "");
    const NUMBER: Metric = Metric::informative("n", "");
    const OURS: Variant = Variant::method("ours");
    const THEIRS: Variant = Variant::baseline("theirs");
    const X2: Task = Task::named("x2");
    const X4: Task = Task::named("x4");

    fn toy() -> Table {
        let metrics = [PSNR, ERROR, NUMBER];
        Table::new(&[0, 1, 2], metrics, [OURS, THEIRS], [X2, X4]).unwrap()
    }

    #[test]
    fn a_comparison_follows_the_direction_of_the_metric() {
        let mut t = toy();
        for metric in [&PSNR, &ERROR, &NUMBER] {
            for (seed, value) in [(0, 1.0), (1, 2.0), (2, 6.0)] {
                t.record(&X2, &OURS, metric, seed, value).unwrap();
            }
            t.record_for_every_seed(&X2, &THEIRS, metric, 2.5).unwrap();
        }
        let psnr = t.compare(&X2, &PSNR, &OURS, &THEIRS).unwrap();
        assert!(psnr.holds);
        assert_eq!(psnr.text, "x2, PSNR: ours is above theirs");
        assert_eq!(
            psnr.detail,
            "3.0 ± 2.6 dB against 2.5 dB, within the spread"
        );
        assert!(!t.compare(&X2, &ERROR, &OURS, &THEIRS).unwrap().holds);
        assert_eq!(
            t.compare(&X2, &NUMBER, &OURS, &THEIRS),
            Err(TableError::NotComparable("n".into()))
        );
        assert_eq!(t.best(&X2, &PSNR), Some(&OURS));
        assert_eq!(t.best(&X2, &ERROR), Some(&THEIRS));
        assert_eq!(t.best(&X2, &NUMBER), None);
        assert_eq!(t.best(&X4, &PSNR), None);
        // Equal means are not better.
        assert!(!t.compare(&X2, &PSNR, &THEIRS, &THEIRS).unwrap().holds);
    }

    /// The spread of the difference counts, not the common spread of both.
    #[test]
    fn a_comparison_says_whether_it_is_within_the_spread() {
        let check = |ours: [f64; 3], theirs: [f64; 3]| {
            let mut t = toy();
            for (variant, values) in [(&OURS, ours), (&THEIRS, theirs)] {
                for (seed, value) in (0..).zip(values) {
                    t.record(&X2, variant, &PSNR, seed, value).unwrap();
                }
            }
            let difference = t.difference(&X2, &PSNR, &OURS, &THEIRS).unwrap();
            (t.compare(&X2, &PSNR, &OURS, &THEIRS).unwrap(), difference)
        };
        // Both vary by 10, but the differences are 1, 2 and 3, with a spread of 1.
        let (clear, difference) = check([11.0, 22.0, 33.0], [10.0, 20.0, 30.0]);
        assert!(clear.holds);
        assert_eq!(clear.detail, "22 ± 11 dB against 20 ± 10 dB");
        assert_eq!((difference.mean, difference.spread), (2.0, Some(1.0)));
        // The differences are −0.6, 0.4 and 1.4: the spread is still 1, but the mean is 0.4. The means still decide.
        let (close, _) = check([9.4, 20.4, 31.4], [10.0, 20.0, 30.0]);
        assert!(close.holds);
        assert_eq!(
            close.detail,
            "20 ± 11 dB against 20 ± 10 dB, within the spread"
        );
        let (behind, _) = check([10.0, 20.0, 30.0], [9.4, 20.4, 31.4]);
        assert!(!behind.holds && behind.detail.ends_with(", within the spread"));
        // Equal values have no differences, and a value that is not finite gives no spread.
        let (same, _) = check([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]);
        assert!(!same.holds && same.detail.ends_with("2.0 ± 1.0 dB"));
        let (endless, _) = check([f64::INFINITY, 2.0, 3.0], [1.0, 2.0, 3.0]);
        assert!(endless.holds && endless.detail.ends_with("2.0 ± 1.0 dB"));
    }

    #[test]
    fn as_good_is_within_the_spread_of_the_other() {
        const ACCURACY: Metric = Metric::higher("test accuracy", "%");
        const LOSS: Metric = Metric::lower("test loss", "");
        const RATE: Metric = Metric::informative("learning rate", "");
        const SGD: Variant = Variant::method("SGD");
        const MINE: Variant = Variant::method("mine");
        let task = Task::named("task");
        let found = |metric: &Metric, mine: f64| {
            let metrics = [metric.clone()];
            let mut table = Table::new(&[0, 1, 2], metrics, [MINE, SGD], [task.clone()]).unwrap();
            table
                .record_for_every_seed(&task, &MINE, metric, mine)
                .unwrap();
            for (seed, value) in [(0, 1.0), (1, 2.0), (2, 3.0)] {
                table.record(&task, &SGD, metric, seed, value).unwrap();
            }
            table.not_worse(&task, metric, &MINE, &SGD)
        };
        // The mean is 2, and the spread is 1.
        for (metric, mine, holds) in [
            (ACCURACY, 9.0, true),
            (ACCURACY, 1.01, true),
            (ACCURACY, 0.99, false),
            (LOSS, -9.0, true),
            (LOSS, 2.99, true),
            (LOSS, 3.01, false),
            (LOSS, f64::NAN, false),
        ] {
            assert_eq!(
                found(&metric, mine).unwrap().holds,
                holds,
                "{metric} {mine}"
            );
        }
        let check = found(&ACCURACY, 1.5).unwrap();
        assert_eq!(
            check.text,
            "task, test accuracy: mine is not below SGD by more than the spread of the latter"
        );
        assert_eq!(check.detail, "1.5 % against 2.0 ± 1.0 %");
        assert!(matches!(
            found(&RATE, 1.0),
            Err(TableError::NotComparable(_))
        ));
    }

    #[test]
    fn a_diverged_variant_is_never_the_best() {
        let mut t = toy();
        t.record_for_every_seed(&X2, &OURS, &ERROR, f64::NAN)
            .unwrap();
        t.record_for_every_seed(&X2, &THEIRS, &ERROR, 9.0).unwrap();
        assert_eq!(t.best(&X2, &ERROR), Some(&THEIRS));
        assert!(!t.compare(&X2, &ERROR, &OURS, &THEIRS).unwrap().holds);
    }

    #[test]
    fn wrong_entries_are_refused_in_words() {
        let mut t = toy();
        assert_eq!(t.check_complete(), Err(TableError::Empty));
        let error = t
            .record(&Task::named("x3"), &OURS, &PSNR, 0, 1.0)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the table has no task named 'x3'; it has: x2, x4"
        );
        let error = t.record(&X2, &OURS, &PSNR, 7, 1.0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the table has no column for seed 7; its seeds are 0, 1, 2"
        );
        t.record(&X2, &OURS, &PSNR, 0, 1.0).unwrap();
        assert!(matches!(
            t.record(&X2, &OURS, &PSNR, 0, 1.0),
            Err(TableError::RecordedTwice { seed: 0, .. })
        ));
        assert!(matches!(
            t.check_complete(),
            Err(TableError::Missing { seed: 1, .. })
        ));
        assert!(matches!(
            Table::new(
                &[1, 1, 2],
                [Metric::lower("e", "")],
                [Variant::method("m")],
                [X2]
            ),
            Err(TableError::BadNames { kind: "seed", .. })
        ));
        let none: [Metric; 0] = [];
        assert!(matches!(
            Table::new(&[1], none, [Variant::method("m")], [X2]),
            Err(TableError::BadNames { kind: "metric", .. })
        ));
    }

    #[test]
    fn tables_survive_json_with_infinities_and_gaps() {
        let mut t = toy();
        t.record_for_every_seed(&X2, &OURS, &PSNR, f64::INFINITY)
            .unwrap();
        t.record_for_every_seed(&X4, &THEIRS, &ERROR, 0.1).unwrap();
        for (seed, value) in [(0, 0.25), (1, 0.5), (2, 1.5)] {
            t.record(&X2, &OURS, &ERROR, seed, value).unwrap();
        }
        let text = serde_json::to_string_pretty(&t).unwrap();
        let back: Table = serde_json::from_str(&text).unwrap();
        assert_eq!(back, t);
        assert!(text.contains("\"inf\""));
    }

    #[test]
    fn a_table_edited_by_hand_is_refused() {
        let mut t = toy();
        for (seed, value) in [(0, 0.25), (1, 0.5), (2, 1.5)] {
            t.record(&X2, &OURS, &ERROR, seed, value).unwrap();
        }
        let text = serde_json::to_string(&t).unwrap();
        let edited = text.replace("\"mean\":0.75", "\"mean\":0.74");
        assert_ne!(text, edited);
        let error = serde_json::from_str::<Table>(&edited)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(
                "the stored mean of the cell 'x2' / 'ours' / 'error' is 0.74, but its values give 0.75"
            ),
            "{error}"
        );
        let short = text.replace("[0.25,0.5,1.5]", "[0.25,0.5]");
        let error = serde_json::from_str::<Table>(&short)
            .unwrap_err()
            .to_string();
        assert!(error.contains("has 2 values for 3 seeds"), "{error}");
    }
}
