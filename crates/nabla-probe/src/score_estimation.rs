//! Score estimation in the kernel regime: what the training of a score network does, step by step, and when to stop it.
//!
//! Data `X_0` in `d` dimensions get noise by `dX = −½ g(t) X dt + √g(t) dB`, so that
//!
//! ```text
//! X_t = α X_0 + √h Z,   α = exp(−½ ∫₀ᵗ g),   h = 1 − α²
//! ∇ln p_t(x) = (α f*(t, x) − x)/h,   f*(t, x) = E[X_0 | X_t = x]
//! ```
//!
//! With the **parametric form** `s = (α f − x)/h`, score matching with the weight `λ = h²/α²` is the regression of `X_0`
//! on `(t, X_t)` by `f`. Its labels are noisy: `ξ = X_0 − f*(t, X_t)` is what `X_t` leaves open of `X_0`, none as
//! `t → 0` and all of the data's variance as `t → ∞`. To fit the labels of a fixed set of pairs is to memorise them.
//!
//! ```text
//! E‖s − ∇ln p_t‖² = (α/h)² E‖f − f*‖²;   losses: of ε (α²/h) ‖f − X_0‖², of the score (α/h)² ‖f − X_0‖²
//! ```
//!
//! A wide network `f_W(z) = m^−½ Σ_r a_r max(0, ⟨w_r, z⟩)` of `z = (x, (t − T_0)/(T − T_0), 1)`, of which only `W` is
//! trained, by gradient descent on all `n` pairs in every step ([`MirroredRelu`]), moves as [kernel gradient
//! descent](crate::kernel_gradient_descent) does with the [`tangent_kernel`] `κ`: a series of kernel regressions, one for
//! each output. The network differs from it by about `m^−½`. Since the labels are noisy, it must be stopped: by theory
//! or by the loss on pairs that were held out, whose noise adds a constant only. [`KernelRegime`] tells all this of a
//! training.
//!
//! Steps are those of gradient descent with the mean over the pairs; the time is `η τ`. Fresh noise in every step, as
//! networks are usually trained with, is another setting: there the pairs never end, and only the `X_0` can be
//! memorised.
//!
//! Source: Han, Razaviyayn, Xu, *Neural Network-Based Score Estimation in Diffusion Models: Optimization and
//! Generalization*, 2024, arXiv 2401.15604. The paper's constants for stopping are not used, but the rule of Raskutti,
//! Wainwright and Yu that it builds on.

use burn::tensor::Device;
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::{norm, squared_norm};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::trace::Probe;
use rand::RngExt;

use crate::gauge_freedom::{Divergence, GaugeError, VectorField};
use crate::kernel_gradient_descent::{KernelGd, KernelGdError, Stopped, steps_up_to};

mod mirrored_relu;
mod tangent_kernel;

pub use mirrored_relu::{MirroredRelu, MirroredReluError};
pub use tangent_kernel::{finite_width_kernel, tangent_kernel};

