//! Interpolation between pixels: at any position of a picture, and to any other size.
//!
//! A picture is a lattice of samples `f[j]`; its value at a position `x` in between is
//! `Σ_j f[j] k(x − j)` with one of these kernels, in each direction:
//!
//! * nearest: `k = 1` on `[−½, ½)`;
//! * bilinear: `k(x) = 1 − |x|` on `|x| < 1`;
//! * bicubic, the cubic convolution of R. Keys, "Cubic convolution interpolation for digital image
//!   processing" (1981), with his `a = −½`, for which alone it reproduces parabolas:
//!   `k(x) = (a+2)|x|³ − (a+3)|x|² + 1` on `|x| ≤ 1`, `a|x|³ − 5a|x|² + 8a|x| − 4a` on `|x| < 2`;
//! * Lanczos: `k(x) = sinc(x) sinc(x/3)` on `|x| < 3`, divided by the sum of its taps.
//!
//! What lies beyond the border is part of the interpolation: an equirectangular panorama goes on
//! at its other side and over its poles ([`Erp::wrap`]), a planar picture repeats its outermost
//! pixels. Positions count pixel centres: `(0, 0)` is the centre of the first pixel.
//!
//! [`resize_planar`] and [`resize_erp`] align the outer edges of the pictures (output pixel `i`
//! lies at `(i + ½)·n/m − ½`) and, when they shrink, stretch the kernel by `n/m`, so that it also
//! removes what the smaller picture cannot show. At the borders of a planar picture the taps that
//! fall outside are left out and the others divided by their sum. All of this is what Pillow does,
//! whose bicubic filter made the low-resolution panoramas of OmniSSR.

use std::borrow::Cow;
use std::f64::consts::PI;
use std::ops::Range;

use nabla_data::Raster;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use wide::f32x4;

use crate::erp::{Erp, ErpError};

/// How to interpolate between pixels; [the module](self) has the equations.
///
/// The default is [`Self::BICUBIC`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The pixel whose centre is nearest.
    Nearest,
    /// 2 x 2 pixels.
    Bilinear,
    /// 4 x 4 pixels, cubic convolution.
    Bicubic {
        /// The slope of the kernel at 1: −0.5 in Pillow and MATLAB, −0.75 in PyTorch and OpenCV.
        a: f32,
    },
    /// 6 x 6 pixels, the windowed sinc.
    Lanczos3,
}

impl Interpolation {
    /// Cubic convolution with Keys' `a = −0.5`: that of Pillow and MATLAB, the most exact one on what is
    /// smooth.
    pub const BICUBIC: Self = Self::Bicubic { a: -0.5 };
    /// Cubic convolution with `a = −0.75`: that of OpenCV and PyTorch. It is sharper, and loses less of
    /// photographs that go from one grid to another and back (see [`TangentOptions`]).
    ///
    /// [`TangentOptions`]: crate::tangent::TangentOptions
    pub const BICUBIC_SHARP: Self = Self::Bicubic { a: -0.75 };

    /// The distance from the centre, in pixels, from which on the kernel is zero.
    pub fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.5,
            Self::Bilinear => 1.0,
            Self::Bicubic { .. } => 2.0,
            Self::Lanczos3 => 3.0,
        }
    }

    /// The kernel at a distance of `x` pixels, before its taps are divided by their sum.
    ///
    /// ```
    /// use nabla_panorama::Interpolation;
    /// assert_eq!(Interpolation::BICUBIC.kernel(0.5), 0.5625);
    /// assert_eq!(Interpolation::BICUBIC.kernel(-1.5), -0.0625);
    /// ```
    pub fn kernel(self, x: f64) -> f64 {
        let d = x.abs();
        match self {
            Self::Nearest => f64::from((-0.5..0.5).contains(&x)),
            Self::Bilinear => (1.0 - d).max(0.0),
            Self::Bicubic { a } => {
                let a = f64::from(a);
                if d <= 1.0 {
                    ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
                } else if d < 2.0 {
                    a * (((d - 5.0) * d + 8.0) * d - 4.0)
                } else {
                    0.0
                }
            }
            Self::Lanczos3 if d < 3.0 => sinc(x) * sinc(x / 3.0),
            Self::Lanczos3 => 0.0,
        }
    }

    pub(crate) fn check(self) -> Result<(), ResampleError> {
        match self {
            Self::Bicubic { a } if !a.is_finite() => Err(ResampleError::Kernel { a }),
            _ => Ok(()),
        }
    }
}

impl Default for Interpolation {
    fn default() -> Self {
        Self::BICUBIC
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        1.0
    } else {
        (PI * x).sin() / (PI * x)
    }
}

/// A picture or size that cannot be resampled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ResampleError {
    /// The panorama, given or wanted, has a size that no panorama has.
    #[error(transparent)]
    Erp(#[from] ErpError),
    /// The picture has no samples.
    #[error("a picture of {channels} x {height} x {width} has nothing to resample")]
    Empty {
        /// Channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// The picture, given or wanted, is too large for fixed-point coordinates.
    #[error(
        "a picture may be resampled at sizes from 1 to {} pixels, but this one is \
         {width} x {height}",
        Erp::MAX_WIDTH
    )]
    Size {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// The parameter of the cubic kernel is not a number.
    #[error("the cubic kernel needs a finite parameter, but a = {a}")]
    Kernel {
        /// The parameter.
        a: f32,
    },
}

fn check_planar(picture: &Raster) -> Result<(), ResampleError> {
    let [channels, height, width] = picture.shape();
    if channels * height * width == 0 {
        Err(ResampleError::Empty {
            channels,
            height,
            width,
        })
    } else {
        check_size(height, width)
    }
}

fn check_erp(picture: &Raster) -> Result<Erp, ResampleError> {
    let erp = Erp::of(picture)?;
    check_planar(picture)?;
    Ok(erp)
}

fn check_size(height: usize, width: usize) -> Result<(), ResampleError> {
    let sizes = 1..=Erp::MAX_WIDTH;
    if sizes.contains(&height) && sizes.contains(&width) {
        Ok(())
    } else {
        Err(ResampleError::Size { height, width })
    }
}

