//! `nabla sample`: draws pictures from a text, with a Stable Diffusion model from a folder or a single file.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Tensor;
use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::base::{check_writable, write_bytes_atomically};
use nabla::data::{BitDepth, FileFormat, Picture, Raster, WriteOptions};
use nabla::diffusion::autodiffusion::PlannedModel;
use nabla::diffusion::class_denoiser::ClassDenoiser;
use nabla::diffusion::denoiser::Prediction;
use nabla::diffusion::guidance::Evaluations;
use nabla::diffusion::registry::Options;
use nabla::diffusion::sampler::samplers;
use nabla::diffusion::sigma_spacing::SigmaSpacing;
use nabla::diffusion::stable_diffusion::autoencoder_kl::Tiling;
use nabla::diffusion::stable_diffusion::lora::Lora;
use nabla::diffusion::stable_diffusion::model_folder::ModelFolder;
use nabla::diffusion::stable_diffusion::pipeline::{
    LoadOptions, RunDoors, SamplerChoice, SamplingOptions, SamplingProgress, StableDiffusion,
    StableDiffusionError, Start, latent_file,
};
use nabla::diffusion::stable_diffusion::single_file::SingleFile;
use nabla::diffusion::stable_diffusion::weights::Precision;
use nabla::panorama::pixels::{to_rasters, to_tensor};
use nabla::panorama::{Interpolation, resize_planar};
use serde::Serialize;

use crate::choice::choice;
use crate::devices::{DeviceChoice, DeviceFlag};
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::picture_files::resized;
use crate::seeds::SeedFlag;
use nabla::base::words::{count, duration};

mod classes;
mod control;
mod guidance_choice;
mod plan;
mod preview;
mod text;

