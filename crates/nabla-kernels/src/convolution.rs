//! Convolutions and transposed convolutions in one, two and three dimensions, with any stride, dilation, padding
//! and groups, forward and backward.
//!
//! With the kernel `w` and the taps `d = k · dilation − padding`,
//!
//! ```text
//! y[o, n] = b[o] + Σ_i Σ_d w[o, i, d] x[i, n · stride + d]
//! ```
//!
//! `flex`, Burn's CPU backend, gathers the neighbourhood of each position before it multiplies. Here pictures
//! are stored once with their padding (`layout`), so that a tap is a distance in memory, and the products run at the
//! speed of the processor's multipliers (`taps`). The gradient by the input is such a convolution of the
//! gradient by the output for each phase of the stride, and so is a transposed convolution; the gradient by the
//! kernel is a correlation of the two.
//!
//! What is no number, or infinite, spoils every sum of a gradient by the kernel whose channels have it, also where a
//! tap doesn't read it.
//!
//! One- and two-dimensional pictures are three-dimensional ones with dimensions of one position.

use std::borrow::Cow;

use burn::nn::conv::{Conv1d, Conv2d, Conv3d};
use burn::nn::{PaddingConfig1d, PaddingConfig2d, PaddingConfig3d};
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::activation::{rectified_slope, relu};
use crate::elementwise::{sums, vectorized};
use crate::layer_hooks;
use crate::linear_pieces;
use crate::operation::{
    Array, Batch, Operation, Saved, but_bias, but_first, compiled, computes_both, layer,
};
use crate::real::Real;

mod examples;
mod layout;
mod stencil;
mod transposed;
mod weight_gradient;

pub use transposed::{conv_transpose1d, conv_transpose2d, conv_transpose3d};

use stencil::{Phase, Stencil};
use weight_gradient::WeightGradient;

/// The numbers of a stored part of the input that a task works on, which the second-level cache holds.
const PART: usize = 1 << 17;

/// The columns of a product beside which those that are left over after whole blocks take little time.
const COLUMNS: usize = 384;

/// Computes `conv`.
///
/// - `x`: `[batch, channels_in, length_in]`
/// - returns `[batch, channels_out, length_out]`
///
/// # Panics
/// Like `conv.forward`, if the shapes don't fit.
pub fn conv1d(conv: &Conv1d, x: Tensor<3>) -> Tensor<3> {
    of_conv1d(conv, x, false)
}

/// The same, and `max(·, 0)` of it while it is in the cache.
///
/// # Panics
/// As [`conv1d`].
pub fn conv1d_relu(conv: &Conv1d, x: Tensor<3>) -> Tensor<3> {
    if linear_pieces::is_held() {
        return linear_pieces::relu(of_conv1d(conv, x, false));
    }
    of_conv1d(conv, x, true)
}

fn of_conv1d(conv: &Conv1d, x: Tensor<3>, with_relu: bool) -> Tensor<3> {
    let padding = match conv.padding {
        PaddingConfig1d::Valid => (0, 0),
        PaddingConfig1d::Same => same(conv.kernel_size, conv.stride, x.dims()[2]),
        PaddingConfig1d::Explicit(left, right) => (left, right),
    };
    let operation = Convolution {
        stride: [1, 1, conv.stride],
        dilation: [1, 1, conv.dilation],
        padding: [(0, 0), (0, 0), padding],
        groups: conv.groups,
        dimensions: 1,
        with_relu,
    };
    let (weight, bias) = (conv.weight.val(), conv.bias.as_ref().map(|b| b.val()));
    match operation.fits(&x, &weight) {
        true => layer(operation, x, weight, bias),
        false if with_relu => relu(conv.forward(x)),
        false => conv.forward(x),
    }
}

/// Computes `conv`.
///
/// - `x`: `[batch, channels_in, height_in, width_in]`
/// - returns `[batch, channels_out, height_out, width_out]`
///
/// # Panics
/// Like `conv.forward`, if the shapes don't fit.
///
/// ```
/// use burn::nn::conv::Conv2dConfig;
/// use burn::tensor::{Device, Tensor};
/// use nabla_kernels::convolution::conv2d;
///
/// let device = Device::flex();
/// let layer = Conv2dConfig::new([3, 8], [3, 3]).with_stride([2, 2]).init(&device);
/// let y = conv2d(&layer, Tensor::ones([1, 3, 9, 9], &device));
/// assert_eq!(y.dims(), [1, 8, 4, 4]);
/// ```
pub fn conv2d(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    of_conv2d(conv, x, false)
}

