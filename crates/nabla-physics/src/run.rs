//! The loop over the steps, for every method, controller and adjoint.

use burn::tensor::{DType, Tensor};
use nabla_kernels::row_combination::{Term, row_combination};

use crate::controller::Memory;
use crate::event::Event;
use crate::field::{Stage, System, checked};
use crate::first_step;
use crate::method::{Attempt, First, Method, moves};
use crate::norms;
use crate::numbers::numbers;
use crate::options::Options;
use crate::solve_error::SolveError;

mod saved;

pub(crate) use saved::{factors_at, has_inside, value_at};

/// What a run is told.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) method: Method,
    pub(crate) options: Options,
    pub(crate) longest_step: f64,
    /// Whether each trajectory has steps of its own.
    pub(crate) apart: bool,
    /// How many columns of the state have their errors controlled.
    pub(crate) columns: usize,
    /// In the order of their times.
    pub(crate) events: Vec<Event>,
    /// Whether the state before each step is kept.
    pub(crate) keep_states: bool,
    /// Whether the very first slope has no gradient.
    pub(crate) constant_first_stage: bool,
}

/// What a run keeps for its gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    /// The graphs of all stages of the first [`GRAPHS`] steps, and a state for as many of those that follow.
    Graphs,
    /// All stages without graphs, from which states between the steps follow.
    Stages,
    /// A state for so many steps, 0 for the square root of their number.
    States(usize),
}

/// The steps whose graphs are kept at once. Whenever Burn follows a graph, it looks through all that there are, so that the
/// time for many of them grows with their square.
pub(crate) const GRAPHS: usize = 16;

/// A state that is asked for, within a step.
#[derive(Clone, Debug)]
pub(crate) struct Save {
    /// Which of the times, from 0.
    pub(crate) index: usize,
    /// At which share of the step, for all trajectories or each; NaN for those that pass this time in another step.
    pub(crate) shares: Vec<f64>,
}

/// A step that was taken.
#[derive(Clone, Debug)]
pub(crate) struct StepTaken {
    pub(crate) times: Vec<f64>,
    /// 0 for trajectories that did not move.
    pub(crate) lengths: Vec<f64>,
    pub(crate) saves: Vec<Save>,
    pub(crate) errors: Vec<f64>,
    pub(crate) stiffness: Vec<f64>,
    /// Whether it began with the last slope of the step before.
    pub(crate) shares_first: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Record {
    Step(StepTaken),
    /// An event with a change, by its number.
    Change(usize),
}

/// What was kept of a record.
#[derive(Debug)]
pub(crate) enum Kept {
    Step(Attempt),
    Change(Stage),
}

#[derive(Debug)]
pub(crate) struct Run {
    /// At each of the times, `[batch, d]`.
    pub(crate) values: Vec<Tensor<2>>,
    pub(crate) records: Vec<Record>,
    /// For each record, if stages are kept; for the first records, if graphs are; changes alone, if states are.
    pub(crate) kept: Vec<Kept>,
    /// States before records.
    pub(crate) checkpoints: Vec<(usize, Tensor<2>)>,
    /// Before each step, if they are kept.
    pub(crate) states: Vec<Tensor<2>>,
    pub(crate) rejected: Vec<usize>,
    pub(crate) accepted: Vec<usize>,
}

/// Solves from the first of the times to the last.
///
/// - `start`: `[batch, d]`, without graph
/// - `times`: checked
pub(crate) fn run(
    plan: &Plan,
    system: &mut dyn System,
    start: Tensor<2>,
    times: &[f64],
    keep: Keep,
) -> Result<Run, SolveError> {
    let mut run = Running::new(plan, &start, times, keep);
    run.out.values[0] = start;
    run.begin(system)?;
    for (number, event) in plan.events.iter().enumerate() {
        run.advance(system, event.time)?;
        run.first = None;
        if event.change.is_some() {
            run.out.records.push(Record::Change(number));
            let stage = changed(event, &run.state, keep != Keep::Nothing)?;
            run.state = stage.slope.clone();
            if !run.is_replayed() {
                run.out.kept.push(Kept::Change(stage));
            }
        }
    }
    run.advance(system, times[times.len() - 1])?;
    Ok(run.out)
}

/// The lengths of the first steps.
pub(crate) fn first_lengths(
    plan: &Plan,
    system: &mut dyn System,
    start: &Tensor<2>,
    times: &[f64],
) -> Result<Vec<f64>, SolveError> {
    let mut run = Running::new(plan, start, times, Keep::Nothing);
    run.begin(system)?;
    Ok(run.lengths)
}

/// An event's change of the state.
pub(crate) fn changed(
    event: &Event,
    state: &Tensor<2>,
    tracked: bool,
) -> Result<Stage, SolveError> {
    let Some(change) = &event.change else {
        return Ok(Stage::plain(state.clone(), state.clone()));
    };
    if !tracked {
        let slope = checked(state, change(state.clone()).inner())?;
        return Ok(Stage::plain(state.clone(), slope));
    }
    let plain = change(state.clone());
    if plain.is_tracked() {
        return Err(SolveError::HiddenInEvent(event.time));
    }
    let leaf = state.clone().autodiff().require_grad();
    let output = change(leaf.clone());
    Stage::tracked(state.clone(), leaf, output, |_| None)
}

struct Running<'a> {
    plan: &'a Plan,
    keep: Keep,
    times: &'a [f64],
    /// By trajectory, or of all together, as what follows.
    now: Vec<f64>,
    next_save: Vec<usize>,
    /// Of the next step.
    lengths: Vec<f64>,
    memories: Vec<Memory>,
    first: Option<First>,
    state: Tensor<2>,
    /// Steps from a checkpoint to the next, and since the last.
    every: usize,
    since: usize,
    steps: usize,
    out: Run,
}

