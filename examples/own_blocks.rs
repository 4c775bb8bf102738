//! Your own network whose blocks can be skipped, and a search for the steps and blocks that count.
//!
//! The data are points around 1 in the plane. The "network" predicts them in four blocks, of which the first two do
//! most of the work: a plan that skips the others has more steps at the same cost.
//!
//! ```text
//! cargo run --release -p nabla --example own_blocks
//! ```

use burn::tensor::{Device, Tensor};
use nabla::diffusion::autodiffusion::{
    Budget, FixedPlan, Plan, PlannedDenoiser, SearchConfig, Space, planned_sampler, search,
};
use nabla::diffusion::block_skipping::{BlockCounter, BlockSet, SkippableDenoiser};
use nabla::diffusion::denoiser::OwnError;
use nabla::diffusion::registry::Options;
use nabla::diffusion::schedule::NoiseScheduleConfig;
use nabla::prelude::*;

/// The shares of the blocks in the answer.
const BLOCKS: [f64; 4] = [0.5, 0.4, 0.06, 0.04];

/// Predicts points `N(1, 0.2²)`, block by block.
struct Blocks;

impl Denoiser<2> for Blocks {
    fn prediction(&self) -> Prediction {
        Prediction::Sample
    }

    fn predict(
        &self,
        x: Tensor<2>, // [points, 2]
        level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<2>>, OwnError> {
        let rows: Vec<_> = (0..x.dims()[0])
            .map(|row| (row, Condition::FIRST))
            .collect();
        let found = self.predict_rows_skipping(x, level, &rows, BlockSet::none())?;
        Ok(vec![found; conditions.len()])
    }
}

impl SkippableDenoiser<2> for Blocks {
    fn blocks(&self) -> usize {
        BLOCKS.len()
    }

    fn predict_rows_skipping(
        &self,
        x: Tensor<2>,
        level: Level,
        _rows: &[(usize, Condition)],
        skipped: &BlockSet,
    ) -> Result<Tensor<2>, OwnError> {
        let power = 0.04 * level.signal().powi(2) + level.noise().powi(2);
        let gain = 0.04 * level.signal() / power;
        let mut counter = BlockCounter::new(skipped);
        // What a skipped block would have computed is not computed.
        let computed = BLOCKS.iter().filter(|_| counter.computes_next());
        let share: f64 = computed.sum();
        Ok((x - level.signal()) * (gain * share) + 1.0)
    }
}

fn main() -> Result<(), OwnError> {
    let device = Device::flex();
    let training: Levels = NoiseScheduleConfig::new().init()?.into();
    let space = Space {
        steps: training.steps(),
        blocks: Blocks.blocks(),
    };
    // How far the spread of the drawn points is from 0.2.
    let score = |plan: &Plan, seed: u64| -> Result<f64, OwnError> {
        let levels = plan.levels(&training)?;
        let planned = PlannedDenoiser::new(&Blocks, plan, &levels)?;
        let sampler = Sampler::new(planned_sampler("ddim", &Options::new())?, levels)?;
        let mut noise = SeededNoise::new(seed, 0);
        let start = noise.normal([500, 2], &device);
        let points = sampler.sample(&planned, start, &mut noise)?;
        let spread: f32 = points.var(0).sqrt().mean().into_scalar();
        Ok((f64::from(spread) - 0.2).abs())
    };
    let config = SearchConfig {
        most_pruned: 0.5,
        ..SearchConfig::new(Budget::Units(12)).with_population(20)
    };
    let last = config.final_seed();
    let report = search(config, space, &mut |candidate| {
        score(&candidate.plan, candidate.seed)
    })?;
    let found = &report.best.plan;
    let uniform = FixedPlan::Stride.plan(space.steps, 3)?;
    let [found_error, uniform_error] = [score(found, last)?, score(&uniform, last)?];
    println!("{} plans were scored", report.evaluations);
    for gene in found.genes() {
        println!("step {:3}, without blocks {}", gene.step, gene.skipped);
    }
    println!(
        "the error of the spread is {found_error:.4}; with three even steps it is {uniform_error:.4}"
    );
    assert!(found.cost(space.blocks) <= 12 && found_error < uniform_error);
    Ok(())
}
