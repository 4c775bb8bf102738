//! What an experiment measured: a table of numbers per seed, checks against the pass criterion,
//! curves and notes.
//!
//! For the values `x_1 … x_n` of one cell, one per seed, the mean and the spread are
//!
//! ```text
//! mean = (1/n) Σ x_i        spread = sqrt( Σ (x_i − mean)² / (n − 1) )
//! ```
//!
//! so the spread is the sample standard deviation; one seed alone has none.

use crate::plot::LinePlot;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;

/// Which way of a metric is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Larger values are better, such as PSNR or accuracy.
    HigherIsBetter,
    /// Smaller values are better, such as an error or a time.
    LowerIsBetter,
    /// Neither way is better, such as a number of parameters that is only reported.
    Informative,
}

impl Direction {
    /// The arrow that tables show beside a metric's name: `↑`, `↓` or nothing.
    pub fn arrow(self) -> &'static str {
        match self {
            Direction::HigherIsBetter => "↑",
            Direction::LowerIsBetter => "↓",
            Direction::Informative => "",
        }
    }

    /// Whether `a` is strictly better than `b`; never true of an informative metric or of a NaN.
    pub fn is_better(self, a: f64, b: f64) -> bool {
        match self {
            Direction::HigherIsBetter => a > b,
            Direction::LowerIsBetter => a < b,
            Direction::Informative => false,
        }
    }
}

/// A column of the table: a quantity, its unit and its good direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// The field's name of the quantity, such as `WS-PSNR`; the key of the column.
    pub name: String,
    /// The unit, such as `dB` or `s`; empty for a pure number.
    pub unit: String,
    /// Which way is better.
    pub direction: Direction,
}

impl Metric {
    /// A metric of which more is better; `unit` is empty for a pure number.
    pub fn higher(name: impl Into<String>, unit: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            unit: unit.into(),
            direction: Direction::HigherIsBetter,
        }
    }

    /// A metric of which less is better.
    pub fn lower(name: impl Into<String>, unit: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            unit: unit.into(),
            direction: Direction::LowerIsBetter,
        }
    }

    /// A metric that is reported but not judged.
    pub fn informative(name: impl Into<String>, unit: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            unit: unit.into(),
            direction: Direction::Informative,
        }
    }
}

/// What a row of the table stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The paper's method, whole.
    Method,
    /// The method with a part removed or exchanged.
    Ablation,
    /// What the method is compared with.
    Baseline,
}

impl Role {
    /// The role in one word, as tables and legends show it.
    pub fn word(self) -> &'static str {
        match self {
            Role::Method => "method",
            Role::Ablation => "ablation",
            Role::Baseline => "baseline",
        }
    }
}

/// A row of the table: one way of doing the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variant {
    /// The name shown; the key of the row.
    pub name: String,
    /// What it stands for.
    pub role: Role,
}

impl Variant {
    /// The paper's method, whole.
    pub fn method(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            role: Role::Method,
        }
    }

    /// The method with a part removed or exchanged.
    pub fn ablation(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            role: Role::Ablation,
        }
    }

    /// What the method is compared with.
    pub fn baseline(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            role: Role::Baseline,
        }
    }
}

/// Mean and spread of a cell's values over the seeds.
///
/// Displays as `28.130 ± 0.021`: the spread with two significant digits, the mean with as many
/// decimals; without a spread, or with one of zero, the mean has five significant digits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The arithmetic mean.
    pub mean: f64,
    /// The sample standard deviation; `None` for fewer than two values.
    pub spread: Option<f64>,
}

