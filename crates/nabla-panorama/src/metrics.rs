//! Metrics of a panorama against its reference: PSNR and SSIM, the same weighted by the area of each row on
//! the sphere, and errors at the two places where panoramas break, the 180-degree meridian and the poles.
//!
//! All functions take pictures `[channels, height, width]` of equal shape with samples nominally in `[0, 1]`.
//! **Nothing is clamped or rounded**: the samples are used unchanged, with a data range of 1. For pictures
//! read from 8-bit files (`v/255`), the results equal the usual ones for 8-bit samples with a data range of
//! 255. If a picture has not been written to a file yet, call [`to_8_bit`] first to get the results for its
//!      file. Samples that are not finite are refused. Sums are computed in `f64`, row by row, in the order
//!      of the rows, so the result does not depend on the number of threads.
//!
//! # Equations
//! With `d` the difference of two samples and means over all channels and pixels,
//!
//! ```text
//! PSNR    = 10 log₁₀(1 / mean d²)
//! q_j     = cos((j − H/2 + ½) π/H)                              weight of row j
//! WS-PSNR = 10 log₁₀(Σ q / Σ q d²)
//! SSIM    = mean of (2 μa μb + C₁)(2 σab + C₂) / ((μa² + μb² + C₁)(σa² + σb² + C₂))
//! WS-SSIM = Σ q SSIM / Σ q
//! ```
//!
//! The moments of SSIM are taken under a Gaussian window of 11 x 11 samples, σ = 1.5, on the valid
//! region, with `C₁ = 0.01²`, `C₂ = 0.03²` and population covariances; this is scikit-image's
//! `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)` with the
//! mean over channels.
//!
//! Sources: Z. Wang, A. Bovik, H. Sheikh, E. Simoncelli, "Image quality assessment: from error
//! visibility to structural similarity", 2004. Y. Sun, A. Lu, L. Yu, "Weighted-to-Spherically-
//! Uniform Quality Evaluation for Omnidirectional Video", 2017. Y. Zhou et al., "Weighted-to-
//! Spherically-Uniform SSIM Objective Quality Evaluation for Panoramic Video", 2018. The seam and
//! pole errors are Nabla's own; [`seam_error`] and [`pole_error`] define them.

use std::f64::consts::PI;

use nabla_data::Raster;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Erp, ErpArea, ErpError};

/// Two pictures cannot be compared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// The shapes differ.
    #[error(
        "the pictures must have the same size, but they are {} x {} with {} channels and {} x {} with \
         {} channels",
        picture[2], picture[1], picture[0], reference[2], reference[1], reference[0]
    )]
    Shapes {
        /// `[channels, height, width]` of the picture.
        picture: [usize; 3],
        /// `[channels, height, width]` of the reference.
        reference: [usize; 3],
    },
    /// The picture has too few rows or columns, or no channel.
    #[error(
        "this metric needs at least {least_width} x {least_height} pixels and one channel, but \
         the picture is {width} x {height} with {channels} channels"
    )]
    TooSmall {
        /// Channels of the picture.
        channels: usize,
        /// Rows of the picture.
        height: usize,
        /// Columns of the picture.
        width: usize,
        /// Rows needed.
        least_height: usize,
        /// Columns needed.
        least_width: usize,
    },
    /// A sample is infinite or not a number.
    #[error("a picture to compare contains a sample that is not a finite number")]
    NotFinite,
    /// The start of the polar caps is not a valid latitude, or they contain no row.
    #[error(
        "polar caps beyond a latitude of {latitude_degrees} degrees hold no row of a picture of \
         {height} rows"
    )]
    NoPolarRow {
        /// The requested latitude.
        latitude_degrees: f64,
        /// Rows of the picture.
        height: usize,
    },
    /// The picture is not an equirectangular panorama.
    #[error(transparent)]
    NotPanorama(#[from] ErpError),
}

/// Side of SSIM's window.
const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;

fn check(
    picture: &Raster,
    reference: &Raster,
    [least_height, least_width]: [usize; 2],
) -> Result<(), MetricError> {
    if picture.shape() != reference.shape() {
        return Err(MetricError::Shapes {
            picture: picture.shape(),
            reference: reference.shape(),
        });
    }
    let [channels, height, width] = picture.shape();
    if channels == 0 || height < least_height || width < least_width {
        return Err(MetricError::TooSmall {
            channels,
            height,
            width,
            least_height,
            least_width,
        });
    }
    let finite = |r: &Raster| r.data().par_iter().all(|v| v.is_finite());
    if finite(picture) && finite(reference) {
        Ok(())
    } else {
        Err(MetricError::NotFinite)
    }
}

