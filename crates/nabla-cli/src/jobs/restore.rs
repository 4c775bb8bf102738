//! `nabla restore`: a picture or a volume from a measurement of it: reduced, blurred, with missing pixels, or from an
//! MRI or CT scan.

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::base::words::{count, duration};
use nabla::base::{check_writable, range};
use nabla::diffusion::asking::Step;
use nabla::diffusion::denoiser::Denoised;
use nabla::diffusion::registry::Options;
use nabla::diffusion::restore::{
    Given, OperatorRecipe, Problem, RestoreError, Restorer, RunOptions, TrainedPrior,
    TrainedPriorError, operators, restorers,
};
use nabla::diffusion::sampler::samplers;
use nabla::diffusion::sampler_error::{Cancelled, SamplerError};
use serde::Serialize;

use crate::devices::{DeviceChoice, DeviceFlag};
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::picture_files::check_not_the_input;
use crate::seeds::SeedFlag;

mod problems;
mod samples;

use samples::{First, Origin, Samples, Target, read_coil_maps, read_plane};

const MRI: &str = "mri";
const CT: &str = "ct";
/// How many slices the network sees at once, if they do not depend on each other.
const SLICES_AT_ONCE: usize = 16;
const SUPER_RESOLUTION: &str = "super-resolution";

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// What was measured: a picture, a NumPy array (.npy), the data set `kspace` of an HDF5 file (.h5, as fastMRI has it)
    /// or a volume (.nii, .nii.gz). For mri, complex numbers
    /// [coils, height, width] with the frequency 0 in the middle; for ct, [angles, detectors]; each may have slices in
    /// front. With --simulate, the clean picture or volume
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The picture (.png, .jpg ...), array (.npy) or volume (.nii, .nii.gz) to write
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// What was done to the picture
    #[arg(long, value_name = "NAME", default_value = SUPER_RESOLUTION, value_parser = operator_names())]
    operator: String,
    /// An option of the operator, such as scale=2, deviation=3 or views=60; may be given several times. An unknown name is
    /// refused with a list of the known ones
    #[arg(long, value_name = "NAME=VALUE")]
    operator_option: Vec<String>,
    /// For inpainting: white where the picture is known. For mri: the measured frequencies [default: those that are not 0]
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// For blur: the kernel, a picture or a NumPy array; its values are divided by their sum
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// For mri: coil maps, complex numbers [coils, height, width] [default: estimated by ESPIRiT]
    #[arg(long, value_name = "FILE")]
    coils: Option<PathBuf>,
    /// For mri with --simulate: estimate the coil maps too, instead of using those of the simulation
    #[arg(long, requires = "simulate")]
    estimate_coils: bool,
    /// The method
    #[arg(long, value_name = "NAME", default_value = "dds", value_parser = method_names())]
    method: String,
    /// An option of the method, such as eta=0.5, cg_iterations=10 or, for volumes, tv_weight=0.04; may be given several
    /// times
    #[arg(long, value_name = "NAME=VALUE")]
    method_option: Vec<String>,
    /// A sampler instead of the method's own
    #[arg(long, value_name = "NAME", value_parser = sampler_names())]
    sampler: Option<String>,
    /// An option of the sampler
    #[arg(long, value_name = "NAME=VALUE", requires = "sampler")]
    sampler_option: Vec<String>,
    /// A model of `nabla train denoiser`, or of `nabla train prior` [default: the embedded prior of photographs]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// For a model of labelled pictures: the class of the picture, by its name or number
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Steps of the sampler [default: those of the method: 50 for dds, 100 for ddnm and pigdm, 999 for dps; with a
    /// super-resolution prior, dds and ddnm take those that it is made for, 1 if it is the embedded one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// The standard deviation of the noise of the measurement, in its unit: pictures go from 0 to 1
    #[arg(
        long,
        value_name = "SIGMA",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    noise: f64,
    /// Measure the clean picture IN first, with --noise, and compare the result with it
    #[arg(long)]
    simulate: bool,
    /// With --simulate: also write the measurement
    #[arg(long, value_name = "FILE", requires = "simulate")]
    measurement: Option<PathBuf>,
    /// The clean picture, to compare the result with
    #[arg(long, value_name = "FILE", conflicts_with = "simulate")]
    truth: Option<PathBuf>,
    /// The values of the picture that are black and white to the model [default: 0,1 for pictures; with --simulate the
    /// smallest and the largest value; otherwise 0 and the largest value of a first estimate]
    #[arg(long, value_name = "LOW,HIGH", value_parser = low_high, allow_hyphen_values = true)]
    range: Option<[f64; 2]>,
    #[command(flatten)]
    seed: SeedFlag,
    /// The most pixels along a side that the embedded prior sees at once; smaller tiles need less memory
    #[arg(long, value_name = "PIXELS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..))]
    tile: u32,
    #[command(flatten)]
    device: DeviceFlag,
}

