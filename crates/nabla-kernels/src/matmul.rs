//! Products of matrices, one or a batch, forward and backward.

use burn::tensor::Tensor;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::memory;
use crate::operation::{Array, Operation, Saved, binary, compiled, computes_both};
use crate::product::{matmul as multiply_alone, multiply};
use crate::real::Real;

/// `a b` of each pair of matrices.
///
/// - `a`: `[batch, rows, depth]`; `b`: `[batch, depth, columns]`
/// - returns `[batch, rows, columns]`
///
/// # Panics
/// Like `a.matmul(b)`, if the shapes don't fit.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_kernels::matmul::matmul;
///
/// let device = Device::flex();
/// let y = matmul(Tensor::ones([4, 2, 3], &device), Tensor::ones([4, 3, 5], &device));
/// assert_eq!(y.dims(), [4, 2, 5]);
/// ```
pub fn matmul(a: Tensor<3>, b: Tensor<3>) -> Tensor<3> {
    let ([batch, _, depth], [other, height, _]) = (a.dims(), b.dims());
    match batch == other && depth == height && computes_both(&a, &b) {
        true => binary(Batched, a, b),
        false => a.matmul(b),
    }
}

/// `a b`, divided among the cores. A factor that is the transpose of a tensor is read as it lies.
///
/// - `a`: `[rows, depth]`; `b`: `[depth, columns]`
/// - returns `[rows, columns]`
///
/// # Panics
/// Like `a.matmul(b)`, if the shapes don't fit.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_kernels::matmul::product;
///
/// let device = Device::flex();
/// let y = product(Tensor::ones([2, 3], &device), Tensor::ones([5, 3], &device).transpose());
/// assert_eq!(y.dims(), [2, 5]);
/// ```
pub fn product(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    match a.dims()[1] == b.dims()[0] && computes_both(&a, &b) {
        true => binary(Single, a, b),
        false => a.matmul(b),
    }
}

#[derive(Clone, Copy, Debug)]
struct Single;

fn product_of<F: Real>(a: MatRef<'_, F>, b: MatRef<'_, F>) -> Array<F> {
    let mut y = memory::room(a.nrows() * b.ncols());
    multiply(&mut y, a, b, false);
    Array::new(y, &[a.nrows(), b.ncols()])
}

compiled!(Single: 2);

impl Operation<2> for Single {
    type Kept = ();

    fn turns(&self) -> [bool; 2] {
        [true; 2]
    }

    fn forward<F: Real>(&self, [a, b]: [Array<F>; 2], _: bool) -> (Array<F>, ()) {
        (product_of(a.matrix(), b.matrix()), ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), 2>) -> [Option<Array<F>>; 2] {
        let [Some(a), Some(b)] = saved.inputs else {
            return [None, None];
        };
        let grad = saved.grad.matrix();
        [
            saved.wanted[0].then(|| product_of(grad, b.matrix().transpose())),
            saved.wanted[1].then(|| product_of(a.matrix().transpose(), grad)),
        ]
    }
}

#[derive(Clone, Copy, Debug)]
struct Batched;

/// `y ← a b` of each pair.
fn products<'a, F: Real>(
    batch: usize,
    [rows, columns]: [usize; 2],
    a: impl Fn(usize) -> MatRef<'a, F> + Sync,
    b: impl Fn(usize) -> MatRef<'a, F> + Sync,
) -> Vec<F> {
    let size = batch * rows * columns;
    if size == 0 || a(0).ncols() == 0 {
        return memory::zeros(size);
    }
    let mut y = memory::room(size);
    y.par_chunks_mut(rows * columns)
        .enumerate()
        .for_each(|(at, y)| {
            let y = MatMut::from_row_major_slice_mut(y, rows, columns);
            multiply_alone(y, Accum::Replace, a(at), b(at), F::ONE, Par::Seq);
        });
    y
}

/// The matrix number `at` of a batch.
fn matrix<'a, F: Real>(values: &'a [F], [rows, columns]: [usize; 2], at: usize) -> MatRef<'a, F> {
    let size = rows * columns;
    MatRef::from_row_major_slice(&values[at * size..(at + 1) * size], rows, columns)
}

