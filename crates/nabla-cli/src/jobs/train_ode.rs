//! `nabla train ode`: a neural ODE or SDE, fitted to a table of trajectories.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use nabla::base::choices::Choices;
use nabla::base::words::{count, duration};
use nabla::base::write_bytes_atomically;
use nabla::data::trajectories::{Trajectories, TrajectoryOptions};
use nabla::physics::ernode::Heuristic;
use nabla::physics::fitted::{
    ActivationName, AdjointName, CONFIG_FILE, Errors, Fit, FitConfig, FitError, FittedModel, Kind,
    Measured, MethodName, Regularisation, Report as Quality,
};
use nabla::physics::local_regularisation::Sampling;
use nabla::train::history::History;
use nabla::train::network_folder::WEIGHTS_FILE;
use nabla::train::optimizer::Method;
use nabla::train::validation::Keep;
use serde::{Deserialize, Serialize};

use crate::choice::choice;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::experiment_flags::{method, optimizers};
use crate::jobs::trajectory_flags::TrajectoryFlags;
use crate::loss_plot::{write_losses, write_signed_losses};
use crate::output::table;
use crate::recipe_file::{FolderLock, GivenRecipe, begin_folder};
use crate::seeds::RecipeSeedFlag;
use crate::training_progress::TrainingProgress;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The folder of the model, where an interrupted training continues
    #[arg(
        short,
        long,
        value_name = "DIR",
        required_unless_present = "print_recipe"
    )]
    out: Option<PathBuf>,
    /// The table (.csv) with a header: a column of times, columns of values in which an empty cell is a gap, and perhaps
    /// one that names trajectories
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    #[command(flatten)]
    columns: TrajectoryFlags,
    /// A recipe (TOML); values that it leaves out default to those that `--print-recipe` shows
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    #[command(flatten)]
    equation: EquationFlags,
    #[command(flatten)]
    solver: SolverFlags,
    #[command(flatten)]
    training: TrainingFlags,
    #[command(flatten)]
    seed: RecipeSeedFlag,
    /// Print the complete recipe and exit
    #[arg(long)]
    print_recipe: bool,
}

#[derive(Args)]
struct EquationFlags {
    /// Which equation is fitted [default: ode]
    #[arg(long, value_parser = choice::<Kind>())]
    kind: Option<Kind>,
    /// Units of each hidden layer; `none` for a linear equation [default: 32,32]
    #[arg(long, value_name = "UNITS", value_parser = hidden)]
    hidden: Option<Hidden>,
    /// The activation between layers [default: tanh]
    #[arg(long, value_parser = choice::<ActivationName>())]
    activation: Option<ActivationName>,
    /// The equation may depend on the time itself; beyond the data's last time it then sees what it never saw
    #[arg(long)]
    time_dependent: bool,
}

#[derive(Args)]
struct SolverFlags {
    /// The solver's method [default: tsit5]
    #[arg(long, value_parser = choice::<MethodName>())]
    method: Option<MethodName>,
    /// How gradients are computed [default: discrete]
    #[arg(long, value_parser = choice::<AdjointName>())]
    adjoint: Option<AdjointName>,
    /// The relative tolerance [default: 1e-4]
    #[arg(long, value_name = "TOLERANCE")]
    rtol: Option<f64>,
    /// The absolute tolerance, in standard deviations of the data [default: 1e-5]
    #[arg(long, value_name = "TOLERANCE")]
    atol: Option<f64>,
    /// The length of all steps in the unit of the times, for euler and rk4
    #[arg(long, value_name = "TIME")]
    step: Option<f64>,
    /// A penalty that makes the equation easy to solve: `none`, `ernode` (estimates of all steps) or `local` (of one)
    /// [default: none]
    #[arg(long, value_name = "NAME", value_parser = ["none", "ernode", "local"])]
    regularise: Option<String>,
    /// What is penalised
    #[arg(long, value_parser = choice::<Heuristic>(), default_value = "error")]
    heuristic: Heuristic,
    /// Where the local penalty is taken
    #[arg(long, value_parser = choice::<Sampling>(), default_value = "unbiased")]
    sampling: Sampling,
    /// The weight of the penalty at the first step
    #[arg(long, value_name = "WEIGHT", default_value_t = 1.0)]
    weight: f64,
    /// The weight at the last step [default: that of the first]
    #[arg(long, value_name = "WEIGHT")]
    last_weight: Option<f64>,
}

