//! Colour correction of a generated picture by the colours of its source picture.
//!
//! Diffusion models shift colours. StableSR, and with it OmniSSR, corrects the result `x` (the
//! *content*) by the enlarged low-resolution picture `y` (the *style*) in one of two ways:
//!
//! * **AdaIN**: each channel gets the mean and standard deviation that it has in `y`,
//!   `x̃ = (x − μ_x)/σ_x · σ_y + μ_y` with `σ = √(var + 10⁻⁵)` and the sample variance
//!   (`n − 1`). OmniSSR's default.
//! * **Wavelet**: `x̃ = high(x) + low(y)`. `low` is the last of five à trous blurs with the kernel `[1 2 1]/4
//!   ⊗ [1 2 1]/4` and holes of 1, 2, 4, 8, 16 samples, edges replicated, and `high(x)` is the sum of what
//!   each blur removed. So `high(x) = x − low(x)` and, because the blur is linear, `x̃ = x + low(y − x)`: one
//!   decomposition is enough.
//!
//! Source: J. Wang, Z. Yue, S. Zhou, K. Chan, C. C. Loy, "Exploiting Diffusion Prior for Real-World
//! Image Super-Resolution" (StableSR), 2023, arXiv 2305.07015, and its `wavelet_color_fix.py`
//! by Li Yi. AdaIN: X. Huang, S. Belongie, 2017, arXiv 1703.06868. The functions work on samples
//! in `[0, 1]`, as that file does on images; nothing is clamped.

use nabla_data::Raster;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Two pictures do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ColourFixError {
    /// The pictures have different numbers of channels.
    #[error(
        "the colours of a picture of {content} channels cannot be corrected by one of {style} \
         channels"
    )]
    Channels {
        /// Channels of the picture to correct.
        content: usize,
        /// Channels of the picture that gives the colours.
        style: usize,
    },
    /// The wavelet colour fix needs pictures of the same size.
    #[error(
        "the wavelet colour fix needs pictures of the same size, but they are {} x {} and {} x {}",
        content[1], content[0], style[1], style[0]
    )]
    Size {
        /// `[height, width]` of the picture to correct.
        content: [usize; 2],
        /// `[height, width]` of the picture that gives the colours.
        style: [usize; 2],
    },
    /// The standard deviation of fewer than two pixels is not defined.
    #[error("AdaIN needs at least two pixels, but a picture is {width} x {height}")]
    TooSmall {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
}

/// The colour correction of a generated picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColourFix {
    /// None.
    None,
    /// [`adain`], the paper's choice.
    #[default]
    Adain,
    /// [`wavelet_colour_fix`].
    Wavelet,
}

impl ColourFix {
    /// `content` with the colours of `style`; both `[channels, height, width]`.
    ///
    /// # Errors
    /// As [`adain`] and [`wavelet_colour_fix`]; never for [`Self::None`].
    pub fn apply(self, content: Raster, style: &Raster) -> Result<Raster, ColourFixError> {
        match self {
            Self::None => Ok(content),
            Self::Adain => adain(content, style),
            Self::Wavelet => wavelet_colour_fix(content, style),
        }
    }
}

/// Added to variances, so that a flat picture is not divided by zero.
const EPSILON: f64 = 1e-5;

fn mean_and_deviation(samples: &[f32]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = samples.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let squares: f64 = samples.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) + EPSILON).sqrt())
}

fn check_channels(content: &Raster, style: &Raster) -> Result<(), ColourFixError> {
    if content.channels() == style.channels() {
        Ok(())
    } else {
        Err(ColourFixError::Channels {
            content: content.channels(),
            style: style.channels(),
        })
    }
}

