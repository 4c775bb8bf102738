//! MASHA against extragradient: what goes over the wire until the squared error is 1e-8 of that of the start.
//!
//! A saddle point of 20 workers: `f_m = xᵀ A_m y + a_mᵀ x + b_mᵀ y + λ/2 (‖x‖² − ‖y‖²)` with 50 numbers in `x` and in
//! `y`, `λ = 0.2`, and `A_m` that are half common and half the worker's own. The operators have a Lipschitz constant of
//! about 2. Steps and probabilities of snapshots are from a grid, of which each number in the table is the least by the
//! seeds' mean. Everything is counted, snapshots and indices included, in bits per worker.
//!
//! Adversarial training of a network that classifies the digits, by 4 workers and with a perturbation for every example:
//! what is reached with a quarter of the bits sent, and with equal bits sent and received (`masha/adversarial.rs`). The
//! paper trains a transformer; weights and perturbations play the same parts here.

use std::cell::RefCell;
use std::ops::ControlFlow;

use nabla_base::rate_fit::exponential_rate;
use nabla_base::vector::{add_scaled, distance, dot, norm, squared_norm};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Series, Stage, Table,
    Task, Variant,
};
use nabla_grad::SeededNoise;
use nabla_grad::compressor::{Compressor, RandK, TopK};
use nabla_share::masha::extragradient::Extragradient;
use nabla_share::masha::{
    Masha1, Masha2, MashaError, OneProcess, Operator, Outcome, Problem, Progress, Schedule, Uplink,
};
use serde::{Deserialize, Serialize};

mod adversarial;
mod classifier;

const EXTRAGRADIENT: Variant = Variant::baseline("extragradient");
const RAND_K: Variant = Variant::method("MASHA1, Rand-k");
const PERM_K: Variant = Variant::method("MASHA1, Perm-k");
const RAND_K_BOTH: Variant = Variant::method("MASHA1, Rand-k both ways");
const HALF_OF_WORKERS: Variant = Variant::method("MASHA1, Rand-k, half of the workers");
const QUARTER_OF_WORKERS: Variant = Variant::method("MASHA1, Rand-k, a quarter of the workers");
const TOP_K: Variant = Variant::method("MASHA2, Top-k");
const TOP_K_BOTH: Variant = Variant::method("MASHA2, Top-k both ways");
const NAIVE: Variant = Variant::baseline("extragradient, Rand-k");
const CONVERGING: [Variant; 8] = [
    EXTRAGRADIENT,
    RAND_K,
    PERM_K,
    RAND_K_BOTH,
    HALF_OF_WORKERS,
    QUARTER_OF_WORKERS,
    TOP_K,
    TOP_K_BOTH,
];

const SADDLE: Task = Task::named("bilinear saddle point, 20 workers");

const UP: Metric = Metric::lower("sent by a worker", "kbit");
const DOWN: Metric = Metric::lower("received by a worker", "kbit");
const BOTH: Metric = Metric::lower("both together", "kbit");
const ITERATIONS: Metric = Metric::informative("iterations", "");
const ERROR: Metric = Metric::lower("squared error at the end", "");
const ACCURACY: Metric = Metric::informative("test accuracy", "%");
const ROBUST: Metric = Metric::higher("test accuracy under attack", "%");

const WORKERS: usize = 20;
const LAMBDA: f64 = 0.2;
const TARGET: f64 = 1e-8;

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct MashaClaim;

impl Claim for MashaClaim {
    fn slug(&self) -> &str {
        "masha"
    }

    fn version(&self) -> u32 {
        5
    }

    fn statement(&self) -> &str {
        "MASHA1 with unbiased and MASHA2 with contractive compressors solve distributed variational inequalities with \
         less communication from the workers than methods that send uncompressed vectors, and adversarial training is \
         comparable in quality. In detail: also with compression in both directions, counted together, and with a part \
         of the workers in each iteration."
    }

