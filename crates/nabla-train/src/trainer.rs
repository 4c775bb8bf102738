//! The training of a [task](crate::task): the loop around it.
//!
//! ```text
//! for each step t:
//!   L ← the task's loss on its batch               the mean over the accumulated batches
//!   g ← T_k(… T_1(∇L))                             the chain of gradient transforms
//!   θ ← step of the optimizer along g with the learning rate η · f(t) of the schedule
//!   θ̄ ← d θ̄ + (1 − d) θ                            the average, every few steps
//! ```
//!
//! The trainer records a [history](crate::history), measures the model when the task asks for it, returns an
//! error if the training diverges, and saves [checkpoints](crate::checkpoint) from which it resumes with the
//! same bits.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::store::{ModuleRecord, RecordError};
use burn::tensor::Bytes;
use nabla_base::range;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::best_weights::{BestMeasurement, BestWeights};
use crate::checkpoint::{self, CheckpointError};
use crate::ema::EmaConfig;
use crate::error::TrainingError;
use crate::history::{History, StepRecord};
use crate::learner::{Learner, Player};
use crate::optimizer::OptimizerConfig;
use crate::schedule::Schedule;
use crate::task::Task;
use crate::transform::GradientTransform;

/// A moving average of the weights in a training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Averaging {
    /// The average.
    pub ema: EmaConfig,
    /// Steps between two updates of it.
    pub every: usize,
}

/// How a task is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainerConfig {
    /// The total number of steps. Default 1000.
    pub steps: usize,
    /// The number of batches whose gradients are averaged in one step. Default 1.
    pub accumulate: usize,
    /// Steps between two checkpoints, if there are any; 0 for one after every measurement. There is always
    /// one at the end. Default 0.
    pub checkpoint_every: usize,
    /// Learning rates over the steps. Default: cosine to 0, no warm-up.
    pub schedule: Schedule,
    /// The optimizer of the whole model, unless there are
    /// [players](Trainer::with_player). Default AdamW without decay.
    pub optimizer: OptimizerConfig,
    /// The average of the weights. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub averaging: Option<Averaging>,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            accumulate: 1,
            checkpoint_every: 0,
            schedule: Schedule::default(),
            optimizer: OptimizerConfig::default(),
            averaging: None,
        }
    }
}

impl TrainerConfig {
    /// Refuses values that are out of range.
    ///
    /// # Errors
    /// An error with the value.
    pub fn validate(&self) -> Result<(), TrainingError> {
        let every = self.averaging.map_or(1, |a| a.every);
        for (field, value) in [
            ("number of steps", self.steps),
            ("accumulate", self.accumulate),
            ("average's every", every),
        ] {
            range::at_least(format!("training's {field}"), value, 1)?;
        }
        self.schedule.validate()?;
        Ok(self.optimizer.validate()?)
    }

    /// The configuration without the parts that do not affect the result: how often the training is saved
    /// and, if the learning rate does not depend on it, the number of steps.
    fn identity(&self) -> Self {
        let mut identity = self.clone();
        identity.checkpoint_every = 0;
        if self.schedule.is_constant() {
            identity.steps = 0;
        }
        identity
    }
}

/// The step that was just done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress<'a, R = crate::history::EpochRecord> {
    /// Steps done.
    pub step: usize,
    /// The total number of steps.
    pub steps: usize,
    /// The step.
    pub record: StepRecord,
    /// The measurement after it.
    pub epoch: Option<&'a R>,
}

/// Is called after a step, and may end the training.
pub type Observer<'a, R = crate::history::EpochRecord> =
    &'a mut dyn FnMut(Progress<'_, R>) -> ControlFlow<()>;

/// A training in progress; see the [module documentation](self).
///
/// ```
/// use std::ops::ControlFlow;
///
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::{Device, Tensor};
/// use nabla_train::error::TrainingError;
/// use nabla_train::learner::Learner;
/// use nabla_train::task::Task;
/// use nabla_train::trainer::{Trainer, TrainerConfig};
/// use nabla_train::transform::ClipByNorm;
///
/// /// A line through points.
/// struct Line(Vec<[f32; 2]>);
///
/// impl Task for Line {
///     type Model = Linear;
///     type Batch = [Tensor<2>; 2];
///     type Report = ();
///
///     fn batch(&mut self, learner: &Learner<Linear>) -> Result<[Tensor<2>; 2], TrainingError> {
///         let column = |k: usize| {
///             let values: Vec<f32> = self.0.iter().map(|point| point[k]).collect();
///             Tensor::<1>::from_floats(values.as_slice(), learner.device()).unsqueeze_dim(1)
///         };
///         Ok([column(0), column(1)]) // [batch, 1] each
///     }
///
///     fn loss(&mut self, line: &Linear, [x, y]: [Tensor<2>; 2]) -> Result<Tensor<1>, TrainingError> {
///         Ok((line.forward(x) - y).square().mean())
///     }
/// }
///
/// let line: Linear = LinearConfig::new(1, 1).init(&Device::flex().autodiff());
/// let mut config = TrainerConfig { steps: 200, ..TrainerConfig::default() };
/// config.optimizer.learning_rate = Some(0.1);
/// let points = Line(vec![[-1.0, -1.0], [0.0, 1.0], [1.0, 3.0]]);
/// let mut trainer = Trainer::new(config, points, line)?.with_transform(ClipByNorm(1.0));
/// trainer.run(None, &mut |_| ControlFlow::Continue(()))?;
/// let slope: f32 = trainer.model().weight.val().into_scalar();
/// assert!((slope - 2.0).abs() < 0.01);
/// # Ok::<(), TrainingError>(())
/// ```
pub struct Trainer<T: Task> {
    config: TrainerConfig,
    pub(crate) task: T,
    pub(crate) learner: Learner<T::Model>,
    pub(crate) history: History<T::Report>,
    /// Whether the only player is still that of the configuration.
    alone: bool,
    /// Of the weights that are to be kept.
    pub(crate) best: Option<BestWeights<T::Report>>,
}