/// The same, and `max(·, 0)` of it while it is in the cache.
///
/// # Panics
/// As [`conv2d`].
pub fn conv2d_relu(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    if linear_pieces::is_held() {
        return linear_pieces::relu(of_conv2d(conv, x, false));
    }
    of_conv2d(conv, x, true)
}

fn of_conv2d(conv: &Conv2d, x: Tensor<4>, with_relu: bool) -> Tensor<4> {
    if let Some(y) = layer_hooks::conv2d(conv, &x) {
        return if with_relu { relu(y) } else { y };
    }
    let [_, _, height, width] = x.dims();
    let padding = padding2d(
        &conv.padding,
        conv.kernel_size,
        conv.stride,
        [height, width],
    );
    let operation = Convolution {
        stride: [1, conv.stride[0], conv.stride[1]],
        dilation: [1, conv.dilation[0], conv.dilation[1]],
        padding: [(0, 0), padding[0], padding[1]],
        groups: conv.groups,
        dimensions: 2,
        with_relu,
    };
    let (weight, bias) = (conv.weight.val(), conv.bias.as_ref().map(|b| b.val()));
    match operation.fits(&x, &weight) {
        true => layer(operation, x, weight, bias),
        false if with_relu => relu(conv.forward(x)),
        false => conv.forward(x),
    }
}

/// Computes `conv`.
///
/// - `x`: `[batch, channels_in, depth_in, height_in, width_in]`
/// - returns `[batch, channels_out, depth_out, height_out, width_out]`
///
/// # Panics
/// Like `conv.forward`, if the shapes don't fit.
pub fn conv3d(conv: &Conv3d, x: Tensor<5>) -> Tensor<5> {
    of_conv3d(conv, x, false)
}

/// The same, and `max(·, 0)` of it while it is in the cache.
///
/// # Panics
/// As [`conv3d`].
pub fn conv3d_relu(conv: &Conv3d, x: Tensor<5>) -> Tensor<5> {
    if linear_pieces::is_held() {
        return linear_pieces::relu(of_conv3d(conv, x, false));
    }
    of_conv3d(conv, x, true)
}

fn of_conv3d(conv: &Conv3d, x: Tensor<5>, with_relu: bool) -> Tensor<5> {
    let [_, _, depth, height, width] = x.dims();
    let of = |d: usize, input: usize| same(conv.kernel_size[d], conv.stride[d], input);
    let padding = match conv.padding {
        PaddingConfig3d::Valid => [(0, 0); 3],
        PaddingConfig3d::Same => [of(0, depth), of(1, height), of(2, width)],
        PaddingConfig3d::Explicit(depth, height, width) => {
            [depth, height, width].map(|padding| (padding, padding))
        }
    };
    let operation = Convolution {
        stride: conv.stride,
        dilation: conv.dilation,
        padding,
        groups: conv.groups,
        dimensions: 3,
        with_relu,
    };
    // Burn refuses a padding that has more zeros behind than before.
    let even = padding.iter().all(|(before, after)| before == after);
    let (weight, bias) = (conv.weight.val(), conv.bias.as_ref().map(|b| b.val()));
    match even && operation.fits(&x, &weight) {
        true => layer(operation, x, weight, bias),
        false if with_relu => relu(conv.forward(x)),
        false => conv.forward(x),
    }
}

/// The zeros before and after the picture along each dimension, as [`conv2d`] adds them.
///
/// - `kernel`, `stride`: of the convolution
/// - `input`: height and width of the picture
pub fn padding2d(
    padding: &PaddingConfig2d,
    kernel: [usize; 2],
    stride: [usize; 2],
    input: [usize; 2],
) -> [(usize, usize); 2] {
    match *padding {
        PaddingConfig2d::Valid => [(0, 0), (0, 0)],
        PaddingConfig2d::Same => [0, 1].map(|d| same(kernel[d], stride[d], input[d])),
        PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
    }
}

