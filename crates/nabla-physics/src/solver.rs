//! Solving an equation.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor};
use nabla_base::range;

use crate::adjoint::{self, Adjoint, Cotangents};
use crate::controller::Controller;
use crate::event::Event;
use crate::field::{Field, FieldSystem, Pulled};
use crate::method::Method;
use crate::numbers::tensor_like;
use crate::operation::{Pullback, attached};
use crate::options::Options;
use crate::run::{Keep, Plan, Record, Run, first_lengths, run};
use crate::solve_error::SolveError;

/// How the steps of the trajectories of a batch depend on each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Steps {
    /// All take the same steps, with the error over all of them: the batch is one state.
    #[default]
    Joint,
    /// Each takes its own. All are evaluated until the last has arrived.
    PerTrajectory,
}

/// A solver: a method, a controller and an adjoint, which are chosen apart from each other.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_physics::{Controller, Method, Solver, field::field};
///
/// // A pendulum of small swings.
/// let swing = field(|u: Tensor<2>, _t| {
///     let [place, speed] = [0, 1].map(|i| u.clone().slice_dim(1, i..i + 1));
///     Tensor::cat(vec![speed, -place], 1)
/// });
/// let start = Tensor::<2>::from_floats([[1.0, 0.0]], &Device::flex());
/// let solver = Solver::new(Method::TSIT5).with_tolerances(1e-6, 1e-6).with_controller(Controller::PI);
/// let solution = solver.solve(&swing, start, &[0.0, 1.0, 2.0])?;
/// let places: Vec<f32> = solution.values().into_data().iter().collect(); // [times, batch, d]
/// assert!((places[4] - 2.0_f32.cos()).abs() < 1e-5);
/// assert!(solution.statistics().accepted() > 3);
/// # Ok::<(), nabla_physics::SolveError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Solver {
    method: Method,
    options: Options,
    adjoint: Adjoint,
    longest_step: f64,
    steps: Steps,
    events: Vec<Event>,
    constant_first_stage: bool,
}

impl Solver {
    /// With the tolerances `10⁻⁶` (absolute) and `10⁻³` (relative), PI control and the discrete adjoint.
    pub fn new(method: Method) -> Self {
        Self {
            method,
            options: Options::new([1e-6, 1e-3], Controller::default()),
            adjoint: Adjoint::default(),
            longest_step: f64::INFINITY,
            steps: Steps::default(),
            events: Vec::new(),
            constant_first_stage: false,
        }
    }

    /// Sets the error of a step that is accepted: `absolute + relative |u|`. In `f32`, tolerances below `10⁻⁶` meet rounding.
    #[must_use]
    pub fn with_tolerances(mut self, absolute: f64, relative: f64) -> Self {
        self.options.tolerances = [absolute, relative];
        self
    }

    /// Sets the controller.
    #[must_use]
    pub fn with_controller(mut self, controller: Controller) -> Self {
        self.options.controller = controller;
        self
    }

    /// Sets how gradients are computed.
    #[must_use]
    pub fn with_adjoint(mut self, adjoint: Adjoint) -> Self {
        self.adjoint = adjoint;
        self
    }

    /// Sets the length of the first step, which is found from the field otherwise.
    #[must_use]
    pub fn with_first_step(mut self, length: f64) -> Self {
        self.options.first_step = Some(length);
        self
    }

    /// Steps of one length; the last before an event or the end may be shorter.
    #[must_use]
    pub fn with_constant_step(self, length: f64) -> Self {
        self.with_controller(Controller::Constant)
            .with_first_step(length)
    }

    /// Sets the longest step.
    #[must_use]
    pub fn with_longest_step(mut self, length: f64) -> Self {
        self.longest_step = length;
        self
    }

    /// Sets the most steps, rejected ones too. Default 100 000.
    #[must_use]
    pub fn with_most_steps(mut self, steps: usize) -> Self {
        self.options.most_steps = steps;
        self
    }

    /// Sets whether trajectories have steps of their own.
    #[must_use]
    pub fn with_steps(mut self, steps: Steps) -> Self {
        self.steps = steps;
        self
    }

    /// Adds an event.
    #[must_use]
    pub fn with_event(mut self, event: Event) -> Self {
        self.events.push(event);
        self
    }