/// Adaptive instance normalisation: `content`, `[C, H, W]`, with the mean and standard deviation
/// that each channel has in `style`, `[C, H', W']` of any size.
///
/// ```
/// use nabla_data::Raster;
/// let content = Raster::from_fn(1, 8, 8, |_, y, x| (x ^ y) as f32 / 8.0);
/// let style = Raster::from_fn(1, 4, 4, |_, y, x| 0.2 + (x + y) as f32 / 16.0);
/// let fixed = nabla_panorama::adain(content, &style)?;
/// let mean = fixed.data().iter().sum::<f32>() / 64.0;
/// assert!((mean - 0.3875).abs() < 1e-6);
/// # Ok::<(), nabla_panorama::ColourFixError>(())
/// ```
///
/// # Errors
/// If the channels differ or a picture has fewer than two pixels.
pub fn adain(mut content: Raster, style: &Raster) -> Result<Raster, ColourFixError> {
    check_channels(&content, style)?;
    for picture in [&content, style] {
        let (height, width) = (picture.height(), picture.width());
        if height * width < 2 {
            return Err(ColourFixError::TooSmall { width, height });
        }
    }
    for channel in 0..content.channels() {
        let (style_mean, style_deviation) = mean_and_deviation(style.plane(channel));
        let plane = content.plane_mut(channel);
        let (mean, deviation) = mean_and_deviation(plane);
        let gain = style_deviation / deviation;
        for v in plane {
            *v = ((f64::from(*v) - mean) * gain + style_mean) as f32;
        }
    }
    Ok(content)
}

/// Blurs of the wavelet decomposition.
const LEVELS: u32 = 5;

/// The wavelet colour fix: the fine detail of `content` on the coarse colours of `style`, both
/// `[channels, height, width]`.
///
/// ```
/// use nabla_data::Raster;
/// let content = Raster::from_fn(1, 16, 16, |_, y, x| ((x + y) % 2) as f32);
/// let style = Raster::zeros(1, 16, 16).map(|_| 0.25);
/// let fixed = nabla_panorama::wavelet_colour_fix(content, &style)?;
/// // The checks remain, around the style's brightness.
/// assert!((fixed.get(0, 8, 8) - -0.25).abs() < 1e-3 && (fixed.get(0, 8, 9) - 0.75).abs() < 1e-3);
/// # Ok::<(), nabla_panorama::ColourFixError>(())
/// ```
///
/// # Errors
/// If the shapes differ.
pub fn wavelet_colour_fix(mut content: Raster, style: &Raster) -> Result<Raster, ColourFixError> {
    check_channels(&content, style)?;
    let [channels, height, width] = content.shape();
    if [height, width] != [style.height(), style.width()] {
        return Err(ColourFixError::Size {
            content: [height, width],
            style: [style.height(), style.width()],
        });
    }
    if height == 0 || width == 0 {
        return Ok(content);
    }
    let mut scratch = vec![0.0; height * width];
    for channel in 0..channels {
        let mut low: Vec<f32> = style
            .plane(channel)
            .iter()
            .zip(content.plane(channel))
            .map(|(y, x)| y - x)
            .collect();
        for level in 0..LEVELS {
            blur(&mut low, &mut scratch, width, 1 << level);
        }
        for (x, low) in content.plane_mut(channel).iter_mut().zip(&low) {
            *x += low;
        }
    }
    Ok(content)
}

