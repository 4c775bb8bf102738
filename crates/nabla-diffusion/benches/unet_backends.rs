//! One table of the time that a small CNN and the prior's UNet take on Burn's CPU backend, and, if
//! `NABLA_PYTHON` names a Python with PyTorch, on PyTorch with the same networks and threads in the
//! same run, with the ratio.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-diffusion --bench unet_backends
//! ```

use std::process::Command;
use std::time::Instant;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Distribution, Tensor};
use nabla_diffusion::prior::PriorConfig;
use nabla_kernels::activation::relu;
use nabla_kernels::convolution::conv2d;

/// Three 3x3 convolutions with ReLU between them.
#[derive(Module, Debug)]
struct SmallCnn {
    layers: Vec<Conv2d>,
}

impl SmallCnn {
    fn new(device: &Device) -> Self {
        let conv = |i, o| {
            Conv2dConfig::new([i, o], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        Self {
            layers: vec![conv(3, 32), conv(32, 64), conv(64, 32)],
        }
    }

    fn forward(&self, mut x: Tensor<4>, by_burn: bool) -> Tensor<4> {
        for layer in &self.layers {
            x = match by_burn {
                true => burn::tensor::activation::relu(layer.forward(x)),
                false => relu(conv2d(layer, x)),
            };
        }
        x
    }
}

/// Median seconds of a call, of five after one that warms up.
fn seconds(mut call: impl FnMut()) -> f64 {
    call();
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Milliseconds by name of what is measured.
fn measure(device: Device) -> Vec<(&'static str, f64)> {
    let random = |shape: [usize; 4], device: &Device| {
        Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), device)
    };
    let finish = |x: Tensor<4>| {
        let _ = x.sum().into_scalar::<f32>();
    };
    let training = device.clone().autodiff();
    let cnn = SmallCnn::new(&training);
    let batch = random([8, 3, 64, 64], &training);
    let train_cnn = |by_burn: bool| {
        seconds(|| {
            let loss = cnn.forward(batch.clone(), by_burn).powi_scalar(2).mean();
            let grads = loss.backward();
            if let Some(gradient) = cnn.layers[0].weight.val().grad(&grads) {
                finish(gradient);
            }
        })
    };
    let burns = train_cnn(true);
    let ours = train_cnn(false);

    let config = PriorConfig::new().network;
    let unet = config.init(&device).unwrap_or_else(|e| panic!("{e}"));
    println!("the UNet has {} parameters", unet.num_params());
    let tile = random([1, 3, 256, 256], &device);
    let step = seconds(|| {
        let t = Tensor::<1>::from_floats([500.0], &device);
        finish(
            unet.forward(tile.clone(), t, Some(tile.clone()), None)
                .swap_remove(0),
        );
    });

    let unet = config.init(&training).unwrap_or_else(|e| panic!("{e}"));
    let batch = random([16, 3, 64, 64], &training);
    let train = seconds(|| {
        let t = Tensor::<1>::from_floats([500.0; 16], &training);
        let y = unet
            .forward(batch.clone(), t, Some(batch.clone()), None)
            .swap_remove(0);
        let grads = (y - batch.clone()).abs().mean().backward();
        std::hint::black_box(&grads);
    });
    vec![
        (
            "small CNN, Burn's layers, 8x3x64x64, forward + backward",
            burns,
        ),
        (
            "small CNN, Nabla's kernels, 8x3x64x64, forward + backward",
            ours,
        ),
        (
            "UNet of the prior, 1x3x256x256, forward (one denoising step)",
            step,
        ),
        ("UNet of the prior, 16x3x64x64, forward + backward", train),
    ]
    .into_iter()
    .map(|(name, seconds)| (name, 1e3 * seconds))
    .collect()
}

/// PyTorch's milliseconds in the order of [`measure`].
fn peer() -> Option<Vec<f64>> {
    let python = std::env::var("NABLA_PYTHON").ok()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/unet_peer.py");
    let out = Command::new(python).arg(script).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let times: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    if times.len() != 3 {
        eprintln!(
            "PyTorch gave no times: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        return None;
    }
    Some(vec![times[0], times[0], times[1], times[2]])
}

fn main() {
    // As the program does.
    nabla_kernels::threads::compute_here();
    let ours = measure(Device::flex());
    let peer = peer();
    println!("{:64} {:>9} {:>9} {:>6}", "", "flex", "PyTorch", "ratio");
    for (i, (name, ms)) in ours.iter().enumerate() {
        match &peer {
            Some(peer) => println!(
                "{name:64} {ms:6.1} ms {:6.1} ms {:6.2}",
                peer[i],
                ms / peer[i]
            ),
            None => println!("{name:64} {ms:6.1} ms"),
        }
    }
}
