//! Pseudo numerical methods against DDIM and the other samplers: orders, and distance at equal calls.
//!
//! Two equations are solved. The first has an exact denoiser: a mixture of four Gaussians in the plane, in
//! `f64`, with the paper's linear schedule as a function of continuous time. There the orders of convergence
//! are fitted down to time 20 of 1000, where the equation is still smooth: at the very end `σ` behaves like
//! the square root of the time. The reference is S-PNDM with 7680 steps.
//!
//! The second is the embedded super-resolution prior, an RDDM. Its path, `I_t = I_0 + ᾱ_t (I_in − I_0) + β̄_t
//! ε`, is equivalent to a variance-preserving diffusion of `I_0`: with `u = I_t − ᾱ_t I_in = (1 − ᾱ_t) I_0 +
//! β̄_t ε`, `x = u / √((1 − ᾱ_t)² + β̄_t²)` has the noise level `σ = β̄_t/(1 − ᾱ_t)`, and `I_in − I_res` is a
//! prediction of the picture. So every sampler of the crate runs on it, from the same noise at time 960 of
//! 1000 (`σ = 60`). The reference is Heun's method with 960 steps (1919 calls), a grid that no compared
//! sampler uses. The experiment measures how well each sampler solves the network's equation, not how good
//! the pictures are.
//!
//! Calls of the network are counted, not steps: the start of F-PNDM needs 9 calls more than it has steps.
//!
//! The paper's baseline PF, the probability-flow equation solved by Runge and Kutta's method with adaptive
//! steps ([`probability_flow`](nabla_diffusion::probability_flow)), does not take a number of calls. It has
//! its own tables, with calls and distance for each tolerance (relative and absolute tolerance are equal, as
//! in the official code, which uses `1e-5`); in the plot it is placed by its calls. On the prior it stops at
//! the first training step, where one more call gives the picture; the others reach the picture directly with
//! their last step, from time 960/S.

use std::sync::Arc;

use burn::tensor::{DType, Device, Element, Tensor, TensorData};
use nabla_base::rate_fit::power_rate;
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimContext, ClaimError, LinePlot, Measurement, Metric, Role,
    Series, Stage, Table, Task, Variant,
};
use nabla_data::{DataSetError, PanoramaSet, Split};
use nabla_diffusion::denoiser::{ClosureDenoiser, Denoised, Denoiser, Prediction, denoiser};
use nabla_diffusion::dpm_solver_multistep::{DpmSolverMultistep, ThirdOrder};
use nabla_diffusion::level::Level;
use nabla_diffusion::pndm::{Pndm, PndmMethod};
use nabla_diffusion::prior::SuperResolutionPrior;
use nabla_diffusion::probability_flow::ProbabilityFlow;
use nabla_diffusion::rddm::RddmError;
use nabla_diffusion::rddm_sampler::RddmInput;
use nabla_diffusion::sampler::{Sampler, Sampling, Solver, samplers, shared};
use nabla_diffusion::schedule::NoiseSchedule;
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_panorama::pixels::to_tensor;
use nabla_panorama::{Interpolation, resize_erp, to_8_bit};
use serde::{Deserialize, Serialize};

const F_PNDM: Variant = Variant::method("F-PNDM");
const S_PNDM: Variant = Variant::method("S-PNDM");
const PLMS: Variant = Variant::ablation("PLMS");
const FON: Variant = Variant::ablation("FON (classical fourth order)");
const DDIM: Variant = Variant::baseline("DDIM");
const DPM: Variant = Variant::baseline("DPM-Solver++ 2M");
/// The paper's baseline with adaptive steps.
const PF: &str = "PF (RK45)";
/// Its tables.
const MIXTURE_FLOW: Task = Task::named("mixture, adaptive steps");
const PRIOR_FLOW: Task = Task::named("embedded prior, adaptive steps");

/// Creates a sampler.
type Make = fn() -> Result<Arc<dyn Solver>, ClaimError>;

