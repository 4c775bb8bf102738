use super::*;
use std::ops::ControlFlow;

use burn::tensor::Device;
use nabla_train::data_set::{DataConfig, Standardization};
use nabla_train::experiment::{Experiment, ModelConfig};
use nabla_train::gradient_source::GradientSources;
use nabla_train::mlp::MlpConfig;
use nabla_train::optimizer::OptimizerConfig;
use nabla_train::schedule::Decay;

use crate::clipping::Clipping;

/// DIFF2 without noise.
struct Noiseless {
    method: Diff2Config,
    clip: f64,
}

impl GradientSources for Noiseless {
    fn source<M: Classifier + 'static>(
        &self,
        _model: &M,
        plan: Plan,
    ) -> Result<Option<Box<dyn GradientSource<M>>>, TrainingError> {
        let config = PrivacyConfig {
            epsilon: Some(1.0),
            clipping: Clipping::Flat { norm: self.clip },
            ..PrivacyConfig::default()
        };
        let key = NoiseKey::from_seed(0);
        let source = Diff2Gradients::new(self.method, config, plan, [0.0; 3], key);
        Ok(Some(Box::new(source)))
    }
}

fn descend(sources: &impl GradientSources) -> Vec<f64> {
    let mut experiment = Experiment {
        data: DataConfig {
            limit: Some(80),
            standardization: Standardization::None,
            ..DataConfig::default()
        },
        model: ModelConfig::Mlp(MlpConfig { hidden: vec![8] }),
        ..Experiment::default()
    };
    experiment.training.epochs = 12;
    experiment.training.batch = 80;
    experiment.training.optimizer = OptimizerConfig::named("sgd").unwrap();
    experiment.training.optimizer.learning_rate = Some(0.5);
    experiment.training.schedule.decay = Decay::Constant;
    let data = experiment.open().unwrap();
    assert_eq!(data.training.len(), 80);
    let mut losses = Vec::new();
    let outcome = experiment.run_with(sources, &data, &Device::flex(), None, &mut |progress| {
        losses.extend(progress.record.loss.map(f64::from));
        ControlFlow::Continue(())
    });
    // Without noise there is no account, but there was a training.
    assert!(outcome.is_ok() || losses.len() == 12);
    losses
}

/// Without noise and clipping, the differences add up to the gradient: every method is gradient descent.
#[test]
fn without_noise_and_clipping_it_is_gradient_descent() {
    let plain = descend(&nabla_train::gradient_source::OfBatches);
    assert!(plain[11] < 0.95 * plain[0]);
    for (restart, routine) in [
        (1, Routine::GradientDescent),
        (5, Routine::GradientDescent),
        // One local step along v is the optimizer's.
        (
            4,
            Routine::LocalSteps {
                steps: 1,
                batch: 8,
                clip: 1e9,
                share: 0.5,
            },
        ),
    ] {
        let method = Diff2Config {
            difference_clip: 1e9,
            restart,
            routine,
            ..Diff2Config::default()
        };
        let found = descend(&Noiseless { method, clip: 1e9 });
        for (found, plain) in found.iter().zip(&plain) {
            assert!(
                (found - plain).abs() < 1e-4,
                "{restart} {routine:?}: {found} {plain}"
            );
        }
    }
}

/// Several local steps on all of the data are steps of descent.
#[test]
fn local_steps_go_further() {
    let plain = descend(&nabla_train::gradient_source::OfBatches);
    let method = Diff2Config {
        difference_clip: 1e9,
        restart: 1,
        routine: Routine::LocalSteps {
            steps: 4,
            batch: 80,
            clip: 1e9,
            share: 0.5,
        },
        ..Diff2Config::default()
    };
    let found = descend(&Noiseless { method, clip: 1e9 });
    // Three rounds of four steps, from a training that has made twelve.
    assert!(
        (found[2] - plain[8]).abs() < 0.05 * plain[8],
        "{} {}",
        found[2],
        plain[8]
    );
}

#[test]
fn the_noises_share_the_budget() {
    let config = Diff2Config {
        restart: 4,
        ..Diff2Config::default()
    };
    let [whole, differences, local] = config.multipliers(10, 2.0, 100);
    // Three restarts, seven differences: μ² = 1/4.
    let spent = 3.0 / whole.powi(2) + 7.0 / differences.powi(2);
    assert!((spent - 0.25).abs() < 1e-12 && local == 0.0);
    let history = config
        .history([whole, differences, local], 10, 100)
        .unwrap();
    let counted: f64 = history
        .phases()
        .iter()
        .map(|phase| phase.steps() as f64 / phase.noise_multiplier().powi(2))
        .sum();
    assert!((counted - 0.25).abs() < 1e-12);
}