/// `picture` as stored in an 8-bit file: clamped to `[0, 1]` and rounded to a multiple of 1/255.
///
/// ```
/// use nabla_data::Raster;
/// let r = nabla_panorama::to_8_bit(Raster::new(1, 1, 3, vec![-0.1, 0.5, 1.2])?);
/// assert_eq!(r.data(), [0.0, 128.0 / 255.0, 1.0]);
/// # Ok::<(), nabla_data::RasterSizeError>(())
/// ```
#[must_use]
pub fn to_8_bit(picture: Raster) -> Raster {
    picture.map(|v| (255.0 * v.clamp(0.0, 1.0)).round() / 255.0)
}

/// The area weight `q_j = cos((j − H/2 + ½) π/H)` of each of `height` rows.
///
/// ```
/// let q = nabla_panorama::latitude_weights(2);
/// assert!((q[0] - 0.5f64.sqrt()).abs() < 1e-15 && (q[0] - q[1]).abs() < 1e-15);
/// ```
pub fn latitude_weights(height: usize) -> Vec<f64> {
    let h = height as f64;
    (0..height)
        .map(|j| ((j as f64 - h / 2.0 + 0.5) * PI / h).cos())
        .collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn weighted_mean(weights: &[f64], values: &[f64]) -> f64 {
    let sum: f64 = weights.iter().zip(values).map(|(q, v)| q * v).sum();
    sum / weights.iter().sum::<f64>()
}

/// 10 log₁₀(1/mse); infinite if `mse` is 0.
fn decibel(mse: f64) -> f64 {
    -10.0 * mse.log10()
}

/// The mean of d² over the channels and columns of each row.
fn row_squared_errors(picture: &Raster, reference: &Raster) -> Vec<f64> {
    let [channels, height, width] = picture.shape();
    (0..height)
        .into_par_iter()
        .map(|row| {
            let mut sum = 0.0;
            for channel in 0..channels {
                let at = (channel * height + row) * width;
                let (a, b) = (&picture.data()[at..], &reference.data()[at..]);
                for (a, b) in a[..width].iter().zip(b) {
                    let d = f64::from(*a) - f64::from(*b);
                    sum += d * d;
                }
            }
            sum / (channels * width) as f64
        })
        .collect()
}

/// Peak signal-to-noise ratio in dB, over all channels; infinite for equal pictures.
///
/// ```
/// use nabla_data::Raster;
/// let (a, b) = (Raster::zeros(3, 4, 8), Raster::zeros(3, 4, 8).map(|_| 0.1));
/// assert!((nabla_panorama::psnr(&a, &b)? - 20.0).abs() < 1e-6);
/// assert_eq!(nabla_panorama::psnr(&a, &a)?, f64::INFINITY);
/// # Ok::<(), nabla_panorama::MetricError>(())
/// ```
///
/// # Errors
/// If the shapes differ, the pictures are empty, or a sample is not finite.
pub fn psnr(picture: &Raster, reference: &Raster) -> Result<f64, MetricError> {
    check(picture, reference, [1, 1])?;
    Ok(decibel(mean(&row_squared_errors(picture, reference))))
}

/// PSNR in dB with each row weighted by its area on the sphere; infinite for equal pictures.
///
/// # Errors
/// As [`psnr`].
pub fn ws_psnr(picture: &Raster, reference: &Raster) -> Result<f64, MetricError> {
    check(picture, reference, [1, 1])?;
    let errors = row_squared_errors(picture, reference);
    Ok(decibel(weighted_mean(
        &latitude_weights(errors.len()),
        &errors,
    )))
}

/// The mean of SSIM over the channels and columns of each row of the valid region.
///
/// With `s = a + b`, `d = a − b` and `E` the mean under the window, four moments are enough:
/// `μa, μb = (E s ± E d)/2`, `E ab = (E s² − E d²)/4`, `E a² + E b² = (E s² + E d²)/2`.
fn row_ssim(picture: &Raster, reference: &Raster) -> Vec<f64> {
    let [channels, height, width] = picture.shape();
    let mut window = [0.0; WINDOW];
    for (k, w) in window.iter_mut().enumerate() {
        let x = (k as f64 - (WINDOW / 2) as f64) / SIGMA;
        *w = (-0.5 * x * x).exp();
    }
    let sum: f64 = window.iter().sum();
    window.iter_mut().for_each(|w| *w /= sum);

    let columns = width + 1 - WINDOW;
    (0..height + 1 - WINDOW)
        .into_par_iter()
        .map_init(
            || vec![[0.0f64; 4]; width],
            |moments, row| {
                let mut sum = 0.0;
                for channel in 0..channels {
                    // Down the columns first: one row of four moments.
                    moments.fill([0.0; 4]);
                    for (k, w) in window.iter().enumerate() {
                        let at = (channel * height + row + k) * width;
                        let (a, b) = (&picture.data()[at..], &reference.data()[at..]);
                        for ((m, &a), &b) in moments.iter_mut().zip(a).zip(b) {
                            let (a, b) = (f64::from(a), f64::from(b));
                            let (s, d) = (a + b, a - b);
                            let (ws, wd) = (w * s, w * d);
                            m[0] += ws;
                            m[1] += wd;
                            m[2] += ws * s;
                            m[3] += wd * d;
                        }
                    }
                    for moments in moments.windows(WINDOW) {
                        let mut e = [0.0; 4];
                        for (w, m) in window.iter().zip(moments) {
                            for (e, m) in e.iter_mut().zip(m) {
                                *e += w * m;
                            }
                        }
                        let (mean_a, mean_b) = (0.5 * (e[0] + e[1]), 0.5 * (e[0] - e[1]));
                        let (product, squares) =
                            (mean_a * mean_b, mean_a * mean_a + mean_b * mean_b);
                        let covariance = 0.25 * (e[2] - e[3]) - product;
                        let variances = 0.5 * (e[2] + e[3]) - squares;
                        sum += (2.0 * product + C1) * (2.0 * covariance + C2)
                            / ((squares + C1) * (variances + C2));
                    }
                }
                sum / (channels * columns) as f64
            },
        )
        .collect()
}

/// Structural similarity, the mean over the valid region and the channels; 1 for equal pictures.
///
/// ```
/// use nabla_data::Raster;
/// let a = Raster::from_fn(1, 16, 32, |_, y, x| ((x * y) % 9) as f32 / 9.0);
/// assert!((nabla_panorama::ssim(&a, &a)? - 1.0).abs() < 1e-9);
/// # Ok::<(), nabla_panorama::MetricError>(())
/// ```
///
/// # Errors
/// If the shapes differ, the pictures are smaller than the window of 11 x 11, or a sample is not
/// finite.
pub fn ssim(picture: &Raster, reference: &Raster) -> Result<f64, MetricError> {
    check(picture, reference, [WINDOW, WINDOW])?;
    Ok(mean(&row_ssim(picture, reference)))
}

/// The weights of the rows of the SSIM map, which has ten rows fewer than the picture. The official code of
/// OmniSSR has both variants, and the paper does not say which one was used for its table; for usual sizes
/// they differ in the fourth digit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SsimWeights {
    /// The weights of the picture's rows, without the first and the last five: each row of the map has the
    /// weight of its latitude.
    #[default]
    FullHeight,
    /// Weights computed for the height of the map, as in the official `cal_ws_metrics.py`.
    Cropped,
}

