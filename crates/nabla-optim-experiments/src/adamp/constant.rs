//! The network at a constant rate, with its kernels observed.

use nabla_base::vector::norm;
use nabla_claims::{Bench, Cell, Check, ClaimError, LinePlot, Series, Stage, Table};
use nabla_train::classification::TrainingConfig;
use nabla_train::cnn::Cnn;
use nabla_train::schedule::{Decay, Schedule};
use serde::{Deserialize, Serialize};

use super::{CONSTANT, NORM, PAIRS, TURN, for_every_seed};
use crate::training_contest::{Contest, Entrant, Trained, kernels, mean_of_kernels};
use crate::trajectory::angle;

/// A training with its kernels observed.
#[derive(Serialize, Deserialize)]
struct Watched {
    trained: Trained,
    /// The mean turn per step of the last epoch, in milliradians.
    turn: f64,
    /// The norm relative to its initial value, at each step.
    growth: Vec<f64>,
}

impl Watched {
    fn of(
        bench: &Bench<'_>,
        contest: &Contest,
        training: TrainingConfig,
        entrant: &Entrant,
        seed: u64,
    ) -> Result<Self, ClaimError> {
        let mut first = Vec::new();
        let mut before: Vec<Vec<f64>> = Vec::new();
        let mut growth = Vec::new();
        let mut turns = Vec::new();
        let mut watch = |model: &Cnn| {
            let now = kernels(model)?;
            if growth.is_empty() {
                first = now.clone();
            } else {
                turns.push(mean_of_kernels(&before, &now, angle));
            }
            growth.push(mean_of_kernels(&first, &now, |a, b| norm(b) / norm(a)));
            before = now;
            Ok(())
        };
        let trained = contest.train(
            bench.context(),
            training,
            &entrant.optimizer,
            // The customary rate, not the middle of the search.
            entrant.optimizer.method.learning_rate(),
            seed,
            &mut watch,
        )?;
        let last = &turns[turns.len().saturating_sub(contest.steps_per_epoch())..];
        Ok(Self {
            turn: 1e3 * last.iter().sum::<f64>() / last.len() as f64,
            trained,
            growth,
        })
    }
}

pub(super) fn constant(
    bench: &Bench<'_>,
    contest: &Contest,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<LinePlot, ClaimError> {
    let training = TrainingConfig {
        schedule: Schedule {
            decay: Decay::Constant,
            ..Schedule::default()
        },
        ..contest.training().clone()
    };
    let entrants = contest.entrants().iter();
    let points: Vec<(&Entrant, u64)> = entrants
        .flat_map(|entrant| bench.seeds().iter().map(move |&seed| (entrant, seed)))
        .collect();
    let found = bench.measure(
        &Stage::new(CONSTANT.name(), contest.comparison()),
        &points,
        |(entrant, seed)| Cell::of(&CONSTANT).variant(&entrant.variant).seed(*seed),
        |&(entrant, seed)| Watched::of(bench, contest, training.clone(), entrant, seed),
    )?;
    let mut plot = LinePlot::new(
        "Network at the customary constant rate: kernels",
        "step",
        "‖w‖ over that at first (mean of the kernels)",
    );
    for (&(entrant, seed), watched) in points.iter().zip(found) {
        let variant = &entrant.variant;
        let rate = entrant.optimizer.method.learning_rate();
        watched
            .trained
            .record(table, &CONSTANT, variant, rate, seed)?;
        let end = watched.growth.last().copied().unwrap_or(f64::NAN);
        table.record(&CONSTANT, variant, &TURN, seed, watched.turn)?;
        table.record(&CONSTANT, variant, &NORM, seed, end)?;
        if bench.seeds().first() == Some(&seed) {
            let curve = watched.growth.iter().enumerate();
            let curve = curve.map(|(t, g)| [t as f64, *g]);
            plot = plot.with_series(Series::new(variant.name(), curve));
        }
    }
    for metric in [NORM, TURN] {
        for (method, baseline) in PAIRS {
            let check = for_every_seed(table, &CONSTANT, &metric, &method, &baseline)?;
            // The abstract calls the angle by which a step turns the kernels the effective step.
            checks.push(check.headline_if(metric == TURN));
        }
    }
    Ok(plot)
}
