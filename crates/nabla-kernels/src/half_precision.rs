//! 16-bit numbers on the CPU, which are stored in 16 bits and computed in 32.
//!
//! A CPU multiplies 16-bit matrices many times slower than 32-bit matrices, or converts each number to 32
//! bits and back. Here the weights of linear layers are widened part by part where they are multiplied (without
//! autodiff), and the inputs of another
//! operation are widened before it and its outputs rounded after it. So half precision needs half the memory
//! for the weights, and costs little time. Other devices compute in 16 bits natively.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Tensor, TensorData};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use nabla_grad::elementwise::Dense;
use rayon::prelude::*;

/// The number of values per task.
const CHUNK: usize = 1 << 14;

/// Whether a number has 16 bits.
pub(crate) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// The values of a tensor on the CPU backend, with 32 or 16 bits, one after the other.
#[derive(Debug)]
pub(crate) enum Numbers {
    /// Of 32.
    F32(Dense),
    /// Of 16.
    Half(FloatTensor<Flex>),
}

impl Numbers {
    /// Takes `tensor` out of Burn; `None` if it is on another device, tracked by autodiff, or of another type.
    pub(crate) fn take<const D: usize>(tensor: Tensor<D>) -> Option<Self> {
        if !is_half(tensor.dtype()) {
            return Dense::take(tensor).ok().map(Self::F32);
        }
        let primitive = tensor.try_into_primitive::<Flex>().ok()?;
        Some(Self::Half(primitive.to_contiguous()))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(dense) => dense.values().len(),
            Self::Half(tensor) => tensor.shape().num_elements(),
        }
    }

    /// Some of the values in 32 bits; they are converted into `place` if necessary.
    pub(crate) fn read<'a>(&'a self, range: Range<usize>, place: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Self::F32(dense) => &dense.values()[range],
            Self::Half(tensor) => {
                place.resize(range.len(), 0.0);
                widen(tensor, range.start, place);
                place
            }
        }
    }

    /// All values in 32 bits.
    pub(crate) fn into_dense(self) -> Dense {
        match self {
            Self::F32(dense) => dense,
            Self::Half(tensor) => {
                let mut dense = Dense::zeros(&tensor.shape());
                widen_all(&tensor, dense.values_mut());
                dense
            }
        }
    }
}

/// Copies values from `first` on until `to` is full.
fn widen(from: &FloatTensor<Flex>, first: usize, to: &mut [f32]) {
    let range = first..first + to.len();
    match from.dtype() {
        DType::F16 => from.storage::<f16>()[range].convert_to_f32_slice(to),
        _ => from.storage::<bf16>()[range].convert_to_f32_slice(to),
    }
}

fn widen_all(from: &FloatTensor<Flex>, to: &mut [f32]) {
    let parts = to.par_chunks_mut(CHUNK).enumerate();
    parts.for_each(|(part, to)| widen(from, part * CHUNK, to));
}

/// Converts `tensor`, which has 16 or 32 bits, to 32 bits.
pub(crate) fn widened(tensor: FloatTensor<Flex>) -> FloatTensor<Flex> {
    if !is_half(tensor.dtype()) {
        return tensor;
    }
    let tensor = tensor.to_contiguous();
    let shape = tensor.shape().to_vec();
    let mut wide = vec![0.0; shape.iter().product()];
    widen_all(&tensor, &mut wide);
    FloatTensor::<Flex>::from_data(TensorData::new(wide, shape))
}

/// `values` rounded to 16 bits: to `f16`, unless `dtype` is `bf16`.
pub(crate) fn rounded(values: &[f32], shape: Vec<usize>, dtype: DType) -> FloatTensor<Flex> {
    macro_rules! data {
        ($half:ty) => {{
            let mut to = vec![<$half>::ZERO; values.len()];
            let parts = to.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
            parts.for_each(|(to, from)| to.convert_from_f32_slice(from));
            TensorData::new(to, shape)
        }};
    }
    FloatTensor::<Flex>::from_data(match dtype {
        DType::BF16 => data!(bf16),
        _ => data!(f16),
    })
}

/// A result, `[rows, columns]`, as a tensor of a shape, in `dtype`, which has 32 or 16 bits.
pub(crate) fn result<const D: usize>(dense: Dense, shape: [usize; D], dtype: DType) -> Tensor<D> {
    match is_half(dtype) {
        true => Tensor::from_primitive::<Flex>(rounded(dense.values(), shape.to_vec(), dtype)),
        false => dense.into_tensor::<2>().reshape(shape),
    }
}
