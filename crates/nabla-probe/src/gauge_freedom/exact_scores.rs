//! Fields whose densities are known: mixtures of Gaussians and uniform spheres, with noise.

use faer::{Mat, Side};
use nabla_base::range;
use nabla_base::vector::{add_scaled, dot, squared_norm};

use super::GaugeError;
use super::vector_field::{VectorField, directions_of_each, points_of};

/// A component `w N(μ, Σ)` of a [`GaussianMixtureScore`].
#[derive(Clone, Debug, PartialEq)]
pub struct MixtureComponent {
    /// `w`, relative to the others; positive.
    pub weight: f64,
    /// `μ`, `[dimension]`.
    pub mean: Vec<f64>,
    /// `Σ`, `[dimension, dimension]`, row by row; symmetric, with no negative eigenvalue.
    pub covariance: Vec<f64>,
}

impl MixtureComponent {
    /// A component with the covariance `deviation² I`.
    pub fn isotropic(weight: f64, mean: Vec<f64>, deviation: f64) -> Self {
        let d = mean.len();
        let entry = |i: usize| {
            if i.is_multiple_of(d + 1) {
                deviation * deviation
            } else {
                0.0
            }
        };
        Self {
            weight,
            covariance: (0..d * d).map(entry).collect(),
            mean,
        }
    }
}

/// A component in the basis of its covariance's eigenvectors.
#[derive(Clone, Debug)]
struct Diagonal {
    log_weight: f64,
    mean: Vec<f64>,
    eigenvalues: Vec<f64>,
    /// The eigenvectors, one row each.
    vectors: Vec<f64>,
}

/// The score of `p_σ = Σ_k w_k N(μ_k, Σ_k + σ² I)`.
///
/// ```
/// use nabla_probe::gauge_freedom::{GaussianMixtureScore, MixtureComponent, VectorField};
///
/// let halves = [-1.0, 1.0].map(|place| MixtureComponent::isotropic(1.0, vec![place], 0.0));
/// let score = GaussianMixtureScore::new(halves.to_vec())?;
/// // (tanh(x/σ²) − x)/σ²
/// let found = score.eval(&[0.5], 1.0)?[0];
/// assert!((found - (0.5_f64.tanh() - 0.5)).abs() < 1e-15);
/// # Ok::<(), nabla_probe::gauge_freedom::GaugeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct GaussianMixtureScore {
    dimension: usize,
    components: Vec<Diagonal>,
}

/// What a component says of a point: `ln w N(x)` and `∇ ln N(x)`.
struct Said {
    log_joint: f64,
    gradient: Vec<f64>,
}

impl GaussianMixtureScore {
    /// # Errors
    /// If there is no component, a weight is not positive, a shape does not fit, or a covariance is not symmetric or has
    /// a negative eigenvalue.
    pub fn new(components: Vec<MixtureComponent>) -> Result<Self, GaugeError> {
        range::at_least("number of components", components.len(), 1)?;
        let dimension = components[0].mean.len();
        range::at_least("dimension of the mixture", dimension, 1)?;
        let total: f64 = components.iter().map(|c| c.weight).sum();
        let diagonal = |component: MixtureComponent| {
            range::positive("weight of a component", component.weight)?;
            if component.mean.len() != dimension {
                return Err(GaugeError::Points {
                    values: component.mean.len(),
                    dimension,
                });
            }
            let (eigenvalues, vectors) = eigen(
                "covariance of a component",
                &component.covariance,
                dimension,
            )?;
            let largest = eigenvalues.iter().copied().fold(0.0, f64::max);
            for &value in &eigenvalues {
                // Rounding gives an eigenvalue 0 either sign.
                range::check(
                    value >= -1e-12 * largest,
                    "eigenvalue of a covariance",
                    value,
                    "at least 0",
                )?;
            }
            Ok(Diagonal {
                log_weight: (component.weight / total).ln(),
                mean: component.mean,
                eigenvalues: eigenvalues.into_iter().map(|e| e.max(0.0)).collect(),
                vectors,
            })
        };
        let components: Result<Vec<Diagonal>, GaugeError> =
            components.into_iter().map(diagonal).collect();
        Ok(Self {
            dimension,
            components: components?,
        })
    }

