//! The operations a UNet spends its time in, written for Burn's pure-Rust CPU backend.
//!
//! Burn's `flex` backend computes a 3x3 convolution through a channels-last copy of the picture
//! and a sigmoid through one `exp` call per sample; a UNet then takes three times PyTorch's time
//! (`docs/src/backends.md`). Here the convolution gathers shifted rows of the channels-first
//! picture into a tile that fits the cache and multiplies it with `faer`, and the exponential is a
//! polynomial that the compiler vectorises. A group norm is two passes over the picture, with the
//! activation in the last, where Burn's operations are nine. Other backends run Burn's own operations.
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
use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use nabla_grad::elementwise::sigmoid;
use rayon::prelude::*;

use crate::half_precision::{Numbers, in_f32, is_half, result};

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

/// What `conv` computes, through [`conv3x3`] where it is one.
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

/// What `conv` computes; of numbers of 16 bits in 32 on the processor.
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

/// [`silu`] of [`group_norm`]: what stands before every convolution of a residual block.
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

/// `silu(x · (1 + scale) + shift)`: what stands between the two convolutions of a residual block.
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

    // The autodiff backend runs this as it stands, and so knows its gradients.
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

/// The gradients of [`Kernels`], which the autodiff backend asks of the backend below.
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
}

/// [`Kernels::silu`] of Burn's operations.
fn composed_silu<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_mul(x.clone(), B::sigmoid(x))
}

/// [`Kernels::group_norm`] of Burn's operations.
fn composed_group_norm<B: Kernels>(
    x: FloatTensor<B>,
    gamma: FloatTensor<B>,
    beta: FloatTensor<B>,
    groups: usize,
    epsilon: f64,
    with_silu: bool,
) -> FloatTensor<B> {
    let [batch, channels, height, width] = dims(&x);
    let dtype = x.dtype();
    // A sum of squares leaves the range of 16 bits.
    let narrow = is_half(dtype);
    let x = match narrow {
        true => B::float_cast(x, FloatDType::F32),
        false => x,
    };
    let group = channels / groups * height * width;
    let x = B::float_reshape(x, [batch, groups, group].into());
    let mean = B::float_mean_dim(x.clone(), 2); // [batch, groups, 1]
    let x = B::float_sub(x, mean);
    let variance = B::float_mean_dim(B::float_mul(x.clone(), x.clone()), 2);
    let deviation = B::float_sqrt(B::float_add_scalar(variance, epsilon.into()));
    let x = B::float_reshape(
        B::float_div(x, deviation),
        [batch, channels, height, width].into(),
    );
    let x = match narrow {
        true => B::float_cast(x, dtype.into()),
        false => x,
    };
    let wide = |v| B::float_reshape(v, [1, channels, 1, 1].into());
    let y = B::float_add(B::float_mul(x, wide(gamma)), wide(beta));
    match with_silu {
        true => B::silu(y),
        false => y,
    }
}

/// [`KernelGradients::silu_backward`] of Burn's operations.
fn composed_silu_backward<B: Backend>(x: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    // d/dx x s(x) = s + x s (1 - s)
    let s = B::sigmoid(x.clone());
    let through_sigmoid = B::sigmoid_backward(s.clone(), B::float_mul(grad.clone(), x));
    B::float_add(B::float_mul(grad, s), through_sigmoid)
}

/// [`KernelGradients::modulated_silu_backward`] of Burn's operations.
fn composed_modulated_silu_backward<B: KernelGradients>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    shift: FloatTensor<B>,
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 3] {
    let [batch, channels, height, width] = dims(&x);
    let u = modulate::<B>(x.clone(), scale.clone(), shift);
    let du = B::silu_backward(u, grad);
    let gain = B::float_add_scalar(scale, 1.0.into());
    let gain = B::float_reshape(gain, [batch, channels, 1, 1].into());
    let sum = |v: FloatTensor<B>| {
        let v = B::float_reshape(v, [batch, channels, height * width].into());
        B::float_reshape(B::float_sum_dim(v, 2), [batch, channels].into())
    };
    [
        B::float_mul(du.clone(), gain),
        sum(B::float_mul(du.clone(), x)),
        sum(du),
    ]
}

