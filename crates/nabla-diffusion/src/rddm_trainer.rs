//! Training an RDDM (as a task of the [trainer](nabla_train::trainer)), and choosing the objective.
//!
//! Each step draws a batch of clean and degraded pictures, an index `t` per example and a noise
//! `ε`, and takes one step of Adam against the [loss](Rddm::loss):
//!
//! ```text
//! I_res = I_in − I_0,   I_t = I_0 + ᾱ_t I_res + β̄_t ε,   t ~ U{0 … T − 1},   ε ~ N(0, 1)
//! L = ‖I_res − I_res^θ(I_t, t)‖₁  [+ ‖ε − ε^θ(I_t, t)‖₁]
//! g ← ∇L · min(1, clip / ‖∇L‖₂),   θ ← Adam(θ, g),   θ̄ ← EMA(θ̄, θ)
//! ```
//!
//! Everything random comes from streams of one seed, so the same seed gives the same bits. A checkpoint
//! stores the positions in the streams, so a resumed training continues as if it had never stopped.
//!
//! [`select_objective`] is the automatic objective selection algorithm (AOSA): one output is trained as
//! residual and as noise at once, with a learned share `λ` that starts at 0.5,
//!
//! ```text
//! Î_res = λ out + (1 − λ)(I_in − I_0(ε = out)),   ε̂ = λ ε(I_res = out) + (1 − λ) out
//! L = λ ‖I_res − Î_res‖₁ + (1 − λ) ‖ε − ε̂‖₁
//! ```
//!
//! and once `λ` differs from 0.5 by 0.01, its side decides: above is SM-Res, below is SM-N. The network is
//! then trained again from scratch with that objective.
//!
//! Source: Liu et al., *Residual Denoising Diffusion Models*, CVPR 2024, arXiv 2308.13712, eq. 12
//! and appendix on AOSA, with the official code's defaults.

use std::error::Error;
use std::marker::PhantomData;

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use nabla_base::range::{self, OutOfRange};
use nabla_grad::fingerprint::fingerprint;
use nabla_train::ema::EmaConfig;
use nabla_train::optimizer::{Method, OptimizerConfig, OptimizerError};
use nabla_train::schedule::{Decay, Schedule};
use nabla_train::transform::ClipByNorm;
use nabla_train::{Averaging, Learner, Task, Trainer, TrainerConfig, TrainingError};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::rddm::RddmError;
use crate::rddm_sampler::{Loss, Rddm, RddmInput, ResidualDenoiser};
use crate::seeded_noise::{NoiseState, SeededNoise};

mod selection;

pub use selection::{Selection, select_objective};

