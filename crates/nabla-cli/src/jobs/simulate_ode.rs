//! `nabla simulate ode`: goes on from a state with a model of `nabla train ode`.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args;
use nabla::base::check_writable;
use nabla::base::progress::ProgressSink;
use nabla::base::range;
use nabla::base::words::{count, csv_field};
use nabla::base::write_bytes_atomically;
use nabla::claims::plot::{LinePlot, Series};
use nabla::data::trajectories::{Trajectories, Trajectory, TrajectoryError, TrajectoryOptions};
use nabla::physics::fitted::{
    FitError, FittedModel, Kind, MethodName, Path, Quantiles, SolverSettings, Start,
};
use serde::Serialize;

use crate::choice::choice;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::plot_file;
use crate::jobs::trajectory_flags::TrajectoryFlags;
use crate::seeds::SeedFlag;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The folder of a model that `nabla train ode` wrote
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Where to begin: the state, such as `a=1,b=2`, or a table (.csv) as for the training, from the last row of each of
    /// its trajectories on, in which a gap is filled by the last value before it
    #[arg(long, value_name = "STATE|FILE")]
    from: String,
    /// Begin with the first row of each trajectory of the table, to see how the data are followed
    #[arg(long)]
    from_first: bool,
    #[command(flatten)]
    columns: TrajectoryFlags,
    /// The time at which the given state is [default: that of the first data of the training]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true)]
    at: Option<f64>,
    /// The last time
    #[arg(
        long,
        value_name = "TIME",
        required_unless_present = "times",
        conflicts_with = "times",
        allow_negative_numbers = true
    )]
    until: Option<f64>,
    /// Times from the start to the last, evenly spaced
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    points: u32,
    /// The times themselves, rising
    #[arg(
        long,
        value_name = "TIMES",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    times: Vec<f64>,
    /// The table of what is simulated (.csv)
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A plot of it, with the rows of the table, an SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Columns that the plot shows [default: all]
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    plot_columns: Vec<String>,
    /// Paths of a stochastic equation, of which the mean and the middle 80 % are told
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    paths: u32,
    #[command(flatten)]
    seed: SeedFlag,
    /// The solver's method [default: that of the training]
    #[arg(long, value_parser = choice::<MethodName>())]
    method: Option<MethodName>,
    /// The relative tolerance [default: that of the training]
    #[arg(long, value_name = "TOLERANCE")]
    rtol: Option<f64>,
    /// The absolute tolerance, in standard deviations of the data [default: that of the training]
    #[arg(long, value_name = "TOLERANCE")]
    atol: Option<f64>,
    /// The length of all steps in the unit of the times, for euler and rk4
    #[arg(long, value_name = "TIME")]
    step: Option<f64>,
    /// The tolerance of a step of a stochastic equation, in standard deviations of the data
    #[arg(long, value_name = "TOLERANCE", default_value_t = 0.01)]
    noise_tolerance: f64,
}

/// A trajectory's start and what is known of it.
struct Begun {
    start: Start,
    known: Option<Trajectory>,
}

/// What was simulated from one start.
struct Simulated {
    begun: Begun,
    times: Vec<f64>,
    found: Found,
}

enum Found {
    One(Path),
    Many(Quantiles),
}

impl Found {
    /// The path, or the mean of all.
    fn middle(&self) -> &[Vec<f64>] {
        match self {
            Self::One(path) => &path.values,
            Self::Many(quantiles) => &quantiles.mean,
        }
    }
}

#[derive(Serialize)]
struct Told {
    model: PathBuf,
    trajectories: Vec<ToldTrajectory>,
    paths: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    out: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plot: Option<PathBuf>,
}

#[derive(Serialize)]
struct ToldTrajectory {
    name: String,
    from: f64,
    until: f64,
    points: usize,
    /// Of the right side; of a stochastic equation, for all paths together.
    evaluations: usize,
    /// The state at the last time, or the mean of the paths.
    last: Vec<f64>,
    /// The root mean square of the differences from the rows of the table at these times, in their unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<f64>,
}

impl Arguments {
    fn settings(&self, model: &FittedModel) -> SolverSettings {
        let mut solver = model.config().solver;
        solver.method = self.method.unwrap_or(solver.method);
        solver.relative = self.rtol.unwrap_or(solver.relative);
        solver.absolute = self.atol.unwrap_or(solver.absolute);
        solver.step = match (self.step, solver.method.is_adaptive()) {
            (Some(step), _) => Some(step),
            // A method that finds its steps does not need those of one that does not.
            (None, true) if self.method.is_some() => None,
            (None, _) => solver.step,
        };
        solver
    }

