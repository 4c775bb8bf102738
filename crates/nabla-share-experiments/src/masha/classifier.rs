//! A classifier of the digits with one hidden layer, and its slopes by weights and by pixels.
//!
//! ```text
//! h = tanh(W₁ x + b₁),  s = W₂ h + b₂,  CE(w; x, c) = log Σ_k exp s_k − s_c
//! ```
//!
//! Matrices are column by column, so that an example is a run of 64 numbers.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatMut, MatRef, Par};
use nabla_grad::SeededNoise;

use crate::softmax::CLASSES;

pub(super) const PIXELS: usize = 64;
const HIDDEN: usize = 32;
/// Where `b₁`, `W₂` and `b₂` begin among the weights, after `W₁`.
const FIRST_OFFSETS: usize = HIDDEN * PIXELS;
const SECOND: usize = FIRST_OFFSETS + HIDDEN;
const SECOND_OFFSETS: usize = SECOND + CLASSES * HIDDEN;
pub(super) const WEIGHTS: usize = SECOND_OFFSETS + CLASSES;

/// Examples of one worker, or of a test.
pub(super) struct Examples {
    /// `[64, n]`, column by column, of pixels from 0 to 1.
    pub(super) pixels: Vec<f64>,
    pub(super) classes: Vec<usize>,
}

/// What a pass over examples gives.
pub(super) struct Slopes {
    /// Of the mean of the losses.
    pub(super) by_weights: Vec<f64>,
    /// Of each example's own loss, `[64, n]`.
    pub(super) by_pixels: Vec<f64>,
    /// The mean of the losses.
    #[cfg(test)]
    loss: f64,
}

/// Weights of a normal distribution with a variance of 1 over the inputs, and no offsets.
pub(super) fn start(seed: u64) -> Vec<f64> {
    let mut noise = SeededNoise::new(seed, 7);
    let mut normal = |count: usize, inputs: usize| -> Vec<f64> {
        let scale = (inputs as f64).powf(-0.5);
        let values = noise.normal_values(count).into_iter();
        values.map(|value| scale * f64::from(value)).collect()
    };
    let mut w = normal(HIDDEN * PIXELS, PIXELS);
    w.extend([0.0; HIDDEN]);
    w.extend(normal(CLASSES * HIDDEN, HIDDEN));
    w.extend([0.0; CLASSES]);
    w
}

impl Examples {
    pub(super) fn len(&self) -> usize {
        self.classes.len()
    }

    /// `x_i + ρ_i`, both `[64, n]`.
    fn moved(&self, perturbations: &[f64]) -> Mat<f64> {
        let moved = |row, example| {
            let at = example * PIXELS + row;
            self.pixels[at] + perturbations[at]
        };
        Mat::from_fn(PIXELS, self.len(), moved)
    }

    /// How many are classified rightly under these perturbations, in percent.
    pub(super) fn accuracy(&self, w: &[f64], perturbations: &[f64]) -> f64 {
        let (_, scores) = forward(w, self.moved(perturbations).as_ref());
        let right = |&(example, &class): &(usize, &usize)| {
            let own = scores.col(example);
            (0..CLASSES).all(|k| k == class || own[k] < own[class])
        };
        let classes = self.classes.iter().enumerate();
        100.0 * classes.filter(right).count() as f64 / self.len() as f64
    }