fn weigh_ssim(rows: &[f64], height: usize, weights: SsimWeights) -> f64 {
    match weights {
        SsimWeights::FullHeight => {
            let crop = WINDOW / 2;
            weighted_mean(&latitude_weights(height)[crop..height - crop], rows)
        }
        SsimWeights::Cropped => weighted_mean(&latitude_weights(rows.len()), rows),
    }
}

/// SSIM with each row weighted by its area on the sphere ([`SsimWeights::FullHeight`]).
///
/// # Errors
/// As [`ssim`].
pub fn ws_ssim(picture: &Raster, reference: &Raster) -> Result<f64, MetricError> {
    ws_ssim_with(picture, reference, SsimWeights::default())
}

/// [`ws_ssim`] with a choice of the weights.
///
/// # Errors
/// As [`ssim`].
pub fn ws_ssim_with(
    picture: &Raster,
    reference: &Raster,
    weights: SsimWeights,
) -> Result<f64, MetricError> {
    check(picture, reference, [WINDOW, WINDOW])?;
    Ok(weigh_ssim(
        &row_ssim(picture, reference),
        picture.height(),
        weights,
    ))
}

/// Column pairs on either side of the meridian that [`seam_error`] compares the seam with.
const SEAM_NEIGHBOURS: usize = 8;

