//! A sketch as it is sent to another worker.

use nabla_base::range::OutOfRange;

use crate::compressor::WireError;
use crate::compressor::wire::{Header, check_payload};

use super::{LinearSketch, SketchError, check_length};

/// The sketch of a vector as it is sent: `m` numbers of 32 bits, and the identity of their matrix.
///
/// Sketches by one matrix add up to the sketch of the sum; those by others are refused.
///
/// ```
/// use nabla_grad::seeded_noise::SeededNoise;
/// use nabla_grad::sketch::{CountSketch, LinearSketch, SketchMessage};
///
/// // The same seed on both sides.
/// let sketch = CountSketch::new(5, 200, 10_000, &mut SeededNoise::new(42, 0))?;
/// let gradient = vec![1.0; 10_000];
/// let message = SketchMessage::of(&sketch, &gradient)?;
/// let bytes = message.to_bytes();
/// assert_eq!(bytes.len(), SketchMessage::HEADER_BYTES + 4 * 1000);
/// let mut sum = SketchMessage::from_bytes(&bytes, &sketch)?;
/// sum.add(&message)?;
/// let back = sketch.transposed_values(&sum.values())?;
/// # let _ = back;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SketchMessage {
    dimension: usize,
    identity: u64,
    numbers: Vec<f32>,
}

/// After the kinds of compressed vectors.
const KIND: u8 = 16;

impl SketchMessage {
    /// The number of bytes before the numbers: version, kind, `d`, `m`, and the identity of the matrix.
    pub const HEADER_BYTES: usize = Header::BYTES + 8;

    /// The sketch of `x`, `[d]`, rounded to 32 bits.
    ///
    /// # Errors
    /// If the vector has another length, or its sketch is out of the range of 32 bits.
    pub fn of(sketch: &(impl LinearSketch + ?Sized), x: &[f64]) -> Result<Self, SketchError> {
        Self::of_sketched(sketch, &sketch.apply_values(x)?)
    }

    /// A vector that is a sketch already, `[m]`, rounded to 32 bits: a sum of sketches, or a sketch with noise.
    ///
    /// # Errors
    /// If it has another length than the sketches by this matrix, or is out of the range of 32 bits.
    pub fn of_sketched(
        sketch: &(impl LinearSketch + ?Sized),
        values: &[f64],
    ) -> Result<Self, SketchError> {
        check_length("sketch", sketch.sketch_length(), values.len())?;
        let message = Self {
            dimension: sketch.dimension(),
            identity: sketch.identity(),
            numbers: values.iter().map(|&value| value as f32).collect(),
        };
        message.checked()
    }

    fn checked(self) -> Result<Self, SketchError> {
        match self.numbers.iter().position(|number| !number.is_finite()) {
            Some(index) => Err(SketchError::NotFinite {
                index,
                value: self.numbers[index],
            }),
            None => Ok(self),
        }
    }

    /// The sketch, `[m]`.
    pub fn values(&self) -> Vec<f64> {
        self.numbers
            .iter()
            .map(|&number| f64::from(number))
            .collect()
    }

    /// Adds the sketch of another vector by the same matrix. On an error this sketch is unchanged.
    ///
    /// # Errors
    /// If it is by another matrix, or the sum is out of the range of 32 bits.
    pub fn add(&mut self, other: &Self) -> Result<(), SketchError> {
        if (self.dimension, self.identity) != (other.dimension, other.identity) {
            return Err(SketchError::OtherSketch);
        }
        check_length("sketch", self.numbers.len(), other.numbers.len())?;
        let numbers = self.numbers.iter().zip(&other.numbers).map(|(a, b)| a + b);
        let sum = Self {
            numbers: numbers.collect(),
            ..*self
        };
        *self = sum.checked()?;
        Ok(())
    }

    /// `32 m`, as in theory.
    pub fn size_in_bits(&self) -> u64 {
        32 * self.numbers.len() as u64
    }

    /// The number of bytes of [`to_bytes`](Self::to_bytes).
    pub fn size_in_bytes(&self) -> u64 {
        Self::HEADER_BYTES as u64 + self.size_in_bits() / 8
    }

