//! The model of a fit, and its folder.

use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use nabla_grad::flat::ParameterLayout;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::activation::Activation;
use nabla_train::network_folder::NetworkFolder;
use serde::{Deserialize, Serialize};

use super::settings::{ActivationName, Kind, SolverSettings};
use super::windows::Scaling;
use super::{FitConfig, FitError};
use crate::field::Dynamics;
use crate::neural_ode::{NeuralOde, NeuralOdeConfig};

/// The file of a model's configuration.
pub const CONFIG_FILE: &str = "dynamics.json";

const FOLDER: NetworkFolder = NetworkFolder {
    kind: "neural ODE or SDE",
    config: CONFIG_FILE,
};

/// Noise has at least this standard deviation in the units of the network, so that a likelihood stays finite.
const LEAST_NOISE: f64 = 1e-3;

/// Everything that a model is besides its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FittedConfig {
    /// Which equation it is.
    pub kind: Kind,
    /// The name of the time.
    pub time: String,
    /// The name of what names trajectories, if the data had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trajectory: Option<String>,
    /// The names of the numbers of a state.
    pub columns: Vec<String>,
    /// Units of each hidden layer.
    pub hidden: Vec<usize>,
    /// Between layers.
    pub activation: ActivationName,
    /// Whether the networks see the time.
    pub time_dependent: bool,
    /// Units of the data.
    pub scaling: Scaling,
    /// How the equation was solved in the training.
    pub solver: SolverSettings,
}

impl FittedConfig {
    pub(super) fn new(
        config: &FitConfig,
        table: &nabla_data::trajectories::Trajectories,
        scaling: Scaling,
    ) -> Self {
        Self {
            kind: config.kind,
            time: table.time.clone(),
            trajectory: table.trajectory.clone(),
            columns: table.columns.clone(),
            hidden: config.hidden.clone(),
            activation: config.activation,
            time_dependent: config.time_dependent,
            scaling,
            solver: config.solver,
        }
    }

    fn validate(&self) -> Result<(), FitError> {
        let columns = self.columns.len();
        let Scaling {
            mean,
            deviation,
            times,
            unit,
        } = &self.scaling;
        let wrong = |what: &str| Err(FitError::Config(what.to_owned()));
        let good = |x: &f64| x.is_finite() && *x > 0.0;
        match () {
            () if columns == 0 => wrong("there are no columns"),
            () if mean.len() != columns || deviation.len() != columns => {
                wrong("there must be a mean and a deviation for each column")
            }
            () if !mean.iter().all(|x| x.is_finite()) => wrong("a mean is not finite"),
            () if !deviation.iter().all(good) => wrong("a deviation is not positive"),
            () if !good(unit) => wrong("the unit of time is not positive"),
            () if !(times[0].is_finite() && good(&(times[1] - times[0]))) => {
                wrong("the times do not rise")
            }
            () => self.solver.validate(),
        }
    }

    /// - `draws`: of the initial weights
    pub(super) fn network(
        &self,
        device: &Device,
        draws: &mut SeededNoise,
    ) -> Result<FittedNetwork, FitError> {
        let config = NeuralOdeConfig::new(self.columns.len())
            .with_hidden(self.hidden.clone())
            .with_activation(self.activation.activation());
        let config = match self.time_dependent {
            true => config,
            false => config.without_time(),
        };
        let drift = calm(config.init(device, draws)?, device);
        let noise = config.with_last(Activation::Softplus);
        let diffusion = match self.kind {
            Kind::Ode => None,
            Kind::Sde => Some(calm(noise.init(device, draws)?, device)),
        };
        Ok(FittedNetwork { drift, diffusion })
    }
}

/// With a last layer of a tenth: a training begins near the forecast that nothing changes.
fn calm(network: NeuralOde, device: &Device) -> NeuralOde {
    let mut layers = network.layers().to_vec();
    let tenth = |values: Vec<f32>| values.into_iter().map(|x| 0.1 * x).collect::<Vec<f32>>();
    if let Some(last) = layers.last_mut() {
        let weight = last.linear.weight.val();
        let dims = weight.dims();
        let values = tenth(weight.into_data().iter::<f32>().collect());
        let weight = Tensor::<2>::from_data(TensorData::new(values, dims), device);
        last.linear.weight = Param::from_tensor(weight);
        if let Some(by_time) = &mut last.by_time {
            let values = tenth(by_time.val().into_data().iter::<f32>().collect());
            *by_time = Param::from_tensor(Tensor::from_floats(values.as_slice(), device));
        }
    }
    network.with_layers(layers)
}

/// The networks of a model.
#[derive(Module, Debug)]
pub struct FittedNetwork {
    /// `f`.
    pub drift: NeuralOde,
    /// `g` before its least value is added, of stochastic equations.
    pub diffusion: Option<NeuralOde>,
}

/// How the time of a solver becomes that of a network, for each trajectory of a batch.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// Of the solver's time 0, as the network sees it.
    pub(super) seen: Vec<f64>,
    /// The length of a solver's unit, as the network sees it.
    pub(super) seen_per_unit: Vec<f64>,
    /// The length of a solver's unit in the network's unit.
    pub(super) speed: Vec<f64>,
    pub(super) time_dependent: bool,
}