/// The padding for as many outputs as inputs per stride; an odd zero is put behind.
fn same(kernel: usize, stride: usize, input: usize) -> (usize, usize) {
    let reach = input.div_ceil(stride.max(1)).saturating_sub(1) * stride + kernel;
    let total = reach.saturating_sub(input);
    (total / 2, total - total / 2)
}

/// The last three dimensions of pictures, as three.
fn spatial(shape: &[usize], dimensions: usize) -> [usize; 3] {
    let mut sizes = [1; 3];
    sizes[3 - dimensions..].copy_from_slice(&shape[2..]);
    sizes
}

/// A convolution.
#[derive(Clone, Copy, Debug)]
struct Convolution {
    stride: [usize; 3],
    dilation: [usize; 3],
    /// Zeros before and after.
    padding: [(usize, usize); 3],
    groups: usize,
    /// The spatial dimensions.
    dimensions: usize,
    /// Whether negative outputs become 0.
    with_relu: bool,
}

impl Convolution {
    /// Whether the kernels compute it: on the processor, for shapes that fit.
    fn fits<const D: usize>(&self, x: &Tensor<D>, weight: &Tensor<D>) -> bool {
        let (shape, kernel) = (x.dims(), weight.dims());
        let positive = self.groups > 0 && !self.stride.contains(&0) && !self.dilation.contains(&0);
        computes_both(x, weight)
            && positive
            && shape[1] == kernel[1] * self.groups
            && kernel[0].is_multiple_of(self.groups)
            && !kernel.contains(&0)
            && !shape[1..].contains(&0)
            && self
                .outputs(
                    spatial(&shape, self.dimensions),
                    spatial(&kernel, self.dimensions),
                )
                .is_some()
    }

    /// The positions of the output; none if the kernel is larger than the input.
    fn outputs(&self, input: [usize; 3], kernel: [usize; 3]) -> Option<[usize; 3]> {
        let mut outputs = [0; 3];
        for d in 0..3 {
            let (before, after) = self.padding[d];
            let reach = self.dilation[d] * (kernel[d] - 1) + 1;
            let room = (input[d] + before + after).checked_sub(reach)?;
            outputs[d] = room / self.stride[d] + 1;
        }
        Some(outputs)
    }

    /// Where the taps along dimension `d` read, from the output's position times the stride.
    fn distances(&self, kernel: [usize; 3]) -> [Vec<isize>; 3] {
        [0, 1, 2].map(|d| {
            let tap = |k: usize| (k * self.dilation[d]) as isize - self.padding[d].0 as isize;
            (0..kernel[d]).map(tap).collect()
        })
    }

    /// `y[o, n] = start[o] + Σ w[o, i, d] x[i, n stride + d]`.
    ///
    /// - `x`: `[batch, channels_in, …]`
    /// - `weight`: `[channels_out, channels_in/groups, …]`
    fn apply<F: Real>(
        &self,
        x: &[F],
        [shape, kernel]: [&[usize]; 2],
        output: [usize; 3],
        weight: &[F],
        bias: Option<&[F]>,
    ) -> Vec<F> {
        let distances = self.distances(spatial(kernel, self.dimensions));
        let stencil = Stencil {
            batch: shape[0],
            groups: self.groups,
            channels: kernel[1],
            rows: kernel[0] / self.groups,
            input: spatial(shape, self.dimensions),
            stride: self.stride,
            output,
            phases: vec![Phase {
                taps: taps(&distances),
                weights: Cow::Borrowed(weight),
                outputs: output,
                step: [1; 3],
                first: [0; 3],
            }],
            with_relu: self.with_relu,
            distances,
        };
        stencil.apply(x, bias)
    }