    /// `ln p_σ(x)` of each point, in nats.
    ///
    /// # Errors
    /// If the values are no points, or `σ` is negative.
    pub fn log_density(&self, x: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        self.check(x, sigma)?;
        let each = x.chunks(self.dimension);
        Ok(each.map(|x| self.said(x, sigma).1).collect())
    }

    fn check(&self, x: &[f64], sigma: f64) -> Result<usize, GaugeError> {
        range::not_negative("noise level", sigma)?;
        points_of(self.dimension, x)
    }

    /// Of each component, with its share `r_k`; and `ln p`.
    fn said(&self, x: &[f64], sigma: f64) -> (Vec<(f64, Said)>, f64) {
        let d = self.dimension;
        let of = |component: &Diagonal| {
            let apart: Vec<f64> = x.iter().zip(&component.mean).map(|(x, m)| x - m).collect();
            let mut log_joint = component.log_weight - 0.5 * d as f64 * std::f64::consts::TAU.ln();
            let mut gradient = vec![0.0; d];
            for (vector, e) in component.vectors.chunks(d).zip(&component.eigenvalues) {
                let variance = e + sigma * sigma;
                let along = dot(vector, &apart);
                log_joint -= 0.5 * (along * along / variance + variance.ln());
                add_scaled(&mut gradient, -along / variance, vector);
            }
            Said {
                log_joint,
                gradient,
            }
        };
        let said: Vec<Said> = self.components.iter().map(of).collect();
        let top = said
            .iter()
            .map(|s| s.log_joint)
            .fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = said.iter().map(|s| (s.log_joint - top).exp()).sum();
        let log_density = top + sum.ln();
        let shared = said.into_iter();
        let shared = shared.map(|said| ((said.log_joint - log_density).exp(), said));
        (shared.collect(), log_density)
    }

    fn score_of(&self, said: &[(f64, Said)]) -> Vec<f64> {
        let mut score = vec![0.0; self.dimension];
        for (share, said) in said {
            add_scaled(&mut score, *share, &said.gradient);
        }
        score
    }
}

impl VectorField for GaussianMixtureScore {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn eval(&self, x: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        self.check(x, sigma)?;
        let each = x.chunks(self.dimension);
        Ok(each
            .flat_map(|x| self.score_of(&self.said(x, sigma).0))
            .collect())
    }

    /// `∇∇ ln p v = Σ_k r_k (g_k g_kᵀ − (Σ_k + σ² I)⁻¹) v − s sᵀ v`, exactly.
    fn products(&self, x: &[f64], directions: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        let d = self.dimension;
        self.check(x, sigma)?;
        let each = directions_of_each(d, x, directions)?;
        let mut products = Vec::with_capacity(directions.len());
        for (x, own) in x.chunks(d).zip(directions.chunks(each * d)) {
            let (said, _) = self.said(x, sigma);
            let score = self.score_of(&said);
            for v in own.chunks(d) {
                let mut product: Vec<f64> = score.iter().map(|s| -s * dot(&score, v)).collect();
                for ((share, said), component) in said.iter().zip(&self.components) {
                    add_scaled(&mut product, share * dot(&said.gradient, v), &said.gradient);
                    for (vector, e) in component.vectors.chunks(d).zip(&component.eigenvalues) {
                        let factor = -share * dot(vector, v) / (e + sigma * sigma);
                        add_scaled(&mut product, factor, vector);
                    }
                }
                products.extend(product);
            }
        }
        Ok(products)
    }
}

