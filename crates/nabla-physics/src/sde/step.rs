//! Methods, and a step of theirs.

use burn::tensor::Tensor;

use super::sosra::{self, SOSRA, SraTableau};
use super::sosri::{self, SOSRI, SriTableau};
use super::{euler_maruyama, milstein};
use crate::field::{Field, checked, time_tensor};
use crate::solve_error::SolveError;

/// A method for stochastic equations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SdeMethod {
    /// Euler and Maruyama's.
    EulerMaruyama,
    /// Milstein's, without derivatives.
    Milstein,
    /// Rößler's for diagonal noise.
    Sri(&'static SriTableau),
    /// Rößler's for additive noise.
    Sra(&'static SraTableau),
}

impl SdeMethod {
    /// The stability-optimised method for diagonal noise.
    pub const SOSRI: Self = Self::Sri(&SOSRI);
    /// The stability-optimised method for additive noise.
    pub const SOSRA: Self = Self::Sra(&SOSRA);

    /// The strong order.
    pub fn order(&self) -> f64 {
        match self {
            Self::EulerMaruyama => 0.5,
            Self::Milstein => 1.0,
            Self::Sri(_) => 1.5,
            Self::Sra(_) => 2.0,
        }
    }

    /// Evaluations of drift and diffusion in a step.
    pub fn evaluations(&self) -> usize {
        match self {
            Self::EulerMaruyama | Self::Milstein => 2,
            Self::Sri(tableau) => tableau.alpha.len(),
            Self::Sra(tableau) => tableau.alpha.len(),
        }
    }
}

/// What the drift's part of an error estimate is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriftError {
    /// A difference of slopes, which falls with the square of the step.
    #[default]
    Difference,
    /// The sum of all slopes, as in StochasticDiffEq.jl.
    Sum,
}

/// The noise of a step, `[batch, d]` each.
#[derive(Clone, Debug)]
pub(super) struct Noise {
    /// `ΔW`.
    pub(super) increment: Tensor<2>,
    /// `χ_2 = ∫ (W(s) − W(t)) ds / h`.
    pub(super) mean: Tensor<2>,
}

/// What a step gives.
pub(super) struct Stepped {
    pub(super) next: Tensor<2>,
    /// `E_d + E_n`, `[batch, d]`.
    pub(super) error: Tensor<2>,
    /// The differences of two slopes and of their arguments, from which stiffness follows.
    pub(super) stiffness: Option<[Tensor<2>; 2]>,
}

/// An equation at a step.
pub(super) struct Equation<'a, F, G> {
    pub(super) drift: &'a F,
    pub(super) diffusion: &'a G,
    pub(super) drift_error: DriftError,
}

impl<F: Field, G: Field> Equation<'_, F, G> {
    pub(super) fn drift(&self, u: &Tensor<2>, time: f64) -> Result<Tensor<2>, SolveError> {
        checked(u, self.drift.slope(u.clone(), time_tensor(u, &[time])))
    }

    pub(super) fn diffusion(&self, u: &Tensor<2>, time: f64) -> Result<Tensor<2>, SolveError> {
        checked(u, self.diffusion.slope(u.clone(), time_tensor(u, &[time])))
    }

    pub(super) fn step(
        &self,
        method: SdeMethod,
        u: &Tensor<2>,
        time: f64,
        length: f64,
        noise: &Noise,
    ) -> Result<Stepped, SolveError> {
        match method {
            SdeMethod::EulerMaruyama => euler_maruyama::step(self, u, time, length, noise),
            SdeMethod::Milstein => milstein::step(self, u, time, length, noise),
            SdeMethod::Sri(tableau) => sosri::step(tableau, self, u, time, length, noise),
            SdeMethod::Sra(tableau) => sosra::step(tableau, self, u, time, length, noise),
        }
    }

    /// `E_d` from the slopes of the stages.
    ///
    /// - `signs`: by which they are added for a difference
    pub(super) fn drift_part(
        &self,
        slopes: &[Tensor<2>],
        signs: &[f64],
        length: f64,
    ) -> Option<Tensor<2>> {
        let ones = vec![1.0; slopes.len()];
        let signs = match self.drift_error {
            DriftError::Difference => signs,
            DriftError::Sum => &ones,
        };
        weighted(slopes, signs, length)
    }
}

/// `factor · Σ w_i x_i`, without the terms of weight 0.
pub(super) fn weighted(x: &[Tensor<2>], weights: &[f64], factor: f64) -> Option<Tensor<2>> {
    let terms = x.iter().zip(weights).filter(|(_, weight)| **weight != 0.0);
    let terms = terms.map(|(x, weight)| x.clone() * (weight * factor));
    terms.reduce(|sum, term| sum + term)
}

/// `u` and what is added.
pub(super) fn plus(u: Tensor<2>, all: impl IntoIterator<Item = Option<Tensor<2>>>) -> Tensor<2> {
    all.into_iter().flatten().fold(u, |sum, term| sum + term)
}
