//! Coherence: digits with real, half random and random labels, and gradients averaged robustly.
//!
//! A network of one hidden layer of 64 units on 900 handwritten digits, SGD with batches of 100 at the rate 0.1. Random
//! labels are permuted among the chosen examples, so about a tenth of them stay right.
//!
//! * **Coherence** of all 900 examples at the steps 10, 20, 30, 50 and 100: at the first weights every example pushes the
//!   same offsets, whatever its label.
//! * **Robust gradients** with half of the labels random: how many wrong labels a training fits, and what it answers on
//!   897 test digits, after 6000 steps; the best test accuracy on the way is what early stopping would reach.

use std::ops::ControlFlow;

use burn::tensor::Device;
use nabla_base::choices::Choices;
use nabla_claims::plot::{LinePlot, Series};
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
};
use nabla_probe::coherence::{CoherenceCurve, CoherenceError, CoherenceMeter, cross_coherence};
use nabla_probe::robust_gradients::RobustGradient;
use nabla_probe::sharpness::ClassifierLoss;
use nabla_train::classification::{TrainingConfig, evaluate};
use nabla_train::data_set::of_pictures;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::gradient_source::GradientSources;
use nabla_train::initialization::he_normal;
use nabla_train::mlp::{Mlp, MlpConfig};
use nabla_train::optimizer::OptimizerConfig;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

const SGD: Variant = Variant::baseline("SGD");
const MEASURED: Variant = Variant::method("m-coherence");

const COHERENCE: Metric = Metric::informative("m-coherence, mean of the steps 10 to 100", "");
const TEST: Metric = Metric::higher("test accuracy", "%");
const BEST: Metric = Metric::informative("best test accuracy on the way", "%");
const FITTED: Metric = Metric::lower("wrong labels fitted", "%");
const TRAINING: Metric = Metric::informative("training accuracy", "%");
const CLEAN: Metric = Metric::informative("cross coherence of examples with right labels", "");
const WRONG: Metric = Metric::informative("cross coherence of examples with wrong labels", "");

/// How many of the labels are permuted.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Labels {
    Real,
    Half,
    Random,
}

impl Labels {
    const ALL: [Self; 3] = [Self::Real, Self::Half, Self::Random];

    fn task(self) -> Task {
        match self {
            Self::Real => Task::named("real labels"),
            Self::Half => Task::named("half random labels"),
            Self::Random => Task::named("random labels"),
        }
    }

    fn share(self) -> f64 {
        match self {
            Self::Real => 0.0,
            Self::Half => 0.5,
            Self::Random => 1.0,
        }
    }
}

/// Training examples, those of them whose label is wrong, and test examples.
struct Data {
    training: Examples,
    wrong: Vec<bool>,
    test: Examples,
}

const TRAINED_ON: usize = 900;

impl Data {
    fn new(labels: Labels, seed: u64) -> Result<Self, ClaimError> {
        let pictures = nabla_data::digits().map_err(ClaimError::experiment)?;
        let mut draw = ChaCha8Rng::seed_from_u64(seed);
        let mut order: Vec<usize> = (0..pictures.len()).collect();
        order.shuffle(&mut draw);
        let (training, test) = order.split_at(TRAINED_ON);
        let all = of_pictures(&pictures);
        let [mut training, test] = [training, test].map(|chosen| all.chosen(chosen, 64));
        let truth = training.labels.clone();
        let count = (labels.share() * TRAINED_ON as f64) as usize;
        let mut permuted = truth[..count].to_vec();
        permuted.shuffle(&mut draw);
        training.labels[..count].copy_from_slice(&permuted);
        let wrong = training
            .labels
            .iter()
            .zip(&truth)
            .map(|(label, truth)| label != truth)
            .collect();
        Ok(Self {
            training,
            wrong,
            test,
        })
    }
}

const SHAPE: InputShape = InputShape::Row(64);
const BATCH: usize = 100;

fn config(steps: usize, seed: u64) -> Result<TrainingConfig, ClaimError> {
    let mut optimizer = OptimizerConfig::named("sgd").map_err(ClaimError::experiment)?;
    optimizer.learning_rate = Some(0.1);
    Ok(TrainingConfig::of_steps(
        steps, TRAINED_ON, BATCH, optimizer, seed,
    ))
}

