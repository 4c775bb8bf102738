//! From tensors to numbers and back.

use burn::tensor::{Tensor, TensorData};

use crate::solve_error::SolveError;

/// The numbers of a tensor, row after row.
pub(crate) fn numbers(x: &Tensor<2>) -> Result<Vec<f64>, SolveError> {
    let found = x.clone().try_into_vec_as::<f64>();
    found.map_err(|error| SolveError::Read(error.to_string()))
}

/// A tensor of these numbers, row after row, on the device and in the number type of another.
pub(crate) fn tensor_like<const D: usize>(
    values: Vec<f64>,
    dims: [usize; D],
    like: &Tensor<2>,
) -> Tensor<D> {
    let data = TensorData::new(values, dims);
    Tensor::from_data(data, (&like.device(), like.dtype()))
}
