//! DiceSGD against private training with clipping, at the same guarantee.
//!
//! * **Bias.** Regression with skewed errors, without noise: only clipping is between a method and the optimum.
//!   DiceSGD's limit of what is given back is its default, three times the clip.
//! * **Accuracy.** Fashion-MNIST, one linear layer, `ε = 2`, `δ = 1e-5`. For each clip and method the learning rate is
//!   chosen from a grid by the seeds' mean, so that the methods are compared at their best.
//! * **Audit.** One training each with canaries whose gradients are a hundred times as long as the clip: at least how
//!   much is revealed, beside what the account allows.

use std::ops::ControlFlow;

use burn::tensor::Device;
use nabla_base::vector::norm;
use nabla_claims::{
    Bench, Cell, Check, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
};
use nabla_private::canaries::CanaryConfig;
use nabla_private::clipping::Clipping;
use nabla_private::dicesgd::{Accounting, Carry, DiceConfig, DiceSgd};
use nabla_private::private_training::{
    AuditedTraining, PrivacyConfig, PrivacyReport, PrivateMethod,
};
use nabla_private::release::{Release, Sums};
use nabla_private::secret_noise::NoiseKey;
use nabla_train::data_set::{DataConfig, DataSet, Standardization};
use nabla_train::experiment::{Experiment, ModelConfig};
use nabla_train::logistic_regression::LogisticRegressionConfig;
use nabla_train::optimizer::OptimizerConfig;
use nabla_train::schedule::{Decay, Schedule};
use serde::{Deserialize, Serialize};

use crate::skewed_regression::SkewedRegression;

const DICE: Variant = Variant::method("DiceSGD");
const DICE_ANY: Variant = Variant::method("DiceSGD, for any data");
const DICE_CODE: Variant = Variant::method("DiceSGD with the official memory");
const CLIPPED: Variant = Variant::baseline("DPSGD");
const UNCLIPPED: Variant = Variant::baseline("SGD, not clipped, not private");

const EXCESS: Metric = Metric::lower("excess loss", "");
const ACCURACY: Metric = Metric::higher("test accuracy", "%");
const RATE: Metric = Metric::informative("learning rate", "");
const FOUND: Metric = Metric::informative("ε at least, by the audit", "");
const ALLOWED: Metric = Metric::informative("ε at most, by the account", "");

const CLIPS: [f64; 3] = [0.1, 1.0, 10.0];
const AUDIT: Task = Task::named("audit, long gradients");

fn bias_task(clip: f64) -> Task {
    Task::of(format!("regression, clip {clip}"))
}

fn accuracy_task(clip: f64) -> Task {
    Task::of(format!("Fashion-MNIST, clip {clip}"))
}

/// The experiment; see the [module documentation](self).
#[derive(Debug, Clone, Copy, Default)]
pub struct DiceSgdClaim;

impl Claim for DiceSgdClaim {
    fn slug(&self) -> &str {
        "dicesgd"
    }

    fn statement(&self) -> &str {
        "DiceSGD has no constant bias from clipping, whatever the threshold is, and reaches a higher accuracy than DPSGD \
         with clipping at the same differential privacy."
    }

    fn criterion(&self) -> &str {
        "Bias: for each clip of 0.1, 1 and 10, the excess loss of DiceSGD is at most twice that of SGD without clipping. \
         Accuracy: at ε = 2 by the paper's own account, for each clip, the mean accuracy of DiceSGD is higher than that \
         of DPSGD, each at its best learning rate. In detail: DPSGD is biased (at least ten times the excess loss \
         without clipping); DiceSGD with noise that holds for any data is no worse than DPSGD; the audit finds no more \
         than the account allows."
    }

    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
        let tasks = CLIPS.map(bias_task).into_iter();
        let tasks = tasks.chain(CLIPS.map(accuracy_task)).chain([AUDIT]);
        let mut table = Table::new(
            bench.seeds(),
            [EXCESS, ACCURACY, RATE, FOUND, ALLOWED],
            [DICE, DICE_ANY, DICE_CODE, CLIPPED, UNCLIPPED],
            tasks,
        )?;
        let mut checks = Vec::new();
        bias(bench, &mut table, &mut checks)?;
        accuracy(bench, &mut table, &mut checks)?;
        audits(bench, &mut table, &mut checks)?;
        let mut measurement = Measurement::new(table, checks);
        measurement.notes = vec![
            "The noise of DiceSGD is the paper's (its rule: DPSGD's, widened by √(1 + 2 C₂²/C₁²)), which supposes that \
             gradients are bounded before clipping; the row 'for any data' has the noise of the worst case. The error \
             is given back up to C₂ = 3 C₁ in the regression and C₂ = C₁ elsewhere, with which the paper's noise is √3 \
             times DPSGD's."
                .to_owned(),
            "The official code keeps the error in units of the batch's sum, where what is given back is hundreds of \
             times smaller; its memory is measured here in the paper's units."
                .to_owned(),
        ];
        Ok(measurement)
    }
}

