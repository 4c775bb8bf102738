//! A small staged generator, the decoder of a variational autoencoder, and its training.
//!
//! ```text
//! encoder: x → (μ, ln σ²) ∈ Rˡ × Rˡ,      z = μ + σ N(0, I)
//! decoder: z → tanh(W_1 z + b_1) → … → sigmoid(W_N h + b_N)        one linear layer a stage
//! loss:    Σ_pixels (x − G(z))²/2s² + ½ Σ (μ² + σ² − 1 − ln σ²)    mean over the batch
//! ```
//!
//! so that pictures come from `z ~ N(0, I)`, where an attack starts.
//!
//! Source: Kingma, Welling, *Auto-Encoding Variational Bayes*, 2013, arXiv 1312.6114.

use std::ops::ControlFlow;
use std::path::Path;

use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::flat::FlatError;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::activation::{sigmoid, tanh};
use nabla_kernels::linear::linear;
use nabla_train::initialization::he_normal;
use nabla_train::network_folder::{NetworkFolder, NetworkFolderError};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::staged_generator::StagedGenerator;

/// The configuration's file name in a generator's folder.
pub const CONFIG_FILE: &str = "generator.json";

const FOLDER: NetworkFolder = NetworkFolder {
    kind: "generator",
    config: CONFIG_FILE,
};

/// The streams of the seed; the first is that of the initial weights.
const ORDER_STREAM: u64 = 1;
const NOISE_STREAM: u64 = 2;

/// The most numbers of a picture, and units of a layer.
const MAX_WIDTH: usize = 65_536;

/// The reason why a generator is not trained or read.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// Its folder cannot be read or written.
    #[error(transparent)]
    Folder(#[from] NetworkFolderError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The network has no weights.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// The training ran away.
    #[error("the loss of the generator was not finite in step {0}: lower the learning rate")]
    NotFinite(usize),
    /// The observer stopped it.
    #[error("the training of the generator was stopped")]
    Stopped,
}

/// The size of a [`Decoder`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Channels, height and width of the pictures.
    pub shape: [usize; 3],
    /// The length of the latent vector.
    pub latent: usize,
    /// The units of each stage but the last, which makes the pixels.
    pub hidden: Vec<usize>,
}

impl DecoderConfig {
    /// With a latent vector of 16 numbers, and stages of 64 and 256 units.
    pub fn of(shape: [usize; 3]) -> Self {
        Self {
            shape,
            latent: 16,
            hidden: vec![64, 256],
        }
    }

    /// The decoder, with weights to be drawn or loaded.
    ///
    /// # Errors
    /// If a size is 0 or above 65536.
    pub fn init(&self, device: &Device) -> Result<Decoder, OutOfRange> {
        let pixels = self
            .shape
            .iter()
            .try_fold(1_usize, |n, &s| n.checked_mul(s));
        let pixels = pixels.unwrap_or(usize::MAX);
        range::within("numbers of a generator's picture", pixels, 1..=MAX_WIDTH)?;
        let widths: Vec<usize> = [self.latent]
            .into_iter()
            .chain(self.hidden.iter().copied())
            .chain([pixels])
            .collect();
        for &width in &widths {
            range::within("width of a generator's stage", width, 1..=MAX_WIDTH)?;
        }
        Ok(Decoder {
            layers: layers(&widths, device),
            shape: self.shape,
            latent: self.latent,
        })
    }
}

fn layers(widths: &[usize], device: &Device) -> Vec<Linear> {
    let layer = |pair: &[usize]| {
        LinearConfig::new(pair[0], pair[1])
            .with_initializer(Initializer::Zeros)
            .init(device)
    };
    widths.windows(2).map(layer).collect()
}

/// The generator.
#[derive(Module, Debug)]
pub struct Decoder {
    layers: Vec<Linear>,
    #[module(skip)]
    shape: [usize; 3],
    #[module(skip)]
    latent: usize,
}

