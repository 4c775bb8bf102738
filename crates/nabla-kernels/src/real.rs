//! The number types that the loops are written for.

use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};
use std::sync::Mutex;

use burn::tensor::Element;
use bytemuck::Pod;
use faer::traits::ComplexField;
use pulp::{Arch, Scalar, Simd, WithSimd};

use crate::memory::Shelf;

/// `f32` or `f64`: a loop is written once for both, `f32` for work and `f64` for checking.
pub(crate) trait Real:
    Element
    + Pod
    + ComplexField
    + Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + Sum
    + 'static
{
    /// A vector register of these numbers.
    type Vector<S: Simd>: Copy;

    const ZERO: Self;
    const ONE: Self;

    /// Where arrays of these numbers wait.
    fn shelf() -> &'static Mutex<Shelf<Self>>;

    /// Runs `work` with the processor's widest vectors in `f32`. In `f64` it takes what every processor has: the loops
    /// are compiled once instead of once for each instruction set.
    fn dispatch<W: WithSimd>(work: W) -> W::Output;

    /// The numbers in a vector register.
    fn lanes<S: Simd>() -> usize;

    /// `value` in every lane.
    fn splat<S: Simd>(simd: S, value: Self) -> Self::Vector<S>;

    /// `values` as whole vectors and a rest.
    fn vectors<S: Simd>(values: &[Self]) -> (&[Self::Vector<S>], &[Self]);

    /// [`vectors`](Self::vectors), for writing.
    fn vectors_mut<S: Simd>(values: &mut [Self]) -> (&mut [Self::Vector<S>], &mut [Self]);

    /// Fewer values than a vector has, with zeros behind them.
    fn partial<S: Simd>(simd: S, values: &[Self]) -> Self::Vector<S>;

    /// `a b + c`, rounded once where the processor can.
    fn multiply_add<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;

    /// The sum of the lanes.
    fn total<S: Simd>(simd: S, vector: Self::Vector<S>) -> Self;

    fn of(value: f64) -> Self;
    fn wide(self) -> f64;
    fn exp(self) -> Self;
    fn tanh(self) -> Self;
    /// The distribution function of the normal distribution.
    fn normal_distribution(self) -> Self;
    fn ln(self) -> Self;
    fn is_not_a_number(self) -> bool;

    /// `1 / (1 + e⁻ˣ)`.
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::ONE / (Self::ONE + (-self).exp())
    }

    /// The larger of two numbers; NaN if one is NaN.
    #[inline(always)]
    fn or_larger(self, other: Self) -> Self {
        if other > self || other.is_not_a_number() {
            other
        } else {
            self
        }
    }
}

macro_rules! real {
    ($real:ty, $vector:ident, $lanes:ident, $splat:ident, $as_simd:ident, $as_mut_simd:ident,
     $partial:ident, $multiply_add:ident, $total:ident, $dispatch:expr, $exp:expr, $tanh:expr, $normal:expr) => {
        impl Real for $real {
            type Vector<S: Simd> = S::$vector;

            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;

            fn shelf() -> &'static Mutex<Shelf<Self>> {
                static SHELF: Mutex<Shelf<$real>> = Mutex::new(Shelf::new());
                &SHELF
            }

            #[inline(always)]
            fn dispatch<W: WithSimd>(work: W) -> W::Output {
                $dispatch(work)
            }

            #[inline(always)]
            fn lanes<S: Simd>() -> usize {
                S::$lanes
            }

            #[inline(always)]
            fn splat<S: Simd>(simd: S, value: Self) -> S::$vector {
                simd.$splat(value)
            }

            #[inline(always)]
            fn vectors<S: Simd>(values: &[Self]) -> (&[S::$vector], &[Self]) {
                S::$as_simd(values)
            }

            #[inline(always)]
            fn vectors_mut<S: Simd>(values: &mut [Self]) -> (&mut [S::$vector], &mut [Self]) {
                S::$as_mut_simd(values)
            }

            #[inline(always)]
            fn partial<S: Simd>(simd: S, values: &[Self]) -> S::$vector {
                simd.$partial(values)
            }

            #[inline(always)]
            fn multiply_add<S: Simd>(
                simd: S,
                a: S::$vector,
                b: S::$vector,
                c: S::$vector,
            ) -> S::$vector {
                simd.$multiply_add(a, b, c)
            }

            #[inline(always)]
            fn total<S: Simd>(simd: S, vector: S::$vector) -> Self {
                simd.$total(vector)
            }

            #[inline(always)]
            fn of(value: f64) -> Self {
                value as Self
            }

            #[inline(always)]
            fn wide(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn is_not_a_number(self) -> bool {
                <$real>::is_nan(self)
            }

            #[inline(always)]
            fn ln(self) -> Self {
                <$real>::ln(self)
            }

            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }

            #[inline(always)]
            fn tanh(self) -> Self {
                $tanh(self)
            }

            #[inline(always)]
            fn normal_distribution(self) -> Self {
                $normal(self)
            }
        }
    };
}

real!(
    f32,
    f32s,
    F32_LANES,
    splat_f32s,
    as_simd_f32s,
    as_mut_simd_f32s,
    partial_load_f32s,
    mul_add_e_f32s,
    reduce_sum_f32s,
    widest,
    exp,
    tanh,
    normal_distribution
);
real!(
    f64,
    f64s,
    F64_LANES,
    splat_f64s,
    as_simd_f64s,
    as_mut_simd_f64s,
    partial_load_f64s,
    mul_add_e_f64s,
    reduce_sum_f64s,
    plain,
    f64::exp,
    f64::tanh,
    |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
);

#[inline(always)]
fn widest<W: WithSimd>(work: W) -> W::Output {
    Arch::new().dispatch(work)
}

#[inline(always)]
fn plain<W: WithSimd>(work: W) -> W::Output {
    work.with_simd(Scalar::new())
}

/// `eˣ` to two units in the last place, 0 below −87 and infinite above 87: what multiplies a large number must vanish.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let y = nabla_grad::elementwise::exp(x);
    let y = if x < -87.0 { 0.0 } else { y };
    if x > 87.0 { f32::INFINITY } else { y }
}

/// `tanh x` to three units in the last place, without branches so that it vectorises.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let exponential = nabla_grad::elementwise::exp(2.0 * x.abs());
    let far = (1.0 - 2.0 / (exponential + 1.0)).copysign(x);
    // Near zero the difference cancels; there, the polynomial of Cephes' tanhf.
    let square = x * x;
    let mut p = -5.704_988_7e-3;
    for c in [2.063_909e-2, -5.373_971_5e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = p * square + c;
    }
    let near = p * square * x + x;
    if x.abs() < 0.625 { near } else { far }
}

/// The distribution function of the normal distribution, to 1.5e-7.
#[inline(always)]
fn normal_distribution(x: f32) -> f32 {
    // Abramowitz, Stegun, Handbook of Mathematical Functions, 7.1.26: erfc(z) = p(t) exp(-z²) to 1.5e-7.
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    for c in [-1.453_152_1, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        p = p * t + c;
    }
    let tail = 0.5 * p * t * nabla_grad::elementwise::exp(-z * z);
    if x < 0.0 { tail } else { 1.0 - tail }
}
