//! `nabla search guidance`: a cheaper guidance for a model, fitted or searched: LinearAG, or a policy.

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Tensor;
use clap::Args;
use nabla::base::check_writable;
use nabla::base::progress::ProgressSink;
use nabla::base::words::duration;
use nabla::diffusion::class_denoiser::ClassDenoiser;
use nabla::diffusion::ddim::Ddim;
use nabla::diffusion::denoiser::{Condition, RowConditions};
use nabla::diffusion::guidance::{
    CfgTrajectory, ClassifierFree, LinearCoefficients, LinearStep, PolicySearch, StoredGuidance,
    StoredGuidanceError, TrajectoryRecorder,
};
use nabla::diffusion::sampler::{Sampler, Sampling};
use nabla::diffusion::sampler_error::OwnError;
use nabla::diffusion::seeded_noise::SeededNoise;
use serde::Serialize;

use crate::choice::choice;
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::seeds::SeedFlag;

/// What is sought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Linear,
    Policy,
}

nabla::base::choices! {
    Kind: "kind" {
        "linear" => Self::Linear, "LinearAG: predictions without the class, computed from earlier ones, in half of the first \
                                   steps; none in the second half";
        "policy" => Self::Policy, "What happens in each step, found by following the gradient of the pictures' difference";
    }
}

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// A model of `nabla train denoiser`
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What is sought
    #[arg(long, value_parser = choice::<Kind>(), default_value = "linear")]
    kind: Kind,
    /// The scale of the classifier-free guidance that is imitated
    #[arg(long, value_name = "SCALE", default_value_t = 4.0)]
    guidance_scale: f64,
    /// Steps of DDIM; the guidance is for this number only
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..))]
    steps: u32,
    /// Pictures that are imitated, of all classes in turn
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pictures: u32,
    /// For a policy: the most evaluations of the network for a picture [default: three quarters of classifier-free
    /// guidance's]
    #[arg(long, value_name = "N")]
    evaluations: Option<usize>,
    /// For a policy: updates of the search
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// The file to write, for `nabla sample --guidance-file`
    #[arg(short, long, value_name = "OUT", default_value = "guidance.json")]
    output: PathBuf,
    #[command(flatten)]
    seed: SeedFlag,
    #[command(flatten)]
    device: DeviceFlag,
}

impl From<StoredGuidanceError> for Failure {
    fn from(error: StoredGuidanceError) -> Self {
        Self::input(error)
    }
}

/// What was found.
#[derive(Serialize)]
struct Found {
    file: PathBuf,
    kind: &'static str,
    guidance_scale: f64,
    steps: usize,
    /// Of the network, for a picture.
    evaluations: usize,
    of_classifier_free: usize,
    /// Of LinearAG: the least share of an estimated prediction that is explained, on other pictures.
    explained: Option<f64>,
    /// Root mean square of the difference to the pictures of classifier-free guidance, from other noise.
    distance: f64,
    seed: u64,
    seconds: f64,
}

/// The model with the classes of a batch.
struct Batches<'a> {
    model: &'a ClassDenoiser,
    sampler: Sampler,
    count: usize,
    seed: u64,
}

