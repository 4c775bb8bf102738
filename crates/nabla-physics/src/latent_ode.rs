//! Latent ODEs: series that are sampled irregularly and observed partly, as solutions of an equation in a latent space.
//!
//! ```text
//! q(z_0 | x) = N(μ, diag s²)                  by a recurrent network that reads the series backwards
//! z' = f(z, t)     x̂_i = D z(t_i)             by any solver
//! L = −log p(x | z) + w(e) KL(q ‖ N(0, 1)),    w(e) = max(0, 1 − 0.99^(e − e_0))
//! log p = 1/n Σ_observed log N(x; x̂, σ²),      σ = 0.01, n numbers observed
//! ```
//!
//! The recurrent network has a state `(y, s)` of means and deviations, which stays where nothing was observed:
//!
//! ```text
//! u = sigmoid(U(y, s, x)),   r = sigmoid(R(y, s, x)),   (ŷ, ŝ) = N(y r, s r, x)
//! y⁺ = (1 − u) ŷ + u y,      s⁺ = |(1 − u) |ŝ| + u s|
//! ```
//!
//! with two layers each in `U`, `R` and `N`; `x` is what was observed, what of it was, and the time. The defaults are those of
//! ERNODE for the Physionet series. Its official code sums the constant of `log p` over what was not observed too, which has no
//! gradient; here it is that of a density.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use nabla_grad::seeded_noise::SeededNoise;
//! use nabla_physics::latent_ode::{LatentOdeConfig, Series, divergence_weight};
//! use nabla_physics::{Method, Solver};
//!
//! let (device, mut draws) = (Device::flex().autodiff(), SeededNoise::new(1, 0));
//! // Two series of three features at four times, of which all is observed.
//! let times = [0.0, 0.1, 0.4, 1.0];
//! let values = Tensor::<3>::ones([4, 2, 3], &device); // [times, batch, features]
//! let series = Series::new(&times, values.clone(), values)?;
//! let model = LatentOdeConfig::new(3).init(&device, &mut draws)?;
//!
//! let posterior = model.encode(&series)?;
//! let start = posterior.draw(&mut draws); // [batch, latent]
//! let solution = Solver::new(Method::TSIT5).solve(model.flow(), start, &times)?;
//! let prediction = model.decode(solution.values()); // [times, batch, features]
//! let likelihood = series.log_likelihood(prediction, 0.01)?; // [batch]
//! let divergence = posterior.divergence() * divergence_weight(12, 10);
//! let gradients = (divergence - likelihood).mean().backward();
//! # let _ = gradients;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Sources: Rubanova, Chen, Duvenaud, *Latent ODEs for Irregularly-Sampled Time Series*, 2019, arXiv 1907.03907; as a task of
//! ERNODE ([`ernode`](crate::ernode)): Pal et al., 2021, arXiv 2105.03918.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::activation::{Activation, tanh};
use nabla_kernels::linear::linear;

use crate::neural_ode::{NeuralOde, NeuralOdeConfig};
use crate::options::check_times;
use crate::solve_error::SolveError;
use crate::time_linear::TimeLinearConfig;

/// Why a series or a model of series cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SeriesError {
    /// The times do not rise, or are too few.
    #[error(transparent)]
    Times(#[from] SolveError),
    /// A number is out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// Two tensors do not fit.
    #[error("{what} has the shape {found:?}, but {expected:?} is expected")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// The shape that would fit.
        expected: [usize; 3],
        /// Its shape.
        found: [usize; 3],
    },
    /// The mask is neither 0 nor 1.
    #[error(
        "the mask of a series has the value {0}, but 0 (not observed) or 1 (observed) is expected"
    )]
    Mask(f64),
}

/// Series at common times, of each of which a part is observed.
#[derive(Clone, Debug)]
pub struct Series {
    times: Vec<f64>,
    values: Tensor<3>,
    mask: Tensor<3>,
}

