//! The training of a fit.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use nabla_data::trajectories::Trajectories;
use nabla_grad::fingerprint::fingerprint;
use nabla_grad::seeded_noise::SeededNoise;
use nabla_train::Learner;
use nabla_train::error::TrainingError;
use nabla_train::history::History;
use nabla_train::order::EpochOrder;
use nabla_train::task::Task;
use nabla_train::trainer::{Observer, Trainer, TrainerConfig};
use nabla_train::transform::ClipByNorm;
use nabla_train::validation::Keep;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::FitError;
use super::baselines::Baseline;
use super::forecast::{Errors, Report, of_baseline, of_model};
use super::model::{FittedConfig, FittedModel, FittedNetwork};
use super::settings::{FitConfig, Kind, Regulariser};
use super::shooting::{Batch, indices, matrix};
use super::transition::surprise;
use super::windows::{Data, Series, Window, pieces, stride, windows};

/// Rows of a window of an ordinary equation, or of a stochastic one with gaps.
const ROWS: usize = 20;

/// Streams of the seed: initial weights, and for each step the places of windows and the times of penalties.
const WEIGHTS: u64 = 2;
const PLACES: u64 = 1 << 40;
const TIMES: u64 = 1 << 41;

/// Windows whose likelihood is computed together.
const TOGETHER: usize = 512;

/// What is learnt: the networks, and numbers that are missing where windows begin.
#[derive(Module, Debug)]
pub struct Learnt {
    /// The networks.
    pub network: FittedNetwork,
    /// In the numbers of the network, `[missing]`.
    pub starts: Option<Param<Tensor<1>>>,
}

/// A measurement in the training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Steps done.
    pub step: usize,
    /// The error of what is learnt (see [`Report`]), or its mean negative log likelihood; none if the solver fails.
    pub training: Option<f64>,
    /// Of what was held out.
    pub validation: Option<f64>,
    /// Evaluations of `f` for a window of what is learnt, on average.
    pub evaluations: Option<f64>,
}

/// A fit in progress; see the [module documentation](super).
pub struct Fit {
    fitted: FittedConfig,
    trainer: Trainer<FitTask>,
}

impl fmt::Debug for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fit")
            .field("trainer", &self.trainer)
            .finish_non_exhaustive()
    }
}

/// A model, and how good it is.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The model.
    pub model: FittedModel,
    /// How good it is.
    pub report: Report,
    /// The step whose weights it has.
    pub step: usize,
}

impl FitConfig {
    /// Rows of a window.
    fn rows(&self, data: &Data) -> usize {
        match (self.window, self.kind) {
            (0, Kind::Sde) if !data.has_gaps() => 2,
            (0, _) => ROWS,
            (rows, _) => rows,
        }
    }

    /// The steps in which every window is seen once.
    ///
    /// # Errors
    /// If the data cannot be learnt from.
    pub fn steps_per_epoch(&self, table: &Trajectories) -> Result<usize, FitError> {
        self.validate()?;
        let data = Data::new(table, self.validation, self.seed)?;
        let windows = windows(&data.training, self.rows(&data)).len();
        Ok(windows.div_ceil(self.batch))
    }
}

impl Fit {
    /// Begins a fit on the processor.
    ///
    /// # Errors
    /// If a setting is out of range, or there is too little to learn from.
    pub fn new(config: &FitConfig, table: &Trajectories) -> Result<Self, FitError> {
        config.validate()?;
        let regulariser = config.regularisation.regulariser(config.steps.max(1))?;
        let data = Data::new(table, config.validation, config.seed)?;
        let fitted = FittedConfig::new(config, table, data.scaling.clone());
        let device = Device::flex().autodiff();
        let network = fitted.network(&device, &mut SeededNoise::new(config.seed, WEIGHTS))?;
        let rows = config.rows(&data);
        let windows = windows(&data.training, rows);
        let (starts, first) = match config.kind {
            Kind::Ode => missing(&data, &windows),
            // The likelihood has a distribution of them.
            Kind::Sde => (HashMap::new(), Vec::new()),
        };
        let learnt = Learnt {
            network,
            starts: (!first.is_empty())
                .then(|| Param::from_tensor(Tensor::<1>::from_floats(first.as_slice(), &device))),
        };
        let task = FitTask {
            config: config.clone(),
            order: EpochOrder::new(windows.len(), config.batch, config.seed),
            pieces: pieces(&data.training, rows),
            held_out: pieces(&data.held_out, rows),
            data_print: print_of(table),
            regulariser,
            windows,
            starts,
            data,
            rows,
        };
        let trainer = TrainerConfig {
            steps: config.steps,
            optimizer: config.optimizer.clone(),
            ..TrainerConfig::default()
        };
        let held_out = !task.held_out.is_empty();
        let mut trainer = Trainer::new(trainer, task, learnt)?;
        if config.gradient_clip > 0.0 {
            trainer = trainer.with_transform(ClipByNorm(config.gradient_clip));
        }
        if config.keep == Keep::Best && held_out {
            trainer = trainer.keeping_best(|measured: &Measured| {
                measured.validation.map_or(f64::NAN, |error| -error)
            });
        }
        Ok(Self { fitted, trainer })
    }