    /// Where to begin.
    fn starts(&self, model: &FittedModel) -> Result<Vec<Begun>, Failure> {
        let file = std::path::Path::new(&self.from);
        match self.from.contains('=') && !file.exists() {
            true => Ok(vec![self.given(model)?]),
            false => self.of_table(file, model),
        }
    }

    /// `a=1,b=2`.
    fn given(&self, model: &FittedModel) -> Result<Begun, Failure> {
        if self.from_first {
            return Err(Failure::input(
                "--from-first is for a table, but --from names a state",
            ));
        }
        let config = model.config();
        let mut values = vec![None; config.columns.len()];
        for part in self.from.split(',') {
            let wrong = || {
                Failure::input(format!(
                    "{part:?} is no value of a column: a state is given like {}",
                    config
                        .columns
                        .iter()
                        .map(|c| format!("{c}=1"))
                        .collect::<Vec<_>>()
                        .join(",")
                ))
            };
            let (name, value) = part.split_once('=').ok_or_else(wrong)?;
            let place = config
                .columns
                .iter()
                .position(|column| column == name.trim());
            let place = place.ok_or_else(|| {
                Failure::input(format!(
                    "the model has no column {:?}, only {}",
                    name.trim(),
                    config.columns.join(", ")
                ))
            })?;
            let value = value
                .trim()
                .parse()
                .ok()
                .filter(|value: &f64| value.is_finite());
            let value = value.ok_or_else(wrong)?;
            if values[place].replace(value).is_some() {
                return Err(Failure::input(format!("{:?} is given twice", name.trim())));
            }
        }
        let missing = values.iter().position(Option::is_none);
        if let Some(place) = missing {
            return Err(Failure::input(format!(
                "the state has no value of {:?}",
                config.columns[place]
            )));
        }
        let start = Start {
            name: String::new(),
            time: self.at.unwrap_or(config.scaling.times[0]),
            values: values.into_iter().flatten().collect(),
        };
        Ok(Begun { start, known: None })
    }

    fn of_table(&self, file: &std::path::Path, model: &FittedModel) -> Result<Vec<Begun>, Failure> {
        if self.at.is_some() {
            return Err(Failure::input(
                "--at is for a state, but --from names a table, which has its own times",
            ));
        }
        let config = model.config();
        let read = |trajectory: Option<&str>| {
            let mut options = TrajectoryOptions {
                time: Some(config.time.clone()),
                trajectory: trajectory.map(str::to_owned),
                columns: config.columns.clone(),
            };
            self.columns.apply(&mut options);
            Trajectories::read(file, &options)
        };
        let trajectory = config.trajectory.as_deref();
        let table = match read(trajectory) {
            // A table of one trajectory need not name it.
            Err(error) if lacks(&error, trajectory) => read(None),
            read => read,
        };
        let table = table.map_err(Failure::input)?;
        if table.columns.len() != config.columns.len() {
            return Err(FitError::Start {
                found: table.columns.len(),
                expected: config.columns.len(),
            }
            .into());
        }
        let begun = |trajectory: Trajectory| {
            let rows = match self.from_first {
                true => 1,
                false => trajectory.len(),
            };
            let value = |column: usize| {
                let seen = (0..rows).rev().find_map(|row| trajectory.row(row)[column]);
                seen.ok_or_else(|| {
                    Failure::input(format!(
                        "{}: the column {:?} has no value to begin with{}",
                        file.display(),
                        table.columns[column],
                        match trajectory.name.as_str() {
                            "" => String::new(),
                            name => format!(" in the trajectory {name:?}"),
                        }
                    ))
                })
            };
            let values = (0..config.columns.len()).map(value);
            let start = Start {
                name: trajectory.name.clone(),
                time: trajectory.times[rows - 1],
                values: values.collect::<Result<_, _>>()?,
            };
            Ok(Begun {
                start,
                known: Some(trajectory),
            })
        };
        table.trajectories.into_iter().map(begun).collect()
    }

