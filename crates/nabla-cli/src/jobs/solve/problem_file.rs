//! The examples that a solver reads, and the files that it writes.

use std::collections::BTreeSet;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use clap::Args;
use nabla::base::{check_writable, write_bytes_atomically};
use nabla::claims::plot::{LinePlot, Theme, line_plot, write_svg};
use nabla::data::{IndexBase, LabelledRows, LibsvmText};
use nabla::solve::model::Model;
use serde::Serialize;

use crate::choice::choice;
use crate::errors::Failure;
use crate::job::{Context, Report};
use crate::jobs::index_base::{FoundOr, base_line};

/// The maximum number of weights (800 MB); more than this are probably due to a wrong index.
const MOST_WEIGHTS: usize = 100_000_000;

/// The flags for the examples.
#[derive(Args)]
pub struct DataFlags {
    /// The examples, a LIBSVM file; `-` for standard input
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// Number of features, if the last ones do not occur in DATA
    #[arg(long, value_name = "N")]
    features: Option<usize>,
    /// Where feature indices start, in DATA and in the test file
    #[arg(long, value_parser = choice::<FoundOr<IndexBase>>(), default_value = "auto")]
    index_base: FoundOr<IndexBase>,
    /// Examples to test the model on, a LIBSVM file
    #[arg(long, value_name = "FILE")]
    pub test: Option<PathBuf>,
}

/// The flags for the outputs.
#[derive(Args)]
pub struct OutputFlags {
    /// The model to write, a JSON file
    #[arg(short = 'o', long = "out", value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// The steps to write, a CSV file; if there are many, only every 2nd, 4th, 8th … one
    #[arg(long, value_name = "FILE.csv")]
    pub trace: Option<PathBuf>,
    /// A plot of the steps to write, an SVG file
    #[arg(long, value_name = "FILE.svg")]
    pub plot: Option<PathBuf>,
}

/// The result of a solver.
pub struct Solution<'a, S> {
    /// The examples that were solved.
    pub data: &'a DataFlags,
    pub model: &'a mut Model,
    /// The result, which is stored in the model and printed by `--json`, together with the index base.
    pub solved: &'a S,
}

/// Training examples and, if given, test examples with the same number of features.
pub struct Examples {
    pub rows: LabelledRows,
    pub test: Option<LabelledRows>,
    /// Where the indices of both files start.
    pub index_base: IndexBase,
}

impl DataFlags {
    /// Reads the examples.
    pub fn read(&self) -> Result<Examples, Failure> {
        let text = read(&self.data)?;
        let test = self.test.as_deref().map(read).transpose()?;
        let found = || IndexBase::of([&text].into_iter().chain(&test));
        let index_base = self.index_base.said().unwrap_or_else(found);
        let rows = into_rows(text, &self.data, index_base, self.features)?;
        if rows.features() == 0 {
            return Err(Failure::input(format!(
                "the examples of {} have no features",
                name(&self.data)
            )));
        }
        check_weights(rows.features() + 1)?;
        let test = match (self.test.as_deref(), test) {
            (Some(path), Some(text)) => Some(rows_for(text, path, index_base, rows.features())?),
            _ => None,
        };
        Ok(Examples {
            rows,
            test,
            index_base,
        })
    }

    /// The name of the examples in a title.
    pub fn title(&self) -> String {
        let stem = self.data.file_stem().map(|s| s.to_string_lossy());
        match stem {
            Some(stem) if self.data != Path::new("-") => stem.into_owned(),
            _ => "standard input".to_owned(),
        }
    }
}

impl OutputFlags {
    /// Refuses outputs that cannot be written, or that would replace each other or an input, before
    /// the work begins.
    pub fn check(&self, data: &DataFlags) -> Result<(), Failure> {
        let mut met: BTreeSet<&Path> = BTreeSet::from([data.data.as_path()]);
        met.extend(data.test.as_deref());
        for path in [&self.model, &self.trace, &self.plot].into_iter().flatten() {
            if !met.insert(path) {
                return Err(Failure::input(format!(
                    "{} is named twice, but every output must be a separate file",
                    path.display()
                )));
            }
            check_writable(path)?;
        }
        Ok(())
    }

