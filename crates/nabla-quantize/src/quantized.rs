//! Any Burn model with its layers computed in few bits, for training and for use.
//!
//! ```text
//! y = s_x s_w[o] · (v_x ∗ v_w) + b          v_x, v_w: integers of the input and of the weight, by LSQ
//! ```
//!
//! `∗` is the product of a linear layer or a convolution. It multiplies integers, so it is exact as long as its sums have
//! 24 bits, and beyond that it is computed in double precision outside of training: what a processor with
//! [integers](crate::integers) computes is the same, to the bit. Every weight has a step size for each output channel or
//! one for all, every input has one. They are parameters like others. What lies between the layers (normalisations,
//! poolings, sums) is computed as ever.
//!
//! The layers are found by computing the model once on a batch, from which the step sizes of the inputs start as well.
//! An input that had no negative number there gets the unsigned grid, others the signed one. The first and the last
//! layer stay as they are, or get bits of their own.

use std::cell::RefCell;
use std::rc::Rc;

use burn::module::{Module, ModuleDisplay, Param, ParamId};
use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::tensor::{DType, Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_kernels::convolution::conv2d;
use nabla_kernels::layer_hooks::{LayerHook, with_hook};
use nabla_kernels::linear::linear;
use serde::{Deserialize, Serialize};

use crate::lsq::{Levels, codes, step_of};
use crate::parameters::{Parameter, parameters};

/// The reason why a model cannot be computed in few bits.
#[derive(Debug, thiserror::Error)]
pub enum QuantizationError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There is nothing to round.
    #[error(
        "the model has {found} linear layers and convolutions, of which the first and the last stay as they are: nothing is \
         left to quantise; give these bits too"
    )]
    NoLayers {
        /// All of them.
        found: usize,
    },
    /// Numbers from which no step size follows.
    #[error(
        "no step size follows from the {what} of the layer {layer}: all its numbers are 0, or one is not finite"
    )]
    NoScale {
        /// Weight or input.
        what: Role,
        /// The layer.
        layer: String,
    },
    /// A layer whose weight is none of the model's parameters.
    #[error("a layer of the model has a weight that is none of its parameters")]
    Foreign,
    /// A number cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

/// How many bits weights and inputs of layers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantizationConfig {
    /// Of weights, 2 to 8. Default 4.
    pub bits: u32,
    /// Of inputs, 2 to 8. Default: those of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_bits: Option<u32>,
    /// Of the weights and inputs of the first and the last layer, 2 to 8; LSQ's paper has 8. Default: they are not
    /// rounded, as in the code with which GAQAT's authors work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edge_bits: Option<u32>,
    /// Whether a weight has a step size for each output channel. Default yes.
    pub per_channel: bool,
}

impl Default for QuantizationConfig {
    fn default() -> Self {
        Self {
            bits: 4,
            input_bits: None,
            edge_bits: None,
            per_channel: true,
        }
    }
}

impl QuantizationConfig {
    /// Refuses numbers of bits out of range.
    ///
    /// # Errors
    /// If one is not between 2 and 8.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::within("number of bits", self.bits, 2..=8)?;
        if let Some(bits) = self.input_bits {
            range::within("number of bits of inputs", bits, 2..=8)?;
        }
        if let Some(bits) = self.edge_bits {
            range::within("number of bits of the first and last layer", bits, 2..=8)?;
        }
        Ok(())
    }
}

/// What a quantiser rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The weight of a layer.
    Weight,
    /// The input of a layer.
    Input,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Weight => "weight",
            Self::Input => "input",
        })
    }
}

/// A layer of the model, in the order of the pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizedLayer {
    /// The name of its weight without its last part, such as `stages.1.convolution`; none for a model of one layer.
    pub name: String,
    /// Output channels.
    pub outputs: usize,
    /// The grids of weight and input; none for a layer that stays as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub levels: Option<[Levels; 2]>,
}

impl QuantizedLayer {
    /// The name of a part of the layer, such as `stages.1.convolution.weight`.
    pub fn part(&self, part: &str) -> String {
        match self.name.is_empty() {
            true => part.to_owned(),
            false => format!("{}.{part}", self.name),
        }
    }
}

/// A step size among the parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantizer {
    /// The layer.
    pub layer: String,
    /// What it rounds.
    pub role: Role,
    /// The parameter, `[channels]` or `[1]`.
    pub id: ParamId,
}

