//! `nabla search steps`: AutoDiffusion, an evolutionary search for the steps of a run and the blocks to skip.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::base::write_bytes_atomically;
use nabla::diffusion::autodiffusion::{
    Behaviour, Budget, FixedPlan, PLAN_FILE, Plan, PlanFile, PlanFileError, PlanScore, PlanTrial,
    ScoringNoise, Search, SearchConfig, SearchError, SearchReport, SearchState, planned_sampler,
};
use nabla::diffusion::class_denoiser::ClassDenoiser;
use nabla::diffusion::guidance_trial::GuidanceTrials;
use nabla::diffusion::registry::Options;
use nabla::diffusion::sampler::samplers;
use serde::{Deserialize, Serialize};

use crate::choice::choice;
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::sample::size;
use crate::recipe_file::create_folder;
use crate::seeds::SeedFlag;

mod judged;
mod told;

use judged::{Judged, with_judged};

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// A model of `nabla train denoiser`, or a folder of Stable Diffusion in the diffusers layout
    #[arg(short, long, value_name = "DIR")]
    model: PathBuf,
    /// For a model of `nabla train denoiser`: the classifier that judges, of `nabla train model` on the same pictures
    #[arg(long, value_name = "DIR", required_unless_present = "reference")]
    judge: Option<PathBuf>,
    /// Real pictures: `digits` or `fashion` (built in), or a folder (MNIST, Fashion-MNIST, CIFAR-10); their
    /// training part is used, of which at most 10,000
    #[arg(long, value_name = "SOURCE", default_value = "fashion")]
    data: String,
    /// For Stable Diffusion: a folder of pictures like those that it should draw
    #[arg(long, value_name = "DIR", requires_all = ["encoder", "prompt"], conflicts_with_all = ["judge", "data"])]
    reference: Option<PathBuf>,
    /// CLIP's encoder of pictures, which judges them: a folder with config.json and model.safetensors, as that of an
    /// IP-Adapter
    #[arg(long, value_name = "DIR", requires = "reference")]
    encoder: Option<PathBuf>,
    /// What the pictures show; may be given several times, for pictures in turn
    #[arg(long, value_name = "TEXT", requires = "reference")]
    prompt: Vec<String>,
    /// What they should not show
    #[arg(long, value_name = "TEXT", requires = "reference")]
    negative: Option<String>,
    /// Pixels of a picture, such as 512 or 768x512 (width x height) [default: the size that the model was trained on]
    #[arg(long, value_name = "SIZE", value_parser = size, requires = "reference")]
    size: Option<[usize; 2]>,
    /// The budget: steps of the whole network
    #[arg(
        long,
        value_name = "K",
        required_unless_present = "units",
        conflicts_with = "units"
    )]
    steps: Option<usize>,
    /// The budget: computed blocks of the network in all steps together; skipped blocks pay for more steps
    #[arg(long, value_name = "N")]
    units: Option<usize>,
    /// Rounds of the search [default: 10, with --units 15]
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Plans in a round
    #[arg(long, value_name = "N", default_value_t = 50)]
    population: usize,
    /// Rounds in which only steps are searched, with --units
    #[arg(long, value_name = "N", default_value_t = 5, requires = "units")]
    first_stage: usize,
    /// The highest share of blocks that a step skips, with --units; small networks need more than the paper's 0.1
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, requires = "units")]
    most_pruned: f64,
    /// How plans are made
    #[arg(long, value_parser = choice::<Behaviour>(), default_value = "evolution")]
    search: Behaviour,
    /// The noise that plans are scored with
    #[arg(long, value_parser = choice::<ScoringNoise>(), default_value = "common")]
    noise: ScoringNoise,
    /// Pictures for the score of a plan
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..))]
    pictures: u32,
    /// Pictures for the comparison at the end, from other noise
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(10..))]
    final_pictures: u32,
    /// The guidance [default: none, with --guidance-scale classifier-free; for Stable Diffusion classifier-free with
    /// 7.5]
    #[arg(long, value_name = "NAME")]
    guidance: Option<String>,
    /// Its scale; a plan is good at the scale that it was searched at
    #[arg(long, value_name = "SCALE")]
    guidance_scale: Option<f64>,
    /// The sampler; a plan is good for the sampler that it was searched with
    #[arg(long, value_name = "NAME", default_value = DDIM, value_parser = names())]
    sampler: String,
    /// An option of the sampler; may be given several times [default: for ddim clip=1 and rederive_epsilon=true, as in
    /// the paper; for Stable Diffusion none]
    #[arg(long, value_name = "NAME=VALUE")]
    sampler_option: Vec<String>,
    #[command(flatten)]
    seed: SeedFlag<0>,
    /// The folder for the plan and what led to it, where an interrupted search continues
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceFlag,
}

