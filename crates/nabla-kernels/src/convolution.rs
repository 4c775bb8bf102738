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
//! One- and two-dimensional pictures are three-dimensional ones with dimensions of one position.

use std::borrow::Cow;
use std::ops::Range;

use burn::nn::conv::{Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d};
use burn::nn::{PaddingConfig1d, PaddingConfig2d, PaddingConfig3d};
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::elementwise::vectorized;
use crate::memory;
use crate::operation::{Array, Operation, Saved, binary, computes, ternary};
use crate::real::Real;
use crate::taps::{correlate, padded, product};

mod layout;

use layout::{Layout, Stored, copy};

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
    };
    let (weight, bias) = (conv.weight.val(), conv.bias.as_ref().map(|b| b.val()));
    match operation.fits(&x, &weight) {
        true => operation.run(x, weight, bias),
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
    let [_, _, height, width] = x.dims();
    let padding = match conv.padding {
        PaddingConfig2d::Valid => [(0, 0), (0, 0)],
        PaddingConfig2d::Same => [
            same(conv.kernel_size[0], conv.stride[0], height),
            same(conv.kernel_size[1], conv.stride[1], width),
        ],
        PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
    };
    let operation = Convolution {
        stride: [1, conv.stride[0], conv.stride[1]],
        dilation: [1, conv.dilation[0], conv.dilation[1]],
        padding: [(0, 0), padding[0], padding[1]],
        groups: conv.groups,
        dimensions: 2,
    };
    let (weight, bias) = (conv.weight.val(), conv.bias.as_ref().map(|b| b.val()));
    match operation.fits(&x, &weight) {
        true => operation.run(x, weight, bias),
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
    };
    // Burn refuses a padding that has more zeros behind than before.
    let even = padding.iter().all(|(before, after)| before == after);
    let (weight, bias) = (conv.weight.val(), conv.bias.as_ref().map(|b| b.val()));
    match even && operation.fits(&x, &weight) {
        true => operation.run(x, weight, bias),
        false => conv.forward(x),
    }
}

