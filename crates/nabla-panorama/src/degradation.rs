//! The degradation operator of OmniSSR and its pseudo-inverse.
//!
//! OmniSSR assumes that the low-resolution panorama `y` is `y = A x`: the sharp panorama `x`, reduced by an
//! integer scale `s` with an antialiased bicubic filter. Along each axis, sample `i` of the result is
//!
//! ```text
//! (A₁ x)_i = Σ_t k_t · x[s·i + ⌊s/2⌋ − 2s + t],      t = 0 … 4s − 1
//! k_t ∝ κ((t − 2s + ½)/s)   (s even)      k_t ∝ κ((t − 2s)/s)   (s odd)        Σ k_t = 1
//! κ(u) = 1.5|u|³ − 2.5|u|² + 1 (|u| < 1),  −0.5|u|³ + 2.5|u|² − 4|u| + 2 (|u| < 2),  0 else
//! ```
//!
//! and `A = A₁ᵛ ⊗ A₁ʰ` on each channel. Both forms of the kernel are centred on the `s` samples that an
//! output sample covers, as in Pillow and MATLAB. The official code uses the form for even scales at odd
//! scales, too, which would shift the picture by half a sample.
//!
//! # The pseudo-inverse
//! `A₁` has full row rank, so `A₁⁺ = A₁ᵀ (A₁A₁ᵀ)⁻¹` and `A₁A₁⁺ = I`. A row of `A₁` overlaps with only three
//! rows on either side, so `A₁A₁ᵀ` is banded (with corners if the axis wraps) and well conditioned: the
//! singular values of `A₁` lie within `[0.486, 0.707]` at scale 2 and `[0.349, 0.500]` at scale 4. Its
//! Cholesky factor is computed once per axis; it keeps the band and, if the axis wraps, only its last three
//! rows are full. So `A⁺` costs a few additions per sample at any size, and is exact. The official code uses
//! a dense SVD of a 256 x 256 matrix and, to keep this affordable, cuts the panorama into blocks of 256 x 256
//! with reflected borders. There are no blocks here: they would add seams to the operator and save nothing.
//!
//! # Borders
//! A panorama wraps in longitude. Beyond a pole it continues half a turn away, which an operator that works
//! along one column cannot express, so rows are reflected there (row `−1` is row `0`).
//! [`BicubicDown::official`] reflects columns too, as the official code does.
//!
//! # Gradient Decomposition
//! A gradient step on `½‖A x − y‖²` is `−γ Aᵀ(A x − y)`. Gradient Decomposition replaces `Aᵀ` by `A⁺`, and so
//! moves only the range-space part of `x`, towards agreement with `y`:
//!
//! ```text
//! x̃ = (I − γ A⁺A) x + γ A⁺ y = x − γ A⁺(A x − y)
//! ```
//!
//! With `γ = 1` this is DDNM's range–null-space projection, `A x̃ = y`.
//!
//! Source: R. Li, X. Sheng, W. Li, J. Zhang, "OmniSSR: Zero-shot Omnidirectional Image
//! Super-Resolution using Stable Diffusion Model", ECCV 2024, arXiv 2404.10312. The projection is
//! that of Y. Wang, J. Yu, J. Zhang, "Zero-Shot Image Restoration Using Denoising Diffusion
//! Null-Space Model", ICLR 2023, arXiv 2212.00490. Kernel: R. Keys, "Cubic convolution
//! interpolation for digital image processing", 1981, `a = −0.5`.

use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::dot;
use nabla_data::Raster;
use nabla_diffusion::restore::bicubic_taps;
use rayon::prelude::*;

use crate::Erp;

