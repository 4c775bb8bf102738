//! Flow matching for points: a network learns the velocity of the flow along a Gaussian path.
//!
//! On a path `x_t = a_t x_0 + m_t ε` (in this crate's time, with the data at 0 and the noise at 1), the flow from noise
//! to data has the velocity `v_t(x) = E[a_t' x_0 + m_t' ε | x_t = x]`, which is what a network learns by least squares:
//!
//! ```text
//! L = E ‖v_θ(x_t, t) − (a_t' x_0 + m_t' ε)‖²,   dx/dt = v_θ(x, t) from 1 to 0
//! ```
//!
//! | path | `a_t` | `m_t` |
//! |---|---|---|
//! | [`CondOt`](FlowPath::CondOt) | `1 − t` | `t` |
//! | [`Vp`](FlowPath::Vp) | `cos(π t/2)` | `sin(π t/2)` |
//! | [`Ve`](FlowPath::Ve) | 1 | `σ_min (σ_max/σ_min)^t` |
//! | [`KineticOptimal`](FlowPath::KineticOptimal) | that of least kinetic energy for given data ([`kinetic_optimal`](crate::kinetic_optimal)) | |
//!
//! A trained [`Flow`] is a [`Denoiser`] too, so that every sampler, guidance and the
//! [likelihood](crate::likelihood) work with it. [`Flow::sample`] follows the velocity itself in the path's time, by the
//! methods of [`OdeMethod`]. For pictures there is [`denoiser_training`](crate::denoiser_training), with a UNet.
//!
//! The error of the velocity weighs the more, the faster the path goes. On the variance-exploding path nearly all of it
//! would be that of the noisiest times, so that by default the error is divided by the path's speed `√(a'² + m'²)`
//! ([`Weighting`]), which is constant on the first two paths.
//!
//! Sources: Lipman et al., *Flow Matching for Generative Modeling*, 2023, arXiv 2210.02747; Shaul et al., *On Kinetic
//! Optimal Probability Paths for Generative Models*, 2023, arXiv 2306.06626.

use std::path::Path;
use std::sync::Arc;

use burn::config::Config;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_kernels::activation::silu;
use nabla_kernels::linear::linear;
use nabla_train::network_folder::{NetworkFolder, NetworkFolderError};

use crate::adjoint_dpm::OdeMethod;
use crate::denoiser::{Condition, Denoiser, OwnError, Prediction, only_first};
use crate::kinetic_optimal::Normalized;
use crate::level::{Level, Levels, NoisePath};
use crate::likelihood::{Divergence, log_density};
use crate::ode_method::{adams_weights, plus};
use crate::sampler_error::SamplerError;
use crate::schedule::ScheduleError;
use crate::unet::sinusoidal_embedding;

mod path;
mod training;

pub(crate) use path::even_levels;
pub use path::{FlowPath, FlowPathError, PathChoice};
pub use training::{FlowTask, FlowTrainingConfig, Weighting};

/// The configuration's file name in a flow's folder.
pub const CONFIG_FILE: &str = "flow.json";

const FOLDER: NetworkFolder = NetworkFolder {
    kind: "flow",
    config: CONFIG_FILE,
};

/// Where runs and trainings start: at 1, `σ` may be infinite, and the velocity of the kinetic-optimal path unbounded.
pub const START: f64 = 0.999;

/// Sines and cosines of the time.
const TIMES: usize = 32;

