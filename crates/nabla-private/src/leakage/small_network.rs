//! A small network to attack: one hidden layer of smooth units, with random weights.
//!
//! Its second derivatives are smooth, as the [oracle](super::gradient_oracle) likes it. Sigmoid features are positive, so
//! that [labels](super::labels) follow from the gradient. At the start of a training a gradient gives away most. Tests and
//! experiments attack it; any other [`Classifier`](nabla_train::classifier::Classifier) is attacked by
//! [`audit`](super::audit).

use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_grad::flat::FlatError;
use nabla_kernels::activation::{sigmoid, tanh};
use nabla_kernels::linear::linear;
use nabla_train::initialization::he_normal;

/// The units of the hidden layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Units {
    /// `1/(1 + e⁻ˣ)`.
    Sigmoid,
    /// `tanh x`.
    Tanh,
}

/// The network.
#[derive(Module, Debug)]
pub struct SmallNetwork {
    hidden: Linear,
    output: Linear,
    #[module(skip)]
    units: Units,
}

impl SmallNetwork {
    /// With weights drawn from `seed`.
    ///
    /// - `sizes`: pixels, hidden units and classes
    ///
    /// # Errors
    /// If a size is 0.
    pub fn new(
        [pixels, hidden, classes]: [usize; 3],
        units: Units,
        seed: u64,
        device: &Device,
    ) -> Result<Self, FlatError> {
        let device = device.clone().autodiff();
        let layer = |inputs, outputs| {
            LinearConfig::new(inputs, outputs)
                .with_initializer(Initializer::Zeros)
                .init(&device)
        };
        let network = Self {
            hidden: layer(pixels, hidden),
            output: layer(hidden, classes),
            units,
        };
        he_normal(network, seed)
    }

    /// The input of the last layer, `[batch, pixels]` to `[batch, hidden]`.
    pub fn features(&self, pictures: Tensor<2>) -> Tensor<2> {
        let sums = linear(&self.hidden, pictures);
        match self.units {
            Units::Sigmoid => sigmoid(sums),
            Units::Tanh => tanh(sums),
        }
    }

    /// `[batch, pixels]` to `[batch, classes]`.
    pub fn scores(&self, pictures: Tensor<2>) -> Tensor<2> {
        linear(&self.output, self.features(pictures))
    }
}

/// The mean cross-entropy of scores, `[batch, classes]`, with the class of each row.
pub fn label_loss(scores: Tensor<2>, labels: &[usize]) -> Tensor<1> {
    let [batch, classes] = scores.dims();
    let mut chosen = vec![0.0_f32; batch * classes];
    for (row, &label) in labels.iter().enumerate().take(batch) {
        if label < classes {
            chosen[row * classes + label] = 1.0;
        }
    }
    let device = scores.device().without_autodiff();
    let chosen = TensorData::new(chosen, [batch, classes]);
    let chosen = Tensor::<2>::from_data(chosen, (&device, scores.dtype()));
    -(chosen.autodiff() * log_softmax(scores, 1)).sum() / batch as f64
}
