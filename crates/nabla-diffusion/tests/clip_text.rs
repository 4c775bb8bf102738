//! Text encoders and their tokenizers against `transformers`, on the tiny models of
//! `reference/stable_diffusion.py`.
use std::fs;
use std::path::Path;

use crate::tiny_models::{Reference, distance, folder, path};
use burn::tensor::{Device, Tensor};
use nabla_diffusion::stable_diffusion::clip_text::{ClipTextEncoder, ClipTextError};
use nabla_diffusion::stable_diffusion::clip_tokenizer::ClipTokenizer;
use nabla_diffusion::stable_diffusion::model_folder::Part;
use nabla_diffusion::stable_diffusion::weights::Precision;
use safetensors::SafeTensors;
use serde_json::Value;

const PROMPT: &str = "A photograph of an astronaut riding a horse, 4k!";

fn part(model: &str, name: &str) -> Part {
    let classes = [
        "CLIPTextModel",
        "CLIPTextModelWithProjection",
        "CLIPTokenizer",
    ];
    folder(model).part(name, &classes).unwrap()
}

fn recorded<const D: usize>(model: &str, name: &str) -> Tensor<D> {
    Reference::of(model).tensor(name)
}

fn ids(model: &str, name: &str) -> Vec<u32> {
    let ids = Reference::of(model).integers(name);
    ids.into_iter().map(|id| id as u32).collect()
}

fn encoder(model: &str, name: &str, precision: Precision) -> ClipTextEncoder {
    let (encoder, _) =
        ClipTextEncoder::load(&part(model, name), &Device::flex(), precision).unwrap();
    encoder
}

#[test]
fn ids_are_those_of_transformers() {
    let tokenizer = ClipTokenizer::load(&part("sd15", "tokenizer")).unwrap();
    let facts = Reference::of("sd15").facts;
    let prompts = facts["prompts"].as_array().unwrap();
    assert!(prompts.len() > 40);
    for row in prompts {
        let prompt = row["prompt"].as_str().unwrap();
        let theirs: Vec<u32> = serde_json::from_value(row["ids"].clone()).unwrap();
        let ours = tokenizer.encode(prompt).unwrap();
        assert_eq!(ours.ids[..ours.used], theirs, "{prompt:?}");
        assert_eq!(ours.ids.len(), 77);
        assert!(
            ours.ids[ours.used..]
                .iter()
                .all(|&id| id == tokenizer.pad())
        );
        assert!(ours.cut == 0 || ours.used == 77, "{prompt:?}");
    }
}

#[test]
fn filling_follows_the_special_tokens_of_each_folder() {
    for (model, name, recorded) in [
        ("sd15", "tokenizer", "text.ids"),
        ("sd21", "tokenizer", "text.ids"),
        ("sdxl", "tokenizer", "text.ids"),
        ("sdxl", "tokenizer_2", "text.ids_2"),
    ] {
        let tokenizer = ClipTokenizer::load(&part(model, name)).unwrap();
        let ours = tokenizer.encode(PROMPT).unwrap().ids;
        assert_eq!(ours, ids(model, recorded), "{model} {name}");
        let ours = tokenizer.encode("").unwrap().ids;
        assert_eq!(ours, ids(model, &format!("{recorded}_empty")));
    }
}

#[test]
fn what_does_not_fit_is_counted() {
    let tokenizer = ClipTokenizer::load(&part("sd15", "tokenizer")).unwrap();
    let text = |count: usize| "a ".repeat(count);
    assert_eq!(tokenizer.encode(&text(75)).unwrap().cut, 0);
    let cut = tokenizer.encode(&text(80)).unwrap();
    assert_eq!((cut.cut, cut.used, cut.ids[76]), (5, 77, tokenizer.end()));
}

#[test]
fn states_are_those_of_transformers() {
    for model in ["sd15", "sd21"] {
        let encoder = encoder(model, "text_encoder", Precision::F32);
        let output = encoder.forward(&[ids(model, "text.ids")]).unwrap();
        let skipped = encoder.normalize(output.skip(1).unwrap());
        let empty = encoder.forward(&[ids(model, "text.ids_empty")]).unwrap();
        for (name, ours) in [
            ("text.embeds", output.last.clone()),
            ("text.embeds_empty", empty.last),
            ("text.after_layer_0", output.hidden[1].clone()),
            ("text.embeds_clip_skip_1", skipped),
        ] {
            let difference = distance(ours, recorded(model, name));
            println!("{model} {name}: {difference:.1e}");
            assert!(difference < 1e-5, "{model} {name}: {difference}");
        }
        assert!(output.projected.is_none());
        assert!(output.skip(99).is_none());
    }
}

