//! Any matrix, for vectors `[batch, numbers]`.

use burn::tensor::Tensor;
use faer::Mat;
use nabla_base::range;

use super::right_vectors::{LazyVectors, RightVectors};
use crate::restore::operator::{Decomposed, LinearOperator, OperatorError, check_shape, on_host};

/// The operator of a matrix.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::restore::{LinearOperator, MatrixOperator};
///
/// let sum = MatrixOperator::new([1, 2], vec![1.0, 1.0])?;
/// let y = sum.apply(Tensor::<2>::from_floats([[1.0, 2.0]], &Device::flex()))?;
/// assert_eq!(y.clone().into_scalar::<f32>(), 3.0);
/// // The smallest vector with this sum.
/// assert_eq!(sum.pseudo_inverse(y)?.try_into_vec_as::<f32>().unwrap(), [1.5, 1.5]);
/// # Ok::<(), nabla_diffusion::restore::OperatorError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MatrixOperator {
    matrix: Mat<f64>,
    vectors: LazyVectors,
}

const NAME: &str = "a matrix";

impl MatrixOperator {
    /// - `shape`: `[rows, columns]`, both at least 1
    /// - `values`: row after row
    ///
    /// # Errors
    /// If a side is 0, or the number of values is not that of the shape.
    pub fn new([rows, columns]: [usize; 2], values: Vec<f64>) -> Result<Self, OperatorError> {
        range::at_least("number of rows of the matrix", rows, 1)?;
        range::at_least("number of columns of the matrix", columns, 1)?;
        let expected = format!("{}, as {rows} x {columns} are", rows * columns);
        let fits = values.len() == rows * columns;
        range::check(
            fits,
            "number of values of the matrix",
            values.len(),
            expected,
        )?;
        Ok(Self {
            matrix: Mat::from_fn(rows, columns, |i, j| values[i * columns + j]),
            vectors: LazyVectors::default(),
        })
    }
}

impl LinearOperator<2> for MatrixOperator {
    fn name(&self) -> &'static str {
        NAME
    }

    fn domain(&self) -> Vec<usize> {
        vec![self.matrix.ncols()]
    }

    fn range(&self) -> Vec<usize> {
        vec![self.matrix.nrows()]
    }

    fn apply(&self, x: Tensor<2>) -> Result<Tensor<2>, OperatorError> {
        check_shape(NAME, "vector", &x, &self.domain())?;
        on_host(x, &self.range(), |x, y| {
            for (i, y) in y.iter_mut().enumerate() {
                *y = x
                    .iter()
                    .enumerate()
                    .map(|(j, x)| self.matrix[(i, j)] * x)
                    .sum();
            }
        })
    }

    fn adjoint(&self, y: Tensor<2>) -> Result<Tensor<2>, OperatorError> {
        check_shape(NAME, "measurement", &y, &self.range())?;
        on_host(y, &self.domain(), |y, x| {
            for (j, x) in x.iter_mut().enumerate() {
                *x = y
                    .iter()
                    .enumerate()
                    .map(|(i, y)| self.matrix[(i, j)] * y)
                    .sum();
            }
        })
    }

    fn decomposed(&self) -> Option<&dyn Decomposed<2>> {
        Some(self)
    }
}

impl Decomposed<2> for MatrixOperator {
    fn filtered(
        &self,
        x: Tensor<2>,
        f: &(dyn Fn(f64) -> f64 + Sync),
    ) -> Result<Tensor<2>, OperatorError> {
        check_shape(NAME, "vector", &x, &self.domain())?;
        let RightVectors { s, v } = self.vectors.get(NAME, || self.matrix.clone())?;
        let unseen = f(0.0);
        on_host(x, &self.domain(), |x, y| {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = unseen * x);
            for (k, &s) in s.iter().enumerate() {
                let along: f64 = x.iter().enumerate().map(|(j, x)| v[(j, k)] * x).sum();
                let along = along * (f(s) - unseen);
                y.iter_mut()
                    .enumerate()
                    .for_each(|(j, y)| *y += v[(j, k)] * along);
            }
        })
    }
}
