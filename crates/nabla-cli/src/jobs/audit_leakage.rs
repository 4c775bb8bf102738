//! `nabla audit leakage`: what an attacker gets from one shared gradient.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use clap::Args;
use nabla::base::check_writable;
use nabla::base::choices;
use nabla::base::choices::Choices;
use nabla::base::progress::ProgressSink;
use nabla::base::words::count;
use nabla::data::{BitDepth, Picture, WriteOptions};
use nabla::grad::SketchFamily;
use nabla::private::leakage::Defence;
use nabla::private::leakage::audit::{Attack, LabelSource, Leak, Secret, Victim, rows};
use nabla::private::leakage::decoder::Decoder;
use nabla::private::leakage::dlg::DlgConfig;
use nabla::private::leakage::error::LeakageError;
use nabla::private::leakage::ggl::GglConfig;
use nabla::private::leakage::gias::GiasConfig;
use nabla::private::leakage::gifd::GifdConfig;
use nabla::private::leakage::grad_inversion::GradInversionConfig;
use nabla::private::leakage::inverting_gradients::InvertingConfig;
use nabla::private::leakage::picture_quality::perceptual;
use nabla::private::leakage::staged_generator::StagedGenerator;
use nabla::train::classifier::Classifier;
use nabla::train::examples::Scaling;
use nabla::train::experiment::{Experiment, ModelConfig};
use nabla::train::normalization::Normalization;
use nabla::train::trained_classifier::{TrainedClassifier, load_model};
use serde::Serialize;

use crate::choice::choice;
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::fitting::misfit;
use crate::jobs::train_generator::{of_pixels, open_pictures};
use crate::output::table;
use crate::picture_files::{is_writable_image, sheet};
use crate::seeds::SeedFlag;

/// The attacks, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Dlg,
    InvertingGradients,
    GradInversion,
    Latent,
    Gifd,
    Gias,
    Ggl,
}

impl Method {
    /// Whether it searches what a generator makes.
    fn has_generator(self) -> bool {
        matches!(self, Self::Latent | Self::Gifd | Self::Gias | Self::Ggl)
    }

    /// Whether it begins several times.
    fn restarts(self) -> bool {
        matches!(
            self,
            Self::GradInversion | Self::Latent | Self::Gifd | Self::Gias
        )
    }
}

choices! {
    Method: "attack" {
        "dlg" => Self::Dlg, "Deep leakage from gradients: pixels and labels by L-BFGS";
        "inverting-gradients" => Self::InvertingGradients, "Pixels by the direction of the gradient";
        "grad-inversion" => Self::GradInversion, "Pixels of a batch by several searches that keep near their consensus";
        "latent" => Self::Latent, "The latent vector of a generator alone: the first stage of gifd";
        "gifd" => Self::Gifd, "The latent vector of a generator, then what its stages make";
        "gias" => Self::Gias, "The latent vector of a generator, then the generator's weights for each picture";
        "ggl" => Self::Ggl, "The latent vector of a generator without derivatives, through what is supposed of the defence";
    }
}

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The pictures: `digits` or `fashion` (built in), or a folder (MNIST, Fashion-MNIST, CIFAR-10)
    #[arg(long, value_name = "SOURCE", default_value = "digits")]
    data: String,
    /// The attacked network with its default sizes and random weights
    #[arg(long, value_parser = choice::<ModelConfig>(), default_value = "mlp", conflicts_with = "network")]
    model: ModelConfig,
    /// The normalisation of the cnn and the resnet
    #[arg(long, value_parser = choice::<Normalization>(), conflicts_with = "network")]
    normalization: Option<Normalization>,
    /// The folder of `nabla train model` with the attacked network, instead of random weights
    #[arg(long, value_name = "DIR")]
    network: Option<PathBuf>,
    /// The pictures behind the gradient, of different classes as far as there are
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    /// How the pictures are rebuilt [default: gifd with a generator, else inverting-gradients]
    #[arg(long, value_parser = choice::<Method>())]
    attack: Option<Method>,
    /// The folder of `nabla train generator`, for latent, gifd, gias and ggl
    #[arg(long, value_name = "DIR")]
    generator: Option<PathBuf>,
    /// Restarts of latent, gifd and gias, and searches of grad-inversion [default: 2; 4 of grad-inversion]
    #[arg(long, value_name = "N")]
    restarts: Option<usize>,
    /// How far gifd goes from where each stage after the first begins, as sums of magnitudes [default: 10 and 30 for a
    /// generator of three stages]
    #[arg(long, value_name = "R,R", value_delimiter = ',')]
    radii: Vec<f64>,
    /// A defence; may be given several times [default: each of them]
    #[arg(long, value_parser = choice::<Defence>(), value_name = "NAME")]
    defence: Vec<Defence>,
    /// The deviation of `noise`, absolute
    #[arg(long, value_name = "SIGMA")]
    noise: Option<f64>,
    /// The norm to which `clip` and `dp` clip
    #[arg(long, value_name = "NORM")]
    clip: Option<f64>,
    /// The noise of `dp`, in multiples of the norm
    #[arg(long, value_name = "SIGMA")]
    noise_multiplier: Option<f64>,
    /// The percentage that `sparsify` leaves out
    #[arg(long, value_name = "PERCENT")]
    sparsity: Option<f64>,
    /// The length of `sketch` as a share of the gradient's
    #[arg(long, value_name = "SHARE")]
    sketch_share: Option<f64>,
    /// How the matrix of `sketch` is drawn [default: srht]
    #[arg(long, value_parser = choice::<SketchFamily>())]
    sketch_family: Option<SketchFamily>,
    /// Steps of the attack: of each stage for latent and gifd, of the latent vector for gias, whose weights have twice as
    /// many, generations of ggl [default: 300, 100 of ggl, 1000 of grad-inversion, else the attack's own]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// The attacker knows the labels; otherwise it infers them, from a sketch only if it is long enough to tell
    #[arg(long)]
    known_labels: bool,
    /// The folder of `nabla train model` with a cnn or resnet by which the perceptual distance is measured, instead of
    /// one with random weights
    #[arg(long, value_name = "DIR")]
    judge: Option<PathBuf>,
    /// A picture: the true pictures in the first row, and below them those rebuilt, one row for each defence
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    seed: SeedFlag,
    #[command(flatten)]
    device: DeviceFlag,
}

