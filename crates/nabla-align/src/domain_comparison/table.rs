//! The table of a comparison.

use nabla_base::registry::Options;
use nabla_base::vector::mean_with_error;
use nabla_base::words::csv_field;
use serde::{Deserialize, Serialize};

use crate::selection::{Chosen, Selection};

/// What an objective has reached in a test domain with a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// The seed.
    pub seed: u64,
    /// What was chosen.
    pub chosen: Chosen,
    /// The learning rate of its trial.
    pub learning_rate: f64,
    /// Its examples of a domain in a step.
    pub batch: usize,
    /// The options of its trial, other than the defaults.
    pub options: Options,
    /// The accuracy in the test domain.
    pub accuracy: f64,
}

/// A mean over the seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// The mean.
    pub mean: f64,
    /// Its standard error; none of a single seed.
    pub error: Option<f64>,
}

impl Accuracy {
    fn of(values: &[f64]) -> Self {
        let (mean, error) = mean_with_error(values);
        Self { mean, error }
    }

    /// In percent.
    fn told(self) -> String {
        let mean = 100.0 * self.mean;
        match self.error {
            Some(error) => format!("{mean:.1} ± {:.1}", 100.0 * error),
            None => format!("{mean:.1}"),
        }
    }
}

/// An objective in the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The objective.
    pub objective: String,
    /// Its place by the mean accuracy, from 1; those with the same mean share it. None if it diverged.
    pub rank: Option<usize>,
    /// For each test domain, one for each seed; none where every trial diverged before it was measured.
    pub reached: Vec<Vec<Option<Reached>>>,
    /// For each test domain; none if a seed has nothing to choose.
    pub accuracies: Vec<Option<Accuracy>>,
    /// Of the mean over the test domains; none if there is none in one of them.
    pub mean: Option<Accuracy>,
}

/// The table for a rule of selection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DomainTable {
    /// The rule.
    pub selection: Selection,
    /// The test domains.
    pub tests: Vec<String>,
    /// The objectives, in the order of the comparison.
    pub rows: Vec<Row>,
}

fn told(accuracy: Option<Accuracy>) -> String {
    accuracy.map_or("diverged".to_owned(), Accuracy::told)
}

impl DomainTable {
    pub(super) fn new(selection: Selection, tests: &[String]) -> Self {
        Self {
            selection,
            tests: tests.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds an objective.
    pub(super) fn push(&mut self, objective: &str, reached: Vec<Vec<Option<Reached>>>) {
        // [domains][seeds]
        let found: Vec<Option<Vec<f64>>> = reached
            .iter()
            .map(|of| of.iter().map(|r| Some(r.as_ref()?.accuracy)).collect())
            .collect();
        let whole: Option<Vec<Vec<f64>>> = found.iter().cloned().collect();
        let mean = whole.map(|whole| {
            let seeds = whole.first().map_or(0, Vec::len);
            let of_seed = |seed: usize| {
                let sum: f64 = whole.iter().map(|of| of[seed]).sum();
                sum / whole.len() as f64
            };
            Accuracy::of(&(0..seeds).map(of_seed).collect::<Vec<_>>())
        });
        self.rows.push(Row {
            objective: objective.to_owned(),
            rank: None,
            accuracies: found
                .iter()
                .map(|f| f.as_deref().map(Accuracy::of))
                .collect(),
            reached,
            mean,
        });
    }

    /// Gives the objectives their places.
    pub(super) fn rank(&mut self) {
        let means: Vec<f64> = self
            .rows
            .iter()
            .filter_map(|r| Some(r.mean?.mean))
            .collect();
        for row in &mut self.rows {
            let better = |mean: f64| means.iter().filter(|other| **other > mean).count();
            row.rank = row.mean.map(|own| 1 + better(own.mean));
        }
    }

    /// The objectives in the order of their places.
    pub fn ranked(&self) -> Vec<&Row> {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| row.rank.unwrap_or(usize::MAX));
        rows
    }

    /// The cells, in the order of the places, with a head: accuracies in percent, with their standard errors.
    pub fn cells(&self) -> Vec<Vec<String>> {
        let mut head = vec!["objective".to_owned()];
        head.extend(self.tests.iter().cloned());
        head.extend(["mean", "rank"].map(str::to_owned));
        let cells = self.ranked().into_iter().map(|row| {
            let rank = row.rank.map_or("-".to_owned(), |rank| rank.to_string());
            let mut cells = vec![row.objective.clone()];
            cells.extend(row.accuracies.iter().map(|a| told(*a)));
            cells.extend([told(row.mean), rank]);
            cells
        });
        std::iter::once(head).chain(cells).collect()
    }

    /// The [cells](Self::cells) as a table in Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let cells = self.cells();
        let mut text = String::new();
        for (i, row) in cells.iter().enumerate() {
            text += &line(row);
            if i == 0 {
                text += &format!("|{}\n", "---|".repeat(row.len()));
            }
        }
        text
    }

    /// The lines of a table as CSV, without the [head](Self::csv_head): the numbers in full, in the order of the places;
    /// empty where there are none.
    pub fn csv_lines(&self) -> String {
        let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
        let mut text = String::new();
        for row in self.ranked() {
            let rank = row.rank.map_or(String::new(), |rank| rank.to_string());
            let mut cells = vec![
                self.selection.name().to_owned(),
                rank,
                csv_field(&row.objective),
            ];
            for accuracy in row.accuracies.iter().chain([&row.mean]) {
                cells.push(number(accuracy.map(|a| a.mean)));
                cells.push(number(accuracy.and_then(|a| a.error)));
            }
            text += &(cells.join(",") + "\n");
        }
        text
    }

    /// The head of [`csv_lines`](Self::csv_lines).
    pub fn csv_head(&self) -> String {
        let mut head = "selection,rank,objective".to_owned();
        for test in &self.tests {
            head += &format!(
                ",{},{}",
                csv_field(test),
                csv_field(&format!("{test} error"))
            );
        }
        head + ",mean,mean error\n"
    }
}
