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
use burn::tensor::activation::silu;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::elementwise::{for_each_row, vectorized};
use crate::memory;
use crate::operation::{Array, Operation, Saved, binary, computes, ternary, unary};
use crate::real::Real;

/// The number of parallel partial sums.
const LANES: usize = 16;

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
    grouped(norm, x, false)
}

/// `silu` of [`group_norm`], in the same pass, as before every convolution of a residual block.
///
/// - `x`: `[batch, channels, …]`
/// - returns the shape of `x`
///
/// # Panics
/// Like `norm.forward`, if the channels don't match.
pub fn group_norm_silu<const D: usize>(norm: &GroupNorm, x: Tensor<D>) -> Tensor<D> {
    grouped(norm, x, true)
}

fn grouped<const D: usize>(norm: &GroupNorm, x: Tensor<D>, with_silu: bool) -> Tensor<D> {
    let operation = Grouped {
        groups: norm.num_groups,
        epsilon: norm.epsilon,
        with_silu,
    };
    let fits = computes(&x) && D >= 2 && x.dims()[1] == norm.num_channels;
    let affine = match (&norm.gamma, &norm.beta) {
        (Some(gamma), Some(beta)) if norm.affine => Some((gamma.val(), beta.val())),
        _ => None,
    };
    match affine {
        Some((gamma, beta)) if fits => ternary(operation, x, gamma, beta),
        None if fits => unary(operation, x),
        _ if with_silu => silu(norm.forward(x)),
        _ => norm.forward(x),
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
        with_silu: false,
    };
    let fits = computes(&x) && D >= 2 && x.dims()[1] == norm.num_channels;
    match (&norm.gamma, &norm.beta) {
        (Some(gamma), Some(beta)) if fits && norm.affine => {
            ternary(operation, x, gamma.val(), beta.val())
        }
        _ if fits => unary(operation, x),
        _ => norm.forward(x),
    }
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
    batched(norm, x, false)
}

/// `max(·, 0)` of [`batch_norm`], in the same pass.
///
/// - `x`: `[batch, channels, …]`
/// - returns the shape of `x`
///
/// # Panics
/// Like `norm.forward`, if the channels don't match.
pub fn batch_norm_relu<const D: usize>(norm: &BatchNorm, x: Tensor<D>) -> Tensor<D> {
    batched(norm, x, true)
}

