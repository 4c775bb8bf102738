//! One table of the time that a step of each optimizer takes for a model of 25 million parameters on
//! Burn's CPU backend, and, if `NABLA_PYTHON` names a Python with PyTorch, the ratio to PyTorch's AdamW
//! (`foreach`) with the same shapes and threads in the same run.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-optim --bench optimizer_step
//! ```

use std::process::Command;
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Distribution, Tensor};
use nabla_base::OutOfRange;
use nabla_optim::adabelief::AdaBeliefConfig;
use nabla_optim::adamp::{AdamPConfig, SgdPConfig};
use nabla_optim::diffgrad::DiffGradConfig;

/// Half of the parameters in matrices, half in kernels of convolutions.
#[derive(Module, Debug)]
struct Model {
    linears: Vec<Linear>,
    convs: Vec<Conv2d>,
}

impl Model {
    fn new(device: &Device) -> Self {
        Self {
            linears: (0..3)
                .map(|_| LinearConfig::new(2048, 2048).init(device))
                .collect(),
            convs: (0..5)
                .map(|_| Conv2dConfig::new([512, 512], [3, 3]).init(device))
                .collect(),
        }
    }
}

/// Random gradients for all parameters.
struct Gradients<'a>(&'a mut GradientsParams);

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = Tensor::<D>::random(
            param.shape(),
            Distribution::Normal(0.0, 1e-2),
            &Device::flex(),
        );
        self.0.register(param.id, grad);
    }
}

/// Median milliseconds of a step, of seven after one that makes the state.
fn milliseconds(mut optimizer: ModuleOptimizer) -> f64 {
    let mut model = Model::new(&Device::flex().autodiff());
    let mut times = Vec::new();
    for _ in 0..8 {
        let mut grads = GradientsParams::new();
        model.visit(&mut Gradients(&mut grads));
        let start = Instant::now();
        model = optimizer.step(1e-3, model, grads);
        times.push(1e3 * start.elapsed().as_secs_f64());
    }
    times.remove(0);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// PyTorch's milliseconds: AdamW in passes over all parameters, and its fused kernel.
fn peer() -> Option<[f64; 2]> {
    let python = std::env::var("NABLA_PYTHON").ok()?;
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/benches/optimizer_step_peer.py"
    );
    let out = Command::new(python).arg(script).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let times: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let times = times.try_into().ok();
    if times.is_none() {
        let reason = String::from_utf8_lossy(&out.stderr).into_owned();
        eprintln!("PyTorch gave no times: {reason}");
    }
    times
}

fn main() -> Result<(), OutOfRange> {
    let sgdp = SgdPConfig::new().with_momentum(0.9).with_weight_decay(1e-5);
    // Thresholds above 1 project in every step.
    let projecting = AdamPConfig::new().with_weight_decay(1e-2).with_delta(1e6);
    let ours = [
        (
            "AdaBelief",
            AdaBeliefConfig::new().with_weight_decay(1e-2).init()?,
        ),
        (
            "diffGrad",
            DiffGradConfig::new().with_weight_decay(1e-2).init()?,
        ),
        ("AdamP", AdamPConfig::new().with_weight_decay(1e-2).init()?),
        ("AdamP that projects", projecting.init()?),
        ("SGDP", sgdp.init()?),
        (
            "Burn's AdamW",
            AdamWConfig::new().with_weight_decay(1e-2).init(),
        ),
    ]
    .map(|(name, optimizer)| (name, milliseconds(optimizer)));
    let parameters = Model::new(&Device::flex()).num_params();
    println!(
        "{parameters} parameters, {} threads",
        rayon::current_num_threads()
    );
    let peer = peer();
    if let Some([foreach, fused]) = peer {
        println!("PyTorch's AdamW: foreach {foreach:.1} ms, fused {fused:.1} ms");
    }
    for (name, ms) in ours {
        match peer {
            Some([foreach, fused]) => println!(
                "{name:20} {ms:6.1} ms, {:5.2} of foreach, {:5.2} of fused",
                ms / foreach,
                ms / fused
            ),
            None => println!("{name:20} {ms:6.1} ms"),
        }
    }
    Ok(())
}