/// A model in few bits; see the [module documentation](self).
///
/// ```
/// use burn::module::Module;
/// use burn::tensor::{Device, Tensor};
/// use nabla_kernels::nn::Linear;
/// use nabla_quantize::{QuantizationConfig, Quantized};
///
/// #[derive(Module, Debug)]
/// struct Network {
///     layers: Vec<Linear>,
/// }
///
/// impl Network {
///     fn forward(&self, x: Tensor<2>) -> Tensor<2> {
///         self.layers.iter().fold(x, |x, layer| layer.forward(x).tanh())
///     }
/// }
///
/// let device = Device::flex().autodiff();
/// let layer = || burn::nn::LinearConfig::new(4, 4).init(&device).into();
/// let network = Network { layers: vec![layer(), layer(), layer()] };
/// let x = Tensor::<2>::ones([2, 4], &device);
/// let network = Quantized::new(network, &QuantizationConfig::default(), |n| drop(n.forward(x.clone())))?;
/// let y = network.pass(|network| network.forward(x));
/// assert_eq!((y.dims(), network.quantizers().len()), ([2, 4], 2));
/// # Ok::<(), nabla_quantize::QuantizationError>(())
/// ```
#[derive(Module, Debug)]
pub struct Quantized<M: Module + ModuleDisplay> {
    /// The model.
    pub network: M,
    /// The step sizes of the weights of the rounded layers, `[outputs]` or `[1]` each.
    pub weight_steps: Vec<Param<Tensor<1>>>,
    /// The step sizes of their inputs, `[1]` each.
    pub input_steps: Vec<Param<Tensor<1>>>,
    #[module(skip)]
    layers: Vec<QuantizedLayer>,
}

impl<M: Module + ModuleDisplay> Quantized<M> {
    /// Finds the layers of a model, and step sizes to start with.
    ///
    /// - `compute`: computes the model on a batch of its data
    ///
    /// # Errors
    /// If a number of bits is out of range, there is nothing to round, or a layer has only zeros.
    pub fn new(
        network: M,
        config: &QuantizationConfig,
        compute: impl FnOnce(&M),
    ) -> Result<Self, QuantizationError> {
        config.validate()?;
        let calibration = Rc::new(RefCell::new(Calibration::default()));
        with_hook(calibration.clone(), || compute(&network));
        let seen = calibration.take().layers;
        let parameters = parameters(&network);
        let last = seen.len().saturating_sub(1);
        let mut layers = Vec::with_capacity(seen.len());
        let (mut weight_steps, mut input_steps) = (Vec::new(), Vec::new());
        for (place, seen) in seen.iter().enumerate() {
            let name = layer_of(&parameters, seen.weight)?;
            let bits = match place == 0 || place == last {
                true => config.edge_bits.map(|bits| [bits, bits]),
                false => Some([config.bits, config.input_bits.unwrap_or(config.bits)]),
            };
            let levels = match bits {
                None => None,
                Some([weight, input]) => {
                    let (magnitude, least) = seen.input()?;
                    let input = match least < 0.0 {
                        true => Levels::signed(input)?,
                        false => Levels::unsigned(input)?,
                    };
                    let levels = [Levels::signed(weight)?, input];
                    let none = |what| QuantizationError::NoScale {
                        what,
                        layer: name.clone(),
                    };
                    let magnitudes = seen.weight_magnitudes(config.per_channel)?;
                    let magnitudes = magnitudes.ok_or_else(|| none(Role::Weight))?;
                    if !(magnitude > 0.0 && magnitude.is_finite()) {
                        return Err(none(Role::Input));
                    }
                    let device = &seen.device;
                    let param = |values: Vec<f64>, levels: Levels| {
                        let steps = values.iter().map(|&m| levels.first_step(m) as f32);
                        let data = TensorData::new(steps.collect::<Vec<_>>(), [values.len()]);
                        Param::from_tensor(Tensor::<1>::from_data(data, device))
                    };
                    weight_steps.push(param(magnitudes, levels[0]));
                    input_steps.push(param(vec![magnitude], levels[1]));
                    Some(levels)
                }
            };
            layers.push(QuantizedLayer {
                name,
                outputs: seen.outputs,
                levels,
            });
        }
        if weight_steps.is_empty() {
            return Err(QuantizationError::NoLayers { found: seen.len() });
        }
        Ok(Self {
            network,
            weight_steps,
            input_steps,
            layers,
        })
    }

    /// A model whose layers are known, with step sizes that are to be loaded.
    ///
    /// - `per_channel`: as in its configuration
    ///
    /// # Errors
    /// If no layer is rounded.
    pub fn of_layers(
        network: M,
        layers: Vec<QuantizedLayer>,
        per_channel: bool,
    ) -> Result<Self, QuantizationError> {
        let device = network
            .devices()
            .into_iter()
            .next()
            .ok_or(QuantizationError::NoLayers {
                found: layers.len(),
            })?;
        let ones = |count: usize| Param::from_tensor(Tensor::<1>::ones([count], &device));
        let rounded = || layers.iter().filter(|layer| layer.levels.is_some());
        if rounded().next().is_none() {
            return Err(QuantizationError::NoLayers {
                found: layers.len(),
            });
        }
        Ok(Self {
            weight_steps: rounded()
                .map(|layer| ones(if per_channel { layer.outputs } else { 1 }))
                .collect(),
            input_steps: rounded().map(|_| ones(1)).collect(),
            network,
            layers,
        })
    }

