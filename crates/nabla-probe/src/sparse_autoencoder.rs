//! Sparse autoencoders: what a network's activation consists of, as a few directions out of many.
//!
//! An activation `x` of a frozen network is written as a sum of few rows of a dictionary, which are hoped to be features
//! that mean something:
//!
//! ```text
//! x ≈ s (Σ_j f_j w_j + b),   ‖w_j‖ = 1,   f sparse and ≥ 0,   f = encode((x/s − b) W_encᵀ + b_enc)
//! ```
//!
//! `s` brings all activations to one scale, so that learning rates and penalties mean the same for every network. The
//! encoders are files of their own: [`gradient_sae`](crate::gradient_sae) with the plain top-k encoder,
//! [`gated_sae`](crate::gated_sae) and [`jump_relu_sae`](crate::jump_relu_sae). Your own is a module that implements
//! [`SparseAutoencoder`]; [`SaeTraining::trainer`](crate::sae_training::SaeTraining::trainer) trains it.
//!
//! Sources: Gao et al., *Scaling and evaluating sparse autoencoders*, 2024, arXiv 2406.04093, for the loss, the unit rows
//! and the revival of dead latents.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::norm;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::matmul::product;
use nabla_kernels::selected_rows::{row_products, weighted_rows};
use nabla_train::error::TrainingError;
use nabla_train::optimizer::OptimizerError;
use serde::{Deserialize, Serialize};

use crate::activation_set::{ActivationError, ActivationSet};

/// The reason why there is no autoencoder, or no code of an activation.
#[derive(Debug, thiserror::Error)]
pub enum SaeError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The activations.
    #[error(transparent)]
    Activations(#[from] ActivationError),
    /// The optimizer.
    #[error(transparent)]
    Optimizer(#[from] OptimizerError),
    /// The training.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The activations are of another width.
    #[error("the dictionary is of activations of {dictionary} values, but they have {found}")]
    Width {
        /// Of the dictionary.
        dictionary: usize,
        /// Of the activations.
        found: usize,
    },
    /// There is not one gradient for each activation.
    #[error("the activations are {activations:?}, but their gradients {gradients:?}")]
    Gradients {
        /// The shape of the activations.
        activations: [usize; 2],
        /// The shape of the gradients.
        gradients: [usize; 2],
    },
    /// All recorded gradients are zero, or none were recorded.
    #[error(
        "the gradients of all activations are 0, so that they choose nothing: record them, or take beta 0"
    )]
    NoGradients,
    /// All activations are the same.
    #[error("all activations are the same, so that there is nothing to learn")]
    Constant,
    /// A row of a dictionary has no direction.
    #[error("row {0} of the dictionary is zero or not finite, so that it has no direction")]
    Row(usize),
    /// A value cannot be read from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
}

impl From<SaeError> for TrainingError {
    fn from(error: SaeError) -> Self {
        match error {
            SaeError::Training(error) => error,
            error => Self::task(error),
        }
    }
}

/// Where the offset `b` begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Centre {
    /// The point with the least sum of distances to the activations, which few large ones don't move.
    #[default]
    GeometricMedian,
    /// Their mean.
    Mean,
}

/// How a dictionary begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DictionaryConfig {
    /// `M`, the number of directions. Usual are 4 to 32 times the values of an activation.
    pub latents: usize,
    /// Where the offset begins; at the geometric median by default.
    pub centre: Centre,
    /// Of the first directions; 0 by default.
    pub seed: u64,
}

/// The rows from which the scale and the centre are measured.
const MEASURED_ROWS: usize = 4096;

impl DictionaryConfig {
    /// So many latents.
    pub fn new(latents: usize) -> Self {
        Self {
            latents,
            centre: Centre::default(),
            seed: 0,
        }
    }

    /// Refuses a number of latents that is out of range, or whose directions have more numbers than a tensor may have.
    ///
    /// - `width`: values of an activation
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(&self, width: usize) -> Result<(), OutOfRange> {
        const NUMBERS: usize = 1 << 31;
        range::within(
            "number of latents",
            self.latents,
            1..=NUMBERS / width.max(1),
        )
    }

