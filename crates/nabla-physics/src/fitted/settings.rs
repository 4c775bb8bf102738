//! What a fit can be told.

use nabla_base::range::{self, OutOfRange};
use nabla_kernels::activation::Activation;
use nabla_train::optimizer::OptimizerConfig;
use nabla_train::validation::Keep;
use serde::{Deserialize, Serialize};

use super::FitError;
use crate::adjoint::{Adjoint, Checkpoints};
use crate::ernode::{Annealing, Heuristic, Penalty};
use crate::local_regularisation::{LocalPenalty, Sampling};
use crate::method::Method;
use crate::solver::Solver;

/// Which equation is fitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `z' = f(z, t)`.
    #[default]
    Ode,
    /// `dz = f(z, t) dt + g(z, t) dW`, with noise of its own for each number.
    Sde,
}

nabla_base::choices! {
    Kind: "kind of equation" {
        "ode" => Self::Ode, "An ordinary equation: the same start gives the same future";
        "sde" => Self::Sde, "A stochastic equation with noise of its own for each column";
    }
}

/// A solver's method by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodName {
    /// [`Method::EULER`].
    Euler,
    /// [`Method::RK4`].
    Rk4,
    /// [`Method::BS3`].
    Bs3,
    /// [`Method::DOPRI5`].
    Dopri5,
    /// [`Method::TSIT5`].
    #[default]
    Tsit5,
    /// [`Method::VERN7`].
    Vern7,
    /// [`Method::RODAS4`].
    Rodas4,
}

nabla_base::choices! {
    MethodName: "method" {
        "euler" => Self::Euler, "Euler's, with steps of one length";
        "rk4" => Self::Rk4, "The classical one of order 4, with steps of one length";
        "bs3" => Self::Bs3, "Bogacki and Shampine's, order 3";
        "dopri5" => Self::Dopri5, "Dormand and Prince's, order 5";
        "tsit5" => Self::Tsit5, "Tsitouras', order 5";
        "vern7" => Self::Vern7, "Verner's, order 7";
        "rodas4" => Self::Rodas4, "Rodas4, for stiff equations";
    }
}

impl MethodName {
    /// The method.
    pub fn method(self) -> Method {
        match self {
            Self::Euler => Method::EULER,
            Self::Rk4 => Method::RK4,
            Self::Bs3 => Method::BS3,
            Self::Dopri5 => Method::DOPRI5,
            Self::Tsit5 => Method::TSIT5,
            Self::Vern7 => Method::VERN7,
            Self::Rodas4 => Method::RODAS4,
        }
    }

    /// Whether it estimates its error, and so finds its steps.
    pub fn is_adaptive(self) -> bool {
        !matches!(self, Self::Euler | Self::Rk4)
    }
}

/// A gradient through the solver by its name; see [`Adjoint`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdjointName {
    /// Through the steps.
    #[default]
    Discrete,
    /// Through the steps, with about as many states kept as there are steps between two of them.
    SquareRoot,
    /// [`Adjoint::Interpolating`].
    Interpolating,
    /// [`Adjoint::Backsolve`].
    Backsolve,
    /// [`Adjoint::Forward`].
    Forward,
}

nabla_base::choices! {
    AdjointName: "adjoint" {
        "discrete" => Self::Discrete, "Through the steps: the exact gradient of what was computed";
        "square-root" => Self::SquareRoot, "The same with less memory: most steps are computed again";
        "interpolating" => Self::Interpolating, "The adjoint equation, with the solution kept";
        "backsolve" => Self::Backsolve, "The adjoint equation, with the solution solved backwards";
        "forward" => Self::Forward, "Sensitivities, for few parameters";
    }
}

impl AdjointName {
    fn adjoint(self) -> Adjoint {
        match self {
            Self::Discrete => Adjoint::Discrete(Checkpoints::Automatic),
            Self::SquareRoot => Adjoint::Discrete(Checkpoints::SquareRoot),
            Self::Interpolating => Adjoint::Interpolating,
            Self::Backsolve => Adjoint::Backsolve,
            Self::Forward => Adjoint::Forward,
        }
    }

    fn is_discrete(self) -> bool {
        matches!(self, Self::Discrete | Self::SquareRoot)
    }
}