impl Batches<'_> {
    fn rows(&self) -> RowConditions<'_, 4> {
        let classes = self.model.config().classes.len();
        let conditions = (0..self.count).map(|i| Condition::Given(i % classes));
        RowConditions::new(self.model, conditions.collect())
    }

    /// The noise of a batch: 0 to fit, 1 to try.
    fn start(&self, batch: u64) -> Tensor<4> {
        let mut noise = SeededNoise::new(self.seed, batch);
        let levels = self.sampler.levels();
        self.model.start(self.count, levels, &mut noise)
    }

    /// What classifier-free guidance sees on the way, and its pictures.
    fn recorded(
        &self,
        guidance: ClassifierFree,
        batch: u64,
    ) -> Result<(CfgTrajectory, Tensor<4>), Failure> {
        let mut recorder = TrajectoryRecorder::<4>::new(guidance);
        let rows = self.rows();
        let run = Sampling::of(&rows).guided_by(&mut recorder);
        let mut noise = SeededNoise::new(self.seed, batch);
        let pictures = run.run(&self.sampler, self.start(batch), &mut noise);
        let pictures = pictures.map_err(Failure::input)?;
        Ok((recorder.trajectory().clone(), pictures))
    }
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        check_writable(&self.output)?;
        let steps = self.steps as usize;
        let of_classifier_free = 2 * steps;
        let budget = self.evaluations.unwrap_or(3 * steps / 2);
        if !(steps..=of_classifier_free).contains(&budget) {
            return Err(Failure::input(format!(
                "--evaluations is {budget}, but it must be from {steps}, one for each step, to {of_classifier_free}"
            )));
        }
        let device = self.device.open()?;
        let model = ClassDenoiser::load(&self.model, &device).map_err(Failure::input)?;
        let levels = model.levels(steps).map_err(Failure::input)?;
        let batches = Batches {
            model: &model,
            sampler: Sampler::new(Ddim::new(), levels).map_err(Failure::input)?,
            count: self.pictures as usize,
            seed: self.seed.value(),
        };
        let free = ClassifierFree::new().with_scale(self.guidance_scale);
        let progress = context.progress();
        let begun = Instant::now();
        progress.begin("looking for a guidance", 3);
        let (trajectory, pictures) = batches.recorded(free, 1)?;
        progress.advance(1);
        context.check()?;
        let (stored, explained) = match self.kind {
            Kind::Linear => {
                let failed = |error: OwnError| Failure::run(error);
                let fitting = [batches.recorded(free, 0)?.0];
                let coefficients = LinearCoefficients::fit(&fitting).map_err(failed)?;
                let explained = coefficients.explained(&[trajectory]).map_err(failed)?;
                let plan = LinearStep::alternating(steps);
                let estimated = plan.iter().zip(&explained);
                let estimated = estimated.filter(|(step, _)| **step == LinearStep::Estimated);
                let least = estimated.map(|(_, share)| *share).fold(1.0, f64::min);
                let stored = StoredGuidance::Linear {
                    guidance: free,
                    plan,
                    coefficients,
                };
                (stored, Some(least))
            }
            Kind::Policy => {
                let search = PolicySearch {
                    epochs: self.epochs as usize,
                    seed: self.seed.value(),
                    ..PolicySearch::new(self.guidance_scale, budget)
                };
                let tracked = device.clone().autodiff();
                let model = ClassDenoiser::load(&self.model, &tracked).map_err(Failure::input)?;
                let batches = Batches {
                    model: &model,
                    sampler: batches.sampler.clone(),
                    ..batches
                };
                let starts = [batches.start(0)];
                let found = search.run(&batches.rows(), &batches.sampler, &starts);
                (
                    StoredGuidance::Policy(found.map_err(Failure::input)?.policy),
                    None,
                )
            }
        };
        progress.advance(1);
        context.check()?;
        let mut guidance = stored.init::<4>().map_err(Failure::run)?;
        let rows = batches.rows();
        let run = Sampling::of(&rows).guided_by(guidance.as_mut());
        let start = batches.start(1);
        let tried = run.run(
            &batches.sampler,
            start,
            &mut SeededNoise::new(batches.seed, 1),
        );
        let difference = tried.map_err(Failure::input)? - pictures;
        let distance = difference.square().mean().sqrt().into_scalar::<f32>();
        progress.finish();
        stored.write(&self.output)?;
        let found = Found {
            file: self.output.clone(),
            kind: match self.kind {
                Kind::Linear => "linear",
                Kind::Policy => "policy",
            },
            guidance_scale: self.guidance_scale,
            steps,
            evaluations: stored.evaluations(),
            of_classifier_free,
            explained,
            distance: f64::from(distance),
            seed: self.seed.value(),
            seconds: begun.elapsed().as_secs_f64(),
        };
        context.report(&found, || {
            let explained = explained.map_or(String::new(), |share| {
                format!(", explains at least {:.1} % of what it estimates", 100.0 * share)
            });
            format!(
                "{}: {} evaluations of the network for a picture instead of {of_classifier_free}, RMS difference {distance:.4}\
                 {explained} ({})\nuse it with: nabla sample --steps {steps} --sampler ddim --guidance-file {}\n",
                found.file.display(),
                found.evaluations,
                duration(found.seconds),
                found.file.display()
            )
        })
    }
}
