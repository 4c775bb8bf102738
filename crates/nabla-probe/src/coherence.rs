//! Coherence: how much the gradients of different examples agree.
//!
//! With the gradient `g_i` of each of `m` examples at the same weights,
//!
//! ```text
//! α = ‖mean_i g_i‖² / mean_i ‖g_i‖²      between 0 and 1
//! m-coherence = m α = ‖Σ g_i‖² / Σ ‖g_i‖²
//! ```
//!
//! m-coherence is the number of examples, itself included, that a step along an example's gradient helps on average: 1
//! if gradients are orthogonal, `m` if they are equal, less than 1 where they cancel, 0 at a stationary point. It grows
//! with `m`: `α̂ = (m α − 1)/(m − 1)` leaves out the pairs of an example with itself, is not biased, and may be negative;
//! it is what different numbers of examples are compared by.
//!
//! For a part of the weights, such as a layer, the formula is the same on its coordinates; the whole has the mean of the
//! layers' `α` weighted by `Σ ‖g_i‖²`. Between two groups, such as examples with right and with wrong labels, the
//! [cross coherence](cross_coherence) is `ḡ_A · ḡ_B / (rms_A rms_B)`.
//!
//! The [alignment](Alignment) of an example is the cosine of its gradient and the sum of all others. Easy examples,
//! which are learnt early, have a high one; hard examples and wrong labels a low or negative one.
//!
//! A [`CoherenceMeter`] needs no gradient of an example by itself: sums and norms come from one backward pass over many
//! ([`nabla_kernels::per_example`]), in memory of the size of the weights. Sums are kept in `f64`. All examples must have
//! gradients of their own, so normalisations by the batch are those of use ([`ClassifierLoss`] sees to it).
//!
//! At random weights every example pushes the same offsets, so coherence is high whatever the labels are: compare
//! trainings from the tenth step on. Late in a training it turns round: few examples are left, and they disagree.
//!
//! Sources: Chatterjee, Zielinski, *On the Generalization Mystery in Deep Learning*, 2022, arXiv 2203.10036; Chatterjee,
//! *Coherent Gradients*, 2020, arXiv 2002.10657; Chatterjee, Zielinski, *Making Coherence Out of Nothing At All*, 2020,
//! arXiv 2008.01217.

use std::ops::{ControlFlow, Range};

use burn::module::Module;
use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::{add_scaled, dot, squared_norm};
use nabla_grad::flat::{FlatError, ParameterLayout};
use nabla_grad::per_example::PerExampleError;
use nabla_kernels::per_example::ExampleGradients;
use nabla_train::classification::Classification;
use nabla_train::classifier::Classifier;
use nabla_train::error::TrainingError;
use nabla_train::gradient_source::TrainingExamples;
use nabla_train::trainer::Trainer;
use serde::{Deserialize, Serialize};

use crate::sharpness::{ClassifierLoss, SharpnessError};

