//! Products with curvature matrices: the Hessian, the Gauss-Newton matrix and the empirical Fisher.
//!
//! A curvature matrix of `d` parameters has `d²` entries and is never formed. Steps, [traces](crate::trace)
//! and [spectra](crate::spectrum) need only its products with vectors, which a [`CurvatureOperator`]
//! computes.
//!
//! Burn cannot differentiate a gradient again, so Pearlmutter's exact product is out of reach. These are
//! available instead:
//!
//! ```text
//! Hessian           H v ≈ (∇L(θ + rv) − ∇L(θ − rv)) / 2r                     error r²/6 ∂³(∇L)[v,v,v]
//!                   H v ≈ (8 (∇L(θ + rv) − ∇L(θ − rv))
//!                          − (∇L(θ + 2rv) − ∇L(θ − 2rv))) / 12r              error r⁴/30 ∂⁵(∇L)[v,…]
//! Gauss-Newton      G v = Jᵀ H_z (J v),  J v as above from the outputs z(θ),  Jᵀ by an exact backward pass
//! empirical Fisher  F v = 1/n Σ_i g_i (g_iᵀ v) + λ v                          exact
//! ```
//!
//! **Every product states its error** ([`CurvatureOperator::apply_with_error`]), and everything computed from
//! products (eigenpairs, traces, densities) passes it on. Besides truncation there are two more errors.
//! Rounding adds an error of the order `ε ‖∇L‖ / r` (`ε` is the precision of the numbers), which grows as `r`
//! shrinks. And where the loss has kinks (ReLU, max-pooling), each kink between `θ − rv` and `θ + rv` adds
//! the jump of the gradient there, over `2r`. The Hessian meant here is that of the smooth piece in which `θ`
//! lies, so the step must end before the next kink. All three errors can be seen in the differences
//! themselves, and [`Step::Automatic`] uses them to choose the step for every product; [`difference`]
//! explains how.
//!
//! **Cost.** A product takes 4 evaluations if the first step is good enough (6 at fourth order), two more
//! each time the step is halved or doubled, and at most 2 [`MOST_STEPS`] = 32. Its error depends on the
//! precision: with `f32` about `1e-4` of the norm where the loss is smooth (`1e-5` at fourth order), and more
//! the nearer the kinks are; a network with many thousands of ReLUs has a kink every `1e-4`. **With `f64`
//! both problems vanish**: cast module and data ([`crate::flat::with_float_type`]) where the size allows it.
//!
//! All of this assumes that the loss is a fixed function of the parameters: no dropout, and no statistics
//! that are updated on the way. [`ModuleLoss`] refuses both and names the layer; [`crate::training_mode`]
//! keeps them fixed. A gradient in `f64` is only as good as Burn's: the backward pass of a division by a
//! number rounds the inverse to `f32` (Burn 0.22), while a multiplication by that inverse does not.
//!
//! Sources: Pearlmutter, *Fast Exact Multiplication by the Hessian*, 1994 (which describes the difference and
//! its problems); Schraudolph, *Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent*,
//! 2002 (the Gauss-Newton product); Nocedal, Wright, *Numerical Optimization*, 2006, section 8.1; Moré, Wild,
//! *Estimating Computational Noise*, 2011; Kunstner, Balles, Hennig, *Limitations of the Empirical Fisher
//! Approximation*, 2019, arXiv 1905.12558 (what the Fisher is not).

use std::error::Error;

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector;
use rayon::prelude::*;

use crate::flat::FlatError;
use crate::training_mode::TrainingLayer;

pub mod difference;
#[cfg(test)]
mod exact;
pub mod gauss_newton;
pub mod hessian;

pub use difference::{Difference, DifferenceConfig, MOST_STEPS, Order, Step};
pub use gauss_newton::{GaussNewton, ModuleOutputs, OutputFunction, OutputLoss};
pub use hessian::{GradientField, Hessian, ModuleLoss};

