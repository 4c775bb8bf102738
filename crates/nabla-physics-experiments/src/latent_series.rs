//! Latent ODEs on series that are sampled irregularly and observed partly: two populations of hunters and prey, of which
//! five quantities are seen now and then.

use burn::module::Module;
use burn::optim::AdamConfig;
use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_claims::ClaimError;
use nabla_grad::flat::with_float_type;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::activation::Activation;
use nabla_physics::field::field;
use nabla_physics::latent_ode::{LatentOde, LatentOdeConfig, Series, divergence_weight};
use nabla_physics::neural_ode::NeuralOdeConfig;
use nabla_physics::{Adjoint, Method, Solver};
use rand::RngExt;

use crate::regularisation::{Regularisation, with_adjoint, with_penalty};
use crate::training::{Outcome, number, predicted, shortest, trained};

const FEATURES: usize = 5;
const TIMES: usize = 30;
const BATCH: usize = 100;
/// The share of numbers that are observed.
const OBSERVED: f64 = 0.3;
/// The deviation of what is observed, as in the papers.
const DEVIATION: f64 = 0.01;
const TOLERANCE: f64 = 1.4e-8;

/// Sizes of a training.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Batches of 100 series to train with; one more tests.
    batches: usize,
    epochs: usize,
}

impl Size {
    pub(crate) fn new(quick: bool) -> Self {
        match quick {
            true => Self {
                batches: 1,
                epochs: 1,
            },
            false => Self {
                batches: 3,
                epochs: 30,
            },
        }
    }
}

/// A batch of series, and what of them was not observed.
struct Batch {
    seen: Series,
    hidden: Series,
}

/// Batches of series at common times from 0 to 1.
///
/// `x' = 8 x (1 − y)`, `y' = 8 y (x − 1)` from states between 1/2 and 2; seen are `tanh` of five fixed combinations of the
/// logarithms.
fn series(batches: usize, draws: &mut SeededNoise) -> Result<Vec<Batch>, ClaimError> {
    let device = (&Device::flex(), DType::F64);
    let mut times: Vec<f64> = (0..TIMES - 2).map(|_| draws.random()).collect();
    times.extend([0.0, 1.0]);
    times.sort_by(f64::total_cmp);
    let mixing = SeededNoise::new(0, 7).normal_values(2 * FEATURES);
    let mixing: Vec<f64> = mixing.into_iter().map(f64::from).collect();
    let mixing = Tensor::<2>::from_data(TensorData::new(mixing, [2, FEATURES]), device);
    // Of the logarithms of both populations.
    let populations = field(|u: Tensor<2>, _t| {
        let [prey, hunters] = [0, 1].map(|i| u.clone().narrow(1, i, 1).exp());
        Tensor::cat(vec![(-hunters + 1.0) * 8.0, (prey - 1.0) * 8.0], 1)
    });
    let solver = Solver::new(Method::TSIT5).with_tolerances(1e-9, 1e-9);
    let mut all = Vec::with_capacity(batches);
    for _ in 0..batches {
        let range = 2.0_f64.ln();
        let starts = (0..2 * BATCH).map(|_| range * (2.0 * draws.random::<f64>() - 1.0));
        let start = TensorData::new(starts.collect::<Vec<f64>>(), [BATCH, 2]);
        let start = Tensor::<2>::from_data(start, device);
        let (states, _) = predicted(&solver, &populations, start, &times)?;
        let flat = states.reshape([TIMES * BATCH, 2]);
        let dims = [TIMES, BATCH, FEATURES];
        let values: Tensor<3> = flat.matmul(mixing.clone()).tanh().reshape(dims);
        let mask = (0..TIMES * BATCH * FEATURES).map(|_| match draws.random_bool(OBSERVED) {
            true => 1.0,
            false => 0.0,
        });
        let mask = TensorData::new(mask.collect::<Vec<f64>>(), dims);
        let mask = Tensor::<3>::from_data(mask, device);
        let of = |mask: Tensor<3>| {
            Series::new(&times, values.clone(), mask).map_err(ClaimError::experiment)
        };
        all.push(Batch {
            seen: of(mask.clone())?,
            hidden: of(-mask + 1.0)?,
        });
    }
    Ok(all)
}