    fn criterion(&self) -> &str {
        "Until the squared error is 1e-8 of that of the start, by the seeds' mean and with the best settings of a grid, \
         a worker sends less with MASHA1 (Rand-k and Perm-k) and with MASHA2 (Top-k) than with extragradient. Adversarial \
         training of a network with a perturbation for every example: with a quarter of the bits that extragradient's \
         workers send, the test accuracy under attack with MASHA1 (Rand-k and Perm-k) and MASHA2 (Top-k) is at most 1 \
         point lower than with the better of extragradient and the optimistic method with all of them. In detail: the \
         same with compression both ways, with half and a quarter of the workers in each iteration, and for equal bits \
         both ways; on the saddle point a worker receives less, and sends and receives less together, also with \
         compression both ways, and sends less with a part of the workers; all errors fall linearly (R² above 0.97); extragradient with compressed operators stays above 1e-2."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let seeds = bench.seeds();
        let quick = bench.quick();
        let half = if quick { 20 } else { 50 };
        let problems: Vec<Saddle> = seeds.iter().map(|&seed| Saddle::draw(half, seed)).collect();
        let mut points = Vec::new();
        for variant in CONVERGING.into_iter().chain([NAIVE]) {
            for (number, setting) in settings(&variant, quick).into_iter().enumerate() {
                for (index, &seed) in seeds.iter().enumerate() {
                    points.push((variant.clone(), number, setting, index, seed));
                }
            }
        }
        let found = bench.measure_side_by_side(
            &Stage::new("saddle point", &(half, WORKERS, LAMBDA)),
            &points,
            |(variant, _, [step, share], _, seed)| {
                let part = format!("γL = {step}, 1 − τ = {share}");
                Cell::of(&SADDLE).variant(variant).part(part).seed(*seed)
            },
            |(variant, _, setting, index, seed)| {
                let problem = &problems[*index];
                problem
                    .solve(variant, *setting, *seed)
                    .map_err(ClaimError::experiment)
            },
        )?;

        let mut table = Table::new(
            seeds,
            [UP, DOWN, BOTH, ITERATIONS, ERROR, ACCURACY, ROBUST],
            CONVERGING
                .into_iter()
                .chain([NAIVE, adversarial::OPTIMISTIC]),
            [SADDLE, adversarial::QUARTER, adversarial::EQUAL],
        )?;
        let mut notes = Vec::new();
        let mut straight: Vec<f64> = Vec::new();
        let mut plot = LinePlot::new(
            "squared error (first seed)",
            "kbit sent by a worker",
            "relative squared error",
        )
        .log_y();
        for variant in CONVERGING {
            // The seeds of one setting follow each other.
            let own = points
                .iter()
                .zip(&found)
                .filter(|((v, ..), _)| *v == variant);
            let own: Vec<_> = own.collect();
            let settings: Vec<_> = own.chunks(seeds.len()).collect();
            let best = |amount: fn(&Solved) -> f64| {
                let total = |runs: &[(&Point, &Solved)]| -> f64 {
                    runs.iter().map(|(_, run)| run.cost(amount)).sum()
                };
                let least = settings.iter().min_by(|a, b| total(a).total_cmp(&total(b)));
                least
                    .copied()
                    .ok_or_else(|| ClaimError::experiment("no setting was tried"))
            };
            let by_up = best(|run| run.up)?;
            for (metric, amount) in [
                (UP, (|run| run.up) as fn(&Solved) -> f64),
                (DOWN, |run| run.down),
                (BOTH, |run| run.up + run.down),
            ] {
                for ((.., seed), run) in best(amount)? {
                    table.record(&SADDLE, &variant, &metric, *seed, run.cost(amount))?;
                }
            }
            for ((.., seed), run) in by_up {
                let iterations = run.curve.len() as f64;
                table.record(&SADDLE, &variant, &ITERATIONS, *seed, iterations)?;
                table.record(&SADDLE, &variant, &ERROR, *seed, run.error())?;
                straight.push(run.straightness());
            }
            let ((_, _, [step, share], ..), first) = by_up[0];
            plot = plot.with_series(Series::new(variant.name(), first.curve.iter().copied()));
            notes.push(match variant == EXTRAGRADIENT {
                true => format!("{variant}: γL = {step}"),
                false => format!("{variant}: γL = {step}, 1 − τ = {share}"),
            });
        }
        let mut least_naive = vec![f64::INFINITY; seeds.len()];
        for ((variant, _, _, index, _), run) in points.iter().zip(&found) {
            if *variant == NAIVE {
                least_naive[*index] = least_naive[*index].min(run.error());
            }
        }
        for (&seed, &error) in seeds.iter().zip(&least_naive) {
            table.record(&SADDLE, &NAIVE, &ERROR, seed, error)?;
        }

        let mut checks = Vec::new();
        for variant in [RAND_K, PERM_K, TOP_K] {
            checks.push(
                table
                    .compare(&SADDLE, &UP, &variant, &EXTRAGRADIENT)?
                    .headline(),
            );
        }
        for variant in [HALF_OF_WORKERS, QUARTER_OF_WORKERS] {
            checks.push(table.compare(&SADDLE, &UP, &variant, &EXTRAGRADIENT)?);
        }
        for variant in [RAND_K_BOTH, TOP_K_BOTH] {
            for metric in [UP, DOWN, BOTH] {
                let check = table.compare(&SADDLE, &metric, &variant, &EXTRAGRADIENT)?;
                checks.push(check);
            }
        }
        for variant in [RAND_K, PERM_K, TOP_K] {
            for metric in [DOWN, BOTH] {
                checks.push(table.compare(&SADDLE, &metric, &variant, &EXTRAGRADIENT)?);
            }
        }
        let least = straight.iter().copied().fold(1.0, f64::min);
        checks.push(Check::new(
            "the errors of all methods fall linearly",
            least > 0.97,
            format!("R² of a line in the logarithm at least {least:.3}"),
        ));
        let least = least_naive.iter().copied().fold(f64::INFINITY, f64::min);
        checks.push(Check::new(
            "extragradient with compressed operators stays above 1e-2",
            least > 1e-2,
            format!("{least:.2} at best"),
        ));
        let settings = adversarial::measure(bench, &mut table, &mut checks)?;
        let mut measurement = Measurement::new(table, checks).with_plot(plot);
        measurement.notes = vec![
            format!("Settings by what is sent: {}.", notes.join("; ")),
            "On the saddle point, no method saves anything once what the server sends is counted too. The theory says so: the \
             noise of a server that compresses is not averaged over workers, so that the iterations grow as much as the \
             messages shrink."
                .to_owned(),
            settings,
            "Until version 3, the training's baseline was extragradient alone, from a coarser grid that held it back; until \
             version 4, the best step and probability of Rand-k on the saddle point were the largest of their grid."
                .to_owned(),
            "Numbers are 32 bits; an index is 7 more on the saddle point and 12 in the training, and Perm-k needs none.".to_owned(),
        ];
        Ok(measurement)
    }
}

