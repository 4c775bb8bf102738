//! Functions on a torus by their Fourier coefficients.

use std::f64::consts::PI;

use rustfft::num_complex::Complex64;

use super::BarronError;

/// The box `[0, 1]^dims`, and what holds at its borders.
///
/// Frequencies are `ω = 2π k` for whole numbers `k` if the borders are periodic. A function that is zero at the borders is
/// continued to twice the side, odd in every coordinate, and its frequencies are `ω = π k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// `d`, at least 1.
    pub dims: usize,
    /// At its borders.
    pub borders: Borders,
}

/// What holds at the borders of a [`Domain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Borders {
    /// Opposite borders are one.
    Periodic,
    /// Functions are zero there.
    Zero,
}

impl Domain {
    /// With periodic borders.
    pub fn periodic(dims: usize) -> Self {
        Self {
            dims,
            borders: Borders::Periodic,
        }
    }

    /// For functions that are zero at the borders.
    pub fn zero_at_borders(dims: usize) -> Self {
        Self {
            dims,
            borders: Borders::Zero,
        }
    }

    /// `ω` of `k = 1`.
    pub fn unit_frequency(self) -> f64 {
        match self.borders {
            Borders::Periodic => 2.0 * PI,
            Borders::Zero => PI,
        }
    }

    /// The least `‖ω‖²` of a function without mean that the borders allow.
    pub fn least_square(self) -> f64 {
        match self.borders {
            Borders::Periodic => self.unit_frequency().powi(2),
            // Odd in every coordinate: no number of k is 0.
            Borders::Zero => self.dims as f64 * self.unit_frequency().powi(2),
        }
    }
}

/// A real function on a [`Domain`], held by its Fourier coefficients `û`:
///
/// ```text
/// u(x) = Σ_ω û_ω e^{iω·x},     û_{−ω} = conj û_ω
/// ```
///
/// Norms are means over a period, which for odd continuations are integrals over `[0, 1]^d` as well.
pub trait Spectral: Clone {
    /// Where it lives.
    fn domain(&self) -> Domain;

    /// The function 0, held in the same way.
    fn zero(&self) -> Self;

    /// `u + factor · v`.
    ///
    /// # Errors
    /// If they live elsewhere, or have too many frequencies together.
    fn plus(&self, factor: f64, other: &Self) -> Result<Self, BarronError>;

    /// `u v`.
    ///
    /// # Errors
    /// If they live elsewhere, or have too many frequencies together.
    fn times(&self, other: &Self) -> Result<Self, BarronError>;

    /// `û_ω ↦ symbol(ω) û_ω`, for a symbol with `symbol(−ω) = conj symbol(ω)`.
    fn multiplied(&self, symbol: &dyn Fn(&[f64]) -> Complex64) -> Self;

    /// What remains without the coefficients below `least`, and what was left out.
    fn pruned(self, least: f64) -> (Self, Self);

    /// All frequencies `ω` with a coefficient that isn't 0, both of each pair `±ω`, always in the same order.
    fn visit(&self, each: &mut dyn FnMut(&[f64], Complex64));

    /// The mean of `u v`.
    ///
    /// # Errors
    /// If they live elsewhere.
    fn inner(&self, other: &Self) -> Result<f64, BarronError>;

    /// `u` with `−x_j` for `x_j`.
    fn reflected(&self, direction: usize) -> Self;

    /// `factor · u`.
    fn scaled(&self, factor: f64) -> Self {
        self.multiplied(&|_| factor.into())
    }

    /// `∂u / ∂x_j`.
    fn slope(&self, direction: usize) -> Self {
        self.multiplied(&|frequency| Complex64::new(0.0, frequency[direction]))
    }

    /// `∇u`.
    fn slopes(&self) -> Vec<Self> {
        (0..self.domain().dims).map(|j| self.slope(j)).collect()
    }

    /// How many coefficients are not 0.
    fn modes(&self) -> usize {
        let mut count = 0;
        self.visit(&mut |_, _| count += 1);
        count
    }

    /// `Σ_ω (1 + ‖ω‖)^order |û_ω|`: for the order 0 a bound of `|u|`, for 1 the Barron norm, and for 2 one that also bounds
    /// the Barron norms of the slopes.
    fn spectral_norm(&self, order: i32) -> f64 {
        let mut sum = 0.0;
        self.visit(&mut |frequency, coefficient| {
            sum += (1.0 + square(frequency).sqrt()).powi(order) * coefficient.norm();
        });
        sum
    }

    /// `Σ_ω (1 + ‖ω‖) |û_ω|`, the Barron norm.
    fn barron_norm(&self) -> f64 {
        self.spectral_norm(1)
    }

    /// The root of the mean of `u²`.
    fn l2_norm(&self) -> f64 {
        let mut sum = 0.0;
        self.visit(&mut |_, coefficient| sum += coefficient.norm_sqr());
        sum.sqrt()
    }

    /// The root of the mean of `u² + ‖∇u‖²`.
    fn h1_norm(&self) -> f64 {
        let mut sum = 0.0;
        self.visit(&mut |frequency, coefficient| {
            sum += (1.0 + square(frequency)) * coefficient.norm_sqr();
        });
        sum.sqrt()
    }

    /// The mean of `u`.
    fn mean(&self) -> f64 {
        let mut mean = 0.0;
        self.visit(&mut |frequency, coefficient| {
            if frequency.iter().all(|&w| w == 0.0) {
                mean = coefficient.re;
            }
        });
        mean
    }
}

/// `‖ω‖²`.
pub(super) fn square(frequency: &[f64]) -> f64 {
    frequency.iter().map(|w| w * w).sum()
}
