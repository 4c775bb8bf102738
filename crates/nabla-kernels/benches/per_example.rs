//! One table of a step of private training: the gradient of every example clipped to a norm, and their sum. On the
//! processor, with the kernels and, if `NABLA_PYTHON` names a Python with PyTorch, with `torch.func.vmap(grad)` and with
//! Opacus, if it is installed, on as many threads in the same run. Beside it, a step of training without clipping.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-kernels --bench per_example
//! ```

use std::process::Command;
use std::time::Instant;

use burn::module::Module;
use burn::nn::conv::Conv2dConfig;
use burn::nn::{EmbeddingConfig, GroupNormConfig, LayerNormConfig, LinearConfig, PaddingConfig2d};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Int, Tensor};
use nabla_grad::per_example::Reduction;
use nabla_kernels::activation::Activation;
use nabla_kernels::attention::attention;
use nabla_kernels::nn::{Conv2d, Embedding, GroupNorm, LayerNorm, Linear};
use nabla_kernels::normalization::group_norm_relu;
use nabla_kernels::per_example::backward;
use nabla_kernels::residual::{add, add_relu};

mod peak_memory;

const EXAMPLES: usize = 256;

/// A model with its batch.
trait Work: Module {
    /// The scores of the classes, `[EXAMPLES, 10]`.
    fn scores(&self) -> Tensor<2>;

    /// The sum of the examples' cross entropies.
    fn loss(&self) -> Tensor<1> {
        let scores = self.scores();
        let classes: Vec<i32> = (0..EXAMPLES as i32).map(|i| i % 10).collect();
        let classes = Tensor::<1, Int>::from_ints(&classes[..], &scores.device());
        let loss = burn::nn::loss::CrossEntropyLossConfig::new().init(&scores.device());
        let mean = nabla_kernels::cross_entropy::cross_entropy(&loss, scores, classes);
        mean * EXAMPLES as f64
    }
}

#[derive(Module, Debug)]
struct Block {
    first: Conv2d,
    norm_1: GroupNorm,
    second: Conv2d,
    norm_2: GroupNorm,
    shortcut: Option<(Conv2d, GroupNorm)>,
}

/// ResNet-20 with projections and group norm, pictures of 32 x 32.
#[derive(Module, Debug)]
struct ResNet20 {
    stem: Conv2d,
    norm: GroupNorm,
    blocks: Vec<Block>,
    output: Linear,
    #[module(skip)]
    x: Tensor<4>,
}

impl ResNet20 {
    fn new(device: &Device) -> Self {
        let conv = |from, to, size: usize, stride| -> Conv2d {
            let pad = size / 2;
            Conv2dConfig::new([from, to], [size, size])
                .with_stride([stride, stride])
                .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
                .with_bias(false)
                .init(device)
                .into()
        };
        let norm =
            |channels| -> GroupNorm { GroupNormConfig::new(8, channels).init(device).into() };
        let mut blocks = Vec::new();
        let mut from = 16;
        for to in [16, 32, 64] {
            for _ in 0..3 {
                let stride = if from == to { 1 } else { 2 };
                blocks.push(Block {
                    first: conv(from, to, 3, stride),
                    norm_1: norm(to),
                    second: conv(to, to, 3, 1),
                    norm_2: norm(to),
                    shortcut: (stride == 2).then(|| (conv(from, to, 1, 2), norm(to))),
                });
                from = to;
            }
        }
        Self {
            stem: conv(3, 16, 3, 1),
            norm: norm(16),
            blocks,
            output: LinearConfig::new(64, 10).init(device).into(),
            x: Tensor::random(
                [EXAMPLES, 3, 32, 32],
                Distribution::Normal(0.0, 1.0),
                device,
            ),
        }
    }
}

impl Work for ResNet20 {
    fn scores(&self) -> Tensor<2> {
        let mut x = group_norm_relu(&self.norm, self.stem.forward(self.x.clone()));
        for block in &self.blocks {
            let h = group_norm_relu(&block.norm_1, block.first.forward(x.clone()));
            let h = block.norm_2.forward(block.second.forward(h));
            let kept = match &block.shortcut {
                Some((conv, norm)) => norm.forward(conv.forward(x)),
                None => x,
            };
            x = add_relu(h, kept);
        }
        let x = x.flatten::<3>(2, 3).mean_dim(2).squeeze_dim::<2>(2);
        self.output.forward(x)
    }
}

/// A transformer's block of width 128 and 4 heads over 32 tokens of 1000, and a classifier of their mean.
#[derive(Module, Debug)]
struct Transformer {
    table: Embedding,
    norms: Vec<LayerNorm>,
    projections: Vec<Linear>,
    hidden: Linear,
    output: Linear,
    classes: Linear,
    #[module(skip)]
    ids: Tensor<2, Int>,
}