/// The paper's sampler.
const DDIM: &str = "ddim";

const CLASSIFIER_FREE: &str = "classifier-free";
/// Its usual scale for Stable Diffusion.
const TEXT_SCALE: f64 = 7.5;

fn names() -> clap::builder::PossibleValuesParser {
    samplers::<4>().names().into()
}

/// The name of the file with the search.
const SEARCH: &str = "search.json";

/// How pictures are judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Judgement {
    /// Those of classes, by a classifier.
    Classifier { judge: PathBuf, data: String },
    /// Those of texts, by CLIP.
    Pictures {
        reference: PathBuf,
        encoder: PathBuf,
        prompts: Vec<String>,
        negative: Option<String>,
        size: Option<[usize; 2]>,
    },
}

/// What determines a score besides the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    model: PathBuf,
    judgement: Judgement,
    pictures: usize,
    final_pictures: usize,
    guidance: String,
    guidance_scale: Option<f64>,
    sampler: String,
    sampler_options: Options,
    search: SearchConfig,
}

/// A row of the comparison at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Compared {
    /// `found`, or the name of a fixed plan.
    name: String,
    plan: Plan,
    #[serde(flatten)]
    trial: PlanTrial,
}

/// `search.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    settings: Settings,
    state: SearchState,
    /// Seconds of scoring.
    seconds: f64,
    /// Evaluations of the network for one picture of each candidate.
    evaluations: f64,
    compared: Vec<Compared>,
}

/// What came out.
#[derive(Serialize)]
struct Found {
    plan: PathBuf,
    steps: Plan,
    /// Blocks of the network.
    blocks: usize,
    /// Computed blocks in all steps together.
    units: usize,
    judge: String,
    report: SearchReport,
    compared: Vec<Compared>,
    /// Pictures that the search has drawn.
    pictures: usize,
    /// Evaluations of the network in the search.
    network_evaluations: f64,
    /// Seconds of the search.
    seconds: f64,
}

impl From<SearchError> for Failure {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::Score(_) | SearchError::NoScore(_) => Self::run(error),
            other => Self::input(other),
        }
    }
}

impl From<PlanFileError> for Failure {
    fn from(error: PlanFileError) -> Self {
        Self::input(error)
    }
}

