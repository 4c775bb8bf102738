//! Models that are small enough to be trained to a loss of `1e-10`: their outputs, gradients and data, in `f64`.

use nabla_base::vector::{dot, norm};
use nabla_claims::ClaimError;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// A model, whose weights are a vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Model {
    /// `⟨a ⊙ b, x⟩`: the weights are `a`, then `b`.
    Diagonal { inputs: usize },
    /// `Σ_j a_j max(0, ⟨w_j, x⟩)`: the weights are the `w_j`, then the `a_j`.
    Relu { inputs: usize, units: usize },
}

/// Rows `x` and targets `y`.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) rows: Vec<Vec<f64>>,
    pub(super) targets: Vec<f64>,
}

impl Model {
    /// `f(x)`, and `∇f(x)` in `gradient`.
    pub(super) fn gradient(self, weights: &[f64], x: &[f64], gradient: &mut [f64]) -> f64 {
        match self {
            Self::Diagonal { inputs } => {
                let (a, b) = weights.split_at(inputs);
                let (by_a, by_b) = gradient.split_at_mut(inputs);
                let mut output = 0.0;
                for i in 0..inputs {
                    by_a[i] = b[i] * x[i];
                    by_b[i] = a[i] * x[i];
                    output += a[i] * by_a[i];
                }
                output
            }
            Self::Relu { inputs, units } => {
                let (inner, outer) = weights.split_at(inputs * units);
                let (by_inner, by_outer) = gradient.split_at_mut(inputs * units);
                let mut output = 0.0;
                let rows = inner
                    .chunks_exact(inputs)
                    .zip(by_inner.chunks_exact_mut(inputs));
                for ((w, by_w), (a, by_a)) in rows.zip(outer.iter().zip(by_outer)) {
                    let hidden = dot(w, x);
                    if hidden > 0.0 {
                        *by_a = hidden;
                        by_w.iter_mut().zip(x).for_each(|(by, x)| *by = a * x);
                        output += a * hidden;
                    } else {
                        *by_a = 0.0;
                        by_w.fill(0.0);
                    }
                }
                output
            }
        }
    }

    /// Random weights: of the diagonal network `N(0, 1)`, and of the other one `w_j ~ N(0, I/inputs)` and
    /// `a_j ~ N(0, 1)`, from which the minima that training finds have a path norm far above the teacher's.
    pub(super) fn first_weights(self, draw: &mut ChaCha8Rng) -> Vec<f64> {
        let mut normal = |scale: f64| -> f64 {
            let z: f64 = StandardNormal.sample(draw);
            scale * z
        };
        match self {
            Self::Diagonal { inputs } => (0..2 * inputs).map(|_| normal(1.0)).collect(),
            Self::Relu { inputs, units } => {
                let inner = (inputs as f64).sqrt().recip();
                let mut weights: Vec<f64> = (0..inputs * units).map(|_| normal(inner)).collect();
                weights.extend((0..units).map(|_| normal(1.0)));
                weights
            }
        }
    }

    /// `‖a ⊙ b‖₁` or `Σ_j |a_j| ‖w_j‖₂`.
    pub(super) fn norm(self, weights: &[f64]) -> f64 {
        match self {
            Self::Diagonal { inputs } => {
                let (a, b) = weights.split_at(inputs);
                a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum()
            }
            Self::Relu { inputs, units } => {
                let (inner, outer) = weights.split_at(inputs * units);
                let units = inner.chunks_exact(inputs).zip(outer);
                units.map(|(w, a)| a.abs() * norm(w)).sum()
            }
        }
    }

    /// `1/2n Σ (f(x) − y)²`.
    pub(super) fn loss(self, weights: &[f64], data: &Data) -> f64 {
        let mut gradient = vec![0.0; weights.len()];
        let residuals = data.rows.iter().zip(&data.targets);
        let squares =
            residuals.map(|(x, y)| (self.gradient(weights, x, &mut gradient) - y).powi(2));
        squares.sum::<f64>() / (2 * data.rows.len()) as f64
    }
}

