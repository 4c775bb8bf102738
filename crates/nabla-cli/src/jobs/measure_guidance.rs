//! `nabla measure guidance`: every guidance at several scales, judged by a classifier.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use nabla::base::progress::ProgressSink;
use nabla::base::words::duration;
use nabla::base::write_bytes_atomically;
use nabla::claims::plot::{LinePlot, Series, Theme, line_plot, write_svg};
use nabla::diffusion::class_denoiser::ClassDenoiser;
use nabla::diffusion::guidance_trial::{GuidanceTrials, Trial, TrialConfig, TrialError};
use nabla::diffusion::registry::Options;
use nabla::diffusion::sample_quality::{Judge, Quality};
use nabla::train::data_set::{DataConfig, Standardization};
use nabla::train::trained_classifier::TrainedClassifier;
use serde::{Deserialize, Serialize};

use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::output::table;
use crate::recipe_file::create_folder;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// A model of `nabla train denoiser`
    #[arg(short, long, value_name = "DIR")]
    model: PathBuf,
    /// The classifier that judges, of `nabla train model` on the same pictures
    #[arg(long, value_name = "DIR")]
    judge: PathBuf,
    /// Real pictures: `digits` or `fashion` (built in), or a folder (MNIST, Fashion-MNIST, CIFAR-10); their
    /// training part is used, of which at most 10,000
    #[arg(long, value_name = "SOURCE", default_value = "fashion")]
    data: String,
    /// A weaker model of the same pictures, for autoguidance
    #[arg(long, value_name = "DIR")]
    weak_model: Option<PathBuf>,
    /// A classifier for gradient-free classifier guidance; not the judge
    #[arg(long, value_name = "DIR")]
    guide: Option<PathBuf>,
    /// The guidances [default: all that are possible]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    guidances: Vec<String>,
    /// Scales as those of classifier-free guidance
    #[arg(
        long,
        value_name = "SCALE,…",
        value_delimiter = ',',
        default_value = "1,1.5,2,3,5"
    )]
    scales: Vec<f64>,
    /// Pictures for each guidance and scale
    #[arg(short = 'n', long = "count", value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(10..))]
    count: u32,
    /// Steps of the sampler
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// The sampler
    #[arg(long, value_name = "NAME", default_value = "ddim")]
    sampler: String,
    /// The number of seeds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// A folder for `trials.json`, `guidance.csv` and the plots, where an interrupted measurement continues
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceFlag,
}

/// What determines a trial besides guidance, scale and seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Settings {
    model: PathBuf,
    judge: PathBuf,
    data: String,
    weak_model: Option<PathBuf>,
    guide: Option<PathBuf>,
    trial: TrialConfig,
}

/// A trial that was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Cell {
    guidance: String,
    /// None for a guidance without a scale.
    scale: Option<f64>,
    seed: u64,
    #[serde(flatten)]
    trial: Trial,
}

/// `trials.json`, and what `--json` prints.
#[derive(Serialize, Deserialize)]
struct Trials {
    settings: Settings,
    cells: Vec<Cell>,
}

/// The name of the file with the trials.
const TRIALS: &str = "trials.json";

/// The most real pictures: the distances between all of them are computed.
const REAL: usize = 10_000;

impl From<TrialError> for Failure {
    fn from(error: TrialError) -> Self {
        match error {
            TrialError::Sampler(_) | TrialError::Quality(_) => Self::run(error),
            other => Self::input(other),
        }
    }
}

impl Arguments {
    fn settings(&self) -> Settings {
        Settings {
            model: self.model.clone(),
            judge: self.judge.clone(),
            data: self.data.clone(),
            weak_model: self.weak_model.clone(),
            guide: self.guide.clone(),
            trial: TrialConfig {
                pictures: self.count as usize,
                steps: self.steps as usize,
                sampler: self.sampler.clone(),
                ..TrialConfig::default()
            },
        }
    }

