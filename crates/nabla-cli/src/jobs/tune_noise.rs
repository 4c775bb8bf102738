//! `nabla tune noise`: how little the noise of generated pictures must change until a classifier is wrong about them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::module::{adaptive_avg_pool2d, interpolate};
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor, activation};
use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::base::words::duration;
use nabla::base::{check_writable, write_bytes_atomically};
use nabla::data::{BitDepth, NpyArray, NpyValues, Picture, WriteOptions};
use nabla::diffusion::adjoint_dpm::{AdjointError, AdversarialNoise, DifferentiableRun};
use nabla::diffusion::class_denoiser::ClassDenoiser;
use nabla::diffusion::denoiser::{Condition, OwnError, RowConditions};
use nabla::diffusion::guidance::ClassifierFree;
use nabla::diffusion::sampler_error::SamplerError;
use nabla::diffusion::seeded_noise::SeededNoise;
use nabla::diffusion::stable_diffusion::model_folder::ModelFolder;
use nabla::diffusion::stable_diffusion::pipeline::{LoadOptions, SamplingOptions, StableDiffusion};
use nabla::train::examples::InputShape;
use nabla::train::trained_classifier::TrainedClassifier;
use serde::Serialize;

use crate::adjoint_flags::{AdjointFlags, AdjointTold};
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::sample;
use crate::picture_files::sheet;
use crate::seeds::SeedFlag;

/// The command line of the job.
#[derive(Args)]
pub struct NoiseArguments {
    /// A model of `nabla train denoiser`; or one of Stable Diffusion 1.x, 2.x or XL, a folder in the diffusers layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// With Stable Diffusion: the text that the pictures show
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// With Stable Diffusion: pixels, such as 512 or 768x512 (width x height) [default: the size that the model was
    /// trained on]
    #[arg(long, value_name = "SIZE", value_parser = sample::size, requires = "prompt")]
    size: Option<[usize; 2]>,
    /// The classifier to audit, a folder of `nabla train model` for such pictures. Those of Stable Diffusion are shown to
    /// it in its size and colours
    #[arg(long, value_name = "DIR")]
    classifier: PathBuf,
    /// Another classifier, which tells whether the changed pictures still show their class
    #[arg(long, value_name = "DIR")]
    judge: Option<PathBuf>,
    /// The class of the pictures, by its name or number; with Stable Diffusion, the classifier's class of what the
    /// prompt says
    #[arg(long, value_name = "NAME")]
    class: String,
    /// How many pictures [default: 8, or 1 with Stable Diffusion]
    #[arg(short = 'n', value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
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
    /// Scale of the classifier-free guidance; 1 for none [default: 2, or 7.5 with Stable Diffusion]
    #[arg(long, value_name = "SCALE")]
    guidance_scale: Option<f64>,
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
    #[serde(flatten)]
    adjoint: AdjointTold,
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
    /// A classifier that knows the class. Pictures of other sizes or colours are shown to it in its own.
    fn load(folder: &Path, class: &str, device: &Device) -> Result<Self, Failure> {
        let classifier = TrainedClassifier::load(folder, device).map_err(Failure::input)?;
        let known = &classifier.config().classes;
        let named = known.iter().position(|known| known == class);
        let numbered = || {
            class
                .parse()
                .ok()
                .filter(|&class: &usize| class < known.len())
        };
        let class = named.or_else(numbered).ok_or_else(|| {
            Failure::input(format!(
                "the classifier {} knows no class {class:?}; it knows: {}",
                folder.display(),
                known.join(", ")
            ))
        })?;
        Ok(Self { classifier, class })
    }

    /// The same for pictures of exactly the classifier's size.
    fn load_for(
        folder: &Path,
        model: &ClassDenoiser,
        class: &str,
        device: &Device,
    ) -> Result<Self, Failure> {
        let examiner = Self::load(folder, class, device)?;
        let numbers: usize = model.config().shape.iter().product();
        let expected = examiner.classifier.config().shape.features();
        match numbers == expected {
            true => Ok(examiner),
            false => Err(Failure::input(format!(
                "the classifier {} sees {expected} numbers, but the model's pictures have {numbers}",
                folder.display()
            ))),
        }
    }

    /// The same for pictures of any size, if the classifier is one of pictures.
    fn load_for_pictures(folder: &Path, class: &str, device: &Device) -> Result<Self, Failure> {
        let examiner = Self::load(folder, class, device)?;
        match examiner.classifier.config().shape {
            InputShape::Picture(_) => Ok(examiner),
            InputShape::Row(_) => Err(Failure::input(format!(
                "the classifier {} is for rows of numbers, not for pictures",
                folder.display()
            ))),
        }
    }

