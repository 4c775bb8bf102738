//! What holds for every optimizer that has a name.

use burn::module::{Initializer, Module, ModuleVisitor, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use nabla_grad::flat::with_float_type;
use nabla_train::initialization::he_normal;
use nabla_train::optimizer::{OptimizerConfig, methods};

/// A layer of zeros, whose matrix is to be drawn from a seed.
fn linear(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs)
        .with_initializer(Initializer::Zeros)
        .init(device)
}

/// A kernel, matrices and vectors.
#[derive(Module, Debug)]
struct Net {
    convolution: Conv2d,
    hidden: Linear,
    output: Linear,
}

impl Net {
    fn new() -> Self {
        let device = Device::flex().autodiff();
        let net = Self {
            convolution: Conv2dConfig::new([2, 4], [3, 3])
                .with_initializer(Initializer::Zeros)
                .init(&device),
            hidden: linear(4 * 4, 6, &device),
            output: linear(6, 3, &device),
        };
        he_normal(net, 11).unwrap()
    }

    /// The square of its outputs from the target, whose gradient is in every parameter.
    fn loss(&self, x: Tensor<4>) -> Tensor<1> {
        let x: Tensor<2> = self.convolution.forward(x).tanh().flatten(1, 3); // [batch, 16]
        let y = self.output.forward(self.hidden.forward(x).tanh());
        (y - 0.5).square().sum()
    }
}

fn values(net: &Net) -> Vec<f64> {
    struct Values(Vec<f64>);
    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let data = param.val().without_autodiff().into_data();
            self.0.extend(data.iter::<f64>());
        }
    }
    let mut values = Values(Vec::new());
    net.visit(&mut values);
    values.0
}

/// The weights after six steps.
fn trained(config: &OptimizerConfig, mut net: Net, dtype: DType) -> Vec<f64> {
    let device = Device::flex().autodiff();
    let pictures: Vec<f64> = (0..2 * 2 * 4 * 4)
        .map(|i| f64::from(i * i % 17) / 17.0 - 0.4)
        .collect();
    let data = burn::tensor::TensorData::new(pictures, [2, 2, 4, 4]);
    let x = Tensor::<4>::from_data(data, (&device, dtype));
    let mut stepper = config.init(&net).unwrap();
    for _ in 0..6 {
        let gradients = GradientsParams::from_grads(net.loss(x.clone()).backward(), &net);
        net = stepper.step(1e-2, net, gradients).unwrap();
    }
    values(&net)
}

/// In 32 bits the optimizers of Nabla step in one pass over memory, in 64 by Burn's operations.
#[test]
fn every_optimizer_steps_alike_in_both_precisions() {
    for method in methods() {
        // Its window of gradients has 32 bits.
        if method.name() == "m-fac" {
            continue;
        }
        for decay in [0.0, 0.1] {
            let mut config = OptimizerConfig::named(method.name()).unwrap();
            config.weight_decay = decay;
            let start = values(&Net::new());
            let single = trained(&config, Net::new(), DType::F32);
            let double = with_float_type(Net::new(), DType::F64);
            let double = trained(&config, double, DType::F64);
            let (mut moved, mut apart) = (0.0f64, 0.0f64);
            for ((a, b), c) in start.iter().zip(&single).zip(&double) {
                moved = moved.max((b - a).abs());
                apart = apart.max((b - c).abs());
            }
            assert!(moved > 1e-3, "{} moved by {moved}", method.name());
            assert!(
                apart < 2e-3 * moved,
                "{}: {apart} apart after {moved}",
                method.name()
            );
        }
    }
}
