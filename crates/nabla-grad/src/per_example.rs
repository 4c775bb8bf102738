//! The gradient of every example of a batch.
//!
//! Differential privacy clips each example's gradient, M-FAC and the
//! [empirical Fisher](crate::curvature::EmpiricalFisher) are made of them, and their scatter tells how
//! noisy a batch's gradient is. A backward pass gives only their sum. Two ways to them, both exact:
//!
//! * [`per_example_gradients`] runs every example on its own: any module, `n` backward passes.
//! * Rules per layer, from one backward pass over the batch. With the layer's input `x` and the
//!   gradient `g` of the loss with respect to the layer's output (`i` counts examples, `t` the
//!   positions of a sequence or a picture):
//!
//! ```text
//! linear      ∂L_i/∂W = Σ_t x_it g_itᵀ            ∂L_i/∂b = Σ_t g_it
//! conv2d      ∂L_i/∂W = Σ_t g_it unfold(x)_itᵀ    ∂L_i/∂b = Σ_t g_it      (per group of channels)
//! embedding   ∂L_i/∂W = Σ_t e_(index it) g_itᵀ
//! norms       ∂L_i/∂γ = Σ_t x̂_it ⊙ g_it           ∂L_i/∂β = Σ_t g_it      x̂ = (x − μ)/√(σ² + ε)
//! ```
//!
//! Squared norms need no gradient to be formed. With one position, `‖∂L_i/∂W‖² = ‖x_i‖² ‖g_i‖²`
//! (Goodfellow); with `T` of them it is a sum over two Gram matrices,
//!
//! ```text
//! ‖∂L_i/∂W‖_F² = Σ_ts (x_itᵀ x_is)(g_itᵀ g_is)
//! ```
//!
//! (Li et al.), which is used where `2T²` is less than the number of weights, and the gradient is
//! formed where it is not (Bu et al.).
//!
//! [`record`] applies a layer and keeps what a rule needs: the input, and a tensor of zeros added to
//! the output, whose gradient is that of the output.
//!
//! **The loss must be the sum of the examples' losses.** Of a mean, `∂L/∂(output of i)` is `1/n` of
//! that of example `i`'s own loss; tell [`Recorded::output_gradient`] by its [`Reduction`]. A layer
//! that mixes examples (batch normalisation in training) has no per-example gradients at all, and is
//! refused by its name; [frozen](crate::training_mode::freeze_norms), it is a norm like the others,
//! with its running statistics as `μ` and `σ²`.
//!
//! Sources: Goodfellow, *Efficient Per-Example Gradient Computations*, 2015, arXiv 1510.01799;
//! Rochette, Manoel, Tramel, *Efficient Per-Example Gradient Computations in Convolutional Neural
//! Networks*, 2019, arXiv 1912.06015; Li, Tramèr, Liang, Hashimoto, *Large Language Models Can Be
//! Strong Differentially Private Learners*, 2021, arXiv 2110.05679; Bu, Mao, Xu, *Scalable and
//! Efficient Training of Large Convolutional Neural Networks with Differential Privacy*, 2022, arXiv
//! 2205.10683.

use std::collections::HashMap;

use burn::config::Config;
use burn::module::{Module, Param, ParamId};
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, GroupNorm, PaddingConfig2d};
use burn::optim::GradientsParams;
use burn::tensor::kind::Autodiff;
use burn::tensor::module::unfold4d;
use burn::tensor::ops::{PadMode, UnfoldOptions};
use burn::tensor::{Float, Gradients, IndexingUpdateOp, Int, Tensor};

use nabla_base::range::{self, OutOfRange};

use crate::flat::{FlatError, ParameterLayout};
use crate::training_mode::{TrainingLayer, batch_norm_in_training, moved_since, statistics};