    /// Random directions of length 1; the encoder begins as the transposed decoder.
    ///
    /// # Errors
    /// If there are no latents, or fewer than two different activations.
    pub fn init(&self, data: &ActivationSet, device: &Device) -> Result<Dictionary, SaeError> {
        let width = data.width();
        self.validate(width)?;
        range::at_least("number of activations", data.rows(), 2)?;
        let measured = data
            .read(&spread_over(data.rows(), MEASURED_ROWS))?
            .activations;
        let mean = mean_row(&measured, width);
        let squares: f64 = measured
            .chunks_exact(width)
            .flat_map(|row| row.iter().zip(&mean))
            .map(|(&x, m)| (f64::from(x) - m).powi(2))
            .sum();
        let deviation = (squares / measured.len() as f64).sqrt();
        if deviation == 0.0 {
            return Err(SaeError::Constant);
        }
        let centre = match self.centre {
            Centre::Mean => mean,
            Centre::GeometricMedian => geometric_median(&measured, mean),
        };
        let mut rows = SeededNoise::new(self.seed, 0).normal_values(self.latents * width);
        for row in rows.chunks_exact_mut(width) {
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter_mut().for_each(|v| *v /= length);
        }
        let rows = Tensor::<2>::from_data(TensorData::new(rows, [self.latents, width]), device);
        let bias: Vec<f64> = centre.iter().map(|v| v / deviation).collect();
        let vector = |values: Vec<f64>| {
            let count = values.len();
            Tensor::<1>::from_data(TensorData::new(values, [count]), (device, rows.dtype()))
        };
        Ok(Dictionary {
            encoder: Param::from_tensor(rows.clone()),
            encoder_bias: Param::from_tensor(vector(vec![0.0; self.latents])),
            decoder_bias: Param::from_tensor(vector(bias)),
            scale: Param::from_tensor(vector(vec![deviation])).set_require_grad(false),
            decoder: Param::from_tensor(rows),
        })
    }
}

/// At most `most` of `0..rows`, evenly spread.
pub(crate) fn spread_over(rows: usize, most: usize) -> Vec<usize> {
    let count = rows.min(most);
    (0..count).map(|i| i * rows / count).collect()
}

fn mean_row(values: &[f32], width: usize) -> Vec<f64> {
    let mut mean = vec![0.0; width];
    for row in values.chunks_exact(width) {
        for (mean, &value) in mean.iter_mut().zip(row) {
            *mean += f64::from(value);
        }
    }
    let rows = (values.len() / width) as f64;
    mean.iter_mut().for_each(|mean| *mean /= rows);
    mean
}

/// The point with the least sum of distances, by Weiszfeld's iteration from `from`.
fn geometric_median(values: &[f32], from: Vec<f64>) -> Vec<f64> {
    /// Enough for a start.
    const ITERATIONS: usize = 50;
    let mut at = from;
    for _ in 0..ITERATIONS {
        let (mut sum, mut weights) = (vec![0.0; at.len()], 0.0);
        for row in values.chunks_exact(at.len()) {
            let apart: Vec<f64> = row
                .iter()
                .zip(&at)
                .map(|(&x, c)| f64::from(x) - c)
                .collect();
            // A row at the point itself pulls nowhere.
            let weight = match norm(&apart) {
                0.0 => continue,
                distance => 1.0 / distance,
            };
            weights += weight;
            for (sum, &x) in sum.iter_mut().zip(row) {
                *sum += weight * f64::from(x);
            }
        }
        if weights == 0.0 {
            break;
        }
        at = sum.into_iter().map(|sum| sum / weights).collect();
    }
    at
}

/// The directions of an autoencoder, and the layer from which it chooses among them.
#[derive(Module, Debug)]
pub struct Dictionary {
    /// A row for each latent, `[latents, width]`.
    pub encoder: Param<Tensor<2>>,
    /// `b_enc`, `[latents]`.
    pub encoder_bias: Param<Tensor<1>>,
    /// `w_j`, of length 1, `[latents, width]`.
    pub decoder: Param<Tensor<2>>,
    /// `b`, `[width]`, in units of the scale.
    pub decoder_bias: Param<Tensor<1>>,
    /// `s`, `[1]`, not trained: the root of the mean square of an activation's value around the mean.
    pub scale: Param<Tensor<1>>,
}

