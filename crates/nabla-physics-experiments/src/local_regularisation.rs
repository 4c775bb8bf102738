//! Local regularisation: a penalty at one time of each solve, against none and against ERNODE's over all steps.
//!
//! The tasks are those of [`ernode`](crate::ernode): digits by a neural ODE and by a neural SDE, and series by a latent ODE. All
//! but ERNODE train with the interpolating adjoint, as in the paper. The weights are ERNODE's; the step is the solver's own, and
//! with the first step of a new solver, and the official code's gradient, for comparison.

use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant, median,
};
use nabla_physics::Adjoint;
use nabla_physics::ernode::{Heuristic, Reduction};
use nabla_physics::local_regularisation::Sampling;

use crate::comparison::{as_good, at_most, share};
use crate::regularisation::{
    BIASED, BIASED_STIFFNESS, GLOBAL, INITIAL, OFFICIAL, Regularisation, UNBIASED,
    UNBIASED_STIFFNESS, VANILLA,
};
use crate::training::{
    ACCURACY, EVALUATIONS, Outcome, PREDICTION, SQUARED_ERROR, TRAINING, TRAINING_EVALUATIONS,
};
use crate::{classification, latent_series};

const DIGITS: Task = Task::named("digits, neural ODE");
const DIGITS_SDE: Task = Task::named("digits, neural SDE");
const SERIES: Task = Task::named("series, latent ODE");
const ADJOINTS: Task = Task::named("digits, gradients of two adjoints");

const INTERPOLATING: Variant = Variant::method("interpolating adjoint");
const DIFFERENCE: Metric =
    Metric::lower("relative difference to the gradient through the steps", "");

/// What is trained in a task.
fn variants(task: &Task) -> Result<Vec<(Variant, Regularisation)>, ClaimError> {
    let local = |heuristic, sampling, weights| {
        Regularisation::local(heuristic, sampling, weights).map_err(ClaimError::experiment)
    };
    let global = |weights| Regularisation::global(Heuristic::Error, Reduction::Mean, weights);
    let (error, stiffness) = (Heuristic::Error, Heuristic::Stiffness);
    let (biased, unbiased) = (Sampling::Biased, Sampling::Unbiased);
    let vanilla = (VANILLA, Regularisation::NONE);
    Ok(if *task == DIGITS {
        let (weights, official) = ([100.0, 10.0], [2.5, 1.0]);
        vec![
            vanilla,
            (GLOBAL, global(weights)),
            (BIASED, local(error, biased, weights)?),
            (UNBIASED, local(error, unbiased, weights)?),
            (BIASED_STIFFNESS, local(stiffness, biased, [0.1; 2])?),
            (UNBIASED_STIFFNESS, local(stiffness, unbiased, [0.1; 2])?),
            (INITIAL, local(error, unbiased, weights)?.at_initial_step()),
            (OFFICIAL, local(error, unbiased, official)?.official()),
        ]
    } else if *task == SERIES {
        let weights = [1000.0, 100.0];
        vec![
            vanilla,
            (GLOBAL, global(weights)),
            (BIASED, local(error, biased, weights)?),
            (UNBIASED, local(error, unbiased, weights)?),
            (OFFICIAL, local(error, unbiased, [100.0, 10.0])?.official()),
        ]
    } else {
        // For stochastic equations the official code has the right gradient.
        vec![
            vanilla,
            (GLOBAL, global([10.0; 2])),
            (BIASED, local(error, biased, [10.0; 2])?),
            (UNBIASED, local(error, unbiased, [10.0; 2])?),
            (BIASED_STIFFNESS, local(stiffness, biased, [0.1; 2])?),
            (UNBIASED_STIFFNESS, local(stiffness, unbiased, [0.1; 2])?),
            (
                OFFICIAL,
                local(error, unbiased, [1000.0; 2])?.at_initial_step(),
            ),
        ]
    })
}

fn quality(task: &Task) -> Metric {
    if *task == SERIES {
        SQUARED_ERROR
    } else {
        ACCURACY
    }
}

