//! `nabla sample` from outside, on the tiny models of `nabla-diffusion`.

use std::fs;
use std::path::Path;

use crate::desk::Desk;
use nabla::data::{BitDepth, Picture, Raster, WriteOptions};
use safetensors::SafeTensors;

/// A folder with the models, a picture and a mask.
fn desk() -> Desk {
    let desk = Desk::empty();
    let tiny =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../nabla-diffusion/tests/reference/tiny");
    for model in ["sd15", "sd21", "sdxl"] {
        crate::tiny_single_file::copy_folder(&tiny.join(model), &desk.path(model), true);
    }
    let picture = Raster::from_fn(3, 40, 64, |c, y, x| {
        0.5 + 0.4 * ((x * (c + 1) + y) as f32 / 9.0).sin()
    });
    let mask = Raster::from_fn(1, 40, 64, |_, _, x| f32::from(u8::from(x < 32)));
    for (name, raster) in [("in.png", picture), ("mask.png", mask)] {
        Picture::new(raster, BitDepth::Eight)
            .write(&desk.path(name), &WriteOptions::default())
            .unwrap();
    }
    desk
}

fn picture(desk: &Desk, name: &str) -> Picture {
    Picture::read(&desk.path(name)).unwrap()
}

#[test]
fn a_text_becomes_pictures_that_say_how_they_were_made() {
    let desk = desk();
    let line = "sample --model sd15 --prompt astronaut --negative horse --size 64x40 --steps 3";
    let told = desk.json(&format!("{line} -n 2 -o out.png --latents all.safetensors"));
    assert_eq!(told["files"], serde_json::json!(["out_1.png", "out_2.png"]));
    assert_eq!(told["seeds"], serde_json::json!([42, 43]));
    // The folder's own.
    assert_eq!(told["sampler"], "plms");
    let first = picture(&desk, "out_1.png");
    assert_eq!(first.size(), [64, 40]);
    let [(keyword, text)] = &first.metadata.texts[..] else {
        panic!("{:?}", first.metadata.texts);
    };
    assert_eq!(keyword, "parameters");
    for part in [
        "astronaut\nNegative prompt: horse\nSteps: 3, Sampler: plms",
        "Seed: 42",
        "Size: 64x40",
        "Model: sd15",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let bytes = fs::read(desk.path("all.safetensors")).unwrap();
    let latents = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(latents.tensor("latents").unwrap().shape(), [2, 4, 5, 8]);

    // A picture is that of its seed, alone or among others.
    desk.done(&format!("{line} --seed 43 -o alone.png"));
    assert_eq!(
        picture(&desk, "alone.png").raster,
        picture(&desk, "out_2.png").raster
    );
    assert_ne!(first.raster, picture(&desk, "out_2.png").raster);
}

#[test]
fn every_sampler_model_and_precision_makes_a_picture() {
    let desk = desk();
    for sampler in [
        "ddim",
        "ddpm",
        "pndm",
        "s-pndm",
        "plms",
        "euler",
        "euler-ancestral",
        "heun",
        "lms",
        "dpm++2m",
        "dpm++2m-sde",
        "dpm++3m",
        "dpm++3m-sde",
        "dpm++2s",
        "deis",
        "dpm2",
        "dpm2-ancestral",
        "unipc",
        "lcm",
    ] {
        let line =
            format!("sample --model sd21 --prompt x --size 32 --steps 5 --sampler {sampler}");
        desk.done(&format!("{line} -o {sampler}.png"));
        assert_eq!(picture(&desk, &format!("{sampler}.png")).size(), [32, 32]);
    }
    // An option changes the picture, and stands in it; and so does a guidance.
    let line = "sample --model sd21 --prompt x --size 32 --steps 5 --sampler euler";
    for (option, told) in [
        ("--sampler-option churn=0.3", "Sampler option: churn=0.3"),
        ("--guidance none", "Guidance: none"),
        ("--guidance-option scale=2", "Guidance option: scale=2"),
    ] {
        desk.done(&format!("{line} {option} -o option.png"));
        let changed = picture(&desk, "option.png");
        assert_ne!(
            changed.raster,
            picture(&desk, "euler.png").raster,
            "{option}"
        );
        assert!(changed.metadata.texts[0].1.contains(told), "{option}");
    }
    for spacing in ["exponential", "beta", "lu"] {
        let line = "sample --model sd15 --prompt x --size 32 --steps 3 --sampler dpm++3m";
        desk.done(&format!("{line} --sigmas {spacing} -o {spacing}.png"));
    }
    let line = "sample --model sdxl --prompt x --size 32 --steps 2 --sampler dpm++2m --karras";
    for precision in ["f32", "f16", "bf16"] {
        desk.done(&format!(
            "{line} --precision {precision} -o {precision}.png"
        ));
    }
    let [f32, f16] = ["f32.png", "f16.png"].map(|name| picture(&desk, name).raster);
    assert_ne!(f32, f16);
}

/// What a guidance cost is said in words, in JSON and in the picture.
#[test]
fn guidances_are_chosen_and_their_evaluations_are_said() {
    let desk = desk();
    let line = "sample --model sd15 --prompt x --size 32 --steps 6 --sampler ddim -o out.png";
    for (flags, scale, evaluations, saved, told) in [
        ("", Some(7.5), 12, 0, "CFG scale: 7.5"),
        ("--guidance-scale 1", Some(1.0), 6, 6, "CFG scale: 1"),
        ("--guidance none", None, 6, 6, "Guidance: none"),
        (
            "--guidance apg --guidance-scale 12",
            Some(12.0),
            12,
            0,
            "CFG scale: 12",
        ),
        ("--guidance apg", Some(10.0), 12, 0, "Guidance: apg"),
        ("--guidance cfg++", Some(0.6), 12, 0, "CFG scale: 0.6"),
        (
            "--guidance perturbed-attention",
            Some(7.5),
            18,
            -6,
            "Evaluations saved: -6",
        ),
        (
            "--guidance adaptive --guidance-option threshold=-1 --guidance-option rising=false",
            Some(7.5),
            9,
            3,
            "threshold=-1",
        ),
        (
            "--guidance-interval 0,0.001",
            Some(7.5),
            6,
            6,
            "Guidance interval: 0 to 0.001",
        ),
        (
            "--guidance adaptive --guidance-rescale 0.5 --guidance-option threshold=1",
            Some(7.5),
            12,
            0,
            "CFG rescale: 0.5",
        ),
    ] {
        let json = desk.json(&format!("{line} {flags}"));
        assert_eq!(json["guidance_scale"].as_f64(), scale, "{flags}: {json}");
        assert_eq!(json["evaluations"], evaluations, "{flags}: {json}");
        assert_eq!(json["evaluations_saved"], saved, "{flags}: {json}");
        let text = picture(&desk, "out.png").metadata.texts[0].1.clone();
        let counted = format!("Evaluations: {evaluations}, Evaluations saved: {saved}");
        assert!(
            text.contains(told) && text.contains(&counted),
            "{flags}: {text}"
        );
    }
    let words = desk.done(&format!("{line} --guidance none"));
    let told = "6 evaluations of the network, 6 fewer than in classifier-free guidance";
    assert!(words.contains(told), "{words}");
    // The usual guidance by its name gives the same picture.
    desk.done(line);
    let usual = picture(&desk, "out.png").raster;
    desk.done(&format!("{line} --guidance classifier-free"));
    assert_eq!(picture(&desk, "out.png").raster, usual);
    // A flag for nothing is no error, but it is said.
    let output = desk.nabla(&format!("{line} --guidance none --guidance-scale 3"));
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && notes.contains("--guidance-scale"),
        "{notes}"
    );

    // Inverted under what it shows, a picture stays more like it was.
    let line = "sample --model sd15 --image in.png --steps 100 --guidance cfg++ --strength 0.1";
    let inverted = format!("{line} --prompt astronaut --invert astronaut --invert-iterations 4");
    desk.done(&format!("{inverted} -o same.png"));
    desk.done(&format!("{line} --prompt astronaut -o drawn.png"));
    let difference = |name: &str| -> f32 {
        let (found, original) = (picture(&desk, name).raster, picture(&desk, "in.png").raster);
        let each = found.data().iter().zip(original.data());
        each.map(|(a, b)| (a - b).abs()).sum()
    };
    assert!(difference("same.png") < difference("drawn.png"));
    let text = picture(&desk, "same.png").metadata.texts[0].1.clone();
    assert!(
        text.contains("Sampler: ddim") && text.contains("Inverted from: \"astronaut\""),
        "{text}"
    );
}

