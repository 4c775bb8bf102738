//! The rates of gradient descent in over-parameterised matrix sensing.
//!
//! A matrix `M*` of 50 rows and columns and rank 3, with singular values 1, is recovered from all of
//! its entries by factors of width 3 (the true rank) and 5 (above it), in the symmetric and in the
//! asymmetric form, and with the paper's one modified step. `M*` is positive semidefinite, so that
//! both forms apply. Rates are slopes of the logarithm of the squared error `‖· − M*‖²`, by least
//! squares over a window after the escape from the small start and before the rounding floor.
//!
//! In a second group the same is done from `5 n k = 1250` Gaussian measurements instead of the 2500
//! entries.

use faer::Mat;
use nabla_solve::matrix_sensing::{
    AsymmetricFactors, FactorStart, FullObservation, GaussianSensing, LinearMeasurement,
    SymmetricFactors, squared_distance,
};
use nabla_solve::rate_fit::{exponential_rate, power_rate};

use crate::claim::{Claim, ClaimContext, ClaimError, Paper};
use crate::measurement::{Check, Measurement, Metric, Table, Variant};
use crate::plot::{LinePlot, Series};

const SIDE: usize = 50;
const RANK: usize = 3;
const WIDE: usize = 5;
const STEP: f64 = 0.25;
/// `α` of the symmetric runs and of those at the true rank.
const SCALE: f64 = 0.1;
/// `β` of the modified step.
const BETA: f64 = 0.5;
/// When the modified step is made: the true directions are found by then, whatever `α`.
const MODIFIED_AT: usize = 200;

const ENTRIES: &str = "all entries";
const GAUSSIAN: &str = "Gaussian measurements";

const SYMMETRIC_EXACT: &str = "symmetric, k = r";
const SYMMETRIC_WIDE: &str = "symmetric, k > r";
const ASYMMETRIC_EXACT: &str = "asymmetric, k = r";

const POWER: &str = "slope over log T";
const RATE: &str = "slope over T";
const ERROR: &str = "squared error at the end";

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct MatrixSensingClaim;

impl Claim for MatrixSensingClaim {
    fn slug(&self) -> &str {
        "matrix-sensing"
    }

    fn paper(&self) -> Paper {
        Paper::new(
            "How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of Symmetry and Initialization",
            "Xiong, Ding, Du",
            2023,
            "2310.01769",
        )
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

    fn run(&self, context: &ClaimContext<'_>) -> Result<Measurement, ClaimError> {
        let size = if context.quick {
            Size::QUICK
        } else {
            Size::FULL
        };
        let mut table = Table::new(
            &context.seeds,
            [
                Metric::informative(POWER, ""),
                Metric::informative(RATE, "per step"),
                Metric::lower(ERROR, ""),
            ],
            [
                Variant::baseline(SYMMETRIC_EXACT),
                Variant::baseline(SYMMETRIC_WIDE),
                Variant::baseline(ASYMMETRIC_EXACT),
            ]
            .into_iter()
            .chain(size.scales.iter().map(|&a| Variant::ablation(plain(a))))
            .chain(size.scales.iter().map(|&a| Variant::method(modified(a)))),
            [ENTRIES, GAUSSIAN],
        )?;
        let mut curves = Vec::new();
        for &seed in &context.seeds {
            let runs = 3 + 2 * size.scales.len();
            context
                .progress
                .begin(&format!("matrix sensing, seed {seed}"), 2 * runs as u64);
            let operator = FullObservation::new(SIDE, SIDE).map_err(ClaimError::experiment)?;
            let found = Group {
                context,
                size,
                name: ENTRIES,
                seed,
            }
            .measure(operator, size.steps, &mut table)?;
            if curves.is_empty() {
                curves = found;
            }
            let count = 5 * SIDE * WIDE;
            let operator =
                GaussianSensing::new(SIDE, SIDE, count, seed).map_err(ClaimError::experiment)?;
            Group {
                context,
                size,
                name: GAUSSIAN,
                seed,
            }
            .measure(operator, size.sensing_steps, &mut table)?;
        }
        let checks = checks(&table, size)?;
        let mut plot = LinePlot::new(
            "Squared error, all entries measured (first seed)",
            "step T",
            "squared error",
        )
        .log_x()
        .log_y();
        for curve in curves {
            plot = plot.with_series(curve);
        }
        Ok(Measurement::new(table, checks).with_plot(plot).with_note(
            "Rates are per step of size 0.25 in f64. The modified step is made at step 200, with \
             β = 0.5. A slope is fitted from step 1000 on (symmetric), from step 200 on \
             (asymmetric) and from 20 to 100 steps after the modified step, at errors above 1e-24.",
        ))
    }
}

/// How much is run.
#[derive(Clone, Copy)]
struct Size {
    /// `α` of the asymmetric form above the rank, falling.
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
        sensing_steps: 400,
    };
}

fn plain(scale: f64) -> String {
    format!("asymmetric, k > r, α = {scale}")
}

fn modified(scale: f64) -> String {
    format!("modified once, k > r, α = {scale}")
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

/// One group and seed of the table.
struct Group<'a> {
    context: &'a ClaimContext<'a>,
    size: Size,
    name: &'static str,
    seed: u64,
}

