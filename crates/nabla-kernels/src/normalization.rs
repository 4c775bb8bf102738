//! Batch, group, instance, layer and RMS normalization, forward and backward.
//!
//! With the mean `μ` and the variance `v` of a set of numbers, `x̂ = (x − μ)/√(v + ε)` and `y = γ x̂ + β`. With
//! `u = γ ∂y`, averaged over the set,
//!
//! ```text
//! ∂x = (u − mean u − x̂ mean(u x̂))/√(v + ε),   ∂γ = Σ ∂y x̂,   ∂β = Σ ∂y
//! ```
//!
//! Each takes one pass for the sums and one for the values, where Burn's operations take about nine. Sums run in
//! lanes, in `f64` over short pieces, in a fixed order.

use std::sync::{Arc, OnceLock};

use burn::nn::{BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RmsNorm};
use burn::tensor::activation::{relu, silu};
use burn::tensor::{Tensor, TensorData};

use crate::activation::{self, silu_of, silu_slope};
use crate::elementwise::{LANES, for_each_row, sums};
use crate::linear_pieces::{self, Rectifier};
use crate::memory;
use crate::operation::{Array, Operation, Saved, binary, compiled, computes, layer, ternary};
use crate::real::Real;

mod batched;
mod grouped;
mod rows;

use batched::Batched;
use grouped::{Grouped, Then};
use rows::Row;

/// The numbers that are summed in their own precision.
const PIECE: usize = 64 * LANES;

/// Computes `norm`.
///
/// - `x`: `[batch, channels, …]`
/// - returns the shape of `x`
///
/// # Panics
/// Like `norm.forward`, if the channels don't match.
pub fn group_norm<const D: usize>(norm: &GroupNorm, x: Tensor<D>) -> Tensor<D> {
    grouped(norm, x, Then::Nothing)
}

/// `silu` of [`group_norm`], in the same pass, as before every convolution of a residual block.
///
/// - `x`: `[batch, channels, …]`
/// - returns the shape of `x`
///
/// # Panics
/// Like `norm.forward`, if the channels don't match.
pub fn group_norm_silu<const D: usize>(norm: &GroupNorm, x: Tensor<D>) -> Tensor<D> {
    grouped(norm, x, Then::Silu)
}

/// `relu` of [`group_norm`], in the same pass.
///
/// - `x`: `[batch, channels, …]`
/// - returns the shape of `x`
///
/// # Panics
/// Like `norm.forward`, if the channels don't match.
pub fn group_norm_relu<const D: usize>(norm: &GroupNorm, x: Tensor<D>) -> Tensor<D> {
    if linear_pieces::is_held() {
        return linear_pieces::relu(group_norm(norm, x));
    }
    grouped(norm, x, Then::Relu)
}

fn grouped<const D: usize>(norm: &GroupNorm, x: Tensor<D>, then: Then) -> Tensor<D> {
    let operation = Grouped {
        groups: norm.num_groups,
        epsilon: norm.epsilon,
        then,
    };
    let affine = norm.gamma.as_ref().zip(norm.beta.as_ref());
    match (
        operation.run(norm.num_channels, &x, affine.filter(|_| norm.affine)),
        then,
    ) {
        (Some(y), _) => y,
        (None, Then::Nothing) => norm.forward(x),
        (None, Then::Silu) => silu(norm.forward(x)),
        (None, Then::Relu) => relu(norm.forward(x)),
    }
}

/// Computes `norm`.
///
/// - `x`: `[batch, channels, …]`
/// - returns the shape of `x`
///
/// # Panics
/// Like `norm.forward`, if the channels don't match.
pub fn instance_norm<const D: usize>(norm: &InstanceNorm, x: Tensor<D>) -> Tensor<D> {
    let operation = Grouped {
        groups: norm.num_channels,
        epsilon: norm.epsilon,
        then: Then::Nothing,
    };
    let affine = norm.gamma.as_ref().zip(norm.beta.as_ref());
    let found = operation.run(norm.num_channels, &x, affine.filter(|_| norm.affine));
    found.unwrap_or_else(|| norm.forward(x))
}

