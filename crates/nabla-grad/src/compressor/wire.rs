//! The bytes of a compressed vector.
//!
//! ```text
//! version   1 byte     1
//! kind      1 byte     0 sparse, 1 signs, 2 levels, 3 powers of two, 4 dense
//! d         8 bytes    the length of the vector
//! count     8 bytes    elements of a sparse message, levels s of a quantised message, else 0
//! payload              the bits that theory counts, padded with zeros to a whole byte
//! ```
//!
//! Numbers are little-endian, and so are bits: the first bit is the lowest of the first byte. These are the
//! payloads, with `w = ⌈log₂ d⌉`, `l = ⌈log₂(2s + 1)⌉`, and numbers in the 32-bit format of IEEE 754:
//!
//! ```text
//! sparse    count × (w bits of the index), rising; count × (32 bits of the value)
//! signs     32 bits of the scale; d × (1 bit, set where the element is negative)
//! levels    32 bits of the scale; d × (l bits of the level + s)
//! powers    d × (8 bits of the exponent, then 1 bit, set where the element is negative)
//! dense     d × (32 bits of the value)
//! ```
//!
//! A message has only one form: [`Compressed::to_bytes`] returns exactly the bytes that
//! [`Compressed::from_bytes`] accepted.

use nabla_base::range::{self, OutOfRange};

use super::{Compressed, Form, Qsgd, bits_for};

const VERSION: u8 = 1;

/// The reason why bytes are not a compressed vector.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WireError {
    /// There are fewer or more bytes than the header states.
    #[error("the message must have {expected} bytes, but it has {found}")]
    Length {
        /// The number that the header states, or the size of the header itself if that is incomplete.
        expected: u64,
        /// The number of bytes given.
        found: usize,
    },
    /// A version newer than this program knows.
    #[error("the message is of version {0}, but only version 1 is known")]
    Version(u8),
    /// The kind does not exist.
    #[error("the message is of the kind {0}, but kinds are 0 to {1}")]
    Kind(u8, u8),
    /// The vector has another length.
    #[error("the message is for a vector of {found} elements, but one of {expected} is expected")]
    Dimension {
        /// The length that the receiver expects.
        expected: usize,
        /// The length in the message.
        found: u64,
    },
    /// A number of the header is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The payload contains something that no sender writes.
    #[error("element {index} of the message is damaged: {reason}")]
    Element {
        /// Its position in the payload.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There are bits after the payload.
    #[error("the last byte of the message must be padded with zeros")]
    Padding,
    /// The sketch was made with another matrix.
    #[error(
        "the message is a sketch by another matrix: sender and receiver must draw it from the same \
         seed"
    )]
    OtherSketch,
}

/// Writes bits, the lowest first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits that do not yet fill a byte.
    pending: u64,
    count: u32,
}

impl Bits {
    /// The lowest `width ≤ 32` bits of `value`.
    fn put(&mut self, value: u32, width: u32) {
        self.pending |= u64::from(value) << self.count;
        self.count += width;
        while self.count >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    fn put_wide(&mut self, value: u64, width: u32) {
        self.put(value as u32, width.min(32));
        if width > 32 {
            self.put((value >> 32) as u32, width - 32);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.bytes.push(self.pending as u8);
        }
        self.bytes
    }
}

/// Reads bits, the lowest first; the number of bytes has been checked.
struct Reader<'a> {
    bytes: std::slice::Iter<'a, u8>,
    pending: u64,
    count: u32,
}

impl Reader<'_> {
    fn take(&mut self, width: u32) -> u32 {
        while self.count < width {
            let byte = self.bytes.next().copied().unwrap_or(0);
            self.pending |= u64::from(byte) << self.count;
            self.count += 8;
        }
        let value = self.pending & ((1 << width) - 1);
        self.pending >>= width;
        self.count -= width;
        value as u32
    }

    fn take_wide(&mut self, width: u32) -> u64 {
        let low = u64::from(self.take(width.min(32)));
        if width > 32 {
            low | u64::from(self.take(width - 32)) << 32
        } else {
            low
        }
    }

    fn finite(&mut self, index: usize) -> Result<f32, WireError> {
        let value = f32::from_bits(self.take(32));
        if value.is_finite() {
            Ok(value)
        } else {
            Err(WireError::Element {
                index,
                reason: "it is not finite",
            })
        }
    }

    fn scale(&mut self) -> Result<f32, WireError> {
        let scale = self.finite(0)?;
        if scale.is_sign_positive() {
            Ok(scale)
        } else {
            Err(WireError::Element {
                index: 0,
                reason: "its scale is negative",
            })
        }
    }

    /// Checks that only zeros are left.
    fn finish(self) -> Result<(), WireError> {
        if self.pending == 0 && self.bytes.len() == 0 {
            Ok(())
        } else {
            Err(WireError::Padding)
        }
    }
}