/// Positions are fixed-point numbers with this many fractional bits: exact to add and to wrap, so
/// that a panorama turned by whole pixels gives the same samples bit for bit.
pub(crate) const FRACTION_BITS: u32 = 16;

/// One pixel in fixed point.
pub(crate) const ONE: i32 = 1 << FRACTION_BITS;

/// A coordinate in pixels as a fixed-point number; the nearest one there is if it is out of range.
pub(crate) fn fixed(coordinate: f64) -> i32 {
    (coordinate * f64::from(ONE)).round() as i32
}

/// The farthest that a position may lie outside the outermost pixel centres. Beyond it a planar
/// picture is constant, as all taps of the widest kernel are the same pixel.
const MARGIN: i32 = 4;

/// Steps of the table of Lanczos weights, which are interpolated linearly (error below 1e-6).
const LANCZOS_STEPS: usize = 1024;

/// Positions that are sampled together.
pub(crate) const BATCH: usize = 16;

/// A channel's values at the positions of a batch.
pub(crate) type Values = [f32; BATCH];

/// Writes the values of a batch, as many as the line has room for.
#[inline(always)]
pub(crate) fn store(line: &mut [f32], values: &Values) {
    // Of a known length it is two registers rather than a call; the rest is kept apart, or the
    // compiler makes one call of both.
    match line.first_chunk_mut() {
        Some(full) => *full = *values,
        None => store_end(line, values),
    }
}

#[cold]
#[inline(never)]
fn store_end(line: &mut [f32], values: &Values) {
    line.copy_from_slice(&values[..line.len()]);
}

/// A picture that can be sampled at any position.
///
/// It reads the picture where it is, channel by channel. Positions whose taps all lie inside need
/// no test, and the taps of the few others are put together first.
///
/// ```
/// use nabla_data::Raster;
/// use nabla_panorama::{Interpolation, PixelSampler};
/// let erp = Raster::from_fn(1, 4, 8, |_, _, column| column as f32);
/// let sampler = PixelSampler::erp(&erp, Interpolation::Bilinear)?;
/// // Half-way between the last column and the first, which meet at the 180-degree meridian.
/// assert_eq!(sampler.sample(&[(7.5, 1.0), (-0.5, 1.0)]).data(), [3.5, 3.5]);
/// # Ok::<(), nabla_panorama::ResampleError>(())
/// ```
#[derive(Clone, Debug)]
pub struct PixelSampler<'a> {
    picture: Cow<'a, Raster>,
    border: Border,
    interpolation: Interpolation,
    /// The weights of the six taps, and two zeros.
    lanczos: Vec<[f32; 8]>,
}

/// What lies beyond the border of a picture.
#[derive(Clone, Debug)]
enum Border {
    /// The other side of the sphere.
    Sphere(Erp),
    /// The outermost pixels, again and again.
    Repeat,
    /// A frame, whose pixels are `[channels, cells]`.
    Frame(Frame, Vec<f32>),
}

impl<'a> PixelSampler<'a> {
    /// Samples an equirectangular panorama `[channels, height, 2 height]`, which goes on at its
    /// other side and over its poles.
    ///
    /// # Errors
    /// If the picture is empty or not a panorama, or the kernel is not finite.
    pub fn erp(panorama: &'a Raster, interpolation: Interpolation) -> Result<Self, ResampleError> {
        Self::erp_of(Cow::Borrowed(panorama), interpolation)
    }

    /// Samples a planar picture `[channels, height, width]`, whose outermost pixels are repeated
    /// beyond its border.
    ///
    /// # Errors
    /// If the picture is empty or larger than [`Erp::MAX_WIDTH`], or the kernel is not finite.
    pub fn planar(
        picture: &'a Raster,
        interpolation: Interpolation,
    ) -> Result<Self, ResampleError> {
        Self::planar_of(Cow::Borrowed(picture), interpolation)
    }

    /// [`Self::erp`] of a panorama that may belong to the sampler.
    pub(crate) fn erp_of(
        panorama: Cow<'a, Raster>,
        interpolation: Interpolation,
    ) -> Result<Self, ResampleError> {
        let erp = check_erp(&panorama)?;
        Self::new(panorama, interpolation, Border::Sphere(erp))
    }

    /// [`Self::planar`] of a picture that may belong to the sampler.
    pub(crate) fn planar_of(
        picture: Cow<'a, Raster>,
        interpolation: Interpolation,
    ) -> Result<Self, ResampleError> {
        check_planar(&picture)?;
        Self::new(picture, interpolation, Border::Repeat)
    }

    fn new(
        picture: Cow<'a, Raster>,
        interpolation: Interpolation,
        border: Border,
    ) -> Result<Self, ResampleError> {
        interpolation.check()?;
        let lanczos = match interpolation {
            Interpolation::Lanczos3 => (0..=LANCZOS_STEPS)
                .map(|i| {
                    let t = i as f64 / LANCZOS_STEPS as f64;
                    let taps: [f64; 8] =
                        std::array::from_fn(|k| interpolation.kernel(t + 2.0 - k as f64));
                    let sum: f64 = taps.iter().sum();
                    taps.map(|w| (w / sum) as f32)
                })
                .collect(),
            _ => Vec::new(),
        };
        Ok(Self {
            picture,
            border,
            interpolation,
            lanczos,
        })
    }

    /// Samples the picture at `points`, each a `(column, row)`; gives `[channels, 1, points]`.
    ///
    /// Any finite position has a value: a panorama wraps, a planar picture is constant beyond its
    /// border. A position that is not a number counts as 0.
    pub fn sample(&self, points: &[(f64, f64)]) -> Raster {
        let positions: Vec<_> = points.iter().map(|&p| self.position(p)).collect();
        let mut out = Raster::zeros(self.channels(), 1, points.len());
        self.sample_line(
            0,
            &positions,
            |p| p,
            |points, channel, values| {
                store(&mut out.plane_mut(channel)[points], values);
            },
        );
        out
    }