/// `x · (1 + scale) + shift`.
fn modulate<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    shift: FloatTensor<B>,
) -> FloatTensor<B> {
    let [batch, channels, _, _] = dims(&x);
    let gain = B::float_add_scalar(scale, 1.0.into());
    let gain = B::float_reshape(gain, [batch, channels, 1, 1].into());
    let shift = B::float_reshape(shift, [batch, channels, 1, 1].into());
    B::float_add(B::float_mul(x, gain), shift)
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
}

/// Partial sums that are kept side by side.
const LANES: usize = 16;

/// Samples that one task of an elementwise operation handles.
const CHUNK: usize = 1 << 14;

/// `f32`s of a gathered tile: half a megabyte, which the second-level cache holds.
const TILE: usize = 1 << 17;

fn dims(x: &impl TensorMetadata) -> [usize; 4] {
    let shape = x.shape();
    [shape[0], shape[1], shape[2], shape[3]]
}

fn float(shape: [usize; 4], data: Vec<f32>) -> FloatTensor<Flex> {
    FloatTensor::<Flex>::from_data(TensorData::new(data, shape))
}

/// `activation(group_norm(x))` in `f32`.
fn normalize(
    x: FloatTensor<Flex>,
    gamma: FloatTensor<Flex>,
    beta: FloatTensor<Flex>,
    groups: usize,
    epsilon: f64,
    activation: impl Fn(f32) -> f32 + Sync,
) -> FloatTensor<Flex> {
    let shape = dims(&x);
    let [_, channels, height, width] = shape;
    let (area, members) = (height * width, channels / groups);
    let (x, gamma, beta) = (
        x.to_contiguous(),
        gamma.to_contiguous(),
        beta.to_contiguous(),
    );
    let (x, gamma, beta): (&[f32], &[f32], &[f32]) = (x.storage(), gamma.storage(), beta.storage());
    let mut y = vec![0.0; x.len()];
    if y.is_empty() {
        return float(shape, y);
    }
    let arch = pulp::Arch::new();
    let count = (members * area) as f64;
    y.par_chunks_mut(members * area)
        .zip(x.par_chunks(members * area))
        .enumerate()
        .for_each(|(group, (y, x))| {
            arch.dispatch(|| {
                // Around the first number, so that a picture of one colour has no variance.
                let origin = x[0];
                let (sum, squares) = sums(x, origin);
                let mean = sum / count;
                let variance = (squares / count - mean * mean).max(0.0);
                let scale = 1.0 / (variance + epsilon).sqrt();
                let mean = f64::from(origin) + mean;
                let first = group % groups * members;
                let planes = y.chunks_exact_mut(area).zip(x.chunks_exact(area));
                for (channel, (y, x)) in planes.enumerate() {
                    let gain = (f64::from(gamma[first + channel]) * scale) as f32;
                    let (mean, shift) = (mean as f32, beta[first + channel]);
                    for (y, &x) in y.iter_mut().zip(x) {
                        *y = activation((x - mean) * gain + shift);
                    }
                }
            });
        });
    float(shape, y)
}

