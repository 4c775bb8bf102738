//! How close a panorama is to its reference: PSNR and SSIM, the same weighted by the area that
//! each row has on the sphere, and the two places where panoramas break, the 180-degree meridian
//! and the poles.
//!
//! All functions take pictures `[channels, height, width]` of equal shape with samples nominally
//! in `[0, 1]`. **Nothing is clamped or rounded**: the numbers are those of the samples as they
//! are, with a data range of 1. For pictures read from 8-bit files (`v/255`) they equal the usual
//! numbers of 8-bit samples with a data range of 255. A picture that has not been through a file
//! yet should go through [`to_8_bit`] first if the numbers of its file are wanted. Samples that are
//! not finite are refused. Sums are taken in `f64`, row by row, in the order of the rows: the
//! result does not depend on the number of threads.
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

/// Two pictures that cannot be compared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// The shapes differ.
    #[error(
        "the pictures must be of one size, but they are {} x {} with {} channels and {} x {} with \
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
        "this measure needs at least {least_width} x {least_height} pixels and one channel, but \
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
    #[error("a picture to compare holds a sample that is not a finite number")]
    NotFinite,
    /// The polar caps do not begin at a latitude, or hold no row.
    #[error(
        "polar caps beyond a latitude of {latitude_degrees} degrees hold no row of a picture of \
         {height} rows"
    )]
    NoPolarRow {
        /// The latitude asked for.
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

/// `picture` as an 8-bit file holds it: clamped to `[0, 1]` and rounded to a multiple of 1/255.
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

/// How the rows of the SSIM map, which has ten rows less than the picture, are weighted. The
/// official code of OmniSSR has both ways and the paper does not say which made its table; the
/// difference is in the fourth digit for usual sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SsimWeights {
    /// The weights of the picture's rows, without the first and the last five: each row of the map
    /// has the weight of the latitude that it shows.
    #[default]
    FullHeight,
    /// Weights made anew for the height of the map, as in the official `cal_ws_metrics.py`.
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

/// What [`seam_error`] finds at the 180-degree meridian. All numbers are in units of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeamError {
    /// [`Self::at_seam`] less [`Self::beside_seam`]: 0 if the picture is as continuous across the
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
/// is the step of the picture across the meridian less that of the reference),
///
/// ```text
/// seam error = mean |Δe_{W−1}| − mean |Δe_i|,    i within eight columns of the meridian on either side
/// ```
///
/// where means are over the channels, and over the rows with the weights `q_j`. A step that is in
/// the reference too does not count, nor does an error that is as large beside the meridian as
/// across it, such as detail that is missing everywhere: a method that treats the meridian as any
/// other column has 0 but for the chance of what the picture shows there (which may be slightly
/// negative), and a picture equal to its reference has 0 exactly. The bare step `mean |x₀ − x_{W−1}|`
/// is returned too; it is smaller for a blurred picture and is no measure of quality alone.
///
/// ```
/// use nabla_data::Raster;
/// // A brightness that jumps by 0.2 where the panorama closes, against a flat reference.
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

/// The latitude in degrees at which the polar caps of [`evaluate`] begin.
pub const POLE_LATITUDE_DEGREES: f64 = 75.0;

/// What [`pole_error`] finds in the polar caps. All numbers are in units of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoleError {
    /// Root mean square error in both caps, each row weighted by its area on the sphere.
    pub error: f64,
    /// What the rows next to the poles show that no picture of the sphere can: see [`pole_error`].
    pub inconsistency: f64,
    /// The same of the reference.
    pub reference_inconsistency: f64,
}