impl Series {
    /// - `times`: rising, at least two: all at which anything is observed
    /// - `values`: `[times, batch, features]`; what is not observed may be anything
    /// - `mask`: of the same shape, 1 where a value is observed and 0 elsewhere
    ///
    /// # Errors
    /// If the times do not rise, the shapes do not fit, or the mask has other numbers.
    pub fn new(times: &[f64], values: Tensor<3>, mask: Tensor<3>) -> Result<Self, SeriesError> {
        check_times(times)?;
        let [count, batch, features] = values.dims();
        let expected = [times.len(), batch, features];
        for (what, found) in [
            ("the series", [count, batch, features]),
            ("the mask", mask.dims()),
        ] {
            if found != expected {
                return Err(SeriesError::Shape {
                    what,
                    expected,
                    found,
                });
            }
        }
        let odd = mask
            .clone()
            .into_data()
            .iter::<f64>()
            .find(|&m| m != 0.0 && m != 1.0);
        if let Some(odd) = odd {
            return Err(SeriesError::Mask(odd));
        }
        let values = values.mask_fill(mask.clone().equal_elem(0.0), 0.0);
        Ok(Self {
            times: times.to_vec(),
            values,
            mask,
        })
    }

    /// The times.
    pub fn times(&self) -> &[f64] {
        &self.times
    }

    /// The values, `[times, batch, features]`, 0 where they are not observed.
    pub fn values(&self) -> Tensor<3> {
        self.values.clone()
    }

    /// What is observed, `[times, batch, features]`.
    pub fn mask(&self) -> Tensor<3> {
        self.mask.clone()
    }

    /// The mean of something over what is observed of each series, `[batch]`; 0 where nothing is.
    fn mean(&self, each: Tensor<3>) -> Tensor<1> {
        let [_, batch, _] = self.mask.dims();
        let sum = |x: Tensor<3>| x.sum_dim(0).sum_dim(2).reshape([batch]);
        let mask = alike(self.mask.clone(), &each);
        sum(each * mask.clone()) / sum(mask).clamp_min(1.0)
    }

    fn check(&self, prediction: &Tensor<3>) -> Result<(), SeriesError> {
        let (expected, found) = (self.values.dims(), prediction.dims());
        match expected == found {
            true => Ok(()),
            false => Err(SeriesError::Shape {
                what: "the prediction",
                expected,
                found,
            }),
        }
    }

    /// The mean log-density of what is observed of each series, `[batch]`; 0 where nothing is.
    ///
    /// - `prediction`: `[times, batch, features]`
    /// - `deviation`: `σ`, 0.01 in the papers
    ///
    /// # Errors
    /// If the shape does not fit, or the deviation is not positive.
    pub fn log_likelihood(
        &self,
        prediction: Tensor<3>,
        deviation: f64,
    ) -> Result<Tensor<1>, SeriesError> {
        range::positive("deviation of what is observed", deviation)?;
        self.check(&prediction)?;
        let constant = deviation.ln() + 0.5 * std::f64::consts::TAU.ln();
        let values = alike(self.values.clone(), &prediction);
        let squares = ((prediction - values) / deviation).square();
        Ok(self.mean(squares * -0.5 - constant))
    }

    /// The mean squared error of what is observed of each series, `[batch]`; 0 where nothing is.
    ///
    /// - `prediction`: `[times, batch, features]`
    ///
    /// # Errors
    /// If the shape does not fit.
    pub fn squared_error(&self, prediction: Tensor<3>) -> Result<Tensor<1>, SeriesError> {
        self.check(&prediction)?;
        let values = alike(self.values.clone(), &prediction);
        Ok(self.mean((prediction - values).square()))
    }
}

/// A tensor that is part of a graph if another is.
fn alike<const D: usize, const E: usize>(x: Tensor<D>, like: &Tensor<E>) -> Tensor<D> {
    match (x.is_autodiff(), like.is_autodiff()) {
        (false, true) => x.autodiff(),
        (true, false) => x.inner(),
        _ => x,
    }
}

/// The weight of the divergence, `max(0, 1 − 0.99^(e − e_0))`: none up to `begin`, then growing to 1.
///
/// - `epoch`: `e`, epochs in ERNODE (`e_0 = 10`) and updates in local regularisation (`e_0 = 100`)
pub fn divergence_weight(epoch: usize, begin: usize) -> f64 {
    let since = epoch.saturating_sub(begin) as f64;
    1.0 - 0.99_f64.powf(since)
}

/// A normal distribution with independent numbers, of each series of a batch.
#[derive(Clone, Debug)]
pub struct Posterior {
    /// `μ`, `[batch, latent]`.
    pub mean: Tensor<2>,
    /// `s`, `[batch, latent]`, positive.
    pub deviation: Tensor<2>,
}

