//! Your own module and task: a network learns the sine from noisy samples.
//!
//! The trainer does the rest: the optimizer by its name, the learning rates, the clipping of gradients, the
//! average of the weights, and a checkpoint from which the training resumes with the same bits.
//!
//! ```text
//! cargo run --release -p nabla --example own_task
//! ```

use std::error::Error;
use std::ops::ControlFlow;

use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use nabla::grad::seeded_noise::{NoiseState, SeededNoise};
use nabla::train::ema::EmaConfig;
use nabla::train::{
    Averaging, ClipByNorm, Learner, OptimizerConfig, Task, Trainer, TrainerConfig, TrainingError,
    he_normal,
};

/// Two layers with a tanh between them.
#[derive(Module, Debug)]
struct Curve {
    hidden: Linear,
    output: Linear,
}

impl Curve {
    fn new(device: &Device) -> Self {
        // Biases start at 0; `he_normal` later draws the matrices from a seed.
        let layer = |inputs, outputs| {
            LinearConfig::new(inputs, outputs)
                .with_initializer(Initializer::Zeros)
                .init(device)
        };
        Self {
            hidden: layer(1, 32),
            output: layer(32, 1),
        }
    }

    /// `[batch, 1]` to `[batch, 1]`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.output.forward(self.hidden.forward(x).tanh())
    }
}

/// The function to learn. A checkpoint must store only the position in its stream of noise.
struct Sine {
    draw: SeededNoise,
}

impl Task for Sine {
    type Model = Curve;
    type Batch = [Tensor<2>; 2];
    /// The largest error on a grid.
    type Report = f32;

    fn batch(&mut self, learner: &Learner<Curve>) -> Result<[Tensor<2>; 2], TrainingError> {
        let x = self.draw.normal([64, 1], learner.device()) * 1.5;
        let noise = self.draw.normal([64, 1], learner.device()) * 0.05;
        Ok([x.clone(), x.sin() + noise]) // [batch, 1] each
    }

    fn loss(&mut self, curve: &Curve, [x, y]: [Tensor<2>; 2]) -> Result<Tensor<1>, TrainingError> {
        Ok((curve.forward(x) - y).square().mean())
    }

    fn evaluate(&mut self, curve: &Curve, step: usize) -> Result<Option<f32>, TrainingError> {
        if !step.is_multiple_of(500) {
            return Ok(None);
        }
        let grid: Vec<f32> = (-25..=25).map(|i| i as f32 / 10.0).collect();
        let device = curve.output.weight.val().device();
        let x = Tensor::<1>::from_floats(grid.as_slice(), &device).unsqueeze_dim::<2>(1);
        let error = (curve.forward(x.clone()) - x.sin()).abs().max();
        Ok(Some(error.into_scalar()))
    }

    fn state(&self) -> Result<Vec<u8>, TrainingError> {
        serde_json::to_vec(&self.draw.state()).map_err(TrainingError::task)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), TrainingError> {
        let state: NoiseState = serde_json::from_slice(state).map_err(TrainingError::task)?;
        self.draw = SeededNoise::from_state(state);
        Ok(())
    }
}

fn trainer() -> Result<Trainer<Sine>, Box<dyn Error>> {
    let config = TrainerConfig {
        steps: 2000,
        optimizer: OptimizerConfig {
            learning_rate: Some(1e-2),
            ..OptimizerConfig::named("adabelief")?
        },
        averaging: Some(Averaging {
            ema: EmaConfig::new().with_decay(0.99),
            every: 1,
        }),
        ..TrainerConfig::default()
    };
    let task = Sine {
        draw: SeededNoise::new(7, 1),
    };
    let curve = he_normal(Curve::new(&Device::flex().autodiff()), 7)?;
    Ok(Trainer::new(config, task, curve)?.with_transform(ClipByNorm(1.0)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("sine.safetensors");
    let mut broken_off = trainer()?;
    broken_off.run(Some(&path), &mut |progress| {
        if progress.step == 700 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    let mut resumed = trainer()?.resume(&path)?;
    resumed.run(None, &mut |progress| {
        if let Some(error) = progress.epoch {
            println!(
                "after {} steps the largest error is {error:.3}",
                progress.step
            );
        }
        ControlFlow::Continue(())
    })?;
    assert!(resumed.history().last().is_some_and(|&error| error < 0.1));

    let mut whole = trainer()?;
    whole.run(None, &mut |_| ControlFlow::Continue(()))?;
    assert_eq!(whole.history().steps, resumed.history().steps);
    println!("2000 steps at once are 700, a checkpoint and 1300, to the bit");
    Ok(())
}
