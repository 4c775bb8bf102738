//! The rates of gradient descent in over-parameterised matrix sensing.
//!
//! A matrix `M*` of `n = 30` rows and columns and rank `r = 3`, with singular values 1, is recovered from
//! near-isotropic linear measurements by factors of width 3 (the true rank) and `k = 5` (above it), in the
//! symmetric and in the asymmetric form, and with the paper's single modified step. `M*` is positive
//! semidefinite, so both forms apply. Rates are slopes of the logarithm of the squared error `‖· − M*‖²`,
//! by least squares over a window after the escape from the small start and before the rounding floor.
//!
//! There are `m = 100 n k = 15000` Gaussian measurements. The theorems assume a small isometry constant: on the
//! `n k` coordinates of a factor, the singular values of `𝒜` lie in about `1 ± √(nk/m)`, here 1 ± 0.1. With a
//! few times `n k` measurements, as in compressed sensing, this is 1 ± 0.4 and more. The deviation of `𝒜*𝒜` from
//! the identity then makes a small start grow, and it grows more the smaller it is, so the rate shows nothing
//! about the scale α of the start. With the slowest rate, about `0.27 α²` per step at `α = 0.05`, 20000 steps
//! take a dozen times as long as dividing the error by e; where the error falls as a power of `T`, they let `T`
//! grow 20 times.
//!
//! There are more measurements than entries. `𝒜` is therefore [condensed](GaussianSensing::condensed), and the
//! time of a step is proportional to `n⁴`, which is why `n` is only 30.
//!
//! A second group repeats this with all entries measured, `𝒜 = I`.

use faer::Mat;
use nabla_base::rate_fit::{exponential_rate, power_rate};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Role, Series, Stage,
    Table, TableError, Task, Variant,
};
use nabla_solve::matrix_sensing::{
    AsymmetricFactors, FactorStart, FullObservation, GaussianSensing, LinearMeasurement,
    SymmetricFactors, squared_distance,
};
use serde::{Deserialize, Serialize};

const SIDE: usize = 30;
const RANK: usize = 3;
const WIDE: usize = 5;
const STEP: f64 = 0.25;
/// `α` of the symmetric runs and of those at the true rank.
const SCALE: f64 = 0.1;
/// `β` of the modified step.
const BETA: f64 = 0.5;
/// The time of the modified step, by which the true directions are found, whatever `α`.
const MODIFIED_AT: usize = 200;

/// The rounding floor, above which slopes are fitted.
const FLOOR: f64 = 1e-24;
/// The error at which a run ends before its last step, because smaller errors are only rounding.
const END: f64 = 1e-26;
/// The error that counts as reached.
const SMALL: f64 = 1e-20;

const GAUSSIAN: Task = Task::named("Gaussian measurements");
const ENTRIES: Task = Task::named("all entries");

const SYMMETRIC_EXACT: Variant = Variant::baseline("symmetric, k = r");
const SYMMETRIC_WIDE: Variant = Variant::baseline("symmetric, k > r");
const ASYMMETRIC_EXACT: Variant = Variant::baseline("asymmetric, k = r");

const POWER: Metric = Metric::informative("slope over log T", "");
const RATE: Metric = Metric::informative("slope over T", "per step");
const REACHED: Metric = Metric::lower("steps to an error of 1e-20", "");
const ERROR: Metric = Metric::lower("squared error at the end", "");

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct MatrixSensingClaim;

impl Claim for MatrixSensingClaim {
    fn slug(&self) -> &str {
        "matrix-sensing"
    }

    /// Version 2: 15000 Gaussian measurements of 30 x 30 matrices instead of 1250 of 50 x 50, with a seed of their
    /// own, and the number of steps to an error of 1e-20.
    fn version(&self) -> u32 {
        2
    }

    fn statement(&self) -> &str {
        "From near-isotropic linear measurements, gradient descent on factors of the true rank is \
         exponentially fast, in the symmetric and in the asymmetric form. On wider factors, the symmetric \
         form is slow: its squared error falls no faster than 1/T^2. The asymmetric form is fast there: its \
         error falls as exp(-Ω(α² T)) for a start of scale α, which speeds up the symmetric problem. One \
         modified step makes the rate independent of α and recovers the rate of the true rank, up to a \
         constant. In detail: all of this also holds with every entry measured, and on wider factors the \
         modified step is by far the fastest."
    }