pub use classes::classes;
use classes::sample_classes;
use control::{ControlFlags, Controls};
use guidance_choice::{GuidanceChoice, GuidanceFlags};
use plan::PlanFlag;
use preview::{Preview, PreviewFlags};
use text::TextFlags;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// A model: a folder in the diffusers layout (model_index.json, unet, vae, text_encoder …), a
    /// single .safetensors or .ckpt file of Stable Diffusion 1.x, 2.x or XL, or a folder of `nabla train denoiser`
    #[arg(long, value_name = "DIR|FILE")]
    model: PathBuf,
    /// For a single file whose network does not have the published sizes: a folder in the diffusers layout,
    /// from which everything but the weights is taken
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// What the UNet predicts [default: given by the folder, or guessed from the file]
    #[arg(long, value_parser = choice::<Prediction>())]
    prediction: Option<Prediction>,
    /// What the picture should show
    #[arg(long, value_name = "TEXT", required_unless_present = "class")]
    prompt: Option<String>,
    /// For a model of labelled pictures (`nabla train denoiser`): a class, by its name or number, or `all`; may be
    /// given several times. The pictures of a class are a row of the output
    #[arg(long, value_name = "NAME", conflicts_with_all = ["prompt", "negative", "image", "lora", "config",
        "size", "clip_skip", "original_size", "crop", "tile", "latents", "sigmas", "karras"])]
    class: Vec<String>,
    /// What it should not show
    #[arg(long, value_name = "TEXT")]
    negative: Option<String>,
    /// The PNG file to write; several are numbered
    #[arg(short, long, value_name = "OUT", default_value = "sample.png")]
    output: PathBuf,
    /// How many pictures
    #[arg(short = 'n', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Pixels, such as 512 or 768x512 (width x height) [default: the size that the model was trained on, or
    /// that of --image]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    size: Option<[usize; 2]>,
    /// Steps of the sampler
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// The sampler [default: the one that the model's folder names]
    #[arg(long, value_name = "NAME", value_parser = sampler())]
    sampler: Option<String>,
    /// An option of the sampler, such as eta=0.5 or churn=40; may be given several times. An unknown name
    /// is refused with a list of the known ones
    #[arg(long, value_name = "NAME=VALUE")]
    sampler_option: Vec<String>,
    /// How the noise levels are spaced [default: given by the model's folder]
    #[arg(long, value_name = "SPACING", value_parser = choice::<SigmaSpacing>(), conflicts_with = "karras")]
    sigmas: Option<SigmaSpacing>,
    /// Short for --sigmas karras
    #[arg(long)]
    karras: bool,
    /// Leave out the last N layers of the text encoder, for the prompt only; 1 is what other programs
    /// call clip skip 2. SDXL always leaves out one more
    #[arg(long, value_name = "N", default_value_t = 0)]
    clip_skip: usize,
    /// The original size of the picture that SDXL assumes, such as 512 or 768x512; a small size makes the
    /// picture blurred [default: --size]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    original_size: Option<[usize; 2]>,
    /// The crop that SDXL assumes: pixels cut off at the left and at the top [default: 0,0]
    #[arg(long, value_name = "X,Y", value_parser = crop)]
    crop: Option<[usize; 2]>,
    #[command(flatten)]
    guidance: GuidanceFlags,
    #[command(flatten)]
    seed: SeedFlag,
    /// A picture to start from
    #[arg(long, value_name = "IN")]
    image: Option<PathBuf>,
    /// How much of --image is redrawn, 0 to 1 [default: 0.8; with --mask or --invert 1]
    #[arg(
        long,
        value_name = "SHARE",
        requires = "image",
        allow_negative_numbers = true
    )]
    strength: Option<f64>,
    /// What --image shows: its noise is found by inverting DDIM under this text, and --prompt is drawn from this
    /// noise, which changes no more than the texts differ in; cfg++ inverts best
    #[arg(long, value_name = "TEXT", requires = "image", conflicts_with = "mask")]
    invert: Option<String>,
    /// Calls per step of the inversion; a few more than 1 make it exact
    #[arg(long, value_name = "N", default_value_t = 1, requires = "invert", value_parser = clap::value_parser!(u32).range(1..))]
    invert_iterations: u32,
    /// A picture that is white where --image is redrawn, and black where it is kept
    #[arg(long, value_name = "IN", requires = "image")]
    mask: Option<PathBuf>,
    /// A LoRA to merge, with a strength if it is not 1; may be given several times
    #[arg(long, value_name = "FILE[:STRENGTH]")]
    lora: Vec<String>,
    #[command(flatten)]
    text: TextFlags,
    #[command(flatten)]
    control: ControlFlags,
    #[command(flatten)]
    plan: PlanFlag,
    #[command(flatten)]
    preview: PreviewFlags,
    /// The precision in which the model computes
    #[arg(long, value_parser = choice::<Precision>(), default_value = "f32")]
    precision: Precision,
    /// The most pixels along a side that the autoencoder works on at once; smaller tiles need less memory
    #[arg(long, value_name = "PIXELS")]
    tile: Option<usize>,
    #[command(flatten)]
    device: DeviceFlag,
    /// Also write the latents to this file, in the safetensors format
    #[arg(long, value_name = "FILE")]
    latents: Option<PathBuf>,
}

impl Arguments {
    /// How much of the picture is made anew.
    fn strength(&self) -> f64 {
        let whole = self.mask.is_some() || self.invert.is_some();
        self.strength.unwrap_or(if whole { 1.0 } else { 0.8 })
    }

    /// The sampler with its options.
    ///
    /// - `name`: the one that is given, or a plan's
    fn sampler(&self, name: Option<&str>, options: &Options) -> Result<SamplerChoice, Failure> {
        let named = match name {
            Some(name) => SamplerChoice::named(name),
            // The one that was inverted.
            None if self.invert.is_some() => SamplerChoice::named(DDIM),
            None => SamplerChoice::default(),
        };
        if let Some(name) = name {
            // What is wrong is said before a model is loaded.
            let made = samplers::<4>().make(name, options);
            made.map_err(Failure::input)?;
        }
        Ok(named.with_options(options))
    }

    /// How the noise levels are to be spaced.
    fn sigmas(&self) -> Option<SigmaSpacing> {
        let short = self.karras.then_some(SigmaSpacing::Karras);
        self.sigmas.or(short)
    }
}

