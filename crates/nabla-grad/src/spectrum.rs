//! Eigenvalues of a symmetric matrix that is known only through its products with vectors.
//!
//! * [`top_eigenpairs`]: power iteration for the eigenvalues of largest absolute value, each in the
//!   complement of the previous ones (deflation).
//! * [`lanczos`]: the tridiagonal matrix `T = Vᵀ A V` of a Krylov space, whose eigenvalues (Ritz values)
//!   approach the extreme eigenvalues of `A` much faster than power iteration does.
//! * [`spectral_density`]: stochastic Lanczos quadrature. From a random start `v`, the eigenvalues
//!   `θ_i` of `T` and the squared first elements `τ_i²` of its eigenvectors are the nodes and weights
//!   of Gauss quadrature in the spectrum weighted by `v`. Averaged over starts and smoothed,
//!
//! ```text
//! T = Y diag(θ) Yᵀ,   τ_i = Y_{1i},   vᵀ f(A) v ≈ Σ_i τ_i² f(θ_i)     (exact for degree f ≤ 2m − 1)
//! φ(t) = 1/d Σ_j N(t; λ_j, σ²) ≈ 1/runs Σ_v Σ_i τ_i² N(t; θ_i, σ²)
//! ```
//!
//! Lanczos vectors lose their orthogonality as soon as a Ritz value has converged, and then copies of it
//! appear. [`LanczosConfig::reorthogonalise`] keeps all `m` vectors on the host (`8 m d` bytes) and makes
//! every new one orthogonal to them, twice. Otherwise only two vectors are kept, and the density is still
//! good.
//!
//! **Errors.** Products that are known only up to an error ([`CurvatureOperator::apply_with_error`]) give
//! eigenvalues of a matrix near `A`. The residuals include that error, so an eigenvalue of `A` itself lies
//! within each of them. An eigenvalue is never called converged if the operator's error exceeds the
//! tolerance.
//!
//! Sources: Golub, Meurant, *Matrices, Moments and Quadrature*, 1994; Ubaru, Chen, Saad, *Fast
//! Estimation of tr(f(A)) via Stochastic Lanczos Quadrature*, 2017; Ghorbani, Krishnan, Xiao, *An
//! Investigation into Neural Net Optimization via Hessian Eigenvalue Density*, 2019, arXiv
//! 1901.10159, algorithms 1 and 2; Yao, Gholami, Keutzer, Mahoney, *PyHessian: Neural Networks
//! Through the Lens of the Hessian*, 2020, arXiv 1912.07145, from which the defaults come.

use std::f64::consts::PI;

use burn::config::Config;
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{
    ComputeEigenvectors, self_adjoint_evd_scratch, tridiagonal_self_adjoint_evd,
};
use faer::{Mat, Par, Spec};

use nabla_base::range::{self, OutOfRange};

use crate::curvature::{CurvatureError, CurvatureOperator, add_scaled, dot, norm};
use crate::seeded_noise::SeededNoise;
use crate::trace::Probe;

/// The reason why a spectrum cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum SpectrumError {
    /// A number of a configuration, or the norm of the start, is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There are fewer eigenvalues than requested.
    #[error("{asked} eigenvalues were requested, but the matrix has {dim} rows")]
    TooMany {
        /// The number requested.
        asked: usize,
        /// Rows of the matrix.
        dim: usize,
    },
    /// The matrix is empty.
    #[error("the matrix has no rows, so it has no spectrum")]
    Empty,
    /// The length of the start does not match the matrix.
    #[error(
        "the start of the Lanczos iteration has {found} elements, but the matrix has {dim} rows"
    )]
    StartLength {
        /// Rows of the matrix.
        dim: usize,
        /// Elements of the start.
        found: usize,
    },
    /// There is no quadrature for a density.
    #[error("a spectral density needs at least one quadrature")]
    NoQuadrature,
    /// The eigenvalues of the tridiagonal matrix were not found.
    #[error("the eigenvalues of the {0} × {0} tridiagonal matrix did not converge")]
    NoConvergence(usize),
    /// A product failed.
    #[error(transparent)]
    Curvature(#[from] CurvatureError),
}

