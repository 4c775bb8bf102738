//! Local regularisation: the penalty of [ERNODE](crate::ernode) at one time, so that any adjoint does.
//!
//! ```text
//! t* ~ U(t_0, T)                  unbiased: its mean is ERNODE's penalty by time, Σ_j E_j h_j ≈ ∫ E(t) dt
//! t* one of the accepted steps    biased towards where steps are short
//! one step of Tsitouras' method from (u(t*), t*), of length h;   R = E h   or   R = S / 3.5068
//! ```
//!
//! The gradient of `R` goes through the seven evaluations of that one step; `u(t*)`, `t*` and `h` are constants. So it costs
//! six evaluations and their gradient, whatever the solver and its adjoint are. For stochastic equations it is one step of
//! the solver's own method, with fresh noise.
//!
//! # What the official code computes
//! It takes for `h` the automatic *first* step at `(u*, t*)`, which is about a tenth of the one that the controller uses
//! there, so that `E`, of order `h⁵`, is next to nothing; and it holds the first slope `k_1` constant, so that what cancels
//! in the error estimate is left as gradient: one of order `h` instead of `h⁵`, in an unrelated direction. Both are here, as
//! [`StepSize::Initial`] and [`LocalPenalty::with_constant_first_stage`]; the defaults are the right ones.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_grad::seeded_noise::SeededNoise;
//! use nabla_physics::ernode::Heuristic;
//! use nabla_physics::field::parametric;
//! use nabla_physics::local_regularisation::{LocalPenalty, Sampling};
//! use nabla_physics::{Adjoint, Method, Solver};
//!
//! let device = Device::flex().autodiff();
//! let rate = Tensor::<1>::from_floats([-3.0], &device).require_grad();
//! let decay = parametric(rate.clone(), |u: Tensor<2>, _t, p: Tensor<1>| u * p.unsqueeze());
//! let start = Tensor::<2>::ones([8, 1], &device);
//! let solver = Solver::new(Method::TSIT5).with_adjoint(Adjoint::Interpolating);
//! let penalty = LocalPenalty::new(Heuristic::Error, Sampling::Biased)?;
//! let mut draws = SeededNoise::new(1, 0);
//! let (solution, penalty) = penalty.solve(&solver, &decay, start, &[0.0, 1.0], &mut draws)?;
//! let loss = solution.last().mean() + penalty * 100.0;
//! assert!(rate.grad(&loss.backward()).is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Source: Pal, Edelman, Rackauckas, *Locally Regularized Neural Differential Equations: Some Black Boxes Were Meant to
//! Remain Closed!*, 2023, arXiv 2303.02262.

use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::controller::Controller;
use crate::ernode::{Heuristic, Penalty};
use crate::field::Field;
use crate::method::Method;
use crate::options::check_times;
use crate::sde::{SdeSolution, SdeSolver};
use crate::solve_error::SolveError;
use crate::solver::{Solution, Solver, Steps};

/// How the time is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sampling {
    /// Anywhere between the first time and the last.
    Unbiased,
    /// Among the times at which the solver's steps began: more often where they are short.
    Biased,
}

nabla_base::choices! {
    Sampling: "sampling" {
        "unbiased" => Self::Unbiased, "Anywhere between the first time and the last";
        "biased" => Self::Biased, "Where the solver's steps begin";
    }
}

/// How long the step is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepSize {
    /// The solver's own step at this time.
    #[default]
    Running,
    /// The first step of a solver that begins at this time, as in the official code.
    Initial,
}

nabla_base::choices! {
    StepSize: "step size" {
        "running" => Self::Running, "The solver's own at this time";
        "initial" => Self::Initial, "That with which a solver would begin at this time";
    }
}

/// The penalty; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LocalPenalty {
    heuristic: Heuristic,
    sampling: Sampling,
    step_size: StepSize,
    constant_first_stage: bool,
}

impl LocalPenalty {
    /// # Errors
    /// If both errors and stiffness are to be penalised: the paper has one of them.
    pub fn new(heuristic: Heuristic, sampling: Sampling) -> Result<Self, OutOfRange> {
        let fits = heuristic != Heuristic::Both;
        range::check(fits, "local penalty", "both", "of errors or of stiffness")?;
        Ok(Self {
            heuristic,
            sampling,
            step_size: StepSize::Running,
            constant_first_stage: false,
        })
    }

    /// Sets how long the step is.
    #[must_use]
    pub fn with_step_size(mut self, step_size: StepSize) -> Self {
        self.step_size = step_size;
        self
    }