/// One defence's line.
#[derive(Serialize)]
struct Line {
    defence: Defence,
    /// The distance of the gradients.
    cost: f64,
    labels: Vec<u32>,
    label_source: LabelSource,
    /// By picture, in dB.
    psnr: Vec<f64>,
    ssim: Vec<f64>,
    perceptual: Vec<f64>,
}

#[derive(Serialize)]
struct Audited<'a> {
    network: &'a str,
    data: &'a str,
    /// The true labels.
    labels: &'a [u32],
    defences: &'a [Line],
    picture: Option<&'a PathBuf>,
}

impl Arguments {
    fn defences(&self) -> Result<Vec<Defence>, Failure> {
        let all = Defence::choices().into_iter().map(|choice| choice.value);
        let mut chosen: Vec<Defence> = match self.defence.as_slice() {
            [] => all.collect(),
            given => given.to_vec(),
        };
        let mut used = [false; 5];
        let mut sketched = false;
        for defence in &mut chosen {
            let mut set = |flag: usize, value: Option<f64>, slot: &mut f64| {
                *slot = value.unwrap_or(*slot);
                used[flag] = true;
            };
            match defence {
                Defence::Noise { deviation } => set(0, self.noise, deviation),
                Defence::Clip { norm } => set(1, self.clip, norm),
                Defence::Private { norm, noise } => {
                    set(1, self.clip, norm);
                    set(2, self.noise_multiplier, noise);
                }
                Defence::Sparsify { percentile } => set(3, self.sparsity, percentile),
                Defence::Sketch { share, family } => {
                    set(4, self.sketch_share, share);
                    *family = self.sketch_family.unwrap_or(*family);
                    sketched = true;
                }
                Defence::None | Defence::Soteria { .. } => {}
            }
        }
        let flags = [
            ("--noise", self.noise, "noise"),
            ("--clip", self.clip, "clip or dp"),
            ("--noise-multiplier", self.noise_multiplier, "dp"),
            ("--sparsity", self.sparsity, "sparsify"),
            ("--sketch-share", self.sketch_share, "sketch"),
        ];
        let given = flags
            .into_iter()
            .map(|(flag, value, defence)| (flag, value.is_some(), defence))
            .zip(used);
        let family = ("--sketch-family", self.sketch_family.is_some(), "sketch");
        for ((flag, is_given, defence), used) in given.chain([(family, sketched)]) {
            if is_given && !used {
                return Err(Failure::input(format!(
                    "{flag} is for the defence {defence}, which is not among those given"
                )));
            }
        }
        Ok(chosen)
    }