/// Configuration of [`top_eigenpairs`]. The defaults are PyHessian's.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct PowerConfig {
    /// The number of eigenvalues to find. Default 1.
    #[config(default = 1)]
    pub count: usize,
    /// The largest number of products for each of them. Default 100.
    #[config(default = 100)]
    pub iterations: usize,
    /// An eigenvalue has converged once its relative change, and the relative error of the operator's
    /// product, are below this tolerance. Default 1e-3. If the next eigenvalue is near, the error is larger
    /// than the last change: check [`Eigenpair::residual`].
    #[config(default = 1e-3)]
    pub tolerance: f64,
}

/// An eigenvalue with its eigenvector.
#[derive(Clone, Debug, PartialEq)]
pub struct Eigenpair {
    /// `λ = vᵀ A v`.
    pub value: f64,
    /// `v`, of norm 1.
    pub vector: Vec<f64>,
    /// An upper bound of `‖A v − λ v‖₂`, including the error of the operator's product. A symmetric `A` has
    /// an eigenvalue within this distance of `λ`.
    pub residual: f64,
    /// The error of the operator's last product, which is the part of `residual` that no iteration reduces.
    pub operator_error: f64,
    /// The number of products used.
    pub iterations: usize,
    /// Whether both the last change and the operator's error are below the tolerance.
    pub converged: bool,
}

/// Returns the eigenpairs of largest absolute value, by power iteration from Gaussian starts.
///
/// It does not converge between eigenvalues of the same absolute value and opposite signs; use
/// [`lanczos`] there.
///
/// # Errors
/// If the configuration is out of range, more eigenvalues are requested than exist, or a product fails.
pub fn top_eigenpairs(
    operator: &impl CurvatureOperator,
    config: &PowerConfig,
    noise: &mut SeededNoise,
) -> Result<Vec<Eigenpair>, SpectrumError> {
    let dim = checked_dim(operator)?;
    range::at_least("number of iterations", config.iterations, 1)?;
    range::at_least("number of eigenvalues", config.count, 1)?;
    range::not_negative("tolerance", config.tolerance)?;
    if config.count > dim {
        return Err(SpectrumError::TooMany {
            asked: config.count,
            dim,
        });
    }
    let precision = precision(operator);
    let mut found: Vec<Eigenpair> = Vec::with_capacity(config.count);
    while found.len() < config.count {
        let mut v = loop {
            let mut start = Probe::Gaussian.draw(dim, noise);
            orthogonalise(&mut start, found.iter().map(|pair| &pair.vector));
            if normalise(&mut start) {
                break start;
            }
        };
        let mut last: Option<f64> = None;
        let mut iterations = 0;
        let pair = loop {
            let found_product = operator.apply_with_error(&v)?;
            let (mut product, operator_error) = (found_product.values, found_product.error);
            iterations += 1;
            let value = dot(&v, &product);
            let mut error = product.clone();
            add_scaled(&mut error, -value, &v);
            let residual = norm(&error) + operator_error;
            // Smaller changes than the operator's own error mean nothing.
            let allowed = config.tolerance * (value.abs() + 1e-6);
            let known = operator_error <= allowed;
            let settled =
                last.is_some_and(|last| (value - last).abs() < allowed.max(operator_error));
            last = Some(value);
            let before = norm(&product);
            orthogonalise(&mut product, found.iter().map(|pair| &pair.vector));
            // If only rounding is left, v is in the kernel of the deflated matrix.
            let left = norm(&product);
            let vanished =
                left <= (10.0 * precision * before).max(operator_error) || !normalise(&mut product);
            if settled || vanished || iterations == config.iterations {
                break Eigenpair {
                    value,
                    vector: v,
                    residual,
                    operator_error,
                    iterations,
                    converged: (settled || vanished) && known,
                };
            }
            v = product;
        };
        found.push(pair);
    }
    Ok(found)
}

