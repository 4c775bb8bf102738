//! The rules of the layers, which compute gradients from the input of a layer and the gradient of its output.

use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, GroupNorm, PaddingConfig2d};
use burn::tensor::module::unfold4d;
use burn::tensor::ops::{PadMode, UnfoldOptions};
use burn::tensor::{IndexingUpdateOp, Int, Tensor};
use nabla_base::range;

use super::PerExampleError;
use crate::training_mode::batch_norm_in_training;

/// Per-example gradients of a layer; the first dimension of each is the example.
#[derive(Clone, Debug)]
pub struct LayerGradients<const W: usize> {
    /// Gradients of the weight (`γ` of a norm): `[examples, …]` with the weight's own shape.
    pub weight: Tensor<W>,
    /// Gradients of the bias (`β` of a norm): `[examples, bias]`. Computed whether or not the layer has a
    /// bias.
    pub bias: Tensor<2>,
}

impl<const W: usize> LayerGradients<W> {
    /// Their squared norms.
    pub fn squared_norms(&self) -> SquaredNorms {
        let weight = self.weight.clone().flatten::<2>(1, W - 1);
        SquaredNorms {
            weight: weight.square().sum_dim(1).squeeze_dim(1),
            bias: self.bias.clone().square().sum_dim(1).squeeze_dim(1),
        }
    }
}

/// Squared norms of a layer's per-example gradients. Those of all parameters of a module can be added, if no
/// parameter is used twice in a pass.
#[derive(Clone, Debug)]
pub struct SquaredNorms {
    /// Squared norms of the weight's gradients, `[examples]`.
    pub weight: Tensor<1>,
    /// Squared norms of the bias's gradients, `[examples]`. Computed whether or not the layer has a bias.
    pub bias: Tensor<1>,
}

/// Gradients of a linear layer (weight `[examples, in, out]`, as Burn lays it out) from its input,
/// `[examples, …, in]`, and its output's gradient, `[examples, …, out]`.
///
/// # Errors
/// If the two differ in more than the last dimension, or have fewer than two dimensions.
pub fn linear_gradients<const D: usize>(
    input: &Tensor<D>,
    output_gradient: &Tensor<D>,
) -> Result<LayerGradients<3>, PerExampleError> {
    let (x, g) = positions(input, output_gradient)?;
    Ok(LayerGradients {
        weight: x.transpose().matmul(g.clone()),
        bias: g.sum_dim(1).squeeze_dim(1),
    })
}

/// Squared norms of the gradients of a linear layer, from what [`linear_gradients`] takes.
///
/// # Errors
/// As [`linear_gradients`].
pub fn linear_squared_norms<const D: usize>(
    input: &Tensor<D>,
    output_gradient: &Tensor<D>,
) -> Result<SquaredNorms, PerExampleError> {
    let (x, g) = positions(input, output_gradient)?;
    Ok(SquaredNorms {
        weight: product_squared_norms(x, g.clone()),
        bias: g.sum_dim(1).square().sum_dim(2).flatten(0, 2),
    })
}

/// `[examples, …, in]` and `[examples, …, out]` as `[examples, positions, in]` and
/// `[examples, positions, out]`.
fn positions<const D: usize>(
    input: &Tensor<D>,
    output_gradient: &Tensor<D>,
) -> Result<(Tensor<3>, Tensor<3>), PerExampleError> {
    let (from, to) = (input.dims(), output_gradient.dims());
    if D < 2 || from[..D - 1] != to[..D - 1] {
        let mut expected = from.map(|size| size.to_string()).to_vec();
        expected.pop();
        return Err(PerExampleError::Shape {
            what: "gradient of the output",
            found: to.to_vec(),
            expected: if D < 2 {
                "a shape with examples and features".into()
            } else {
                format!("[{}, outputs] as that of the input", expected.join(", "))
            },
        });
    }
    if from[0] == 0 {
        return Err(PerExampleError::NoExamples);
    }
    let count = from[1..D - 1].iter().product::<usize>();
    Ok((
        input.clone().reshape([from[0], count, from[D - 1]]),
        output_gradient.clone().reshape([from[0], count, to[D - 1]]),
    ))
}

