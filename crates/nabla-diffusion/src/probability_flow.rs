//! The probability-flow equation, solved by a Runge–Kutta method with adaptive steps.
//!
//! A diffusion has an ordinary differential equation with the same distribution at every time. With
//! `ℓ = ln(ᾱ/(1 − ᾱ))`, the logarithm of the signal-to-noise ratio, it is
//!
//! ```text
//! dx/dt = ℓ'(t)/2 ((1 − ᾱ) x − √(1 − ᾱ) ε̂(x, t))
//! ```
//!
//! It is solved by Dormand and Prince's pair of orders 5 and 4, with six network calls per step. A step is as
//! long as the difference of the two orders allows. With this difference `e` and
//!
//! ```text
//! E = √ mean((e / (atol + rtol max(|x|, |x'|)))²)
//! ```
//!
//! over the whole batch, a step is accepted if `E < 1`. The next step is `0.9 E^(−1/5)` times as long,
//! limited to factors of 0.2 to 10, and to a factor of 1 after a refused step. This equals scipy's
//! `solve_ivp` with the method `RK45`, call by call. The number of calls is not known in advance: a harder
//! equation costs more. The PNDM paper calls this method PF, and compares with it.
//!
//! The time is measured as a fraction of the path's last time. `ℓ` and its derivative come from
//! [`NoisePath::smooth_at`](crate::level::NoisePath::smooth_at): for a table of training steps they are the
//! monotone cubic of Fritsch and Butland, because with linear interpolation `ℓ'` would jump, and steps would
//! be refused because of the jumps. On a path that is not variance preserving, the equation is solved for
//! `x/√(signal² + noise²)`.
//!
//! If a guidance sets sample and direction independently, the equation starts from the state that the two
//! make up, and follows their `d/dt (signal · sample + noise · direction)`.
//!
//! Sources: Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, *Score-Based Generative Modeling through
//! Stochastic Differential Equations*, 2021, arXiv 2011.13456, section 4.3 and appendix D.1; Dormand,
//! Prince, *A Family of Embedded Runge-Kutta Formulae*, 1980; Hairer, Nørsett, Wanner, *Solving Ordinary
//! Differential Equations I*, 1993, sections II.4 and II.5; Fritsch, Butland, *A Method for Constructing Local
//! Monotone Piecewise Cubic Interpolants*, 1984.

use burn::config::Config;
use burn::tensor::Tensor;
use nabla_base::range;

use crate::asking::{Asking, Reading};
use crate::level::{Levels, transfer};
use crate::sampler::{Sampling, Solver, Steps, steps};
use crate::sampler_error::{SamplerError, check_clip, check_steps};
use crate::seeded_noise::SeededNoise;

/// The times of the stages, as fractions of the step.
const TIMES: [f64; 5] = [1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0];

/// The weights of the previous derivatives in the stages.
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

/// The weights of the derivatives in the result of order 5.
const RESULT: [f64; 6] = [
    35.0 / 384.0,
    0.0,
    500.0 / 1113.0,
    125.0 / 192.0,
    -2187.0 / 6784.0,
    11.0 / 84.0,
];

/// The weights of the derivatives, including the one at the result, in the difference from order 4.
const ERROR: [f64; 7] = [
    -71.0 / 57600.0,
    0.0,
    71.0 / 16695.0,
    -71.0 / 1920.0,
    17253.0 / 339200.0,
    -22.0 / 525.0,
    1.0 / 40.0,
];

/// The lowest relative tolerance: below it, the error estimate is only rounding.
const LEAST_RTOL: f64 = 100.0 * f64::EPSILON;

/// The solver; see the [module documentation](self).
///
/// As a [`Solver`], it follows the equation from the first level down to the last, and from there takes a
/// DDIM step to the level after it. The levels in between are not visited, because the tolerances determine
/// the steps. [`solve`](Self::solve) goes between any two times.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct ProbabilityFlow {
    /// Relative tolerance, at least `100 · 2^{−52}`. Default `1e-5`, as in the paper's code.
    #[config(default = 1e-5)]
    pub rtol: f64,
    /// Absolute tolerance, at least 0. Default `1e-5`.
    #[config(default = 1e-5)]
    pub atol: f64,
    /// Limits `x̂_0` to `[−clip, clip]` before any correction sees it. Default: no limit.
    pub clip: Option<f64>,
}

