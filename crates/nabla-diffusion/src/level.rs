//! Noise levels, the paths on which they lie, and the levels that a sampler visits.
//!
//! Every diffusion and every flow here is an affine Gaussian path,
//!
//! ```text
//! x = signal · x_0 + noise · ε,   ε ~ N(0, I)
//! ```
//!
//! The paths differ only in how `signal` and `noise` depend on the time:
//!
//! | path | `signal` | `noise` | here |
//! |---|---|---|---|
//! | variance preserving | `√ᾱ` | `√(1 − ᾱ)` | [`NoiseSchedule`](crate::schedule::NoiseSchedule) |
//! | straight line (rectified flow, flow matching) | `1 − t` | `t` | [`StraightLine`] |
//! | variance exploding | 1 | `σ` | [`Level::variance_exploding`] |
//!
//! Two points on two paths with the same ratio `σ = noise/signal` are the same point at two scales. So a
//! sampler needs only [`Level`]s: those that it visits and the one after the last step ([`Levels`]). A few
//! samplers also need levels in between, and get them from the [`NoisePath`].
//!
//! # Your own path
//! Implement three methods; this is the variance-exploding path with `σ` as its time:
//!
//! ```
//! use std::sync::Arc;
//! use nabla_diffusion::level::{Level, Levels, NoisePath};
//!
//! #[derive(Debug)]
//! struct Exploding;
//!
//! impl NoisePath for Exploding {
//!     fn level_at(&self, time: f64) -> Level {
//!         Level::variance_exploding(time, time)
//!     }
//!     fn level_of_sigma(&self, sigma: f64) -> Level {
//!         self.level_at(sigma)
//!     }
//!     fn times(&self) -> [f64; 2] {
//!         [0.0, 80.0]
//!     }
//! }
//!
//! let visited = [0.1, 1.0, 10.0, 80.0].map(|sigma| Exploding.level_at(sigma)).to_vec();
//! let levels = Levels::new(visited, Exploding.level_at(0.0), Arc::new(Exploding))?;
//! assert_eq!(levels.steps(), 4);
//! # Ok::<(), nabla_diffusion::schedule::ScheduleError>(())
//! ```
//!
//! Sources: Lipman et al., *Flow Matching for Generative Modeling*, 2023, arXiv 2210.02747, section 4 (affine
//! Gaussian paths); Liu, Gong, Liu, *Flow Straight and Fast*, 2023, arXiv 2209.03003; Esser et al., *Scaling
//! Rectified Flow Transformers for High-Resolution Image Synthesis*, 2024, arXiv 2403.03206, section 5.3.2 (the
//! shift).

use std::fmt::Debug;
use std::sync::Arc;

use burn::config::Config;
use burn::tensor::{Device, Tensor};
use nabla_base::range;

use crate::sampler_error::SamplerError;
use crate::schedule::{Posterior, ScheduleError};

/// The scales of the sample and of the noise in `x = signal · x_0 + noise · ε`, and the time that a network
/// gets; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    time: f64,
    signal: f64,
    noise: f64,
    /// `signal²/(signal² + noise²)`; in the variance-preserving form exactly the number that the level was
    /// made from.
    alpha_bar: f64,
    /// `√(signal² + noise²)`: exactly 1 in the variance-preserving form.
    scale: f64,
}

impl Level {
    /// The level with these scales on any path.
    ///
    /// - `time`: the time that a network gets, in its own unit
    /// - `signal`, `noise`: at least 0, and not both 0
    pub fn new(time: f64, signal: f64, noise: f64) -> Self {
        let scale = signal.hypot(noise);
        Self {
            time,
            signal,
            noise,
            alpha_bar: (signal / scale).powi(2),
            scale,
        }
    }

