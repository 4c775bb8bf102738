//! A classifier that was trained, read from its folder: scores of new examples, and the features by which
//! generated samples are measured.
//!
//! The folder is that of `nabla train model`. Two of its files are read: `classifier.json`, a
//! [`ClassifierConfig`], and `model.safetensors`, the weights.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_quantize::{
    IntegerError, IntegerNetwork, QuantizationConfig, QuantizationError, Quantized, QuantizedLayer,
};
use serde::{Deserialize, Serialize};

use crate::classifier::{Classifier, ModelError, Seen};
use crate::examples::{InputShape, Scaling};
use crate::model_config::{AnyClassifier, ModelConfig};
use crate::network_folder::{NetworkFolder, NetworkFolderError};

/// The configuration's file name in the folder of a trained classifier.
pub const CONFIG_FILE: &str = "classifier.json";

/// The file name of the packed integers of a quantised network in that folder.
pub const INTEGERS_FILE: &str = "integers.safetensors";

const FOLDER: NetworkFolder = NetworkFolder {
    kind: "classifier",
    config: CONFIG_FILE,
};

/// The reason why a classifier cannot be loaded or asked.
#[derive(Debug, thiserror::Error)]
pub enum TrainedClassifierError {
    /// The folder cannot be read.
    #[error(transparent)]
    Folder(#[from] NetworkFolderError),
    /// The configuration describes no model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The scaling is not for these examples.
    #[error("the classifier scales {found} channels or features, but its examples are {shape:?}")]
    Scaling {
        /// The number of means.
        found: usize,
        /// The shape of its examples.
        shape: InputShape,
    },
    /// The examples have another width.
    #[error("the classifier is for examples of {expected} numbers, but these have {found}")]
    Width {
        /// Of the examples.
        found: usize,
        /// Of the classifier.
        expected: usize,
    },
    /// The network is quantised, and more is asked than its answers.
    #[error(
        "the layers of the classifier are rounded (it was trained with --quantize), so its loss has steps and no curvature: \
         choose a classifier that is not quantised"
    )]
    Rounded,
    /// The layers of a quantised network.
    #[error(transparent)]
    Quantization(#[from] QuantizationError),
    /// A network of integers.
    #[error(transparent)]
    Integers(#[from] IntegerError),
    /// The network is not quantised.
    #[error("the layers of the classifier are not rounded, so it is no network of integers")]
    NotRounded,
    /// The model sees no pictures.
    #[error(
        "the classifier has no feature maps: it must be a model of pictures, a cnn or a resnet"
    )]
    NoMaps,
}

/// What a program needs to know to classify with a model's weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// The names of the classes, in the order of their numbers.
    pub classes: Vec<String>,
    /// The shape of an example.
    pub shape: InputShape,
    /// How the features of an example are scaled before the model sees them.
    pub scaling: Scaling,
    /// The model.
    pub model: ModelConfig,
    /// Which of its layers are rounded; none without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizedClassifier>,
}

impl ClassifierConfig {
    /// The model, whose weights are to be loaded.
    fn init(&self, device: &Device) -> Result<AnyClassifier, ModelError> {
        self.model.init(self.shape, self.classes.len(), device)
    }

    /// The model with weights.
    ///
    /// - `folder`: for messages
    fn loaded(
        &self,
        weights: Vec<u8>,
        folder: &Path,
        device: &Device,
    ) -> Result<AnyClassifier, TrainedClassifierError> {
        let mut model = self.init(device)?;
        load_weights(&mut model, weights, folder)?;
        Ok(model)
    }
}

/// The rounded layers of a classifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizedClassifier {
    /// As the training was asked for.
    pub config: QuantizationConfig,
    /// All layers, in the order of the pass.
    pub layers: Vec<QuantizedLayer>,
}

/// The quantised model that a configuration describes.
///
/// - `folder`: for messages
fn quantized(
    config: &ClassifierConfig,
    weights: Vec<u8>,
    folder: &Path,
    device: &Device,
) -> Result<Quantized<AnyClassifier>, TrainedClassifierError> {
    let Some(QuantizedClassifier {
        config: bits,
        layers,
    }) = &config.quantization
    else {
        return Err(TrainedClassifierError::NotRounded);
    };
    let model = config.init(device)?;
    let mut model = Quantized::of_layers(model, layers.clone(), bits.per_channel)?;
    load_weights(&mut model, weights, folder)?;
    Ok(model)
}

