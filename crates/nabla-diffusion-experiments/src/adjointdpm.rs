//! AdjointDPM: numerical error of its gradients, memory, and its three uses on a learned model.
//!
//! The errors are those of models whose gradients are known, in `f64`: a Gaussian with five standard deviations from 1 to
//! 0.01, in closed form, and a mixture in eight dimensions, against a fine grid. The forms compared are the paper's,
//! `dy/dρ = ε`, and the equation in time; the gradients are the adjoint equation of the paper and the exact gradient of
//! the sampler. The memory is that of this process. The learned model is a perceptron of handwritten digits under their
//! classes, whose sampler takes 20 steps.
//!
//! The three uses, each with the same number of steps of Adam for all gradients:
//!
//! - *embedding*: from the mean of all conditions, find the one that turns a known noise into a given picture
//! - *weights*: tune all weights until the mean of the pixels has a given value
//! - *noise*: mislead a classifier by changing each number of the noise by at most 0.5
//!
//! Back-propagation through the whole sampler is the ceiling. The gradient of the estimate at the first step, and random
//! search, have as many calls of the network as the adjoint equation.

use nabla_base::rate_fit::power_rate;
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
};
use nabla_diffusion::adjoint_dpm::{AdjointDpm, FlowForm, GradientMode, OdeMethod};
use nabla_diffusion::level::Levels;
use nabla_diffusion::vp_path::VpPath;
use serde::{Deserialize, Serialize};

mod closed_form;
mod digit_network;
mod gradient;
mod learned;
mod memory;
mod training;

use crate::digits::Digits;
use closed_form::{Mixture, gaussian_error};
use gradient::Source;
use learned::{Losses, learned};

const RUNGE_KUTTA: OdeMethod = OdeMethod::RungeKutta4;

/// Of the Gaussian: the adjoint equation by Runge and Kutta's method.
const RHO: Variant = Variant::method("adjoint, in ρ");
const TIME: Variant = Variant::baseline("adjoint, in time");
/// Of the mixture.
const RHO_EULER: Variant = Variant::ablation("adjoint, in ρ, Euler");
const EXACT_EULER: Variant = Variant::ablation("exact gradient of the sampler, Euler");

/// Of the memory and the uses; the order of the uses' is that of [`learned::WAYS`].
const REINTEGRATED: Variant = Variant::method("AdjointDPM, states solved backwards");
const ADJOINT: Variant = Variant::method("AdjointDPM");
const EXACT: Variant = Variant::ablation("exact gradient, step by step");
const WHOLE: Variant = Variant::baseline("back-propagation through the sampler");
const ONE_STEP: Variant = Variant::baseline("gradient of the first estimate");
const RANDOM: Variant = Variant::baseline("random search");
const WAYS: [Variant; 5] = [ADJOINT, EXACT, WHOLE, ONE_STEP, RANDOM];
const KEEPERS: [(Variant, Source); 4] = [
    (REINTEGRATED, Source::StepByStep(GradientMode::Reintegrated)),
    (ADJOINT, Source::StepByStep(GradientMode::Adjoint)),
    (EXACT, Source::StepByStep(GradientMode::Exact)),
    (WHOLE, Source::Whole),
];

const ORDERS: Task = Task::named("Gaussian, 20 to 160 steps even in the log SNR");
const DIFFERENCES: Task = Task::named("mixture, finite differences");
const USES: [Task; 3] = [
    Task::named("embedding"),
    Task::named("weights"),
    Task::named("noise"),
];

const THINNEST: Metric = Metric::lower("gradient error in the direction of width 0.01", "");
const LARGEST: Metric = Metric::lower("largest gradient error", "");
const ORDER: Metric = Metric::informative("order of convergence", "");
const ERROR: Metric = Metric::lower("gradient error", "");
const PEAK: Metric = Metric::lower("peak memory", "MiB");
const REDUCTION: Metric = Metric::higher("reduction of the loss", "");

/// The steps of the Gaussian and the mixture, even in time.
const COUNTS: [usize; 4] = [10, 20, 50, 100];
/// Up to these, where steps are coarse, the paper's form must be better.
const COARSE: usize = 50;
const FINE_COUNTS: [usize; 4] = [20, 40, 80, 160];

/// Steps of the learned model's sampler.
const STEPS: usize = 20;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct AdjointDpmClaim;

impl Claim for AdjointDpmClaim {
    fn slug(&self) -> &str {
        "adjointdpm"
    }

