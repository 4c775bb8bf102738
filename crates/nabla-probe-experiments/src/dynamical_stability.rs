//! Dynamical stability: SGD with one example a step against gradient descent at the same learning rates.
//!
//! Both train from the same weights, on half the squared error, until the loss is below `1e-10`; the Hessian at such a
//! minimum is `1/n Σ φ_i φ_iᵀ` of the gradients of the outputs.
//!
//! * **Diagonal network** `⟨a ⊙ b, x⟩` of 50 inputs, 25 examples of a regression with three ones.
//! * **Two-layer ReLU network** of 100 units, 100 examples of a single neuron with 20 inputs.
//! * **Digits**: a two-layer ReLU network of 30 units tells digits from 5 on from the others, 100 examples.
//! * **Random gradients**: the computed threshold beside `2 / tr H`, in 20 draws a seed.

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::vector::norm;
use nabla_claims::plot::{LinePlot, Series};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
};
use nabla_probe::dynamical_stability::{ExampleCurvature, Sampling, StabilityError};
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use small_models::{Data, Model, digits, generator, single_neuron, sparse_regression};

mod small_models;

const SGD: Variant = Variant::method("SGD, one example a step");
const GD: Variant = Variant::baseline("gradient descent");

const ERROR: Metric = Metric::lower("test error", "");
const TRACE: Metric = Metric::informative("trace of the Hessian times the rate", "");
const LAMBDA: Metric = Metric::informative("largest eigenvalue times the rate", "");
const NORM: Metric = Metric::informative("norm of the weights", "");
const CONVERGED: Metric = Metric::higher("converged", "");

const SPHERE: Task = Task::named("random gradients of one length");
const NORMAL: Task = Task::named("random gradients, normal");
const THRESHOLD: Metric = Metric::informative("threshold times the trace", "");
const COMPUTED: Variant = Variant::method("threshold of SGD, computed");

/// A problem at several learning rates.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Problem {
    Diagonal,
    Relu,
    Digits,
}

impl Problem {
    const ALL: [Self; 3] = [Self::Diagonal, Self::Relu, Self::Digits];

    fn name(self) -> &'static str {
        match self {
            Self::Diagonal => "diagonal network",
            Self::Relu => "ReLU network",
            Self::Digits => "digits",
        }
    }

    fn task(self, rate: f64) -> Task {
        Task::of(format!("{}, rate {rate}", self.name()))
    }

    fn rates(self) -> &'static [f64] {
        match self {
            Self::Diagonal => &[0.005, 0.01, 0.02, 0.03, 0.04],
            Self::Relu => &[0.001, 0.002, 0.004, 0.008, 0.016],
            Self::Digits => &[0.001, 0.002, 0.004, 0.008],
        }
    }

    fn model(self) -> Model {
        match self {
            Self::Diagonal => Model::Diagonal { inputs: 50 },
            Self::Relu => Model::Relu {
                inputs: 20,
                units: 100,
            },
            Self::Digits => Model::Relu {
                inputs: 64,
                units: 30,
            },
        }
    }

    fn data(self, seed: u64) -> Result<[Data; 2], ClaimError> {
        let mut draw = generator(seed);
        Ok(match self {
            Self::Diagonal => sparse_regression(50, 25, &mut draw),
            Self::Relu => single_neuron(20, 100, &mut draw),
            Self::Digits => digits(100, &mut draw)?,
        })
    }

    /// The most steps of SGD, which take one example each, and of gradient descent.
    fn steps(self, quick: bool) -> [usize; 2] {
        match self {
            _ if quick => [300, 30],
            Self::Diagonal => [60_000, 60_000],
            Self::Relu => [200_000, 60_000],
            Self::Digits => [400_000, 50_000],
        }
    }
}

/// Where a training has ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Ending {
    /// Whether the loss is below [`INTERPOLATED`].
    converged: bool,
    /// Twice the test loss; ∞ if the training diverged.
    error: f64,
    trace: f64,
    lambda_max: f64,
    norm: f64,
    /// The largest rate at which SGD rests there, computed.
    threshold: f64,
}

const DIVERGED: Ending = Ending {
    converged: false,
    error: f64::INFINITY,
    trace: f64::INFINITY,
    lambda_max: f64::INFINITY,
    norm: f64::INFINITY,
    threshold: 0.0,
};

/// The loss at which a training has converged.
const INTERPOLATED: f64 = 1e-10;
/// The loss above which it has diverged.
const LOST: f64 = 1e8;

