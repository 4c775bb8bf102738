//! `nabla upscale`: makes a panorama sharper, by OmniSSR with the embedded prior or another one.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use nabla::base::progress::ProgressSink;
use nabla::base::{OutputError, check_writable};
use nabla::data::{FileFormat, Picture, Raster, ReadOptions, WriteOptions, sample_panorama};
use nabla::diffusion::stable_diffusion::weights::Precision;
use nabla::panorama::omnissr::TangentPrior;
use nabla::panorama::whole_picture::EnlargedPicture;
use nabla::panorama::{
    BicubicDown, Erp, ErpArea, Evaluation, Interpolation, LinearOperator, Merge, OmniSsr,
    OmniSsrConfig, OmniSsrStep, evaluate, open_prior, resize_erp, to_8_bit,
};
use serde::Serialize;

use crate::choice::choice;
use crate::devices::{DeviceChoice, DeviceFlag};
use crate::errors::{Failure, Kind};
use crate::job::{Context, Report};
use crate::jobs::evaluate::comparison;
use crate::picture_files::{check_not_the_input, note_of, read_panorama, told_left_out};
use crate::progress::Progress;
use crate::seeds::SeedFlag;
use nabla::base::words::duration;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// A panorama, a part of one (its metadata say where it lies), or a folder of them; without IN, the
    /// bundled sample is upscaled and measured
    #[arg(value_name = "IN")]
    input: Option<PathBuf>,
    /// The file or folder to write
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Upscale the bundled sample, the same as without IN
    #[arg(long, conflicts_with = "input")]
    sample: bool,
    /// How many times larger, in each direction
    #[arg(long, value_enum, default_value_t)]
    scale: Scale,
    /// Steps of the sampler [default: the number that the model was made for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// A model that `nabla train prior` made, or a folder with the files of StableSR [default: the
    /// embedded one]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// The precision in which StableSR computes [default: f32]
    #[arg(long, value_parser = choice::<Precision>(), requires = "model")]
    precision: Option<Precision>,
    #[command(flatten)]
    seed: SeedFlag,
    #[command(flatten)]
    device: DeviceFlag,
    /// The most pixels along a side that the network sees at once; smaller tiles need less memory
    #[arg(long, value_name = "PIXELS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..))]
    tile: u32,
    /// What is merged from the tangent planes into the panorama
    #[arg(long, value_parser = choice::<Merge>(), default_value = "changes")]
    merge: Merge,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Scale {
    #[value(name = "2")]
    Two,
    #[default]
    #[value(name = "4")]
    Four,
}

impl Scale {
    fn factor(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// The result for one panorama.
#[derive(Debug, Serialize)]
struct Upscaled {
    /// `null` for the sample.
    input: Option<PathBuf>,
    output: PathBuf,
    width: u32,
    height: u32,
    scale: usize,
    steps: usize,
    seed: u64,
    device: DeviceChoice,
    seconds: f64,
    /// The greatest difference between the input and the result reduced again; for linear light, after the
    /// tone curve.
    inconsistency: f64,
}

#[derive(Serialize)]
struct Folder {
    done: Vec<Upscaled>,
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    input: PathBuf,
    reason: String,
}

#[derive(Serialize)]
struct Sample {
    #[serde(flatten)]
    upscaled: Upscaled,
    bicubic_output: PathBuf,
    reference_output: PathBuf,
    ours: Evaluation,
    bicubic: Evaluation,
    lanczos: Evaluation,
}

impl crate::job::Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        run(self, context)
    }
}

fn run(arguments: &Arguments, context: &Context) -> Result<Report, Failure> {
    let Some(input) = &arguments.input else {
        return sample(arguments, context);
    };
    let Some(output) = &arguments.output else {
        return Err(Failure::input(
            "an output is needed: nabla upscale IN -o OUT",
        ));
    };
    if input.is_dir() {
        return folder(arguments, input, output, context);
    }
    let output = match (output.is_dir(), input.file_name()) {
        (true, Some(name)) => output.join(name),
        _ => output.clone(),
    };
    // Errors in the file are reported before the device and the model are loaded.
    let job = Job::prepare(arguments, input, &output)?;
    let engine = Engine::new(arguments, context)?;
    let upscaled = job.run(&engine)?;
    context.report(&upscaled, || line(&upscaled))
}

fn line(upscaled: &Upscaled) -> String {
    format!(
        "{}: {} x {} pixels in {}\n",
        upscaled.output.display(),
        upscaled.width,
        upscaled.height,
        duration(upscaled.seconds)
    )
}

/// The network, loaded once for all pictures.
struct Engine<'a> {
    prior: Box<dyn TangentPrior>,
    arguments: &'a Arguments,
    progress: &'a Progress,
}

