//! The training of a classifier by mini-batches.
//!
//! One step takes a batch `B` of the epoch's random order, and, with the softmax `p`,
//!
//! ```text
//! L = −1/|B| Σ log p(y | x)          with label smoothing a: the target is (1 − a) y + a/classes
//! g ← limited ∇L                     by the norm of all gradients together, and by value
//! θ ← step of the optimizer along g with the learning rate of the schedule
//! ```
//!
//! An epoch meets every training example once; its last batch is smaller where the number of examples is
//! no multiple of the batch. The order of epoch `e` and the changes of the pictures in step `t` are drawn
//! from streams of the seed that belong to `e` and `t` alone: a resumed training draws the same numbers
//! without remembering any generator.

use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};
use nabla_grad::clipping::{ClippingError, clip_norm, clip_value};
use nabla_grad::flat::FlatError;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_optim::checked_step::{StepError, check_gradients};
use serde::{Deserialize, Serialize};

use crate::augmentation::Augmentation;
use crate::checkpoint::CheckpointError;
use crate::classifier::{Classifier, ModelError};
use crate::data_set::{DataError, DataSet, Examples, InputShape, permutation};
use crate::history::{EpochRecord, History, StepRecord};
use crate::optimizer::{OptimizerConfig, OptimizerError, Stepper};
use crate::schedule::{Schedule, ScheduleError};

/// Why a training does not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The optimizer.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// The schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A value that is out of range.
    #[error("the training's {field} is {value}, but it must be {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What it must be.
        expected: &'static str,
    },
    /// Changes of pictures for rows of numbers.
    #[error("only pictures can be shifted and mirrored, but the examples are rows of numbers")]
    AugmentationOfRows,
    /// The model has no parameters.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// The loss is not finite.
    #[error("the loss is {loss} in step {step}: lower the learning rate or limit the gradient")]
    Diverged {
        /// The step, from 1.
        step: usize,
        /// The loss.
        loss: f32,
    },
    /// A gradient is not finite.
    #[error("in step {step}, {source}: lower the learning rate or limit the gradient")]
    Gradient {
        /// The step, from 1.
        step: usize,
        /// Which.
        source: StepError,
    },
    /// The norm of gradients that are finite is not.
    #[error("the gradient's norm overflows in step {step}: lower the learning rate")]
    Overflow {
        /// The step, from 1.
        step: usize,
    },
    /// A norm cannot be read.
    #[error(transparent)]
    Clipping(#[from] ClippingError),
    /// A value cannot be read back from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

impl TrainingError {
    /// Whether the numbers ran away, rather than the input being wrong.
    pub fn is_divergence(&self) -> bool {
        matches!(
            self,
            Self::Diverged { .. } | Self::Gradient { .. } | Self::Overflow { .. }
        )
    }
}

/// How a model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Times that every example is met. Default 20.
    pub epochs: usize,
    /// Examples of a step. Default 64.
    pub batch: usize,
    /// Seed of the first weights, the order and the changes of pictures. Default 0.
    pub seed: u64,
    /// Highest norm of all gradients together; 0 for no limit. Default 0.
    pub clip_norm: f64,
    /// Highest size of each number of a gradient; 0 for no limit. Default 0.
    pub clip_value: f64,
    /// The part of the target that is spread over all classes, in `[0, 1)`. Default 0.
    pub label_smoothing: f64,
    /// Steps between two checkpoints, where they are kept; 0 for one after every epoch. Default 0.
    pub checkpoint_every: usize,
    /// How pictures are changed. Default: not.
    pub augmentation: Augmentation,
    /// Learning rates over the steps. Default: cosine to 0, no warm-up.
    pub schedule: Schedule,
    /// The optimizer. Default AdamW without decay.
    pub optimizer: OptimizerConfig,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            epochs: 20,
            batch: 64,
            seed: 0,
            clip_norm: 0.0,
            clip_value: 0.0,
            label_smoothing: 0.0,
            checkpoint_every: 0,
            augmentation: Augmentation::default(),
            schedule: Schedule::default(),
            optimizer: OptimizerConfig::default(),
        }
    }
}

