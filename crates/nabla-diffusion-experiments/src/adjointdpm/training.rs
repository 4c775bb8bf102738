//! The model of digits and the classifier.

use std::ops::ControlFlow;

use burn::module::Module;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_claims::ClaimError;
use nabla_diffusion::denoiser::Prediction;
use nabla_diffusion::level::{Level, NoisePath};
use nabla_diffusion::vp_path::VpPath;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::classifier::Classifier;
use nabla_train::error::TrainingError;
use nabla_train::initialization::he_normal;
use nabla_train::learner::Learner;
use nabla_train::mlp::{Mlp, MlpConfig};
use nabla_train::optimizer::OptimizerConfig;
use nabla_train::schedule::{Decay, Schedule};
use nabla_train::task::Task;
use nabla_train::trainer::{Trainer, TrainerConfig};
use rand::RngExt;

use super::digit_network::DigitNetwork;
use crate::digits::{CLASSES, Digits, PIXELS};

/// Digits of a batch.
const BATCH: usize = 128;

/// Is called after a step.
type Stepped<'a> = &'a mut dyn FnMut() -> ControlFlow<()>;

/// A network of the velocity on the variance-preserving path, under the class of a digit; on an autodiff device.
pub(super) fn trained_network(
    digits: &Digits,
    steps: usize,
    seed: u64,
    device: &Device,
    stepped: Stepped<'_>,
) -> Result<DigitNetwork, ClaimError> {
    let task = Denoising {
        digits,
        draw: SeededNoise::new(seed, 1),
    };
    let network = DigitNetwork::new(seed, &device.clone().autodiff())?;
    trained(task, network, steps, stepped)
}

/// A classifier with one hidden layer.
pub(super) fn trained_classifier(
    digits: &Digits,
    steps: usize,
    seed: u64,
    device: &Device,
    stepped: Stepped<'_>,
) -> Result<Mlp, ClaimError> {
    let task = Classification {
        digits,
        draw: SeededNoise::new(seed, 2),
    };
    let config = MlpConfig { hidden: vec![64] };
    let classifier = config.init(PIXELS, CLASSES, &device.clone().autodiff());
    let classifier = classifier.map_err(ClaimError::experiment)?;
    let classifier = he_normal(classifier, seed).map_err(ClaimError::experiment)?;
    Ok(trained(task, classifier, steps, stepped)?.valid())
}

fn trained<T: Task>(
    task: T,
    model: T::Model,
    steps: usize,
    stepped: Stepped<'_>,
) -> Result<T::Model, ClaimError> {
    // Adam at a rate that falls to 0.
    let config = TrainerConfig {
        steps,
        schedule: Schedule {
            decay: Decay::Cosine { floor: 0.0 },
            warmup: 0.05,
            warmup_steps: None,
        },
        optimizer: OptimizerConfig {
            learning_rate: Some(1e-3),
            ..OptimizerConfig::default()
        },
        ..TrainerConfig::default()
    };
    let mut trainer = Trainer::new(config, task, model).map_err(ClaimError::experiment)?;
    let run = trainer.run(None, &mut |_| stepped());
    run.map_err(ClaimError::experiment)?;
    Ok(trainer.model().clone())
}

/// The mean of `−ln p(class)`.
///
/// - `logits`: `[batch, CLASSES]`
pub(super) fn cross_entropy(logits: Tensor<2>, classes: &[usize]) -> Tensor<1> {
    let chosen = classes.iter().flat_map(|&class| {
        let share = -1.0 / classes.len() as f32;
        (0..CLASSES).map(move |k| if k == class { share } else { 0.0 })
    });
    let data = TensorData::new(chosen.collect::<Vec<f32>>(), [classes.len(), CLASSES]);
    let chosen = Tensor::<2>::from_data(data, &logits.device());
    (log_softmax(logits, 1) * chosen).sum()
}

fn chosen(draw: &mut SeededNoise, digits: &Digits) -> Vec<usize> {
    (0..BATCH)
        .map(|_| draw.random_range(0..digits.len()))
        .collect()
}

/// `L = ‖v_θ(x_t, t, c) − v‖²`, `t` uniform.
struct Denoising<'a> {
    digits: &'a Digits,
    draw: SeededNoise,
}

struct Noisy {
    x: Tensor<2>,
    target: Tensor<2>,
    times: Tensor<1>,
    classes: Vec<usize>,
}

impl Task for Denoising<'_> {
    type Model = DigitNetwork;
    type Batch = Noisy;
    type Report = ();

    fn batch(&mut self, learner: &Learner<DigitNetwork>) -> Result<Noisy, TrainingError> {
        let device = learner.device();
        let chosen = chosen(&mut self.draw, self.digits);
        let classes = chosen.iter().map(|&i| self.digits.classes[i]).collect();
        let data = self.digits.rows(chosen.into_iter(), device);
        let epsilon = self.draw.normal([BATCH, PIXELS], device);
        let shift: f64 = self.draw.random();
        let path = VpPath::new();
        let [first, last] = path.times();
        let levels: Vec<Level> = (0..BATCH)
            .map(|i| first + (last - first) * (i as f64 + shift) / BATCH as f64)
            .map(|time| path.level_at(time))
            .collect();
        let column = |value: fn(Level) -> f64| -> Tensor<2> {
            let values: Vec<f32> = levels.iter().map(|&level| value(level) as f32).collect();
            Tensor::<1>::from_floats(values.as_slice(), device).reshape([BATCH, 1])
        };
        let (signal, noise) = (column(Level::signal), column(Level::noise));
        let x = data.clone() * signal.clone() + epsilon.clone() * noise.clone();
        Ok(Noisy {
            x,
            target: Prediction::Velocity.target_at(data, epsilon, signal, noise),
            times: column(Level::time).reshape([BATCH]),
            classes,
        })
    }

    fn loss(&mut self, network: &DigitNetwork, batch: Noisy) -> Result<Tensor<1>, TrainingError> {
        let condition = network.conditions(&batch.classes);
        let found = network.forward(batch.x, batch.times, condition);
        Ok((found - batch.target).square().mean())
    }
}

struct Classification<'a> {
    digits: &'a Digits,
    draw: SeededNoise,
}

impl Task for Classification<'_> {
    type Model = Mlp;
    type Batch = (Tensor<2>, Vec<usize>);
    type Report = ();

    fn batch(&mut self, learner: &Learner<Mlp>) -> Result<Self::Batch, TrainingError> {
        let chosen = chosen(&mut self.draw, self.digits);
        let classes = chosen.iter().map(|&i| self.digits.classes[i]).collect();
        let rows = self.digits.rows(chosen.into_iter(), learner.device());
        Ok((rows, classes))
    }

    fn loss(
        &mut self,
        classifier: &Mlp,
        (rows, classes): Self::Batch,
    ) -> Result<Tensor<1>, TrainingError> {
        Ok(cross_entropy(classifier.logits(rows), &classes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cross_entropy_is_the_mean_of_the_logarithms() {
        let device = Device::flex();
        // All classes alike, and one that is certain.
        let mut logits = vec![0.0f32; 2 * CLASSES];
        logits[CLASSES + 3] = 100.0;
        let logits = Tensor::<2>::from_data(TensorData::new(logits, [2, CLASSES]), &device);
        let found = cross_entropy(logits, &[5, 3]).into_scalar::<f64>();
        assert!((found - 0.5 * 10f64.ln()).abs() < 1e-5, "{found}");
    }
}
