//! One table of the time that a step of training takes (forward, backward and optimizer) on the processor: with
//! Burn's layers, with the kernels, and, if `NABLA_PYTHON` names a Python with PyTorch, with PyTorch on as many
//! threads in the same run. And of the most memory at once, each in a process of its own, without what the process had
//! before its model.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-kernels --bench training
//! ```

use std::process::Command;
use std::time::Instant;

use burn::module::Module;
use burn::nn::conv::{Conv1d, Conv1dConfig, Conv2d, Conv2dConfig};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig, MseLoss, Reduction};
use burn::nn::pool::{AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig, PaddingConfig1d,
    PaddingConfig2d,
};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::activation as burns;
use burn::tensor::{Device, Distribution, Int, Tensor};
use nabla_kernels::activation::Activation;
use nabla_kernels::{
    attention, convolution, cross_entropy, linear, matmul, mean_squared_error, normalization,
    pooling, residual,
};
use nabla_optim::adamw::AdamWConfig;

mod machine;
mod peak_memory;

/// Whose layers compute.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Burn,
    Nabla,
}

impl By {
    fn linear<const D: usize>(self, layer: &Linear, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Burn => layer.forward(x),
            Self::Nabla => linear::linear(layer, x),
        }
    }

    fn conv2d(self, layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Burn => layer.forward(x),
            Self::Nabla => convolution::conv2d(layer, x),
        }
    }

    fn conv2d_relu(self, layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Burn => burns::relu(layer.forward(x)),
            Self::Nabla => convolution::conv2d_relu(layer, x),
        }
    }

    fn conv1d_relu(self, layer: &Conv1d, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Burn => burns::relu(layer.forward(x)),
            Self::Nabla => convolution::conv1d_relu(layer, x),
        }
    }

    fn conv1d(self, layer: &Conv1d, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Burn => layer.forward(x),
            Self::Nabla => convolution::conv1d(layer, x),
        }
    }

    fn batch_norm(self, layer: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Burn => layer.forward(x),
            Self::Nabla => normalization::batch_norm(layer, x),
        }
    }

    fn batch_norm_relu(self, layer: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Burn => burns::relu(layer.forward(x)),
            Self::Nabla => normalization::batch_norm_relu(layer, x),
        }
    }

    fn layer_norm(self, layer: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Burn => layer.forward(x),
            Self::Nabla => normalization::layer_norm(layer, 1e-5, x),
        }
    }

    fn activation<const D: usize>(self, activation: Activation, x: Tensor<D>) -> Tensor<D> {
        match (self, activation) {
            (Self::Nabla, activation) => activation.forward(x),
            (Self::Burn, Activation::Gelu) => burns::gelu(x),
            (Self::Burn, Activation::Tanh) => burns::tanh(x),
            (Self::Burn, _) => burns::relu(x),
        }
    }

    fn pool(self, pool: &AdaptiveAvgPool2d, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Burn => pool.forward(x),
            Self::Nabla => pooling::adaptive_avg_pool2d(pool, x),
        }
    }

    fn matmul(self, a: Tensor<3>, b: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Burn => a.matmul(b),
            Self::Nabla => matmul::matmul(a, b),
        }
    }

    fn cross_entropy(
        self,
        loss: &CrossEntropyLoss,
        x: Tensor<2>,
        classes: Tensor<1, Int>,
    ) -> Tensor<1> {
        match self {
            Self::Burn => loss.forward(x, classes),
            Self::Nabla => cross_entropy::cross_entropy(loss, x, classes),
        }
    }

    fn mean_square<const D: usize>(self, x: Tensor<D>, target: &Tensor<D>) -> Tensor<1> {
        match self {
            Self::Burn => MseLoss::new().forward(x, target.clone(), Reduction::Mean),
            Self::Nabla => mean_squared_error::mean_squared_error(x, target.clone()),
        }
    }

    fn add<const D: usize>(self, a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Burn => a + b,
            Self::Nabla => residual::add(a, b),
        }
    }

    fn add_relu<const D: usize>(self, a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Burn => burns::relu(a + b),
            Self::Nabla => residual::add_relu(a, b),
        }
    }

    fn attention(self, [q, k, v]: [Tensor<3>; 3], heads: usize) -> Tensor<3> {
        match self {
            Self::Nabla => attention::attention(q, k, v, heads, false),
            Self::Burn => {
                let [batch, length, inner] = q.dims();
                let split = |x: Tensor<3>| {
                    x.reshape([batch, length, heads, inner / heads])
                        .swap_dims(1, 2)
                };
                let options = burn::tensor::ops::AttentionModuleOptions::default();
                let [q, k, v] = [q, k, v].map(split);
                let y = burn::tensor::module::attention(q, k, v, None, None, options);
                y.swap_dims(1, 2).reshape([batch, length, inner])
            }
        }
    }
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn classes(batch: usize, device: &Device) -> Tensor<1, Int> {
    let classes: Vec<i32> = (0..batch).map(|i| i as i32 % 10).collect();
    Tensor::from_ints(&classes[..], device)
}

