//! `nabla train dcdm`: a network of conjugate directions for linear systems.

use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Device;
use clap::Args;
use nabla::base::words::{count, duration};
use nabla::physics::dcdm::{CONFIG_FILE, DcdmNetConfig, DcdmTrainingConfig, LearntDirections};
use nabla::train::network_folder::WEIGHTS_FILE;
use serde::Serialize;

use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::grid_sides::{GridSides, grid_sides};
use crate::loss_plot::{mean, write_losses};
use crate::recipe_file::GivenRecipe;
use crate::seeds::RecipeSeedFlag;
use crate::training_folder::train_in;
use crate::training_progress::REPORTED;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The folder of the network, where an interrupted training continues
    #[arg(
        short,
        long,
        value_name = "DIR",
        required_unless_present = "print_recipe"
    )]
    out: Option<PathBuf>,
    /// The grid of the Poisson equation to learn on, such as 32x32 or 16x16x16; the network works on others of as many
    /// dimensions [default: 32x32]
    #[arg(long, value_name = "SIDES", value_parser = grid_sides)]
    grid: Option<GridSides>,
    /// A recipe (TOML); values that it leaves out default to those that `--print-recipe` shows
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// The paper's network for 128³ unknowns, which has more layers than that for 64³
    #[arg(long)]
    large: bool,
    /// Channels between layers; the paper's are 16 [default: 8]
    #[arg(long, value_name = "N")]
    channels: Option<usize>,
    /// Steps of the Lanczos iteration whose Ritz vectors make up the right sides [default: 200]
    #[arg(long, value_name = "N")]
    ritz_vectors: Option<usize>,
    /// Right sides of a step [default: 8]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Highest learning rate, which falls along a cosine to 0 [default: 0.001]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Steps of the training [default: 1500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    #[command(flatten)]
    seed: RecipeSeedFlag,
    /// Print the complete recipe and exit
    #[arg(long)]
    print_recipe: bool,
}

impl Arguments {
    /// The recipe: the defaults for the grid, overridden by the file, overridden by the flags.
    fn recipe(&self) -> Result<DcdmTrainingConfig, Failure> {
        let given = GivenRecipe::read(self.recipe.as_deref())?;
        let in_file = given.get(&["sides"]).and_then(|sides| {
            let side = |side: &toml::Value| usize::try_from(side.as_integer()?).ok();
            sides.as_array()?.iter().map(side).collect()
        });
        let sides = self.grid.as_ref().map(|grid| grid.0.clone()).or(in_file);
        let defaults = sides.map_or_else(DcdmTrainingConfig::default, |sides: Vec<usize>| {
            DcdmTrainingConfig::for_grid(&sides)
        });
        let mut recipe = given.over(defaults)?;
        if let Some(GridSides(sides)) = &self.grid {
            recipe.sides.clone_from(sides);
        }
        if self.large {
            let channels = recipe.network.channels;
            recipe.network =
                DcdmNetConfig::large(recipe.network.dimensions).with_channels(channels);
        }
        recipe.network.channels = self.channels.unwrap_or(recipe.network.channels);
        recipe.right_sides.steps = self.ritz_vectors.unwrap_or(recipe.right_sides.steps);
        recipe.batch = self.batch_size.unwrap_or(recipe.batch);
        recipe.optimizer.learning_rate = self.learning_rate.or(recipe.optimizer.learning_rate);
        recipe.steps = self.steps.map_or(recipe.steps, |steps| steps as usize);
        self.seed.apply(&mut recipe.seed);
        Ok(recipe)
    }
}

#[derive(Serialize)]
struct Trained {
    folder: PathBuf,
    sides: Vec<usize>,
    steps: usize,
    parameters: usize,
    /// Mean over the last hundred steps.
    loss: f64,
    seconds: f64,
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let recipe = self.recipe()?;
        let text = toml::to_string_pretty(&recipe).map_err(Failure::run)?;
        let folder = match (&self.out, self.print_recipe) {
            (_, true) | (None, _) => return Ok(Report::of_text(text)),
            (Some(folder), false) => folder,
        };
        let trainer = recipe.trainer(&Device::flex())?;
        LearntDirections::check_folder(folder)?;
        let begun = Instant::now();
        let (trainer, _lock) =
            train_in(folder, trainer, &text, "training the directions", context)?;
        let learnt = LearntDirections::of(&trainer);
        learnt.save(folder)?;
        let losses = trainer.history().losses();
        write_losses(folder, "Training of conjugate directions", "loss", &losses)?;
        let trained = Trained {
            folder: folder.clone(),
            sides: recipe.sides,
            steps: losses.len(),
            parameters: learnt.parameters()?,
            loss: mean(&losses[losses.len().saturating_sub(REPORTED)..]),
            seconds: begun.elapsed().as_secs_f64(),
        };
        context.report(&trained, || {
            let sides: Vec<String> = trained.sides.iter().map(ToString::to_string).collect();
            format!(
                "{} on a grid of {}, {} parameters in {}, loss {:.4}: {CONFIG_FILE}, {WEIGHTS_FILE}, recipe.toml, loss.csv and \
                 loss.svg in {}\nuse it with: nabla solve linear A.mtx b.mtx --method dcdm --weights {} --grid SIDES\n",
                count(trained.steps, "step"),
                sides.join("x"),
                trained.parameters,
                duration(trained.seconds),
                trained.loss,
                folder.display(),
                folder.display()
            )
        })
    }
}
