//! Canaries in a private training, for an [audit](crate::one_run_audit).
//!
//! A canary is an example that is made so that its presence shows as much as that of any example could: its gradient is
//! the same in every step and along a coordinate of its own, as if the model had parameters that no other example moves.
//! By a coin, it takes part in the training or not; if it does, it is sampled, clipped and summed as the other examples
//! are, and noise is added to its coordinate as to the others. Its score is the logarithm of how much more probable the
//! released gradients are with it than without it. Where a release depends on earlier steps, too, it is how far the
//! released gradients go along its coordinate.
//!
//! This is the auditor who knows all other examples and sees every released gradient, from whom the guarantee of the
//! accountant protects. The weights of the model are those of a training without canaries.

use nabla_base::range::{self, OutOfRange};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::accountant::privacy_loss::log_mixture;
use crate::clipping::Clipping;
use crate::one_run_audit::{Audit, audit};
use crate::release::Sums;

/// Which canaries there are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CanaryConfig {
    /// Their number. Default 1000.
    pub count: usize,
    /// The norm of their gradients before clipping, in multiples of the clip. Default 1.
    pub length: f64,
    /// The seed of the coins and the coordinates. Default 0.
    pub seed: u64,
}

impl Default for CanaryConfig {
    fn default() -> Self {
        Self {
            count: 1000,
            length: 1.0,
            seed: 0,
        }
    }
}

impl CanaryConfig {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// If there are fewer than two canaries, or their length is not positive.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::within("number of canaries", self.count, 2..=1_000_000)?;
        range::positive("length of the canaries", self.length)
    }
}

/// Canaries in a training.
#[derive(Clone, Debug)]
pub(crate) struct Canaries {
    length: f64,
    /// Whether each takes part.
    included: Vec<bool>,
    scores: Vec<f64>,
    draw: ChaCha8Rng,
}

impl Canaries {
    /// Flips the coins.
    ///
    /// # Errors
    /// If there are fewer than two canaries, or their length is not positive.
    pub(crate) fn new(config: CanaryConfig) -> Result<Self, OutOfRange> {
        config.validate()?;
        let mut draw = ChaCha8Rng::seed_from_u64(config.seed);
        let included = (0..config.count).map(|_| draw.random_bool(0.5)).collect();
        Ok(Self {
            length: config.length,
            included,
            scores: vec![0.0; config.count],
            draw,
        })
    }

    /// Their number.
    pub(crate) fn count(&self) -> usize {
        self.included.len()
    }

    /// Adds their coordinates to the sums, with the gradients of those that take part and are sampled in this step.
    ///
    /// - `layers`: parameters that clip on their own
    pub(crate) fn join(&mut self, sums: &mut Sums, clipping: Clipping, layers: usize, rate: f64) {
        let raw = self.length * clipping.sensitivity();
        let clipped = self.shift(clipping, layers);
        let has_raw = !sums.raw.is_empty();
        for &included in &self.included {
            // Drawn for all of them, so that a coin changes nothing for the others.
            let sampled = self.draw.random_bool(rate);
            let counts = f64::from(u8::from(included && sampled));
            sums.clipped.push(counts * clipped);
            if has_raw {
                sums.raw.push(counts * raw);
            }
        }
    }

    /// Looks at what was released.
    ///
    /// - `released`: their coordinates
    /// - `sampling`: of a step that depends on nothing else: the rate, how far a sampled canary moves the released
    ///   gradient, and the deviation of the noise
    pub(crate) fn watch(&mut self, released: &[f64], sampling: Option<[f64; 3]>) {
        self.scores
            .iter_mut()
            .zip(released)
            .for_each(|(score, &seen)| {
                *score += match sampling {
                    Some([rate, shift, deviation]) => {
                        let ratio = (seen * shift - 0.5 * shift * shift) / deviation.powi(2);
                        log_mixture(rate, ratio)
                    }
                    None => seen,
                };
            });
    }

    /// How far a sampled canary moves the sum.
    pub(crate) fn shift(&self, clipping: Clipping, layers: usize) -> f64 {
        clipping.clipped(self.length * clipping.sensitivity(), layers)
    }

    /// What follows from the scores.
    pub(crate) fn audit(&self, delta: f64, confidence: f64) -> Result<Audit, OutOfRange> {
        audit(&self.scores, &self.included, delta, confidence)
    }
}
