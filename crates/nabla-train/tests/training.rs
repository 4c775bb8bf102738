//! Trainings as a whole: the same bits after a resume, the optimum that another program finds, weight decay
//! where it is asked for, comparisons.

use std::ops::ControlFlow;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use nabla_train::augmentation::Augmentation;
use nabla_train::classification::{TrainingConfig, evaluate};
use nabla_train::cnn::CnnConfig;
use nabla_train::comparison::{Comparison, ComparisonEvent, Contender, Phase};
use nabla_train::data_set::{DataConfig, Standardization};
use nabla_train::examples::{Examples, InputShape};
use nabla_train::experiment::{Experiment, ModelConfig, Outcome};
use nabla_train::initialization::he_normal;
use nabla_train::logistic_regression::LogisticRegressionConfig;
use nabla_train::mlp::{Mlp, MlpConfig};
use nabla_train::normalization::Normalization;
use nabla_train::optimizer::{OptimizerConfig, ParameterGroup, methods};
use nabla_train::resnet::ResNetConfig;
use nabla_train::schedule::{Decay, Schedule};
use nabla_train::trained_classifier::TrainedClassifier;

/// 60 of the digits in batches of 16, two epochs: 8 steps.
fn small(model: ModelConfig, method: &str) -> Experiment {
    let mut optimizer = OptimizerConfig::named(method).unwrap();
    optimizer.weight_decay = 1e-2;
    Experiment {
        data: DataConfig {
            limit: Some(60),
            ..DataConfig::default()
        },
        model,
        training: TrainingConfig {
            epochs: 2,
            batch: 16,
            seed: 5,
            optimizer,
            ..TrainingConfig::default()
        },
        ..Experiment::default()
    }
}

fn mlp() -> ModelConfig {
    ModelConfig::Mlp(MlpConfig { hidden: vec![12] })
}

/// The names that the registry has from the start.
fn names() -> Vec<String> {
    let names = methods().into_iter().map(|m| m.name().to_owned());
    names.take(16).collect()
}