/// The reason why there is no coherence.
#[derive(Debug, thiserror::Error)]
pub enum CoherenceError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// One example agrees with itself.
    #[error("coherence is of at least 2 examples, but there are {0}")]
    TooFew(usize),
    /// All gradients are 0.
    #[error("the gradients of all examples are 0, so they neither agree nor disagree")]
    NoGradients,
    /// A gradient is not finite.
    #[error("a gradient of an example is not finite")]
    NotFinite,
    /// Gradients of different lengths.
    #[error("the gradients have {found} numbers, but {expected} are expected")]
    Width {
        /// Of the others.
        expected: usize,
        /// Of these.
        found: usize,
    },
    /// The gradients of the examples.
    #[error(transparent)]
    PerExample(#[from] PerExampleError),
    /// The parameters.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// The examples of a loss.
    #[error(transparent)]
    Loss(#[from] Box<SharpnessError>),
    /// The training.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The observer stopped the work.
    #[error("stopped")]
    Stopped,
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

/// How much the gradients of some examples agree; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coherence {
    /// `m`.
    pub examples: usize,
    /// `‖Σ g_i‖² / Σ ‖g_i‖²`, from 0 to `m`.
    pub m_coherence: f64,
    /// `m_coherence / m`.
    pub alpha: f64,
    /// `α̂`, without the pairs of an example with itself.
    pub alpha_unbiased: f64,
}

impl Coherence {
    /// - `of_sum`: `‖Σ g_i‖²`
    /// - `sum`: `Σ ‖g_i‖²`
    fn new(examples: usize, of_sum: f64, sum: f64) -> Result<Self, CoherenceError> {
        if examples < 2 {
            return Err(CoherenceError::TooFew(examples));
        }
        if !of_sum.is_finite() || !sum.is_finite() {
            return Err(CoherenceError::NotFinite);
        }
        if sum == 0.0 {
            return Err(CoherenceError::NoGradients);
        }
        let m = examples as f64;
        let m_coherence = of_sum / sum;
        Ok(Self {
            examples,
            m_coherence,
            alpha: m_coherence / m,
            alpha_unbiased: (m_coherence - 1.0) / (m - 1.0),
        })
    }
}

/// The coherence of gradients, `[examples, parameters]`.
///
/// # Errors
/// If there are fewer than 2 examples, or the gradients are all 0 or not finite.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_probe::coherence::coherence_from_grads;
///
/// let device = Device::flex();
/// let orthogonal = Tensor::<2>::from_floats([[3.0, 0.0], [0.0, 1.0]], &device);
/// assert_eq!(coherence_from_grads(&orthogonal)?.m_coherence, 1.0);
/// let equal = Tensor::<2>::from_floats([[3.0, 1.0], [3.0, 1.0]], &device);
/// assert_eq!(coherence_from_grads(&equal)?.m_coherence, 2.0);
/// # Ok::<(), nabla_probe::coherence::CoherenceError>(())
/// ```
pub fn coherence_from_grads(gradients: &Tensor<2>) -> Result<Coherence, CoherenceError> {
    let [examples, width] = gradients.dims();
    let values = read(gradients)?;
    let mut sum = vec![0.0; width];
    let mut squares = 0.0;
    for row in values.chunks(width.max(1)) {
        add_scaled(&mut sum, 1.0, row);
        squares += squared_norm(row);
    }
    Coherence::new(examples, squared_norm(&sum), squares)
}

fn read<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f64>, CoherenceError> {
    let values = tensor.clone().try_into_vec_as::<f64>();
    values.map_err(|error| CoherenceError::Device(error.to_string()))
}

/// A layer: its parameters have names with the same beginning.
#[derive(Clone, Debug)]
struct Layer {
    name: String,
    /// In the flat vector.
    ranges: Vec<Range<usize>>,
    /// `Σ ‖g_i‖²` of its part.
    squares: f64,
}

/// Collects gradients of examples, in memory of the size of the weights.
#[derive(Clone, Debug)]
pub struct CoherenceMeter {
    layout: ParameterLayout,
    layers: Vec<Layer>,
    /// `Σ g_i`, `[parameters]`.
    sum: Vec<f64>,
    examples: usize,
}

/// The coherence of all weights, and of each layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayeredCoherence {
    /// Of all weights.
    pub whole: Coherence,
    /// Of each layer with its name, in the order of the module; none where all gradients are 0.
    pub layers: Vec<(String, Option<Coherence>)>,
}

impl CoherenceMeter {
    /// An empty one for the parameters of a layout. A layer is what its parameters' names have before their last dot.
    pub fn new(layout: &ParameterLayout) -> Self {
        let mut layers: Vec<Layer> = Vec::new();
        for entry in layout.entries() {
            let name = entry.name().rsplit_once('.').map_or("", |(layer, _)| layer);
            match layers.last_mut().filter(|layer| layer.name == name) {
                Some(layer) => layer.ranges.push(entry.range()),
                None => layers.push(Layer {
                    name: name.to_owned(),
                    ranges: vec![entry.range()],
                    squares: 0.0,
                }),
            }
        }
        Self {
            layers,
            sum: vec![0.0; layout.total_length()],
            examples: 0,
            layout: layout.clone(),
        }
    }

    /// Of all examples of a classifier's loss.
    ///
    /// # Errors
    /// If a layer of the model has no gradients by example.
    pub fn of<M: Classifier>(loss: &ClassifierLoss<'_, M>) -> Result<Self, CoherenceError> {
        let mut meter = Self::new(&loss.layout);
        loss.for_each_backward(usize::MAX, |gradients| meter.push(&loss.model, gradients))?;
        Ok(meter)
    }

    /// Adds the examples of a backward pass, without computing a gradient of one.
    ///
    /// # Errors
    /// If a layer of the module has no gradients by example.
    pub fn push<M: Module>(
        &mut self,
        module: &M,
        gradients: &ExampleGradients,
    ) -> Result<(), CoherenceError> {
        for (id, norms) in gradients.squared_norms_by_parameter(module)? {
            let mut entries = self.layout.entries().iter();
            let Some(entry) = entries.find(|entry| entry.id() == id) else {
                continue;
            };
            let start = entry.range().start;
            let mut layers = self.layers.iter_mut();
            if let Some(layer) =
                layers.find(|layer| layer.ranges.iter().any(|range| range.start == start))
            {
                layer.squares += norms.iter().sum::<f64>();
            }
        }
        let ones = vec![1.0; gradients.examples()];
        let sum = gradients.weighted(module, &ones)?;
        let sum = read(&self.layout.flatten_gradients_or_zeros(&sum)?)?;
        add_scaled(&mut self.sum, 1.0, &sum);
        self.examples += gradients.examples();
        Ok(())
    }