/// The samplers with a fixed number of steps.
static SAMPLERS: [(Variant, Make); 13] = [
    (F_PNDM, || named("pndm")),
    (S_PNDM, || named("s-pndm")),
    (PLMS, || named("plms")),
    (FON, || Ok(shared(Pndm::new().with_method(PndmMethod::Fon)))),
    (DDIM, || named("ddim")),
    (Variant::baseline("Heun"), || named("heun")),
    (Variant::baseline("DPM2"), || named("dpm2")),
    (Variant::baseline("LMS"), || named("lms")),
    (DPM, || named("dpm++2m")),
    (Variant::baseline("DPM-Solver++ 3M"), dpm3),
    (Variant::baseline("DPM-Solver++ 2S"), || named("dpm++2s")),
    (Variant::baseline("DEIS"), || named("deis")),
    (Variant::baseline("UniPC"), || named("unipc")),
];

/// As many curves as can be distinguished.
const DRAWN: [Variant; 5] = [F_PNDM, S_PNDM, FON, DDIM, DPM];

const ORDERS: Task = Task::named("mixture, 10 to 320 steps");
const SLOPE: Metric = Metric::informative("order of convergence", "");
const DISTANCE: Metric = Metric::lower("distance from the reference", "");
const CALLS_MADE: Metric = Metric::informative("calls of the network", "");

/// The relative and absolute tolerances of PF.
const TOLERANCES: [f64; 5] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5];

/// The calls of DDIM with which few calls of F-PNDM are compared.
const MANY: usize = 1000;
const FEW: usize = 50;

/// The time to which the mixture's orders are measured, and its grid's resolution per time step.
const END: usize = 20;
const FINE: usize = 16;
/// The time from which the prior starts.
const TOP: usize = 960;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct PndmClaim;

impl Claim for PndmClaim {
    fn slug(&self) -> &str {
        "pndm"
    }

    fn statement(&self) -> &str {
        "Pseudo numerical methods, which follow DDIM's curved step instead of a straight line, converge \
         with the second order; 50 steps of F-PNDM are better than 1000 of DDIM (20 times fewer), and \
         classical fourth-order methods are worse than it."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds. On the mixture with the exact denoiser: DDIM's order lies in [0.8, 1.3], \
         those of S-PNDM and F-PNDM are at least 1.8; F-PNDM in 50 calls is nearer to the reference than \
         DDIM in 1000. On the mixture and on the embedded prior, at 20 and 40 calls: F-PNDM is nearer to \
         the reference than DDIM, and than FON."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let size = if bench.quick() { QUICK } else { FULL };
        let tasks = [ORDERS, mixture_task(FEW), mixture_task(MANY)]
            .into_iter()
            .chain(CALLS.iter().map(|&n| mixture_task(n)))
            .chain(CALLS.iter().map(|&n| prior_task(n)))
            .chain([MIXTURE_FLOW, PRIOR_FLOW]);
        let mut table = Table::new(
            bench.seeds(),
            [SLOPE, DISTANCE, CALLS_MADE],
            SAMPLERS
                .iter()
                .map(|(variant, _)| variant.clone())
                .chain(TOLERANCES.map(flow_variant)),
            tasks,
        )?;
        mixture(bench, &size, &mut table)?;
        prior(bench, &size, &mut table)?;
        let checks = checks(&table, &size)?;
        let mut plot = LinePlot::new(
            "Embedded prior: distance from the reference (mean of the seeds)",
            "calls of the network",
            "root mean square distance",
        )
        .log_x()
        .log_y();
        for variant in DRAWN {
            let points = CALLS.iter().filter_map(|&calls| {
                let mean = table.mean(&prior_task(calls), &variant, &DISTANCE).ok()?;
                Some([calls as f64, mean])
            });
            plot = plot.with_series(Series::new(variant.name(), points));
        }
        let points = TOLERANCES.iter().filter_map(|&tolerance| {
            let variant = flow_variant(tolerance);
            let mean = |metric| table.mean(&PRIOR_FLOW, &variant, &metric).ok();
            Some([mean(CALLS_MADE)?, mean(DISTANCE)?])
        });
        plot = plot.with_series(Series::new(PF, points));
        Ok(Measurement::new(table, checks).with_plot(plot).with_note(
            "Heun's method and DPM2 take two calls a step, so they have half as many steps, and at most \
             as many calls as the group says. F-PNDM and FON start at 13 calls. FON's derivative is a difference \
             over one training step, as in the official code, so that its error has a floor. The prior \
             predicts the picture, from which ε follows; it knows whole times only, so that between two of \
             them it is given the nearest, a jump that PF's steps have to pass.",
        ))
    }
}