/// The reason why nothing can be told of a training.
#[derive(Debug, thiserror::Error)]
pub enum ScoreEstimationError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The values are no rows.
    #[error("the {what} has {values} values, which are not {rows} rows of {width}")]
    Rows {
        /// What.
        what: &'static str,
        /// How many values it has.
        values: usize,
        /// The rows.
        rows: usize,
        /// The width of a row.
        width: usize,
    },
    /// All pairs were dropped.
    #[error("no pair of {0} has a norm below the bound: take a higher one")]
    AllDropped(usize),
    /// The regression.
    #[error(transparent)]
    Kernel(#[from] KernelGdError),
    /// The network.
    #[error(transparent)]
    Network(#[from] MirroredReluError),
    /// The exact score.
    #[error(transparent)]
    Field(#[from] GaugeError),
}

/// The process that adds the noise, with `g(t) = g_0 + g_1 t`.
///
/// ```
/// use nabla_probe::score_estimation::ForwardProcess;
///
/// let process = ForwardProcess::default(); // g = 1
/// assert!((process.signal(1.0) - 0.606531).abs() < 1e-6);
/// assert!((process.variance(1.0) - 0.632121).abs() < 1e-6);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForwardProcess {
    /// `g_0`. Default 1.
    pub rate: f64,
    /// `g_1`. Default 0.
    pub slope: f64,
    /// `T_0`, the earliest time that is learnt: at 0 the score of a set without density is not finite. Default 0.05.
    pub earliest: f64,
    /// `T`, the latest time. Default 3.
    pub latest: f64,
}

impl Default for ForwardProcess {
    fn default() -> Self {
        Self {
            rate: 1.0,
            slope: 0.0,
            earliest: 0.05,
            latest: 3.0,
        }
    }
}

impl ForwardProcess {
    /// # Errors
    /// If not `0 < T_0 < T`, or `g` is negative somewhere or 0 everywhere.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::positive("latest time", self.latest)?;
        range::between("earliest time", self.earliest, 0.0, self.latest)?;
        range::not_negative("rate of the noise at time 0", self.rate)?;
        range::finite("slope of the noise's rate", self.slope)?;
        let last = self.rate + self.slope * self.latest;
        range::not_negative("rate of the noise at the latest time", last)?;
        range::positive("sum of the noise's rates at both ends", self.rate + last)
    }

    /// `∫₀ᵗ g`.
    fn integral(&self, t: f64) -> f64 {
        t * (self.rate + 0.5 * self.slope * t)
    }

    /// `α(t)`.
    pub fn signal(&self, t: f64) -> f64 {
        (-0.5 * self.integral(t)).exp()
    }

    /// `h(t) = 1 − α²`.
    pub fn variance(&self, t: f64) -> f64 {
        -(-self.integral(t)).exp_m1()
    }

    /// `√h/α`, the noise beside a signal of 1.
    pub fn sigma(&self, t: f64) -> f64 {
        self.variance(t).sqrt() / self.signal(t)
    }

    /// The time of a [`sigma`](Self::sigma).
    pub fn time_of(&self, sigma: f64) -> f64 {
        // σ² = e^G − 1 with G = ∫g
        let integral = (sigma * sigma).ln_1p();
        if self.slope == 0.0 {
            return integral / self.rate;
        }
        // g_0 t + ½ g_1 t² = G, without the difference of near numbers
        let root = (self.rate * self.rate + 2.0 * self.slope * integral)
            .max(0.0)
            .sqrt();
        2.0 * integral / (self.rate + root)
    }

    /// `z = (x, (t − T_0)/(T − T_0), 1)`.
    pub fn features(&self, t: f64, x: &[f64]) -> Vec<f64> {
        let mut features = x.to_vec();
        features.push((t - self.earliest) / (self.latest - self.earliest));
        features.push(1.0);
        features
    }
}

/// What a network gives of the clean data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreParam {
    /// `f`, an estimate of `X_0`: the form of the paper.
    X0,
    /// An estimate of the noise `Z`.
    Eps,
    /// The score.
    Score,
}

impl ScoreParam {
    /// What `value` at `x` is in another form: `ε = (x − α f)/√h`, `s = −ε/√h`.
    ///
    /// - `signal`: `α`, positive; `variance`: `h`, positive
    ///
    /// ```
    /// use nabla_probe::score_estimation::ScoreParam;
    ///
    /// // Data ±1, t = 1, x = 1: f* = tanh(α x/h).
    /// let (signal, variance) = (0.5_f64.exp().recip(), 1.0 - 1_f64.exp().recip());
    /// let f = (signal / variance).tanh();
    /// let score = ScoreParam::X0.convert(ScoreParam::Score, &[f], &[1.0], signal, variance);
    /// assert!((f - 0.744062).abs() < 1e-6 && (score[0] + 0.868037).abs() < 1e-6);
    /// ```
    pub fn convert(
        self,
        to: Self,
        value: &[f64],
        x: &[f64],
        signal: f64,
        variance: f64,
    ) -> Vec<f64> {
        let root = variance.sqrt();
        let each = value.iter().zip(x).map(|(&value, &x)| {
            if self == to {
                return value;
            }
            let clean = match self {
                Self::X0 => value,
                Self::Eps => (x - root * value) / signal,
                Self::Score => (x + variance * value) / signal,
            };
            match to {
                Self::X0 => clean,
                Self::Eps => (x - signal * clean) / root,
                Self::Score => (signal * clean - x) / variance,
            }
        });
        each.collect()
    }

    /// The factor of `‖f − X_0‖²` that makes it the squared error in this form: 1, `α²/h` or `(α/h)²`.
    pub fn loss_weight(self, signal: f64, variance: f64) -> f64 {
        match self {
            Self::X0 => 1.0,
            Self::Eps => signal * signal / variance,
            Self::Score => (signal / variance).powi(2),
        }
    }
}

/// What is done with inputs of a large norm, which theory does not cover.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LargeInputs {
    /// Nothing.
    #[default]
    Keep,
    /// Pairs with `‖x‖` above this are dropped. `√(d ln n)` drops few.
    Drop(f64),
    /// Those `x` are shortened to this norm in the features.
    Shorten(f64),
}

