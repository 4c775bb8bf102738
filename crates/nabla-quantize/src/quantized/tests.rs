use burn::nn::conv::Conv2dConfig;
use burn::nn::{LinearConfig, PaddingConfig2d};
use burn::optim::GradientsParams;
use burn::tensor::Device;
use nabla_kernels::nn;

use super::*;

#[derive(Module, Debug)]
pub(crate) struct Network {
    pub(crate) first: nn::Conv2d,
    pub(crate) second: nn::Conv2d,
    pub(crate) hidden: nn::Linear,
    pub(crate) output: nn::Linear,
}

impl Network {
    pub(crate) fn new(groups: usize, device: &Device) -> Self {
        let conv = |from: usize, to: usize, groups: usize| {
            Conv2dConfig::new([from, to], [3, 3])
                .with_stride([1, 2])
                .with_dilation([2, 1])
                .with_groups(groups)
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        };
        Self {
            first: conv(2, 4, 1).init(device).into(),
            second: conv(4, 6, groups).init(device).into(),
            hidden: LinearConfig::new(6 * 5 * 2, 7).init(device).into(),
            output: LinearConfig::new(7, 3).with_bias(false).init(device).into(),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = burn::tensor::activation::relu(self.first.forward(x));
        let x = burn::tensor::activation::relu(self.second.forward(x));
        let x = self.hidden.forward(x.flatten::<2>(1, 3)).tanh();
        self.output.forward(x)
    }
}

pub(crate) fn picture(device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..3 * 2 * 9 * 8)
        .map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0).sin())
        .collect();
    Tensor::from_data(TensorData::new(values, [3, 2, 9, 8]), device)
}

pub(crate) fn rounded(config: &QuantizationConfig, device: &Device) -> Quantized<Network> {
    let network = Network::new(2, device);
    Quantized::new(network, config, |n| drop(n.forward(picture(device)))).unwrap()
}

/// The value is that of a network whose tensors were rounded beforehand, in floating point.
#[test]
fn a_pass_multiplies_rounded_numbers() {
    let device = Device::flex();
    for bits in [2, 3, 4, 8] {
        let config = QuantizationConfig {
            bits,
            edge_bits: Some(8),
            ..QuantizationConfig::default()
        };
        let model = rounded(&config, &device);
        let found = model.pass(|network| network.forward(picture(&device)));
        let round = |x: Tensor<4>, place: usize| {
            let levels = model.layers[place].levels.unwrap()[1];
            let step: Tensor<4> = model.input_steps[place].val().reshape([1, 1, 1, 1]);
            codes(x, step.clone(), levels) * step
        };
        let kernel = |weight: Tensor<4>, place: usize| {
            let levels = model.layers[place].levels.unwrap()[0];
            let channels = weight.dims()[0];
            let step: Tensor<4> = model.weight_steps[place].val().reshape([channels, 1, 1, 1]);
            codes(weight, step.clone(), levels) * step
        };
        let network = &model.network;
        let layers = [&network.first, &network.second];
        let mut x = picture(&device);
        for (place, layer) in layers.into_iter().enumerate() {
            let mut plain = (**layer).clone();
            plain.weight = Param::initialized(plain.weight.id, kernel(plain.weight.val(), place));
            x = burn::tensor::activation::relu(plain.forward(round(x, place)));
        }
        let mut x: Tensor<2> = x.flatten(1, 3);
        for (place, layer) in [&network.hidden, &network.output].into_iter().enumerate() {
            let [rows, width] = x.dims();
            let input = round(x.reshape([rows, width, 1, 1]), place + 2).reshape([rows, width]);
            let weight = layer.weight.val().transpose();
            let shape = weight.dims();
            let weight = kernel(weight.reshape([shape[0], shape[1], 1, 1]), place + 2);
            let weight: Tensor<2> = weight.reshape(shape);
            x = input.matmul(weight.transpose());
            if let Some(bias) = &layer.bias {
                x = x + bias.val().reshape([1, shape[0]]);
            }
            if place == 0 {
                x = x.tanh();
            }
        }
        let difference = (x - found).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{bits}: {difference}");
    }
}

