//! Solving a stochastic equation.

use burn::tensor::{Tensor, TensorData};
use nabla_base::range;
use nabla_kernels::row_combination::scaled_squares;

use super::brownian_path::{BrownianPath, Increment};
use super::step::{DriftError, Equation, Noise, SdeMethod, Stepped};
use crate::controller::{Controller, Memory};
use crate::field::Field;
use crate::numbers::{numbers, tensor_like};
use crate::run::check_finite;
use crate::solve_error::SolveError;
use crate::solver::{Statistics, Step, check_times};

/// A solver of stochastic equations; see the [module documentation](super).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SdeSolver {
    method: SdeMethod,
    absolute: f64,
    relative: f64,
    controller: Controller,
    drift_error: DriftError,
    first_step: Option<f64>,
    most_steps: usize,
}

impl SdeSolver {
    /// With the tolerances `10⁻²`, and PI control whose steps grow by at most an eighth.
    pub fn new(method: SdeMethod) -> Self {
        Self {
            method,
            absolute: 1e-2,
            relative: 1e-2,
            controller: Controller::ProportionalIntegral {
                beta1: 0.7,
                beta2: 0.4,
                safety: 0.9,
                least: 0.2,
                most: 1.125,
            },
            drift_error: DriftError::default(),
            first_step: None,
            most_steps: 100_000,
        }
    }

    /// Sets the error of a step that is accepted: `absolute + relative |u|`.
    #[must_use]
    pub fn with_tolerances(mut self, absolute: f64, relative: f64) -> Self {
        (self.absolute, self.relative) = (absolute, relative);
        self
    }

    /// Sets the controller.
    #[must_use]
    pub fn with_controller(mut self, controller: Controller) -> Self {
        self.controller = controller;
        self
    }

    /// Sets what the drift's part of the error is.
    #[must_use]
    pub fn with_drift_error(mut self, drift_error: DriftError) -> Self {
        self.drift_error = drift_error;
        self
    }

    /// Sets the length of the first step, which is found from drift and diffusion otherwise.
    #[must_use]
    pub fn with_first_step(mut self, length: f64) -> Self {
        self.first_step = Some(length);
        self
    }

    /// Steps of one length; the last before a time that is asked for may be shorter.
    #[must_use]
    pub fn with_constant_step(self, length: f64) -> Self {
        self.with_controller(Controller::Constant)
            .with_first_step(length)
    }

    /// Sets the most steps, rejected ones too. Default 100 000.
    #[must_use]
    pub fn with_most_steps(mut self, steps: usize) -> Self {
        self.most_steps = steps;
        self
    }

    /// The method.
    pub fn method(&self) -> SdeMethod {
        self.method
    }

    /// Solves `du = f dt + g dW`, with noise from a seed.
    ///
    /// - `start`: the state at the first time, `[batch, d]`; all trajectories take the same steps
    /// - `times`: rising, at least two; steps end at each of them
    ///
    /// # Errors
    /// If an option or a time is out of range, the state, the drift or the diffusion is not finite or has another shape, or
    /// the steps become too short or too many.
    pub fn solve<F: Field, G: Field>(
        &self,
        drift: &F,
        diffusion: &G,
        start: Tensor<2>,
        times: &[f64],
        seed: u64,
    ) -> Result<SdeSolution, SolveError> {
        let dims = start.dims();
        let begin = times.first().copied().unwrap_or(0.0);
        let mut path = BrownianPath::new(dims[0] * dims[1], begin, seed);
        self.solve_along(drift, diffusion, start, times, &mut path)
    }

    /// Solves along a path, which is at its end afterwards.
    ///
    /// - `path`: a motion for each number of the state, row after row, at the first time
    ///
    /// # Errors
    /// As [`solve`](Self::solve), or if the path does not fit.
    pub fn solve_along<F: Field, G: Field>(
        &self,
        drift: &F,
        diffusion: &G,
        start: Tensor<2>,
        times: &[f64],
        path: &mut BrownianPath,
    ) -> Result<SdeSolution, SolveError> {
        Ok(self.solved(drift, diffusion, start, times, path)?.0)
    }

