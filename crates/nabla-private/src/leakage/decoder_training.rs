//! The training of a [`Decoder`] as one half of a variational autoencoder, a task of the
//! [trainer](nabla_train::trainer).
//!
//! ```text
//! encoder: x → (μ, ln σ²) ∈ Rˡ × Rˡ,      z = μ + σ N(0, I)
//! loss:    Σ_pixels (x − G(z))²/2s² + ½ Σ (μ² + σ² − 1 − ln σ²)    mean over the batch
//! ```
//!
//! so that pictures come from `z ~ N(0, I)`, where an attack starts. Order and noise of a step come from streams of the
//! seed that belong to the epoch and the step, so a training that was interrupted goes on to the same bits.
//!
//! Source: Kingma, Welling, *Auto-Encoding Variational Bayes*, 2013, arXiv 1312.6114.

use std::fmt;

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::fingerprint::fingerprint_of;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::activation::tanh;
use nabla_kernels::linear::linear;
use nabla_train::initialization::he_normal;
use nabla_train::optimizer::{Method, OptimizerConfig};
use nabla_train::order::EpochOrder;
use nabla_train::schedule::{Decay, Schedule};
use nabla_train::{Learner, Task, Trainer, TrainerConfig, TrainingError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::decoder::{Decoder, DecoderConfig, layers};
use super::staged_generator::StagedGenerator;

/// The noise of step `t` is drawn from stream `NOISE + t` of the seed; the first streams are those of the initial weights
/// and of the orders.
const NOISE: u64 = 1 << 48;

/// How a [`Decoder`] is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecoderTraining {
    /// Default 12.
    pub epochs: usize,
    /// Default 64.
    pub batch: usize,
    /// Of Adam, the same for all steps. Default 0.002.
    pub learning_rate: f64,
    /// `s`, how far pixels may be off. Default 0.1.
    pub deviation: f64,
    /// Steps between two checkpoints. Default 200.
    pub checkpoint_every: usize,
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
            checkpoint_every: 200,
            seed: 42,
        }
    }
}

/// The encoder beside the decoder.
#[derive(Module, Debug)]
pub struct Autoencoder {
    encoder: Vec<Linear>,
    decoder: Decoder,
}

impl Autoencoder {
    /// The decoder alone, without gradients.
    pub fn decoder(&self) -> Decoder {
        self.decoder.clone().no_grad()
    }

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
        let latent = self.decoder.latent();
        let mean = code.clone().narrow(1, 0, latent);
        let log_variance = code.narrow(1, latent, latent);
        let z = mean.clone() + noise * (log_variance.clone() * 0.5).exp();
        let error = (self.decoder.pictures(0, z) - x).square().sum_dim(1);
        let error = error / (2.0 * deviation * deviation);
        let divergence = mean.square() + log_variance.clone().exp() - 1.0 - log_variance;
        (error + divergence.sum_dim(1) * 0.5).mean()
    }
}

impl DecoderTraining {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::at_least("number of epochs", self.epochs, 1)?;
        range::at_least("size of a batch", self.batch, 1)?;
        range::at_least(
            "number of steps between checkpoints",
            self.checkpoint_every,
            1,
        )?;
        range::positive("learning rate", self.learning_rate)?;
        range::positive("deviation of the pixels", self.deviation)
    }

    /// Begins a training, whose [model](Trainer::model) holds the [decoder](Autoencoder::decoder).
    ///
    /// - `pictures`: in `[0, 1]`, `[examples, pixels]`, row by row
    ///
    /// # Errors
    /// If a setting is out of range, or there is no picture.
    pub fn trainer<'a>(
        &self,
        config: &DecoderConfig,
        pictures: &'a [f32],
        device: &Device,
    ) -> Result<Trainer<DecoderTask<'a>>, TrainingError> {
        self.validate()?;
        let device = device.clone().without_autodiff().autodiff();
        let decoder = config.init(&device)?;
        let pixels: usize = config.shape.iter().product();
        let widths: Vec<usize> = [pixels]
            .into_iter()
            .chain(config.hidden.iter().rev().copied())
            .chain([2 * config.latent])
            .collect();
        let model = Autoencoder {
            encoder: layers(&widths, &device),
            decoder,
        };
        let model = he_normal(model, self.seed)?;
        let count = pictures.len() / pixels;
        range::at_least("number of pictures", count, 1)?;
        let order = EpochOrder::new(count, self.batch, self.seed);
        let trainer = TrainerConfig {
            steps: self.epochs * order.steps_per_epoch(),
            checkpoint_every: self.checkpoint_every,
            schedule: Schedule {
                decay: Decay::Constant,
                warmup: 0.0,
                warmup_steps: None,
            },
            optimizer: OptimizerConfig {
                learning_rate: Some(self.learning_rate),
                weight_decay: 0.0,
                ..OptimizerConfig::new(Method::named("adam")?)
            },
            ..TrainerConfig::default()
        };
        let task = DecoderTask {
            pictures,
            pixels,
            order,
            training: *self,
            config: config.clone(),
        };
        Trainer::new(trainer, task, model)
    }
}

/// What is trained.
#[derive(Clone)]
pub struct DecoderTask<'a> {
    /// `[examples, pixels]`.
    pictures: &'a [f32],
    pixels: usize,
    order: EpochOrder,
    training: DecoderTraining,
    config: DecoderConfig,
}

