//! Maps that work along the columns and along the rows of a picture: reduction (super-resolution), and blur by a
//! product of two kernels.
//!
//! ```text
//! Y = R X Cᵀ
//! ```
//!
//! for each channel. With `R = U_r S_r V_rᵀ` and `C = U_c S_c V_cᵀ` the singular values of the whole are all products
//! `s_r s_c`, and its right singular vectors the products of those of the two axes: so a picture of 256 x 256 needs
//! two decompositions of matrices with 256 columns, once.
//!
//! Sources: Keys, *Cubic Convolution Interpolation for Digital Image Processing*, 1981 (the cubic kernel, `a = −0.5`);
//! Kawar, Elad, Ermon, Song, *Denoising Diffusion Restoration Models*, 2022, arXiv 2201.11793, appendix D (the
//! singular values of separable operators).

use burn::tensor::Tensor;
use faer::Mat;
use nabla_base::range;
use serde::{Deserialize, Serialize};

use super::right_vectors::{LazyVectors, RightVectors};
use crate::restore::operator::{
    Decomposed, LinearOperator, OperatorError, check_shape, check_sides, on_host,
};

/// The filter of a reduction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reduction {
    /// The mean of the pixels that a large pixel covers.
    Average,
    /// The cubic kernel, stretched, as Pillow and MATLAB reduce pictures.
    #[default]
    Bicubic,
}

/// What lies beyond the edge of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boundary {
    /// The picture mirrored, the pixel at the edge repeated: `… b a | a b c`.
    #[default]
    Reflect,
    /// The picture again, from the other edge.
    Circular,
    /// Nothing.
    Zero,
}

impl Boundary {
    /// The pixel that stands for the place `i` of an axis of `length` pixels; `None` where there is nothing.
    pub(crate) fn index(self, i: isize, length: usize) -> Option<usize> {
        let n = length as isize;
        let inside = match self {
            Self::Circular => i.rem_euclid(n),
            Self::Reflect => match i.rem_euclid(2 * n) {
                i if i < n => i,
                i => 2 * n - 1 - i,
            },
            Self::Zero => i,
        };
        (0..n).contains(&inside).then_some(inside as usize)
    }
}

/// A sparse matrix along one axis.
#[derive(Clone, Debug)]
struct Axis {
    /// Length of what it is applied to.
    from: usize,
    /// The entries of each row.
    rows: Vec<Vec<(usize, f64)>>,
    vectors: LazyVectors,
}

impl Axis {
    fn new(from: usize, rows: Vec<Vec<(usize, f64)>>) -> Self {
        Self {
            from,
            rows,
            vectors: LazyVectors::default(),
        }
    }

    /// Each row is the taps at the places from `first(row)` on.
    fn of_taps(
        from: usize,
        to: usize,
        taps: &[f64],
        boundary: Boundary,
        first: impl Fn(usize) -> isize,
    ) -> Self {
        let row = |i: usize| {
            let mut entries: Vec<(usize, f64)> = Vec::with_capacity(taps.len());
            for (t, &tap) in taps.iter().enumerate().filter(|(_, tap)| **tap != 0.0) {
                let Some(index) = boundary.index(first(i) + t as isize, from) else {
                    continue;
                };
                match entries.iter_mut().find(|(known, _)| *known == index) {
                    Some((_, sum)) => *sum += tap,
                    None => entries.push((index, tap)),
                }
            }
            entries
        };
        Self::new(from, (0..to).map(row).collect())
    }

    fn to(&self) -> usize {
        self.rows.len()
    }

    fn values(&self) -> Result<&RightVectors, OperatorError> {
        self.vectors.get(NAME, || {
            let mut dense = Mat::<f64>::zeros(self.to(), self.from);
            for (i, row) in self.rows.iter().enumerate() {
                for &(j, value) in row {
                    dense[(i, j)] += value;
                }
            }
            dense
        })
    }
}

const NAME: &str = "a separable operator";

/// `Y = R X Cᵀ` for each channel; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::restore::{LinearOperator, Reduction, Separable};
///
/// let device = Device::flex();
/// let reduce = Separable::reduction([1, 8, 8], 4, Reduction::Average)?;
/// let y = reduce.apply(Tensor::ones([1, 1, 8, 8], &device))?;
/// assert_eq!(y.dims(), [1, 1, 2, 2]);
/// let back = reduce.apply(reduce.pseudo_inverse(y.clone() * 3.0)?)?;
/// assert!((back - y * 3.0).abs().max().into_scalar::<f32>() < 1e-5);
/// # Ok::<(), nabla_diffusion::restore::OperatorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Separable {
    channels: usize,
    vertical: Axis,
    horizontal: Axis,
}

