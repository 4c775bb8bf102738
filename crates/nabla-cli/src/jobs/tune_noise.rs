//! `nabla tune noise`: how little the noise of generated pictures must change until a classifier is wrong about them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{Device, Tensor, activation};
use clap::Args;
use nabla::base::choices::Choices;
use nabla::base::progress::ProgressSink;
use nabla::base::words::duration;
use nabla::base::{check_writable, write_bytes_atomically};
use nabla::data::{BitDepth, NpyArray, NpyValues, Picture, WriteOptions};
use nabla::diffusion::adjoint_dpm::{AdjointError, AdversarialNoise};
use nabla::diffusion::class_denoiser::ClassDenoiser;
use nabla::diffusion::denoiser::{Condition, OwnError, RowConditions};
use nabla::diffusion::guidance::ClassifierFree;
use nabla::diffusion::sampler_error::SamplerError;
use nabla::diffusion::seeded_noise::SeededNoise;
use nabla::train::trained_classifier::TrainedClassifier;
use serde::Serialize;

use crate::adjoint_flags::AdjointFlags;
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::picture_files::sheet;
use crate::seeds::SeedFlag;

/// The command line of the job.
#[derive(Args)]
pub struct NoiseArguments {
    /// A model of `nabla train denoiser`
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The classifier to audit, a folder of `nabla train model` for such pictures
    #[arg(long, value_name = "DIR")]
    classifier: PathBuf,
    /// Another classifier, which tells whether the changed pictures still show their class
    #[arg(long, value_name = "DIR")]
    judge: Option<PathBuf>,
    /// The class of the pictures, by its name or number
    #[arg(long, value_name = "NAME")]
    class: String,
    /// How many pictures
    #[arg(short = 'n', value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// The PNG file to write: the pictures from the first noise, and below those from the changed one
    #[arg(short, long, value_name = "OUT", default_value = "adversarial.png")]
    output: PathBuf,
    /// Also write the changed noise, a NumPy array [pictures, channels, height, width]
    #[arg(long, value_name = "FILE")]
    noise: Option<PathBuf>,
    /// Steps of the ascent
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    iterations: u32,
    /// Euclidean length of a step of the ascent, for each picture
    #[arg(long, value_name = "LENGTH", default_value_t = 0.5)]
    length: f64,
    /// The most that a number of the noise may change
    #[arg(long, value_name = "BOUND", default_value_t = 0.1)]
    bound: f64,
    /// Steps of the sampler
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Scale of the classifier-free guidance; 1 for none
    #[arg(long, value_name = "SCALE", default_value_t = 2.0)]
    guidance_scale: f64,
    #[command(flatten)]
    adjoint: AdjointFlags,
    #[command(flatten)]
    seed: SeedFlag,
    #[command(flatten)]
    device: DeviceFlag,
}

/// What came out.
#[derive(Serialize)]
struct Audited {
    file: PathBuf,
    noise: Option<PathBuf>,
    class: String,
    pictures: usize,
    /// How many the audited classifier takes for the class, with the first noise and with the changed one.
    right_before: usize,
    right_after: usize,
    /// How many the judge does.
    judged_before: Option<usize>,
    judged_after: Option<usize>,
    /// Mean cross-entropies of the class.
    first_loss: f64,
    loss: f64,
    /// The greatest change of a number of the noise.
    change: f64,
    method: Option<&'static str>,
    gradient: Option<&'static str>,
    seed: u64,
    seconds: f64,
}

impl From<AdjointError> for Failure {
    fn from(error: AdjointError) -> Self {
        match error {
            AdjointError::Sampler(SamplerError::Cancelled) => Self::interrupted(),
            AdjointError::NotFinite { .. } => Self::run(error),
            other => Self::input(other),
        }
    }
}

/// A classifier of the model's pictures, and which of its classes is the model's.
struct Examiner {
    classifier: TrainedClassifier,
    class: usize,
}

impl Examiner {
    fn load(
        folder: &Path,
        model: &ClassDenoiser,
        class: usize,
        device: &Device,
    ) -> Result<Self, Failure> {
        let classifier = TrainedClassifier::load(folder, device).map_err(Failure::input)?;
        let numbers: usize = model.config().shape.iter().product();
        let expected = classifier.config().shape.features();
        if numbers != expected {
            return Err(Failure::input(format!(
                "the classifier {} sees {expected} numbers, but the model's pictures have {numbers}",
                folder.display()
            )));
        }
        let (known, name) = (&classifier.config().classes, &model.config().classes[class]);
        // A data set without names has numbers for both.
        let same = known.iter().position(|known| known == name);
        let class = same.ok_or_else(|| {
            Failure::input(format!(
                "the classifier {} knows no class {name:?}; it knows: {}",
                folder.display(),
                known.join(", ")
            ))
        })?;
        Ok(Self { classifier, class })
    }

    /// The logarithms of the probabilities of all classes, `[pictures, classes]`.
    fn log_probabilities(&self, pictures: Tensor<4>) -> Result<Tensor<2>, OwnError> {
        let [count, channels, height, width] = pictures.dims();
        let shown = ((pictures + 1.0) / 2.0).clamp(0.0, 1.0);
        let shown = shown.reshape([count, channels * height * width]);
        Ok(activation::log_softmax(self.classifier.logits(shown)?, 1))
    }

