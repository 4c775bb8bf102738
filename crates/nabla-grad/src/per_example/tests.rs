use super::*;
use burn::nn::conv::Conv2d;
use burn::nn::conv::Conv2dConfig;
use burn::nn::{BatchNorm, GroupNorm, PaddingConfig2d};
use burn::nn::{
    BatchNormConfig, Embedding, EmbeddingConfig, GroupNormConfig, LayerNorm, LayerNormConfig,
    Linear, LinearConfig, LinearLayout,
};
use burn::tensor::Int;
use burn::tensor::{Device, TensorData};

use crate::seeded_noise::SeededNoise;
use crate::training_mode::freeze_norms;

fn device() -> Device {
    Device::flex().autodiff()
}

/// A loss whose gradient with respect to the output is not constant and differs everywhere.
fn some_loss<const D: usize>(output: Tensor<D>, weights: Tensor<D>) -> Tensor<1> {
    (output.tanh() * weights).sum()
}

fn noise<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    SeededNoise::new(seed, 0).normal(shape, &device())
}

/// Replaces the initial parameters of a layer (a norm's γ = 1 and β = 0) by random ones.
fn redrawn<M: Module>(module: M, seed: u64) -> (M, ParameterLayout) {
    let layout = ParameterLayout::of(&module).unwrap();
    let length = layout.total_length();
    let vector = SeededNoise::new(seed, 0).normal([length], &Device::flex());
    (layout.with_parameters(module, vector).unwrap(), layout)
}

fn assert_near<const D: usize>(found: &Tensor<D>, expected: &Tensor<D>, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let found = found.to_data().try_to_vec::<f32>().unwrap();
    let expected = expected.to_data().try_to_vec::<f32>().unwrap();
    for (a, b) in found.iter().zip(&expected) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{what}: {a} {b}");
    }
}

/// Runs `forward` on the batch and on each example alone; checks the rows against each other, the
/// sum of the rows against the batch's gradient, and the squared norms against the rows.
fn check<M: Module, const I: usize, const O: usize, K: Autodiff>(
    what: &str,
    (module, layout): (M, ParameterLayout),
    input: Tensor<I, K>,
    output_shape: [usize; O],
    forward: impl Fn(&M, Tensor<I, K>) -> Tensor<O>,
    rows: impl Fn(
        &M,
        &Tensor<I, K>,
        &Tensor<O>,
    ) -> Result<(PerExampleGradients, Tensor<1>), PerExampleError>,
) {
    let examples = input.dims()[0];
    let weights = noise(output_shape, 99);
    let one_by_one = per_example_gradients(&module, &layout, examples, |module, i| {
        let output = forward(module, input.clone().narrow(0, i, 1));
        some_loss(output, weights.clone().narrow(0, i, 1))
    })
    .unwrap();

    let (output, recorded) = record(input, |x| forward(&module, x));
    assert_eq!(output.dims(), output_shape, "{what}");
    let gradients = some_loss(output, weights).backward();
    let g = recorded
        .output_gradient(&gradients, Reduction::Sum)
        .unwrap();
    let (found, squared_norms) = rows(&module, recorded.input(), &g).unwrap();
    let found = found.flatten(&layout).unwrap();
    assert_near(&found, &one_by_one, what);
    let expected = one_by_one.clone().square().sum_dim(1).squeeze_dim(1);
    assert_near(&squared_norms, &expected, what);

    let batch = GradientsParams::from_grads(gradients, &module);
    let batch = layout.flatten_gradients(&batch).unwrap();
    assert_near(&one_by_one.sum_dim(0).squeeze_dim(0), &batch, what);
}

fn check_linear<const D: usize>(layer: Linear, shape: [usize; D], seed: u64) {
    let mut output_shape = shape;
    output_shape[D - 1] = layer.weight.dims()[1];
    check(
        &format!("linear {shape:?}"),
        redrawn(layer, seed),
        noise(shape, seed + 1),
        output_shape,
        |layer: &Linear, x| layer.forward(x),
        |layer, x, g| {
            let gradients = linear_gradients(x, g)?;
            let norms = linear_squared_norms(x, g)?;
            let formed = gradients.squared_norms();
            assert_near(&norms.weight, &formed.weight, "weight's norms");
            assert_near(&norms.bias, &formed.bias, "bias's norms");
            let mut rows = PerExampleGradients::new();
            rows.add(&layer.weight, gradients.weight)?;
            let squared_norms = match &layer.bias {
                Some(bias) => {
                    rows.add(bias, gradients.bias)?;
                    norms.weight + norms.bias
                }
                None => norms.weight,
            };
            Ok((rows, squared_norms))
        },
    );
}

