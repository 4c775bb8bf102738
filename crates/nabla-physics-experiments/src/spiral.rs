//! The spiral of ERNODE's paper: a neural SDE that has the means and variances of another SDE at several times.
//!
//! ```text
//! du = (−0.1 u³ + 2 v³) dt + 0.2 u dW,   dv = (−2 u³ − 0.1 v³) dt + 0.2 v dW,   (u, v)(0) = (2, 0)
//! ```

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use nabla_claims::ClaimError;
use nabla_grad::flat::with_float_type;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_optim::adabelief::AdaBeliefConfig;
use nabla_physics::field::{Dynamics, field};
use nabla_physics::neural_ode::{NeuralOde, NeuralOdeConfig};
use nabla_physics::sde::{DriftError, SdeMethod, SdeSolver};

use crate::regularisation::{Regularisation, with_penalty};
use crate::training::{Outcome, number, shortest, trained};

/// Sizes of a training.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    updates: usize,
    /// Paths of the equation that is learnt.
    paths: usize,
    /// Paths of the neural SDE in the test.
    tests: usize,
}

impl Size {
    pub(crate) fn new(quick: bool) -> Self {
        match quick {
            true => Self {
                updates: 1,
                paths: 200,
                tests: 200,
            },
            false => Self {
                updates: 120,
                paths: 10_000,
                tests: 2000,
            },
        }
    }
}

const TIMES: usize = 10;
/// Of the neural SDE in an update.
const PATHS: usize = 100;

fn times() -> Vec<f64> {
    (0..=TIMES).map(|i| i as f64 / TIMES as f64).collect()
}

fn start(paths: usize) -> Tensor<2> {
    let one = Tensor::<2>::from_data([[2.0, 0.0]], (&Device::flex(), DType::F64));
    one.repeat_dim(0, paths)
}

/// Means and variances over the paths, `[times, 2, 2]`.
fn moments(values: Tensor<3>) -> Tensor<3> {
    let mean = values.clone().mean_dim(1);
    let variance = (values - mean.clone()).square().mean_dim(1);
    Tensor::cat(vec![mean, variance], 1)
}

/// Those of the equation that is learnt, by steps of one length.
fn targets(paths: usize, seed: u64) -> Result<Tensor<3>, ClaimError> {
    let drift = field(|u: Tensor<2>, _t| {
        let cube = u.powi_scalar(3);
        let [a, b] = [0, 1].map(|i| cube.clone().narrow(1, i, 1));
        let first = b.clone() * 2.0 - a.clone() * 0.1;
        Tensor::cat(vec![first, a * -2.0 - b * 0.1], 1)
    });
    let diffusion = field(|u: Tensor<2>, _t| u * 0.2);
    let solver = SdeSolver::new(SdeMethod::SOSRI).with_constant_step(0.01);
    let solution = solver.solve(&drift, &diffusion, start(paths), &times(), seed);
    Ok(moments(solution.map_err(ClaimError::experiment)?.values()))
}

/// The drift sees the cubes, as in the official code.
#[derive(Module, Debug)]
struct OfCubes {
    net: NeuralOde,
}

impl Dynamics for OfCubes {
    fn slope(&self, u: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
        self.net.slope(u.powi_scalar(3), t)
    }
}

#[derive(Module, Debug)]
struct Spiral {
    drift: OfCubes,
    diffusion: NeuralOde,
}

/// A neural SDE, trained and measured; its quality is the squared error of means and variances.
pub(crate) fn sde(
    regularisation: &Regularisation,
    size: &Size,
    seed: u64,
) -> Result<Outcome, ClaimError> {
    let [mut weights, mut training] = [1, 2].map(|stream| SeededNoise::new(seed, stream));
    let device = Device::flex().autodiff();
    let mut net = |config: NeuralOdeConfig| {
        let net = config.without_time().init(&device, &mut weights);
        net.map_err(ClaimError::experiment)
    };
    let model = Spiral {
        drift: OfCubes {
            net: net(NeuralOdeConfig::new(2).with_hidden([50]))?,
        },
        diffusion: net(NeuralOdeConfig::new(2))?,
    };
    let model = with_float_type(model, DType::F64);
    let solver = SdeSolver::new(SdeMethod::SOSRI)
        .with_tolerances(0.3, 0.3)
        .with_drift_error(DriftError::Sum);
    let (targets, times) = (targets(size.paths, 1000 + seed)?, times());
    let tracked = targets.clone().autodiff();
    // The paper's has no rectification, whose first steps are those of SGD: too long for gradients of this size.
    let optimizer = AdaBeliefConfig::new()
        .with_rectify(false)
        .with_epsilon(1e-8)
        .init();
    let (model, spent) = trained(
        model,
        optimizer.map_err(ClaimError::experiment)?,
        [size.updates, 1],
        |_| 0.01,
        |model: &Spiral, clock, _| {
            let (solution, penalty) = regularisation.solve_stochastic(
                &solver,
                (&model.drift, &model.diffusion),
                start(PATHS).autodiff(),
                &times,
                clock,
                &mut training,
            )?;
            let task = (moments(solution.values()) - tracked.clone())
                .square()
                .sum();
            let loss = with_penalty(task, penalty);
            Ok((loss, solution.statistics().evaluations()))
        },
    )?;
    let model = model.valid();
    let solve = |paths: usize, times: &[f64]| {
        let (drift, diffusion) = (&model.drift, &model.diffusion);
        let solution = solver.solve(drift, diffusion, start(paths), times, 2000 + seed);
        solution.map_err(ClaimError::experiment)
    };
    // A step ends at each time that is asked for: evaluations are counted without.
    let (prediction_ms, solution) = shortest(|| solve(PATHS, &[0.0, 1.0]))?;
    let found = moments(solve(size.tests, &times)?.values());
    Ok(Outcome {
        evaluations: solution.statistics().evaluations() as f64,
        prediction_ms,
        training_s: spent.seconds,
        training_evaluations: spent.last_evaluations,
        quality: number((found - targets).square().mean()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of paths by Euler's method with short steps, written out here.
    #[test]
    fn moments_are_those_of_the_equation() {
        const SAMPLE: usize = 2000;
        let found = targets(SAMPLE, 1).unwrap();
        let of = |which: usize, i: usize| {
            number(found.clone().slice([5..6, which..which + 1, i..i + 1]))
        };
        let mut noise = SeededNoise::new(9, 0);
        let (step, mut sums) = (1e-3_f64, [0.0; 2]);
        for _ in 0..SAMPLE {
            let (mut u, mut v) = (2.0_f64, 0.0_f64);
            for pair in noise.normal_values(1000).chunks_exact(2) {
                let [a, b] = [0, 1].map(|i| 0.2 * step.sqrt() * f64::from(pair[i]));
                let du = (-0.1 * u.powi(3) + 2.0 * v.powi(3)) * step + u * a;
                let dv = (-2.0 * u.powi(3) - 0.1 * v.powi(3)) * step + v * b;
                (u, v) = (u + du, v + dv);
            }
            sums[0] += u;
            sums[1] += v;
        }
        for (i, sum) in sums.into_iter().enumerate() {
            let error = 4.0 * (2.0 * of(1, i) / SAMPLE as f64).sqrt();
            let mean = sum / SAMPLE as f64;
            // And what Euler's method adds.
            assert!(
                (of(0, i) - mean).abs() < error + 0.03,
                "{i}: {} {mean} {error}",
                of(0, i)
            );
        }
    }
}
