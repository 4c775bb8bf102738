//! The planes that see a pixel of the panorama, and their weights.

use nabla_base::range;
use wide::{f32x8, i32x8};

use super::{Blend, TangentError};
use crate::resample::{FRACTION_BITS, Interpolation, ONE};

/// PyTorch's bicubic, which enlarges before projection in the published code.
pub(super) const OFFICIAL_CUBIC: Interpolation = Interpolation::BICUBIC_SHARP;

pub(super) enum Window {
    Nothing,
    Within(f64),
    All,
}

/// The part of a panorama row that a plane sees: the columns, their positions in the plane, and their weights.
#[derive(Default)]
pub(super) struct Sightings {
    pub(super) columns: Vec<u32>,
    pub(super) positions: Vec<[i32; 2]>,
    pub(super) weights: Vec<f32>,
    pub(super) len: usize,
}

impl Sightings {
    /// Clears everything, and reserves space for `width` columns.
    pub(super) fn clear(&mut self, width: usize) {
        // One more, because unseen pixels are also written before they are skipped.
        self.columns.resize(width + 1, 0);
        self.positions.resize(width + 1, [0; 2]);
        self.weights.resize(width + 1, 0.0);
        self.len = 0;
    }

    pub(super) fn columns(&self) -> &[u32] {
        &self.columns[..self.len]
    }

    pub(super) fn positions(&self) -> &[[i32; 2]] {
        &self.positions[..self.len]
    }

    pub(super) fn weights(&self) -> &[f32] {
        &self.weights[..self.len]
    }
}

/// Finds the columns of a row that a plane sees, in a single function so that the compiler can vectorise it.
pub(super) struct Scan<'a> {
    /// Sine and cosine of the longitude from the centre of the plane.
    pub(super) turns: &'a [[f32; 2]],
    /// The column of the first of them.
    pub(super) first: usize,
    /// `k = k[0] + k[1] cos`, `u k = x sin` and `v k = y[0] + y[1] cos`.
    pub(super) k: [f32; 2],
    pub(super) x: f32,
    pub(super) y: [f32; 2],
    /// Positions are `centre + half u` and `centre - half v`.
    pub(super) half: f32,
    pub(super) centre: f32,
    pub(super) weight: Weight,
    pub(super) out: &'a mut Sightings,
}

impl pulp::WithSimd for Scan<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Sightings {
            columns,
            positions,
            weights,
            len,
        } = self.out;
        let one = f32x8::splat(1.0);
        let mut column = self.first as u32;
        for turns in self.turns.chunks(8) {
            let (mut sin, mut cos) = ([0f32; 8], [0f32; 8]);
            for (i, turn) in turns.iter().enumerate() {
                [sin[i], cos[i]] = *turn;
            }
            let (sin, cos) = (f32x8::new(sin), f32x8::new(cos));
            let k = f32x8::splat(self.k[0]) + f32x8::splat(self.k[1]) * cos;
            let x = f32x8::splat(self.x) * sin;
            let y = f32x8::splat(self.y[0]) + f32x8::splat(self.y[1]) * cos;
            // |u| <= 1 and |v| <= 1, before the division; a pixel on the border is inside.
            let border = k * f32x8::splat(1.0 + 1e-6);
            let seen = k.simd_gt(f32x8::ZERO) & x.abs().simd_le(border) & y.abs().simd_le(border);
            let mut seen = seen.to_bitmask();
            if seen == 0 {
                column += 8;
                continue;
            }
            let inverse = one / k;
            let (u, v) = (x * inverse, y * inverse);
            let px = to_fixed(f32x8::splat(self.centre) + f32x8::splat(self.half) * u);
            let py = to_fixed(f32x8::splat(self.centre) - f32x8::splat(self.half) * v);
            let own = match self.weight {
                Weight::Gaussian { exponent } => exp2((u * u + v * v) * f32x8::splat(exponent)),
                Weight::Feather => ((one - u.abs()) * (one - v.abs())).max(f32x8::splat(1e-6)),
                Weight::Uniform => one,
            };
            let (px, py, own) = (px.to_array(), py.to_array(), own.to_array());
            // Unseen pixels are also written, and skipped by not advancing.
            for i in 0..turns.len() {
                columns[*len] = column;
                positions[*len] = [px[i], py[i]];
                weights[*len] = own[i];
                *len += (seen & 1) as usize;
                seen >>= 1;
                column += 1;
            }
        }
    }
}

/// Coordinates in pixels, below 2^15 in size, in fixed point.
#[inline(always)]
fn to_fixed(coordinates: f32x8) -> i32x8 {
    let whole = coordinates.fast_round_int();
    let rest = (coordinates - f32x8::from_i32x8(whole)) * f32x8::splat(ONE as f32);
    (whole << FRACTION_BITS) + rest.fast_round_int()
}

/// `2^x`, not less than 2^-100, for `x <= 0`; the error is below 1e-6 of the value.
#[inline(always)]
pub(super) fn exp2(x: f32x8) -> f32x8 {
    let x = x.max(f32x8::splat(-100.0));
    let whole = x.fast_round_int();
    let t = (x - f32x8::from_i32x8(whole)) * f32x8::splat(std::f32::consts::LN_2);
    // The series of exp, on half a binary digit to either side.
    let mut series = f32x8::splat(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * t + f32x8::splat(c);
    }
    // The exponent of a float stands above its 23 digits.
    let power: i32x8 = (whole + i32x8::splat(127)) << 23u32;
    series * f32x8::new(power.to_array().map(|bits| f32::from_bits(bits as u32)))
}

/// Blending weights by plane coordinates; they are positive everywhere, so that a pixel seen only in the
/// corner of one plane has a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Weight {
    /// `2^(exponent (u² + v²))`.
    Gaussian {
        exponent: f32,
    },
    Feather,
    Uniform,
}

impl Weight {
    pub(super) fn new(blend: Blend) -> Result<Self, TangentError> {
        match blend {
            // exp(−d²/(2 variance)) with d² = (u² + v²)/4.
            Blend::Gaussian { variance } => {
                let fits = variance > 0.0 && variance.is_finite();
                let name = "variance of the blending weights";
                range::check(fits, name, variance, "positive and finite")?;
                Ok(Self::Gaussian {
                    exponent: -std::f32::consts::LOG2_E / (8.0 * variance),
                })
            }
            Blend::Feather => Ok(Self::Feather),
            Blend::Uniform => Ok(Self::Uniform),
        }
    }
}
