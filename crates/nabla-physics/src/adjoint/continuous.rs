//! The adjoint equation, solved from the end to the beginning: as one state `[1, n]` with the gradient by the parameters
//! behind it.

use burn::tensor::Tensor;
use nabla_kernels::row_combination::{Term, row_combination};

use super::Cotangents;
use super::discrete::Trace;
use crate::field::{Field, FieldSystem, Pulled, Stage, System};
use crate::method::{Attempt, Method};
use crate::options::Options;
use crate::run::{Keep, Kept, Plan, Record, Save, StepTaken, run, value_at};
use crate::solve_error::SolveError;

/// The gradients by state and parameters.
///
/// - `last`: the state at the end
/// - `back`: whether states are solved backwards too, instead of interpolated
pub(super) fn pull<F: Field>(
    plan: &Plan,
    mut system: FieldSystem<F>,
    mut trace: Trace,
    times: &[f64],
    last: Tensor<2>,
    cotangents: Cotangents,
    back: bool,
) -> Result<Pulled, SolveError> {
    let dims @ [batch, width] = last.dims();
    let number = batch * width;
    let parameters = system.parameters();
    let count = parameters
        .as_ref()
        .map_or(0, |parameters| parameters.dims()[0]);
    let mut by_parameters = parameters.map(|parameters| parameters.zeros_like());

    // From each of the times and changes to the one before.
    let mut stops: Vec<(f64, Stop)> = Vec::new();
    for (index, &time) in times.iter().enumerate().skip(1) {
        stops.push((time, Stop::Save(index - 1)));
    }
    for (number, event) in plan.events.iter().enumerate() {
        // What is asked for at the time of an event is the state before it.
        stops.push((event.time, Stop::Event(number)));
    }
    stops.sort_by(|a, b| {
        a.0.total_cmp(&b.0)
            .then_with(|| a.1.order().cmp(&b.1.order()))
    });

    let mut changes = Vec::new();
    let mut steps = Vec::new();
    let kept = paired(&mut trace);
    for (record, kept) in trace.records.iter().zip(kept) {
        match (record, kept) {
            (Record::Change(number), Some(Kept::Change(stage))) => changes.push((*number, stage)),
            (Record::Step(step), Some(Kept::Step(attempt))) => steps.push((step.clone(), attempt)),
            _ => (),
        }
    }

    let mut by_state = last.zeros_like();
    let mut state = last;
    for (place, &(time, stop)) in stops.iter().enumerate().rev() {
        match stop {
            Stop::Save(index) => by_state = by_state + cotangents.by_values[index].clone(),
            Stop::Event(number) => {
                let change = changes.iter_mut().find(|(event, _)| *event == number);
                if let Some((_, stage)) = change {
                    by_state = stage.pull(by_state).0;
                    state = stage.argument.clone();
                }
            }
        }
        let before = if place == 0 {
            times[0]
        } else {
            stops[place - 1].0
        };
        if before == time {
            continue;
        }
        let flat = |x: &Tensor<2>| -> Tensor<2> { x.clone().reshape([1, number]) };
        let mut parts = vec![flat(&by_state)];
        if back {
            parts.insert(0, flat(&state));
        }
        if let Some(by_parameters) = &by_parameters {
            parts.push(by_parameters.clone().unsqueeze());
        }
        let start = Tensor::cat(parts, 1);
        let columns = if back { 2 * number } else { number };
        let first_step = plan.options.first_step;
        let backwards = Plan {
            options: Options {
                first_step: first_step.filter(|_| !plan.options.controller.is_adaptive()),
                ..plan.options
            },
            apart: false,
            columns,
            events: Vec::new(),
            keep_states: false,
            ..plan.clone()
        };
        let mut adjoint = AdjointSystem {
            system: &mut system,
            method: plan.method,
            steps: &steps,
            dims,
            count,
            back,
        };
        let found = run(
            &backwards,
            &mut adjoint,
            start,
            &[-time, -before],
            Keep::Nothing,
        )?;
        let end = found.values[1].clone();
        let part = |which: usize| -> Tensor<2> {
            end.clone()
                .slice([0..1, which * number..(which + 1) * number])
                .reshape(dims)
        };
        if back {
            state = part(0);
        }
        by_state = part(usize::from(back));
        if count > 0 {
            by_parameters = Some(end.slice([0..1, columns..columns + count]).reshape([count]));
        }
    }
    Ok((by_state, by_parameters))
}