    /// Solves, and returns the state before each step too, without graph.
    pub(crate) fn solve_with_states<F: Field, G: Field>(
        &self,
        drift: &F,
        diffusion: &G,
        start: Tensor<2>,
        times: &[f64],
        seed: u64,
    ) -> Result<(SdeSolution, Vec<Tensor<2>>), SolveError> {
        let dims = start.dims();
        let begin = times.first().copied().unwrap_or(0.0);
        let mut path = BrownianPath::new(dims[0] * dims[1], begin, seed);
        self.solved(drift, diffusion, start, times, &mut path)
    }

    /// The length of the first step from a state, without graph, at a time.
    pub(crate) fn initial_step<F: Field, G: Field>(
        &self,
        drift: &F,
        diffusion: &G,
        state: &Tensor<2>,
        time: f64,
        last: f64,
    ) -> Result<f64, SolveError> {
        let (drift, diffusion) = (drift.frozen(), diffusion.frozen());
        let equation = Equation {
            drift: &drift,
            diffusion: &diffusion,
            drift_error: self.drift_error,
        };
        let adaptive = Self {
            first_step: None,
            controller: Controller::PI,
            ..*self
        };
        adaptive.first(&equation, state, &[time, last])
    }

    fn solved<F: Field, G: Field>(
        &self,
        drift: &F,
        diffusion: &G,
        start: Tensor<2>,
        times: &[f64],
        path: &mut BrownianPath,
    ) -> Result<(SdeSolution, Vec<Tensor<2>>), SolveError> {
        self.check(&start, times, path)?;
        let plain = start.clone().inner();
        let (frozen, still) = (drift.frozen(), diffusion.frozen());
        let equation = Equation {
            drift: &frozen,
            diffusion: &still,
            drift_error: self.drift_error,
        };
        let taken = self.steps(&equation, plain, times, path)?;
        let wanted = [drift.parameters(), diffusion.parameters()];
        let tracked = wanted.iter().flatten().any(Tensor::is_tracked) || start.is_tracked();
        let mut solution = SdeSolution {
            times: times.to_vec(),
            values: taken.values,
            errors: taken.errors,
            stiffness: taken.stiffness,
            statistics: taken.statistics,
        };
        if tracked {
            // The steps once more, with graph: their lengths and noise are constants.
            let equation = Equation {
                drift,
                diffusion,
                drift_error: self.drift_error,
            };
            self.replay(&equation, start, taken.steps, &mut solution)?;
        }
        Ok((solution, taken.states))
    }

    fn check(
        &self,
        start: &Tensor<2>,
        times: &[f64],
        path: &BrownianPath,
    ) -> Result<(), SolveError> {
        self.controller.check()?;
        range::positive("absolute tolerance", self.absolute)?;
        range::not_negative("relative tolerance", self.relative)?;
        if let Some(length) = self.first_step {
            range::positive("length of the first step", length)?;
        }
        range::at_least("most steps", self.most_steps, 1)?;
        check_times(times)?;
        let dims = start.dims();
        if dims.contains(&0) {
            return Err(SolveError::Empty(dims));
        }
        let count = dims[0] * dims[1];
        let name = "number of Brownian motions";
        range::check(
            path.components() == count,
            name,
            path.components(),
            format!("{count}, that of the state"),
        )?;
        let name = "time of the Brownian path";
        range::check(
            path.now() == times[0],
            name,
            path.now(),
            format!("{}, the first one", times[0]),
        )?;
        Ok(())
    }

