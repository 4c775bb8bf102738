//! Whole runs against the pipelines of `diffusers`: text to picture, from a picture, within a mask.

use std::ops::ControlFlow;

use crate::tiny_models::{Reference, distance, folder, path};
use burn::tensor::{Device, Tensor};
use nabla_diffusion::denoiser::Denoiser;
use nabla_diffusion::sampler::SamplerKind;
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::sigma_spacing::SigmaSpacing;
use nabla_diffusion::stable_diffusion::conditioned_unet::classifier_free_guidance;
use nabla_diffusion::stable_diffusion::lora::Lora;
use nabla_diffusion::stable_diffusion::pipeline::{
    Conditioning, GivenNoise, LoadOptions, SamplingOptions, StableDiffusion, Start, latent_file,
};
use safetensors::SafeTensors;

const PROMPT: &str = "A photograph of an astronaut riding a horse, 4k!";

fn model(name: &str) -> StableDiffusion {
    StableDiffusion::load(&folder(name), &Device::flex(), &LoadOptions::default()).unwrap()
}

fn options(steps: usize, sampler: SamplerKind) -> SamplingOptions {
    SamplingOptions {
        steps,
        sampler: Some(sampler),
        ..SamplingOptions::new([40, 64])
    }
}

fn run(
    model: &StableDiffusion,
    start: &Start,
    options: &SamplingOptions,
    given: &GivenNoise,
) -> Tensor<4> {
    let positive = model.encode_text(PROMPT).unwrap();
    let negative = model.encode_nothing().unwrap();
    let mut observe = |_: nabla_diffusion::stable_diffusion::pipeline::SamplingProgress<'_>| {
        ControlFlow::Continue(())
    };
    model
        .sample_with_noise(&positive, &negative, start, options, given, &mut observe)
        .unwrap()
}

/// The last of the latents of a run.
fn last(reference: &Reference, name: &str) -> Tensor<4> {
    let all = reference.tensor::<5>(name);
    let count = all.dims()[0];
    all.slice_dim(0, count - 1..count).squeeze_dim(0)
}

/// Guidance makes errors of rounding grow, up to 30 times in these runs.
fn check(found: Tensor<4>, expected: Tensor<4>, what: &str) {
    let largest = expected.clone().abs().max().into_scalar::<f32>();
    let difference = distance(found, expected) / largest;
    assert!(difference < 1e-4, "{what}: {difference}");
}

#[test]
fn a_text_becomes_the_same_picture() {
    for (name, sampler) in [("sd15", SamplerKind::Ddim), ("sdxl", SamplerKind::Euler)] {
        let model = model(name);
        let reference = Reference::of(name);
        let given = GivenNoise {
            start: Some(reference.tensor("text2img.start")),
            ..GivenNoise::default()
        };
        let mut sampling = options(4, sampler);
        if model.takes_sizes() {
            sampling.original_size = Some([96, 80]);
            sampling.crop = [4, 8];
        }
        let latent = run(&model, &Start::Noise, &sampling, &given);
        check(latent.clone(), last(&reference, "text2img.latents"), name);
        let picture = model.decode(latent).unwrap() * 0.5 + 0.5;
        let expected = reference
            .tensor::<4>("text2img.image")
            .permute([0, 3, 1, 2]);
        let difference = distance(picture, expected);
        assert!(difference < 1e-3, "{name}: {difference}");
    }
}

/// Ten steps with guidance 7.5. A difference of rounding at the start grows up to 35 times in these runs
/// (`error_growth` in the facts), in `diffusers` too.
#[test]
fn samplers_take_the_unet_where_diffusers_does() {
    // SDXL's were recorded with another target than the size of the latent.
    for name in ["sd15", "sd21"] {
        let model = model(name);
        let reference = Reference::of(name);
        let given = GivenNoise {
            start: Some(reference.tensor("sampler.start")),
            ..GivenNoise::default()
        };
        for (recorded, kind, karras) in SAMPLERS {
            let sampling = SamplingOptions {
                size: [64, 64],
                sigmas: karras.then_some(SigmaSpacing::Karras),
                ..options(10, kind)
            };
            let found = run(&model, &Start::Noise, &sampling, &given);
            let expected = last(&reference, &format!("sampler.{recorded}.latents"));
            let largest = expected.clone().abs().max().into_scalar::<f32>();
            let difference = distance(found, expected) / largest;
            assert!(difference < 2e-4, "{name} {recorded}: {difference}");
        }
    }
}

