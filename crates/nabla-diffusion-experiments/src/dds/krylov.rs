//! The theorem: if the tangent space of the clean pictures is a Krylov space, conjugate gradients stay in it.
//!
//! The clean "pictures" are a subspace `V` of 8 of 24 dimensions, normally distributed in it, so that the denoiser is
//! linear and exact. If `AᵀA` maps `V` into itself (a block for `V`, a block for the rest, each random), every
//! Krylov space that begins in `V` lies in `V`. A random `A` without blocks leaves it.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use nabla_claims::ClaimError;
use nabla_diffusion::asking::Step;
use nabla_diffusion::denoiser::{Denoised, GaussianDenoiser, Prediction};
use nabla_diffusion::level::Levels;
use nabla_diffusion::restore::{Dds, MatrixOperator, Problem, Restoration};
use nabla_diffusion::schedule::{NoiseScheduleConfig, Spacing};
use nabla_grad::seeded_noise::SeededNoise;

const NUMBERS: usize = 24;
const INSIDE: usize = 8;
const MEASURED: usize = 14;
/// Of the measurements, those of `V` if `A` has blocks.
const MEASURED_INSIDE: usize = 6;
const STEPS: usize = 50;

/// How far the corrected estimates of a run are from `V`, at most: the share of their length that lies outside of it.
///
/// - `blocks`: whether `AᵀA` maps `V` into itself
/// - `noise`: what the method takes for the noise of the measurement, which decides how it corrects
pub(super) fn distance(dds: &Dds, blocks: bool, noise: f64, seed: u64) -> Result<f64, ClaimError> {
    let device = Device::flex();
    let mut draw = SeededNoise::new(seed, 11);
    let values = draw.normal_values(MEASURED * NUMBERS).into_iter();
    let values = values.enumerate().map(|(i, value)| {
        let (row, column) = (i / NUMBERS, i % NUMBERS);
        match blocks && (row < MEASURED_INSIDE) != (column < INSIDE) {
            true => 0.0,
            false => f64::from(value) / (MEASURED as f64).sqrt(),
        }
    });
    let operator = MatrixOperator::new([MEASURED, NUMBERS], values.collect());
    let operator = Arc::new(operator.map_err(ClaimError::experiment)?);

    let inside = (0..NUMBERS).map(|i| f32::from(u8::from(i < INSIDE)));
    let inside = TensorData::new(inside.collect::<Vec<_>>(), [1, NUMBERS]);
    let inside = Tensor::<2>::from_data(inside, &device);
    // Of the sample itself: that of the noise would be divided by a small signal, with its rounding.
    let model = GaussianDenoiser::new(inside.zeros_like(), inside.clone(), Prediction::Sample);
    let truth = draw.normal([4, NUMBERS], &device) * inside.clone();
    let measured = Problem::simulated(operator.clone(), truth, 0.0, seed);
    let y = measured
        .map_err(ClaimError::experiment)?
        .measurement()
        .clone();
    let problem = Problem::new(operator, y, noise).map_err(ClaimError::experiment)?;

    let schedule = NoiseScheduleConfig::new().init();
    let schedule = schedule.and_then(|schedule| schedule.respace(Spacing::Trailing, STEPS));
    let levels: Levels = schedule.map_err(ClaimError::experiment)?.into();
    let outside = inside.neg() + 1.0;
    let mut farthest = 0.0f64;
    let mut observer = |_: &Step<'_, 2>, prediction: Denoised<2>| {
        let estimate = prediction.sample.clone();
        let squares = [estimate.clone() * outside.clone(), estimate]
            .map(|x| x.square().sum().into_scalar::<f64>());
        farthest = farthest.max((squares[0] / squares[1]).sqrt());
        prediction
    };
    let restoration = Restoration::new(dds, &problem, &levels).observed_by(&mut observer);
    let run = restoration.run(&model, seed);
    run.map_err(ClaimError::experiment)?;
    Ok(farthest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_the_space_and_others_leave_it() {
        for noise in [0.0, 0.01] {
            assert!(distance(&Dds::new(), true, noise, 1).unwrap() < 1e-6);
            assert!(distance(&Dds::new(), false, noise, 1).unwrap() > 1e-3);
        }
    }
}