    /// Adds gradients, `[examples, parameters]`.
    ///
    /// # Errors
    /// If they have another width.
    pub fn push_rows(&mut self, rows: &Tensor<2>) -> Result<(), CoherenceError> {
        let [examples, found] = rows.dims();
        let expected = self.sum.len();
        if found != expected {
            return Err(CoherenceError::Width { expected, found });
        }
        for row in read(rows)?.chunks(expected.max(1)) {
            add_scaled(&mut self.sum, 1.0, row);
            for layer in &mut self.layers {
                layer.squares += layer
                    .ranges
                    .iter()
                    .map(|range| squared_norm(&row[range.clone()]))
                    .sum::<f64>();
            }
        }
        self.examples += examples;
        Ok(())
    }

    /// `Σ g_i`, `[parameters]`.
    pub fn sum(&self) -> &[f64] {
        &self.sum
    }

    /// `Σ ‖g_i‖²`.
    pub fn squares(&self) -> f64 {
        self.layers.iter().map(|layer| layer.squares).sum()
    }

    /// The number of examples so far.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// The coherence of the examples so far.
    ///
    /// # Errors
    /// If there are fewer than 2, or their gradients are all 0 or not finite.
    pub fn finish(&self) -> Result<LayeredCoherence, CoherenceError> {
        let whole = Coherence::new(self.examples, squared_norm(&self.sum), self.squares())?;
        let layers = self.layers.iter().map(|layer| {
            let of_sum = layer
                .ranges
                .iter()
                .map(|range| squared_norm(&self.sum[range.clone()]))
                .sum();
            let coherence = Coherence::new(self.examples, of_sum, layer.squares).ok();
            (layer.name.clone(), coherence)
        });
        Ok(LayeredCoherence {
            whole,
            layers: layers.collect(),
        })
    }
}

/// `ḡ_A · ḡ_B / (rms_A rms_B)`: how much the examples of two groups agree.
///
/// # Errors
/// If the groups are of different weights, or one has no gradients.
pub fn cross_coherence(a: &CoherenceMeter, b: &CoherenceMeter) -> Result<f64, CoherenceError> {
    let (expected, found) = (a.sum.len(), b.sum.len());
    if expected != found {
        return Err(CoherenceError::Width { expected, found });
    }
    let (m, n) = (a.examples as f64, b.examples as f64);
    let scale = ((a.squares() / m) * (b.squares() / n)).sqrt();
    if scale.is_nan() || scale == 0.0 {
        return Err(CoherenceError::NoGradients);
    }
    let value = dot(&a.sum, &b.sum) / (m * n) / scale;
    match value.is_finite() {
        true => Ok(value),
        false => Err(CoherenceError::NotFinite),
    }
}

/// How an example's gradient lies to the others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alignment {
    /// `cos(g_i, Σ_{j≠i} g_j)`; 0 if one of them is 0.
    pub cosine: f64,
    /// `‖g_i‖`.
    pub norm: f64,
}

/// The alignments of gradients, `[examples, parameters]`, that are among those of `sum`.
///
/// - `sum`: `Σ g_i` of all examples
///
/// # Errors
/// If the widths differ.
pub fn alignments(rows: &Tensor<2>, sum: &[f64]) -> Result<Vec<Alignment>, CoherenceError> {
    let [_, found] = rows.dims();
    let expected = sum.len();
    if found != expected {
        return Err(CoherenceError::Width { expected, found });
    }
    let whole = squared_norm(sum);
    let rows = read(rows)?;
    let of_row = |row: &[f64]| {
        let (own, along) = (squared_norm(row), dot(row, sum));
        // ‖Σ − g‖² and ⟨g, Σ − g⟩
        let others = (whole - 2.0 * along + own).max(0.0);
        let lengths = (own * others).sqrt();
        let cosine = if lengths > 0.0 {
            (along - own) / lengths
        } else {
            0.0
        };
        Alignment {
            cosine: cosine.clamp(-1.0, 1.0),
            norm: own.sqrt(),
        }
    };
    Ok(rows.chunks(expected.max(1)).map(of_row).collect())
}

/// The most numbers of gradients at once.
const MOST_NUMBERS: usize = 1 << 24;

