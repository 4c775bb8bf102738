//! Training an RDDM, with checkpoints that go on bit by bit, and the choice of the objective.
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
//! Everything random comes from streams of one seed, so that the same seed gives the same bits, and
//! a checkpoint (weights, average, optimiser, positions in the streams, losses) goes on as if the
//! training had never stopped.
//!
//! [`select_objective`] is the automatic objective selection algorithm (AOSA): one output is
//! trained as residual and as noise at once, with a learned share `λ` from 0.5,
//!
//! ```text
//! Î_res = λ out + (1 − λ)(I_in − I_0(ε = out)),   ε̂ = λ ε(I_res = out) + (1 − λ) out
//! L = λ ‖I_res − Î_res‖₁ + (1 − λ) ‖ε − ε̂‖₁
//! ```
//!
//! and once `λ` has left 0.5 by 0.01 its side decides: above is SM-Res, below is SM-N. The network
//! is then trained anew with that objective.
//!
//! Source: Liu et al., *Residual Denoising Diffusion Models*, CVPR 2024, arXiv 2308.13712, eq. 12
//! and appendix on AOSA, with the official code's defaults.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::config::Config;
use burn::module::{Module, Param};
use burn::optim::{
    AdamWConfig, GradientsAccumulator, GradientsParams, ModuleOptimizer, OptimizerRecord,
};
use burn::store::ModuleRecord;
use burn::tensor::{Bytes, Device, Tensor};
use nabla_grad::clipping::clip_norm;
use nabla_grad::fingerprint::fingerprint;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::ema::{Ema, EmaConfig, EmaError};
use crate::rddm::{Objective, RddmError};
use crate::rddm_sampler::{Loss, Rddm, RddmConfig, RddmInput, ResidualDenoiser, check_shape};
use crate::seeded_noise::{NoiseState, SeededNoise};

