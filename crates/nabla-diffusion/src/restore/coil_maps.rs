//! The maps of MRI coils: how strongly, and with which phase, each coil sees each pixel. Simulated, given, or
//! estimated from the k-space itself by ESPIRiT.
//!
//! # ESPIRiT
//! The patches of `k x k` neighbouring frequencies, of all coils together, that occur in the middle of k-space lie in
//! a space of few dimensions. Its basis vectors `v_i`, the right singular vectors of the matrix of all patches with
//! singular values above `threshold · σ_max`, are kernels; in the picture they become, pixel by pixel, vectors `g_i` of
//! one number for each coil. The maps are the eigenvectors to the eigenvalue 1 of
//!
//! ```text
//! G = Σ_i g_i g_iᴴ,   normalised so that its eigenvalues lie in [0, 1]
//! ```
//!
//! A pixel whose largest eigenvalue is at most `crop` shows nothing but noise, and its maps are 0. The phase is
//! relative to the first coil.
//!
//! Source: Uecker, Lai, Murphy, Virtue, Elad, Pauly, Vasanawala, Lustig, *ESPIRiT: An Eigenvalue Approach to
//! Autocalibrating Parallel MRI*, 2014. The defaults are those of SigPy.

use burn::tensor::Tensor;
use faer::{Mat, Side};
use nabla_base::range;
use rayon::prelude::*;
use rustfft::num_complex::Complex64;

use super::fourier::{Fourier, Way};
use super::operator::{OperatorError, check_sides, host};

/// The maps of the coils, one complex number for each coil and pixel.
#[derive(Clone, Debug, PartialEq)]
pub struct CoilMaps {
    sides: [usize; 2],
    /// Coil after coil, row after row.
    values: Vec<Complex64>,
}

impl CoilMaps {
    /// - `values`: real and imaginary part, coil after coil, row after row
    /// - `sides`: `[height, width]`
    ///
    /// # Errors
    /// If a side is 0, there is not a whole number of coils, or a value is not finite.
    pub fn new(values: Vec<[f64; 2]>, sides: [usize; 2]) -> Result<Self, OperatorError> {
        check_sides(&sides)?;
        let pixels = sides[0] * sides[1];
        let whole = !values.is_empty() && values.len().is_multiple_of(pixels);
        if !whole || values.iter().flatten().any(|value| !value.is_finite()) {
            return Err(OperatorError::Given {
                what: "the coil maps",
                expected: format!("finite numbers for {} x {} pixels", sides[1], sides[0]),
                found: match whole {
                    true => "one is not finite".to_owned(),
                    false => format!("they have {} values", values.len()),
                },
            });
        }
        let values = values.iter().map(|&[re, im]| Complex64::new(re, im));
        Ok(Self {
            sides,
            values: values.collect(),
        })
    }

    /// One coil that sees every pixel alike.
    ///
    /// # Errors
    /// If a side is 0.
    pub fn single(sides: [usize; 2]) -> Result<Self, OperatorError> {
        Self::new(vec![[1.0, 0.0]; sides[0] * sides[1]], sides)
    }

    /// Smooth maps of coils around the picture, with a phase that varies slowly, whose squares add up to 1 in each
    /// pixel: for simulations.
    ///
    /// # Errors
    /// If a side or the number of coils is 0.
    pub fn simulated(coils: usize, sides: [usize; 2]) -> Result<Self, OperatorError> {
        range::at_least("number of coils", coils, 1)?;
        check_sides(&sides)?;
        let [height, width] = sides;
        // From −1 to 1.
        let place = |i: usize, n: usize| (2.0 * i as f64 + 1.0) / n as f64 - 1.0;
        let value = |coil: usize, pixel: usize| {
            let (x, y) = (place(pixel % width, width), place(pixel / width, height));
            let angle = std::f64::consts::TAU * coil as f64 / coils as f64;
            let (sin, cos) = angle.sin_cos();
            let square = (x - 1.2 * cos).powi(2) + (y - 1.2 * sin).powi(2);
            let phase = angle + 0.8 * (x * sin - y * cos) + 0.3 * (x * cos + y * sin);
            Complex64::from_polar((-square / 2.0).exp(), phase)
        };
        let pixels = height * width;
        let all = (0..coils).flat_map(|coil| (0..pixels).map(move |pixel| (coil, pixel)));
        let mut values: Vec<Complex64> = all.map(|(coil, pixel)| value(coil, pixel)).collect();
        for pixel in 0..pixels {
            let of_pixel = values.iter().skip(pixel).step_by(pixels);
            let power: f64 = of_pixel.map(|s| s.norm_sqr()).sum();
            let factor = 1.0 / power.sqrt();
            let of_pixel = values.iter_mut().skip(pixel).step_by(pixels);
            of_pixel.for_each(|s| *s *= factor);
        }
        Ok(Self { sides, values })
    }

