//! The diffusion model with a branch for the structure and one for the appearance.

use std::ops::ControlFlow;

use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData, activation};
use nabla_claims::{Bench, ClaimError};
use nabla_diffusion::ddim::Ddim;
use nabla_diffusion::denoiser::{Prediction, denoiser};
use nabla_diffusion::filter_prompt::Pixels;
use nabla_diffusion::level::Level;
use nabla_diffusion::sampler::Sampler;
use nabla_diffusion::schedule::{BetaSchedule, NoiseSchedule, NoiseScheduleConfig, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_train::{
    Learner, OptimizerConfig, Task, Trainer, TrainerConfig, TrainingError, he_normal,
};

use super::shapes::{SIDE, Shapes};

/// The numbers of a picture, of the structure (its brightness) and of the appearance (4 x 4 in colour), and one
/// number each that says whether it is given.
const PICTURE: usize = 3 * SIDE * SIDE;
const STRUCTURE: usize = SIDE * SIDE + 1;
const APPEARANCE: usize = PICTURE / 4 + 1;
/// How often a condition is left out.
const DROPOUT: f32 = 0.15;
/// The training steps of the noise, and the numbers that encode one.
const TIMES: usize = 100;
const TIME: usize = 16;

#[derive(Clone, Copy, Debug)]
pub(super) struct Training {
    pub(super) steps: usize,
    pub(super) batch: usize,
    pub(super) width: usize,
}

/// The condition that is left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Dropped {
    None,
    Structure,
    Appearance,
}

/// Three residual layers, from the noisy picture, the conditions and the time to the clean picture.
#[derive(Module, Debug)]
struct Layers {
    input: Linear,
    hidden: Vec<Linear>,
    output: Linear,
}

impl Layers {
    fn new(width: usize, device: &Device) -> Self {
        let layer = |inputs, outputs| {
            LinearConfig::new(inputs, outputs)
                .with_initializer(Initializer::Zeros)
                .init(device)
        };
        Self {
            input: layer(PICTURE + STRUCTURE + APPEARANCE + TIME, width),
            hidden: (0..3).map(|_| layer(width, width)).collect(),
            output: layer(width, PICTURE),
        }
    }

    /// `[batch, 192 + 65 + 49 + 16]` to `[batch, 192]`.
    fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let mut x = self.input.forward(input);
        for layer in &self.hidden {
            x = x.clone() + layer.forward(activation::silu(x));
        }
        self.output.forward(activation::silu(x))
    }
}

/// Sines and cosines of the share of the time, for one row.
fn encoded(time: f64) -> [f32; TIME] {
    std::array::from_fn(|i| {
        let angle = time / TIMES as f64 * std::f64::consts::PI * f64::from(1 << (i / 2));
        let encoded = if i % 2 == 0 { angle.sin() } else { angle.cos() };
        encoded as f32
    })
}

/// The conditions of a picture for each branch, with what is left out as zeros.
fn conditions(structure: &Pixels, appearance: &Pixels, dropped: Dropped) -> Vec<f32> {
    let kept = |branch: Dropped| f32::from(u8::from(dropped != branch));
    let mut row = Vec::with_capacity(STRUCTURE + APPEARANCE);
    let given = kept(Dropped::Structure);
    row.extend(
        structure
            .brightness()
            .iter()
            .map(|v| given * (2.0 * v - 1.0)),
    );
    row.push(given);
    let given = kept(Dropped::Appearance);
    for channel in 0..3 {
        for y in 0..SIDE / 2 {
            for x in 0..SIDE / 2 {
                let of = |dy, dx| appearance.get(channel, 2 * y + dy, 2 * x + dx);
                let mean = (of(0, 0) + of(0, 1) + of(1, 0) + of(1, 1)) / 4.0;
                row.push(given * (2.0 * mean - 1.0));
            }
        }
    }
    row.push(given);
    row
}

fn schedule() -> Result<NoiseSchedule, ClaimError> {
    NoiseScheduleConfig::new()
        .with_steps(TIMES)
        .with_betas(BetaSchedule::Cosine {
            offset: 0.008,
            max_beta: 0.999,
        })
        .init()
        .map_err(ClaimError::experiment)
}

/// Both conditions of a training picture are its own.
struct Learning {
    shapes: Shapes,
    noise: SeededNoise,
    schedule: NoiseSchedule,
    batch: usize,
}

impl Task for Learning {
    type Model = Layers;
    /// Input and clean picture.
    type Batch = [Tensor<2>; 2];
    type Report = ();

