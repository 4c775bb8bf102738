//! Roots of mean squares: of errors, divided by the tolerance at two states.

use burn::tensor::Tensor;
use nabla_kernels::row_combination::scaled_squares;

/// Of all rows together.
///
/// - `error`, `states`: `[batch, d]`
/// - `columns`: how many of them count
pub(crate) fn joint(
    error: &Tensor<2>,
    states: [&Tensor<2>; 2],
    tolerances: [f64; 2],
    columns: usize,
) -> f64 {
    let sums = scaled_squares(error, states, tolerances, columns);
    let count = sums.len() as f64 * columns as f64;
    (sums.into_iter().sum::<f64>() / count).sqrt()
}

/// Of each row, if steps are apart, and of all rows otherwise.
pub(crate) fn of_groups(
    error: &Tensor<2>,
    states: [&Tensor<2>; 2],
    tolerances: [f64; 2],
    columns: usize,
    apart: bool,
) -> Vec<f64> {
    if !apart {
        return vec![joint(error, states, tolerances, columns)];
    }
    let sums = scaled_squares(error, states, tolerances, columns);
    let each = sums.into_iter().map(|sum| (sum / columns as f64).sqrt());
    each.collect()
}

/// `1` as tolerance, so that norms are those of the numbers themselves.
pub(crate) const PLAIN: [f64; 2] = [1.0, 0.0];
