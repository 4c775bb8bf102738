use burn::module::Module;
use burn::tensor::Device;
use nabla_quantize::{QuantizationConfig, Quantized};
use nabla_train::classification::TrainingConfig;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::gradient_source::GradientSources;
use nabla_train::initialization::he_normal;
use nabla_train::mlp::{Mlp, MlpConfig};
use nabla_train::optimizer::OptimizerConfig;

use super::*;
use crate::domain_source::DomainObjective;
use crate::objectives::objectives;

const FEATURES: usize = 6;

fn examples() -> Examples {
    let value = |i: usize| ((i * 7919 % 1013) as f32 / 500.0 - 1.0).sin();
    Examples {
        features: (0..48 * FEATURES).map(value).collect(),
        labels: (0..48).map(|i| (i * 5 % 7 % 3) as u32).collect(),
    }
}

fn model() -> Quantized<Mlp> {
    let device = Device::flex().autodiff();
    let config = MlpConfig {
        hidden: vec![8, 8, 8],
    };
    let mlp = he_normal(config.init(FEATURES, 3, &device).unwrap(), 3).unwrap();
    let data = TensorData::new(examples().features, [48, FEATURES]);
    let input = Tensor::<2>::from_data(data, &device);
    let config = QuantizationConfig {
        bits: 3,
        ..QuantizationConfig::default()
    };
    Quantized::new(mlp, &config, |mlp| drop(mlp.logits(input))).unwrap()
}

/// The weights after some steps with an objective, and its report.
fn trained(objective: &DomainObjective, steps: usize) -> (Vec<f32>, Value) {
    let examples = examples();
    let mut optimizer = OptimizerConfig::named("adam").unwrap();
    optimizer.learning_rate = Some(1e-2);
    let config = TrainingConfig::of_steps(steps, 48, 12, optimizer, 1);
    let shape = InputShape::Row(FEATURES);
    let mut trainer = config
        .trainer(&examples, &examples, shape, model())
        .unwrap();
    let plan = config.plan(48, steps, false);
    let source = objective.clone().for_domains(&[24, 24]);
    let source = source.source(trainer.model(), plan).unwrap().unwrap();
    trainer.task_mut().set_source(source);
    let mut left = steps;
    let observe = &mut |_: nabla_train::trainer::Progress<'_>| {
        left -= 1;
        match left {
            0 => std::ops::ControlFlow::Break(()),
            _ => std::ops::ControlFlow::Continue(()),
        }
    };
    trainer.run(None, observe).unwrap();
    let layout = ParameterLayout::trainable(trainer.model()).unwrap();
    let weights = layout.flatten_parameters(trainer.model()).unwrap();
    let told = trainer.task().report().unwrap();
    (read(weights).unwrap(), told)
}

fn gaqat(rule: &str) -> DomainObjective {
    DomainObjective::named("gaqat")
        .with("window", 4)
        .with("threshold", 1.0)
        .with("rho", 0.2)
        .with("rule", rule)
}

/// The examples of the paper's definition.
#[test]
fn disorder_counts_flips() {
    let of = |gradients: &[f32]| {
        let mut disorder = GradientDisorder::default();
        gradients.iter().for_each(|&g| disorder.push(g));
        disorder.value()
    };
    assert_eq!(of(&[1.0, 2.0, 0.1, 3.0]), 0.0);
    assert_eq!(of(&[1.0, -2.0, 0.1, -3.0]), 1.0);
    assert_eq!(of(&[1.0, 2.0, -0.1, -3.0]), 1.0 / 3.0);
    assert_eq!(of(&[1.0, 0.0, -1.0]), 0.0);
    assert_eq!((of(&[]), of(&[1.0])), (0.0, 0.0));
}

/// With a threshold of 0 nothing is ever frozen, and the steps are those of SAGM, to the bit; so they are with the rule
/// `off`. With a threshold of 1 they are others, once the first window is over.
#[test]
fn without_freezing_it_is_sagm() {
    let (sagm, _) = trained(&DomainObjective::named("sagm").with("rho", 0.2), 12);
    for objective in [gaqat("task").with("threshold", 0.0), gaqat("off")] {
        let (found, told) = trained(&objective, 12);
        assert_eq!(found, sagm);
        let quantizers = told["quantizers"].as_array().unwrap();
        // The two layers in the middle: a weight and an input each.
        assert_eq!(quantizers.len(), 4);
        assert!(quantizers.iter().all(|q| q["frozen"] == 0.0));
        let conflict = |q: &Value| q["conflict"].as_f64().unwrap();
        assert!(quantizers.iter().any(|q| conflict(q) > 0.0), "{told}");
        assert!(quantizers.iter().all(|q| conflict(q) <= 1.0), "{told}");
    }
    for rule in ["task", "smooth", "both", "alternate"] {
        let (found, told) = trained(&gaqat(rule), 12);
        assert_ne!(found, sagm, "{rule}");
        assert!(
            told["quantizers"][0]["frozen"].as_f64().unwrap() > 0.0,
            "{rule}"
        );
        let (start, _) = trained(&gaqat(rule), 4);
        let (same, _) = trained(&DomainObjective::named("sagm").with("rho", 0.2), 4);
        assert_eq!(start, same, "{rule}");
    }
}