#[test]
fn linear_layers_are_those_of_single_examples() {
    let layer = |inputs, outputs| LinearConfig::new(inputs, outputs);
    check_linear(layer(5, 3).init(&device()), [4, 5], 1);
    check_linear(layer(5, 3).with_bias(false).init(&device()), [4, 5], 2);
    // Few positions use Gram matrices, many form the gradients.
    check_linear(layer(9, 8).init(&device()), [3, 4, 9], 3);
    check_linear(layer(2, 3).init(&device()), [3, 7, 2], 4);
    check_linear(layer(3, 4).init(&device()), [2, 3, 2, 3], 5);
    check_linear(layer(6, 1).init(&device()), [1, 6], 6);
    let transposed = layer(4, 6).with_layout(LinearLayout::Col);
    check_linear(transposed.init(&device()), [3, 2, 4], 7);
}

#[test]
fn convolutions_are_those_of_single_examples() {
    let config = |channels, kernel| Conv2dConfig::new(channels, kernel);
    let explicit = PaddingConfig2d::Explicit;
    let cases = [
        (config([3, 4], [3, 3]), [5, 6]),
        (config([2, 3], [1, 1]).with_bias(false), [3, 2]),
        (config([2, 3], [3, 2]).with_stride([2, 1]), [8, 5]),
        (
            config([2, 2], [3, 3]).with_padding(explicit(1, 1, 1, 1)),
            [4, 5],
        ),
        // Top, left, bottom and right all differ, and the stride leaves a remainder.
        (
            config([2, 2], [3, 3])
                .with_padding(explicit(0, 1, 2, 3))
                .with_stride([2, 3]),
            [6, 7],
        ),
        (config([2, 3], [3, 2]).with_dilation([2, 3]), [7, 6]),
        (config([4, 6], [3, 3]).with_groups(2), [5, 5]),
        // Depthwise.
        (
            config([4, 4], [3, 3])
                .with_groups(4)
                .with_padding(PaddingConfig2d::Same),
            [4, 5],
        ),
        (
            config([2, 2], [4, 2]).with_padding(PaddingConfig2d::Same),
            [5, 4],
        ),
        (
            config([4, 2], [3, 3])
                .with_stride([2, 2])
                .with_dilation([2, 2])
                .with_padding(explicit(2, 2, 2, 2))
                .with_groups(2),
            [7, 8],
        ),
        // Few positions and many weights use Gram matrices.
        (config([6, 8], [3, 3]), [4, 4]),
        (config([6, 8], [3, 3]), [3, 3]),
    ];
    for (seed, (config, [height, width])) in cases.into_iter().enumerate() {
        let layer = config.init(&device());
        let x = noise([3, config.channels[0], height, width], 40 + seed as u64);
        let output_shape = layer.forward(x.clone()).dims();
        check(
            &config.to_string(),
            redrawn(layer, seed as u64),
            x,
            output_shape,
            |layer: &Conv2d, x| layer.forward(x),
            |layer, x, g| {
                let gradients = conv2d_gradients(layer, x, g)?;
                let norms = conv2d_squared_norms(layer, x, g)?;
                let mut rows = PerExampleGradients::new();
                rows.add(&layer.weight, gradients.weight)?;
                let squared_norms = match &layer.bias {
                    Some(bias) => {
                        rows.add(bias, gradients.bias)?;
                        norms.weight + norms.bias
                    }
                    None => norms.weight,
                };
                Ok((rows, squared_norms))
            },
        );
    }
}

fn indices() -> Tensor<2, Int> {
    // Repeated within an example and among examples; 3 never occurs.
    let indices = TensorData::from([[0, 1, 1, 4], [2, 2, 2, 2], [4, 0, 1, 2]]);
    Tensor::from_data(indices, &device())
}

#[test]
fn embeddings_are_those_of_single_examples() {
    check(
        "embedding",
        redrawn(EmbeddingConfig::new(5, 3).init(&device()), 1),
        indices(),
        [3, 4, 3],
        |layer: &Embedding, indices| layer.forward(indices),
        |layer, indices, g| {
            let mut rows = PerExampleGradients::new();
            rows.add(&layer.weight, embedding_gradients(5, indices, g)?)?;
            Ok((rows, embedding_squared_norms(indices, g)?))
        },
    );
}

