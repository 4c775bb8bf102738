//! The operations in which a convolutional network spends its time: 3x3 convolutions, group norm, SiLU.
//!
//! Burn's `flex` backend computes a 3x3 convolution through a channels-last copy of the picture and a sigmoid
//! through one `exp` call per sample; a UNet then takes three times as long as in PyTorch
//! (`docs/src/backends.md`). Here the convolution gathers shifted rows of the channels-first picture into a
//! tile that fits the cache and multiplies it with `faer`, and the exponential is a polynomial that the
//! compiler vectorises. A group norm takes two passes over the picture, with the activation in the last one,
//! instead of nine with Burn's operations. Other backends run Burn's own operations.
//!
//! Results do not depend on the number of threads: every sum has a fixed order.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::ops::ModuleOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::module::Param;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, PaddingConfig2d};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Tensor, TensorData};
use nabla_grad::elementwise::sigmoid;
use rayon::prelude::*;

use crate::half_precision::{Numbers, in_f32, is_half, result};

mod composed;
mod loops;

use composed::{
    composed_group_norm, composed_group_norm_backward, composed_modulated_silu_backward,
    composed_silu, composed_silu_backward, modulate,
};
use loops::{CHUNK, LANES, convolve, dims, float, normalize, normalize_backward, weight_gradient};

/// A convolution with kernel 3, stride 1 and zero padding 1.
///
/// - `x`: `[batch, channels_in, height, width]`
/// - `weight`: `[channels_out, channels_in, 3, 3]`
/// - `bias`: `[channels_out]`
/// - returns `[batch, channels_out, height, width]`
pub fn conv3x3(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Kernels>::conv3x3(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// Computes `conv`, with [`conv3x3`] if possible.
///
/// - `x`: `[batch, channels_in, height, width]`
pub fn convolution(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let same = conv.kernel_size == [3, 3]
        && conv.stride == [1, 1]
        && conv.dilation == [1, 1]
        && conv.groups == 1
        && conv.padding == PaddingConfig2d::Explicit(1, 1, 1, 1);
    match &conv.bias {
        Some(bias) if same => conv3x3(x, conv.weight.val(), bias.val()),
        _ => other_convolution(conv, x),
    }
}

/// Computes `conv`; on the CPU, 16-bit numbers are computed in 32 bits.
fn other_convolution(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let wide = || {
        let x = Numbers::take(x.clone())?.into_dense();
        let weight = Numbers::take(conv.weight.val())?.into_dense();
        let bias = match &conv.bias {
            Some(bias) => {
                let bias = Numbers::take(bias.val())?.into_dense();
                Some(Param::from_tensor(bias.into_tensor()))
            }
            None => None,
        };
        let conv = Conv2d {
            weight: Param::from_tensor(weight.into_tensor()),
            bias,
            ..conv.clone()
        };
        let y = conv.forward(x.into_tensor());
        let shape = y.dims();
        Some((Numbers::take(y)?.into_dense(), shape))
    };
    let dtype = x.dtype();
    match is_half(dtype).then(wide).flatten() {
        Some((y, shape)) => result(y, shape, dtype),
        None => conv.forward(x),
    }
}

/// `x · sigmoid(x)`.
pub fn silu(x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Kernels>::silu(x.into_dispatch()))
}

/// `gamma · (x − mean)/√(variance + ε) + beta`, with a mean and a variance of each group of channels.
///
/// - `x`: `[batch, channels, height, width]`
/// - returns the shape of `x`
pub fn group_norm(norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    normalized(norm, x, false)
}

/// [`silu`] of [`group_norm`], as before every convolution of a residual block.
///
/// - `x`: `[batch, channels, height, width]`
/// - returns the shape of `x`
pub fn group_norm_silu(norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    normalized(norm, x, true)
}

fn normalized(norm: &GroupNorm, x: Tensor<4>, with_silu: bool) -> Tensor<4> {
    match (&norm.gamma, &norm.beta) {
        (Some(gamma), Some(beta)) => Tensor::from_dispatch(<Dispatch as Kernels>::group_norm(
            x.into_dispatch(),
            gamma.val().into_dispatch(),
            beta.val().into_dispatch(),
            norm.num_groups,
            norm.epsilon,
            with_silu,
        )),
        _ if with_silu => silu(norm.forward(x)),
        _ => norm.forward(x),
    }
}

/// `silu(x · (1 + scale) + shift)`: as between the two convolutions of a residual block.
///
/// - `x`: `[batch, channels, height, width]`
/// - `scale`, `shift`: `[batch, channels]`
/// - returns the shape of `x`
pub fn modulated_silu(x: Tensor<4>, scale: Tensor<2>, shift: Tensor<2>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Kernels>::modulated_silu(
        x.into_dispatch(),
        scale.into_dispatch(),
        shift.into_dispatch(),
    ))
}

