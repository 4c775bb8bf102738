//! Handwritten digits by a neural ODE and by a neural SDE, as MNIST in the papers.

use burn::module::Module;
use burn::nn::Linear;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdamConfig, SgdConfig};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use nabla_claims::ClaimError;
use nabla_grad::flat::with_float_type;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::activation::Activation;
use nabla_kernels::cross_entropy::cross_entropy;
use nabla_kernels::linear::linear;
use nabla_physics::neural_ode::{NeuralOde, NeuralOdeConfig};
use nabla_physics::sde::{DriftError, SdeMethod, SdeSolver};
use nabla_physics::time_linear::TimeLinearConfig;
use nabla_physics::{Adjoint, Method, Solver};
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::regularisation::{Regularisation, with_adjoint, with_penalty};
use crate::training::{Outcome, predicted, shortest, trained};

const PIXELS: usize = 64;
const CLASSES: usize = 10;
const BATCH: usize = 128;
/// Of which the evaluations of a prediction are counted.
const COUNTED: usize = 512;

/// Sizes of a training and of its test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Digits to train with.
    training: usize,
    /// Digits to test with; all others at most.
    tests: usize,
    epochs: usize,
    /// Paths over which the logits of a neural SDE's test are averaged.
    paths: usize,
}

impl Size {
    const QUICK: Self = Self {
        training: 128,
        tests: 100,
        epochs: 1,
        paths: 2,
    };

    const WHOLE: Self = Self {
        training: 1400,
        tests: 397,
        epochs: 15,
        paths: 10,
    };

    pub(crate) fn of_ode(quick: bool) -> Self {
        if quick { Self::QUICK } else { Self::WHOLE }
    }

    pub(crate) fn of_sde(quick: bool) -> Self {
        match quick {
            true => Self::QUICK,
            false => Self {
                epochs: 8,
                ..Self::WHOLE
            },
        }
    }

    /// Of digits that are not trained with.
    fn test(&self) -> Vec<usize> {
        (self.training..self.training + self.tests).collect()
    }

    fn batches(&self) -> usize {
        self.training.div_ceil(BATCH)
    }
}

/// Digits in an order drawn by the seed, pixels from 0 to 1.
struct Digits {
    pixels: Vec<f64>,
    labels: Vec<i32>,
}

impl Digits {
    fn drawn(draws: &mut SeededNoise) -> Result<Self, ClaimError> {
        let pictures = nabla_data::digits().map_err(ClaimError::experiment)?;
        let white = f64::from(pictures.white());
        let mut order: Vec<usize> = (0..pictures.len()).collect();
        order.shuffle(draws);
        let pixels = order.iter().flat_map(|&i| pictures.pixels(i));
        Ok(Self {
            pixels: pixels.map(|&x| f64::from(x) / white).collect(),
            labels: order
                .iter()
                .map(|&i| i32::from(pictures.labels()[i]))
                .collect(),
        })
    }

    /// `[chosen, PIXELS]`, and `[chosen]`.
    fn rows(&self, chosen: &[usize], device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
        let pixels = chosen
            .iter()
            .flat_map(|&i| &self.pixels[i * PIXELS..(i + 1) * PIXELS]);
        let data = TensorData::new(
            pixels.copied().collect::<Vec<f64>>(),
            [chosen.len(), PIXELS],
        );
        let labels: Vec<i32> = chosen.iter().map(|&i| self.labels[i]).collect();
        let labels = TensorData::new(labels, [chosen.len()]);
        (
            Tensor::from_data(data, (device, DType::F64)),
            Tensor::from_data(labels, device),
        )
    }

    /// The percentage of rows whose largest logit is their label's.
    fn accuracy(&self, logits: Tensor<2>, chosen: &[usize]) -> f64 {
        let found = logits.argmax(1).into_data();
        let right = found.iter::<i64>().zip(chosen);
        let right = right.filter(|&(class, &i)| class == i64::from(self.labels[i]));
        100.0 * right.count() as f64 / chosen.len() as f64
    }
}

fn layer(input: usize, output: usize, device: &Device, draws: &mut SeededNoise) -> Linear {
    let config = TimeLinearConfig {
        time: false,
        ..TimeLinearConfig::new(input, output)
    };
    config.init(device, draws).linear
}

/// What of a seed is drawn.
struct Streams {
    data: SeededNoise,
    weights: SeededNoise,
    training: SeededNoise,
}

impl Streams {
    fn new(seed: u64) -> Self {
        let [data, weights, training] = [0, 1, 2].map(|stream| SeededNoise::new(seed, stream));
        Self {
            data,
            weights,
            training,
        }
    }
}

#[derive(Module, Debug)]
pub(crate) struct OdeClassifier {
    flow: NeuralOde,
    head: Linear,
}

impl OdeClassifier {
    /// `f`: 64 states, 32 units, `tanh`, the time appended to both layers.
    fn new(device: &Device, draws: &mut SeededNoise) -> Result<Self, ClaimError> {
        let flow = NeuralOdeConfig::new(PIXELS)
            .with_hidden([32])
            .with_last(Activation::Tanh)
            .init(device, draws)
            .map_err(ClaimError::experiment)?;
        let head = layer(PIXELS, CLASSES, device, draws);
        Ok(with_float_type(Self { flow, head }, DType::F64))
    }
}