/// Pairs `(t, X_t) → X_0`, drawn once: a regression with noisy labels.
#[derive(Clone, Debug, PartialEq)]
pub struct ScorePairs {
    /// `d`.
    pub dimension: usize,
    /// `t`, `[n]`.
    pub times: Vec<f64>,
    /// `X_t`, `[n, d]`.
    pub noisy: Vec<f64>,
    /// `X_0`, the labels, `[n, d]`.
    pub clean: Vec<f64>,
    /// `z`, `[n, d + 2]`.
    pub features: Vec<f64>,
    /// The share of pairs whose input was too large.
    pub large: f64,
}

impl ScorePairs {
    /// One pair for each point, with times even from `T_0` to `T`.
    ///
    /// - `points`: `X_0`, `[n, d]`
    ///
    /// # Errors
    /// If a number is out of range, the values are no points, or all pairs are dropped.
    ///
    /// ```
    /// use nabla_probe::score_estimation::{ForwardProcess, LargeInputs, ScorePairs};
    ///
    /// let points = [1.0, -1.0, 1.0, 1.0];
    /// let pairs = ScorePairs::draw(&points, 2, &ForwardProcess::default(), LargeInputs::Keep, 1)?;
    /// assert_eq!(pairs.times.len(), 2);
    /// assert_eq!(pairs.features.len(), 2 * 4);
    /// # Ok::<(), nabla_probe::score_estimation::ScoreEstimationError>(())
    /// ```
    pub fn draw(
        points: &[f64],
        dimension: usize,
        process: &ForwardProcess,
        large: LargeInputs,
        seed: u64,
    ) -> Result<Self, ScoreEstimationError> {
        process.validate()?;
        range::at_least("dimension of the data", dimension, 1)?;
        if points.is_empty() || !points.len().is_multiple_of(dimension) {
            return Err(ScoreEstimationError::Rows {
                what: "data",
                values: points.len(),
                rows: points.len().div_ceil(dimension).max(1),
                width: dimension,
            });
        }
        if let LargeInputs::Drop(bound) | LargeInputs::Shorten(bound) = large {
            range::positive("bound of the inputs", bound)?;
        }
        let mut noise = SeededNoise::new(seed, 0);
        let mut pairs = Self {
            dimension,
            times: Vec::new(),
            noisy: Vec::new(),
            clean: Vec::new(),
            features: Vec::new(),
            large: 0.0,
        };
        let count = points.len() / dimension;
        for clean in points.chunks(dimension) {
            let share: f64 = noise.random();
            let t = process.earliest + (process.latest - process.earliest) * share;
            let (signal, root) = (process.signal(t), process.variance(t).sqrt());
            let z = Probe::Gaussian.draw(dimension, &mut noise);
            let x: Vec<f64> = clean
                .iter()
                .zip(&z)
                .map(|(c, z)| signal * c + root * z)
                .collect();
            let mut input = x.clone();
            if let LargeInputs::Drop(bound) | LargeInputs::Shorten(bound) = large
                && norm(&x) > bound
            {
                pairs.large += 1.0 / count as f64;
                if matches!(large, LargeInputs::Drop(_)) {
                    continue;
                }
                let factor = bound / norm(&x);
                input.iter_mut().for_each(|x| *x *= factor);
            }
            pairs.times.push(t);
            pairs.features.extend(process.features(t, &input));
            pairs.noisy.extend(x);
            pairs.clean.extend_from_slice(clean);
        }
        match pairs.times.is_empty() {
            true => Err(ScoreEstimationError::AllDropped(count)),
            false => Ok(pairs),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// `κ(z, Z)` of these inputs against those of others, `[n, others]`.
    ///
    /// # Errors
    /// If the data have another dimension.
    pub fn kernel(&self, others: &Self) -> Result<Vec<f64>, ScoreEstimationError> {
        if others.dimension != self.dimension {
            return Err(ScoreEstimationError::Rows {
                what: "list of other features",
                values: others.features.len(),
                rows: others.len(),
                width: self.dimension + 2,
            });
        }
        Ok(tangent_kernel(
            &self.features,
            &others.features,
            self.dimension + 2,
        )?)
    }
}

/// The exact target of the regression, `f*(t, x) = E[X_0 | X_t = x]`, at one point, `[d]`, by Tweedie's formula.
///
/// - `score`: of the data with noise: `∇ln` of the density of `X_0 + σ Z`, such as a
///   [`GaussianMixtureScore`](crate::gauge_freedom::GaussianMixtureScore)
///
/// # Errors
/// If the field fails.
pub fn posterior_mean<F: VectorField + ?Sized>(
    score: &F,
    process: &ForwardProcess,
    t: f64,
    x: &[f64],
) -> Result<Vec<f64>, GaugeError> {
    let (signal, sigma) = (process.signal(t), process.sigma(t));
    let u: Vec<f64> = x.iter().map(|x| x / signal).collect();
    let score = score.eval(&u, sigma)?;
    Ok(u.iter()
        .zip(score)
        .map(|(u, s)| u + sigma * sigma * s)
        .collect())
}

/// The noise of the label at one point: `E[‖ξ‖² | X_t = x]/d = σ² (1 + σ² ∇·∇ln p_σ/d)`.
///
/// - `score`: as of [`posterior_mean`]
///
/// # Errors
/// If the field fails.
///
/// ```
/// use nabla_probe::gauge_freedom::{GaussianMixtureScore, MixtureComponent};
/// use nabla_probe::score_estimation::{ForwardProcess, posterior_noise};
///
/// // Of N(0, 1): 1 − α² = h.
/// let score = GaussianMixtureScore::new(vec![MixtureComponent::isotropic(1.0, vec![0.0; 3], 1.0)])?;
/// let process = ForwardProcess::default();
/// let found = posterior_noise(&score, &process, 0.7, &[0.1, 2.0, 0.0])?;
/// assert!((found - process.variance(0.7)).abs() < 1e-12);
/// # Ok::<(), nabla_probe::gauge_freedom::GaugeError>(())
/// ```
pub fn posterior_noise<F: VectorField + ?Sized>(
    score: &F,
    process: &ForwardProcess,
    t: f64,
    x: &[f64],
) -> Result<f64, GaugeError> {
    let (signal, sigma) = (process.signal(t), process.sigma(t));
    let u: Vec<f64> = x.iter().map(|x| x / signal).collect();
    let divergence = Divergence::Exact.of(score, &u, sigma)?[0];
    let square = sigma * sigma;
    Ok((square * (1.0 + square * divergence / x.len() as f64)).max(0.0))
}

/// A score from a regression that was stopped, as a field `s(u, σ)` of `u = x/α`, `σ = √h/α`, which draws samples with
/// [`flow_samples`](crate::gauge_freedom::flow_samples) from `σ(T)` to `σ(T_0)`.
#[derive(Clone, Debug)]
pub struct KernelScore<'a> {
    process: ForwardProcess,
    pairs: &'a ScorePairs,
    stopped: Stopped,
}

impl<'a> KernelScore<'a> {
    /// - `pairs`: on which the regression was trained
    pub fn new(process: ForwardProcess, pairs: &'a ScorePairs, stopped: Stopped) -> Self {
        Self {
            process,
            pairs,
            stopped,
        }
    }

