//! Barron PDE: the rate of the preconditioned descent, the Barron norms of its iterates and the networks of its solutions, in
//! 2 to 20 dimensions.
//!
//! Equations have a known solution of three random waves over two coordinates each, and the descent starts at 0.
//!
//! * **Reaction** `−Δu + u + 2u³ = f`, amplitude 2, 16 steps of `η = 0.5`, in 2, 5, 10 and 20 dimensions, beside plain gradient
//!   descent with the longest steady step and the Deep Ritz method.
//! * **Diffusion** `−∇·(∇u + 0.3 (∇u)³) + u = f`, amplitude 0.3, 8 steps whose length is found by backtracking, since no fixed
//!   one descends from every start, in 2 and 3 dimensions. Coefficients below 1e-7 are dropped, not those below 1e-9: cubes of
//!   slopes have many.
//! * **Networks** of 16 to 1024 units drawn from a function of 20 waves.

use std::f64::consts::TAU;
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::rate_fit::power_rate;
use nabla_claims::plot::{LinePlot, Series};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_physics::barron_pde::{
    Domain, Lagrangian, Preconditioner, Quartic, SobolevDescent, SparseFourier, Spectral, StepRule,
    TwoLayerNetwork, Unit,
};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use deep_ritz::{DeepRitz, random_points, values};

mod deep_ritz;

const DESCENT: Variant = Variant::method("preconditioned descent");
const GD: Variant = Variant::baseline("gradient descent");
const RITZ: Variant = Variant::baseline("Deep Ritz");
const COSINE: Variant = Variant::method("cosine units");
const STEP: Variant = Variant::method("step units");
const RELU: Variant = Variant::method("rectified units");

const FACTOR: Metric = Metric::lower("error's factor a step", "");
const H1: Metric = Metric::lower("error in H¹, share of the solution's norm", "");
const L2: Metric = Metric::lower("error in L², share of the solution's norm", "");
const BARRON: Metric = Metric::informative("Barron norm, share of the solution's", "");
const LARGEST: Metric = Metric::informative(
    "largest Barron norm on the way, share of the solution's",
    "",
);
const ALLOWED: Metric = Metric::informative("digits of the norm that the paper allows", "");
const WITHIN: Metric = Metric::higher("iterates within both bounds", "");
const MODES: Metric = Metric::informative("frequencies at the end", "");
const SECONDS: Metric = Metric::informative("time", "s");
const SLOPE: Metric = Metric::informative("power of the units in the error", "");
const CONSTANT: Metric = Metric::informative("error · √units, share of the bound's", "");

const DIMS: [usize; 4] = [2, 5, 10, 20];
const BETA: f64 = 2.0;
/// Of networks and of Deep Ritz.
const UNITS: [usize; 4] = [16, 64, 256, 1024];
const DRAWS: u64 = 8;
const POINTS: usize = 2000;

fn reaction(dims: usize) -> Task {
    Task::of(format!("reaction, d = {dims}"))
}

fn diffusion(dims: usize) -> Task {
    Task::of(format!("diffusion, d = {dims}"))
}

fn networks(dims: usize) -> Task {
    Task::of(format!("networks, d = {dims}"))
}

/// Waves over two coordinates each, of the same amplitude.
fn waves(
    dims: usize,
    count: usize,
    amplitude: impl Fn(usize) -> f64,
    seed: u64,
) -> Result<SparseFourier, ClaimError> {
    let domain = Domain::periodic(dims);
    let mut noise = SeededNoise::new(seed, dims as u64);
    let mut sum = SparseFourier::constant(domain, 0.0).map_err(ClaimError::experiment)?;
    for wave in 0..count {
        let mut k = vec![0; dims];
        let first = noise.random_range(0..dims);
        let second = (first + noise.random_range(1..dims)) % dims;
        k[first] = 1;
        k[second] = [-1, 0, 1][noise.random_range(0..3)];
        let wave = SparseFourier::cosine(domain, &k, amplitude(wave), noise.random_range(0.0..TAU));
        sum = wave
            .and_then(|wave| sum.plus(1.0, &wave))
            .map_err(ClaimError::experiment)?;
    }
    Ok(sum)
}

