//! `nabla solve predict`: a model applied to examples.

use std::path::PathBuf;

use clap::Args;
use nabla::base::{check_writable, write_bytes_atomically};
use nabla::data::IndexBase;
use nabla::solve::model::{Measured, Model, Task};
use serde::Serialize;

use super::measured_line::measured_line;
use super::problem_file::{read, rows_for};
use crate::choice::choice;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::index_base::{FoundOr, base_line};

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// A model that `nabla solve` wrote
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The examples, a LIBSVM file; `-` for standard input
    #[arg(value_name = "DATA")]
    data: PathBuf,
    /// Where the feature indices of DATA start; auto: as in the model's file
    #[arg(
        long,
        value_parser = choice::<FoundOr<IndexBase>>(),
        default_value = "auto",
        hide_possible_values = true,
        value_name = "auto|zero|one"
    )]
    index_base: FoundOr<IndexBase>,
    /// The label and the scores of every example, a CSV file
    #[arg(short, long, value_name = "FILE.csv")]
    out: Option<PathBuf>,
}

#[derive(Serialize)]
struct Predicted<'a> {
    measured: Measured,
    index_base: IndexBase,
    labels: &'a [f64],
    scores: &'a [Vec<f64>],
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        run(self, context)
    }
}

fn run(arguments: &Arguments, context: &Context) -> Result<Report, Failure> {
    let model = Model::read(&arguments.model)?;
    let text = read(&arguments.data)?;
    let said = arguments.index_base.said();
    let index_base = said.unwrap_or(model.index_base);
    if said.is_none() && index_base == IndexBase::One && text.shown_base() == Some(IndexBase::Zero)
    {
        return Err(Failure::input(format!(
            "the feature indices of {} start at 0, but those of the model's file at 1: \
             --index-base zero reads it anyway",
            arguments.data.display()
        )));
    }
    let rows = rows_for(text, &arguments.data, index_base, model.features)?;
    if let Some(path) = &arguments.out {
        if *path == arguments.model || *path == arguments.data {
            return Err(Failure::input(format!(
                "{} is named twice, but the output must be a separate file",
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
    let predicted = Predicted {
        measured,
        index_base,
        labels: &labels,
        scores: &scores,
    };
    context.report(&predicted, || {
        let mut text = measured_line(&measured, &arguments.data.display().to_string());
        text += &match said {
            Some(base) => base_line(base, true),
            None => format!("feature indices start at {index_base}, as in the model's file\n"),
        };
        if let Some(path) = &arguments.out {
            text += &format!("labels and scores in {}\n", path.display());
        }
        text
    })
}