    /// The fixed-point position of a point, inside the picture or its margin.
    pub(crate) fn position(&self, (column, row): (f64, f64)) -> [i32; 2] {
        match self.border {
            Border::Sphere(erp) => {
                let (h, w) = (erp.height() as f64, erp.width() as f64);
                let row = (row + 0.5).rem_euclid(2.0 * h);
                let (row, turn) = if row <= h {
                    (row, 0.0)
                } else {
                    (2.0 * h - row, h)
                };
                [fixed((column + turn).rem_euclid(w)), fixed(row - 0.5)]
            }
            _ => {
                let clamp = |x: f64, n: usize| {
                    fixed(x.clamp(f64::from(-MARGIN), (n as f64 - 1.0) + f64::from(MARGIN)))
                };
                [
                    clamp(column, self.picture.width()),
                    clamp(row, self.picture.height()),
                ]
            }
        }
    }

    /// Channels of the picture.
    pub(crate) fn channels(&self) -> usize {
        self.picture.channels()
    }

    /// Puts a frame of pixels around the picture, `[channels, cells]`.
    pub(crate) fn set_frame(&mut self, frame: Frame, pixels: Vec<f32>) {
        self.border = Border::Frame(frame, pixels);
    }

    /// [`Self::sample_each`] of one line.
    pub(crate) fn sample_line<T: Copy>(
        &self,
        first: usize,
        points: &[T],
        position: impl Fn(T) -> [i32; 2],
        emit: impl FnMut(Range<usize>, usize, &Values),
    ) {
        self.sample_each(std::iter::once((first, points)), position, emit);
    }

    /// Samples the picture at the `position` of each point of the `lines`, which come with the
    /// number of their first point. Calls `emit` for each [`BATCH`] of points and each channel,
    /// with the numbers of the points, the channel and the values; where a line ends, there may be
    /// more values than points.
    pub(crate) fn sample_each<'p, T: Copy + 'p>(
        &self,
        lines: impl Iterator<Item = (usize, &'p [T])>,
        position: impl Fn(T) -> [i32; 2],
        emit: impl FnMut(Range<usize>, usize, &Values),
    ) {
        match self.interpolation {
            Interpolation::Nearest => {
                self.gather(lines, position, ONE / 2, |_| [[1.0; BATCH]], emit)
            }
            Interpolation::Bilinear => {
                self.gather(lines, position, 0, |t| each(t, |t| [1.0 - t, t]), emit);
            }
            Interpolation::Bicubic { a } => {
                self.gather(
                    lines,
                    position,
                    0,
                    |t| each(t, |t| cubic_weights(a, t)),
                    emit,
                );
            }
            Interpolation::Lanczos3 => {
                let table = &self.lanczos;
                self.gather(lines, position, 0, |t| lanczos_weights(table, t), emit);
            }
        }
    }

    #[inline(always)]
    fn gather<'p, const N: usize, T: Copy + 'p>(
        &self,
        lines: impl Iterator<Item = (usize, &'p [T])>,
        position: impl Fn(T) -> [i32; 2],
        shift: i32,
        weights: impl Fn(&Values) -> [Values; N],
        emit: impl FnMut(Range<usize>, usize, &Values),
    ) {
        pulp::Arch::new().dispatch(Gather {
            sampler: self,
            lines,
            position,
            shift,
            weights,
            emit,
        });
    }

    /// Where in a channel the `N x N` taps from a column and row on are; beyond its last sample,
    /// where in the frame.
    fn addresses<const N: usize>(&self, column: i32, row: i32) -> [[u32; N]; N] {
        let [_, height, width] = self.picture.shape();
        let at = |row: usize, column: usize| (row * width + column) as u32;
        let columns: [i32; N] = std::array::from_fn(|k| column + k as i32);
        let rows: [i32; N] = std::array::from_fn(|k| row + k as i32);
        let within = |x: i32, n: usize| x.clamp(0, n as i32 - 1) as usize;
        match &self.border {
            Border::Sphere(erp) => rows.map(|y| {
                columns.map(|x| {
                    let (x, y) = erp.wrap(x.into(), y.into());
                    at(y, x)
                })
            }),
            Border::Repeat => {
                let columns = columns.map(|x| within(x, width));
                rows.map(|y| columns.map(|x| at(within(y, height), x)))
            }
            Border::Frame(frame, _) => rows.map(|y| {
                columns.map(|x| match frame.cell(x, y) {
                    Some(cell) => (height * width + cell) as u32,
                    None => at(within(y, height), within(x, width)),
                })
            }),
        }
    }

    /// The sample of a channel, whose plane is given, at an address.
    #[inline(always)]
    fn at(&self, channel: usize, plane: &[f32], address: u32) -> f32 {
        let address = address as usize;
        match (plane.get(address), &self.border) {
            (Some(&value), _) => value,
            (None, Border::Frame(frame, pixels)) => {
                pixels[channel * frame.len() + address - plane.len()]
            }
            // Only a frame has addresses beyond the plane.
            (None, _) => 0.0,
        }
    }
}

/// Pixels around a picture, as far as `reach`: those above it, those below, then those to its left
/// and to its right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) reach: usize,
}

impl Frame {
    /// The number of pixels.
    pub(crate) fn len(&self) -> usize {
        2 * self.reach * (self.width + 2 * self.reach + self.height)
    }

    /// `(column, row)` of the pixels in order, counted from the first pixel of the picture.
    pub(crate) fn cells(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let [h, w, r] = [self.height, self.width, self.reach].map(|n| n as i64);
        let above = (-r..0)
            .chain(h..h + r)
            .flat_map(move |y| (-r..w + r).map(move |x| (x, y)));
        let beside = [-r..0, w..w + r].map(|columns| (columns, 0..h));
        above.chain(beside.into_iter().flat_map(|(columns, rows)| {
            rows.flat_map(move |y| columns.clone().map(move |x| (x, y)))
        }))
    }

