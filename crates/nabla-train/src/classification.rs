//! The training of a classifier by mini-batches.
//!
//! One step takes a batch `B` of the [order](crate::order) of its epoch, and, with the softmax `p`,
//!
//! ```text
//! L = −1/|B| Σ log p(y | x)          with label smoothing a: the target is (1 − a) y + a/classes
//! g ← limited ∇L                     by value, and by the norm of all gradients together
//! θ ← step of the optimizer along g with the learning rate of the schedule
//! ```
//!
//! After each epoch, the model is measured on the test examples. The changes of the pictures in step `t` are
//! drawn from a stream of the seed that belongs to `t` alone, so a resumed training draws the same numbers
//! without storing the state of a generator.

use std::fmt;

use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::augmentation::Augmentation;
use crate::classifier::Classifier;
use crate::error::TrainingError;
use crate::examples::{Examples, InputShape};
use crate::gradient_source::{Answers, GradientSource, Plan, TrainingExamples};
use crate::history::{EpochRecord, StepRecord};
use crate::learner::Learner;
use crate::optimizer::OptimizerConfig;
use crate::order::EpochOrder;
use crate::schedule::{Decay, Schedule};
use crate::task::{Task, accumulated};
use crate::trainer::{Trainer, TrainerConfig};
use crate::transform::{ClipByNorm, ClipByValue};

/// Changes of pictures were requested for rows of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("only pictures can be shifted and mirrored, but the examples are rows of numbers")]
pub struct AugmentationOfRows;

/// How a classifier is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// The number of passes over the examples. Default 20.
    pub epochs: usize,
    /// The number of examples per step. Default 64.
    pub batch: usize,
    /// The seed of the initial weights, the order and the changes of pictures. Default 0.
    pub seed: u64,
    /// The maximum norm of all gradients together; 0 for no limit. Default 0.
    pub clip_norm: f64,
    /// The maximum absolute value of each number of a gradient; 0 for no limit. Default 0.
    pub clip_value: f64,
    /// The part of the target that is spread over all classes, in `[0, 1)`. Default 0.
    pub label_smoothing: f64,
    /// Steps between two checkpoints, if there are any; 0 for one after every epoch. Default 0.
    pub checkpoint_every: usize,
    /// How pictures are changed. Default: not at all.
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
    /// An error with the value.
    pub fn validate(&self) -> Result<(), TrainingError> {
        for (field, value) in [("number of epochs", self.epochs), ("batch", self.batch)] {
            let name = format!("training's {field}");
            let holds = (1..=1_000_000_000).contains(&value);
            range::check(holds, name, value, "between 1 and 1e9")?;
        }
        for (field, value) in [
            ("clip_norm", self.clip_norm),
            ("clip_value", self.clip_value),
        ] {
            range::not_negative(format!("training's {field}"), value)?;
        }
        range::check(
            (0.0..1.0).contains(&self.label_smoothing),
            "training's label smoothing",
            self.label_smoothing,
            "at least 0 and less than 1",
        )?;
        self.schedule.validate()?;
        Ok(self.optimizer.validate()?)
    }

    /// A training of so many steps at one learning rate, that of the optimizer.
    ///
    /// - `steps`: the epochs are rounded up to hold them
    /// - `examples`: of the training
    /// - `batch`: examples of a step, at least 1
    pub fn of_steps(
        steps: usize,
        examples: usize,
        batch: usize,
        optimizer: OptimizerConfig,
        seed: u64,
    ) -> Self {
        Self {
            epochs: steps.div_ceil(examples.div_ceil(batch).max(1)),
            batch,
            seed,
            schedule: Schedule {
                decay: Decay::Constant,
                ..Schedule::default()
            },
            optimizer,
            ..Self::default()
        }
    }

    /// What a source of gradients is told of the training.
    ///
    /// - `examples`, `steps`: their numbers
    /// - `scaled`: whether features are scaled by the mean and deviation of the training examples
    pub fn plan(&self, examples: usize, steps: usize, scaled: bool) -> Plan {
        Plan {
            examples,
            batch: self.batch,
            steps,
            seed: self.seed,
            scaled,
            augmented: !self.augmentation.is_none(),
        }
    }

    /// The training examples as a training sees them.
    ///
    /// # Errors
    /// If a value is out of range, or rows are to be changed like pictures.
    pub fn examples<'a>(
        &self,
        training: &'a Examples,
        shape: InputShape,
    ) -> Result<TrainingExamples<'a>, TrainingError> {
        self.validate()?;
        if !self.augmentation.is_none() && !matches!(shape, InputShape::Picture(_)) {
            return Err(TrainingError::task(AugmentationOfRows));
        }
        Ok(TrainingExamples {
            examples: training,
            shape,
            seed: self.seed,
            batch: self.batch,
            label_smoothing: self.label_smoothing,
            augmentation: self.augmentation,
            order: EpochOrder::new(training.len(), self.batch, self.seed),
        })
    }

    /// Creates a training that starts with the current weights of `model`, which must be on an autodiff
    /// device.
    ///
    /// - `training`, `test`: the examples to train on and to measure with
    /// - `shape`: what an example is
    ///
    /// # Errors
    /// If a value of the configuration is out of range or does not fit the examples or the model.
    pub fn trainer<'a, M: Classifier>(
        &self,
        training: &'a Examples,
        test: &'a Examples,
        shape: InputShape,
        model: M,
    ) -> Result<Trainer<Classification<'a, M>>, TrainingError> {
        let task = Classification {
            examples: self.examples(training, shape)?,
            test,
            groups: vec![test.len()],
            source: None,
            settings: Value::Null,
            pending: Answers::default(),
            tally: Tally::default(),
        };
        let config = TrainerConfig {
            steps: task.steps_per_epoch() * self.epochs,
            checkpoint_every: self.checkpoint_every,
            schedule: self.schedule.clone(),
            optimizer: self.optimizer.clone(),
            ..TrainerConfig::default()
        };
        let mut trainer = Trainer::new(config, task, model)?;
        if self.clip_value > 0.0 {
            trainer = trainer.with_transform(ClipByValue(self.clip_value));
        }
        if self.clip_norm > 0.0 {
            trainer = trainer.with_transform(ClipByNorm(self.clip_norm));
        }
        Ok(trainer)
    }
}

