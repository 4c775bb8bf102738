//! `nabla inspect`: what gradients and curvature tell of a trained model.

use crate::job::{Of, jobs};
use crate::jobs::{inspect_coherence, inspect_dimension, inspect_features, inspect_sharpness};

jobs! {
    /// What can be inspected.
    pub enum Task {
        /// Measure how much the gradients of examples agree, by layer and over the training, and which examples are hard
        Coherence(Of<inspect_coherence::Arguments>),
        /// Measure how many directions the data of a denoiser have at a place, and how much of its field is no gradient
        Dimension(Of<inspect_dimension::Arguments>),
        /// Find features of a language model with sparse autoencoders, what it loses without the rest, and steer by them
        Features(Of<inspect_features::Arguments>),
        /// Measure how sharp the loss is around the weights, and at which learning rates SGD could rest there
        Sharpness(Of<inspect_sharpness::Arguments>),
    }
}
