//! Seconds of a training step of top-k and gradient autoencoders on 512 activations of 576 values, with 2304 latents of which
//! 32 are active (those of SmolLM2-135M), beside the same in PyTorch on as many threads in the same run, if `NABLA_PYTHON`
//! names a Python with PyTorch.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-probe --bench sparse_autoencoder
//! ```

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_probe::activation_set::{ActivationSet, Storage};
use nabla_probe::gradient_sae::GradientSaeConfig;
use nabla_probe::sae_training::SaeTraining;
use nabla_probe::sparse_autoencoder::DictionaryConfig;

const WIDTH: usize = 576;
const LATENTS: usize = 4 * WIDTH;
const ACTIVE: usize = 32;
const BATCH: usize = 512;
const STEPS: usize = 40;

fn seconds(
    config: &GradientSaeConfig,
    data: &Arc<ActivationSet>,
) -> Result<f64, Box<dyn std::error::Error>> {
    let device = Device::flex().autodiff();
    let sae = config.init(&DictionaryConfig::new(LATENTS), data, &device)?;
    let training = SaeTraining {
        steps: STEPS + 3,
        batch: BATCH,
        // Random activations leave latents dead, which the peer does not revive.
        dead_after: Some(u64::MAX),
        ..SaeTraining::default()
    };
    let mut trainer = training.trainer(sae, data.clone())?;
    for _ in 0..3 {
        trainer.train_step()?;
    }
    let begun = Instant::now();
    for _ in 0..STEPS {
        trainer.train_step()?;
    }
    Ok(begun.elapsed().as_secs_f64() / STEPS as f64)
}

/// Those of PyTorch.
fn peer() -> Option<[f64; 2]> {
    let python = std::env::var("NABLA_PYTHON").ok()?;
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/benches/sparse_autoencoder_peer.py"
    );
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let numbers = [threads, WIDTH, LATENTS, ACTIVE, BATCH, STEPS];
    let out = Command::new(python)
        .arg(script)
        .args(numbers.map(|number| number.to_string()))
        .output()
        .ok()?;
    if !out.status.success() {
        eprintln!("PyTorch stopped: {}", String::from_utf8_lossy(&out.stderr));
    }
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut numbers = text.split_whitespace().map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // As the program does.
    nabla_kernels::threads::compute_here();
    let mut data = ActivationSet::new(WIDTH, Storage::default())?;
    let mut noise = SeededNoise::new(0, 0);
    let rows = 8 * BATCH * WIDTH;
    let (x, gradients) = (noise.normal_values(rows), noise.normal_values(rows));
    data.push(&x, Some(&gradients))?;
    let data = Arc::new(data);
    let peer = peer();
    for (place, (name, config)) in [
        ("top-k", GradientSaeConfig::top_k(ACTIVE)),
        ("gradient", GradientSaeConfig::new(ACTIVE)),
    ]
    .into_iter()
    .enumerate()
    {
        let own = seconds(&config, &data)?;
        match peer {
            Some(peer) => println!(
                "{name}: {:.1} ms a step, PyTorch {:.1} ms, ratio {:.2}",
                1e3 * own,
                1e3 * peer[place],
                own / peer[place]
            ),
            None => println!("{name}: {:.1} ms a step", 1e3 * own),
        }
    }
    Ok(())
}
