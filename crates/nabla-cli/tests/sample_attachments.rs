//! What people attach to `nabla sample`, on the tiny models of `nabla-diffusion`: weights, learned words,
//! LyCORIS, ControlNets, IP-Adapters and previews.

use std::fs;
use std::path::Path;

use crate::desk::Desk;
use nabla::data::{BitDepth, Picture, Raster, WriteOptions};

/// A folder with a model, the attachments, and a picture.
fn desk() -> Desk {
    let desk = Desk::empty();
    let tiny =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../nabla-diffusion/tests/reference/tiny");
    for folder in [
        "sd15",
        "attachments/embeddings",
        "attachments/lycoris",
        "attachments/control/sd15",
        "attachments/ip",
        "attachments/ip/image_encoder",
        "attachments/taesd",
    ] {
        copy(&tiny.join(folder), &desk.path(folder));
    }
    let picture = Raster::from_fn(3, 40, 64, |c, y, x| {
        0.5 + 0.4 * ((x * (c + 1) + y) as f32 / 9.0).sin()
    });
    Picture::new(picture, BitDepth::Eight)
        .write(&desk.path("in.png"), &WriteOptions::default())
        .unwrap();
    desk
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}

const LINE: &str = "sample --model sd15 --size 64x40 --steps 3 --sampler ddim";

/// Its pixels, and what it says about how it was made.
fn made(desk: &Desk, line: &str) -> (Raster, String, serde_json::Value) {
    let told = desk.json(&format!("{LINE} {line} -o out.png"));
    let picture = Picture::read(&desk.path("out.png")).unwrap();
    let [(_, text)] = &picture.metadata.texts[..] else {
        panic!("{:?}", picture.metadata.texts);
    };
    let text = text.clone();
    (picture.raster, text, told)
}

#[test]
fn weights_and_learned_words_change_the_picture() {
    let desk = desk();
    let (plain, _, told) = made(&desk, "--prompt horse");
    assert_eq!(told["emphasis"], "original");
    assert_eq!(told["embeddings"], serde_json::json!([]));
    let (weighted, text, _) = made(&desk, "--prompt (horse:1.5)");
    assert_ne!(plain, weighted);
    assert!(text.starts_with("(horse:1.5)\n"), "{text}");
    let (other, text, told) = made(&desk, "--prompt (horse:1.5) --emphasis no-norm");
    assert_ne!(other, weighted);
    assert!(text.contains(", Emphasis: No norm"), "{text}");
    assert_eq!(told["emphasis"], "no-norm");
    let (literal, _, _) = made(&desk, "--prompt (horse:1.5) --emphasis none");
    assert_ne!(literal, weighted);
    let (escaped, _, _) = made(&desk, r"--prompt \(horse:1.5\)");
    assert_eq!(literal, escaped);
    // Longer than a part, and with the negative prompt in as many parts.
    let long = "horse".repeat(60);
    let (long, _, _) = made(&desk, &format!("--prompt {long} --negative dog"));
    assert_ne!(long, plain);

    let files = "--embedding attachments/embeddings/learned_embeds.safetensors \
                 --embedding attachments/embeddings/webui.pt:style";
    let (unused, text, told) = made(&desk, &format!("--prompt horse {files}"));
    assert_eq!(unused, plain);
    assert!(
        text.contains(", Embedding: learned_embeds.safetensors, Embedding: webui.pt:style"),
        "{text}"
    );
    assert_eq!(told["embeddings"][1]["token"], "style");
    assert_eq!(told["embeddings"][1]["vectors"], 2);
    let words = ["<cat-toy>", "STYLE", "horse"];
    let pictures = words.map(|word| made(&desk, &format!("--prompt {word} {files}")).0);
    assert_ne!(pictures[0], pictures[1]);
    assert_ne!(pictures[1], pictures[2]);
    let (negative, _, _) = made(&desk, &format!("--prompt horse --negative style {files}"));
    assert_ne!(negative, plain);
}

#[test]
fn networks_and_pictures_are_attached() {
    let desk = desk();
    let (plain, _, told) = made(&desk, "--prompt horse");
    for name in ["controlnets", "ip_adapters"] {
        assert_eq!(told[name], serde_json::json!([]));
    }
    let net = "--controlnet attachments/control/sd15 --control-image in.png";
    let (controlled, text, told) = made(&desk, &format!("--prompt horse {net}"));
    assert_ne!(controlled, plain);
    assert!(
        text.contains("ControlNet: \"Model: sd15, Weight: 1,"),
        "{text}"
    );
    assert_eq!(told["controlnets"][0]["scale"], 1.0);
    let (off, _, _) = made(&desk, &format!("--prompt horse {net} --control-scale 0"));
    assert_eq!(off, plain);
    let single = "attachments/control/sd15/diffusion_pytorch_model.safetensors";
    let (both, text, _) = made(
        &desk,
        &format!(
            "--prompt horse {net} --controlnet {single} --control-image in.png --control-scale 1 \
             --control-scale 0.5 --control-end 0.5 --control-guess"
        ),
    );
    assert_ne!(both, controlled);
    assert!(text.contains("Weight: 0.5, Guidance Start: 0, Guidance End: 0.5, Guess: true"));

    for form in ["plain", "plus"] {
        let adapter = format!("--ip-adapter attachments/ip/{form}.safetensors --ip-image in.png");
        let (shown, text, told) = made(&desk, &format!("--prompt horse {adapter} --ip-scale 0.7"));
        assert_ne!(shown, plain, "{form}");
        assert!(text.contains(&format!(
            "IP-Adapter: \"Model: {form}.safetensors, Weight: 0.7\""
        )));
        assert_eq!(told["ip_adapters"][0]["scale"], 0.7);
        let (off, _, _) = made(&desk, &format!("--prompt horse {adapter} --ip-scale 0"));
        assert_eq!(off, plain, "{form}");
    }
    for kind in ["loha", "lokr", "dora", "full", "ia3"] {
        let file = format!("attachments/lycoris/{kind}.safetensors");
        let (changed, _, _) = made(&desk, &format!("--prompt horse --lora {file}:0.9"));
        assert_ne!(changed, plain, "{kind}");
    }
}

