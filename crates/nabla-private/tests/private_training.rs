//! Private trainings of real classifiers.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use nabla_private::accountant::accountants;
use nabla_private::canaries::CanaryConfig;
use nabla_private::clipping::Clipping;
use nabla_private::dicesgd::{Accounting, DiceConfig};
use nabla_private::diff2::{Diff2Config, Routine, Trust};
use nabla_private::private_training::{
    AuditedTraining, PrivacyConfig, PrivacyReport, PrivateMethod,
};
use nabla_train::cnn::CnnConfig;
use nabla_train::data_set::{DataConfig, Standardization};
use nabla_train::experiment::{Experiment, ExperimentError, ModelConfig, Outcome};
use nabla_train::gradient_source::GradientSources;
use nabla_train::mlp::MlpConfig;
use nabla_train::normalization::Normalization;
use nabla_train::optimizer::OptimizerConfig;

/// 320 of the digits, an MLP, two epochs of ten steps.
fn small() -> Experiment {
    let mut experiment = Experiment {
        data: DataConfig {
            limit: Some(320),
            standardization: Standardization::None,
            ..DataConfig::default()
        },
        model: ModelConfig::Mlp(MlpConfig { hidden: vec![16] }),
        ..Experiment::default()
    };
    experiment.training.epochs = 2;
    experiment.training.batch = 32;
    experiment.training.optimizer = OptimizerConfig::named("sgd").unwrap();
    experiment
}

fn private(epsilon: f64) -> PrivacyConfig {
    PrivacyConfig {
        epsilon: Some(epsilon),
        delta: Some(1e-4),
        accountant: "rdp".into(),
        noise_seed: Some(5),
        ..PrivacyConfig::default()
    }
}

fn run(
    experiment: &Experiment,
    sources: &impl GradientSources,
    checkpoint: Option<&Path>,
    stop: Option<usize>,
) -> Result<Outcome, ExperimentError> {
    let data = experiment.open()?;
    let device = Device::flex();
    experiment.run_with(
        sources,
        &data,
        &device,
        checkpoint,
        &mut |progress| match stop == Some(progress.step) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        },
    )
}

fn report(outcome: &Outcome) -> PrivacyReport {
    serde_json::from_value(outcome.told.clone()).unwrap()
}

fn methods() -> Vec<(PrivateMethod, usize)> {
    let paper = DiceConfig {
        accounting: Accounting::Paper,
        ..DiceConfig::default()
    };
    let local = Diff2Config {
        clients: 3,
        trust: Trust::LocalNoise,
        restart: 2,
        routine: Routine::LocalSteps {
            steps: 3,
            batch: 16,
            clip: 5.0,
            share: 0.3,
        },
        ..Diff2Config::default()
    };
    vec![
        (PrivateMethod::DpSgd {}, 32),
        (PrivateMethod::DiceSgd(DiceConfig::default()), 32),
        (PrivateMethod::DiceSgd(paper), 32),
        (PrivateMethod::Diff2(Diff2Config::default()), 320),
        (PrivateMethod::Diff2(local), 320),
    ]
}

/// An experiment whose training set has exactly 320 examples, and the method's batch.
fn of(batch: usize) -> Experiment {
    let mut experiment = small();
    experiment.training.batch = batch;
    if batch > 100 {
        experiment.training.epochs = 4;
    }
    experiment
}

#[test]
fn a_training_spends_its_budget_and_no_more() {
    for (method, batch) in methods() {
        let experiment = of(batch);
        assert_eq!(experiment.open().unwrap().training.len(), 320);
        let config = PrivacyConfig {
            method,
            ..private(3.0)
        };
        let outcome = run(&experiment, &config, None, None).unwrap();
        let told = report(&outcome);
        assert!(
            told.epsilon <= 3.0 && told.epsilon > 2.98,
            "{method:?}: {told:?}"
        );
        assert_eq!(told.steps[0], told.steps[1]);
        let accountant = accountants().get("rdp").unwrap();
        let again = accountant.epsilon(&told.history, told.delta).unwrap();
        assert_eq!(again.epsilon, told.epsilon);
        assert!(!told.secret_noise && !told.caveats.is_empty());
        assert!((0.0..=1.0).contains(&told.clipped));
        // Half of it is spent after half of the steps, or less than all.
        let half = run(&experiment, &config, None, Some(told.steps[0] as usize / 2)).unwrap();
        assert!(report(&half).epsilon < told.epsilon);
    }
}

