//! What a measurement does to a picture, as a linear map with its adjoint; see [`LinearOperator`].

use std::fmt::Debug;

use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use rayon::prelude::*;

use super::conjugate_gradient::{ConjugateGradient, inner};
use crate::seeded_noise::SeededNoise;

/// The reason why an operator cannot be built or applied.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// A picture or a measurement has the wrong shape.
    #[error("{operator} takes a {what} of the shape {expected:?}, but this one is {found:?}")]
    Shape {
        /// The operator, with its article.
        operator: &'static str,
        /// `picture` or `measurement`.
        what: &'static str,
        /// The shape of one, without the batch.
        expected: Vec<usize>,
        /// The shape that was found, without the batch.
        found: Vec<usize>,
    },
    /// What was given for an operator (a mask, a kernel, coil maps) does not fit the picture.
    #[error("{what} must be {expected}, but {found}")]
    Given {
        /// What was given, with its article.
        what: &'static str,
        /// The requirement.
        expected: String,
        /// What was found, as it follows "but".
        found: String,
    },
    /// The two maps of an operator are not adjoint to each other.
    #[error(
        "the operator's adjoint is wrong: <A x, y> = {forward}, but <x, Aᵀ y> = {backward}, a relative \
         difference of more than {tolerance}"
    )]
    NotAdjoint {
        /// `⟨A x, y⟩`.
        forward: f64,
        /// `⟨x, Aᵀ y⟩`.
        backward: f64,
        /// The largest difference allowed, relative to `‖A x‖ ‖y‖`.
        tolerance: f64,
    },
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The numbers of a tensor cannot be read.
    #[error("the numbers of a tensor cannot be read: {0}")]
    Read(String),
    /// A decomposition of matrices did not converge.
    #[error("the singular values of {operator} could not be computed: {reason}")]
    Decomposition {
        /// The operator, with its article.
        operator: &'static str,
        /// The reason.
        reason: String,
    },
    /// An error of your own operator.
    #[error("{0}")]
    Own(#[source] crate::sampler_error::OwnError),
}

/// A linear map `A` of pictures to measurements, with its adjoint.
///
/// - `D`: the rank of the tensors, as that of the denoiser: 4 for pictures `[batch, channels, height, width]`,
///   whose measurements have the rank 4 too: a sinogram is `[batch, channels, angles, detectors]`, k-space
///   `[batch, 2 · coils, height, width]` (the real part of a coil, then the imaginary part)
///
/// An operator of your own needs the two shapes and the two maps. The methods never differentiate through it, so it
/// may compute wherever it likes. [`check_adjoint`](Self::check_adjoint) tests it:
///
/// ```
/// use burn::tensor::{DType, Device, Tensor};
/// use nabla_diffusion::restore::{LinearOperator, OperatorError};
///
/// /// Measures the sum of both channels.
/// #[derive(Debug)]
/// struct Sum([usize; 2]);
///
/// impl LinearOperator for Sum {
///     fn name(&self) -> &'static str { "a sum" }
///     fn domain(&self) -> Vec<usize> { vec![2, self.0[0], self.0[1]] }
///     fn range(&self) -> Vec<usize> { vec![1, self.0[0], self.0[1]] }
///     fn apply(&self, x: Tensor<4>) -> Result<Tensor<4>, OperatorError> { Ok(x.sum_dim(1)) }
///     fn adjoint(&self, y: Tensor<4>) -> Result<Tensor<4>, OperatorError> { Ok(y.repeat_dim(1, 2)) }
/// }
///
/// Sum([5, 4]).check_adjoint(1e-5, &Device::flex(), DType::F32)?;
/// # Ok::<(), OperatorError>(())
/// ```
pub trait LinearOperator<const D: usize = 4>: Debug + Send + Sync {
    /// What it is, with its article, for messages.
    fn name(&self) -> &'static str;

    /// The shape of a picture, without the batch: `D − 1` numbers.
    fn domain(&self) -> Vec<usize>;

