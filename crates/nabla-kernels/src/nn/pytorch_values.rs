//! Values and gradients of every layer beside PyTorch's (`tests/reference/layers.py`), in `f64` and in `f32`.

use std::collections::HashMap;
use std::sync::LazyLock;

use burn::module::Param;
use burn::nn::conv::{
    Conv1dConfig, Conv2dConfig, Conv3dConfig, ConvTranspose1dConfig, ConvTranspose2dConfig,
    ConvTranspose3dConfig,
};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{
    AdaptiveAvgPool2dConfig, AvgPool1dConfig, AvgPool2dConfig, MaxPool1dConfig, MaxPool2dConfig,
};
use burn::nn::{
    BatchNormConfig, EmbeddingConfig, GroupNormConfig, InstanceNormConfig, LayerNormConfig,
    LinearConfig, PaddingConfig1d, PaddingConfig2d, PaddingConfig3d, RmsNormConfig,
};
use burn::tensor::{DType, Gradients, TensorData};
use serde_json::Value;

use super::*;
use crate::activation::Activation;
use crate::attention::attention;
use crate::cross_entropy::cross_entropy;
use crate::mean_squared_error::mean_squared_error;

static CASES: LazyLock<HashMap<String, Value>> = LazyLock::new(|| {
    let text = include_str!("../../tests/reference/layers.json");
    let all: Value = serde_json::from_str(text).unwrap();
    let cases = all["cases"].as_array().unwrap().iter();
    cases
        .map(|case| (case["name"].as_str().unwrap().to_owned(), case.clone()))
        .collect()
});

fn numbers(value: &Value) -> Vec<f64> {
    let number = |value: &Value| match value.as_str() {
        // What JSON does not have.
        Some(text) => text.parse().unwrap(),
        None => value.as_f64().unwrap(),
    };
    value.as_array().unwrap().iter().map(number).collect()
}

fn shape<const D: usize>(value: &Value) -> [usize; D] {
    let sizes = value.as_array().unwrap().iter();
    let sizes: Vec<usize> = sizes.map(|size| size.as_u64().unwrap() as usize).collect();
    sizes.try_into().unwrap()
}

/// A case in a number type.
struct Case {
    case: &'static Value,
    dtype: DType,
    device: Device,
}

/// The case in both number types.
fn in_both(name: &str, check: impl Fn(&Case)) {
    for dtype in [DType::F64, DType::F32] {
        check(&Case {
            case: &CASES[name],
            dtype,
            device: Device::flex().autodiff(),
        });
    }
}

impl Case {
    fn tensor<const D: usize>(&self, values: Vec<f64>, shape: [usize; D]) -> Tensor<D> {
        let data = TensorData::new(values, shape).convert_dtype(self.dtype);
        Tensor::from_data(data, (&self.device, self.dtype))
    }

    fn input<const D: usize>(&self) -> Tensor<D> {
        let input = self.tensor(numbers(&self.case["input"]), shape(&self.case["shape"]));
        input.require_grad()
    }

    fn near(&self, what: &str, found: &TensorData, expected: &Value) {
        let expected = numbers(expected);
        let found: Vec<f64> = found.clone().convert::<f64>().iter().collect();
        assert_eq!(found.len(), expected.len(), "{what}");
        let bound = if self.dtype == DType::F64 { 1e-9 } else { 1e-4 };
        for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let name = &self.case["name"];
            let same = found == expected || (found.is_nan() && expected.is_nan());
            assert!(
                same || (found - expected).abs() < bound * expected.abs().max(1.0),
                "{name} {:?}, {what} {place}: {found} instead of {expected}",
                self.dtype
            );
        }
    }

    /// Checks the output and the gradients.
    fn check<M: Module, const I: usize, const O: usize>(
        &self,
        module: &M,
        x: &Tensor<I>,
        y: Tensor<O>,
    ) {
        self.near("output", &y.to_data(), &self.case["output"]);
        let weights = self.tensor(numbers(&self.case["weights"]), y.dims());
        let gradients = (y * weights).sum().backward();
        if let Some(by_input) = x.grad(&gradients) {
            self.near("gradient", &by_input.into_data(), &self.case["by_input"]);
        }
        let mut found = Found {
            gradients: &gradients,
            by_parameters: Vec::new(),
        };
        module.visit(&mut found);
        let known = self.case["parameters"].as_array().unwrap();
        assert_eq!(found.by_parameters.len(), known.len());
        for (gradient, own) in found.by_parameters.iter().zip(known) {
            self.near("parameter", gradient, &own["gradient"]);
        }
    }
}

