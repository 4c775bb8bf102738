//! The mixture with the exact denoiser.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::rate_fit::power_rate;
use nabla_claims::{Bench, Cell, ClaimError, Stage, Table};
use nabla_diffusion::denoiser::{ClosureDenoiser, Prediction, denoiser};
use nabla_diffusion::level::Level;
use nabla_diffusion::sampler::Solver;
use nabla_diffusion::schedule::NoiseSchedule;
use nabla_diffusion::seeded_noise::SeededNoise;

use super::{
    CALLS, Contestant, END, FEW, FINE, MANY, MIXTURE_FLOW, MIXTURE_RUNS, MIXTURE_STEPS, Nearness,
    SAMPLERS, Size, distance, even, flow, mixture_task, named, numbers, points, record, run,
    steps_for,
};

/// Modes of the mixture, and the standard deviation of each.
const MODES: [[f64; 2]; 4] = [[1.0, 0.8], [-1.2, 0.4], [0.3, -1.1], [-0.5, -0.6]];
const SPREAD: f64 = 0.3;

/// The exact `ε` of the mixture: `[points, 2, 1, 1]`, in `f64`.
fn exact() -> ClosureDenoiser<impl Fn(Tensor<4>, Level) -> Tensor<4>> {
    denoiser(Prediction::Epsilon, |x: Tensor<4>, level: Level| {
        let (shape, device) = (x.dims(), x.device());
        let values: Vec<f64> = x
            .to_data()
            .convert::<f64>()
            .try_to_vec()
            .unwrap_or_default();
        let (signal, a) = (level.signal(), level.alpha_bar());
        let variance = a * SPREAD * SPREAD + 1.0 - a;
        let epsilon: Vec<f64> = values
            .chunks_exact(2)
            .flat_map(|x| {
                let squared = MODES.map(|m| {
                    let d = [x[0] - signal * m[0], x[1] - signal * m[1]];
                    d[0] * d[0] + d[1] * d[1]
                });
                let nearest = squared.iter().copied().fold(f64::INFINITY, f64::min);
                let weights = squared.map(|s| (-(s - nearest) / (2.0 * variance)).exp());
                let sum: f64 = weights.iter().sum();
                // −√(1 − ᾱ) times the gradient of the log density.
                [0, 1].map(|axis| {
                    let terms = weights.iter().zip(MODES);
                    let pull: f64 = terms.map(|(w, m)| w * (x[axis] - signal * m[axis])).sum();
                    level.noise() * pull / (sum * variance)
                })
            })
            .collect();
        Tensor::from_data(TensorData::new(epsilon, shape), (&device, DType::F64))
    })
}

/// The paper's linear schedule as a function of time, `FINE` levels to each of 1000 steps; the network is
/// given the time in steps.
fn continuous() -> Result<NoiseSchedule, ClaimError> {
    let levels: Vec<Level> = (1..=1000 * FINE)
        .map(|i| {
            let timestep = i as f64 / FINE as f64;
            let u = timestep / 1000.0;
            Level::variance_preserving(timestep, (-(0.1 * u + 0.5 * 19.9 * u * u)).exp())
        })
        .collect();
    NoiseSchedule::from_levels(&levels, 1.0).map_err(ClaimError::experiment)
}

pub(super) fn mixture(bench: &Bench<'_>, size: &Size, table: &mut Table) -> Result<(), ClaimError> {
    // Always on the CPU, where the denoiser is computed in f64.
    let device = Device::flex();
    let training = continuous()?;
    let start = |seed: u64| {
        SeededNoise::new(seed, 0)
            .normal([size.points, 2, 1, 1], &device)
            .cast(DType::F64)
    };
    let model = exact();
    let (end, top) = (END * FINE - 1, 1000 * FINE - 1);
    let last = training.alpha_bar(end);
    let solve = |solver: &Arc<dyn Solver>, steps, start: &Tensor<4>| {
        let schedule = even(&training, end, top, steps, last)?;
        run(solver.clone(), schedule, &model, start)
    };
    let references = bench.measure(
        &Stage::new("mixture, references", size),
        bench.seeds(),
        |&seed| Cell::whole().seed(seed),
        |&seed| numbers::<f64>(&solve(&named("s-pndm")?, size.reference, &start(seed))?),
    )?;
    let points = points(bench, &MIXTURE_RUNS);
    let found = bench.measure(
        &Stage::new("mixture", size),
        &points,
        |&(s, solver)| {
            let cell = Cell::whole().variant(&solver.variant());
            cell.seed(bench.seeds()[s])
        },
        |&(s, solver)| {
            let start = start(bench.seeds()[s]);
            let reference = TensorData::new(references[s].clone(), start.dims());
            let reference = Tensor::<4>::from_data(reference, (&device, DType::F64));
            match solver {
                Contestant::Sampler(i) => {
                    let solver = SAMPLERS[i].1()?;
                    let error = |steps| {
                        let found = solve(&solver, steps, &start)?;
                        Ok::<_, ClaimError>(distance(&found, &reference))
                    };
                    let errors = size
                        .steps
                        .iter()
                        .map(|&steps| Ok((steps as f64, error(steps)?)))
                        .collect::<Result<Vec<_>, ClaimError>>()?;
                    let mut distances = Vec::new();
                    for calls in CALLS.into_iter().chain([FEW, MANY]) {
                        if let Some(steps) = steps_for(solver.as_ref(), calls) {
                            distances.push((calls, error(steps)?));
                        }
                    }
                    Ok(Nearness::Steps {
                        order: Some(power_rate(errors).map_or(f64::NAN, |fit| -fit.rate)),
                        distances,
                    })
                }
                Contestant::Counted(counted) => {
                    let solver = (counted.make)()?;
                    let found = solve(&solver, counted.steps, &start)?;
                    Ok(Nearness::Once {
                        distance: distance(&found, &reference),
                        calls: solver.calls(counted.steps),
                    })
                }
                Contestant::Flow(tolerance) => {
                    let ends = [1000.0, END as f64];
                    let (found, calls) = flow(tolerance, &training, &model, &start, ends)?;
                    Ok(Nearness::Once {
                        distance: distance(&found, &reference),
                        calls,
                    })
                }
            }
        },
    )?;
    let tasks = [&MIXTURE_STEPS, &MIXTURE_FLOW];
    record(bench, &points, found, mixture_task, tasks, table)
}
