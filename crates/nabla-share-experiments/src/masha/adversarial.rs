//! Adversarial training of a network that classifies the digits, as a saddle point of four workers.
//!
//! ```text
//! min_w max_{‖ρ_i‖ ≤ r} (1/N) Σ_i (CE(w; x_i + ρ_i, c_i) − β/2 ‖ρ_i‖²) + λ/2 ‖w‖²
//! ```
//!
//! Every example has a perturbation in a ball of its own. A perturbation belongs to the worker that has the example, and
//! is sent to nobody; what travels are the 2410 numbers of the weights. Each worker has two shards of sorted classes. A
//! perturbation moves by its own example's slope, not divided by the number of examples: its scale is chosen so.
//!
//! A model is tested under perturbations that are best against it, found by projected ascent in steps of a fixed length.
//! Who takes no part in an iteration moves its perturbations all the same, which costs no message.
//! Each method is looked at twice: when its workers have sent a quarter of the bits that those of extragradient send, and
//! when they have sent and received as many together.

use std::cell::RefCell;
use std::ops::ControlFlow;

use nabla_base::vector::{add_scaled, norm};
use nabla_claims::{Bench, Cell, Check, ClaimError, Metric, Stage, Table, Task, Variant};
use nabla_data::digits;
use nabla_grad::SeededNoise;
use nabla_grad::compressor::{Compressor, RandK, TopK};
use nabla_share::masha::extragradient::{Extragradient, Lookahead};
use nabla_share::masha::{
    Masha1, Masha2, MashaError, OneProcess, Operator, Problem, Progress, Schedule, Sent, Uplink,
};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::classifier::{self, Examples, PIXELS, WEIGHTS};
use super::{
    ACCURACY, BOTH, DOWN, EXTRAGRADIENT, HALF_OF_WORKERS, ITERATIONS, PERM_K, QUARTER_OF_WORKERS,
    RAND_K, RAND_K_BOTH, ROBUST, TOP_K, TOP_K_BOTH, UP, participants,
};

/// One exchange in an iteration, of whole vectors.
pub(super) const OPTIMISTIC: Variant = Variant::baseline("optimistic");
pub(super) const COMPRESSED: [Variant; 7] = [
    RAND_K,
    PERM_K,
    RAND_K_BOTH,
    HALF_OF_WORKERS,
    QUARTER_OF_WORKERS,
    TOP_K,
    TOP_K_BOTH,
];
const PLAIN: [Variant; 2] = [EXTRAGRADIENT, OPTIMISTIC];

pub(super) const QUARTER: Task = Task::named("adversarial training, a quarter of the bits sent");
pub(super) const EQUAL: Task = Task::named("adversarial training, equal bits both ways");

const WORKERS: usize = 4;
/// `r`, of pictures whose norms are about 4. It was chosen, as the scale of the perturbations, so that extragradient
/// trains well with one seed, before any other method was run.
const RADIUS: f64 = 0.5;
/// `λ`.
const DECAY: f64 = 1e-4;
/// `β`.
const CONCAVITY: f64 = 1e-2;
/// The step of a perturbation over that of the weights.
const OWN_SCALE: f64 = 10.0;
const TRAINING: usize = 1200;

/// A model on its way.
#[derive(Clone, Serialize, Deserialize)]
struct Seen {
    /// Thousands of bits per worker.
    up: f64,
    down: f64,
    iterations: f64,
    /// Of the training examples under attack, in percent.
    robust_in_training: f64,
    accuracy: f64,
    robust: f64,
}

impl Seen {
    /// Nothing is right of a model that is not finite.
    fn of(iterations: usize, w: &[f64], sent: Sent, training: &Examples, test: &Examples) -> Self {
        let kilobits = |bits: u64| bits as f64 / 1000.0 / WORKERS as f64;
        let plain = vec![0.0; test.pixels.len()];
        Self {
            up: kilobits(sent.up.bits),
            down: kilobits(sent.down.bits),
            iterations: iterations as f64,
            robust_in_training: training.accuracy(w, &attack(w, training)),
            accuracy: test.accuracy(w, &plain),
            robust: test.accuracy(w, &attack(w, test)),
        }
    }
}