/// Gives a layer the parameters of a case, in their order.
struct Given<'a>(&'a Case, usize);

impl ModuleMapper for Given<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        let own = &self.0.case["parameters"][self.1];
        self.1 += 1;
        let value = self.0.tensor(numbers(&own["value"]), shape(&own["shape"]));
        param.map(|_| value.require_grad())
    }
}

/// The gradients by the parameters of a layer, in their order.
struct Found<'a> {
    gradients: &'a Gradients,
    by_parameters: Vec<TensorData>,
}

impl ModuleVisitor for Found<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad(self.gradients) {
            self.by_parameters.push(gradient.into_data());
        }
    }
}

fn layer<M: Module, const I: usize, const O: usize>(
    name: &str,
    make: impl Fn(&Device) -> M,
    forward: impl Fn(&M, Tensor<I>) -> Tensor<O>,
) {
    in_both(name, |case| {
        let layer = make(&case.device).map(&mut Given(case, 0));
        let x = case.input();
        case.check(&layer, &x, forward(&layer, x.clone()));
    });
}

fn function<const I: usize, const O: usize>(name: &str, f: impl Fn(Tensor<I>) -> Tensor<O>) {
    in_both(name, |case| {
        let x = case.input();
        // A module without parameters.
        case.check(&nn::Relu::new(), &x, f(x.clone()));
    });
}

#[test]
fn products_and_convolutions_are_pytorchs() {
    layer(
        "linear",
        |d| Linear::from(LinearConfig::new(5, 3).init(d)),
        |l, x: Tensor<3>| l.forward(x),
    );
    layer(
        "conv1d",
        |d| {
            let config = Conv1dConfig::new(4, 6, 3).with_stride(2).with_dilation(2);
            let config = config.with_padding(PaddingConfig1d::Explicit(2, 2));
            Conv1d::from(config.with_groups(2).init(d))
        },
        |l, x| l.forward(x),
    );
    layer(
        "conv2d",
        |d| {
            let config = Conv2dConfig::new([4, 6], [3, 2]).with_stride([2, 1]);
            let config = config.with_padding(PaddingConfig2d::Explicit(1, 2, 1, 2));
            Conv2d::from(config.with_groups(2).init(d))
        },
        |l, x| l.forward(x),
    );
    layer(
        "conv3d",
        |d| {
            let config = Conv3dConfig::new([2, 3], [2, 3, 2]).with_stride([1, 2, 1]);
            Conv3d::from(
                config
                    .with_padding(PaddingConfig3d::Explicit(1, 1, 0))
                    .init(d),
            )
        },
        |l, x| l.forward(x),
    );
    layer(
        "conv_transpose1d",
        |d| {
            let config = ConvTranspose1dConfig::new([3, 4], 3).with_stride(2);
            ConvTranspose1d::from(config.with_padding(1).with_padding_out(1).init(d))
        },
        |l, x| l.forward(x),
    );
    layer(
        "conv_transpose2d",
        |d| {
            let config = ConvTranspose2dConfig::new([4, 6], [3, 2]).with_stride([2, 3]);
            let config = config.with_padding([1, 0]).with_dilation([1, 2]);
            ConvTranspose2d::from(config.with_groups(2).init(d))
        },
        |l, x| l.forward(x),
    );
    layer(
        "conv_transpose3d",
        |d| {
            let config = ConvTranspose3dConfig::new([2, 3], [2; 3]).with_stride([2; 3]);
            ConvTranspose3d::from(config.init(d))
        },
        |l, x| l.forward(x),
    );
}

