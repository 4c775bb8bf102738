//! The precision and the shape in which an optimizer computes.
//!
//! Squares of small gradients vanish in 16 bits, and a step that is small compared with its weight is lost
//! when it is added. The steps of 16-bit parameters are therefore computed in 32 bits, and states always have
//! at least 32 bits.
//!
//! Steps are computed in one dimension. A function of tensors of rank `D` is compiled where `D` is known, once more in
//! every crate that trains something and once for every rank; a function of flat tensors is compiled here.

use burn::tensor::{DType, FloatDType, Tensor};

/// Runs `step` on the numbers of `tensor` and `grad`, in at least 32 bits.
pub(crate) fn in_full_precision<const D: usize, S>(
    tensor: Tensor<D>,
    grad: Tensor<D>,
    step: impl FnOnce(Tensor<1>, Tensor<1>) -> (Tensor<1>, S),
) -> (Tensor<D>, S) {
    let (shape, dtype) = (tensor.dims(), tensor.dtype());
    let half = !matches!(dtype, DType::F32 | DType::F64);
    let w = flat(tensor);
    let w = if half { w.cast(FloatDType::F32) } else { w };
    let g = like(flat(grad), &w);
    let (w, state) = step(w, g);
    let w = if half {
        w.cast(FloatDType::from(dtype))
    } else {
        w
    };
    (shaped(w, shape), state)
}

/// The numbers of `tensor`, in row-major order.
fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    match tensor.shape().num_elements() {
        // A zero in the arguments of Burn's `reshape` means a dimension that stays as it is.
        0 => Tensor::empty([0], (&tensor.device(), tensor.dtype())),
        count => tensor.reshape([count]),
    }
}

/// A tensor of this shape with the numbers of `flat`.
pub(crate) fn shaped<const D: usize>(flat: Tensor<1>, shape: [usize; D]) -> Tensor<D> {
    match flat.dims() {
        [0] => Tensor::empty(shape, (&flat.device(), flat.dtype())),
        _ => flat.reshape(shape),
    }
}

/// The numbers of a part of the state, in the precision of `w`; zeros if there is no state yet.
pub(crate) fn flat_like<const D: usize>(state: Option<Tensor<D>>, w: &Tensor<1>) -> Tensor<1> {
    match state {
        Some(state) => like(flat(state), w),
        None => w.zeros_like(),
    }
}

/// `tensor` in the precision of `other`: a record is loaded in the default precision of its device.
pub(crate) fn like<const D: usize>(tensor: Tensor<D>, other: &Tensor<D>) -> Tensor<D> {
    if tensor.dtype() == other.dtype() {
        tensor
    } else {
        tensor.cast(FloatDType::from(other.dtype()))
    }
}

/// `1 − βᵗ`, the factor by which a moving average that starts at zero is too small after `time` steps.
pub(crate) fn bias_correction(beta: f64, time: usize) -> f64 {
    1.0 - beta.powi(i32::try_from(time).unwrap_or(i32::MAX))
}