    /// The number of the pixel at a column and row, or nothing inside the picture. Beyond the
    /// frame it is the nearest one.
    fn cell(&self, column: i32, row: i32) -> Option<usize> {
        let [h, w, r] = [self.height, self.width, self.reach].map(|n| n as i32);
        let (x, y) = (column.clamp(-r, w + r - 1), row.clamp(-r, h + r - 1));
        let long = w + 2 * r;
        let cell = if y < 0 {
            (y + r) * long + x + r
        } else if y >= h {
            (y - h + r) * long + x + r
        } else if x < 0 {
            2 * r * long + y * r + x + r
        } else if x >= w {
            2 * r * long + (h + y) * r + x - w
        } else {
            return None;
        };
        Some(cell as usize)
    }
}

/// The four weights of cubic convolution at a fraction `t` of a pixel past the second tap.
#[inline(always)]
fn cubic_weights(a: f32, t: f32) -> [f32; 4] {
    let s = 1.0 - t;
    let inner = |d: f32| ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    // Beyond 1 the kernel is a(d − 1)(d − 2)²; the outer taps lie at d = 1 + t and 1 + s.
    [a * t * s * s, inner(t), inner(s), a * s * t * t]
}

/// Weights by tap and position.
#[inline(always)]
fn each<const N: usize>(fractions: &Values, weights: impl Fn(f32) -> [f32; N]) -> [Values; N] {
    let mut all = [[0.0; BATCH]; N];
    for i in 0..BATCH {
        let taps = weights(fractions[i]);
        for k in 0..N {
            all[k][i] = taps[k];
        }
    }
    all
}

/// The weights of Lanczos by tap and position.
#[inline(always)]
fn lanczos_weights(table: &[[f32; 8]], fractions: &Values) -> [Values; 6] {
    let mut all = [[0.0; BATCH]; 6];
    for first in (0..BATCH).step_by(4) {
        let (mut left, mut right) = ([f32x4::ZERO; 4], [f32x4::ZERO; 4]);
        for i in 0..4 {
            let x = fractions[first + i] * LANCZOS_STEPS as f32;
            let step = x as usize;
            let s = f32x4::splat(x - step as f32);
            let (a, b) = (&table[step], &table[step + 1]);
            for (weights, k) in [(&mut left, 0), (&mut right, 4)] {
                let (a, b) = (f32x4::new(taps(a, k)), f32x4::new(taps(b, k)));
                weights[i] = a + s * (b - a);
            }
        }
        let (left, right) = (f32x4::transpose(left), f32x4::transpose(right));
        for (all, weights) in all.iter_mut().zip(left.iter().chain(&right)) {
            all[first..first + 4].copy_from_slice(&weights.to_array());
        }
    }
    all
}

/// Samples with `N x N` taps, of which number `(N − 1)/2` is the pixel at or before the position
/// moved by `shift`. It is one function for the compiler to vectorise, for each instruction set
/// that [`pulp`] finds at run time. No operations are fused, so that all of them give the same
/// bits.
struct Gather<'a, const N: usize, L, P, W, E> {
    sampler: &'a PixelSampler<'a>,
    lines: L,
    position: P,
    shift: i32,
    weights: W,
    emit: E,
}

impl<'p, const N: usize, T, L, P, W, E> pulp::WithSimd for Gather<'_, N, L, P, W, E>
where
    T: Copy + 'p,
    L: Iterator<Item = (usize, &'p [T])>,
    P: Fn(T) -> [i32; 2],
    W: Fn(&Values) -> [Values; N],
    E: FnMut(Range<usize>, usize, &Values),
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(mut self, _: S) {
        let [channels, height, width] = self.sampler.picture.shape();
        let before = ((N - 1) / 2) as i32;
        // The last column and row from which all taps are inside, if there are any.
        let (right, bottom) = (width as i32 - N as i32, height as i32 - N as i32);
        for (start, points) in
            (self.lines).flat_map(|(start, line)| (start..).step_by(BATCH).zip(line.chunks(BATCH)))
        {
            let numbers = start..start + points.len();
            // A batch that is not full repeats its last point.
            let points: [T; BATCH] = match points.try_into() {
                Ok(full) => full,
                Err(_) => repeat_last(points),
            };
            let (mut xs, mut ys) = ([0i32; BATCH], [0i32; BATCH]);
            for i in 0..BATCH {
                let [x, y] = (self.position)(points[i]);
                (xs[i], ys[i]) = (x + self.shift, y + self.shift);
            }
            let (mut right_of, mut below) = ([0f32; BATCH], [0f32; BATCH]);
            for (fractions, x) in [(&mut right_of, &xs), (&mut below, &ys)] {
                for i in 0..BATCH {
                    fractions[i] = (x[i] & (ONE - 1)) as f32 * (1.0 / ONE as f32);
                }
            }
            let weights = [(self.weights)(&right_of), (self.weights)(&below)];
            let mut batch = Batch {
                columns: [0; BATCH],
                rows: [0; BATCH],
                inside: [false; BATCH],
                weights,
            };
            for i in 0..BATCH {
                batch.columns[i] = (xs[i] >> FRACTION_BITS) - before;
                batch.rows[i] = (ys[i] >> FRACTION_BITS) - before;
                let (x, y) = (batch.columns[i], batch.rows[i]);
                batch.inside[i] = (x >= 0) & (x <= right) & (y >= 0) & (y <= bottom);
            }
            for first in (0..channels).step_by(4) {
                let mut emit = |values: &[Values]| {
                    for (channel, values) in (first..).zip(values) {
                        (self.emit)(numbers.clone(), channel, values);
                    }
                };
                match channels - first {
                    1 => emit(&batch.values::<1>(self.sampler, first)),
                    2 => emit(&batch.values::<2>(self.sampler, first)),
                    3 => emit(&batch.values::<3>(self.sampler, first)),
                    _ => emit(&batch.values::<4>(self.sampler, first)),
                }
            }
        }
    }
}

/// Points with the last of them as often as is needed.
#[inline(never)]
fn repeat_last<T: Copy>(points: &[T]) -> [T; BATCH] {
    std::array::from_fn(|i| points[i.min(points.len() - 1)])
}

/// Positions to be sampled together.
struct Batch<const N: usize> {
    /// Of the first of the `N x N` taps.
    columns: [i32; BATCH],
    rows: [i32; BATCH],
    /// Whether all taps are.
    inside: [bool; BATCH],
    /// Along the columns and the rows, by tap.
    weights: [[Values; N]; 2],
}