    /// Goes on from a checkpoint, bit for bit.
    ///
    /// # Errors
    /// If it cannot be read, or belongs to another fit.
    pub fn resume(self, checkpoint: &Path) -> Result<Self, FitError> {
        Ok(Self {
            trainer: self.trainer.resume(checkpoint)?,
            ..self
        })
    }

    /// Trains until all steps are done or `observe` breaks.
    ///
    /// - `checkpoint`: a file to which the training is saved after each measurement
    ///
    /// # Errors
    /// If the solver fails, a loss is not finite, or the file cannot be written.
    pub fn run(
        &mut self,
        checkpoint: Option<&Path>,
        observe: Observer<'_, Measured>,
    ) -> Result<(), FitError> {
        Ok(self.trainer.run(checkpoint, observe)?)
    }

    /// What was measured so far.
    pub fn history(&self) -> &History<Measured> {
        self.trainer.history()
    }

    /// The model with its present weights, or the best if those are kept, and how good it is.
    ///
    /// # Errors
    /// If the solver fails on what was learnt.
    pub fn finish(&self) -> Result<Fitted, FitError> {
        let (step, learnt) = match self.trainer.best()? {
            Some((number, model)) => {
                let measured = self.history().epochs.get(number);
                (measured.map_or(0, |measured| measured.step), model)
            }
            None => (self.trainer.step(), self.trainer.model().clone()),
        };
        let learnt = learnt.valid();
        let report = self.trainer.task().report(&learnt.network)?;
        Ok(Fitted {
            model: FittedModel::new(self.fitted.clone(), learnt.network),
            report,
            step,
        })
    }
}

fn print_of(table: &Trajectories) -> String {
    let mut bytes = Vec::new();
    for trajectory in &table.trajectories {
        bytes.extend_from_slice(trajectory.name.as_bytes());
        bytes.push(0);
        for time in &trajectory.times {
            bytes.extend_from_slice(&time.to_le_bytes());
        }
        for value in &trajectory.values {
            bytes.extend_from_slice(&value.unwrap_or(f64::NAN).to_le_bytes());
        }
    }
    format!("{:?}", fingerprint(&bytes))
}

/// A number that is missing: its series, its row and its column.
type Missing = (usize, usize, usize);

/// The numbers that are missing where windows begin, with what they are at first.
fn missing(data: &Data, windows: &[Window]) -> (HashMap<Missing, usize>, Vec<f32>) {
    let (mut places, mut first) = (HashMap::new(), Vec::new());
    for window in windows {
        let series = &data.training[window.series];
        for column in 0..data.columns {
            let cell = window.first * data.columns + column;
            if !series.observed[cell] {
                places
                    .entry((window.series, window.first, column))
                    .or_insert_with(|| {
                        first.push(series.interpolated[cell] as f32);
                        first.len() - 1
                    });
            }
        }
    }
    (places, first)
}

/// The task; [`Fit::new`] makes it.
#[derive(Debug)]
pub struct FitTask {
    config: FitConfig,
    data: Data,
    /// Rows of a window.
    rows: usize,
    windows: Vec<Window>,
    /// Where the numbers that are missing in their first rows are.
    starts: HashMap<Missing, usize>,
    /// To measure with.
    pieces: Vec<Window>,
    held_out: Vec<Window>,
    order: EpochOrder,
    regulariser: Regulariser,
    data_print: String,
}

/// The windows of a step.
#[derive(Clone, Debug)]
pub struct Step {
    number: usize,
    windows: Vec<Window>,
}

impl FitTask {
    /// The rows of a window in a step.
    fn horizon(&self, step: usize) -> usize {
        let growing = self.config.growth * self.config.steps as f64;
        let share = match growing > 0.0 {
            true => (step as f64 / growing).min(1.0),
            false => 1.0,
        };
        2 + ((self.rows - 2) as f64 * share).floor() as usize
    }