impl<T: Task> fmt::Debug for Trainer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trainer")
            .field("config", &self.config)
            .field("step", &self.step())
            .finish_non_exhaustive()
    }
}

/// The player of a training without named players.
pub const MODEL: &str = "model";

impl<T: Task> Trainer<T> {
    /// Creates a training that starts with the current weights of `model`, which must be on an autodiff
    /// device.
    ///
    /// # Errors
    /// If a value of the configuration is out of range or does not fit the model.
    pub fn new(config: TrainerConfig, task: T, model: T::Model) -> Result<Self, TrainingError> {
        config.validate()?;
        let schedule = config.schedule.clone();
        let mut learner = Learner::new(model, schedule, config.steps, config.accumulate)?;
        let player = Player::new(MODEL, None, config.optimizer.clone(), &learner.model)?;
        learner.players.push(player);
        if let Some(averaging) = &config.averaging {
            learner.average = Some(averaging.ema.init(&learner.model)?);
        }
        Ok(Self {
            config,
            task,
            learner,
            history: History::default(),
            alone: true,
            best: None,
        })
    }

    /// Keeps the weights of the measurement with the highest score, the first of several.
    #[must_use]
    pub fn keeping_best(mut self, score: fn(&T::Report) -> f64) -> Self {
        self.best = Some(BestWeights::new(score));
        self
    }

    /// Adds a gradient transform to the chain of the player that was added last, or of the whole model.
    #[must_use]
    pub fn with_transform(mut self, transform: impl GradientTransform<T::Model> + 'static) -> Self {
        if let Some(player) = self.learner.players.last_mut() {
            player.transforms.push(Box::new(transform));
        }
        self
    }

    /// Adds a player: a part of the model with its own optimizer. The first player replaces the optimizer of
    /// the configuration.
    ///
    /// - `parameters`: a regular expression that the names of its parameters match
    ///
    /// # Errors
    /// If it matches no parameter, a player of this name exists already, or the optimizer does not fit.
    pub fn with_player(
        mut self,
        name: &str,
        parameters: &str,
        optimizer: OptimizerConfig,
    ) -> Result<Self, TrainingError> {
        if std::mem::take(&mut self.alone) {
            self.learner.players.clear();
        }
        if self.learner.players.iter().any(|p| p.name == name) {
            return Err(TrainingError::Player {
                name: name.to_owned(),
                reason: "is given twice",
            });
        }
        let player = Player::new(name, Some(parameters), optimizer, &self.learner.model)?;
        self.learner.players.push(player);
        Ok(self)
    }

    /// Steps done.
    pub fn step(&self) -> usize {
        self.history.steps.len()
    }

    /// The total number of steps.
    pub fn steps(&self) -> usize {
        self.config.steps
    }

    /// Whether all steps are done.
    pub fn is_finished(&self) -> bool {
        self.step() >= self.steps()
    }

    /// The history so far.
    pub fn history(&self) -> &History<T::Report> {
        &self.history
    }

    /// The configuration.
    pub fn config(&self) -> &TrainerConfig {
        &self.config
    }

    /// The task.
    pub fn task(&self) -> &T {
        &self.task
    }

    /// The task, which may be changed between two steps.
    pub fn task_mut(&mut self) -> &mut T {
        &mut self.task
    }

    /// The model with its current weights, on its autodiff device.
    pub fn model(&self) -> &T::Model {
        self.learner.model()
    }

    /// The moving average of the weights, on the plain device, if the training computes one.
    pub fn average(&self) -> Option<&T::Model> {
        self.learner.average()
    }