/// Eigenvalues, ascending, and eigenvectors, one row each, of a symmetric matrix.
pub(super) fn eigen(
    what: &'static str,
    matrix: &[f64],
    dimension: usize,
) -> Result<(Vec<f64>, Vec<f64>), GaugeError> {
    let d = dimension;
    if matrix.len() != d * d {
        return Err(GaugeError::Matrix {
            what,
            values: matrix.len(),
            dimension,
        });
    }
    let scale = matrix.iter().fold(0.0_f64, |top, x| top.max(x.abs()));
    for i in 0..d {
        for j in 0..=i {
            let (one, other) = (matrix[i * d + j], matrix[j * d + i]);
            range::check(
                (one - other).abs() <= 1e-12 * scale && one.is_finite(),
                format!("entry of the {what}"),
                one,
                format!("{other}, as across the diagonal"),
            )?;
        }
    }
    let matrix = Mat::from_fn(d, d, |i, j| matrix[i * d + j]);
    let found = matrix.self_adjoint_eigen(Side::Lower);
    let found = found.map_err(|_| GaugeError::NoConvergence(d))?;
    let vectors = (0..d * d).map(|i| found.U()[(i % d, i / d)]).collect();
    Ok((found.S().column_vector().iter().copied().collect(), vectors))
}

/// The score of the uniform distribution on a sphere, with noise; the numbers of a point beyond the sphere's space
/// have noise only.
///
/// ```text
/// p_σ(x) ∝ ∫ exp(−‖x − R u‖²/2σ²) du,   u ∈ S^m ⊂ R^n,   n = m + 1
/// s = −x/σ² + R/σ² · x/‖x‖ · A(k),   A = I_{n/2} / I_{n/2−1},   k = R ‖x‖/σ²
/// ```
///
/// with the modified Bessel functions `I`: `A = I₁/I₀` for the circle, `coth k − 1/k` for the sphere in three
/// dimensions.
///
/// ```
/// use nabla_probe::gauge_freedom::{SphereScore, VectorField};
///
/// let sphere = SphereScore::new(2, 5, 1.0)?;
/// let found = sphere.eval(&[0.5, 0.0, 0.0, 0.3, 0.0], 1.0)?;
/// let expected = -0.5 + 1.0 / 0.5_f64.tanh() - 2.0;
/// assert!((found[0] - expected).abs() < 1e-14 && found[3] == -0.3);
/// # Ok::<(), nabla_probe::gauge_freedom::GaugeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SphereScore {
    /// `n`, the dimension of the sphere's space.
    space: usize,
    ambient: usize,
    radius: f64,
}

impl SphereScore {
    /// - `intrinsic`: `m`, at least 1
    /// - `ambient`: the numbers of a point, at least `m + 1`
    /// - `radius`: `R`
    ///
    /// # Errors
    /// If a number is out of range.
    pub fn new(intrinsic: usize, ambient: usize, radius: f64) -> Result<Self, GaugeError> {
        range::at_least("dimension of the sphere", intrinsic, 1)?;
        range::at_least("numbers of a point around it", ambient, intrinsic + 1)?;
        range::positive("radius of the sphere", radius)?;
        Ok(Self {
            space: intrinsic + 1,
            ambient,
            radius,
        })
    }

    /// `(A(k)/k, A′(k))`.
    fn ratio(&self, k: f64) -> (f64, f64) {
        let n = self.space as f64;
        if k == 0.0 {
            return (1.0 / n, 1.0 / n);
        }
        let a = bessel_ratio(0.5 * n - 1.0, k);
        (a / k, 1.0 - a * a - (n - 1.0) * a / k)
    }
}

impl VectorField for SphereScore {
    fn dimension(&self) -> usize {
        self.ambient
    }

    fn eval(&self, x: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        points_of(self.ambient, x)?;
        range::positive("noise level", sigma)?;
        let precision = 1.0 / (sigma * sigma);
        let pull = self.radius * precision;
        let mut score = Vec::with_capacity(x.len());
        for x in x.chunks(self.ambient) {
            let (head, rest) = x.split_at(self.space);
            let (over_k, _) = self.ratio(pull * squared_norm(head).sqrt());
            score.extend(head.iter().map(|x| x * (pull * pull * over_k - precision)));
            score.extend(rest.iter().map(|x| -x * precision));
        }
        Ok(score)
    }