impl StagedGenerator for Decoder {
    fn stages(&self) -> usize {
        self.layers.len()
    }

    fn latent(&self) -> usize {
        self.latent
    }

    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn stage(&self, k: usize, feature: Tensor<2>) -> Tensor<2> {
        let feature = match feature.is_autodiff() {
            true => feature,
            false => feature.autodiff(),
        };
        let h = linear(&self.layers[k], feature);
        match k + 1 == self.layers.len() {
            true => sigmoid(h),
            false => tanh(h),
        }
    }
}

impl Decoder {
    /// Writes it to a folder.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, config: &DecoderConfig, folder: &Path) -> Result<(), DecoderError> {
        Ok(FOLDER.save(config, self, folder)?)
    }

    /// Reads it from a folder.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, DecoderError> {
        let [config, weights] = FOLDER.read(folder)?;
        let config: DecoderConfig = FOLDER.config(&config, folder)?;
        let mut decoder = config.init(&device.clone().autodiff())?;
        FOLDER.load(&mut decoder, weights, folder)?;
        Ok(decoder.no_grad())
    }
}

/// How a [`Decoder`] is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecoderTraining {
    /// Default 12.
    pub epochs: usize,
    /// Default 64.
    pub batch: usize,
    /// Of Adam. Default 0.002.
    pub learning_rate: f64,
    /// `s`, how far pixels may be off. Default 0.1.
    pub deviation: f64,
    /// Default 42.
    pub seed: u64,
}

impl Default for DecoderTraining {
    fn default() -> Self {
        Self {
            epochs: 12,
            batch: 64,
            learning_rate: 0.002,
            deviation: 0.1,
            seed: 42,
        }
    }
}

/// The encoder beside the decoder.
#[derive(Module, Debug)]
struct Autoencoder {
    encoder: Vec<Linear>,
    decoder: Decoder,
}

impl Autoencoder {
    /// The loss of pictures, `[batch, pixels]`, with noise `[batch, latent]`.
    fn loss(&self, x: Tensor<2>, noise: Tensor<2>, deviation: f64) -> Tensor<1> {
        let last = self.encoder.len() - 1;
        let code = self
            .encoder
            .iter()
            .enumerate()
            .fold(x.clone(), |h, (i, layer)| {
                let h = linear(layer, h);
                if i == last { h } else { tanh(h) }
            });
        let latent = self.decoder.latent;
        let mean = code.clone().narrow(1, 0, latent);
        let log_variance = code.narrow(1, latent, latent);
        let z = mean.clone() + noise * (log_variance.clone() * 0.5).exp();
        let error = (self.decoder.pictures(0, z) - x).square().sum_dim(1);
        let error = error / (2.0 * deviation * deviation);
        let divergence = mean.square() + log_variance.clone().exp() - 1.0 - log_variance;
        (error + divergence.sum_dim(1) * 0.5).mean()
    }
}

