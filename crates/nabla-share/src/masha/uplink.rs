//! Unbiased compressors of the workers' differences.

use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range;
use nabla_grad::SeededNoise;
use nabla_grad::compressor::{Compressed, Compressor, CompressorError, Constant};

use super::draws::Draws;
use super::{MashaError, numbers_of};

/// The unbiased compressors `Q_m` of all workers.
pub enum Uplink {
    /// The same compressor at every worker, with randomness of its own at each.
    Independent(Box<dyn Compressor>),
    /// Perm-k: of one common permutation of the coordinates, cut into as many blocks as workers send, every worker
    /// sends its block, times their number `M`; `ω = M − 1` for each, but the mean is exact if all agree. The
    /// permutation comes from the common seed, so no index is sent.
    PermK,
}

impl Uplink {
    /// The `ω` of a worker's compressor, for vectors of `dimension` elements and `workers` senders.
    pub fn variance(&self, dimension: usize, workers: usize) -> f64 {
        match self {
            Self::PermK => workers as f64 - 1.0,
            Self::Independent(compressor) => match compressor.constant(dimension) {
                Constant::Variance(omega) => omega,
                Constant::Contraction(_) => f64::INFINITY,
            },
        }
    }

    /// Checks that this is unbiased, and that every sender has something to send.
    pub(super) fn check(&self, dimension: usize, senders: usize) -> Result<(), MashaError> {
        match self {
            Self::PermK => Ok(range::within(
                "number of senders of Perm-k",
                senders,
                1..=dimension,
            )?),
            Self::Independent(_) if self.variance(dimension, senders).is_finite() => Ok(()),
            Self::Independent(_) => Err(MashaError::Biased("compressor of the workers")),
        }
    }

    /// The length of the vector in the message of the sender at a position.
    pub(super) fn length(&self, draws: &Draws, position: usize, of: usize) -> usize {
        match self {
            Self::PermK => block(draws.dimension, position, of).len(),
            Self::Independent(_) => draws.dimension,
        }
    }

    /// The message of a worker, the sender at `position` of `of`.
    pub(super) fn message(
        &self,
        draws: &Draws,
        worker: usize,
        (position, of): (usize, usize),
        vector: &[f64],
    ) -> Result<Compressed, MashaError> {
        match self {
            Self::Independent(compressor) => {
                Ok(compress(&**compressor, vector, &mut draws.worker(worker))?)
            }
            Self::PermK => {
                let order = draws.permutation();
                let own = &order[block(vector.len(), position, of)];
                let values: Vec<f64> = own.iter().map(|&i| vector[i] * of as f64).collect();
                Ok(dense(&values)?)
            }
        }
    }

    /// The mean of the vectors that the messages stand for.
    pub(super) fn mean(&self, draws: &Draws, messages: &[Compressed]) -> Vec<f64> {
        if let Self::Independent(_) = self {
            return mean(messages, draws.dimension);
        }
        let order = draws.permutation();
        let mut mean = vec![0.0; draws.dimension];
        for (position, message) in messages.iter().enumerate() {
            let own = &order[block(draws.dimension, position, messages.len())];
            for (&index, value) in own.iter().zip(numbers_of(message)) {
                mean[index] = value / messages.len() as f64;
            }
        }
        mean
    }
}

/// The positions of a block among `of` blocks of almost the same length.
fn block(dimension: usize, position: usize, of: usize) -> std::ops::Range<usize> {
    dimension * position / of..dimension * (position + 1) / of
}

/// The mean of messages for whole vectors.
pub(super) fn mean(messages: &[Compressed], dimension: usize) -> Vec<f64> {
    let mut mean = vec![0.0; dimension];
    for message in messages {
        message.add_to(&mut mean, 1.0 / messages.len() as f64);
    }
    mean
}

pub(super) fn tensor(values: &[f64]) -> Tensor<1> {
    let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), &Device::flex())
}

pub(super) fn compress(
    compressor: &dyn Compressor,
    vector: &[f64],
    noise: &mut SeededNoise,
) -> Result<Compressed, CompressorError> {
    compressor.compress(&tensor(vector), noise)
}

/// The vector as it is, in f32.
pub(super) fn dense(vector: &[f64]) -> Result<Compressed, CompressorError> {
    Compressed::of_dense(vector.iter().map(|&x| x as f32).collect())
}
