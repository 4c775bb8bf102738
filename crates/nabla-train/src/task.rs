//! Tasks: the part that is specific to a training.
//!
//! A [`Task`] provides the batch of a step and its loss; the [trainer](crate::trainer) does everything else.
//! A task may instead implement the whole step, in which it calls the [`Learner`] as often as it needs. The
//! usual kinds:
//!
//! * **One loss** (classifiers, regression, denoisers): [`batch`](Task::batch) and [`loss`](Task::loss).
//! * **Two players** (a generator and a discriminator): the model is a module with both networks in it, the
//!   trainer has a [player](crate::trainer::Trainer::with_player) for each, with its optimizer and its chain
//!   of transforms, and [`step`](Task::step) computes one loss after the other, each on the weights updated
//!   by the one before: `learner.update_player("discriminator", loss)`, then
//!   `learner.update_player("generator", loss)`. A loss changes only the weights of its player.
//! * **An agent with a replay buffer**: the buffer, the environment and the generator of random actions are
//!   fields of the task and parts of its [`state`](Task::state); [`batch`](Task::batch) acts in the
//!   environment with the model, stores the outcome in the buffer and draws the batch from it. The target
//!   network is the learner's [average](Learner::average), or a module among the fields.

use std::fmt::Debug;

use burn::module::Module;
use burn::tensor::Tensor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::TrainingError;
use crate::history::StepRecord;
use crate::learner::Learner;

/// Something that can be trained; see the [module documentation](self).
pub trait Task {
    /// The model to train: a module on an autodiff device.
    type Model: Module;
    /// The data from which one loss is computed.
    type Batch;
    /// The measurements of [`evaluate`](Self::evaluate); `()` if there are none.
    type Report: Clone + Debug + Serialize + DeserializeOwned;

    /// Returns the batch of the current step; if gradients are accumulated, the next of several batches.
    ///
    /// # Errors
    /// Any error that prevents this; the training stops with it.
    fn batch(&mut self, learner: &Learner<Self::Model>) -> Result<Self::Batch, TrainingError>;

    /// Returns the loss, `[1]`, along whose gradient the optimizer steps. Not called if the task implements
    /// [`step`](Self::step).
    ///
    /// # Errors
    /// If the batch does not fit the model.
    fn loss(
        &mut self,
        _model: &Self::Model,
        _batch: Self::Batch,
    ) -> Result<Tensor<1>, TrainingError> {
        Err(TrainingError::task(
            "this task gives no loss, so it needs a step of its own",
        ))
    }

    /// One step: by default the mean of the losses of the accumulated batches, and one update along its
    /// gradient.
    ///
    /// # Errors
    /// Those of the parts, or if a loss or a gradient is not finite.
    fn step(&mut self, learner: &mut Learner<Self::Model>) -> Result<(), TrainingError> {
        accumulated(self, learner)
    }

    /// Is called after a step with its record.
    fn stepped(&mut self, _record: &StepRecord) {}

    /// Measures the model after `step` steps; `None` if nothing is measured then.
    ///
    /// # Errors
    /// If it cannot be measured.
    fn evaluate(
        &mut self,
        _model: &Self::Model,
        _step: usize,
    ) -> Result<Option<Self::Report>, TrainingError> {
        Ok(None)
    }

    /// Everything that affects the result apart from the trainer's configuration, the weights and the
    /// [state](Self::state): a training with other settings cannot resume from a checkpoint. Default:
    /// nothing.
    fn settings(&self) -> Value {
        Value::Null
    }

    /// The part of the task that a checkpoint stores. Default: nothing.
    ///
    /// # Errors
    /// If it cannot be read from the device.
    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        Ok(Vec::new())
    }

    /// Restores a state.
    ///
    /// # Errors
    /// If it belongs to another task.
    fn restore(&mut self, _state: &[u8]) -> Result<(), TrainingError> {
        Ok(())
    }
}

/// The usual step: the mean of the losses of the accumulated batches, and one update along its gradient.
pub(crate) fn accumulated<T: Task + ?Sized>(
    task: &mut T,
    learner: &mut Learner<T::Model>,
) -> Result<(), TrainingError> {
    let parts = learner.accumulated();
    for _ in 0..parts {
        let batch = task.batch(learner)?;
        let mut loss = task.loss(learner.model(), batch)?;
        if parts > 1 {
            loss = loss / parts as f64;
        }
        learner.backward(loss)?;
    }
    learner.apply()
}
