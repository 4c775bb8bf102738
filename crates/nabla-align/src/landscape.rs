//! Gradients at moved weights, and second derivatives from their differences.
//!
//! Burn does not differentiate a gradient again. What sharpness-aware objectives and those that compare gradients need
//! is a gradient at other weights, or the gradient of a function of gradients, which follows from gradients at other
//! weights. With the loss `L` of some examples, directions `a` and `b` and lengths `ε`:
//!
//! ```text
//! H a            ≈ [8 (∇L(θ + εâ) − ∇L(θ − εâ)) − (∇L(θ + 2εâ) − ∇L(θ − 2εâ))] ‖a‖/12ε             â = a/‖a‖
//! ∂_θ (aᵀH b)    ≈ (4 D(ε) − D(2ε))/3
//! D(ε)           = [∇L(θ + εâ + εb̂) − ∇L(θ + εâ − εb̂) − ∇L(θ − εâ + εb̂) + ∇L(θ − εâ − εb̂)] ‖a‖‖b‖/4ε²
//! ```
//!
//! Both have an error of the order `ε⁴`, so that `ε` may be large enough for 32 bits.
//!
//! Differences are taken on the [linear piece](nabla_kernels::linear_pieces) of the network's rectified units, where its
//! loss is smooth, so they meet no kinks. The running statistics of batch normalisations stay as they are after a pass
//! at moved weights.

use burn::optim::GradientsParams;
use burn::tensor::{Gradients, Tensor};
use nabla_grad::flat::{FlatError, ParameterLayout};
use nabla_grad::training_mode::batch_norm_in_training;
use nabla_kernels::linear_pieces::Pieces;
use nabla_train::classifier::Classifier;

use crate::objective::{DomainStep, ObjectiveError, Pass, number, read};

/// The losses of a model around its weights; see the [module documentation](self).
#[derive(Debug)]
pub struct Landscape<M> {
    model: M,
    layout: ParameterLayout,
    weights: Tensor<1>,
    /// All numbers of the model, if there are statistics among them that move in a pass.
    statistics: Option<ParameterLayout>,
}

/// A gradient with its loss.
#[derive(Clone, Debug)]
pub struct Slope {
    /// `[parameters]`, without autodiff.
    pub gradient: Tensor<1>,
    /// The loss.
    pub loss: f32,
}

impl<M: Classifier> Landscape<M> {
    /// Around the weights of `model`, which must be on an autodiff device.
    ///
    /// # Errors
    /// If it has no parameters that are trained.
    pub fn of(model: &M) -> Result<Self, FlatError> {
        let layout = ParameterLayout::trainable(model)?;
        let statistics = match batch_norm_in_training(model) {
            Some(_) => Some(ParameterLayout::of(model)?),
            None => None,
        };
        Ok(Self {
            weights: layout.flatten_parameters(model)?,
            model: model.clone(),
            layout,
            statistics,
        })
    }

    /// The places of the parameters.
    pub fn layout(&self) -> &ParameterLayout {
        &self.layout
    }

    /// The weights, `[parameters]`, without autodiff.
    pub fn weights(&self) -> &Tensor<1> {
        &self.weights
    }

    /// The model at `θ + offset`.
    ///
    /// # Errors
    /// If the offset does not fit.
    pub fn moved(&self, offset: Tensor<1>) -> Result<M, FlatError> {
        let weights = self.weights.clone() + offset;
        self.layout.with_parameters(self.model.clone(), weights)
    }

    /// The gradient of a loss at the weights. Batch normalisations move their statistics, as in every pass.
    ///
    /// # Errors
    /// If the loss cannot be read from the device.
    pub fn slope(&self, loss: impl FnOnce(&M) -> Tensor<1>) -> Result<Slope, ObjectiveError> {
        self.slope_of(&self.model, loss, |_| {})
    }

    /// [`slope`](Self::slope) of the loss of each domain of a step, with the passes.
    ///
    /// # Errors
    /// If a loss cannot be read from the device.
    pub fn slopes_of_domains(
        &self,
        step: &DomainStep<'_, M>,
    ) -> Result<(Vec<Slope>, Vec<Pass>), ObjectiveError> {
        let mut passes = Vec::with_capacity(step.domains().len());
        let mut slopes = Vec::with_capacity(step.domains().len());
        for batch in step.domains() {
            slopes.push(self.slope(|model| {
                let pass = step.pass_of(model, batch);
                let loss = pass.loss();
                passes.push(pass);
                loss
            })?);
        }
        Ok((slopes, passes))
    }

    fn slope_of(
        &self,
        model: &M,
        loss: impl FnOnce(&M) -> Tensor<1>,
        look: impl FnOnce(&Gradients),
    ) -> Result<Slope, ObjectiveError> {
        let loss = loss(model);
        let told = number(&loss)?;
        let gradients = loss.backward();
        look(&gradients);
        let gradients = GradientsParams::from_grads(gradients, model);
        Ok(Slope {
            gradient: self.layout.flatten_gradients_or_zeros(&gradients)?,
            loss: told,
        })
    }

    /// The gradient of a loss at `θ + offset`, without moving the statistics of batch normalisations.
    ///
    /// # Errors
    /// If the offset does not fit, or the loss cannot be read from the device.
    pub fn slope_at(
        &self,
        offset: Tensor<1>,
        loss: impl FnOnce(&M) -> Tensor<1>,
    ) -> Result<Slope, ObjectiveError> {
        self.slope_with(offset, loss, |_| {})
    }