impl Posterior {
    /// `μ + s ε`, `[batch, latent]`, with gradients by both.
    pub fn draw(&self, noise: &mut SeededNoise) -> Tensor<2> {
        let epsilon = noise.normal(self.mean.dims(), &self.mean.device());
        self.mean.clone() + self.deviation.clone() * epsilon.cast(self.mean.dtype())
    }

    /// `KL(q ‖ N(0, 1))` of each series, `[batch]`.
    pub fn divergence(&self) -> Tensor<1> {
        let [batch, _] = self.mean.dims();
        let variance = self.deviation.clone().square();
        let each =
            (variance + self.mean.clone().square() - 1.0) * 0.5 - self.deviation.clone().log();
        each.sum_dim(1).reshape([batch])
    }
}

/// How the recurrent network is told the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeInput {
    /// The time itself, as in ERNODE.
    #[default]
    Time,
    /// The time to the next observation, 0 for the last, as in local regularisation.
    Difference,
}

/// Makes a [`LatentOde`].
#[derive(Clone, Debug, PartialEq)]
pub struct LatentOdeConfig {
    features: usize,
    latent: usize,
    recognition: usize,
    units: usize,
    flow: NeuralOdeConfig,
    time_input: TimeInput,
}

impl LatentOdeConfig {
    /// That of ERNODE: 20 latent numbers, 40 of the recurrent network, whose layers have 50 units, and eight layers of 20 and
    /// 50 units with `tanh`.
    ///
    /// - `features`: of the series
    pub fn new(features: usize) -> Self {
        let flow = NeuralOdeConfig::new(20)
            .with_hidden([50, 20, 50, 20, 50, 20, 50])
            .with_first(Activation::Tanh)
            .with_last(Activation::Tanh)
            .without_time();
        Self {
            features,
            latent: 20,
            recognition: 40,
            units: 50,
            flow,
            time_input: TimeInput::Time,
        }
    }

    /// Sets the network of the equation, whose state is the latent one.
    #[must_use]
    pub fn with_flow(mut self, flow: NeuralOdeConfig) -> Self {
        self.latent = flow.state();
        self.flow = flow;
        self
    }

    /// Sets the widths of the recurrent network: that of its state, and that of its hidden layers.
    #[must_use]
    pub fn with_recognition(mut self, state: usize, units: usize) -> Self {
        self.recognition = state;
        self.units = units;
        self
    }

    /// Sets how the recurrent network is told the time.
    #[must_use]
    pub fn with_time_input(mut self, time_input: TimeInput) -> Self {
        self.time_input = time_input;
        self
    }

    /// The model with initial values that are uniform by Glorot and Bengio, 2010.
    ///
    /// - `draws`: from which the values are drawn
    ///
    /// # Errors
    /// If a width is 0.
    pub fn init(&self, device: &Device, draws: &mut SeededNoise) -> Result<LatentOde, OutOfRange> {
        range::at_least("number of features", self.features, 1)?;
        range::at_least("width of the recurrent network", self.recognition, 1)?;
        range::at_least("units of the recurrent network", self.units, 1)?;
        let input = 2 * self.recognition + 2 * self.features + 1;
        let mut two = |input, output| TwoLayers::new(input, self.units, output, device, draws);
        let (update, reset) = (two(input, self.recognition), two(input, self.recognition));
        let candidate = two(input, 2 * self.recognition);
        let posterior = two(2 * self.recognition, 2 * self.latent);
        Ok(LatentOde {
            update,
            reset,
            candidate,
            posterior,
            flow: self.flow.init(device, draws)?,
            decoder: plain(self.latent, self.features, device, draws),
            time_input: self.time_input,
        })
    }
}

fn plain(input: usize, output: usize, device: &Device, draws: &mut SeededNoise) -> Linear {
    let config = TimeLinearConfig {
        time: false,
        ..TimeLinearConfig::new(input, output)
    };
    config.init(device, draws).linear
}

/// Two linear layers with `tanh` between them.
#[derive(Module, Debug)]
struct TwoLayers {
    first: Linear,
    second: Linear,
}