/// The reason why a product cannot be formed.
#[derive(Debug, thiserror::Error)]
pub enum CurvatureError {
    /// The length of a vector is not the operator's dimension.
    #[error("the {what} has {found} elements, but {expected} are expected")]
    Dimension {
        /// The vector.
        what: &'static str,
        /// The operator's dimension.
        expected: usize,
        /// The vector's.
        found: usize,
    },
    /// The matrix is not square.
    #[error("the matrix has {rows} rows and {columns} columns, but it must be square")]
    NotSquare {
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The numbers are not floating-point numbers.
    #[error("the parameters are of the type {0:?}, but they must be floating point numbers")]
    NotFloat(DType),
    /// The loss or the outputs have no recorded graph.
    #[error(
        "the {what} has no gradient: compute it from the parameters, with a module on an autodiff \
         device (`device.autodiff()`)"
    )]
    NoGradient {
        /// The loss or the outputs.
        what: &'static str,
    },
    /// A result is not finite.
    #[error("the {what} is not finite")]
    NotFinite {
        /// The result.
        what: &'static str,
    },
    /// The output of a layer for one example depends on the other examples.
    #[error(
        "{layer} normalises by the batch, which is not a fixed function of the parameters: freeze it \
         with `training_mode::freeze_norms`, and take `ParameterLayout::trainable`"
    )]
    Training {
        /// The layer.
        layer: TrainingLayer,
    },
    /// Layers draw new random numbers in every pass.
    #[error(
        "the same parameters give two different results, because {} is in training mode: freeze it with \
         `training_mode::freeze_layers`",
        layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    RandomLayers {
        /// All layers in training mode.
        layers: Vec<TrainingLayer>,
    },
    /// Two evaluations at the same point differ.
    #[error(
        "the {what} at the same parameters differs by {change:.1e} of its norm when it is evaluated \
         again: it must not depend on random numbers, nor on what was evaluated before"
    )]
    Random {
        /// What is evaluated.
        what: &'static str,
        /// The relative difference.
        change: f64,
    },
    /// An evaluation changes statistics.
    #[error(
        "evaluating the function changes `{name}`, so it is not a fixed function of the parameters: \
         keep the statistics of normalisations fixed"
    )]
    Moved {
        /// Name of the tensor.
        name: String,
    },
    /// The layout contains tensors that have no gradient.
    #[error(
        "`{name}` is part of the layout but has no gradient, so there is no curvature along it: take \
         `ParameterLayout::trainable`"
    )]
    NotTrainable {
        /// Name of the tensor.
        name: String,
    },
    /// There are no examples for the empirical Fisher.
    #[error("the empirical Fisher matrix needs at least one example")]
    NoExamples,
    /// An error of flat vectors and modules.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// A value cannot be read back from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
    /// An error of your own function.
    #[error("the operator's function failed: {0}")]
    Function(#[source] Box<dyn Error + Send + Sync>),
}

/// A product with a bound of its error.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// `A v`, `[dim]`.
    pub values: Vec<f64>,
    /// An upper bound of `‖values − A v‖₂`; 0 for a product that is exact up to rounding in the operator's
    /// own type.
    pub error: f64,
}

impl Product {
    /// A product without error.
    pub fn exact(values: Vec<f64>) -> Self {
        Self { values, error: 0.0 }
    }
}

/// A symmetric matrix that is known only through its products with vectors.
///
/// The methods that take one ([`crate::trace`], [`crate::spectrum`]) draw their probes and do their
/// own arithmetic on the host in `f64`, in an order that does not depend on the number of threads;
/// their results are as reproducible as [`apply`](Self::apply).
pub trait CurvatureOperator {
    /// The number of rows, which is also the number of columns.
    fn dim(&self) -> usize;

    /// The device of the vectors to be multiplied.
    fn device(&self) -> Device;

    /// The type of their numbers. `f32` unless the implementation overrides this.
    fn dtype(&self) -> DType {
        DType::F32
    }

    /// `A v`, `[dim]`, for `v` `[dim]`.
    ///
    /// # Errors
    /// If `v` does not have `dim` elements, or the product cannot be formed.
    fn apply(&self, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError>;

    /// `A v` for a vector on the host.
    ///
    /// # Errors
    /// As [`apply`](Self::apply); also if an element of the product is not finite.
    fn apply_values(&self, v: &[f64]) -> Result<Vec<f64>, CurvatureError> {
        let vector = Tensor::from_data(
            TensorData::new(v.to_vec(), [v.len()]),
            (&self.device(), self.dtype()),
        );
        let product = values(&self.apply(&vector)?)?;
        expect_dim("product", self.dim(), product.len())?;
        if product.iter().all(|x| x.is_finite()) {
            Ok(product)
        } else {
            Err(CurvatureError::NotFinite { what: "product" })
        }
    }

    /// `A v` for a vector on the host, with a bound of its error. The methods that estimate something from
    /// products use this. The default implementation states that the product is exact.
    ///
    /// # Errors
    /// As [`apply_values`](Self::apply_values).
    fn apply_with_error(&self, v: &[f64]) -> Result<Product, CurvatureError> {
        Ok(Product::exact(self.apply_values(v)?))
    }
}

impl<A: CurvatureOperator + ?Sized> CurvatureOperator for &A {
    fn dim(&self) -> usize {
        (**self).dim()
    }

