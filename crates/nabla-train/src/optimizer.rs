//! The optimizers of Nabla and of Burn by name, with parameter groups and one interface.
//!
//! | name | learning rate | weight decay | state per parameter | source |
//! |---|---|---|---|---|
//! | `sgd` | 0.1 | coupled | 0 | |
//! | `momentum` | 0.1 | coupled | 1 | Polyak 1964; Nesterov 1983 |
//! | `adagrad` | 0.01 | coupled | 1 | Duchi, Hazan, Singer 2011 |
//! | `rmsprop` | 1e-3 | coupled | 1 to 3 | Tieleman, Hinton 2012 |
//! | `adam` | 1e-3 | coupled | 2 | arXiv 1412.6980 |
//! | `adamw` | 1e-3 | decoupled | 2 | arXiv 1711.05101 |
//! | `adan` | 1e-3 | proximal | 4 | arXiv 2208.06677 |
//! | `lamb` | 0.01 | decoupled | 2 | arXiv 1904.00962 |
//! | `lion` | 1e-4 | decoupled | 1 | arXiv 2302.06675 |
//! | `adafactor` | 0.01 | decoupled | rows + columns | arXiv 1804.04235 |
//! | `muon` | 1e-3 | decoupled | 1 (matrices), 2 | K. Jordan 2024; arXiv 2502.16982 |
//! | `adamp` | 1e-3 | decoupled | 2 | arXiv 2006.08217 |
//! | `sgdp` | 0.1 | decoupled | 1 | arXiv 2006.08217 |
//! | `diffgrad` | 1e-3 | coupled | 3 | arXiv 1909.11015 |
//! | `adabelief` | 1e-3 | decoupled | 2 | arXiv 2010.07468 |
//! | `m-fac` | 1e-3 | coupled | m (a window of gradients) | arXiv 2107.03356 |
//!
//! The last five are Nabla's ([`nabla_optim`]), the others Burn's. The learning rate is the customary one
//! that is taken if none is given. Muon takes the hidden matrices (by the rule that matches
//! AdamW's steps) and leaves kernels, vectors and the layer named `output` to AdamW. Burn's L-BFGS is
//! not among them: it evaluates the loss several times a step and assumes that it is the same one each
//! time, which mini-batches break.
//!
//! **Groups.** Vectors (biases, gains and shifts of normalisation layers) do not decay unless
//! [`decay_vectors`](OptimizerConfig::decay_vectors) says so. A [`ParameterGroup`] chooses parameters
//! by a regular expression over their names and gives them a weight decay and a factor of the
//! learning rate; of several groups the last that matches counts.

use std::fmt;
use std::sync::Arc;

use burn::lr_scheduler::constant::ConstantLr;
use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::module::{Module, ParamGroup};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{
    AdaGradConfig, AdafactorConfig, AdamConfig, AdamWConfig, AdanConfig, AdjustLrFn,
    GradientsParams, LambConfig, LionConfig, ModuleOptimizer, MuonConfig, Optimizer,
    OptimizerRecord, RmsPropConfig, SgdConfig,
};
use burn::store::burn_pack::Reader;
use burn::tensor::{Bytes, Tensor, TensorData};
use nabla_grad::flat::{FlatError, ParameterLayout};
use nabla_optim::adabelief::AdaBeliefConfig;
use nabla_optim::adamp::{AdamPConfig, SgdPConfig};
use nabla_optim::checked_record::{LoadError, checked_load};
use nabla_optim::diffgrad::{DiffGradConfig, Friction};
use nabla_optim::m_fac::{MFac, MFacConfig, MFacError};
use nabla_optim::optimizer_config::OptimizerConfigError;
use nabla_optim::weight_decay::WeightDecayMode;
use serde::{Deserialize, Serialize};

/// Why an optimizer cannot be built, or does not step.
#[derive(Debug, thiserror::Error)]
pub enum OptimizerError {
    /// A value of one of Nabla's optimizers.
    #[error(transparent)]
    Config(#[from] OptimizerConfigError),
    /// A value that is out of range.
    #[error("the {field} of the optimizer is {value}, but it must be {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What it must be.
        expected: &'static str,
    },
    /// A name that is no optimizer's.
    #[error("there is no optimizer {name:?}, only {}", METHOD_NAMES.join(", "))]
    UnknownMethod {
        /// The name.
        name: String,
    },
    /// A group's regular expression.
    #[error("{pattern:?} is no regular expression: {reason}")]
    Pattern {
        /// The expression.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A group that chooses nothing.
    #[error("the parameter group {pattern:?} matches none of the parameters {}", names.join(", "))]
    EmptyGroup {
        /// The expression.
        pattern: String,
        /// The parameters of the model.
        names: Vec<String>,
    },
    /// An optimizer that is not among [`Method`], of which only the name is known.
    #[error(
        "the optimizer {0:?} is not one of Nabla's: the program that has it must give it, and a file \
         only names it"
    )]
    Other(String),
    /// M-FAC has one learning rate.
    #[error(
        "m-fac steps along all parameters together, so a group cannot have a learning rate of its own"
    )]
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

