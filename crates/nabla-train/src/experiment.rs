//! Data, model and training in one description, which runs.
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
use std::path::Path;

use burn::store::{ModuleSnapshot, SafetensorsStore};
use burn::tensor::Device;
use nabla_grad::flat::ParameterLayout;
use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointError;
use crate::classifier::{Classifier, ModelError};
use crate::cnn::CnnConfig;
use crate::data_set::{DataConfig, DataSet, InputShape};
use crate::history::History;
use crate::initialization::he_normal;
use crate::logistic_regression::LogisticRegressionConfig;
use crate::mlp::MlpConfig;
use crate::resnet::ResNetConfig;
use crate::schedule::Decay;
use crate::training::{Progress, Trainer, TrainingConfig, TrainingError};

/// A model by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum ModelConfig {
    /// `logistic-regression`
    LogisticRegression(LogisticRegressionConfig),
    /// `mlp`
    Mlp(MlpConfig),
    /// `cnn`
    Cnn(CnnConfig),
    /// `resnet`
    #[serde(rename = "resnet")]
    ResNet(ResNetConfig),
}

nabla_base::choices! {
    ModelConfig: "model" {
        "logistic" => Self::LogisticRegression(LogisticRegressionConfig::default()), "One linear layer";
        "mlp" => Self::Mlp(MlpConfig::default()), "Two hidden layers of 128 and 64 units";
        "cnn" => Self::Cnn(CnnConfig::default()), "Two convolutions with batch normalisation";
        "resnet20" => Self::ResNet(ResNetConfig::default()), "The ResNet-20 of CIFAR-10";
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self::Mlp(MlpConfig::default())
    }
}

impl ModelConfig {
    /// Its name.
    pub fn name(&self) -> String {
        match self {
            Self::LogisticRegression(_) => "logistic-regression".into(),
            Self::Mlp(_) => "mlp".into(),
            Self::Cnn(_) => "cnn".into(),
            Self::ResNet(c) => format!("resnet-{}", c.depth),
        }
    }
}

/// A training from the data to the weights. What is left out of a file is as in the default: the
/// built-in digits, an MLP, AdamW.
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
}

/// What a training gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether all steps are done.
    pub finished: bool,
    /// Numbers that were trained.
    pub parameters: usize,
    /// Bytes that the optimizer keeps between two steps.
    pub state_bytes: u64,
    /// What happened.
    pub history: History,
    /// The weights, with their names, as a file in the safetensors format.
    pub weights: Vec<u8>,
}

/// Sees every step, and may end the training.
pub type Observer<'a> = &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>;

impl Experiment {
    /// What decides the bits of the training, one setting a line: all but how often it is saved, and but
    /// the number of epochs where the learning rate does not depend on it.
    pub fn identity(&self) -> String {
        let mut identity = self.clone();
        identity.training.checkpoint_every = 0;
        let schedule = &identity.training.schedule;
        if schedule.decay == Decay::Constant && schedule.warmup == 0.0 {
            identity.training.epochs = 1;
        }
        serde_json::to_string_pretty(&identity).unwrap_or_default()
    }

    /// The same experiment with what its data showed said in it: a file of it reads other files alike.
    #[must_use]
    pub fn settled(&self, data: &DataSet) -> Self {
        let mut settled = self.clone();
        settled.data.index_base = data.reading.index_base;
        settled
    }

    /// Trains.
    ///
    /// - `device`: where to compute, without autodiff
    /// - `checkpoint`: a file that the training is saved to and, if it exists, goes on from
    /// - `observe`: sees every step; a break saves a checkpoint and returns
    ///
    /// # Errors
    /// If the data cannot be read, a value is out of range, the checkpoint belongs to another experiment,
    /// the disk refuses, or the loss runs away.
    pub fn run(
        &self,
        device: &Device,
        checkpoint: Option<&Path>,
        observe: Observer<'_>,
    ) -> Result<Outcome, TrainingError> {
        self.training.validate()?;
        self.run_on(&self.data.open()?, device, checkpoint, observe)
    }

