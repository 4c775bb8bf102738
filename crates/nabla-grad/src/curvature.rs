//! Products with curvature matrices: the Hessian, the Gauss-Newton matrix and the empirical Fisher.
//!
//! A curvature matrix of `d` parameters has `d²` entries and is never written down. What is needed
//! of it (steps, [traces](crate::trace), [spectra](crate::spectrum)) is reached through products
//! with vectors, which a [`CurvatureOperator`] gives.
//!
//! Burn cannot differentiate a gradient again, so that Pearlmutter's exact product is out of reach.
//! What there is instead:
//!
//! ```text
//! Hessian           H v ≈ (∇L(θ + rv) − ∇L(θ − rv)) / 2r                     error r²/6 ∂³(∇L)[v,v,v]
//!                   H v ≈ (8 (∇L(θ + rv) − ∇L(θ − rv))
//!                          − (∇L(θ + 2rv) − ∇L(θ − 2rv))) / 12r              error r⁴/30 ∂⁵(∇L)[v,…]
//! Gauss-Newton      G v = Jᵀ H_z (J v),  J v as above from the outputs z(θ),  Jᵀ by exact backwards
//! empirical Fisher  F v = 1/n Σ_i g_i (g_iᵀ v) + λ v                          exact
//! ```
//!
//! **Every product states its error** ([`CurvatureOperator::apply_with_error`]), and what is made of
//! products (eigenpairs, traces, densities) carries it on. To the truncation error comes rounding,
//! of the order `ε ‖∇L‖ / r` (`ε` is the precision of the numbers), which grows as `r` shrinks, and, where
//! the loss has kinks (ReLU, max-pooling), the jump of the gradient at those between `θ − rv` and
//! `θ + rv`, over `2r`. What is wanted there is the Hessian of the piece in which `θ` lies, so the step
//! must end before the next kink. All three show in the differences themselves, and
//! [`Step::Automatic`] chooses the step by them, for every product; [`difference`] says how.
//!
//! **Cost.** A product takes 4 evaluations where the first step will do (6 of fourth order), two more
//! for every time that the step is halved or doubled, and at most 2 [`MOST_STEPS`] = 32. How exact it
//! becomes depends on the precision: with `f32` about `1e-4` of the norm where the loss is smooth
//! (`1e-5` of fourth order), and less the nearer the kinks; a network of many thousand ReLUs has one
//! every `1e-4`. **With `f64` both troubles vanish**: cast module and data
//! ([`crate::flat::with_float_type`]) where the size allows it.
//!
//! All of it takes the loss to be a fixed function of the parameters: no dropout, no statistics that
//! are updated on the way. [`ModuleLoss`] refuses both by the name of the layer;
//! [`crate::training_mode`] holds them still.
//! A gradient in `f64` is only as good as Burn's: the backward of a division by a number rounds its
//! inverse to `f32` (Burn 0.22), the multiplication by that inverse does not.
//!
//! Sources: Pearlmutter, *Fast Exact Multiplication by the Hessian*, 1994 (which states the
//! difference and its trouble); Schraudolph, *Fast Curvature Matrix-Vector Products for
//! Second-Order Gradient Descent*, 2002 (the Gauss-Newton product); Nocedal, Wright, *Numerical
//! Optimization*, 2006, section 8.1; Moré, Wild, *Estimating Computational Noise*, 2011; Kunstner, Balles, Hennig, *Limitations of the
//! Empirical Fisher Approximation*, 2019, arXiv 1905.12558 (what the Fisher is not).

use std::error::Error;

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use rayon::prelude::*;

use crate::flat::FlatError;
use crate::training_mode::TrainingLayer;

pub mod difference;
#[cfg(test)]
mod exact;
mod gauss_newton;
mod hessian;

pub use difference::{Difference, DifferenceConfig, MOST_STEPS, Order, Step};
pub use gauss_newton::{GaussNewton, ModuleOutputs, OutputFunction, OutputLoss};
pub use hessian::{GradientField, Hessian, ModuleLoss};

