//! ERNODE: penalties on errors and stiffness against no regularisation, STEER, TayNODE and the kinetic energy.
//!
//! All train the same network from the same weights with the same batches.
//!
//! * **Digits** by a neural ODE (64 states, 32 units, the time appended to both layers), tolerance 1.4e-8, and by a neural SDE
//!   (SOSRI, tolerance 0.14).
//! * **Series** by a latent ODE, observed now and then.
//! * **Spiral**: a neural SDE with the moments of another.
//! * **Van der Pol's oscillator**, a stiff equation.
//!
//! The weights are those of the official code where it has the task, with its mean over the steps.

use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
};
use nabla_physics::Adjoint;
use nabla_physics::ernode::{Heuristic, Reduction};

use crate::comparison::{as_good, at_most, share};
use crate::regularisation::{
    BOTH, ERROR, ERROR_SUM, KINETIC, Regularisation, STEER, STIFFNESS, TAYNODE, VANILLA,
};
use crate::training::{
    ACCURACY, EVALUATIONS, Outcome, PREDICTION, SQUARED_ERROR, TRAINING, TRAINING_EVALUATIONS,
};
use crate::{classification, latent_series, spiral, stiff};

const DIGITS: Task = Task::named("digits, neural ODE");
const DIGITS_SDE: Task = Task::named("digits, neural SDE");
const SERIES: Task = Task::named("series, latent ODE");
const SPIRAL: Task = Task::named("spiral, neural SDE");
const STIFF: Task = Task::named("van der Pol, neural ODE");

const ODES: [Task; 3] = [DIGITS, SERIES, STIFF];
const SDES: [Task; 2] = [DIGITS_SDE, SPIRAL];

/// What is trained in a task.
fn variants(task: &Task) -> Vec<(Variant, Regularisation)> {
    let global = Regularisation::global;
    let (mean, max, sum) = (Reduction::Mean, Reduction::Max, Reduction::Sum);
    let vanilla = (VANILLA, Regularisation::NONE);
    if *task == DIGITS {
        vec![
            vanilla,
            (STEER, Regularisation::STEER),
            (TAYNODE, Regularisation::derivative(2, 0.01)),
            (KINETIC, Regularisation::derivative(1, 0.01)),
            (ERROR, global(Heuristic::Error, mean, [100.0, 10.0])),
            // By the ten steps or so of a solve.
            (ERROR_SUM, global(Heuristic::Error, sum, [10.0, 1.0])),
            (STIFFNESS, global(Heuristic::Stiffness, max, [0.1; 2])),
            (BOTH, global(Heuristic::Both, mean, [10.0; 2])),
        ]
    } else if *task == SERIES {
        vec![
            vanilla,
            (STEER, Regularisation::STEER),
            (KINETIC, Regularisation::derivative(1, 0.01)),
            (ERROR, global(Heuristic::Error, mean, [1000.0, 100.0])),
            (STIFFNESS, global(Heuristic::Stiffness, max, [10.0; 2])),
            (BOTH, global(Heuristic::Both, mean, [10.0; 2])),
        ]
    } else if *task == STIFF {
        vec![
            vanilla,
            (ERROR, global(Heuristic::Error, mean, [1.0, 0.1])),
            (STIFFNESS, global(Heuristic::Stiffness, mean, [1e-3; 2])),
            (BOTH, global(Heuristic::Both, mean, [1e-2; 2])),
        ]
    } else if *task == DIGITS_SDE {
        vec![
            vanilla,
            (ERROR, global(Heuristic::Error, mean, [10.0; 2])),
            (STIFFNESS, global(Heuristic::Stiffness, mean, [0.1; 2])),
        ]
    } else {
        vec![
            vanilla,
            (ERROR, global(Heuristic::Error, sum, [0.2; 2])),
            (STIFFNESS, global(Heuristic::Stiffness, mean, [0.1; 2])),
        ]
    }
}

fn quality(task: &Task) -> Metric {
    match *task == DIGITS || *task == DIGITS_SDE {
        true => ACCURACY,
        false => SQUARED_ERROR,
    }
}

fn trained(
    task: &Task,
    regularisation: &Regularisation,
    quick: bool,
    seed: u64,
) -> Result<Outcome, ClaimError> {
    let adjoint = Adjoint::default();
    if *task == DIGITS {
        let size = classification::Size::of_ode(quick);
        classification::ode(regularisation, adjoint, &size, seed)
    } else if *task == DIGITS_SDE {
        classification::sde(regularisation, &classification::Size::of_sde(quick), seed)
    } else if *task == SERIES {
        let size = latent_series::Size::new(quick);
        latent_series::latent_ode(regularisation, adjoint, &size, seed)
    } else if *task == SPIRAL {
        spiral::sde(regularisation, &spiral::Size::new(quick), seed)
    } else {
        stiff::ode(regularisation, &stiff::Size::new(quick), seed)
    }
}

