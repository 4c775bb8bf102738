use super::*;
use burn::module::Param;
use burn::tensor::module::conv2d;
use burn::tensor::{Device, Distribution, Tolerance};

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Burn's own convolution and gradients are the reference.
#[test]
fn convolution_and_its_gradients_are_burns() {
    let device = Device::flex().autodiff();
    for [batch, inputs, outputs, height, width] in [
        [1, 1, 1, 1, 1],
        [2, 3, 5, 4, 7],
        [1, 17, 33, 9, 1],
        [3, 40, 16, 33, 20],
    ] {
        let x = random([batch, inputs, height, width], &device).require_grad();
        let w = random([outputs, inputs, 3, 3], &device).require_grad();
        let b = random([outputs], &device).require_grad();
        let weigh = random([batch, outputs, height, width], &device);
        let ours = conv3x3(x.clone(), w.clone(), b.clone());
        let burns = conv2d(x.clone(), w.clone(), Some(b.clone()), same_convolution());
        let tolerance = Tolerance::<f32>::absolute(2e-3).set_relative(1e-4);
        ours.to_data().assert_approx_eq(&burns.to_data(), tolerance);
        let ours = (ours * weigh.clone()).sum().backward();
        let burns = (burns * weigh).sum().backward();
        macro_rules! same {
            ($v:expr) => {
                $v.grad(&ours)
                    .unwrap()
                    .into_data()
                    .assert_approx_eq::<f32>(&$v.grad(&burns).unwrap().into_data(), tolerance)
            };
        }
        same!(x);
        same!(w);
        same!(b);
    }
}

/// The composition of Burn's own operations is the reference.
#[test]
fn modulated_silu_and_its_gradients_are_burns() {
    let device = Device::flex().autodiff();
    for [batch, channels, height, width] in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 2, 16, 17]] {
        let x = random([batch, channels, height, width], &device).require_grad();
        let scale = random([batch, channels], &device).require_grad();
        let shift = random([batch, channels], &device).require_grad();
        let weigh = random([batch, channels, height, width], &device);
        let ours = modulated_silu(x.clone(), scale.clone(), shift.clone());
        let wide = |v: Tensor<2>| v.reshape([batch, channels, 1, 1]);
        let burns = burn::tensor::activation::silu(
            x.clone() * (wide(scale.clone()) + 1.0) + wide(shift.clone()),
        );
        let tolerance = Tolerance::<f32>::absolute(1e-4).set_relative(1e-4);
        ours.to_data().assert_approx_eq(&burns.to_data(), tolerance);
        let ours = (ours * weigh.clone()).sum().backward();
        let burns = (burns * weigh).sum().backward();
        for (a, b) in [
            (
                x.grad(&ours).unwrap().into_data(),
                x.grad(&burns).unwrap().into_data(),
            ),
            (
                scale.grad(&ours).unwrap().into_data(),
                scale.grad(&burns).unwrap().into_data(),
            ),
            (
                shift.grad(&ours).unwrap().into_data(),
                shift.grad(&burns).unwrap().into_data(),
            ),
        ] {
            a.assert_approx_eq::<f32>(&b, tolerance);
        }
    }
}