/// An equation with its solution.
struct Problem {
    equation: Quartic<SparseFourier>,
    f: SparseFourier,
    solution: SparseFourier,
    rule: StepRule,
    prune: f64,
}

impl Problem {
    fn new(
        solution: SparseFourier,
        (rule, prune): (StepRule, f64),
        terms: impl Fn(
            Quartic<SparseFourier>,
        )
            -> Result<Quartic<SparseFourier>, nabla_physics::barron_pde::BarronError>,
    ) -> Result<Self, ClaimError> {
        let of = || {
            let one = SparseFourier::constant(solution.domain(), 1.0)?;
            let equation = terms(Quartic::linear(one.clone(), one)?)?;
            let slopes = solution.slopes();
            let mut f = equation.by_value(&solution, &slopes)?;
            for j in 0..slopes.len() {
                f = f.plus(-1.0, &equation.by_slope(j, &solution, &slopes)?.slope(j))?;
            }
            Ok((equation, f))
        };
        let (equation, f) = of().map_err(|error: nabla_physics::barron_pde::BarronError| {
            ClaimError::experiment(error)
        })?;
        Ok(Self {
            equation,
            f,
            solution,
            rule,
            prune,
        })
    }

    fn reaction(dims: usize, seed: u64) -> Result<Self, ClaimError> {
        let solution = waves(dims, 3, |_| 2.0, seed)?;
        let how = (StepRule::Fixed(0.5), 1e-9);
        Self::new(solution, how, |equation| equation.with_cubed_value(BETA))
    }

    fn diffusion(dims: usize, seed: u64) -> Result<Self, ClaimError> {
        let solution = waves(dims, 3, |_| 0.3, seed)?;
        let how = (StepRule::Backtracking, 1e-7);
        Self::new(solution, how, |equation| equation.with_cubed_slopes(0.3))
    }

    /// A descent from 0, step by step, so that every iterate's distance is known.
    fn descent(&self, steps: usize) -> Result<Descent, ClaimError> {
        let descent = |steps| SobolevDescent {
            rule: self.rule,
            preconditioner: Preconditioner::Sobolev,
            steps,
            tolerance: 1e-12,
            prune: self.prune,
        };
        let start = self.f.zero();
        let size = self.solution.h1_norm();
        let begun = Instant::now();
        let found = descent(steps)
            .solve(&self.equation, &self.f, &start)
            .map_err(ClaimError::experiment)?;
        let seconds = begun.elapsed().as_secs_f64();
        let distance = |u: &SparseFourier| -> Result<f64, ClaimError> {
            let apart = u.plus(-1.0, &self.solution);
            Ok(apart.map_err(ClaimError::experiment)?.h1_norm() / size)
        };
        let half = descent(steps / 2)
            .solve(&self.equation, &self.f, &start)
            .map_err(ClaimError::experiment)?;
        let (before, error) = (distance(&half.u)?, distance(&found.u)?);
        let factor = (error / before).powf(1.0 / (steps - steps / 2) as f64);
        let own = self.solution.barron_norm();
        let norms = found.history.iter().map(|iterate| iterate.barron_norm);
        let within = found.history.iter().all(|iterate| {
            iterate.barron_norm.ln() <= iterate.log_bound + 1e-9
                && iterate.second_norm.ln() <= iterate.log_second_bound + 1e-9
        });
        let last = found.history.last();
        Ok(Descent {
            factor,
            error,
            seconds,
            barron: found.u.barron_norm() / own,
            largest: norms.fold(0.0, f64::max) / own,
            digits: last.map_or(0.0, |last| last.log_bound / std::f64::consts::LN_10),
            within,
            modes: found.u.modes(),
        })
    }

