//! Sequential gradient codes against gradient coding: seconds of 80 gradients with stragglers.
//!
//! * **Simulated.** 256 workers of which about 5 % straggle, 2.2 seconds for a whole batch. The parameters of each
//!   scheme are chosen on one trace and timed on another. Answers are counted as in the paper: a code of `n − s` answers
//!   needs any `n − s`. Besides, with the published rule, which waits for all workers as soon as the stragglers fit no
//!   model, with the parameters that the official code chose for its 256 workers too; and with repetition codes, which
//!   often need fewer answers.
//! * **Threads.** 8 workers that are threads, which sleep for the same kind of delays and for the time that their load
//!   takes; three models of least squares. Their weights are compared with those of uncoded training.

use std::thread;
use std::time::Duration;

use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
};
use nabla_share::communicator::delays::{Delays, TwoStateDelays};
use nabla_share::communicator::faults::Faults;
use nabla_share::communicator::numbers::{from_bytes, to_bytes};
use nabla_share::sequential_gradient_coding::run::{BoxedError, Chunk, CodedRun, Models};
use nabla_share::sequential_gradient_coding::selection::{Family, Search, select};
use nabla_share::sequential_gradient_coding::simulation::Simulation;
use nabla_share::sequential_gradient_coding::{
    CodeKind, CodingScheme, GradientCode, MSgc, SrSgc, WaitRule,
};
use serde::{Deserialize, Serialize};

const UNCODED: Variant = Variant::baseline("uncoded");
const GC: Variant = Variant::baseline("GC");
const SR_SGC: Variant = Variant::method("SR-SGC");
const M_SGC: Variant = Variant::method("M-SGC");
const VARIANTS: [Variant; 4] = [UNCODED, GC, SR_SGC, M_SGC];

const COUNTED: Task = Task::named("simulated, n − s answers");
const PUBLISHED: Task = Task::named("simulated, published rule");
const PUBLISHED_CODES: Task = Task::named("simulated, published rule and codes");
const REPETITION: Task = Task::named("simulated, repetition codes");
const THREADS: Task = Task::named("8 threads");

const SECONDS: Metric = Metric::lower("time", "s");
const LOAD: Metric = Metric::lower("load", "%");

const SLOPE: f64 = 2.2;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct SequentialGradientCodingClaim;

impl Claim for SequentialGradientCodingClaim {
    fn slug(&self) -> &str {
        "sequential-gradient-coding"
    }

    fn statement(&self) -> &str {
        "M-SGC is faster than gradient coding with naturally occurring stragglers, by 16 % on 256 workers of AWS Lambda, \
         and has a significantly smaller load."
    }

    fn criterion(&self) -> &str {
        "Simulated with 256 workers, counting n − s answers and waiting until no gradient is lost: M-SGC takes less time \
         than GC, by the seeds' mean, and its load is lower. In detail: SR-SGC takes at most 1.02 times the time of GC; \
         M-SGC is faster than GC under the published rule, also with the published parameters, with repetition codes, and \
         on threads; trained by threads \
         with any code, the weights are those of uncoded training up to 1e-5."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let mut table = Table::new(
            bench.seeds(),
            [SECONDS, LOAD],
            VARIANTS,
            [COUNTED, PUBLISHED, PUBLISHED_CODES, REPETITION, THREADS],
        )?;
        simulated(bench, &mut table)?;
        let difference = on_threads(bench, &mut table)?;

        let [ours, theirs] = [M_SGC, GC].map(|variant| table.mean(&COUNTED, &variant, &SECONDS));
        let (ours, theirs) = (ours?, theirs?);
        let mut faster = table.compare(&COUNTED, &SECONDS, &M_SGC, &GC)?.headline();
        let gain = 100.0 * (1.0 - ours / theirs);
        faster.detail = format!(
            "{}: {gain:.1} % less, where the paper has 16 %",
            faster.detail
        );
        let sr_sgc = table.mean(&COUNTED, &SR_SGC, &SECONDS)?;
        let checks = vec![
            faster,
            table.compare(&COUNTED, &LOAD, &M_SGC, &GC)?.headline(),
            Check::new(
                "SR-SGC takes at most 1.02 times the time of GC",
                sr_sgc <= 1.02 * theirs,
                format!("{sr_sgc:.1} s and {theirs:.1} s"),
            ),
            table.compare(&PUBLISHED, &SECONDS, &M_SGC, &GC)?,
            table.compare(&PUBLISHED_CODES, &SECONDS, &M_SGC, &GC)?,
            table.compare(&REPETITION, &SECONDS, &M_SGC, &GC)?,
            table.compare(&THREADS, &SECONDS, &M_SGC, &GC)?,
            Check::new(
                "on threads, coded training ends at the weights of uncoded training",
                difference <= 1e-5,
                format!("largest difference {difference:.1e}"),
            ),
        ];
        let mut measurement = Measurement::new(table, checks);
        measurement.notes = vec![
            "Random cyclic codes of 256 workers are too ill-conditioned to decode, so that a count of n − s answers can \
             only be simulated; repetition codes can be used, and there GC needs one answer of each group."
                .to_owned(),
            "Threads: repetition codes where they fit, M-SGC(1, 2, 2), SR-SGC(1, 2, 2) and GC with s = 1; the time is \
             that of the rounds."
                .to_owned(),
        ];
        Ok(measurement)
    }
}