impl Arguments {
    fn settings(&self) -> Result<Settings, Failure> {
        let budget = match (self.steps, self.units) {
            (Some(steps), _) => Budget::Steps(steps),
            (None, units) => Budget::Units(units.unwrap_or_default()),
        };
        let search = SearchConfig::new(budget);
        let epochs = self.epochs.unwrap_or(search.epochs);
        let search = SearchConfig {
            epochs,
            first_stage: self.first_stage,
            most_pruned: self.most_pruned,
            noise: self.noise,
            behaviour: self.search,
            seed: self.seed.value(),
            ..search.with_population(self.population)
        };
        let judgement = self.judgement()?;
        let of_texts = matches!(judgement, Judgement::Pictures { .. });
        let given = Options::parse(&self.sampler_option).map_err(Failure::input)?;
        let sampler_options = match (self.sampler.as_str(), given.is_empty()) {
            (DDIM, true) if !of_texts => Options::new()
                .with("clip", 1.0)
                .with("rederive_epsilon", true),
            _ => given.sorted(),
        };
        let (guidance, scale) = match (&self.guidance, self.guidance_scale) {
            (Some(name), scale) => (name.as_str(), scale),
            (None, None) if !of_texts => ("none", None),
            (None, scale) => (CLASSIFIER_FREE, Some(scale.unwrap_or(TEXT_SCALE))),
        };
        let scaled = GuidanceTrials::has_scale(guidance)?;
        let guidance_scale = match (scale, scaled) {
            (None, true) => {
                return Err(Failure::input(format!(
                    "the guidance {guidance} has a scale: give it with --guidance-scale"
                )));
            }
            (Some(_), false) => {
                return Err(Failure::input(format!(
                    "the guidance {guidance} has no scale, but --guidance-scale is given"
                )));
            }
            (scale, _) => scale,
        };
        Ok(Settings {
            model: self.model.clone(),
            judgement,
            pictures: self.pictures as usize,
            final_pictures: self.final_pictures as usize,
            guidance: guidance.to_owned(),
            guidance_scale,
            sampler: self.sampler.clone(),
            sampler_options,
            search,
        })
    }

    fn judgement(&self) -> Result<Judgement, Failure> {
        let of_classes = ClassDenoiser::is_folder(&self.model);
        let model = self.model.display();
        match (&self.judge, &self.reference, &self.encoder) {
            (Some(judge), None, _) if of_classes || !self.model.is_dir() => {
                Ok(Judgement::Classifier {
                    judge: judge.clone(),
                    data: self.data.clone(),
                })
            }
            (None, Some(reference), Some(encoder)) if !of_classes => Ok(Judgement::Pictures {
                reference: reference.clone(),
                encoder: encoder.clone(),
                prompts: self.prompt.clone(),
                negative: self.negative.clone(),
                size: self.size,
            }),
            _ if of_classes => Err(Failure::input(format!(
                "the model {model} draws pictures of classes: give a classifier with --judge, not --reference"
            ))),
            _ => Err(Failure::input(format!(
                "the model {model} is not one of nabla train denoiser: give --reference, --encoder and --prompt, not \
                 --judge"
            ))),
        }
    }

    /// The search that an earlier run has left.
    fn begun(&self, settings: &Settings) -> Result<Option<Stored>, Failure> {
        let path = self.out.join(SEARCH);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path)
            .map_err(|e| Failure::input_because(format!("cannot read {}", path.display()), e))?;
        let stored: Stored = serde_json::from_str(&text).map_err(|e| {
            Failure::input_because(format!("{} holds no search", path.display()), e)
        })?;
        let same = stored.settings == *settings && *stored.state.config() == settings.search;
        match same {
            true => Ok(Some(stored)),
            false => Err(Failure::input(format!(
                "{} holds a search with other settings: choose another folder, or the settings in that file",
                path.display()
            ))),
        }
    }

    fn store(&self, stored: &Stored) -> Result<(), Failure> {
        let json = serde_json::to_vec(stored).map_err(Failure::run)?;
        Ok(write_bytes_atomically(&self.out.join(SEARCH), &json)?)
    }
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let settings = self.settings()?;
        // What is wrong is said before anything is loaded.
        planned_sampler::<4>(&settings.sampler, &settings.sampler_options)
            .map_err(Failure::input)?;
        let begun = self.begun(&settings)?;
        let device = self.device.open()?;
        with_judged(&settings, &device, |model| {
            self.found(context, &settings, begun, model)
        })
    }
}