    /// The error of plain gradient descent after as many steps, each the longest that lowers the energy.
    fn gradient_descent(&self, steps: usize) -> Result<f64, ClaimError> {
        let descent = SobolevDescent {
            rule: StepRule::Backtracking,
            preconditioner: Preconditioner::None,
            steps,
            tolerance: 1e-12,
            prune: self.prune,
        };
        let found = descent
            .solve(&self.equation, &self.f, &self.f.zero())
            .map_err(ClaimError::experiment)?;
        let apart = found.u.plus(-1.0, &self.solution);
        let apart = apart.map_err(ClaimError::experiment)?;
        Ok(apart.h1_norm() / self.solution.h1_norm())
    }
}

/// What a descent has come to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Descent {
    factor: f64,
    error: f64,
    seconds: f64,
    barron: f64,
    largest: f64,
    digits: f64,
    within: bool,
    modes: usize,
}

impl Descent {
    fn record(&self, table: &mut Table, task: &Task, seed: u64) -> Result<(), ClaimError> {
        for (metric, value) in [
            (FACTOR, self.factor),
            (H1, self.error),
            (SECONDS, self.seconds),
            (BARRON, self.barron),
            (LARGEST, self.largest),
            (ALLOWED, self.digits),
            (WITHIN, f64::from(u8::from(self.within))),
            (MODES, self.modes as f64),
        ] {
            table.record(task, &DESCENT, &metric, seed, value)?;
        }
        Ok(())
    }
}

fn root_mean_square(errors: impl Iterator<Item = f64>, count: usize) -> f64 {
    (errors.map(|error| error * error).sum::<f64>() / count as f64).sqrt()
}

/// The root mean square error of networks with each number of units, over draws, as a share of the bound's constant.
fn network_errors(dims: usize, unit: Unit, seed: u64) -> Result<Vec<f64>, ClaimError> {
    let u = waves(dims, 20, |wave| 0.3 / (1.0 + wave as f64), seed)?;
    let points = random_points(POINTS, dims, &mut SeededNoise::new(seed, 3));
    let expected = values(&u, &points, dims)?;
    let device = Device::flex();
    let x = Tensor::<2>::from_data(TensorData::new(points, [POINTS, dims]), &device);
    let bound = TwoLayerNetwork::error_bound(&u, 1 + 2 * usize::from(unit == Unit::Relu), unit)
        .map_err(ClaimError::experiment)?;
    let each = UNITS.iter().map(|&units| {
        let mut squares = 0.0;
        for draw in 0..DRAWS {
            let network = TwoLayerNetwork::sampled(&u, units, unit, 100 * seed + draw, &device)
                .map_err(ClaimError::experiment)?;
            let found = network.forward(x.clone()).try_into_vec_as::<f64>();
            let found = found.map_err(ClaimError::experiment)?;
            let apart = found.iter().zip(&expected).map(|(a, b)| a - b);
            squares += root_mean_square(apart, POINTS).powi(2);
        }
        Ok((squares / DRAWS as f64).sqrt() / bound)
    });
    each.collect()
}

/// What is compared in a task.
#[derive(Clone, Copy, Debug)]
struct Size {
    dims: &'static [usize],
    /// Of diffusion.
    slopes: &'static [usize],
    /// Of the baselines.
    few: &'static [usize],
    steps: usize,
    /// Of diffusion.
    slope_steps: usize,
    ritz: DeepRitz,
}

impl Size {
    fn new(quick: bool) -> Self {
        let ritz = DeepRitz {
            units: 256,
            steps: if quick { 20 } else { 3000 },
            points: if quick { 32 } else { 512 },
            learning_rate: 3e-3,
        };
        match quick {
            true => Self {
                dims: &[2, 5],
                slopes: &[2],
                few: &[2],
                steps: 4,
                slope_steps: 2,
                ritz,
            },
            false => Self {
                dims: &DIMS,
                slopes: &[2, 3],
                few: &[2, 5, 10],
                steps: 16,
                slope_steps: 8,
                ritz,
            },
        }
    }
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct BarronPdeClaim;

impl Claim for BarronPdeClaim {
    fn slug(&self) -> &str {
        "barron-pde"
    }