/// Convolves a plane with `[1 2 1]/4` along rows and columns, taps `hole` samples apart.
fn blur(plane: &mut [f32], scratch: &mut [f32], width: usize, hole: usize) {
    let taps = |a: f32, b: f32, c: f32| 0.25 * (a + c) + 0.5 * b;
    scratch
        .par_chunks_mut(width)
        .zip(plane.par_chunks(width))
        .for_each(|(out, row)| {
            for (i, out) in out.iter_mut().enumerate() {
                let (left, right) = (i.saturating_sub(hole), (i + hole).min(width - 1));
                *out = taps(row[left], row[i], row[right]);
            }
        });
    let scratch = &*scratch;
    let last = scratch.len() / width - 1;
    plane
        .par_chunks_mut(width)
        .enumerate()
        .for_each(|(j, out)| {
            let row = |j: usize| &scratch[j * width..(j + 1) * width];
            let (above, below) = (row(j.saturating_sub(hole)), row((j + hole).min(last)));
            for (((out, a), b), c) in out.iter_mut().zip(above).zip(row(j)).zip(below) {
                *out = taps(*a, *b, *c);
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texture(channels: usize, height: usize, width: usize, phase: f32) -> Raster {
        Raster::from_fn(channels, height, width, |c, y, x| {
            let (x, y) = (x as f32, y as f32);
            0.5 + 0.3 * (0.7 * x + c as f32 + phase).sin() * (0.4 * y).cos()
                + 0.1 * (1.9 * x * y + phase).sin()
        })
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let (rgb, grey) = (texture(3, 8, 8, 0.0), texture(1, 8, 8, 0.0));
        for fix in [ColourFix::Adain, ColourFix::Wavelet] {
            assert_eq!(
                fix.apply(rgb.clone(), &grey),
                Err(ColourFixError::Channels {
                    content: 3,
                    style: 1
                })
            );
        }
        assert_eq!(ColourFix::None.apply(rgb.clone(), &grey), Ok(rgb.clone()));
        assert!(matches!(
            wavelet_colour_fix(rgb.clone(), &texture(3, 8, 9, 0.0)),
            Err(ColourFixError::Size { .. })
        ));
        assert!(matches!(
            adain(rgb, &texture(3, 1, 1, 0.0)),
            Err(ColourFixError::TooSmall { .. })
        ));
        let empty = Raster::zeros(3, 0, 0);
        assert_eq!(wavelet_colour_fix(empty.clone(), &empty), Ok(empty.clone()));
        assert!(adain(empty.clone(), &empty).is_err());
    }

    #[test]
    fn adain_gives_the_mean_and_deviation_of_the_style() {
        let style = texture(3, 20, 30, 1.0).map(|v| 0.2 + 0.5 * v);
        let fixed = adain(texture(3, 16, 16, 2.0), &style).unwrap();
        for channel in 0..3 {
            let (mean, deviation) = mean_and_deviation(fixed.plane(channel));
            let (style_mean, style_deviation) = mean_and_deviation(style.plane(channel));
            assert!((mean - style_mean).abs() < 1e-6);
            // ε is part of both deviations, so they agree to its share of the variance.
            assert!((deviation / style_deviation - 1.0).abs() < 1e-3);
        }
    }

    #[test]
    fn a_flat_content_becomes_the_mean_of_the_style() {
        let style = texture(1, 16, 16, 1.0);
        let flat = Raster::zeros(1, 16, 16).map(|_| 0.7);
        let fixed = adain(flat, &style).unwrap();
        let (mean, _) = mean_and_deviation(style.plane(0));
        assert!(
            fixed
                .data()
                .iter()
                .all(|&v| (f64::from(v) - mean).abs() < 1e-4)
        );
    }

    #[test]
    fn a_picture_corrected_by_itself_stays() {
        let a = texture(3, 24, 40, 0.5);
        for fix in [ColourFix::Adain, ColourFix::Wavelet] {
            let b = fix.apply(a.clone(), &a).unwrap();
            for (a, b) in a.data().iter().zip(b.data()) {
                assert!((a - b).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn the_wavelet_fix_takes_away_a_tint_and_keeps_the_detail() {
        let style = texture(3, 24, 40, 0.5);
        let tinted = Raster::from_fn(3, 24, 40, |c, y, x| {
            style.get(c, y, x) + 0.1 * c as f32 - 0.05
        });
        let fixed = wavelet_colour_fix(tinted, &style).unwrap();
        for (a, b) in fixed.data().iter().zip(style.data()) {
            assert!((a - b).abs() < 1e-6);
        }
    }
}