    /// `√ᾱ` and `√(1 − ᾱ)`.
    ///
    /// - `time`: in units of training steps, from 0; fractional between two of them
    /// - `alpha_bar`: `ᾱ`, in `[0, 1]`
    pub fn variance_preserving(time: f64, alpha_bar: f64) -> Self {
        Self {
            time,
            signal: alpha_bar.sqrt(),
            noise: (1.0 - alpha_bar).sqrt(),
            alpha_bar,
            scale: 1.0,
        }
    }

    /// The level with signal 1 and noise `σ`: the form of score matching.
    pub fn variance_exploding(time: f64, sigma: f64) -> Self {
        Self::new(time, 1.0, sigma)
    }

    /// The level with signal `1 − t` and noise `t`: the straight line of rectified flow and flow matching,
    /// from the sample at time 0 to the noise at time 1.
    pub fn straight(time: f64) -> Self {
        Self::new(time, 1.0 - time, time)
    }

    /// The level with the noise level `sigma` on the same path and with the same time: it keeps the signal
    /// or, in the variance-preserving form, that form.
    pub(crate) fn at_sigma(self, sigma: f64) -> Self {
        match self.is_variance_preserving() {
            true => Self::variance_preserving(self.time, alpha_bar_from_sigma(sigma)),
            false => Self::new(self.time, self.signal, self.signal * sigma),
        }
    }

    /// The time that a network gets. In a [`NoiseSchedule`](crate::schedule::NoiseSchedule) it counts
    /// training steps from 0, with fractions between two of them.
    pub fn time(self) -> f64 {
        self.time
    }

    /// The same level with another time.
    #[must_use]
    pub fn with_time(self, time: f64) -> Self {
        Self { time, ..self }
    }

    /// The scale of the sample; `√ᾱ` in the variance-preserving form.
    pub fn signal(self) -> f64 {
        self.signal
    }

    /// The standard deviation of the noise; `√(1 − ᾱ)` in the variance-preserving form.
    pub fn noise(self) -> f64 {
        self.noise
    }

    /// `ᾱ = signal²/(signal² + noise²)`, in `[0, 1]`.
    pub fn alpha_bar(self) -> f64 {
        self.alpha_bar
    }

    /// `√(signal² + noise²)`, the factor that takes a point of the variance-preserving form to this path; 1
    /// in that form itself.
    pub fn scale(self) -> f64 {
        self.scale
    }

    /// `signal²`.
    pub(crate) fn signal_power(self) -> f64 {
        match self.is_variance_preserving() {
            true => self.alpha_bar,
            false => self.signal * self.signal,
        }
    }

    /// `noise²`.
    pub(crate) fn noise_power(self) -> f64 {
        match self.is_variance_preserving() {
            true => 1.0 - self.alpha_bar,
            false => self.noise * self.noise,
        }
    }

    fn is_variance_preserving(self) -> bool {
        self.scale == 1.0
    }

    /// `σ = noise/signal`; infinite if the signal is 0.
    pub fn sigma(self) -> f64 {
        match self.is_variance_preserving() {
            true => sigma_from_alpha_bar(self.alpha_bar),
            false => self.noise / self.signal,
        }
    }

    /// The signal-to-noise ratio `signal²/noise²`.
    pub fn snr(self) -> f64 {
        self.signal_power() / self.noise_power()
    }

    /// The natural logarithm of [`snr`](Self::snr); −∞ if the signal is 0.
    pub fn log_snr(self) -> f64 {
        match self.is_variance_preserving() {
            true => self.alpha_bar.ln() - (-self.alpha_bar).ln_1p(),
            false => 2.0 * (self.signal.ln() - self.noise.ln()),
        }
    }

    /// `λ = −ln σ`: half of [`log_snr`](Self::log_snr).
    pub fn lambda(self) -> f64 {
        -self.sigma().ln()
    }

    /// The time in `[0, 1]` at which the straight line `(1 − t) x_0 + t ε` has the same signal-to-noise
    /// ratio: `noise/(signal + noise)`.
    pub fn flow_time(self) -> f64 {
        self.noise / (self.signal + self.noise)
    }

