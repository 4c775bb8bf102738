//! Guidances in comparison, and the judge of their pictures.

use burn::tensor::Device;
use nabla_diffusion::class_denoiser::{ClassDenoiser, ClassDenoiserConfig};
use nabla_diffusion::guidance_trial::{GuidanceTrials, TrialConfig, TrialError};
use nabla_diffusion::registry::Options;
use nabla_diffusion::sample_quality::{Judge, QualityError};
use nabla_train::classification::TrainingConfig;
use nabla_train::examples::{Examples, InputShape, Scaling};
use nabla_train::model_config::ModelConfig;
use nabla_train::network_folder::NetworkFolder;
use nabla_train::trained_classifier::{ClassifierConfig, TrainedClassifier};
use nabla_train::{Cnn, CnnConfig, he_normal};

pub(crate) const SIDE: usize = 8;

/// Two classes: the left or the right half is white, more or less.
pub(crate) fn pictures(count: usize) -> Examples {
    let mut examples = Examples::default();
    for i in 0..count {
        let class = i % 2;
        let white = 0.7 + 0.3 * ((i * 7919) % 101) as f32 / 100.0;
        for pixel in 0..SIDE * SIDE {
            let left = pixel % SIDE < SIDE / 2;
            let dark = 0.1 * ((pixel * 31 + i * 17) % 13) as f32 / 13.0;
            examples
                .features
                .push(if left == (class == 0) { white } else { dark });
        }
        examples.labels.push(class as u32);
    }
    examples
}

/// A small network that has learned the two classes.
pub(crate) fn classifier(seed: u64) -> TrainedClassifier {
    let device = Device::flex().autodiff();
    let shape = [1, SIDE, SIDE];
    let config = CnnConfig {
        channels: vec![4],
        ..CnnConfig::default()
    };
    let model: Cnn = he_normal(config.init(shape, 2, &device).unwrap(), seed).unwrap();
    let training = TrainingConfig {
        epochs: 3,
        batch: 16,
        seed,
        ..TrainingConfig::default()
    };
    let (examples, test) = (pictures(200), pictures(40));
    let input = InputShape::Picture(shape);
    let mut trainer = training.trainer(&examples, &test, input, model).unwrap();
    trainer
        .run(None, &mut |_| std::ops::ControlFlow::Continue(()))
        .unwrap();
    assert!(trainer.history().last().unwrap().test_accuracy > 0.95);
    let folder = tempfile::tempdir().unwrap();
    let kind = NetworkFolder {
        kind: "classifier",
        config: "classifier.json",
    };
    let config = ClassifierConfig {
        classes: ["left", "right"].map(str::to_owned).to_vec(),
        shape: input,
        scaling: Scaling::none(),
        model: ModelConfig::Cnn(config),
        quantization: None,
    };
    kind.save(&config, trainer.model(), folder.path()).unwrap();
    TrainedClassifier::load(folder.path(), &Device::flex()).unwrap()
}

/// A denoiser that has learned nothing.
pub(crate) fn denoiser(side: usize) -> ClassDenoiser {
    let device = Device::flex();
    let names = ["left", "right"].map(str::to_owned).to_vec();
    let mut config = ClassDenoiserConfig::for_pictures(names, [1, side, side]);
    config.network = config
        .network
        .with_base_channels(32)
        .with_multipliers(vec![1])
        .with_attention_levels(vec![])
        .with_blocks_per_level(1);
    let network = config.init_network(&device).unwrap();
    ClassDenoiser::new(config, network, &device).unwrap()
}

