//! One table of the time that a step of each optimizer takes for a model of 25 million parameters on
//! Burn's CPU backend, and, if `NABLA_PYTHON` names a Python with PyTorch, the ratio to PyTorch's AdamW
//! (`foreach` and fused) with the same shapes and threads in the same run.
//!
//! Memory limits all of them, and its speed changes from minute to minute on a shared machine. So every round
//! measures one step of each, PyTorch's fused AdamW among them, and plain loops over as many arrays, which say
//! what the memory gives; the ratios are those of the medians.
//!
//! The gradients outlive the step, as PyTorch's do: what it takes to return their memory to the system is a
//! line of its own.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-optim --bench optimizer_step
//! ```

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use nabla_base::OutOfRange;
use nabla_optim::adabelief::AdaBeliefConfig;
use nabla_optim::adamp::{AdamPConfig, SgdPConfig};
use nabla_optim::adamw::AdamWConfig;
use nabla_optim::diffgrad::DiffGradConfig;
use rayon::prelude::*;

/// Rounds, after two that make the states.
const ROUNDS: usize = 11;

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

/// Gradients for all parameters, of which a handle outlives the step.
struct Gradients {
    round: u32,
    step: GradientsParams,
    kept: GradientsParams,
}

impl ModuleVisitor for Gradients {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // As if drawn at random, in a tenth of the time.
        let mut seed = self.round;
        let numbers: Vec<f32> = (0..param.shape().num_elements())
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((seed >> 8) as f32 / (1 << 23) as f32 - 1.0) * 2e-2
            })
            .collect();
        let data = TensorData::new(numbers, param.shape());
        let grad = Tensor::<D>::from_data(data, &Device::flex());
        self.kept.register(param.id, grad.clone());
        self.step.register(param.id, grad);
    }
}

fn milliseconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    1e3 * start.elapsed().as_secs_f64()
}

/// An optimizer with its model, and the milliseconds of its steps.
struct Stepped {
    name: &'static str,
    optimizer: ModuleOptimizer,
    model: Option<Model>,
    times: Vec<f64>,
}

impl Stepped {
    /// Steps once; returns the milliseconds that freeing the gradients takes.
    fn step(&mut self, round: u32) -> f64 {
        let Some(model) = self.model.take() else {
            return 0.0;
        };
        let mut gradients = Gradients {
            round,
            step: GradientsParams::new(),
            kept: GradientsParams::new(),
        };
        model.visit(&mut gradients);
        let start = Instant::now();
        let model = self.optimizer.step(1e-3, model, gradients.step);
        self.times.push(1e3 * start.elapsed().as_secs_f64());
        self.model = Some(model);
        milliseconds(|| drop(gradients.kept))
    }
}

/// Plain loops over arrays of the model's size: what the memory gives.
struct Plain {
    written: [Vec<f32>; 3],
    read: Vec<f32>,
}

impl Plain {
    const CHUNK: usize = 1 << 14;

    fn new(len: usize) -> Self {
        Self {
            written: std::array::from_fn(|k| vec![k as f32; len]),
            read: vec![1.0; len],
        }
    }

    /// Four arrays read and three of them written: the traffic of AdamW.
    fn seven(&mut self) {
        let [a, b, c] = &mut self.written;
        a.par_chunks_mut(Self::CHUNK)
            .zip(b.par_chunks_mut(Self::CHUNK))
            .zip(c.par_chunks_mut(Self::CHUNK))
            .zip(self.read.par_chunks(Self::CHUNK))
            .for_each(|(((a, b), c), r)| {
                for (((a, b), c), r) in a.iter_mut().zip(b).zip(c).zip(r) {
                    *a += r;
                    *b += r;
                    *c += r;
                }
            });
    }

    /// `a ← b + 0.5 r`.
    fn triad(&mut self) {
        let [a, b, _] = &mut self.written;
        a.par_chunks_mut(Self::CHUNK)
            .zip(b.par_chunks(Self::CHUNK))
            .zip(self.read.par_chunks(Self::CHUNK))
            .for_each(|((a, b), r)| {
                for ((a, b), r) in a.iter_mut().zip(b).zip(r) {
                    *a = b + 0.5 * r;
                }
            });
    }
}

