//! `nabla train model`: a classifier on a real data set.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use nabla::base::write_bytes_atomically;
use nabla::claims::plot::{LinePlot, Series, Theme, line_plot, write_svg};
use nabla::kernels::threads::compute_here;
use nabla::private::private_training::PrivacyReport;
use nabla::share::coded_training::CodedReport;
use nabla::share::data_parallel::SharingReport;
use nabla::train::data_set::TableReading;
use nabla::train::experiment::{Experiment, Outcome, files};
use nabla::train::history::{EpochRecord, Timing};
use nabla::train::optimizer::Method;
use nabla::train::trained_classifier::TrainedClassifier;
use nabla::train::trainer::Progress;
use nabla::train::validation::{Measured, NamedEpoch};
use serde::Serialize;

use crate::dashboard::Dashboard;
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::domain_flags::{DomainFlags, DomainReport};
use crate::jobs::experiment_flags::{ExperimentFlags, method, optimizers, told_reading};
use crate::jobs::privacy_flags::{self, PrivacyFlags};
use crate::jobs::quantization_flags::{QuantizationFlags, QuantizationReport};
use crate::jobs::ranks::Ranks;
use crate::jobs::robust_flags::RobustFlags;
use crate::jobs::sharing_flags::{self, Sharing, SharingFlags};
use crate::jobs::training_recipe::{Sources, TrainingRecipe};
use crate::loss_plot::averaged;
use crate::output::json_text;
use crate::recipe_file::{FolderLock, begin_folder, create_folder};
use nabla::base::words::{count, duration};

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
    /// Start with the weights of a trained model: a folder of `nabla train model` with the same model and examples of
    /// the same shape
    #[arg(long, value_name = "DIR")]
    start: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceFlag,
    #[command(flatten)]
    quantization: QuantizationFlags,
    /// Train privately: the weights tell almost nothing about any one example
    #[arg(long, help_heading = "Private training")]
    private: bool,
    #[command(flatten)]
    privacy: PrivacyFlags,
    #[command(flatten)]
    sharing: SharingFlags,
    #[command(flatten)]
    robust: RobustFlags,
    #[command(flatten)]
    domains: DomainFlags,
    /// Print the complete experiment and exit
    #[arg(long)]
    print_config: bool,
}

impl Arguments {
    /// The experiment: the defaults, overridden by the file, overridden by the flags.
    ///
    /// - `processes`: those that `mpirun` has started
    fn recipe(&self, processes: Option<usize>) -> Result<(Experiment, Sources), Failure> {
        let (mut experiment, mut sources) = TrainingRecipe::read(self.config.as_deref())?.parts();
        self.flags.apply(&mut experiment)?;
        let optimizer = &mut experiment.training.optimizer;
        if let Some(method) = &self.optimizer {
            *optimizer = optimizer.clone().switched_to(method.clone());
        }
        optimizer.learning_rate = self.learning_rate.or(optimizer.learning_rate);
        optimizer.weight_decay = self.weight_decay.unwrap_or(optimizer.weight_decay);
        if self.start.is_some() {
            experiment.start.clone_from(&self.start);
        }
        experiment.quantization = self.quantization.apply(experiment.quantization)?;
        sources.privacy = self.privacy.apply(sources.privacy, self.private)?;
        if sources.privacy.is_some() {
            privacy_flags::without_scaling(&mut experiment);
        }
        sources.sharing = self.sharing.apply(sources.sharing, processes)?;
        if sources.privacy.is_some() && sources.sharing.is_some() {
            return Err(Failure::input(
                "a private training has one worker: leave out --private or --workers",
            ));
        }
        sources.robust = self.robust.apply(sources.robust)?;
        if sources.robust.is_some() && (sources.privacy.is_some() || sources.sharing.is_some()) {
            return Err(Failure::input(
                "robust gradients are those of one worker that keeps no secrets: leave out --robust-gradient, or --private and --workers",
            ));
        }
        sources.domains = self.domains.apply(sources.domains)?;
        let other =
            sources.privacy.is_some() || sources.sharing.is_some() || sources.robust.is_some();
        if sources.domains.is_some() && other {
            return Err(Failure::input(
                "an objective of domains makes the gradients itself: leave out --domains, or --private, --workers and \
                 --robust-gradient",
            ));
        }
        if experiment.quantization.is_some() && other {
            return Err(Failure::input(
                "a quantised training has one worker, whose gradients are those of whole batches: leave out --quantize, or \
                 --private, --workers and --robust-gradient",
            ));
        }
        Ok((experiment, sources))
    }
}