    fn statement(&self) -> &str {
        "If the operator of a nonlinear elliptic equation takes functions with small Barron norm to such functions, its solution \
         is near a function whose Barron norm is polynomial in the dimension, so that two-layer networks of few units represent \
         it and evade the curse of dimensionality. The iterates of a preconditioned descent show it: they converge \
         exponentially."
    }

    fn criterion(&self) -> &str {
        "Reaction: in 2, 5, 10 and 20 dimensions, the error in H¹ falls by a factor a step that is the same within 0.05; every \
         iterate's Barron norm is within the paper's recursion, and the last at most 1.1 times the solution's. Networks of \
         cosine units: the error falls with a power of the units between −0.4 and −0.6 in every dimension, and its constant, as \
         a share of the bound's, is the same within 30 %. In detail: the same rates for diffusion in slopes, step and \
         rectified units; gradient descent is at least ten times as far after as many steps; Deep Ritz with 256 units \
         is less exact than 256 cosine units with the largest coefficients."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let size = Size::new(bench.quick());
        let tasks = size.dims.iter().map(|&d| reaction(d));
        let tasks = tasks.chain(size.slopes.iter().map(|&d| diffusion(d)));
        let tasks = tasks.chain(size.dims.iter().map(|&d| networks(d)));
        let mut table = Table::new(
            bench.seeds(),
            [
                FACTOR, H1, L2, BARRON, LARGEST, ALLOWED, WITHIN, MODES, SECONDS, SLOPE, CONSTANT,
            ],
            [DESCENT, GD, RITZ, COSINE, STEP, RELU],
            tasks,
        )?;
        descents(bench, &size, &mut table)?;
        baselines(bench, &size, &mut table)?;
        let curves = drawn(bench, &size, &mut table)?;
        let checks = checks(&size, &table)?;
        let mut plot = LinePlot::new(
            "error of cosine units, as a share of the bound at one unit",
            "units",
            "error",
        )
        .log_x()
        .log_y();
        for (dims, errors) in curves {
            let points = UNITS
                .iter()
                .zip(errors)
                .map(|(&units, error)| [units as f64, error]);
            plot = plot.with_series(Series::new(format!("d = {dims}"), points));
        }
        Ok(Measurement::new(table, checks).with_plot(plot).with_note(
            "The paper has no experiments: the equations, amplitudes and step lengths are ours. The digits that the paper \
             allows are those of its recursion after the last step. Deep Ritz is trained for 3000 steps of Adam \
             with 512 points, which takes longer than the descent; its network is periodic by its inputs.",
        ))
    }
}

fn descents(bench: &Bench<'_>, size: &Size, table: &mut Table) -> Result<(), ClaimError> {
    let mut points = Vec::new();
    for &seed in bench.seeds() {
        points.extend(size.dims.iter().map(|&dims| (true, dims, seed)));
        points.extend(size.slopes.iter().map(|&dims| (false, dims, seed)));
    }
    let task = |values: bool, dims: usize| match values {
        true => reaction(dims),
        false => diffusion(dims),
    };
    let found = bench.measure_side_by_side(
        &Stage::new("descent", &(size.steps, size.slope_steps, 3)),
        &points,
        |&(values, dims, seed)| Cell::of(&task(values, dims)).variant(&DESCENT).seed(seed),
        |&(values, dims, seed)| match values {
            true => Problem::reaction(dims, seed)?.descent(size.steps),
            false => Problem::diffusion(dims, seed)?.descent(size.slope_steps),
        },
    )?;
    for ((values, dims, seed), descent) in points.iter().zip(found) {
        descent.record(table, &task(*values, *dims), *seed)?;
    }
    Ok(())
}

fn baselines(bench: &Bench<'_>, size: &Size, table: &mut Table) -> Result<(), ClaimError> {
    let mut points = Vec::new();
    for &seed in bench.seeds() {
        points.extend(size.few.iter().map(|&dims| (dims, seed)));
    }
    let found = bench.measure_side_by_side(
        &Stage::new("gradient descent", &size.steps),
        &points,
        |&(dims, seed)| Cell::of(&reaction(dims)).variant(&GD).seed(seed),
        |&(dims, seed)| Problem::reaction(dims, seed)?.gradient_descent(size.steps),
    )?;
    for ((dims, seed), error) in points.iter().zip(found) {
        table.record(&reaction(*dims), &GD, &H1, *seed, error)?;
    }
    let found = bench.measure_side_by_side(
        &Stage::new("Deep Ritz", &size.ritz),
        &points,
        |&(dims, seed)| Cell::of(&reaction(dims)).variant(&RITZ).seed(seed),
        |&(dims, seed)| {
            let problem = Problem::reaction(dims, seed)?;
            let x = random_points(POINTS, dims, &mut SeededNoise::new(seed, 3));
            let expected = values(&problem.solution, &x, dims)?;
            let begun = Instant::now();
            let found = size
                .ritz
                .values_at(&x, &problem.f, [dims, seed as usize], BETA)?;
            let seconds = begun.elapsed().as_secs_f64();
            // Of as many units with the largest coefficients of the descent's function.
            let descent = SobolevDescent {
                rule: StepRule::Fixed(0.5),
                steps: size.steps,
                ..SobolevDescent::default()
            };
            let solved = descent
                .solve(&problem.equation, &problem.f, &problem.f.zero())
                .map_err(ClaimError::experiment)?;
            let device = Device::flex();
            let network = TwoLayerNetwork::largest(&solved.u, size.ritz.units, &device)
                .map_err(ClaimError::experiment)?;
            let x = Tensor::from_data(TensorData::new(x, [POINTS, dims]), &device);
            let own = network.forward(x).try_into_vec_as::<f64>();
            let own = own.map_err(ClaimError::experiment)?;
            let error = |found: &[f64]| {
                let apart = found.iter().zip(&expected).map(|(a, b)| a - b);
                root_mean_square(apart, POINTS) / problem.solution.l2_norm()
            };
            Ok([error(&found), seconds, error(&own)])
        },
    )?;
    for ((dims, seed), [error, seconds, own]) in points.iter().zip(found) {
        let task = reaction(*dims);
        table.record(&task, &RITZ, &L2, *seed, error)?;
        table.record(&task, &RITZ, &SECONDS, *seed, seconds)?;
        table.record(&task, &COSINE, &L2, *seed, own)?;
    }
    Ok(())
}

const KINDS: [(Variant, Unit); 3] = [
    (COSINE, Unit::Cosine),
    (STEP, Unit::Step),
    (RELU, Unit::Relu),
];

/// Records networks, and returns the errors of cosine units by the dimension.
fn drawn(
    bench: &Bench<'_>,
    size: &Size,
    table: &mut Table,
) -> Result<Vec<(usize, Vec<f64>)>, ClaimError> {
    let mut points = Vec::new();
    for &dims in size.dims {
        for (variant, unit) in KINDS {
            points.extend(
                bench
                    .seeds()
                    .iter()
                    .map(|&seed| (dims, variant.clone(), unit, seed)),
            );
        }
    }
    let found = bench.measure_side_by_side(
        &Stage::new("networks", &(UNITS, DRAWS)),
        &points,
        |(dims, variant, _, seed)| Cell::of(&networks(*dims)).variant(variant).seed(*seed),
        |&(dims, _, unit, seed)| network_errors(dims, unit, seed),
    )?;
    let mut curves: Vec<(usize, Vec<f64>)> = Vec::new();
    for ((dims, variant, _, seed), errors) in points.iter().zip(found) {
        let task = networks(*dims);
        let pairs = UNITS.iter().zip(&errors);
        let fit = power_rate(pairs.clone().map(|(&units, &error)| (units as f64, error)));
        let slope = fit.map_or(f64::NAN, |fit| fit.rate);
        let constants = pairs.map(|(&units, error)| error * (units as f64).sqrt());
        let constant = constants.sum::<f64>() / UNITS.len() as f64;
        table.record(&task, variant, &SLOPE, *seed, slope)?;
        table.record(&task, variant, &CONSTANT, *seed, constant)?;
        if *variant == COSINE && *seed == bench.seeds()[0] {
            curves.push((*dims, errors));
        }
    }
    Ok(curves)
}

/// The least and the greatest.
fn extent(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, greatest)
}

