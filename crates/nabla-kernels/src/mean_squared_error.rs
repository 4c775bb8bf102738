//! The mean squared error, forward and backward in one pass each.

use burn::tensor::Tensor;

use crate::elementwise::{from, square_distance};
use crate::memory;
use crate::operation::{Array, Operation, Saved, binary, compiled, computes_both};
use crate::real::Real;

/// The mean of `(prediction − target)²`, as [`MseLoss`](burn::nn::loss::MseLoss) with a mean.
///
/// - `prediction`, `target`: of one shape
/// - returns `[1]`
///
/// # Panics
/// Like Burn's, if the shapes don't fit.
pub fn mean_squared_error<const D: usize>(prediction: Tensor<D>, target: Tensor<D>) -> Tensor<1> {
    let fits = prediction.dims() == target.dims() && !target.dims().contains(&0);
    match fits && computes_both(&prediction, &target) {
        true => binary(MeanSquare, prediction, target),
        false => (prediction - target).powi_scalar(2).mean(),
    }
}

#[derive(Clone, Copy, Debug)]
struct MeanSquare;

compiled!(MeanSquare: 2);

impl Operation<2> for MeanSquare {
    type Kept = ();

    fn forward<F: Real>(&self, [a, b]: [Array<F>; 2], _: bool) -> (Array<F>, ()) {
        let mean = square_distance(a.values(), b.values()) / a.values().len() as f64;
        (Array::new(vec![F::of(mean)], &[1]), ())
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
        let count = a.values().len();
        let factor = F::of(2.0 * grad.values()[0].wide() / count as f64);
        let by = |factor: F| {
            let mut dx = memory::room(count);
            from(
                &mut dx,
                a.values(),
                [b.values()],
                #[inline(always)]
                |a, [b]| (a - b) * factor,
            );
            Array::new(dx, &a.shape())
        };
        [
            wanted[0].then(|| by(factor)),
            wanted[1].then(|| by(-factor)),
        ]
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
            let found = mean_squared_error(a.clone(), b.clone());
            let burns = (a.clone() - b.clone()).powi_scalar(2).mean();
            found.to_data().assert_approx_eq(&burns.to_data(), near);
            let [grads, expected] = [found, burns].map(|y| y.backward());
            for x in [&a, &b] {
                let [found, expected] = [&grads, &expected].map(|g| x.grad(g).unwrap().into_data());
                found.assert_approx_eq(&expected, near);
            }
        }
    }
}