/// Variant, number of the setting, step times `L` and `1 − τ`, number of the seed, seed.
type Point = (Variant, usize, [f64; 2], usize, u64);

/// `γL` and `1 − τ` of all that is tried.
fn settings(variant: &Variant, quick: bool) -> Vec<[f64; 2]> {
    let [steps, shares]: [&[f64]; 2] = match variant {
        v if *v == EXTRAGRADIENT => [&[0.5, 0.7, 0.9, 1.0, 1.1], &[1.0]],
        v if *v == NAIVE => [&[0.02, 0.1], &[1.0]],
        _ if quick => [&[0.1, 0.3], &[0.1]],
        // Whoever asks fewer workers makes snapshots less often.
        v => [
            &[0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0],
            match participants(v, WORKERS) {
                Some(_) => &[0.025, 0.05, 0.1, 0.2],
                None => &[0.05, 0.1, 0.2, 0.3, 0.4],
            },
        ],
    };
    let with = |&step: &f64| shares.iter().map(move |&share| [step, share]);
    steps.iter().flat_map(with).collect()
}

/// How many of the workers send differences in an iteration, if not all of them.
fn participants(variant: &Variant, workers: usize) -> Option<usize> {
    match variant {
        v if *v == HALF_OF_WORKERS => Some(workers / 2),
        v if *v == QUARTER_OF_WORKERS => Some(workers / 4),
        _ => None,
    }
}