/// Step sizes whose two gradients are frozen don't move, and those of others do.
#[test]
fn frozen_gradients_are_left_out() {
    let device = Device::flex().autodiff();
    let model = model();
    let layout = ParameterLayout::trainable(&model).unwrap();
    let quantizers = placed(&layout, model.quantizers());
    let places = Gaqat {
        quantizers: quantizers.clone(),
        ..Gaqat::default()
    }
    .places();
    assert_eq!(places.len(), 8 + 8 + 1 + 1);
    for (rule, expected) in [
        (FreezeRule::Task, [0.0, 0.5]),
        (FreezeRule::Smooth, [0.5, 0.0]),
        (FreezeRule::Both, [0.0, 0.0]),
    ] {
        let mut gaqat = Gaqat::new(GaqatConfig {
            rule,
            window: 2,
            threshold: 0.5,
            ..GaqatConfig::default()
        });
        gaqat.quantizers.clone_from(&quantizers);
        // Steady in even places, a flip in the others.
        let second: Vec<f32> = (0..18)
            .map(|i| if i % 2 == 0 { 1.0 } else { -1.0 })
            .collect();
        gaqat.note(&[1.0; 18], &[1.0; 18]);
        gaqat.note(&second, &[1.0; 18]);
        let like = Tensor::<1>::zeros([1], &device.clone().inner());
        let shares = gaqat
            .shares(&layout, &like)
            .unwrap()
            .map(|t| read(t).unwrap());
        for (share, expected) in shares.iter().zip(expected) {
            for (number, &place) in places.iter().enumerate() {
                let expected = if number % 2 == 0 { expected } else { 0.5 };
                assert_eq!(share[place], expected, "{rule:?} {number}");
            }
            let frozen = share.iter().filter(|&&s| s != 0.5).count();
            assert_eq!(frozen, if expected == 0.5 { 0 } else { 9 });
        }
        // In the next window all flip, so all are free again, unless for ever.
        let forever = Gaqat {
            config: GaqatConfig {
                forever: true,
                ..gaqat.config
            },
            ..gaqat.clone()
        };
        for (mut gaqat, left) in [(gaqat, 0), (forever, 9)] {
            gaqat.note(&[1.0; 18], &[1.0; 18]);
            gaqat.note(&[-1.0; 18], &[1.0; 18]);
            let frozen = gaqat.state.records.iter().filter(|r| r.frozen).count();
            assert_eq!(frozen, left);
        }
    }
}

/// The state holds the windows: taken up in the middle of one, the decisions are the same.
#[test]
fn a_window_is_taken_up() {
    let config = GaqatConfig {
        window: 3,
        ..GaqatConfig::default()
    };
    let mut whole = Gaqat::new(config);
    whole.note(&[1.0, -1.0], &[1.0, 1.0]);
    whole.note(&[1.0, 1.0], &[-1.0, 1.0]);
    let state = Objective::<Mlp>::state(&whole).unwrap();
    let mut other = Gaqat::new(config);
    Objective::<Mlp>::restore(&mut other, &state).unwrap();
    for gaqat in [&mut whole, &mut other] {
        gaqat.note(&[1.0, -1.0], &[1.0, 1.0]);
    }
    assert_eq!(whole.state.records, other.state.records);
    let frozen: Vec<bool> = whole.state.records.iter().map(|r| r.frozen).collect();
    assert_eq!(frozen, [true, false]);
}

#[test]
fn a_model_that_is_not_quantised_is_refused() {
    let plain = MlpConfig::default()
        .init(4, 2, &Device::flex().autodiff())
        .unwrap();
    let plan = DomainPlan {
        batches: vec![4],
        steps: 3,
        shape: None,
    };
    let objective = objectives::<Mlp>().get("gaqat").unwrap();
    let told = objective.check(&plain, &plan).unwrap_err().to_string();
    assert!(
        told.contains("quantise it (--quantize 4), or choose sagm"),
        "{told}"
    );
    let objective = objectives::<Quantized<Mlp>>().get("gaqat").unwrap();
    assert!(objective.check(&model(), &plan).is_ok());
    assert!(model().num_params() > 0);
}