/// Why a product cannot be formed.
#[derive(Debug, thiserror::Error)]
pub enum CurvatureError {
    /// A vector of another length than the operator's.
    #[error("the {what} has {found} elements, but {expected} are expected")]
    Dimension {
        /// The vector.
        what: &'static str,
        /// The operator's dimension.
        expected: usize,
        /// The vector's.
        found: usize,
    },
    /// A matrix that is not square.
    #[error("the matrix has {rows} rows and {columns} columns, but it must be square")]
    NotSquare {
        /// Its rows.
        rows: usize,
        /// Its columns.
        columns: usize,
    },
    /// A number out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The numbers are not of floating point.
    #[error("the parameters are of the type {0:?}, but they must be floating point numbers")]
    NotFloat(DType),
    /// A loss or outputs without a recorded graph.
    #[error(
        "the {what} has no gradient: compute it from the parameters, with a module on an autodiff \
         device (`device.autodiff()`)"
    )]
    NoGradient {
        /// Loss or outputs.
        what: &'static str,
    },
    /// A result that is not finite.
    #[error("the {what} is not finite")]
    NotFinite {
        /// The result.
        what: &'static str,
    },
    /// A layer whose output for one example depends on the others.
    #[error(
        "{layer} normalises by the batch, which is not a fixed function of the parameters: freeze it \
         with `training_mode::freeze_norms`, and take `ParameterLayout::trainable`"
    )]
    Training {
        /// The layer.
        layer: TrainingLayer,
    },
    /// Layers that draw anew in every pass.
    #[error(
        "the same parameters give two results, as {} is in training mode: hold it still with \
         `training_mode::freeze_layers`",
        layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    )]
    RandomLayers {
        /// All layers in training mode.
        layers: Vec<TrainingLayer>,
    },
    /// A function that is not one.
    #[error(
        "the {what} at the same parameters differs by {change:.1e} of its norm when it is evaluated \
         again: it must not depend on random numbers, nor on what was evaluated before"
    )]
    Random {
        /// What is evaluated.
        what: &'static str,
        /// By which share.
        change: f64,
    },
    /// Statistics that an evaluation changes.
    #[error(
        "evaluating the function changes `{name}`, so it is not a fixed function of the parameters: \
         keep the statistics of normalisations as they are"
    )]
    Moved {
        /// Name of the tensor.
        name: String,
    },
    /// A layout with tensors that have no gradient.
    #[error(
        "`{name}` is part of the layout but has no gradient, so there is no curvature along it: take \
         `ParameterLayout::trainable`"
    )]
    NotTrainable {
        /// Name of the tensor.
        name: String,
    },
    /// The empirical Fisher of nothing.
    #[error("there is no example to take the empirical Fisher of")]
    NoExamples,
    /// Flat vectors and modules.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// A value cannot be read back from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
    /// A function that someone else wrote.
    #[error("the operator's function failed: {0}")]
    Function(#[source] Box<dyn Error + Send + Sync>),
}

/// A product with a bound of its error.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// `A v`, `[dim]`.
    pub values: Vec<f64>,
    /// `‖values − A v‖₂` at most; 0 for a product that is exact but for rounding in the operator's
    /// own type.
    pub error: f64,
}

impl Product {
    /// A product without error.
    pub fn exact(values: Vec<f64>) -> Self {
        Self { values, error: 0.0 }
    }
}

/// A symmetric matrix that is known by its products with vectors.
///
/// The methods that take one ([`crate::trace`], [`crate::spectrum`]) draw their probes and do their
/// own arithmetic on the host in `f64`, in an order that does not depend on the number of threads;
/// their results are as reproducible as [`apply`](Self::apply).
pub trait CurvatureOperator {
    /// Number of rows, which is that of columns.
    fn dim(&self) -> usize;

    /// Where vectors to be multiplied must live.
    fn device(&self) -> Device;

    /// The type of their numbers. `f32` unless an implementation says otherwise.
    fn dtype(&self) -> DType {
        DType::F32
    }

    /// `A v`, `[dim]`, for `v` `[dim]`.
    ///
    /// # Errors
    /// If `v` has not `dim` elements, or the product cannot be formed.
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