#[derive(Args)]
struct TrainingFlags {
    /// Rows of a window, which is solved from its first one [default: 20; 2 for a stochastic equation without gaps]
    #[arg(long, value_name = "ROWS")]
    window: Option<usize>,
    /// Windows of a step [default: 32]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Steps between two rows by which the moments of a stochastic equation are found [default: 4]
    #[arg(long, value_name = "N")]
    substeps: Option<usize>,
    /// The share that is held out: of five trajectories or more, whole ones; of fewer, the end of each [default: 0.2]
    #[arg(long, value_name = "SHARE")]
    validation: Option<f64>,
    /// Which weights are left, if something is held out: `best` or `last` by the error there [default: best]
    #[arg(long, value_name = "WHICH", value_parser = choice::<Keep>(), hide_possible_values = true)]
    keep: Option<Keep>,
    #[arg(long, value_name = "NAME", value_parser = method, help = optimizers())]
    optimizer: Option<Method>,
    /// Highest learning rate, which falls along a cosine to 0 [default: 0.005, or the named optimizer's customary one]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Steps of the training [default: 2000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "epochs")]
    steps: Option<u32>,
    /// Passes over all windows, in place of steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,
}

/// Units of hidden layers, as one value of the flag.
#[derive(Clone, Debug)]
struct Hidden(Vec<usize>);

fn hidden(text: &str) -> Result<Hidden, String> {
    if text == "none" {
        return Ok(Hidden(Vec::new()));
    }
    let units = text.split(',').map(|units| units.trim().parse::<usize>());
    let units: Result<Vec<usize>, _> = units.collect();
    units
        .map(Hidden)
        .map_err(|_| "expected whole numbers such as 32,32, or none".to_owned())
}

/// The data of a training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Source {
    file: PathBuf,
    columns: TrajectoryOptions,
}

/// Everything that determines the weights, together with the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Recipe {
    data: Source,
    fit: FitConfig,
}

impl Arguments {
    /// The recipe: the defaults, overridden by the file, overridden by the flags.
    fn recipe(&self) -> Result<Recipe, Failure> {
        let mut recipe = GivenRecipe::read(self.recipe.as_deref())?.over(Recipe::default())?;
        if let Some(file) = &self.data {
            recipe.data.file.clone_from(file);
        }
        self.columns.apply(&mut recipe.data.columns);
        let fit = &mut recipe.fit;
        let flags = &self.equation;
        fit.kind = flags.kind.unwrap_or(fit.kind);
        if let Some(Hidden(units)) = &flags.hidden {
            fit.hidden.clone_from(units);
        }
        fit.activation = flags.activation.unwrap_or(fit.activation);
        fit.time_dependent |= flags.time_dependent;
        let flags = &self.solver;
        let solver = &mut fit.solver;
        solver.method = flags.method.unwrap_or(solver.method);
        solver.relative = flags.rtol.unwrap_or(solver.relative);
        solver.absolute = flags.atol.unwrap_or(solver.absolute);
        solver.step = flags.step.or(solver.step);
        fit.adjoint = flags.adjoint.unwrap_or(fit.adjoint);
        let (heuristic, weight) = (flags.heuristic, flags.weight);
        let last_weight = flags.last_weight.unwrap_or(weight);
        match flags.regularise.as_deref() {
            None => {}
            Some("ernode") => {
                fit.regularisation = Regularisation::Ernode {
                    heuristic,
                    weight,
                    last_weight,
                };
            }
            Some("local") => {
                fit.regularisation = Regularisation::Local {
                    heuristic,
                    sampling: flags.sampling,
                    weight,
                    last_weight,
                };
            }
            Some(_) => fit.regularisation = Regularisation::None,
        }
        let flags = &self.training;
        fit.window = flags.window.unwrap_or(fit.window);
        fit.batch = flags.batch_size.unwrap_or(fit.batch);
        fit.substeps = flags.substeps.unwrap_or(fit.substeps);
        fit.validation = flags.validation.unwrap_or(fit.validation);
        fit.keep = flags.keep.unwrap_or(fit.keep);
        if let Some(method) = &flags.optimizer {
            fit.optimizer = fit.optimizer.clone().switched_to(method.clone());
        }
        fit.optimizer.learning_rate = flags.learning_rate.or(fit.optimizer.learning_rate);
        fit.steps = flags.steps.map_or(fit.steps, |steps| steps as usize);
        self.seed.apply(&mut fit.seed);
        Ok(recipe)
    }
}

impl From<FitError> for Failure {
    fn from(error: FitError) -> Self {
        match error.is_failure() {
            true => Self::run(error),
            false => Self::input(error),
        }
    }
}

#[derive(Serialize)]
struct Trained {
    folder: PathBuf,
    kind: Option<&'static str>,
    trajectories: usize,
    rows: usize,
    columns: usize,
    gaps: usize,
    steps: usize,
    parameters: usize,
    /// The step whose weights were left.
    kept_step: usize,
    #[serde(flatten)]
    quality: Quality,
    seconds: f64,
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let mut recipe = self.recipe()?;
        let text = |recipe: &Recipe| toml::to_string_pretty(recipe).map_err(Failure::run);
        let folder = match (&self.out, self.print_recipe) {
            (_, true) | (None, _) => return Ok(Report::of_text(text(&recipe)?)),
            (Some(folder), false) => folder,
        };
        if recipe.data.file.as_os_str().is_empty() {
            return Err(Failure::input("name the table of trajectories by --data"));
        }
        let Source { file, columns } = &recipe.data;
        let data = Trajectories::read(file, columns).map_err(Failure::input)?;
        if let Some(epochs) = self.training.epochs {
            let each = recipe.fit.steps_per_epoch(&data)?;
            recipe.fit.steps = each.saturating_mul(epochs as usize);
        }
        let mut fit = Fit::new(&recipe.fit, &data)?;
        FittedModel::check_folder(folder)?;
        let mut lock = FolderLock::of(folder)?;
        let checkpoint = folder.join("checkpoint.safetensors");
        if checkpoint.exists() {
            fit = fit.resume(&checkpoint).map_err(Failure::input)?;
        }
        // Not before: the folder may hold another training, with its recipe.
        begin_folder(&mut lock, folder, "recipe.toml", &text(&recipe)?)?;

