//! A denoiser of small labelled pictures: a UNet that knows the class, and also predicts without it.
//!
//! The network learns `p(x | c)` for each class `c` and, because the class is left out in a share of the training
//! examples, `p(x)` too. So every [guidance](crate::guidance) that compares the two works with it. It sees `x`
//! on one path ([`TrainingPath`]), but answers on any: two points with the same signal-to-noise ratio differ only in
//! scale.
//!
//! A denoiser is a folder of two files: `denoiser.json`, a [`ClassDenoiserConfig`], and `model.safetensors`, the
//! weights in half precision. `nabla train denoiser` writes such folders, and `nabla sample` draws pictures with
//! them.
//!
//! Sources: Ho, Salimans, *Classifier-Free Diffusion Guidance*, 2022, arXiv 2207.12598 (one network for both);
//! Dhariwal, Nichol, *Diffusion Models Beat GANs on Image Synthesis*, 2021, arXiv 2105.05233 (the network);
//! Nichol, Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, 2021, arXiv 2102.09672 (the cosine
//! schedule).

use std::path::Path;
use std::sync::Arc;

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use nabla_base::range::{self, OutOfRange};
use nabla_train::network_folder::{NetworkFolder, NetworkFolderError};

use crate::block_skipping::{BlockSet, SkippableDenoiser};
use crate::denoiser::{Condition, Denoiser, Prediction, rows};
use crate::flow_matching::{self, FlowPath, FlowPathError, even_levels, speed, straight_from};
use crate::level::{Level, Levels, NoisePath, StraightLine};
use crate::sampler_error::{OwnError, SamplerError};
use crate::schedule::{BetaSchedule, NoiseSchedule, NoiseScheduleConfig, ScheduleError, Spacing};
use crate::seeded_noise::SeededNoise;
use crate::unet::{Normalization, UNet, UNetConfig, UNetConfigError};

mod style;

pub use style::ClassStyleConfig;

/// The configuration's file name in a denoiser's folder.
pub const CONFIG_FILE: &str = "denoiser.json";
pub use nabla_train::network_folder::WEIGHTS_FILE;

const FOLDER: NetworkFolder = NetworkFolder {
    kind: "denoiser",
    config: CONFIG_FILE,
};

/// The reason why a denoiser cannot be built, loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum ClassDenoiserError {
    /// The folder cannot be read or written.
    #[error(transparent)]
    Folder(#[from] NetworkFolderError),
    /// The configuration describes no network.
    #[error(transparent)]
    Network(#[from] UNetConfigError),
    /// The configuration describes no path.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The configuration describes no path of a flow.
    #[error(transparent)]
    Path(#[from] FlowPathError),
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The network does not fit the pictures or the classes.
    #[error(
        "the denoiser's network has {what} = {found}, but its pictures and classes need {expected}"
    )]
    Misfit {
        /// The network's field.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The value that fits.
        expected: usize,
    },
    /// The path does not determine what the network predicts.
    #[error(
        "no noise schedule with zero terminal SNR can train a network that predicts {0}: choose a velocity"
    )]
    NoSignal(Prediction),
    /// There is no such class.
    #[error("there is no class {name:?}: the model has {known}")]
    NoClass {
        /// The requested class.
        name: String,
        /// The names of the classes.
        known: String,
    },
}

/// The path on which the network sees its pictures.
#[derive(Config, Debug, PartialEq)]
pub enum TrainingPath {
    /// The variance-preserving path, in training steps.
    VariancePreserving(NoiseScheduleConfig),
    /// The straight line `x_t = (1 − t) x_0 + t ε`: rectified flow and flow matching. The network's time is
    /// `1000 t`.
    Straight,
    /// `x_t = a_t x_0/s + m_t ε` on any path of [flow matching](crate::flow_matching). The network sees it divided by
    /// `√((a_t/s)² + m_t²)`, in the variance-preserving form, and its time is `1000 t`. If it predicts
    /// [`Prediction::Flow`], it learns the velocity `a_t' x_0/s + m_t' ε` in units of the path's speed
    /// `√((a_t'/s)² + m_t'²)`.
    Flow {
        /// `a_t` and `m_t`.
        path: FlowPath,
        /// `s`, the root mean square of the pictures' numbers.
        scale: f64,
    },
}

impl TrainingPath {
    /// The cosine schedule with 1000 steps.
    pub fn cosine() -> Self {
        Self::VariancePreserving(NoiseScheduleConfig::new().with_betas(BetaSchedule::COSINE))
    }

    fn init(&self) -> Result<Table, ClassDenoiserError> {
        Ok(match self {
            Self::VariancePreserving(config) => Table::Schedule(config.init()?),
            Self::Straight => Table::Straight,
            Self::Flow { path, scale } => Table::Flow(path.for_scale(*scale)?),
        })
    }
}

