//! Super-resolution of linear light with a prior for pictures on a screen, and its limits.
//!
//! Light `L` has no upper limit, but a prior works on samples in `[0, 1]`. [OmniSSR](crate::omnissr)
//! therefore works on the light converted by a [`ToneCurve`] `f`, which is a screen's curve up to the
//! picture's white `w` and a logarithm above:
//!
//! ```text
//! E = f⁻¹(OmniSSR(f(L)))
//! ```
//!
//! Above white, the prior has not been trained, and the assumption that the picture was reduced by a linear
//! filter of its samples is wrong: sensors and renderers average light, and where the sun is next to the sky,
//! no curve turns an average of light into an average of samples. Enforcing the assumption draws rings around
//! lamps. So towards white, `E` is replaced by the interpolation of the logarithm, whose rings are
//! proportional to the surroundings of the lamp, not to the lamp:
//!
//! ```text
//! ln Ẽ = (1 − m) ln E + m · bicubic(ln L)
//! m = smoothstep(ln(M/aw) / ln(b/a)),   M the greatest sample of the 3 × 3 pixels around,  a = 0.35, b = 0.7
//! ```
//!
//! The errors of both on ten panoramas are measured by
//! `crates/nabla-cli/tests/reference/check_upscaled.py --light`.

use std::ops::ControlFlow;

use nabla_data::{Raster, ToneCurve};

use crate::omnissr::{OmniSsr, OmniSsrError, OmniSsrOutput, OmniSsrStep, TangentPrior};
use crate::{ErpArea, Interpolation};

/// Where the interpolation starts and where it is used alone, as shares of white.
const FADE: [f32; 2] = [0.35, 0.7];
/// The constant added to light before taking the logarithm, as a share of white: next to a lamp, it must not
/// matter how dark black is.
const FLOOR: f32 = 1e-3;

impl<P: TangentPrior> OmniSsr<P> {
    /// Enlarges linear light, `[3, h, w]` of finite samples, like [`run`](Self::run) does for samples for a
    /// screen; `spread` and `inconsistency` are measured after the tone curve.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use burn::tensor::Device;
    /// use nabla_data::Raster;
    /// use nabla_diffusion::prior::SuperResolutionPrior;
    /// use nabla_panorama::{Erp, OmniSsrConfig};
    ///
    /// // A sun of 500 times white.
    /// let low = Raster::from_fn(3, 16, 32, |_, y, x| if (y, x) == (5, 9) { 500.0 } else { 0.5 });
    /// let prior = SuperResolutionPrior::embedded(&Device::flex())?;
    /// let config = OmniSsrConfig { steps: Some(1), ..OmniSsrConfig::new(2) };
    /// let omnissr = config.init(&prior, Erp::of(&low)?)?;
    /// let high = omnissr.run_light(&low, &mut |_| ControlFlow::Continue(()))?.panorama;
    /// assert!(high.get(0, 10, 18) > 50.0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_light(
        &self,
        low: &Raster,
        observe: &mut dyn FnMut(OmniSsrStep) -> ControlFlow<()>,
    ) -> Result<OmniSsrOutput, OmniSsrError> {
        self.check(low)?;
        let curve = ToneCurve::of(low);
        let output = self.run(&curve.encode(low.clone()), observe)?;
        let mut light = curve.decode(output.panorama);
        let white = curve.white() as f32;
        let floor = FLOOR * white;
        let scale = self.operator().scale();
        let area = self.low();
        let logarithm = low.clone().map(|v| (v.max(0.0) + floor).ln());
        let logarithm = area.resize(&logarithm, scale, Interpolation::BICUBIC)?;
        let share = area.resize(
            &interpolated(low, &area, white),
            scale,
            Interpolation::Bilinear,
        )?;
        for channel in 0..light.channels() {
            let smooth = logarithm.plane(channel).iter().zip(share.data());
            for (value, (smooth, &share)) in light.plane_mut(channel).iter_mut().zip(smooth) {
                if share > 0.0 {
                    let own = (value.max(0.0) + floor).ln();
                    let mixed = ((1.0 - share) * own + share * smooth).exp();
                    *value = (mixed - floor).max(0.0);
                }
            }
        }
        Ok(OmniSsrOutput {
            panorama: light,
            ..output
        })
    }
}