    /// The shape of a measurement, without the batch: `D − 1` numbers.
    fn range(&self) -> Vec<usize>;

    /// `A x`.
    ///
    /// - `x`: `[batch, domain…]`; returns `[batch, range…]`, on the same device and of the same precision
    ///
    /// # Errors
    /// If `x` has another shape.
    fn apply(&self, x: Tensor<D>) -> Result<Tensor<D>, OperatorError>;

    /// `Aᵀ y`, or `Aᴴ y` of complex numbers in two channels.
    ///
    /// - `y`: `[batch, range…]`; returns `[batch, domain…]`
    ///
    /// # Errors
    /// If `y` has another shape.
    fn adjoint(&self, y: Tensor<D>) -> Result<Tensor<D>, OperatorError>;

    /// `AᵀA x`. Default: one map after the other.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    fn normal(&self, x: Tensor<D>) -> Result<Tensor<D>, OperatorError> {
        self.adjoint(self.apply(x)?)
    }

    /// `y` with 0 in the numbers that the operator never measures. Default: it measures all of them.
    ///
    /// # Errors
    /// If `y` has another shape.
    fn measured(&self, y: Tensor<D>) -> Result<Tensor<D>, OperatorError> {
        Ok(y)
    }

    /// The operator with its singular values, if they are known. Default: they are not.
    fn decomposed(&self) -> Option<&dyn Decomposed<D>> {
        None
    }

    /// `A⁺ y`: of the pictures whose measurement is closest to `y`, the smallest. Default: from the singular values
    /// if they are known, otherwise by conjugate gradients on `AᵀA x = Aᵀ y` from 0, which ends at a relative
    /// residual of `1e-6` or after 200 iterations.
    ///
    /// - `y`: `[batch, range…]`; returns `[batch, domain…]`
    ///
    /// # Errors
    /// If `y` has another shape, or the singular values cannot be computed.
    fn pseudo_inverse(&self, y: Tensor<D>) -> Result<Tensor<D>, OperatorError> {
        let projected = self.adjoint(y)?;
        match self.decomposed() {
            Some(decomposed) => decomposed.filtered(projected, &|s| match s > SMALLEST {
                true => 1.0 / (s * s),
                false => 0.0,
            }),
            None => {
                let solver = ConjugateGradient {
                    iterations: 200,
                    tolerance: 1e-6,
                };
                let start = projected.zeros_like();
                let found = solver.solve(|x| self.normal(x), projected, start)?;
                Ok(found.x)
            }
        }
    }

    /// The dot-product test: `⟨A x, y⟩ = ⟨x, Aᵀ y⟩` for random `x` and `y`.
    ///
    /// - `dtype`: the precision of `x` and `y`
    /// - `tolerance`: of the difference, relative to `‖A x‖ ‖y‖`
    ///
    /// # Errors
    /// If they differ, or the operator fails.
    fn check_adjoint(
        &self,
        tolerance: f64,
        device: &Device,
        dtype: DType,
    ) -> Result<(), OperatorError> {
        let mut noise = SeededNoise::new(0, 0);
        let [domain, range] = [self.domain(), self.range()];
        let shapes: [[usize; D]; 2] = [batched(1, &domain)?, batched(1, &range)?];
        let [x, y]: [Tensor<D>; 2] = shapes.map(|shape| noise.normal(shape, device).cast(dtype));
        dot_product_test(
            self.apply(x.clone())?,
            y.clone(),
            x,
            self.adjoint(y)?,
            tolerance,
        )
    }
}

/// Singular values up to this count as 0: what is divided by less is rounding of `f32`.
pub(crate) const SMALLEST: f64 = 1e-4;