/// The integers of a quantised classifier.
///
/// - `weights`: as those of `model.safetensors`
///
/// # Errors
/// If the classifier is not quantised, or the weights don't fit it.
pub(crate) fn integer_network(
    config: &ClassifierConfig,
    weights: Vec<u8>,
) -> Result<IntegerNetwork<AnyClassifier>, TrainedClassifierError> {
    let name = Path::new("the trained model");
    let model = quantized(config, weights, name, &Device::flex())?;
    Ok(IntegerNetwork::new(&model)?)
}

/// The configuration and the weights of a folder.
pub(crate) fn read_folder(
    folder: &Path,
) -> Result<(ClassifierConfig, Vec<u8>), TrainedClassifierError> {
    let [config, weights] = FOLDER.read(folder)?;
    Ok((FOLDER.config(&config, folder)?, weights))
}

/// Loads weights of a folder into a model.
pub(crate) fn load_weights<M: Classifier>(
    model: &mut M,
    weights: Vec<u8>,
    folder: &Path,
) -> Result<(), TrainedClassifierError> {
    Ok(FOLDER.load(model, weights, folder)?)
}

/// A classifier of any of the models.
trait Network: Send {
    fn logits(&self, input: Tensor<2>) -> Tensor<2>;
    fn seen(&self, input: Tensor<2>) -> Seen;
    fn maps(&self, input: Tensor<2>) -> Vec<Tensor<4>>;
}

impl<M: Classifier> Network for M {
    fn logits(&self, input: Tensor<2>) -> Tensor<2> {
        Classifier::logits(self, input)
    }

    fn seen(&self, input: Tensor<2>) -> Seen {
        Classifier::seen(self, input)
    }

    fn maps(&self, input: Tensor<2>) -> Vec<Tensor<4>> {
        Classifier::maps(self, input)
    }
}

/// A trained classifier; see the [module documentation](self).
///
/// ```no_run
/// use std::path::Path;
/// use burn::tensor::{Device, Tensor};
/// use nabla_train::trained_classifier::TrainedClassifier;
///
/// let device = Device::flex();
/// let classifier = TrainedClassifier::load(Path::new("out"), &device)?;
/// // Two pictures of 28 x 28 with values in [0, 1], as a data set has them.
/// let pictures = Tensor::zeros([2, 784], &device);
/// assert_eq!(classifier.logits(pictures)?.dims(), [2, 10]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TrainedClassifier {
    config: ClassifierConfig,
    network: Box<dyn Network>,
    means: Tensor<2>,
    scales: Tensor<2>,
}

impl std::fmt::Debug for TrainedClassifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrainedClassifier")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Network for IntegerNetwork<AnyClassifier> {
    fn logits(&self, input: Tensor<2>) -> Tensor<2> {
        self.pass(|network| Classifier::logits(network, input))
    }

    fn seen(&self, input: Tensor<2>) -> Seen {
        self.pass(|network| Classifier::seen(network, input))
    }

    fn maps(&self, input: Tensor<2>) -> Vec<Tensor<4>> {
        self.pass(|network| Classifier::maps(network, input))
    }
}

impl TrainedClassifier {
    /// Whether a folder holds a trained classifier.
    pub fn is_folder(folder: &Path) -> bool {
        folder.join(CONFIG_FILE).is_file()
    }

    /// Checks, before a training, that a folder holds no model of another kind.
    ///
    /// # Errors
    /// If it does.
    pub fn check(folder: &Path) -> Result<(), TrainedClassifierError> {
        Ok(FOLDER.check(folder)?)
    }