impl Arguments {
    /// Searches from where an earlier run has stopped, and compares what was found.
    fn found(
        &self,
        context: &Context,
        settings: &Settings,
        begun: Option<Stored>,
        model: &dyn Judged,
    ) -> Result<Report, Failure> {
        let space = model.space()?;
        let (mut search, mut stored) = match begun {
            Some(stored) if stored.state.space() == space => {
                (Search::resume(stored.state.clone())?, stored)
            }
            Some(_) => {
                return Err(Failure::input(format!(
                    "{} holds a search for another model",
                    self.out.join(SEARCH).display()
                )));
            }
            None => {
                let search = Search::new(settings.search.clone(), space)?;
                let stored = Stored {
                    settings: settings.clone(),
                    state: search.state().clone(),
                    seconds: 0.0,
                    evaluations: 0.0,
                    compared: Vec::new(),
                };
                (search, stored)
            }
        };
        create_folder(&self.out)?;
        self.scored(context, model, &mut search, &mut stored)?;
        let report = search.report()?;
        self.compared(context, model, &report, &mut stored)?;

        let name = model.judge();
        let file = PlanFile {
            model: model.kind(),
            space,
            sampler: settings.sampler.clone(),
            sampler_options: settings.sampler_options.clone(),
            guidance: settings.guidance.clone(),
            guidance_scale: settings.guidance_scale,
            score: Some(PlanScore {
                name: format!("FD ({name})"),
                value: report.best.score,
                pictures: settings.pictures,
            }),
            steps: report.best.plan.clone(),
        };
        let path = self.out.join(PLAN_FILE);
        file.write(&path)?;
        let csv = told::csv(&stored.state, space.blocks)?;
        write_bytes_atomically(&self.out.join("history.csv"), csv.as_bytes())?;
        told::draw(&self.out, &report, &name)?;
        let found = Found {
            plan: path,
            units: report.best.plan.cost(space.blocks),
            blocks: space.blocks,
            steps: report.best.plan.clone(),
            judge: name,
            pictures: report.evaluations * settings.pictures,
            network_evaluations: stored.evaluations * settings.pictures as f64,
            seconds: stored.seconds,
            compared: stored.compared,
            report,
        };
        context.report(&found, || told::text(&found))
    }

    /// Scores candidate after candidate to the end of the search.
    fn scored(
        &self,
        context: &Context,
        model: &dyn Judged,
        search: &mut Search,
        stored: &mut Stored,
    ) -> Result<(), Failure> {
        let progress = context.progress();
        progress.begin(
            "searching",
            stored.settings.search.most_evaluations() as u64,
        );
        progress.advance(stored.state.evaluations() as u64);
        while let Some(candidate) = search.candidate()? {
            context.check()?;
            let begun = Instant::now();
            let (plan, seed, count) = (&candidate.plan, candidate.seed, stored.settings.pictures);
            let trial = model.run(plan, count, seed, &mut |_| Ok(context.check()?));
            // An interruption is reported as one.
            context.check()?;
            let trial = trial?;
            search.record(trial.frechet_distance.unwrap_or(f64::NAN))?;
            stored.seconds += begun.elapsed().as_secs_f64();
            stored.evaluations += trial.evaluations;
            stored.state = search.state().clone();
            self.store(stored)?;
            progress.advance(1);
        }
        progress.finish();
        Ok(())
    }

    /// Judges the winner and the fixed plans of the same cost from other noise.
    fn compared(
        &self,
        context: &Context,
        model: &dyn Judged,
        report: &SearchReport,
        stored: &mut Stored,
    ) -> Result<(), Failure> {
        let (space, count) = (model.space()?, stored.settings.final_pictures);
        let config = &stored.settings.search;
        let (seed, whole) = (config.final_seed(), config.budget.whole_steps(space));
        let mut plans = vec![("found", report.best.plan.clone())];
        for fixed in FixedPlan::ALL {
            // Not every number of steps has a stride.
            if let Ok(plan) = fixed.plan(space.steps, whole) {
                plans.push((told::name(fixed), plan));
            }
        }
        let progress = context.progress();
        progress.begin("comparing", plans.len() as u64);
        for (name, plan) in plans {
            if stored.compared.iter().any(|row| row.name == name) {
                progress.advance(1);
                continue;
            }
            context.check()?;
            let trial = model.run(&plan, count, seed, &mut |_| Ok(context.check()?));
            context.check()?;
            stored.compared.push(Compared {
                name: name.to_owned(),
                plan,
                trial: trial?,
            });
            self.store(stored)?;
            progress.advance(1);
        }
        progress.finish();
        Ok(())
    }
}
