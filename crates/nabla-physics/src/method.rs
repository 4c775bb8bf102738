//! Methods, and a step of theirs.

use std::fmt;

use burn::tensor::Tensor;
use nabla_kernels::row_combination::{Term, row_combination};

use crate::field::{Stage, System};
use crate::rosenbrock::{self, RODAS4, RosenbrockTableau};
use crate::solve_error::SolveError;
use crate::tableau::Tableau;

/// A method: a tableau.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// An explicit Runge-Kutta method.
    Explicit(&'static Tableau),
    /// A Rosenbrock method, for stiff equations.
    Rosenbrock(&'static RosenbrockTableau),
}

impl Method {
    /// [Euler's](crate::euler).
    pub const EULER: Self = Self::Explicit(&crate::euler::EULER);
    /// The [classical one](crate::rk4).
    pub const RK4: Self = Self::Explicit(&crate::rk4::RK4);
    /// [Bogacki and Shampine's](crate::bs3).
    pub const BS3: Self = Self::Explicit(&crate::bs3::BS3);
    /// [Dormand and Prince's](crate::dopri5).
    pub const DOPRI5: Self = Self::Explicit(&crate::dopri5::DOPRI5);
    /// [Tsitouras'](crate::tsit5).
    pub const TSIT5: Self = Self::Explicit(&crate::tsit5::TSIT5);
    /// [Verner's](crate::vern7) of order 7.
    pub const VERN7: Self = Self::Explicit(&crate::vern7::VERN7);
    /// [Rodas4](crate::rosenbrock), for stiff equations.
    pub const RODAS4: Self = Self::Rosenbrock(&RODAS4);

    /// The methods that come with the crate.
    pub const ALL: [Self; 7] = [
        Self::EULER,
        Self::RK4,
        Self::BS3,
        Self::DOPRI5,
        Self::TSIT5,
        Self::VERN7,
        Self::RODAS4,
    ];

    /// The name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Explicit(tableau) => tableau.name,
            Self::Rosenbrock(tableau) => tableau.name,
        }
    }

    /// The order of convergence.
    pub fn order(&self) -> usize {
        match self {
            Self::Explicit(tableau) => tableau.order,
            Self::Rosenbrock(tableau) => tableau.order,
        }
    }

    /// The power of the step with which the error estimate falls.
    pub fn error_order(&self) -> usize {
        match self {
            Self::Explicit(tableau) => tableau.error_order,
            Self::Rosenbrock(tableau) => tableau.error_order,
        }
    }

    /// The `z` up to which the method is stable on the negative real axis: `S h` beyond it means a stiff equation.
    pub fn stability(&self) -> Option<f64> {
        match self {
            Self::Explicit(tableau) => tableau.stiffness.map(|pair| pair.stability),
            Self::Rosenbrock(_) => Some(f64::INFINITY),
        }
    }

    pub(crate) fn check(&self) -> Result<(), SolveError> {
        match self {
            Self::Explicit(tableau) => tableau.check(),
            Self::Rosenbrock(_) => Ok(()),
        }
    }

    /// The weights of the stages in the next state.
    pub(crate) fn weights(&self) -> &'static [f64] {
        match self {
            Self::Explicit(tableau) => tableau.weights,
            Self::Rosenbrock(tableau) => tableau.weights,
        }
    }

    /// The weights of the embedded method's error, by stage.
    pub(crate) fn error_weights(&self) -> &'static [f64] {
        match self {
            Self::Explicit(tableau) => tableau.error,
            Self::Rosenbrock(tableau) => tableau.error,
        }
    }

    /// The weights of the stages at `t + θ h`.
    pub(crate) fn dense_weights(&self, theta: f64) -> Vec<f64> {
        match self {
            Self::Explicit(tableau) => tableau.dense_weights(theta),
            Self::Rosenbrock(tableau) => tableau.dense_weights(theta),
        }
    }

    /// With what the weights of each trajectory are multiplied: the length of its step; for increments that have it in
    /// them, whether it moves.
    pub(crate) fn scales(&self, lengths: &[f64]) -> Vec<f64> {
        match self {
            Self::Explicit(_) => lengths.to_vec(),
            Self::Rosenbrock(_) => moves(lengths),
        }
    }

    /// The first stage of the step after, if it is the last one of this step.
    pub(crate) fn next_first(&self, attempt: &Attempt) -> Option<First> {
        match self {
            Self::Explicit(tableau) if tableau.last_is_first => {
                let slope = attempt.stages[tableau.count() - 1].slope.clone();
                Some(First {
                    stage: Stage::plain(attempt.after.clone(), slope),
                    shared: true,
                })
            }
            _ => None,
        }
    }

    /// A step from `u`.
    ///
    /// - `times`, `lengths`: one for all trajectories, or one for each
    /// - `first`: the first stage, if it is there already (of explicit methods)
    pub(crate) fn attempt(
        &self,
        system: &mut dyn System,
        u: &Tensor<2>,
        times: &[f64],
        lengths: &[f64],
        first: Option<First>,
        tracked: bool,
    ) -> Result<Attempt, SolveError> {
        match self {
            Self::Explicit(tableau) => explicit(tableau, system, u, times, lengths, first, tracked),
            Self::Rosenbrock(tableau) => {
                rosenbrock::attempt(tableau, system, u, times, lengths, tracked)
            }
        }
    }

    /// Evaluates the stages that only dense output needs, if they are not there.
    pub(crate) fn extend(
        &self,
        system: &mut dyn System,
        attempt: &mut Attempt,
        tracked: bool,
    ) -> Result<(), SolveError> {
        if let Self::Explicit(tableau) = self {
            let all = tableau.count() + tableau.extra();
            while attempt.stages.len() < all {
                let next = attempt.stages.len();
                let stage = stage(tableau, next, system, attempt, tracked)?;
                attempt.stages.push(stage);
            }
        }
        Ok(())
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// 1 for each trajectory that moves, and 0 for those whose step has no length.
pub(crate) fn moves(lengths: &[f64]) -> Vec<f64> {
    let moves = lengths.iter().map(|&length| length != 0.0);
    moves.map(|moves| f64::from(u8::from(moves))).collect()
}

/// The first stage of a step.
#[derive(Debug)]
pub(crate) struct First {
    pub(crate) stage: Stage,
    /// Whether it is the last stage of the step before, where its graph is.
    pub(crate) shared: bool,
}

/// A step that was tried.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The state before, `[batch, d]`.
    pub(crate) before: Tensor<2>,
    /// The state after.
    pub(crate) after: Tensor<2>,
    /// What is summed with weights: slopes, or increments of a Rosenbrock method.
    pub(crate) stages: Vec<Stage>,
    pub(crate) times: Vec<f64>,
    pub(crate) lengths: Vec<f64>,
    /// Whether the first stage is the last one of the step before.
    pub(crate) shares_first: bool,
    /// What a Rosenbrock method factorised.
    pub(crate) factors: Option<rosenbrock::Factors>,
}

