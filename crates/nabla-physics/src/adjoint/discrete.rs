//! The gradient through the steps themselves.
//!
//! A step is a sum of stages, so only the products with the field's Jacobian need a graph. With the gradients `κ_i` by the
//! slopes and `ν_i` by their arguments,
//!
//! ```text
//! κ_i = h (b_i λ⁺ + Σ_{j>i} a_ji ν_j + …),   ν_i = (∂f/∂u)ᵀ κ_i,   λ = λ⁺ + Σ_i ν_i + …,   ∂L/∂θ = Σ_i (∂f/∂θ)ᵀ κ_i
//! ```
//!
//! where the dots are what error, stiffness and states between the steps add:
//!
//! ```text
//! E = √(mean e²), e = ũ/s, s = atol + rtol max(|u|, |u⁺|):   ∂E/∂ũ = e/(n E s),   ∂E/∂s = −e²/(n E s)
//! S = ‖Δk‖/‖Δy‖:                                             ∂S/∂Δk = S Δk/‖Δk‖²,  ∂S/∂Δy = −S Δy/‖Δy‖²
//! ```

use std::collections::VecDeque;

use burn::tensor::{DType, Tensor};
use nabla_kernels::row_combination::{Term, row_combination};

use super::Cotangents;
use crate::field::{Pulled, System, sum_of};
use crate::method::{Attempt, First, Method, moves};
use crate::numbers::{numbers, tensor_like};
use crate::rosenbrock;
use crate::run::{Kept, Plan, Record, StepTaken, changed, difference, factors_at, has_inside};
use crate::solve_error::SolveError;
use crate::tableau::Tableau;

/// What a run left.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) records: Vec<Record>,
    /// For each record, or for changes alone.
    pub(crate) kept: Vec<Kept>,
    pub(crate) checkpoints: Vec<(usize, Tensor<2>)>,
}

/// The gradients by state and parameters.
pub(super) fn pull(
    plan: &Plan,
    system: &mut dyn System,
    trace: Trace,
    cotangents: Cotangents,
) -> Result<Pulled, SolveError> {
    let Some(by_last) = cotangents.by_values.last() else {
        return Err(SolveError::TooFewTimes(1));
    };
    let groups = match trace.records.iter().find_map(|record| match record {
        Record::Step(step) => Some(step.times.len()),
        Record::Change(_) => None,
    }) {
        Some(groups) => groups,
        None => return Err(SolveError::TooFewTimes(1)),
    };
    let read = |x: &Option<Tensor<2>>| match x {
        Some(x) => numbers(x),
        None => Ok(Vec::new()),
    };
    let mut back = Back {
        plan,
        system,
        groups,
        by_values: &cotangents.by_values,
        by_errors: read(&cotangents.by_errors)?,
        by_stiffness: read(&cotangents.by_stiffness)?,
        steps: trace
            .records
            .iter()
            .filter(|r| matches!(r, Record::Step(_)))
            .count(),
        by_state: by_last.zeros_like(),
        by_first: None,
        by_parameters: None,
    };
    let mut end = trace.records.len();
    for (begin, state) in trace.checkpoints.into_iter().rev() {
        let records = &trace.records[begin..end];
        let kept = back.replay(records, state)?;
        for (record, kept) in records.iter().zip(kept).rev() {
            back.follow(record, kept)?;
        }
        end = begin;
    }
    // Before the first checkpoint: the records whose graphs were kept.
    for (record, kept) in trace.records[..end].iter().zip(trace.kept).rev() {
        back.follow(record, kept)?;
    }
    Ok((back.by_state, back.by_parameters))
}

struct Back<'a> {
    plan: &'a Plan,
    system: &'a mut dyn System,
    groups: usize,
    by_values: &'a [Tensor<2>],
    by_errors: Vec<f64>,
    by_stiffness: Vec<f64>,
    /// Steps that are left.
    steps: usize,
    /// `λ`, `[batch, d]`.
    by_state: Tensor<2>,
    /// By the first slope of the step after, which is the last one of this step.
    by_first: Option<Tensor<2>>,
    by_parameters: Option<Tensor<1>>,
}