/// Runs until `stop` steps are done in all.
fn run(experiment: &Experiment, checkpoint: Option<&Path>, stop: usize) -> Outcome {
    experiment
        .run(&Device::flex(), checkpoint, &mut |progress| {
            if progress.step == stop {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap()
}

fn assert_same(found: &Outcome, expected: &Outcome, what: &str) {
    assert_eq!(found.history.steps, expected.history.steps, "{what}");
    assert_eq!(found.history.epochs, expected.history.epochs, "{what}");
    assert!(
        found.weights == expected.weights,
        "{what}: the weights differ"
    );
    assert_eq!(found.state_bytes, expected.state_bytes, "{what}");
}

/// All 8 steps at once are the same as 3 (in the middle of an epoch) and, by new objects from the file, 5.
fn resumes(experiment: &Experiment, what: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let whole = run(experiment, None, usize::MAX);
    assert!(whole.finished);
    assert_eq!(whole.history.steps.len(), 8);
    let part = run(experiment, Some(&path), 3);
    assert!(!part.finished);
    assert_eq!(part.history.steps, whole.history.steps[..3], "{what}");
    let rest = run(experiment, Some(&path), usize::MAX);
    assert_same(&rest, &whole, what);
    // A training that is over stays as it is.
    assert_same(&run(experiment, Some(&path), usize::MAX), &whole, what);
}

#[test]
fn every_optimizer_resumes_with_the_same_bits() {
    for method in names() {
        resumes(&small(mlp(), &method), &method);
    }
}

#[test]
fn every_model_resumes_with_the_same_bits() {
    let models = [
        ModelConfig::LogisticRegression(LogisticRegressionConfig::default()),
        ModelConfig::Cnn(CnnConfig {
            channels: vec![4, 6],
            normalization: Normalization::Batch,
        }),
        ModelConfig::Cnn(CnnConfig {
            channels: vec![3],
            normalization: Normalization::None,
        }),
        ModelConfig::ResNet(ResNetConfig {
            depth: 8,
            width: 4,
            normalization: Normalization::Group,
        }),
    ];
    for model in models {
        let mut experiment = small(model.clone(), "adamp");
        experiment.training.augmentation = Augmentation {
            shift: 1,
            mirror: true,
        };
        experiment.training.clip_norm = 1.0;
        experiment.training.clip_value = 0.1;
        experiment.training.label_smoothing = 0.1;
        experiment.training.checkpoint_every = 2;
        experiment.training.schedule = Schedule {
            decay: Decay::steps(),
            warmup: 0.25,
            ..Schedule::default()
        };
        let mut momentum = experiment.clone();
        momentum.training.optimizer = OptimizerConfig::named("momentum").unwrap();
        momentum.training.optimizer.learning_rate = Some(0.02);
        momentum.training.optimizer.groups = vec![ParameterGroup {
            parameters: "^output".into(),
            weight_decay: Some(0.5),
            learning_rate_factor: 0.5,
        }];
        resumes(&experiment, &format!("{model:?}"));
        resumes(&momentum, &format!("{model:?} in groups"));
    }
}

#[test]
fn the_seed_decides_the_bits() {
    let experiment = small(mlp(), "adabelief");
    let first = run(&experiment, None, usize::MAX);
    assert_same(&run(&experiment, None, usize::MAX), &first, "the same seed");
    let mut other = experiment;
    other.training.seed = 6;
    let second = run(&other, None, usize::MAX);
    assert!(second.weights != first.weights);
    assert!(second.history.steps[0].loss != first.history.steps[0].loss);
}

#[test]
fn a_checkpoint_of_another_training_or_of_damage_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let mut experiment = small(mlp(), "adamw");
    experiment.training.schedule.decay = Decay::Constant;
    run(&experiment, Some(&path), 3);
    let told = |experiment: &Experiment| {
        let go = &mut |_: nabla_train::Progress<'_>| ControlFlow::Continue(());
        let outcome = experiment.run(&Device::flex(), Some(&path), go);
        outcome.unwrap_err().to_string()
    };
    let mut other = experiment.clone();
    other.training.optimizer.weight_decay = 0.5;
    let message = told(&other);
    assert!(
        message.contains("optimizer.weight decay was 0.01 there, but 0.5 is asked for"),
        "{message}"
    );
    // With a constant learning rate there may be more epochs, and checkpoints at other times.
    let mut longer = experiment.clone();
    longer.training.epochs = 3;
    longer.training.checkpoint_every = 7;
    let went_on = run(&longer, Some(&path), usize::MAX);
    assert_same(&went_on, &run(&longer, None, usize::MAX), "longer");

    let whole = std::fs::read(&path).unwrap();
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("truncated", whole[..whole.len() / 2].to_vec()),
        ("text", b"this is no checkpoint at all".to_vec()),
        ("flipped", {
            let mut bytes = whole.clone();
            *bytes.last_mut().unwrap() ^= 1;
            bytes
        }),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let message = told(&longer);
        assert!(message.contains("cannot be resumed"), "{what}: {message}");
    }
}

/// The optimum of scikit-learn's LogisticRegression (tests/reference/training.py).
#[test]
fn logistic_regression_reaches_the_optimum_of_scikit_learn() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/digits_100.csv");
    let mut optimizer = OptimizerConfig::named("momentum").unwrap();
    optimizer.learning_rate = Some(0.3);
    optimizer.weight_decay = 0.01;
    let experiment = Experiment {
        data: DataConfig {
            source: table.display().to_string(),
            test: Some(table),
            ..DataConfig::default()
        },
        model: ModelConfig::LogisticRegression(LogisticRegressionConfig::default()),
        training: TrainingConfig {
            epochs: 3000,
            batch: 100,
            schedule: Schedule {
                decay: Decay::Constant,
                ..Schedule::default()
            },
            optimizer,
            ..TrainingConfig::default()
        },
        ..Experiment::default()
    };
    let outcome = run(&experiment, None, usize::MAX);
    let last = outcome.history.last().unwrap();
    assert!((last.training_loss - SKLEARN_LOSS).abs() < 2e-6, "{last:?}");
    assert!((last.test_loss - SKLEARN_LOSS).abs() < 2e-6, "{last:?}");
    assert_eq!(last.test_accuracy, 1.0);
    // At the beginning all classes are as likely.
    assert!((outcome.history.losses()[0] - 10_f32.ln()).abs() < 1e-6);
}