    /// The time once per example, `[batch]`.
    pub fn times(self, batch: usize, device: &Device) -> Tensor<1> {
        Tensor::full([batch], self.time, device)
    }

    /// `signal · sample + noise · epsilon`, both of the same shape.
    pub fn mix<const D: usize>(self, sample: Tensor<D>, epsilon: Tensor<D>) -> Tensor<D> {
        sample * self.signal + epsilon * self.noise
    }
}

/// The deterministic step from the level `from` to the level `to` along the noise `ε`:
///
/// ```text
/// φ(x, ε) = signal'/signal x + (noise' − signal' noise/signal) ε
/// ```
///
/// This equals `signal' x̂_0 + noise' ε` without computing the sample first. In the variance-preserving form
/// it is computed without subtracting two nearly equal numbers,
///
/// ```text
/// φ(x, ε) = √(ᾱ'/ᾱ) x − (ᾱ' − ᾱ) / (√ᾱ (√((1 − ᾱ') ᾱ) + √((1 − ᾱ) ᾱ'))) ε
/// ```
///
/// This is the transfer of PNDM (Liu et al., arXiv 2202.09778, eq. 11), DDIM's step, and a step `(σ' − σ) ε`
/// of `x/signal`.
///
/// - `x`, `epsilon`: of the same shape
/// - `from`: must have a signal above 0
pub fn transfer<const D: usize>(
    x: Tensor<D>,
    epsilon: Tensor<D>,
    from: Level,
    to: Level,
) -> Tensor<D> {
    if from.is_variance_preserving() && to.is_variance_preserving() {
        let (alpha_bar, to) = (from.alpha_bar, to.alpha_bar);
        let roots = ((1.0 - to) * alpha_bar).sqrt() + ((1.0 - alpha_bar) * to).sqrt();
        return x * (to / alpha_bar).sqrt()
            - epsilon * ((to - alpha_bar) / (alpha_bar.sqrt() * roots));
    }
    let along = (to.noise * from.signal - to.signal * from.noise) / from.signal;
    x * (to.signal / from.signal) + epsilon * along
}

/// `signal'/signal`; in the variance-preserving form `√(ᾱ'/ᾱ)`.
pub(crate) fn signal_ratio(from: Level, to: Level) -> f64 {
    match from.is_variance_preserving() && to.is_variance_preserving() {
        true => (to.alpha_bar / from.alpha_bar).sqrt(),
        false => to.signal / from.signal,
    }
}

/// The `ᾱ` with the same signal-to-noise ratio as the time `t` of a rectified flow, `(1 − t)² / ((1 − t)² +
/// t²)`; the inverse of [`Level::flow_time`].
pub fn alpha_bar_from_flow_time(time: f64) -> f64 {
    let signal = (1.0 - time).powi(2);
    signal / (signal + time * time)
}

/// `σ = √((1 − ᾱ) / ᾱ)`.
pub fn sigma_from_alpha_bar(alpha_bar: f64) -> f64 {
    ((1.0 - alpha_bar) / alpha_bar).sqrt()
}

/// `ᾱ = 1 / (1 + σ²)`.
pub fn alpha_bar_from_sigma(sigma: f64) -> f64 {
    1.0 / (1.0 + sigma * sigma)
}

/// An affine Gaussian path as a function of time; see the [module documentation](self).
///
/// The signal-to-noise ratio must fall strictly with the time.
pub trait NoisePath: Debug + Send + Sync {
    /// The level at a time; times outside [`times`](Self::times) are clamped.
    fn level_at(&self, time: f64) -> Level;

    /// The level with `noise/signal = sigma`; its time is clamped to [`times`](Self::times), its scales are
    /// not.
    fn level_of_sigma(&self, sigma: f64) -> Level;

    /// The first (cleanest) time and the last.
    fn times(&self) -> [f64; 2];

    /// The time at which no noise is left. Default: the first.
    fn clean_time(&self) -> f64 {
        self.times()[0]
    }

