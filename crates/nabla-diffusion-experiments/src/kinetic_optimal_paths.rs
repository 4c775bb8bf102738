//! Kinetic-optimal paths: the formula of the kinetic energy, its minimum, the limit of many dimensions, and flows that
//! are learned on the paths.
//!
//! The first part is exact: the flow to all 1797 handwritten digits (64 numbers each, normalized), whose posterior mean is
//! a weighted mean of the digits. The energy of a path by the formula, which knows the data only through the data
//! separation function, is compared with the mean square of the velocity itself, and the kinetic-optimal path with
//! Cond-OT (the straight line), VP (the cosine path) and 100 random monotone schedules.
//!
//! The second part is the limit: how much more energy Cond-OT takes than the best path, for normal samples of `n`
//! points in `d` dimensions, and the bound `1 − λ(r) ≤ 0.663 (n − 1)/(r² d)`.
//!
//! In the third part one network learns the velocity on each path. Its energy is that along its own trajectories; the
//! quality is the Fréchet distance of the pixels after few steps of Euler's method. The times go from 0.999, where there
//! is hardly any signal: there the velocity of the kinetic-optimal path is unbounded.

use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Series, Stage, Table,
    Task, Variant,
};
use nabla_diffusion::flow_matching::FlowPath;
use nabla_diffusion::kinetic_optimal::SeparationConfig;

mod energy;
mod learned;

use crate::digits::{Digits, PIXELS};
use energy::{energies, gap};
use learned::learned;

const OPTIMAL: Variant = Variant::method("kinetic-optimal");
const STRAIGHT: Variant = Variant::baseline("Cond-OT");
const COSINE: Variant = Variant::baseline("VP (cosine)");
const PATHS: [Variant; 3] = [OPTIMAL, STRAIGHT, COSINE];
const CHORD: Variant = Variant::method("2 − 2 cos Φ");
const RANDOM: Variant = Variant::baseline("best of 100 random schedules");

const EXACT: Task = Task::named("digits, exact flow");
const LEARNED: Task = Task::named("digits, learned flow");

const ENERGY: Metric = Metric::lower("kinetic energy", "");
const DIRECT: Metric = Metric::lower("kinetic energy, directly", "");
const GAP: Metric = Metric::informative("excess of Cond-OT over the optimum", "%");
const EXCESS: Metric = Metric::informative("1 − λ above its bound, at most", "");
const DISTANCE: Metric = Metric::lower("Fréchet distance of the pixels", "");

/// The numbers of steps of Euler's method.
const EULER_STEPS: [usize; 4] = [4, 8, 16, 32];

/// The numbers of points of the limit.
const COUNTS: [usize; 2] = [16, 256];

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct KineticOptimalClaim;

impl Claim for KineticOptimalClaim {
    fn slug(&self) -> &str {
        "kinetic-optimal-paths"
    }

    fn statement(&self) -> &str {
        "The kinetic energy of a Gaussian path depends on the data only through one function of one number, the data \
         separation function; the path of least energy solves an ordinary differential equation in one dimension, and can \
         be approximated from data. As n/√d falls, for n points in d dimensions, the straight line (Cond-OT) becomes \
         optimal."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds. On the exact flow to the digits, the formula gives the energy of the kinetic-optimal path, \
         Cond-OT and VP within 1 % of the direct mean; the energy of the kinetic-optimal path is 2 − 2 cos Φ within 0.5 %, \
         and below those of Cond-OT, VP and 100 random schedules. For 16 and for 256 normal points, the excess of Cond-OT \
         falls with the number of dimensions. A network that learned the flow has less energy on the kinetic-optimal path \
         than on Cond-OT, and there less than on VP. In detail: 1 − λ exceeds its bound nowhere by more than 0.01. The \
         distances of samples are reported."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let size = if bench.quick() { QUICK } else { FULL };
        let digits = Digits::load()?;
        let tasks = [EXACT, LEARNED].into_iter();
        let limit = COUNTS.map(|count| size.dimensions.iter().map(move |&d| limit_task(count, d)));
        let mut table = Table::new(
            bench.seeds(),
            [ENERGY, DIRECT, GAP, EXCESS, DISTANCE],
            PATHS.into_iter().chain([CHORD, RANDOM]),
            tasks
                .chain(EULER_STEPS.map(steps_task))
                .chain(limit.into_iter().flatten()),
        )?;
        let separations = exact(bench, &size, &digits, &mut table)?;
        limits(bench, &size, &mut table)?;
        networks(bench, &size, &digits, &separations, &mut table)?;
        let checks = checks(&table, &size)?;
        let mut plot = LinePlot::new(
            "Learned flow to the digits (mean of the seeds)",
            "steps of Euler's method",
            "Fréchet distance of the pixels",
        )
        .log_x()
        .log_y();
        for variant in PATHS {
            let points = EULER_STEPS.iter().filter_map(|&steps| {
                let mean = table.mean(&steps_task(steps), &variant, &DISTANCE).ok()?;
                Some([steps as f64, mean])
            });
            plot = plot.with_series(Series::new(variant.name(), points));
        }
        Ok(Measurement::new(table, checks)
            .with_plot(plot)
            .with_note(format!(
                "The networks are perceptrons of three hidden layers, trained {} steps of {} digits; the kinetic-optimal \
                 path is that of the same digits.",
                size.steps, size.batch
            ))
            .with_note(
                "Not measured: ImageNet, likelihood, and solvers with adaptive steps. All Gaussian paths have the same map \
                 from noise to data; they differ in how hard it is to learn and to follow in few steps.",
            ))
    }
}