fn check_layer_norm<const D: usize>(shape: [usize; D], epsilon: f64) {
    let config = LayerNormConfig::new(shape[D - 1]).with_epsilon(epsilon);
    check(
        &format!("layer norm {shape:?}"),
        redrawn(config.init(&device()), 8),
        noise(shape, 9),
        shape,
        |layer: &LayerNorm, x| layer.forward(x),
        |layer, x, g| {
            let gradients = layer_norm_gradients(epsilon, x, g)?;
            let norms = gradients.squared_norms();
            let mut rows = PerExampleGradients::new();
            rows.add(&layer.gamma, gradients.weight)?;
            if let Some(beta) = &layer.beta {
                rows.add(beta, gradients.bias)?;
            }
            Ok((rows, norms.weight + norms.bias))
        },
    );
}

fn check_group_norm<const D: usize>(groups: usize, shape: [usize; D]) {
    let config = GroupNormConfig::new(groups, shape[1]).with_epsilon(1e-2);
    check(
        &format!("group norm {groups} {shape:?}"),
        redrawn(config.init(&device()), 8),
        noise(shape, 9),
        shape,
        |layer: &GroupNorm, x| layer.forward(x),
        |layer, x, g| {
            let gradients = group_norm_gradients(layer, x, g)?;
            let norms = gradients.squared_norms();
            let mut rows = PerExampleGradients::new();
            if let (Some(gamma), Some(beta)) = (&layer.gamma, &layer.beta) {
                rows.add(gamma, gradients.weight)?;
                rows.add(beta, gradients.bias)?;
            }
            Ok((rows, norms.weight + norms.bias))
        },
    );
}

#[test]
fn norms_are_those_of_single_examples() {
    check_layer_norm([4, 6], 1e-5);
    check_layer_norm([3, 5, 4], 1e-1);
    check_layer_norm([2, 3, 2, 7], 1e-5);
    check_group_norm(1, [3, 4, 5, 2]);
    check_group_norm(2, [3, 6, 3, 3]);
    check_group_norm(4, [2, 4, 5]);
}

#[test]
fn frozen_batch_norms_are_those_of_single_examples() {
    fn check_batch_norm<const D: usize>(shape: [usize; D]) {
        let layer = BatchNormConfig::new(shape[1]).init(&device());
        // Its own statistics, then γ and β.
        let layer = {
            layer.forward(noise(shape, 5) * 3.0 + 1.0);
            layer.forward(noise(shape, 6));
            freeze_norms(layer)
        };
        let layout = ParameterLayout::trainable(&layer).unwrap();
        let vector = SeededNoise::new(8, 0).normal([layout.total_length()], &Device::flex());
        let layer = layout.with_parameters(layer, vector).unwrap();
        check(
            &format!("batch norm {shape:?}"),
            (layer, layout),
            noise(shape, 9),
            shape,
            |layer: &BatchNorm, x| layer.forward(x),
            |layer, x, g| {
                let gradients = batch_norm_gradients(layer, x, g)?;
                let norms = gradients.squared_norms();
                let mut rows = PerExampleGradients::new();
                rows.add(&layer.gamma, gradients.weight)?;
                rows.add(&layer.beta, gradients.bias)?;
                Ok((rows, norms.weight + norms.bias))
            },
        );
    }
    check_batch_norm([5, 3]);
    check_batch_norm([4, 3, 6]);
    check_batch_norm([3, 2, 4, 5]);

    let training = BatchNormConfig::new(2).init(&device());
    let x = noise([3, 2], 1);
    let refused = batch_norm_gradients(&training, &x, &x).unwrap_err();
    assert!(
        matches!(refused, PerExampleError::Training { .. }),
        "{refused}"
    );
    let frozen = freeze_norms(training);
    let x = noise([3, 4], 1);
    let refused = batch_norm_gradients(&frozen, &x, &x).unwrap_err();
    assert!(
        matches!(refused, PerExampleError::Shape { .. }),
        "{refused}"
    );
}

#[derive(Module, Debug)]
struct Network {
    embedding: Embedding,
    convolution: Conv2d,
    norm: GroupNorm,
    shared: Linear,
}

impl Network {
    fn loss(&self, indices: Tensor<2, Int>) -> Tensor<1> {
        let x = self.embedding.forward(indices).unsqueeze_dim::<4>(1);
        let x = self.norm.forward(self.convolution.forward(x)).tanh();
        // The same layer twice.
        let x = self.shared.forward(x).tanh();
        self.shared.forward(x).square().sum()
    }
}