impl<'a> Engine<'a> {
    fn new(arguments: &'a Arguments, context: &'a Context) -> Result<Self, Failure> {
        let device = arguments
            .device
            .open_for(arguments.precision.unwrap_or_default())?;
        let prior = open_prior(arguments.model.as_deref(), &device, arguments.precision)?;
        Ok(Self {
            prior,
            arguments,
            progress: context.progress(),
        })
    }

    /// Upscales the `picture` of `area`; `name` is its name in the progress. Also returns the number of steps.
    fn upscale(
        &self,
        name: &str,
        picture: Picture,
        area: ErpArea,
        note: &mut dyn FnMut(&str),
    ) -> Result<(EnlargedPicture, usize), Failure> {
        let config = OmniSsrConfig {
            steps: self.arguments.steps.map(|steps| steps as usize),
            seed: self.arguments.seed.value(),
            tile: self.arguments.tile as usize,
            merge: self.arguments.merge,
            ..OmniSsrConfig::new(self.arguments.scale.factor())
        };
        let omnissr: OmniSsr<_> = config.init_area(&*self.prior, area)?;
        let total = omnissr.steps() * omnissr.projection().planes().len();
        self.progress.begin(name, total as u64);
        let mut done = 0;
        let mut observe = |step: OmniSsrStep| {
            self.progress.advance(step.done.saturating_sub(done) as u64);
            done = step.done;
            ControlFlow::Continue(())
        };
        let output = omnissr.run_picture(picture, &mut observe, note);
        self.progress.finish();
        Ok((output?, omnissr.steps()))
    }
}

/// One panorama that has been read and whose output can be written.
struct Job {
    input: PathBuf,
    output: PathBuf,
    picture: Picture,
    /// The area that the input covers.
    area: ErpArea,
}

impl Job {
    fn prepare(arguments: &Arguments, input: &Path, output: &Path) -> Result<Self, Failure> {
        check_not_the_input(input, output)?;
        let scale = arguments.scale.factor() as u64;
        let defaults = ReadOptions::default();
        let options = ReadOptions {
            // The output must be small enough to be read again.
            max_pixels: defaults.max_pixels / (scale * scale),
            ..defaults
        };
        // Notes are printed only when nothing can be refused any more: a refusal is one line.
        let mut notes = Vec::new();
        let mut note = |text: &str| notes.push(text.to_owned());
        let (picture, area) = read_panorama(input, &options, &mut note)?;
        let large = area.enlarged(arguments.scale.factor()).map_err(|e| {
            Failure::input_because(format!("{} cannot be upscaled", input.display()), e)
        })?;
        let size = large.photosphere().cropped_size;
        picture.check(output, size, &WriteOptions::default())?;
        check_writable(output)?;
        told_left_out(&picture, output, &mut note);
        notes.iter().for_each(|text| note_of(input)(text));
        Ok(Self {
            input: input.into(),
            output: output.into(),
            picture,
            area,
        })
    }

    fn run(self, engine: &Engine<'_>) -> Result<Upscaled, Failure> {
        let begun = Instant::now();
        let name = self.input.file_name().unwrap_or(self.input.as_os_str());
        let name = name.to_string_lossy().into_owned();
        let mut note = |note: &str| {
            engine
                .progress
                .note(&format!("{}: {note}", self.input.display()));
        };
        let (enlarged, steps) = engine.upscale(&name, self.picture, self.area, &mut note)?;
        let result = enlarged.picture;
        result.write(&self.output, &WriteOptions::default())?;
        Ok(Upscaled {
            input: Some(self.input),
            output: self.output,
            width: result.size()[0],
            height: result.size()[1],
            scale: engine.arguments.scale.factor(),
            steps,
            seed: engine.arguments.seed.value(),
            device: engine.arguments.device.choice(),
            seconds: begun.elapsed().as_secs_f64(),
            inconsistency: enlarged.inconsistency,
        })
    }
}