/// A path, ready to be used.
#[derive(Clone, Debug)]
pub(crate) enum Table {
    Schedule(NoiseSchedule),
    Straight,
    Flow(Arc<dyn NoisePath>),
}

/// The time of a path in `[0, 1]` in the unit of the network.
const TIME_UNIT: f64 = 1000.0;

/// Where a run on the straight line starts: at 1, `σ` would be infinite, and no sampler that works with it could
/// start.
const STRAIGHT_START: f64 = 0.999;

impl Table {
    /// The level of the network with the same signal-to-noise ratio, in its time.
    fn own(&self, level: Level) -> Level {
        match self {
            // A level in this form may come from this schedule, whose times are exact.
            Self::Schedule(_) if level.scale() == 1.0 => level,
            Self::Schedule(schedule) => schedule.level_of_sigma(level.sigma()),
            Self::Straight => in_unit(Level::straight(level.flow_time())),
            Self::Flow(path) => preserved(path.level_of_sigma(level.sigma())),
        }
    }

    /// A level of the network for training, in its time: `u` is uniform in `[0, 1)`.
    pub(crate) fn drawn(&self, u: f64) -> Level {
        match self {
            Self::Schedule(schedule) => {
                let steps = schedule.steps();
                schedule.level(((u * steps as f64) as usize).min(steps - 1))
            }
            Self::Straight => in_unit(Level::straight(u)),
            Self::Flow(path) => preserved(path.level_at(flow_matching::START * u)),
        }
    }

    /// The weights of `x_0` and `ε` in what a network learns that predicts [`Prediction::Flow`].
    ///
    /// - `own`: a level of the network
    pub(crate) fn velocity(&self, own: Level) -> [f64; 2] {
        match self {
            Self::Schedule(_) | Self::Straight => [-1.0, 1.0],
            Self::Flow(path) => {
                let time = own.time() / TIME_UNIT;
                let speed = speed(path.as_ref(), time);
                path.rates_at(time).map(|rate| rate / speed)
            }
        }
    }
}

/// The level in the network's time, in the variance-preserving form.
fn preserved(level: Level) -> Level {
    Level::variance_preserving(TIME_UNIT * level.time(), level.alpha_bar())
}

/// The level, in the network's time.
fn in_unit(level: Level) -> Level {
    level.with_time(TIME_UNIT * level.time())
}

/// The configuration of a denoiser, without its weights.
#[derive(Config, Debug, PartialEq)]
pub struct ClassDenoiserConfig {
    /// The names of the classes, in the order of their numbers.
    pub classes: Vec<String>,
    /// `[channels, height, width]` of a picture.
    pub shape: [usize; 3],
    /// The network. Its class embedding has one entry more than there are classes: the last stands for no
    /// condition.
    pub network: UNetConfig,
    /// What the network predicts. Default [`Prediction::Velocity`]: where hardly any signal is left, as at the
    /// start of the cosine schedule, an error of a predicted noise would be multiplied by a thousand in the first
    /// step.
    #[config(default = "Prediction::Velocity")]
    pub prediction: Prediction,
    /// The path. Default: the cosine schedule with 1000 steps.
    #[config(default = "TrainingPath::cosine()")]
    pub path: TrainingPath,
}

impl ClassDenoiserConfig {
    /// The default for pictures of this shape: 64 channels at a quarter of the resolution (of the half, for
    /// pictures below 16 pixels), with attention in the middle; 0.75 million parameters for ten classes. Small
    /// enough to be trained on a processor.
    ///
    /// - `shape`: `[channels, height, width]`
    pub fn for_pictures(classes: Vec<String>, shape: [usize; 3]) -> Self {
        let [channels, height, width] = shape;
        let patch = if height.min(width) < 16 { 2 } else { 4 };
        let network = UNetConfig::new(channels, channels)
            .with_patch(patch)
            .with_base_channels(64)
            .with_multipliers(vec![1])
            .with_blocks_per_level(1)
            .with_attention_levels(vec![])
            .with_head_channels(32)
            .with_normalization(Normalization::Group { groups: 8 })
            .with_classes(classes.len() + 1);
        Self::new(classes, shape, network)
    }