    /// Loads the folder of a training.
    ///
    /// # Errors
    /// If the folder or one of its files is missing or damaged, or the weights do not fit the configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, TrainedClassifierError> {
        let [config, weights] = FOLDER.read(folder)?;
        Self::from_files(&config, weights, folder, device)
    }

    /// Loads a classifier from the contents of its two files.
    ///
    /// - `config`, `weights`: the contents of `classifier.json` and `model.safetensors`
    /// - `name`: for messages, instead of a folder
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_files(
        config: &[u8],
        weights: Vec<u8>,
        name: &Path,
        device: &Device,
    ) -> Result<Self, TrainedClassifierError> {
        let config: ClassifierConfig = FOLDER.config(config, name)?;
        let network: Box<dyn Network> = match &config.quantization {
            Some(_) => Box::new(quantized(&config, weights, name, device)?.freeze()),
            // Otherwise a gradient with respect to an example would be that of a network in training: normalised by the
            // statistics of the batch, and changed by them.
            None => Box::new(config.loaded(weights, name, device)?.freeze()),
        };
        Self::of_network(config, network, device)
    }

    /// Loads a quantised classifier as integers, with which it answers the same, to the bit. It has no gradients.
    ///
    /// - `device`: without autodiff
    ///
    /// # Errors
    /// As [`load`](Self::load), or if it is not quantised.
    pub fn load_integers(folder: &Path, device: &Device) -> Result<Self, TrainedClassifierError> {
        let (config, _) = read_folder(folder)?;
        if config.quantization.is_none() {
            return Err(TrainedClassifierError::NotRounded);
        }
        let path = folder.join(INTEGERS_FILE);
        let bytes =
            std::fs::read(&path).map_err(|source| NetworkFolderError::Read { path, source })?;
        let network = IntegerNetwork::from_bytes(config.init(device)?.freeze(), &bytes)?;
        Self::of_network(config, Box::new(network), device)
    }

    fn of_network(
        config: ClassifierConfig,
        network: Box<dyn Network>,
        device: &Device,
    ) -> Result<Self, TrainedClassifierError> {
        let ClassifierConfig { shape, scaling, .. } = &config;
        if !scaling.fits(*shape) {
            return Err(TrainedClassifierError::Scaling {
                found: scaling.means.len(),
                shape: *shape,
            });
        }
        let row = |values: &[f64], otherwise: f32| {
            let width = shape.features();
            let group = width / values.len().max(1);
            let row: Vec<f32> = match values {
                [] => vec![otherwise; width],
                _ => (0..width)
                    .map(|i| values[i / group.max(1)] as f32)
                    .collect(),
            };
            Tensor::<2>::from_data(TensorData::new(row, [1, width]), device)
        };
        Ok(Self {
            means: row(&scaling.means, 0.0),
            scales: row(&scaling.scales, 1.0),
            network,
            config,
        })
    }

    /// Classes, shape, scaling and model.
    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    /// The scores before the softmax, `[batch, classes]`.
    ///
    /// - `examples`: `[batch, features]`, as the data set has them without scaling; a picture's features are its
    ///   channels, row by row, with values in `[0, 1]`
    ///
    /// # Errors
    /// If the examples have another width.
    pub fn logits(&self, examples: Tensor<2>) -> Result<Tensor<2>, TrainedClassifierError> {
        Ok(self.network.logits(self.scaled(examples)?))
    }

    /// What the last layer sees, and the scores, in one pass.
    ///
    /// - `examples`: as for [`logits`](Self::logits)
    ///
    /// # Errors
    /// If the examples have another width.
    pub fn seen(&self, examples: Tensor<2>) -> Result<Seen, TrainedClassifierError> {
        Ok(self.network.seen(self.scaled(examples)?))
    }

    /// The feature maps of a model of pictures; see [`Classifier::maps`].
    ///
    /// - `examples`: as for [`logits`](Self::logits)
    ///
    /// # Errors
    /// If the examples have another width, or the model has no maps.
    pub fn maps(&self, examples: Tensor<2>) -> Result<Vec<Tensor<4>>, TrainedClassifierError> {
        let maps = self.network.maps(self.scaled(examples)?);
        match maps.is_empty() {
            true => Err(TrainedClassifierError::NoMaps),
            false => Ok(maps),
        }
    }

    fn scaled(&self, examples: Tensor<2>) -> Result<Tensor<2>, TrainedClassifierError> {
        let [_, found] = examples.dims();
        let expected = self.config.shape.features();
        if found != expected {
            return Err(TrainedClassifierError::Width { found, expected });
        }
        Ok((examples - self.means.clone()) * self.scales.clone())
    }
}

/// The model of a folder with its weights, for those who need its gradients.
///
/// - `device`: where the model is created, with automatic differentiation if it is to have gradients
///
/// # Errors
/// As [`TrainedClassifier::load`], or if the classifier is quantised.
pub fn load_model(
    folder: &Path,
    device: &Device,
) -> Result<(ClassifierConfig, AnyClassifier), TrainedClassifierError> {
    let (config, weights) = read_folder(folder)?;
    if config.quantization.is_some() {
        return Err(TrainedClassifierError::Rounded);
    }
    let model = config.loaded(weights, folder, device)?;
    Ok((config, model))
}