/// Both looks at a training; none if it failed before.
#[derive(Serialize, Deserialize)]
struct Trained {
    quarter: Option<Seen>,
    equal: Option<Seen>,
}

/// The examples of every worker, all of them, and those to test with.
struct Split {
    workers: Vec<Examples>,
    training: Examples,
    test: Examples,
}

impl Split {
    fn draw(seed: u64) -> Result<Self, ClaimError> {
        let all = digits().map_err(ClaimError::experiment)?;
        let class = |index: usize| usize::from(all.labels()[index]);
        let chosen = |indices: &[usize]| {
            let white = f64::from(all.white());
            let pixels = indices.iter().flat_map(|&index| all.pixels(index));
            Examples {
                pixels: pixels.map(|&p| f64::from(p) / white).collect(),
                classes: indices.iter().map(|&index| class(index)).collect(),
            }
        };
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.shuffle(&mut SeededNoise::new(seed, 5));
        let (training, test) = order.split_at(TRAINING);
        let mut sorted = training.to_vec();
        sorted.sort_by_key(|&index| class(index));
        let mut shards: Vec<&[usize]> = sorted.chunks(TRAINING / WORKERS / 2).collect();
        shards.shuffle(&mut SeededNoise::new(seed, 6));
        Ok(Self {
            workers: shards.chunks(2).map(|two| chosen(&two.concat())).collect(),
            training: chosen(training),
            test: chosen(test),
        })
    }
}

/// `F_m` at the weights and the perturbations of its worker, `[64, n]`.
fn operator(own: &Examples, z: &[f64]) -> Vec<f64> {
    let (w, perturbations) = z.split_at(WEIGHTS);
    let slopes = own.slopes(w, perturbations);
    let mut value = slopes.by_weights;
    add_scaled(&mut value, DECAY, w);
    let pixels = slopes.by_pixels.iter().zip(perturbations);
    value.extend(pixels.map(|(slope, rho)| OWN_SCALE * (CONCAVITY * rho - slope)));
    value
}

/// Onto the balls.
fn project(perturbations: &mut [f64]) {
    for rho in perturbations.as_chunks_mut::<PIXELS>().0 {
        let factor = RADIUS / norm(rho).max(RADIUS);
        rho.iter_mut().for_each(|rho| *rho *= factor);
    }
}

/// The perturbations of projected ascent, in steps of a tenth of the radius along each example's slope.
fn attack(w: &[f64], examples: &Examples) -> Vec<f64> {
    let mut perturbations = vec![0.0; examples.pixels.len()];
    for _ in 0..20 {
        let slopes = examples.slopes(w, &perturbations).by_pixels;
        let pairs = perturbations.as_chunks_mut::<PIXELS>().0.iter_mut();
        for (rho, slope) in pairs.zip(slopes.as_chunks::<PIXELS>().0) {
            add_scaled(rho, 0.1 * RADIUS / norm(slope).max(1e-300), slope);
        }
        project(&mut perturbations);
    }
    perturbations
}

/// `iterations` are those of extragradient, whose bits are the measure for all.
fn train(
    variant: &Variant,
    step: f64,
    iterations: usize,
    seed: u64,
) -> Result<Trained, ClaimError> {
    let split = Split::draw(seed)?;
    let operators = split.workers.iter().map(|own| {
        let still = vec![0.0; own.pixels.len()];
        Operator::new(move |z: &[f64]| operator(own, z)).with_own(still)
    });
    let problem = Problem::new(WEIGHTS, operators.collect()).map_err(ClaimError::experiment)?;
    let problem = problem.with_own_prox(|_, perturbations| project(perturbations));

    // Two vectors of 32 bits an iteration, in each direction.
    let whole = (iterations * 2 * 32 * WEIGHTS * WORKERS) as u64;
    let looks: RefCell<[Option<Seen>; 2]> = RefCell::default();
    let observe = |progress: Progress<'_>| {
        let Sent { up, down } = progress.sent;
        let due = [up.bits >= whole / 4, up.bits + down.bits >= 2 * whole];
        let mut looks = looks.borrow_mut();
        for (look, due) in looks.iter_mut().zip(due) {
            if due && look.is_none() {
                let Progress { z, iteration, .. } = progress;
                let (training, test) = (&split.training, &split.test);
                *look = Some(Seen::of(iteration + 1, z, progress.sent, training, test));
            }
        }
        match looks.iter().all(Option::is_some) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let found = run(variant, step, seed, &problem, observe);
    match found {
        // Steps that are too long are a part of the grid.
        Ok(())
        | Err(
            MashaError::NotFinite { .. } | MashaError::Compressor(_) | MashaError::ErrorFeedback(_),
        ) => {}
        Err(error) => return Err(ClaimError::experiment(error)),
    }
    let [quarter, equal] = looks.into_inner();
    Ok(Trained { quarter, equal })
}