fn model(device: &Device, draws: &mut SeededNoise) -> Result<LatentOde, ClaimError> {
    let flow = NeuralOdeConfig::new(8)
        .with_hidden([24, 8, 24])
        .with_first(Activation::Tanh)
        .with_last(Activation::Tanh)
        .without_time();
    let config = LatentOdeConfig::new(FEATURES)
        .with_flow(flow)
        .with_recognition(16, 24);
    let model = config.init(device, draws).map_err(ClaimError::experiment)?;
    Ok(with_float_type(model, DType::F64))
}

/// A latent ODE, trained and measured; its quality is the squared error of what was not observed of other series.
pub(crate) fn latent_ode(
    regularisation: &Regularisation,
    adjoint: Adjoint,
    size: &Size,
    seed: u64,
) -> Result<Outcome, ClaimError> {
    let [mut data, mut weights, mut training] = [0, 1, 2].map(|s| SeededNoise::new(seed, s));
    let mut batches = series(size.batches + 1, &mut data)?;
    let Some(test) = batches.pop() else {
        return Err(ClaimError::experiment("no series"));
    };
    let first = model(&Device::flex().autodiff(), &mut weights)?;
    let plain = Solver::new(Method::TSIT5).with_tolerances(TOLERANCE, TOLERANCE);
    let solver = with_adjoint(&plain, regularisation, adjoint);
    let (model, spent) = trained(
        first,
        AdamConfig::new().init(),
        [size.epochs, size.batches],
        |update| 0.01 / (1.0 + 1e-5 * update as f64),
        |model: &LatentOde, clock, batch| {
            let series = &batches[batch].seen;
            let posterior = model.encode(series).map_err(ClaimError::experiment)?;
            let start = posterior.draw(&mut training);
            let times = series.times();
            let flow = model.flow();
            let solved = regularisation.solve(&solver, flow, start, times, clock, &mut training)?;
            let prediction = model.decode(Tensor::stack(solved.values, 0));
            let likelihood = series.log_likelihood(prediction, DEVIATION);
            let likelihood = likelihood.map_err(ClaimError::experiment)?;
            let divergence = posterior.divergence() * divergence_weight(clock.epoch, 10);
            let task = (divergence - likelihood).mean();
            let loss = with_penalty(task, solved.penalty);
            Ok((loss, solved.evaluations))
        },
    )?;
    let model = model.valid();
    let (prediction_ms, (values, evaluations)) = shortest(|| {
        let posterior = model.encode(&test.seen).map_err(ClaimError::experiment)?;
        let times = test.seen.times();
        let (states, evaluations) = predicted(&plain, model.flow(), posterior.mean, times)?;
        Ok((model.decode(states), evaluations))
    })?;
    let errors = test.hidden.squared_error(values);
    let errors = errors.map_err(ClaimError::experiment)?;
    Ok(Outcome {
        evaluations: evaluations as f64,
        prediction_ms,
        training_s: spent.seconds,
        training_evaluations: spent.last_evaluations,
        quality: number(errors.mean()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept by the populations: `x − ln x + y − ln y`. And nothing is both seen and hidden.
    #[test]
    fn series_are_bounded_and_a_part_of_them_is_observed() {
        let batches = series(2, &mut SeededNoise::new(3, 0)).unwrap();
        assert_eq!(batches[0].seen.times(), batches[1].seen.times());
        let mask = batches[1].seen.mask();
        let share = number(mask.clone().mean());
        assert!((share - OBSERVED).abs() < 0.03, "{share}");
        assert_eq!(number((mask * batches[1].hidden.mask()).sum()), 0.0);
        let largest = number(batches[0].hidden.values().abs().max());
        assert!(largest > 0.3 && largest <= 1.0);
    }
}
