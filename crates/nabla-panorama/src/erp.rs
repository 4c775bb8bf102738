//! Equirectangular geometry: the direction of each pixel of a 360-degree panorama.
//!
//! An equirectangular panorama (ERP) of `H` rows and `W = 2H` columns shows the whole sphere.
//! Pixels are areas, and coordinates refer to their centres:
//!
//! * column `i` has longitude `λ = (i + ½)/W · 2π − π`, growing to the right, 0 in the middle;
//! * row `j` has latitude `φ = π/2 − (j + ½)/H · π`, growing upwards, 0 on the horizon.
//!
//! So no pixel lies on a pole or on the 180-degree meridian. Column `W` is column 0 again, and a step across
//! a pole lands on the other side: row `−1` is row 0 shifted by half a turn.
//!
//! A direction is `[x, y, z]` with `x` to the right, `y` up and `z` to the front:
//! `x = cos φ sin λ`, `y = sin φ`, `z = cos φ cos λ`.

use std::f64::consts::{FRAC_PI_2, PI};

use nabla_data::Raster;

/// A size that an equirectangular panorama cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ErpError {
    /// The picture has no pixels.
    #[error("an equirectangular panorama needs pixels, but this one is {width} x {height}")]
    Empty {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The picture is not twice as wide as high.
    #[error(
        "an equirectangular panorama must be twice as wide as high, but this one is \
         {width} x {height}"
    )]
    NotTwoToOne {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The picture is too large for the fixed-point coordinates of the resampler.
    #[error(
        "a panorama may be at most {} pixels wide, but this one is {width}",
        Erp::MAX_WIDTH
    )]
    TooLarge {
        /// Columns.
        width: usize,
    },
}

/// The size of an equirectangular panorama: `H` rows and `W = 2H` columns, neither zero.
///
/// ```
/// use nabla_panorama::Erp;
/// let erp = Erp::new(512, 1024)?;
/// assert_eq!(erp.pixel_of(0.0, 0.0), (511.5, 255.5));
/// assert!(Erp::new(512, 512).is_err());
/// # Ok::<(), nabla_panorama::ErpError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erp {
    height: usize,
}

impl Erp {
    /// The maximum width for the resampler's fixed-point coordinates.
    pub const MAX_WIDTH: usize = 32_000;

    /// Checks `height` and `width`, in pixels.
    ///
    /// # Errors
    /// If either is zero, `width != 2 * height`, or `width` is above [`Self::MAX_WIDTH`].
    pub fn new(height: usize, width: usize) -> Result<Self, ErpError> {
        if height == 0 || width == 0 {
            Err(ErpError::Empty { width, height })
        } else if height.checked_mul(2) != Some(width) {
            Err(ErpError::NotTwoToOne { width, height })
        } else if width > Self::MAX_WIDTH {
            Err(ErpError::TooLarge { width })
        } else {
            Ok(Self { height })
        }
    }

    /// The size of `panorama`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of(panorama: &Raster) -> Result<Self, ErpError> {
        Self::new(panorama.height(), panorama.width())
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns, twice the rows.
    pub fn width(&self) -> usize {
        2 * self.height
    }

    /// The longitude in radians, in `[−π, π)` inside the picture, of a column, which may be fractional.
    pub fn longitude(&self, column: f64) -> f64 {
        (column + 0.5) / self.width() as f64 * 2.0 * PI - PI
    }

    /// The latitude in radians of a row, which may be fractional; in `(−π/2, π/2)` inside the picture.
    pub fn latitude(&self, row: f64) -> f64 {
        FRAC_PI_2 - (row + 0.5) / self.height as f64 * PI
    }

    /// The `(column, row)` of a longitude and latitude in radians.
    pub fn pixel_of(&self, longitude: f64, latitude: f64) -> (f64, f64) {
        (
            (longitude + PI) / (2.0 * PI) * self.width() as f64 - 0.5,
            (FRAC_PI_2 - latitude) / PI * self.height as f64 - 0.5,
        )
    }

    /// The area of a pixel of a row, relative to the equator: `cos φ`.
    pub fn row_weight(&self, row: usize) -> f64 {
        self.latitude(row as f64).cos()
    }