/// The tolerance of the papers.
const TOLERANCE: f64 = 1.4e-8;

pub(crate) fn ode_solver() -> Solver {
    Solver::new(Method::TSIT5).with_tolerances(TOLERANCE, TOLERANCE)
}

/// Momentum 0.9 with the rate 0.1, which falls by `1/(1 + 10⁻⁵ n)`.
fn rate(first: f64) -> impl Fn(usize) -> f64 {
    move |update| first / (1.0 + 1e-5 * update as f64)
}

/// A neural ODE for digits, trained and measured.
pub(crate) fn ode(
    regularisation: &Regularisation,
    adjoint: Adjoint,
    size: &Size,
    seed: u64,
) -> Result<Outcome, ClaimError> {
    let device = Device::flex();
    let Streams {
        mut data,
        mut weights,
        mut training,
    } = Streams::new(seed);
    let digits = Digits::drawn(&mut data)?;
    let classifier = OdeClassifier::new(&device.clone().autodiff(), &mut weights)?;
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    let optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let solver = with_adjoint(&ode_solver(), regularisation, adjoint);
    let criterion = CrossEntropyLossConfig::new().init(&device);
    let mut order: Vec<usize> = (0..size.training).collect();
    let (classifier, spent) = trained(
        classifier,
        optimizer,
        [size.epochs, size.batches()],
        rate(0.1),
        |classifier: &OdeClassifier, clock, batch| {
            if batch == 0 {
                order.shuffle(&mut data);
            }
            let end = ((batch + 1) * BATCH).min(order.len());
            let (x, y) = digits.rows(&order[batch * BATCH..end], &device.clone().autodiff());
            let solved = regularisation.solve(
                &solver,
                &classifier.flow,
                x,
                &[0.0, 1.0],
                clock,
                &mut training,
            )?;
            let logits = linear(&classifier.head, solved.values[1].clone());
            let task = cross_entropy(&criterion, logits, y);
            let loss = with_penalty(task, solved.penalty);
            Ok((loss, solved.evaluations))
        },
    )?;
    let classifier = classifier.valid();
    let solver = ode_solver();
    let logits = |chosen: &[usize]| {
        let (x, _) = digits.rows(chosen, &device);
        let (states, evaluations) = predicted(&solver, &classifier.flow, x, &[0.0, 1.0])?;
        let last = states.narrow(0, 1, 1).squeeze_dim::<2>(0);
        Ok((linear(&classifier.head, last), evaluations))
    };
    let counted: Vec<usize> = (0..COUNTED.min(size.training)).collect();
    let (prediction_ms, (_, evaluations)) = shortest(|| logits(&counted))?;
    let test = size.test();
    Ok(Outcome {
        evaluations: evaluations as f64,
        prediction_ms,
        training_s: spent.seconds,
        training_evaluations: spent.last_evaluations,
        quality: digits.accuracy(logits(&test)?.0, &test),
    })
}

/// The largest relative difference between the gradients of the task by the interpolating adjoint and through the steps, at
/// the first weights of a seed.
pub(crate) fn difference_of_adjoints(seed: u64) -> Result<f64, ClaimError> {
    let device = Device::flex().autodiff();
    let mut streams = Streams::new(seed);
    let digits = Digits::drawn(&mut streams.data)?;
    let classifier = OdeClassifier::new(&device, &mut streams.weights)?;
    let criterion = CrossEntropyLossConfig::new().init(&device);
    let chosen: Vec<usize> = (0..BATCH).collect();
    let gradients = |adjoint: Adjoint| -> Result<Vec<f64>, ClaimError> {
        let (x, y) = digits.rows(&chosen, &device);
        let solver = ode_solver().with_adjoint(adjoint);
        let solution = solver.solve(&classifier.flow, x, &[0.0, 1.0]);
        let solution = solution.map_err(ClaimError::experiment)?;
        let loss = cross_entropy(&criterion, linear(&classifier.head, solution.last()), y);
        let gradients = loss.backward();
        let found = classifier.flow.layers().iter().flat_map(|layer| {
            let weight = layer.linear.weight.val().grad(&gradients);
            weight.map_or_else(Vec::new, |x| x.into_data().iter::<f64>().collect())
        });
        Ok(found.collect())
    };
    let exact = gradients(Adjoint::default())?;
    let other = gradients(Adjoint::Interpolating)?;
    let squares = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>();
    let apart = squares(&mut exact.iter().zip(&other).map(|(a, b)| a - b));
    Ok((apart / squares(&mut exact.iter().copied())).sqrt())
}

#[derive(Module, Debug)]
struct SdeClassifier {
    down: Linear,
    drift: NeuralOde,
    diffusion: NeuralOde,
    head: Linear,
}

/// The numbers of the neural SDE's state, and of the units of its drift.
const STATE: usize = 16;
const UNITS: usize = 32;

