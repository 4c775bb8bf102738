//! The trait of models that can be trained here.

use burn::module::{Module, ModuleDisplay};
use burn::nn::Linear;
use burn::tensor::Tensor;
use nabla_base::range::{self, OutOfRange};
use nabla_kernels::linear::linear;
use nabla_quantize::{Quantized, Quantizer};

use crate::normalization::BatchStatistics;

/// A Burn module that scores classes.
pub trait Classifier: Module {
    /// The scores before the softmax.
    ///
    /// - `input`: `[batch, features]`; a picture's features are its channels, row by row
    /// - returns `[batch, classes]`
    fn logits(&self, input: Tensor<2>) -> Tensor<2>;

    /// What the model sees in an example, which is the input of its last layer, and the scores. Unless a model says
    /// which layer that is, it sees the scores.
    ///
    /// - `input`: as for [`logits`](Self::logits)
    fn seen(&self, input: Tensor<2>) -> Seen {
        let logits = self.logits(input);
        Seen {
            features: logits.clone(),
            logits,
        }
    }

    /// The linear layer that makes the scores from the features of [`seen`](Self::seen), for methods that need its
    /// gradients and curvature in closed form. `None`, the default, for a model whose last layer is another one.
    fn head(&self) -> Option<&Linear> {
        None
    }

    /// The feature maps of a model of pictures, after each of its stages, the finest first:
    /// `[batch, channels, height, width]` each. None for other models.
    ///
    /// - `input`: as for [`logits`](Self::logits)
    fn maps(&self, _input: Tensor<2>) -> Vec<Tensor<4>> {
        Vec::new()
    }

    /// The step sizes of a model that computes its layers in few bits. None for other models.
    fn quantizers(&self) -> Vec<Quantizer> {
        Vec::new()
    }

    /// The statistics of what goes into each batch normalisation, in the order of the pass. None for other models.
    ///
    /// - `input`: as for [`logits`](Self::logits)
    fn batch_statistics(&self, _input: Tensor<2>) -> Vec<BatchStatistics> {
        Vec::new()
    }
}

/// A classifier with its layers in few bits, which trains as any other.
impl<M: Classifier + ModuleDisplay> Classifier for Quantized<M> {
    fn logits(&self, input: Tensor<2>) -> Tensor<2> {
        self.pass(|network| network.logits(input))
    }

    fn seen(&self, input: Tensor<2>) -> Seen {
        self.pass(|network| network.seen(input))
    }

    /// That of the network, unless its last layer is rounded: its gradients have no closed form then.
    fn head(&self) -> Option<&Linear> {
        match self.layers().last() {
            Some(last) if last.levels.is_none() => self.network.head(),
            _ => None,
        }
    }

    fn maps(&self, input: Tensor<2>) -> Vec<Tensor<4>> {
        self.pass(|network| network.maps(input))
    }

    fn quantizers(&self) -> Vec<Quantizer> {
        Self::quantizers(self)
    }

    fn batch_statistics(&self, input: Tensor<2>) -> Vec<BatchStatistics> {
        self.pass(|network| network.batch_statistics(input))
    }
}

/// What a model makes of examples, in one pass.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The input of its last layer, `[batch, features]`.
    pub features: Tensor<2>,
    /// The scores before the softmax, `[batch, classes]`.
    pub logits: Tensor<2>,
}

impl Seen {
    /// From the input of a linear last layer.
    pub fn through(output: &Linear, features: Tensor<2>) -> Self {
        Self {
            logits: linear(output, features.clone()),
            features,
        }
    }
}

/// A model does not fit the data, or has an invalid size.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// A model of pictures was used for a table.
    #[error("a {model} needs pictures, but the examples are rows of {features} numbers")]
    NeedsPictures {
        /// The model.
        model: &'static str,
        /// Numbers of a row.
        features: usize,
    },
    /// The pictures are too small.
    #[error(
        "a {model} with {layers} reductions by 2 needs pictures of {needed} pixels a side, but they have {found}"
    )]
    TooSmall {
        /// The model.
        model: &'static str,
        /// The number of times that it halves the picture.
        layers: usize,
        /// The minimum side.
        needed: usize,
        /// The shorter side of the pictures.
        found: usize,
    },
    /// A normalisation was chosen for a model without one.
    #[error("a normalisation can be chosen for the cnn and the resnet, but the model is {model}")]
    NoNormalization {
        /// The model.
        model: String,
    },
    /// A size that is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

/// Refuses a size of 0, and sizes that would not fit in memory.
pub(crate) fn check_width(
    model: &'static str,
    field: &'static str,
    value: usize,
) -> Result<(), OutOfRange> {
    let holds = (1..=65_536).contains(&value);
    let name = format!("{field} of the {model}");
    range::check(holds, name, value, "between 1 and 65536")
}
