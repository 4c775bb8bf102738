//! Functions by all their Fourier coefficients below a frequency, in few dimensions.

use std::fmt;
use std::sync::Arc;

use nabla_base::range;
use rustfft::num_complex::Complex64;
use rustfft::{Fft, FftPlanner};

use super::BarronError;
use super::sparse_fourier::SparseFourier;
use super::spectral::{Domain, Spectral};

/// A function with all frequencies `|k_j| ≤ band`. Products are computed on a grid by the fast Fourier transform, with so
/// many points that what is kept of a product is exact; what lies outside of the band is left out.
///
/// The cost grows with `band^d`: for up to three dimensions. [`SparseFourier`] serves for more.
#[derive(Clone)]
pub struct GridFourier {
    domain: Domain,
    band: usize,
    /// Of all `k`, `−band` to `band` in each coordinate, the last the fastest.
    coefficients: Vec<Complex64>,
    transform: Transform,
}

impl fmt::Debug for GridFourier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GridFourier")
            .field("domain", &self.domain)
            .field("band", &self.band)
            .finish_non_exhaustive()
    }
}

/// Along one coordinate, forward and inverse, of so many points.
#[derive(Clone)]
struct Transform {
    points: usize,
    plans: [Arc<dyn Fft<f64>>; 2],
}

impl Transform {
    /// Along every coordinate, without a factor.
    fn along_all(&self, dims: usize, inverse: bool, values: &mut [Complex64]) {
        let n = self.points;
        let plan = &self.plans[usize::from(inverse)];
        let mut line = vec![Complex64::ZERO; n];
        for axis in 0..dims {
            let stride = n.pow((dims - 1 - axis) as u32);
            for start in 0..values.len() / n {
                // The lines of this axis begin where its index is 0.
                let first = start / stride * stride * n + start % stride;
                for (i, z) in line.iter_mut().enumerate() {
                    *z = values[first + i * stride];
                }
                plan.process(&mut line);
                for (i, z) in line.iter().enumerate() {
                    values[first + i * stride] = *z;
                }
            }
        }
    }
}

impl GridFourier {
    /// The most coefficients.
    pub const MOST_MODES: usize = 1 << 24;

    /// The frequencies of `function` with `|k_j| ≤ band`.
    ///
    /// # Errors
    /// If there are more than [`MOST_MODES`](Self::MOST_MODES) of them, or the band is 0.
    pub fn of(function: &SparseFourier, band: usize) -> Result<Self, BarronError> {
        range::at_least("band of frequencies", band, 1)?;
        let domain = function.domain();
        let side = 2 * band + 1;
        let count = u32::try_from(domain.dims)
            .ok()
            .and_then(|dims| side.checked_pow(dims))
            .filter(|&count| count <= Self::MOST_MODES)
            .ok_or(BarronError::Grid {
                band,
                dims: domain.dims,
            })?;
        // Frequencies of a product of two reach 2 band; on n points, what lies outside of the band comes back inside only if
        // it is n − band or more.
        let points = (3 * band + 1).next_power_of_two();
        let mut planner = FftPlanner::new();
        let plans = [
            planner.plan_fft_forward(points),
            planner.plan_fft_inverse(points),
        ];
        let mut grid = Self {
            domain,
            band,
            coefficients: vec![Complex64::ZERO; count],
            transform: Transform { points, plans },
        };
        for (k, coefficient, _) in function.pairs() {
            for (sign, coefficient) in [(1, coefficient), (-1, coefficient.conj())] {
                let k: Vec<i64> = k.iter().map(|&k| sign * i64::from(k)).collect();
                if let Some(place) = grid.place(&k) {
                    grid.coefficients[place] = coefficient;
                }
            }
        }
        Ok(grid)
    }

    /// The coefficients that are not 0.
    ///
    /// # Errors
    /// If they are more than a sparse function may have.
    pub fn sparse(&self) -> Result<SparseFourier, BarronError> {
        let half = self.coefficients.len() / 2;
        let modes = self.coefficients.iter().enumerate().skip(half);
        let modes = modes.filter(|(_, c)| **c != Complex64::ZERO);
        let count = modes.clone().count();
        if count > SparseFourier::MOST_MODES {
            return Err(BarronError::Modes(count));
        }
        SparseFourier::new(
            self.domain,
            modes.map(|(place, &coefficient)| match place == half {
                // Real but for rounding.
                true => (self.wave(place), coefficient.re.into()),
                false => (self.wave(place), coefficient),
            }),
        )
    }

    fn side(&self) -> usize {
        2 * self.band + 1
    }

