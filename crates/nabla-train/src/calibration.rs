//! The first step sizes of a classifier that is trained in few bits.

use burn::module::ModuleDisplay;
use nabla_grad::flat::{FlatError, ParameterLayout};
use nabla_quantize::{QuantizationConfig, QuantizationError, Quantized};

use crate::classification::LabelledBatch;
use crate::classifier::Classifier;
use crate::gradient_source::TrainingExamples;

/// The reason why a classifier cannot be calibrated.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// Its layers cannot be rounded.
    #[error(transparent)]
    Quantization(#[from] QuantizationError),
    /// Its weights.
    #[error(transparent)]
    Flat(#[from] FlatError),
}

/// A classifier with rounded layers, whose step sizes start from the examples of the first step. Its batch normalisations
/// don't count them.
///
/// - `model`: with the weights with which the training starts
///
/// # Errors
/// If a number of bits is out of range, or nothing is left to be rounded.
pub fn calibrated<M: Classifier + ModuleDisplay>(
    model: M,
    config: &QuantizationConfig,
    mut examples: TrainingExamples<'_>,
) -> Result<Quantized<M>, CalibrationError> {
    config.validate().map_err(QuantizationError::from)?;
    let all = ParameterLayout::of(&model)?;
    let before = all.flatten_parameters(&model)?;
    let device = ParameterLayout::trainable(&model)?.device().clone();
    let chosen = examples.of_step(0);
    let LabelledBatch { input, .. } = examples.chosen(&chosen, 0, &device.autodiff());
    let mut model = Quantized::new(model, config, |model| drop(model.logits(input)))?;
    // Burn leaves the statistics of a batch aside until the next pass, or until the model is used.
    drop(model.network.valid());
    model.network = all.with_parameters(model.network, before)?;
    Ok(model)
}
