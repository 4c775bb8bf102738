//! A quantised network as packed integers, and its pass in integer arithmetic.
//!
//! ```text
//! v_x = round(clamp(x/s_x))        integers of 16 bits
//! a   = v_x ∗ v_w                  sums of 32 bits, exact
//! y   = a · s_x s_w[o] + b         one product and one sum of single precision
//! ```
//!
//! The [simulated](crate::quantized) pass does the same in floating point, where products of integers are exact too, so
//! both give the same bits. The file has the weights of rounded layers as packed integers of two's complement, each output
//! channel from a whole byte on, the lowest bits first; everything else in single precision. It is in the safetensors
//! format: `<layer>.weight` has the type `U8`, beside `<layer>.weight_step` and `<layer>.input_step`, and the metadata
//! `layers` says the grids and shapes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use burn::module::{Module, ModuleDisplay, Param};
use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::store::{ModuleSnapshot, SafetensorsStore};
use burn::tensor::{Tensor, TensorData};
use nabla_kernels::convolution::padding2d;
use nabla_kernels::layer_hooks::{LayerHook, with_hook};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors, View, serialize};
use serde::{Deserialize, Serialize};

use crate::lsq::{Levels, SMALLEST};
use crate::parameters::{Parameter, parameters};
use crate::quantized::{Quantized, QuantizedLayer};

/// The reason why there is no network of integers.
#[derive(Debug, thiserror::Error)]
pub enum IntegerError {
    /// A file is damaged, or of another network.
    #[error("the file does not hold this network of integers: {0}")]
    File(String),
    /// The network cannot be written.
    #[error("cannot write the network of integers: {0}")]
    Write(String),
    /// A number cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
    /// A rounded layer has no weight.
    #[error("the layer {0} has no weight")]
    NoWeight(String),
}

/// A layer as the file describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    #[serde(flatten)]
    layer: QuantizedLayer,
    /// The shape of a rounded weight, output channels first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    shape: Vec<usize>,
    /// Whether a file of the plain network has the weight with its input channels first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    inputs_first: bool,
}

/// A rounded layer.
#[derive(Debug)]
struct IntegerLayer {
    levels: [Levels; 2],
    /// `[outputs, inputs of one output]`.
    weight: Vec<i16>,
    terms: usize,
    /// `[outputs]` or `[1]`.
    weight_steps: Vec<f32>,
    input_step: f32,
}

/// A network of integers; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct IntegerNetwork<M> {
    network: M,
    described: Vec<Described>,
    layers: Vec<Option<Arc<IntegerLayer>>>,
}

const METADATA: &str = "layers";

impl<M: Module + ModuleDisplay> IntegerNetwork<M> {
    /// Rounds the weights of a model.
    ///
    /// # Errors
    /// If they cannot be read from the device.
    pub fn new(model: &Quantized<M>) -> Result<Self, IntegerError> {
        let model = model.clone().valid();
        let parameters = parameters(&model.network);
        let mut steps = model.weight_steps.iter().zip(&model.input_steps);
        let mut described = Vec::new();
        let mut layers = Vec::new();
        for layer in model.layers() {
            let Some(levels) = layer.levels else {
                described.push(Described {
                    layer: layer.clone(),
                    shape: Vec::new(),
                    inputs_first: false,
                });
                layers.push(None);
                continue;
            };
            let name = layer.part("weight");
            let weight = parameters.iter().find(|parameter| parameter.name == name);
            let (Some(weight), Some((weight_step, input_step))) = (weight, steps.next()) else {
                return Err(IntegerError::NoWeight(layer.name.clone()));
            };
            let (shape, values) = channels_first(weight)?;
            let positive = |step: f32| step.max(SMALLEST as f32);
            let weight_steps: Vec<f32> =
                read(weight_step.val())?.into_iter().map(positive).collect();
            let input_step = read(input_step.val())?
                .first()
                .map_or(1.0, |&s| positive(s));
            let terms: usize = shape.iter().skip(1).product();
            let rows = values.chunks_exact(terms.max(1)).enumerate();
            let rounded = rows.flat_map(|(row, values)| {
                let step = channel(&weight_steps, row);
                values.iter().map(move |&w| code(w, step, levels[0]))
            });
            let integers = IntegerLayer {
                levels,
                weight: rounded.collect(),
                terms,
                weight_steps: weight_steps.clone(),
                input_step,
            };
            described.push(Described {
                layer: layer.clone(),
                shape,
                inputs_first: false,
            });
            layers.push(Some(Arc::new(integers)));
        }
        Ok(Self {
            network: model.network,
            described,
            layers,
        })
    }