/// A method in the regression.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    Dice(Carry),
    Clipped,
    Unclipped,
}

impl Rule {
    const ALL: [Self; 4] = [
        Self::Dice(Carry::Exact),
        Self::Dice(Carry::Capped),
        Self::Clipped,
        Self::Unclipped,
    ];

    fn variant(self) -> Variant {
        match self {
            Self::Dice(Carry::Exact) => DICE,
            Self::Dice(Carry::Capped) => DICE_CODE,
            Self::Clipped => CLIPPED,
            Self::Unclipped => UNCLIPPED,
        }
    }
}

const EXAMPLES: usize = 1000;
const SAMPLING: f64 = 0.1;

/// The excess loss of the mean of the last quarter of the steps.
fn excess(data: &SkewedRegression, rule: Rule, clip: f64, steps: u64, seed: u64) -> f64 {
    // Short steps need a longer rate to arrive.
    let rate = if clip < 1.0 && rule != Rule::Unclipped {
        0.1
    } else {
        0.03
    };
    let (ratio, carry) = match rule {
        Rule::Dice(carry) => (DiceConfig::default().error_clip, carry),
        // Nothing is given back.
        _ => (0.0, Carry::Exact),
    };
    let config = DiceConfig {
        error_clip: ratio,
        carry,
        accounting: Accounting::Paper,
    };
    let clip = if rule == Rule::Unclipped {
        f64::MAX
    } else {
        clip
    };
    let mut release = DiceSgd::new(
        config,
        clip,
        [0.0, 0.0],
        SAMPLING,
        SAMPLING * data.len() as f64,
    );
    let key = NoiseKey::from_seed(seed);
    let width = data.weights();
    let (mut x, mut mean) = (vec![0.0; width], vec![0.0; width]);
    let last = steps / 4;
    for step in 0..steps {
        let mut sums = Sums {
            clipped: vec![0.0; width],
            raw: vec![0.0; width],
        };
        for example in key.poisson_sample(step, data.len(), SAMPLING) {
            let gradient = data.gradient(example, &x);
            let weight = (clip / norm(&gradient)).min(1.0);
            for (i, g) in gradient.iter().enumerate() {
                sums.clipped[i] += weight * g;
                sums.raw[i] += g;
            }
        }
        let released = release.release(sums, vec![0.0; width]);
        x.iter_mut()
            .zip(&released)
            .for_each(|(x, g)| *x -= rate * g);
        if step >= steps - last {
            mean.iter_mut()
                .zip(&x)
                .for_each(|(m, x)| *m += x / last as f64);
        }
    }
    data.loss(&mean) - data.least_loss()
}

