//! `nabla compare`: several optimizers on one task, with the same search of learning rates for each, or several
//! [objectives of domains](crate::jobs::compare_objectives).

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::base::write_bytes_atomically;
use nabla::claims::Role;
use nabla::claims::plot::{
    DotPanel, DotPlot, DotRow, LinePlot, Series, Theme, dot_plot, line_plot, write_svg,
};
use nabla::train::comparison::{
    Comparison, ComparisonError, ComparisonEvent, Contender, Phase, RunRecord, Spread, Standing,
    standings_csv,
};
use nabla::train::data_set::TableReading;
use nabla::train::optimizer::{Method, OptimizerConfig};
use serde::Serialize;

use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::compare_objectives::{self, Asked, ObjectiveFlags};
use crate::jobs::experiment_flags::{ExperimentFlags, method, told_reading};
use crate::output::table;
use crate::recipe_file::{ComparisonFolder, read_toml};

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The folder of the comparison, where an interrupted one continues; without DIR, nothing is written
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A comparison (TOML); values that it leaves out default to those that `--print-config` shows
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The optimizers, with their default options, for example `sgd,adamw,adamp`
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = method)]
    optimizers: Vec<Method>,
    #[command(flatten)]
    flags: ExperimentFlags,
    /// Weight decay of matrices and kernels, for all optimizers
    #[arg(long, value_name = "DECAY")]
    weight_decay: Option<f64>,
    /// How many learning rates to try for each optimizer (with 1, its customary one), or how many settings for each
    /// objective (the first is its defaults)
    #[arg(long, visible_alias = "tries", value_name = "N")]
    trials: Option<usize>,
    /// Seeds of the runs that are reported
    #[arg(long, value_name = "SEEDS", value_delimiter = ',')]
    seeds: Vec<u64>,
    #[command(flatten)]
    objectives: ObjectiveFlags,
    #[command(flatten)]
    device: DeviceFlag,
    /// Print the complete comparison and exit
    #[arg(long)]
    print_config: bool,
}

impl Arguments {
    /// The comparison: the defaults, overridden by the file, overridden by the flags.
    fn comparison(&self) -> Result<Comparison, Failure> {
        let mut comparison = match &self.config {
            Some(path) => read_toml(path, "a comparison")?,
            None => Comparison::default(),
        };
        self.flags.apply(&mut comparison.experiment)?;
        if !self.optimizers.is_empty() {
            let contender = |method: &Method| Contender {
                label: None,
                optimizer: OptimizerConfig::new(method.clone()),
            };
            comparison.contenders = self.optimizers.iter().map(contender).collect();
        }
        for contender in &mut comparison.contenders {
            let decay = &mut contender.optimizer.weight_decay;
            *decay = self.weight_decay.unwrap_or(*decay);
        }
        comparison.trials = self.trials.unwrap_or(comparison.trials);
        if !self.seeds.is_empty() {
            comparison.seeds.clone_from(&self.seeds);
        }
        Ok(comparison)
    }
}

impl From<ComparisonError> for Failure {
    fn from(error: ComparisonError) -> Self {
        Self::input(error)
    }
}

#[derive(Serialize)]
struct Compared<'a> {
    comparison: &'a Comparison,
    /// How the table was read.
    reading: &'a TableReading,
    standings: &'a [Standing],
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let config = self.config.as_deref();
        if !self.objectives.is_chosen(config)? {
            return run(self, context);
        }
        if !self.optimizers.is_empty() || self.weight_decay.is_some() {
            return Err(Failure::input(
                "objectives are compared with Adam: leave out --optimizers and --weight-decay, or --domains",
            ));
        }
        let asked = Asked {
            flags: &self.objectives,
            experiment: &self.flags,
            config,
            trials: self.trials,
            seeds: &self.seeds,
            out: self.out.as_deref(),
            device: &self.device,
            print_config: self.print_config,
        };
        compare_objectives::run(&asked, context)
    }
}

fn run(arguments: &Arguments, context: &Context) -> Result<Report, Failure> {
    let comparison = arguments.comparison()?;
    let text = toml::to_string_pretty(&comparison).map_err(Failure::run)?;
    if arguments.print_config {
        return Ok(Report::of_text(text));
    }
    let device = arguments.device.open()?;
    let progress = context.progress();
    let mut folder = ComparisonFolder::of(arguments.out.as_deref())?;
    let mut begun = false;
    let mut reading = TableReading::default();
    let outcome = comparison.run(&device, arguments.out.as_deref(), &mut |event| {
        match event {
            ComparisonEvent::Data(data) => reading.clone_from(&data.reading),
            ComparisonEvent::Begin { runs, .. } if !begun => {
                if folder.begin(&text).is_break() {
                    return ControlFlow::Break(());
                }
                begun = true;
                progress.begin("comparing optimizers", runs as u64);
            }
            ComparisonEvent::Begin { .. } | ComparisonEvent::Step(_) => {}
            ComparisonEvent::End(run) => {
                progress.note(&told(run));
                progress.advance(1);
            }
        }
        ControlFlow::Continue(())
    });
    progress.finish();
    folder.failure()?;
    let (standings, runs) = outcome?;
    let compared = Compared {
        comparison: &comparison,
        reading: &reading,
        standings: &standings,
    };
    if let Some(folder) = &arguments.out {
        let json = serde_json::to_vec_pretty(&compared).map_err(Failure::run)?;
        write_bytes_atomically(&folder.join("comparison.json"), &json)?;
        write_bytes_atomically(
            &folder.join("comparison.csv"),
            standings_csv(&standings).as_bytes(),
        )?;
        draw(folder, &comparison, &standings, &runs)?;
    }
    context.report(&compared, || {
        let mut text = table(&rows(&standings));
        if standings.iter().any(|s| s.at_edge) {
            text +=
                "* the lowest or highest learning rate that was tried: there may be a better one\n";
        }
        text += &told_reading(&comparison.experiment.data, &reading);
        if let Some(folder) = &arguments.out {
            text += &format!(
                "comparison.json, comparison.csv, comparison.svg, curves.svg and runs.json in {}\n",
                folder.display()
            );
        }
        text
    })
}