/// Why a training of an RDDM cannot start or continue; inside a [`TrainingError`] it is the task's own error.
#[derive(Debug, thiserror::Error)]
pub enum RddmTrainingError {
    /// A field of the configuration is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The model's conventions and the network do not fit.
    #[error(transparent)]
    Rddm(#[from] RddmError),
    /// The data source failed.
    #[error("the training data failed: {0}")]
    Data(#[source] BatchError),
    /// The data source gave no examples.
    #[error("the data source gave an empty batch")]
    EmptyBatch,
    /// An error that can occur in any training.
    #[error(transparent)]
    Training(#[from] TrainingError),
}

impl From<OptimizerError> for RddmTrainingError {
    fn from(error: OptimizerError) -> Self {
        Self::Training(error.into())
    }
}

impl From<RddmTrainingError> for TrainingError {
    fn from(error: RddmTrainingError) -> Self {
        match error {
            RddmTrainingError::Training(error) => error,
            RddmTrainingError::Range(error) => error.into(),
            other => Self::task(other),
        }
    }
}

/// Any error of a [`BatchSource`].
pub type BatchError = Box<dyn Error + Send + Sync>;

/// Pictures to train with.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `I_0`, `[batch, channels, height, width]`, in `[−1, 1]`.
    pub clean: Tensor<4>,
    /// `I_in`, shaped like `clean`; `None` to train generation, where it is 0.
    pub degraded: Option<Tensor<4>>,
    /// Further pictures that the network sees, `[batch, any, height, width]`.
    pub condition: Option<Tensor<4>>,
}

impl Batch {
    /// Clean and degraded pictures, `[batch, channels, height, width]` each.
    pub fn restoration(clean: Tensor<4>, degraded: Tensor<4>) -> Self {
        Self {
            clean,
            degraded: Some(degraded),
            condition: None,
        }
    }

    /// Clean pictures for learning to generate, `[batch, channels, height, width]`.
    pub fn generation(clean: Tensor<4>) -> Self {
        Self {
            clean,
            degraded: None,
            condition: None,
        }
    }
}

/// The source of a training's pictures.
///
/// Implemented for closures of the same form, and for `&mut` of a source.
pub trait BatchSource {
    /// A batch of `size` examples on `device`.
    ///
    /// Everything random (which picture, which crop, which degradation) must come from `draw`, and nothing
    /// else may change from call to call, because a resumed training restores only the position of `draw`.
    ///
    /// # Errors
    /// Any error that prevents a batch; the training stops with it.
    fn batch(
        &mut self,
        size: usize,
        draw: &mut SeededNoise,
        device: &Device,
    ) -> Result<Batch, BatchError>;
}

impl<F> BatchSource for F
where
    F: FnMut(usize, &mut SeededNoise, &Device) -> Result<Batch, BatchError>,
{
    fn batch(
        &mut self,
        size: usize,
        draw: &mut SeededNoise,
        device: &Device,
    ) -> Result<Batch, BatchError> {
        self(size, draw, device)
    }
}

/// The program may keep the source.
impl BatchSource for &mut dyn BatchSource {
    fn batch(
        &mut self,
        size: usize,
        draw: &mut SeededNoise,
        device: &Device,
    ) -> Result<Batch, BatchError> {
        (**self).batch(size, draw, device)
    }
}

/// How the learning rate changes over a training, in the form used by recipes: a [`Schedule`] of one of these
/// two kinds.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum Rate {
    /// Not at all, as in the official code.
    Constant,
    /// Rises linearly over the first steps, then falls along half a cosine until the last.
    WarmupCosine {
        /// The number of steps in which it rises.
        warmup: usize,
        /// Its final value, as a share of the highest rate, in `[0, 1]`.
        floor: f64,
    },
}

impl From<Rate> for Schedule {
    /// ```
    /// use nabla_diffusion::rddm_trainer::Rate;
    /// use nabla_train::schedule::Schedule;
    /// let schedule = Schedule::from(Rate::WarmupCosine { warmup: 10, floor: 0.1 });
    /// assert_eq!(schedule.share(4, 110), 0.5);
    /// assert_eq!(schedule.share(9, 110), 1.0);
    /// assert!((schedule.share(109, 110) - 0.1).abs() < 1e-12);
    /// ```
    fn from(rate: Rate) -> Self {
        match rate {
            Rate::Constant => Self {
                decay: Decay::Constant,
                ..Self::default()
            },
            Rate::WarmupCosine { warmup, floor } => Self {
                decay: Decay::CosineToLast { floor },
                warmup: 0.0,
                warmup_steps: Some(warmup),
            },
        }
    }
}

/// The recipe of a training; [`trainer`](Self::trainer) starts it. The defaults are those of the official
/// code for restoration, except for the batch (1 there, accumulated twice).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct RddmTrainerConfig {
    /// The total number of steps.
    pub steps: usize,
    /// Examples per step. Default 16.
    #[config(default = 16)]
    pub batch: usize,
    /// The number of batches whose gradients are averaged in one step. Default 1.
    #[config(default = 1)]
    pub accumulate: usize,
    /// Distance of prediction and target. Default `L1`.
    #[config(default = "Loss::L1")]
    pub loss: Loss,
    /// Share of examples at the last index, `t = T − 1`, where every sampler starts, in `[0, 1]`; the others
    /// are drawn from all indices. A model that samples in one or two steps is used mostly there. Default 0,
    /// as in the paper.
    #[config(default = 0.0)]
    pub first_step_share: f64,
    /// Highest learning rate. Default 8e-5.
    #[config(default = 8e-5)]
    pub learning_rate: f64,
    /// How the learning rate changes. Default `Constant`.
    #[config(default = "Rate::Constant")]
    pub rate: Rate,
    /// Adam's decay of the mean, in `[0, 1)`. Default 0.9.
    #[config(default = 0.9)]
    pub beta_1: f64,
    /// Adam's decay of the mean square, in `[0, 1)`. Default 0.99.
    #[config(default = 0.99)]
    pub beta_2: f64,
    /// Adam's ε. Default 1e-8.
    #[config(default = 1e-8)]
    pub epsilon: f64,
    /// Decoupled weight decay (AdamW); 0 is Adam. Default 0.
    #[config(default = 0.0)]
    pub weight_decay: f64,
    /// The maximum Euclidean norm of the gradient over all parameters; 0 for no limit. Default 1.
    #[config(default = 1.0)]
    pub gradient_clip: f64,
    /// The moving average. Default: decay 0.995 with the rational warm-up.
    #[config(default = "EmaConfig::new().with_decay(0.995)")]
    pub ema: EmaConfig,
    /// Steps between two updates of the average. Default 10.
    #[config(default = 10)]
    pub ema_every: usize,
    /// Steps between two checkpoints, if a folder is given. Default 1000.
    #[config(default = 1000)]
    pub checkpoint_every: usize,
    /// Seed of data order, times and noise. Default 0.
    #[config(default = 0)]
    pub seed: u64,
}

