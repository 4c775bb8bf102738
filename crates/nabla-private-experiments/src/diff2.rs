//! DIFF2 against private gradient descent at the same budget.
//!
//! * **The rate.** A nonconvex function of 100 numbers whose gradient a mechanism releases with the noise that `nμ` asks
//!   for: `n` examples, `μ`-Gaussian differential privacy. For each `nμ` and method the learning rate, the number of
//!   rounds and the rounds between two restarts are the best of a grid by the seeds' mean.
//! * **Real data.** The digits, a network of one hidden layer, `ε` of 3 and 5, `δ = 1e-5`, settings from a grid by the
//!   seeds' mean. Each method makes the same number of rounds but for DP-SGD, which makes as many passes over the data.

use std::convert::Infallible;
use std::ops::ControlFlow;

use burn::tensor::Device;
use nabla_base::vector::squared_norm;
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, LinePlot, Measurement, Metric, Series, Stage, Table,
    Task, Variant,
};
use nabla_private::clipping::Clipping;
use nabla_private::diff2::{Diff2Config, Estimate, Routine};
use nabla_private::private_training::{PrivacyConfig, PrivateMethod};
use nabla_private::secret_noise::NoiseKey;
use nabla_train::data_set::{DataSet, Standardization};
use nabla_train::experiment::{Experiment, ModelConfig};
use nabla_train::mlp::MlpConfig;
use nabla_train::optimizer::OptimizerConfig;
use nabla_train::schedule::{Decay, Schedule};

const DIFF2: Variant = Variant::method("DIFF2-GD");
const LOCAL: Variant = Variant::method("DIFF2-BVR-L-SGD");
const DP_GD: Variant = Variant::baseline("DP-GD");
const DP_SGD: Variant = Variant::baseline("DP-SGD");

const SQUARE: Metric = Metric::lower("squared norm of the gradient", "");
const LOSS: Metric = Metric::lower("training loss", "");
const ACCURACY: Metric = Metric::higher("test accuracy", "%");

/// `nμ`.
const SIZES: [f64; 5] = [300.0, 1000.0, 3000.0, 10_000.0, 30_000.0];
const BUDGETS: [f64; 2] = [3.0, 5.0];

fn size_task(size: f64) -> Task {
    Task::of(format!("nonconvex function, nμ = {size}"))
}

fn digits_task(epsilon: f64) -> Task {
    Task::of(format!("digits, ε = {epsilon}"))
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct Diff2Claim;

impl Claim for Diff2Claim {
    fn slug(&self) -> &str {
        "diff2"
    }

    fn statement(&self) -> &str {
        "For nonconvex problems, DIFF2 improves the utility bound in the sample size from √d/(nε) to (√d/(nε))^(4/3), \
         for the squared norm of the full gradient, and is superior to private gradient descent in experiments."
    }

    fn criterion(&self) -> &str {
        "The squared norm falls with nμ from 3000 to 30000 by a power that is at least 0.2 steeper than that of DP-GD, \
         and is at most a third of DP-GD's at 30000. On the digits, at ε = 3 and at ε = 5, DIFF2-GD has a lower training \
         loss than DP-GD. In detail: local steps are no worse than DIFF2-GD."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let tasks = SIZES
            .map(size_task)
            .into_iter()
            .chain(BUDGETS.map(digits_task));
        let mut table = Table::new(
            bench.seeds(),
            [SQUARE, LOSS, ACCURACY],
            [DIFF2, LOCAL, DP_GD, DP_SGD],
            tasks,
        )?;
        let mut checks = Vec::new();
        let plot = rate(bench, &mut table, &mut checks)?;
        digits(bench, &mut table, &mut checks)?;
        let mut measurement = Measurement::new(table, checks);
        measurement.plots = vec![plot];
        measurement.notes = vec![
            "Neighbouring data sets differ by one example more or less, with a public n; where the paper replaces one \
             example, nμ is half as large."
                .to_owned(),
        ];
        Ok(measurement)
    }
}

const DIMENSION: usize = 100;
/// The bound of the gradients, and that of the curvature, of the function.
const CLIPS: [f64; 2] = [3.0, 3.0];

/// `F(x) = Σ λ_j (½x_j² + ½cos 2x_j)`, with `λ` from 0.02 to 1.
fn gradient(x: &[f64]) -> Vec<f64> {
    let scale = |j: usize| 0.02 * 50f64.powf(j as f64 / (x.len() - 1) as f64);
    x.iter()
        .enumerate()
        .map(|(j, x)| scale(j) * (x - (2.0 * x).sin()))
        .collect()
}

/// A way down.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Setting {
    learning_rate: f64,
    rounds: u64,
    /// 1 for DP-GD.
    restart: usize,
}