macro_rules! fields {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

fields! {
    /// Plain gradient descent.
    Sgd {}
}
fields! {
    /// Gradient descent with momentum.
    Momentum {
        /// Default 0.9.
        momentum: f64 = 0.9,
        /// Default 0.
        dampening: f64 = 0.0,
        /// Nesterov's form. Default no.
        nesterov: bool = false,
    }
}
fields! {
    /// AdaGrad.
    AdaGrad {
        /// The learning rate is divided by `1 + lr_decay · t`. Default 0.
        lr_decay: f64 = 0.0,
        /// Default 1e-10.
        epsilon: f64 = 1e-10,
    }
}
fields! {
    /// RMSProp.
    RmsProp {
        /// Decay rate of the mean square. Default 0.99.
        alpha: f64 = 0.99,
        /// Default 0.
        momentum: f64 = 0.0,
        /// Default 1e-8.
        epsilon: f64 = 1e-8,
        /// Whether the mean is taken off. Default no.
        centered: bool = false,
    }
}
fields! {
    /// Adam and AdamW.
    Adam {
        /// Default 0.9.
        beta_1: f64 = 0.9,
        /// Default 0.999.
        beta_2: f64 = 0.999,
        /// Default 1e-8.
        epsilon: f64 = 1e-8,
        /// Default no.
        amsgrad: bool = false,
    }
}
fields! {
    /// Adan.
    Adan {
        /// Default 0.98.
        beta_1: f64 = 0.98,
        /// Default 0.92.
        beta_2: f64 = 0.92,
        /// Default 0.99.
        beta_3: f64 = 0.99,
        /// Default 1e-8.
        epsilon: f64 = 1e-8,
    }
}
fields! {
    /// LAMB.
    Lamb {
        /// Default 0.9.
        beta_1: f64 = 0.9,
        /// Default 0.999.
        beta_2: f64 = 0.999,
        /// Default 1e-6.
        epsilon: f64 = 1e-6,
    }
}
fields! {
    /// Lion.
    Lion {
        /// Default 0.9.
        beta_1: f64 = 0.9,
        /// Default 0.99.
        beta_2: f64 = 0.99,
    }
}
fields! {
    /// Adafactor, with learning rates of the schedule alone.
    Adafactor {
        /// Whether a step is scaled by the size of its parameter. Default yes.
        scale_parameter: bool = true,
        /// Highest mean square of a step. Default 1.
        clip_threshold: f64 = 1.0,
    }
}
fields! {
    /// Muon for hidden matrices.
    Muon {
        /// Default 0.95.
        momentum: f64 = 0.95,
        /// Default yes.
        nesterov: bool = true,
    }
}
fields! {
    /// AdamP.
    AdamP {
        /// Default 0.9.
        beta_1: f64 = 0.9,
        /// Default 0.999.
        beta_2: f64 = 0.999,
        /// Default 1e-8.
        epsilon: f64 = 1e-8,
        /// Threshold of the test for scale invariance. Default 0.1.
        delta: f64 = 0.1,
        /// The part of the decay that scale-invariant weights get. Default 0.1.
        wd_ratio: f64 = 0.1,
        /// Default no.
        nesterov: bool = false,
    }
}
fields! {
    /// SGDP.
    SgdP {
        /// Default 0.9.
        momentum: f64 = 0.9,
        /// Default 0.
        dampening: f64 = 0.0,
        /// Default 1e-8.
        epsilon: f64 = 1e-8,
        /// Threshold of the test for scale invariance. Default 0.1.
        delta: f64 = 0.1,
        /// The part of the decay that scale-invariant weights get. Default 0.1.
        wd_ratio: f64 = 0.1,
        /// Default no.
        nesterov: bool = false,
    }
}
fields! {
    /// diffGrad.
    DiffGrad {
        /// Default 0.9.
        beta_1: f64 = 0.9,
        /// Default 0.999.
        beta_2: f64 = 0.999,
        /// Default 1e-8.
        epsilon: f64 = 1e-8,
        /// The friction coefficient. Default `sigmoid`.
        friction: FrictionName = FrictionName::Sigmoid,
    }
}
fields! {
    /// AdaBelief.
    AdaBelief {
        /// Default 0.9.
        beta_1: f64 = 0.9,
        /// Default 0.999.
        beta_2: f64 = 0.999,
        /// Default 1e-16.
        epsilon: f64 = 1e-16,
        /// How weights decay. Default `decoupled`.
        weight_decay_mode: DecayName = DecayName::Decoupled,
        /// Whether steps are rectified. Default yes.
        rectify: bool = true,
        /// Whether there are steps of SGD where there is no rectified one. Default yes.
        degenerated_to_sgd: bool = true,
        /// Default no.
        amsgrad: bool = false,
    }
}
fields! {
    /// M-FAC.
    MFacFields {
        /// The number of gradients. Default 32 (the paper's experiments have 512 and 1024; the memory
        /// is this many numbers per parameter).
        window: usize = 32,
        /// Default 1e-5.
        damping: f64 = 1e-5,
        /// Default 0.
        momentum: f64 = 0.0,
    }
}

/// [`Friction`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // they are those of `Friction`
pub enum FrictionName {
    Sigmoid,
    SignedSigmoid,
    WideSigmoid,
    Tanh,
    MomentumSigmoid,
}

/// [`WeightDecayMode`] by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // they are those of `WeightDecayMode`
pub enum DecayName {
    Coupled,
    Decoupled,
    Fixed,
}

impl From<FrictionName> for Friction {
    fn from(name: FrictionName) -> Self {
        match name {
            FrictionName::Sigmoid => Self::Sigmoid,
            FrictionName::SignedSigmoid => Self::SignedSigmoid,
            FrictionName::WideSigmoid => Self::WideSigmoid,
            FrictionName::Tanh => Self::Tanh,
            FrictionName::MomentumSigmoid => Self::MomentumSigmoid,
        }
    }
}

impl From<DecayName> for WeightDecayMode {
    fn from(name: DecayName) -> Self {
        match name {
            DecayName::Coupled => Self::Coupled,
            DecayName::Decoupled => Self::Decoupled,
            DecayName::Fixed => Self::Fixed,
        }
    }
}

/// An optimizer with its own values; see the [module documentation](self) for the names.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Method {
    /// `sgd`
    Sgd(Sgd),
    /// `momentum`
    Momentum(Momentum),
    /// `adagrad`
    AdaGrad(AdaGrad),
    /// `rmsprop`
    RmsProp(RmsProp),
    /// `adam`
    Adam(Adam),
    /// `adamw`
    AdamW(Adam),
    /// `adan`
    Adan(Adan),
    /// `lamb`
    Lamb(Lamb),
    /// `lion`
    Lion(Lion),
    /// `adafactor`
    Adafactor(Adafactor),
    /// `muon`
    Muon(Muon),
    /// `adamp`
    AdamP(AdamP),
    /// `sgdp`
    SgdP(SgdP),
    /// `diffgrad`
    DiffGrad(DiffGrad),
    /// `adabelief`
    AdaBelief(AdaBelief),
    /// `m-fac`
    #[serde(rename = "m-fac")]
    MFac(MFacFields),
}

