//! An optimizer with its state.

use burn::lr_scheduler::constant::ConstantLr;
use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::module::{Module, ParamGroup};
use burn::optim::{GradientsParams, ModuleOptimizer, OptimizerRecord};
use burn::store::burn_pack::Reader;
use burn::tensor::{Bytes, Tensor};
use nabla_grad::flat::ParameterLayout;
use nabla_optim::checked_record::{LoadError, checked_load};

use super::OptimizerError;

/// An optimizer that steps along all parameters together, as one vector.
pub trait WholeOptimizer: Send + Sync {
    /// The weights after a step.
    ///
    /// - `rate`: the learning rate
    /// - `weights`, `gradient`: `[d]`, in the order of the model's parameters
    ///
    /// # Errors
    /// If a number is not finite, or the state does not fit.
    fn step(
        &mut self,
        rate: f64,
        weights: Tensor<1>,
        gradient: Tensor<1>,
    ) -> Result<Tensor<1>, OptimizerError>;

    /// Bytes that it stores between two steps for `numbers` parameters.
    fn state_bytes(&self, numbers: usize) -> u64;

    /// The state, from which [`load`](Self::load) continues with the same bits.
    ///
    /// # Errors
    /// If it cannot be read from the device.
    fn to_bytes(&self) -> Result<Vec<u8>, OptimizerError>;

    /// Restores a state.
    ///
    /// - `weights`: `[d]`, which the state must fit
    ///
    /// # Errors
    /// If it is damaged, or of another optimizer or model.
    fn load(&mut self, bytes: Vec<u8>, weights: &Tensor<1>) -> Result<(), OptimizerError>;

    /// A copy.
    fn boxed(&self) -> Box<dyn WholeOptimizer>;
}

/// How an optimizer steps.
pub enum Rule {
    /// As in Burn: each parameter separately, with states of its shape.
    PerParameter(ModuleOptimizer),
    /// Each parameter separately, with states of other shapes.
    Factored(ModuleOptimizer),
    /// All parameters as one vector.
    Whole(Box<dyn WholeOptimizer>),
}

impl Clone for Rule {
    fn clone(&self) -> Self {
        match self {
            Self::PerParameter(optimizer) => Self::PerParameter(optimizer.clone()),
            Self::Factored(optimizer) => Self::Factored(optimizer.clone()),
            Self::Whole(optimizer) => Self::Whole(optimizer.boxed()),
        }
    }
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PerParameter(_) => "PerParameter",
            Self::Factored(_) => "Factored",
            Self::Whole(_) => "Whole",
        })
    }
}

/// An optimizer with its state, created by [`OptimizerConfig::init`](super::OptimizerConfig::init).
#[derive(Clone)]
pub struct Stepper {
    rule: Rule,
    /// Factors of the learning rate other than 1.
    rates: Vec<(f64, ParamGroup)>,
    layout: ParameterLayout,
}

impl std::fmt::Debug for Stepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepper")
            .field("rule", &self.rule)
            .finish_non_exhaustive()
    }
}

impl Stepper {
    pub(super) fn new(rule: Rule, rates: Vec<(f64, ParamGroup)>, layout: ParameterLayout) -> Self {
        Self {
            rule,
            rates,
            layout,
        }
    }