    fn criterion(&self) -> &str {
        "Means over the seeds, with Gaussian measurements. At the true rank the errors of both forms \
         fall exponentially, below 1e-20 within 500 steps. Above it the symmetric form's power of T lies in \
         [-2.2, -1.7]; the asymmetric form's rate grows as α to the power 2 ± 0.1, and the asymmetric form \
         reaches 1e-20 (α = 0.2) in fewer steps than the symmetric one; after the modified step the rates \
         for all α differ by less than 5% and are at least a tenth of the asymmetric form's rate at the true \
         rank. In detail: after the modified step the rate is more than 20 times the plain rate at α = 0.1, \
         and 1e-20 is reached in fewer steps (α = 0.2); the symmetric form reaches it in fewer steps at the \
         true rank than above; the same with all entries measured."
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
            [POWER, RATE, REACHED, ERROR],
            forms.iter().map(|form| form.variant()),
            [GAUSSIAN, ENTRIES],
        )?;
        let mut points = Vec::new();
        for &seed in bench.seeds() {
            for task in [GAUSSIAN, ENTRIES] {
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
                    // The seed differs from that of the factors' initial values.
                    _ => GaussianSensing::new(SIDE, SIDE, size.measurements, u64::MAX - seed)
                        .map_err(ClaimError::experiment)?
                        .condensed(),
                };
                let (_, operator) = sensing.insert((seed, operator));
                Fall::of(operator, form, seed, size.steps)
            },
        )?;
        let mut plot = LinePlot::new(
            "Squared error, Gaussian measurements (first seed)",
            "step T",
            "squared error",
        )
        .log_x()
        .log_y();
        for ((task, form, seed), fall) in points.iter().zip(found) {
            let variant = form.variant();
            let metric = match form.slope(size.steps) {
                Slope::Power(_) => POWER,
                Slope::Exponential(..) => RATE,
            };
            table.record(task, &variant, &metric, *seed, fall.rate)?;
            table.record(task, &variant, &REACHED, *seed, fall.reached)?;
            table.record(task, &variant, &ERROR, *seed, fall.last)?;
            if *task == GAUSSIAN && bench.seeds().first() == Some(seed) {
                plot = plot.with_series(Series::new(variant.name(), fall.curve));
            }
        }
        let checks = checks(&table, size)?;
        Ok(Measurement::new(table, checks)
            .with_plot(plot)
            .with_note(format!(
                "{SIDE} x {SIDE} matrices of rank r = {RANK}, wide factors of k = {WIDE} columns, {} \
                 Gaussian measurements. A run has {} steps, or ends at an error below {END:.0e}, where \
                 rounding begins. The theorems hold for measurements that are nearly isometric on \
                 matrices of low rank: on the n k coordinates of a factor, these deviate from an isometry by \
                 about √(nk/m) = {:.2}.",
                size.measurements,
                size.steps,
                ((SIDE * WIDE) as f64 / size.measurements as f64).sqrt(),
            ))
            .with_note(format!(
                "Rates are per step of size {STEP} in f64. The modified step is made at step \
                 {MODIFIED_AT}, with β = {BETA}; the rate after it grows with β, so the constant is not that at \
                 k = r. A slope is fitted from step 60 on (k = r), from step {} on (symmetric, k > r), from \
                 step {MODIFIED_AT} on (asymmetric, k > r) and from 20 to 100 steps after the modified step, \
                 at errors above {FLOOR:.0e}.",
                power_from(size.steps),
            )))
    }
}

/// The size of the experiment.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// The values of `α` for the asymmetric form above the rank, in descending order.
    scales: &'static [f64],
    steps: usize,
    /// The number of Gaussian measurements, `m`.
    measurements: usize,
}

impl Size {
    const FULL: Self = Self {
        scales: &[0.5, 0.2, 0.1, 0.05],
        steps: 20_000,
        measurements: 100 * SIDE * WIDE,
    };
    const QUICK: Self = Self {
        scales: &[0.5, 0.2],
        steps: 1_000,
        measurements: 20 * SIDE * WIDE,
    };
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
            Self::SymmetricExact | Self::AsymmetricExact => Slope::Exponential(60, 300),
            Self::SymmetricWide => Slope::Power(power_from(steps)),
            Self::Plain(_) => Slope::Exponential(MODIFIED_AT, usize::MAX),
            Self::Modified(_) => Slope::Exponential(MODIFIED_AT + 20, MODIFIED_AT + 100),
        }
    }
}

