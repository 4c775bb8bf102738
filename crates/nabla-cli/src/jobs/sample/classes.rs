//! `nabla sample --class`: pictures of classes, with a model of `nabla train denoiser`.

use std::path::PathBuf;
use std::time::Instant;

use nabla::base::check_writable;
use nabla::base::progress::ProgressSink;
use nabla::base::words::{self, duration};
use nabla::data::{BitDepth, Picture, WriteOptions};
use nabla::diffusion::autodiffusion::{PlannedDenoiser, PlannedModel, Space, planned_sampler};
use nabla::diffusion::block_skipping::SkippableDenoiser;
use nabla::diffusion::class_denoiser::ClassDenoiser;
use nabla::diffusion::denoiser::{Condition, Denoiser, RowConditions};
use nabla::diffusion::guidance::{ClassifierFree, Evaluations, Guidance};
use nabla::diffusion::registry::Options;
use nabla::diffusion::sampler::{Sampler, Sampling, samplers};
use nabla::diffusion::sampler_error::SamplerError;
use nabla::diffusion::seeded_noise::SeededNoise;
use serde::Serialize;

use super::Arguments;
use crate::errors::Failure;
use crate::job::{Context, Report};
use crate::picture_files::sheet;

/// What came out.
#[derive(Serialize)]
struct Sampled {
    file: PathBuf,
    width: usize,
    height: usize,
    /// The classes of the rows.
    classes: Vec<String>,
    pictures_per_class: usize,
    steps: usize,
    sampler: String,
    sampler_options: Options,
    guidance: String,
    guidance_scale: Option<f64>,
    /// Of all pictures together.
    network_evaluations: usize,
    seed: u64,
    seconds: f64,
}

/// Draws `-n` pictures of each class, and writes them as one picture with a row for each class.
pub fn sample_classes(arguments: &Arguments, context: &Context) -> Result<Report, Failure> {
    check_writable(&arguments.output)?;
    let planned = arguments.plan.read(PlannedModel::ClassDenoiser)?;
    let options = Options::parse(&arguments.sampler_option).map_err(Failure::input)?;
    let (name, options) = planned.sampler(arguments.sampler.as_deref(), options);
    let solver = |name: &str| {
        let made = match planned.file() {
            Some(_) => planned_sampler(name, &options),
            None => samplers::<4>().make(name, &options),
        };
        made.map_err(Failure::input)
    };
    // What is wrong is said before a model is loaded.
    name.as_deref().map(solver).transpose()?;
    let steps = planned.steps(arguments.steps);
    let choice = arguments.guidance.chosen(steps, planned.guidance())?;
    for flag in &choice.unused {
        context.note(&format!("{flag} has no effect on {}", choice.name));
    }
    let mut guidance: Box<dyn Guidance> = match choice.own {
        Some(guidance) => guidance,
        None => {
            let mut usual = ClassifierFree::new();
            usual.scale = choice.scale.unwrap_or(usual.scale);
            usual.rescale = choice.rescale.unwrap_or(usual.rescale);
            Box::new(usual)
        }
    };
    let device = arguments.device.open()?;
    let model = ClassDenoiser::load(&arguments.model, &device).map_err(Failure::input)?;
    let name = name.as_deref().unwrap_or(model.usual_sampler());
    let solver = solver(name)?;
    let classes = classes(&model, &arguments.class)?;
    let space = Space {
        steps: model.training_steps(),
        blocks: model.blocks(),
    };
    planned.check(space)?;
    let levels = match planned.file() {
        Some(file) => {
            let all = model.levels(space.steps).map_err(Failure::input)?;
            file.steps.levels(&all).map_err(Failure::input)?
        }
        None => model.levels(steps).map_err(Failure::input)?,
    };
    let skipping = planned
        .file()
        .map(|file| PlannedDenoiser::new(&model, &file.steps, &levels));
    let skipping = skipping.transpose().map_err(Failure::input)?;
    let asked: &dyn Denoiser = match &skipping {
        Some(planned) => planned,
        None => &model,
    };
    let sampler = Sampler::new(solver, levels.clone()).map_err(Failure::input)?;

    let progress = context.progress();
    progress.begin("sampling", classes.len() as u64);
    let begun = Instant::now();
    let count = arguments.count as usize;
    let mut rows = Vec::with_capacity(classes.len());
    let mut evaluations = Evaluations::new();
    for &class in &classes {
        context.check()?;
        // Every class has its own noise, which does not depend on the other classes.
        let mut noise = SeededNoise::new(arguments.seed.value(), class as u64);
        let start = model.start(count, &levels, &mut noise);
        let rows_of = RowConditions::new(asked, vec![Condition::Given(class); count]);
        let run = Sampling::of(&rows_of)
            .guided_by(guidance.as_mut())
            .counted_in(&mut evaluations);
        rows.push(run.run(&sampler, start, &mut noise).map_err(failure)?);
        progress.advance(1);
    }
    progress.finish();
    let raster = sheet(rows);
    let [width, height] = [raster.width(), raster.height()];
    let names: Vec<String> = classes
        .iter()
        .map(|&class| model.config().classes[class].clone())
        .collect();
    let mut picture = Picture::new(raster, BitDepth::Eight);
    let text = format!(
        "Classes: {}, Steps: {steps}, Sampler: {name}, Guidance: {}{}{}, Network evaluations: {}, Seed: {}, \
         Model: {}",
        names.join("; "),
        choice.name,
        arguments.guidance.parameters(),
        planned.parameters(),
        evaluations.total(),
        arguments.seed.value(),
        arguments.model.display()
    );
    picture.metadata.texts = vec![("parameters".to_owned(), text)];
    picture.write(&arguments.output, &WriteOptions::default())?;

    let sampled = Sampled {
        file: arguments.output.clone(),
        width,
        height,
        classes: names,
        pictures_per_class: count,
        steps,
        sampler: name.to_owned(),
        sampler_options: options.sorted(),
        guidance: choice.name,
        guidance_scale: choice.scale,
        network_evaluations: evaluations.total(),
        seed: arguments.seed.value(),
        seconds: begun.elapsed().as_secs_f64(),
    };
    context.report(&sampled, || {
        format!(
            "{}: {} of each of {} in {}, {} of the network\n",
            sampled.file.display(),
            sampled.pictures_per_class,
            sampled.classes.join(", "),
            duration(sampled.seconds),
            words::count(sampled.network_evaluations, "evaluation"),
        )
    })
}

/// The numbers of the chosen classes.
pub fn classes(model: &ClassDenoiser, chosen: &[String]) -> Result<Vec<usize>, Failure> {
    let mut numbers = Vec::new();
    for name in chosen {
        match name.as_str() {
            "all" => numbers.extend(0..model.config().classes.len()),
            name => numbers.push(model.config().class(name).map_err(Failure::input)?),
        }
    }
    Ok(numbers)
}

fn failure(error: SamplerError) -> Failure {
    match error {
        SamplerError::Cancelled => Failure::interrupted(),
        other => Failure::input(other),
    }
}