const SKLEARN_LOSS: f64 = 0.036_143_147_814_074_975;

/// A model that gives the features themselves as scores.
#[test]
fn the_measured_loss_and_accuracy_are_those_of_the_definition() {
    let device = Device::flex().autodiff();
    let mut model = LogisticRegressionConfig::default().init(3, 3, &device);
    model.output.weight = Param::from_tensor(Tensor::eye(3, &device));
    let rows: [[f64; 3]; 4] = [[1., 2., 3.], [0., 0., 0.], [500., -500., 0.], [-2., 5., 4.]];
    let labels = [2, 1, 0, 2];
    let examples = Examples {
        features: rows.iter().flatten().map(|&v| v as f32).collect(),
        labels: labels.to_vec(),
    };
    let (loss, accuracy) = evaluate(&model, &examples, InputShape::Row(3)).unwrap();
    // −log softmax at the label, by hand: the first from 1 + e⁻¹ + e⁻², then log 3, 0, and the last.
    let expected = ((1.0 + (-1f64).exp() + (-2f64).exp()).ln()
        + 3f64.ln()
        + 0.0
        + (1.0 + 1f64.exp() + (-6f64).exp()).ln())
        / 4.0;
    assert!((loss - expected).abs() < 1e-6, "{loss} {expected}");
    // Of equal scores the first counts: row 2 says class 0.
    assert_eq!(accuracy, 0.5);
}

/// Zeros as gradients, so that only the decay changes weights.
struct Zeros(GradientsParams);

impl ModuleVisitor for Zeros {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let zeros = param.val().without_autodiff().zeros_like();
        self.0.register::<D>(param.id, zeros);
    }
}

fn decayed(config: &OptimizerConfig, model: &Mlp) -> [f32; 4] {
    let mut zeros = Zeros(GradientsParams::new());
    model.visit(&mut zeros);
    let mut stepper = config.init(model).unwrap();
    let moved = stepper.step(0.01, model.clone(), zeros.0).unwrap();
    let change = |a: Tensor<1>, b: Tensor<1>| (a - b).abs().max().into_scalar::<f32>();
    let matrix = |m: &Mlp| m.hidden[0].weight.val().without_autodiff().flatten(0, 1);
    let vector = |m: &Mlp| m.hidden[0].bias.as_ref().unwrap().val().without_autodiff();
    let output = |m: &Mlp| m.output.weight.val().without_autodiff().flatten(0, 1);
    let output_bias = |m: &Mlp| m.output.bias.as_ref().unwrap().val().without_autodiff();
    [
        change(matrix(&moved), matrix(model)),
        change(vector(&moved), vector(model)),
        change(output(&moved), output(model)),
        change(output_bias(&moved), output_bias(model)),
    ]
}

#[test]
fn weights_decay_where_they_are_told_to() {
    let device = Device::flex().autodiff();
    let mut model = MlpConfig { hidden: vec![6] }.init(5, 4, &device).unwrap();
    model = he_normal(model, 3).unwrap();
    let ones = |n: usize| Some(Param::from_tensor(Tensor::<1>::ones([n], &device)));
    model.hidden[0].bias = ones(6);
    model.output.bias = ones(4);
    for method in names() {
        let mut config = OptimizerConfig::named(&method).unwrap();
        assert_eq!(decayed(&config, &model), [0.0; 4], "{method} without decay");
        config.weight_decay = 0.1;
        let found = decayed(&config, &model).map(|c| c > 0.0);
        assert_eq!(found, [true, false, true, false], "{method}");
        config.decay_vectors = true;
        assert_eq!(
            decayed(&config, &model).map(|c| c > 0.0),
            [true; 4],
            "{method}"
        );
        config.groups = vec![ParameterGroup {
            parameters: r"^output\.".into(),
            weight_decay: Some(0.0),
            learning_rate_factor: 1.0,
        }];
        let found = decayed(&config, &model).map(|c| c > 0.0);
        assert_eq!(found, [true, true, false, false], "{method} in groups");
    }
    // Gradient descent: w ← w − η f λ w.
    let mut config = OptimizerConfig::named("sgd").unwrap();
    config.weight_decay = 0.5;
    config.decay_vectors = true;
    config.groups = vec![ParameterGroup {
        parameters: "bias".into(),
        weight_decay: Some(0.25),
        learning_rate_factor: 2.0,
    }];
    let [_, bias, _, output_bias] = decayed(&config, &model);
    assert!((bias - 0.01 * 2.0 * 0.25).abs() < 1e-6 && bias == output_bias);

    let told = |config: &OptimizerConfig| config.init(&model).unwrap_err().to_string();
    config.groups[0].parameters = "norm".into();
    assert!(told(&config).contains("matches none of the parameters hidden.0.weight"));
    config.groups[0].parameters = "(".into();
    assert!(told(&config).contains("\"(\" is not a regular expression"));
    let mut m_fac = OptimizerConfig::named("m-fac").unwrap();
    m_fac.groups = vec![ParameterGroup {
        parameters: "bias".into(),
        weight_decay: None,
        learning_rate_factor: 2.0,
    }];
    assert!(told(&m_fac).contains("cannot have its own learning rate"));
}