    /// The adjoint of [`apply`](Self::apply): `x[i, p] = start[i] + Σ w[o, i, d] g[o, n]` over all
    /// `n stride + d = p`.
    ///
    /// - `g`: `[batch, channels_out, …]`
    /// - `weight`: `[channels_out, channels_in/groups, …]`
    /// - returns `[batch, channels_in, input…]`
    fn adjoint<F: Real>(
        &self,
        g: &[F],
        [shape, kernel]: [&[usize]; 2],
        input: [usize; 3],
        weight: &[F],
        bias: Option<&[F]>,
    ) -> Vec<F> {
        let (outputs, inputs) = (kernel[0] / self.groups, kernel[1]);
        let kernel = spatial(kernel, self.dimensions);
        let size: usize = kernel.iter().product();
        // For each phase of a dimension, the taps that reach it, and where they read in g.
        let reaching = [0, 1, 2].map(|d| {
            let stride = self.stride[d] as isize;
            let of_phase = |phase: usize| -> Vec<(usize, isize)> {
                let distance = |k: usize| {
                    phase as isize + self.padding[d].0 as isize - (k * self.dilation[d]) as isize
                };
                (0..kernel[d])
                    .filter(|&k| distance(k).rem_euclid(stride) == 0)
                    .map(|k| (k, distance(k).div_euclid(stride)))
                    .collect()
            };
            let phases = self.stride[d].min(input[d]);
            (0..phases).map(of_phase).collect::<Vec<_>>()
        });
        let distances = reaching.each_ref().map(|phases| {
            let mut all: Vec<isize> = phases
                .iter()
                .flatten()
                .map(|(_, distance)| *distance)
                .collect();
            all.sort_unstable();
            all.dedup();
            all
        });
        let mut phases = Vec::new();
        for (a, taps_a) in reaching[0].iter().enumerate() {
            for (b, taps_b) in reaching[1].iter().enumerate() {
                for (c, taps_c) in reaching[2].iter().enumerate() {
                    let mut taps = Vec::new();
                    let mut places = Vec::new();
                    for &(i, x) in taps_a {
                        for &(j, y) in taps_b {
                            for &(k, z) in taps_c {
                                taps.push([x, y, z]);
                                places.push((i * kernel[1] + j) * kernel[2] + k);
                            }
                        }
                    }
                    let first = [a, b, c];
                    let mut weights =
                        Vec::with_capacity(self.groups * inputs * outputs * taps.len());
                    for row in 0..self.groups * inputs {
                        let (group, i) = (row / inputs, row % inputs);
                        for o in group * outputs..(group + 1) * outputs {
                            let of = &weight[(o * inputs + i) * size..(o * inputs + i + 1) * size];
                            weights.extend(places.iter().map(|&place| of[place]));
                        }
                    }
                    phases.push(Phase {
                        taps,
                        weights: Cow::Owned(weights),
                        outputs: [0, 1, 2].map(|d| (input[d] - first[d]).div_ceil(self.stride[d])),
                        step: self.stride,
                        first,
                    });
                }
            }
        }
        let stencil = Stencil {
            batch: shape[0],
            groups: self.groups,
            channels: outputs,
            rows: inputs,
            input: spatial(shape, self.dimensions),
            stride: [1; 3],
            output: input,
            phases,
            with_relu: false,
            distances,
        };
        stencil.apply(g, bias)
    }

    /// `dw[o, i, d] = Σ g[o, n] x[i, n stride + d]`.
    ///
    /// - `shape`: of `x`, `[batch, channels_in, …]`; `g` has the positions `output`
    fn weight_gradients(
        &self,
        shape: &[usize],
        kernel: &[usize],
        output: [usize; 3],
    ) -> WeightGradient {
        let distances = self.distances(spatial(kernel, self.dimensions));
        WeightGradient {
            batch: shape[0],
            groups: self.groups,
            channels: kernel[1],
            rows: kernel[0] / self.groups,
            input: spatial(shape, self.dimensions),
            stride: self.stride,
            output,
            taps: taps(&distances),
            distances,
        }
    }

    /// The gradient by what the ReLU was given.
    ///
    /// - `grad`: by the output; `output`: as it was kept
    fn before_relu<F: Real>(&self, grad: Array<F>, output: Option<&Array<F>>) -> Array<F> {
        match output.filter(|_| self.with_relu) {
            Some(y) => grad.updated(
                [y.values()],
                #[inline(always)]
                |g, [y]| rectified_slope(y, g),
            ),
            None => grad,
        }
    }
}

/// All combinations of distances.
fn taps(distances: &[Vec<isize>; 3]) -> Vec<[isize; 3]> {
    let [a, b, c] = distances;
    let mut taps = Vec::new();
    for &a in a {
        for &b in b {
            taps.extend(c.iter().map(|&c| [a, b, c]));
        }
    }
    taps
}

