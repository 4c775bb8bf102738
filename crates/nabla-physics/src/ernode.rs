//! ERNODE: neural differential equations that are easy to solve, by a penalty on what the solver estimates anyway.
//!
//! An adaptive solver takes many steps where its local error is large. The penalty is made of the error estimates `E_j` and
//! the stiffness estimates `S_j` of the accepted steps, of the lengths `h_j`:
//!
//! ```text
//! R_E  = Σ_j E_j |h_j|        R_E² = Σ_j E_j² |h_j|        R_S = Σ_j S_j
//! L = task + λ(e) R,          λ(e) = λ_0 (λ_1/λ_0)^(e/n)
//! ```
//!
//! and differentiated through the steps ([discrete adjoint](crate::Adjoint::Discrete)), with constant lengths: if they had
//! gradients, the controller would hold every error at one value, and there would be nothing to learn. `E_j` is divided by
//! the tolerance, so that a penalty belongs to a tolerance. Stochastic equations have the same penalties (ERNSDE).
//!
//! | | paper | official code |
//! |---|---|---|
//! | [`Reduction::Sum`] | the formulas above | spiral SDE |
//! | [`Reduction::Mean`] | | the sum, divided by the steps and one |
//! | [`Reduction::Max`] | | stiffness of ordinary equations: the largest, at least 1 |
//!
//! The official code counts an entry of `E = 1, h = 0, S = 1` before the first step. It makes `R_S` of [`Reduction::Max`]
//! a constant without gradient as soon as all `S_j` are below 1; [`Penalty::with_first_entry`] has it, the default leaves it
//! out.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_physics::ernode::{Annealing, Heuristic, Penalty};
//! use nabla_physics::field::parametric;
//! use nabla_physics::{Method, Solver};
//!
//! let device = Device::flex().autodiff();
//! let rate = Tensor::<1>::from_floats([-3.0], &device).require_grad();
//! let decay = parametric(rate.clone(), |u: Tensor<2>, _t, p: Tensor<1>| u * p.unsqueeze());
//! let start = Tensor::<2>::ones([8, 1], &device);
//! let solution = Solver::new(Method::TSIT5).solve(&decay, start, &[0.0, 1.0])?;
//! let weight = Annealing::new(100.0, 10.0, 75)?.weight(0);
//! let loss = solution.last().mean() + Penalty::new(Heuristic::Error).of(&solution) * weight;
//! // A slower decay is easier to solve.
//! assert!(rate.grad(&loss.backward()).is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Pal, Ma, Shah, Rackauckas, *Opening the Blackbox: Accelerating Neural Differential Equations by Regularizing
//! Internal Solver Heuristics*, 2021, arXiv 2105.03918.

use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

use crate::numbers::tensor_like;
use crate::sde::SdeSolution;
use crate::solver::Solution;

/// Which estimates are penalised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Heuristic {
    /// `R_E`: errors, by the lengths of their steps.
    Error,
    /// `R_E²`: their squares.
    SquaredError,
    /// `R_S`: stiffness, divided by the stability of the method.
    Stiffness,
    /// `R_E` and a tenth of `R_S`.
    Both,
}

nabla_base::choices! {
    Heuristic: "penalty" {
        "error" => Self::Error, "The solver's local errors";
        "squared-error" => Self::SquaredError, "Their squares";
        "stiffness" => Self::Stiffness, "The solver's estimates of stiffness";
        "both" => Self::Both, "Errors and stiffness";
    }
}

/// How the numbers of the steps become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// Their sum, as in the paper.
    #[default]
    Sum,
    /// Their mean, as mostly in the official code.
    Mean,
    /// The largest.
    Max,
}

nabla_base::choices! {
    Reduction: "reduction" {
        "sum" => Self::Sum, "The sum over the steps";
        "mean" => Self::Mean, "Their mean";
        "max" => Self::Max, "The largest of them";
    }
}

/// A penalty; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Penalty {
    heuristic: Heuristic,
    reduction: Reduction,
    stability: f64,
    first_entry: bool,
}

/// The stability of Tsitouras' method, by which the official code divides stiffness.
const STABILITY: f64 = 3.5068;

impl Penalty {
    /// Summed over the steps, and with stiffness divided by the stability of Tsitouras' method.
    pub fn new(heuristic: Heuristic) -> Self {
        Self {
            heuristic,
            reduction: Reduction::Sum,
            stability: STABILITY,
            first_entry: false,
        }
    }