/// Computes `norm`: with the statistics of the batch where it trains, which then move its running ones, and
/// with the running ones elsewhere.
///
/// As in Burn, the running variance is an average of the batches' population variances (PyTorch averages the
/// unbiased estimates).
///
/// - `x`: `[batch, channels, …]`
/// - returns the shape of `x`
///
/// # Panics
/// Like `norm.forward`, if the channels don't match.
pub fn batch_norm<const D: usize>(norm: &BatchNorm, x: Tensor<D>) -> Tensor<D> {
    match fits_batched(norm, &x) {
        true => batched(norm, x, None),
        false => norm.forward(x),
    }
}

/// `max(·, 0)` of [`batch_norm`], in the same pass.
///
/// - `x`: `[batch, channels, …]`
/// - returns the shape of `x`
///
/// # Panics
/// Like `norm.forward`, if the channels don't match.
pub fn batch_norm_relu<const D: usize>(norm: &BatchNorm, x: Tensor<D>) -> Tensor<D> {
    if !fits_batched(norm, &x) {
        return activation::relu(norm.forward(x));
    }
    match Rectifier::after(&x) {
        Some(end) => batched(norm, x, Some(end)),
        None => linear_pieces::relu(batched(norm, x, None)),
    }
}

fn fits_batched<const D: usize>(norm: &BatchNorm, x: &Tensor<D>) -> bool {
    computes(x) && D >= 2 && norm.gamma.dims() == [x.dims()[1]] && !x.dims().contains(&0)
}

fn batched<const D: usize>(norm: &BatchNorm, x: Tensor<D>, end: Option<Rectifier>) -> Tensor<D> {
    let (gamma, beta) = (norm.gamma.val(), norm.beta.val());
    let device = x.device();
    let of_batch = device.is_autodiff() && norm.training.is_enabled();
    let mut operation = Batched {
        epsilon: norm.epsilon,
        end,
        fixed: None,
        seen: Arc::new(OnceLock::new()),
    };
    if !of_batch {
        let [mean, variance] = [&norm.running_mean, &norm.running_var].map(|state| {
            let values = state.value().into_data();
            values.iter::<f64>().collect::<Vec<f64>>()
        });
        operation.fixed = Some(Arc::new(
            mean.into_iter()
                .zip(variance)
                .map(|(m, v)| [m, v])
                .collect(),
        ));
        return ternary(operation, x, gamma, beta);
    }
    let seen = operation.seen.clone();
    let y = ternary(operation, x, gamma, beta);
    if let Some(seen) = seen.get() {
        let blend = |state: Tensor<1>, k: usize| {
            let dtype = state.dtype();
            let device = state.device();
            let old: Vec<f64> = state.into_data().iter::<f64>().collect();
            let new = old
                .iter()
                .zip(seen)
                .map(|(old, seen)| old * (1.0 - norm.momentum) + seen[k] * norm.momentum);
            let data = TensorData::new(new.collect::<Vec<f64>>(), [old.len()]);
            Tensor::<1>::from_data(data.convert_dtype(dtype), (&device, dtype))
        };
        norm.running_mean
            .update(blend(norm.running_mean.value_sync(), 0));
        norm.running_var
            .update(blend(norm.running_var.value_sync(), 1));
    }
    y
}

/// Computes `norm` with its `epsilon`, which Burn doesn't make public: 1e-5, unless its configuration says
/// otherwise.
///
/// - `x`: `[…, width]`
/// - returns the shape of `x`
///
/// # Panics
/// Like `norm.forward`, if the widths don't match.
pub fn layer_norm<const D: usize>(norm: &LayerNorm, epsilon: f64, x: Tensor<D>) -> Tensor<D> {
    let gamma = norm.gamma.val();
    let width = [x.dims()[D - 1]];
    let fits = norm.beta.as_ref().is_none_or(|beta| beta.dims() == width);
    if !fits || !computes(&x) || gamma.dims() != width {
        return norm.forward(x);
    }
    let operation = Row {
        centred: true,
        epsilon,
    };
    let beta = norm.beta.as_ref().map(|beta| beta.val());
    layer(operation, x, gamma, beta)
}

