use super::*;
use crate::attention::attention;
use burn::module::Param;
use burn::nn::{LinearConfig, LinearLayout};
use burn::tensor::{DType, Device, Distribution, Tolerance};

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn double<const D: usize>(param: Param<Tensor<D>>) -> Param<Tensor<D>> {
    param.map(|tensor| tensor.cast(DType::F64).detach().require_grad())
}

/// The layer without a matrix product: Burn's of an empty batch is not defined.
fn summed(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    let [_, _, input] = x.dims();
    let weight = layer.weight.val();
    let output = weight.dims()[1];
    let weight: Tensor<4> = weight.reshape([1, 1, input, output]);
    let y: Tensor<3> = (x.unsqueeze_dim::<4>(3) * weight).sum_dim(2).squeeze_dim(2);
    match &layer.bias {
        Some(bias) => y + bias.val().unsqueeze(),
        None => y,
    }
}

/// Of every layout, with and without a bias.
#[test]
fn values_and_gradients_are_burns() {
    let device = Device::flex().autodiff();
    for ([batch, length, input], n) in [
        ([1, 1, 1], 1),
        ([2, 3, 5], 7),
        ([1, 300, 40], 150),
        ([3, 190, 8], 129),
        ([0, 4, 3], 2),
    ] {
        for (layout, bias) in [
            (LinearLayout::Row, true),
            (LinearLayout::Col, true),
            (LinearLayout::Row, false),
        ] {
            let config = LinearConfig::new(input, 2 * n)
                .with_layout(layout)
                .with_bias(bias);
            let mut layer = config.init(&device);
            layer.weight = double(layer.weight);
            layer.bias = layer.bias.map(double);
            let x = random([batch, length, input], &device)
                .cast(DType::F64)
                .require_grad();
            let weights = random([batch, length, 2 * n], &device).cast(DType::F64);
            let (burns, found) = (summed(&layer, x.clone()), linear(&layer, x.clone()));
            let near = Tolerance::<f64>::absolute(1e-10);
            found.to_data().assert_approx_eq(&burns.to_data(), near);
            let expected = (burns.clone() * weights.clone()).sum().backward();
            let grads = (found * weights).sum().backward();
            let same = |a: Option<burn::tensor::TensorData>,
                        b: Option<burn::tensor::TensorData>| {
                a.unwrap().assert_approx_eq(&b.unwrap(), near);
            };
            same(
                x.grad(&grads).map(Tensor::into_data),
                x.grad(&expected).map(Tensor::into_data),
            );
            let weight = layer.weight.val();
            same(
                weight.grad(&grads).map(Tensor::into_data),
                weight.grad(&expected).map(Tensor::into_data),
            );
            if let Some(bias) = &layer.bias {
                let bias = bias.val();
                same(
                    bias.grad(&grads).map(Tensor::into_data),
                    bias.grad(&expected).map(Tensor::into_data),
                );
            }
            // In single precision and without autodiff.
            let single = LinearConfig::new(input, 2 * n)
                .with_bias(bias)
                .init(&Device::flex());
            let x = random([batch, length, input], &Device::flex());
            let near = Tolerance::<f32>::absolute(4e-6);
            let burns = summed(&single, x.clone());
            linear(&single, x.clone())
                .into_data()
                .assert_approx_eq(&burns.to_data(), near);
            let gated = burns.clone().slice_dim(2, 0..n)
                * burn::tensor::activation::gelu(burns.slice_dim(2, n..2 * n));
            linear_geglu(&single, x)
                .into_data()
                .assert_approx_eq(&gated.into_data(), near);
        }
    }
}

/// In 16 bits the result is that of the rounded numbers in 32, rounded.
#[test]
fn sixteen_bits_are_computed_with_in_thirty_two() {
    let device = Device::flex();
    let layer = LinearConfig::new(40, 2 * 70).init(&device);
    let x: Tensor<3> = random([2, 150, 40], &device);
    for (dtype, most) in [(DType::F16, 6e-4), (DType::BF16, 5e-3)] {
        let rounded = |x: Tensor<3>| x.cast(dtype);
        let narrow = Linear {
            weight: layer.weight.clone().map(|w| w.cast(dtype)),
            bias: layer.bias.clone().map(|b| b.map(|b| b.cast(dtype))),
        };
        let wide = Linear {
            weight: narrow.weight.clone().map(|w| w.cast(DType::F32)),
            bias: narrow.bias.clone().map(|b| b.map(|b| b.cast(DType::F32))),
        };
        let small = rounded(x.clone());
        let large = small.clone().cast(DType::F32);
        let attend = |x: Tensor<3>| attention(x.clone(), x.clone(), x, 4, false);
        for (found, expected) in [
            (linear(&narrow, small.clone()), linear(&wide, large.clone())),
            (
                linear_geglu(&narrow, small.clone()),
                linear_geglu(&wide, large.clone()),
            ),
            (attend(small), attend(large)),
        ] {
            assert_eq!(found.dtype(), dtype);
            let difference = (found.cast(DType::F32) - expected.clone()).abs();
            let relative = difference / (expected.abs() + 1.0);
            let relative: f32 = relative.max().into_scalar();
            assert!(relative < most && relative > 0.0, "{dtype:?}: {relative}");
        }
    }
}

#[test]
fn the_thread_count_does_not_change_a_bit() {
    let device = Device::flex();
    let layer = LinearConfig::new(20, 300).init(&device);
    let (q, k) = (random([2, 150, 12], &device), random([2, 600, 12], &device));
    let x = random([1, 300, 20], &device);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let a = attention(q.clone(), k.clone(), k.clone(), 3, false).into_data();
            (a, linear_geglu(&layer, x.clone()).into_data())
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn an_input_without_numbers_is_the_bias() {
    let device = Device::flex().autodiff();
    let mut layer = LinearConfig::new(3, 2).init(&device);
    layer.weight = Param::from_tensor(Tensor::zeros([0, 2], &device));
    let y = linear(&layer, Tensor::<2>::zeros([5, 0], &device));
    let bias: Vec<f32> = layer
        .bias
        .as_ref()
        .unwrap()
        .val()
        .into_data()
        .iter()
        .collect();
    for (at, y) in y.to_data().iter::<f32>().enumerate() {
        assert_eq!(y, bias[at % 2]);
    }
    let grads = y.sum().backward();
    let grad = layer.bias.as_ref().unwrap().val().grad(&grads).unwrap();
    assert_eq!(grad.into_data().try_to_vec::<f32>().unwrap(), [5.0, 5.0]);
}

/// A layer norm may have its parameters in 32 bits and its input in 16; each gradient has the type of its input.
#[test]
fn gradients_have_the_type_of_what_they_belong_to() {
    let device = Device::flex().autodiff();
    let norm = burn::nn::LayerNormConfig::new(6).init(&device);
    let x: Tensor<2> = random([4, 6], &device)
        .cast(DType::F16)
        .detach()
        .require_grad();
    let y = crate::normalization::layer_norm(&norm, 1e-5, x.clone());
    assert_eq!(y.dtype(), DType::F16);
    let grads = y.sum().backward();
    assert_eq!(x.grad(&grads).unwrap().dtype(), DType::F16);
    let gamma = norm.gamma.val();
    assert_eq!(gamma.grad(&grads).unwrap().dtype(), gamma.dtype());
}