    /// The trials that an earlier run has left.
    fn begun(&self) -> Result<Trials, Failure> {
        let none = Trials {
            settings: self.settings(),
            cells: Vec::new(),
        };
        let Some(folder) = &self.out else {
            return Ok(none);
        };
        let path = folder.join(TRIALS);
        if !path.exists() {
            create_folder(folder)?;
            return Ok(none);
        }
        let text = fs::read_to_string(&path)
            .map_err(|e| Failure::input_because(format!("cannot read {}", path.display()), e))?;
        let trials: Trials = serde_json::from_str(&text).map_err(|e| {
            Failure::input_because(format!("{} holds no trials", path.display()), e)
        })?;
        match trials.settings == none.settings {
            true => Ok(trials),
            false => Err(Failure::input(format!(
                "{} holds trials with other settings: choose another folder, or the settings in that file",
                path.display()
            ))),
        }
    }
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let device = self.device.open()?;
        let model = ClassDenoiser::load(&self.model, &device).map_err(Failure::input)?;
        let weak = self.weak_model.as_deref();
        let weak = weak.map(|folder| ClassDenoiser::load(folder, &device));
        let weak = weak.transpose().map_err(Failure::input)?;
        let classifier =
            |folder: &Path| TrainedClassifier::load(folder, &device).map_err(Failure::input);
        let judging = classifier(&self.judge)?;
        let guide = self.guide.as_deref().map(classifier).transpose()?;
        let real = DataConfig {
            source: self.data.clone(),
            standardization: Standardization::None,
            limit: Some(REAL),
            ..DataConfig::default()
        };
        let real = real.open().map_err(Failure::input)?;
        let judge = Judge::new(&judging, &real.training, &device).map_err(Failure::input)?;
        let trials = GuidanceTrials {
            model: &model,
            weak: weak.as_ref(),
            guide: guide.as_ref(),
            judge: &judge,
            config: self.settings().trial,
        };
        let names = match self.guidances.as_slice() {
            [] => trials.guidances(),
            chosen => chosen.to_vec(),
        };
        let mut planned = Vec::new();
        for seed in 0..self.seeds {
            for name in &names {
                let scales: Vec<Option<f64>> = match GuidanceTrials::has_scale(name)? {
                    true => self.scales.iter().copied().map(Some).collect(),
                    false => vec![None],
                };
                planned.extend(scales.into_iter().map(|scale| (name, scale, seed)));
            }
        }
        let mut measured = self.begun()?;
        let progress = context.progress();
        progress.begin("drawing", planned.len() as u64 * u64::from(self.count));
        for (name, scale, seed) in planned {
            context.check()?;
            let same =
                |cell: &Cell| cell.guidance == *name && cell.scale == scale && cell.seed == seed;
            if measured.cells.iter().any(same) {
                progress.advance(u64::from(self.count));
                continue;
            }
            let trial = trials.run(
                name,
                &Options::new(),
                scale.unwrap_or(1.0),
                seed,
                &mut |count| {
                    progress.advance(count as u64);
                    Ok(context.check()?)
                },
            );
            // An interruption is reported as one.
            context.check()?;
            measured.cells.push(Cell {
                guidance: name.clone(),
                scale,
                seed,
                trial: trial?,
            });
            if let Some(folder) = &self.out {
                let json = serde_json::to_vec_pretty(&measured).map_err(Failure::run)?;
                write_bytes_atomically(&folder.join(TRIALS), &json)?;
            }
        }
        progress.finish();
        let standings = standings(&measured.cells);
        let judge = judging.config().model.name();
        if let Some(folder) = &self.out {
            write_bytes_atomically(
                &folder.join("guidance.csv"),
                csv(&measured.cells).as_bytes(),
            )?;
            draw(folder, &standings, &judge)?;
        }
        context.report(&measured, || told(&standings, &judge, &self.out))
    }
}

/// A guidance at a scale: the means over the seeds.
struct Standing {
    guidance: String,
    scale: Option<f64>,
    trial: Trial,
}

fn standings(cells: &[Cell]) -> Vec<Standing> {
    let mut standings: Vec<Standing> = Vec::new();
    for cell in cells {
        let same = |s: &Standing| s.guidance == cell.guidance && s.scale == cell.scale;
        if standings.iter().any(same) {
            continue;
        }
        let of_it: Vec<&Trial> = cells
            .iter()
            .filter(|c| c.guidance == cell.guidance && c.scale == cell.scale)
            .map(|c| &c.trial)
            .collect();
        let mean = |value: fn(&Trial) -> f64| {
            of_it.iter().map(|trial| value(trial)).sum::<f64>() / of_it.len() as f64
        };
        standings.push(Standing {
            guidance: cell.guidance.clone(),
            scale: cell.scale,
            trial: Trial {
                quality: Quality {
                    pictures: cell.trial.quality.pictures,
                    frechet_distance: mean(|t| t.quality.frechet_distance),
                    precision: mean(|t| t.quality.precision),
                    recall: mean(|t| t.quality.recall),
                    accuracy: mean(|t| t.quality.accuracy),
                    contrast: mean(|t| t.quality.contrast),
                    clipped: mean(|t| t.quality.clipped),
                },
                evaluations: mean(|t| t.evaluations),
                seconds: mean(|t| t.seconds),
            },
        });
    }
    // The order of the trials, but with the scales of a guidance together.
    let first = |name: &str| cells.iter().position(|cell| cell.guidance == name);
    standings.sort_by_key(|s| first(&s.guidance));
    standings
}

