//! Samples of a plan, and their distance.

use std::time::Instant;

use burn::tensor::{Device, Tensor};
use nabla_claims::ClaimError;
use nabla_diffusion::autodiffusion::{Plan, PlannedDenoiser, Space, planned_sampler};
use nabla_diffusion::block_skipping::SkippableDenoiser;
use nabla_diffusion::denoiser::Denoiser;
use nabla_diffusion::level::Levels;
use nabla_diffusion::registry::Options;
use nabla_diffusion::sampler::Sampler;
use nabla_diffusion::schedule::{BetaSchedule, NoiseScheduleConfig};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_train::frechet::{Moments, frechet_distance};

use super::data::NUMBERS;
use super::mixture::Mixture;
use super::network::NoiseNetwork;

/// Training steps.
const TRAINING: usize = 1000;

/// The model whose steps are searched.
#[derive(Clone, Copy)]
pub(super) enum Model<'a> {
    /// Without blocks.
    Whole(&'a Mixture),
    Blocks(&'a NoiseNetwork),
}

/// How a plan is scored.
#[derive(Clone, Copy)]
pub(super) struct Score<'a> {
    pub(super) model: Model<'a>,
    pub(super) betas: BetaSchedule,
    pub(super) sampler: &'static str,
}

/// The samples of a plan in numbers.
pub(super) struct Measured {
    pub(super) distance: f64,
    /// Of drawing.
    pub(super) seconds: f64,
}

impl Score<'_> {
    pub(super) fn space(&self) -> Space {
        Space {
            steps: TRAINING,
            blocks: match self.model {
                Model::Whole(_) => 0,
                Model::Blocks(network) => network.blocks(),
            },
        }
    }

    /// Draws samples by a plan and measures their distance to a reference.
    pub(super) fn measured(
        &self,
        plan: &Plan,
        reference: &Moments,
        seed: u64,
        count: usize,
    ) -> Result<Measured, ClaimError> {
        let training = NoiseScheduleConfig::new()
            .with_steps(TRAINING)
            .with_betas(self.betas);
        let training = training.init().map_err(ClaimError::experiment)?;
        let levels = plan.levels(&training.into());
        let levels = levels.map_err(ClaimError::experiment)?;
        let begun = Instant::now();
        let samples = match self.model {
            Model::Whole(mixture) => self.draw(mixture, levels, seed, count)?,
            Model::Blocks(network) => {
                let planned = PlannedDenoiser::new(network, plan, &levels);
                let planned = planned.map_err(ClaimError::experiment)?;
                self.draw(&planned, levels, seed, count)?
            }
        };
        let seconds = begun.elapsed().as_secs_f64();
        // Samples that run away have no distance, and the candidate is dropped.
        if samples.iter().any(|value| !value.is_finite()) {
            return Ok(Measured {
                distance: f64::NAN,
                seconds,
            });
        }
        let moments = Moments::of(&samples, NUMBERS).map_err(ClaimError::experiment)?;
        let distance = frechet_distance(reference, &moments).map_err(ClaimError::experiment)?;
        Ok(Measured { distance, seconds })
    }

    fn draw(
        &self,
        model: &dyn Denoiser<2>,
        levels: Levels,
        seed: u64,
        count: usize,
    ) -> Result<Vec<f32>, ClaimError> {
        let solver = planned_sampler::<2>(self.sampler, &Options::new());
        let solver = solver.map_err(ClaimError::experiment)?;
        let sampler = Sampler::new(solver, levels).map_err(ClaimError::experiment)?;
        let mut noise = SeededNoise::new(seed, 0);
        let start: Tensor<2> = noise.normal([count, NUMBERS], &Device::flex());
        let drawn = sampler.sample(model, start, &mut noise);
        let drawn = drawn.map_err(ClaimError::experiment)?;
        let values = drawn.try_into_vec_as::<f32>();
        values.map_err(|e| ClaimError::experiment(format!("cannot read the samples: {e}")))
    }
}
