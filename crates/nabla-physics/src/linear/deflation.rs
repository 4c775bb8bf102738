//! A space that is solved exactly beside a preconditioner for the rest, and the Ritz vectors that make it up.

use burn::tensor::{DType, Device, Tensor, TensorData};
use faer::linalg::solvers::Llt;
use faer::prelude::Solve;
use faer::{Mat, Side};
use nabla_grad::curvature::{CurvatureError, CurvatureOperator, Product, add_scaled, dot};
use nabla_grad::spectrum::{LanczosConfig, RitzPair, lanczos};

use super::{LinearError, Preconditioner, SpdOperator};

/// Matrices of this crate for what `nabla-grad` knows of spectra.
struct OnHost<'a, A>(&'a A);

impl<A: SpdOperator> CurvatureOperator for OnHost<'_, A> {
    fn dim(&self) -> usize {
        self.0.dim()
    }

    fn device(&self) -> Device {
        Device::flex()
    }

    fn dtype(&self) -> DType {
        DType::F64
    }

    fn apply(&self, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        let device = v.device();
        let values = v.clone().try_into_vec_as::<f64>();
        let values = values.map_err(|error| CurvatureError::Device(error.to_string()))?;
        let product = self.apply_values(&values)?;
        let data = TensorData::new(product, [values.len()]);
        Ok(Tensor::from_data(data, (&device, DType::F64)))
    }

    fn apply_values(&self, v: &[f64]) -> Result<Vec<f64>, CurvatureError> {
        let mut product = vec![0.0; v.len()];
        self.0.apply(v, &mut product);
        Ok(product)
    }

    fn apply_with_error(&self, v: &[f64]) -> Result<Product, CurvatureError> {
        Ok(Product::exact(self.apply_values(v)?))
    }
}

/// The Ritz pairs of a Krylov space, with rising values. The vectors are kept orthogonal.
///
/// - `start`: `[dim]`, of any norm but 0
/// - `steps`: of the Lanczos iteration; each keeps a vector
///
/// # Errors
/// If there is no step, or the start doesn't fit, or is 0.
pub fn ritz_pairs(
    a: &impl SpdOperator,
    start: &[f64],
    steps: usize,
) -> Result<Vec<RitzPair>, LinearError> {
    let config = LanczosConfig::new().with_steps(steps);
    Ok(lanczos(&OnHost(a), start, &config)?.ritz_pairs()?)
}

/// The largest eigenvalue of a matrix, from below.
pub(super) fn largest_eigenvalue(
    a: &impl SpdOperator,
    start: &[f64],
    steps: usize,
) -> Result<f64, LinearError> {
    let config = LanczosConfig::new()
        .with_steps(steps)
        .with_reorthogonalise(false);
    let nodes = lanczos(&OnHost(a), start, &config)?.quadrature()?.nodes;
    Ok(nodes.last().copied().unwrap_or(0.0))
}

/// `z ← M r − W (WᵀAW)⁻¹ (AW)ᵀ M r`, and a start whose residual has no part in the space of `W`.
///
/// ```
/// use nabla_physics::linear::{
///     Border, ConjugateGradient, Deflation, Identity, Jacobi, PoissonGrid, SpdOperator,
/// };
///
/// let grid = PoissonGrid::new(&[32, 32], Border::Dirichlet)?;
/// let b = vec![1.0; grid.dim()];
/// let deflated = Deflation::of_krylov_space(&grid, Jacobi::new(&grid)?, &b, 16)?;
/// let cg = ConjugateGradient::default();
/// let found = cg.solve(&grid, &deflated, &b)?;
/// assert!(found.iterations < cg.solve(&grid, &Identity, &b)?.iterations);
/// # Ok::<(), nabla_physics::linear::LinearError>(())
/// ```
#[derive(Debug)]
pub struct Deflation<M> {
    inner: M,
    /// `W`, one vector after the other.
    space: Vec<Vec<f64>>,
    /// `A W`.
    images: Vec<Vec<f64>>,
    /// Of `WᵀAW`.
    factors: Llt<f64>,
}

impl<M: Preconditioner> Deflation<M> {
    /// - `inner`: for what is outside of the space
    /// - `space`: linearly independent vectors, `[dim]` each
    ///
    /// # Errors
    /// If a vector has another length, or they are not independent.
    pub fn new(
        a: &impl SpdOperator,
        inner: M,
        mut space: Vec<Vec<f64>>,
    ) -> Result<Self, LinearError> {
        for vector in &mut space {
            super::check("vector of a deflation", vector, a.dim())?;
            a.kernel().project(vector);
        }
        let image = |vector: &Vec<f64>| {
            let mut image = vec![0.0; vector.len()];
            a.apply(vector, &mut image);
            image
        };
        let images: Vec<Vec<f64>> = space.iter().map(image).collect();
        let count = space.len();
        let gram = Mat::from_fn(count, count, |i, j| dot(&space[i], &images[j]));
        let factors = gram.llt(Side::Lower);
        let factors = factors.map_err(|_| {
            LinearError::Matrix("the vectors of a deflation are not independent".to_owned())
        })?;
        Ok(Self {
            inner,
            space,
            images,
            factors,
        })
    }

    /// With the Ritz vectors of the Krylov space of a right side (in the paper of DCDM 16 of them, and [`Jacobi`](super::Jacobi)
    /// inside).
    ///
    /// # Errors
    /// As [`new`](Self::new), and if `b` is 0.
    pub fn of_krylov_space(
        a: &impl SpdOperator,
        inner: M,
        b: &[f64],
        vectors: usize,
    ) -> Result<Self, LinearError> {
        let mut b = b.to_vec();
        a.kernel().project(&mut b);
        let pairs = ritz_pairs(a, &b, vectors)?;
        let space = pairs.into_iter().filter_map(|pair| pair.vector).collect();
        Self::new(a, inner, space)
    }

    /// `(WᵀAW)⁻¹ t`, where `t` are the products with vectors.
    fn coordinates(&self, vectors: &[Vec<f64>], with: &[f64]) -> Mat<f64> {
        let products = Mat::from_fn(vectors.len(), 1, |i, _| dot(&vectors[i], with));
        self.factors.solve(products)
    }
}

impl<M: Preconditioner> Preconditioner for Deflation<M> {
    fn apply(&self, r: &[f64], z: &mut [f64]) {
        self.inner.apply(r, z);
        let coordinates = self.coordinates(&self.images, z);
        for (i, vector) in self.space.iter().enumerate() {
            add_scaled(z, -coordinates[(i, 0)], vector);
        }
    }

    fn start(&self, r: &[f64]) -> Option<Vec<f64>> {
        let coordinates = self.coordinates(&self.space, r);
        let mut x = vec![0.0; r.len()];
        for (i, vector) in self.space.iter().enumerate() {
            add_scaled(&mut x, coordinates[(i, 0)], vector);
        }
        Some(x)
    }
}
