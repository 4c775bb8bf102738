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