impl Dictionary {
    /// From its parts, `[latents, width]`, `[latents]`, `[latents, width]` and `[width]`, at the scale 1.
    ///
    /// # Errors
    /// If they don't fit, or a row of the decoder has no direction; other lengths than 1 are brought to 1.
    pub fn of(
        encoder: Tensor<2>,
        encoder_bias: Tensor<1>,
        decoder: Tensor<2>,
        decoder_bias: Tensor<1>,
    ) -> Result<Self, SaeError> {
        let [latents, width] = decoder.dims();
        for (found, wanted) in [
            (encoder.dims(), [latents, width]),
            ([encoder_bias.dims()[0], width], [latents, width]),
            ([latents, decoder_bias.dims()[0]], [latents, width]),
        ] {
            if found != wanted {
                return Err(SaeError::Width {
                    dictionary: wanted[1].min(wanted[0]),
                    found: found[1].min(found[0]),
                });
            }
        }
        let lengths = read(decoder.clone().square().sum_dim(1).sqrt())?;
        let bad = lengths.iter().position(|&l| !(l > 0.0 && l.is_finite()));
        if let Some(row) = bad {
            return Err(SaeError::Row(row));
        }
        let one = Tensor::ones([1], (&decoder.device(), decoder.dtype()));
        let mut dictionary = Self {
            encoder: Param::from_tensor(encoder),
            encoder_bias: Param::from_tensor(encoder_bias),
            decoder: Param::from_tensor(decoder),
            decoder_bias: Param::from_tensor(decoder_bias),
            scale: Param::from_tensor(one).set_require_grad(false),
        };
        dictionary.normalize();
        Ok(dictionary)
    }

    /// Of zeros, to be loaded into.
    pub(crate) fn empty(latents: usize, width: usize, device: &Device) -> Self {
        let matrix = || Param::from_tensor(Tensor::zeros([latents, width], device));
        Self {
            encoder: matrix(),
            encoder_bias: Param::from_tensor(Tensor::zeros([latents], device)),
            decoder: matrix(),
            decoder_bias: Param::from_tensor(Tensor::zeros([width], device)),
            scale: Param::from_tensor(Tensor::ones([1], device)).set_require_grad(false),
        }
    }

    /// `M`.
    pub fn latents(&self) -> usize {
        self.decoder.dims()[0]
    }

    /// Values of an activation.
    pub fn width(&self) -> usize {
        self.decoder.dims()[1]
    }

    /// The dictionary as constants: no gradient goes to its parameters.
    pub fn constant(&self) -> ConstantDictionary {
        ConstantDictionary {
            encoder: self.encoder.val().without_autodiff(),
            encoder_bias: self.encoder_bias.val().without_autodiff(),
            decoder: self.decoder.val().without_autodiff(),
            decoder_bias: self.decoder_bias.val().without_autodiff(),
            scale: self.scale.val().without_autodiff(),
        }
    }

    /// Brings the rows of the decoder to the length 1.
    pub fn normalize(&mut self) {
        self.decoder = changed(self.decoder.clone(), |rows| {
            let ids = every_row(&rows);
            let squares = row_products(rows.clone(), ids.clone(), rows.clone()); // [latents, 1]
            // No row becomes zero by a step; one that was would stay.
            let lengths = squares.sqrt().clamp_min(f32::MIN_POSITIVE);
            weighted_rows(rows, ids, lengths.recip())
        });
    }

    /// `x/s − b`, `[batch, width]`, for `x` `[batch, width]`.
    pub fn centred(&self, x: Tensor<2>) -> Tensor<2> {
        x / self.scale.val().unsqueeze() - self.decoder_bias.val().unsqueeze()
    }

    /// `Σ_j f_j w_j + b`, `[batch, width]`, in units of the scale.
    ///
    /// - `ids`, `values`: `[batch, k]`, the latents of each example and their activity
    pub fn decoded(&self, ids: Tensor<2, Int>, values: Tensor<2>) -> Tensor<2> {
        weighted_rows(self.decoder.val(), ids, values) + self.decoder_bias.val().unsqueeze()
    }

    /// Refuses activations of another width.
    ///
    /// # Errors
    /// Then.
    pub fn check(&self, x: &Tensor<2>) -> Result<(), SaeError> {
        let [_, width] = x.dims();
        match width == self.width() {
            true => Ok(()),
            false => Err(SaeError::Width {
                dictionary: self.width(),
                found: width,
            }),
        }
    }
}

/// A [`Dictionary`] without gradients.
#[derive(Clone, Debug)]
pub struct ConstantDictionary {
    /// `[latents, width]`.
    pub encoder: Tensor<2>,
    /// `[latents]`.
    pub encoder_bias: Tensor<1>,
    /// `[latents, width]`.
    pub decoder: Tensor<2>,
    /// `[width]`.
    pub decoder_bias: Tensor<1>,
    /// `[1]`.
    pub scale: Tensor<1>,
}