/// A picture or an operator has the wrong size.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DegradationError {
    /// The scale is not supported.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The picture has no pixels.
    #[error("a picture to reduce needs pixels, but this one is {width} x {height}")]
    Empty {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// A side is longer than [`BicubicDown::MAX_SIDE`].
    #[error(
        "a picture to reduce may be at most {} pixels long on a side, but this one is \
         {width} x {height}",
        BicubicDown::MAX_SIDE
    )]
    TooLarge {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
    },
    /// The scale does not divide the size.
    #[error(
        "a picture of {width} x {height} cannot be reduced by {scale}: both sides must be \
         multiples of {scale}"
    )]
    NotDivisible {
        /// Columns.
        width: usize,
        /// Rows.
        height: usize,
        /// The requested scale.
        scale: usize,
    },
    /// A picture does not have the size of the operator.
    #[error(
        "the operator works on pictures of {} x {}, but this one is {} x {}",
        expected[1], expected[0], found[1], found[0]
    )]
    Size {
        /// `[height, width]` of the operator.
        expected: [usize; 2],
        /// `[height, width]` of the picture.
        found: [usize; 2],
    },
    /// The picture and its measurement have different numbers of channels.
    #[error("the picture has {picture} channels, but its measurement has {measurement}")]
    Channels {
        /// Channels of `x`.
        picture: usize,
        /// Channels of `y`.
        measurement: usize,
    },
    /// The reduction loses a whole row of `A₁`, so it has no pseudo-inverse with `A A⁺ = I`.
    #[error("the reduction of {length} samples by {scale} cannot be inverted")]
    Singular {
        /// Samples along the axis.
        length: usize,
        /// The scale.
        scale: usize,
    },
}

/// A linear map `A` of pictures, channel by channel, with its adjoint and its pseudo-inverse.
///
/// Samples need not be in `[0, 1]`: the maps are linear and do not clamp. The number of channels is arbitrary.
pub trait LinearOperator {
    /// `[height, width]` of the pictures that [`Self::apply`] takes.
    fn input_size(&self) -> [usize; 2];

    /// `[height, width]` of the pictures that [`Self::apply`] returns.
    fn output_size(&self) -> [usize; 2];

    /// `A x`: from `[channels, input_size]` to `[channels, output_size]`.
    ///
    /// # Errors
    /// If `x` is not of [`Self::input_size`].
    fn apply(&self, x: &Raster) -> Result<Raster, DegradationError>;

    /// `Aᵀ y`: from `[channels, output_size]` to `[channels, input_size]`.
    ///
    /// # Errors
    /// If `y` is not of [`Self::output_size`].
    fn adjoint(&self, y: &Raster) -> Result<Raster, DegradationError>;

    /// `A⁺ y`, the picture of least norm among those that `A` maps closest to `y`: from
    /// `[channels, output_size]` to `[channels, input_size]`.
    ///
    /// # Errors
    /// If `y` is not of [`Self::output_size`].
    fn pseudo_inverse(&self, y: &Raster) -> Result<Raster, DegradationError>;
}

/// The continuation beyond the ends of an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Boundary {
    /// The axis is mirrored between samples: index `−1` is `0`, `n` is `n − 1`.
    #[default]
    Reflect,
    /// The axis is a circle: index `−1` is `n − 1`, `n` is `0`.
    Wrap,
    /// The outermost sample is repeated: each index below 0 is `0`, each above is `n − 1`.
    Replicate,
}

impl Boundary {
    /// The sample at `index` on an axis of `n > 0` samples.
    fn resolve(self, index: i64, n: usize) -> usize {
        let n = n as i64;
        (match self {
            Self::Wrap => index.rem_euclid(n),
            Self::Replicate => index.clamp(0, n - 1),
            Self::Reflect => {
                let i = index.rem_euclid(2 * n);
                if i < n { i } else { 2 * n - 1 - i }
            }
        }) as usize
    }
}

/// The number of rows (or columns) processed in parallel: two cache lines of `f64`.
const LANES: usize = 16;
type Lane = [f64; LANES];

/// `A₁` along one axis, with the Cholesky factor of `A₁A₁ᵀ`.
#[derive(Clone, Debug)]
struct Axis {
    fine: usize,
    coarse: usize,
    /// `k_t`, `4s` taps.
    taps: Vec<f64>,
    /// The input index of tap `t` of output sample `i`, at `i * taps + t`.
    index: Vec<u32>,
    factor: EnvelopeCholesky,
}

impl Axis {
    /// `None` if `A₁A₁ᵀ` is not positive definite.
    fn new(fine: usize, scale: usize, boundary: Boundary) -> Option<Self> {
        let coarse = fine / scale;
        let taps = bicubic_taps(scale);
        let mut index = Vec::with_capacity(coarse * taps.len());
        for i in 0..coarse {
            let start = (scale * i + scale / 2) as i64 - 2 * scale as i64;
            for t in 0..taps.len() {
                index.push(boundary.resolve(start + t as i64, fine) as u32);
            }
        }
        let factor = EnvelopeCholesky::of_gram(&taps, &index, fine, coarse)?;
        Some(Self {
            fine,
            coarse,
            taps,
            index,
            factor,
        })
    }

