//! Van der Pol's oscillator, `u″ = 5 (1 − u²) u′ − u`, learnt by a neural ODE from short pieces of its cycle.

use burn::module::Module;
use burn::optim::AdamConfig;
use burn::tensor::{DType, Device, Tensor};
use nabla_claims::ClaimError;
use nabla_grad::flat::with_float_type;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_physics::field::field;
use nabla_physics::neural_ode::{NeuralOde, NeuralOdeConfig};
use nabla_physics::{Method, Solver};
use rand::RngExt;

use crate::regularisation::{Regularisation, with_penalty};
use crate::training::{Outcome, number, predicted, shortest, trained};

/// Sizes of a training.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    updates: usize,
}

impl Size {
    pub(crate) fn new(quick: bool) -> Self {
        Self {
            updates: if quick { 3 } else { 300 },
        }
    }
}

/// Pieces of the cycle: those that are learnt, and those of the test.
const PIECES: [usize; 2] = [64, 64];
/// Of a piece.
const TIMES: [f64; 6] = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];
/// After this time the oscillator is on its cycle, which takes the second one.
const SETTLED: f64 = 30.0;
const CYCLE: f64 = 11.612;

/// Pieces that begin at drawn times of the cycle, `[times, pieces, 2]`; speeds are divided by 4, so that both numbers are of
/// one size.
fn pieces(count: usize, draws: &mut SeededNoise) -> Result<Tensor<3>, ClaimError> {
    let device = (&Device::flex(), DType::F64);
    let oscillator = field(|x: Tensor<2>, _t| {
        let [u, v] = [0, 1].map(|i| x.clone().narrow(1, i, 1));
        let pull = (-u.clone().square() + 1.0) * v.clone() * 5.0 - u / 4.0;
        Tensor::cat(vec![v * 4.0, pull], 1)
    });
    let solver = Solver::new(Method::RODAS4).with_tolerances(1e-8, 1e-8);
    let mut begins: Vec<f64> = (0..count)
        .map(|_| SETTLED + CYCLE * draws.random::<f64>())
        .collect();
    begins.sort_by(f64::total_cmp);
    let mut times = vec![0.0];
    times.extend(begins);
    let start = Tensor::<2>::from_data([[2.0, 0.0]], device);
    let (cycle, _) = predicted(&solver, &oscillator, start, &times)?;
    let starts = cycle.narrow(0, 1, count).reshape([count, 2]);
    Ok(predicted(&solver, &oscillator, starts, &TIMES)?.0)
}

/// A neural ODE, trained and measured; its quality is the mean squared error of other pieces.
pub(crate) fn ode(
    regularisation: &Regularisation,
    size: &Size,
    seed: u64,
) -> Result<Outcome, ClaimError> {
    let [mut data, mut weights, mut training] = [0, 1, 2].map(|s| SeededNoise::new(seed, s));
    let learnt = pieces(PIECES[0], &mut data)?;
    let test = pieces(PIECES[1], &mut data)?;
    let starts = |pieces: &Tensor<3>| pieces.clone().narrow(0, 0, 1).squeeze_dim::<2>(0);
    let net = NeuralOdeConfig::new(2)
        .with_hidden([32, 32])
        .without_time()
        .init(&Device::flex().autodiff(), &mut weights)
        .map_err(ClaimError::experiment)?;
    let net: NeuralOde = with_float_type(net, DType::F64);
    let solver = Solver::new(Method::TSIT5).with_tolerances(1e-6, 1e-6);
    let tracked = learnt.clone().autodiff();
    let (net, spent) = trained(
        net,
        AdamConfig::new().init(),
        [size.updates, 1],
        |_| 0.01,
        |net: &NeuralOde, clock, _| {
            let start = starts(&learnt).autodiff();
            let solved = regularisation.solve(&solver, net, start, &TIMES, clock, &mut training)?;
            let found: Tensor<3> = Tensor::stack(solved.values, 0);
            let task = (found - tracked.clone()).square().mean();
            let loss = with_penalty(task, solved.penalty);
            Ok((loss, solved.evaluations))
        },
    )?;
    let net = net.valid();
    let (prediction_ms, (found, evaluations)) =
        shortest(|| predicted(&solver, &net, starts(&test), &TIMES))?;
    Ok(Outcome {
        evaluations: evaluations as f64,
        prediction_ms,
        training_s: spent.seconds,
        training_evaluations: spent.last_evaluations,
        quality: number((found - test).square().mean()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cycle's largest place is 2.0215, and its largest speed 7.637, by SciPy's `solve_ivp` with tolerances of 1e-9.
    #[test]
    fn pieces_lie_on_the_cycle() {
        let found = pieces(200, &mut SeededNoise::new(1, 0)).unwrap();
        let largest = |i: usize| number(found.clone().narrow(2, i, 1).abs().max());
        assert!((largest(0) - 2.0215).abs() < 0.01, "{}", largest(0));
        assert!(
            (4.0 * largest(1) - 7.637).abs() < 0.1,
            "{}",
            4.0 * largest(1)
        );
    }
}