#[test]
fn an_interrupted_training_goes_on_with_the_same_bits_and_spends_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    for (i, (method, batch)) in methods().into_iter().enumerate() {
        let experiment = of(batch);
        // The key of the system, not a seed: it is in the checkpoint until the training is done.
        let config = PrivacyConfig {
            method,
            noise_seed: None,
            ..private(8.0)
        };
        let path = folder.path().join(format!("{i}.safetensors"));
        let copy = folder.path().join(format!("{i}-copy.safetensors"));
        run(&experiment, &config, Some(&path), Some(2)).unwrap();
        assert!(bytes_of(&path).contains("\"key\":{"));
        std::fs::copy(&path, &copy).unwrap();
        let [first, second] =
            [&path, &copy].map(|path| run(&experiment, &config, Some(path), None).unwrap());
        assert_eq!(first.weights, second.weights, "{method:?}");
        assert_eq!(report(&first), report(&second));
        assert!(report(&first).epsilon <= 8.0 && report(&first).secret_noise);
        // Nothing is left with which the noise could be taken off, nor what was never released.
        let left = bytes_of(&path);
        assert!(left.contains("\"key\":null"));
        if let PrivateMethod::DiceSgd(_) = method {
            assert!(left.contains("\"memory\":[]"));
        }

        let other = PrivacyConfig {
            epsilon: Some(9.0),
            ..config.clone()
        };
        let error = run(&experiment, &other, Some(&copy), None).unwrap_err();
        assert!(error.to_string().contains("another training"), "{error}");
    }
}

fn bytes_of(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
}

/// The sum of the clipped gradients doesn't depend on how many are computed at once.
#[test]
fn virtual_batches_only_save_memory() {
    let experiment = small();
    let weights = |virtual_batch| {
        let config = PrivacyConfig {
            virtual_batch,
            ..private(3.0)
        };
        run(&experiment, &config, None, None).unwrap().weights
    };
    let values = |bytes: Vec<u8>| -> Vec<f32> {
        let begin = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let numbers = bytes[begin..].chunks_exact(4);
        numbers
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    };
    let whole = values(weights(1000));
    for size in [1, 7, 32] {
        let parts = values(weights(size));
        for (a, b) in whole.iter().zip(parts) {
            assert!((a - b).abs() < 1e-4, "{size}: {a} {b}");
        }
    }
}

/// With little noise, private training learns, with every clipping.
#[test]
fn a_large_budget_costs_little() {
    let mut experiment = small();
    experiment.data.limit = None;
    experiment.training.epochs = 6;
    for (clipping, rate) in [
        (Clipping::Flat { norm: 1.0 }, 1.0),
        (Clipping::PerLayer { norm: 1.0 }, 1.0),
        (
            Clipping::Automatic {
                norm: 1.0,
                stability: 0.01,
            },
            1.0,
        ),
    ] {
        experiment.training.optimizer.learning_rate = Some(rate);
        let config = PrivacyConfig {
            clipping,
            delta: None,
            ..private(50.0)
        };
        let outcome = run(&experiment, &config, None, None).unwrap();
        let accuracy = outcome.history.last().unwrap().test_accuracy;
        assert!(accuracy > 0.8, "{clipping:?}: {accuracy}");
        // A tenth of one in 1438, rounded down.
        assert!((report(&outcome).delta - 6e-5).abs() < 1e-12);
    }
}

#[test]
fn batch_normalisation_is_refused_by_its_name_and_group_normalisation_trains() {
    let mut experiment = small();
    let cnn = |normalization| {
        ModelConfig::Cnn(CnnConfig {
            channels: vec![4],
            normalization,
        })
    };
    experiment.model = cnn(Normalization::Batch);
    let error = run(&experiment, &private(3.0), None, None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("stages.0.norm") && error.contains("group"),
        "{error}"
    );
    for normalization in [Normalization::Group, Normalization::None] {
        experiment.model = cnn(normalization);
        run(&experiment, &private(3.0), None, Some(2)).unwrap();
    }
}

/// The audit finds no more than the accountant allows, and much of what an account of too little noise hides.
#[test]
fn an_audit_finds_less_than_is_allowed() {
    let mut experiment = small();
    experiment.data.limit = None;
    experiment.training.epochs = 10;
    experiment.training.batch = 360;
    let audited = |epsilon, method, length| {
        let sources = AuditedTraining {
            privacy: PrivacyConfig {
                method,
                ..private(epsilon)
            },
            canaries: CanaryConfig {
                length,
                ..CanaryConfig::default()
            },
            confidence: 0.95,
        };
        let outcome = run(&experiment, &sources, None, None).unwrap();
        let told = report(&outcome);
        (told.epsilon, told.audit.unwrap().epsilon)
    };
    for epsilon in [1.0, 8.0] {
        let (allowed, found) = audited(epsilon, PrivateMethod::DpSgd {}, 1.0);
        assert!(found <= allowed, "{found} {allowed}");
        // One run sees a part of a large budget.
        assert!(epsilon < 2.0 || found > 1.5, "{found}");
    }
    let dice = |accounting| {
        PrivateMethod::DiceSgd(DiceConfig {
            accounting,
            error_clip: 1.0,
            ..DiceConfig::default()
        })
    };
    // Canaries whose gradients are a hundred times as long as the clip.
    let (allowed, found) = audited(2.0, dice(Accounting::Paper), 100.0);
    assert!(found > allowed, "{found} {allowed}");
    let (allowed, found) = audited(2.0, dice(Accounting::WorstCase), 100.0);
    assert!(found <= allowed, "{found} {allowed}");
}