    /// `f(t, x)`, `[d]`.
    ///
    /// # Errors
    /// If the point has another number of numbers than the data.
    pub fn clean(&self, t: f64, x: &[f64]) -> Result<Vec<f64>, ScoreEstimationError> {
        let features = self.process.features(t, x);
        let kernel = tangent_kernel(&features, &self.pairs.features, self.pairs.dimension + 2)?;
        Ok(self.stopped.predict(&kernel))
    }
}

impl VectorField for KernelScore<'_> {
    fn dimension(&self) -> usize {
        self.pairs.dimension
    }

    fn eval(&self, u: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        range::positive("noise level", sigma)?;
        let t = self.process.time_of(sigma);
        let signal = self.process.signal(t);
        let mut score = Vec::with_capacity(u.len());
        for u in u.chunks(self.pairs.dimension) {
            let x: Vec<f64> = u.iter().map(|u| u * signal).collect();
            let clean = self
                .clean(t, &x)
                .map_err(|e| GaugeError::Field(Box::new(e)))?;
            let each = clean.iter().zip(u);
            score.extend(each.map(|(f, u)| (f - u) / (sigma * sigma)));
        }
        Ok(score)
    }
}

/// How a training is watched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelRegime {
    /// `m`, the width of the network; even.
    pub width: usize,
    /// `η`. Default 1.
    pub rate: f64,
    /// Steps of the network. Default 300.
    pub steps: usize,
    /// The latest step of the regression. Default 10⁷.
    pub latest: u64,
    /// The seed of the network's weights. Default 0.
    pub seed: u64,
}