compiled!(Batched: 2);

impl Operation<2> for Batched {
    type Kept = ();

    fn forward<F: Real>(&self, [a, b]: [Array<F>; 2], _: bool) -> (Array<F>, ()) {
        let (shape, columns) = (a.shape(), b.shape()[2]);
        let [batch, rows, depth] = [shape[0], shape[1], shape[2]];
        let (a, b) = (a.values(), b.values());
        let y = products(
            batch,
            [rows, columns],
            |at| matrix(a, [rows, depth], at),
            |at| matrix(b, [depth, columns], at),
        );
        (Array::new(y, &[batch, rows, columns]), ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), 2>) -> [Option<Array<F>>; 2] {
        let Saved {
            inputs,
            grad,
            wanted,
            ..
        } = saved;
        let [Some(a), Some(b)] = inputs else {
            return [None, None];
        };
        let (shape, columns) = (a.shape(), b.shape()[2]);
        let [batch, rows, depth] = [shape[0], shape[1], shape[2]];
        let (a, b, grad) = (a.values(), b.values(), grad.values());
        let da = wanted[0].then(|| {
            let da = products(
                batch,
                [rows, depth],
                |at| matrix(grad, [rows, columns], at),
                |at| matrix(b, [depth, columns], at).transpose(),
            );
            Array::new(da, &[batch, rows, depth])
        });
        let db = wanted[1].then(|| {
            let db = products(
                batch,
                [depth, columns],
                |at| matrix(a, [rows, depth], at).transpose(),
                |at| matrix(grad, [rows, columns], at),
            );
            Array::new(db, &[batch, depth, columns])
        });
        [da, db]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution, Tolerance};

    #[test]
    fn values_and_gradients_are_burns() {
        let device = Device::flex().autodiff();
        for [batch, rows, depth, columns] in [[1, 2, 1, 3], [5, 32, 32, 16], [3, 7, 50, 9]] {
            let random = |shape| {
                let x: Tensor<3> = Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device);
                x.require_grad()
            };
            let (a, b) = (
                random([batch, rows, depth]),
                random([batch, depth, columns]),
            );
            let weights = random([batch, rows, columns]).detach();
            let (found, burns) = (matmul(a.clone(), b.clone()), a.clone().matmul(b.clone()));
            let near = Tolerance::<f32>::absolute(1e-4);
            found.to_data().assert_approx_eq(&burns.to_data(), near);
            let [grads, expected] = [found, burns].map(|y| (y * weights.clone()).sum().backward());
            for x in [&a, &b] {
                let [found, expected] = [&grads, &expected].map(|g| x.grad(g).unwrap().into_data());
                found.assert_approx_eq(&expected, near);
            }
        }
    }

    /// Also of transposed factors, and of products that are divided among the cores.
    #[test]
    fn single_products_are_burns() {
        let device = Device::flex().autodiff();
        for [rows, depth, columns] in [[2, 1, 3], [70, 300, 90], [600, 64, 500]] {
            for turned in [[false, false], [false, true], [true, false], [true, true]] {
                let random = |[rows, columns]: [usize; 2], turned: bool| {
                    let shape = if turned {
                        [columns, rows]
                    } else {
                        [rows, columns]
                    };
                    let x = Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
                    x.require_grad()
                };
                let leaves = [
                    random([rows, depth], turned[0]),
                    random([depth, columns], turned[1]),
                ];
                let lying = |which: usize| match turned[which] {
                    true => leaves[which].clone().transpose(),
                    false => leaves[which].clone(),
                };
                let weights =
                    Tensor::random([rows, columns], Distribution::Default, &device.clone());
                let (found, burns) = (product(lying(0), lying(1)), lying(0).matmul(lying(1)));
                let near = Tolerance::<f32>::absolute(1e-3);
                found.to_data().assert_approx_eq(&burns.to_data(), near);
                let [grads, expected] =
                    [found, burns].map(|y| (y * weights.clone()).sum().backward());
                for x in &leaves {
                    let [found, expected] =
                        [&grads, &expected].map(|g| x.grad(g).unwrap().into_data());
                    found.assert_approx_eq(&expected, near);
                }
            }
        }
    }
}