    fn statement(&self) -> &str {
        "Gradients of any differentiable measure of finished samples with respect to conditions, weights and initial noise \
         follow from an adjoint equation, in memory that does not grow with the number of steps; written with exponential \
         integration, the equations are not stiff, which lowers the numerical error. It learns an effect as a text \
         embedding, tunes a model for a style, and finds noise that misleads a classifier."
    }

    fn criterion(&self) -> &str {
        "The adjoint gradient of a Gaussian by Runge and Kutta's method, on times evenly spaced: with 10, 20 and 50 steps \
         its error in the direction of width 0.01 is lower in ρ than in time. From 10 to 100 steps the peak memory of \
         back-propagation through the sampler grows at least fivefold, and that of AdjointDPM, with the states solved \
         backwards, by at most a fifth. On the learned digits, for the embedding, the weights and the noise, in at least \
         two of three seeds: AdjointDPM reduces the loss by at least 95 % of what back-propagation reduces it by, and by \
         more than the gradient of the first estimate and random search. In detail: both forms converge with at least \
         order 3.5 on steps even in the log SNR; the exact gradient is that of finite differences within 1e-6, and with \
         Euler's method nearer to the exact flow's than the adjoint equation."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let size = if bench.quick() { QUICK } else { FULL };
        let mut table = Table::new(
            bench.seeds(),
            [THINNEST, LARGEST, ORDER, ERROR, PEAK, REDUCTION],
            [RHO, TIME, RHO_EULER, EXACT_EULER, REINTEGRATED]
                .into_iter()
                .chain(WAYS),
            COUNTS
                .map(gaussian_task)
                .into_iter()
                .chain([ORDERS])
                .chain(COUNTS.map(mixture_task))
                .chain([DIFFERENCES])
                .chain(size.memory.iter().map(|&steps| memory_task(steps)))
                .chain(USES),
        )?;
        // First, while the process has little memory to use again.
        let told = memories(bench, &size, &mut table)?;
        gaussian(bench, &mut table)?;
        mixture(bench, &size, &mut table)?;
        let losses = uses(bench, &size, &mut table)?;
        let checks = checks(&table, &size, told)?;
        let starts: Vec<String> = USES
            .iter()
            .enumerate()
            .map(|(i, task)| {
                let each = losses
                    .iter()
                    .map(|of_seed| format!("{:.4}", of_seed[i].start));
                format!("{task} {}", each.collect::<Vec<_>>().join(", "))
            })
            .collect();
        let measurement = Measurement::new(table, checks).with_note(format!(
            "Losses at the start, for each seed: {}. {} steps of Adam.",
            starts.join("; "),
            size.iterations
        ));
        let measurement = match told {
            true => measurement,
            false => {
                measurement.with_note("This system does not tell the peak memory of a process.")
            }
        };
        Ok(measurement.with_note(
            "AdjointDPM is the adjoint equation solved with as many of Euler's steps as the sampler takes. Its gradient is not \
             that of the sampler, which the rows of the exact gradient have in the same memory: they differ most for the \
             noise, whose adjoint passes all steps. Not measured: Stable Diffusion, whose text embeddings and styles the \
             program can learn (`nabla tune`), a Gram matrix as the measure of style, and DOODL.",
        ))
    }
}

#[derive(Debug)]
struct Size {
    /// Steps for the mixture's truth.
    fine: usize,
    /// Steps of the sampler whose memory is measured; the ratio is of the last to the first.
    memory: &'static [usize],
    memory_rows: usize,
    /// Of the network and of the classifier.
    training: usize,
    classifier: usize,
    /// Digits at once, for weights and noise, and steps of Adam.
    rows: usize,
    iterations: usize,
}

const FULL: Size = Size {
    fine: 400,
    memory: &[10, 20, 50, 100],
    memory_rows: 1024,
    training: 8000,
    classifier: 500,
    rows: 20,
    iterations: 30,
};
const QUICK: Size = Size {
    fine: 60,
    memory: &[3, 6],
    memory_rows: 64,
    training: 60,
    classifier: 20,
    rows: 2,
    iterations: 2,
};

fn gaussian_task(steps: usize) -> Task {
    Task::of(format!("Gaussian, {steps} steps even in time"))
}

fn mixture_task(steps: usize) -> Task {
    Task::of(format!("mixture, {steps} steps even in time"))
}

fn memory_task(steps: usize) -> Task {
    Task::of(format!("memory, {steps} steps"))
}