    /// Whether the gradient leaves out the very first slope.
    pub(crate) fn with_constant_first_stage(mut self, constant: bool) -> Self {
        self.constant_first_stage = constant;
        self
    }

    /// Whether trajectories have steps of their own.
    pub fn steps(&self) -> Steps {
        self.steps
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The absolute and the relative tolerance.
    pub fn tolerances(&self) -> [f64; 2] {
        self.options.tolerances
    }

    /// Solves `u' = f(u, t)`.
    ///
    /// On an autodiff device, what the solution has can be differentiated by the initial state and by the field's
    /// parameters.
    ///
    /// - `start`: the state at the first time, `[batch, d]`
    /// - `times`: rising, at least two; the steps do not depend on those in between
    ///
    /// # Errors
    /// If an option or a time is out of range, the state or the field is not finite or has another shape, or the steps
    /// become too short or too many.
    pub fn solve<F: Field>(
        &self,
        field: &F,
        start: Tensor<2>,
        times: &[f64],
    ) -> Result<Solution, SolveError> {
        let plan = self.plan(&start, times)?;
        Ok(self.solved(plan, field, start, times)?.0)
    }

    /// Solves, and returns the state before each step too, without graph.
    pub(crate) fn solve_with_states<F: Field>(
        &self,
        field: &F,
        start: Tensor<2>,
        times: &[f64],
    ) -> Result<(Solution, Vec<Tensor<2>>), SolveError> {
        let plan = Plan {
            keep_states: true,
            ..self.plan(&start, times)?
        };
        self.solved(plan, field, start, times)
    }

    /// The length of the first step from a state, without graph, at a time.
    pub(crate) fn initial_step<F: Field>(
        &self,
        field: &F,
        state: Tensor<2>,
        time: f64,
        last: f64,
    ) -> Result<f64, SolveError> {
        let plain = Self {
            options: self.options.searching(),
            events: Vec::new(),
            ..self.clone()
        };
        let plan = plain.plan(&state, &[time, last])?;
        let mut system = FieldSystem::new(field);
        let lengths = first_lengths(&plan, &mut system, &state, &[time, last])?;
        Ok(lengths[0])
    }

    fn solved<F: Field>(
        &self,
        plan: Plan,
        field: &F,
        start: Tensor<2>,
        times: &[f64],
    ) -> Result<(Solution, Vec<Tensor<2>>), SolveError> {
        let parameters = field.parameters();
        let wanted = [
            start.is_tracked(),
            parameters.as_ref().is_some_and(Tensor::is_tracked),
        ];
        let mut system = FieldSystem::new(field);
        let plain = start.clone().inner();
        if wanted == [false; 2] {
            let mut found = run(&plan, &mut system, plain, times, Keep::Nothing)?;
            let states = std::mem::take(&mut found.states);
            return Ok((Solution::plain(times, found, system.evaluations), states));
        }
        if plain.device() != Device::flex() {
            return Err(SolveError::Device(format!("{:?}", plain.device())));
        }
        let (mut found, pull) = adjoint::forward(self.adjoint, plan, system, plain, times, wanted)?;
        let parameters =
            parameters.unwrap_or_else(|| start.clone().inner().slice([0..1, 0..1]).reshape([1]));
        let states = std::mem::take(&mut found.run.states);
        let solution = Solution::tracked(times, found, start.clone(), parameters, pull);
        Ok((solution, states))
    }

    /// The plan, with all options and times checked.
    fn plan(&self, start: &Tensor<2>, times: &[f64]) -> Result<Plan, SolveError> {
        self.method.check()?;
        range::check(
            self.longest_step > 0.0,
            "longest step",
            self.longest_step,
            "positive",
        )?;
        self.options.check(start, times)?;
        let (first, last) = (times[0], times[times.len() - 1]);
        let mut events = self.events.clone();
        events.sort_by(|a, b| a.time.total_cmp(&b.time));
        if let Some(event) = events
            .iter()
            .find(|event| !(first < event.time && event.time < last))
        {
            return Err(SolveError::EventOutside {
                time: event.time,
                start: first,
                end: last,
            });
        }
        Ok(Plan {
            method: self.method,
            options: self.options,
            longest_step: self.longest_step,
            apart: self.steps == Steps::PerTrajectory,
            columns: start.dims()[1],
            events,
            keep_states: false,
            constant_first_stage: self.constant_first_stage,
        })
    }
}

/// What a solver did.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    accepted: Vec<usize>,
    rejected: Vec<usize>,
    evaluations: usize,
    steps: Vec<Step>,
}

