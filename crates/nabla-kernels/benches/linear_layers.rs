//! Linear layers of Stable Diffusion's transformers: Burn's and Nabla's, of 32 and of 16 bits, and PyTorch's
//! on the same threads in the same run, in 10⁹ multiplications and additions per second.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-kernels --bench linear_layers
//! ```
//!
//! Without `NABLA_PYTHON` there is no last column.

use std::process::Command;
use std::time::Instant;

use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Distribution, Tensor};
use nabla_kernels::linear::linear;

/// Rows, channels in, channels out.
const LAYERS: [[usize; 3]; 8] = [
    [64, 1280, 1280],
    [64, 1280, 10240],
    [77, 2048, 1280],
    [256, 1280, 10240],
    [256, 5120, 1280],
    [1024, 640, 5120],
    [4096, 320, 320],
    [4096, 320, 2560],
];

const PEER: &str = "
import sys, time, torch
torch.set_num_threads(int(sys.argv[1]))
with torch.no_grad():
    for layer in sys.argv[2:]:
        rows, wide, out = map(int, layer.split(','))
        x, w = torch.randn(1, rows, wide), torch.randn(out, wide)
        torch.nn.functional.linear(x, w)
        times = []
        for _ in range(7):
            begun = time.perf_counter()
            torch.nn.functional.linear(x, w)
            times.append(time.perf_counter() - begun)
        print(sorted(times)[3])
";

/// The median seconds of seven calls after one.
fn seconds(mut compute: impl FnMut() -> Tensor<3>) -> f64 {
    let mut timed = || {
        let begun = Instant::now();
        compute();
        begun.elapsed().as_secs_f64()
    };
    timed();
    let mut times = [(); 7].map(|()| timed());
    times.sort_by(f64::total_cmp);
    times[3]
}

/// PyTorch's seconds for each layer; none without a Python that has it.
fn peer() -> Option<Vec<f64>> {
    let python = std::env::var("NABLA_PYTHON").ok()?;
    let layers = LAYERS.map(|layer| layer.map(|n| n.to_string()).join(","));
    let threads = rayon::current_num_threads().to_string();
    let out = Command::new(python)
        .args(["-c", PEER, &threads])
        .args(layers)
        .output()
        .ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    let times: Vec<f64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    (times.len() == LAYERS.len()).then_some(times)
}

fn main() {
    let device = Device::flex();
    let theirs = peer();
    println!(
        "| rows x in -> out | Burn, f32 | Nabla, f32 | Burn, bf16 | Nabla, bf16 | PyTorch, f32 |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    for (i, [rows, input, output]) in LAYERS.into_iter().enumerate() {
        let rate = |seconds: f64| 2e-9 * (rows * input * output) as f64 / seconds;
        // As a network's weights are loaded: one row for each output.
        let layer = LinearConfig::new(output, input)
            .with_bias(false)
            .init(&device);
        let mut cells = Vec::new();
        for dtype in [DType::F32, DType::BF16] {
            let layer = Linear {
                weight: layer.weight.clone().map(|w| w.cast(dtype).transpose()),
                bias: None,
            };
            let x = Tensor::<3>::random([1, rows, input], Distribution::Default, &device);
            let x = x.cast(dtype);
            cells.push(seconds(|| layer.forward(x.clone())));
            cells.push(seconds(|| linear(&layer, x.clone())));
        }
        cells.extend(theirs.as_ref().map(|times| times[i]));
        let cells: Vec<String> = cells.iter().map(|&t| format!("{:.1}", rate(t))).collect();
        println!("| {rows} x {input} -> {output} | {} |", cells.join(" | "));
    }
}
