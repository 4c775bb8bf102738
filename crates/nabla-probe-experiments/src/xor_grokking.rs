//! XOR grokking: a two-layer network with rectified units on noisy XOR clusters, beside a linear classifier trained by the
//! same number of steps.
//!
//! * **The paper's course**: 400 examples in 20 000 dimensions with `‖μ‖² = 400` and 15 % of the labels flipped.
//! * **The phase diagram**: other norms of the means, from where the noise hides them, and other shares of flipped labels.

use burn::tensor::{Device, Tensor, TensorData};
use nabla_claims::plot::{LinePlot, Series};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
};
use nabla_probe::two_layer_relu::TwoLayerRelu;
use nabla_probe::xor_grokking::{GrokkingTrace, Phase, Record, XorBatch, XorClusters, XorTraining};
use serde::{Deserialize, Serialize};

const NETWORK: Variant = Variant::method("two-layer ReLU network");
const LINEAR: Variant = Variant::baseline("linear classifier");

const TEST: Metric = Metric::higher("test accuracy", "%");
const EARLY: Metric = Metric::informative("test accuracy when all labels are fitted first", "%");
const TRAINING: Metric = Metric::informative("training accuracy on noisy labels", "%");
const CLEAN: Metric = Metric::informative("training accuracy on clean labels", "%");
const COSINE: Metric = Metric::informative("cosine with its linear part after the first step", "");
const ALIGNED: Metric =
    Metric::informative("mean cosine of units with the means of their label", "");

/// The squared norms of the means, and the shares of flipped labels, beside those of the paper's course.
const NORMS: [f64; 5] = [60.0, 100.0, 200.0, 300.0, 600.0];
const NOISES: [f64; 3] = [0.0, 0.05, 0.25];

/// Where a training happens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Setting {
    clusters: XorClusters,
    examples: usize,
    units: usize,
    tests: usize,
}

impl Setting {
    fn course(quick: bool) -> Self {
        let (dim, examples, units, tests) = match quick {
            true => (2000, 80, 64, 200),
            false => (20_000, 400, 256, 1000),
        };
        let clusters = XorClusters {
            dim,
            ..XorClusters::default()
        };
        Self {
            clusters,
            examples,
            units,
            tests,
        }
    }

    fn all(quick: bool) -> Vec<Self> {
        let course = Self::course(quick);
        let norms = NORMS.map(|squared_norm| XorClusters {
            squared_norm,
            ..course.clusters
        });
        let noises = NOISES.map(|noise| XorClusters {
            noise,
            ..course.clusters
        });
        let others = norms.into_iter().chain(noises);
        let others = others.map(|clusters| Self { clusters, ..course });
        std::iter::once(course).chain(others).collect()
    }

    fn task(&self) -> Task {
        let XorClusters {
            squared_norm,
            noise,
            ..
        } = self.clusters;
        Task::of(format!(
            "‖μ‖² = {squared_norm}, {:.0} % flipped",
            100.0 * noise
        ))
    }

    fn data(&self, seed: u64) -> Result<[XorBatch; 2], ClaimError> {
        let device = Device::flex();
        let data = self.clusters.sample(self.examples, 2 * seed, &device);
        let test = self.clusters.sample(self.tests, 2 * seed + 1, &device);
        Ok([
            data.map_err(ClaimError::experiment)?,
            test.map_err(ClaimError::experiment)?,
        ])
    }
}

fn network(setting: &Setting, seed: u64) -> Result<GrokkingTrace, ClaimError> {
    let [data, test] = setting.data(seed)?;
    let dim = setting.clusters.dim;
    let network = TwoLayerRelu::frozen_head(dim, setting.units, 1e-8, seed, &Device::flex());
    let network = network.map_err(ClaimError::experiment)?;
    let training = XorTraining::default();
    GrokkingTrace::run(network, &data, &test, &training).map_err(ClaimError::experiment)
}

/// Where the linear classifier ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Line {
    training: f64,
    clean: f64,
    test: f64,
}