    /// Checks that the network fits the pictures, the classes and the path.
    ///
    /// # Errors
    /// If it does not.
    pub fn validate(&self) -> Result<(), ClassDenoiserError> {
        range::at_least("number of classes", self.classes.len(), 1)?;
        for (what, side) in ["channels", "height", "width"].into_iter().zip(self.shape) {
            range::at_least(format!("pictures' {what}"), side, 1)?;
        }
        let network = &self.network;
        for (what, found, expected) in [
            ("in_channels", network.in_channels, self.shape[0]),
            ("out_channels", network.out_channels, self.shape[0]),
            ("condition_channels", network.condition_channels, 0),
            ("classes", network.classes, self.classes.len() + 1),
            ("decoders", network.decoders.len(), 1),
        ] {
            if found != expected {
                return Err(ClassDenoiserError::Misfit {
                    what,
                    found,
                    expected,
                });
            }
        }
        let of_noise = matches!(self.prediction, Prediction::Epsilon | Prediction::Score);
        match &self.path {
            TrainingPath::VariancePreserving(path) if path.zero_terminal_snr && of_noise => {
                Err(ClassDenoiserError::NoSignal(self.prediction))
            }
            _ => Ok(()),
        }
    }

    /// The network with random weights.
    ///
    /// # Errors
    /// If the configuration describes no network.
    pub fn init_network(&self, device: &Device) -> Result<UNet, ClassDenoiserError> {
        self.validate()?;
        Ok(self.network.init(device)?)
    }

    pub(crate) fn table(&self) -> Result<Table, ClassDenoiserError> {
        self.path.init()
    }

    /// The number of the class with this name, or of the class whose number is given.
    ///
    /// # Errors
    /// If there is none.
    pub fn class(&self, name: &str) -> Result<usize, ClassDenoiserError> {
        let numbered = || {
            name.parse()
                .ok()
                .filter(|&n: &usize| n < self.classes.len())
        };
        let named = self.classes.iter().position(|known| known == name);
        named
            .or_else(numbered)
            .ok_or_else(|| ClassDenoiserError::NoClass {
                name: name.to_owned(),
                known: self.classes.join(", "),
            })
    }
}

/// A denoiser of labelled pictures; see the [module documentation](self).
///
/// The condition [`Condition::Given`]`(c)` is the class `c`, [`Condition::Without`] none. To draw pictures of chosen
/// classes under any guidance, give each row its class with
/// [`RowConditions`](crate::denoiser::RowConditions).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::class_denoiser::{ClassDenoiser, ClassDenoiserConfig};
/// use nabla_diffusion::denoiser::{Condition, Denoiser};
/// use nabla_diffusion::level::Level;
///
/// let device = Device::flex();
/// let names = ["cat", "dog"].map(str::to_owned).to_vec();
/// let config = ClassDenoiserConfig::for_pictures(names, [1, 8, 8]);
/// let network = config.init_network(&device)?;
/// let denoiser = ClassDenoiser::new(config, network, &device)?;
/// let x = Tensor::zeros([5, 1, 8, 8], &device); // [batch, channels, height, width]
/// let level = Level::variance_preserving(500.0, 0.5);
/// let both = denoiser.predict(x, level, &[Condition::Without, Condition::Given(1)]);
/// assert_eq!(both?.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClassDenoiser {
    network: UNet,
    table: Table,
    config: ClassDenoiserConfig,
    device: Device,
}

impl ClassDenoiser {
    /// Creates a denoiser from the weights of `network`, which is on `device`.
    ///
    /// # Errors
    /// If the configuration is out of range.
    pub fn new(
        config: ClassDenoiserConfig,
        network: UNet,
        device: &Device,
    ) -> Result<Self, ClassDenoiserError> {
        config.validate()?;
        Ok(Self {
            network,
            table: config.table()?,
            config,
            device: device.clone(),
        })
    }

    /// Whether a folder holds a denoiser.
    pub fn is_folder(folder: &Path) -> bool {
        folder.join(CONFIG_FILE).is_file()
    }