impl<const N: usize> Batch<N> {
    /// The values in `C` channels from `first` on.
    #[inline(always)]
    fn values<const C: usize>(&self, sampler: &PixelSampler, first: usize) -> [Values; C] {
        let [_, height, width] = sampler.picture.shape();
        if self.inside.iter().fold(true, |all, &inside| all & inside) {
            let data = &sampler.picture.data()[first * height * width..];
            let mut starts = [0; BATCH];
            for (i, start) in starts.iter_mut().enumerate() {
                *start = self.start(i, width);
            }
            combine(data, [height * width, width], &starts, &self.weights)
        } else {
            let patches = self.patches::<C>(sampler, first);
            let data = patches.as_flattened().as_flattened().as_flattened();
            let starts = std::array::from_fn(|i| (i * N * N) as u32);
            combine(data, [BATCH * N * N, N], &starts, &self.weights)
        }
    }

    /// The address of the first tap, if it is inside.
    #[inline(always)]
    fn start(&self, i: usize, width: usize) -> u32 {
        (self.rows[i] as u32)
            .wrapping_mul(width as u32)
            .wrapping_add(self.columns[i] as u32)
    }

    /// The taps in `C` channels from `first` on, of which some are beyond the border. It is rarely
    /// needed, and kept apart so that the compiler does not prepare for it.
    #[cold]
    #[inline(never)]
    fn patches<const C: usize>(
        &self,
        sampler: &PixelSampler,
        first: usize,
    ) -> [[[[f32; N]; N]; BATCH]; C] {
        let width = sampler.picture.width();
        let mut patches = [[[[0.0; N]; N]; BATCH]; C];
        for i in 0..BATCH {
            let start = self.start(i, width) as usize;
            let beyond = if self.inside[i] {
                None
            } else {
                Some(sampler.addresses::<N>(self.columns[i], self.rows[i]))
            };
            for (c, patches) in patches.iter_mut().enumerate() {
                let channel = first + c;
                let plane = sampler.picture.plane(channel);
                for (k, line) in patches[i].iter_mut().enumerate() {
                    *line = match beyond {
                        None => taps(plane, start + k * width),
                        Some(addresses) => {
                            addresses[k].map(|address| sampler.at(channel, plane, address))
                        }
                    };
                }
            }
        }
        patches
    }
}

/// `M` samples from `start` on.
#[inline(always)]
fn taps<const M: usize>(samples: &[f32], start: usize) -> [f32; M] {
    let mut taps = [0.0; M];
    taps.copy_from_slice(&samples[start..start + M]);
    taps
}

/// Four values of a batch.
#[inline(always)]
fn quarter(values: &Values, first: usize) -> f32x4 {
    f32x4::new(taps(values, first))
}

/// The values of `C` channels: the sums over the taps of `wx wy` times the sample, for
/// `[wx, wy]` by tap and position. In the samples, channels and rows are as far apart as `strides`
/// say, and the first taps are at the addresses `starts`.
#[inline(always)]
fn combine<const N: usize, const C: usize>(
    samples: &[f32],
    [plane, row]: [usize; 2],
    starts: &[u32; BATCH],
    weights: &[[Values; N]; 2],
) -> [Values; C] {
    // Of 32 bits, so that the compiler knows that no sum overflows.
    let (plane, row) = (plane as u32 as usize, row as u32 as usize);
    let tap = |c: usize, k: usize| c * plane + k * row;
    let reach = tap(C - 1, N - 1) + N;
    for c in 0..C {
        for k in 0..N {
            assert!(tap(c, k) + N.min(4) <= reach && tap(c, k) + N <= reach);
        }
    }
    let [wx, wy] = weights;
    let mut values = [[0.0; BATCH]; C];
    for first in (0..BATCH).step_by(4) {
        // One test of an address for each position: that its taps lie in their window is the same
        // for all, and tested above.
        let mut windows: [&[f32]; 4] = [&[]; 4];
        for i in 0..4 {
            let start = starts[first + i] as usize;
            windows[i] = &samples[start..start + reach];
        }
        for c in 0..C {
            let sums = match N {
                1 => {
                    let mut nearest = [0.0; 4];
                    for i in 0..4 {
                        nearest[i] = windows[i][tap(c, 0)];
                    }
                    f32x4::new(nearest)
                }
                2 => {
                    let down = quarter(&wy[1], first).to_array();
                    let rows = [tap(c, 0), tap(c, 1)];
                    let [a, b, c, d] = two_columns(&windows[..2], rows, &down[..2]).to_array();
                    let [e, f, g, h] = two_columns(&windows[2..], rows, &down[2..]).to_array();
                    let (left, right) = (f32x4::new([a, c, e, g]), f32x4::new([b, d, f, h]));
                    left + quarter(&wx[1], first) * (right - left)
                }
                _ => {
                    // Four taps of a row at a time: the first four, then the last four.
                    let left = four_columns(&windows, tap(c, 0), row, wy, first);
                    let mut sum = quarter(&wx[0], first) * left[0];
                    for k in 1..4 {
                        sum += quarter(&wx[k], first) * left[k];
                    }
                    if N > 4 {
                        let right = four_columns(&windows, tap(c, 0) + N - 4, row, wy, first);
                        for k in 4..N {
                            sum += quarter(&wx[k], first) * right[k - (N - 4)];
                        }
                    }
                    sum
                }
            };
            values[c][first..first + 4].copy_from_slice(&sums.to_array());
        }
    }
    values
}

/// Between two rows, two columns of one position and two of another, as they fill a register.
#[inline(always)]
fn two_columns(windows: &[&[f32]], rows: [usize; 2], down: &[f32]) -> f32x4 {
    let line = |row| {
        let [a, b] = taps(windows[0], row);
        let [c, d] = taps(windows[1], row);
        f32x4::new([a, b, c, d])
    };
    let (upper, lower) = (line(rows[0]), line(rows[1]));
    upper + f32x4::new([down[0], down[0], down[1], down[1]]) * (lower - upper)
}

/// Of four positions, the sums over the rows of `wy` times the sample in four columns from
/// `offset` on: by column.
#[inline(always)]
fn four_columns<const N: usize>(
    windows: &[&[f32]; 4],
    offset: usize,
    row: usize,
    wy: &[Values; N],
    first: usize,
) -> [f32x4; 4] {
    let mut sums = [f32x4::ZERO; 4];
    for i in 0..4 {
        for (k, wy) in wy.iter().enumerate() {
            let line = f32x4::new(taps(windows[i], offset + k * row));
            let line = f32x4::splat(wy[first + i]) * line;
            sums[i] = if k == 0 { line } else { sums[i] + line };
        }
    }
    f32x4::transpose(sums)
}