#[test]
fn sdxl_takes_the_penultimate_states_and_a_projected_text() {
    let first = encoder("sdxl", "text_encoder", Precision::F32);
    let second = encoder("sdxl", "text_encoder_2", Precision::F32);
    for (ids_1, ids_2, embeds, pooled) in [
        ("text.ids", "text.ids_2", "text.embeds", "text.pooled"),
        (
            "text.ids_empty",
            "text.ids_2_empty",
            "text.embeds_empty",
            "text.pooled_empty",
        ),
    ] {
        let first = first.forward(&[ids("sdxl", ids_1)]).unwrap();
        let second = second.forward(&[ids("sdxl", ids_2)]).unwrap();
        let states = Tensor::cat(vec![first.skip(1).unwrap(), second.skip(1).unwrap()], 2);
        let states = distance(states, recorded("sdxl", embeds));
        let text = distance(second.projected.unwrap(), recorded("sdxl", pooled));
        println!("sdxl {embeds}: {states:.1e}, {pooled}: {text:.1e}");
        assert!(states < 1e-5 && text < 1e-5, "{states} {text}");
    }
}

/// Texts of a batch do not see each other.
#[test]
fn a_batch_is_its_texts() {
    let encoder = encoder("sd15", "text_encoder", Precision::F32);
    let texts = [ids("sd15", "text.ids"), ids("sd15", "text.ids_empty")];
    let both = encoder.forward(&texts).unwrap();
    for (i, text) in texts.iter().enumerate() {
        let alone = encoder.forward(std::slice::from_ref(text)).unwrap();
        let ours = both.pooled.clone().narrow(0, i, 1);
        assert!(distance(ours, alone.pooled) < 1e-6);
    }
}

#[test]
fn sixteen_bits_are_near() {
    // Relative rounding of 2⁻¹¹ and 2⁻⁸, through states of about 3.
    for (precision, most) in [(Precision::F16, 1e-2), (Precision::Bf16, 1e-1)] {
        for model in ["sd15", "sd21"] {
            let encoder = encoder(model, "text_encoder", precision);
            let output = encoder.forward(&[ids(model, "text.ids")]).unwrap();
            assert_eq!(output.last.dtype(), precision.dtype());
            let difference = distance(output.last, recorded(model, "text.embeds"));
            println!("{model} {precision:?}: {difference:.1e}");
            assert!(difference < most, "{model} {precision:?}: {difference}");
        }
    }
}

#[test]
fn wrong_texts_are_told() {
    let encoder = encoder("sd15", "text_encoder", Precision::F32);
    let told = |ids: &[Vec<u32>]| encoder.forward(ids).unwrap_err();
    assert_eq!(told(&[]), ClipTextError::NoText);
    let ragged = told(&[vec![1; 5], vec![1; 6]]);
    assert_eq!(ragged, ClipTextError::Ragged { first: 5, other: 6 });
    assert!(matches!(
        told(&[vec![1; 78]]),
        ClipTextError::Length { length: 78, .. }
    ));
    assert!(matches!(told(&[vec![]]), ClipTextError::Length { .. }));
    assert!(matches!(
        told(&[vec![634]]),
        ClipTextError::Token { id: 634, .. }
    ));
}

