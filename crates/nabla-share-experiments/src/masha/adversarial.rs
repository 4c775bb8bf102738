//! Adversarial training of a softmax regression of the digits, as a saddle point.
//!
//! `min_w max_{|δ_c| ≤ r} (1/n) Σ_i CE(w; x_i + δ_{y_i}) + λ/2 ‖w‖²`, with one perturbation for every class, which all
//! workers share: 650 weights and 640 perturbed pixels. Each worker has shards of sorted classes. The box is the composite
//! term. A model is tested under perturbations of the classes that are best against it, by projected ascent.

use std::ops::ControlFlow;

use nabla_base::vector::{add_scaled, dot};
use nabla_claims::{ClaimError, Variant};
use nabla_data::digits;
use nabla_grad::SeededNoise;
use nabla_grad::compressor::RandK;
use nabla_share::masha::extragradient::Extragradient;
use nabla_share::masha::{
    Masha1, MashaError, OneProcess, Operator, Problem, Progress, Schedule, Uplink,
};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::{EXTRAGRADIENT, PERM_K};
use crate::softmax::{CLASSES, best, probabilities, scores};

const WORKERS: usize = 4;
const PIXELS: usize = 64;
/// With an offset for every class.
const WEIGHTS: usize = (PIXELS + 1) * CLASSES;
const DIMENSION: usize = WEIGHTS + PIXELS * CLASSES;
/// Of pixels from 0 to 1.
const RADIUS: f64 = 0.2;
const LAMBDA: f64 = 1e-2;
const TRAINING: usize = 1200;

/// The end of a training.
#[derive(Serialize, Deserialize)]
pub(super) struct Trained {
    /// Thousands of bits per worker.
    pub(super) up: f64,
    pub(super) down: f64,
    pub(super) iterations: f64,
    /// Of the training examples under attack, in percent.
    pub(super) robust_in_training: f64,
    pub(super) accuracy: f64,
    pub(super) robust: f64,
}

/// A picture with its 1 for the offset, and its class.
type Example = (Vec<f64>, usize);

/// The examples to train with and to test with.
fn examples(seed: u64) -> Result<[Vec<Example>; 2], ClaimError> {
    let all = digits().map_err(ClaimError::experiment)?;
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.shuffle(&mut SeededNoise::new(seed, 5));
    let mut training: Vec<Example> = order
        .iter()
        .map(|&index| {
            let white = f64::from(all.white());
            let pixels = all.pixels(index).iter().map(|&p| f64::from(p) / white);
            (
                pixels.chain([1.0]).collect(),
                usize::from(all.labels()[index]),
            )
        })
        .collect();
    let test = training.split_off(TRAINING);
    Ok([training, test])
}

/// The examples of every worker: two shards of sorted classes.
fn shared(training: &[Example], seed: u64) -> Vec<Vec<&Example>> {
    let mut sorted: Vec<&Example> = training.iter().collect();
    sorted.sort_by_key(|(_, class)| *class);
    let mut shards: Vec<&[&Example]> = sorted.chunks(TRAINING / WORKERS / 2).collect();
    shards.shuffle(&mut SeededNoise::new(seed, 6));
    shards.chunks(2).map(<[_]>::concat).collect()
}

fn perturbed(perturbations: &[f64], (row, class): &Example) -> Vec<f64> {
    let mut row = row.clone();
    let own = &perturbations[class * PIXELS..(class + 1) * PIXELS];
    add_scaled(&mut row[..PIXELS], 1.0, own);
    row
}

/// `(∇_w f, ∇_δ f)`, the mean over some examples.
fn gradient(own: &[&Example], z: &[f64]) -> Vec<f64> {
    let (w, perturbations) = z.split_at(WEIGHTS);
    let mut sum: Vec<f64> = w.iter().map(|w| LAMBDA * w).collect();
    sum.resize(DIMENSION, 0.0);
    let (by_weights, by_pixels) = sum.split_at_mut(WEIGHTS);
    let factor = 1.0 / own.len() as f64;
    for example in own {
        let row = perturbed(perturbations, example);
        let class = example.1;
        let mut errors = probabilities(w, &row);
        errors[class] -= 1.0;
        for (x, sum) in row.iter().zip(by_weights.as_chunks_mut::<CLASSES>().0) {
            add_scaled(sum, factor * x, &errors);
        }
        let pixels = &mut by_pixels[class * PIXELS..(class + 1) * PIXELS];
        for (sum, w) in pixels.iter_mut().zip(w.as_chunks::<CLASSES>().0) {
            *sum += factor * dot(w, &errors);
        }
    }
    sum
}

/// In percent.
fn accuracy(w: &[f64], perturbations: &[f64], examples: &[&Example]) -> f64 {
    let right =
        |example: &&&Example| best(&scores(w, &perturbed(perturbations, example))) == example.1;
    100.0 * examples.iter().filter(right).count() as f64 / examples.len() as f64
}

