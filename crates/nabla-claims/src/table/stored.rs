//! The table in result files.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Table, TableError, cell_name};
use crate::names::{Metric, Task, Variant};
use crate::summary::Summary;

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

/// The table in result files: readable, with the derived numbers beside the values.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredTable {
    seeds: Vec<u64>,
    metrics: Vec<Metric>,
    variants: Vec<Variant>,
    #[serde(rename = "groups")]
    tasks: Vec<Task>,
    rows: Vec<StoredRow>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredRow {
    #[serde(rename = "group")]
    task: String,
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
        for (&(task, variant, metric), cell) in &table.cells {
            let (task, variant) = (table.tasks[task].name(), table.variants[variant].name());
            let values: Option<Vec<f64>> = cell.iter().copied().collect();
            let summary = values.as_deref().and_then(Summary::of);
            let stored = StoredCell {
                metric: table.metrics[metric].name().to_owned(),
                mean: summary.map(|s| Real(s.mean)),
                spread: summary.and_then(|s| s.spread).map(Real),
                per_seed: cell.iter().map(|value| value.map(Real)).collect(),
            };
            match rows.last_mut() {
                Some(row) if row.task == task && row.variant == variant => {
                    row.values.push(stored);
                }
                _ => rows.push(StoredRow {
                    task: task.to_owned(),
                    variant: variant.to_owned(),
                    values: vec![stored],
                }),
            }
        }
        let Table {
            seeds,
            metrics,
            variants,
            tasks,
            ..
        } = table;
        Self {
            seeds,
            metrics,
            variants,
            tasks,
            rows,
        }
    }
}

impl TryFrom<StoredTable> for Table {
    type Error = TableError;

    /// The derived numbers of the file are recomputed and must agree with the stored ones, so that a file
    /// edited by hand does not pass as a measurement.
    fn try_from(stored: StoredTable) -> Result<Self, TableError> {
        let mut table = Table::new(&stored.seeds, stored.metrics, stored.variants, stored.tasks)?;
        for row in stored.rows {
            for cell in row.values {
                let name = cell_name(&row.task, &row.variant, &cell.metric);
                if cell.per_seed.len() != table.seeds.len() {
                    return Err(TableError::WrongCount {
                        cell: name,
                        values: cell.per_seed.len(),
                        seeds: table.seeds.len(),
                    });
                }
                let key = table.key_named(&row.task, &row.variant, &cell.metric)?;
                for (seed, value) in stored.seeds.iter().zip(&cell.per_seed) {
                    if let Some(Real(value)) = value {
                        table.record_at(key, *seed, *value)?;
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