impl From<StableDiffusionError> for Failure {
    fn from(error: StableDiffusionError) -> Self {
        match error {
            StableDiffusionError::Cancelled => Self::interrupted(),
            other => Self::input(other),
        }
    }
}

/// The sampler that can be inverted.
const DDIM: &str = "ddim";

fn sampler() -> clap::builder::PossibleValuesParser {
    samplers::<4>().names().into()
}

/// `512` or `768x512`, to height and width.
pub fn size(text: &str) -> Result<[usize; 2], String> {
    let side = |text: &str| match text.parse::<usize>() {
        Ok(side) if (1..=16_384).contains(&side) => Ok(side),
        _ => Err("it must be 512, or 768x512, each at most 16384".to_owned()),
    };
    match text.split_once('x') {
        Some((width, height)) => Ok([side(height)?, side(width)?]),
        None => Ok([side(text)?; 2]),
    }
}

/// `X,Y`, to top and left.
fn crop(text: &str) -> Result<[usize; 2], String> {
    let wrong = || "it must be two numbers of pixels, as 0,128".to_owned();
    let side = |text: &str| match text.parse::<usize>() {
        Ok(side) if side <= 16_384 => Ok(side),
        _ => Err(wrong()),
    };
    let (left, top) = text.split_once(',').ok_or_else(wrong)?;
    Ok([side(top)?, side(left)?])
}

/// `FILE` or `FILE:STRENGTH`.
fn lora(text: &str) -> Result<Lora, Failure> {
    let (file, strength) = match text.rsplit_once(':') {
        Some((file, strength)) if !Path::new(text).is_file() => {
            let strength = strength.parse().map_err(|_| {
                Failure::input(format!("--lora {text}: {strength:?} is not a strength"))
            })?;
            (file, strength)
        }
        _ => (text, 1.0),
    };
    Lora::read(Path::new(file), strength).map_err(Failure::input)
}

/// Where the model is.
enum Source {
    Folder(ModelFolder),
    File(SingleFile),
}

impl Source {
    fn open(model: &Path, config: Option<&Path>) -> Result<Self, Failure> {
        match (model.is_file(), config) {
            (true, config) => SingleFile::open(model, config)
                .map(Self::File)
                .map_err(Failure::input),
            (false, None) => ModelFolder::open(model)
                .map(Self::Folder)
                .map_err(Failure::input),
            (false, Some(_)) => Err(Failure::input(format!(
                "--config is for a single file, but there is no file {}",
                model.display()
            ))),
        }
    }
}

/// What came out.
#[derive(Serialize)]
struct Sampled {
    files: Vec<PathBuf>,
    latents: Option<PathBuf>,
    preview: Option<PathBuf>,
    width: usize,
    height: usize,
    prompt: String,
    negative: Option<String>,
    #[serde(flatten)]
    text: text::Told,
    #[serde(flatten)]
    control: control::Told,
    steps: usize,
    sampler: String,
    sampler_options: Options,
    guidance: String,
    /// `null` for a guidance without one.
    guidance_scale: Option<f64>,
    /// Of each picture.
    seeds: Vec<u64>,
    /// How often the network was evaluated, for all pictures.
    evaluations: usize,
    /// How many evaluations fewer than in classifier-free guidance; negative if more.
    evaluations_saved: isize,
    device: DeviceChoice,
    load_seconds: f64,
    seconds: f64,
    /// The most memory that the program has had, in MiB; `null` where the system does not tell.
    peak_mib: Option<u64>,
}

/// Linux tells it.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        run(self, context)
    }
}

