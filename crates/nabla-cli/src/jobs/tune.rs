//! `nabla tune`: what a loss of the finished picture teaches a model, through all steps of the sampler.

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Tensor;
use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::base::words::{count, duration};
use nabla::base::{check_writable, write_bytes_atomically};
use nabla::data::Picture;
use nabla::diffusion::adjoint_dpm::Tuning;
use nabla::diffusion::seeded_noise::SeededNoise;
use nabla::diffusion::stable_diffusion::effect::{EffectConfig, EffectError};
use nabla::diffusion::stable_diffusion::model_folder::ModelFolder;
use nabla::diffusion::stable_diffusion::pipeline::{LoadOptions, SamplingOptions, StableDiffusion};
use serde::Serialize;

use crate::adjoint_flags::{AdjointFlags, AdjointTold, show_iteration};
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Of, Report, jobs};
use crate::jobs::tune_noise::NoiseArguments;
use crate::jobs::tune_style::StyleArguments;
use crate::picture_files::resized;
use crate::seeds::SeedFlag;

jobs! {
    /// What can be tuned.
    pub enum Task {
        /// Learn a word for an effect from a picture: a textual inversion for `nabla sample --embedding`, AUTOMATIC1111
        /// and ComfyUI
        Embedding(Of<EmbeddingArguments>),
        /// Change the noise of generated pictures, within a bound, until a classifier is wrong about them: a security audit
        Noise(Of<NoiseArguments>),
        /// Change the weights of a model until its pictures have the style of a given one
        Style(Of<StyleArguments>),
    }
}

/// The command line of `nabla tune embedding`.
#[derive(Args)]
pub struct EmbeddingArguments {
    /// A model of Stable Diffusion 1.x, 2.x or XL: a folder in the diffusers layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The picture that the prompt should give from the noise of --seed
    #[arg(long, value_name = "IN")]
    image: PathBuf,
    /// The word to learn, such as `<glow>`
    #[arg(long, value_name = "WORD")]
    word: String,
    /// A text with the word
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// A text from whose vectors the word starts
    #[arg(long, value_name = "TEXT", default_value = "effect")]
    init: String,
    /// Vectors of the word
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    vectors: u32,
    /// The file to write
    #[arg(
        short,
        long,
        value_name = "OUT",
        default_value = "learned_embeds.safetensors"
    )]
    output: PathBuf,
    /// Steps of AdamW
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Its learning rate
    #[arg(long, value_name = "RATE", default_value_t = 0.05)]
    learning_rate: f64,
    /// Steps of the sampler
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Scale of the classifier-free guidance; 1 for none, which takes half the time
    #[arg(long, value_name = "SCALE", default_value_t = 7.5)]
    guidance_scale: f64,
    #[command(flatten)]
    adjoint: AdjointFlags,
    #[command(flatten)]
    seed: SeedFlag,
    #[command(flatten)]
    device: DeviceFlag,
}

impl From<EffectError> for Failure {
    fn from(error: EffectError) -> Self {
        match error {
            EffectError::Cancelled => Self::interrupted(),
            EffectError::Adjoint(_) => Self::run(error),
            other => Self::input(other),
        }
    }
}

#[derive(Serialize)]
struct Learned {
    file: PathBuf,
    word: String,
    vectors: usize,
    iterations: usize,
    first_loss: f64,
    /// The least one, whose vectors are written.
    loss: f64,
    #[serde(flatten)]
    adjoint: AdjointTold,
    seed: u64,
    seconds: f64,
}

impl Job for EmbeddingArguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let config = EffectConfig {
            vectors: self.vectors as usize,
            tuning: Tuning::new()
                .with_iterations(self.iterations as usize)
                .with_learning_rate(self.learning_rate),
            adjoint: self.adjoint.config(),
            ..EffectConfig::new(&self.word, &self.init, &self.prompt)
        };
        config.check()?;
        check_writable(&self.output)?;
        let folder = ModelFolder::open(&self.model).map_err(Failure::input)?;
        let picture = Picture::read(&self.image)?;
        let device = self.device.open()?;
        let mut model = StableDiffusion::load(&folder, &device, &LoadOptions::default())?;
        // As large as the picture, in whole latents.
        let factor = model.factor();
        let whole = |side: u32| (side as usize).div_ceil(factor) * factor;
        let [width, height] = picture.size().map(whole);
        let target = resized(&picture.into_rgb().raster, [height, width], &device)?;
        let target = model.encode(target, None)?;

        let options = SamplingOptions {
            steps: self.steps as usize,
            guidance_scale: self.guidance_scale,
            ..SamplingOptions::new([height, width])
        };
        let noise = SeededNoise::new(self.seed.value(), 0).normal(target.dims(), &device);
        let progress = context.progress();
        progress.begin("learning the word", u64::from(self.iterations));
        let begun = Instant::now();
        let learned = model.learn_effect(
            &config,
            &options,
            &noise,
            &mut |_, x: Tensor<4>| Ok((x - target.clone()).square().mean()),
            &mut |step| {
                show_iteration(progress, step);
                context.go_on()
            },
        )?;
        progress.finish();
        let bytes = learned.inversion.file().map_err(Failure::run)?;
        write_bytes_atomically(&self.output, &bytes)?;
        let losses = &learned.losses;
        let report = Learned {
            file: self.output.clone(),
            word: self.word.clone(),
            vectors: learned.inversion.vectors(),
            iterations: losses.len(),
            first_loss: losses[0],
            loss: losses.iter().copied().fold(f64::INFINITY, f64::min),
            adjoint: self.adjoint.told(),
            seed: self.seed.value(),
            seconds: begun.elapsed().as_secs_f64(),
        };
        context.report(&report, || {
            format!(
                "{}: {} from loss {:.5} to {:.5} in {}, {} ({})\nuse it with: nabla \
                 sample --embedding {}\n",
                report.file.display(),
                report.word,
                report.first_loss,
                report.loss,
                count(report.iterations, "iteration"),
                duration(report.seconds),
                report.adjoint,
                report.file.display(),
            )
        })
    }
}