    /// The time over which a method that needs a derivative takes a difference. Default: a thousandth of the
    /// whole range.
    fn tick(&self) -> f64 {
        let [first, last] = self.times();
        (last - first) / 1000.0
    }

    /// The level at a time, and the derivative of its [`log_snr`](Level::log_snr) with respect to time, which
    /// must be continuous. Default: [`level_at`](Self::level_at), and a central difference over a thousandth
    /// of a [`tick`](Self::tick).
    fn smooth_at(&self, time: f64) -> (Level, f64) {
        let half = 0.5e-3 * self.tick();
        let [first, last] = self.times();
        let (before, after) = ((time - half).max(first), (time + half).min(last));
        let rise = self.level_at(after).log_snr() - self.level_at(before).log_snr();
        (self.level_at(time), rise / (after - before))
    }

    /// The derivatives of signal and noise with respect to time: on the path of one sample `x_0` and one noise `ε`,
    /// `dx/dt = rates[0] · x_0 + rates[1] · ε`. Default: central differences over a thousandth of a
    /// [`tick`](Self::tick).
    fn rates_at(&self, time: f64) -> [f64; 2] {
        let half = 0.5e-3 * self.tick();
        let [first, last] = self.times();
        let (before, after) = ((time - half).max(first), (time + half).min(last));
        let (from, to) = (self.level_at(before), self.level_at(after));
        [to.signal() - from.signal(), to.noise() - from.noise()].map(|rise| rise / (after - before))
    }

    /// Checks that [`smooth_at`](Self::smooth_at) can be used.
    ///
    /// # Errors
    /// If it cannot. Default: never.
    fn check_smooth(&self) -> Result<(), SamplerError> {
        Ok(())
    }
}

/// The straight line `x_t = (1 − t) x_0 + t ε` of rectified flow and flow matching, `t` in `[0, 1]`.
///
/// ```
/// use nabla_diffusion::level::StraightLine;
///
/// let levels = StraightLine::new().with_shift(3.0).levels(4)?;
/// // From the noise, at time 1, to the sample, at time 0.
/// assert_eq!(levels.level(3).time(), 1.0);
/// assert!((levels.level(0).time() - 0.5).abs() < 1e-12);
/// assert_eq!(levels.end().noise(), 0.0);
/// # Ok::<(), nabla_diffusion::schedule::ScheduleError>(())
/// ```
#[derive(Config, Debug, Copy, PartialEq)]
pub struct StraightLine {
    /// Where a run starts, in `(0, 1]`. Default 1: from noise alone. `σ` is infinite there, so samplers that
    /// work with `σ` need a slightly smaller value.
    #[config(default = 1.0)]
    pub start: f64,
    /// `s` of `t = s u/(1 + (s − 1) u)`, which moves the evenly spaced times `u` towards the noise; above 0.
    /// Default 1: no shift; Stable Diffusion 3 has 3.
    #[config(default = 1.0)]
    pub shift: f64,
}

impl StraightLine {
    /// `steps` evenly spaced times from the start down to 0, shifted.
    ///
    /// # Errors
    /// If there are no steps, `start` is not in `(0, 1]`, or `shift` is not positive and finite.
    pub fn levels(&self, steps: usize) -> Result<Levels, ScheduleError> {
        let fits = self.start > 0.0 && self.start <= 1.0;
        range::check(fits, "start of the straight line", self.start, "in (0, 1]")?;
        range::positive("shift of the times", self.shift)?;
        let visited = (1..=steps).map(|k| {
            let u = self.start * k as f64 / steps as f64;
            Level::straight(self.shift * u / (1.0 + (self.shift - 1.0) * u))
        });
        Levels::new(visited.collect(), Level::straight(0.0), Arc::new(*self))
    }
}

impl NoisePath for StraightLine {
    fn level_at(&self, time: f64) -> Level {
        Level::straight(time.clamp(0.0, 1.0))
    }

