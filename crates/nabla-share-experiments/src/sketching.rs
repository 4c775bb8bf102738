//! Sketched federated averaging: bytes to a loss, privacy, and what leaks.
//!
//! * **Bytes.** Softmax regression on Fashion-MNIST of 14 × 14 pixels, 1970 weights, ten clients with two shards of
//!   sorted classes each, whole local losses, until the training loss is 0.62. Every variant has the best step of one grid.
//!   The same on features without any direction that counts more than another, where theory says that the traffic in
//!   all is not less.
//! * **Privacy.** The same regression with noise for a budget per example, 1e-5 being `δ`; each client draws its
//!   examples. The best step of a grid.
//! * **Leak.** The gradient of one picture by a network of 196, 32 and 10 units, sketched to `s` numbers; the attack
//!   knows weights, matrix and label (`sketching/leak.rs`).

use std::ops::ControlFlow;
use std::time::Duration;

use nabla_base::vector::norm;
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Role, Series, Stage,
    Table, Task, Variant,
};
use nabla_grad::{DrawnSketch, LinearSketch, SeededNoise, SketchFamily};
use nabla_private::accountant::calibrate::noise_multiplier;
use nabla_private::accountant::{History, accountants};
use nabla_private::dp_sgd::DpSgd;
use nabla_private::private_sketch::{NoiseSpace, PrivateSketch};
use nabla_private::secret_noise::NoiseKey;
use nabla_share::communicator::{Communicator, threads};
use nabla_share::sketching::{
    Client, LocalDescent, LocalLoss, Matrices, SketchedAveraging, SketchingError, SketchingState,
};
use serde::{Deserialize, Serialize};

mod leak;
mod regression;

use leak::recovered;
use regression::{CLIENTS, PrivateClient, Regression, WEIGHTS};

const NONE: Variant = Variant::baseline("no sketch");
const SRHT: Variant = Variant::method("SRHT");
const COUNT: Variant = Variant::method("count sketch");
const SPARSE: Variant = Variant::method("sparse, 4 blocks");
const GAUSSIAN: Variant = Variant::method("Gaussian");
const AMS: Variant = Variant::method("AMS");
const LONG: Variant = Variant::method("SRHT, s = 512");
const SHORT: Variant = Variant::method("count sketch, s = 32");
const FIXED: Variant = Variant::baseline("SRHT, one matrix");
const IN_SKETCH: Variant = Variant::method("SRHT, noise in the sketch");
/// With 128 numbers and a new matrix in every round.
const FAMILIES: [Variant; 5] = [SRHT, COUNT, SPARSE, GAUSSIAN, AMS];

const ONE_STEP: Task = Task::named("Fashion-MNIST, 1 local step");
const FIVE_STEPS: Task = Task::named("Fashion-MNIST, 5 local steps");
const ISOTROPIC: Task = Task::named("isotropic features");
const BUDGETS: [(Task, f64); 2] = [
    (Task::named("Fashion-MNIST, ε = 8"), 8.0),
    (Task::named("Fashion-MNIST, ε = 2"), 2.0),
];
const LEAK: Task = Task::named("leak of one picture, 196 pixels");

const ROUNDS: Metric = Metric::informative("rounds", "");
const UP: Metric = Metric::lower("sent by a client", "kB");
const DOWN: Metric = Metric::lower("received by a client", "kB");
const LOSS: Metric = Metric::lower("loss at the end", "");
const RECOVERED: Metric = Metric::informative("picture recovered", "dB");

const LENGTH: usize = 128;
const TARGET: f64 = 0.62;
const DELTA: f64 = 1e-5;
const LIMIT: Duration = Duration::from_secs(600);

/// What is attacked: the variant, the numbers of the sketch (all of them, if none), and the noise as a share of the
/// sketch's length.
fn attacks() -> Vec<(Variant, Option<usize>, f64)> {
    let sketch = |s: usize| (attacked(s), Some(s), 0.0);
    let noisy = |percent: u32| {
        let name = format!("s = 600, noise of {percent} %");
        (
            Variant::of(Role::Method, name),
            Some(600),
            f64::from(percent) / 100.0,
        )
    };
    let mut all = vec![(NONE, None, 0.0)];
    all.extend([600, 300, 150, 60].map(sketch));
    all.extend([1, 10, 100].map(noisy));
    all
}