/// The first and last layer stay, the grid of an input follows from its numbers, and steps are one for each channel.
#[test]
fn layers_are_found_with_their_grids() {
    let device = Device::flex();
    let model = rounded(&QuantizationConfig::default(), &device);
    let names: Vec<&str> = model.layers().iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["first", "second", "hidden", "output"]);
    let grids = [
        None,
        Some([Levels::signed(4).unwrap(), Levels::unsigned(4).unwrap()]),
        Some([Levels::signed(4).unwrap(), Levels::unsigned(4).unwrap()]),
        None,
    ];
    assert!(model.layers().iter().map(|l| l.levels).eq(grids));
    let shapes: Vec<usize> = model.weight_steps.iter().map(|s| s.dims()[0]).collect();
    assert_eq!(shapes, [6, 7]);
    let edges = QuantizationConfig {
        edge_bits: Some(8),
        per_channel: false,
        ..QuantizationConfig::default()
    };
    let model = rounded(&edges, &device);
    // What goes into the first layer and, after tanh, into the last one has negative numbers.
    let inputs: Vec<i32> = model
        .layers()
        .iter()
        .map(|l| l.levels.unwrap()[1].low())
        .collect();
    assert_eq!(inputs, [-128, 0, 0, -128]);
    assert!(model.weight_steps.iter().all(|s| s.dims() == [1]));
    assert_eq!(model.quantizers().len(), 8);
}

/// The gradient by a step size is the difference quotient of the loss with the rounding held as it is, times `γ`.
#[test]
fn step_sizes_have_their_gradients() {
    let device = Device::flex().autodiff();
    let model = rounded(&QuantizationConfig::default(), &device);
    let loss = model
        .pass(|network| network.forward(picture(&device)))
        .square()
        .mean();
    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    for quantizer in model.quantizers() {
        let gradient = gradients.get::<1>(quantizer.id).unwrap();
        let size = gradient.abs().sum().into_scalar::<f32>();
        assert!(size > 0.0 && size.is_finite(), "{quantizer:?}");
    }
    // Weights too, through the rounding.
    let weight = gradients.get::<4>(model.network.second.weight.id).unwrap();
    assert!(weight.abs().sum().into_scalar::<f32>() > 0.0);
}

#[test]
fn what_cannot_be_rounded_is_refused() {
    let device = Device::flex();
    let network = || nn::Linear::from(LinearConfig::new(3, 2).init(&device));
    let x = || Tensor::<2>::ones([1, 3], &device);
    let told = |config: &QuantizationConfig, x: Tensor<2>| {
        let quantized = Quantized::new(network(), config, |n| drop(n.forward(x)));
        quantized.map(|_| ()).unwrap_err().to_string()
    };
    let plain = QuantizationConfig::default();
    assert_eq!(
        told(&plain, x()),
        "the model has 1 linear layers and convolutions, of which the first and the last stay as they are: nothing is left \
         to quantise; give these bits too"
    );
    let wide = QuantizationConfig { bits: 9, ..plain };
    assert_eq!(
        told(&wide, x()),
        "the number of bits is 9, but it must be from 2 to 8"
    );
    let edges = QuantizationConfig {
        edge_bits: Some(4),
        ..plain
    };
    let told = told(&edges, x() * 0.0);
    assert!(
        told.starts_with("no step size follows from the input"),
        "{told}"
    );
}

#[derive(serde::Deserialize)]
struct Reference {
    layers: Vec<LayerCase>,
}

#[derive(serde::Deserialize)]
struct LayerCase {
    kind: String,
    bits: u32,
    shape: Vec<usize>,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    y: Vec<f32>,
    by_x: Vec<f32>,
    by_weight: Vec<f32>,
    by_weight_step: Vec<f32>,
    by_input_step: Vec<f32>,
}