    /// The logarithms of the probabilities of all classes, `[pictures, classes]`.
    fn log_probabilities(&self, pictures: Tensor<4>) -> Result<Tensor<2>, OwnError> {
        let shown = ((pictures + 1.0) / 2.0).clamp(0.0, 1.0);
        let shown = match self.classifier.config().shape {
            InputShape::Picture(shape) if shape != shown.dims()[1..] => fitted(shown, shape),
            _ => shown,
        };
        let shown: Tensor<2> = shown.flatten(1, 3);
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

/// Pictures in other colours and another size, by averages where they become smaller.
fn fitted(pictures: Tensor<4>, [channels, height, width]: [usize; 3]) -> Tensor<4> {
    let [count, own, own_height, own_width] = pictures.dims();
    let pictures = match (own, channels) {
        (3, 1) => {
            let luma = Tensor::<1>::from_floats([0.299, 0.587, 0.114], &pictures.device());
            (pictures * luma.reshape([1, 3, 1, 1])).sum_dim(1)
        }
        (1, channels) => pictures.expand([count, channels, own_height, own_width]),
        _ => pictures,
    };
    match height <= own_height && width <= own_width {
        true => adaptive_avg_pool2d(pictures, [height, width]),
        false => {
            let options = InterpolateOptions::new(InterpolateMode::Bilinear)
                .with_align_corners(false)
                .with_output_size([height, width]);
            interpolate(pictures, options)
        }
    }
}

/// What is audited: a sampler, its first noise, and how its samples look.
struct Audit<'a> {
    run: DifferentiableRun<'a, 4>,
    first: Tensor<4>,
    /// Pictures from −1 to 1 of samples.
    show: &'a dyn Fn(Tensor<4>) -> Result<Tensor<4>, OwnError>,
    audited: Examiner,
    judge: Option<Examiner>,
    class: String,
    guidance_scale: f64,
}

impl Job for NoiseArguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        check_writable(&self.output)?;
        self.noise.as_deref().map_or(Ok(()), check_writable)?;
        self.ascent().check().map_err(Failure::input)?;
        match (&self.prompt, ClassDenoiser::is_folder(&self.model)) {
            (None, true) => self.audit_class_denoiser(context),
            (Some(prompt), false) => self.audit_stable_diffusion(prompt, context),
            (Some(_), true) => Err(Failure::input(format!(
                "the model {} draws pictures of classes, and takes no --prompt",
                self.model.display()
            ))),
            (None, false) => Err(Failure::input(format!(
                "{} is no model of `nabla train denoiser`; one of Stable Diffusion needs a --prompt",
                self.model.display()
            ))),
        }
    }
}

impl NoiseArguments {
    fn ascent(&self) -> AdversarialNoise {
        AdversarialNoise::new()
            .with_steps(self.iterations as usize)
            .with_length(self.length)
            .with_bound(self.bound)
    }

    fn count(&self, otherwise: usize) -> usize {
        self.count.map_or(otherwise, |count| count as usize)
    }

    fn audit_class_denoiser(&self, context: &Context) -> Result<Report, Failure> {
        let device = self.device.open()?;
        let model = ClassDenoiser::load(&self.model, &device).map_err(Failure::input)?;
        let class = model.config().class(&self.class).map_err(Failure::input)?;
        let name = &model.config().classes[class];
        let examiner = |folder: &Path| Examiner::load_for(folder, &model, name, &device);
        let audited = examiner(&self.classifier)?;
        let judge = self.judge.as_deref().map(examiner).transpose()?;
        let count = self.count(8);
        let levels = model.levels(self.steps as usize).map_err(Failure::input)?;
        let rows = RowConditions::new(&model, vec![Condition::Given(class); count]);
        let guidance_scale = self.guidance_scale.unwrap_or(2.0);
        let mut guidance = ClassifierFree::new().with_scale(guidance_scale);
        let mut noise = SeededNoise::new(self.seed.value(), class as u64);
        let audit = Audit {
            run: self
                .adjoint
                .config()
                .of(&rows, &levels)?
                .classifier_free(&mut guidance),
            first: model.start(count, &levels, &mut noise),
            show: &|sample| Ok(sample),
            audited,
            judge,
            class: name.clone(),
            guidance_scale,
        };
        self.audit(audit, context)
    }

