//! Whole runs against the pipelines of `diffusers`: text to picture, from a picture, within a mask.

use std::ops::ControlFlow;

use crate::tiny_models::{Reference, distance, folder, path};
use burn::tensor::{Device, Tensor};
use nabla_diffusion::asking::Step;
use nabla_diffusion::autodiffusion::{Gene, Plan};
use nabla_diffusion::block_skipping::BlockSet;
use nabla_diffusion::denoiser::{Condition, Denoised, Denoiser};
use nabla_diffusion::guidance::{ClassifierFree, Guidance, ModelAt};
use nabla_diffusion::sampler::{Sampling, Solver, Steps, samplers, steps};
use nabla_diffusion::sampler_error::{OwnError, SamplerError};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::sigma_spacing::SigmaSpacing;
use nabla_diffusion::stable_diffusion::lora::Lora;
use nabla_diffusion::stable_diffusion::pipeline::{
    Conditioning, GivenNoise, LoadOptions, RunDoors, SamplerChoice, SamplingOptions,
    SamplingProgress, StableDiffusion, StableDiffusionError, Start, latent_file,
};
use safetensors::SafeTensors;

const PROMPT: &str = "A photograph of an astronaut riding a horse, 4k!";

fn model(name: &str) -> StableDiffusion {
    StableDiffusion::load(&folder(name), &Device::flex(), &LoadOptions::default()).unwrap()
}

