//! Blur by any kernel, computed by the Fourier transform.
//!
//! ```text
//! y_i = Σ_k K_k x_{i − k + c}
//! ```
//!
//! with `c` the middle of the kernel (`n/2`, rounded down). Beyond the edge the picture is continued as the
//! [`Boundary`] says. If it is continued in a circle, the Fourier transform diagonalises the map: its singular values
//! are the absolute values of the kernel's transform.

use burn::tensor::Tensor;
use nabla_base::range;
use rustfft::num_complex::Complex64;

use super::separable::Boundary;
use crate::restore::fourier::{Fourier, Way};
use crate::restore::operator::{
    Decomposed, LinearOperator, OperatorError, check_shape, check_sides, on_host,
};

/// Blur by a kernel; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::restore::{Blur, Boundary, LinearOperator};
///
/// // Moves a picture of one row by a pixel.
/// let shift = Blur::new([1, 1, 3], [1, 3], &[0.0, 0.0, 1.0], Boundary::Zero)?;
/// let x = Tensor::<4>::from_floats([[[[1.0, 2.0, 3.0]]]], &Device::flex());
/// let y: Vec<f32> = shift.apply(x)?.try_into_vec_as().unwrap();
/// assert!((y[1] - 1.0).abs() < 1e-6 && (y[2] - 2.0).abs() < 1e-6 && y[0].abs() < 1e-6);
/// # Ok::<(), nabla_diffusion::restore::OperatorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Blur {
    picture: [usize; 3],
    boundary: Boundary,
    fourier: Fourier,
    /// `[height, width]` of the transform.
    padded: [usize; 2],
    /// Where the picture begins in the padded plane, and where the result begins.
    begin: [[usize; 2]; 2],
    /// The kernel's transform.
    spectrum: Vec<Complex64>,
}

const NAME: &str = "a blur";

impl Blur {
    /// - `picture`: `[channels, height, width]`
    /// - `sides`: `[height, width]` of the kernel, for a circular picture at most as large as it
    /// - `kernel`: row after row; divided by nothing
    ///
    /// # Errors
    /// If a side is 0, or the kernel does not fit or has a value that is not finite.
    pub fn new(
        picture: [usize; 3],
        sides: [usize; 2],
        kernel: &[f64],
        boundary: Boundary,
    ) -> Result<Self, OperatorError> {
        check_sides(&picture)?;
        check_sides(&sides)?;
        let expected = format!(
            "{}, as {} x {} are",
            sides[0] * sides[1],
            sides[0],
            sides[1]
        );
        let fits = kernel.len() == sides[0] * sides[1];
        range::check(
            fits,
            "number of values of the kernel",
            kernel.len(),
            expected,
        )?;
        if let Some(value) = kernel.iter().find(|value| !value.is_finite()) {
            range::finite("value of the kernel", *value)?;
        }
        let [_, height, width] = picture;
        let circular = boundary == Boundary::Circular;
        if circular && (sides[0] > height || sides[1] > width) {
            return Err(OperatorError::Given {
                what: "the kernel of a circular blur",
                expected: format!("at most {width} x {height} pixels, as the picture"),
                found: format!("it has {} x {}", sides[1], sides[0]),
            });
        }
        let centre = sides.map(|n| n / 2);
        let (padded, begin) = match circular {
            true => ([height, width], [[0, 0], centre]),
            false => {
                let padded = [height + sides[0] - 1, width + sides[1] - 1];
                let before = [0, 1].map(|a| sides[a] - 1 - centre[a]);
                (padded, [before, [sides[0] - 1, sides[1] - 1]])
            }
        };
        let fourier = Fourier::new(padded[0], padded[1]);
        let mut spectrum = vec![Complex64::ZERO; padded[0] * padded[1]];
        for (row, values) in kernel.chunks_exact(sides[1]).enumerate() {
            for (column, value) in values.iter().enumerate() {
                spectrum[row * padded[1] + column] = (*value).into();
            }
        }
        fourier.transform(Way::Forward, &mut spectrum);
        Ok(Self {
            picture,
            boundary,
            fourier,
            padded,
            begin,
            spectrum,
        })
    }

