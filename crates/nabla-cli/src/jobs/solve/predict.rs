//! `nabla solve predict`: a model applied to examples.

use std::path::PathBuf;

use clap::Args;
use nabla::data::{check_writable, write_bytes_atomically};
use serde::Serialize;

use super::model_file::{Measured, Model, Task};
use super::problem_file::read_for;
use crate::errors::Failure;
use crate::output::{print, print_json};

/// The command line.
#[derive(Args)]
pub struct Arguments {
    /// A model that `nabla solve` wrote
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The examples, a LIBSVM file; `-` for the standard input
    #[arg(value_name = "DATA")]
    data: PathBuf,
    /// The label and the scores of every example, a CSV file
    #[arg(short, long, value_name = "FILE.csv")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Predicted<'a> {
    measured: Measured,
    labels: &'a [f64],
    scores: &'a [Vec<f64>],
}

/// Does it.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let model = Model::read(&arguments.model)?;
    let rows = read_for(&arguments.data, model.features)?;
    if let Some(path) = &arguments.out {
        if *path == arguments.model || *path == arguments.data {
            return Err(Failure::input(format!(
                "{} is named twice, but the output needs a file of its own",
                path.display()
            )));
        }
        check_writable(path)?;
    }
    let scores = model.scores(&rows)?;
    let labels: Vec<f64> = scores.iter().map(|s| model.label(s)).collect();
    let known: Vec<f64> = rows
        .labels()
        .iter()
        .map(|&y| model.known_label(y))
        .collect();
    let measured = model.measure(&labels, &known);
    if let Some(path) = &arguments.out {
        let mut csv = match &model.task {
            Task::Regression | Task::TwoClasses => "label,score\n".to_owned(),
            Task::Classes(classes) => {
                let heads: Vec<String> = classes.iter().map(|c| format!(",score of {c}")).collect();
                format!("label{}\n", heads.concat())
            }
        };
        for (label, scores) in labels.iter().zip(&scores) {
            csv += &label.to_string();
            for score in scores {
                csv += &format!(",{score}");
            }
            csv.push('\n');
        }
        write_bytes_atomically(path, csv.as_bytes())?;
    }
    if arguments.json {
        return print_json(&Predicted {
            measured,
            labels: &labels,
            scores: &scores,
        });
    }
    let mut text = measured.told(&arguments.data.display().to_string());
    if let Some(path) = &arguments.out {
        text += &format!("labels and scores in {}\n", path.display());
    }
    print(&text)
}