/// The kernels, for each backend that a UNet runs on.
#[backend_extension(Flex, Autodiff, Cube: cfg(any(feature = "cuda", feature = "wgpu")))]
trait Kernels: Backend {
    fn conv3x3(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::conv2d(x, weight, Some(bias), same_convolution())
    }

    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        composed_silu::<Self>(x)
    }

    fn modulated_silu(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::silu(modulate::<Self>(x, scale, shift))
    }

    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        with_silu: bool,
    ) -> FloatTensor<Self> {
        composed_group_norm::<Self>(x, gamma, beta, groups, epsilon, with_silu)
    }
}

/// The gradients of [`Kernels`], which the autodiff backend requests from the inner backend.
trait KernelGradients: Kernels {
    fn conv3x3_weight_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::conv2d_weight_backward(x, weight, grad, same_convolution())
    }

    fn conv3x3_x_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        Self::conv2d_x_backward(x, weight, grad, same_convolution())
    }

    /// The gradients by `x`, `scale` and `shift`.
    fn modulated_silu_backward(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        composed_modulated_silu_backward::<Self>(x, scale, shift, grad)
    }

    fn silu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        composed_silu_backward::<Self>(x, grad)
    }

    /// The gradients by `x`, `gamma` and `beta`.
    fn group_norm_backward(
        input: [FloatTensor<Self>; 3],
        groups: usize,
        epsilon: f64,
        with_silu: bool,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        composed_group_norm_backward::<Self>(input, groups, epsilon, with_silu, grad)
    }
}

fn same_convolution() -> ConvOptions<2> {
    ConvOptions::new([1, 1], [1, 1], [1, 1], 1)
}

impl Kernels for Flex {
    fn conv3x3(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if is_half(x.dtype()) {
            return in_f32([x, weight, bias], |[x, w, b]| Self::conv3x3(x, w, b));
        }
        if x.dtype() != DType::F32 {
            return Self::conv2d(x, weight, Some(bias), same_convolution());
        }
        let (shape, outputs) = (dims(&x), weight.shape()[0]);
        let (x, weight, bias) = (
            x.to_contiguous(),
            weight.to_contiguous(),
            bias.to_contiguous(),
        );
        let y = convolve(
            x.storage(),
            shape,
            weight.storage(),
            Some(bias.storage()),
            outputs,
        );
        float([shape[0], outputs, shape[2], shape[3]], y)
    }

    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        if is_half(x.dtype()) {
            return in_f32([x], |[x]| Self::silu(x));
        }
        if x.dtype() != DType::F32 {
            return composed_silu::<Self>(x);
        }
        let shape = dims(&x);
        let x = x.to_contiguous();
        let x: &[f32] = x.storage();
        let mut y = vec![0.0; x.len()];
        let arch = pulp::Arch::new();
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .for_each(|(y, x)| {
                arch.dispatch(|| {
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = x * sigmoid(x);
                    }
                });
            });
        float(shape, y)
    }

    fn modulated_silu(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if is_half(x.dtype()) {
            return in_f32([x, scale, shift], |[x, scale, shift]| {
                Self::modulated_silu(x, scale, shift)
            });
        }
        if x.dtype() != DType::F32 {
            return Self::silu(modulate::<Self>(x, scale, shift));
        }
        let shape = dims(&x);
        let area = shape[2] * shape[3];
        let (x, scale, shift) = (
            x.to_contiguous(),
            scale.to_contiguous(),
            shift.to_contiguous(),
        );
        let (x, scale, shift): (&[f32], &[f32], &[f32]) =
            (x.storage(), scale.storage(), shift.storage());
        let mut y = vec![0.0; x.len()];
        let arch = pulp::Arch::new();
        y.par_chunks_mut(area.max(1))
            .enumerate()
            .for_each(|(plane, y)| {
                let (gain, shift) = (1.0 + scale[plane], shift[plane]);
                let x = &x[plane * area..(plane + 1) * area];
                arch.dispatch(|| {
                    for (y, &x) in y.iter_mut().zip(x) {
                        let u = x * gain + shift;
                        *y = u * sigmoid(u);
                    }
                });
            });
        float(shape, y)
    }

    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        with_silu: bool,
    ) -> FloatTensor<Self> {
        if is_half(x.dtype()) {
            return in_f32([x, gamma, beta], |[x, gamma, beta]| {
                Self::group_norm(x, gamma, beta, groups, epsilon, with_silu)
            });
        }
        if x.dtype() != DType::F32 {
            return composed_group_norm::<Self>(x, gamma, beta, groups, epsilon, with_silu);
        }
        match with_silu {
            true => normalize(x, gamma, beta, groups, epsilon, |u| u * sigmoid(u)),
            false => normalize(x, gamma, beta, groups, epsilon, |u| u),
        }
    }
}