/// Logistic regression by gradient descent from 0. The loss curves by `λ_max(XᵀX / n) / 4` at most, where the noise has
/// about `p / n` and the means `‖μ‖²`; the rate is half of what its inverse allows.
fn linear(setting: &Setting, seed: u64) -> Result<Line, ClaimError> {
    let [data, test] = setting.data(seed)?;
    let XorClusters {
        dim, squared_norm, ..
    } = setting.clusters;
    let n = setting.examples as f64;
    let rate = 4.0 * n / (dim as f64 + n * squared_norm);
    let labels = |values: &[f64]| {
        let shape = [values.len(), 1];
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
    };
    let y = labels(&data.noisy);
    let mut direction = Tensor::<2>::zeros([dim, 1], &Device::flex());
    for _ in 0..XorTraining::default().steps {
        let f = data.x.clone().matmul(direction.clone());
        let pull = y.clone() * burn::tensor::activation::sigmoid(-(y.clone() * f)) * (rate / n);
        direction = direction + data.x.clone().transpose().matmul(pull);
    }
    let right = |batch: &XorBatch, values: &[f64]| -> Result<f64, ClaimError> {
        let signs = batch.x.clone().matmul(direction.clone()) * labels(values);
        let values = signs.try_into_vec_as::<f64>();
        let values = values.map_err(|error| ClaimError::experiment(error.to_string()))?;
        Ok(values.iter().filter(|value| **value > 0.0).count() as f64 / values.len() as f64)
    };
    Ok(Line {
        training: right(&data, &data.noisy)?,
        clean: right(&data, &data.clean)?,
        test: right(&test, &test.clean)?,
    })
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct XorGrokkingClaim;

impl Claim for XorGrokkingClaim {
    fn slug(&self) -> &str {
        "xor-grokking"
    }

    fn statement(&self) -> &str {
        "On XOR clusters with flipped labels, a two-layer ReLU network trained by gradient descent fits all labels after \
         the first step, when it is nearly a linear classifier and its test accuracy near chance. Later it generalises \
         nearly perfectly, and still fits the flipped labels."
    }

    fn criterion(&self) -> &str {
        "With ‖μ‖² = 400 and 15 % flipped labels: with every seed, all noisy labels are fitted at every step looked at from \
         the first on, at most 87 % of the clean ones are, and the test accuracy after 100 steps is at least 98 %; after \
         the first step, its mean is between 42 and 58 %. In detail: after the first step the cosine with the linear part \
         is above 0.9; the linear classifier stays below 60 %; with ‖μ‖² = 60 the overfitting is catastrophic; the phase is \
         grokking for up to 25 % of flipped labels; the logarithm of the test error falls with n‖μ‖⁴/p."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let settings = Setting::all(bench.quick());
        let mut table = Table::new(
            bench.seeds(),
            [TEST, EARLY, TRAINING, CLEAN, COSINE, ALIGNED],
            [NETWORK, LINEAR],
            settings.iter().map(Setting::task),
        )?;
        let points: Vec<(Setting, u64)> = settings
            .iter()
            .flat_map(|setting| bench.seeds().iter().map(|&seed| (*setting, seed)))
            .collect();
        let cell = |variant: Variant| {
            move |(setting, seed): &(Setting, u64)| {
                Cell::of(&setting.task()).variant(&variant).seed(*seed)
            }
        };
        let course = &settings[0];
        let traces = bench.measure_side_by_side(
            &Stage::new("networks", course),
            &points,
            cell(NETWORK),
            |(setting, seed)| network(setting, *seed),
        )?;
        let lines = bench.measure_side_by_side(
            &Stage::new("linear classifiers", course),
            &points,
            cell(LINEAR),
            |(setting, seed)| linear(setting, *seed),
        )?;
        for (((setting, seed), trace), line) in points.iter().zip(&traces).zip(&lines) {
            let task = setting.task();
            let mut record = |variant: &Variant, metric: &Metric, value: f64| {
                table.record(&task, variant, metric, *seed, value)
            };
            let (first, last) = (at_step(trace, 1)?, at_step(trace, 100)?);
            let fitted = trace.records.iter().find(|r| r.training == 1.0);
            record(&NETWORK, &TEST, 100.0 * last.test)?;
            record(
                &NETWORK,
                &EARLY,
                fitted.map_or(f64::NAN, |r| 100.0 * r.test),
            )?;
            record(&NETWORK, &TRAINING, 100.0 * last.training)?;
            record(&NETWORK, &CLEAN, 100.0 * last.clean)?;
            record(&NETWORK, &COSINE, first.linear.cosine)?;
            record(&NETWORK, &ALIGNED, last.aligned)?;
            record(&LINEAR, &TEST, 100.0 * line.test)?;
            record(&LINEAR, &TRAINING, 100.0 * line.training)?;
            record(&LINEAR, &CLEAN, 100.0 * line.clean)?;
        }
        let found: Vec<(Setting, &GrokkingTrace, &Line)> = points
            .iter()
            .zip(traces.iter().zip(&lines))
            .map(|((setting, _), (trace, line))| (*setting, trace, line))
            .collect();
        let mut checks = Vec::new();
        course_checks(course, &found, &mut checks)?;
        diagram_checks(course, &settings, &found, &mut checks)?;
        let mut measurement = Measurement::new(table, checks);
        measurement.plots = vec![
            course_plot(course, &found),
            diagram_plot(&settings, &found)?,
        ];
        Ok(measurement)
    }
}

fn at_step(trace: &GrokkingTrace, step: usize) -> Result<&Record, ClaimError> {
    let record = trace.records.iter().find(|record| record.step == step);
    record.ok_or_else(|| ClaimError::experiment(format!("step {step} was not looked at")))
}

type Found<'a> = (Setting, &'a GrokkingTrace, &'a Line);

fn of<'a>(found: &'a [Found<'a>], setting: &'a Setting) -> impl Iterator<Item = &'a Found<'a>> {
    found.iter().filter(move |(other, _, _)| other == setting)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), v| (sum + v, count + 1.0));
    sum / count
}