    /// The attack, and the generator that it searches.
    fn attack(&self, device: &Device) -> Result<(Attack, Option<Decoder>), Failure> {
        let attack = self.attack.unwrap_or(match self.generator {
            Some(_) => Method::Gifd,
            None => Method::InvertingGradients,
        });
        let searches = attack.has_generator();
        let generator = match &self.generator {
            Some(folder) if searches => {
                Some(Decoder::load(folder, device).map_err(Failure::input)?)
            }
            None if searches => {
                return Err(Failure::input(
                    "latent, gifd, gias and ggl search what a generator makes: add --generator DIR, the folder of `nabla train generator`",
                ));
            }
            Some(_) => {
                return Err(Failure::input(
                    "--generator is for latent, gifd, gias and ggl, but the attack is another one",
                ));
            }
            None => None,
        };
        if attack != Method::Gifd && !self.radii.is_empty() {
            return Err(Failure::input(
                "--radii is for gifd, but the attack is another one",
            ));
        }
        if self.restarts.is_some() && !attack.restarts() {
            return Err(Failure::input(
                "--restarts is for latent, gifd, gias and grad-inversion, but the attack is another one",
            ));
        }
        let steps = self.steps.unwrap_or(GENERATOR_STEPS);
        let restarts = self.restarts.unwrap_or(RESTARTS);
        let gifd = |radii: Vec<f64>| {
            Attack::Gifd(GifdConfig {
                steps,
                restarts,
                radii,
                ..GifdConfig::default()
            })
        };
        let attack = match attack {
            Method::Dlg => {
                let default = DlgConfig::default();
                Attack::Dlg(DlgConfig {
                    rounds: self.steps.unwrap_or(default.rounds),
                    ..default
                })
            }
            Method::InvertingGradients => {
                let default = InvertingConfig::default();
                Attack::InvertingGradients(InvertingConfig {
                    steps: self.steps.unwrap_or(default.steps),
                    ..default
                })
            }
            Method::GradInversion => Attack::GradInversion(GradInversionConfig {
                steps: self.steps.unwrap_or(SEEDED_STEPS),
                seeds: self.restarts.unwrap_or(SEEDS),
                ..GradInversionConfig::default()
            }),
            Method::Gias => Attack::Gias(GiasConfig {
                latent_steps: steps,
                weight_steps: 2 * steps,
                restarts,
                ..GiasConfig::default()
            }),
            Method::Ggl => Attack::Ggl(GglConfig {
                generations: self.steps.unwrap_or(GENERATIONS),
                ..GglConfig::default()
            }),
            Method::Latent => gifd(Vec::new()),
            Method::Gifd if self.radii.is_empty() => {
                let stages = generator.as_ref().map_or(0, StagedGenerator::stages);
                gifd(
                    (1..stages)
                        .map(|stage| RADIUS * 3_f64.powi(stage as i32 - 1))
                        .collect(),
                )
            }
            Method::Gifd => gifd(self.radii.clone()),
        };
        Ok((attack, generator))
    }
}

/// Steps of each stage of an attack through a generator.
const GENERATOR_STEPS: usize = 300;
/// Its restarts.
const RESTARTS: usize = 2;
/// Generations of an attack without derivatives, of 50 points each.
const GENERATIONS: usize = 100;
/// Steps of an attack by several searches of pixels, and the searches.
const SEEDED_STEPS: usize = 1000;
const SEEDS: usize = 4;
/// The radius of the first ball of features; each next one is three times as large, as the features are wider.
const RADIUS: f64 = 10.0;

/// What an attack got against a defence.
type Against = (Defence, Leak);

/// The attack on a network of any type.
struct Attacking<'a> {
    arguments: &'a Arguments,
    secret: &'a Secret,
    defences: &'a [Defence],
    attack: &'a Attack,
    generator: Option<&'a Decoder>,
    scaling: Scaling,
    context: &'a Context,
}

