//! Transposed convolutions.

use burn::nn::conv::{ConvTranspose1d, ConvTranspose2d, ConvTranspose3d};
use burn::tensor::Tensor;

use super::{Convolution, channel_sums, spatial};
use crate::operation::{
    Array, Batch, Operation, Saved, but_bias, but_first, compiled, computes_both, layer,
};
use crate::real::Real;

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
            with_relu: false,
        },
        padding_out: [0, 0, conv.padding_out],
    };
    let (weight, bias) = (conv.weight.val(), conv.bias.as_ref().map(|b| b.val()));
    match operation.fits(&x, &weight) {
        true => layer(operation, x, weight, bias),
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
            with_relu: false,
        },
        padding_out: [0, conv.padding_out[0], conv.padding_out[1]],
    };
    let (weight, bias) = (conv.weight.val(), conv.bias.as_ref().map(|b| b.val()));
    match operation.fits(&x, &weight) {
        true => layer(operation, x, weight, bias),
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
            with_relu: false,
        },
        padding_out: conv.padding_out,
    };
    let (weight, bias) = (conv.weight.val(), conv.bias.as_ref().map(|b| b.val()));
    match operation.fits(&x, &weight) {
        true => layer(operation, x, weight, bias),
        false => conv.forward(x),
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
        let of = &self.of;
        let positive = of.groups > 0 && !of.stride.contains(&0) && !of.dilation.contains(&0);
        let (shape, kernel) = (x.dims(), weight.dims());
        computes_both(x, weight)
            && positive
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

compiled!(Transposed: 2, 3);

impl<const N: usize> Operation<N> for Transposed {
    type Kept = ();

    fn reads(&self) -> [bool; N] {
        but_bias()
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
        // The kernel of a convolution that is given the gradient, and the input as its gradient.
        let squares = || self.of.weight_squares([&batch.grad, x], &weight.shape());
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
        let (of, grad) = (&self.of, &batch.grad);
        let found = of.for_each_picture([grad, x], &weight.shape(), grad, wanted, then);
        Some(found)
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
        let dimensions = self.of.dimensions;
        saved.of_layer(
            |x, weight, grad| {
                let (shape, shapes) = (x.shape(), [&grad.shape()[..], &weight.shape()]);
                let (grad, output) = (grad.values(), spatial(&shape, dimensions));
                let dx = self.of.apply(grad, shapes, output, weight.values(), None);
                Array::new(dx, &shape)
            },
            |x, weight, grad| {
                let (shape, output) = (weight.shape(), spatial(&x.shape(), dimensions));
                let of = self.of.weight_gradients(&grad.shape(), &shape, output);
                Array::new(of.compute(grad.values(), x.values()), &shape)
            },
            channel_sums,
        )
    }
}
