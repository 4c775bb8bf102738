//! Randomness that nobody else can predict: the noise of a private training, and which examples a step sees.
//!
//! Whoever knows the noise can take it off again, and whoever knows which examples a step saw gets no amplification by
//! sampling. Both are drawn from ChaCha20, a stream cipher, under a key of 256 bits from the operating system. Every
//! step has streams of its own, so a training that resumes with the key draws the same noise again: it releases the
//! same gradients, and nothing is spent twice.
//!
//! The rounding of a single normal number reveals some of what it was added to (Mironov, *On Significance of the Least
//! Significant Bits for Differential Privacy*, CCS 2012). A number here is therefore half the sum of four, which has
//! the same distribution and whose bits nobody can enumerate (Holohan, Braghin, *Secure Random Sampling in
//! Differential Privacy*, 2021, arXiv 2107.10138).

use rand::rngs::SysRng;
use rand::{Rng, RngExt, SeedableRng, TryRng};
use rand_chacha::ChaCha20Rng;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The operating system gives no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random numbers for the noise: {0}")]
pub struct NoEntropy(String);

/// Numbers of one stream of noise.
const PART: usize = 1 << 14;

/// The streams of a step.
const STREAMS: u64 = 1 << 24;

/// The key from which everything random of a private training follows. Whoever has it can take the noise off.
///
/// ```
/// use nabla_private::secret_noise::NoiseKey;
///
/// let key = NoiseKey::from_system()?;
/// let noise = key.normal(7, 1000); // of step 7
/// assert_eq!(noise, key.normal(7, 1000));
/// assert_ne!(noise, key.normal(8, 1000));
/// # Ok::<(), nabla_private::secret_noise::NoEntropy>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoiseKey {
    key: [u8; 32],
    /// Whether the key follows from a seed, which others can try.
    seeded: bool,
}

impl std::fmt::Debug for NoiseKey {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NoiseKey")
            .field("seeded", &self.seeded)
            .finish_non_exhaustive()
    }
}

impl NoiseKey {
    /// A new key from the operating system.
    ///
    /// # Errors
    /// If it has no random numbers.
    pub fn from_system() -> Result<Self, NoEntropy> {
        let mut key = [0; 32];
        SysRng
            .try_fill_bytes(&mut key)
            .map_err(|error| NoEntropy(error.to_string()))?;
        Ok(Self { key, seeded: false })
    }

    /// A key from a seed, for experiments that are to be repeated: whoever knows or guesses the seed can take the noise
    /// off.
    pub fn from_seed(seed: u64) -> Self {
        let mut key = [0; 32];
        ChaCha20Rng::seed_from_u64(seed).fill_bytes(&mut key);
        Self { key, seeded: true }
    }

    /// Whether nobody can know it.
    pub fn is_secret(&self) -> bool {
        !self.seeded
    }

    /// A generator of step `step`: stream 0 for the sample, the others for the noise.
    fn stream(&self, step: u64, stream: u64) -> ChaCha20Rng {
        let mut generator = ChaCha20Rng::from_seed(self.key);
        generator.set_stream(step.wrapping_mul(STREAMS).wrapping_add(stream));
        generator
    }

    /// The examples that step `step` sees: each of `0..examples` with probability `rate`, on its own (Poisson sampling).
    /// There may be none.
    pub fn poisson_sample(&self, step: u64, examples: usize, rate: f64) -> Vec<usize> {
        let mut generator = self.stream(step, 0);
        // 53 bits, as many as a number in [0, 1) has.
        let unit = |bits: u64| (bits >> 11) as f64 * 2f64.powi(-53);
        (0..examples)
            .filter(|_| unit(generator.next_u64()) < rate)
            .collect()
    }

    /// One of `0..count` for step `step`, each as probable as the others.
    ///
    /// - `count`: at least 1
    pub fn chosen(&self, step: u64, count: usize) -> usize {
        let mut generator = self.stream(step, STREAMS - 1);
        generator.random_range(0..count.max(1))
    }

    /// `count` independent standard normal numbers of step `step`.
    pub fn normal(&self, step: u64, count: usize) -> Vec<f64> {
        let mut numbers = vec![0.0; count];
        let parts = numbers.par_chunks_mut(PART).enumerate();
        parts.for_each(|(part, numbers)| {
            let mut generator = self.stream(step, 1 + part as u64);
            let mut draw = || -> f64 { StandardNormal.sample(&mut generator) };
            numbers
                .iter_mut()
                .for_each(|number| *number = (draw() + draw() + draw() + draw()) / 2.0);
        });
        numbers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_standard_normal_and_those_of_their_step() {
        let key = NoiseKey::from_seed(3);
        let count = 100_000;
        let numbers = key.normal(5, count);
        // Five standard errors: 1/√n, √2/√n, √96/√n.
        let moment = |power| numbers.iter().map(|x| x.powi(power)).sum::<f64>() / count as f64;
        let root = (count as f64).sqrt();
        for (power, expected, deviation) in [(1, 0.0, 1.0), (2, 1.0, 1.42), (4, 3.0, 9.8)] {
            let found = moment(power);
            assert!(
                (found - expected).abs() < 5.0 * deviation / root,
                "{power}: {found}"
            );
        }
        let beside = key.normal(6, count);
        let product: f64 = numbers.iter().zip(&beside).map(|(a, b)| a * b).sum();
        assert!(product.abs() < 5.0 * root);
        // A longer draw begins with the same numbers.
        assert_eq!(numbers[..100], key.normal(5, 100));
    }

    #[test]
    fn every_example_is_seen_as_often_as_the_rate_says() {
        let key = NoiseKey::from_seed(4);
        let (examples, rate, steps) = (50, 0.3, 4000);
        let mut seen = vec![0u32; examples];
        let mut pairs = 0u32;
        for step in 0..steps {
            let sample = key.poisson_sample(step, examples, rate);
            pairs += u32::from(sample.contains(&0) && sample.contains(&1));
            sample.iter().for_each(|&example| seen[example] += 1);
        }
        let close = |count: u32, p: f64| {
            let expected = p * steps as f64;
            (f64::from(count) - expected).abs() < 5.0 * (expected * (1.0 - p)).sqrt()
        };
        assert!(seen.iter().all(|&count| close(count, rate)), "{seen:?}");
        assert!(close(pairs, rate * rate), "{pairs}");
        assert_eq!(key.poisson_sample(0, 9, 1.0), (0..9).collect::<Vec<_>>());
        assert!(key.poisson_sample(0, 9, 0.0).is_empty());
    }

    #[test]
    fn keys_of_the_system_differ_and_stay_hidden() {
        let [a, b] = [(), ()].map(|()| NoiseKey::from_system().unwrap());
        assert_ne!(a, b);
        assert!(a.is_secret() && !NoiseKey::from_seed(0).is_secret());
        assert!(!format!("{a:?}").contains("key"));
        let read: NoiseKey = serde_json::from_str(&serde_json::to_string(&a).unwrap()).unwrap();
        assert_eq!(read, a);
    }
}
