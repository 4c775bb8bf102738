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
//! 1000 (`σ = 60`). The reference is Heun's method with 960 steps (1919 calls). Of the compared samplers, only
//! DDIM uses the same grid, where it takes all 960 steps, which are its 1000 here. The experiment measures how
//! well each sampler solves the network's equation, not how good the pictures are.
//!
//! The abstract counts steps: 50 of F-PNDM against 1000 and 250 of DDIM. These runs have separate tables.
//! Everywhere else, calls of the network are counted: the start of F-PNDM needs 9 calls more than it has
//! steps, so its 50 steps are 59 calls, and 50 calls are 41 steps.
//!
//! The paper's baseline PF, the probability-flow equation solved by Runge and Kutta's method with adaptive
//! steps ([`probability_flow`](nabla_diffusion::probability_flow)), does not take a number of calls. It has
//! its own tables, with calls and distance for each tolerance (relative and absolute tolerance are equal, as
//! in the official code, which uses `1e-5`); in the plot it is placed by its calls. On the prior it stops at
//! the first training step, where one more call gives the picture; the others reach the picture directly with
//! their last step, from time 960/S.

use std::sync::Arc;

use burn::tensor::{DType, Element, Tensor};
use nabla_claims::{
    Bench, Claim, ClaimError, LinePlot, Measurement, Metric, Role, Series, Table, Task, Variant,
};
use nabla_diffusion::denoiser::Denoiser;
use nabla_diffusion::dpm_solver_multistep::{DpmSolverMultistep, ThirdOrder};
use nabla_diffusion::level::Level;
use nabla_diffusion::pndm::{Pndm, PndmMethod};
use nabla_diffusion::probability_flow::ProbabilityFlow;
use nabla_diffusion::sampler::{Sampler, Sampling, Solver, samplers, shared};
use nabla_diffusion::schedule::NoiseSchedule;
use nabla_diffusion::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

mod checks;
mod mixture;
mod prior;

use checks::checks;
use mixture::mixture;
use prior::prior;

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

const F_PNDM_50: Variant = Variant::method("F-PNDM, 50 steps (59 calls)");
const F_PNDM_41: Variant = Variant::method("F-PNDM, 41 steps (50 calls)");
const DDIM_250: Variant = Variant::baseline("DDIM, 250 steps");
const DDIM_1000: Variant = Variant::baseline("DDIM, 1000 steps");
/// All steps, because the prior's run begins at [`TOP`].
const DDIM_ALL: Variant = Variant::baseline("DDIM, all 960 steps");

/// A sampler with a given number of steps.
#[derive(Debug)]
struct Counted {
    variant: Variant,
    make: Make,
    steps: usize,
}

const fn counted(variant: Variant, make: Make, steps: usize) -> Counted {
    Counted {
        variant,
        make,
        steps,
    }
}

/// The numbers of steps in the abstract, and F-PNDM with 50 calls instead of 50 steps.
static MIXTURE_RUNS: [Counted; 4] = [
    counted(F_PNDM_50, || named("pndm"), 50),
    counted(F_PNDM_41, || named("pndm"), 41),
    counted(DDIM_250, || named("ddim"), 250),
    counted(DDIM_1000, || named("ddim"), 1000),
];
static PRIOR_RUNS: [Counted; 4] = [
    counted(F_PNDM_50, || named("pndm"), 50),
    counted(F_PNDM_41, || named("pndm"), 41),
    counted(DDIM_250, || named("ddim"), 250),
    counted(DDIM_ALL, || named("ddim"), TOP),
];

/// The tables of these runs.
const MIXTURE_STEPS: Task = Task::named("mixture, the steps of the abstract");
const PRIOR_STEPS: Task = Task::named("embedded prior, the steps of the abstract");

/// As many curves as can be distinguished.
const DRAWN: [Variant; 5] = [F_PNDM, S_PNDM, FON, DDIM, DPM];

const ORDERS: Task = Task::named("mixture, 10 to 320 steps");
const SLOPE: Metric = Metric::informative("order of convergence", "");
const DISTANCE: Metric = Metric::lower("distance from the reference", "");
const CALLS_MADE: Metric = Metric::informative("calls of the network", "");

/// The relative and absolute tolerances of PF.
const TOLERANCES: [f64; 5] = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5];