    /// Sets how the numbers of the steps become one.
    #[must_use]
    pub fn with_reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }

    /// Sets by what stiffness is divided: 10.6 for SOSRI2 in the official code.
    ///
    /// # Errors
    /// If it is not positive.
    pub fn with_stability(mut self, stability: f64) -> Result<Self, OutOfRange> {
        range::positive("stability of the method", stability)?;
        self.stability = stability;
        Ok(self)
    }

    /// With the official code's entry before the first step.
    #[must_use]
    pub fn with_first_entry(mut self) -> Self {
        self.first_entry = true;
        self
    }

    /// The penalty of a solution, `[1]`, with its gradient. With steps of their own, the mean over the trajectories.
    pub fn of(&self, solution: &Solution) -> Tensor<1> {
        self.reduced(solution.errors(), solution.stiffness(), solution.lengths())
    }

    /// The penalty of a solution of a stochastic equation, `[1]`, with its gradient.
    pub fn of_stochastic(&self, solution: &SdeSolution) -> Tensor<1> {
        self.reduced(solution.errors(), solution.stiffness(), solution.lengths())
    }

    /// - `errors`, `stiffness`, `lengths`: `[steps, trajectories]`
    fn reduced(&self, errors: Tensor<2>, stiffness: Tensor<2>, lengths: Tensor<2>) -> Tensor<1> {
        let [steps, groups] = errors.dims();
        let lengths = if errors.is_autodiff() {
            lengths.autodiff()
        } else {
            lengths
        };
        // What follows the entry before the first step: E h = 0, S = 1.
        let entries = |x: Tensor<2>, first: f64| match self.first_entry {
            true => {
                let entry = tensor_like(vec![first; groups], [1, groups], &x.clone().inner());
                let entry = if x.is_autodiff() {
                    entry.autodiff()
                } else {
                    entry
                };
                Tensor::cat(vec![entry, x], 0)
            }
            false => x,
        };
        let count = (steps + usize::from(self.first_entry)) as f64;
        let reduce = |x: Tensor<2>| match self.reduction {
            Reduction::Sum => x.sum() / groups as f64,
            Reduction::Mean => x.sum() / (count * groups as f64),
            Reduction::Max => x.max_dim(0).mean(),
        };
        let by_error = |errors: Tensor<2>| reduce(entries(errors * lengths.clone(), 0.0));
        let by_stiffness = |x: Tensor<2>| reduce(entries(x, 1.0)) / self.stability;
        match self.heuristic {
            Heuristic::Error => by_error(errors),
            Heuristic::SquaredError => by_error(errors.square()),
            Heuristic::Stiffness => by_stiffness(stiffness),
            Heuristic::Both => by_error(errors) + by_stiffness(stiffness) * 0.1,
        }
    }
}

/// A weight that falls or rises exponentially, `λ(e) = λ_0 (λ_1/λ_0)^(e/n)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Annealing {
    start: f64,
    end: f64,
    steps: usize,
}

impl Annealing {
    /// - `start`, `end`: `λ_0` and `λ_1`, positive
    /// - `steps`: `n`, epochs in ERNODE and updates in local regularisation
    ///
    /// # Errors
    /// If a weight is not positive, or there are no steps.
    pub fn new(start: f64, end: f64, steps: usize) -> Result<Self, OutOfRange> {
        range::positive("first weight of the penalty", start)?;
        range::positive("last weight of the penalty", end)?;
        range::at_least("number of steps of the penalty's weight", steps, 1)?;
        Ok(Self { start, end, steps })
    }

    /// One weight for all steps.
    ///
    /// # Errors
    /// If it is not positive.
    pub fn constant(weight: f64) -> Result<Self, OutOfRange> {
        Self::new(weight, weight, 1)
    }

