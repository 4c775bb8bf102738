//! `nabla train model`: a classifier on a real data set.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use nabla::base::write_bytes_atomically;
use nabla::claims::plot::{LinePlot, Series, Theme, line_plot, write_svg};
use nabla::private::private_training::PrivacyReport;
use nabla::share::data_parallel::{SharingReport, train};
use nabla::train::data_set::TableReading;
use nabla::train::experiment::{Experiment, Outcome, files};
use nabla::train::history::{EpochRecord, Timing};
use nabla::train::optimizer::Method;
use nabla::train::trainer::Progress;
use serde::Serialize;

use crate::dashboard::Dashboard;
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::experiment_flags::{ExperimentFlags, method, optimizers, told_reading};
use crate::jobs::privacy_flags::{self, PrivacyFlags};
use crate::jobs::sharing_flags::{self, SharingFlags};
use crate::jobs::training_recipe::{Sources, TrainingRecipe};
use crate::loss_plot::averaged;
use crate::recipe_file::begin_folder;
use nabla::base::words::duration;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The folder of the training, where an interrupted one continues; without DIR, nothing is written
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// An experiment (TOML); values that it leaves out default to those that `--print-config` shows
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: ExperimentFlags,
    // The help lists the names of the registry.
    #[arg(long, value_name = "NAME", value_parser = method, help = optimizers())]
    optimizer: Option<Method>,
    /// Highest learning rate [default: the optimizer's customary one]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Weight decay of matrices and kernels
    #[arg(long, value_name = "DECAY")]
    weight_decay: Option<f64>,
    #[command(flatten)]
    device: DeviceFlag,
    /// Train privately: the weights tell almost nothing about any one example
    #[arg(long, help_heading = "Private training")]
    private: bool,
    #[command(flatten)]
    privacy: PrivacyFlags,
    #[command(flatten)]
    sharing: SharingFlags,
    /// Print the complete experiment and exit
    #[arg(long)]
    print_config: bool,
}

impl Arguments {
    /// The experiment: the defaults, overridden by the file, overridden by the flags.
    fn recipe(&self) -> Result<(Experiment, Sources), Failure> {
        let (mut experiment, mut sources) = TrainingRecipe::read(self.config.as_deref())?.parts();
        self.flags.apply(&mut experiment)?;
        let optimizer = &mut experiment.training.optimizer;
        if let Some(method) = &self.optimizer {
            *optimizer = optimizer.clone().switched_to(method.clone());
        }
        optimizer.learning_rate = self.learning_rate.or(optimizer.learning_rate);
        optimizer.weight_decay = self.weight_decay.unwrap_or(optimizer.weight_decay);
        sources.privacy = self.privacy.apply(sources.privacy, self.private)?;
        if sources.privacy.is_some() {
            privacy_flags::without_scaling(&mut experiment);
        }
        sources.sharing = self.sharing.apply(sources.sharing)?;
        if sources.privacy.is_some() && sources.sharing.is_some() {
            return Err(Failure::input(
                "a private training has one worker: leave out --private or --workers",
            ));
        }
        Ok((experiment, sources))
    }
}

#[derive(Serialize)]
struct Trained<'a> {
    folder: Option<&'a PathBuf>,
    /// How the table was read.
    reading: &'a TableReading,
    model: String,
    optimizer: &'a str,
    learning_rate: f64,
    parameters: usize,
    state_bytes: u64,
    steps: usize,
    epochs: &'a [EpochRecord],
    seconds: Timing,
    #[serde(skip_serializing_if = "Option::is_none")]
    privacy: &'a Option<PrivacyReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sharing: &'a Option<SharingReport>,
}

/// The file that says what a private training has revealed.
const PRIVACY: &str = "privacy.json";

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        run(self, context)
    }
}