/// Burn's own group norm is the reference.
#[test]
fn group_norm_and_its_gradients_are_burns() {
    use burn::nn::GroupNormConfig;
    for device in [Device::flex(), Device::flex().autodiff()] {
        for ([batch, channels, height, width], groups) in
            [([1, 4, 1, 1], 2), ([2, 6, 5, 7], 3), ([3, 8, 33, 40], 1)]
        {
            let mut norm = GroupNormConfig::new(groups, channels).init(&device);
            norm.gamma = Some(Param::from_tensor(random([channels], &device)));
            norm.beta = Some(Param::from_tensor(random([channels], &device)));
            let x = random([batch, channels, height, width], &device) * 3.0 + 5.0;
            let x = Tensor::from_data(x.into_data(), &device);
            let tolerance = Tolerance::<f32>::absolute(1e-4).set_relative(1e-4);
            let burns = norm.forward(x.clone());
            let ours = group_norm(&norm, x.clone());
            ours.into_data()
                .assert_approx_eq(&burns.clone().into_data(), tolerance);
            let ours = group_norm_silu(&norm, x.clone());
            ours.into_data()
                .assert_approx_eq(&silu(burns).into_data(), tolerance);
        }
    }
    let device = Device::flex().autodiff();
    for (shape, groups, bound) in [
        ([1, 4, 1, 1], 2, 1e-4),
        ([2, 6, 5, 7], 2, 1e-4),
        ([2, 6, 5, 7], 3, 1e-4),
        // Sums of 4000 numbers in 32 bits.
        ([3, 8, 33, 40], 1, 2e-3),
    ] {
        for with_silu in [false, true] {
            let tolerance = Tolerance::<f32>::absolute(bound).set_relative(1e-4);
            for [ours, burns] in gradients(shape, groups, with_silu, DType::F32, &device) {
                ours.assert_approx_eq(&burns, tolerance);
            }
        }
    }
}

/// Burn's operations on the autodiff backend, in 64 bits.
#[test]
fn the_composed_gradients_of_a_group_norm_are_burns() {
    let device = Device::flex().autodiff();
    let tolerance = Tolerance::<f64>::absolute(1e-10).set_relative(1e-10);
    for [ours, burns] in gradients([2, 6, 5, 7], 3, true, DType::F64, &device) {
        ours.assert_approx_eq(&burns, tolerance);
    }
}

/// The gradients by picture, gain and shift of a weighted sum of [`group_norm`] and of Burn's own.
fn gradients(
    shape: [usize; 4],
    groups: usize,
    with_silu: bool,
    dtype: DType,
    device: &Device,
) -> [[TensorData; 2]; 3] {
    use burn::nn::GroupNormConfig;
    let channels = shape[1];
    let mut norm = GroupNormConfig::new(groups, channels).init(device);
    let parameter = || {
        let v = random([channels], device).cast(dtype);
        Param::from_tensor(v.detach().require_grad())
    };
    (norm.gamma, norm.beta) = (Some(parameter()), Some(parameter()));
    let x = random(shape, device).cast(dtype).detach().require_grad();
    let weigh = random(shape, device).cast(dtype);
    let (ours, burns) = match with_silu {
        true => (
            group_norm_silu(&norm, x.clone()),
            silu(norm.forward(x.clone())),
        ),
        false => (group_norm(&norm, x.clone()), norm.forward(x.clone())),
    };
    let [ours, burns] = [ours, burns].map(|y| (y * weigh.clone()).sum().backward());
    let [gamma, beta] = [&norm.gamma, &norm.beta].map(|v| v.as_ref().unwrap().val());
    [
        [&ours, &burns].map(|g| x.grad(g).unwrap().into_data()),
        [&ours, &burns].map(|g| gamma.grad(g).unwrap().into_data()),
        [&ours, &burns].map(|g| beta.grad(g).unwrap().into_data()),
    ]
}

/// A tiny spread beside a large mean, where the difference of large sums would be lost.
#[test]
fn group_norm_keeps_a_small_variance() {
    use burn::nn::GroupNormConfig;
    let device = Device::flex();
    let norm = GroupNormConfig::new(1, 1).with_epsilon(0.0).init(&device);
    let steps: Vec<f32> = (0..4096).map(|i| 1000.0 + (i % 2) as f32 / 64.0).collect();
    let x = Tensor::<1>::from_floats(steps.as_slice(), &device).reshape([1, 1, 64, 64]);
    let y: Vec<f32> = group_norm(&norm, x).into_data().try_to_vec().unwrap();
    for (i, y) in y.into_iter().enumerate() {
        let expected = if i % 2 == 0 { -1.0 } else { 1.0 };
        assert!((y - expected).abs() < 1e-2, "{i}: {y}");
    }
    let flat = Tensor::<4>::full([1, 1, 8, 8], 0.1, &device);
    let norm = GroupNormConfig::new(1, 1).with_epsilon(1e-12).init(&device);
    let y: Vec<f32> = group_norm(&norm, flat).into_data().try_to_vec().unwrap();
    assert!(y.into_iter().all(|y| y.abs() < 1e-6));
}

