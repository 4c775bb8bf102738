//! `nabla train flow`: a flow from noise to points, by flow matching.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use nabla::base::choices::Choices;
use nabla::base::words::{count, csv_field, duration};
use nabla::base::write_bytes_atomically;
use nabla::diffusion::adjoint_dpm::OdeMethod;
use nabla::diffusion::flow_matching::{
    CONFIG_FILE, Flow, FlowConfig, FlowError, FlowTrainingConfig, PathChoice,
};
use nabla::diffusion::kinetic_optimal::normalized;
use nabla::diffusion::likelihood::Divergence;
use nabla::diffusion::seeded_noise::SeededNoise;
use nabla::train::network_folder::WEIGHTS_FILE;
use nabla::train::point_set::PointSet;
use serde::{Deserialize, Serialize};

use crate::choice::choice;
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::loss_plot::{mean, write_losses};
use crate::recipe_file::GivenRecipe;
use crate::seeds::RecipeSeedFlag;
use crate::training_folder::train_in;
use crate::training_progress::REPORTED;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The folder of the flow, where an interrupted training continues
    #[arg(
        short,
        long,
        value_name = "DIR",
        required_unless_present = "print_recipe"
    )]
    out: Option<PathBuf>,
    /// The points: a table of numbers (.csv, .tsv), an array (.npy), or pictures, whose pixels are the numbers:
    /// `digits`, `fashion` (built in), or a folder [default: digits]
    #[arg(long, value_name = "SOURCE")]
    data: Option<String>,
    /// A column of the table that is left out, by its name or number (may be repeated)
    #[arg(long, value_name = "COLUMN")]
    drop: Vec<String>,
    /// A recipe (TOML); values that it leaves out default to those that `--print-recipe` shows
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// The path from noise to data, instead of the recipe's
    #[arg(long, value_parser = choice::<PathChoice>())]
    path: Option<PathChoice>,
    /// Steps of the training, instead of the recipe's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// Points to draw for samples.csv; 0 for none
    #[arg(long, value_name = "N", default_value_t = 1000)]
    draw: u32,
    /// Steps in which each is drawn
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    draw_steps: u32,
    /// How the flow is followed to draw them
    #[arg(long, value_parser = choice::<OdeMethod>(), default_value = "heun")]
    method: OdeMethod,
    #[command(flatten)]
    seed: RecipeSeedFlag,
    #[command(flatten)]
    device: DeviceFlag,
    /// Print the complete recipe and exit
    #[arg(long)]
    print_recipe: bool,
}

/// The points of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    source: String,
    /// Columns that are left out.
    drop: Vec<String>,
}

/// The flow, without what follows from the points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    path: PathChoice,
    /// Units of each hidden layer.
    hidden: Vec<usize>,
}

/// Everything that determines the weights, together with the points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    data: Data,
    training: FlowTrainingConfig,
    flow: Shape,
}

/// The number of steps without `--steps` and without a recipe.
const STEPS: usize = 5000;

/// Held-out points whose density is measured at most, and the steps in which it is.
const MEASURED: usize = 200;
const DENSITY_STEPS: usize = 40;

/// Up to so many numbers of a point, the divergence is exact; beyond, it is estimated with so many probes.
const EXACT: usize = 16;
const PROBES: usize = 4;

impl Arguments {
    /// The recipe: the defaults, overridden by the file, overridden by the flags.
    fn recipe(&self) -> Result<Recipe, Failure> {
        let mut recipe = Recipe {
            data: Data {
                source: "digits".to_owned(),
                drop: Vec::new(),
            },
            training: FlowTrainingConfig::new(STEPS),
            flow: Shape {
                path: PathChoice::CondOt,
                hidden: vec![256; 3],
            },
        };
        recipe = GivenRecipe::read(self.recipe.as_deref())?.over(recipe)?;
        if let Some(source) = &self.data {
            recipe.data.source.clone_from(source);
        }
        if !self.drop.is_empty() {
            recipe.data.drop.clone_from(&self.drop);
        }
        recipe.flow.path = self.path.unwrap_or(recipe.flow.path);
        let training = &mut recipe.training;
        training.steps = self.steps.map_or(training.steps, |steps| steps as usize);
        self.seed.apply(&mut training.seed);
        Ok(recipe)
    }
}

impl From<FlowError> for Failure {
    fn from(error: FlowError) -> Self {
        match error {
            FlowError::Training(_) | FlowError::Density(_) => Self::run(error),
            other => Self::input(other),
        }
    }
}