/// The first step of the fit of a power, for a run of `steps` steps.
fn power_from(steps: usize) -> usize {
    1000.min(steps / 2)
}

fn truth() -> Mat<f64> {
    Mat::from_fn(SIDE, SIDE, |i, j| f64::from(u8::from(i == j && i < RANK)))
}

/// The squared errors of a run, before the first step and after each.
type Errors = Vec<f64>;

/// The points of a run between two steps that lie above the rounding floor.
fn window(errors: &Errors, from: usize, to: usize) -> impl Iterator<Item = (f64, f64)> {
    let to = to.min(errors.len() - 1);
    (from..=to)
        .map(|t| (t as f64, errors[t]))
        .take_while(|&(_, e)| e > FLOOR)
}

/// The decrease of a run's error.
#[derive(Serialize, Deserialize)]
struct Fall {
    rate: f64,
    /// The number of steps until the error is below [`SMALL`]; infinite if it never is.
    reached: f64,
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
        let reached = errors.iter().position(|&error| error < SMALL);
        Ok(Self {
            rate: rate.map_or(f64::NAN, |fit| fit.rate),
            reached: reached.map_or(f64::INFINITY, |step| step as f64),
            last: errors[errors.len() - 1],
            curve: thin(&errors),
        })
    }
}

fn ended(errors: &[f64]) -> bool {
    errors.last().is_some_and(|&error| error < END)
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
        if ended(&errors) {
            break;
        }
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
        if ended(&errors) {
            break;
        }
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

/// The headlines test the abstract, with Gaussian measurements as its near-isotropic ones.
fn checks(table: &Table, size: Size) -> Result<Vec<Check>, TableError> {
    let mut checks = rates(table, &GAUSSIAN, size)?;
    let entries = rates(table, &ENTRIES, size)?;
    checks.extend(entries.into_iter().map(|check| check.headline_if(false)));
    Ok(checks)
}

/// The checks of the rates for one kind of measurement, including the headlines.
fn rates(table: &Table, task: &Task, size: Size) -> Result<Vec<Check>, TableError> {
    let mut checks = Vec::new();
    for variant in [SYMMETRIC_EXACT, ASYMMETRIC_EXACT] {
        let rate = table.mean(task, &variant, &RATE)?;
        // From an error of at most 1 in 500 steps, 100 of which are the escape.
        let reached = table.mean(task, &variant, &REACHED)?;
        let check = Check::new(
            format!("{task}, {variant}: exponential, below {SMALL:.0e} within 500 steps"),
            (400.0 * rate).exp() < SMALL && reached <= 500.0,
            format!("slope {rate:.4} per step, below after {reached:.0}"),
        );
        checks.push(check.headline());
    }
    let power = table.mean(task, &SYMMETRIC_WIDE, &POWER)?;
    let check = Check::new(
        format!("{task}, {SYMMETRIC_WIDE}: about 1/T^2"),
        (-2.2..=-1.7).contains(&power),
        format!("power {power:.3}"),
    );
    checks.push(check.headline());
    let rate_of = |variant: &Variant| Ok::<_, TableError>(-table.mean(task, variant, &RATE)?);
    let of_scales = |form: fn(f64) -> Form| {
        let scales = size.scales.iter();
        let rates = scales.map(|&scale| Ok((scale, rate_of(&form(scale).variant())?)));
        rates.collect::<Result<Vec<(f64, f64)>, TableError>>()
    };
    let [plain, after] = [of_scales(Form::Plain)?, of_scales(Form::Modified)?];
    // A run whose error does not fall has no rate; the check then fails, instead of leaving the run out.
    let falling = |rates: &[(f64, f64)]| rates.iter().all(|&(_, rate)| rate > 0.0);
    let power = power_rate(plain.iter().copied()).map_or(f64::NAN, |fit| fit.rate);
    let check = Check::new(
        format!("{task}, asymmetric, k > r: the rate grows as α²"),
        falling(&plain) && (power - 2.0).abs() <= 0.1,
        format!("power {power:.3}"),
    );
    checks.push(check.headline());
    let rates = || after.iter().map(|&(_, rate)| rate);
    let (least, most) = (
        rates().fold(f64::INFINITY, f64::min),
        rates().fold(f64::NEG_INFINITY, f64::max),
    );
    let check = Check::new(
        format!("{task}, modified once: the same rate for every α"),
        falling(&after) && most / least < 1.05,
        format!("{least:.4} to {most:.4} per step"),
    );
    checks.push(check.headline());
    let exact = rate_of(&ASYMMETRIC_EXACT)?;
    let check = Check::new(
        format!("{task}, modified once: of the order of the rate at k = r, at least a tenth"),
        falling(&after) && least >= 0.1 * exact,
        format!("{least:.4} against {exact:.4} per step"),
    );
    checks.push(check.headline());
    if let Some(&(scale, rate)) = plain.iter().find(|&&(scale, _)| scale == SCALE) {
        checks.push(Check::new(
            format!("{task}, modified once: more than 20 times as fast at α = {scale}"),
            falling(&after) && least > 20.0 * rate,
            format!("{least:.4} against {rate:.5} per step"),
        ));
    }
    let scale = size.scales[1];
    let plain = Form::Plain(scale).variant();
    let modified = Form::Modified(scale).variant();
    for (faster, slower, headline) in [
        (&plain, &SYMMETRIC_WIDE, true),
        (&modified, &plain, false),
        (&SYMMETRIC_EXACT, &SYMMETRIC_WIDE, false),
    ] {
        let check = table.compare(task, &REACHED, faster, slower)?;
        checks.push(check.headline_if(headline));
    }
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_form_runs_whole() {
        let result = crate::QUICK.result("matrix-sensing").unwrap();
        assert!(result.quick);
        // Two checks of the true rank, three of the rates above it, one of their order, and three of the steps.
        assert_eq!(result.checks.len(), 2 * (2 + 3 + 1 + 3));
        let headlines: Vec<&Check> = result.checks.iter().filter(|c| c.headline).collect();
        assert_eq!(headlines.len(), 2 + 3 + 1 + 1);
        let gaussian = |check: &&Check| check.text.starts_with(GAUSSIAN.name());
        assert!(headlines.iter().all(gaussian));
        // At the true rank, the errors fall as fast as in the full form.
        for check in &headlines[..2] {
            assert!(check.holds, "{}: {}", check.text, check.detail);
        }
    }

    /// A table with numbers like those of all entries, for which everything holds.
    fn table(power: f64, plain: [f64; 2], after: [f64; 2], reached: f64) -> Table {
        let variants = Form::all(Size::QUICK);
        let variants = variants.iter().map(|form| form.variant());
        let metrics = [POWER, RATE, REACHED, ERROR];
        let mut table = Table::new(&[0], metrics, variants, [GAUSSIAN]).unwrap();
        let of = |form: fn(f64) -> Form| [0.5, 0.2].map(|scale| form(scale).variant());
        let ([a, b], [c, d]) = (of(Form::Plain), of(Form::Modified));
        for (variant, metric, value) in [
            (&SYMMETRIC_EXACT, RATE, -0.5),
            (&ASYMMETRIC_EXACT, RATE, -0.5),
            (&SYMMETRIC_WIDE, POWER, power),
            (&a, RATE, -plain[0]),
            (&b, RATE, -plain[1]),
            (&c, RATE, -after[0]),
            (&d, RATE, -after[1]),
            (&SYMMETRIC_EXACT, REACHED, reached),
            (&ASYMMETRIC_EXACT, REACHED, reached),
            (&SYMMETRIC_WIDE, REACHED, f64::INFINITY),
            (&b, REACHED, 20.0 * reached),
            (&d, REACHED, 4.0 * reached),
        ] {
            table.record(&GAUSSIAN, variant, &metric, 0, value).unwrap();
        }
        table
    }

    #[test]
    fn every_part_of_the_criterion_can_fail() {
        let held = |table: Table| -> Vec<bool> {
            let checks = rates(&table, &GAUSSIAN, Size::QUICK).unwrap();
            checks.iter().map(|check| check.holds).collect()
        };
        let good = table(-1.9, [0.075, 0.012], [0.125, 0.125], 100.0);
        assert_eq!(held(good), [true; 9]);
        // The powers of T and of α are wrong, and the rates after the modified step differ and are too slow.
        let bad = table(-1.6, [0.075, 0.02], [0.05, 0.04], f64::INFINITY);
        assert_eq!(
            held(bad),
            [
                false, false, false, false, false, false, false, false, false
            ]
        );
        // An error that rises or has no slope makes the checks fail.
        for none in [-0.01, f64::NAN] {
            let risen = held(table(-1.9, [0.075, none], [0.125, none], 100.0));
            assert_eq!(risen[3..6], [false; 3]);
        }
    }
}
