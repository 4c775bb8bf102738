//! The embedded prior.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use nabla_claims::{Bench, Cell, ClaimContext, ClaimError, Stage, Table};
use nabla_data::{DataSetError, PanoramaSet, Split};
use nabla_diffusion::denoiser::{Denoised, Denoiser};
use nabla_diffusion::prior::SuperResolutionPrior;
use nabla_diffusion::restore::PriorDenoiser;
use nabla_diffusion::sampler::Solver;
use nabla_diffusion::schedule::NoiseSchedule;
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_panorama::pixels::to_tensor;
use nabla_panorama::{Interpolation, resize_erp, to_8_bit};

use super::{
    CALLS, Contestant, Nearness, PRIOR_FLOW, PRIOR_RUNS, PRIOR_STEPS, SAMPLERS, Size, TOP,
    distance, even, flow, named, numbers, points, prior_task, record, run, steps_for,
};

pub(super) fn prior(bench: &Bench<'_>, size: &Size, table: &mut Table) -> Result<(), ClaimError> {
    let context = bench.context();
    let prior = SuperResolutionPrior::embedded(&context.device).map_err(ClaimError::experiment)?;
    let equation = Equation::of(&prior)?;
    let seeds = bench.seeds().iter();
    let inputs = seeds.map(|&seed| Ok((seed, enlarged(context, size, seed)?)));
    let inputs = inputs.collect::<Result<Vec<(u64, Tensor<4>)>, ClaimError>>()?;
    let references = bench.measure(
        &Stage::new("embedded prior, references", size),
        &inputs,
        |(seed, _)| Cell::whole().seed(*seed),
        |(seed, enlarged)| {
            let start = SeededNoise::new(*seed, 1).normal(enlarged.dims(), &context.device);
            let model = equation.denoiser(enlarged)?;
            let heun = named("heun")?;
            let found = equation.solve(&heun, size.prior_reference, &model, &start)?;
            numbers::<f32>(&found)
        },
    )?;
    let points = points(bench, &PRIOR_RUNS);
    let found = bench.measure(
        &Stage::new("embedded prior", size),
        &points,
        |&(s, solver)| {
            let cell = Cell::whole().variant(&solver.variant());
            cell.seed(bench.seeds()[s])
        },
        |&(s, solver)| {
            let (seed, enlarged) = &inputs[s];
            let start = SeededNoise::new(*seed, 1).normal(enlarged.dims(), &context.device);
            let model = equation.denoiser(enlarged)?;
            let reference = TensorData::new(references[s].clone(), start.dims());
            let reference = Tensor::<4>::from_data(reference, &context.device);
            match solver {
                Contestant::Sampler(i) => {
                    let solver = SAMPLERS[i].1()?;
                    let mut distances = Vec::new();
                    for calls in CALLS {
                        if let Some(steps) = steps_for(solver.as_ref(), calls) {
                            let found = equation.solve(&solver, steps, &model, &start)?;
                            distances.push((calls, distance(&found, &reference)));
                        }
                    }
                    Ok(Nearness::Steps {
                        order: None,
                        distances,
                    })
                }
                Contestant::Counted(counted) => {
                    let solver = (counted.make)()?;
                    let found = equation.solve(&solver, counted.steps, &model, &start)?;
                    Ok(Nearness::Once {
                        distance: distance(&found, &reference),
                        calls: solver.calls(counted.steps),
                    })
                }
                Contestant::Flow(tolerance) => {
                    let training = &equation.training;
                    let first = training.level(0);
                    let ends = [training.timestep(TOP), first.time()];
                    let (found, calls) = flow(tolerance, training, &model, &start, ends)?;
                    let picture =
                        Denoised::predict(&model, &found, first).map_err(ClaimError::experiment)?;
                    Ok(Nearness::Once {
                        distance: distance(&picture.sample, &reference),
                        calls: calls + 1,
                    })
                }
            }
        },
    )?;
    let tasks = [&PRIOR_STEPS, &PRIOR_FLOW];
    record(bench, &points, found, prior_task, tasks, table)
}

/// The diffusion of the embedded prior in variance-preserving form.
struct Equation<'a> {
    prior: &'a SuperResolutionPrior,
    training: NoiseSchedule,
}

impl<'a> Equation<'a> {
    fn of(prior: &'a SuperResolutionPrior) -> Result<Self, ClaimError> {
        let training = PriorDenoiser::noise_schedule(prior).map_err(ClaimError::experiment)?;
        Ok(Self { prior, training })
    }

    fn denoiser(&self, enlarged: &Tensor<4>) -> Result<PriorDenoiser<'a>, ClaimError> {
        PriorDenoiser::new(self.prior, enlarged.clone(), 0).map_err(ClaimError::experiment)
    }

    fn solve(
        &self,
        solver: &Arc<dyn Solver>,
        steps: usize,
        model: &dyn Denoiser,
        start: &Tensor<4>,
    ) -> Result<Tensor<4>, ClaimError> {
        let schedule = even(&self.training, 0, TOP, steps, 1.0)?;
        run(solver.clone(), schedule, model, start)
    }
}

/// A held-out panorama, reduced by 4 and enlarged again, which is the input of the prior.
fn enlarged(context: &ClaimContext<'_>, size: &Size, seed: u64) -> Result<Tensor<4>, ClaimError> {
    let folder = context.assets.join("panoramas");
    let asset = |error: DataSetError| ClaimError::asset(&folder, error);
    let set = PanoramaSet::open(&folder).map_err(asset)?;
    let names = set.names(Split::HeldOut);
    let Some(name) = names.get(seed as usize % names.len().max(1)) else {
        let reason = "it has no held-out panoramas";
        return Err(ClaimError::asset(&folder, reason));
    };
    let panorama = set.load(name).map_err(asset)?.raster;
    let resize = |picture, height| {
        resize_erp(picture, height, Interpolation::BICUBIC).map_err(ClaimError::experiment)
    };
    let low = to_8_bit(resize(&panorama, size.height / 4)?);
    Ok(to_tensor(&[resize(&low, size.height)?], &context.device) * 2.0 - 1.0)
}