impl RddmTrainerConfig {
    fn validate(&self) -> Result<(), OutOfRange> {
        let name = |field: &str| format!("training's {field}");
        for (field, value) in [
            ("batch", self.batch),
            ("accumulate", self.accumulate),
            ("ema_every", self.ema_every),
            ("checkpoint_every", self.checkpoint_every),
        ] {
            range::at_least(name(field), value, 1)?;
        }
        for (field, value) in [("beta_1", self.beta_1), ("beta_2", self.beta_2)] {
            let fits = (0.0..1.0).contains(&value);
            range::check(fits, name(field), value, "at least 0 and less than 1")?;
        }
        for (field, value) in [
            ("weight_decay", self.weight_decay),
            ("gradient_clip", self.gradient_clip),
        ] {
            range::not_negative(name(field), value)?;
        }
        for (field, value) in [
            ("learning_rate", self.learning_rate),
            ("epsilon", self.epsilon),
        ] {
            range::positive(name(field), value)?;
        }
        let share = self.first_step_share;
        range::within(name("first_step_share"), share, 0.0..=1.0)?;
        if let Rate::WarmupCosine { floor, .. } = self.rate {
            range::within(name("floor of the learning rate"), floor, 0.0..=1.0)?;
        }
        Ok(())
    }

    fn optimizer(&self) -> Result<OptimizerConfig, OptimizerError> {
        let method = Method::named("adamw")?
            .with("beta_1", self.beta_1)?
            .with("beta_2", self.beta_2)?
            .with("epsilon", self.epsilon)?;
        Ok(OptimizerConfig {
            learning_rate: Some(self.learning_rate),
            weight_decay: self.weight_decay,
            decay_vectors: true,
            ..OptimizerConfig::new(method)
        })
    }

    fn config(&self) -> Result<TrainerConfig, OptimizerError> {
        Ok(TrainerConfig {
            steps: self.steps,
            accumulate: self.accumulate,
            checkpoint_every: self.checkpoint_every,
            schedule: self.rate.into(),
            optimizer: self.optimizer()?,
            averaging: None,
        })
    }

