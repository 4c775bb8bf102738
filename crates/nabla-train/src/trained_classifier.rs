//! A classifier that was trained, read from its folder: scores of new examples, and the features by which
//! generated samples are measured.
//!
//! The folder is that of `nabla train model`. Two of its files are read: `classifier.json`, a
//! [`ClassifierConfig`], and `model.safetensors`, the weights.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::classifier::{Classifier, ModelError, Seen};
use crate::examples::{InputShape, Scaling};
use crate::model_config::{ModelConfig, OnModel};
use crate::network_folder::{NetworkFolder, NetworkFolderError};

/// The configuration's file name in the folder of a trained classifier.
pub const CONFIG_FILE: &str = "classifier.json";

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
        let ClassifierConfig { shape, scaling, .. } = &config;
        if !scaling.fits(*shape) {
            return Err(TrainedClassifierError::Scaling {
                found: scaling.means.len(),
                shape: *shape,
            });
        }
        let loading = Loading { weights, name };
        let network = config
            .model
            .init_for(*shape, config.classes.len(), device, loading)??;
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

/// Hands the model of a folder with its weights to `on`, whatever its type, for those who need its gradients.
///
/// - `device`: where the model is created, with automatic differentiation if it is to have gradients
///
/// # Errors
/// As [`TrainedClassifier::load`].
pub fn load_model<O: OnModel>(
    folder: &Path,
    device: &Device,
    on: impl FnOnce(ClassifierConfig) -> O,
) -> Result<O::Output, TrainedClassifierError> {
    let [config, weights] = FOLDER.read(folder)?;
    let config: ClassifierConfig = FOLDER.config(&config, folder)?;
    let (model, shape, classes) = (config.model.clone(), config.shape, config.classes.len());
    let loading = LoadingFor {
        weights,
        name: folder,
        on: on(config),
    };
    Ok(model.init_for(shape, classes, device, loading)??)
}

struct LoadingFor<'a, O> {
    weights: Vec<u8>,
    name: &'a Path,
    on: O,
}

impl<O: OnModel> OnModel for LoadingFor<'_, O> {
    type Output = Result<O::Output, NetworkFolderError>;

    fn on<M: Classifier + 'static>(self, mut model: M) -> Self::Output {
        FOLDER.load(&mut model, self.weights, self.name)?;
        Ok(self.on.on(model))
    }
}

struct Loading<'a> {
    weights: Vec<u8>,
    name: &'a Path,
}

impl OnModel for Loading<'_> {
    type Output = Result<Box<dyn Network>, NetworkFolderError>;

    fn on<M: Classifier + 'static>(self, mut model: M) -> Self::Output {
        FOLDER.load(&mut model, self.weights, self.name)?;
        // Otherwise a gradient with respect to an example would be that of a network in training: normalised by the
        // statistics of the batch, and changed by them.
        Ok(Box::new(model.freeze()))
    }
}
