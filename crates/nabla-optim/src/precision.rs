//! The precision in which an optimizer computes and stores its state.
//!
//! Squares of small gradients vanish in 16 bits, and a step that is small compared with its weight is lost
//! when it is added. The steps of 16-bit parameters are therefore computed in 32 bits, and states always have
//! at least 32 bits.

use burn::tensor::{DType, FloatDType, Tensor};

/// Runs `step` on `tensor` and `grad` in at least 32 bits.
pub(crate) fn in_full_precision<const D: usize, S>(
    tensor: Tensor<D>,
    grad: Tensor<D>,
    step: impl FnOnce(Tensor<D>, Tensor<D>) -> (Tensor<D>, S),
) -> (Tensor<D>, S) {
    let dtype = tensor.dtype();
    match dtype {
        DType::F32 | DType::F64 => {
            let grad = like(grad, &tensor);
            step(tensor, grad)
        }
        _ => {
            let tensor = tensor.cast(FloatDType::F32);
            let grad = like(grad, &tensor);
            let (tensor, state) = step(tensor, grad);
            (tensor.cast(FloatDType::from(dtype)), state)
        }
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
