//! Your own gradient transform: noise on the gradient that fades (Neelakantan et al. 2015, arXiv
//! 1511.06807). Checkpoints store the position in the stream of noise.
//!
//! ```text
//! g ← g + N(0, σ²),    σ² = η/(1 + t)^γ
//! ```
//!
//! ```text
//! cargo run --release -p nabla --example own_gradient_transform
//! ```

use std::error::Error;
use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::Device;
use nabla::grad::seeded_noise::{NoiseState, SeededNoise};
use nabla::train::{
    ClipByNorm, DataConfig, GradientTransform, Gradients, MlpConfig, OptimizerConfig,
    TrainingConfig, TrainingError, he_normal,
};

struct FadingNoise {
    eta: f64,
    gamma: f64,
    draw: SeededNoise,
}

impl<M: Module> GradientTransform<M> for FadingNoise {
    fn name(&self) -> &str {
        "fading-noise"
    }

    fn apply(&mut self, gradients: &mut Gradients<'_, M>) -> Result<(), TrainingError> {
        let variance = self.eta / (1.0 + gradients.step() as f64).powf(self.gamma);
        gradients.map_flat(|g| {
            let noise = self.draw.normal(g.dims(), &g.device()); // [d]
            Ok(g + noise * variance.sqrt())
        })
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!({ "eta": self.eta, "gamma": self.gamma })
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

fn main() -> Result<(), Box<dyn Error>> {
    let data = DataConfig::default().open()?; // the built-in digits
    let config = TrainingConfig {
        epochs: 4,
        optimizer: OptimizerConfig {
            learning_rate: Some(3e-3),
            ..OptimizerConfig::default()
        },
        ..TrainingConfig::default()
    };
    let trainer = || -> Result<_, Box<dyn Error>> {
        let device = Device::flex().autodiff();
        let model =
            MlpConfig::default().init(data.shape.features(), data.classes.len(), &device)?;
        let model = he_normal(model, config.seed)?;
        let trainer = config.trainer(&data.training, &data.test, data.shape, model)?;
        Ok(trainer
            .with_transform(FadingNoise {
                eta: 1e-4,
                gamma: 0.55,
                draw: SeededNoise::new(config.seed, 99),
            })
            .with_transform(ClipByNorm(1.0)))
    };
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("noisy.safetensors");
    let mut part = trainer()?;
    part.run(Some(&path), &mut |progress| {
        if progress.step == 30 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    let mut whole = trainer()?;
    whole.run(None, &mut |_| ControlFlow::Continue(()))?;
    let mut resumed = trainer()?.resume(&path)?;
    resumed.run(None, &mut |_| ControlFlow::Continue(()))?;
    // The noise continues where it stopped, too.
    assert_eq!(resumed.history().steps, whole.history().steps);
    let accuracy = whole.history().last().map_or(0.0, |e| e.test_accuracy);
    println!("{:.1} % right with noise on the gradient", 100.0 * accuracy);
    assert!(accuracy > 0.8);
    Ok(())
}
