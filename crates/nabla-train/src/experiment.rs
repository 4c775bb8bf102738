//! Data, model and training in one description that can be run.
//!
//! ```toml
//! [data]
//! source = "digits"
//!
//! [model]
//! name = "cnn"
//! channels = [16, 32]
//!
//! [training]
//! epochs = 10
//!
//! [training.optimizer]
//! learning_rate = 2e-3
//! weight_decay = 1e-2
//! method = { name = "adamp", nesterov = true }
//! ```

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::store::{ModuleSnapshot, SafetensorsStore};
use burn::tensor::Device;
use nabla_base::{OutputError, range, write_bytes_atomically};
use nabla_grad::fingerprint::fingerprint;
use nabla_grad::flat::{FlatError, ParameterLayout};
use nabla_quantize::{IntegerNetwork, QuantizationConfig, QuantizedLayer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::calibration::{CalibrationError, calibrated};
use crate::checkpoint::CheckpointError;
use crate::classification::TrainingConfig;
use crate::classifier::{Classifier, ModelError};
use crate::data_set::{DataConfig, DataError, DataSet};
use crate::error::TrainingError;
use crate::examples::{Examples, InputShape};
use crate::gradient_source::{GradientSources, OfBatches, TrainingExamples};
use crate::history::History;
use crate::initialization::he_normal;
use crate::trained_classifier::{
    ClassifierConfig, QuantizedClassifier, TrainedClassifierError, integer_network, load_weights,
    read_folder,
};
use crate::trainer::{Observer, Progress};
use crate::validation::{Keep, Measured};

pub use crate::model_config::{AnyClassifier, ModelConfig};

/// The reason why an experiment does not run.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The first weights.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// The training.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The layers cannot be rounded.
    #[error(transparent)]
    Quantization(#[from] CalibrationError),
    /// The classifier to start from, or the trained one, cannot be read.
    #[error(transparent)]
    Trained(#[from] TrainedClassifierError),
    /// The classifier to start from is another one.
    #[error("the training cannot start from {}: its {what} is {found}, but {expected} is expected", folder.display())]
    OtherStart {
        /// Its folder.
        folder: PathBuf,
        /// Such as `model`.
        what: &'static str,
        /// Of the folder.
        found: String,
        /// Of the experiment.
        expected: String,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl ExperimentError {
    /// Whether the training diverged, rather than the input being wrong.
    pub fn is_divergence(&self) -> bool {
        matches!(self, Self::Training(error) if error.is_divergence())
    }

    /// Whether it failed while it ran, rather than the input being wrong.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Training(error) if error.is_failure())
    }
}

/// A training from the data to the weights. Values that a file leaves out have their defaults: the built-in
/// digits, an MLP, AdamW.
///
/// ```
/// use burn::tensor::Device;
/// use nabla_train::experiment::Experiment;
/// use std::ops::ControlFlow;
///
/// let experiment: Experiment = toml::from_str(
///     "training = { epochs = 2, optimizer = { method = { name = \"adabelief\" } } }",
/// )?;
/// let outcome = experiment.run(&Device::flex(), None, &mut |_| ControlFlow::Continue(()))?;
/// assert_eq!(outcome.history.epochs.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Experiment {
    /// The data.
    pub data: DataConfig,
    /// The model.
    pub model: ModelConfig,
    /// The training.
    pub training: TrainingConfig,
    /// The folder of a trained classifier of the same model, with whose weights the training starts. Default: drawn
    /// weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// How many bits the weights and inputs of layers have. Default: layers are not rounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizationConfig>,
}

/// The files that [`Outcome::save`] and the checkpoint write to the folder of a training.
pub mod files {
    /// The weights.
    pub const MODEL: &str = crate::network_folder::WEIGHTS_FILE;
    /// Classes, shape of the examples, scaling and model, with which [`TrainedClassifier`] reads the weights.
    ///
    /// [`TrainedClassifier`]: crate::trained_classifier::TrainedClassifier
    pub const CLASSIFIER: &str = crate::trained_classifier::CONFIG_FILE;
    /// The history, as JSON.
    pub const HISTORY: &str = "history.json";
    /// The epochs.
    pub const EPOCHS: &str = "epochs.csv";
    /// The steps.
    pub const STEPS: &str = "steps.csv";
    /// The weights of a quantised network as packed integers.
    pub const INTEGERS: &str = crate::trained_classifier::INTEGERS_FILE;
    /// The checkpoint, for a training that stores it in its folder.
    pub const CHECKPOINT: &str = "checkpoint.safetensors";
}

/// The result of a training.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether all steps are done.
    pub finished: bool,
    /// The number of trained parameters.
    pub parameters: usize,
    /// Bytes that the optimizer stores between two steps.
    pub state_bytes: u64,
    /// The history.
    pub history: History,
    /// The weights, with their names, as a file in the safetensors format.
    pub weights: Vec<u8>,
    /// What else a program needs to know to classify with them.
    pub classifier: ClassifierConfig,
    /// A quantised network as integers, which [`save`](Self::save) packs.
    pub integers: Option<IntegerNetwork<AnyClassifier>>,
    /// What the source of the gradients has to tell; null without one.
    pub told: Value,
    /// What the examples are by which the epochs were measured.
    pub measured: Measured,
    /// The epoch of the weights, from 1, if they are not those of the last step.
    pub kept_epoch: Option<usize>,
}

impl Outcome {
    /// Writes the weights, the history, its epochs and its steps to an existing folder, under the names in
    /// [`files`].
    ///
    /// # Errors
    /// If a file cannot be written; existing files stay intact.
    pub fn save(&self, folder: &Path) -> Result<(), ExperimentError> {
        let write = |name: &str, bytes: &[u8]| write_bytes_atomically(&folder.join(name), bytes);
        let failed =
            |e: serde_json::Error| TrainingError::from(CheckpointError::Encode(e.to_string()));
        write(files::MODEL, &self.weights)?;
        let mut json = serde_json::to_vec_pretty(&self.classifier).map_err(failed)?;
        json.push(b'\n');
        write(files::CLASSIFIER, &json)?;
        if let Some(integers) = &self.integers {
            let packed = integers.to_bytes().map_err(TrainedClassifierError::from)?;
            write(files::INTEGERS, &packed)?;
        }
        write(
            files::EPOCHS,
            self.history.epochs_csv(self.measured).as_bytes(),
        )?;
        write(files::STEPS, self.history.steps_csv().as_bytes())?;
        let json = self.history.json(self.measured).map_err(failed)?;
        write(files::HISTORY, &json)?;
        Ok(())
    }
}

impl Experiment {
    /// The same experiment with the properties detected in its data written out, so that its file reads other
    /// data in the same way.
    #[must_use]
    pub fn settled(&self, data: &DataSet) -> Self {
        let mut settled = self.clone();
        settled.data.index_base = data.reading.index_base;
        settled
    }

    /// Trains.
    ///
    /// - `device`: where to compute, without autodiff
    /// - `checkpoint`: a file to which the training is saved and from which, if it exists, the training
    ///   resumes
    /// - `observe`: is called after every step; if it breaks, a checkpoint is saved and the function returns
    ///
    /// # Errors
    /// If the data cannot be read, a value is out of range, the checkpoint belongs to another experiment, a
    /// file cannot be written, or the loss diverges.
    pub fn run(
        &self,
        device: &Device,
        checkpoint: Option<&Path>,
        observe: Observer<'_>,
    ) -> Result<Outcome, ExperimentError> {
        self.run_on(&self.open()?, device, checkpoint, observe)
    }

    /// Opens the data, after checking that the values of the training are in range.
    ///
    /// # Errors
    /// If a value is out of range, or the data cannot be read.
    pub fn open(&self) -> Result<DataSet, ExperimentError> {
        self.training.validate()?;
        Ok(self.data.open()?)
    }

    /// Trains on an open data set.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_on(
        &self,
        data: &DataSet,
        device: &Device,
        checkpoint: Option<&Path>,
        observe: Observer<'_>,
    ) -> Result<Outcome, ExperimentError> {
        self.run_with(&OfBatches, data, device, checkpoint, observe)
    }

    /// Trains on an open data set with gradients of another source.
    ///
    /// # Errors
    /// As [`run`](Self::run), or those of the source.
    pub fn run_with(
        &self,
        sources: &impl GradientSources,
        data: &DataSet,
        device: &Device,
        checkpoint: Option<&Path>,
        observe: Observer<'_>,
    ) -> Result<Outcome, ExperimentError> {
        self.start(sources, data, device, checkpoint, true, observe)
    }

    /// Makes the checks of [`run_on`](Self::run_on) before its first step, without a checkpoint.
    ///
    /// # Errors
    /// If a value is out of range, or does not fit the data or the model.
    pub fn check(&self, data: &DataSet, device: &Device) -> Result<(), ExperimentError> {
        let go = &mut |_: Progress<'_>| ControlFlow::Continue(());
        self.start(&OfBatches, data, device, None, false, go)
            .map(drop)
    }

    /// The model with its first weights, and the training examples: for those who compute gradients but don't train.
    ///
    /// - `device`: where to compute; the model is on it with automatic differentiation
    ///
    /// # Errors
    /// If a value is out of range, or does not fit the data or the model.
    pub fn begin<'a>(
        &self,
        data: &'a DataSet,
        device: &Device,
    ) -> Result<(AnyClassifier, TrainingExamples<'a>), ExperimentError> {
        let examples = self.training.examples(&data.training, data.shape)?;
        let model = self.first(self.start_weights(data)?, data, device)?;
        Ok((model, examples))
    }

    /// The model with its first weights.
    ///
    /// - `start`: those of [`start`](Self::start); otherwise they are drawn
    fn first(
        &self,
        start: Option<Vec<u8>>,
        data: &DataSet,
        device: &Device,
    ) -> Result<AnyClassifier, ExperimentError> {
        let device = device.clone().autodiff();
        let mut model = self.model.init(data.shape, data.classes.len(), &device)?;
        if let (Some(weights), Some(folder)) = (start, &self.start) {
            load_weights(&mut model, weights, folder)?;
            return Ok(model);
        }
        Ok(match self.model.is_drawn() {
            true => he_normal(model, self.training.seed)?,
            false => model,
        })
    }

    fn start(
        &self,
        sources: &impl GradientSources,
        data: &DataSet,
        device: &Device,
        checkpoint: Option<&Path>,
        trains: bool,
        observe: Observer<'_>,
    ) -> Result<Outcome, ExperimentError> {
        let weights = self.start_weights(data)?;
        let mut job = Job {
            experiment: self,
            sources,
            data,
            checkpoint,
            trains,
            start: weights.as_deref().map(fingerprint),
            layers: None,
        };
        let model = self.first(weights, data, device)?;
        let Some(config) = &self.quantization else {
            return job.train(model, observe);
        };
        let examples = self.training.examples(&data.training, data.shape)?;
        let model = calibrated(model, config, examples)?;
        job.layers = Some(model.layers().to_vec());
        let mut outcome = job.train(model, observe)?;
        let integers = integer_network(&outcome.classifier, outcome.weights.clone())?;
        outcome.integers = Some(integers);
        Ok(outcome)
    }

    /// The weights of the trained classifier with which the training starts, if there is one.
    fn start_weights(&self, data: &DataSet) -> Result<Option<Vec<u8>>, ExperimentError> {
        let Some(folder) = &self.start else {
            return Ok(None);
        };
        let (config, weights) = read_folder(folder)?;
        let other = |what, found: String, expected: String| ExperimentError::OtherStart {
            folder: folder.clone(),
            what,
            found,
            expected,
        };
        if config.quantization.is_some() {
            let [found, expected] = ["rounded", "a network whose layers are not rounded"];
            return Err(other("model", found.into(), expected.into()));
        }
        if config.model != self.model {
            let text = |model: &ModelConfig| json!(model).to_string();
            return Err(other("model", text(&config.model), text(&self.model)));
        }
        if config.shape != data.shape {
            let text = |shape: InputShape| match shape {
                InputShape::Row(features) => format!("{features} numbers"),
                InputShape::Picture([channels, height, width]) => {
                    format!("{channels} channels of {height} x {width} pixels")
                }
            };
            return Err(other(
                "shape of an example",
                text(config.shape),
                text(data.shape),
            ));
        }
        if config.classes.len() != data.classes.len() {
            let counts = [config.classes.len(), data.classes.len()];
            let [found, expected] = counts.map(|count| count.to_string());
            return Err(other("number of classes", found, expected));
        }
        Ok(Some(weights))
    }
}