    fn audit_stable_diffusion(&self, prompt: &str, context: &Context) -> Result<Report, Failure> {
        let folder = ModelFolder::open(&self.model).map_err(Failure::input)?;
        let device = self.device.open()?;
        let examiner = |folder: &Path| Examiner::load_for_pictures(folder, &self.class, &device);
        let audited = examiner(&self.classifier)?;
        let judge = self.judge.as_deref().map(examiner).transpose()?;
        let model = StableDiffusion::load(&folder, &device, &LoadOptions::default())?;
        let guidance_scale = self.guidance_scale.unwrap_or(7.5);
        let size = self.size.unwrap_or([model.native_size().unwrap_or(512); 2]);
        let options = SamplingOptions {
            steps: self.steps as usize,
            guidance_scale,
            ..SamplingOptions::new(size)
        };
        let made = model.ddim(options.steps)?;
        let text = model.encode_text(prompt)?;
        let nothing = model.encode_nothing()?;
        let bound = model.denoiser(&[&text], Some(&nothing), &options, None)?;
        let mut guidance = ClassifierFree::new().with_scale(guidance_scale);
        let shape = model.latent_shape(self.count(1), &options);
        let noise = SeededNoise::new(self.seed.value(), 0).normal(shape, &device);
        let class = audited.classifier.config().classes[audited.class].clone();
        let audit = Audit {
            run: self
                .adjoint
                .config()
                .of(&bound, made.sampler.levels())?
                .classifier_free(&mut guidance),
            first: noise * made.start_scale,
            show: &|latent| Ok(model.decode(latent)?),
            audited,
            judge,
            class,
            guidance_scale,
        };
        self.audit(audit, context)
    }

    fn audit(&self, audit: Audit<'_>, context: &Context) -> Result<Report, Failure> {
        let Audit {
            mut run,
            first,
            show,
            audited,
            judge,
            class,
            guidance_scale,
        } = audit;
        let begun = Instant::now();
        let [count, ..] = first.dims();
        let shown = |sample| show(sample).map_err(Failure::run);
        let before = shown(run.sample(first.clone())?.sample().clone())?;
        let progress = context.progress();
        progress.begin("changing the noise", u64::from(self.iterations));
        let mut loss = |sample: Tensor<4>| {
            progress.advance(1);
            context.check()?;
            audited.loss(show(sample)?)
        };
        let found = self.ascent().raise(&mut run, first.clone(), &mut loss);
        // An interruption is reported as one.
        context.check()?;
        let found = found?;
        progress.finish();

        let after = shown(found.sample)?;
        let right = |examiner: &Examiner| -> Result<[usize; 2], Failure> {
            Ok([examiner.right(&before)?, examiner.right(&after)?])
        };
        let [right_before, right_after] = right(&audited)?;
        let judged = judge.as_ref().map(right).transpose()?;
        let change = (found.noise.clone() - first)
            .abs()
            .max()
            .into_scalar::<f32>();
        let mut picture = Picture::new(sheet(vec![before, after]), BitDepth::Eight);
        let text = format!(
            "Class: {class}, Steps: {}, Guidance scale: {guidance_scale}, Noise changed by at most {change:.4}, Seed: {}, \
             Model: {}, Classifier: {}",
            self.steps,
            self.seed.value(),
            self.model.display(),
            self.classifier.display()
        );
        picture.metadata.texts = vec![("parameters".to_owned(), text)];
        picture.write(&self.output, &WriteOptions::default())?;
        if let Some(file) = &self.noise {
            let shape = found.noise.dims().to_vec();
            let values = found.noise.try_into_vec_as::<f64>();
            let values = values.map_err(|error| Failure::run(error.to_string()))?;
            let array = NpyArray {
                shape,
                values: NpyValues::Real(values),
            };
            write_bytes_atomically(file, &array.encode())?;
        }
        let losses = &found.losses;
        let mean = |loss: Option<&f64>| loss.copied().unwrap_or(f64::NAN) / count as f64;
        let report = Audited {
            file: self.output.clone(),
            noise: self.noise.clone(),
            class: class.clone(),
            pictures: count,
            right_before,
            right_after,
            judged_before: judged.map(|[before, _]| before),
            judged_after: judged.map(|[_, after]| after),
            first_loss: mean(losses.first()),
            loss: mean(losses.last()),
            change: f64::from(change),
            adjoint: self.adjoint.told(),
            seed: self.seed.value(),
            seconds: begun.elapsed().as_secs_f64(),
        };
        context.report(&report, || {
            let judged = judged.map_or(String::new(), |[before, after]| {
                format!("; the judge {before} and {after}")
            });
            format!(
                "{}: of {count} pictures of {class}, the classifier takes {right_before} for {class}, and {right_after} after \
                 the noise changed by at most {change:.3}{judged} ({})\n",
                report.file.display(),
                duration(report.seconds),
            )
        })
    }
}
