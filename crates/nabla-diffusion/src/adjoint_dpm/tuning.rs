//! Parameters that are tuned along gradients of finished samples: an embedding, weights.
//!
//! ```text
//! θ ← AdamW(θ, ∂L(x_0)/∂θ)
//! ```

use std::ops::ControlFlow;

use burn::config::Config;
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use nabla_base::range::{self, OutOfRange};

use super::AdjointError;
use crate::sampler_error::SamplerError;

/// Steps of AdamW; the defaults are those of the paper's text embeddings.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Tuning {
    /// Their number. Default 50.
    #[config(default = 50)]
    pub iterations: usize,
    /// The learning rate. Default 0.05.
    #[config(default = 0.05)]
    pub learning_rate: f64,
    /// The weight decay. Default 0.01.
    #[config(default = 0.01)]
    pub weight_decay: f32,
}

/// What an observer sees after each iteration.
#[derive(Clone, Copy, Debug)]
pub struct TuningProgress {
    /// Iterations that are done.
    pub done: usize,
    /// All iterations.
    pub total: usize,
    /// The loss before the last one.
    pub loss: f64,
}

/// A loss, and its gradient by parameter.
pub type LossAndGradients<E> = Result<(f64, GradientsParams), E>;

impl Tuning {
    /// # Errors
    /// If there are no iterations, the learning rate is not positive, or the weight decay is negative.
    pub fn check(&self) -> Result<(), OutOfRange> {
        range::at_least("number of iterations", self.iterations, 1)?;
        range::positive("learning rate", self.learning_rate)?;
        range::not_negative("weight decay", f64::from(self.weight_decay))
    }

    /// Tunes the parameters of `module`, and returns them with the loss before each iteration.
    ///
    /// - `gradient`: the loss of the parameters and its gradient, for the iteration with this number, from 0
    /// - `observe`: is called after each iteration, and may stop the run
    ///
    /// # Errors
    /// If a field is out of range, or as `gradient`; [`SamplerError::Cancelled`] if `observe` stops the run.
    pub fn run<M: Module, E: From<AdjointError>>(
        &self,
        mut module: M,
        gradient: &mut dyn FnMut(&M, usize) -> LossAndGradients<E>,
        observe: &mut dyn FnMut(TuningProgress) -> ControlFlow<()>,
    ) -> Result<(M, Vec<f64>), E> {
        self.check().map_err(AdjointError::from)?;
        let mut adam = AdamWConfig::new()
            .with_weight_decay(self.weight_decay)
            .init();
        let mut losses = Vec::with_capacity(self.iterations);
        for k in 0..self.iterations {
            let (loss, gradients) = gradient(&module, k)?;
            losses.push(loss);
            module = adam.step(self.learning_rate, module, gradients);
            let progress = TuningProgress {
                done: k + 1,
                total: self.iterations,
                loss,
            };
            if observe(progress).is_break() {
                return Err(AdjointError::Sampler(SamplerError::Cancelled).into());
            }
        }
        Ok((module, losses))
    }
}
