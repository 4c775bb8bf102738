//! One table of a step of private training beside Opacus: the gradient of every example clipped to a norm, their sum with
//! noise, and the optimizer's step, in batches of 256 examples of 3 x 32 x 32. On as many threads in the same run, if
//! `NABLA_PYTHON` names a Python with Opacus.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-private --bench private_step
//! ```

use std::process::Command;
use std::time::Instant;

use burn::tensor::Device;
use nabla_private::private_training::PrivacyConfig;
use nabla_train::classification::TrainingConfig;
use nabla_train::examples::{Examples, InputShape};
use nabla_train::gradient_source::{GradientSources, Plan};
use nabla_train::initialization::he_normal;
use nabla_train::model_config::AnyClassifier;
use nabla_train::normalization::Normalization;
use nabla_train::optimizer::OptimizerConfig;
use nabla_train::{CnnConfig, ModelConfig, ResNetConfig};

#[path = "../../nabla-kernels/benches/peak_memory/mod.rs"]
mod peak_memory;

const BATCH: usize = 256;
const EXAMPLES: usize = 2560;
const SHAPE: InputShape = InputShape::Picture([3, 32, 32]);

/// A training step, private or not.
struct Step {
    private: bool,
    times: bool,
}

impl Step {
    /// Median milliseconds of those in 8 seconds but the first.
    fn milliseconds(self, model: AnyClassifier) -> f64 {
        let examples = Examples {
            features: (0..EXAMPLES * SHAPE.features())
                .map(|i| ((i * 7919 % 1009) as f32 / 504.5) - 1.0)
                .collect(),
            labels: (0..EXAMPLES as u32).map(|i| i % 10).collect(),
        };
        let test = Examples {
            features: examples.features[..SHAPE.features()].to_vec(),
            labels: vec![0],
        };
        let config = TrainingConfig {
            epochs: 1000,
            batch: BATCH,
            optimizer: OptimizerConfig::named("sgd").unwrap_or_default(),
            ..TrainingConfig::default()
        };
        let model = he_normal(model, 0).unwrap_or_else(|error| panic!("{error}"));
        let trainer = config.trainer(&examples, &test, SHAPE, model);
        let mut trainer = trainer.unwrap_or_else(|error| panic!("{error}"));
        if self.private {
            let privacy = PrivacyConfig {
                noise_multiplier: Some(1.0),
                virtual_batch: 2 * BATCH,
                ..PrivacyConfig::default()
            };
            let plan = Plan {
                examples: EXAMPLES,
                batch: BATCH,
                steps: trainer.steps(),
                seed: 0,
                scaled: false,
                augmented: false,
            };
            match privacy.source(trainer.model(), plan) {
                Ok(Some(source)) => trainer.task_mut().set_source(source),
                Ok(None) => panic!("there is no source"),
                Err(error) => panic!("{error}"),
            }
        }
        let mut times = Vec::new();
        let begin = Instant::now();
        let least = if self.times { 8.0 } else { 0.0 };
        while times.len() < 6 || begin.elapsed().as_secs_f64() < least {
            let start = Instant::now();
            if let Err(error) = trainer.train_step() {
                panic!("{error}");
            }
            times.push(1e3 * start.elapsed().as_secs_f64());
        }
        times.drain(..1);
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
}

fn run(model: &str, private: bool, times: bool) -> f64 {
    let normalization = Normalization::Group;
    let config = match model {
        "cnn" => ModelConfig::Cnn(CnnConfig {
            normalization,
            ..CnnConfig::default()
        }),
        _ => ModelConfig::ResNet(ResNetConfig {
            normalization,
            ..ResNetConfig::default()
        }),
    };
    let device = Device::flex().autodiff();
    let step = Step { private, times };
    let model = config.init(SHAPE, 10, &device);
    step.milliseconds(model.unwrap_or_else(|error| panic!("{error}")))
}

/// Milliseconds and MiB of Opacus.
fn peer(model: &str, mode: &str) -> Option<[f64; 2]> {
    let python = std::env::var("NABLA_PYTHON").ok()?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/private_step_peer.py");
    let threads = rayon::current_num_threads().to_string();
    let out = Command::new(python)
        .args(["-W", "ignore", script, &threads, model, mode])
        .output()
        .ok()?;
    if !out.status.success() {
        eprintln!("{model}, {mode}: {}", String::from_utf8_lossy(&out.stderr));
    }
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut numbers = text.split_whitespace().map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, model, private] = &arguments[..]
        && flag == "--peak"
    {
        peak_memory::print_growth(|| {
            run(model, private == "private", false);
        });
        return;
    }
    println!("| {BATCH} examples | step | ms | MiB |");
    println!("|---|---|---:|---:|");
    for (name, model) in [("CNN", "cnn"), ("ResNet-20", "resnet20")] {
        let mut ours = [0.0; 2];
        for way in ["plain", "private"] {
            let time = run(model, way == "private", true);
            let memory = peak_memory::growth_of(&["--peak", model, way]).unwrap_or(f64::NAN);
            ours = [time, memory];
            println!("| {name} | Nabla, {way} | {time:.0} | {memory:.0} |");
        }
        for mode in ["hooks", "ghost", "functorch"] {
            if let Some([time, memory]) = peer(model, mode) {
                println!("| {name} | Opacus, {mode} | {time:.0} | {memory:.0} |");
                println!(
                    "| | ours, of it | {:.2} | {:.2} |",
                    ours[0] / time,
                    ours[1] / memory
                );
            }
        }
    }
}
