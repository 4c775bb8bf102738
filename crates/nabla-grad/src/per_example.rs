//! The gradient of every example of a batch.
//!
//! Differential privacy clips each example's gradient, M-FAC and the [empirical
//! Fisher](crate::curvature::EmpiricalFisher) are built from these gradients, and their scatter shows how
//! noisy a batch's gradient is. A backward pass gives only their sum. There are two ways to compute them,
//! both exact:
//!
//! * [`per_example_gradients`] runs every example separately: it works for any module, with `n` backward
//!   passes.
//! * Rules per layer need only one backward pass over the batch. With the layer's input `x` and the
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
//! Squared norms do not need the gradients. With one position, `‖∂L_i/∂W‖² = ‖x_i‖² ‖g_i‖²`
//! (Goodfellow); with `T` positions it is a sum over two Gram matrices,
//!
//! ```text
//! ‖∂L_i/∂W‖_F² = Σ_ts (x_itᵀ x_is)(g_itᵀ g_is)
//! ```
//!
//! (Li et al.). This sum is used if `2T²` is less than the number of weights; otherwise the gradient is
//! formed (Bu et al.).
//!
//! [`record`] applies a layer and keeps what a rule needs: the input, and a tensor of zeros that is added to
//! the output, so its gradient is the gradient of the output.
//!
//! **The loss must be the sum of the examples' losses.** For a mean, `∂L/∂(output of i)` is `1/n` times the
//! gradient of example `i`'s own loss; tell [`Recorded::output_gradient`] with its [`Reduction`]. A layer
//! that mixes examples (batch normalisation in training) has no per-example gradients at all, and is refused
//! with its name. If [frozen](crate::training_mode::freeze_norms), it is a norm like the others, with its
//! running statistics as `μ` and `σ²`.
//!
//! Sources: Goodfellow, *Efficient Per-Example Gradient Computations*, 2015, arXiv 1510.01799;
//! Rochette, Manoel, Tramel, *Efficient Per-Example Gradient Computations in Convolutional Neural
//! Networks*, 2019, arXiv 1912.06015; Li, Tramèr, Liang, Hashimoto, *Large Language Models Can Be
//! Strong Differentially Private Learners*, 2021, arXiv 2110.05679; Bu, Mao, Xu, *Scalable and
//! Efficient Training of Large Convolutional Neural Networks with Differential Privacy*, 2022, arXiv
//! 2205.10683.

mod layers;

use std::collections::HashMap;

