use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use nabla_quantize::{QuantizationConfig, Quantized};
use nabla_train::classification::{Classification, TrainingConfig};
use nabla_train::classifier::Classifier;
use nabla_train::cnn::CnnConfig;
use nabla_train::examples::Examples;
use nabla_train::gradient_source::{GradientSources, Plan};
use nabla_train::initialization::he_normal;
use nabla_train::mlp::{Mlp, MlpConfig};
use nabla_train::normalization::Normalization;
use nabla_train::trainer::Trainer;

use super::*;
use crate::coloured::Coloured;
use crate::domains::HeldOut;
use crate::objectives::{objectives, plain_objectives};

fn held_out() -> (HeldOut, InputShape) {
    let digits = nabla_data::digits().unwrap();
    let domains = Coloured::default().of(&digits, 3).unwrap();
    (domains.hold_out("-90%", 0.2, 0).unwrap(), domains.shape())
}

fn config(epochs: usize) -> TrainingConfig {
    TrainingConfig {
        epochs,
        batch: 160,
        seed: 4,
        ..TrainingConfig::default()
    }
}

fn plan(held_out: &HeldOut, steps: usize) -> Plan {
    Plan {
        examples: held_out.training.len(),
        batch: 160,
        steps,
        seed: 4,
        scaled: false,
        augmented: false,
    }
}

fn mlp() -> Mlp {
    let config = MlpConfig {
        hidden: vec![12, 12],
    };
    let model = config.init(128, 2, &Device::flex().autodiff()).unwrap();
    he_normal(model, 4).unwrap()
}

/// The same with its middle layer in four bits.
fn quantized() -> Quantized<Mlp> {
    let input = Tensor::<2>::ones([1, 128], &Device::flex().autodiff());
    let config = QuantizationConfig::default();
    Quantized::new(mlp(), &config, |mlp| drop(mlp.logits(input))).unwrap()
}

fn trainer<'a, M: Classifier + 'static>(
    parts: &'a HeldOut,
    shape: InputShape,
    objective: &DomainObjective,
    epochs: usize,
    model: M,
) -> Trainer<Classification<'a, M>> {
    let config = config(epochs);
    let mut trainer = config
        .trainer(&parts.training, &parts.validation, shape, model)
        .unwrap();
    let objective = objective.clone().for_domains(&parts.counts);
    let source = objective
        .source(trainer.model(), plan(parts, trainer.steps()))
        .unwrap();
    trainer.task_mut().set_source(source.unwrap());
    trainer
}

/// Every domain's examples are met once in an epoch of its own, in batches of one size.
#[test]
fn every_domain_has_its_own_epochs() {
    let mut order = DomainOrder::new(100, 10, 3, 7);
    for epoch in 0..3 {
        let mut met: Vec<usize> = (0..3).flat_map(|i| order.of_step(3 * epoch + i)).collect();
        assert_eq!(met.len(), 9);
        met.sort_unstable();
        met.dedup();
        assert!(met.len() == 9 && met[0] >= 100 && met[8] < 110);
    }
    assert_ne!(order.of_step(0), order.of_step(3));
    assert_eq!(DomainOrder::new(0, 4, 9, 1).of_step(5).len(), 4);
}

/// A training is taken up from a checkpoint with the same bits, whatever the objective.
#[test]
fn trainings_are_taken_up_with_the_same_bits() {
    taken_up(&plain_objectives::<Mlp>(), mlp);
    taken_up(&objectives::<Quantized<Mlp>>().names(), quantized);
}