fn operator_names() -> clap::builder::PossibleValuesParser {
    operators().names().into()
}

fn method_names() -> clap::builder::PossibleValuesParser {
    restorers::<4>().names().into()
}

fn sampler_names() -> clap::builder::PossibleValuesParser {
    samplers::<4>().names().into()
}

/// `LOW,HIGH`.
fn low_high(text: &str) -> Result<[f64; 2], String> {
    let wrong = || "it must be two numbers, the lower one first, as -1000,1500".to_owned();
    let number = |text: &str| text.trim().parse::<f64>().map_err(|_| wrong());
    let (low, high) = text.split_once(',').ok_or_else(wrong)?;
    match [number(low)?, number(high)?] {
        [low, high] if low < high && (high - low).is_finite() => Ok([low, high]),
        _ => Err(wrong()),
    }
}

/// The result.
#[derive(Serialize)]
struct Restored {
    output: PathBuf,
    slices: usize,
    width: usize,
    height: usize,
    operator: String,
    operator_options: Options,
    /// `given`, `simulated` or `estimated`; `null` without coils.
    coil_maps: Option<&'static str>,
    method: String,
    method_options: Options,
    sampler: Option<String>,
    steps: usize,
    /// How often the network was evaluated, for all slices together.
    network_evaluations: usize,
    noise: f64,
    /// Black and white of the model.
    range: [f64; 2],
    /// `‖y − A x‖/‖y‖` of the result.
    residual: f64,
    /// Against the truth, in the range; `null` without a truth, or if the two are equal.
    psnr: Option<f64>,
    /// `null` without a truth, or for pictures of less than 11 pixels.
    ssim: Option<f64>,
    /// Of the pseudo-inverse of the measurement, which knows nothing of pictures.
    psnr_without_model: Option<f64>,
    seed: u64,
    device: DeviceChoice,
    load_seconds: f64,
    seconds: f64,
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let work = Work::prepare(self)?;
        let (restored, samples) = work.run(context)?;
        let text = work.parameters(&restored);
        let range = restored.range;
        let complex = work.complex;
        work.target.write(&samples, complex, range, Some(text))?;
        context.report(&restored, || told(&restored))
    }
}

fn told(restored: &Restored) -> String {
    let slices = match restored.slices {
        1 => String::new(),
        count => format!("{count} slices of "),
    };
    let compared = match (restored.psnr, restored.psnr_without_model) {
        (Some(psnr), Some(without)) => {
            let ssim = restored
                .ssim
                .map_or(String::new(), |s| format!(", SSIM {s:.4}"));
            format!("; PSNR {psnr:.2} dB{ssim} (pseudo-inverse: {without:.2} dB)")
        }
        _ => String::new(),
    };
    format!(
        "{}: {slices}{} x {} pixels in {}, {} of the network, residual {:.2e}{compared}\n",
        restored.output.display(),
        restored.width,
        restored.height,
        duration(restored.seconds),
        count(restored.network_evaluations, "evaluation"),
        restored.residual
    )
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Sampler(SamplerError::Cancelled) => Self::interrupted(),
            other => Self::input(other),
        }
    }
}