/// Compares `⟨A x, y⟩` with `⟨x, Aᵀ y⟩`.
fn dot_product_test<const D: usize>(
    ax: Tensor<D>,
    y: Tensor<D>,
    x: Tensor<D>,
    aty: Tensor<D>,
    tolerance: f64,
) -> Result<(), OperatorError> {
    let values = |x: Tensor<D>| host(x);
    let [ax, y, x, aty] = [values(ax)?, values(y)?, values(x)?, values(aty)?];
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    let (forward, backward) = (dot(&ax, &y), dot(&x, &aty));
    let size = (dot(&ax, &ax) * dot(&y, &y)).sqrt();
    match (forward - backward).abs() <= tolerance * size {
        true => Ok(()),
        false => Err(OperatorError::NotAdjoint {
            forward,
            backward,
            tolerance,
        }),
    }
}

/// A [`LinearOperator`] whose singular value decomposition `A = U S Vᵀ` is known.
pub trait Decomposed<const D: usize = 4>: LinearOperator<D> {
    /// `V f(S) Vᵀ x`, where the directions that `A` does not see have the singular value 0.
    ///
    /// - `x`: `[batch, domain…]`
    ///
    /// # Errors
    /// If `x` has another shape, or the singular values cannot be computed.
    fn filtered(
        &self,
        x: Tensor<D>,
        f: &(dyn Fn(f64) -> f64 + Sync),
    ) -> Result<Tensor<D>, OperatorError>;
}

/// A shape with the batch in front.
///
/// # Errors
/// If the shape has not `D − 1` numbers.
pub(crate) fn batched<const D: usize>(
    batch: usize,
    shape: &[usize],
) -> Result<[usize; D], OperatorError> {
    let with_batch: Vec<usize> = [batch].iter().chain(shape).copied().collect();
    let count = shape.len();
    <[usize; D]>::try_from(with_batch).map_err(|_| {
        let expected = format!("{}, as the tensors have", D - 1);
        OutOfRange::new("number of sides of an operator's shape", count, expected).into()
    })
}

/// Checks a picture or a measurement.
pub(crate) fn check_shape<const D: usize>(
    operator: &'static str,
    what: &'static str,
    x: &Tensor<D>,
    expected: &[usize],
) -> Result<(), OperatorError> {
    let found = &x.dims()[1..];
    match found == expected {
        true => Ok(()),
        false => Err(OperatorError::Shape {
            operator,
            what,
            expected: expected.to_vec(),
            found: found.to_vec(),
        }),
    }
}

/// Checks that every side has a pixel.
pub(crate) fn check_sides(sides: &[usize]) -> Result<(), OutOfRange> {
    let least = sides.iter().copied().min().unwrap_or(0);
    range::at_least("shortest side of the picture", least, 1)
}

/// The numbers of a tensor, without its graph.
pub(crate) fn host<const D: usize>(x: Tensor<D>) -> Result<Vec<f64>, OperatorError> {
    let values = x.without_autodiff().try_into_vec_as::<f64>();
    values.map_err(|error| OperatorError::Read(error.to_string()))
}

/// Computes on the processor in `f64`, the pictures of the batch at once; the result is on the device of `x` and has
/// its precision.
///
/// - `shape`: of one result
/// - `each`: from the numbers of one picture to those of its result, which are 0 before
pub(crate) fn on_host<const D: usize>(
    x: Tensor<D>,
    shape: &[usize],
    each: impl Fn(&[f64], &mut [f64]) + Sync,
) -> Result<Tensor<D>, OperatorError> {
    let (device, dtype, batch) = (x.device(), x.dtype(), x.dims()[0]);
    let sizes = [
        x.dims()[1..].iter().product(),
        shape.iter().product::<usize>(),
    ];
    let shape = batched::<D>(batch, shape)?;
    let values = host(x)?;
    let mut results = vec![0.0; batch * sizes[1]];
    let pictures = values.par_chunks(sizes[0].max(1));
    results
        .par_chunks_mut(sizes[1].max(1))
        .zip(pictures)
        .for_each(|(result, picture)| each(picture, result));
    Ok(Tensor::from_data(
        TensorData::new(results, shape),
        (&device, dtype),
    ))
}

/// `‖y − A x‖` of each picture of the batch, `[batch, 1, …]`.
pub(crate) fn norms<const D: usize>(residual: &Tensor<D>) -> Tensor<D> {
    inner(residual, residual).sqrt()
}
