//! The gradient of every example of a batch, from one backward pass over the batch.
//!
//! [`backward`] runs the backward pass of a loss that is a sum over examples. Layers of this crate don't compute the
//! gradients by their parameters then, but keep what these follow from, the input `x` and the gradient `g` by the output.
//! With `g_i`, that of example `i`, any of the following is exact and needs no further pass through the network:
//!
//! | | |
//! |---|---|
//! | [`squared_norms`](ExampleGradients::squared_norms) | `‖∂L_i/∂θ‖²`, of which no gradient is kept |
//! | [`weighted`](ExampleGradients::weighted) | `Σ_i w_i ∂L_i/∂θ`, as fast as the gradient of the batch: `∂L/∂θ` is linear in `g`, so that each `g_i` is multiplied by its weight first |
//! | [`rows`](ExampleGradients::rows) | `∂L_i/∂θ` themselves |
//!
//! The gradients of a layer with fewer numbers than its input and output are made at once and kept instead of these.
//! The first two are what private training needs: the gradients are clipped to the norm `C` by the weights
//! `w_i = min(1, C/‖∂L_i/∂θ‖)`.
//!
//! The squared norm of a product's gradient takes one of two ways (Li et al.; Bu et al.). With `T` positions of the
//! example, `‖Σ_t x_t g_tᵀ‖² = Σ_ts (x_tᵀ x_s)(g_tᵀ g_s)` where this takes less arithmetic; elsewhere the gradient of one
//! example after another is made and forgotten. Convolutions are products of neighbourhoods of positions.
//!
//! # What is needed
//! - The layers are those of [`nn`](crate::nn) or the functions of this crate, on the CPU backend. A parameter whose
//!   gradient comes from another operation is refused by its name;
//!   [`per_example_gradients`](nabla_grad::per_example::per_example_gradients) works for any module.
//! - The first dimension of what every layer sees counts examples. A batch normalization in training mixes them and is
//!   refused.
//! - A parameter may be used several times: its gradients add up, also within a norm.
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::tensor::{Device, Tensor};
//! use nabla_grad::per_example::Reduction;
//! use nabla_kernels::nn::Linear;
//! use nabla_kernels::per_example::backward;
//!
//! let device = Device::flex().autodiff();
//! let layer: Linear = LinearConfig::new(2, 1).init(&device).into();
//! let x = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device);
//! let loss = layer.forward(x).sum(); // over the examples
//! let gradients = backward(loss, 2, Reduction::Sum)?;
//! let norms = gradients.squared_norms(&layer)?;
//! assert_eq!(norms, [6.0, 26.0]); // with the bias: 1² + 2² + 1, 3² + 4² + 1
//!
//! // Clipped to norm 1, and summed: for any optimizer.
//! let weights: Vec<f64> = norms.iter().map(|square| 1.0 / square.sqrt()).collect();
//! let clipped = gradients.weighted(&layer, &weights)?;
//! assert_eq!(clipped.get::<2>(layer.weight.id).unwrap().dims(), [2, 1]);
//! # Ok::<(), nabla_grad::per_example::PerExampleError>(())
//! ```
//!
//! Sources: Goodfellow, *Efficient Per-Example Gradient Computations*, 2015, arXiv 1510.01799; Li, Tramèr, Liang,
//! Hashimoto, *Large Language Models Can Be Strong Differentially Private Learners*, 2021, arXiv 2110.05679; Bu, Mao, Xu,
//! *Scalable and Efficient Training of Large Convolutional Neural Networks with Differential Privacy*, 2022, arXiv
//! 2205.10683; Bu, Wang, Zha, Karypis, *Differentially Private Optimization on Large Model at Small Cost*, 2022, arXiv
//! 2210.00038 (one pass for the norms and the clipped sum).

use std::cell::RefCell;
use std::collections::HashMap;

use burn::backend::autodiff::NodeId;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Gradients, Tensor, TensorData};
use nabla_base::range;
use nabla_grad::flat::ParameterLayout;
use nabla_grad::per_example::{PerExampleError, Reduction};
use nabla_grad::training_mode::batch_norm_in_training;

use crate::operation::{Applied, Operation, node_of};

mod kept;

pub(crate) use kept::{is_tall, product_square, square};