/// Why there are no per-example gradients.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PerExampleError {
    /// A batch without examples.
    #[error("the batch has no examples")]
    NoExamples,
    /// The loss of one example is not one number.
    #[error("the loss of example {example} has {elements} elements, but it must have one")]
    LossShape {
        /// The example, from 0.
        example: usize,
        /// Elements of its loss.
        elements: usize,
    },
    /// The loss of one example is not computed from the parameters.
    #[error(
        "the loss of example {example} has no gradient: compute it from the module's parameters, \
         with the module on an autodiff device (`device.autodiff()`)"
    )]
    NoGradient {
        /// The example, from 0.
        example: usize,
    },
    /// The recorded layer has no part in the loss.
    #[error(
        "the output of the recorded layer has no gradient: record on an autodiff device, and use the \
         recorded output in the loss whose gradients are given"
    )]
    NotRecorded,
    /// A tensor that does not fit the others.
    #[error("the {what} has the shape {found:?}, but {expected} is expected")]
    Shape {
        /// The tensor.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// What would fit.
        expected: String,
    },
    /// A layer whose output for one example depends on the others.
    #[error(
        "{layer} normalises by the batch, so that no example has a gradient of its own: freeze it with \
         `training_mode::freeze_norms` and take `ParameterLayout::trainable`, or use another norm"
    )]
    Training {
        /// The layer.
        layer: TrainingLayer,
    },
    /// Statistics that a pass changes.
    #[error(
        "a pass over one example changes `{name}`, so that the next example's gradient is another \
         module's: keep the statistics of normalisations as they are"
    )]
    Moved {
        /// Name of the tensor.
        name: String,
    },
    /// A number out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A parameter of the layout has got no gradients.
    #[error("the parameter {name} has got no per-example gradients")]
    Missing {
        /// Its name.
        name: String,
    },
    /// Flat vectors and modules.
    #[error(transparent)]
    Flat(#[from] FlatError),
}

/// The gradient of each example's loss, `[examples, parameters]`, by one backward pass per example.
///
/// `loss` gives the loss, `[1]`, of the module on the example with this index (from 0) alone: a batch
/// of one. It must not depend on the other examples. Parameters on which it does not depend have the
/// gradient 0.
///
/// # Errors
/// If there are no examples, a loss is not one number with a gradient, the layout is not that of
/// the module, a batch normalisation is in training mode (also one whose parameters are frozen; see
/// [`crate::training_mode`]), or a pass changes the module's statistics.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::flat::ParameterLayout;
/// use nabla_grad::per_example::per_example_gradients;
///
/// let device = Device::flex().autodiff();
/// let module: Linear = LinearConfig::new(2, 1).init(&device);
/// let x = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device);
/// let layout = ParameterLayout::trainable(&module)?;
/// let gradients = per_example_gradients(&module, &layout, 2, |module: &Linear, i| {
///     module.forward(x.clone().narrow(0, i, 1)).sum()
/// })?;
/// let values = gradients.into_data().try_to_vec::<f32>()?; // weight, weight, bias; two examples
/// assert_eq!(values, [1.0, 2.0, 1.0, 3.0, 4.0, 1.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn per_example_gradients<M: Module>(
    module: &M,
    layout: &ParameterLayout,
    examples: usize,
    loss: impl Fn(&M, usize) -> Tensor<1>,
) -> Result<Tensor<2>, PerExampleError> {
    if examples == 0 {
        return Err(PerExampleError::NoExamples);
    }
    if let Some(layer) = batch_norm_in_training(module) {
        return Err(PerExampleError::Training { layer });
    }
    let before = statistics(module);
    let rows = (0..examples).map(|example| {
        let loss = loss(module, example);
        let elements = loss.dims()[0];
        if elements != 1 {
            return Err(PerExampleError::LossShape { example, elements });
        }
        if !loss.is_tracked() {
            return Err(PerExampleError::NoGradient { example });
        }
        let gradients = GradientsParams::from_grads(loss.backward(), module);
        Ok(layout.flatten_gradients_or_zeros(&gradients)?)
    });
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    match moved_since(&before, module) {
        Some(name) => Err(PerExampleError::Moved { name }),
        None => Ok(Tensor::stack(rows, 0)),
    }
}

/// How the loss was put together from those of the examples.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// Their sum times this factor.
    Scaled(f64),
}

/// What a layer was applied to, and what makes its output's gradient known; see [`record`].
#[derive(Clone, Debug)]
pub struct Recorded<const I: usize, const O: usize, K: Autodiff = Float> {
    input: Tensor<I, K>,
    zero: Tensor<O>,
}

/// Applies `layer` to `input` and records the application. Go on with the returned output.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
/// use nabla_grad::per_example::{Reduction, linear_gradients, record};
///
/// let device = Device::flex().autodiff();
/// let layer = LinearConfig::new(2, 3).init(&device);
/// let x = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device);
/// let (y, recorded) = record(x, |x| layer.forward(x));
/// let loss = y.square().mean_dim(1).mean(); // a mean over examples
/// let g = recorded.output_gradient(&loss.backward(), Reduction::Mean)?; // [batch, 3]
/// let gradients = linear_gradients(recorded.input(), &g)?;
/// assert_eq!(gradients.weight.dims(), [2, 2, 3]); // [batch, in, out]
/// # Ok::<(), nabla_grad::per_example::PerExampleError>(())
/// ```
pub fn record<const I: usize, const O: usize, K: Autodiff>(
    input: Tensor<I, K>,
    layer: impl FnOnce(Tensor<I, K>) -> Tensor<O>,
) -> (Tensor<O>, Recorded<I, O, K>) {
    let output = layer(input.clone());
    let zero = Tensor::<O>::zeros(output.dims(), (&output.device(), output.dtype()));
    // Off autodiff there is nothing to record, and a layer that only predicts goes on as ever.
    let zero = zero.set_require_grad(output.is_autodiff());
    let recorded = Recorded {
        input: input.without_autodiff(),
        zero: zero.clone(),
    };
    (output + zero, recorded)
}