    /// Where the coefficient of `k` is.
    fn place(&self, k: &[i64]) -> Option<usize> {
        let band = self.band as i64;
        k.iter().try_fold(0, |place, &k| {
            (-band..=band)
                .contains(&k)
                .then(|| place * self.side() + (k + band) as usize)
        })
    }

    /// `k` of a place.
    fn wave(&self, mut place: usize) -> Vec<i32> {
        let mut k = vec![0; self.domain.dims];
        for k in k.iter_mut().rev() {
            *k = (place % self.side()) as i32 - self.band as i32;
            place /= self.side();
        }
        k
    }

    /// Where on the transform's grid the coefficient of a place is.
    fn grid_place(&self, place: usize) -> usize {
        let n = self.transform.points as i32;
        let k = self.wave(place).into_iter();
        k.fold(0, |at, k| at * n as usize + k.rem_euclid(n) as usize)
    }

    /// The values on the transform's grid.
    fn values(&self) -> Vec<Complex64> {
        let dims = self.domain.dims;
        let mut values = vec![Complex64::ZERO; self.transform.points.pow(dims as u32)];
        for (place, &coefficient) in self.coefficients.iter().enumerate() {
            values[self.grid_place(place)] = coefficient;
        }
        self.transform.along_all(dims, true, &mut values);
        values
    }

    fn check(&self, other: &Self) -> Result<(), BarronError> {
        if self.domain != other.domain {
            return Err(BarronError::Domains(self.domain, other.domain));
        }
        match self.band == other.band {
            true => Ok(()),
            false => Err(BarronError::Bands(self.band, other.band)),
        }
    }

    fn with(&self, coefficients: Vec<Complex64>) -> Self {
        Self {
            coefficients,
            ..self.clone()
        }
    }
}

impl Spectral for GridFourier {
    fn domain(&self) -> Domain {
        self.domain
    }

    fn zero(&self) -> Self {
        self.with(vec![Complex64::ZERO; self.coefficients.len()])
    }

    fn plus(&self, factor: f64, other: &Self) -> Result<Self, BarronError> {
        self.check(other)?;
        let pairs = self.coefficients.iter().zip(&other.coefficients);
        Ok(self.with(pairs.map(|(a, b)| a + factor * b).collect()))
    }

    fn times(&self, other: &Self) -> Result<Self, BarronError> {
        self.check(other)?;
        let mut product = self.values();
        for (a, b) in product.iter_mut().zip(other.values()) {
            *a = Complex64::new(a.re * b.re, 0.0);
        }
        let dims = self.domain.dims;
        self.transform.along_all(dims, false, &mut product);
        let factor = 1.0 / product.len() as f64;
        let places = 0..self.coefficients.len();
        let coefficients = places.map(|place| factor * product[self.grid_place(place)]);
        Ok(self.with(coefficients.collect()))
    }

    fn multiplied(&self, symbol: &dyn Fn(&[f64]) -> Complex64) -> Self {
        let unit = self.domain.unit_frequency();
        let coefficients = self.coefficients.iter().enumerate();
        let coefficients = coefficients.map(|(place, coefficient)| {
            let k = self.wave(place).into_iter();
            let frequency: Vec<f64> = k.map(|k| unit * f64::from(k)).collect();
            symbol(&frequency) * coefficient
        });
        self.with(coefficients.collect())
    }

    fn pruned(self, least: f64) -> (Self, Self) {
        let (mut kept, mut dropped) = (self.clone(), self);
        for (kept, dropped) in kept.coefficients.iter_mut().zip(&mut dropped.coefficients) {
            let off = match kept.norm() < least {
                true => kept,
                false => dropped,
            };
            *off = Complex64::ZERO;
        }
        (kept, dropped)
    }

    fn reflected(&self, direction: usize) -> Self {
        let stride = self.side().pow((self.domain.dims - 1 - direction) as u32);
        let places = 0..self.coefficients.len();
        let coefficients = places.map(|place| {
            let index = place / stride % self.side();
            self.coefficients[place - index * stride + (self.side() - 1 - index) * stride]
        });
        self.with(coefficients.collect())
    }

    fn visit(&self, each: &mut dyn FnMut(&[f64], Complex64)) {
        let unit = self.domain.unit_frequency();
        for (place, &coefficient) in self.coefficients.iter().enumerate() {
            if coefficient != Complex64::ZERO {
                let k = self.wave(place).into_iter();
                let frequency: Vec<f64> = k.map(|k| unit * f64::from(k)).collect();
                each(&frequency, coefficient);
            }
        }
    }

    fn inner(&self, other: &Self) -> Result<f64, BarronError> {
        self.check(other)?;
        let pairs = self.coefficients.iter().zip(&other.coefficients);
        Ok(pairs.map(|(a, b)| (a * b.conj()).re).sum())
    }
}