/// Sums over the examples of the current epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Tally {
    loss: f64,
    right: usize,
    examples: usize,
}

/// The task of training a classifier; [`TrainingConfig::trainer`] creates the training.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use burn::tensor::Device;
/// use nabla_train::classification::TrainingConfig;
/// use nabla_train::examples::{Examples, InputShape};
/// use nabla_train::initialization::he_normal;
/// use nabla_train::mlp::MlpConfig;
///
/// // Which of two numbers is the larger one?
/// let rows: [[f32; 2]; 6] = [[0.1, 0.9], [0.8, 0.2], [0.4, 0.6], [0.7, 0.5], [0.2, 0.3], [0.9, 0.6]];
/// let examples = Examples {
///     features: rows.concat(),
///     labels: rows.iter().map(|[a, b]| u32::from(a > b)).collect(),
/// };
/// let mut config = TrainingConfig { epochs: 100, batch: 3, ..TrainingConfig::default() };
/// config.optimizer.learning_rate = Some(0.05);
/// let model = MlpConfig { hidden: vec![8] }.init(2, 2, &Device::flex().autodiff())?;
/// let model = he_normal(model, config.seed)?;
/// let mut trainer = config.trainer(&examples, &examples, InputShape::Row(2), model)?;
/// trainer.run(None, &mut |_| ControlFlow::Continue(()))?;
/// assert!(trainer.history().last().is_some_and(|epoch| epoch.test_accuracy > 0.8));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Classification<'a, M: Classifier> {
    examples: TrainingExamples<'a>,
    test: &'a Examples,
    /// The numbers of test examples that count alike together.
    groups: Vec<usize>,
    /// Where gradients come from, if not from the mean loss of a batch.
    source: Option<Box<dyn GradientSource<M>>>,
    /// The other settings that affect the result.
    pub(crate) settings: Value,
    /// The answers of the step in progress.
    pending: Answers,
    tally: Tally,
}

