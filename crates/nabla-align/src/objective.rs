//! What an objective is: batches of all domains in, the gradient of a step out.
//!
//! ```text
//! in step t:   B_1, …, B_E ← a batch of every domain
//!              g ← objective(θ, B_1, …, B_E)             by a loss, or by a step of its own
//!              θ ← optimizer(θ, g)
//! ```
//!
//! An [`Objective`] returns a [`loss`](Objective::loss), or does the whole [`step`](Objective::step) if its gradient is
//! not that of one pass. It sees the model, the [batches](DomainBatch) and a stream of noise through a [`DomainStep`].
//! Your own objective is a type with one or two methods; all of Nabla's are in [`objectives`](mod@crate::objectives).

use std::error::Error;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use nabla_base::range::OutOfRange;
use nabla_grad::flat::FlatError;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::classification::{evaluate, rightly};
use nabla_train::classifier::Classifier;
use nabla_train::error::TrainingError;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::gradient_source::Answers;
use nabla_train::learner::Learner;
use serde_json::Value;

use crate::head_stats::{HeadError, HeadStats, cross_entropy};
use crate::search::Searched;

/// The reason why an objective cannot do a step.
#[derive(Debug, thiserror::Error)]
pub enum ObjectiveError {
    /// An own reason.
    #[error(transparent)]
    Own(Box<dyn Error + Send + Sync>),
    /// The training.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The last layer.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The weights as one vector.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// There are too few domains to compare.
    #[error(
        "{objective} compares domains, so it needs at least two to train on, but there is {found}"
    )]
    Domains {
        /// The objective.
        objective: &'static str,
        /// Their number.
        found: usize,
    },
    /// The last layer of the model is unknown, or not linear.
    #[error(
        "{objective} needs the gradients of a linear last layer, and the model names none: implement `Classifier::head`"
    )]
    NoHead {
        /// The objective.
        objective: &'static str,
    },
    /// The model has no quantisers.
    #[error(
        "{objective} is for a model with rounded layers, whose step sizes it trains, and this one has none: quantise it \
         (--quantize 4), or choose sagm"
    )]
    NoQuantizers {
        /// The objective.
        objective: &'static str,
    },
    /// The objective has neither a loss nor a step.
    #[error("the objective {0} has neither a loss nor a step of its own")]
    NoLoss(String),
    /// A state is no state of this objective.
    #[error("the state of {objective} has {found} bytes, but {expected} are expected")]
    State {
        /// The objective.
        objective: &'static str,
        /// Its length.
        found: usize,
        /// What is expected.
        expected: String,
    },
    /// A number cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

impl From<ObjectiveError> for TrainingError {
    fn from(error: ObjectiveError) -> Self {
        match error {
            ObjectiveError::Training(error) => error,
            ObjectiveError::Range(error) => error.into(),
            ObjectiveError::Flat(error) => error.into(),
            ObjectiveError::Device(error) => Self::Device(error),
            other => Self::task(other),
        }
    }
}

/// What a training with domains has planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainPlan {
    /// Examples of a step, for every domain.
    pub batches: Vec<usize>,
    /// All steps.
    pub steps: usize,
    /// The shape of an example.
    pub shape: Option<InputShape>,
}

/// The examples of one domain in a step.
#[derive(Clone, Debug)]
pub struct DomainBatch {
    /// `[examples, features]`.
    pub input: Tensor<2>,
    /// The class of each.
    pub labels: Vec<u32>,
}

/// What the model makes of some examples.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The input of the last layer, `[examples, d]`.
    pub features: Tensor<2>,
    /// The scores before the softmax, `[examples, classes]`.
    pub logits: Tensor<2>,
    /// What they should be after it, `[examples, classes]`; its rows sum to 1.
    pub targets: Tensor<2>,
}

impl Pass {
    /// The mean cross-entropy, `[1]`.
    pub fn loss(&self) -> Tensor<1> {
        cross_entropy(self.logits.clone(), self.targets.clone())
    }

    /// The statistics of the last layer, which must be linear.
    ///
    /// # Errors
    /// If there are no examples, or fewer than two classes.
    pub fn head(&self) -> Result<HeadStats, HeadError> {
        HeadStats::linear(
            self.features.clone(),
            self.logits.clone(),
            self.targets.clone(),
        )
    }
}

/// A step, as an objective sees it.
pub struct DomainStep<'a, M: Module> {
    learner: &'a mut Learner<M>,
    domains: Vec<DomainBatch>,
    shape: InputShape,
    smoothing: f64,
    noise: SeededNoise,
    answers: Option<Answers>,
    validation: Option<&'a Examples>,
}

impl<'a, M: Classifier> DomainStep<'a, M> {
    /// - `domains`: a batch of every domain
    /// - `shape`: of an example
    /// - `noise`: what the objective draws from
    pub fn new(
        learner: &'a mut Learner<M>,
        domains: Vec<DomainBatch>,
        shape: InputShape,
        noise: SeededNoise,
    ) -> Self {
        Self {
            learner,
            domains,
            shape,
            smoothing: 0.0,
            noise,
            answers: None,
            validation: None,
        }
    }