impl Group<'_> {
    fn measure<A: LinearMeasurement + Clone>(
        &self,
        operator: A,
        steps: usize,
        table: &mut Table,
    ) -> Result<Vec<Series>, ClaimError> {
        let truth = truth();
        let measured = operator.forward(truth.as_ref());
        let error = |matrix: Mat<f64>| {
            squared_distance(matrix.as_ref(), truth.as_ref()).map_err(ClaimError::experiment)
        };
        let start = |rank, scale| FactorStart {
            seed: self.seed,
            ..FactorStart::new(rank, scale)
        };
        let symmetric = |rank| -> Result<Errors, ClaimError> {
            let start = start(rank, SCALE);
            let mut factors = SymmetricFactors::new(operator.clone(), measured.clone(), start)
                .map_err(ClaimError::experiment)?;
            let mut errors = vec![error(factors.matrix())?];
            for _ in 0..steps {
                factors.step(STEP).map_err(ClaimError::experiment)?;
                errors.push(error(factors.matrix())?);
            }
            Ok(errors)
        };
        let asymmetric = |rank, scale, modify: bool| -> Result<Errors, ClaimError> {
            let start = start(rank, scale);
            let mut factors = AsymmetricFactors::new(operator.clone(), measured.clone(), start)
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
        };
        let mut curves = Vec::new();
        let mut record = |variant: &str, errors: &Errors, slope: Slope| {
            let (metric, rate) = match slope {
                Slope::Power(from) => (POWER, power_rate(window(errors, from, usize::MAX - 1))),
                Slope::Exponential(from, to) => (RATE, exponential_rate(window(errors, from, to))),
            };
            let rate = rate.map_or(f64::NAN, |fit| fit.rate);
            table.record(self.name, variant, metric, self.seed, rate)?;
            let last = errors[errors.len() - 1];
            table.record(self.name, variant, ERROR, self.seed, last)?;
            curves.push(Series::new(variant, thin(errors)));
            self.context.progress.advance(1);
            Ok::<(), ClaimError>(())
        };
        let exact = Slope::Exponential(100, 300);
        record(SYMMETRIC_EXACT, &symmetric(RANK)?, exact)?;
        let from = 1000.min(steps / 2);
        record(SYMMETRIC_WIDE, &symmetric(WIDE)?, Slope::Power(from))?;
        record(ASYMMETRIC_EXACT, &asymmetric(RANK, SCALE, false)?, exact)?;
        for &scale in self.size.scales {
            let slope = Slope::Exponential(MODIFIED_AT, usize::MAX);
            record(&plain(scale), &asymmetric(WIDE, scale, false)?, slope)?;
        }
        for &scale in self.size.scales {
            let slope = Slope::Exponential(MODIFIED_AT + 20, MODIFIED_AT + 100);
            record(&modified(scale), &asymmetric(WIDE, scale, true)?, slope)?;
        }
        Ok(curves)
    }
}

/// Which slope of a run is read, over which steps.
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
        // Below is rounding alone.
        points.push([t as f64, errors[t].max(1e-32)]);
        t = (t + 1).max(t * 26 / 25);
    }
    points
}

fn checks(table: &Table, size: Size) -> Result<Vec<Check>, ClaimError> {
    let mean = |group: &str, variant: &str, metric| table.mean(group, variant, metric);
    let mut checks = Vec::new();
    for variant in [SYMMETRIC_EXACT, ASYMMETRIC_EXACT] {
        let rate = mean(ENTRIES, variant, RATE)?;
        // From an error of at most 1 in 500 steps, 100 of which are the escape.
        let reached = mean(ENTRIES, variant, ERROR)?;
        checks.push(Check::new(
            format!("{variant}: exponential, below 1e-20 at the end"),
            rate < 0.0 && (400.0 * rate).exp() < 1e-20 && reached < 1e-20,
            format!("slope {rate:.4} per step, error {reached:.1e}"),
        ));
    }
    let power = mean(ENTRIES, SYMMETRIC_WIDE, POWER)?;
    checks.push(Check::new(
        format!("{SYMMETRIC_WIDE}: about 1/T^2"),
        (-2.2..=-1.7).contains(&power),
        format!("power {power:.3}"),
    ));
    let rates = size
        .scales
        .iter()
        .map(|&a| Ok((a, -mean(ENTRIES, &plain(a), RATE)?)))
        .collect::<Result<Vec<_>, ClaimError>>()?;
    let power = power_rate(rates.iter().copied()).map_or(f64::NAN, |fit| fit.rate);
    checks.push(Check::new(
        "asymmetric, k > r: the rate grows as α²",
        (power - 2.0).abs() <= 0.1,
        format!("power {power:.3}"),
    ));
    let after = size
        .scales
        .iter()
        .map(|&a| Ok(-mean(ENTRIES, &modified(a), RATE)?))
        .collect::<Result<Vec<f64>, ClaimError>>()?;
    let least = after.iter().copied().fold(f64::INFINITY, f64::min);
    let most = after.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    checks.push(Check::new(
        "modified once: the same rate for every α",
        least > 0.0 && most / least < 1.05,
        format!("{least:.4} to {most:.4} per step"),
    ));
    if let Some(&(scale, rate)) = rates.iter().find(|&&(a, _)| a == SCALE) {
        checks.push(Check::new(
            format!("modified once: more than 20 times as fast at α = {scale}"),
            least > 20.0 * rate,
            format!("{least:.4} against {rate:.5} per step"),
        ));
    }
    for group in [ENTRIES, GAUSSIAN] {
        let scale = size.scales[1];
        let (plain, modified) = (plain(scale), modified(scale));
        for (better, worse) in [
            (plain.as_str(), SYMMETRIC_WIDE),
            (modified.as_str(), plain.as_str()),
            (SYMMETRIC_EXACT, SYMMETRIC_WIDE),
        ] {
            // Where both have reached the rounding floor there is no order any more.
            let floor = 1e-24;
            let values = [better, worse].map(|v| mean(group, v, ERROR));
            let [a, b] = [values[0].clone()?, values[1].clone()?];
            checks.push(Check::new(
                format!("{group}: {better} ends below {worse}"),
                a < b || (a < floor && b < floor),
                format!("{a:.1e} against {b:.1e}"),
            ));
        }
    }
    Ok(checks)
}