/// `‖Σ_t x_t g_tᵀ‖_F²`, `[examples]`, of `x` `[examples, positions, in]` and `g`
/// `[examples, positions, out]`.
fn product_squared_norms(x: Tensor<3>, g: Tensor<3>) -> Tensor<1> {
    let [_, positions, inputs] = x.dims();
    let outputs = g.dims()[2];
    let sum = |t: Tensor<3>| t.flatten::<2>(1, 2).sum_dim(1).squeeze_dim::<1>(1);
    if positions == 1 {
        sum(x.square()) * sum(g.square())
    } else if 2 * positions * positions < inputs * outputs {
        // [examples, positions, positions] each.
        let of_inputs = x.clone().matmul(x.transpose());
        let of_outputs = g.clone().matmul(g.transpose());
        // Rounding may make a 0 negative.
        sum(of_inputs * of_outputs).clamp_min(0.0)
    } else {
        sum(x.transpose().matmul(g).square())
    }
}

/// Gradients of a 2D convolution (weight `[examples, out, in / groups, kernel, kernel]`) from its
/// input, `[examples, in, height, width]`, and its output's gradient, `[examples, out, height,
/// width]`. Supports all strides, paddings, dilations and groups of Burn's layer.
///
/// # Errors
/// If the tensors do not fit the layer and each other.
pub fn conv2d_gradients(
    layer: &Conv2d,
    input: &Tensor<4>,
    output_gradient: &Tensor<4>,
) -> Result<LayerGradients<5>, PerExampleError> {
    let (patches, g) = conv2d_patches(layer, input, output_gradient)?;
    let examples = input.dims()[0];
    let [outputs, inputs, height, width] = layer.weight.dims();
    // [examples · groups, out / groups, (in / groups) · kernel]
    let weight = g.matmul(patches.transpose());
    Ok(LayerGradients {
        weight: weight.reshape([examples, outputs, inputs, height, width]),
        bias: conv2d_bias(output_gradient),
    })
}

/// Squared norms of the gradients of a 2D convolution, from what [`conv2d_gradients`] takes.
///
/// # Errors
/// As [`conv2d_gradients`].
pub fn conv2d_squared_norms(
    layer: &Conv2d,
    input: &Tensor<4>,
    output_gradient: &Tensor<4>,
) -> Result<SquaredNorms, PerExampleError> {
    let (patches, g) = conv2d_patches(layer, input, output_gradient)?;
    let examples = input.dims()[0];
    let of_groups = product_squared_norms(patches.transpose(), g.transpose());
    Ok(SquaredNorms {
        weight: of_groups
            .reshape([examples, layer.groups])
            .sum_dim(1)
            .squeeze_dim(1),
        bias: conv2d_bias(output_gradient)
            .square()
            .sum_dim(1)
            .squeeze_dim(1),
    })
}

/// `Σ_t g_t`, `[examples, out]`.
fn conv2d_bias(output_gradient: &Tensor<4>) -> Tensor<2> {
    let positions = output_gradient.clone().flatten::<3>(2, 3);
    positions.sum_dim(2).squeeze_dim(2)
}

/// Patches `[examples · groups, (in / groups) · kernel, positions]` of the input, and the output's
/// gradient as `[examples · groups, out / groups, positions]`.
fn conv2d_patches(
    layer: &Conv2d,
    input: &Tensor<4>,
    output_gradient: &Tensor<4>,
) -> Result<(Tensor<3>, Tensor<3>), PerExampleError> {
    let [examples, channels, height, width] = input.dims();
    let [outputs, group_channels, ..] = layer.weight.dims();
    if examples == 0 {
        return Err(PerExampleError::NoExamples);
    }
    if channels != group_channels * layer.groups {
        return Err(PerExampleError::Shape {
            what: "input",
            found: input.dims().to_vec(),
            expected: format!(
                "[examples, {}, height, width]",
                group_channels * layer.groups
            ),
        });
    }
    let kernel = layer.kernel_size;
    let size = [height, width];
    // Padding before and after, for height and width, as in Burn's layer.
    let padding: [(usize, usize); 2] = match layer.padding {
        PaddingConfig2d::Valid => [(0, 0); 2],
        PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)],
        PaddingConfig2d::Same => [0, 1].map(|d| {
            let steps = size[d].div_ceil(layer.stride[d]).saturating_sub(1);
            let total = (steps * layer.stride[d] + kernel[d]).saturating_sub(size[d]);
            (total / 2, total - total / 2)
        }),
    };
    let places = [0, 1].map(|d| {
        let extent = layer.dilation[d] * (kernel[d] - 1) + 1;
        let padded = size[d] + padding[d].0 + padding[d].1;
        padded
            .checked_sub(extent)
            .map_or(0, |rest| rest / layer.stride[d] + 1)
    });
    let expected = [examples, outputs, places[0], places[1]];
    if output_gradient.dims() != expected {
        return Err(PerExampleError::Shape {
            what: "gradient of the output",
            found: output_gradient.dims().to_vec(),
            expected: format!("{expected:?}"),
        });
    }
    // The padding may differ from side to side, which `unfold4d` does not know.
    let padded = if padding == [(0, 0); 2] {
        input.clone()
    } else {
        input.clone().pad(padding, PadMode::Constant(0.0))
    };
    let options = UnfoldOptions::new(layer.stride, [0, 0], layer.dilation);
    let patches = unfold4d(padded, kernel, options); // [examples, in · kernel, positions]
    let positions = places[0] * places[1];
    let rows = group_channels * kernel[0] * kernel[1];
    Ok((
        patches.reshape([examples * layer.groups, rows, positions]),
        output_gradient.clone().reshape([
            examples * layer.groups,
            outputs / layer.groups,
            positions,
        ]),
    ))
}