/// The numbers of network calls at which the samplers are compared.
const CALLS: [usize; 4] = [5, 10, 20, 40];

#[derive(Debug)]
struct Size {
    points: usize,
    steps: &'static [usize],
    reference: usize,
    /// Rows of the panorama that the prior enlarges by 4.
    height: usize,
    prior_reference: usize,
}

const FULL: Size = Size {
    points: 64,
    steps: &[10, 20, 40, 80, 160, 320],
    reference: 7680,
    height: 64,
    prior_reference: 960,
};
const QUICK: Size = Size {
    points: 8,
    steps: &[10, 20, 40, 80],
    reference: 1920,
    height: 16,
    prior_reference: 96,
};

fn mixture_task(calls: usize) -> Task {
    Task::of(format!("mixture, {calls} calls"))
}

fn prior_task(calls: usize) -> Task {
    Task::of(format!("embedded prior, {calls} calls"))
}

fn flow_variant(tolerance: f64) -> Variant {
    Variant::of(Role::Baseline, format!("{PF}, tolerance {tolerance:e}"))
}

/// A sampler with its defaults.
fn named(name: &str) -> Result<Arc<dyn Solver>, ClaimError> {
    samplers().get(name).map_err(ClaimError::experiment)
}

/// The third order, as in its authors' code.
fn dpm3() -> Result<Arc<dyn Solver>, ClaimError> {
    let third = DpmSolverMultistep::new().with_order(3);
    Ok(shared(third.with_third_order(ThirdOrder::Diffusers)))
}

/// The largest number of steps with this many calls, if it is enough for the sampler.
fn steps_for(solver: &dyn Solver, calls: usize) -> Option<usize> {
    (solver.least_steps()..=calls)
        .rev()
        .find(|&steps| solver.calls(steps) <= calls)
}

/// The levels at `steps` even steps of the time from `end` (not included) to `top`, rounded to the
/// training grid, where `last` is the level at which sampling ends.
fn even(
    training: &NoiseSchedule,
    end: usize,
    top: usize,
    steps: usize,
    last: f64,
) -> Result<NoiseSchedule, ClaimError> {
    let levels: Vec<Level> = (1..=steps)
        .map(|k| end + ((top - end) * k + steps / 2) / steps)
        .map(|t| training.level(t))
        .collect();
    let schedule = NoiseSchedule::from_levels(&levels, last).map_err(ClaimError::experiment)?;
    Ok(schedule.of_training(training))
}

fn run(
    solver: Arc<dyn Solver>,
    schedule: NoiseSchedule,
    model: &dyn Denoiser,
    start: &Tensor<4>,
) -> Result<Tensor<4>, ClaimError> {
    let sampler = Sampler::new(solver, schedule).map_err(ClaimError::experiment)?;
    // None of the samplers draws noise on the way.
    sampler
        .sample(model, start.clone(), &mut SeededNoise::new(0, 0))
        .map_err(ClaimError::experiment)
}

/// PF from the time `top` to the time `end`, and the calls of the network.
fn flow(
    tolerance: f64,
    training: &NoiseSchedule,
    model: &dyn Denoiser,
    start: &Tensor<4>,
    [top, end]: [f64; 2],
) -> Result<(Tensor<4>, usize), ClaimError> {
    let flow = ProbabilityFlow::new();
    let flow = flow.with_rtol(tolerance).with_atol(tolerance);
    let sampling = Sampling::of(model);
    let found = flow
        .solve(&training.into(), sampling, start.clone(), top, end)
        .map_err(ClaimError::experiment)?;
    Ok((found.x, found.calls))
}

