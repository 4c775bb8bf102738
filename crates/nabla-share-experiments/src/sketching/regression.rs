//! Softmax regression, divided among clients.

use nabla_base::vector::{add_scaled, squared_norm};
use nabla_claims::ClaimError;
use nabla_data::{fashion_sample, squares_of_four};
use nabla_grad::SeededNoise;
use nabla_private::private_sketch::PrivateSketch;
use nabla_private::secret_noise::NoiseKey;
use nabla_share::sketching::{Client, LocalLoss, Round, SketchingError};
use rand::seq::SliceRandom;

use crate::softmax::{CLASSES, best, probabilities, scores};

/// Of a picture, averaged over squares of four pixels.
pub(super) const PIXELS: usize = 14 * 14;
/// With one that is always 1.
pub(super) const FEATURES: usize = PIXELS + 1;
pub(super) const WEIGHTS: usize = FEATURES * CLASSES;
pub(super) const CLIENTS: usize = 10;
const L2: f64 = 1e-3;

/// Pictures of Fashion-MNIST of 14 × 14 pixels from 0 to 1 with their classes, in the order of a seed.
pub(super) fn pictures(count: usize, seed: u64) -> Result<Vec<(Vec<f64>, usize)>, ClaimError> {
    let [all, _] = fashion_sample().map_err(ClaimError::experiment)?;
    let mut order: Vec<usize> = (0..all.len()).collect();
    order.shuffle(&mut SeededNoise::new(seed, 1));
    let picture = |&index: &usize| {
        let mean = |four: [u8; 4]| {
            four.map(f64::from).iter().sum::<f64>() / (4.0 * f64::from(all.white()))
        };
        let squares = squares_of_four(all.pixels(index), 28);
        let values: Vec<f64> = squares.map(mean).collect();
        (values, usize::from(all.labels()[index]))
    };
    Ok(order.iter().take(count).map(picture).collect())
}

/// The whole of the examples, and those of each client.
pub(super) struct Regression {
    /// `[examples]` of `[features]`.
    rows: Vec<Vec<f64>>,
    labels: Vec<usize>,
    clients: Vec<Vec<usize>>,
}

impl Regression {
    /// Centred pictures; each client has two shards of twenty, sorted by class.
    pub(super) fn of_pictures(count: usize, seed: u64) -> Result<Self, ClaimError> {
        let (mut rows, labels): (Vec<_>, Vec<_>) = pictures(count, seed)?.into_iter().unzip();
        let mut mean = vec![0.0; PIXELS];
        for row in &rows {
            add_scaled(&mut mean, 1.0 / count as f64, row);
        }
        for row in &mut rows {
            add_scaled(row, -1.0, &mean);
            row.push(1.0);
        }
        let mut sorted: Vec<usize> = (0..count).collect();
        sorted.sort_by_key(|&example| labels[example]);
        let mut shards: Vec<&[usize]> = sorted.chunks(count.div_ceil(2 * CLIENTS)).collect();
        shards.shuffle(&mut SeededNoise::new(seed, 2));
        let clients = shards.chunks(2).map(<[_]>::concat).collect();
        Ok(Self {
            rows,
            labels,
            clients,
        })
    }

    /// Independent normal features, and classes by a linear model of them: no direction counts more than another.
    pub(super) fn isotropic(count: usize, seed: u64) -> Self {
        let mut noise = SeededNoise::new(seed, 3);
        let mut normal = |count: usize| -> Vec<f64> {
            let values = noise.normal_values(count).into_iter();
            values.map(f64::from).collect()
        };
        let teacher = normal(WEIGHTS);
        let mut rows = Vec::with_capacity(count);
        let mut labels = Vec::with_capacity(count);
        for _ in 0..count {
            let mut row = normal(PIXELS);
            row.push(1.0);
            labels.push(best(&scores(&teacher, &row)));
            rows.push(row);
        }
        let all: Vec<usize> = (0..count).collect();
        let clients = all.chunks(count.div_ceil(CLIENTS));
        Self {
            rows,
            labels,
            clients: clients.map(<[_]>::to_vec).collect(),
        }
    }