#[test]
fn the_rules_of_a_whole_network_give_the_rows_of_single_examples() {
    let network = Network {
        embedding: EmbeddingConfig::new(5, 6).init(&device()),
        convolution: Conv2dConfig::new([1, 4], [3, 3]).init(&device()),
        norm: GroupNormConfig::new(2, 4).init(&device()),
        shared: LinearConfig::new(4, 4).init(&device()),
    };
    let (network, layout) = redrawn(network, 3);
    let one_by_one = per_example_gradients(&network, &layout, 3, |network, i| {
        network.loss(indices().narrow(0, i, 1))
    })
    .unwrap();

    let (x, embedding) = record(indices(), |x| network.embedding.forward(x));
    let x = x.unsqueeze_dim::<4>(1);
    let (x, convolution) = record(x, |x| network.convolution.forward(x));
    let (x, norm) = record(x, |x| network.norm.forward(x));
    let (x, first) = record(x.tanh(), |x| network.shared.forward(x));
    let (x, second) = record(x.tanh(), |x| network.shared.forward(x));
    let gradients = x.square().sum().backward();

    let mut rows = PerExampleGradients::new();
    let g = embedding
        .output_gradient(&gradients, Reduction::Sum)
        .unwrap();
    let found = embedding_gradients(5, embedding.input(), &g).unwrap();
    rows.add(&network.embedding.weight, found).unwrap();
    let g = convolution
        .output_gradient(&gradients, Reduction::Sum)
        .unwrap();
    let found = conv2d_gradients(&network.convolution, convolution.input(), &g).unwrap();
    let bias = network.convolution.bias.as_ref().unwrap();
    rows.add(&network.convolution.weight, found.weight).unwrap();
    rows.add(bias, found.bias).unwrap();
    let g = norm.output_gradient(&gradients, Reduction::Sum).unwrap();
    let found = group_norm_gradients(&network.norm, norm.input(), &g).unwrap();
    let (gamma, beta) = (&network.norm.gamma, &network.norm.beta);
    rows.add(gamma.as_ref().unwrap(), found.weight).unwrap();
    rows.add(beta.as_ref().unwrap(), found.bias).unwrap();
    assert!(matches!(
        rows.flatten(&layout),
        Err(PerExampleError::Missing { name }) if name == "shared.weight"
    ));
    for shared in [&first, &second] {
        let g = shared.output_gradient(&gradients, Reduction::Sum).unwrap();
        let found = linear_gradients(shared.input(), &g).unwrap();
        let bias = network.shared.bias.as_ref().unwrap();
        rows.add(&network.shared.weight, found.weight).unwrap();
        rows.add(bias, found.bias).unwrap();
    }
    assert_near(&rows.flatten(&layout).unwrap(), &one_by_one, "network");
}

#[test]
fn a_mean_or_scaled_loss_is_taken_back_to_the_examples_own() {
    let (layer, layout) = redrawn::<Linear>(LinearConfig::new(4, 3).init(&device()), 2);
    let x = noise([6, 4], 3);
    let each = |y: Tensor<2>| y.tanh().sum_dim(1).square();
    let expected = per_example_gradients(&layer, &layout, 6, |layer, i| {
        each(layer.forward(x.clone().narrow(0, i, 1))).sum()
    })
    .unwrap();
    for reduction in [Reduction::Sum, Reduction::Mean, Reduction::Scaled(-2.5)] {
        let (y, recorded) = record(x.clone(), |x| layer.forward(x));
        let loss = match reduction {
            Reduction::Sum => each(y).sum(),
            Reduction::Mean => each(y).mean(),
            Reduction::Scaled(factor) => each(y).sum() * factor,
        };
        let gradients = loss.backward();
        let g = recorded.output_gradient(&gradients, reduction).unwrap();
        let found = linear_gradients(recorded.input(), &g).unwrap();
        let mut rows = PerExampleGradients::new();
        rows.add(&layer.weight, found.weight).unwrap();
        rows.add(layer.bias.as_ref().unwrap(), found.bias).unwrap();
        let what = format!("{reduction:?}");
        assert_near(&rows.flatten(&layout).unwrap(), &expected, &what);
    }
}

