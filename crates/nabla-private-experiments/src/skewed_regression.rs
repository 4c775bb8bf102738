//! Linear regression with skewed errors, on which clipping moves the optimum.
//!
//! `y = ⟨a, w⟩ + E` with `a ~ N(0, I)` of 20 numbers, `w ~ N(0, I)` and `E` of the exponential distribution with mean 3,
//! which the model has to meet with an offset: most errors are small and negative, some large and positive. Clipping
//! makes the large ones count for less.

use nabla_base::vector::dot;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, StandardNormal};

/// Numbers of `a`.
const DIMENSION: usize = 20;

/// The data: rows `(a, 1)` and `y`.
pub(crate) struct SkewedRegression {
    rows: Vec<Vec<f64>>,
    targets: Vec<f64>,
}

impl SkewedRegression {
    pub(crate) fn new(examples: usize, seed: u64) -> Self {
        let mut draw = ChaCha8Rng::seed_from_u64(seed);
        let normal = |draw: &mut ChaCha8Rng| -> f64 { StandardNormal.sample(draw) };
        let truth: Vec<f64> = (0..DIMENSION).map(|_| normal(&mut draw)).collect();
        let rows: Vec<Vec<f64>> = (0..examples)
            .map(|_| {
                (0..DIMENSION)
                    .map(|_| normal(&mut draw))
                    .chain([1.0])
                    .collect()
            })
            .collect();
        let targets = rows
            .iter()
            .map(|row| {
                let error: f64 = Exp1.sample(&mut draw);
                dot(&row[..DIMENSION], &truth) + 3.0 * error
            })
            .collect();
        Self { rows, targets }
    }

    /// Examples.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Weights, with the offset.
    pub(crate) fn weights(&self) -> usize {
        DIMENSION + 1
    }

    /// The gradient of `½(⟨x, (a, 1)⟩ − y)²` of one example.
    pub(crate) fn gradient(&self, example: usize, x: &[f64]) -> Vec<f64> {
        let row = &self.rows[example];
        let residual = dot(row, x) - self.targets[example];
        row.iter().map(|a| residual * a).collect()
    }

    /// The mean loss.
    pub(crate) fn loss(&self, x: &[f64]) -> f64 {
        let residuals = self
            .rows
            .iter()
            .zip(&self.targets)
            .map(|(row, y)| dot(row, x) - y);
        residuals.map(|r| 0.5 * r * r).sum::<f64>() / self.len() as f64
    }

    /// The least mean loss, by conjugate gradients on the normal equations.
    pub(crate) fn least_loss(&self) -> f64 {
        let apply = |x: &[f64]| {
            let mut sum = vec![0.0; x.len()];
            for row in &self.rows {
                let factor = dot(row, x);
                sum.iter_mut().zip(row).for_each(|(s, a)| *s += factor * a);
            }
            sum
        };
        let mut x = vec![0.0; self.weights()];
        let mut residual = vec![0.0; self.weights()];
        for (row, y) in self.rows.iter().zip(&self.targets) {
            residual.iter_mut().zip(row).for_each(|(r, a)| *r += y * a);
        }
        let mut direction = residual.clone();
        let mut square = dot(&residual, &residual);
        for _ in 0..2 * self.weights() {
            if square < 1e-20 {
                break;
            }
            let image = apply(&direction);
            let step = square / dot(&direction, &image);
            x.iter_mut()
                .zip(&direction)
                .for_each(|(x, d)| *x += step * d);
            residual
                .iter_mut()
                .zip(&image)
                .for_each(|(r, i)| *r -= step * i);
            let next = dot(&residual, &residual);
            direction
                .iter_mut()
                .zip(&residual)
                .for_each(|(d, r)| *d = r + next / square * *d);
            square = next;
        }
        self.loss(&x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_the_slope_and_the_least_loss_is_a_minimum() {
        let data = SkewedRegression::new(200, 1);
        let x: Vec<f64> = (0..data.weights()).map(|i| (i as f64).sin()).collect();
        for place in [0, 7, 20] {
            let gradients = (0..data.len()).map(|i| data.gradient(i, &x)[place]);
            let slope = gradients.sum::<f64>() / data.len() as f64;
            let at = |step: f64| {
                let mut moved = x.clone();
                moved[place] += step;
                data.loss(&moved)
            };
            let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - difference).abs() < 1e-6);
        }
        assert!(data.least_loss() < data.loss(&x));
        // The errors' variance is 9, with the degrees of freedom that the fit takes.
        assert!((2.0 * data.least_loss() - 9.0 * 179.0 / 200.0).abs() < 2.5);
    }
}
