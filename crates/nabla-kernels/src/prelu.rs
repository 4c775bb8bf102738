//! ReLU with a learned slope for negative numbers, forward and backward in one pass each.
//!
//! ```text
//! y = x where x > 0, else a x;   ∂x = ∂y where x > 0, else a ∂y;   ∂a = Σ ∂y x over x ≤ 0
//! ```
//!
//! Source: He, Zhang, Ren, Sun, *Delving Deep into Rectifiers*, 2015, arXiv 1502.01852.

use burn::nn::PRelu;
use burn::tensor::Tensor;

use crate::elementwise::for_each_row;
use crate::memory;
use crate::operation::{Array, Operation, Saved, binary, compiled, computes_both};
use crate::product::column_sums;
use crate::real::Real;

/// Computes `layer`.
///
/// - `x`: `[batch, channels, …]` with as many channels as slopes, or of any shape with one slope
/// - returns the same shape
///
/// # Panics
/// Like `layer.forward`, if there is neither one slope nor one for each channel.
///
/// ```
/// use burn::nn::PReluConfig;
/// use burn::tensor::{Device, Tensor};
/// use nabla_kernels::prelu::prelu;
///
/// let device = Device::flex();
/// let layer = PReluConfig::new().init(&device);
/// let y = prelu(&layer, Tensor::<2>::from_floats([[-1.0, 2.0]], &device));
/// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [-0.25, 2.0]);
/// ```
pub fn prelu<const D: usize>(layer: &PRelu, x: Tensor<D>) -> Tensor<D> {
    let slopes = layer.alpha.val();
    let [count] = slopes.dims();
    let fits = count == 1 || D >= 2 && x.dims()[1] == count;
    match fits && computes_both(&x, &slopes) {
        true => binary(Prelu, x, slopes),
        false => layer.forward(x),
    }
}

#[derive(Clone, Copy, Debug)]
struct Prelu;

/// `y` at `x` with the slope `a`.
#[inline(always)]
fn value<F: Real>(x: F, a: F) -> F {
    if x > F::ZERO { x } else { a * x }
}

/// The term of the gradient by the slope.
#[inline(always)]
fn term<F: Real>(x: F, g: F) -> F {
    if x > F::ZERO { F::ZERO } else { g * x }
}

/// The gradient by `x`.
#[inline(always)]
fn slope<F: Real>(x: F, a: F, g: F) -> F {
    if x > F::ZERO { g } else { a * g }
}

/// The numbers that lie together and have one slope; none if neighbours are of different channels.
fn run(shape: &[usize], slopes: usize) -> Option<usize> {
    match slopes {
        1 => Some(shape.last().copied().unwrap_or(1).max(1)),
        _ => {
            let inner: usize = shape[2..].iter().product();
            (shape.len() > 2).then_some(inner)
        }
    }
}

compiled!(Prelu: 2);

impl Operation<2> for Prelu {
    type Kept = ();

