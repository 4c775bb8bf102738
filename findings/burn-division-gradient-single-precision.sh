#!/usr/bin/env bash
# Burn's gradient of a division by a number is rounded to single precision, also for tensors in double precision.
#
# In double precision, `x * (1.0 / 3.0)` has the gradient 1/3 to 16 digits, but `x / 3.0` has that of 1/3 in 32 bits: off by
# 1e-8. Values are right in both. So a loss that is divided by the number of examples has gradients which agree with another
# framework, or with central differences, to 8 digits only, and a check in double precision that expects 12 fails without a
# fault of the model.
#
# Seen with burn 0.22.1: 0.3333333432674408 by the division, 0.3333333333333333 by the product; PyTorch 2.15.0 has the latter
# for both. Needs cargo and the crates.io registry. Fails if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "division"
version = "0.0.0"
edition = "2024"

[dependencies]
burn = { version = "=0.22.1", default-features = false, features = ["std", "flex", "optim"] }
TOML
cat > src/main.rs <<'RUST'
use burn::tensor::{DType, Device, Tensor, TensorData};

fn main() {
    let device = Device::flex().autodiff();
    let leaf = || {
        let data = TensorData::from([6.0_f64]);
        Tensor::<1>::from_data(data, (&device, DType::F64)).require_grad()
    };
    let gradient = |y: Tensor<1>, x: &Tensor<1>| -> f64 {
        let grad = x.grad(&y.sum().backward()).expect("a gradient");
        grad.into_data().iter::<f64>().next().expect("a number")
    };
    let (x, y) = (leaf(), leaf());
    let quotient = gradient(x.clone() / 3.0, &x);
    let product = gradient(y.clone() * (1.0 / 3.0), &y);
    println!("gradient of x / 3: {quotient}, of x * (1 / 3): {product}");
    assert!((product - 1.0 / 3.0).abs() < 1e-15, "the product is rounded now");
    assert!((quotient - 1.0 / 3.0).abs() > 1e-9, "the quotient is exact now");
    assert_eq!(quotient, f64::from(1.0_f32 / 3.0));
}
RUST
cargo run --quiet --release
