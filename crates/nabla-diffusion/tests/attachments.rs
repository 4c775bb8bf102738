//! What people attach to a Stable Diffusion, on the tiny models: prompts with weights and in parts, textual
//! inversions, LyCORIS, ControlNets, IP-Adapters and TAESD, against the programs that they come from
//! (`reference/attachments.py`).

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::tiny_models::{Reference, distance, folder, path};
use burn::tensor::{Device, Tensor, TensorData};
use nabla_diffusion::denoiser::{Condition, Denoiser};
use nabla_diffusion::level::Level;
use nabla_diffusion::stable_diffusion::control_net::{ControlNet, ControlOptions};
use nabla_diffusion::stable_diffusion::ip_adapter::IpAdapter;
use nabla_diffusion::stable_diffusion::latent_diffusion_names::LatentDiffusionNames;
use nabla_diffusion::stable_diffusion::lora::{Lora, LoraTarget};
use nabla_diffusion::stable_diffusion::pipeline::{
    GivenNoise, LoadOptions, RunDoors, SamplingOptions, SamplingProgress, StableDiffusion, Start,
};
use nabla_diffusion::stable_diffusion::prompt::{Emphasis, Prompt};
use nabla_diffusion::stable_diffusion::textual_inversion::TextualInversion;
use nabla_diffusion::stable_diffusion::tiny_autoencoder::{TinyAutoencoder, latent_colours};
use nabla_diffusion::stable_diffusion::unet2d_condition::UNet2DConditionConfig;
use nabla_diffusion::stable_diffusion::weights::Precision;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

const PROMPT: &str = "A photograph of an astronaut riding a horse, 4k!";

fn model(name: &str) -> StableDiffusion {
    StableDiffusion::load(&folder(name), &Device::flex(), &LoadOptions::default()).unwrap()
}

fn file(name: &str) -> PathBuf {
    path("attachments").join(name)
}

/// The largest difference as a share of the largest number.
fn share<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f32 {
    let largest = expected.clone().abs().max().into_scalar::<f32>();
    distance(found, expected) / largest
}

fn bits<const D: usize>(x: Tensor<D>) -> Vec<u32> {
    let values: Vec<f32> = x.into_data().try_to_vec().unwrap();
    values.iter().map(|v| v.to_bits()).collect()
}

// ---------------------------------------------------------------------- prompts

#[test]
fn weighted_and_long_prompts_are_those_of_the_program_they_come_from() {
    let reference = Reference::of("attachments/prompts");
    let prompts: Vec<String> = serde_json::from_value(reference.facts["prompts"].clone()).unwrap();
    for name in ["sd15", "sd21", "sdxl"] {
        let model = model(name);
        for (number, prompt) in prompts.iter().enumerate() {
            for (label, emphasis) in [
                ("original", Emphasis::Original),
                ("no_norm", Emphasis::NoNorm),
            ] {
                let prompt = Prompt::with_emphasis(prompt, emphasis).unwrap();
                let [text, nothing] = model.encode_prompts(&prompt, None, 0).unwrap();
                assert_eq!(text.text.dims(), nothing.text.dims());
                let [_, _, channels] = text.text.dims();
                let told = [0, channels - 1].map(|c| text.text.clone().slice_dim(2, c..c + 1));
                let expected = reference.tensor::<3>(&format!("{name}.{number}.{label}"));
                // The mean that is restored may be small beside what it is the mean of.
                let difference = share(Tensor::cat(told.to_vec(), 2), expected);
                assert!(difference < 1e-4, "{name} {prompt:?}: {difference}");
                if let Some(pooled) = text.pooled {
                    let expected = reference.tensor::<2>(&format!("{name}.{number}.pooled"));
                    let difference = distance(pooled, expected);
                    assert!(difference < 1e-4, "{name} {prompt:?}: {difference}");
                }
            }
        }
    }
}