fn bits(x: Tensor<4>) -> Vec<u32> {
    let values: Vec<f32> = x.into_data().try_to_vec().unwrap();
    values.iter().map(|v| v.to_bits()).collect()
}

/// The public denoiser under the same guidance, sampler and seed.
#[test]
fn the_denoiser_under_guidance_gives_the_pipelines_own_bits() {
    for (name, rescale) in [("sd15", 0.0), ("sd21", 0.7), ("sdxl", 0.0)] {
        let model = model(name);
        for kind in SamplerKind::ALL {
            let mut sampling = SamplingOptions {
                guidance_rescale: rescale,
                ..options(5, kind)
            };
            if model.takes_sizes() {
                sampling.original_size = Some([96, 80]);
                sampling.crop = [4, 8];
            }
            let whole = run(&model, &Start::Noise, &sampling, &GivenNoise::default());

            let positive = model.encode_text(PROMPT).unwrap();
            let negative = model.encode_nothing().unwrap();
            let unet = model.denoiser(&[&negative, &positive], &sampling, None);
            let guided = unet.unwrap().guided(|each, _| {
                let [without, with] = [0, 1].map(|i: usize| each[i].clone());
                classifier_free_guidance(without, with, 7.5, rescale)
            });
            assert_eq!(guided.prediction(), model.prediction());
            let made = model.scheduler().sampler(kind, None, 5).unwrap();
            let mut noise = SeededNoise::new(sampling.seed, 0);
            let start = noise.normal(model.latent_shape(1, &sampling), &Device::flex());
            let start = start * made.start_scale;
            let own = made.sampler.sample(&guided, start, &mut noise).unwrap();
            assert!(bits(own) == bits(whole), "{name} {kind}");
        }
        // Without guidance it is the model of its first text.
        let sampling = SamplingOptions {
            guidance_scale: 1.0,
            ..options(5, SamplerKind::Ddim)
        };
        let whole = run(&model, &Start::Noise, &sampling, &GivenNoise::default());
        let positive = model.encode_text(PROMPT).unwrap();
        let negative = model.encode_nothing().unwrap();
        let unet = model
            .denoiser(&[&positive, &negative], &sampling, None)
            .unwrap();
        let made = model
            .scheduler()
            .sampler(SamplerKind::Ddim, None, 5)
            .unwrap();
        let mut noise = SeededNoise::new(sampling.seed, 0);
        let start = noise.normal(model.latent_shape(1, &sampling), &Device::flex());
        let own = made.sampler.sample(&unet, start, &mut noise).unwrap();
        assert!(bits(own) == bits(whole), "{name}");
    }
}

#[test]
fn a_batch_under_several_texts_is_each_of_them_alone() {
    for name in ["sd15", "sdxl"] {
        let model = model(name);
        let sampling = options(5, SamplerKind::Ddim);
        let texts = ["a horse", "", PROMPT].map(|text| model.encode_text(text).unwrap());
        let unet = |texts: &[&Conditioning]| model.denoiser(texts, &sampling, None).unwrap();
        let all = unet(&[&texts[0], &texts[1], &texts[2]]);
        assert_eq!(all.texts(), 3);
        let mut noise = SeededNoise::new(1, 0);
        let x = noise.normal(model.latent_shape(2, &sampling), &Device::flex());
        let level = model.scheduler().training_schedule().unwrap().level(700);
        let each = all.predict_each(x.clone(), level);
        assert_eq!(each.len(), 3);
        let largest = each[0].clone().abs().max().into_scalar::<f32>();
        let apart = distance(each[0].clone(), each[2].clone()) / largest;
        println!("{name}: two texts are {apart:.1e} apart");
        assert!(apart > 1e-3, "{name}: {apart}");
        for (text, found) in texts.iter().zip(each) {
            for i in 0..2 {
                let x = x.clone().slice_dim(0, i..i + 1);
                let alone = unet(&[text]).predict(x, level);
                let difference = distance(alone, found.clone().slice_dim(0, i..i + 1));
                assert!(difference / largest < 5e-5, "{name}: {difference}");
            }
        }
    }
}