/// The header of all messages.
pub(crate) struct Header {
    pub kind: u8,
    pub dimension: u64,
    pub count: u64,
}

impl Header {
    pub const BYTES: usize = 18;

    pub fn write(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, self.kind];
        bytes.extend(self.dimension.to_le_bytes());
        bytes.extend(self.count.to_le_bytes());
        bytes
    }

    /// The header and the payload after it.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let short = WireError::Length {
            expected: Self::BYTES as u64,
            found: bytes.len(),
        };
        let Some((header, payload)) = bytes.split_at_checked(Self::BYTES) else {
            return Err(short);
        };
        if header[0] != VERSION {
            return Err(WireError::Version(header[0]));
        }
        let number = |from: usize| {
            let part = &header[from..from + 8];
            part.iter()
                .rev()
                .fold(0, |number, &byte| number << 8 | u64::from(byte))
        };
        let header = Self {
            kind: header[1],
            dimension: number(2),
            count: number(10),
        };
        Ok((header, payload))
    }
}

/// Refuses a payload that is not `bits` bits long, padded to whole bytes.
pub(crate) fn check_payload(payload: &[u8], bits: u128) -> Result<(), WireError> {
    let expected = bits.div_ceil(8);
    if payload.len() as u128 == expected {
        Ok(())
    } else {
        let whole = expected + Header::BYTES as u128;
        Err(WireError::Length {
            expected: u64::try_from(whole).unwrap_or(u64::MAX),
            found: payload.len() + Header::BYTES,
        })
    }
}

impl Compressed {
    /// The size of the header of a message in bytes.
    pub const HEADER_BYTES: usize = Header::BYTES;

    /// The number of bytes of [`to_bytes`](Self::to_bytes): the header, and
    /// [`size_in_bits`](Self::size_in_bits) padded to whole bytes.
    pub fn size_in_bytes(&self) -> u64 {
        Self::HEADER_BYTES as u64 + self.size_in_bits().div_ceil(8)
    }