    fn batch(&mut self, learner: &Learner<Layers>) -> Result<Self::Batch, TrainingError> {
        let device = learner.device();
        let noise = self.noise.normal([self.batch, PICTURE], device);
        let noise: Vec<f32> = noise.try_into_vec_as().map_err(TrainingError::task)?;
        let width = PICTURE + STRUCTURE + APPEARANCE + TIME;
        let (mut inputs, mut clean) = (Vec::with_capacity(self.batch * width), Vec::new());
        for noise in noise.chunks(PICTURE) {
            let [time, first, second] = [0, 1, 2].map(|_| self.shapes.share());
            let time = ((time * TIMES as f32) as usize).min(TIMES - 1);
            let picture = self.shapes.draw().pixels();
            let values: Vec<f32> = picture.values().iter().map(|v| 2.0 * v - 1.0).collect();
            let level = self.schedule.level(time);
            let (signal, sigma) = (level.signal() as f32, level.noise() as f32);
            inputs.extend(
                values
                    .iter()
                    .zip(noise)
                    .map(|(x, n)| signal * x + sigma * n),
            );
            let mut row = conditions(&picture, &picture, Dropped::None);
            if first < DROPOUT {
                row[..STRUCTURE].fill(0.0);
            }
            if second < DROPOUT {
                row[STRUCTURE..].fill(0.0);
            }
            inputs.extend(row);
            inputs.extend(encoded(level.time()));
            clean.extend(values);
        }
        let tensor = |values: Vec<f32>, width: usize| {
            Tensor::<2>::from_data(TensorData::new(values, [self.batch, width]), device)
        };
        Ok([tensor(inputs, width), tensor(clean, PICTURE)])
    }

    fn loss(
        &mut self,
        model: &Layers,
        [input, clean]: Self::Batch,
    ) -> Result<Tensor<1>, TrainingError> {
        Ok((model.forward(input) - clean).square().mean())
    }

    /// A cell is trained in one piece.
    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        Ok(Vec::new())
    }

    fn restore(&mut self, _: &[u8]) -> Result<(), TrainingError> {
        Err(TrainingError::task(
            "a cell of the experiment is not resumed",
        ))
    }
}

/// The trained model.
pub(super) struct Network {
    layers: Layers,
    schedule: NoiseSchedule,
    device: Device,
}

impl Network {
    pub(super) fn trained(
        bench: &Bench<'_>,
        training: Training,
        seed: u64,
    ) -> Result<Self, ClaimError> {
        let device = bench.context().device.clone();
        let optimizer = OptimizerConfig::named("adam").map_err(ClaimError::experiment)?;
        let config = TrainerConfig {
            steps: training.steps,
            optimizer: OptimizerConfig {
                learning_rate: Some(2e-3),
                ..optimizer
            },
            ..TrainerConfig::default()
        };
        let task = Learning {
            shapes: Shapes::new(seed, 0),
            noise: SeededNoise::new(seed, 1),
            schedule: schedule()?,
            batch: training.batch,
        };
        let layers = Layers::new(training.width, &device.clone().autodiff());
        let layers = he_normal(layers, seed).map_err(ClaimError::experiment)?;
        let mut trainer = Trainer::new(config, task, layers).map_err(ClaimError::experiment)?;
        trainer
            .run(None, &mut |_| {
                bench.progress().advance(1);
                ControlFlow::Continue(())
            })
            .map_err(ClaimError::experiment)?;
        Ok(Self {
            layers: trainer.model().clone().valid(),
            schedule: schedule()?,
            device,
        })
    }

    /// A picture for each pair of guiding pictures, from the same noise for every call with a seed.
    pub(super) fn drawn(
        &self,
        guides: &[[Pixels; 2]],
        dropped: Dropped,
        steps: usize,
        seed: u64,
    ) -> Result<Vec<Pixels>, ClaimError> {
        let rows = guides.len();
        let given = guides
            .iter()
            .flat_map(|[structure, appearance]| conditions(structure, appearance, dropped));
        let given = TensorData::new(given.collect(), [rows, STRUCTURE + APPEARANCE]);
        let given = Tensor::<2>::from_data(given, &self.device);
        let model = denoiser(Prediction::Sample, |x: Tensor<2>, level: Level| {
            let time = Tensor::<1>::from_floats(encoded(level.time()), &self.device);
            let time = time.unsqueeze::<2>().repeat_dim(0, rows);
            self.layers
                .forward(Tensor::cat(vec![x, given.clone(), time], 1))
        });
        let levels = self.schedule.respace(Spacing::Trailing, steps);
        let levels = levels.map_err(ClaimError::experiment)?;
        let sampler = Sampler::new(Ddim::new(), levels).map_err(ClaimError::experiment)?;
        let mut noise = SeededNoise::new(seed, 2);
        let start = noise.normal([rows, PICTURE], &self.device);
        let drawn = sampler.sample(&model, start, &mut noise);
        let drawn = drawn.map_err(ClaimError::experiment)?;
        let values: Vec<f32> = drawn.try_into_vec_as().map_err(ClaimError::experiment)?;
        Ok(values
            .chunks(PICTURE)
            .map(|row| {
                Pixels::from_fn(3, SIDE, SIDE, |c, y, x| {
                    ((row[(c * SIDE + y) * SIDE + x] + 1.0) / 2.0).clamp(0.0, 1.0)
                })
            })
            .collect())
    }
}