/// The error of `picture` around the poles: the root mean square of its difference from
/// `reference` over rows with `|latitude| > latitude_degrees`, weighted by `q_j`
/// ([`POLE_LATITUDE_DEGREES`] is the usual choice).
///
/// Beside it, the *inconsistency*, which needs no reference: the pixels of the first row (and of the
/// last) all lie half a pixel from one point, so they are samples of a circle so small that a
/// picture without detail finer than its pixels is nearly constant along it. Its `m`-th harmonic
/// around the pole is `J_m(π/2)` of its amplitude at most: 0.57, 0.25, 0.07, 0.01 for `m` = 1 to 4.
/// The inconsistency is the root mean square, over both rows and all channels, of what is left of
/// them without the harmonics 0, 1 and 2: streaks that meet in the pole.
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

/// All measures of a panorama against its reference.
///
/// As JSON, an infinite PSNR (equal pictures) is `null`: JSON has no infinity, and no other value
/// becomes `null`. It is read back as infinity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// [`psnr`] in dB; higher is better.
    #[serde(with = "infinite_as_null")]
    pub psnr: f64,
    /// [`ssim`], at most 1; higher is better.
    pub ssim: f64,
    /// [`ws_psnr`] in dB; higher is better.
    #[serde(with = "infinite_as_null")]
    pub ws_psnr: f64,
    /// [`ws_ssim`], at most 1; higher is better.
    pub ws_ssim: f64,
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

/// All measures of the panorama `picture` against `reference`, both `[channels, H, 2H]`.
///
/// ```
/// use nabla_data::Raster;
/// let reference = Raster::from_fn(3, 32, 64, |c, y, x| ((x * y + c) % 16) as f32 / 16.0);
/// let picture = reference.clone().map(|v| 0.9 * v);
/// let evaluation = nabla_panorama::evaluate(&picture, &reference)?;
/// assert!(evaluation.psnr > 20.0 && evaluation.ssim < 1.0);
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
        psnr: decibel(mean(&errors)),
        ssim: mean(&ssim),
        ws_psnr: decibel(weighted_mean(&weights, &errors)),
        ws_ssim: weigh_ssim(&ssim, picture.height(), SsimWeights::default()),
        seam_error: seam(picture, reference).error,
        pole_error: pole(picture, reference, &errors, POLE_LATITUDE_DEGREES)?.error,
    })
}

/// The measures of a part of the sphere against its reference: what [`Evaluation`] has but for the
/// meridian and the poles, which a part need not have.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AreaEvaluation {
    /// [`psnr`] in dB; higher is better.
    #[serde(with = "infinite_as_null")]
    pub psnr: f64,
    /// [`ssim`], at most 1; higher is better.
    pub ssim: f64,
    /// PSNR in dB with each row weighted by its area on the sphere; higher is better.
    #[serde(with = "infinite_as_null")]
    pub ws_psnr: f64,
    /// SSIM with each row weighted by its area on the sphere; higher is better.
    pub ws_ssim: f64,
}

/// The measures of `picture` against `reference`, both `[channels, height, width]` of `area`.
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
mod tests {
    use super::*;
    use crate::{BicubicDown, LinearOperator};
    use proptest::prelude::*;

    fn texture(channels: usize, height: usize, width: usize) -> Raster {
        Raster::from_fn(channels, height, width, |c, y, x| {
            let (x, y) = (x as f32, y as f32);
            0.5 + 0.3 * (0.7 * x + c as f32).sin() * (0.4 * y).cos() + 0.1 * (1.9 * x * y).sin()
        })
    }

    #[test]
    fn a_part_is_measured_as_the_whole_is() {
        let reference = texture(3, 32, 64);
        let picture = reference.clone().map(|v| 0.9 * v + 0.01);
        let whole = evaluate(&picture, &reference).unwrap();
        let area = ErpArea::full(Erp::new(32, 64).unwrap());
        let same = evaluate_area(&picture, &reference, &area).unwrap();
        let of = |e: &Evaluation| [e.psnr, e.ssim, e.ws_psnr, e.ws_ssim];
        let found = [same.psnr, same.ssim, same.ws_psnr, same.ws_ssim];
        for (a, b) in found.iter().zip(of(&whole)) {
            assert!((a - b).abs() < 1e-9, "{a} {b}");
        }
        // An error in one row weighs as much as its latitude has area.
        let area = ErpArea::new(Erp::new(32, 64).unwrap(), [5, 1], [20, 12]).unwrap();
        let part = area.cut(&reference);
        let mut wrong = part.clone();
        for x in 0..20 {
            wrong.data_mut()[2 * 20 + x] += 0.3;
        }
        let measured = evaluate_area(&wrong, &part, &area).unwrap();
        let weights = latitude_weights(32);
        let expected = 0.09 * weights[3] / (3.0 * weights[1..13].iter().sum::<f64>());
        assert!((measured.ws_psnr + 10.0 * expected.log10()).abs() < 1e-3);
        assert!(evaluate_area(&part, &part, &ErpArea::full(area.whole())).is_err());
    }