/// `m`, `[1, h, w]`.
fn interpolated(low: &Raster, area: &ErpArea, white: f32) -> Raster {
    let [channels, height, width] = low.shape();
    let brightest = Raster::from_fn(1, height, width, |_, y, x| {
        (0..channels).fold(0.0f32, |most, c| most.max(low.get(c, y, x)))
    });
    let column = |x: i64| match area.is_full_circle() {
        true => x.rem_euclid(width as i64) as usize,
        false => x.clamp(0, width as i64 - 1) as usize,
    };
    Raster::from_fn(1, height, width, |_, y, x| {
        let rows = y.saturating_sub(1)..(y + 2).min(height);
        let around = rows.flat_map(|y| (-1..=1).map(move |d| (y, d)));
        let most = around.fold(0.0f32, |most, (y, d)| {
            most.max(brightest.get(0, y, column(x as i64 + d)))
        });
        let [begin, end] = FADE;
        let t = (most / (begin * white)).ln() / (end / begin).ln();
        let t = t.clamp(0.0, 1.0);
        t * t * (3.0 - 2.0 * t)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Erp, OmniSsrConfig};
    use burn::tensor::Device;
    use nabla_diffusion::prior::SuperResolutionPrior;

    fn go(_: OmniSsrStep) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Dim waves, and a sun of 1000 times their brightness on the meridian.
    fn sky() -> Raster {
        Raster::from_fn(3, 16, 32, |c, y, x| {
            let sun = (4..6).contains(&y) && (x == 31 || x == 0);
            let wave = 0.4 + 0.2 * (0.7 * x as f32 + c as f32).sin() * (0.5 * y as f32).cos();
            if sun { 400.0 } else { wave }
        })
    }

    #[test]
    fn a_sun_is_interpolated_in_its_logarithm_also_over_the_meridian() {
        let low = sky();
        let prior = SuperResolutionPrior::embedded(&Device::flex()).unwrap();
        let config = OmniSsrConfig {
            steps: Some(2),
            ..OmniSsrConfig::new(2)
        };
        let omnissr = config.init(&prior, Erp::of(&low).unwrap()).unwrap();
        let high = omnissr.run_light(&low, &mut go).unwrap().panorama;
        // The surroundings of the sun are those of the interpolated logarithm, without a trace of the sun.
        let floor = FLOOR * ToneCurve::of(&low).white() as f32;
        let logarithm = low.clone().map(|v| (v + floor).ln());
        let smooth = crate::resize_erp(&logarithm, 32, Interpolation::BICUBIC).unwrap();
        for row in 8..12 {
            for column in [62, 63, 0, 1] {
                let expected = smooth.get(1, row, column).exp() - floor;
                let found = high.get(1, row, column);
                assert!((found / expected - 1.0).abs() < 1e-3, "{found} {expected}");
            }
        }
        assert!(high.data().iter().all(|&v| v >= 0.0));
        for column in [0, 63] {
            let sun = high.get(0, 9, column);
            assert!(sun > 200.0, "{column}: {sun}");
        }
        // Where everything is dim, everything comes from the prior.
        let dim = low.map(|v| v.min(0.6));
        let curve = ToneCurve::of(&dim);
        let quiet = interpolated(&dim, &omnissr.low(), 2.0);
        assert!(quiet.data().iter().all(|&m| m == 0.0));
        assert!((curve.white() - 0.6).abs() < 0.1);
    }

    #[test]
    fn the_share_grows_from_its_beginning_to_its_end() {
        let low = Raster::from_fn(3, 3, 6, |_, _, x| if x < 3 { 0.3 } else { 0.8 });
        let area = ErpArea::full(Erp::new(3, 6).unwrap());
        let share = interpolated(&low, &area, 1.0);
        // Column 2 has a bright neighbour, column 0 has one around the meridian.
        assert_eq!(
            (0..6).map(|x| share.get(0, 1, x)).collect::<Vec<_>>(),
            [1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
        );
        let between = low.map(|_| (0.35f32 * 0.7).sqrt());
        let share = interpolated(&between, &area, 1.0);
        assert!((share.get(0, 1, 1) - 0.5).abs() < 1e-5);
    }
}