    fn times_of(&self, start: &Start) -> Result<Vec<f64>, Failure> {
        let Some(until) = self.until else {
            return Ok(self.times.clone());
        };
        if !(until.is_finite() && until > start.time) {
            return Err(Failure::input(format!(
                "--until {until} is not after the start{}, which is at {}",
                match start.name.as_str() {
                    "" => String::new(),
                    name => format!(" of {name:?}"),
                },
                start.time
            )));
        }
        let points = self.points;
        let at = |point: u32| {
            // The last one exactly.
            match point == points {
                true => until,
                false => start.time + (until - start.time) * f64::from(point) / f64::from(points),
            }
        };
        Ok((1..=points).map(at).collect())
    }
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        if let Some(out) = &self.out {
            check_writable(out)?;
        }
        if let Some(plot) = &self.plot {
            plot_file::check(plot)?;
        }
        let model = FittedModel::load(&self.model)?;
        let config = model.config().clone();
        for name in &self.plot_columns {
            if !config.columns.contains(name) {
                return Err(Failure::input(format!(
                    "the model has no column {name:?} to plot, only {}",
                    config.columns.join(", ")
                )));
            }
        }
        let settings = self.settings(&model);
        let starts = self.starts(&model)?;
        let times = starts.iter().map(|begun| self.times_of(&begun.start));
        let times = times.collect::<Result<Vec<_>, _>>()?;
        for (begun, times) in starts.iter().zip(&times) {
            model.check(&begun.start, times, &settings)?;
        }
        range::positive("tolerance of a step with noise", self.noise_tolerance)
            .map_err(Failure::input)?;
        let progress = context.progress();
        progress.begin("simulating", starts.len() as u64);
        let mut all = Vec::new();
        let (mut told, seed) = (Vec::new(), self.seed.value());
        for (place, (begun, times)) in starts.into_iter().zip(times).enumerate() {
            context.check()?;
            let start = &begun.start;
            let (found, evaluations) = match config.kind {
                Kind::Ode => {
                    let path = model.simulate(start, &times, &settings)?;
                    let evaluations = path.evaluations;
                    (Found::One(path), evaluations)
                }
                Kind::Sde => {
                    let seed = seed.wrapping_add(place as u64);
                    let (paths, tolerance) = (self.paths as usize, self.noise_tolerance);
                    let paths = model.simulate_paths(start, &times, paths, tolerance, seed)?;
                    let evaluations = paths.first().map_or(0, |path| path.evaluations);
                    (Found::Many(Quantiles::of(&paths)), evaluations)
                }
            };
            told.push(ToldTrajectory {
                name: start.name.clone(),
                from: start.time,
                until: times.last().copied().unwrap_or(start.time),
                points: times.len(),
                evaluations,
                last: found.middle().last().cloned().unwrap_or_default(),
                error: error(&begun, &times, found.middle()),
            });
            all.push(Simulated {
                begun,
                times,
                found,
            });
            progress.advance(1);
        }
        progress.finish();
        if let Some(out) = &self.out {
            write_bytes_atomically(
                out,
                csv(
                    &config.time,
                    config.trajectory.as_deref(),
                    &config.columns,
                    &all,
                )
                .as_bytes(),
            )?;
        }
        if let Some(plot) = &self.plot {
            let shown =
                |name: &String| self.plot_columns.is_empty() || self.plot_columns.contains(name);
            plot_file::write(plot, &plotted(&config.time, &config.columns, &shown, &all))?;
        }
        let told = Told {
            model: self.model.clone(),
            trajectories: told,
            paths: (config.kind == Kind::Sde).then_some(self.paths),
            out: self.out.clone(),
            plot: self.plot.clone(),
        };
        context.report(&told, || told_of(&told, &config.columns))
    }
}

/// Whether a table has no column of this name.
fn lacks(error: &TrajectoryError, column: Option<&str>) -> bool {
    match error {
        TrajectoryError::In { source, .. } => lacks(source, column),
        TrajectoryError::NoColumn { name, .. } => Some(name.as_str()) == column,
        _ => false,
    }
}

/// How far what is simulated is from the rows at the same times, which rise.
fn error(begun: &Begun, times: &[f64], found: &[Vec<f64>]) -> Option<f64> {
    let known = begun.known.as_ref()?;
    let (mut sum, mut number) = (0.0, 0.0);
    for (row, time) in known.times.iter().enumerate() {
        let place = times.partition_point(|other| other < time);
        if times.get(place) != Some(time) {
            continue;
        }
        for (value, found) in known.row(row).iter().zip(&found[place]) {
            if let Some(value) = value {
                sum += (value - found).powi(2);
                number += 1.0;
            }
        }
    }
    (number > 0.0).then(|| f64::sqrt(sum / number))
}

