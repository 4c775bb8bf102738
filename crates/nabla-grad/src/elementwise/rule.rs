//! Rules that are written once, for the numbers of a fused pass and for whole tensors.
//!
//! [`Kernel`] is fast, but knows only `f32`s of the CPU backend; other devices and precisions need Burn's
//! operations. A [`Rule`] is written over any [`Real`], and [`step`] runs it in one pass where that is
//! possible and with Burn's operations where it is not.

use std::ops::{Add, Div, Mul, Sub};

use burn::tensor::{Float, Tensor, activation};

use super::{Dense, Kernel, sigmoid, update};

/// A number that is the same for all elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constant {
    /// Rounded once, outside of the loop over the elements.
    single: f32,
    double: f64,
}

impl From<f64> for Constant {
    fn from(x: f64) -> Self {
        Self {
            single: x as f32,
            double: x,
        }
    }
}

/// What the rules of optimizers compute with: numbers, or tensors of them.
pub trait Real:
    Clone
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Add<Constant, Output = Self>
    + Sub<Constant, Output = Self>
    + Mul<Constant, Output = Self>
{
    /// `x²`.
    fn square(self) -> Self;
    /// `√x`.
    fn sqrt(self) -> Self;
    /// `|x|`.
    fn abs(self) -> Self;
    /// `1/(1 + e⁻ˣ)`.
    fn sigmoid(self) -> Self;
    /// The greater one of `self` and `other`.
    fn greater(self, other: Self) -> Self;
    /// `self`, or `least` where it is below that.
    fn at_least(self, least: Constant) -> Self;
    /// `self`, or 0 where one of `a` and `b` is negative and the other isn't.
    fn where_signs_agree(self, a: Self, b: Self) -> Self;
}

macro_rules! number {
    ($number:ty, $of:ident, $sigmoid:expr) => {
        impl Add<Constant> for $number {
            type Output = Self;

            #[inline(always)]
            fn add(self, constant: Constant) -> Self {
                self + constant.$of
            }
        }

        impl Sub<Constant> for $number {
            type Output = Self;

            #[inline(always)]
            fn sub(self, constant: Constant) -> Self {
                self - constant.$of
            }
        }

        impl Mul<Constant> for $number {
            type Output = Self;

            #[inline(always)]
            fn mul(self, constant: Constant) -> Self {
                self * constant.$of
            }
        }

        impl Real for $number {
            #[inline(always)]
            fn square(self) -> Self {
                self * self
            }

            #[inline(always)]
            fn sqrt(self) -> Self {
                <$number>::sqrt(self)
            }

            #[inline(always)]
            fn abs(self) -> Self {
                <$number>::abs(self)
            }

            #[inline(always)]
            fn sigmoid(self) -> Self {
                $sigmoid(self)
            }

            #[inline(always)]
            fn greater(self, other: Self) -> Self {
                self.max(other)
            }

            #[inline(always)]
            fn at_least(self, least: Constant) -> Self {
                self.max(least.$of)
            }

            #[inline(always)]
            fn where_signs_agree(self, a: Self, b: Self) -> Self {
                if (a >= 0.0) == (b >= 0.0) { self } else { 0.0 }
            }
        }
    };
}

number!(f32, single, sigmoid);
number!(f64, double, |x: f64| 1.0 / (1.0 + (-x).exp()));

impl<const D: usize> Add<Constant> for Tensor<D> {
    type Output = Self;

    fn add(self, constant: Constant) -> Self {
        self.add_scalar(constant.double)
    }
}

impl<const D: usize> Sub<Constant> for Tensor<D> {
    type Output = Self;

    fn sub(self, constant: Constant) -> Self {
        self.sub_scalar(constant.double)
    }
}

impl<const D: usize> Mul<Constant> for Tensor<D> {
    type Output = Self;

    fn mul(self, constant: Constant) -> Self {
        self.mul_scalar(constant.double)
    }
}

impl<const D: usize> Real for Tensor<D> {
    fn square(self) -> Self {
        Tensor::<D, Float>::square(self)
    }

    fn sqrt(self) -> Self {
        Tensor::<D, Float>::sqrt(self)
    }

    fn abs(self) -> Self {
        Tensor::<D, Float>::abs(self)
    }

    fn sigmoid(self) -> Self {
        activation::sigmoid(self)
    }

    fn greater(self, other: Self) -> Self {
        self.max_pair(other)
    }

    fn at_least(self, least: Constant) -> Self {
        self.clamp_min(least.double)
    }

    fn where_signs_agree(self, a: Self, b: Self) -> Self {
        let differ = a
            .greater_equal_scalar(0.0)
            .not_equal(b.greater_equal_scalar(0.0));
        self.mask_fill(differ, 0.0)
    }
}

/// A function of the values at one position of several tensors, for any [`Real`].
///
/// Mark `apply` `#[inline(always)]`, as that of a [`Kernel`].
pub trait Rule<const W: usize, const R: usize>: Sync {
    /// Computes the new values of `written`.
    fn apply<N: Real>(&self, written: [N; W], read: [N; R]) -> [N; W];
}

/// The numbers of a rule in one pass.
struct Fused<'a, T>(&'a T);

impl<T: Rule<W, R>, const W: usize, const R: usize> Kernel<W, R, 0> for Fused<'_, T> {
    #[inline(always)]
    fn apply(&self, written: [f32; W], read: [f32; R], _: f32) -> ([f32; W], [f32; 0]) {
        (self.0.apply(written, read), [])
    }
}

/// Applies `rule` to tensors of one shape: in one pass and in place if they are `f32`s of the CPU backend
/// that no autodiff tracks, else with Burn's operations.
///
/// # Panics
/// If the tensors differ in their number of elements.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::elementwise::{Constant, Real, Rule, step};
///
/// /// `m ← β m + g; w ← w − η m`.
/// struct Momentum {
///     beta: Constant,
///     rate: Constant,
/// }
///
/// impl Rule<2, 1> for Momentum {
///     #[inline(always)]
///     fn apply<N: Real>(&self, [w, m]: [N; 2], [g]: [N; 1]) -> [N; 2] {
///         let m = m * self.beta + g;
///         [w - m.clone() * self.rate, m]
///     }
/// }
///
/// let rule = Momentum { beta: 0.5.into(), rate: 0.25.into() };
/// let ones = || Tensor::<1>::ones([3], &Device::flex());
/// let [w, m] = step(&rule, [ones(), ones()], [ones()]);
/// assert_eq!(w.to_data(), (ones() * 0.625).to_data());
/// assert_eq!(m.to_data(), (ones() * 1.5).to_data());
/// ```
pub fn step<const D: usize, const W: usize, const R: usize>(
    rule: &impl Rule<W, R>,
    written: [Tensor<D>; W],
    read: [Tensor<D>; R],
) -> [Tensor<D>; W] {
    let mut written = match Dense::take_all(written) {
        Ok(written) => written,
        Err(written) => return rule.apply(written, read),
    };
    match Dense::take_all(read) {
        Ok(read) => {
            update(&Fused(rule), written.each_mut(), read.each_ref());
            written.map(Dense::into_tensor)
        }
        Err(read) => rule.apply(written.map(Dense::into_tensor), read),
    }
}
