//! One table of the time that M-FAC's sliding window takes for a new gradient and the product of the
//! inverse Fisher matrix with it, with 32 gradients of several lengths on Burn's CPU backend, and, if
//! `NABLA_PYTHON` names a Python with PyTorch, the ratio to the official algorithm in PyTorch with the
//! same sizes and threads in the same run.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-optim --bench m_fac
//! ```

use std::process::Command;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use nabla_optim::m_fac::{MFacError, SlidingFisher};

const WINDOW: usize = 32;
const DAMPING: f64 = 1e-5;
/// ResNet-20's parameters, a million, and those of the benchmark of the other optimizers.
const DIMENSIONS: [usize; 3] = [270_000, 1_000_000, 24_383_488];
/// A round of new gradients fills the window; so many more are timed.
const TIMED: usize = 15;

/// Milliseconds of a step: the shortest, which other programs disturb least.
fn milliseconds(dimension: usize) -> Result<f64, MFacError> {
    let device = Device::flex();
    let mut fisher = SlidingFisher::new(dimension, WINDOW, DAMPING, &device)?;
    let mut times = Vec::new();
    // The numbers do not matter to the time.
    let gradient = Tensor::random([dimension], Distribution::Normal(0.0, 1.0), &device);
    for _ in 0..WINDOW + TIMED {
        let start = Instant::now();
        let product = fisher.push_solve(&gradient)?;
        times.push(1e3 * start.elapsed().as_secs_f64());
        drop(product);
    }
    Ok(times[WINDOW..]
        .iter()
        .copied()
        .fold(f64::INFINITY, f64::min))
}

/// PyTorch's milliseconds, for each dimension.
fn peer() -> Option<Vec<f64>> {
    let python = std::env::var("NABLA_PYTHON").ok()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/m_fac_peer.py");
    let arguments = [WINDOW, TIMED].into_iter().chain(DIMENSIONS);
    let out = Command::new(python)
        .arg(script)
        .args(arguments.map(|n| n.to_string()))
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let times: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    if times.len() == DIMENSIONS.len() {
        return Some(times);
    }
    let reason = String::from_utf8_lossy(&out.stderr).into_owned();
    eprintln!("PyTorch gave no times: {reason}");
    None
}

fn main() -> Result<(), MFacError> {
    println!(
        "{WINDOW} gradients, {} threads: a new gradient and its product",
        rayon::current_num_threads()
    );
    let peer = peer();
    for (i, dimension) in DIMENSIONS.into_iter().enumerate() {
        let ours = milliseconds(dimension)?;
        match &peer {
            Some(times) => println!(
                "{dimension:10} numbers {ours:8.2} ms, {:5.2} of PyTorch's {:.2} ms",
                ours / times[i],
                times[i]
            ),
            None => println!("{dimension:10} numbers {ours:8.2} ms"),
        }
    }
    Ok(())
}