impl<'a> Running<'a> {
    fn new(plan: &'a Plan, start: &Tensor<2>, times: &'a [f64], keep: Keep) -> Self {
        let groups = if plan.apart { start.dims()[0] } else { 1 };
        Self {
            plan,
            keep,
            times,
            now: vec![times[0]; groups],
            next_save: vec![1; groups],
            lengths: vec![0.0; groups],
            memories: vec![Memory::new(&plan.options.controller); groups],
            first: None,
            state: start.clone(),
            every: match keep {
                Keep::States(0) => 1,
                Keep::States(every) => every,
                Keep::Graphs => GRAPHS,
                _ => usize::MAX,
            },
            since: usize::MAX,
            steps: 0,
            out: Run {
                values: vec![start.zeros_like(); times.len()],
                records: Vec::new(),
                kept: Vec::new(),
                checkpoints: Vec::new(),
                states: Vec::new(),
                rejected: vec![0; groups],
                accepted: vec![0; groups],
            },
        }
    }

    /// Whether the graphs of the step that comes next are kept.
    fn is_tracked(&self) -> bool {
        self.keep == Keep::Graphs && self.out.records.len() < GRAPHS
    }

    /// Whether graphs are kept, but not those of the last record, which follows a checkpoint. A change may come between
    /// the last step whose graph is kept and the first checkpoint.
    fn is_replayed(&self) -> bool {
        self.keep == Keep::Graphs && !self.out.checkpoints.is_empty()
    }

    fn scaled_norms(&self, error: &Tensor<2>, states: [&Tensor<2>; 2]) -> Vec<f64> {
        let Plan { columns, apart, .. } = *self.plan;
        norms::of_groups(error, states, self.plan.options.tolerances, columns, apart)
    }

