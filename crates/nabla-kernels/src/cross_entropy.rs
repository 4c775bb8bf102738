//! The cross entropy of a softmax with the right classes, forward and backward.
//!
//! With the logits `x` of a row, its class `t` and smoothing `α` over `K` classes,
//!
//! ```text
//! loss = ln Σ e^x − (1 − α) x_t − α/K Σ x;   ∂x = softmax(x) − (1 − α) e_t − α/K
//! ```
//!
//! Burn computes the softmax, its logarithm, a gather and their gradients one after another; here is one pass for
//! each direction, and only the sum of a row is kept.

use std::sync::Arc;

use burn::nn::loss::CrossEntropyLoss;
use burn::tensor::{Int, Tensor};

use crate::elementwise::for_each_row;
use crate::memory;
use crate::operation::{Array, Operation, Saved, compiled, computes, unary};
use crate::real::Real;

/// Computes `loss`: the mean over the rows. Class weights, ignored tokens and probabilities in place of logits are
/// computed by Burn.
///
/// - `logits`: `[rows, classes]`; `targets`: `[rows]`, the classes
/// - returns `[1]`
///
/// # Panics
/// Like `loss.forward`, if the shapes don't match.
pub fn cross_entropy(
    loss: &CrossEntropyLoss,
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
) -> Tensor<1> {
    let [rows, classes] = logits.dims();
    let plain = loss.weights.is_none() && loss.pad_tokens.is_none() && loss.logits;
    let fits = targets.dims() == [rows] && rows * classes > 0;
    if !plain || !fits || !computes(&logits) {
        return loss.forward(logits, targets);
    }
    let classes_of: Vec<usize> = targets
        .to_data()
        .iter::<i64>()
        .map(|t| t as usize)
        .collect();
    if classes_of.iter().any(|&class| class >= classes) {
        return loss.forward(logits, targets);
    }
    let operation = Mean {
        targets: Arc::new(classes_of),
        smoothing: loss.smoothing.map_or(0.0, f64::from),
    };
    unary(operation, logits)
}

#[derive(Clone, Debug)]
struct Mean {
    targets: Arc<Vec<usize>>,
    smoothing: f64,
}

compiled!(Mean: 1);

impl Operation<1> for Mean {
    /// The highest number `m` of each row, and `Σ e^(x − m)`.
    type Kept = Vec<[f64; 2]>;

    fn forward<F: Real>(&self, [x]: [Array<F>; 1], _: bool) -> (Array<F>, Self::Kept) {
        let shape = x.shape();
        let (rows, classes) = (shape[0], shape[1]);
        let values = x.values();
        let mut terms = vec![F::ZERO; rows];
        let even = self.smoothing / classes as f64;
        let kept = for_each_row(
            &mut terms,
            1,
            #[inline(always)]
            |row, term| {
                let x = &values[row * classes..(row + 1) * classes];
                let [highest, sum] = highest_and_sum(x);
                let mut loss =
                    highest + sum.ln() - (1.0 - self.smoothing) * x[self.targets[row]].wide();
                if even > 0.0 {
                    loss -= even * x.iter().map(|x| x.wide()).sum::<f64>();
                }
                term[0] = F::of(loss);
                [highest, sum]
            },
        );
        let total: f64 = terms.iter().map(|term| term.wide()).sum();
        (Array::new(vec![F::of(total / rows as f64)], &[1]), kept)
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, Self::Kept, 1>) -> [Option<Array<F>>; 1] {
        let Saved {
            inputs: [x],
            kept,
            grad,
            ..
        } = saved;
        let Some(x) = x else { return [None] };
        let shape = x.shape();
        let (rows, classes) = (shape[0], shape[1]);
        let factor = F::of(grad.values()[0].wide() / rows as f64);
        let even = F::of(self.smoothing / classes as f64);
        let x = x.values();
        let mut dx = memory::room(x.len());
        for_each_row(
            &mut dx,
            classes,
            #[inline(always)]
            |row, dx| {
                let [highest, sum] = kept[row];
                let (highest, scale) = (F::of(highest), F::of(1.0 / sum));
                for (dx, &x) in dx.iter_mut().zip(&x[row * classes..(row + 1) * classes]) {
                    *dx = ((x - highest).exp() * scale - even) * factor;
                }
                dx[self.targets[row]] -= F::of(1.0 - self.smoothing) * factor;
            },
        );
        [Some(Array::new(dx, &shape))]
    }
}

/// The highest number `m`, and `Σ e^(x − m)`.
#[inline(always)]
fn highest_and_sum<F: Real>(x: &[F]) -> [f64; 2] {
    let mut highest = F::of(f64::NEG_INFINITY);
    for &x in x {
        highest = highest.or_larger(x);
    }
    let sum: F = x.iter().map(|&x| (x - highest).exp()).sum();
    [highest.wide(), sum.wide()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::loss::CrossEntropyLossConfig;
    use burn::tensor::{DType, Device, Distribution, Tolerance};

    #[test]
    fn values_and_gradients_are_burns() {
        let device = Device::flex().autodiff();
        for (rows, classes, smoothing) in [(1, 1, None), (5, 10, None), (300, 70, Some(0.1))] {
            let loss = CrossEntropyLossConfig::new()
                .with_smoothing(smoothing)
                .init(&device);
            let logits: Tensor<2> =
                Tensor::random([rows, classes], Distribution::Normal(0.0, 9.0), &device);
            let logits = logits.require_grad();
            let targets: Vec<i32> = (0..rows).map(|row| row * 7 % classes).collect();
            let targets = Tensor::<1, Int>::from_ints(&targets[..], &device);
            let burns = loss.forward(logits.clone(), targets.clone());
            let found = cross_entropy(&loss, logits.clone(), targets);
            let near = Tolerance::<f32>::absolute(1e-5);
            found.to_data().assert_approx_eq(&burns.to_data(), near);
            let expected = logits.grad(&burns.backward()).unwrap();
            let grad = logits.grad(&found.backward()).unwrap();
            grad.into_data()
                .assert_approx_eq(&expected.into_data(), near);
        }
    }

    /// The gradient is the central difference of the value, in double precision.
    #[test]
    fn gradients_are_differences() {
        const STEP: f64 = 1e-5;
        let device = Device::flex().autodiff();
        let targets = Tensor::<1, Int>::from_ints([2, 0], &device);
        let values = [0.3, -1.0, 2.0, 700.0, 699.0, 1.0];
        for smoothing in [None, Some(0.2)] {
            let loss = CrossEntropyLossConfig::new()
                .with_smoothing(smoothing)
                .init(&device);
            let of = |values: &[f64]| {
                let logits = Tensor::<1>::from_data(values, (&device, DType::F64)).reshape([2, 3]);
                let logits: Tensor<2> = logits.detach().require_grad();
                (
                    cross_entropy(&loss, logits.clone(), targets.clone()),
                    logits,
                )
            };
            let (value, logits) = of(&values);
            let grad = logits.grad(&value.backward()).unwrap().into_data();
            for (i, grad) in grad.iter::<f64>().enumerate() {
                let at = |step: f64| {
                    let mut moved = values;
                    moved[i] += step;
                    of(&moved).0.into_data().iter::<f64>().next().unwrap()
                };
                let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                assert!((grad - difference).abs() < 1e-7, "{i}: {grad} {difference}");
            }
        }
    }
}
