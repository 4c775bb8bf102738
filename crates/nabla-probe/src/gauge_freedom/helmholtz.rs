//! The orthogonal decomposition of a field in `L²(p)`: from samples and a basis, and of a linear field.

use faer::{Mat, Side};
use nabla_base::range;
use nabla_base::vector::{add_scaled, dot, squared_norm};

use super::GaugeError;
use super::exact_scores::eigen;
use super::vector_field::{VectorField, points_of};

/// Functions `b_k` whose gradients are known.
pub trait Basis {
    /// The numbers of a point.
    fn dimension(&self) -> usize;

    /// How many there are.
    fn functions(&self) -> usize;

    /// `b_k(x)`, `[functions]`.
    fn values(&self, x: &[f64]) -> Vec<f64>;

    /// `∇b_k(x)`, `[functions, dimension]`.
    fn gradients(&self, x: &[f64]) -> Vec<f64>;
}

/// All monomials from degree 1 to a highest degree.
///
/// ```
/// use nabla_probe::gauge_freedom::{Basis, Monomials};
///
/// let basis = Monomials::new(2, 2)?; // x, y, x², xy, y² in some order
/// assert_eq!(basis.functions(), 5);
/// let sum: f64 = basis.values(&[2.0, 3.0]).iter().sum();
/// assert_eq!(sum, 2.0 + 3.0 + 4.0 + 6.0 + 9.0);
/// # Ok::<(), nabla_probe::gauge_freedom::GaugeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monomials {
    dimension: usize,
    /// One exponent for each number of a point.
    exponents: Vec<Vec<i32>>,
}

/// The most functions of [`Monomials`].
const MOST_FUNCTIONS: usize = 5000;

impl Monomials {
    /// # Errors
    /// If a number is 0, or there were more than 5000 monomials.
    pub fn new(dimension: usize, degree: usize) -> Result<Self, GaugeError> {
        range::at_least("dimension of the monomials", dimension, 1)?;
        range::at_least("degree of the monomials", degree, 1)?;
        let mut count = 1_usize;
        for k in 1..=dimension.min(degree) {
            // Exact at every step: the product is a binomial coefficient.
            count = count.saturating_mul(dimension.max(degree) + k) / k;
        }
        range::within("number of monomials", count - 1, 1..=MOST_FUNCTIONS)?;
        let mut exponents = vec![vec![]];
        for _ in 0..dimension {
            let extended = exponents.iter().flat_map(|start: &Vec<i32>| {
                let left = degree as i32 - start.iter().sum::<i32>();
                (0..=left).map(move |last| {
                    let mut whole = start.clone();
                    whole.push(last);
                    whole
                })
            });
            exponents = extended.collect();
        }
        exponents.retain(|e| e.iter().any(|&power| power > 0));
        Ok(Self {
            dimension,
            exponents,
        })
    }
}

impl Basis for Monomials {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn functions(&self) -> usize {
        self.exponents.len()
    }

    fn values(&self, x: &[f64]) -> Vec<f64> {
        let value = |powers: &Vec<i32>| x.iter().zip(powers).map(|(x, &e)| x.powi(e)).product();
        self.exponents.iter().map(value).collect()
    }

    fn gradients(&self, x: &[f64]) -> Vec<f64> {
        let mut gradients = Vec::with_capacity(self.exponents.len() * x.len());
        for powers in &self.exponents {
            for (i, &power) in powers.iter().enumerate() {
                let others = (0..x.len()).filter(|&j| j != i);
                let others: f64 = others.map(|j| x[j].powi(powers[j])).product();
                gradients.push(match power {
                    0 => 0.0,
                    _ => f64::from(power) * x[i].powi(power - 1) * others,
                });
            }
        }
        gradients
    }
}

/// Bumps `exp(−‖x − c‖²/2w²)` around centres.
#[derive(Clone, Debug, PartialEq)]
pub struct RadialBasis {
    dimension: usize,
    centres: Vec<f64>,
    width: f64,
}

impl RadialBasis {
    /// - `centres`: `c`, `[functions, dimension]`, such as some samples
    /// - `width`: `w`
    ///
    /// # Errors
    /// If the values are no points, or the width is not positive.
    pub fn new(dimension: usize, centres: Vec<f64>, width: f64) -> Result<Self, GaugeError> {
        points_of(dimension, &centres)?;
        range::positive("width of the radial basis", width)?;
        Ok(Self {
            dimension,
            centres,
            width,
        })
    }
}

impl Basis for RadialBasis {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn functions(&self) -> usize {
        self.centres.len() / self.dimension
    }

    fn values(&self, x: &[f64]) -> Vec<f64> {
        let scale = -0.5 / (self.width * self.width);
        let value = |c: &[f64]| {
            let square: f64 = x.iter().zip(c).map(|(x, c)| (x - c) * (x - c)).sum();
            (scale * square).exp()
        };
        self.centres.chunks(self.dimension).map(value).collect()
    }