fn distance(a: &Tensor<4>, b: &Tensor<4>) -> f64 {
    let difference = (a.clone() - b.clone()).cast(DType::F64);
    let mean: f64 = (difference.clone() * difference).mean().into_scalar();
    mean.sqrt()
}

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

/// A solver of an equation: one of the [`SAMPLERS`], or PF.
#[derive(Clone, Copy, Debug)]
enum Contestant {
    Sampler(usize),
    Flow(f64),
}

impl Contestant {
    fn all() -> impl Iterator<Item = Self> {
        let samplers = (0..SAMPLERS.len()).map(Self::Sampler);
        samplers.chain(TOLERANCES.map(Self::Flow))
    }

    fn variant(self) -> Variant {
        match self {
            Self::Sampler(i) => SAMPLERS[i].0.clone(),
            Self::Flow(tolerance) => flow_variant(tolerance),
        }
    }
}

/// The distance of one solver to the reference.
#[derive(Serialize, Deserialize)]
enum Nearness {
    /// The order of convergence, if it is fitted, and the distance by the number of calls.
    Steps {
        order: Option<f64>,
        distances: Vec<(usize, f64)>,
    },
    /// The distance and the calls made.
    Adaptive { distance: f64, calls: usize },
}

/// The numbers of a tensor, exactly.
fn numbers<E: Element>(tensor: &Tensor<4>) -> Result<Vec<E>, ClaimError> {
    let values = tensor.to_data().try_to_vec::<E>();
    values.map_err(|e| ClaimError::experiment(format!("cannot read the reference: {e}")))
}

/// All solvers for each seed.
fn points(bench: &Bench<'_>) -> Vec<(usize, Contestant)> {
    let seeds = 0..bench.seeds().len();
    seeds
        .flat_map(|s| Contestant::all().map(move |solver| (s, solver)))
        .collect()
}

/// Records the results in the table.
fn record(
    bench: &Bench<'_>,
    points: &[(usize, Contestant)],
    found: Vec<Nearness>,
    task: fn(usize) -> Task,
    flow: &Task,
    table: &mut Table,
) -> Result<(), ClaimError> {
    for (&(s, solver), nearness) in points.iter().zip(found) {
        let (seed, variant) = (bench.seeds()[s], solver.variant());
        match nearness {
            Nearness::Steps { order, distances } => {
                if let Some(order) = order {
                    table.record(&ORDERS, &variant, &SLOPE, seed, order)?;
                }
                for (calls, distance) in distances {
                    table.record(&task(calls), &variant, &DISTANCE, seed, distance)?;
                }
            }
            Nearness::Adaptive { distance, calls } => {
                table.record(flow, &variant, &DISTANCE, seed, distance)?;
                table.record(flow, &variant, &CALLS_MADE, seed, calls as f64)?;
            }
        }
    }
    Ok(())
}

fn mixture(bench: &Bench<'_>, size: &Size, table: &mut Table) -> Result<(), ClaimError> {
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
    let points = points(bench);
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
                Contestant::Flow(tolerance) => {
                    let ends = [1000.0, END as f64];
                    let (found, calls) = flow(tolerance, &training, &model, &start, ends)?;
                    Ok(Nearness::Adaptive {
                        distance: distance(&found, &reference),
                        calls,
                    })
                }
            }
        },
    )?;
    record(bench, &points, found, mixture_task, &MIXTURE_FLOW, table)
}

fn prior(bench: &Bench<'_>, size: &Size, table: &mut Table) -> Result<(), ClaimError> {
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
            let model = equation.denoiser(enlarged);
            let heun = named("heun")?;
            let found = equation.solve(&heun, size.prior_reference, &model, &start)?;
            numbers::<f32>(&found)
        },
    )?;
    let points = points(bench);
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
            let model = equation.denoiser(enlarged);
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
                Contestant::Flow(tolerance) => {
                    let training = &equation.training;
                    let first = training.level(0);
                    let ends = [training.timestep(TOP), first.time()];
                    let (found, calls) = flow(tolerance, training, &model, &start, ends)?;
                    let picture =
                        Denoised::predict(&model, &found, first).map_err(ClaimError::experiment)?;
                    Ok(Nearness::Adaptive {
                        distance: distance(&picture.sample, &reference),
                        calls: calls + 1,
                    })
                }
            }
        },
    )?;
    record(bench, &points, found, prior_task, &PRIOR_FLOW, table)
}