/// The result of [`seam_error`] at the 180-degree meridian. All numbers are in units of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeamError {
    /// [`Self::at_seam`] minus [`Self::beside_seam`]: 0 if the picture is as continuous across the
    /// meridian as the reference is, positive if it breaks there.
    pub error: f64,
    /// Mean `|Δe|` across the meridian.
    pub at_seam: f64,
    /// Mean `|Δe|` across the column pairs beside the meridian.
    pub beside_seam: f64,
    /// Mean `|x₀ − x_{W−1}|` of the picture, the raw step across the meridian.
    pub step: f64,
    /// The same of the reference.
    pub reference_step: f64,
}

/// The discontinuity of `picture` across the 180-degree meridian that `reference` does not have.
///
/// With `e = picture − reference` and `Δe_i = e_{i+1} − e_i` (columns wrap; `Δe_{W−1} = e₀ − e_{W−1}`
/// is the step of the picture across the meridian minus that of the reference),
///
/// ```text
/// seam error = mean |Δe_{W−1}| − mean |Δe_i|,    i within eight columns of the meridian on either side
/// ```
///
/// where means are over the channels, and over the rows with the weights `q_j`. A step that is also in the
/// reference does not count, nor does an error that is as large beside the meridian as across it, such as
/// detail that is missing everywhere. A method that treats the meridian like any other column has an error of
/// about 0, depending on the picture there (it may be slightly negative), and a picture equal to its
/// reference has exactly 0. The bare step `mean |x₀ − x_{W−1}|` is returned too; it is smaller for a blurred
/// picture, so by itself it does not measure quality.
///
/// ```
/// use nabla_data::Raster;
/// // A brightness that jumps by 0.2 at the meridian, against a flat reference.
/// let flat = Raster::zeros(1, 16, 32).map(|_| 0.5);
/// let broken = Raster::from_fn(1, 16, 32, |_, _, x| 0.4 + 0.2 * x as f32 / 31.0);
/// let seam = nabla_panorama::seam_error(&broken, &flat)?;
/// assert!((seam.at_seam - 0.2).abs() < 1e-6);
/// assert!((seam.error - (0.2 - 0.2 / 31.0)).abs() < 1e-6);
/// # Ok::<(), nabla_panorama::MetricError>(())
/// ```
///
/// # Errors
/// If the shapes differ, there are fewer than 18 columns, or a sample is not finite.
pub fn seam_error(picture: &Raster, reference: &Raster) -> Result<SeamError, MetricError> {
    check(picture, reference, [1, 2 * SEAM_NEIGHBOURS + 2])?;
    Ok(seam(picture, reference))
}

fn seam(picture: &Raster, reference: &Raster) -> SeamError {
    let [channels, height, width] = picture.shape();
    let weights = latitude_weights(height);
    let (mut at, mut beside, mut step, mut reference_step) = (0.0, 0.0, 0.0, 0.0);
    for channel in 0..channels {
        for (row, q) in weights.iter().enumerate() {
            let start = (channel * height + row) * width;
            let x = &picture.data()[start..start + width];
            let r = &reference.data()[start..start + width];
            let difference = |i: usize| f64::from(x[i]) - f64::from(r[i]);
            let delta = |i: usize| (difference((i + 1) % width) - difference(i)).abs();
            at += q * delta(width - 1);
            for i in 0..SEAM_NEIGHBOURS {
                beside += q * (delta(i) + delta(width - 2 - i));
            }
            step += q * (f64::from(x[0]) - f64::from(x[width - 1])).abs();
            reference_step += q * (f64::from(r[0]) - f64::from(r[width - 1])).abs();
        }
    }
    let total = channels as f64 * weights.iter().sum::<f64>();
    let (at_seam, beside_seam) = (at / total, beside / total / (2 * SEAM_NEIGHBOURS) as f64);
    SeamError {
        error: at_seam - beside_seam,
        at_seam,
        beside_seam,
        step: step / total,
        reference_step: reference_step / total,
    }
}

