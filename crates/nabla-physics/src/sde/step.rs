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
}

/// The stages of Rößler's methods.
#[derive(Default)]
pub(super) struct Stages {
    /// `H⁰_i`.
    arguments: Vec<Tensor<2>>,
    /// `k_i`.
    pub(super) slopes: Vec<Tensor<2>>,
    /// `g_i`.
    pub(super) noises: Vec<Tensor<2>>,
}

impl Stages {
    /// The drift's next argument, `u + h Σ_j A⁰_ij k_j + χ_2 Σ_j B⁰_ij g_j`.
    pub(super) fn argument(
        &self,
        u: &Tensor<2>,
        a0: &[f64],
        b0: &[f64],
        length: f64,
        chi2: &Tensor<2>,
    ) -> Tensor<2> {
        let by_noise = weighted(&self.noises, b0, 1.0).map(|sum| sum * chi2.clone());
        plus(u.clone(), [weighted(&self.slopes, a0, length), by_noise])
    }

    pub(super) fn push(&mut self, argument: Tensor<2>, slope: Tensor<2>, noise: Tensor<2>) {
        self.arguments.push(argument);
        self.slopes.push(slope);
        self.noises.push(noise);
    }

    /// What follows from all stages.
    ///
    /// - `weights`: `α`, and the signs of the slopes in `E_d`
    /// - `by_noise`: what the noise adds to the next state besides `noise_error`, `E_n`
    pub(super) fn stepped<F: Field, G: Field>(
        self,
        equation: &Equation<'_, F, G>,
        u: &Tensor<2>,
        [alpha, signs]: [&[f64]; 2],
        length: f64,
        by_noise: impl IntoIterator<Item = Option<Tensor<2>>>,
        noise_error: Tensor<2>,
    ) -> Stepped {
        let next = plus(u.clone(), [weighted(&self.slopes, alpha, length)]);
        let next = plus(next, by_noise) + noise_error.clone();
        let ones = vec![1.0; self.slopes.len()];
        let signs = match equation.drift_error {
            DriftError::Difference => signs,
            DriftError::Sum => &ones,
        };
        let error = plus(noise_error, [weighted(&self.slopes, signs, length)]);
        let change = |x: &[Tensor<2>]| match x {
            [.., before, last] => Some(last.clone() - before.clone()),
            _ => None,
        };
        let stiffness = change(&self.slopes).zip(change(&self.arguments));
        Stepped {
            next,
            error,
            stiffness: stiffness.map(|(slopes, arguments)| [slopes, arguments]),
        }
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
