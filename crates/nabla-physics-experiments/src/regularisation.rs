//! What makes an equation easy to solve, as an option of a training.

use burn::tensor::Tensor;
use nabla_base::range::OutOfRange;
use nabla_claims::{ClaimError, Variant};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_physics::ernode::{Annealing, Heuristic, Penalty, Reduction};
use nabla_physics::field::Field;
use nabla_physics::local_regularisation::{LocalPenalty, Sampling, StepSize};
use nabla_physics::sde::{SdeSolution, SdeSolver};
use nabla_physics::taynode::{self, WithDerivatives};
use nabla_physics::{Adjoint, Solver, steer};
use rand::RngExt;

pub(crate) const VANILLA: Variant = Variant::baseline("no regularisation");
pub(crate) const STEER: Variant = Variant::baseline("STEER");
pub(crate) const TAYNODE: Variant = Variant::baseline("TayNODE, second derivative");
pub(crate) const KINETIC: Variant = Variant::baseline("kinetic energy");
pub(crate) const ERROR: Variant = Variant::method("ERNODE, error");
pub(crate) const ERROR_SUM: Variant = Variant::method("ERNODE, error, sum");
pub(crate) const STIFFNESS: Variant = Variant::method("ERNODE, stiffness");
pub(crate) const BOTH: Variant = Variant::method("ERNODE, both");
pub(crate) const GLOBAL: Variant = Variant::baseline("global: ERNODE, error");
pub(crate) const BIASED: Variant = Variant::method("local, biased");
pub(crate) const UNBIASED: Variant = Variant::method("local, unbiased");
pub(crate) const BIASED_STIFFNESS: Variant = Variant::method("local, biased, stiffness");
pub(crate) const UNBIASED_STIFFNESS: Variant = Variant::method("local, unbiased, stiffness");
pub(crate) const INITIAL: Variant = Variant::baseline("local, first step of a solver");
pub(crate) const OFFICIAL: Variant = Variant::baseline("local, as the official code");

/// What is added to the loss, or done to the times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Nothing,
    /// Times are drawn.
    Steer,
    /// `R_K` of TayNODE, of this order.
    Derivative(usize),
    Global(Penalty),
    Local(LocalPenalty),
}

/// A kind with its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Regularisation {
    kind: Kind,
    /// At the beginning and at the end of a training.
    weights: [f64; 2],
}

/// What a solve found.
pub(crate) struct Solved {
    /// At the times that were asked for (by STEER: near them).
    pub(crate) values: Vec<Tensor<2>>,
    /// With its weight, `[1]`.
    pub(crate) penalty: Option<Tensor<1>>,
    /// Of the field, without those of gradients.
    pub(crate) evaluations: usize,
}

/// Where a training is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) epoch: usize,
    pub(crate) epochs: usize,
    /// From 0.
    pub(crate) update: usize,
    pub(crate) updates: usize,
}

impl Regularisation {
    pub(crate) const NONE: Self = Self {
        kind: Kind::Nothing,
        weights: [0.0; 2],
    };

    pub(crate) const STEER: Self = Self {
        kind: Kind::Steer,
        weights: [0.0; 2],
    };

    pub(crate) fn derivative(order: usize, weight: f64) -> Self {
        Self {
            kind: Kind::Derivative(order),
            weights: [weight; 2],
        }
    }

    /// - `weights`: at the beginning and at the end
    pub(crate) fn global(heuristic: Heuristic, reduction: Reduction, weights: [f64; 2]) -> Self {
        Self {
            kind: Kind::Global(Penalty::new(heuristic).with_reduction(reduction)),
            weights,
        }
    }

    /// - `weights`: at the beginning and at the end
    pub(crate) fn local(
        heuristic: Heuristic,
        sampling: Sampling,
        weights: [f64; 2],
    ) -> Result<Self, OutOfRange> {
        Ok(Self {
            kind: Kind::Local(LocalPenalty::new(heuristic, sampling)?),
            weights,
        })
    }

    /// With the first step of a solver that begins there.
    pub(crate) fn at_initial_step(self) -> Self {
        self.map(|local| local.with_step_size(StepSize::Initial))
    }

    /// With the gradient of the official code.
    pub(crate) fn official(self) -> Self {
        self.at_initial_step()
            .map(LocalPenalty::with_constant_first_stage)
    }

    fn map(self, change: impl Fn(LocalPenalty) -> LocalPenalty) -> Self {
        match self.kind {
            Kind::Local(local) => Self {
                kind: Kind::Local(change(local)),
                ..self
            },
            _ => self,
        }
    }

    /// Whether an adjoint of the solver's own does: not for a penalty on all steps, which the steps' own gradient knows.
    pub(crate) fn any_adjoint(&self) -> bool {
        !matches!(self.kind, Kind::Global(_))
    }