fn run(arguments: &Arguments, context: &Context) -> Result<Report, Failure> {
    let (experiment, sources) = arguments.recipe()?;
    let text = |experiment: &Experiment| TrainingRecipe::new(experiment, &sources).text();
    if arguments.print_config {
        return Ok(Report::of_text(text(&experiment)?));
    }
    let device = arguments.device.open()?;
    let data = experiment.open()?;
    let reading = told_reading(&experiment.data, &data.reading);
    let experiment = experiment.settled(&data);
    let text = text(&experiment)?;
    let checkpoint = arguments.out.as_ref().map(|f| f.join(files::CHECKPOINT));
    let mut dashboard = None;
    let mut failure = None;
    let mut observe = |progress: Progress<'_>| {
        // A wrong experiment has been refused by now, so no folder is created for it.
        if dashboard.is_none()
            && let Some(folder) = &arguments.out
            && let Err(error) = begin_folder(folder, "experiment.toml", &text)
        {
            failure = Some(error);
            return ControlFlow::Break(());
        }
        let epochs = experiment.training.epochs;
        dashboard
            .get_or_insert_with(|| Dashboard::new(epochs))
            .step(&progress);
        ControlFlow::Continue(())
    };
    let checkpoint = checkpoint.as_deref();
    let observe = &mut observe;
    let outcome = match (&sources.privacy, &sources.sharing) {
        (Some(privacy), _) => experiment.run_with(privacy, &data, &device, checkpoint, observe),
        (None, Some(sharing)) => train(&experiment, sharing, &data, &device, checkpoint, observe),
        (None, None) => experiment.run_on(&data, &device, checkpoint, observe),
    };
    if let Some(dashboard) = &dashboard {
        dashboard.finish();
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let outcome = outcome?;
    let revealed: Option<PrivacyReport> = match &sources.privacy {
        Some(_) => serde_json::from_value(outcome.told.clone()).map_err(Failure::run)?,
        None => None,
    };
    let shared: Option<SharingReport> = match &sources.sharing {
        Some(_) => serde_json::from_value(outcome.told.clone()).map_err(Failure::run)?,
        None => None,
    };
    if let Some(folder) = &arguments.out {
        write_files(folder, &experiment, &outcome)?;
        if let Some(revealed) = &revealed {
            let mut told = serde_json::to_value(revealed).map_err(Failure::run)?;
            // Counted without noise: it is told here, but not in a file that is passed on.
            if let Some(told) = told.as_object_mut() {
                told.remove("clipped");
            }
            let mut json = serde_json::to_vec_pretty(&told).map_err(Failure::run)?;
            json.push(b'\n');
            write_bytes_atomically(&folder.join(PRIVACY), &json)?;
        }
    }
    let optimizer = &experiment.training.optimizer;
    let history = &outcome.history;
    let trained = Trained {
        folder: arguments.out.as_ref(),
        reading: &data.reading,
        model: experiment.model.name(),
        optimizer: optimizer.name(),
        learning_rate: optimizer.learning_rate(),
        parameters: outcome.parameters,
        state_bytes: outcome.state_bytes,
        steps: history.steps.len(),
        epochs: &history.epochs,
        seconds: history.timing,
        privacy: &revealed,
        sharing: &shared,
    };
    context.report(&trained, || {
        let last = history.last().map_or(f64::NAN, |e| 100.0 * e.test_accuracy);
        let steps = trained.steps.max(1) as f64;
        let mut told = format!(
            "{} with {} parameters on {}, {} at learning rate {}: {last:.2} % right after {} epochs\n\
             {} in steps ({:.2} ms per step, of which {} {:.2} ms), {} in evaluation; optimizer state {} KiB\n",
            trained.model,
            trained.parameters,
            experiment.data.source,
            trained.optimizer,
            trained.learning_rate,
            trained.epochs.len(),
            duration(history.timing.steps),
            1e3 * history.timing.steps / steps,
            trained.optimizer,
            1e3 * history.timing.optimizer / steps,
            duration(history.timing.evaluation),
            trained.state_bytes.div_ceil(1024),
        );
        told += &reading;
        if let Some(revealed) = &revealed {
            told += &privacy_flags::told(revealed, arguments.out.is_some());
        }
        if let Some(shared) = &shared {
            told += &sharing_flags::told(shared);
        }
        if let Some(folder) = &arguments.out {
            let privacy = if revealed.is_some() { "privacy.json, " } else { "" };
            told += &format!(
                "model.safetensors, classifier.json, experiment.toml, {privacy}history.json, epochs.csv, steps.csv, \
                 loss.svg and accuracy.svg in {}\n",
                folder.display()
            );
        }
        told
    })
}

fn write_files(
    folder: &std::path::Path,
    experiment: &Experiment,
    outcome: &Outcome,
) -> Result<(), Failure> {
    let history = &outcome.history;
    outcome.save(folder)?;
    let title = format!(
        "{} on {}, {}",
        experiment.model.name(),
        experiment.data.source,
        experiment.training.optimizer.name()
    );
    let losses: Vec<f32> = history.steps.iter().map(|s| s.loss).collect();
    let (window, points) = averaged(&losses);
    let per_epoch = history.steps.len() as f64 / history.epochs.len().max(1) as f64;
    let test = history
        .epochs
        .iter()
        .map(|e| [e.epoch as f64 * per_epoch, e.test_loss]);
    let training = match window {
        1 => "training".to_owned(),
        steps => format!("training, mean of {steps} steps"),
    };
    let loss = LinePlot::new(&title, "step", "cross-entropy")
        .log_y()
        .with_series(Series::new(training, points))
        .with_series(Series::new("test", test));
    let accuracy = |value: fn(&EpochRecord) -> f64| {
        let epochs = history.epochs.iter();
        epochs.map(move |e| [e.epoch as f64, 100.0 * value(e)])
    };
    let accuracy = LinePlot::new(&title, "epoch", "right answers, %")
        .with_series(Series::new("training", accuracy(|e| e.training_accuracy)))
        .with_series(Series::new("test", accuracy(|e| e.test_accuracy)));
    for (name, plot) in [("loss.svg", loss), ("accuracy.svg", accuracy)] {
        let svg = line_plot(&plot, Theme::Standalone).map_err(Failure::run)?;
        write_svg(&folder.join(name), &svg)?;
    }
    Ok(())
}