impl KernelGradients for Flex {
    fn conv3x3_weight_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if x.dtype() != DType::F32 {
            return Self::conv2d_weight_backward(x, weight, grad, same_convolution());
        }
        let (shape, outputs) = (dims(&x), weight.shape()[0]);
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        let dw = weight_gradient(x.storage(), shape, grad.storage(), outputs);
        float([outputs, shape[1], 3, 3], dw)
    }

    fn conv3x3_x_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if x.dtype() != DType::F32 {
            return Self::conv2d_x_backward(x, weight, grad, same_convolution());
        }
        let shape = dims(&grad);
        let inputs = weight.shape()[1];
        let (grad, weight) = (grad.to_contiguous(), weight.to_contiguous());
        // The adjoint of a convolution is the convolution with the flipped, transposed kernel.
        let w: &[f32] = weight.storage();
        let mut flipped = vec![0.0; w.len()];
        for o in 0..shape[1] {
            for i in 0..inputs {
                for k in 0..9 {
                    flipped[(i * shape[1] + o) * 9 + 8 - k] = w[(o * inputs + i) * 9 + k];
                }
            }
        }
        let dx = convolve(grad.storage(), shape, &flipped, None, inputs);
        float([shape[0], inputs, shape[2], shape[3]], dx)
    }

    fn modulated_silu_backward(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        if x.dtype() != DType::F32 {
            return composed_modulated_silu_backward::<Self>(x, scale, shift, grad);
        }
        let shape = dims(&x);
        let planes = [shape[0], shape[1]];
        let area = shape[2] * shape[3];
        let (x, scale, shift, grad) = (
            x.to_contiguous(),
            scale.to_contiguous(),
            shift.to_contiguous(),
            grad.to_contiguous(),
        );
        let (x, grad): (&[f32], &[f32]) = (x.storage(), grad.storage());
        let (scale, shift): (&[f32], &[f32]) = (scale.storage(), shift.storage());
        let mut dx = vec![0.0; x.len()];
        let arch = pulp::Arch::new();
        let sums: Vec<[f32; 2]> = dx
            .par_chunks_mut(area.max(1))
            .enumerate()
            .map(|(plane, dx)| {
                let (gain, shift) = (1.0 + scale[plane], shift[plane]);
                let range = plane * area..(plane + 1) * area;
                let (x, grad) = (&x[range.clone()], &grad[range]);
                arch.dispatch(|| {
                    // Sums in lanes, which vectorise, and in a fixed order.
                    let (mut by_scale, mut by_shift) = ([0.0; LANES], [0.0; LANES]);
                    for ((dx, x), grad) in dx
                        .chunks_mut(LANES)
                        .zip(x.chunks(LANES))
                        .zip(grad.chunks(LANES))
                    {
                        for (lane, (dx, (&x, &g))) in
                            dx.iter_mut().zip(x.iter().zip(grad)).enumerate()
                        {
                            let u = x * gain + shift;
                            let s = sigmoid(u);
                            let du = g * s * (1.0 + u * (1.0 - s));
                            *dx = du * gain;
                            by_scale[lane] += du * x;
                            by_shift[lane] += du;
                        }
                    }
                    [by_scale.iter().sum(), by_shift.iter().sum()]
                })
            })
            .collect();
        let matrix = |i: usize| {
            let values: Vec<f32> = sums.iter().map(|s| s[i]).collect();
            FloatTensor::<Flex>::from_data(TensorData::new(values, planes))
        };
        [float(shape, dx), matrix(0), matrix(1)]
    }

    fn silu_backward(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        if x.dtype() != DType::F32 {
            return composed_silu_backward::<Self>(x, grad);
        }
        let shape = dims(&x);
        let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
        let (x, grad): (&[f32], &[f32]) = (x.storage(), grad.storage());
        let mut dx = vec![0.0; x.len()];
        let arch = pulp::Arch::new();
        dx.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK).zip(grad.par_chunks(CHUNK)))
            .for_each(|(dx, (x, grad))| {
                arch.dispatch(|| {
                    for (dx, (&x, &g)) in dx.iter_mut().zip(x.iter().zip(grad)) {
                        let s = sigmoid(x);
                        *dx = g * s * (1.0 + x * (1.0 - s));
                    }
                });
            });
        float(shape, dx)
    }

    fn group_norm_backward(
        input: [FloatTensor<Self>; 3],
        groups: usize,
        epsilon: f64,
        with_silu: bool,
        grad: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3] {
        if grad.dtype() != DType::F32 {
            return composed_group_norm_backward::<Self>(input, groups, epsilon, with_silu, grad);
        }
        match with_silu {
            true => normalize_backward(input, groups, epsilon, grad, |u| {
                let s = sigmoid(u);
                s * (1.0 + u * (1.0 - s))
            }),
            false => normalize_backward(input, groups, epsilon, grad, |_| 1.0),
        }
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl Kernels for burn::backend::Cube {}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
impl KernelGradients for burn::backend::Cube {}

impl<B: KernelGradients, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn conv3x3(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Conv3x3;

        impl<B: KernelGradients> Backward<B, 3> for Conv3x3 {
            type State = (FloatTensor<B>, FloatTensor<B>);

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let [node_x, node_weight, node_bias] = ops.parents;
                let grad = grads.consume::<B>(&ops.node);
                let (x, weight) = ops.state;
                if let Some(node) = node_x {
                    let dx = B::conv3x3_x_backward(x.clone(), weight.clone(), grad.clone());
                    grads.register::<B>(node.id, dx);
                }
                if let Some(node) = node_weight {
                    let dw = B::conv3x3_weight_backward(x, weight, grad.clone());
                    grads.register::<B>(node.id, dw);
                }
                if let Some(node) = node_bias {
                    // [batch, channels, height, width] -> [channels]
                    let shape = grad.shape();
                    let [batch, channels, pixels] = [shape[0], shape[1], shape[2] * shape[3]];
                    let db = B::float_reshape(grad, [batch, channels, pixels].into());
                    let db = B::float_sum_dim(B::float_sum_dim(db, 2), 0);
                    grads.register::<B>(node.id, B::float_reshape(db, [channels].into()));
                }
            }
        }

        match Conv3x3
            .prepare::<C>([x.node(), weight.node(), bias.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let (x, weight) = (x.primitive().clone(), weight.primitive().clone());
                let y = B::conv3x3(x.clone(), weight.clone(), bias.into_primitive());
                prep.finish((x, weight), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::conv3x3(
                x.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
            )),
        }
    }

    fn silu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Silu;

        impl<B: KernelGradients> Backward<B, 1> for Silu {
            type State = FloatTensor<B>;

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let [node] = ops.parents;
                let grad = grads.consume::<B>(&ops.node);
                if let Some(node) = node {
                    grads.register::<B>(node.id, B::silu_backward(ops.state, grad));
                }
            }
        }

        match Silu.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let x = x.primitive().clone();
                prep.finish(x.clone(), B::silu(x))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::silu(x.into_primitive())),
        }
    }

    fn modulated_silu(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct ModulatedSilu;

        impl<B: KernelGradients> Backward<B, 3> for ModulatedSilu {
            type State = [FloatTensor<B>; 3];

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let parents = ops.parents;
                let grad = grads.consume::<B>(&ops.node);
                let [x, scale, shift] = ops.state;
                let gradients = B::modulated_silu_backward(x, scale, shift, grad);
                for (node, gradient) in parents.into_iter().zip(gradients) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        match ModulatedSilu
            .prepare::<C>([x.node(), scale.node(), shift.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let [x, scale, shift] = [x, scale, shift].map(|v| v.primitive().clone());
                let y = B::modulated_silu(x.clone(), scale.clone(), shift.clone());
                prep.finish([x, scale, shift], y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::modulated_silu(
                x.into_primitive(),
                scale.into_primitive(),
                shift.into_primitive(),
            )),
        }
    }

    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        with_silu: bool,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Normalization;

        #[derive(Debug, Clone)]
        struct State<T> {
            input: [T; 3],
            groups: usize,
            epsilon: f64,
            with_silu: bool,
        }

        impl<B: KernelGradients> Backward<B, 3> for Normalization {
            type State = State<FloatTensor<B>>;

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let parents = ops.parents;
                let grad = grads.consume::<B>(&ops.node);
                let State {
                    input,
                    groups,
                    epsilon,
                    with_silu,
                } = ops.state;
                let gradients = B::group_norm_backward(input, groups, epsilon, with_silu, grad);
                for (node, gradient) in parents.into_iter().zip(gradients) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        let normalized = |[x, gamma, beta]: [FloatTensor<B>; 3]| {
            B::group_norm(x, gamma, beta, groups, epsilon, with_silu)
        };
        match Normalization
            .prepare::<C>([x.node(), gamma.node(), beta.node()])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let input = [x, gamma, beta].map(|v| v.primitive().clone());
                let y = normalized(input.clone());
                let state = State {
                    input,
                    groups,
                    epsilon,
                    with_silu,
                };
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(normalized([x, gamma, beta].map(|v| v.into_primitive())))
            }
        }
    }
}

#[cfg(test)]
mod tests;