/// Floats per parameter of the documentation's table, times 4 bytes, for a model of 64·12 + 12 + 12·10 + 10
/// numbers.
#[test]
fn states_have_the_size_that_the_table_says() {
    let d = 64 * 12 + 12 + 12 * 10 + 10;
    for (method, floats) in [
        ("sgd", 0),
        ("momentum", d),
        ("adagrad", d),
        ("adam", 2 * d),
        ("adamw", 2 * d),
        ("adan", 4 * d),
        ("lamb", 2 * d),
        ("lion", d),
        // One number per row and per column of a matrix, one per number of a vector.
        ("adafactor", 64 + 12 + 12 + 12 + 10 + 10),
        // One for the hidden matrix, two for the others.
        ("muon", 64 * 12 + 2 * (12 + 12 * 10 + 10)),
        ("adamp", 2 * d),
        ("sgdp", d),
        ("diffgrad", 3 * d),
        ("adabelief", 2 * d),
        ("m-fac", 32 * d + 4 * 32 * 32),
    ] {
        let outcome = run(&small(mlp(), method), None, usize::MAX);
        assert_eq!(outcome.parameters, d);
        assert_eq!(outcome.state_bytes, 4 * floats as u64, "{method}");
    }
}

#[test]
fn models_learn_the_digits() {
    for (model, least) in [
        (ModelConfig::Mlp(MlpConfig::default()), 0.85),
        (ModelConfig::Cnn(CnnConfig::default()), 0.95),
    ] {
        let mut experiment = Experiment {
            model,
            ..Experiment::default()
        };
        experiment.training.epochs = 6;
        experiment.training.optimizer.learning_rate = Some(3e-3);
        let outcome = run(&experiment, None, usize::MAX);
        let last = outcome.history.last().unwrap();
        assert!(last.test_accuracy > least, "{last:?}");
    }
}

fn comparison() -> Comparison {
    let contender = |name: &str, rate: Option<f64>| Contender {
        label: None,
        optimizer: OptimizerConfig {
            learning_rate: rate,
            ..OptimizerConfig::named(name).unwrap()
        },
    };
    Comparison {
        experiment: small(mlp(), "sgd"),
        contenders: vec![
            contender("sgd", None),
            contender("adabelief", None),
            contender("momentum", Some(1e30)),
        ],
        trials: 2,
        spacing: 10.0,
        seeds: vec![1, 2],
    }
}