/// Configuration of [`lanczos`].
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub struct LanczosConfig {
    /// The number of steps `m`, one product each; at most the number of rows. Default 100.
    #[config(default = 100)]
    pub steps: usize,
    /// Whether to keep all vectors, and make each new one orthogonal to them. Default true.
    #[config(default = true)]
    pub reorthogonalise: bool,
}

/// The tridiagonal matrix `T` of a Lanczos iteration.
#[derive(Clone, Debug, PartialEq)]
pub struct Tridiagonal {
    /// `α_1 … α_m`, the diagonal.
    pub alpha: Vec<f64>,
    /// `β_1 … β_(m−1)`, next to the diagonal.
    pub beta: Vec<f64>,
    /// `β_m`, the norm of the next vector before it is normalised. It is 0 if the Krylov space was exhausted
    /// before (or with) the last step; the eigenvalues of `T` are then eigenvalues of the matrix itself.
    pub remainder: f64,
    /// `v_1 … v_m`, if they were kept.
    pub basis: Option<Vec<Vec<f64>>>,
    /// A bound of `‖A v_j − β_(j−1) v_(j−1) − α_j v_j − β_j v_(j+1)‖₂` for every step: the error of its
    /// product, and the part removed to make it orthogonal to all vectors. 0 for exact products.
    pub errors: Vec<f64>,
}

/// A Ritz pair.
#[derive(Clone, Debug, PartialEq)]
pub struct RitzPair {
    /// `θ`, an eigenvalue of `T`.
    pub value: f64,
    /// `V y`, if the Lanczos vectors were kept.
    pub vector: Option<Vec<f64>>,
    /// An upper bound of `‖A V y − θ V y‖₂`: `β_m |y_m|` plus the errors of the products, `Σ_j |y_j| ·`
    /// [`errors`](Tridiagonal::errors). If the Lanczos vectors were kept orthogonal, the matrix has an
    /// eigenvalue within this distance of `θ`.
    pub residual: f64,
    /// The part of `residual` that comes from the operator's errors, which no further step reduces.
    pub operator_error: f64,
}

/// Nodes and weights of Gauss quadrature in the spectrum of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Quadrature {
    /// `θ_i`, ascending.
    pub nodes: Vec<f64>,
    /// `τ_i²`, with the sum 1.
    pub weights: Vec<f64>,
    /// How far the nodes may be shifted by the errors of the operator's products,
    /// `√Σ_j errors_j²` (Weyl): the density has no finer detail than this.
    pub operator_error: f64,
}

impl Quadrature {
    /// `Σ_i τ_i² f(θ_i)`, an estimate of `tr f(A) / d`.
    pub fn integrate(&self, f: impl Fn(f64) -> f64) -> f64 {
        self.nodes
            .iter()
            .zip(&self.weights)
            .map(|(&node, weight)| weight * f(node))
            .sum()
    }
}

impl Tridiagonal {
    /// Eigenvalues, ascending, and eigenvectors (columns) of `T`.
    fn eigen(&self) -> Result<(Vec<f64>, Mat<f64>), SpectrumError> {
        let m = self.alpha.len();
        let mut diagonal = Diag::<f64>::zeros(m);
        let mut beside = Diag::<f64>::zeros(m);
        for (i, &alpha) in self.alpha.iter().enumerate() {
            diagonal[i] = alpha;
        }
        for (i, &beta) in self.beta.iter().enumerate() {
            beside[i] = beta;
        }
        let mut values = Diag::<f64>::zeros(m);
        let mut vectors = Mat::<f64>::zeros(m, m);
        let scratch =
            self_adjoint_evd_scratch::<f64>(m, ComputeEigenvectors::Yes, Par::Seq, Spec::default());
        tridiagonal_self_adjoint_evd(
            diagonal.as_ref(),
            beside.as_ref(),
            values.as_mut(),
            Some(vectors.as_mut()),
            Par::Seq,
            MemStack::new(&mut MemBuffer::new(scratch)),
            Spec::default(),
        )
        .map_err(|_| SpectrumError::NoConvergence(m))?;
        let values = (0..m).map(|i| values[i]).collect();
        Ok((values, vectors))
    }

