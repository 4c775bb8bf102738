//! The three uses of the paper on a learned model of digits: a condition that makes a given picture, weights that change
//! what all pictures look like, and noise that misleads a classifier.
//!
//! Each is a vector that is to lower a loss of finished samples. All gradients take the same steps of Adam from the same
//! start.

use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::Tensor;
use nabla_claims::{Bench, ClaimError};
use nabla_diffusion::adjoint_dpm::{GradientMode, LeafGradient, ModuleGradients};
use nabla_diffusion::denoiser::{ClosureDenoiser, Prediction, denoiser};
use nabla_diffusion::level::{Level, Levels};
use nabla_diffusion::vp_path::VpPath;
use nabla_grad::flat::ParameterLayout;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::classifier::Classifier;
use nabla_train::mlp::Mlp;
use serde::{Deserialize, Serialize};

use super::digit_network::{CONDITION, DigitNetwork};
use super::gradient::{Source, gradient};
use super::training::{cross_entropy, trained_classifier, trained_network};
use super::{STEPS, Size};
use crate::digits::{CLASSES, Digits, PIXELS};

/// What lowers the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    Gradient(Source),
    RandomSearch,
}

pub(super) const WAYS: [Way; 5] = [
    Way::Gradient(Source::StepByStep(GradientMode::Adjoint)),
    Way::Gradient(Source::StepByStep(GradientMode::Exact)),
    Way::Gradient(Source::Whole),
    Way::Gradient(Source::OneStep),
    Way::RandomSearch,
];

/// The losses of one seed: at the start, and the least for each of [`WAYS`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Losses {
    pub(super) start: f64,
    pub(super) least: Vec<f64>,
}

/// The losses of the three uses: embedding, weights, noise.
pub(super) fn learned(
    bench: &Bench<'_>,
    size: &Size,
    digits: &Digits,
    seed: u64,
) -> Result<[Losses; 3], ClaimError> {
    let device = bench.context().device.clone();
    let mut step = || {
        bench.progress().advance(1);
        ControlFlow::Continue(())
    };
    let network = trained_network(digits, size.training, seed, &device, &mut step)?;
    let classifier = trained_classifier(digits, size.classifier, seed, &device, &mut step)?;
    let levels = VpPath::new()
        .even_in_log_snr(STEPS)
        .map_err(ClaimError::experiment)?;
    let plain = network.valid();
    let mut draw = SeededNoise::new(seed, 41);
    let mut noise = |rows| draw.normal([rows, PIXELS], &device);
    let embedding = Embedding::new(&plain, &levels, noise(1), seed)?;
    let weights = Weights::new(&network, &levels, noise(size.rows))?;
    let adversarial = Adversarial {
        network: &plain,
        classifier: &classifier,
        levels: &levels,
        noise: noise(size.rows),
    };
    let searches: [&dyn Search; 3] = [&embedding, &weights, &adversarial];
    let losses = searches.map(|search| {
        let start = search.loss(&search.start()?)?;
        let least = WAYS.map(|way| least(search, way, size.iterations, seed));
        Ok::<_, ClaimError>(Losses {
            start,
            least: least.into_iter().collect::<Result<_, _>>()?,
        })
    });
    let [embedding, weights, adversarial] = losses;
    Ok([embedding?, weights?, adversarial?])
}

/// A vector that is to lower a loss of finished samples.
trait Search {
    fn start(&self) -> Result<Tensor<1>, ClaimError>;

    fn loss(&self, theta: &Tensor<1>) -> Result<f64, ClaimError>;

    /// The gradient, of the shape of the vector.
    fn gradient(&self, theta: &Tensor<1>, source: Source) -> Result<Tensor<1>, ClaimError>;

    /// Back to where the vector may be.
    fn allowed(&self, theta: Tensor<1>) -> Tensor<1> {
        theta
    }

    /// The learning rate of Adam.
    fn rate(&self) -> f64;

    /// The first standard deviation of the random search.
    fn spread(&self) -> f64;
}

/// How often the true loss is looked at during a search along gradients.
const LOOKS: usize = 10;