    /// Rows that begin as a window does, or with a complete row before the next window does, so that every one is a start:
    /// from a few starts alone, a network learns their noise.
    fn drawn(&self, window: Window, rows: usize, draws: &mut SeededNoise) -> Window {
        let series = &self.data.training[window.series];
        let rows = rows.min(window.rows);
        let later = stride(self.rows).saturating_sub(1).max(window.rows - rows);
        let last = (window.first + later).min(series.len() - rows);
        let complete = |&row: &usize| series.is_complete(row, self.data.columns);
        let firsts = (window.first + 1..=last).filter(complete);
        let firsts: Vec<usize> = std::iter::once(window.first).chain(firsts).collect();
        Window {
            first: firsts[draws.random_range(0..firsts.len())],
            rows,
            ..window
        }
    }

    fn shooting_loss(&self, model: &Learnt, step: &Step) -> Result<Tensor<1>, FitError> {
        let (columns, device) = (self.data.columns, Device::flex().autodiff());
        let timed = self.config.time_dependent;
        let batch = Batch::new(&self.data, &self.data.training, &step.windows, timed);
        let known = batch.starts(|series| &series.values);
        let shape = [step.windows.len(), columns];
        let starts = model.starts.as_ref().map(Param::val);
        // Numbers that were seen, then those that are learnt.
        let start = match &starts {
            None => matrix(&known, columns, &device),
            Some(learnt) => {
                let mut places: Vec<i64> = (0..known.len() as i64).collect();
                for (row, window) in step.windows.iter().enumerate() {
                    for column in 0..columns {
                        if let Some(&place) =
                            self.starts.get(&(window.series, window.first, column))
                        {
                            places[row * columns + column] = (known.len() + place) as i64;
                        }
                    }
                }
                let known = matrix(&known, 1, &device).reshape([known.len()]);
                let all = Tensor::cat(vec![known, learnt.clone()], 0);
                all.select(0, indices(&places, &device)).reshape(shape)
            }
        };
        let solver = self.config.solver(batch.longest());
        let mut draws = SeededNoise::new(self.config.seed, TIMES + step.number as u64);
        let solved = batch.solve(
            &model.network,
            start,
            &solver,
            self.regulariser,
            step.number,
            &mut draws,
        )?;
        let [values, mask] = batch.observed();
        let mut count = mask.iter().sum::<f64>();
        let difference = solved.predicted.clone() - matrix(&values, columns, &device);
        let mut sum = (difference.square() * matrix(&mask, columns, &device)).sum();
        if let Some(learnt) = starts {
            // Where another window begins with a number that is learnt.
            let [mut ends, mut begins] = [Vec::new(), Vec::new()];
            for (place, (series, row)) in batch.rows().enumerate() {
                for column in 0..columns {
                    if let Some(&begin) = self.starts.get(&(series, row, column)) {
                        ends.push((place * columns + column) as i64);
                        begins.push(begin as i64);
                    }
                }
            }
            if !ends.is_empty() {
                let numbers = solved.predicted.dims()[0] * columns;
                let ends_of = solved.predicted.reshape([numbers]);
                let difference = ends_of.select(0, indices(&ends, &device))
                    - learnt.select(0, indices(&begins, &device));
                sum = sum + difference.square().sum();
                count += ends.len() as f64;
            }
        }
        let loss = sum / count.max(1.0);
        Ok(match solved.penalty {
            Some(penalty) => loss + penalty.reshape([1]),
            None => loss,
        })
    }

    fn likelihood_loss(&self, model: &Learnt, step: &Step) -> Tensor<1> {
        let (sum, count) = surprise(
            &self.data,
            &self.data.training,
            &step.windows,
            &model.network,
            self.config.time_dependent,
            self.config.substeps,
            &Device::flex().autodiff(),
        );
        sum / count.max(1.0)
    }

    /// The mean negative log likelihood of a number.
    fn likelihood(
        &self,
        series: &[Series],
        windows: &[Window],
        network: &FittedNetwork,
    ) -> Option<f64> {
        let (mut sum, mut count) = (0.0, 0.0);
        for some in windows.chunks(TOGETHER) {
            let (timed, substeps) = (self.config.time_dependent, self.config.substeps);
            let device = Device::flex();
            let found = surprise(&self.data, series, some, network, timed, substeps, &device);
            sum += found.0.into_data().iter::<f64>().sum::<f64>();
            count += found.1;
        }
        let mean: f64 = sum / count;
        mean.is_finite().then_some(mean)
    }

