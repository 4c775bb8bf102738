//! The encoders of sparse autoencoders by name, with one number that says how sparse, and trained ones as folders:
//! `autoencoder.json`, and the weights in half precision.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use nabla_base::choices::Choices;
use nabla_base::range::{self, OutOfRange};
use nabla_train::network_folder::{NetworkFolder, NetworkFolderError};
use serde::{Deserialize, Serialize};

use crate::activation_set::ActivationSet;
use crate::feature_effect::{Coder, GradientOf};
use crate::gated_sae::{GatedSae, GatedSaeConfig};
use crate::gradient_sae::{GradientSae, GradientSaeConfig, Selection};
use crate::jump_relu_sae::{JumpReluSae, JumpReluSaeConfig};
use crate::sae_training::{SaeStep, SaeTraining};
use crate::sparse_autoencoder::{Codes, Dictionary, DictionaryConfig, SaeError, SparseAutoencoder};

/// An encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EncoderChoice {
    /// [`gradient_sae`](crate::gradient_sae).
    Gradient,
    /// The same without gradients.
    TopK,
    /// The largest of a whole batch.
    BatchTopK,
    /// [`gated_sae`](crate::gated_sae).
    Gated,
    /// [`jump_relu_sae`](crate::jump_relu_sae).
    JumpRelu,
}

nabla_base::choices! {
    EncoderChoice: "encoder" {
        "gradient" => Self::Gradient, "Latents that are active and matter for the loss, so many for each row";
        "top-k" => Self::TopK, "The most active latents, so many for each row";
        "batch-top-k" => Self::BatchTopK, "The most active latents of a batch, so many for a row in the mean";
        "gated" => Self::Gated, "One layer decides, one says how much; a penalty";
        "jump-relu" => Self::JumpRelu, "A threshold for each latent; a penalty";
    }
}

impl EncoderChoice {
    /// Its name.
    pub fn name(self) -> &'static str {
        let mut all = Self::choices().into_iter();
        let own = all.find(|choice| choice.value == self);
        own.map_or("encoder", |choice| choice.name)
    }

    /// Whether its sparsity is a number of active latents; otherwise it is the weight of a penalty.
    pub fn counts(self) -> bool {
        matches!(self, Self::Gradient | Self::TopK | Self::BatchTopK)
    }

    /// The gradients that make a difference when it is measured.
    pub fn gradients(self) -> &'static [GradientOf] {
        match self {
            Self::Gradient => &[
                GradientOf::OwnPrediction,
                GradientOf::Label,
                GradientOf::None,
            ],
            _ => &[GradientOf::None],
        }
    }

    /// Whether it learns from gradients.
    pub fn uses_gradients(self) -> bool {
        self == Self::Gradient
    }

    /// Refuses a sparsity that is out of range, before anything is recorded.
    ///
    /// # Errors
    /// An error with the number.
    pub fn validate(self, sparsity: f64, latents: usize) -> Result<(), OutOfRange> {
        match self.counts() {
            true => range::within("number of active latents", sparsity as usize, 1..=latents),
            false => range::not_negative("weight of the penalty", sparsity),
        }
    }

    /// Trains an autoencoder.
    ///
    /// - `sparsity`: active latents, or the weight of the penalty
    /// - `before`: is called before each step, and may stop the training
    ///
    /// # Errors
    /// If a number is out of range, or the training fails; nothing comes back if it was stopped.
    pub fn train(
        self,
        sparsity: f64,
        dictionary: &DictionaryConfig,
        training: &SaeTraining,
        data: &Arc<ActivationSet>,
        device: &Device,
        before: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<(TrainedEncoder, SaeStep)>, SaeError> {
        let active = sparsity as usize;
        Ok(match self {
            Self::Gradient | Self::TopK | Self::BatchTopK => {
                let mut config = match self {
                    Self::Gradient => GradientSaeConfig::new(active),
                    _ => GradientSaeConfig::top_k(active),
                };
                if self == Self::BatchTopK {
                    config.selection = Selection::Batch;
                }
                let sae = config.init(dictionary, data, device)?;
                let found = trained(sae, training, data, before)?;
                found.map(|(sae, step)| (TrainedEncoder::Gradient(sae), step))
            }
            Self::Gated => {
                let config = GatedSaeConfig { penalty: sparsity };
                let sae = config.init(dictionary, data, device)?;
                let found = trained(sae, training, data, before)?;
                found.map(|(sae, step)| (TrainedEncoder::Gated(sae), step))
            }
            Self::JumpRelu => {
                let sae = JumpReluSaeConfig::new(sparsity).init(dictionary, data, device)?;
                let found = trained(sae, training, data, before)?;
                found.map(|(sae, step)| (TrainedEncoder::JumpRelu(sae), step))
            }
        })
    }
}