    /// Without the gradient through the first slope, as in the official code for ordinary equations.
    #[must_use]
    pub fn with_constant_first_stage(mut self) -> Self {
        self.constant_first_stage = true;
        self
    }

    /// Solves, and returns the penalty, `[1]`, beside the solution.
    ///
    /// - `start`: `[batch, d]`
    /// - `times`: as for the solver; they do not affect where the penalty is taken
    /// - `draws`: from which the time is drawn
    ///
    /// # Errors
    /// As the solver. Steps must be joint.
    pub fn solve<F: Field>(
        &self,
        solver: &Solver,
        field: &F,
        start: Tensor<2>,
        times: &[f64],
        draws: &mut SeededNoise,
    ) -> Result<(Solution, Tensor<1>), SolveError> {
        range::check(
            solver.steps() == Steps::Joint,
            "steps with a local penalty",
            "each trajectory's own",
            "joint",
        )?;
        check_times(times)?;
        let [first, last] = [times[0], times[times.len() - 1]];
        match self.sampling {
            Sampling::Unbiased => {
                // Before the solve, so that dense output gives the state there.
                let mut time = first;
                while time <= first || time >= last {
                    time = first + (last - first) * draws.random::<f64>();
                }
                let place = times.partition_point(|&other| other < time);
                let asked = times.get(place) == Some(&time);
                let mut all = times.to_vec();
                if !asked {
                    all.insert(place, time);
                }
                let mut solution = solver.solve(field, start, &all)?;
                let state = solution
                    .at(place)
                    .map(Tensor::inner)
                    .unwrap_or_else(|| solution.last());
                if !asked {
                    solution.remove(place);
                }
                let penalty = self.at(solver, field, state, time, &solution, last)?;
                Ok((solution, penalty))
            }
            Sampling::Biased => {
                let (solution, states) = solver.solve_with_states(field, start, times)?;
                let chosen = draws.random_range(0..states.len());
                let time = solution.statistics().steps()[chosen].times[0];
                let state = states[chosen].clone();
                let penalty = self.at(solver, field, state, time, &solution, last)?;
                Ok((solution, penalty))
            }
        }
    }

    fn at<F: Field>(
        &self,
        solver: &Solver,
        field: &F,
        state: Tensor<2>,
        time: f64,
        solution: &Solution,
        last: f64,
    ) -> Result<Tensor<1>, SolveError> {
        let length = match self.step_size {
            StepSize::Running => running(solution, time),
            StepSize::Initial => solver.initial_step(field, state.clone(), time, last)?,
        };
        self.penalty(
            solver.tolerances(),
            field,
            state,
            time,
            length.min(last - time),
        )
    }

    /// The penalty at a state and a time, `[1]`, with its gradient by the field's parameters.
    ///
    /// - `tolerances`: the absolute and the relative one, of the solver
    /// - `state`: `[batch, d]`; its graph is left out
    /// - `length`: of the step
    ///
    /// # Errors
    /// If a number is out of range, or the field is not finite.
    pub fn penalty<F: Field>(
        &self,
        [absolute, relative]: [f64; 2],
        field: &F,
        state: Tensor<2>,
        time: f64,
        length: f64,
    ) -> Result<Tensor<1>, SolveError> {
        range::positive("length of the penalty's step", length)?;
        let solver = Solver::new(Method::TSIT5)
            .with_tolerances(absolute, relative)
            .with_controller(Controller::Constant)
            .with_first_step(length)
            .with_constant_first_stage(self.constant_first_stage);
        let solution = solver.solve(field, state.inner(), &[time, time + length])?;
        Ok(Penalty::new(self.heuristic).of(&solution))
    }