    /// The sum of the cross-entropies of the class.
    fn loss(&self, pictures: Tensor<4>) -> Result<Tensor<1>, OwnError> {
        let of_class = self
            .log_probabilities(pictures)?
            .slice_dim(1, self.class..self.class + 1);
        Ok(-of_class.sum())
    }

    /// How many pictures are taken for the class.
    fn right(&self, pictures: &Tensor<4>) -> Result<usize, Failure> {
        let found = self
            .log_probabilities(pictures.clone())
            .map_err(Failure::run)?;
        let found = found.argmax(1).float().try_into_vec_as::<f32>();
        let found = found.map_err(|error| Failure::run(error.to_string()))?;
        Ok(found
            .into_iter()
            .filter(|&seen| seen as usize == self.class)
            .count())
    }
}

impl Job for NoiseArguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        check_writable(&self.output)?;
        self.noise.as_deref().map_or(Ok(()), check_writable)?;
        let ascent = AdversarialNoise::new()
            .with_steps(self.iterations as usize)
            .with_length(self.length)
            .with_bound(self.bound);
        ascent.check().map_err(Failure::input)?;
        let device = self.device.open()?;
        let model = ClassDenoiser::load(&self.model, &device).map_err(Failure::input)?;
        let class = model.config().class(&self.class).map_err(Failure::input)?;
        let examiner = |folder: &Path| Examiner::load(folder, &model, class, &device);
        let audited = examiner(&self.classifier)?;
        let judge = self.judge.as_deref().map(examiner).transpose()?;

        let count = self.count as usize;
        let levels = model.levels(self.steps as usize).map_err(Failure::input)?;
        let rows = RowConditions::new(&model, vec![Condition::Given(class); count]);
        let mut guidance = ClassifierFree::new().with_scale(self.guidance_scale);
        let adjoint = self.adjoint.config();
        let mut run = adjoint.of(&rows, &levels)?.classifier_free(&mut guidance);
        let [channels, height, width] = model.config().shape;
        let first = SeededNoise::new(self.seed.value(), class as u64)
            .normal([count, channels, height, width], &device);

        let begun = Instant::now();
        let before = run.sample(first.clone())?.sample().clone();
        let progress = context.progress();
        progress.begin("changing the noise", u64::from(self.iterations));
        let mut loss = |pictures: Tensor<4>| {
            progress.advance(1);
            context.check()?;
            audited.loss(pictures)
        };
        let found = ascent.raise(&mut run, first.clone(), &mut loss);
        // An interruption is reported as one.
        context.check()?;
        let found = found?;
        progress.finish();

        let right = |examiner: &Examiner| -> Result<[usize; 2], Failure> {
            Ok([examiner.right(&before)?, examiner.right(&found.sample)?])
        };
        let [right_before, right_after] = right(&audited)?;
        let judged = judge.as_ref().map(right).transpose()?;
        let change = (found.noise.clone() - first)
            .abs()
            .max()
            .into_scalar::<f32>();
        let name = &model.config().classes[class];
        let mut picture = Picture::new(sheet(vec![before, found.sample]), BitDepth::Eight);
        let text = format!(
            "Class: {name}, Steps: {}, Guidance scale: {}, Noise changed by at most {change:.4}, Seed: {}, Model: {}, \
             Classifier: {}",
            self.steps,
            self.guidance_scale,
            self.seed.value(),
            self.model.display(),
            self.classifier.display()
        );
        picture.metadata.texts = vec![("parameters".to_owned(), text)];
        picture.write(&self.output, &WriteOptions::default())?;
        if let Some(file) = &self.noise {
            let values = found.noise.try_into_vec_as::<f64>();
            let values = values.map_err(|error| Failure::run(error.to_string()))?;
            let array = NpyArray {
                shape: vec![count, channels, height, width],
                values: NpyValues::Real(values),
            };
            write_bytes_atomically(file, &array.encode())?;
        }
        let losses = &found.losses;
        let mean = |loss: Option<&f64>| loss.copied().unwrap_or(f64::NAN) / count as f64;
        let report = Audited {
            file: self.output.clone(),
            noise: self.noise.clone(),
            class: name.clone(),
            pictures: count,
            right_before,
            right_after,
            judged_before: judged.map(|[before, _]| before),
            judged_after: judged.map(|[_, after]| after),
            first_loss: mean(losses.first()),
            loss: mean(losses.last()),
            change: f64::from(change),
            method: adjoint.method.choice_name(),
            gradient: adjoint.mode.choice_name(),
            seed: self.seed.value(),
            seconds: begun.elapsed().as_secs_f64(),
        };
        context.report(&report, || {
            let judged = judged.map_or(String::new(), |[before, after]| {
                format!("; the judge {before} and {after}")
            });
            format!(
                "{}: of {count} pictures of {name}, the classifier takes {right_before} for {name}, and {right_after} after \
                 the noise changed by at most {change:.3}{judged} ({})\n",
                report.file.display(),
                duration(report.seconds),
            )
        })
    }
}