impl Separable {
    /// A reduction by a whole number in both directions.
    ///
    /// - `picture`: `[channels, height, width]` of the large picture, both sides divisible by `scale`
    ///
    /// # Errors
    /// If a side is 0 or not divisible, or the scale is 0.
    pub fn reduction(
        picture: [usize; 3],
        scale: usize,
        filter: Reduction,
    ) -> Result<Self, OperatorError> {
        check_sides(&picture)?;
        range::at_least("scale of the reduction", scale, 1)?;
        let [channels, height, width] = picture;
        if !height.is_multiple_of(scale) || !width.is_multiple_of(scale) {
            return Err(OperatorError::Given {
                what: "the sides of a picture that is reduced",
                expected: format!("multiples of {scale}"),
                found: format!("it has {width} x {height} pixels"),
            });
        }
        let axis = |from: usize| match filter {
            Reduction::Average => {
                let taps = vec![1.0 / scale as f64; scale];
                Axis::of_taps(from, from / scale, &taps, Boundary::Reflect, |i| {
                    (i * scale) as isize
                })
            }
            Reduction::Bicubic => {
                let taps = bicubic_taps(scale);
                Axis::of_taps(from, from / scale, &taps, Boundary::Reflect, |i| {
                    (i * scale + scale / 2) as isize - 2 * scale as isize
                })
            }
        };
        Ok(Self {
            channels,
            vertical: axis(height),
            horizontal: axis(width),
        })
    }

    /// Enlargement by cubic interpolation (`a = −0.5`), as of a picture that is looked at in a larger size; not the
    /// inverse of anything.
    ///
    /// - `picture`: `[channels, height, width]` of the small picture
    ///
    /// # Errors
    /// If a side or the scale is 0.
    pub fn enlargement(picture: [usize; 3], scale: usize) -> Result<Self, OperatorError> {
        check_sides(&picture)?;
        range::at_least("scale of the enlargement", scale, 1)?;
        let [channels, height, width] = picture;
        let axis = |from: usize| {
            let row = |i: usize| {
                let place = (i as f64 + 0.5) / scale as f64 - 0.5;
                let first = place.floor() - 1.0;
                let taps: Vec<f64> = (0..4)
                    .map(|t| keys_cubic(place - first - t as f64))
                    .collect();
                let axis = Axis::of_taps(from, 1, &taps, Boundary::Reflect, |_| first as isize);
                axis.rows.into_iter().next().unwrap_or_default()
            };
            Axis::new(from, (0..from * scale).map(row).collect())
        };
        Ok(Self {
            channels,
            vertical: axis(height),
            horizontal: axis(width),
        })
    }

    /// A blur by a Gaussian, cut off at four standard deviations.
    ///
    /// - `picture`: `[channels, height, width]`
    /// - `deviation`: in pixels, above 0
    ///
    /// # Errors
    /// If a side is 0, or the deviation not positive or above 1000.
    pub fn gaussian_blur(
        picture: [usize; 3],
        deviation: f64,
        boundary: Boundary,
    ) -> Result<Self, OperatorError> {
        range::positive("standard deviation of the blur", deviation)?;
        let fits = deviation <= 1000.0;
        range::check(
            fits,
            "standard deviation of the blur",
            deviation,
            "at most 1000 pixels",
        )?;
        let radius = (4.0 * deviation + 0.5) as usize;
        let tap = |t: usize| (-0.5 * ((t as f64 - radius as f64) / deviation).powi(2)).exp();
        let taps: Vec<f64> = (0..=2 * radius).map(tap).collect();
        Self::blur(picture, &taps, boundary)
    }

    /// A blur by the same kernel along both axes; its taps are divided by their sum.
    ///
    /// - `picture`: `[channels, height, width]`
    /// - `taps`: an odd number, with a sum that is not 0
    ///
    /// # Errors
    /// If a side is 0, or the kernel has no centre or the sum 0.
    pub fn blur(
        picture: [usize; 3],
        taps: &[f64],
        boundary: Boundary,
    ) -> Result<Self, OperatorError> {
        check_sides(&picture)?;
        let [channels, height, width] = picture;
        let odd = taps.len() % 2 == 1;
        range::check(odd, "number of taps of the kernel", taps.len(), "odd")?;
        let sum: f64 = taps.iter().sum();
        let fits = sum.is_finite() && sum != 0.0;
        range::check(fits, "sum of the kernel's taps", sum, "finite and not 0")?;
        let taps: Vec<f64> = taps.iter().rev().map(|tap| tap / sum).collect();
        let centre = (taps.len() / 2) as isize;
        let axis = |n: usize| Axis::of_taps(n, n, &taps, boundary, |i| i as isize - centre);
        Ok(Self {
            channels,
            vertical: axis(height),
            horizontal: axis(width),
        })
    }

