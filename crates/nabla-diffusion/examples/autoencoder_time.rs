//! The full-size autoencoder of Stable Diffusion against `diffusers`: time, memory, agreement.
//!
//! ```text
//! python tests/reference/autoencoder_time.py DIR
//! RAYON_NUM_THREADS=2 cargo run --release --example autoencoder_time -- DIR
//! ```
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use nabla_diffusion::stable_diffusion::autoencoder_kl::{AutoencoderKl, TileOptions};
use nabla_diffusion::stable_diffusion::model_folder::Part;
use nabla_diffusion::stable_diffusion::weights::{Precision, Weights};

fn main() {
    let folder = std::env::args()
        .nth(1)
        .expect("the folder that autoencoder_time.py made");
    let folder = Path::new(&folder);
    let device = Device::flex();
    let part = Part::open(&folder.join("vae"), "AutoencoderKL").unwrap();
    let (network, _) = AutoencoderKl::load(&part, &device, Precision::F32).unwrap();
    let reference = Weights::open(
        &[folder.join("reference.safetensors")],
        &device,
        Precision::F32,
    )
    .unwrap();
    let recorded = |name: &str, shape| reference.root().tensor::<4>(name, shape).unwrap();
    let (image, pixels) = (recorded("image", [1, 3, 512, 512]), [1, 3, 512, 512]);
    let (latent, positions) = (recorded("latent", [1, 4, 64, 64]), [1, 4, 64, 64]);
    let tiles = TileOptions {
        size: 32,
        overlap: 8,
    };
    let tiling = network.clone().with_tiling(tiles).unwrap();
    println!("loaded; the peak so far is {:.2} GiB", peak());
    timed("decode in tiles of 32", &recorded("decode", pixels), || {
        tiling.decode(latent.clone()).unwrap()
    });
    timed("decode", &recorded("decode", pixels), || {
        network.decode(latent.clone()).unwrap()
    });
    timed("encode", &recorded("encode", positions), || {
        network.encode(image.clone()).unwrap().mode()
    });
}

fn timed(name: &str, theirs: &Tensor<4>, compute: impl Fn() -> Tensor<4>) {
    let mut seconds = f64::INFINITY;
    let mut difference = 0.0_f32;
    for _ in 0..2 {
        let start = Instant::now();
        let ours = compute();
        seconds = seconds.min(start.elapsed().as_secs_f64());
        difference = (ours - theirs.clone()).abs().max().into_scalar();
    }
    println!(
        "{name}: {seconds:.2} s, the peak so far is {:.2} GiB, differs from diffusers by at most {difference:.1e}",
        peak()
    );
}

/// The most memory the process has held, in GiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) / f64::from(1 << 20)
}
