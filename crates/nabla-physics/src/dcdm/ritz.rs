//! Right sides to learn from.

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector;
use nabla_grad::seeded_noise::SeededNoise;
use serde::{Deserialize, Serialize};

use super::DcdmError;
use crate::linear::{SpdOperator, ritz_pairs};

/// Which right sides are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RitzConfig {
    /// `m`, the steps of the Lanczos iteration. Default 200; the paper's 10,000 for 64³ and 128³ unknowns take 20 GB and more.
    pub steps: usize,
    /// `θ`: the lowest `m/2 + θ` vectors have the greater weight. Default 10; the paper's is 500.
    pub more: usize,
    /// The standard deviation of the weights of low vectors; that of the others is 1. Default 9.
    pub low_weight: f64,
    /// Ritz values below it are skipped. Default 1e-8.
    pub least: f64,
}

impl Default for RitzConfig {
    fn default() -> Self {
        Self {
            steps: 200,
            more: 10,
            low_weight: 9.0,
            least: 1e-8,
        }
    }
}

impl RitzConfig {
    /// Refuses numbers that are out of range.
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::at_least("number of Lanczos steps", self.steps, 1)?;
        range::positive("weight of low Ritz vectors", self.low_weight)?;
        range::not_negative("least Ritz value", self.least)
    }
}

/// The space of Ritz vectors from which right sides are drawn:
///
/// ```text
/// b = Σ_i c_i q_i / ‖·‖,   c_i ~ 9 N(0, 1) for the lowest m/2 + θ vectors,  N(0, 1) for the others
/// ```
///
/// Vectors come from `m` Lanczos steps that begin with `A g`, `g ~ N(0, I)`. Such a space has too many high modes, and plain
/// conjugate gradients have trouble with the low ones: these have 81 times the variance.
#[derive(Clone, Debug)]
pub struct RitzSpace {
    /// The vectors, one after the other, with rising values: `[vectors, dim]`.
    vectors: Vec<f64>,
    values: Vec<f64>,
    dim: usize,
    /// Of the vectors, those with the greater weight.
    low: usize,
    low_weight: f64,
}

/// The stream of the seed for the start of the Lanczos iteration.
const START: u64 = 3;

impl RitzSpace {
    /// # Errors
    /// If a number is out of range, or all Ritz values are skipped.
    pub fn new(a: &impl SpdOperator, config: &RitzConfig, seed: u64) -> Result<Self, DcdmError> {
        config.validate()?;
        let dim = a.dim();
        let g = SeededNoise::new(seed, START).normal_values(dim);
        let mut g: Vec<f64> = g.into_iter().map(f64::from).collect();
        a.kernel().project(&mut g);
        let mut start = vec![0.0; dim];
        a.apply(&g, &mut start);
        let pairs = ritz_pairs(a, &start, config.steps)?;
        let low = (pairs.len() / 2 + config.more).min(pairs.len());
        let skipped = pairs.iter().take_while(|p| p.value < config.least).count();
        let (mut vectors, mut values) = (Vec::new(), Vec::new());
        for pair in pairs.into_iter().skip(skipped) {
            values.push(pair.value);
            vectors.extend(pair.vector.unwrap_or_default());
        }
        if values.is_empty() {
            return Err(DcdmError::NoRitzVectors(config.least));
        }
        Ok(Self {
            vectors,
            values,
            dim,
            low: low.saturating_sub(skipped),
            low_weight: config.low_weight,
        })
    }

    /// The Ritz values, rising.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Right sides of norm 1, `[count, dim]`.
    pub fn draw(&self, count: usize, noise: &mut SeededNoise) -> Vec<f64> {
        let vectors = self.values.len();
        let drawn = noise.normal_values(count * vectors);
        let weights = Mat::from_fn(vectors, count, |i, sample| {
            let weight = if i < self.low { self.low_weight } else { 1.0 };
            weight * f64::from(drawn[sample * vectors + i])
        });
        // Columns of [dim, vectors] are the vectors.
        let space = MatRef::from_column_major_slice(&self.vectors, self.dim, vectors);
        let mut mixed = Mat::<f64>::zeros(self.dim, count);
        matmul(
            mixed.as_mut(),
            Accum::Replace,
            space,
            weights.as_ref(),
            1.0,
            Par::Seq,
        );
        let mut b = Vec::with_capacity(self.dim * count);
        for sample in 0..count {
            let column: Vec<f64> = (0..self.dim).map(|i| mixed[(i, sample)]).collect();
            let norm = vector::norm(&column).max(f64::MIN_POSITIVE);
            b.extend(column.into_iter().map(|value| value / norm));
        }
        b
    }
}