struct Job<'a, S> {
    experiment: &'a Experiment,
    sources: &'a S,
    data: &'a DataSet,
    checkpoint: Option<&'a Path>,
    /// Whether to train, not only to check.
    trains: bool,
    /// Which weights the training starts with, unless they are drawn.
    start: Option<String>,
    /// The layers of a quantised model.
    layers: Option<Vec<QuantizedLayer>>,
}

impl<S: GradientSources> Job<'_, S> {
    fn train<M: Classifier + 'static>(
        &self,
        model: M,
        observe: Observer<'_>,
    ) -> Result<Outcome, ExperimentError> {
        let experiment = self.experiment.settled(self.data);
        let training = &experiment.training;
        let DataSet {
            training: examples,
            test,
            shape,
            ..
        } = self.data;
        // A measurement of one example takes no time.
        let one = Examples {
            features: test
                .features
                .iter()
                .take(shape.features())
                .copied()
                .collect(),
            labels: test.labels.iter().take(1).copied().collect(),
        };
        let test = if self.sources.measures() { test } else { &one };
        let mut trainer = training.trainer(examples, test, *shape, model)?;
        let scaled = !self.data.scaling.means.is_empty();
        let plan = training.plan(examples.len(), trainer.steps(), scaled);
        let source = self.sources.source(trainer.model(), plan)?;
        let task = trainer.task_mut();
        task.settings = json!({ "data": experiment.data, "model": experiment.model });
        if let Some(config) = &experiment.quantization {
            task.settings["quantization"] = json!(config);
        }
        if let Some(start) = &self.start {
            task.settings["start"] = json!(start);
        }
        if self.checkpoint.is_some() {
            // A file that has changed is other data.
            task.settings["examples"] = json!(examples.fingerprint());
        }
        if let Some(source) = source {
            task.set_source(source);
        }
        let validation = self.sources.validation();
        if let Some(validation) = &validation {
            task.set_groups(validation.groups.clone());
            task.settings["keep"] = json!(validation.keep);
            for (name, value) in &validation.settings {
                task.settings[name] = value.clone();
            }
            if validation.keep == Keep::Best {
                trainer = trainer.keeping_best(|epoch| epoch.test_accuracy);
            }
        }
        if let Some(path) = self.checkpoint
            && let Some(bytes) = self.sources.checkpoint(path)?
        {
            trainer = trainer.resume_from(path, &bytes)?;
        }
        let (done, asked) = (trainer.step(), trainer.steps());
        let fits = done <= asked;
        let expected = format!("at most {asked}, those that are asked for");
        range::check(fits, "number of steps of the checkpoint", done, expected)
            .map_err(TrainingError::Range)?;
        if self.trains {
            let checkpoint = self.checkpoint.filter(|_| self.sources.measures());
            trainer.run(checkpoint, observe)?;
        }
        let best = trainer.best()?;
        Ok(Outcome {
            finished: trainer.is_finished(),
            parameters: ParameterLayout::trainable(trainer.model())?.total_length(),
            state_bytes: trainer.state_bytes()?,
            weights: weights(best.as_ref().map_or(trainer.model(), |(_, model)| model))?,
            measured: match validation {
                Some(_) => Measured::Validation,
                None => Measured::Test,
            },
            kept_epoch: best.map(|(number, _)| trainer.history().epochs[number].epoch),
            classifier: ClassifierConfig {
                classes: self.data.classes.clone(),
                shape: self.data.shape,
                scaling: self.data.scaling.clone(),
                model: self.experiment.model.clone(),
                quantization: experiment
                    .quantization
                    .zip(self.layers.clone())
                    .map(|(config, layers)| QuantizedClassifier { config, layers }),
            },
            integers: None,
            history: trainer.history().clone(),
            told: trainer.task().report()?,
        })
    }
}

/// The weights of a model as a file in the safetensors format: each under its name in the module
/// (`hidden.0.weight`), with matrices `[d_output, d_input]` as in PyTorch.
///
/// # Errors
/// If a weight cannot be read from the device.
pub fn weights<M: Classifier>(model: &M) -> Result<Vec<u8>, TrainingError> {
    let failed = |e: String| TrainingError::Checkpoint(CheckpointError::Encode(e));
    let mut store = SafetensorsStore::from_bytes(None)
        // With several entries, the order would differ from run to run.
        .clear_metadata()
        .skip_enum_variants(true)
        .metadata("format", "pt");
    model
        .valid()
        .save_into(&mut store)
        .map_err(|e| failed(e.to_string()))?;
    let bytes = store.get_bytes().map_err(|e| failed(e.to_string()))?;
    Ok(bytes.to_vec())
}