/// `Σ (x − origin)` and `Σ (x − origin)²`: in `f32` over short pieces, in `f64` over these.
#[inline(always)]
fn sums(x: &[f32], origin: f32) -> (f64, f64) {
    let (mut sum, mut squares) = (0.0, 0.0);
    for piece in x.chunks(64 * LANES) {
        let (mut s, mut q) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let whole = piece.as_chunks::<LANES>();
        for x in whole.0 {
            for lane in 0..LANES {
                let d = x[lane] - origin;
                s[lane] += d;
                q[lane] += d * d;
            }
        }
        for (lane, &x) in whole.1.iter().enumerate() {
            let d = x - origin;
            s[lane] += d;
            q[lane] += d * d;
        }
        sum += s.iter().map(|&v| f64::from(v)).sum::<f64>();
        squares += q.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    (sum, squares)
}

/// `y = w * x (+ bias)`: `[batch, inputs, height, width]` to `[batch, outputs, height, width]`.
fn convolve(
    x: &[f32],
    shape: [usize; 4],
    weight: &[f32],
    bias: Option<&[f32]>,
    outputs: usize,
) -> Vec<f32> {
    let [batch, inputs, height, width] = shape;
    let mut y = vec![0.0; batch * outputs * height * width];
    if y.is_empty() {
        return y;
    }
    let depth = 9 * inputs;
    let weight = MatRef::from_row_major_slice(weight, outputs, depth);

    let rows = batch * height;
    if rows * width < outputs {
        return convolve_few(x, shape, weight, bias, outputs);
    }
    // All rows of the batch in a line, cut into tiles whose gathered columns fit the cache.
    let rows_per_tile = (TILE / (depth * width).max(1)).clamp(1, rows);
    let tiles: Vec<Vec<f32>> = (0..rows.div_ceil(rows_per_tile))
        .into_par_iter()
        .map_init(Vec::new, |columns: &mut Vec<f32>, tile| {
            let first = tile * rows_per_tile;
            let count = rows_per_tile.min(rows - first);
            let n = count * width;
            columns.resize(depth * n, 0.0);
            gather(x, shape, 0..inputs, first..first + count, columns);
            let mut out = vec![0.0; outputs * n];
            matmul(
                MatMut::from_row_major_slice_mut(&mut out, outputs, n),
                Accum::Replace,
                weight,
                MatRef::from_row_major_slice(columns, depth, n),
                1.0,
                Par::Seq,
            );
            out
        })
        .collect();

    y.par_chunks_mut(height * width)
        .enumerate()
        .for_each(|(plane, y)| {
            let (b, channel) = (plane / outputs, plane % outputs);
            let offset = bias.map_or(0.0, |bias| bias[channel]);
            for (r, y) in y.chunks_exact_mut(width).enumerate() {
                let row = b * height + r;
                let (tile, local) = (row / rows_per_tile, row % rows_per_tile);
                let n = rows_per_tile.min(rows - tile * rows_per_tile) * width;
                let start = channel * n + local * width;
                for (y, v) in y.iter_mut().zip(&tiles[tile][start..start + width]) {
                    *y = v + offset;
                }
            }
        });
    y
}

/// [`convolve`] of fewer positions than output channels: most of the memory is the weights', which are
/// read once.
fn convolve_few(
    x: &[f32],
    shape: [usize; 4],
    weight: MatRef<'_, f32>,
    bias: Option<&[f32]>,
    outputs: usize,
) -> Vec<f32> {
    /// Parts of the output channels, one for each task.
    const PARTS: usize = 8;
    let [batch, inputs, height, width] = shape;
    let (area, positions, depth) = (height * width, batch * height * width, 9 * inputs);
    let mut columns = vec![0.0; depth * positions];
    columns
        .par_chunks_mut(9 * positions)
        .enumerate()
        .for_each(|(channel, columns)| {
            gather(x, shape, channel..channel + 1, 0..batch * height, columns);
        });
    let columns = MatRef::from_row_major_slice(&columns, depth, positions);
    let part = outputs.div_ceil(PARTS);
    let parts: Vec<Vec<f32>> = (0..outputs.div_ceil(part))
        .into_par_iter()
        .map(|task| {
            let first = task * part;
            let count = part.min(outputs - first);
            let mut out = vec![0.0; count * positions];
            matmul(
                MatMut::from_row_major_slice_mut(&mut out, count, positions),
                Accum::Replace,
                weight.subrows(first, count),
                columns,
                1.0,
                Par::Seq,
            );
            out
        })
        .collect();
    let mut y = vec![0.0; outputs * positions];
    y.par_chunks_mut(area).enumerate().for_each(|(plane, y)| {
        let (b, channel) = (plane / outputs, plane % outputs);
        let offset = bias.map_or(0.0, |bias| bias[channel]);
        let start = channel % part * positions + b * area;
        let line = &parts[channel / part][start..start + area];
        for (y, v) in y.iter_mut().zip(line) {
            *y = v + offset;
        }
    });
    y
}

/// `dw[o, i, ky, kx] = Σ grad[b, o, r, c] x[b, i, r + ky − 1, c + kx − 1]`.
fn weight_gradient(x: &[f32], shape: [usize; 4], grad: &[f32], outputs: usize) -> Vec<f32> {
    /// Input channels that one task handles.
    const BLOCK: usize = 16;
    let [batch, inputs, height, width] = shape;
    let area = height * width;
    let blocks: Vec<Vec<f32>> = (0..inputs.div_ceil(BLOCK))
        .into_par_iter()
        .map(|block| {
            let channels = block * BLOCK..((block + 1) * BLOCK).min(inputs);
            let depth = 9 * channels.len();
            let rows_per_tile = (TILE / (depth * width).max(1)).clamp(1, height.max(1));
            let mut columns = Vec::new();
            let mut dw = vec![0.0; outputs * depth];
            for b in 0..batch {
                for first in (0..height).step_by(rows_per_tile) {
                    let count = rows_per_tile.min(height - first);
                    let n = count * width;
                    columns.resize(depth * n, 0.0);
                    let row = b * height + first;
                    gather(x, shape, channels.clone(), row..row + count, &mut columns);
                    let grad = &grad[b * outputs * area..(b + 1) * outputs * area];
                    let grad = MatRef::from_row_major_slice(grad, outputs, area);
                    matmul(
                        MatMut::from_row_major_slice_mut(&mut dw, outputs, depth),
                        Accum::Add,
                        grad.subcols(first * width, n),
                        MatRef::from_row_major_slice(&columns, depth, n).transpose(),
                        1.0,
                        Par::Seq,
                    );
                }
            }
            dw
        })
        .collect();
    let mut dw = vec![0.0; outputs * inputs * 9];
    for (o, dw) in dw.chunks_exact_mut(9 * inputs).enumerate() {
        let mut start = 0;
        for block in &blocks {
            let depth = block.len() / outputs;
            dw[start..start + depth].copy_from_slice(&block[o * depth..(o + 1) * depth]);
            start += depth;
        }
    }
    dw
}

/// Fills `columns`, `[9 * channels, rows * width]`, with the 3x3 neighbourhoods of the picture
/// `x`, `[batch, inputs, height, width]`. Rows count through the whole batch.
fn gather(
    x: &[f32],
    [_, inputs, height, width]: [usize; 4],
    channels: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
    columns: &mut [f32],
) {
    let n = rows.len() * width;
    for (k, column) in columns.chunks_exact_mut(n).enumerate() {
        let (channel, ky, kx) = (channels.start + k / 9, k / 3 % 3, k % 3);
        for (row, out) in rows.clone().zip(column.chunks_exact_mut(width)) {
            let (b, r) = (row / height, row % height + ky);
            if r == 0 || r > height {
                out.fill(0.0);
                continue;
            }
            let start = ((b * inputs + channel) * height + r - 1) * width;
            let line = &x[start..start + width];
            match kx {
                0 => {
                    out[0] = 0.0;
                    out[1..].copy_from_slice(&line[..width - 1]);
                }
                1 => out.copy_from_slice(line),
                _ => {
                    out[..width - 1].copy_from_slice(&line[1..]);
                    out[width - 1] = 0.0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Param;
    use burn::tensor::module::conv2d;
    use burn::tensor::{Device, Distribution, Tolerance};

    fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    /// Burn's own convolution and gradients are the reference.
    #[test]
    fn convolution_and_its_gradients_are_burns() {
        let device = Device::flex().autodiff();
        for [batch, inputs, outputs, height, width] in [
            [1, 1, 1, 1, 1],
            [2, 3, 5, 4, 7],
            [1, 17, 33, 9, 1],
            [3, 40, 16, 33, 20],
        ] {
            let x = random([batch, inputs, height, width], &device).require_grad();
            let w = random([outputs, inputs, 3, 3], &device).require_grad();
            let b = random([outputs], &device).require_grad();
            let weigh = random([batch, outputs, height, width], &device);
            let ours = conv3x3(x.clone(), w.clone(), b.clone());
            let burns = conv2d(x.clone(), w.clone(), Some(b.clone()), same_convolution());
            let tolerance = Tolerance::<f32>::absolute(2e-3).set_relative(1e-4);
            ours.to_data().assert_approx_eq(&burns.to_data(), tolerance);
            let ours = (ours * weigh.clone()).sum().backward();
            let burns = (burns * weigh).sum().backward();
            macro_rules! same {
                ($v:expr) => {
                    $v.grad(&ours)
                        .unwrap()
                        .into_data()
                        .assert_approx_eq::<f32>(&$v.grad(&burns).unwrap().into_data(), tolerance)
                };
            }
            same!(x);
            same!(w);
            same!(b);
        }
    }

    /// The composition of Burn's own operations is the reference.
    #[test]
    fn modulated_silu_and_its_gradients_are_burns() {
        let device = Device::flex().autodiff();
        for [batch, channels, height, width] in [[1, 1, 1, 1], [2, 3, 5, 7], [3, 2, 16, 17]] {
            let x = random([batch, channels, height, width], &device).require_grad();
            let scale = random([batch, channels], &device).require_grad();
            let shift = random([batch, channels], &device).require_grad();
            let weigh = random([batch, channels, height, width], &device);
            let ours = modulated_silu(x.clone(), scale.clone(), shift.clone());
            let wide = |v: Tensor<2>| v.reshape([batch, channels, 1, 1]);
            let burns = burn::tensor::activation::silu(
                x.clone() * (wide(scale.clone()) + 1.0) + wide(shift.clone()),
            );
            let tolerance = Tolerance::<f32>::absolute(1e-4).set_relative(1e-4);
            ours.to_data().assert_approx_eq(&burns.to_data(), tolerance);
            let ours = (ours * weigh.clone()).sum().backward();
            let burns = (burns * weigh).sum().backward();
            for (a, b) in [
                (
                    x.grad(&ours).unwrap().into_data(),
                    x.grad(&burns).unwrap().into_data(),
                ),
                (
                    scale.grad(&ours).unwrap().into_data(),
                    scale.grad(&burns).unwrap().into_data(),
                ),
                (
                    shift.grad(&ours).unwrap().into_data(),
                    shift.grad(&burns).unwrap().into_data(),
                ),
            ] {
                a.assert_approx_eq::<f32>(&b, tolerance);
            }
        }
    }

    /// Burn's own group norm is the reference.
    #[test]
    fn group_norm_and_its_gradients_are_burns() {
        use burn::nn::GroupNormConfig;
        for device in [Device::flex(), Device::flex().autodiff()] {
            for ([batch, channels, height, width], groups) in
                [([1, 4, 1, 1], 2), ([2, 6, 5, 7], 3), ([3, 8, 33, 40], 1)]
            {
                let mut norm = GroupNormConfig::new(groups, channels).init(&device);
                norm.gamma = Some(Param::from_tensor(random([channels], &device)));
                norm.beta = Some(Param::from_tensor(random([channels], &device)));
                let x = random([batch, channels, height, width], &device) * 3.0 + 5.0;
                let x = Tensor::from_data(x.into_data(), &device);
                let tolerance = Tolerance::<f32>::absolute(1e-4).set_relative(1e-4);
                let burns = norm.forward(x.clone());
                let ours = group_norm(&norm, x.clone());
                ours.into_data()
                    .assert_approx_eq(&burns.clone().into_data(), tolerance);
                let ours = group_norm_silu(&norm, x.clone());
                ours.into_data()
                    .assert_approx_eq(&silu(burns).into_data(), tolerance);
            }
        }
        let device = Device::flex().autodiff();
        let mut norm = GroupNormConfig::new(2, 6).init(&device);
        norm.gamma = Some(Param::from_tensor(random([6], &device).require_grad()));
        let x = random([2, 6, 5, 7], &device).require_grad();
        let weigh = random([2, 6, 5, 7], &device);
        let ours = (group_norm_silu(&norm, x.clone()) * weigh.clone())
            .sum()
            .backward();
        let burns = (silu(norm.forward(x.clone())) * weigh).sum().backward();
        let tolerance = Tolerance::<f32>::absolute(1e-4).set_relative(1e-4);
        let gamma = norm.gamma.unwrap().val();
        for (ours, burns) in [
            (
                x.grad(&ours).unwrap().into_data(),
                x.grad(&burns).unwrap().into_data(),
            ),
            (
                gamma.grad(&ours).unwrap().into_data(),
                gamma.grad(&burns).unwrap().into_data(),
            ),
        ] {
            ours.assert_approx_eq(&burns, tolerance);
        }
    }

    /// A tiny spread beside a large mean, where the difference of large sums would be lost.
    #[test]
    fn group_norm_keeps_a_small_variance() {
        use burn::nn::GroupNormConfig;
        let device = Device::flex();
        let norm = GroupNormConfig::new(1, 1).with_epsilon(0.0).init(&device);
        let steps: Vec<f32> = (0..4096).map(|i| 1000.0 + (i % 2) as f32 / 64.0).collect();
        let x = Tensor::<1>::from_floats(steps.as_slice(), &device).reshape([1, 1, 64, 64]);
        let y: Vec<f32> = group_norm(&norm, x).into_data().try_to_vec().unwrap();
        for (i, y) in y.into_iter().enumerate() {
            let expected = if i % 2 == 0 { -1.0 } else { 1.0 };
            assert!((y - expected).abs() < 1e-2, "{i}: {y}");
        }
        let flat = Tensor::<4>::full([1, 1, 8, 8], 0.1, &device);
        let norm = GroupNormConfig::new(1, 1).with_epsilon(1e-12).init(&device);
        let y: Vec<f32> = group_norm(&norm, flat).into_data().try_to_vec().unwrap();
        assert!(y.into_iter().all(|y| y.abs() < 1e-6));
    }

    /// In 16 bits the result is that of the rounded numbers in 32, rounded.
    #[test]
    fn sixteen_bits_are_computed_with_in_thirty_two() {
        use burn::nn::GroupNormConfig;
        use burn::nn::conv::Conv2dConfig;
        let device = Device::flex();
        let x = random([2, 6, 9, 8], &device) * 2.0;
        let norm = GroupNormConfig::new(3, 6).init(&device);
        for (dtype, most) in [(DType::F16, 1e-3), (DType::BF16, 8e-3)] {
            let small = x.clone().cast(dtype);
            let large = small.clone().cast(DType::F32);
            let mut pairs = vec![
                (silu(small.clone()), silu(large.clone())),
                (
                    group_norm_silu(
                        &GroupNorm {
                            gamma: norm.gamma.clone().map(|v| v.map(|v| v.cast(dtype))),
                            beta: norm.beta.clone().map(|v| v.map(|v| v.cast(dtype))),
                            ..norm.clone()
                        },
                        small.clone(),
                    ),
                    group_norm_silu(&norm, large.clone()),
                ),
            ];
            for (kernel, stride) in [(3, 1), (3, 2), (1, 1)] {
                let margin = kernel / 2;
                let conv = Conv2dConfig::new([6, 4], [kernel; 2])
                    .with_stride([stride; 2])
                    .with_padding(PaddingConfig2d::Explicit(margin, margin, margin, margin))
                    .init(&device);
                let as_dtype = |conv: &Conv2d, dtype| Conv2d {
                    weight: conv.weight.clone().map(|w| w.cast(dtype)),
                    bias: conv.bias.clone().map(|b| b.map(|b| b.cast(dtype))),
                    ..conv.clone()
                };
                let narrow = as_dtype(&conv, dtype);
                let wide = as_dtype(&narrow, DType::F32);
                pairs.push((
                    convolution(&narrow, small.clone()),
                    convolution(&wide, large.clone()),
                ));
            }
            for (found, expected) in pairs {
                assert_eq!(found.dtype(), dtype);
                let difference = (found.cast(DType::F32) - expected.clone()).abs();
                let relative = difference / (expected.abs() + 1.0);
                let relative: f32 = relative.max().into_scalar();
                assert!(relative < most && relative > 0.0, "{dtype:?}: {relative}");
            }
        }
    }

    #[test]
    fn silu_is_within_rounding_of_its_closed_form() {
        let device = Device::flex().autodiff();
        let xs: Vec<f32> = (-4000..=4000).map(|i| i as f32 * 0.03).collect();
        let n = xs.len();
        let x = Tensor::<1>::from_floats(xs.as_slice(), &device)
            .reshape([1, 1, 1, n])
            .require_grad();
        let y = silu(x.clone());
        let grads = y.clone().sum().backward();
        let y = y.into_data().try_to_vec::<f32>().unwrap();
        let dy = x
            .grad(&grads)
            .unwrap()
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        for ((&x, y), dy) in xs.iter().zip(y).zip(dy) {
            let x = f64::from(x);
            let s = 1.0 / (1.0 + (-x).exp());
            let close = |a: f32, b: f64| (f64::from(a) - b).abs() <= 1e-6 * (1.0 + b.abs());
            assert!(close(y, x * s), "silu({x}) = {y}");
            assert!(close(dy, s * (1.0 + x * (1.0 - s))), "silu'({x}) = {dy}");
        }
    }

    #[test]
    fn the_thread_count_does_not_change_a_bit() {
        let device = Device::flex();
        let (x, w) = (
            random([2, 24, 31, 17], &device),
            random([20, 24, 3, 3], &device),
        );
        let b = random([20], &device);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| conv3x3(x.clone(), w.clone(), b.clone()).into_data())
        };
        assert_eq!(run(1), run(3));
    }
}
