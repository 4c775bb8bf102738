#!/usr/bin/env bash
# The Rust crate `image` writes Radiance HDR files that are darker than the picture.
#
# A pixel of the format has three mantissas of 8 bits and one exponent. The encoder truncates the mantissas
# instead of rounding them, so that every sample is up to 1/128 too small, 0.3 % on average. A
# sample below the smallest exponent comes back as one of the largest.
#
# Seen with image 0.25.10. For samples spread evenly over an octave, the mean falls by 0.26 %; a
# sample of 1e-40 (a subnormal number) comes back as a large number.
# Needs cargo and the crates.io registry. Fails if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "radiance"
version = "0.0.0"
edition = "2021"

[dependencies]
image = { version = "=0.25.10", default-features = false, features = ["hdr"] }
TOML
cat > src/main.rs <<'RUST'
use std::io::Cursor;

use image::codecs::hdr::{HdrDecoder, HdrEncoder};
use image::{DynamicImage, Rgb};

fn round_trip(samples: &[f32]) -> Vec<f32> {
    let pixels: Vec<Rgb<f32>> = samples.iter().map(|&v| Rgb([v; 3])).collect();
    let mut file = Vec::new();
    HdrEncoder::new(&mut file).encode(&pixels, pixels.len(), 1).unwrap();
    let decoder = HdrDecoder::new(Cursor::new(file)).unwrap();
    let read = DynamicImage::from_decoder(decoder).unwrap().into_rgb32f();
    read.pixels().map(|p| p.0[0]).collect()
}

fn main() {
    let given: Vec<f32> = (0..4096).map(|i| 1.0 + (i as f32 + 0.5) / 4096.0).collect();
    let read = round_trip(&given);
    let mean = |v: &[f32]| v.iter().map(|&v| f64::from(v)).sum::<f64>() / v.len() as f64;
    let above = given.iter().zip(&read).filter(|(a, b)| b > a).count();
    let lost = 1.0 - mean(&read) / mean(&given);
    println!("mean {:.5} became {:.5}: {:.3} % less", mean(&given), mean(&read), 100.0 * lost);
    println!("{above} of {} samples became larger", given.len());
    let tiny = round_trip(&[1e-40; 8])[0];
    println!("1e-40 became {tiny:e}");
    assert!(above == 0 && (0.002..0.003).contains(&lost), "it rounds now");
    assert!(tiny > 1e30, "tiny samples stay small now");
}
RUST
cargo run --quiet
