#!/usr/bin/env bash
# Burn's BatchNorm keeps another variance for use than PyTorch does.
#
# While training, a batch normalization divides by the batch's variance, Σ (x − mean)²/n, and keeps a moving average of a
# variance for use. PyTorch keeps the unbiased one, Σ (x − mean)²/(n − 1); Burn keeps the one with n. With few numbers for
# each channel the kept variances differ: by a factor of 2 for two numbers, by 3 % for 32. So a network that continues a
# PyTorch training in Burn, or is compared with one step by step, has the same losses but other results in use.
#
# Seen with burn 0.22.1: after a batch of 1 and 3 with momentum 0.1, from a kept variance of 1, Burn has
# 0.9 + 0.1 · 1 = 1.0, where the unbiased variance gives 0.9 + 0.1 · 2 = 1.1, which is what PyTorch 2.15.0 has.
# Needs cargo and the crates.io registry. Fails if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "variance"
version = "0.0.0"
edition = "2024"

[dependencies]
burn = { version = "=0.22.1", default-features = false, features = ["std", "flex", "optim"] }
TOML
cat > src/main.rs <<'RUST'
use burn::nn::BatchNormConfig;
use burn::tensor::{Device, Tensor};

fn main() {
    let device = Device::flex().autodiff();
    let norm = BatchNormConfig::new(1).with_momentum(0.1).init(&device);
    // [batch, channels]
    let y = norm.forward(Tensor::<2>::from_floats([[1.0], [3.0]], &device));
    let y: Vec<f32> = y.into_data().iter().collect();
    let kept: Vec<f32> = norm.running_var.value_sync().into_data().iter().collect();
    println!("normalized to {y:?}; kept variance {kept:?}");
    // The batch itself is normalized by the variance with n, as everywhere.
    assert!((y[1] - 1.0).abs() < 1e-4, "the batch is normalized by another variance");
    let [population, unbiased] = [0.9 + 0.1 * 1.0, 0.9 + 0.1 * 2.0];
    assert!((kept[0] - unbiased).abs() > 0.05, "the unbiased variance is kept now");
    assert!((kept[0] - population).abs() < 1e-5, "neither variance is kept");
}
RUST
cargo run --quiet --release