/// Computes `norm`: `γ x/√(mean x² + ε)` over the last dimension.
///
/// - `x`: `[…, width]`
/// - returns the shape of `x`
///
/// # Panics
/// Like `norm.forward`, if the widths don't match.
pub fn rms_norm<const D: usize>(norm: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
    let gamma = norm.gamma.val();
    if !computes(&x) || gamma.dims() != [x.dims()[D - 1]] {
        return norm.forward(x);
    }
    let operation = Row {
        centred: false,
        epsilon: norm.epsilon,
    };
    binary(operation, x, gamma)
}

/// `silu(x · (1 + scale) + shift)`: as between the two convolutions of a residual block.
///
/// - `x`: `[batch, channels, height, width]`
/// - `scale`, `shift`: `[batch, channels]`
/// - returns the shape of `x`
pub fn modulated_silu(x: Tensor<4>, scale: Tensor<2>, shift: Tensor<2>) -> Tensor<4> {
    let [batch, channels, _, _] = x.dims();
    let fits = scale.dims() == [batch, channels] && shift.dims() == [batch, channels];
    if fits && computes(&x) && !x.dims().contains(&0) {
        return ternary(Modulated, x, scale, shift);
    }
    let wide = |v: Tensor<2>| v.reshape([batch, channels, 1, 1]);
    silu(x * (wide(scale) + 1.0) + wide(shift))
}

/// `Σ (x − origin)` and `Σ (x − origin)²`.
#[inline(always)]
fn sums_around<F: Real>(x: &[F], origin: F) -> [f64; 2] {
    sums(
        [x],
        #[inline(always)]
        |[x]| {
            let d = x - origin;
            [d, d * d]
        },
    )
}

/// The mean and the variance from [`sums_around`].
#[inline(always)]
fn moments([sum, squares]: [f64; 2], origin: f64, count: f64) -> [f64; 2] {
    let mean = sum / count;
    let variance = squares / count - mean * mean;
    // Rounding can make it negative; NaN stays.
    let variance = if variance < 0.0 { 0.0 } else { variance };
    [origin + mean, variance]
}

/// The mean and `1/√(variance + ε)` of some numbers.
#[inline(always)]
fn mean_and_scale<F: Real>(x: &[F], epsilon: f64) -> [f64; 2] {
    // Sums around the first number, so that a picture of one colour has no variance.
    let origin = x.first().copied().unwrap_or(F::ZERO);
    let [mean, variance] = moments(sums_around(x, origin), origin.wide(), x.len() as f64);
    [mean, 1.0 / (variance + epsilon).sqrt()]
}

/// `∂u = ∂y slope(u)` of a plane with `u = x̂ gain + shift`, into `du`; returns `Σ ∂u x̂` and `Σ ∂u`.
#[inline(always)]
fn slopes<F: Real>(
    du: &mut [F],
    x: &[F],
    grad: &[F],
    [mean, scale, gain, shift]: [F; 4],
    slope: impl Fn(F) -> F + Copy,
) -> [f64; 2] {
    let mut totals = [0.0; 2];
    let pieces = du.chunks_mut(PIECE);
    for (du, (x, grad)) in pieces.zip(x.chunks(PIECE).zip(grad.chunks(PIECE))) {
        // Sums in lanes, which vectorise, and in a fixed order.
        let (mut of_normal, mut of_one) = ([F::ZERO; LANES], [F::ZERO; LANES]);
        let (whole_du, rest_du) = du.as_chunks_mut::<LANES>();
        let (whole_x, rest_x) = x.as_chunks::<LANES>();
        let (whole_grad, rest_grad) = grad.as_chunks::<LANES>();
        for ((du, x), grad) in whole_du.iter_mut().zip(whole_x).zip(whole_grad) {
            for lane in 0..LANES {
                let normal = (x[lane] - mean) * scale;
                let value = grad[lane] * slope(normal * gain + shift);
                du[lane] = value;
                of_normal[lane] += value * normal;
                of_one[lane] += value;
            }
        }
        let rest = rest_du.iter_mut().zip(rest_x).zip(rest_grad);
        for (lane, ((du, &x), &grad)) in rest.enumerate() {
            let normal = (x - mean) * scale;
            let value = grad * slope(normal * gain + shift);
            *du = value;
            of_normal[lane] += value * normal;
            of_one[lane] += value;
        }
        totals[0] += of_normal.iter().map(|&v| v.wide()).sum::<f64>();
        totals[1] += of_one.iter().map(|&v| v.wide()).sum::<f64>();
    }
    totals
}