    /// `out = A₁ x`; `x` holds `fine` lanes and `out` `coarse`.
    fn reduce(&self, x: &mut [Lane], out: &mut [Lane]) {
        for (index, out) in self.index.chunks_exact(self.taps.len()).zip(out) {
            let mut sum = [0.0; LANES];
            for (k, &i) in self.taps.iter().zip(index) {
                for (s, v) in sum.iter_mut().zip(&x[i as usize]) {
                    *s += k * v;
                }
            }
            *out = sum;
        }
    }

    /// `out = A₁ᵀ y`; `y` holds `coarse` lanes and `out` `fine`.
    fn spread(&self, y: &mut [Lane], out: &mut [Lane]) {
        out.fill([0.0; LANES]);
        for (index, y) in self.index.chunks_exact(self.taps.len()).zip(y) {
            for (k, &i) in self.taps.iter().zip(index) {
                for (o, v) in out[i as usize].iter_mut().zip(y.iter()) {
                    *o += k * v;
                }
            }
        }
    }

    /// `out = A₁⁺ y = A₁ᵀ (A₁A₁ᵀ)⁻¹ y`; `y` is used up.
    fn pseudo_invert(&self, y: &mut [Lane], out: &mut [Lane]) {
        self.factor.solve(y);
        self.spread(y, out);
    }
}

/// The Cholesky factor `L` of a symmetric matrix `L Lᵀ`, each row stored from its first nonzero entry up to
/// the diagonal: elimination adds no entries outside this envelope. For a banded matrix, the rows have the
/// length of the band; for a banded matrix with corners, the last rows are full.
#[derive(Clone, Debug)]
struct EnvelopeCholesky {
    /// Column of the first entry of each row.
    first: Vec<usize>,
    /// Where each row starts in `values`, and the end of the last.
    start: Vec<usize>,
    /// The entries; on the diagonal the reciprocal.
    values: Vec<f64>,
}

impl EnvelopeCholesky {
    /// Pivots below this count as zero; those of `A₁A₁ᵀ` are squares of singular values, 0.1 and
    /// above.
    const SMALLEST_PIVOT: f64 = 1e-9;

    /// Factors the matrix of inner products of the rows of `A₁`.
    fn of_gram(taps: &[f64], index: &[u32], fine: usize, coarse: usize) -> Option<Self> {
        // The entries of `A₁` by column; a column may hold a row twice where the border folds.
        let mut columns: Vec<Vec<(usize, f64)>> = vec![Vec::new(); fine];
        for (row, index) in index.chunks_exact(taps.len()).enumerate() {
            for (&k, &i) in taps.iter().zip(index) {
                columns[i as usize].push((row, k));
            }
        }
        let mut first: Vec<usize> = (0..coarse).collect();
        for column in &columns {
            if let Some(least) = column.iter().map(|&(row, _)| row).min() {
                for &(row, _) in column {
                    first[row] = first[row].min(least);
                }
            }
        }
        let mut start = Vec::with_capacity(coarse + 1);
        let mut end = 0;
        for (row, &first) in first.iter().enumerate() {
            start.push(end);
            end += row - first + 1;
        }
        start.push(end);
        let mut values = vec![0.0; end];
        for column in &columns {
            for &(row, k) in column {
                for &(other, l) in column {
                    if other <= row {
                        values[start[row] + other - first[row]] += k * l;
                    }
                }
            }
        }
        let mut matrix = Self {
            first,
            start,
            values,
        };
        matrix.factor().then_some(matrix)
    }

    /// Replaces the lower triangle of a matrix with its factor; `false` if it has none.
    fn factor(&mut self) -> bool {
        for i in 0..self.first.len() {
            let (first_i, start_i) = (self.first[i], self.start[i]);
            for j in first_i..=i {
                let (first_j, start_j) = (self.first[j], self.start[j]);
                let from = first_i.max(first_j);
                let a = &self.values[start_i + from - first_i..][..j - from];
                let b = &self.values[start_j + from - first_j..][..j - from];
                let left = self.values[start_i + j - first_i] - dot(a, b);
                self.values[start_i + j - first_i] = if j < i {
                    left * self.values[start_j + j - first_j]
                } else if left > Self::SMALLEST_PIVOT {
                    left.sqrt().recip()
                } else {
                    return false;
                };
            }
        }
        true
    }

