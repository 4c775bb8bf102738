//! Gaussian noise that is the same on every device.
//!
//! A diffusion run is reproducible only if its noise is, and a backend's own generator gives other
//! numbers on another device or with another number of threads. This one draws on the host, in one
//! sequence, from ChaCha with 8 rounds (Bernstein, *ChaCha, a variant of Salsa20*, 2008), by the
//! ziggurat method (Doornik, *An Improved Ziggurat Method to Generate Normal Random Samples*,
//! 2005), and then copies to the device.
//!
//! One seed has 2⁶⁴ independent streams: give each purpose (initialisation, data order, training
//! noise, one picture of a batch) its own, and adding draws to one does not move the others. The
//! position in the stream can be saved and restored, so that a resumed training run continues with
//! the same bits.

use std::convert::Infallible;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{SeedableRng, TryRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// A position in a stream of [`SeededNoise`]; everything needed to go on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoiseState {
    /// The seed.
    pub seed: u64,
    /// The stream.
    pub stream: u64,
    /// 32-bit words drawn from the stream so far.
    pub position: u64,
}

/// A stream of reproducible noise.
///
/// It is also a random number generator of the `rand` crate, for indices and shuffles:
///
/// ```
/// use burn::tensor::Device;
/// use nabla_diffusion::seeded_noise::SeededNoise;
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
    /// The beginning of the stream number `stream` of `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self::from_state(NoiseState {
            seed,
            stream,
            position: 0,
        })
    }

    /// Goes on where [`state`](Self::state) was taken.
    pub fn from_state(state: NoiseState) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(state.seed);
        generator.set_stream(state.stream);
        generator.set_word_pos(u128::from(state.position));
        Self {
            generator,
            seed: state.seed,
        }
    }

    /// The present position.
    pub fn state(&self) -> NoiseState {
        NoiseState {
            seed: self.seed,
            stream: self.generator.get_stream(),
            // Lossless: 2^64 words would take centuries to draw.
            position: self.generator.get_word_pos() as u64,
        }
    }

    /// `count` standard normal numbers.
    pub fn normal_values(&mut self, count: usize) -> Vec<f32> {
        StandardNormal
            .sample_iter(&mut self.generator)
            .take(count)
            .collect()
    }

    /// A tensor of standard normal numbers, in row-major order of the stream.
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