impl Summary {
    /// Summarises `values`; `None` if there are none.
    ///
    /// ```
    /// use nabla_claims::Summary;
    /// let summary = Summary::of(&[1.0, 2.0, 3.0]).unwrap();
    /// assert_eq!((summary.mean, summary.spread), (2.0, Some(1.0)));
    /// ```
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        // Two passes: the one-pass form cancels when the spread is small beside the mean.
        let spread = (values.len() > 1).then(|| {
            (values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0)).sqrt()
        });
        Some(Self { mean, spread })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.spread {
            Some(spread) if spread.is_finite() && spread > 0.0 => {
                // Digits of the mean beyond the sixth are noise even where the spread is tiny.
                let decimals = decimals_for(spread, 2).min(decimals_for(self.mean, 6));
                if decimals > 6 || self.mean.abs() >= 1e6 {
                    write!(f, "{:.3e} ± {:.1e}", self.mean, spread)
                } else {
                    let decimals = decimals.max(0) as usize;
                    // A spread below the last decimal that is shown must not read as none.
                    if format!("{spread:.decimals$}")
                        .bytes()
                        .all(|b| b == b'0' || b == b'.')
                    {
                        write!(f, "{:.decimals$} ± {spread:.1e}", self.mean)
                    } else {
                        write!(f, "{:.decimals$} ± {spread:.decimals$}", self.mean)
                    }
                }
            }
            Some(spread) if spread.is_nan() => write!(f, "{}", significant(self.mean, 5)),
            Some(spread) => write!(f, "{} ± {spread}", significant(self.mean, 5)),
            None => write!(f, "{}", significant(self.mean, 5)),
        }
    }
}

/// How many decimals show `digits` significant digits of `value`.
fn decimals_for(value: f64, digits: i32) -> i32 {
    if value == 0.0 || !value.is_finite() {
        return digits - 1;
    }
    digits - 1 - value.abs().log10().floor() as i32
}

/// `value` with `digits` significant digits, in scientific notation if it is very large or small.
pub(crate) fn significant(value: f64, digits: i32) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 {
            "∞".to_owned()
        } else {
            "−∞".to_owned()
        }
    } else if value != 0.0 && (value.abs() < 1e-4 || value.abs() >= 1e6) {
        format!("{value:.*e}", (digits - 1).max(0) as usize)
    } else {
        format!(
            "{value:.*}",
            decimals_for(value, digits).clamp(0, 12) as usize
        )
    }
}

/// One statement of the pass criterion and whether it holds of what was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The statement, such as `the full pipeline beats bicubic in WS-PSNR (x4)`.
    pub text: String,
    /// Whether it holds.
    pub holds: bool,
    /// The numbers that decide it.
    pub detail: String,
}

impl Check {
    /// A check from its statement, outcome and deciding numbers.
    pub fn new(text: impl Into<String>, holds: bool, detail: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            holds,
            detail: detail.into(),
        }
    }
}

/// What an experiment hands back: its table, its checks, its curves and what there is to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// The numbers.
    pub table: Table,
    /// The pass criterion, statement by statement; at least one.
    pub checks: Vec<Check>,
    /// Curves to plot beside the table; may be empty.
    pub plots: Vec<LinePlot>,
    /// Free remarks, such as why the claim does not hold at this scale; may be empty.
    pub notes: Vec<String>,
}

