//! A learned flow: the same network, trained to the velocity on each path by [flow
//! matching](nabla_diffusion::flow_matching).

use std::ops::ControlFlow;

use burn::module::Module;
use nabla_claims::{Bench, ClaimError};
use nabla_diffusion::adjoint_dpm::OdeMethod;
use nabla_diffusion::flow_matching::{Flow, FlowConfig, FlowPath, FlowTrainingConfig, Weighting};
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::frechet::{Moments, frechet_distance};
use serde::{Deserialize, Serialize};

use super::{EULER_STEPS, Size};
use crate::digits::{Digits, PIXELS};

/// What one trained network gives.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Learned {
    /// The mean of `‖v‖²/d` along the network's own trajectories.
    pub(super) energy: f64,
    /// The Fréchet distance of the pixels after each number of [`EULER_STEPS`].
    pub(super) distances: Vec<f64>,
}

/// Trains and measures one network.
pub(super) fn learned(
    bench: &Bench<'_>,
    size: &Size,
    digits: &Digits,
    path: FlowPath,
    seed: u64,
) -> Result<Learned, ClaimError> {
    let device = bench.context().device.clone();
    let names = (0..PIXELS).map(|i| format!("pixel {i}")).collect();
    let config = FlowConfig::of(names, &digits.values).with_path(path);
    // The loss of the paper: all times alike.
    let training = FlowTrainingConfig::new(size.steps)
        .with_batch(size.batch)
        .with_weighting(Weighting::Plain)
        .with_seed(seed);
    let points = &digits.values.points;
    let trainer = training.trainer(&config, points, &device.clone().autodiff());
    let mut trainer = trainer.map_err(ClaimError::experiment)?;
    let run = trainer.run(None, &mut |_| {
        bench.progress().advance(1);
        ControlFlow::Continue(())
    });
    run.map_err(ClaimError::experiment)?;
    let network = match trainer.average() {
        Some(average) => average.clone(),
        None => trainer.model().valid(),
    };
    let flow = Flow::new(config, network, &device).map_err(ClaimError::experiment)?;
    let drawn = |steps| {
        let noise = SeededNoise::new(seed, 2).normal([size.samples, PIXELS], &device);
        let found = flow.sample(noise, steps, OdeMethod::Euler);
        found.map_err(ClaimError::experiment)
    };
    let all: Vec<f32> = points.iter().map(|&value| value as f32).collect();
    let real = Moments::of(&all, PIXELS).map_err(ClaimError::experiment)?;
    let distances = EULER_STEPS.map(|steps| {
        let values = drawn(steps)?.x.try_into_vec_as::<f32>();
        let values = values.map_err(ClaimError::experiment)?;
        let made = Moments::of(&values, PIXELS).map_err(ClaimError::experiment)?;
        frechet_distance(&real, &made).map_err(ClaimError::experiment)
    });
    Ok(Learned {
        energy: drawn(size.fine)?.energy,
        distances: distances.into_iter().collect::<Result<_, _>>()?,
    })
}
