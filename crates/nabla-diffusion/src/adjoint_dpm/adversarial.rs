//! Adversarial noise: how little the noise of a sample must change until a classifier is wrong. A security audit of
//! classifiers of generated pictures, and of filters that rely on one.
//!
//! ```text
//! x_T ← clamp(x_T + η g/‖g‖, x_T⁰ ± b),   g = ∂L(x_0)/∂x_T
//! ```
//!
//! The bound holds around the *first* noise; in the authors' code the bound is around the noise of the same step, and
//! so none at all. Success is measured on the sample of the last noise.
//!
//! Source: Pan et al., 2024, arXiv 2307.10711, section 5.3 (an audit of classifiers).

use burn::config::Config;
use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};

use super::{AdjointError, DifferentiableRun, number};
use crate::sampler_error::{OwnError, SamplerError};

/// The ascent; the defaults are those of the paper's experiment.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct AdversarialNoise {
    /// Steps. Default 30.
    #[config(default = 30)]
    pub steps: usize,
    /// `η`, the Euclidean length of a step for each row. Default 0.5.
    #[config(default = 0.5)]
    pub length: f64,
    /// `b`, the most that a number of the noise may change. Default 0.1.
    #[config(default = 0.1)]
    pub bound: f64,
}

/// What an ascent found.
#[derive(Clone, Debug)]
pub struct AdversarialSample<const D: usize = 4> {
    /// The noise, `[batch, …]`.
    pub noise: Tensor<D>,
    /// The sample from it.
    pub sample: Tensor<D>,
    /// The loss of the first noise and after each step.
    pub losses: Vec<f64>,
}

impl AdversarialNoise {
    /// # Errors
    /// If a field is not positive.
    pub fn check(&self) -> Result<(), OutOfRange> {
        range::at_least("number of adversarial steps", self.steps, 1)?;
        range::positive("length of an adversarial step", self.length)?;
        range::positive("bound of adversarial noise", self.bound)
    }

    /// Raises a loss of the samples.
    ///
    /// - `run`: the sampler
    /// - `noise`: the first noise, `[batch, …]`
    /// - `loss`: of all samples, such as the sum of the cross-entropies of their true classes; a step is taken for
    ///   each row by itself
    ///
    /// # Errors
    /// If a field is not positive, or as [`DifferentiableRun::gradient`].
    pub fn raise<const D: usize>(
        &self,
        run: &mut DifferentiableRun<'_, D>,
        noise: Tensor<D>,
        loss: &mut dyn FnMut(Tensor<D>) -> Result<Tensor<1>, OwnError>,
    ) -> Result<AdversarialSample<D>, AdjointError> {
        self.check()?;
        let first = noise.inner();
        let mut noise = first.clone();
        let mut losses = Vec::with_capacity(self.steps + 1);
        for _ in 0..self.steps {
            let found = run.gradient(noise.clone(), loss, &mut ())?;
            losses.push(found.loss);
            let norm = row_norms(found.noise.clone()).clamp_min(f64::from(f32::MIN_POSITIVE));
            let moved = noise + found.noise / norm * self.length;
            let change = (moved - first.clone()).clamp(-self.bound, self.bound);
            noise = first.clone() + change;
        }
        let sample = run.sample(noise.clone())?.sample().clone();
        let last =
            loss(sample.clone()).map_err(|error| match error.downcast::<SamplerError>() {
                Ok(error) => AdjointError::Sampler(*error),
                Err(error) => AdjointError::Loss(error),
            })?;
        losses.push(number(last));
        Ok(AdversarialSample {
            noise,
            sample,
            losses,
        })
    }
}

/// The Euclidean norm of each row, `[batch, 1, …]`.
fn row_norms<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let mut sum = x.square();
    for axis in 1..D {
        sum = sum.sum_dim(axis);
    }
    sum.sqrt()
}
