//! Interpolation between pixels: sampling at any position, and resizing.
//!
//! A picture is a lattice of samples `f[j]`; its value at a position `x` in between is
//! `Σ_j f[j] k(x − j)` with one of these kernels, in each direction:
//!
//! * nearest: `k = 1` on `[−½, ½)`;
//! * bilinear: `k(x) = 1 − |x|` on `|x| < 1`;
//! * bicubic, the cubic convolution of R. Keys, "Cubic convolution interpolation for digital image
//!   processing" (1981), with his `a = −½`, the only value with which it reproduces parabolas:
//!   `k(x) = (a+2)|x|³ − (a+3)|x|² + 1` on `|x| ≤ 1`, `a|x|³ − 5a|x|² + 8a|x| − 4a` on `|x| < 2`;
//! * Lanczos: `k(x) = sinc(x) sinc(x/3)` on `|x| < 3`, divided by the sum of its taps.
//!
//! Pixels beyond the border are also needed: an equirectangular panorama continues on its other side and
//! across its poles ([`Erp::wrap`]), a planar picture repeats its outermost pixels. Positions refer to pixel
//! centres: `(0, 0)` is the centre of the first pixel.
//!
//! [`resize_planar`] and [`resize_erp`] align the outer edges of the pictures (output pixel `i` lies at `(i +
//! ½)·n/m − ½`) and, when they shrink, stretch the kernel by `n/m`, so that it also removes detail that the
//! smaller picture cannot show. At the borders of a planar picture, taps outside the picture are left out and
//! the others divided by their sum. All of this is as in Pillow, whose bicubic filter made the low-resolution
//! panoramas of OmniSSR.

mod gather;
mod resize;

use std::borrow::Cow;
use std::f64::consts::PI;
use std::ops::Range;

use nabla_base::range::{self, OutOfRange};
use nabla_data::Raster;
use serde::{Deserialize, Serialize};

use crate::erp::{Erp, ErpError};

pub(crate) use resize::resize_corners;
pub use resize::{resize_erp, resize_planar};

use gather::{Gather, cubic_weights, each, lanczos_weights};

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

nabla_base::choices! {
    Interpolation: "interpolation" {
        "nearest" => Self::Nearest, "The nearest pixel";
        "bilinear" => Self::Bilinear, "2 x 2 pixels";
        "bicubic" => Self::BICUBIC_SHARP, "4 x 4 pixels, a = −0.75, as in OpenCV: the best cubic kernel for photographs";
        "bicubic-keys" => Self::BICUBIC, "4 x 4 pixels, a = −0.5, as in Pillow: the most accurate for smooth pictures";
        "lanczos" => Self::Lanczos3, "6 x 6 pixels";
    }
}

impl Interpolation {
    /// Cubic convolution with Keys' `a = −0.5`: as in Pillow and MATLAB, the most accurate for smooth
    /// pictures.
    pub const BICUBIC: Self = Self::Bicubic { a: -0.5 };
    /// Cubic convolution with `a = −0.75`: as in OpenCV and PyTorch. It is sharper, and loses less of
    /// photographs that are resampled to another grid and back (see [`TangentOptions`]).
    ///
    /// [`TangentOptions`]: crate::tangent::TangentOptions
    pub const BICUBIC_SHARP: Self = Self::Bicubic { a: -0.75 };

    /// The distance from the centre, in pixels, beyond which the kernel is zero.
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
            Self::Bicubic { a } => Ok(range::finite("parameter a of the cubic kernel", a.into())?),
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

/// A picture or size cannot be resampled.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ResampleError {
    /// The size of the given or requested panorama is not that of a panorama.
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
    /// The given or requested picture is too large for fixed-point coordinates.
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
    /// The parameter of the cubic kernel is not finite.
    #[error(transparent)]
    Range(#[from] OutOfRange),
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

/// Positions are fixed-point numbers with this many fractional bits: they can be added and wrapped exactly,
/// so a panorama rotated by whole pixels gives the same samples bit for bit.
pub(crate) const FRACTION_BITS: u32 = 16;

/// One pixel in fixed point.
pub(crate) const ONE: i32 = 1 << FRACTION_BITS;

/// A coordinate in pixels as a fixed-point number; clamped if it is out of range.
pub(crate) fn fixed(coordinate: f64) -> i32 {
    (coordinate * f64::from(ONE)).round() as i32
}

/// The maximum distance of a position outside the outermost pixel centres. Beyond it a planar
/// picture is constant, as all taps of the widest kernel are the same pixel.
const MARGIN: i32 = 4;

/// Steps of the table of Lanczos weights, which are interpolated linearly (error below 1e-6).
const LANCZOS_STEPS: usize = 1024;

/// The number of positions that are sampled together.
pub(crate) const BATCH: usize = 16;

/// A channel's values at the positions of a batch.
pub(crate) type Values = [f32; BATCH];

/// Writes the values of a batch, as many as the line has room for.
#[inline(always)]
pub(crate) fn store(line: &mut [f32], values: &Values) {
    // With a known length, the copy takes two registers instead of a call; the rest is separate, because
    // otherwise the compiler makes one call of both.
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
/// It reads the picture in place, channel by channel. Positions whose taps all lie inside need no test, and
/// the taps of the few others are collected first.
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

/// The continuation beyond the border of a picture.
#[derive(Clone, Debug)]
enum Border {
    /// The other side of the sphere.
    Sphere(Erp),
    /// The outermost pixels, repeated.
    Repeat,
    /// A frame, whose pixels are `[channels, cells]`.
    Frame(Frame, Vec<f32>),
}

impl<'a> PixelSampler<'a> {
    /// Samples an equirectangular panorama `[channels, height, 2 height]`, which continues on its other side
    /// and across its poles.
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

    /// [`Self::erp`] for a panorama that the sampler may own.
    pub(crate) fn erp_of(
        panorama: Cow<'a, Raster>,
        interpolation: Interpolation,
    ) -> Result<Self, ResampleError> {
        let erp = check_erp(&panorama)?;
        Self::new(panorama, interpolation, Border::Sphere(erp))
    }

    /// [`Self::planar`] for a picture that the sampler may own.
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

    /// Samples the picture at `points`, each a `(column, row)`; returns `[channels, 1, points]`.
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

    /// Adds a frame of pixels around the picture, `[channels, cells]`.
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

    /// Samples the picture at the `position` of each point of the `lines`, which come with the number of
    /// their first point. Calls `emit` for each [`BATCH`] of points and each channel, with the numbers of the
    /// points, the channel and the values; at the end of a line, there may be more values than points.
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

    /// The positions in a channel of the `N x N` taps from a column and row on. A position beyond the
    /// channel's last sample is in the frame.
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

    /// The number of the pixel at a column and row, or `None` inside the picture. Beyond the frame, it is the
    /// nearest one.
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

#[cfg(test)]
mod tests;
