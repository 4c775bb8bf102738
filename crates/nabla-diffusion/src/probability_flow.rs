//! The probability-flow equation solved by Runge and Kutta's method with adaptive steps.
//!
//! A diffusion has an ordinary differential equation with the same distribution at every time. With
//! `ℓ = ln(ᾱ/(1 − ᾱ))`, the logarithm of the signal-to-noise ratio, it is
//!
//! ```text
//! dx/dt = ℓ'(t)/2 ((1 − ᾱ) x − √(1 − ᾱ) ε̂(x, t))
//! ```
//!
//! Dormand and Prince's pair of orders 5 and 4 solves it: six calls of the network a step, and the step is
//! as long as the difference of the two orders allows. With `e` that difference,
//!
//! ```text
//! E = √ mean((e / (atol + rtol max(|x|, |x'|)))²)
//! ```
//!
//! over the whole batch, a step is taken if `E < 1`, and the next one is `0.9 E^(−1/5)` times as long, at
//! least 0.2 and at most 10 times, and not longer after a refused one. This is `solve_ivp` of scipy with
//! the method `RK45`, call by call. How many calls that makes is not known before: a hard equation costs
//! more. PNDM's paper calls it PF, and compares with it.
//!
//! The time is counted in parts of the schedule's last time step. Between two training steps `ℓ` is the
//! monotone cubic of Fritsch and Carlson, scipy's `PchipInterpolator`: with a line from each to the next, as
//! [`NoiseSchedule::level_at`] has it, `ℓ'` would jump, and steps would be refused for the jumps alone.
//!
//! Sources: Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, *Score-Based Generative Modeling through
//! Stochastic Differential Equations*, 2021, arXiv 2011.13456, section 4.3 and appendix D.1; Dormand,
//! Prince, *A Family of Embedded Runge-Kutta Formulae*, 1980; Hairer, Nørsett, Wanner, *Solving Ordinary
//! Differential Equations I*, 1993, sections II.4 and II.5; Fritsch, Butland, *A Method for Constructing Local
//! Monotone Piecewise Cubic Interpolants*, 1984.

use burn::config::Config;
use burn::tensor::Tensor;

use crate::ddim::transfer;
use crate::denoiser::{
    Denoiser, Questions, SamplerError, SamplerHook, check_clip, check_sigmas, check_times,
    sample_without_hook,
};
use crate::schedule::{NoiseLevel, NoiseSchedule};
use crate::seeded_noise::SeededNoise;

/// When the stages of a step are asked, as parts of it.
const TIMES: [f64; 5] = [1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0];

/// What the derivatives so far weigh in the stages.
const STAGES: [&[f64]; 5] = [
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[
        19372.0 / 6561.0,
        -25360.0 / 2187.0,
        64448.0 / 6561.0,
        -212.0 / 729.0,
    ],
    &[
        9017.0 / 3168.0,
        -355.0 / 33.0,
        46732.0 / 5247.0,
        49.0 / 176.0,
        -5103.0 / 18656.0,
    ],
];

/// What they weigh in the result of order 5.
const RESULT: [f64; 6] = [
    35.0 / 384.0,
    0.0,
    500.0 / 1113.0,
    125.0 / 192.0,
    -2187.0 / 6784.0,
    11.0 / 84.0,
];

/// What they, and the derivative at the result, weigh in its difference from order 4.
const ERROR: [f64; 7] = [
    -71.0 / 57600.0,
    0.0,
    71.0 / 16695.0,
    -71.0 / 1920.0,
    17253.0 / 339200.0,
    -22.0 / 525.0,
    1.0 / 40.0,
];

/// The lowest relative tolerance: below it rounding is all that is measured.
const LEAST_RTOL: f64 = 100.0 * f64::EPSILON;

/// Configuration of [`ProbabilityFlow`].
#[derive(Config, Debug, Copy, PartialEq)]
pub struct ProbabilityFlowConfig {
    /// Relative tolerance, at least `100 · 2^{−52}`. Default `1e-5`, that of the paper's code.
    #[config(default = 1e-5)]
    pub rtol: f64,
    /// Absolute tolerance, at least 0. Default `1e-5`.
    #[config(default = 1e-5)]
    pub atol: f64,
    /// Limits `x̂_0` to `[−clip, clip]` before the hook sees it. Default none.
    pub clip: Option<f64>,
}