    /// Whether it updates all parameters together, and so needs all gradients.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.rule, Rule::Whole(_))
    }

    /// One step with the learning rate `rate`. The gradients must be finite.
    ///
    /// # Errors
    /// If the optimizer updates all parameters together, and a gradient is missing or not finite.
    pub fn step<M: Module>(
        &mut self,
        rate: f64,
        module: M,
        gradients: GradientsParams,
    ) -> Result<M, OptimizerError> {
        match &mut self.rule {
            Rule::PerParameter(optimizer) | Rule::Factored(optimizer) => {
                if self.rates.is_empty() {
                    return Ok(optimizer.step(rate, module, gradients));
                }
                let mut rates = ModuleLrScheduler::new(ConstantLr::from(rate));
                for (factor, group) in &self.rates {
                    rates = rates.with_group(group.clone(), ConstantLr::from(rate * factor));
                }
                let rates: ModuleLearningRate = rates.step();
                Ok(optimizer.step(rates, module, gradients))
            }
            Rule::Whole(optimizer) => {
                let weights = self.layout.flatten_parameters(&module)?; // [d]
                let gradient = self.layout.flatten_gradients(&gradients)?; // [d]
                let weights = optimizer.step(rate, weights, gradient)?;
                Ok(self.layout.with_parameters(module, weights)?)
            }
        }
    }

    /// Bytes that the optimizer keeps between two steps: the tensors of its state, or the number that an
    /// optimizer of all parameters reports.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub fn state_bytes(&self) -> Result<u64, OptimizerError> {
        match &self.rule {
            Rule::PerParameter(optimizer) | Rule::Factored(optimizer) => {
                let failed = |e: &dyn std::fmt::Display| OptimizerError::Record(e.to_string());
                let bytes = optimizer.into_bytes().map_err(|e| failed(&e))?;
                let reader = Reader::from_bytes(bytes).map_err(|e| failed(&e))?;
                let mut sum = 0;
                for tensor in reader.into_tensors().map_err(|e| failed(&e))? {
                    let (_, _, _, _, bytes) = tensor.into_parts().map_err(|e| failed(&e))?;
                    sum += bytes.len() as u64;
                }
                Ok(sum)
            }
            Rule::Whole(optimizer) => Ok(optimizer.state_bytes(self.layout.total_length())),
        }
    }

    /// The state as bytes, from which [`load`](Self::load) continues with the same bits.
    ///
    /// # Errors
    /// If it cannot be read from the device.
    pub fn to_bytes(&self) -> Result<Vec<u8>, OptimizerError> {
        match &self.rule {
            Rule::PerParameter(optimizer) | Rule::Factored(optimizer) => {
                let bytes = optimizer.into_bytes();
                let bytes = bytes.map_err(|e| OptimizerError::Record(e.to_string()))?;
                Ok(bytes.to_vec())
            }
            Rule::Whole(optimizer) => optimizer.to_bytes(),
        }
    }

    /// This optimizer in the state of `bytes`, for `module`, which must have been loaded before.
    ///
    /// # Errors
    /// If the bytes are damaged, or belong to another optimizer or model.
    pub fn load<M: Module>(self, bytes: Vec<u8>, module: &M) -> Result<Self, OptimizerError> {
        // The layout identifies parameters by their numbers, which loading changed.
        let layout = ParameterLayout::trainable(module)?;
        let rule = match self.rule {
            Rule::PerParameter(optimizer) => {
                let bytes = Bytes::from_bytes_vec(bytes);
                Rule::PerParameter(checked_load(optimizer, bytes, module)?)
            }
            Rule::Factored(optimizer) => {
                Rule::Factored(load_factored(optimizer, Bytes::from_bytes_vec(bytes))?)
            }
            Rule::Whole(mut optimizer) => {
                optimizer.load(bytes, &layout.flatten_parameters(module)?)?;
                Rule::Whole(optimizer)
            }
        };
        Ok(Self {
            rule,
            layout,
            ..self
        })
    }
}

/// Loads a record whose states have other shapes than their parameters, which [`checked_load`] would
/// refuse.
fn load_factored(
    optimizer: ModuleOptimizer,
    bytes: Bytes,
) -> Result<ModuleOptimizer, OptimizerError> {
    let record = OptimizerRecord::from_bytes(bytes)
        .map_err(|error| OptimizerError::Record(error.to_string()))?;
    let stored = record.len();
    let loaded = optimizer.load_record(record);
    let understood = loaded.to_record().len();
    if understood < stored {
        return Err(LoadError::OtherOptimizer { stored, understood }.into());
    }
    Ok(loaded)
}
