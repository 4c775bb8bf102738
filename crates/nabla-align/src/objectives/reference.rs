//! Every objective beside the official implementations: loss and gradient of steps on the same batches and weights.
//! `tests/reference/objectives.py` runs the originals.

use std::sync::{Arc, Mutex};

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::registry::Options;
use nabla_grad::flat::ParameterLayout;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::classifier::{Classifier, Seen};
use nabla_train::error::TrainingError;
use nabla_train::examples::InputShape;
use nabla_train::learner::Learner;
use nabla_train::optimizer::{Method, OptimizerConfig};
use nabla_train::schedule::{Decay, Schedule};
use nabla_train::task::Task;
use nabla_train::trainer::{Trainer, TrainerConfig};
use nabla_train::transform::{GradientTransform, Gradients};
use serde_json::{Value, json};

use crate::head_stats::HeadStats;
use crate::objective::{DomainBatch, DomainStep, Objective, ObjectiveError};
use crate::objectives::mixup::{Pair, mixed};
use crate::objectives::udim::{UdimConfig, moved_examples};
use crate::objectives::{HessianAlignmentConfig, objectives};

/// `tanh(x A + a)`, perhaps `tanh(z M + m)`, and a linear layer.
#[derive(Module, Debug)]
pub(crate) struct Tiny {
    hidden: Linear,
    middle: Option<Linear>,
    output: Linear,
}

impl Classifier for Tiny {
    fn logits(&self, input: Tensor<2>) -> Tensor<2> {
        self.seen(input).logits
    }

    fn seen(&self, input: Tensor<2>) -> Seen {
        let features = self.hidden.forward(input).tanh();
        let inner = match &self.middle {
            Some(middle) => middle.forward(features.clone()).tanh(),
            None => features.clone(),
        };
        Seen {
            logits: self.output.forward(inner),
            features,
        }
    }

    fn head(&self) -> Option<&Linear> {
        match self.middle {
            Some(_) => None,
            None => Some(&self.output),
        }
    }
}

const INPUTS: usize = 5;
const FEATURES: usize = 4;
const CLASSES: usize = 3;

pub(crate) fn reference() -> Value {
    serde_json::from_str(include_str!("../../tests/reference/objectives.json")).unwrap()
}

pub(crate) fn floats(value: &Value) -> Vec<f32> {
    let values = value.as_array().unwrap().iter();
    values.map(|x| x.as_f64().unwrap() as f32).collect()
}

pub(crate) fn device() -> Device {
    Device::flex().autodiff()
}

impl Tiny {
    /// The network of the reference.
    pub(crate) fn of(reference: &Value, nonlinear: bool) -> Self {
        let layer = |matrix: &Value, bias: &Value, from: usize, to: usize| {
            let mut layer = LinearConfig::new(from, to).init(&device());
            let matrix = TensorData::new(floats(matrix), [from, to]);
            layer.weight = Param::from_tensor(Tensor::from_data(matrix, &device()));
            let bias = TensorData::new(floats(bias), [to]);
            layer.bias = Some(Param::from_tensor(Tensor::from_data(bias, &device())));
            layer
        };
        let weights = &reference["weights"];
        let middle = &reference["middle"];
        Self {
            hidden: layer(&weights["A"], &weights["a"], INPUTS, FEATURES),
            middle: nonlinear.then(|| layer(&middle["M"], &middle["m"], FEATURES, FEATURES)),
            output: layer(&weights["W"], &weights["b"], FEATURES, CLASSES),
        }
    }
}

/// The batches of a step of the reference.
pub(crate) fn batches(reference: &Value, step: usize) -> Vec<DomainBatch> {
    let domains = reference["steps"][step].as_array().unwrap().iter();
    let batch = |domain: &Value| {
        let labels: Vec<u32> = floats(&domain["y"]).iter().map(|&y| y as u32).collect();
        let input = TensorData::new(floats(&domain["x"]), [labels.len(), INPUTS]);
        DomainBatch {
            input: Tensor::from_data(input, &device()),
            labels,
        }
    };
    domains.map(batch).collect()
}

/// A training whose batches are given.
pub(crate) struct Given<F> {
    reference: Value,
    step: F,
}