    /// The pixel at `(column, row)`, which may lie outside the picture: columns wrap around, and rows beyond
    /// a pole continue on the other side.
    ///
    /// ```
    /// # use nabla_panorama::Erp;
    /// let erp = Erp::new(4, 8)?;
    /// assert_eq!(erp.wrap(8, 0), (0, 0));
    /// assert_eq!(erp.wrap(1, -1), (5, 0));
    /// assert_eq!(erp.wrap(6, 4), (2, 3));
    /// # Ok::<(), nabla_panorama::ErpError>(())
    /// ```
    pub fn wrap(&self, column: i64, row: i64) -> (usize, usize) {
        let (h, w) = (self.height as i64, self.width() as i64);
        let row = row.rem_euclid(2 * h);
        let (row, turn) = if row < h {
            (row, 0)
        } else {
            (2 * h - 1 - row, h)
        };
        ((column + turn).rem_euclid(w) as usize, row as usize)
    }
}

/// The unit direction `[x, y, z]` (right, up, front) of a longitude and latitude in radians.
pub fn direction(longitude: f64, latitude: f64) -> [f64; 3] {
    let (sin_lon, cos_lon) = longitude.sin_cos();
    let (sin_lat, cos_lat) = latitude.sin_cos();
    [cos_lat * sin_lon, sin_lat, cos_lat * cos_lon]
}

/// The longitude in `[−π, π]` and latitude in `[−π/2, π/2]`, in radians, of a direction of any
/// length but zero; both are 0 for the zero vector.
pub fn longitude_latitude([x, y, z]: [f64; 3]) -> (f64, f64) {
    (x.atan2(z), y.atan2(x.hypot(z)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_that_are_not_panoramas_are_refused() {
        assert_eq!(
            Erp::new(0, 0),
            Err(ErpError::Empty {
                width: 0,
                height: 0
            })
        );
        assert!(matches!(Erp::new(3, 7), Err(ErpError::NotTwoToOne { .. })));
        assert!(matches!(
            Erp::new(1 << 20, 1 << 21),
            Err(ErpError::TooLarge { .. })
        ));
        assert!(Erp::new(usize::MAX, 2).is_err());
        assert!(Erp::new(1, 2).is_ok());
    }

    #[test]
    fn centres_are_symmetric_about_the_meridian_and_the_horizon() {
        let erp = Erp::new(64, 128).unwrap();
        for i in 0..64 {
            let (a, b) = (erp.longitude(i as f64), erp.longitude(127.0 - i as f64));
            assert!((a + b).abs() < 1e-14);
            let (a, b) = (erp.latitude(i as f64), erp.latitude(63.0 - i as f64));
            assert!((a + b).abs() < 1e-14);
        }
        assert!((erp.longitude(0.0) + PI - PI / 128.0).abs() < 1e-14);
    }

    #[test]
    fn stepping_over_the_pole_turns_by_half() {
        let erp = Erp::new(8, 16).unwrap();
        for (column, row) in [(3, -1), (3, -2), (0, 8), (15, 9)] {
            let (c, r) = erp.wrap(column, row);
            // The latitude of row −1 is beyond π/2: its direction is that of the wrapped pixel.
            let outside = direction(erp.longitude(column as f64), erp.latitude(row as f64));
            let inside = direction(erp.longitude(c as f64), erp.latitude(r as f64));
            for (a, b) in outside.iter().zip(inside) {
                assert!((a - b).abs() < 1e-14);
            }
        }
    }

    proptest! {
        #[test]
        fn pixel_and_direction_are_inverse(c in -0.4f64..127.4, r in 0.0f64..63.0) {
            let erp = Erp::new(64, 128).unwrap();
            let d = direction(erp.longitude(c), erp.latitude(r));
            let (lon, lat) = longitude_latitude([3.0 * d[0], 3.0 * d[1], 3.0 * d[2]]);
            let (c2, r2) = erp.pixel_of(lon, lat);
            prop_assert!((c - c2).abs() < 1e-9 && (r - r2).abs() < 1e-9);
        }
    }
}