#[test]
fn plain_prompts_keep_their_bits() {
    for name in ["sd15", "sd21", "sdxl"] {
        let model = model(name);
        for text in ["", PROMPT, "a cat, a dog"] {
            for skip in [0, 1] {
                let prompt = Prompt::parse(text).unwrap();
                let [with, without] = model.encode_prompts(&prompt, None, skip).unwrap();
                let usual = model.encode_text_skipping(text, skip).unwrap();
                assert!(bits(with.text) == bits(usual.text), "{name} {text}");
                assert_eq!(with.pooled.map(bits), usual.pooled.map(bits));
                let nothing = model.encode_nothing().unwrap();
                assert!(bits(without.text) == bits(nothing.text), "{name}");
            }
        }
    }
}

#[test]
fn both_prompts_have_the_same_number_of_parts() {
    let model = model("sd15");
    let long = Prompt::plain(&"cat ".repeat(200));
    let short = Prompt::plain("a dog");
    let of = |prompt: &Prompt| model.encode_prompts(prompt, None, 0).unwrap();
    let [empty, _] = of(&Prompt::plain(""));
    for [long, short] in [model.encode_prompts(&long, Some(&short), 0).unwrap(), {
        let [short, long] = model.encode_prompts(&short, Some(&long), 0).unwrap();
        [long, short]
    }] {
        let [_, words, _] = long.text.dims();
        assert_eq!(words % 77, 0);
        assert!(words > 77 && short.text.dims() == long.text.dims());
        let [alone, _] = of(&Prompt::plain("a dog"));
        let parts = short.text.chunk(words / 77, 1);
        assert!(bits(parts[0].clone()) == bits(alone.text));
        for part in &parts[1..] {
            assert!(bits(part.clone()) == bits(empty.text.clone()));
        }
    }
    // The negative prompt has all its layers, whatever is left out of the prompt.
    let [_, negative] = model.encode_prompts(&short, Some(&short), 1).unwrap();
    let whole = model.encode_text("a dog").unwrap();
    assert!(bits(negative.text) == bits(whole.text));
}

// ------------------------------------------------------------------- embeddings

fn taught(name: &str, files: &[(&str, Option<&str>)]) -> StableDiffusion {
    files.iter().fold(model(name), |model, (name, word)| {
        let embedding = TextualInversion::read(&file("embeddings").join(name), *word).unwrap();
        model.with_embedding(embedding).unwrap()
    })
}