#[test]
fn pictures_masks_and_loras_are_taken() {
    let desk = desk();
    let line = "sample --model sd15 --prompt x --image in.png --steps 6 --sampler ddim";
    // The size is the picture's.
    desk.done(&format!("{line} --strength 0.4 -o near.png"));
    desk.done(&format!("{line} --strength 1 -o far.png"));
    assert_eq!(picture(&desk, "near.png").size(), [64, 40]);
    desk.done(&format!("{line} --mask mask.png -o part.png"));
    desk.done(&format!("{line} --mask mask.png --seed 7 -o other.png"));
    // White is made anew, so that two seeds differ there more than where the picture is kept.
    let [part, other] = ["part.png", "other.png"].map(|name| picture(&desk, name).raster);
    let difference = |columns: std::ops::Range<usize>| -> f32 {
        let all = columns.flat_map(|x| (0..40).map(move |y| (y, x)));
        all.map(|(y, x)| (part.get(0, y, x) - other.get(0, y, x)).abs())
            .sum()
    };
    let (new, kept) = (difference(0..16), difference(48..64));
    assert!(new > 0.0 && kept < new, "{new} {kept}");
    let lora = "--lora sd15/lora/kohya.safetensors:0.5";
    desk.done(&format!("{line} --strength 0.4 {lora} -o lora.png"));
    let [near, lora] = ["near.png", "lora.png"].map(|name| picture(&desk, name).raster);
    assert_ne!(near, lora);
}