/// Why a training does not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RddmTrainingError {
    /// A field of the configuration is out of range.
    #[error("the training's {field} is {value}, but it must be {range}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// The network lives on a device that computes no gradients.
    #[error("the network must live on an autodiff device to be trained: use `device.autodiff()`")]
    NoGradients,
    /// The model's conventions and the network do not fit.
    #[error(transparent)]
    Rddm(#[from] RddmError),
    /// The moving average.
    #[error(transparent)]
    Ema(#[from] EmaError),
    /// The data source failed.
    #[error("the training data failed: {0}")]
    Data(#[source] BatchError),
    /// The data source gave no examples.
    #[error("the data source gave an empty batch")]
    EmptyBatch,
    /// The loss or its gradient is not finite.
    #[error("the {what} is not finite in step {step}: lower the learning rate")]
    NotFinite {
        /// Loss or gradient.
        what: &'static str,
        /// The step, from 0.
        step: usize,
    },
    /// A value cannot be read back from the device.
    #[error("cannot read from the device: {0}")]
    Device(String),
    /// A file or folder of a checkpoint.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The folder holds no checkpoint.
    #[error("{} holds no checkpoint", folder.display())]
    NoCheckpoint {
        /// The folder.
        folder: PathBuf,
    },
    /// A checkpoint that cannot be gone on with.
    #[error("the checkpoint {} cannot be resumed: {reason}", path.display())]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Any error of a [`BatchSource`].
pub type BatchError = Box<dyn Error + Send + Sync>;

/// Pictures to train with.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `I_0`, `[batch, channels, height, width]`, in `[−1, 1]`.
    pub clean: Tensor<4>,
    /// `I_in`, as `clean`; `None` to train generation, where it is 0.
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

    /// Clean pictures to learn to generate, `[batch, channels, height, width]`.
    pub fn generation(clean: Tensor<4>) -> Self {
        Self {
            clean,
            degraded: None,
            condition: None,
        }
    }
}

/// Where a training gets its pictures.
///
/// Implemented for closures of the same form.
pub trait BatchSource {
    /// A batch of `size` examples on `device`.
    ///
    /// Everything random (which picture, which crop, which degradation) must come from `draw`, and
    /// nothing else may change from call to call: a resumed training goes on from the position of
    /// `draw` alone.
    ///
    /// # Errors
    /// Whatever keeps the source from its pictures; the training stops with it.
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

/// How the learning rate changes over a training.
#[derive(Config, Debug, Copy, PartialEq)]
pub enum Rate {
    /// Not at all; the official code's.
    Constant,
    /// Rises linearly over the first steps, then falls along half a cosine until the last.
    WarmupCosine {
        /// Steps of the rise.
        warmup: usize,
        /// Where it ends, as a share of the highest rate, in `[0, 1]`.
        floor: f64,
    },
}

impl Rate {
    /// The share of the highest rate at step `step` (from 0) of `steps`.
    ///
    /// ```
    /// use nabla_diffusion::rddm_trainer::Rate;
    /// let rate = Rate::WarmupCosine { warmup: 10, floor: 0.1 };
    /// assert_eq!(rate.share(4, 110), 0.5);
    /// assert_eq!(rate.share(9, 110), 1.0);
    /// assert!((rate.share(109, 110) - 0.1).abs() < 1e-12);
    /// ```
    pub fn share(self, step: usize, steps: usize) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::WarmupCosine { warmup, .. } if step < warmup => (step + 1) as f64 / warmup as f64,
            Self::WarmupCosine { warmup, floor } => {
                // The first step after the rise is already on the cosine, the last at its end.
                let length = steps.saturating_sub(warmup).max(1) as f64;
                let done = ((step + 1 - warmup) as f64 / length).min(1.0);
                floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
        }
    }
}

/// Configuration of a training. The defaults are the official code's for restoration, but for the
/// batch (1 there, accumulated twice).
#[derive(Config, Debug, Copy, PartialEq)]
pub struct RddmTrainerConfig {
    /// Steps in all.
    pub steps: usize,
    /// Examples per step. Default 16.
    #[config(default = 16)]
    pub batch: usize,
    /// Batches whose gradients are averaged in one step. Default 1.
    #[config(default = 1)]
    pub accumulate: usize,
    /// Distance of prediction and target. Default `L1`.
    #[config(default = "Loss::L1")]
    pub loss: Loss,
    /// Share of examples at the last index, `t = T − 1`, where every sampler starts, in `[0, 1]`;
    /// the others are drawn from all. A model that is to sample in one or two steps is used there
    /// most. Default 0, the paper's.
    #[config(default = 0.0)]
    pub first_step_share: f64,
    /// Highest learning rate. Default 8e-5.
    #[config(default = 8e-5)]
    pub learning_rate: f64,
    /// How it changes. Default `Constant`.
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
    /// Longest gradient, as the Euclidean norm over all parameters; 0 for no limit. Default 1.
    #[config(default = 1.0)]
    pub gradient_clip: f64,
    /// The moving average. Default: decay 0.995 with the rational warm-up.
    #[config(default = "EmaConfig::new().with_decay(0.995)")]
    pub ema: EmaConfig,
    /// Steps between two updates of the average. Default 10.
    #[config(default = 10)]
    pub ema_every: usize,
    /// Steps between two checkpoints, where a folder is given. Default 1000.
    #[config(default = 1000)]
    pub checkpoint_every: usize,
    /// Seed of data order, times and noise. Default 0.
    #[config(default = 0)]
    pub seed: u64,
}

impl RddmTrainerConfig {
    fn validate(&self) -> Result<(), RddmTrainingError> {
        let wrong = |field, value, range| RddmTrainingError::Field {
            field,
            value,
            range,
        };
        for (field, value) in [
            ("batch", self.batch),
            ("accumulate", self.accumulate),
            ("ema_every", self.ema_every),
            ("checkpoint_every", self.checkpoint_every),
        ] {
            if value == 0 {
                return Err(wrong(field, 0.0, "at least 1"));
            }
        }
        for (field, value) in [("beta_1", self.beta_1), ("beta_2", self.beta_2)] {
            if !(0.0..1.0).contains(&value) {
                return Err(wrong(field, value, "at least 0 and below 1"));
            }
        }
        for (field, value) in [
            ("weight_decay", self.weight_decay),
            ("gradient_clip", self.gradient_clip),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(wrong(field, value, "at least 0 and finite"));
            }
        }
        for (field, value) in [
            ("learning_rate", self.learning_rate),
            ("epsilon", self.epsilon),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(wrong(field, value, "positive and finite"));
            }
        }
        if !(0.0..=1.0).contains(&self.first_step_share) {
            return Err(wrong(
                "first_step_share",
                self.first_step_share,
                "in [0, 1]",
            ));
        }
        if let Rate::WarmupCosine { floor, .. } = self.rate
            && !(0.0..=1.0).contains(&floor)
        {
            return Err(wrong("floor of the learning rate", floor, "in [0, 1]"));
        }
        Ok(())
    }

    fn optimizer(&self) -> ModuleOptimizer {
        AdamWConfig::new()
            .with_beta_1(self.beta_1 as f32)
            .with_beta_2(self.beta_2 as f32)
            .with_epsilon(self.epsilon as f32)
            .with_weight_decay(self.weight_decay as f32)
            .init()
    }

    /// What decides the bits of the training: everything, but for the number of steps where the
    /// learning rate does not depend on it, and how often it is saved.
    fn identity(&self) -> Self {
        let mut identity = *self;
        identity.checkpoint_every = 1;
        if self.rate == Rate::Constant {
            identity.steps = 0;
        }
        identity
    }
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingStep {
    /// Steps done, this one included.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// The loss, averaged over the accumulated batches.
    pub loss: f32,
    /// Euclidean norm of the gradient before it was limited.
    pub gradient_norm: f32,
    /// The learning rate that was used.
    pub learning_rate: f64,
}

/// Streams of the seed; 0 is left to whoever draws the first weights.
const DATA_STREAM: u64 = 1;
const TIME_STREAM: u64 = 2;
const NOISE_STREAM: u64 = 3;

/// What is drawn in a training.
#[derive(Clone, Debug)]
struct Draws {
    data: SeededNoise,
    time: SeededNoise,
    noise: SeededNoise,
}

/// A training example ready for the network.
struct Example {
    clean: Tensor<4>,
    given: RddmInput,
    t: Vec<usize>,
    noise: Tensor<4>,
}

impl Draws {
    fn new(seed: u64) -> Self {
        Self {
            data: SeededNoise::new(seed, DATA_STREAM),
            time: SeededNoise::new(seed, TIME_STREAM),
            noise: SeededNoise::new(seed, NOISE_STREAM),
        }
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

fn scalar(x: Tensor<1>) -> Result<f32, RddmTrainingError> {
    x.try_into_scalar::<f32>()
        .map_err(|e| RddmTrainingError::Device(e.to_string()))
}

/// The norm of the gradients, which are limited to `clip` (0 for no limit).
fn limit_gradients<M: Module>(
    network: &M,
    gradients: &mut GradientsParams,
    clip: f64,
) -> Result<f32, RddmTrainingError> {
    clip_norm(network, gradients, clip).map_err(|error| RddmTrainingError::Device(error.0))
}

fn device_of<M: Module>(network: &M) -> Result<Device, RddmTrainingError> {
    match network.devices().into_iter().next() {
        Some(device) if device.is_autodiff() => Ok(device),
        _ => Err(RddmTrainingError::NoGradients),
    }
}

/// A training in progress; see the [module documentation](self).
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_diffusion::rddm::{Objective, ResidualNetwork, ResidualScheduleConfig, Sharing};
/// use nabla_diffusion::rddm_sampler::{RddmConfig, seeded_weights};
/// use nabla_diffusion::rddm_trainer::{Batch, BatchError, RddmTrainer, RddmTrainerConfig};
/// use nabla_diffusion::seeded_noise::SeededNoise;
/// use nabla_diffusion::unet::{Normalization, UNetConfig};
/// use std::ops::ControlFlow;
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
/// // Noisy pictures of one grey value each.
/// let mut source = |size: usize, draw: &mut SeededNoise, device: &Device| {
///     let clean = draw.normal([size, 1, 1, 1], device).clamp(-1.0, 1.0).expand([size, 1, 8, 8]);
///     let degraded = clean.clone() + draw.normal([size, 1, 8, 8], device) * 0.1;
///     Ok::<_, BatchError>(Batch::restoration(clean, degraded))
/// };
/// let config = RddmTrainerConfig::new(3).with_batch(2);
/// let mut trainer = RddmTrainer::new(config, rddm, network)?;
/// trainer.run(&mut source, None, &mut |step| {
///     println!("{}/{}: {}", step.step, step.steps, step.loss);
///     ControlFlow::Continue(())
/// })?;
/// let network = trainer.average(); // to sample with
/// # let _ = network;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RddmTrainer<M: Module> {
    config: RddmTrainerConfig,
    rddm: Rddm,
    device: Device,
    network: M,
    average: Ema<M>,
    optimizer: ModuleOptimizer,
    draws: Draws,
    losses: Vec<f32>,
}

impl<M: Module> std::fmt::Debug for RddmTrainer<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RddmTrainer")
            .field("config", &self.config)
            .field("step", &self.losses.len())
            .finish_non_exhaustive()
    }
}