fn options(steps: usize, sampler: impl Into<SamplerChoice>) -> SamplingOptions {
    SamplingOptions {
        steps,
        sampler: sampler.into(),
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
    let mut observe = |_: SamplingProgress<'_>| ControlFlow::Continue(());
    let doors = RunDoors::default().with_noise(given.clone());
    model
        .sample_with(&positive, &negative, start, options, doors, &mut observe)
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
    for (name, sampler) in [("sd15", "ddim"), ("sdxl", "euler")] {
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
        for kind in samplers::<4>().names() {
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
            let unet = model
                .denoiser(&[&positive], Some(&negative), &sampling, None)
                .unwrap();
            assert_eq!(unet.prediction(), model.prediction());
            let mut guidance = ClassifierFree::new().with_rescale(rescale);
            let made = model.scheduler().sampler(&kind.into(), None, 5).unwrap();
            let mut noise = SeededNoise::new(sampling.seed, 0);
            let start = noise.normal(model.latent_shape(1, &sampling), &Device::flex());
            let start = start * made.start_scale;
            let own = Sampling::of(&unet)
                .guided_by(&mut guidance)
                .run(&made.sampler, start, &mut noise)
                .unwrap();
            assert!(bits(own) == bits(whole), "{name} {kind}");
        }
        // Without guidance it is the model of its first text.
        let sampling = SamplingOptions {
            guidance_scale: 1.0,
            ..options(5, "ddim")
        };
        let whole = run(&model, &Start::Noise, &sampling, &GivenNoise::default());
        let positive = model.encode_text(PROMPT).unwrap();
        let negative = model.encode_nothing().unwrap();
        let unet = model
            .denoiser(&[&positive, &negative], None, &sampling, None)
            .unwrap();
        let made = model.scheduler().sampler(&"ddim".into(), None, 5).unwrap();
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
        let sampling = options(5, "ddim");
        let texts = ["a horse", "", PROMPT].map(|text| model.encode_text(text).unwrap());
        let unet = |texts: &[&Conditioning], without| {
            model.denoiser(texts, without, &sampling, None).unwrap()
        };
        let all = unet(&[&texts[0], &texts[2]], Some(&texts[1]));
        let mut noise = SeededNoise::new(1, 0);
        let x = noise.normal(model.latent_shape(2, &sampling), &Device::flex());
        let level = model.scheduler().training_schedule().unwrap().level(700);
        let conditions = [Condition::Given(0), Condition::Without, Condition::Given(1)];
        let each = all.predict(x.clone(), level, &conditions).unwrap();
        assert_eq!(each.len(), 3);
        let largest = each[0].clone().abs().max().into_scalar::<f32>();
        let apart = distance(each[0].clone(), each[2].clone()) / largest;
        println!("{name}: two texts are {apart:.1e} apart");
        assert!(apart > 1e-3, "{name}: {apart}");
        for (text, found) in texts.iter().zip(each) {
            for i in 0..2 {
                let x = x.clone().slice_dim(0, i..i + 1);
                let alone = unet(&[text], None).predict(x, level, &[Condition::FIRST]);
                let alone = alone.unwrap().remove(0);
                let difference = distance(alone, found.clone().slice_dim(0, i..i + 1));
                assert!(difference / largest < 5e-5, "{name}: {difference}");
            }
        }
    }
}

#[test]
fn a_denoiser_of_parts_that_do_not_fit_is_refused() {
    let (small, large) = (model("sd15"), model("sdxl"));
    let sampling = options(5, "ddim");
    fn told(
        model: &StableDiffusion,
        texts: &[&Conditioning],
        options: &SamplingOptions,
        extra: Option<Tensor<4>>,
    ) -> String {
        let refused = model.denoiser(texts, None, options, extra).unwrap_err();
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
    // What was not bound cannot be asked for.
    let unet = small.denoiser(&[&own], None, &sampling, None).unwrap();
    let x = Tensor::zeros(small.latent_shape(1, &sampling), &Device::flex());
    let level = small.scheduler().training_schedule().unwrap().level(700);
    for (x, condition, told) in [
        (
            x.clone(),
            Condition::Without,
            "has only 1 text(s), and none without",
        ),
        (
            x.clone(),
            Condition::Given(1),
            "under the condition number 1",
        ),
        (
            x.repeat_dim(1, 2),
            Condition::FIRST,
            "number of channels of the latents is 8",
        ),
    ] {
        let refused = unet
            .predict(x, level, &[condition])
            .unwrap_err()
            .to_string();
        assert!(refused.contains(told), "{refused}");
    }
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
const SAMPLERS: [(&str, &str, bool); 8] = [
    ("ddim", "ddim", false),
    ("euler", "euler", false),
    ("dpm_karras", "dpm++2m", true),
    ("dpm", "dpm++2m", false),
    ("pndm", "plms", false),
    ("unipc", "unipc", false),
    ("heun", "heun", false),
    ("lms", "lms", false),
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
    let latent = run(&model, &start, &options(10, "ddim"), &given);
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
    let latent = run(&model, &start, &options(6, "ddim"), &given);
    check(latent, last(&reference, "inpaint.latents"), "inpaint");
    // Every sampler keeps it.
    let latents: Vec<Tensor<4>> = ["plms", "euler", "unipc"]
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
    let mut sampling = options(3, "euler-ancestral");
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
fn what_cannot_be_sampled_is_refused() {
    let model = model("sd15");
    let positive = model.encode_text(PROMPT).unwrap();
    let told = |start: &Start, options: &SamplingOptions| {
        let mut go = |_: SamplingProgress<'_>| ControlFlow::Break(());
        model
            .sample(&positive, &positive, start, options, &mut go)
            .unwrap_err()
            .to_string()
    };
    let plain = options(3, "ddim");
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

/// What a run of the model gives with doors, and how often the UNet was called.
fn with_doors(
    model: &StableDiffusion,
    options: &SamplingOptions,
    doors: RunDoors<'_>,
) -> (Result<Tensor<4>, StableDiffusionError>, usize) {
    let positive = model.encode_text(PROMPT).unwrap();
    let negative = model.encode_nothing().unwrap();
    let mut calls = 0;
    let mut observe = |step: SamplingProgress<'_>| {
        calls = step.done;
        ControlFlow::Continue(())
    };
    let start = Start::Noise;
    let latent = model.sample_with(&positive, &negative, &start, options, doors, &mut observe);
    (latent, calls)
}

/// Classifier-free guidance in some of the steps only: fewer calls of the network.
#[derive(Debug, Default)]
struct Now {
    /// Conditions asked for at each call.
    asked: Vec<usize>,
}

impl Guidance for Now {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        self.asked.clear();
        Ok(())
    }

    fn guide(&mut self, step: &Step<'_>, model: &mut ModelAt<'_>) -> Result<Denoised, OwnError> {
        let combined = match step.index.is_multiple_of(2) {
            true => {
                let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
                self.asked.push(2);
                ClassifierFree::new().guided(without, with)
            }
            false => {
                let [with] = model.ask([Condition::FIRST])?;
                self.asked.push(1);
                with
            }
        };
        Ok(model.read(combined)?)
    }
}

/// A sampler that a user brings.
#[derive(Debug)]
struct Halfway;

impl<const D: usize> Solver<D> for Halfway {
    fn begin<'a>(
        &'a self,
        levels: &'a nabla_diffusion::level::Levels,
    ) -> Result<Steps<'a, D>, SamplerError> {
        Ok(steps(
            move |x, index, ask: &mut nabla_diffusion::asking::Asking<'_, D>| {
                let answer = ask.ask(x, index, levels.level(index))?;
                Ok(levels.level_after(index).mix(answer.sample, answer.epsilon))
            },
        ))
    }
}

