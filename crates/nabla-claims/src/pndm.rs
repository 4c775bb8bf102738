//! Pseudo numerical methods against DDIM and the other samplers: orders, and distance at equal calls.
//!
//! Two equations are solved. The first has an exact denoiser: a mixture of four Gaussians in the plane, in
//! `f64`, with the paper's linear schedule as a function of continuous time. There the orders of
//! convergence are fitted down to time 20 of 1000, where the equation is smooth: at the very end `σ` goes
//! as the root of the time. The reference is S-PNDM with 7680 steps.
//!
//! The second is the embedded super-resolution prior, an RDDM. What it diffuses,
//! `I_t = I_0 + ᾱ_t (I_in − I_0) + β̄_t ε`, is a variance-preserving diffusion of `I_0` in other clothes:
//! with `u = I_t − ᾱ_t I_in = (1 − ᾱ_t) I_0 + β̄_t ε`, `x = u / √((1 − ᾱ_t)² + β̄_t²)` has the noise level
//! `σ = β̄_t/(1 − ᾱ_t)`, and `I_in − I_res` is a prediction of the picture. So every sampler of the crate
//! runs on it, from the same noise at time 960 of 1000 (`σ = 60`); the reference is Heun's method with 960
//! steps (1919 calls), which is none of those compared at its own grid. What is measured is how well each
//! sampler solves the network's equation, not how good the pictures are.
//!
//! Calls of the network are counted, not steps: the start of F-PNDM costs 9 more than its steps.
//!
//! The paper's baseline PF, the probability-flow equation solved by Runge and Kutta's method with adaptive
//! steps ([`probability_flow`](nabla_diffusion::probability_flow)), cannot be given a number of calls. It
//! has tables of its own, with calls and distance for each tolerance (relative and absolute are the same,
//! as in the official code, whose own is `1e-5`); in the plot it stands where its calls put it. On the prior
//! it stops at the first training step, where one more call gives the picture; the last step of the others
//! leads there at once, from time 960/S.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_data::{PanoramaSet, Split};
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
use nabla_solve::rate_fit::power_rate;

use crate::claim::{Claim, ClaimContext, ClaimError, Paper};
use crate::measurement::{Check, Measurement, Metric, Table, Variant};
use crate::plot::{LinePlot, Series};

const F_PNDM: &str = "F-PNDM";
const S_PNDM: &str = "S-PNDM";
const PLMS: &str = "PLMS";
const FON: &str = "FON (classical fourth order)";
const DDIM: &str = "DDIM";
const HEUN: &str = "Heun";
const LMS: &str = "LMS";
const DPM: &str = "DPM-Solver++ 2M";
const DPM3: &str = "DPM-Solver++ 3M";
const SINGLE: &str = "DPM-Solver++ 2S";
const DEIS: &str = "DEIS";
const DPM2: &str = "DPM2";
const UNIPC: &str = "UniPC";
const PF: &str = "PF (RK45)";
/// Its tables.
const MIXTURE_FLOW: &str = "mixture, adaptive steps";
const PRIOR_FLOW: &str = "embedded prior, adaptive steps";

/// Those with a fixed number of steps.
const VARIANTS: [&str; 13] = [
    F_PNDM, S_PNDM, PLMS, FON, DDIM, HEUN, DPM2, LMS, DPM, DPM3, SINGLE, DEIS, UNIPC,
];

/// As many curves as can be told apart.
const DRAWN: [&str; 5] = [F_PNDM, S_PNDM, FON, DDIM, DPM];

const RATE: &str = "mixture, 10 to 320 steps";
const SLOPE: &str = "order of convergence";
const DISTANCE: &str = "distance from the reference";
const CALLS_MADE: &str = "calls of the network";

/// Relative and absolute, of PF.
const TOLERANCES: [f64; 5] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5];

/// Calls of DDIM that few calls of F-PNDM are held against.
const MANY: usize = 1000;
const FEW: usize = 50;

/// The time to which the mixture's orders are measured, and its grid's resolution per time step.
const END: usize = 20;
const FINE: usize = 16;
/// The prior's time to start from.
const TOP: usize = 960;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct PndmClaim;

impl Claim for PndmClaim {
    fn slug(&self) -> &str {
        "pndm"
    }