    /// All layers of the model, in the order of the pass.
    pub fn layers(&self) -> &[QuantizedLayer] {
        &self.layers
    }

    /// The step sizes among the parameters: those of the weights, then those of the inputs.
    pub fn quantizers(&self) -> Vec<Quantizer> {
        let rounded = || self.layers.iter().filter(|layer| layer.levels.is_some());
        let of = |steps: &[Param<Tensor<1>>], role| -> Vec<Quantizer> {
            let pairs = rounded().zip(steps);
            let each = pairs.map(|(layer, step)| Quantizer {
                layer: layer.name.clone(),
                role,
                id: step.id,
            });
            each.collect()
        };
        let mut all = of(&self.weight_steps, Role::Weight);
        all.extend(of(&self.input_steps, Role::Input));
        all
    }

    /// Computes the model with rounded layers.
    ///
    /// - `compute`: computes it once
    pub fn pass<T>(&self, compute: impl FnOnce(&M) -> T) -> T {
        let values = |steps: &[Param<Tensor<1>>]| steps.iter().map(Param::val).collect();
        let simulation = Simulation {
            layers: self.layers.iter().map(|layer| layer.levels).collect(),
            weight_steps: values(&self.weight_steps),
            input_steps: values(&self.input_steps),
            layer: 0,
            rounded: 0,
        };
        with_hook(Rc::new(RefCell::new(simulation)), || compute(&self.network))
    }
}

/// What a pass has seen of a layer.
struct SeenLayer {
    weight: ParamId,
    /// Of the weight, with its autodiff.
    device: Device,
    outputs: usize,
    /// Mean magnitudes of the weights of each output channel, `[outputs]`.
    magnitudes: Tensor<1>,
    /// Mean magnitude and least number of the input, `[2]`.
    input: Tensor<1>,
}

impl SeenLayer {
    /// - `by_channel`: the weight, `[outputs, …]`
    /// - `input`: all its numbers
    fn new(weight: ParamId, by_channel: Tensor<2>, input: Tensor<1>) -> Self {
        let [outputs, _] = by_channel.dims();
        let device = by_channel.device();
        let input = input.without_autodiff();
        let both = vec![input.clone().abs().mean(), input.min()];
        Self {
            weight,
            device,
            outputs,
            magnitudes: by_channel
                .without_autodiff()
                .abs()
                .mean_dim(1)
                .reshape([outputs]),
            input: Tensor::cat(both, 0),
        }
    }

    fn input(&self) -> Result<(f64, f64), QuantizationError> {
        match read(self.input.clone())?.as_slice() {
            [magnitude, least] => Ok((*magnitude, *least)),
            _ => Ok((f64::NAN, f64::NAN)),
        }
    }

    /// Mean magnitudes for the step sizes, `[outputs]` or `[1]`; that of the whole weight for a channel of zeros, and
    /// `None` for a weight of zeros.
    fn weight_magnitudes(&self, per_channel: bool) -> Result<Option<Vec<f64>>, QuantizationError> {
        let each = read(self.magnitudes.clone())?;
        let mean = each.iter().sum::<f64>() / each.len().max(1) as f64;
        if !(mean > 0.0 && mean.is_finite()) {
            return Ok(None);
        }
        Ok(Some(match per_channel {
            true => each
                .iter()
                .map(|&m| if m > 0.0 { m } else { mean })
                .collect(),
            false => vec![mean],
        }))
    }
}

fn read(tensor: Tensor<1>) -> Result<Vec<f64>, QuantizationError> {
    let values = tensor.without_autodiff().try_into_vec_as::<f64>();
    values.map_err(|error| QuantizationError::Device(error.to_string()))
}

/// The first pass.
#[derive(Default)]
struct Calibration {
    layers: Vec<SeenLayer>,
}

fn flat<const D: usize>(x: &Tensor<D>) -> Tensor<1> {
    let numbers: usize = x.dims().iter().product();
    x.clone().reshape([numbers])
}

impl LayerHook for Calibration {
    fn linear(&mut self, layer: &Linear, x: Tensor<2>) -> Option<Tensor<2>> {
        let weight = layer.weight.val().transpose();
        self.layers
            .push(SeenLayer::new(layer.weight.id, weight, flat(&x)));
        None
    }

    fn conv2d(&mut self, layer: &Conv2d, x: Tensor<4>) -> Option<Tensor<4>> {
        let weight = layer.weight.val().flatten::<2>(1, 3);
        self.layers
            .push(SeenLayer::new(layer.weight.id, weight, flat(&x)));
        None
    }
}