    pub(super) fn slopes(&self, w: &[f64], perturbations: &[f64]) -> Slopes {
        let count = self.len();
        let x = self.moved(perturbations);
        let (hidden, mut scores) = forward(w, x.as_ref());
        #[cfg(test)]
        let mut loss = 0.0;
        // The probabilities, less 1 for the class.
        for (example, &class) in self.classes.iter().enumerate() {
            let mut own = scores.col_mut(example);
            let most = (0..CLASSES).fold(f64::NEG_INFINITY, |most, k| own[k].max(most));
            let mut sum = 0.0;
            for k in 0..CLASSES {
                own[k] = (own[k] - most).exp();
                sum += own[k];
            }
            for k in 0..CLASSES {
                own[k] /= sum;
            }
            #[cfg(test)]
            {
                loss -= own[class].ln() / count as f64;
            }
            own[class] -= 1.0;
        }
        let errors = scores;

        let mut by_weights = vec![0.0; WEIGHTS];
        let factor = 1.0 / count as f64;
        let (first, second) = by_weights.split_at_mut(SECOND);
        layer(second, errors.as_ref(), hidden.as_ref(), factor);
        let mut backward = Mat::zeros(HIDDEN, count);
        let w2 = MatRef::from_column_major_slice(&w[SECOND..SECOND_OFFSETS], CLASSES, HIDDEN);
        product(backward.as_mut(), w2.transpose(), errors.as_ref(), 1.0);
        for example in 0..count {
            let tanh = hidden.col(example);
            let mut own = backward.col_mut(example);
            for k in 0..HIDDEN {
                own[k] *= 1.0 - tanh[k] * tanh[k];
            }
        }
        layer(first, backward.as_ref(), x.as_ref(), factor);
        let mut by_pixels = vec![0.0; PIXELS * count];
        let w1 = MatRef::from_column_major_slice(&w[..FIRST_OFFSETS], HIDDEN, PIXELS);
        let pixels = MatMut::from_column_major_slice_mut(&mut by_pixels, PIXELS, count);
        product(pixels, w1.transpose(), backward.as_ref(), 1.0);
        Slopes {
            by_weights,
            by_pixels,
            #[cfg(test)]
            loss,
        }
    }
}

/// `factor A B`, on one core: the cells of an experiment are measured side by side.
fn product(result: MatMut<'_, f64>, a: MatRef<'_, f64>, b: MatRef<'_, f64>, factor: f64) {
    matmul(result, Accum::Replace, a, b, factor, Par::Seq);
}

/// The slopes of a layer's weights and offsets, from those of its results and from its inputs.
fn layer(slopes: &mut [f64], results: MatRef<'_, f64>, inputs: MatRef<'_, f64>, factor: f64) {
    let (rows, columns) = (results.nrows(), inputs.nrows());
    let (weights, offsets) = slopes.split_at_mut(rows * columns);
    let weights = MatMut::from_column_major_slice_mut(weights, rows, columns);
    product(weights, results, inputs.transpose(), factor);
    for example in 0..results.ncols() {
        for (row, sum) in offsets.iter_mut().enumerate() {
            *sum += factor * results[(row, example)];
        }
    }
}

/// The hidden layer, `[32, n]`, and the scores, `[10, n]`.
fn forward(w: &[f64], x: MatRef<'_, f64>) -> (Mat<f64>, Mat<f64>) {
    let apply = |weights: &[f64], offsets: &[f64], x: MatRef<'_, f64>| {
        let (rows, columns) = (offsets.len(), x.nrows());
        let mut result = Mat::from_fn(rows, x.ncols(), |row, _| offsets[row]);
        let weights = MatRef::from_column_major_slice(weights, rows, columns);
        matmul(result.as_mut(), Accum::Add, weights, x, 1.0, Par::Seq);
        result
    };
    let mut hidden = apply(&w[..FIRST_OFFSETS], &w[FIRST_OFFSETS..SECOND], x);
    for example in 0..hidden.ncols() {
        let mut own = hidden.col_mut(example);
        for k in 0..HIDDEN {
            own[k] = own[k].tanh();
        }
    }
    let second = &w[SECOND..SECOND_OFFSETS];
    let scores = apply(second, &w[SECOND_OFFSETS..], hidden.as_ref());
    (hidden, scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slopes_are_those_of_the_loss() {
        let count = 5;
        let wave = |scale: f64| move |k: usize| scale * (k as f64).sin();
        let examples = Examples {
            pixels: (0..count * PIXELS).map(wave(0.9)).collect(),
            classes: vec![3, 0, 9, 3, 5],
        };
        let w = start(0);
        let perturbations: Vec<f64> = (0..count * PIXELS).map(wave(-0.3)).collect();
        let found = examples.slopes(&w, &perturbations);
        let changed = |values: &[f64], k: usize, by: f64| {
            let mut values = values.to_vec();
            values[k] += by;
            values
        };
        for k in [0, 777, FIRST_OFFSETS + 3, SECOND + 50, WEIGHTS - 1] {
            let at = |by| examples.slopes(&changed(&w, k, by), &perturbations).loss;
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - found.by_weights[k]).abs() < 1e-9, "weight {k}");
        }
        for k in [0, 70, 319] {
            let at = |by| examples.slopes(&w, &changed(&perturbations, k, by)).loss;
            let slope = count as f64 * (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - found.by_pixels[k]).abs() < 1e-8, "pixel {k}");
        }
    }
}