impl<M: Module + ResidualDenoiser> RddmTrainer<M> {
    /// A training that begins with the present weights of `network`, which lives on an autodiff
    /// device (draw them with [`seeded_weights`](crate::rddm_sampler::seeded_weights) to have the
    /// same each time).
    ///
    /// # Errors
    /// If a field of the configuration is out of range, or the network's device computes no
    /// gradients.
    pub fn new(
        config: RddmTrainerConfig,
        rddm: Rddm,
        network: M,
    ) -> Result<Self, RddmTrainingError> {
        config.validate()?;
        Ok(Self {
            device: device_of(&network)?,
            average: config.ema.init(&network)?,
            optimizer: config.optimizer(),
            draws: Draws::new(config.seed),
            losses: Vec::new(),
            config,
            rddm,
            network,
        })
    }

    /// Steps done.
    pub fn step(&self) -> usize {
        self.losses.len()
    }

    /// The loss of every step so far.
    pub fn losses(&self) -> &[f32] {
        &self.losses
    }

    /// The configuration.
    pub fn config(&self) -> &RddmTrainerConfig {
        &self.config
    }

    /// The model that is trained.
    pub fn rddm(&self) -> &Rddm {
        &self.rddm
    }

    /// The network with its present weights, on its autodiff device.
    pub fn network(&self) -> &M {
        &self.network
    }

