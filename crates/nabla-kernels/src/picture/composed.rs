//! The kernels with Burn's operations: for other backends and other numbers than `f32`.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::FloatDType;

use super::loops::dims;
use super::{KernelGradients, Kernels};
use crate::half_precision::is_half;

/// [`Kernels::silu`] with Burn's operations.
pub(super) fn composed_silu<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(x.clone(), B::sigmoid(x))
}

/// [`Kernels::group_norm`] with Burn's operations.
pub(super) fn composed_group_norm<B: Kernels>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    groups: usize,
    epsilon: f64,
    with_silu: bool,
) -> FloatTensor<B> {
    let [batch, channels, height, width] = dims(&x);
    let dtype = x.dtype();
    // A sum of squares would exceed the range of 16 bits.
    let narrow = is_half(dtype);
    let x = match narrow {
        true => B::float_cast(x, FloatDType::F32),
        false => x,
    };
    let group = channels / groups * height * width;
    let x = B::float_reshape(x, [batch, groups, group].into());
    let mean = B::float_mean_dim(x.clone(), 2); // [batch, groups, 1]
    let x = B::float_sub(x, mean);
    let variance = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 2);
    let deviation = B::float_sqrt(B::float_add_scalar(variance, epsilon.into()));
    let x = B::float_reshape(
        B::float_div(x, deviation),
        [batch, channels, height, width].into(),
    );
    let x = match narrow {
        true => B::float_cast(x, dtype.into()),
        false => x,
    };
    let wide = |v| B::float_reshape(v, [1, channels, 1, 1].into());
    let y = B::float_add(B::float_mul(x, wide(gamma)), wide(beta));
    match with_silu {
        true => B::silu(y),
        false => y,
    }
}

/// [`KernelGradients::group_norm_backward`] with Burn's operations.
///
/// With `x̂ = (x − mean)/deviation` and `v = gamma · ∂y`, averaged over a group:
/// `∂x = (v − mean v − x̂ · mean (v x̂))/deviation`.
pub(super) fn composed_group_norm_backward<B: KernelGradients>(
    [x, gamma, beta]: [FloatTensor<B>; 3],
    groups: usize,
    epsilon: f64,
    with_silu: bool,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let [batch, channels, height, width] = dims(&x);
    let dtype = x.dtype();
    // A sum of squares would exceed the range of 16 bits.
    let widened = |v: FloatTensor<B>| match is_half(dtype) {
        true => B::float_cast(v, FloatDType::F32),
        false => v,
    };
    let [x, gamma, beta, grad] = [x, gamma, beta, grad].map(widened);
    let area = height * width;
    let grouped = |v| B::float_reshape(v, [batch, groups, channels / groups * area].into());
    let planes = |v| B::float_reshape(v, [batch, channels, area].into());
    let row = |v| B::float_reshape(v, [1, channels, 1].into());
    let x = grouped(x);
    let x = B::float_sub(x.clone(), B::float_mean_dim(x, 2));
    let variance = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 2); // [batch, groups, 1]
    let deviation = B::float_sqrt(B::float_add_scalar(variance, epsilon.into()));
    let normal = B::float_div(x, deviation.clone()); // x̂
    let grad = match with_silu {
        true => {
            let shape = [batch, channels, height, width];
            let scaled = B::float_mul(planes(normal.clone()), row(gamma.clone()));
            let u = B::float_add(scaled, row(beta));
            B::silu_backward(B::float_reshape(u, shape.into()), grad)
        }
        false => grad,
    };
    let grad = planes(grad);
    let sum = |v| {
        let sum = B::float_sum_dim(B::float_sum_dim(v, 2), 0);
        B::float_reshape(sum, [channels].into())
    };
    let by_gamma = sum(B::float_mul(grad.clone(), planes(normal.clone())));
    let by_beta = sum(grad.clone());
    let v = grouped(B::float_mul(grad, row(gamma)));
    let along = B::float_mean_dim(B::float_mul(v.clone(), normal.clone()), 2);
    let level = B::float_mean_dim(v.clone(), 2);
    let dx = B::float_sub(B::float_sub(v, level), B::float_mul(normal, along));
    let dx = B::float_reshape(
        B::float_div(dx, deviation),
        [batch, channels, height, width].into(),
    );
    [dx, by_gamma, by_beta].map(|v| match is_half(dtype) {
        true => B::float_cast(v, dtype.into()),
        false => v,
    })
}

/// [`KernelGradients::silu_backward`] with Burn's operations.
pub(super) fn composed_silu_backward<B: Backend>(
    x: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> FloatTensor<B> {
    // d/dx x s(x) = s + x s (1 - s)
    let s = B::sigmoid(x.clone());
    let through_sigmoid = B::sigmoid_backward(s.clone(), B::float_mul(grad.clone(), x));
    B::float_add(B::float_mul(grad, s), through_sigmoid)
}

/// [`KernelGradients::modulated_silu_backward`] with Burn's operations.
pub(super) fn composed_modulated_silu_backward<B: KernelGradients>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    shift: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let [batch, channels, height, width] = dims(&x);
    let u = modulate::<B>(x.clone(), scale.clone(), shift);
    let du = B::silu_backward(u, grad);
    let gain = B::float_add_scalar(scale, 1.0.into());
    let gain = B::float_reshape(gain, [batch, channels, 1, 1].into());
    let sum = |v: FloatTensor<B>| {
        let v = B::float_reshape(v, [batch, channels, height * width].into());
        B::float_reshape(B::float_sum_dim(v, 2), [batch, channels].into())
    };
    [
        B::float_mul(du.clone(), gain),
        sum(B::float_mul(du.clone(), x)),
        sum(du),
    ]
}

/// `x · (1 + scale) + shift`.
pub(super) fn modulate<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    shift: FloatTensor<B>,
) -> FloatTensor<B> {
    let [batch, channels, _, _] = dims(&x);
    let gain = B::float_add_scalar(scale, 1.0.into());
    let gain = B::float_reshape(gain, [batch, channels, 1, 1].into());
    let shift = B::float_reshape(shift, [batch, channels, 1, 1].into());
    B::float_add(B::float_mul(x, gain), shift)
}
