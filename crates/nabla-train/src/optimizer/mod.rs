//! The optimizers of Nabla and of Burn by name, with parameter groups and one interface.
//!
//! | name | what | learning rate | weight decay | state per parameter | source |
//! |---|---|---|---|---|---|
//! | `sgd` | plain gradient descent | 0.1 | coupled | 0 | |
//! | `momentum` | gradient descent with momentum | 0.1 | coupled | 1 | Polyak 1964; Nesterov 1983 |
//! | `adagrad` | steps that shrink by all squared gradients so far | 0.01 | coupled | 1 | Duchi, Hazan, Singer 2011 |
//! | `rmsprop` | steps that shrink by the mean square of the last gradients | 1e-3 | coupled | 1 to 3 | Tieleman, Hinton 2012 |
//! | `adam` | moving averages of the gradient and of its square | 1e-3 | coupled | 2 | arXiv 1412.6980 |
//! | `adamw` | Adam with decoupled weight decay | 1e-3 | decoupled | 2 | arXiv 1711.05101 |
//! | `adan` | Nesterov's momentum of gradient differences | 1e-3 | proximal | 4 | arXiv 2208.06677 |
//! | `lamb` | Adam with steps as long as their layers, for large batches | 0.01 | decoupled | 2 | arXiv 1904.00962 |
//! | `lion` | steps along the sign of the momentum | 1e-4 | decoupled | 1 | arXiv 2302.06675 |
//! | `adafactor` | second moments of rows and columns alone | 0.01 | decoupled | rows + columns | arXiv 1804.04235 |
//! | `muon` | orthogonalised momentum for hidden matrices, AdamW for the rest | 1e-3 | decoupled | 1 (matrices), 2 | K. Jordan 2024; arXiv 2502.16982 |
//! | `adamp` | Adam whose momentum does not inflate scale-invariant weights | 1e-3 | decoupled | 2 | arXiv 2006.08217 |
//! | `sgdp` | momentum that does not inflate scale-invariant weights | 0.1 | decoupled | 1 | arXiv 2006.08217 |
//! | `diffgrad` | Adam with a friction where the gradient does not change | 1e-3 | coupled | 3 | arXiv 1909.11015 |
//! | `adabelief` | long steps where the gradient is as expected | 1e-3 | decoupled | 2 | arXiv 2010.07468 |
//! | `m-fac` | the inverse Fisher matrix of a window of gradients | 1e-3 | coupled | m (a window of gradients) | arXiv 2107.03356 |
//!
//! The last five and the steps of AdamW are Nabla's ([`nabla_optim`]), the others Burn's; all are an [`OptimizerMethod`] in a
//! registry. You can use your own optimizer by type, as an [`OtherOptimizer`], or by name, in files and on
//! command lines, if you [`register`] it. The options of a [`Method`] are the fields of the
//! optimizer's own configuration. The table shows the customary learning rate, which is the default. Muon
//! trains the hidden matrices (by the rule that matches AdamW's steps), and AdamW the kernels, the vectors
//! and the layer named `output`. Burn's L-BFGS is not included: it evaluates the loss several times per step
//! and assumes that it is the same each time, which does not hold for mini-batches.
//!
//! **Groups.** Vectors (biases, gains and shifts of normalisation layers) do not decay unless
//! [`decay_vectors`](OptimizerConfig::decay_vectors) is set. A [`ParameterGroup`] selects parameters by a
//! regular expression on their names, and sets their weight decay and a factor of their learning rate; if
//! several groups match, the last one counts.

mod method;
mod methods;
mod stepper;

use std::fmt;
use std::sync::Arc;

use burn::module::{Module, ParamGroup};
use burn::optim::Optimizer;
use nabla_base::OutOfRange;
use nabla_grad::flat::{FlatError, ParameterLayout};
use nabla_optim::checked_record::LoadError;
use nabla_optim::m_fac::MFacError;
use nabla_optim::optimizer_config;
use serde::{Deserialize, Serialize};

pub use method::{
    Entry, Method, OptimizerMethod, Range, TreatedParameter, method_names, methods,
    module_optimizer, per_parameter, register,
};
/// The named options of an optimizer.
pub use nabla_base::registry::Options;
pub use stepper::{Rule, Stepper, WholeOptimizer};

use method::grouped;

