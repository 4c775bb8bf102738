//! The meaning of a picture's numbers: samples for a screen, or light.
//!
//! A photograph's samples are made for a screen: they lie in `[0, 1]` and increase roughly as the eye
//! perceives brightness. A picture for lighting (Radiance HDR, OpenEXR) contains light itself, without an
//! upper end: the sun is ten thousand times as bright as the wall that it shines on.

use crate::Raster;
use crate::tone_map::{GAMMA, white};

/// What the samples of a picture measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Light {
    /// Samples for a screen, nominally in `[0, 1]`, taken as sRGB unless a profile says otherwise.
    #[default]
    Display,
    /// Linear light, where 1 is about white; values above 1 are brighter.
    Linear,
}

/// Converts a picture of linear light to samples in `[0, 1]` for a network, and back.
///
/// Below the picture's white `w` (the 95th percentile of luminance, as in [`tone_map`](crate::tone_map)) this
/// is the curve of a screen. Above it is a logarithm, which joins the curve with the same value and slope:
///
/// ```text
/// f(x) = (x/w)^(1/γ)           0 ≤ x ≤ w
///        1 + ln(x/w)/γ         x > w                  γ = 2.2
/// f(−x) = −f(x)
/// t = (f(x) − f(a)) / (max(f(b), 1) − f(a))           a = min(least sample, 0), b = greatest sample
/// ```
///
/// So an error in `t` is about the same relative error in every bright region, and nothing is cut off.
///
/// ```
/// use nabla_data::{Raster, ToneCurve};
/// let light = Raster::new(1, 1, 4, vec![0.0, 0.25, 1.0, 30_000.0])?;
/// let curve = ToneCurve::of(&light);
/// let samples = curve.encode(light.clone());
/// assert_eq!((samples.data()[0], samples.data()[3]), (0.0, 1.0));
/// for (back, light) in curve.decode(samples).data().iter().zip(light.data()) {
///     assert!((back - light).abs() <= 1e-5 * light);
/// }
/// # Ok::<(), nabla_data::RasterSizeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ToneCurve {
    white: f64,
    /// `f(a)` and `max(f(b), 1)`.
    ends: [f64; 2],
}

impl ToneCurve {
    /// The curve that fits `linear`, `[1 or 3, height, width]` of finite samples.
    pub fn of(linear: &Raster) -> Self {
        let white = match white(linear) {
            white if white > 0.0 => white,
            _ => 1.0,
        };
        let samples = linear.data().iter();
        let (low, high) = samples.fold((0.0f32, 0.0f32), |(a, b), &v| (a.min(v), b.max(v)));
        let mut curve = Self {
            white,
            ends: [0.0, 1.0],
        };
        curve.ends = [
            curve.bend(f64::from(low)),
            curve.bend(f64::from(high)).max(1.0),
        ];
        curve
    }

    /// The luminance of white, where the logarithm begins.
    pub fn white(&self) -> f64 {
        self.white
    }

    fn bend(&self, x: f64) -> f64 {
        let share = x.abs() / self.white;
        let bent = if share <= 1.0 {
            share.powf(1.0 / GAMMA)
        } else {
            1.0 + share.ln() / GAMMA
        };
        bent.copysign(x)
    }

    fn unbend(&self, f: f64) -> f64 {
        let share = if f.abs() <= 1.0 {
            f.abs().powf(GAMMA)
        } else {
            (GAMMA * (f.abs() - 1.0)).exp()
        };
        (share * self.white).copysign(f)
    }

    /// Converts linear light of any shape to samples.
    #[must_use]
    pub fn encode(&self, linear: Raster) -> Raster {
        let [low, high] = self.ends;
        linear.map(|x| ((self.bend(f64::from(x)) - low) / (high - low)) as f32)
    }

    /// Converts samples of any shape to linear light; samples beyond `[0, 1]` follow the continued curve.
    #[must_use]
    pub fn decode(&self, samples: Raster) -> Raster {
        let [low, high] = self.ends;
        samples.map(|t| {
            let x = self.unbend(low + (high - low) * f64::from(t));
            x.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
        })
    }
}

/// Converts samples for a screen to linear light, by the curve of sRGB (IEC 61966-2-1).
pub(crate) fn srgb_to_linear(v: f32) -> f32 {
    let linear = |v: f32| {
        if v <= 0.040_45 {
            v / 12.92
        } else {
            ((v + 0.055) / 1.055).powf(2.4)
        }
    };
    linear(v.abs()).copysign(v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_is_smooth_at_white_and_odd_at_black() {
        let linear = Raster::new(1, 1, 2, vec![3.0, 3.0]).unwrap();
        let curve = ToneCurve::of(&linear);
        let slope = |x: f64| (curve.bend(x + 1e-6) - curve.bend(x - 1e-6)) / 2e-6;
        let (below, above) = (slope(3.0 - 1e-4), slope(3.0 + 1e-4));
        assert!((below / above - 1.0).abs() < 1e-3, "{below} {above}");
        assert_eq!(curve.bend(-2.0), -curve.bend(2.0));
        for x in [-5.0, -0.3, 0.0, 1e-6, 0.7, 3.0, 1e4] {
            assert!((curve.unbend(curve.bend(x)) - x).abs() <= 1e-12 * x.abs());
        }
    }

    #[test]
    fn samples_stay_between_0_and_1_and_a_dark_picture_is_not_stretched() {
        let odd = Raster::new(1, 1, 4, vec![-0.5, 0.1, 40.0, 1.0]).unwrap();
        let shown = ToneCurve::of(&odd).encode(odd);
        assert_eq!((shown.data()[0], shown.data()[2]), (0.0, 1.0));
        let black = Raster::zeros(3, 2, 2);
        let curve = ToneCurve::of(&black);
        assert_eq!(curve.encode(black.clone()), black);
        assert_eq!(curve.decode(black.clone()), black);
    }

    #[test]
    fn srgb_has_its_published_values() {
        // colour-science 0.4: eotf_sRGB.
        for (v, linear) in [
            (0.5, 0.214_041_14),
            (0.04, 0.003_095_975),
            (1.0, 1.0),
            (0.0, 0.0),
        ] {
            assert!((srgb_to_linear(v) - linear).abs() < 1e-7, "{v}");
        }
    }
}