impl SdeClassifier {
    fn new(device: &Device, draws: &mut SeededNoise) -> Result<Self, ClaimError> {
        let down = layer(PIXELS, STATE, device, draws);
        let mut net = |config: NeuralOdeConfig| {
            let net = config.without_time().init(device, draws);
            net.map_err(ClaimError::experiment)
        };
        let drift = net(NeuralOdeConfig::new(STATE).with_hidden([UNITS]))?;
        let diffusion = net(NeuralOdeConfig::new(STATE))?;
        let head = layer(STATE, CLASSES, device, draws);
        let model = Self {
            down,
            drift,
            diffusion,
            head,
        };
        Ok(with_float_type(model, DType::F64))
    }
}

/// A neural SDE for digits, trained and measured.
pub(crate) fn sde(
    regularisation: &Regularisation,
    size: &Size,
    seed: u64,
) -> Result<Outcome, ClaimError> {
    let device = Device::flex();
    let Streams {
        mut data,
        mut weights,
        mut training,
    } = Streams::new(seed);
    let digits = Digits::drawn(&mut data)?;
    let classifier = SdeClassifier::new(&device.clone().autodiff(), &mut weights)?;
    let solver = SdeSolver::new(SdeMethod::SOSRI)
        .with_tolerances(0.14, 0.14)
        .with_drift_error(DriftError::Sum);
    let criterion = CrossEntropyLossConfig::new().init(&device);
    let mut order: Vec<usize> = (0..size.training).collect();
    let (classifier, spent) = trained(
        classifier,
        AdamConfig::new().init(),
        [size.epochs, size.batches()],
        rate(0.01),
        |classifier: &SdeClassifier, clock, batch| {
            if batch == 0 {
                order.shuffle(&mut data);
            }
            let end = ((batch + 1) * BATCH).min(order.len());
            let (x, y) = digits.rows(&order[batch * BATCH..end], &device.clone().autodiff());
            let (solution, penalty) = regularisation.solve_stochastic(
                &solver,
                (&classifier.drift, &classifier.diffusion),
                linear(&classifier.down, x),
                &[0.0, 1.0],
                clock,
                &mut training,
            )?;
            let logits = linear(&classifier.head, solution.last());
            let task = cross_entropy(&criterion, logits, y);
            let loss = with_penalty(task, penalty);
            Ok((loss, solution.statistics().evaluations()))
        },
    )?;
    let classifier = classifier.valid();
    let mut paths = SeededNoise::new(seed, 3);
    let seeds: Vec<u64> = (0..size.paths).map(|_| paths.random()).collect();
    let logits = |chosen: &[usize], path: u64| {
        let (x, _) = digits.rows(chosen, &device);
        let (drift, diffusion) = (&classifier.drift, &classifier.diffusion);
        let start = linear(&classifier.down, x);
        let solution = solver.solve(drift, diffusion, start, &[0.0, 1.0], path);
        let solution = solution.map_err(ClaimError::experiment)?;
        let evaluations = solution.statistics().evaluations();
        Ok((linear(&classifier.head, solution.last()), evaluations))
    };
    let counted: Vec<usize> = (0..COUNTED.min(size.training)).collect();
    let test = size.test();
    let (prediction_ms, _) = shortest(|| logits(&counted, seeds[0]))?;
    let mut evaluations = 0;
    let mut sum: Option<Tensor<2>> = None;
    for &path in &seeds {
        evaluations += logits(&counted, path)?.1;
        let (found, _) = logits(&test, path)?;
        sum = Some(match sum {
            Some(sum) => sum + found,
            None => found,
        });
    }
    Ok(Outcome {
        evaluations: evaluations as f64 / size.paths as f64,
        prediction_ms,
        training_s: spent.seconds,
        training_evaluations: spent.last_evaluations,
        quality: sum.map_or(f64::NAN, |sum| digits.accuracy(sum, &test)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_drawn_by_the_seed_and_lie_between_zero_and_one() {
        let drawn = |seed| Digits::drawn(&mut SeededNoise::new(seed, 0)).unwrap();
        let digits = drawn(1);
        assert_eq!(digits.labels.len(), 1797);
        let largest = digits.pixels.iter().fold(0.0_f64, |a, &b| a.max(b));
        assert!(largest == 1.0 && digits.pixels.iter().all(|&x| x >= 0.0));
        assert_eq!(digits.labels, drawn(1).labels);
        assert_ne!(digits.labels, drawn(2).labels);
        let device = Device::flex();
        let logits = Tensor::<2>::from_data([[0.0, 1.0], [1.0, 0.0]], (&device, DType::F64));
        let both = [
            i64::from(digits.labels[0] == 1),
            i64::from(digits.labels[1] == 0),
        ];
        let right = both.iter().sum::<i64>() as f64 / 2.0;
        assert_eq!(digits.accuracy(logits, &[0, 1]), 100.0 * right);
    }

    #[test]
    fn adjoints_agree() {
        let difference = difference_of_adjoints(5).unwrap();
        assert!(difference < 1e-4, "{difference}");
    }
}
