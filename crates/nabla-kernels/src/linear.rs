//! Linear layers, forward and backward.
//!
//! ```text
//! y = x W + b;   ∂x = ∂y Wᵀ,   ∂W = xᵀ ∂y,   ∂b = Σ ∂y
//! ```
//!
//! A weight that is stored transposed, as in PyTorch's files, is multiplied as it lies.

use burn::nn::Linear;
use burn::tensor::Tensor;
use faer::MatRef;

use crate::activation::geglu;
use crate::half_precision::is_half;
use crate::memory;
use crate::operation::{Array, Operation, Saved, binary, computes, ternary};
use crate::product::{column_sums, multiply};
use crate::real::Real;

mod tiles;

use tiles::{gated_linear, half_linear};

/// Computes `layer`.
///
/// - `x`: `[…, input]`
/// - returns `[…, output]`
///
/// # Panics
/// Like `layer.forward`, if the widths don't match.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
/// use nabla_kernels::linear::linear;
///
/// let device = Device::flex().autodiff();
/// let layer = LinearConfig::new(4, 2).init(&device);
/// let loss = linear(&layer, Tensor::<2>::ones([3, 4], &device)).sum();
/// let grads = loss.backward();
/// assert_eq!(layer.weight.val().grad(&grads).unwrap().dims(), [4, 2]);
/// ```
pub fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    let weight = layer.weight.val();
    let fits = computes(&x)
        && computes(&weight)
        && x.dtype() == weight.dtype()
        && x.dims()[D - 1] == weight.dims()[0];
    if !fits {
        return layer.forward(x);
    }
    if is_half(x.dtype())
        && let Some(y) = half_linear(layer, &x)
    {
        return y;
    }
    match &layer.bias {
        Some(bias) => ternary(Product, x, weight, bias.val()),
        None => binary(Product, x, weight),
    }
}

/// `a · gelu(b)` with `[a, b] = x W + bias`: a gated linear layer (GEGLU). Without autodiff, each part of the
/// product is gated while it is in the cache.
///
/// - `x`: `[…, input]`; `layer` to `2 n` channels
/// - returns `[…, n]`
///
/// # Panics
/// Like `layer.forward`, if the widths don't match.
pub fn linear_geglu<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    let [input, outputs] = layer.weight.dims();
    let fits = x.dims()[D - 1] == input && outputs.is_multiple_of(2);
    match fits.then(|| gated_linear(layer, &x)).flatten() {
        Some(y) => y,
        None => geglu(linear(layer, x)),
    }
}

/// `x W + b`.
#[derive(Clone, Copy, Debug)]
struct Product;

/// The rows of `[…, width]`.
fn rows(shape: &[usize]) -> usize {
    shape[..shape.len() - 1].iter().product()
}

impl<const N: usize> Operation<N> for Product {
    type Kept = ();

    fn reads(&self) -> [bool; N] {
        // The gradients don't depend on the bias.
        std::array::from_fn(|input| input < 2)
    }

    fn turns(&self) -> [bool; N] {
        std::array::from_fn(|input| input == 1)
    }

    fn forward<F: Real>(&self, inputs: [Array<F>; N], _: bool) -> (Array<F>, ()) {
        let weight = inputs[1].matrix();
        let (input, output) = (weight.nrows(), weight.ncols());
        let x = inputs[0].values();
        let rows = rows(&inputs[0].shape());
        let mut y = memory::room(rows * output);
        if let Some(bias) = inputs.get(2) {
            for y in y.chunks_exact_mut(output.max(1)) {
                y.copy_from_slice(bias.values());
            }
        }
        let x = MatRef::from_row_major_slice(x, rows, input);
        multiply(&mut y, x, weight, N > 2);
        let mut shape = inputs[0].shape();
        if let Some(last) = shape.last_mut() {
            *last = output;
        }
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
        let matrix = weight.matrix();
        let (input, output) = (matrix.nrows(), matrix.ncols());
        let rows = rows(&grad.shape());
        let dy = MatRef::from_row_major_slice(grad.values(), rows, output);
        if wanted[0] {
            let mut dx = memory::room(rows * input);
            multiply(&mut dx, dy, matrix.transpose(), false);
            gradients[0] = Some(Array::new(dx, &x.shape()));
        }
        if wanted[1] {
            let mut dw = memory::room(input * output);
            let x = MatRef::from_row_major_slice(x.values(), rows, input);
            multiply(&mut dw, x.transpose(), dy, false);
            gradients[1] = Some(Array::new(dw, &[input, output]));
        }
        if wanted.get(2) == Some(&true) {
            let db = column_sums(grad.values(), output);
            gradients[2] = Some(Array::new(db, &[output]));
        }
        gradients
    }
}

#[cfg(test)]
mod tests;