#[test]
fn a_comparison_goes_on_where_it_was_broken_off() {
    let comparison = comparison();
    let go = &mut |_: ComparisonEvent<'_>| ControlFlow::Continue(());
    let (standings, runs) = comparison.run(&Device::flex(), None, go).unwrap();
    assert_eq!(standings.len(), 3);
    // 3 · 2 trials and 2 · 2 final runs: where all trials diverge, there are none.
    assert_eq!(runs.len(), 6 + 4);
    let [sgd, _, momentum] = &standings[..] else {
        panic!("{standings:?}");
    };
    assert_eq!(
        (momentum.learning_rate, momentum.test_accuracy),
        (None, None)
    );
    assert_eq!(sgd.accuracies.len(), 2);
    assert_eq!(sgd.curve.len(), 2);
    assert!(sgd.at_edge, "of two rates each is at an edge");
    // The chosen rate is that of the best trial, and the search measures on other examples than the end.
    let best = runs
        .iter()
        .filter(|r| r.label == "sgd" && r.phase == Phase::Search)
        .max_by(|a, b| {
            let last =
                |r: &nabla_train::comparison::RunRecord| r.epochs.last().unwrap().test_accuracy;
            last(a).total_cmp(&last(b))
        })
        .unwrap();
    assert_eq!(sgd.learning_rate, Some(best.learning_rate));

    let folder = tempfile::tempdir().unwrap();
    let mut trained = 0;
    let mut ended = 0;
    comparison
        .run(&Device::flex(), Some(folder.path()), &mut |event| {
            match event {
                ComparisonEvent::Step(_) => trained += 1,
                ComparisonEvent::End(_) => ended += 1,
                ComparisonEvent::Begin { .. } | ComparisonEvent::Data(_) => {}
            }
            // In the middle of the fourth run.
            if ended == 3 && matches!(event, ComparisonEvent::Step(_)) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
    let (before, mut after) = (trained, 0);
    let (resumed, again) = comparison
        .run(&Device::flex(), Some(folder.path()), &mut |event| {
            after += usize::from(matches!(event, ComparisonEvent::Step(_)));
            ControlFlow::Continue(())
        })
        .unwrap();
    let whole: usize = runs.iter().map(|r| r.steps).sum();
    assert_eq!(before + after, whole + 1, "one step is done twice");
    for (a, b) in resumed.iter().zip(&standings) {
        assert_eq!((&a.curve, a.learning_rate), (&b.curve, b.learning_rate));
    }
    for (a, b) in again.iter().zip(&runs) {
        assert_eq!((&a.label, &a.epochs, a.seed), (&b.label, &b.epochs, b.seed));
    }
    let mut other = comparison;
    other.trials = 3;
    let told = other
        .run(&Device::flex(), Some(folder.path()), go)
        .unwrap_err();
    assert!(told.to_string().contains("another comparison"), "{told}");
    std::fs::write(folder.path().join("runs.json"), "{").unwrap();
    let told = other
        .run(&Device::flex(), Some(folder.path()), go)
        .unwrap_err();
    assert!(told.to_string().contains("it is damaged"), "{told}");
}

#[test]
fn wrong_settings_are_refused() {
    let told = |experiment: &Experiment| {
        let go = &mut |_: nabla_train::Progress<'_>| ControlFlow::Continue(());
        experiment
            .run(&Device::flex(), None, go)
            .unwrap_err()
            .to_string()
    };
    let mut wrong = small(mlp(), "adamw");
    wrong.training.batch = 0;
    assert!(told(&wrong).contains("the training's batch is 0"));
    wrong = small(mlp(), "adamw");
    wrong.training.label_smoothing = 1.0;
    assert!(told(&wrong).contains("label smoothing is 1"));
    wrong = small(
        ModelConfig::Cnn(CnnConfig {
            channels: vec![4; 4],
            normalization: Normalization::Batch,
        }),
        "adamw",
    );
    assert!(told(&wrong).contains("needs pictures of 16 pixels a side, but they have 8"));
    wrong = small(ModelConfig::Mlp(MlpConfig { hidden: vec![0] }), "adamw");
    assert!(told(&wrong).contains("the hidden layer of the mlp is 0"));
    wrong = small(ModelConfig::Cnn(CnnConfig::default()), "adamw");
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("a.csv");
    std::fs::write(&table, "1,2,a\n3,4,b\n5,6,a\n7,8,b\n9,8,b\n").unwrap();
    wrong.data.source = table.display().to_string();
    assert!(told(&wrong).contains("a cnn needs pictures, but the examples are rows of 2 numbers"));
    wrong.model = mlp();
    wrong.training.augmentation.mirror = true;
    assert!(told(&wrong).contains("only pictures can be"));
    let mut diverges = small(mlp(), "sgd");
    diverges.training.optimizer.learning_rate = Some(1e30);
    assert!(told(&diverges).contains("lower the learning rate"));
    let mut twice = comparison();
    twice.contenders.truncate(1);
    twice.contenders.push(twice.contenders[0].clone());
    let go = &mut |_: ComparisonEvent<'_>| ControlFlow::Continue(());
    let message = twice
        .run(&Device::flex(), None, go)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("the optimizer sgd is given twice"),
        "{message}"
    );
}

/// The folder of a training gives back the classifier that was measured in it, also with 16-bit weights.
#[test]
fn a_trained_classifier_is_loaded_with_its_scaling() {
    let device = Device::flex();
    let raw = DataConfig {
        standardization: Standardization::None,
        ..small(mlp(), "adamw").data
    };
    let raw = raw.open().unwrap();
    for model in [
        ModelConfig::LogisticRegression(LogisticRegressionConfig::default()),
        mlp(),
        ModelConfig::Cnn(CnnConfig::default()),
        ModelConfig::ResNet(ResNetConfig {
            depth: 8,
            width: 4,
            normalization: Normalization::Group,
        }),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let outcome = run(&small(model.clone(), "adamw"), None, usize::MAX);
        outcome.save(folder.path()).unwrap();
        assert!(TrainedClassifier::is_folder(folder.path()));
        let classifier = TrainedClassifier::load(folder.path(), &device).unwrap();
        assert_eq!(classifier.config().model, model);
        let rows = [raw.test.len(), raw.shape.features()];
        let pictures = TensorData::new(raw.test.features.clone(), rows);
        let pictures = Tensor::<2>::from_data(pictures, &device);
        let logits = classifier.logits(pictures.clone()).unwrap();
        let found: Vec<i64> = logits.argmax(1).try_into_vec_as().unwrap();
        let right = found.iter().zip(&raw.test.labels);
        let right = right.filter(|(a, b)| **a == i64::from(**b)).count();
        let expected = outcome.history.last().unwrap().test_accuracy;
        let accuracy = right as f64 / raw.test.len() as f64;
        assert!(
            (accuracy - expected).abs() < 1e-9,
            "{model:?}: {accuracy}, {expected}"
        );
        // The last layer sees the features.
        let seen = classifier.seen(pictures.clone()).unwrap();
        assert!(
            seen.logits.into_data() == classifier.logits(pictures.clone()).unwrap().into_data()
        );
        let features = seen.features;
        let width = match model {
            ModelConfig::LogisticRegression(_) => 64,
            ModelConfig::Mlp(_) => 12,
            ModelConfig::Cnn(_) => 32 * 2 * 2,
            ModelConfig::ResNet(_) => 16,
        };
        assert_eq!(features.dims(), [rows[0], width]);
        // A gradient with respect to the pictures is that of the same function, and changes nothing.
        let before = classifier.logits(pictures.clone()).unwrap();
        let leaf = pictures.clone().autodiff().require_grad();
        let tracked = classifier.logits(leaf.clone()).unwrap();
        let gradients = tracked.clone().sum().backward();
        assert!(leaf.grad(&gradients).is_some());
        let difference = (tracked.inner() - before.clone()).abs().max();
        assert!(difference.into_scalar::<f32>() < 1e-4, "{model:?}");
        let after = classifier.logits(pictures.clone()).unwrap();
        assert!(after.into_data() == before.into_data());
        let told = classifier.logits(pictures.slice_dim(1, 0..63)).unwrap_err();
        assert!(
            told.to_string().contains("64 numbers, but these have 63"),
            "{told}"
        );
    }
}

#[test]
fn a_folder_without_a_classifier_is_refused() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let told = |folder: &Path| {
        TrainedClassifier::load(folder, &device)
            .unwrap_err()
            .to_string()
    };
    assert!(told(&folder.path().join("none")).contains("there is no model folder"));
    assert!(told(folder.path()).contains("holds no classifier.json"));
    run(&small(mlp(), "adamw"), None, 1)
        .save(folder.path())
        .unwrap();
    let path = folder.path().join("classifier.json");
    let text = std::fs::read_to_string(&path).unwrap();
    // Another model than that of the weights.
    std::fs::write(&path, text.replace("12", "13")).unwrap();
    assert!(told(folder.path()).contains("does not hold the weights"));
    // One mean for ten features.
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config["shape"] = serde_json::json!({ "row": 64 });
    std::fs::write(&path, config.to_string()).unwrap();
    assert!(told(folder.path()).contains("scales 1 channels or features"));
}
