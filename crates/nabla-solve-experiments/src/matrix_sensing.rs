//! The rates of gradient descent in over-parameterised matrix sensing.
//!
//! A matrix `M*` of 50 rows and columns and rank 3, with singular values 1, is recovered from all of
//! its entries by factors of width 3 (the true rank) and 5 (above it), in the symmetric and in the
//! asymmetric form, and with the paper's one modified step. `M*` is positive semidefinite, so that
//! both forms apply. Rates are slopes of the logarithm of the squared error `‖· − M*‖²`, by least
//! squares over a window after the escape from the small start and before the rounding floor.
//!
//! A second group repeats this from `5 n k = 1250` Gaussian measurements instead of the 2500 entries.

use faer::Mat;
use nabla_base::rate_fit::{exponential_rate, power_rate};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Role, Series, Stage,
    Table, Task, Variant,
};
use nabla_solve::matrix_sensing::{
    AsymmetricFactors, FactorStart, FullObservation, GaussianSensing, LinearMeasurement,
    SymmetricFactors, squared_distance,
};
use serde::{Deserialize, Serialize};

const SIDE: usize = 50;
const RANK: usize = 3;
const WIDE: usize = 5;
const STEP: f64 = 0.25;
/// `α` of the symmetric runs and of those at the true rank.
const SCALE: f64 = 0.1;
/// `β` of the modified step.
const BETA: f64 = 0.5;
/// The time of the modified step, by which the true directions are found, whatever `α`.
const MODIFIED_AT: usize = 200;

const ENTRIES: Task = Task::named("all entries");
const GAUSSIAN: Task = Task::named("Gaussian measurements");

const SYMMETRIC_EXACT: Variant = Variant::baseline("symmetric, k = r");
const SYMMETRIC_WIDE: Variant = Variant::baseline("symmetric, k > r");
const ASYMMETRIC_EXACT: Variant = Variant::baseline("asymmetric, k = r");

const POWER: Metric = Metric::informative("slope over log T", "");
const RATE: Metric = Metric::informative("slope over T", "per step");
const ERROR: Metric = Metric::lower("squared error at the end", "");

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct MatrixSensingClaim;

impl Claim for MatrixSensingClaim {
    fn slug(&self) -> &str {
        "matrix-sensing"
    }

    fn statement(&self) -> &str {
        "Gradient descent on factors wider than the rank is slow in the symmetric form, where the \
         squared error falls no faster than 1/T^2, and fast in the asymmetric form, as \
         exp(-Ω(α² T)) for a start of scale α; one modified step makes the rate independent of α."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds, all entries measured: at the true rank both forms fall below 1e-20 \
         within 500 steps; above it the symmetric form's power of T lies in [-2.2, -1.7]; the \
         asymmetric form's rate grows as α to the power 2 ± 0.1, and reaches a smaller error than \
         the symmetric one in as many steps; after the modified step the rate differs by less than \
         5% between all α and is more than 20 times the plain one at α = 0.1. With Gaussian \
         measurements: the same order of the errors."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let size = if bench.quick() {
            Size::QUICK
        } else {
            Size::FULL
        };
        let forms = Form::all(size);
        let mut table = Table::new(
            bench.seeds(),
            [POWER, RATE, ERROR],
            forms.iter().map(|form| form.variant()),
            [ENTRIES, GAUSSIAN],
        )?;
        let mut points = Vec::new();
        for &seed in bench.seeds() {
            for task in [ENTRIES, GAUSSIAN] {
                points.extend(forms.iter().map(|&form| (task.clone(), form, seed)));
            }
        }
        let whole = FullObservation::new(SIDE, SIDE).map_err(ClaimError::experiment)?;
        // Drawn for the first cell of a seed that is not stored.
        let mut sensing: Option<(u64, GaussianSensing)> = None;
        let found = bench.measure(
            &Stage::new("matrix sensing", &size),
            &points,
            |(task, form, seed)| Cell::of(task).variant(&form.variant()).seed(*seed),
            |&(ref task, form, seed)| {
                if *task == ENTRIES {
                    return Fall::of(&whole, form, seed, size.steps);
                }
                let operator = match sensing.take() {
                    Some((of, operator)) if of == seed => operator,
                    _ => GaussianSensing::new(SIDE, SIDE, 5 * SIDE * WIDE, seed)
                        .map_err(ClaimError::experiment)?,
                };
                let (_, operator) = sensing.insert((seed, operator));
                Fall::of(operator, form, seed, size.sensing_steps)
            },
        )?;
        let mut plot = LinePlot::new(
            "Squared error, all entries measured (first seed)",
            "step T",
            "squared error",
        )
        .log_x()
        .log_y();
        for ((task, form, seed), fall) in points.iter().zip(found) {
            let variant = form.variant();
            let metric = match form.slope(size.steps_of(task)) {
                Slope::Power(_) => POWER,
                Slope::Exponential(..) => RATE,
            };
            table.record(task, &variant, &metric, *seed, fall.rate)?;
            table.record(task, &variant, &ERROR, *seed, fall.last)?;
            if *task == ENTRIES && bench.seeds().first() == Some(seed) {
                plot = plot.with_series(Series::new(variant.name(), fall.curve));
            }
        }
        let checks = checks(&table, size)?;
        Ok(Measurement::new(table, checks).with_plot(plot).with_note(
            "Rates are per step of size 0.25 in f64. The modified step is made at step 200, with \
             β = 0.5. A slope is fitted from step 1000 on (symmetric), from step 200 on \
             (asymmetric) and from 20 to 100 steps after the modified step, at errors above 1e-24.",
        ))
    }
}