/// The settings of DIFF2 (`true`) or DP-GD.
fn settings(of_diff2: bool, quick: bool) -> Vec<Setting> {
    let rounds: &[u64] = match quick {
        true => &[100],
        false => &[100, 300, 1000, 3000],
    };
    let mut settings = Vec::new();
    for &rounds in rounds {
        let restarts = match of_diff2 {
            true => vec![
                10,
                rounds as usize / 30,
                rounds as usize / 10,
                rounds as usize / 3,
            ],
            false => vec![1],
        };
        for restart in restarts
            .into_iter()
            .filter(|&restart| !of_diff2 || restart > 1)
        {
            for learning_rate in [0.03, 0.1, 0.3] {
                settings.push(Setting {
                    learning_rate,
                    rounds,
                    restart,
                });
            }
        }
    }
    settings
}

/// The squared norm of the gradient at the end.
fn descend(setting: Setting, size: f64, seed: u64) -> f64 {
    let config = Diff2Config {
        restart: setting.restart,
        ..Diff2Config::default()
    };
    let [whole, differences, _] = config.multipliers(setting.rounds, 1.0 / size, 1);
    let mut estimate = Estimate::new(CLIPS, [whole, differences], setting.restart);
    let key = NoiseKey::from_seed(seed);
    let mut x = vec![2.0; DIMENSION];
    for round in 0..setting.rounds {
        let noise = key.normal(round, DIMENSION);
        let mean = |before: Option<&[f64]>, _: f64| {
            let mut mean = gradient(&x);
            if let Some(before) = before {
                mean.iter_mut()
                    .zip(gradient(before))
                    .for_each(|(g, b)| *g -= b);
            }
            Ok::<_, Infallible>(mean)
        };
        let Ok(v) = estimate.advance(x.clone(), noise, mean);
        x.iter_mut()
            .zip(v)
            .for_each(|(x, v)| *x -= setting.learning_rate * v);
    }
    squared_norm(&gradient(&x))
}