    /// The mean loss of all examples, with the penalty.
    pub(super) fn loss(&self, w: &[f64]) -> f64 {
        let of = |(row, label): (&Vec<f64>, &usize)| -probabilities(w, row)[*label].ln();
        let sum: f64 = self.rows.iter().zip(&self.labels).map(of).sum();
        sum / self.rows.len() as f64 + 0.5 * L2 * squared_norm(w)
    }

    /// Adds a multiple of the gradient of one example's loss, without the penalty.
    fn add_gradient(&self, sum: &mut [f64], factor: f64, w: &[f64], example: usize) {
        let row = &self.rows[example];
        let mut errors = probabilities(w, row);
        errors[self.labels[example]] -= 1.0;
        for (x, sum) in row.iter().zip(sum.as_chunks_mut::<CLASSES>().0) {
            add_scaled(sum, factor * x, &errors);
        }
    }

    pub(super) fn part(&self, client: usize) -> Part<'_> {
        Part {
            all: self,
            own: &self.clients[client],
        }
    }
}

/// The examples of one client.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    all: &'a Regression,
    own: &'a [usize],
}

impl LocalLoss for Part<'_> {
    fn examples(&self) -> usize {
        self.own.len()
    }

    fn gradient(&self, w: &[f64], examples: &[usize]) -> Vec<f64> {
        let mut sum: Vec<f64> = w.iter().map(|w| L2 * w).collect();
        let factor = 1.0 / examples.len() as f64;
        for &example in examples {
            self.all
                .add_gradient(&mut sum, factor, w, self.own[example]);
        }
        sum
    }
}

/// A client whose sketches are private.
pub(super) struct PrivateClient<'a> {
    pub(super) part: Part<'a>,
    pub(super) private: PrivateSketch,
    pub(super) key: NoiseKey,
    pub(super) step: f64,
}

impl Client for PrivateClient<'_> {
    fn answer(&mut self, round: Round<'_>) -> Result<Vec<f64>, SketchingError> {
        let rate = self.private.release.sampling_rate;
        let drawn = self
            .key
            .poisson_sample(round.number, self.part.examples(), rate);
        let gradient = |example: usize| {
            let mut gradient = vec![0.0; WEIGHTS];
            let (all, own) = (self.part.all, self.part.own);
            all.add_gradient(&mut gradient, 1.0, round.weights, own[example]);
            gradient
        };
        let gradients: Vec<Vec<f64>> = drawn.into_iter().map(gradient).collect();
        let mean = self
            .private
            .sketched_mean(&gradients, round.sketch, &self.key, round.number)
            .map_err(|error| SketchingError::Client {
                client: round.client,
                round: round.number,
                source: error.into(),
            })?;
        Ok(mean.iter().map(|y| -self.step * y).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_gradients_are_the_slope_of_the_loss() {
        for data in [
            Regression::of_pictures(400, 0).unwrap(),
            Regression::isotropic(400, 0),
        ] {
            let w: Vec<f64> = (0..WEIGHTS).map(|k| 0.1 * (k as f64).sin()).collect();
            let mut mean = vec![0.0; WEIGHTS];
            for client in 0..CLIENTS {
                let part = data.part(client);
                assert_eq!(part.examples(), 40);
                let all: Vec<usize> = (0..40).collect();
                add_scaled(&mut mean, 0.1, &part.gradient(&w, &all));
            }
            for k in [0, 777, WEIGHTS - 1] {
                let at = |step: f64| {
                    let mut w = w.clone();
                    w[k] += step;
                    data.loss(&w)
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((slope - mean[k]).abs() < 1e-8, "{k}");
            }
        }
    }
}