    /// `λ(e)`; beyond the last step, that of the last.
    pub fn weight(&self, step: usize) -> f64 {
        let share = step.min(self.steps) as f64 / self.steps as f64;
        self.start * (self.end / self.start).powf(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{field, parametric};
    use crate::sde::{SdeMethod, SdeSolver};
    use crate::{Method, Solver, Steps};
    use burn::tensor::{DType, Device, TensorData};

    fn wide(values: &[f64], dims: [usize; 2]) -> Tensor<2> {
        Tensor::from_data(
            TensorData::new(values.to_vec(), dims),
            (&Device::flex(), DType::F64),
        )
    }

    fn number(x: Tensor<1>) -> f64 {
        x.inner().into_scalar::<f64>()
    }

    const ALL: [Heuristic; 4] = [
        Heuristic::Error,
        Heuristic::SquaredError,
        Heuristic::Stiffness,
        Heuristic::Both,
    ];

    #[test]
    fn penalties_are_their_formulas() {
        let swing = field(|u: Tensor<2>, t: Tensor<2>| u.sin() * -4.0 + t);
        let start = wide(&[1.0, -2.0, 0.5], [3, 1]);
        for steps in [Steps::Joint, Steps::PerTrajectory] {
            let solver = Solver::new(Method::TSIT5).with_steps(steps);
            let solution = solver.solve(&swing, start.clone(), &[0.0, 2.0]).unwrap();
            let taken = solution.statistics().steps();
            let groups = taken[0].lengths.len();
            let count = taken.len() as f64;
            for heuristic in ALL {
                for reduction in [Reduction::Sum, Reduction::Mean, Reduction::Max] {
                    for first in [false, true] {
                        let mut expected = 0.0;
                        for group in 0..groups {
                            let each = |of: &dyn Fn(f64, f64, f64) -> f64, entry: f64| {
                                let mut all: Vec<f64> = taken
                                    .iter()
                                    .map(|s| {
                                        of(s.errors[group], s.stiffness[group], s.lengths[group])
                                    })
                                    .collect();
                                if first {
                                    all.push(entry);
                                }
                                let sum: f64 = all.iter().sum();
                                match reduction {
                                    Reduction::Sum => sum,
                                    Reduction::Mean => sum / (count + f64::from(u8::from(first))),
                                    Reduction::Max => all.into_iter().fold(0.0, f64::max),
                                }
                            };
                            let error = each(&|e, _, h| e * h, 0.0);
                            let squared = each(&|e, _, h| e * e * h, 0.0);
                            let stiffness = each(&|_, s, _| s, 1.0) / 3.5068;
                            expected += match heuristic {
                                Heuristic::Error => error,
                                Heuristic::SquaredError => squared,
                                Heuristic::Stiffness => stiffness,
                                Heuristic::Both => error + 0.1 * stiffness,
                            } / groups as f64;
                        }
                        let mut penalty = Penalty::new(heuristic).with_reduction(reduction);
                        if first {
                            penalty = penalty.with_first_entry();
                        }
                        let found = number(penalty.of(&solution));
                        assert!(
                            (found - expected).abs() < 1e-12,
                            "{penalty:?} {found} {expected}"
                        );
                    }
                }
            }
        }
    }

    /// `E = c |λ|⁵` and `S = |λ|` for a linear equation and short steps.
    #[test]
    fn gradients_are_those_of_a_linear_equation() {
        let rate = Tensor::<1>::from_data(
            TensorData::new(vec![-1.0], [1]),
            (&Device::flex(), DType::F64),
        );
        let rate = rate.autodiff().require_grad();
        let decay = parametric(rate.clone(), |u: Tensor<2>, _, p: Tensor<1>| {
            u * p.unsqueeze()
        });
        let solver = Solver::new(Method::TSIT5)
            .with_constant_step(0.1)
            .with_tolerances(1e-3, 1e-3);
        let start = wide(&[1.0], [1, 1]).autodiff();
        let solution = solver.solve(&decay, start, &[0.0, 0.1]).unwrap();
        for (heuristic, expected) in [
            (Heuristic::Error, -1.113_736_42e-5 * 0.1),
            (
                Heuristic::SquaredError,
                2.0 * 2.211_443_5e-6 * -1.113_736_42e-5 * 0.1,
            ),
            (Heuristic::Stiffness, -1.0 / 3.5068),
        ] {
            // A graph is followed once.
            let solution = solver
                .solve(&decay, wide(&[1.0], [1, 1]).autodiff(), &[0.0, 0.1])
                .unwrap();
            let gradients = Penalty::new(heuristic).of(&solution).backward();
            let found = rate.grad(&gradients).unwrap().into_scalar::<f64>();
            assert!(
                (found / expected - 1.0).abs() < 1e-6,
                "{heuristic:?} {found} {expected}"
            );
        }
        // The official entry: a constant, as long as no step is stiffer than it.
        let penalty = Penalty::new(Heuristic::Stiffness)
            .with_reduction(Reduction::Max)
            .with_first_entry();
        assert!((number(penalty.of(&solution)) - 0.285_16).abs() < 1e-4);
    }

    #[test]
    fn stochastic_equations_have_penalties() {
        let rate = Tensor::<1>::from_data(
            TensorData::new(vec![2.0], [1]),
            (&Device::flex(), DType::F64),
        );
        let rate = rate.autodiff().require_grad();
        let drift = parametric(rate.clone(), |u: Tensor<2>, _, p: Tensor<1>| {
            u.sin() * p.unsqueeze()
        });
        let diffusion = field(|u: Tensor<2>, _| u * 0.2);
        for heuristic in ALL {
            let solver = SdeSolver::new(SdeMethod::SOSRI);
            let start = wide(&[1.0, 0.3], [2, 1]).autodiff();
            let solution = solver
                .solve(&drift, &diffusion, start, &[0.0, 1.0], 3)
                .unwrap();
            let penalty = Penalty::new(heuristic).of_stochastic(&solution);
            assert!(number(penalty.clone()) > 0.0);
            let found = rate.grad(&penalty.backward()).unwrap().into_scalar::<f64>();
            assert!(found.is_finite() && found != 0.0, "{heuristic:?} {found}");
        }
    }

    #[test]
    fn weights_fall_from_the_first_to_the_last() {
        let annealing = Annealing::new(100.0, 10.0, 75).unwrap();
        assert_eq!(annealing.weight(0), 100.0);
        assert!(
            (annealing.weight(75) - 10.0).abs() < 1e-12
                && annealing.weight(80) == annealing.weight(75)
        );
        let middle = 100.0 * (-(30.0_f64) * (10.0_f64).ln() / 75.0).exp();
        assert!((annealing.weight(30) - middle).abs() < 1e-10);
        assert_eq!(Annealing::constant(3.0).unwrap().weight(9), 3.0);
        assert!(
            Annealing::new(0.0, 1.0, 1).is_err()
                && Penalty::new(Heuristic::Both).with_stability(-1.0).is_err()
        );
    }
}
