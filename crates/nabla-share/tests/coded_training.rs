//! Trainings by workers whose gradients are coded.

use std::ops::ControlFlow;
use std::path::Path;
use std::thread;

use burn::tensor::Device;
use nabla_share::coded_training::{CodedOutcome, Coding, CodingConfig, train, train_on};
use nabla_share::communicator::Communicator;
use nabla_share::communicator::faults::{Faults, Faulty};
use nabla_share::communicator::threads::connected;
use nabla_share::sequential_gradient_coding::CodeKind;
use nabla_train::experiment::{Experiment, ExperimentError, Outcome};
use nabla_train::trainer::Progress;

use crate::data_parallel::small;

fn by(workers: usize, coding: Coding) -> CodingConfig {
    CodingConfig {
        workers,
        coding,
        time_limit: 60.0,
        ..CodingConfig::default()
    }
}

/// Each takes another number of rounds for a gradient: 1, 2 and 3.
const CODINGS: [Coding; 3] = [
    Coding::Gc { stragglers: 1 },
    Coding::SrSgc {
        burst: 1,
        window: 2,
        stragglers: 1,
    },
    Coding::MSgc {
        burst: 1,
        window: 3,
        stragglers: 4,
    },
];

fn run(
    experiment: &Experiment,
    config: &CodingConfig,
    folder: Option<&Path>,
    stop: Option<usize>,
) -> Result<CodedOutcome, ExperimentError> {
    let data = experiment.open()?;
    let checkpoints = |model| folder.map(|folder| folder.join(format!("{model}.safetensors")));
    train(
        experiment,
        config,
        &data,
        &Device::flex(),
        &checkpoints,
        &mut |model, progress: Progress<'_>| match model == 0 && stop == Some(progress.step) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        },
    )
}

fn alone(experiment: &Experiment, seed: u64) -> Outcome {
    let mut experiment = experiment.clone();
    experiment.training.seed = seed;
    let go = &mut |_: Progress<'_>| ControlFlow::Continue(());
    experiment.run(&Device::flex(), None, go).unwrap()
}

fn weights(outcomes: &[Outcome]) -> Vec<&[u8]> {
    outcomes.iter().map(|o| o.weights.as_slice()).collect()
}

#[test]
fn one_uncoded_worker_trains_as_without_workers() {
    let experiment = small();
    let plain = alone(&experiment, 0);
    let (outcomes, report) = run(&experiment, &by(1, Coding::Uncoded), None, None).unwrap();
    assert_eq!(outcomes[0].weights, plain.weights);
    assert_eq!(outcomes[0].history.epochs, plain.history.epochs);
    assert_eq!(
        (report.gradients, report.rounds, report.models),
        (24, 24, 1)
    );
}

#[test]
fn every_coding_trains_each_model_as_alone() {
    let experiment = small();
    for (coding, models) in CODINGS.into_iter().zip([1, 2, 3]) {
        let (outcomes, report) = run(&experiment, &by(4, coding), None, None).unwrap();
        assert_eq!(outcomes.len(), models, "{coding:?}");
        assert_eq!(report.gradients, 24 * models);
        assert!(report.rounds < 24 * models + 3, "{report:?}");
        for (model, outcome) in outcomes.iter().enumerate() {
            // The same up to the order of sums.
            let plain = alone(&experiment, model as u64);
            let [a, b] = [outcome, &plain].map(|o| *o.history.last().unwrap());
            assert!(
                (a.test_loss - b.test_loss).abs() < 1e-4,
                "{coding:?}: {a:?} {b:?}"
            );
            assert!((a.training_loss - b.training_loss).abs() < 1e-4);
            assert_eq!(a.training_accuracy, b.training_accuracy, "{coding:?}");
        }
    }
    // The weights of a cyclic code are none of repetition.
    let mut cyclic = by(5, Coding::Gc { stragglers: 2 });
    cyclic.code = CodeKind::Cyclic;
    let (outcomes, _) = run(&experiment, &cyclic, None, None).unwrap();
    let [a, b] = [&outcomes[0], &alone(&experiment, 0)].map(|o| *o.history.last().unwrap());
    assert!((a.test_loss - b.test_loss).abs() < 1e-3, "{a:?} {b:?}");
    assert_eq!(a.training_accuracy, b.training_accuracy);
}