/// The latents of the folder and of the same model in a single file are the same bits.
#[test]
fn a_single_file_is_sampled_as_the_folder_is() {
    let desk = desk();
    for model in ["sd15", "sd21", "sdxl"] {
        let folder = desk.path(model);
        let all = crate::tiny_single_file::tensors(&folder, model);
        crate::tiny_single_file::write(&desk.path(&format!("{model}.safetensors")), &all);
        let config = desk.path(&format!("{model}_config"));
        crate::tiny_single_file::copy_folder(&folder, &config, false);
        let line = "--prompt astronaut --negative horse --size 64x40 --steps 3";
        let lora = match model {
            "sd15" => "--lora sd15/lora/kohya.safetensors:0.5",
            "sdxl" => "--lora sdxl/lora/original.safetensors:0.5",
            _ => "",
        };
        for (part, more) in [("plain", ""), ("skip", "--clip-skip 1"), ("lora", lora)] {
            let out = format!("-o {model}.png --latents {model}_{part}_folder.safetensors");
            desk.done(&format!("sample --model {model} {line} {more} {out}"));
            let out = format!("-o {model}.png --latents {model}_{part}_file.safetensors");
            let file = format!("{model}.safetensors --config {model}_config");
            desk.done(&format!("sample --model {file} {line} {more} {out}"));
            let [folder, file] = ["folder", "file"].map(|kind| {
                fs::read(desk.path(&format!("{model}_{part}_{kind}.safetensors"))).unwrap()
            });
            assert_eq!(folder, file, "{model} {part}");
            let plain = fs::read(desk.path(&format!("{model}_plain_file.safetensors"))).unwrap();
            assert_eq!(
                file == plain,
                part == "plain" || more.is_empty(),
                "{model} {part}"
            );
        }
    }
    let picture = picture(&desk, "sd15.png");
    let [(_, text)] = &picture.metadata.texts[..] else {
        panic!("{:?}", picture.metadata.texts);
    };
    assert!(text.contains("Model: sd15.safetensors"), "{text}");

    // What the UNet predicts can be said otherwise.
    let line =
        "sample --model sd15.safetensors --config sd15_config --prompt astronaut --size 64x40";
    desk.done(&format!("{line} --steps 3 -o e.png --prediction epsilon"));
    desk.done(&format!("{line} --steps 3 -o v.png --prediction v"));
    desk.done(&format!("{line} --steps 3 -o plain.png"));
    let [e, v, plain] =
        ["e.png", "v.png", "plain.png"].map(|name| self::picture(&desk, name).raster);
    assert_eq!(e, plain);
    assert_ne!(v, plain);
}

