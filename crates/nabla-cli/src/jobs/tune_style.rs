//! `nabla tune style`: the weights of a model change until its pictures have the style of a given one.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Tensor;
use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::base::range;
use nabla::base::words::{count, duration};
use nabla::base::{
    check_writable, check_writable_folder, write_bytes_atomically, write_folder_atomically,
};
use nabla::data::{BitDepth, Picture, WriteOptions};
use nabla::diffusion::adjoint_dpm::{StyleLoss, StyleSample, Tuning, content_distance};
use nabla::diffusion::class_denoiser::{ClassDenoiser, ClassStyleConfig};
use nabla::diffusion::denoiser::{Condition, OwnError, RowConditions};
use nabla::diffusion::seeded_noise::SeededNoise;
use nabla::diffusion::stable_diffusion::model_folder::ModelFolder;
use nabla::diffusion::stable_diffusion::pipeline::{
    LoadOptions, SamplingOptions, StableDiffusion, Start,
};
use nabla::diffusion::stable_diffusion::style::StyleConfig;
use nabla::train::trained_classifier::TrainedClassifier;
use serde::Serialize;

use crate::adjoint_flags::{AdjointFlags, AdjointTold, show_iteration};
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::sample;
use crate::picture_files::{resized, sheet};
use crate::seeds::SeedFlag;

/// The command line of the job.
#[derive(Args)]
pub struct StyleArguments {
    /// A model of Stable Diffusion 1.x, 2.x or XL, a folder in the diffusers layout, which learns a LoRA; or a model of
    /// `nabla train denoiser`, whose weights all change
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The picture whose style is learned
    #[arg(long, value_name = "IN")]
    style: PathBuf,
    /// With Stable Diffusion: texts to draw, in turn
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["class", "classifier", "count"])]
    prompt: Vec<String>,
    /// With a model of classes: those to draw, by their names or numbers, or `all`
    #[arg(long, value_name = "NAME")]
    class: Vec<String>,
    /// With a model of classes: a cnn or resnet of `nabla train model` for such pictures, whose feature maps
    /// measure the style. Stable Diffusion has those of its own encoder of pictures
    #[arg(long, value_name = "DIR")]
    classifier: Option<PathBuf>,
    /// With a model of classes: pictures of an iteration [default: 20]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// With Stable Diffusion: the rank of the LoRA; 0 for whole matrices, as in the paper, in a file of LyCORIS [default: 8]
    #[arg(long, value_name = "N", conflicts_with = "class")]
    rank: Option<u32>,
    /// With Stable Diffusion: pixels, such as 512 or 768x512 (width x height) [default: the size that the model was
    /// trained on]
    #[arg(long, value_name = "SIZE", value_parser = sample::size, conflicts_with = "class")]
    size: Option<[usize; 2]>,
    /// The LoRA to write, or the folder of the tuned model [default: style.safetensors, or styled]
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Also write a PNG file with pictures of before, and below those of after from the same noise
    #[arg(long, value_name = "FILE")]
    preview: Option<PathBuf>,
    /// Weight of the distance from what the pictures showed before; 0 for the style alone
    #[arg(long, value_name = "WEIGHT", default_value_t = 1.0)]
    content: f64,
    /// Steps of AdamW
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Its learning rate [default: 0.001, or 0.0002 for a model of classes]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Steps of the sampler
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Scale of the classifier-free guidance; 1 for none, which takes half the time [default: 7.5, or 2 for a model of
    /// classes]
    #[arg(long, value_name = "SCALE")]
    guidance_scale: Option<f64>,
    #[command(flatten)]
    adjoint: AdjointFlags,
    #[command(flatten)]
    seed: SeedFlag,
    #[command(flatten)]
    device: DeviceFlag,
}

#[derive(Serialize)]
struct Styled {
    output: PathBuf,
    preview: Option<PathBuf>,
    iterations: usize,
    /// Squared relative distances of the Gram matrices and of the content: the mean of the first and of the last tenth of
    /// the iterations.
    first_loss: f64,
    loss: f64,
    #[serde(flatten)]
    adjoint: AdjointTold,
    seed: u64,
    seconds: f64,
}

