//! Optimizers with a name, and their registry.
//!
//! A [method](OptimizerMethod) has a name, a customary learning rate, and options with defaults, and creates
//! a [`Rule`] for the parameters of a model. The methods of Nabla and Burn are [entries](Entry) in the folder
//! `methods`, each with a file and a line in the list. A program adds its own with [`register`]; files and
//! command lines can use it from then on.

use std::fmt;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use burn::module::{ParamGroup, ParamId};
use burn::optim::{ModuleOptimizer, Optimizer};
use nabla_base::OutOfRange;
use nabla_base::registry::Options;
use nabla_base::words::without_types;
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{OptimizerError, OtherOptimizer, Rule};

/// A parameter of a model, with its weight decay and the factor of its learning rate.
#[derive(Clone, Debug, PartialEq)]
pub struct TreatedParameter {
    /// Its identity, by which Burn finds it: its paths have the variants of enums, names don't.
    pub id: ParamId,
    /// Its name in the model, `blocks.0.norm_1.gamma`.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its weight decay.
    pub decay: f64,
    /// The factor of its learning rate.
    pub rate: f64,
}

impl TreatedParameter {
    /// The number of its elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An optimizer with a name.
pub trait OptimizerMethod: Send + Sync {
    /// Its name in files, on command lines and in tables.
    fn name(&self) -> &str;

    /// A summary, on one line.
    fn summary(&self) -> &str;

    /// The customary learning rate.
    fn learning_rate(&self) -> f64;

    /// How weights decay: `coupled`, `decoupled`, or another word.
    fn decay(&self) -> &str;

    /// The size of its state per parameter, in words.
    fn state(&self) -> &str;

    /// Its publication.
    fn source(&self) -> &str;

    /// Whether it is one that Nabla adds to Burn's.
    fn is_of_nabla(&self) -> bool {
        false
    }

    /// Every option with its default.
    ///
    /// # Errors
    /// If the defaults are not a table of values.
    fn defaults(&self) -> Result<Options, OptimizerError> {
        Ok(Options::default())
    }

    /// All options in their usual form, with defaults for those missing in `given`.
    ///
    /// # Errors
    /// If an option does not exist, or its value has the wrong kind.
    fn complete(&self, given: &Options) -> Result<Options, OptimizerError> {
        overlaid(self, given)
    }