/// The filters see the pictures that the networks see, and no other one.
#[test]
fn guiding_pictures_are_filtered() {
    let desk = desk();
    let net = "--prompt horse --controlnet attachments/control/sd15 --control-image in.png";
    let adapter = "--ip-adapter attachments/ip/plain.safetensors --ip-image in.png";
    let (plain, _, told) = made(&desk, &format!("{net} {adapter}"));
    assert_eq!(told["structure_filter"], serde_json::Value::Null);
    let filtered = |filters: &str| made(&desk, &format!("{net} {adapter} {filters}"));
    let (shape, text, told) = filtered("--image-filter structure=gray|match-polarity|contrast:1.5");
    assert_ne!(shape, plain);
    assert!(
        text.contains("Structure filter: \"gray|match-polarity|contrast:1.5\""),
        "{text}"
    );
    assert_eq!(told["structure_filter"], "gray|match-polarity|contrast:1.5");
    let (look, _, told) = filtered("--image-filter appearance=invert");
    assert!(look != plain && look != shape);
    assert_eq!(told["appearance_filter"], "invert");
    let (same, _, _) = filtered("--image-filter appearance=invert:strength=0");
    assert_eq!(same, plain);
}

#[test]
fn previews_are_written_and_change_nothing() {
    let desk = desk();
    let (plain, _, _) = made(&desk, "--prompt horse");
    for more in [
        "",
        "--taesd attachments/taesd",
        "--taesd attachments/taesd/diffusion_pytorch_model.safetensors --preview-every 2",
    ] {
        let (same, _, told) = made(
            &desk,
            &format!("--prompt horse --preview so-far.png {more}"),
        );
        assert_eq!(same, plain, "{more}");
        assert_eq!(told["preview"], "so-far.png");
        let preview = Picture::read(&desk.path("so-far.png")).unwrap();
        assert_eq!(preview.size(), [64, 40], "{more}");
        fs::remove_file(desk.path("so-far.png")).unwrap();
    }
}

#[test]
fn what_is_wrong_gets_one_sentence() {
    let desk = desk();
    for (line, told) in [
        ("--prompt (a:1.2.3)", "the weight \"1.2.3\""),
        ("--prompt [a:b:0.5]", "changes the text during the run"),
        ("--prompt a --embedding none.pt", "cannot read none.pt"),
        (
            "--prompt a --embedding in.png:x",
            "in.png is not a file of weights",
        ),
        (
            "--prompt a --embedding attachments/embeddings/xl.safetensors",
            "is for another model",
        ),
        (
            "--prompt a --controlnet attachments/control/sd15",
            "each --controlnet needs one --control-image",
        ),
        ("--prompt a --control-image in.png", "--controlnet"),
        (
            "--prompt a --image-filter structure=invert",
            "filters the pictures of --controlnet, but there is none",
        ),
        (
            "--prompt a --image-filter invert",
            "it must be structure=CHAIN or appearance=CHAIN",
        ),
        (
            "--prompt a --controlnet attachments/control/sd15 --control-image in.png \
             --image-filter structure=sepia",
            "there is no filter \"sepia\"; there are: rank,",
        ),
        (
            "--prompt a --controlnet attachments/control/sd15 --control-image in.png \
             --image-filter structure=match-range",
            "there is no other picture",
        ),
        (
            "--prompt a --controlnet sd15/unet --control-image in.png",
            "ControlNetModel was expected",
        ),
        (
            "--prompt a --controlnet none --control-image in.png",
            "there is no ControlNet none",
        ),
        (
            "--prompt a --controlnet attachments/control/sd15 --control-image in.png --control-start 2",
            "start of the ControlNet is 2",
        ),
        (
            "--prompt a --controlnet attachments/control/sd15 --control-image in.png \
             --control-scale 1 --control-scale 2",
            "--control-scale is given 2 times",
        ),
        (
            "--prompt a --ip-adapter sd15/vae/diffusion_pytorch_model.safetensors --ip-image in.png",
            "holds no IP-Adapter",
        ),
        (
            "--prompt a --ip-adapter attachments/ip/plain.safetensors --ip-image in.png --ip-encoder none",
            "there is no model folder none",
        ),
        ("--prompt a --preview out.jpg", "not the name of a PNG file"),
        ("--prompt a --taesd attachments/taesd", "--preview"),
        (
            "--prompt a --preview p.png --taesd sd15/unet/diffusion_pytorch_model.safetensors",
            "holds no TAESD decoder",
        ),
        (
            "--prompt a --preview p.png --taesd sd15/vae",
            "AutoencoderTiny was expected",
        ),
    ] {
        let output = desk.nabla(&format!("{LINE} {line}"));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {error}");
        let last = error.trim_end().lines().last().unwrap_or_default();
        assert!(last.starts_with("nabla: "), "{line}: {error}");
        assert!(
            last.contains(told),
            "{line}: {error:?} should contain {told:?}"
        );
        for file in ["sample.png", "p.png"] {
            assert!(!desk.path(file).exists(), "{line}");
        }
    }
}
