//! Multinomial logistic regression: one linear layer before the softmax.
//!
//! `p(class | x) = softmax(x W + b)`. The loss is convex in `W` and `b`, which start at 0.

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use nabla_kernels::linear::linear;
use serde::{Deserialize, Serialize};

use crate::classifier::{Classifier, Seen};

/// Configuration of [`LogisticRegression`], which has no options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogisticRegressionConfig {}

impl LogisticRegressionConfig {
    /// The model with all weights 0.
    pub fn init(&self, features: usize, classes: usize, device: &Device) -> LogisticRegression {
        let mut output = LinearConfig::new(features, classes).init(device);
        output.weight = Param::from_tensor(Tensor::zeros([features, classes], device));
        output.bias = Some(Param::from_tensor(Tensor::zeros([classes], device)));
        LogisticRegression { output }
    }
}

/// The model.
#[derive(Module, Debug)]
pub struct LogisticRegression {
    /// `W`, `[features, classes]`, and `b`.
    pub output: Linear,
}

impl Classifier for LogisticRegression {
    fn logits(&self, input: Tensor<2>) -> Tensor<2> {
        linear(&self.output, input)
    }

    fn seen(&self, input: Tensor<2>) -> Seen {
        Seen::through(&self.output, input)
    }

    fn head(&self) -> Option<&Linear> {
        Some(&self.output)
    }
}
