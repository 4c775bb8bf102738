//! What is trained, and on what: the part of a training that differs from one to the next.
//!
//! A [`Task`] gives the batch of a step and its loss; the [trainer](crate::trainer) has all the rest. It
//! may have a step of its own instead, in which it calls the [`Learner`] as often as it needs to. How the
//! usual kinds are written:
//!
//! * **One loss** (classifiers, regression, denoisers): [`batch`](Task::batch) and [`loss`](Task::loss).
//! * **Two players** (a generator and a discriminator): the model is a module with both networks in it,
//!   the trainer has a [player](crate::trainer::Trainer::with_player) for each, with its optimizer and its
//!   chain of transforms, and [`step`](Task::step) computes one loss after the other, each on the
//!   weights that the one before left: `learner.update_player("discriminator", loss)`, then
//!   `learner.update_player("generator", loss)`. A loss changes the weights of its player alone.
//! * **An agent with a replay buffer**: the buffer, the environment and the generator of random actions
//!   are fields of the task and its [`state`](Task::state); [`batch`](Task::batch) acts in the environment
//!   with the model, remembers what came of it and draws from what it remembers. A target network is the
//!   learner's [average](Learner::average) or a module among the fields.

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
    /// What is trained: a module that lives on an autodiff device.
    type Model: Module;
    /// What one loss is computed from.
    type Batch;
    /// What is measured now and then; `()` if nothing is.
    type Report: Clone + Debug + Serialize + DeserializeOwned;

    /// The batch of the present step; of several, if gradients are accumulated, the next one.
    ///
    /// # Errors
    /// Whatever keeps the task from its data; the training stops with it.
    fn batch(&mut self, learner: &Learner<Self::Model>) -> Result<Self::Batch, TrainingError>;

    /// The loss, `[1]`, whose gradient is stepped along. Not asked for by a task with a step of its own.
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

    /// One step: the mean of the losses of as many batches as are accumulated, and one update along its
    /// gradient, unless the task does something else.
    ///
    /// # Errors
    /// Those of the parts, and if a loss or a gradient is not finite.
    fn step(&mut self, learner: &mut Learner<Self::Model>) -> Result<(), TrainingError> {
        let parts = learner.accumulated();
        for _ in 0..parts {
            let batch = self.batch(learner)?;
            let mut loss = self.loss(learner.model(), batch)?;
            if parts > 1 {
                loss = loss / parts as f64;
            }
            learner.backward(loss)?;
        }
        learner.apply()?;
        Ok(())
    }

    /// Sees what a step that is over did.
    fn stepped(&mut self, _record: &StepRecord) {}

    /// Measures the model after `step` steps, if the time has come.
    ///
    /// # Errors
    /// If it cannot.
    fn evaluate(
        &mut self,
        _model: &Self::Model,
        _step: usize,
    ) -> Result<Option<Self::Report>, TrainingError> {
        Ok(None)
    }

    /// What decides the bits of the training apart from the trainer's configuration, the weights and the
    /// [state](Self::state): a training with other settings does not go on from a checkpoint. Default:
    /// nothing.
    fn settings(&self) -> Value {
        Value::Null
    }

    /// What a checkpoint keeps of the task. Default: nothing.
    ///
    /// # Errors
    /// If it cannot be read from the device.
    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        Ok(Vec::new())
    }

    /// Goes on from a state.
    ///
    /// # Errors
    /// If it is another task's.
    fn restore(&mut self, _state: &[u8]) -> Result<(), TrainingError> {
        Ok(())
    }
}