fn trained(
    problem: Problem,
    sgd: bool,
    rate: f64,
    steps: usize,
    seed: u64,
) -> Result<Ending, ClaimError> {
    let [training, test] = problem.data(seed)?;
    let model = problem.model();
    let mut draw = generator(1000 + seed);
    let mut weights = model.first_weights(&mut draw);
    let mut gradient = vec![0.0; weights.len()];
    let mut sum = vec![0.0; weights.len()];
    let n = training.rows.len();
    let every = (steps / 300).max(1);
    for step in 0..steps {
        if sgd {
            let i = draw.random_range(0..n);
            let residual =
                model.gradient(&weights, &training.rows[i], &mut gradient) - training.targets[i];
            let factor = rate * residual;
            weights
                .iter_mut()
                .zip(&gradient)
                .for_each(|(w, g)| *w -= factor * g);
        } else {
            sum.fill(0.0);
            for (x, y) in training.rows.iter().zip(&training.targets) {
                let factor = rate / n as f64 * (model.gradient(&weights, x, &mut gradient) - y);
                sum.iter_mut()
                    .zip(&gradient)
                    .for_each(|(s, g)| *s += factor * g);
            }
            weights.iter_mut().zip(&sum).for_each(|(w, s)| *w -= s);
        }
        if (step + 1) % every == 0 {
            let loss = model.loss(&weights, &training);
            if loss.is_nan() || loss > LOST {
                return Ok(DIVERGED);
            }
            if loss < INTERPOLATED {
                break;
            }
        }
    }
    let loss = model.loss(&weights, &training);
    if loss.is_nan() || loss > LOST {
        return Ok(DIVERGED);
    }
    let mut phi = Vec::with_capacity(n * weights.len());
    for x in &training.rows {
        model.gradient(&weights, x, &mut gradient);
        phi.extend_from_slice(&gradient);
    }
    let ended = Ending {
        converged: loss < INTERPOLATED,
        error: 2.0 * model.loss(&weights, &test),
        trace: 0.0,
        lambda_max: 0.0,
        norm: model.norm(&weights),
        threshold: f64::INFINITY,
    };
    let curvature = match of_rows(phi, n) {
        Ok(curvature) => curvature,
        // All units are off.
        Err(StabilityError::Flat) => return Ok(ended),
        Err(error) => return Err(ClaimError::experiment(error)),
    };
    let sharpness = curvature.sharpness(loss);
    let threshold = curvature.sgd_threshold(1, Sampling::WithReplacement);
    Ok(Ending {
        trace: sharpness.trace,
        lambda_max: sharpness.lambda_max,
        threshold: threshold.map_err(ClaimError::experiment)?,
        ..ended
    })
}

