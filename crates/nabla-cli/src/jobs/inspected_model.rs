//! The model of a training and the examples that it is inspected on, for all jobs of `nabla inspect`.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;
use nabla::train::classification::TrainingConfig;
use nabla::train::data_set::Standardization;
use nabla::train::examples::{Examples, InputShape};
use nabla::train::experiment::Experiment;
use nabla::train::gradient_source::TrainingExamples;
use nabla::train::model_config::AnyClassifier;
use nabla::train::trained_classifier::{ClassifierConfig, load_model};

use crate::errors::Failure;
use crate::jobs::fitting::misfit;
use crate::jobs::training_recipe::{Sources, TrainingRecipe};
use crate::seeds::SeedFlag;

/// Which model and which examples.
#[derive(Args)]
pub struct InspectedFlags {
    /// The folder of `nabla train model`
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Other data than those of the training: `digits` or `fashion` (built in), a folder, or a CSV or LIBSVM file
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// Take test examples instead of training examples
    #[arg(long)]
    test_set: bool,
    /// The number of examples, drawn at random; all if there are fewer
    #[arg(long, value_name = "N", default_value_t = 1000)]
    examples: usize,
    #[command(flatten)]
    pub seed: SeedFlag,
}

/// A model with the examples.
pub struct Inspected<'a> {
    pub model: AnyClassifier,
    pub config: &'a ClassifierConfig,
    pub examples: TrainingExamples<'a>,
    /// The classes of all of them.
    pub labels: &'a [u32],
    /// Those that are drawn.
    pub indices: Vec<usize>,
    /// How the model was trained.
    pub training: &'a TrainingConfig,
}

/// The name of the experiment's file in a folder of a training.
const EXPERIMENT: &str = "experiment.toml";

impl InspectedFlags {
    /// How the model was trained, as far as its folder says, on the data that are named.
    ///
    /// # Errors
    /// If neither the folder nor the flags say on which data.
    pub fn training(&self) -> Result<(Experiment, Sources), Failure> {
        let path = self.model.join(EXPERIMENT);
        let recipe = match (&self.data, path.exists()) {
            (_, true) => TrainingRecipe::read(Some(&path))?,
            (Some(_), false) => TrainingRecipe::default(),
            (None, false) if self.model.is_dir() => {
                return Err(Failure::input(format!(
                    "{} has no {EXPERIMENT}, which says what the model was trained on: name the data by --data",
                    self.model.display()
                )));
            }
            (None, false) => {
                return Err(Failure::input(format!(
                    "there is no folder {}: name one of `nabla train model --out`",
                    self.model.display()
                )));
            }
        };
        let (mut experiment, sources) = recipe.parts();
        if let Some(source) = &self.data {
            experiment.data.switch_to(source);
        }
        Ok((experiment, sources))
    }

    /// Whether other examples than the training's are asked for.
    pub fn is_other_data(&self) -> bool {
        self.data.is_some() || self.test_set
    }

    /// Loads the model and the data, and hands them to `on`.
    ///
    /// # Errors
    /// If a file is missing or damaged, or the data are for another model.
    pub fn inspect<T>(
        &self,
        device: &Device,
        on: impl FnOnce(Inspected<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if self.examples == 0 {
            return Err(Failure::input(
                "the number of examples is 0, but it must be at least 1",
            ));
        }
        let (mut experiment, _) = self.training()?;
        let training = experiment.training;
        // The model says how its examples are scaled.
        experiment.data.standardization = Standardization::None;
        let data = experiment.data.open().map_err(Failure::input)?;
        let device = device.clone().autodiff();
        let (config, model) = load_model(&self.model, &device).map_err(Failure::input)?;
        if let Some(wrong) = misfit(&self.model, &config, &data.name, &data) {
            return Err(Failure::input(wrong));
        }
        let mut chosen = match self.test_set {
            true => data.test.clone(),
            false => data.training.clone(),
        };
        let shape = config.shape;
        config.scaling.apply(&mut chosen.features, shape);
        let indices = drawn(self, &training, &chosen, shape)?;
        let examples = training.examples(&chosen, shape).map_err(Failure::input)?;
        on(Inspected {
            model,
            config: &config,
            examples: examples.without_changes(),
            labels: &chosen.labels,
            indices,
            training: &training,
        })
    }

    /// What the examples are, for people.
    pub fn described(&self, examples: usize) -> String {
        let part = if self.test_set { "test" } else { "training" };
        let of = self
            .data
            .as_ref()
            .map_or(String::new(), |source| format!(" of {source}"));
        format!("{examples} {part} examples{of}")
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.model
    }
}

/// The examples that are looked at: one batch of a training with this seed.
///
/// # Errors
/// If a value of the training is out of range.
pub fn drawn(
    flags: &InspectedFlags,
    training: &TrainingConfig,
    examples: &Examples,
    shape: InputShape,
) -> Result<Vec<usize>, Failure> {
    let drawing = TrainingConfig {
        batch: flags.examples.min(examples.len()),
        seed: flags.seed.value(),
        ..training.clone()
    };
    let mut drawing = drawing.examples(examples, shape).map_err(Failure::input)?;
    Ok(drawing.of_step(0))
}
