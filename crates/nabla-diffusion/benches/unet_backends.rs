//! One table of the time that a small CNN and the UNet take on every CPU backend built in, and, if
//! `NABLA_PYTHON` names a Python with PyTorch, on PyTorch with the same networks in the same run.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-diffusion --bench unet_backends
//! ```

use std::process::Command;
use std::time::Instant;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{PaddingConfig2d, Relu};
use burn::tensor::{Device, Distribution, Tensor};
use nabla_diffusion::unet::{Normalization, UNetConfig};

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
        Self { layers: vec![conv(3, 32), conv(32, 64), conv(64, 32)] }
    }

    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for layer in &self.layers {
            x = Relu::new().forward(layer.forward(x));
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

fn unet_config() -> UNetConfig {
    UNetConfig::new(3, 3)
        .with_condition_channels(3)
        .with_patch(4)
        .with_base_channels(64)
        .with_multipliers(vec![1, 2])
        .with_attention_levels(vec![])
        .with_middle_attention(false)
        .with_normalization(Normalization::None)
}

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
    let cnn_time = seconds(|| {
        let loss = cnn.forward(batch.clone()).powi_scalar(2).mean();
        let grads = loss.backward();
        finish(cnn.layers[0].weight.val().grad(&grads).unwrap_or_else(|| unreachable!()));
    });

    let config = unet_config();
    let unet = config.init(&device).unwrap_or_else(|e| panic!("{e}"));
    println!("UNet parameters: {}", unet.num_params());
    let tile = random([1, 3, 256, 256], &device);
    let step_time = seconds(|| {
        let t = Tensor::<1>::from_floats([500.0], &device);
        finish(unet.forward(tile.clone(), t, Some(tile.clone()), None).swap_remove(0));
    });

    let unet = config.init(&training).unwrap_or_else(|e| panic!("{e}"));
    let batch = random([16, 3, 64, 64], &training);
    let train_time = seconds(|| {
        let t = Tensor::<1>::from_floats([500.0; 16], &training);
        let y = unet.forward(batch.clone(), t, Some(batch.clone()), None).swap_remove(0);
        let grads = (y - batch.clone()).abs().mean().backward();
        std::hint::black_box(&grads);
    });
    vec![
        ("small CNN 8x3x64x64, forward + backward", cnn_time),
        ("UNet 1x3x256x256, forward", step_time),
        ("UNet 16x3x64x64, forward + backward", train_time),
    ]
}

fn main() {
    let ours = measure(Device::flex());
    for (name, s) in &ours {
        println!("flex  {name}: {:.1} ms", s * 1e3);
    }
    if let Ok(python) = std::env::var("NABLA_PYTHON") {
        let out = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/unet_peer.py"))
            .output();
        if let Ok(out) = out {
            print!("{}", String::from_utf8_lossy(&out.stdout));
        }
    }
}