fn batched<const D: usize>(norm: &BatchNorm, x: Tensor<D>, with_relu: bool) -> Tensor<D> {
    let (gamma, beta) = (norm.gamma.val(), norm.beta.val());
    if !computes(&x) || D < 2 || gamma.dims() != [x.dims()[1]] || x.dims().contains(&0) {
        let y = norm.forward(x);
        return match with_relu {
            true => burn::tensor::activation::relu(y),
            false => y,
        };
    }
    let device = x.device();
    let of_batch = device.is_autodiff() && norm.training.is_enabled();
    let mut operation = Batched {
        epsilon: norm.epsilon,
        with_relu,
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
    if !computes(&x) || gamma.dims() != [x.dims()[D - 1]] {
        return norm.forward(x);
    }
    let operation = Row {
        centred: true,
        epsilon,
    };
    match &norm.beta {
        Some(beta) => ternary(operation, x, gamma, beta.val()),
        None => binary(operation, x, gamma),
    }
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
    if computes(&x) && scale.dims() == [batch, channels] && shift.dims() == [batch, channels] {
        return ternary(Modulated, x, scale, shift);
    }
    let wide = |v: Tensor<2>| v.reshape([batch, channels, 1, 1]);
    silu(x * (wide(scale) + 1.0) + wide(shift))
}

/// `Σ (x − origin)` and `Σ (x − origin)²`.
#[inline(always)]
fn sums<F: Real>(x: &[F], origin: F) -> [f64; 2] {
    let mut totals = [0.0; 2];
    for piece in x.chunks(PIECE) {
        let (mut s, mut q) = ([F::ZERO; LANES], [F::ZERO; LANES]);
        let (whole, rest) = piece.as_chunks::<LANES>();
        for x in whole {
            for lane in 0..LANES {
                let d = x[lane] - origin;
                s[lane] += d;
                q[lane] += d * d;
            }
        }
        for (lane, &x) in rest.iter().enumerate() {
            let d = x - origin;
            s[lane] += d;
            q[lane] += d * d;
        }
        totals[0] += s.iter().map(|&v| v.wide()).sum::<f64>();
        totals[1] += q.iter().map(|&v| v.wide()).sum::<f64>();
    }
    totals
}

/// The mean and the variance from [`sums`].
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
    let [mean, variance] = moments(sums(x, origin), origin.wide(), x.len() as f64);
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

#[inline(always)]
fn silu_of<F: Real>(u: F) -> F {
    u * u.sigmoid()
}

#[inline(always)]
fn silu_slope<F: Real>(u: F) -> F {
    let s = u.sigmoid();
    s * (F::ONE + u * (F::ONE - s))
}

/// `[batch, channels, area]`.
fn planes(shape: &[usize]) -> [usize; 3] {
    [shape[0], shape[1], shape[2..].iter().product()]
}

/// Group normalization.
#[derive(Clone, Copy, Debug)]
struct Grouped {
    groups: usize,
    epsilon: f64,
    with_silu: bool,
}

impl Grouped {
    fn values<F: Real>(
        &self,
        x: &[F],
        [_, channels, area]: [usize; 3],
        gamma: &dyn Fn(usize) -> [F; 2],
        y: &mut [F],
        activation: impl Fn(F) -> F + Sync,
    ) -> Vec<[f64; 2]> {
        let members = channels / self.groups;
        let affine: Vec<[F; 2]> = (0..channels).map(gamma).collect();
        let size = members * area;
        for_each_row(
            y,
            size,
            #[inline(always)]
            |group, y| {
                let x = &x[group * size..(group + 1) * size];
                let [mean, scale] = mean_and_scale(x, self.epsilon);
                let first = group % self.groups * members;
                let planes = y.chunks_exact_mut(area).zip(x.chunks_exact(area));
                for (channel, (y, x)) in planes.enumerate() {
                    let [gain, shift] = affine[first + channel];
                    let (gain, mean) = (F::of(gain.wide() * scale), F::of(mean));
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = activation((x - mean) * gain + shift);
                    }
                }
                [mean, scale]
            },
        )
    }

    /// The gradient by `x`, and `Σ ∂u x̂` and `Σ ∂u` of each channel.
    fn gradients<F: Real>(
        &self,
        [x, grad]: [&[F]; 2],
        [_, channels, area]: [usize; 3],
        affine: &[[F; 2]],
        known: &[[f64; 2]],
        slope: impl Fn(F) -> F + Copy + Sync,
    ) -> (Vec<F>, Vec<[f64; 2]>) {
        let members = channels / self.groups;
        let size = members * area;
        let mut dx = memory::room(x.len());
        let parts = for_each_row(
            &mut dx,
            size,
            #[inline(always)]
            |group, dx| {
                let range = group * size..(group + 1) * size;
                let (x, grad) = (&x[range.clone()], &grad[range]);
                let first = group % self.groups * members;
                let [mean, scale] = known[group].map(F::of);
                let mut by_channel = Vec::with_capacity(members);
                let (mut level, mut along) = (0.0, 0.0);
                // ∂u, in the place of ∂x for now.
                for channel in 0..members {
                    let plane = channel * area..(channel + 1) * area;
                    let [gain, shift] = affine[first + channel];
                    let [of_normal, of_one] = slopes(
                        &mut dx[plane.clone()],
                        &x[plane.clone()],
                        &grad[plane],
                        [mean, scale, gain, shift],
                        slope,
                    );
                    level += gain.wide() * of_one;
                    along += gain.wide() * of_normal;
                    by_channel.push([of_normal, of_one]);
                }
                let count = size as f64;
                let (level, along) = (F::of(level / count), F::of(along / count));
                let planes = dx.chunks_exact_mut(area).zip(x.chunks_exact(area));
                for (channel, (dx, x)) in planes.enumerate() {
                    let [gain, _] = affine[first + channel];
                    for (dx, &x) in dx.iter_mut().zip(x) {
                        let normal = (x - mean) * scale;
                        *dx = (*dx * gain - level - normal * along) * scale;
                    }
                }
                by_channel
            },
        );
        let mut sums = vec![[0.0; 2]; channels];
        for (group, part) in parts.into_iter().enumerate() {
            let first = group % self.groups * members;
            for (sum, part) in sums[first..].iter_mut().zip(part) {
                sum[0] += part[0];
                sum[1] += part[1];
            }
        }
        (dx, sums)
    }
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

impl<const N: usize> Operation<N> for Grouped {
    /// Mean and scale of each group.
    type Kept = Vec<[f64; 2]>;

    fn forward<F: Real>(&self, inputs: [Array<F>; N], _: bool) -> (Array<F>, Self::Kept) {
        let shape = inputs[0].shape();
        let sizes = planes(&shape);
        let affine = affine(inputs.get(1), inputs.get(2), sizes[1]);
        let x = inputs[0].values();
        let mut y = memory::room(x.len());
        let of = |channel: usize| affine[channel];
        let kept = match self.with_silu {
            true => self.values(
                x,
                sizes,
                &of,
                &mut y,
                #[inline(always)]
                |u| silu_of(u),
            ),
            false => self.values(
                x,
                sizes,
                &of,
                &mut y,
                #[inline(always)]
                |u| u,
            ),
        };
        (Array::new(y, &shape), kept)
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, Self::Kept, N>) -> [Option<Array<F>>; N] {
        let Saved {
            inputs,
            kept,
            grad,
            wanted,
            ..
        } = saved;
        let mut gradients = [const { None }; N];
        let mut given = inputs.iter().map(Option::as_ref);
        let (Some(Some(x)), gamma, beta) = (given.next(), given.next(), given.next()) else {
            return gradients;
        };
        let shape = x.shape();
        let sizes = planes(&shape);
        let affine = affine(gamma.flatten(), beta.flatten(), sizes[1]);
        let arrays = [x.values(), grad.values()];
        let (dx, sums) = match self.with_silu {
            true => self.gradients(
                arrays,
                sizes,
                &affine,
                kept,
                #[inline(always)]
                |u| silu_slope(u),
            ),
            false => self.gradients(
                arrays,
                sizes,
                &affine,
                kept,
                #[inline(always)]
                |_| F::ONE,
            ),
        };
        gradients[0] = Some(Array::new(dx, &shape));
        by_affine(&mut gradients, wanted, &sums);
        gradients
    }
}

/// Batch normalization.
#[derive(Clone, Debug)]
struct Batched {
    epsilon: f64,
    with_relu: bool,
    /// Mean and variance of each channel, if they aren't those of the batch.
    fixed: Option<Arc<Vec<[f64; 2]>>>,
    /// Mean and variance of each channel of the batch.
    seen: Arc<OnceLock<Vec<[f64; 2]>>>,
}

impl Batched {
    /// Mean and variance of a channel.
    fn statistics<F: Real>(
        x: &[F],
        [batch, channels, area]: [usize; 3],
        channel: usize,
    ) -> [f64; 2] {
        let plane = |picture: usize| {
            let start = (picture * channels + channel) * area;
            &x[start..start + area]
        };
        let origin = plane(0)[0];
        let mut totals = [0.0; 2];
        vectorized(
            #[inline(always)]
            || {
                for picture in 0..batch {
                    let [sum, squares] = sums(plane(picture), origin);
                    totals[0] += sum;
                    totals[1] += squares;
                }
            },
        );
        moments(totals, origin.wide(), (batch * area) as f64)
    }

    fn values<F: Real>(
        x: &[F],
        [_, channels, area]: [usize; 3],
        numbers: &[[F; 3]],
        activation: impl Fn(F) -> F + Sync,
    ) -> Vec<F> {
        let mut y = memory::room(x.len());
        for_each_row(
            &mut y,
            area,
            #[inline(always)]
            |plane, y| {
                let [mean, gain, shift] = numbers[plane % channels];
                for (y, &x) in y.iter_mut().zip(&x[plane * area..(plane + 1) * area]) {
                    *y = activation((x - mean) * gain + shift);
                }
            },
        );
        y
    }

    fn gradients<F: Real>(
        &self,
        [x, grad]: [&[F]; 2],
        [batch, channels, area]: [usize; 3],
        affine: &[[F; 2]],
        known: &[[f64; 2]],
        slope: impl Fn(F) -> F + Copy + Sync,
    ) -> (Vec<F>, Vec<[f64; 2]>) {
        let mut dx = memory::room(x.len());
        let numbers = |channel: usize| {
            let ([mean, scale], [gain, shift]) = (known[channel].map(F::of), affine[channel]);
            [mean, scale, gain, shift]
        };
        // ∂u, in the place of ∂x for now.
        let parts = for_each_row(
            &mut dx,
            area,
            #[inline(always)]
            |plane, dx| {
                let range = plane * area..(plane + 1) * area;
                slopes(
                    dx,
                    &x[range.clone()],
                    &grad[range],
                    numbers(plane % channels),
                    slope,
                )
            },
        );
        let mut sums = vec![[0.0; 2]; channels];
        for (plane, part) in parts.into_iter().enumerate() {
            let sum = &mut sums[plane % channels];
            sum[0] += part[0];
            sum[1] += part[1];
        }
        let count = (batch * area) as f64;
        let of_batch = self.fixed.is_none();
        for_each_row(
            &mut dx,
            area,
            #[inline(always)]
            |plane, dx| {
                let channel = plane % channels;
                let [mean, scale, gain, _] = numbers(channel);
                let factor = gain * scale;
                if of_batch {
                    let [along, level] = sums[channel].map(|sum| F::of(sum / count));
                    for (dx, &x) in dx.iter_mut().zip(&x[plane * area..(plane + 1) * area]) {
                        let normal = (x - mean) * scale;
                        *dx = (*dx - level - normal * along) * factor;
                    }
                } else {
                    for dx in dx {
                        *dx *= factor;
                    }
                }
            },
        );
        (dx, sums)
    }
}

impl Operation<3> for Batched {
    /// Mean and scale of each channel.
    type Kept = Vec<[f64; 2]>;

    fn forward<F: Real>(&self, [x, gamma, beta]: [Array<F>; 3], _: bool) -> (Array<F>, Self::Kept) {
        let shape = x.shape();
        let sizes = planes(&shape);
        let statistics = match &self.fixed {
            Some(fixed) => fixed.to_vec(),
            None => {
                let of = |channel| Self::statistics(x.values(), sizes, channel);
                let seen: Vec<[f64; 2]> = (0..sizes[1]).into_par_iter().map(of).collect();
                self.seen.get_or_init(|| seen.clone());
                seen
            }
        };
        let known: Vec<[f64; 2]> = statistics
            .iter()
            .map(|[mean, variance]| [*mean, 1.0 / (variance + self.epsilon).sqrt()])
            .collect();
        let affine = affine(Some(&gamma), Some(&beta), sizes[1]);
        let numbers: Vec<[F; 3]> = known
            .iter()
            .zip(affine)
            .map(|([mean, scale], [gain, shift])| [F::of(*mean), F::of(gain.wide() * scale), shift])
            .collect();
        let y = match self.with_relu {
            true => Self::values(
                x.values(),
                sizes,
                &numbers,
                #[inline(always)]
                |u| {
                    if u < F::ZERO { F::ZERO } else { u }
                },
            ),
            false => Self::values(
                x.values(),
                sizes,
                &numbers,
                #[inline(always)]
                |u| u,
            ),
        };
        (Array::new(y, &shape), known)
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, Self::Kept, 3>) -> [Option<Array<F>>; 3] {
        let Saved {
            inputs,
            kept,
            grad,
            wanted,
            ..
        } = saved;
        let mut gradients = [const { None }; 3];
        let [Some(x), gamma, beta] = inputs else {
            return gradients;
        };
        let shape = x.shape();
        let sizes = planes(&shape);
        let affine = affine(gamma.as_ref(), beta.as_ref(), sizes[1]);
        let arrays = [x.values(), grad.values()];
        let (dx, sums) = match self.with_relu {
            true => self.gradients(
                arrays,
                sizes,
                &affine,
                kept,
                #[inline(always)]
                |u| {
                    if u <= F::ZERO { F::ZERO } else { F::ONE }
                },
            ),
            false => self.gradients(
                arrays,
                sizes,
                &affine,
                kept,
                #[inline(always)]
                |_| F::ONE,
            ),
        };
        gradients[0] = Some(Array::new(dx, &shape));
        by_affine(&mut gradients, wanted, &sums);
        gradients
    }
}

/// Layer normalization, or without a mean RMS normalization.
#[derive(Clone, Copy, Debug)]
struct Row {
    centred: bool,
    epsilon: f64,
}

impl Row {
    #[inline(always)]
    fn statistics<F: Real>(&self, x: &[F]) -> [f64; 2] {
        match self.centred {
            true => mean_and_scale(x, self.epsilon),
            false => {
                let [_, squares] = sums(x, F::ZERO);
                [0.0, 1.0 / (squares / x.len() as f64 + self.epsilon).sqrt()]
            }
        }
    }
}

impl<const N: usize> Operation<N> for Row {
    /// Mean and scale of each row.
    type Kept = Vec<[f64; 2]>;

    fn reads(&self) -> [bool; N] {
        // The gradients don't depend on β.
        std::array::from_fn(|input| input < 2)
    }

    fn forward<F: Real>(&self, inputs: [Array<F>; N], _: bool) -> (Array<F>, Self::Kept) {
        let shape = inputs[0].shape();
        let width = shape[shape.len() - 1];
        let (x, gamma) = (inputs[0].values(), inputs[1].values());
        let beta = match inputs.get(2) {
            Some(beta) => beta.values().to_vec(),
            None => vec![F::ZERO; width],
        };
        let mut y = memory::room(x.len());
        let kept = for_each_row(
            &mut y,
            width,
            #[inline(always)]
            |row, y| {
                let x = &x[row * width..(row + 1) * width];
                let known = self.statistics(x);
                let [mean, scale] = known.map(F::of);
                for ((y, &x), (&gain, &shift)) in y.iter_mut().zip(x).zip(gamma.iter().zip(&beta)) {
                    *y = (x - mean) * scale * gain + shift;
                }
                known
            },
        );
        (Array::new(y, &shape), kept)
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, Self::Kept, N>) -> [Option<Array<F>>; N] {
        let Saved {
            inputs,
            kept,
            grad,
            wanted,
            ..
        } = saved;
        let mut gradients = [const { None }; N];
        let (Some(Some(x)), Some(Some(gamma))) = (inputs.first(), inputs.get(1)) else {
            return gradients;
        };
        let shape = x.shape();
        let width = shape[shape.len() - 1];
        let (x, gamma, grad) = (x.values(), gamma.values(), grad.values());
        let mut dx = memory::room(x.len());
        let centred = if self.centred { F::ONE } else { F::ZERO };
        for_each_row(
            &mut dx,
            width,
            #[inline(always)]
            |row, dx| {
                let range = row * width..(row + 1) * width;
                let (x, grad) = (&x[range.clone()], &grad[range]);
                let [mean, scale] = kept[row].map(F::of);
                for ((dx, &grad), &gain) in dx.iter_mut().zip(grad).zip(gamma) {
                    *dx = grad * gain;
                }
                let [mut level, mut along] = [0.0; 2];
                for (du, x) in dx.chunks(PIECE).zip(x.chunks(PIECE)) {
                    let (mut of_one, mut of_normal) = ([F::ZERO; LANES], [F::ZERO; LANES]);
                    for (du, x) in du.chunks(LANES).zip(x.chunks(LANES)) {
                        for (lane, (&du, &x)) in du.iter().zip(x).enumerate() {
                            of_one[lane] += du;
                            of_normal[lane] += du * ((x - mean) * scale);
                        }
                    }
                    level += of_one.iter().map(|&v| v.wide()).sum::<f64>();
                    along += of_normal.iter().map(|&v| v.wide()).sum::<f64>();
                }
                let count = width as f64;
                let (level, along) = (F::of(level / count) * centred, F::of(along / count));
                for (dx, &x) in dx.iter_mut().zip(x) {
                    *dx = (*dx - level - (x - mean) * scale * along) * scale;
                }
            },
        );
        gradients[0] = Some(Array::new(dx, &shape));
        if wanted.iter().skip(1).any(|&wanted| wanted) {
            by_affine(&mut gradients, wanted, &column_sums(x, grad, width, kept));
        }
        gradients
    }
}

/// `Σ ∂y x̂` and `Σ ∂y` of each column.
fn column_sums<F: Real>(x: &[F], grad: &[F], width: usize, kept: &[[f64; 2]]) -> Vec<[f64; 2]> {
    /// The rows that are summed in their own precision.
    const ROWS: usize = 64;
    let parts: Vec<Vec<[F; 2]>> = kept
        .par_chunks(ROWS)
        .enumerate()
        .map(|(part, kept)| {
            let mut along = vec![F::ZERO; width];
            let mut level = vec![F::ZERO; width];
            vectorized(
                #[inline(always)]
                || {
                    for (row, known) in kept.iter().enumerate() {
                        let start = (part * ROWS + row) * width;
                        let (x, grad) = (&x[start..start + width], &grad[start..start + width]);
                        let [mean, scale] = known.map(F::of);
                        let to = along.iter_mut().zip(&mut level);
                        for ((along, level), (&x, &grad)) in to.zip(x.iter().zip(grad)) {
                            *along += grad * ((x - mean) * scale);
                            *level += grad;
                        }
                    }
                },
            );
            along.into_iter().zip(level).map(|(a, l)| [a, l]).collect()
        })
        .collect();
    let mut sums = vec![[0.0; 2]; width];
    for part in parts {
        for (sum, part) in sums.iter_mut().zip(part) {
            sum[0] += part[0].wide();
            sum[1] += part[1].wide();
        }
    }
    sums
}

/// [`modulated_silu`].
#[derive(Clone, Copy, Debug)]
struct Modulated;

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