    /// Computes the model with integers.
    ///
    /// - `compute`: computes it once, without autodiff
    pub fn pass<T>(&self, compute: impl FnOnce(&M) -> T) -> T {
        let pass = Pass {
            layers: self.layers.clone(),
            next: 0,
        };
        with_hook(Rc::new(RefCell::new(pass)), || compute(&self.network))
    }

    /// The weights of the rounded layers: their number, and the bytes that they take.
    pub fn packed(&self) -> (usize, usize) {
        let layers = self.layers.iter().flatten();
        layers.fold((0, 0), |(numbers, bytes), layer| {
            let rows = layer.weight.len() / layer.terms.max(1);
            let bits = layer.levels[0].bits();
            let bytes = bytes + rows * row_bytes(layer.terms, bits);
            (numbers + layer.weight.len(), bytes)
        })
    }

    /// The network as a file; the same network gives the same bytes.
    ///
    /// # Errors
    /// If a weight cannot be read from the device.
    pub fn to_bytes(&self) -> Result<Vec<u8>, IntegerError> {
        let wrong = |error: String| IntegerError::Write(error);
        let mut store = SafetensorsStore::from_bytes(None)
            .clear_metadata()
            .skip_enum_variants(true);
        self.network
            .save_into(&mut store)
            .map_err(|error| wrong(error.to_string()))?;
        let plain = store
            .get_bytes()
            .map_err(|error| wrong(error.to_string()))?;
        let plain = SafeTensors::deserialize(&plain).map_err(|error| wrong(error.to_string()))?;
        let mut entries: BTreeMap<String, Entry> = plain
            .iter()
            .map(|(name, view)| {
                let entry = Entry {
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    bytes: view.data().to_vec(),
                };
                (name.to_owned(), entry)
            })
            .collect();
        let mut told = self.described.clone();
        for (described, layer) in told.iter_mut().zip(&self.layers) {
            let Some(layer) = layer else { continue };
            let bits = layer.levels[0].bits();
            let rows = layer.weight.chunks_exact(layer.terms.max(1));
            let packed: Vec<u8> = rows.flat_map(|row| packed(row, bits)).collect();
            let shape = vec![described.layer.outputs, row_bytes(layer.terms, bits)];
            let weight = Entry {
                dtype: Dtype::U8,
                shape,
                bytes: packed,
            };
            let plain = entries.insert(described.layer.part("weight"), weight);
            described.inputs_first = plain.is_some_and(|plain| plain.shape != described.shape);
            let steps = Entry::of_floats(&layer.weight_steps);
            entries.insert(described.layer.part("weight_step"), steps);
            let step = Entry::of_floats(&[layer.input_step]);
            entries.insert(described.layer.part("input_step"), step);
        }
        let json = serde_json::to_string(&told);
        let json = json.map_err(|error| wrong(error.to_string()))?;
        let metadata = HashMap::from([(METADATA.to_owned(), json)]);
        serialize(entries, Some(metadata)).map_err(|error| wrong(error.to_string()))
    }

