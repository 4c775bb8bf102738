//! Matrices of a change, as the files have them.

use burn::tensor::{Device, Tensor, TensorData};

/// Numbers and their shape.
pub(super) type Values = (Vec<f32>, Vec<usize>);

/// A matrix of `rows`; the other axes of the tensor are its columns. `None` if it has another number of rows,
/// or is empty.
pub(super) fn rows_of((values, shape): &Values, rows: usize) -> Option<Tensor<2>> {
    let columns = values.len().checked_div(rows)?;
    (shape.first() == Some(&rows) && columns > 0).then(|| matrix(values.clone(), [rows, columns]))
}

/// A matrix whose rows are the first axis of the tensor, and whose columns are all others.
pub(super) fn flat(values: &Values) -> Option<Tensor<2>> {
    rows_of(values, *values.1.first()?)
}

pub(super) fn matrix(values: Vec<f32>, size: [usize; 2]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, size), &Device::flex())
}

/// `B A`, `[output, columns]`; `None` if they do not fit together.
pub(super) fn product(b: Tensor<2>, a: Tensor<2>) -> Option<Tensor<2>> {
    (b.dims()[1] == a.dims()[0]).then(|| b.matmul(a))
}

/// `B M A` with a kernel in `M` (a Tucker decomposition), `[output, columns · kernel]`:
/// `Δ[o, i, k] = Σ B[o, r] M[r, s, k] A[s, i]`. `None` if they do not fit together.
///
/// - `middle`: `M`, `[r, r, kernel …]`
pub(super) fn core_product(b: Tensor<2>, middle: &Values, a: Tensor<2>) -> Option<Tensor<2>> {
    let ([output, rank], [inner, columns]) = (b.dims(), a.dims());
    let kernel = middle.0.len().checked_div(rank * inner)?;
    if kernel == 0 || middle.0.len() != rank * inner * kernel {
        return None;
    }
    // [output, r] x [r, s, k] x [s, columns]
    let core = matrix(middle.0.clone(), [rank, inner * kernel]);
    let product = b
        .matmul(core)
        .reshape([output, inner, kernel])
        .swap_dims(1, 2)
        .reshape([output * kernel, inner])
        .matmul(a)
        .reshape([output, kernel, columns])
        .swap_dims(1, 2)
        .reshape([output, columns * kernel]);
    Some(product)
}

/// The numbers of a change, if it has as many as a tensor of `shape`, and as many rows.
pub(super) fn numbers(change: Tensor<2>, shape: &[usize]) -> Option<Vec<f32>> {
    let [rows, columns] = change.dims();
    let fits = shape.first() == Some(&rows) && shape.iter().product::<usize>() == rows * columns;
    fits.then(|| change.into_data().try_to_vec().ok()).flatten()
}