/// A network as the right side of an equation in a solver's time, `dz/ds = T f(z, t_0 + T s)`.
#[derive(Module, Debug)]
pub(super) struct Timed {
    network: NeuralOde,
    #[module(skip)]
    clock: Clock,
    /// What is added.
    #[module(skip)]
    least: f64,
}

impl Timed {
    /// `f`.
    pub(super) fn drift(network: &FittedNetwork, clock: Clock) -> Self {
        Self {
            network: network.drift.clone(),
            clock,
            least: 0.0,
        }
    }

    /// `g`, for a solver whose unit is the network's.
    pub(super) fn diffusion(network: &NeuralOde, clock: Clock) -> Self {
        Self {
            network: network.clone(),
            clock,
            least: LEAST_NOISE,
        }
    }
}

fn column(values: &[f64], device: &Device) -> Tensor<2> {
    let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    let rows = values.len();
    Tensor::from_data(TensorData::new(values, [rows, 1]), device)
}

impl Dynamics for Timed {
    fn slope(&self, u: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
        let Clock {
            seen,
            seen_per_unit,
            speed,
            time_dependent,
        } = &self.clock;
        let device = t.device();
        let t = match time_dependent {
            true => t * column(seen_per_unit, &device) + column(seen, &device),
            false => t,
        };
        self.network.slope(u, t) * column(speed, &device) + self.least // [batch, d]
    }
}

/// `g`, `[batch, d]`.
///
/// - `t`: as the network sees it
pub(super) fn noise(network: &NeuralOde, u: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
    network.slope(u, t) + LEAST_NOISE
}

/// A model that was fitted; see the [module documentation](super).
#[derive(Clone, Debug)]
pub struct FittedModel {
    config: FittedConfig,
    network: FittedNetwork,
}

impl FittedModel {
    /// - `network`: without gradients
    pub(super) fn new(config: FittedConfig, network: FittedNetwork) -> Self {
        Self { config, network }
    }

    /// What it is besides its weights.
    pub fn config(&self) -> &FittedConfig {
        &self.config
    }

    /// Its networks, without gradients.
    pub fn network(&self) -> &FittedNetwork {
        &self.network
    }

    /// The number of its weights.
    ///
    /// # Errors
    /// If there are none.
    pub fn parameters(&self) -> Result<usize, FitError> {
        let layout = ParameterLayout::of(&self.network);
        Ok(layout
            .map_err(nabla_train::error::TrainingError::from)?
            .total_length())
    }

    /// The drift of a state in the units of the data, and its noise per square root of time if there is one.
    ///
    /// # Errors
    /// If the state has another width.
    pub fn slope(
        &self,
        state: &[f64],
        time: f64,
    ) -> Result<(Vec<f64>, Option<Vec<f64>>), FitError> {
        let FittedConfig {
            columns, scaling, ..
        } = &self.config;
        if state.len() != columns.len() {
            return Err(FitError::Start {
                found: state.len(),
                expected: columns.len(),
            });
        }
        let device = Device::flex();
        let normalised = state.iter().enumerate();
        let normalised: Vec<f32> = normalised
            .map(|(i, &value)| scaling.normalised(i, value) as f32)
            .collect();
        let u = Tensor::<2>::from_data(TensorData::new(normalised, [1, state.len()]), &device);
        let t = column(&[scaling.seen(time)], &device);
        let numbers = |x: Tensor<2>, unit: f64| -> Vec<f64> {
            let values = x.into_data();
            let values = values.iter::<f64>().zip(&scaling.deviation);
            values
                .map(|(value, deviation)| value * deviation / unit)
                .collect()
        };
        let drift = self.network.drift.slope(u.clone(), t.clone());
        let diffusion = self.network.diffusion.as_ref();
        let diffusion = diffusion.map(|network| numbers(noise(network, u, t), scaling.unit.sqrt()));
        Ok((numbers(drift, scaling.unit), diffusion))
    }

    /// Writes its folder: [`CONFIG_FILE`] and the weights in single precision.
    ///
    /// # Errors
    /// If a file cannot be written, or the folder holds another kind of model.
    pub fn save(&self, folder: &Path) -> Result<(), FitError> {
        Ok(FOLDER.save_exactly(&self.config, &self.network, folder)?)
    }

    /// Checks, before a long job, that no model of another kind would be overwritten.
    ///
    /// # Errors
    /// If the folder has one.
    pub fn check_folder(folder: &Path) -> Result<(), FitError> {
        Ok(FOLDER.check(folder)?)
    }

    /// Reads a folder.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn load(folder: &Path) -> Result<Self, FitError> {
        let [config, weights] = FOLDER.read(folder)?;
        let config: FittedConfig = FOLDER.config(&config, folder)?;
        config.validate()?;
        let mut network = config.network(&Device::flex(), &mut SeededNoise::new(0, 0))?;
        FOLDER.load(&mut network, weights, folder)?;
        Ok(Self::new(config, network))
    }
}
