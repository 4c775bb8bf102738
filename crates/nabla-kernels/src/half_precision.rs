//! Numbers of 16 bits on the processor, which are stored in 16 bits and computed with in 32.
//!
//! A processor multiplies matrices of 16 bits many times slower than those of 32, or turns number by number
//! into 32 bits and back. Here weights are widened part by part, where they are multiplied, and what goes
//! through an operation is widened before it and rounded after it. So half precision needs half of the
//! memory for the weights and costs little time. Other devices compute with 16 bits themselves.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{DType, Tensor, TensorData};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use nabla_grad::elementwise::Dense;
use rayon::prelude::*;

/// Numbers that one task handles.
const CHUNK: usize = 1 << 14;

/// Whether a number has 16 bits.
pub(crate) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

/// The numbers of a tensor of the CPU backend, of 32 or 16 bits, one after the other.
#[derive(Debug)]
pub(crate) enum Numbers {
    /// Of 32.
    F32(Dense),
    /// Of 16.
    Half(FloatTensor<Flex>),
}

impl Numbers {
    /// Takes `tensor` out of Burn; `None` if it is on another device, tracked by autodiff, or of other
    /// numbers.
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

    /// Some of them in 32 bits, in `place` unless they are there already.
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

    /// All of them in 32 bits.
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

/// As many numbers from `first` on as `to` has room for.
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

/// `tensor`, which has 16 or 32 bits, in 32.
fn widened(tensor: FloatTensor<Flex>) -> FloatTensor<Flex> {
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
fn rounded(values: &[f32], shape: Vec<usize>, dtype: DType) -> FloatTensor<Flex> {
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

/// A result of a shape, in `dtype`, which has 32 or 16 bits.
pub(crate) fn result<const D: usize>(dense: Dense, shape: [usize; D], dtype: DType) -> Tensor<D> {
    match is_half(dtype) {
        true => Tensor::from_primitive::<Flex>(rounded(dense.values(), shape.to_vec(), dtype)),
        false => dense.into_tensor(),
    }
}

/// `compute` in 32 bits of tensors of 16.
pub(crate) fn in_f32<const N: usize>(
    tensors: [FloatTensor<Flex>; N],
    compute: impl FnOnce([FloatTensor<Flex>; N]) -> FloatTensor<Flex>,
) -> FloatTensor<Flex> {
    let dtype = tensors.first().map_or(DType::F16, |first| first.dtype());
    let y = compute(tensors.map(widened)).to_contiguous();
    rounded(y.storage(), y.shape().to_vec(), dtype)
}