/// The names of the methods, baselines first.
pub const METHOD_NAMES: [&str; 16] = [
    "sgd",
    "momentum",
    "adagrad",
    "rmsprop",
    "adam",
    "adamw",
    "adan",
    "lamb",
    "lion",
    "adafactor",
    "muon",
    "adamp",
    "sgdp",
    "diffgrad",
    "adabelief",
    "m-fac",
];

impl std::str::FromStr for Method {
    type Err = OptimizerError;

    fn from_str(name: &str) -> Result<Self, OptimizerError> {
        Ok(match name {
            "sgd" => Self::Sgd(Sgd::default()),
            "momentum" => Self::Momentum(Momentum::default()),
            "adagrad" => Self::AdaGrad(AdaGrad::default()),
            "rmsprop" => Self::RmsProp(RmsProp::default()),
            "adam" => Self::Adam(Adam::default()),
            "adamw" => Self::AdamW(Adam::default()),
            "adan" => Self::Adan(Adan::default()),
            "lamb" => Self::Lamb(Lamb::default()),
            "lion" => Self::Lion(Lion::default()),
            "adafactor" => Self::Adafactor(Adafactor::default()),
            "muon" => Self::Muon(Muon::default()),
            "adamp" => Self::AdamP(AdamP::default()),
            "sgdp" => Self::SgdP(SgdP::default()),
            "diffgrad" => Self::DiffGrad(DiffGrad::default()),
            "adabelief" => Self::AdaBelief(AdaBelief::default()),
            "m-fac" => Self::MFac(MFacFields::default()),
            name => return Err(OptimizerError::UnknownMethod { name: name.into() }),
        })
    }
}