/// A model with its batch.
trait Work: Module {
    /// How many pairs of numbers are multiplied and summed in a step's products and convolutions: once forward, and
    /// once each for the gradients by the weights and by what isn't the batch itself.
    const PRODUCTS: usize;

    fn loss(&self, by: By) -> Tensor<1>;
}

/// 784-512-512-10, batch 128.
#[derive(Module, Debug)]
struct Mlp {
    layers: Vec<Linear>,
    #[module(skip)]
    loss: CrossEntropyLoss,
    #[module(skip)]
    x: Tensor<2>,
    #[module(skip)]
    classes: Tensor<1, Int>,
}

impl Mlp {
    fn new(device: &Device) -> Self {
        let linear = |(i, o)| LinearConfig::new(i, o).init(device);
        Self {
            layers: [(784, 512), (512, 512), (512, 10)].map(linear).into(),
            loss: CrossEntropyLossConfig::new().init(device),
            x: random([128, 784], device),
            classes: classes(128, device),
        }
    }
}

impl Work for Mlp {
    const PRODUCTS: usize = 128 * (2 * 784 * 512 + 3 * (512 * 512 + 512 * 10));

    fn loss(&self, by: By) -> Tensor<1> {
        let mut x = self.x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = by.linear(layer, x);
            if i < 2 {
                x = by.activation(Activation::Relu, x);
            }
        }
        by.cross_entropy(&self.loss, x, self.classes.clone())
    }
}

fn conv3x3(inputs: usize, outputs: usize, stride: usize, bias: bool, device: &Device) -> Conv2d {
    Conv2dConfig::new([inputs, outputs], [3, 3])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_bias(bias)
        .init(device)
}

#[derive(Module, Debug)]
struct Block {
    first: Conv2d,
    norm_1: BatchNorm,
    second: Conv2d,
    norm_2: BatchNorm,
    shortcut: Option<(Conv2d, BatchNorm)>,
}

/// ResNet-20 with projections, pictures of 32 x 32, batch 128.
#[derive(Module, Debug)]
struct ResNet20 {
    stem: Conv2d,
    norm: BatchNorm,
    blocks: Vec<Block>,
    pool: AdaptiveAvgPool2d,
    output: Linear,
    #[module(skip)]
    loss: CrossEntropyLoss,
    #[module(skip)]
    x: Tensor<4>,
    #[module(skip)]
    classes: Tensor<1, Int>,
}

impl ResNet20 {
    fn new(device: &Device) -> Self {
        let norm = |channels| BatchNormConfig::new(channels).init(device);
        let mut blocks = Vec::new();
        let mut inputs = 16;
        for width in [16, 32, 64] {
            for _ in 0..3 {
                let stride = if inputs == width { 1 } else { 2 };
                let shortcut = (stride == 2).then(|| {
                    let conv = Conv2dConfig::new([inputs, width], [1, 1]);
                    let conv = conv.with_stride([2, 2]).with_bias(false).init(device);
                    (conv, norm(width))
                });
                blocks.push(Block {
                    first: conv3x3(inputs, width, stride, false, device),
                    norm_1: norm(width),
                    second: conv3x3(width, width, 1, false, device),
                    norm_2: norm(width),
                    shortcut,
                });
                inputs = width;
            }
        }
        Self {
            stem: conv3x3(3, 16, 1, false, device),
            norm: norm(16),
            blocks,
            pool: AdaptiveAvgPool2dConfig::new([1, 1]).init(),
            output: LinearConfig::new(64, 10).init(device),
            loss: CrossEntropyLossConfig::new().init(device),
            x: random([128, 3, 32, 32], device),
            classes: classes(128, device),
        }
    }
}