thread_local! {
    /// What the backward pass of this thread has gone through; nothing without [`backward`].
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// The layers of a backward pass.
struct Seen {
    examples: usize,
    layers: Vec<Box<dyn Layer>>,
}

/// Whether [`backward`] is running.
pub(crate) fn is_recording() -> bool {
    SEEN.with_borrow(Option::is_some)
}

/// Keeps what the gradients by the parameters of a layer follow from, or these gradients where they have fewer numbers.
pub(crate) fn record<O: Operation<N>, const N: usize>(applied: &Applied<O, N>) {
    let Some(examples) = SEEN.with_borrow(|seen| seen.as_ref().map(|seen| seen.examples)) else {
        return;
    };
    let mut layers: Vec<Box<dyn Layer>> = Vec::new();
    let mut rest = applied.clone();
    let sizes = applied.sizes();
    let around: usize = (0..N)
        .filter(|&input| !applied.operation.parameters()[input])
        .map(|input| sizes[input])
        .sum();
    let around = around + applied.grad.shape().num_elements();
    let mut small = applied.wanted();
    for (small, size) in small.iter_mut().zip(sizes) {
        *small &= applied.rows() == examples && size * examples <= around;
    }
    if small.contains(&true) {
        let found = match applied.is_wide() {
            true => applied.remembered::<f64>(small),
            false => applied.remembered::<f32>(small),
        };
        if let Some(found) = found {
            layers.extend(found);
            for (parameter, small) in rest.parameters.iter_mut().zip(small) {
                parameter.take_if(|_| small);
            }
        }
    }
    if rest.parameters.iter().any(Option::is_some) {
        layers.push(Box::new(rest));
    }
    SEEN.with_borrow_mut(|seen| {
        if let Some(seen) = seen {
            seen.layers.extend(layers);
        }
    });
}

/// Ends a recording, also when the pass panics.
struct Recording;

impl Recording {
    fn begin(examples: usize) -> Self {
        let layers = Vec::new();
        SEEN.set(Some(Seen { examples, layers }));
        Self
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        SEEN.set(None);
    }
}

/// An application of a layer, whose gradients by its parameters are asked for example by example.
pub(crate) trait Layer: Send + Sync {
    /// The parameters.
    fn nodes(&self) -> Vec<NodeId>;

    /// The first dimension of the output: the number of examples, or the layer is refused.
    fn rows(&self) -> usize;

    /// The squared norms of the gradients by each of the [`nodes`](Self::nodes), for each example; nothing if the
    /// layer mixes examples.
    fn squared_norms(&self) -> Option<Vec<Vec<f64>>>;

    /// The sums of the examples' gradients by each of the nodes, with weights for each.
    fn weighted(&self, weights: &[&[f64]]) -> Vec<FloatTensor<Flex>>;

    /// The gradients by one of the nodes, example after example.
    fn gradients(&self, node: NodeId) -> Option<Vec<f64>>;
}

/// What a backward pass left; see the [module documentation](self).
pub struct ExampleGradients {
    examples: usize,
    /// By what the loss differs from the sum of the examples' losses.
    factor: f64,
    layers: Vec<Box<dyn Layer>>,
    /// The gradients by parameters that no layer knows.
    others: Gradients,
}

impl std::fmt::Debug for ExampleGradients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExampleGradients")
            .field("examples", &self.examples)
            .field("layers", &self.layers.len())
            .finish_non_exhaustive()
    }
}

/// Runs the backward pass of `loss`, and keeps what the gradients of the examples follow from.
///
/// - `examples`: the first dimension of what every layer saw
/// - `reduction`: how the losses of the examples make up `loss`
///
/// # Errors
/// If there are no examples, the loss has no gradient, or the factor of the reduction is 0 or not finite.
pub fn backward(
    loss: Tensor<1>,
    examples: usize,
    reduction: Reduction,
) -> Result<ExampleGradients, PerExampleError> {
    if examples == 0 {
        return Err(PerExampleError::NoExamples);
    }
    let factor = reduction.factor(examples)?;
    if !loss.is_tracked() {
        return Err(PerExampleError::NotRecorded);
    }
    let recording = Recording::begin(examples);
    let others = loss.backward();
    let layers = SEEN.with_borrow_mut(Option::take);
    let layers = layers.map_or_else(Vec::new, |seen| seen.layers);
    drop(recording);
    Ok(ExampleGradients {
        examples,
        factor,
        layers,
        others,
    })
}

/// A parameter that is trained.
struct Known {
    id: ParamId,
    /// Its place in the graph of autodiff; none on other devices than the processor.
    node: Option<NodeId>,
    numbers: usize,
    dtype: DType,
    /// Whether an operation that is no layer of ours has a part of its gradient.
    elsewhere: bool,
    /// How many layers have used it.
    uses: usize,
}

/// Finds the parameters of a module.
struct Find<'a> {
    gradients: &'a Gradients,
    found: Vec<Known>,
}