    /// The moving average of the network, on the plain device: what to sample with.
    pub fn average(&self) -> &M {
        self.average.average()
    }

    /// Trains one step.
    ///
    /// # Errors
    /// If the source fails, its pictures do not fit the model, or the loss or its gradient is not
    /// finite; the weights are then as before.
    pub fn train_step(
        &mut self,
        source: &mut dyn BatchSource,
    ) -> Result<TrainingStep, RddmTrainingError> {
        let step = self.step();
        let learning_rate =
            self.config.learning_rate * self.config.rate.share(step, self.config.steps);
        let mut accumulator = GradientsAccumulator::new();
        let mut loss = 0.0;
        for _ in 0..self.config.accumulate {
            let example = self.draws.example(
                source,
                self.config.batch,
                self.rddm.schedule().steps(),
                self.config.first_step_share,
                &self.device,
            )?;
            let part = self.rddm.loss(
                &self.network,
                example.clean,
                &example.given,
                &example.t,
                example.noise,
                self.config.loss,
            )? / self.config.accumulate as f64;
            loss += scalar(part.clone().without_autodiff())?;
            let gradients = GradientsParams::from_grads(part.backward(), &self.network);
            accumulator.accumulate(&self.network, gradients);
        }
        if !loss.is_finite() {
            return Err(RddmTrainingError::NotFinite { what: "loss", step });
        }
        let mut gradients = accumulator.grads();
        let gradient_norm = clip_norm(&self.network, &mut gradients, self.config.gradient_clip)
            .map_err(|e| RddmTrainingError::Device(e.0))?;
        if !gradient_norm.is_finite() {
            return Err(RddmTrainingError::NotFinite {
                what: "gradient",
                step,
            });
        }
        self.network = self
            .optimizer
            .step(learning_rate, self.network.clone(), gradients);
        self.losses.push(loss);
        if self.step().is_multiple_of(self.config.ema_every) {
            self.average.update(&self.network)?;
        }
        Ok(TrainingStep {
            step: self.step(),
            steps: self.config.steps,
            loss,
            gradient_norm,
            learning_rate,
        })
    }