/// `[batch, channels, area]`.
fn planes(shape: &[usize]) -> [usize; 3] {
    [shape[0], shape[1], shape[2..].iter().product()]
}

/// γ and β of a channel: of the second and third array, or 1 and 0.
fn affine<F: Real>(gamma: Option<&Array<F>>, beta: Option<&Array<F>>, count: usize) -> Vec<[F; 2]> {
    let of = |array: Option<&Array<F>>, default: F| match array {
        Some(array) => array.values().to_vec(),
        None => vec![default; count],
    };
    let (gamma, beta) = (of(gamma, F::ONE), of(beta, F::ZERO));
    gamma.into_iter().zip(beta).map(|(g, b)| [g, b]).collect()
}

/// The gradients by γ and β from the sums of each channel.
fn by_affine<F: Real, const N: usize>(
    gradients: &mut [Option<Array<F>>; N],
    wanted: [bool; N],
    sums: &[[f64; 2]],
) {
    for (k, (gradient, wanted)) in gradients.iter_mut().zip(wanted).enumerate().skip(1) {
        if wanted {
            let values = sums.iter().map(|sum| F::of(sum[k - 1])).collect();
            *gradient = Some(Array::new(values, &[sums.len()]));
        }
    }
}

/// [`modulated_silu`].
#[derive(Clone, Copy, Debug)]
struct Modulated;

compiled!(Modulated: 3);

impl Operation<3> for Modulated {
    type Kept = ();

    fn forward<F: Real>(&self, [x, scale, shift]: [Array<F>; 3], _: bool) -> (Array<F>, ()) {
        let shape = x.shape();
        let [_, _, area] = planes(&shape);
        let (x, scale, shift) = (x.values(), scale.values(), shift.values());
        let mut y = memory::room(x.len());
        for_each_row(
            &mut y,
            area,
            #[inline(always)]
            |plane, y| {
                let (gain, shift) = (F::ONE + scale[plane], shift[plane]);
                for (y, &x) in y.iter_mut().zip(&x[plane * area..(plane + 1) * area]) {
                    *y = silu_of(x * gain + shift);
                }
            },
        );
        (Array::new(y, &shape), ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), 3>) -> [Option<Array<F>>; 3] {
        let Saved { inputs, grad, .. } = saved;
        let [Some(x), Some(scale), Some(shift)] = inputs else {
            return [const { None }; 3];
        };
        let shape = x.shape();
        let [batch, channels, area] = planes(&shape);
        let (x, scale, shift, grad) = (x.values(), scale.values(), shift.values(), grad.values());
        let mut dx = memory::room(x.len());
        let sums = for_each_row(
            &mut dx,
            area,
            #[inline(always)]
            |plane, dx| {
                let (gain, shift) = (F::ONE + scale[plane], shift[plane]);
                let range = plane * area..(plane + 1) * area;
                // With mean 0 and scale 1, x̂ is x.
                let numbers = [F::ZERO, F::ONE, gain, shift];
                let sums = slopes(
                    dx,
                    &x[range.clone()],
                    &grad[range],
                    numbers,
                    #[inline(always)]
                    |u| silu_slope(u),
                );
                for dx in dx {
                    *dx *= gain;
                }
                sums
            },
        );
        let by = |k: usize| {
            let values = sums.iter().map(|sum| F::of(sum[k])).collect();
            Some(Array::new(values, &[batch, channels]))
        };
        [Some(Array::new(dx, &shape)), by(0), by(1)]
    }
}

#[cfg(test)]
mod tests;
