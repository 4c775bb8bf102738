//! Magnetic resonance imaging with several coils: the Fourier transform of the picture as each coil sees it, at some
//! frequencies only.
//!
//! ```text
//! (A x)_c = P F (S_c x),   Aᴴ y = Σ_c S_c* F⁻¹ P y_c
//! ```
//!
//! `S_c` is the map of coil `c`, `F` the unitary Fourier transform with the frequency 0 in the middle, `P` the mask.
//! The picture has two channels (the real and the imaginary part), or one, if it is known to be real: then the
//! adjoint is the real part. The measurement has two channels for each coil.
//!
//! Source: Pruessmann et al., *SENSE: Sensitivity Encoding for Fast MRI*, 1999.

use burn::tensor::Tensor;
use nabla_base::range;
use rustfft::num_complex::Complex64;

use crate::restore::coil_maps::{CoilMaps, Espirit};
use crate::restore::fourier::{Fourier, Way};
use crate::restore::operator::{
    Decomposed, LinearOperator, OperatorError, check_shape, check_sides, on_host,
};

/// Multi-coil MRI; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::restore::{CoilMaps, LinearOperator, MultiCoilMri};
///
/// let every_frequency = vec![true; 4 * 4];
/// let mri = MultiCoilMri::new(2, CoilMaps::simulated(3, [4, 4])?, every_frequency)?;
/// let x = Tensor::<4>::ones([1, 2, 4, 4], &Device::flex());
/// let kspace = mri.apply(x.clone())?;
/// assert_eq!(kspace.dims(), [1, 6, 4, 4]);
/// // The squares of the simulated maps add up to 1, so nothing is lost.
/// assert!((mri.adjoint(kspace)? - x).abs().max().into_scalar::<f32>() < 1e-5);
/// # Ok::<(), nabla_diffusion::restore::OperatorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MultiCoilMri {
    channels: usize,
    maps: CoilMaps,
    mask: Vec<bool>,
    fourier: Fourier,
}

const NAME: &str = "MRI";

fn wrong_mask([height, width]: [usize; 2], mask: &[bool]) -> OperatorError {
    OperatorError::Given {
        what: "the mask of the frequencies",
        expected: format!("of {width} x {height}, as the picture"),
        found: format!("it has {} values", mask.len()),
    }
}

impl MultiCoilMri {
    /// - `channels`: of the picture: 1 if it is real, 2 if it is complex
    /// - `maps`: of the coils; one map of ones is a single coil
    /// - `mask`: whether each frequency is measured, row after row, the frequency 0 in the middle
    ///
    /// # Errors
    /// If there are other channels, the mask has another size than the maps, or nothing is measured.
    pub fn new(channels: usize, maps: CoilMaps, mask: Vec<bool>) -> Result<Self, OperatorError> {
        range::within("number of channels of an MRI picture", channels, 1..=2)?;
        let [height, width] = maps.sides();
        check_sides(&[height, width])?;
        if mask.len() != height * width {
            return Err(wrong_mask([height, width], &mask));
        }
        let measured = mask.iter().filter(|measured| **measured).count();
        range::at_least("number of measured frequencies", measured, 1)?;
        Ok(Self {
            channels,
            fourier: Fourier::new(height, width),
            maps,
            mask,
        })
    }

    /// The operator with coil maps that are estimated from the measurement by [`Espirit`], from the largest square in the
    /// middle of k-space that is measured whole, of at most 24 x 24 frequencies. For a real picture, the maps also have
    /// the phase of the picture, as the frequencies in that square show it.
    ///
    /// - `kspace`: `[1, 2 · coils, height, width]`
    /// - `mask`: as in [`new`](Self::new)
    ///
    /// # Errors
    /// As [`new`](Self::new), and if less than 4 x 4 frequencies in the middle are measured whole.
    pub fn estimated(
        channels: usize,
        kspace: Tensor<4>,
        mask: Vec<bool>,
    ) -> Result<Self, OperatorError> {
        let [_, _, height, width] = kspace.dims();
        if mask.len() != height * width {
            return Err(wrong_mask([height, width], &mask));
        }
        let usual = Espirit::default();
        let inside = |side: usize, i: usize, n: usize| {
            let first = n / 2 - side / 2;
            (first..first + side).contains(&i)
        };
        let whole = |side: &usize| {
            let place =
                |i: usize| inside(*side, i / width, height) && inside(*side, i % width, width);
            (0..mask.len()).all(|i| mask[i] || !place(i))
        };
        let most = usual.calibration.min(height).min(width);
        let side = (4..=most).rev().find(whole);
        let side = side.ok_or_else(|| OperatorError::Given {
            what: "the middle of k-space",
            expected: "measured whole in a square of at least 4 x 4, to estimate coil maps"
                .to_owned(),
            found: "it has gaps".to_owned(),
        })?;
        let espirit = Espirit {
            calibration: side,
            kernel: usual.kernel.min(side / 2),
            ..usual
        };
        let maps = espirit.maps(kspace.clone())?;
        let maps = match channels {
            1 => {
                let middle = (0..mask.len())
                    .map(|i| inside(side, i / width, height) && inside(side, i % width, width));
                let smooth = Self::new(2, maps.clone(), middle.collect())?;
                maps.with_phase_of(smooth.adjoint(kspace)?)?
            }
            _ => maps,
        };
        Self::new(channels, maps, mask)
    }