/// Seconds and load.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Timed {
    seconds: f64,
    load: f64,
}

fn variant_of(family: Family) -> Variant {
    match family {
        Family::Uncoded => UNCODED,
        Family::GradientCoding => GC,
        Family::SrSgc => SR_SGC,
        Family::MSgc => M_SGC,
    }
}

fn simulated(bench: &Bench<'_>, table: &mut Table) -> Result<(), ClaimError> {
    let workers = if bench.quick() { 64 } else { 256 };
    let ways = [
        (COUNTED, WaitRule::UntilRecoverable, CodeKind::Cyclic),
        (PUBLISHED, WaitRule::ForAll, CodeKind::Cyclic),
        (PUBLISHED_CODES, WaitRule::ForAll, CodeKind::Cyclic),
        (REPETITION, WaitRule::UntilRecoverable, CodeKind::Fitting),
    ];
    let mut points = Vec::new();
    for (task, rule, kind) in ways {
        points.extend(
            bench
                .seeds()
                .iter()
                .map(|&seed| (task.clone(), rule, kind, seed)),
        );
    }
    let found = bench.measure_side_by_side(
        &Stage::new("simulation", &(workers, SLOPE)),
        &points,
        |(task, _, _, seed)| Cell::of(task).seed(*seed),
        |(task, rule, kind, seed)| match *task == PUBLISHED_CODES {
            true => simulate_published(workers, *seed),
            false => simulate(workers, *rule, *kind, *seed),
        },
    )?;
    for ((task, _, _, seed), timed) in points.iter().zip(found) {
        for (family, timed) in Family::ALL.into_iter().zip(timed) {
            let variant = variant_of(family);
            table.record(task, &variant, &SECONDS, *seed, timed.seconds)?;
            table.record(task, &variant, &LOAD, *seed, 100.0 * timed.load)?;
        }
    }
    Ok(())
}

fn draw(workers: usize, seed: u64) -> Result<Delays, ClaimError> {
    let drawn = TwoStateDelays::default().draw(workers, 100, seed);
    drawn.map_err(ClaimError::experiment)
}

fn time(scheme: &dyn CodingScheme, delays: &Delays, rule: WaitRule) -> Result<Timed, ClaimError> {
    let simulation = Simulation {
        rule,
        ..Simulation::new(delays, SLOPE)
    };
    let timed = simulation.run(scheme).map_err(ClaimError::experiment)?;
    Ok(Timed {
        seconds: timed.seconds,
        load: timed.load,
    })
}

/// With the parameters that the official code chose, which the quick form scales to fewer workers.
fn simulate_published(workers: usize, seed: u64) -> Result<Vec<Timed>, ClaimError> {
    let delays = draw(workers, 2 * seed + 1)?;
    let kind = CodeKind::Cyclic;
    let of = |count: usize| count * workers / 256;
    let uncoded = GradientCode::uncoded(workers).map_err(ClaimError::experiment)?;
    let gc = GradientCode::new(workers, of(15), kind).map_err(ClaimError::experiment)?;
    let sr_sgc = SrSgc::new(workers, 2, 3, of(23), kind).map_err(ClaimError::experiment)?;
    let m_sgc = MSgc::new(workers, 1, 2, of(27), kind).map_err(ClaimError::experiment)?;
    let schemes: [&dyn CodingScheme; 4] = [&uncoded, &gc, &sr_sgc, &m_sgc];
    let timed = schemes.map(|scheme| time(scheme, &delays, WaitRule::ForAll));
    timed.into_iter().collect()
}

/// Of every family, in order.
fn simulate(
    workers: usize,
    rule: WaitRule,
    kind: CodeKind,
    seed: u64,
) -> Result<Vec<Timed>, ClaimError> {
    let (chosen_on, run_on) = (draw(workers, 2 * seed)?, draw(workers, 2 * seed + 1)?);
    let simulation = Simulation {
        rule,
        ..Simulation::new(&chosen_on, SLOPE)
    };
    let search = Search {
        max_delay: 3,
        max_stragglers: Some(80 * workers / 256),
        kind,
        usable: false,
    };
    let chosen = select(&simulation, &search).map_err(ClaimError::experiment)?;
    let of = |family| {
        let best = chosen.iter().find(|choice| choice.family == family);
        let best = best.ok_or_else(|| ClaimError::experiment("no scheme fits"))?;
        time(&*best.scheme, &run_on, rule)
    };
    Family::ALL.into_iter().map(of).collect()
}