    /// `λ`, which falls by epochs in ERNODE and by updates in local regularisation.
    fn weight(&self, clock: Clock) -> Result<f64, ClaimError> {
        let [start, end] = self.weights;
        if start == 0.0 {
            return Ok(0.0);
        }
        let (place, steps) = match self.kind {
            Kind::Local(_) => (clock.update + 1, clock.updates),
            _ => (clock.epoch, clock.epochs),
        };
        let annealing = Annealing::new(start, end, steps).map_err(ClaimError::experiment)?;
        Ok(annealing.weight(place))
    }

    /// A solve of a training.
    ///
    /// - `start`: `[batch, d]`
    pub(crate) fn solve<F: Field>(
        &self,
        solver: &Solver,
        field: &F,
        start: Tensor<2>,
        times: &[f64],
        clock: Clock,
        draws: &mut SeededNoise,
    ) -> Result<Solved, ClaimError> {
        let weight = self.weight(clock)?;
        let plain = |times: &[f64], start: Tensor<2>| {
            let found = solver.solve(field, start, times);
            found.map_err(ClaimError::experiment)
        };
        let (solution, penalty) = match self.kind {
            Kind::Nothing => (plain(times, start)?, None),
            Kind::Steer => {
                let drawn = match times {
                    &[first, last] => {
                        let width = 0.5 * (last - first);
                        let end = steer::drawn_end(first, last, width, draws);
                        vec![first, end.map_err(ClaimError::experiment)?]
                    }
                    _ => steer::drawn_times(times, draws).map_err(ClaimError::experiment)?,
                };
                (plain(&drawn, start)?, None)
            }
            Kind::Derivative(order) => {
                let extended = WithDerivatives::new(field.clone(), order);
                let extended = extended.map_err(ClaimError::experiment)?;
                let start = taynode::extended(start);
                let solution = solver.solve(&extended, start, times);
                let solution = solution.map_err(ClaimError::experiment)?;
                let (_, penalty) = taynode::divided(&solution);
                // Each evaluation of the extended field is so many of the field.
                let each = [1, 5, 10][order - 1];
                let width = penalty_free_width(&solution.last());
                let values = (0..times.len()).filter_map(|place| solution.at(place));
                return Ok(Solved {
                    values: values.map(|x| x.narrow(1, 0, width)).collect(),
                    penalty: Some(penalty.mean() * weight),
                    evaluations: each * solution.statistics().evaluations(),
                });
            }
            Kind::Global(penalty) => {
                let solution = plain(times, start)?;
                let penalty = penalty.of(&solution) * weight;
                (solution, Some(penalty))
            }
            Kind::Local(local) => {
                let (solution, penalty) = local
                    .solve(solver, field, start, times, draws)
                    .map_err(ClaimError::experiment)?;
                (solution, Some(penalty * weight))
            }
        };
        Ok(Solved {
            values: (0..times.len()).filter_map(|i| solution.at(i)).collect(),
            penalty,
            evaluations: solution.statistics().evaluations(),
        })
    }

    /// A solve of a stochastic equation in a training, and the penalty, `[1]`.
    pub(crate) fn solve_stochastic<F: Field, G: Field>(
        &self,
        solver: &SdeSolver,
        (drift, diffusion): (&F, &G),
        start: Tensor<2>,
        times: &[f64],
        clock: Clock,
        draws: &mut SeededNoise,
    ) -> Result<(SdeSolution, Option<Tensor<1>>), ClaimError> {
        let weight = self.weight(clock)?;
        let seed: u64 = draws.random();
        if let Kind::Local(local) = self.kind {
            let found = local.solve_stochastic(solver, drift, diffusion, start, times, seed, draws);
            let (solution, penalty) = found.map_err(ClaimError::experiment)?;
            return Ok((solution, Some(penalty * weight)));
        }
        let solution = solver.solve(drift, diffusion, start, times, seed);
        let solution = solution.map_err(ClaimError::experiment)?;
        let penalty = match self.kind {
            Kind::Global(penalty) => Some(penalty.of_stochastic(&solution) * weight),
            _ => None,
        };
        Ok((solution, penalty))
    }
}

/// The loss of a task, `[1]`, and a penalty, if there is one.
pub(crate) fn with_penalty(task: Tensor<1>, penalty: Option<Tensor<1>>) -> Tensor<1> {
    match penalty {
        Some(penalty) => task + penalty,
        None => task,
    }
}

/// The width of a state whose last number is a penalty.
fn penalty_free_width(state: &Tensor<2>) -> usize {
    state.dims()[1] - 1
}

/// The adjoint that a training uses: its own, if the penalty allows it.
pub(crate) fn with_adjoint(
    solver: &Solver,
    regularisation: &Regularisation,
    adjoint: Adjoint,
) -> Solver {
    match regularisation.any_adjoint() {
        true => solver.clone().with_adjoint(adjoint),
        false => solver.clone(),
    }
}
