//! A residual network of points that predicts the noise, and can skip its blocks.
//!
//! ```text
//! h = W x,   h ← h + W₂ silu(W₁ silu(h) + W_t e(t))   (six times),   ε̂ = W' h
//! ```

use std::ops::ControlFlow;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_claims::ClaimError;
use nabla_diffusion::block_skipping::{BlockCounter, BlockSet, SkippableDenoiser};
use nabla_diffusion::denoiser::{Condition, Denoiser, OwnError, Prediction, only_first};
use nabla_diffusion::level::Level;
use nabla_diffusion::rddm_sampler::seeded_weights;
use nabla_diffusion::schedule::{NoiseSchedule, NoiseScheduleConfig};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::unet::sinusoidal_embedding;
use nabla_train::{Learner, OptimizerConfig, Task, Trainer, TrainerConfig, TrainingError};
use rand::RngExt;

use super::data::{Data, NUMBERS};

/// Blocks of the network.
pub(super) const BLOCKS: usize = 6;
const WIDTH: usize = 96;
const TIME: usize = 32;
const BATCH: usize = 256;
const LEARNING_RATE: f64 = 1e-3;

#[derive(Module, Debug)]
struct Block {
    first: Linear,
    time: Linear,
    second: Linear,
}

/// The network.
#[derive(Module, Debug)]
struct Layers {
    input: Linear,
    blocks: Vec<Block>,
    output: Linear,
}

impl Layers {
    fn new(device: &Device) -> Self {
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let block = || Block {
            first: linear(WIDTH, WIDTH),
            time: linear(TIME, WIDTH),
            second: linear(WIDTH, WIDTH),
        };
        Self {
            input: linear(NUMBERS, WIDTH),
            blocks: (0..BLOCKS).map(|_| block()).collect(),
            output: linear(WIDTH, NUMBERS),
        }
    }

    /// - `x`: `[batch, NUMBERS]`
    /// - `times`: `[batch]`, in training steps
    fn forward(&self, x: Tensor<2>, times: Tensor<1>, skipped: &BlockSet) -> Tensor<2> {
        let time = sinusoidal_embedding(times, TIME); // [batch, TIME]
        let mut counter = BlockCounter::new(skipped);
        let mut h = self.input.forward(x); // [batch, WIDTH]
        for block in &self.blocks {
            if counter.computes_next() {
                let inner = block.first.forward(silu(h.clone())) + block.time.forward(time.clone());
                h = h + block.second.forward(silu(inner));
            }
        }
        self.output.forward(h)
    }
}

/// The network, trained.
#[derive(Debug)]
pub(super) struct NoiseNetwork {
    layers: Layers,
}

impl NoiseNetwork {
    /// Trains a network for so many steps on the linear schedule.
    pub(super) fn trained(
        data: &Data,
        steps: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self, ClaimError> {
        let device = device.clone().autodiff();
        let layers = seeded_weights(seed, &device, || {
            Ok::<_, std::convert::Infallible>(Layers::new(&device))
        });
        let layers = layers.map_err(ClaimError::experiment)?;
        let config = TrainerConfig {
            steps,
            optimizer: OptimizerConfig {
                learning_rate: Some(LEARNING_RATE),
                ..OptimizerConfig::named("adam").map_err(ClaimError::experiment)?
            },
            ..TrainerConfig::default()
        };
        let task = Denoising {
            values: data.values.iter().map(|&v| v as f32).collect(),
            schedule: NoiseScheduleConfig::new()
                .init()
                .map_err(ClaimError::experiment)?,
            draw: SeededNoise::new(seed, 1),
        };
        let trainer = Trainer::new(config, task, layers);
        let mut trainer = trainer.map_err(ClaimError::experiment)?;
        trainer
            .run(None, &mut |_| ControlFlow::Continue(()))
            .map_err(ClaimError::experiment)?;
        Ok(Self {
            layers: trainer.model().valid(),
        })
    }
}

/// Predicting the noise of noised rows.
struct Denoising {
    values: Vec<f32>,
    schedule: NoiseSchedule,
    draw: SeededNoise,
}

impl Task for Denoising {
    type Model = Layers;
    /// The noised rows, their times, and the noise.
    type Batch = (Tensor<2>, Tensor<1>, Tensor<2>);
    type Report = ();

    fn batch(&mut self, learner: &Learner<Layers>) -> Result<Self::Batch, TrainingError> {
        let device = learner.device();
        let count = self.values.len() / NUMBERS;
        let mut rows = Vec::with_capacity(BATCH * NUMBERS);
        let mut steps = Vec::with_capacity(BATCH);
        for _ in 0..BATCH {
            let row = NUMBERS * self.draw.random_range(0..count);
            rows.extend_from_slice(&self.values[row..row + NUMBERS]);
            steps.push(self.draw.random_range(0..self.schedule.steps()));
        }
        let clean = Tensor::<2>::from_data(TensorData::new(rows, [BATCH, NUMBERS]), device);
        let noise = self.draw.normal([BATCH, NUMBERS], device);
        let noised = self.schedule.add_noise(clean, noise.clone(), &steps);
        Ok((noised, self.schedule.timesteps(&steps, device), noise))
    }

    fn loss(
        &mut self,
        layers: &Layers,
        (noised, times, noise): Self::Batch,
    ) -> Result<Tensor<1>, TrainingError> {
        let found = layers.forward(noised, times, BlockSet::none());
        Ok((found - noise).square().mean())
    }
}

impl Denoiser<2> for NoiseNetwork {
    fn prediction(&self) -> Prediction {
        Prediction::Epsilon
    }

    fn predict(
        &self,
        x: Tensor<2>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<2>>, OwnError> {
        only_first(conditions)?;
        let rows: Vec<_> = (0..x.dims()[0])
            .map(|row| (row, Condition::FIRST))
            .collect();
        let found = self.predict_rows_skipping(x, level, &rows, BlockSet::none())?;
        Ok(vec![found])
    }
}

impl SkippableDenoiser<2> for NoiseNetwork {
    fn blocks(&self) -> usize {
        BLOCKS
    }

    fn predict_rows_skipping(
        &self,
        x: Tensor<2>,
        level: Level,
        rows: &[(usize, Condition)],
        skipped: &BlockSet,
    ) -> Result<Tensor<2>, OwnError> {
        let times = level.times(rows.len(), &x.device());
        Ok(self.layers.forward(x, times, skipped))
    }
}