#[derive(Serialize)]
struct Trained<'a> {
    folder: Option<PathBuf>,
    /// How the table was read.
    reading: &'a TableReading,
    model: String,
    optimizer: &'a str,
    learning_rate: f64,
    parameters: usize,
    state_bytes: u64,
    steps: usize,
    epochs: Vec<NamedEpoch>,
    /// That of the weights, if they are not those of the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept_epoch: Option<usize>,
    seconds: Timing,
    #[serde(skip_serializing_if = "Option::is_none")]
    privacy: Option<&'a PrivacyReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sharing: Option<&'a SharingReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coding: Option<&'a CodedReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domains: Option<&'a DomainReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantization: Option<&'a QuantizationReport>,
}

/// Several models that were trained in turn.
#[derive(Serialize)]
struct TrainedInTurn<'a> {
    models: &'a [Trained<'a>],
    coding: Option<&'a CodedReport>,
}

/// The file that says what a private training has revealed.
const PRIVACY: &str = "privacy.json";

/// The folders of the models: that of the training, or in it one for each of several.
struct Folders<'a> {
    root: Option<&'a Path>,
    models: usize,
}

impl Folders<'_> {
    fn of(&self, model: usize) -> Option<PathBuf> {
        let root = self.root?;
        Some(match self.models {
            1 => root.to_owned(),
            _ => root.join(format!("model-{model}")),
        })
    }

    fn checkpoint(&self, model: usize) -> Option<PathBuf> {
        self.of(model).map(|folder| folder.join(files::CHECKPOINT))
    }
}

/// What happens after every step.
struct Watch<'a> {
    folders: &'a Folders<'a>,
    /// The experiment's file.
    text: &'a str,
    epochs: usize,
    measured: Measured,
    dashboard: Option<Dashboard>,
    /// Of the folder.
    lock: FolderLock,
    /// By model, whether its folder is there.
    begun: Vec<bool>,
    failure: Option<Failure>,
}

impl Watch<'_> {
    fn begin(&mut self, model: usize) -> Result<(), Failure> {
        if let Some(root) = self.folders.root
            && !std::mem::replace(&mut self.begun[model], true)
        {
            begin_folder(&mut self.lock, root, "experiment.toml", self.text)?;
            self.folders
                .of(model)
                .map_or(Ok(()), |f| create_folder(&f))?;
        }
        Ok(())
    }

    /// After a step of a model, of which the first is shown.
    fn step(&mut self, model: usize, progress: &Progress<'_>) -> ControlFlow<()> {
        // A wrong experiment has been refused by now, so no folder is created for it.
        if let Err(error) = self.begin(model) {
            self.failure = Some(error);
            return ControlFlow::Break(());
        }
        if model == 0 {
            let (epochs, measured) = (self.epochs, self.measured);
            let dashboard = self
                .dashboard
                .get_or_insert_with(|| Dashboard::new(epochs, measured));
            dashboard.step(progress);
        }
        ControlFlow::Continue(())
    }
}

impl Job for Arguments {
    const MAY_WAIT: bool = true;

    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let (ranks, session) = Ranks::start(self.sharing.communication())?;
        session.ended(run(self, context, ranks))
    }
}