impl TrainingConfig {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// With the value.
    pub fn validate(&self) -> Result<(), TrainingError> {
        let check = |field, value: f64, holds, expected| {
            if holds {
                Ok(())
            } else {
                Err(TrainingError::Field {
                    field,
                    value,
                    expected,
                })
            }
        };
        for (field, value) in [("number of epochs", self.epochs), ("batch", self.batch)] {
            let holds = (1..=1_000_000_000).contains(&value);
            check(field, value as f64, holds, "between 1 and 1e9")?;
        }
        for (field, value) in [
            ("clip_norm", self.clip_norm),
            ("clip_value", self.clip_value),
        ] {
            check(
                field,
                value,
                value >= 0.0 && value.is_finite(),
                "at least 0 and finite",
            )?;
        }
        check(
            "label smoothing",
            self.label_smoothing,
            (0.0..1.0).contains(&self.label_smoothing),
            "at least 0 and less than 1",
        )?;
        self.schedule.validate()?;
        Ok(self.optimizer.validate()?)
    }
}

/// Streams of the seed: that of epoch `e` is `ORDER + e`, that of step `t` is `CHANGES + t`. Stream 0 has
/// the first weights.
const ORDER: u64 = 1 << 32;
const CHANGES: u64 = 1 << 48;

/// What was just done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress<'a> {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// The step.
    pub record: StepRecord,
    /// The epoch, if this step was its last.
    pub epoch: Option<&'a EpochRecord>,
}

/// Sums over the examples of an epoch that is not over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) loss: f64,
    pub(crate) right: usize,
    pub(crate) examples: usize,
}

/// A training in progress; see the [module documentation](self).
///
/// ```
/// use burn::tensor::Device;
/// use nabla_train::data_set::DataConfig;
/// use nabla_train::initialization::he_normal;
/// use nabla_train::mlp::MlpConfig;
/// use nabla_train::training::{Trainer, TrainingConfig};
///
/// let device = Device::flex().autodiff();
/// let data = DataConfig::default().open()?; // the built-in digits
/// let mut config = TrainingConfig { epochs: 3, ..TrainingConfig::default() };
/// config.optimizer.learning_rate = Some(5e-3);
/// let model = he_normal(MlpConfig::default().init(64, 10, &device)?, config.seed)?;
/// let mut trainer = Trainer::new(config, &data, model)?;
/// while trainer.step() < trainer.steps() {
///     trainer.train_step()?;
/// }
/// assert!(trainer.history().last().is_some_and(|epoch| epoch.test_accuracy > 0.8));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Trainer<'a, M: Module> {
    pub(crate) config: TrainingConfig,
    pub(crate) data: &'a DataSet,
    pub(crate) model: M,
    pub(crate) stepper: Stepper,
    pub(crate) history: History,
    pub(crate) tally: Tally,
    device: Device,
    /// The order of an epoch.
    order: (usize, Vec<usize>),
}

impl<'a, M: Classifier> Trainer<'a, M> {
    /// A training that begins with the present weights of `model`, which lives on an autodiff device.
    ///
    /// # Errors
    /// If a value of the configuration is out of range or does not fit the data or the model.
    pub fn new(config: TrainingConfig, data: &'a DataSet, model: M) -> Result<Self, TrainingError> {
        config.validate()?;
        if !config.augmentation.is_none() && !matches!(data.shape, InputShape::Picture(_)) {
            return Err(TrainingError::AugmentationOfRows);
        }
        let device = model.devices().into_iter().next().unwrap_or_default();
        Ok(Self {
            stepper: config.optimizer.init(&model)?,
            order: (usize::MAX, Vec::new()),
            history: History::default(),
            tally: Tally::default(),
            config,
            data,
            model,
            device: device.autodiff(),
        })
    }