#[test]
fn the_mean_of_the_rows_is_the_gradient_of_the_mean() {
    let (layer, layout) = redrawn::<Linear>(LinearConfig::new(4, 3).init(&device()), 2);
    let x = noise([6, 4], 3);
    let each = |layer: &Linear, x| layer.forward(x).tanh().sum_dim(1).square();
    let rows = per_example_gradients(&layer, &layout, 6, |layer, i| {
        each(layer, x.clone().narrow(0, i, 1)).sum()
    })
    .unwrap();
    let loss = each(&layer, x).mean();
    let batch = GradientsParams::from_grads(loss.backward(), &layer);
    let batch = layout.flatten_gradients(&batch).unwrap();
    assert_near(&rows.mean_dim(0).squeeze_dim(0), &batch, "mean");
}

#[test]
fn what_does_not_fit_is_refused() {
    let (layer, layout) = redrawn::<Linear>(LinearConfig::new(2, 3).init(&device()), 2);
    let run = |examples, loss: fn(&Linear) -> Tensor<1>| {
        per_example_gradients(&layer, &layout, examples, |layer, _| loss(layer)).unwrap_err()
    };
    assert_eq!(
        run(0, |layer| layer.weight.val().sum()),
        PerExampleError::NoExamples
    );
    assert_eq!(
        run(1, |_| Tensor::zeros([2], &device())),
        PerExampleError::LossShape {
            example: 0,
            elements: 2
        }
    );
    assert_eq!(
        run(1, |_| Tensor::zeros([1], &device())),
        PerExampleError::NoGradient { example: 0 }
    );

    // Off the autodiff device, and in another loss.
    let (_, unrecorded) = record(noise([2, 2], 1).inner(), |x| x);
    let (_, elsewhere) = record(noise([2, 2], 1), |x| layer.forward(x));
    let loss = layer.weight.val().sum();
    let gradients = loss.backward();
    for recorded in [&unrecorded, &elsewhere] {
        let refused = recorded.output_gradient(&gradients, Reduction::Sum);
        assert_eq!(refused.unwrap_err(), PerExampleError::NotRecorded);
    }
    let (y, recorded) = record(noise([2, 2], 1), |x| layer.forward(x));
    let gradients = y.sum().backward();
    for factor in [0.0, f64::NAN] {
        let refused = recorded.output_gradient(&gradients, Reduction::Scaled(factor));
        assert!(matches!(refused, Err(PerExampleError::Range(_))));
    }

    let shape = |refused: PerExampleError| {
        assert!(
            matches!(refused, PerExampleError::Shape { .. }),
            "{refused}"
        );
    };
    let t = |dims: [usize; 3]| Tensor::<3>::zeros(dims, &device());
    shape(linear_gradients(&t([2, 3, 4]), &t([2, 2, 4])).unwrap_err());
    shape(linear_squared_norms(&t([2, 3, 4]), &t([1, 3, 4])).unwrap_err());
    let one = Tensor::<1>::zeros([3], &device());
    shape(linear_gradients(&one, &one).unwrap_err());
    shape(layer_norm_gradients(1e-5, &t([2, 3, 4]), &t([2, 3, 5])).unwrap_err());
    shape(embedding_gradients(5, &indices(), &t([3, 3, 2])).unwrap_err());
    let norm = GroupNormConfig::new(1, 2).init(&device());
    shape(group_norm_gradients(&norm, &t([2, 3, 4]), &t([2, 3, 4])).unwrap_err());
    let conv = Conv2dConfig::new([2, 3], [3, 3]).init(&device());
    let t = |dims: [usize; 4]| Tensor::<4>::zeros(dims, &device());
    let refused = [
        conv2d_gradients(&conv, &t([1, 3, 5, 5]), &t([1, 3, 3, 3])),
        conv2d_gradients(&conv, &t([1, 2, 5, 5]), &t([1, 3, 3, 2])),
        // Too small for the kernel.
        conv2d_gradients(&conv, &t([1, 2, 2, 5]), &t([1, 3, 1, 3])),
    ];
    refused.into_iter().for_each(|r| shape(r.unwrap_err()));
    assert!(matches!(
        layer_norm_gradients(-1.0, &noise([2, 3], 1), &noise([2, 3], 2)),
        Err(PerExampleError::Range(_))
    ));
    let empty = Tensor::<2>::zeros([0, 2], &device());
    assert!(matches!(
        linear_gradients(&empty, &empty),
        Err(PerExampleError::NoExamples)
    ));

    let mut rows = PerExampleGradients::new();
    rows.add(&layer.weight, noise([4, 2, 3], 1)).unwrap();
    shape(rows.add(&layer.weight, noise([4, 3, 2], 1)).unwrap_err());
    shape(rows.add(&layer.weight, noise([5, 2, 3], 1)).unwrap_err());
}
