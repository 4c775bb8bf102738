//! What a model must do to be trained here.

use burn::module::Module;
use burn::tensor::Tensor;

/// A Burn module that scores classes.
pub trait Classifier: Module {
    /// The scores before the softmax.
    ///
    /// - `input`: `[batch, features]`; a picture's features are its channels, row by row
    /// - returns `[batch, classes]`
    fn logits(&self, input: Tensor<2>) -> Tensor<2>;
}

/// A model that does not fit the data, or a size that makes no model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// A model of pictures for a table.
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
        /// How often it halves the picture.
        layers: usize,
        /// The least side.
        needed: usize,
        /// The lesser side of the pictures.
        found: usize,
    },
    /// A size that is out of range.
    #[error("the {field} of the {model} is {value}, but it must be {expected}")]
    Size {
        /// The model.
        model: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        value: usize,
        /// What it must be.
        expected: &'static str,
    },
}

/// Refuses a size of 0 and one that would not fit into memory.
pub(crate) fn check_width(
    model: &'static str,
    field: &'static str,
    value: usize,
) -> Result<(), ModelError> {
    if (1..=65_536).contains(&value) {
        Ok(())
    } else {
        Err(ModelError::Size {
            model,
            field,
            value,
            expected: "between 1 and 65536",
        })
    }
}