#[test]
fn learned_words_are_those_of_diffusers() {
    let reference = Reference::of("attachments");
    let text = reference.facts["embeddings"].as_str().unwrap();
    let expected = reference.tensor::<3>("embeddings.sd15");
    // In every layout that holds the same vectors.
    for style in [
        "webui.pt",
        "original.pt",
        "webui.safetensors",
        "learned_embeds.bin",
    ] {
        let model = taught(
            "sd15",
            &[
                ("learned_embeds.safetensors", None),
                (style, Some("<style>")),
            ],
        );
        let found = model.encode_text(text).unwrap();
        let difference = distance(found.text, expected.clone());
        assert!(difference < 1e-4, "{style}: {difference}");
        let prompt = Prompt::parse(&text.to_uppercase()).unwrap();
        let [found, _] = model.encode_prompts(&prompt, None, 0).unwrap();
        let difference = distance(found.text, expected.clone());
        assert!(difference < 1e-4, "{style}: {difference}");
    }
    let model = taught("sdxl", &[("xl.safetensors", Some("<xl>"))]);
    let found = model.encode_text("a house in <xl>").unwrap();
    let difference = distance(found.text, reference.tensor("embeddings.sdxl"));
    assert!(difference < 1e-4, "{difference}");
    let difference = distance(
        found.pooled.unwrap(),
        reference.tensor("embeddings.sdxl_pooled"),
    );
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn a_learned_word_has_the_name_of_the_file_or_its_own() {
    for (name, word, vectors) in [
        ("learned_embeds.safetensors", "<cat-toy>", 1),
        ("learned_embeds.bin", "<two-toys>", 2),
        ("webui.pt", "webui", 2),
        ("original.pt", "original", 2),
        ("webui.safetensors", "webui", 2),
        ("xl.safetensors", "xl", 2),
    ] {
        let read = TextualInversion::read(&file("embeddings").join(name), None).unwrap();
        assert_eq!((read.word(), read.vectors()), (word, vectors), "{name}");
    }
    let read = |path: PathBuf, word| TextualInversion::read(&path, word);
    let weights = path("sd15").join("unet/diffusion_pytorch_model.safetensors");
    let told = read(weights, None).unwrap_err().to_string();
    assert!(told.contains("holds no textual inversion"), "{told}");
    let webui = file("embeddings/webui.pt");
    let told = read(webui.clone(), Some(" x")).unwrap_err().to_string();
    assert!(told.contains("without spaces around it"), "{told}");
    let told = model("sd15")
        .with_embedding(read(file("embeddings/xl.safetensors"), None).unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("have [16, 16] channels") && told.contains("take [16]"),
        "{told}"
    );
    let told = taught("sd15", &[("webui.pt", Some("A"))])
        .with_embedding(read(webui, Some("a")).unwrap())
        .unwrap_err()
        .to_string();
    assert!(told.contains("are both for the word \"a\""), "{told}");
}

// ---------------------------------------------------------------------- lycoris

#[test]
fn changes_of_every_kind_are_those_of_lycoris_and_peft() {
    let reference = Reference::of("attachments");
    let part = folder("sd15").part("unet", &[]).unwrap();
    let config = UNet2DConditionConfig::read(&part).unwrap();
    let names = LatentDiffusionNames::new(&config, 4);
    let cases: BTreeMap<String, serde_json::Value> =
        serde_json::from_value(reference.facts["lycoris"].clone()).unwrap();
    assert_eq!(cases.len(), 16);
    let mut compared = 0;
    for (name, case) in cases {
        let file = file("lycoris").join(format!("{name}.safetensors"));
        let lora = Lora::read(&file, case["strength"].as_f64().unwrap()).unwrap();
        assert!(!lora.assumes_scale(), "{name}");
        let device = Device::flex();
        let weights = part
            .weights("diffusion_pytorch_model", &device, Precision::F32)
            .unwrap();
        let plain = part
            .weights("diffusion_pytorch_model", &device, Precision::F32)
            .unwrap();
        let weights = lora.merge(LoraTarget::UNet, &names, weights);
        for layer in case["layers"].as_array().unwrap() {
            for kind in ["weight", "bias"] {
                let tensor = format!("{}.{kind}", layer.as_str().unwrap());
                let Some(expected) = reference.values(&format!("lycoris.{name}.{tensor}")) else {
                    continue;
                };
                let (found, _) = weights.root().values(&tensor).unwrap();
                let (before, _) = plain.root().values(&tensor).unwrap();
                let apart = |a: &[f32], b: &[f32]| {
                    let pairs = a.iter().zip(b);
                    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
                };
                assert_eq!(found.len(), expected.len());
                let (difference, change) = (apart(&found, &expected), apart(&found, &before));
                assert!(difference < 1e-4, "{name} {tensor}: {difference}");
                assert!(change > 1e-2, "{name} {tensor}: {change}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 28, "{compared}");
}

/// A file with one tensor of each name, of the shape [1, 1].
fn tensors(path: &Path, names: &[&str]) {
    let bytes = 1.0f32.to_le_bytes();
    let view = TensorView::new(safetensors::Dtype::F32, vec![1, 1], &bytes).unwrap();
    let all: HashMap<&str, TensorView<'_>> =
        names.iter().map(|name| (*name, view.clone())).collect();
    fs::write(path, safetensors::serialize(all, None).unwrap()).unwrap();
}

#[test]
fn what_is_missing_in_a_change_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("change.safetensors");
    for (names, told) in [
        (
            vec!["lora_unet_a.hada_w1_a", "lora_unet_a.hada_w1_b"],
            "no hada_w2_a",
        ),
        (
            vec![
                "lora_unet_a.hada_w1_a",
                "lora_unet_a.hada_w1_b",
                "lora_unet_a.hada_w2_a",
                "lora_unet_a.hada_w2_b",
                "lora_unet_a.hada_t1",
            ],
            "no hada_t2",
        ),
        (vec!["lora_unet_a.lokr_w1"], "no lokr_w2 or lokr_w2_a"),
        (
            vec!["lora_unet_a.lokr_w2", "lora_unet_a.lokr_w1_a"],
            "no lokr_w1_b",
        ),
        (vec!["lora_unet_a.dora_scale"], "no down"),
        (vec!["lora_unet_a.oft_blocks"], "of an OFT or BOFT"),
        (vec!["lora_unet_a.a1.weight"], "of a GLoRA"),
        (vec!["lora_unet_a.on_input"], "lora_unet_a.weight"),
    ] {
        tensors(&path, &names);
        let error = Lora::read(&path, 1.0).unwrap_err().to_string();
        assert!(error.contains(told), "{names:?}: {error}");
    }
}

// ------------------------------------------------------------------ controlnets

/// The level of the network's step 500, and the noisy latents with the texts that the references have.
fn asked(model: &StableDiffusion) -> Level {
    let schedule = model.scheduler().training_schedule().unwrap();
    schedule.level(500)
}

/// The names of the original code, in a single file.
fn original(net: &Path, prefix: &str, target: &Path) {
    let names = fs::read_to_string(file("control/original_names.json")).unwrap();
    let names: BTreeMap<String, String> = serde_json::from_str(&names).unwrap();
    let bytes = fs::read(net.join("diffusion_pytorch_model.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let renamed: HashMap<String, TensorView<'_>> = stored
        .tensors()
        .into_iter()
        .map(|(name, view)| (format!("{prefix}{}", names[&name]), view))
        .collect();
    fs::write(target, safetensors::serialize(renamed, None).unwrap()).unwrap();
}

#[test]
fn controlled_predictions_are_those_of_diffusers() {
    let reference = Reference::of("attachments");
    for name in ["sd15", "sdxl"] {
        let model = model(name);
        let tiny = Reference::of(name);
        let net = ControlNet::load(&file("control").join(name), &model).unwrap();
        let picture = reference.tensor::<4>(&format!("control.{name}.picture"));
        let x = tiny.tensor::<4>("unet.sample").slice_dim(2, 0..8);
        let mut options = SamplingOptions::new([64, 128]);
        if model.takes_sizes() {
            options.size = [64, 128];
            options.original_size = Some([96, 80]);
            options.crop = [4, 8];
        }
        let text = model.encode_text(PROMPT).unwrap();
        let nothing = match name {
            "sdxl" => model.encode_nothing().unwrap(),
            _ => model.encode_text("").unwrap(),
        };
        let made = model.scheduler().sampler(&"ddim".into(), None, 5).unwrap();
        for (label, guess) in [("plain", false), ("guess", true)] {
            let control = ControlOptions {
                scale: 0.7,
                guess,
                ..ControlOptions::default()
            };
            let control = net.control(picture.clone(), control).unwrap();
            let unet = model
                .denoiser(&[&text], Some(&nothing), &options, None)
                .unwrap()
                .controlled_by(vec![control], made.sampler.levels())
                .unwrap();
            // The reference has another latent for each text, and in guess mode controls both of them.
            let rows = [Condition::Without, Condition::FIRST];
            for (row, condition) in rows.into_iter().enumerate() {
                if guess && condition == Condition::Without {
                    continue;
                }
                let x = x.clone().slice_dim(0, row..row + 1);
                let found = unet.predict(x, asked(&model), &[condition]).unwrap();
                let expected = reference.tensor::<4>(&format!("control.{name}.{label}"));
                let expected = expected.slice_dim(0, row..row + 1);
                let difference = share(found[0].clone(), expected);
                assert!(difference < 1e-4, "{name} {label} {row}: {difference}");
            }
        }
    }
}

fn controlled_run(nets: [&ControlNet; 2], model: &StableDiffusion, guess: bool) -> Tensor<4> {
    let reference = Reference::of("attachments");
    let given = GivenNoise {
        start: Some(reference.tensor("control.run.start")),
        ..GivenNoise::default()
    };
    let mut doors = RunDoors::default().with_noise(given);
    for (number, (net, (scale, [start, end]))) in nets
        .into_iter()
        .zip([(0.8, [0.2, 0.7]), (0.5, [0.0, 1.0])])
        .enumerate()
    {
        let picture = reference.tensor(&format!("control.run.picture_{number}"));
        let options = ControlOptions {
            scale,
            start,
            end,
            guess,
        };
        doors = doors.controlled_by(net.control(picture, options).unwrap());
    }
    let options = SamplingOptions {
        steps: 6,
        sampler: "ddim".into(),
        ..SamplingOptions::new([40, 64])
    };
    let text = model.encode_text(PROMPT).unwrap();
    let nothing = model.encode_nothing().unwrap();
    let mut go = |_: SamplingProgress<'_>| ControlFlow::Continue(());
    model
        .sample_with(&text, &nothing, &Start::Noise, &options, doors, &mut go)
        .unwrap()
}

#[test]
fn controlled_runs_are_those_of_diffusers_also_from_a_single_file() {
    let reference = Reference::of("attachments");
    let model = model("sd15");
    let net = ControlNet::load(&file("control/sd15"), &model).unwrap();
    for (name, guess) in [("latents", false), ("guessed", true)] {
        let found = controlled_run([&net, &net], &model, guess);
        let expected = reference.tensor(&format!("control.run.{name}"));
        let difference = share(found, expected);
        assert!(difference < 2e-4, "{name}: {difference}");
    }
    let usual = controlled_run([&net, &net], &model, false);
    let folder = tempfile::tempdir().unwrap();
    for (name, prefix) in [("a.safetensors", "control_model."), ("b.pth", "")] {
        let path = folder.path().join(name);
        original(&file("control/sd15"), prefix, &path);
        let single = ControlNet::load(&path, &model).unwrap();
        let found = controlled_run([&single, &net], &model, false);
        assert!(bits(found) == bits(usual.clone()), "{name}");
    }
    let path = file("control/sd15/diffusion_pytorch_model.safetensors");
    let single = ControlNet::load(&path, &model).unwrap();
    let found = controlled_run([&net, &single], &model, false);
    assert!(bits(found) == bits(usual));
}

#[test]
fn a_control_that_does_not_fit_is_refused() {
    let [small, large] = ["sd15", "sdxl"].map(model);
    let load = |path: PathBuf, model: &StableDiffusion| ControlNet::load(&path, model);
    let told = |path: PathBuf, model: &StableDiffusion| load(path, model).unwrap_err().to_string();
    let error = told(file("control/sd15"), &large);
    assert!(
        error.contains("is for another model: its number of channels of the text"),
        "{error}"
    );
    let error = told(file("control/none"), &small);
    assert!(error.contains("there is no ControlNet"), "{error}");
    let error = told(path("sd15").join("unet"), &small);
    assert!(error.contains("ControlNetModel was expected"), "{error}");
    let weights = path("sd15").join("vae/diffusion_pytorch_model.safetensors");
    let error = told(weights, &small);
    assert!(error.contains("holds no ControlNet"), "{error}");

    let net = load(file("control/sd15"), &small).unwrap();
    let picture = |shape: [usize; 4]| Tensor::<4>::zeros(shape, &Device::flex());
    let usual = ControlOptions::default();
    for (shape, options, told) in [
        ([1, 1, 40, 64], usual, "must be [1, 3, height, width]"),
        (
            [1, 3, 40, 64],
            ControlOptions {
                scale: f64::NAN,
                ..usual
            },
            "scale of the ControlNet is NaN",
        ),
        (
            [1, 3, 40, 64],
            ControlOptions {
                start: 1.5,
                ..usual
            },
            "start of the ControlNet is 1.5",
        ),
        (
            [1, 3, 40, 64],
            ControlOptions {
                start: 0.5,
                end: 0.4,
                ..usual
            },
            "end of the ControlNet is 0.4",
        ),
    ] {
        let error = net
            .control(picture(shape), options)
            .unwrap_err()
            .to_string();
        assert!(error.contains(told), "{error}");
    }
    let control = net.control(picture([1, 3, 64, 64]), usual).unwrap();
    let text = small.encode_text("a").unwrap();
    let made = small.scheduler().sampler(&"ddim".into(), None, 5).unwrap();
    let options = SamplingOptions::new([40, 64]);
    let error = small
        .denoiser(&[&text], None, &options, None)
        .unwrap()
        .controlled_by(vec![control], made.sampler.levels())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("[64, 64]") && error.contains("[40, 64], as the picture"),
        "{error}"
    );
}

// ------------------------------------------------------------------- ip-adapter

#[test]
fn pictures_as_prompts_are_those_of_diffusers() {
    let reference = Reference::of("attachments");
    let tiny = Reference::of("sd15");
    for name in ["plain", "plus"] {
        let model = model("sd15");
        let path = file("ip").join(format!("{name}.safetensors"));
        let adapter = IpAdapter::load(&path, &file("ip/image_encoder"), &model).unwrap();
        assert_eq!(adapter.picture_size(), 28);
        let model = model.with_ip_adapter(&adapter);
        let text = model.encode_text(PROMPT).unwrap();
        let nothing = model.encode_nothing().unwrap();
        let options = SamplingOptions::new([128, 128]);
        let unet = || {
            model
                .denoiser(&[&text], Some(&nothing), &options, None)
                .unwrap()
        };
        let prompt = |scale| {
            adapter
                .prompt(reference.tensor("ip.picture"), scale)
                .unwrap()
        };
        let with = unet().prompted_by(vec![prompt(0.6)]).unwrap();
        let x = tiny.tensor::<4>("unet.sample");
        let expected = reference.tensor::<4>(&format!("ip.{name}"));
        for (row, condition) in [Condition::Without, Condition::FIRST]
            .into_iter()
            .enumerate()
        {
            let x = x.clone().slice_dim(0, row..row + 1);
            let found = with
                .predict(x.clone(), asked(&model), &[condition])
                .unwrap();
            let expected = expected.clone().slice_dim(0, row..row + 1);
            let difference = share(found[0].clone(), expected);
            assert!(difference < 1e-4, "{name} {row}: {difference}");
            // Without a picture, the adapter has no effect.
            let plain = unet().predict(x, asked(&model), &[condition]).unwrap();
            let usual = tiny.tensor::<4>("unet.out_t500").slice_dim(0, row..row + 1);
            let difference = share(plain[0].clone(), usual);
            assert!(difference < 1e-4, "{name} {row}: {difference}");
        }
        let both = with
            .predict(
                x.clone().slice_dim(0, 0..1),
                asked(&model),
                &[Condition::Without, Condition::FIRST],
            )
            .unwrap();
        let difference = share(both[0].clone(), expected.slice_dim(0, 0..1));
        assert!(difference < 1e-4, "{name}: {difference}");
        let error = unet()
            .prompted_by(vec![prompt(1.0), prompt(1.0)])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("at most 1, one for each IP-Adapter"),
            "{error}"
        );
    }
}

#[test]
fn an_ip_adapter_that_does_not_fit_is_refused() {
    let (model, encoder) = (model("sd15"), file("ip/image_encoder"));
    let told = |path: PathBuf, encoder: &Path, model: &StableDiffusion| {
        IpAdapter::load(&path, encoder, model)
            .unwrap_err()
            .to_string()
    };
    let plain = || file("ip/plain.safetensors");
    let large = self::model("sdxl");
    let error = told(plain(), &encoder, &large);
    assert!(
        error.contains("the channels of its tokens are 16, but 32 were expected"),
        "{error}"
    );
    let other = path("sd15").join("vae/diffusion_pytorch_model.safetensors");
    let error = told(other, &encoder, &model);
    assert!(error.contains("holds no IP-Adapter"), "{error}");
    let error = told(plain(), &file("ip/none"), &model);
    assert!(error.contains("there is no model folder"), "{error}");
    let error = told(plain(), &path("sd15").join("text_encoder"), &model);
    assert!(error.contains("config.json"), "{error}");
    let adapter = IpAdapter::load(&plain(), &encoder, &model).unwrap();
    let picture = Tensor::zeros([1, 3, 28, 30], &Device::flex());
    let error = adapter.prompt(picture, 1.0).unwrap_err().to_string();
    assert!(error.contains("must be [1, 3, 28, 28]"), "{error}");
}

// ------------------------------------------------------------------------ taesd

#[test]
fn previews_are_those_of_diffusers() {
    let reference = Reference::of("attachments");
    let device = Device::flex();
    let load = |path: &Path| TinyAutoencoder::load(path, &device, Precision::F32);
    let latent = || reference.tensor::<4>("taesd.latent");
    let usual = load(&file("taesd")).unwrap().decode(latent()).unwrap();
    let expected = reference.tensor::<4>("taesd.picture").clamp(-1.0, 1.0);
    let difference = distance(usual.clone(), expected);
    assert!(difference < 1e-4, "{difference}");

    // Under the names of the original code, where the first layer bounds the latents.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taesd_decoder.safetensors");
    let stored = file("taesd/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&stored).unwrap();
    let weights = SafeTensors::deserialize(&bytes).unwrap();
    let renamed: HashMap<String, TensorView<'_>> = weights
        .tensors()
        .into_iter()
        .filter_map(|(name, view)| {
            let rest = name.strip_prefix("decoder.layers.")?;
            let (number, rest) = rest.split_once('.')?;
            Some((
                format!("{}.{rest}", number.parse::<usize>().ok()? + 1),
                view,
            ))
        })
        .collect();
    fs::write(&path, safetensors::serialize(renamed, None).unwrap()).unwrap();
    for path in [&path, &stored] {
        let found = load(path).unwrap().decode(latent()).unwrap();
        assert!(bits(found) == bits(usual.clone()), "{}", path.display());
    }

    let told = |path: PathBuf| load(&path).unwrap_err().to_string();
    assert!(told(file("taesd/none")).contains("there is no TAESD"));
    let other = crate::tiny_models::path("sd15");
    let error = told(other.join("unet/diffusion_pytorch_model.safetensors"));
    assert!(error.contains("holds no TAESD decoder"), "{error}");
    let error = told(other.join("vae"));
    assert!(error.contains("AutoencoderTiny was expected"), "{error}");
    let wrong = Tensor::zeros([1, 3, 4, 4], &device);
    let error = load(&stored)
        .unwrap()
        .decode(wrong)
        .unwrap_err()
        .to_string();
    assert!(error.contains("the latents have 3 channels"), "{error}");
}

#[test]
fn colours_of_a_latent_are_those_of_a_matrix() {
    let latent = TensorData::new(
        vec![1.0f32, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0],
        [1, 4, 1, 2],
    );
    let latent = Tensor::<4>::from_data(latent, &Device::flex());
    let found = latent_colours(latent.clone(), false).unwrap();
    assert_eq!(found.dims(), [1, 3, 1, 2]);
    let values: Vec<f32> = found.into_data().try_to_vec().unwrap();
    for (found, expected) in values
        .iter()
        .zip([0.298, 0.374, 0.207, 0.572, 0.208, 0.346])
    {
        assert!((found - expected).abs() < 1e-6, "{values:?}");
    }
    let other = latent_colours(latent.clone(), true).unwrap();
    assert!(distance(other, latent_colours(latent.clone(), false).unwrap()) > 0.1);
    assert!(latent_colours(latent.repeat_dim(1, 2), false).is_none());
}