    /// The Ritz pairs, with ascending values.
    ///
    /// # Errors
    /// If the eigenvalues of `T` cannot be computed.
    pub fn ritz_pairs(&self) -> Result<Vec<RitzPair>, SpectrumError> {
        let (values, vectors) = self.eigen()?;
        let last = values.len() - 1;
        let operator_error = |i: usize| -> f64 {
            let shares = self.errors.iter().enumerate();
            shares.map(|(j, e)| e * vectors[(j, i)].abs()).sum()
        };
        let pairs = values.into_iter().enumerate().map(|(i, value)| RitzPair {
            value,
            operator_error: operator_error(i),
            vector: self.basis.as_ref().map(|basis| {
                let mut sum = vec![0.0; basis[0].len()];
                for (j, v) in basis.iter().enumerate() {
                    add_scaled(&mut sum, vectors[(j, i)], v);
                }
                sum
            }),
            residual: self.remainder * vectors[(last, i)].abs() + operator_error(i),
        });
        Ok(pairs.collect())
    }

    /// Gauss quadrature in the spectrum weighted by the start.
    ///
    /// # Errors
    /// If the eigenvalues of `T` cannot be computed.
    pub fn quadrature(&self) -> Result<Quadrature, SpectrumError> {
        let (nodes, vectors) = self.eigen()?;
        let weights = (0..nodes.len()).map(|i| vectors[(0, i)].powi(2)).collect();
        Ok(Quadrature {
            nodes,
            weights,
            operator_error: norm(&self.errors),
        })
    }
}

/// Runs the Lanczos iteration from `start`, `[dim]`, of any norm except 0.
///
/// # Errors
/// If there is no step, the start has another length or its norm is 0 or not finite, or a product fails.
pub fn lanczos(
    operator: &impl CurvatureOperator,
    start: &[f64],
    config: &LanczosConfig,
) -> Result<Tridiagonal, SpectrumError> {
    let dim = checked_dim(operator)?;
    range::at_least("number of Lanczos steps", config.steps, 1)?;
    if start.len() != dim {
        return Err(SpectrumError::StartLength {
            dim,
            found: start.len(),
        });
    }
    let mut v = start.to_vec();
    let length = norm(&v);
    let fits = length.is_finite() && normalise(&mut v);
    let name = "norm of the start of the Lanczos iteration";
    range::check(fits, name, length, "positive and finite")?;
    let steps = config.steps.min(dim);
    let precision = precision(operator);
    let mut alpha = Vec::with_capacity(steps);
    let mut beta: Vec<f64> = Vec::with_capacity(steps);
    let mut basis: Vec<Vec<f64>> = Vec::new();
    let mut before: Vec<f64> = Vec::new();
    let mut scale = 0.0_f64;
    let mut errors = Vec::with_capacity(steps);
    let remainder = loop {
        let product = operator.apply_with_error(&v)?;
        let (mut w, mut error) = (product.values, product.error);
        if let Some(&last) = beta.last() {
            add_scaled(&mut w, -last, &before);
        }
        let along = dot(&v, &w);
        add_scaled(&mut w, -along, &v);
        alpha.push(along);
        if config.reorthogonalise {
            basis.push(v.clone());
            let full = (error > 0.0).then(|| w.clone());
            orthogonalise(&mut w, basis.iter());
            if let Some(mut taken) = full {
                // This is 0 if the products were exact.
                add_scaled(&mut taken, -1.0, &w);
                error += norm(&taken);
            }
        }
        let mut left = norm(&w);
        scale = scale.max(along.abs()).max(left);
        // If only rounding or the operator's error is left, the Krylov space is exhausted.
        if left <= (10.0 * precision * scale).max(product.error) || alpha.len() == dim {
            if product.error > 0.0 {
                error += left;
            }
            left = 0.0;
        }
        errors.push(error);
        if left == 0.0 || alpha.len() == steps {
            break left;
        }
        w.iter_mut().for_each(|x| *x /= left);
        beta.push(left);
        before = std::mem::replace(&mut v, w);
    };
    Ok(Tridiagonal {
        alpha,
        beta,
        remainder,
        basis: config.reorthogonalise.then_some(basis),
        errors,
    })
}

