//! The attack on a sketched gradient: who knows the weights, the matrix and the label looks for the picture.
//!
//! With the gradient `g(x) = ∇_w ℓ(w; x)` of a picture `x` and the sketch `y = R g(x*)` that was sent, the attack
//! minimises `D(x) = ½ ‖R g(x) − y‖²` by Adam. Its gradient needs no second derivative: with `v = Rᵀ (R g(x) − y)`,
//!
//! ```text
//! ∇_x D = (∂g/∂x)ᵀ v = d/dε ∇_x ℓ(w + ε v; x) at 0 ≈ (∇_x ℓ(w + ε v; x) − ∇_x ℓ(w − ε v; x)) / (2ε)
//! ```
//!
//! which is two gradients by the picture at other weights.

use nabla_base::vector::{add_scaled, distance, dot, norm};
use nabla_grad::SeededNoise;
use nabla_grad::sketch::{LinearSketch, SketchError};

use super::regression::PIXELS;
use crate::softmax::CLASSES;

const HIDDEN: usize = 32;
const LAYER: usize = HIDDEN * PIXELS;
/// Both matrices and both offsets.
pub(super) const WEIGHTS: usize = LAYER + HIDDEN + CLASSES * HIDDEN + CLASSES;

/// A network of one hidden layer of `tanh`.
pub(super) struct Network(Vec<f64>);

/// What both gradients are made of.
struct Pass {
    hidden: Vec<f64>,
    /// By the sums before the softmax, and before `tanh`.
    errors: Vec<f64>,
    hidden_errors: Vec<f64>,
}

impl Network {
    /// Normal weights, of a deviation of one over the root of the inputs.
    pub(super) fn draw(seed: u64) -> Self {
        let mut noise = SeededNoise::new(seed, 20);
        let weights = noise.normal_values(WEIGHTS).into_iter().enumerate();
        let scaled = weights.map(|(k, w)| {
            let inputs = if k < LAYER + HIDDEN { PIXELS } else { HIDDEN };
            f64::from(w) / (inputs as f64).sqrt()
        });
        Self(scaled.collect())
    }

    fn moved(&self, step: f64, along: &[f64]) -> Self {
        let mut weights = self.0.clone();
        add_scaled(&mut weights, step, along);
        Self(weights)
    }

    fn pass(&self, x: &[f64], label: usize) -> Pass {
        let (first, rest) = self.0.split_at(LAYER);
        let (offsets, rest) = rest.split_at(HIDDEN);
        let (second, last) = rest.split_at(CLASSES * HIDDEN);
        let rows = first.chunks_exact(PIXELS).zip(offsets);
        let hidden: Vec<f64> = rows.map(|(row, b)| (dot(row, x) + b).tanh()).collect();
        let rows = second.chunks_exact(HIDDEN).zip(last);
        let mut errors: Vec<f64> = rows.map(|(row, b)| dot(row, &hidden) + b).collect();
        let most = errors.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        errors.iter_mut().for_each(|e| *e = (*e - most).exp());
        let sum: f64 = errors.iter().sum();
        errors.iter_mut().for_each(|e| *e /= sum);
        errors[label] -= 1.0;
        let mut hidden_errors = vec![0.0; HIDDEN];
        for (row, error) in second.chunks_exact(HIDDEN).zip(&errors) {
            add_scaled(&mut hidden_errors, *error, row);
        }
        let slopes = hidden.iter().map(|h| 1.0 - h * h);
        hidden_errors
            .iter_mut()
            .zip(slopes)
            .for_each(|(e, s)| *e *= s);
        Pass {
            hidden,
            errors,
            hidden_errors,
        }
    }

    /// `∇_w ℓ(w; x)`, `[WEIGHTS]`.
    pub(super) fn gradient(&self, x: &[f64], label: usize) -> Vec<f64> {
        let pass = self.pass(x, label);
        let outer = |errors: &[f64], inputs: &[f64]| -> Vec<f64> {
            let rows = errors.iter().map(|e| inputs.iter().map(move |x| e * x));
            rows.flatten().collect()
        };
        let mut gradient = outer(&pass.hidden_errors, x);
        gradient.extend(&pass.hidden_errors);
        gradient.extend(outer(&pass.errors, &pass.hidden));
        gradient.extend(&pass.errors);
        gradient
    }

    /// `∇_x ℓ(w; x)`, `[PIXELS]`.
    fn gradient_by_picture(&self, x: &[f64], label: usize) -> Vec<f64> {
        let pass = self.pass(x, label);
        let mut gradient = vec![0.0; PIXELS];
        for (row, error) in self.0.chunks_exact(PIXELS).zip(&pass.hidden_errors) {
            add_scaled(&mut gradient, *error, row);
        }
        gradient
    }

