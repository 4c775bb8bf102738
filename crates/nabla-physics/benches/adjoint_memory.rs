//! The most memory of a solve and its gradient, by the number of steps: each in a process of its own.
//!
//! ```text
//! cargo bench -p nabla-physics --bench adjoint_memory
//! ```

use burn::tensor::{Device, Tensor};
use nabla_base::rate_fit::power_rate;
use nabla_physics::field::field;
use nabla_physics::{Adjoint, Checkpoints, Method, Solver};

#[path = "../../nabla-kernels/benches/peak_memory/mod.rs"]
mod peak_memory;

/// 128 KiB.
const STATE: [usize; 2] = [64, 512];

/// Adjoints, and the most steps that they are measured with.
const ADJOINTS: [(&str, Adjoint, usize); 4] = [
    ("discrete", Adjoint::Discrete(Checkpoints::Automatic), 256),
    (
        "checkpoints",
        Adjoint::Discrete(Checkpoints::SquareRoot),
        4096,
    ),
    ("interpolating", Adjoint::Interpolating, 1024),
    ("backsolve", Adjoint::Backsolve, 4096),
];

fn solve(adjoint: Adjoint, steps: usize) -> Result<(), nabla_physics::SolveError> {
    let start = Tensor::<2>::ones(STATE, &Device::flex())
        .autodiff()
        .require_grad();
    let wave = field(|u: Tensor<2>, t: Tensor<2>| (u * 3.0 + t).sin());
    let solver = Solver::new(Method::TSIT5)
        .with_constant_step(1.0 / steps as f64)
        .with_adjoint(adjoint);
    let solution = solver.solve(&wave, start, &[0.0, 1.0])?;
    let gradients = solution.last().sum().backward();
    drop(gradients);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(place) = arguments.iter().position(|argument| argument == "--peak") {
        let found = ADJOINTS
            .iter()
            .find(|(name, ..)| Some(name) == arguments.get(place + 1).map(String::as_str).as_ref());
        let steps = arguments
            .get(place + 2)
            .and_then(|steps| steps.parse().ok());
        if let (Some((_, adjoint, _)), Some(steps)) = (found, steps) {
            // What every process needs, before the growth is measured.
            solve(*adjoint, 2)?;
            let mut failed = None;
            peak_memory::print_growth(|| failed = solve(*adjoint, steps).err());
            return failed.map_or(Ok(()), |error| Err(error.into()));
        }
        return Ok(());
    }
    for (name, _, most) in ADJOINTS {
        let mut points = Vec::new();
        print!("{name}:");
        for steps in [64, 256, 1024, 4096] {
            if steps <= most {
                let told = steps.to_string();
                let memory = peak_memory::growth_of(&["--peak", name, &told]).unwrap_or(f64::NAN);
                print!(" {steps} steps {memory:.1} MiB,");
                points.push((steps as f64, memory));
            }
        }
        match power_rate(points) {
            Some(fit) => println!(" the power {:.2} of the steps", fit.rate),
            None => println!(),
        }
    }
    Ok(())
}
