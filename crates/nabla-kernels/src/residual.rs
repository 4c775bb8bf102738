//! The sum of two branches of a network, alone or before ReLU, forward and backward in one pass on all cores.

use burn::tensor::Tensor;

use crate::activation::{rectified, rectified_slope, relu};
use crate::linear_pieces::{self, Rectifier};
use crate::operation::{Array, Operation, Saved, binary, compiled, computes_both};
use crate::real::Real;

/// `a + b`.
///
/// - `a`, `b`: of one shape
///
/// # Panics
/// Like `a + b`, if the shapes don't fit.
pub fn add<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    match fits(&a, &b) {
        true => binary(Sum::default(), a, b),
        false => a + b,
    }
}

/// `max(a + b, 0)`: the end of a residual block.
///
/// - `a`, `b`: of one shape
///
/// # Panics
/// Like `a + b`, if the shapes don't fit.
pub fn add_relu<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    if !fits(&a, &b) {
        return relu(a + b);
    }
    match Rectifier::after(&a) {
        Some(end) => binary(Sum { end: Some(end) }, a, b),
        None => linear_pieces::relu(add(a, b)),
    }
}

fn fits<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> bool {
    a.dims() == b.dims() && computes_both(a, b)
}

#[derive(Clone, Debug, Default)]
struct Sum {
    end: Option<Rectifier>,
}

compiled!(Sum: 2);

impl Operation<2> for Sum {
    type Kept = ();

    fn reads(&self) -> [bool; 2] {
        [false, false]
    }

    fn reads_output(&self) -> bool {
        matches!(self.end, Some(Rectifier::Relu))
    }

    fn forward<F: Real>(&self, [a, b]: [Array<F>; 2], _: bool) -> (Array<F>, ()) {
        let y = match &self.end {
            Some(Rectifier::Held(held)) => held.sum(a, b.values()),
            Some(Rectifier::Relu) => a.updated(
                [b.values()],
                #[inline(always)]
                |a, [b]| rectified(a + b),
            ),
            None => a.updated(
                [b.values()],
                #[inline(always)]
                |a, [b]| a + b,
            ),
        };
        (y, ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), 2>) -> [Option<Array<F>>; 2] {
        let Saved { output, grad, .. } = saved;
        let gradient = match &output {
            _ if let Some(Rectifier::Held(held)) = &self.end => held.masked(grad),
            Some(y) => grad.updated(
                [y.values()],
                #[inline(always)]
                |g, [y]| rectified_slope(y, g),
            ),
            None => grad,
        };
        // Both branches share it.
        [Some(gradient.clone()), Some(gradient)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution, Tolerance};

    #[test]
    fn values_and_gradients_are_burns() {
        let device = Device::flex().autodiff();
        let near = Tolerance::<f32>::relative(1e-5).set_absolute(1e-7);
        for shape in [[1, 1], [3, 50], [90, 700]] {
            let random = || {
                let x: Tensor<2> = Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device);
                x.require_grad()
            };
            let (a, b) = (random(), random());
            let weights = random().detach();
            let relu = burn::tensor::activation::relu;
            for (found, burns) in [
                (
                    add(a.clone(), b.clone()) * weights.clone(),
                    (a.clone() + b.clone()) * weights.clone(),
                ),
                (
                    add_relu(a.clone(), b.clone()) * weights.clone(),
                    relu(a.clone() + b.clone()) * weights.clone(),
                ),
            ] {
                found.to_data().assert_approx_eq(&burns.to_data(), near);
                let [grads, expected] = [found, burns].map(|y| y.sum().backward());
                for x in [&a, &b] {
                    let [found, expected] =
                        [&grads, &expected].map(|g| x.grad(g).unwrap().into_data());
                    found.assert_approx_eq(&expected, near);
                }
            }
        }
    }
}