fn run(arguments: &Arguments, context: &Context) -> Result<Report, Failure> {
    if FileFormat::from_path(&arguments.output) != Some(FileFormat::Png) {
        return Err(Failure::input(format!(
            "{} is not the name of a PNG file, which can hold what the picture was made with",
            arguments.output.display()
        )));
    }
    let prompt = match &arguments.prompt {
        Some(prompt) if !ClassDenoiser::is_folder(&arguments.model) => prompt,
        None => return sample_classes(arguments, context),
        Some(_) => {
            return Err(Failure::input(format!(
                "the model {} draws pictures of classes: choose one with --class, not with --prompt",
                arguments.model.display()
            )));
        }
    };
    let planned = arguments.plan.read(PlannedModel::StableDiffusion)?;
    let options = Options::parse(&arguments.sampler_option).map_err(Failure::input)?;
    let (named, sampler_options) = planned.sampler(arguments.sampler.as_deref(), options);
    let choice = arguments.sampler(named.as_deref(), &sampler_options)?;
    let steps = planned.steps(arguments.steps);
    let mut guidance = arguments.guidance.chosen(steps, planned.guidance())?;
    let files = outputs(&arguments.output, arguments.count);
    for file in files.iter().chain(&arguments.latents) {
        check_writable(file)?;
    }
    arguments.preview.check()?;
    let picture = arguments.image.as_deref().map(Picture::read).transpose()?;
    let mask = arguments.mask.as_deref().map(Picture::read).transpose()?;
    let loras = arguments.lora.iter().map(|text| lora(text));
    let options = LoadOptions {
        precision: arguments.precision,
        loras: loras.collect::<Result<_, _>>()?,
        prediction: arguments.prediction,
    };
    let texts = arguments.text.read(prompt, arguments.negative.as_deref())?;
    let controls = arguments.control.read()?;
    let source = Source::open(&arguments.model, arguments.config.as_deref())?;
    let device = arguments.device.open_for(arguments.precision)?;
    let progress = context.progress();
    for lora in options.loras.iter().filter(|lora| lora.assumes_scale()) {
        progress.note(&format!(
            "{} contains no alpha for some layers, so their scale is assumed to be 1",
            lora.path().display()
        ));
    }
    for flag in &guidance.unused {
        progress.note(&format!(
            "the guidance {} has no option for {flag}, which has no effect",
            guidance.name
        ));
    }
    progress.begin("loading", 1);
    let begun = Instant::now();
    let mut model = match &source {
        Source::Folder(folder) => StableDiffusion::load(folder, &device, &options)?,
        Source::File(file) => StableDiffusion::load_file(file, &device, &options)?,
    };
    if let Some(tile) = arguments.tile {
        let size = (tile / model.factor()).max(1);
        model = model.with_tiling(Tiling::Seamless { size })?;
    }
    let (model, loaded) = controls.load(texts.teach(model)?)?;
    let tiny = arguments.preview.load(&device, arguments.precision)?;
    planned.check(model.space()?)?;
    let load_seconds = begun.elapsed().as_secs_f64();
    progress.finish();

    let begun = Instant::now();
    let size = match (arguments.size, &picture) {
        (Some(size), _) => size,
        (None, Some(picture)) => {
            let [width, height] = picture.size();
            let whole = |side: u32| (side as usize / model.factor()).max(1) * model.factor();
            [whole(height), whole(width)]
        }
        (None, None) => [model.native_size().unwrap_or(512); 2],
    };
    let fit = |raster: Raster| resize_planar(&raster, size[0], size[1], Interpolation::Lanczos3);
    let start = match (picture, mask) {
        (None, _) => Start::Noise,
        (Some(picture), mask) => {
            let picture = resized(&picture.into_rgb().raster, size, &device)?;
            match mask {
                None => match &arguments.invert {
                    Some(source) => Start::Inverted {
                        picture,
                        source: model.encode_text_skipping(source, arguments.clip_skip)?,
                        strength: arguments.strength(),
                        iterations: arguments.invert_iterations as usize,
                    },
                    None => Start::Picture {
                        picture,
                        strength: arguments.strength(),
                    },
                },
                Some(mask) => {
                    let mask = fit(mask.into_rgb().raster)?;
                    let mask: Tensor<4> = to_tensor([&mask], &device);
                    Start::Masked {
                        picture,
                        mask: mask.mean_dim(1) * 0.5 + 0.5,
                        strength: arguments.strength(),
                    }
                }
            }
        }
    };
    let sampler = match named {
        Some(name) => name,
        None if arguments.invert.is_some() => DDIM.to_owned(),
        None => {
            let named = model.scheduler().sampler_name();
            named.map_err(Failure::input)?.to_owned()
        }
    };
    let mut sampling = SamplingOptions {
        steps,
        sampler: choice,
        original_size: arguments.original_size,
        crop: arguments.crop.unwrap_or_default(),
        sigmas: arguments.sigmas(),
        ..SamplingOptions::new(size)
    };
    if guidance.own.is_none() {
        sampling.guidance_scale = guidance.scale.unwrap_or(sampling.guidance_scale);
        sampling.guidance_rescale = guidance.rescale.unwrap_or(sampling.guidance_rescale);
    }
    let [positive, negative] = texts.encode(&model, arguments.clip_skip)?;
    let (bound, prompts) = controls.bind(&loaded, size, &device)?;
    let preview = Preview::new(&arguments.preview, tiny, model.takes_sizes(), size);
    let mut latents = Vec::new();
    let mut seeds = Vec::new();
    let (mut evaluations, mut evaluations_saved) = (0, 0);
    for (number, file) in files.iter().enumerate() {
        sampling.seed = arguments.seed.value().wrapping_add(number as u64);
        let name = match files.len() {
            1 => "sampling".to_owned(),
            all => format!("sampling {} of {all}", number + 1),
        };
        let mut done = 0;
        let mut counted = Evaluations::new();
        let mut doors = RunDoors::default().counted_in(&mut counted);
        if let Some(own) = &mut guidance.own {
            doors = doors.guided_by(own);
        }
        for control in &bound {
            doors = doors.controlled_by(control.clone());
        }
        for prompt in &prompts {
            doors = doors.prompted_by(prompt.clone());
        }
        if let Some(file) = planned.file() {
            doors = doors.planned_by(&file.steps);
        }
        let mut failed = None;
        let mut observe = |step: SamplingProgress<'_>| {
            if done == 0 {
                progress.begin(&name, step.total as u64);
            }
            progress.advance((step.done - done) as u64);
            done = step.done;
            failed = preview.show(step.predicted, done).err();
            match failed {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        };
        let latent =
            model.sample_with(&positive, &negative, &start, &sampling, doors, &mut observe);
        if let Some(failure) = failed {
            return Err(failure);
        }
        let latent = latent?;
        progress.finish();
        progress.begin("decoding", 1);
        let pixels = to_rasters(model.decode(latent.clone())?);
        progress.finish();
        for raster in pixels {
            let raster = raster.map(|v| v.clamp(0.0, 1.0));
            let mut picture = Picture::new(raster, BitDepth::Eight);
            let text = parameters(
                arguments, prompt, &controls, &sampler, &sampling, &guidance, &counted,
            ) + &planned.parameters();
            picture.metadata.texts = vec![("parameters".to_owned(), text)];
            picture.write(file, &WriteOptions::default())?;
        }
        latents.push(latent);
        seeds.push(sampling.seed);
        evaluations += counted.total();
        evaluations_saved += counted.saved();
    }
    if let Some(path) = &arguments.latents {
        let bytes = latent_file(Tensor::cat(latents, 0))?;
        write_bytes_atomically(path, &bytes)?;
    }
    let sampled = Sampled {
        files,
        latents: arguments.latents.clone(),
        preview: arguments.preview.path(),
        width: size[1],
        height: size[0],
        prompt: prompt.clone(),
        negative: arguments.negative.clone(),
        text: texts.told(),
        control: controls.told(),
        steps,
        sampler,
        sampler_options: sampler_options.sorted(),
        guidance: guidance.name,
        guidance_scale: guidance.scale,
        seeds,
        evaluations,
        evaluations_saved,
        device: arguments.device.choice(),
        load_seconds,
        seconds: begun.elapsed().as_secs_f64(),
        peak_mib: peak_mib(),
    };
    context.report(&sampled, || {
        let names: Vec<_> = sampled
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        format!(
            "{}: {} x {} pixels in {} (loaded in {}); {}\n",
            names.join(", "),
            sampled.width,
            sampled.height,
            duration(sampled.seconds),
            duration(sampled.load_seconds),
            counted_in_words(sampled.evaluations, sampled.evaluations_saved)
        )
    })
}