fn course_checks(
    course: &Setting,
    found: &[Found<'_>],
    checks: &mut Vec<Check>,
) -> Result<(), ClaimError> {
    let (mut least_training, mut most_clean, mut least_test) = (1.0_f64, 0.0_f64, 1.0_f64);
    let (mut early, mut cosines, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for (_, trace, line) in of(found, course) {
        for record in trace.records.iter().filter(|record| record.step >= 1) {
            least_training = least_training.min(record.training);
            most_clean = most_clean.max(record.clean);
        }
        let first = at_step(trace, 1)?;
        least_test = least_test.min(at_step(trace, 100)?.test);
        early.push(first.test);
        cosines.push(first.linear.cosine);
        lines.push(line.test);
    }
    let percent = |value: f64| format!("{:.1} %", 100.0 * value);
    let chance = mean(early.iter().copied());
    checks.extend([
        Check::new(
            "all noisy labels are fitted from the first step on",
            least_training == 1.0,
            format!("at least {}", percent(least_training)),
        )
        .headline(),
        Check::new(
            "the flipped labels stay fitted: at most 87 % of the clean labels are",
            most_clean <= 0.87,
            format!("at most {}", percent(most_clean)),
        )
        .headline(),
        Check::new(
            "after the first step, the test accuracy is near chance",
            (0.42..=0.58).contains(&chance),
            format!(
                "{} ({})",
                percent(chance),
                early
                    .iter()
                    .map(|&v| percent(v))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        )
        .headline(),
        Check::new(
            "after 100 steps, the test accuracy is at least 98 %",
            least_test >= 0.98,
            format!("at least {}", percent(least_test)),
        )
        .headline(),
        Check::new(
            "after the first step, the network is nearly linear",
            cosines.iter().all(|&cosine| cosine > 0.9),
            format!(
                "cosine {:.3} with its linear part",
                mean(cosines.iter().copied())
            ),
        ),
        Check::new(
            "the linear classifier stays below 60 %",
            lines.iter().all(|&test| test < 0.6),
            percent(mean(lines.iter().copied())),
        ),
    ]);
    Ok(())
}

fn diagram_checks(
    course: &Setting,
    settings: &[Setting],
    found: &[Found<'_>],
    checks: &mut Vec<Check>,
) -> Result<(), ClaimError> {
    let phases = |setting: &Setting| -> Vec<Phase> {
        of(found, setting)
            .map(|(_, trace, _)| trace.phase())
            .collect()
    };
    let told = |phases: &[Phase]| {
        let names = phases
            .iter()
            .map(|phase| format!("{phase:?}").to_lowercase());
        names.collect::<Vec<_>>().join(", ")
    };
    let with = |change: fn(&mut XorClusters)| {
        let mut setting = *course;
        change(&mut setting.clusters);
        setting
    };
    let weak = phases(&with(|clusters| clusters.squared_norm = NORMS[0]));
    checks.push(Check::new(
        "with ‖μ‖² = 60, the overfitting is catastrophic",
        weak.iter().all(|&phase| phase == Phase::Catastrophic),
        told(&weak),
    ));
    for setting in settings {
        if setting.clusters.squared_norm == course.clusters.squared_norm {
            let phases = phases(setting);
            let share = 100.0 * setting.clusters.noise;
            checks.push(Check::new(
                format!("with {share:.0} % of flipped labels, the network groks"),
                phases.iter().all(|&phase| phase == Phase::Grokking),
                told(&phases),
            ));
        }
    }
    let points = errors(settings, found)?;
    let (slope, fit) = line_through(&points);
    checks.push(Check::new(
        "the logarithm of the test error falls with n‖μ‖⁴/p",
        slope < 0.0 && fit > 0.8,
        format!(
            "slope {slope:.2e}, R² {fit:.2}, over {} norms",
            points.len()
        ),
    ));
    Ok(())
}

/// `n ‖μ‖⁴ / p` and the logarithm of the mean test error of each norm; an error of 0 counts as half an example.
fn errors(settings: &[Setting], found: &[Found<'_>]) -> Result<Vec<[f64; 2]>, ClaimError> {
    let noise = settings[0].clusters.noise;
    let mut points = Vec::new();
    for setting in settings.iter().filter(|s| s.clusters.noise == noise) {
        let mut all = Vec::new();
        for (_, trace, _) in of(found, setting) {
            all.push(1.0 - at_step(trace, 100)?.test);
        }
        let tests = (setting.tests * all.len()) as f64;
        let error = mean(all.into_iter()).max(0.5 / tests);
        points.push([setting.clusters.signal(setting.examples), error.ln()]);
    }
    points.sort_by(|a, b| a[0].total_cmp(&b[0]));
    Ok(points)
}

/// The slope of the line of least squares, and its coefficient of determination.
fn line_through(points: &[[f64; 2]]) -> (f64, f64) {
    let [x, y] = [0, 1].map(|i| mean(points.iter().map(|p| p[i])));
    let sum =
        |f: fn([f64; 2]) -> f64| -> f64 { points.iter().map(|p| f([p[0] - x, p[1] - y])).sum() };
    let (xx, xy, yy) = (
        sum(|[a, _]| a * a),
        sum(|[a, b]| a * b),
        sum(|[_, b]| b * b),
    );
    (xy / xx, xy * xy / (xx * yy))
}

fn course_plot(course: &Setting, found: &[Found<'_>]) -> LinePlot {
    let traces: Vec<&GrokkingTrace> = of(found, course).map(|(_, trace, _)| *trace).collect();
    let curve = |value: fn(&Record) -> f64| -> Vec<[f64; 2]> {
        let steps = traces.first().map_or(&[][..], |trace| &trace.records);
        let points = steps.iter().enumerate().skip(1).map(|(i, record)| {
            let values = traces
                .iter()
                .filter_map(|trace| trace.records.get(i))
                .map(value);
            [record.step as f64, mean(values)]
        });
        points.collect()
    };
    LinePlot::new("XOR clusters, ‖μ‖² = 400, 15 % flipped", "step", "share")
        .log_x()
        .with_series(Series::new("training, noisy labels", curve(|r| r.training)))
        .with_series(Series::new("test", curve(|r| r.test)))
        .with_series(Series::new(
            "linear part, test",
            curve(|r| r.linear.accuracy),
        ))
        .with_series(Series::new(
            "cosine of units with their means",
            curve(|r| r.aligned),
        ))
}

fn diagram_plot(settings: &[Setting], found: &[Found<'_>]) -> Result<LinePlot, ClaimError> {
    let points = errors(settings, found)?
        .into_iter()
        .map(|[x, y]| [x, y.exp()]);
    Ok(
        LinePlot::new("test error after 100 steps", "n‖μ‖⁴/p", "test error")
            .log_y()
            .with_series(Series::new(NETWORK.name(), points)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found() {
        let (slope, fit) = line_through(&[[0.0, 1.0], [1.0, -1.0], [3.0, -5.0]]);
        assert!((slope + 2.0).abs() < 1e-12 && (fit - 1.0).abs() < 1e-12);
    }

    #[test]
    fn every_setting_is_a_task_of_its_own() {
        let settings = Setting::all(false);
        let names: std::collections::BTreeSet<String> = settings
            .iter()
            .map(|setting| setting.task().name().to_owned())
            .collect();
        assert_eq!(names.len(), settings.len());
    }
}