fn run(
    variant: &Variant,
    step: f64,
    seed: u64,
    problem: &Problem<'_>,
    observe: impl FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<(), MashaError> {
    let start = classifier::start(seed);
    let mut network = OneProcess::new(WORKERS);
    if PLAIN.contains(variant) {
        let method = Extragradient {
            lookahead: match *variant == OPTIMISTIC {
                true => Lookahead::Optimistic,
                false => Lookahead::Extragradient,
            },
            step,
            iterations: usize::MAX,
            ..Extragradient::default()
        };
        method.run(problem, &start, &mut network, observe)?;
        return Ok(());
    }
    let rand = |share: usize| -> Result<Box<dyn Compressor>, MashaError> {
        Ok(Box::new(RandK::new(WEIGHTS / share)?))
    };
    let top = |share: usize| -> Result<Box<dyn Compressor>, MashaError> {
        Ok(Box::new(TopK::new(WEIGHTS / share)?))
    };
    let participants = participants(variant, WORKERS);
    let asked = participants.unwrap_or(WORKERS) as f64 / WORKERS as f64;
    let schedule = Schedule {
        step,
        // A snapshot once in as many iterations as make its cost that of the differences.
        snapshot_probability: match *variant == PERM_K {
            true => 1.0 / WORKERS as f64,
            false => 0.1 * asked,
        },
        iterations: usize::MAX,
        seed,
        ..Schedule::default()
    };
    if *variant == TOP_K || *variant == TOP_K_BOTH {
        let masha = Masha2 {
            downlink: if *variant == TOP_K {
                None
            } else {
                Some(top(5)?)
            },
            schedule,
            ..Masha2::new(top(10)?)
        };
        masha.run(problem, &start, &mut network, observe)?;
        return Ok(());
    }
    let both = *variant == RAND_K_BOTH;
    let uplink = match *variant == PERM_K {
        true => Uplink::PermK,
        false => Uplink::Independent(rand(10)?),
    };
    let masha = Masha1 {
        downlink: if both { Some(rand(2)?) } else { None },
        participants,
        schedule,
        ..Masha1::new(uplink)
    };
    masha.run(problem, &start, &mut network, observe)?;
    Ok(())
}

/// Trains with every step of a grid, and takes for each look the one that is best under attack on the training examples.
/// Returns what to note.
pub(super) fn measure(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<String, ClaimError> {
    let (iterations, steps): (usize, &[f64]) = match bench.quick() {
        true => (6, &[0.2]),
        false => (250, &[0.2, 0.3, 0.4, 0.5, 0.6]),
    };
    let mut points = Vec::new();
    for variant in PLAIN.into_iter().chain(COMPRESSED) {
        for &step in steps {
            let seeds = bench.seeds().iter();
            points.extend(seeds.map(|&seed| (variant.clone(), step, seed)));
        }
    }
    let problem = (WORKERS, RADIUS, DECAY, CONCAVITY, OWN_SCALE);
    let found = bench.measure_side_by_side(
        &Stage::new("adversarial training", &(iterations, problem)),
        &points,
        |(variant, step, seed)| {
            let cell = Cell::of(&EQUAL).variant(variant).seed(*seed);
            cell.part(format!("γ = {step}"))
        },
        |(variant, step, seed)| train(variant, *step, iterations, *seed),
    )?;
    let mut told = Vec::new();
    for (task, look) in [
        (
            &QUARTER,
            (|run| run.quarter.as_ref()) as fn(&Trained) -> Option<&Seen>,
        ),
        (&EQUAL, |run| run.equal.as_ref()),
    ] {
        let mut chosen = Vec::new();
        for variant in PLAIN.into_iter().chain(COMPRESSED) {
            let own: Vec<_> = points
                .iter()
                .zip(&found)
                .filter(|((v, ..), _)| *v == variant)
                .map(|((_, step, seed), run)| (*step, *seed, look(run)))
                .collect();
            let total = |runs: &[(f64, u64, Option<&Seen>)]| -> f64 {
                let each = runs.iter().map(|(_, _, seen)| {
                    seen.map_or(f64::NEG_INFINITY, |seen| seen.robust_in_training)
                });
                each.sum()
            };
            let settings = own.chunks(bench.seeds().len());
            let best = settings.max_by(|a, b| total(a).total_cmp(&total(b)));
            let best = best.ok_or_else(|| ClaimError::experiment("no step was tried"))?;
            for (_, seed, seen) in best {
                let seen = seen
                    .ok_or_else(|| ClaimError::experiment("a training diverged at every step"))?;
                for (metric, value) in [
                    (UP, seen.up),
                    (DOWN, seen.down),
                    (BOTH, seen.up + seen.down),
                    (ITERATIONS, seen.iterations),
                    (ACCURACY, seen.accuracy),
                    (ROBUST, seen.robust),
                ] {
                    table.record(task, &variant, &metric, *seed, value)?;
                }
            }
            chosen.push(format!("{variant} {}", best[0].0));
        }
        told.push(format!("{}: {}", task.name(), chosen.join(", ")));
    }
    for variant in [
        RAND_K,
        PERM_K,
        TOP_K,
        RAND_K_BOTH,
        TOP_K_BOTH,
        HALF_OF_WORKERS,
        QUARTER_OF_WORKERS,
    ] {
        let check = close(table, &variant, &QUARTER, "a quarter of the bits sent")?;
        // Chosen before measuring: the uplink alone is what the methods compress first.
        let headline = [RAND_K, PERM_K, TOP_K].contains(&variant);
        checks.push(if headline { check.headline() } else { check });
    }
    for variant in COMPRESSED {
        checks.push(close(table, &variant, &EQUAL, "equal bits both ways")?);
    }
    Ok(format!("Steps γ of the training: {}.", told.join("; ")))
}

/// At most 1 point below the better uncompressed method with all its bits.
fn close(table: &Table, variant: &Variant, task: &Task, with: &str) -> Result<Check, ClaimError> {
    let metric: &Metric = &ROBUST;
    let own = table.mean(task, variant, metric)?;
    let mut best = f64::NEG_INFINITY;
    for plain in &PLAIN {
        best = best.max(table.mean(&EQUAL, plain, metric)?);
    }
    Ok(Check::new(
        format!(
            "adversarial training, {with}: the accuracy under attack with {variant} is at most 1 point lower than with \
             the better of extragradient and the optimistic method with all their bits"
        ),
        own >= best - 1.0,
        format!("{own:.1} % against {best:.1} %"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_under_attack_helps_against_attacks() {
        let split = Split::draw(1).unwrap();
        assert_eq!(
            split.workers.iter().map(Examples::len).sum::<usize>(),
            TRAINING
        );
        let equal = |variant: &Variant| train(variant, 0.4, 60, 1).unwrap().equal.unwrap();
        let found = equal(&EXTRAGRADIENT);
        assert!(found.robust < found.accuracy && found.accuracy > 70.0);
        assert!(found.robust_in_training > 30.0);
    }

    #[test]
    fn perturbations_are_projected_and_attacks_raise_the_loss() {
        let split = Split::draw(2).unwrap();
        let w = classifier::start(2);
        let found = attack(&w, &split.test);
        let longest = found.as_chunks::<PIXELS>().0.iter().map(|rho| norm(rho));
        assert!(longest.fold(0.0, f64::max) <= RADIUS * (1.0 + 1e-12));
        let plain = vec![0.0; found.len()];
        assert!(split.test.accuracy(&w, &found) < split.test.accuracy(&w, &plain));
    }

    #[test]
    fn a_step_that_is_far_too_long_has_no_looks_but_is_no_error() {
        let found = train(&TOP_K, 1e30, 5, 0).unwrap();
        let nothing = |seen: Option<Seen>| seen.is_none_or(|seen| seen.robust < 30.0);
        assert!(nothing(found.quarter) && nothing(found.equal));
    }
}