/// The size of the experiment.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// The values of `α` for the asymmetric form above the rank, in descending order.
    scales: &'static [f64],
    steps: usize,
    sensing_steps: usize,
}

impl Size {
    const FULL: Self = Self {
        scales: &[0.5, 0.2, 0.1, 0.05],
        steps: 20_000,
        sensing_steps: 2_000,
    };
    const QUICK: Self = Self {
        scales: &[0.5, 0.2],
        steps: 2_000,
        // A few steps after the modified one: each takes as long as a hundred with all entries.
        sensing_steps: 225,
    };
}

impl Size {
    fn steps_of(&self, task: &Task) -> usize {
        if *task == ENTRIES {
            self.steps
        } else {
            self.sensing_steps
        }
    }
}

/// The factors of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    SymmetricExact,
    SymmetricWide,
    AsymmetricExact,
    /// Asymmetric above the rank, from a start of scale `α`.
    Plain(f64),
    /// The asymmetric form with one modified step.
    Modified(f64),
}

impl Form {
    fn all(size: Size) -> Vec<Self> {
        let scales = || size.scales.iter().copied();
        [
            Self::SymmetricExact,
            Self::SymmetricWide,
            Self::AsymmetricExact,
        ]
        .into_iter()
        .chain(scales().map(Self::Plain))
        .chain(scales().map(Self::Modified))
        .collect()
    }

    fn variant(self) -> Variant {
        match self {
            Self::SymmetricExact => SYMMETRIC_EXACT,
            Self::SymmetricWide => SYMMETRIC_WIDE,
            Self::AsymmetricExact => ASYMMETRIC_EXACT,
            Self::Plain(scale) => {
                Variant::of(Role::Ablation, format!("asymmetric, k > r, α = {scale}"))
            }
            Self::Modified(scale) => {
                Variant::of(Role::Method, format!("modified once, k > r, α = {scale}"))
            }
        }
    }

    /// The slope that is read in a run of `steps` steps.
    fn slope(self, steps: usize) -> Slope {
        match self {
            Self::SymmetricExact | Self::AsymmetricExact => Slope::Exponential(100, 300),
            Self::SymmetricWide => Slope::Power(1000.min(steps / 2)),
            Self::Plain(_) => Slope::Exponential(MODIFIED_AT, usize::MAX),
            Self::Modified(_) => Slope::Exponential(MODIFIED_AT + 20, MODIFIED_AT + 100),
        }
    }
}

