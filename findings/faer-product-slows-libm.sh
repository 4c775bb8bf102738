#!/usr/bin/env bash
# After a matrix product of faer, the C library's functions of doubles take many times as long on the same thread.
#
# faer's product ends with numbers in the upper halves of the vector registers. On x86 processors, instructions of the older
# kind (SSE), of which glibc's `tanh` is compiled, then have to keep these halves, and depend on what was there before. A
# function that is compiled for AVX clears them at its end (`vzeroupper`); after faer's product, they stay until somebody else
# does. Small products and those on one thread do it; f32 and f64 alike. Nothing is computed wrongly.
#
# Seen with faer 0.24.4 and glibc 2.36 on an Intel Xeon with AVX-512: `f64::tanh` takes 9 ns before and 157 ns after a product
# of [100, 2] and [2, 50]. `_mm256_zeroupper` after the product brings the 9 ns back.
# Needs cargo, the crates.io registry and an x86-64 processor with AVX. Fails if the behaviour has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir src
cat > Cargo.toml <<'TOML'
[package]
name = "uppers"
version = "0.0.0"
edition = "2024"

[dependencies]
faer = { version = "=0.24.4", default-features = false, features = ["std", "linalg"] }
TOML
cat > src/main.rs <<'RUST'
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use std::hint::black_box;
use std::time::Instant;

/// Nanoseconds of a `tanh`, at best.
fn tanh() -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..50 {
        let begun = Instant::now();
        for i in 0..1000 {
            black_box(black_box(f64::from(i) / 1000.0).tanh());
        }
        least = least.min(begun.elapsed().as_secs_f64() * 1e6);
    }
    least
}

#[target_feature(enable = "avx")]
fn clear() {
    std::arch::x86_64::_mm256_zeroupper();
}

fn main() {
    let (a, b) = (Mat::<f64>::ones(100, 2), Mat::<f64>::ones(2, 50));
    let mut y = Mat::<f64>::zeros(100, 50);
    let before = tanh();
    matmul(y.as_mut(), Accum::Replace, a.as_ref(), b.as_ref(), 1.0, Par::Seq);
    let after = tanh();
    assert!(is_x86_feature_detected!("avx"));
    // SAFETY: the processor has AVX.
    unsafe { clear() };
    let cleared = tanh();
    println!("tanh takes {before:.1} ns before, {after:.1} ns after a product, {cleared:.1} ns when cleared");
    assert!(after > 4.0 * before, "a product leaves the registers as they were");
    assert!(cleared < 2.0 * before, "clearing does not help");
    black_box(y);
}
RUST
cargo run --quiet --release