fn attacked(s: usize) -> Variant {
    Variant::of(Role::Method, format!("SRHT, s = {s}, attacked"))
}

const PRIVATE_LEAK: Variant = Variant::method("s = 600, private by ε = 8");

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct SketchingClaim;

impl Claim for SketchingClaim {
    fn slug(&self) -> &str {
        "sketching"
    }

    fn statement(&self) -> &str {
        "Sketches save communication in federated first-order methods while convergence is guaranteed; the gradients leak \
         through them, as an attack shows; noise makes them differentially private, and they stay communication-efficient."
    }

    fn criterion(&self) -> &str {
        "By the seeds' mean, each variant at the best step of a grid. Bytes: with each of five families and 128 numbers \
         instead of 1970, a client sends and receives less until the loss is 0.62 than without a sketch, with 1 local \
         step; with the Hadamard transform and the count sketch also with 5. Leak: a picture of 196 pixels is recovered \
         above 40 dB from 300 numbers. Privacy: at ε = 8 the loss with a sketch is at most 1.1 times that of private \
         training without one, with noise in the parameters and with noise in the sketch, and a private sketch is \
         recovered below 20 dB. In detail: at most 0.12 times the bytes are sent and 1.25 times the rounds are needed; \
         one matrix for all rounds misses the loss; on isotropic features the sketches save nothing (at least 0.8 times \
         the bytes); below 150 numbers the picture stays below 20 dB; ε = 2 also costs at most 1.1 times the loss."
    }

    fn version(&self) -> u32 {
        2
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let mut variants = vec![NONE];
        variants.extend(FAMILIES);
        variants.extend([LONG, SHORT, FIXED, IN_SKETCH]);
        variants.extend(attacks().into_iter().skip(1).map(|(variant, ..)| variant));
        variants.push(PRIVATE_LEAK);
        let tasks = [ONE_STEP, FIVE_STEPS, ISOTROPIC];
        let tasks = tasks
            .into_iter()
            .chain(BUDGETS.map(|(task, _)| task))
            .chain([LEAK]);
        let metrics = [ROUNDS, UP, DOWN, LOSS, RECOVERED];
        let mut table = Table::new(bench.seeds(), metrics, variants, tasks)?;
        let mut checks = Vec::new();
        let (plot, steps) = bytes(bench, &mut table, &mut checks)?;
        privacy(bench, &mut table, &mut checks)?;
        leaks(bench, &mut table, &mut checks)?;
        Ok(Measurement::new(table, checks)
            .with_plot(plot)
            .with_note(steps)
            .with_note(
                "Bytes are those of the messages: 4 for a number, and 34 for the round and the identity of the matrix. \
                 A run that does not reach the loss has infinitely many.",
            )
            .with_note(
                "Noise in the parameters is lengthened by the sketch and its transpose as a gradient is, to 1 + (d − 1)/s \
                 times its energy or so; noise in the sketch is not, so that it is the better form.",
            )
            .with_note("A recovery of 60 dB is the most that is told: the picture is exact."))
    }
}

/// The method of a variant, for so many weights.
fn method(variant: &Variant, seed: u64) -> SketchedAveraging {
    let (family, length) = match variant {
        v if *v == NONE => (SketchFamily::Identity, WEIGHTS),
        v if *v == COUNT => (SketchFamily::Count, LENGTH),
        v if *v == SHORT => (SketchFamily::Count, 32),
        v if *v == SPARSE => (SketchFamily::Sparse { blocks: 4 }, LENGTH),
        v if *v == GAUSSIAN => (SketchFamily::Gaussian, LENGTH),
        v if *v == AMS => (SketchFamily::Ams, LENGTH),
        v if *v == LONG => (SketchFamily::Srht, 512),
        _ => (SketchFamily::Srht, LENGTH),
    };
    SketchedAveraging {
        family,
        length,
        seed,
        matrices: match *variant == FIXED {
            true => Matrices::Fixed,
            false => Matrices::Fresh,
        },
        ..SketchedAveraging::default()
    }
}