/// The name of the layer of a weight.
fn layer_of(parameters: &[Parameter], weight: ParamId) -> Result<String, QuantizationError> {
    let found = parameters.iter().find(|parameter| parameter.id == weight);
    let name = &found.ok_or(QuantizationError::Foreign)?.name;
    Ok(match name.rsplit_once('.') {
        Some((layer, _)) => layer.to_owned(),
        // The model is a layer itself.
        None => String::new(),
    })
}

/// A pass in few bits.
struct Simulation {
    layers: Vec<Option<[Levels; 2]>>,
    weight_steps: Vec<Tensor<1>>,
    input_steps: Vec<Tensor<1>>,
    layer: usize,
    rounded: usize,
}

/// What a layer is rounded with.
struct Rounding {
    levels: [Levels; 2],
    weight: Tensor<1>,
    input: Tensor<1>,
}

impl Simulation {
    /// Of the next layer, if it is rounded.
    fn next(&mut self) -> Option<Rounding> {
        let levels = self.layers.get(self.layer).copied();
        self.layer += 1;
        let levels = levels??;
        let place = self.rounded;
        self.rounded += 1;
        Some(Rounding {
            levels,
            weight: self.weight_steps.get(place)?.clone(),
            input: self.input_steps.get(place)?.clone(),
        })
    }
}

impl Rounding {
    /// `s_x s_w · (v_x ∗ v_w) + b`, whose dimension 1 is that of the output channels.
    ///
    /// - `outputs`: the dimension of the output channels in `weight`
    /// - `terms`: of each sum
    /// - `product`: `∗`
    fn of_layer<const D: usize>(
        &self,
        x: Tensor<D>,
        weight: Tensor<D>,
        bias: Option<&Param<Tensor<1>>>,
        [outputs, terms]: [usize; 2],
        product: impl FnOnce(Tensor<D>, Tensor<D>) -> Tensor<D>,
    ) -> Tensor<D> {
        let along = |vector: Tensor<1>, dim: usize| -> Tensor<D> {
            let mut shape = [1; D];
            shape[dim] = vector.dims()[0];
            vector.reshape(shape)
        };
        let numbers = |tensor: &Tensor<D>| tensor.dims().iter().product();
        let dtype = x.dtype();
        let step = |step: &Tensor<1>, levels: Levels, numbers| {
            step_of(step.clone(), levels.gradient_factor(numbers)).cast(dtype)
        };
        let [on_weight, on_input] = self.levels;
        let s_w = step(&self.weight, on_weight, numbers(&weight));
        let s_x = step(&self.input, on_input, numbers(&x));
        let mut v_x = codes(x, along(s_x.clone(), 1), on_input);
        let mut v_w = codes(weight, along(s_w.clone(), outputs), on_weight);
        let doubled = self.is_wide(terms) && !v_x.is_autodiff();
        if doubled {
            (v_x, v_w) = (v_x.cast(DType::F64), v_w.cast(DType::F64));
        }
        let sums = product(v_x, v_w);
        let sums = if doubled { sums.cast(dtype) } else { sums };
        let y = sums * along(s_w * s_x, 1);
        match bias {
            Some(bias) => y + along(bias.val(), 1),
            None => y,
        }
    }

    /// Whether sums of the products of so many integers might have more than 24 bits.
    fn is_wide(&self, terms: usize) -> bool {
        let [weight, input] = self.levels.map(|levels| levels.largest() as usize);
        terms * weight * input > 1 << 24
    }
}

impl LayerHook for Simulation {
    fn linear(&mut self, layer: &Linear, x: Tensor<2>) -> Option<Tensor<2>> {
        let rounding = self.next()?;
        let weight = layer.weight.val(); // [input, output]
        let sizes = [1, weight.dims()[0]];
        let product = |v_x, v_w| {
            let rounded = Linear {
                weight: Param::initialized(layer.weight.id, v_w),
                bias: None,
            };
            linear(&rounded, v_x)
        };
        Some(rounding.of_layer(x, weight, layer.bias.as_ref(), sizes, product))
    }

    fn conv2d(&mut self, layer: &Conv2d, x: Tensor<4>) -> Option<Tensor<4>> {
        let rounding = self.next()?;
        let weight = layer.weight.val(); // [outputs, inputs/groups, height, width]
        let sizes = [0, weight.dims()[1..].iter().product()];
        let product = |v_x, v_w| {
            let mut rounded = layer.clone();
            rounded.weight = Param::initialized(layer.weight.id, v_w);
            rounded.bias = None;
            conv2d(&rounded, v_x)
        };
        Some(rounding.of_layer(x, weight, layer.bias.as_ref(), sizes, product))
    }
}

#[cfg(test)]
pub(crate) mod tests;
