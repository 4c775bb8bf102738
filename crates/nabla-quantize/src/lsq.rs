//! LSQ: rounding to a grid of few numbers, whose step size is learned.
//!
//! ```text
//! u = x/s,    v = round(clamp(u, Q_n, Q_p)),    x̂ = s v
//! ∂x̂/∂x = 1 if Q_n < u < Q_p, else 0             the rounding counts as the identity
//! ∂x̂/∂s = v − u within, else Q_n or Q_p           times γ = 1/√(Q_p · numbers of x)
//! s at the start = 2 mean|x|/√Q_p
//! ```
//!
//! With `b` bits, `[Q_n, Q_p]` is `[−2^(b−1), 2^(b−1) − 1]` for weights and `[0, 2^b − 1]` for what a rectified unit has
//! made. Halves are rounded to the even neighbour.
//!
//! Here a tensor is represented by its integers `v`, as numbers of floating point, and its step size, so that a layer can
//! multiply the integers, which is exact, and scale the result.
//!
//! Source: Esser, McKinstry, Bablani, Appuswamy, Modha, *Learned Step Size Quantization*, 2020, arXiv 1902.08153.

use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

/// The smallest step size. One that has fallen below counts as this, with its gradient.
pub const SMALLEST: f64 = 1e-6;

/// The integers of a grid, `Q_n` to `Q_p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Described", into = "Described")]
pub struct Levels {
    bits: u32,
    signed: bool,
}

/// A grid in a file.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    bits: u32,
    signed: bool,
}

impl TryFrom<Described> for Levels {
    type Error = OutOfRange;

    fn try_from(Described { bits, signed }: Described) -> Result<Self, OutOfRange> {
        match signed {
            true => Self::signed(bits),
            false => Self::unsigned(bits),
        }
    }
}

impl From<Levels> for Described {
    fn from(Levels { bits, signed }: Levels) -> Self {
        Self { bits, signed }
    }
}

impl Levels {
    /// `−2^(bits−1)` to `2^(bits−1) − 1`.
    ///
    /// # Errors
    /// Unless `bits` is from 2 to 8.
    pub fn signed(bits: u32) -> Result<Self, OutOfRange> {
        range::within("number of bits", bits, 2..=8)?;
        Ok(Self { bits, signed: true })
    }

    /// `0` to `2^bits − 1`.
    ///
    /// # Errors
    /// Unless `bits` is from 1 to 8.
    pub fn unsigned(bits: u32) -> Result<Self, OutOfRange> {
        range::within("number of bits", bits, 1..=8)?;
        Ok(Self {
            bits,
            signed: false,
        })
    }

    /// The bits of one number.
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// `Q_n`.
    pub fn low(self) -> i32 {
        if self.signed {
            -(1 << (self.bits - 1))
        } else {
            0
        }
    }

    /// `Q_p`.
    pub fn high(self) -> i32 {
        self.low() + (1 << self.bits) - 1
    }

    /// The largest magnitude.
    pub fn largest(self) -> i32 {
        self.high().max(-self.low())
    }

    /// The step size to start with, for numbers of this mean magnitude.
    pub fn first_step(self, mean_magnitude: f64) -> f64 {
        2.0 * mean_magnitude / f64::from(self.high()).sqrt()
    }

    /// `γ`.
    ///
    /// - `numbers`: of the tensor that is rounded, all examples and channels together
    pub fn gradient_factor(self, numbers: usize) -> f64 {
        1.0 / (f64::from(self.high()) * numbers.max(1) as f64).sqrt()
    }
}

/// The step size as a pass has it: at least [`SMALLEST`], and with `γ` times its gradient.
pub fn step_of<const D: usize>(step: Tensor<D>, gradient_factor: f64) -> Tensor<D> {
    if !step.is_autodiff() {
        return step.clamp_min(SMALLEST);
    }
    // The value must be that without gradients, to the bit: nothing but 0 is added to it.
    let fixed = step.clone().detach();
    fixed.clone().clamp_min(SMALLEST) + (step - fixed) * gradient_factor
}

/// `v`, with the gradients of `x̂ = s v` when it is multiplied by `s`.
///
/// - `x`: of any shape
/// - `step`: `s`, positive, of the same shape, or with sizes of 1
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_quantize::{Levels, codes};
///
/// let device = Device::flex();
/// let x = Tensor::<1>::from_floats([-1.0, -0.3, 0.24, 0.26, 2.0], &device);
/// let v = codes(x, Tensor::from_floats([0.5], &device), Levels::signed(3)?);
/// assert_eq!(v.into_data().try_to_vec::<f32>().unwrap(), [-2.0, -1.0, 0.0, 1.0, 3.0]);
/// # Ok::<(), nabla_base::range::OutOfRange>(())
/// ```
pub fn codes<const D: usize>(x: Tensor<D>, step: Tensor<D>, levels: Levels) -> Tensor<D> {
    let [low, high] = [levels.low(), levels.high()].map(f64::from);
    let u = x / step;
    // Not `clamp`: on the border, such as for the zeros of a rectified unit, the gradient is 0.
    let (below, beyond) = (
        u.clone().lower_equal_elem(low),
        u.clone().greater_equal_elem(high),
    );
    let within = u.mask_fill(below, low).mask_fill(beyond, high);
    if !within.is_autodiff() {
        return within.round();
    }
    // Exact: the difference to a neighbouring integer has no more digits than the number.
    let fixed = within.clone().detach();
    within + (fixed.clone().round() - fixed)
}

#[cfg(test)]
mod tests;