/// The numbers of calls of the mixture's network at which all samplers are compared too.
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

    /// Version 2: F-PNDM takes the abstract's 50 steps, and DDIM takes the abstract's 1000 and 250.
    fn version(&self) -> u32 {
        2
    }

    fn statement(&self) -> &str {
        "Pseudo numerical methods, which follow DDIM's curved step instead of a straight line, are better \
         with 50 steps than DDIM with 1000 (20 times fewer), and with 250. In detail: they converge with \
         the second order, and the classical fourth-order method is worse at as many calls of the network."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds, on the mixture with the exact denoiser and on the embedded prior: F-PNDM with \
         50 steps (59 calls) is nearer to the reference than DDIM with 1000 steps (on the prior 960, which \
         are all from where the run begins) and with 250. In detail: with 41 steps (50 calls) it is nearer \
         than DDIM with 1000; at 20 and 40 calls it is nearer than DDIM, and than FON. On the mixture \
         DDIM's order lies in [0.8, 1.3], those of S-PNDM and F-PNDM are at least 1.8."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let size = if bench.quick() { QUICK } else { FULL };
        let tasks = [ORDERS, mixture_task(FEW), mixture_task(MANY)]
            .into_iter()
            .chain(CALLS.iter().map(|&n| mixture_task(n)))
            .chain(CALLS.iter().map(|&n| prior_task(n)))
            .chain([MIXTURE_FLOW, PRIOR_FLOW]);
        let tasks = [MIXTURE_STEPS, PRIOR_STEPS].into_iter().chain(tasks);
        let mut table = Table::new(
            bench.seeds(),
            [SLOPE, DISTANCE, CALLS_MADE],
            SAMPLERS
                .iter()
                .map(|(variant, _)| variant.clone())
                .chain([F_PNDM_50, F_PNDM_41, DDIM_250, DDIM_1000, DDIM_ALL])
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
        let measurement = Measurement::new(table, checks).with_plot(plot).with_note(
            "Heun's method and DPM2 take two calls a step, so they have half as many steps, and at most \
             as many calls as the group says. F-PNDM and FON start at 13 calls. FON's derivative is a difference \
             over one training step, as in the official code, so that its error has a floor. The prior \
             predicts the picture, from which ε follows; it knows whole times only, so that between two of \
             them it is given the nearest, a jump that PF's steps have to pass.",
        );
        let measurement = measurement.with_note(
            "The prior's run begins at time 960 of 1000, so that DDIM has 960 steps at most, one for each \
             time. The reference there, Heun's method, has the same 960 times.",
        );
        Ok(measurement.with_note(
            "Not measured: the quality of generated pictures (FID), for which the distance from the exact \
             solution of the same equation stands; other variance schedules than one for each of the two \
             equations; the paper's own pictures and networks (CIFAR-10, CelebA, LSUN).",
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

/// A solver of an equation: one of the [`SAMPLERS`], one with a given number of steps, or PF.
#[derive(Clone, Copy, Debug)]
enum Contestant {
    Sampler(usize),
    Counted(&'static Counted),
    Flow(f64),
}

impl Contestant {
    fn all(counted: &'static [Counted]) -> impl Iterator<Item = Self> {
        let samplers = (0..SAMPLERS.len()).map(Self::Sampler);
        let counted = counted.iter().map(Self::Counted);
        samplers.chain(counted).chain(TOLERANCES.map(Self::Flow))
    }

    fn variant(self) -> Variant {
        match self {
            Self::Sampler(i) => SAMPLERS[i].0.clone(),
            Self::Counted(counted) => counted.variant.clone(),
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
    /// The distance and the calls of the only run.
    Once { distance: f64, calls: usize },
}

/// The numbers of a tensor, exactly.
fn numbers<E: Element>(tensor: &Tensor<4>) -> Result<Vec<E>, ClaimError> {
    let values = tensor.to_data().try_to_vec::<E>();
    values.map_err(|e| ClaimError::experiment(format!("cannot read the reference: {e}")))
}

/// All solvers for each seed.
fn points(bench: &Bench<'_>, counted: &'static [Counted]) -> Vec<(usize, Contestant)> {
    let seeds = 0..bench.seeds().len();
    seeds
        .flat_map(|s| Contestant::all(counted).map(move |solver| (s, solver)))
        .collect()
}

/// Records the results in the table.
///
/// - `task`: the task for a number of calls
/// - `steps`, `flow`: the tasks of the solvers with a given number of steps, and of PF
fn record(
    bench: &Bench<'_>,
    points: &[(usize, Contestant)],
    found: Vec<Nearness>,
    task: fn(usize) -> Task,
    [steps, flow]: [&Task; 2],
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
            Nearness::Once { distance, calls } => {
                let task = match solver {
                    Contestant::Flow(_) => flow,
                    _ => steps,
                };
                table.record(task, &variant, &DISTANCE, seed, distance)?;
                table.record(task, &variant, &CALLS_MADE, seed, calls as f64)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of a row gives the steps and calls of its run.
    #[test]
    fn the_names_of_runs_are_their_steps_and_calls() {
        for runs in [&MIXTURE_RUNS, &PRIOR_RUNS] {
            for run in runs {
                let steps = format!("{} steps", run.steps);
                let name = run.variant.name();
                assert!(name.contains(&steps), "{name}");
                let calls = (run.make)().unwrap().calls(run.steps);
                match calls == run.steps {
                    true => assert!(!name.contains("calls"), "{name}"),
                    false => assert!(name.contains(&format!("({calls} calls)")), "{name}"),
                }
            }
        }
        let pndm = named("pndm").unwrap();
        assert_eq!(steps_for(pndm.as_ref(), FEW), Some(41));
    }
}