/// The reason why an optimizer cannot be built, or fails in a step.
#[derive(Debug, thiserror::Error)]
pub enum OptimizerError {
    /// A value of one of Nabla's optimizers is wrong.
    #[error(transparent)]
    Config(#[from] OutOfRange),
    /// No optimizer has this name.
    #[error("there is no optimizer {name:?}, only {}", names.join(", "))]
    UnknownMethod {
        /// The name.
        name: String,
        /// The known names.
        names: Vec<String>,
    },
    /// Another optimizer has this name.
    #[error("an optimizer {0:?} is already registered")]
    NameTaken(String),
    /// The optimizer does not have this option.
    #[error(
        "unknown field `{option}` of the optimizer {method}, which has {}",
        list(options)
    )]
    UnknownOption {
        /// The optimizer.
        method: String,
        /// The option.
        option: String,
        /// The options of this optimizer.
        options: Vec<String>,
    },
    /// An option has the wrong kind of value.
    #[error("the options of the optimizer {method} are wrong: {reason}")]
    Options {
        /// The optimizer.
        method: String,
        /// Why.
        reason: String,
    },
    /// A group's regular expression.
    #[error("{pattern:?} is not a regular expression: {reason}")]
    Pattern {
        /// The expression.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A group matches no parameter.
    #[error("the parameter group {pattern:?} matches none of the parameters {}", names.join(", "))]
    EmptyGroup {
        /// The expression.
        pattern: String,
        /// The parameters of the model.
        names: Vec<String>,
    },
    /// An optimizer of all parameters was given only some of them.
    #[error("{0} updates all parameters together, so it cannot train a part of a model")]
    Part(String),
    /// M-FAC has one learning rate.
    #[error("m-fac updates all parameters together, so a group cannot have its own learning rate")]
    GroupRate,
    /// The model has no parameters.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// M-FAC.
    #[error(transparent)]
    MFac(#[from] MFacError),
    /// The state in a checkpoint.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The state cannot be written or read.
    #[error("the optimizer's state cannot be stored or read: {0}")]
    Record(String),
}

/// Parameters with their own weight decay and learning rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// A regular expression that the names (`blocks.0.norm_1.gamma`) of its parameters match.
    pub parameters: String,
    /// Their weight decay; `None` for that of all others.
    #[serde(default)]
    pub weight_decay: Option<f64>,
    /// A factor of their learning rate. Default 1.
    #[serde(default = "one")]
    pub learning_rate_factor: f64,
}

fn one() -> f64 {
    1.0
}

/// Your own optimizer, by its type, for trainings and comparisons.
///
/// A file stores only its name: a program that reads the file must [`register`] the optimizer first. Two
/// optimizers with the same name are assumed to be the same.
///
/// ```
/// use burn::optim::Optimizer;
/// use burn::tensor::{Device, Tensor};
/// use nabla_train::experiment::Experiment;
/// use nabla_train::optimizer::{OptimizerConfig, OtherOptimizer};
/// use std::ops::ControlFlow;
///
/// /// Steps along the sign of the gradient.
/// #[derive(Clone)]
/// struct SignDescent {
///     weight_decay: f64,
/// }
///
/// impl Optimizer for SignDescent {
///     type State<const D: usize> = ();
///
///     fn step<const D: usize>(
///         &self,
///         rate: f64,
///         tensor: Tensor<D>,
///         gradient: Tensor<D>,
///         _state: Option<()>,
///     ) -> (Tensor<D>, Option<()>) {
///         let decayed = tensor * (1.0 - rate * self.weight_decay);
///         (decayed - gradient.sign() * rate, None)
///     }
///
///     fn to_device<const D: usize>(_state: (), _device: &Device) {}
/// }
///
/// let sign = OtherOptimizer::new("sign-descent", 1e-3, |weight_decay| SignDescent { weight_decay });
/// let mut experiment = Experiment::default();
/// experiment.training.epochs = 2;
/// experiment.training.optimizer = OptimizerConfig::of(sign);
/// let outcome = experiment.run(&Device::flex(), None, &mut |_| ControlFlow::Continue(()))?;
/// assert!(outcome.history.last().is_some_and(|epoch| epoch.test_accuracy > 0.5));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct OtherOptimizer {
    name: String,
    learning_rate: f64,
    assemble: Arc<Assemble>,
}

type Assemble = dyn Fn(&[TreatedParameter]) -> Result<Rule, OptimizerError> + Send + Sync;

impl OtherOptimizer {
    /// - `name`: its name in tables, plots and files
    /// - `learning_rate`: the customary one, the middle of a search
    /// - `build`: creates the optimizer for parameters with this weight decay, in the optimizer's own form of
    ///   decay
    pub fn new<O: Optimizer>(
        name: impl Into<String>,
        learning_rate: f64,
        build: impl Fn(f64) -> O + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            learning_rate,
            assemble: Arc::new(move |parameters| {
                per_parameter(parameters, |decay| Ok(build(decay)))
            }),
        }
    }
}

impl OptimizerMethod for OtherOptimizer {
    fn name(&self) -> &str {
        &self.name
    }

    fn summary(&self) -> &str {
        "an optimizer of the program's own"
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn decay(&self) -> &str {
        "its own"
    }

    fn state(&self) -> &str {
        "its own"
    }

    fn source(&self) -> &str {
        ""
    }

    fn assemble(
        &self,
        _options: &Options,
        parameters: &[TreatedParameter],
    ) -> Result<Rule, OptimizerError> {
        (self.assemble)(parameters)
    }
}

impl fmt::Debug for OtherOptimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtherOptimizer")
            .field("name", &self.name)
            .field("learning_rate", &self.learning_rate)
            .finish_non_exhaustive()
    }
}

