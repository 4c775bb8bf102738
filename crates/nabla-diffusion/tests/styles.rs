//! A style learned by the attentions to the text, on the tiny models.

use std::fs;
use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use nabla_diffusion::adjoint_dpm::{StyleLoss, Tuning};
use nabla_diffusion::denoiser::{Condition, Denoiser};
use nabla_diffusion::level::Level;
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::stable_diffusion::effect::EffectError;
use nabla_diffusion::stable_diffusion::lora::{Lora, LoraTarget};
use nabla_diffusion::stable_diffusion::pipeline::{LoadOptions, SamplingOptions, StableDiffusion};
use nabla_diffusion::stable_diffusion::style::{LearnedStyle, StyleConfig};

use crate::tiny_models::folder;

fn model(name: &str, loras: Vec<Lora>) -> StableDiffusion {
    let options = LoadOptions {
        loras,
        ..LoadOptions::default()
    };
    StableDiffusion::load(&folder(name), &Device::flex(), &options).unwrap()
}

fn options(model: &StableDiffusion) -> SamplingOptions {
    let side = 8 * model.factor();
    SamplingOptions {
        steps: 3,
        guidance_scale: 2.0,
        ..SamplingOptions::new([side, side])
    }
}

fn config(rank: Option<usize>) -> StyleConfig {
    StyleConfig {
        rank,
        tuning: Tuning::new().with_iterations(6).with_learning_rate(0.02),
        seed: 3,
        ..StyleConfig::new(vec!["a picture".to_owned()])
    }
}

/// Learns the mean of the latents.
fn learned(model: &mut StableDiffusion, config: &StyleConfig) -> Result<LearnedStyle, EffectError> {
    let options = options(model);
    model.learn_style(
        config,
        &options,
        &mut |_, drawn| Ok((drawn.sample - 0.5).square().mean()),
        &mut |_| ControlFlow::Continue(()),
    )
}

/// What the network predicts for a text.
fn predicted(model: &StableDiffusion) -> Tensor<4> {
    let options = options(model);
    let text = model.encode_text("a picture").unwrap();
    let bound = model.denoiser(&[&text], None, &options, None).unwrap();
    let x = SeededNoise::new(9, 0).normal(model.latent_shape(1, &options), &Device::flex());
    let level = Level::variance_preserving(500.0, 0.5);
    bound
        .predict(x, level, &[Condition::Given(0)])
        .unwrap()
        .remove(0)
}

fn largest(x: Tensor<4>) -> f32 {
    x.abs().max().into_scalar::<f32>()
}

/// The tuned model, and the first one with the file as a LoRA, are the same; the names in the file are those of
/// layers, because a LoRA of unknown layers is refused.
#[test]
fn the_file_is_the_change_of_the_model() {
    for (name, rank) in [("sd15", Some(2)), ("sd15", None), ("sdxl", Some(1))] {
        let first = predicted(&model(name, Vec::new()));
        let mut tuned = model(name, Vec::new());
        let style = learned(&mut tuned, &config(rank)).unwrap();
        assert_eq!(style.losses.len(), 6);
        let tuned = predicted(&tuned);
        assert!(largest(tuned.clone() - first) > 1e-3, "{name}, {rank:?}");

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("style.safetensors");
        fs::write(&path, style.file().unwrap()).unwrap();
        let lora = Lora::read(&path, 1.0).unwrap();
        assert!(lora.changes(LoraTarget::UNet) && !lora.assumes_scale());
        let read = predicted(&model(name, vec![lora]));
        assert!(largest(tuned - read) < 1e-5, "{name}, {rank:?}");
    }
}

/// From the noises of the first iterations, the tuned model draws pictures of lower loss; the same seed gives the same
/// numbers.
#[test]
fn the_loss_of_a_style_falls() {
    let first = model("sd15", Vec::new());
    let options = options(&first);
    let picture = SeededNoise::new(5, 0).normal([1, 3, 64, 48], &Device::flex());
    let maps = first.picture_maps(picture.clamp(-1.0, 1.0)).unwrap();
    assert_eq!(maps.len(), 4);
    let style = StyleLoss::relative(maps).unwrap();
    let config = StyleConfig {
        with_first: true,
        tuning: Tuning::new().with_iterations(12).with_learning_rate(0.02),
        ..config(Some(2))
    };
    let learn = |model: &mut StableDiffusion| {
        let learned = model.learn_style(
            &config,
            &options,
            &mut |model, drawn| {
                assert!(drawn.first.is_some());
                let picture = model.decode(drawn.sample)?;
                Ok(style.of(model.picture_maps(picture)?)?)
            },
            &mut |_| ControlFlow::Continue(()),
        );
        learned.unwrap().losses
    };
    let mut tuned = model("sd15", Vec::new());
    let losses = learn(&mut tuned);
    assert_eq!(learn(&mut model("sd15", Vec::new())), losses);
    let again = learn(&mut tuned);
    assert!(again[0] < losses[0], "{again:?} after {losses:?}");
}

/// A run that is stopped or fails leaves the model as it was.
#[test]
fn a_style_that_is_not_learned_changes_nothing() {
    let mut model = model("sd15", Vec::new());
    let first = predicted(&model);
    let options = options(&model);
    let mut told = |config: &StyleConfig, stop: bool| {
        let error = model.learn_style(
            config,
            &options,
            &mut |_, drawn| Ok(drawn.sample.square().mean()),
            &mut |_| match stop {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            },
        );
        error.unwrap_err()
    };
    let stopped = told(&config(Some(2)), true);
    assert!(matches!(stopped, EffectError::Cancelled), "{stopped}");
    let none = told(&config(Some(0)), false);
    assert!(none.to_string().contains("rank of the change"), "{none}");
    let none = told(&StyleConfig::new(Vec::new()), false);
    assert!(none.to_string().contains("number of prompts"), "{none}");
    assert_eq!(largest(predicted(&model) - first), 0.0);
}