    /// Creates a training that starts with the current weights of `network`, which must be on an autodiff
    /// device (draw the weights with [`seeded_weights`](crate::rddm_sampler::seeded_weights) to make them
    /// reproducible). Use its [average](Trainer::average) as the network for sampling. A training with a
    /// constant learning rate may resume from a checkpoint with more steps.
    ///
    /// # Errors
    /// If a field of the configuration is out of range, or the network's device computes no
    /// gradients.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// use burn::tensor::Device;
    /// use nabla_diffusion::rddm::{Objective, ResidualNetwork, ResidualScheduleConfig, Sharing};
    /// use nabla_diffusion::rddm_sampler::{RddmConfig, seeded_weights};
    /// use nabla_diffusion::rddm_trainer::{Batch, BatchError, RddmTrainerConfig};
    /// use nabla_diffusion::seeded_noise::SeededNoise;
    /// use nabla_diffusion::unet::{Normalization, UNetConfig};
    ///
    /// let device = Device::flex().autodiff();
    /// let rddm = RddmConfig::new()
    ///     .with_objective(Objective::Residual)
    ///     .with_condition_on_input(true)
    ///     .init(ResidualScheduleConfig::new().with_noise_variance(0.01).init()?);
    /// let unet = UNetConfig::new(1, 1)
    ///     .with_condition_channels(1)
    ///     .with_base_channels(8)
    ///     .with_multipliers(vec![1])
    ///     .with_blocks_per_level(1)
    ///     .with_attention_levels(vec![])
    ///     .with_middle_attention(false)
    ///     .with_normalization(Normalization::None);
    /// let network = seeded_weights(0, &device, || {
    ///     ResidualNetwork::init(&unet, Objective::Residual, Sharing::Separate, &device)
    /// })?;
    /// // Noisy pictures, each of a single grey value.
    /// let source = |size: usize, draw: &mut SeededNoise, device: &Device| {
    ///     let clean = draw.normal([size, 1, 1, 1], device).clamp(-1.0, 1.0).expand([size, 1, 8, 8]);
    ///     let degraded = clean.clone() + draw.normal([size, 1, 8, 8], device) * 0.1;
    ///     Ok::<_, BatchError>(Batch::restoration(clean, degraded))
    /// };
    /// let config = RddmTrainerConfig::new(3).with_batch(2);
    /// let mut trainer = config.trainer(rddm, network, source)?;
    /// trainer.run(None, &mut |step| {
    ///     println!("{}/{}: {:?}", step.step, step.steps, step.record.loss);
    ///     ControlFlow::Continue(())
    /// })?;
    /// let network = trainer.average(); // to sample with
    /// # assert!(network.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn trainer<M: Module + ResidualDenoiser, S: BatchSource>(
        &self,
        rddm: Rddm,
        network: M,
        source: S,
    ) -> Result<Trainer<RddmTask<M, S>>, RddmTrainingError> {
        self.validate()?;
        let config = TrainerConfig {
            averaging: Some(Averaging {
                ema: self.ema,
                every: self.ema_every,
            }),
            ..self.config()?
        };
        let task = RddmTask {
            draws: Draws::new(self.seed),
            config: *self,
            rddm,
            source,
            network: PhantomData,
        };
        let trainer = Trainer::new(config, task, network)?;
        Ok(if self.gradient_clip > 0.0 {
            trainer.with_transform(ClipByNorm(self.gradient_clip))
        } else {
            trainer
        })
    }
}

/// Streams of the seed; stream 0 is reserved for drawing the initial weights.
const DATA_STREAM: u64 = 1;
const TIME_STREAM: u64 = 2;
const NOISE_STREAM: u64 = 3;

/// The random streams of a training.
#[derive(Clone, Debug)]
struct Draws {
    data: SeededNoise,
    time: SeededNoise,
    noise: SeededNoise,
}

/// A batch of training examples ready for the network.
#[derive(Clone, Debug)]
pub struct Example {
    /// `I_0`, `[batch, channels, height, width]`.
    pub clean: Tensor<4>,
    /// `I_in` and the network's other inputs.
    pub given: RddmInput,
    /// The index of each example.
    pub t: Vec<usize>,
    /// `ε`, shaped like `clean`.
    pub noise: Tensor<4>,
}