impl From<TrainedPriorError> for Failure {
    fn from(error: TrainedPriorError) -> Self {
        match error {
            TrainedPriorError::Restore(error) => error.into(),
            other => Self::input(other),
        }
    }
}

/// Everything that was read and checked before the model is loaded.
struct Work<'a> {
    arguments: &'a Arguments,
    recipe: Box<dyn OperatorRecipe>,
    operator_options: Options,
    method: Box<dyn Restorer>,
    method_options: Options,
    sampler_options: Options,
    given: Given,
    input: Samples,
    truth: Option<Samples>,
    target: Target,
    measurement: Option<Target>,
    model: TrainedPrior,
    device: Device,
    load_seconds: f64,
    /// Whether the picture has a real and an imaginary part.
    complex: bool,
    /// Whether colours are slices for the model, because it knows one channel only.
    apart: bool,
    /// The channels of the file.
    colours: usize,
}

impl<'a> Work<'a> {
    fn prepare(arguments: &'a Arguments) -> Result<Self, Failure> {
        check_not_the_input(&arguments.input, &arguments.output)?;
        let options = |texts: &[String]| Options::parse(texts).map_err(Failure::input);
        let operator_options = options(&arguments.operator_option)?;
        let recipe = operators().make(&arguments.operator, &operator_options);
        let recipe = recipe.map_err(Failure::input)?;
        let method_options = options(&arguments.method_option)?;
        let method = restorers().make(&arguments.method, &method_options);
        let method = method.map_err(Failure::input)?;
        let sampler_options = options(&arguments.sampler_option)?;
        if let Some(name) = &arguments.sampler {
            let made = samplers::<4>().make(name, &sampler_options);
            made.map_err(Failure::input)?;
        }
        range::not_negative("noise of the measurement", arguments.noise).map_err(Failure::input)?;
        let mri = arguments.operator == MRI;
        for (flag, is_given, of) in [
            ("--kernel", arguments.kernel.is_some(), vec!["blur"]),
            ("--coils", arguments.coils.is_some(), vec![MRI]),
            ("--estimate-coils", arguments.estimate_coils, vec![MRI]),
            ("--mask", arguments.mask.is_some(), vec!["inpainting", MRI]),
        ] {
            if is_given && !of.contains(&arguments.operator.as_str()) {
                return Err(Failure::input(format!(
                    "{flag} is for the operator {}, not for {}",
                    of.join(" and "),
                    arguments.operator
                )));
            }
        }
        let first = match mri && !arguments.simulate {
            true => First::Coils,
            false => First::Slices,
        };
        let input = Samples::read(&arguments.input, first)?.checked(&arguments.input)?;
        let truth = match &arguments.truth {
            Some(path) => Some(Samples::read(path, First::Slices)?.checked(path)?),
            None => None,
        };
        let given = Given {
            mask: arguments.mask.as_deref().map(read_plane).transpose()?,
            kernel: arguments.kernel.as_deref().map(read_plane).transpose()?,
            coil_maps: arguments.coils.as_deref().map(read_coil_maps).transpose()?,
            seed: arguments.seed.value(),
        };
        let target = Target::of(&arguments.output)?;
        check_writable(&arguments.output)?;
        let measurement = arguments.measurement.as_deref();
        let measurement = match measurement {
            Some(path) => {
                check_writable(path)?;
                Some(Target::of(path)?)
            }
            None => None,
        };
        let scan = mri || arguments.operator == CT;
        if scan && arguments.model.is_none() {
            return Err(Failure::input(format!(
                "the embedded prior knows photographs, not scans: give a model of nabla train denoiser for {} with \
                 --model",
                arguments.operator
            )));
        }
        let begun = Instant::now();
        let device = arguments.device.open()?;
        let model = TrainedPrior::open(
            arguments.model.as_deref(),
            arguments.class.as_deref(),
            &device,
        )?;
        let load_seconds = begun.elapsed().as_secs_f64();
        let channels = model.channels();
        let mut work = Self {
            arguments,
            recipe,
            operator_options,
            method,
            method_options,
            sampler_options,
            given,
            input,
            truth,
            target,
            measurement,
            model,
            device,
            load_seconds,
            complex: channels == 2,
            apart: false,
            colours: 1,
        };
        work.adapt_channels(channels)?;
        Ok(work)
    }