/// Configuration of [`spectral_density`]. The defaults are PyHessian's.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct DensityConfig {
    /// The number of Lanczos steps per run. Default 100.
    #[config(default = 100)]
    pub steps: usize,
    /// The number of runs, each from its own start. Default 1; Ghorbani et al. use 10.
    #[config(default = 1)]
    pub runs: usize,
    /// Distribution of the starts. Default [`Probe::Rademacher`].
    #[config(default = "Probe::Rademacher")]
    pub probe: Probe,
    /// Whether to keep the Lanczos vectors orthogonal. Default true.
    #[config(default = true)]
    pub reorthogonalise: bool,
    /// The number of points of the grid, at least 32. Default 10,000.
    #[config(default = 10_000)]
    pub points: usize,
    /// Standard deviation `σ` of the Gaussians, at least the spacing of the grid. By default `√(1e-5 · max(1,
    /// range))` with the range of all nodes, but at least two spacings and at least the operator's error.
    pub sigma: Option<f64>,
    /// First and last point of the grid. By default the range of all nodes, extended by 0.01 or by `4 σ`,
    /// whichever is larger.
    pub bounds: Option<[f64; 2]>,
}

/// A density of eigenvalues; over all real numbers it integrates to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct SpectralDensity {
    /// Equidistant points, ascending.
    pub grid: Vec<f64>,
    /// The density at each of them.
    pub density: Vec<f64>,
    /// The standard deviation of the Gaussians.
    pub sigma: f64,
    /// How far the eigenvalues behind it may be shifted by the errors of the operator's products.
    pub operator_error: f64,
}

impl SpectralDensity {
    /// The mean density of the quadratures on a grid; only `points`, `sigma` and `bounds` of the
    /// configuration matter.
    ///
    /// # Errors
    /// If there is no quadrature, or the configuration is out of range.
    pub fn of(quadratures: &[Quadrature], config: &DensityConfig) -> Result<Self, SpectrumError> {
        range::at_least("number of grid points", config.points, 32)?;
        let nodes = || quadratures.iter().flat_map(|q| q.nodes.iter().copied());
        let (low, high) = nodes().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), node| {
            (low.min(node), high.max(node))
        });
        if low > high {
            return Err(SpectrumError::NoQuadrature);
        }
        let intervals = (config.points - 1) as f64;
        let width = match config.bounds {
            Some([first, last]) => last - first,
            None => high - low,
        };
        // Without given bounds, the grid gets a margin.
        if config.bounds.is_some() || width != 0.0 {
            range::positive("width of the grid", width)?;
        }
        let operator_error = quadratures
            .iter()
            .fold(0.0_f64, |most, q| most.max(q.operator_error));
        let sigma = match config.sigma {
            Some(sigma) => sigma,
            // With a margin of 4 σ on each side, two spacings are σ = 2 (width + 8 σ) / intervals.
            None => (1e-5 * (width + 0.02).max(1.0))
                .sqrt()
                .max(2.0 * width / (intervals - 16.0))
                .max(operator_error),
        };
        let [first, last] = config.bounds.unwrap_or_else(|| {
            let margin = (4.0 * sigma).max(0.01);
            [low - margin, high + margin]
        });
        let spacing = (last - first) / intervals;
        // A narrower Gaussian can fall between two points and be lost.
        let fits = sigma >= spacing && sigma.is_finite();
        let expected = "finite and at least the grid's spacing";
        range::check(fits, "standard deviation", sigma, expected)?;

        let grid: Vec<f64> = (0..config.points)
            .map(|i| first + spacing * i as f64)
            .collect();
        let runs = quadratures.len() as f64;
        let height = 1.0 / (runs * sigma * (2.0 * PI).sqrt());
        let mut density = vec![0.0; grid.len()];
        for quadrature in quadratures {
            for (&node, &weight) in quadrature.nodes.iter().zip(&quadrature.weights) {
                // Farther than 40 σ the exponential is 0 in f64.
                let reach = |x: f64| grid.partition_point(|&t| t < x);
                let near = reach(node - 40.0 * sigma)..reach(node + 40.0 * sigma);
                for (t, sum) in grid[near.clone()].iter().zip(&mut density[near]) {
                    let z = (t - node) / sigma;
                    *sum += weight * height * (-0.5 * z * z).exp();
                }
            }
        }
        Ok(Self {
            grid,
            density,
            sigma,
            operator_error,
        })
    }

    /// `∫ f(t) φ(t) dt` over the grid, by the trapezoidal rule.
    pub fn integrate(&self, f: impl Fn(f64) -> f64) -> f64 {
        let values: Vec<f64> = self
            .grid
            .iter()
            .zip(&self.density)
            .map(|(&t, density)| density * f(t))
            .collect();
        let pairs = self.grid.windows(2).zip(values.windows(2));
        pairs
            .map(|(t, value)| (t[1] - t[0]) * (value[0] + value[1]) / 2.0)
            .sum()
    }
}