impl Back<'_> {
    /// Takes the steps once more, with graphs.
    fn replay(
        &mut self,
        records: &[Record],
        mut state: Tensor<2>,
    ) -> Result<VecDeque<Kept>, SolveError> {
        let method = self.plan.method;
        let mut last_first: Option<First> = None;
        let mut kept = VecDeque::with_capacity(records.len());
        for record in records {
            match record {
                Record::Change(number) => {
                    let stage = changed(&self.plan.events[*number], &state, true)?;
                    state = stage.slope.clone();
                    last_first = None;
                    kept.push_back(Kept::Change(stage));
                }
                Record::Step(step) => {
                    let (times, lengths) = (&step.times, &step.lengths);
                    let first = last_first.take().filter(|_| step.shares_first);
                    let mut attempt =
                        method.attempt(self.system, &state, times, lengths, first, true)?;
                    if has_inside(&step.saves) {
                        method.extend(self.system, &mut attempt, true)?;
                    }
                    state = attempt.after.clone();
                    last_first = method.next_first(&attempt);
                    kept.push_back(Kept::Step(attempt));
                }
            }
        }
        Ok(kept)
    }

    fn follow(&mut self, record: &Record, kept: Kept) -> Result<(), SolveError> {
        match (record, kept) {
            (Record::Step(step), Kept::Step(attempt)) => {
                self.steps -= 1;
                self.step(step, attempt)
            }
            (_, Kept::Change(mut stage)) => {
                self.by_state = stage.pull(self.by_state.clone()).0;
                Ok(())
            }
            (Record::Change(_), Kept::Step(_)) => Ok(()),
        }
    }

    fn step(&mut self, step: &StepTaken, mut attempt: Attempt) -> Result<(), SolveError> {
        let method = self.plan.method;
        attempt.lengths.clone_from(&step.lengths);
        let scales = method.scales(&step.lengths);
        let mut sums = Sums::new(attempt.stages.len());
        let mut by_after = vec![self.by_state.clone()];

        for save in &step.saves {
            let cotangent = &self.by_values[save.index - 1];
            if save.shares == [1.0] {
                by_after.push(cotangent.clone());
                continue;
            }
            let (base, stages) = factors_at(&method, &attempt, &save.shares);
            sums.base.push((base, cotangent.clone()));
            for (i, factors) in stages.into_iter().enumerate() {
                sums.add(i, factors, cotangent);
            }
        }
        self.error(&attempt, &scales, &mut sums, &mut by_after);
        self.stiffness(&attempt, &mut sums);

        let by_after = total(by_after);
        match method {
            Method::Rosenbrock(tableau) => {
                sums.state(tableau.weights, &scales, by_after);
                let by_increments = (0..tableau.nodes.len()).map(|i| sums.take(i)).collect();
                let by_state = rosenbrock::reverse(
                    tableau,
                    self.system,
                    &mut attempt,
                    by_increments,
                    &mut self.by_parameters,
                )?;
                sums.base.push((vec![1.0], by_state));
            }
            Method::Explicit(tableau) => {
                match tableau.last_is_first {
                    true => self.last_stage(tableau, &step.lengths, by_after, &mut sums),
                    false => sums.state(tableau.weights, &scales, by_after),
                }
                self.stages(tableau, &mut attempt, &scales, &mut sums);
            }
        }
        self.by_state = sums.base();
        Ok(())
    }

    /// What the next state, and the first slope of the next step, add by the stage that they are.
    fn last_stage(
        &mut self,
        tableau: &Tableau,
        lengths: &[f64],
        by_after: Tensor<2>,
        sums: &mut Sums,
    ) {
        let last = tableau.count() - 1;
        sums.argument(last, by_after);
        if let Some(by_first) = self.by_first.take() {
            // Trajectories that were rejected begin the next step with the slope of this one's first stage.
            let moved = moves(lengths);
            if moved.contains(&0.0) {
                let rest = moved.iter().map(|moved| 1.0 - moved).collect();
                sums.add(0, rest, &by_first);
            }
            sums.add(last, moved, &by_first);
        }
    }

    /// From the last stage of an explicit method to the first.
    fn stages(
        &mut self,
        tableau: &Tableau,
        attempt: &mut Attempt,
        scales: &[f64],
        sums: &mut Sums,
    ) {
        for i in (0..attempt.stages.len()).rev() {
            let by_slope = sums.take(i);
            let by_argument = sums.arguments[i].take();
            let pulled = match (by_slope, i == 0 && attempt.shares_first) {
                (Some(by_slope), true) => {
                    self.by_first = Some(by_slope);
                    None
                }
                (Some(by_slope), false) => {
                    let (found, by_parameters) = attempt.stages[i].pull(by_slope);
                    self.by_parameters = sum_of(self.by_parameters.take(), by_parameters);
                    Some(found)
                }
                (None, _) => None,
            };
            let Some(by_argument) = sum_of(pulled, by_argument) else {
                continue;
            };
            sums.state(tableau.row(i).1, scales, by_argument);
        }
    }

    /// `∂L/∂E`, if it is not 0 for all groups.
    fn cotangent(&self, all: &[f64]) -> Option<Vec<f64>> {
        let own = all.get(self.steps * self.groups..(self.steps + 1) * self.groups)?;
        own.iter().any(|&x| x != 0.0).then(|| own.to_vec())
    }

    /// What the error estimate adds.
    fn error(
        &self,
        attempt: &Attempt,
        scales: &[f64],
        sums: &mut Sums,
        by_after: &mut Vec<Tensor<2>>,
    ) {
        let Some(by_error) = self.cotangent(&self.by_errors) else {
            return;
        };
        let [absolute, relative] = self.plan.options.tolerances;
        let weights = self.plan.method.error_weights();
        let error = attempt.sum(None, weights, scales);
        let [before, after] = [&attempt.before, &attempt.after].map(|x| x.clone().abs());
        let scale = before.clone().max_pair(after.clone()) * relative + absolute;
        let scaled = error / scale.clone();
        let factor = self.factors(&scaled.clone().square(), |group, squares, count| {
            // The norm has no derivative at 0, where no step of any length has an error.
            let norm = (squares / count).sqrt();
            if norm > 0.0 {
                by_error[group] / (count * norm)
            } else {
                0.0
            }
        });
        let by_scaled = scaled.clone() * factor;
        let by_error = by_scaled.clone() / scale.clone();
        sums.weighted(weights, scales, &by_error);
        // Where |u| = |u⁺|, one of the two.
        let by_scale = by_scaled * scaled * (-relative) / scale;
        let of_after = after.clone().greater_equal(before);
        let signed = |x: &Tensor<2>| by_scale.clone() * x.clone().sign();
        let by_before = signed(&attempt.before).mask_fill(of_after.clone(), 0.0);
        sums.base.push((vec![1.0], by_before));
        by_after.push(signed(&attempt.after).mask_fill(of_after.bool_not(), 0.0));
    }

    /// What the stiffness estimate adds. That of a Rosenbrock method has no gradient.
    fn stiffness(&self, attempt: &Attempt, sums: &mut Sums) {
        let Method::Explicit(tableau) = self.plan.method else {
            return;
        };
        let (Some(pair), Some(by_stiffness)) =
            (tableau.stiffness, self.cotangent(&self.by_stiffness))
        else {
            return;
        };
        let [first, second] = [pair.first, pair.second].map(|i| &attempt.stages[i]);
        let slopes = difference(&second.slope, &first.slope);
        let states = difference(&second.argument, &first.argument);
        let squares = [&slopes, &states].map(|x| self.group_sums(&x.clone().square()));
        let factors = [0, 1].map(|which: usize| {
            let each = (0..self.groups).map(|group| {
                let [slopes, states] = [squares[0][group], squares[1][group]];
                if slopes == 0.0 || states == 0.0 {
                    return 0.0;
                }
                let estimate = (slopes / states).sqrt() * by_stiffness[group];
                if which == 0 {
                    estimate / slopes
                } else {
                    -estimate / states
                }
            });
            each.collect::<Vec<f64>>()
        });
        let [slopes, states] =
            [(slopes, &factors[0]), (states, &factors[1])].map(|(matrix, factors)| {
                row_combination(&[Term {
                    factors,
                    matrix: &matrix,
                }])
            });
        sums.add(pair.second, vec![1.0], &slopes);
        sums.add(pair.first, vec![-1.0], &slopes);
        sums.argument(pair.first, -states.clone());
        sums.argument(pair.second, states);
    }

    /// The sums of the numbers of each group.
    fn group_sums(&self, x: &Tensor<2>) -> Vec<f64> {
        let x = x.clone().cast(DType::F64);
        match self.groups {
            1 => x.sum().into_data().iter::<f64>().collect(),
            _ => x.sum_dim(1).into_data().iter::<f64>().collect(),
        }
    }

    /// A factor for each group, from the sum of its numbers and their count, `[groups, 1]`.
    fn factors(&self, x: &Tensor<2>, of: impl Fn(usize, f64, f64) -> f64) -> Tensor<2> {
        let dims = x.dims();
        let count = if self.groups == 1 {
            dims[0] * dims[1]
        } else {
            dims[1]
        } as f64;
        let sums = self.group_sums(x).into_iter().enumerate();
        let each: Vec<f64> = sums.map(|(group, sum)| of(group, sum, count)).collect();
        tensor_like(each, [self.groups, 1], x)
    }
}