    /// `A v` for a vector on the host, with a bound of its error: what the methods that estimate
    /// something from products use. By default the product is taken to be exact.
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

/// A matrix that is written down, `[dim, dim]`.
#[derive(Clone, Debug)]
pub struct DenseOperator {
    matrix: Tensor<2>,
}

impl DenseOperator {
    /// Takes the matrix, `[dim, dim]`. That it is symmetric is not checked.
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

    /// The same with vectors of another type of numbers.
    pub fn with_dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// The same for products that are off by `share` of their norm at most, where the function only
    /// approximates the matrix. Default 0.
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
        // The share is of the exact product, which may be longer than this one.
        let error = match self.error {
            0.0 => 0.0,
            share if share < 1.0 => share / (1.0 - share) * norm(&values),
            _ => f64::INFINITY,
        };
        Ok(Product { values, error })
    }
}

/// `A + λ I`, as Levenberg and Marquardt's steps need it.
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

/// The empirical Fisher matrix `1/n Σ_i g_i g_iᵀ + λ I` of per-example gradients
/// ([`crate::per_example`]); its products are exact.
#[derive(Clone, Debug)]
pub struct EmpiricalFisher {
    /// `[examples, parameters]`.
    gradients: Tensor<2>,
    damping: f64,
}

impl EmpiricalFisher {
    /// The gradients `g_i` of every example's own loss, `[examples, parameters]`, and `λ`.
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

/// A vector of the host on a device.
fn on_device(values: &[f64], device: &Device, dtype: DType) -> Tensor<1> {
    let data = TensorData::new(values.to_vec(), [values.len()]);
    Tensor::from_data(data, (device, dtype))
}

/// Elements that one thread adds up; fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 16_384;

/// `aᵀ b`.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let parts: Vec<f64> = a
        .par_chunks(CHUNK)
        .zip(b.par_chunks(CHUNK))
        .map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum())
        .collect();
    parts.iter().sum()
}

