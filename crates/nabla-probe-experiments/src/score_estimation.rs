//! Score estimation in the kernel regime: a network against its regression, and stopping early.
//!
//! A mixture of three Gaussians in the plane, whose `f*(t, x) = E[X_0 | X_t = x]` is known, with noise of times from 0.05
//! to 3; and the handwritten digits, reduced to their eight principal components.
//!
//! * **Network and regression**: 200 pairs, 300 steps at the rate 1, widths from 100 to 6400.
//! * **Stopping**: the regression on 100, 400 and 1600 pairs up to the time 10⁷, its error against `f*` on 4000 fresh
//!   pairs, and the steps that theory and 1000 held out pairs choose.
//! * **Samples** from the regression of 400 pairs, stopped by the held out pairs and at the end: by the probability flow
//!   to the time 0.05, and from there by `f`.

use faer::Mat;
use nabla_base::vector::{distance as apart, norm};
use nabla_claims::plot::{LinePlot, Series};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_grad::trace::Probe;
use nabla_probe::gauge_freedom::{FlowGrid, GaussianMixtureScore, MixtureComponent, flow_samples};
use nabla_probe::kernel_gradient_descent::{KernelGd, steps_up_to};
use nabla_probe::score_estimation::{
    ForwardProcess, KernelRegime, KernelScore, LargeInputs, ScorePairs, ScoreParam, posterior_mean,
    posterior_noise,
};
use nabla_train::sliced_wasserstein::{SliceDirections, WassersteinOrder, sliced_wasserstein};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

const NETWORK: Variant = Variant::method("network");
const BEST: Variant = Variant::baseline("best step");
const HOLDOUT: Variant = Variant::method("stopped by held out pairs");
const THEORY: Variant = Variant::method("stopped by theory");
const END: Variant = Variant::baseline("at the end");

const DEVIATION: Metric = Metric::lower("largest deviation from the regression", "");
const RELATIVE: Metric = Metric::lower(
    "largest deviation from the regression, of its predictions",
    "%",
);
const MOVE: Metric = Metric::informative("longest way of a unit", "");
const ERROR: Metric = Metric::lower("mean of ‖f − f*‖²", "");
const SCORE_ERROR: Metric = Metric::lower("mean of ‖s − ∇ln p‖²", "");
const TIME: Metric = Metric::informative("time ητ", "");
const DISTANCE: Metric = Metric::lower("sliced Wasserstein distance of samples to data", "");
const NEAR: Metric = Metric::lower("samples within 0.05 of a training point", "%");
const LOSS: Metric = Metric::lower("mean of ‖f − X₀‖² on held out pairs", "");

const DIGITS: Task = Task::named("digits, 8 principal components");

const WIDTHS: [usize; 4] = [100, 400, 1600, 6400];
const PAIRS: [usize; 3] = [100, 400, 1600];
/// Of the samples, an index into [`PAIRS`].
const SAMPLED: usize = 1;

fn width_task(place: usize) -> Task {
    Task::of(format!("mixture, 200 pairs, width {}", WIDTHS[place]))
}

fn pairs_task(place: usize) -> Task {
    Task::of(format!("mixture, {} pairs", PAIRS[place]))
}

/// Everything that a quick run does less of.
#[derive(Clone, Copy, Debug)]
struct Budget {
    widths: [usize; 4],
    network_pairs: usize,
    network_steps: usize,
    pairs: [usize; 3],
    test: usize,
    holdout: usize,
    latest: u64,
    samples: usize,
    flow: usize,
    digits: usize,
    digits_width: usize,
}