    /// `[height, width]`.
    pub fn sides(&self) -> [usize; 2] {
        self.sides
    }

    /// The number of coils.
    pub fn count(&self) -> usize {
        self.values.len() / self.pixels()
    }

    /// Real and imaginary part, coil after coil, row after row.
    pub fn values(&self) -> impl Iterator<Item = [f64; 2]> {
        self.values.iter().map(|s| [s.re, s.im])
    }

    /// The maps times the phase of a picture: with them, what is left of that picture is real. A network of real
    /// pictures needs such maps, because the phase of estimated ones is that of the first coil, not that of the
    /// picture.
    ///
    /// - `picture`: `[1, 2, height, width]`, real and imaginary part; a smooth one, such as that of the middle of
    ///   k-space
    ///
    /// # Errors
    /// If the picture has another shape.
    pub fn with_phase_of(&self, picture: Tensor<4>) -> Result<Self, OperatorError> {
        let [height, width] = self.sides;
        let expected = [1, 2, height, width];
        if picture.dims() != expected {
            return Err(OperatorError::Shape {
                operator: "the phase of coil maps",
                what: "picture",
                expected: expected.to_vec(),
                found: picture.dims().to_vec(),
            });
        }
        let parts = host(picture)?;
        let (real, imaginary) = parts.split_at(self.pixels());
        let phase = |i: usize| {
            let z = Complex64::new(real[i], imaginary[i]);
            match z.norm() {
                0.0 => Complex64::ONE,
                norm => z / norm,
            }
        };
        let phases: Vec<Complex64> = (0..self.pixels()).map(phase).collect();
        let values = self.values.iter().zip(phases.iter().cycle());
        Ok(Self {
            sides: self.sides,
            values: values.map(|(s, phase)| s * phase).collect(),
        })
    }

    pub(crate) fn coils(&self) -> impl Iterator<Item = &[Complex64]> {
        self.values.chunks_exact(self.pixels())
    }

    pub(crate) fn are_of_size_one(&self) -> bool {
        self.values.iter().all(|s| (s.norm() - 1.0).abs() < 1e-9)
    }

    fn pixels(&self) -> usize {
        self.sides[0] * self.sides[1]
    }
}

/// The estimate of coil maps from k-space; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::restore::{CoilMaps, Espirit, LinearOperator, MultiCoilMri};
///
/// let (sides, device) = ([32, 32], Device::flex());
/// let mri = MultiCoilMri::new(1, CoilMaps::simulated(4, sides)?, vec![true; 32 * 32])?;
/// let kspace = mri.apply(Tensor::ones([1, 1, 32, 32], &device))?;
/// let maps = Espirit::default().maps(kspace)?;
/// assert_eq!((maps.count(), maps.sides()), (4, sides));
/// # Ok::<(), nabla_diffusion::restore::OperatorError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Espirit {
    /// The side of the fully measured square in the middle of k-space. Default 24.
    pub calibration: usize,
    /// `k`, the side of a kernel. Default 6.
    pub kernel: usize,
    /// Relative to the largest singular value, in `[0, 1)`. Default 0.02.
    pub threshold: f64,
    /// The largest eigenvalue up to which a pixel is empty, in `[0, 1)`. Default 0.95.
    pub crop: f64,
    /// The number of power iterations for the eigenvectors. Default 100.
    pub iterations: usize,
}

impl Default for Espirit {
    fn default() -> Self {
        Self {
            calibration: 24,
            kernel: 6,
            threshold: 0.02,
            crop: 0.95,
            iterations: 100,
        }
    }
}