    /// Trains on a data set that is open.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_on(
        &self,
        data: &DataSet,
        device: &Device,
        checkpoint: Option<&Path>,
        observe: Observer<'_>,
    ) -> Result<Outcome, TrainingError> {
        self.start(data, device, checkpoint, usize::MAX, observe)
    }

    /// Refuses what [`run_on`](Self::run_on) would refuse before its first step, without a checkpoint.
    ///
    /// # Errors
    /// If a value is out of range, or does not fit the data or the model.
    pub fn check(&self, data: &DataSet, device: &Device) -> Result<(), TrainingError> {
        let go = &mut |_: Progress<'_>| ControlFlow::Continue(());
        self.start(data, device, None, 0, go).map(drop)
    }

    fn start(
        &self,
        data: &DataSet,
        device: &Device,
        checkpoint: Option<&Path>,
        most: usize,
        observe: Observer<'_>,
    ) -> Result<Outcome, TrainingError> {
        let device = device.clone().autodiff();
        let (features, classes) = (data.shape.features(), data.classes.len());
        let picture = |model| match data.shape {
            InputShape::Picture(shape) => Ok(shape),
            InputShape::Row(features) => Err(ModelError::NeedsPictures { model, features }),
        };
        let seed = self.training.seed;
        let job = Job {
            experiment: self,
            data,
            checkpoint,
            most,
        };
        match &self.model {
            ModelConfig::LogisticRegression(c) => {
                job.train(c.init(features, classes, &device), observe)
            }
            ModelConfig::Mlp(c) => {
                let model = c.init(features, classes, &device)?;
                job.train(he_normal(model, seed)?, observe)
            }
            ModelConfig::Cnn(c) => {
                let model = c.init(picture("cnn")?, classes, &device)?;
                job.train(he_normal(model, seed)?, observe)
            }
            ModelConfig::ResNet(c) => {
                let model = c.init(picture("resnet")?, classes, &device)?;
                job.train(he_normal(model, seed)?, observe)
            }
        }
    }
}

struct Job<'a> {
    experiment: &'a Experiment,
    data: &'a DataSet,
    checkpoint: Option<&'a Path>,
    /// Steps at most.
    most: usize,
}

impl Job<'_> {
    fn train<M: Classifier>(
        &self,
        model: M,
        observe: Observer<'_>,
    ) -> Result<Outcome, TrainingError> {
        let identity = self.experiment.settled(self.data).identity();
        let mut trainer = Trainer::new(self.experiment.training.clone(), self.data, model)?;
        if let Some(path) = self.checkpoint.filter(|path| path.exists()) {
            trainer = trainer.resume(path, &identity)?;
        }
        while trainer.step() < trainer.steps().min(self.most) {
            let stop = observe(trainer.train_step()?).is_break();
            if let Some(path) = self.checkpoint
                && (stop || trainer.is_checkpoint_due())
            {
                trainer.save(path, &identity)?;
            }
            if stop {
                break;
            }
        }
        Ok(Outcome {
            finished: trainer.step() >= trainer.steps(),
            parameters: ParameterLayout::trainable(trainer.model())?.total_length(),
            state_bytes: trainer.state_bytes()?,
            weights: weights(trainer.model())?,
            history: trainer.history,
        })
    }
}

/// The weights of a model as a file in the safetensors format.
fn weights<M: Classifier>(model: &M) -> Result<Vec<u8>, TrainingError> {
    let failed = |e: String| TrainingError::Checkpoint(CheckpointError::Encode(e));
    let mut store = SafetensorsStore::from_bytes(None)
        // The order of several entries would differ from run to run.
        .clear_metadata()
        .metadata("format", "pt");
    model
        .valid()
        .save_into(&mut store)
        .map_err(|e| failed(e.to_string()))?;
    let bytes = store.get_bytes().map_err(|e| failed(e.to_string()))?;
    Ok(bytes.to_vec())
}
