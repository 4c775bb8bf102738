//! Training a [`Flow`](super::Flow), as a task of the [trainer](nabla_train::trainer).

use std::sync::Arc;

use burn::config::Config;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::range::{self, OutOfRange};
use nabla_train::ema::EmaConfig;
use nabla_train::optimizer::OptimizerConfig;
use nabla_train::schedule::{Decay, Schedule};
use nabla_train::transform::ClipByNorm;
use nabla_train::{Averaging, Learner, Task, Trainer, TrainerConfig, TrainingError};
use rand::RngExt;
use serde_json::{Value, json};

use super::{FlowConfig, FlowError, FlowNetwork, START, speed};
use crate::level::NoisePath;
use crate::rddm_sampler::seeded_weights;
use crate::seeded_noise::SeededNoise;

/// How much the error of each time weighs.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Weighting {
    /// All times alike: the loss of flow matching.
    Plain,
    /// The error in units of the path's speed.
    Speed,
}

/// The recipe of a training; [`trainer`](Self::trainer) starts it.
#[derive(Config, Debug, Copy, PartialEq)]
pub struct FlowTrainingConfig {
    /// The total number of steps.
    pub steps: usize,
    /// Points per step. Default 256.
    #[config(default = 256)]
    pub batch: usize,
    /// Highest learning rate. Default 1e-3.
    #[config(default = 1e-3)]
    pub learning_rate: f64,
    /// The share of the steps in which the learning rate rises, in `[0, 1)`. Then it falls along half a cosine to 0.
    /// Default 0.05.
    #[config(default = 0.05)]
    pub warmup: f64,
    /// The maximum Euclidean norm of the gradient; 0 for no limit. Default 1.
    #[config(default = 1.0)]
    pub gradient_clip: f64,
    /// How much the error of each time weighs. Default [`Weighting::Speed`].
    #[config(default = "Weighting::Speed")]
    pub weighting: Weighting,
    /// The moving average. Default: decay 0.999 with the rational warm-up.
    #[config(default = "EmaConfig::new().with_decay(0.999)")]
    pub ema: EmaConfig,
    /// Steps between two checkpoints, if a folder is given. Default 1000.
    #[config(default = 1000)]
    pub checkpoint_every: usize,
    /// Seed of weights, data order, times and noise. Default 0.
    #[config(default = 0)]
    pub seed: u64,
}

impl FlowTrainingConfig {
    fn validate(&self) -> Result<(), OutOfRange> {
        range::at_least("training's batch", self.batch, 1)?;
        range::at_least("training's checkpoint_every", self.checkpoint_every, 1)?;
        range::positive("training's learning_rate", self.learning_rate)?;
        range::not_negative("training's gradient_clip", self.gradient_clip)
    }

    fn config(&self) -> TrainerConfig {
        TrainerConfig {
            steps: self.steps,
            accumulate: 1,
            checkpoint_every: self.checkpoint_every,
            schedule: Schedule {
                decay: Decay::CosineToLast { floor: 0.0 },
                warmup: self.warmup,
                warmup_steps: None,
            },
            optimizer: OptimizerConfig {
                learning_rate: Some(self.learning_rate),
                ..OptimizerConfig::default()
            },
            averaging: Some(Averaging {
                ema: self.ema,
                every: 1,
            }),
        }
    }

    /// Creates a training from random weights. Use its [average](Trainer::average) as the network of the
    /// [`Flow`](super::Flow).
    ///
    /// - `points`: normalized, one after the other
    /// - `device`: an autodiff device
    ///
    /// # Errors
    /// If a field of a configuration is out of range, or the points are not whole.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use burn::tensor::Device;
    /// use nabla_diffusion::flow_matching::{Flow, FlowConfig, FlowTrainingConfig};
    /// use nabla_diffusion::kinetic_optimal::normalized;
    ///
    /// let device = Device::flex();
    /// let data = normalized(&[-1.0, 1.0, 1.0, -1.0], 1)?;
    /// let config = FlowConfig::of(vec!["x".to_owned()], &data).with_hidden(vec![16]);
    /// let training = FlowTrainingConfig::new(3).with_batch(8);
    /// let mut trainer = training.trainer(&config, &data.points, &device.clone().autodiff())?;
    /// trainer.run(None, &mut |_| ControlFlow::Continue(()))?;
    /// if let Some(network) = trainer.average() {
    ///     let flow = Flow::new(config, network.clone(), &device)?;
    ///     assert!(flow.parameters() > 0);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn trainer(
        &self,
        flow: &FlowConfig,
        points: &[f64],
        device: &Device,
    ) -> Result<Trainer<FlowTask>, FlowError> {
        self.validate()?;
        let (found, dimension) = (points.len(), flow.dimension());
        let network = seeded_weights(self.seed, device, || flow.init_network(device))?;
        if found == 0 || !found.is_multiple_of(dimension) {
            return Err(FlowError::Points { found, dimension });
        }
        let task = FlowTask {
            config: *self,
            flow: flow.clone(),
            path: flow.path.init()?,
            points: points.iter().map(|&value| value as f32).collect(),
            draw: SeededNoise::new(self.seed, 1),
        };
        let trainer = Trainer::new(self.config(), task, network)?;
        Ok(match self.gradient_clip > 0.0 {
            true => trainer.with_transform(ClipByNorm(self.gradient_clip)),
            false => trainer,
        })
    }
}