fn scale_text(scale: Option<f64>) -> String {
    scale.map_or("-".to_owned(), |scale| scale.to_string())
}

fn told(standings: &[Standing], judge: &str, out: &Option<PathBuf>) -> String {
    let head = [
        "guidance".to_owned(),
        "scale".to_owned(),
        format!("FD ({judge})"),
        "precision".to_owned(),
        "recall".to_owned(),
        "right class, %".to_owned(),
        "contrast".to_owned(),
        "clipped, %".to_owned(),
        "evaluations".to_owned(),
        "time".to_owned(),
    ];
    let row = |s: &Standing| {
        let Trial {
            quality,
            evaluations,
            seconds,
        } = &s.trial;
        vec![
            s.guidance.clone(),
            scale_text(s.scale),
            format!("{:.3}", quality.frechet_distance),
            format!("{:.3}", quality.precision),
            format!("{:.3}", quality.recall),
            format!("{:.1}", 100.0 * quality.accuracy),
            format!("{:.3}", quality.contrast),
            format!("{:.1}", 100.0 * quality.clipped),
            format!("{evaluations:.1}"),
            duration(*seconds),
        ]
    };
    let rows: Vec<_> = std::iter::once(head.to_vec())
        .chain(standings.iter().map(row))
        .collect();
    let mut text = table(&rows);
    if let Some(folder) = out {
        text += &format!(
            "{TRIALS}, guidance.csv, accuracy.svg and recall.svg in {}\n",
            folder.display()
        );
    }
    text
}

fn csv(cells: &[Cell]) -> String {
    let head = "guidance,scale,seed,pictures,frechet_distance,precision,recall,accuracy,contrast,clipped,\
                evaluations,seconds\n";
    let row = |cell: &Cell| {
        let Trial {
            quality: q,
            evaluations,
            seconds,
        } = &cell.trial;
        format!(
            "{},{},{},{},{},{},{},{},{},{},{evaluations},{seconds}\n",
            cell.guidance,
            cell.scale.map_or(String::new(), |scale| scale.to_string()),
            cell.seed,
            q.pictures,
            q.frechet_distance,
            q.precision,
            q.recall,
            q.accuracy,
            q.contrast,
            q.clipped,
        )
    };
    std::iter::once(head.to_owned())
        .chain(cells.iter().map(row))
        .collect()
}

/// The two trade-offs: what stronger guidance gains in class, and what it loses in variety.
fn draw(folder: &Path, standings: &[Standing], judge: &str) -> Result<(), Failure> {
    let mut names: Vec<&str> = Vec::new();
    for standing in standings {
        if !names.contains(&standing.guidance.as_str()) {
            names.push(&standing.guidance);
        }
    }
    let curve = |plot: LinePlot, x: fn(&Quality) -> f64, y: fn(&Quality) -> f64| {
        names.iter().fold(plot, |plot, name| {
            let of_it = standings.iter().filter(|s| s.guidance == *name);
            let points = of_it.map(|s| [x(&s.trial.quality), y(&s.trial.quality)]);
            plot.with_series(Series::new(*name, points))
        })
    };
    let accuracy = LinePlot::new(
        "Guidance: class against likeness, a point per scale",
        "right class, %",
        format!("FD ({judge})"),
    );
    let recall = LinePlot::new(
        "Guidance: variety against likeness, a point per scale",
        "recall",
        "precision",
    );
    let plots = [
        (
            "accuracy.svg",
            curve(accuracy, |q| 100.0 * q.accuracy, |q| q.frechet_distance),
        ),
        ("recall.svg", curve(recall, |q| q.recall, |q| q.precision)),
    ];
    for (name, plot) in plots {
        let svg = line_plot(&plot, Theme::Standalone).map_err(Failure::run)?;
        write_svg(&folder.join(name), &svg)?;
    }
    Ok(())
}
