//! Trainings by several workers.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use nabla_grad::sketch::SketchFamily;
use nabla_share::data_parallel::{Compression, SharingConfig, SharingReport, train};
use nabla_train::classification::TrainingConfig;
use nabla_train::data_set::DataConfig;
use nabla_train::experiment::{Experiment, ExperimentError, ModelConfig, Outcome};
use nabla_train::mlp::MlpConfig;

/// 300 of the digits in batches of 50, a small MLP, four epochs: 24 steps.
pub fn small() -> Experiment {
    Experiment {
        data: DataConfig {
            limit: Some(300),
            ..DataConfig::default()
        },
        model: ModelConfig::Mlp(MlpConfig { hidden: vec![16] }),
        training: TrainingConfig {
            epochs: 4,
            batch: 50,
            ..TrainingConfig::default()
        },
        ..Experiment::default()
    }
}

fn by(workers: usize, compression: Compression) -> SharingConfig {
    SharingConfig {
        workers,
        compression,
        time_limit: 60.0,
        ..SharingConfig::default()
    }
}

fn run(
    experiment: &Experiment,
    config: &SharingConfig,
    checkpoint: Option<&Path>,
    stop: Option<usize>,
) -> Result<Outcome, ExperimentError> {
    let data = experiment.open()?;
    train(
        experiment,
        config,
        &data,
        &Device::flex(),
        checkpoint,
        &mut |progress| match stop == Some(progress.step) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        },
    )
}

fn report(outcome: &Outcome) -> SharingReport {
    serde_json::from_value(outcome.told.clone()).unwrap()
}

const fn sketch(share: f64, family: SketchFamily) -> Compression {
    Compression::Sketch { share, family }
}

/// With local steps.
fn local(steps: usize, compression: Compression) -> SharingConfig {
    SharingConfig {
        local_steps: steps,
        ..by(2, compression)
    }
}

const COMPRESSIONS: [Compression; 6] = [
    Compression::None,
    Compression::RandK { share: 0.3 },
    Compression::TopK { share: 0.1 },
    sketch(0.3, SketchFamily::Count),
    Compression::Natural,
    Compression::Qsgd { levels: 64 },
];

#[test]
fn one_worker_trains_as_without_workers() {
    let experiment = small();
    let go = &mut |_: nabla_train::trainer::Progress<'_>| ControlFlow::Continue(());
    let plain = experiment.run(&Device::flex(), None, go).unwrap();
    let one = run(&experiment, &by(1, Compression::None), None, None).unwrap();
    assert_eq!(one.weights, plain.weights);
    assert_eq!(one.history.epochs, plain.history.epochs);
    // The same up to the order of sums.
    for workers in [2, 3, 7] {
        let several = run(&experiment, &by(workers, Compression::None), None, None).unwrap();
        let [a, b] = [&several, &plain].map(|o| o.history.last().unwrap().test_loss);
        assert!((a - b).abs() < 1e-4, "{workers}: {a} {b}");
    }
}

#[test]
fn every_compression_learns_with_fewer_bytes_and_the_same_bits_again() {
    let mut experiment = small();
    experiment.data.limit = None;
    experiment.training.epochs = 6;
    experiment.training.optimizer.learning_rate = Some(1e-2);
    for compression in COMPRESSIONS {
        let outcome = run(&experiment, &by(3, compression), None, None).unwrap();
        let again = run(&experiment, &by(3, compression), None, None).unwrap();
        assert_eq!(outcome.weights, again.weights, "{compression:?}");
        let accuracy = outcome.history.last().unwrap().test_accuracy;
        assert!(accuracy > 0.75, "{compression:?}: {accuracy}");
        let told = report(&outcome);
        assert_eq!(told.steps, 6 * 29);
        let plain = told.plain_bytes as f64;
        match compression {
            // A header of 18 bytes, and bytes for the step.
            Compression::None => assert!((told.message_bytes - plain).abs() < 32.0),
            _ => assert!(
                told.message_bytes < 0.5 * plain,
                "{compression:?}: {told:?}"
            ),
        }
        // Two messages come to worker 0, which sends three to each of two.
        let [sent, received] = told.leader_bytes.map(|bytes| bytes as f64);
        let all = told.steps as f64 * told.message_bytes;
        assert!((received / (2.0 * all) - 1.0).abs() < 0.05, "{told:?}");
        assert!((sent / (6.0 * all) - 1.0).abs() < 0.05, "{told:?}");
    }
}

#[test]
fn interrupted_workers_go_on_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = small();
    for (i, compression) in COMPRESSIONS.into_iter().enumerate() {
        let config = by(3, compression);
        let whole = run(&experiment, &config, None, None).unwrap();
        let path = folder.path().join(format!("{i}.safetensors"));
        let part = run(&experiment, &config, Some(&path), Some(8)).unwrap();
        assert!(!part.finished);
        let resumed = run(&experiment, &config, Some(&path), None).unwrap();
        assert_eq!(resumed.weights, whole.weights, "{compression:?}");
        assert_eq!(report(&resumed).message_bytes, report(&whole).message_bytes);
    }
}

