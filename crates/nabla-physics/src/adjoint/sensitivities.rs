//! Sensitivities, solved together with the equation:
//!
//! ```text
//! s = ∂u/∂(θ, u_0),   s' = (∂f/∂u) s + (∂f/∂θ, 0),   s(0) = (0, I)
//! ```
//!
//! With the steps of the equation alone, and the same method for both, they are the exact derivatives of the steps.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::{Cotangents, Found, Pull};
use crate::event::Event;
use crate::field::{Field, FieldSystem, Stage, System};
use crate::numbers::{numbers, tensor_like};
use crate::run::{Keep, Plan, changed, run};
use crate::solve_error::SolveError;

/// Solves for state and sensitivities.
pub(super) fn forward<F: Field>(
    plan: Plan,
    system: FieldSystem<F>,
    start: Tensor<2>,
    times: &[f64],
    [by_start, by_parameters]: [bool; 2],
) -> Result<(Found, Pull), SolveError> {
    let dims @ [batch, width] = start.dims();
    system.check_hidden(&start, times[0])?;
    let parameters = match by_parameters {
        true => system
            .parameters()
            .map_or(0, |parameters| parameters.dims()[0]),
        false => 0,
    };
    let columns = parameters + if by_start { width } else { 0 };
    let shape = Shape {
        width,
        columns,
        parameters,
    };
    // u, then s row after row: s_ic = ∂u_i/∂c.
    let mut first = vec![0.0; batch * shape.all()];
    for (row, u) in first
        .chunks_exact_mut(shape.all())
        .zip(numbers(&start)?.chunks_exact(width))
    {
        row[..width].copy_from_slice(u);
        if by_start {
            for i in 0..width {
                row[width + i * columns + parameters + i] = 1.0;
            }
        }
    }
    let whole = tensor_like(first, [batch, shape.all()], &start);
    let mut plan = plan;
    for event in &mut plan.events {
        if event.change.is_some() {
            *event = with_sensitivities(event.clone(), shape);
        }
    }
    let mut sensitivities = Sensitivities { system, shape };
    let mut found = run(&plan, &mut sensitivities, whole, times, Keep::Nothing)?;
    let evaluations = sensitivities.system.evaluations;
    let mut all = Vec::with_capacity(times.len() - 1);
    for (index, value) in found.values.iter_mut().enumerate() {
        if index > 0 {
            let both = value.clone().slice([0..batch, width..shape.all()]);
            all.push(if columns > 0 {
                numbers(&both)?
            } else {
                Vec::new()
            });
        }
        *value = value.clone().slice([0..batch, 0..width]);
    }
    found.values[0] = start.clone();
    for state in &mut found.states {
        *state = state.clone().slice([0..batch, 0..width]);
    }
    let pull: Pull = Box::new(move |cotangents: Cotangents| {
        let mut sums = vec![0.0; batch * width];
        let mut sum = vec![0.0; parameters];
        for (all, cotangent) in all.iter().zip(&cotangents.by_values) {
            let cotangent = numbers(cotangent)?;
            for row in 0..batch {
                for i in 0..width {
                    let g = cotangent[row * width + i];
                    let s = &all[(row * width + i) * columns..][..columns];
                    sum.iter_mut().zip(s).for_each(|(sum, s)| *sum += g * s);
                    let own = &mut sums[row * width..(row + 1) * width];
                    own.iter_mut()
                        .zip(&s[parameters..])
                        .for_each(|(sum, s)| *sum += g * s);
                }
            }
        }
        let by_start = tensor_like(sums, dims, &start);
        let by_parameters = (parameters > 0).then(|| tensor_like(sum, [parameters], &start));
        Ok((by_start, by_parameters))
    });
    Ok((
        Found {
            run: found,
            evaluations,
            estimates: false,
        },
        pull,
    ))
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    /// `d`.
    width: usize,
    /// Of `s`.
    columns: usize,
    /// The first of them.
    parameters: usize,
}

impl Shape {
    fn all(self) -> usize {
        self.width * (1 + self.columns)
    }

    /// `(J s + (∂f/∂θ, 0))` behind `f`, or behind a change.
    ///
    /// - `evaluate`: the field at `u`, with its graph
    fn extended(
        self,
        x: &Tensor<2>,
        mut evaluate: impl FnMut(Tensor<2>) -> Result<Stage, SolveError>,
    ) -> Result<Tensor<2>, SolveError> {
        let Self {
            width,
            columns,
            parameters,
        } = self;
        let [batch, _] = x.dims();
        let u = x.clone().slice([0..batch, 0..width]);
        let values = numbers(x)?;
        let mut slopes = vec![0.0; batch * self.all()];
        let mut slope = None;
        // Without parameters, the products of all trajectories are computed together.
        let together = parameters == 0;
        for row in 0..if together { 1 } else { batch } {
            for output in 0..width {
                let mut unit = vec![0.0; batch * width];
                for own in if together { 0..batch } else { row..row + 1 } {
                    unit[own * width + output] = 1.0;
                }
                let unit = tensor_like(unit, [batch, width], x);
                let mut stage = evaluate(u.clone())?;
                slope.get_or_insert_with(|| stage.slope.clone());
                let (by_state, by_parameters) = stage.pull(unit);
                let by_state = numbers(&by_state)?;
                let by_parameters = match by_parameters {
                    Some(found) if parameters > 0 => numbers(&found.unsqueeze())?,
                    _ => vec![0.0; parameters],
                };
                for own in if together { 0..batch } else { row..row + 1 } {
                    let at = own * self.all();
                    let to = at + width + output * columns;
                    slopes[to..to + parameters].copy_from_slice(&by_parameters);
                    for i in 0..width {
                        let factor = by_state[own * width + i];
                        let from = at + width + i * columns;
                        for c in 0..columns {
                            slopes[to + c] += factor * values[from + c];
                        }
                    }
                }
            }
        }
        let slope = match slope {
            Some(slope) => numbers(&slope)?,
            None => Vec::new(),
        };
        for (row, slope) in slopes
            .chunks_exact_mut(self.all())
            .zip(slope.chunks_exact(width))
        {
            row[..width].copy_from_slice(slope);
        }
        Ok(tensor_like(slopes, [batch, self.all()], x))
    }
}

struct Sensitivities<F> {
    system: FieldSystem<F>,
    shape: Shape,
}

impl<F: Field> System for Sensitivities<F> {
    fn evaluate(&mut self, x: Tensor<2>, times: &[f64], _: bool) -> Result<Stage, SolveError> {
        let system = &mut self.system;
        let slope = self
            .shape
            .extended(&x, |u| system.evaluate(u, times, true))?;
        Ok(Stage::plain(x, slope))
    }
}

/// An event of the state as one of state and sensitivities.
fn with_sensitivities(event: Event, shape: Shape) -> Event {
    let time = event.time;
    let plain = Shape {
        parameters: 0,
        ..shape
    };
    let change = move |x: Tensor<2>| -> Tensor<2> {
        let found = plain.extended(&x, |u| changed(&event, &u, true));
        // What fails has another shape, which is an error where the change is used.
        found.unwrap_or_else(|_| Tensor::zeros([1, 1], &x.device()))
    };
    Event {
        time,
        change: Some(Arc::new(change)),
    }
}