impl Method {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sgd(_) => "sgd",
            Self::Momentum(_) => "momentum",
            Self::AdaGrad(_) => "adagrad",
            Self::RmsProp(_) => "rmsprop",
            Self::Adam(_) => "adam",
            Self::AdamW(_) => "adamw",
            Self::Adan(_) => "adan",
            Self::Lamb(_) => "lamb",
            Self::Lion(_) => "lion",
            Self::Adafactor(_) => "adafactor",
            Self::Muon(_) => "muon",
            Self::AdamP(_) => "adamp",
            Self::SgdP(_) => "sgdp",
            Self::DiffGrad(_) => "diffgrad",
            Self::AdaBelief(_) => "adabelief",
            Self::MFac(_) => "m-fac",
        }
    }

    /// Whether it is one of Nabla's own.
    pub fn is_of_nabla(&self) -> bool {
        matches!(
            self,
            Self::AdamP(_) | Self::SgdP(_) | Self::DiffGrad(_) | Self::AdaBelief(_) | Self::MFac(_)
        )
    }

    /// The customary learning rate.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::Sgd(_) | Self::Momentum(_) | Self::SgdP(_) => 0.1,
            Self::AdaGrad(_) | Self::Lamb(_) | Self::Adafactor(_) => 0.01,
            Self::Lion(_) => 1e-4,
            _ => 1e-3,
        }
    }

    /// The rates and thresholds that Burn does not check.
    fn validate(&self) -> Result<(), OptimizerError> {
        let rate = |field, value: f64| {
            check(
                field,
                value,
                (0.0..1.0).contains(&value),
                "at least 0 and less than 1",
            )
        };
        let positive = |field, value: f64| {
            // Burn keeps it in 32 bits.
            let holds = value >= f64::from(f32::MIN_POSITIVE) && value.is_finite();
            check(field, value, holds, "at least 1.2e-38 and finite")
        };
        match *self {
            Self::Sgd(_) | Self::MFac(_) => Ok(()),
            // Theirs are checked where they are built.
            Self::AdamP(_) | Self::SgdP(_) | Self::DiffGrad(_) | Self::AdaBelief(_) => Ok(()),
            Self::Momentum(c) => {
                rate("momentum", c.momentum)?;
                let dampening = (0.0..=1.0).contains(&c.dampening);
                check("dampening", c.dampening, dampening, "in [0, 1]")
            }
            Self::AdaGrad(c) => {
                let decay = c.lr_decay >= 0.0 && c.lr_decay.is_finite();
                check("lr_decay", c.lr_decay, decay, "at least 0 and finite")?;
                positive("epsilon", c.epsilon)
            }
            Self::RmsProp(c) => {
                rate("alpha", c.alpha)?;
                rate("momentum", c.momentum)?;
                positive("epsilon", c.epsilon)
            }
            Self::Adam(c) | Self::AdamW(c) => {
                rate("beta_1", c.beta_1)?;
                rate("beta_2", c.beta_2)?;
                positive("epsilon", c.epsilon)
            }
            Self::Adan(c) => {
                rate("beta_1", c.beta_1)?;
                rate("beta_2", c.beta_2)?;
                rate("beta_3", c.beta_3)?;
                positive("epsilon", c.epsilon)
            }
            Self::Lamb(c) => {
                rate("beta_1", c.beta_1)?;
                rate("beta_2", c.beta_2)?;
                positive("epsilon", c.epsilon)
            }
            Self::Lion(c) => {
                rate("beta_1", c.beta_1)?;
                rate("beta_2", c.beta_2)
            }
            Self::Adafactor(c) => positive("clip_threshold", c.clip_threshold),
            Self::Muon(c) => rate("momentum", c.momentum),
        }
    }
}

fn check(
    field: &'static str,
    value: f64,
    holds: bool,
    expected: &'static str,
) -> Result<(), OptimizerError> {
    if holds {
        Ok(())
    } else {
        Err(OptimizerError::Field {
            field,
            value,
            expected,
        })
    }
}

/// Parameters that are treated in their own way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// A regular expression that the names (`blocks.0.norm_1.gamma`) of its parameters match.
    pub parameters: String,
    /// Their weight decay; as for all others, if there is none.
    #[serde(default)]
    pub weight_decay: Option<f64>,
    /// A factor of their learning rate. Default 1.
    #[serde(default = "one")]
    pub learning_rate_factor: f64,
}

fn one() -> f64 {
    1.0
}

type Assemble = dyn Fn(&[(f64, ParamGroup)]) -> ModuleOptimizer + Send + Sync;

/// An optimizer that is not among [`Method`]: one's own, wherever optimizers are trained with and
/// compared.
///
/// A file keeps its name and its learning rate alone: an experiment that was read from one has to be given
/// the optimizer again. Of two with the same name and rate it is assumed that they are the same.
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
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherOptimizer {
    name: String,
    learning_rate: f64,
    #[serde(skip)]
    assemble: Option<Arc<Assemble>>,
}

impl OtherOptimizer {
    /// - `name`: in tables, plots and files
    /// - `learning_rate`: the customary one, the middle of a search
    /// - `build`: makes the optimizer of a parameter with this weight decay, in the way that the optimizer
    ///   has it
    pub fn new<O: Optimizer>(
        name: impl Into<String>,
        learning_rate: f64,
        build: impl Fn(f64) -> O + Send + Sync + 'static,
    ) -> Self {
        let assemble = move |groups: &[(f64, ParamGroup)]| {
            let built = groups.iter();
            let built = built.map(|(decay, group)| (group.clone(), build(*decay)));
            grouped(build(0.0), built.collect())
        };
        Self {
            name: name.into(),
            learning_rate,
            assemble: Some(Arc::new(assemble)),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
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

impl PartialEq for OtherOptimizer {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.learning_rate == other.learning_rate
    }
}

/// An optimizer for a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The highest learning rate of the schedule; the method's customary one, if there is none.
    pub learning_rate: Option<f64>,
    /// Weight decay, coupled or not as the method has it. Default 0.
    pub weight_decay: f64,
    /// Whether biases, gains and shifts decay too. Default no.
    pub decay_vectors: bool,
    /// The method. Default AdamW.
    pub method: Method,
    /// An optimizer that is not among these, in place of the method. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<OtherOptimizer>,
    /// Parameters that are treated in their own way.
    pub groups: Vec<ParameterGroup>,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::new(Method::AdamW(Adam::default()))
    }
}

