//! XOR clusters: a laboratory of benign overfitting and grokking.
//!
//! Four clusters lie around `±μ₁` and `±μ₂`, with `μ₁ ⊥ μ₂`; those around `±μ₁` have the label 1, the others −1, which no
//! linear classifier tells apart. A share `η` of the training labels is flipped. A two-layer network with rectified units
//! and a frozen outer layer is trained by gradient descent on all examples, from very small weights:
//!
//! ```text
//! x = c + N(0, I_p),   c ∈ {μ₁, −μ₁, μ₂, −μ₂},   ‖μ₁‖ = ‖μ₂‖ = ‖μ‖,   y = ±1, flipped with probability η
//! f(x) = Σ_j a_j max(0, ⟨w_j, x⟩),   a_j = ±1/√m,   w_j⁰ ~ N(0, ω² I)
//! w_j ← w_j + α/n Σ_i y_i σ(−y_i f(x_i)) a_j 1[⟨w_j, x_i⟩ > 0] x_i          logistic loss
//! ```
//!
//! After the first step, the network is nearly the linear classifier `⟨Σ_j a_j w_j / 2, x⟩`. In many dimensions this fits
//! all labels, the flipped ones too, and knows nothing of new examples: *catastrophic* overfitting. Later, the units turn
//! towards the means, and the network answers rightly on new examples while it still fits the flipped labels: *benign*
//! overfitting, and since it comes long after the fit, *grokking*. Whether it comes depends on `n ‖μ‖⁴ / p`.
//!
//! The noise looks the same from all sides, so that `μ₁` and `μ₂` may lie along the first two axes.
//!
//! Source: Xu, Wang, Frei, Vardi, Hu, *Benign Overfitting and Grokking in ReLU Networks for XOR Cluster Data*, 2023, arXiv
//! 2310.02541. Its theorem wants `‖μ‖² ≥ C n^0.51 √p`, `p ≥ C n² ‖μ‖²`, `α ≤ 1/(C n p)` and small first weights,
//! `ω n m^1.5 p ≤ α ‖μ‖`.

use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::{dot, norm};
use nabla_grad::seeded_noise::SeededNoise;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::two_layer_relu::{TwoLayerRelu, TwoLayerReluError};

/// The reason why there are no clusters, or no training on them.
#[derive(Debug, thiserror::Error)]
pub enum XorError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The network.
    #[error(transparent)]
    Network(#[from] TwoLayerReluError),
    /// The network and the examples differ in their number of inputs.
    #[error("the network has {network} inputs, but the examples have {examples}")]
    Inputs {
        /// Of the network.
        network: usize,
        /// Of the examples.
        examples: usize,
    },
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

/// The distribution of the examples.
///
/// ```
/// use burn::tensor::Device;
/// use nabla_probe::xor_grokking::XorClusters;
///
/// let clusters = XorClusters { dim: 50, ..XorClusters::default() };
/// let batch = clusters.sample(8, 1, &Device::flex())?;
/// assert_eq!(batch.x.dims(), [8, 50]);
/// # Ok::<(), nabla_probe::xor_grokking::XorError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct XorClusters {
    /// `p`, the dimensions; 20 000 by default.
    pub dim: usize,
    /// `‖μ‖²`; 400 by default.
    pub squared_norm: f64,
    /// `η`, the probability of a flipped label, from 0 to below ½; 0.15 by default.
    pub noise: f64,
}

impl Default for XorClusters {
    fn default() -> Self {
        Self {
            dim: 20_000,
            squared_norm: 400.0,
            noise: 0.15,
        }
    }
}

/// Examples of [`XorClusters`].
#[derive(Clone, Debug)]
pub struct XorBatch {
    /// `[examples, p]`.
    pub x: Tensor<2>,
    /// The labels 1 and −1, of which some are flipped.
    pub noisy: Vec<f64>,
    /// The labels of the clusters.
    pub clean: Vec<f64>,
    /// The cluster of each example: 0 around `μ₁`, 1 around `−μ₁`, 2 around `μ₂`, 3 around `−μ₂`.
    pub cluster: Vec<usize>,
}