/// The least loss that a way finds. With `K` steps of the sampler, a gradient step by step takes `2K` calls of the
/// network, one of the first step a single call, and a look at the loss `K`: so the latter two have more of them.
fn least(search: &dyn Search, way: Way, iterations: usize, seed: u64) -> Result<f64, ClaimError> {
    let source = match way {
        Way::Gradient(source) => source,
        Way::RandomSearch => return random_search(search, 2 * iterations, seed),
    };
    let iterations = match source {
        Source::OneStep => 2 * STEPS * iterations,
        _ => iterations,
    };
    let look = (iterations / LOOKS).max(1);
    let mut theta = search.start()?;
    let mut least = f64::INFINITY;
    let (mut mean, mut square) = (theta.zeros_like(), theta.zeros_like());
    for k in 1..=iterations {
        let gradient = search.gradient(&theta, source)?;
        mean = mean * 0.9 + gradient.clone() * 0.1;
        square = square * 0.999 + gradient.square() * 0.001;
        let [first, second] = [0.9f64, 0.999].map(|beta| 1.0 - beta.powi(k as i32));
        let direction = (mean.clone() / first) / ((square.clone() / second).sqrt() + 1e-8);
        theta = search.allowed(theta - direction * search.rate());
        if k % look == 0 || k == iterations {
            least = least.min(search.loss(&theta)?);
        }
    }
    Ok(least)
}

/// The better of the best and a random change of it, whose length follows the success.
fn random_search(search: &dyn Search, looks: usize, seed: u64) -> Result<f64, ClaimError> {
    let mut draw = SeededNoise::new(seed, 42);
    let mut best = search.start()?;
    let mut least = search.loss(&best)?;
    let mut spread = search.spread();
    for _ in 0..looks {
        let change = draw.normal(best.dims(), &best.device()) * spread;
        let changed = search.allowed(best.clone() + change);
        let loss = search.loss(&changed)?;
        spread *= if loss < least { 1.3 } else { 0.93 };
        if loss < least {
            (best, least) = (changed, loss);
        }
    }
    Ok(least)
}

/// The network under conditions that `condition` computes anew for each call.
fn conditioned<'a>(
    network: &'a DigitNetwork,
    condition: impl Fn() -> Tensor<2> + 'a,
) -> ClosureDenoiser<impl Fn(Tensor<2>, Level) -> Tensor<2> + 'a> {
    denoiser(Prediction::Velocity, move |x: Tensor<2>, level: Level| {
        let times = level.times(x.dims()[0], &x.device());
        network.forward(x, times, condition())
    })
}

/// A finished sample without a graph.
fn sampled(
    network: &DigitNetwork,
    levels: &Levels,
    noise: Tensor<2>,
    condition: impl Fn() -> Tensor<2>,
) -> Result<Tensor<2>, ClaimError> {
    let model = conditioned(network, condition);
    let adjoint = nabla_diffusion::adjoint_dpm::AdjointDpm::new();
    let mut run = adjoint.of(&model, levels).map_err(ClaimError::experiment)?;
    let found = run.sample(noise).map_err(ClaimError::experiment)?;
    Ok(found.sample().clone())
}

fn scalar(value: Tensor<1>) -> f64 {
    value.into_scalar::<f64>()
}

/// The classes of a batch: all of them, in turn.
fn classes(rows: usize) -> Vec<usize> {
    (0..rows).map(|row| row % CLASSES).collect()
}

/// The condition that turns a known noise into a given picture: that of a class, from the mean of all.
struct Embedding<'a> {
    network: &'a DigitNetwork,
    levels: &'a Levels,
    noise: Tensor<2>,
    target: Tensor<2>,
}

impl<'a> Embedding<'a> {
    fn new(
        network: &'a DigitNetwork,
        levels: &'a Levels,
        noise: Tensor<2>,
        seed: u64,
    ) -> Result<Self, ClaimError> {
        let class = [seed as usize % CLASSES];
        let condition = || network.conditions(&class);
        let target = sampled(network, levels, noise.clone(), condition)?;
        Ok(Self {
            network,
            levels,
            noise,
            target,
        })
    }
}

impl Search for Embedding<'_> {
    fn start(&self) -> Result<Tensor<1>, ClaimError> {
        let all = self.network.conditions(&classes(CLASSES));
        Ok(all.mean_dim(0).reshape([CONDITION]))
    }

    fn loss(&self, theta: &Tensor<1>) -> Result<f64, ClaimError> {
        let condition = || theta.clone().reshape([1, CONDITION]);
        let found = sampled(self.network, self.levels, self.noise.clone(), condition)?;
        Ok(scalar((found - self.target.clone()).square().mean()))
    }

    fn gradient(&self, theta: &Tensor<1>, source: Source) -> Result<Tensor<1>, ClaimError> {
        let leaf = theta.clone().autodiff().require_grad();
        let model = conditioned(self.network, || leaf.clone().reshape([1, CONDITION]));
        let mut loss = |x: Tensor<2>| Ok((x - self.target.clone()).square().mean());
        let mut wanted = LeafGradient::new(leaf.clone());
        let noise = self.noise.clone();
        gradient(source, self.levels, &model, noise, &mut loss, &mut wanted)?;
        Ok(wanted.gradient())
    }

    fn rate(&self) -> f64 {
        0.05
    }

    fn spread(&self) -> f64 {
        0.3
    }
}