impl KernelRegime {
    /// With the defaults.
    pub fn new(width: usize) -> Self {
        Self {
            width,
            rate: 1.0,
            steps: 300,
            latest: 10_000_000,
            seed: 0,
        }
    }
}

/// What a training in the kernel regime does.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelRegimeReport {
    /// After each step of the network, the root mean square over pairs and outputs of its difference to the regression.
    pub deviation: Vec<f64>,
    /// After each step of the network, the longest way `‖w_r − w_r(0)‖` of a unit.
    pub weight_move: Vec<f64>,
    /// The root mean square of the regression's predictions after the network's last step.
    pub prediction: f64,
    /// Steps of the regression, and for each the mean of `‖f − X_0‖²` on the training pairs and on those held out.
    pub curve: Vec<RegressionPoint>,
    /// `ς`, if it was given.
    pub noise: Option<f64>,
    /// The step at which theory stops, if the noise was given.
    pub stop_theory: Option<u64>,
    /// The step with the least loss on the pairs that were held out.
    pub stop_holdout: u64,
}

/// A step of the regression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RegressionPoint {
    /// The step.
    pub step: u64,
    /// The mean of `‖f − X_0‖²` on the training pairs.
    pub training: f64,
    /// On those held out.
    pub holdout: f64,
}

impl KernelRegime {
    /// Trains the network and the regression on the same pairs.
    ///
    /// - `noise`: `ς`, the root mean square of the labels' noise for one output, if it is known
    ///
    /// # Errors
    /// If a number is out of range, the held out pairs have another dimension, the descent would diverge, or there are
    /// more than 5000 pairs.
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use nabla_probe::score_estimation::{ForwardProcess, KernelRegime, LargeInputs, ScorePairs};
    ///
    /// let points = [1.0, 0.0, -0.6, 0.9, -0.6, -0.9];
    /// let process = ForwardProcess::default();
    /// let drawn = |seed| ScorePairs::draw(&points.repeat(20), 2, &process, LargeInputs::Keep, seed);
    /// let mut config = KernelRegime::new(400);
    /// config.steps = 20;
    /// let report = config.run(&drawn(1)?, &drawn(2)?, Some(0.6), &Device::flex())?;
    /// assert!(report.deviation[19] < 0.2 * report.prediction);
    /// # Ok::<(), nabla_probe::score_estimation::ScoreEstimationError>(())
    /// ```
    pub fn run(
        &self,
        training: &ScorePairs,
        holdout: &ScorePairs,
        noise: Option<f64>,
        device: &Device,
    ) -> Result<KernelRegimeReport, ScoreEstimationError> {
        let d = training.dimension;
        range::at_least("number of steps of the network", self.steps, 1)?;
        let kernel = training.kernel(training)?;
        let cross = holdout.kernel(training)?;
        let descent = KernelGd::new(&kernel, &training.clean, d, self.rate)?;
        let mut network = MirroredRelu::new(d + 2, self.width, d, self.seed, device)?;
        let first = network.clone();
        let (mut deviation, mut weight_move) = (Vec::new(), Vec::new());
        let inputs = network.rows(&training.features, d + 2)?;
        let labels = network.rows(&training.clean, d)?;
        for step in 1..=self.steps as u64 {
            network.step(&inputs, &labels, self.rate);
            let found = network.predict(&inputs)?;
            let expected = descent.training_at(step);
            let apart: f64 = found
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b) * (a - b))
                .sum();
            deviation.push((apart / found.len() as f64).sqrt());
            weight_move.push(network.largest_move(&first)?);
        }
        let last = descent.training_at(self.steps as u64);
        let steps = steps_up_to(self.latest, 1.25)?;
        let on_training = descent.errors_at(&steps, &kernel, &training.clean)?;
        let on_holdout = descent.errors_at(&steps, &cross, &holdout.clean)?;
        let curve: Vec<RegressionPoint> = steps
            .iter()
            .zip(on_training.into_iter().zip(on_holdout))
            .map(|(&step, (training, holdout))| RegressionPoint {
                step,
                training,
                holdout,
            })
            .collect();
        let best = curve.iter().min_by(|a, b| a.holdout.total_cmp(&b.holdout));
        let stop_theory = noise
            .map(|noise| descent.stop_by_theory(noise))
            .transpose()?;
        Ok(KernelRegimeReport {
            deviation,
            weight_move,
            prediction: (squared_norm(&last) / last.len() as f64).sqrt(),
            noise,
            stop_theory,
            stop_holdout: best.map_or(0, |point| point.step),
            curve,
        })
    }
}

#[cfg(test)]
mod tests;