impl Work for ResNet20 {
    const PRODUCTS: usize = {
        let (stem, full, half) = (27 * 16 * 1024, 9 * 16 * 16 * 1024, 9 * 16 * 32 * 256);
        let shortcuts = (16 * 32 * 256) + (32 * 64 * 64);
        128 * (2 * stem + 3 * (16 * full + 2 * half + shortcuts + 64 * 10))
    };

    fn loss(&self, by: By) -> Tensor<1> {
        let mut x = by.batch_norm_relu(&self.norm, by.conv2d(&self.stem, self.x.clone()));
        for block in &self.blocks {
            let h = by.batch_norm_relu(&block.norm_1, by.conv2d(&block.first, x.clone()));
            let h = by.batch_norm(&block.norm_2, by.conv2d(&block.second, h));
            let kept = match &block.shortcut {
                Some((conv, norm)) => by.batch_norm(norm, by.conv2d(conv, x)),
                None => x,
            };
            x = by.add_relu(h, kept);
        }
        let x = by.linear(&self.output, by.pool(&self.pool, x).flatten(1, 3));
        by.cross_entropy(&self.loss, x, self.classes.clone())
    }
}

/// Three 3 x 3 convolutions with ReLU, 8 x 3 x 64 x 64.
#[derive(Module, Debug)]
struct SmallCnn {
    layers: Vec<Conv2d>,
    #[module(skip)]
    x: Tensor<4>,
    #[module(skip)]
    target: Tensor<4>,
}

impl SmallCnn {
    fn new(device: &Device) -> Self {
        let conv = |(i, o)| conv3x3(i, o, 1, true, device);
        Self {
            layers: [(3, 32), (32, 64), (64, 32)].map(conv).into(),
            x: random([8, 3, 64, 64], device),
            target: random([8, 32, 64, 64], device),
        }
    }
}

impl Work for SmallCnn {
    const PRODUCTS: usize = 8 * 64 * 64 * 9 * (2 * 3 * 32 + 3 * 2 * 32 * 64);

    fn loss(&self, by: By) -> Tensor<1> {
        let mut x = self.x.clone();
        for layer in &self.layers {
            x = by.conv2d_relu(layer, x);
        }
        by.mean_square(x, &self.target)
    }
}

/// A transformer's block of width 256 and 8 heads, 16 x 128 tokens.
#[derive(Module, Debug)]
struct Transformer {
    norms: Vec<LayerNorm>,
    projections: Vec<Linear>,
    hidden: Linear,
    output: Linear,
    #[module(skip)]
    x: Tensor<3>,
    #[module(skip)]
    target: Tensor<3>,
}

impl Transformer {
    fn new(device: &Device) -> Self {
        let linear = |i, o| LinearConfig::new(i, o).init(device);
        Self {
            norms: (0..2)
                .map(|_| LayerNormConfig::new(256).init(device))
                .collect(),
            projections: (0..4).map(|_| linear(256, 256)).collect(),
            hidden: linear(256, 1024),
            output: linear(1024, 256),
            x: random([16, 128, 256], device),
            target: random([16, 128, 256], device),
        }
    }
}

impl Work for Transformer {
    const PRODUCTS: usize = {
        let linear = 3 * 16 * 128 * (4 * 256 * 256 + 2 * 256 * 1024);
        linear + 6 * 16 * 128 * 128 * 256
    };

    fn loss(&self, by: By) -> Tensor<1> {
        let h = by.layer_norm(&self.norms[0], self.x.clone());
        let part = |i: usize| by.linear(&self.projections[i], h.clone());
        let h = by.attention([part(0), part(1), part(2)], 8);
        let x = by.add(self.x.clone(), by.linear(&self.projections[3], h));
        let h = by.linear(&self.hidden, by.layer_norm(&self.norms[1], x.clone()));
        let x = by.add(
            x,
            by.linear(&self.output, by.activation(Activation::Gelu, h)),
        );
        by.mean_square(x, &self.target)
    }
}