    fn measured(&self, network: &FittedNetwork, step: usize) -> Measured {
        let data = &self.data;
        let parts = [
            (&data.training, &self.pieces),
            (&data.held_out, &self.held_out),
        ];
        let mut evaluations = None;
        let [training, validation] = parts.map(|(series, windows)| match self.config.kind {
            _ if windows.is_empty() => None,
            Kind::Sde => self.likelihood(series, windows, network),
            Kind::Ode => {
                let squares = of_model(&self.config, data, series, windows, network).ok()?;
                evaluations = evaluations.or(squares.evaluations());
                squares.error()
            }
        });
        Measured {
            step,
            training,
            validation,
            evaluations,
        }
    }

    fn report(&self, network: &FittedNetwork) -> Result<Report, FitError> {
        let (data, unit) = (&self.data, self.data.scaling.unit);
        let constant = Baseline::constant(&data.training, data.columns, unit);
        let linear = Baseline::linear(&data.training, data.columns, unit);
        let errors = |series: &[Series], windows: &[Window], model: Option<f64>| Errors {
            model,
            constant: of_baseline(&constant, data, series, windows).error(),
            linear: linear
                .as_ref()
                .and_then(|linear| of_baseline(linear, data, series, windows).error()),
        };
        let squares = of_model(&self.config, data, &data.training, &self.pieces, network)?;
        let forecast = |windows: &[Window]| {
            let series = &data.held_out;
            (!windows.is_empty()).then(|| {
                // A forecast that goes to infinity is bad, but no failure of the fit.
                let found = of_model(&self.config, data, series, windows, network);
                errors(series, windows, found.ok().and_then(|found| found.error()))
            })
        };
        let whole: Vec<Window> = (0..data.held_out.len())
            .map(|series| Window {
                series,
                first: 0,
                rows: data.held_out[series].len(),
            })
            .collect();
        let likelihood = |series: &[Series], windows: &[Window]| {
            let stochastic = self.config.kind == Kind::Sde && !windows.is_empty();
            stochastic.then(|| Errors {
                model: self.likelihood(series, windows, network),
                constant: constant.likelihood(series, data.columns, unit),
                linear: linear
                    .as_ref()
                    .and_then(|linear| linear.likelihood(series, data.columns, unit)),
            })
        };
        Ok(Report {
            window: self.rows,
            training: errors(&data.training, &self.pieces, squares.error()),
            validation: forecast(&self.held_out),
            to_the_end: forecast(&whole),
            training_likelihood: likelihood(&data.training, &self.pieces),
            validation_likelihood: likelihood(&data.held_out, &self.held_out),
            evaluations: squares.evaluations(),
        })
    }
}

impl Task for FitTask {
    type Model = Learnt;
    type Batch = Step;
    type Report = Measured;

    fn batch(&mut self, learner: &Learner<Learnt>) -> Result<Step, TrainingError> {
        let number = learner.step();
        let chosen = self.order.batch(number).to_vec();
        let mut draws = SeededNoise::new(self.config.seed, PLACES + number as u64);
        let windows = chosen.into_iter().map(|i| match self.config.kind {
            Kind::Ode => self.drawn(self.windows[i], self.horizon(number), &mut draws),
            Kind::Sde => self.windows[i],
        });
        let windows = windows.collect();
        Ok(Step { number, windows })
    }

    fn loss(&mut self, model: &Learnt, step: Step) -> Result<Tensor<1>, TrainingError> {
        match self.config.kind {
            Kind::Sde => Ok(self.likelihood_loss(model, &step)),
            Kind::Ode => self
                .shooting_loss(model, &step)
                .map_err(|error| TrainingError::Failed(Box::new(error))),
        }
    }

    fn evaluate(&mut self, model: &Learnt, step: usize) -> Result<Option<Measured>, TrainingError> {
        let every = self.config.steps.div_ceil(self.config.measurements).max(1);
        let due = step.is_multiple_of(every) || step == self.config.steps;
        Ok(due.then(|| self.measured(&model.valid().network, step)))
    }

    fn settings(&self) -> Value {
        let mut config = json!(self.config);
        // The trainer says what of this counts.
        if let Some(fields) = config.as_object_mut() {
            fields.remove("optimizer");
        }
        json!({ "fit": config, "data": self.data_print })
    }
}