    /// Steps done.
    pub fn step(&self) -> usize {
        self.history.steps.len()
    }

    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.data.training.len().div_ceil(self.config.batch)
    }

    /// Steps in all.
    pub fn steps(&self) -> usize {
        self.steps_per_epoch() * self.config.epochs
    }

    /// What happened so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The configuration.
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// The model with its present weights.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Bytes that the optimizer keeps between two steps.
    ///
    /// # Errors
    /// If its state cannot be read.
    pub fn state_bytes(&self) -> Result<u64, TrainingError> {
        Ok(self.stepper.state_bytes()?)
    }

    /// The batch of a step: features and classes.
    fn batch(&mut self, step: usize) -> (Vec<f32>, Vec<u32>) {
        let epoch = step / self.steps_per_epoch();
        if self.order.0 != epoch {
            let mut draw = SeededNoise::new(self.config.seed, ORDER + epoch as u64);
            self.order = (epoch, permutation(self.data.training.len(), &mut draw));
        }
        let begin = (step % self.steps_per_epoch()) * self.config.batch;
        let end = (begin + self.config.batch).min(self.data.training.len());
        let indices = &self.order.1[begin..end];
        let width = self.data.shape.features();
        let Examples { features, labels } = &self.data.training;
        let mut chosen: Vec<f32> = indices
            .iter()
            .flat_map(|&i| &features[i * width..(i + 1) * width])
            .copied()
            .collect();
        if let InputShape::Picture(shape) = self.data.shape
            && !self.config.augmentation.is_none()
        {
            let mut draw = SeededNoise::new(self.config.seed, CHANGES + step as u64);
            for picture in chosen.chunks_exact_mut(width) {
                self.config.augmentation.apply(picture, shape, &mut draw);
            }
        }
        (chosen, indices.iter().map(|&i| labels[i]).collect())
    }

    /// Trains one step; after the last one of an epoch, measures on the test examples.
    ///
    /// # Errors
    /// If the loss or its gradient is not finite: the weights are then as before; or if the loss of the test
    /// examples after an epoch is not.
    pub fn train_step(&mut self) -> Result<Progress<'_>, TrainingError> {
        let begun = Instant::now();
        let step = self.step();
        let (features, labels) = self.batch(step);
        let count = labels.len();
        let input = TensorData::new(features, [count, self.data.shape.features()]);
        let input = Tensor::<2>::from_data(input, &self.device);
        let target: Vec<i32> = labels.iter().map(|&l| l as i32).collect();
        let target = Tensor::<1, Int>::from_data(TensorData::new(target, [count]), &self.device);

        let logits = self.model.logits(input); // [batch, classes]
        let smoothing = self.config.label_smoothing;
        let loss = CrossEntropyLossConfig::new()
            .with_smoothing((smoothing > 0.0).then_some(smoothing as f32))
            .init(&self.device)
            .forward(logits.clone(), target);
        let told = loss
            .clone()
            .without_autodiff()
            .try_into_scalar::<f32>()
            .map_err(|e| TrainingError::Device(e.to_string()))?;
        if !told.is_finite() {
            return Err(TrainingError::Diverged {
                step: step + 1,
                loss: told,
            });
        }
        let right = rightly(logits.without_autodiff(), &labels);

        let mut gradients = GradientsParams::from_grads(loss.backward(), &self.model);
        let stepped = Instant::now();
        if self.config.clip_value > 0.0 {
            clip_value(&self.model, &mut gradients, self.config.clip_value);
        }
        let gradient_norm = clip_norm(&self.model, &mut gradients, self.config.clip_norm)?;
        if !gradient_norm.is_finite() {
            let step = step + 1;
            check_gradients(&self.model, &gradients)
                .map_err(|source| TrainingError::Gradient { step, source })?;
            return Err(TrainingError::Overflow { step });
        }
        let learning_rate =
            self.config.optimizer.learning_rate() * self.config.schedule.share(step, self.steps());
        self.model = self
            .stepper
            .step(learning_rate, self.model.clone(), gradients)?;
        self.history.timing.optimizer += stepped.elapsed().as_secs_f64();

        let record = StepRecord {
            loss: told,
            gradient_norm,
            learning_rate,
        };
        self.history.steps.push(record);
        self.tally.loss += f64::from(told) * count as f64;
        self.tally.right += right;
        self.tally.examples += count;
        self.history.timing.steps += begun.elapsed().as_secs_f64();
        let done = self.step();
        let whole = done.is_multiple_of(self.steps_per_epoch());
        if whole {
            self.end_epoch(done / self.steps_per_epoch())?;
        }
        Ok(Progress {
            step: done,
            steps: self.steps(),
            record,
            epoch: self.history.epochs.last().filter(|_| whole),
        })
    }

    fn end_epoch(&mut self, epoch: usize) -> Result<(), TrainingError> {
        let begun = Instant::now();
        let tally = std::mem::take(&mut self.tally);
        let examples = tally.examples.max(1) as f64;
        let (test_loss, test_accuracy) = evaluate(&self.model, &self.data.test, self.data.shape)?;
        if !test_loss.is_finite() {
            return Err(TrainingError::Diverged {
                step: self.step(),
                loss: test_loss as f32,
            });
        }
        self.history.epochs.push(EpochRecord {
            epoch,
            training_loss: tally.loss / examples,
            training_accuracy: tally.right as f64 / examples,
            test_loss,
            test_accuracy,
        });
        self.history.timing.evaluation += begun.elapsed().as_secs_f64();
        Ok(())
    }

    /// Whether a checkpoint is due after the steps that are done.
    pub(crate) fn is_checkpoint_due(&self) -> bool {
        let every = match self.config.checkpoint_every {
            0 => self.steps_per_epoch(),
            every => every,
        };
        self.step().is_multiple_of(every) || self.step() == self.steps()
    }

    /// Writes a checkpoint; see [`checkpoint`](crate::checkpoint).
    ///
    /// - `identity`: what decides the bits of the training, in words
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path, identity: &str) -> Result<(), TrainingError> {
        Ok(crate::checkpoint::save(self, path, identity)?)
    }

    /// Goes on from a checkpoint, bit by bit.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or belongs to another training.
    pub fn resume(self, path: &Path, identity: &str) -> Result<Self, TrainingError> {
        Ok(crate::checkpoint::load(self, path, identity)?)
    }
}

