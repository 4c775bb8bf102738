use std::ops::ControlFlow;

use burn::tensor::Device;

use super::*;
use crate::activation_set::Storage;
use crate::gated_sae::GatedSaeConfig;
use crate::gradient_sae::{GradientSae, GradientSaeConfig};
use crate::jump_relu_sae::JumpReluSaeConfig;
use crate::sparse_autoencoder::tests::{data, top_k};
use crate::sparse_autoencoder::{DictionaryConfig, changed, read};

fn training(steps: usize) -> SaeTraining {
    SaeTraining {
        steps,
        batch: 32,
        learning_rate: 0.01,
        warm_up: 5,
        dead_after: Some(320),
        seed: 1,
    }
}

fn trained<S: SparseAutoencoder>(sae: S, steps: usize) -> Trainer<SaeTask<S>> {
    let mut trainer = training(steps).trainer(sae, Arc::new(data(256))).unwrap();
    trainer
        .run(None, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    trainer
}

#[test]
fn every_kind_learns_and_keeps_its_rows_at_length_1() {
    fn learns<S: SparseAutoencoder>(name: &str, sae: S) {
        let first = trained(sae.clone(), 1).task().last().unwrap();
        let trainer = trained(sae, 600);
        let last = trainer.task().last().unwrap();
        let (before, after) = (first.unexplained, last.unexplained);
        assert!(after < 0.3 * before.min(1.0), "{name}: {before} {after}");
        assert!(last.active < 12.0, "{name}: {}", last.active);
        let rows = trainer.model().dictionary().decoder.val();
        let lengths = read(rows.square().sum_dim(1)).unwrap();
        assert!(lengths.iter().all(|l| (l - 1.0).abs() < 1e-5), "{name}");
    }
    let device = Device::flex().autodiff();
    let (set, begin) = (data(256), DictionaryConfig::new(24));
    learns("gradient", top_k());
    let mut batch = GradientSaeConfig::top_k(2);
    batch.selection = crate::gradient_sae::Selection::Batch;
    learns("batch", batch.init(&begin, &set, &device).unwrap());
    let gated = GatedSaeConfig { penalty: 0.3 };
    learns("gated", gated.init(&begin, &set, &device).unwrap());
    let jump = JumpReluSaeConfig::new(0.01);
    learns("jump", jump.init(&begin, &set, &device).unwrap());
}

#[test]
fn a_training_that_is_broken_off_continues_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.safetensors");
    let whole = trained(top_k(), 30);
    let start = || training(30).trainer(top_k(), Arc::new(data(256))).unwrap();
    let mut first = start();
    let stop = &mut |step: nabla_train::trainer::Progress<'_, ()>| match step.step {
        17 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    first.run(Some(&path), stop).unwrap();
    let mut second = start().resume(&path).unwrap();
    second
        .run(None, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let weights = |trainer: &Trainer<SaeTask<GradientSae>>| {
        trainer.model().dictionary.decoder.val().into_data()
    };
    assert_eq!(weights(&second), weights(&whole));
    assert_eq!(second.task().last(), whole.task().last());
    assert_eq!(second.task().quiet, whole.task().quiet);
}

#[test]
fn dead_latents_come_to_life() {
    let mut sae = top_k();
    // Few latents are left to choose from.
    sae.dictionary.encoder_bias = changed(sae.dictionary.encoder_bias, |bias| {
        let low = Tensor::<1>::full([20], -1.5, &bias.device());
        Tensor::cat(vec![low, bias.narrow(0, 20, 4)], 0)
    });
    let last = |revival: f64| {
        let mut sae = sae.clone();
        sae.config.revival = revival;
        trained(sae, 500).task().last().unwrap()
    };
    let (without, with) = (last(0.0), last(1.0));
    assert!(with.dead < 0.9 * without.dead, "{without:?} {with:?}");
    assert!(
        with.unexplained < 0.9 * without.unexplained,
        "{without:?} {with:?}"
    );
}

#[test]
fn activations_of_another_width_are_refused() {
    let mut other = ActivationSet::new(2, Storage::default()).unwrap();
    other.push(&[1.0, 2.0, 3.0, 5.0], None).unwrap();
    let Err(told) = training(3).trainer(top_k(), Arc::new(other)) else {
        panic!("activations of 2 values are accepted");
    };
    assert_eq!(
        told.to_string(),
        "the dictionary is of activations of 8 values, but they have 2"
    );
    let mut none = training(3);
    none.batch = 0;
    assert!(none.trainer(top_k(), Arc::new(data(16))).is_err());
}

#[test]
fn a_penalty_closes_jump_relus_latents_in_a_short_training() {
    let device = Device::flex().autodiff();
    let active = |penalty: f64| {
        let begin = DictionaryConfig::new(24);
        // Few activations are near a threshold, in a bandwidth for thousands of rows.
        let mut config = JumpReluSaeConfig::new(penalty);
        config.bandwidth = 0.05;
        let sae = config.init(&begin, &data(256), &device);
        let mut short = training(200);
        short.learning_rate = 1e-3;
        let mut trainer = short.trainer(sae.unwrap(), Arc::new(data(256))).unwrap();
        trainer
            .run(None, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        trainer.task().last().unwrap().active
    };
    let (open, closed) = (active(0.0), active(1.0));
    assert!(closed < 0.6 * open, "{open} {closed}");
}