use burn::config::Config;
use burn::module::{Module, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::kind::Autodiff;
use burn::tensor::{Float, Gradients, Tensor};
use nabla_base::range::{self, OutOfRange};

use crate::flat::{FlatError, ParameterLayout};
use crate::training_mode::{TrainingLayer, batch_norm_in_training, moved_since, statistics};

pub use layers::{
    LayerGradients, SquaredNorms, batch_norm_gradients, conv2d_gradients, conv2d_squared_norms,
    embedding_gradients, embedding_squared_norms, group_norm_gradients, layer_norm_gradients,
    linear_gradients, linear_squared_norms,
};

/// The reason why there are no per-example gradients.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PerExampleError {
    /// The batch has no examples.
    #[error("the batch has no examples")]
    NoExamples,
    /// The loss of one example is not one number.
    #[error("the loss of example {example} has {elements} elements, but it must have one")]
    LossShape {
        /// The example, from 0.
        example: usize,
        /// The number of elements of its loss.
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
    /// The loss does not depend on the recorded layer.
    #[error(
        "the output of the recorded layer has no gradient: record on an autodiff device, and use the \
         recorded output in the loss whose gradients are given"
    )]
    NotRecorded,
    /// A tensor does not fit the others.
    #[error("the {what} has the shape {found:?}, but {expected} is expected")]
    Shape {
        /// The tensor.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape that would fit.
        expected: String,
    },
    /// The output of a layer for one example depends on the other examples.
    #[error(
        "{layer} normalises by the batch, so no example has its own gradient: freeze it with \
         `training_mode::freeze_norms` and take `ParameterLayout::trainable`, or use another norm"
    )]
    Training {
        /// The layer.
        layer: TrainingLayer,
    },
    /// A layer makes the result of one example depend on another.
    #[error("a layer mixes the examples of the batch, so that none has a gradient of its own")]
    Mixed,
    /// A parameter's gradient comes from an operation that doesn't know examples.
    #[error(
        "the gradient of `{name}` comes from an operation that does not tell the examples apart: use the layers of \
         `nabla_kernels::nn` on the CPU, or `per_example_gradients`, which works for any module"
    )]
    Elsewhere {
        /// Name of the parameter.
        name: String,
    },
    /// The first dimension of a layer's output counts something else.
    #[error(
        "a layer's output has {rows} rows for {examples} examples: its first dimension must count the examples"
    )]
    Rows {
        /// The first dimension.
        rows: usize,
        /// The number of examples.
        examples: usize,
    },
    /// A pass changes statistics.
    #[error(
        "a pass over one example changes `{name}`, so the next example's gradient would be that of \
         another module: keep the statistics of normalisations fixed"
    )]
    Moved {
        /// Name of the tensor.
        name: String,
    },
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A parameter of the layout has no gradients.
    #[error("the parameter {name} has no per-example gradients")]
    Missing {
        /// Its name.
        name: String,
    },
    /// An error of flat vectors and modules.
    #[error(transparent)]
    Flat(#[from] FlatError),
}

/// Returns the gradient of each example's loss, `[examples, parameters]`, by one backward pass per example.
///
/// `loss` returns the loss, `[1]`, of the module on the example with this index (from 0) alone, as a batch of
/// one. It must not depend on the other examples. Parameters on which it does not depend have the gradient 0.
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

/// How the loss combines the losses of the examples.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
    /// Their sum times this factor.
    Scaled(f64),
}

impl Reduction {
    /// What the sum of the examples' losses is multiplied by.
    ///
    /// - `examples`: at least 1
    ///
    /// # Errors
    /// If it is 0 or not finite.
    pub fn factor(self, examples: usize) -> Result<f64, OutOfRange> {
        let factor = match self {
            Self::Sum => 1.0,
            Self::Mean => 1.0 / examples as f64,
            Self::Scaled(factor) => factor,
        };
        let fits = factor != 0.0 && factor.is_finite();
        range::check(fits, "factor of the loss", factor, "finite and not 0")?;
        Ok(factor)
    }
}

/// A recorded application of a layer, which reveals the gradient of its output; see [`record`].
#[derive(Clone, Debug)]
pub struct Recorded<const I: usize, const O: usize, K: Autodiff = Float> {
    input: Tensor<I, K>,
    zero: Tensor<O>,
}

/// Applies `layer` to `input` and records the application. Continue with the returned output.
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
    // Without autodiff there is nothing to record, and a layer that only predicts works as usual.
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
    /// If the loss does not depend on the layer, or the factor of the reduction is 0 or not finite.
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
            Reduction::Scaled(_) => {
                let factor = reduction.factor(gradient.dims()[0])?;
                Ok(gradient / factor)
            }
        }
    }
}

/// Gathers the layers' gradients into rows in the order of a [`ParameterLayout`], as
/// [`per_example_gradients`] does.
#[derive(Clone, Debug, Default)]
pub struct PerExampleGradients {
    /// `[examples, elements]` each.
    rows: HashMap<ParamId, Tensor<2>>,
}

impl PerExampleGradients {
    /// Starts without gradients.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds gradients `[examples, …]` of one parameter, with the parameter's shape after the examples.
    /// Gradients of a parameter that is used twice add up.
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
    /// If a parameter of the layout has no gradients.
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
mod tests;
