//! A denoised estimate whose derivative with respect to the state can be applied: `Jᵀ w`, `J = ∂x̂_0/∂x`.

use burn::tensor::Tensor;

use crate::asking::Step;
use crate::denoiser::{Condition, Denoised};
use crate::guidance::ModelAt;
use crate::sampler_error::OwnError;

/// The estimate at a state.
pub(crate) struct Differentiated<const D: usize> {
    /// `x`, a leaf of the graph.
    leaf: Tensor<D>,
    /// `x̂_0`, in the graph.
    sample: Tensor<D>,
    /// The prediction, without the graph.
    pub(crate) denoised: Denoised<D>,
}

impl<const D: usize> Differentiated<D> {
    /// Asks the model under its first condition, with a limit on the sample, where its derivative is 0.
    pub(crate) fn ask(
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
        clip: Option<f64>,
    ) -> Result<Self, OwnError> {
        let leaf = step.x.clone().autodiff().detach().require_grad();
        let output = model.ask_at(&leaf, Condition::FIRST)?;
        let found = Denoised::from_output(output, &leaf, step.level, model.prediction())?;
        let found = found.clip(clip);
        let like = |tensor: Tensor<D>| as_state(tensor, step.x);
        let denoised = Denoised {
            variance: found.variance.map(like),
            ..Denoised::new(like(found.sample.clone()), like(found.epsilon))
        };
        Ok(Self {
            leaf,
            sample: found.sample,
            denoised,
        })
    }

    /// `Jᵀ w`.
    ///
    /// - `w`: of the shape of the estimate
    ///
    /// # Errors
    /// If the model's answer does not depend on the state.
    pub(crate) fn pull_back(&self, w: Tensor<D>) -> Result<Tensor<D>, OwnError> {
        let w = w.without_autodiff();
        let gradients = (self.sample.clone() * w.clone()).sum().backward();
        let gradient = self.leaf.grad(&gradients);
        let gradient = gradient.ok_or(
            "the model's answer does not depend on the noisy picture, so no gradient goes through it: use a \
             method without gradients (dds, ddnm)",
        )?;
        Ok(gradient)
    }
}

/// A tensor without a graph, with or without automatic differentiation as the state.
fn as_state<const D: usize>(tensor: Tensor<D>, state: &Tensor<D>) -> Tensor<D> {
    match state.is_autodiff() {
        true => tensor.detach(),
        false => tensor.without_autodiff(),
    }
}