    /// The message as bytes, all numbers little-endian: version 1, kind 16, `d` and `m` with 8 bytes
    /// each, the identity of the matrix with 8, then the numbers with 4 each.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = Header {
            kind: KIND,
            dimension: self.dimension as u64,
            count: self.numbers.len() as u64,
        };
        let mut bytes = header.write();
        bytes.extend(self.identity.to_le_bytes());
        bytes.extend(self.numbers.iter().flat_map(|n| n.to_bits().to_le_bytes()));
        bytes
    }

    /// Reads the bytes of [`to_bytes`](Self::to_bytes), exact to the bit, for the matrix of `sketch`.
    ///
    /// # Errors
    /// If the bytes are not a message of this form, or were made with another matrix.
    pub fn from_bytes(
        bytes: &[u8],
        sketch: &(impl LinearSketch + ?Sized),
    ) -> Result<Self, WireError> {
        let (header, payload) = Header::read(bytes)?;
        if header.kind != KIND {
            return Err(WireError::Kind(header.kind, KIND));
        }
        if header.dimension != sketch.dimension() as u64 {
            return Err(WireError::Dimension {
                expected: sketch.dimension(),
                found: header.dimension,
            });
        }
        let length = sketch.sketch_length();
        if header.count != length as u64 {
            let name = "length of the sketch of the message";
            return Err(OutOfRange::new(name, header.count, length.to_string()).into());
        }
        check_payload(payload, 64 + 32 * u128::from(header.count))?;
        let (identity, numbers) = payload.split_at(8);
        if *identity != sketch.identity().to_le_bytes() {
            return Err(WireError::OtherSketch);
        }
        let mut message = Self {
            dimension: sketch.dimension(),
            identity: sketch.identity(),
            numbers: Vec::with_capacity(length),
        };
        for part in numbers.chunks_exact(4) {
            let bits = part
                .iter()
                .rev()
                .fold(0, |n, &byte| n << 8 | u32::from(byte));
            let number = f32::from_bits(bits);
            if !number.is_finite() {
                return Err(WireError::Element {
                    index: message.numbers.len(),
                    reason: "it is not finite",
                });
            }
            message.numbers.push(number);
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded_noise::SeededNoise;
    use crate::sketch::{AmsSketch, CountSketch, GaussianSketch, Srht};
    use proptest::prelude::*;

    fn sketches(d: usize, seed: u64) -> Vec<Box<dyn LinearSketch>> {
        let noise = &mut SeededNoise::new(seed, 0);
        vec![
            Box::new(CountSketch::new(2, 3, d, noise).unwrap()),
            Box::new(GaussianSketch::new(6, d, noise).unwrap()),
            Box::new(AmsSketch::new(6, d, noise).unwrap()),
            Box::new(Srht::new(6.min(d.next_power_of_two()), d, noise).unwrap()),
        ]
    }

    fn vector(d: usize, seed: u64) -> Vec<f64> {
        let draw = SeededNoise::new(seed, 1).normal_values(d);
        draw.into_iter().map(f64::from).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn sketches_come_back_to_the_bit_and_to_their_matrix_only(d in 1_usize..60, seed: u64) {
            let all = sketches(d, seed);
            let others = sketches(d, seed.wrapping_add(1));
            for (number, sketch) in all.iter().enumerate() {
                let sent = SketchMessage::of(sketch.as_ref(), &vector(d, seed)).unwrap();
                let bytes = sent.to_bytes();
                prop_assert_eq!(bytes.len() as u64, sent.size_in_bytes());
                let received = SketchMessage::from_bytes(&bytes, sketch.as_ref()).unwrap();
                prop_assert_eq!(received.to_bytes(), bytes.clone());
                prop_assert_eq!(&received, &sent);
                // A transform that takes all rows of one element is the same for half of the seeds.
                if number < 3 {
                    let other = SketchMessage::from_bytes(&bytes, others[number].as_ref());
                    prop_assert_eq!(other, Err(WireError::OtherSketch));
                    let mut sum = SketchMessage::of(others[number].as_ref(), &vector(d, 0)).unwrap();
                    prop_assert_eq!(sum.add(&sent), Err(SketchError::OtherSketch));
                }
            }
        }

        #[test]
        fn any_bytes_are_a_sketch_or_refused(
            place: usize,
            byte: u8,
            cut in 0_usize..60,
            random in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            for sketch in sketches(9, 3) {
                let good = SketchMessage::of(sketch.as_ref(), &vector(9, 1)).unwrap().to_bytes();
                let mut changed = good.clone();
                let place = place % changed.len();
                changed[place] ^= byte;
                for bytes in [&random[..], &changed, &good[..cut.min(good.len())]] {
                    if let Ok(message) = SketchMessage::from_bytes(bytes, sketch.as_ref()) {
                        prop_assert_eq!(message.to_bytes(), bytes);
                        prop_assert!(message.values().iter().all(|v| v.is_finite()));
                    }
                }
            }
        }
    }

    #[test]
    fn messages_of_workers_add_up_to_that_of_the_sum() {
        for sketch in sketches(20, 5) {
            let (x, y) = (vector(20, 1), vector(20, 2));
            let mut sum = SketchMessage::of(sketch.as_ref(), &x).unwrap();
            sum.add(&SketchMessage::of(sketch.as_ref(), &y).unwrap())
                .unwrap();
            let both: Vec<f64> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
            let expected = sketch.apply_values(&both).unwrap();
            for (found, expected) in sum.values().iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5);
            }
            let huge = SketchMessage::of(sketch.as_ref(), &[1e300; 20]).unwrap_err();
            assert!(matches!(huge, SketchError::NotFinite { .. }));
        }
    }
}