    /// Replaces `z` by the solution of `L Lᵀ x = z`, for each lane.
    fn solve(&self, z: &mut [Lane]) {
        let n = self.first.len();
        for i in 0..n {
            let row = &self.values[self.start[i]..self.start[i + 1]];
            let (done, rest) = z.split_at_mut(i);
            let mut sum = rest[0];
            for (l, x) in row.iter().zip(&done[self.first[i]..]) {
                for (s, x) in sum.iter_mut().zip(x) {
                    *s -= l * x;
                }
            }
            let reciprocal = row[row.len() - 1];
            rest[0] = sum.map(|s| s * reciprocal);
        }
        for i in (0..n).rev() {
            let row = &self.values[self.start[i]..self.start[i + 1]];
            let (done, rest) = z.split_at_mut(i);
            let reciprocal = row[row.len() - 1];
            let x = rest[0].map(|s| s * reciprocal);
            rest[0] = x;
            for (l, d) in row.iter().zip(&mut done[self.first[i]..]) {
                for (d, x) in d.iter_mut().zip(&x) {
                    *d -= l * x;
                }
            }
        }
    }
}

/// Applies `map`, from `input` to `output` samples, to each row of a plane.
fn along_rows(
    plane: &[f32],
    input: usize,
    output: usize,
    map: impl Fn(&mut [Lane], &mut [Lane]) + Sync,
) -> Vec<f32> {
    let mut result = vec![0.0; plane.len() / input * output];
    result
        .par_chunks_mut(LANES * output)
        .zip(plane.par_chunks(LANES * input))
        .for_each_init(
            || (vec![[0.0; LANES]; input], vec![[0.0; LANES]; output]),
            |(a, b), (result, plane)| {
                let rows = plane.len() / input;
                for (k, a) in a.iter_mut().enumerate() {
                    for (r, a) in a[..rows].iter_mut().enumerate() {
                        *a = f64::from(plane[r * input + k]);
                    }
                }
                map(a, b);
                for (k, b) in b.iter().enumerate() {
                    for (r, &b) in b[..rows].iter().enumerate() {
                        result[r * output + k] = b as f32;
                    }
                }
            },
        );
    result
}

/// Applies `map`, from `input` to `output` samples, to each column of a plane of `width` columns.
fn along_columns(
    plane: &[f32],
    width: usize,
    input: usize,
    output: usize,
    map: impl Fn(&mut [Lane], &mut [Lane]) + Sync,
) -> Vec<f32> {
    // Strips of `LANES` columns, each contiguous, so that threads write to separate memory.
    let mut strips = vec![0.0f32; width.div_ceil(LANES) * LANES * output];
    strips
        .par_chunks_mut(LANES * output)
        .enumerate()
        .for_each_init(
            || (vec![[0.0; LANES]; input], vec![[0.0; LANES]; output]),
            |(a, b), (strip, out)| {
                let left = strip * LANES;
                let columns = LANES.min(width - left);
                for (row, a) in plane.chunks_exact(width).zip(a.iter_mut()) {
                    for (a, &v) in a.iter_mut().zip(&row[left..left + columns]) {
                        *a = f64::from(v);
                    }
                }
                map(a, b);
                for (out, b) in out.chunks_exact_mut(LANES).zip(b.iter()) {
                    for (o, &b) in out.iter_mut().zip(b) {
                        *o = b as f32;
                    }
                }
            },
        );
    let mut result = vec![0.0; output * width];
    result
        .par_chunks_mut(width)
        .enumerate()
        .for_each(|(row, result)| {
            for (strip, result) in result.chunks_mut(LANES).enumerate() {
                let at = (strip * output + row) * LANES;
                result.copy_from_slice(&strips[at..at + result.len()]);
            }
        });
    result
}