    /// Trains until all steps are done or `on_step` breaks.
    ///
    /// - `folder`: where to save, every [`checkpoint_every`](RddmTrainerConfig::checkpoint_every)
    ///   steps and at the end (also when `on_step` breaks)
    /// - `on_step`: sees every step
    ///
    /// # Errors
    /// As [`train_step`](Self::train_step) and [`save`](Self::save).
    pub fn run(
        &mut self,
        source: &mut dyn BatchSource,
        folder: Option<&Path>,
        on_step: &mut dyn FnMut(TrainingStep) -> ControlFlow<()>,
    ) -> Result<(), RddmTrainingError> {
        while self.step() < self.config.steps {
            let done = self.train_step(source)?;
            let stop = on_step(done).is_break();
            let last = stop || done.step == self.config.steps;
            if let Some(folder) = folder
                && (last || done.step.is_multiple_of(self.config.checkpoint_every))
            {
                self.save(folder)?;
            }
            if stop {
                break;
            }
        }
        Ok(())
    }

    /// Saves a checkpoint in `folder`, in place of the one that is there.
    ///
    /// It is a folder `step-N` of its own that gets its name only when it is whole: a training that
    /// is killed while it saves leaves the checkpoint before. The average to sample with is the
    /// file `average.bpk` in it, a record of Burn.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), RddmTrainingError> {
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| RddmTrainingError::File {
                doing,
                path,
                source,
            }
        };
        fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
        let name = step_name(self.step());
        let part = folder.join(format!("{name}.part"));
        let whole = folder.join(&name);
        // What a killed training left.
        remove_folder(&part).map_err(failed("remove", &part))?;
        fs::create_dir(&part).map_err(failed("make the folder", &part))?;

        let refused = |error: &dyn std::fmt::Display| RddmTrainingError::Checkpoint {
            path: whole.clone(),
            reason: error.to_string(),
        };
        let losses = self.losses.iter().flat_map(|l| l.to_le_bytes()).collect();
        let contents: [(&str, Vec<u8>); 4] = [
            (
                NETWORK,
                record_bytes(self.network.valid()).map_err(|e| refused(&e))?,
            ),
            (
                AVERAGE,
                record_bytes(self.average.average().clone()).map_err(|e| refused(&e))?,
            ),
            (
                OPTIMIZER,
                self.optimizer
                    .into_bytes()
                    .map_err(|e| refused(&e))?
                    .to_vec(),
            ),
            (LOSSES, losses),
        ];
        let mut files = BTreeMap::new();
        for (name, bytes) in contents {
            let path = part.join(name);
            write_file(&path, &bytes).map_err(failed("write", &path))?;
            files.insert(name.to_owned(), fingerprint(&bytes));
        }
        let state = State {
            format: FORMAT,
            identity: self.identity(),
            step: self.step(),
            average_updates: self.average.updates(),
            data: self.draws.data.state(),
            time: self.draws.time.state(),
            noise: self.draws.noise.state(),
            files,
        };
        let text = serde_json::to_vec_pretty(&state).map_err(|e| refused(&e))?;
        let path = part.join(STATE);
        write_file(&path, &text).map_err(failed("write", &path))?;

        remove_folder(&whole).map_err(failed("remove", &whole))?;
        fs::rename(&part, &whole).map_err(failed("rename", &part))?;
        for (step, path) in checkpoints(folder).map_err(failed("read", folder))? {
            if step != self.step() {
                remove_folder(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Goes on from the checkpoint in `folder`, bit by bit.
    ///
    /// - `config`, `rddm`, `network`: as for [`new`](Self::new) when the training began; the
    ///   network's weights are replaced. A training with a constant learning rate may be given
    ///   more steps.
    ///
    /// # Errors
    /// If there is no checkpoint, it is damaged, or it belongs to another configuration or network;
    /// and as [`new`](Self::new).
    pub fn resume(
        config: RddmTrainerConfig,
        rddm: Rddm,
        network: M,
        folder: &Path,
    ) -> Result<Self, RddmTrainingError> {
        let mut trainer = Self::new(config, rddm, network)?;
        let found = checkpoints(folder).map_err(|source| RddmTrainingError::File {
            doing: "read",
            path: folder.to_owned(),
            source,
        })?;
        let Some((_, path)) = found.into_iter().next_back() else {
            return Err(RddmTrainingError::NoCheckpoint {
                folder: folder.to_owned(),
            });
        };
        let refused = |reason: String| RddmTrainingError::Checkpoint {
            path: path.clone(),
            reason,
        };
        let read = |name: &str| {
            let file = path.join(name);
            fs::read(&file).map_err(|source| RddmTrainingError::File {
                doing: "read",
                path: file,
                source,
            })
        };
        let state: State = serde_json::from_slice(&read(STATE)?)
            .map_err(|e| refused(format!("{STATE} is damaged: {e}")))?;
        if state.format != FORMAT {
            return Err(refused(format!(
                "its format is {}, expected {FORMAT}",
                state.format
            )));
        }
        if state.identity != trainer.identity() {
            return Err(refused(format!(
                "it was trained with {}, but {} is asked for",
                state.identity,
                trainer.identity()
            )));
        }
        // Burn's optimiser drops what it cannot read without a word: files are checked first.
        let checked = |name: &str| {
            let bytes = read(name)?;
            if state.files.get(name) == Some(&fingerprint(&bytes)) {
                Ok(bytes)
            } else {
                Err(refused(format!("{name} is damaged")))
            }
        };
        let record = |name: &str| {
            ModuleRecord::from_bytes(Bytes::from_bytes_vec(checked(name)?))
                .map_err(|e| refused(format!("{name}: {e}")))
        };
        let misfit = |e: burn::store::RecordError| refused(format!("its network is another: {e}"));
        trainer.network = trainer
            .network
            .try_load_record(record(NETWORK)?)
            .map_err(misfit)?;
        let average = trainer
            .average
            .average()
            .clone()
            .try_load_record(record(AVERAGE)?)
            .map_err(misfit)?;
        trainer.average = trainer.config.ema.restore(average, state.average_updates)?;
        let optimizer = OptimizerRecord::from_bytes(Bytes::from_bytes_vec(checked(OPTIMIZER)?))
            .map_err(|e| refused(format!("{OPTIMIZER}: {e}")))?;
        trainer.optimizer = trainer.optimizer.load_record(optimizer);
        trainer.draws = Draws {
            data: SeededNoise::from_state(state.data),
            time: SeededNoise::from_state(state.time),
            noise: SeededNoise::from_state(state.noise),
        };
        trainer.losses = checked(LOSSES)?
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        if trainer.step() != state.step {
            return Err(refused(format!(
                "it has {} losses after {} steps",
                trainer.step(),
                state.step
            )));
        }
        Ok(trainer)
    }

    /// Whether `folder` holds a checkpoint to [`resume`](Self::resume) from.
    pub fn has_checkpoint(folder: &Path) -> bool {
        checkpoints(folder).is_ok_and(|found| !found.is_empty())
    }

    /// The settings that decide the bits, in words; compared as text, which is exact.
    fn identity(&self) -> String {
        let schedule = self.rddm.schedule();
        let table: Vec<u8> = (0..schedule.steps())
            .flat_map(|t| [schedule.residual_sum(t), schedule.noise_std(t)])
            .flat_map(f64::to_le_bytes)
            .collect();
        format!(
            "{:?}, {:?}, schedule of {} steps {}",
            self.config.identity(),
            self.rddm.config(),
            schedule.steps(),
            fingerprint(&table)
        )
    }
}

const FORMAT: u32 = 1;
const NETWORK: &str = "network.bpk";
const AVERAGE: &str = "average.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const LOSSES: &str = "losses.f32";
const STATE: &str = "state.json";

/// What `state.json` of a checkpoint holds.
#[derive(Serialize, Deserialize)]
struct State {
    format: u32,
    identity: String,
    step: usize,
    average_updates: u64,
    data: NoiseState,
    time: NoiseState,
    noise: NoiseState,
    /// The fingerprint of each file.
    files: BTreeMap<String, String>,
}

fn record_bytes<M: Module>(module: M) -> Result<Vec<u8>, burn::store::RecordError> {
    Ok(module.into_record().into_bytes()?.to_vec())
}

fn step_name(step: usize) -> String {
    format!("step-{step:08}")
}

/// The whole checkpoints of a folder, in the order of their steps; none if there is no folder.
fn checkpoints(folder: &Path) -> io::Result<Vec<(usize, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let step = name
            .to_str()
            .and_then(|n| n.strip_prefix("step-"))
            .and_then(|n| n.parse().ok());
        if let Some(step) = step {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Writes a file and waits until it lies on the disk, so that the folder is not renamed before.
fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// What [`select_objective`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// [`Objective::Residual`] or [`Objective::Noise`]; `None` if the steps ran out undecided.
    pub objective: Option<Objective>,
    /// The share `λ` of the residual before the first step and after each.
    pub shares: Vec<f32>,
}

impl Rddm {
    /// The loss of the objective selection, `[1]`; see the [module documentation](self).
    ///
    /// - `model`: has one output, told the time of the residual; the objective of the model is not
    ///   used
    /// - `share`: `λ`, `[1]`
    /// - the others as for [`loss`](Self::loss)
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    ///
    /// # Panics
    /// As [`loss`](Self::loss).
    #[allow(clippy::too_many_arguments)]
    pub fn selection_loss(
        &self,
        model: &dyn ResidualDenoiser,
        clean: Tensor<4>,
        given: &RddmInput,
        t: &[usize],
        noise: Tensor<4>,
        loss: Loss,
        share: Tensor<1>,
    ) -> Result<Tensor<1>, RddmError> {
        check_shape("degraded picture", &given.input, &clean)?;
        check_shape("noise", &noise, &clean)?;
        let schedule = self.schedule();
        let one_output = RddmConfig {
            objective: Objective::Residual,
            ..self.config()
        }
        .init(schedule.clone());
        let input = given.input.clone();
        let residual = input.clone() - clean.clone();
        let x = schedule.diffuse(clean, residual.clone(), noise.clone(), t);
        let output = one_output
            .outputs(model, x.clone(), given, t)?
            .swap_remove(0);
        let rest = share.clone().neg() + 1.0;
        let (of_output, of_derived) = (
            share.clone().reshape([1, 1, 1, 1]),
            rest.clone().reshape([1, 1, 1, 1]),
        );
        // The residual if the output is the noise, and the noise if it is the residual.
        let clean_of_noise = schedule
            .clean_from_noise(x.clone(), input.clone(), output.clone(), t)
            .clamp(-1.0, 1.0);
        let noise_of_residual = schedule.noise_from_residual(x, input.clone(), output.clone(), t);
        let as_residual =
            output.clone() * of_output.clone() + (input - clean_of_noise) * of_derived.clone();
        let as_noise = noise_of_residual * of_output + output * of_derived;
        Ok(loss.between(as_residual, residual) * share + loss.between(as_noise, noise) * rest)
    }
}

/// The learned share of the residual.
#[derive(Module, Debug)]
struct Share {
    value: Param<Tensor<1>>,
}

/// Finds by training whether the residual or the noise is the better objective (AOSA); see the
/// [module documentation](self).
///
/// - `config`: steps are the most that are taken; the learning rate is also that of the share, which
///   Adam moves by about one learning rate per step, so that at least `threshold / learning_rate`
///   steps are needed
/// - `threshold`: how far the share must move from 0.5; the official 0.01
/// - `rddm`: schedule and conditioning; its objective is not used
/// - `network`: has one output; its weights do not matter afterwards
/// - `on_step`: sees the share after every step
///
/// # Errors
/// As [`RddmTrainer::new`] and [`RddmTrainer::train_step`], or if `threshold` is not in (0, 0.5).
pub fn select_objective<M: Module + ResidualDenoiser>(
    config: &RddmTrainerConfig,
    threshold: f64,
    rddm: &Rddm,
    mut network: M,
    source: &mut dyn BatchSource,
    on_step: &mut dyn FnMut(f32) -> ControlFlow<()>,
) -> Result<Selection, RddmTrainingError> {
    config.validate()?;
    if !(threshold > 0.0 && threshold < 0.5) {
        return Err(RddmTrainingError::Field {
            field: "threshold of the objective selection",
            value: threshold,
            range: "above 0 and below 0.5",
        });
    }
    let device = device_of(&network)?;
    let mut share = Share {
        value: Param::from_tensor(Tensor::from_floats([0.5], &device)),
    };
    let (mut optimizer, mut share_optimizer) = (config.optimizer(), config.optimizer());
    let mut draws = Draws::new(config.seed);
    let mut shares = vec![0.5];
    for step in 0..config.steps {
        let learning_rate = config.learning_rate * config.rate.share(step, config.steps);
        let mut accumulator = GradientsAccumulator::new();
        let mut share_accumulator = GradientsAccumulator::new();
        for _ in 0..config.accumulate {
            let example =
                draws.example(source, config.batch, rddm.schedule().steps(), 0.0, &device)?;
            let loss = rddm.selection_loss(
                &network,
                example.clean,
                &example.given,
                &example.t,
                example.noise,
                config.loss,
                share.value.val(),
            )? / config.accumulate as f64;
            if !scalar(loss.clone().without_autodiff())?.is_finite() {
                return Err(RddmTrainingError::NotFinite { what: "loss", step });
            }
            let mut all = loss.backward();
            let of_network = GradientsParams::from_module(&mut all, &network);
            accumulator.accumulate(&network, of_network);
            let of_share = GradientsParams::from_module(&mut all, &share);
            share_accumulator.accumulate(&share, of_share);
        }
        // Adam's step does not depend on the length of the gradient, so that it makes no
        // difference to the share that the official code limits both gradients together.
        let (mut gradients, mut of_share) = (accumulator.grads(), share_accumulator.grads());
        let norm = limit_gradients(&network, &mut gradients, config.gradient_clip)?;
        let share_norm = limit_gradients(&share, &mut of_share, config.gradient_clip)?;
        if !(norm.is_finite() && share_norm.is_finite()) {
            return Err(RddmTrainingError::NotFinite {
                what: "gradient",
                step,
            });
        }
        network = optimizer.step(learning_rate, network, gradients);
        share = share_optimizer.step(learning_rate, share, of_share);
        let lambda = scalar(share.value.val().without_autodiff())?;
        shares.push(lambda);
        let moved = f64::from(lambda) - 0.5;
        let objective = if moved >= threshold {
            Some(Objective::Residual)
        } else if moved <= -threshold {
            Some(Objective::Noise)
        } else {
            None
        };
        if objective.is_some() || on_step(lambda).is_break() {
            return Ok(Selection { objective, shares });
        }
    }
    Ok(Selection {
        objective: None,
        shares,
    })
}