/// Three layers `relu(A X W)` of width 64, 64 graphs of 32 nodes.
#[derive(Module, Debug)]
struct Graph {
    layers: Vec<Linear>,
    #[module(skip)]
    x: Tensor<3>,
    #[module(skip)]
    adjacency: Tensor<3>,
    #[module(skip)]
    target: Tensor<3>,
}

impl Graph {
    fn new(device: &Device) -> Self {
        let linear = |(i, o)| LinearConfig::new(i, o).init(device);
        Self {
            layers: [(16, 64), (64, 64), (64, 64)].map(linear).into(),
            x: random([64, 32, 16], device),
            adjacency: random([64, 32, 32], device) / 32.0,
            target: random([64, 32, 64], device),
        }
    }
}

impl Work for Graph {
    const PRODUCTS: usize = 64 * 32 * ((2 * 16 + 3 * 2 * 64) * 64 + 2 * 3 * 32 * 64);

    fn loss(&self, by: By) -> Tensor<1> {
        let mut x = self.x.clone();
        for layer in &self.layers {
            let h = by.matmul(self.adjacency.clone(), by.linear(layer, x));
            x = by.activation(Activation::Relu, h);
        }
        by.mean_square(x, &self.target)
    }
}

/// Three convolutions of kernel 3 and width 512 over motions, 64 x 263 x 196.
#[derive(Module, Debug)]
struct Motion {
    layers: Vec<Conv1d>,
    #[module(skip)]
    x: Tensor<3>,
    #[module(skip)]
    target: Tensor<3>,
}

impl Motion {
    fn new(device: &Device) -> Self {
        let conv = |(i, o)| {
            let config = Conv1dConfig::new(i, o, 3);
            config
                .with_padding(PaddingConfig1d::Explicit(1, 1))
                .init(device)
        };
        Self {
            layers: [(263, 512), (512, 512), (512, 263)].map(conv).into(),
            x: random([64, 263, 196], device),
            target: random([64, 263, 196], device),
        }
    }
}

impl Work for Motion {
    const PRODUCTS: usize = 64 * 196 * 3 * (2 * 263 * 512 + 3 * (512 * 512 + 512 * 263));

    fn loss(&self, by: By) -> Tensor<1> {
        let mut x = self.x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = match i {
                2 => by.conv1d(layer, x),
                _ => by.conv1d_relu(layer, x),
            };
        }
        by.mean_square(x, &self.target)
    }
}

/// The right-hand side of a neural ODE: three layers of width 100 with tanh, batch 512.
#[derive(Module, Debug)]
struct RightHandSide {
    layers: Vec<Linear>,
    #[module(skip)]
    x: Tensor<2>,
    #[module(skip)]
    target: Tensor<2>,
}

impl RightHandSide {
    fn new(device: &Device) -> Self {
        Self {
            layers: (0..3)
                .map(|_| LinearConfig::new(100, 100).init(device))
                .collect(),
            x: random([512, 100], device),
            target: random([512, 100], device),
        }
    }
}

impl Work for RightHandSide {
    const PRODUCTS: usize = 512 * (2 + 3 + 3) * 100 * 100;

    fn loss(&self, by: By) -> Tensor<1> {
        let mut x = self.x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            x = by.linear(layer, x);
            if i < 2 {
                x = by.activation(Activation::Tanh, x);
            }
        }
        by.mean_square(x, &self.target)
    }
}

/// Median milliseconds of a step, of those in 0.7 seconds but the first two, and at least of five.
fn milliseconds<M: Work>(mut model: M, by: By) -> f64 {
    let mut optimizer: ModuleOptimizer =
        AdamWConfig::new().init().unwrap_or_else(|e| panic!("{e}"));
    let mut times = Vec::new();
    let begin = Instant::now();
    while times.len() < 7 || begin.elapsed().as_secs_f64() < 0.7 {
        let start = Instant::now();
        let grads = GradientsParams::from_grads(model.loss(by).backward(), &model);
        model = optimizer.step(1e-4, model, grads);
        times.push(1e3 * start.elapsed().as_secs_f64());
    }
    times.drain(..2);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// PyTorch's milliseconds and MiB.
///
/// - `memory`: "fresh", or "kept": as in a process that has trained something larger before
fn peer(name: &str, memory: &str) -> Option<[f64; 2]> {
    let python = std::env::var("NABLA_PYTHON").ok()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/training_peer.py");
    let threads = rayon::current_num_threads().to_string();
    let mut command = Command::new(python);
    let out = command
        .args([script, &threads, name, memory])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        eprintln!("PyTorch stopped: {}", String::from_utf8_lossy(&out.stderr));
    }
    let mut numbers = text.split_whitespace().map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
}