/// The end of a training.
#[derive(Clone, Serialize, Deserialize)]
struct Trained {
    /// Whether the loss was reached.
    reached: bool,
    rounds: f64,
    /// Kilobytes of a client.
    up: f64,
    down: f64,
    loss: f64,
    /// Kilobytes sent, and the loss.
    curve: Vec<[f64; 2]>,
}

impl Trained {
    /// Infinite if the loss was not reached.
    fn cost(&self, amount: f64) -> f64 {
        if self.reached { amount } else { f64::INFINITY }
    }
}

/// Trains on as many threads as there are clients, until the target or the last round.
fn train<K: Client>(
    data: &Regression,
    method: &SketchedAveraging,
    target: f64,
    rounds: u64,
    client: impl Fn(usize) -> K + Sync,
) -> Result<Trained, ClaimError> {
    let found = threads::run(CLIENTS, LIMIT, |ranks| -> Result<_, SketchingError> {
        let mut trained = Trained {
            reached: false,
            rounds: 0.0,
            up: 0.0,
            down: 0.0,
            loss: f64::INFINITY,
            curve: Vec::new(),
        };
        let mut client = client(ranks.rank());
        let mut state = SketchingState::new(vec![0.0; WEIGHTS]);
        method.run(ranks, &mut client, &mut state, rounds, |seen| {
            if seen.rounds % 5 != 0 && seen.rounds != rounds {
                return ControlFlow::Continue(());
            }
            trained.loss = data.loss(seen.weights);
            trained.rounds = seen.rounds as f64;
            [trained.up, trained.down] = [seen.up, seen.down].map(|bytes| bytes as f64 / 1000.0);
            trained.curve.push([trained.up, trained.loss]);
            trained.reached = trained.loss <= target;
            // From 2.3 on, more is divergence; so is what is no number.
            match trained.reached || trained.loss.is_nan() || trained.loss >= 10.0 {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        Ok(trained)
    });
    let mut found = found.map_err(ClaimError::experiment)?;
    Ok(found.swap_remove(0))
}

/// A variant of a task with a step, and the number and the value of the seed.
type Point = (Task, Variant, f64, usize, u64);

fn points(bench: &Bench<'_>, task: &Task, variants: &[Variant], steps: &[f64]) -> Vec<Point> {
    let mut points = Vec::new();
    for variant in variants {
        for &step in steps {
            for (index, &seed) in bench.seeds().iter().enumerate() {
                points.push((task.clone(), variant.clone(), step, index, seed));
            }
        }
    }
    points
}

fn cell((task, variant, step, _, seed): &Point) -> Cell {
    let cell = Cell::of(task).variant(variant).part(format!("step {step}"));
    cell.seed(*seed)
}

/// The runs of a variant with one step, seed by seed, and this step.
type Best<'a> = (Vec<(u64, &'a Trained)>, f64);

/// The runs of a variant with its best step by a cost, seed by seed, and this step.
fn best<'a>(
    points: &'a [Point],
    found: &'a [Trained],
    task: &Task,
    variant: &Variant,
    seeds: usize,
    cost: impl Fn(&Trained) -> f64,
) -> Result<Best<'a>, ClaimError> {
    let own = points.iter().zip(found);
    let own: Vec<_> = own
        .filter(|((t, v, ..), _)| t == task && v == variant)
        .collect();
    let total = |runs: &[(&Point, &Trained)]| runs.iter().map(|(_, run)| cost(run)).sum::<f64>();
    // The seeds of one step follow each other.
    let least = own
        .chunks(seeds)
        .min_by(|a, b| total(a).total_cmp(&total(b)));
    let least = least.ok_or_else(|| ClaimError::experiment("no step was tried"))?;
    let runs = least
        .iter()
        .map(|((.., seed), run)| (*seed, *run))
        .collect();
    Ok((runs, least[0].0.2))
}

