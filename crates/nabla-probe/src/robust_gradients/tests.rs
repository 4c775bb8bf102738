use std::ops::ControlFlow;

use burn::tensor::Device;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::classification::TrainingConfig;
use nabla_train::cnn::CnnConfig;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::initialization::he_normal;
use nabla_train::mlp::MlpConfig;
use nabla_train::optimizer::OptimizerConfig;

use super::*;

#[test]
fn order_statistics_are_those_of_numpy() {
    let squares: Vec<f32> = (1..=10).map(|i| (i * i) as f32).collect();
    let mean = |percent| winsorized_mean(&squares, 1, percent).unwrap()[0];
    assert_eq!([mean(0.0), mean(10.0), mean(25.0)], [38.5, 36.9, 34.5]);
    // Column by column, over more than a block.
    let rows: Vec<f32> = squares
        .iter()
        .flat_map(|&x| (0..150).map(move |j| x + j as f32))
        .collect();
    let means = winsorized_mean(&rows, 150, 10.0).unwrap();
    for (j, mean) in means.iter().enumerate() {
        assert!((mean - 36.9 - j as f32).abs() < 1e-3);
    }
    assert_eq!(median(&[vec![3.0], vec![-1.0], vec![7.0]]), [3.0]);
    for wrong in [-1.0, 50.0, f64::NAN] {
        assert!(winsorized_mean(&squares, 1, wrong).is_err());
    }
    assert!(winsorized_mean(&[], 1, 10.0).is_err());
    // What is no number stays none, whether it is clipped or clipped to.
    for count in [1, 3, 10] {
        let mut wrong = squares.clone();
        wrong[..count].fill(f32::NAN);
        assert!(winsorized_mean(&wrong, 1, 10.0).unwrap()[0].is_nan());
    }
}

fn examples() -> Examples {
    let features = SeededNoise::new(1, 0).normal_values(35 * 4);
    let labels = features.chunks(4).map(|x| u32::from(x[0] > 0.0)).collect();
    Examples { features, labels }
}

/// The last loss, and the weights' file, of a training that may be interrupted.
fn trained(method: RobustGradient, interrupted: bool) -> (f32, usize) {
    let examples = examples();
    let config = TrainingConfig {
        epochs: 30,
        batch: 10,
        optimizer: OptimizerConfig::named("sgd").unwrap(),
        ..TrainingConfig::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let start = || {
        let model = MlpConfig { hidden: vec![6] }
            .init(4, 2, &Device::flex().autodiff())
            .unwrap();
        let model = he_normal(model, 2).unwrap();
        let plan = Plan {
            examples: 35,
            batch: 10,
            steps: 120,
            seed: 0,
            scaled: false,
            augmented: false,
        };
        let source = method.source(&model, plan).unwrap().unwrap();
        let mut trainer = config
            .trainer(&examples, &examples, InputShape::Row(4), model)
            .unwrap();
        trainer.task_mut().set_source(source);
        trainer
    };
    let mut trainer = start();
    if interrupted {
        trainer
            .run(Some(&path), &mut |progress| match progress.step {
                50 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
            .unwrap();
        trainer = start().resume(&path).unwrap();
    }
    trainer
        .run(None, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let losses = trainer.history().losses();
    (losses[losses.len() - 1], losses.len())
}

#[test]
fn every_method_learns_and_continues_after_an_interrupt() {
    use nabla_base::choices::Choices;

    for choice in RobustGradient::choices() {
        let method = choice.value;
        let whole = trained(method, false);
        assert!(whole.0 < 0.5, "{method:?}: {whole:?}");
        assert_eq!(whole, trained(method, true), "{method:?}");
    }
    // Without winsorising it is SGD.
    let plain = trained(RobustGradient::Winsorized { percent: 0.0 }, false);
    assert!(plain.0 < 0.4);
}

#[test]
fn what_has_no_robust_gradient_is_refused() {
    let plan = Plan {
        examples: 100,
        batch: 8,
        steps: 10,
        seed: 0,
        scaled: false,
        augmented: false,
    };
    let device = Device::flex().autodiff();
    let model = CnnConfig::default().init([1, 8, 8], 10, &device).unwrap();
    let refused =
        |method: RobustGradient, plan: Plan| method.source(&model, plan).err().unwrap().to_string();
    let told = refused(RobustGradient::Winsorized { percent: 10.0 }, plan);
    assert!(told.contains("--normalization group"), "{told}");
    let told = refused(RobustGradient::MedianOfMeans { groups: 4 }, plan);
    assert!(told.contains("odd and at least 3"), "{told}");
    let told = refused(RobustGradient::MedianOfMeans { groups: 9 }, plan);
    assert!(told.contains("batch of a median of means is 8"), "{told}");
    let model = MlpConfig { hidden: vec![6] }.init(4, 2, &device).unwrap();
    let one = Plan { batch: 1, ..plan };
    assert!(
        RobustGradient::Winsorized { percent: 10.0 }
            .source(&model, one)
            .is_err()
    );
    let mut source = RobustGradients {
        method: RobustGradient::RollingMedian {},
        last: Vec::new(),
    };
    let source: &mut dyn GradientSource<nabla_train::mlp::Mlp> = &mut source;
    assert!(source.restore(&[2, 0, 0, 0]).is_err());
    assert!(source.restore(&[7]).is_err());
}
