//! A word learned through the whole sampler, on the tiny models.

use std::fs;
use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use nabla_diffusion::adjoint_dpm::Tuning;
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::stable_diffusion::effect::{EffectConfig, EffectError};
use nabla_diffusion::stable_diffusion::pipeline::{LoadOptions, SamplingOptions, StableDiffusion};
use nabla_diffusion::stable_diffusion::textual_inversion::TextualInversion;

use crate::tiny_models::folder;

fn model(name: &str) -> StableDiffusion {
    StableDiffusion::load(&folder(name), &Device::flex(), &LoadOptions::default()).unwrap()
}

fn options(model: &StableDiffusion) -> SamplingOptions {
    let side = 8 * model.factor();
    SamplingOptions {
        steps: 4,
        guidance_scale: 3.0,
        ..SamplingOptions::new([side, side])
    }
}

#[test]
fn a_word_is_learned_and_written_as_others_read_it() {
    for (name, encoders) in [("sd15", 1), ("sdxl", 2)] {
        let mut model = model(name);
        let options = options(&model);
        let shape = model.latent_shape(1, &options);
        let noise = SeededNoise::new(3, 0).normal(shape, &Device::flex());
        let config = EffectConfig {
            vectors: 2,
            tuning: Tuning::new().with_iterations(8),
            ..EffectConfig::new("<glow>", "a", "a <glow> a")
        };
        let target = noise.clone() * 0.3;
        let mut seen = 0;
        let learned = model
            .learn_effect(
                &config,
                &options,
                &noise,
                &mut |_, x| Ok((x - target.clone()).square().mean()),
                &mut |progress| {
                    seen = progress.done;
                    ControlFlow::Continue(())
                },
            )
            .unwrap();
        assert_eq!(seen, 8);
        let (first, last) = (learned.losses[0], learned.losses[7]);
        assert!(last < first, "{name}: {:?}", learned.losses);

        // The file is read again, and means the same.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("glow.safetensors");
        fs::write(&path, learned.inversion.file().unwrap()).unwrap();
        let read = TextualInversion::read(&path, Some("<glow>")).unwrap();
        assert_eq!(read.vectors(), 2);
        let other = self::model(name).with_embedding(read).unwrap();
        let [a, b] = [&model, &other].map(|m| m.encode_text("a <glow> a").unwrap().text);
        assert_eq!(a.dims()[2], b.dims()[2]);
        let difference: Tensor<3> = (a - b).abs();
        assert!(
            difference.max().into_scalar::<f32>() < 1e-6,
            "{name}, {encoders}"
        );
    }
}

/// The gradient through sampler and text encoder against a difference.
#[test]
fn the_loss_falls_as_the_gradient_says() {
    let mut model = model("sd15");
    let options = options(&model);
    let shape = model.latent_shape(1, &options);
    let noise = SeededNoise::new(3, 0).normal(shape, &Device::flex());
    // A tiny step of AdamW changes each number by the learning rate against its gradient's sign.
    let config = EffectConfig {
        tuning: Tuning::new()
            .with_iterations(2)
            .with_learning_rate(1e-3)
            .with_weight_decay(0.0),
        ..EffectConfig::new("<glow>", "a", "<glow>")
    };
    let learned = model
        .learn_effect(
            &config,
            &options,
            &noise,
            &mut |_, x| Ok(x.square().mean() * 1e3),
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap();
    assert!(
        learned.losses[1] < learned.losses[0],
        "{:?}",
        learned.losses
    );
}

#[test]
fn words_that_cannot_be_learned_are_refused() {
    let mut model = model("sd15");
    let options = options(&model);
    let noise = SeededNoise::new(3, 0).normal(model.latent_shape(1, &options), &Device::flex());
    let mut told = |config: EffectConfig, stop: bool| {
        let error = model.learn_effect(
            &config,
            &options,
            &noise,
            &mut |_, x| Ok(x.square().mean()),
            &mut |_| match stop {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            },
        );
        error.unwrap_err()
    };
    let without = told(EffectConfig::new("<glow>", "a", "a picture"), false);
    assert!(matches!(without, EffectError::NoWord { .. }), "{without}");
    let empty = told(EffectConfig::new("<glow>", "", "<glow>"), false);
    assert!(empty.to_string().contains("number of tokens"), "{empty}");
    let none = EffectConfig {
        tuning: Tuning::new().with_iterations(0),
        ..EffectConfig::new("<glow>", "a", "<glow>")
    };
    assert!(told(none, false).to_string().contains("iterations"));
    let stopped = told(EffectConfig::new("<glow>", "a", "<glow>"), true);
    assert!(matches!(stopped, EffectError::Cancelled), "{stopped}");
}
