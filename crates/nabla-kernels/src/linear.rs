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
use rayon::prelude::*;

use crate::activation::geglu;
use crate::half_precision::is_half;
use crate::layer_hooks;
use crate::memory;
use crate::operation::{
    self, Array, Batch, Operation, Saved, but_bias, but_first, compiled, computes_both,
};
use crate::per_example::{is_tall, product_square};
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
    if let Some(y) = layer_hooks::linear(layer, &x) {
        return y;
    }
    let weight = layer.weight.val();
    let fits = computes_both(&x, &weight) && x.dims()[D - 1] == weight.dims()[0];
    if !fits {
        return layer.forward(x);
    }
    if is_half(x.dtype())
        && let Some(y) = half_linear(layer, &x)
    {
        return y;
    }
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    operation::layer(Product, x, weight, bias)
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
    let fits = x.dims()[D - 1] == input && outputs.is_multiple_of(2) && !layer_hooks::is_hooked();
    match fits.then(|| gated_linear(layer, &x)).flatten() {
        Some(y) => y,
        None => geglu(linear(layer, x)),
    }
}

/// `x W + b`.
#[derive(Clone, Copy, Debug)]
struct Product;

/// `[…, width]` as `[rows, width]`.
fn row_matrix<F: Real>(array: &Array<F>, width: usize) -> MatRef<'_, F> {
    let shape = array.shape();
    let rows = shape[..shape.len() - 1].iter().product();
    MatRef::from_row_major_slice(array.values(), rows, width)
}

compiled!(Product: 2, 3);

impl<const N: usize> Operation<N> for Product {
    type Kept = ();

    fn reads(&self) -> [bool; N] {
        but_bias()
    }

    fn turns(&self) -> [bool; N] {
        std::array::from_fn(|input| input == 1)
    }

    fn parameters(&self) -> [bool; N] {
        but_first()
    }

    fn of_example(&self, (): &(), _: usize, _: usize) -> Option<(Self, ())> {
        Some((*self, ()))
    }

    fn squared_norms<F: Real>(
        &self,
        batch: &Batch<'_, F, (), N>,
        input: usize,
    ) -> Option<Vec<f64>> {
        let (1, Some(Some(x))) = (input, batch.inputs.first()) else {
            return None;
        };
        let (grad, examples) = (&batch.grad, batch.examples);
        let width = |array: &Array<F>| array.shape().last().copied().unwrap_or(0);
        let sizes = [width(x), width(grad)];
        let positions = grad.values().len() / (examples * sizes[1]).max(1);
        if !is_tall(sizes, positions) {
            return None;
        }
        let [x, grad] = [x, grad].map(Array::values);
        let each = (0..examples).into_par_iter().map(|example| {
            let rows = example * positions;
            let [x, grad] = [(x, sizes[0]), (grad, sizes[1])].map(|(values, width)| {
                let values = &values[rows * width..(rows + positions) * width];
                MatRef::from_row_major_slice(values, positions, width)
            });
            product_square(x, grad)
        });
        Some(each.collect())
    }

    fn forward<F: Real>(&self, inputs: [Array<F>; N], _: bool) -> (Array<F>, ()) {
        let weight = inputs[1].matrix();
        let output = weight.ncols();
        let x = row_matrix(&inputs[0], weight.nrows());
        let mut y = memory::room(x.nrows() * output);
        if let Some(bias) = inputs.get(2) {
            for y in y.chunks_exact_mut(output.max(1)) {
                y.copy_from_slice(bias.values());
            }
        }
        multiply(&mut y, x, weight, N > 2);
        let mut shape = inputs[0].shape();
        if let Some(last) = shape.last_mut() {
            *last = output;
        }
        (Array::new(y, &shape), ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), N>) -> [Option<Array<F>>; N] {
        saved.of_layer(
            |x, weight, grad| {
                let weight = weight.matrix().transpose();
                let dy = row_matrix(grad, weight.nrows());
                let mut dx = memory::room(dy.nrows() * weight.ncols());
                multiply(&mut dx, dy, weight, false);
                Array::new(dx, &x.shape())
            },
            |x, weight, grad| {
                let [input, output] = [weight.matrix().nrows(), weight.matrix().ncols()];
                let mut dw = memory::room(input * output);
                let (x, dy) = (row_matrix(x, input), row_matrix(grad, output));
                multiply(&mut dw, x.transpose(), dy, false);
                Array::new(dw, &[input, output])
            },
            |grad| {
                let db = column_sums(grad.values(), grad.shape().last().copied().unwrap_or(0));
                let output = db.len();
                Array::new(db, &[output])
            },
        )
    }
}

#[cfg(test)]
mod tests;