fn truth() -> Mat<f64> {
    Mat::from_fn(SIDE, SIDE, |i, j| f64::from(u8::from(i == j && i < RANK)))
}

/// The squared errors of a run: at each of `steps` steps and before the first.
type Errors = Vec<f64>;

/// The points of a run between two steps that lie above the rounding floor.
fn window(errors: &Errors, from: usize, to: usize) -> impl Iterator<Item = (f64, f64)> {
    const FLOOR: f64 = 1e-24;
    let to = to.min(errors.len() - 1);
    (from..=to)
        .map(|t| (t as f64, errors[t]))
        .take_while(|&(_, e)| e > FLOOR)
}

/// The decrease of a run's error.
#[derive(Serialize, Deserialize)]
struct Fall {
    rate: f64,
    last: f64,
    curve: Vec<[f64; 2]>,
}

impl Fall {
    fn of<A: LinearMeasurement + Clone>(
        operator: &A,
        form: Form,
        seed: u64,
        steps: usize,
    ) -> Result<Self, ClaimError> {
        let errors = match form {
            Form::SymmetricExact => symmetric(operator, RANK, seed, steps)?,
            Form::SymmetricWide => symmetric(operator, WIDE, seed, steps)?,
            Form::AsymmetricExact => asymmetric(operator, RANK, SCALE, false, seed, steps)?,
            Form::Plain(scale) => asymmetric(operator, WIDE, scale, false, seed, steps)?,
            Form::Modified(scale) => asymmetric(operator, WIDE, scale, true, seed, steps)?,
        };
        let rate = match form.slope(steps) {
            Slope::Power(from) => power_rate(window(&errors, from, usize::MAX - 1)),
            Slope::Exponential(from, to) => exponential_rate(window(&errors, from, to)),
        };
        Ok(Self {
            rate: rate.map_or(f64::NAN, |fit| fit.rate),
            last: errors[errors.len() - 1],
            curve: thin(&errors),
        })
    }
}

fn start(rank: usize, scale: f64, seed: u64) -> FactorStart {
    FactorStart {
        seed,
        ..FactorStart::new(rank, scale)
    }
}

fn symmetric<A: LinearMeasurement + Clone>(
    operator: &A,
    rank: usize,
    seed: u64,
    steps: usize,
) -> Result<Errors, ClaimError> {
    let truth = truth();
    let measured = operator.forward(truth.as_ref());
    let error = |matrix: Mat<f64>| {
        squared_distance(matrix.as_ref(), truth.as_ref()).map_err(ClaimError::experiment)
    };
    let start = start(rank, SCALE, seed);
    let mut factors =
        SymmetricFactors::new(operator.clone(), measured, start).map_err(ClaimError::experiment)?;
    let mut errors = vec![error(factors.matrix())?];
    for _ in 0..steps {
        factors.step(STEP).map_err(ClaimError::experiment)?;
        errors.push(error(factors.matrix())?);
    }
    Ok(errors)
}

fn asymmetric<A: LinearMeasurement + Clone>(
    operator: &A,
    rank: usize,
    scale: f64,
    modify: bool,
    seed: u64,
    steps: usize,
) -> Result<Errors, ClaimError> {
    let truth = truth();
    let measured = operator.forward(truth.as_ref());
    let error = |matrix: Mat<f64>| {
        squared_distance(matrix.as_ref(), truth.as_ref()).map_err(ClaimError::experiment)
    };
    let start = start(rank, scale, seed);
    let mut factors = AsymmetricFactors::new(operator.clone(), measured, start)
        .map_err(ClaimError::experiment)?;
    let mut errors = vec![error(factors.matrix())?];
    for t in 0..steps {
        if modify && t == MODIFIED_AT {
            factors.rebalance(BETA).map_err(ClaimError::experiment)?;
        }
        factors.step(STEP).map_err(ClaimError::experiment)?;
        errors.push(error(factors.matrix())?);
    }
    Ok(errors)
}

