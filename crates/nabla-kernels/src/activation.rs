//! Activation functions, forward and backward, each in one pass over memory.
//!
//! Burn composes most of them, and their gradients, of operations on whole tensors, and calls the exponential
//! function once for each number. Here the exponential is a polynomial that the compiler vectorises, and the
//! gradient of a function that its value determines (such as that of `tanh`) keeps no input.

use burn::tensor::Tensor;
use burn::tensor::activation as burns;

use crate::elementwise::for_each_row;
use crate::linear_pieces;
use crate::memory;
use crate::operation::{Array, Operation, Saved, compiled, computes, unary};
use crate::real::Real;

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x`, or `slope · x` where it is negative.
    LeakyRelu {
        /// The factor of negative numbers.
        slope: f64,
    },
    /// `x`, or `alpha (eˣ − 1)` where it is negative.
    Elu {
        /// The limit is `−alpha`.
        alpha: f64,
    },
    /// `x Φ(x)` with the distribution function Φ of the normal distribution.
    Gelu,
    /// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `x · sigmoid(x)`.
    Silu,
    /// `1/(1 + e⁻ˣ)`.
    Sigmoid,
    /// `tanh x`.
    Tanh,
    /// `ln(1 + eˣ)`.
    Softplus,
    /// `x tanh(ln(1 + eˣ))`.
    Mish,
}

impl Activation {
    /// Computes the function of each element.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_kernels::activation::Activation;
    ///
    /// let x = Tensor::<1>::from_floats([-1.0, 2.0], &Device::flex());
    /// let y = Activation::Relu.forward(x);
    /// assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [0.0, 2.0]);
    /// ```
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        if matches!(self, Self::Relu) && linear_pieces::is_held() {
            return linear_pieces::relu(x);
        }
        if computes(&x) {
            return unary(self, x);
        }
        match self {
            Self::Relu => burns::relu(x),
            Self::LeakyRelu { slope } => burns::leaky_relu(x, slope),
            Self::Elu { alpha } => burns::elu(x, alpha),
            Self::Gelu => burns::gelu(x),
            Self::GeluTanh => burns::gelu_approximate(x),
            Self::Silu => burns::silu(x),
            Self::Sigmoid => burns::sigmoid(x),
            Self::Tanh => burns::tanh(x),
            Self::Softplus => burns::softplus(x, 1.0),
            Self::Mish => burns::mish(x),
        }
    }

    /// Whether the gradient follows from the value.
    fn by_value(self) -> bool {
        match self {
            Self::Relu | Self::Sigmoid | Self::Tanh => true,
            // For a negative factor, the value doesn't tell the sign.
            Self::LeakyRelu { slope } => slope > 0.0,
            Self::Elu { alpha } => alpha > 0.0,
            _ => false,
        }
    }
}

/// [`Activation::Relu`] of each element.
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Activation::Relu.forward(x)
}

/// [`Activation::Gelu`] of each element.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Activation::Gelu.forward(x)
}

/// [`Activation::Silu`] of each element.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Activation::Silu.forward(x)
}

/// [`Activation::Sigmoid`] of each element.
pub fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Activation::Sigmoid.forward(x)
}

/// [`Activation::Tanh`] of each element.
pub fn tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Activation::Tanh.forward(x)
}

/// `a · gelu(b)`, with `a` and `b` the halves of the last dimension: what follows a gated linear layer (GEGLU).
///
/// - `x`: `[…, 2 n]`
/// - returns `[…, n]`
pub fn geglu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if computes(&x) && x.dims()[D - 1].is_multiple_of(2) {
        return unary(Geglu, x);
    }
    let n = x.dims()[D - 1] / 2;
    let value = x.clone().slice_dim(D - 1, 0..n);
    value * burns::gelu(x.slice_dim(D - 1, n..2 * n))
}

/// `max(u, 0)`; NaN stays.
#[inline(always)]
pub(crate) fn rectified<F: Real>(u: F) -> F {
    if u < F::ZERO { F::ZERO } else { u }
}

/// The gradient `g` by `max(u, 0)`, by `u` or from the value.
#[inline(always)]
pub(crate) fn rectified_slope<F: Real>(u: F, g: F) -> F {
    if u <= F::ZERO { F::ZERO } else { g }
}

/// `u · sigmoid(u)`.
#[inline(always)]
pub(crate) fn silu_of<F: Real>(u: F) -> F {
    u * u.sigmoid()
}

/// The derivative of [`silu_of`].
#[inline(always)]
pub(crate) fn silu_slope<F: Real>(u: F) -> F {
    let s = u.sigmoid();
    s * (F::ONE + u * (F::ONE - s))
}