impl ModuleVisitor for Find<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if !value.is_require_grad() {
            return;
        }
        self.found.push(Known {
            id: param.id,
            node: node_of(&value),
            numbers: value.dims().iter().product(),
            dtype: value.dtype(),
            elsewhere: value.grad(self.gradients).is_some(),
            uses: 0,
        });
    }
}

/// Gives gradients the shapes of their parameters.
struct Register {
    sums: HashMap<ParamId, Tensor<1>>,
    gradients: GradientsParams,
}

impl ModuleVisitor for Register {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(sum) = self.sums.remove(&param.id) {
            let gradient = sum.reshape(param.val().dims());
            self.gradients.register(param.id, gradient);
        }
    }
}

/// The parameters that the loss depends on.
struct Parameters {
    /// In the order of the module.
    known: Vec<Known>,
    places: HashMap<NodeId, usize>,
}

impl Parameters {
    /// The numbers of a layer's parameters; none for those of another module.
    fn of(&self, layer: &dyn Layer) -> Vec<Option<usize>> {
        let nodes = layer.nodes().into_iter();
        nodes.map(|node| self.places.get(&node).copied()).collect()
    }
}

impl ExampleGradients {
    /// Number of examples.
    pub fn examples(&self) -> usize {
        self.examples
    }

    fn parameters<M: Module>(&self, module: &M) -> Result<Parameters, PerExampleError> {
        if let Some(layer) = batch_norm_in_training(module) {
            return Err(PerExampleError::Training { layer });
        }
        let mut find = Find {
            gradients: &self.others,
            found: Vec::new(),
        };
        module.visit(&mut find);
        let mut known = find.found;
        let mut uses: HashMap<NodeId, usize> = HashMap::new();
        for node in self.layers.iter().flat_map(|layer| layer.nodes()) {
            *uses.entry(node).or_default() += 1;
        }
        for known in &mut known {
            known.uses = known
                .node
                .map_or(0, |node| uses.get(&node).copied().unwrap_or(0));
            if known.elsewhere {
                let layout = ParameterLayout::of(module)?;
                let mut entries = layout.entries().iter();
                let entry = entries.find(|entry| entry.id() == known.id);
                let name = entry.map(|entry| entry.name().to_owned());
                return Err(PerExampleError::Elsewhere {
                    name: name.unwrap_or_default(),
                });
            }
        }
        known.retain(|known| known.uses > 0);
        let numbered = known.iter().enumerate();
        let places = numbered.filter_map(|(i, known)| Some((known.node?, i)));
        let places = places.collect();
        let parameters = Parameters { known, places };
        for layer in &self.layers {
            let is_known = parameters.of(layer.as_ref()).iter().any(Option::is_some);
            let (rows, examples) = (layer.rows(), self.examples);
            if is_known && rows != examples {
                return Err(PerExampleError::Rows { rows, examples });
            }
        }
        Ok(parameters)
    }

    /// The squared norm of each example's gradient by all parameters of `module` together.
    ///
    /// # Errors
    /// If a parameter has its gradient from an operation that is none of this crate's, a layer saw another number of
    /// rows than there are examples, or a batch normalization is in training.
    pub fn squared_norms<M: Module>(&self, module: &M) -> Result<Vec<f64>, PerExampleError> {
        let mut sums = vec![0.0; self.examples];
        for (_, norms) in self.squared_norms_by_parameter(module)? {
            for (sum, norm) in sums.iter_mut().zip(norms) {
                *sum += norm;
            }
        }
        Ok(sums)
    }

    /// The squared norms for each parameter on which the loss depends, in the order of the module.
    ///
    /// # Errors
    /// As [`squared_norms`](Self::squared_norms).
    pub fn squared_norms_by_parameter<M: Module>(
        &self,
        module: &M,
    ) -> Result<Vec<(ParamId, Vec<f64>)>, PerExampleError> {
        let parameters = self.parameters(module)?;
        let power = self.factor.powi(-2);
        let mut all: Vec<Vec<f64>> = parameters.known.iter().map(|_| Vec::new()).collect();
        for layer in &self.layers {
            let places = parameters.of(layer.as_ref());
            // Those that several layers use have norms of sums.
            let alone = |place: &usize| parameters.known[*place].uses == 1;
            if !places.iter().flatten().any(alone) {
                continue;
            }
            let norms = layer.squared_norms().ok_or(PerExampleError::Mixed)?;
            for (place, norms) in places.into_iter().zip(norms) {
                if let Some(place) = place.filter(alone) {
                    all[place] = norms;
                }
            }
        }
        for (known, norms) in parameters.known.iter().zip(&mut all) {
            if known.uses > 1 {
                let sums = self.sums(known)?;
                let rows = sums.chunks(known.numbers.max(1));
                *norms = rows.map(|row| row.iter().map(|v| v * v).sum()).collect();
            }
            norms.iter_mut().for_each(|norm| *norm *= power);
        }
        let ids = parameters.known.iter().map(|known| known.id);
        Ok(ids.zip(all).collect())
    }

