//! The training, and the folder of what was learnt.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::flat::ParameterLayout;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::Learner;
use nabla_train::error::TrainingError;
use nabla_train::network_folder::NetworkFolder;
use nabla_train::optimizer::OptimizerConfig;
use nabla_train::schedule::Schedule;
use nabla_train::task::Task;
use nabla_train::trainer::{Trainer, TrainerConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{DcdmError, DcdmNet, DcdmNetConfig, GridDirections, RitzConfig, RitzSpace, dcdm_loss};
use crate::linear::{Border, PoissonGrid, SpdOperator};

/// The file of a network's configuration.
pub const CONFIG_FILE: &str = "directions.json";

const FOLDER: NetworkFolder = NetworkFolder {
    kind: "network of directions",
    config: CONFIG_FILE,
};

/// Streams of the seed: initial weights, and for each step its right sides.
const WEIGHTS: u64 = 2;
const RIGHT_SIDES: u64 = 1 << 40;

/// How a network is trained, on a grid without obstacles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DcdmTrainingConfig {
    /// The sides of the grid, 2 or 3. Default 32 × 32; the paper's are 64³ and 128³.
    pub sides: Vec<usize>,
    /// Steps. Default 1500.
    pub steps: usize,
    /// Right sides of a step. Default 8; the paper's are 10.
    pub batch: usize,
    /// Of everything that is drawn. Default 0.
    pub seed: u64,
    /// The network. Default: the paper's for 64³, with 8 channels instead of 16.
    pub network: DcdmNetConfig,
    /// Right sides. Default: 200 Ritz vectors.
    pub right_sides: RitzConfig,
    /// Default Adam with a learning rate of 1e-3, a tenth of which is the paper's.
    pub optimizer: OptimizerConfig,
    /// Learning rates over the steps. Default: a cosine to 0; the paper's are constant.
    pub schedule: Schedule,
}

impl Default for DcdmTrainingConfig {
    fn default() -> Self {
        Self::for_grid(&[32, 32])
    }
}

impl DcdmTrainingConfig {
    /// The default for a grid.
    pub fn for_grid(sides: &[usize]) -> Self {
        Self {
            sides: sides.to_vec(),
            network: DcdmNetConfig::small(sides.len()).with_channels(8),
            right_sides: RitzConfig::default(),
            steps: 1500,
            batch: 8,
            optimizer: OptimizerConfig {
                learning_rate: Some(1e-3),
                ..OptimizerConfig::named("adam").unwrap_or_default()
            },
            schedule: Schedule::default(),
            seed: 0,
        }
    }

    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        self.network.validate()?;
        self.right_sides.validate()?;
        range::at_least("number of right sides of a step", self.batch, 1)?;
        for &side in &self.sides {
            range::at_least("side of the grid", side, 2)?;
        }
        let (sides, dimensions) = (self.sides.len(), self.network.dimensions);
        range::check(
            sides == dimensions,
            "number of sides of the grid",
            sides,
            format!("{dimensions}, as the network has dimensions"),
        )
    }

    /// A training that begins.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn trainer(&self, device: &Device) -> Result<Trainer<DcdmTask>, DcdmError> {
        self.validate()?;
        let grid = PoissonGrid::new(&self.sides, Border::Dirichlet)?;
        let space = RitzSpace::new(&grid, &self.right_sides, self.seed)?;
        let autodiff = device.clone().autodiff();
        let network = self
            .network
            .init(&autodiff, &mut SeededNoise::new(self.seed, WEIGHTS))?;
        let task = DcdmTask {
            config: self.clone(),
            grid,
            space,
        };
        let config = TrainerConfig {
            steps: self.steps,
            optimizer: self.optimizer.clone(),
            schedule: self.schedule.clone(),
            ..TrainerConfig::default()
        };
        Ok(Trainer::new(config, task, network)?)
    }
}

/// The task; [`DcdmTrainingConfig::trainer`] makes it.
#[derive(Debug)]
pub struct DcdmTask {
    config: DcdmTrainingConfig,
    grid: PoissonGrid,
    space: RitzSpace,
}

impl Task for DcdmTask {
    type Model = DcdmNet;
    /// Right sides, `[batch, dim]`.
    type Batch = Vec<f64>;
    type Report = ();

    fn batch(&mut self, learner: &Learner<DcdmNet>) -> Result<Vec<f64>, TrainingError> {
        let stream = RIGHT_SIDES + learner.step() as u64;
        let mut noise = SeededNoise::new(self.config.seed, stream);
        Ok(self.space.draw(self.config.batch, &mut noise))
    }

    fn loss(&mut self, network: &DcdmNet, b: Vec<f64>) -> Result<Tensor<1>, TrainingError> {
        let shape = [self.config.batch, self.grid.dim()];
        let values: Vec<f32> = b.iter().map(|&b| b as f32).collect();
        let device = Device::flex().autodiff();
        let r = Tensor::<2>::from_data(TensorData::new(values, shape), &device);
        let q = network.directions(r, &self.config.sides);
        let loss = q.and_then(|q| dcdm_loss(&self.grid, &q, &b));
        loss.map_err(TrainingError::task)
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }
}

/// A network that was trained, and how.
#[derive(Clone, Debug)]
pub struct LearntDirections {
    config: DcdmTrainingConfig,
    network: DcdmNet,
    device: Device,
}

impl LearntDirections {
    /// The network with the present weights of a training.
    pub fn of(trainer: &Trainer<DcdmTask>) -> Self {
        Self {
            config: trainer.task().config.clone(),
            network: trainer.model().valid(),
            device: Device::flex(),
        }
    }

    /// How it was trained.
    pub fn config(&self) -> &DcdmTrainingConfig {
        &self.config
    }

    /// The number of its weights.
    ///
    /// # Errors
    /// If there are none.
    pub fn parameters(&self) -> Result<usize, DcdmError> {
        let layout = ParameterLayout::of(&self.network).map_err(TrainingError::from)?;
        Ok(layout.total_length())
    }

    /// On a grid, which may be another than that of the training.
    ///
    /// # Errors
    /// If the grid has other dimensions.
    pub fn on(&self, sides: &[usize]) -> Result<GridDirections<'_>, DcdmError> {
        let expected = self.config.network.dimensions;
        if sides.len() != expected {
            return Err(DcdmError::Dimensions {
                expected,
                found: sides.len(),
            });
        }
        Ok(GridDirections::new(&self.network, sides, &self.device))
    }

    /// Writes its folder: [`CONFIG_FILE`] and the weights in single precision.
    ///
    /// # Errors
    /// If a file cannot be written, or the folder holds another kind of model.
    pub fn save(&self, folder: &Path) -> Result<(), DcdmError> {
        Ok(FOLDER.save_exactly(&self.config, &self.network, folder)?)
    }

    /// Checks, before a long job, that no model of another kind would be overwritten.
    ///
    /// # Errors
    /// If the folder has one.
    pub fn check_folder(folder: &Path) -> Result<(), DcdmError> {
        Ok(FOLDER.check(folder)?)
    }

    /// Reads a folder.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn load(folder: &Path) -> Result<Self, DcdmError> {
        let [config, weights] = FOLDER.read(folder)?;
        let config: DcdmTrainingConfig = FOLDER.config(&config, folder)?;
        config.validate()?;
        let device = Device::flex();
        let mut network = config.network.init(&device, &mut SeededNoise::new(0, 0))?;
        FOLDER.load(&mut network, weights, folder)?;
        Ok(Self {
            config,
            network,
            device,
        })
    }
}