impl<const D: usize> Solver<D> for ProbabilityFlow {
    /// # Errors
    /// If a tolerance is too low or not finite, `clip` is not positive and finite, there are fewer than 2
    /// levels, or the path cannot be followed.
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        self.check(levels)?;
        levels.check_sigmas()?;
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let last = levels.steps() - 1;
            let (start, first) = (levels.start().time(), levels.level(0));
            match index {
                // The whole time range.
                _ if index == last => Ok(self.run(levels, ask, x, start, first.time())?.x),
                0 => {
                    let answer = ask.ask(x, 0, first)?;
                    Ok(transfer(answer.x, answer.epsilon, first, levels.end()))
                }
                _ => Ok(x),
            }
        }))
    }

    fn reading(&self) -> Reading {
        Reading::clipped(self.clip)
    }

    /// An estimate: two calls and ten steps.
    fn calls(&self, _steps: usize) -> usize {
        62
    }

    fn least_steps(&self) -> usize {
        2
    }
}

/// The result of the equation.
#[derive(Clone, Debug)]
pub struct FlowSolution<const D: usize = 4> {
    /// `[batch, …]`
    pub x: Tensor<D>,
    /// The number of network calls.
    pub calls: usize,
    /// The number of accepted steps.
    pub steps: usize,
    /// The number of steps refused because their error was too large.
    pub refused: usize,
}

impl ProbabilityFlow {
    fn check(&self, levels: &Levels) -> Result<(), SamplerError> {
        check_clip(self.clip)?;
        for (what, value, least) in [("rtol", self.rtol, LEAST_RTOL), ("atol", self.atol, 0.0)] {
            let fits = value >= least && value.is_finite();
            let expected = format!("finite and at least {least:e}");
            range::check(fits, format!("tolerance {what}"), value, expected)?;
        }
        check_steps("the probability flow", levels.steps(), 2)?;
        levels.path().check_smooth()
    }

    /// Follows the equation from one time to another: down to draw a sample, up to find the noise of a sample.
    ///
    /// - `levels`: the levels whose path is followed
    /// - `sampling`: the model, its guidance, and corrections, which see every call with the index of the
    ///   noisiest level at or before the time
    /// - `x`: the state at the time `from`, `[batch, …]`
    /// - `from`, `to`: times of the path. At the first time of a table of training steps there is still a
    ///   little noise; the network's prediction of the sample there removes it
    ///
    /// # Errors
    /// If a tolerance is too low, a time lies outside the path's, the model, the guidance or a correction
    /// fails, or no step is short enough for the tolerances, for example because the model's output is NaN.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::denoiser::{GaussianDenoiser, Prediction};
    /// use nabla_diffusion::probability_flow::ProbabilityFlow;
    /// use nabla_diffusion::sampler::Sampling;
    /// use nabla_diffusion::schedule::NoiseScheduleConfig;
    /// use nabla_diffusion::seeded_noise::SeededNoise;
    ///
    /// let device = Device::flex();
    /// let model = GaussianDenoiser::new(
    ///     Tensor::<4>::zeros([1, 3, 8, 8], &device),
    ///     Tensor::ones([1, 3, 8, 8], &device) * 0.25,
    ///     Prediction::Epsilon,
    /// );
    /// let training = NoiseScheduleConfig::new().init()?;
    /// let flow = ProbabilityFlow::new().with_rtol(1e-4).with_atol(1e-4);
    /// let start = SeededNoise::new(42, 0).normal([1, 3, 8, 8], &device);
    /// let levels = (&training).into();
    /// let found = flow.solve(&levels, Sampling::of(&model), start.clone(), 999.0, 10.0)?;
    /// let exact = model.transport(start, training.level(999), training.level(10));
    /// assert!((found.x - exact).abs().max().into_scalar::<f32>() < 0.01);
    /// assert!(found.calls < 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn solve<const D: usize>(
        &self,
        levels: &Levels,
        sampling: Sampling<'_, D>,
        x: Tensor<D>,
        from: f64,
        to: f64,
    ) -> Result<FlowSolution<D>, SamplerError> {
        self.check(levels)?;
        let reading = Reading::clipped(self.clip);
        // The equation needs no noise.
        let mut noise = SeededNoise::new(0, 0);
        sampling.asking(reading, levels.steps(), &mut noise, |ask| {
            self.run(levels, ask, x, from, to)
        })
    }

    fn run<const D: usize>(
        &self,
        levels: &Levels,
        ask: &mut Asking<'_, D>,
        x: Tensor<D>,
        from: f64,
        to: f64,
    ) -> Result<FlowSolution<D>, SamplerError> {
        let [least, most] = levels.path().times();
        for value in [from, to] {
            if !(least..=most).contains(&value) {
                return Err(SamplerError::OutsideTime { value, least, most });
            }
            let level = levels.path().level_at(value);
            if level.signal() == 0.0 {
                return Err(SamplerError::InfiniteSigma { time: value });
            }
            if level.noise() == 0.0 {
                return Err(SamplerError::FinalSigma {
                    sampler: "the probability flow",
                });
            }
        }
        let before = ask.calls();
        let mut flow = Flow {
            levels,
            ask,
            span: most,
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
        let scale = levels.path().level_at(from).scale();
        solution.x = scaled(solution.x, 1.0 / scale);
        let (mut time, end) = (from / most, to / most);
        let direction = (end - time).signum();
        let mut slope;
        (solution.x, slope) = flow.slope(time, solution.x)?;
        let mut length = self.first_length(&mut flow, time, end, &solution.x, &slope)?;
        while direction * (end - time) > 0.0 {
            // Ten units in the last place of the time.
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
                let error = norm(error / (largest * self.rtol + self.atol));
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
        solution.calls = flow.ask.calls() - before;
        solution.x = scaled(solution.x, levels.path().level_at(to).scale());
        Ok(solution)
    }

    /// Hairer's estimate for the length of the first step, which costs one call.
    fn first_length<const D: usize>(
        &self,
        flow: &mut Flow<'_, '_, '_, D>,
        time: f64,
        end: f64,
        x: &Tensor<D>,
        slope: &Tensor<D>,
    ) -> Result<f64, SamplerError> {
        let whole = (end - time).abs();
        let scale = x.clone().abs() * self.rtol + self.atol;
        let size = norm(x.clone() / scale.clone());
        let rate = norm(slope.clone() / scale.clone());
        let guess = match size < 1e-5 || rate < 1e-5 {
            true => 1e-6,
            false => 0.01 * size / rate,
        }
        .min(whole);
        let step = guess * (end - time).signum();
        let (_, ahead) = flow.slope(time + step, x.clone() + slope.clone() * step)?;
        let curvature = norm((ahead - slope.clone()) / scale) / guess;
        let length = match rate <= 1e-15 && curvature <= 1e-15 {
            true => (guess * 1e-3).max(1e-6),
            false => (0.01 / rate.max(curvature)).powf(0.2),
        };
        Ok((100.0 * guess).min(length).min(whole))
    }
}

/// The equation, in the variance-preserving form.
struct Flow<'r, 'l, 'a, const D: usize> {
    levels: &'l Levels,
    ask: &'r mut Asking<'a, D>,
    /// The path's time that corresponds to 1 in the equation.
    span: f64,
}