    #[test]
    fn pictures_that_cannot_be_compared_are_refused() {
        let a = texture(3, 16, 32);
        assert!(matches!(
            psnr(&a, &texture(1, 16, 32)),
            Err(MetricError::Shapes { .. })
        ));
        let small = texture(1, 10, 32);
        assert!(matches!(
            ssim(&small, &small),
            Err(MetricError::TooSmall { .. })
        ));
        let narrow = texture(1, 32, 17);
        assert!(seam_error(&narrow, &narrow).is_err());
        let none = Raster::zeros(0, 16, 32);
        assert!(psnr(&none, &none).is_err());
        let empty = Raster::zeros(3, 0, 0);
        assert!(psnr(&empty, &empty).is_err());
        let square = texture(3, 32, 32);
        assert!(matches!(
            evaluate(&square, &square),
            Err(MetricError::NotPanorama(_))
        ));
        for bad in [f32::NAN, f32::INFINITY] {
            let mut b = a.clone();
            b.data_mut()[700] = bad;
            assert_eq!(evaluate(&b, &a), Err(MetricError::NotFinite));
            assert_eq!(psnr(&a, &b), Err(MetricError::NotFinite));
        }
        for latitude in [90.0, 89.0, f64::NAN] {
            assert!(matches!(
                pole_error(&a, &a, latitude),
                Err(MetricError::NoPolarRow { .. })
            ));
        }
    }

    #[test]
    fn equal_pictures_are_perfect_and_their_infinite_psnr_is_null_in_json() {
        let a = texture(3, 16, 32);
        let evaluation = evaluate(&a, &a).unwrap();
        assert_eq!(evaluation.psnr, f64::INFINITY);
        assert_eq!(evaluation.ws_psnr, f64::INFINITY);
        assert!((evaluation.ssim - 1.0).abs() < 1e-9 && (evaluation.ws_ssim - 1.0).abs() < 1e-9);
        assert_eq!((evaluation.seam_error, evaluation.pole_error), (0.0, 0.0));
        let json = serde_json::to_value(evaluation).unwrap();
        assert!(json["psnr"].is_null() && json["ssim"].is_number());
        let again: Evaluation = serde_json::from_value(json).unwrap();
        assert_eq!(again, evaluation);
    }

    /// An error `d` in the rows between two latitudes alone: the weights sum to the area of the
    /// zone, `(sin φ₂ − sin φ₁)/2` of the sphere, since Σ cos over midpoints telescopes.
    #[test]
    fn an_error_in_one_zone_counts_by_the_area_of_the_zone() {
        let (h, w, d) = (180, 360, 0.1f32);
        let a = texture(3, h, w);
        for (top, bottom) in [(0, 10), (60, 120), (90, 91), (170, 180)] {
            let b = Raster::from_fn(3, h, w, |c, y, x| {
                a.get(c, y, x) + if (top..bottom).contains(&y) { d } else { 0.0 }
            });
            let sine = |row: usize| (90.0 - row as f64).to_radians().sin();
            let share = (sine(top) - sine(bottom)) / 2.0;
            let expected = -10.0 * (f64::from(d).powi(2) * share).log10();
            assert!((ws_psnr(&b, &a).unwrap() - expected).abs() < 1e-4);
            let flat = (bottom - top) as f64 / h as f64;
            let expected = -10.0 * (f64::from(d).powi(2) * flat).log10();
            assert!((psnr(&b, &a).unwrap() - expected).abs() < 1e-4);
        }
    }