/// A run until the target, the limit of iterations or divergence.
#[derive(Serialize, Deserialize)]
struct Solved {
    /// Thousands of bits per worker.
    up: f64,
    down: f64,
    /// Sent by a worker, and relative squared error, after every iteration.
    curve: Vec<[f64; 2]>,
}

impl Solved {
    fn error(&self) -> f64 {
        self.curve.last().map_or(f64::INFINITY, |point| point[1])
    }

    /// Infinite if the target was not reached.
    fn cost(&self, amount: fn(&Self) -> f64) -> f64 {
        match self.error() < TARGET {
            true => amount(self),
            false => f64::INFINITY,
        }
    }

    fn straightness(&self) -> f64 {
        let points = self.curve.iter().enumerate();
        let fit = exponential_rate(points.map(|(k, point)| (k as f64, point[1])));
        fit.map_or(0.0, |fit| fit.explained)
    }
}

/// One worker's part of the saddle point.
struct Part {
    /// Row by row.
    a: Vec<f64>,
    /// `(a_m, b_m)`.
    linear: Vec<f64>,
}

impl Part {
    fn operator(&self, z: &[f64]) -> Vec<f64> {
        let half = z.len() / 2;
        let (x, y) = z.split_at(half);
        let mut value: Vec<f64> = z.iter().map(|z| LAMBDA * z).collect();
        for i in 0..half {
            let row = &self.a[i * half..(i + 1) * half];
            value[i] += dot(row, y) + self.linear[i];
            value[half + i] -= self.linear[half + i];
            add_scaled(&mut value[half..], -x[i], row);
        }
        value
    }
}

struct Saddle {
    parts: Vec<Part>,
    /// `L`.
    lipschitz: f64,
    solution: Vec<f64>,
}

impl Saddle {
    fn draw(half: usize, seed: u64) -> Self {
        let mut noise = SeededNoise::new(seed, 0);
        let mut normal = |count: usize| -> Vec<f64> {
            let values = noise.normal_values(count).into_iter();
            values.map(f64::from).collect()
        };
        let common = normal(half * half);
        let scale = 1.0 / (half as f64).sqrt();
        let part = |_| {
            let own = normal(half * half).into_iter();
            Part {
                a: own.zip(&common).map(|(n, b)| scale * (n + b)).collect(),
                linear: normal(2 * half),
            }
        };
        let mut saddle = Self {
            parts: (0..WORKERS).map(part).collect(),
            lipschitz: 0.0,
            solution: vec![0.0; 2 * half],
        };
        // F is affine, F(z) = J z + c, and ‖J z‖ = ‖Jᵀ z‖: L by the power method with (−J + 2λ) J, which is Jᵀ J.
        let constant = saddle.value(&vec![0.0; 2 * half]);
        let linear = |z: &[f64]| {
            let mut value = saddle.value(z);
            add_scaled(&mut value, -1.0, &constant);
            value
        };
        let mut z = vec![1.0; 2 * half];
        for _ in 0..500 {
            let ahead = linear(&z);
            let mut next: Vec<f64> = linear(&ahead).iter().map(|v| -v).collect();
            add_scaled(&mut next, 2.0 * LAMBDA, &ahead);
            let length = norm(&next);
            z = next.into_iter().map(|z| z / length).collect();
        }
        saddle.lipschitz = norm(&linear(&z));
        let step = 0.7 / saddle.lipschitz;
        for _ in 0..1000 {
            let mut ahead = saddle.solution.clone();
            add_scaled(&mut ahead, -step, &saddle.value(&saddle.solution));
            let value = saddle.value(&ahead);
            add_scaled(&mut saddle.solution, -step, &value);
        }
        saddle
    }

