//! What samplers cost outside the network: a step of each on latents of 4 x 64 x 64, with a network that gives
//! back what it gets.
//!
//! ```text
//! cargo bench -p nabla-diffusion --bench sampling
//! ```

use burn::tensor::{Device, Tensor};
use divan::{Bencher, black_box};
use nabla_diffusion::denoiser::{Prediction, SamplerError, denoiser};
use nabla_diffusion::guidance::ClassifierFree;
use nabla_diffusion::sampler::{Sampler, samplers};
use nabla_diffusion::schedule::{BetaSchedule, NoiseScheduleConfig, Spacing};
use nabla_diffusion::seeded_noise::SeededNoise;

const SHAPE: [usize; 4] = [1, 4, 64, 64];
const STEPS: usize = 50;

fn main() {
    divan::main();
}

fn sampler(name: &str) -> Result<Sampler, SamplerError> {
    let training = NoiseScheduleConfig::new()
        .with_betas(BetaSchedule::STABLE_DIFFUSION)
        .init()?;
    Sampler::new(
        samplers().get(name)?,
        training.respace(Spacing::Trailing, STEPS)?,
    )
}

/// Runs of 50 steps.
#[divan::bench(args = samplers::<4>().names())]
fn fifty_steps(bencher: Bencher<'_, '_>, name: &str) {
    let sampler = match sampler(name) {
        Ok(sampler) => sampler,
        Err(error) => return eprintln!("{name}: {error}"),
    };
    let model = denoiser(Prediction::Epsilon, |x: Tensor<4>, _level| x);
    let x = SeededNoise::new(1, 0).normal(SHAPE, &Device::flex());
    bencher.bench_local(|| {
        let mut noise = SeededNoise::new(2, 0);
        let end = sampler.sample(&model, x.clone(), &mut noise);
        black_box(end.map(Tensor::into_data))
    });
}

/// Classifier-free guidance of two predictions, without and with its rescale.
#[divan::bench(args = [0.0, 0.7])]
fn guidance(bencher: Bencher<'_, '_>, rescale: f64) {
    let guidance = ClassifierFree::new().with_rescale(rescale);
    let mut noise = SeededNoise::new(1, 0);
    let [without, with] = [0; 2].map(|_| noise.normal(SHAPE, &Device::flex()));
    bencher.bench_local(|| {
        let guided = guidance.guided(without.clone(), with.clone());
        black_box(guided.into_data())
    });
}