fn bytes(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<(LinePlot, String), ClaimError> {
    let quick = bench.quick();
    let seeds = bench.seeds();
    let (examples, rounds, target) = if quick {
        (200, 60, 1.2)
    } else {
        (3000, 400, TARGET)
    };
    let all = [NONE, SRHT, COUNT, SPARSE, GAUSSIAN, AMS, LONG, SHORT, FIXED];
    let few = [NONE, SRHT, COUNT];
    let grid = |steps: &'static [f64]| if quick { &steps[..1] } else { steps };
    let mut all_points = points(bench, &ONE_STEP, &all, grid(&[1.0, 0.5, 2.0, 4.0, 8.0]));
    all_points.extend(points(
        bench,
        &FIVE_STEPS,
        &few,
        grid(&[0.25, 0.125, 0.5, 1.0, 2.0]),
    ));
    let steps = grid(&[2.0, 0.5, 1.0, 4.0, 8.0, 16.0]);
    all_points.extend(points(bench, &ISOTROPIC, &few, steps));
    let mut data = Vec::new();
    for &seed in seeds {
        let pictures = Regression::of_pictures(examples, seed)?;
        data.push([pictures, Regression::isotropic(examples, seed)]);
    }
    let found = bench.measure_side_by_side(
        &Stage::new("bytes to a loss", &(examples, rounds, target)),
        &all_points,
        cell,
        |(task, variant, step, index, seed)| {
            let [pictures, isotropic] = &data[*index];
            let data = if *task == ISOTROPIC {
                isotropic
            } else {
                pictures
            };
            let steps = if *task == FIVE_STEPS { 5 } else { 1 };
            train(data, &method(variant, *seed), target, rounds, |client| {
                LocalDescent {
                    steps,
                    step: *step,
                    ..LocalDescent::new(data.part(client))
                }
            })
        },
    )?;
    let mut plot = LinePlot::new(
        "training loss (1 local step, first seed)",
        "kB sent by a client",
        "loss",
    )
    .log_x();
    let mut notes = Vec::new();
    for (task, variants) in [
        (ONE_STEP, all.as_slice()),
        (FIVE_STEPS, &few),
        (ISOTROPIC, &few),
    ] {
        let mut told = Vec::new();
        for variant in variants {
            let cost = |run: &Trained| match run.reached {
                true => run.up,
                // Of steps that all miss the loss, the one that comes closest.
                false => 1e9 * run.loss.min(1e9),
            };
            let (runs, step) = best(&all_points, &found, &task, variant, seeds.len(), cost)?;
            for (seed, run) in &runs {
                table.record(&task, variant, &ROUNDS, *seed, run.cost(run.rounds))?;
                table.record(&task, variant, &UP, *seed, run.cost(run.up))?;
                table.record(&task, variant, &DOWN, *seed, run.cost(run.down))?;
                table.record(&task, variant, &LOSS, *seed, run.loss)?;
            }
            if task == ONE_STEP {
                let curve = runs[0].1.curve.iter().copied();
                plot = plot.with_series(Series::new(variant.name(), curve));
            }
            told.push(format!("{variant} {step}"));
        }
        notes.push(format!("{}: {}", task.name(), told.join(", ")));
    }

    for (task, variants) in [(ONE_STEP, &FAMILIES[..]), (FIVE_STEPS, &[SRHT, COUNT])] {
        for variant in variants {
            for metric in [UP, DOWN] {
                checks.push(table.compare(&task, &metric, variant, &NONE)?.headline());
            }
        }
        for variant in variants {
            for (metric, limit) in [(UP, 0.12), (ROUNDS, 1.25)] {
                let ratio =
                    table.mean(&task, variant, &metric)? / table.mean(&task, &NONE, &metric)?;
                checks.push(Check::new(
                    format!(
                        "{}: {} of {variant} at most {limit} times those without a sketch",
                        task.name(),
                        if metric == UP { "bytes" } else { "rounds" }
                    ),
                    ratio <= limit,
                    format!("{ratio:.3} times"),
                ));
            }
        }
    }
    let losses = table.values(&ONE_STEP, &FIXED, &LOSS)?;
    let least = losses.into_iter().fold(f64::INFINITY, f64::min);
    checks.push(Check::new(
        "one matrix for all rounds misses the loss",
        least > target,
        format!("a loss of {least:.2} at best"),
    ));
    for variant in [SRHT, COUNT] {
        let ratio = table.mean(&ISOTROPIC, &variant, &UP)? / table.mean(&ISOTROPIC, &NONE, &UP)?;
        checks.push(Check::new(
            format!("on isotropic features, {variant} saves nothing in all"),
            ratio >= 0.8,
            format!("{ratio:.2} times the bytes"),
        ));
    }
    Ok((plot, format!("Best steps: {}.", notes.join("; "))))
}

fn privacy(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<(), ClaimError> {
    let quick = bench.quick();
    let seeds = bench.seeds();
    let (examples, rounds) = if quick { (200, 10) } else { (3000, 60) };
    let steps: &[f64] = if quick {
        &[0.5]
    } else {
        &[0.25, 0.5, 1.0, 2.0]
    };
    let variants = [NONE, SRHT, IN_SKETCH];
    let rate = 0.2;
    let mut multipliers = Vec::new();
    let mut all_points = Vec::new();
    let accountant = accountants().get("pld").map_err(ClaimError::experiment)?;
    for (task, epsilon) in &BUDGETS {
        let found = noise_multiplier(&*accountant, *epsilon, DELTA, rate, rounds, &History::new());
        multipliers.push((task.clone(), found.map_err(ClaimError::experiment)?));
        all_points.extend(points(bench, task, &variants, steps));
    }
    let mut data = Vec::new();
    for &seed in seeds {
        data.push(Regression::of_pictures(examples, seed)?);
    }
    let found = bench.measure_side_by_side(
        &Stage::new("private training", &(examples, rounds, "rate 0.2, clip 1")),
        &all_points,
        cell,
        |(task, variant, step, index, seed)| {
            let data = &data[*index];
            let multiplier = multipliers.iter().find(|(t, _)| t == task);
            let noise_multiplier = multiplier.map_or(0.0, |(_, multiplier)| *multiplier);
            train(data, &method(variant, *seed), 0.0, rounds, |client| {
                let part = data.part(client);
                PrivateClient {
                    part,
                    private: PrivateSketch {
                        release: DpSgd {
                            clip: 1.0,
                            noise_multiplier,
                            sampling_rate: rate,
                            batch: rate * part.examples() as f64,
                        },
                        space: match *variant == IN_SKETCH {
                            true => NoiseSpace::Sketch,
                            false => NoiseSpace::Parameters,
                        },
                    },
                    key: NoiseKey::from_seed(1000 * (*seed + 1) + client as u64),
                    step: *step,
                }
            })
        },
    )?;
    for (task, _) in &BUDGETS {
        for variant in &variants {
            let cost = |run: &Trained| run.loss.min(1e9);
            let (runs, _) = best(&all_points, &found, task, variant, seeds.len(), cost)?;
            for (seed, run) in runs {
                table.record(task, variant, &ROUNDS, seed, run.rounds)?;
                table.record(task, variant, &UP, seed, run.up)?;
                table.record(task, variant, &DOWN, seed, run.down)?;
                table.record(task, variant, &LOSS, seed, run.loss)?;
            }
        }
        for variant in [SRHT, IN_SKETCH] {
            let ratio = table.mean(task, &variant, &LOSS)? / table.mean(task, &NONE, &LOSS)?;
            let text = format!(
                "{}: the loss of {variant} is at most 1.1 times that without a sketch",
                task.name()
            );
            let check = Check::new(text, ratio <= 1.1, format!("{ratio:.3} times"));
            checks.push(check.headline_if(*task == BUDGETS[0].0));
        }
    }
    Ok(())
}

fn leaks(bench: &Bench<'_>, table: &mut Table, checks: &mut Vec<Check>) -> Result<(), ClaimError> {
    let steps = if bench.quick() { 300 } else { 3000 };
    let accountant = accountants().get("pld").map_err(ClaimError::experiment)?;
    let multiplier = noise_multiplier(&*accountant, 8.0, DELTA, 1.0, 1, &History::new());
    let multiplier = multiplier.map_err(ClaimError::experiment)?;
    let mut all = attacks();
    all.push((PRIVATE_LEAK, Some(600), f64::NAN));
    let mut points = Vec::new();
    for attack in all {
        points.extend(bench.seeds().iter().map(|&seed| (attack.clone(), seed)));
    }
    let found = bench.measure_side_by_side(
        &Stage::new("leak", &(steps, "Adam")),
        &points,
        |((variant, ..), seed)| Cell::of(&LEAK).variant(variant).seed(*seed),
        |((variant, length, noise), seed)| {
            let mut pictures = regression::pictures(1, *seed)?;
            let (picture, label) = pictures.swap_remove(0);
            let family = match length {
                Some(_) => SketchFamily::Srht,
                None => SketchFamily::Identity,
            };
            let length = length.unwrap_or(leak::WEIGHTS);
            let sketch = family.draw(length, leak::WEIGHTS, &mut SeededNoise::new(*seed, 0));
            let sketch = sketch.map_err(ClaimError::experiment)?;
            let send = |gradient: &[f64], sketch: &DrawnSketch| {
                if *variant == PRIVATE_LEAK {
                    return private_sketch(gradient, &**sketch, multiplier, *seed);
                }
                let mut sent = sketch
                    .apply_values(gradient)
                    .map_err(ClaimError::experiment)?;
                let deviation = noise * norm(&sent) / (length as f64).sqrt();
                let drawn = SeededNoise::new(*seed, 22).normal_values(length);
                sent.iter_mut()
                    .zip(drawn)
                    .for_each(|(s, w)| *s += deviation * f64::from(w));
                Ok(sent)
            };
            recovered(&picture, label, sketch, send, steps, *seed)
        },
    )?;
    for (((variant, ..), seed), recovered) in points.iter().zip(found) {
        table.record(&LEAK, variant, &RECOVERED, *seed, recovered)?;
    }
    let mut check = |variant: &Variant, text: String, above: Option<f64>, headline: bool| {
        let values = table.values(&LEAK, variant, &RECOVERED)?;
        let [least, most] = [
            values.iter().copied().fold(f64::INFINITY, f64::min),
            values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ];
        let holds = above.map_or(most < 20.0, |limit| least > limit);
        let check = Check::new(text, holds, format!("{least:.1} to {most:.1} dB"));
        checks.push(check.headline_if(headline));
        Ok::<(), ClaimError>(())
    };
    for (length, above) in [
        (600, Some(40.0)),
        (300, Some(40.0)),
        (150, None),
        (60, None),
    ] {
        let side = if above.is_some() {
            "above 40"
        } else {
            "below 20"
        };
        let text = format!("a picture is recovered {side} dB from {length} numbers");
        check(&attacked(length), text, above, length == 300)?;
    }
    let text = "a private sketch is recovered below 20 dB".to_owned();
    check(&PRIVATE_LEAK, text, None, true)
}

/// One release of the picture's gradient alone, clipped and made private in the sketch.
fn private_sketch(
    gradient: &[f64],
    sketch: &dyn LinearSketch,
    noise_multiplier: f64,
    seed: u64,
) -> Result<Vec<f64>, ClaimError> {
    let private = PrivateSketch {
        release: DpSgd {
            clip: 1.0,
            noise_multiplier,
            sampling_rate: 1.0,
            batch: 1.0,
        },
        space: NoiseSpace::Sketch,
    };
    let key = NoiseKey::from_seed(seed);
    let sent = private.sketched_mean(&[gradient.to_vec()], sketch, &key, 0);
    sent.map_err(ClaimError::experiment)
}