impl Job for StyleArguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        range::not_negative("weight of the content", self.content).map_err(Failure::input)?;
        let of_classes = ClassDenoiser::is_folder(&self.model);
        let otherwise = if of_classes {
            "styled"
        } else {
            "style.safetensors"
        };
        let output = self.output.clone().unwrap_or_else(|| otherwise.into());
        match of_classes {
            true => check_writable_folder(&output)?,
            false => check_writable(&output)?,
        }
        self.preview.as_deref().map_or(Ok(()), check_writable)?;
        let begun = Instant::now();
        let losses = match of_classes {
            true => self.tune_class_denoiser(&output, context)?,
            false => self.tune_stable_diffusion(&output, context)?,
        };
        let some = losses.len().div_ceil(10);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let report = Styled {
            output,
            preview: self.preview.clone(),
            iterations: losses.len(),
            first_loss: mean(&losses[..some]),
            loss: mean(&losses[losses.len() - some..]),
            adjoint: self.adjoint.told(),
            seed: self.seed.value(),
            seconds: begun.elapsed().as_secs_f64(),
        };
        context.report(&report, || {
            let used = match of_classes {
                true => format!("--model {}", report.output.display()),
                false => format!("--lora {}", report.output.display()),
            };
            format!(
                "{}: distance of style and content from {:.4} to {:.4} in {}, {} ({})\nuse it \
                 with: nabla sample {used}\n",
                report.output.display(),
                report.first_loss,
                report.loss,
                count(report.iterations, "iteration"),
                duration(report.seconds),
                report.adjoint,
            )
        })
    }
}

impl StyleArguments {
    fn tuning(&self, otherwise: f64) -> Tuning {
        Tuning::new()
            .with_iterations(self.iterations as usize)
            .with_learning_rate(self.learning_rate.unwrap_or(otherwise))
    }

    /// The distance of the style, and with its weight that of the content, in the deepest map.
    fn loss(
        &self,
        style: &StyleLoss,
        maps: Vec<Tensor<4>>,
        first: Option<Vec<Tensor<4>>>,
    ) -> Result<Tensor<1>, OwnError> {
        let content = first.and_then(|mut first| Some((maps.last()?.clone(), first.pop()?)));
        let loss = style.of(maps)?;
        Ok(match content {
            Some((found, kept)) => loss + content_distance(found, kept) * self.content,
            None => loss,
        })
    }

    fn write_preview(&self, before: Tensor<4>, after: Tensor<4>) -> Result<(), Failure> {
        if let Some(file) = &self.preview {
            let picture = Picture::new(sheet(vec![before, after]), BitDepth::Eight);
            picture.write(file, &WriteOptions::default())?;
        }
        Ok(())
    }

    fn tune_class_denoiser(&self, output: &Path, context: &Context) -> Result<Vec<f64>, Failure> {
        if !self.prompt.is_empty() {
            return Err(Failure::input(format!(
                "the model {} draws pictures of classes: choose them with --class, not with --prompt",
                self.model.display()
            )));
        }
        let Some(folder) = &self.classifier else {
            return Err(Failure::input(
                "a model of classes needs a --classifier, whose feature maps measure the style",
            ));
        };
        let device = self.device.open()?;
        let model = ClassDenoiser::load(&self.model, &device).map_err(Failure::input)?;
        let classifier = TrainedClassifier::load(folder, &device).map_err(Failure::input)?;
        let maps = |pictures: Tensor<4>| -> Result<Vec<Tensor<4>>, OwnError> {
            let [count, channels, height, width] = pictures.dims();
            let shown = (pictures + 1.0) / 2.0;
            Ok(classifier.maps(shown.reshape([count, channels * height * width]))?)
        };
        let [channels, height, width] = model.config().shape;
        let picture = Picture::read(&self.style)?;
        let picture = match channels {
            1 => picture.into_grey(),
            _ => picture.into_rgb(),
        };
        let style = resized(&picture.raster, [height, width], &device)?;
        let style = StyleLoss::relative(maps(style).map_err(Failure::input)?);
        let style = style.map_err(Failure::input)?;

        let chosen = match self.class.is_empty() {
            true => vec!["all".to_owned()],
            false => self.class.clone(),
        };
        let mut config = ClassStyleConfig::new(sample::classes(&model, &chosen)?);
        config.pictures = self.count.map_or(config.pictures, |count| count as usize);
        config.with_first = self.content > 0.0;
        config.steps = self.steps as usize;
        config.guidance_scale = self.guidance_scale.unwrap_or(config.guidance_scale);
        config.tuning = self.tuning(config.tuning.learning_rate);
        config.adjoint = self.adjoint.config();
        config.seed = self.seed.value();
        let progress = context.progress();
        progress.begin("learning the style", u64::from(self.iterations));
        let tuned = model.learn_style(
            &config,
            &mut |StyleSample { sample, first }| {
                let first = first.map(&maps).transpose()?;
                self.loss(&style, maps(sample)?, first)
            },
            &mut |step| {
                show_iteration(progress, step);
                context.go_on()
            },
        );
        let (tuned, losses) = tuned?;
        progress.finish();
        if self.preview.is_some() {
            let [before, after] = [&model, &tuned].map(|model| drawn(model, &config));
            self.write_preview(before?, after?)?;
        }
        write_folder_atomically(output, |folder| tuned.save(folder).map_err(Failure::input))?;
        Ok(losses)
    }

