//! Your own sampler: Ralston's method of order 2 in `σ`, in a registry beside Nabla's samplers.
//!
//! ```text
//! ε_1 = ε̂(x, σ),   x_m = x along ε_1 to σ_m = σ + 2/3 (σ' − σ),   ε_2 = ε̂(x_m, σ_m)
//! x' = x along (ε_1 + 3 ε_2)/4 to σ'
//! ```
//!
//! Source: Ralston, *Runge-Kutta Methods with Minimum Error Bounds*, 1962.

use burn::config::Config;
use burn::tensor::{Device, Tensor};
use nabla::diffusion::asking::{Asking, Reading};
use nabla::diffusion::denoiser::{GaussianDenoiser, SamplerError};
use nabla::diffusion::level::transfer;
use nabla::diffusion::registry::Options;
use nabla::diffusion::sampler::{Steps, shared, steps};
use nabla::prelude::*;

/// The options of the sampler, which has no other state.
#[derive(Config, Debug, Copy)]
struct Ralston {
    /// Limits the predicted sample. Default: no limit.
    clip: Option<f64>,
}

impl<const D: usize> Solver<D> for Ralston {
    fn begin<'a>(&'a self, levels: &'a Levels) -> Result<Steps<'a, D>, SamplerError> {
        Ok(steps(move |x, index, ask: &mut Asking<'_, D>| {
            let (level, to) = (levels.level(index), levels.level_after(index));
            let first = ask.ask(x, index, level)?;
            let between = level.sigma() + (to.sigma() - level.sigma()) * 2.0 / 3.0;
            let middle = levels.path().level_of_sigma(between);
            let ahead = transfer(first.x.clone(), first.epsilon.clone(), level, middle);
            let second = ask.ask(ahead, index, middle)?;
            let mean = (first.epsilon + second.epsilon * 3.0) / 4.0;
            Ok(transfer(first.x, mean, level, to))
        }))
    }

    fn reading(&self) -> Reading {
        Reading::clipped(self.clip)
    }

    fn calls(&self, steps: usize) -> usize {
        2 * steps
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let family = samplers().with(
        "ralston",
        "Ralston's method, order 2",
        Ralston::new(),
        shared,
    );

    let device = Device::flex();
    let full = |value: f64| Tensor::<4>::full([1, 3, 8, 8], value, &device);
    let model = GaussianDenoiser::new(full(0.2), full(0.1), Prediction::Velocity);
    let training = NoiseScheduleConfig::new().init()?;
    let schedule = training.respace(Spacing::Trailing, 16)?;
    let start = SeededNoise::new(42, 0).normal([1, 3, 8, 8], &device);

    let error = |name: &str| -> Result<f32, Box<dyn std::error::Error>> {
        let sampler = Sampler::new(family.get(name)?, &schedule)?;
        let levels = sampler.levels();
        let exact = model.transport(start.clone(), levels.start(), levels.end());
        let found = sampler.sample(&model, start.clone(), &mut SeededNoise::new(0, 0))?;
        let error = (found - exact).abs().max().into_scalar::<f32>();
        println!("{name}: {} calls, error {error:.4}", sampler.calls());
        Ok(error)
    };
    let (ralston, euler) = (error("ralston")?, error("euler")?);
    assert!(ralston < euler / 2.0);

    // Its options can be set by name, like those of Nabla's samplers.
    let clipped = family.make("ralston", &Options::parse(&["clip=1"])?)?;
    assert_eq!(clipped.reading().clip, Some(1.0));
    let refused = family.make("ralston", &Options::parse(&["speed=2"])?);
    println!("{}", refused.err().ok_or("an option that is not there")?);
    Ok(())
}
