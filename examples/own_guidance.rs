//! Your own guidance: CFG++, which guides the sample but not the direction.
//!
//! ```text
//! ε̂_λ = ε̂_∅ + λ (ε̂_c − ε̂_∅),   x̂_0 from ε̂_λ,   x' = signal' x̂_0 + noise' ε̂_∅
//! ```
//!
//! Here the last steps also ask for one prediction only, which halves their cost.
//!
//! Source: Chung, Kim, Park, Nam, Ye, *CFG++: Manifold-constrained Classifier Free Guidance for Diffusion
//! Models*, 2024, arXiv 2406.08070.

use burn::tensor::{Device, Tensor};
use nabla::diffusion::asking::Step;
use nabla::diffusion::denoiser::{GaussianDenoiser, OwnError};
use nabla::diffusion::guidance::Answers;
use nabla::prelude::*;

#[derive(Debug)]
struct CfgPlusPlus {
    strength: f64,
    /// Steps at the end without guidance.
    unguided: usize,
    /// Predictions that the model was asked for in this run.
    predictions: usize,
}

impl<const D: usize> Guidance<D> for CfgPlusPlus {
    fn begin(&mut self, _steps: usize) -> Result<(), OwnError> {
        self.predictions = 0;
        Ok(())
    }

    fn conditions(&mut self, step: &Step<'_, D>) -> Vec<Condition> {
        let conditions = match step.index < self.unguided {
            true => vec![Condition::FIRST],
            false => vec![Condition::Without, Condition::FIRST],
        };
        self.predictions += conditions.len();
        conditions
    }

    fn combine(
        &mut self,
        _step: &Step<'_, D>,
        answers: Answers<'_, D>,
    ) -> Result<Denoised<D>, OwnError> {
        let [without, with] = match answers.all() {
            [without, with] => [without.clone(), with.clone()],
            [with] => return Ok(answers.read(with.clone())?),
            _ => return Err("one or two answers were asked for".into()),
        };
        let guided = without.clone() + (with - without.clone()) * self.strength;
        let direction = answers.read(without)?.epsilon;
        Ok(answers.read(guided)?.with_direction(direction))
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
    let mut guidance = CfgPlusPlus {
        strength: 0.6,
        unguided: 4,
        predictions: 0,
    };
    // It works in every sampler, however the sampler uses sample and direction.
    for name in ["ddim", "euler", "dpm++2m", "unipc"] {
        let sampler = Sampler::new(samplers().get(name)?, &schedule)?;
        let mut noise = SeededNoise::new(42, 0);
        let start = noise.normal([200, 4], &device);
        let found = Sampling::of(&Model)
            .guided_by(&mut guidance)
            .run(&sampler, start, &mut noise)?;
        let mean = found.mean().into_scalar::<f32>();
        println!(
            "{name}: mean {mean:.3} with {} predictions",
            guidance.predictions
        );
        assert!((mean - 0.8).abs() < 0.15);
        // Two predictions in each of six steps, one in each of four.
        assert_eq!(guidance.predictions, 16);
    }
    Ok(())
}