    /// `∇_x D`.
    fn mismatch_gradient(
        &self,
        sketch: &dyn LinearSketch,
        sent: &[f64],
        x: &[f64],
        label: usize,
    ) -> Result<Vec<f64>, SketchError> {
        let mut mismatch = sketch.apply_values(&self.gradient(x, label))?;
        add_scaled(&mut mismatch, -1.0, sent);
        let v = sketch.transposed_values(&mismatch)?;
        let length = norm(&v);
        if length == 0.0 {
            return Ok(vec![0.0; PIXELS]);
        }
        let step = 1e-4 * norm(&self.0) / length;
        let mut ahead = self.moved(step, &v).gradient_by_picture(x, label);
        let behind = self.moved(-step, &v).gradient_by_picture(x, label);
        add_scaled(&mut ahead, -1.0, &behind);
        Ok(ahead.into_iter().map(|d| d / (2.0 * step)).collect())
    }

    /// The picture that the attack finds, `[PIXELS]`.
    pub(super) fn attacked(
        &self,
        sketch: &dyn LinearSketch,
        sent: &[f64],
        label: usize,
        steps: u32,
        seed: u64,
    ) -> Result<Vec<f64>, SketchError> {
        let start = SeededNoise::new(seed, 21).normal_values(PIXELS);
        let mut x: Vec<f64> = start.into_iter().map(|v| 0.1 * f64::from(v)).collect();
        let (mut mean, mut square) = (vec![0.0; PIXELS], vec![0.0; PIXELS]);
        for step in 1..=steps {
            let gradient = self.mismatch_gradient(sketch, sent, &x, label)?;
            let progress = f64::from(step - 1) / f64::from(steps);
            let rate = 0.05 * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
            let [first, second] = [0.9_f64, 0.999].map(|beta| 1.0 - beta.powi(step as i32));
            for (k, g) in gradient.into_iter().enumerate() {
                mean[k] += 0.1 * (g - mean[k]);
                square[k] += 0.001 * (g * g - square[k]);
                // The residual falls far below any fixed stability term.
                let size = (square[k] / second).sqrt().max(f64::MIN_POSITIVE);
                x[k] -= rate * mean[k] / first / size;
            }
        }
        Ok(x)
    }
}

/// The peak signal to noise ratio of a picture from 0 to 1, in dB, at most 60, which is exact for every eye.
pub(super) fn psnr(found: &[f64], picture: &[f64]) -> f64 {
    let error = distance(found, picture).powi(2) / picture.len() as f64;
    (-10.0 * error.log10()).min(60.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_base::vector::squared_norm;
    use nabla_grad::SketchFamily;

    #[test]
    fn both_gradients_and_that_of_the_mismatch_are_slopes() {
        let network = Network::draw(0);
        let picture = |phase: f64| -> Vec<f64> {
            let pixel = |k: usize| 0.5 + 0.5 * (0.3 * k as f64 + phase).sin();
            (0..PIXELS).map(pixel).collect()
        };
        let (x, other) = (picture(0.0), picture(1.0));
        let loss = |network: &Network, x: &[f64]| {
            let errors = network.pass(x, 3).errors;
            -(errors[3] + 1.0).ln()
        };
        let gradient = network.gradient(&x, 3);
        for k in [0, LAYER - 1, LAYER + 5, LAYER + HIDDEN + 7, WEIGHTS - 1] {
            let mut unit = vec![0.0; WEIGHTS];
            unit[k] = 1.0;
            let at = |step: f64| loss(&network.moved(step, &unit), &x);
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((slope - gradient[k]).abs() < 1e-8, "{k}");
        }
        let sketch = SketchFamily::Srht.draw(100, WEIGHTS, &mut SeededNoise::new(0, 0));
        let sketch = sketch.unwrap();
        let sent = sketch.apply_values(&network.gradient(&other, 3)).unwrap();
        let mismatch = |x: &[f64]| {
            let mut left = sketch.apply_values(&network.gradient(x, 3)).unwrap();
            add_scaled(&mut left, -1.0, &sent);
            0.5 * squared_norm(&left)
        };
        let by_picture = network.gradient_by_picture(&x, 3);
        let of_mismatch = network.mismatch_gradient(&*sketch, &sent, &x, 3).unwrap();
        for k in [0, 50, PIXELS - 1] {
            let moved = |step: f64| {
                let mut x = x.clone();
                x[k] += step;
                x
            };
            let slope = |f: &dyn Fn(&[f64]) -> f64| (f(&moved(1e-5)) - f(&moved(-1e-5))) / 2e-5;
            assert!((slope(&|x| loss(&network, x)) - by_picture[k]).abs() < 1e-8);
            assert!((slope(&mismatch) - of_mismatch[k]).abs() < 1e-6 * norm(&of_mismatch));
        }
        assert_eq!(psnr(&x, &x), 60.0);
        assert!((psnr(&[0.1], &[0.0]) - 20.0).abs() < 1e-9);
    }
}