/// The latitude in degrees at which the polar caps of [`evaluate`] start.
pub const POLE_LATITUDE_DEGREES: f64 = 75.0;

/// The result of [`pole_error`] in the polar caps. All numbers are in units of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoleError {
    /// Root mean square error in both caps, each row weighted by its area on the sphere.
    pub error: f64,
    /// The inconsistency of the rows next to the poles; see [`pole_error`].
    pub inconsistency: f64,
    /// The same of the reference.
    pub reference_inconsistency: f64,
}

/// The error of `picture` around the poles: the root mean square of its difference from
/// `reference` over rows with `|latitude| > latitude_degrees`, weighted by `q_j`
/// ([`POLE_LATITUDE_DEGREES`] is the usual choice).
///
/// It also computes the *inconsistency*, which needs no reference: the pixels of the first row (and of the
/// last) all lie half a pixel from one point, so they are samples of a circle so small that a picture without
/// detail finer than its pixels is nearly constant along it. Its `m`-th harmonic around the pole is
/// `J_m(π/2)` of its amplitude at most: 0.57, 0.25, 0.07, 0.01 for `m` = 1 to 4. The inconsistency is the
/// root mean square, over both rows and all channels, of the rows without the harmonics 0, 1 and 2: streaks
/// that meet at the pole.
///
/// ```
/// use nabla_data::Raster;
/// let reference = Raster::zeros(1, 64, 128);
/// let streaks = Raster::from_fn(1, 64, 128, |_, _, x| if x % 2 == 0 { 0.1 } else { -0.1 });
/// let pole = nabla_panorama::pole_error(&streaks, &reference, 75.0)?;
/// assert!((pole.error - 0.1).abs() < 1e-6);
/// assert!((pole.inconsistency - 0.1).abs() < 1e-6);
/// # Ok::<(), nabla_panorama::MetricError>(())
/// ```
///
/// # Errors
/// If the shapes differ, no row lies beyond `latitude_degrees`, there are fewer than 6 columns, or
/// a sample is not finite.
pub fn pole_error(
    picture: &Raster,
    reference: &Raster,
    latitude_degrees: f64,
) -> Result<PoleError, MetricError> {
    check(picture, reference, [1, 6])?;
    let errors = row_squared_errors(picture, reference);
    pole(picture, reference, &errors, latitude_degrees)
}

fn pole(
    picture: &Raster,
    reference: &Raster,
    errors: &[f64],
    latitude_degrees: f64,
) -> Result<PoleError, MetricError> {
    let height = errors.len();
    let (mut sum, mut total) = (0.0, 0.0);
    for (row, (error, q)) in errors.iter().zip(latitude_weights(height)).enumerate() {
        let latitude = 90.0 - (row as f64 + 0.5) / height as f64 * 180.0;
        if latitude.abs() > latitude_degrees {
            sum += q * error;
            total += q;
        }
    }
    if total == 0.0 {
        return Err(MetricError::NoPolarRow {
            latitude_degrees,
            height,
        });
    }
    Ok(PoleError {
        error: (sum / total).sqrt(),
        inconsistency: inconsistency(picture),
        reference_inconsistency: inconsistency(reference),
    })
}

/// The root mean square of the first and last rows without their harmonics 0 to 2.
fn inconsistency(picture: &Raster) -> f64 {
    let [channels, height, width] = picture.shape();
    let n = width as f64;
    let mut sum = 0.0;
    for channel in 0..channels {
        for row in [0, height - 1] {
            let start = (channel * height + row) * width;
            let mut rest: Vec<f64> = picture.data()[start..start + width]
                .iter()
                .map(|&v| f64::from(v))
                .collect();
            for harmonic in 0..=2 {
                let angle = |i: usize| 2.0 * PI * harmonic as f64 * i as f64 / n;
                let (mut re, mut im) = (0.0, 0.0);
                for (i, v) in rest.iter().enumerate() {
                    re += v * angle(i).cos();
                    im += v * angle(i).sin();
                }
                let scale = if harmonic == 0 { 1.0 } else { 2.0 } / n;
                for (i, v) in rest.iter_mut().enumerate() {
                    *v -= scale * (re * angle(i).cos() + im * angle(i).sin());
                }
            }
            sum += rest.iter().map(|v| v * v).sum::<f64>() / n;
        }
    }
    (sum / (2 * channels) as f64).sqrt()
}