/// A step. All lists have one number if the steps are joint, and one for each trajectory otherwise; then a trajectory with
/// the length 0 did not move.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// When it began.
    pub times: Vec<f64>,
    /// How long it was.
    pub lengths: Vec<f64>,
    /// The local error estimate `E`, divided by the tolerance: at most 1.
    pub errors: Vec<f64>,
    /// The stiffness estimate `S`, per time; 0 where the method has none.
    pub stiffness: Vec<f64>,
}

impl Statistics {
    /// Accepted steps, of all trajectories together if each has its own.
    pub fn accepted(&self) -> usize {
        self.accepted.iter().sum()
    }

    /// Accepted steps of each trajectory; one number if the steps are joint.
    pub fn accepted_by_trajectory(&self) -> &[usize] {
        &self.accepted
    }

    /// Rejected steps, of all trajectories together if each has its own.
    pub fn rejected(&self) -> usize {
        self.rejected.iter().sum()
    }

    /// Rejected steps of each trajectory; one number if the steps are joint.
    pub fn rejected_by_trajectory(&self) -> &[usize] {
        &self.rejected
    }

    /// Evaluations of the field (of all trajectories at once), without those of gradients.
    pub fn evaluations(&self) -> usize {
        self.evaluations
    }

    /// The steps that were accepted.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Of joint steps, none of which was taken yet.
    pub(crate) fn empty() -> Self {
        Self {
            accepted: vec![0],
            rejected: vec![0],
            evaluations: 0,
            steps: Vec::new(),
        }
    }

    /// Counts a joint step.
    pub(crate) fn count(&mut self, accepted: bool, evaluations: usize) {
        let counts = if accepted {
            &mut self.accepted
        } else {
            &mut self.rejected
        };
        counts.iter_mut().for_each(|count| *count += 1);
        self.evaluations += evaluations;
    }