/// OmniSSR's degradation: an antialiased bicubic reduction by an integer scale, with its exact
/// pseudo-inverse. See the [module](self) for the equations.
///
/// ```
/// use nabla_data::Raster;
/// use nabla_panorama::{BicubicDown, Erp, LinearOperator};
///
/// let operator = BicubicDown::new(4, Erp::new(64, 128)?)?;
/// let low = Raster::from_fn(3, 16, 32, |c, y, x| ((c + y * x) % 7) as f32 / 7.0);
/// let high = operator.pseudo_inverse(&low)?;
/// assert_eq!(high.shape(), [3, 64, 128]);
/// let again = operator.apply(&high)?;
/// for (a, b) in again.data().iter().zip(low.data()) {
///     assert!((a - b).abs() < 1e-5);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct BicubicDown {
    scale: usize,
    vertical: Axis,
    horizontal: Axis,
}

impl BicubicDown {
    /// The maximum scale.
    pub const MAX_SCALE: usize = 16;

    /// The maximum side, in pixels, of a picture to be reduced.
    pub const MAX_SIDE: usize = 1 << 20;

    /// Checks that pictures can be reduced by `scale`.
    pub(crate) fn check_scale(scale: usize) -> Result<(), OutOfRange> {
        range::within("scale of a reduction", scale, 2..=Self::MAX_SCALE)
    }

    /// The operator that reduces a panorama of size `erp` by `scale` (2 to [`Self::MAX_SCALE`]):
    /// columns wrap, rows are reflected.
    ///
    /// # Errors
    /// If the scale is out of range or does not divide the height.
    pub fn new(scale: usize, erp: Erp) -> Result<Self, DegradationError> {
        Self::with_boundaries(
            scale,
            [erp.height(), erp.width()],
            Boundary::Reflect,
            Boundary::Wrap,
        )
    }

    /// The same with columns reflected at the 180-degree meridian, as in the official code.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn official(scale: usize, erp: Erp) -> Result<Self, DegradationError> {
        Self::with_boundaries(
            scale,
            [erp.height(), erp.width()],
            Boundary::Reflect,
            Boundary::Reflect,
        )
    }

    /// The operator for any picture of `[height, width]`, with the continuation `vertical` beyond the first
    /// and last row, and `horizontal` beyond the first and last column.
    ///
    /// ```
    /// use nabla_panorama::{BicubicDown, Boundary};
    /// let tile = BicubicDown::with_boundaries(2, [30, 20], Boundary::Reflect, Boundary::Reflect);
    /// assert!(tile.is_ok());
    /// let odd = BicubicDown::with_boundaries(4, [30, 20], Boundary::Reflect, Boundary::Reflect);
    /// assert_eq!(
    ///     odd.unwrap_err().to_string(),
    ///     "a picture of 20 x 30 cannot be reduced by 4: both sides must be multiples of 4"
    /// );
    /// ```
    ///
    /// # Errors
    /// If the scale is out of range or does not divide both sides, or if a side is zero or above
    /// [`Self::MAX_SIDE`].
    pub fn with_boundaries(
        scale: usize,
        [height, width]: [usize; 2],
        vertical: Boundary,
        horizontal: Boundary,
    ) -> Result<Self, DegradationError> {
        Self::check_scale(scale)?;
        if height == 0 || width == 0 {
            return Err(DegradationError::Empty { width, height });
        }
        if height.max(width) > Self::MAX_SIDE {
            return Err(DegradationError::TooLarge { width, height });
        }
        if !height.is_multiple_of(scale) || !width.is_multiple_of(scale) {
            return Err(DegradationError::NotDivisible {
                width,
                height,
                scale,
            });
        }
        let axis = |length, boundary| {
            Axis::new(length, scale, boundary).ok_or(DegradationError::Singular { length, scale })
        };
        Ok(Self {
            scale,
            vertical: axis(height, vertical)?,
            horizontal: axis(width, horizontal)?,
        })
    }

    /// The scale `s`.
    pub fn scale(&self) -> usize {
        self.scale
    }

    fn check(expected: [usize; 2], picture: &Raster) -> Result<(), DegradationError> {
        let found = [picture.height(), picture.width()];
        if found == expected {
            Ok(())
        } else {
            Err(DegradationError::Size { expected, found })
        }
    }

    /// Maps each plane of `picture` to one of `[height, width]`.
    fn each_plane(
        picture: &Raster,
        [height, width]: [usize; 2],
        map: impl Fn(&[f32]) -> Vec<f32>,
    ) -> Raster {
        let mut result = Raster::zeros(picture.channels(), height, width);
        for channel in 0..picture.channels() {
            result
                .plane_mut(channel)
                .copy_from_slice(&map(picture.plane(channel)));
        }
        result
    }

    /// From coarse to fine along both axes; rows first, while there are few of them.
    fn enlarge(
        &self,
        y: &Raster,
        map: impl Fn(&Axis, &mut [Lane], &mut [Lane]) + Sync,
    ) -> Result<Raster, DegradationError> {
        Self::check(self.output_size(), y)?;
        let (v, h) = (&self.vertical, &self.horizontal);
        Ok(Self::each_plane(y, self.input_size(), |plane| {
            let wide = along_rows(plane, h.coarse, h.fine, |a, b| map(h, a, b));
            along_columns(&wide, h.fine, v.coarse, v.fine, |a, b| map(v, a, b))
        }))
    }
}