    /// Makes the channels of the pictures those of the model.
    fn adapt_channels(&mut self, channels: usize) -> Result<(), Failure> {
        if self.is_kspace() {
            return match self.input.complex {
                true => Ok(()),
                false => Err(Failure::input(format!(
                    "{} has real numbers, but k-space is complex",
                    self.arguments.input.display()
                ))),
            };
        }
        let [_, found, ..] = self.input.shape;
        self.apart = channels == 1 && found > 1;
        self.colours = found;
        if !self.apart && channels != found && !(channels == 3 && found == 1) {
            return Err(Failure::input(format!(
                "{} has {found} channel(s), but the model knows pictures of {channels}",
                self.arguments.input.display()
            )));
        }
        let adapted = |samples: Samples| {
            let [slices, found, height, width] = samples.shape;
            if self.apart {
                return samples.reshaped([slices * found, 1, height, width]);
            }
            match channels == found {
                true => samples,
                false => {
                    let planes = samples.values.chunks_exact(height * width);
                    let values = planes.flat_map(|plane| plane.repeat(channels)).collect();
                    Samples {
                        shape: [slices, channels, height, width],
                        values,
                        complex: samples.complex,
                        origin: samples.origin,
                    }
                }
            }
        };
        let input = self.input.clone();
        self.input = adapted(input);
        self.truth = self.truth.take().map(adapted);
        Ok(())
    }

    /// Whether the input is the k-space of coils.
    fn is_kspace(&self) -> bool {
        self.arguments.operator == MRI && !self.arguments.simulate
    }

    /// `[channels, height, width]` of the pictures.
    fn picture(&self) -> Result<[usize; 3], Failure> {
        let found = match self.arguments.simulate {
            true => self.input.sides(),
            false => self.recipe.picture_sides(self.input.sides()),
        };
        let sides = match self.model.sides() {
            // The detectors of a fan do not say how large the picture is.
            Some(sides) if self.arguments.operator == CT && !self.arguments.simulate => sides,
            Some(sides) if sides != found => {
                return Err(Failure::input(format!(
                    "the picture has {} x {} pixels, but the model knows pictures of {} x {}",
                    found[1], found[0], sides[1], sides[0]
                )));
            }
            _ => found,
        };
        let [height, width] = sides;
        Ok([self.model.channels(), height, width])
    }

    /// Black and white of the model.
    fn range(&self, problems: &[Problem]) -> Result<[f64; 2], Failure> {
        if let Some(range) = self.arguments.range {
            return Ok(range);
        }
        if matches!(self.input.origin, Origin::Picture(_)) && !self.is_scan() {
            return Ok([0.0, 1.0]);
        }
        let bounds = |values: &[f32]| {
            let wider = |[low, high]: [f32; 2], v: &f32| [low.min(*v), high.max(*v)];
            let [low, high] = values
                .iter()
                .fold([f32::INFINITY, f32::NEG_INFINITY], wider);
            [f64::from(low), f64::from(high)]
        };
        let known = match (&self.truth, self.arguments.simulate) {
            (Some(truth), _) => Some(truth),
            (None, true) => Some(&self.input),
            (None, false) => None,
        };
        let [low, high] = match known {
            Some(samples) if self.complex => [0.0, bounds(&samples.magnitude().values)[1]],
            Some(samples) => bounds(&samples.values),
            None => {
                let mut high = 0.0_f64;
                for problem in problems {
                    let y = problem.measurement().clone();
                    let first = problem
                        .operator()
                        .pseudo_inverse(y)
                        .map_err(Failure::input)?;
                    let first = Samples::of(&first, Origin::Npy)?;
                    let first = if self.complex {
                        first.magnitude()
                    } else {
                        first
                    };
                    high = high.max(bounds(&first.values)[1]);
                }
                [0.0, high]
            }
        };
        match low < high && (high - low).is_finite() {
            true => Ok([low, high]),
            false => Err(Failure::input(format!(
                "all values of {} are the same, so what is black and white must be given with --range",
                self.arguments.input.display()
            ))),
        }
    }