    /// The network of a file.
    ///
    /// - `network`: of the same structure, without autodiff, whose weights are replaced
    ///
    /// # Errors
    /// If the file is damaged, or of another network.
    pub fn from_bytes(mut network: M, bytes: &[u8]) -> Result<Self, IntegerError> {
        let wrong = |error: String| IntegerError::File(error);
        let (_, header) =
            SafeTensors::read_metadata(bytes).map_err(|error| wrong(error.to_string()))?;
        let json = header.metadata().as_ref().and_then(|m| m.get(METADATA));
        let json = json.ok_or_else(|| wrong(format!("it has no metadata {METADATA}")))?;
        let described: Vec<Described> =
            serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
        let file = SafeTensors::deserialize(bytes).map_err(|error| wrong(error.to_string()))?;
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for (name, view) in file.iter() {
            let entry = Entry {
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            };
            entries.insert(name.to_owned(), entry);
        }
        let mut layers = Vec::with_capacity(described.len());
        for Described {
            layer,
            shape,
            inputs_first,
        } in &described
        {
            let Some(levels) = layer.levels else {
                layers.push(None);
                continue;
            };
            let name = &layer.name;
            let mut take = |what: &str| {
                let name = layer.part(what);
                let entry = entries.remove(&name);
                entry.ok_or_else(|| wrong(format!("it has no {name}")))
            };
            let weight = take("weight")?;
            let weight_steps = take("weight_step")?.floats();
            let input_step = take("input_step")?.floats();
            let terms: usize = shape.iter().skip(1).product();
            let bits = levels[0].bits();
            let fits = shape.first() == Some(&layer.outputs)
                && weight.dtype == Dtype::U8
                && weight.bytes.len() == layer.outputs * row_bytes(terms, bits)
                && terms > 0;
            let (Some(weight_steps), Some(input_step), true) = (weight_steps, input_step, fits)
            else {
                return Err(wrong(format!("{name} has another shape or type")));
            };
            let fits = [1, layer.outputs].contains(&weight_steps.len());
            let ([input_step], true) = (input_step.as_slice(), fits) else {
                return Err(wrong(format!("{name} has another number of step sizes")));
            };
            let rows = weight.bytes.chunks_exact(row_bytes(terms, bits));
            let rows: Vec<Vec<i16>> = rows.map(|row| unpacked(row, bits, terms)).collect();
            // Floating-point weights of the same value, for the network that stands around the integers.
            let values = rows.iter().enumerate().flat_map(|(row, codes)| {
                let step = channel(&weight_steps, row);
                codes.iter().map(move |&v| f32::from(v) * step)
            });
            let values: Vec<f32> = values.collect();
            let plain = match inputs_first {
                true => Entry {
                    shape: vec![terms, layer.outputs],
                    ..Entry::of_floats(&transposed(&values, layer.outputs, terms))
                },
                false => Entry {
                    shape: shape.clone(),
                    ..Entry::of_floats(&values)
                },
            };
            entries.insert(layer.part("weight"), plain);
            layers.push(Some(Arc::new(IntegerLayer {
                levels,
                weight: rows.concat(),
                terms,
                weight_steps,
                input_step: *input_step,
            })));
        }
        let plain = serialize(entries, None).map_err(|error| wrong(error.to_string()))?;
        let mut store = SafetensorsStore::from_bytes(Some(plain)).skip_enum_variants(true);
        network
            .load_from(&mut store)
            .map_err(|error| wrong(one_line(&error.to_string())))?;
        Ok(Self {
            network,
            described,
            layers,
        })
    }
}

fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    lines.collect::<Vec<_>>().join(" ")
}

/// A tensor of a file.
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Entry {
    fn of_floats(values: &[f32]) -> Self {
        Self {
            dtype: Dtype::F32,
            shape: vec![values.len()],
            bytes: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
        }
    }

    fn floats(&self) -> Option<Vec<f32>> {
        if self.dtype != Dtype::F32 {
            return None;
        }
        let (numbers, _) = self.bytes.as_chunks::<4>();
        Some(
            numbers
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect(),
        )
    }
}

impl View for Entry {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> std::borrow::Cow<'_, [u8]> {
        self.bytes.as_slice().into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// Of `[rows, columns]` numbers, `[columns, rows]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let at = |column: usize| (0..rows).map(move |row| values[row * columns + column]);
    (0..columns).flat_map(at).collect()
}

/// A weight on the host, output channels first, with its shape.
fn channels_first(weight: &Parameter) -> Result<(Vec<usize>, Vec<f32>), IntegerError> {
    let values = read(weight.values.clone())?;
    Ok(match weight.shape.as_slice() {
        // Of a linear layer.
        &[inputs, outputs] => (vec![outputs, inputs], transposed(&values, inputs, outputs)),
        shape => (shape.to_vec(), values),
    })
}

fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, IntegerError> {
    let values = tensor.without_autodiff().try_into_vec_as::<f32>();
    values.map_err(|error| IntegerError::Device(error.to_string()))
}

/// The step size of an output channel.
fn channel(steps: &[f32], output: usize) -> f32 {
    steps.get(output).or(steps.first()).copied().unwrap_or(1.0)
}

/// `v` of one number, as [`codes`](crate::lsq::codes) computes it.
fn code(x: f32, step: f32, levels: Levels) -> i16 {
    let within = (x / step).clamp(levels.low() as f32, levels.high() as f32);
    within.round_ties_even() as i16
}

/// The bytes of a packed row.
fn row_bytes(numbers: usize, bits: u32) -> usize {
    (numbers * bits as usize).div_ceil(8)
}

/// A row, the lowest bits first.
fn packed(row: &[i16], bits: u32) -> Vec<u8> {
    let mut bytes = vec![0; row_bytes(row.len(), bits)];
    for (place, &value) in row.iter().enumerate() {
        for bit in 0..bits as usize {
            let at = place * bits as usize + bit;
            bytes[at / 8] |= ((value >> bit & 1) as u8) << (at % 8);
        }
    }
    bytes
}

fn unpacked(bytes: &[u8], bits: u32, numbers: usize) -> Vec<i16> {
    let of = |place: usize| {
        let value = (0..bits as usize).fold(0_i16, |value, bit| {
            let at = place * bits as usize + bit;
            value | i16::from(bytes[at / 8] >> (at % 8) & 1) << bit
        });
        // The highest bit is the sign.
        let unused = i16::BITS - bits;
        value << unused >> unused
    };
    (0..numbers).map(of).collect()
}

/// The terms whose sum has 32 bits, whatever 8-bit integers they multiply.
const BLOCK: usize = 1 << 15;

/// `Σ a b`, exact.
fn dot(a: &[i16], b: &[i16]) -> i64 {
    let blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK));
    let sums = blocks.map(|(a, b)| {
        let products = a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b));
        i64::from(products.sum::<i32>())
    });
    sums.sum()
}

/// A pass with integers.
struct Pass {
    layers: Vec<Option<Arc<IntegerLayer>>>,
    next: usize,
}

impl Pass {
    fn next(&mut self) -> Option<Arc<IntegerLayer>> {
        let layer = self.layers.get(self.next).cloned();
        self.next += 1;
        layer.flatten()
    }
}

impl IntegerLayer {
    /// `v_x` of an input; `None` if it cannot be read.
    fn input<const D: usize>(&self, x: Tensor<D>) -> Option<Vec<i16>> {
        let values = read(x).ok()?;
        let step = self.input_step;
        Some(
            values
                .iter()
                .map(|&x| code(x, step, self.levels[1]))
                .collect(),
        )
    }

    /// The scale and the bias of each output.
    fn ends(&self, outputs: usize, bias: Option<&Param<Tensor<1>>>) -> Option<Vec<[f32; 2]>> {
        let bias = match bias {
            Some(bias) => Some(read(bias.val()).ok()?),
            None => None,
        };
        let each = (0..outputs).map(|output| {
            let scale = channel(&self.weight_steps, output) * self.input_step;
            let bias = bias.as_ref().map_or(0.0, |bias| bias[output]);
            [scale, bias]
        });
        Some(each.collect())
    }
}

/// `a · s + b`, in two steps as the simulated pass has it.
fn end(sum: i64, [scale, bias]: [f32; 2], has_bias: bool) -> f32 {
    let scaled = sum as f32 * scale;
    if has_bias { scaled + bias } else { scaled }
}