impl XorClusters {
    /// Refuses numbers that are out of range.
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::at_least("number of dimensions", self.dim, 2)?;
        range::positive("squared norm of the means", self.squared_norm)?;
        let fits = (0.0..0.5).contains(&self.noise);
        range::check(
            fits,
            "probability of a flipped label",
            self.noise,
            "at least 0 and less than 0.5",
        )
    }

    /// `n ‖μ‖⁴ / p`, on which the error depends in the theorem.
    ///
    /// - `examples`: `n`
    pub fn signal(&self, examples: usize) -> f64 {
        examples as f64 * self.squared_norm * self.squared_norm / self.dim as f64
    }

    /// Examples; the same seed gives the same ones.
    ///
    /// # Errors
    /// If a number is out of range, or there are no examples.
    pub fn sample(
        &self,
        examples: usize,
        seed: u64,
        device: &Device,
    ) -> Result<XorBatch, XorError> {
        self.validate()?;
        range::at_least("number of examples", examples, 1)?;
        let mut draw = ChaCha8Rng::seed_from_u64(seed);
        let mut x = SeededNoise::new(seed, 1).normal_values(examples * self.dim);
        let length = self.squared_norm.sqrt() as f32;
        let (mut noisy, mut clean, mut clusters) = (Vec::new(), Vec::new(), Vec::new());
        for x in x.chunks_exact_mut(self.dim) {
            let cluster = draw.random_range(0..4);
            x[cluster / 2] += if cluster % 2 == 0 { length } else { -length };
            let label = if cluster < 2 { 1.0 } else { -1.0 };
            let flipped = draw.random::<f64>() < self.noise;
            noisy.push(if flipped { -label } else { label });
            clean.push(label);
            clusters.push(cluster);
        }
        Ok(XorBatch {
            x: Tensor::from_data(TensorData::new(x, [examples, self.dim]), device),
            noisy,
            clean,
            cluster: clusters,
        })
    }
}

/// How the network is trained, and when it is looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct XorTraining {
    /// `α`; 0.001 by default.
    pub learning_rate: f64,
    /// Steps of gradient descent; 100 by default.
    pub steps: usize,
    /// The steps after which the network is looked at, ascending.
    pub logged: Vec<usize>,
}

impl Default for XorTraining {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            steps: 100,
            logged: vec![0, 1, 2, 3, 5, 8, 10, 20, 50, 100],
        }
    }
}

/// How much of a network is the linear classifier `⟨Σ_j a_j w_j / 2, x⟩`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearPhase {
    /// The share of examples whose clean label the linear classifier has.
    pub accuracy: f64,
    /// The cosine between the outputs of both.
    pub cosine: f64,
}

impl LinearPhase {
    /// On some examples.
    ///
    /// # Errors
    /// If the numbers of inputs differ, or a value cannot be read.
    pub fn measure(network: &TwoLayerRelu, batch: &XorBatch) -> Result<Self, XorError> {
        let outputs = outputs(network, batch)?;
        Self::of(network, batch, &outputs)
    }

    fn of(network: &TwoLayerRelu, batch: &XorBatch, outputs: &[f64]) -> Result<Self, XorError> {
        let outer: Tensor<2> = network.outer.val().unsqueeze_dim(0); // [1, units]
        let direction = outer.matmul(network.inner.val()) / 2.0; // [1, p]
        let linear: Tensor<1> = batch.x.clone().matmul(direction.transpose()).squeeze_dim(1);
        let linear = read(linear)?;
        let cosine = dot(&linear, outputs) / (norm(&linear) * norm(outputs));
        Ok(Self {
            accuracy: accuracy(&linear, &batch.clean),
            cosine,
        })
    }
}

