//! Guidances on Stable Diffusion: the tiny models.

use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use nabla_diffusion::denoiser::{Condition, Denoiser};
use nabla_diffusion::guidance::{Evaluations, Guidance, guidances};
use nabla_diffusion::level::Level;
use nabla_diffusion::registry::Options;
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::stable_diffusion::pipeline::{
    LoadOptions, RunDoors, SamplingOptions, SamplingProgress, StableDiffusion,
    StableDiffusionError, Start,
};

use crate::tiny_models::{distance, folder};

fn model(name: &str) -> StableDiffusion {
    StableDiffusion::load(&folder(name), &Device::flex(), &LoadOptions::default()).unwrap()
}

fn options(steps: usize) -> SamplingOptions {
    SamplingOptions {
        steps,
        sampler: "ddim".into(),
        ..SamplingOptions::new([40, 64])
    }
}

/// A run with a guidance, or with the usual one.
fn draw(
    model: &StableDiffusion,
    start: &Start,
    options: &SamplingOptions,
    guidance: Option<&mut dyn Guidance>,
) -> (Tensor<4>, Evaluations) {
    let positive = model.encode_text("an astronaut").unwrap();
    let negative = model.encode_nothing().unwrap();
    let mut evaluations = Evaluations::new();
    let mut doors = RunDoors::default().counted_in(&mut evaluations);
    if let Some(guidance) = guidance {
        doors = doors.guided_by(guidance);
    }
    let mut go = |_: SamplingProgress<'_>| ControlFlow::Continue(());
    let latent = model.sample_with(&positive, &negative, start, options, doors, &mut go);
    (latent.unwrap(), evaluations)
}

#[test]
fn every_guidance_draws_and_is_counted() {
    for name in ["sd15", "sd21", "sdxl"] {
        let model = model(name);
        let (usual, evaluations) = draw(&model, &Start::Noise, &options(4), None);
        assert_eq!((evaluations.total(), evaluations.saved()), (8, 0), "{name}");
        let mut seen: Vec<Tensor<4>> = Vec::new();
        for entry in guidances::<4>().entries() {
            let mut guidance = entry_of(entry.name(), &[]);
            let (found, evaluations) =
                draw(&model, &Start::Noise, &options(4), Some(&mut guidance));
            let what = format!("{} on {name}", entry.name());
            let largest = found.clone().abs().max().into_scalar::<f32>();
            assert!(largest.is_finite() && largest > 0.0, "{what}");
            let expected = match entry.name() {
                "none" => 4..=4,
                "adaptive" | "limited-interval" => 4..=8,
                "perturbed-attention" | "self-attention" => 12..=12,
                _ => 8..=8,
            };
            assert!(
                expected.contains(&evaluations.total()),
                "{what}: {evaluations:?}"
            );
            seen.push(found);
        }
        // Classifier-free guidance through the door, and adaptive guidance that never ends, are the usual one.
        assert_eq!(distance(seen[1].clone(), usual.clone()), 0.0, "{name}");
        let mut adaptive = entry_of("adaptive", &["threshold=1"]);
        let (found, _) = draw(&model, &Start::Noise, &options(4), Some(&mut adaptive));
        assert_eq!(distance(found, usual), 0.0, "{name}");
        for (i, a) in seen.iter().enumerate() {
            // Adaptive guidance may be classifier-free in all of so few steps.
            for b in seen[..i].iter().filter(|_| i != 4 && i != 5) {
                assert!(distance(a.clone(), b.clone()) > 0.0, "{name}: {i}");
            }
        }
    }
}

fn entry_of(name: &str, options: &[&str]) -> Box<dyn Guidance> {
    let options = Options::parse(options).unwrap();
    guidances::<4>().make(name, &options).unwrap()
}