impl<M: Classifier> fmt::Debug for Classification<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Classification")
            .field("examples", &self.examples)
            .field("source", &self.source.as_ref().map(|s| s.name()))
            .finish_non_exhaustive()
    }
}

impl<M: Classifier> Classification<'_, M> {
    /// Steps of an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.examples.order.steps_per_epoch()
    }

    /// Takes the gradients from `source`.
    pub fn set_source(&mut self, source: Box<dyn GradientSource<M>>) {
        self.source = Some(source);
    }

    /// Measures by the mean of the losses and accuracies of groups of test examples.
    ///
    /// - `groups`: their numbers of examples, in the order of the test examples
    pub(crate) fn set_groups(&mut self, groups: Vec<usize>) {
        self.groups = groups;
    }

    /// The mean over the groups of test examples.
    fn measured(&self, model: &M) -> Result<(f64, f64), TrainingError> {
        let shape = self.examples.shape;
        let Examples { features, labels } = self.test;
        let width = shape.features();
        let (mut begin, mut sums) = (0, (0.0, 0.0));
        for &count in &self.groups {
            let rows = begin..(begin + count).min(labels.len());
            begin = rows.end;
            let features = &features[rows.start * width..rows.end * width];
            let (loss, accuracy) = evaluate_rows(model, features, &labels[rows], shape)?;
            sums = (sums.0 + loss, sums.1 + accuracy);
        }
        let groups = self.groups.len().max(1) as f64;
        Ok((sums.0 / groups, sums.1 / groups))
    }

    /// What the source has to tell.
    ///
    /// # Errors
    /// If it cannot be computed.
    pub fn report(&self) -> Result<Value, TrainingError> {
        match &self.source {
            Some(source) => source.report(),
            None => Ok(Value::Null),
        }
    }

    /// One step of a source.
    fn step_of(
        &mut self,
        source: &mut dyn GradientSource<M>,
        learner: &mut Learner<M>,
    ) -> Result<(), TrainingError> {
        self.pending = source.gradient(&mut self.examples, learner)?;
        learner.finish()
    }
}

/// Examples on a device, and their classes on the host.
#[derive(Clone, Debug)]
pub struct LabelledBatch {
    /// `[batch, features]`.
    pub input: Tensor<2>,
    /// The class of each.
    pub labels: Vec<u32>,
}

impl<M: Classifier> Task for Classification<'_, M> {
    type Model = M;
    type Batch = LabelledBatch;
    type Report = EpochRecord;

    fn batch(&mut self, learner: &Learner<M>) -> Result<LabelledBatch, TrainingError> {
        let step = learner.step();
        let indices = self.examples.of_step(step);
        Ok(self.examples.chosen(&indices, step, learner.device()))
    }

    fn loss(&mut self, model: &M, batch: LabelledBatch) -> Result<Tensor<1>, TrainingError> {
        let examples = batch.labels.len();
        let (loss, right) = self.examples.mean_loss(model, batch);
        self.pending = Answers { right, examples };
        Ok(loss)
    }

    fn step(&mut self, learner: &mut Learner<M>) -> Result<(), TrainingError> {
        let Some(mut source) = self.source.take() else {
            return accumulated(self, learner);
        };
        let outcome = self.step_of(source.as_mut(), learner);
        self.source = Some(source);
        outcome
    }

    fn stepped(&mut self, record: &StepRecord) {
        let Answers { right, examples } = std::mem::take(&mut self.pending);
        self.tally.loss += f64::from(record.loss.unwrap_or_default()) * examples as f64;
        self.tally.right += right;
        self.tally.examples += examples;
    }

    fn evaluate(&mut self, model: &M, step: usize) -> Result<Option<EpochRecord>, TrainingError> {
        let steps = self.steps_per_epoch();
        if !step.is_multiple_of(steps) {
            return Ok(None);
        }
        let tally = std::mem::take(&mut self.tally);
        let examples = tally.examples.max(1) as f64;
        let (test_loss, test_accuracy) = self.measured(model)?;
        if !test_loss.is_finite() {
            return Err(TrainingError::Diverged {
                step,
                loss: test_loss as f32,
            });
        }
        Ok(Some(EpochRecord {
            epoch: step / steps,
            training_loss: tally.loss / examples,
            training_accuracy: tally.right as f64 / examples,
            test_loss,
            test_accuracy,
        }))
    }

    fn settings(&self) -> Value {
        let mut settings = json!({
            "seed": self.examples.seed,
            "batch": self.examples.batch,
            "label_smoothing": self.examples.label_smoothing,
            "augmentation": self.examples.augmentation,
            "experiment": self.settings,
        });
        if let Some(source) = &self.source {
            settings["gradients"] = json!({ "name": source.name(), "settings": source.settings() });
        }
        settings
    }

    /// The sums over the epoch as JSON and, after a line break, the state of the source.
    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        let mut state = serde_json::to_vec(&self.tally).map_err(TrainingError::task)?;
        if let Some(source) = &self.source {
            state.push(b'\n');
            state.extend(source.state()?);
        }
        Ok(state)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let end = state.iter().position(|&byte| byte == b'\n');
        let (tally, rest) = state.split_at(end.unwrap_or(state.len()));
        self.tally = serde_json::from_slice(tally).map_err(TrainingError::task)?;
        match &mut self.source {
            Some(source) => source.restore(rest.get(1..).unwrap_or_default()),
            None => Ok(()),
        }
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