/// Returns one Gauss quadrature per run, each from a random start.
///
/// # Errors
/// If there is no run or step, the matrix is empty, or a product fails.
pub fn spectral_quadratures(
    operator: &impl CurvatureOperator,
    config: &DensityConfig,
    noise: &mut SeededNoise,
) -> Result<Vec<Quadrature>, SpectrumError> {
    let dim = checked_dim(operator)?;
    range::at_least("number of runs", config.runs, 1)?;
    let lanczos_config = LanczosConfig {
        steps: config.steps,
        reorthogonalise: config.reorthogonalise,
    };
    (0..config.runs)
        .map(|_| {
            let start = config.probe.draw(dim, noise);
            lanczos(operator, &start, &lanczos_config)?.quadrature()
        })
        .collect()
}

/// Returns the density of eigenvalues by stochastic Lanczos quadrature; see the [module documentation](self).
///
/// # Errors
/// If the configuration is out of range, the matrix is empty, or a product fails.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::curvature::FunctionOperator;
/// use nabla_grad::seeded_noise::SeededNoise;
/// use nabla_grad::spectrum::{DensityConfig, spectral_density};
///
/// let twice = FunctionOperator::new(50, Device::flex(), |v: &Tensor<1>| Ok(v.clone() * 2.0));
/// let density = spectral_density(&twice, &DensityConfig::new(), &mut SeededNoise::new(1, 0))?;
/// assert!((density.integrate(|t| t) - 2.0).abs() < 1e-3);
/// # Ok::<(), nabla_grad::spectrum::SpectrumError>(())
/// ```
pub fn spectral_density(
    operator: &impl CurvatureOperator,
    config: &DensityConfig,
    noise: &mut SeededNoise,
) -> Result<SpectralDensity, SpectrumError> {
    let quadratures = spectral_quadratures(operator, config, noise)?;
    SpectralDensity::of(&quadratures, config)
}

fn checked_dim(operator: &impl CurvatureOperator) -> Result<usize, SpectrumError> {
    match operator.dim() {
        0 => Err(SpectrumError::Empty),
        dim => Ok(dim),
    }
}

/// The norm that the operator's own rounding leaves of a vector that should be 0, relative to norm 1.
fn precision(operator: &impl CurvatureOperator) -> f64 {
    let info = operator.dtype().finfo();
    info.map_or(f64::EPSILON, |info| info.epsilon)
}

/// Removes the components along an orthonormal basis from `v`, twice, which is enough (Kahan; Parlett,
/// *The Symmetric Eigenvalue Problem*, 1980).
fn orthogonalise<'a>(v: &mut [f64], basis: impl Iterator<Item = &'a Vec<f64>> + Clone) {
    for _ in 0..2 {
        for b in basis.clone() {
            let share = dot(b, v);
            add_scaled(v, -share, b);
        }
    }
}

/// Normalises `v`. Returns false and leaves `v` unchanged if its norm is 0.
fn normalise(v: &mut [f64]) -> bool {
    let length = norm(v);
    if length > 0.0 {
        v.iter_mut().for_each(|x| *x /= length);
    }
    length > 0.0
}

#[cfg(test)]
mod tests;