/// The gradients by slopes, arguments and the state before, while they are gathered.
struct Sums {
    slopes: Vec<Vec<(Vec<f64>, Tensor<2>)>>,
    arguments: Vec<Option<Tensor<2>>>,
    base: Vec<(Vec<f64>, Tensor<2>)>,
}

impl Sums {
    fn new(stages: usize) -> Self {
        Self {
            slopes: (0..stages).map(|_| Vec::new()).collect(),
            arguments: vec![None; stages],
            base: Vec::new(),
        }
    }

    fn add(&mut self, stage: usize, factors: Vec<f64>, x: &Tensor<2>) {
        if factors.iter().any(|&factor| factor != 0.0) {
            self.slopes[stage].push((factors, x.clone()));
        }
    }

    /// By all slopes, with the weights times the scales.
    fn weighted(&mut self, weights: &[f64], scales: &[f64], x: &Tensor<2>) {
        for (stage, weight) in weights.iter().enumerate() {
            self.add(
                stage,
                scales.iter().map(|scale| weight * scale).collect(),
                x,
            );
        }
    }

    /// By a state `u + Σ w_i k_i`, with the weights times the scales.
    fn state(&mut self, weights: &[f64], scales: &[f64], x: Tensor<2>) {
        self.weighted(weights, scales, &x);
        self.base.push((vec![1.0], x));
    }

    fn argument(&mut self, stage: usize, x: Tensor<2>) {
        let sum = self.arguments[stage].take();
        self.arguments[stage] = sum_of(sum, Some(x));
    }

    fn take(&mut self, stage: usize) -> Option<Tensor<2>> {
        let terms = std::mem::take(&mut self.slopes[stage]);
        (!terms.is_empty()).then(|| combined(&terms))
    }

    fn base(&self) -> Tensor<2> {
        combined(&self.base)
    }
}

fn combined(terms: &[(Vec<f64>, Tensor<2>)]) -> Tensor<2> {
    let terms: Vec<Term<'_>> = terms
        .iter()
        .map(|(factors, matrix)| Term { factors, matrix })
        .collect();
    row_combination(&terms)
}

fn total(all: Vec<Tensor<2>>) -> Tensor<2> {
    let terms: Vec<Term<'_>> = all
        .iter()
        .map(|matrix| Term {
            factors: &[1.0],
            matrix,
        })
        .collect();
    row_combination(&terms)
}