#[test]
fn norms_and_embeddings_are_pytorchs() {
    layer(
        "batch_norm",
        |d| BatchNorm::from(BatchNormConfig::new(3).init(d)),
        |l, x: Tensor<4>| l.forward(x),
    );
    layer(
        "group_norm",
        |d| GroupNorm::from(GroupNormConfig::new(2, 6).init(d)),
        |l, x: Tensor<4>| l.forward(x),
    );
    layer(
        "layer_norm",
        |d| LayerNorm::from(LayerNormConfig::new(6).init(d)),
        |l, x: Tensor<3>| l.forward(1e-5, x),
    );
    layer(
        "rms_norm",
        |d| RmsNorm::from(RmsNormConfig::new(6).with_epsilon(1e-5).init(d)),
        |l, x: Tensor<3>| l.forward(x),
    );
    layer(
        "instance_norm",
        |d| InstanceNorm::from(InstanceNormConfig::new(3).with_affine(false).init(d)),
        |l, x: Tensor<4>| l.forward(x),
    );
    layer(
        "embedding",
        |d| Embedding::from(EmbeddingConfig::new(5, 3).init(d)),
        |l, ids: Tensor<2>| l.forward(ids.int()),
    );
}

#[test]
fn pooling_attention_and_losses_are_pytorchs() {
    let padding = |d: usize| PaddingConfig1d::Explicit(d, d);
    let max = MaxPool1dConfig::new(3)
        .with_stride(2)
        .with_padding(padding(1));
    function("max_pool1d", |x| MaxPool1d(max.init()).forward(x));
    let average = AvgPool1dConfig::new(3)
        .with_stride(2)
        .with_padding(padding(1));
    function("avg_pool1d", |x| AvgPool1d(average.init()).forward(x));
    let max = MaxPool2dConfig::new([3, 2]).with_strides([2, 2]);
    let max = max.with_padding(PaddingConfig2d::Explicit(1, 0, 1, 0));
    function("max_pool2d", |x| MaxPool2d(max.init()).forward(x));
    let average = AvgPool2dConfig::new([3, 3]).with_strides([2, 2]);
    let average = average.with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
    let average = average.with_count_include_pad(false);
    function("avg_pool2d", |x| AvgPool2d(average.init()).forward(x));
    let adaptive = AdaptiveAvgPool2dConfig::new([3, 2]);
    function("adaptive_avg_pool2d", |x| {
        AdaptiveAvgPool2d(adaptive.init()).forward(x)
    });

    for (name, causal) in [("attention", false), ("attention_causal", true)] {
        function(name, |qkv: Tensor<4>| {
            let [q, k, v] = [0, 1, 2].map(|i| qkv.clone().narrow(0, i, 1).squeeze_dim::<3>(0));
            attention(q, k, v, 2, causal)
        });
    }
    function("cross_entropy", |x: Tensor<2>| {
        let classes = Tensor::<1, Int>::from_ints([0, 3, 4, 3], &x.device());
        cross_entropy(&CrossEntropyLossConfig::new().init(&x.device()), x, classes)
    });
    function("mean_squared_error", |x: Tensor<2>| {
        mean_squared_error(x.clone().narrow(0, 0, 3), x.narrow(0, 3, 3))
    });
}

/// Also far out, and for infinities and what is no number.
#[test]
fn activations_are_pytorchs() {
    for (name, activation) in [
        ("relu", Activation::Relu),
        ("leaky_relu", Activation::LeakyRelu { slope: 0.1 }),
        ("elu", Activation::Elu { alpha: 1.3 }),
        ("gelu", Activation::Gelu),
        ("gelu_tanh", Activation::GeluTanh),
        ("silu", Activation::Silu),
        ("sigmoid", Activation::Sigmoid),
        ("tanh", Activation::Tanh),
        ("softplus", Activation::Softplus),
        ("mish", Activation::Mish),
    ] {
        function(name, |x: Tensor<1>| activation.forward(x));
    }
}