/// The metrics of a part of the sphere against its reference: those of a whole panorama except for the
/// meridian and the poles, which a part need not contain.
///
/// As JSON, an infinite PSNR (equal pictures) is `null`: JSON has no infinity, and no other value
/// becomes `null`. It is read back as infinity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AreaEvaluation {
    /// [`psnr`] in dB; higher is better.
    #[serde(with = "infinite_as_null")]
    pub psnr: f64,
    /// [`ssim`], at most 1; higher is better.
    pub ssim: f64,
    /// PSNR in dB with each row weighted by its area on the sphere, of a whole panorama [`ws_psnr`];
    /// higher is better.
    #[serde(with = "infinite_as_null")]
    pub ws_psnr: f64,
    /// SSIM with each row weighted by its area on the sphere, of a whole panorama [`ws_ssim`], at most
    /// 1; higher is better.
    pub ws_ssim: f64,
}

/// All metrics of a panorama against its reference. As JSON, all of them are fields of one object.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The metrics that also apply to a part of the sphere.
    #[serde(flatten)]
    pub area: AreaEvaluation,
    /// [`SeamError::error`] of [`seam_error`], in units of the samples; closer to 0 is better.
    pub seam_error: f64,
    /// [`PoleError::error`] of [`pole_error`] beyond [`POLE_LATITUDE_DEGREES`], in units of the
    /// samples; lower is better.
    pub pole_error: f64,
}

mod infinite_as_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        value.is_finite().then_some(*value).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
    }
}

/// All metrics of the panorama `picture` against `reference`, both `[channels, H, 2H]`.
///
/// ```
/// use nabla_data::Raster;
/// let reference = Raster::from_fn(3, 32, 64, |c, y, x| ((x * y + c) % 16) as f32 / 16.0);
/// let picture = reference.clone().map(|v| 0.9 * v);
/// let evaluation = nabla_panorama::evaluate(&picture, &reference)?;
/// assert!(evaluation.area.psnr > 20.0 && evaluation.area.ssim < 1.0);
/// # Ok::<(), nabla_panorama::MetricError>(())
/// ```
///
/// # Errors
/// If the shapes differ, the pictures are not panoramas (2:1) of at least 22 x 11, or a sample is
/// not finite.
pub fn evaluate(picture: &Raster, reference: &Raster) -> Result<Evaluation, MetricError> {
    check(picture, reference, [WINDOW, 2 * WINDOW])?;
    Erp::of(picture)?;
    let weights = latitude_weights(picture.height());
    let errors = row_squared_errors(picture, reference);
    let ssim = row_ssim(picture, reference);
    Ok(Evaluation {
        area: AreaEvaluation {
            psnr: decibel(mean(&errors)),
            ssim: mean(&ssim),
            ws_psnr: decibel(weighted_mean(&weights, &errors)),
            ws_ssim: weigh_ssim(&ssim, picture.height(), SsimWeights::default()),
        },
        seam_error: seam(picture, reference).error,
        pole_error: pole(picture, reference, &errors, POLE_LATITUDE_DEGREES)?.error,
    })
}

/// The metrics of `picture` against `reference`, both `[channels, height, width]` of `area`.
///
/// # Errors
/// If the shapes differ or are not those of the area, the pictures are smaller than the window of
/// 11 x 11, or a sample is not finite.
pub fn evaluate_area(
    picture: &Raster,
    reference: &Raster,
    area: &ErpArea,
) -> Result<AreaEvaluation, MetricError> {
    check(picture, reference, [WINDOW, WINDOW])?;
    let [channels, height, width] = picture.shape();
    if [area.height(), area.width()] != [height, width] {
        return Err(MetricError::Shapes {
            picture: picture.shape(),
            reference: [channels, area.height(), area.width()],
        });
    }
    let weights: Vec<f64> = area.latitudes().map(f64::cos).collect();
    let errors = row_squared_errors(picture, reference);
    let ssim = row_ssim(picture, reference);
    let crop = WINDOW / 2;
    Ok(AreaEvaluation {
        psnr: decibel(mean(&errors)),
        ssim: mean(&ssim),
        ws_psnr: decibel(weighted_mean(&weights, &errors)),
        ws_ssim: weighted_mean(&weights[crop..height - crop], &ssim),
    })
}

#[cfg(test)]
mod tests;
