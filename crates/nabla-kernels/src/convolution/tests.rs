use super::*;
use burn::module::Param;
use burn::nn::conv::{
    Conv1dConfig, Conv2dConfig, Conv3dConfig, ConvTranspose1dConfig, ConvTranspose2dConfig,
    ConvTranspose3dConfig,
};
use burn::tensor::activation::relu as burns_relu;
use burn::tensor::{DType, Device, Distribution, Gradients, Tolerance};
use proptest::prelude::*;

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let x: Tensor<D> = Tensor::random(shape, Distribution::Normal(0.0, 1.0), device);
    x.cast(DType::F64).require_grad()
}

fn redrawn<const D: usize>(param: Param<Tensor<D>>) -> Param<Tensor<D>> {
    param.map(|tensor| random(tensor.dims(), &tensor.device()))
}

fn same_gradient<const D: usize>(x: &Tensor<D>, found: &Gradients, expected: &Gradients) {
    let [found, expected] = [found, expected].map(|grads| x.grad(grads).unwrap().into_data());
    found.assert_approx_eq(&expected, Tolerance::<f64>::absolute(1e-10));
}

/// Values and gradients of ours and of Burn's, in f64, by the input, the kernel and the bias.
macro_rules! agrees {
    ($layer:expr, $ours:path, $x:expr) => {
        agrees!($layer, $ours, $x, |y| y)
    };
    ($layer:expr, $ours:path, $x:expr, |$y:ident| $then:expr) => {{
        let mut layer = $layer;
        layer.weight = redrawn(layer.weight);
        layer.bias = layer.bias.map(redrawn);
        let device = layer.weight.device();
        let x = random($x, &device);
        let $y = layer.forward(x.clone());
        let burns = $then;
        let found = $ours(&layer, x.clone());
        prop_assert_eq!(found.dims(), burns.dims());
        let near = Tolerance::<f64>::absolute(1e-10);
        let values = found.clone().into_data();
        values.assert_approx_eq(&burns.clone().into_data(), near);
        let weights = random(burns.dims(), &device);
        let expected = (burns * weights.clone()).sum().backward();
        let grads = (found * weights).sum().backward();
        same_gradient(&x, &grads, &expected);
        same_gradient(&layer.weight.val(), &grads, &expected);
        if let Some(bias) = &layer.bias {
            same_gradient(&bias.val(), &grads, &expected);
        }
    }};
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn two_dimensions_are_burns(
        batch in 1_usize..4, groups in 1_usize..4, i in 1_usize..5, o in 1_usize..11,
        height in 1_usize..14, width in 1_usize..20,
        kernel in (1_usize..4, 1_usize..5), stride in (1_usize..4, 1_usize..4), dilation in (1_usize..3, 1_usize..3),
        padding in (0_usize..3, 0_usize..3, 0_usize..3, 0_usize..3), bias: bool,
    ) {
        prop_assume!(height + padding.0 + padding.2 > dilation.0 * (kernel.0 - 1));
        prop_assume!(width + padding.1 + padding.3 > dilation.1 * (kernel.1 - 1));
        let layer = Conv2dConfig::new([i * groups, o * groups], [kernel.0, kernel.1])
            .with_stride([stride.0, stride.1]).with_dilation([dilation.0, dilation.1]).with_groups(groups)
            .with_padding(PaddingConfig2d::Explicit(padding.0, padding.1, padding.2, padding.3)).with_bias(bias)
            .init(&Device::flex().autodiff());
        agrees!(layer.clone(), conv2d, [batch, i * groups, height, width]);
        agrees!(layer, conv2d_relu, [batch, i * groups, height, width], |y| burns_relu(y));
    }

    #[test]
    fn one_dimension_is_burns(
        batch in 1_usize..4, i in 1_usize..5, o in 1_usize..11, length in 1_usize..60,
        kernel in 1_usize..6, stride in 1_usize..4, dilation in 1_usize..3, same: bool,
    ) {
        prop_assume!(length > dilation * (kernel - 1));
        let padding = if same && dilation == 1 { PaddingConfig1d::Same } else { PaddingConfig1d::Valid };
        let layer = Conv1dConfig::new(i, o, kernel).with_stride(stride).with_dilation(dilation).with_padding(padding)
            .init(&Device::flex().autodiff());
        agrees!(layer.clone(), conv1d, [batch, i, length]);
        agrees!(layer, conv1d_relu, [batch, i, length], |y| burns_relu(y));
    }

    #[test]
    fn three_dimensions_are_burns(
        batch in 1_usize..3, i in 1_usize..3, o in 1_usize..5, size in (1_usize..6, 1_usize..6, 1_usize..8),
        kernel in (1_usize..3, 1_usize..4, 1_usize..4), stride in (1_usize..3, 1_usize..3, 1_usize..3),
    ) {
        let layer = Conv3dConfig::new([i, o], [kernel.0, kernel.1, kernel.2]).with_stride([stride.0, stride.1, stride.2])
            .with_padding(PaddingConfig3d::Explicit(1, 1, 1)).init(&Device::flex().autodiff());
        agrees!(layer.clone(), conv3d, [batch, i, size.0, size.1, size.2]);
        agrees!(layer, conv3d_relu, [batch, i, size.0, size.1, size.2], |y| burns_relu(y));
    }

    #[test]
    fn transposed_ones_are_burns(
        batch in 1_usize..3, groups in 1_usize..3, i in 1_usize..4, o in 1_usize..4, size in (1_usize..7, 1_usize..7),
        kernel in (1_usize..4, 1_usize..4), stride in (1_usize..4, 1_usize..4), dilation in (1_usize..3, 1_usize..3),
        padding in (0_usize..2, 0_usize..2), out in (0_usize..2, 0_usize..2),
    ) {
        let [a, b] = [(size.0, kernel.0, stride.0, dilation.0, padding.0, out.0), (size.1, kernel.1, stride.1, dilation.1, padding.1, out.1)]
            .map(|(n, k, s, d, p, o)| (n - 1) * s + d * (k - 1) + 1 + o > 2 * p && o < s.max(d));
        prop_assume!(a && b);
        let layer = ConvTranspose2dConfig::new([i * groups, o * groups], [kernel.0, kernel.1])
            .with_stride([stride.0, stride.1]).with_dilation([dilation.0, dilation.1]).with_groups(groups)
            .with_padding([padding.0, padding.1]).with_padding_out([out.0, out.1])
            .init(&Device::flex().autodiff());
        agrees!(layer, conv_transpose2d, [batch, i * groups, size.0, size.1]);
        let layer = ConvTranspose1dConfig::new([i, o], kernel.1).with_stride(stride.1).with_padding(padding.1)
            .with_dilation(dilation.1).with_padding_out(out.1).init(&Device::flex().autodiff());
        agrees!(layer, conv_transpose1d, [batch, i, size.1]);
        let layer = ConvTranspose3dConfig::new([i, o], [1, kernel.0, kernel.1]).with_stride([1, stride.0, stride.1])
            .with_padding([0, padding.0, padding.1]).with_dilation([1, dilation.0, dilation.1])
            .init(&Device::flex().autodiff());
        let reaches = |n: usize, k: usize, s: usize, d: usize, p: usize| (n - 1) * s + d * (k - 1) + 1 > 2 * p;
        if reaches(size.0, kernel.0, stride.0, dilation.0, padding.0) && reaches(size.1, kernel.1, stride.1, dilation.1, padding.1) {
            agrees!(layer, conv_transpose3d, [batch, i, 2, size.0, size.1]);
        }
    }
}

