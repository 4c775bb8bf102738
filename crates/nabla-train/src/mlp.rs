//! A multilayer perceptron: linear layers with rectified units between them.
//!
//! Matrices are drawn by [He's rule](crate::initialization), biases start at 0.

use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use nabla_kernels::activation::relu;
use nabla_kernels::linear::linear as apply;
use serde::{Deserialize, Serialize};

use crate::classifier::{Classifier, ModelError, Seen, check_width};

/// Configuration of [`Mlp`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpConfig {
    /// Units of each hidden layer. Default 128 and 64.
    pub hidden: Vec<usize>,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self {
            hidden: vec![128, 64],
        }
    }
}

impl MlpConfig {
    /// The model, with matrices to be [drawn](crate::initialization::he_normal).
    ///
    /// # Errors
    /// If a layer has no units or more than 65536.
    pub fn init(
        &self,
        features: usize,
        classes: usize,
        device: &Device,
    ) -> Result<Mlp, ModelError> {
        let mut inputs = features;
        let mut hidden = Vec::new();
        for &units in &self.hidden {
            check_width("mlp", "hidden layer", units)?;
            hidden.push(linear(inputs, units, device));
            inputs = units;
        }
        Ok(Mlp {
            hidden,
            output: linear(inputs, classes, device),
        })
    }
}

/// A layer of zeros, whose matrix is to be drawn.
pub(crate) fn linear(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs)
        .with_initializer(Initializer::Zeros)
        .init(device)
}

/// The model.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `[d_input, d_output]` each, followed by rectified units.
    pub hidden: Vec<Linear>,
    /// The last layer.
    pub output: Linear,
}

impl Mlp {
    /// The input of the last layer.
    fn features(&self, input: Tensor<2>) -> Tensor<2> {
        let mut x = input;
        for layer in &self.hidden {
            x = relu(apply(layer, x));
        }
        x
    }
}

impl Classifier for Mlp {
    fn logits(&self, input: Tensor<2>) -> Tensor<2> {
        apply(&self.output, self.features(input))
    }

    fn seen(&self, input: Tensor<2>) -> Seen {
        Seen::through(&self.output, self.features(input))
    }

    fn head(&self) -> Option<&Linear> {
        Some(&self.output)
    }
}