fn bias(bench: &Bench<'_>, table: &mut Table, checks: &mut Vec<Check>) -> Result<(), ClaimError> {
    let steps = if bench.quick() { 200 } else { 4000 };
    let points: Vec<(f64, Rule, u64)> = CLIPS
        .into_iter()
        .flat_map(|clip| Rule::ALL.map(|rule| (clip, rule)))
        .flat_map(|(clip, rule)| bench.seeds().iter().map(move |&seed| (clip, rule, seed)))
        .collect();
    let found = bench.measure(
        &Stage::new("regression", &(steps, EXAMPLES)),
        &points,
        |(clip, rule, seed)| {
            Cell::of(&bias_task(*clip))
                .variant(&rule.variant())
                .seed(*seed)
        },
        |&(clip, rule, seed)| {
            let data = SkewedRegression::new(EXAMPLES, seed);
            Ok(excess(&data, rule, clip, steps, seed))
        },
    )?;
    for ((clip, rule, seed), found) in points.into_iter().zip(found) {
        table.record(&bias_task(clip), &rule.variant(), &EXCESS, seed, found)?;
    }
    for clip in CLIPS {
        let task = bias_task(clip);
        let mean = |variant: &Variant| table.mean(&task, variant, &EXCESS);
        let [dice, clipped, unclipped] = [mean(&DICE)?, mean(&CLIPPED)?, mean(&UNCLIPPED)?];
        checks.push(
            Check::new(
                format!(
                    "{task}: the excess loss of DiceSGD is at most twice that without clipping"
                ),
                dice <= 2.0 * unclipped,
                format!("{dice:.1e} and {unclipped:.1e}"),
            )
            .headline(),
        );
        checks.push(Check::new(
            format!("{task}: DPSGD is biased"),
            clipped >= 10.0 * unclipped,
            format!("{clipped:.1e} and {unclipped:.1e}"),
        ));
    }
    Ok(())
}

/// Methods at the same budget.
fn private_methods() -> [(Variant, PrivateMethod); 4] {
    let dice = |accounting, carry| {
        PrivateMethod::DiceSgd(DiceConfig {
            error_clip: 1.0,
            carry,
            accounting,
        })
    };
    [
        (DICE, dice(Accounting::Paper, Carry::Exact)),
        (DICE_CODE, dice(Accounting::Paper, Carry::Capped)),
        (DICE_ANY, dice(Accounting::WorstCase, Carry::Exact)),
        (CLIPPED, PrivateMethod::DpSgd {}),
    ]
}

/// The training, and its data.
fn training(quick: bool) -> Result<(Experiment, DataSet), ClaimError> {
    let mut experiment = Experiment {
        data: DataConfig {
            source: "fashion".into(),
            limit: quick.then_some(400),
            standardization: Standardization::None,
            ..DataConfig::default()
        },
        model: ModelConfig::LogisticRegression(LogisticRegressionConfig::default()),
        ..Experiment::default()
    };
    let training = &mut experiment.training;
    training.epochs = if quick { 1 } else { 6 };
    training.batch = if quick { 50 } else { 100 };
    training.schedule = Schedule {
        decay: Decay::Constant,
        ..Schedule::default()
    };
    training.optimizer = OptimizerConfig::named("sgd").map_err(ClaimError::experiment)?;
    let data = experiment.open().map_err(ClaimError::experiment)?;
    Ok((experiment, data))
}

fn privacy(method: PrivateMethod, clip: f64, seed: u64) -> PrivacyConfig {
    PrivacyConfig {
        epsilon: Some(2.0),
        delta: Some(1e-5),
        accountant: "rdp".into(),
        clipping: Clipping::Flat { norm: clip },
        method,
        noise_seed: Some(seed),
        ..PrivacyConfig::default()
    }
}

/// Learning rates in multiples of 1/clip, since the step of a clipped gradient is as long as its clip.
fn rates(quick: bool) -> Vec<f64> {
    match quick {
        true => vec![0.3],
        false => vec![0.01, 0.03, 0.1, 0.3, 1.0, 3.0],
    }
}

#[derive(Serialize, Deserialize)]
struct Trained {
    accuracy: f64,
}