#[test]
fn guidance_corrections_samplers_and_options_of_ones_own_take_part() {
    let model = model("sd15");
    let plain = options(5, "ddim");
    let (usual, _) = with_doors(&model, &plain, RunDoors::default());
    let usual = usual.unwrap();

    // The same guidance through the door: the same bits.
    let mut same = ClassifierFree::new();
    let doors = RunDoors::default().guided_by(&mut same);
    let (found, _) = with_doors(&model, &plain, doors);
    assert!(bits(found.unwrap()) == bits(usual.clone()));
    let mut now = Now::default();
    for _ in 0..2 {
        let doors = RunDoors::default().guided_by(&mut now);
        let (found, _) = with_doors(&model, &plain, doors);
        assert!(distance(found.unwrap(), usual.clone()) > 1e-3);
        assert_eq!(now.asked, [2, 1, 2, 1, 2]);
    }

    // DDIM as a user writes it, over whole steps as DDIM is.
    let own = options(5, SamplerChoice::own(Halfway));
    let (found, _) = with_doors(&model, &own, RunDoors::default());
    let largest = usual.clone().abs().max().into_scalar::<f32>();
    assert!(distance(found.unwrap(), usual.clone()) / largest < 0.5);

    // Options of ours.
    let noisy = options(5, SamplerChoice::named("ddim").with_option("eta", 0.7));
    let (found, _) = with_doors(&model, &noisy, RunDoors::default());
    assert!(distance(found.unwrap(), usual.clone()) > 1e-3);
    let wrong = options(5, SamplerChoice::default().with_option("speed", 2));
    let (refused, calls) = with_doors(&model, &wrong, RunDoors::default());
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("the sampler plms has no option \"speed\""),
        "{refused}"
    );
    assert_eq!(calls, 0);

    // Corrections: both see every call, in order; what they replace counts; an error ends the run.
    let mut seen = Vec::new();
    let mut calm = |_: &Step<'_>, d: Denoised| {
        let sample = d.sample.clone() * 0.0;
        d.with_sample(sample)
    };
    let mut see = |step: &Step<'_>, d: Denoised| {
        let largest = d.sample.clone().abs().max().into_scalar::<f32>();
        seen.push((step.index, largest));
        d
    };
    let doors = RunDoors::default()
        .corrected_by(&mut calm)
        .corrected_by(&mut see);
    let (found, calls) = with_doors(&model, &plain, doors);
    assert_eq!(calls, 5);
    let expected: Vec<(usize, f32)> = (0..5).rev().map(|index| (index, 0.0)).collect();
    assert_eq!(seen, expected);
    assert!(distance(found.unwrap(), usual) > 1e-2);
    let mut fail = |step: &Step<'_>, d: Denoised| match step.call < 2 {
        true => Ok(d),
        false => Err(std::io::Error::other("no more paper")),
    };
    let doors = RunDoors::default().corrected_by(&mut fail);
    let (failed, calls) = with_doors(&model, &plain, doors);
    assert_eq!(calls, 2);
    let StableDiffusionError::Sampler(error) = failed.unwrap_err() else {
        panic!("another error");
    };
    assert_eq!(
        error.own::<std::io::Error>().unwrap().to_string(),
        "no more paper"
    );
}