impl LayerHook for Pass {
    fn linear(&mut self, layer: &Linear, x: Tensor<2>) -> Option<Tensor<2>> {
        let integers = self.next()?;
        let [rows, terms] = x.dims();
        let device = x.device();
        let outputs = layer.weight.dims()[1];
        let ends = integers.ends(outputs, layer.bias.as_ref())?;
        let has_bias = layer.bias.is_some();
        let x = integers.input(x)?;
        let mut y = vec![0.0; rows * outputs];
        let each = y.par_chunks_exact_mut(outputs.max(1));
        each.zip(x.par_chunks_exact(terms.max(1)))
            .for_each(|(y, x)| {
                let weights = integers.weight.chunks_exact(terms.max(1));
                for ((y, weight), end_of) in y.iter_mut().zip(weights).zip(&ends) {
                    *y = end(dot(x, weight), *end_of, has_bias);
                }
            });
        let data = TensorData::new(y, [rows, outputs]);
        Some(Tensor::from_data(data, &device))
    }

    fn conv2d(&mut self, layer: &Conv2d, x: Tensor<4>) -> Option<Tensor<4>> {
        let integers = self.next()?;
        let [examples, channels, height, width] = x.dims();
        let device = x.device();
        let size = [height, width];
        let padding = padding2d(&layer.padding, layer.kernel_size, layer.stride, size);
        let [outputs, inputs, ..] = layer.weight.dims();
        let window = |d: usize| layer.dilation[d] * (layer.kernel_size[d] - 1) + 1;
        let places = |d: usize| {
            let padded = size[d] + padding[d].0 + padding[d].1;
            padded
                .checked_sub(window(d))
                .map(|rest| rest / layer.stride[d] + 1)
        };
        let [rows, columns] = [places(0)?, places(1)?];
        let ends = integers.ends(outputs, layer.bias.as_ref())?;
        let has_bias = layer.bias.is_some();
        let x = integers.input(x)?;
        let geometry = Geometry {
            size,
            padding: [padding[0].0, padding[1].0],
            layer,
        };
        let mut y = vec![0.0; examples * outputs * rows * columns];
        let each = y.par_chunks_exact_mut((outputs * rows * columns).max(1));
        let pictures = x.par_chunks_exact((channels * height * width).max(1));
        each.zip(pictures).for_each(|(y, picture)| {
            let mut patch = vec![0; integers.terms];
            let outputs_of_group = outputs / layer.groups.max(1);
            for group in 0..layer.groups {
                let maps = &picture[group * inputs * height * width..];
                for place in 0..rows * columns {
                    geometry.gather(maps, inputs, [place / columns, place % columns], &mut patch);
                    for output in group * outputs_of_group..(group + 1) * outputs_of_group {
                        let weight = &integers.weight[output * integers.terms..];
                        let sum = dot(&patch, &weight[..integers.terms]);
                        y[output * rows * columns + place] = end(sum, ends[output], has_bias);
                    }
                }
            }
        });
        let data = TensorData::new(y, [examples, outputs, rows, columns]);
        Some(Tensor::from_data(data, &device))
    }
}

/// Where a convolution reads.
struct Geometry<'a> {
    size: [usize; 2],
    /// Zeros before the first row and column.
    padding: [usize; 2],
    layer: &'a Conv2d,
}

impl Geometry<'_> {
    /// What the output at a place reads, `[inputs, kernel height, kernel width]`.
    fn gather(&self, maps: &[i16], inputs: usize, place: [usize; 2], patch: &mut [i16]) {
        let [height, width] = self.size;
        let [kernel_height, kernel_width] = self.layer.kernel_size;
        let at = |d: usize, tap: usize| {
            let along = place[d] * self.layer.stride[d] + tap * self.layer.dilation[d];
            along
                .checked_sub(self.padding[d])
                .filter(|&i| i < self.size[d])
        };
        let taps = (0..inputs)
            .flat_map(|input| (0..kernel_height).map(move |row| (input, row)))
            .flat_map(|(input, row)| (0..kernel_width).map(move |column| (input, row, column)));
        for (value, (input, row, column)) in patch.iter_mut().zip(taps) {
            *value = match (at(0, row), at(1, column)) {
                (Some(row), Some(column)) => maps[(input * height + row) * width + column],
                _ => 0,
            };
        }
    }
}

#[cfg(test)]
mod tests;
