//! Seconds for products with the Hessian of ResNet-20 on 1000 examples of 3 x 32 x 32, from the first evaluation on, beside
//! PyHessian on as many threads in the same run, if `NABLA_PYTHON` names a Python with PyTorch and PyHessian.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-probe --bench sharpness
//! ```

use std::ops::ControlFlow;
use std::process::Command;
use std::time::Instant;

use burn::tensor::Device;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_probe::sharpness::{ClassifierLoss, Spectrum, SpectrumConfig};
use nabla_train::classification::TrainingConfig;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::initialization::he_normal;
use nabla_train::model_config::AnyClassifier;
use nabla_train::{ModelConfig, ResNetConfig};

const EXAMPLES: usize = 1000;
const PRODUCTS: usize = 20;
const SHAPE: InputShape = InputShape::Picture([3, 32, 32]);

/// The seconds of our products.
fn ours(model: AnyClassifier) -> Result<f64, Box<dyn std::error::Error>> {
    let noise = SeededNoise::new(0, 0).normal_values(EXAMPLES * SHAPE.features());
    let examples = Examples {
        features: noise,
        labels: (0..EXAMPLES as u32).map(|i| i % 10).collect(),
    };
    let training = TrainingConfig::default();
    let model = he_normal(model, 0)?;
    let indices: Vec<usize> = (0..EXAMPLES).collect();
    let begun = Instant::now();
    let seen = training.examples(&examples, SHAPE)?;
    let loss = ClassifierLoss::new(model, seen, &indices, false)?;
    let hessian = loss.hessian(&mut SeededNoise::new(1, 0))?;
    let config = SpectrumConfig {
        runs: 1,
        steps: PRODUCTS,
        ..SpectrumConfig::default()
    };
    let go_on = || ControlFlow::Continue(());
    let found = Spectrum::of(&hessian, &config, &mut SeededNoise::new(1, 1), &go_on)?;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "largest eigenvalue {:.4}, products off by {:.1e}",
        found.highest[0].value,
        hessian.relative_error()
    );
    Ok(seconds)
}

/// The seconds of PyHessian.
fn peer() -> Option<f64> {
    let python = std::env::var("NABLA_PYTHON").ok()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/sharpness_peer.py");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let numbers = [threads, EXAMPLES, PRODUCTS].map(|number| number.to_string());
    let out = Command::new(python)
        .arg(script)
        .args(numbers)
        .output()
        .ok()?;
    if !out.status.success() {
        eprintln!(
            "PyHessian stopped: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    String::from_utf8_lossy(&out.stdout).trim().parse().ok()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // As the program does.
    nabla_kernels::threads::compute_here();
    let model = ModelConfig::ResNet(ResNetConfig::default());
    let device = Device::flex().autodiff();
    let ours = ours(model.init(SHAPE, 10, &device)?)?;
    println!(
        "{PRODUCTS} products: {ours:.1} s, {:.2} s each",
        ours / PRODUCTS as f64
    );
    if let Some(theirs) = peer() {
        println!(
            "PyHessian: {theirs:.1} s; ours takes {:.2} of it",
            ours / theirs
        );
    }
    Ok(())
}