impl<const I: usize, const O: usize, K: Autodiff> Recorded<I, O, K> {
    /// The layer's input, without autodiff.
    pub fn input(&self) -> &Tensor<I, K> {
        &self.input
    }

    /// The gradient of each example's own loss with respect to the layer's output.
    ///
    /// # Errors
    /// If the layer has no part in the loss, or the factor of the reduction is 0 or not finite.
    pub fn output_gradient(
        &self,
        gradients: &Gradients,
        reduction: Reduction,
    ) -> Result<Tensor<O>, PerExampleError> {
        let gradient = self
            .zero
            .grad(gradients)
            .ok_or(PerExampleError::NotRecorded)?;
        match reduction {
            Reduction::Sum => Ok(gradient),
            Reduction::Mean => {
                let examples = gradient.dims()[0] as f64;
                Ok(gradient * examples)
            }
            Reduction::Scaled(factor) => {
                let fits = factor != 0.0 && factor.is_finite();
                range::check(fits, "factor of the loss", factor, "finite and not 0")?;
                Ok(gradient / factor)
            }
        }
    }
}

/// Per-example gradients of a layer, the first dimension of each is the example.
#[derive(Clone, Debug)]
pub struct LayerGradients<const W: usize> {
    /// Of the weight (`γ` of a norm): `[examples, …]` with the weight's own shape.
    pub weight: Tensor<W>,
    /// Of the bias (`β` of a norm): `[examples, bias]`. Computed whether or not the layer has one.
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

/// Squared norms of a layer's per-example gradients. Those of all parameters of a module add up, if
/// no parameter is used twice in a pass.
#[derive(Clone, Debug)]
pub struct SquaredNorms {
    /// Of the weight's gradient, `[examples]`.
    pub weight: Tensor<1>,
    /// Of the bias's gradient, `[examples]`. Computed whether or not the layer has one.
    pub bias: Tensor<1>,
}

/// Gradients of a linear layer (weight `[examples, in, out]`, as Burn lays it out) from its input,
/// `[examples, …, in]`, and its output's gradient, `[examples, …, out]`.
///
/// # Errors
/// If the two differ in more than the last dimension, or have fewer than two.
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
        // What is 0 may come out negative by rounding.
        sum(of_inputs * of_outputs).clamp_min(0.0)
    } else {
        sum(x.transpose().matmul(g).square())
    }
}

/// Gradients of a 2D convolution (weight `[examples, out, in / groups, kernel, kernel]`) from its
/// input, `[examples, in, height, width]`, and its output's gradient, `[examples, out, height,
/// width]`. All strides, paddings, dilations and groups of Burn's layer.
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
    // Before and after, for height and width; as Burn's layer does it.
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
/// If the two tensors do not fit. Indices must be less than `count`; backends differ in what they do
/// with others.
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
/// takes: the Gram matrix of the one-hot inputs tells which indices are equal.
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
    // What is 0 may come out negative by rounding.
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

/// Gradients of a layer normalisation, `γ` and `β` `[examples, features]`, from its input and its
/// output's gradient, `[examples, …, features]` both. `epsilon` is that of the layer (Burn's default
/// is 1e-5), which does not give it away.
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

/// Gathers the layers' gradients into rows in the order of a [`ParameterLayout`], as
/// [`per_example_gradients`] gives them.
#[derive(Clone, Debug, Default)]
pub struct PerExampleGradients {
    /// `[examples, elements]` each.
    rows: HashMap<ParamId, Tensor<2>>,
}

impl PerExampleGradients {
    /// Starts with none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds gradients `[examples, …]` of one parameter, with its own shape behind the examples; those
    /// of a parameter that is used twice add up.
    ///
    /// # Errors
    /// If the shape does not fit the parameter or the examples so far, or there are no examples.
    pub fn add<const P: usize, const G: usize>(
        &mut self,
        parameter: &Param<Tensor<P>>,
        gradients: Tensor<G>,
    ) -> Result<(), PerExampleError> {
        let shape = gradients.dims();
        let own = parameter.lazy_shape();
        let examples = match self.rows.values().next() {
            Some(rows) => rows.dims()[0],
            None => shape.first().copied().unwrap_or(0),
        };
        if shape.first() != Some(&examples) || shape[1..] != own[..] {
            return Err(PerExampleError::Shape {
                what: "gradient of a parameter",
                found: shape.to_vec(),
                expected: format!("[{examples}, …] with the parameter's {:?}", &own[..]),
            });
        }
        if examples == 0 {
            return Err(PerExampleError::NoExamples);
        }
        let mut rows = gradients.reshape([examples, own.num_elements()]);
        if let Some(before) = self.rows.remove(&parameter.id) {
            rows = before + rows;
        }
        self.rows.insert(parameter.id, rows);
        Ok(())
    }