    /// Spreads a share of every target over all classes.
    #[must_use]
    pub fn with_label_smoothing(mut self, share: f64) -> Self {
        self.smoothing = share;
        self
    }

    /// Gives examples of the training domains on which no step is taken.
    #[must_use]
    pub fn with_validation(mut self, examples: Option<&'a Examples>) -> Self {
        self.validation = examples;
        self
    }

    /// The share of right answers on the validation examples; `None` if there are none.
    ///
    /// # Errors
    /// If a value cannot be read from the device.
    pub fn validation_accuracy(&self) -> Result<Option<f64>, ObjectiveError> {
        match self.validation {
            Some(examples) => Ok(Some(evaluate(self.model(), examples, self.shape)?.1)),
            None => Ok(None),
        }
    }

    /// The model, with the weights before the step or after the updates that the objective has made in it.
    pub fn model(&self) -> &M {
        self.learner.model()
    }

    /// What takes the gradient: [`backward`](Learner::backward), [`contribute`](Learner::contribute).
    pub fn learner(&mut self) -> &mut Learner<M> {
        self.learner
    }

    /// The number of the step, from 0.
    pub fn step(&self) -> usize {
        self.learner.step()
    }

    /// The batches, one of every domain.
    pub fn domains(&self) -> &[DomainBatch] {
        &self.domains
    }

    /// The shape of an example.
    pub fn shape(&self) -> InputShape {
        self.shape
    }

    /// A stream of numbers that belongs to this step alone.
    pub fn noise(&mut self) -> &mut SeededNoise {
        &mut self.noise
    }

    /// The right answers of the first pass through the model.
    pub fn answers(&self) -> Answers {
        self.answers.unwrap_or_default()
    }

    /// The batches of all domains, one after the other.
    pub fn pooled_batch(&self) -> DomainBatch {
        let inputs: Vec<Tensor<2>> = self.domains.iter().map(|b| b.input.clone()).collect();
        DomainBatch {
            input: Tensor::cat(inputs, 0),
            labels: self.domains.iter().flat_map(|b| b.labels.clone()).collect(),
        }
    }

    /// What a model makes of a batch; it may be the model of the step at other weights.
    pub fn pass_of(&self, model: &M, batch: &DomainBatch) -> Pass {
        let seen = model.seen(batch.input.clone());
        let [_, classes] = seen.logits.dims();
        Pass {
            targets: self.targets(&batch.labels, classes, &seen.logits),
            features: seen.features,
            logits: seen.logits,
        }
    }

    /// What the labels ask for, `[examples, classes]`: `(1 − a) y + a/classes` with label smoothing `a`.
    fn targets(&self, labels: &[u32], classes: usize, like: &Tensor<2>) -> Tensor<2> {
        let rest = (self.smoothing / classes.max(1) as f64) as f32;
        let own = (1.0 - self.smoothing) as f32;
        let mut targets = vec![rest; labels.len() * classes];
        for (row, &label) in targets.chunks_exact_mut(classes.max(1)).zip(labels) {
            if let Some(target) = row.get_mut(label as usize) {
                *target += own;
            }
        }
        let targets = TensorData::new(targets, [labels.len(), classes]);
        Tensor::<2>::from_data(targets, &like.device()).cast(like.dtype())
    }

    /// What labels ask for beside scores, `[examples, classes]`.
    pub fn targets_of(&self, labels: &[u32], logits: &Tensor<2>) -> Tensor<2> {
        self.targets(labels, logits.dims()[1], logits)
    }

    /// Notes the answers of a pass, unless a pass before has given them.
    pub fn tell(&mut self, answered: &[Pass]) {
        if self.answers.is_some() || answered.len() != self.domains.len() {
            return;
        }
        let mut answers = Answers::default();
        for (pass, batch) in answered.iter().zip(&self.domains) {
            answers.right += rightly(pass.logits.clone().without_autodiff(), &batch.labels);
            answers.examples += batch.labels.len();
        }
        self.answers = Some(answers);
    }

    /// Notes the answers of a pass through other examples than those of the domains, unless a pass before has given them.
    pub fn count(&mut self, right: usize, examples: usize) {
        self.answers.get_or_insert(Answers { right, examples });
    }

    /// The weight of a penalty in this step: 1 before the step `anneal_steps`, and `penalty` from then on, where all
    /// optimizers forget what they have averaged.
    ///
    /// # Errors
    /// If an optimizer cannot begin.
    pub fn annealed(&mut self, anneal_steps: usize, penalty: f64) -> Result<f64, ObjectiveError> {
        let number = self.step();
        if number == anneal_steps {
            self.learner().restart_optimizers()?;
        }
        Ok(if number >= anneal_steps { penalty } else { 1.0 })
    }

    /// All examples in one pass.
    pub fn pooled(&mut self) -> Pass {
        let batch = self.pooled_batch();
        let pass = self.pass_of(self.model(), &batch);
        self.answers.get_or_insert_with(|| Answers {
            right: rightly(pass.logits.clone().without_autodiff(), &batch.labels),
            examples: batch.labels.len(),
        });
        pass
    }