/// The positions of the random streams in a checkpoint.
#[derive(Serialize, Deserialize)]
struct Positions {
    data: NoiseState,
    time: NoiseState,
    noise: NoiseState,
}

impl Draws {
    fn new(seed: u64) -> Self {
        Self {
            data: SeededNoise::new(seed, DATA_STREAM),
            time: SeededNoise::new(seed, TIME_STREAM),
            noise: SeededNoise::new(seed, NOISE_STREAM),
        }
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        let positions = Positions {
            data: self.data.state(),
            time: self.time.state(),
            noise: self.noise.state(),
        };
        serde_json::to_vec(&positions).map_err(TrainingError::task)
    }

    fn restore(state: &[u8]) -> Result<Self, TrainingError> {
        let positions: Positions = serde_json::from_slice(state).map_err(TrainingError::task)?;
        Ok(Self {
            data: SeededNoise::from_state(positions.data),
            time: SeededNoise::from_state(positions.time),
            noise: SeededNoise::from_state(positions.noise),
        })
    }

    fn example(
        &mut self,
        source: &mut dyn BatchSource,
        size: usize,
        steps: usize,
        first_step_share: f64,
        device: &Device,
    ) -> Result<Example, RddmTrainingError> {
        let Batch {
            clean,
            degraded,
            condition,
        } = source
            .batch(size, &mut self.data, device)
            .map_err(RddmTrainingError::Data)?;
        let shape = clean.dims();
        if shape.contains(&0) {
            return Err(RddmTrainingError::EmptyBatch);
        }
        let input = degraded.unwrap_or_else(|| clean.zeros_like());
        Ok(Example {
            t: (0..shape[0])
                .map(|_| {
                    let first = first_step_share > 0.0 && self.time.random_bool(first_step_share);
                    if first {
                        steps - 1
                    } else {
                        self.time.random_range(0..steps)
                    }
                })
                .collect(),
            noise: self.noise.normal(shape, device),
            given: RddmInput { input, condition },
            clean,
        })
    }
}

/// The task of training an RDDM; [`RddmTrainerConfig::trainer`] creates the training.
#[derive(Debug)]
pub struct RddmTask<M, S> {
    config: RddmTrainerConfig,
    rddm: Rddm,
    source: S,
    draws: Draws,
    network: PhantomData<M>,
}

impl<M, S> RddmTask<M, S> {
    /// The model that is trained.
    pub fn rddm(&self) -> &Rddm {
        &self.rddm
    }
}

impl<M: Module + ResidualDenoiser, S: BatchSource> Task for RddmTask<M, S> {
    type Model = M;
    type Batch = Example;
    type Report = ();

    fn batch(&mut self, learner: &Learner<M>) -> Result<Example, TrainingError> {
        Ok(self.draws.example(
            &mut self.source,
            self.config.batch,
            self.rddm.schedule().steps(),
            self.config.first_step_share,
            learner.device(),
        )?)
    }

    fn loss(&mut self, network: &M, example: Example) -> Result<Tensor<1>, TrainingError> {
        let Example {
            clean,
            given,
            t,
            noise,
        } = example;
        let loss = self
            .rddm
            .loss(network, clean, &given, &t, noise, self.config.loss);
        Ok(loss.map_err(RddmTrainingError::from)?)
    }

    fn settings(&self) -> Value {
        let schedule = self.rddm.schedule();
        let table: Vec<u8> = (0..schedule.steps())
            .flat_map(|t| [schedule.residual_sum(t), schedule.noise_std(t)])
            .flat_map(f64::to_le_bytes)
            .collect();
        json!({
            "seed": self.config.seed,
            "batch": self.config.batch,
            "loss": self.config.loss,
            "first_step_share": self.config.first_step_share,
            // As text, which keeps the number exact.
            "rddm": format!("{:?}", self.rddm.config()),
            "schedule": { "steps": schedule.steps(), "table": fingerprint(&table) },
        })
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        self.draws.state()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        self.draws = Draws::restore(state)?;
        Ok(())
    }
}