impl Transformer {
    fn new(device: &Device) -> Self {
        let linear = |from, to| -> Linear { LinearConfig::new(from, to).init(device).into() };
        let norm = |_| -> LayerNorm { LayerNormConfig::new(128).init(device).into() };
        let ids: Vec<i32> = (0..EXAMPLES as i32 * 32).map(|i| i * 7919 % 1000).collect();
        Self {
            table: EmbeddingConfig::new(1000, 128).init(device).into(),
            norms: (0..2).map(norm).collect(),
            projections: (0..4).map(|_| linear(128, 128)).collect(),
            hidden: linear(128, 512),
            output: linear(512, 128),
            classes: linear(128, 10),
            ids: Tensor::<1, Int>::from_ints(&ids[..], device).reshape([EXAMPLES, 32]),
        }
    }
}

impl Work for Transformer {
    fn scores(&self) -> Tensor<2> {
        let x = self.table.forward(self.ids.clone());
        let h = self.norms[0].forward(1e-5, x.clone());
        let part = |i: usize| self.projections[i].forward(h.clone());
        let h = attention(part(0), part(1), part(2), 4, false);
        let x = add(x, self.projections[3].forward(h));
        let h = self.hidden.forward(self.norms[1].forward(1e-5, x.clone()));
        let x = add(x, self.output.forward(Activation::Gelu.forward(h)));
        self.classes.forward(x.mean_dim(1).squeeze_dim::<2>(1))
    }
}

fn plain<M: Work>(model: &M) {
    std::hint::black_box(GradientsParams::from_grads(model.loss().backward(), model));
}

/// The sum of the examples' gradients, each clipped to norm 1.
fn clipped<M: Work>(model: &M) {
    let found = backward(model.loss(), EXAMPLES, Reduction::Sum);
    let clip = |found: nabla_kernels::per_example::ExampleGradients| {
        let norms = found.squared_norms(model)?;
        let weights: Vec<f64> = norms
            .iter()
            .map(|square| square.sqrt().recip().min(1.0))
            .collect();
        found.weighted(model, &weights)
    };
    let gradients = found.and_then(clip);
    std::hint::black_box(gradients.unwrap_or_else(|error| panic!("{error}")));
}

/// Median milliseconds of those in 2 seconds but the first, and at least of five.
fn milliseconds(work: impl Fn()) -> f64 {
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < 6 || begin.elapsed().as_secs_f64() < 2.0 {
        let start = Instant::now();
        work();
        times.push(1e3 * start.elapsed().as_secs_f64());
    }
    times.drain(..1);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Milliseconds and MiB of PyTorch.
fn peer(model: &str, way: &str) -> Option<[f64; 2]> {
    let python = std::env::var("NABLA_PYTHON").ok()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/per_example_peer.py");
    let threads = rayon::current_num_threads().to_string();
    let out = Command::new(python)
        .args([script, &threads, model, way])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        eprintln!("{model}, {way}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let mut numbers = text.split_whitespace().map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
}

fn run(model: &str, way: &str, times: bool) -> f64 {
    fn of<M: Work>(model: &M, way: &str, times: bool) -> f64 {
        let work = || match way {
            "plain" => plain(model),
            _ => clipped(model),
        };
        match times {
            true => milliseconds(work),
            false => {
                (0..5).for_each(|_| work());
                0.0
            }
        }
    }
    let device = Device::flex().autodiff();
    match model {
        "resnet20" => of(&ResNet20::new(&device), way, times),
        _ => of(&Transformer::new(&device), way, times),
    }
}

fn main() {
    // As the program does.
    nabla_kernels::threads::compute_here();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, model, way] = &arguments[..]
        && flag == "--peak"
    {
        peak_memory::print_growth(|| {
            run(model, way, false);
        });
        return;
    }
    println!("| {EXAMPLES} examples | step | ms | MiB |");
    println!("|---|---|---:|---:|");
    for (name, model) in [
        ("ResNet-20, group norm, 3 x 32 x 32", "resnet20"),
        ("transformer's block, 32 x 128", "transformer"),
    ] {
        let mut ours = [0.0; 2];
        for way in ["plain", "clipped"] {
            let time = run(model, way, true);
            let memory = peak_memory::growth_of(&["--peak", model, way]).unwrap_or(f64::NAN);
            ours = [time, memory];
            println!("| {name} | Nabla, {way} | {time:.0} | {memory:.0} |");
        }
        for (told, way) in [
            ("PyTorch, plain", "plain"),
            ("PyTorch, `vmap(grad)`, clipped", "vmap"),
            ("Opacus, gradients of examples, clipped", "opacus"),
            ("Opacus, ghost norms, clipped", "ghost"),
        ] {
            if let Some([time, memory]) = peer(model, way) {
                println!("| {name} | {told} | {time:.0} | {memory:.0} |");
                if way != "plain" {
                    let [of_time, of_memory] = [ours[0] / time, ours[1] / memory];
                    println!("| | ours, of it | {of_time:.2} | {of_memory:.2} |");
                }
            }
        }
    }
}