/// An optimizer for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The highest learning rate of the schedule; `None` for the method's customary one.
    pub learning_rate: Option<f64>,
    /// Weight decay, coupled or not, depending on the method. Default 0.
    pub weight_decay: f64,
    /// Whether biases, gains and shifts decay too. Default no.
    pub decay_vectors: bool,
    /// The method. Default AdamW.
    pub method: Method,
    /// Parameters with their own weight decay and learning rate.
    pub groups: Vec<ParameterGroup>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::new(Method::usual())
    }
}

impl OptimizerConfig {
    /// A method with its customary learning rate and no weight decay.
    pub fn new(method: Method) -> Self {
        Self {
            learning_rate: None,
            weight_decay: 0.0,
            decay_vectors: false,
            method,
            groups: Vec::new(),
        }
    }

    /// The method of this name with its customary learning rate and no weight decay.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn named(name: &str) -> Result<Self, OptimizerError> {
        Ok(Self::new(Method::named(name)?))
    }

    /// Your own optimizer, with its customary learning rate and no weight decay.
    pub fn of(other: OtherOptimizer) -> Self {
        Self::new(Method::of_other(other))
    }

    /// The same treatment of the parameters with another method, at that method's customary learning rate,
    /// because the rate of one optimizer does not suit another.
    #[must_use]
    pub fn switched_to(self, method: Method) -> Self {
        Self {
            learning_rate: None,
            method,
            ..self
        }
    }

    /// The name of the method.
    pub fn name(&self) -> &str {
        self.method.name()
    }

    /// Whether the method is one that Nabla adds to Burn's, and not Burn's or a third party's.
    pub fn is_of_nabla(&self) -> bool {
        self.method.is_of_nabla()
    }

    /// The learning rate, or the method's customary one.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
            .unwrap_or_else(|| self.method.learning_rate())
    }

    /// Refuses values that are out of range, as far as this can be checked without a model.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), OptimizerError> {
        optimizer_config::rate("learning rate", self.learning_rate())?;
        optimizer_config::non_negative("weight decay", self.weight_decay)?;
        for group in &self.groups {
            let decay = group.weight_decay.unwrap_or(0.0);
            optimizer_config::non_negative("group's weight decay", decay)?;
            let factor = group.learning_rate_factor;
            optimizer_config::non_negative("group's learning rate factor", factor)?;
        }
        self.method.validate()
    }

    /// Each parameter with its decay and factor of the learning rate.
    fn treated(&self, layout: &ParameterLayout) -> Result<Vec<TreatedParameter>, OptimizerError> {
        let mut all: Vec<TreatedParameter> = layout
            .entries()
            .iter()
            .map(|entry| {
                let decays = entry.shape().len() > 1 || self.decay_vectors;
                TreatedParameter {
                    id: entry.id(),
                    name: entry.name().to_owned(),
                    shape: entry.shape().to_vec(),
                    decay: if decays { self.weight_decay } else { 0.0 },
                    rate: 1.0,
                }
            })
            .collect();
        for group in &self.groups {
            let pattern = pattern(&group.parameters)?;
            let mut found = false;
            for (treated, entry) in all.iter_mut().zip(layout.entries()) {
                if pattern.matches(&entry.id(), Some(entry.name())) {
                    found = true;
                    treated.rate = group.learning_rate_factor;
                    if let Some(decay) = group.weight_decay {
                        treated.decay = decay;
                    }
                }
            }
            if !found {
                return Err(OptimizerError::EmptyGroup {
                    pattern: group.parameters.clone(),
                    names: all.into_iter().map(|t| t.name).collect(),
                });
            }
        }
        Ok(all)
    }

    /// Creates the optimizer for `module`.
    ///
    /// # Errors
    /// If a value is out of range, or a group matches no parameter.
    pub fn init<M: Module>(&self, module: &M) -> Result<Stepper, OptimizerError> {
        self.validate()?;
        let layout = ParameterLayout::trainable(module)?;
        let treated = self.treated(&layout)?;
        let rule = self.method.assemble(&treated)?;
        let rates = grouped(treated.iter().filter(|t| t.rate != 1.0), |t| t.rate)
            .into_iter()
            .map(|(rate, ids)| (rate, ParamGroup::from_ids(ids)))
            .collect();
        Ok(Stepper::new(rule, rates, layout))
    }
}

/// The parameters whose names match a regular expression.
///
/// # Errors
/// If it is no regular expression.
pub fn pattern(expression: &str) -> Result<ParamGroup, OptimizerError> {
    ParamGroup::from_regex(expression).map_err(|error| {
        let burn::module::ParamGroupError::InvalidPatternError(reason) = error;
        OptimizerError::Pattern {
            pattern: expression.to_owned(),
            reason,
        }
    })
}

/// Joins words to a list.
fn list(words: &[String]) -> String {
    match words {
        [] => "none".to_owned(),
        words => words.join(", "),
    }
}

#[cfg(test)]
mod tests;