fn run(arguments: &Arguments, context: &Context, mut ranks: Ranks) -> Result<Report, Failure> {
    let is_first = ranks.is_first();
    let (experiment, sources) = arguments.recipe(ranks.size())?;
    let text = |experiment: &Experiment| TrainingRecipe::new(experiment, &sources).text();
    if arguments.print_config {
        let text = if is_first {
            text(&experiment)?
        } else {
            String::new()
        };
        return Ok(Report::of_text(text));
    }
    if !sources.sharing.is_some() {
        compute_here();
    }
    let device = arguments.device.open()?;
    let open = match &sources.domains {
        Some(domains) => {
            experiment.training.validate().map_err(Failure::input)?;
            Some(domains.open(&experiment.data).map_err(Failure::input)?)
        }
        None => None,
    };
    let own;
    let data = match &open {
        Some(open) => &open.data,
        None => {
            own = experiment.open()?;
            &own
        }
    };
    let reading = told_reading(&experiment.data, &data.reading);
    let experiment = experiment.settled(data);
    let text = text(&experiment)?;
    ranks.agree(&text, data)?;
    let models = match &sources.sharing.coded {
        Some(coding) => coding.models_for(&*coding.scheme().map_err(Failure::input)?),
        None => 1,
    };
    let folders = Folders {
        root: arguments.out.as_deref(),
        models,
    };
    // Only the first process reads and writes there.
    for folder in (0..models)
        .filter(|_| is_first)
        .filter_map(|model| folders.of(model))
    {
        TrainedClassifier::check(&folder).map_err(Failure::input)?;
    }
    let mut watch = Watch {
        folders: &folders,
        text: &text,
        epochs: experiment.training.epochs,
        measured: match &sources.domains {
            Some(_) => Measured::Validation,
            None => Measured::Test,
        },
        dashboard: None,
        lock: match folders.root {
            Some(root) if is_first => FolderLock::of(root)?,
            _ => FolderLock::default(),
        },
        begun: vec![false; models],
        failure: None,
    };
    let checkpoint = folders.checkpoint(0);
    let checkpoint = checkpoint.as_deref();
    let mut coded = None;
    let observe = &mut |progress: Progress<'_>| watch.step(0, &progress);
    let outcomes = match (&sources.privacy, &sources.sharing) {
        (Some(privacy), _) => experiment
            .run_with(privacy, data, &device, checkpoint, observe)
            .map(|outcome| vec![outcome]),
        (
            None,
            Sharing {
                coded: Some(coding),
                ..
            },
        ) => {
            let observe = &mut |model: usize, progress: Progress<'_>| watch.step(model, &progress);
            let checkpoints = |model| folders.checkpoint(model);
            let trained = ranks.code(&experiment, coding, data, &device, &checkpoints, observe);
            trained.map(|trained| {
                let (outcomes, report) = trained.unzip();
                coded = report;
                outcomes.unwrap_or_default()
            })
        }
        (
            None,
            Sharing {
                parts: Some(parts), ..
            },
        ) => ranks
            .share(&experiment, parts, data, &device, checkpoint, observe)
            .map(|outcome| vec![outcome]),
        (None, _) => match (&sources.robust, &open) {
            (_, Some(open)) => {
                experiment.run_with(&open.objective, data, &device, checkpoint, observe)
            }
            (Some(robust), _) => experiment.run_with(robust, data, &device, checkpoint, observe),
            (None, None) => experiment.run_on(data, &device, checkpoint, observe),
        }
        .map(|outcome| vec![outcome]),
    };
    if let Some(dashboard) = &watch.dashboard {
        dashboard.finish();
    }
    if let Some(failure) = watch.failure {
        return Err(failure);
    }
    let outcomes = outcomes?;
    if !is_first {
        return Ok(Report::of_text(String::new()));
    }
    let of_first = || outcomes.first().map(|outcome| outcome.told.clone());
    let told = of_first().unwrap_or_default();
    let revealed: Option<PrivacyReport> = match &sources.privacy {
        Some(_) => serde_json::from_value(told).map_err(Failure::run)?,
        None => None,
    };
    let told = of_first().unwrap_or_default();
    let shared: Option<SharingReport> = match &sources.sharing.parts {
        Some(_) => serde_json::from_value(told).map_err(Failure::run)?,
        None => None,
    };
    let in_domains = match (&sources.domains, &open, outcomes.first()) {
        (Some(config), Some(open), Some(outcome)) => Some(DomainReport::of(config, open, outcome)?),
        _ => None,
    };
    let quantized = match outcomes.first() {
        Some(outcome) => QuantizationReport::of(outcome, &data.test)?,
        None => None,
    };
    let source = match &sources.domains {
        Some(domains) => domains.source.clone(),
        None => experiment.data.source.clone(),
    };
    for (model, outcome) in outcomes.iter().enumerate() {
        if let Some(folder) = folders.of(model) {
            write_files(&folder, &experiment, &source, outcome)?;
        }
    }
    if let (Some(folder), Some(revealed)) = (&arguments.out, &revealed) {
        write_privacy(folder, revealed)?;
    }
    let optimizer = &experiment.training.optimizer;
    let trained = outcomes.iter().enumerate().map(|(model, outcome)| Trained {
        folder: folders.of(model),
        reading: &data.reading,
        model: experiment.model.name(),
        optimizer: optimizer.name(),
        learning_rate: optimizer.learning_rate(),
        parameters: outcome.parameters,
        state_bytes: outcome.state_bytes,
        steps: outcome.history.steps.len(),
        epochs: outcome.history.named_epochs(outcome.measured),
        kept_epoch: outcome.kept_epoch,
        seconds: outcome.history.timing,
        privacy: revealed.as_ref(),
        sharing: shared.as_ref(),
        coding: coded.as_ref().filter(|_| models == 1),
        domains: in_domains.as_ref(),
        quantization: quantized.as_ref(),
    });
    let trained: Vec<Trained<'_>> = trained.collect();
    let text = || {
        let mut told: String = trained
            .iter()
            .zip(&outcomes)
            .map(|(trained, outcome)| told_of(trained, outcome, &source))
            .collect();
        told += &reading;
        if let Some(revealed) = &revealed {
            told += &privacy_flags::told(revealed, arguments.out.is_some());
        }
        if let Some(found) = &in_domains {
            told += &found.told();
        }
        if let Some(quantized) = &quantized {
            told += &quantized.told();
        }
        if let Some(shared) = &shared {
            told += &sharing_flags::told(shared);
        }
        if let Some(coded) = &coded {
            told += &sharing_flags::told_coded(coded);
        }
        if let Some(folder) = &arguments.out {
            let more = match (&revealed, &quantized) {
                (Some(_), _) => "privacy.json, ",
                (None, Some(_)) => "integers.safetensors, ",
                (None, None) => "",
            };
            let (own, each) = match models {
                1 => ("experiment.toml, ", String::new()),
                _ => (
                    "",
                    format!(
                        " each of model-0 to model-{}, and experiment.toml",
                        models - 1
                    ),
                ),
            };
            told += &format!(
                "model.safetensors, classifier.json, {own}{more}history.json, epochs.csv, steps.csv, loss.svg and \
                 accuracy.svg in{each}{} {}\n",
                if models == 1 { "" } else { ", in" },
                folder.display()
            );
        }
        told
    };
    match trained.as_slice() {
        [one] => context.report(one, text),
        several => context.report(
            &TrainedInTurn {
                models: several,
                coding: coded.as_ref(),
            },
            text,
        ),
    }
}