/// A model and how it is measured.
struct Row {
    name: &'static str,
    products: usize,
    milliseconds: fn(By) -> f64,
}

fn main() {
    macro_rules! rows {
        ($($name:literal: $model:ty),* $(,)?) => {
            [$(Row {
                name: $name,
                products: <$model>::PRODUCTS,
                milliseconds: |by| milliseconds(<$model>::new(&Device::flex().autodiff()), by),
            }),*]
        };
    }
    let rows = rows! {
        "MLP 784-512-512-10, batch 128": Mlp,
        "ResNet-20, 128 x 3 x 32 x 32": ResNet20,
        "small CNN, 8 x 3 x 64 x 64": SmallCnn,
        "transformer's block, 16 x 128 x 256": Transformer,
        "graph network, 64 x 32 nodes": Graph,
        "three 1-D convolutions, 64 x 263 x 196": Motion,
        "right-hand side of a neural ODE, 512 x 100": RightHandSide,
    };
    // As the program does.
    nabla_kernels::threads::compute_here();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = &arguments[..]
        && flag == "--peak"
    {
        peak_memory::print_growth(|| {
            let named = rows.iter().find(|row| row.name == name);
            if let Some(row) = named {
                (row.milliseconds)(By::Nabla);
            }
        });
        return;
    }
    let only = arguments.first().filter(|word| !word.starts_with('-'));
    println!(
        "| step of training | Burn | Nabla | PyTorch | ratio | PyTorch, memory kept | ratio | Nabla | PyTorch | ratio |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let mut ratios = Vec::new();
    let mut measured = Vec::new();
    for row in &rows {
        if only.is_some_and(|only| !row.name.contains(only.as_str())) {
            continue;
        }
        let [burn, nabla] = [By::Burn, By::Nabla].map(row.milliseconds);
        let memory = peak_memory::growth_of(&["--peak", row.name]).unwrap_or(f64::NAN);
        let fresh = peer(row.name, "fresh");
        let kept = peer(row.name, "kept");
        measured.push((row, nabla, fresh.map(|[time, _]| time)));
        let [mut torch, mut ratio, mut of_torch, mut memory_ratio] = [const { String::new() }; 4];
        if let (Some([time, peak]), Some([kept, _])) = (fresh, kept) {
            ratios.push(nabla / time);
            torch = format!("{time:.2} ms");
            ratio = format!("{:.2} | {kept:.2} ms | {:.2}", nabla / time, nabla / kept);
            of_torch = format!("{peak:.0} MiB");
            memory_ratio = format!("{:.2}", memory / peak);
        }
        println!(
            "| {} | {burn:.2} ms | {nabla:.2} ms | {torch} | {ratio} | {memory:.0} MiB | {of_torch} | {memory_ratio} |",
            row.name
        );
    }
    if !ratios.is_empty() {
        ratios.sort_by(f64::total_cmp);
        println!(
            "\nmedian ratio of the times {:.2}",
            ratios[ratios.len() / 2]
        );
    }
    print_limits(&measured);
}

/// How much of what the machine can compute the steps reach.
fn print_limits(measured: &[(&Row, f64, Option<f64>)]) {
    let peak = machine::operations_per_second();
    println!(
        "\nAt most {:.0} · 10⁹ operations a second in registers, {:.0} · 10⁹ bytes in memory.\n",
        peak / 1e9,
        machine::bytes_per_second() / 1e9
    );
    println!(
        "| step of training | 10⁹ operations | at that peak | Nabla, of it | PyTorch, of it |"
    );
    println!("|---|---:|---:|---:|---:|");
    for (row, nabla, torch) in measured {
        let operations = 2.0 * row.products as f64;
        let least = 1e3 * operations / peak;
        let share = |milliseconds: f64| format!("{:.0} %", 100.0 * least / milliseconds);
        println!(
            "| {} | {:.2} | {least:.2} ms | {} | {} |",
            row.name,
            operations / 1e9,
            share(*nabla),
            torch.map(share).unwrap_or_default()
        );
    }
}