    /// Writes the requested files (model, trace, plot), and reports the result.
    ///
    /// - `csv`: the steps
    /// - `text`: the report for people
    pub fn finish(
        &self,
        context: &Context,
        solution: Solution<'_, impl Serialize>,
        csv: impl FnOnce() -> String,
        plot: impl FnOnce() -> LinePlot,
        text: impl FnOnce() -> String,
    ) -> Result<Report, Failure> {
        // The state of an interrupted solver is not a solution.
        context.check()?;
        let Solution {
            data,
            model,
            solved,
        } = solution;
        model.result = serde_json::to_value(solved).map_err(Failure::run)?;
        model.result["index_base"] =
            serde_json::to_value(model.index_base).map_err(Failure::run)?;
        if let Some(path) = &self.model {
            model.write(path)?;
        }
        if let Some(path) = &self.trace {
            write_bytes_atomically(path, csv().as_bytes())?;
        }
        if let Some(path) = &self.plot {
            let svg = line_plot(&plot(), Theme::Standalone).map_err(Failure::run)?;
            write_svg(path, &svg)?;
        }
        context.report(&model.result, || {
            let base = base_line(model.index_base, data.index_base.said().is_some());
            text() + &base + &self.written()
        })
    }

    /// The files that were written, for the last line of the text.
    fn written(&self) -> String {
        let parts = [
            ("model", &self.model),
            ("steps", &self.trace),
            ("plot", &self.plot),
        ];
        let written: Vec<String> = parts
            .iter()
            .filter_map(|(what, path)| Some(format!("{what} in {}", path.as_ref()?.display())))
            .collect();
        match written.is_empty() {
            true => String::new(),
            false => written.join(", ") + "\n",
        }
    }
}

/// The name of an input in a message.
fn name(path: &Path) -> String {
    match path == Path::new("-") {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// The text of a file or of standard input.
pub fn read(path: &Path) -> Result<LibsvmText, Failure> {
    if path != Path::new("-") {
        return LibsvmText::read(path).map_err(Failure::input);
    }
    let mut text = String::new();
    stdin()
        .read_to_string(&mut text)
        .map_err(|e| Failure::input_because("cannot read standard input", e))?;
    LibsvmText::parse(&text).map_err(|e| Failure::input_because(name(path), e))
}

fn into_rows(
    text: LibsvmText,
    path: &Path,
    base: IndexBase,
    features: Option<usize>,
) -> Result<LabelledRows, Failure> {
    text.into_rows(base, features)
        .map_err(|e| Failure::input_because(name(path), e))
}

/// Examples for a model with `features` features: examples may have fewer features, but not more.
pub fn rows_for(
    text: LibsvmText,
    path: &Path,
    base: IndexBase,
    features: usize,
) -> Result<LabelledRows, Failure> {
    let found = text.features(base);
    match found <= features {
        true => into_rows(text, path, base, Some(features)),
        false => Err(Failure::input(format!(
            "{} has a feature {}, but the model has {features} features, with indices from {base}",
            name(path),
            found - 1 + base.first()
        ))),
    }
}

/// Refuses more weights than fit in memory.
pub fn check_weights(count: usize) -> Result<(), Failure> {
    match count <= MOST_WEIGHTS {
        true => Ok(()),
        false => Err(Failure::input(format!(
            "the problem has {count} weights, but at most {MOST_WEIGHTS} fit in memory: is a \
             feature index wrong?"
        ))),
    }
}

/// Labels of two classes, −1 and 1; with `positive`, this label is 1 and all others are −1.
pub fn two_classes(rows: LabelledRows, positive: Option<f64>) -> Result<LabelledRows, Failure> {
    let labels = rows.labels();
    match positive {
        None => match labels.iter().position(|&y| y != 1.0 && y != -1.0) {
            None => Ok(rows),
            Some(i) => Err(Failure::input(format!(
                "example {} has the label {}, but it must be -1 or 1: --positive LABEL makes one \
                 label 1 and all others -1",
                i + 1,
                labels[i]
            ))),
        },
        Some(label) if !labels.contains(&label) => Err(Failure::input(format!(
            "no example has the label {label} given by --positive"
        ))),
        Some(label) => Ok(rows.map_labels(|y| if y == label { 1.0 } else { -1.0 })),
    }
}