/// The activation between layers by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationName {
    /// `tanh x`.
    #[default]
    Tanh,
    /// `ln(1 + eˣ)`.
    Softplus,
    /// `x/(1 + e⁻ˣ)`.
    Silu,
    /// `x Φ(x)`.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

nabla_base::choices! {
    ActivationName: "activation" {
        "tanh" => Self::Tanh, "Smooth and bounded";
        "softplus" => Self::Softplus, "Smooth, grows like x";
        "silu" => Self::Silu, "Smooth, grows like x";
        "gelu" => Self::Gelu, "Smooth, grows like x";
        "relu" => Self::Relu, "Has a kink, which costs the solver steps";
    }
}

impl ActivationName {
    pub(super) fn activation(self) -> Activation {
        match self {
            Self::Tanh => Activation::Tanh,
            Self::Softplus => Activation::Softplus,
            Self::Silu => Activation::Silu,
            Self::Gelu => Activation::Gelu,
            Self::Relu => Activation::Relu,
        }
    }
}

/// How equations are solved. Saved with the model, which is simulated in the same way unless told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SolverSettings {
    /// Default Tsitouras'.
    pub method: MethodName,
    /// The absolute tolerance, in standard deviations of the data. Default 10⁻⁵.
    pub absolute: f64,
    /// The relative tolerance. Default 10⁻⁴.
    pub relative: f64,
    /// The length of all steps in the unit of the data's times, for methods without error estimates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
}

impl Default for SolverSettings {
    fn default() -> Self {
        Self {
            method: MethodName::default(),
            absolute: 1e-5,
            relative: 1e-4,
            step: None,
        }
    }
}

impl SolverSettings {
    pub(super) fn validate(&self) -> Result<(), FitError> {
        range::positive("absolute tolerance", self.absolute)?;
        range::not_negative("relative tolerance", self.relative)?;
        if let Some(step) = self.step {
            range::positive("length of the steps", step)?;
        }
        match self.method.is_adaptive() || self.step.is_some() {
            true => Ok(()),
            false => Err(FitError::NoStep(self.method.method().name())),
        }
    }

    /// The solver in which one unit of time is `unit` of the data.
    pub(super) fn solver(&self, unit: f64) -> Solver {
        let solver =
            Solver::new(self.method.method()).with_tolerances(self.absolute, self.relative);
        match self.step {
            Some(step) => solver.with_constant_step(step / unit),
            None => solver,
        }
    }
}

/// A penalty that makes the equation easy to solve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name", deny_unknown_fields)]
pub enum Regularisation {
    /// None.
    #[default]
    None,
    /// [ERNODE](crate::ernode): estimates of all steps.
    Ernode {
        /// Which.
        heuristic: Heuristic,
        /// The weight at the first step.
        weight: f64,
        /// The weight at the last.
        last_weight: f64,
    },
    /// [Local](crate::local_regularisation): the estimate of one step.
    Local {
        /// Which.
        heuristic: Heuristic,
        /// How its time is drawn.
        sampling: Sampling,
        /// The weight at the first step.
        weight: f64,
        /// The weight at the last.
        last_weight: f64,
    },
}

/// A penalty with its weights.
#[derive(Clone, Copy, Debug)]
pub(super) enum Regulariser {
    None,
    Ernode(Penalty, Annealing),
    Local(LocalPenalty, Annealing),
}

impl Regularisation {
    pub(super) fn regulariser(&self, steps: usize) -> Result<Regulariser, OutOfRange> {
        Ok(match *self {
            Self::None => Regulariser::None,
            Self::Ernode {
                heuristic,
                weight,
                last_weight,
            } => Regulariser::Ernode(
                Penalty::new(heuristic),
                Annealing::new(weight, last_weight, steps)?,
            ),
            Self::Local {
                heuristic,
                sampling,
                weight,
                last_weight,
            } => Regulariser::Local(
                LocalPenalty::new(heuristic, sampling)?,
                Annealing::new(weight, last_weight, steps)?,
            ),
        })
    }
}

