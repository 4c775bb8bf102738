//! Conversion of linear radiance to display-referred samples, the same for every panorama of the repository.
//!
//! `L = 0.2126 R + 0.7152 G + 0.0722 B`, `out = clamp(rgb / percentile_95(L), 0, 1) ^ (1 / 2.2)`.
//! The percentile interpolates linearly between the two nearest pixels, and counts each pixel of
//! the picture once.

use crate::Raster;

/// The percentile of luminance that is mapped to white.
const WHITE_PERCENTILE: f64 = 0.95;
/// The exponent of the display.
pub(crate) const GAMMA: f64 = 2.2;

/// Tone-maps a picture of linear light, `[1 or 3, height, width]`, to `[0, 1]`.
///
/// Negative samples and NaNs become black, infinite samples white. A picture that is black everywhere stays
/// black.
///
/// ```
/// use nabla_data::{Raster, tone_map};
/// let linear = Raster::new(1, 1, 3, vec![-1.0, 0.5, 1.0])?;
/// let shown = tone_map(&linear);
/// assert_eq!(shown.data()[0], 0.0);
/// assert_eq!(shown.data()[2], 1.0);
/// # Ok::<(), nabla_data::RasterSizeError>(())
/// ```
#[must_use]
pub fn tone_map(linear: &Raster) -> Raster {
    if linear.channels() == 0 {
        return linear.clone();
    }
    let white = white(linear);
    linear.clone().map(|v| {
        if white > 0.0 {
            (clean(v) / white).min(1.0).powf(1.0 / GAMMA) as f32
        } else {
            0.0
        }
    })
}

fn clean(v: f32) -> f64 {
    if v > 0.0 {
        f64::from(v.min(f32::MAX))
    } else {
        0.0
    }
}

/// The luminance of `[1 or 3, height, width]` that becomes white.
pub(crate) fn white(linear: &Raster) -> f64 {
    let [channels, height, width] = linear.shape();
    let mut luminance: Vec<f64> = match channels {
        3 => (0..height * width)
            .map(|i| {
                0.2126 * clean(linear.plane(0)[i])
                    + 0.7152 * clean(linear.plane(1)[i])
                    + 0.0722 * clean(linear.plane(2)[i])
            })
            .collect(),
        0 => Vec::new(),
        _ => linear.plane(0).iter().map(|&v| clean(v)).collect(),
    };
    percentile(&mut luminance, WHITE_PERCENTILE)
}

/// The value below which the fraction `p` of `values` lies, with linear interpolation; 0 if there are none.
fn percentile(values: &mut [f64], p: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let at = p * (values.len() - 1) as f64;
    let (_, &mut low, above) = values.select_nth_unstable_by(at as usize, f64::total_cmp);
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_numpys() {
        // numpy.percentile([3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [95, 50])
        let mut v = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0];
        assert!((percentile(&mut v, 0.95) - 7.65).abs() < 1e-12);
        assert!((percentile(&mut v, 0.5) - 3.5).abs() < 1e-12);
        assert_eq!(percentile(&mut [], 0.5), 0.0);
        assert_eq!(percentile(&mut [2.0], 0.95), 2.0);
    }

    #[test]
    fn grey_ramp_follows_the_formula() {
        let ramp = Raster::from_fn(3, 1, 101, |_, _, x| x as f32);
        let shown = tone_map(&ramp);
        for x in 0..101 {
            let expected = (x as f64 / 95.0).min(1.0).powf(1.0 / 2.2) as f32;
            assert!((shown.get(1, 0, x) - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn odd_samples_stay_in_range() {
        let odd = Raster::new(1, 1, 4, vec![f32::NAN, f32::INFINITY, -3.0, 1.0]).unwrap();
        let shown = tone_map(&odd);
        assert!(shown.data().iter().all(|v| (0.0..=1.0).contains(v)));
        assert_eq!(shown.data()[..3], [0.0, 1.0, 0.0]);
        assert_eq!(tone_map(&Raster::zeros(3, 2, 2)), Raster::zeros(3, 2, 2));
    }
}
