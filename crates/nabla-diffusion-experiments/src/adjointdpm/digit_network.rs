//! A small network of handwritten digits: a multilayer perceptron of the noisy digit, the time and a
//! condition.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Int, Tensor};
use nabla_claims::ClaimError;
use nabla_diffusion::rddm_sampler::seeded_weights;
use nabla_diffusion::unet::sinusoidal_embedding;

use crate::digits::{CLASSES, PIXELS};

/// Numbers of a condition.
pub(super) const CONDITION: usize = 16;

/// Sines and cosines of the time, and units of a hidden layer.
const TIMES: usize = 32;
const UNITS: usize = 256;

/// The network: three hidden layers.
#[derive(Module, Debug)]
pub(super) struct DigitNetwork {
    /// A condition for each class, `[CLASSES, CONDITION]`.
    conditions: Param<Tensor<2>>,
    input: Linear,
    hidden: Vec<Linear>,
    output: Linear,
}

impl DigitNetwork {
    /// With weights of a seed.
    pub(super) fn new(seed: u64, device: &Device) -> Result<Self, ClaimError> {
        seeded_weights(seed, device, || {
            let layer = |inputs, outputs| LinearConfig::new(inputs, outputs);
            let normal = Initializer::Normal {
                mean: 0.0,
                std: 1.0,
            };
            Ok::<_, ClaimError>(Self {
                conditions: normal.init([CLASSES, CONDITION], device),
                input: layer(PIXELS + TIMES + CONDITION, UNITS).init(device),
                hidden: (0..2).map(|_| layer(UNITS, UNITS).init(device)).collect(),
                output: layer(UNITS, PIXELS).init(device),
            })
        })
    }

    /// - `x`: `[batch, PIXELS]`
    /// - `times`: `[batch]`, in `[0, 1]`
    /// - `condition`: `[batch, CONDITION]`
    /// - returns `[batch, PIXELS]`
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        times: Tensor<1>,
        condition: Tensor<2>,
    ) -> Tensor<2> {
        let times = sinusoidal_embedding(times * 1000.0, TIMES);
        let inputs = Tensor::cat(vec![x, times, condition], 1);
        let mut h = silu(self.input.forward(inputs));
        for layer in &self.hidden {
            h = silu(layer.forward(h));
        }
        self.output.forward(h)
    }

    /// The conditions of classes, `[classes, CONDITION]`.
    pub(super) fn conditions(&self, classes: &[usize]) -> Tensor<2> {
        let table = self.conditions.val();
        let numbers: Vec<i32> = classes.iter().map(|&class| class as i32).collect();
        let numbers = Tensor::<1, Int>::from_ints(numbers.as_slice(), &table.device());
        table.select(0, numbers)
    }
}