/// The taps of each output sample along one axis.
struct Taps {
    /// The first input sample; outside the picture where the axis wraps.
    starts: Vec<i64>,
    /// `[outputs, count]`.
    weights: Vec<f32>,
    count: usize,
}

/// Where output samples lie between input samples.
#[derive(Clone, Copy, PartialEq)]
enum Alignment {
    /// The outer edges of the outermost pixels coincide.
    Edges,
    /// The centres of the outermost pixels coincide.
    Corners,
}

impl Taps {
    fn new(
        input: usize,
        output: usize,
        interpolation: Interpolation,
        alignment: Alignment,
        wraps: bool,
    ) -> Self {
        let scale = match alignment {
            Alignment::Edges => input as f64 / output as f64,
            Alignment::Corners => (input as f64 - 1.0) / (output as f64 - 1.0).max(1.0),
        };
        let stretch = match interpolation {
            Interpolation::Nearest => 1.0,
            _ => scale.max(1.0),
        };
        let support = interpolation.support() * stretch;
        let mut rows = Vec::with_capacity(output);
        for i in 0..output {
            // Position from the left edge of the first pixel.
            let centre = match alignment {
                Alignment::Edges => (i as f64 + 0.5) * scale,
                Alignment::Corners => i as f64 * scale + 0.5,
            };
            if interpolation == Interpolation::Nearest {
                rows.push((centre.floor() as i64, vec![1.0]));
                continue;
            }
            let mut first = (centre - support + 0.5).floor() as i64;
            let mut end = (centre + support + 0.5).floor() as i64;
            if !wraps {
                first = first.max(0);
                end = end.min(input as i64);
            }
            let mut taps: Vec<f64> = (first..end)
                .map(|j| interpolation.kernel((j as f64 - centre + 0.5) / stretch))
                .collect();
            let sum: f64 = taps.iter().sum();
            taps.iter_mut().for_each(|w| *w /= sum);
            rows.push((first, taps));
        }
        // One number of taps for all: shorter rows get zeros, on the side where there is room.
        let count = rows.iter().map(|(_, taps)| taps.len()).max().unwrap_or(0);
        let mut starts = Vec::with_capacity(output);
        let mut weights = Vec::with_capacity(output * count);
        for (first, taps) in rows {
            let start = if wraps {
                first
            } else {
                first.min(input.saturating_sub(count) as i64)
            };
            let before = (first - start) as usize;
            starts.push(start);
            weights.extend(std::iter::repeat_n(0.0, before));
            weights.extend(taps.iter().map(|&w| w as f32));
            weights.extend(std::iter::repeat_n(0.0, count - before - taps.len()));
        }
        Self {
            starts,
            weights,
            count,
        }
    }

    fn of(&self, output: usize) -> (i64, &[f32]) {
        (
            self.starts[output],
            &self.weights[output * self.count..][..self.count],
        )
    }
}

/// Resizes a planar picture to `[channels, height, width]`, as Pillow does in `F` mode.
///
/// # Errors
/// If the picture is empty, a size is zero or above [`Erp::MAX_WIDTH`], or the kernel is not
/// finite.
///
/// ```
/// use nabla_data::Raster;
/// use nabla_panorama::{Interpolation, resize_planar};
/// let picture = Raster::new(1, 1, 4, vec![0.0, 1.0, 2.0, 3.0])?;
/// let half = resize_planar(&picture, 1, 2, Interpolation::Bilinear)?;
/// assert!((half.get(0, 0, 0) - 5.0 / 7.0).abs() < 1e-6);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn resize_planar(
    picture: &Raster,
    height: usize,
    width: usize,
    interpolation: Interpolation,
) -> Result<Raster, ResampleError> {
    resize_plane(picture, height, width, interpolation, Alignment::Edges)
}

/// Resizes a planar picture so that the centres of its outermost pixels stay where they are
/// (`align_corners` of PyTorch).
pub(crate) fn resize_corners(
    picture: &Raster,
    height: usize,
    width: usize,
    interpolation: Interpolation,
) -> Result<Raster, ResampleError> {
    resize_plane(picture, height, width, interpolation, Alignment::Corners)
}

fn resize_plane(
    picture: &Raster,
    height: usize,
    width: usize,
    interpolation: Interpolation,
    alignment: Alignment,
) -> Result<Raster, ResampleError> {
    check_planar(picture)?;
    check_size(height, width)?;
    interpolation.check()?;
    let columns = Taps::new(picture.width(), width, interpolation, alignment, false);
    let rows = Taps::new(picture.height(), height, interpolation, alignment, false);
    Ok(resize(picture, &rows, &columns, None))
}

/// Resizes an equirectangular panorama to `height` rows and `2 * height` columns; its filters go
/// on at its other side and over its poles.
///
/// # Errors
/// If the picture is empty or not a panorama, the new size is none or too large for one
/// ([`Erp::MAX_WIDTH`]), or the kernel is not finite.
///
/// ```
/// use nabla_data::Raster;
/// use nabla_panorama::{Interpolation, resize_erp};
/// let small = Raster::zeros(3, 64, 128);
/// assert_eq!(resize_erp(&small, 256, Interpolation::BICUBIC)?.shape(), [3, 256, 512]);
/// # Ok::<(), nabla_panorama::ResampleError>(())
/// ```
pub fn resize_erp(
    panorama: &Raster,
    height: usize,
    interpolation: Interpolation,
) -> Result<Raster, ResampleError> {
    let erp = check_erp(panorama)?;
    let target = Erp::new(height, height.saturating_mul(2))?;
    interpolation.check()?;
    let edges = Alignment::Edges;
    let columns = Taps::new(erp.width(), target.width(), interpolation, edges, true);
    let rows = Taps::new(erp.height(), height, interpolation, edges, true);
    Ok(resize(panorama, &rows, &columns, Some(erp)))
}