    /// Exactly.
    fn products(&self, x: &[f64], directions: &[f64], sigma: f64) -> Result<Vec<f64>, GaugeError> {
        let d = self.ambient;
        let each = directions_of_each(d, x, directions)?;
        range::positive("noise level", sigma)?;
        let precision = 1.0 / (sigma * sigma);
        let pull = self.radius * precision;
        let mut products = Vec::with_capacity(directions.len());
        for (x, own) in x.chunks(d).zip(directions.chunks(each * d)) {
            let head = &x[..self.space];
            let square = squared_norm(head);
            let (over_k, slope) = self.ratio(pull * square.sqrt());
            for v in own.chunks(d) {
                let along = match square > 0.0 {
                    true => dot(head, v) / square,
                    false => 0.0,
                };
                let radial = pull * pull * (slope - over_k) * along;
                let each = head.iter().zip(v);
                products
                    .extend(each.map(|(x, v)| v * (pull * pull * over_k - precision) + radial * x));
                products.extend(v[self.space..].iter().map(|v| -v * precision));
            }
        }
        Ok(products)
    }
}

/// `I_{ν+1}(k) / I_ν(k)` of modified Bessel functions, for `ν ≥ −½` and `k > 0`.
///
/// For large `k` from Hankel's expansions; otherwise by the recursion `r_j = 1/(2(j+1)/k + r_{j+1})` downwards, from a
/// `j` whose error, bounded by Amos, it has reduced below rounding.
fn bessel_ratio(nu: f64, k: f64) -> f64 {
    if k >= 40.0 * (nu * nu).max(1.0) {
        // Σ_m (−1)^m Π_{i≤m} (4ν² − (2i−1)²) / (m! (8k)^m), until rounding
        let series = |nu: f64| {
            let (mut sum, mut term) = (1.0, 1.0);
            for m in 1..40 {
                let m = f64::from(m);
                term *= -(4.0 * nu * nu - (2.0 * m - 1.0).powi(2)) / (8.0 * k * m);
                sum += term;
                if term.abs() < 1e-17 {
                    break;
                }
            }
            sum
        };
        return series(nu + 1.0) / series(nu);
    }
    let steps = 40 + (6.0 * k.sqrt()) as usize;
    let top = nu + steps as f64;
    let mut ratio = k / (top + 0.5 + ((top + 1.0).powi(2) + k * k).sqrt());
    for j in (0..steps).rev() {
        ratio = 1.0 / (2.0 * (nu + j as f64 + 1.0) / k + ratio);
    }
    ratio
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.special.ive(ν + 1, k) / scipy.special.ive(ν, k)`, SciPy 1.17.1.
    #[test]
    fn bessel_ratios_are_those_of_scipy() {
        for (nu, k, expected) in BESSEL {
            let found = bessel_ratio(nu, k);
            assert!((found / expected - 1.0).abs() < 2e-14, "{nu} {k}: {found}");
        }
        // coth k − 1/k
        for k in [1e-6_f64, 1e-3, 0.7, 30.0, 39.9, 40.1, 1e6] {
            let expected = if k < 1e-2 {
                k / 3.0 - k.powi(3) / 45.0
            } else {
                1.0 / k.tanh() - 1.0 / k
            };
            assert!((bessel_ratio(0.5, k) / expected - 1.0).abs() < 1e-13, "{k}");
        }
    }

    const BESSEL: [(f64, f64, f64); 12] = [
        (0.0, 0.001, 0.0004999999375000102),
        (0.0, 2.5, 0.7649967475888098),
        (0.0, 39.0, 0.9870951079029502),
        (0.0, 41.0, 0.9877286310145835),
        (0.0, 10000.0, 0.9999499987498751),
        (0.0, 1000000.0, 0.9999994999998749),
        (1.0, 17.0, 0.9131451913498905),
        (1.5, 100.0, 0.98010101010101),
        (3.0, 150.0, 0.9768624011295362),
        (3.0, 400.0, 0.9912774119894112),
        (15.5, 2000.0, 0.992030014560373),
        (49.0, 700.0, 0.9317359558949677),
    ];
}