    fn is_scan(&self) -> bool {
        matches!(self.arguments.operator.as_str(), MRI | CT)
    }

    /// Whether slices depend on each other.
    fn is_volume(&self) -> bool {
        let weight = self.method_options.get("tv_weight");
        weight
            .and_then(|weight| weight.as_f64())
            .is_some_and(|weight| weight > 0.0)
    }

    fn run(&self, context: &Context) -> Result<(Restored, Samples), Failure> {
        let arguments = self.arguments;
        let picture = self.picture()?;
        let (problems, coil_maps) = self.problems(picture)?;
        if self.is_volume() && problems.len() > 1 {
            return Err(Failure::input(
                "total variation couples the slices of a volume, which needs one set of coil maps for all of them: give \
                 them with --coils",
            ));
        }
        let slices: usize = problems.iter().map(|p| p.measurement().dims()[0]).sum();
        let [channels, height, width] = picture;
        let shape = [slices, channels, height, width];
        let truth = if arguments.simulate {
            Some(&self.input)
        } else {
            self.truth.as_ref()
        };
        if let Some(truth) = truth.filter(|truth| truth.shape != shape) {
            return Err(Failure::input(format!(
                "the truth has the shape {:?} (slices, channels, height, width), but the result has {shape:?}",
                truth.shape
            )));
        }
        self.target.check(self.in_file(shape), self.complex)?;
        if let Some(target) = &self.measurement {
            self.write_measurement(target, &problems)?;
        }
        let range = self.range(&problems)?;
        // The picture is scale · u + offset, where the model knows u from −1 to 1.
        let (scale, offset) = match self.complex {
            true => (range[1], 0.0),
            false => ((range[1] - range[0]) / 2.0, (range[1] + range[0]) / 2.0),
        };
        let steps = arguments.steps.map(|steps| steps as usize);
        let levels = self.model.levels(steps, self.method.as_ref())?;
        let solver = match &arguments.sampler {
            Some(name) => {
                let made = samplers().make(name, &self.sampler_options);
                Some(made.map_err(Failure::input)?)
            }
            None => None,
        };
        let parts = self.parts(&problems);
        // What is wrong is said before anything is shown.
        if let Some(first) = parts.first() {
            self.method
                .parts(&first.in_units(scale, offset)?, &levels)?;
        }
        let begun = Instant::now();
        let progress = context.progress();
        progress.begin("restoring", (parts.len() * levels.steps()) as u64);
        let (mut samples, mut evaluations) = (Vec::with_capacity(parts.len()), 0);
        for part in &parts {
            let in_units = part.in_units(scale, offset)?;
            let mut observe = |step: &Step<'_>, denoised: Denoised| {
                if step.call < step.steps {
                    progress.advance(1);
                }
                match context.go_on().is_break() {
                    true => Err(Cancelled),
                    false => Ok(denoised),
                }
            };
            let options = RunOptions {
                solver: solver.clone(),
                tile: arguments.tile as usize,
                seed: arguments.seed.value(),
            };
            let method = self.method.as_ref();
            let recipe = self.recipe.as_ref();
            let found =
                self.model
                    .restore(method, recipe, &in_units, &levels, options, &mut observe)?;
            samples.push(found.sample * scale + offset);
            evaluations += found.evaluations.total();
        }
        progress.finish();
        let seconds = begun.elapsed().as_secs_f64();
        let (mut residual, mut first) = (0.0_f64, 0);
        let all = Tensor::cat(samples, 0);
        for problem in &problems {
            let rows = first..first + problem.measurement().dims()[0];
            first = rows.end;
            let x = all.clone().slice_dim(0, rows);
            residual = residual.max(problem.relative_residual(x).map_err(Failure::input)?);
        }
        let found = Samples::of(&all, self.input.origin.clone())?;
        let compared = truth
            .map(|truth| self.compared(&found, truth, range))
            .transpose()?;
        let without = match truth {
            Some(truth) => self.without_model(&problems, truth, range)?,
            None => None,
        };
        let (psnr, ssim) = compared.unwrap_or((None, None));
        let [slices, _, height, width] = self.in_file(shape);
        let restored = Restored {
            output: arguments.output.clone(),
            slices,
            width,
            height,
            operator: arguments.operator.clone(),
            operator_options: self.operator_options.clone().sorted(),
            coil_maps,
            method: arguments.method.clone(),
            method_options: self.method_options.clone().sorted(),
            sampler: arguments.sampler.clone(),
            steps: levels.steps(),
            network_evaluations: evaluations,
            noise: arguments.noise,
            range,
            residual,
            psnr,
            ssim,
            psnr_without_model: without,
            seed: arguments.seed.value(),
            device: arguments.device.choice(),
            load_seconds: self.load_seconds,
            seconds,
        };
        let found = match self.repeated() {
            true => found.mean_of_channels(),
            false => found.reshaped(self.in_file(shape)),
        };
        Ok((restored, found))
    }

    /// The problems in parts of a few slices, unless they depend on each other.
    fn parts(&self, problems: &[Problem]) -> Vec<Problem> {
        let each = problems.iter().flat_map(|problem| {
            let count = problem.measurement().dims()[0];
            let most = if self.is_volume() {
                count
            } else {
                SLICES_AT_ONCE
            };
            let firsts = (0..count).step_by(most.max(1));
            firsts.map(move |first| problem.rows(first..(first + most).min(count)))
        });
        each.collect()
    }

    /// The shape in the file: with the colours that were slices for the model, and grey that was repeated as it was.
    fn in_file(&self, [slices, channels, height, width]: [usize; 4]) -> [usize; 4] {
        match self.apart {
            true => [slices / self.colours, self.colours, height, width],
            false if self.repeated() => [slices, 1, height, width],
            false => [slices, channels, height, width],
        }
    }

    /// Whether grey was repeated for a model of colours.
    fn repeated(&self) -> bool {
        self.colours == 1 && self.model.channels() == 3
    }

    fn write_measurement(&self, target: &Target, problems: &[Problem]) -> Result<(), Failure> {
        let all = problems.iter().map(|p| p.measurement().clone()).collect();
        let samples = Samples::of(&Tensor::cat(all, 0), self.input.origin.clone())?;
        let kspace = self.arguments.operator == MRI;
        let complex = kspace || (self.complex && self.arguments.operator != CT);
        let samples = match kspace {
            true => samples,
            false if self.repeated() => samples.mean_of_channels(),
            false => {
                let shape = self.in_file(samples.shape);
                samples.reshaped(shape)
            }
        };
        target.check(samples.shape, complex)?;
        target.write(&samples, complex, [0.0, 1.0], None)
    }

    /// What the picture was made with, for a PNG.
    fn parameters(&self, restored: &Restored) -> String {
        let options = |options: &Options| match options.to_string() {
            text if text.is_empty() => text,
            text => format!(" ({text})"),
        };
        format!(
            "Operator: {}{}, Noise: {}, Method: {}{}, Steps: {}, Network evaluations: {}, Seed: {}, Version: nabla {}",
            restored.operator,
            options(&restored.operator_options),
            restored.noise,
            restored.method,
            options(&restored.method_options),
            restored.steps,
            restored.network_evaluations,
            restored.seed,
            env!("CARGO_PKG_VERSION")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_low_and_high() {
        assert_eq!(low_high("-1000,1500.5"), Ok([-1000.0, 1500.5]));
        for wrong in ["", "1", "2,1", "1,1", "a,b", "0,inf"] {
            assert!(low_high(wrong).is_err(), "{wrong}");
        }
    }
}
