use burn::module::ModuleMapper;
use burn::nn::conv::{Conv1dConfig, Conv2dConfig, ConvTranspose2dConfig};
use burn::nn::{
    BatchNormConfig, EmbeddingConfig, GroupNormConfig, InstanceNormConfig, LayerNormConfig,
    LinearConfig, PaddingConfig1d, PaddingConfig2d, RmsNormConfig,
};
use burn::tensor::{Device, Distribution, Int};
use nabla_grad::per_example::per_example_gradients;
use nabla_grad::training_mode::freeze_norms;
use proptest::prelude::*;

use super::*;
use crate::activation::silu;
use crate::nn;
use crate::normalization::group_norm_silu;

fn device() -> Device {
    Device::flex().autodiff()
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let x: Tensor<D> = Tensor::random(shape, Distribution::Normal(0.2, 1.0), &device());
    x.cast(DType::F64)
}

/// Draws all parameters, in `f64`.
struct Drawn;

impl ModuleMapper for Drawn {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let tracked = param.is_require_grad();
        param.map(|value| {
            let drawn: Tensor<D> = Tensor::random(
                value.dims(),
                Distribution::Normal(0.2, 0.6),
                &value.device(),
            );
            match tracked {
                true => drawn.cast(DType::F64).require_grad(),
                // A variance.
                false => drawn.cast(DType::F64).square() + 0.3,
            }
        })
    }
}

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f64> {
    x.to_data().convert::<f64>().iter::<f64>().collect()
}

fn near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(1.0f64, |most, v| most.max(v.abs()));
    for (found, expected) in found.iter().zip(expected) {
        let error = (found - expected).abs() / size;
        assert!(error < 1e-10, "{what}: {found} instead of {expected}");
    }
}

/// Against one backward pass for each example, through Burn's operations or ours.
///
/// - `outputs`: of the examples that are given
fn check<M: Module, X: Clone>(
    what: &str,
    module: &M,
    x: &X,
    examples: usize,
    some: impl Fn(&X, usize) -> X,
    outputs: impl Fn(&M, X) -> Tensor<2>,
) {
    // A loss whose gradient differs everywhere.
    let loss = |y: Tensor<2>| y.clone().tanh().sum() + y.square().sum() * 0.1;
    let layout = ParameterLayout::trainable(module).unwrap();
    let alone = |module: &M, i: usize| loss(outputs(module, some(x, i)));
    let expected = per_example_gradients(module, &layout, examples, alone).unwrap();
    let expected: Vec<Vec<f64>> = values(&expected)
        .chunks(layout.total_length())
        .map(<[f64]>::to_vec)
        .collect();

    let of_batch = loss(outputs(module, x.clone())) * 3.0;
    let found = backward(of_batch, examples, Reduction::Scaled(3.0)).unwrap();
    assert_eq!(found.examples(), examples);
    let rows = found.rows(module, &layout).unwrap();
    near(&values(&rows), &expected.concat(), what);
    let square = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>();
    let squares: Vec<f64> = expected.iter().map(|row| square(row)).collect();
    near(&found.squared_norms(module).unwrap(), &squares, what);
    let each = found.squared_norms_by_parameter(module).unwrap();
    assert_eq!(each.len(), layout.entries().len(), "{what}");
    for ((id, norms), entry) in each.into_iter().zip(layout.entries()) {
        assert_eq!(id, entry.id());
        let own: Vec<f64> = expected
            .iter()
            .map(|row| square(&row[entry.range()]))
            .collect();
        near(&norms, &own, &format!("{what}, {}", entry.name()));
    }

    let weights: Vec<f64> = (0..examples).map(|i| 0.5 - 0.3 * i as f64).collect();
    let sum = found.weighted(module, &weights).unwrap();
    let sum = values(&layout.flatten_gradients_or_zeros(&sum).unwrap());
    let mixed = |place: usize, weights: &[f64]| -> f64 {
        let terms = expected.iter().zip(weights);
        terms.map(|(row, weight)| row[place] * weight).sum()
    };
    let by_hand: Vec<f64> = (0..layout.total_length())
        .map(|place| mixed(place, &weights))
        .collect();
    near(&sum, &by_hand, what);

    // Other weights for every other parameter.
    let others: Vec<f64> = weights.iter().map(|weight| 1.0 - weight).collect();
    let is_odd = |id: ParamId| layout.entries().iter().position(|e| e.id() == id).unwrap() % 2 == 1;
    let sum = found.weighted_each(module, |id| match is_odd(id) {
        true => &others,
        false => &weights,
    });
    let sum = values(&layout.flatten_gradients_or_zeros(&sum.unwrap()).unwrap());
    for entry in layout.entries() {
        let weights = if is_odd(entry.id()) {
            &others
        } else {
            &weights
        };
        let by_hand: Vec<f64> = entry.range().map(|place| mixed(place, weights)).collect();
        near(
            &sum[entry.range()],
            &by_hand,
            &format!("{what}, {}", entry.name()),
        );
    }
}