    /// The optimizer for these parameters.
    ///
    /// - `options`: all options, as returned by [`complete`](Self::complete)
    /// - `parameters`: the trained parameters, in the order of the model; empty to check only the options
    ///
    /// # Errors
    /// If an option is out of range, or the parameters cannot be treated in this way.
    fn assemble(
        &self,
        options: &Options,
        parameters: &[TreatedParameter],
    ) -> Result<Rule, OptimizerError>;
}

/// The defaults of a method, overridden by the given options.
fn overlaid(
    method: &(impl OptimizerMethod + ?Sized),
    given: &Options,
) -> Result<Options, OptimizerError> {
    let mut whole = method.defaults()?;
    for (option, value) in given.iter() {
        if whole.get(option).is_none() {
            return Err(OptimizerError::UnknownOption {
                method: method.name().to_owned(),
                option: option.to_owned(),
                options: whole.names().map(str::to_owned).collect(),
            });
        }
        whole.set(option, value.clone());
    }
    Ok(whole)
}

/// Refuses a value that is out of range.
pub type Range = fn(&'static str, f64) -> Result<f64, OutOfRange>;

/// Fields of a configuration that are not options: the weight decay is set for each group of parameters, and
/// gradients are clipped in the training's chain of transforms.
const RESERVED: [&str; 3] = ["weight_decay", "grad_clipping", "gradient_clipping"];

/// A method whose options are the fields of the configuration `C`, except for its weight decay and its
/// gradient clipping, which the training sets.
///
/// ```
/// use nabla_optim::diffgrad::{DiffGradConfig, Friction};
/// use nabla_train::optimizer::{Entry, Method, per_parameter, register};
///
/// register(Entry::<DiffGradConfig> {
///     name: "calm-diffgrad",
///     summary: "diffGrad that stands still where the gradient does",
///     learning_rate: 1e-3,
///     decay: "coupled",
///     state: "3",
///     source: "",
///     of_nabla: false,
///     defaults: || DiffGradConfig::new().with_friction(Friction::Tanh),
///     ranges: &[],
///     assemble: |config, parameters| {
///         per_parameter(parameters, |decay| Ok(config.clone().with_weight_decay(decay).build()?))
///     },
/// })?;
/// let method: Method = "calm-diffgrad".parse()?;
/// assert_eq!(method.option("friction"), Some(&"tanh".into()));
/// # Ok::<(), nabla_train::optimizer::OptimizerError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Entry<C> {
    /// See [`OptimizerMethod::name`].
    pub name: &'static str,
    /// See [`OptimizerMethod::summary`].
    pub summary: &'static str,
    /// See [`OptimizerMethod::learning_rate`].
    pub learning_rate: f64,
    /// See [`OptimizerMethod::decay`].
    pub decay: &'static str,
    /// See [`OptimizerMethod::state`].
    pub state: &'static str,
    /// See [`OptimizerMethod::source`].
    pub source: &'static str,
    /// See [`OptimizerMethod::is_of_nabla`].
    pub of_nabla: bool,
    /// The configuration with the defaults.
    pub defaults: fn() -> C,
    /// The ranges of options that the optimizer does not check when it is built.
    pub ranges: &'static [(&'static str, Range)],
    /// See [`OptimizerMethod::assemble`].
    pub assemble: fn(&C, &[TreatedParameter]) -> Result<Rule, OptimizerError>,
}

fn wrong_options(method: &str, reason: &serde_json::Error) -> OptimizerError {
    OptimizerError::Options {
        method: method.to_owned(),
        reason: without_types(&reason.to_string()),
    }
}

/// The fields of a configuration of `method` that are options.
fn options_of<C: Serialize>(method: &str, config: &C) -> Result<Options, OptimizerError> {
    let mut options = Options::of(config).map_err(|e| wrong_options(method, &e))?;
    for field in RESERVED {
        options.remove(field);
    }
    Ok(options)
}

impl<C: Serialize + DeserializeOwned> Entry<C> {
    /// The configuration with these options.
    fn config(&self, options: &Options) -> Result<C, OptimizerError> {
        let wrong = |e: serde_json::Error| wrong_options(self.name, &e);
        let defaults = Options::of(&(self.defaults)()).map_err(wrong)?;
        defaults.overridden(options).to_config().map_err(wrong)
    }
}

impl<C: Serialize + DeserializeOwned> OptimizerMethod for Entry<C> {
    fn name(&self) -> &str {
        self.name
    }