impl Budget {
    fn of(quick: bool) -> Self {
        match quick {
            true => Self {
                widths: [20, 40, 80, 160],
                network_pairs: 30,
                network_steps: 20,
                pairs: [20, 40, 80],
                test: 100,
                holdout: 50,
                latest: 10_000,
                samples: 30,
                flow: 10,
                digits: 60,
                digits_width: 40,
            },
            false => Self {
                widths: WIDTHS,
                network_pairs: 200,
                network_steps: 300,
                pairs: PAIRS,
                test: 4000,
                holdout: 1000,
                latest: 10_000_000,
                samples: 1000,
                flow: 100,
                digits: 800,
                digits_width: 6400,
            },
        }
    }
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClaimError {
    ClaimError::experiment(error)
}

const MEANS: [[f64; 2]; 3] = [[1.0, 0.0], [-0.6, 0.9], [-0.6, -0.9]];
const WEIGHTS: [f64; 3] = [0.4, 0.3, 0.3];
const DEVIATION_OF_DATA: f64 = 0.15;

fn mixture() -> Result<GaussianMixtureScore, ClaimError> {
    let part =
        |k: usize| MixtureComponent::isotropic(WEIGHTS[k], MEANS[k].to_vec(), DEVIATION_OF_DATA);
    GaussianMixtureScore::new((0..3).map(part).collect()).map_err(failed)
}

/// `X_0`, `[count, 2]`.
fn data(count: usize, seed: u64, stream: u64) -> Vec<f64> {
    let mut noise = SeededNoise::new(seed, stream);
    let mut points = Vec::with_capacity(2 * count);
    for _ in 0..count {
        let share: f64 = noise.random();
        let part = usize::from(share > 0.4) + usize::from(share > 0.7);
        let z = Probe::Gaussian.draw(2, &mut noise);
        let each = MEANS[part].iter().zip(z);
        points.extend(each.map(|(mean, z)| mean + DEVIATION_OF_DATA * z));
    }
    points
}

/// Streams of a seed: training, held out and fresh pairs.
fn pairs(count: usize, seed: u64, stream: u64) -> Result<ScorePairs, ClaimError> {
    let points = data(count, seed, stream);
    let noise = 1000 * (seed + 1) + stream;
    ScorePairs::draw(
        &points,
        2,
        &ForwardProcess::default(),
        LargeInputs::Keep,
        noise,
    )
    .map_err(failed)
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Followed {
    deviation: f64,
    prediction: f64,
    moved: f64,
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

fn followed(width: usize, budget: &Budget, seed: u64) -> Result<Followed, ClaimError> {
    let config = KernelRegime {
        steps: budget.network_steps,
        latest: 1,
        seed,
        ..KernelRegime::new(width)
    };
    let (training, holdout) = (pairs(budget.network_pairs, seed, 1)?, pairs(2, seed, 2)?);
    let device = burn::tensor::Device::flex();
    let report = config
        .run(&training, &holdout, None, &device)
        .map_err(failed)?;
    Ok(Followed {
        deviation: most(&report.deviation),
        prediction: report.prediction,
        moved: most(&report.weight_move),
    })
}

/// A regression after some steps.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Moment {
    time: f64,
    error: f64,
    score_error: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Stopping {
    best: Moment,
    holdout: Moment,
    theory: Moment,
    end: Moment,
    /// `ς`.
    noise: f64,
    /// The root mean square of `f*`, for one output.
    signal: f64,
    /// Times and errors.
    curve: Vec<[f64; 2]>,
}

fn stopping(count: usize, budget: &Budget, seed: u64) -> Result<Stopping, ClaimError> {
    let (score, process) = (mixture()?, ForwardProcess::default());
    let training = pairs(count, seed, 1)?;
    let holdout = pairs(budget.holdout, seed, 2)?;
    let fresh = pairs(budget.test, seed, 3)?;
    let targets = |of: &ScorePairs| -> Result<Vec<f64>, ClaimError> {
        let mut targets = Vec::with_capacity(of.noisy.len());
        for (t, x) in of.times.iter().zip(of.noisy.chunks(2)) {
            targets.extend(posterior_mean(&score, &process, *t, x).map_err(failed)?);
        }
        Ok(targets)
    };
    let mut noise = 0.0;
    for (t, x) in training.times.iter().zip(training.noisy.chunks(2)) {
        noise += posterior_noise(&score, &process, *t, x).map_err(failed)? / count as f64;
    }
    let noise = noise.sqrt();
    let exact = targets(&fresh)?;
    let kernel = training.kernel(&training).map_err(failed)?;
    let descent = KernelGd::new(&kernel, &training.clean, 2, 1.0).map_err(failed)?;
    let cross = fresh.kernel(&training).map_err(failed)?;
    let steps = steps_up_to(budget.latest, 1.25).map_err(failed)?;
    let errors = descent.errors_at(&steps, &cross, &exact).map_err(failed)?;
    let of_holdout = holdout.kernel(&training).map_err(failed)?;
    let losses = descent
        .errors_at(&steps, &of_holdout, &holdout.clean)
        .map_err(failed)?;
    let moment = |step: u64| -> Result<Moment, ClaimError> {
        let found = descent.predict_at(step, &cross).map_err(failed)?;
        let mut moment = Moment {
            time: step as f64 * descent.rate(),
            error: 0.0,
            score_error: 0.0,
        };
        let each = found.chunks(2).zip(exact.chunks(2)).zip(&fresh.times);
        for ((f, exact), &t) in each {
            let square = apart(f, exact).powi(2) / budget.test as f64;
            let weight = ScoreParam::Score.loss_weight(process.signal(t), process.variance(t));
            moment.error += square;
            moment.score_error += weight * square;
        }
        Ok(moment)
    };
    let least = |values: &[f64]| {
        let places = 0..values.len();
        let place = places.min_by(|&a, &b| values[a].total_cmp(&values[b]));
        place.map_or(0, |place| steps[place])
    };
    Ok(Stopping {
        best: moment(least(&errors))?,
        holdout: moment(least(&losses))?,
        theory: moment(descent.stop_by_theory(noise).map_err(failed)?)?,
        end: moment(budget.latest)?,
        noise,
        signal: norm(&exact) / (exact.len() as f64).sqrt(),
        curve: steps
            .iter()
            .zip(&errors)
            .map(|(&step, &error)| [step as f64, error])
            .collect(),
    })
}

/// Samples of a stopped regression: distance to data, and how many are copies, in per cent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Drawn {
    distance: f64,
    near: f64,
}

fn samples(time: f64, budget: &Budget, seed: u64) -> Result<Drawn, ClaimError> {
    let process = ForwardProcess::default();
    let training = pairs(budget.pairs[SAMPLED], seed, 1)?;
    let kernel = training.kernel(&training).map_err(failed)?;
    let descent = KernelGd::new(&kernel, &training.clean, 2, 1.0).map_err(failed)?;
    let score = KernelScore::new(process, &training, descent.stopped_at(time as u64));
    let grid = FlowGrid {
        sigma_max: process.sigma(process.latest),
        sigma_min: process.sigma(process.earliest),
        steps: budget.flow,
    };
    // The starts are exact: what is measured is the regression.
    let mut noise = SeededNoise::new(seed, 5);
    let z = Probe::Gaussian.draw(2 * budget.samples, &mut noise);
    let clean = data(budget.samples, seed, 6);
    let starts: Vec<f64> = clean
        .iter()
        .zip(&z)
        .map(|(x, z)| x + grid.sigma_max * z)
        .collect();
    let ends = flow_samples(&score, &starts, &grid).map_err(failed)?;
    let signal = process.signal(process.earliest);
    let mut drawn = Vec::with_capacity(ends.len());
    for u in ends.chunks(2) {
        let x = [signal * u[0], signal * u[1]];
        drawn.extend(score.clean(process.earliest, &x).map_err(failed)?);
    }
    let directions = SliceDirections::even(64).map_err(failed)?;
    let fresh = data(budget.samples, seed, 7);
    let distance = sliced_wasserstein(&drawn, &fresh, WassersteinOrder::First, &directions);
    let near = drawn.chunks(2).filter(|x| {
        let mut others = training.clean.chunks(2);
        others.any(|other| apart(x, other) < 0.05)
    });
    Ok(Drawn {
        distance: distance.map_err(failed)?,
        near: 100.0 * near.count() as f64 / budget.samples as f64,
    })
}

/// The digits, in their eight first principal components, of mean square 1 for all together.
fn digits() -> Result<Vec<f64>, ClaimError> {
    let pictures = nabla_data::digits().map_err(failed)?;
    let count = pictures.len();
    let mut centred = Mat::from_fn(count, 64, |i, j| f64::from(pictures.pixels(i)[j]));
    for j in 0..64 {
        let mean = (0..count).map(|i| centred[(i, j)]).sum::<f64>() / count as f64;
        (0..count).for_each(|i| centred[(i, j)] -= mean);
    }
    let svd = centred.as_ref().thin_svd();
    let svd = svd.map_err(|_| failed("the principal components of the digits were not found"))?;
    let scores = centred.as_ref() * svd.V().subcols(0, 8);
    let mut values: Vec<f64> = (0..count * 8).map(|i| scores[(i / 8, i % 8)]).collect();
    let scale = norm(&values) / (values.len() as f64).sqrt();
    values.iter_mut().for_each(|x| *x /= scale);
    Ok(values)
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct OfDigits {
    followed: Followed,
    /// The time that held out pairs choose, and their loss then, at the end, and of predicting 0.
    time: f64,
    holdout: f64,
    end: f64,
    zero: f64,
    curve: Vec<[f64; 2]>,
}

fn of_digits(budget: &Budget, seed: u64) -> Result<OfDigits, ClaimError> {
    let all = digits()?;
    let mut order: Vec<usize> = (0..all.len() / 8).collect();
    order.shuffle(&mut SeededNoise::new(seed, 8));
    let process = ForwardProcess::default();
    let drawn = |chosen: &[usize], seed: u64| {
        let points: Vec<f64> = chosen
            .iter()
            .flat_map(|&i| &all[8 * i..][..8])
            .copied()
            .collect();
        ScorePairs::draw(&points, 8, &process, LargeInputs::Keep, seed).map_err(failed)
    };
    let training = drawn(&order[..budget.digits], 10 + seed)?;
    let holdout = drawn(&order[budget.digits..], 20 + seed)?;
    let config = KernelRegime {
        steps: budget.network_steps,
        latest: budget.latest,
        seed,
        ..KernelRegime::new(budget.digits_width)
    };
    let device = burn::tensor::Device::flex();
    let report = config
        .run(&training, &holdout, None, &device)
        .map_err(failed)?;
    let at = |step: u64| report.curve.iter().find(|point| point.step == step);
    let end = report.curve.last().map_or(f64::NAN, |point| point.holdout);
    Ok(OfDigits {
        followed: Followed {
            deviation: most(&report.deviation),
            prediction: report.prediction,
            moved: most(&report.weight_move),
        },
        time: config.rate * report.stop_holdout as f64,
        holdout: at(report.stop_holdout).map_or(f64::NAN, |point| point.holdout),
        end,
        zero: norm(&holdout.clean).powi(2) / holdout.len() as f64,
        curve: report
            .curve
            .iter()
            .map(|point| [config.rate * point.step as f64, point.holdout])
            .collect(),
    })
}

fn follow(
    bench: &Bench<'_>,
    budget: &Budget,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<(), ClaimError> {
    let points: Vec<(usize, u64)> = (0..WIDTHS.len())
        .flat_map(|place| bench.seeds().iter().map(move |&seed| (place, seed)))
        .collect();
    let found = bench.measure_side_by_side(
        &Stage::new("network and regression", budget),
        &points,
        |(place, seed)| Cell::of(&width_task(*place)).variant(&NETWORK).seed(*seed),
        |&(place, seed)| followed(budget.widths[place], budget, seed),
    )?;
    for ((place, seed), found) in points.iter().zip(&found) {
        record_followed(table, &width_task(*place), *seed, found)?;
    }
    let mut deviations = Vec::new();
    for place in 0..WIDTHS.len() {
        deviations.push(table.mean(&width_task(place), &NETWORK, &DEVIATION)?);
    }
    let ratios: Vec<f64> = deviations
        .windows(2)
        .map(|pair| pair[0] / pair[1])
        .collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let relative = table.mean(&width_task(WIDTHS.len() - 1), &NETWORK, &RELATIVE)?;
    checks.push(
        Check::new(
            "the network's deviation from the regression falls by at least 1.5 with every four times the width, and is \
             below 10 % of the predictions at the largest",
            least >= 1.5 && relative < 10.0,
            format!("by at least {least:.2}; {relative:.1} %"),
        )
        .headline(),
    );
    Ok(())
}

fn record_followed(
    table: &mut Table,
    task: &Task,
    seed: u64,
    found: &Followed,
) -> Result<(), ClaimError> {
    for (metric, value) in [
        (DEVIATION, found.deviation),
        (RELATIVE, 100.0 * found.deviation / found.prediction),
        (MOVE, found.moved),
    ] {
        table.record(task, &NETWORK, &metric, seed, value)?;
    }
    Ok(())
}

fn stop(
    bench: &Bench<'_>,
    budget: &Budget,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<(LinePlot, String), ClaimError> {
    let points: Vec<(usize, u64)> = (0..PAIRS.len())
        .flat_map(|place| bench.seeds().iter().map(move |&seed| (place, seed)))
        .collect();
    let found = bench.measure_side_by_side(
        &Stage::new("stopping", budget),
        &points,
        |(place, seed)| Cell::of(&pairs_task(*place)).variant(&HOLDOUT).seed(*seed),
        |&(place, seed)| stopping(budget.pairs[place], budget, seed),
    )?;
    for ((place, seed), found) in points.iter().zip(&found) {
        let task = pairs_task(*place);
        for (variant, moment) in [
            (BEST, &found.best),
            (HOLDOUT, &found.holdout),
            (THEORY, &found.theory),
            (END, &found.end),
        ] {
            table.record(&task, &variant, &ERROR, *seed, moment.error)?;
            table.record(&task, &variant, &SCORE_ERROR, *seed, moment.score_error)?;
            table.record(&task, &variant, &TIME, *seed, moment.time)?;
        }
    }
    let mut errors = Vec::new();
    for place in 0..PAIRS.len() {
        let mean = |variant| table.mean(&pairs_task(place), variant, &ERROR);
        errors.push([mean(&BEST)?, mean(&HOLDOUT)?, mean(&THEORY)?, mean(&END)?]);
    }
    let told = |k: usize| -> String {
        let each: Vec<String> = errors.iter().map(|e| format!("{:.3}", e[k])).collect();
        each.join(", ")
    };
    checks.push(
        Check::new(
            "at its best step the regression has at most half the error of the end, with any number of pairs",
            errors.iter().all(|e| e[0] <= 0.5 * e[3]),
            format!("{} against {}", told(0), told(3)),
        )
        .headline(),
    );
    checks.push(
        Check::new(
            "the error at the best step falls with the number of pairs",
            errors.windows(2).all(|pair| pair[1][0] < pair[0][0]),
            told(0),
        )
        .headline(),
    );
    checks.push(
        Check::new(
            "stopped by theory and by held out pairs, the error is at most half of that at the end, with any number of \
             pairs",
            errors.iter().all(|e| e[1] <= 0.5 * e[3] && e[2] <= 0.5 * e[3]),
            format!("theory {}; held out pairs {}", told(2), told(1)),
        )
        .headline(),
    );
    checks.push(Check::new(
        "stopped by held out pairs, the error is within 25 % of the best",
        errors.iter().all(|e| e[1] <= 1.25 * e[0]),
        format!("{} against {}", told(1), told(0)),
    ));
    let mut plot = LinePlot::new(
        "Error of the regression over time",
        "time ητ",
        "mean of ‖f − f*‖²",
    )
    .log_x()
    .log_y();
    for (place, pairs) in PAIRS.iter().enumerate() {
        let own = points.iter().zip(&found).find(|((p, _), _)| *p == place);
        if let Some((_, found)) = own {
            let name = format!("{pairs} pairs");
            plot = plot.with_series(Series::new(name, found.curve.iter().copied()));
        }
    }
    let count = found.len() as f64;
    let mean = |of: fn(&Stopping) -> f64| found.iter().map(of).sum::<f64>() / count;
    let note = format!(
        "The noise of the labels is {:.2} for a number, the root mean square of f* {:.2}. Theory stops at {:.0} % of the \
         best time.",
        mean(|f| f.noise),
        mean(|f| f.signal),
        100.0 * mean(|f| f.theory.time / f.best.time),
    );
    // Samples of the regression, at the times that the first part has found.
    let chosen: Vec<(Variant, f64, u64)> = points
        .iter()
        .zip(&found)
        .filter(|((place, _), _)| *place == SAMPLED)
        .flat_map(|((_, seed), found)| {
            [
                (HOLDOUT, found.holdout.time, *seed),
                (END, found.end.time, *seed),
            ]
        })
        .collect();
    let drawn = bench.measure_side_by_side(
        &Stage::new("samples", budget),
        &chosen,
        |(variant, _, seed)| Cell::of(&pairs_task(SAMPLED)).variant(variant).seed(*seed),
        |&(_, time, seed)| samples(time, budget, seed),
    )?;
    let task = pairs_task(SAMPLED);
    for ((variant, _, seed), drawn) in chosen.iter().zip(&drawn) {
        table.record(&task, variant, &DISTANCE, *seed, drawn.distance)?;
        table.record(&task, variant, &NEAR, *seed, drawn.near)?;
    }
    for metric in [DISTANCE, NEAR] {
        checks.push(table.compare(&task, &metric, &HOLDOUT, &END)?);
    }
    Ok((plot, note))
}

fn of_real_data(
    bench: &Bench<'_>,
    budget: &Budget,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<LinePlot, ClaimError> {
    let seeds = bench.seeds().to_vec();
    let found = bench.measure_side_by_side(
        &Stage::new("digits", budget),
        &seeds,
        |seed| Cell::of(&DIGITS).variant(&NETWORK).seed(*seed),
        |&seed| of_digits(budget, seed),
    )?;
    for (seed, found) in seeds.iter().zip(&found) {
        record_followed(table, &DIGITS, *seed, &found.followed)?;
        table.record(&DIGITS, &HOLDOUT, &LOSS, *seed, found.holdout)?;
        table.record(&DIGITS, &HOLDOUT, &TIME, *seed, found.time)?;
        table.record(&DIGITS, &END, &LOSS, *seed, found.end)?;
    }
    checks.push(table.compare(&DIGITS, &LOSS, &HOLDOUT, &END)?);
    let zero = found.iter().map(|f| f.zero).sum::<f64>() / found.len() as f64;
    let stopped = table.mean(&DIGITS, &HOLDOUT, &LOSS)?;
    checks.push(Check::new(
        "digits: stopped by held out pairs, the loss is below that of predicting 0",
        stopped < zero,
        format!("{stopped:.2} against {zero:.2}"),
    ));
    let relative = table.mean(&DIGITS, &NETWORK, &RELATIVE)?;
    checks.push(Check::new(
        "digits: the network's deviation from the regression is below 10 % of the predictions",
        relative < 10.0,
        format!("{relative:.1} %"),
    ));
    let plot = LinePlot::new(
        "Digits: loss of the regression on held out pairs",
        "time ητ",
        "mean of ‖f − X₀‖²",
    )
    .log_x()
    .log_y();
    Ok(match found.first() {
        Some(first) => plot.with_series(Series::new("held out pairs", first.curve.iter().copied())),
        None => plot,
    })
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct ScoreEstimationClaim;

impl Claim for ScoreEstimationClaim {
    fn slug(&self) -> &str {
        "score-estimation"
    }

    fn statement(&self) -> &str {
        "With a parametric form, denoising score matching is a regression with noisy labels. The evolution of networks \
         trained by gradient descent can be accurately modelled by a series of kernel regressions; and with early \
         stopping, the score is learnt despite the noise of the labels."
    }

    fn criterion(&self) -> &str {
        "On a mixture in the plane: the largest deviation of the network from the regression falls by at least 1.5 with \
         every four times the width, and at width 6400 is below 10 % of the predictions' root mean square. The \
         regression's error against E[X₀|X_t] at its best step is at most half of that at the time 10⁷, with 100, 400 \
         and 1600 pairs, and falls with their number. Stopped by theory and by held out pairs, the error is at most half \
         of that at the end. In detail: held out pairs come within 25 % of the best; samples of the stopped regression \
         are nearer to data and are less often copies of training points than those of the end; on digits, the same of \
         the deviation, and the loss of the stopped regression is below that of the end and of predicting 0."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let budget = Budget::of(bench.quick());
        let widths = (0..WIDTHS.len()).map(width_task);
        let tasks = widths
            .chain((0..PAIRS.len()).map(pairs_task))
            .chain([DIGITS]);
        let mut table = Table::new(
            bench.seeds(),
            [
                DEVIATION,
                RELATIVE,
                MOVE,
                ERROR,
                SCORE_ERROR,
                TIME,
                DISTANCE,
                NEAR,
                LOSS,
            ],
            [NETWORK, HOLDOUT, THEORY, BEST, END],
            tasks,
        )?;
        let mut checks = Vec::new();
        follow(bench, &budget, &mut table, &mut checks)?;
        let (plot, note) = stop(bench, &budget, &mut table, &mut checks)?;
        let digits = of_real_data(bench, &budget, &mut table, &mut checks)?;
        let mut measurement = Measurement::new(table, checks);
        measurement.plots = vec![plot, digits];
        measurement.notes = vec![
            note,
            "Not measured: the rates of the paper's bounds. The pairs are drawn once; with fresh noise in every step, as \
             networks are usually trained, they would not run out."
                .to_owned(),
        ];
        Ok(measurement)
    }
}