/// The examples of a tensor, one or all.
fn one<const D: usize>(x: &Tensor<D>, example: usize) -> Tensor<D> {
    x.clone().narrow(0, example, 1)
}

#[derive(Module, Debug)]
struct Pictures {
    first: nn::Conv2d,
    norm: nn::GroupNorm,
    grouped: nn::Conv2d,
    instance: nn::InstanceNorm,
    up: nn::ConvTranspose2d,
    frozen: nn::BatchNorm,
    output: nn::Linear,
}

impl Pictures {
    fn new(channels: usize, stride: usize) -> Self {
        let device = device();
        let conv = |from, to| Conv2dConfig::new([from, to], [3, 3]);
        let module = Self {
            first: conv(2, channels)
                .with_stride([stride, 1])
                .with_padding(PaddingConfig2d::Explicit(1, 0, 2, 1))
                .init(&device)
                .into(),
            norm: GroupNormConfig::new(2, channels).init(&device).into(),
            grouped: conv(channels, channels)
                .with_groups(2)
                .with_dilation([1, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 2, 1, 2))
                .init(&device)
                .into(),
            instance: InstanceNormConfig::new(channels).init(&device).into(),
            up: ConvTranspose2dConfig::new([channels, 4], [2, 2])
                .with_stride([2, 2])
                .init(&device)
                .into(),
            frozen: BatchNormConfig::new(4).init(&device).into(),
            output: LinearConfig::new(4, 3).init(&device).into(),
        };
        freeze_norms(module.map(&mut Drawn))
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = group_norm_silu(&self.norm, self.first.forward(x));
        let x = self.instance.forward(self.grouped.forward(x.clone())) + x;
        let x = self.frozen.forward(self.up.forward(x));
        // [examples, channels, positions]: a linear layer at several positions.
        let x = self.output.forward(x.flatten::<3>(2, 3).swap_dims(1, 2));
        x.tanh().sum_dim(1).squeeze_dim(1)
    }
}

#[derive(Module, Debug)]
struct Sequence {
    table: nn::Embedding,
    norm: nn::LayerNorm,
    along: nn::Conv1d,
    rms: nn::RmsNorm,
    hidden: nn::Linear,
    shared: nn::Linear,
}

impl Sequence {
    fn new(width: usize) -> Self {
        let device = device();
        let module = Self {
            table: EmbeddingConfig::new(5, width).init(&device).into(),
            norm: LayerNormConfig::new(width).init(&device).into(),
            along: Conv1dConfig::new(width, width, 3)
                .with_padding(PaddingConfig1d::Same)
                .with_bias(false)
                .init(&device)
                .into(),
            rms: RmsNormConfig::new(width).init(&device).into(),
            hidden: LinearConfig::new(width, 3 * width).init(&device).into(),
            shared: LinearConfig::new(3 * width, 3 * width).init(&device).into(),
        };
        module.map(&mut Drawn)
    }

    fn forward(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        let x = self.norm.forward(1e-5, self.table.forward(ids));
        let x = self.along.forward(x.swap_dims(1, 2)).swap_dims(1, 2);
        let x = silu(self.hidden.forward(self.rms.forward(x)));
        // At several positions, and again at one.
        let x = silu(self.shared.forward(x)).mean_dim(1).squeeze_dim::<2>(1);
        self.shared.forward(x)
    }
}

#[test]
fn layers_of_pictures_have_the_gradients_of_each_example_alone() {
    for (examples, channels, stride, side) in [(1, 2, 1, 5), (4, 6, 2, 6), (3, 40, 2, 3)] {
        let module = Pictures::new(channels, stride);
        let x = random([examples, 2, side, side + 1]);
        check("pictures", &module, &x, examples, one, |m: &Pictures, x| {
            m.forward(x)
        });
    }
}