impl Attempt {
    /// `base · u + Σ w_i k_i`, with the weights times the scales of the method.
    ///
    /// - `base`: for each trajectory, or for all
    pub(crate) fn sum(&self, base: Option<&[f64]>, weights: &[f64], scales: &[f64]) -> Tensor<2> {
        let factors: Vec<(usize, Vec<f64>)> = weights
            .iter()
            .take(self.stages.len())
            .enumerate()
            .filter(|(_, weight)| **weight != 0.0)
            .map(|(i, weight)| (i, scales.iter().map(|scale| weight * scale).collect()))
            .collect();
        let mut terms = Vec::with_capacity(factors.len() + 1);
        if let Some(factors) = base {
            terms.push(Term {
                factors,
                matrix: &self.before,
            });
        }
        terms.extend(factors.iter().map(|(i, factors)| Term {
            factors,
            matrix: &self.stages[*i].slope,
        }));
        match terms.is_empty() {
            true => self.before.zeros_like(),
            false => row_combination(&terms),
        }
    }
}

fn explicit(
    tableau: &Tableau,
    system: &mut dyn System,
    u: &Tensor<2>,
    times: &[f64],
    lengths: &[f64],
    first: Option<First>,
    tracked: bool,
) -> Result<Attempt, SolveError> {
    let mut attempt = Attempt {
        before: u.clone(),
        after: u.clone(),
        stages: Vec::with_capacity(tableau.count()),
        times: times.to_vec(),
        lengths: lengths.to_vec(),
        shares_first: first.as_ref().is_some_and(|first| first.shared),
        factors: None,
    };
    attempt.stages.extend(first.map(|first| first.stage));
    for i in attempt.stages.len()..tableau.count() {
        let next = stage(tableau, i, system, &attempt, tracked)?;
        attempt.stages.push(next);
    }
    attempt.after = match (tableau.last_is_first, attempt.stages.last()) {
        (true, Some(last)) => last.argument.clone(),
        _ => attempt.sum(Some(&[1.0]), tableau.weights, lengths),
    };
    Ok(attempt)
}

/// The stage `i` after those before it.
fn stage(
    tableau: &Tableau,
    i: usize,
    system: &mut dyn System,
    attempt: &Attempt,
    tracked: bool,
) -> Result<Stage, SolveError> {
    let (node, row) = tableau.row(i);
    let argument = match row.is_empty() {
        true => attempt.before.clone(),
        false => attempt.sum(Some(&[1.0]), row, &attempt.lengths),
    };
    let times = attempt.times.iter().zip(&attempt.lengths);
    let times: Vec<f64> = times.map(|(time, length)| time + node * length).collect();
    system.evaluate(argument, &times, tracked)
}