#[test]
fn a_denoiser_of_parts_that_do_not_fit_is_refused() {
    let (small, large) = (model("sd15"), model("sdxl"));
    let sampling = options(5, SamplerKind::Ddim);
    fn told(
        model: &StableDiffusion,
        texts: &[&Conditioning],
        options: &SamplingOptions,
        extra: Option<Tensor<4>>,
    ) -> String {
        let refused = model.denoiser(texts, options, extra).unwrap_err();
        refused.to_string()
    }
    assert!(told(&small, &[], &sampling, None).contains("number of texts is 0"));
    let [own, other] = [&small, &large].map(|m| m.encode_text("a").unwrap());
    let refused = told(&small, &[&own, &other], &sampling, None);
    assert!(refused.contains("the shape of a text is"), "{refused}");
    assert!(told(&small, &[&other], &sampling, None).contains("channels of a text"));
    let bare = Conditioning {
        pooled: None,
        ..other.clone()
    };
    assert!(told(&large, &[&bare], &sampling, None).contains("pooled form of a text is missing"));
    let extra = Tensor::zeros([1, 5, 5, 8], &Device::flex());
    assert!(told(&small, &[&own], &sampling, Some(extra)).contains("it must be left out"));
    let mut wrong = sampling.clone();
    wrong.size = [41, 64];
    assert!(told(&small, &[&own], &wrong, None).contains("size of the picture is 64 x 41"));
    wrong.size = [40, 64];
    wrong.crop = [1, 0];
    assert!(told(&small, &[&own], &wrong, None).contains("the crop is"));
}

/// A file of latents holds them in the order of their axes, whatever their order in memory.
#[test]
fn a_transposed_latent_is_written_as_it_reads() {
    let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let x = Tensor::<1>::from_floats(&values[..], &Device::flex()).reshape([1, 2, 3, 4]);
    let turned = x.clone().swap_dims(2, 3);
    let bytes = latent_file(turned.clone()).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor("latents").unwrap();
    assert_eq!(view.shape(), [1, 2, 4, 3]);
    let found: Vec<f32> = view
        .data()
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    let expected =
        |channel: usize, column: usize, row: usize| (channel * 12 + row * 4 + column) as f32;
    for (at, value) in found.iter().enumerate() {
        assert_eq!(*value, expected(at / 12, at % 12 / 3, at % 3), "{at}");
    }
}

/// As the references call them; whether the noise levels are those of Karras et al.
const SAMPLERS: [(&str, SamplerKind, bool); 8] = [
    ("ddim", SamplerKind::Ddim, false),
    ("euler", SamplerKind::Euler, false),
    ("dpm_karras", SamplerKind::DpmSolverMultistep, true),
    ("dpm", SamplerKind::DpmSolverMultistep, false),
    ("pndm", SamplerKind::Plms, false),
    ("unipc", SamplerKind::UniPc, false),
    ("heun", SamplerKind::Heun, false),
    ("lms", SamplerKind::Lms, false),
];

#[test]
fn skipped_layers_are_those_of_diffusers() {
    for name in ["sd15", "sd21"] {
        let text = model(name).encode_text_skipping(PROMPT, 1).unwrap().text;
        let expected = Reference::of(name).tensor::<3>("text.embeds_clip_skip_1");
        let difference = distance(text, expected);
        assert!(difference < 1e-5, "{name}: {difference}");
    }
}

#[test]
fn a_picture_becomes_the_same_picture() {
    let model = model("sd15");
    let reference = Reference::of("sd15");
    let start = Start::Picture {
        picture: reference.tensor::<4>("image") * 2.0 - 1.0,
        strength: 0.6,
    };
    let given = GivenNoise {
        start: Some(reference.tensor("img2img.start_noise")),
        posterior: Some(reference.tensor("img2img.posterior_noise")),
        ..GivenNoise::default()
    };
    let latent = run(&model, &start, &options(10, SamplerKind::Ddim), &given);
    check(latent, last(&reference, "img2img.latents"), "img2img");
}