impl ProbabilityFlowConfig {
    /// The solver over a schedule. Its own steps go where the tolerances let them, along the times of the
    /// schedule's [`training`](NoiseSchedule::training); of the schedule they keep the two ends.
    ///
    /// # Errors
    /// If a tolerance is too low or not finite, `clip` is not positive and finite, an `ᾱ` is 0, or the
    /// schedule's times do not rise, or it has fewer than 2 steps.
    pub fn init(&self, schedule: NoiseSchedule) -> Result<ProbabilityFlow, SamplerError> {
        check_clip(self.clip)?;
        let training = schedule.training();
        check_sigmas(training)?;
        for (what, value, least) in [("rtol", self.rtol, LEAST_RTOL), ("atol", self.atol, 0.0)] {
            if !(value >= least && value.is_finite()) {
                return Err(SamplerError::Tolerance { what, value, least });
            }
        }
        let steps = schedule.steps().min(training.steps());
        if steps < 2 {
            return Err(SamplerError::TooFewSteps {
                sampler: "the probability flow",
                steps,
                least: 2,
            });
        }
        check_times(training)?;
        Ok(ProbabilityFlow {
            log_snr: LogSnr::of(training),
            schedule,
            config: *self,
        })
    }
}

/// The solver; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct ProbabilityFlow {
    schedule: NoiseSchedule,
    log_snr: LogSnr,
    config: ProbabilityFlowConfig,
}

/// Where the equation led.
#[derive(Clone, Debug)]
pub struct FlowSolution {
    /// `[batch, channels, height, width]`
    pub x: Tensor<4>,
    /// Calls of the network.
    pub calls: usize,
    /// Steps taken.
    pub steps: usize,
    /// Steps refused, because their error was too large.
    pub refused: usize,
}

sample_without_hook!(ProbabilityFlow);

impl ProbabilityFlow {
    /// The schedule whose ends it goes between.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// Draws pictures: follows the equation from the schedule's last time down to its first, and from there,
    /// as DDIM does, to the level behind it.
    ///
    /// - `x`: where to start, at the level of the schedule's last step, in the variance-preserving
    ///   form; `[batch, channels, height, width]`
    /// - `_noise`: not touched: the equation has none
    /// - `hook`: as in [`solve`](Self::solve)
    ///
    /// # Errors
    /// As [`solve`](Self::solve).
    pub fn sample_with_hook(
        &self,
        model: &dyn Denoiser,
        x: Tensor<4>,
        _noise: &mut SeededNoise,
        hook: &mut SamplerHook<'_>,
    ) -> Result<Tensor<4>, SamplerError> {
        let schedule = &self.schedule;
        let (last, first) = (schedule.timestep(schedule.steps() - 1), schedule.level(0));
        let x = self.solve(model, x, last, first.timestep, hook)?.x;
        let mut questions = Questions::new(model, hook, self.config.clip, schedule.steps());
        let epsilon = questions.ask(&x, 0, first)?.epsilon;
        Ok(transfer(
            x,
            epsilon,
            first.alpha_bar,
            schedule.previous_alpha_bar(0),
        ))
    }

