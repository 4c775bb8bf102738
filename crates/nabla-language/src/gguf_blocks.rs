//! The number formats of GGUF files, widened to single precision.
//!
//! Numbers lie in blocks of 32 or 256, each with its own scale `d` (and minimum `m`) in half precision:
//!
//! ```text
//! Q4_0, Q5_0, Q8_0     x = d (q − 8), d (q − 16), d q
//! Q4_1, Q5_1           x = d q + m
//! Q4_K, Q5_K           x = d s q − m t          s, t: six bits for every 32 numbers
//! Q6_K                 x = d s (q − 32)         s: eight bits for every 16 numbers
//! ```
//!
//! The formats are those of [ggml](https://github.com/ggml-org/ggml), whose own Python package gave the values of the tests.

use half::{bf16, f16};

/// A number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// Double precision.
    F64,
    /// Four bits, a scale for 32 numbers.
    Q4_0,
    /// Four bits, a scale and a minimum for 32 numbers.
    Q4_1,
    /// Five bits, a scale for 32 numbers.
    Q5_0,
    /// Five bits, a scale and a minimum for 32 numbers.
    Q5_1,
    /// Eight bits, a scale for 32 numbers.
    Q8_0,
    /// Four bits, in super-blocks of 256 numbers.
    Q4K,
    /// Five bits, in super-blocks of 256 numbers.
    Q5K,
    /// Six bits, in super-blocks of 256 numbers.
    Q6K,
}

impl BlockType {
    /// By its number in files; none if it isn't known here.
    pub fn of(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            28 => Self::F64,
            30 => Self::BF16,
            _ => return None,
        })
    }

    /// Numbers of a block.
    pub fn numbers(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::F64 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::F64 => 8,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// The numbers of whole blocks; bytes behind the last one are left out.
    pub fn widen(self, bytes: &[u8]) -> Vec<f32> {
        let mut out = Vec::with_capacity(bytes.len() / self.bytes() * self.numbers());
        for block in bytes.chunks_exact(self.bytes()) {
            self.widen_block(block, &mut out);
        }
        out
    }

    fn widen_block(self, block: &[u8], out: &mut Vec<f32>) {
        let nibbles = |q: &[u8], out: &mut Vec<f32>, value: &dyn Fn(usize, u8) -> f32| {
            out.extend(q.iter().enumerate().map(|(i, q)| value(i, q & 15)));
            out.extend(q.iter().enumerate().map(|(i, q)| value(i + 16, q >> 4)));
        };
        match self {
            Self::F32 => out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]])),
            Self::F16 => out.push(half_at(block, 0)),
            Self::BF16 => out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
            Self::F64 => {
                let mut eight = [0; 8];
                eight.copy_from_slice(block);
                out.push(f64::from_le_bytes(eight) as f32);
            }
            Self::Q4_0 => {
                let d = half_at(block, 0);
                nibbles(&block[2..], out, &|_, q| (f32::from(q) - 8.0) * d);
            }
            Self::Q4_1 => {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                nibbles(&block[4..], out, &|_, q| f32::from(q) * d + m);
            }
            Self::Q5_0 => {
                let (d, high) = (half_at(block, 0), bits_at(block, 2));
                let fifth = |i: usize| f32::from((high >> i & 1) as u8 * 16);
                nibbles(&block[6..], out, &|i, q| {
                    (f32::from(q) + fifth(i) - 16.0) * d
                });
            }
            Self::Q5_1 => {
                let (d, m, high) = (half_at(block, 0), half_at(block, 2), bits_at(block, 4));
                let fifth = |i: usize| f32::from((high >> i & 1) as u8 * 16);
                nibbles(&block[8..], out, &|i, q| (f32::from(q) + fifth(i)) * d + m);
            }
            Self::Q8_0 => {
                let d = half_at(block, 0);
                out.extend(block[2..].iter().map(|&q| f32::from(q as i8) * d));
            }
            Self::Q4K => {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                for (part, q) in block[16..].chunks_exact(32).enumerate() {
                    for (upper, shift) in [0, 4].into_iter().enumerate() {
                        let (scale, least) = six_bits(&block[4..16], 2 * part + upper);
                        let (d, m) = (d * f32::from(scale), m * f32::from(least));
                        out.extend(q.iter().map(|q| d * f32::from(q >> shift & 15) - m));
                    }
                }
            }
            Self::Q5K => {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                let high = &block[16..48];
                for (part, q) in block[48..].chunks_exact(32).enumerate() {
                    for (upper, shift) in [0, 4].into_iter().enumerate() {
                        let place = 2 * part + upper;
                        let (scale, least) = six_bits(&block[4..16], place);
                        let (d, m) = (d * f32::from(scale), m * f32::from(least));
                        out.extend(q.iter().zip(high).map(|(q, high)| {
                            d * f32::from((q >> shift & 15) + (high >> place & 1) * 16) - m
                        }));
                    }
                }
            }
            Self::Q6K => {
                let (low, rest) = block.split_at(128);
                let (high, rest) = rest.split_at(64);
                let (scales, d) = (&rest[..16], half_at(rest, 16));
                for half in 0..2 {
                    let (low, high) = (&low[64 * half..][..64], &high[32 * half..][..32]);
                    for quarter in 0..4 {
                        for l in 0..32 {
                            let four = low[l + 32 * (quarter % 2)] >> (4 * (quarter / 2)) & 15;
                            let two = high[l] >> (2 * quarter) & 3;
                            let scale = scales[8 * half + 2 * quarter + l / 16] as i8;
                            let q = f32::from(four | two << 4) - 32.0;
                            out.push(d * f32::from(scale) * q);
                        }
                    }
                }
            }
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn bits_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// The scale and the minimum number `place` of eight, which are packed as six bits each in twelve bytes.
fn six_bits(packed: &[u8], place: usize) -> (u8, u8) {
    match place {
        0..4 => (packed[place] & 63, packed[place + 4] & 63),
        _ => (
            packed[place + 4] & 15 | packed[place - 4] >> 6 << 4,
            packed[place + 4] >> 4 | packed[place] >> 6 << 4,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Blocks of random bytes, and what ggml's Python package makes of them.
    #[test]
    fn numbers_are_those_of_ggml() {
        let text = include_str!("../tests/reference/gguf_blocks.json");
        let reference: Value = serde_json::from_str(text).unwrap();
        for case in reference.as_array().unwrap() {
            let kind = BlockType::of(case["type"].as_u64().unwrap() as u32).unwrap();
            let bytes: Vec<u8> = case["bytes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|b| b.as_u64().unwrap() as u8)
                .collect();
            let found = kind.widen(&bytes);
            let expected = case["values"].as_array().unwrap();
            assert_eq!(found.len(), expected.len(), "{kind:?}");
            for (found, expected) in found.iter().zip(expected) {
                let expected = expected.as_f64().unwrap() as f32;
                let near = (found - expected).abs() <= 1e-6 * expected.abs();
                assert!(near, "{kind:?}: {found} {expected}");
            }
        }
        assert_eq!(reference.as_array().unwrap().len(), 10);
    }

    #[test]
    fn half_a_block_is_left_out() {
        assert_eq!(BlockType::Q8_0.widen(&[0; 33]), Vec::<f32>::new());
        assert_eq!(BlockType::F32.widen(&[0, 0, 128, 63, 1]), [1.0]);
        assert_eq!(BlockType::F64.widen(&2.5_f64.to_le_bytes()), [2.5]);
        assert_eq!(BlockType::of(10), None);
    }
}
