//! Functions with few Fourier coefficients, in any number of dimensions.

use std::collections::{BTreeMap, HashMap};

use rustfft::num_complex::Complex64;

use super::BarronError;
use super::spectral::{Domain, Spectral};

/// A sum of few waves. The cost of a product is the product of the numbers of waves, in any dimension.
///
/// ```
/// use nabla_physics::barron_pde::{SparseFourier, Spectral, Domain};
///
/// let domain = Domain::periodic(3);
/// let u = SparseFourier::cosine(domain, &[1, 0, 0], 1.0, 0.0)?;
/// let squared = u.times(&u)?;                               // ½ + ½ cos 4πx
/// assert_eq!(squared.modes(), 3);
/// assert!((squared.at(&[0.25, 0.0, 0.0])?).abs() < 1e-15);
/// assert!((u.barron_norm() - 1.0 - std::f64::consts::TAU).abs() < 1e-12);
/// # Ok::<(), nabla_physics::barron_pde::BarronError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SparseFourier {
    domain: Domain,
    /// Of each pair `±k` the one whose first number but 0 is positive, so that no rounding makes the function complex.
    modes: BTreeMap<Box<[i32]>, Complex64>,
}

impl SparseFourier {
    /// The most pairs of frequencies that a function may have.
    pub const MOST_MODES: usize = 1 << 20;

    /// The sum of `2 Re(û_k e^{iω·x})` over the given `k`, of which none is the other's negative; a real `û_0` counts once.
    ///
    /// # Errors
    /// If the domain has no dimension, a `k` has another number of coordinates or comes twice, a coefficient is not finite, or the
    /// mean is not real.
    pub fn new(
        domain: Domain,
        modes: impl IntoIterator<Item = (Vec<i32>, Complex64)>,
    ) -> Result<Self, BarronError> {
        nabla_base::range::at_least("number of dimensions", domain.dims, 1)?;
        let mut found = BTreeMap::new();
        for (k, coefficient) in modes {
            let own = k.len();
            if own != domain.dims {
                return Err(BarronError::Dimensions {
                    expected: domain.dims,
                    found: own,
                });
            }
            let (key, coefficient) = match sign(&k) {
                Sign::Negative => (k.iter().map(|k| -k).collect(), coefficient.conj()),
                Sign::Zero if coefficient.im != 0.0 => return Err(BarronError::NotReal),
                _ => (k.clone().into_boxed_slice(), coefficient),
            };
            if !coefficient.is_finite() {
                return Err(BarronError::NotFinite(k));
            }
            if found.insert(key, coefficient).is_some() {
                return Err(BarronError::Twice(k));
            }
        }
        found.retain(|_, coefficient| *coefficient != Complex64::ZERO);
        Ok(Self {
            domain,
            modes: found,
        })
    }

    /// `value` everywhere.
    ///
    /// # Errors
    /// If it is not finite.
    pub fn constant(domain: Domain, value: f64) -> Result<Self, BarronError> {
        Self::new(domain, [(vec![0; domain.dims], value.into())])
    }

    /// `amplitude · cos(ω·x + phase)` of `ω = 2πk`, or `πk` for zero borders.
    ///
    /// # Errors
    /// If `k` has another number of coordinates, or a number is not finite.
    pub fn cosine(
        domain: Domain,
        k: &[i32],
        amplitude: f64,
        phase: f64,
    ) -> Result<Self, BarronError> {
        let coefficient = match sign(k) {
            Sign::Zero => (amplitude * phase.cos()).into(),
            _ => Complex64::from_polar(0.5, phase) * amplitude,
        };
        Self::new(domain, [(k.to_vec(), coefficient)])
    }

    /// `amplitude · Π_j sin(ω_j x_j)`, of `2^d` frequencies: odd in every coordinate if no `k_j` is 0.
    ///
    /// # Errors
    /// If `k` has another number of coordinates or is too long, or a number is not finite.
    pub fn sine_product(domain: Domain, k: &[i32], amplitude: f64) -> Result<Self, BarronError> {
        let mut product = Self::constant(domain, amplitude)?;
        if k.len() != domain.dims {
            return Err(BarronError::Dimensions {
                expected: domain.dims,
                found: k.len(),
            });
        }
        for (j, &k) in k.iter().enumerate() {
            let mut along = vec![0; domain.dims];
            along[j] = k;
            // sin is (e^{iωx} − e^{−iωx}) / 2i.
            let half = match k {
                0 => Complex64::ZERO,
                _ => Complex64::new(0.0, -0.5),
            };
            product = product.times(&Self::new(domain, [(along, half)])?)?;
        }
        Ok(product)
    }

    /// `u(x)`.
    ///
    /// # Errors
    /// If `x` has another number of coordinates.
    pub fn at(&self, x: &[f64]) -> Result<f64, BarronError> {
        if x.len() != self.domain.dims {
            return Err(BarronError::Dimensions {
                expected: self.domain.dims,
                found: x.len(),
            });
        }
        let unit = self.domain.unit_frequency();
        Ok(self.pairs().fold(0.0, |sum, (k, coefficient, count)| {
            let phase: f64 = k.iter().zip(x).map(|(&k, x)| f64::from(k) * x).sum();
            sum + count * (coefficient * Complex64::from_polar(1.0, unit * phase)).re
        }))
    }

    /// The frequencies, one of each pair `±ω`, with their coefficients and the number of frequencies for which they stand.
    pub fn pairs(&self) -> impl Iterator<Item = (&[i32], Complex64, f64)> {
        self.modes.iter().map(|(k, &coefficient)| {
            let count = match sign(k) {
                Sign::Zero => 1.0,
                _ => 2.0,
            };
            (&**k, coefficient, count)
        })
    }