    /// Follows the equation from one time to another: down to draw a picture, up to find the noise of one.
    ///
    /// - `x`: at the time `from`, in the variance-preserving form; `[batch, channels, height, width]`
    /// - `from`, `to`: times in training steps, within the schedule's. At the first time there is still a
    ///   little noise; the network's prediction of the picture there removes it
    /// - `hook`: sees, and may replace, the predicted picture of every call; the index that it is told is
    ///   that of the training step at or below the time
    ///
    /// # Errors
    /// If a time lies outside the schedule, the model's output has the wrong shape, or no step is short
    /// enough for the tolerances, as happens if the model's output is no number.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
    /// use nabla_diffusion::probability_flow::ProbabilityFlowConfig;
    /// use nabla_diffusion::schedule::NoiseScheduleConfig;
    /// use nabla_diffusion::seeded_noise::SeededNoise;
    ///
    /// let device = Device::flex();
    /// let model = GaussianDenoiser::new(
    ///     Tensor::zeros([1, 3, 8, 8], &device),
    ///     Tensor::ones([1, 3, 8, 8], &device) * 0.25,
    ///     Prediction::Epsilon,
    /// );
    /// let training = NoiseScheduleConfig::new().init()?;
    /// let flow = ProbabilityFlowConfig::new().with_rtol(1e-4).with_atol(1e-4).init(training.clone())?;
    /// let start = SeededNoise::new(42, 0).normal([1, 3, 8, 8], &device);
    /// let found = flow.solve(&model, start.clone(), 999.0, 10.0, &mut |_, denoised| denoised)?;
    /// let exact = model.transport(start, training.alpha_bar(999), training.alpha_bar(10));
    /// assert!((found.x - exact).abs().max().into_scalar::<f32>() < 0.01);
    /// assert!(found.calls < 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn solve(
        &self,
        model: &dyn Denoiser,
        x: Tensor<4>,
        from: f64,
        to: f64,
        hook: &mut SamplerHook<'_>,
    ) -> Result<FlowSolution, SamplerError> {
        let training = self.schedule.training();
        let (least, most) = (
            training.timestep(0),
            training.timestep(training.steps() - 1),
        );
        for value in [from, to] {
            if !(least..=most).contains(&value) {
                return Err(SamplerError::OutsideTime { value, least, most });
            }
        }
        let mut flow = Flow {
            log_snr: &self.log_snr,
            questions: Questions::new(model, hook, self.config.clip, training.steps()),
            span: most,
            calls: 0,
        };
        let mut solution = FlowSolution {
            x,
            calls: 0,
            steps: 0,
            refused: 0,
        };
        if from == to {
            return Ok(solution);
        }
        let (mut time, end) = (from / most, to / most);
        let direction = (end - time).signum();
        let mut slope = flow.slope(time, &solution.x)?;
        let mut length = self.first_length(&mut flow, time, end, &solution.x, &slope)?;
        while direction * (end - time) > 0.0 {
            // Ten units of the time's last place.
            let shortest = match direction > 0.0 {
                true => 10.0 * (time.next_up() - time),
                false => 10.0 * (time - time.next_down()),
            };
            length = length.max(shortest);
            let mut refused = false;
            loop {
                if length < shortest {
                    return Err(SamplerError::StepTooShort { time: time * most });
                }
                let next = match direction * (time + length * direction - end) > 0.0 {
                    true => end,
                    false => time + length * direction,
                };
                let step = next - time;
                length = step.abs();
                let (x, derivative, error) = flow.step(time, step, &solution.x, &slope)?;
                let largest = solution.x.clone().abs().max_pair(x.clone().abs());
                let error = norm(error / (largest * self.config.rtol + self.config.atol));
                if error < 1.0 {
                    let most = if refused { 1.0 } else { 10.0 };
                    length *= (0.9 * error.powf(-0.2)).min(most);
                    (time, slope, solution.x) = (next, derivative, x);
                    solution.steps += 1;
                    break;
                }
                length *= (0.9 * error.powf(-0.2)).max(0.2);
                refused = true;
                solution.refused += 1;
            }
        }
        solution.calls = flow.calls;
        Ok(solution)
    }

    /// Hairer's guess of the first step's length, which costs a call.
    fn first_length(
        &self,
        flow: &mut Flow<'_, '_, '_>,
        time: f64,
        end: f64,
        x: &Tensor<4>,
        slope: &Tensor<4>,
    ) -> Result<f64, SamplerError> {
        let whole = (end - time).abs();
        let scale = x.clone().abs() * self.config.rtol + self.config.atol;
        let size = norm(x.clone() / scale.clone());
        let rate = norm(slope.clone() / scale.clone());
        let guess = match size < 1e-5 || rate < 1e-5 {
            true => 1e-6,
            false => 0.01 * size / rate,
        }
        .min(whole);
        let step = guess * (end - time).signum();
        let ahead = flow.slope(time + step, &(x.clone() + slope.clone() * step))?;
        let curvature = norm((ahead - slope.clone()) / scale) / guess;
        let length = match rate <= 1e-15 && curvature <= 1e-15 {
            true => (guess * 1e-3).max(1e-6),
            false => (0.01 / rate.max(curvature)).powf(0.2),
        };
        Ok((100.0 * guess).min(length).min(whole))
    }
}

/// `ℓ` as a smooth function of time.
#[derive(Clone, Debug)]
struct LogSnr {
    times: Vec<f64>,
    values: Vec<f64>,
    slopes: Vec<f64>,
}

