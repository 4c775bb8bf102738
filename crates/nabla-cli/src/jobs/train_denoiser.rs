//! `nabla train denoiser`: a diffusion model of labelled pictures.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use nabla::base::words::{count, duration};
use nabla::diffusion::class_denoiser::{
    CONFIG_FILE, ClassDenoiser, ClassDenoiserConfig, TrainingPath, WEIGHTS_FILE,
};
use nabla::diffusion::denoiser::Prediction;
use nabla::diffusion::denoiser_training::{
    DenoiserTrainingConfig, DenoiserTrainingError, PictureTable,
};
use nabla::diffusion::flow_matching::PathChoice;
use nabla::train::data_set::{DataConfig, DataSet, Standardization};
use nabla::train::examples::InputShape;
use serde::{Deserialize, Serialize};

use crate::choice::choice;
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::train_flow::told_of_energies;
use crate::loss_plot::{mean, write_losses};
use crate::recipe_file::GivenRecipe;
use crate::seeds::RecipeSeedFlag;
use crate::training_folder::train_in;
use crate::training_progress::REPORTED;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The folder of the denoiser, where an interrupted training continues
    #[arg(
        short,
        long,
        value_name = "DIR",
        required_unless_present = "print_recipe"
    )]
    out: Option<PathBuf>,
    /// The pictures: `digits` or `fashion` (built in), or a folder (MNIST, Fashion-MNIST, CIFAR-10) [default:
    /// fashion]
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// A recipe (TOML); values that it leaves out default to those that `--print-recipe` shows
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Flow matching: the straight line instead of the cosine schedule, and its velocity instead of the noise
    #[arg(long)]
    flow: bool,
    /// Flow matching on another path from noise to pictures; the network learns the velocity of the path
    #[arg(long, value_parser = choice::<PathChoice>(), conflicts_with = "flow")]
    path: Option<PathChoice>,
    /// What the network predicts, instead of the recipe's
    #[arg(long, value_parser = choice::<Prediction>(), conflicts_with = "flow")]
    prediction: Option<Prediction>,
    /// Steps of the training, instead of the recipe's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    #[command(flatten)]
    seed: RecipeSeedFlag,
    #[command(flatten)]
    device: DeviceFlag,
    /// Print the complete recipe and exit
    #[arg(long)]
    print_recipe: bool,
}

/// The pictures of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    /// A name or a path, as for `nabla train model`.
    source: String,
    /// Whether half of the pictures are mirrored. Default: no.
    mirror: bool,
}

/// Everything that determines the weights, together with the pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    data: Data,
    training: DenoiserTrainingConfig,
    model: ClassDenoiserConfig,
}

/// The number of steps without `--steps` and without a recipe.
const STEPS: usize = 10_000;

impl Arguments {
    /// The recipe (the defaults, overridden by the file, overridden by the flags) and its pictures.
    fn recipe(&self) -> Result<(Recipe, DataSet), Failure> {
        let given = GivenRecipe::read(self.recipe.as_deref())?;
        let in_file = given.get(&["data", "source"]);
        let in_file = in_file.and_then(|source| source.as_str().map(str::to_owned));
        let source = self.data.clone().or(in_file);
        let source = source.unwrap_or_else(|| "fashion".to_owned());
        let (pictures, shape) = denoiser_pictures(&source)?;
        let defaults = Recipe {
            data: Data {
                source: source.clone(),
                mirror: false,
            },
            training: DenoiserTrainingConfig::new(STEPS),
            model: ClassDenoiserConfig::for_pictures(pictures.classes.clone(), shape),
        };
        let mut recipe = given.over(defaults)?;
        recipe.data.source = source;
        if self.flow {
            recipe.model.path = TrainingPath::Straight;
            recipe.model.prediction = Prediction::Flow;
        }
        let training = &mut recipe.training;
        training.steps = self.steps.map_or(training.steps, |steps| steps as usize);
        self.seed.apply(&mut training.seed);
        if let Some(choice) = self.path {
            recipe.model.path = path_for(choice, &pictures, recipe.training.seed)?;
            recipe.model.prediction = Prediction::Flow;
        }
        recipe.model.prediction = self.prediction.unwrap_or(recipe.model.prediction);
        recipe.model.validate().map_err(Failure::input)?;
        if recipe.model.shape != shape || recipe.model.classes.len() != pictures.classes.len() {
            return Err(Failure::input(format!(
                "the recipe's model is for pictures of {:?} in {} classes, but {} has {shape:?} in {}",
                recipe.model.shape,
                recipe.model.classes.len(),
                recipe.data.source,
                pictures.classes.len()
            )));
        }
        Ok((recipe, pictures))
    }
}