    fn summary(&self) -> &str {
        self.summary
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn decay(&self) -> &str {
        self.decay
    }

    fn state(&self) -> &str {
        self.state
    }

    fn source(&self) -> &str {
        self.source
    }

    fn is_of_nabla(&self) -> bool {
        self.of_nabla
    }

    fn defaults(&self) -> Result<Options, OptimizerError> {
        options_of(self.name, &(self.defaults)())
    }

    fn complete(&self, given: &Options) -> Result<Options, OptimizerError> {
        // Through the configuration, so that 1 and 1.0 are the same.
        options_of(self.name, &self.config(&overlaid(self, given)?)?)
    }

    fn assemble(
        &self,
        options: &Options,
        parameters: &[TreatedParameter],
    ) -> Result<Rule, OptimizerError> {
        for (field, range) in self.ranges {
            if let Some(value) = options.get(field).and_then(Value::as_f64) {
                range(field, value)?;
            }
        }
        (self.assemble)(&self.config(options)?, parameters)
    }
}

/// A rule with one optimizer for each weight decay.
///
/// - `build`: the optimizer of parameters with this weight decay
///
/// # Errors
/// Those of `build`.
pub fn per_parameter<O: Optimizer>(
    parameters: &[TreatedParameter],
    build: impl Fn(f64) -> Result<O, OptimizerError>,
) -> Result<Rule, OptimizerError> {
    Ok(Rule::PerParameter(module_optimizer(parameters, build)?))
}

/// Like [`per_parameter`], but returns Burn's optimizer of a module itself.
///
/// # Errors
/// Those of `build`.
pub fn module_optimizer<O: Optimizer>(
    parameters: &[TreatedParameter],
    build: impl Fn(f64) -> Result<O, OptimizerError>,
) -> Result<ModuleOptimizer, OptimizerError> {
    // Burn requires an optimizer for all parameters, although each has its group.
    let usual = ModuleOptimizer::from(build(0.0)?);
    with_decay_groups(usual, parameters.iter(), build)
}

/// `whole` with one optimizer for each weight decay among `parameters`.
pub(super) fn with_decay_groups<'a, O: Optimizer>(
    mut whole: ModuleOptimizer,
    parameters: impl Iterator<Item = &'a TreatedParameter>,
    build: impl Fn(f64) -> Result<O, OptimizerError>,
) -> Result<ModuleOptimizer, OptimizerError> {
    for (decay, ids) in grouped(parameters, |p| p.decay) {
        whole = whole.with_group(ParamGroup::from_ids(ids), build(decay)?, None);
    }
    Ok(whole)
}

/// The parameters, grouped by one of their numbers, in the order in which it first occurs.
pub(super) fn grouped<'a>(
    parameters: impl Iterator<Item = &'a TreatedParameter>,
    number: impl Fn(&TreatedParameter) -> f64,
) -> Vec<(f64, Vec<ParamId>)> {
    let mut groups: Vec<(f64, Vec<ParamId>)> = Vec::new();
    for parameter in parameters {
        let key = number(parameter);
        match groups.iter_mut().find(|(found, _)| *found == key) {
            Some((_, ids)) => ids.push(parameter.id),
            None => groups.push((key, vec![parameter.id])),
        }
    }
    groups
}

type Registry = RwLock<Vec<Arc<dyn OptimizerMethod>>>;

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| RwLock::new(super::methods::all()));

/// All methods with a name: baselines first, methods registered by a program last.
pub fn methods() -> Vec<Arc<dyn OptimizerMethod>> {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.clone()
}

/// Their names.
pub fn method_names() -> Vec<String> {
    methods().iter().map(|m| m.name().to_owned()).collect()
}

/// Registers a method, so that files and command lines of this process can use its name.
///
/// # Errors
/// If the name is taken.
pub fn register(method: impl OptimizerMethod + 'static) -> Result<(), OptimizerError> {
    let mut registry = REGISTRY.write().unwrap_or_else(PoisonError::into_inner);
    if registry.iter().any(|known| known.name() == method.name()) {
        return Err(OptimizerError::NameTaken(method.name().to_owned()));
    }
    registry.push(Arc::new(method));
    Ok(())
}

/// An optimizer with its options.
///
/// ```
/// use nabla_optim::adabelief::AdaBeliefConfig;
/// use nabla_train::optimizer::Method;
///
/// // By name, with its defaults, or with some options.
/// let adam: Method = "adam".parse()?;
/// let belief = Method::named("adabelief")?.with("rectify", false)?;
/// // By a configuration.
/// let gan = Method::of("adabelief", &AdaBeliefConfig::gan())?;
/// assert_eq!(gan.option("beta_1"), Some(&0.5_f64.into()));
/// # let _ = (adam, belief);
/// # Ok::<(), nabla_train::optimizer::OptimizerError>(())
/// ```
#[derive(Clone)]
pub struct Method {
    method: Arc<dyn OptimizerMethod>,
    options: Options,
}