/// Row by row: first the rows under the taps are added up, then that line is resized.
fn resize(picture: &Raster, rows: &Taps, columns: &Taps, sphere: Option<Erp>) -> Raster {
    let [channels, height, width] = picture.shape();
    let (new_height, new_width) = (rows.starts.len(), columns.starts.len());
    // The line goes on beyond its ends by as much as the taps reach.
    let left = columns.starts.iter().copied().min().unwrap_or(0).min(0);
    let right = columns.starts.iter().copied().max().unwrap_or(0) + columns.count as i64;
    let before = left.unsigned_abs() as usize;
    let length = before + (right.max(width as i64)) as usize;
    let starts: Vec<usize> = columns.starts.iter().map(|s| (s - left) as usize).collect();

    let mut out = Raster::zeros(channels, new_height, new_width);
    out.data_mut()
        .par_chunks_mut(new_width)
        .enumerate()
        .for_each_init(
            || vec![0.0f32; length],
            |line, (index, out)| {
                let (channel, row) = (index / new_height, index % new_height);
                let plane = picture.plane(channel);
                let middle = &mut line[before..before + width];
                middle.fill(0.0);
                let (start, weights) = rows.of(row);
                for (k, &weight) in weights.iter().enumerate() {
                    let row = start + k as i64;
                    let (row, turn) = match sphere {
                        Some(erp) => {
                            let (turn, row) = erp.wrap(0, row);
                            (row, turn)
                        }
                        None => (row.clamp(0, height as i64 - 1) as usize, 0),
                    };
                    let (head, tail) = plane[row * width..][..width].split_at(turn);
                    let (first, second) = middle.split_at_mut(width - turn);
                    add_scaled(first, weight, tail);
                    add_scaled(second, weight, head);
                }
                if sphere.is_some() {
                    for i in (0..before).rev() {
                        line[i] = line[i + width];
                    }
                    for i in before + width..length {
                        line[i] = line[i - width];
                    }
                }
                match columns.count {
                    4 => convolve::<4>(line, &starts, &columns.weights, out),
                    6 => convolve::<6>(line, &starts, &columns.weights, out),
                    count => {
                        let weights = columns.weights.chunks_exact(count);
                        for ((out, &start), weights) in out.iter_mut().zip(&starts).zip(weights) {
                            let taps = &line[start..start + count];
                            *out = taps.iter().zip(weights).map(|(v, w)| v * w).sum();
                        }
                    }
                }
            },
        );
    out
}

fn add_scaled(sum: &mut [f32], weight: f32, values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += weight * value;
    }
}