/// With the identity as the sketch, one worker's local steps are those of batches as small as its pieces.
#[test]
fn local_steps_are_steps_along_the_pieces_of_a_batch() {
    let mut small = small();
    small.training.optimizer = nabla_train::optimizer::OptimizerConfig::named("sgd").unwrap();
    small.training.optimizer.learning_rate = Some(0.1);
    small.training.schedule.decay = nabla_train::schedule::Decay::Constant;
    small.training.batch = 20;
    let whole = sketch(1.0, SketchFamily::Identity);
    let pieces = run(&small, &by(1, Compression::None), None, None).unwrap();
    small.training.batch = 60;
    let config = SharingConfig {
        workers: 1,
        ..local(3, whole)
    };
    let rounds = run(&small, &config, None, None).unwrap();
    assert_eq!(3 * rounds.history.steps.len(), pieces.history.steps.len());
    let [a, b] = [&rounds, &pieces].map(|o| o.history.last().unwrap().test_loss);
    assert!((a - b).abs() < 1e-4, "{a} {b}");
}

#[test]
fn sketches_of_every_family_learn_with_local_steps_and_go_on_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let mut small = small();
    small.training.optimizer = nabla_train::optimizer::OptimizerConfig::named("sgd").unwrap();
    small.training.optimizer.learning_rate = Some(0.02);
    for (name, family) in [
        ("gaussian", SketchFamily::Gaussian),
        ("ams", SketchFamily::Ams),
        ("count", SketchFamily::Count),
        ("sparse", SketchFamily::Sparse { blocks: 4 }),
        ("srht", SketchFamily::Srht),
    ] {
        // 367 of 1210 numbers are none of 4 blocks.
        let config = local(5, sketch(0.3, family));
        let whole = run(&small, &config, None, None).unwrap();
        let path = folder.path().join(format!("{name}.safetensors"));
        run(&small, &config, Some(&path), Some(8)).unwrap();
        let resumed = run(&small, &config, Some(&path), None).unwrap();
        assert_eq!(resumed.weights, whole.weights, "{name}");
        let losses = &whole.history.epochs;
        assert!(
            losses[3].test_loss < losses[0].test_loss,
            "{name}: {losses:?}"
        );
        let told = report(&whole);
        assert_eq!((told.local_steps, told.steps), (5, 24));
        assert!(told.message_bytes < 0.32 * told.plain_bytes as f64);
    }
}

#[test]
fn wrong_numbers_are_refused() {
    let experiment = small();
    for (config, part) in [
        (by(0, Compression::None), "number of workers is 0"),
        (
            by(2, Compression::RandK { share: 0.0 }),
            "share of the compression is 0",
        ),
        (
            by(2, sketch(1.5, SketchFamily::Srht)),
            "share of the compression is 1.5",
        ),
        (
            by(2, Compression::Qsgd { levels: 0 }),
            "levels of the compression is 0",
        ),
        (
            local(2, Compression::Natural),
            "2 local steps between two messages are for sketches",
        ),
        (
            local(0, sketch(0.1, SketchFamily::Srht)),
            "number of local steps is 0",
        ),
        (
            local(26, sketch(0.1, SketchFamily::Srht)),
            "at most 25, the examples of a worker in a batch",
        ),
        (
            by(2, sketch(0.1, SketchFamily::Sparse { blocks: 0 })),
            "number of blocks",
        ),
    ] {
        let error = run(&experiment, &config, None, None)
            .map(|o| o.finished)
            .unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    // Some would have nothing to do.
    let mut few = small();
    few.training.batch = 3;
    few.training.epochs = 1;
    let error = run(&few, &by(5, Compression::None), None, None)
        .map(|o| o.finished)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("at most 3, the examples of a batch"),
        "{error}"
    );
    // Batches of 3 of 100 leave one for the last.
    few.data.limit = Some(100);
    assert!(
        run(&few, &by(3, Compression::None), None, None)
            .unwrap()
            .finished
    );
}

/// What is told is why a worker failed, not that it has ended.
#[test]
fn a_training_that_runs_away_says_so() {
    let mut experiment = small();
    experiment.training.optimizer = nabla_train::optimizer::OptimizerConfig::named("sgd").unwrap();
    experiment.training.optimizer.learning_rate = Some(1e30);
    let error = run(&experiment, &by(2, Compression::None), None, None)
        .map(|o| o.finished)
        .unwrap_err();
    assert!(
        error.to_string().contains("finite") && error.is_failure(),
        "{error}"
    );
}