/// Computes `conv`.
///
/// - `x`: `[batch, channels_in, length_in]`
/// - returns `[batch, channels_out, length_out]`
///
/// # Panics
/// Like `conv.forward`, if the shapes don't fit.
pub fn conv_transpose1d(conv: &ConvTranspose1d, x: Tensor<3>) -> Tensor<3> {
    let operation = Transposed {
        of: Convolution {
            stride: [1, 1, conv.stride],
            dilation: [1, 1, conv.dilation],
            padding: [0, 0, conv.padding].map(|padding| (padding, padding)),
            groups: conv.groups,
            dimensions: 1,
        },
        padding_out: [0, 0, conv.padding_out],
    };
    let (weight, bias) = (conv.weight.val(), conv.bias.as_ref().map(|b| b.val()));
    match operation.fits(&x, &weight) {
        true => operation.run(x, weight, bias),
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
pub fn conv_transpose2d(conv: &ConvTranspose2d, x: Tensor<4>) -> Tensor<4> {
    let operation = Transposed {
        of: Convolution {
            stride: [1, conv.stride[0], conv.stride[1]],
            dilation: [1, conv.dilation[0], conv.dilation[1]],
            padding: [0, conv.padding[0], conv.padding[1]].map(|padding| (padding, padding)),
            groups: conv.groups,
            dimensions: 2,
        },
        padding_out: [0, conv.padding_out[0], conv.padding_out[1]],
    };
    let (weight, bias) = (conv.weight.val(), conv.bias.as_ref().map(|b| b.val()));
    match operation.fits(&x, &weight) {
        true => operation.run(x, weight, bias),
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
pub fn conv_transpose3d(conv: &ConvTranspose3d, x: Tensor<5>) -> Tensor<5> {
    let operation = Transposed {
        of: Convolution {
            stride: conv.stride,
            dilation: conv.dilation,
            padding: conv.padding.map(|padding| (padding, padding)),
            groups: conv.groups,
            dimensions: 3,
        },
        padding_out: conv.padding_out,
    };
    let (weight, bias) = (conv.weight.val(), conv.bias.as_ref().map(|b| b.val()));
    match operation.fits(&x, &weight) {
        true => operation.run(x, weight, bias),
        false => conv.forward(x),
    }
}

/// The padding for as many outputs as inputs per stride; an odd zero is put behind.
pub(crate) fn same(kernel: usize, stride: usize, input: usize) -> (usize, usize) {
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
}

impl Convolution {
    /// Whether the kernels compute it: on the processor, for shapes that fit.
    fn fits<const D: usize>(&self, x: &Tensor<D>, weight: &Tensor<D>) -> bool {
        if !computes(x) || !computes(weight) || x.dtype() != weight.dtype() {
            return false;
        }
        let (shape, kernel) = (x.dims(), weight.dims());
        let positive = self.groups > 0 && !self.stride.contains(&0) && !self.dilation.contains(&0);
        positive
            && shape[1] == kernel[1] * self.groups
            && kernel[0].is_multiple_of(self.groups)
            && !kernel.contains(&0)
            && self
                .outputs(
                    spatial(&shape, self.dimensions),
                    spatial(&kernel, self.dimensions),
                )
                .is_some()
    }

    fn run<const D: usize>(
        self,
        x: Tensor<D>,
        weight: Tensor<D>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<D> {
        match bias {
            Some(bias) => ternary(self, x, weight, bias),
            None => binary(self, x, weight),
        }
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
            distances,
        };
        stencil.apply(g, bias)
    }

    /// `dw[o, i, d] = Σ g[o, n] x[i, n stride + d]`.
    ///
    /// - `x`: `[batch, channels_in, …]`; `g`: `[batch, channels_out, output…]`
    fn weight_gradient<F: Real>(
        &self,
        x: &[F],
        [shape, kernel]: [&[usize]; 2],
        g: &[F],
        output: [usize; 3],
    ) -> Vec<F> {
        let distances = self.distances(spatial(kernel, self.dimensions));
        let gradient = WeightGradient {
            batch: shape[0],
            groups: self.groups,
            channels: kernel[1],
            rows: kernel[0] / self.groups,
            input: spatial(shape, self.dimensions),
            stride: self.stride,
            output,
            taps: taps(&distances),
            distances,
        };
        gradient.compute(x, g)
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

/// Sums over the batch and all positions of each channel: the gradient by a bias.
///
/// - `grad`: `[batch, channels, area]`
fn channel_sums<F: Real>(grad: &[F], batch: usize, channels: usize) -> Vec<F> {
    /// Sums side by side, which vectorise.
    const LANES: usize = 16;
    let area = grad.len() / (batch * channels).max(1);
    (0..channels)
        .into_par_iter()
        .map(|channel| {
            vectorized(
                #[inline(always)]
                || {
                    let mut total = 0.0;
                    for picture in 0..batch {
                        let start = (picture * channels + channel) * area;
                        let mut lanes = [F::ZERO; LANES];
                        let (blocks, rest) = grad[start..start + area].as_chunks::<LANES>();
                        for block in blocks {
                            for (lane, &g) in lanes.iter_mut().zip(block) {
                                *lane += g;
                            }
                        }
                        for (lane, &g) in lanes.iter_mut().zip(rest) {
                            *lane += g;
                        }
                        total += lanes.into_iter().map(Real::wide).sum::<f64>();
                    }
                    F::of(total)
                },
            )
        })
        .collect()
}

impl<const N: usize> Operation<N> for Convolution {
    type Kept = ();

    fn reads(&self) -> [bool; N] {
        // The gradients don't depend on the bias.
        std::array::from_fn(|input| input < 2)
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

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), N>) -> [Option<Array<F>>; N] {
        let Saved {
            inputs,
            grad,
            wanted,
            ..
        } = saved;
        let mut gradients = [const { None }; N];
        let (Some(Some(x)), Some(Some(weight))) = (inputs.first(), inputs.get(1)) else {
            return gradients;
        };
        let (shape, kernel, grads) = (x.shape(), weight.shape(), grad.shape());
        if wanted[0] {
            let input = spatial(&shape, self.dimensions);
            let dx = self.adjoint(
                grad.values(),
                [&grads, &kernel],
                input,
                weight.values(),
                None,
            );
            gradients[0] = Some(Array::new(dx, &shape));
        }
        if wanted[1] {
            let output = spatial(&grads, self.dimensions);
            let dw = self.weight_gradient(x.values(), [&shape, &kernel], grad.values(), output);
            gradients[1] = Some(Array::new(dw, &kernel));
        }
        if wanted.get(2) == Some(&true) {
            let db = channel_sums(grad.values(), grads[0], grads[1]);
            gradients[2] = Some(Array::new(db, &[grads[1]]));
        }
        gradients
    }
}

/// A transposed convolution: the gradient of a convolution by its input.
#[derive(Clone, Copy, Debug)]
struct Transposed {
    of: Convolution,
    padding_out: [usize; 3],
}

impl Transposed {
    /// Whether the kernels compute it: on the processor, for shapes that fit.
    fn fits<const D: usize>(&self, x: &Tensor<D>, weight: &Tensor<D>) -> bool {
        if !computes(x) || !computes(weight) || x.dtype() != weight.dtype() {
            return false;
        }
        let of = &self.of;
        let positive = of.groups > 0 && !of.stride.contains(&0) && !of.dilation.contains(&0);
        let (shape, kernel) = (x.dims(), weight.dims());
        positive
            && shape[1] == kernel[0]
            && kernel[0].is_multiple_of(of.groups)
            && !kernel.contains(&0)
            && !shape.contains(&0)
            && self
                .outputs(
                    spatial(&shape, of.dimensions),
                    spatial(&kernel, of.dimensions),
                )
                .is_some()
    }

    fn run<const D: usize>(
        self,
        x: Tensor<D>,
        weight: Tensor<D>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<D> {
        match bias {
            Some(bias) => ternary(self, x, weight, bias),
            None => binary(self, x, weight),
        }
    }

    /// The positions of the output; none if there are none.
    fn outputs(&self, input: [usize; 3], kernel: [usize; 3]) -> Option<[usize; 3]> {
        let mut outputs = [0; 3];
        for d in 0..3 {
            let reach = (input[d].checked_sub(1)?) * self.of.stride[d]
                + self.of.dilation[d] * (kernel[d] - 1)
                + 1
                + self.padding_out[d];
            let (before, after) = self.of.padding[d];
            outputs[d] = reach.checked_sub(before + after).filter(|&n| n > 0)?;
        }
        Some(outputs)
    }
}

impl<const N: usize> Operation<N> for Transposed {
    type Kept = ();

    fn reads(&self) -> [bool; N] {
        std::array::from_fn(|input| input < 2)
    }

    fn forward<F: Real>(&self, inputs: [Array<F>; N], _: bool) -> (Array<F>, ()) {
        let (x, weight) = (&inputs[0], &inputs[1]);
        let (shape, kernel) = (x.shape(), weight.shape());
        let dimensions = self.of.dimensions;
        let sizes = [&shape, &kernel].map(|s| spatial(s, dimensions));
        let output = self.outputs(sizes[0], sizes[1]).unwrap_or_default();
        let y = self.of.adjoint(
            x.values(),
            [&shape, &kernel],
            output,
            weight.values(),
            inputs.get(2).map(Array::values),
        );
        let mut shape = vec![shape[0], kernel[1] * self.of.groups];
        shape.extend(&output[3 - dimensions..]);
        (Array::new(y, &shape), ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), N>) -> [Option<Array<F>>; N] {
        let Saved {
            inputs,
            grad,
            wanted,
            ..
        } = saved;
        let mut gradients = [const { None }; N];
        let (Some(Some(x)), Some(Some(weight))) = (inputs.first(), inputs.get(1)) else {
            return gradients;
        };
        let (shape, kernel, grads) = (x.shape(), weight.shape(), grad.shape());
        let input = spatial(&shape, self.of.dimensions);
        if wanted[0] {
            let dx = self.of.apply(
                grad.values(),
                [&grads, &kernel],
                input,
                weight.values(),
                None,
            );
            gradients[0] = Some(Array::new(dx, &shape));
        }
        if wanted[1] {
            let dw = self
                .of
                .weight_gradient(grad.values(), [&grads, &kernel], x.values(), input);
            gradients[1] = Some(Array::new(dw, &kernel));
        }
        if wanted.get(2) == Some(&true) {
            let db = channel_sums(grad.values(), grads[0], grads[1]);
            gradients[2] = Some(Array::new(db, &[grads[1]]));
        }
        gradients
    }
}

/// The outputs of a [`Stencil`] that are `step` apart.
struct Phase<'a, F: Clone> {
    /// Where each tap reads, from the number of the output times the stride.
    taps: Vec<[isize; 3]>,
    /// `[groups · rows, channels · taps]`
    weights: Cow<'a, [F]>,
    /// How many outputs there are along each dimension.
    outputs: [usize; 3],
    step: [usize; 3],
    first: [usize; 3],
}

/// `y[row, n step + first] = start[row] + Σ weights[row, c, tap] x[c, n stride + tap]`.
struct Stencil<'a, F: Clone> {
    batch: usize,
    groups: usize,
    /// The channels of the input in a group.
    channels: usize,
    /// The channels of the output in a group.
    rows: usize,
    input: [usize; 3],
    stride: [usize; 3],
    /// Where the taps of any phase read along each dimension.
    distances: [Vec<isize>; 3],
    output: [usize; 3],
    phases: Vec<Phase<'a, F>>,
}

/// A part of the output of a [`Stencil`].
struct Task<'a, F> {
    group: usize,
    pictures: Range<usize>,
    rows: Range<usize>,
    /// The positions along the dimension that is split.
    part: Range<usize>,
    /// The pieces of the planes of all rows of all pictures.
    pieces: Vec<&'a mut [F]>,
}

impl<F: Real> Stencil<'_, F> {
    fn apply(&self, x: &[F], bias: Option<&[F]>) -> Vec<F> {
        let area: usize = self.output.iter().product();
        let planes = self.batch * self.groups * self.rows;
        // Without a tap, there is nothing to compute.
        let reached = !x.is_empty() && self.phases.iter().all(|phase| !phase.taps.is_empty());
        let mut y = match reached {
            true => memory::room(planes * area),
            false => memory::zeros(planes * area),
        };
        if y.is_empty() || x.is_empty() {
            return y;
        }
        if self.is_pointwise() {
            self.apply_pointwise(x, bias, &mut y);
            return y;
        }
        let mut tasks = self.tasks(&mut y);
        tasks.par_iter_mut().for_each_init(
            || (Stored::default(), Vec::new()),
            |(stored, sums), task| self.compute(task, x, bias, stored, sums),
        );
        y
    }

    /// Whether every output depends on one position of the input, at the same place.
    fn is_pointwise(&self) -> bool {
        let area: usize = self.input.iter().product();
        self.distances.iter().all(|d| d[..] == [0])
            && self.stride == [1; 3]
            && self.phases.len() == 1
            && self.output == self.input
            && padded(area) == area
    }

    /// Planes are used where they lie.
    fn apply_pointwise(&self, x: &[F], bias: Option<&[F]>, y: &mut [F]) {
        let area: usize = self.input.iter().product();
        let offsets: Vec<usize> = (0..self.channels).map(|c| c * area).collect();
        let count = self.batch * self.groups;
        let rows = self.rows_per_task(count);
        let parts = self.rows.div_ceil(rows);
        let weights = &self.phases[0].weights;
        // [batch, groups, rows, area]
        let mut tasks: Vec<(usize, usize, &mut [F])> = Vec::new();
        for (of, y) in y.chunks_mut(self.rows * area).enumerate() {
            for (part, y) in y.chunks_mut(rows * area).enumerate() {
                tasks.push((of, part, y));
            }
        }
        debug_assert_eq!(tasks.len(), count * parts);
        tasks.into_par_iter().for_each(|(of, part, y)| {
            let x = &x[of * self.channels * area..(of + 1) * self.channels * area];
            let first = of % self.groups * self.rows + part * rows;
            let range = first..first + y.len() / area;
            let weights = &weights[range.start * self.channels..range.end * self.channels];
            product(x, &offsets, weights, bias.map(|b| &b[range]), y, area);
        });
    }

    /// How many rows a task takes, if there are `tasks` besides.
    fn rows_per_task(&self, tasks: usize) -> usize {
        /// Enough for processors of many cores.
        const TASKS: usize = 16;
        let parts = TASKS.div_ceil(tasks.max(1));
        self.rows.div_ceil(parts).next_multiple_of(8)
    }

    fn layout(&self, outputs: [Range<usize>; 3], pictures: usize) -> Layout {
        Layout::new(self.input, self.stride, &self.distances, outputs, pictures)
    }

    /// All outputs of the longest phase.
    fn whole(&self) -> [Range<usize>; 3] {
        [0, 1, 2].map(|d| {
            let most = self.phases.iter().map(|phase| phase.outputs[d]).max();
            0..most.unwrap_or(0)
        })
    }

    /// The dimension that is split, if pictures are large.
    fn split(&self) -> usize {
        self.output.iter().position(|&n| n > 1).unwrap_or(2)
    }

    fn tasks<'y>(&self, y: &'y mut [F]) -> Vec<Task<'y, F>> {
        let one = self.layout(self.whole(), 1);
        let size = self.channels * one.channel();
        // So many pictures that few columns are left over, and some tasks for each core.
        let wide = COLUMNS.div_ceil(one.columns(one.counts()).max(1));
        let together = (PART / size.max(1)).max(wide.min(4));
        let pictures = together.clamp(1, self.batch.div_ceil(8));
        let axis = self.split();
        let length = self.output[axis];
        let splits = self.phases.len() == 1 && size > PART;
        let part = match splits {
            true => self.part_length(axis, length * PART / size),
            false => length,
        };
        let (chunks, parts) = (self.batch.div_ceil(pictures), length.div_ceil(part));
        let rows = self.rows_per_task(chunks * parts * self.groups);
        let blocks = self.rows.div_ceil(rows);
        let mut tasks = Vec::new();
        for group in 0..self.groups {
            for chunk in 0..chunks {
                for at in 0..parts {
                    for block in 0..blocks {
                        tasks.push(Task {
                            group,
                            pictures: chunk * pictures..((chunk + 1) * pictures).min(self.batch),
                            rows: block * rows..((block + 1) * rows).min(self.rows),
                            part: at * part..((at + 1) * part).min(length),
                            pieces: Vec::new(),
                        });
                    }
                }
            }
        }
        let area: usize = self.output.iter().product();
        for (plane, y) in y.chunks_mut(area).enumerate() {
            let (picture, channel) = (
                plane / (self.groups * self.rows),
                plane % (self.groups * self.rows),
            );
            let (group, row) = (channel / self.rows, channel % self.rows);
            for (at, piece) in y.chunks_mut(part * (area / length)).enumerate() {
                let task =
                    ((group * chunks + picture / pictures) * parts + at) * blocks + row / rows;
                tasks[task].pieces.push(piece);
            }
        }
        tasks
    }

    /// At most `most` positions, so that few columns of the vectors are left over.
    fn part_length(&self, axis: usize, most: usize) -> usize {
        let most = most.clamp(1, self.output[axis]);
        let waste = |length: usize| {
            let mut outputs = self.whole();
            outputs[axis] = 0..length;
            let layout = self.layout(outputs, 1);
            let columns = layout.columns(layout.counts());
            padded(columns) as f64 / length as f64
        };
        let candidates = most.div_ceil(2)..=most;
        candidates
            .min_by(|&a, &b| waste(a).total_cmp(&waste(b)))
            .unwrap_or(most)
    }

    fn compute(
        &self,
        task: &mut Task<'_, F>,
        x: &[F],
        bias: Option<&[F]>,
        stored: &mut Stored<F>,
        sums: &mut Vec<F>,
    ) {
        let axis = self.split();
        let mut outputs = self.whole();
        if self.phases.len() == 1 {
            outputs[axis] = task.part.clone();
        }
        let layout = self.layout(outputs, task.pictures.len());
        let area: usize = self.input.iter().product();
        let first = task.group * self.channels;
        let of = self.groups * self.channels;
        let plane = |picture: usize, channel: usize| {
            let plane = (task.pictures.start + picture) * of + first + channel;
            &x[plane * area..(plane + 1) * area]
        };
        layout.store(self.channels, plane, stored);
        let channels =
            task.group * self.rows + task.rows.start..task.group * self.rows + task.rows.end;
        for phase in &self.phases {
            if phase.taps.is_empty() && bias.is_none() {
                continue;
            }
            let mut counts = phase.outputs;
            if self.phases.len() == 1 {
                counts[axis] = task.part.len();
            }
            let columns = layout.columns(counts);
            if columns == 0 {
                continue;
            }
            let shifts: Vec<usize> = phase.taps.iter().map(|&tap| layout.offset(tap)).collect();
            let offsets: Vec<usize> = (0..self.channels)
                .flat_map(|c| shifts.iter().map(move |shift| (c, shift)))
                .map(|(c, shift)| c * layout.channel() + shift)
                .collect();
            let depth = offsets.len();
            let weights = &phase.weights[channels.start * depth..channels.end * depth];
            let stride = padded(columns);
            sums.resize(channels.len() * stride, F::ZERO);
            let start = bias.map(|bias| &bias[channels.clone()]);
            product(&stored.values, &offsets, weights, start, sums, columns);

            let [_, height, width] = self.output;
            for (piece, y) in task.pieces.iter_mut().enumerate() {
                let (picture, row) = (piece / channels.len(), piece % channels.len());
                let sums = &sums[row * stride..];
                for i in 0..counts[0] {
                    for j in 0..counts[1] {
                        let from = &sums[layout.start(picture, i, j)..][..counts[2]];
                        let line = (i * phase.step[0] + phase.first[0]) * height
                            + j * phase.step[1]
                            + phase.first[1];
                        let at = line * width + phase.first[2];
                        match phase.step[2] {
                            1 => copy(&mut y[at..at + counts[2]], from),
                            step => {
                                for (to, from) in y[at..].iter_mut().step_by(step).zip(from) {
                                    *to = *from;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A part of the kernel: some channels of the input and of the output of a group.
struct Tile {
    group: usize,
    channels: Range<usize>,
    rows: Range<usize>,
}

/// `dw[o, i, tap] = Σ g[o, n] x[i, n stride + tap]`.
struct WeightGradient {
    batch: usize,
    groups: usize,
    /// The channels of the input in a group.
    channels: usize,
    /// The channels of the output in a group.
    rows: usize,
    input: [usize; 3],
    stride: [usize; 3],
    output: [usize; 3],
    distances: [Vec<isize>; 3],
    taps: Vec<[isize; 3]>,
}

impl WeightGradient {
    fn compute<F: Real>(&self, x: &[F], g: &[F]) -> Vec<F> {
        let size = self.taps.len();
        let mut dw = memory::zeros(self.groups * self.rows * self.channels * size);
        if x.is_empty() || g.is_empty() {
            return dw;
        }
        // Blocks of channels need no memory of their own; few channels are split by pictures.
        let block = self
            .channels
            .div_ceil((self.channels * size / 144).clamp(1, 32));
        let height = self
            .rows
            .div_ceil(self.rows.div_ceil(96))
            .next_multiple_of(3);
        let (blocks, heights) = (self.channels.div_ceil(block), self.rows.div_ceil(height));
        let tiles = self.groups * blocks * heights;
        let chunk = self.batch.div_ceil(8_usize.div_ceil(tiles).min(self.batch));
        let chunks = self.batch.div_ceil(chunk);
        let tile = |at: usize| {
            let (group, at) = (at / (blocks * heights), at % (blocks * heights));
            let (channel, row) = (at / heights * block, at % heights * height);
            Tile {
                group,
                channels: channel..(channel + block).min(self.channels),
                rows: row..(row + height).min(self.rows),
            }
        };
        let parts: Vec<Vec<F>> = (0..tiles * chunks)
            .into_par_iter()
            .map(|task| {
                let (at, number) = (task / chunks, task % chunks);
                let pictures = number * chunk..((number + 1) * chunk).min(self.batch);
                self.part(x, g, &tile(at), pictures)
            })
            .collect();
        for (at, parts) in parts.chunks(chunks).enumerate() {
            let tile = tile(at);
            let depth = tile.channels.len() * size;
            for o in 0..tile.rows.len() {
                let row = tile.group * self.rows + tile.rows.start + o;
                let to = (row * self.channels + tile.channels.start) * size;
                let to = &mut dw[to..to + depth];
                for part in parts {
                    for (to, from) in to.iter_mut().zip(&part[o * depth..(o + 1) * depth]) {
                        *to += *from;
                    }
                }
            }
        }
        dw
    }

    /// The gradient by a tile from some pictures, `[rows, channels, taps]`.
    fn part<F: Real>(&self, x: &[F], g: &[F], tile: &Tile, pictures: Range<usize>) -> Vec<F> {
        let Tile {
            group,
            channels,
            rows,
        } = tile;
        let depth = channels.len() * self.taps.len();
        let area: usize = self.input.iter().product();
        let outputs: usize = self.output.iter().product();
        let axis = self.output.iter().position(|&n| n > 1).unwrap_or(2);
        let length = self.output[axis];
        let layout = |range: [Range<usize>; 3], pictures: usize| {
            Layout::new(self.input, self.stride, &self.distances, range, pictures)
        };
        let whole = self.output.map(|n| 0..n);
        let size = (channels.len() + rows.len()) * layout(whole.clone(), 1).channel();
        let together = (PART / size.max(1)).clamp(1, pictures.len());
        let part = (length * PART / size.max(1)).clamp(1, length);

        let mut sums = vec![F::ZERO; rows.len() * depth];
        let mut stored = Stored::default();
        // The gradients, and how they lie.
        let (mut grads, mut lie) = (Vec::new(), None);
        for first in pictures.clone().step_by(together) {
            let count = together.min(pictures.end - first);
            for start in (0..length).step_by(part) {
                let mut range = whole.clone();
                range[axis] = start..(start + part).min(length);
                let layout = layout(range.clone(), count);
                let plane = |picture: usize, channel: usize| {
                    let of = (first + picture) * self.groups * self.channels;
                    let plane = of + group * self.channels + channels.start + channel;
                    &x[plane * area..(plane + 1) * area]
                };
                layout.store(channels.len(), plane, &mut stored);
                let offsets: Vec<usize> = (0..channels.len())
                    .flat_map(|c| self.taps.iter().map(move |&tap| (c, tap)))
                    .map(|(c, tap)| c * layout.channel() + layout.offset(tap))
                    .collect();
                // The gradients lie as the input does, with zeros where there is no output.
                let counts = layout.counts();
                let columns = layout.columns(counts);
                if lie.as_ref() != Some(&layout) {
                    grads.clear();
                    grads.resize(rows.len() * columns, F::ZERO);
                    lie = Some(layout.clone());
                }
                for (o, to) in grads.chunks_exact_mut(columns).enumerate() {
                    for picture in 0..count {
                        let plane = (first + picture) * self.groups + group;
                        let plane = plane * self.rows + rows.start + o;
                        let from = &g[plane * outputs..(plane + 1) * outputs];
                        for i in 0..counts[0] {
                            for j in 0..counts[1] {
                                let line =
                                    (i + range[0].start) * self.output[1] + j + range[1].start;
                                let at = line * self.output[2] + range[2].start;
                                let to = &mut to[layout.start(picture, i, j)..][..counts[2]];
                                copy(to, &from[at..at + counts[2]]);
                            }
                        }
                    }
                }
                correlate(&stored.values, &offsets, &grads, columns, &mut sums);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests;