impl fmt::Debug for DecoderTask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecoderTask")
            .field("training", &self.training)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Task for DecoderTask<'_> {
    type Model = Autoencoder;
    /// Pictures, `[batch, pixels]`, and noise, `[batch, latent]`.
    type Batch = [Tensor<2>; 2];
    type Report = ();

    fn batch(&mut self, learner: &Learner<Autoencoder>) -> Result<[Tensor<2>; 2], TrainingError> {
        let (step, device) = (learner.step(), learner.device().clone().without_autodiff());
        let chosen = self.order.batch(step);
        let rows = chosen.iter();
        let rows = rows.flat_map(|&i| &self.pictures[i * self.pixels..(i + 1) * self.pixels]);
        let rows = TensorData::new(rows.copied().collect(), [chosen.len(), self.pixels]);
        let mut noise = SeededNoise::new(self.training.seed, NOISE + step as u64);
        let noise = noise.normal([chosen.len(), self.config.latent], &device);
        Ok([
            Tensor::from_data(rows, &device).autodiff(),
            noise.autodiff(),
        ])
    }

    fn loss(
        &mut self,
        model: &Autoencoder,
        [pictures, noise]: [Tensor<2>; 2],
    ) -> Result<Tensor<1>, TrainingError> {
        Ok(model.loss(pictures, noise, self.training.deviation))
    }

    fn settings(&self) -> Value {
        let bytes = self.pictures.iter().flat_map(|x| x.to_le_bytes());
        json!({
            "seed": self.training.seed,
            "batch": self.training.batch,
            "deviation": self.training.deviation,
            "decoder": self.config,
            "pictures": fingerprint_of(bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use nabla_base::vector::distance;

    const GO: fn() -> ControlFlow<()> = || ControlFlow::Continue(());

    fn config() -> DecoderConfig {
        DecoderConfig {
            shape: [1, 2, 2],
            latent: 1,
            hidden: vec![8],
        }
    }

    /// Pictures of four pixels that are one number: a code of one number is enough.
    fn pictures() -> Vec<f32> {
        (0..200).flat_map(|i| [i as f32 / 200.0; 4]).collect()
    }

    fn training() -> DecoderTraining {
        DecoderTraining {
            epochs: 60,
            batch: 20,
            learning_rate: 0.01,
            ..DecoderTraining::default()
        }
    }

    fn made(decoder: &Decoder) -> Vec<f64> {
        let z = SeededNoise::new(1, 0).normal::<2>([50, 1], &Device::flex());
        let made = decoder.pictures(0, z).without_autodiff();
        made.into_data().iter().collect()
    }

    #[test]
    fn a_trained_decoder_makes_such_pictures_and_is_read_back() {
        let (pictures, device) = (pictures(), Device::flex());
        let mut trainer = training().trainer(&config(), &pictures, &device).unwrap();
        trainer.run(None, &mut |_| GO()).unwrap();
        let losses = trainer.history().losses();
        assert_eq!(losses.len(), 600);
        assert!(losses[599] < 0.7 * losses[0]);
        let decoder = trainer.model().decoder();
        let found = made(&decoder);
        for picture in found.chunks(4) {
            let mean = picture.iter().sum::<f64>() / 4.0;
            assert!(
                picture.iter().all(|p| (p - mean).abs() < 0.15),
                "{picture:?}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        decoder.save(&config(), folder.path()).unwrap();
        let again = made(&Decoder::load(folder.path(), &device).unwrap());
        // Weights are kept in half precision.
        assert!(distance(&found, &again) < 0.05);
        let missing = Decoder::load(&folder.path().join("none"), &device);
        assert!(missing.is_err());
    }

    /// Stopped within an epoch and continued, the training has the same bits; other pictures are another training.
    #[test]
    fn an_interrupted_training_goes_on_to_the_same_bits() {
        let (pictures, device) = (pictures(), Device::flex());
        let training = DecoderTraining {
            epochs: 3,
            ..training()
        };
        let begin = || training.trainer(&config(), &pictures, &device).unwrap();
        let mut whole = begin();
        whole.run(None, &mut |_| GO()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let mut stopped = begin();
        let stop = &mut |progress: nabla_train::trainer::Progress<'_, ()>| match progress.step {
            17 => ControlFlow::Break(()),
            _ => GO(),
        };
        stopped.run(Some(&path), stop).unwrap();
        assert_eq!(stopped.step(), 17);
        let mut resumed = begin().resume(&path).unwrap();
        resumed.run(None, &mut |_| GO()).unwrap();
        assert_eq!(
            made(&resumed.model().decoder()),
            made(&whole.model().decoder())
        );
        assert_eq!(resumed.history().losses(), whole.history().losses());
        let others: Vec<f32> = pictures.iter().map(|p| 1.0 - p).collect();
        let other = training.trainer(&config(), &others, &device).unwrap();
        assert!(other.resume(&path).is_err());
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let begin = |training: DecoderTraining, pictures: &[f32]| {
            let config = DecoderConfig::of([1, 2, 2]);
            let found = training.trainer(&config, pictures, &Device::flex());
            matches!(found.map(drop), Err(TrainingError::Range(_)))
        };
        assert!(begin(training(), &[]));
        let still = DecoderTraining {
            learning_rate: 0.0,
            ..training()
        };
        assert!(begin(still, &[0.0; 4]));
    }
}