fn trained(
    task: &Task,
    regularisation: &Regularisation,
    quick: bool,
    seed: u64,
) -> Result<Outcome, ClaimError> {
    let adjoint = Adjoint::Interpolating;
    if *task == DIGITS {
        let size = classification::Size::of_ode(quick);
        classification::ode(regularisation, adjoint, &size, seed)
    } else if *task == DIGITS_SDE {
        classification::sde(regularisation, &classification::Size::of_sde(quick), seed)
    } else {
        let size = latent_series::Size::new(quick);
        latent_series::latent_ode(regularisation, adjoint, &size, seed)
    }
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalRegularisationClaim;

impl Claim for LocalRegularisationClaim {
    fn slug(&self) -> &str {
        "local-regularisation"
    }

    fn statement(&self) -> &str {
        "A penalty on the solver's estimates at one time of each solve, drawn unbiased or biased, reduces the evaluations of \
         neural ODEs and SDEs to 0.556 to 0.733, and makes predictions 1.3 to 2 times faster, with any adjoint, and with a \
         quality close to that of the penalty on all steps."
    }

    fn criterion(&self) -> &str {
        "Digits, neural ODE, both samplings: in the median over the seeds, a prediction takes at most 0.75 of the evaluations of \
         the unregularised model, and in the mean at most 1/1.3 of its time; with biased sampling, the accuracy is at most one \
         point below that of the penalty on all steps. Digits, neural SDE, and series, latent ODE: with one of the samplings, at \
         most 0.75 of the evaluations. The gradients of the interpolating adjoint, with which all are trained, are those \
         through the steps to 1e-4. In detail: qualities of all; stiffness; the first step of a new solver; the official code."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let metrics = [
            EVALUATIONS,
            PREDICTION,
            TRAINING,
            TRAINING_EVALUATIONS,
            ACCURACY,
            SQUARED_ERROR,
            DIFFERENCE,
        ];
        let all = [
            VANILLA,
            GLOBAL,
            BIASED,
            UNBIASED,
            BIASED_STIFFNESS,
            UNBIASED_STIFFNESS,
            INITIAL,
            OFFICIAL,
            INTERPOLATING,
        ];
        let tasks = [DIGITS, SERIES, DIGITS_SDE];
        let all_tasks = tasks.iter().cloned().chain([ADJOINTS]);
        let mut table = Table::new(bench.seeds(), metrics, all, all_tasks)?;
        let quick = bench.quick();
        for task in tasks {
            let variants = variants(&task)?;
            let mut points = Vec::new();
            for (variant, regularisation) in &variants {
                let each = bench.seeds().iter();
                points.extend(each.map(|&seed| (variant.clone(), *regularisation, seed)));
            }
            let sizes = (
                classification::Size::of_ode(quick),
                classification::Size::of_sde(quick),
                latent_series::Size::new(quick),
            );
            let stage = Stage::new(task.name(), &(variants, sizes));
            let cell = |(variant, _, seed): &(Variant, Regularisation, u64)| {
                Cell::of(&task).variant(variant).seed(*seed)
            };
            let measure = |(_, regularisation, seed): &(Variant, Regularisation, u64)| {
                trained(&task, regularisation, quick, *seed)
            };
            // Headlines are about the times of this task.
            let found = match task == DIGITS {
                true => bench.measure(&stage, &points, cell, measure)?,
                false => bench.measure_side_by_side(&stage, &points, cell, measure)?,
            };
            for ((variant, _, seed), outcome) in points.iter().zip(found) {
                outcome.record(&mut table, &task, variant, &quality(&task), *seed)?;
            }
        }
        let differences = bench.measure(
            &Stage::new(ADJOINTS.name(), &()),
            bench.seeds(),
            |&seed| Cell::of(&ADJOINTS).seed(seed),
            |&seed| classification::difference_of_adjoints(seed),
        )?;
        for (&seed, difference) in bench.seeds().iter().zip(differences) {
            table.record(&ADJOINTS, &INTERPOLATING, &DIFFERENCE, seed, difference)?;
        }
        let checks = checks(&table)?;
        Ok(Measurement::new(table, checks)
            .with_note(
                "A prediction is the shortest of nine for one batch (512 digits, 100 series). The seconds of a training are the \
                 medians of its epochs' updates, times their number; digits by a neural ODE are trained one after the other, other tasks \
                 side by side. The penalty on all steps is trained through the steps, as \
                 it must be; the neural SDEs too.",
            )
            .with_note(
                "The official code holds the first slope of its step constant, for ordinary equations, so that its gradient is \
                 not that of its penalty; its weights are made for that. MNIST, Physionet and CIFAR-10 at their full size are \
                 not measured.",
            ))
    }
}

/// The headlines test the abstract: evaluations, time, quality, any adjoint, SDEs.
fn checks(table: &Table) -> Result<Vec<Check>, ClaimError> {
    let of_median = |task: &Task, variant: &Variant| -> Result<f64, ClaimError> {
        let of = |variant| table.values(task, variant, &EVALUATIONS);
        Ok(median(&of(variant)?) / median(&of(&VANILLA)?))
    };
    let mut checks = Vec::new();
    for variant in [BIASED, UNBIASED] {
        let found = of_median(&DIGITS, &variant)?;
        let (_, detail) = share(table, &DIGITS, &EVALUATIONS, &variant, &VANILLA)?;
        let text = format!(
            "{DIGITS}: {variant} takes at most 0.75 of the evaluations of {VANILLA} in the median"
        );
        let detail = format!("{found:.3} in the median; in the mean {detail}");
        checks.push(Check::new(text, found <= 0.75, detail).headline());
        let (found, detail) = share(table, &DIGITS, &PREDICTION, &variant, &VANILLA)?;
        let text = format!(
            "{DIGITS}: a prediction of {variant} is at least 1.3 times faster than of {VANILLA}"
        );
        checks.push(Check::new(text, found <= 1.0 / 1.3, detail).headline());
    }
    checks.push(as_good(table, &DIGITS, (&BIASED, &GLOBAL))?.headline());
    for task in [DIGITS_SDE, SERIES] {
        let [biased, unbiased] = [of_median(&task, &BIASED)?, of_median(&task, &UNBIASED)?];
        let text = format!(
            "{task}: one of the samplings takes at most 0.75 of the evaluations of {VANILLA} in the median"
        );
        let detail = format!("biased {biased:.3}, unbiased {unbiased:.3}");
        checks.push(Check::new(text, biased.min(unbiased) <= 0.75, detail).headline());
    }
    let difference = table.values(&ADJOINTS, &INTERPOLATING, &DIFFERENCE)?;
    let largest = difference.into_iter().fold(0.0, f64::max);
    checks.push(
        Check::new(
            "the interpolating adjoint has the gradient through the steps to 1e-4",
            largest < 1e-4,
            format!("at most {largest:.1e}"),
        )
        .headline(),
    );
    checks.push(as_good(table, &DIGITS, (&UNBIASED, &GLOBAL))?);
    for task in [DIGITS_SDE, SERIES] {
        for variant in [BIASED, UNBIASED] {
            checks.push(as_good(table, &task, (&variant, &GLOBAL))?);
        }
    }
    for task in [DIGITS, DIGITS_SDE, SERIES] {
        for variant in [BIASED_STIFFNESS, UNBIASED_STIFFNESS, INITIAL, OFFICIAL] {
            if table.has(&task, &variant, &EVALUATIONS) {
                checks.push(table.compare(&task, &EVALUATIONS, &variant, &VANILLA)?);
            }
        }
        for variant in [BIASED, UNBIASED] {
            checks.push(at_most(
                table,
                &task,
                &TRAINING,
                (&variant, &VANILLA),
                1.25,
            )?);
        }
    }
    Ok(checks)
}
