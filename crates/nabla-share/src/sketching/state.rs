//! Where a run stands, and its bytes.

use super::SketchingError;
use crate::communicator::numbers::{from_bytes, to_bytes};

/// Where a run stands. A run that goes on from a saved state has the bits of one that was never interrupted, for
/// everything random follows from the seeds and the round. A client that joins late needs this state, once.
#[derive(Clone, Debug, PartialEq)]
pub struct SketchingState {
    /// The rounds made.
    pub round: u64,
    /// `w`, `[d]`.
    pub weights: Vec<f64>,
    /// Bytes that a client has sent.
    pub up: u64,
    /// Bytes that a client has received. The server's own client counts as any other.
    pub down: u64,
}

impl SketchingState {
    /// Before the first round.
    pub fn new(weights: Vec<f64>) -> Self {
        Self {
            round: 0,
            weights,
            up: 0,
            down: 0,
        }
    }

    /// The state as bytes, little-endian: round, bytes sent and received with 8 bytes each, then the weights.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [self.round, self.up, self.down] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(to_bytes(&self.weights));
        bytes
    }

    /// Reads the bytes of [`to_bytes`](Self::to_bytes), exact to the bit.
    ///
    /// # Errors
    /// If there are too few of them, or part of a weight is missing.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SketchingError> {
        let damaged = || SketchingError::State(bytes.len());
        let (header, weights) = bytes.split_first_chunk::<24>().ok_or_else(damaged)?;
        if !weights.len().is_multiple_of(8) {
            return Err(damaged());
        }
        let (numbers, _) = header.as_chunks::<8>();
        let [round, up, down] = [0, 1, 2].map(|i: usize| u64::from_le_bytes(numbers[i]));
        Ok(Self {
            round,
            weights: from_bytes(weights),
            up,
            down,
        })
    }
}