/// The number of rows whose highest score is at their label.
pub fn rightly(logits: Tensor<2>, labels: &[u32]) -> usize {
    let [_, classes] = logits.dims();
    let scores = scores(logits);
    let rows = scores.chunks_exact(classes.max(1)).zip(labels);
    rows.filter(|(row, label)| highest(row) == **label as usize)
        .count()
}

/// The number of examples that are measured at once.
const EVALUATED: usize = 256;

/// Examples as they are measured, at most 256 at once: their features `[batch, features]` on a device, and their labels.
///
/// - `features`: `[examples, width]`, row by row
/// - `width`: features of an example, at least 1
pub fn measured_batches<'a>(
    features: &'a [f32],
    labels: &'a [u32],
    width: usize,
    device: &'a Device,
) -> impl Iterator<Item = (Tensor<2>, &'a [u32])> {
    let rows = features.chunks(EVALUATED * width);
    rows.zip(labels.chunks(EVALUATED))
        .map(move |(features, labels)| {
            let input = TensorData::new(features.to_vec(), [labels.len(), width]);
            (Tensor::from_data(input, device), labels)
        })
}

/// The mean cross-entropy (without label smoothing) and the share of right answers of `model` on `examples`,
/// with batch normalisation by the running statistics. A loss that is not finite is returned unchanged.
///
/// # Errors
/// If a value cannot be read from the device.
pub fn evaluate<M: Classifier>(
    model: &M,
    examples: &Examples,
    shape: InputShape,
) -> Result<(f64, f64), TrainingError> {
    evaluate_rows(model, &examples.features, &examples.labels, shape)
}

/// [`evaluate`] on rows of features with their labels.
fn evaluate_rows<M: Classifier>(
    model: &M,
    features: &[f32],
    labels: &[u32],
    shape: InputShape,
) -> Result<(f64, f64), TrainingError> {
    let model = model.valid();
    let device = model.devices().into_iter().next().unwrap_or_default();
    let (mut loss, mut right) = (0.0, 0);
    let count = labels.len().max(1) as f64;
    for (input, labels) in measured_batches(features, labels, shape.features(), &device) {
        let logits = model.logits(input);
        let [_, classes] = logits.dims();
        let scores = scores(logits);
        for (row, &label) in scores.chunks_exact(classes.max(1)).zip(labels) {
            let top = highest(row);
            let sum: f64 = row.iter().map(|s| (s - row[top]).exp()).sum();
            loss += row[top] + sum.ln() - row[label as usize];
            right += usize::from(top == label as usize);
        }
    }
    Ok((loss / count, right as f64 / count))
}