impl ConstantDictionary {
    /// `(x/s − b) W_encᵀ`, `[batch, latents]`, without `b_enc`.
    pub fn products(&self, x: Tensor<2>) -> Tensor<2> {
        let centred = x / self.scale.clone().unsqueeze() - self.decoder_bias.clone().unsqueeze();
        times_rows(centred, self.encoder.clone())
    }

    /// `x ↦ s (Σ_j f_j w_j + b)`, `[batch, width]`.
    pub fn decode(&self, codes: &Codes) -> Tensor<2> {
        let options = (&self.decoder.device(), self.decoder.dtype());
        let (ids, values) = codes.padded(options.0);
        let sum = weighted_rows(self.decoder.clone(), ids, values.cast(options.1));
        (sum + self.decoder_bias.clone().unsqueeze()) * self.scale.clone().unsqueeze()
    }
}

/// The numbers of all rows of a matrix, `[rows, 1]`: the kernels of chosen rows are faster than Burn's products of rows with
/// a column.
pub(crate) fn every_row(matrix: &Tensor<2>) -> Tensor<2, Int> {
    let rows = matrix.dims()[0];
    let ids: Vec<i32> = (0..rows as i32).collect();
    Tensor::from_data(TensorData::new(ids, [rows, 1]), &matrix.device())
}

/// `a bᵀ` of `a` `[m, k]` and `b` `[n, k]`.
pub(crate) fn times_rows(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    product(a, b.transpose())
}

/// Which latents are active in each example, and how strongly.
#[derive(Clone, Debug, PartialEq)]
pub struct Codes {
    latents: usize,
    /// Where each example begins in the others, and the end.
    starts: Vec<usize>,
    ids: Vec<u32>,
    values: Vec<f32>,
}

impl Codes {
    /// Of no example yet.
    ///
    /// - `latents`: their number
    pub fn new(latents: usize) -> Self {
        Self {
            latents,
            starts: vec![0],
            ids: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Adds an example with its active latents; those at 0 or below are left out.
    pub fn push(&mut self, active: impl IntoIterator<Item = (usize, f32)>) {
        for (latent, value) in active {
            if value > 0.0 {
                self.ids.push(latent as u32);
                self.values.push(value);
            }
        }
        self.starts.push(self.ids.len());
    }

    /// Of values `[examples, latents]` that are zero where a latent is not active.
    pub(crate) fn of_dense(values: &[f32], latents: usize) -> Self {
        let mut codes = Self::new(latents);
        for row in values.chunks_exact(latents) {
            codes.push(row.iter().copied().enumerate());
        }
        codes
    }

    /// The number of latents.
    pub fn latents(&self) -> usize {
        self.latents
    }

    /// The number of examples.
    pub fn examples(&self) -> usize {
        self.starts.len() - 1
    }

    /// The active latents of an example with their values; none if there is no such example.
    pub fn of(&self, example: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let own = match (self.starts.get(example), self.starts.get(example + 1)) {
            (Some(&start), Some(&end)) => start..end,
            _ => 0..0,
        };
        let ids = self.ids[own.clone()].iter().map(|&id| id as usize);
        ids.zip(self.values[own].iter().copied())
    }

    /// The mean number of active latents.
    pub fn mean_active(&self) -> f64 {
        self.ids.len() as f64 / self.examples().max(1) as f64
    }

    /// The examples in which each latent is active.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.latents];
        for &id in &self.ids {
            counts[id as usize] += 1;
        }
        counts
    }

    /// As `[examples, k]` with the largest `k` of an example; in place of what others lack stand latent 0 and value 0.
    pub fn padded(&self, device: &Device) -> (Tensor<2, Int>, Tensor<2>) {
        let lengths = self.starts.windows(2).map(|pair| pair[1] - pair[0]);
        let (most, examples) = (lengths.max().unwrap_or(0).max(1), self.examples());
        let mut ids = vec![0_i32; examples * most];
        let mut values = vec![0.0_f32; examples * most];
        for example in 0..examples {
            for (place, (id, value)) in self.of(example).enumerate() {
                ids[example * most + place] = id as i32;
                values[example * most + place] = value;
            }
        }
        let shape = [examples, most];
        (
            Tensor::from_data(TensorData::new(ids, shape), device),
            Tensor::from_data(TensorData::new(values, shape), device),
        )
    }
}

/// A batch of a training.
#[derive(Clone, Debug)]
pub struct SaeBatch {
    /// `[batch, width]`.
    pub x: Tensor<2>,
    /// The gradient of the model's loss by each, `[batch, width]`.
    pub gradient: Tensor<2>,
    /// The latents that have not been active for long.
    pub dead: Vec<usize>,
    /// The share of the training that is over, in `[0, 1)`.
    pub progress: f64,
}

/// The loss of a batch, with what it consists of.
#[derive(Clone, Debug)]
pub struct Objective {
    /// What is minimised, `[1]`.
    pub loss: Tensor<1>,
    /// What was seen on the way.
    pub seen: Seen,
}

/// What was seen of a batch.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The mean square of what the reconstruction lacks, over that of the activations around their mean.
    pub unexplained: f64,
    /// The active latents.
    pub codes: Codes,
    /// The least score by which one was chosen, if the encoder chooses by scores.
    pub least_score: Option<f64>,
}