/// The diffusion of the embedded prior in variance-preserving form.
struct Equation<'a> {
    prior: &'a SuperResolutionPrior,
    training: NoiseSchedule,
}

impl<'a> Equation<'a> {
    fn of(prior: &'a SuperResolutionPrior) -> Result<Self, ClaimError> {
        let schedule = prior.rddm().schedule();
        // Of the level of the same σ: scale of I_t in the variance-preserving form.
        let scale = |t: usize| (1.0 - schedule.residual_sum(t)).hypot(schedule.noise_std(t));
        let levels: Vec<Level> = (0..schedule.steps() - 1)
            .map(|t| {
                let alpha_bar = ((1.0 - schedule.residual_sum(t)) / scale(t)).powi(2);
                Level::variance_preserving(t as f64, alpha_bar)
            })
            .collect();
        let training = NoiseSchedule::from_levels(&levels, 1.0).map_err(ClaimError::experiment)?;
        Ok(Self { prior, training })
    }

    fn denoiser(&self, enlarged: &Tensor<4>) -> impl Denoiser {
        let rddm = self.prior.rddm();
        let schedule = rddm.schedule();
        let residual_sum_at = move |time: f64| {
            let below = (time.floor() as usize).min(schedule.steps() - 2);
            let weight = time - below as f64;
            (1.0 - weight) * schedule.residual_sum(below)
                + weight * schedule.residual_sum(below + 1)
        };
        let given = RddmInput::new(enlarged.clone());
        let predictor = self.prior.predictor(0);
        let enlarged = enlarged.clone();
        denoiser(Prediction::Sample, move |x: Tensor<4>, level: Level| {
            // Between two steps the input has the exact level, but the network is given the nearest step.
            let t = (level.time().round() as usize).min(schedule.steps() - 1);
            let pictures = x.dims()[0];
            let removed = residual_sum_at(level.time());
            let scale = (1.0 - removed) * 1.0_f64.hypot(level.sigma());
            let seen = x.clone() * scale + enlarged.clone() * removed;
            let outputs = rddm.outputs(&predictor, seen, &given, &vec![t; pictures])?;
            // The prior predicts only the residual.
            let residual = Tensor::cat(outputs, 0);
            Ok::<_, RddmError>(enlarged.clone() - residual)
        })
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

/// The headline is the abstract's: 50 steps are better than 1000 of DDIM.
fn checks(table: &Table, size: &Size) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    let steps = format!("{:?} steps", size.steps);
    for (variant, word, least, most) in [
        (DDIM, "first", 0.8, 1.3),
        (S_PNDM, "second", 1.8, f64::INFINITY),
        (F_PNDM, "second", 1.8, f64::INFINITY),
    ] {
        let order = table.mean(&ORDERS, &variant, &SLOPE)?;
        checks.push(Check::new(
            format!("{variant}: {word} order"),
            (least..=most).contains(&order),
            format!("order {order:.2} over {steps}"),
        ));
    }
    let few = table.mean(&mixture_task(FEW), &F_PNDM, &DISTANCE)?;
    let many = table.mean(&mixture_task(MANY), &DDIM, &DISTANCE)?;
    let check = Check::new(
        format!("mixture: F-PNDM in {FEW} calls is nearer to the reference than DDIM in {MANY}"),
        few < many,
        format!("{few:.2e} against {many:.2e}"),
    );
    checks.push(check.headline());
    for task in [mixture_task, prior_task] {
        for calls in [20, 40] {
            for other in [DDIM, FON] {
                checks.push(table.compare(&task(calls), &DISTANCE, &F_PNDM, &other)?);
            }
        }
    }
    Ok(checks)
}