fn accuracy(
    bench: &Bench<'_>,
    table: &mut Table,
    checks: &mut Vec<Check>,
) -> Result<(), ClaimError> {
    let (experiment, data) = training(bench.quick())?;
    let rates = rates(bench.quick());
    type Point = (f64, usize, f64, u64);
    let mut points: Vec<Point> = Vec::new();
    for clip in CLIPS {
        for method in 0..private_methods().len() {
            for &rate in &rates {
                points.extend(bench.seeds().iter().map(|&seed| (clip, method, rate, seed)));
            }
        }
    }
    let methods = private_methods();
    let stage = Stage::new(
        "fashion",
        &(experiment.training.clone(), data.training.len()),
    );
    let found = bench.measure(
        &stage,
        &points,
        |(clip, method, rate, seed)| {
            Cell::of(&accuracy_task(*clip))
                .variant(&methods[*method].0)
                .seed(*seed)
                .part(format!("rate {rate}"))
        },
        |&(clip, method, rate, seed)| {
            let mut experiment = experiment.clone();
            experiment.training.seed = seed;
            experiment.training.optimizer.learning_rate = Some(rate / clip);
            let sources = privacy(methods[method].1, clip, seed);
            let go = &mut |_: nabla_train::trainer::Progress<'_>| ControlFlow::Continue(());
            let outcome = experiment.run_with(&sources, &data, &Device::flex(), None, go);
            // A rate at which the training runs away is not the best.
            let accuracy = match outcome {
                Ok(outcome) => outcome.history.last().map_or(0.0, |e| e.test_accuracy),
                Err(error) if error.is_divergence() => 0.0,
                Err(error) => return Err(ClaimError::experiment(error)),
            };
            Ok(Trained {
                accuracy: 100.0 * accuracy,
            })
        },
    )?;
    for clip in CLIPS {
        let task = accuracy_task(clip);
        for (index, (variant, _)) in methods.iter().enumerate() {
            let of = |rate: f64| {
                let chosen = points.iter().zip(&found);
                let chosen =
                    chosen.filter(move |((c, m, r, _), _)| (*c, *m, *r) == (clip, index, rate));
                chosen
                    .map(|((.., seed), found)| (*seed, found.accuracy))
                    .collect::<Vec<_>>()
            };
            let mean = |rate: f64| of(rate).iter().map(|(_, accuracy)| accuracy).sum::<f64>();
            let best = rates
                .iter()
                .copied()
                .max_by(|&a, &b| mean(a).total_cmp(&mean(b)));
            let best = best.unwrap_or(rates[0]);
            for (seed, accuracy) in of(best) {
                table.record(&task, variant, &ACCURACY, seed, accuracy)?;
                table.record(&task, variant, &RATE, seed, best / clip)?;
            }
        }
        checks.push(table.compare(&task, &ACCURACY, &DICE, &CLIPPED)?.headline());
        checks.push(table.not_worse(&task, &ACCURACY, &DICE_ANY, &CLIPPED)?);
    }
    Ok(())
}

fn audits(bench: &Bench<'_>, table: &mut Table, checks: &mut Vec<Check>) -> Result<(), ClaimError> {
    let (mut experiment, data) = training(bench.quick())?;
    experiment.training.optimizer.learning_rate = Some(0.1);
    let methods = private_methods();
    let points: Vec<(usize, u64)> = (0..methods.len())
        .flat_map(|method| bench.seeds().iter().map(move |&seed| (method, seed)))
        .collect();
    let found = bench.measure(
        &Stage::new("audit", &(experiment.training.clone(), data.training.len())),
        &points,
        |(method, seed)| Cell::of(&AUDIT).variant(&methods[*method].0).seed(*seed),
        |&(method, seed)| {
            let sources = AuditedTraining {
                privacy: privacy(methods[method].1, 1.0, seed),
                canaries: CanaryConfig {
                    count: 2000,
                    length: 100.0,
                    seed,
                },
                confidence: 0.95,
            };
            let go = &mut |_: nabla_train::trainer::Progress<'_>| ControlFlow::Continue(());
            let outcome = experiment.run_with(&sources, &data, &Device::flex(), None, go);
            let told = outcome.map_err(ClaimError::experiment)?.told;
            let report: PrivacyReport =
                serde_json::from_value(told).map_err(ClaimError::experiment)?;
            Ok([
                report.audit.map_or(0.0, |audit| audit.epsilon),
                report.epsilon,
            ])
        },
    )?;
    for ((method, seed), [lower, upper]) in points.into_iter().zip(found) {
        let variant = &methods[method].0;
        table.record(&AUDIT, variant, &FOUND, seed, lower)?;
        table.record(&AUDIT, variant, &ALLOWED, seed, upper)?;
    }
    for (variant, _) in &methods {
        let [lower, upper] = [FOUND, ALLOWED].map(|metric| table.mean(&AUDIT, variant, &metric));
        let (lower, upper) = (lower?, upper?);
        checks.push(Check::new(
            format!(
                "{AUDIT}: {variant} reveals no more than its account allows, as far as is found"
            ),
            lower <= upper,
            format!("at least {lower:.2}, allowed {upper:.2}"),
        ));
    }
    Ok(())
}