impl LinearOperator for BicubicDown {
    fn input_size(&self) -> [usize; 2] {
        [self.vertical.fine, self.horizontal.fine]
    }

    fn output_size(&self) -> [usize; 2] {
        [self.vertical.coarse, self.horizontal.coarse]
    }

    fn apply(&self, x: &Raster) -> Result<Raster, DegradationError> {
        Self::check(self.input_size(), x)?;
        let (v, h) = (&self.vertical, &self.horizontal);
        Ok(Self::each_plane(x, self.output_size(), |plane| {
            let narrow = along_rows(plane, h.fine, h.coarse, |a, b| h.reduce(a, b));
            along_columns(&narrow, h.coarse, v.fine, v.coarse, |a, b| v.reduce(a, b))
        }))
    }

    fn adjoint(&self, y: &Raster) -> Result<Raster, DegradationError> {
        self.enlarge(y, Axis::spread)
    }

    fn pseudo_inverse(&self, y: &Raster) -> Result<Raster, DegradationError> {
        self.enlarge(y, Axis::pseudo_invert)
    }
}

/// One step of Gradient Decomposition, `x − γ A⁺(A x − y)`.
///
/// `x` is `[channels, input_size]`, `y` is `[channels, output_size]`, both in the same units. With
/// `gamma = 1` (the paper's `γ_e` and `γ_p`) the result is the picture closest to `x` that `A`
/// maps to `y`; with 0 it is `x`. Nothing is clamped: clamping afterwards undoes part of the
/// agreement with `y`.
///
/// ```
/// use nabla_data::Raster;
/// use nabla_panorama::{BicubicDown, Erp, LinearOperator, gradient_decomposition};
///
/// let operator = BicubicDown::new(2, Erp::new(8, 16)?)?;
/// let x = Raster::from_fn(1, 8, 16, |_, y, x| (x * y % 5) as f32 / 5.0);
/// let y = Raster::from_fn(1, 4, 8, |_, y, x| (x + y) as f32 / 12.0);
/// let agreed = gradient_decomposition(&operator, &x, &y, 1.0)?;
/// for (a, b) in operator.apply(&agreed)?.data().iter().zip(y.data()) {
///     assert!((a - b).abs() < 1e-5);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If `x` or `y` is not of the operator's sizes, or their channels differ.
pub fn gradient_decomposition<A: LinearOperator + ?Sized>(
    operator: &A,
    x: &Raster,
    y: &Raster,
    gamma: f32,
) -> Result<Raster, DegradationError> {
    let expected = operator.output_size();
    let found = [y.height(), y.width()];
    if found != expected {
        return Err(DegradationError::Size { expected, found });
    }
    if x.channels() != y.channels() {
        return Err(DegradationError::Channels {
            picture: x.channels(),
            measurement: y.channels(),
        });
    }
    let mut residual = operator.apply(x)?;
    for (r, y) in residual.data_mut().iter_mut().zip(y.data()) {
        *r -= y;
    }
    let mut result = operator.pseudo_inverse(&residual)?;
    for (step, x) in result.data_mut().iter_mut().zip(x.data()) {
        *step = x - gamma * *step;
    }
    Ok(result)
}

#[cfg(test)]
mod tests;