    /// The coil maps.
    pub fn maps(&self) -> &CoilMaps {
        &self.maps
    }

    /// Whether each frequency is measured.
    pub fn mask(&self) -> &[bool] {
        &self.mask
    }

    fn pixels(&self) -> usize {
        self.mask.len()
    }

    /// The picture as complex numbers.
    fn complex(&self, x: &[f64]) -> Vec<Complex64> {
        let (real, imaginary) = x.split_at(self.pixels());
        let imaginary = imaginary.iter().copied().chain(std::iter::repeat(0.0));
        let both = real.iter().zip(imaginary);
        both.map(|(&re, im)| Complex64::new(re, im)).collect()
    }

    fn forward(&self, x: &[f64], y: &mut [f64]) {
        let (picture, pixels) = (self.complex(x), self.pixels());
        for (coil, y) in self.maps.coils().zip(y.chunks_exact_mut(2 * pixels)) {
            let seen = picture.iter().zip(coil).map(|(x, s)| x * s);
            let mut plane: Vec<Complex64> = seen.collect();
            self.fourier.centred(Way::Forward, &mut plane);
            let (real, imaginary) = y.split_at_mut(pixels);
            for (i, z) in plane.iter().enumerate().filter(|(i, _)| self.mask[*i]) {
                (real[i], imaginary[i]) = (z.re, z.im);
            }
        }
    }

    fn backward(&self, y: &[f64], x: &mut [f64]) {
        let pixels = self.pixels();
        let mut sum = vec![Complex64::ZERO; pixels];
        for (coil, y) in self.maps.coils().zip(y.chunks_exact(2 * pixels)) {
            let (real, imaginary) = y.split_at(pixels);
            let value = |i: usize| match self.mask[i] {
                true => Complex64::new(real[i], imaginary[i]),
                false => Complex64::ZERO,
            };
            let mut plane: Vec<Complex64> = (0..pixels).map(value).collect();
            self.fourier.centred(Way::Inverse, &mut plane);
            for ((sum, z), s) in sum.iter_mut().zip(&plane).zip(coil) {
                *sum += s.conj() * z;
            }
        }
        let (real, imaginary) = x.split_at_mut(pixels);
        real.iter_mut().zip(&sum).for_each(|(x, z)| *x = z.re);
        imaginary.iter_mut().zip(&sum).for_each(|(x, z)| *x = z.im);
    }
}

impl LinearOperator for MultiCoilMri {
    fn name(&self) -> &'static str {
        NAME
    }

    fn domain(&self) -> Vec<usize> {
        let [height, width] = self.maps.sides();
        vec![self.channels, height, width]
    }

    fn range(&self) -> Vec<usize> {
        let [height, width] = self.maps.sides();
        vec![2 * self.maps.count(), height, width]
    }

    fn apply(&self, x: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        check_shape(NAME, "picture", &x, &self.domain())?;
        on_host(x, &self.range(), |x, y| self.forward(x, y))
    }

    fn adjoint(&self, y: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        check_shape(NAME, "measurement", &y, &self.range())?;
        on_host(y, &self.domain(), |y, x| self.backward(y, x))
    }

    fn measured(&self, y: Tensor<4>) -> Result<Tensor<4>, OperatorError> {
        let range = self.range();
        check_shape(NAME, "measurement", &y, &range)?;
        on_host(y, &range, |y, z| {
            let places = self.mask.iter().cycle();
            for ((z, y), _) in z.iter_mut().zip(y).zip(places).filter(|(_, m)| **m) {
                *z = *y;
            }
        })
    }

    /// Known for a single coil that sees every pixel alike: 1 where the frequency is measured, otherwise 0.
    fn decomposed(&self) -> Option<&dyn Decomposed> {
        let alike = self.maps.count() == 1 && self.maps.are_of_size_one();
        (alike && self.channels == 2).then_some(self)
    }
}

impl Decomposed for MultiCoilMri {
    fn filtered(
        &self,
        x: Tensor<4>,
        f: &(dyn Fn(f64) -> f64 + Sync),
    ) -> Result<Tensor<4>, OperatorError> {
        let (seen, unseen) = (f(1.0), f(0.0));
        let measured = self.normal(x.clone())?;
        Ok(x * unseen + measured * (seen - unseen))
    }
}