/// An autoencoder that can be trained on activations and asked for codes.
pub trait SparseAutoencoder: Module {
    /// The dictionary.
    fn dictionary(&self) -> &Dictionary;

    /// The dictionary, to be changed.
    fn dictionary_mut(&mut self) -> &mut Dictionary;

    /// The codes of activations.
    ///
    /// - `x`: `[batch, width]`
    /// - `gradient`: `[batch, width]`, of the model's loss by each; most encoders don't look at it
    ///
    /// # Errors
    /// If the tensors don't fit the dictionary, or a value cannot be read.
    fn encode(&self, x: Tensor<2>, gradient: Option<Tensor<2>>) -> Result<Codes, SaeError>;

    /// The loss of a batch.
    ///
    /// # Errors
    /// Like [`encode`](Self::encode).
    fn objective(&self, batch: SaeBatch) -> Result<Objective, SaeError>;

    /// The parameters that must be able to move far, by a pattern of their names, and how far in a training: their learning
    /// rate is raised where it wouldn't let them. None by default.
    fn far_moving(&self) -> Option<(&'static str, f64)> {
        None
    }

    /// Is called after a step with what was seen of its batch: brings the decoder's rows back to the length 1.
    ///
    /// # Errors
    /// If a value cannot be read.
    fn stepped(mut self, _seen: &Seen) -> Result<Self, SaeError> {
        self.dictionary_mut().normalize();
        Ok(self)
    }

    /// The activations of which these are the codes, `[batch, width]`.
    fn decode(&self, codes: &Codes) -> Tensor<2> {
        self.dictionary().constant().decode(codes)
    }

    /// What becomes of activations, `[batch, width]`: the decoded codes.
    ///
    /// # Errors
    /// Like [`encode`](Self::encode).
    fn reconstruct(
        &self,
        x: Tensor<2>,
        gradient: Option<Tensor<2>>,
    ) -> Result<Tensor<2>, SaeError> {
        Ok(self.decode(&self.encode(x, gradient)?))
    }
}

/// `Σ ‖x − x̄‖²` of a batch in units of the scale, and the same of its reconstruction's error, as numbers: their ratio is
/// the unexplained variance.
pub(crate) fn variance(x: &Tensor<2>) -> Result<f64, SaeError> {
    let x = x.clone().without_autodiff();
    let mean = x.clone().mean_dim(0);
    let sum = read_number((x - mean).square().sum())?;
    // A batch of one activation has no variance.
    Ok(if sum > 0.0 { sum } else { 1.0 })
}

/// A parameter with another value, of which no gradient is taken.
pub(crate) fn changed<const D: usize>(
    param: Param<Tensor<D>>,
    change: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Param<Tensor<D>> {
    let tracked = param.is_require_grad();
    let param = param.map(|value| {
        let autodiff = value.is_autodiff();
        let new = change(value.without_autodiff());
        if autodiff { new.autodiff() } else { new }
    });
    param.set_require_grad(tracked)
}

/// Reads a tensor to the host.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f64>, SaeError> {
    let values = tensor.try_into_vec_as::<f64>();
    values.map_err(|error| SaeError::Device(error.to_string()))
}

/// The number of a tensor that has one.
pub(crate) fn read_number<const D: usize>(tensor: Tensor<D>) -> Result<f64, SaeError> {
    Ok(read(tensor)?.first().copied().unwrap_or(f64::NAN))
}

/// [`read`], in single precision.
pub(crate) fn read_single<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, SaeError> {
    let values = tensor.try_into_vec_as::<f32>();
    values.map_err(|error| SaeError::Device(error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests;