/// A finished run, on one line.
fn told(run: &RunRecord) -> String {
    let (what, part) = match run.phase {
        Phase::Search => ("search".to_owned(), "validation"),
        Phase::Final => (format!("seed {}", run.seed), "test"),
    };
    let result = match (&run.diverged, run.epochs.last()) {
        (Some(reason), _) => format!("diverged: {reason}"),
        (None, Some(last)) => format!(
            "{part} accuracy {:.2} %, loss {:.4}",
            100.0 * last.test_accuracy,
            last.test_loss
        ),
        (None, None) => "no epoch".to_owned(),
    };
    format!(
        "{}, {what}, learning rate {:.2e}: {result}",
        run.label, run.learning_rate
    )
}

fn spread(value: Option<Spread>, factor: f64, decimals: usize) -> String {
    match value {
        None => "diverged".to_owned(),
        Some(s) => format!(
            "{:.decimals$} ± {:.decimals$}",
            factor * s.mean,
            factor * s.deviation
        ),
    }
}

fn rows(standings: &[Standing]) -> Vec<Vec<String>> {
    let head = [
        "",
        "learning rate",
        "test accuracy, %",
        "test loss",
        "training loss",
        "ms/step",
        "optimizer alone",
        "state, KiB",
    ];
    let number = |value: Option<f64>, factor: f64| {
        value.map_or("-".to_owned(), |v| format!("{:.2}", factor * v))
    };
    let row = |s: &Standing| {
        let edge = if s.at_edge { "*" } else { "" };
        vec![
            s.label.clone(),
            s.learning_rate
                .map_or("-".to_owned(), |rate| format!("{rate:.2e}{edge}")),
            spread(s.test_accuracy, 100.0, 2),
            spread(s.test_loss, 1.0, 4),
            spread(s.training_loss, 1.0, 4),
            number(s.step_seconds, 1e3),
            number(s.optimizer_seconds, 1e3),
            s.state_bytes
                .map_or("-".to_owned(), |bytes| bytes.div_ceil(1024).to_string()),
        ]
    };
    std::iter::once(head.map(str::to_owned).to_vec())
        .chain(standings.iter().map(row))
        .collect()
}

fn draw(
    folder: &Path,
    comparison: &Comparison,
    standings: &[Standing],
    runs: &[RunRecord],
) -> Result<(), Failure> {
    let experiment = &comparison.experiment;
    let title = format!("{} on {}", experiment.model.name(), experiment.data.source);
    let panel = |title: &str, value: fn(&RunRecord) -> Option<f64>| DotPanel {
        title: title.to_owned(),
        rows: comparison
            .contenders
            .iter()
            .map(|contender| {
                let values: Vec<f64> = runs
                    .iter()
                    .filter(|r| r.phase == Phase::Final && r.label == contender.label())
                    .filter(|r| r.diverged.is_none())
                    .filter_map(value)
                    .collect();
                let role = match contender.optimizer.is_of_nabla() {
                    true => Role::Method,
                    false => Role::Baseline,
                };
                (!values.is_empty()).then(|| DotRow {
                    label: contender.label().to_owned(),
                    role,
                    values,
                })
            })
            .collect(),
    };
    let plot = DotPlot {
        title: title.clone(),
        x_label: "a dot per seed; mean and standard deviation".to_owned(),
        labels: comparison
            .contenders
            .iter()
            .map(|c| c.label().to_owned())
            .collect(),
        panels: vec![
            panel("test accuracy, %", |r| {
                r.epochs.last().map(|e| 100.0 * e.test_accuracy)
            }),
            panel("training loss", |r| {
                r.epochs.last().map(|e| e.training_loss)
            }),
            panel("ms per step", |r| Some(1e3 * r.step_seconds)),
        ],
    };
    let curves = standings.iter().fold(
        LinePlot::new(&title, "epoch", "training loss, mean over the seeds").log_y(),
        |plot, s| {
            let points = s.curve.iter().map(|e| [e.epoch as f64, e.training_loss]);
            plot.with_series(Series::new(&s.label, points))
        },
    );
    // If everything diverged, there is nothing to draw.
    if standings.iter().all(|s| s.curve.is_empty()) {
        return Ok(());
    }
    let svg = dot_plot(&plot, Theme::Standalone).map_err(Failure::run)?;
    write_svg(&folder.join("comparison.svg"), &svg)?;
    let svg = line_plot(&curves, Theme::Standalone).map_err(Failure::run)?;
    Ok(write_svg(&folder.join("curves.svg"), &svg)?)
}