    fn gradients(&self, x: &[f64]) -> Vec<f64> {
        let scale = -1.0 / (self.width * self.width);
        let mut gradients = Vec::with_capacity(self.centres.len());
        for (c, value) in self.centres.chunks(self.dimension).zip(self.values(x)) {
            gradients.extend(x.iter().zip(c).map(|(x, c)| scale * value * (x - c)));
        }
        gradients
    }
}

/// Both together.
impl<A: Basis, B: Basis> Basis for (A, B) {
    fn dimension(&self) -> usize {
        self.0.dimension()
    }

    fn functions(&self) -> usize {
        self.0.functions() + self.1.functions()
    }

    fn values(&self, x: &[f64]) -> Vec<f64> {
        [self.0.values(x), self.1.values(x)].concat()
    }

    fn gradients(&self, x: &[f64]) -> Vec<f64> {
        [self.0.gradients(x), self.1.gradients(x)].concat()
    }
}

/// A field in its two parts, `s = ∇φ + r`.
#[derive(Clone, Debug)]
pub struct Decomposition<'a, B> {
    basis: &'a B,
    /// `c_k`, of `φ = Σ_k c_k b_k`.
    pub coefficients: Vec<f64>,
    /// `∇φ` at the samples, `[samples, dimension]`.
    pub conservative: Vec<f64>,
    /// `r = s − ∇φ` at the samples.
    pub gauge: Vec<f64>,
    /// `E‖∇φ‖² / E‖s‖²`; `E‖r‖²` is the rest.
    pub energy_fraction: f64,
    /// `E[∇φ · r] / E‖s‖²`: 0 but for rounding and the ridge.
    pub overlap: f64,
}

impl<B: Basis> Decomposition<'_, B> {
    /// `φ(x)` at each point, up to a constant.
    ///
    /// # Errors
    /// If the values are no points.
    pub fn potential(&self, x: &[f64]) -> Result<Vec<f64>, GaugeError> {
        let d = self.basis.dimension();
        points_of(d, x)?;
        let each = x.chunks(d);
        Ok(each
            .map(|x| dot(&self.coefficients, &self.basis.values(x)))
            .collect())
    }

    /// `∇φ(x)` at each point.
    ///
    /// # Errors
    /// If the values are no points.
    pub fn gradient(&self, x: &[f64]) -> Result<Vec<f64>, GaugeError> {
        let d = self.basis.dimension();
        points_of(d, x)?;
        let each = x.chunks(d);
        Ok(each.flat_map(|x| self.gradient_at(x)).collect())
    }

    fn gradient_at(&self, x: &[f64]) -> Vec<f64> {
        let mut sum = vec![0.0; x.len()];
        let gradients = self.basis.gradients(x);
        for (c, gradient) in self.coefficients.iter().zip(gradients.chunks(x.len())) {
            add_scaled(&mut sum, *c, gradient);
        }
        sum
    }
}

/// The eigenvalues of a Gram matrix that count as 0, relative to the largest.
const SINGULAR: f64 = 1e-13;