fn near<const D: usize>(found: Tensor<D>, expected: &[f32], what: &str) {
    let found: Vec<f32> = found.into_data().iter::<f32>().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= 5e-5 * scale,
            "{what}: {found} for {expected}"
        );
    }
}

/// Outputs and all gradients of layers are those of a published implementation, which multiplies rounded numbers where
/// this one multiplies integers.
#[test]
fn layers_are_those_of_lsq_net() {
    let text = include_str!("../../tests/reference/lsq.json");
    let reference: Reference = serde_json::from_str(text).unwrap();
    let device = Device::flex().autodiff();
    for case in &reference.layers {
        let config = QuantizationConfig {
            bits: case.bits,
            edge_bits: Some(case.bits),
            ..QuantizationConfig::default()
        };
        let outputs = case.bias.len();
        let bias = Tensor::<1>::from_data(TensorData::new(case.bias.clone(), [outputs]), &device);
        let bias = Some(Param::from_tensor(bias));
        match case.kind.as_str() {
            "linear" => {
                let inputs = case.shape[1];
                let data = TensorData::new(case.weight.clone(), [outputs, inputs]);
                let weight = Tensor::<2>::from_data(data, &device).transpose();
                let layer = Linear {
                    weight: Param::from_tensor(weight.detach()),
                    bias,
                };
                let layer = nn::Linear::from(layer);
                let data = TensorData::new(case.x.clone(), [case.shape[0], inputs]);
                let x = Tensor::<2>::from_data(data, &device).require_grad();
                let model = Quantized::new(layer, &config, |l| drop(l.forward(x.clone()))).unwrap();
                let y = model.pass(|layer| layer.forward(x.clone()));
                near(y.clone(), &case.y, "y");
                let gradients = y.square().mean().backward();
                near(x.grad(&gradients).unwrap(), &case.by_x, "by x");
                let gradients = GradientsParams::from_grads(gradients, &model);
                let by_weight = gradients.get::<2>(model.network.weight.id).unwrap();
                near(by_weight.transpose(), &case.by_weight, "by weight");
                let of = |place: usize| gradients.get::<1>(model.quantizers()[place].id).unwrap();
                near(of(0), &case.by_weight_step, "by step of the weight");
                near(of(1), &case.by_input_step, "by step of the input");
            }
            _ => {
                let [examples, inputs, height, width] = case.shape[..] else {
                    panic!("no picture")
                };
                let layer = Conv2dConfig::new([inputs, outputs], [3, 3])
                    .with_stride([2, 2])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
                let mut layer = layer.init(&device);
                let data = TensorData::new(case.weight.clone(), [outputs, inputs, 3, 3]);
                layer.weight = Param::from_tensor(Tensor::from_data(data, &device));
                layer.bias = bias;
                let layer = nn::Conv2d::from(layer);
                let data = TensorData::new(case.x.clone(), [examples, inputs, height, width]);
                let x = Tensor::<4>::from_data(data, &device).require_grad();
                let model = Quantized::new(layer, &config, |l| drop(l.forward(x.clone()))).unwrap();
                let y = model.pass(|layer| layer.forward(x.clone()));
                near(y.clone(), &case.y, "y");
                let gradients = y.square().mean().backward();
                near(x.grad(&gradients).unwrap(), &case.by_x, "by x");
                let gradients = GradientsParams::from_grads(gradients, &model);
                let by_weight = gradients.get::<4>(model.network.weight.id).unwrap();
                near(by_weight, &case.by_weight, "by weight");
                let of = |place: usize| gradients.get::<1>(model.quantizers()[place].id).unwrap();
                near(of(0), &case.by_weight_step, "by step of the weight");
                near(of(1), &case.by_input_step, "by step of the input");
            }
        }
    }
}