/// From gradients, one after the other.
fn of_rows(phi: Vec<f64>, examples: usize) -> Result<ExampleCurvature, StabilityError> {
    let width = phi.len() / examples;
    let phi = TensorData::new(phi, [examples, width]);
    let phi = Tensor::<2>::from_data(phi, (&Device::flex(), DType::F64));
    ExampleCurvature::of_gradients(&phi)
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct DynamicalStabilityClaim;

impl Claim for DynamicalStabilityClaim {
    fn slug(&self) -> &str {
        "dynamical-stability"
    }

    fn statement(&self) -> &str {
        "If a global minimum is linearly stable for SGD, the trace of the Hessian is at most 2/η; gradient descent's \
         stability bounds only the largest eigenvalue. So the minima of SGD generalise better than those of gradient \
         descent, for two-layer ReLU networks and diagonal linear networks, and the more so the larger the learning rate."
    }

    fn criterion(&self) -> &str {
        "Every converged training (loss below 1e-10) by SGD with one example a step has a trace of at most 2/η; every \
         converged one by gradient descent has a largest eigenvalue of at most 2/η, and some have a larger trace. For the \
         diagonal and the ReLU network, at the largest rate at which SGD converges with every seed, its mean test error \
         is below that of gradient descent at the same rate, and below its own at the smallest rate. In detail: the \
         same for digits; in the diagonal network SGD's error is less than half of gradient descent's, and gradient \
         descent's stays within 10 % over all rates; SGD rests only where the computed threshold allows it; the threshold \
         times the trace is at most 2 in 20 random draws, and 2 where all gradients are of one length."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let tasks = Problem::ALL
            .into_iter()
            .flat_map(|p| p.rates().iter().map(move |&rate| p.task(rate)));
        let mut table = Table::new(
            bench.seeds(),
            [ERROR, TRACE, LAMBDA, NORM, CONVERGED, THRESHOLD],
            [SGD, GD, COMPUTED],
            tasks.chain([NORMAL, SPHERE]),
        )?;
        let mut checks = Vec::new();
        let mut plots = Vec::new();
        let mut runs = Vec::new();
        for problem in Problem::ALL {
            runs.extend(trainings(bench, problem, &mut table)?);
        }
        bounds(&runs, &mut checks);
        for problem in Problem::ALL {
            generalisation(problem, &runs, &mut checks);
            plots.push(plot(problem, &runs));
        }
        thresholds(bench, &mut table, &mut checks)?;
        let mut measurement = Measurement::new(table, checks);
        measurement.plots = plots;
        measurement.notes = vec![
            "A training that diverged has an error of ∞, and one that had not reached the loss is counted as not \
             converged; neither is compared. The threshold is that of the mean square, which a single training can \
             exceed for a while."
                .to_owned(),
        ];
        Ok(measurement)
    }
}

/// A training, and where it has ended.
struct Run {
    problem: Problem,
    sgd: bool,
    rate: f64,
    ending: Ending,
}

fn trainings(
    bench: &Bench<'_>,
    problem: Problem,
    table: &mut Table,
) -> Result<Vec<Run>, ClaimError> {
    let steps = problem.steps(bench.quick());
    let variant = |sgd: bool| if sgd { SGD } else { GD };
    let mut points = Vec::new();
    for &rate in problem.rates() {
        for sgd in [true, false] {
            points.extend(bench.seeds().iter().map(|&seed| (rate, sgd, seed)));
        }
    }
    let found = bench.measure_side_by_side(
        &Stage::new(problem.name(), &steps),
        &points,
        |(rate, sgd, seed)| {
            Cell::of(&problem.task(*rate))
                .variant(&variant(*sgd))
                .seed(*seed)
        },
        |&(rate, sgd, seed)| {
            let [of_sgd, of_descent] = steps;
            let steps = if sgd { of_sgd } else { of_descent };
            trained(problem, sgd, rate, steps, seed)
        },
    )?;
    let mut runs = Vec::with_capacity(points.len());
    for ((rate, sgd, seed), ending) in points.into_iter().zip(found) {
        let (task, variant) = (problem.task(rate), variant(sgd));
        for (metric, value) in [
            (ERROR, ending.error),
            (TRACE, rate * ending.trace),
            (LAMBDA, rate * ending.lambda_max),
            (NORM, ending.norm),
            (CONVERGED, f64::from(u8::from(ending.converged))),
        ] {
            table.record(&task, &variant, &metric, seed, value)?;
        }
        runs.push(Run {
            problem,
            sgd,
            rate,
            ending,
        });
    }
    Ok(runs)
}

/// The largest of some numbers.
fn most(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

fn bounds(runs: &[Run], checks: &mut Vec<Check>) {
    let of = |sgd: bool| {
        runs.iter()
            .filter(move |run| run.sgd == sgd && run.ending.converged)
    };
    let trace = |run: &Run| run.rate * run.ending.trace;
    let sgd = most(of(true).map(trace));
    checks.push(
        Check::new(
            "every converged training by SGD has a trace of at most 2/η",
            of(true).count() > 0 && sgd <= 2.0,
            format!(
                "{} of {} converged; at most {sgd:.2}/η",
                of(true).count(),
                runs.iter().filter(|r| r.sgd).count()
            ),
        )
        .headline(),
    );
    let lambda = most(of(false).map(|run| run.rate * run.ending.lambda_max));
    let (all, wide) = (
        of(false).count(),
        of(false).filter(|run| trace(run) > 2.0).count(),
    );
    checks.push(
        Check::new(
            "every converged training by gradient descent has a largest eigenvalue of at most 2/η, and some have a larger trace",
            all > 0 && lambda <= 2.0 && wide > 0,
            format!(
                "largest eigenvalue at most {lambda:.2}/η; {wide} of {all} have a trace above 2/η, up to {:.1}/η",
                most(of(false).map(trace))
            ),
        )
        .headline(),
    );
    let above = of(true)
        .filter(|run| run.rate > run.ending.threshold)
        .count();
    checks.push(Check::new(
        "SGD has converged only where the computed threshold allows it",
        above == 0,
        format!("{above} of {} above the threshold", of(true).count()),
    ));
}

/// The mean test error at a rate, if all seeds have converged.
fn mean_error(runs: &[Run], problem: Problem, sgd: bool, rate: f64) -> Option<f64> {
    let here = || {
        runs.iter()
            .filter(|run| (run.problem, run.sgd, run.rate) == (problem, sgd, rate))
    };
    let all = here().all(|run| run.ending.converged);
    let sum: f64 = here().map(|run| run.ending.error).sum();
    all.then(|| sum / here().count() as f64)
}

fn generalisation(problem: Problem, runs: &[Run], checks: &mut Vec<Check>) {
    let name = problem.name();
    let headline = problem != Problem::Digits;
    let rates = problem.rates();
    let error = |sgd: bool, rate: f64| mean_error(runs, problem, sgd, rate);
    let best = rates
        .iter()
        .rev()
        .find_map(|&rate| Some((rate, error(true, rate)?)));
    let told = |value: Option<f64>| value.map_or("not converged".to_owned(), |v| format!("{v:.3}"));
    let (rate, large) = best.map_or((f64::NAN, None), |(rate, error)| (rate, Some(error)));
    let (small, descent) = (error(true, rates[0]), error(false, rate));
    let below = |a: Option<f64>, b: Option<f64>| matches!((a, b), (Some(a), Some(b)) if a < b);
    checks.push(
        Check::new(
            format!("{name}: at the largest rate at which SGD converges, its test error is below gradient descent's"),
            below(large, descent),
            format!("rate {rate}: {} and {}", told(large), told(descent)),
        )
        .headline_if(headline),
    );
    checks.push(
        Check::new(
            format!(
                "{name}: the test error of SGD is lower at the largest rate than at the smallest"
            ),
            rate > rates[0] && below(large, small),
            format!("{} at {rate}, {} at {}", told(large), told(small), rates[0]),
        )
        .headline_if(headline),
    );
    if problem == Problem::Diagonal {
        checks.push(Check::new(
            format!("{name}: SGD's error is less than half of gradient descent's"),
            below(large.map(|e| 2.0 * e), descent),
            format!("{} and {}", told(large), told(descent)),
        ));
        let errors: Vec<f64> = rates
            .iter()
            .filter_map(|&rate| error(false, rate))
            .collect();
        let (low, high) = (
            errors.iter().copied().fold(f64::INFINITY, f64::min),
            most(errors.iter().copied()),
        );
        checks.push(Check::new(
            format!("{name}: gradient descent's error does not depend on the rate"),
            errors.len() == rates.len() && high <= 1.1 * low,
            format!("{low:.2} to {high:.2}"),
        ));
    }
}

fn plot(problem: Problem, runs: &[Run]) -> LinePlot {
    let curve = |sgd: bool| {
        let points = problem.rates().iter();
        points.filter_map(move |&rate| Some([rate, mean_error(runs, problem, sgd, rate)?]))
    };
    LinePlot::new(
        format!("{}: test error where all seeds converged", problem.name()),
        "learning rate",
        "test error",
    )
    .log_x()
    .log_y()
    .with_series(Series::new(SGD.name(), curve(true)))
    .with_series(Series::new(GD.name(), curve(false)))
}

/// Draws of each kind for each seed.
const DRAWS: usize = 20;

fn thresholds(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<(), ClaimError> {
    let points: Vec<(bool, u64)> = [false, true]
        .into_iter()
        .flat_map(|sphere| bench.seeds().iter().map(move |&s| (sphere, s)))
        .collect();
    let task = |sphere: bool| if sphere { SPHERE } else { NORMAL };
    let found = bench.measure_side_by_side(
        &Stage::new("random gradients", &DRAWS),
        &points,
        |(sphere, seed)| Cell::of(&task(*sphere)).variant(&COMPUTED).seed(*seed),
        |&(sphere, seed)| {
            let mut draw = generator(2000 + seed);
            let mut products = Vec::with_capacity(DRAWS);
            for _ in 0..DRAWS {
                let mut phi: Vec<f64> = (0..50 * 6)
                    .map(|_| StandardNormal.sample(&mut draw))
                    .collect();
                if sphere {
                    for row in phi.chunks_exact_mut(6) {
                        let length = norm(row);
                        row.iter_mut().for_each(|x| *x /= length);
                    }
                }
                let curvature = of_rows(phi, 50).map_err(ClaimError::experiment)?;
                let rate = curvature
                    .sgd_threshold(1, Sampling::WithReplacement)
                    .map_err(ClaimError::experiment)?;
                products.push(rate * curvature.sharpness(0.0).trace);
            }
            Ok(products)
        },
    )?;
    for ((sphere, seed), products) in points.iter().zip(&found) {
        let mean = products.iter().sum::<f64>() / products.len() as f64;
        table.record(&task(*sphere), &COMPUTED, &THRESHOLD, *seed, mean)?;
    }
    let of = |sphere: bool| {
        let chosen = points
            .iter()
            .zip(&found)
            .filter(move |((s, _), _)| *s == sphere);
        chosen.flat_map(|(_, products)| products.iter().copied())
    };
    let highest = most(of(false));
    checks.push(Check::new(
        "the threshold times the trace is at most 2 in random draws",
        highest <= 2.0 + 1e-6,
        format!("at most {highest:.3} in {} draws", of(false).count()),
    ));
    let off = most(of(true).map(|product| (product - 2.0).abs()));
    checks.push(Check::new(
        "the threshold times the trace is 2 where all gradients are of one length",
        off < 1e-3,
        format!("off by at most {off:.1e}"),
    ));
    Ok(())
}