/// Trains a decoder.
///
/// - `pictures`: in `[0, 1]`, `[examples, pixels]`, row by row
/// - `observe`: is told the step, from 1, the number of steps and the loss
///
/// # Errors
/// If a setting is out of range, or the training runs away or is stopped.
pub fn train_decoder(
    config: &DecoderConfig,
    training: DecoderTraining,
    pictures: &[f32],
    device: &Device,
    observe: &mut dyn FnMut(usize, usize, f64) -> ControlFlow<()>,
) -> Result<Decoder, DecoderError> {
    range::at_least("number of epochs", training.epochs, 1)?;
    range::at_least("size of a batch", training.batch, 1)?;
    range::positive("learning rate", training.learning_rate)?;
    range::positive("deviation of the pixels", training.deviation)?;
    let plain = device.clone().without_autodiff();
    let device = plain.clone().autodiff();
    let decoder = config.init(&device)?;
    let pixels: usize = config.shape.iter().product();
    let widths: Vec<usize> = [pixels]
        .into_iter()
        .chain(config.hidden.iter().rev().copied())
        .chain([2 * config.latent])
        .collect();
    let mut model = Autoencoder {
        encoder: layers(&widths, &device),
        decoder,
    };
    model = he_normal(model, training.seed)?;
    let count = pictures.len() / pixels;
    range::at_least("number of pictures", count, 1)?;
    let [mut draws, mut noise] =
        [ORDER_STREAM, NOISE_STREAM].map(|stream| SeededNoise::new(training.seed, stream));
    let mut adam = AdamConfig::new().with_epsilon(1e-8).init();
    let steps = training.epochs * count.div_ceil(training.batch);
    let mut order: Vec<usize> = (0..count).collect();
    let mut step = 0;
    for _ in 0..training.epochs {
        order.shuffle(&mut draws);
        for chosen in order.chunks(training.batch) {
            let rows = chosen.iter();
            let rows = rows.flat_map(|&i| &pictures[i * pixels..(i + 1) * pixels]);
            let rows: Vec<f32> = rows.copied().collect();
            let x = Tensor::from_data(TensorData::new(rows, [chosen.len(), pixels]), &plain);
            let z = noise.normal([chosen.len(), config.latent], &plain);
            let loss = model.loss(x.autodiff(), z.autodiff(), training.deviation);
            let value = loss.clone().into_scalar::<f64>();
            step += 1;
            if !value.is_finite() {
                return Err(DecoderError::NotFinite(step));
            }
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = adam.step(training.learning_rate, model, gradients);
            if observe(step, steps, value).is_break() {
                return Err(DecoderError::Stopped);
            }
        }
    }
    Ok(model.decoder.no_grad())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures of four pixels that are one number: a code of one number is enough.
    #[test]
    fn a_trained_decoder_makes_such_pictures_and_is_read_back() {
        let config = DecoderConfig {
            shape: [1, 2, 2],
            latent: 1,
            hidden: vec![8],
        };
        let pictures: Vec<f32> = (0..200).flat_map(|i| [i as f32 / 200.0; 4]).collect();
        let training = DecoderTraining {
            epochs: 60,
            batch: 20,
            learning_rate: 0.01,
            ..DecoderTraining::default()
        };
        let device = Device::flex();
        let mut losses = Vec::new();
        let decoder = train_decoder(&config, training, &pictures, &device, &mut |_, _, loss| {
            losses.push(loss);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(losses.len(), 600);
        assert!(losses[599] < 0.7 * losses[0]);
        let z = SeededNoise::new(1, 0).normal::<2>([50, 1], &device);
        let made = |decoder: &Decoder| -> Vec<f64> {
            let made = decoder.pictures(0, z.clone()).without_autodiff();
            made.into_data().iter().collect()
        };
        let found = made(&decoder);
        for picture in found.chunks(4) {
            let mean = picture.iter().sum::<f64>() / 4.0;
            assert!(
                picture.iter().all(|p| (p - mean).abs() < 0.15),
                "{picture:?}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        decoder.save(&config, folder.path()).unwrap();
        let again = made(&Decoder::load(folder.path(), &device).unwrap());
        // Weights are kept in half precision.
        assert!(nabla_base::vector::distance(&found, &again) < 0.05);
        let missing = Decoder::load(&folder.path().join("none"), &device);
        assert!(matches!(missing, Err(DecoderError::Folder(_))));
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        let config = DecoderConfig {
            latent: 0,
            ..DecoderConfig::of([1, 2, 2])
        };
        assert!(config.init(&Device::flex()).is_err());
        let huge = DecoderConfig::of([usize::MAX, 2, 2]);
        assert!(huge.init(&Device::flex()).is_err());
        let none = train_decoder(
            &DecoderConfig::of([1, 2, 2]),
            DecoderTraining::default(),
            &[],
            &Device::flex(),
            &mut |_, _, _| ControlFlow::Continue(()),
        );
        assert!(matches!(none, Err(DecoderError::Range(_))));
    }
}