/// Gradients of an embedding of `count` vectors, `[examples, count, features]`, from the indices,
/// `[examples, positions]`, and the output's gradient, `[examples, positions, features]`.
///
/// # Errors
/// If the two tensors do not fit. Indices must be less than `count`; the result for other indices depends on
/// the backend.
pub fn embedding_gradients(
    count: usize,
    indices: &Tensor<2, Int>,
    output_gradient: &Tensor<3>,
) -> Result<Tensor<3>, PerExampleError> {
    let [examples, positions, features] = embedding_shape(indices, output_gradient)?;
    let zero = Tensor::zeros(
        [examples, count, features],
        (&output_gradient.device(), output_gradient.dtype()),
    );
    let indices = indices
        .clone()
        .unsqueeze_dim::<3>(2)
        .expand([examples, positions, features]);
    Ok(zero.scatter(1, indices, output_gradient.clone(), IndexingUpdateOp::Add))
}

/// Squared norms, `[examples]`, of the gradients of an embedding, from what [`embedding_gradients`]
/// takes: the Gram matrix of the one-hot inputs shows which indices are equal.
///
/// # Errors
/// If the two tensors do not fit.
pub fn embedding_squared_norms(
    indices: &Tensor<2, Int>,
    output_gradient: &Tensor<3>,
) -> Result<Tensor<1>, PerExampleError> {
    let [examples, positions, _] = embedding_shape(indices, output_gradient)?;
    let square = [examples, positions, positions];
    let rows = indices.clone().unsqueeze_dim::<3>(2).expand(square);
    let columns = indices.clone().unsqueeze_dim::<3>(1).expand(square);
    let g = output_gradient.clone();
    let gram = g.clone().matmul(g.transpose());
    let kept = gram.mask_fill(rows.not_equal(columns), 0.0);
    let sums = kept.reshape([examples, positions * positions]).sum_dim(1);
    // Rounding may make a 0 negative.
    Ok(sums.squeeze_dim(1).clamp_min(0.0))
}

fn embedding_shape(
    indices: &Tensor<2, Int>,
    output_gradient: &Tensor<3>,
) -> Result<[usize; 3], PerExampleError> {
    let [examples, positions] = indices.dims();
    let shape = output_gradient.dims();
    if shape[..2] != [examples, positions] {
        return Err(PerExampleError::Shape {
            what: "gradient of the output",
            found: shape.to_vec(),
            expected: format!("[{examples}, {positions}, features]"),
        });
    }
    if examples == 0 {
        return Err(PerExampleError::NoExamples);
    }
    Ok(shape)
}

/// Gradients of a layer normalisation, `γ` and `β` `[examples, features]`, from its input and its output's
/// gradient, `[examples, …, features]` both. `epsilon` must be that of the layer (Burn's default is 1e-5),
/// which does not expose it.
///
/// # Errors
/// If the shapes differ, or `epsilon` is negative or not finite.
pub fn layer_norm_gradients<const D: usize>(
    epsilon: f64,
    input: &Tensor<D>,
    output_gradient: &Tensor<D>,
) -> Result<LayerGradients<2>, PerExampleError> {
    same_shape(input, output_gradient)?;
    range::not_negative("epsilon of the normalisation", epsilon)?;
    let (x, g) = positions(input, output_gradient)?;
    let sum = |t: Tensor<3>| t.sum_dim(1).squeeze_dim(1);
    Ok(LayerGradients {
        weight: sum(normalised(x, epsilon) * g.clone()),
        bias: sum(g),
    })
}