/// A run that is stopped asks the network no more.
#[test]
fn a_cancelled_run_stops_at_once() {
    let model = model("sd15");
    let positive = model.encode_text(PROMPT).unwrap();
    for sampler in samplers::<4>().names() {
        let mut calls = 0;
        let mut observe = |step: SamplingProgress<'_>| {
            calls = step.done;
            match step.done < 3 {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let sampling = options(6, sampler);
        let stopped = model.sample(&positive, &positive, &Start::Noise, &sampling, &mut observe);
        assert!(
            matches!(stopped, Err(StableDiffusionError::Cancelled)),
            "{sampler}"
        );
        assert_eq!(calls, 3, "{sampler}");
    }
}

/// A plan of a scheduler's own steps draws the scheduler's picture; one that skips blocks another one.
#[test]
fn a_plan_takes_its_steps_and_skips_its_blocks() {
    let model = model("sd15");
    let space = model.space().unwrap();
    assert_eq!((space.steps, space.blocks), (1000, 38));
    for name in ["ddim", "dpm++2m"] {
        let own = model.scheduler().sampler(&name.into(), None, 4).unwrap();
        let levels = own.sampler.levels();
        let steps = (0..4).map(|index| levels.level(index).time() as usize);
        let plan = Plan::of_steps(steps).unwrap();
        let usual = with_doors(&model, &options(4, name), RunDoors::default());
        // The options' number of steps has no effect.
        let doors = RunDoors::default().planned_by(&plan);
        let planned = with_doors(&model, &options(30, name), doors);
        assert_eq!(
            distance(usual.0.unwrap(), planned.0.unwrap()),
            0.0,
            "{name}"
        );
        assert_eq!((usual.1, planned.1), (4, 4), "{name}");
    }

    let whole = Plan::of_steps([100, 400, 900]).unwrap();
    let skipping = Plan::new(whole.genes().iter().map(|gene| Gene {
        skipped: BlockSet::of([3, 20]),
        ..gene.clone()
    }));
    let skipping = skipping.unwrap();
    for name in ["ddim", "plms", "dpm++2m"] {
        let drawn = [&whole, &skipping].map(|plan| {
            let doors = RunDoors::default().planned_by(plan);
            with_doors(&model, &options(30, name), doors).0.unwrap()
        });
        let [whole, skipping] = drawn;
        assert!(distance(whole, skipping) > 1e-3, "{name}");
    }
    // From a picture, only the last of its steps.
    let start = Start::Picture {
        picture: Tensor::zeros([1, 3, 40, 64], &Device::flex()),
        strength: 0.7,
    };
    let text = model.encode_text(PROMPT).unwrap();
    let mut calls = 0;
    let mut observe = |_: SamplingProgress<'_>| {
        calls += 1;
        ControlFlow::Continue(())
    };
    let doors = RunDoors::default().planned_by(&skipping);
    let sampling = options(30, "ddim");
    let drawn = model.sample_with(&text, &text, &start, &sampling, doors, &mut observe);
    drawn.unwrap();
    assert_eq!(calls, 2);

    for (plan, expected) in [
        (
            Plan::of_steps([5, 1000]),
            "step number 1 of the respaced schedule is 1000",
        ),
        (
            Plan::new([Gene {
                step: 5,
                skipped: BlockSet::of([38]),
            }]),
            "block 38, which step 5 of the plan skips, does not exist: the network has 38",
        ),
    ] {
        let plan = plan.unwrap();
        let doors = RunDoors::default().planned_by(&plan);
        let error = with_doors(&model, &options(4, "ddim"), doors)
            .0
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
