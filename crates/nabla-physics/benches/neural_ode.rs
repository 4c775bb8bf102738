//! The median time of training steps of the neural ODE for MNIST of ERNODE (784 states, a hidden layer of 100, tanh, the time
//! appended to both layers; batches of 512), beside the same in torchdiffeq and diffrax on as many threads in the same run,
//! if `NABLA_PYTHON` names a Python with these packages.
//!
//! ```text
//! NABLA_PYTHON=python3 cargo bench -p nabla-physics --bench neural_ode
//! ```

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use nabla_base::range::OutOfRange;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_kernels::activation::Activation;
use nabla_kernels::cross_entropy::cross_entropy;
use nabla_kernels::linear::linear;
use nabla_physics::neural_ode::{NeuralOde, NeuralOdeConfig};
use nabla_physics::time_linear::TimeLinear;
use nabla_physics::{Adjoint, Checkpoints, Controller, Method, Solver};

const STATE: usize = 784;
const HIDDEN: usize = 100;
const CLASSES: usize = 10;
const BATCH: usize = 512;
const STEPS: usize = 5;
const WARM: usize = 1;

#[derive(Module, Debug)]
struct Classifier {
    flow: NeuralOde,
    head: Linear,
}

/// Weights and data, the same for all.
struct Numbers {
    weights: Vec<Vec<f32>>,
    pictures: Vec<f32>,
    labels: Vec<i32>,
}

const SHAPES: [[usize; 2]; 3] = [[STATE + 1, HIDDEN], [HIDDEN + 1, STATE], [STATE, CLASSES]];

impl Numbers {
    fn new() -> Self {
        let mut noise = SeededNoise::new(0, 0);
        let weights = SHAPES.map(|[input, output]| {
            let scale = (2.0 / (input + output) as f32).sqrt();
            let values = noise.normal_values(input * output);
            values.into_iter().map(|x| x * scale).collect()
        });
        // Rough pictures: a fifth of the pixels are lit, by class.
        let count = BATCH * STATE;
        let own = noise.normal_values(CLASSES * STATE);
        let labels: Vec<i32> = (0..BATCH).map(|i| (i % CLASSES) as i32).collect();
        let noise = noise.normal_values(count);
        let pictures = noise.iter().enumerate().map(|(i, noise)| {
            let class = i / STATE % CLASSES;
            (own[class * STATE + i % STATE] + 0.5 * noise - 0.8).clamp(0.0, 1.0)
        });
        Self {
            weights: weights.to_vec(),
            pictures: pictures.collect(),
            labels,
        }
    }

    fn write(&self, folder: &Path) -> std::io::Result<()> {
        let floats = self.weights.iter().chain([&self.pictures]).flatten();
        let mut bytes: Vec<u8> = floats.flat_map(|x| x.to_le_bytes()).collect();
        bytes.extend(self.labels.iter().flat_map(|x| x.to_le_bytes()));
        std::fs::write(folder.join("neural_ode.bin"), bytes)
    }

    fn classifier(&self, device: &Device) -> Result<Classifier, OutOfRange> {
        let tensor = |which: usize, from: usize, to: usize| {
            let [_, width] = SHAPES[which];
            let values = self.weights[which][from * width..to * width].to_vec();
            Tensor::<2>::from_data(TensorData::new(values, [to - from, width]), device)
        };
        let layer = |which: usize, input: usize| {
            let width = SHAPES[which][1];
            let zeros = Tensor::<1>::zeros([width], device);
            Linear {
                weight: Param::from_tensor(tensor(which, 0, input)),
                bias: Some(Param::from_tensor(zeros)),
            }
        };
        let timed = |which: usize, input: usize| TimeLinear {
            linear: layer(which, input),
            by_time: Some(Param::from_tensor(
                tensor(which, input, input + 1).reshape([-1]).detach(),
            )),
        };
        let flow = NeuralOdeConfig::new(STATE)
            .with_hidden([HIDDEN])
            .with_last(Activation::Tanh)
            .init(device, &mut SeededNoise::new(0, 0))?
            .with_layers(vec![timed(0, STATE), timed(1, HIDDEN)]);
        Ok(Classifier {
            flow,
            head: layer(2, STATE),
        })
    }
}