impl Espirit {
    /// The maps.
    ///
    /// - `kspace`: `[1, 2 · coils, height, width]`, as [`MultiCoilMri`](super::MultiCoilMri) measures it; of several,
    ///   the first
    ///
    /// # Errors
    /// If an option is out of range, the k-space is smaller than the calibration square, or that square is empty.
    pub fn maps(&self, kspace: Tensor<4>) -> Result<CoilMaps, OperatorError> {
        let [_, channels, height, width] = kspace.dims();
        let sides = [height, width];
        let coils = channels / 2;
        range::check(
            channels % 2 == 0 && coils > 0,
            "number of channels of the k-space",
            channels,
            "two for each coil",
        )?;
        range::at_least("side of an ESPIRiT kernel", self.kernel, 1)?;
        range::at_least("number of power iterations", self.iterations, 1)?;
        for (what, value) in [("threshold", self.threshold), ("crop", self.crop)] {
            let fits = (0.0..1.0).contains(&value);
            range::check(fits, format!("{what} of ESPIRiT"), value, "in [0, 1)")?;
        }
        let shorter = height.min(width);
        let most = format!("from {}, the kernel's side, to {shorter}", self.kernel);
        let fits = (self.kernel..=shorter).contains(&self.calibration);
        range::check(
            fits,
            "side of the calibration square",
            self.calibration,
            most,
        )?;
        let values = host(kspace.slice_dim(0, 0..1))?;
        let kernels = self.kernels(&values, coils, sides)?;
        Ok(self.eigenvectors(&kernels, coils, sides))
    }

    /// The kernels in k-space, `[coil, row, column]` each.
    fn kernels(
        &self,
        values: &[f64],
        coils: usize,
        [height, width]: [usize; 2],
    ) -> Result<Vec<Vec<Complex64>>, OperatorError> {
        let (square, kernel, pixels) = (self.calibration, self.kernel, height * width);
        // The same middle as that of the transform: n/2, rounded down.
        let [top, left] = [height, width].map(|n| n / 2 - square / 2);
        let at = |coil: usize, y: usize, x: usize| {
            let place = (top + y) * width + left + x;
            let [re, im] = [2 * coil, 2 * coil + 1].map(|c| values[c * pixels + place]);
            Complex64::new(re, im)
        };
        let (along, per_coil) = (square - kernel + 1, kernel * kernel);
        let patches = Mat::from_fn(along * along, coils * per_coil, |patch, entry| {
            let (coil, entry) = (entry / per_coil, entry % per_coil);
            let (y, x) = (
                patch / along + entry / kernel,
                patch % along + entry % kernel,
            );
            at(coil, y, x)
        });
        // The right singular vectors are the eigenvectors of the Gram matrix.
        let gram: Mat<Complex64> = patches.adjoint() * &patches;
        let eigen = gram.self_adjoint_eigen(Side::Lower);
        let eigen = eigen.map_err(|error| OperatorError::Decomposition {
            operator: "the calibration matrix",
            reason: format!("{error:?}"),
        })?;
        let powers: Vec<f64> = eigen.S().column_vector().iter().map(|s| s.re).collect();
        let largest = powers.iter().copied().fold(0.0, f64::max);
        if largest <= 0.0 {
            return Err(OperatorError::Given {
                what: "the middle of k-space",
                expected: format!("measured in a square of {square} x {square}"),
                found: "it is 0 there".to_owned(),
            });
        }
        let least = largest * self.threshold.powi(2);
        let kept = (0..powers.len()).filter(|&i| powers[i] > least);
        // A patch is Σ (coefficient) vᴴ: the kernel is the conjugate of the eigenvector.
        let vectors = eigen.U();
        let kernel = |i: usize| {
            (0..coils * per_coil)
                .map(|j| vectors[(j, i)].conj())
                .collect()
        };
        Ok(kept.map(kernel).collect())
    }

    /// The eigenvectors of `G` in every pixel, by power iteration.
    fn eigenvectors(
        &self,
        kernels: &[Vec<Complex64>],
        coils: usize,
        sides: [usize; 2],
    ) -> CoilMaps {
        let [height, width] = sides;
        let (kernel, pixels) = (self.kernel, height * width);
        let fourier = Fourier::new(height, width);
        // g of every kernel, [coil][pixel].
        let in_picture = |values: &Vec<Complex64>| -> Vec<Vec<Complex64>> {
            let of_coil = |values: &[Complex64]| {
                let mut plane = vec![Complex64::ZERO; pixels];
                let [top, left] = sides.map(|n| n / 2 - kernel / 2);
                for (row, line) in values.chunks_exact(kernel).enumerate() {
                    let place = (top + row) * width + left;
                    plane[place..place + kernel].copy_from_slice(line);
                }
                fourier.centred(Way::Inverse, &mut plane);
                plane
            };
            values.chunks_exact(kernel * kernel).map(of_coil).collect()
        };
        let images: Vec<Vec<Vec<Complex64>>> = kernels.par_iter().map(in_picture).collect();
        let factor = pixels as f64 / (kernel * kernel) as f64;
        let of_pixel = |pixel: usize| {
            let mut matrix = vec![Complex64::ZERO; coils * coils];
            for image in &images {
                for (a, row) in matrix.chunks_exact_mut(coils).enumerate() {
                    for (b, entry) in row.iter_mut().enumerate() {
                        *entry += image[a][pixel] * image[b][pixel].conj() * factor;
                    }
                }
            }
            self.leading(&matrix, coils)
        };
        let vectors: Vec<Vec<Complex64>> = (0..pixels).into_par_iter().map(of_pixel).collect();
        let places = (0..coils).flat_map(|coil| (0..pixels).map(move |pixel| (coil, pixel)));
        CoilMaps {
            sides,
            values: places.map(|(coil, pixel)| vectors[pixel][coil]).collect(),
        }
    }

