//! Solving a stochastic equation.

use burn::tensor::Tensor;
use nabla_base::range;

use super::brownian_path::{BrownianPath, Increment};
use super::step::{DriftError, Equation, Noise, SdeMethod, Stepped};
use crate::controller::{Controller, Memory};
use crate::field::Field;
use crate::first_step;
use crate::norms;
use crate::numbers::{numbers, tensor_like};
use crate::options::Options;
use crate::run::check_finite;
use crate::solve_error::SolveError;
use crate::solver::{Statistics, Step};

/// A solver of stochastic equations; see the [module documentation](super).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SdeSolver {
    method: SdeMethod,
    options: Options,
    drift_error: DriftError,
}

impl SdeSolver {
    /// With the tolerances `10⁻²`, and PI control whose steps grow by at most an eighth.
    pub fn new(method: SdeMethod) -> Self {
        let controller = Controller::ProportionalIntegral {
            beta1: 0.7,
            beta2: 0.4,
            safety: 0.9,
            least: 0.2,
            most: 1.125,
        };
        Self {
            method,
            options: Options::new([1e-2; 2], controller),
            drift_error: DriftError::default(),
        }
    }

    /// Sets the error of a step that is accepted: `absolute + relative |u|`.
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

    /// Sets what the drift's part of the error is.
    #[must_use]
    pub fn with_drift_error(mut self, drift_error: DriftError) -> Self {
        self.drift_error = drift_error;
        self
    }

    /// Sets the length of the first step, which is found from drift and diffusion otherwise.
    #[must_use]
    pub fn with_first_step(mut self, length: f64) -> Self {
        self.options.first_step = Some(length);
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
        self.options.most_steps = steps;
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
        let (solution, _) = self.solve_with_states(drift, diffusion, start, times, seed)?;
        Ok(solution)
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
            options: self.options.searching(),
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
        let solution = if tracked {
            // The steps once more, with graph: their lengths and noise are constants.
            let equation = Equation {
                drift,
                diffusion,
                drift_error: self.drift_error,
            };
            self.replay(&equation, start, times, taken.statistics, taken.noises)?
        } else {
            let (statistics, like) = (taken.statistics, &taken.values[0]);
            SdeSolution {
                times: times.to_vec(),
                errors: statistics.of_steps(|step| &step.errors, like),
                stiffness: statistics.of_steps(|step| &step.stiffness, like),
                values: taken.values,
                statistics,
            }
        };
        Ok((solution, taken.states))
    }

    fn check(
        &self,
        start: &Tensor<2>,
        times: &[f64],
        path: &BrownianPath,
    ) -> Result<(), SolveError> {
        self.options.check(start, times)?;
        let dims = start.dims();
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
        let mut memory = Memory::new(&self.options.controller);
        let (mut now, mut state) = (times[0], start.clone());
        let mut taken = Taken {
            values: vec![start],
            noises: Vec::new(),
            states: Vec::new(),
            statistics: Statistics::empty(),
        };
        for &stop in &times[1..] {
            while now < stop {
                let steps = taken.statistics.accepted() + taken.statistics.rejected();
                if steps == self.options.most_steps {
                    return Err(SolveError::TooManySteps { time: now, steps });
                }
                let cut = now + length * (1.0 + self.options.controller.slack()) >= stop;
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
                if !error.is_finite() && !self.options.controller.is_adaptive() {
                    return Err(SolveError::NotFinite {
                        time: now,
                        trajectory: 0,
                    });
                }
                let order = self.method.order();
                let (accepted, factor) = memory.next(&self.options.controller, error, order);
                if self.options.controller.is_adaptive() {
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
                path.forget(end);
                taken.noises.push(noise);
                taken.states.push(state);
                state = stepped.next.inner();
                now = end;
            }
            taken.values.push(state.clone());
        }
        Ok(taken)
    }

    /// `E` and `S` of a step, as numbers.
    fn estimates(&self, before: &Tensor<2>, stepped: &Stepped) -> [f64; 2] {
        let width = before.dims()[1];
        let [error, next] = [&stepped.error, &stepped.next].map(|x| x.clone().inner());
        let error = norms::joint(&error, [before, &next], self.options.tolerances, width);
        let stiffness = stepped.stiffness.as_ref().map_or(0.0, |differences| {
            let norms = differences.each_ref().map(|x| {
                let x = x.clone().inner();
                norms::joint(&x, [&x; 2], norms::PLAIN, width)
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
        if let Some(length) = self.options.first_step {
            return Ok(length);
        }
        if !self.options.controller.is_adaptive() {
            return Err(SolveError::NoLength);
        }
        let time = times[0];
        let interval = times[times.len() - 1] - time;
        let width = start.dims()[1];
        let rms = |x: &Tensor<2>| norms::joint(x, [start; 2], self.options.tolerances, width);
        let larger = |a: &Tensor<2>, b: &Tensor<2>| {
            (a.clone() + b.clone())
                .abs()
                .max_pair((a.clone() - b.clone()).abs())
        };
        let f0 = equation.drift(start, time)?.inner();
        let g0 = equation.diffusion(start, time)?.inner() * 3.0;
        let (size, slope) = (rms(start), rms(&larger(&f0, &g0)));
        if !slope.is_finite() {
            return Err(SolveError::NotFinite {
                time,
                trajectory: 0,
            });
        }
        let guess = first_step::guess(size, slope, interval);
        let moved = start.clone() + f0.clone() * guess;
        let f1 = equation.drift(&moved, time + guess)?.inner();
        let g1 = equation.diffusion(&moved, time + guess)?.inner() * 3.0;
        let change = rms(&larger(&(f1 - f0), &larger(&g1, &g0)));
        let order = self.method.order() + 0.5;
        Ok(first_step::length(guess, slope, change, order, interval))
    }

    /// The steps with their graph.
    ///
    /// - `noises`: those of the steps
    fn replay<F: Field, G: Field>(
        &self,
        equation: &Equation<'_, F, G>,
        start: Tensor<2>,
        times: &[f64],
        statistics: Statistics,
        noises: Vec<Noise>,
    ) -> Result<SdeSolution, SolveError> {
        let [absolute, relative] = self.options.tolerances;
        let mut state = start.clone().autodiff();
        let (mut errors, mut stiffness) = (Vec::new(), Vec::new());
        let mut values = vec![start];
        for (step, noise) in statistics.steps().iter().zip(noises) {
            let (time, length) = (step.times[0], step.lengths[0]);
            if times.get(values.len()) == Some(&time) {
                // The step before ended at a time that was asked for.
                values.push(state.clone());
            }
            let stepped = equation.step(self.method, &state, time, length, &noise)?;
            let scale = state.clone().abs().max_pair(stepped.next.clone().abs());
            let scale = scale * relative + absolute;
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
        }
        values.push(state);
        Ok(SdeSolution {
            times: times.to_vec(),
            values,
            errors: Tensor::cat(errors, 0),
            stiffness: Tensor::cat(stiffness, 0),
            statistics,
        })
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

/// Which steps were taken, without graph.
struct Taken {
    /// At each of the times.
    values: Vec<Tensor<2>>,
    /// Of each step.
    noises: Vec<Noise>,
    /// Before each step.
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
