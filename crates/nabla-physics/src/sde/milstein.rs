//! Milstein's method without derivatives, with the next term of the noise as error.
//!
//! ```text
//! u⁺ = u + h f + g ΔW + D (ΔW² − h) / 2,   D = (g(u + h f + √h g) − g(u)) / √h
//! E_d = h (f(u + h f) − f(u)) / 2,   E_n = D² |ΔW|³ / 6
//! ```
//!
//! Source: Kloeden, Platen, *Numerical Solution of Stochastic Differential Equations*, 1992, 11.1.

use burn::tensor::Tensor;

use super::euler_maruyama::Probe;
use super::step::{Equation, Noise, Stepped};
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
    let increment = noise.increment.clone();
    let squares = increment.clone().square();
    let cubes = increment.clone().abs() * squares.clone();
    let correction = probe.change.clone() * (squares - length) * 0.5;
    let error = probe.drift_error + probe.change.square() * cubes / 6.0;
    Ok(Stepped {
        next: probe.moved + probe.noise * increment + correction,
        error,
        stiffness: Some(probe.stiffness),
    })
}