    /// Loads a folder that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// If the folder or one of its files is missing or damaged, or the weights do not fit the configuration.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, ClassDenoiserError> {
        let [config, weights] = FOLDER.read(folder)?;
        Self::from_files(&config, weights, folder, device)
    }

    /// Loads a denoiser from the contents of its two files.
    ///
    /// - `config`, `weights`: the contents of `denoiser.json` and `model.safetensors`
    /// - `name`: for messages, instead of a folder
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_files(
        config: &[u8],
        weights: Vec<u8>,
        name: &Path,
        device: &Device,
    ) -> Result<Self, ClassDenoiserError> {
        let config: ClassDenoiserConfig = FOLDER.config(config, name)?;
        let mut network = config.init_network(device)?;
        FOLDER.load(&mut network, weights, name)?;
        Self::new(config, network, device)
    }

    /// Writes the folder. The same weights give the same bytes.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), ClassDenoiserError> {
        Ok(FOLDER.save(&self.config, &self.network, folder)?)
    }

    /// The configuration.
    pub fn config(&self) -> &ClassDenoiserConfig {
        &self.config
    }

    /// The device of the network.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Number of weights.
    pub fn parameters(&self) -> usize {
        self.network.num_params()
    }

    /// The levels of a run of `steps` steps on the path on which the network was trained: the last of every
    /// `1000/steps` training steps ([`Spacing::Trailing`]), or evenly spaced times of the straight line or another
    /// path from 0.999.
    ///
    /// # Errors
    /// If there are no steps, or more than training steps.
    pub fn levels(&self, steps: usize) -> Result<Levels, ClassDenoiserError> {
        Ok(match &self.table {
            Table::Schedule(schedule) => schedule.respace(Spacing::Trailing, steps)?.into(),
            Table::Straight => StraightLine::new()
                .with_start(STRAIGHT_START)
                .levels(steps)?,
            Table::Flow(path) => even_levels(path, steps)?,
        })
    }

    /// Where a run of `count` pictures starts: noise at the scale of the first level.
    ///
    /// - `levels`: of the run ([`levels`](Self::levels))
    pub fn start(&self, count: usize, levels: &Levels, noise: &mut SeededNoise) -> Tensor<4> {
        let [channels, height, width] = self.config.shape;
        levels.start_of(noise.normal([count, channels, height, width], &self.device))
    }

    /// The number of training steps; on a path without steps, 1000.
    pub fn training_steps(&self) -> usize {
        match &self.table {
            Table::Schedule(schedule) => schedule.steps(),
            Table::Straight | Table::Flow(_) => TIME_UNIT as usize,
        }
    }

    /// The sampler that suits the path, by its name: `ddim` for a schedule and the straight line. Elsewhere its steps
    /// would waste what the path is made for: `velocity`.
    pub fn usual_sampler(&self) -> &'static str {
        match &self.table {
            Table::Schedule(_) | Table::Straight => "ddim",
            Table::Flow(_) => "velocity",
        }
    }

    /// The network's answers for rows that are at one level, each with its entry of the class embedding.
    fn answer(
        &self,
        x: Tensor<4>,
        level: Level,
        classes: &[usize],
        skipped: &BlockSet,
    ) -> Tensor<4> {
        let own = self.table.own(level);
        let factor = level.scale() / own.scale();
        let x = match factor == 1.0 {
            true => x,
            false => x / factor,
        };
        let numbers: Vec<i32> = classes.iter().map(|&c| c as i32).collect();
        let classes = Tensor::<1, Int>::from_ints(numbers.as_slice(), &self.device);
        let times = own.times(numbers.len(), &self.device);
        let outputs = self
            .network
            .forward_skipping(x.clone(), times, None, Some(classes), skipped);
        // The only decoder's. The velocity `a ε − b x_0` and the score have the scale of the path.
        let output: Tensor<4> = Tensor::cat(outputs, 1);
        match (self.config.prediction, &self.table) {
            (Prediction::Velocity, _) if factor != 1.0 => output * factor,
            (Prediction::Score, _) if factor != 1.0 => output / factor,
            (Prediction::Flow, Table::Flow(_)) => {
                let [of_velocity, of_x] = straight_from(own, self.table.velocity(own));
                output * of_velocity + x * of_x
            }
            _ => output,
        }
    }
}

impl Denoiser for ClassDenoiser {
    fn prediction(&self) -> Prediction {
        self.config.prediction
    }

    fn predict(
        &self,
        x: Tensor<4>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<4>>, OwnError> {
        rows::of_conditions(x, conditions, |x, rows| self.predict_rows(x, level, rows))
    }

    fn predict_rows(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<Tensor<4>, OwnError> {
        self.predict_rows_skipping(x, level, rows, BlockSet::none())
    }
}

impl SkippableDenoiser for ClassDenoiser {
    fn blocks(&self) -> usize {
        self.network.blocks()
    }

    fn predict_rows_skipping(
        &self,
        x: Tensor<4>,
        level: Level,
        rows: &[(usize, Condition)],
        skipped: &BlockSet,
    ) -> Result<Tensor<4>, OwnError> {
        let [batch, channels, height, width] = x.dims();
        let shape = self.config.shape;
        if [channels, height, width] != shape {
            return Err(Box::new(SamplerError::OutputShape {
                found: vec![batch, shape[0], shape[1], shape[2]],
                state: x.dims().to_vec(),
            }));
        }
        let without = self.config.classes.len();
        let class = |&(_, condition): &(usize, Condition)| match condition {
            Condition::Without => Ok(without),
            Condition::Given(class) if class < without => Ok(class),
            Condition::Given(_) => Err(SamplerError::NoCondition {
                condition,
                known: format!("{without} classes"),
            }),
        };
        let classes: Vec<usize> = rows.iter().map(class).collect::<Result<_, _>>()?;
        Ok(self.answer(x, level, &classes, skipped))
    }
}

#[cfg(test)]
mod tests;