/// `‖a‖₂`.
pub(crate) fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// `a ← a + s b`.
pub(crate) fn add_scaled(a: &mut [f64], s: f64, b: &[f64]) {
    a.par_chunks_mut(CHUNK)
        .zip(b.par_chunks(CHUNK))
        .for_each(|(a, b)| a.iter_mut().zip(b).for_each(|(a, b)| *a += s * b));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use burn::module::Module;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::activation::log_softmax;

    use crate::flat::ParameterLayout;
    use crate::per_example::per_example_gradients;
    use crate::seeded_noise::SeededNoise;

    const EXAMPLES: usize = 5;
    const INPUTS: usize = 3;
    const HIDDEN: usize = 4;
    const OUTPUTS: usize = 3;
    const PARAMETERS: usize = 31;

    /// Values of `tests/reference/curvature_reference.py`.
    pub(crate) fn reference(part: &str, field: &str) -> Vec<f64> {
        let file = include_str!("../tests/reference/curvature_reference.json");
        let file: serde_json::Value = serde_json::from_str(file).unwrap();
        let mut numbers = Vec::new();
        let mut pending = vec![&file[part][field]];
        while let Some(value) = pending.pop() {
            match value.as_array() {
                Some(array) => pending.extend(array.iter().rev()),
                None => numbers.push(value.as_f64().unwrap()),
            }
        }
        numbers
    }

    pub(crate) fn vector(values: &[f64]) -> Tensor<1> {
        Tensor::from_data(
            TensorData::new(values.to_vec(), [values.len()]),
            (&Device::flex(), DType::F64),
        )
    }

    /// A symmetric matrix in `f64` with standard normal elements on and below the diagonal.
    pub(crate) fn symmetric(dim: usize, seed: u64) -> (Vec<Vec<f64>>, DenseOperator) {
        let draw = SeededNoise::new(seed, 0).normal_values(dim * dim);
        let rows: Vec<Vec<f64>> = (0..dim)
            .map(|i| {
                (0..dim)
                    .map(|j| f64::from(draw[i.max(j) * dim + i.min(j)]))
                    .collect()
            })
            .collect();
        let operator = dense(&rows);
        (rows, operator)
    }

    pub(crate) fn dense(rows: &[Vec<f64>]) -> DenseOperator {
        let dim = rows.len();
        let matrix = vector(&rows.concat()).reshape([dim, dim]);
        DenseOperator::new(matrix).unwrap()
    }

    pub(crate) fn product(rows: &[Vec<f64>], v: &[f64]) -> Vec<f64> {
        rows.iter().map(|row| dot(row, v)).collect()
    }

    pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
        assert_eq!(a.len(), b.len());
        let change: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        norm(&change)
    }

    /// The parameters of the reference's network.
    pub(crate) fn theta() -> Vec<f64> {
        (0..PARAMETERS)
            .map(|k| (((7 * k + 3) % 13) as f64 - 6.0) / 8.0)
            .collect()
    }

    fn direction() -> Vec<f64> {
        (0..PARAMETERS)
            .map(|k| (((3 * k + 1) % 7) as f64 - 3.0) / 4.0)
            .collect()
    }

    fn inputs() -> Tensor<2> {
        let values: Vec<f64> = (0..EXAMPLES * INPUTS)
            .map(|k| (((5 * (k / INPUTS) + 6 * (k % INPUTS) + 1) % 9) as f64 - 4.0) / 4.0)
            .collect();
        vector(&values).reshape([EXAMPLES, INPUTS])
    }

    fn one_hot() -> Tensor<2> {
        let values: Vec<f64> = (0..EXAMPLES * OUTPUTS)
            .map(|k| f64::from(u8::from(k / OUTPUTS % OUTPUTS == k % OUTPUTS)))
            .collect();
        vector(&values).reshape([EXAMPLES, OUTPUTS])
    }

    fn network(theta: Tensor<1>, x: Tensor<2>) -> Tensor<2> {
        let mut from = 0;
        let mut take = |rows: usize, columns: usize| {
            let part = theta.clone().narrow(0, from, rows * columns);
            from += rows * columns;
            part.reshape([rows, columns])
        };
        let (w1, b1) = (take(INPUTS, HIDDEN), take(1, HIDDEN));
        let (w2, b2) = (take(HIDDEN, OUTPUTS), take(1, OUTPUTS));
        (x.matmul(w1) + b1).tanh().matmul(w2) + b2
    }

    fn cross_entropy(outputs: Tensor<2>, one_hot: Tensor<2>) -> Tensor<1> {
        // Not divided: Burn's backward of a division by a number rounds its inverse to `f32`.
        let share = -1.0 / outputs.dims()[0] as f64;
        (log_softmax(outputs, 1) * one_hot).sum() * share
    }

    /// The gradient of the reference's loss in `f64`.
    pub(crate) fn network_gradient(theta: &Tensor<1>) -> Result<Tensor<1>, CurvatureError> {
        let theta = theta.clone().autodiff().require_grad();
        let outputs = network(theta.clone(), inputs().autodiff());
        let loss = cross_entropy(outputs, one_hot().autodiff());
        theta
            .grad(&loss.backward())
            .ok_or(CurvatureError::NoGradient { what: "loss" })
    }

    struct Outputs<F>(F);

    impl<F: Fn(Tensor<1>) -> Tensor<2>> OutputFunction for Outputs<F> {
        fn outputs(&self, parameters: &Tensor<1>) -> Result<Tensor<2>, CurvatureError> {
            Ok((self.0)(parameters.clone().autodiff()).without_autodiff())
        }

        fn pull_back(
            &self,
            parameters: &Tensor<1>,
            cotangent: Tensor<2>,
        ) -> Result<Tensor<1>, CurvatureError> {
            let parameters = parameters.clone().autodiff().require_grad();
            let sum = ((self.0)(parameters.clone()) * cotangent.autodiff()).sum();
            parameters
                .grad(&sum.backward())
                .ok_or(CurvatureError::NoGradient { what: "output" })
        }
    }

    fn config(order: Order, step: Step) -> DifferenceConfig {
        DifferenceConfig::new().with_step(step).with_order(order)
    }

    #[test]
    fn the_gradient_is_that_of_torch() {
        let found = values(&network_gradient(&vector(&theta())).unwrap()).unwrap();
        assert!(distance(&found, &reference("network", "gradient")) < 1e-14);
    }

    #[test]
    fn the_difference_converges_to_torchs_hessian_with_order_two_and_four() {
        let exact = reference("network", "hessian_product");
        let error = |order, step| {
            let config = config(order, Step::Fixed(step));
            let hessian = Hessian::new(network_gradient, vector(&theta()), config).unwrap();
            distance(&hessian.apply_values(&direction()).unwrap(), &exact)
        };
        for (order, step, expected) in [(Order::Second, 0.02, 4.0), (Order::Fourth, 0.04, 16.0)] {
            for step in [step, step / 2.0] {
                let ratio = error(order, step) / error(order, step / 2.0);
                assert!(
                    (ratio / expected - 1.0).abs() < 0.03,
                    "{order:?} {step}: {ratio}"
                );
            }
        }
    }

    #[test]
    fn the_automatic_step_gives_torchs_hessian_and_tells_its_error() {
        let exact = reference("network", "hessian_product");
        let limits = [(Order::Second, 1e-8), (Order::Fourth, 1e-10)];
        for (order, limit) in limits {
            let config = config(order, Step::Automatic);
            let hessian = Hessian::new(network_gradient, vector(&theta()), config).unwrap();
            let found = hessian.product(&vector(&direction())).unwrap();
            let plain = hessian.apply_values(&direction()).unwrap();
            assert_eq!(values(&found.value).unwrap(), plain);
            let error = distance(&plain, &exact);
            assert!(error < limit, "{order:?}: {error}");
            assert!(
                error < 1.5 * found.error && found.error < 200.0 * error,
                "{order:?}: {error}, said to be {}",
                found.error
            );
        }
    }

    #[test]
    fn extrapolation_of_second_order_is_the_fourth() {
        let at = vector(&theta());
        let product = |order| {
            let config = config(order, Step::Fixed(0.05));
            let hessian = Hessian::new(network_gradient, at.clone(), config).unwrap();
            hessian.product(&vector(&direction())).unwrap()
        };
        let (second, fourth) = (product(Order::Second), product(Order::Fourth));
        let extrapolated = values(&second.extrapolated).unwrap();
        assert!(distance(&extrapolated, &values(&fourth.value).unwrap()) < 1e-13);
        // And that of the fourth is better still.
        let exact = reference("network", "hessian_product");
        let error = |t: &Tensor<1>| distance(&values(t).unwrap(), &exact);
        assert!(error(&fourth.extrapolated) < 0.1 * error(&fourth.value));
        // Truncation dominates: `error` is 2^p − 1 times the error.
        for (found, gain) in [(second, 3.0), (fourth, 15.0)] {
            let ratio = found.error / error(&found.value);
            // Kinks, of which the even parts show none to the order r³, are added.
            assert!(ratio > 0.9 * gain && ratio < 2.5 * gain, "{gain}: {ratio}");
        }
    }

    #[test]
    fn a_quadratic_has_the_same_hessian_everywhere_and_for_any_length_of_v() {
        let (rows, operator) = symmetric(9, 3);
        let draw = SeededNoise::new(4, 0).normal_values(18);
        let draw: Vec<f64> = draw.into_iter().map(f64::from).collect();
        let (at, v) = draw.split_at(9);
        let gradient = |theta: &Tensor<1>| operator.apply(theta);
        for order in [Order::Second, Order::Fourth] {
            let config = config(order, Step::Automatic);
            let hessian = Hessian::new(gradient, vector(at), config).unwrap();
            for scale in [1e-6, 1.0, 1e6] {
                let scaled: Vec<f64> = v.iter().map(|x| x * scale).collect();
                let found = hessian.apply_values(&scaled).unwrap();
                let error = distance(&found, &product(&rows, &scaled)) / scale;
                assert!(error < 1e-9, "{order:?} {scale}: {error}");
            }
        }
    }

    #[test]
    fn the_hessian_is_symmetric() {
        let config = config(Order::Fourth, Step::Automatic);
        let hessian = Hessian::new(network_gradient, vector(&theta()), config).unwrap();
        let draw = SeededNoise::new(8, 0).normal_values(2 * PARAMETERS);
        let draw: Vec<f64> = draw.into_iter().map(f64::from).collect();
        let (u, v) = draw.split_at(PARAMETERS);
        let one = dot(u, &hessian.apply_values(v).unwrap());
        let other = dot(v, &hessian.apply_values(u).unwrap());
        assert!((one - other).abs() < 1e-9, "{one} {other}");
        assert!(one.abs() > 1e-3, "{one}");
    }

    #[derive(Module, Debug)]
    struct Classifier {
        first: Linear,
        second: Linear,
    }

    impl Classifier {
        fn outputs(&self, x: Tensor<2>) -> Tensor<2> {
            self.second.forward(self.first.forward(x).tanh())
        }
    }

    /// The reference's network as a module in `f32`.
    fn classifier() -> (Classifier, ParameterLayout, Tensor<2>, Tensor<2>) {
        let device = Device::flex().autodiff();
        let module = Classifier {
            first: LinearConfig::new(INPUTS, HIDDEN).init(&device),
            second: LinearConfig::new(HIDDEN, OUTPUTS).init(&device),
        };
        let layout = ParameterLayout::of(&module).unwrap();
        let theta = vector(&theta()).cast(DType::F32);
        let module = layout.with_parameters(module, theta).unwrap();
        let constant = |t: Tensor<2>| t.cast(DType::F32).autodiff();
        (module, layout, constant(inputs()), constant(one_hot()))
    }

    #[test]
    fn a_module_in_f32_has_torchs_hessian_to_the_precision_of_f32() {
        let (module, layout, x, y) = classifier();
        let exact = reference("network", "hessian_product");
        let loss = ModuleLoss::new(module, layout, move |m: &Classifier| {
            cross_entropy(m.outputs(x.clone()), y.clone())
        });
        let at = loss.parameters().unwrap();
        assert_eq!(values(&at).unwrap(), theta());
        for (order, limit) in [(Order::Second, 3e-4), (Order::Fourth, 1e-4)] {
            let config = config(order, Step::Automatic);
            let hessian = Hessian::new(loss.clone(), at.clone(), config).unwrap();
            let found = hessian.apply_values(&direction()).unwrap();
            let error = distance(&found, &exact) / norm(&exact);
            assert!(error < limit, "{order:?}: {error}");
        }
    }

    #[test]
    fn gauss_newton_products_are_torchs() {
        let model = || Outputs(|theta| network(theta, inputs().autodiff()));
        let mean = 1.0 / EXAMPLES as f64;
        for (loss, scale, field) in [
            (
                OutputLoss::SoftmaxCrossEntropy,
                mean,
                "softmax_gauss_newton_product",
            ),
            (
                OutputLoss::SquaredError,
                1.0,
                "squared_gauss_newton_product",
            ),
        ] {
            let exact = reference("network", field);
            let at = vector(&theta());
            let config = config(Order::Fourth, Step::Automatic);
            let matrix = GaussNewton::new(model(), at, loss, scale, config).unwrap();
            let found = matrix.apply_values(&direction()).unwrap();
            assert!(distance(&found, &exact) < 1e-10, "{field}");
            let change = matrix
                .output_change(&vector(&direction()))
                .unwrap()
                .unwrap();
            assert!(change.error < 1e-9 && change.error > 0.0);

            let (module, layout, x, _) = classifier();
            let outputs = move |m: &Classifier| m.outputs(x.clone());
            let model = ModuleOutputs::new(module, layout, outputs);
            let at = model.parameters().unwrap();
            let config = DifferenceConfig::new();
            let matrix = GaussNewton::new(model, at, loss, scale, config).unwrap();
            let found = matrix.apply_values(&direction()).unwrap();
            let error = distance(&found, &exact) / norm(&exact);
            assert!(error < 3e-4, "{field} in f32: {error}");
        }
    }

    /// For outputs that are linear in the parameters, Hessian and Gauss-Newton matrix are the same;
    /// with two classes and the first one's logit held at 0 they are `Xᵀ D X`, `D = p (1 − p)`.
    #[test]
    fn logistic_regression_has_its_closed_form() {
        let (n, d) = (7, 4);
        let draw = SeededNoise::new(5, 0).normal_values(n * d + 2 * d);
        let draw: Vec<f64> = draw.into_iter().map(f64::from).collect();
        let (x, rest) = draw.split_at(n * d);
        let (w, v) = rest.split_at(d);
        let mut exact = vec![0.0; d];
        for row in x.chunks(d) {
            let p = 1.0 / (1.0 + (-dot(row, w)).exp());
            add_scaled(&mut exact, p * (1.0 - p) * dot(row, v), row);
        }
        let features = vector(x).reshape([n, d]);
        let outputs = move |w: Tensor<1>| {
            let logit = features.clone().autodiff().matmul(w.unsqueeze_dim(1));
            Tensor::cat(vec![logit.zeros_like(), logit], 1)
        };
        let matrix = GaussNewton::new(
            Outputs(outputs.clone()),
            vector(w),
            OutputLoss::SoftmaxCrossEntropy,
            1.0,
            DifferenceConfig::new(),
        )
        .unwrap();
        assert!(distance(&matrix.apply_values(v).unwrap(), &exact) < 1e-9);

        let gradient = |w: &Tensor<1>| {
            let w = w.clone().autodiff().require_grad();
            // The first class throughout: the Hessian does not depend on the labels.
            let loss = -log_softmax(outputs(w.clone()), 1).narrow(1, 0, 1).sum();
            w.grad(&loss.backward())
                .ok_or(CurvatureError::NoGradient { what: "loss" })
        };
        let hessian = Hessian::new(gradient, vector(w), DifferenceConfig::new()).unwrap();
        assert!(distance(&hessian.apply_values(v).unwrap(), &exact) < 1e-8);
    }

    #[test]
    fn the_empirical_fisher_is_torchs_from_our_per_example_gradients() {
        let (module, layout, x, y) = classifier();
        let gradients = per_example_gradients(&module, &layout, EXAMPLES, |m, i| {
            let (x, y) = (x.clone().narrow(0, i, 1), y.clone().narrow(0, i, 1));
            cross_entropy(m.outputs(x), y)
        })
        .unwrap();
        let exact = reference("network", "per_example_gradients");
        assert!(distance(&values(&gradients).unwrap(), &exact) < 1e-5);

        let exact = reference("network", "fisher_product");
        let fisher = EmpiricalFisher::new(gradients.clone(), 0.0).unwrap();
        assert!(distance(&fisher.apply_values(&direction()).unwrap(), &exact) < 1e-5);
        let damped = EmpiricalFisher::new(gradients.clone(), 0.5).unwrap();
        let found = damped.apply_values(&direction()).unwrap();
        let mut expected = exact.clone();
        add_scaled(&mut expected, 0.5, &direction());
        assert!(distance(&found, &expected) < 1e-5);
        // The general damping is the same.
        let damped = Damped::new(EmpiricalFisher::new(gradients, 0.0).unwrap(), 0.5).unwrap();
        assert!(distance(&damped.apply_values(&direction()).unwrap(), &expected) < 1e-5);
    }

    #[test]
    fn a_zero_vector_has_the_product_zero() {
        let zeros = [0.0; PARAMETERS];
        let config = DifferenceConfig::new();
        let hessian = Hessian::new(network_gradient, vector(&theta()), config).unwrap();
        assert_eq!(hessian.apply_values(&zeros).unwrap(), zeros);
        let found = hessian.product(&vector(&zeros)).unwrap();
        assert_eq!((found.error, found.step), (0.0, 0.0));
        let model = Outputs(|theta| network(theta, inputs().autodiff()));
        let loss = OutputLoss::SquaredError;
        let matrix = GaussNewton::new(model, vector(&theta()), loss, 1.0, config).unwrap();
        assert_eq!(matrix.apply_values(&zeros).unwrap(), zeros);
        assert!(matrix.output_change(&vector(&zeros)).unwrap().is_none());
    }

    #[test]
    fn a_gradient_that_differs_from_time_to_time_is_refused() {
        let calls = std::cell::Cell::new(0.0);
        let gradient = |theta: &Tensor<1>| {
            calls.set(calls.get() + 1.0);
            Ok(network_gradient(theta)? * (1.0 + 0.01 * calls.get()))
        };
        let refused = Hessian::new(gradient, vector(&theta()), DifferenceConfig::new());
        assert!(matches!(
            refused.err(),
            Some(CurvatureError::Random { what: "gradient", change }) if change > 1e-3
        ));
        let bad = DifferenceConfig::new().with_accuracy(-1.0);
        let refused = Hessian::new(network_gradient, vector(&theta()), bad);
        assert!(matches!(refused, Err(CurvatureError::Range(_))));
    }

    /// On a kink itself there is no Hessian: what is stated says so.
    #[test]
    fn a_kink_at_the_parameters_is_in_the_stated_error() {
        // |x| + x²: the gradient jumps by 2 at 0.
        let gradient = |x: &Tensor<1>| Ok(x.clone().sign() + x.clone() * 2.0);
        let at = |x: f64| Hessian::new(gradient, vector(&[x]), DifferenceConfig::new()).unwrap();
        let found = at(0.0).apply_with_error(&[1.0]).unwrap();
        assert!(found.error > found.values[0].abs() * 0.4, "{found:?}");
        // Beside it, the step ends before it.
        for x in [1e-6, -1e-6, 0.1] {
            let found = at(x).apply_with_error(&[1.0]).unwrap();
            let off = (found.values[0] - 2.0).abs();
            assert!(off <= found.error && found.error < 1e-3, "{x}: {found:?}");
        }
    }

    #[test]
    fn closures_and_references_are_operators() {
        let (rows, matrix) = symmetric(6, 1);
        let function = FunctionOperator::new(6, Device::flex(), |v: &Tensor<1>| {
            matrix.apply(v).map_err(Into::into)
        })
        .with_dtype(DType::F64);
        let v = [1.0, -2.0, 0.5, 0.0, 3.0, 1.0];
        assert_eq!(
            function.apply_values(&v).unwrap(),
            (&&matrix).apply_values(&v).unwrap()
        );
        assert!(distance(&function.apply_values(&v).unwrap(), &product(&rows, &v)) < 1e-14);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let (_, matrix) = symmetric(6, 1);
        assert!(matches!(
            matrix.apply_values(&[1.0; 5]),
            Err(CurvatureError::Dimension {
                expected: 6,
                found: 5,
                ..
            })
        ));
        assert!(matches!(
            DenseOperator::new(Tensor::zeros([2, 3], &Device::flex())),
            Err(CurvatureError::NotSquare {
                rows: 2,
                columns: 3
            })
        ));
        for step in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let config = config(Order::Second, Step::Fixed(step));
            let refused = Hessian::new(network_gradient, vector(&theta()), config);
            assert!(matches!(refused, Err(CurvatureError::Range(_))));
        }
        for damping in [-1.0, f64::NAN] {
            let refused = Damped::new(&matrix, damping);
            assert!(matches!(refused, Err(CurvatureError::Range(_))));
        }
        let refused = EmpiricalFisher::new(Tensor::zeros([0, 3], &Device::flex()), 0.0);
        assert!(matches!(refused, Err(CurvatureError::NoExamples)));
        let nan = FunctionOperator::new(1, Device::flex(), |v: &Tensor<1>| Ok(v.clone().log()));
        assert!(matches!(
            nan.apply_values(&[-1.0]),
            Err(CurvatureError::NotFinite { .. })
        ));
        let failing = FunctionOperator::new(1, Device::flex(), |_: &Tensor<1>| Err("no".into()));
        assert!(matches!(
            failing.apply_values(&[1.0]),
            Err(CurvatureError::Function(_))
        ));
        let (module, layout, x, _) = classifier();
        let loss = ModuleLoss::new(module, layout, move |_: &Classifier| x.clone().sum());
        assert!(matches!(
            loss.gradient(&loss.parameters().unwrap()),
            Err(CurvatureError::NoGradient { what: "loss" })
        ));
    }

    #[test]
    fn sums_do_not_depend_on_the_number_of_threads() {
        let draw = SeededNoise::new(2, 0).normal_values(200_000);
        let draw: Vec<f64> = draw.into_iter().map(f64::from).collect();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| {
                let mut sum = draw.clone();
                add_scaled(&mut sum, 0.3, &draw);
                (dot(&draw, &sum).to_bits(), norm(&sum).to_bits())
            })
        };
        assert_eq!(with(1), with(3));
    }
}
