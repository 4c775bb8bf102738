//! The classifiers of this crate by name.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::classifier::{Classifier, ModelError, Seen};
use crate::cnn::{Cnn, CnnConfig};
use crate::examples::InputShape;
use crate::logistic_regression::{LogisticRegression, LogisticRegressionConfig};
use crate::mlp::{Mlp, MlpConfig};
use crate::normalization::{BatchStatistics, Normalization};
use crate::resnet::{ResNet, ResNetConfig};

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

    /// Creates the model for examples of this shape, with zeros for its matrices and kernels, which are to be drawn or
    /// loaded.
    ///
    /// # Errors
    /// If a size is out of range, or the model needs pictures, and they are none or too small.
    pub fn init(
        &self,
        shape: InputShape,
        classes: usize,
        device: &Device,
    ) -> Result<AnyClassifier, ModelError> {
        let features = shape.features();
        Ok(match self {
            Self::LogisticRegression(c) => {
                AnyClassifier::LogisticRegression(c.init(features, classes, device))
            }
            Self::Mlp(c) => AnyClassifier::Mlp(c.init(features, classes, device)?),
            Self::Cnn(c) => AnyClassifier::Cnn(c.init(picture("cnn", shape)?, classes, device)?),
            Self::ResNet(c) => {
                AnyClassifier::ResNet(c.init(picture("resnet", shape)?, classes, device)?)
            }
        })
    }
}

fn picture(model: &'static str, shape: InputShape) -> Result<[usize; 3], ModelError> {
    match shape {
        InputShape::Picture(shape) => Ok(shape),
        InputShape::Row(features) => Err(ModelError::NeedsPictures { model, features }),
    }
}

/// A model by name, whose type is the same for all of them.
#[derive(Module, Debug)]
// A program has one of them, not many.
#[expect(clippy::large_enum_variant)]
pub enum AnyClassifier {
    /// `logistic-regression`
    LogisticRegression(LogisticRegression),
    /// `mlp`
    Mlp(Mlp),
    /// `cnn`
    Cnn(Cnn),
    /// `resnet`
    ResNet(ResNet),
}

/// The same of whatever model it is.
macro_rules! of_each {
    ($self:ident, $model:ident => $value:expr) => {
        match $self {
            AnyClassifier::LogisticRegression($model) => $value,
            AnyClassifier::Mlp($model) => $value,
            AnyClassifier::Cnn($model) => $value,
            AnyClassifier::ResNet($model) => $value,
        }
    };
}

impl Classifier for AnyClassifier {
    fn logits(&self, input: Tensor<2>) -> Tensor<2> {
        of_each!(self, model => model.logits(input))
    }

    fn seen(&self, input: Tensor<2>) -> Seen {
        of_each!(self, model => model.seen(input))
    }

    fn head(&self) -> Option<&Linear> {
        of_each!(self, model => model.head())
    }

    fn maps(&self, input: Tensor<2>) -> Vec<Tensor<4>> {
        of_each!(self, model => model.maps(input))
    }

    fn batch_statistics(&self, input: Tensor<2>) -> Vec<BatchStatistics> {
        of_each!(self, model => model.batch_statistics(input))
    }
}