/// How often the network was evaluated, against classifier-free guidance.
fn counted_in_words(evaluations: usize, saved: isize) -> String {
    let compared = match saved {
        0 => "as many as".to_owned(),
        1.. => format!("{saved} fewer than"),
        _ => format!("{} more than", saved.unsigned_abs()),
    };
    format!(
        "{} of the network, {compared} in classifier-free guidance",
        count(evaluations, "evaluation")
    )
}

/// The output, or several numbered ones.
fn outputs(output: &Path, count: u32) -> Vec<PathBuf> {
    if count == 1 {
        return vec![output.to_owned()];
    }
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    (1..=count)
        .map(|number| output.with_file_name(format!("{stem}_{number}.png")))
        .collect()
}

/// What the picture was made with, in the form that other programs read.
fn parameters(
    arguments: &Arguments,
    prompt: &str,
    controls: &Controls<'_>,
    sampler: &str,
    sampling: &SamplingOptions,
    guidance: &GuidanceChoice,
    counted: &Evaluations,
) -> String {
    let mut text = prompt.to_owned();
    if let Some(negative) = &arguments.negative {
        let _ = write!(text, "\nNegative prompt: {negative}");
    }
    let [height, width] = sampling.size;
    let model = arguments.model.canonicalize();
    let model = model.as_deref().unwrap_or(&arguments.model);
    let _ = write!(
        text,
        "\nSteps: {}, Sampler: {sampler}{}{}, Seed: {}, Size: {width}x{height}, Model: {}",
        sampling.steps,
        match sampling.sigmas {
            Some(spacing) => format!(" {spacing}"),
            None => String::new(),
        },
        match guidance.scale {
            Some(scale) => format!(", CFG scale: {scale}"),
            None => String::new(),
        },
        sampling.seed,
        model.file_name().unwrap_or_default().to_string_lossy(),
    );
    if arguments.clip_skip > 0 {
        // They count from the last layer on, which is 1.
        let _ = write!(text, ", Clip skip: {}", arguments.clip_skip + 1);
    }
    for option in &arguments.sampler_option {
        let _ = write!(text, ", Sampler option: {option}");
    }
    text += &arguments.guidance.parameters();
    if let Some(rescale) = guidance.rescale.filter(|&rescale| rescale != 0.0) {
        let _ = write!(text, ", CFG rescale: {rescale}");
    }
    let (evaluations, saved) = (counted.total(), counted.saved());
    let _ = write!(
        text,
        ", Evaluations: {evaluations}, Evaluations saved: {saved}"
    );
    if let Some(source) = &arguments.invert {
        // Commas separate the parameters, so the text is quoted.
        let _ = write!(text, ", Inverted from: {source:?}");
    }
    if arguments.image.is_some() {
        let _ = write!(text, ", Denoising strength: {}", arguments.strength());
    }
    for lora in &arguments.lora {
        let name = Path::new(lora).file_name().unwrap_or_default();
        let _ = write!(text, ", Lora: {}", name.to_string_lossy());
    }
    text += &arguments.text.parameters();
    text += &controls.parameters();
    let _ = write!(text, ", Version: nabla {}", env!("CARGO_PKG_VERSION"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_width_by_height() {
        assert_eq!(size("512"), Ok([512, 512]));
        assert_eq!(size("768x512"), Ok([512, 768]));
        for wrong in ["", "0", "512x", "x512", "3x4x5", "99999", "-8"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn crops_are_left_and_top() {
        assert_eq!(crop("8,16"), Ok([16, 8]));
        for wrong in ["", "8", "8,", "8,-1", "1,2,3", "8x16"] {
            assert!(crop(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn several_outputs_are_numbered() {
        let names = outputs(Path::new("a/b.png"), 2);
        assert_eq!(names, [Path::new("a/b_1.png"), Path::new("a/b_2.png")]);
        assert_eq!(outputs(Path::new("b.png"), 1), [Path::new("b.png")]);
    }
}