#[test]
fn wrong_configurations_are_refused_in_a_sentence() {
    let experiment = small();
    let told = |config: PrivacyConfig| {
        run(&experiment, &config, None, None)
            .map(|outcome| outcome.finished)
            .unwrap_err()
            .to_string()
    };
    let base = private(3.0);
    let none = PrivacyConfig {
        epsilon: None,
        ..base.clone()
    };
    assert!(told(none.clone()).contains("none is given"));
    let both = PrivacyConfig {
        noise_multiplier: Some(1.0),
        ..base.clone()
    };
    assert!(told(both).contains("both are given"));
    for (config, part) in [
        (
            PrivacyConfig {
                epsilon: Some(-1.0),
                ..base.clone()
            },
            "epsilon is -1",
        ),
        (
            PrivacyConfig {
                delta: Some(1.0),
                ..base.clone()
            },
            "delta is 1",
        ),
        (
            PrivacyConfig {
                virtual_batch: 0,
                ..base.clone()
            },
            "virtual batch is 0",
        ),
        (
            PrivacyConfig {
                accountant: "moments".into(),
                ..base.clone()
            },
            "moments",
        ),
        (
            PrivacyConfig {
                clipping: Clipping::Flat { norm: 0.0 },
                ..base.clone()
            },
            "clipped is 0",
        ),
        (
            PrivacyConfig {
                method: PrivateMethod::Diff2(Diff2Config::default()),
                ..base.clone()
            },
            "must be 320",
        ),
        (
            PrivacyConfig {
                method: PrivateMethod::DiceSgd(DiceConfig {
                    error_clip: -1.0,
                    ..DiceConfig::default()
                }),
                ..base.clone()
            },
            "error_clip of DiceSGD is -1",
        ),
        (
            PrivacyConfig {
                method: PrivateMethod::DiceSgd(DiceConfig::default()),
                noise_multiplier: Some(1.0),
                ..none
            },
            "give a budget",
        ),
    ] {
        let found = told(config);
        assert!(found.contains(part), "{found}");
    }
    // What would make a gradient depend on other examples.
    let mut dependent = small();
    dependent.data.standardization = Standardization::Auto;
    let error = run(&dependent, &base, None, None)
        .map(|o| o.finished)
        .unwrap_err();
    assert!(error.to_string().contains("standardization"), "{error}");
    let diff2 = PrivacyConfig {
        method: PrivateMethod::Diff2(Diff2Config::default()),
        clipping: Clipping::PerLayer { norm: 1.0 },
        ..base.clone()
    };
    let error = run(&of(320), &diff2, None, None)
        .map(|o| o.finished)
        .unwrap_err();
    assert!(
        error.to_string().contains("leave out the clipping"),
        "{error}"
    );
    let mut large = small();
    large.training.batch = 400;
    let error = run(&large, &base, None, None).unwrap_err().to_string();
    assert!(
        error.contains("batch of a private training is 400"),
        "{error}"
    );
}

/// Batches of one example are drawn empty about every third time: then there is a step, but no loss.
#[test]
fn an_empty_sample_has_no_loss_and_does_not_count() {
    let mut experiment = small();
    experiment.data.limit = Some(100);
    experiment.training.batch = 1;
    experiment.training.epochs = 1;
    let outcome = run(&experiment, &private(3.0), None, None).unwrap();
    let history = &outcome.history;
    let without = history.steps.iter().filter(|s| s.loss.is_none()).count();
    assert!((history.steps.len() / 5..history.steps.len() / 2).contains(&without));
    assert_eq!(history.losses().len(), history.steps.len() - without);
    assert!(history.losses().iter().all(|&loss| loss > 0.0));
    let lines = history.steps_csv();
    assert_eq!(
        lines.lines().filter(|line| line.contains(",,")).count(),
        without
    );
    assert!(history.epochs[0].training_loss > 0.5);
}