/// A Python with PyTorch that takes a step of AdamW whenever it is asked to.
struct Peer {
    process: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Of `foreach` and of the fused kernel.
    times: [Vec<f64>; 2],
}

impl Peer {
    fn start() -> Option<Self> {
        let python = std::env::var("NABLA_PYTHON").ok()?;
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/benches/optimizer_step_peer.py"
        );
        let mut process = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        Some(Self {
            ask: process.stdin.take()?,
            answers: BufReader::new(process.stdout.take()?),
            process,
            times: [Vec::new(), Vec::new()],
        })
    }

    fn step(&mut self) -> Option<()> {
        writeln!(self.ask, "step").ok()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).ok()?;
        let found: Vec<f64> = answer
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [foreach, fused] = found.try_into().ok()?;
        self.times[0].push(foreach);
        self.times[1].push(fused);
        Some(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It has ended by itself if there was no PyTorch.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn median(times: &[f64]) -> f64 {
    let mut times = times[times.len().saturating_sub(ROUNDS)..].to_vec();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), OutOfRange> {
    // This thread computes, too, as it does in the program.
    let _ = rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global();
    let adamp = AdamPConfig::new().with_weight_decay(1e-2);
    let sgdp = SgdPConfig::new().with_momentum(0.9).with_weight_decay(1e-5);
    let burns = burn::optim::AdamWConfig::new().with_weight_decay(1e-2);
    let mut ours = [
        ("AdamW", AdamWConfig::new().with_weight_decay(1e-2).init()?),
        (
            "AdaBelief",
            AdaBeliefConfig::new().with_weight_decay(1e-2).init()?,
        ),
        (
            "diffGrad",
            DiffGradConfig::new().with_weight_decay(1e-2).init()?,
        ),
        ("AdamP", adamp.clone().init()?),
        // Thresholds above 1 project in every step.
        ("AdamP that projects", adamp.with_delta(1e6).init()?),
        ("SGDP", sgdp.init()?),
        ("Burn's AdamW", burns.init()),
    ]
    .map(|(name, optimizer)| Stepped {
        name,
        optimizer,
        model: Some(Model::new(&Device::flex().autodiff())),
        times: Vec::new(),
    });
    let parameters = Model::new(&Device::flex()).num_params();
    let mut plain = Plain::new(parameters);
    let mut peer = Peer::start();
    let (mut seven, mut triad, mut freed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS + 2 {
        for stepped in &mut ours {
            freed.push(stepped.step(round as u32));
        }
        seven.push(milliseconds(|| plain.seven()));
        triad.push(milliseconds(|| plain.triad()));
        if peer.as_mut().is_some_and(|peer| peer.step().is_none()) {
            eprintln!("PyTorch gave no times");
            peer = None;
        }
    }

    println!(
        "{parameters} parameters, {} threads",
        rayon::current_num_threads()
    );
    let (seven, triad) = (median(&seven), median(&triad));
    let speed = |arrays: usize, ms: f64| (arrays * 4 * parameters) as f64 / ms / 1e6;
    println!(
        "plain loops: 4 arrays read and 3 of them written {seven:.1} ms, {:.0} GB/s; triad {triad:.1} ms, {:.0} GB/s",
        speed(7, seven),
        speed(3, triad)
    );
    println!(
        "freeing the gradients: {:.1} ms, not in the steps' times",
        median(&freed)
    );
    let peer = peer
        .as_ref()
        .map(|peer| peer.times.each_ref().map(|t| median(t)));
    if let Some([foreach, fused]) = peer {
        println!("PyTorch's AdamW: foreach {foreach:.1} ms, fused {fused:.1} ms");
    }
    for stepped in &ours {
        let (name, ms) = (stepped.name, median(&stepped.times));
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