/// Why a flow cannot be built, loaded, trained or followed.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// The folder cannot be read or written.
    #[error(transparent)]
    Folder(#[from] NetworkFolderError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// There is no such path, or it has no such levels.
    #[error(transparent)]
    Path(#[from] FlowPathError),
    /// The levels of a density do not fall.
    #[error(transparent)]
    Levels(#[from] ScheduleError),
    /// The density cannot be computed.
    #[error(transparent)]
    Density(#[from] SamplerError),
    /// The training failed.
    #[error(transparent)]
    Training(#[from] nabla_train::TrainingError),
    /// Points have another dimension than the flow.
    #[error("{found} numbers are not points of the flow's {dimension} numbers each")]
    Points {
        /// How many numbers there are.
        found: usize,
        /// How many a point has.
        dimension: usize,
    },
}

/// The configuration of a flow, without its weights.
#[derive(Config, Debug, PartialEq)]
pub struct FlowConfig {
    /// The names of a point's numbers.
    pub names: Vec<String>,
    /// The mean of each number in the data.
    pub mean: Vec<f64>,
    /// The root mean square of all numbers after the means were subtracted. The network knows points with mean 0 and
    /// mean square 1.
    pub scale: f64,
    /// The path. Default [`FlowPath::CondOt`].
    #[config(default = "FlowPath::CondOt")]
    pub path: FlowPath,
    /// Units of each hidden layer. Default three layers of 256.
    #[config(default = "vec![256; 3]")]
    pub hidden: Vec<usize>,
}

impl FlowConfig {
    /// For data that were [`normalized`](crate::kinetic_optimal::normalized).
    ///
    /// - `names`: one for each number of a point
    pub fn of(names: Vec<String>, data: &Normalized) -> Self {
        Self::new(names, data.mean.clone(), data.scale)
    }

    /// Numbers of a point.
    pub fn dimension(&self) -> usize {
        self.mean.len()
    }

    /// Checks the fields.
    ///
    /// # Errors
    /// If there are no numbers, not one name for each, a layer has no units, or a value is not finite.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        range::at_least("number of numbers of a point", self.dimension(), 1)?;
        let expected = format!("{}, as a point has numbers", self.dimension());
        let fits = self.names.len() == self.dimension();
        range::check(fits, "number of names", self.names.len(), expected)?;
        range::positive("scale of the data", self.scale)?;
        for &mean in &self.mean {
            range::finite("mean of the data", mean)?;
        }
        range::at_least("number of hidden layers", self.hidden.len(), 1)?;
        for &units in &self.hidden {
            range::within("number of units of a layer", units, 1..=65536)?;
        }
        Ok(())
    }

    /// The network with random weights.
    ///
    /// # Errors
    /// If a field is out of range.
    pub fn init_network(&self, device: &Device) -> Result<FlowNetwork, OutOfRange> {
        self.validate()?;
        let mut inputs = self.dimension() + TIMES;
        let mut hidden = Vec::new();
        for &units in &self.hidden {
            hidden.push(LinearConfig::new(inputs, units).init(device));
            inputs = units;
        }
        Ok(FlowNetwork {
            hidden,
            output: LinearConfig::new(inputs, self.dimension()).init(device),
        })
    }
}

/// A multilayer perceptron of the point and the time.
#[derive(Module, Debug)]
pub struct FlowNetwork {
    hidden: Vec<Linear>,
    output: Linear,
}

impl FlowNetwork {
    /// The velocity in units of the path's speed.
    ///
    /// - `x`: at scale 1, `[batch, numbers]`
    /// - `times`: `[batch]`
    fn forward(&self, x: Tensor<2>, times: Tensor<1>) -> Tensor<2> {
        let times = sinusoidal_embedding(times * 1000.0, TIMES);
        let mut h = Tensor::cat(vec![x, times], 1);
        for layer in &self.hidden {
            h = silu(linear(layer, h));
        }
        linear(&self.output, h)
    }
}

/// `√(a'² + m'²)` at a time.
pub(crate) fn speed(path: &dyn NoisePath, time: f64) -> f64 {
    let [signal, noise] = path.rates_at(time);
    signal.hypot(noise)
}

/// The factors of the velocity `v` of a path and of `x` in `ε − x_0`, which solves `x = a x_0 + m ε` and
/// `v = a' x_0 + m' ε`.
///
/// - `rates`: `a'` and `m'`
pub(crate) fn straight_from(level: Level, rates: [f64; 2]) -> [f64; 2] {
    let [signal, noise] = rates;
    let determinant = level.signal() * noise - signal * level.noise();
    let of_velocity = (level.signal() + level.noise()) / determinant;
    [of_velocity, -(signal + noise) / determinant]
}

/// A trained flow; see the [module documentation](self). As a [`Denoiser`] it knows normalized points.
///
/// ```
/// use burn::tensor::Device;
/// use nabla_diffusion::adjoint_dpm::OdeMethod;
/// use nabla_diffusion::flow_matching::{Flow, FlowConfig};
/// use nabla_diffusion::kinetic_optimal::normalized;
/// use nabla_diffusion::seeded_noise::SeededNoise;
///
/// let device = Device::flex();
/// let data = normalized(&[0.0, 1.0, 2.0, 3.0, 4.0, -1.0], 2)?;
/// let config = FlowConfig::of(vec!["x".to_owned(), "y".to_owned()], &data);
/// let network = config.init_network(&device)?; // not trained
/// let flow = Flow::new(config, network, &device)?;
/// let noise = SeededNoise::new(42, 0).normal([5, 2], &device);
/// let points = flow.sample(noise, 8, OdeMethod::Heun)?;
/// assert_eq!(flow.restored(points.x)?.len(), 10);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Flow {
    network: FlowNetwork,
    path: Arc<dyn NoisePath>,
    config: FlowConfig,
    device: Device,
}

/// Points at the end of a flow.
#[derive(Clone, Debug)]
pub struct FlowSample {
    /// Normalized, `[batch, numbers]`.
    pub x: Tensor<2>,
    /// The mean over the run of `‖v‖²` for each dimension.
    pub energy: f64,
}

impl Flow {
    /// - `network`: on `device`
    ///
    /// # Errors
    /// If the configuration is out of range.
    pub fn new(
        config: FlowConfig,
        network: FlowNetwork,
        device: &Device,
    ) -> Result<Self, FlowError> {
        config.validate()?;
        Ok(Self {
            network,
            path: config.path.init()?,
            config,
            device: device.clone(),
        })
    }

    /// Loads a folder that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// If the folder or one of its files is missing or damaged, or the weights do not fit the configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, FlowError> {
        let [config, weights] = FOLDER.read(folder)?;
        let config: FlowConfig = FOLDER.config(&config, folder)?;
        let mut network = config.init_network(device)?;
        FOLDER.load(&mut network, weights, folder)?;
        Self::new(config, network, device)
    }

    /// Writes the folder. The same weights give the same bytes.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), FlowError> {
        Ok(FOLDER.save(&self.config, &self.network, folder)?)
    }

    /// The configuration.
    pub fn config(&self) -> &FlowConfig {
        &self.config
    }

    /// The path.
    pub fn path(&self) -> &Arc<dyn NoisePath> {
        &self.path
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.network.num_params()
    }

    /// `v_θ(x, t)`.
    ///
    /// - `x`: on the path of the flow, `[batch, numbers]`
    /// - `time`: at most [`START`]
    pub fn velocity(&self, x: Tensor<2>, time: f64) -> Tensor<2> {
        let (level, batch) = (self.path.level_at(time), x.dims()[0]);
        let times = Tensor::full([batch], time, &self.device);
        let found = self.network.forward(x / level.scale(), times);
        found * speed(self.path.as_ref(), time)
    }

    /// Follows the velocity from noise to data in evenly spaced times of the path.
    ///
    /// - `noise`: standard normal, `[batch, numbers]`
    /// - `steps`: at least 1
    ///
    /// # Errors
    /// If there are no steps.
    pub fn sample(
        &self,
        noise: Tensor<2>,
        steps: usize,
        method: OdeMethod,
    ) -> Result<FlowSample, FlowError> {
        range::at_least("number of steps", steps, 1)?;
        let mut x = noise * self.path.level_at(START).scale();
        let length = -START / steps as f64;
        let lengths = vec![length; steps];
        let mut before: Option<Tensor<2>> = None;
        let mut energy = 0.0;
        for step in 0..steps {
            let time = START * (1.0 - step as f64 / steps as f64);
            let first = self.velocity(x.clone(), time);
            energy += first.clone().square().mean().into_scalar::<f64>() / steps as f64;
            x = match method.tableau() {
                Some(tableau) => {
                    let mut first = Some(first);
                    tableau.step(x, length, |share, ahead| {
                        // Rounding must not lead below 0.
                        let time = (time + share * length).max(0.0);
                        let later = || self.velocity(ahead, time);
                        Ok::<_, FlowError>(first.take().unwrap_or_else(later))
                    })?
                }
                None => {
                    let weights = adams_weights(&lengths, step);
                    let mut slopes = vec![first.clone()];
                    slopes.extend(before.replace(first));
                    plus(x, &slopes, &weights, 1.0)
                }
            };
        }
        Ok(FlowSample { x, energy })
    }

    /// Points in the unit of the data, one after the other.
    ///
    /// - `x`: normalized, `[batch, numbers]`
    ///
    /// # Errors
    /// If there are other numbers of a point, or they cannot be read from the device.
    pub fn restored(&self, x: Tensor<2>) -> Result<Vec<f64>, FlowError> {
        let (found, dimension) = (x.dims()[1], self.config.dimension());
        if found != dimension {
            return Err(FlowError::Points { found, dimension });
        }
        let values = x.into_data().convert::<f64>();
        let values = values.iter::<f64>().enumerate();
        let back =
            |(i, value): (usize, f64)| value * self.config.scale + self.config.mean[i % dimension];
        Ok(values.map(back).collect())
    }

    /// Levels for any sampler: evenly spaced times of the path.
    ///
    /// # Errors
    /// If there are no steps.
    pub fn levels(&self, steps: usize) -> Result<Levels, FlowError> {
        Ok(even_levels(&self.path, steps)?)
    }

    /// `ln p` of points in nats, in the unit of the data, by the probability-flow equation.
    ///
    /// The density is that of the data with a little noise, [`LEAST_SIGMA`](Self::LEAST_SIGMA) of their root mean square.
    ///
    /// - `points`: in the unit of the data, one after the other
    /// - `steps`: of the equation
    ///
    /// # Errors
    /// If the points have another dimension, or the density cannot be computed.
    pub fn log_density(
        &self,
        points: &[f64],
        steps: usize,
        divergence: Divergence,
    ) -> Result<Vec<f64>, FlowError> {
        let dimension = self.config.dimension();
        if !points.len().is_multiple_of(dimension) {
            let found = points.len();
            return Err(FlowError::Points { found, dimension });
        }
        range::at_least("number of steps", steps, 1)?;
        let values = points.iter().enumerate().map(|(i, value)| {
            ((value - self.config.mean[i % dimension]) / self.config.scale) as f32
        });
        let data = TensorData::new(
            values.collect::<Vec<f32>>(),
            [points.len() / dimension, dimension],
        );
        let x = Tensor::<2>::from_data(data, &self.device);
        let least = Self::LEAST_SIGMA;
        let most = self.path.level_at(START).sigma();
        let sigma = |k: usize| least * (most / least).powf(k as f64 / steps as f64);
        let levels = (0..=steps).map(|k| self.path.level_of_sigma(sigma(k)));
        let levels: Vec<Level> = levels.collect();
        let (end, visited) = (levels[0], levels[1..].to_vec());
        let levels = Levels::new(visited, end, self.path.clone())?;
        let found = log_density(self, &levels, x * end.signal(), divergence)?;
        let unit = dimension as f64 * self.config.scale.ln();
        Ok(found.into_iter().map(|density| density - unit).collect())
    }

    /// The noise with which densities are computed.
    pub const LEAST_SIGMA: f64 = 0.01;
}

impl Denoiser<2> for Flow {
    fn prediction(&self) -> Prediction {
        Prediction::Flow
    }

    fn predict(
        &self,
        x: Tensor<2>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<2>>, OwnError> {
        only_first(conditions)?;
        // The point of the flow's own path with the same ratio of noise and signal.
        let own = self.path.level_of_sigma(level.sigma());
        let x = x * (own.scale() / level.scale());
        let velocity = self.velocity(x.clone(), own.time());
        let [of_velocity, of_x] = straight_from(own, self.path.rates_at(own.time()));
        Ok(vec![velocity * of_velocity + x * of_x])
    }
}