    fn device(&self) -> Device {
        (**self).device()
    }

    fn dtype(&self) -> DType {
        (**self).dtype()
    }

    fn apply(&self, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        (**self).apply(v)
    }

    fn apply_values(&self, v: &[f64]) -> Result<Vec<f64>, CurvatureError> {
        (**self).apply_values(v)
    }

    fn apply_with_error(&self, v: &[f64]) -> Result<Product, CurvatureError> {
        (**self).apply_with_error(v)
    }
}

/// A matrix given by its entries, `[dim, dim]`.
#[derive(Clone, Debug)]
pub struct DenseOperator {
    matrix: Tensor<2>,
}

impl DenseOperator {
    /// Takes the matrix, `[dim, dim]`. Symmetry is not checked.
    ///
    /// # Errors
    /// If it is not square.
    pub fn new(matrix: Tensor<2>) -> Result<Self, CurvatureError> {
        let [rows, columns] = matrix.dims();
        if rows != columns {
            return Err(CurvatureError::NotSquare { rows, columns });
        }
        Ok(Self {
            matrix: matrix.without_autodiff(),
        })
    }
}

impl CurvatureOperator for DenseOperator {
    fn dim(&self) -> usize {
        self.matrix.dims()[0]
    }

    fn device(&self) -> Device {
        self.matrix.device()
    }

    fn dtype(&self) -> DType {
        self.matrix.dtype()
    }