/// In 16 bits the result is that of the rounded numbers in 32, rounded.
#[test]
fn sixteen_bits_are_computed_with_in_thirty_two() {
    use burn::nn::GroupNormConfig;
    use burn::nn::conv::Conv2dConfig;
    let device = Device::flex();
    let x = random([2, 6, 9, 8], &device) * 2.0;
    let norm = GroupNormConfig::new(3, 6).init(&device);
    for (dtype, most) in [(DType::F16, 1e-3), (DType::BF16, 8e-3)] {
        let small = x.clone().cast(dtype);
        let large = small.clone().cast(DType::F32);
        let mut pairs = vec![
            (silu(small.clone()), silu(large.clone())),
            (
                group_norm_silu(
                    &GroupNorm {
                        gamma: norm.gamma.clone().map(|v| v.map(|v| v.cast(dtype))),
                        beta: norm.beta.clone().map(|v| v.map(|v| v.cast(dtype))),
                        ..norm.clone()
                    },
                    small.clone(),
                ),
                group_norm_silu(&norm, large.clone()),
            ),
        ];
        for (kernel, stride) in [(3, 1), (3, 2), (1, 1)] {
            let margin = kernel / 2;
            let conv = Conv2dConfig::new([6, 4], [kernel; 2])
                .with_stride([stride; 2])
                .with_padding(PaddingConfig2d::Explicit(margin, margin, margin, margin))
                .init(&device);
            let as_dtype = |conv: &Conv2d, dtype| Conv2d {
                weight: conv.weight.clone().map(|w| w.cast(dtype)),
                bias: conv.bias.clone().map(|b| b.map(|b| b.cast(dtype))),
                ..conv.clone()
            };
            let narrow = as_dtype(&conv, dtype);
            let wide = as_dtype(&narrow, DType::F32);
            pairs.push((
                convolution(&narrow, small.clone()),
                convolution(&wide, large.clone()),
            ));
        }
        for (found, expected) in pairs {
            assert_eq!(found.dtype(), dtype);
            let difference = (found.cast(DType::F32) - expected.clone()).abs();
            let relative = difference / (expected.abs() + 1.0);
            let relative: f32 = relative.max().into_scalar();
            assert!(relative < most && relative > 0.0, "{dtype:?}: {relative}");
        }
    }
}

#[test]
fn silu_is_within_rounding_of_its_closed_form() {
    let device = Device::flex().autodiff();
    let xs: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 0.03).collect();
    let n = xs.len();
    let x = Tensor::<1>::from_floats(xs.as_slice(), &device)
        .reshape([1, 1, 1, n])
        .require_grad();
    let y = silu(x.clone());
    let grads = y.clone().sum().backward();
    let y = y.into_data().try_to_vec::<f32>().unwrap();
    let dy = x
        .grad(&grads)
        .unwrap()
        .into_data()
        .try_to_vec::<f32>()
        .unwrap();
    for ((&x, y), dy) in xs.iter().zip(y).zip(dy) {
        let x = f64::from(x);
        let s = 1.0 / (1.0 + (-x).exp());
        let close = |a: f32, b: f64| (f64::from(a) - b).abs() <= 1e-6 * (1.0 + b.abs());
        assert!(close(y, x * s), "silu({x}) = {y}");
        assert!(close(dy, s * (1.0 + x * (1.0 - s))), "silu'({x}) = {dy}");
    }
}

#[test]
fn the_thread_count_does_not_change_a_bit() {
    let device = Device::flex();
    let (x, w) = (
        random([2, 24, 31, 17], &device),
        random([20, 24, 3, 3], &device),
    );
    let b = random([20], &device);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| conv3x3(x.clone(), w.clone(), b.clone()).into_data())
    };
    assert_eq!(run(1), run(3));
}
