//! Products of a vector with the Jacobian of what was computed from a leaf of the graph.

use burn::tensor::{Gradients, Tensor};

/// `Jᵀ v`, the gradient of `⟨output, v⟩` with respect to a leaf (0 if the output does not depend on it), and the
/// gradients of the same scalar with respect to everything else.
pub(crate) fn vector_jacobian<const D: usize>(
    leaf: &Tensor<D>,
    output: Tensor<D>,
    vector: Tensor<D>,
) -> (Tensor<D>, Gradients) {
    // Also where the output does not depend on the leaf, there is a graph to follow.
    let scalar = (output * vector).sum() + leaf.clone().sum() * 0.0;
    let mut gradients = scalar.backward();
    let gradient = leaf.grad_remove(&mut gradients);
    let gradient = gradient.unwrap_or_else(|| leaf.clone().inner().zeros_like());
    (gradient, gradients)
}