fn network(seed: u64) -> Result<Mlp, ClaimError> {
    let model = MlpConfig { hidden: vec![64] }.init(64, 10, &Device::flex().autodiff());
    he_normal(model.map_err(ClaimError::experiment)?, seed).map_err(ClaimError::experiment)
}

const MEASURED_AT: [usize; 5] = [10, 20, 30, 50, 100];

/// The m-coherence at these steps, and the cross coherence of all examples with those of right and with those of wrong
/// labels, at step 100.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Agreement {
    m_coherence: Vec<f64>,
    with_clean: Option<f64>,
    with_wrong: Option<f64>,
}

fn agreement(labels: Labels, seed: u64) -> Result<Agreement, ClaimError> {
    let data = Data::new(labels, seed)?;
    let config = config(100, seed)?;
    let trainer = config.trainer(&data.training, &data.test, SHAPE, network(seed)?);
    let mut trainer = trainer.map_err(ClaimError::experiment)?;
    let seen = config
        .examples(&data.training, SHAPE)
        .map_err(ClaimError::experiment)?;
    let all: Vec<usize> = (0..TRAINED_ON).collect();
    let go_on = &mut || ControlFlow::Continue(());
    let curve = CoherenceCurve::of(&mut trainer, &seen, &all, &MEASURED_AT, go_on);
    let curve = curve.map_err(ClaimError::experiment)?;
    let m_coherence = curve
        .moments
        .iter()
        .filter_map(|m| Some(m.coherence.as_ref()?.whole.m_coherence));
    let group = |wrong: bool| -> Result<Option<f64>, ClaimError> {
        let chosen: Vec<usize> = (0..TRAINED_ON)
            .filter(|&i| data.wrong[i] == wrong)
            .collect();
        // There are both kinds with some random labels only.
        if chosen.len() < 2 || chosen.len() == TRAINED_ON {
            return Ok(None);
        }
        let meter = |indices: &[usize]| -> Result<CoherenceMeter, CoherenceError> {
            let loss = ClassifierLoss::new(trainer.model().clone(), seen.clone(), indices, false);
            CoherenceMeter::of(&loss.map_err(Box::new)?)
        };
        let both = meter(&all).and_then(|all| cross_coherence(&all, &meter(&chosen)?));
        both.map(Some).map_err(ClaimError::experiment)
    };
    Ok(Agreement {
        m_coherence: m_coherence.collect(),
        with_clean: group(false)?,
        with_wrong: group(true)?,
    })
}

/// What a training has come to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Trained {
    test: f64,
    best: f64,
    fitted: f64,
    training: f64,
}

fn trained(
    method: Option<RobustGradient>,
    labels: Labels,
    steps: usize,
    seed: u64,
) -> Result<Trained, ClaimError> {
    let data = Data::new(labels, seed)?;
    let config = config(steps, seed)?;
    let model = network(seed)?;
    let plan = config.plan(TRAINED_ON, steps, false);
    let source = match method {
        Some(method) => method
            .source(&model, plan)
            .map_err(ClaimError::experiment)?,
        None => None,
    };
    let trainer = config.trainer(&data.training, &data.test, SHAPE, model);
    let mut trainer = trainer.map_err(ClaimError::experiment)?;
    if let Some(source) = source {
        trainer.task_mut().set_source(source);
    }
    let mut best = 0.0_f64;
    let ran = trainer.run(None, &mut |progress| {
        if let Some(epoch) = progress.epoch {
            best = best.max(epoch.test_accuracy);
        }
        ControlFlow::Continue(())
    });
    ran.map_err(ClaimError::experiment)?;
    let accuracy = |examples: &Examples| {
        let found = evaluate(trainer.model(), examples, SHAPE).map_err(ClaimError::experiment);
        found.map(|(_, accuracy)| 100.0 * accuracy)
    };
    let wrong: Vec<usize> = (0..TRAINED_ON).filter(|&i| data.wrong[i]).collect();
    let lies = Examples {
        features: wrong
            .iter()
            .flat_map(|&i| &data.training.features[i * 64..(i + 1) * 64])
            .copied()
            .collect(),
        labels: wrong.iter().map(|&i| data.training.labels[i]).collect(),
    };
    Ok(Trained {
        test: accuracy(&data.test)?,
        best: 100.0 * best,
        fitted: if lies.is_empty() {
            0.0
        } else {
            accuracy(&lies)?
        },
        training: accuracy(&data.training)?,
    })
}