fn trained<S: SparseAutoencoder>(
    sae: S,
    training: &SaeTraining,
    data: &Arc<ActivationSet>,
    before: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Option<(S, SaeStep)>, SaeError> {
    let mut trainer = training.trainer(sae, data.clone())?;
    while !trainer.is_finished() {
        if before().is_break() {
            return Ok(None);
        }
        trainer.train_step()?;
    }
    let step = trainer.task().last();
    Ok(step.map(|step| (trainer.model().clone(), step)))
}

/// What a folder's configuration says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderRecord {
    /// The encoder.
    pub encoder: EncoderChoice,
    /// Active latents, or the weight of the penalty.
    pub sparsity: f64,
    /// Latents.
    pub latents: usize,
    /// Values of an activation.
    pub width: usize,
    /// What the activations are of, in words.
    pub of: String,
    /// The block of that model before which they are read.
    pub block: usize,
}

const FOLDER: NetworkFolder = NetworkFolder {
    kind: "sparse autoencoder",
    config: "autoencoder.json",
};

/// The reason why a folder cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EncoderFolderError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] NetworkFolderError),
    /// What its configuration says.
    #[error(transparent)]
    Autoencoder(#[from] SaeError),
}

impl From<OutOfRange> for EncoderFolderError {
    fn from(error: OutOfRange) -> Self {
        Self::Autoencoder(error.into())
    }
}

/// A trained autoencoder of any of these kinds.
#[derive(Clone, Debug)]
pub enum TrainedEncoder {
    /// Top-k, with or without gradients.
    Gradient(GradientSae),
    /// Gated.
    Gated(GatedSae),
    /// JumpReLU.
    JumpRelu(JumpReluSae),
}

impl TrainedEncoder {
    /// Its directions.
    pub fn dictionary(&self) -> &Dictionary {
        match self {
            Self::Gradient(sae) => &sae.dictionary,
            Self::Gated(sae) => &sae.dictionary,
            Self::JumpRelu(sae) => &sae.dictionary,
        }
    }

    /// Checks, before a training, that a folder could be written.
    ///
    /// # Errors
    /// If it holds another kind of model.
    pub fn check_folder(folder: &Path) -> Result<(), EncoderFolderError> {
        Ok(FOLDER.check(folder)?)
    }

    /// Writes a folder.
    ///
    /// # Errors
    /// If a file cannot be written, or the folder holds another kind of model.
    pub fn save(&self, record: &EncoderRecord, folder: &Path) -> Result<(), EncoderFolderError> {
        match self {
            Self::Gradient(sae) => FOLDER.save(record, sae, folder)?,
            Self::Gated(sae) => FOLDER.save(record, sae, folder)?,
            Self::JumpRelu(sae) => FOLDER.save(record, sae, folder)?,
        }
        Ok(())
    }