    /// `[examples, parameters]`.
    ///
    /// # Errors
    /// If a parameter of the layout has got no gradients.
    pub fn flatten(&self, layout: &ParameterLayout) -> Result<Tensor<2>, PerExampleError> {
        let rows = layout.entries().iter().map(|entry| {
            self.rows
                .get(&entry.id())
                .cloned()
                .ok_or_else(|| PerExampleError::Missing {
                    name: entry.name().to_owned(),
                })
        });
        Ok(Tensor::cat(rows.collect::<Result<Vec<_>, _>>()?, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::conv::Conv2dConfig;
    use burn::nn::{
        BatchNormConfig, Embedding, EmbeddingConfig, GroupNormConfig, LayerNorm, LayerNormConfig,
        Linear, LinearConfig, LinearLayout,
    };
    use burn::tensor::{Device, TensorData};

    use crate::seeded_noise::SeededNoise;
    use crate::training_mode::freeze_norms;

    fn device() -> Device {
        Device::flex().autodiff()
    }

    /// A loss whose gradient with respect to the output is not constant and differs everywhere.
    fn some_loss<const D: usize>(output: Tensor<D>, weights: Tensor<D>) -> Tensor<1> {
        (output.tanh() * weights).sum()
    }

    fn noise<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
        SeededNoise::new(seed, 0).normal(shape, &device())
    }

    /// Draws anew whatever the layer was initialised with (a norm's γ = 1 and β = 0).
    fn redrawn<M: Module>(module: M, seed: u64) -> (M, ParameterLayout) {
        let layout = ParameterLayout::of(&module).unwrap();
        let length = layout.total_length();
        let vector = SeededNoise::new(seed, 0).normal([length], &Device::flex());
        (layout.with_parameters(module, vector).unwrap(), layout)
    }

    fn assert_near<const D: usize>(found: &Tensor<D>, expected: &Tensor<D>, what: &str) {
        assert_eq!(found.dims(), expected.dims(), "{what}");
        let found = found.to_data().try_to_vec::<f32>().unwrap();
        let expected = expected.to_data().try_to_vec::<f32>().unwrap();
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{what}: {a} {b}");
        }
    }

    /// Runs `forward` on the batch and on each example alone; checks the rows against each other, the
    /// sum of the rows against the batch's gradient, and the squared norms against the rows.
    fn check<M: Module, const I: usize, const O: usize, K: Autodiff>(
        what: &str,
        (module, layout): (M, ParameterLayout),
        input: Tensor<I, K>,
        output_shape: [usize; O],
        forward: impl Fn(&M, Tensor<I, K>) -> Tensor<O>,
        rows: impl Fn(
            &M,
            &Tensor<I, K>,
            &Tensor<O>,
        ) -> Result<(PerExampleGradients, Tensor<1>), PerExampleError>,
    ) {
        let examples = input.dims()[0];
        let weights = noise(output_shape, 99);
        let one_by_one = per_example_gradients(&module, &layout, examples, |module, i| {
            let output = forward(module, input.clone().narrow(0, i, 1));
            some_loss(output, weights.clone().narrow(0, i, 1))
        })
        .unwrap();

        let (output, recorded) = record(input, |x| forward(&module, x));
        assert_eq!(output.dims(), output_shape, "{what}");
        let gradients = some_loss(output, weights).backward();
        let g = recorded
            .output_gradient(&gradients, Reduction::Sum)
            .unwrap();
        let (found, squared_norms) = rows(&module, recorded.input(), &g).unwrap();
        let found = found.flatten(&layout).unwrap();
        assert_near(&found, &one_by_one, what);
        let expected = one_by_one.clone().square().sum_dim(1).squeeze_dim(1);
        assert_near(&squared_norms, &expected, what);

        let batch = GradientsParams::from_grads(gradients, &module);
        let batch = layout.flatten_gradients(&batch).unwrap();
        assert_near(&one_by_one.sum_dim(0).squeeze_dim(0), &batch, what);
    }

    fn check_linear<const D: usize>(layer: Linear, shape: [usize; D], seed: u64) {
        let mut output_shape = shape;
        output_shape[D - 1] = layer.weight.dims()[1];
        check(
            &format!("linear {shape:?}"),
            redrawn(layer, seed),
            noise(shape, seed + 1),
            output_shape,
            |layer: &Linear, x| layer.forward(x),
            |layer, x, g| {
                let gradients = linear_gradients(x, g)?;
                let norms = linear_squared_norms(x, g)?;
                let formed = gradients.squared_norms();
                assert_near(&norms.weight, &formed.weight, "weight's norms");
                assert_near(&norms.bias, &formed.bias, "bias's norms");
                let mut rows = PerExampleGradients::new();
                rows.add(&layer.weight, gradients.weight)?;
                let squared_norms = match &layer.bias {
                    Some(bias) => {
                        rows.add(bias, gradients.bias)?;
                        norms.weight + norms.bias
                    }
                    None => norms.weight,
                };
                Ok((rows, squared_norms))
            },
        );
    }

    #[test]
    fn linear_layers_are_those_of_single_examples() {
        let layer = |inputs, outputs| LinearConfig::new(inputs, outputs);
        check_linear(layer(5, 3).init(&device()), [4, 5], 1);
        check_linear(layer(5, 3).with_bias(false).init(&device()), [4, 5], 2);
        // Few positions: Gram matrices; many: formed gradients.
        check_linear(layer(9, 8).init(&device()), [3, 4, 9], 3);
        check_linear(layer(2, 3).init(&device()), [3, 7, 2], 4);
        check_linear(layer(3, 4).init(&device()), [2, 3, 2, 3], 5);
        check_linear(layer(6, 1).init(&device()), [1, 6], 6);
        let transposed = layer(4, 6).with_layout(LinearLayout::Col);
        check_linear(transposed.init(&device()), [3, 2, 4], 7);
    }

    #[test]
    fn convolutions_are_those_of_single_examples() {
        let config = |channels, kernel| Conv2dConfig::new(channels, kernel);
        let explicit = PaddingConfig2d::Explicit;
        let cases = [
            (config([3, 4], [3, 3]), [5, 6]),
            (config([2, 3], [1, 1]).with_bias(false), [3, 2]),
            (config([2, 3], [3, 2]).with_stride([2, 1]), [8, 5]),
            (
                config([2, 2], [3, 3]).with_padding(explicit(1, 1, 1, 1)),
                [4, 5],
            ),
            // Top, left, bottom and right all differ, and the stride leaves a rest.
            (
                config([2, 2], [3, 3])
                    .with_padding(explicit(0, 1, 2, 3))
                    .with_stride([2, 3]),
                [6, 7],
            ),
            (config([2, 3], [3, 2]).with_dilation([2, 3]), [7, 6]),
            (config([4, 6], [3, 3]).with_groups(2), [5, 5]),
            // Depthwise.
            (
                config([4, 4], [3, 3])
                    .with_groups(4)
                    .with_padding(PaddingConfig2d::Same),
                [4, 5],
            ),
            (
                config([2, 2], [4, 2]).with_padding(PaddingConfig2d::Same),
                [5, 4],
            ),
            (
                config([4, 2], [3, 3])
                    .with_stride([2, 2])
                    .with_dilation([2, 2])
                    .with_padding(explicit(2, 2, 2, 2))
                    .with_groups(2),
                [7, 8],
            ),
            // Few positions and many weights: Gram matrices.
            (config([6, 8], [3, 3]), [4, 4]),
            (config([6, 8], [3, 3]), [3, 3]),
        ];
        for (seed, (config, [height, width])) in cases.into_iter().enumerate() {
            let layer = config.init(&device());
            let x = noise([3, config.channels[0], height, width], 40 + seed as u64);
            let output_shape = layer.forward(x.clone()).dims();
            check(
                &config.to_string(),
                redrawn(layer, seed as u64),
                x,
                output_shape,
                |layer: &Conv2d, x| layer.forward(x),
                |layer, x, g| {
                    let gradients = conv2d_gradients(layer, x, g)?;
                    let norms = conv2d_squared_norms(layer, x, g)?;
                    let mut rows = PerExampleGradients::new();
                    rows.add(&layer.weight, gradients.weight)?;
                    let squared_norms = match &layer.bias {
                        Some(bias) => {
                            rows.add(bias, gradients.bias)?;
                            norms.weight + norms.bias
                        }
                        None => norms.weight,
                    };
                    Ok((rows, squared_norms))
                },
            );
        }
    }

    fn indices() -> Tensor<2, Int> {
        // Repeated within an example and among examples; 3 never occurs.
        let indices = TensorData::from([[0, 1, 1, 4], [2, 2, 2, 2], [4, 0, 1, 2]]);
        Tensor::from_data(indices, &device())
    }

    #[test]
    fn embeddings_are_those_of_single_examples() {
        check(
            "embedding",
            redrawn(EmbeddingConfig::new(5, 3).init(&device()), 1),
            indices(),
            [3, 4, 3],
            |layer: &Embedding, indices| layer.forward(indices),
            |layer, indices, g| {
                let mut rows = PerExampleGradients::new();
                rows.add(&layer.weight, embedding_gradients(5, indices, g)?)?;
                Ok((rows, embedding_squared_norms(indices, g)?))
            },
        );
    }

    fn check_layer_norm<const D: usize>(shape: [usize; D], epsilon: f64) {
        let config = LayerNormConfig::new(shape[D - 1]).with_epsilon(epsilon);
        check(
            &format!("layer norm {shape:?}"),
            redrawn(config.init(&device()), 8),
            noise(shape, 9),
            shape,
            |layer: &LayerNorm, x| layer.forward(x),
            |layer, x, g| {
                let gradients = layer_norm_gradients(epsilon, x, g)?;
                let norms = gradients.squared_norms();
                let mut rows = PerExampleGradients::new();
                rows.add(&layer.gamma, gradients.weight)?;
                if let Some(beta) = &layer.beta {
                    rows.add(beta, gradients.bias)?;
                }
                Ok((rows, norms.weight + norms.bias))
            },
        );
    }

    fn check_group_norm<const D: usize>(groups: usize, shape: [usize; D]) {
        let config = GroupNormConfig::new(groups, shape[1]).with_epsilon(1e-2);
        check(
            &format!("group norm {groups} {shape:?}"),
            redrawn(config.init(&device()), 8),
            noise(shape, 9),
            shape,
            |layer: &GroupNorm, x| layer.forward(x),
            |layer, x, g| {
                let gradients = group_norm_gradients(layer, x, g)?;
                let norms = gradients.squared_norms();
                let mut rows = PerExampleGradients::new();
                if let (Some(gamma), Some(beta)) = (&layer.gamma, &layer.beta) {
                    rows.add(gamma, gradients.weight)?;
                    rows.add(beta, gradients.bias)?;
                }
                Ok((rows, norms.weight + norms.bias))
            },
        );
    }

    #[test]
    fn norms_are_those_of_single_examples() {
        check_layer_norm([4, 6], 1e-5);
        check_layer_norm([3, 5, 4], 1e-1);
        check_layer_norm([2, 3, 2, 7], 1e-5);
        check_group_norm(1, [3, 4, 5, 2]);
        check_group_norm(2, [3, 6, 3, 3]);
        check_group_norm(4, [2, 4, 5]);
    }

    #[test]
    fn frozen_batch_norms_are_those_of_single_examples() {
        fn check_batch_norm<const D: usize>(shape: [usize; D]) {
            let layer = BatchNormConfig::new(shape[1]).init(&device());
            // Statistics of its own, then γ and β.
            let layer = {
                layer.forward(noise(shape, 5) * 3.0 + 1.0);
                layer.forward(noise(shape, 6));
                freeze_norms(layer)
            };
            let layout = ParameterLayout::trainable(&layer).unwrap();
            let vector = SeededNoise::new(8, 0).normal([layout.total_length()], &Device::flex());
            let layer = layout.with_parameters(layer, vector).unwrap();
            check(
                &format!("batch norm {shape:?}"),
                (layer, layout),
                noise(shape, 9),
                shape,
                |layer: &BatchNorm, x| layer.forward(x),
                |layer, x, g| {
                    let gradients = batch_norm_gradients(layer, x, g)?;
                    let norms = gradients.squared_norms();
                    let mut rows = PerExampleGradients::new();
                    rows.add(&layer.gamma, gradients.weight)?;
                    rows.add(&layer.beta, gradients.bias)?;
                    Ok((rows, norms.weight + norms.bias))
                },
            );
        }
        check_batch_norm([5, 3]);
        check_batch_norm([4, 3, 6]);
        check_batch_norm([3, 2, 4, 5]);

        let training = BatchNormConfig::new(2).init(&device());
        let x = noise([3, 2], 1);
        let refused = batch_norm_gradients(&training, &x, &x).unwrap_err();
        assert!(
            matches!(refused, PerExampleError::Training { .. }),
            "{refused}"
        );
        let frozen = freeze_norms(training);
        let x = noise([3, 4], 1);
        let refused = batch_norm_gradients(&frozen, &x, &x).unwrap_err();
        assert!(
            matches!(refused, PerExampleError::Shape { .. }),
            "{refused}"
        );
    }

    #[derive(Module, Debug)]
    struct Network {
        embedding: Embedding,
        convolution: Conv2d,
        norm: GroupNorm,
        shared: Linear,
    }

    impl Network {
        fn loss(&self, indices: Tensor<2, Int>) -> Tensor<1> {
            let x = self.embedding.forward(indices).unsqueeze_dim::<4>(1);
            let x = self.norm.forward(self.convolution.forward(x)).tanh();
            // Twice the same layer.
            let x = self.shared.forward(x).tanh();
            self.shared.forward(x).square().sum()
        }
    }

    #[test]
    fn the_rules_of_a_whole_network_give_the_rows_of_single_examples() {
        let network = Network {
            embedding: EmbeddingConfig::new(5, 6).init(&device()),
            convolution: Conv2dConfig::new([1, 4], [3, 3]).init(&device()),
            norm: GroupNormConfig::new(2, 4).init(&device()),
            shared: LinearConfig::new(4, 4).init(&device()),
        };
        let (network, layout) = redrawn(network, 3);
        let one_by_one = per_example_gradients(&network, &layout, 3, |network, i| {
            network.loss(indices().narrow(0, i, 1))
        })
        .unwrap();

        let (x, embedding) = record(indices(), |x| network.embedding.forward(x));
        let x = x.unsqueeze_dim::<4>(1);
        let (x, convolution) = record(x, |x| network.convolution.forward(x));
        let (x, norm) = record(x, |x| network.norm.forward(x));
        let (x, first) = record(x.tanh(), |x| network.shared.forward(x));
        let (x, second) = record(x.tanh(), |x| network.shared.forward(x));
        let gradients = x.square().sum().backward();

        let mut rows = PerExampleGradients::new();
        let g = embedding
            .output_gradient(&gradients, Reduction::Sum)
            .unwrap();
        let found = embedding_gradients(5, embedding.input(), &g).unwrap();
        rows.add(&network.embedding.weight, found).unwrap();
        let g = convolution
            .output_gradient(&gradients, Reduction::Sum)
            .unwrap();
        let found = conv2d_gradients(&network.convolution, convolution.input(), &g).unwrap();
        let bias = network.convolution.bias.as_ref().unwrap();
        rows.add(&network.convolution.weight, found.weight).unwrap();
        rows.add(bias, found.bias).unwrap();
        let g = norm.output_gradient(&gradients, Reduction::Sum).unwrap();
        let found = group_norm_gradients(&network.norm, norm.input(), &g).unwrap();
        let (gamma, beta) = (&network.norm.gamma, &network.norm.beta);
        rows.add(gamma.as_ref().unwrap(), found.weight).unwrap();
        rows.add(beta.as_ref().unwrap(), found.bias).unwrap();
        assert!(matches!(
            rows.flatten(&layout),
            Err(PerExampleError::Missing { name }) if name == "shared.weight"
        ));
        for shared in [&first, &second] {
            let g = shared.output_gradient(&gradients, Reduction::Sum).unwrap();
            let found = linear_gradients(shared.input(), &g).unwrap();
            let bias = network.shared.bias.as_ref().unwrap();
            rows.add(&network.shared.weight, found.weight).unwrap();
            rows.add(bias, found.bias).unwrap();
        }
        assert_near(&rows.flatten(&layout).unwrap(), &one_by_one, "network");
    }

    #[test]
    fn a_mean_or_scaled_loss_is_taken_back_to_the_examples_own() {
        let (layer, layout) = redrawn::<Linear>(LinearConfig::new(4, 3).init(&device()), 2);
        let x = noise([6, 4], 3);
        let each = |y: Tensor<2>| y.tanh().sum_dim(1).square();
        let expected = per_example_gradients(&layer, &layout, 6, |layer, i| {
            each(layer.forward(x.clone().narrow(0, i, 1))).sum()
        })
        .unwrap();
        for reduction in [Reduction::Sum, Reduction::Mean, Reduction::Scaled(-2.5)] {
            let (y, recorded) = record(x.clone(), |x| layer.forward(x));
            let loss = match reduction {
                Reduction::Sum => each(y).sum(),
                Reduction::Mean => each(y).mean(),
                Reduction::Scaled(factor) => each(y).sum() * factor,
            };
            let gradients = loss.backward();
            let g = recorded.output_gradient(&gradients, reduction).unwrap();
            let found = linear_gradients(recorded.input(), &g).unwrap();
            let mut rows = PerExampleGradients::new();
            rows.add(&layer.weight, found.weight).unwrap();
            rows.add(layer.bias.as_ref().unwrap(), found.bias).unwrap();
            let what = format!("{reduction:?}");
            assert_near(&rows.flatten(&layout).unwrap(), &expected, &what);
        }
    }

    #[test]
    fn the_mean_of_the_rows_is_the_gradient_of_the_mean() {
        let (layer, layout) = redrawn::<Linear>(LinearConfig::new(4, 3).init(&device()), 2);
        let x = noise([6, 4], 3);
        let each = |layer: &Linear, x| layer.forward(x).tanh().sum_dim(1).square();
        let rows = per_example_gradients(&layer, &layout, 6, |layer, i| {
            each(layer, x.clone().narrow(0, i, 1)).sum()
        })
        .unwrap();
        let loss = each(&layer, x).mean();
        let batch = GradientsParams::from_grads(loss.backward(), &layer);
        let batch = layout.flatten_gradients(&batch).unwrap();
        assert_near(&rows.mean_dim(0).squeeze_dim(0), &batch, "mean");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (layer, layout) = redrawn::<Linear>(LinearConfig::new(2, 3).init(&device()), 2);
        let run = |examples, loss: fn(&Linear) -> Tensor<1>| {
            per_example_gradients(&layer, &layout, examples, |layer, _| loss(layer)).unwrap_err()
        };
        assert_eq!(
            run(0, |layer| layer.weight.val().sum()),
            PerExampleError::NoExamples
        );
        assert_eq!(
            run(1, |_| Tensor::zeros([2], &device())),
            PerExampleError::LossShape {
                example: 0,
                elements: 2
            }
        );
        assert_eq!(
            run(1, |_| Tensor::zeros([1], &device())),
            PerExampleError::NoGradient { example: 0 }
        );

        // Off the autodiff device, and in another loss.
        let (_, unrecorded) = record(noise([2, 2], 1).inner(), |x| x);
        let (_, elsewhere) = record(noise([2, 2], 1), |x| layer.forward(x));
        let loss = layer.weight.val().sum();
        let gradients = loss.backward();
        for recorded in [&unrecorded, &elsewhere] {
            let refused = recorded.output_gradient(&gradients, Reduction::Sum);
            assert_eq!(refused.unwrap_err(), PerExampleError::NotRecorded);
        }
        let (y, recorded) = record(noise([2, 2], 1), |x| layer.forward(x));
        let gradients = y.sum().backward();
        for factor in [0.0, f64::NAN] {
            let refused = recorded.output_gradient(&gradients, Reduction::Scaled(factor));
            assert!(matches!(refused, Err(PerExampleError::Range(_))));
        }

        let shape = |refused: PerExampleError| {
            assert!(
                matches!(refused, PerExampleError::Shape { .. }),
                "{refused}"
            );
        };
        let t = |dims: [usize; 3]| Tensor::<3>::zeros(dims, &device());
        shape(linear_gradients(&t([2, 3, 4]), &t([2, 2, 4])).unwrap_err());
        shape(linear_squared_norms(&t([2, 3, 4]), &t([1, 3, 4])).unwrap_err());
        let one = Tensor::<1>::zeros([3], &device());
        shape(linear_gradients(&one, &one).unwrap_err());
        shape(layer_norm_gradients(1e-5, &t([2, 3, 4]), &t([2, 3, 5])).unwrap_err());
        shape(embedding_gradients(5, &indices(), &t([3, 3, 2])).unwrap_err());
        let norm = GroupNormConfig::new(1, 2).init(&device());
        shape(group_norm_gradients(&norm, &t([2, 3, 4]), &t([2, 3, 4])).unwrap_err());
        let conv = Conv2dConfig::new([2, 3], [3, 3]).init(&device());
        let t = |dims: [usize; 4]| Tensor::<4>::zeros(dims, &device());
        let refused = [
            conv2d_gradients(&conv, &t([1, 3, 5, 5]), &t([1, 3, 3, 3])),
            conv2d_gradients(&conv, &t([1, 2, 5, 5]), &t([1, 3, 3, 2])),
            // Too small for the kernel.
            conv2d_gradients(&conv, &t([1, 2, 2, 5]), &t([1, 3, 1, 3])),
        ];
        refused.into_iter().for_each(|r| shape(r.unwrap_err()));
        assert!(matches!(
            layer_norm_gradients(-1.0, &noise([2, 3], 1), &noise([2, 3], 2)),
            Err(PerExampleError::Range(_))
        ));
        let empty = Tensor::<2>::zeros([0, 2], &device());
        assert!(matches!(
            linear_gradients(&empty, &empty),
            Err(PerExampleError::NoExamples)
        ));

        let mut rows = PerExampleGradients::new();
        rows.add(&layer.weight, noise([4, 2, 3], 1)).unwrap();
        shape(rows.add(&layer.weight, noise([4, 3, 2], 1)).unwrap_err());
        shape(rows.add(&layer.weight, noise([5, 2, 3], 1)).unwrap_err());
    }
}