fn checks(size: &Size, table: &Table) -> Result<Vec<Check>, ClaimError> {
    let over = |dims: &[usize], task: fn(usize) -> Task, variant: &Variant, metric: &Metric| {
        let each = dims.iter().map(|&d| table.mean(&task(d), variant, metric));
        each.collect::<Result<Vec<f64>, _>>()
    };
    let mut checks = Vec::new();
    for (name, task, dims, headline) in [
        ("reaction", reaction as fn(usize) -> Task, size.dims, true),
        ("diffusion", diffusion, size.slopes, false),
    ] {
        let (least, greatest) = extent(&over(dims, task, &DESCENT, &FACTOR)?);
        checks.push(
            Check::new(
                format!(
                    "{name}: the error's factor a step is the same in every dimension, within 0.05"
                ),
                greatest < 1.0 && greatest - least <= 0.05,
                format!("{least:.3} to {greatest:.3}"),
            )
            .headline_if(headline),
        );
        let (within, _) = extent(&over(dims, task, &DESCENT, &WITHIN)?);
        let (_, last) = extent(&over(dims, task, &DESCENT, &BARRON)?);
        let (_, largest) = extent(&over(dims, task, &DESCENT, &LARGEST)?);
        let (fewest, _) = extent(&over(dims, task, &DESCENT, &ALLOWED)?);
        checks.push(
            Check::new(
                format!(
                    "{name}: every Barron norm is within the recursion, and the last at most 1.1 of the solution's"
                ),
                within == 1.0 && last <= 1.1,
                format!(
                    "at the end {last:.3} of the solution's, {largest:.3} on the way; the recursion allows at least \
                     {fewest:.0} digits"
                ),
            )
            .headline_if(headline),
        );
    }
    for (variant, _) in KINDS {
        let headline = variant == COSINE;
        let name = variant.name();
        let (steepest, flattest) = extent(&over(size.dims, networks, &variant, &SLOPE)?);
        checks.push(
            Check::new(
                format!("{name}: the error falls with a power of the units between −0.4 and −0.6"),
                steepest >= -0.6 && flattest <= -0.4,
                format!("{steepest:.3} to {flattest:.3}"),
            )
            .headline_if(headline),
        );
        let (least, greatest) = extent(&over(size.dims, networks, &variant, &CONSTANT)?);
        checks.push(
            Check::new(
                format!("{name}: the error's constant is the same in every dimension, within 30 %, and within the bound"),
                greatest <= 1.3 * least && greatest <= 1.0,
                format!("{least:.3} to {greatest:.3} of the bound's"),
            )
            .headline_if(headline),
        );
    }
    let own = over(size.few, reaction, &DESCENT, &H1)?;
    let plain = over(size.few, reaction, &GD, &H1)?;
    let least = plain.iter().zip(&own).map(|(a, b)| a / b);
    let least = least.fold(f64::INFINITY, f64::min);
    checks.push(Check::new(
        "gradient descent is at least ten times as far after as many steps",
        least >= 10.0,
        format!("at least {least:.0} times"),
    ));
    let ritz = over(size.few, reaction, &RITZ, &L2)?;
    let own = over(size.few, reaction, &COSINE, &L2)?;
    let pairs: Vec<String> = size
        .few
        .iter()
        .zip(ritz.iter().zip(&own))
        .map(|(dims, (ritz, own))| format!("d = {dims}: {ritz:.1e} and {own:.1e}"))
        .collect();
    checks.push(Check::new(
        "Deep Ritz is less exact than cosine units with the largest coefficients",
        ritz.iter().zip(&own).all(|(ritz, own)| ritz > own),
        pairs.join("; "),
    ));
    Ok(checks)
}