fn taken_up<M: Classifier + 'static>(names: &[&str], model: impl Fn() -> M) {
    let (parts, shape) = held_out();
    let folder = tempfile::tempdir().unwrap();
    let go_on = &mut |_: nabla_train::trainer::Progress<'_>| ControlFlow::Continue(());
    for &name in names {
        let mut objective = DomainObjective::named(name);
        if ["irm", "vrex", "fishr"].contains(&name) {
            objective = objective.with("anneal_steps", 3);
        }
        let mut whole = trainer(&parts, shape, &objective, 2, model());
        whole.run(None, go_on).unwrap();
        let path = folder.path().join(name);
        let mut begun = trainer(&parts, shape, &objective, 2, model());
        begun
            .run(Some(&path), &mut |progress| match progress.step {
                5 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
            .unwrap();
        let mut resumed = trainer(&parts, shape, &objective, 2, model())
            .resume(&path)
            .unwrap();
        assert_eq!(resumed.step(), 5);
        resumed.run(None, go_on).unwrap();
        let [a, b] =
            [whole.model(), resumed.model()].map(|m| nabla_train::experiment::weights(m).unwrap());
        assert!(a == b, "{name}");
        assert_eq!(whole.history().steps, resumed.history().steps, "{name}");
        let other = DomainObjective::named(if name == "erm" { "sam" } else { "erm" });
        assert!(
            trainer(&parts, shape, &other, 2, model())
                .resume(&path)
                .is_err(),
            "{name}"
        );
    }
}

/// ERM on domains is the plain training, if a step sees all examples.
#[test]
fn erm_on_all_examples_is_the_plain_training() {
    let (parts, shape) = held_out();
    let all = TrainingConfig {
        batch: parts.training.len(),
        ..config(3)
    };
    let model = || {
        let model = MlpConfig { hidden: vec![12] }
            .init(128, 2, &Device::flex().autodiff())
            .unwrap();
        he_normal(model, 4).unwrap()
    };
    let losses = |source: bool| {
        let mut trainer = all
            .trainer(&parts.training, &parts.validation, shape, model())
            .unwrap();
        if source {
            let erm = DomainObjective::named("erm").for_domains(&parts.counts);
            let plan = Plan {
                batch: parts.training.len(),
                ..plan(&parts, 3)
            };
            let source = erm.source(trainer.model(), plan).unwrap();
            trainer.task_mut().set_source(source.unwrap());
        }
        trainer
            .run(None, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        let steps = trainer.history().steps.clone();
        let last = trainer.history().epochs.last().unwrap().training_accuracy;
        (
            steps.iter().map(|s| s.loss.unwrap()).collect::<Vec<f32>>(),
            last,
        )
    };
    let ((plain, accuracy), (domains, same)) = (losses(false), losses(true));
    for (a, b) in plain.iter().zip(&domains) {
        assert!((a - b).abs() < 1e-5, "{plain:?}, {domains:?}");
    }
    assert!((accuracy - same).abs() < 1e-9);
}

/// A second pass at other weights leaves the running statistics of batch normalisations as the first one made them.
#[test]
fn second_passes_do_not_move_the_statistics() {
    let (parts, shape) = held_out();
    let statistics = |name: &str| {
        let cnn = CnnConfig {
            channels: vec![4],
            normalization: Normalization::Batch,
        };
        let InputShape::Picture(pixels) = shape else {
            panic!("{shape:?}")
        };
        let model = he_normal(cnn.init(pixels, 2, &Device::flex().autodiff()).unwrap(), 1).unwrap();
        let mut trainer = config(1)
            .trainer(&parts.training, &parts.validation, shape, model)
            .unwrap();
        let objective = DomainObjective::named(name).for_domains(&parts.counts);
        let source = objective.source(trainer.model(), plan(&parts, 6)).unwrap();
        trainer.task_mut().set_source(source.unwrap());
        trainer.train_step().unwrap();
        let norm = trainer.model().stages[0].norm.as_ref().unwrap();
        let mean = norm
            .running_mean
            .value_sync()
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        assert!(mean.iter().any(|&x| x != 0.0));
        mean
    };
    let plain = statistics("erm");
    assert_eq!(statistics("sam"), plain);
    assert_eq!(statistics("sagm"), plain);
}

#[test]
fn plans_that_do_not_fit_are_refused_in_one_sentence() {
    let (parts, _) = held_out();
    let model = MlpConfig { hidden: vec![4] }
        .init(128, 2, &Device::flex().autodiff())
        .unwrap();
    let told = |domains: &[usize], plan: Plan| {
        let erm = DomainObjective::named("erm").for_domains(domains);
        erm.source(&model, plan).err().unwrap().to_string()
    };
    let plan = plan(&parts, 3);
    assert!(told(&[], plan).contains("number of training domains"));
    assert!(told(&[5, 6], plan).contains("those of the training"));
    assert!(told(&parts.counts, Plan { batch: 3, ..plan }).contains("two examples of each domain"));
    let unknown = DomainObjective::named("best").for_domains(&parts.counts);
    assert!(
        unknown
            .source(&model, plan)
            .err()
            .unwrap()
            .to_string()
            .contains("there is no objective")
    );
}

#[test]
fn a_domain_is_held_out_with_all_its_examples() {
    let (parts, shape) = held_out();
    assert_eq!(parts.names, ["+90%", "+80%"]);
    assert_eq!(
        (parts.test.len(), parts.counts.clone()),
        (599, vec![480, 480])
    );
    assert_eq!(parts.validation.len(), 238);
    let by_domain = parts.validation_by_domain(shape.features());
    assert_eq!(
        by_domain.iter().map(Examples::len).collect::<Vec<_>>(),
        [119, 119]
    );
    let digits = nabla_data::digits().unwrap();
    let domains = Coloured::default().of(&digits, 3).unwrap();
    assert!(
        domains
            .hold_out("-80%", 0.2, 0)
            .unwrap_err()
            .to_string()
            .contains("+90%, +80%, -90%")
    );
    let one = domains.without(&["+90%", "+80%"]).unwrap();
    assert!(
        one.hold_out("-90%", 0.2, 0)
            .unwrap_err()
            .to_string()
            .contains("only the domain")
    );
    assert!(domains.hold_out("-90%", 1.0, 0).is_err());
}

/// UDIM's warm-up ends at its best weights by the validation examples, also in a training that was taken up within it.
#[test]
fn the_best_weights_of_a_warm_up_are_taken_up() {
    let (parts, shape) = held_out();
    let udim = |validated: bool| {
        let udim = DomainObjective::named("udim")
            .with("warmup", 0.5)
            .with("validate_every", 2);
        match validated {
            true => udim.validated_on(parts.validation.clone()),
            false => udim,
        }
    };
    // Ten of twenty-four steps and two more.
    let path = tempfile::tempdir().unwrap().path().join("udim");
    let weights = |trainer: &Trainer<Classification<'_, Mlp>>| {
        nabla_train::experiment::weights(trainer.model()).unwrap()
    };
    let accuracy = |trainer: &Trainer<Classification<'_, Mlp>>| {
        let model = trainer.model();
        nabla_train::classification::evaluate(model, &parts.validation, shape)
            .unwrap()
            .1
    };
    let mut plain = trainer(&parts, shape, &udim(false), 4, mlp());
    let mut looked = trainer(&parts, shape, &udim(true), 4, mlp());
    assert_eq!(plain.steps(), 24);
    let (mut most, mut best) = (f64::NEG_INFINITY, Vec::new());
    for step in 1..=12 {
        plain.train_step().unwrap();
        looked.train_step().unwrap();
        assert!(weights(&plain) == weights(&looked), "{step}");
        if step % 2 == 0 && accuracy(&plain) > most {
            (most, best) = (accuracy(&plain), weights(&plain));
        }
        if step == 7 {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            looked.save(&path).unwrap();
        }
    }
    looked.train_step().unwrap();
    let mut resumed = trainer(&parts, shape, &udim(true), 4, mlp())
        .resume(&path)
        .unwrap();
    for _ in 7..13 {
        resumed.train_step().unwrap();
    }
    assert!(weights(&resumed) == weights(&looked));
    plain.train_step().unwrap();
    // Where the last weights were the best, both go on alike.
    let last = best == {
        let mut again = trainer(&parts, shape, &udim(false), 4, mlp());
        (0..12).for_each(|_| {
            again.train_step().unwrap();
        });
        weights(&again)
    };
    assert_eq!(weights(&plain) == weights(&looked), last);
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}