/// Rows under conditions of their own, in one call, are what whole batches give.
#[test]
fn rows_of_the_unet_are_those_of_its_batches() {
    for name in ["sd15", "sdxl"] {
        let model = model(name);
        let [a, b] = ["an astronaut", "a horse"].map(|text| model.encode_text(text).unwrap());
        let nothing = model.encode_nothing().unwrap();
        let unet = model
            .denoiser(&[&a, &b], Some(&nothing), &options(4), None)
            .unwrap();
        let x = SeededNoise::new(1, 0).normal([2, 4, 5, 8], &Device::flex());
        let level = Level::variance_preserving(300.0, 0.5);
        let conditions = [Condition::Without, Condition::Given(0), Condition::Given(1)];
        let whole = unet.predict(x.clone(), level, &conditions).unwrap();
        let row = |x: &Tensor<4>, row: usize| x.clone().slice_dim(0, row..row + 1);
        let asked = [
            (1, Condition::Given(1)),
            (0, Condition::Without),
            (1, Condition::Given(0)),
        ];
        let rows = Tensor::cat(asked.iter().map(|&(i, _)| row(&x, i)).collect(), 0);
        let found = unet.predict_rows(rows, level, &asked).unwrap();
        for (place, (of, at)) in [(2, 1), (0, 0), (1, 1)].into_iter().enumerate() {
            let error = distance(row(&found, place), row(&whole[of], at));
            assert!(error < 1e-5, "{name} {place}: {error}");
        }
        let error = unet
            .predict_rows(row(&x, 0), level, &[(0, Condition::Given(2))])
            .unwrap_err();
        assert!(
            error.to_string().contains("2 text(s), and one without"),
            "{error}"
        );
        let (plain, attention) = unet
            .predict_attending(row(&x, 0), level, &[(0, Condition::Given(0))])
            .unwrap();
        assert!(distance(plain, row(&whole[1], 0)) < 1e-5, "{name}");
        let mean = attention.mean().into_scalar::<f32>();
        assert!((mean - 1.0).abs() < 1e-5, "{name}: {mean}");
    }
}

/// Inverted and drawn under the same text a picture changes less than drawn under another one. (That a run is
/// undone exactly is tested where the network is known.)
#[test]
fn a_picture_is_inverted_and_edited() {
    let model = model("sd15");
    let values: Vec<f32> = (0..3 * 40 * 64)
        .map(|i| (i as f32 / 97.0).sin() * 0.8)
        .collect();
    let picture = Tensor::<1>::from_floats(values.as_slice(), &Device::flex());
    let picture: Tensor<4> = picture.reshape([1, 3, 40, 64]);
    let latent = model.encode(picture.clone(), None).unwrap();
    let start = |text: &str, iterations: usize| Start::Inverted {
        picture: picture.clone(),
        source: model.encode_text(text).unwrap(),
        strength: 0.1,
        iterations,
    };
    // A network with random weights turns quickly: short steps at low noise.
    let steps = options(100);
    for name in ["none", "cfg++"] {
        let mut guidance = entry_of(name, &[]);
        let each = guidance_evaluations(name);
        let (same, evaluations) = draw(
            &model,
            &start("an astronaut", 6),
            &steps,
            Some(&mut guidance),
        );
        assert_eq!(evaluations.total(), each * (6 * 10 + 10), "{name}");
        let (other, _) = draw(&model, &start("a horse", 6), &steps, Some(&mut guidance));
        let largest = latent.clone().abs().max().into_scalar::<f32>();
        let [same, other] = [same, other].map(|x| distance(x, latent.clone()) / largest);
        assert!(same < other, "{name}: {same}, {other}");
    }

    let told = |start: Start, stop_at: usize| {
        let (mut calls, mut whole) = (0, 0);
        let mut observe = |progress: SamplingProgress<'_>| {
            (calls, whole) = (progress.done, progress.total);
            match progress.done == stop_at {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let text = model.encode_text("an astronaut").unwrap();
        let drawn = model.sample(&text, &text, &start, &steps, &mut observe);
        (drawn, calls, whole)
    };
    let (drawn, calls, whole) = told(start("a horse", 2), usize::MAX);
    assert_eq!((drawn.is_ok(), calls, whole), (true, 30, 30));
    let (drawn, calls, _) = told(start("a horse", 2), 3);
    assert!(matches!(drawn, Err(StableDiffusionError::Cancelled)) && calls == 3);
    let (drawn, calls, _) = told(start("a horse", 0), 1);
    assert!(
        drawn
            .unwrap_err()
            .to_string()
            .contains("iterations of the inversion is 0")
    );
    assert_eq!(calls, 0);
}

fn guidance_evaluations(name: &str) -> usize {
    match name {
        "none" => 1,
        _ => 2,
    }
}