/// `u Φ(u)`.
#[inline(always)]
pub(crate) fn gelu_of<F: Real>(u: F) -> F {
    u * u.normal_distribution()
}

/// The derivative of [`gelu_of`].
#[inline(always)]
fn gelu_slope<F: Real>(u: F) -> F {
    u.normal_distribution() + u * density(u)
}

/// `√(2/π)`.
const ROOT: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;

/// The density of the normal distribution.
#[inline(always)]
fn density<F: Real>(x: F) -> F {
    F::of(0.5 * ROOT) * (-(x * x) * F::of(0.5)).exp()
}

/// `u` with `gelu(x) = x (1 + tanh u)/2`, nearly, and its derivative.
#[inline(always)]
fn inner<F: Real>(x: F) -> (F, F) {
    let (root, cubic) = (F::of(ROOT), F::of(0.044715));
    let square = x * x;
    (
        root * (x + cubic * square * x),
        root * (F::ONE + F::of(3.0) * cubic * square),
    )
}

/// `ln(1 + eˣ)`, without overflow.
#[inline(always)]
fn softplus<F: Real>(x: F) -> F {
    if x.is_not_a_number() || x == F::of(f64::INFINITY) {
        return x;
    }
    let (positive, magnitude) = if x > F::ZERO { (x, x) } else { (F::ZERO, -x) };
    let small = (-magnitude).exp();
    // Where 1 + e⁻ˣ is rounded to 1, the series.
    let tail = if small < F::of(1e-4) {
        small * (F::ONE - small * F::of(0.5))
    } else {
        (F::ONE + small).ln()
    };
    positive + tail
}

compiled!(Activation: 1);

impl Operation<1> for Activation {
    type Kept = ();

    fn reads(&self) -> [bool; 1] {
        [!self.by_value()]
    }

    fn reads_output(&self) -> bool {
        self.by_value()
    }

    fn forward<F: Real>(&self, [x]: [Array<F>; 1], _: bool) -> (Array<F>, ()) {
        let y = match *self {
            Self::Relu => x.updated(
                [],
                #[inline(always)]
                |x, []| rectified(x),
            ),
            Self::LeakyRelu { slope } => {
                let slope = F::of(slope);
                x.updated(
                    [],
                    #[inline(always)]
                    |x, []| if x < F::ZERO { slope * x } else { x },
                )
            }
            Self::Elu { alpha } => {
                let alpha = F::of(alpha);
                x.updated(
                    [],
                    #[inline(always)]
                    |x, []| {
                        if x < F::ZERO {
                            alpha * (x.exp() - F::ONE)
                        } else {
                            x
                        }
                    },
                )
            }
            Self::Gelu => x.updated(
                [],
                #[inline(always)]
                |x, []| gelu_of(x),
            ),
            Self::GeluTanh => x.updated(
                [],
                #[inline(always)]
                |x, []| x * F::of(0.5) * (F::ONE + inner(x).0.tanh()),
            ),
            Self::Silu => x.updated(
                [],
                #[inline(always)]
                |x, []| silu_of(x),
            ),
            Self::Sigmoid => x.updated(
                [],
                #[inline(always)]
                |x, []| x.sigmoid(),
            ),
            Self::Tanh => x.updated(
                [],
                #[inline(always)]
                |x, []| x.tanh(),
            ),
            Self::Softplus => x.updated(
                [],
                #[inline(always)]
                |x, []| softplus(x),
            ),
            Self::Mish => x.updated(
                [],
                #[inline(always)]
                |x, []| x * softplus(x).tanh(),
            ),
        };
        (y, ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), 1>) -> [Option<Array<F>>; 1] {
        let Saved {
            inputs: [input],
            output,
            grad,
            ..
        } = saved;
        let Some(known) = input.or(output) else {
            return [None];
        };
        let known = [known.values()];
        let dx = match *self {
            Self::Relu => grad.updated(
                known,
                #[inline(always)]
                |g, [y]| rectified_slope(y, g),
            ),
            Self::LeakyRelu { slope } => {
                let slope = F::of(slope);
                grad.updated(
                    known,
                    #[inline(always)]
                    |g, [y]| if y > F::ZERO { g } else { slope * g },
                )
            }
            Self::Elu { alpha } if alpha > 0.0 => {
                let alpha = F::of(alpha);
                grad.updated(
                    known,
                    #[inline(always)]
                    |g, [y]| {
                        if y <= F::ZERO { g * (y + alpha) } else { g }
                    },
                )
            }
            Self::Elu { alpha } => {
                let alpha = F::of(alpha);
                grad.updated(
                    known,
                    #[inline(always)]
                    |g, [x]| {
                        if x <= F::ZERO { g * alpha * x.exp() } else { g }
                    },
                )
            }
            Self::Gelu => grad.updated(
                known,
                #[inline(always)]
                |g, [x]| g * gelu_slope(x),
            ),
            Self::GeluTanh => grad.updated(
                known,
                #[inline(always)]
                |g, [x]| {
                    let (u, du) = inner(x);
                    let t = u.tanh();
                    g * F::of(0.5) * (F::ONE + t + x * (F::ONE - t * t) * du)
                },
            ),
            Self::Silu => grad.updated(
                known,
                #[inline(always)]
                |g, [x]| g * silu_slope(x),
            ),
            Self::Sigmoid => grad.updated(
                known,
                #[inline(always)]
                |g, [y]| g * y * (F::ONE - y),
            ),
            Self::Tanh => grad.updated(
                known,
                #[inline(always)]
                |g, [y]| g * (F::ONE - y * y),
            ),
            Self::Softplus => grad.updated(
                known,
                #[inline(always)]
                |g, [x]| g * x.sigmoid(),
            ),
            Self::Mish => grad.updated(
                known,
                #[inline(always)]
                |g, [x]| {
                    let t = softplus(x).tanh();
                    g * (t + x * (F::ONE - t * t) * x.sigmoid())
                },
            ),
        };
        [Some(dx)]
    }
}