/// Gradients of a group normalisation, `γ` and `β` `[examples, channels]`, from its input and its
/// output's gradient, `[examples, channels, …]` both.
///
/// # Errors
/// If the shapes differ, or are not those of the layer.
pub fn group_norm_gradients<const D: usize>(
    layer: &GroupNorm,
    input: &Tensor<D>,
    output_gradient: &Tensor<D>,
) -> Result<LayerGradients<2>, PerExampleError> {
    same_shape(input, output_gradient)?;
    range::not_negative("epsilon of the normalisation", layer.epsilon)?;
    let dims = input.dims();
    if D < 2 || dims[1] != layer.num_channels {
        return Err(PerExampleError::Shape {
            what: "input",
            found: dims.to_vec(),
            expected: format!("[examples, {}, …]", layer.num_channels),
        });
    }
    let (examples, channels) = (dims[0], dims[1]);
    if examples == 0 {
        return Err(PerExampleError::NoExamples);
    }
    let rest = dims[2..].iter().product::<usize>();
    let group = channels / layer.num_groups * rest;
    let x = input.clone().reshape([examples, layer.num_groups, group]);
    let x = normalised(x, layer.epsilon).reshape([examples, channels, rest]);
    let g = output_gradient.clone().reshape([examples, channels, rest]);
    let sum = |t: Tensor<3>| t.sum_dim(2).squeeze_dim(2);
    Ok(LayerGradients {
        weight: sum(x * g.clone()),
        bias: sum(g),
    })
}

/// Gradients of a [frozen](crate::training_mode::freeze_norms) batch normalisation, `γ` and `β`
/// `[examples, channels]`, from its input and its output's gradient, `[examples, channels, …]` both.
///
/// # Errors
/// If the layer is in training mode, or the shapes differ or are not those of the layer.
pub fn batch_norm_gradients<const D: usize>(
    layer: &BatchNorm,
    input: &Tensor<D>,
    output_gradient: &Tensor<D>,
) -> Result<LayerGradients<2>, PerExampleError> {
    if let Some(layer) = batch_norm_in_training(layer) {
        return Err(PerExampleError::Training { layer });
    }
    same_shape(input, output_gradient)?;
    range::not_negative("epsilon of the normalisation", layer.epsilon)?;
    let dims = input.dims();
    let [channels] = layer.gamma.lazy_shape().dims();
    if D < 2 || dims[1] != channels {
        return Err(PerExampleError::Shape {
            what: "input",
            found: dims.to_vec(),
            expected: format!("[examples, {channels}, …]"),
        });
    }
    let examples = dims[0];
    if examples == 0 {
        return Err(PerExampleError::NoExamples);
    }
    let rest = dims[2..].iter().product::<usize>();
    let shape = [examples, channels, rest];
    let x = input.clone().without_autodiff().reshape(shape);
    let g = output_gradient.clone().without_autodiff().reshape(shape);
    let statistic = |value: Tensor<1>| {
        let value = value.without_autodiff().to_device(&g.device());
        value.reshape([1, channels, 1])
    };
    let mean = statistic(layer.running_mean.value());
    let deviation = (statistic(layer.running_var.value()) + layer.epsilon).sqrt();
    let sum = |t: Tensor<3>| t.sum_dim(2).squeeze_dim(2);
    Ok(LayerGradients {
        weight: sum((x - mean) / deviation * g.clone()),
        bias: sum(g),
    })
}

/// `(x − μ)/√(σ² + ε)` over the last dimension.
fn normalised(x: Tensor<3>, epsilon: f64) -> Tensor<3> {
    let centred = x.clone() - x.mean_dim(2);
    let variance = centred.clone().square().mean_dim(2);
    centred / (variance + epsilon).sqrt()
}

fn same_shape<const D: usize>(
    input: &Tensor<D>,
    output_gradient: &Tensor<D>,
) -> Result<(), PerExampleError> {
    if input.dims() == output_gradient.dims() {
        Ok(())
    } else {
        Err(PerExampleError::Shape {
            what: "gradient of the output",
            found: output_gradient.dims().to_vec(),
            expected: format!("{:?} as that of the input", input.dims()),
        })
    }
}