fn even_in_time(steps: usize) -> Result<Levels, ClaimError> {
    VpPath::new()
        .even_in_time(steps)
        .map_err(ClaimError::experiment)
}

fn even_in_log_snr(steps: usize) -> Result<Levels, ClaimError> {
    VpPath::new()
        .even_in_log_snr(steps)
        .map_err(ClaimError::experiment)
}

/// Returns whether the system tells the memory.
fn memories(bench: &Bench<'_>, size: &Size, table: &mut Table) -> Result<bool, ClaimError> {
    let found = bench.measure(
        &Stage::new("memory", size),
        &KEEPERS,
        |(variant, _)| Cell::whole().variant(variant),
        |(_, source)| {
            let device = &bench.context().device;
            memory::peaks(*source, size.memory, size.memory_rows, device)
        },
    )?;
    let mut told = true;
    for ((variant, _), peaks) in KEEPERS.iter().zip(found) {
        let Some(peaks) = peaks else {
            told = false;
            continue;
        };
        for (&steps, peak) in size.memory.iter().zip(peaks) {
            table.record_for_every_seed(&memory_task(steps), variant, &PEAK, peak)?;
        }
    }
    Ok(told)
}

/// The errors have no randomness.
fn gaussian(bench: &Bench<'_>, table: &mut Table) -> Result<(), ClaimError> {
    let forms = [(RHO, FlowForm::Rho), (TIME, FlowForm::Time)];
    let errors = bench.measure(
        &Stage::new("Gaussian", &(COUNTS, FINE_COUNTS)),
        &forms,
        |(variant, _)| Cell::whole().variant(variant),
        |(_, form)| {
            let adjoint = AdjointDpm {
                method: RUNGE_KUTTA,
                form: *form,
                mode: GradientMode::Adjoint,
            };
            let coarse = COUNTS.map(|steps| gaussian_error(adjoint, &even_in_time(steps)?));
            let fine = FINE_COUNTS.map(|steps| gaussian_error(adjoint, &even_in_log_snr(steps)?));
            let coarse = coarse.into_iter().collect::<Result<Vec<_>, ClaimError>>()?;
            let fine = fine.into_iter().collect::<Result<Vec<_>, ClaimError>>()?;
            Ok((coarse, fine))
        },
    )?;
    for ((variant, _), (coarse, fine)) in forms.iter().zip(errors) {
        for (steps, error) in COUNTS.into_iter().zip(coarse) {
            let task = gaussian_task(steps);
            table.record_for_every_seed(&task, variant, &THINNEST, error.thinnest)?;
            table.record_for_every_seed(&task, variant, &LARGEST, error.largest)?;
        }
        let fine = fine.iter().map(|error| error.largest);
        let errors = FINE_COUNTS.into_iter().map(|steps| steps as f64).zip(fine);
        let order = power_rate(errors).map_or(f64::NAN, |fit| -fit.rate);
        table.record_for_every_seed(&ORDERS, variant, &ORDER, order)?;
    }
    Ok(())
}

/// The errors of one mixture.
#[derive(Debug, Serialize, Deserialize)]
struct MixtureErrors {
    /// For each of [`COUNTS`]: the adjoint equation in ρ by Runge and Kutta's method and by Euler's, the exact gradient of
    /// Euler's.
    errors: Vec<[f64; 3]>,
    difference: f64,
}

fn mixture(bench: &Bench<'_>, size: &Size, table: &mut Table) -> Result<(), ClaimError> {
    let found = bench.measure_side_by_side(
        &Stage::new("mixture", size),
        bench.seeds(),
        |&seed| Cell::whole().seed(seed),
        |&seed| {
            let mixture = Mixture::drawn(seed, size.fine)?;
            let adjoint = AdjointDpm::new().with_mode(GradientMode::Adjoint);
            let errors = COUNTS.map(|steps| {
                let levels = even_in_time(steps)?;
                Ok([
                    mixture.error(adjoint.with_method(RUNGE_KUTTA), &levels)?,
                    mixture.error(adjoint, &levels)?,
                    mixture.error(AdjointDpm::new(), &levels)?,
                ])
            });
            Ok(MixtureErrors {
                errors: errors.into_iter().collect::<Result<_, ClaimError>>()?,
                difference: mixture.difference(&even_in_time(STEPS)?, seed)?,
            })
        },
    )?;
    for (&seed, found) in bench.seeds().iter().zip(found) {
        for (steps, errors) in COUNTS.into_iter().zip(found.errors) {
            for (variant, error) in [RHO, RHO_EULER, EXACT_EULER].iter().zip(errors) {
                table.record(&mixture_task(steps), variant, &ERROR, seed, error)?;
            }
        }
        table.record(&DIFFERENCES, &EXACT_EULER, &ERROR, seed, found.difference)?;
    }
    Ok(())
}