/// Rows of scores, in 64 bits.
fn scores(logits: Tensor<2>) -> Vec<f64> {
    logits.into_data().iter::<f64>().collect()
}

/// The first of the highest scores.
fn highest(row: &[f64]) -> usize {
    let better = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (1..row.len()).fold(0, better)
}

/// How many rows have their highest score at their label.
fn rightly(logits: Tensor<2>, labels: &[u32]) -> usize {
    let [_, classes] = logits.dims();
    let scores = scores(logits);
    let rows = scores.chunks_exact(classes.max(1)).zip(labels);
    rows.filter(|(row, label)| highest(row) == **label as usize)
        .count()
}

/// Examples that are measured at once.
const EVALUATED: usize = 256;

/// The mean cross-entropy (without label smoothing) and the share of right answers of `model` on
/// `examples`, with batch normalisation by the running statistics. A loss that is not finite is told as
/// it is.
///
/// # Errors
/// If a value cannot be read from the device.
pub fn evaluate<M: Classifier>(
    model: &M,
    examples: &Examples,
    shape: InputShape,
) -> Result<(f64, f64), TrainingError> {
    let model = model.valid();
    let device = model.devices().into_iter().next().unwrap_or_default();
    let width = shape.features();
    let (mut loss, mut right) = (0.0, 0);
    let rows = examples.features.chunks(EVALUATED * width);
    for (features, labels) in rows.zip(examples.labels.chunks(EVALUATED)) {
        let input = TensorData::new(features.to_vec(), [labels.len(), width]);
        let logits = model.logits(Tensor::from_data(input, &device));
        let [_, classes] = logits.dims();
        let scores = scores(logits);
        for (row, &label) in scores.chunks_exact(classes.max(1)).zip(labels) {
            let top = highest(row);
            let sum: f64 = row.iter().map(|s| (s - row[top]).exp()).sum();
            loss += row[top] + sum.ln() - row[label as usize];
            right += usize::from(top == label as usize);
        }
    }
    let count = examples.len().max(1) as f64;
    Ok((loss / count, right as f64 / count))
}
