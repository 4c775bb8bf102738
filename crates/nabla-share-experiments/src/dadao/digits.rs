//! Logistic regression of the built-in digits, on nodes that are threads.

use std::time::Duration;

use nabla_base::vector::{add_scaled, distance, dot, norm};
use nabla_claims::ClaimError;
use nabla_data::digits;
use nabla_grad::SeededNoise;
use nabla_share::communicator::threads;
use nabla_share::dadao::{Dadao, DadaoError, Gradient, Objective};
use nabla_share::graph::{EdgeRates, Graph};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

const NODES: usize = 8;
/// With one that is always 1.
const FEATURES: usize = 65;
/// The strong convexity of every node's loss.
const L2: f64 = 0.05;

/// A run until a time.
#[derive(Serialize, Deserialize)]
pub(super) struct OnThreads {
    pub(super) gradients: f64,
    pub(super) messages: f64,
    /// Squared, relative to that of the start.
    pub(super) error: f64,
}

/// One node's examples: features times ±1, which is what the loss `log(1 + e^{−⟨a, x⟩})` needs.
struct Node(Vec<Vec<f64>>);

impl Node {
    fn gradient(&self, x: &[f64]) -> Vec<f64> {
        let mut sum: Vec<f64> = x.iter().map(|x| L2 * x).collect();
        for row in &self.0 {
            let slope = -1.0 / (1.0 + dot(row, x).exp());
            add_scaled(&mut sum, slope / self.0.len() as f64, row);
        }
        sum
    }

    /// The largest eigenvalue of a quarter of the mean of `a aᵀ`, by the power method, and the penalty.
    fn smoothness(&self) -> f64 {
        let mut direction = vec![1.0; FEATURES];
        let mut largest = 0.0;
        for _ in 0..200 {
            let mut image = vec![0.0; FEATURES];
            for row in &self.0 {
                add_scaled(
                    &mut image,
                    0.25 * dot(row, &direction) / self.0.len() as f64,
                    row,
                );
            }
            largest = norm(&image);
            direction = image.into_iter().map(|v| v / largest).collect();
        }
        // The power method comes from below.
        1.01 * largest + L2
    }
}

/// Sorted shards, of which each node has two by the seed.
fn nodes(seed: u64) -> Result<Vec<Node>, ClaimError> {
    let all = digits().map_err(ClaimError::experiment)?;
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.sort_by_key(|&example| all.labels()[example]);
    let mut shards: Vec<&[usize]> = order.chunks(all.len().div_ceil(2 * NODES)).collect();
    shards.shuffle(&mut SeededNoise::new(seed, 4));
    let row = |&example: &usize| {
        let sign = if all.labels()[example] < 5 { 1.0 } else { -1.0 };
        let white = f64::from(all.white());
        let pixels = all.pixels(example).iter();
        let features = pixels.map(|&pixel| f64::from(pixel) / white - 0.3);
        let row = features.chain([1.0]).map(|x| sign * x);
        row.collect::<Vec<f64>>()
    };
    let node = |pair: &[&[usize]]| Node(pair.concat().iter().map(row).collect());
    Ok(shards.chunks(2).map(node).collect())
}

fn objective(nodes: &[Node]) -> Objective<'_> {
    let boxed = |node| {
        let node: &Node = node;
        Box::new(move |x: &[f64]| node.gradient(x)) as Gradient<'_>
    };
    Objective {
        smoothness: nodes.iter().map(Node::smoothness).fold(0.0, f64::max),
        strong_convexity: L2,
        gradients: nodes.iter().map(boxed).collect(),
    }
}

/// The minimum of the sum, by accelerated descent in one place.
fn minimum(objective: &Objective<'_>) -> Vec<f64> {
    let root = (L2 / objective.smoothness).sqrt();
    let momentum = (1.0 - root) / (1.0 + root);
    let (mut x, mut ahead) = (vec![0.0; FEATURES], vec![0.0; FEATURES]);
    for _ in 0..2000 {
        let mut next = ahead.clone();
        for gradient in &objective.gradients {
            let step = 1.0 / objective.smoothness / NODES as f64;
            add_scaled(&mut next, -step, &gradient(&ahead));
        }
        ahead = next.iter().map(|next| (1.0 + momentum) * next).collect();
        add_scaled(&mut ahead, -momentum, &x);
        x = next;
    }
    x
}

pub(super) fn descend(optimal: bool, until: f64, seed: u64) -> Result<OnThreads, ClaimError> {
    let nodes = nodes(seed)?;
    let objective_here = objective(&nodes);
    let minimum = minimum(&objective_here);
    let graph = Graph::ring(NODES).map_err(ClaimError::experiment)?;
    let rates = match optimal {
        true => EdgeRates::optimal(&graph),
        false => EdgeRates::uniform(&graph),
    };
    let rates = rates.map_err(ClaimError::experiment)?;
    let dadao = Dadao::new(&objective_here, &rates).map_err(ClaimError::experiment)?;
    let limit = Duration::from_secs(120);
    let reports = threads::run(NODES, limit, |ranks| -> Result<_, DadaoError> {
        let objective = objective(&nodes);
        dadao.run_on(ranks, &objective, vec![0.0; FEATURES], until, seed)
    });
    let reports = reports.map_err(ClaimError::experiment)?;
    let errors = reports.iter().map(|report| {
        let relative = distance(&report.solutions[0], &minimum) / norm(&minimum);
        relative * relative
    });
    Ok(OnThreads {
        gradients: reports.iter().map(|r| r.gradients as f64).sum(),
        // Both ends of an edge count its gossip.
        messages: reports.iter().map(|r| r.gossips as f64).sum::<f64>() / 2.0,
        error: errors.sum::<f64>() / NODES as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradients_vanish_together_at_the_minimum_and_are_slopes() {
        let nodes = nodes(0).unwrap();
        let objective = objective(&nodes);
        let mut sum = vec![0.0; FEATURES];
        let x = minimum(&objective);
        for gradient in &objective.gradients {
            add_scaled(&mut sum, 1.0, &gradient(&x));
        }
        assert!(norm(&sum) < 1e-9, "{}", norm(&sum));
        let loss = |x: &[f64]| {
            let rows = nodes[2].0.iter().map(|row| (-dot(row, x)).exp().ln_1p());
            rows.sum::<f64>() / nodes[2].0.len() as f64 + 0.5 * L2 * dot(x, x)
        };
        let at = |step: f64| {
            let mut x = x.clone();
            x[30] += step;
            loss(&x)
        };
        let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
        assert!((slope - objective.gradients[2](&x)[30]).abs() < 1e-8);
    }
}