fn uses(bench: &Bench<'_>, size: &Size, table: &mut Table) -> Result<Vec<[Losses; 3]>, ClaimError> {
    let digits = Digits::load()?;
    let found = bench.measure(
        &Stage::new("the three uses", size),
        bench.seeds(),
        |&seed| {
            let cell = Cell::whole().seed(seed);
            cell.steps((size.training + size.classifier) as u64)
        },
        |&seed| learned(bench, size, &digits, seed),
    )?;
    for (&seed, losses) in bench.seeds().iter().zip(&found) {
        for (task, losses) in USES.iter().zip(losses) {
            for (variant, least) in WAYS.iter().zip(&losses.least) {
                let reduction = losses.start - least;
                table.record(task, variant, &REDUCTION, seed, reduction)?;
            }
        }
    }
    Ok(found)
}

/// The share of the ceiling's reduction that AdjointDPM must reach.
const SHARE: f64 = 0.95;

/// - `told`: whether the memory is known
fn checks(table: &Table, size: &Size, told: bool) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    for steps in COUNTS.into_iter().filter(|&steps| steps <= COARSE) {
        let task = gaussian_task(steps);
        checks.push(table.compare(&task, &THINNEST, &RHO, &TIME)?.headline());
    }
    if told {
        let (first, last) = (size.memory[0], size.memory[size.memory.len() - 1]);
        let ratio = |variant: &Variant| -> Result<[f64; 2], ClaimError> {
            let [low, high] = [first, last].map(memory_task);
            Ok([
                table.mean(&low, variant, &PEAK)?,
                table.mean(&high, variant, &PEAK)?,
            ])
        };
        for (variant, text, fits) in [
            (
                WHOLE,
                "at least fivefold",
                (|low, high| high >= 5.0 * low) as fn(f64, f64) -> bool,
            ),
            (REINTEGRATED, "by at most a fifth", |low, high| {
                high <= 1.2 * low
            }),
        ] {
            let [low, high] = ratio(&variant)?;
            let check = Check::new(
                format!("memory of {variant} from {first} to {last} steps grows {text}"),
                fits(low, high),
                format!("{low:.1} MiB, {high:.1} MiB"),
            );
            checks.push(check.headline());
        }
    }
    for task in USES {
        checks.extend(of_use(table, &task)?);
    }
    for variant in [RHO, TIME] {
        let order = table.mean(&ORDERS, &variant, &ORDER)?;
        checks.push(Check::new(
            format!("{ORDERS}, {variant}: order of at least 3.5"),
            order >= 3.5,
            format!("{order:.2}"),
        ));
    }
    let difference = table.mean(&DIFFERENCES, &EXACT_EULER, &ERROR)?;
    checks.push(Check::new(
        "mixture: the exact gradient is that of finite differences within 1e-6",
        difference <= 1e-6,
        format!("{difference:.1e}"),
    ));
    for steps in COUNTS {
        let task = mixture_task(steps);
        checks.push(table.compare(&task, &ERROR, &EXACT_EULER, &RHO_EULER)?);
    }
    Ok(checks)
}

/// AdjointDPM against the others, seed by seed.
fn of_use(table: &Table, task: &Task) -> Result<Vec<Check>, ClaimError> {
    let ours = table.values(task, &ADJOINT, &REDUCTION)?;
    let mut checks = Vec::new();
    for other in [WHOLE, ONE_STEP, RANDOM] {
        let theirs = table.values(task, &other, &REDUCTION)?;
        let ceiling = other == WHOLE;
        let text = match ceiling {
            true => "at least 95 % of the reduction of",
            false => "a larger reduction than",
        };
        let pairs = ours.iter().zip(&theirs);
        let held = pairs.clone().filter(|&(a, b)| match ceiling {
            true => *a >= SHARE * b,
            false => a > b,
        });
        let held = held.count();
        let each: Vec<String> = pairs.map(|(a, b)| format!("{a:.4} and {b:.4}")).collect();
        let check = Check::new(
            format!("{task}: {ADJOINT} has {text} {other} in two of three seeds"),
            3 * held >= 2 * ours.len(),
            each.join(", "),
        );
        checks.push(check.headline());
    }
    Ok(checks)
}