    /// Constant pictures have SSIM (2ab + C₁)/(a² + b² + C₁) everywhere.
    #[test]
    fn constant_pictures_have_the_similarity_of_their_means() {
        let flat = |v: f32| Raster::zeros(2, 16, 32).map(|_| v);
        let (a, b) = (0.3f32, 0.5f32);
        let expected = {
            let (a, b) = (f64::from(a), f64::from(b));
            (2.0 * a * b + C1) / (a * a + b * b + C1)
        };
        for value in [ssim, ws_ssim] {
            assert!((value(&flat(a), &flat(b)).unwrap() - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn the_two_weights_of_ssim_differ_little_and_both_favour_the_equator() {
        let (h, w) = (64, 128);
        let a = texture(1, h, w);
        let b = Raster::from_fn(1, h, w, |c, y, x| if y < 12 { 0.5 } else { a.get(c, y, x) });
        let plain = ssim(&b, &a).unwrap();
        let full = ws_ssim_with(&b, &a, SsimWeights::FullHeight).unwrap();
        let cropped = ws_ssim_with(&b, &a, SsimWeights::Cropped).unwrap();
        assert!(full > plain && cropped > full);
        assert!(cropped - full < 0.1);
    }

    #[test]
    fn similarity_is_symmetric_and_does_not_depend_on_the_number_of_threads() {
        let a = texture(3, 96, 192);
        let b = a.clone().map(|v| (v * 7.0).sin() * 0.1 + v);
        let run = |threads| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap()
                .install(|| evaluate(&b, &a).unwrap())
        };
        assert_eq!(run(1), run(5));
        let (there, back) = (ssim(&a, &b).unwrap(), ssim(&b, &a).unwrap());
        assert!((there - back).abs() < 1e-12);
    }

    #[test]
    fn an_error_that_does_not_know_the_meridian_has_no_seam() {
        let (h, w) = (64, 128);
        let a = texture(3, h, w);
        // A wave of `n` periods around, of another phase in each row: continuous across the meridian
        // if `n` is whole, and broken there if it is not.
        let with_wave = |n: f32| {
            Raster::from_fn(3, h, w, |c, y, x| {
                let turn = n * x as f32 / w as f32 + 0.059 * y as f32;
                a.get(c, y, x) + 0.1 * (turn * std::f32::consts::TAU).sin()
            })
        };
        let (smooth, broken) = (with_wave(8.0), with_wave(8.25));
        let smooth = seam_error(&smooth, &a).unwrap();
        assert!(smooth.error.abs() < 0.003, "{smooth:?}");
        let broken_seam = seam_error(&broken, &a).unwrap();
        assert!(broken_seam.error > 0.04, "{broken_seam:?}");
        // Turned so that the break lies elsewhere, it does not count.
        let turn = |r: &Raster| Raster::from_fn(3, h, w, |c, y, x| r.get(c, y, (x + 40) % w));
        let away = seam_error(&turn(&broken), &turn(&a)).unwrap();
        assert!(away.error.abs() < 0.003, "{away:?}");
        // The step of the picture itself is no error.
        let ramp = Raster::from_fn(1, h, w, |_, _, x| x as f32 / w as f32);
        let ramp = seam_error(&ramp, &ramp).unwrap();
        assert_eq!(ramp.error, 0.0);
        assert!((ramp.step - 127.0 / 128.0).abs() < 1e-6 && ramp.step == ramp.reference_step);
    }

    /// On a photograph at x4: an operator that knows that columns wrap, and the official one, which
    /// reflects them at the meridian. By every other measure the two are the same.
    #[test]
    fn the_seam_of_the_official_operator_is_seen_in_a_photograph() {
        let (large, _) = nabla_data::sample_panorama().unwrap();
        let large = large.raster;
        let erp = Erp::of(&large).unwrap();
        let run = |operator: BicubicDown| {
            let y = operator.apply(&large).unwrap();
            evaluate(&operator.pseudo_inverse(&y).unwrap(), &large).unwrap()
        };
        let wrapped = run(BicubicDown::new(4, erp).unwrap());
        let official = run(BicubicDown::official(4, erp).unwrap());
        assert!((wrapped.ws_psnr - official.ws_psnr).abs() < 0.01);
        assert!((wrapped.pole_error - official.pole_error).abs() < 1e-4);
        // 0.0001 and 0.0031 when this was written.
        assert!(wrapped.seam_error.abs() < 0.0005, "{wrapped:?}");
        assert!(official.seam_error > 0.0025, "{official:?}");
    }

    proptest! {
        #[test]
        fn any_size_is_measured_or_refused(c in 0usize..4, h in 0usize..40, w in 0usize..40) {
            let (a, b) = (texture(c, h, w), texture(c, h, w).map(|v| 0.9 * v));
            for value in [psnr(&b, &a), ws_psnr(&b, &a)] {
                prop_assert_eq!(value.is_ok_and(f64::is_finite), c * h * w > 0);
            }
            for value in [ssim(&b, &a), ws_ssim(&b, &a)] {
                prop_assert_eq!(value.is_ok_and(f64::is_finite), c > 0 && h > 10 && w > 10);
            }
            prop_assert_eq!(seam_error(&b, &a).is_ok(), c * h > 0 && w > 17);
            prop_assert_eq!(pole_error(&b, &a, 75.0).is_ok(), c > 0 && h > 6 && w > 5);
            prop_assert_eq!(evaluate(&b, &a).is_ok(), c > 0 && h > 10 && w == 2 * h);
        }
    }

    #[test]
    fn the_pole_error_sees_the_caps_alone_and_weighs_them_by_area() {
        let (h, w) = (180, 360);
        let a = texture(1, h, w);
        // Rows 0..15 and 165..180 lie beyond 75 degrees.
        let middle = Raster::from_fn(1, h, w, |c, y, x| {
            a.get(c, y, x) + if (15..165).contains(&y) { 0.3 } else { 0.0 }
        });
        assert_eq!(pole_error(&middle, &a, 75.0).unwrap().error, 0.0);
        let row = Raster::from_fn(1, h, w, |c, y, x| {
            a.get(c, y, x) + if y == 14 { 0.3 } else { 0.0 }
        });
        let sine = |degrees: f64| degrees.to_radians().sin();
        let share = (sine(76.0) - sine(75.0)) / (2.0 * (1.0 - sine(75.0)));
        let error = pole_error(&row, &a, 75.0).unwrap().error;
        assert!((error - 0.3 * share.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn a_smooth_picture_of_the_sphere_is_consistent_at_its_poles() {
        let erp = Erp::new(64, 128).unwrap();
        let view = |frequency: f64| {
            Raster::from_fn(1, 64, 128, |_, y, x| {
                let [a, b, c] =
                    crate::erp::direction(erp.longitude(x as f64), erp.latitude(y as f64));
                (0.5 + 0.5 * (frequency * (0.8 * a + 0.1 * b + 0.6 * c)).sin()) as f32
            })
        };
        let flat = Raster::zeros(1, 64, 128);
        // Up to half of the finest frequency, 64 radians per radian.
        for frequency in [1.0, 8.0, 32.0] {
            let pole = pole_error(&view(frequency), &flat, 75.0).unwrap();
            assert!(pole.inconsistency < 0.01, "{frequency}: {pole:?}");
            assert_eq!(pole.reference_inconsistency, 0.0);
        }
        let streaks = Raster::from_fn(1, 64, 128, |_, _, x| (x % 2) as f32);
        let pole = pole_error(&streaks, &flat, 75.0).unwrap();
        assert!((pole.inconsistency - 0.5).abs() < 1e-6);
    }
}
