//! Transforms of a model's gradients before the optimizer's step.
//!
//! A training has a chain of [transforms](GradientTransform), which are applied one after the other:
//!
//! ```text
//! g ← ∇L,   g ← T₁(g),   g ← T₂(g),   …,   θ ← step of the optimizer along g
//! ```
//!
//! [`ClipByValue`] and [`ClipByNorm`] are built in; your own is a type with one method. A transform may have
//! a state (a residual, a moving average, a position in a stream of noise), which checkpoints store.
//!
//! ```
//! use burn::module::Module;
//! use nabla_train::error::TrainingError;
//! use nabla_train::transform::{GradientTransform, Gradients};
//!
//! /// Takes the mean off a gradient.
//! struct Centred;
//!
//! impl<M: Module> GradientTransform<M> for Centred {
//!     fn name(&self) -> &str {
//!         "centred"
//!     }
//!
//!     fn apply(&mut self, gradients: &mut Gradients<'_, M>) -> Result<(), TrainingError> {
//!         gradients.map_flat(|g| {
//!             let mean = g.clone().mean();
//!             Ok(g - mean)
//!         })
//!     }
//! }
//! ```
//!
//! The chain follows optax (DeepMind), where the optimizer is a transform, too.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use nabla_grad::clipping::{clip_norm, clip_value, gradient_norm};
use nabla_grad::flat::ParameterLayout;
use serde_json::Value;

use crate::error::TrainingError;

/// The gradients of a step on their way to the optimizer.
pub struct Gradients<'a, M: Module> {
    model: &'a M,
    gradients: GradientsParams,
    step: usize,
    measured: Option<f32>,
}

impl<'a, M: Module> Gradients<'a, M> {
    /// The gradients of a model in step `step`, from 0.
    pub fn new(model: &'a M, gradients: GradientsParams, step: usize) -> Self {
        Self {
            model,
            gradients,
            step,
            measured: None,
        }
    }

    /// The model, with the weights before the step.
    pub fn model(&self) -> &'a M {
        self.model
    }

    /// The step, from 0.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Burn's gradients by parameter.
    pub fn params(&self) -> &GradientsParams {
        &self.gradients
    }

    /// Burn's gradients by parameter, to be changed.
    pub fn params_mut(&mut self) -> &mut GradientsParams {
        &mut self.gradients
    }

    /// The current Euclidean norm of all gradients together. The norm at the first reading goes into the
    /// history.
    ///
    /// # Errors
    /// If it cannot be read from the device.
    pub fn norm(&mut self) -> Result<f32, TrainingError> {
        let norm = gradient_norm(self.model, &self.gradients)?;
        self.measured.get_or_insert(norm);
        Ok(norm)
    }

    /// Changes all gradients together as one vector `[d]`, in the order of the model's trainable parameters,
    /// with zeros for parameters without a gradient.
    ///
    /// # Errors
    /// The error of `change`, or if the gradients or the new vector do not fit the model.
    pub fn map_flat(
        &mut self,
        change: impl FnOnce(Tensor<1>) -> Result<Tensor<1>, TrainingError>,
    ) -> Result<(), TrainingError> {
        let layout = ParameterLayout::trainable(self.model)?;
        let vector = layout.flatten_gradients_or_zeros(&self.gradients)?;
        self.gradients = layout.to_gradients(change(vector)?)?;
        Ok(())
    }

    /// Burn's gradients, and the norm at the first reading, which may be now.
    pub(crate) fn finish(mut self) -> Result<(GradientsParams, f32), TrainingError> {
        let norm = match self.measured {
            Some(norm) => norm,
            None => self.norm()?,
        };
        Ok((self.gradients, norm))
    }
}

/// A transform in the chain; see the [module documentation](self).
pub trait GradientTransform<M: Module>: Send {
    /// Its name in checkpoints.
    fn name(&self) -> &str;

    /// Changes the gradients.
    ///
    /// # Errors
    /// Any error that prevents this; the step is then not taken.
    fn apply(&mut self, gradients: &mut Gradients<'_, M>) -> Result<(), TrainingError>;

    /// Everything that affects the result, apart from the state; a training with other settings cannot resume
    /// from a checkpoint. Default: nothing.
    fn settings(&self) -> Value {
        Value::Null
    }

    /// Its state. Default: none.
    ///
    /// # Errors
    /// If it cannot be read from the device.
    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        Ok(Vec::new())
    }

    /// Restores a state.
    ///
    /// # Errors
    /// If it belongs to another transform.
    fn restore(&mut self, _state: &[u8]) -> Result<(), TrainingError> {
        Ok(())
    }
}

/// Limits the Euclidean norm of all gradients together: `g ← g · min(1, c/‖g‖₂)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipByNorm(
    /// The limit `c`.
    pub f64,
);

impl<M: Module> GradientTransform<M> for ClipByNorm {
    fn name(&self) -> &str {
        "clip-by-norm"
    }

    fn apply(&mut self, gradients: &mut Gradients<'_, M>) -> Result<(), TrainingError> {
        let norm = clip_norm(gradients.model, &mut gradients.gradients, self.0)?;
        gradients.measured.get_or_insert(norm);
        Ok(())
    }

    fn settings(&self) -> Value {
        self.0.into()
    }
}

/// Limits each number of the gradients: `g ← min(max(g, −c), c)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipByValue(
    /// The limit `c`.
    pub f64,
);

impl<M: Module> GradientTransform<M> for ClipByValue {
    fn name(&self) -> &str {
        "clip-by-value"
    }

    fn apply(&mut self, gradients: &mut Gradients<'_, M>) -> Result<(), TrainingError> {
        clip_value(gradients.model, &mut gradients.gradients, self.0);
        Ok(())
    }

    fn settings(&self) -> Value {
        self.0.into()
    }
}