fn folder(
    arguments: &Arguments,
    input: &Path,
    output: &Path,
    context: &Context,
) -> Result<Report, Failure> {
    check_not_the_input(input, output)?;
    let read_failed =
        |e: std::io::Error| Failure::input_because(format!("cannot read {}", input.display()), e);
    let mut files = Vec::new();
    for entry in fs::read_dir(input).map_err(read_failed)? {
        let path = entry.map_err(read_failed)?.path();
        if path.is_file() && FileFormat::from_path(&path).is_some() {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Failure::input(format!(
            "{} contains no PNG, JPEG, WebP, TIFF, Radiance HDR or OpenEXR files",
            input.display()
        )));
    }
    if output.exists() && !output.is_dir() {
        return Err(Failure::input(format!(
            "{} is a file, but for a folder of panoramas the output must be a folder",
            output.display()
        )));
    }
    let engine = Engine::new(arguments, context)?;
    let made = !output.is_dir();
    if made {
        fs::create_dir(output).map_err(|source| OutputError::Io {
            path: output.into(),
            source,
        })?;
    }
    let mut all = Folder {
        done: Vec::new(),
        failed: Vec::new(),
    };
    let mut taken = BTreeSet::new();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_owned();
        let outcome = if taken.insert(name.clone()) {
            Job::prepare(arguments, &path, &output.join(&name)).and_then(|job| job.run(&engine))
        } else {
            Err(Failure::input(format!(
                "{} would overwrite the result of another picture",
                path.display()
            )))
        };
        match outcome {
            Ok(upscaled) => {
                context.part_done(&line(&upscaled))?;
                all.done.push(upscaled);
            }
            Err(failure) if failure.kind() == Kind::Interrupted => return Err(failure),
            Err(failure) => {
                context.note(&failure.to_string());
                all.failed.push(Failed {
                    input: path,
                    reason: failure.to_string(),
                });
            }
        }
    }
    if made && all.done.is_empty() {
        // The folder is empty; if it cannot be removed, it does no harm.
        let _ = fs::remove_dir(output);
    }
    let (failed, total) = (all.failed.len(), all.failed.len() + all.done.len());
    let failure = (failed > 0)
        .then(|| Failure::input(format!("{failed} of {total} pictures were not upscaled")));
    // For people, each picture has been reported already.
    let report = context.report(&all, String::new)?;
    Ok(report.ending_in(failure))
}

/// `path` with something added to its stem, as in `a_x4.png`, `a_x4_bicubic.png`.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push("_");
    name.push(what);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

fn sample(arguments: &Arguments, context: &Context) -> Result<Report, Failure> {
    let scale = arguments.scale.factor();
    let output = match &arguments.output {
        Some(output) => output.clone(),
        None => PathBuf::from(format!("nabla_sample_x{scale}.png")),
    };
    let (truth, small) = sample_panorama()?;
    let low = match arguments.scale {
        Scale::Four => small.raster,
        Scale::Two => {
            let erp = Erp::of(&truth.raster).map_err(Failure::input)?;
            let operator = BicubicDown::new(scale, erp).map_err(Failure::input)?;
            to_8_bit(operator.apply(&truth.raster).map_err(Failure::input)?)
        }
    };
    let (bicubic_output, reference_output) =
        (beside(&output, "bicubic"), beside(&output, "reference"));
    let options = WriteOptions::default();
    for path in [&output, &bicubic_output, &reference_output] {
        truth.check(path, truth.size(), &options)?;
        check_writable(path)?;
    }
    let engine = Engine::new(arguments, context)?;
    let begun = Instant::now();
    let area = ErpArea::full(Erp::of(&low).map_err(Failure::input)?);
    let picture = Picture::new(low.clone(), truth.bit_depth);
    let (enlarged, steps) = engine.upscale("sample panorama", picture, area, &mut |text| {
        context.note(text)
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let resized =
        |interpolation| resize_erp(&low, truth.raster.height(), interpolation).map(to_8_bit);
    let large = to_8_bit(enlarged.picture.raster);
    let bicubic = resized(Interpolation::BICUBIC)?;
    let lanczos = resized(Interpolation::Lanczos3)?;
    let ours = evaluate(&large, &truth.raster)?;
    let sample = Sample {
        upscaled: Upscaled {
            input: None,
            output,
            width: truth.size()[0],
            height: truth.size()[1],
            scale,
            steps,
            seed: arguments.seed.value(),
            device: arguments.device.choice(),
            seconds,
            inconsistency: enlarged.inconsistency,
        },
        bicubic_output,
        reference_output,
        ours,
        bicubic: evaluate(&bicubic, &truth.raster)?,
        lanczos: evaluate(&lanczos, &truth.raster)?,
    };
    let like = |raster: Raster| Picture {
        raster,
        ..truth.clone()
    };
    like(large).write(&sample.upscaled.output, &options)?;
    like(bicubic).write(&sample.bicubic_output, &options)?;
    truth.write(&sample.reference_output, &options)?;
    context.report(&sample, || {
        let table = comparison(&[
            ("nabla", &sample.ours),
            ("bicubic", &sample.bicubic),
            ("lanczos", &sample.lanczos),
        ]);
        format!(
            "{}for comparison: {} and the truth {}\n\n{table}",
            line(&sample.upscaled),
            sample.bicubic_output.display(),
            sample.reference_output.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beside_an_output_keep_its_folder_and_extension() {
        assert_eq!(beside(Path::new("a/b.png"), "c"), Path::new("a/b_c.png"));
    }
}
