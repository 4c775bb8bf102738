//! Why a training cannot start or continue.

use std::error::Error;

use nabla_base::OutOfRange;
use nabla_grad::clipping::ClippingError;
use nabla_grad::flat::FlatError;
use nabla_optim::checked_step::StepError;

use crate::checkpoint::CheckpointError;
use crate::ema::EmaError;
use crate::optimizer::OptimizerError;

/// The reason why a training cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum TrainingError {
    /// The task's own error: its data, its model, its loss.
    #[error(transparent)]
    Task(Box<dyn Error + Send + Sync>),
    /// The optimizer.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The average of the weights.
    #[error(transparent)]
    Ema(#[from] EmaError),
    /// A value of the training or of its schedule is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The model is on a device that computes no gradients.
    #[error("the model must be on an autodiff device to be trained: use `device.autodiff()`")]
    NoGradients,
    /// A player does not exist.
    #[error("the training has no player {name:?}, only {}", players.join(", "))]
    UnknownPlayer {
        /// The name.
        name: String,
        /// The names of the players.
        players: Vec<String>,
    },
    /// Two players have the same name, or a player has no parameters.
    #[error("the player {name:?} {reason}")]
    Player {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A step updated nothing.
    #[error("the task updated nothing in step {step}")]
    Idle {
        /// The step, from 1.
        step: usize,
    },
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
    /// The gradients are finite, but their norm is not.
    #[error("the gradient's norm overflows in step {step}: lower the learning rate")]
    Overflow {
        /// The step, from 1.
        step: usize,
    },
    /// A norm cannot be read.
    #[error(transparent)]
    Clipping(#[from] ClippingError),
    /// Something failed in a step that is not the input's fault.
    #[error(transparent)]
    Failed(Box<dyn Error + Send + Sync>),
    /// A value cannot be read back from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

impl TrainingError {
    /// A task's own error, which may be a text.
    pub fn task(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Task(error.into())
    }

    /// Whether the training diverged, rather than the input being wrong.
    pub fn is_divergence(&self) -> bool {
        matches!(
            self,
            Self::Diverged { .. } | Self::Gradient { .. } | Self::Overflow { .. }
        )
    }

    /// Whether it failed while it ran, rather than the input being wrong.
    pub fn is_failure(&self) -> bool {
        self.is_divergence()
            || matches!(self, Self::Clipping(_) | Self::Device(_) | Self::Failed(_))
    }
}