    fn problem(&self) -> Result<Problem<'_>, MashaError> {
        let operators = self
            .parts
            .iter()
            .map(|part| Operator::new(|z: &[f64]| part.operator(z)));
        Ok(Problem::new(self.solution.len(), operators.collect())?)
    }

    fn value(&self, z: &[f64]) -> Vec<f64> {
        let mut mean = vec![0.0; z.len()];
        for part in &self.parts {
            add_scaled(&mut mean, 1.0 / WORKERS as f64, &part.operator(z));
        }
        mean
    }

    fn solve(
        &self,
        variant: &Variant,
        [step, snapshot_probability]: [f64; 2],
        seed: u64,
    ) -> Result<Solved, MashaError> {
        let problem = self.problem()?;
        let dimension = self.solution.len();
        let curve = RefCell::new(Vec::new());
        let kilobits = |bits: u64| bits as f64 / 1000.0 / WORKERS as f64;
        let observe = |progress: Progress<'_>| {
            let error = distance(progress.z, &self.solution).powi(2) / squared_norm(&self.solution);
            curve
                .borrow_mut()
                .push([kilobits(progress.sent.up.bits), error]);
            match !(TARGET..=1e6).contains(&error) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let schedule = Schedule {
            step: step / self.lipschitz,
            snapshot_probability,
            iterations: 2500,
            seed,
            ..Schedule::default()
        };
        let start = vec![0.0; dimension];
        let mut network = OneProcess::new(WORKERS);
        let rand = |share: usize| -> Result<Box<dyn Compressor>, MashaError> {
            Ok(Box::new(RandK::new(dimension / share)?))
        };
        let top = |share: usize| -> Result<Box<dyn Compressor>, MashaError> {
            Ok(Box::new(TopK::new(dimension / share)?))
        };
        let mut first = |uplink, downlink| {
            let masha = Masha1 {
                downlink,
                participants: participants(variant, WORKERS),
                schedule: schedule.clone(),
                ..Masha1::new(uplink)
            };
            masha.run(&problem, &start, &mut network, observe)
        };
        let outcome: Outcome = match variant {
            v if *v == RAND_K || participants(v, WORKERS).is_some() => {
                first(Uplink::Independent(rand(10)?), None)?
            }
            v if *v == PERM_K => first(Uplink::PermK, None)?,
            v if *v == RAND_K_BOTH => first(Uplink::Independent(rand(10)?), Some(rand(2)?))?,
            v if *v == TOP_K || *v == TOP_K_BOTH => {
                let masha = Masha2 {
                    downlink: if *v == TOP_K { None } else { Some(top(5)?) },
                    schedule,
                    ..Masha2::new(top(10)?)
                };
                masha.run(&problem, &start, &mut network, observe)?
            }
            v => {
                let plain = Extragradient::default();
                let uplink = if *v == NAIVE {
                    Uplink::Independent(rand(10)?)
                } else {
                    plain.uplink
                };
                let method = Extragradient {
                    uplink,
                    step: schedule.step,
                    iterations: schedule.iterations,
                    seed,
                    ..Extragradient::default()
                };
                method.run(&problem, &start, &mut network, observe)?
            }
        };
        Ok(Solved {
            up: kilobits(outcome.sent.up.bits),
            down: kilobits(outcome.sent.down.bits),
            curve: curve.into_inner(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lipschitz_constant_and_the_solution_are_right() {
        let saddle = Saddle::draw(10, 0);
        assert!(norm(&saddle.value(&saddle.solution)) < 1e-9);
        let constant = saddle.value(&[0.0; 20]);
        for k in 0..20 {
            let mut z = [0.0; 20];
            z[k] = 1.0;
            assert!(distance(&saddle.value(&z), &constant) <= saddle.lipschitz * (1.0 + 1e-9));
        }
    }
}