    /// The first evaluation, and the length of the first step.
    fn begin(&mut self, system: &mut dyn System) -> Result<(), SolveError> {
        let (plan, start) = (self.plan, self.state.clone());
        let sizes = self.scaled_norms(&start, [&start, &start]);
        if sizes.iter().any(|size| !size.is_finite()) {
            check_finite(&start)?;
        }
        let tracked = self.is_tracked() && !plan.constant_first_stage;
        let stage = system.evaluate(start.clone(), &self.now, tracked)?;
        let slopes = self.scaled_norms(&stage.slope, [&start, &start]);
        if let Some(trajectory) = slopes.iter().position(|slope| !slope.is_finite()) {
            return Err(SolveError::NotFinite {
                time: self.now[trajectory],
                trajectory,
            });
        }
        match plan.options.first_step {
            Some(length) => self.lengths.fill(length),
            None if !plan.options.controller.is_adaptive() => return Err(SolveError::NoLength),
            None => self.search(system, &stage.slope, &sizes, &slopes)?,
        }
        for length in &mut self.lengths {
            *length = length.min(plan.longest_step);
        }
        if matches!(plan.method, Method::Explicit(_)) {
            self.first = Some(First {
                stage,
                shared: false,
            });
        }
        Ok(())
    }

    /// Searches the lengths of the first steps.
    ///
    /// - `slope`: the first one, `[batch, d]`
    /// - `sizes`, `slopes`: the norms of the state, and of this slope
    fn search(
        &mut self,
        system: &mut dyn System,
        slope: &Tensor<2>,
        sizes: &[f64],
        slopes: &[f64],
    ) -> Result<(), SolveError> {
        let interval = self.times[self.times.len() - 1] - self.times[0];
        let guess = sizes.iter().zip(slopes);
        let guess: Vec<f64> = guess
            .map(|(&size, &slope)| first_step::guess(size, slope, interval))
            .collect();
        let moved = row_combination(&[
            Term {
                factors: &[1.0],
                matrix: &self.state,
            },
            Term {
                factors: &guess,
                matrix: slope,
            },
        ]);
        let times: Vec<f64> = self.now.iter().zip(&guess).map(|(t, h)| t + h).collect();
        let other = system.evaluate(moved, &times, false)?.slope;
        let changes = self.scaled_norms(&(other - slope.clone()), [&self.state; 2]);
        let order = self.plan.method.error_order() as f64;
        for (group, length) in self.lengths.iter_mut().enumerate() {
            let (guess, slope, change) = (guess[group], slopes[group], changes[group]);
            *length = first_step::length(guess, slope, change, order, interval);
        }
        Ok(())
    }

    /// Steps until all trajectories are at `stop`.
    fn advance(&mut self, system: &mut dyn System, stop: f64) -> Result<(), SolveError> {
        while self.now.iter().any(|&now| now < stop) {
            self.step(system, stop)?;
        }
        Ok(())
    }

    fn step(&mut self, system: &mut dyn System, stop: f64) -> Result<(), SolveError> {
        let (plan, method) = (self.plan, &self.plan.method);
        if self.steps == plan.options.most_steps {
            let time = self.now.iter().copied().fold(f64::INFINITY, f64::min);
            return Err(SolveError::TooManySteps {
                time,
                steps: self.steps,
            });
        }
        self.steps += 1;
        let slack = plan.options.controller.slack();
        // The lengths that are tried; 0 for trajectories that have arrived.
        let each = self
            .now
            .iter()
            .zip(&self.lengths)
            .map(|(&now, &length)| match now < stop {
                true if now + length * (1.0 + slack) >= stop => stop - now,
                true => length,
                false => 0.0,
            });
        let lengths: Vec<f64> = each.collect();
        self.check_lengths(&lengths, stop)?;
        let tracked = self.is_tracked();
        let first = self.first.take();
        let mut attempt =
            method.attempt(system, &self.state, &self.now, &lengths, first, tracked)?;

        let scales = method.scales(&lengths);
        let error = attempt.sum(None, method.error_weights(), &scales);
        let errors = self.scaled_norms(&error, [&attempt.before, &attempt.after]);
        let mut taken = vec![false; lengths.len()];
        for group in 0..lengths.len() {
            let now = self.now[group];
            if lengths[group] == 0.0 {
                continue;
            }
            if !plan.options.controller.is_adaptive() && !errors[group].is_finite() {
                return Err(SolveError::NotFinite {
                    time: now,
                    trajectory: group,
                });
            }
            let order = method.error_order() as f64;
            let (accepted, factor) =
                self.memories[group].next(&plan.options.controller, errors[group], order);
            let next = match plan.options.controller.is_adaptive() {
                true => (lengths[group] * factor).min(plan.longest_step),
                false => self.lengths[group],
            };
            // A step that was cut off says nothing against the length before.
            let cut = accepted && lengths[group] < self.lengths[group];
            self.lengths[group] = if cut {
                next.max(self.lengths[group])
            } else {
                next
            };
            taken[group] = accepted;
            match accepted {
                true => self.out.accepted[group] += 1,
                false => self.out.rejected[group] += 1,
            }
            if !accepted && !errors[group].is_finite() {
                let shortest = 10.0 * f64::EPSILON * now.abs().max(f64::MIN_POSITIVE);
                if self.lengths[group] < shortest.max(f64::MIN_POSITIVE * 1e20) {
                    return Err(SolveError::NotFinite {
                        time: now,
                        trajectory: group,
                    });
                }
            }
        }
        if !taken.contains(&true) {
            let shared = attempt.shares_first;
            if matches!(method, Method::Explicit(_)) {
                let stage = attempt.stages.swap_remove(0);
                self.first = Some(First { stage, shared });
            }
            return Ok(());
        }
        let stiffness = self.stiffness(&attempt);
        self.take(system, attempt, &taken, [errors, stiffness], stop)
    }

