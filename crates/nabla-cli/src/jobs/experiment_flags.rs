//! The flags by which `nabla train model` and `nabla compare` choose data, model and training.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nabla::train::cnn::CnnConfig;
use nabla::train::data_set::{DataConfig, TableReading};
use nabla::train::experiment::{Experiment, ExperimentError, ModelConfig};
use nabla::train::logistic_regression::LogisticRegressionConfig;
use nabla::train::mlp::MlpConfig;
use nabla::train::optimizer::{Method, method_names};
use nabla::train::resnet::ResNetConfig;
use nabla::train::schedule::Decay;

use crate::errors::Failure;
use crate::jobs::index_base::{IndexBaseChoice, told as told_base};

/// What each flag says goes over what a file says.
#[derive(Args)]
pub struct ExperimentFlags {
    /// `digits` or `fashion` (built in), a folder (MNIST, Fashion-MNIST, CIFAR-10), a CSV or LIBSVM file
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// The test examples of a CSV or LIBSVM file; without them a share of it is held out
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// The column of a CSV file's labels: `first`, `last`, or its name or number
    #[arg(long, value_name = "COLUMN")]
    label_column: Option<String>,
    /// A column of a CSV file that is no feature, by its name or number; may be said several times
    #[arg(long, value_name = "COLUMN")]
    drop_column: Vec<String>,
    /// Take the row numbers of pandas and R, a first column without a name, as a feature
    #[arg(long)]
    keep_index: bool,
    /// From where the indices of features count in LIBSVM files
    #[arg(long, value_enum)]
    index_base: Option<IndexBaseChoice>,
    /// The model, with its default sizes
    #[arg(long, value_enum)]
    model: Option<ModelChoice>,
    /// Times that every example is met
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Examples of a step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Seed of everything random
    #[arg(long)]
    seed: Option<u64>,
    /// How the learning rate falls
    #[arg(long, value_enum)]
    schedule: Option<ScheduleChoice>,
    /// The share of the training in which the learning rate rises
    #[arg(long, value_name = "SHARE")]
    warmup: Option<f64>,
    /// Highest norm of the gradient, 0 for no limit
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModelChoice {
    /// One linear layer
    Logistic,
    /// Two hidden layers of 128 and 64 units
    Mlp,
    /// Two convolutions with batch normalisation
    Cnn,
    /// The ResNet-20 of CIFAR-10
    Resnet20,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleChoice {
    /// Not at all
    Constant,
    /// By 10 at 1/2 and 3/4
    Step,
    /// To 0 along a cosine
    Cosine,
    /// To 0 along a line
    Linear,
}

impl ExperimentFlags {
    /// Puts what the flags say over the experiment.
    pub fn apply(&self, experiment: &mut Experiment) {
        if let Some(data) = &self.data {
            experiment.data.switch_to(data);
        }
        let DataConfig {
            test,
            label_column,
            drop_columns,
            keep_index,
            index_base,
            ..
        } = &mut experiment.data;
        if self.test.is_some() {
            test.clone_from(&self.test);
        }
        if let Some(column) = &self.label_column {
            label_column.clone_from(column);
        }
        if !self.drop_column.is_empty() {
            drop_columns.clone_from(&self.drop_column);
        }
        *keep_index |= self.keep_index;
        if let Some(choice) = self.index_base {
            *index_base = choice.base();
        }
        if let Some(model) = self.model {
            experiment.model = match model {
                ModelChoice::Logistic => {
                    ModelConfig::LogisticRegression(LogisticRegressionConfig::default())
                }
                ModelChoice::Mlp => ModelConfig::Mlp(MlpConfig::default()),
                ModelChoice::Cnn => ModelConfig::Cnn(CnnConfig::default()),
                ModelChoice::Resnet20 => ModelConfig::ResNet(ResNetConfig::default()),
            };
        }
        let training = &mut experiment.training;
        training.epochs = self.epochs.unwrap_or(training.epochs);
        training.batch = self.batch.unwrap_or(training.batch);
        training.seed = self.seed.unwrap_or(training.seed);
        training.clip_norm = self.clip_norm.unwrap_or(training.clip_norm);
        training.schedule.warmup = self.warmup.unwrap_or(training.schedule.warmup);
        if let Some(schedule) = self.schedule {
            training.schedule.decay = match schedule {
                ScheduleChoice::Constant => Decay::Constant,
                ScheduleChoice::Step => Decay::steps(),
                ScheduleChoice::Cosine => Decay::Cosine { floor: 0.0 },
                ScheduleChoice::Linear => Decay::Linear { floor: 0.0 },
            };
        }
    }
}

/// What a table did not say by itself and how it was read, in a line each.
///
/// - `data`: what was asked for
pub fn told_reading(data: &DataConfig, reading: &TableReading) -> String {
    let mut told = String::new();
    if let Some(base) = reading.index_base {
        told += &told_base(base, data.index_base.is_some());
    }
    match &reading.row_names[..] {
        [] => {}
        names => {
            let what = match names {
                [name] if name.is_empty() => "the first column, which has no name,".to_owned(),
                [name] => format!("the first column, {name:?},"),
                many => format!("the first {} columns, which have no names,", many.len()),
            };
            told += &format!(
                "left out {what} as it only numbers or names the rows (--keep-index keeps it)\n"
            );
        }
    }
    told
}

/// The names of the optimizers, as the help of a flag has them.
pub fn optimizers() -> String {
    let mut names = method_names();
    match names.pop() {
        Some(last) => format!("{} or {last}", names.join(", ")),
        None => String::new(),
    }
}

/// The optimizer of a name, as a value of a flag.
pub fn method(name: &str) -> Result<Method, String> {
    name.parse::<Method>().map_err(|e| e.to_string())
}

impl From<ExperimentError> for Failure {
    fn from(error: ExperimentError) -> Self {
        match error.is_failure() {
            true => Self::run(error),
            false => Self::input(error),
        }
    }
}