fn convolve<const N: usize>(line: &[f32], starts: &[usize], weights: &[f32], out: &mut [f32]) {
    for ((out, &start), weights) in out.iter_mut().zip(starts).zip(weights.chunks_exact(N)) {
        let taps = &line[start..start + N];
        *out = (0..N).map(|k| taps[k] * weights[k]).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Interpolation; 5] = [
        Interpolation::Nearest,
        Interpolation::Bilinear,
        Interpolation::BICUBIC,
        Interpolation::BICUBIC_SHARP,
        Interpolation::Lanczos3,
    ];

    /// A panorama without any pattern.
    fn noise(channels: usize, height: usize) -> Raster {
        Raster::from_fn(channels, height, 2 * height, |c, y, x| {
            let n = ((c * 7919 + y) * 104_729 + x).wrapping_mul(0x9E37_79B9) as u32;
            (n >> 8) as f32 / (1 << 24) as f32
        })
    }

    #[test]
    fn a_pixel_centre_gives_the_pixel() {
        let picture = noise(5, 6);
        for interpolation in ALL {
            for sampler in [
                PixelSampler::erp(&picture, interpolation).unwrap(),
                PixelSampler::planar(&picture, interpolation).unwrap(),
            ] {
                let points: Vec<_> = (0..72)
                    .map(|i| ((i % 12) as f64, (i / 12) as f64))
                    .collect();
                for (a, b) in sampler.sample(&points).data().iter().zip(picture.data()) {
                    assert!((a - b).abs() < 1e-6, "{interpolation:?}");
                }
            }
        }
    }

    #[test]
    fn keys_kernel_reproduces_parabolas_and_every_kernel_a_constant() {
        let parabola = Raster::from_fn(1, 1, 20, |_, _, x| (x as f32 - 9.0).powi(2) / 50.0);
        let sampler = PixelSampler::planar(&parabola, Interpolation::BICUBIC).unwrap();
        for i in 0..100 {
            let x = 3.0 + 0.13 * f64::from(i);
            let value = f64::from(sampler.sample(&[(x, 0.0)]).data()[0]);
            assert!((value - (x - 9.0).powi(2) / 50.0).abs() < 1e-5);
        }
        let constant = Raster::zeros(2, 6, 12).map(|_| 0.75);
        let points: Vec<_> = (0..50)
            .map(|i| (0.37 * f64::from(i) - 3.0, 0.11 * f64::from(i)))
            .collect();
        for interpolation in ALL {
            let sampler = PixelSampler::erp(&constant, interpolation).unwrap();
            assert!(
                sampler
                    .sample(&points)
                    .data()
                    .iter()
                    .all(|v| (v - 0.75).abs() < 1e-6)
            );
            for height in [1, 3, 6, 20] {
                let resized = resize_erp(&constant, height, interpolation).unwrap();
                assert!(resized.data().iter().all(|v| (v - 0.75).abs() < 1e-6));
            }
        }
    }

    #[test]
    fn a_planar_picture_is_constant_beyond_its_border() {
        let picture = noise(1, 5);
        for interpolation in ALL {
            let sampler = PixelSampler::planar(&picture, interpolation).unwrap();
            let far = [
                (-1e9, 2.0),
                (1e9, 2.0),
                (f64::NEG_INFINITY, 2.0),
                (f64::INFINITY, 2.0),
            ];
            let values = sampler.sample(&far);
            let expected = [0, 9, 0, 9].map(|x| picture.get(0, 2, x));
            for (a, b) in values.data().iter().zip(expected) {
                assert!((a - b).abs() < 1e-6);
            }
            // Not a number, but no panic either.
            sampler.sample(&[(f64::NAN, f64::NAN)]);
            PixelSampler::erp(&picture, interpolation)
                .unwrap()
                .sample(&[(f64::NAN, f64::INFINITY)]);
        }
    }

    #[test]
    fn the_pixels_of_a_frame_are_numbered_in_order() {
        for (height, width, reach) in [(4, 5, 3), (1, 1, 2), (3, 2, 1)] {
            let frame = Frame {
                height,
                width,
                reach,
            };
            let mut cells = 0;
            for (i, (column, row)) in frame.cells().enumerate() {
                assert_eq!(frame.cell(column as i32, row as i32), Some(i));
                cells = i + 1;
            }
            assert_eq!(frame.len(), cells);
            assert_eq!(frame.cell(0, 0), None);
            assert_eq!(frame.cell(-100, -100), Some(0));
        }
    }

    #[test]
    fn borders_are_sampled_as_the_middle_is() {
        // The same pixels once as a border and once amidst of what lies beyond it, bit for bit.
        let (height, width) = (6i64, 12i64);
        let small = noise(5, 6);
        let erp = Erp::of(&small).unwrap();
        let large = |at: &dyn Fn(i64, i64) -> (usize, usize)| {
            Raster::from_fn(5, 22, 28, |c, y, x| {
                let (x, y) = at(x as i64 - 8, y as i64 - 8);
                small.get(c, y, x)
            })
        };
        let wrapped = large(&|x, y| erp.wrap(x, y));
        let repeated = large(&|x, y| {
            (
                x.clamp(0, width - 1) as usize,
                y.clamp(0, height - 1) as usize,
            )
        });
        let points: Vec<(f64, f64)> = (0..400)
            .map(|i| {
                (
                    f64::from(i % 25) / 2.0 - 0.25,
                    f64::from(i / 25) * 0.375 - 0.5,
                )
            })
            .filter(|&(x, _)| (0.0..12.0).contains(&x))
            .collect();
        let inside: Vec<_> = points.iter().map(|(x, y)| (x + 8.0, y + 8.0)).collect();
        for interpolation in ALL {
            let pairs = [
                (PixelSampler::erp(&small, interpolation), &wrapped),
                (PixelSampler::planar(&small, interpolation), &repeated),
            ];
            for (border, large) in pairs {
                let middle = PixelSampler::planar(large, interpolation).unwrap();
                assert!(border.unwrap().sample(&points) == middle.sample(&inside));
            }
        }
    }

    #[test]
    fn resizing_to_the_same_size_changes_nothing() {
        let picture = noise(2, 9);
        for interpolation in ALL {
            let same = resize_erp(&picture, 9, interpolation).unwrap();
            for (a, b) in same.data().iter().zip(picture.data()) {
                assert!((a - b).abs() < 1e-6, "{interpolation:?}");
            }
        }
    }

    #[test]
    fn resizing_turns_with_the_panorama() {
        let panorama = noise(1, 8);
        let turned = Raster::from_fn(1, 8, 16, |_, y, x| panorama.get(0, y, (x + 4) % 16));
        for interpolation in ALL {
            for (height, shift) in [(16, 8), (4, 2), (24, 12)] {
                let a = resize_erp(&panorama, height, interpolation).unwrap();
                let b = resize_erp(&turned, height, interpolation).unwrap();
                for y in 0..height {
                    for x in 0..2 * height {
                        let (a, b) = (a.get(0, y, (x + shift) % (2 * height)), b.get(0, y, x));
                        assert!((a - b).abs() < 1e-6);
                    }
                }
            }
        }
    }

    #[test]
    fn enlarging_is_sampling_at_the_new_centres() {
        let panorama = noise(1, 6);
        for interpolation in [Interpolation::Bilinear, Interpolation::BICUBIC] {
            let large = resize_erp(&panorama, 18, interpolation).unwrap();
            let sampler = PixelSampler::erp(&panorama, interpolation).unwrap();
            for y in 0..18 {
                for x in 0..36 {
                    let at = |i: usize| (i as f64 + 0.5) / 3.0 - 0.5;
                    let value = sampler.sample(&[(at(x), at(y))]).data()[0];
                    assert!((large.get(0, y, x) - value).abs() < 2e-5);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_resampled_is_refused() {
        let not_two_to_one = Raster::zeros(1, 4, 4);
        assert!(matches!(
            PixelSampler::erp(&not_two_to_one, Interpolation::BICUBIC),
            Err(ResampleError::Erp(ErpError::NotTwoToOne { .. }))
        ));
        let empty = Raster::zeros(0, 4, 8);
        assert!(matches!(
            PixelSampler::erp(&empty, Interpolation::BICUBIC),
            Err(ResampleError::Empty { channels: 0, .. })
        ));
        let panorama = Raster::zeros(1, 4, 8);
        let kernel = Interpolation::Bicubic { a: f32::NAN };
        assert!(matches!(
            resize_erp(&panorama, 8, kernel),
            Err(ResampleError::Kernel { .. })
        ));
        assert!(resize_erp(&panorama, usize::MAX, Interpolation::BICUBIC).is_err());
        assert!(resize_erp(&panorama, 0, Interpolation::BICUBIC).is_err());
        assert!(matches!(
            resize_planar(&panorama, 0, 3, Interpolation::BICUBIC),
            Err(ResampleError::Size {
                height: 0,
                width: 3
            })
        ));
    }

    proptest! {
        #[test]
        fn sampling_a_panorama_is_periodic(
            x in -0.5f64..15.5,
            y in -0.5f64..7.5,
            turns in -3i32..4,
            kind in 0usize..5,
        ) {
            let panorama = noise(3, 8);
            let sampler = PixelSampler::erp(&panorama, ALL[kind]).unwrap();
            // Positions are multiples of 2^-16 pixels: take one, so that all are exact.
            let snap = |v: f64| (v * 65536.0).round() / 65536.0;
            let (x, y) = (snap(x), snap(y));
            let here = sampler.sample(&[(x, y)]);
            let around = sampler.sample(&[(x + 16.0 * f64::from(turns), y)]);
            prop_assert_eq!(here.data(), around.data());
            // Over the north pole and over the south pole, to the other side of the same parallel;
            // a mirrored position, whose taps are added in another order.
            if ALL[kind] != Interpolation::Nearest {
                for row in [-1.0 - y, 15.0 - y] {
                    let over = sampler.sample(&[(x + 8.0, row)]);
                    for (a, b) in here.data().iter().zip(over.data()) {
                        prop_assert!((a - b).abs() < 1e-5);
                    }
                }
            }
        }
    }
}