    /// The leading eigenvector with the phase of the first coil taken out, or zeros in an empty pixel.
    fn leading(&self, matrix: &[Complex64], coils: usize) -> Vec<Complex64> {
        let mut vector = vec![Complex64::ONE; coils];
        let mut eigenvalue = 0.0;
        for _ in 0..self.iterations {
            let rows = matrix.chunks_exact(coils);
            let dot = |row: &[Complex64]| row.iter().zip(&vector).map(|(m, v)| m * v).sum();
            let next: Vec<Complex64> = rows.map(dot).collect();
            eigenvalue = next.iter().map(|z| z.norm_sqr()).sum::<f64>().sqrt();
            if eigenvalue <= 0.0 {
                break;
            }
            vector = next.iter().map(|z| z / eigenvalue).collect();
        }
        if eigenvalue <= self.crop {
            return vec![Complex64::ZERO; coils];
        }
        let first = vector[0];
        let phase = match first.norm() {
            0.0 => Complex64::ONE,
            norm => first.conj() / norm,
        };
        vector.iter().map(|z| z * phase).collect()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::restore::{LinearOperator, MultiCoilMri};

    /// The simulated maps come back, up to a phase that is the same for all coils, where the picture is not empty.
    #[test]
    fn maps_that_made_the_kspace_are_found() {
        let sides = [32, 32];
        let maps = CoilMaps::simulated(4, sides).unwrap();
        let mri = MultiCoilMri::new(1, maps.clone(), vec![true; 32 * 32]).unwrap();
        let bright = |i: usize| (i % 32).abs_diff(16).pow(2) + (i / 32).abs_diff(16).pow(2) < 144;
        let values: Vec<f32> = (0..32 * 32)
            .map(|i| {
                if bright(i) {
                    1.0 + 0.5 * (i as f32 * 0.9).sin()
                } else {
                    0.0
                }
            })
            .collect();
        let x = Tensor::<1>::from_floats(values.as_slice(), &Device::flex());
        let kspace = mri.apply(x.reshape([1, 1, 32, 32])).unwrap();
        let found = Espirit::default().maps(kspace).unwrap();
        let mut worst: f64 = 0.0;
        let inner = |i: &usize| (i % 32).abs_diff(16).pow(2) + (i / 32).abs_diff(16).pow(2) < 100;
        for pixel in (0..32 * 32).filter(inner) {
            let of = |maps: &CoilMaps| -> Vec<Complex64> {
                maps.coils().map(|coil| coil[pixel]).collect()
            };
            let (found, truth) = (of(&found), of(&maps));
            let overlap: Complex64 = found.iter().zip(&truth).map(|(f, t)| f.conj() * t).sum();
            worst = worst.max(1.0 - overlap.norm());
        }
        assert!(worst < 0.01, "{worst}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let device = Device::flex();
        let told = |espirit: Espirit, shape: [usize; 4]| {
            let found = espirit.maps(Tensor::zeros(shape, &device));
            found.unwrap_err().to_string()
        };
        let usual = Espirit::default();
        assert!(told(usual, [1, 3, 32, 32]).contains("number of channels of the k-space is 3"));
        assert!(told(usual, [1, 4, 16, 32]).contains("calibration square is 24"));
        assert!(told(usual, [1, 4, 32, 32]).contains("it is 0 there"));
        let crop = Espirit { crop: 1.0, ..usual };
        assert!(told(crop, [1, 4, 32, 32]).contains("crop of ESPIRiT is 1"));
        let maps = CoilMaps::new(vec![[0.0, f64::NAN]; 4], [2, 2]).unwrap_err();
        assert!(maps.to_string().contains("one is not finite"), "{maps}");
    }
}
