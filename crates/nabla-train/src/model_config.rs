//! The classifiers of this crate by name.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::classifier::{Classifier, ModelError};
use crate::cnn::CnnConfig;
use crate::examples::InputShape;
use crate::logistic_regression::LogisticRegressionConfig;
use crate::mlp::MlpConfig;
use crate::normalization::Normalization;
use crate::resnet::ResNetConfig;

/// A model by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum ModelConfig {
    /// `logistic-regression`
    LogisticRegression(LogisticRegressionConfig),
    /// `mlp`
    Mlp(MlpConfig),
    /// `cnn`
    Cnn(CnnConfig),
    /// `resnet`
    #[serde(rename = "resnet")]
    ResNet(ResNetConfig),
}

nabla_base::choices! {
    ModelConfig: "model" {
        "logistic" => Self::LogisticRegression(LogisticRegressionConfig::default()), "One linear layer";
        "mlp" => Self::Mlp(MlpConfig::default()), "Two hidden layers of 128 and 64 units";
        "cnn" => Self::Cnn(CnnConfig::default()), "Two convolutions with batch normalisation";
        "resnet20" => Self::ResNet(ResNetConfig::default()), "The ResNet-20 of CIFAR-10";
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self::Mlp(MlpConfig::default())
    }
}

impl ModelConfig {
    /// Its name.
    pub fn name(&self) -> String {
        match self {
            Self::LogisticRegression(_) => "logistic-regression".into(),
            Self::Mlp(_) => "mlp".into(),
            Self::Cnn(_) => "cnn".into(),
            Self::ResNet(c) => format!("resnet-{}", c.depth),
        }
    }

    /// Whether a training starts at [drawn](crate::initialization::he_normal) matrices and kernels, not at 0.
    pub fn is_drawn(&self) -> bool {
        !matches!(self, Self::LogisticRegression(_))
    }

    /// The same model with another normalisation.
    ///
    /// # Errors
    /// If it has none to choose.
    pub fn with_normalization(mut self, chosen: Normalization) -> Result<Self, ModelError> {
        match &mut self {
            Self::Cnn(CnnConfig { normalization, .. })
            | Self::ResNet(ResNetConfig { normalization, .. }) => {
                *normalization = chosen;
                Ok(self)
            }
            Self::LogisticRegression(_) | Self::Mlp(_) => {
                Err(ModelError::NoNormalization { model: self.name() })
            }
        }
    }

    /// Creates the model for examples of this shape, and hands it to `on`, which is generic over models.
    ///
    /// # Errors
    /// If a size is out of range, or the model needs pictures, and they are none or too small.
    pub fn init_for<O: OnModel>(
        &self,
        shape: InputShape,
        classes: usize,
        device: &Device,
        on: O,
    ) -> Result<O::Output, ModelError> {
        let features = shape.features();
        let picture = |model| match shape {
            InputShape::Picture(shape) => Ok(shape),
            InputShape::Row(features) => Err(ModelError::NeedsPictures { model, features }),
        };
        Ok(match self {
            Self::LogisticRegression(c) => on.on(c.init(features, classes, device)),
            Self::Mlp(c) => on.on(c.init(features, classes, device)?),
            Self::Cnn(c) => on.on(c.init(picture("cnn")?, classes, device)?),
            Self::ResNet(c) => on.on(c.init(picture("resnet")?, classes, device)?),
        })
    }
}

/// What is done with a model whose type follows from a [`ModelConfig`].
pub trait OnModel {
    /// The result.
    type Output;

    /// - `model`: with zeros for its matrices and kernels, which are to be drawn or loaded
    fn on<M: Classifier + 'static>(self, model: M) -> Self::Output;
}