impl<const D: usize> Flow<'_, '_, '_, D> {
    /// The state, and `dx/dt` there.
    fn slope(&mut self, time: f64, x: Tensor<D>) -> Result<(Tensor<D>, Tensor<D>), SamplerError> {
        let (level, rate) = self.levels.path().smooth_at(time * self.span);
        let index = self.levels.index_at(level.time());
        let answer = self.ask.ask(scaled(x, level.scale()), index, level)?;
        let x = scaled(answer.x, 1.0 / level.scale());
        let half = 0.5 * rate * self.span;
        let noise = (1.0 - level.alpha_bar()).sqrt();
        let slope = x.clone() * (half * noise * noise) - answer.epsilon * (half * noise);
        Ok((x, slope))
    }

    /// The result of order 5, the derivative there, and the difference from order 4.
    fn step(
        &mut self,
        time: f64,
        step: f64,
        x: &Tensor<D>,
        slope: &Tensor<D>,
    ) -> Result<(Tensor<D>, Tensor<D>, Tensor<D>), SamplerError> {
        let mut slopes = vec![slope.clone()];
        for (part, weights) in TIMES.into_iter().zip(STAGES) {
            let ahead = x.clone() + combined(&slopes, weights) * step;
            slopes.push(self.slope(time + part * step, ahead)?.1);
        }
        let next = x.clone() + combined(&slopes, &RESULT) * step;
        let (_, derivative) = self.slope(time + step, next.clone())?;
        slopes.push(derivative.clone());
        Ok((next, derivative, combined(&slopes, &ERROR) * step))
    }
}

/// `x` at another scale; unchanged if the scale is 1.
fn scaled<const D: usize>(x: Tensor<D>, scale: f64) -> Tensor<D> {
    match scale == 1.0 {
        true => x,
        false => x * scale,
    }
}

/// `Σ w_k v_k`; the first weight is not 0.
fn combined<const D: usize>(values: &[Tensor<D>], weights: &[f64]) -> Tensor<D> {
    let rest = values.iter().zip(weights).skip(1);
    rest.filter(|&(_, &weight)| weight != 0.0)
        .fold(values[0].clone() * weights[0], |sum, (value, &weight)| {
            sum + value.clone() * weight
        })
}

/// The root mean square.
fn norm<const D: usize>(x: Tensor<D>) -> f64 {
    let mean = (x.clone() * x).mean().into_data().convert::<f64>();
    mean.iter::<f64>().next().map_or(f64::NAN, f64::sqrt)
}