/// The slope of a run that is read, and the steps over which it is read.
#[derive(Clone, Copy)]
enum Slope {
    /// Over `log T`, from a step on.
    Power(usize),
    /// Over `T`, between two steps.
    Exponential(usize, usize),
}

/// Some of the errors, evenly over the logarithm of the step.
fn thin(errors: &Errors) -> Vec<[f64; 2]> {
    let last = errors.len() - 1;
    let mut points = Vec::new();
    let mut t = 1;
    while t <= last {
        // Below this there is only rounding.
        points.push([t as f64, errors[t].max(1e-32)]);
        t = (t + 1).max(t * 26 / 25);
    }
    points
}

fn checks(table: &Table, size: Size) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    for variant in [SYMMETRIC_EXACT, ASYMMETRIC_EXACT] {
        let rate = table.mean(&ENTRIES, &variant, &RATE)?;
        // From an error of at most 1 in 500 steps, 100 of which are the escape.
        let reached = table.mean(&ENTRIES, &variant, &ERROR)?;
        checks.push(Check::new(
            format!("{variant}: exponential, below 1e-20 at the end"),
            rate < 0.0 && (400.0 * rate).exp() < 1e-20 && reached < 1e-20,
            format!("slope {rate:.4} per step, error {reached:.1e}"),
        ));
    }
    let power = table.mean(&ENTRIES, &SYMMETRIC_WIDE, &POWER)?;
    let check = Check::new(
        format!("{SYMMETRIC_WIDE}: about 1/T^2"),
        (-2.2..=-1.7).contains(&power),
        format!("power {power:.3}"),
    );
    checks.push(check.headline());
    let rate_of =
        |form: Form| Ok::<_, ClaimError>(-table.mean(&ENTRIES, &form.variant(), &RATE)?);
    let rates = size
        .scales
        .iter()
        .map(|&a| Ok((a, rate_of(Form::Plain(a))?)))
        .collect::<Result<Vec<_>, ClaimError>>()?;
    let power = power_rate(rates.iter().copied()).map_or(f64::NAN, |fit| fit.rate);
    let check = Check::new(
        "asymmetric, k > r: the rate grows as α²",
        (power - 2.0).abs() <= 0.1,
        format!("power {power:.3}"),
    );
    checks.push(check.headline());
    let after = size
        .scales
        .iter()
        .map(|&a| rate_of(Form::Modified(a)))
        .collect::<Result<Vec<f64>, ClaimError>>()?;
    let least = after.iter().copied().fold(f64::INFINITY, f64::min);
    let most = after.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let check = Check::new(
        "modified once: the same rate for every α",
        least > 0.0 && most / least < 1.05,
        format!("{least:.4} to {most:.4} per step"),
    );
    checks.push(check.headline());
    if let Some(&(scale, rate)) = rates.iter().find(|&&(a, _)| a == SCALE) {
        checks.push(Check::new(
            format!("modified once: more than 20 times as fast at α = {scale}"),
            least > 20.0 * rate,
            format!("{least:.4} against {rate:.5} per step"),
        ));
    }
    for task in [ENTRIES, GAUSSIAN] {
        let scale = size.scales[1];
        let plain = Form::Plain(scale).variant();
        let modified = Form::Modified(scale).variant();
        for (better, worse) in [
            (&plain, &SYMMETRIC_WIDE),
            (&modified, &plain),
            (&SYMMETRIC_EXACT, &SYMMETRIC_WIDE),
        ] {
            // Where both have reached the rounding floor, their order means nothing.
            let floor = 1e-24;
            let a = table.mean(&task, better, &ERROR)?;
            let b = table.mean(&task, worse, &ERROR)?;
            checks.push(Check::new(
                format!("{task}: {better} ends below {worse}"),
                a < b || (a < floor && b < floor),
                format!("{a:.1e} against {b:.1e}"),
            ));
        }
    }
    Ok(checks)
}
