//! Gauss's blur as Pillow approximates it: three averages over boxes whose outer pixels count in part.
//!
//! ```text
//! s² = deviation²/3,   l = ⌊(√(12 s² + 1) − 1)/2⌋,   a = (2l + 1)(l (l + 1) − 3 s²)/(6 (s² − (l + 1)²))
//! x' = (Σ_{|d| ≤ l} x_d + a (x_{−l−1} + x_{l+1}))/(2 (l + a) + 1)
//! ```
//!
//! Source: Gwosdek, Grewenig, Bruhn, Weickert, *Theoretical Foundations of Gaussian Convolution by Extended Box
//! Filtering*, 2011, by which Pillow's `GaussianBlur` works.

use burn::config::Config;
use nabla_base::range;

use super::{FilterError, PixelFilter, Pixels};

/// A blur of this standard deviation; beyond the border, the nearest pixel counts.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct GaussianBlur {
    /// In pixels, at least 0. Default 2.
    #[config(default = 2.0)]
    pub deviation: f64,
}

/// The averages of one direction.
const PASSES: usize = 3;

impl PixelFilter for GaussianBlur {
    fn apply(&self, picture: Pixels, _: Option<&Pixels>) -> Result<Pixels, FilterError> {
        range::not_negative("deviation of the blur", self.deviation)?;
        let variance = self.deviation * self.deviation / PASSES as f64;
        let whole = (((12.0 * variance + 1.0).sqrt() - 1.0) / 2.0).floor();
        let part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
            / (6.0 * (variance - (whole + 1.0).powi(2)));
        let weight = 1.0 / (2.0 * (whole + part) + 1.0);
        let reach = whole as isize;
        let average = |value: &dyn Fn(isize) -> f32| -> f32 {
            let inner: f64 = (-reach..=reach).map(|d| f64::from(value(d))).sum();
            let outer = f64::from(value(-reach - 1)) + f64::from(value(reach + 1));
            ((inner + part * outer) * weight) as f32
        };
        let mut blurred = picture;
        for _ in 0..PASSES {
            blurred = blurred.map_pixels(|from, c, y, x| {
                average(&|d| from.nearest(c, y as isize, x as isize + d))
            });
        }
        for _ in 0..PASSES {
            blurred = blurred.map_pixels(|from, c, y, x| {
                average(&|d| from.nearest(c, y as isize + d, x as isize))
            });
        }
        Ok(blurred)
    }
}