    /// All frequencies, row after row of `d` numbers, and their coefficients.
    fn all(&self) -> (Vec<i32>, Vec<Complex64>) {
        let (mut keys, mut coefficients) = (Vec::new(), Vec::new());
        for (k, coefficient, count) in self.pairs() {
            keys.extend_from_slice(k);
            coefficients.push(coefficient);
            if count == 2.0 {
                keys.extend(k.iter().map(|k| -k));
                coefficients.push(coefficient.conj());
            }
        }
        (keys, coefficients)
    }

    fn check(&self, other: &Self) -> Result<(), BarronError> {
        match self.domain == other.domain {
            true => Ok(()),
            false => Err(BarronError::Domains(self.domain, other.domain)),
        }
    }

    fn limited(self) -> Result<Self, BarronError> {
        match self.modes.len() {
            0..=Self::MOST_MODES => Ok(self),
            found => Err(BarronError::Modes(found)),
        }
    }
}

/// Of the first number that isn't 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Negative,
    Zero,
    Positive,
}

fn sign(k: &[i32]) -> Sign {
    match k.iter().find(|&&k| k != 0) {
        Some(k) if *k < 0 => Sign::Negative,
        Some(_) => Sign::Positive,
        None => Sign::Zero,
    }
}

impl Spectral for SparseFourier {
    fn domain(&self) -> Domain {
        self.domain
    }

    fn zero(&self) -> Self {
        Self {
            domain: self.domain,
            modes: BTreeMap::new(),
        }
    }

    fn plus(&self, factor: f64, other: &Self) -> Result<Self, BarronError> {
        self.check(other)?;
        let mut sum = self.clone();
        for (k, coefficient) in &other.modes {
            *sum.modes.entry(k.clone()).or_insert(Complex64::ZERO) += factor * coefficient;
        }
        sum.modes
            .retain(|_, coefficient| *coefficient != Complex64::ZERO);
        sum.limited()
    }

    fn times(&self, other: &Self) -> Result<Self, BarronError> {
        self.check(other)?;
        let dims = self.domain.dims;
        let ([keys, others], [left, right]) = {
            let ((keys, left), (others, right)) = (self.all(), other.all());
            ([keys, others], [left, right])
        };
        let mut found: HashMap<Box<[i32]>, Complex64> = HashMap::new();
        let mut sum = vec![0; dims];
        for (k, a) in keys.chunks_exact(dims).zip(&left) {
            for (l, b) in others.chunks_exact(dims).zip(&right) {
                for ((sum, k), l) in sum.iter_mut().zip(k).zip(l) {
                    *sum = k + l;
                }
                if sign(&sum) == Sign::Negative {
                    continue;
                }
                match found.get_mut(&sum[..]) {
                    Some(found) => *found += a * b,
                    None => {
                        if found.len() == Self::MOST_MODES {
                            return Err(BarronError::Modes(found.len() + 1));
                        }
                        found.insert(sum.clone().into_boxed_slice(), a * b);
                    }
                }
            }
        }
        let mut modes: BTreeMap<_, _> = found.into_iter().collect();
        // A mean of pairs that are conjugates of each other is real but for rounding.
        if let Some(mean) = modes.get_mut(&vec![0; dims][..]) {
            mean.im = 0.0;
        }
        modes.retain(|_, coefficient| *coefficient != Complex64::ZERO);
        Ok(Self {
            domain: self.domain,
            modes,
        })
    }

    fn multiplied(&self, symbol: &dyn Fn(&[f64]) -> Complex64) -> Self {
        let unit = self.domain.unit_frequency();
        let modes = self.modes.iter().map(|(k, coefficient)| {
            let frequency: Vec<f64> = k.iter().map(|&k| unit * f64::from(k)).collect();
            (k.clone(), symbol(&frequency) * coefficient)
        });
        Self {
            domain: self.domain,
            modes: modes.filter(|(_, c)| *c != Complex64::ZERO).collect(),
        }
    }

    fn pruned(self, least: f64) -> (Self, Self) {
        let domain = self.domain;
        let (kept, dropped) = self
            .modes
            .into_iter()
            .partition(|(_, coefficient)| coefficient.norm() >= least);
        [kept, dropped].map(|modes| Self { domain, modes }).into()
    }

    fn reflected(&self, direction: usize) -> Self {
        let modes = self.modes.iter().map(|(k, &coefficient)| {
            let mut k = k.clone();
            k[direction] = -k[direction];
            match sign(&k) {
                Sign::Negative => (k.iter().map(|k| -k).collect(), coefficient.conj()),
                _ => (k, coefficient),
            }
        });
        Self {
            domain: self.domain,
            modes: modes.collect(),
        }
    }

    fn visit(&self, each: &mut dyn FnMut(&[f64], Complex64)) {
        let unit = self.domain.unit_frequency();
        let mut frequency = vec![0.0; self.domain.dims];
        for (k, coefficient, count) in self.pairs() {
            let mut one = |sign: f64, coefficient| {
                for (frequency, &k) in frequency.iter_mut().zip(k) {
                    *frequency = sign * unit * f64::from(k);
                }
                each(&frequency, coefficient);
            };
            one(1.0, coefficient);
            if count == 2.0 {
                one(-1.0, coefficient.conj());
            }
        }
    }

    fn inner(&self, other: &Self) -> Result<f64, BarronError> {
        self.check(other)?;
        Ok(self.pairs().fold(0.0, |sum, (k, a, count)| {
            let b = other.modes.get(k);
            sum + b.map_or(0.0, |b| count * (a * b.conj()).re)
        }))
    }
}