/// How one parameter is treated.
#[derive(Clone, Debug, PartialEq)]
struct Treatment {
    name: String,
    rank: usize,
    decay: f64,
    rate: f64,
}

impl OptimizerConfig {
    /// A method with its customary learning rate and no weight decay.
    pub fn new(method: Method) -> Self {
        Self {
            learning_rate: None,
            weight_decay: 0.0,
            decay_vectors: false,
            method,
            other: None,
            groups: Vec::new(),
        }
    }

    /// One's own optimizer, with its customary learning rate and no weight decay.
    pub fn of(other: OtherOptimizer) -> Self {
        Self {
            other: Some(other),
            ..Self::default()
        }
    }

    /// The name of the method or of the other optimizer.
    pub fn name(&self) -> &str {
        match &self.other {
            Some(other) => other.name(),
            None => self.method.name(),
        }
    }

    /// Whether Nabla has the method, and not Burn or somebody else.
    pub fn is_of_nabla(&self) -> bool {
        self.other.is_none() && self.method.is_of_nabla()
    }

    /// The learning rate, or the method's customary one.
    pub fn learning_rate(&self) -> f64 {
        let customary = || match &self.other {
            Some(other) => other.learning_rate,
            None => self.method.learning_rate(),
        };
        self.learning_rate.unwrap_or_else(customary)
    }

    /// Refuses values that are out of range, as far as they show without a model.
    ///
    /// # Errors
    /// With the value.
    pub fn validate(&self) -> Result<(), OptimizerError> {
        let rate = self.learning_rate();
        check(
            "learning rate",
            rate,
            rate > 0.0 && rate.is_finite(),
            "positive and finite",
        )?;
        let non_negative = |field, value: f64| {
            let holds = value >= 0.0 && value.is_finite();
            check(field, value, holds, "at least 0 and finite")
        };
        non_negative("weight decay", self.weight_decay)?;
        for group in &self.groups {
            non_negative("group's weight decay", group.weight_decay.unwrap_or(0.0))?;
            non_negative("group's learning rate factor", group.learning_rate_factor)?;
        }
        self.method.validate()
    }