    /// Checks that the steps can be told from their times.
    fn check_lengths(&self, lengths: &[f64], stop: f64) -> Result<(), SolveError> {
        for (trajectory, &length) in lengths.iter().enumerate() {
            let time = self.now[trajectory];
            let least = 10.0 * f64::EPSILON * time.abs();
            if time < stop && length < stop - time && (length < least || length < 1e-290) {
                return Err(SolveError::Underflow {
                    time,
                    length,
                    trajectory,
                });
            }
        }
        Ok(())
    }

    /// The stiffness estimate of each group.
    fn stiffness(&self, attempt: &Attempt) -> Vec<f64> {
        let groups = self.now.len();
        match self.plan.method {
            Method::Explicit(tableau) => {
                let Some(pair) = tableau.stiffness else {
                    return vec![0.0; groups];
                };
                let [first, second] = [pair.first, pair.second].map(|i| &attempt.stages[i]);
                let norms = |a: &Tensor<2>, b: &Tensor<2>| {
                    let x = difference(a, b);
                    norms::of_groups(&x, [&x; 2], norms::PLAIN, x.dims()[1], self.plan.apart)
                };
                let slopes = norms(&second.slope, &first.slope);
                let states = norms(&second.argument, &first.argument);
                let each = slopes.into_iter().zip(states);
                each.map(|(a, b)| if b > 0.0 { a / b } else { 0.0 })
                    .collect()
            }
            Method::Rosenbrock(_) => {
                let each = attempt
                    .factors
                    .as_ref()
                    .map(|factors| factors.stiffness.as_slice());
                let each = each.unwrap_or_default();
                match self.plan.apart {
                    true => each.to_vec(),
                    false => vec![each.iter().copied().fold(0.0, f64::max)],
                }
            }
        }
    }

