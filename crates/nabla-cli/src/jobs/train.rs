//! `nabla train`: a classifier on a data set, or the networks that other jobs use.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use nabla::diffusion::prior::{CONFIG_FILE, WEIGHTS_FILE};
use nabla::panorama::prior_training::{PriorRecipe, PriorTrainingError, checkpoint_file};
use serde::Serialize;

use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Of, Report, jobs};
use crate::jobs::{
    train_dcdm, train_denoiser, train_flow, train_generator, train_model, train_ode,
};
use crate::loss_plot::{mean, write_losses};
use crate::recipe_file::{FolderLock, GivenRecipe, begin_folder};
use crate::seeds::RecipeSeedFlag;
use crate::training_progress::{REPORTED, TrainingProgress};
use nabla::base::words::{count, duration};

jobs! {
    /// What can be trained.
    pub enum Task {
        /// Train a classifier on a data set with any optimizer, or resume a training
        Model(Of<train_model::Arguments>),
        /// Train a super-resolution prior for `nabla upscale --model DIR`, or resume a training
        Prior(Of<PriorArguments>),
        /// Train a diffusion model of labelled pictures for `nabla sample --model DIR --class NAME`, or resume
        /// a training
        Denoiser(Of<train_denoiser::Arguments>),
        /// Train a small generator of pictures for `nabla audit leakage --generator DIR`
        Generator(Of<train_generator::Arguments>),
        /// Train a flow from noise to points (flow matching), draw new points and measure their density
        Flow(Of<train_flow::Arguments>),
        /// Fit a neural ODE or SDE to trajectories at irregular times, with gaps, for `nabla simulate ode DIR`
        Ode(Of<train_ode::Arguments>),
        /// Train a network of conjugate directions for `nabla solve linear --method dcdm --weights DIR`, or resume a training
        Dcdm(Of<train_dcdm::Arguments>),
    }
}

/// The command line of `nabla train prior`.
#[derive(Args)]
pub struct PriorArguments {
    /// The folder of the prior, where an interrupted training continues
    #[arg(
        short,
        long,
        value_name = "DIR",
        required_unless_present = "print_recipe"
    )]
    out: Option<PathBuf>,
    /// A recipe (TOML); values that it leaves out default to those of the embedded prior's recipe
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Steps of the training, instead of the recipe's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    #[command(flatten)]
    seed: RecipeSeedFlag,
    /// The folder with `photos/` and `panoramas/`
    #[arg(long, value_name = "DIR", default_value = "assets")]
    assets: PathBuf,
    #[command(flatten)]
    device: DeviceFlag,
    /// Print the complete recipe and exit
    #[arg(long)]
    print_recipe: bool,
}

impl Job for PriorArguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        prior(self, context)
    }
}

#[derive(Serialize)]
struct Trained {
    folder: PathBuf,
    steps: usize,
    parameters: usize,
    /// Mean over the last hundred steps.
    loss: f64,
    seconds: f64,
}

impl From<PriorTrainingError> for Failure {
    fn from(error: PriorTrainingError) -> Self {
        match error {
            PriorTrainingError::Training(_) => Self::run(error),
            other => Self::input(other),
        }
    }
}

fn prior(arguments: &PriorArguments, context: &Context) -> Result<Report, Failure> {
    let recipe = recipe(arguments)?;
    let text = toml::to_string_pretty(&recipe).map_err(Failure::run)?;
    let folder = match (&arguments.out, arguments.print_recipe) {
        (_, true) | (None, _) => return Ok(Report::of_text(text)),
        (Some(folder), false) => folder,
    };
    let device = arguments.device.open()?;
    let mut lock = FolderLock::default();
    begin_folder(&mut lock, folder, "recipe.toml", &text)?;

    let progress = context.progress();
    let begun = Instant::now();
    let mut told = TrainingProgress::new(progress, "training the prior");
    let checkpoint = checkpoint_file(folder);
    let trained = recipe.train(&arguments.assets, &checkpoint, &device, &mut |step| {
        told.step(step.step, step.steps, &step.record);
        ControlFlow::Continue(())
    })?;
    progress.finish();
    trained.prior.save(folder)?;
    let losses = &trained.losses;
    let axis = format!("{:?} loss", recipe.training.loss);
    write_losses(folder, "Training of the prior", &axis, losses)?;

    let tail = &losses[losses.len().saturating_sub(REPORTED)..];
    let trained = Trained {
        folder: folder.clone(),
        steps: losses.len(),
        parameters: trained.prior.parameters(),
        loss: mean(tail),
        seconds: begun.elapsed().as_secs_f64(),
    };
    context.report(&trained, || {
        format!(
            "{} in {}, loss {:.5}: {CONFIG_FILE}, {WEIGHTS_FILE}, recipe.toml, loss.csv and \
             loss.svg in {}\nuse it with: nabla upscale IN -o OUT --model {}\n",
            count(trained.steps, "step"),
            duration(trained.seconds),
            trained.loss,
            folder.display(),
            folder.display()
        )
    })
}

/// The recipe: the defaults, overridden by the file, overridden by the flags.
fn recipe(arguments: &PriorArguments) -> Result<PriorRecipe, Failure> {
    let mut recipe = GivenRecipe::read(arguments.recipe.as_deref())?.over(PriorRecipe::default())?;
    if let Some(steps) = arguments.steps {
        recipe.training.steps = steps as usize;
    }
    arguments.seed.apply(&mut recipe.training.seed);
    Ok(recipe)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn arguments(recipe: Option<PathBuf>) -> PriorArguments {
        PriorArguments {
            out: None,
            recipe,
            steps: None,
            seed: RecipeSeedFlag::given(7),
            assets: "assets".into(),
            device: DeviceFlag::default(),
            print_recipe: true,
        }
    }

    #[test]
    fn a_recipe_file_changes_only_what_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipe.toml");
        fs::write(
            &path,
            "[training]\nsteps = 12\n[model.network]\nbase_channels = 16\n",
        )
        .unwrap();
        let found = recipe(&arguments(Some(path.clone()))).unwrap();
        let mut expected = PriorRecipe::default();
        expected.training.steps = 12;
        expected.training.seed = 7;
        expected.model.network.base_channels = 16;
        assert_eq!(found, expected);
        // The job writes a recipe that it can read.
        fs::write(&path, toml::to_string_pretty(&found).unwrap()).unwrap();
        assert_eq!(recipe(&arguments(Some(path.clone()))).unwrap(), expected);

        fs::write(&path, "[training]\nsteps = \"many\"\n").unwrap();
        let told = recipe(&arguments(Some(path))).unwrap_err().to_string();
        assert!(told.contains("is not a recipe"), "{told}");
    }
}