/// The sum of a plane, inside of [`vectorized`].
#[inline(always)]
fn sum<F: Real>(plane: &[F]) -> f64 {
    let [sum] = sums(
        [plane],
        #[inline(always)]
        |[g]| [g],
    );
    sum
}

/// Sums over the batch and all positions of each channel: the gradient by a bias.
///
/// - `grad`: `[batch, channels, …]`
fn channel_sums<F: Real>(grad: &Array<F>) -> Array<F> {
    let (shape, grad) = (grad.shape(), grad.values());
    let [batch, channels] = [shape[0], shape[1]];
    let area = grad.len() / (batch * channels).max(1);
    let of_channel = |channel: usize| {
        vectorized::<F, _>(
            #[inline(always)]
            || {
                let mut total = 0.0;
                for picture in 0..batch {
                    let start = (picture * channels + channel) * area;
                    total += sum(&grad[start..start + area]);
                }
                F::of(total)
            },
        )
    };
    let sums = (0..channels).into_par_iter().map(of_channel).collect();
    Array::new(sums, &[channels])
}

compiled!(Convolution: 2, 3);

impl<const N: usize> Operation<N> for Convolution {
    type Kept = ();

    fn reads(&self) -> [bool; N] {
        but_bias()
    }

    fn reads_output(&self) -> bool {
        self.with_relu
    }

    fn parameters(&self) -> [bool; N] {
        but_first()
    }

    fn squared_norms<F: Real>(
        &self,
        batch: &Batch<'_, F, (), N>,
        input: usize,
    ) -> Option<Vec<f64>> {
        let [Some(x), Some(weight), ..] = &batch.inputs[..] else {
            return None;
        };
        let grad = self.before_relu(batch.grad.clone(), batch.output.as_ref());
        let squares = || self.weight_squares([x, &grad], &weight.shape());
        (input == 1).then(squares).flatten()
    }

    fn for_each_example<F: Real, R: Send>(
        &self,
        batch: &Batch<'_, F, (), N>,
        wanted: [bool; N],
        then: impl Fn([Option<&[F]>; N]) -> R + Sync,
    ) -> Option<Vec<R>> {
        let [Some(x), Some(weight), ..] = &batch.inputs[..] else {
            return None;
        };
        let grad = self.before_relu(batch.grad.clone(), batch.output.as_ref());
        let found = self.for_each_picture([x, &grad], &weight.shape(), &grad, wanted, then);
        Some(found)
    }

    fn forward<F: Real>(&self, inputs: [Array<F>; N], _: bool) -> (Array<F>, ()) {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let (shape, kernel) = (x.shape(), weight.shape());
        let sizes = [&shape, &kernel].map(|s| spatial(s, self.dimensions));
        let output = self.outputs(sizes[0], sizes[1]).unwrap_or_default();
        let y = self.apply(
            x.values(),
            [&shape, &kernel],
            output,
            weight.values(),
            inputs.get(2).map(Array::values),
        );
        let mut shape = vec![shape[0], kernel[0]];
        shape.extend(&output[3 - self.dimensions..]);
        (Array::new(y, &shape), ())
    }

    fn backward<F: Real>(&self, mut saved: Saved<'_, F, (), N>) -> [Option<Array<F>>; N] {
        let dimensions = self.dimensions;
        saved.grad = self.before_relu(saved.grad, saved.output.as_ref());
        saved.of_layer(
            |x, weight, grad| {
                let (shape, shapes) = (x.shape(), [&grad.shape()[..], &weight.shape()]);
                let (grad, input) = (grad.values(), spatial(&shape, dimensions));
                let dx = self.adjoint(grad, shapes, input, weight.values(), None);
                Array::new(dx, &shape)
            },
            |x, weight, grad| {
                let (shape, output) = (weight.shape(), spatial(&grad.shape(), dimensions));
                let of = self.weight_gradients(&x.shape(), &shape, output);
                Array::new(of.compute(x.values(), grad.values()), &shape)
            },
            channel_sums,
        )
    }
}

#[cfg(test)]
mod tests;
