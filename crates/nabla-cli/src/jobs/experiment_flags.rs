//! The flags by which `nabla train model` and `nabla compare` choose data, model and training.

use std::path::PathBuf;

use clap::Args;
use nabla::data::IndexBase;
use nabla::train::data_set::{DataConfig, TableReading};
use nabla::train::experiment::{Experiment, ExperimentError, ModelConfig};
use nabla::train::normalization::Normalization;
use nabla::train::optimizer::{Method, method_names};
use nabla::train::schedule::Decay;

use crate::choice::choice;
use crate::errors::Failure;
use crate::jobs::index_base::{FoundOr, base_line};
use crate::seeds::RecipeSeedFlag;

/// Each flag overrides the file.
#[derive(Args)]
pub struct ExperimentFlags {
    /// `digits` or `fashion` (built in), a folder (MNIST, Fashion-MNIST, CIFAR-10), or a CSV or LIBSVM file
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// A CSV or LIBSVM file of test examples; without it, a share of the data is held out
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// The column of the labels in a CSV file: `first`, `last`, its name or its number
    #[arg(long, value_name = "COLUMN")]
    label_column: Option<String>,
    /// A column of a CSV file that is not a feature, by name or number; may be given several times
    #[arg(long, value_name = "COLUMN")]
    drop_column: Vec<String>,
    /// Use the row numbers of pandas and R (a first column without a name) as a feature
    #[arg(long)]
    keep_index: bool,
    /// Where the feature indices of LIBSVM files start
    #[arg(long, value_parser = choice::<FoundOr<IndexBase>>())]
    index_base: Option<FoundOr<IndexBase>>,
    /// The model, with its default sizes
    #[arg(long, value_parser = choice::<ModelConfig>())]
    model: Option<ModelConfig>,
    /// The normalisation of the cnn and the resnet
    #[arg(long, value_parser = choice::<Normalization>())]
    normalization: Option<Normalization>,
    /// Number of passes over the training examples
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Number of examples per step
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    #[command(flatten)]
    seed: RecipeSeedFlag,
    /// How the learning rate falls
    #[arg(long, value_parser = choice::<Decay>())]
    schedule: Option<Decay>,
    /// The share of the training over which the learning rate rises (0 to 1)
    #[arg(long, value_name = "SHARE")]
    warmup: Option<f64>,
    /// Maximum norm of the gradient; 0 for no limit
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f64>,
}

impl ExperimentFlags {
    /// Overrides the experiment by the given flags.
    ///
    /// # Errors
    /// If the model has no normalisation to choose.
    pub fn apply(&self, experiment: &mut Experiment) -> Result<(), Failure> {
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
            *index_base = choice.said();
        }
        self.apply_to_model(&mut experiment.model)?;
        let training = &mut experiment.training;
        training.epochs = self.epochs.unwrap_or(training.epochs);
        training.batch = self.batch.unwrap_or(training.batch);
        self.seed.apply(&mut training.seed);
        training.clip_norm = self.clip_norm.unwrap_or(training.clip_norm);
        training.schedule.warmup = self.warmup.unwrap_or(training.schedule.warmup);
        if let Some(decay) = &self.schedule {
            training.schedule.decay.clone_from(decay);
        }
        Ok(())
    }

    fn apply_to_model(&self, model: &mut ModelConfig) -> Result<(), Failure> {
        if let Some(chosen) = &self.model {
            model.clone_from(chosen);
        }
        if let Some(normalization) = self.normalization {
            let changed = model.clone().with_normalization(normalization);
            *model = changed.map_err(Failure::input)?;
        }
        Ok(())
    }

    /// Overrides what a comparison on domains has of an experiment.
    ///
    /// # Errors
    /// If a flag is given that such a comparison does not have, or the model has no normalisation to choose.
    pub fn apply_to_domains(
        &self,
        model: &mut ModelConfig,
        batch: &mut usize,
    ) -> Result<(), Failure> {
        let given = [
            ("--data", self.data.is_some()),
            ("--test", self.test.is_some()),
            ("--label-column", self.label_column.is_some()),
            ("--drop-column", !self.drop_column.is_empty()),
            ("--keep-index", self.keep_index),
            ("--index-base", self.index_base.is_some()),
            ("--epochs", self.epochs.is_some()),
            ("--seed", self.seed.is_given()),
            ("--schedule", self.schedule.is_some()),
            ("--warmup", self.warmup.is_some()),
            ("--clip-norm", self.clip_norm.is_some()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Failure::input(format!(
                "{flag} is not for a comparison of objectives: leave it out, or --domains"
            )));
        }
        *batch = self.batch.unwrap_or(*batch);
        self.apply_to_model(model)
    }
}

/// How a table was read where it is ambiguous, one line for each decision.
///
/// - `data`: the requested data
pub fn told_reading(data: &DataConfig, reading: &TableReading) -> String {
    let mut told = String::new();
    if let Some(base) = reading.index_base {
        told += &base_line(base, data.index_base.is_some());
    }
    match &reading.row_names[..] {
        [] => {}
        names => {
            let what = match names {
                [name] if name.is_empty() => "the first column, which has no name".to_owned(),
                [name] => format!("the first column, {name:?}"),
                many => format!("the first {} columns, which have no names", many.len()),
            };
            told += &format!(
                "left out {what}: only row numbers or row names (--keep-index keeps them)\n"
            );
        }
    }
    told
}

/// The names of the optimizers, for the help of a flag.
pub fn optimizers() -> String {
    let mut names = method_names();
    match names.pop() {
        Some(last) => format!("{} or {last}", names.join(", ")),
        None => String::new(),
    }
}

/// Parses the name of an optimizer.
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
