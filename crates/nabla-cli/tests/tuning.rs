//! `nabla tune` from outside, on a tiny model of `nabla-diffusion`.

use std::path::Path;

use crate::desk::Desk;
use nabla::data::{BitDepth, Picture, Raster, WriteOptions};

#[test]
fn a_word_is_learned_from_a_picture_and_used() {
    let desk = Desk::empty();
    let tiny =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../nabla-diffusion/tests/reference/tiny");
    crate::tiny_single_file::copy_folder(&tiny.join("sd15"), &desk.path("sd15"), true);
    let picture = Raster::from_fn(3, 40, 64, |c, y, x| {
        0.5 + 0.4 * ((x * (c + 1) + y) as f32 / 9.0).sin()
    });
    Picture::new(picture, BitDepth::Eight)
        .write(&desk.path("in.png"), &WriteOptions::default())
        .unwrap();
    let line =
        "tune embedding --model sd15 --image in.png --word glow --init a --steps 3 --vectors 2";
    let told = desk.json(&format!(
        "{line} --prompt glow --iterations 8 --learning-rate 0.002 -o glow.safetensors"
    ));
    assert_eq!(told["iterations"], 8);
    assert_eq!(told["gradient"], "exact");
    assert!(
        told["loss"].as_f64() < told["first_loss"].as_f64(),
        "{told}"
    );
    let used =
        "sample --model sd15 --prompt glow --embedding glow.safetensors --size 64x40 --steps 2";
    desk.json(&format!("{used} -o out.png"));
    desk.refused(
        &format!("{line} --prompt picture"),
        "does not contain the word",
    );
}

/// A model and a classifier of the digits, both trained by the program itself.
#[test]
fn noise_is_changed_until_the_classifier_is_unsure() {
    let desk = Desk::empty();
    crate::searching::put_models(&desk);
    let line =
        "tune noise --model model --classifier judge --class 3 -n 4 --steps 4 --iterations 4";
    let told = desk.json(&format!(
        "{line} --judge judge --noise noise.npy -o out.png"
    ));
    assert!(
        told["loss"].as_f64() > told["first_loss"].as_f64(),
        "{told}"
    );
    let change = told["change"].as_f64().unwrap();
    assert!(change > 0.0 && change <= 0.1 + 1e-6, "{told}");
    assert_eq!(told["judged_after"], told["right_after"]);
    let picture = Picture::read(&desk.path("out.png")).unwrap();
    assert_eq!(picture.size(), [32, 16]);
    let noise = nabla::data::NpyArray::read(&desk.path("noise.npy")).unwrap();
    assert_eq!(noise.shape, [4, 1, 8, 8]);
    let again = desk.json(&format!("{line} -o again.png"));
    assert_eq!(again["loss"], told["loss"]);

    desk.refused(
        &format!("{line} --class x"),
        "cannot be used multiple times",
    );
    let line = "tune noise --model model --classifier judge";
    desk.refused(&format!("{line} --class eleven"), "eleven");
    desk.refused(
        &format!("{line} --class 3 --bound 0"),
        "bound of adversarial noise",
    );
    desk.refused(
        "tune noise --model model --classifier none --class 3",
        "none",
    );
}

/// A model of classes changes all its weights, and Stable Diffusion learns a LoRA.
#[test]
fn a_style_is_learned_from_a_picture_and_drawn_with() {
    let desk = Desk::empty();
    crate::searching::put_models(&desk);
    desk.done("train model --data digits --model cnn --epochs 1 --out cnn");
    let stripes = Raster::from_fn(3, 20, 16, |_, y, _| if y % 4 < 2 { 0.9 } else { 0.1 });
    Picture::new(stripes, BitDepth::Eight)
        .write(&desk.path("stripes.png"), &WriteOptions::default())
        .unwrap();
    let line = "tune style --model model --style stripes.png --classifier cnn --steps 3 -n 4";
    let told = desk.json(&format!(
        "{line} --class 3 --class 5 --iterations 6 -o styled --preview both.png"
    ));
    assert_eq!(told["iterations"], 6);
    let both = Picture::read(&desk.path("both.png")).unwrap();
    assert_eq!(both.size(), [16, 16]);
    desk.json("sample --model styled --class 3 --steps 2 -o out.png");
    let again = desk.json(&format!(
        "{line} --class 3 --class 5 --iterations 6 -o again"
    ));
    assert_eq!(again["loss"], told["loss"]);

    desk.refused(&format!("{line} -o styled"), "styled");
    let line = "tune style --model model --style stripes.png";
    desk.refused(&format!("{line} -o other"), "needs a --classifier");
    desk.refused(
        &format!("{line} --classifier judge -o other"),
        "must be a model of pictures",
    );
    desk.refused(
        &format!("{line} --prompt a -o other"),
        "with --class, not with --prompt",
    );
    assert!(!desk.path("other").exists());

    let tiny =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../nabla-diffusion/tests/reference/tiny");
    crate::tiny_single_file::copy_folder(&tiny.join("sd15"), &desk.path("sd15"), true);
    let line = "tune style --model sd15 --style stripes.png --steps 2 --size 64 --iterations 3";
    for rank in [0, 2] {
        let told = desk.json(&format!(
            "{line} --prompt a --prompt picture --rank {rank} -o style{rank}.safetensors --preview sd.png"
        ));
        assert_eq!(told["output"], format!("style{rank}.safetensors"));
        desk.json(&format!(
            "sample --model sd15 --prompt a --lora style{rank}.safetensors --size 64 --steps 2 -o out.png"
        ));
    }
    desk.refused(line, "needs a --prompt");
}

/// Pictures of Stable Diffusion are shown to a classifier of digits in its size, grey.
#[test]
fn noise_of_stable_diffusion_is_changed_too() {
    let desk = Desk::empty();
    desk.done("train model --data digits --model cnn --epochs 1 --out cnn");
    let tiny =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../nabla-diffusion/tests/reference/tiny");
    crate::tiny_single_file::copy_folder(&tiny.join("sd15"), &desk.path("sd15"), true);
    let line = "tune noise --model sd15 --classifier cnn --class 3";
    let told = desk.json(&format!(
        "{line} --prompt a -n 2 --steps 2 --size 64 --iterations 3 --length 0.01 --noise noise.npy -o out.png"
    ));
    assert!(
        told["loss"].as_f64() > told["first_loss"].as_f64(),
        "{told}"
    );
    let change = told["change"].as_f64().unwrap();
    assert!(change > 0.0 && change <= 0.1 + 1e-6, "{told}");
    let picture = Picture::read(&desk.path("out.png")).unwrap();
    assert_eq!(picture.size(), [128, 128]);
    let noise = nabla::data::NpyArray::read(&desk.path("noise.npy")).unwrap();
    assert_eq!(noise.shape[..2], [2, 4]);
    desk.refused(line, "needs a --prompt");
    desk.refused(&format!("{line} --prompt a --class ten"), "cannot be used");
    desk.refused(
        "tune noise --model sd15 --classifier cnn --class ten --prompt a",
        "knows no class \"ten\"",
    );
}