/// Where the adjoint stops.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// At a time that was asked for, where it jumps.
    Save(usize),
    /// At an event.
    Event(usize),
}

impl Stop {
    /// The order of what is at one time.
    fn order(self) -> usize {
        match self {
            Self::Save(_) => 0,
            Self::Event(_) => 1,
        }
    }
}

/// What was kept of each record; changes may be all that was.
fn paired(trace: &mut Trace) -> Vec<Option<Kept>> {
    let mut kept = std::mem::take(&mut trace.kept).into_iter().peekable();
    let each = trace.records.iter().map(|record| {
        kept.next_if(|kept| {
            matches!(
                (record, kept),
                (Record::Step(_), Kept::Step(_)) | (Record::Change(_), Kept::Change(_))
            )
        })
    });
    each.collect()
}

/// `d(a, G)/dτ = ((∂f/∂u)ᵀ a, (∂f/∂θ)ᵀ a)` with `τ = −t`, and `du/dτ = −f` before them.
struct AdjointSystem<'a, F: Field> {
    system: &'a mut FieldSystem<F>,
    method: Method,
    steps: &'a [(StepTaken, Attempt)],
    dims: [usize; 2],
    count: usize,
    back: bool,
}

impl<F: Field> AdjointSystem<'_, F> {
    /// `u(t)` from the steps.
    fn state(&self, time: f64) -> Option<Tensor<2>> {
        let groups = self.steps.first()?.0.times.len();
        let mut shares: Vec<Option<(usize, f64)>> = vec![None; groups];
        // Backwards in time, so that of two steps that meet at this time the earlier one is taken; the first step goes on
        // before its beginning, the last one beyond its end, by rounding.
        for (group, found) in shares.iter_mut().enumerate() {
            let moves = |(step, _): &&(StepTaken, Attempt)| step.lengths[group] != 0.0;
            // The steps of one trajectory rise: those that begin before this time are the first of them.
            let after = self
                .steps
                .partition_point(|(step, _)| step.times[group] < time);
            let place = (0..after).rev().find(|&i| moves(&&self.steps[i]));
            let place =
                place.or_else(|| (0..self.steps.len()).find(|&i| moves(&&self.steps[i])))?;
            let step = &self.steps[place].0;
            *found = Some((place, (time - step.times[group]) / step.lengths[group]));
        }
        let mut state: Option<Tensor<2>> = None;
        let mut places: Vec<usize> = shares.iter().flatten().map(|found| found.0).collect();
        places.sort_unstable();
        places.dedup();
        for place in places {
            let own = shares.iter().map(|found| match found {
                Some((at, share)) if *at == place => share.clamp(0.0, 1.0),
                _ => f64::NAN,
            });
            let save = Save {
                index: 0,
                shares: own.collect(),
            };
            let value = value_at(&self.method, &self.steps[place].1, &save);
            state = Some(match state {
                Some(state) => row_combination(&[
                    Term {
                        factors: &[1.0],
                        matrix: &state,
                    },
                    Term {
                        factors: &[1.0],
                        matrix: &value,
                    },
                ]),
                None => value,
            });
        }
        state
    }
}

impl<F: Field> System for AdjointSystem<'_, F> {
    fn evaluate(&mut self, x: Tensor<2>, times: &[f64], _: bool) -> Result<Stage, SolveError> {
        let time = -times[0];
        let [batch, width] = self.dims;
        let number = batch * width;
        let part = |which: usize| -> Tensor<2> {
            x.clone()
                .slice([0..1, which * number..(which + 1) * number])
                .reshape(self.dims)
        };
        let state = match self.back {
            true => part(0),
            false => self.state(time).ok_or(SolveError::TooFewTimes(1))?,
        };
        let mut stage = self.system.evaluate(state, &[time], true)?;
        let (by_state, by_parameters) = stage.pull(part(usize::from(self.back)));
        let mut parts = vec![by_state.reshape([1, number])];
        if self.back {
            parts.insert(0, (-stage.slope).reshape([1, number]));
        }
        if self.count > 0 {
            let found = by_parameters.map(|found| found.reshape([1, self.count]));
            let zeros = || Tensor::zeros([1, self.count], (&x.device(), x.dtype()));
            parts.push(found.unwrap_or_else(zeros));
        }
        let slope = Tensor::cat(parts, 1);
        Ok(Stage::plain(x, slope))
    }
}