fn budget(task: &Task, quick: bool) -> String {
    let ode = classification::Size::of_ode(quick);
    let sde = classification::Size::of_sde(quick);
    let series = latent_series::Size::new(quick);
    let (spiral, stiff) = (spiral::Size::new(quick), stiff::Size::new(quick));
    format!(
        "{:?} {ode:?} {sde:?} {series:?} {spiral:?} {stiff:?}",
        variants(task)
    )
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct ErnodeClaim;

impl Claim for ErnodeClaim {
    fn slug(&self) -> &str {
        "ernode"
    }

    fn statement(&self) -> &str {
        "A penalty on the error and stiffness estimates of the solver halves the prediction time of neural ODEs. Other \
         methods make training slower, some by an order of magnitude; this one makes it as much faster. Neural SDEs gain too."
    }

    fn criterion(&self) -> &str {
        "Digits, neural ODE, penalty on errors: a prediction takes at most half of the evaluations and at most half of the \
         time of the unregularised model; training takes no more time; the test accuracy is at most one point lower. Digits, \
         neural SDE, penalty on errors: fewer evaluations, and an accuracy at most one point lower. In detail: the same for \
         series, spiral and van der Pol (a test error of at most 1.5 of the unregularised one); penalties on stiffness and on \
         both; STEER, the kinetic energy, and TayNODE, whose training takes at least five times as long."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let metrics = [
            EVALUATIONS,
            PREDICTION,
            TRAINING,
            TRAINING_EVALUATIONS,
            ACCURACY,
            SQUARED_ERROR,
        ];
        let all = [
            VANILLA, STEER, TAYNODE, KINETIC, ERROR, ERROR_SUM, STIFFNESS, BOTH,
        ];
        let tasks = ODES.into_iter().chain(SDES);
        let mut table = Table::new(bench.seeds(), metrics, all, tasks.clone())?;
        for task in tasks {
            let mut points = Vec::new();
            for (variant, regularisation) in variants(&task) {
                let each = bench.seeds().iter();
                points.extend(each.map(|&seed| (variant.clone(), regularisation, seed)));
            }
            let quick = bench.quick();
            let stage = Stage::new(task.name(), &budget(&task, quick));
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
        let checks = checks(&table)?;
        Ok(Measurement::new(table, checks)
            .with_note(
                "A prediction is the shortest of nine for one batch (512 digits, 100 series, 100 paths, 64 pieces). The \
                 seconds of a training are the medians of its epochs' updates, times their number; digits by a neural \
                 ODE are trained one after the other, other tasks side by side. Evaluations of TayNODE count those by which it finds derivatives.",
            )
            .with_note(
                "The official code trains the latent ODE with AdaMax, here it is Adam with the same rate. Its penalty on \
                 stiffness counts an entry before the first step, which takes the gradient away; it is left out. MNIST, \
                 Physionet and FFJORD at their full size are not measured.",
            ))
    }
}

/// The headlines test the abstract: prediction halved, training not slower, SDEs too.
fn checks(table: &Table) -> Result<Vec<Check>, ClaimError> {
    let pair = (&ERROR, &VANILLA);
    let mut checks = vec![
        at_most(table, &DIGITS, &EVALUATIONS, pair, 0.5)?.headline(),
        at_most(table, &DIGITS, &PREDICTION, pair, 0.5)?.headline(),
        at_most(table, &DIGITS, &TRAINING, pair, 1.0)?.headline(),
        as_good(table, &DIGITS, pair)?.headline(),
        table
            .compare(&DIGITS_SDE, &EVALUATIONS, &ERROR, &VANILLA)?
            .headline(),
        as_good(table, &DIGITS_SDE, pair)?.headline(),
    ];
    for task in [SERIES, STIFF, SPIRAL] {
        checks.push(table.compare(&task, &EVALUATIONS, &ERROR, &VANILLA)?);
        checks.push(at_most(table, &task, &TRAINING, pair, 1.0)?);
        checks.push(as_good(table, &task, pair)?);
    }
    for task in ODES.into_iter().chain(SDES) {
        for variant in [STIFFNESS, BOTH, ERROR_SUM] {
            if table.has(&task, &variant, &EVALUATIONS) {
                checks.push(table.compare(&task, &EVALUATIONS, &variant, &VANILLA)?);
            }
        }
    }
    for (task, theirs) in [
        (DIGITS, STEER),
        (DIGITS, TAYNODE),
        (DIGITS, KINETIC),
        (SERIES, STEER),
        (SERIES, KINETIC),
    ] {
        checks.push(table.compare(&task, &EVALUATIONS, &ERROR, &theirs)?);
    }
    let (times, detail) = share(table, &DIGITS, &TRAINING, &TAYNODE, &VANILLA)?;
    checks.push(Check::new(
        format!("{DIGITS}: training by TayNODE takes at least five times as long as by {VANILLA}"),
        times >= 5.0,
        detail,
    ));
    Ok(checks)
}