/// The recipe of a fit; [`Fit::new`](super::Fit::new) begins it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FitConfig {
    /// Default [`Kind::Ode`].
    pub kind: Kind,
    /// Units of each hidden layer of `f`, and of `g`. Default 32 and 32.
    pub hidden: Vec<usize>,
    /// Default `tanh`.
    pub activation: ActivationName,
    /// Whether `f` and `g` see the time. Default: no, since beyond the data's last time they would see what they never
    /// saw.
    pub time_dependent: bool,
    /// How equations are solved.
    pub solver: SolverSettings,
    /// How gradients are computed. Default: through the steps.
    pub adjoint: AdjointName,
    /// Rows of a window; 0 for 20, or for 2 if the equation is stochastic and there are no gaps, where windows of two
    /// rows have the whole likelihood. Default 0.
    pub window: usize,
    /// The share of the training in which the horizon grows from 2 rows to the window. Default 0.5.
    pub growth: f64,
    /// Windows of a step. Default 32.
    pub batch: usize,
    /// Steps between two rows by which moments of a stochastic equation are found. Default 4.
    pub substeps: usize,
    /// Default: none.
    #[serde(skip_serializing_if = "is_none")]
    pub regularisation: Regularisation,
    /// The share that is held out. Default 0.2.
    pub validation: f64,
    /// Which weights are left, if something is held out. Default: the best.
    pub keep: Keep,
    /// Steps of the training. Default 2000.
    pub steps: usize,
    /// Default AdamW with the learning rate 0.005, which falls along a cosine to 0.
    pub optimizer: OptimizerConfig,
    /// The largest Euclidean norm of the gradient; 0 for no limit. Default 1.
    pub gradient_clip: f64,
    /// Measurements, and checkpoints, of the training. Default 20.
    pub measurements: usize,
    /// Of everything random. Default 42.
    pub seed: u64,
}

fn is_none(regularisation: &Regularisation) -> bool {
    *regularisation == Regularisation::None
}

impl Default for FitConfig {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            hidden: vec![32, 32],
            activation: ActivationName::default(),
            time_dependent: false,
            solver: SolverSettings::default(),
            adjoint: AdjointName::default(),
            window: 0,
            growth: 0.5,
            batch: 32,
            substeps: 4,
            regularisation: Regularisation::default(),
            validation: 0.2,
            keep: Keep::default(),
            steps: 2000,
            optimizer: OptimizerConfig {
                learning_rate: Some(5e-3),
                ..OptimizerConfig::default()
            },
            gradient_clip: 1.0,
            measurements: 20,
            seed: 42,
        }
    }
}

impl FitConfig {
    /// Refuses what is out of range, or does not go together.
    ///
    /// # Errors
    /// An error that says what.
    pub fn validate(&self) -> Result<(), FitError> {
        self.solver.validate()?;
        for &width in &self.hidden {
            range::within("width of a hidden layer", width, 1..=4096)?;
        }
        if self.window != 0 {
            range::at_least("number of rows of a window", self.window, 2)?;
        }
        range::at_least("batch size", self.batch, 1)?;
        range::within("number of substeps", self.substeps, 1..=1000)?;
        range::at_least("number of measurements", self.measurements, 1)?;
        range::not_negative("largest norm of the gradient", self.gradient_clip)?;
        for (name, share) in [
            (
                "share of the training in which the horizon grows",
                self.growth,
            ),
            ("share that is held out", self.validation),
        ] {
            let fits = (0.0..1.0).contains(&share);
            range::check(fits, name, share, "at least 0 and less than 1")?;
        }
        self.regularisation.regulariser(self.steps.max(1))?;
        if self.kind == Kind::Sde && self.regularisation != Regularisation::None {
            return Err(FitError::Together(
                "a stochastic equation is fitted without a solver, so its steps cannot be regularised",
            ));
        }
        if self.solver.method == MethodName::Rodas4 && !self.adjoint.is_discrete() {
            return Err(FitError::Together(
                "the method rodas4 has gradients through the steps alone: the adjoint must be discrete or square-root",
            ));
        }
        if matches!(self.regularisation, Regularisation::Ernode { .. }) {
            if !self.adjoint.is_discrete() {
                return Err(FitError::Together(
                    "ernode needs gradients through the steps: the adjoint must be discrete or square-root; local \
                     regularisation takes any",
                ));
            }
            if !self.solver.method.is_adaptive() {
                return Err(FitError::Together(
                    "ernode penalises error estimates, which the methods euler and rk4 do not have",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn solver(&self, unit: f64) -> Solver {
        self.solver
            .solver(unit)
            .with_adjoint(self.adjoint.adjoint())
    }
}