impl Measurement {
    /// A measurement with no curves and no notes.
    pub fn new(table: Table, checks: Vec<Check>) -> Self {
        Self {
            table,
            checks,
            plots: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a remark.
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Adds a curve.
    pub fn with_plot(mut self, plot: LinePlot) -> Self {
        self.plots.push(plot);
        self
    }
}

/// Why a table refused a value or a question.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TableError {
    /// A name that the table does not have.
    #[error("the table has no {kind} named '{name}'; it has: {known}")]
    UnknownName {
        /// `metric`, `variant` or `group`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// A name given twice, or no name at all.
    #[error("the table needs at least one {kind} and no {kind} twice, but got: {given}")]
    BadNames {
        /// `seed`, `metric`, `variant` or `group`.
        kind: &'static str,
        /// The names given.
        given: String,
    },
    /// A seed that the table was not made for.
    #[error("the table has no column for seed {seed}; its seeds are {known}")]
    UnknownSeed {
        /// The seed asked for.
        seed: u64,
        /// The seeds that exist.
        known: String,
    },
    /// A second value for one cell and seed.
    #[error("{cell} already has a value for seed {seed}")]
    RecordedTwice {
        /// The cell in words.
        cell: String,
        /// The seed.
        seed: u64,
    },
    /// A cell without any value, or with values for some of the seeds only.
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
    /// A comparison by a metric that has no better direction.
    #[error("the metric '{0}' is informative only, so no variant is better than another by it")]
    NotComparable(String),
    /// A stored table that contradicts itself.
    #[error("the stored {what} of {cell} is {stored}, but its values give {computed}")]
    Contradiction {
        /// `mean` or `spread`.
        what: &'static str,
        /// The cell in words.
        cell: String,
        /// What the file says.
        stored: String,
        /// What follows from its values.
        computed: String,
    },
    /// A stored cell with another number of values than there are seeds.
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

/// The measured numbers: for each group (a scale, a data set), variant and metric one value per
/// seed.
///
/// A cell may be left out as a whole, where a variant does not exist in a group; a cell with
/// values for only some seeds is an error ([`Table::check_complete`]). A value may be infinite or
/// NaN, since a baseline that diverges is a result too.
///
/// ```
/// use nabla_claims::{Metric, Table, Variant};
/// # fn main() -> Result<(), nabla_claims::TableError> {
/// let mut table = Table::new(
///     &[0, 1, 2],
///     [Metric::higher("WS-PSNR", "dB")],
///     [Variant::method("OmniSSR"), Variant::baseline("bicubic")],
///     ["x4"],
/// )?;
/// for (seed, value) in [(0, 27.0), (1, 28.0), (2, 29.0)] {
///     table.record("x4", "OmniSSR", "WS-PSNR", seed, value)?;
/// }
/// table.record_for_every_seed("x4", "bicubic", "WS-PSNR", 26.0)?;
/// assert_eq!(table.summary("x4", "OmniSSR", "WS-PSNR")?.to_string(), "28.0 ± 1.0");
/// assert!(table.compare("x4", "WS-PSNR", "OmniSSR", "bicubic")?.holds);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "StoredTable", try_from = "StoredTable")]
pub struct Table {
    seeds: Vec<u64>,
    metrics: Vec<Metric>,
    variants: Vec<Variant>,
    groups: Vec<String>,
    /// Keyed by (group, variant, metric) in that order, so that iteration is row by row.
    cells: BTreeMap<(usize, usize, usize), Vec<Option<f64>>>,
}

impl Table {
    /// An empty table for these seeds, metrics (columns), variants (rows) and groups. An
    /// experiment on one data set alone still names it, for the report to show.
    ///
    /// # Errors
    /// [`TableError::BadNames`] if any of the four is empty or holds a name twice.
    pub fn new<G: Into<String>>(
        seeds: &[u64],
        metrics: impl IntoIterator<Item = Metric>,
        variants: impl IntoIterator<Item = Variant>,
        groups: impl IntoIterator<Item = G>,
    ) -> Result<Self, TableError> {
        let table = Self {
            seeds: seeds.to_vec(),
            metrics: metrics.into_iter().collect(),
            variants: variants.into_iter().collect(),
            groups: groups.into_iter().map(Into::into).collect(),
            cells: BTreeMap::new(),
        };
        let seed_names: Vec<String> = table.seeds.iter().map(u64::to_string).collect();
        distinct("seed", seed_names.iter().map(String::as_str))?;
        distinct("metric", table.metrics.iter().map(|m| m.name.as_str()))?;
        distinct("variant", table.variants.iter().map(|v| v.name.as_str()))?;
        distinct("group", table.groups.iter().map(String::as_str))?;
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

    /// The groups.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Records one value.
    ///
    /// # Errors
    /// If a name or the seed is unknown, or the cell has a value for that seed already.
    pub fn record(
        &mut self,
        group: &str,
        variant: &str,
        metric: &str,
        seed: u64,
        value: f64,
    ) -> Result<(), TableError> {
        let key = self.key(group, variant, metric)?;
        let column =
            self.seeds
                .iter()
                .position(|s| *s == seed)
                .ok_or_else(|| TableError::UnknownSeed {
                    seed,
                    known: join(self.seeds.iter().map(u64::to_string)),
                })?;
        let cell = self
            .cells
            .entry(key)
            .or_insert_with(|| vec![None; self.seeds.len()]);
        if cell[column].is_some() {
            return Err(TableError::RecordedTwice {
                cell: cell_name(group, variant, metric),
                seed,
            });
        }
        cell[column] = Some(value);
        Ok(())
    }

    /// Records the same value for every seed: for a variant without randomness, such as bicubic
    /// interpolation, whose spread is then zero.
    ///
    /// # Errors
    /// As [`Table::record`].
    pub fn record_for_every_seed(
        &mut self,
        group: &str,
        variant: &str,
        metric: &str,
        value: f64,
    ) -> Result<(), TableError> {
        for seed in self.seeds.clone() {
            self.record(group, variant, metric, seed, value)?;
        }
        Ok(())
    }

    /// The values of a cell, in the order of [`Table::seeds`].
    ///
    /// # Errors
    /// If a name is unknown, or the cell lacks a value.
    pub fn values(&self, group: &str, variant: &str, metric: &str) -> Result<Vec<f64>, TableError> {
        let key = self.key(group, variant, metric)?;
        let missing = |column: usize| TableError::Missing {
            cell: cell_name(group, variant, metric),
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
    pub fn summary(&self, group: &str, variant: &str, metric: &str) -> Result<Summary, TableError> {
        let values = self.values(group, variant, metric)?;
        Summary::of(&values).ok_or(TableError::Empty)
    }

    /// Mean of a cell.
    ///
    /// # Errors
    /// As [`Table::values`].
    pub fn mean(&self, group: &str, variant: &str, metric: &str) -> Result<f64, TableError> {
        Ok(self.summary(group, variant, metric)?.mean)
    }

    /// Whether the cell was recorded at all.
    pub fn has(&self, group: &str, variant: &str, metric: &str) -> bool {
        self.key(group, variant, metric)
            .is_ok_and(|key| self.cells.contains_key(&key))
    }

    /// The check that `better` has the strictly better mean than `worse`, by the metric's own
    /// direction, with both cells as its detail.
    ///
    /// # Errors
    /// As [`Table::values`], and [`TableError::NotComparable`] for an informative metric.
    pub fn compare(
        &self,
        group: &str,
        metric: &str,
        better: &str,
        worse: &str,
    ) -> Result<Check, TableError> {
        let a = self.summary(group, better, metric)?;
        let b = self.summary(group, worse, metric)?;
        let (_, _, column) = self.key(group, better, metric)?;
        let Metric {
            unit, direction, ..
        } = &self.metrics[column];
        let word = match direction {
            Direction::HigherIsBetter => "higher",
            Direction::LowerIsBetter => "lower",
            Direction::Informative => return Err(TableError::NotComparable(metric.to_owned())),
        };
        let unit = if unit.is_empty() {
            String::new()
        } else {
            format!(" {unit}")
        };
        Ok(Check::new(
            format!("{group}: {better} has {word} {metric} than {worse}"),
            direction.is_better(a.mean, b.mean),
            format!("{a}{unit} against {b}{unit}"),
        ))
    }

    /// The variant with the best mean of a metric in a group; `None` if the metric is informative
    /// or nothing comparable was recorded.
    pub fn best(&self, group: &str, metric: &str) -> Option<&str> {
        let direction = self.metrics.iter().find(|m| m.name == metric)?.direction;
        let mut best: Option<(&str, f64)> = None;
        for variant in &self.variants {
            let Ok(mean) = self.mean(group, &variant.name, metric) else {
                continue;
            };
            let wins = match best {
                None => direction != Direction::Informative && !mean.is_nan(),
                Some((_, other)) => direction.is_better(mean, other),
            };
            if wins {
                best = Some((&variant.name, mean));
            }
        }
        best.map(|(name, _)| name)
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
        group: &str,
        variant: &str,
        metric: &str,
    ) -> Result<(usize, usize, usize), TableError> {
        Ok((
            find("group", group, self.groups.iter().map(String::as_str))?,
            find(
                "variant",
                variant,
                self.variants.iter().map(|v| v.name.as_str()),
            )?,
            find(
                "metric",
                metric,
                self.metrics.iter().map(|m| m.name.as_str()),
            )?,
        ))
    }

    fn cell_name(&self, (group, variant, metric): (usize, usize, usize)) -> String {
        let (variant, metric) = (&self.variants[variant].name, &self.metrics[metric].name);
        cell_name(&self.groups[group], variant, metric)
    }
}

fn cell_name(group: &str, variant: &str, metric: &str) -> String {
    format!("the cell '{group}' / '{variant}' / '{metric}'")
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

/// A number in a result file: JSON has no infinity and no NaN, so these are written as strings.
#[derive(Debug, Clone, Copy)]
struct Real(f64);

impl Serialize for Real {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else {
            serializer.serialize_str(&self.0.to_string())
        }
    }
}

impl<'de> Deserialize<'de> for Real {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a number, \"inf\", \"-inf\" or \"NaN\""
        )]
        enum Written {
            Number(f64),
            Word(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(value) => Ok(Real(value)),
            Written::Word(word) => match word.as_str() {
                "inf" => Ok(Real(f64::INFINITY)),
                "-inf" => Ok(Real(f64::NEG_INFINITY)),
                "NaN" => Ok(Real(f64::NAN)),
                _ => Err(serde::de::Error::custom(format!(
                    "expected a number, \"inf\", \"-inf\" or \"NaN\", got \"{word}\""
                ))),
            },
        }
    }
}

/// The table as result files hold it: readable, with the derived numbers beside the values.
#[derive(Debug, Serialize, Deserialize)]
struct StoredTable {
    seeds: Vec<u64>,
    metrics: Vec<Metric>,
    variants: Vec<Variant>,
    groups: Vec<String>,
    rows: Vec<StoredRow>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredRow {
    group: String,
    variant: String,
    values: Vec<StoredCell>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredCell {
    metric: String,
    mean: Option<Real>,
    spread: Option<Real>,
    per_seed: Vec<Option<Real>>,
}

impl From<Table> for StoredTable {
    fn from(table: Table) -> Self {
        let mut rows: Vec<StoredRow> = Vec::new();
        for (&(group, variant, metric), cell) in &table.cells {
            let (group, variant) = (&table.groups[group], &table.variants[variant].name);
            let values: Option<Vec<f64>> = cell.iter().copied().collect();
            let summary = values.as_deref().and_then(Summary::of);
            let stored = StoredCell {
                metric: table.metrics[metric].name.clone(),
                mean: summary.map(|s| Real(s.mean)),
                spread: summary.and_then(|s| s.spread).map(Real),
                per_seed: cell.iter().map(|value| value.map(Real)).collect(),
            };
            match rows.last_mut() {
                Some(row) if row.group == *group && row.variant == *variant => {
                    row.values.push(stored);
                }
                _ => rows.push(StoredRow {
                    group: group.clone(),
                    variant: variant.clone(),
                    values: vec![stored],
                }),
            }
        }
        let Table {
            seeds,
            metrics,
            variants,
            groups,
            ..
        } = table;
        Self {
            seeds,
            metrics,
            variants,
            groups,
            rows,
        }
    }
}

impl TryFrom<StoredTable> for Table {
    type Error = TableError;

    /// The derived numbers of the file are recomputed and have to agree with the stored ones, so
    /// that a file edited by hand does not pass as a measurement.
    fn try_from(stored: StoredTable) -> Result<Self, TableError> {
        let mut table = Table::new(
            &stored.seeds,
            stored.metrics,
            stored.variants,
            stored.groups,
        )?;
        for row in stored.rows {
            for cell in row.values {
                let name = cell_name(&row.group, &row.variant, &cell.metric);
                if cell.per_seed.len() != table.seeds.len() {
                    return Err(TableError::WrongCount {
                        cell: name,
                        values: cell.per_seed.len(),
                        seeds: table.seeds.len(),
                    });
                }
                for (seed, value) in stored.seeds.iter().zip(&cell.per_seed) {
                    if let Some(Real(value)) = value {
                        table.record(&row.group, &row.variant, &cell.metric, *seed, *value)?;
                    }
                }
                let values: Option<Vec<f64>> = cell
                    .per_seed
                    .iter()
                    .map(|value| value.map(|Real(x)| x))
                    .collect();
                let computed = values.as_deref().and_then(Summary::of);
                let scale = values.iter().flatten().fold(0.0_f64, |m, x| m.max(x.abs()));
                let pairs = [
                    ("mean", cell.mean, computed.map(|s| s.mean)),
                    ("spread", cell.spread, computed.and_then(|s| s.spread)),
                ];
                for (what, stored, computed) in pairs {
                    let stored = stored.map(|Real(x)| x);
                    if !agree(stored, computed, scale) {
                        let show = |x: Option<f64>| x.map_or("none".to_owned(), |x| x.to_string());
                        return Err(TableError::Contradiction {
                            what,
                            cell: name,
                            stored: show(stored),
                            computed: show(computed),
                        });
                    }
                }
            }
        }
        Ok(table)
    }
}

/// Whether a stored number is the computed one up to the rounding of decimal text.
fn agree(stored: Option<f64>, computed: Option<f64>, scale: f64) -> bool {
    match (stored, computed) {
        (None, None) => true,
        (Some(a), Some(b)) if a.is_finite() && b.is_finite() => {
            (a - b).abs() <= 1e-9 * scale.max(f64::MIN_POSITIVE)
        }
        (Some(a), Some(b)) => a == b || (a.is_nan() && b.is_nan()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toy() -> Table {
        Table::new(
            &[0, 1, 2],
            [
                Metric::higher("PSNR", "dB"),
                Metric::lower("error", ""),
                Metric::informative("n", ""),
            ],
            [Variant::method("ours"), Variant::baseline("theirs")],
            ["x2", "x4"],
        )
        .unwrap()
    }

    #[test]
    fn statistics_match_their_closed_forms() {
        // 1 … n has mean (n+1)/2 and sample variance n(n+1)/12.
        for n in [2_u32, 3, 7, 50] {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            let s = Summary::of(&values).unwrap();
            let n = f64::from(n);
            assert!((s.mean - (n + 1.0) / 2.0).abs() < 1e-12);
            assert!((s.spread.unwrap() - (n * (n + 1.0) / 12.0).sqrt()).abs() < 1e-12);
        }
        // A large offset must not cancel the spread away: 1e9 + {0, 1, 2} has spread 1.
        let s = Summary::of(&[1e9, 1e9 + 1.0, 1e9 + 2.0]).unwrap();
        assert_eq!((s.mean, s.spread), (1e9 + 1.0, Some(1.0)));
        assert_eq!(
            Summary::of(&[4.0]).unwrap(),
            Summary {
                mean: 4.0,
                spread: None
            }
        );
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn summaries_show_the_digits_that_the_spread_allows() {
        let show = |mean, spread| Summary { mean, spread }.to_string();
        assert_eq!(show(28.1303, Some(0.0213)), "28.130 ± 0.021");
        assert_eq!(show(28.1303, Some(0.0)), "28.130 ± 0");
        assert_eq!(show(28.1303, None), "28.130");
        assert_eq!(show(1234.5, Some(321.0)), "1234 ± 321");
        assert_eq!(show(30.0, Some(1e-7)), "30.0000 ± 1.0e-7");
        assert_eq!(show(1.5e-9, Some(2e-10)), "1.500e-9 ± 2.0e-10");
        assert_eq!(show(f64::INFINITY, Some(f64::NAN)), "∞");
        assert_eq!(show(0.0, Some(0.0)), "0.0000 ± 0");
    }

    #[test]
    fn a_comparison_follows_the_direction_of_the_metric() {
        let mut t = toy();
        for metric in ["PSNR", "error", "n"] {
            for (seed, value) in [(0, 1.0), (1, 2.0), (2, 6.0)] {
                t.record("x2", "ours", metric, seed, value).unwrap();
            }
            t.record_for_every_seed("x2", "theirs", metric, 2.5)
                .unwrap();
        }
        let psnr = t.compare("x2", "PSNR", "ours", "theirs").unwrap();
        assert!(psnr.holds);
        assert_eq!(psnr.text, "x2: ours has higher PSNR than theirs");
        assert_eq!(psnr.detail, "3.0 ± 2.6 dB against 2.5000 ± 0 dB");
        assert!(!t.compare("x2", "error", "ours", "theirs").unwrap().holds);
        assert_eq!(
            t.compare("x2", "n", "ours", "theirs"),
            Err(TableError::NotComparable("n".into()))
        );
        assert_eq!(t.best("x2", "PSNR"), Some("ours"));
        assert_eq!(t.best("x2", "error"), Some("theirs"));
        assert_eq!(t.best("x2", "n"), None);
        assert_eq!(t.best("x4", "PSNR"), None);
        // Equal means are not better.
        assert!(!t.compare("x2", "PSNR", "theirs", "theirs").unwrap().holds);
    }

    #[test]
    fn a_diverged_variant_is_never_the_best() {
        let mut t = toy();
        t.record_for_every_seed("x2", "ours", "error", f64::NAN)
            .unwrap();
        t.record_for_every_seed("x2", "theirs", "error", 9.0)
            .unwrap();
        assert_eq!(t.best("x2", "error"), Some("theirs"));
        assert!(!t.compare("x2", "error", "ours", "theirs").unwrap().holds);
    }

    #[test]
    fn wrong_entries_are_refused_in_words() {
        let mut t = toy();
        assert_eq!(t.check_complete(), Err(TableError::Empty));
        let error = t.record("x3", "ours", "PSNR", 0, 1.0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the table has no group named 'x3'; it has: x2, x4"
        );
        let error = t.record("x2", "ours", "PSNR", 7, 1.0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the table has no column for seed 7; its seeds are 0, 1, 2"
        );
        t.record("x2", "ours", "PSNR", 0, 1.0).unwrap();
        assert!(matches!(
            t.record("x2", "ours", "PSNR", 0, 1.0),
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
                ["g"]
            ),
            Err(TableError::BadNames { kind: "seed", .. })
        ));
        let none: [Metric; 0] = [];
        assert!(matches!(
            Table::new(&[1], none, [Variant::method("m")], ["g"]),
            Err(TableError::BadNames { kind: "metric", .. })
        ));
    }

    #[test]
    fn tables_survive_json_with_infinities_and_gaps() {
        let mut t = toy();
        t.record_for_every_seed("x2", "ours", "PSNR", f64::INFINITY)
            .unwrap();
        t.record_for_every_seed("x4", "theirs", "error", 0.1)
            .unwrap();
        for (seed, value) in [(0, 0.25), (1, 0.5), (2, 1.5)] {
            t.record("x2", "ours", "error", seed, value).unwrap();
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
            t.record("x2", "ours", "error", seed, value).unwrap();
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