#[derive(Debug)]
struct Size {
    /// Of the data separation function.
    grid: usize,
    draws: usize,
    /// Times and draws of the direct mean.
    direct: [usize; 2],
    /// Of the limit.
    dimensions: &'static [usize],
    limit_draws: usize,
    /// Of a training.
    steps: usize,
    batch: usize,
    samples: usize,
    /// Steps of Euler's method for the energy.
    fine: usize,
}

const FULL: Size = Size {
    grid: 60,
    draws: 2000,
    direct: [100, 200],
    dimensions: &[4, 16, 64, 256],
    limit_draws: 300,
    steps: 4000,
    batch: 128,
    samples: 1000,
    fine: 200,
};
const QUICK: Size = Size {
    grid: 20,
    draws: 40,
    direct: [20, 20],
    dimensions: &[4, 16, 64],
    limit_draws: 40,
    steps: 60,
    batch: 64,
    samples: 100,
    fine: 20,
};

impl Size {
    fn separation(&self, seed: u64) -> SeparationConfig {
        let config = SeparationConfig::new().with_grid(self.grid);
        config.with_draws(self.draws).with_seed(seed)
    }
}

fn limit_task(count: usize, dimension: usize) -> Task {
    Task::of(format!("{count} normal points in {dimension} dimensions"))
}

fn steps_task(steps: usize) -> Task {
    Task::of(format!("digits, learned flow in {steps} steps"))
}

/// Returns the values of the data separation function for each seed.
fn exact(
    bench: &Bench<'_>,
    size: &Size,
    digits: &Digits,
    table: &mut Table,
) -> Result<Vec<Vec<f64>>, ClaimError> {
    let found = bench.measure_side_by_side(
        &Stage::new("energies of the exact flow", size),
        bench.seeds(),
        |&seed| Cell::of(&EXACT).seed(seed),
        |&seed| {
            let points = &digits.values.points;
            energies(points, PIXELS, &size.separation(seed), size.direct)
        },
    )?;
    let mut separations = Vec::new();
    for (&seed, found) in bench.seeds().iter().zip(found) {
        for (variant, [formula, direct]) in PATHS.iter().zip(found.paths) {
            table.record(&EXACT, variant, &ENERGY, seed, formula)?;
            table.record(&EXACT, variant, &DIRECT, seed, direct)?;
        }
        table.record(&EXACT, &CHORD, &ENERGY, seed, found.chord)?;
        table.record(&EXACT, &RANDOM, &ENERGY, seed, found.random)?;
        separations.push(found.kappa);
    }
    Ok(separations)
}

fn limits(bench: &Bench<'_>, size: &Size, table: &mut Table) -> Result<(), ClaimError> {
    let mut points = Vec::new();
    for &seed in bench.seeds() {
        for count in COUNTS {
            points.extend(size.dimensions.iter().map(|&d| (count, d, seed)));
        }
    }
    let found = bench.measure_side_by_side(
        &Stage::new("many dimensions", size),
        &points,
        |&(count, dimension, seed)| Cell::of(&limit_task(count, dimension)).seed(seed),
        |&(count, dimension, seed)| gap(count, dimension, size.limit_draws, seed),
    )?;
    for (&(count, dimension, seed), found) in points.iter().zip(found) {
        let task = limit_task(count, dimension);
        table.record(&task, &STRAIGHT, &GAP, seed, 100.0 * found.gap)?;
        table.record(&task, &STRAIGHT, &EXCESS, seed, found.excess)?;
    }
    Ok(())
}