        let progress = context.progress();
        let begun = Instant::now();
        let mut told = TrainingProgress::new(progress, "fitting the equation");
        fit.run(Some(&checkpoint), &mut |step| {
            told.step(step.step, step.steps, &step.record);
            ControlFlow::Continue(())
        })?;
        progress.finish();
        let found = fit.finish()?;
        found.model.save(folder)?;
        // A likelihood may be negative, which a logarithmic axis does not show.
        type Write = fn(&Path, &str, &str, &[f32]) -> Result<(), Failure>;
        let (axis, write): (_, Write) = match recipe.fit.kind {
            Kind::Ode => ("loss", write_losses),
            Kind::Sde => ("negative log likelihood", write_signed_losses),
        };
        let history = fit.history();
        let losses = history.losses();
        let file = recipe.data.file.display();
        write(folder, &format!("Fit to {file}"), axis, &losses)?;
        let measured = measurements(history);
        write_bytes_atomically(&folder.join("measurements.csv"), measured.as_bytes())?;

        let trained = Trained {
            folder: folder.clone(),
            kind: recipe.fit.kind.choice_name(),
            trajectories: data.trajectories.len(),
            rows: data.rows(),
            columns: data.columns.len(),
            gaps: data.gaps(),
            steps: losses.len(),
            parameters: found.model.parameters()?,
            kept_step: found.step,
            quality: found.report,
            seconds: begun.elapsed().as_secs_f64(),
        };
        context.report(&trained, || told_of(&trained))
    }
}

fn measurements(history: &History<Measured>) -> String {
    let number = |x: Option<f64>| x.map_or_else(String::new, |x| x.to_string());
    let lines = history.epochs.iter().map(|m| {
        let [training, validation, evaluations] =
            [m.training, m.validation, m.evaluations].map(number);
        format!("{},{training},{validation},{evaluations}\n", m.step)
    });
    std::iter::once("step,training,validation,evaluations\n".to_owned())
        .chain(lines)
        .collect()
}

fn told_of(trained: &Trained) -> String {
    let quality = &trained.quality;
    let heads = ["", "model", "last value", "linear"].map(str::to_owned);
    let mut rows = vec![heads.to_vec()];
    let number = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), |x| format!("{x:.4}"));
    let mut tell = |what: String, errors: Option<&Errors>| {
        if let Some(errors) = errors {
            let numbers = [errors.model, errors.constant, errors.linear].map(number);
            rows.push(std::iter::once(what).chain(numbers).collect());
        }
    };
    let ahead = match quality.window {
        2 => "the next row".to_owned(),
        rows => format!("up to {} rows ahead", rows - 1),
    };
    tell(format!("error, {ahead}, learnt"), Some(&quality.training));
    tell(
        format!("error, {ahead}, held out"),
        quality.validation.as_ref(),
    );
    tell(
        "error, to the end, held out".to_owned(),
        quality.to_the_end.as_ref(),
    );
    let likelihood = |what: &str| format!("-log likelihood of a number, {what}");
    tell(likelihood("learnt"), quality.training_likelihood.as_ref());
    tell(
        likelihood("held out"),
        quality.validation_likelihood.as_ref(),
    );
    let kept = match trained.kept_step == trained.steps {
        true => String::new(),
        false => format!(
            ", of which step {} was the best on what is held out",
            trained.kept_step
        ),
    };
    let evaluations = quality.evaluations.map_or_else(String::new, |evaluations| {
        format!("{evaluations:.0} evaluations for a window\n")
    });
    let folder = trained.folder.display();
    format!(
        "{} of {} in {}, {}: {} of {} parameters in {}{kept}\n\
         errors are root mean squares in standard deviations of the columns\n{}{evaluations}\
         {CONFIG_FILE}, {WEIGHTS_FILE}, recipe.toml, measurements.csv, loss.csv and loss.svg in {folder}\n\
         go on with: nabla simulate ode {folder} --from FILE --until TIME --plot FILE.svg\n",
        count(trained.rows, "row"),
        count(trained.columns, "column"),
        match trained.trajectories {
            1 => "1 trajectory".to_owned(),
            several => format!("{several} trajectories"),
        },
        count(trained.gaps, "gap"),
        count(trained.steps, "step"),
        trained.parameters,
        duration(trained.seconds),
        table(&rows),
    )
}