#[test]
fn a_judge_finds_real_pictures_good_and_others_not() {
    let judging = classifier(0);
    let real = pictures(120);
    let judge = Judge::new(&judging, &real, &Device::flex()).unwrap();
    let drawn = |values: &dyn Fn(f32) -> f32| -> Vec<f32> {
        real.features
            .iter()
            .map(|&v| values(2.0 * v - 1.0))
            .collect()
    };
    let classes: Vec<usize> = real.labels.iter().map(|&label| label as usize).collect();
    let same = judge.quality(&drawn(&|v| v), &classes).unwrap();
    assert!(same.frechet_distance < 1e-3, "{same:?}");
    assert_eq!([same.precision, same.recall, same.clipped], [1.0, 1.0, 0.0]);
    assert!(
        same.accuracy > 0.95 && (same.contrast - 1.0).abs() < 1e-6,
        "{same:?}"
    );
    // Oversaturated.
    let more = judge.quality(&drawn(&|v| 3.0 * v), &classes).unwrap();
    assert!(more.contrast > 1.05 && more.clipped > 0.5, "{more:?}");
    assert!(more.frechet_distance > 10.0 * same.frechet_distance);
    // Without any content.
    let grey = judge.quality(&drawn(&|_| 0.0), &classes).unwrap();
    assert!(
        (grey.accuracy - 0.5).abs() < 1e-9 && grey.recall < 0.1,
        "{grey:?}"
    );
    // Of the other class.
    let wrong: Vec<usize> = classes.iter().map(|class| 1 - class).collect();
    assert!(judge.quality(&drawn(&|v| v), &wrong).unwrap().accuracy < 0.05);
    assert!(matches!(
        judge.quality(&drawn(&|v| v), &classes[1..]),
        Err(QualityError::Classes { .. })
    ));
}

#[test]
fn every_guidance_is_tried_from_the_same_noise() {
    let (judging, guide) = (classifier(0), classifier(1));
    let real = pictures(60);
    let judge = Judge::new(&judging, &real, &Device::flex()).unwrap();
    let (model, weak) = (denoiser(SIDE), denoiser(SIDE));
    let mut trials = GuidanceTrials {
        model: &model,
        weak: Some(&weak),
        guide: Some(&guide),
        judge: &judge,
        config: TrialConfig {
            pictures: 14,
            steps: 4,
            batch: 8,
            ..TrialConfig::default()
        },
    };
    let names = trials.guidances();
    assert_eq!(names.len(), 10, "{names:?}");
    let run = |trials: &GuidanceTrials<'_>, name: &str, scale| {
        let mut drawn = 0;
        let trial = trials.run(name, &Options::new(), scale, 3, &mut |count| {
            drawn += count;
            Ok(())
        });
        (trial, drawn)
    };
    for name in &names {
        let (trial, drawn) = run(&trials, name, 2.0);
        let trial = trial.unwrap();
        assert_eq!((drawn, trial.quality.pictures), (14, 14), "{name}");
        let per_step = trial.evaluations / 4.0;
        let most = if name == "none" { 1.0 } else { 2.0 };
        assert!((1.0..=most).contains(&per_step), "{name}: {per_step}");
    }
    // A scale of 1 is no guidance, from the same noise.
    let pictures = |name, scale| {
        let made = trials.pictures(name, &Options::new(), scale, 3, &mut |_| Ok(()));
        made.unwrap().values
    };
    let plain = pictures("none", 1.0);
    for name in ["classifier-free", "apg", "adaptive", "autoguidance", "gfcg"] {
        let same = pictures(name, 1.0);
        let apart = plain.iter().zip(&same).map(|(a, b)| (a - b).abs());
        assert!(apart.fold(0.0, f32::max) < 1e-3, "{name}");
    }
    let stopped = trials.run("none", &Options::new(), 1.0, 3, &mut |_| {
        Err("enough".into())
    });
    assert!(stopped.unwrap_err().to_string().contains("enough"));

    trials.weak = None;
    assert_eq!(trials.guidances().len(), 8);
    assert!(matches!(
        run(&trials, "autoguidance", 2.0).0,
        Err(TrialError::Needs { .. })
    ));
    assert!(matches!(
        run(&trials, "sharper", 2.0).0,
        Err(TrialError::Registry(_))
    ));
    let large = denoiser(16);
    trials.model = &large;
    assert!(matches!(
        run(&trials, "none", 2.0).0,
        Err(TrialError::Shapes { .. })
    ));
}