/// The task; [`FlowTrainingConfig::trainer`] creates the training.
#[derive(Debug)]
pub struct FlowTask {
    config: FlowTrainingConfig,
    flow: FlowConfig,
    path: Arc<dyn NoisePath>,
    /// Normalized, one after the other.
    points: Vec<f32>,
    draw: SeededNoise,
}

/// A batch ready for the network.
#[derive(Clone, Debug)]
pub struct Example {
    /// `x_t` at scale 1, `[batch, numbers]`.
    x: Tensor<2>,
    /// The velocity in units of the path's speed, of the same shape.
    target: Tensor<2>,
    /// `[batch]`.
    times: Tensor<1>,
    /// The weight of each error, `[batch, 1]`.
    weight: Tensor<2>,
}

impl Task for FlowTask {
    type Model = FlowNetwork;
    type Batch = Example;
    type Report = ();

    fn batch(&mut self, learner: &Learner<FlowNetwork>) -> Result<Example, TrainingError> {
        let (size, device) = (self.config.batch, learner.device());
        let dimension = self.flow.dimension();
        let count = self.points.len() / dimension;
        let mut values = Vec::with_capacity(size * dimension);
        for _ in 0..size {
            let i = self.draw.random_range(0..count);
            values.extend_from_slice(&self.points[i * dimension..(i + 1) * dimension]);
        }
        let data = TensorData::new(values, [size, dimension]);
        let data = Tensor::<2>::from_data(data, device);
        let epsilon = self.draw.normal([size, dimension], device);
        // Stratified: independent of the order of the points, which is random.
        let shift: f64 = self.draw.random();
        let times: Vec<f64> = (0..size)
            .map(|i| START * (i as f64 + shift) / size as f64)
            .collect();
        let column = |value: &dyn Fn(f64) -> f64| -> Tensor<2> {
            let values: Vec<f32> = times.iter().map(|&time| value(time) as f32).collect();
            Tensor::<1>::from_floats(values.as_slice(), device).reshape([size, 1])
        };
        let path = self.path.as_ref();
        let mixed =
            |signal: Tensor<2>, noise: Tensor<2>| data.clone() * signal + epsilon.clone() * noise;
        let at = |time: f64| path.level_at(time);
        let rate = |time: f64, i: usize| path.rates_at(time)[i] / speed(path, time);
        Ok(Example {
            x: mixed(
                column(&|time| at(time).signal() / at(time).scale()),
                column(&|time| at(time).noise() / at(time).scale()),
            ),
            target: mixed(column(&|time| rate(time, 0)), column(&|time| rate(time, 1))),
            times: column(&|time| time).reshape([size]),
            weight: column(&|time| match self.config.weighting {
                Weighting::Plain => speed(path, time).powi(2),
                Weighting::Speed => 1.0,
            }),
        })
    }

    fn loss(
        &mut self,
        network: &FlowNetwork,
        example: Example,
    ) -> Result<Tensor<1>, TrainingError> {
        let error = network.forward(example.x, example.times) - example.target;
        Ok((error.square() * example.weight).mean())
    }

    fn settings(&self) -> Value {
        json!({
            "seed": self.config.seed,
            "batch": self.config.batch,
            // As text, which keeps the numbers exact.
            "weighting": format!("{:?}", self.config.weighting),
            "flow": format!("{:?}", self.flow),
            "points": self.points.len(),
        })
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        serde_json::to_vec(&self.draw.state()).map_err(TrainingError::task)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let state = serde_json::from_slice(state).map_err(TrainingError::task)?;
        self.draw = SeededNoise::from_state(state);
        Ok(())
    }
}