    /// Solves a stochastic equation, and returns the penalty, `[1]`, beside the solution: one step of the solver's own
    /// method with fresh noise.
    ///
    /// - `seed`: of the path; the penalty's time and noise are drawn from `draws`
    ///
    /// # Errors
    /// As the solver.
    #[expect(clippy::too_many_arguments, reason = "those of the solver, and two")]
    pub fn solve_stochastic<F: Field, G: Field>(
        &self,
        solver: &SdeSolver,
        drift: &F,
        diffusion: &G,
        start: Tensor<2>,
        times: &[f64],
        seed: u64,
        draws: &mut SeededNoise,
    ) -> Result<(SdeSolution, Tensor<1>), SolveError> {
        check_times(times)?;
        let (solution, states) = solver.solve_with_states(drift, diffusion, start, times, seed)?;
        let steps = solution.statistics().steps();
        // A path has no dense output: unbiased is the step that a time lies in, from its beginning.
        let chosen = match self.sampling {
            Sampling::Unbiased => {
                let [first, last] = [times[0], times[times.len() - 1]];
                let time = first + (last - first) * draws.random::<f64>();
                steps
                    .partition_point(|step| step.times[0] <= time)
                    .saturating_sub(1)
            }
            Sampling::Biased => draws.random_range(0..states.len()),
        };
        let (time, state) = (steps[chosen].times[0], states[chosen].clone());
        let length = match self.step_size {
            StepSize::Running => steps[chosen].lengths[0],
            StepSize::Initial => {
                let last = times[times.len() - 1];
                solver.initial_step(drift, diffusion, &state, time, last)?
            }
        };
        let one = solver.with_constant_step(length);
        let noise: u64 = draws.random();
        let step = one.solve(drift, diffusion, state, &[time, time + length], noise)?;
        Ok((solution, Penalty::new(self.heuristic).of_stochastic(&step)))
    }
}