/// The folder of a model with some files written anew.
fn changed(
    model: &str,
    name: &str,
    class: &str,
    files: &[(&str, &str)],
) -> (tempfile::TempDir, Part) {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(path(model).join(name)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    for (file, text) in files {
        let path = folder.path().join(file);
        match text.is_empty() {
            true => fs::remove_file(path).unwrap(),
            false => fs::write(path, text).unwrap(),
        }
    }
    let part = Part::open(folder.path(), class).unwrap();
    (folder, part)
}

#[test]
fn wrong_folders_are_told() {
    let device = Device::flex();
    for (config, told) in [
        (r#"{"hidden_act": "tanh"}"#, "hidden_act"),
        (r#"{"hidden_size": 10}"#, "num_attention_heads"),
        (r#"{"rope_theta": 1.0}"#, "rope_theta"),
        (
            r#"{"hidden_size": 16, "num_attention_heads": 2}"#,
            "text_model.",
        ),
    ] {
        let files = [("config.json", config)];
        let (_folder, part) = changed("sd15", "text_encoder", "CLIPTextModel", &files);
        let error = ClipTextEncoder::load(&part, &device, Precision::F32).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
    // The projection of a file without one, and a projection that no class asks for.
    let (_folder, part) = changed("sd15", "text_encoder", "CLIPTextModelWithProjection", &[]);
    let error = ClipTextEncoder::load(&part, &device, Precision::F32).unwrap_err();
    assert!(
        error.to_string().contains("text_projection.weight"),
        "{error}"
    );
    let (_folder, part) = changed("sdxl", "text_encoder_2", "CLIPTextModel", &[]);
    let error = ClipTextEncoder::load(&part, &device, Precision::F32).unwrap_err();
    assert!(
        error.to_string().contains("text_projection.weight"),
        "{error}"
    );

    for (files, told) in [
        (&[("merges.txt", "")][..], "merges.txt"),
        (&[("vocab.json", ""), ("merges.txt", "")], "tokenizer.json"),
        (&[("vocab.json", "[]")], "vocab.json"),
        (
            &[("special_tokens_map.json", r#"{"pad_token": "<pad>"}"#)],
            "<pad>",
        ),
        (
            &[("special_tokens_map.json", r#"{"pad_token": 3}"#)],
            "pad_token",
        ),
        (
            &[("tokenizer_config.json", r#"{"model_max_length": 1}"#)],
            "model_max_length",
        ),
    ] {
        let (_folder, part) = changed("sd15", "tokenizer", "CLIPTokenizer", files);
        let error = ClipTokenizer::load(&part).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
}

/// Published tokenizers say their special tokens in several ways; `transformers` is the reference.
#[test]
fn special_tokens_are_read_as_transformers_reads_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/clip_tokenizer");
    let cases = fs::read_to_string(folder.join("cases.json")).unwrap();
    let cases: Value = serde_json::from_str(&cases).unwrap();
    let texts: Vec<String> = serde_json::from_value(cases["texts"].clone()).unwrap();
    for case in cases["cases"].as_array().unwrap() {
        let files = case["files"].as_object().unwrap();
        let files: Vec<(&str, String)> = files
            .iter()
            .map(|(name, values)| (name.as_str(), values.to_string()))
            .collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
        let (_folder, part) = changed("sd21", "tokenizer", "CLIPTokenizer", &files);
        let tokenizer = ClipTokenizer::load(&part).unwrap();
        for (text, theirs) in texts.iter().zip(case["ids"].as_array().unwrap()) {
            let theirs: Vec<u32> = serde_json::from_value(theirs.clone()).unwrap();
            let ours = tokenizer.encode(text).unwrap().ids;
            // Theirs are filled up to 12.
            let used = theirs.len();
            assert_eq!(ours[..used], theirs, "{}: {text:?}", case["name"]);
        }
    }
}

/// Newer folders have one file, `tokenizer.json`.
#[test]
fn one_file_makes_the_same_tokenizer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/clip_tokenizer");
    let one = ClipTokenizer::load(&Part::open(&folder, "CLIPTokenizer").unwrap()).unwrap();
    let two = ClipTokenizer::load(&part("sd21", "tokenizer")).unwrap();
    assert_eq!((one.pad(), one.end()), (two.pad(), two.end()));
    for text in [
        PROMPT,
        "",
        "café — it's <|ENDOFTEXT|> 東京! 🐎",
        &"a b ".repeat(60),
    ] {
        assert_eq!(one.encode(text).unwrap(), two.encode(text).unwrap());
    }
}

/// Files that newer versions of `transformers` write leave `text_model.` out.
#[test]
fn names_without_their_prefix_are_read() {
    let (folder, part) = changed("sd21", "text_encoder", "CLIPTextModel", &[]);
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let short = tensors.iter().map(|(name, view)| {
        let name = name.strip_prefix("text_model.").unwrap();
        (name.to_owned(), view)
    });
    safetensors::serialize_to_file(short, None, &path).unwrap();
    let (encoder, _) = ClipTextEncoder::load(&part, &Device::flex(), Precision::F32).unwrap();
    let output = encoder.forward(&[ids("sd21", "text.ids")]).unwrap();
    assert!(distance(output.last, recorded("sd21", "text.embeds")) < 1e-5);
}

/// One folder of SDXL may have it with and without the prefix: transformers 5.24 saves `CLIPTextModel`
/// without it, and `CLIPTextModelWithProjection` with it, and calls both `clip_text_model`.
#[test]
fn either_encoder_of_sdxl_may_have_either_names() {
    for (name, class, ids_of) in [
        ("text_encoder", "CLIPTextModel", "text.ids"),
        (
            "text_encoder_2",
            "CLIPTextModelWithProjection",
            "text.ids_2",
        ),
    ] {
        let forward = |part: &Part| {
            let loaded = ClipTextEncoder::load(part, &Device::flex(), Precision::F32);
            let (encoder, _) = loaded.unwrap();
            encoder.forward(&[ids("sdxl", ids_of)]).unwrap()
        };
        let expected = forward(&part("sdxl", name));
        for prefix in ["text_model.", ""] {
            let (folder, part) = changed("sdxl", name, class, &[]);
            let config = folder.path().join("config.json");
            let mut values: serde_json::Value =
                serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
            values["model_type"] = "clip_text_model".into();
            fs::write(&config, values.to_string()).unwrap();
            let path = folder.path().join("model.safetensors");
            let bytes = fs::read(&path).unwrap();
            let tensors = SafeTensors::deserialize(&bytes).unwrap();
            let named = tensors
                .iter()
                .map(|(name, view)| match name.strip_prefix("text_model.") {
                    Some(short) => (format!("{prefix}{short}"), view),
                    None => (name.to_owned(), view),
                });
            safetensors::serialize_to_file(named, None, &path).unwrap();
            let found = forward(&part);
            assert_eq!(
                distance(found.last, expected.last.clone()),
                0.0,
                "{name} {prefix:?}"
            );
            if let Some(projected) = &expected.projected {
                assert_eq!(distance(found.projected.unwrap(), projected.clone()), 0.0);
            }
        }
    }
}