    pub(crate) fn take(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// A list of the steps, `[steps, groups]`, without graph.
    pub(crate) fn of_steps(&self, list: fn(&Step) -> &Vec<f64>, like: &Tensor<2>) -> Tensor<2> {
        let numbers = self.steps.iter().flat_map(list).copied();
        let shape = [self.steps.len(), self.accepted.len()];
        tensor_like(numbers.collect(), shape, &like.clone().inner())
    }
}

/// A solution at the times that were asked for.
///
/// On an autodiff device, values, errors and stiffness estimates are part of the graph. `errors` and `stiffness` are
/// differentiable by the discrete adjoint only, and step lengths never are: they are constants, as in the official code of
/// ERNODE.
#[derive(Clone, Debug)]
pub struct Solution {
    times: Vec<f64>,
    values: Vec<Tensor<2>>,
    errors: Tensor<2>,
    stiffness: Tensor<2>,
    statistics: Statistics,
    failure: Failure,
}

/// Where a backward pass leaves its error.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<SolveError>>>);

impl Failure {
    fn set(&self, error: SolveError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    fn get(&self) -> Option<SolveError> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Solution {
    /// Without graph.
    fn plain(times: &[f64], found: Run, evaluations: usize) -> Self {
        let steps = found.records.into_iter().filter_map(|record| match record {
            Record::Step(step) => Some(Step {
                times: step.times,
                lengths: step.lengths,
                errors: step.errors,
                stiffness: step.stiffness,
            }),
            Record::Change(_) => None,
        });
        let statistics = Statistics {
            accepted: found.accepted,
            rejected: found.rejected,
            evaluations,
            steps: steps.collect(),
        };
        let like = &found.values[0];
        Self {
            times: times.to_vec(),
            errors: statistics.of_steps(|step| &step.errors, like),
            stiffness: statistics.of_steps(|step| &step.stiffness, like),
            values: found.values,
            statistics,
            failure: Failure::default(),
        }
    }

    /// As one node of a graph.
    fn tracked(
        times: &[f64],
        found: adjoint::Found,
        start: Tensor<2>,
        parameters: Tensor<1>,
        pull: adjoint::Pull,
    ) -> Self {
        let adjoint::Found {
            run,
            evaluations,
            estimates: with_estimates,
        } = found;
        let mut solution = Self::plain(times, run, evaluations);
        let dims @ [batch, width] = start.dims();
        let saves = times.len() - 1;
        let estimates = solution.errors.dims();
        let flat = |x: &Tensor<2>| x.clone().reshape([-1]);
        let mut parts: Vec<Tensor<1>> = solution.values[1..].iter().map(flat).collect();
        if with_estimates {
            parts.extend([&solution.errors, &solution.stiffness].map(flat));
        }
        let values = if parts.len() == 1 {
            parts.swap_remove(0)
        } else {
            Tensor::cat(parts, 0)
        };
        let (shape, failure) = (start.clone().inner(), solution.failure.clone());
        let count = parameters.dims()[0];
        let number = batch * width;
        let pullback = Pullback::new(move |gradient: Tensor<1>| -> Pulled {
            let part = |from: usize, dims: [usize; 2]| -> Tensor<2> {
                gradient
                    .clone()
                    .narrow(0, from, dims[0] * dims[1])
                    .reshape(dims)
            };
            let by_values = (0..saves).map(|save| part(save * number, dims)).collect();
            let [by_errors, by_stiffness] = [0, 1].map(|which| {
                let count = estimates[0] * estimates[1];
                with_estimates.then(|| part(saves * number + which * count, estimates))
            });
            let cotangents = Cotangents {
                by_values,
                by_errors,
                by_stiffness,
            };
            pull(cotangents).unwrap_or_else(|error| {
                failure.set(error);
                let by_state = tensor_like(vec![f64::NAN; number], dims, &shape);
                let by_parameters = tensor_like(vec![f64::NAN; count], [count], &shape);
                (by_state, Some(by_parameters))
            })
        });
        let all = attached(values, start.clone(), parameters, pullback);
        let part = |from: usize, dims: [usize; 2]| -> Tensor<2> {
            all.clone().narrow(0, from, dims[0] * dims[1]).reshape(dims)
        };
        solution.values[0] = start;
        for save in 0..saves {
            solution.values[save + 1] = part(save * number, dims);
        }
        if with_estimates {
            let count = estimates[0] * estimates[1];
            solution.errors = part(saves * number, estimates);
            solution.stiffness = part(saves * number + count, estimates);
        }
        solution
    }

    /// Leaves one of the times out.
    pub(crate) fn remove(&mut self, index: usize) {
        self.times.remove(index);
        self.values.remove(index);
    }

    /// The times that were asked for.
    pub fn times(&self) -> &[f64] {
        &self.times
    }

    /// The states at all times, `[times, batch, d]`.
    pub fn values(&self) -> Tensor<3> {
        Tensor::stack(self.values.clone(), 0)
    }

    /// The state at the time with a number from 0, `[batch, d]`; `None` beyond the last.
    pub fn at(&self, index: usize) -> Option<Tensor<2>> {
        self.values.get(index).cloned()
    }

    /// The state at the last time, `[batch, d]`.
    pub fn last(&self) -> Tensor<2> {
        self.values[self.values.len() - 1].clone()
    }

    /// The local error estimates `E` of the steps, divided by the tolerance, `[steps, 1]`, or `[steps, batch]` with steps
    /// of their own (0 where a trajectory did not move).
    pub fn errors(&self) -> Tensor<2> {
        self.errors.clone()
    }

    /// The stiffness estimates `S` of the steps, of the shape of [`errors`](Self::errors).
    pub fn stiffness(&self) -> Tensor<2> {
        self.stiffness.clone()
    }

    /// The lengths of the steps, of the shape of [`errors`](Self::errors), without graph.
    pub fn lengths(&self) -> Tensor<2> {
        self.statistics.of_steps(|step| &step.lengths, &self.errors)
    }

    /// What the solver did.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Why the gradient could not be computed, after a backward pass in which that happened: then it is NaN, since Burn's
    /// backward pass returns no errors.
    pub fn gradient_failure(&self) -> Option<SolveError> {
        self.failure.get()
    }
}

#[cfg(test)]
mod tests;