    /// Without graph: which steps are taken.
    fn steps<F: Field, G: Field>(
        &self,
        equation: &Equation<'_, F, G>,
        start: Tensor<2>,
        times: &[f64],
        path: &mut BrownianPath,
    ) -> Result<Taken, SolveError> {
        check_finite(&start)?;
        let mut length = self.first(equation, &start, times)?;
        let mut memory = Memory::new(&self.controller);
        let (mut now, mut state) = (times[0], start.clone());
        let mut taken = Taken {
            values: vec![start.clone()],
            errors: start.clone(),
            stiffness: start,
            steps: Vec::new(),
            states: Vec::new(),
            statistics: Statistics::empty(),
        };
        let (mut errors, mut stiffness) = (Vec::new(), Vec::new());
        let mut tries = 0;
        for &stop in &times[1..] {
            while now < stop {
                if tries == self.most_steps {
                    return Err(SolveError::TooManySteps {
                        time: now,
                        steps: tries,
                    });
                }
                tries += 1;
                let cut = now + length * (1.0 + self.controller.slack()) >= stop;
                let tried = if cut { stop - now } else { length };
                if !cut && tried < 10.0 * f64::EPSILON * now.abs().max(1e-280) {
                    return Err(SolveError::Underflow {
                        time: now,
                        length: tried,
                        trajectory: 0,
                    });
                }
                let end = if cut { stop } else { now + tried };
                let noise = noise(&path.until(end), tried, &state);
                let stepped = equation.step(self.method, &state, now, tried, &noise)?;
                let [error, stiff] = self.estimates(&state, &stepped);
                if !error.is_finite() && !self.controller.is_adaptive() {
                    return Err(SolveError::NotFinite {
                        time: now,
                        trajectory: 0,
                    });
                }
                let order = self.method.order();
                let (accepted, factor) = memory.next(&self.controller, error, order);
                if self.controller.is_adaptive() {
                    let next = tried * factor;
                    // A step that was cut off says nothing against the length before.
                    length = if cut && accepted {
                        next.max(length)
                    } else {
                        next
                    };
                }
                taken.statistics.count(accepted, self.method.evaluations());
                if !accepted {
                    continue;
                }
                taken.statistics.take(Step {
                    times: vec![now],
                    lengths: vec![tried],
                    errors: vec![error],
                    stiffness: vec![stiff],
                });
                errors.push(error);
                stiffness.push(stiff);
                path.forget(end);
                taken.steps.push((now, tried, noise));
                taken.states.push(state);
                state = stepped.next.inner();
                now = end;
            }
            taken.values.push(state.clone());
        }
        let count = errors.len();
        let column = |values: Vec<f64>| {
            let data = TensorData::new(values, [count, 1]);
            Tensor::from_data(data, (&state.device(), state.dtype()))
        };
        (taken.errors, taken.stiffness) = (column(errors), column(stiffness));
        Ok(taken)
    }

    /// `E` and `S` of a step, as numbers.
    fn estimates(&self, before: &Tensor<2>, stepped: &Stepped) -> [f64; 2] {
        let rms = |error: &Tensor<2>, states: [&Tensor<2>; 2], tolerances: [f64; 2]| {
            let [rows, width] = error.dims();
            let sums = scaled_squares(error, states, tolerances, width);
            (sums.into_iter().sum::<f64>() / (rows * width) as f64).sqrt()
        };
        let [error, next] = [&stepped.error, &stepped.next].map(|x| x.clone().inner());
        let error = rms(&error, [before, &next], [self.absolute, self.relative]);
        let stiffness = stepped.stiffness.as_ref().map_or(0.0, |differences| {
            let norms = differences.each_ref().map(|x| {
                let x = x.clone().inner();
                rms(&x, [&x; 2], [1.0, 0.0])
            });
            if norms[1] > 0.0 {
                norms[0] / norms[1]
            } else {
                0.0
            }
        });
        [error, stiffness]
    }

    /// The length of the first step: that of ordinary equations, with three deviations of the noise.
    fn first<F: Field, G: Field>(
        &self,
        equation: &Equation<'_, F, G>,
        start: &Tensor<2>,
        times: &[f64],
    ) -> Result<f64, SolveError> {
        let time = times[0];
        let not_finite = || SolveError::NotFinite {
            time,
            trajectory: 0,
        };
        let interval = times[times.len() - 1] - time;
        if let Some(length) = self.first_step {
            return Ok(length);
        }
        if !self.controller.is_adaptive() {
            return Err(SolveError::NoLength);
        }
        let rms = |x: &Tensor<2>| {
            let [rows, width] = x.dims();
            let sums = scaled_squares(x, [start; 2], [self.absolute, self.relative], width);
            (sums.into_iter().sum::<f64>() / (rows * width) as f64).sqrt()
        };
        let larger = |a: &Tensor<2>, b: &Tensor<2>| {
            (a.clone() + b.clone())
                .abs()
                .max_pair((a.clone() - b.clone()).abs())
        };
        let f0 = equation.drift(start, time)?.inner();
        let g0 = equation.diffusion(start, time)?.inner() * 3.0;
        let (d0, d1) = (rms(start), rms(&larger(&f0, &g0)));
        if !d1.is_finite() {
            return Err(not_finite());
        }
        let h0 = if d0 < 1e-5 || d1 < 1e-5 {
            1e-6
        } else {
            0.01 * d0 / d1
        }
        .min(interval);
        let moved = start.clone() + f0.clone() * h0;
        let f1 = equation.drift(&moved, time + h0)?.inner();
        let g1 = equation.diffusion(&moved, time + h0)?.inner() * 3.0;
        let d2 = rms(&larger(&(f1 - f0), &larger(&g1, &g0))) / h0;
        let most = d1.max(d2);
        let h1 = match most <= 1e-15 {
            true => (h0 * 1e-3).max(1e-6),
            false => (0.01 / most).powf(1.0 / (self.method.order() + 0.5)),
        };
        Ok(h1.min(100.0 * h0).min(interval))
    }