/// The pictures of a source as a denoiser is trained on them, and the shape of one: channels, height and width.
///
/// # Errors
/// If the source cannot be opened, or is a table.
pub fn denoiser_pictures(source: &str) -> Result<(DataSet, [usize; 3]), Failure> {
    let pictures = DataConfig {
        source: source.to_owned(),
        // Every picture of the training set teaches; the test set is left for measuring.
        standardization: Standardization::None,
        ..DataConfig::default()
    };
    let pictures = pictures.open().map_err(Failure::input)?;
    match pictures.shape {
        InputShape::Picture(shape) => Ok((pictures, shape)),
        _ => Err(Failure::input(format!(
            "{source} is a table, but a denoiser is trained on pictures: digits, fashion, or a folder"
        ))),
    }
}

/// The path for the pictures of the training set, whose numbers are in `[−1, 1]` for the network.
fn path_for(choice: PathChoice, pictures: &DataSet, seed: u64) -> Result<TrainingPath, Failure> {
    let values = pictures.training.features.iter();
    let values: Vec<f64> = values.map(|&v| 2.0 * f64::from(v) - 1.0).collect();
    let dimension = pictures.shape.features();
    let found = choice.path_around_zero(&values, dimension, seed);
    let (path, scale) = found.map_err(Failure::input)?;
    Ok(TrainingPath::Flow { path, scale })
}

impl From<DenoiserTrainingError> for Failure {
    fn from(error: DenoiserTrainingError) -> Self {
        match error {
            DenoiserTrainingError::Training(_) => Self::run(error),
            other => Self::input(other),
        }
    }
}

#[derive(Serialize)]
struct Trained {
    folder: PathBuf,
    steps: usize,
    parameters: usize,
    /// The kinetic energies of the kinetic-optimal path and of the straight line, if the former was chosen.
    energies: Option<[f64; 2]>,
    /// Mean over the last hundred steps.
    loss: f64,
    seconds: f64,
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let (recipe, pictures) = self.recipe()?;
        let text = toml::to_string_pretty(&recipe).map_err(Failure::run)?;
        let folder = match (&self.out, self.print_recipe) {
            (_, true) | (None, _) => return Ok(Report::of_text(text)),
            (Some(folder), false) => folder,
        };
        let device = self.device.open()?;
        let examples = pictures.training;
        let classes = examples.labels.iter().map(|&label| label as usize);
        let source = PictureTable::new(examples.features, classes.collect(), recipe.model.shape)?
            .with_mirror(recipe.data.mirror);
        let trainer = recipe
            .training
            .trainer(&recipe.model, source, &device.clone().autodiff())?;
        let begun = Instant::now();
        let (trainer, _lock) = train_in(folder, trainer, &text, "training the denoiser", context)?;
        let network = trainer.average().unwrap_or(trainer.model()).clone();
        let denoiser =
            ClassDenoiser::new(recipe.model, network, &device).map_err(Failure::input)?;
        denoiser.save(folder).map_err(Failure::input)?;
        let losses = trainer.history().losses();
        let title = format!("Training of a denoiser on {}", recipe.data.source);
        write_losses(folder, &title, "mean squared error", &losses)?;
        let trained = Trained {
            folder: folder.clone(),
            steps: losses.len(),
            parameters: denoiser.parameters(),
            energies: match &denoiser.config().path {
                TrainingPath::Flow { path, .. } => path.energies().map_err(Failure::run)?,
                _ => None,
            },
            loss: mean(&losses[losses.len().saturating_sub(REPORTED)..]),
            seconds: begun.elapsed().as_secs_f64(),
        };
        context.report(&trained, || {
            format!(
                "{}{} of {} parameters in {}, loss {:.5}: {CONFIG_FILE}, {WEIGHTS_FILE}, recipe.toml, \
                 loss.csv and loss.svg in {}\n",
                told_of_energies(trained.energies),
                count(trained.steps, "step"),
                trained.parameters,
                duration(trained.seconds),
                trained.loss,
                folder.display(),
            )
        })
    }
}