impl TwoLayers {
    fn new(
        input: usize,
        units: usize,
        output: usize,
        device: &Device,
        draws: &mut SeededNoise,
    ) -> Self {
        Self {
            first: plain(input, units, device, draws),
            second: plain(units, output, device, draws),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        linear(&self.second, tanh(linear(&self.first, x)))
    }
}

/// A latent ODE; see the [module documentation](self).
#[derive(Module, Debug)]
pub struct LatentOde {
    update: TwoLayers,
    reset: TwoLayers,
    candidate: TwoLayers,
    posterior: TwoLayers,
    flow: NeuralOde,
    decoder: Linear,
    #[module(skip)]
    time_input: TimeInput,
}

/// What keeps a deviation from 0, where its logarithm ends.
const LEAST_DEVIATION: f64 = 1e-6;

impl LatentOde {
    /// `q(z_0 | x)`, at the first time of the series.
    ///
    /// # Errors
    /// If the series have another number of features.
    pub fn encode(&self, series: &Series) -> Result<Posterior, SeriesError> {
        let [count, batch, features] = series.values.dims();
        let expected = self.decoder.weight.dims()[1];
        if features != expected {
            return Err(SeriesError::Shape {
                what: "the series",
                expected: [count, batch, expected],
                found: series.values.dims(),
            });
        }
        let row = |x: &Tensor<3>, time: usize| -> Tensor<2> {
            x.clone().narrow(0, time, 1).reshape([batch, features])
        };
        let weight = self.decoder.weight.val();
        let input = |x: Tensor<2>| alike(x, &weight);
        let still = alike(series.values.clone(), &weight.clone().inner());
        let device = (&still.device(), still.dtype());
        let zeros = || input(Tensor::<2>::zeros([batch, self.state()], device));
        let (mut mean, mut deviation) = (zeros(), zeros());
        for time in (0..count).rev() {
            let now = match self.time_input {
                TimeInput::Time => series.times[time],
                TimeInput::Difference => {
                    let next = series.times.get(time + 1);
                    next.map_or(0.0, |next| next - series.times[time])
                }
            };
            let [values, mask] = [&series.values, &series.mask].map(|x| input(row(x, time)));
            let times = input(Tensor::<2>::full([batch, 1], now, device));
            let x = Tensor::cat(vec![values, mask.clone(), times], 1); // [batch, 2 features + 1]
            let stepped = self.step([mean.clone(), deviation.clone()], x);
            let seen = mask.max_dim(1); // [batch, 1]
            let held = |new: Tensor<2>, old: Tensor<2>| old.clone() + (new - old) * seen.clone();
            let [new_mean, new_deviation] = stepped;
            mean = held(new_mean, mean);
            deviation = held(new_deviation, deviation).abs();
        }
        let both = self
            .posterior
            .forward(Tensor::cat(vec![mean, deviation], 1));
        let latent = both.dims()[1] / 2;
        Ok(Posterior {
            mean: both.clone().narrow(1, 0, latent),
            deviation: both.narrow(1, latent, latent).abs() + LEAST_DEVIATION,
        })
    }

    /// The width of the recurrent network's state.
    fn state(&self) -> usize {
        self.update.second.weight.dims()[1]
    }

    /// One step of the recurrent network, as if something were observed.
    ///
    /// - `mean`, `deviation`: `[batch, state]`; `x`: `[batch, 2 features + 1]`
    fn step(&self, [mean, deviation]: [Tensor<2>; 2], x: Tensor<2>) -> [Tensor<2>; 2] {
        let all = |mean: Tensor<2>, deviation: Tensor<2>| {
            Tensor::cat(vec![mean, deviation, x.clone()], 1)
        };
        let known = all(mean.clone(), deviation.clone());
        let update = sigmoid(self.update.forward(known.clone()));
        let reset = sigmoid(self.reset.forward(known));
        let of_reset = all(mean.clone() * reset.clone(), deviation.clone() * reset);
        let both = self.candidate.forward(of_reset);
        let width = self.state();
        let mixed = |new: Tensor<2>, old: Tensor<2>| new.clone() + (old - new) * update.clone();
        [
            mixed(both.clone().narrow(1, 0, width), mean),
            mixed(both.narrow(1, width, width).abs(), deviation),
        ]
    }

    /// The right side of the equation.
    pub fn flow(&self) -> &NeuralOde {
        &self.flow
    }

    /// `x̂`, `[times, batch, features]`.
    ///
    /// - `states`: `z`, `[times, batch, latent]`
    pub fn decode(&self, states: Tensor<3>) -> Tensor<3> {
        linear(&self.decoder, states)
    }
}

#[cfg(test)]
mod tests;
