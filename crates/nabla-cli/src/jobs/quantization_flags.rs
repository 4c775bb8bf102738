//! The flags by which `nabla train model` trains a network of few bits, and what is told of it.

use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use nabla::quantize::QuantizationConfig;
use nabla::train::classification::rightly;
use nabla::train::classifier::Classifier;
use nabla::train::examples::Examples;
use nabla::train::experiment::Outcome;
use nabla::train::trained_classifier::QuantizedClassifier;
use serde::Serialize;

use crate::errors::Failure;
use crate::jobs::domain_flags::unscaled;

/// Each flag overrides the file.
#[derive(Args)]
pub struct QuantizationFlags {
    /// Train with the weights and inputs of layers rounded to so many bits, 2 to 8 (LSQ)
    #[arg(long, value_name = "BITS", help_heading = "Quantised training")]
    quantize: Option<u32>,
    /// Bits of the inputs [default: those of the weights]
    #[arg(long, value_name = "BITS", help_heading = "Quantised training")]
    quantize_inputs: Option<u32>,
    /// Bits of the first and the last layer [default: they are not rounded]
    #[arg(long, value_name = "BITS", help_heading = "Quantised training")]
    quantize_edges: Option<u32>,
    /// One step size for a whole weight, not one for each of its output channels
    #[arg(long, help_heading = "Quantised training")]
    quantize_per_tensor: bool,
}

impl QuantizationFlags {
    /// Whether any is given.
    pub fn is_given(&self) -> bool {
        self.quantize.is_some()
            || self.quantize_inputs.is_some()
            || self.quantize_edges.is_some()
            || self.quantize_per_tensor
    }

    /// What the file says, overridden by the flags.
    ///
    /// # Errors
    /// If a number of bits is out of range, or flags are given without quantisation.
    pub fn apply(
        &self,
        file: Option<QuantizationConfig>,
    ) -> Result<Option<QuantizationConfig>, Failure> {
        let mut config = match (self.quantize, file) {
            (None, None) if self.is_given() => {
                return Err(Failure::input(
                    "--quantize-inputs, --quantize-edges and --quantize-per-tensor are for --quantize BITS",
                ));
            }
            (None, None) => return Ok(None),
            (_, Some(file)) => file,
            (Some(_), None) => QuantizationConfig::default(),
        };
        config.bits = self.quantize.unwrap_or(config.bits);
        config.input_bits = self.quantize_inputs.or(config.input_bits);
        config.edge_bits = self.quantize_edges.or(config.edge_bits);
        config.per_channel &= !self.quantize_per_tensor;
        config.validate().map_err(Failure::input)?;
        Ok(Some(config))
    }
}

/// What a quantised training has come to.
#[derive(Serialize)]
pub struct QuantizationReport {
    bits: u32,
    input_bits: u32,
    /// All layers, and those that are rounded.
    layers: usize,
    rounded_layers: usize,
    /// Weights of the rounded layers, and the bytes of them as integers.
    weights: usize,
    integer_bytes: usize,
    /// The share of right answers on the test examples, by simulation and by integers.
    simulated_accuracy: f64,
    integer_accuracy: f64,
    /// Test examples for which a score of the integers has other bits than the simulated one.
    different: usize,
}

/// Examples that are measured at once.
const MEASURED: usize = 256;

impl QuantizationReport {
    /// Answers the test examples by simulation and by integers.
    ///
    /// - `test`: scaled as in the training
    ///
    /// # Errors
    /// If the simulated network cannot be built, or a number cannot be read from the device.
    pub fn of(outcome: &Outcome, test: &Examples) -> Result<Option<Self>, Failure> {
        let classifier = &outcome.classifier;
        let (Some(quantized), Some(integers)) = (&classifier.quantization, &outcome.integers)
        else {
            return Ok(None);
        };
        let QuantizedClassifier { config, layers } = quantized;
        let simulated = unscaled(outcome)?;
        let width = classifier.shape.features();
        let rows = test.features.chunks(MEASURED * width);
        let mut right = [0; 2];
        let mut different = 0;
        for (features, labels) in rows.zip(test.labels.chunks(MEASURED)) {
            let input = TensorData::new(features.to_vec(), [labels.len(), width]);
            let input = Tensor::<2>::from_data(input, &Device::flex());
            let scores = [
                simulated.logits(input.clone()).map_err(Failure::run)?,
                integers.pass(|network| network.logits(input)),
            ];
            let mut bits = Vec::with_capacity(2);
            for (scores, right) in scores.into_iter().zip(&mut right) {
                *right += rightly(scores.clone(), labels);
                let values = scores.try_into_vec_as::<f32>().map_err(Failure::run)?;
                bits.push(values.into_iter().map(f32::to_bits).collect::<Vec<_>>());
            }
            let rows = |of: usize| bits[of].chunks_exact(classifier.classes.len().max(1));
            different += rows(0).zip(rows(1)).filter(|(a, b)| a != b).count();
        }
        let share = |right: usize| right as f64 / test.len().max(1) as f64;
        let (weights, integer_bytes) = integers.packed();
        Ok(Some(Self {
            bits: config.bits,
            input_bits: config.input_bits.unwrap_or(config.bits),
            layers: layers.len(),
            rounded_layers: layers.iter().filter(|l| l.levels.is_some()).count(),
            weights,
            integer_bytes,
            simulated_accuracy: share(right[0]),
            integer_accuracy: share(right[1]),
            different,
        }))
    }

    /// In lines.
    pub fn told(&self) -> String {
        let agreement = match self.different {
            0 => "the same bits".to_owned(),
            n => format!("other bits for {n} examples"),
        };
        format!(
            "{} of {} layers rounded: weights of {} bits, inputs of {}; {} weights in {} bytes\n\
             integer arithmetic: {:.2} % right, simulated {:.2} %; {agreement}\n",
            self.rounded_layers,
            self.layers,
            self.bits,
            self.input_bits,
            self.weights,
            self.integer_bytes,
            100.0 * self.integer_accuracy,
            100.0 * self.simulated_accuracy,
        )
    }
}