    /// Reads a folder.
    ///
    /// # Errors
    /// If a file is missing, damaged, or of another kind of model.
    pub fn load(
        folder: &Path,
        device: &Device,
    ) -> Result<(Self, EncoderRecord), EncoderFolderError> {
        let [config, weights] = FOLDER.read(folder)?;
        let record: EncoderRecord = FOLDER.config(&config, folder)?;
        range::at_least("number of latents", record.latents, 1)?;
        range::at_least("width of an activation", record.width, 1)?;
        let active = record.sparsity as usize;
        let dictionary = Dictionary::empty(record.latents, record.width, device);
        let trained = match record.encoder {
            EncoderChoice::Gradient | EncoderChoice::TopK | EncoderChoice::BatchTopK => {
                let mut config = match record.encoder {
                    EncoderChoice::Gradient => GradientSaeConfig::new(active),
                    _ => GradientSaeConfig::top_k(active),
                };
                if record.encoder == EncoderChoice::BatchTopK {
                    config.selection = Selection::Batch;
                }
                let mut sae = config.with(dictionary, 1.0)?;
                FOLDER.load(&mut sae, weights, folder)?;
                Self::Gradient(sae)
            }
            EncoderChoice::Gated => {
                let penalty = record.sparsity;
                let mut sae = GatedSaeConfig { penalty }.with(dictionary)?;
                FOLDER.load(&mut sae, weights, folder)?;
                Self::Gated(sae)
            }
            EncoderChoice::JumpRelu => {
                let mut sae = JumpReluSaeConfig::new(record.sparsity).with(dictionary)?;
                FOLDER.load(&mut sae, weights, folder)?;
                Self::JumpRelu(sae)
            }
        };
        Ok((trained, record))
    }
}

impl Coder for TrainedEncoder {
    fn code(&self, x: Tensor<2>, gradient: Option<Tensor<2>>) -> Result<Codes, SaeError> {
        match self {
            Self::Gradient(sae) => sae.encode(x, gradient),
            Self::Gated(sae) => sae.encode(x, gradient),
            Self::JumpRelu(sae) => sae.encode(x, gradient),
        }
    }

    fn decoded(&self, codes: &Codes) -> Tensor<2> {
        self.dictionary().constant().decode(codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse_autoencoder::tests::data;

    #[test]
    fn every_encoder_is_trained_and_stopped() {
        let data = Arc::new(data(64));
        let device = Device::flex().autodiff();
        let training = SaeTraining {
            steps: 4,
            batch: 16,
            ..SaeTraining::default()
        };
        let begin = DictionaryConfig::new(12);
        for choice in EncoderChoice::choices() {
            let encoder: EncoderChoice = choice.value;
            assert_eq!(encoder.name(), choice.name);
            let sparsity = if encoder.counts() { 2.0 } else { 0.01 };
            let mut steps = 0;
            let mut go_on = || {
                steps += 1;
                ControlFlow::Continue(())
            };
            let found = encoder.train(sparsity, &begin, &training, &data, &device, &mut go_on);
            let (trained, step) = found.unwrap().unwrap();
            assert_eq!((steps, trained.dictionary().latents()), (4, 12));
            assert!(step.unexplained.is_finite());
            let rows = data.read(&[0, 1]).unwrap().activations;
            let x = burn::tensor::TensorData::new(rows, [2, 8]);
            let x = Tensor::from_data(x, &Device::flex());
            assert_eq!(trained.code(x, None).unwrap().examples(), 2);
            let folder = tempfile::tempdir().unwrap();
            let record = EncoderRecord {
                encoder,
                sparsity,
                latents: 12,
                width: 8,
                of: "data".to_owned(),
                block: 3,
            };
            trained.save(&record, folder.path()).unwrap();
            let (loaded, told) = TrainedEncoder::load(folder.path(), &device).unwrap();
            assert_eq!(told, record);
            let apart = loaded.dictionary().decoder.val() - trained.dictionary().decoder.val();
            let apart = crate::sparse_autoencoder::read(apart.abs().max()).unwrap();
            assert!(apart[0] < 1e-3, "{apart:?}");
            let stop = &mut || ControlFlow::Break(());
            let none = encoder.train(sparsity, &begin, &training, &data, &device, stop);
            assert!(none.unwrap().is_none());
        }
    }
}