/// The length of the step in which a time lies.
fn running(solution: &Solution, time: f64) -> f64 {
    let steps = solution.statistics().steps();
    let place = steps.partition_point(|step| step.times[0] <= time);
    steps[place.saturating_sub(1)].lengths[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Adjoint;
    use crate::field::{field, parametric};
    use crate::sde::SdeMethod;
    use burn::tensor::{DType, Device, TensorData};

    fn wide<const D: usize>(values: &[f64], dims: [usize; D]) -> Tensor<D> {
        Tensor::from_data(
            TensorData::new(values.to_vec(), dims),
            (&Device::flex(), DType::F64),
        )
    }

    /// From the notes: the closed form, and what the official code computes instead.
    #[test]
    fn the_gradient_with_a_constant_first_stage_is_another() {
        let rate = wide(&[-1.0], [1]).autodiff().require_grad();
        let decay = parametric(rate.clone(), |u: Tensor<2>, _, p: Tensor<1>| {
            u * p.unsqueeze()
        });
        let right = LocalPenalty::new(Heuristic::Error, Sampling::Biased).unwrap();
        let official = right.with_constant_first_stage();
        for (penalty, expected) in [(right, -1.113_736_42e-5), (official, -0.076_728_05)] {
            let found = penalty
                .penalty([1e-3; 2], &decay, wide(&[1.0], [1, 1]), 0.0, 0.1)
                .unwrap();
            let value = found.clone().inner().into_scalar::<f64>();
            assert!((value / 0.1 / 2.211_443_5e-6 - 1.0).abs() < 1e-6);
            let gradient = rate.grad(&found.backward()).unwrap().into_scalar::<f64>() / 0.1;
            assert!(
                (gradient / expected - 1.0).abs() < 1e-5,
                "{gradient} {expected}"
            );
        }
    }

    /// The mean of `E(t*)` over many draws is the integral, for steps of one length.
    #[test]
    fn unbiased_draws_are_unbiased() {
        let swing = field(|u: Tensor<2>, _| {
            let [x, y] = [0, 1].map(|i| u.clone().slice_dim(1, i..i + 1).powi_scalar(3));
            Tensor::cat(
                vec![x.clone() * -0.1 - y.clone() * 2.0, x * 2.0 - y * 0.1],
                1,
            )
        });
        let penalty = LocalPenalty::new(Heuristic::Error, Sampling::Unbiased).unwrap();
        let solver = Solver::new(Method::TSIT5)
            .with_tolerances(1e-6, 1e-6)
            .with_constant_step(0.02);
        let start = wide(&[2.0, 0.0], [1, 2]);
        let mut draws = SeededNoise::new(4, 0);
        let count = 400;
        let found: Vec<f64> = (0..count)
            .map(|_| {
                let (_, found) = penalty
                    .solve(&solver, &swing, start.clone(), &[0.0, 1.5], &mut draws)
                    .unwrap();
                found.into_scalar::<f64>()
            })
            .collect();
        let mean = found.iter().sum::<f64>() / f64::from(count);
        let squares = found.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        let error = (squares / f64::from(count - 1) / f64::from(count)).sqrt();
        // ∫ E(t) h dt / T by the trapezoidal rule, without the last step's length, which is cut off at the end.
        let grid: Vec<f64> = (0..=600).map(|i| 1.5 * f64::from(i) / 600.0).collect();
        let states = solver.solve(&swing, start, &grid).unwrap();
        let each: Vec<f64> = grid[..600]
            .iter()
            .enumerate()
            .map(|(i, &time)| {
                let state = states.at(i).unwrap();
                let length = 0.02_f64.min(1.5 - time);
                penalty
                    .penalty([1e-6; 2], &swing, state, time, length)
                    .unwrap()
                    .into_scalar::<f64>()
            })
            .collect();
        let expected = (each.iter().sum::<f64>() - 0.5 * each[0]) / 600.0;
        assert!(
            (mean - expected).abs() < 3.5 * error,
            "{mean} {expected} {error}"
        );
    }

    #[test]
    fn penalties_go_with_every_adjoint() {
        let mut all = Vec::new();
        for adjoint in [
            Adjoint::default(),
            Adjoint::Interpolating,
            Adjoint::Backsolve,
        ] {
            for sampling in [Sampling::Unbiased, Sampling::Biased] {
                for heuristic in [Heuristic::Error, Heuristic::Stiffness] {
                    let rate = wide(&[-1.4], [1]).autodiff().require_grad();
                    let f = parametric(rate.clone(), |u: Tensor<2>, t: Tensor<2>, p: Tensor<1>| {
                        (u * p.unsqueeze()).sin() + t
                    });
                    let solver = Solver::new(Method::TSIT5)
                        .with_tolerances(1e-9, 1e-9)
                        .with_adjoint(adjoint);
                    let penalty = LocalPenalty::new(heuristic, sampling).unwrap();
                    let start = wide(&[1.0, -0.4], [2, 1]).autodiff();
                    let (solution, found) = penalty
                        .solve(
                            &solver,
                            &f,
                            start,
                            &[0.0, 0.5, 1.0],
                            &mut SeededNoise::new(2, 0),
                        )
                        .unwrap();
                    assert_eq!(solution.values().dims(), [3, 2, 1]);
                    let gradients = (solution.last().sum() + found).backward();
                    all.push(rate.grad(&gradients).unwrap().into_scalar::<f64>());
                }
            }
        }
        for (i, found) in all.iter().enumerate() {
            assert!(
                (found - all[i % 4]).abs() < 1e-4 * found.abs(),
                "{i}: {all:?}"
            );
        }
    }

    #[test]
    fn first_steps_are_shorter_and_stochastic_equations_have_penalties() {
        let rate = wide(&[-1.4], [1]).autodiff().require_grad();
        let drift = parametric(rate.clone(), |u: Tensor<2>, _, p: Tensor<1>| {
            (u * p.unsqueeze()).sin()
        });
        let start = || wide(&[1.0, -0.4], [2, 1]).autodiff();
        let solver = Solver::new(Method::TSIT5).with_tolerances(1e-9, 1e-9);
        let penalty = LocalPenalty::new(Heuristic::Error, Sampling::Biased).unwrap();
        let of = |penalty: LocalPenalty| {
            let mut draws = SeededNoise::new(2, 0);
            let (_, found) = penalty
                .solve(&solver, &drift, start(), &[0.0, 3.0], &mut draws)
                .unwrap();
            found.inner().into_scalar::<f64>()
        };
        assert!(of(penalty.with_step_size(StepSize::Initial)) < 0.1 * of(penalty));
        let diffusion = field(|u: Tensor<2>, _| u * 0.3);
        for sampling in [Sampling::Unbiased, Sampling::Biased] {
            for step_size in [StepSize::Running, StepSize::Initial] {
                let penalty = LocalPenalty::new(Heuristic::Error, sampling)
                    .unwrap()
                    .with_step_size(step_size);
                let solver = SdeSolver::new(SdeMethod::SOSRI);
                let mut draws = SeededNoise::new(2, 0);
                let (_, found) = penalty
                    .solve_stochastic(
                        &solver,
                        &drift,
                        &diffusion,
                        start(),
                        &[0.0, 1.0],
                        1,
                        &mut draws,
                    )
                    .unwrap();
                let gradients = found.backward();
                assert!(rate.grad(&gradients).unwrap().into_scalar::<f64>() != 0.0);
            }
        }
        let apart = solver.with_steps(Steps::PerTrajectory);
        let error = penalty.solve(
            &apart,
            &drift,
            start(),
            &[0.0, 1.0],
            &mut SeededNoise::new(2, 0),
        );
        assert!(
            error
                .unwrap_err()
                .to_string()
                .starts_with("the steps with a local penalty is each")
        );
        assert!(LocalPenalty::new(Heuristic::Both, Sampling::Biased).is_err());
    }
}
