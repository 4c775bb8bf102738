//! The adjoint equation, solved from the end to the beginning: as one state `[1, n]` with the gradient by the parameters
//! behind it.

use burn::tensor::Tensor;

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
    let parameters = system.parameters();
    let layout = Layout {
        dims: last.dims(),
        count: parameters
            .as_ref()
            .map_or(0, |parameters| parameters.dims()[0]),
        back,
    };
    let mut by_parameters = parameters.map(|parameters| parameters.zeros_like());

    // From each of the times and changes to the one before.
    let mut stops: Vec<(f64, Stop)> = Vec::new();
    for (index, &time) in times.iter().enumerate().skip(1) {
        stops.push((time, Stop::Save(index - 1)));
    }
    for (number, event) in plan.events.iter().enumerate() {
        stops.push((event.time, Stop::Event(number)));
    }
    // Of two at one time, what was pushed first stays first: what is asked for at the time of an event is the state
    // before it.
    stops.sort_by(|a, b| a.0.total_cmp(&b.0));

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
        let start = layout.joined(state.clone(), by_state, by_parameters.clone());
        let first_step = plan.options.first_step;
        let backwards = Plan {
            options: Options {
                first_step: first_step.filter(|_| !plan.options.controller.is_adaptive()),
                ..plan.options
            },
            apart: false,
            columns: layout.columns(),
            events: Vec::new(),
            keep_states: false,
            ..plan.clone()
        };
        let mut adjoint = AdjointSystem {
            system: &mut system,
            method: plan.method,
            steps: &steps,
            layout,
        };
        let found = run(
            &backwards,
            &mut adjoint,
            start,
            &[-time, -before],
            Keep::Nothing,
        )?;
        let end = &found.values[1];
        if let Some(found) = layout.state(end) {
            state = found;
        }
        by_state = layout.by_state(end);
        if layout.count > 0 {
            by_parameters = Some(layout.by_parameters(end));
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

/// Where what is in the adjoint's state `[1, n]`: the state, if it is solved backwards too, `a`, and `G`.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Of the state.
    dims: [usize; 2],
    /// How many parameters.
    count: usize,
    /// Whether states are solved backwards too.
    back: bool,
}

impl Layout {
    /// The columns before those of `G`.
    fn columns(self) -> usize {
        self.dims[0] * self.dims[1] * (1 + usize::from(self.back))
    }

    /// - `state`, `by_state`: `[batch, d]`; `by_parameters`: `[p]`, zeros where there are none
    fn joined(
        self,
        state: Tensor<2>,
        by_state: Tensor<2>,
        by_parameters: Option<Tensor<1>>,
    ) -> Tensor<2> {
        let row = [1, self.dims[0] * self.dims[1]];
        let mut parts = Vec::new();
        if self.back {
            parts.push(state.reshape(row));
        }
        if self.count > 0 {
            let zeros = || Tensor::zeros([self.count], (&by_state.device(), by_state.dtype()));
            let by_parameters = by_parameters.unwrap_or_else(zeros).unsqueeze();
            parts.extend([by_state.reshape(row), by_parameters]);
        } else {
            parts.push(by_state.reshape(row));
        }
        Tensor::cat(parts, 1)
    }

    fn state(self, x: &Tensor<2>) -> Option<Tensor<2>> {
        self.back.then(|| self.part(x, 0))
    }

    fn by_state(self, x: &Tensor<2>) -> Tensor<2> {
        self.part(x, usize::from(self.back))
    }

    fn by_parameters(self, x: &Tensor<2>) -> Tensor<1> {
        let from = self.columns();
        x.clone()
            .slice([0..1, from..from + self.count])
            .reshape([self.count])
    }

    fn part(self, x: &Tensor<2>, which: usize) -> Tensor<2> {
        let number = self.dims[0] * self.dims[1];
        x.clone()
            .slice([0..1, which * number..(which + 1) * number])
            .reshape(self.dims)
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
    layout: Layout,
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
                Some(state) => state + value,
                None => value,
            });
        }
        state
    }
}

impl<F: Field> System for AdjointSystem<'_, F> {
    fn evaluate(&mut self, x: Tensor<2>, times: &[f64], _: bool) -> Result<Stage, SolveError> {
        let time = -times[0];
        let state = match self.layout.state(&x) {
            Some(state) => state,
            None => self.state(time).ok_or(SolveError::TooFewTimes(1))?,
        };
        let mut stage = self.system.evaluate(state, &[time], true)?;
        let (by_state, by_parameters) = stage.pull(self.layout.by_state(&x));
        let slope = self.layout.joined(-stage.slope, by_state, by_parameters);
        Ok(Stage::plain(x, slope))
    }
}