fn rate(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<LinePlot, ClaimError> {
    let seeds = bench.seeds();
    let points: Vec<(f64, bool)> = SIZES
        .into_iter()
        .flat_map(|size| [true, false].map(|of_diff2| (size, of_diff2)))
        .collect();
    let variant = |of_diff2: bool| if of_diff2 { DIFF2 } else { DP_GD };
    let quick = bench.quick();
    let found = bench.measure(
        &Stage::new("rate", &(DIMENSION, settings(true, quick))),
        &points,
        |(size, of_diff2)| Cell::of(&size_task(*size)).variant(&variant(*of_diff2)),
        |&(size, of_diff2)| {
            let of = |setting| {
                seeds
                    .iter()
                    .map(|&seed| descend(setting, size, seed))
                    .collect()
            };
            let all = settings(of_diff2, quick).into_iter().map(of);
            // A way that runs away is not the best, whatever sign its NaN has.
            let mean = |squares: &Vec<f64>| {
                let sum: f64 = squares.iter().sum();
                if sum.is_finite() { sum } else { f64::INFINITY }
            };
            let best = all.min_by(|a: &Vec<f64>, b| mean(a).total_cmp(&mean(b)));
            best.ok_or_else(|| ClaimError::experiment("no setting was tried"))
        },
    )?;
    let mut plot = LinePlot::new("squared norm of the gradient", "nμ", "‖∇F‖²")
        .log_x()
        .log_y();
    let mut curves = [Vec::new(), Vec::new()];
    for ((size, of_diff2), squares) in points.into_iter().zip(found) {
        let mean = squares.iter().sum::<f64>() / squares.len() as f64;
        curves[usize::from(!of_diff2)].push([size, mean]);
        for (&seed, square) in seeds.iter().zip(squares) {
            table.record(&size_task(size), &variant(of_diff2), &SQUARE, seed, square)?;
        }
    }
    let slope = |curve: &[[f64; 2]]| {
        let [a, b] = [curve[2], curve[4]];
        (b[1] / a[1]).ln() / (b[0] / a[0]).ln()
    };
    let [ours, theirs] = [&curves[0], &curves[1]].map(|curve| slope(curve));
    checks.push(
        Check::new(
            "the squared norm falls by a power that is at least 0.2 steeper than DP-GD's",
            ours <= theirs - 0.2,
            format!("{ours:.2} and {theirs:.2}, of nμ from 3000 to 30000"),
        )
        .headline(),
    );
    let [ours, theirs] = [curves[0][4][1], curves[1][4][1]];
    checks.push(
        Check::new(
            "at nμ = 30000 it is at most a third of DP-GD's",
            3.0 * ours <= theirs,
            format!("{ours:.1e} and {theirs:.1e}"),
        )
        .headline(),
    );
    for (of_diff2, curve) in [true, false].into_iter().zip(curves) {
        plot = plot.with_series(Series::new(variant(of_diff2).name(), curve));
    }
    Ok(plot)
}

/// The network's training, with its data.
fn network(quick: bool) -> Result<(Experiment, DataSet), ClaimError> {
    let mut experiment = Experiment {
        model: ModelConfig::Mlp(MlpConfig { hidden: vec![10] }),
        ..Experiment::default()
    };
    experiment.data.limit = quick.then_some(100);
    experiment.data.standardization = Standardization::None;
    let training = &mut experiment.training;
    training.epochs = if quick { 4 } else { 100 };
    training.schedule = Schedule {
        decay: Decay::Constant,
        ..Schedule::default()
    };
    training.optimizer = OptimizerConfig::named("sgd").map_err(ClaimError::experiment)?;
    let data = experiment.open().map_err(ClaimError::experiment)?;
    experiment.training.batch = data.training.len();
    Ok((experiment, data))
}

/// What is tried of a method: its options and learning rates.
fn tried(variant: &Variant, quick: bool) -> Vec<(PrivateMethod, f64)> {
    let rates: &[f64] = match quick {
        true => &[0.5],
        false => &[0.2, 0.5, 1.0],
    };
    let diff2 = |restart, difference_clip, routine| {
        PrivateMethod::Diff2(Diff2Config {
            restart,
            difference_clip,
            routine,
            ..Diff2Config::default()
        })
    };
    let options: Vec<PrivateMethod> = match variant {
        v if *v == DIFF2 => [(5, 5.0), (20, 5.0)]
            .map(|(restart, clip)| diff2(restart, clip, Routine::GradientDescent))
            .to_vec(),
        v if *v == LOCAL => {
            let routine = Routine::LocalSteps {
                steps: 3,
                batch: if quick { 20 } else { 200 },
                clip: 5.0,
                share: 0.3,
            };
            vec![diff2(5, 5.0, routine)]
        }
        // A restart in every round: all of the budget is for whole gradients.
        v if *v == DP_GD => vec![PrivateMethod::Diff2(Diff2Config {
            restart: 1,
            ..Diff2Config::default()
        })],
        _ => vec![PrivateMethod::DpSgd {}],
    };
    let options: Vec<PrivateMethod> = match quick {
        true => options.into_iter().take(1).collect(),
        false => options,
    };
    let with_rates = |method| rates.iter().map(move |&rate| (method, rate));
    options.into_iter().flat_map(with_rates).collect()
}

/// Training loss and test accuracy in percent.
fn train(
    (experiment, data): &(Experiment, DataSet),
    method: PrivateMethod,
    rate: f64,
    epsilon: f64,
    seed: u64,
) -> Result<[f64; 2], ClaimError> {
    let mut experiment = experiment.clone();
    let training = &mut experiment.training;
    training.seed = seed;
    training.optimizer.learning_rate = Some(rate);
    if method == (PrivateMethod::DpSgd {}) {
        training.batch = training.batch.div_ceil(10);
    }
    let sources = PrivacyConfig {
        epsilon: Some(epsilon),
        delta: Some(1e-5),
        accountant: "pld".into(),
        clipping: Clipping::Flat { norm: 1.0 },
        method,
        noise_seed: Some(seed),
        ..PrivacyConfig::default()
    };
    let go = &mut |_: nabla_train::trainer::Progress<'_>| ControlFlow::Continue(());
    match experiment.run_with(&sources, data, &Device::flex(), None, go) {
        Ok(outcome) => {
            let last = outcome.history.last();
            let last = last.ok_or_else(|| ClaimError::experiment("nothing was measured"))?;
            Ok([last.training_loss, 100.0 * last.test_accuracy])
        }
        // Settings at which the training runs away are not the best.
        Err(error) if error.is_divergence() => Ok([f64::MAX, 0.0]),
        Err(error) => Err(ClaimError::experiment(error)),
    }
}

fn digits(bench: &Bench<'_>, table: &mut Table, checks: &mut Vec<Check>) -> Result<(), ClaimError> {
    let network = network(bench.quick())?;
    let quick = bench.quick();
    let variants = [DIFF2, LOCAL, DP_GD, DP_SGD];
    let mut points = Vec::new();
    for epsilon in BUDGETS {
        for (index, variant) in variants.iter().enumerate() {
            for (setting, &tried) in tried(variant, quick).iter().enumerate() {
                let of = |&seed: &u64| (epsilon, index, setting, tried, seed);
                points.extend(bench.seeds().iter().map(of));
            }
        }
    }
    let found = bench.measure(
        &Stage::new(
            "digits",
            &(network.0.training.clone(), network.1.training.len()),
        ),
        &points,
        |(epsilon, index, setting, _, seed)| {
            Cell::of(&digits_task(*epsilon))
                .variant(&variants[*index])
                .seed(*seed)
                .part(format!("setting {setting}"))
        },
        |&(epsilon, _, _, (method, rate), seed)| train(&network, method, rate, epsilon, seed),
    )?;
    for epsilon in BUDGETS {
        let task = digits_task(epsilon);
        for (index, variant) in variants.iter().enumerate() {
            let of = |wanted: usize| {
                let all = points.iter().zip(&found);
                all.filter(move |((e, i, s, ..), _)| (*e, *i, *s) == (epsilon, index, wanted))
                    .map(|((.., seed), found)| (*seed, *found))
                    .collect::<Vec<_>>()
            };
            let loss = |setting: usize| of(setting).iter().map(|(_, [loss, _])| loss).sum::<f64>();
            let settings = 0..tried(variant, quick).len();
            let best = settings
                .min_by(|&a, &b| loss(a).total_cmp(&loss(b)))
                .unwrap_or(0);
            for (seed, [loss, accuracy]) in of(best) {
                table.record(&task, variant, &LOSS, seed, loss)?;
                table.record(&task, variant, &ACCURACY, seed, accuracy)?;
            }
        }
        checks.push(table.compare(&task, &LOSS, &DIFF2, &DP_GD)?.headline());
        checks.push(table.compare(&task, &LOSS, &DIFF2, &DP_SGD)?);
        checks.push(table.not_worse(&task, &LOSS, &LOCAL, &DIFF2)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without noise, whole gradients and differences go the same way.
    #[test]
    fn without_noise_both_go_the_same_way() {
        let of = |restart| {
            descend(
                Setting {
                    learning_rate: 0.3,
                    rounds: 100,
                    restart,
                },
                1e12,
                1,
            )
        };
        let [whole, differences] = [1, 10].map(of);
        assert!(
            (whole / differences - 1.0).abs() < 1e-3,
            "{whole} {differences}"
        );
        assert!(whole < 0.1 * squared_norm(&gradient(&[2.0; DIMENSION])));
    }

    #[test]
    fn the_function_is_as_steep_and_as_curved_as_its_bounds() {
        let x: Vec<f64> = (0..DIMENSION)
            .map(|j| (j as f64 * 0.37).sin() * 2.0)
            .collect();
        let moved: Vec<f64> = x.iter().map(|x| x + 1e-4).collect();
        let change = gradient(&x).into_iter().zip(gradient(&moved));
        let change: f64 = change.map(|(a, b)| (b - a).powi(2)).sum::<f64>().sqrt();
        assert!(change <= CLIPS[1] * 1e-3);
    }
}
