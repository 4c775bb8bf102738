//! What samplers cost outside the network: a step of each on latents of 4 x 64 x 64, with a network that gives
//! back what it gets.
//!
//! ```text
//! cargo bench -p nabla-diffusion --bench sampling
//! ```

use burn::tensor::{Device, Tensor};
use divan::{Bencher, black_box};
use nabla_diffusion::denoiser::{
    Condition, Denoiser, OwnError, Prediction, SamplerError, denoiser,
};
use nabla_diffusion::guidance::{ClassifierFree, guidances};
use nabla_diffusion::level::Level;
use nabla_diffusion::sampler::{Sampler, Sampling, samplers};
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

/// A network that gives back what it gets, a little changed by the condition.
struct Echo;

impl Denoiser for Echo {
    fn prediction(&self) -> Prediction {
        Prediction::Epsilon
    }

    fn predict(
        &self,
        x: Tensor<4>,
        _level: Level,
        conditions: &[Condition],
    ) -> Result<Vec<Tensor<4>>, OwnError> {
        let answer = |condition: &Condition| match condition {
            Condition::Without => x.clone() * 0.9,
            Condition::Given(_) => x.clone(),
        };
        Ok(conditions.iter().map(answer).collect())
    }

    fn predict_perturbed(
        &self,
        x: Tensor<4>,
        _level: Level,
        _rows: &[(usize, Condition)],
    ) -> Result<Tensor<4>, OwnError> {
        Ok(x * 0.8)
    }

    fn predict_attending(
        &self,
        x: Tensor<4>,
        _level: Level,
        rows: &[(usize, Condition)],
    ) -> Result<(Tensor<4>, Tensor<3>), OwnError> {
        let attention = Tensor::ones([rows.len(), 8, 8], &x.device());
        Ok((x * 0.9, attention))
    }
}

/// Runs of 50 DDIM steps under each guidance.
#[divan::bench(args = guidances::<4>().names())]
fn fifty_guided_steps(bencher: Bencher<'_, '_>, name: &str) {
    let (sampler, guidance) = (sampler("ddim"), guidances::<4>().get(name));
    let (sampler, mut guidance) = match (sampler, guidance) {
        (Ok(sampler), Ok(guidance)) => (sampler, guidance),
        _ => return eprintln!("{name} cannot be made"),
    };
    let x = SeededNoise::new(1, 0).normal(SHAPE, &Device::flex());
    bencher.bench_local(|| {
        let mut noise = SeededNoise::new(2, 0);
        let sampling = Sampling::of(&Echo).guided_by(&mut guidance);
        let end = sampling.run(&sampler, x.clone(), &mut noise);
        black_box(end.map(Tensor::into_data))
    });
}