impl<F> Task for Given<F>
where
    F: FnMut(&mut DomainStep<'_, Tiny>) -> Result<(), ObjectiveError>,
{
    type Model = Tiny;
    type Batch = ();
    type Report = ();

    fn batch(&mut self, _learner: &Learner<Tiny>) -> Result<(), TrainingError> {
        Ok(())
    }

    fn step(&mut self, learner: &mut Learner<Tiny>) -> Result<(), TrainingError> {
        let batches = batches(&self.reference, learner.step());
        let before = learner.model().clone();
        let noise = SeededNoise::new(1, 0);
        let shape = InputShape::Row(INPUTS);
        let mut step = DomainStep::new(learner, batches, shape, noise);
        (self.step)(&mut step)?;
        // Fish makes its updates itself.
        let layout = ParameterLayout::trainable(&before)?;
        let [old, new] = [&before, learner.model()].map(|model| {
            let values = layout.flatten_parameters(model).unwrap();
            values.into_data().try_to_vec::<f32>().unwrap()
        });
        match old == new {
            true => learner.apply(),
            false => Ok(()),
        }
    }
}

type Found = Arc<Mutex<Vec<Vec<f32>>>>;

/// Records the gradients, and lets no step be taken.
struct Recorded(Found);

impl GradientTransform<Tiny> for Recorded {
    fn name(&self) -> &str {
        "recorded"
    }

    fn apply(&mut self, gradients: &mut Gradients<'_, Tiny>) -> Result<(), TrainingError> {
        gradients.map_flat(|gradient| {
            let values = gradient.clone().into_data().try_to_vec::<f32>().unwrap();
            self.0.lock().unwrap().push(values);
            Ok(gradient.zeros_like())
        })
    }
}

/// The loss and the gradient of every step, all at the first weights.
pub(crate) fn gradients(
    steps: usize,
    nonlinear: bool,
    step: impl FnMut(&mut DomainStep<'_, Tiny>) -> Result<(), ObjectiveError>,
) -> Vec<(f32, Vec<f32>)> {
    let seen = Found::default();
    let reference = reference();
    let model = Tiny::of(&reference, nonlinear);
    let mut optimizer = OptimizerConfig::named("sgd").unwrap();
    optimizer.learning_rate = Some(1.0);
    let config = TrainerConfig {
        steps,
        optimizer,
        ..TrainerConfig::default()
    };
    let task = Given { reference, step };
    let trainer = Trainer::new(config, task, model).unwrap();
    let mut trainer = trainer.with_transform(Recorded(Arc::clone(&seen)));
    for _ in 0..steps {
        trainer.train_step().unwrap();
    }
    let losses = trainer.history().steps.iter().map(|s| s.loss.unwrap());
    losses.zip(seen.lock().unwrap().drain(..)).collect()
}

/// The weights after every step with Adam at the rate 0.01.
fn trained(steps: usize, mut objective: Box<dyn Objective<Tiny>>) -> Vec<Vec<f32>> {
    let reference = reference();
    let model = Tiny::of(&reference, false);
    let adam = Method::named("adam")
        .unwrap()
        .with("epsilon", 1e-8)
        .unwrap();
    let mut optimizer = OptimizerConfig::new(adam);
    optimizer.learning_rate = Some(0.01);
    let schedule = Schedule {
        decay: Decay::Constant,
        ..Schedule::default()
    };
    let config = TrainerConfig {
        steps,
        optimizer,
        schedule,
        ..TrainerConfig::default()
    };
    let task = Given {
        reference,
        step: |step: &mut DomainStep<'_, Tiny>| objective.step(step),
    };
    let mut trainer = Trainer::new(config, task, model).unwrap();
    (0..steps)
        .map(|_| {
            trainer.train_step().unwrap();
            let layout = ParameterLayout::trainable(trainer.model()).unwrap();
            let weights = layout.flatten_parameters(trainer.model()).unwrap();
            weights.into_data().try_to_vec::<f32>().unwrap()
        })
        .collect()
}

fn made(name: &str, options: Value) -> Box<dyn Objective<Tiny>> {
    let options: Options = serde_json::from_value(options).unwrap();
    objectives().make(name, &options).unwrap()
}

/// The largest difference, in units of the largest number that is expected.
pub(crate) fn off(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = |of: &mut dyn Iterator<Item = f32>| of.map(f32::abs).fold(0.0, f32::max);
    let difference = largest(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    difference / largest(&mut expected.iter().copied())
}

/// The tolerance: losses and gradients agree to so much of the largest number.
const TOLERANCE: f32 = 1e-4;

fn compare(name: &str, options: Value, expected: &Value, loss: impl Fn(&Value) -> f64) {
    let mut objective = made(name, options);
    let steps = expected.as_array().unwrap();
    let found = gradients(steps.len(), false, |step| objective.step(step));
    for (i, ((told, gradient), expected)) in found.iter().zip(steps).enumerate() {
        let right = loss(&expected["told"]);
        let off_loss = (f64::from(*told) - right).abs() / right.abs();
        assert!(
            off_loss < f64::from(TOLERANCE),
            "{name}, step {i}: loss {told}, but {right}"
        );
        let off = off(gradient, &floats(&expected["gradient"]));
        assert!(
            off < TOLERANCE,
            "{name}, step {i}: the gradient is off by {off}"
        );
    }
}

fn whole(told: &Value) -> f64 {
    told["loss"].as_f64().unwrap()
}

/// What is told as the loss leaves the penalty out.
fn with_penalty(weight: f64) -> impl Fn(&Value) -> f64 {
    move |told| whole(told) + weight * told["penalty"].as_f64().unwrap()
}

#[test]
fn objectives_with_a_loss_are_those_of_domainbed() {
    let r = reference();
    compare("erm", json!({}), &r["erm"], whole);
    let annealed = |penalty: f64| json!({ "penalty": penalty, "anneal_steps": 1 });
    compare("irm", annealed(50.0), &r["irm"], whole);
    compare("vrex", annealed(20.0), &r["vrex"], whole);
    compare("group-dro", json!({ "eta": 0.5 }), &r["group_dro"], whole);
    compare(
        "coral",
        json!({ "penalty": 2.0 }),
        &r["coral"],
        with_penalty(2.0),
    );
    compare(
        "mmd",
        json!({ "penalty": 2.0 }),
        &r["mmd"],
        with_penalty(2.0),
    );
    let options = json!({ "penalty": 40.0, "anneal_steps": 1, "average": 0.9 });
    compare("fishr", options, &r["fishr"], whole);
}

#[test]
fn objectives_with_a_step_are_those_of_the_official_code() {
    let r = reference();
    compare(
        "iga",
        json!({ "penalty": 3.0 }),
        &r["iga"],
        with_penalty(3.0),
    );
    let one = |value: &Value| json!([value]);
    compare("sam", json!({ "rho": 0.2 }), &one(&r["sam"]), whole);
    compare(
        "sam",
        json!({ "rho": 0.2, "adaptive": true }),
        &one(&r["asam"]),
        whole,
    );
    compare(
        "sagm",
        json!({ "rho": 0.2, "alpha": 0.3 }),
        &one(&r["sagm"]),
        whole,
    );
    let weights = json!({ "alpha": 3.0, "beta": 2.0 });
    compare("hgp", weights.clone(), &r["hgp"], whole);
    compare("hutchinson", weights, &r["hutchinson"], whole);
}

/// With the pairs and shares that the original drew.
#[test]
fn mixup_is_that_of_domainbed() {
    let r = reference();
    let order: Vec<usize> = floats(&r["mixup"]["order"])
        .iter()
        .map(|&x| x as usize)
        .collect();
    let shares = floats(&r["mixup"]["shares"]);
    let pairs: Vec<Pair> = (0..3)
        .map(|i| Pair {
            domains: [order[i], order[(i + 1) % 3]],
            share: f64::from(shares[i]),
        })
        .collect();
    let found = gradients(1, false, |step| {
        let loss = mixed(step, &pairs);
        step.learner().backward(loss)?;
        Ok(())
    });
    let expected = &r["mixup"]["steps"][0];
    assert!((f64::from(found[0].0) - whole(&expected["told"])).abs() < 1e-4);
    assert!(off(&found[0].1, &floats(&expected["gradient"])) < TOLERANCE);
    // The draws of its own are of all domains, and shares.
    let mut own = made("mixup", json!({}));
    let again = gradients(1, false, |step| own.step(step));
    assert!(again[0].0.is_finite() && off(&again[0].1, &found[0].1) > 1e-3);
}

/// The optimizer restarts when the penalty begins; Fish' inner optimizer keeps its state.
#[test]
fn trainings_with_adam_are_those_of_domainbed() {
    let r = reference();
    let options = json!({ "penalty": 50.0, "anneal_steps": 2 });
    let irm = (made("irm", options), &r["irm_trained"]);
    let fish = (
        made("fish", json!({ "meta_rate": 0.3 })),
        &r["fish_trained"],
    );
    for (objective, expected) in [irm, fish] {
        let name = objective.name().to_owned();
        let expected = expected.as_array().unwrap();
        let found = trained(expected.len(), objective);
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let off = off(found, &floats(expected));
            assert!(
                off < TOLERANCE,
                "{name}, step {i}: the weights are off by {off}"
            );
        }
    }
}

/// With the signs of the original.
#[test]
fn the_estimated_diagonal_is_aligned_as_in_the_official_code() {
    let r = reference();
    let signs: Vec<Vec<f32>> = r["estimated"]["signs"]
        .as_array()
        .unwrap()
        .iter()
        .map(floats)
        .collect();
    let found = gradients(1, false, |step| {
        let passes = step.apart();
        let heads: Vec<HeadStats> = passes.iter().map(|p| p.head().unwrap()).collect();
        // The original has the matrix row by row, then the bias; a layer here has the bias in the last column.
        let probes = |signs: &[f32]| -> Vec<Tensor<2>> {
            let count = CLASSES * (FEATURES + 1);
            let probe = |signs: &[f32]| {
                let (matrix, bias) = signs.split_at(CLASSES * FEATURES);
                let rows = matrix.chunks(FEATURES).zip(bias);
                let rows = rows.flat_map(|(row, &b)| row.iter().copied().chain([b]));
                let data = TensorData::new(rows.collect::<Vec<f32>>(), [CLASSES, FEATURES + 1]);
                Tensor::<2>::from_data(data, &device())
            };
            signs.chunks(count).map(probe).collect()
        };
        let mean = |of: Vec<Tensor<2>>| {
            let count = of.len() as f64;
            of.into_iter().reduce(|a, b| a + b).unwrap().detach() * (1.0 / count)
        };
        let of_mean = probes(&signs[0]);
        let of_mean = heads
            .iter()
            .map(|h| h.estimated_diagonal(&of_mean).unwrap())
            .collect();
        let (centre, curvature) = (
            mean(heads.iter().map(HeadStats::gradient).collect()),
            mean(of_mean),
        );
        let mut terms = Vec::new();
        for (i, (head, pass)) in heads.iter().zip(&passes).enumerate() {
            let own = head.estimated_diagonal(&probes(&signs[i + 1])).unwrap();
            let apart = (own - curvature.clone()).square().sum() * 3.0
                + (head.gradient() - centre.clone()).square().sum() * 2.0;
            terms.push(pass.loss() + apart);
        }
        let loss = Tensor::cat(terms, 0).mean();
        step.learner().backward(loss)?;
        Ok(())
    });
    let expected = &r["estimated"]["steps"][0];
    assert!((f64::from(found[0].0) - whole(&expected["told"])).abs() < 1e-3);
    assert!(off(&found[0].1, &floats(&expected["gradient"])) < TOLERANCE);
}

/// A last part of two layers, by differences of gradients in 32 bits.
#[test]
fn a_last_part_that_is_not_linear_is_aligned_as_in_the_official_code() {
    let r = reference();
    let config = HessianAlignmentConfig {
        head: Some("^(middle|output)".into()),
        ..HessianAlignmentConfig::hgp().with_weights(3.0, 2.0)
    };
    let options = serde_json::to_value(config).unwrap();
    let mut objective = made("hgp", options);
    let found = gradients(1, true, |step| objective.step(step));
    let expected = &r["hgp_nonlinear"][0];
    let right = whole(&expected["told"]);
    assert!(
        (f64::from(found[0].0) - right).abs() / right < 1e-3,
        "{}",
        found[0].0
    );
    let off = off(&found[0].1, &floats(&expected["gradient"]));
    assert!(off < 5e-3, "{off}");
}

/// With the normalisation of the original, per batch, and its exact mixed derivative by differences.
#[test]
fn udim_is_that_of_the_official_code() {
    let r = reference();
    for (name, by_domain) in [("udim", false), ("udim_by_domain", true)] {
        let options = json!({
            "rho": 0.2,
            "data_radius": 1.5,
            "weight": 0.8,
            "warmup": 0.0,
            "perturbation": { "pixel": "per-batch" },
            "mixed": { "central": 0.02 },
            "by_domain": by_domain,
        });
        let config: UdimConfig = serde_json::from_value(options.clone()).unwrap();
        let mut objective = made("udim", options);
        let mut moved = Vec::new();
        let found = gradients(1, false, |step| {
            moved = moved_examples(&config, step)?
                .into_data()
                .try_to_vec::<f32>()
                .unwrap();
            objective.step(step)
        });
        let expected = &r[name];
        let off_moved = off(&moved, &floats(&expected["moved"]));
        assert!(
            off_moved < 1e-3,
            "{name}: the examples are off by {off_moved}"
        );
        let told = objective.report()["inconsistency"].as_f64().unwrap();
        let right = expected["inconsistency"].as_f64().unwrap();
        assert!(
            (told - right).abs() / right < 1e-4,
            "{name}: {told} for {right}"
        );
        let off = off(&found[0].1, &floats(&expected["gradient"]));
        assert!(off < TOLERANCE, "{name}: the gradient is off by {off}");
    }
}