/// Large enough that pictures are split into parts, and rows into blocks.
#[test]
fn large_pictures_are_burns() {
    let device = Device::flex().autodiff();
    for (channels, kernel, batch, size) in [
        ([64, 40], 3, 1, [70, 90]),
        ([160, 24], 1, 1, [64, 64]),
        ([3, 17], 5, 20, [32, 32]),
    ] {
        let half = kernel / 2;
        let layer = Conv2dConfig::new(channels, [kernel, kernel])
            .with_padding(PaddingConfig2d::Explicit(half, half, half, half))
            .init(&device);
        let x = Tensor::<4>::random(
            [batch, channels[0], size[0], size[1]],
            Distribution::Normal(0.0, 1.0),
            &device,
        )
        .require_grad();
        let burns = layer.forward(x.clone());
        let found = conv2d(&layer, x.clone());
        let near = Tolerance::<f32>::relative(1e-4).set_absolute(1e-3);
        found
            .clone()
            .into_data()
            .assert_approx_eq(&burns.clone().into_data(), near);
        let weights = Tensor::random(burns.shape(), Distribution::Normal(0.0, 1.0), &device);
        let expected = (burns * weights.clone()).sum().backward();
        let grads = (found * weights).sum().backward();
        for (a, b) in [
            (x.grad(&grads), x.grad(&expected)),
            (
                layer.weight.val().grad(&grads),
                layer.weight.val().grad(&expected),
            ),
        ] {
            a.unwrap()
                .into_data()
                .assert_approx_eq(&b.unwrap().into_data(), near);
        }
    }
}