#[test]
fn sdxl_is_told_sizes_and_others_are_not() {
    let desk = desk();
    let line = "sample --model sdxl --prompt x --size 32 --steps 2";
    for (name, more) in [
        ("plain", ""),
        ("size", "--original-size 256x128"),
        ("turned", "--original-size 128x256"),
        ("crop", "--crop 0,64"),
        ("same", "--original-size 32 --crop 0,0"),
    ] {
        desk.done(&format!("{line} {more} -o {name}.png"));
    }
    let of = |name: &str| picture(&desk, &format!("{name}.png")).raster;
    assert_eq!(of("plain"), of("same"));
    for (a, b) in [("plain", "size"), ("size", "turned"), ("plain", "crop")] {
        assert_ne!(of(a), of(b), "{a} {b}");
    }
    for (line, told) in [
        (
            "--model sd15 --original-size 64",
            "original size is 64 x 64",
        ),
        ("--model sd15 --crop 8,0", "crop is 8, 0"),
        ("--model sd15 --crop 8", "two numbers of pixels"),
        ("--model sd15 --clip-skip 3", "at most 2"),
        ("--model sdxl --clip-skip 2", "at most 1"),
    ] {
        refused(&desk, line, told);
    }
}

#[test]
fn what_is_wrong_gets_one_sentence() {
    let desk = desk();
    for (line, told) in [
        ("--model none", "there is no model folder none"),
        ("--model sd15/unet", "holds no model_index.json"),
        ("--model sd15 -o out.jpg", "not the name of a PNG file"),
        ("--model sd15 --size 65", "multiples of 8"),
        ("--model sd15 --size big", "it must be 512"),
        ("--model sd15 --sampler foo", "euler-ancestral"),
        (
            "--model sd15 --sampler euler --sampler-option speed=2",
            "the sampler euler has no option \"speed\"; it has: churn, clip, eta",
        ),
        (
            "--model sd15 --sampler dpm++2m --sampler-option order=two",
            "the option order of the sampler dpm++2m cannot be two",
        ),
        (
            "--model sd15 --size 32 --sampler euler --sampler-option eta=2",
            "the eta of Euler is 2, but it must be in [0, 1]",
        ),
        ("--model sd15 --sampler-option eta", "NAME=VALUE"),
        (
            "--model sd15 --guidance-option speed=2",
            "it has: rescale, scale",
        ),
        ("--model sd15 --guidance foo", "classifier-free"),
        (
            "--model sd15 --guidance cfg++ --guidance-scale 7.5",
            "the scale of CFG++ is 7.5, but it must be in [0, 1]",
        ),
        (
            "--model sd15 --guidance-interval 5,1",
            "two noise levels, the lower one first",
        ),
        ("--model sd15 --invert horse", "--image"),
        ("--model sd15 --strength 0.5", "--image"),
        ("--model sd15 --image in.png --strength 2", "strength is 2"),
        ("--model sd15 --steps 2000", "2000"),
        ("--model sd15 --guidance-scale NaN", "guidance scale is NaN"),
        (
            "--model sd15 --lora none.safetensors",
            "cannot read none.safetensors",
        ),
        (
            "--model sd15 --lora in.png",
            "in.png is not a file of weights",
        ),
        (
            "--model sd15 --config sd15",
            "--config is for a single file",
        ),
        ("--model in.png", "in.png is not a file of weights"),
        (
            "--model sd15/unet/diffusion_pytorch_model.safetensors",
            "holds no UNet",
        ),
        (
            "--model sd15 --lora sdxl/lora/original.safetensors",
            "original.safetensors",
        ),
        (
            "--model sdxl --lora sd15/lora/peft.safetensors",
            "sd15/lora/peft.safetensors",
        ),
    ] {
        refused(&desk, line, told);
    }
    let weights = "sd15/unet/diffusion_pytorch_model.safetensors";
    let config = "sd15/unet/config.json";
    let text = desk.get(config);
    desk.put(
        config,
        &text.replace("\"in_channels\"", "\"new_option\": 3, \"in_channels\""),
    );
    refused(&desk, "--model sd15", "new_option = 3");
    desk.put(
        config,
        &text.replace("\"cross_attention_dim\": 16", "\"cross_attention_dim\": 24"),
    );
    refused(&desk, "--model sd15", "do not fit together");
    desk.put(config, &text);
    fs::copy(
        desk.path("sd21/unet/diffusion_pytorch_model.safetensors"),
        desk.path(weights),
    )
    .unwrap();
    refused(&desk, "--model sd15", "has the shape");
    fs::remove_file(desk.path(weights)).unwrap();
    refused(
        &desk,
        "--model sd15",
        "holds no diffusion_pytorch_model.safetensors",
    );
}

