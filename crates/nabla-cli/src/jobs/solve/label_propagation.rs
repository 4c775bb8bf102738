//! `nabla solve bcd --loss label-propagation`: labels for the examples that have none.

use std::time::Instant;

use nabla::data::LabelledRows;
use nabla::grad::seeded_noise::SeededNoise;
use nabla::solve::block_coordinate_descent::{
    BlockCoordinateDescentConfig, BlockDescentError, LabelPropagation, Penalty,
    nearest_neighbour_edges,
};
use nabla::solve::model::{Model, Predictor, Task};
use serde_json::Value;

use super::block_descent::{Arguments, refuse};
use super::descent::{Certificate, Solved, configuration, descend, finish, penalty_name};
use super::problem_file::Examples;
use crate::errors::Failure;
use crate::job::{Context, Report};

/// Finds the labels of examples from those of their neighbours.
pub fn propagate(arguments: &Arguments, context: &Context) -> Result<Report, Failure> {
    let penalised = arguments.l2.is_some() || arguments.other_penalty();
    refuse(
        &[
            (arguments.bias, "--bias"),
            (arguments.positive.is_some(), "--positive"),
            (penalised, "a penalty"),
            (arguments.data.test.is_some(), "--test"),
        ],
        "is not for --loss label-propagation, which has no feature weights",
    )?;
    let begun = Instant::now();
    let Examples {
        rows, index_base, ..
    } = arguments.data.read()?;
    let known = match (arguments.unknown, arguments.known) {
        (Some(unknown), _) => rows.labels().iter().map(|&y| y != unknown).collect(),
        (None, Some(count)) => drawn(rows.labels(), count, arguments.seed.value())?,
        (None, None) => {
            return Err(Failure::input(
                "label propagation needs --unknown LABEL (the label that means \"no label\") or \
                 --known N (how many labels to use)",
            ));
        }
    };
    let mut classes: Vec<f64> = labels_where(&rows, &known, true);
    classes.sort_by(f64::total_cmp);
    classes.dedup();
    if classes.len() < 2 {
        return Err(Failure::input(format!(
            "label propagation needs known labels of at least 2 classes, but there are {}",
            classes.len()
        )));
    }
    let edges = nearest_neighbour_edges(&rows, arguments.neighbours)?;
    // Two classes are one problem, with −1 and 1; more classes are one problem each, with 0 and 1.
    let solved = match classes.len() {
        2 => &classes[1..],
        _ => &classes[..],
    };
    let mut descents = Vec::new();
    let mut scores = Vec::new();
    let mut config = BlockCoordinateDescentConfig::new();
    for &class in solved {
        let other = if classes.len() == 2 { -1.0 } else { 0.0 };
        let value = |y: f64| if y == class { 1.0 } else { other };
        let labels = rows.labels().iter().zip(&known);
        let labels: Vec<Option<f64>> = labels.map(|(&y, k)| k.then(|| value(y))).collect();
        let graph = LabelPropagation::new(&edges, &labels).map_err(|error| match error {
            BlockDescentError::Unreachable(node) => Failure::input(format!(
                "example {} is not linked, even indirectly, to any example with a known label: use \
                 more --neighbours",
                node + 1
            )),
            other => other.into(),
        })?;
        config = arguments.config(graph.nodes().len(), &Penalty::None);
        let name = format!("label {class}");
        let descent = descend(&config, graph.quadratic(), &Penalty::None, name, context)?;
        scores.push(graph.labels(&descent.solution.x)?);
        descents.push(descent);
    }
    context.progress().finish();
    let label = |i: usize| match &scores[..] {
        [score] if score[i] > 0.0 => classes[1],
        [_] => classes[0],
        scores => {
            let mut best = 0;
            for (class, score) in scores.iter().enumerate() {
                if score[i] > scores[best][i] {
                    best = class;
                }
            }
            classes[best]
        }
    };
    let labels: Vec<f64> = (0..rows.len()).map(label).collect();
    let found = known.iter().zip(&labels).filter(|(k, _)| !**k);
    let found: Vec<f64> = found.map(|(_, &y)| y).collect();
    let solutions = || descents.iter().map(|d| &d.solution);
    let mut configuration = configuration(&config, 0.0, &Penalty::None)?;
    configuration["neighbours"] = arguments.neighbours.into();
    configuration["known"] = known.iter().filter(|k| **k).count().into();
    let mut model = Model {
        nabla: env!("CARGO_PKG_VERSION").to_owned(),
        method: "bcd".to_owned(),
        features: rows.features(),
        index_base,
        bias: false,
        positive: None,
        task: Task::Classes(classes.clone()),
        configuration,
        result: Value::Null,
        predictor: Predictor::Labels(labels),
    };
    // Labels that the file marks as unknown cannot be measured against.
    let truth = arguments.unknown.is_none();
    let solved = Solved {
        loss: arguments.loss.name(),
        l2: 0.0,
        penalty: penalty_name(&Penalty::None),
        examples: rows.len(),
        features: rows.features(),
        unknowns: found.len(),
        converged: solutions().all(|s| s.converged),
        iterations: solutions().map(|s| s.iterations).sum(),
        epochs: solutions().map(|s| s.epochs).sum(),
        objective: solutions().map(|s| s.objective).sum(),
        certificate: Certificate::of(&descents),
        free: found.len(),
        active_set_since: 0,
        seconds: begun.elapsed().as_secs_f64(),
        training: None,
        test: truth.then(|| model.measure(&found, &labels_where(&rows, &known, false))),
    };
    finish(
        arguments,
        context,
        &mut model,
        &solved,
        &Penalty::None,
        descents,
    )
}

/// The labels of the known examples, or of the unknown ones.
fn labels_where(rows: &LabelledRows, known: &[bool], wanted: bool) -> Vec<f64> {
    let labels = rows.labels().iter().zip(known);
    let kept = labels.filter(|(_, known)| **known == wanted);
    kept.map(|(&y, _)| y).collect()
}

/// Draws the labels that are used, with at least one of every class.
fn drawn(labels: &[f64], count: usize, seed: u64) -> Result<Vec<bool>, Failure> {
    let noise = SeededNoise::new(seed, 0).normal_values(labels.len());
    let mut order: Vec<usize> = (0..labels.len()).collect();
    order.sort_by(|&a, &b| noise[a].total_cmp(&noise[b]));
    let mut met: Vec<f64> = Vec::new();
    // The first label of every class, then the others.
    let (first, others): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|&i| {
        let new = !met.contains(&labels[i]);
        if new {
            met.push(labels[i]);
        }
        new
    });
    if count < first.len() || count >= labels.len() {
        return Err(Failure::input(format!(
            "--known is {count}, but it must be at least {}, the number of different labels, and \
             less than {}, the number of examples",
            first.len(),
            labels.len()
        )));
    }
    let mut known = vec![false; labels.len()];
    for i in first.into_iter().chain(others).take(count) {
        known[i] = true;
    }
    Ok(known)
}