impl Attacking<'_> {
    fn run<M: Classifier>(&self, model: M) -> Result<Vec<Against>, Failure> {
        let failed = |error: LeakageError| match error {
            LeakageError::NoRestart | LeakageError::NotFinite(_) => Failure::run(error),
            _ => Failure::input(error),
        };
        let victim = Victim::new(model, &self.scaling, self.secret.shape).map_err(failed)?;
        let mut defences = Vec::with_capacity(self.defences.len());
        for &defence in self.defences {
            match victim.check(defence) {
                Ok(()) => defences.push(defence),
                // Of all defences, the one that the network cannot have had.
                Err(error @ LeakageError::BatchNorm { .. })
                    if self.arguments.defence.is_empty() =>
                {
                    let note = format!("the defence dp is left out: {error}");
                    self.context.note_at_end(&note);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        if matches!(self.attack, Attack::GradInversion(_))
            && !victim.has_batch_statistics(self.secret.shape)
        {
            self.context.note_at_end(
                "the network has no batch normalisation that was trained, so grad-inversion matches no statistics of one",
            );
        }
        let progress = self.context.progress();
        let mut leaks = Vec::with_capacity(defences.len());
        for &defence in &defences {
            let (known, seed) = (self.arguments.known_labels, self.arguments.seed.value());
            let generator = self
                .generator
                .map(|generator| generator as &dyn StagedGenerator);
            let leak = victim.attacked(self.secret, defence, self.attack, generator, known, seed);
            leaks.push((defence, leak.map_err(failed)?));
            // What does not fit is refused by the first attack, and nothing else is said.
            if leaks.len() == 1 {
                progress.begin("attacks", defences.len() as u64);
            }
            progress.advance(1);
        }
        Ok(leaks)
    }
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let defences = self.defences()?;
        if let Some(path) = self.out.as_ref().filter(|path| !is_writable_image(path)) {
            return Err(Failure::input(format!(
                "{} is no picture that can be written: name it .png",
                path.display()
            )));
        }
        if let Some(path) = &self.out {
            check_writable(path)?;
        }
        let device = self.device.open()?;
        // The attacker gets pixels, not numbers that all pictures have a part in.
        let mut experiment = Experiment {
            data: of_pixels(&self.data),
            model: self.model.clone(),
            ..Experiment::default()
        };
        if let Some(normalization) = self.normalization {
            experiment.model = experiment
                .model
                .with_normalization(normalization)
                .map_err(Failure::input)?;
        }
        experiment.training.seed = self.seed.value();
        let (data, shape) = open_pictures(&self.data)?;
        let classes = data.classes.len();
        let (batch, seed) = (self.batch, self.seed.value());
        let secret =
            Secret::drawn(&data.test, shape, classes, batch, seed).map_err(Failure::input)?;
        let (attack, generator) = self.attack(&device)?;
        let attacking = |scaling: Scaling| Attacking {
            arguments: self,
            secret: &secret,
            defences: &defences,
            attack: &attack,
            generator: generator.as_ref(),
            scaling,
            context,
        };
        // A judge that does not fit is refused before the attack.
        let maps = |pictures: &[Vec<f32>]| -> Result<Vec<Tensor<4>>, Failure> {
            let rows = rows(pictures, &device);
            match &self.judge {
                Some(folder) => {
                    let judge = TrainedClassifier::load(folder, &device).map_err(Failure::input)?;
                    judge.maps(rows).map_err(Failure::input)
                }
                None => {
                    let mut judge = Experiment {
                        model: ModelConfig::Cnn(Default::default()),
                        ..experiment.clone()
                    };
                    // The same for every audit.
                    judge.training.seed = 0;
                    // The maps of pictures by a convolutional network with random weights.
                    let (model, _) = judge.begin(&data, &device)?;
                    Ok(model.valid().maps(rows.autodiff()))
                }
            }
        };
        let truth = maps(&secret.pictures)?;
        let (leaks, name) = match &self.network {
            None if matches!(self.model, ModelConfig::LogisticRegression(..)) => {
                return Err(Failure::input(
                    "a logistic regression starts at zero, where its gradient tells no direction: attack one of `nabla train model` by --network",
                ));
            }
            None => {
                let (model, _) = experiment.begin(&data, &device)?;
                let leaks = attacking(Scaling::none()).run(model)?;
                (
                    leaks,
                    format!("{} with random weights", experiment.model.name()),
                )
            }
            Some(folder) => {
                let autodiff = device.clone().autodiff();
                let (config, model) = load_model(folder, &autodiff).map_err(Failure::input)?;
                if let Some(wrong) = misfit(folder, &config, &self.data, &data) {
                    return Err(Failure::input(wrong));
                }
                let name = format!("{} of {}", config.model.name(), folder.display());
                (attacking(config.scaling).run(model)?, name)
            }
        };
        let mut lines = Vec::with_capacity(leaks.len());
        for (defence, leak) in &leaks {
            lines.push(Line {
                defence: *defence,
                cost: leak.cost,
                labels: leak.labels.clone(),
                label_source: leak.label_source,
                psnr: leak.psnr.clone(),
                ssim: leak.ssim.clone(),
                perceptual: perceptual(&truth, &maps(&leak.pictures)?),
            });
        }
        if let Some(path) = &self.out {
            write_sheet(path, &secret, &leaks, &device)?;
        }
        let audited = Audited {
            network: &name,
            data: &self.data,
            labels: &secret.labels,
            defences: &lines,
            picture: self.out.as_ref(),
        };
        context.report(&audited, || told(&audited, self.out.as_deref()))
    }
}

/// The least side of a picture on the sheet, in pixels.
const SIDE: usize = 56;

fn write_sheet(
    path: &Path,
    secret: &Secret,
    leaks: &[Against],
    device: &Device,
) -> Result<(), Failure> {
    let [channels, height, width] = secret.shape;
    let enlarged = SIDE.div_ceil(height.max(width));
    let row = |pictures: &[Vec<f32>]| {
        let all = rows(pictures, device).reshape([pictures.len(), channels, height, width]);
        // The sheet takes values in [−1, 1].
        all * 2.0 - 1.0
    };
    let mut sheets = vec![row(&secret.pictures)];
    sheets.extend(leaks.iter().map(|(_, leak)| row(&leak.pictures)));
    let small = sheet(sheets);
    let [channels, height, width] = small.shape();
    let raster = nabla::data::Raster::from_fn(
        channels,
        height * enlarged,
        width * enlarged,
        |channel, y, x| small.get(channel, y / enlarged, x / enlarged),
    );
    let picture = Picture::new(raster, BitDepth::Eight);
    Ok(picture.write(path, &WriteOptions::default())?)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn described(defence: Defence) -> String {
    match defence {
        Defence::None => "none".to_owned(),
        Defence::Noise { deviation } => format!("noise {deviation}"),
        Defence::Clip { norm } => format!("clip {norm}"),
        Defence::Sparsify { percentile } => format!("sparsify {percentile} %"),
        Defence::Sketch { share, family } => {
            format!(
                "sketch {share}, {}",
                family.choice_name().unwrap_or("identity")
            )
        }
        Defence::Soteria { share } => format!("soteria {share}"),
        Defence::Private { norm, noise } => format!("dp clip {norm}, noise {noise}"),
    }
}

fn told_labels(source: LabelSource, right: bool) -> &'static str {
    match (source, right) {
        (LabelSource::Known, _) => "known",
        (LabelSource::Given, _) => "given",
        (LabelSource::Inferred | LabelSource::Searched, true) => "right",
        (LabelSource::Inferred | LabelSource::Searched, false) => "wrong",
    }
}

fn told(audited: &Audited<'_>, out: Option<&Path>) -> String {
    let mut cells = vec![
        [
            "defence",
            "PSNR, dB",
            "SSIM",
            "perceptual",
            "gradients apart",
            "labels",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for line in audited.defences {
        let mut wanted = audited.labels.to_vec();
        wanted.sort_unstable();
        cells.push(vec![
            described(line.defence),
            format!("{:.1}", mean(&line.psnr)),
            format!("{:.3}", mean(&line.ssim)),
            format!("{:.3}", mean(&line.perceptual)),
            format!("{:.2e}", line.cost),
            told_labels(line.label_source, line.labels == wanted).to_owned(),
        ]);
    }
    let mut told = format!(
        "What an attacker gets from one gradient of {} for {} of {}:\n{}",
        audited.network,
        count(audited.labels.len(), "picture"),
        audited.data,
        table(&cells),
    );
    if audited
        .defences
        .iter()
        .any(|line| line.label_source == LabelSource::Given)
    {
        told += "given: the sketch is too short to tell the labels, so the attacker was told\n";
    }
    if let Some(out) = out {
        told += &format!(
            "{}: the true pictures, and below them those rebuilt, in the order of the table\n",
            out.display()
        );
    }
    told
}