fn csv(time: &str, trajectory: Option<&str>, columns: &[String], all: &[Simulated]) -> String {
    let names = all.len() > 1 || all.iter().any(|one| !one.begun.start.name.is_empty());
    let mut head: Vec<String> = Vec::new();
    if names {
        head.push(csv_field(trajectory.unwrap_or("trajectory")));
    }
    head.push(csv_field(time));
    let many = all.iter().any(|one| matches!(one.found, Found::Many(_)));
    for column in columns {
        match many {
            false => head.push(csv_field(column)),
            true => {
                let ends = ["mean", "p10", "p90"].map(|end| csv_field(&format!("{column}_{end}")));
                head.extend(ends);
            }
        }
    }
    let mut text = head.join(",") + "\n";
    for one in all {
        let name = csv_field(&one.begun.start.name);
        for (place, time) in one.times.iter().enumerate() {
            if names {
                text += &name;
                text.push(',');
            }
            // Writing to a string never fails.
            let _ = write!(text, "{time}");
            for column in 0..columns.len() {
                let _ = match &one.found {
                    Found::One(path) => write!(text, ",{}", path.values[place][column]),
                    Found::Many(Quantiles { mean, low, high }) => write!(
                        text,
                        ",{},{},{}",
                        mean[place][column], low[place][column], high[place][column]
                    ),
                };
            }
            text.push('\n');
        }
    }
    text
}

/// - `shown`: whether a column is
fn plotted(
    time: &str,
    columns: &[String],
    shown: &dyn Fn(&String) -> bool,
    all: &[Simulated],
) -> LinePlot {
    let of = |column: &String, one: &Simulated| match one.begun.start.name.as_str() {
        "" => column.clone(),
        name => format!("{column}, {name}"),
    };
    let axis = match columns {
        [one] => one.clone(),
        _ => "value".to_owned(),
    };
    let mut plot = LinePlot::new("Simulation", time, axis);
    for one in all {
        for (place, column) in columns.iter().enumerate().filter(|(_, name)| shown(name)) {
            let name = of(column, one);
            let start = &one.begun.start;
            let line = |values: &[Vec<f64>]| -> Vec<[f64; 2]> {
                let rest = one.times.iter().zip(values).map(|(t, v)| [*t, v[place]]);
                std::iter::once([start.time, start.values[place]])
                    .chain(rest)
                    .collect()
            };
            if let Some(known) = &one.begun.known {
                let rows = (0..known.len())
                    .filter_map(|row| known.row(row)[place].map(|value| [known.times[row], value]));
                let rows: Vec<_> = rows.collect();
                if rows.len() > 1 {
                    plot = plot.with_series(Series::new(format!("{name}: data"), rows));
                }
            }
            plot = match &one.found {
                Found::One(path) => plot.with_series(Series::new(name, line(&path.values))),
                Found::Many(Quantiles { mean, low, high }) => plot
                    .with_series(Series::new(format!("{name}: mean"), line(mean)))
                    .with_series(Series::new(format!("{name}: 10 %"), line(low)))
                    .with_series(Series::new(format!("{name}: 90 %"), line(high))),
            };
        }
    }
    plot
}

fn told_of(told: &Told, columns: &[String]) -> String {
    let mut text = String::new();
    for one in &told.trajectories {
        let name = match one.name.as_str() {
            "" => String::new(),
            name => format!("{name}: "),
        };
        let state = columns.iter().zip(&one.last);
        let state: Vec<String> = state.map(|(name, x)| format!("{name} {x:.6}")).collect();
        let paths = told
            .paths
            .map_or_else(String::new, |n| format!("mean of {}: ", count(n, "path")));
        let error = one.error.map_or_else(String::new, |error| {
            format!("; root mean square difference from the rows {error:.6}")
        });
        let evaluations = count(one.evaluations as u64, "evaluation");
        let _ = writeln!(
            text,
            "{name}from {} to {} in {evaluations}: {paths}{}{error}",
            one.from,
            one.until,
            state.join(", ")
        );
    }
    for (what, file) in [("table", &told.out), ("plot", &told.plot)] {
        if let Some(file) = file {
            let _ = writeln!(text, "{what}: {}", file.display());
        }
    }
    text
}
