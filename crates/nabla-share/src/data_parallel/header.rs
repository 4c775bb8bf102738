//! What a worker tells in front of its gradient, as bytes.

use super::SharingError;

/// What a worker tells with its gradient.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub(super) step: u64,
    pub(super) loss: f64,
    pub(super) right: u64,
    pub(super) examples: u64,
    pub(super) seconds: f64,
    /// Whether the training is to end after this step.
    pub(super) stop: bool,
}

impl Header {
    pub(super) const BYTES: usize = 41;

    pub(super) fn put(self) -> Vec<u8> {
        let mut bytes = self.step.to_le_bytes().to_vec();
        bytes.extend(self.loss.to_le_bytes());
        bytes.extend(self.right.to_le_bytes());
        bytes.extend(self.examples.to_le_bytes());
        bytes.extend(self.seconds.to_le_bytes());
        bytes.push(u8::from(self.stop));
        bytes
    }

    pub(super) fn take(bytes: &[u8], worker: usize) -> Result<(Self, &[u8]), SharingError> {
        let found = bytes.len();
        let Some((header, rest)) = bytes.split_at_checked(Self::BYTES) else {
            return Err(SharingError::Message { worker, found });
        };
        let (numbers, _) = header.as_chunks::<8>();
        let whole = |i: usize| u64::from_le_bytes(numbers[i]);
        let real = |i: usize| f64::from_le_bytes(numbers[i]);
        let told = Self {
            step: whole(0),
            loss: real(1),
            right: whole(2),
            examples: whole(3),
            seconds: real(4),
            stop: header[Self::BYTES - 1] != 0,
        };
        Ok((told, rest))
    }
}