const BATCH: usize = 240;
const WEIGHTS: usize = 5;
const THREADED: usize = 8;
/// Of the simulation's seconds, those that the threads really sleep.
const SHRINK: f64 = 1.0 / 30.0;

/// Three models of least squares.
struct Regressions(Vec<Vec<f32>>);

impl Models for Regressions {
    fn state(&mut self, _: usize, model: usize) -> Result<Vec<u8>, BoxedError> {
        Ok(to_bytes(&self.0[model]))
    }

    fn step(&mut self, _: usize, model: usize, gradient: Vec<f32>) -> Result<(), BoxedError> {
        for (weight, gradient) in self.0[model].iter_mut().zip(gradient) {
            *weight -= 0.5 * gradient;
        }
        Ok(())
    }
}

/// The gradient of a chunk, in the time that a worker of the simulation would take.
fn gradient(chunk: &Chunk<'_>) -> Result<Vec<f32>, BoxedError> {
    let weights = from_bytes::<f32>(chunk.state);
    let mut sum = vec![0.0; WEIGHTS];
    let examples = chunk.examples(BATCH);
    let share = examples.len() as f64 / BATCH as f64;
    for example in examples {
        let feature = |i: usize| ((example * 7 + i * 13 + chunk.job) % 11) as f32 / 11.0 - 0.4;
        let predicted: f32 = (0..WEIGHTS).map(|i| feature(i) * weights[i]).sum();
        for (i, sum) in sum.iter_mut().enumerate() {
            *sum += (predicted - feature(0)) * feature(i) / BATCH as f32;
        }
    }
    thread::sleep(Duration::from_secs_f64(SHRINK * SLOPE * share));
    Ok(sum)
}

fn delays(seed: u64) -> Result<Delays, ClaimError> {
    let law = TwoStateDelays {
        base_seconds: SHRINK * TwoStateDelays::default().base_seconds,
        ..TwoStateDelays::default()
    };
    law.draw(THREADED, 100, seed)
        .map_err(ClaimError::experiment)
}

/// Records the times, and returns the largest difference of weights from uncoded training.
fn on_threads(bench: &Bench<'_>, table: &mut Table) -> Result<f64, ClaimError> {
    let jobs = if bench.quick() { 6 } else { 80 };
    // One after the other: the threads of two runs would disturb each other.
    let found = bench.measure(
        &Stage::new("threads", &(THREADED, jobs)),
        bench.seeds(),
        |&seed| Cell::of(&THREADS).seed(seed),
        |&seed| {
            let runs: Result<Vec<_>, _> = VARIANTS
                .iter()
                .map(|variant| train(variant, jobs, seed))
                .collect();
            runs
        },
    )?;
    let mut difference: f64 = 0.0;
    for (&seed, runs) in bench.seeds().iter().zip(&found) {
        for (variant, (timed, weights)) in VARIANTS.iter().zip(runs) {
            table.record(&THREADS, variant, &SECONDS, seed, timed.seconds)?;
            table.record(&THREADS, variant, &LOAD, seed, 100.0 * timed.load)?;
            for (coded, uncoded) in weights.iter().zip(&runs[0].1) {
                difference = difference.max(f64::from((coded - uncoded).abs()));
            }
        }
    }
    Ok(difference)
}

/// Time and load, and the weights of all models.
fn train(variant: &Variant, jobs: usize, seed: u64) -> Result<(Timed, Vec<f32>), ClaimError> {
    let kind = CodeKind::Fitting;
    let scheme: Box<dyn CodingScheme> = match variant {
        v if *v == UNCODED => {
            Box::new(GradientCode::uncoded(THREADED).map_err(ClaimError::experiment)?)
        }
        v if *v == GC => {
            Box::new(GradientCode::new(THREADED, 1, kind).map_err(ClaimError::experiment)?)
        }
        v if *v == SR_SGC => {
            Box::new(SrSgc::new(THREADED, 1, 2, 2, kind).map_err(ClaimError::experiment)?)
        }
        _ => Box::new(MSgc::new(THREADED, 1, 2, 2, kind).map_err(ClaimError::experiment)?),
    };
    let run = CodedRun {
        jobs,
        models: 3,
        ..CodedRun::default()
    };
    let mut models = Regressions((0..3).map(|m| vec![0.1 * m as f32; WEIGHTS]).collect());
    let faults = Faults::new().with_delays(delays(seed)?);
    let limit = Duration::from_secs(60);
    let report = run.on_threads(&*scheme, limit, &faults, &mut models, |_| gradient);
    let timed = Timed {
        seconds: report.map_err(ClaimError::experiment)?.seconds(),
        load: scheme.load(),
    };
    Ok((timed, models.0.concat()))
}