    /// The number of the best measurement, from 0, and the model with its weights, if they are
    /// [kept](Self::keeping_best) and something was measured.
    ///
    /// # Errors
    /// If they cannot be loaded.
    pub fn best(&self) -> Result<Option<(usize, T::Model)>, TrainingError> {
        let Some((best, weights)) = self.kept() else {
            return Ok(None);
        };
        let failed = |e: RecordError| CheckpointError::Encode(e.to_string());
        let weights = ModuleRecord::from_bytes(Bytes::from_bytes_vec(weights.clone()));
        let model = self.model().clone();
        let model = model.try_load_record(weights.map_err(failed)?);
        Ok(Some((best.number, model.map_err(failed)?)))
    }

    pub(crate) fn kept(&self) -> Option<&(BestMeasurement, Vec<u8>)> {
        self.best.as_ref()?.best.as_ref()
    }

    /// Bytes that the optimizers store between two steps.
    ///
    /// # Errors
    /// If their state cannot be read.
    pub fn state_bytes(&self) -> Result<u64, TrainingError> {
        let players = self.learner.players.iter();
        let mut sum = 0;
        for player in players {
            sum += player.stepper.state_bytes()?;
        }
        Ok(sum)
    }

    /// Trains one step, and measures after it if the task says so.
    ///
    /// # Errors
    /// If the task fails, or a loss or its gradient is not finite: the weights are then unchanged, unless the
    /// task had already made an update in the step.
    pub fn train_step(&mut self) -> Result<Progress<'_, T::Report>, TrainingError> {
        let begun = Instant::now();
        self.learner.begin();
        self.task.step(&mut self.learner)?;
        let (record, seconds) = self.learner.end()?;
        self.history.timing.optimizer += seconds;
        self.history.steps.push(record);
        self.task.stepped(&record);
        let step = self.step();
        if let (Some(averaging), Some(average)) =
            (&self.config.averaging, &mut self.learner.average)
            && step.is_multiple_of(averaging.every)
        {
            average.update(&self.learner.model)?;
        }
        self.history.timing.steps += begun.elapsed().as_secs_f64();

        let begun = Instant::now();
        let report = self.task.evaluate(&self.learner.model, step)?;
        let measured = report.is_some();
        if let Some(report) = report {
            if let Some(best) = &mut self.best {
                let number = self.history.epochs.len();
                best.see(&self.learner.model, number, &report)?;
            }
            self.history.epochs.push(report);
            self.history.timing.evaluation += begun.elapsed().as_secs_f64();
        }
        Ok(Progress {
            step,
            steps: self.steps(),
            record,
            epoch: self.history.epochs.last().filter(|_| measured),
        })
    }

    /// Trains until all steps are done or `observe` breaks.
    ///
    /// - `checkpoint`: a file to which the training is saved, also when `observe` breaks. An existing file is
    ///   overwritten; use [`resume`](Self::resume) to continue from it
    ///
    /// # Errors
    /// As [`train_step`](Self::train_step) and [`save`](Self::save).
    pub fn run(
        &mut self,
        checkpoint: Option<&Path>,
        observe: Observer<'_, T::Report>,
    ) -> Result<(), TrainingError> {
        while !self.is_finished() {
            let progress = self.train_step()?;
            let measured = progress.epoch.is_some();
            let stop = observe(progress).is_break();
            if let Some(path) = checkpoint
                && (stop || self.is_checkpoint_due(measured))
            {
                self.save(path)?;
            }
            if stop {
                break;
            }
        }
        Ok(())
    }

    fn is_checkpoint_due(&self, measured: bool) -> bool {
        let due = match self.config.checkpoint_every {
            0 => measured,
            every => self.step().is_multiple_of(every),
        };
        due || self.is_finished()
    }

    /// Everything that affects the result of the training, one setting per line.
    pub(crate) fn identity(&self) -> String {
        let players: Vec<_> = self
            .learner
            .players
            .iter()
            .map(|player| {
                let transforms: Vec<_> = player
                    .transforms
                    .iter()
                    .map(|t| json!({ "name": t.name(), "settings": t.settings() }))
                    .collect();
                let mut told = json!({ "name": player.name, "transforms": transforms });
                if let Some(parameters) = &player.parameters {
                    told["parameters"] = json!(parameters);
                    told["optimizer"] = json!(player.optimizer);
                }
                told
            })
            .collect();
        let identity = json!({
            "task": self.task.settings(),
            "trainer": self.config.identity(),
            "players": players,
        });
        serde_json::to_string_pretty(&identity).unwrap_or_default()
    }

    /// Writes a checkpoint; see [`checkpoint`](mod@crate::checkpoint).
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainingError> {
        checkpoint::save(self, path)
    }

    /// Resumes from a checkpoint, bit for bit.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or belongs to another training.
    pub fn resume(self, path: &Path) -> Result<Self, TrainingError> {
        let bytes = checkpoint::read(path)?;
        self.resume_from(path, &bytes)
    }

    /// Resumes from the bytes of a checkpoint that was read from `path`, perhaps by another worker.
    pub(crate) fn resume_from(mut self, path: &Path, bytes: &[u8]) -> Result<Self, TrainingError> {
        checkpoint::load(&mut self, path, bytes)?;
        Ok(self)
    }
}
