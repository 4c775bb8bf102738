//! Your own guidance: strong at the beginning, weaker with every step, and none in the last steps, which halves
//! their cost.
//!
//! ```text
//! s_k = 1 + (s − 1) k/steps,   ε̂ = ε_∅ + s_k (ε_c − ε_∅)
//! ```
//!
//! for the step `k`, which falls to 0.

use burn::tensor::{Device, Tensor};
use nabla::diffusion::asking::Step;
use nabla::diffusion::denoiser::{GaussianDenoiser, OwnError};
use nabla::diffusion::guidance::{Evaluations, ModelAt};
use nabla::prelude::*;

#[derive(Debug)]
struct Fading {
    scale: f64,
    /// Steps at the end without guidance.
    unguided: usize,
}

impl<const D: usize> Guidance<D> for Fading {
    fn guide(
        &mut self,
        step: &Step<'_, D>,
        model: &mut ModelAt<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        if step.index < self.unguided {
            let [with] = model.ask([Condition::FIRST])?;
            return Ok(model.read(with)?);
        }
        // Both from one call of the network.
        let [without, with] = model.ask([Condition::Without, Condition::FIRST])?;
        let scale = 1.0 + (self.scale - 1.0) * step.index as f64 / step.steps as f64;
        Ok(model.read(without.clone() + (with - without) * scale)?)
    }
}

/// A wide Gaussian, and a narrow one under the condition.
struct Model;

impl Denoiser<2> for Model {
    fn prediction(&self) -> Prediction {
        Prediction::Epsilon
    }

    fn predict(
        &self,
        x: Tensor<2>,
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<2>>, OwnError> {
        let answer = |condition: &Condition| {
            let (mean, variance) = match condition {
                Condition::Without => (0.0, 1.0),
                Condition::Given(_) => (0.8, 0.05),
            };
            let (mean, variance) = (x.ones_like() * mean, x.ones_like() * variance);
            let model = GaussianDenoiser::new(mean, variance, Prediction::Epsilon);
            model.answer(x.clone(), level)
        };
        Ok(conditions.iter().map(answer).collect())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let schedule = NoiseScheduleConfig::new().init()?;
    let schedule = schedule.respace(Spacing::Trailing, 10)?;
    let mut guidance = Fading {
        scale: 2.0,
        unguided: 4,
    };
    // It works in every sampler.
    for name in ["ddim", "euler", "dpm++2m", "unipc"] {
        let sampler = Sampler::new(samplers().get(name)?, &schedule)?;
        let mut noise = SeededNoise::new(42, 0);
        let start = noise.normal([200, 4], &device);
        let mut evaluations = Evaluations::new();
        let found = Sampling::of(&Model)
            .guided_by(&mut guidance)
            .counted_in(&mut evaluations)
            .run(&sampler, start, &mut noise)?;
        let mean = found.mean().into_scalar::<f32>();
        println!(
            "{name}: mean {mean:.3}, {} evaluations saved for each row",
            evaluations.saved() / 200
        );
        assert!((mean - 0.8).abs() < 0.15);
        // Two in each of six steps, one in each of four.
        assert_eq!(evaluations.each(), [16; 200]);
    }
    Ok(())
}