    fn level_of_sigma(&self, sigma: f64) -> Level {
        match sigma.is_finite() {
            true => Level::straight(sigma / (1.0 + sigma)),
            false => Level::straight(1.0),
        }
    }

    fn times(&self) -> [f64; 2] {
        [0.0, 1.0]
    }

    fn smooth_at(&self, time: f64) -> (Level, f64) {
        (self.level_at(time), -2.0 / (time * (1.0 - time)))
    }

    fn rates_at(&self, _time: f64) -> [f64; 2] {
        [-1.0, 1.0]
    }
}

/// The levels that a sampler visits, the cleanest first, the level after the last step, and their path.
///
/// Methods that take an index panic if it is not below [`steps`](Self::steps), as indexing does.
#[derive(Clone, Debug)]
pub struct Levels {
    visited: Arc<[Level]>,
    end: Level,
    path: Arc<dyn NoisePath>,
}

impl Levels {
    /// - `visited`: the cleanest first, with the signal-to-noise ratio falling strictly; only the last may
    ///   have no signal
    /// - `end`: the level to which the last step leads, at least as clean as the first; usually without noise
    ///
    /// # Errors
    /// If there is no level, or the signal-to-noise ratio does not fall like this.
    pub fn new(
        visited: Vec<Level>,
        end: Level,
        path: Arc<dyn NoisePath>,
    ) -> Result<Self, ScheduleError> {
        check_falling(visited.iter().map(|level| level.alpha_bar))?;
        let first = visited[0].alpha_bar;
        if !(first..=1.0).contains(&end.alpha_bar) {
            return Err(ScheduleError::FinalAlphaBar {
                value: end.alpha_bar,
                first,
            });
        }
        Ok(Self::of_table(visited, end, path))
    }

    /// Levels that are known to fall.
    pub(crate) fn of_table(visited: Vec<Level>, end: Level, path: Arc<dyn NoisePath>) -> Self {
        Self {
            visited: visited.into(),
            end,
            path,
        }
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.visited.len()
    }

    /// The level at which step `index` starts.
    pub fn level(&self, index: usize) -> Level {
        self.visited[index]
    }

    /// The level to which step `index` leads.
    pub fn level_after(&self, index: usize) -> Level {
        match index {
            0 => self.end,
            _ => self.visited[index - 1],
        }
    }

    /// The level at which a run starts.
    pub fn start(&self) -> Level {
        self.visited[self.visited.len() - 1]
    }

    /// The level after the last step.
    pub fn end(&self) -> Level {
        self.end
    }

    /// The path on which the levels lie.
    pub fn path(&self) -> &dyn NoisePath {
        self.path.as_ref()
    }

    /// `steps` evenly spaced times of a path from `start` down to time 0, and there the sample without noise.
    ///
    /// # Errors
    /// If there are no steps, or the path does not fall.
    pub fn evenly(
        path: Arc<dyn NoisePath>,
        start: f64,
        steps: usize,
    ) -> Result<Self, ScheduleError> {
        let times = (1..=steps).map(|k| start * k as f64 / steps as f64);
        let visited = times.map(|time| path.level_at(time)).collect();
        let end = Level::new(0.0, path.level_at(0.0).signal(), 0.0);
        Self::new(visited, end, path)
    }