#[test]
fn interrupted_models_go_on_with_the_same_bits() {
    let experiment = small();
    for coding in CODINGS {
        let folder = tempfile::tempdir().unwrap();
        let config = by(4, coding);
        let (whole, _) = run(&experiment, &config, None, None).unwrap();
        let (part, _) = run(&experiment, &config, Some(folder.path()), Some(8)).unwrap();
        assert!(
            part.iter()
                .all(|o| !o.finished && o.history.steps.len() == 8),
            "{coding:?}"
        );
        if part.len() > 1 {
            // As if all had been killed when the others had not saved yet: the first is ahead of them.
            let one = by(4, Coding::Gc { stragglers: 1 });
            let first = folder.path().join("0.safetensors");
            std::fs::copy(&first, folder.path().join("kept")).unwrap();
            assert!(run(&experiment, &one, Some(folder.path()), None).is_err());
            let ahead = run(&experiment, &config, Some(folder.path()), Some(11))
                .unwrap()
                .0;
            assert!(ahead.iter().all(|o| o.history.steps.len() == 11));
            let last = ahead.len() - 1;
            std::fs::copy(folder.path().join("kept"), &first).unwrap();
            assert!(folder.path().join(format!("{last}.safetensors")).exists());
        }
        let (resumed, _) = run(&experiment, &config, Some(folder.path()), None).unwrap();
        assert_eq!(weights(&resumed), weights(&whole), "{coding:?}");
        // There is nothing left to do.
        let (again, report) = run(&experiment, &config, Some(folder.path()), None).unwrap();
        assert_eq!(weights(&again), weights(&whole));
        assert_eq!(report.gradients, 0);
    }
}

#[test]
fn a_worker_that_dies_changes_no_bit() {
    let experiment = small();
    let data = experiment.open().unwrap();
    let device = Device::flex();
    for coding in CODINGS {
        let config = by(4, coding);
        let (calm, _) = run(&experiment, &config, None, None).unwrap();
        let faults = Faults::new().with_death(2, 5);
        let mut ends = connected(5, config.limit()).unwrap().into_iter();
        let mut leader = ends.next().unwrap();
        let (hit, report) = thread::scope(|scope| {
            for end in ends {
                let (mut end, data) = (Faulty::new(end, faults.clone()), &data);
                let (experiment, config, device) = (&experiment, &config, &device);
                scope.spawn(move || {
                    let go = &mut |_: usize, _: Progress<'_>| ControlFlow::Continue(());
                    let ended = train_on(experiment, config, &mut end, data, device, &|_| None, go);
                    assert!(matches!(ended, Ok(None)) == (end.rank() != 3));
                });
            }
            let go = &mut |_: usize, _: Progress<'_>| ControlFlow::Continue(());
            train_on(
                &experiment,
                &config,
                &mut leader,
                &data,
                &device,
                &|_| None,
                go,
            )
        })
        .unwrap()
        .unwrap();
        assert_eq!(weights(&hit), weights(&calm), "{coding:?}");
        assert_eq!(
            report.dead.iter().map(|dead| dead.0).collect::<Vec<_>>(),
            [2]
        );
    }
}

#[test]
fn what_cannot_be_coded_is_refused() {
    let experiment = small();
    let refused = |experiment: &Experiment, config: &CodingConfig| {
        run(experiment, config, None, None)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    let error = refused(&experiment, &by(0, Coding::Uncoded));
    assert!(error.contains("number of workers is 0"), "{error}");
    let error = refused(&experiment, &by(4, Coding::Gc { stragglers: 4 }));
    assert!(error.contains("number of stragglers is 4"), "{error}");
    let mut few = by(4, CODINGS[2]);
    few.models = 2;
    let error = refused(&experiment, &few);
    assert!(error.contains("at least 3 models"), "{error}");
    let mut normalised = experiment.clone();
    normalised.model = nabla_train::experiment::ModelConfig::Cnn(Default::default());
    normalised.model = normalised
        .model
        .with_normalization(nabla_train::normalization::Normalization::Batch)
        .unwrap();
    let error = refused(&normalised, &by(2, Coding::Uncoded));
    assert!(
        error.contains("normalises by the batch") && error.contains("--normalization group"),
        "{error}"
    );
    // What is told is why a training failed, not that it has ended.
    let mut wild = experiment;
    wild.training.optimizer = nabla_train::optimizer::OptimizerConfig::named("sgd").unwrap();
    wild.training.optimizer.learning_rate = Some(1e30);
    let error = run(&wild, &by(4, CODINGS[1]), None, None)
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.to_string().contains("the loss is") && error.is_failure(),
        "{error}"
    );
}