impl LogSnr {
    /// - `training`: at least 2 steps, the times rising
    fn of(training: &NoiseSchedule) -> Self {
        let steps = 0..training.steps();
        let times: Vec<f64> = steps.clone().map(|i| training.timestep(i)).collect();
        let values: Vec<f64> = steps.map(|i| training.log_snr(i)).collect();
        let lengths: Vec<f64> = times.windows(2).map(|t| t[1] - t[0]).collect();
        let rises = values.windows(2).zip(&lengths);
        let rises: Vec<f64> = rises.map(|(v, h)| (v[1] - v[0]) / h).collect();
        // Three points at an end, but never against the direction of the interval there.
        let end = |h: [f64; 2], m: [f64; 2]| {
            let slope = ((2.0 * h[0] + h[1]) * m[0] - h[0] * m[1]) / (h[0] + h[1]);
            slope.min(0.0)
        };
        let last = rises.len() - 1;
        let mut slopes = vec![rises[0]; 2];
        if last > 0 {
            slopes[0] = end([lengths[0], lengths[1]], [rises[0], rises[1]]);
            slopes.truncate(1);
            for i in 0..last {
                let (h0, h1) = (lengths[i], lengths[i + 1]);
                let (w0, w1) = (2.0 * h1 + h0, h1 + 2.0 * h0);
                slopes.push((w0 + w1) / (w0 / rises[i] + w1 / rises[i + 1]));
            }
            let h = [lengths[last], lengths[last - 1]];
            slopes.push(end(h, [rises[last], rises[last - 1]]));
        }
        Self {
            times,
            values,
            slopes,
        }
    }

    /// The level at a time, the index of the step at or below it, and `ℓ'` per time step.
    fn at(&self, timestep: f64) -> (NoiseLevel, usize, f64) {
        let above = self.times.partition_point(|&t| t <= timestep);
        let above = above.clamp(1, self.times.len() - 1);
        let below = above - 1;
        let length = self.times[above] - self.times[below];
        let u = (timestep - self.times[below]) / length;
        let (v0, v1) = (self.values[below], self.values[above]);
        let (d0, d1) = (self.slopes[below] * length, self.slopes[above] * length);
        // The cubic with these ends and slopes.
        let square = 3.0 * (v1 - v0) - 2.0 * d0 - d1;
        let cube = d0 + d1 - 2.0 * (v1 - v0);
        let log_snr = v0 + u * (d0 + u * (square + u * cube));
        let rate = (d0 + u * (2.0 * square + 3.0 * u * cube)) / length;
        let level = NoiseLevel {
            timestep,
            alpha_bar: 1.0 / (1.0 + (-log_snr).exp()),
        };
        let index = if u < 1.0 { below } else { above };
        (level, index, rate)
    }
}

/// The equation.
struct Flow<'t, 'a, 'h> {
    log_snr: &'t LogSnr,
    questions: Questions<'a, 'h>,
    /// The time step that is 1 in the equation's time.
    span: f64,
    calls: usize,
}

impl Flow<'_, '_, '_> {
    /// `dx/dt`
    fn slope(&mut self, time: f64, x: &Tensor<4>) -> Result<Tensor<4>, SamplerError> {
        self.calls += 1;
        let (level, index, rate) = self.log_snr.at(time * self.span);
        let epsilon = self.questions.ask(x, index, level)?.epsilon;
        let half = 0.5 * rate * self.span;
        let noise = level.noise();
        Ok(x.clone() * (half * noise * noise) - epsilon * (half * noise))
    }

    /// The result of order 5, the derivative there, and the difference from order 4.
    fn step(
        &mut self,
        time: f64,
        step: f64,
        x: &Tensor<4>,
        slope: &Tensor<4>,
    ) -> Result<(Tensor<4>, Tensor<4>, Tensor<4>), SamplerError> {
        let mut slopes = vec![slope.clone()];
        for (part, weights) in TIMES.into_iter().zip(STAGES) {
            let ahead = x.clone() + combined(&slopes, weights) * step;
            slopes.push(self.slope(time + part * step, &ahead)?);
        }
        let next = x.clone() + combined(&slopes, &RESULT) * step;
        let derivative = self.slope(time + step, &next)?;
        slopes.push(derivative.clone());
        Ok((next, derivative, combined(&slopes, &ERROR) * step))
    }
}

/// `Σ w_k v_k`; the first weight is not 0.
fn combined(values: &[Tensor<4>], weights: &[f64]) -> Tensor<4> {
    let rest = values.iter().zip(weights).skip(1);
    rest.filter(|&(_, &weight)| weight != 0.0)
        .fold(values[0].clone() * weights[0], |sum, (value, &weight)| {
            sum + value.clone() * weight
        })
}

/// The root of the mean square.
fn norm(x: Tensor<4>) -> f64 {
    let mean = (x.clone() * x).mean().into_data().convert::<f64>();
    mean.iter::<f64>().next().map_or(f64::NAN, f64::sqrt)
}