    fn tune_stable_diffusion(&self, output: &Path, context: &Context) -> Result<Vec<f64>, Failure> {
        if self.prompt.is_empty() {
            return Err(Failure::input(
                "a model of Stable Diffusion needs a --prompt, the text whose pictures learn the style",
            ));
        }
        let mut config = StyleConfig::new(self.prompt.clone());
        config.rank = match self.rank {
            None => config.rank,
            Some(0) => None,
            Some(rank) => Some(rank as usize),
        };
        config.with_first = self.content > 0.0;
        config.tuning = self.tuning(config.tuning.learning_rate);
        config.adjoint = self.adjoint.config();
        config.seed = self.seed.value();
        config.check()?;
        let folder = ModelFolder::open(&self.model).map_err(Failure::input)?;
        let picture = Picture::read(&self.style)?;
        let device = self.device.open()?;
        let mut model = StableDiffusion::load(&folder, &device, &LoadOptions::default())?;
        let size = self.size.unwrap_or([model.native_size().unwrap_or(512); 2]);
        // As large as the pictures, so that its strokes are as wide as they will be there, in its own proportions.
        let area = (size[0] * size[1]) as f64;
        let [width, height] = picture.size().map(f64::from);
        let factor = model.factor();
        let whole = |side: f64| {
            let side = side * (area / (width * height)).sqrt() / factor as f64;
            (side.round() as usize).max(1) * factor
        };
        let style = resized(
            &picture.into_rgb().raster,
            [whole(height), whole(width)],
            &device,
        )?;
        let style = StyleLoss::relative(model.picture_maps(style)?).map_err(Failure::input)?;
        let mut options = SamplingOptions {
            steps: self.steps as usize,
            seed: self.seed.value(),
            ..SamplingOptions::new(size)
        };
        options.guidance_scale = self.guidance_scale.unwrap_or(options.guidance_scale);
        let draw = |model: &StableDiffusion| -> Result<Option<Tensor<4>>, Failure> {
            if self.preview.is_none() {
                return Ok(None);
            }
            let text = model.encode_text(&self.prompt[0])?;
            let nothing = model.encode_nothing()?;
            let latent = model.sample(&text, &nothing, &Start::Noise, &options, &mut |_| {
                context.go_on()
            })?;
            Ok(Some(model.decode(latent)?))
        };
        let before = draw(&model)?;
        let progress = context.progress();
        progress.begin("learning the style", u64::from(self.iterations));
        let learned = model.learn_style(
            &config,
            &options,
            &mut |model, StyleSample { sample, first }| {
                let maps = |latent| model.picture_maps(model.decode(latent)?);
                let first = first.map(maps).transpose()?;
                self.loss(&style, maps(sample)?, first)
            },
            &mut |step| {
                show_iteration(progress, step);
                context.go_on()
            },
        )?;
        progress.finish();
        if let (Some(before), Some(after)) = (before, draw(&model)?) {
            self.write_preview(before, after)?;
        }
        let bytes = learned.file().map_err(Failure::run)?;
        write_bytes_atomically(output, &bytes)?;
        Ok(learned.losses)
    }
}

/// A picture of each class.
fn drawn(model: &ClassDenoiser, config: &ClassStyleConfig) -> Result<Tensor<4>, Failure> {
    let classes = config.classes.iter().map(|&class| Condition::Given(class));
    let rows = RowConditions::new(model, classes.collect());
    let levels = model.levels(config.steps).map_err(Failure::input)?;
    let mut noise = SeededNoise::new(config.seed, u64::MAX);
    let noise = model.start(config.classes.len(), &levels, &mut noise);
    Ok(config.draw(&rows, &levels, noise)?)
}