    fn paper(&self) -> Paper {
        Paper::new(
            "Pseudo Numerical Methods for Diffusion Models on Manifolds",
            "Liu et al.",
            2022,
            "2202.09778",
        )
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

    fn run(&self, context: &ClaimContext<'_>) -> Result<Measurement, ClaimError> {
        let size = if context.quick { QUICK } else { FULL };
        let groups = [RATE.to_owned(), mixture_group(FEW), mixture_group(MANY)]
            .into_iter()
            .chain(CALLS.iter().map(|&n| mixture_group(n)))
            .chain(CALLS.iter().map(|&n| prior_group(n)))
            .chain([MIXTURE_FLOW.to_owned(), PRIOR_FLOW.to_owned()]);
        let mut table = Table::new(
            &context.seeds,
            [
                Metric::informative(SLOPE, ""),
                Metric::lower(DISTANCE, ""),
                Metric::informative(CALLS_MADE, ""),
            ],
            VARIANTS
                .into_iter()
                .map(|name| match name {
                    F_PNDM | S_PNDM => Variant::method(name),
                    PLMS | FON => Variant::ablation(name),
                    _ => Variant::baseline(name),
                })
                .chain(TOLERANCES.map(|tolerance| Variant::baseline(flow_name(tolerance)))),
            groups,
        )?;
        for &seed in &context.seeds {
            mixture(context, &size, seed, &mut table)?;
        }
        for &seed in &context.seeds {
            prior(context, &size, seed, &mut table)?;
        }
        let checks = checks(&table, &size)?;
        let mut plot = LinePlot::new(
            "Embedded prior: distance from the reference (mean of the seeds)",
            "calls of the network",
            "root mean square distance",
        )
        .log_x()
        .log_y();
        for name in DRAWN {
            let points = CALLS.iter().filter_map(|&calls| {
                let mean = table.mean(&prior_group(calls), name, DISTANCE).ok()?;
                Some([calls as f64, mean])
            });
            plot = plot.with_series(Series::new(name, points));
        }
        let points = TOLERANCES.iter().filter_map(|&tolerance| {
            let name = flow_name(tolerance);
            let mean = |metric| table.mean(PRIOR_FLOW, &name, metric).ok();
            Some([mean(CALLS_MADE)?, mean(DISTANCE)?])
        });
        plot = plot.with_series(Series::new(PF, points));
        Ok(Measurement::new(table, checks).with_plot(plot).with_note(
            "Heun's method and DPM2 take two calls a step, so they have half as many steps, and at most \
             as many calls as the group says. F-PNDM and FON start at 13 calls. FON's derivative is a difference \
             over one training step, as in the official code, so that its error has a floor. The prior \
             predicts the picture, from which ε follows; it knows whole times only, so that between two of \
             them it is told the nearest, a jump that PF's steps have to pass.",
        ))
    }
}

/// Calls of the network that the samplers are compared at.
const CALLS: [usize; 4] = [5, 10, 20, 40];

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

fn mixture_group(calls: usize) -> String {
    format!("mixture, {calls} calls")
}

fn prior_group(calls: usize) -> String {
    format!("embedded prior, {calls} calls")
}

fn flow_name(tolerance: f64) -> String {
    format!("{PF}, tolerance {tolerance:e}")
}

fn sampler(name: &str) -> Result<Arc<dyn Solver>, ClaimError> {
    let registered = match name {
        F_PNDM => "pndm",
        S_PNDM => "s-pndm",
        PLMS => "plms",
        FON => return Ok(shared(Pndm::new().with_method(PndmMethod::Fon))),
        HEUN => "heun",
        LMS => "lms",
        DPM => "dpm++2m",
        // As its authors' code has it.
        DPM3 => {
            let third = DpmSolverMultistep::new().with_order(3);
            return Ok(shared(third.with_third_order(ThirdOrder::Diffusers)));
        }
        SINGLE => "dpm++2s",
        DEIS => "deis",
        DPM2 => "dpm2",
        UNIPC => "unipc",
        _ => "ddim",
    };
    samplers().get(registered).map_err(ClaimError::experiment)
}

/// The most steps that so many calls pay for, if that is enough for the sampler.
fn steps_for(solver: &dyn Solver, calls: usize) -> Option<usize> {
    (solver.least_steps()..=calls)
        .rev()
        .find(|&steps| solver.calls(steps) <= calls)
}

/// The levels at `steps` even steps of the time from `end` (not included) to `top`, rounded to the
/// training grid, of which `last` is the level that sampling ends at.
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
    // None of them draws noise on the way.
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

fn mixture(
    context: &ClaimContext<'_>,
    size: &Size,
    seed: u64,
    table: &mut Table,
) -> Result<(), ClaimError> {
    let stages = VARIANTS.len() as u64 + 2;
    context
        .progress
        .begin(&format!("mixture, seed {seed}"), stages);
    // Always on this machine's processor: the denoiser is computed here, in f64.
    let device = Device::flex();
    let training = continuous()?;
    let start = SeededNoise::new(seed, 0)
        .normal([size.points, 2, 1, 1], &device)
        .cast(DType::F64);
    let model = exact();
    let (end, top) = (END * FINE - 1, 1000 * FINE - 1);
    let last = training.alpha_bar(end);
    let solve = |solver: &Arc<dyn Solver>, steps| {
        let schedule = even(&training, end, top, steps, last)?;
        run(solver.clone(), schedule, &model, &start)
    };
    let reference = solve(&sampler(S_PNDM)?, size.reference)?;
    context.progress.advance(1);
    for name in VARIANTS {
        let solver = sampler(name)?;
        let errors = size
            .steps
            .iter()
            .map(|&steps| Ok((steps as f64, distance(&solve(&solver, steps)?, &reference))))
            .collect::<Result<Vec<_>, ClaimError>>()?;
        let slope = power_rate(errors).map_or(f64::NAN, |fit| -fit.rate);
        table.record(RATE, name, SLOPE, seed, slope)?;
        for calls in CALLS.into_iter().chain([FEW, MANY]) {
            if let Some(steps) = steps_for(solver.as_ref(), calls) {
                let error = distance(&solve(&solver, steps)?, &reference);
                table.record(&mixture_group(calls), name, DISTANCE, seed, error)?;
            }
        }
        context.progress.advance(1);
    }
    for tolerance in TOLERANCES {
        let ends = [1000.0, END as f64];
        let (found, calls) = flow(tolerance, &training, &model, &start, ends)?;
        let name = flow_name(tolerance);
        let error = distance(&found, &reference);
        table.record(MIXTURE_FLOW, &name, DISTANCE, seed, error)?;
        table.record(MIXTURE_FLOW, &name, CALLS_MADE, seed, calls as f64)?;
    }
    context.progress.advance(1);
    Ok(())
}

fn prior(
    context: &ClaimContext<'_>,
    size: &Size,
    seed: u64,
    table: &mut Table,
) -> Result<(), ClaimError> {
    let stages = VARIANTS.len() as u64 + 2;
    context
        .progress
        .begin(&format!("embedded prior, seed {seed}"), stages);
    let prior = SuperResolutionPrior::embedded(&context.device).map_err(ClaimError::experiment)?;
    let enlarged = enlarged(context, size, seed)?;
    let rddm = prior.rddm();
    let schedule = rddm.schedule();
    // Of the level of the same σ: scale of I_t in the variance-preserving form.
    let scale = |t: usize| (1.0 - schedule.residual_sum(t)).hypot(schedule.noise_std(t));
    let residual_sum_at = |time: f64| {
        let below = (time.floor() as usize).min(schedule.steps() - 2);
        let weight = time - below as f64;
        (1.0 - weight) * schedule.residual_sum(below) + weight * schedule.residual_sum(below + 1)
    };
    let levels: Vec<Level> = (0..schedule.steps() - 1)
        .map(|t| {
            let alpha_bar = ((1.0 - schedule.residual_sum(t)) / scale(t)).powi(2);
            Level::variance_preserving(t as f64, alpha_bar)
        })
        .collect();
    let training = NoiseSchedule::from_levels(&levels, 1.0).map_err(ClaimError::experiment)?;
    let given = RddmInput::new(enlarged.clone());
    let predictor = prior.predictor(0);
    let model = denoiser(Prediction::Sample, |x: Tensor<4>, level: Level| {
        // Between two steps the picture is made for the very level, and the network gets the nearest.
        let t = (level.time().round() as usize).min(schedule.steps() - 1);
        let pictures = x.dims()[0];
        let removed = residual_sum_at(level.time());
        let scale = (1.0 - removed) * 1.0_f64.hypot(level.sigma());
        let seen = x.clone() * scale + enlarged.clone() * removed;
        let outputs = rddm.outputs(&predictor, seen, &given, &vec![t; pictures])?;
        let residual = Tensor::cat(outputs, 0);
        Ok::<_, RddmError>(enlarged.clone() - residual)
    });
    let start = SeededNoise::new(seed, 1).normal(enlarged.dims(), &context.device);
    let solve = |solver: &Arc<dyn Solver>, steps| {
        let schedule = even(&training, 0, TOP, steps, 1.0)?;
        run(solver.clone(), schedule, &model, &start)
    };
    let reference = solve(&sampler(HEUN)?, size.prior_reference)?;
    context.progress.advance(1);
    for name in VARIANTS {
        let solver = sampler(name)?;
        for calls in CALLS {
            if let Some(steps) = steps_for(solver.as_ref(), calls) {
                let error = distance(&solve(&solver, steps)?, &reference);
                table.record(&prior_group(calls), name, DISTANCE, seed, error)?;
            }
        }
        context.progress.advance(1);
    }
    for tolerance in TOLERANCES {
        let first = training.level(0);
        let ends = [training.timestep(TOP), first.time()];
        let (found, calls) = flow(tolerance, &training, &model, &start, ends)?;
        let picture = Denoised::predict(&model, &found, first).map_err(ClaimError::experiment)?;
        let name = flow_name(tolerance);
        let error = distance(&picture.sample, &reference);
        table.record(PRIOR_FLOW, &name, DISTANCE, seed, error)?;
        table.record(PRIOR_FLOW, &name, CALLS_MADE, seed, calls as f64 + 1.0)?;
    }
    context.progress.advance(1);
    Ok(())
}

/// A held-out panorama, reduced by 4 and enlarged again: what the prior is given.
fn enlarged(context: &ClaimContext<'_>, size: &Size, seed: u64) -> Result<Tensor<4>, ClaimError> {
    let folder = context.assets.join("panoramas");
    let asset = |error: nabla_data::DataSetError| ClaimError::Asset {
        path: folder.clone(),
        reason: error.to_string(),
    };
    let set = PanoramaSet::open(&folder).map_err(asset)?;
    let names = set.names(Split::HeldOut);
    let Some(name) = names.get(seed as usize % names.len().max(1)) else {
        return Err(ClaimError::Asset {
            path: folder,
            reason: "it has no held-out panoramas".into(),
        });
    };
    let panorama = set.load(name).map_err(asset)?.raster;
    let resize = |picture, height| {
        resize_erp(picture, height, Interpolation::BICUBIC).map_err(ClaimError::experiment)
    };
    let low = to_8_bit(resize(&panorama, size.height / 4)?);
    Ok(to_tensor(&[resize(&low, size.height)?], &context.device) * 2.0 - 1.0)
}

fn checks(table: &Table, size: &Size) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    let steps = format!("{:?} steps", size.steps);
    for (name, least, most) in [
        (DDIM, 0.8, 1.3),
        (S_PNDM, 1.8, f64::INFINITY),
        (F_PNDM, 1.8, f64::INFINITY),
    ] {
        let order = table.mean(RATE, name, SLOPE)?;
        checks.push(Check::new(
            match name {
                DDIM => "DDIM: first order".to_owned(),
                _ => format!("{name}: second order"),
            },
            (least..=most).contains(&order),
            format!("order {order:.2} over {steps}"),
        ));
    }
    let few = table.mean(&mixture_group(FEW), F_PNDM, DISTANCE)?;
    let many = table.mean(&mixture_group(MANY), DDIM, DISTANCE)?;
    checks.push(Check::new(
        format!("mixture: F-PNDM in {FEW} calls is nearer to the reference than DDIM in {MANY}"),
        few < many,
        format!("{few:.2e} against {many:.2e}"),
    ));
    for group in [mixture_group, prior_group] {
        for calls in [20, 40] {
            for other in [DDIM, FON] {
                checks.push(table.compare(&group(calls), DISTANCE, F_PNDM, other)?);
            }
        }
    }
    Ok(checks)
}