/// What the examples of a classifier's loss tell of each other.
#[derive(Clone, Debug)]
pub struct ClassifierCoherence {
    /// Their coherence.
    pub coherence: LayeredCoherence,
    /// Their alignments, in their order; empty unless asked for.
    pub alignments: Vec<Alignment>,
}

impl ClassifierCoherence {
    /// Measures it.
    ///
    /// - `each`: whether to compute the alignment of each example, for which its gradient is computed
    ///
    /// # Errors
    /// If a layer of the model has no gradients by example, or there are fewer than 2 examples.
    pub fn of<M: Classifier>(
        loss: &ClassifierLoss<'_, M>,
        each: bool,
    ) -> Result<Self, CoherenceError> {
        let meter = CoherenceMeter::of(loss)?;
        let mut found = Vec::new();
        if each {
            let at_once = (MOST_NUMBERS / loss.parameters().max(1)).max(1);
            loss.for_each_backward::<CoherenceError>(at_once, |gradients| {
                let rows = gradients.rows(&loss.model, &loss.layout)?;
                found.extend(alignments(&rows, meter.sum())?);
                Ok(())
            })?;
        }
        Ok(Self {
            coherence: meter.finish()?,
            alignments: found,
        })
    }
}

/// The state of a training at a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// Steps done.
    pub step: usize,
    /// The mean loss of the examples.
    pub loss: f64,
    /// The share of right answers.
    pub accuracy: f64,
    /// The coherence; none where the gradients are all 0.
    pub coherence: Option<LayeredCoherence>,
}

/// The coherence of examples over a training, and when each of them was learnt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoherenceCurve {
    /// At each of the steps that were asked for.
    pub moments: Vec<Moment>,
    /// As far as these steps tell.
    pub learnt: LearnTimes,
}

impl CoherenceCurve {
    /// Runs a training to its end, and measures at some steps.
    ///
    /// - `examples`: without changes of the pictures
    /// - `indices`: of the examples that are measured
    /// - `steps`: ascending; those beyond the training's end are left out
    /// - `observe`: is called after each step of the training
    ///
    /// # Errors
    /// If the training fails, a layer has no gradients by example, or the observer stops the work.
    pub fn of<M: Classifier>(
        trainer: &mut Trainer<Classification<'_, M>>,
        examples: &TrainingExamples<'_>,
        indices: &[usize],
        steps: &[usize],
        observe: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Self, CoherenceError> {
        let mut learnt = LearnTimes::new(indices.len());
        let mut moments = Vec::with_capacity(steps.len());
        let last = trainer.steps();
        for &step in steps.iter().filter(|&&step| step <= last) {
            while trainer.step() < step {
                trainer.train_step()?;
                if observe().is_break() {
                    return Err(CoherenceError::Stopped);
                }
            }
            let loss =
                ClassifierLoss::new(trainer.model().clone(), examples.clone(), indices, false);
            let loss = loss.map_err(Box::new)?;
            learnt.record(step, &loss.answers().map_err(Box::new)?)?;
            let (mean, accuracy) = loss.loss().map_err(Box::new)?;
            let coherence = match ClassifierCoherence::of(&loss, false) {
                Ok(found) => Some(found.coherence),
                Err(CoherenceError::NoGradients) => None,
                Err(error) => return Err(error),
            };
            moments.push(Moment {
                step,
                loss: mean,
                accuracy,
                coherence,
            });
        }
        Ok(Self { moments, learnt })
    }
}

/// When each example was learnt in a training: first, and for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnTimes {
    first: Vec<Option<usize>>,
    since: Vec<Option<usize>>,
}

impl LearnTimes {
    /// For this number of examples.
    pub fn new(examples: usize) -> Self {
        Self {
            first: vec![None; examples],
            since: vec![None; examples],
        }
    }

    /// Notes which examples are answered rightly at a step; steps must come in their order.
    ///
    /// # Errors
    /// If there are not as many answers as examples.
    pub fn record(&mut self, step: usize, right: &[bool]) -> Result<(), CoherenceError> {
        let expected = format!("{}, one for each example", self.first.len());
        range::check(
            right.len() == self.first.len(),
            "number of answers",
            right.len(),
            expected,
        )?;
        for ((first, since), &right) in self.first.iter_mut().zip(&mut self.since).zip(right) {
            match right {
                true => {
                    first.get_or_insert(step);
                    since.get_or_insert(step);
                }
                false => *since = None,
            }
        }
        Ok(())
    }

    /// The first step at which each was right; none for those that never were.
    pub fn first(&self) -> &[Option<usize>] {
        &self.first
    }

    /// The step since which each has been right; none for those that are wrong at the end.
    pub fn since(&self) -> &[Option<usize>] {
        &self.since
    }
}

#[cfg(test)]
mod tests;