/// A trained model, in lines.
fn told_of(trained: &Trained<'_>, outcome: &Outcome, source: &str) -> String {
    let epochs = &outcome.history.epochs;
    let accuracy =
        |epoch: Option<&EpochRecord>| epoch.map_or(f64::NAN, |epoch| 100.0 * epoch.test_accuracy);
    let after = count(epochs.len(), "epoch");
    let right = match (outcome.kept_epoch, outcome.measured) {
        (Some(kept), _) => {
            let best = epochs.iter().find(|epoch| epoch.epoch == kept);
            format!(
                "{:.2} % of the validation examples right after epoch {kept}, whose weights are kept, the best of {after}",
                accuracy(best)
            )
        }
        (None, Measured::Validation) => format!(
            "{:.2} % of the validation examples right after {after}",
            accuracy(epochs.last())
        ),
        (None, Measured::Test) => format!("{:.2} % right after {after}", accuracy(epochs.last())),
    };
    let (steps, seconds) = (trained.steps.max(1) as f64, trained.seconds);
    format!(
        "{} with {} parameters on {source}, {} at learning rate {}: {right}\n\
         {} in steps ({:.2} ms per step, of which {} {:.2} ms), {} in evaluation; optimizer state {} KiB\n",
        trained.model,
        trained.parameters,
        trained.optimizer,
        trained.learning_rate,
        duration(seconds.steps),
        1e3 * seconds.steps / steps,
        trained.optimizer,
        1e3 * seconds.optimizer / steps,
        duration(seconds.evaluation),
        trained.state_bytes.div_ceil(1024),
    )
}

fn write_privacy(folder: &Path, revealed: &PrivacyReport) -> Result<(), Failure> {
    let mut told = serde_json::to_value(revealed).map_err(Failure::run)?;
    // Counted without noise: it is told here, but not in a file that is passed on.
    if let Some(told) = told.as_object_mut() {
        told.remove("clipped");
    }
    let path = folder.join(PRIVACY);
    Ok(write_bytes_atomically(&path, json_text(&told)?.as_bytes())?)
}

/// - `source`: the name of the data
fn write_files(
    folder: &Path,
    experiment: &Experiment,
    source: &str,
    outcome: &Outcome,
) -> Result<(), Failure> {
    let history = &outcome.history;
    outcome.save(folder)?;
    let title = format!(
        "{} on {source}, {}",
        experiment.model.name(),
        experiment.training.optimizer.name()
    );
    let losses = history.losses();
    let part = outcome.measured.name();
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
        .with_series(Series::new(part, test));
    let accuracy = |value: fn(&EpochRecord) -> f64| {
        let epochs = history.epochs.iter();
        epochs.map(move |e| [e.epoch as f64, 100.0 * value(e)])
    };
    let accuracy = LinePlot::new(&title, "epoch", "right answers, %")
        .with_series(Series::new("training", accuracy(|e| e.training_accuracy)))
        .with_series(Series::new(part, accuracy(|e| e.test_accuracy)));
    for (name, plot) in [("loss.svg", loss), ("accuracy.svg", accuracy)] {
        let svg = line_plot(&plot, Theme::Standalone).map_err(Failure::run)?;
        write_svg(&folder.join(name), &svg)?;
    }
    Ok(())
}