    /// The examples of all domains in one pass, apart afterwards: a normalisation over the batch sees them all.
    pub fn together(&mut self) -> Vec<Pass> {
        let Pass {
            features,
            logits,
            targets,
        } = self.pooled();
        let mut begin = 0;
        let parts = self.domains.iter().map(|batch| {
            let rows = begin..begin + batch.labels.len();
            begin = rows.end;
            Pass {
                features: rows_of(&features, &rows),
                logits: rows_of(&logits, &rows),
                targets: rows_of(&targets, &rows),
            }
        });
        parts.collect()
    }

    /// A pass of every domain: a normalisation over the batch sees one domain at a time.
    pub fn apart(&mut self) -> Vec<Pass> {
        let passes = self.domains.iter().map(|b| self.pass_of(self.model(), b));
        let passes: Vec<Pass> = passes.collect();
        self.tell(&passes);
        passes
    }

    /// The shape of the head, if the model has a linear one.
    ///
    /// # Errors
    /// If it names none.
    pub fn check_head(&self, objective: &'static str) -> Result<(), ObjectiveError> {
        check_head(self.model(), objective)
    }
}

/// Refuses a model without a linear last layer.
///
/// # Errors
/// If it names none.
pub fn check_head<M: Classifier>(model: &M, objective: &'static str) -> Result<(), ObjectiveError> {
    match model.head() {
        Some(_) => Ok(()),
        None => Err(ObjectiveError::NoHead { objective }),
    }
}

fn rows_of(tensor: &Tensor<2>, rows: &std::ops::Range<usize>) -> Tensor<2> {
    let [_, width] = tensor.dims();
    tensor.clone().slice([rows.clone(), 0..width])
}

/// Refuses a training on fewer than two domains.
///
/// # Errors
/// If there are fewer.
pub fn check_domains(objective: &'static str, found: usize) -> Result<(), ObjectiveError> {
    match found >= 2 {
        true => Ok(()),
        false => Err(ObjectiveError::Domains { objective, found }),
    }
}

/// An objective; see the [module documentation](self).
///
/// ```
/// use burn::tensor::Tensor;
/// use nabla_align::{DomainStep, Objective, ObjectiveError};
/// use nabla_train::classifier::Classifier;
///
/// /// The loss of the domain that is worst now.
/// struct Worst;
///
/// impl<M: Classifier> Objective<M> for Worst {
///     fn name(&self) -> &str {
///         "worst"
///     }
///
///     fn loss(&mut self, step: &mut DomainStep<'_, M>) -> Result<Tensor<1>, ObjectiveError> {
///         let losses = step.apart().iter().map(|pass| pass.loss()).collect();
///         Ok(Tensor::cat(losses, 0).max())
///     }
/// }
/// ```
pub trait Objective<M: Classifier> {
    /// Its name in checkpoints.
    fn name(&self) -> &str;

    /// Refuses settings that are out of range, or that fit neither the model nor the plan.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self, _model: &M, _plan: &DomainPlan) -> Result<(), ObjectiveError> {
        Ok(())
    }

    /// The loss along whose gradient the optimizer steps, `[1]`. Not called if the objective has a
    /// [`step`](Self::step) of its own.
    ///
    /// # Errors
    /// Any error that prevents it.
    fn loss(&mut self, _step: &mut DomainStep<'_, M>) -> Result<Tensor<1>, ObjectiveError> {
        Err(ObjectiveError::NoLoss(self.name().to_owned()))
    }

    /// Leaves the gradient of the step with the learner; by default that of the [`loss`](Self::loss).
    ///
    /// # Errors
    /// Any error that prevents it; the step is then not taken.
    fn step(&mut self, step: &mut DomainStep<'_, M>) -> Result<(), ObjectiveError> {
        let loss = self.loss(step)?;
        step.learner().backward(loss)?;
        Ok(())
    }

    /// Where its options are searched in a comparison. Default: nowhere.
    fn search(&self) -> Vec<Searched> {
        Vec::new()
    }

    /// Everything that affects the result, apart from the state. Default: nothing.
    fn settings(&self) -> Value {
        Value::Null
    }

    /// What a checkpoint stores. Default: nothing.
    ///
    /// # Errors
    /// If it cannot be read from the device.
    fn state(&self) -> Result<Vec<u8>, ObjectiveError> {
        Ok(Vec::new())
    }

    /// Restores a state.
    ///
    /// # Errors
    /// If it belongs to another objective.
    fn restore(&mut self, _state: &[u8]) -> Result<(), ObjectiveError> {
        Ok(())
    }

    /// What is to be told about the steps so far. Default: nothing.
    fn report(&self) -> Value {
        Value::Null
    }
}

/// Reads a tensor to the host.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, ObjectiveError> {
    let values = tensor.without_autodiff().try_into_vec_as::<f32>();
    values.map_err(|error| ObjectiveError::Device(error.to_string()))
}

/// Reads a tensor of one number to the host.
pub(crate) fn number(tensor: &Tensor<1>) -> Result<f32, ObjectiveError> {
    Ok(read(tensor.clone())?.iter().sum())
}