    /// Where a run starts, from standard normal `noise`: multiplied by the scale of the first level that is visited,
    /// which is exactly 1 in the variance-preserving form.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_diffusion::exploding_path::ExplodingPath;
    ///
    /// let levels = ExplodingPath::new().levels(10)?;
    /// let start = levels.start_of(Tensor::<2>::ones([1, 2], &Device::flex()));
    /// assert!((start.max().into_scalar::<f32>() - 20.0).abs() < 0.1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start_of<const D: usize>(&self, noise: Tensor<D>) -> Tensor<D> {
        match self.start().scale {
            1.0 => noise,
            scale => noise * scale,
        }
    }

    /// The index of the noisiest level that is visited at `time` or before it; 0 if `time` is before all of
    /// them.
    pub fn index_at(&self, time: f64) -> usize {
        let noisier = self.visited.partition_point(|level| level.time <= time);
        noisier.saturating_sub(1)
    }

    /// `1 − ᾱ_t/ᾱ_{t−1}`, the variance that step `index` of the diffusion adds in the variance-preserving
    /// form.
    pub fn beta(&self, index: usize) -> f64 {
        1.0 - self.level(index).alpha_bar / self.level_after(index).alpha_bar
    }

    /// `q(x_{t−1} | x_t, x_0)` in the variance-preserving form.
    pub fn posterior(&self, index: usize) -> Posterior {
        Posterior::new(
            self.level(index).alpha_bar,
            self.level_after(index).alpha_bar,
        )
    }

    /// Only these levels, each with its own time.
    ///
    /// - `kept`: indices, rising
    ///
    /// # Errors
    /// If there are none, they do not rise strictly, or there is no such level.
    pub fn keep(&self, kept: &[usize]) -> Result<Self, ScheduleError> {
        let available = self.steps();
        for (index, &value) in kept.iter().enumerate() {
            if value >= available || (index > 0 && value <= kept[index - 1]) {
                return Err(ScheduleError::Respacing {
                    index,
                    value,
                    available,
                });
            }
        }
        if kept.is_empty() {
            return Err(ScheduleError::NoSteps);
        }
        Ok(Self {
            visited: kept.iter().map(|&index| self.visited[index]).collect(),
            end: self.end,
            path: self.path.clone(),
        })
    }

    /// Only the last (cleanest) `steps` steps: from a noised sample to a clean one.
    ///
    /// # Errors
    /// If `steps` is 0 or more than there are.
    pub fn last_steps(&self, steps: usize) -> Result<Self, ScheduleError> {
        let available = self.steps();
        if steps == 0 || steps > available {
            return Err(ScheduleError::Steps {
                asked: steps,
                available,
            });
        }
        Ok(Self {
            visited: self.visited[..steps].into(),
            end: self.end,
            path: self.path.clone(),
        })
    }

    /// A sample with the noise of the level at which a run starts.
    ///
    /// - `sample`, `noise`: of the same shape
    pub fn add_noise<const D: usize>(&self, sample: Tensor<D>, noise: Tensor<D>) -> Tensor<D> {
        self.start().mix(sample, noise)
    }

    /// Checks that no `σ` is infinite.
    pub(crate) fn check_sigmas(&self) -> Result<(), SamplerError> {
        match self.start().signal > 0.0 {
            true => Ok(()),
            false => Err(SamplerError::InfiniteSigma {
                time: self.start().time,
            }),
        }
    }

    /// Checks that the times rise strictly.
    pub(crate) fn check_times(&self) -> Result<(), SamplerError> {
        check_rising(self.visited.iter().map(|level| level.time))
    }
}

/// Checks that times rise strictly.
pub(crate) fn check_rising(times: impl Iterator<Item = f64>) -> Result<(), SamplerError> {
    let mut before = f64::NEG_INFINITY;
    for (index, value) in times.enumerate() {
        if value <= before {
            return Err(SamplerError::Times { index, value });
        }
        before = value;
    }
    Ok(())
}

/// Checks that `ᾱ` falls strictly from below 1 to above 0, where only the last may be 0.
pub(crate) fn check_falling(
    alpha_bars: impl ExactSizeIterator<Item = f64>,
) -> Result<(), ScheduleError> {
    let count = alpha_bars.len();
    if count == 0 {
        return Err(ScheduleError::NoSteps);
    }
    let mut previous = 1.0;
    for (index, value) in alpha_bars.enumerate() {
        let last = index + 1 == count;
        if !(value < previous && (value > 0.0 || (last && value == 0.0))) {
            return Err(ScheduleError::AlphaBar { index, value });
        }
        previous = value;
    }
    Ok(())
}
