//! Your own corrections: data consistency, and a time limit.
//!
//! Every other number of the sample is known. The correction puts the known numbers into every prediction, so that
//! the others are drawn to fit them (the idea of range-null space decomposition, Wang, Yu, Zhang, *Zero-Shot Image
//! Restoration Using Denoising Diffusion Null-Space Model*, 2022, arXiv 2212.00490).

use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use nabla::diffusion::asking::Step;
use nabla::diffusion::denoiser::denoiser;
use nabla::diffusion::sampler_error::{Cancelled, OwnError, SamplerError};
use nabla::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    // The data are rows of 16 numbers on a line through 0; the denoiser fits such a line to the sample.
    let places = Tensor::<1>::from_floats(
        std::array::from_fn::<f32, 16, _>(|i| i as f32 / 15.0),
        &device,
    );
    let places = places.unsqueeze::<2>(); // [1, 16]
    let along = places.clone();
    let model = denoiser(Prediction::Sample, move |x: Tensor<2>, level: Level| {
        let square = along.clone().square().sum_dim(1);
        let slope = (x * along.clone()).sum_dim(1) / square / level.signal().max(0.05);
        slope * along.clone() // [batch, 16]
    });

    let schedule = NoiseScheduleConfig::new().init()?;
    let sampler = Sampler::new(
        samplers().get("ddim")?,
        schedule.respace(Spacing::Trailing, 20)?,
    )?;
    let known = places.clone() * 2.0;
    let seen = Tensor::<1>::from_floats(
        std::array::from_fn::<f32, 16, _>(|i| (i % 2) as f32),
        &device,
    );
    let seen = seen.unsqueeze::<2>();
    let mut consistent = |_: &Step<'_, 2>, d: Denoised<2>| {
        let hidden = seen.clone().neg() + 1.0;
        let sample = d.sample.clone() * hidden + known.clone() * seen.clone();
        d.with_sample(sample)
    };
    let mut noise = SeededNoise::new(42, 0);
    let start = noise.normal([4, 16], &device);
    let drawn = Sampling::of(&model).corrected_by(&mut consistent).run(
        &sampler,
        start.clone(),
        &mut noise,
    )?;
    let wrong = ((drawn - known.clone()) * seen.clone())
        .abs()
        .max()
        .into_scalar::<f32>();
    println!("what is known is off by {wrong:.1e}");
    assert!(wrong < 1e-4);

    // A correction may stop the run ...
    let begun = Instant::now();
    let mut calls = 0;
    let mut patience = |step: &Step<'_, 2>, d: Denoised<2>| -> Result<Denoised<2>, OwnError> {
        calls = step.call + 1;
        match calls < 5 && begun.elapsed() < Duration::from_secs(60) {
            true => Ok(d),
            false => Err(Cancelled.into()),
        }
    };
    let stopped =
        Sampling::of(&model)
            .corrected_by(&mut patience)
            .run(&sampler, start.clone(), &mut noise);
    assert!(matches!(stopped, Err(SamplerError::Cancelled)));
    println!("stopped after {calls} calls");
    assert_eq!(calls, 5);

    // ... or fail with its own error, which the caller gets back unchanged.
    let mut strict = |_: &Step<'_, 2>, _: Denoised<2>| -> Result<Denoised<2>, std::io::Error> {
        Err(std::io::Error::other("the measurement is missing"))
    };
    let failed = Sampling::of(&model)
        .corrected_by(&mut strict)
        .run(&sampler, start, &mut noise);
    let own: std::io::Error = failed.err().ok_or("it did not fail")?.own()?;
    println!("failed: {own}");
    assert_eq!(own.to_string(), "the measurement is missing");
    Ok(())
}