    /// Returns the message as bytes, in the format of `compressor/wire.rs`: a header of
    /// [`HEADER_BYTES`](Self::HEADER_BYTES) bytes with version, kind and sizes, little-endian, and the
    /// packed payload.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use nabla_grad::compressor::{Compressed, Compressor, ScaledSign};
    /// use nabla_grad::seeded_noise::SeededNoise;
    ///
    /// let gradient = Tensor::<1>::from_floats([0.1, -3.0, 0.2, 2.0], &Device::flex());
    /// let message = ScaledSign.compress(&gradient, &mut SeededNoise::new(42, 0))?;
    /// let bytes = message.to_bytes();
    /// assert_eq!(bytes.len(), Compressed::HEADER_BYTES + 4 + 1); // a scale, four signs
    /// assert_eq!(Compressed::from_bytes(&bytes, 4)?, message);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, count) = match &self.form {
            Form::Sparse { indices, .. } => (0, indices.len() as u64),
            Form::Signs { .. } => (1, 0),
            Form::Levels { levels, .. } => (2, u64::from(*levels)),
            Form::Powers(_) => (3, 0),
            Form::Dense(_) => (4, 0),
        };
        let dimension = self.dimension as u64;
        let header = Header {
            kind,
            dimension,
            count,
        };
        let mut bits = Bits {
            bytes: header.write(),
            ..Bits::default()
        };
        match &self.form {
            Form::Sparse { indices, values } => {
                let width = bits_for(dimension);
                for &index in indices {
                    bits.put_wide(index as u64, width);
                }
                values.iter().for_each(|v| bits.put(v.to_bits(), 32));
            }
            Form::Signs { scale, negative } => {
                bits.put(scale.to_bits(), 32);
                negative.iter().for_each(|&n| bits.put(u32::from(n), 1));
            }
            Form::Levels {
                scale,
                levels,
                level,
            } => {
                bits.put(scale.to_bits(), 32);
                let width = bits_for(2 * u64::from(*levels) + 1);
                for &level in level {
                    // From −s … s to 0 … 2s.
                    bits.put((i64::from(level) + i64::from(*levels)) as u32, width);
                }
            }
            Form::Powers(codes) => {
                for &code in codes {
                    bits.put(u32::from(code.unsigned_abs()), 8);
                    bits.put(u32::from(code < 0), 1);
                }
            }
            Form::Dense(values) => values.iter().for_each(|v| bits.put(v.to_bits(), 32)),
        }
        bits.finish()
    }

    /// Reads the bytes of [`to_bytes`](Self::to_bytes) for a vector of `dimension` elements, exact to the
    /// bit. Whatever the bytes state, no more is allocated than they contain.
    ///
    /// # Errors
    /// If the bytes are not a message of this form.
    pub fn from_bytes(bytes: &[u8], dimension: usize) -> Result<Self, WireError> {
        let (header, payload) = Header::read(bytes)?;
        if header.kind > 4 {
            return Err(WireError::Kind(header.kind, 4));
        }
        if header.dimension != dimension as u64 || dimension == 0 {
            return Err(WireError::Dimension {
                expected: dimension,
                found: header.dimension,
            });
        }
        let (d, count) = (u128::from(header.dimension), header.count);
        let counts = match header.kind {
            0 => 1..=header.dimension,
            2 => 1..=u64::from(Qsgd::HIGHEST),
            _ => 0..=0,
        };
        let name = match header.kind {
            2 => "number of levels of the message",
            _ => "number of elements of the message",
        };
        range::within(name, count, counts)?;
        let index_width = bits_for(header.dimension);
        let level_width = bits_for(2 * count + 1);
        let bits = match header.kind {
            0 => u128::from(count) * u128::from(32 + index_width),
            1 => 32 + d,
            2 => 32 + d * u128::from(level_width),
            3 => 9 * d,
            _ => 32 * d,
        };
        check_payload(payload, bits)?;
        let mut reader = Reader {
            bytes: payload.iter(),
            pending: 0,
            count: 0,
        };
        let damaged = |index, reason| Err(WireError::Element { index, reason });
        let form = match header.kind {
            0 => {
                // At most as many as fit into the payload.
                let mut indices: Vec<usize> = Vec::with_capacity(count as usize);
                for place in 0..count as usize {
                    let index = reader.take_wide(index_width);
                    if index >= header.dimension {
                        return damaged(place, "its index is outside the vector");
                    }
                    if indices.last().is_some_and(|&last| last as u64 >= index) {
                        return damaged(place, "its index does not rise");
                    }
                    indices.push(index as usize);
                }
                let values = (0..indices.len()).map(|index| reader.finite(index));
                let values = values.collect::<Result<_, _>>()?;
                Form::Sparse { indices, values }
            }
            1 => Form::Signs {
                scale: reader.scale()?,
                negative: (0..dimension).map(|_| reader.take(1) == 1).collect(),
            },
            2 => {
                let scale = reader.scale()?;
                let mut level = Vec::with_capacity(dimension);
                for index in 0..dimension {
                    let code = u64::from(reader.take(level_width));
                    if code > 2 * count {
                        return damaged(index, "it is above the highest level");
                    }
                    level.push((code as i64 - count as i64) as i32);
                }
                Form::Levels {
                    scale,
                    levels: count as u32,
                    level,
                }
            }
            3 => {
                let mut codes = Vec::with_capacity(dimension);
                for index in 0..dimension {
                    let exponent = reader.take(8) as i16;
                    let negative = reader.take(1) == 1;
                    if exponent == 255 {
                        return damaged(index, "it is not finite");
                    }
                    if exponent == 0 && negative {
                        return damaged(index, "it is a zero with a sign");
                    }
                    codes.push(if negative { -exponent } else { exponent });
                }
                Form::Powers(codes)
            }
            _ => {
                let values = (0..dimension).map(|index| reader.finite(index));
                Form::Dense(values.collect::<Result<_, _>>()?)
            }
        };
        reader.finish()?;
        Ok(Self { dimension, form })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compressor::{Compressor, Identity, Natural, RandK, ScaledSign, TopK};
    use crate::seeded_noise::SeededNoise;
    use burn::tensor::{Device, Tensor, TensorData};
    use proptest::prelude::*;

    fn compressors() -> Vec<Box<dyn Compressor>> {
        vec![
            Box::new(Identity),
            Box::new(RandK::new(3).unwrap()),
            Box::new(TopK::new(5).unwrap()),
            Box::new(TopK::new(usize::MAX).unwrap()),
            Box::new(ScaledSign),
            Box::new(Qsgd::new(1).unwrap()),
            Box::new(Qsgd::new(5).unwrap()),
            Box::new(Qsgd::new(Qsgd::HIGHEST).unwrap()),
            Box::new(Natural),
        ]
    }

    fn message(compressor: &dyn Compressor, x: &[f32]) -> Compressed {
        let data = TensorData::new(x.to_vec(), [x.len()]);
        let vector = Tensor::from_data(data, &Device::flex());
        compressor
            .compress(&vector, &mut SeededNoise::new(3, 0))
            .unwrap()
    }

    fn samples() -> impl Strategy<Value = Vec<u8>> {
        // Messages with a changed byte reach every branch of the reader; random bytes stop early.
        let changed = (
            0_usize..9,
            1_usize..40,
            any::<u64>(),
            any::<usize>(),
            any::<u8>(),
        );
        let changed = changed.prop_map(|(which, d, seed, place, byte)| {
            let x = SeededNoise::new(seed, 0).normal_values(d);
            let mut bytes = message(compressors()[which].as_ref(), &x).to_bytes();
            let place = place % bytes.len();
            bytes[place] ^= byte;
            bytes
        });
        prop_oneof![prop::collection::vec(any::<u8>(), 0..64), changed]
    }

    proptest! {
        #[test]
        fn messages_come_back_to_the_bit_in_the_counted_bytes(
            d in 1_usize..200,
            seed: u64,
            zeros in 0_usize..3,
        ) {
            let mut x = SeededNoise::new(seed, 0).normal_values(d);
            x.iter_mut().step_by(7).take(zeros * 5).for_each(|x| *x = -0.0);
            for compressor in compressors() {
                let sent = message(compressor.as_ref(), &x);
                let bytes = sent.to_bytes();
                prop_assert_eq!(bytes.len() as u64, sent.size_in_bytes());
                prop_assert_eq!(bytes.len() as u64, 18 + sent.size_in_bits().div_ceil(8));
                let received = Compressed::from_bytes(&bytes, d).unwrap();
                let bits = |m: &Compressed| -> Vec<u32> {
                    m.values().iter().map(|v| v.to_bits()).collect()
                };
                prop_assert_eq!(bits(&received), bits(&sent));
                prop_assert_eq!(&received, &sent);
                prop_assert_eq!(received.to_bytes(), bytes);
            }
        }

        #[test]
        fn any_bytes_are_a_message_or_refused(bytes in samples(), other in 0_usize..50) {
            let claimed = bytes.get(2).map_or(0, |&d| usize::from(d));
            for dimension in [claimed, other] {
                if let Ok(message) = Compressed::from_bytes(&bytes, dimension) {
                    prop_assert_eq!(message.dimension(), dimension);
                    prop_assert_eq!(message.values().len(), dimension);
                    prop_assert!(message.values().iter().all(|v| v.is_finite()));
                    // One message has one form.
                    prop_assert_eq!(message.to_bytes(), bytes.clone());
                }
            }
        }
    }

    #[test]
    fn the_format_is_what_it_says() {
        // Two of five elements: indices of three bits, 1 and 3, packed as 0b011_001.
        let bytes = message(&TopK::new(2).unwrap(), &[0.0, 2.0, 0.0, -1.0, 0.5]).to_bytes();
        let mut expected = vec![1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        // 6 bits of indices, then 2.0 = 0x40000000 and −1.0 = 0xbf800000, shifted by six.
        let payload = 0b01_1001_u128 | 0x4000_0000 << 6 | 0xbf80_0000 << 38;
        expected.extend(&payload.to_le_bytes()[..9]);
        assert_eq!(bytes, expected);
        // ±1 are 127 in the exponent: 0b0_0111_1111 and 0b1_0111_1111.
        let bytes = message(&Natural, &[1.0, -1.0]).to_bytes();
        assert_eq!(bytes[18..], [0x7f, 0xfe, 0x02]);
    }

    #[test]
    fn damages_are_named() {
        let good = message(&TopK::new(2).unwrap(), &[0.0, 2.0, 0.0, -1.0, 0.5]).to_bytes();
        let changed = |place: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[place] = byte;
            Compressed::from_bytes(&bytes, 5).unwrap_err()
        };
        assert_eq!(changed(0, 2), WireError::Version(2));
        assert_eq!(changed(1, 5), WireError::Kind(5, 4));
        assert!(matches!(
            changed(2, 6),
            WireError::Dimension { found: 6, .. }
        ));
        assert_eq!(
            changed(10, 6).to_string(),
            "the number of elements of the message is 6, but it must be from 1 to 5"
        );
        assert!(matches!(
            changed(10, 1),
            WireError::Length {
                expected: 23,
                found: 27
            }
        ));
        // Indices 6 and 1, then 3 and 3.
        for (byte, reason) in [(0b01_1110, "outside"), (0b01_1011, "not rise")] {
            let error = changed(18, byte).to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert_eq!(changed(26, good[26] | 0x80), WireError::Padding);
        assert!(matches!(
            Compressed::from_bytes(&good[..10], 5).unwrap_err(),
            WireError::Length {
                expected: 18,
                found: 10
            }
        ));
    }

    /// A header that promises 2⁶⁰ elements is refused without room for them.
    #[test]
    fn promises_allocate_nothing() {
        for kind in 0..5 {
            let header = Header {
                kind,
                dimension: 1 << 60,
                count: if kind == 0 || kind == 2 { 1 << 20 } else { 0 },
            };
            let refused = Compressed::from_bytes(&header.write(), 1 << 60).unwrap_err();
            assert!(matches!(refused, WireError::Length { .. }), "{refused}");
        }
    }
}
