//! Gaussian noise that is the same on every device.
//!
//! A diffusion run is reproducible only if its noise is, and a backend's own generator gives different
//! numbers on another device or with another number of threads. This generator draws on the host, in one
//! sequence, from ChaCha with 8 rounds (Bernstein, *ChaCha, a variant of Salsa20*, 2008), by the ziggurat
//! method (Doornik, *An Improved Ziggurat Method to Generate Normal Random Samples*, 2005). It then copies
//! the numbers to the device.
//!
//! One seed has 2⁶⁴ independent streams: give each purpose (initialisation, data order, training noise, one
//! picture of a batch) its own stream, and extra draws from one do not change the others. The position in the
//! stream can be saved and restored, so a resumed training run continues with the same bits.

use std::convert::Infallible;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{SeedableRng, TryRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// A position in a stream of [`SeededNoise`], from which the stream can be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoiseState {
    /// The seed.
    pub seed: u64,
    /// The stream.
    pub stream: u64,
    /// The number of 32-bit words drawn from the stream so far.
    pub position: u64,
}

/// A stream of reproducible noise.
///
/// It is also a random number generator of the `rand` crate, for indices and shuffles:
///
/// ```
/// use burn::tensor::Device;
/// use nabla_grad::seeded_noise::SeededNoise;
/// use rand::RngExt;
///
/// let mut noise = SeededNoise::new(42, 0);
/// let z = noise.normal([1, 3, 16, 16], &Device::flex()); // [batch, channels, height, width]
/// let timestep = noise.random_range(0..1000);
///
/// let mut resumed = SeededNoise::from_state(noise.state());
/// assert_eq!(resumed.random_range(0..1000), noise.random_range(0..1000));
/// # let _ = (z, timestep);
/// ```
#[derive(Clone, Debug)]
pub struct SeededNoise {
    generator: ChaCha8Rng,
    seed: u64,
}

impl SeededNoise {
    /// Starts at the beginning of stream number `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self::from_state(NoiseState {
            seed,
            stream,
            position: 0,
        })
    }

    /// Resumes at a saved [`state`](Self::state).
    pub fn from_state(state: NoiseState) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(state.seed);
        generator.set_stream(state.stream);
        generator.set_word_pos(u128::from(state.position));
        Self {
            generator,
            seed: state.seed,
        }
    }

    /// The current position.
    pub fn state(&self) -> NoiseState {
        NoiseState {
            seed: self.seed,
            stream: self.generator.get_stream(),
            // Lossless: 2^64 words would take centuries to draw.
            position: self.generator.get_word_pos() as u64,
        }
    }

    /// Draws `count` standard normal numbers.
    pub fn normal_values(&mut self, count: usize) -> Vec<f32> {
        StandardNormal
            .sample_iter(&mut self.generator)
            .take(count)
            .collect()
    }

    /// Draws a tensor of standard normal numbers; the stream fills it in row-major order.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let values = self.normal_values(shape.iter().product());
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

impl TryRng for SeededNoise {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.generator.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.generator.try_next_u64()
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.generator.try_fill_bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn the_same_seed_and_stream_give_the_same_bits_in_any_portions() {
        let whole = SeededNoise::new(42, 7).normal_values(1000);
        let mut noise = SeededNoise::new(42, 7);
        let mut parts = noise.normal_values(1);
        parts.extend(noise.normal_values(400));
        let mut resumed = SeededNoise::from_state(
            serde_json::from_str(&serde_json::to_string(&noise.state()).unwrap()).unwrap(),
        );
        parts.extend(resumed.normal_values(599));
        assert_eq!(whole, parts);
    }

    #[test]
    fn a_position_between_two_64_bit_draws_is_restored() {
        let mut noise = SeededNoise::new(1, 2);
        for drawn in 0..200 {
            let mut resumed = SeededNoise::from_state(noise.state());
            assert_eq!(resumed.state(), noise.state());
            assert_eq!(
                resumed.normal_values(70),
                noise.clone().normal_values(70),
                "{drawn}"
            );
            noise.next_u32();
        }
    }

    #[test]
    fn seeds_and_streams_are_uncorrelated() {
        let n = 20_000;
        let draw = |seed, stream| SeededNoise::new(seed, stream).normal_values(n);
        let base = draw(42, 0);
        for other in [draw(42, 1), draw(43, 0), draw(43, 1), draw(42, u64::MAX)] {
            let correlation: f64 = base
                .iter()
                .zip(&other)
                .map(|(&a, &b)| f64::from(a) * f64::from(b))
                .sum::<f64>()
                / n as f64;
            // Four standard errors.
            assert!(correlation.abs() < 4.0 / (n as f64).sqrt(), "{correlation}");
        }
    }

    #[test]
    fn the_numbers_are_standard_normal() {
        let n = 200_000;
        let mut values = SeededNoise::new(0, 0).normal_values(n);
        let moment = |power: i32| {
            values
                .iter()
                .map(|&z| f64::from(z).powi(power))
                .sum::<f64>()
                / n as f64
        };
        // Moments 1 to 4 of a standard normal number, with the variance of each estimate.
        for (power, expected, variance) in
            [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]
        {
            let error: f64 = moment(power) - expected;
            assert!(
                error.abs() < 4.0 * f64::sqrt(variance / n as f64),
                "{power}: {error}"
            );
        }
        // Quantiles of the standard normal distribution.
        values.sort_by(f32::total_cmp);
        for (share, quantile) in [
            (0.001, -3.090_232),
            (0.158_655, -1.0),
            (0.5, 0.0),
            (0.975, 1.959_964),
        ] {
            let found = f64::from(values[(share * n as f64) as usize]);
            assert!((found - quantile).abs() < 0.05, "{share}: {found}");
        }
    }

    #[test]
    fn the_tensor_holds_the_stream_in_row_major_order() {
        let tensor = SeededNoise::new(5, 0).normal([2, 3, 4], &Device::flex());
        let values = SeededNoise::new(5, 0).normal_values(24);
        assert_eq!(tensor.into_data().try_to_vec::<f32>().unwrap(), values);
    }

    /// Not a reference: it guards the promise that a seed gives the same picture after an update of
    /// the random number crates.
    #[test]
    fn the_first_numbers_stay_as_they_are() {
        let found: Vec<u32> = SeededNoise::new(42, 0)
            .normal_values(4)
            .into_iter()
            .map(f32::to_bits)
            .collect();
        assert_eq!(found, FIRST);
    }

    const FIRST: [u32; 4] = [1_056_225_781, 1_068_155_603, 3_193_433_456, 1_056_170_942];
}