    fn apply(&self, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        expect_dim("vector", self.dim(), v.dims()[0])?;
        Ok(self
            .matrix
            .clone()
            .matmul(v.clone().unsqueeze_dim(1))
            .squeeze_dim(1))
    }
}

/// A matrix given by a function `v ↦ A v`.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::curvature::{CurvatureOperator, FunctionOperator};
///
/// let twice = FunctionOperator::new(3, Device::flex(), |v: &Tensor<1>| Ok(v.clone() * 2.0));
/// assert_eq!(twice.apply_values(&[1.0, 2.0, 3.0])?, [2.0, 4.0, 6.0]);
/// # Ok::<(), nabla_grad::curvature::CurvatureError>(())
/// ```
pub struct FunctionOperator<F> {
    dim: usize,
    device: Device,
    dtype: DType,
    error: f64,
    function: F,
}

impl<F> FunctionOperator<F>
where
    F: Fn(&Tensor<1>) -> Result<Tensor<1>, Box<dyn Error + Send + Sync>>,
{
    /// A `dim × dim` matrix whose vectors live on `device`, with numbers of type `f32`.
    pub fn new(dim: usize, device: Device, function: F) -> Self {
        Self {
            dim,
            device,
            dtype: DType::F32,
            error: 0.0,
            function,
        }
    }

    /// Returns the same operator for vectors with another type of numbers.
    pub fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Returns the same operator with products that are off by at most `share` of their norm, for a function
    /// that only approximates the matrix. Default 0.
    ///
    /// # Errors
    /// If the share is negative or not finite.
    pub fn with_error(mut self, share: f64) -> Result<Self, CurvatureError> {
        range::not_negative("error of the products", share)?;
        self.error = share;
        Ok(self)
    }
}

impl<F> CurvatureOperator for FunctionOperator<F>
where
    F: Fn(&Tensor<1>) -> Result<Tensor<1>, Box<dyn Error + Send + Sync>>,
{
    fn dim(&self) -> usize {
        self.dim
    }

    fn device(&self) -> Device {
        self.device.clone()
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn apply(&self, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        expect_dim("vector", self.dim, v.dims()[0])?;
        let product = (self.function)(v).map_err(CurvatureError::Function)?;
        expect_dim("product", self.dim, product.dims()[0])?;
        Ok(product)
    }

    fn apply_with_error(&self, v: &[f64]) -> Result<Product, CurvatureError> {
        let values = self.apply_values(v)?;
        // The share refers to the exact product, which may be longer than this one.
        let error = match self.error {
            0.0 => 0.0,
            share if share < 1.0 => share / (1.0 - share) * norm(&values),
            _ => f64::INFINITY,
        };
        Ok(Product { values, error })
    }
}

/// `A + λ I`, as the Levenberg-Marquardt steps need it.
#[derive(Clone, Debug)]
pub struct Damped<A> {
    operator: A,
    damping: f64,
}

impl<A: CurvatureOperator> Damped<A> {
    /// Adds `damping` to the diagonal.
    ///
    /// # Errors
    /// If it is negative or not finite.
    pub fn new(operator: A, damping: f64) -> Result<Self, CurvatureError> {
        range::not_negative("damping", damping)?;
        Ok(Self { operator, damping })
    }
}

impl<A: CurvatureOperator> CurvatureOperator for Damped<A> {
    fn dim(&self) -> usize {
        self.operator.dim()
    }

    fn device(&self) -> Device {
        self.operator.device()
    }

    fn dtype(&self) -> DType {
        self.operator.dtype()
    }

    fn apply(&self, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        Ok(self.operator.apply(v)? + v.clone() * self.damping)
    }

    fn apply_values(&self, v: &[f64]) -> Result<Vec<f64>, CurvatureError> {
        let mut product = self.operator.apply_values(v)?;
        add_scaled(&mut product, self.damping, v);
        Ok(product)
    }

    fn apply_with_error(&self, v: &[f64]) -> Result<Product, CurvatureError> {
        let mut product = self.operator.apply_with_error(v)?;
        add_scaled(&mut product.values, self.damping, v);
        Ok(product)
    }
}

/// The empirical Fisher matrix `1/n Σ_i g_i g_iᵀ + λ I` of per-example gradients ([`crate::per_example`]);
/// its products are exact. This is the matrix itself; M-FAC computes products with its inverse.
#[derive(Clone, Debug)]
pub struct EmpiricalFisher {
    /// `[examples, parameters]`.
    gradients: Tensor<2>,
    damping: f64,
}

impl EmpiricalFisher {
    /// Takes the gradient `g_i` of each example's own loss, `[examples, parameters]`, and `λ`.
    ///
    /// # Errors
    /// If there is no example, or the damping is negative or not finite.
    pub fn new(gradients: Tensor<2>, damping: f64) -> Result<Self, CurvatureError> {
        range::not_negative("damping", damping)?;
        if gradients.dims()[0] == 0 {
            return Err(CurvatureError::NoExamples);
        }
        Ok(Self {
            gradients: gradients.without_autodiff(),
            damping,
        })
    }
}

impl CurvatureOperator for EmpiricalFisher {
    fn dim(&self) -> usize {
        self.gradients.dims()[1]
    }

    fn device(&self) -> Device {
        self.gradients.device()
    }

    fn dtype(&self) -> DType {
        self.gradients.dtype()
    }

    fn apply(&self, v: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        expect_dim("vector", self.dim(), v.dims()[0])?;
        let examples = self.gradients.dims()[0] as f64;
        let column = v.clone().unsqueeze_dim::<2>(1); // [parameters, 1]
        let along = self.gradients.clone().matmul(column); // g_iᵀ v, [examples, 1]
        let sum = self.gradients.clone().transpose().matmul(along); // [parameters, 1]
        Ok(sum.squeeze_dim(1) / examples + v.clone() * self.damping)
    }
}

fn expect_dim(what: &'static str, expected: usize, found: usize) -> Result<(), CurvatureError> {
    if expected == found {
        Ok(())
    } else {
        Err(CurvatureError::Dimension {
            what,
            expected,
            found,
        })
    }
}

/// The elements of a tensor on the host, in row-major order.
pub(crate) fn values<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f64>, CurvatureError> {
    tensor
        .clone()
        .try_into_vec_as::<f64>()
        .map_err(|error| CurvatureError::Device(error.to_string()))
}

/// Copies a vector from the host to a device.
fn on_device(values: &[f64], device: &Device, dtype: DType) -> Tensor<1> {
    let data = TensorData::new(values.to_vec(), [values.len()]);
    Tensor::from_data(data, (device, dtype))
}

/// The number of elements that one thread adds up; fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 16_384;

/// `aᵀ b` by all threads. Results depend on this order alone: first the sum of each chunk, then the sum of these.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let parts: Vec<f64> = a
        .par_chunks(CHUNK)
        .zip(b.par_chunks(CHUNK))
        .map(|(a, b)| vector::dot(a, b))
        .collect();
    parts.iter().sum()
}

/// `‖a‖₂` by all threads.
pub fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// `a ← a + s b` by all threads.
pub fn add_scaled(a: &mut [f64], s: f64, b: &[f64]) {
    a.par_chunks_mut(CHUNK)
        .zip(b.par_chunks(CHUNK))
        .for_each(|(a, b)| vector::add_scaled(a, s, b));
}

#[cfg(test)]
pub(crate) mod tests;