    /// For each place of the padded plane along an axis, the pixel that stands there.
    fn sources(&self, axis: usize) -> Vec<Option<usize>> {
        let (length, before) = (self.picture[axis + 1], self.begin[0][axis] as isize);
        let places = 0..self.padded[axis] as isize;
        places
            .map(|place| self.boundary.index(place - before, length))
            .collect()
    }

    /// For each pixel of the result along an axis, its place in the padded plane.
    fn places(&self, axis: usize) -> Vec<usize> {
        let places = 0..self.picture[axis + 1];
        places
            .map(|i| (i + self.begin[1][axis]) % self.padded[axis])
            .collect()
    }

    fn convolve(&self, plane: &mut [Complex64], factor: impl Fn(Complex64) -> Complex64) {
        self.fourier.transform(Way::Forward, plane);
        let scale = 1.0 / plane.len() as f64;
        for (z, k) in plane.iter_mut().zip(&self.spectrum) {
            *z *= factor(*k) * scale;
        }
        self.fourier.transform(Way::Inverse, plane);
    }

    /// Applies to each channel of a picture.
    fn each_channel(
        &self,
        what: &'static str,
        x: Tensor<4>,
        map: impl Fn(&[f64], &mut [f64]) + Sync,
    ) -> Result<Tensor<4>, OperatorError> {
        check_shape(NAME, what, &x, &self.picture)?;
        let pixels = self.picture[1] * self.picture[2];
        on_host(x, &self.picture, |x, y| {
            let channels = x.chunks_exact(pixels).zip(y.chunks_exact_mut(pixels));
            channels.for_each(|(x, y)| map(x, y));
        })
    }
}

impl LinearOperator for Blur {
    fn name(&self) -> &'static str {
        NAME
    }

    fn domain(&self) -> Vec<usize> {
        self.picture.to_vec()
    }

    fn range(&self) -> Vec<usize> {
        self.picture.to_vec()
    }

    fn apply(&self, x: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        let (rows, columns) = (self.sources(0), self.sources(1));
        let (to_rows, to_columns) = (self.places(0), self.places(1));
        let (width, across) = (self.picture[2], self.padded[1]);
        self.each_channel("picture", x, |x, y| {
            let value = |row: &Option<usize>, column: &Option<usize>| match (row, column) {
                (Some(row), Some(column)) => x[row * width + column].into(),
                _ => Complex64::ZERO,
            };
            let pixels = rows
                .iter()
                .flat_map(|r| columns.iter().map(move |c| value(r, c)));
            let mut plane: Vec<Complex64> = pixels.collect();
            self.convolve(&mut plane, |k| k);
            for (line, row) in y.chunks_exact_mut(width).zip(&to_rows) {
                for (value, column) in line.iter_mut().zip(&to_columns) {
                    *value = plane[row * across + column].re;
                }
            }
        })
    }

    fn adjoint(&self, y: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        let (rows, columns) = (self.sources(0), self.sources(1));
        let (to_rows, to_columns) = (self.places(0), self.places(1));
        let (width, across) = (self.picture[2], self.padded[1]);
        self.each_channel("measurement", y, |y, x| {
            let mut plane = vec![Complex64::ZERO; self.spectrum.len()];
            for (line, row) in y.chunks_exact(width).zip(&to_rows) {
                for (value, column) in line.iter().zip(&to_columns) {
                    plane[row * across + column] = (*value).into();
                }
            }
            self.convolve(&mut plane, |k| k.conj());
            for (line, row) in plane.chunks_exact(across).zip(&rows) {
                let Some(row) = row else { continue };
                for (z, column) in line.iter().zip(&columns) {
                    if let Some(column) = column {
                        x[row * width + column] += z.re;
                    }
                }
            }
        })
    }

    fn decomposed(&self) -> Option<&dyn Decomposed> {
        (self.boundary == Boundary::Circular).then_some(self)
    }
}

/// Of a circular blur: its singular vectors are waves.
impl Decomposed for Blur {
    fn filtered(
        &self,
        x: Tensor<4>,
        f: &(dyn Fn(f64) -> f64 + Sync),
    ) -> Result<Tensor<4>, OperatorError> {
        self.each_channel("picture", x, |x, y| {
            let mut plane: Vec<Complex64> = x.iter().map(|&v| v.into()).collect();
            self.convolve(&mut plane, |k| f(k.norm()).into());
            y.iter_mut().zip(&plane).for_each(|(y, z)| *y = z.re);
        })
    }
}