/// The decomposition of a field in `L²(p)` over a basis: `φ = argmin E_p‖s − ∇φ‖²`.
///
/// ```text
/// G_kl = E[∇b_k · ∇b_l],   h_k = E[∇b_k · s],   c = (G + λ I)⁻¹ h
/// ```
///
/// Where the basis has not enough functions, the missing part of `∇φ` is counted as `r`.
///
/// - `samples`: of `p` at the noise level, `[samples, dimension]`
/// - `ridge`: `λ`
///
/// # Errors
/// If the field fails, the shapes don't fit, or the Gram matrix is singular, as it is with fewer numbers in the samples
/// than functions and no ridge.
///
/// ```
/// use nabla_probe::gauge_freedom::{HostField, Monomials, helmholtz};
///
/// // Half a gradient, half a whirl; on a ring, where the whirl is a gauge field.
/// let field = HostField::new(2, |x: &[f64], _| vec![-x[0] - x[1], -x[1] + x[0]]);
/// let angles = (0..8).map(|k| f64::from(k) * std::f64::consts::FRAC_PI_4);
/// let ring: Vec<f64> = angles.flat_map(|a| [a.cos(), a.sin()]).collect();
/// let basis = Monomials::new(2, 2)?;
/// let found = helmholtz(&field, &ring, 1.0, &basis, 1e-9)?;
/// assert!((found.energy_fraction - 0.5).abs() < 0.01);
/// # Ok::<(), nabla_probe::gauge_freedom::GaugeError>(())
/// ```
pub fn helmholtz<'a, B: Basis>(
    field: &(impl VectorField + ?Sized),
    samples: &[f64],
    sigma: f64,
    basis: &'a B,
    ridge: f64,
) -> Result<Decomposition<'a, B>, GaugeError> {
    let d = field.dimension();
    let count = points_of(d, samples)?;
    range::not_negative("ridge", ridge)?;
    range::check(
        basis.dimension() == d,
        "dimension of the basis",
        basis.dimension(),
        format!("{d}, as that of the field"),
    )?;
    let values = field.eval(samples, sigma)?;
    let functions = basis.functions();
    // Functions below one another and numbers of all samples side by side, a block of samples at a time.
    let mut gram = Mat::<f64>::zeros(functions, functions);
    let mut right = vec![0.0; functions];
    const BLOCK: usize = 256;
    for (x, s) in samples.chunks(BLOCK * d).zip(values.chunks(BLOCK * d)) {
        let rows = x.len() / d;
        let gradients: Vec<Vec<f64>> = x.chunks(d).map(|x| basis.gradients(x)).collect();
        let block = Mat::from_fn(functions, rows * d, |k, i| gradients[i / d][k * d + i % d]);
        gram += &block * block.transpose();
        for (own, s) in gradients.iter().zip(s.chunks(d)) {
            for (h, gradient) in right.iter_mut().zip(own.chunks(d)) {
                *h += dot(gradient, s);
            }
        }
    }
    let share = 1.0 / count as f64;
    let gram = gram * faer::Scale(share);
    let found = gram.self_adjoint_eigen(Side::Lower);
    let found = found.map_err(|_| GaugeError::NoConvergence(functions))?;
    let eigenvalues = found.S().column_vector();
    let (least, largest) = (eigenvalues[0] + ridge, eigenvalues[functions - 1] + ridge);
    if least.is_nan() || least <= SINGULAR * largest {
        return Err(GaugeError::SingularGram {
            functions,
            samples: count,
        });
    }
    let mut coefficients = vec![0.0; functions];
    for k in 0..functions {
        let vector: Vec<f64> = (0..functions).map(|i| found.U()[(i, k)]).collect();
        let along = share * dot(&vector, &right) / (eigenvalues[k] + ridge);
        add_scaled(&mut coefficients, along, &vector);
    }
    let mut decomposition = Decomposition {
        basis,
        coefficients,
        conservative: Vec::new(),
        gauge: Vec::new(),
        energy_fraction: 0.0,
        overlap: 0.0,
    };
    decomposition.conservative = decomposition.gradient(samples)?;
    let rest = values.iter().zip(&decomposition.conservative);
    decomposition.gauge = rest.map(|(s, g)| s - g).collect();
    let whole = squared_norm(&values);
    if whole > 0.0 {
        decomposition.energy_fraction = squared_norm(&decomposition.conservative) / whole;
        decomposition.overlap = dot(&decomposition.conservative, &decomposition.gauge) / whole;
    }
    Ok(decomposition)
}

/// The decomposition of the linear field `s = M x` under `p = N(0, Σ)`.
///
/// ```text
/// ∇φ = K x with K = Kᵀ and K Σ + Σ K = M Σ + Σ Mᵀ;   r = N x,  N = M − K,  N Σ antisymmetric
/// ```
///
/// `K` is the symmetric part of `M` only if `Σ` is a multiple of the identity.
///
/// - `matrix`, `covariance`: `M` and `Σ`, `[dimension, dimension]`, row by row
///
/// Returns `K` and `N`.
///
/// # Errors
/// If the shapes don't fit, or the covariance is not symmetric and positive definite.
///
/// ```
/// use nabla_probe::gauge_freedom::linear_decomposition;
///
/// let (k, n) = linear_decomposition(&[-0.5, 1.0, 0.0, -1.0], &[2.0, 0.0, 0.0, 1.0])?;
/// for (found, expected) in k.iter().zip([-0.5, 1.0 / 3.0, 1.0 / 3.0, -1.0]) {
///     assert!((found - expected).abs() < 1e-15);
/// }
/// for (found, expected) in n.iter().zip([0.0, 2.0 / 3.0, -1.0 / 3.0, 0.0]) {
///     assert!((found - expected).abs() < 1e-15);
/// }
/// # Ok::<(), nabla_probe::gauge_freedom::GaugeError>(())
/// ```
pub fn linear_decomposition(
    matrix: &[f64],
    covariance: &[f64],
) -> Result<(Vec<f64>, Vec<f64>), GaugeError> {
    let d = covariance.len().isqrt();
    if matrix.len() != d * d || d == 0 {
        return Err(GaugeError::Matrix {
            what: "matrix of the field",
            values: matrix.len(),
            dimension: d,
        });
    }
    let (eigenvalues, vectors) = eigen("covariance", covariance, d)?;
    range::positive("least eigenvalue of the covariance", eigenvalues[0])?;
    let vectors = Mat::from_fn(d, d, |i, j| vectors[j * d + i]); // U, one column each
    let m = Mat::from_fn(d, d, |i, j| matrix[i * d + j]);
    let turned = vectors.transpose() * &m * &vectors; // Uᵀ M U
    // In the basis of Σ's eigenvectors, the equation is one for each entry.
    let k = Mat::from_fn(d, d, |i, j| {
        let (a, b) = (eigenvalues[i], eigenvalues[j]);
        (turned[(i, j)] * b + a * turned[(j, i)]) / (a + b)
    });
    let k = &vectors * k * vectors.transpose();
    let k: Vec<f64> = (0..d * d).map(|i| k[(i / d, i % d)]).collect();
    let n = matrix.iter().zip(&k).map(|(m, k)| m - k).collect();
    Ok((k, n))
}