fn normal_rows(count: usize, width: usize, draw: &mut ChaCha8Rng) -> Vec<Vec<f64>> {
    (0..count)
        .map(|_| (0..width).map(|_| StandardNormal.sample(draw)).collect())
        .collect()
}

/// `y = ⟨β, x⟩` with three ones in `β`, for training and test.
pub(super) fn sparse_regression(
    inputs: usize,
    examples: usize,
    draw: &mut ChaCha8Rng,
) -> [Data; 2] {
    [examples, 1000].map(|count| {
        let rows = normal_rows(count, inputs, draw);
        let targets = rows.iter().map(|x| x[..3].iter().sum()).collect();
        Data { rows, targets }
    })
}

/// `y = max(0, ⟨v, x⟩)` with a unit vector `v`, for training and test.
pub(super) fn single_neuron(inputs: usize, examples: usize, draw: &mut ChaCha8Rng) -> [Data; 2] {
    let mut teacher: Vec<f64> = normal_rows(1, inputs, draw).concat();
    let length = norm(&teacher);
    teacher.iter_mut().for_each(|v| *v /= length);
    [examples, 1000].map(|count| {
        let rows = normal_rows(count, inputs, draw);
        let targets = rows.iter().map(|x| dot(&teacher, x).max(0.0)).collect();
        Data { rows, targets }
    })
}

/// Handwritten digits, of which those from 5 on have the target 1 and the others −1, for training and test. Pixels are
/// scaled to a mean square of 1.
pub(super) fn digits(examples: usize, draw: &mut ChaCha8Rng) -> Result<[Data; 2], ClaimError> {
    let pictures = nabla_data::digits().map_err(ClaimError::experiment)?;
    let mut order: Vec<usize> = (0..pictures.len()).collect();
    order.shuffle(draw);
    let pixels = |i: usize| pictures.pixels(i).iter().map(|&p| f64::from(p));
    let squares: f64 = (0..pictures.len()).flat_map(pixels).map(|p| p * p).sum();
    let count = pictures.len() * pictures.pixels(0).len();
    let scale = (squares / count as f64).sqrt().recip();
    let (training, test) = order.split_at(examples);
    Ok([training, &test[..1000]].map(|chosen| Data {
        rows: chosen
            .iter()
            .map(|&i| pixels(i).map(|p| scale * p).collect())
            .collect(),
        targets: chosen
            .iter()
            .map(|&i| if pictures.labels()[i] >= 5 { 1.0 } else { -1.0 })
            .collect(),
    }))
}

/// A generator for a seed.
pub(super) fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_slopes() {
        let mut draw = generator(1);
        let relu = Model::Relu {
            inputs: 4,
            units: 3,
        };
        for (model, count) in [(Model::Diagonal { inputs: 4 }, 8), (relu, 15)] {
            let weights = model.first_weights(&mut draw);
            assert_eq!(weights.len(), count);
            let x: Vec<f64> = normal_rows(1, 4, &mut draw).concat();
            let mut gradient = vec![0.0; weights.len()];
            model.gradient(&weights, &x, &mut gradient);
            for place in 0..weights.len() {
                let at = |step: f64| {
                    let mut moved = weights.clone();
                    moved[place] += step;
                    model.gradient(&moved, &x, &mut vec![0.0; weights.len()])
                };
                assert!(((at(1e-6) - at(-1e-6)) / 2e-6 - gradient[place]).abs() < 1e-8);
            }
        }
    }

    #[test]
    fn the_teacher_has_no_loss() {
        let mut draw = generator(2);
        let [training, _] = sparse_regression(5, 7, &mut draw);
        let truth = [[1.0, 1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0]].concat();
        let model = Model::Diagonal { inputs: 5 };
        assert_eq!(
            (model.loss(&truth, &training), model.norm(&truth)),
            (0.0, 3.0)
        );
    }
}