/// As [`Desk::refused`], where the line before is "loading".
fn refused(desk: &Desk, line: &str, told: &str) {
    let output = desk.nabla(&format!("sample --prompt x {line}"));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{line}: {error}");
    let last = error.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("nabla: "), "{line}: {error}");
    assert!(
        last.contains(told),
        "{line}: {error:?} should contain {told:?}"
    );
    assert!(!desk.path("sample.png").exists(), "{line}");
}

/// What `--device wgpu` draws is what the processor draws: run by hand where there is a Vulkan driver (Mesa's
/// for processors serves) by `cargo test --release -p nabla-cli --features wgpu --test integration sampling::`.
#[cfg(feature = "wgpu")]
#[test]
fn wgpu_draws_what_the_processor_draws() {
    let desk = desk();
    for (model, precision, most) in [
        ("sd15", "f32", 1e-4),
        ("sd21", "f32", 1e-4),
        ("sdxl", "f32", 1e-4),
        ("sd15", "f16", 1e-1),
    ] {
        let [found, expected] = ["wgpu", "cpu"].map(|device| {
            desk.done(&format!(
                "sample --model {model} --precision {precision} --device {device} --prompt astronaut \
                 --size 64x40 --steps 4 --tile 32 -o {device}.png --latents {device}.safetensors"
            ));
            let bytes = fs::read(desk.path(&format!("{device}.safetensors"))).unwrap();
            let latents = SafeTensors::deserialize(&bytes).unwrap();
            let data = latents.tensor("latents").unwrap().data().to_vec();
            let values: Vec<f32> = data
                .as_chunks()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
            let raster = picture(&desk, &format!("{device}.png")).raster;
            (values, raster.data().to_vec())
        });
        let largest = |v: &[f32]| v.iter().fold(0.0, |most: f32, v| most.max(v.abs()));
        for (found, expected, what) in [
            (found.0, expected.0, "latents"),
            (found.1, expected.1, "picture"),
        ] {
            let difference: Vec<f32> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
            let share = largest(&difference) / largest(&expected);
            println!("{model}, {precision}: {what} differ by {share:.1e} of the largest");
            // Eight bits are a 255th apart.
            let most = if what == "picture" {
                most + 1.1 / 255.0
            } else {
                most
            };
            assert!(share < most, "{model}, {precision}, {what}: {share}");
        }
    }
}