    /// Each parameter's decay and factor of the learning rate.
    fn treatments(&self, layout: &ParameterLayout) -> Result<Vec<Treatment>, OptimizerError> {
        let mut all: Vec<Treatment> = layout
            .entries()
            .iter()
            .map(|entry| {
                let rank = entry.shape().len();
                let decays = rank > 1 || self.decay_vectors;
                Treatment {
                    name: entry.name().to_owned(),
                    rank,
                    decay: if decays { self.weight_decay } else { 0.0 },
                    rate: 1.0,
                }
            })
            .collect();
        for group in &self.groups {
            let pattern = ParamGroup::from_regex(&group.parameters).map_err(|error| {
                let burn::module::ParamGroupError::InvalidPatternError(reason) = error;
                OptimizerError::Pattern {
                    pattern: group.parameters.clone(),
                    reason,
                }
            })?;
            let mut found = false;
            for (treatment, entry) in all.iter_mut().zip(layout.entries()) {
                if pattern.matches(&entry.id(), Some(entry.name())) {
                    found = true;
                    treatment.rate = group.learning_rate_factor;
                    if let Some(decay) = group.weight_decay {
                        treatment.decay = decay;
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

    /// The optimizer of `module`.
    ///
    /// # Errors
    /// If a value is out of range, or a group matches no parameter.
    pub fn init<M: Module>(&self, module: &M) -> Result<Stepper, OptimizerError> {
        self.validate()?;
        let layout = ParameterLayout::trainable(module)?;
        let treatments = self.treatments(&layout)?;
        let rule = match self.method {
            _ if let Some(other) = &self.other => {
                let assemble = other.assemble.as_ref();
                let assemble = assemble.ok_or_else(|| OptimizerError::Other(other.name.clone()))?;
                Rule::PerParameter {
                    optimizer: assemble(&decay_groups(&treatments)),
                    factored: false,
                }
            }
            Method::MFac(c) => {
                if treatments.iter().any(|t| t.rate != 1.0) {
                    return Err(OptimizerError::GroupRate);
                }
                // The weight decay is added here, because it differs between parameters.
                let config = MFacConfig::new()
                    .with_window(c.window)
                    .with_damping(c.damping)
                    .with_momentum(c.momentum);
                let decay: Vec<f32> = treatments
                    .iter()
                    .zip(layout.entries())
                    .flat_map(|(t, entry)| {
                        std::iter::repeat_n(t.decay as f32, entry.num_elements())
                    })
                    .collect();
                let decay = decay.iter().any(|&d| d > 0.0).then(|| {
                    let data = TensorData::new(decay, [layout.total_length()]);
                    Box::new(Tensor::from_data(data, layout.device()))
                });
                let optimizer = Box::new(config.init()?.prepared(module)?);
                Rule::MFac {
                    optimizer,
                    decay,
                    layout: Box::new(layout),
                    window: c.window,
                    velocity: c.momentum > 0.0,
                }
            }
            method => Rule::PerParameter {
                optimizer: self.per_parameter(&treatments)?,
                factored: matches!(method, Method::Adafactor(_)),
            },
        };
        let mut rates: Vec<(f64, Vec<String>)> = Vec::new();
        for treatment in treatments.into_iter().filter(|t| t.rate != 1.0) {
            match rates.iter_mut().find(|(rate, _)| *rate == treatment.rate) {
                Some((_, names)) => names.push(treatment.name),
                None => rates.push((treatment.rate, vec![treatment.name])),
            }
        }
        let rates = rates
            .into_iter()
            .map(|(rate, names)| (rate, ParamGroup::from_paths(names)))
            .collect();
        Ok(Stepper { rule, rates })
    }

    fn per_parameter(&self, all: &[Treatment]) -> Result<ModuleOptimizer, OptimizerError> {
        let coupled = |decay: f64| (decay > 0.0).then(|| WeightDecayConfig::new(decay as f32));
        let adamw = |c: Adam, decay: f64| {
            AdamWConfig::new()
                .with_beta_1(c.beta_1 as f32)
                .with_beta_2(c.beta_2 as f32)
                .with_epsilon(c.epsilon as f32)
                .with_amsgrad(c.amsgrad)
                .with_weight_decay(decay as f32)
                .build()
        };
        let groups = decay_groups(all);
        match self.method {
            Method::Sgd(_) => assemble(&groups, |decay| {
                Ok(SgdConfig::new().with_weight_decay(coupled(decay)).build())
            }),
            Method::Momentum(c) => assemble(&groups, |decay| {
                let momentum = MomentumConfig::new()
                    .with_momentum(c.momentum)
                    .with_dampening(c.dampening)
                    .with_nesterov(c.nesterov);
                Ok(SgdConfig::new()
                    .with_momentum(Some(momentum))
                    .with_weight_decay(coupled(decay))
                    .build())
            }),
            Method::AdaGrad(c) => assemble(&groups, |decay| {
                Ok(AdaGradConfig::new()
                    .with_lr_decay(c.lr_decay)
                    .with_epsilon(c.epsilon as f32)
                    .with_weight_decay(coupled(decay))
                    .build())
            }),
            Method::RmsProp(c) => assemble(&groups, |decay| {
                Ok(RmsPropConfig::new()
                    .with_alpha(c.alpha as f32)
                    .with_momentum(c.momentum as f32)
                    .with_epsilon(c.epsilon as f32)
                    .with_centered(c.centered)
                    .with_weight_decay(coupled(decay))
                    .build())
            }),
            Method::Adam(c) => assemble(&groups, |decay| {
                Ok(AdamConfig::new()
                    .with_beta_1(c.beta_1 as f32)
                    .with_beta_2(c.beta_2 as f32)
                    .with_epsilon(c.epsilon as f32)
                    .with_amsgrad(c.amsgrad)
                    .with_weight_decay(coupled(decay))
                    .build())
            }),
            Method::AdamW(c) => assemble(&groups, |decay| Ok(adamw(c, decay))),
            Method::Adan(c) => assemble(&groups, |decay| {
                Ok(AdanConfig::new()
                    .with_beta_1(c.beta_1 as f32)
                    .with_beta_2(c.beta_2 as f32)
                    .with_beta_3(c.beta_3 as f32)
                    .with_epsilon(c.epsilon as f32)
                    .with_weight_decay(decay as f32)
                    .build())
            }),
            Method::Lamb(c) => assemble(&groups, |decay| {
                Ok(LambConfig::new()
                    .with_beta_1(c.beta_1 as f32)
                    .with_beta_2(c.beta_2 as f32)
                    .with_epsilon(c.epsilon as f32)
                    .with_weight_decay(decay as f32)
                    .build())
            }),
            Method::Lion(c) => assemble(&groups, |decay| {
                Ok(LionConfig::new()
                    .with_beta_1(c.beta_1 as f32)
                    .with_beta_2(c.beta_2 as f32)
                    .with_weight_decay(decay as f32)
                    .build())
            }),
            Method::Adafactor(c) => assemble(&groups, |decay| {
                Ok(AdafactorConfig::new()
                    .with_relative_step(false)
                    .with_scale_parameter(c.scale_parameter)
                    .with_clip_threshold(c.clip_threshold as f32)
                    .with_weight_decay(decay as f32)
                    .build())
            }),
            Method::Muon(c) => {
                let hidden = |t: &&Treatment| t.rank == 2 && !t.name.starts_with("output.");
                let matrices: Vec<Treatment> = all.iter().filter(hidden).cloned().collect();
                let others = assemble(&groups, |decay| Ok(adamw(Adam::default(), decay)))?;
                Ok(decay_groups(&matrices)
                    .into_iter()
                    .fold(others, |whole, (decay, group)| {
                        let muon = MuonConfig::new()
                            .with_momentum(MomentumConfig {
                                momentum: c.momentum,
                                dampening: 0.0,
                                nesterov: c.nesterov,
                            })
                            .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
                            .with_weight_decay(coupled(decay))
                            .build();
                        whole.with_group(group, muon, None)
                    }))
            }
            Method::AdamP(c) => assemble(&groups, |decay| {
                AdamPConfig::new()
                    .with_beta_1(c.beta_1)
                    .with_beta_2(c.beta_2)
                    .with_epsilon(c.epsilon)
                    .with_delta(c.delta)
                    .with_wd_ratio(c.wd_ratio)
                    .with_nesterov(c.nesterov)
                    .with_weight_decay(decay)
                    .build()
            }),
            Method::SgdP(c) => assemble(&groups, |decay| {
                SgdPConfig::new()
                    .with_momentum(c.momentum)
                    .with_dampening(c.dampening)
                    .with_epsilon(c.epsilon)
                    .with_delta(c.delta)
                    .with_wd_ratio(c.wd_ratio)
                    .with_nesterov(c.nesterov)
                    .with_weight_decay(decay)
                    .build()
            }),
            Method::DiffGrad(c) => assemble(&groups, |decay| {
                DiffGradConfig::new()
                    .with_beta_1(c.beta_1)
                    .with_beta_2(c.beta_2)
                    .with_epsilon(c.epsilon)
                    .with_friction(c.friction.into())
                    .with_weight_decay(decay)
                    .build()
            }),
            Method::AdaBelief(c) => assemble(&groups, |decay| {
                AdaBeliefConfig::new()
                    .with_beta_1(c.beta_1)
                    .with_beta_2(c.beta_2)
                    .with_epsilon(c.epsilon)
                    .with_weight_decay_mode(c.weight_decay_mode.into())
                    .with_rectify(c.rectify)
                    .with_degenerated_to_sgd(c.degenerated_to_sgd)
                    .with_amsgrad(c.amsgrad)
                    .with_weight_decay(decay)
                    .build()
            }),
            // It is built where it is stepped along.
            Method::MFac(_) => Err(OptimizerError::GroupRate),
        }
    }
}

/// The parameters of each weight decay.
fn decay_groups(all: &[Treatment]) -> Vec<(f64, ParamGroup)> {
    let mut groups: Vec<(f64, Vec<String>)> = Vec::new();
    for treatment in all {
        match groups
            .iter_mut()
            .find(|(decay, _)| *decay == treatment.decay)
        {
            Some((_, names)) => names.push(treatment.name.clone()),
            None => groups.push((treatment.decay, vec![treatment.name.clone()])),
        }
    }
    groups
        .into_iter()
        .map(|(decay, names)| (decay, ParamGroup::from_paths(names)))
        .collect()
}

/// One optimizer per weight decay.
fn assemble<O: Optimizer>(
    groups: &[(f64, ParamGroup)],
    build: impl Fn(f64) -> Result<O, OptimizerConfigError>,
) -> Result<ModuleOptimizer, OptimizerError> {
    let mut built = Vec::with_capacity(groups.len());
    for (decay, group) in groups {
        built.push((group.clone(), build(*decay)?));
    }
    Ok(grouped(build(0.0)?, built))
}

/// - `usual`: which Burn wants for all parameters, although each has its group
fn grouped<O: Optimizer>(usual: O, built: Vec<(ParamGroup, O)>) -> ModuleOptimizer {
    let groups = built.into_iter();
    groups.fold(ModuleOptimizer::from(usual), |whole, (group, optimizer)| {
        whole.with_group(group, optimizer, None)
    })
}

#[derive(Clone)]
enum Rule {
    PerParameter {
        optimizer: ModuleOptimizer,
        /// Whether states have other shapes than their parameters.
        factored: bool,
    },
    MFac {
        optimizer: Box<MFac>,
        /// The decay of each number, `[d]`.
        decay: Option<Box<Tensor<1>>>,
        layout: Box<ParameterLayout>,
        window: usize,
        velocity: bool,
    },
}

/// An optimizer at work.
#[derive(Clone)]
pub struct Stepper {
    rule: Rule,
    /// Factors of the learning rate, where they are not 1.
    rates: Vec<(f64, ParamGroup)>,
}

impl std::fmt::Debug for Stepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepper").finish_non_exhaustive()
    }
}

impl Stepper {
    /// One step with the learning rate `rate`. The gradients must be finite.
    ///
    /// # Errors
    /// With M-FAC, if a gradient is missing or not finite.
    pub fn step<M: Module>(
        &mut self,
        rate: f64,
        module: M,
        gradients: GradientsParams,
    ) -> Result<M, OptimizerError> {
        match &mut self.rule {
            Rule::PerParameter { optimizer, .. } => {
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
            Rule::MFac {
                optimizer,
                decay,
                layout,
                ..
            } => {
                let gradients = match decay {
                    None => gradients,
                    Some(decay) => {
                        let w = layout.flatten_parameters(&module)?;
                        let g = layout.flatten_gradients(&gradients)?;
                        layout.to_gradients(g + w * (**decay).clone())?
                    }
                };
                Ok(optimizer.step(rate, module, gradients)?)
            }
        }
    }

    /// Bytes that the optimizer keeps between two steps: the tensors of its state; for M-FAC, the
    /// window of gradients with its two matrices.
    ///
    /// # Errors
    /// If the state cannot be read.
    pub fn state_bytes(&self) -> Result<u64, OptimizerError> {
        match &self.rule {
            Rule::PerParameter { optimizer, .. } => {
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
            Rule::MFac {
                layout,
                window,
                velocity,
                ..
            } => {
                let (m, d) = (*window as u64, layout.total_length() as u64);
                Ok(4 * d * (m + u64::from(*velocity)) + 2 * 8 * m * m)
            }
        }
    }

    /// The state as bytes, from which [`load`](Self::load) goes on with the same bits.
    ///
    /// # Errors
    /// If it cannot be read from the device.
    pub fn to_bytes(&self) -> Result<Vec<u8>, OptimizerError> {
        match &self.rule {
            Rule::PerParameter { optimizer, .. } => {
                let bytes = optimizer.into_bytes();
                let bytes = bytes.map_err(|e| OptimizerError::Record(e.to_string()))?;
                Ok(bytes.to_vec())
            }
            Rule::MFac { optimizer, .. } => Ok(optimizer.into_bytes()?.to_vec()),
        }
    }

    /// This optimizer in the state of `bytes`, for `module`, which must have been loaded before.
    ///
    /// # Errors
    /// If the bytes are damaged, or those of another optimizer or model.
    pub fn load<M: Module>(self, bytes: Vec<u8>, module: &M) -> Result<Self, OptimizerError> {
        let rule = match self.rule {
            Rule::PerParameter {
                optimizer,
                factored,
            } => {
                let bytes = Bytes::from_bytes_vec(bytes);
                let optimizer = if factored {
                    load_factored(optimizer, bytes)?
                } else {
                    checked_load(optimizer, bytes, module)?
                };
                Rule::PerParameter {
                    optimizer,
                    factored,
                }
            }
            Rule::MFac {
                optimizer,
                decay,
                window,
                velocity,
                ..
            } => {
                let bytes = Bytes::from_bytes_vec(bytes);
                // The layout is known by the numbers of the parameters, which loading changed: it is
                // made anew for the module that was loaded.
                Rule::MFac {
                    optimizer: Box::new(optimizer.from_bytes(bytes)?.prepared(module)?),
                    decay,
                    layout: Box::new(ParameterLayout::trainable(module)?),
                    window,
                    velocity,
                }
            }
        };
        Ok(Self { rule, ..self })
    }
}

/// Loads a record whose states have not the shapes of their parameters, which
/// [`checked_load`] would refuse.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_method_and_every_method_has_its_name() {
        for name in METHOD_NAMES {
            let method: Method = name.parse().unwrap();
            assert_eq!(method.name(), name);
            let config = OptimizerConfig::new(method);
            config.validate().unwrap();
            let text = toml::to_string(&config).unwrap();
            assert!(text.contains(&format!("name = \"{name}\"")), "{text}");
            assert_eq!(toml::from_str::<OptimizerConfig>(&text).unwrap(), config);
        }
        let told = "newton".parse::<Method>().unwrap_err().to_string();
        assert!(
            told.contains("no optimizer \"newton\", only sgd, momentum"),
            "{told}"
        );
    }

    #[test]
    fn values_out_of_range_and_unknown_fields_are_refused() {
        let told = |text: &str| {
            let config: OptimizerConfig = toml::from_str(text).unwrap();
            config.validate().unwrap_err().to_string()
        };
        assert!(told("learning_rate = 0.0").contains("the learning rate of the optimizer is 0"));
        assert!(told("weight_decay = -1.0").contains("weight decay"));
        assert!(told("method = { name = \"adam\", beta_2 = 1.0 }").contains("beta_2"));
        assert!(
            told("[[groups]]\nparameters = \"a\"\nlearning_rate_factor = -1.0").contains("factor")
        );
        let unknown = toml::from_str::<OptimizerConfig>("method = { name = \"adam\", beta = 1.0 }");
        assert!(
            unknown
                .unwrap_err()
                .to_string()
                .contains("unknown field `beta`")
        );
    }
}