/// The network after some steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Steps taken.
    pub step: usize,
    /// The share of training examples whose noisy label the network has.
    pub training: f64,
    /// The share of training examples whose clean label it has: `1 − η` if the flipped labels are fitted.
    pub clean: f64,
    /// The share of test examples whose clean label it has.
    pub test: f64,
    /// The linear part, on the test examples.
    pub linear: LinearPhase,
    /// The mean of `|cos(w_j, μ)|` for the means of the unit's own label, `μ₁` where `a_j > 0` and `μ₂` elsewhere.
    pub aligned: f64,
    /// The same for the means of the other label.
    pub across: f64,
}

/// What becomes of the fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Some training labels are not fitted at the end.
    Unfitted,
    /// All are, and the test accuracy is near chance at the end ([`NEAR_CHANCE`]).
    Catastrophic,
    /// It is between chance and [`GENERALISES`].
    Tempered,
    /// It reaches [`GENERALISES`] without having been near chance when all labels were fitted first.
    Benign,
    /// It reaches [`GENERALISES`] after it was near chance when all labels were fitted first.
    Grokking,
}

/// The test accuracy up to which a network knows nearly nothing of new examples.
pub const NEAR_CHANCE: f64 = 0.6;
/// The test accuracy from which on it generalises.
pub const GENERALISES: f64 = 0.95;

/// A training, with what was seen on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrokkingTrace {
    /// After the logged steps.
    pub records: Vec<Record>,
}

impl GrokkingTrace {
    /// Trains `network` by gradient descent on the noisy labels of `data`; the outer layer stays as it is.
    ///
    /// # Errors
    /// If the learning rate is not positive, the logged steps don't ascend or end before the last step, the numbers of
    /// inputs differ, or a value cannot be read.
    ///
    /// ```
    /// use burn::tensor::Device;
    /// use nabla_probe::two_layer_relu::TwoLayerRelu;
    /// use nabla_probe::xor_grokking::{GrokkingTrace, Phase, XorClusters, XorTraining};
    ///
    /// let device = Device::flex();
    /// let clusters = XorClusters { dim: 2000, squared_norm: 150.0, noise: 0.1 };
    /// let (data, test) = (clusters.sample(100, 1, &device)?, clusters.sample(200, 2, &device)?);
    /// let network = TwoLayerRelu::frozen_head(2000, 64, 1e-8, 3, &device)?;
    /// let training = XorTraining { steps: 0, logged: vec![0], ..XorTraining::default() };
    /// let trace = GrokkingTrace::run(network, &data, &test, &training)?;
    /// assert_eq!(trace.phase(), Phase::Unfitted);
    /// # Ok::<(), nabla_probe::xor_grokking::XorError>(())
    /// ```
    pub fn run(
        network: TwoLayerRelu,
        data: &XorBatch,
        test: &XorBatch,
        training: &XorTraining,
    ) -> Result<Self, XorError> {
        range::positive("learning rate", training.learning_rate)?;
        let mut least = 0;
        for &step in &training.logged {
            range::within("logged step", step, least..=training.steps)?;
            least = step + 1;
        }
        let mut network = network;
        let mut records = Vec::with_capacity(training.logged.len());
        let mut logged = training.logged.iter().peekable();
        for step in 0..=training.steps {
            if logged.next_if(|&&at| at == step).is_some() {
                records.push(Record::of(step, &network, data, test)?);
            }
            if step < training.steps {
                descend(&mut network, data, training.learning_rate)?;
            }
        }
        Ok(Self { records })
    }

    /// What becomes of the fit.
    pub fn phase(&self) -> Phase {
        let fitted = self.records.iter().find(|record| record.training == 1.0);
        match (fitted, self.records.last()) {
            (Some(first), Some(last)) if last.training == 1.0 => match last.test {
                test if test >= GENERALISES && first.test <= NEAR_CHANCE => Phase::Grokking,
                test if test >= GENERALISES => Phase::Benign,
                test if test <= NEAR_CHANCE => Phase::Catastrophic,
                _ => Phase::Tempered,
            },
            _ => Phase::Unfitted,
        }
    }
}