    /// Goes on from an attempt in which some group is accepted.
    fn take(
        &mut self,
        system: &mut dyn System,
        mut attempt: Attempt,
        taken: &[bool],
        [mut errors, mut stiffness]: [Vec<f64>; 2],
        stop: f64,
    ) -> Result<(), SolveError> {
        let method = self.plan.method;
        self.checkpoint();
        if self.plan.keep_states {
            self.out.states.push(self.state.clone());
        }
        let rejected = attempt
            .lengths
            .iter()
            .zip(taken)
            .any(|(&h, &taken)| h != 0.0 && !taken);
        for (group, &taken) in taken.iter().enumerate() {
            if !taken {
                attempt.lengths[group] = 0.0;
                errors[group] = 0.0;
                stiffness[group] = 0.0;
            }
        }
        if rejected {
            let scales = method.scales(&attempt.lengths);
            attempt.after = attempt.sum(Some(&[1.0]), method.weights(), &scales);
        }
        let ends: Vec<f64> = (0..taken.len())
            .map(|group| {
                let (now, length) = (self.now[group], attempt.lengths[group]);
                if now + length >= stop || length == stop - now {
                    stop
                } else {
                    now + length
                }
            })
            .collect();
        let saves = self.saves(&ends, taken);
        if has_inside(&saves) || self.keep == Keep::Stages {
            let tracked = self.is_tracked();
            method.extend(system, &mut attempt, tracked)?;
        }
        for save in &saves {
            let value = value_at(&method, &attempt, save);
            let index = save.index;
            self.out.values[index] = match save.shares.len() {
                1 => value,
                _ => self.out.values[index].clone() + value,
            };
        }
        // The first stage of the next step.
        self.first = method.next_first(&attempt);
        if rejected && let Some(First { stage, .. }) = &mut self.first {
            // A rejected step is tried again with the first stage that it had.
            let moved = moves(&attempt.lengths);
            let rest: Vec<f64> = moved.iter().map(|moved| 1.0 - moved).collect();
            stage.slope = row_combination(&[
                Term {
                    factors: &moved,
                    matrix: &stage.slope,
                },
                Term {
                    factors: &rest,
                    matrix: &attempt.stages[0].slope,
                },
            ]);
        }
        self.state = attempt.after.clone();
        self.out.records.push(Record::Step(StepTaken {
            times: std::mem::replace(&mut self.now, ends),
            lengths: attempt.lengths.clone(),
            saves,
            errors,
            stiffness,
            shares_first: attempt.shares_first,
        }));
        if matches!(self.keep, Keep::Graphs | Keep::Stages) && !self.is_replayed() {
            self.out.kept.push(Kept::Step(attempt));
        }
        Ok(())
    }

    /// Keeps the state, if it is time.
    fn checkpoint(&mut self) {
        let due = match self.keep {
            Keep::States(_) => true,
            Keep::Graphs => !self.is_tracked(),
            Keep::Nothing | Keep::Stages => false,
        };
        if !due {
            return;
        }
        if self.since >= self.every {
            self.out
                .checkpoints
                .push((self.out.records.len(), self.state.clone()));
            self.since = 0;
        }
        self.since += 1;
        // Twice as far apart, once there are four times as many as steps between them: both stay near the root of the
        // number of steps.
        if self.keep == Keep::States(0) && self.out.checkpoints.len() > 4 * self.every {
            let mut number = 0;
            self.out.checkpoints.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            // The number was odd, so that the last one stays.
            self.every *= 2;
        }
    }

    /// The times that are asked for up to the ends of this step.
    fn saves(&mut self, ends: &[f64], taken: &[bool]) -> Vec<Save> {
        let mut found: Vec<Save> = Vec::new();
        for (group, &end) in ends.iter().enumerate() {
            if !taken[group] {
                continue;
            }
            let start = self.now[group];
            while let Some(&time) = self.times.get(self.next_save[group])
                && time <= end
            {
                let index = self.next_save[group];
                self.next_save[group] += 1;
                let share = if time == end {
                    1.0
                } else {
                    (time - start) / (end - start)
                };
                let place = found.iter().position(|save| save.index == index);
                let place = place.unwrap_or_else(|| {
                    found.push(Save {
                        index,
                        shares: vec![f64::NAN; ends.len()],
                    });
                    found.len() - 1
                });
                found[place].shares[group] = share;
            }
        }
        found
    }
}

/// `a − b`.
pub(crate) fn difference(a: &Tensor<2>, b: &Tensor<2>) -> Tensor<2> {
    row_combination(&[
        Term {
            factors: &[1.0],
            matrix: a,
        },
        Term {
            factors: &[-1.0],
            matrix: b,
        },
    ])
}

/// Checks the initial state.
pub(crate) fn check_finite(start: &Tensor<2>) -> Result<(), SolveError> {
    let width = start.dims()[1];
    let values = numbers(start)?;
    match values.iter().position(|value| !value.is_finite()) {
        Some(place) => Err(SolveError::State {
            row: place / width,
            column: place % width,
            value: values[place],
        }),
        None => {
            debug_assert!(matches!(start.dtype(), DType::F32 | DType::F64));
            Ok(())
        }
    }
}