#[test]
fn layers_of_sequences_have_the_gradients_of_each_example_alone() {
    for (examples, length, width) in [(1, 1, 2), (3, 4, 5), (2, 2, 24)] {
        let module = Sequence::new(width);
        let ids: Vec<i32> = (0..examples * length).map(|i| (i * i % 5) as i32).collect();
        let ids =
            Tensor::<1, Int>::from_ints(ids.as_slice(), &device()).reshape([examples, length]);
        let some = |ids: &Tensor<2, Int>, i: usize| ids.clone().narrow(0, i, 1);
        check(
            "sequences",
            &module,
            &ids,
            examples,
            some,
            |m: &Sequence, x| m.forward(x),
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn convolutions_of_any_form_have_the_gradients_of_each_example_alone(
        [examples, groups, inputs, outputs] in [1usize..4, 1..3, 1..4, 1..20],
        [kernel, stride, dilation, padding, side] in [1usize..4, 1..4, 1..3, 0..3, 1..7],
    ) {
        let reach = dilation * (kernel - 1) + 1;
        prop_assume!(side + 2 * padding >= reach);
        let conv: nn::Conv2d = Conv2dConfig::new([groups * inputs, groups * outputs], [kernel, 1])
            .with_stride([stride, 1])
            .with_dilation([dilation, 1])
            .with_groups(groups)
            .with_padding(PaddingConfig2d::Explicit(padding, 0, padding, 0))
            .init(&device())
            .into();
        let conv = conv.map(&mut Drawn);
        let x = random([examples, groups * inputs, side, 2]);
        check("a convolution", &conv, &x, examples, one, |m: &nn::Conv2d, x| {
            m.forward(x).flatten::<2>(1, 3)
        });
    }

    #[test]
    fn products_of_any_form_have_the_gradients_of_each_example_alone(
        [examples, positions, inputs, outputs] in [1usize..4, 1..6, 1..40, 1..40],
    ) {
        let layer: nn::Linear = LinearConfig::new(inputs, outputs).init(&device()).into();
        let layer = layer.map(&mut Drawn);
        let x = random([examples, positions, inputs]);
        check("a product", &layer, &x, examples, one, |m: &nn::Linear, x| {
            m.forward(x).flatten::<2>(1, 2)
        });
    }
}

/// The gradients of a network in half precision and in `f32` are those in `f64`, and have the types of their parameters.
#[test]
fn number_types_are_those_of_the_parameters() {
    let layer: nn::Linear = LinearConfig::new(3, 2).init(&device()).into();
    let x = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [-1.0, 0.5, 2.0]], &device());
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        struct Cast(DType);
        impl ModuleMapper for Cast {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|value| {
                    let data = value.to_data().convert_dtype(self.0);
                    Tensor::from_data(data, (&value.device(), self.0)).require_grad()
                })
            }
        }
        let layer = layer.clone().map(&mut Cast(dtype));
        let loss = layer.forward(x.clone().cast(dtype)).sum();
        let found = backward(loss, 2, Reduction::Sum).unwrap();
        assert_eq!(found.squared_norms(&layer).unwrap(), [30.0, 12.5]);
        let sum = found.weighted(&layer, &[1.0, 2.0]).unwrap();
        let weight = sum.get::<2>(layer.weight.id).unwrap();
        assert_eq!(weight.dtype(), dtype);
        assert_eq!(values(&weight), [-1.0, -1.0, 3.0, 3.0, 7.0, 7.0]);
    }
}

#[test]
fn what_has_no_gradients_of_examples_is_refused() {
    let layer: nn::Linear = LinearConfig::new(3, 2).init(&device()).into();
    let x = Tensor::<2>::ones([4, 3], &device());
    let refused = |loss: Tensor<1>, examples: usize| {
        let found = backward(loss, examples, Reduction::Sum)?;
        found.squared_norms(&layer)
    };
    // Through Burn's own operation.
    let burns = layer.0.forward(x.clone()).sum();
    let told = refused(burns, 4).unwrap_err().to_string();
    assert!(
        told.starts_with("the gradient of `weight` comes from"),
        "{told}"
    );
    // In part.
    let penalty = layer.weight.val().square().sum();
    let told = refused(layer.forward(x.clone()).sum() + penalty, 4).unwrap_err();
    assert!(matches!(told, PerExampleError::Elsewhere { .. }), "{told}");
    // Two positions of two examples, as four rows.
    let told = refused(layer.forward(x.clone()).sum(), 2).unwrap_err();
    assert_eq!(
        told,
        PerExampleError::Rows {
            rows: 4,
            examples: 2
        }
    );
    assert_eq!(
        refused(layer.forward(x.clone()).sum(), 0).unwrap_err(),
        PerExampleError::NoExamples
    );
    let without = Tensor::<1>::ones([1], &device());
    assert_eq!(
        refused(without, 1).unwrap_err(),
        PerExampleError::NotRecorded
    );
    let found = backward(layer.forward(x.clone()).sum(), 4, Reduction::Mean).unwrap();
    let told = found.weighted(&layer, &[1.0]).unwrap_err().to_string();
    assert!(told.contains("number of weights is 1"), "{told}");
    assert!(backward(layer.forward(x).sum(), 4, Reduction::Scaled(0.0)).is_err());

    let norm: nn::BatchNorm = BatchNormConfig::new(3).init(&device()).into();
    let loss = norm.forward(Tensor::<2>::ones([4, 3], &device())).sum();
    let found = backward(loss, 4, Reduction::Sum).unwrap();
    let told = found.squared_norms(&norm).unwrap_err().to_string();
    assert!(told.contains("normalises by the batch"), "{told}");
}

/// Outside of a recording, and after one, gradients are what they were.
#[test]
fn a_recording_ends() {
    let layer: nn::Linear = LinearConfig::new(3, 2).init(&device()).into();
    let x = Tensor::<2>::ones([4, 3], &device());
    let loss = || layer.forward(x.clone()).sum();
    let weight = |gradients: &Gradients| layer.weight.val().grad(gradients).map(|g| values(&g));
    let before = weight(&loss().backward());
    assert!(before.is_some());
    backward(loss(), 4, Reduction::Sum).unwrap();
    assert_eq!(weight(&loss().backward()), before);
}