/// Weights with which the digits of all classes have more ink: a given mean of the pixels.
struct Weights<'a> {
    network: &'a DigitNetwork,
    layout: ParameterLayout,
    levels: &'a Levels,
    noise: Tensor<2>,
    target: f64,
}

/// By how much the mean of the pixels is to rise, in units of their root mean square.
const MORE_INK: f64 = 0.5;

impl<'a> Weights<'a> {
    fn new(
        network: &'a DigitNetwork,
        levels: &'a Levels,
        noise: Tensor<2>,
    ) -> Result<Self, ClaimError> {
        let mut weights = Self {
            network,
            layout: ParameterLayout::trainable(network).map_err(ClaimError::experiment)?,
            levels,
            noise,
            target: 0.0,
        };
        weights.target = scalar(weights.sample(network)?.mean()) + MORE_INK;
        Ok(weights)
    }

    fn sample(&self, network: &DigitNetwork) -> Result<Tensor<2>, ClaimError> {
        let network = network.valid();
        let rows = classes(self.noise.dims()[0]);
        let condition = || network.conditions(&rows);
        sampled(&network, self.levels, self.noise.clone(), condition)
    }

    fn network(&self, theta: &Tensor<1>) -> Result<DigitNetwork, ClaimError> {
        let found = self
            .layout
            .with_parameters(self.network.clone(), theta.clone());
        found.map_err(ClaimError::experiment)
    }
}

impl Search for Weights<'_> {
    fn start(&self) -> Result<Tensor<1>, ClaimError> {
        let found = self.layout.flatten_parameters(self.network);
        found.map_err(ClaimError::experiment)
    }

    fn loss(&self, theta: &Tensor<1>) -> Result<f64, ClaimError> {
        let mean = scalar(self.sample(&self.network(theta)?)?.mean());
        Ok((mean - self.target).powi(2))
    }

    fn gradient(&self, theta: &Tensor<1>, source: Source) -> Result<Tensor<1>, ClaimError> {
        let network = self.network(theta)?;
        let rows = classes(self.noise.dims()[0]);
        let model = conditioned(&network, || network.conditions(&rows));
        let mut loss = |x: Tensor<2>| Ok((x.mean() - self.target).square());
        let mut wanted = ModuleGradients::new(&network);
        let noise = self.noise.clone();
        gradient(source, self.levels, &model, noise, &mut loss, &mut wanted)?;
        let gradients = self.layout.flatten_gradients_or_zeros(&wanted.gradients());
        gradients.map_err(ClaimError::experiment)
    }

    fn rate(&self) -> f64 {
        1e-3
    }

    fn spread(&self) -> f64 {
        0.01
    }
}

/// Noise from which a classifier takes the digits for others, near the noise of the digits.
struct Adversarial<'a> {
    network: &'a DigitNetwork,
    classifier: &'a Mlp,
    levels: &'a Levels,
    noise: Tensor<2>,
}

/// The most that a number of the noise may change.
const BOUND: f64 = 0.5;

impl Adversarial<'_> {
    fn noise(&self, theta: &Tensor<1>) -> Tensor<2> {
        theta.clone().reshape(self.noise.dims())
    }

    fn cross_entropy(&self, x: Tensor<2>) -> Tensor<1> {
        let rows = classes(x.dims()[0]);
        cross_entropy(self.classifier.logits(x), &rows)
    }
}

impl Search for Adversarial<'_> {
    fn start(&self) -> Result<Tensor<1>, ClaimError> {
        Ok(self.noise.clone().flatten(0, 1))
    }

    /// The lower, the more wrong the classifier is.
    fn loss(&self, theta: &Tensor<1>) -> Result<f64, ClaimError> {
        let rows = classes(self.noise.dims()[0]);
        let condition = || self.network.conditions(&rows);
        let found = sampled(self.network, self.levels, self.noise(theta), condition)?;
        Ok(-scalar(self.cross_entropy(found)))
    }

    fn gradient(&self, theta: &Tensor<1>, source: Source) -> Result<Tensor<1>, ClaimError> {
        let rows = classes(self.noise.dims()[0]);
        let model = conditioned(self.network, || self.network.conditions(&rows));
        let mut loss = |x: Tensor<2>| Ok(self.cross_entropy(x).neg());
        let noise = self.noise(theta);
        let found = gradient(source, self.levels, &model, noise, &mut loss, &mut ())?;
        Ok(found.flatten(0, 1))
    }

    fn allowed(&self, theta: Tensor<1>) -> Tensor<1> {
        let first: Tensor<1> = self.noise.clone().flatten(0, 1);
        first.clone() + (theta - first).clamp(-BOUND, BOUND)
    }

    fn rate(&self) -> f64 {
        0.05
    }

    fn spread(&self) -> f64 {
        0.2
    }
}