#[derive(Serialize)]
struct Trained {
    folder: PathBuf,
    path: Option<&'static str>,
    /// The kinetic energies of the kinetic-optimal path and of the straight line, if the former was chosen.
    energies: Option<[f64; 2]>,
    points: usize,
    dimension: usize,
    steps: usize,
    parameters: usize,
    /// Mean over the last hundred steps.
    loss: f64,
    /// The held-out points whose density was measured.
    measured: usize,
    /// Their mean `ln p` in nats, in the unit of the data.
    log_density: f64,
    drawn: usize,
    method: Option<&'static str>,
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
        let points = PointSet::open(&recipe.data.source, &recipe.data.drop);
        let points = points.map_err(Failure::input)?;
        let dimension = points.dimension();
        let data = normalized(&points.training, dimension).map_err(Failure::input)?;
        let seed = recipe.training.seed;
        let path = recipe.flow.path.path(&data.points, dimension, seed);
        let path = path.map_err(Failure::input)?;
        let energies = path.energies().map_err(Failure::run)?;
        let config = FlowConfig::of(points.names.clone(), &data)
            .with_path(path)
            .with_hidden(recipe.flow.hidden.clone());
        let device = self.device.open()?;
        let autodiff = device.clone().autodiff();
        let trainer = recipe.training.trainer(&config, &data.points, &autodiff)?;
        let begun = Instant::now();
        let (trainer, _lock) = train_in(folder, trainer, &text, "training the flow", context)?;
        let network = trainer.average().unwrap_or(trainer.model()).clone();
        let flow = Flow::new(config, network, &device)?;
        flow.save(folder)?;
        let losses = trainer.history().losses();
        let title = format!("Training of a flow to {}", recipe.data.source);
        write_losses(folder, &title, "mean squared error", &losses)?;

        let measured = (points.held_out.len() / dimension).min(MEASURED);
        let held_out = &points.held_out[..measured * dimension];
        let divergence = match dimension <= EXACT {
            true => Divergence::Exact,
            false => Divergence::Hutchinson {
                probes: PROBES,
                seed,
            },
        };
        let densities = flow.log_density(held_out, DENSITY_STEPS, divergence)?;
        if self.draw > 0 {
            let shape = [self.draw as usize, dimension];
            let noise = SeededNoise::new(seed, 7).normal(shape, &device);
            let found = flow.sample(noise, self.draw_steps as usize, self.method)?;
            let table = csv(&points.names, &flow.restored(found.x)?);
            write_bytes_atomically(&folder.join("samples.csv"), table.as_bytes())?;
        }
        let trained = Trained {
            folder: folder.clone(),
            path: recipe.flow.path.choice_name(),
            energies,
            points: points.training.len() / dimension,
            dimension,
            steps: losses.len(),
            parameters: flow.parameters(),
            loss: mean(&losses[losses.len().saturating_sub(REPORTED)..]),
            measured,
            log_density: densities.iter().sum::<f64>() / measured.max(1) as f64,
            drawn: self.draw as usize,
            method: self.method.choice_name(),
            seconds: begun.elapsed().as_secs_f64(),
        };
        context.report(&trained, || told_of(&trained))
    }
}

fn told_of(trained: &Trained) -> String {
    let per_number = trained.log_density / trained.dimension as f64;
    let samples = match trained.drawn {
        0 => String::new(),
        drawn => format!("{} in samples.csv, ", count(drawn, "new point")),
    };
    let energies = told_of_energies(trained.energies);
    format!(
        "{} of {} on the path {}: {} of {} parameters in {}, loss {:.5}\n\
         {energies}ln p of {} held out {:.3} nats, {per_number:.3} a number\n\
         {samples}{CONFIG_FILE}, {WEIGHTS_FILE}, recipe.toml, loss.csv and loss.svg in {}\n",
        count(trained.points, "point"),
        count(trained.dimension, "number"),
        trained.path.unwrap_or_default(),
        count(trained.steps, "step"),
        trained.parameters,
        duration(trained.seconds),
        trained.loss,
        count(trained.measured, "point"),
        trained.log_density,
        trained.folder.display(),
    )
}

/// - `energies`: of the kinetic-optimal path and of the straight line
pub fn told_of_energies(energies: Option<[f64; 2]>) -> String {
    match energies {
        None => String::new(),
        Some([least, straight]) => format!(
            "kinetic energy {least:.3} a number; the straight line takes {straight:.3}, {:.1} % more\n",
            100.0 * (straight / least - 1.0)
        ),
    }
}

/// A table of points; names with a separator or a quotation mark are quoted.
fn csv(names: &[String], values: &[f64]) -> String {
    let names_of = names.iter().map(|name| csv_field(name));
    let mut table = names_of.collect::<Vec<_>>().join(",") + "\n";
    for point in values.chunks(names.len()) {
        for (i, value) in point.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            // Writing to a string never fails.
            let _ = write!(table, "{comma}{value}");
        }
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_table_are_quoted_where_they_must_be() {
        let names = ["x".to_owned(), "a,b".to_owned(), "say \"y\"".to_owned()];
        let table = csv(&names, &[1.0, 2.5, -3.0]);
        assert_eq!(table, "x,\"a,b\",\"say \"\"y\"\"\"\n1,2.5,-3\n");
    }
}