/// The accuracy under the perturbations of projected ascent by signs.
fn robust(w: &[f64], examples: &[&Example]) -> f64 {
    let mut z = w.to_vec();
    z.resize(DIMENSION, 0.0);
    for _ in 0..40 {
        let ascent = gradient(examples, &z);
        for (z, g) in z[WEIGHTS..].iter_mut().zip(&ascent[WEIGHTS..]) {
            *z = (*z + 0.02 * g.signum()).clamp(-RADIUS, RADIUS);
        }
    }
    accuracy(w, &z[WEIGHTS..], examples)
}

/// Extragradient for so many iterations, or MASHA1 for a quarter of the bits that its workers send.
pub(super) fn train(
    variant: &Variant,
    step: f64,
    iterations: usize,
    seed: u64,
) -> Result<Trained, ClaimError> {
    let [training, test] = examples(seed)?;
    let shares = shared(&training, seed);
    let operators = shares
        .iter()
        .map(|own| Operator::of_saddle_point(WEIGHTS, move |z: &[f64]| gradient(own, z)));
    let problem = Problem::new(DIMENSION, operators.collect()).map_err(ClaimError::experiment)?;
    // The perturbed pixels move in a box, and the weights where they like.
    let problem = problem.with_prox(|_, z| {
        let pixels = z[WEIGHTS..].iter_mut();
        pixels.for_each(|z| *z = z.clamp(-RADIUS, RADIUS));
    });
    let start = vec![0.0; DIMENSION];
    let mut network = OneProcess::new(WORKERS);
    // Two vectors of 32 bits an iteration.
    let whole = (iterations * 2 * 32 * DIMENSION * WORKERS) as u64;
    let masha = |uplink, snapshot_probability| Masha1 {
        schedule: Schedule {
            step,
            snapshot_probability,
            iterations: usize::MAX,
            seed,
            ..Schedule::default()
        },
        ..Masha1::new(uplink)
    };
    let until = |progress: Progress<'_>| match progress.sent.up.bits >= whole / 4 {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    let mut run = || -> Result<_, MashaError> {
        if *variant == EXTRAGRADIENT {
            let method = Extragradient {
                step,
                iterations,
                ..Extragradient::default()
            };
            return method.run(
                &problem,
                &start,
                &mut network,
                |_| ControlFlow::Continue(()),
            );
        }
        // A snapshot once in as many iterations as make its cost that of the differences.
        let method = match *variant == PERM_K {
            true => masha(Uplink::PermK, 1.0 / WORKERS as f64),
            false => masha(
                Uplink::Independent(Box::new(RandK::new(DIMENSION / 10)?)),
                0.1,
            ),
        };
        method.run(&problem, &start, &mut network, until)
    };
    let outcome = run().map_err(ClaimError::experiment)?;
    let w = &outcome.z[..WEIGHTS];
    let [training, test] = [&training, &test].map(|set| set.iter().collect::<Vec<_>>());
    let kilobits = |bits: u64| bits as f64 / 1000.0 / WORKERS as f64;
    Ok(Trained {
        up: kilobits(outcome.sent.up.bits),
        down: kilobits(outcome.sent.down.bits),
        iterations: outcome.iterations as f64,
        robust_in_training: robust(w, &training),
        accuracy: accuracy(w, &start[WEIGHTS..], &test),
        robust: robust(w, &test),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let [training, _] = examples(0).unwrap();
        let own: Vec<&Example> = training.iter().take(50).collect();
        let z: Vec<f64> = (0..DIMENSION).map(|k| 0.1 * (k as f64).sin()).collect();
        let loss = |z: &[f64]| {
            let (w, perturbations) = z.split_at(WEIGHTS);
            let of = |example: &&Example| {
                -probabilities(w, &perturbed(perturbations, example))[example.1].ln()
            };
            own.iter().map(of).sum::<f64>() / 50.0 + 0.5 * LAMBDA * dot(w, w)
        };
        let found = gradient(&own, &z);
        for k in [0, 300, WEIGHTS - 1, WEIGHTS + 30, WEIGHTS + 9 * PIXELS + 20] {
            let at = |step: f64| {
                let mut z = z.clone();
                z[k] += step;
                loss(&z)
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - found[k]).abs() < 1e-8, "{k}");
        }
    }

    #[test]
    fn an_attack_finds_more_errors_than_there_are() {
        let [training, _] = examples(1).unwrap();
        let all: Vec<&Example> = training.iter().collect();
        let trained = train(&EXTRAGRADIENT, 0.1, 30, 1).unwrap();
        let found = (trained.robust, trained.accuracy);
        assert!(found.0 < found.1 && found.1 > 60.0, "{found:?}");
        assert_eq!(shared(&training, 1).concat().len(), all.len());
    }
}