/// Seconds of a step (the median), evaluations of the last one, and the loss after it.
fn measured(
    solver: &Solver,
    numbers: &Numbers,
) -> Result<(f64, usize, f32), Box<dyn std::error::Error>> {
    let device = Device::flex().autodiff();
    let mut classifier = numbers.classifier(&device)?;
    let momentum = MomentumConfig::new().with_momentum(0.9).with_dampening(0.0);
    let mut optimizer = SgdConfig::new().with_momentum(Some(momentum)).init();
    let data = TensorData::new(numbers.pictures.clone(), [BATCH, STATE]);
    let pictures = Tensor::<2>::from_data(data, &device);
    let data = TensorData::new(numbers.labels.clone(), [BATCH]);
    let labels = Tensor::<1, Int>::from_data(data, &device);
    let criterion = CrossEntropyLossConfig::new().init(&device);
    let mut all = Vec::with_capacity(STEPS);
    let (mut evaluations, mut value) = (0, 0.0);
    for step in 0..WARM + STEPS {
        let begun = Instant::now();
        let solution = solver.solve(&classifier.flow, pictures.clone(), &[0.0, 1.0])?;
        let loss = cross_entropy(
            &criterion,
            linear(&classifier.head, solution.last()),
            labels.clone(),
        );
        value = loss.clone().inner().into_scalar::<f32>();
        evaluations = solution.statistics().evaluations();
        let gradients = GradientsParams::from_grads(loss.backward(), &classifier);
        classifier = optimizer.step(0.01, classifier, gradients);
        if step >= WARM {
            all.push(begun.elapsed().as_secs_f64());
        }
    }
    all.sort_by(f64::total_cmp);
    Ok((all[STEPS / 2], evaluations, value))
}

fn peers(numbers: &Numbers, tolerance: f64) {
    let Ok(python) = std::env::var("NABLA_PYTHON") else {
        return;
    };
    let folder = std::env::temp_dir();
    if let Err(error) = numbers.write(&folder) {
        return eprintln!("cannot write the numbers: {error}");
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for peer in ["torchdiffeq", "diffrax"] {
        let out = Command::new(&python)
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/benches/neural_ode_peer.py"
            ))
            .arg(peer)
            .args([threads, WARM, STEPS].map(|number| number.to_string()))
            .arg(tolerance.to_string())
            .arg(folder.join("neural_ode.bin"))
            .output();
        match out {
            Ok(out) if out.status.success() => print!("{}", String::from_utf8_lossy(&out.stdout)),
            Ok(out) => eprintln!("{peer} stopped: {}", String::from_utf8_lossy(&out.stderr)),
            Err(error) => eprintln!("{peer} does not start: {error}"),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // As the program does.
    nabla_kernels::threads::compute_here();
    let numbers = Numbers::new();
    for tolerance in [1.4e-8, 1e-5] {
        println!("tolerance {tolerance}");
        for (name, method, controller, checkpoints) in [
            (
                "tsit5",
                Method::TSIT5,
                Controller::PID,
                Checkpoints::Automatic,
            ),
            (
                "tsit5, square root of checkpoints",
                Method::TSIT5,
                Controller::PID,
                Checkpoints::SquareRoot,
            ),
            (
                "dopri5",
                Method::DOPRI5,
                Controller::INTEGRAL,
                Checkpoints::Automatic,
            ),
        ] {
            let solver = Solver::new(method)
                .with_tolerances(tolerance, tolerance)
                .with_controller(controller)
                .with_adjoint(Adjoint::Discrete(checkpoints));
            // That of diffrax; torchdiffeq finds its own, as Nabla does.
            let solver = match controller {
                Controller::Pid { .. } => solver.with_first_step(0.01),
                _ => solver,
            };
            let (seconds, evaluations, loss) = measured(&solver, &numbers)?;
            println!(
                "nabla {name}: {:.1} ms a step, {evaluations} evaluations, loss {loss:.5}",
                1e3 * seconds
            );
        }
        peers(&numbers, tolerance);
    }
    Ok(())
}