    /// As [`slope_at`](Self::slope_at).
    ///
    /// - `look`: sees all gradients of the pass, such as those of its input
    ///
    /// # Errors
    /// As `slope_at`.
    pub fn slope_with(
        &self,
        offset: Tensor<1>,
        loss: impl FnOnce(&M) -> Tensor<1>,
        look: impl FnOnce(&Gradients),
    ) -> Result<Slope, ObjectiveError> {
        let model = self.moved(offset)?;
        let kept = self.statistics_now()?;
        let slope = self.slope_of(&model, loss, look);
        self.give_back(kept)?;
        slope
    }

    /// Lets the statistics take up the last pass: Burn leaves it aside until the next one, or until a model is used.
    fn settle(&self) {
        drop(self.model.valid());
    }

    /// Restores statistics. Burn shares them between the clones of a module, so this reaches the model of the training.
    fn give_back(&self, kept: Option<(ParameterLayout, Tensor<1>)>) -> Result<(), FlatError> {
        match kept {
            Some((all, values)) => {
                self.settle();
                all.with_parameters(self.model.clone(), values).map(|_| ())
            }
            None => Ok(()),
        }
    }

    /// All numbers of the model as they are now, if there are statistics among them that move.
    fn statistics_now(&self) -> Result<Option<(ParameterLayout, Tensor<1>)>, FlatError> {
        match &self.statistics {
            Some(all) => {
                self.settle();
                Ok(Some((all.clone(), all.flatten_parameters(&self.model)?)))
            }
            None => Ok(None),
        }
    }

    /// The gradient at `θ + offset` on a linear piece, if the network fits it.
    fn held(
        &self,
        offset: Tensor<1>,
        pieces: &Pieces,
        loss: &dyn Fn(&M) -> Tensor<1>,
    ) -> Result<Tensor<1>, ObjectiveError> {
        let model = self.moved(offset)?;
        let kept = self.statistics_now()?;
        let held = pieces
            .hold(|| loss(&model))
            .map_err(|error| ObjectiveError::Own(error.into()))?;
        let gradients = GradientsParams::from_grads(held.backward(), &model);
        self.give_back(kept)?;
        Ok(self.layout.flatten_gradients_or_zeros(&gradients)?)
    }

    /// The linear piece of a loss at the weights.
    fn pieces(&self, loss: &dyn Fn(&M) -> Tensor<1>) -> Result<Pieces, ObjectiveError> {
        let kept = self.statistics_now()?;
        let (_, pieces) = Pieces::record(|| loss(&self.model));
        self.give_back(kept)?;
        Ok(pieces)
    }

    /// `H a`, `[parameters]`, of a loss.
    ///
    /// - `direction`: `a`, `[parameters]`
    /// - `length`: `ε`, by how much the weights are moved
    ///
    /// # Errors
    /// If the direction does not fit, or a number cannot be read from the device.
    pub fn hessian_product(
        &self,
        direction: &Tensor<1>,
        length: f64,
        loss: &dyn Fn(&M) -> Tensor<1>,
    ) -> Result<Tensor<1>, ObjectiveError> {
        let norm = norm(direction)?;
        if norm == 0.0 {
            return Ok(direction.zeros_like());
        }
        let pieces = self.pieces(loss)?;
        let offset = direction.clone() * (length / norm);
        let at = |times: f64| self.held(offset.clone() * times, &pieces, loss);
        let near = at(1.0)? - at(-1.0)?;
        let far = at(2.0)? - at(-2.0)?;
        Ok((near * 8.0 - far) * (norm / (12.0 * length)))
    }

    /// `∂_θ (aᵀH b)` with `a` and `b` held fixed, `[parameters]`, of a loss.
    ///
    /// - `first`, `second`: `a` and `b`, `[parameters]`
    /// - `length`: `ε`, by how much the weights are moved along each
    ///
    /// # Errors
    /// If a direction does not fit, or a number cannot be read from the device.
    pub fn third_derivative(
        &self,
        first: &Tensor<1>,
        second: &Tensor<1>,
        length: f64,
        loss: &dyn Fn(&M) -> Tensor<1>,
    ) -> Result<Tensor<1>, ObjectiveError> {
        let norms = [norm(first)?, norm(second)?];
        if norms.contains(&0.0) {
            return Ok(first.zeros_like());
        }
        let pieces = self.pieces(loss)?;
        let a = first.clone() * (length / norms[0]);
        let b = second.clone() * (length / norms[1]);
        let at =
            |sign: f64, other: f64| self.held(a.clone() * sign + b.clone() * other, &pieces, loss);
        let sum = |by: f64| -> Result<Tensor<1>, ObjectiveError> {
            Ok(at(by, by)? - at(by, -by)? - at(-by, by)? + at(-by, -by)?)
        };
        // D(ε) and D(2ε) have errors of ε² and 4ε².
        let sum = sum(1.0)? * (4.0 / 3.0) - sum(2.0)? * (1.0 / 12.0);
        Ok(sum * (norms[0] * norms[1] / (4.0 * length * length)))
    }
}

/// The Euclidean norm of a vector.
///
/// # Errors
/// If it cannot be read from the device.
pub fn norm(vector: &Tensor<1>) -> Result<f64, ObjectiveError> {
    let squares = read(vector.clone().square().sum())?;
    Ok(f64::from(squares.iter().sum::<f32>()).sqrt())
}