    /// `R X Cᵀ` of one channel.
    fn forward(&self, x: &[f64], y: &mut [f64]) {
        let (from, to) = (self.horizontal.from, self.horizontal.to());
        let mut line = vec![0.0; from];
        for (row, entries) in self.vertical.rows.iter().enumerate() {
            line.fill(0.0);
            for &(i, weight) in entries {
                let source = &x[i * from..(i + 1) * from];
                line.iter_mut()
                    .zip(source)
                    .for_each(|(l, v)| *l += weight * v);
            }
            let target = &mut y[row * to..(row + 1) * to];
            for (value, entries) in target.iter_mut().zip(&self.horizontal.rows) {
                *value = entries.iter().map(|&(j, weight)| weight * line[j]).sum();
            }
        }
    }

    /// `Rᵀ Y C` of one channel.
    fn backward(&self, y: &[f64], x: &mut [f64]) {
        let (from, to) = (self.horizontal.from, self.horizontal.to());
        let mut line = vec![0.0; from];
        for (row, entries) in self.vertical.rows.iter().enumerate() {
            line.fill(0.0);
            let source = &y[row * to..(row + 1) * to];
            for (value, entries) in source.iter().zip(&self.horizontal.rows) {
                entries
                    .iter()
                    .for_each(|&(j, weight)| line[j] += weight * value);
            }
            for &(i, weight) in entries {
                let target = &mut x[i * from..(i + 1) * from];
                target
                    .iter_mut()
                    .zip(&line)
                    .for_each(|(v, l)| *v += weight * l);
            }
        }
    }

    /// Applies to each channel of a picture.
    fn each_channel(
        &self,
        x: Tensor<4>,
        shape: &[usize],
        map: impl Fn(&[f64], &mut [f64]) + Sync,
    ) -> Result<Tensor<4>, OperatorError> {
        on_host(x, shape, |x, y| {
            let channels = x.chunks_exact(x.len() / self.channels);
            let targets = y.chunks_exact_mut(y.len() / self.channels);
            channels.zip(targets).for_each(|(x, y)| map(x, y));
        })
    }
}

impl LinearOperator for Separable {
    fn name(&self) -> &'static str {
        NAME
    }

    fn domain(&self) -> Vec<usize> {
        vec![self.channels, self.vertical.from, self.horizontal.from]
    }

    fn range(&self) -> Vec<usize> {
        vec![self.channels, self.vertical.to(), self.horizontal.to()]
    }

    fn apply(&self, x: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        check_shape(NAME, "picture", &x, &self.domain())?;
        self.each_channel(x, &self.range(), |x, y| self.forward(x, y))
    }

    fn adjoint(&self, y: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        check_shape(NAME, "measurement", &y, &self.range())?;
        self.each_channel(y, &self.domain(), |y, x| self.backward(y, x))
    }

    fn decomposed(&self) -> Option<&dyn Decomposed> {
        Some(self)
    }
}

impl Decomposed for Separable {
    fn filtered(
        &self,
        x: Tensor<4>,
        f: &(dyn Fn(f64) -> f64 + Sync),
    ) -> Result<Tensor<4>, OperatorError> {
        check_shape(NAME, "picture", &x, &self.domain())?;
        let (rows, columns) = (self.vertical.values()?, self.horizontal.values()?);
        let (height, width) = (self.vertical.from, self.horizontal.from);
        // f(0) for everything, and the difference from it where A sees something.
        let unseen = f(0.0);
        self.each_channel(x, &self.domain(), |x, y| {
            let picture = Mat::from_fn(height, width, |i, j| x[i * width + j]);
            let mut seen = rows.v.transpose() * &picture * &columns.v;
            for (i, s_r) in rows.s.iter().enumerate() {
                for (j, s_c) in columns.s.iter().enumerate() {
                    seen[(i, j)] *= f(s_r * s_c) - unseen;
                }
            }
            let changed = &rows.v * seen * columns.v.transpose();
            for i in 0..height {
                for j in 0..width {
                    y[i * width + j] = unseen * x[i * width + j] + changed[(i, j)];
                }
            }
        })
    }
}

/// The `4 s` taps of the cubic kernel (`a = −0.5`) stretched by `s`, whose sum is 1; for odd `s` the first is zero.
pub fn bicubic_taps(scale: usize) -> Vec<f64> {
    let s = scale as f64;
    let half = if scale.is_multiple_of(2) { 0.5 } else { 0.0 };
    let place = |t: usize| (t as f64 - 2.0 * s + half) / s;
    let taps: Vec<f64> = (0..4 * scale).map(|t| keys_cubic(place(t))).collect();
    let sum: f64 = taps.iter().sum();
    taps.iter().map(|tap| tap / sum).collect()
}

/// The cubic convolution kernel with `a = −0.5`.
fn keys_cubic(u: f64) -> f64 {
    match u.abs() {
        u if u < 1.0 => (1.5 * u - 2.5) * u * u + 1.0,
        u if u < 2.0 => ((-0.5 * u + 2.5) * u - 4.0) * u + 2.0,
        _ => 0.0,
    }
}