/// [`geglu`].
#[derive(Clone, Copy, Debug)]
struct Geglu;

compiled!(Geglu: 1);

impl Operation<1> for Geglu {
    type Kept = ();

    fn forward<F: Real>(&self, [x]: [Array<F>; 1], _: bool) -> (Array<F>, ()) {
        let mut shape = x.shape();
        let last = shape.len() - 1;
        shape[last] /= 2;
        let n = shape[last];
        let mut y = memory::room(x.values().len() / 2);
        let values = x.values();
        for_each_row(
            &mut y,
            n,
            #[inline(always)]
            |row, y| {
                let (values, gates) = values[row * 2 * n..(row + 1) * 2 * n].split_at(n);
                for ((y, &v), &g) in y.iter_mut().zip(values).zip(gates) {
                    *y = v * gelu_of(g);
                }
            },
        );
        (Array::new(y, &shape), ())
    }

    fn backward<F: Real>(&self, saved: Saved<'_, F, (), 1>) -> [Option<Array<F>>; 1] {
        let Saved {
            inputs: [input],
            grad,
            ..
        } = saved;
        let Some(x) = input else { return [None] };
        let shape = x.shape();
        let n = shape[shape.len() - 1] / 2;
        let mut dx = memory::room(x.values().len());
        let (x, grad) = (x.values(), grad.values());
        for_each_row(
            &mut dx,
            2 * n,
            #[inline(always)]
            |row, dx| {
                let (values, gates) = x[row * 2 * n..(row + 1) * 2 * n].split_at(n);
                let (dv, dg) = dx.split_at_mut(n);
                let grad = &grad[row * n..(row + 1) * n];
                let given = values.iter().zip(gates).zip(grad);
                for ((dv, dg), ((&v, &gate), &grad)) in dv.iter_mut().zip(dg).zip(given) {
                    *dv = grad * gelu_of(gate);
                    *dg = grad * v * gelu_slope(gate);
                }
            },
        );
        [Some(Array::new(dx, &shape))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, Tolerance};

    const ALL: [Activation; 10] = [
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Elu { alpha: 1.3 },
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Softplus,
        Activation::Mish,
    ];

    /// From -12 to 12, and some large ones; not 0, where some have no derivative.
    fn places(device: &Device) -> Tensor<2> {
        let mut values: Vec<f64> = (0..240).map(|i| (f64::from(i) - 119.5) / 10.0).collect();
        values.extend([-80.0, -30.0, 30.0, 80.0, 1e-4, -1e-4]);
        Tensor::<1>::from_data(values.as_slice(), (device, DType::F64)).reshape([2, -1])
    }

    #[test]
    fn values_and_gradients_are_burns() {
        let device = Device::flex().autodiff();
        let x = places(&device).require_grad();
        for activation in ALL {
            // Burn's own, on numbers that the kernels leave to it.
            let burns = match activation {
                Activation::Relu => burns::relu(x.clone()),
                Activation::LeakyRelu { slope } => burns::leaky_relu(x.clone(), slope),
                Activation::Elu { alpha } => burns::elu(x.clone(), alpha),
                Activation::Gelu => burns::gelu(x.clone()),
                Activation::GeluTanh => burns::gelu_approximate(x.clone()),
                Activation::Silu => burns::silu(x.clone()),
                Activation::Sigmoid => burns::sigmoid(x.clone()),
                Activation::Tanh => burns::tanh(x.clone()),
                Activation::Softplus => burns::softplus(x.clone(), 1.0),
                Activation::Mish => burns::mish(x.clone()),
            };
            let found = activation.forward(x.clone());
            let near = Tolerance::<f64>::absolute(2e-7).set_relative(1e-6);
            found.to_data().assert_approx_eq(&burns.to_data(), near);
            let expected = x.grad(&burns.sum().backward()).unwrap();
            let grad = x.grad(&found.sum().backward()).unwrap();
            grad.into_data()
                .assert_approx_eq(&expected.into_data(), near);
        }
    }

    /// The gradient is the central difference of the value.
    #[test]
    fn gradients_are_differences() {
        const STEP: f64 = 1e-5;
        let device = Device::flex().autodiff();
        let x = places(&device).require_grad();
        for activation in ALL {
            let grad = x.grad(&activation.forward(x.clone()).sum().backward());
            let at = |step: f64| activation.forward(x.clone().inner() + step);
            let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let near = Tolerance::<f64>::absolute(1e-8);
            grad.unwrap()
                .into_data()
                .assert_approx_eq(&difference.into_data(), near);
        }
    }

    #[test]
    fn single_precision_is_near_double() {
        let device = Device::flex();
        let x = places(&device);
        for activation in ALL {
            let double = activation.forward(x.clone());
            let single = activation
                .forward(x.clone().cast(DType::F32))
                .cast(DType::F64);
            let near = Tolerance::<f64>::absolute(1e-6).set_relative(4e-6);
            single
                .into_data()
                .assert_approx_eq(&double.into_data(), near);
        }
    }

    /// Far from zero, where a sum with 1 would round it away.
    #[test]
    fn tails_are_kept() {
        let device = Device::flex();
        for (x, activation, expected) in [
            (-20.0, Activation::Softplus, 2.061_153_6e-9),
            (-40.0, Activation::Softplus, 4.248_354_3e-18),
            (-20.0, Activation::Mish, -4.122_307_2e-8),
        ] {
            let single = activation.forward(Tensor::<1>::from_floats([x as f32], &device));
            let x = Tensor::<1>::from_data([x], (&device, DType::F64));
            for y in [single.cast(DType::F64), activation.forward(x)] {
                let y: f64 = y.into_data().iter().next().unwrap();
                assert!((y / expected - 1.0).abs() < 1e-5, "{y} {expected}");
            }
        }
    }

    #[test]
    fn nan_and_infinity_go_through() {
        let device = Device::flex();
        let x = Tensor::<1>::from_floats([f32::NAN, f32::INFINITY, f32::NEG_INFINITY], &device);
        for activation in ALL {
            let y: Vec<f32> = activation.forward(x.clone()).into_data().iter().collect();
            assert!(y[0].is_nan(), "{activation:?}: {y:?}");
            let limit = match activation {
                Activation::Sigmoid | Activation::Tanh => 1.0,
                _ => f32::INFINITY,
            };
            assert_eq!(y[1], limit, "{activation:?}");
        }
    }

    #[test]
    fn large_numbers_do_not_come_back() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_floats([-1e37, -1e4, 1e37], &device).require_grad();
        for activation in [Activation::Silu, Activation::Gelu, Activation::Mish] {
            let y = activation.forward(x.clone());
            let values: Vec<f32> = y.to_data().iter().collect();
            assert!(
                values[0].abs() < 1e-6 && values[1].abs() < 1e-6,
                "{activation:?}: {values:?}"
            );
            let grad: Vec<f32> = x
                .grad(&y.sum().backward())
                .unwrap()
                .into_data()
                .iter()
                .collect();
            assert!(
                grad[0].abs() < 1e-6 && (grad[2] - 1.0).abs() < 1e-6,
                "{activation:?}: {grad:?}"
            );
        }
    }

    #[test]
    fn geglu_is_burns() {
        let device = Device::flex().autodiff();
        let x = places(&device).require_grad();
        let n = x.dims()[1] / 2;
        let x = x.slice_dim(1, 0..2 * n).detach().require_grad();
        let burns = x.clone().slice_dim(1, 0..n) * burns::gelu(x.clone().slice_dim(1, n..2 * n));
        let found = geglu(x.clone());
        let near = Tolerance::<f64>::absolute(1e-6).set_relative(1e-6);
        found.to_data().assert_approx_eq(&burns.to_data(), near);
        let expected = x.grad(&burns.sum().backward()).unwrap();
        let grad = x.grad(&found.sum().backward()).unwrap();
        grad.into_data()
            .assert_approx_eq(&expected.into_data(), near);
    }
}