    /// The gradients by a parameter, example after example.
    fn sums(&self, known: &Known) -> Result<Vec<f64>, PerExampleError> {
        let mut sums = vec![0.0; self.examples * known.numbers];
        for layer in &self.layers {
            let Some(node) = known.node.filter(|node| layer.nodes().contains(node)) else {
                continue;
            };
            let found = layer.gradients(node).ok_or(PerExampleError::Mixed)?;
            for (sum, value) in sums.iter_mut().zip(found) {
                *sum += value;
            }
        }
        Ok(sums)
    }

    /// `Σ_i w_i ∂L_i/∂θ`, for an optimizer.
    ///
    /// - `weights`: one for each example
    ///
    /// # Errors
    /// As [`squared_norms`](Self::squared_norms), or if there are not as many weights as examples.
    pub fn weighted<M: Module>(
        &self,
        module: &M,
        weights: &[f64],
    ) -> Result<GradientsParams, PerExampleError> {
        self.weighted_each(module, |_| weights)
    }

    /// The same with weights of their own for each parameter.
    ///
    /// - `weights`: of a parameter: one for each example
    ///
    /// # Errors
    /// As [`weighted`](Self::weighted).
    pub fn weighted_each<'w, M: Module>(
        &self,
        module: &M,
        weights: impl Fn(ParamId) -> &'w [f64],
    ) -> Result<GradientsParams, PerExampleError> {
        let parameters = self.parameters(module)?;
        let scaled = parameters.known.iter().map(|known| {
            let weights = weights(known.id);
            let expected = format!("{}, one for each example", self.examples);
            let fits = weights.len() == self.examples;
            range::check(fits, "number of weights", weights.len(), expected)?;
            Ok(weights.iter().map(|w| w / self.factor).collect())
        });
        let scaled = scaled.collect::<Result<Vec<Vec<f64>>, PerExampleError>>()?;
        let none: &[f64] = &[];
        let mut sums: HashMap<ParamId, Tensor<1>> = HashMap::new();
        for layer in &self.layers {
            let places = parameters.of(layer.as_ref());
            if places.iter().all(Option::is_none) {
                continue;
            }
            let of = |place: &Option<usize>| place.map_or(none, |place| scaled[place].as_slice());
            let weights: Vec<&[f64]> = places.iter().map(of).collect();
            for (place, part) in places.into_iter().zip(layer.weighted(&weights)) {
                let Some(known) = place.map(|place| &parameters.known[place]) else {
                    continue;
                };
                let part = part.reshape([known.numbers].into());
                let part = Tensor::<1>::from_primitive::<Flex>(part);
                let sum = match sums.remove(&known.id) {
                    Some(sum) => sum + part,
                    None => part,
                };
                sums.insert(known.id, sum);
            }
        }
        let mut register = Register {
            sums,
            gradients: GradientsParams::new(),
        };
        module.visit(&mut register);
        Ok(register.gradients)
    }

    /// The gradients of all examples in the order of `layout`, `[examples, parameters]`: what
    /// [`per_example_gradients`](nabla_grad::per_example::per_example_gradients) returns. Parameters on which the loss
    /// does not depend have the gradient 0.
    ///
    /// # Errors
    /// As [`squared_norms`](Self::squared_norms).
    pub fn rows<M: Module>(
        &self,
        module: &M,
        layout: &ParameterLayout,
    ) -> Result<Tensor<2>, PerExampleError> {
        let parameters = self.parameters(module)?;
        let width = layout.total_length();
        let mut rows = vec![0.0; self.examples * width];
        for known in &parameters.known {
            let mut entries = layout.entries().iter();
            let Some(entry) = entries.find(|entry| entry.id() == known.id) else {
                continue;
            };
            let found = self.sums(known)?;
            for (row, values) in rows.chunks_mut(width).zip(found.chunks(known.numbers)) {
                for (to, value) in row[entry.range()].iter_mut().zip(values) {
                    *to = value / self.factor;
                }
            }
        }
        let dtype = parameters
            .known
            .first()
            .map_or(DType::F32, |known| known.dtype);
        let data = TensorData::new(rows, [self.examples, width]).convert_dtype(dtype);
        Ok(Tensor::from_data(data, (layout.device(), dtype)))
    }
}

#[cfg(test)]
mod tests;
