//! Euler and Maruyama's method, with Lamba's error estimate.
//!
//! ```text
//! u⁺ = u + h f + g ΔW
//! E_d = h (f(u + h f) − f(u)) / 2,   E_n = (g(u + h f + √h g) − g(u)) ΔW² / (2 √h)
//! ```

use burn::tensor::Tensor;

use super::step::{DriftError, Equation, Noise, Stepped};
use crate::field::Field;
use crate::solve_error::SolveError;

pub(super) fn step<F: Field, G: Field>(
    equation: &Equation<'_, F, G>,
    u: &Tensor<2>,
    time: f64,
    length: f64,
    noise: &Noise,
) -> Result<Stepped, SolveError> {
    let probe = Probe::new(equation, u, time, length)?;
    let squares = noise.increment.clone().square();
    let error = probe.drift_error + probe.change.clone() * squares * 0.5;
    Ok(Stepped {
        next: probe.moved + probe.noise * noise.increment.clone(),
        error,
        stiffness: Some(probe.stiffness),
    })
}

/// What both this method and Milstein's find.
pub(super) struct Probe {
    /// `u + h f`.
    pub(super) moved: Tensor<2>,
    /// `g(u)`.
    pub(super) noise: Tensor<2>,
    /// `(g(u + h f + √h g) − g(u)) / √h`, which is near `g ∂g/∂u`.
    pub(super) change: Tensor<2>,
    /// `E_d`.
    pub(super) drift_error: Tensor<2>,
    /// `f(u + h f) − f(u)` and `h f`.
    pub(super) stiffness: [Tensor<2>; 2],
}

impl Probe {
    pub(super) fn new<F: Field, G: Field>(
        equation: &Equation<'_, F, G>,
        u: &Tensor<2>,
        time: f64,
        length: f64,
    ) -> Result<Self, SolveError> {
        let slope = equation.drift(u, time)?;
        let noise = equation.diffusion(u, time)?;
        let moved = u.clone() + slope.clone() * length;
        let later = equation.drift(&moved, time + length)?;
        let root = length.sqrt();
        let shifted = equation.diffusion(&(moved.clone() + noise.clone() * root), time)?;
        let slope_change = later.clone() - slope.clone();
        let drift_error = match equation.drift_error {
            DriftError::Difference => slope_change.clone() * (0.5 * length),
            DriftError::Sum => (later + slope) * (0.5 * length),
        };
        let change = (shifted - noise.clone()) / root;
        let stiffness = [slope_change, moved.clone() - u.clone()];
        Ok(Self {
            moved,
            noise,
            change,
            drift_error,
            stiffness,
        })
    }
}