#[test]
fn empty_batches_are_empty() {
    let device = Device::flex();
    let layer = Conv2dConfig::new([2, 3], [3, 3]).init(&device);
    let y = conv2d(&layer, Tensor::zeros([0, 2, 5, 5], &device));
    assert_eq!(y.dims(), [0, 3, 3, 3]);
}

#[test]
fn the_thread_count_does_not_change_a_bit() {
    let device = Device::flex().autodiff();
    let layer = Conv2dConfig::new([20, 30], [3, 3])
        .with_stride([2, 1])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(&device);
    let x = Tensor::<4>::random([9, 20, 33, 40], Distribution::Normal(0.0, 1.0), &device);
    let x = x.require_grad();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let y = conv2d(&layer, x.clone());
            let value = y.to_data();
            let grads = (y.clone() * y).sum().backward();
            let weight = layer.weight.val().grad(&grads).unwrap().into_data();
            (value, x.grad(&grads).unwrap().into_data(), weight)
        })
    };
    assert_eq!(run(1), run(3));
}

/// A position that is no number spoils what reads it, and nothing else.
#[test]
fn nan_goes_where_it_is_read() {
    let device = Device::flex();
    let layer = Conv2dConfig::new([2, 9], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(&device);
    let mut values = vec![1.0_f32; 2 * 6 * 7];
    values[3 * 7 + 6] = f32::NAN;
    let x = Tensor::<1>::from_floats(&values[..], &device).reshape([1, 2, 6, 7]);
    let y: Vec<f32> = conv2d(&layer, x).into_data().iter().collect();
    for (at, y) in y.iter().enumerate() {
        let (row, column) = (at / 7 % 6, at % 7);
        let reads = (2..=4).contains(&row) && column >= 5;
        assert_eq!(y.is_nan(), reads, "{at}");
    }
}

/// Outputs that no tap reaches are the bias, also in a row of its own.
#[test]
fn outputs_without_taps_are_the_bias() {
    let device = Device::flex();
    let config = ConvTranspose2dConfig::new([1, 2], [1, 1]);
    let config = config.with_stride([4, 1]).with_padding([1, 0]);
    let layer = config.init(&device);
    let x = Tensor::<4>::ones([1, 1, 2, 100], &device);
    let found = conv_transpose2d(&layer, x.clone()).into_data();
    found.assert_approx_eq(
        &layer.forward(x).into_data(),
        Tolerance::<f32>::absolute(1e-6),
    );
}

#[test]
fn empty_pictures_are_the_bias() {
    let device = Device::flex();
    let padding = PaddingConfig2d::Explicit(2, 2, 2, 2);
    let layer = Conv2dConfig::new([3, 2], [3, 3])
        .with_padding(padding)
        .init(&device);
    let y = conv2d(&layer, Tensor::zeros([2, 3, 0, 5], &device));
    assert_eq!(y.dims(), [2, 2, 2, 7]);
    let bias: Vec<f32> = layer
        .bias
        .as_ref()
        .unwrap()
        .val()
        .into_data()
        .iter()
        .collect();
    for (at, y) in y.into_data().iter::<f32>().enumerate() {
        assert_eq!(y, bias[at / 14 % 2]);
    }
}