fn variant(method: RobustGradient) -> Variant {
    Variant::method(match method {
        RobustGradient::Winsorized { .. } => "winsorised, 10 %",
        RobustGradient::MedianOfMeans { .. } => "median of means of three",
        RobustGradient::RollingMedian {} => "rolling median of three",
    })
}

fn methods() -> Vec<(Variant, Option<RobustGradient>)> {
    let robust = RobustGradient::choices()
        .into_iter()
        .map(|choice| choice.value);
    let robust = robust.map(|method| (variant(method), Some(method)));
    [(SGD, None)].into_iter().chain(robust).collect()
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct CoherenceClaim;

impl Claim for CoherenceClaim {
    fn slug(&self) -> &str {
        "coherence"
    }

    fn statement(&self) -> &str {
        "The coherence of examples' gradients takes very different values on real and on random labels, which explains why \
         networks generalise on the one and only memorise on the other; and modifications of gradient descent that \
         suppress what few examples ask for attenuate memorisation and improve generalisation."
    }

    fn criterion(&self) -> &str {
        "Coherence: with each seed, the mean m-coherence of the steps 10 to 100 is at least three times as high with real \
         labels as with random ones. Memorisation: with half of the labels random, after 6000 steps, winsorised SGD has \
         fitted at most half as many wrong labels as SGD, and its test accuracy is higher by at least 3 points. In \
         detail: half random labels lie between; examples with right labels agree more than those with wrong ones; the \
         medians fit fewer wrong labels than SGD; winsorised SGD is no worse than SGD with real labels, and better than \
         SGD stopped at its best."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let variants = methods().into_iter().map(|(variant, _)| variant);
        let mut table = Table::new(
            bench.seeds(),
            [COHERENCE, CLEAN, WRONG, TEST, BEST, FITTED, TRAINING],
            [MEASURED].into_iter().chain(variants),
            Labels::ALL.map(Labels::task),
        )?;
        let mut checks = Vec::new();
        let plot = coherence(bench, &mut table, &mut checks)?;
        memorisation(bench, &mut table, &mut checks)?;
        let mut measurement = Measurement::new(table, checks).with_plot(plot);
        measurement.notes = vec![
            "Not measured: ImageNet, and the bound of the generalisation gap. Where SGD is stopped early, it is told \
             beside the robust gradients, since it needs none of them."
                .to_owned(),
        ];
        Ok(measurement)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn coherence(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<LinePlot, ClaimError> {
    let points: Vec<(Labels, u64)> = Labels::ALL
        .into_iter()
        .flat_map(|labels| bench.seeds().iter().map(move |&seed| (labels, seed)))
        .collect();
    let found = bench.measure_side_by_side(
        &Stage::new("coherence", &MEASURED_AT),
        &points,
        |(labels, seed)| Cell::of(&labels.task()).variant(&MEASURED).seed(*seed),
        |&(labels, seed)| agreement(labels, seed),
    )?;
    for ((labels, seed), found) in points.iter().zip(&found) {
        table.record(
            &labels.task(),
            &MEASURED,
            &COHERENCE,
            *seed,
            mean(&found.m_coherence),
        )?;
        if let (Some(clean), Some(wrong)) = (found.with_clean, found.with_wrong)
            && *labels == Labels::Half
        {
            table.record(&labels.task(), &MEASURED, &CLEAN, *seed, clean)?;
            table.record(&labels.task(), &MEASURED, &WRONG, *seed, wrong)?;
        }
    }
    let of = |labels: Labels| table.values(&labels.task(), &MEASURED, &COHERENCE);
    let (real, half, random) = (of(Labels::Real)?, of(Labels::Half)?, of(Labels::Random)?);
    let ratios: Vec<f64> = real.iter().zip(&random).map(|(a, b)| a / b).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    checks.push(
        Check::new(
            "m-coherence is at least three times as high with real labels as with random ones, with each seed",
            least >= 3.0,
            format!("{:.2} and {:.2}, at least {least:.1} times", mean(&real), mean(&random)),
        )
        .headline(),
    );
    let between = half
        .iter()
        .zip(real.iter().zip(&random))
        .all(|(h, (a, b))| b < h && h < a);
    checks.push(Check::new(
        "half random labels lie between",
        between,
        format!("{:.2}", mean(&half)),
    ));
    let [clean, wrong] =
        [CLEAN, WRONG].map(|metric| table.values(&Labels::Half.task(), &MEASURED, &metric));
    let (clean, wrong) = (clean?, wrong?);
    checks.push(Check::new(
        "examples with right labels agree more than those with wrong ones, with each seed",
        clean.iter().zip(&wrong).all(|(a, b)| a > b),
        format!("{:.4} and {:.4}", mean(&clean), mean(&wrong)),
    ));
    let curve = |labels: Labels| {
        let of_labels = || {
            points
                .iter()
                .zip(&found)
                .filter(move |((l, _), _)| *l == labels)
        };
        let seeds = of_labels().count() as f64;
        let at = move |k: usize| {
            of_labels()
                .map(|(_, found)| found.m_coherence[k])
                .sum::<f64>()
                / seeds
        };
        Series::new(
            labels.task().name(),
            MEASURED_AT
                .iter()
                .enumerate()
                .map(move |(k, &step)| [step as f64, at(k)]),
        )
    };
    let plot = LinePlot::new("m-coherence of 900 examples", "step", "m-coherence").log_y();
    Ok(Labels::ALL
        .into_iter()
        .fold(plot, |plot, labels| plot.with_series(curve(labels))))
}

fn memorisation(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<(), ClaimError> {
    let steps = if bench.quick() { 45 } else { 6000 };
    let methods = methods();
    let mut points = Vec::new();
    for labels in [Labels::Half, Labels::Real] {
        for method in 0..methods.len() {
            points.extend(bench.seeds().iter().map(|&seed| (labels, method, seed)));
        }
    }
    let found = bench.measure_side_by_side(
        &Stage::new("robust gradients", &steps),
        &points,
        |(labels, method, seed)| {
            Cell::of(&labels.task())
                .variant(&methods[*method].0)
                .seed(*seed)
        },
        |&(labels, method, seed)| trained(methods[method].1, labels, steps, seed),
    )?;
    for ((labels, method, seed), found) in points.into_iter().zip(found) {
        let variant = &methods[method].0;
        let mut record = |metric: &Metric, value: f64| {
            table.record(&labels.task(), variant, metric, seed, value)
        };
        record(&TEST, found.test)?;
        record(&BEST, found.best)?;
        record(&TRAINING, found.training)?;
        if labels == Labels::Half {
            record(&FITTED, found.fitted)?;
        }
    }
    let half = Labels::Half.task();
    let at = |variant: &Variant, metric: &Metric| table.mean(&half, variant, metric);
    let winsorised = variant(RobustGradient::Winsorized { percent: 10.0 });
    let (ours, theirs) = (at(&winsorised, &FITTED)?, at(&SGD, &FITTED)?);
    checks.push(
        Check::new(
            "winsorised SGD fits at most half as many wrong labels as SGD",
            ours <= 0.5 * theirs,
            format!("{ours:.1} % and {theirs:.1} %"),
        )
        .headline(),
    );
    let (ours, theirs) = (at(&winsorised, &TEST)?, at(&SGD, &TEST)?);
    checks.push(
        Check::new(
            "its test accuracy is higher than SGD's by at least 3 points",
            ours >= theirs + 3.0,
            format!("{ours:.1} % and {theirs:.1} %"),
        )
        .headline(),
    );
    for method in [
        RobustGradient::MedianOfMeans { groups: 3 },
        RobustGradient::RollingMedian {},
    ] {
        checks.push(table.compare(&half, &FITTED, &variant(method), &SGD)?);
    }
    let stopped = at(&SGD, &BEST)?;
    checks.push(Check::new(
        "winsorised SGD is better than SGD stopped at its best test accuracy",
        ours > stopped,
        format!("{ours:.1} % and {stopped:.1} %"),
    ));
    checks.push(table.not_worse(&Labels::Real.task(), &TEST, &winsorised, &SGD)?);
    Ok(())
}