    /// The steps with their graph.
    fn replay<F: Field, G: Field>(
        &self,
        equation: &Equation<'_, F, G>,
        start: Tensor<2>,
        steps: Vec<(f64, f64, Noise)>,
        solution: &mut SdeSolution,
    ) -> Result<(), SolveError> {
        let mut state = start.clone().autodiff();
        let (mut errors, mut stiffness) = (Vec::new(), Vec::new());
        let mut values = vec![start];
        for (time, length, noise) in steps {
            let stepped = equation.step(self.method, &state, time, length, &noise)?;
            let scale = state.clone().abs().max_pair(stepped.next.clone().abs());
            let scale = scale * self.relative + self.absolute;
            errors.push(norm(stepped.error / scale));
            stiffness.push(match stepped.stiffness {
                Some([slopes, states])
                    if numbers(&states.clone().inner())?.iter().any(|&x| x != 0.0) =>
                {
                    norm(slopes) / norm(states)
                }
                _ => Tensor::zeros([1, 1], (&state.device(), state.dtype())),
            });
            state = stepped.next;
            let end = time + length;
            let next = solution.times[values.len()];
            if (end - next).abs() <= 1e-12 * next.abs().max(end.abs()) {
                values.push(state.clone());
            }
        }
        solution.values = values;
        solution.errors = Tensor::cat(errors, 0);
        solution.stiffness = Tensor::cat(stiffness, 0);
        Ok(())
    }
}

/// `rms x`, `[1, 1]`. The root has no derivative at 0, from which it is kept away.
fn norm(x: Tensor<2>) -> Tensor<2> {
    (x.square().mean() + 1e-30).sqrt().reshape([1, 1])
}

/// A step's noise as tensors.
fn noise(increment: &Increment, length: f64, like: &Tensor<2>) -> Noise {
    let mean = increment.integral.iter().map(|integral| integral / length);
    Noise {
        increment: tensor_like(increment.value.clone(), like.dims(), like),
        mean: tensor_like(mean.collect(), like.dims(), like),
    }
}

struct Taken {
    values: Vec<Tensor<2>>,
    errors: Tensor<2>,
    stiffness: Tensor<2>,
    /// When they began, their lengths, and their noise.
    steps: Vec<(f64, f64, Noise)>,
    /// Before each of them.
    states: Vec<Tensor<2>>,
    statistics: Statistics,
}

/// A solution of a stochastic equation at the times that were asked for.
#[derive(Clone, Debug)]
pub struct SdeSolution {
    times: Vec<f64>,
    values: Vec<Tensor<2>>,
    errors: Tensor<2>,
    stiffness: Tensor<2>,
    statistics: Statistics,
}

impl SdeSolution {
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

    /// The local error estimates of the steps, divided by the tolerance, `[steps, 1]`.
    pub fn errors(&self) -> Tensor<2> {
        self.errors.clone()
    }

    /// The stiffness estimates of the steps, `[steps, 1]`.
    pub fn stiffness(&self) -> Tensor<2> {
        self.stiffness.clone()
    }

    /// The lengths of the steps, `[steps, 1]`, without graph.
    pub fn lengths(&self) -> Tensor<2> {
        self.statistics.of_steps(|step| &step.lengths, &self.errors)
    }

    /// What the solver did; evaluations are those of the drift, and of the diffusion.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }
}