impl Method {
    /// The method of this name, with its defaults.
    ///
    /// # Errors
    /// If it does not exist.
    pub fn named(name: &str) -> Result<Self, OptimizerError> {
        match methods().into_iter().find(|m| m.name() == name) {
            Some(method) => Self::from_arc(method),
            None => Err(OptimizerError::UnknownMethod {
                name: name.to_owned(),
                names: method_names(),
            }),
        }
    }

    /// The method of this name with the fields of its configuration, without its weight decay and gradient
    /// clipping.
    ///
    /// # Errors
    /// If there is no such method, or its configuration differs.
    pub fn of<C: Serialize>(name: &str, config: &C) -> Result<Self, OptimizerError> {
        Self::named(name)?.with_options(&options_of(name, config)?)
    }

    /// A method that is not registered, with its defaults.
    ///
    /// # Errors
    /// If it has no defaults.
    pub fn own(method: impl OptimizerMethod + 'static) -> Result<Self, OptimizerError> {
        Self::from_arc(Arc::new(method))
    }

    /// AdamW, the default.
    pub(super) fn usual() -> Self {
        let method: Arc<dyn OptimizerMethod> = Arc::new(super::methods::USUAL);
        Self {
            options: method.defaults().unwrap_or_default(),
            method,
        }
    }

    pub(super) fn of_other(other: OtherOptimizer) -> Self {
        Self {
            method: Arc::new(other),
            options: Options::default(),
        }
    }

    fn from_arc(method: Arc<dyn OptimizerMethod>) -> Result<Self, OptimizerError> {
        let options = method.defaults()?;
        Ok(Self { method, options })
    }

    /// The same method with another value of an option.
    ///
    /// # Errors
    /// If an option does not exist, or its value has the wrong kind.
    pub fn with(self, option: &str, value: impl Serialize) -> Result<Self, OptimizerError> {
        let value = serde_json::to_string(&value).and_then(|text| serde_json::from_str(&text));
        let value: Value = value.map_err(|e| wrong_options(self.name(), &e))?;
        self.with_options(&Options::new().with(option, value))
    }

    fn with_options(self, given: &Options) -> Result<Self, OptimizerError> {
        let mut options = self.options;
        for (option, value) in given.iter() {
            options.set(option, value.clone());
        }
        Ok(Self {
            options: self.method.complete(&options)?,
            method: self.method,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.method.name()
    }

    /// The value of an option.
    pub fn option(&self, name: &str) -> Option<&Value> {
        self.options.get(name)
    }

    /// Whether it is one of Nabla's own.
    pub fn is_of_nabla(&self) -> bool {
        self.method.is_of_nabla()
    }

    /// The customary learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.method.learning_rate()
    }

    /// Refuses options that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), OptimizerError> {
        self.assemble(&[]).map(drop)
    }

    pub(super) fn assemble(&self, parameters: &[TreatedParameter]) -> Result<Rule, OptimizerError> {
        self.method.assemble(&self.options, parameters)
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Method")
            .field("name", &self.name())
            .field("options", &self.options)
            .finish()
    }
}

/// Two methods with the same name are considered the same.
impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name() && self.options == other.options
    }
}

impl std::str::FromStr for Method {
    type Err = OptimizerError;

    fn from_str(name: &str) -> Result<Self, OptimizerError> {
        Self::named(name)
    }
}

/// As `{ name = "adam", beta_1 = 0.9, … }`, with all options.
impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", self.name())?;
        for (option, value) in self.options.iter() {
            map.serialize_entry(option, value)?;
        }
        map.end()
    }
}

/// Missing options have their defaults.
impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut options = Options::deserialize(deserializer)?;
        let name = match options.remove("name") {
            Some(Value::String(name)) => name,
            Some(_) => return Err(D::Error::custom("the name of an optimizer is a text")),
            None => return Err(D::Error::missing_field("name")),
        };
        let method = Self::named(&name).map_err(D::Error::custom)?;
        method.with_options(&options).map_err(D::Error::custom)
    }
}