#[test]
fn what_a_mask_keeps_is_kept() {
    let model = model("sd15");
    let reference = Reference::of("sd15");
    let mask = reference.tensor::<4>("inpaint.mask");
    let start = Start::Masked {
        picture: reference.tensor::<4>("image") * 2.0 - 1.0,
        mask,
        strength: 1.0,
    };
    let given = GivenNoise {
        start: Some(reference.tensor("inpaint.start_noise")),
        posterior: Some(reference.tensor("inpaint.posterior_noise")),
        ..GivenNoise::default()
    };
    let latent = run(&model, &start, &options(6, SamplerKind::Ddim), &given);
    check(latent, last(&reference, "inpaint.latents"), "inpaint");
    // Every sampler keeps it.
    let latents: Vec<Tensor<4>> = [SamplerKind::Plms, SamplerKind::Euler, SamplerKind::UniPc]
        .map(|kind| run(&model, &start, &options(6, kind), &given))
        .to_vec();
    let keep = reference.tensor::<4>("inpaint.latent_mask").neg() + 1.0;
    for latent in &latents[1..] {
        let difference = distance(
            latent.clone() * keep.clone(),
            latents[0].clone() * keep.clone(),
        );
        assert!(difference < 1e-5, "{difference}");
        assert!(distance(latent.clone(), latents[0].clone()) > 1e-2);
    }
}

#[test]
fn the_seed_decides_every_bit_and_a_lora_changes_them() {
    let model = model("sd15");
    let mut sampling = options(3, SamplerKind::EulerAncestral);
    let none = GivenNoise::default();
    let first = run(&model, &Start::Noise, &sampling, &none);
    let again = run(&model, &Start::Noise, &sampling, &none);
    assert_eq!(first.clone().into_data(), again.into_data());
    let changed = LoadOptions {
        loras: vec![Lora::read(&path("sd15").join("lora/peft.safetensors"), 1.0).unwrap()],
        ..LoadOptions::default()
    };
    let changed = StableDiffusion::load(&folder("sd15"), &Device::flex(), &changed).unwrap();
    let other = run(&changed, &Start::Noise, &sampling, &none);
    assert!(distance(first.clone(), other) > 1e-2);
    sampling.seed += 1;
    let other = run(&model, &Start::Noise, &sampling, &none);
    assert!(distance(first, other) > 1e-2);
}

#[test]
fn what_cannot_be_sampled_is_told() {
    let model = model("sd15");
    let positive = model.encode_text(PROMPT).unwrap();
    let told = |start: &Start, options: &SamplingOptions| {
        let mut go = |_: nabla_diffusion::stable_diffusion::pipeline::SamplingProgress<'_>| {
            ControlFlow::Break(())
        };
        model
            .sample(&positive, &positive, start, options, &mut go)
            .unwrap_err()
            .to_string()
    };
    let plain = options(3, SamplerKind::Ddim);
    assert!(told(&Start::Noise, &plain).contains("cancelled"));
    let wrong = SamplingOptions {
        size: [41, 64],
        ..plain.clone()
    };
    assert!(told(&Start::Noise, &wrong).contains("64 x 41"));
    let wrong = SamplingOptions {
        guidance_scale: f64::NAN,
        ..plain.clone()
    };
    assert!(told(&Start::Noise, &wrong).contains("guidance scale is NaN"));
    let wrong = SamplingOptions {
        original_size: Some([96, 80]),
        ..plain.clone()
    };
    assert!(told(&Start::Noise, &wrong).contains("original size is 80 x 96"));
    let wrong = SamplingOptions {
        crop: [0, 8],
        ..plain.clone()
    };
    assert!(told(&Start::Noise, &wrong).contains("crop is 8, 0"));
    let error = model.encode_text_skipping("x", 3).unwrap_err().to_string();
    assert!(error.contains("is 3, but it must be at most 2"), "{error}");
    let picture = Tensor::zeros([1, 3, 40, 64], &Device::flex());
    for strength in [0.1, 1.5] {
        let start = Start::Picture {
            picture: picture.clone(),
            strength,
        };
        assert!(told(&start, &plain).contains("strength"), "{strength}");
    }
    let wrong = SamplingOptions {
        steps: 5000,
        ..plain
    };
    assert!(told(&Start::Noise, &wrong).contains("5000"));
}