fn networks(
    bench: &Bench<'_>,
    size: &Size,
    digits: &Digits,
    separations: &[Vec<f64>],
    table: &mut Table,
) -> Result<(), ClaimError> {
    let mut points = Vec::new();
    for (i, &seed) in bench.seeds().iter().enumerate() {
        points.extend(PATHS.map(|variant| (variant, seed, i)));
    }
    let found = bench.measure(
        &Stage::new("learned flows", size),
        &points,
        |(variant, seed, _)| {
            let cell = Cell::of(&LEARNED).variant(variant).seed(*seed);
            cell.steps(size.steps as u64)
        },
        |(variant, seed, i)| {
            let path = match variant {
                v if *v == STRAIGHT => FlowPath::CondOt,
                v if *v == COSINE => FlowPath::Vp,
                _ => FlowPath::KineticOptimal {
                    kappa: separations[*i].clone(),
                },
            };
            learned(bench, size, digits, path, *seed)
        },
    )?;
    for ((variant, seed, _), found) in points.iter().zip(found) {
        table.record(&LEARNED, variant, &ENERGY, *seed, found.energy)?;
        for (steps, distance) in EULER_STEPS.into_iter().zip(found.distances) {
            table.record(&steps_task(steps), variant, &DISTANCE, *seed, distance)?;
        }
    }
    Ok(())
}

fn checks(table: &Table, size: &Size) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    for variant in PATHS {
        let formula = table.mean(&EXACT, &variant, &ENERGY)?;
        let direct = table.mean(&EXACT, &variant, &DIRECT)?;
        let difference = formula / direct - 1.0;
        let check = Check::new(
            format!("{EXACT}, {variant}: the formula is within 1 % of the direct mean"),
            difference.abs() <= 0.01,
            format!(
                "{formula:.4} against {direct:.4}, {:+.2} %",
                100.0 * difference
            ),
        );
        checks.push(check.headline());
    }
    let optimal = table.mean(&EXACT, &OPTIMAL, &ENERGY)?;
    let chord = table.mean(&EXACT, &CHORD, &ENERGY)?;
    let check = Check::new(
        format!("{EXACT}: the energy of the kinetic-optimal path is 2 − 2 cos Φ within 0.5 %"),
        (optimal / chord - 1.0).abs() <= 0.005,
        format!("{optimal:.4} against {chord:.4}"),
    );
    checks.push(check.headline());
    for other in [STRAIGHT, COSINE, RANDOM] {
        checks.push(table.compare(&EXACT, &ENERGY, &OPTIMAL, &other)?.headline());
    }
    for count in COUNTS {
        let dimensions = size.dimensions.iter();
        let gaps = dimensions.map(|&d| table.mean(&limit_task(count, d), &STRAIGHT, &GAP));
        let gaps = gaps.collect::<Result<Vec<f64>, _>>()?;
        let each: Vec<String> = gaps.iter().map(|gap| format!("{gap:.1} %")).collect();
        let check = Check::new(
            format!(
                "{count} normal points: the excess of Cond-OT falls with the number of dimensions"
            ),
            gaps.windows(2).all(|pair| pair[0] > pair[1]),
            format!("{} in {:?} dimensions", each.join(", "), size.dimensions),
        );
        checks.push(check.headline());
    }
    for (better, worse) in [(OPTIMAL, STRAIGHT), (STRAIGHT, COSINE)] {
        checks.push(
            table
                .compare(&LEARNED, &ENERGY, &better, &worse)?
                .headline(),
        );
    }
    for count in COUNTS {
        let mut largest = f64::NEG_INFINITY;
        for &dimension in size.dimensions {
            let values = table.values(&limit_task(count, dimension), &STRAIGHT, &EXCESS)?;
            largest = values.into_iter().fold(largest, f64::max);
        }
        checks.push(Check::new(
            format!("{count} normal points: 1 − λ exceeds its bound by at most 0.01"),
            largest <= 0.01,
            format!("{largest:.4} at most"),
        ));
    }
    Ok(checks)
}