    fn forward<F: Real>(&self, [x, a]: [Array<F>; 2], _: bool) -> (Array<F>, ()) {
        let shape = x.shape();
        let (x, a) = (x.values(), a.values());
        let mut y = memory::room(x.len());
        match run(&shape, a.len()) {
            Some(width) => {
                for_each_row(
                    &mut y,
                    width,
                    #[inline(always)]
                    |row, y| {
                        let a = a[row % a.len()];
                        for (y, &x) in y.iter_mut().zip(&x[row * width..]) {
                            *y = value(x, a);
                        }
                    },
                );
            }
            None => {
                for_each_row(
                    &mut y,
                    a.len(),
                    #[inline(always)]
                    |row, y| {
                        let given = x[row * a.len()..].iter().zip(a);
                        for (y, (&x, &a)) in y.iter_mut().zip(given) {
                            *y = value(x, a);
                        }
                    },
                );
            }
        }
        (Array::new(y, &shape), ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), 2>) -> [Option<Array<F>>; 2] {
        let Saved { inputs, grad, .. } = saved;
        let [Some(x), Some(a)] = inputs else {
            return [None, None];
        };
        let (shape, count) = (x.shape(), a.shape());
        let (x, a, g) = (x.values(), a.values(), grad.values());
        let mut dx = memory::room(x.len());
        let da = match run(&shape, a.len()) {
            Some(width) => {
                let sums = for_each_row(
                    &mut dx,
                    width,
                    #[inline(always)]
                    |row, dx| {
                        let a = a[row % a.len()];
                        let given = x[row * width..].iter().zip(&g[row * width..]);
                        let mut sum = 0.0;
                        for (dx, (&x, &g)) in dx.iter_mut().zip(given) {
                            *dx = slope(x, a, g);
                            sum += term(x, g).wide();
                        }
                        sum
                    },
                );
                let mut da = vec![0.0; a.len()];
                for (row, sum) in sums.iter().enumerate() {
                    da[row % a.len()] += sum;
                }
                da.into_iter().map(F::of).collect()
            }
            None => {
                let terms = grad.clone().updated(
                    [x],
                    #[inline(always)]
                    |g, [x]| term(x, g),
                );
                for_each_row(
                    &mut dx,
                    a.len(),
                    #[inline(always)]
                    |row, dx| {
                        let at = row * a.len();
                        let given = x[at..].iter().zip(&g[at..]).zip(a);
                        for (dx, ((&x, &g), &a)) in dx.iter_mut().zip(given) {
                            *dx = slope(x, a, g);
                        }
                    },
                );
                column_sums(terms.values(), a.len())
            }
        };
        [Some(Array::new(dx, &shape)), Some(Array::new(da, &count))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::PReluConfig;
    use burn::tensor::{DType, Device, Distribution, Tolerance};

    fn compare<const D: usize>(shape: [usize; D], slopes: usize) {
        let device = Device::flex().autodiff();
        let layer = PReluConfig::new()
            .with_num_parameters(slopes)
            .with_alpha(0.3)
            .init(&device);
        let random = || Tensor::<D>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (x, weights) = (random().require_grad(), random());
        let near = Tolerance::<f32>::relative(1e-5).set_absolute(1e-5);
        let (found, burns) = (prelu(&layer, x.clone()), layer.forward(x.clone()));
        found.to_data().assert_approx_eq(&burns.to_data(), near);
        let [grads, expected] = [found, burns].map(|y| (y * weights.clone()).sum().backward());
        let of_x = [&grads, &expected].map(|g| x.grad(g).unwrap().into_data());
        of_x[0].assert_approx_eq(&of_x[1], near);
        let of_a = [&grads, &expected].map(|g| layer.alpha.val().grad(g).unwrap().into_data());
        // Sums of thousands of terms.
        of_a[0].assert_approx_eq(
            &of_a[1],
            Tolerance::<f32>::relative(1e-4).set_absolute(1e-2),
        );
    }

    #[test]
    fn values_and_gradients_are_burns() {
        compare([3, 5], 1);
        compare([40, 5], 5);
        compare([2, 3, 700], 3);
        compare([4, 6, 30, 31], 6);
        compare([4, 6, 30, 31], 1);
        compare([0, 3, 4], 3);
    }

    /// In f64, by central differences.
    #[test]
    fn the_gradient_by_a_slope_is_its_difference() {
        let device = Device::flex().autodiff();
        let values = [-2.0, 1.0, -0.5, 3.0, -1.5, -0.25];
        let x = Tensor::<1>::from_data(values.as_slice(), (&device, DType::F64));
        let x: Tensor<3> = x.reshape([1, 2, 3]);
        let at = |slope: f64| {
            let slopes = Tensor::<1>::from_data([slope, 0.5].as_slice(), (&device, DType::F64));
            let slopes = slopes.require_grad();
            let y: Tensor<3> = binary(Prelu, x.clone(), slopes.clone());
            (y.clone().square().sum(), slopes)
        };
        let (loss, slopes) = at(0.3);
        let found: Vec<f64> = slopes
            .grad(&loss.backward())
            .unwrap()
            .into_data()
            .try_to_vec()
            .unwrap();
        let loss = |slope| at(slope).0.into_scalar::<f64>();
        let expected = (loss(0.3 + 1e-5) - loss(0.3 - 1e-5)) / 2e-5;
        assert!(
            (found[0] - expected).abs() < 1e-8,
            "{} {expected}",
            found[0]
        );
    }
}