/// One step of gradient descent, in the closed form of the [module documentation](self).
///
/// # Errors
/// If the numbers of inputs differ.
pub fn descend(
    network: &mut TwoLayerRelu,
    data: &XorBatch,
    learning_rate: f64,
) -> Result<(), XorError> {
    fits(network, data)?;
    let (inner, outer) = (network.inner.val(), network.outer.val());
    let x = data.x.clone();
    let hidden = x.clone().matmul(inner.clone().transpose()); // [examples, units]
    let on = hidden
        .clone()
        .greater_elem(0.0)
        .float()
        .cast(hidden.dtype());
    let row: Tensor<2> = outer.unsqueeze_dim(0); // [1, units]
    let f = relu(hidden).matmul(row.clone().transpose()); // [examples, 1]
    let examples = data.noisy.len();
    let y = TensorData::new(data.noisy.clone(), [examples, 1]);
    let y = Tensor::<2>::from_data(y, (&f.device(), f.dtype()));
    let pull = y.clone() * sigmoid(-(y * f)) / examples as f64; // [examples, 1]
    let change = (on * row * pull).transpose().matmul(x); // [units, p]
    network.inner = network
        .inner
        .clone()
        .map(|inner| inner + change * learning_rate);
    Ok(())
}

impl Record {
    fn of(
        step: usize,
        network: &TwoLayerRelu,
        data: &XorBatch,
        test: &XorBatch,
    ) -> Result<Self, XorError> {
        let on_data = outputs(network, data)?;
        let on_test = outputs(network, test)?;
        let inner = network.inner.val();
        let [units, _] = inner.dims();
        let lengths = read(inner.clone().square().sum_dim(1).sqrt().squeeze_dim::<1>(1))?;
        let along = read(inner.slice([0..units, 0..2]).flatten::<1>(0, 1))?; // ⟨w_j, μ₁⟩/‖μ‖, ⟨w_j, μ₂⟩/‖μ‖
        let outer = read(network.outer.val())?;
        let (mut aligned, mut across) = (0.0, 0.0);
        for ((along, length), a) in along.chunks_exact(2).zip(&lengths).zip(&outer) {
            let [first, second] = [along[0], along[1]].map(|part| part.abs() / length);
            let (own, other) = if *a > 0.0 {
                (first, second)
            } else {
                (second, first)
            };
            aligned += own / units as f64;
            across += other / units as f64;
        }
        Ok(Self {
            step,
            training: accuracy(&on_data, &data.noisy),
            clean: accuracy(&on_data, &data.clean),
            test: accuracy(&on_test, &test.clean),
            linear: LinearPhase::of(network, test, &on_test)?,
            aligned,
            across,
        })
    }
}

fn fits(network: &TwoLayerRelu, batch: &XorBatch) -> Result<(), XorError> {
    let ([_, inputs], [_, dim]) = (network.inner.dims(), batch.x.dims());
    match inputs == dim {
        true => Ok(()),
        false => Err(XorError::Inputs {
            network: inputs,
            examples: dim,
        }),
    }
}

fn outputs(network: &TwoLayerRelu, batch: &XorBatch) -> Result<Vec<f64>, XorError> {
    fits(network, batch)?;
    read(network.forward(batch.x.clone()))
}

/// The share of outputs with the sign of the label; 0 has none.
fn accuracy(outputs: &[f64], labels: &[f64]) -> f64 {
    let right = outputs.iter().zip(labels).filter(|(f, y)| *f * *y > 0.0);
    right.count() as f64 / labels.len() as f64
}

fn read(tensor: Tensor<1>) -> Result<Vec<f64>, XorError> {
    let values = tensor.try_into_vec_as::<f64>();
    values.map_err(|error| XorError::Device(error.to_string()))
}

#[cfg(test)]
mod tests;
