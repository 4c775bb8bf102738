//! Trains one small network with several optimizers, each with a learning rate found by a search with the
//! same budget. The claims about optimizers share this module, and it works with your own optimizers.
//!
//! The task, unless it is [given](Contest::on), is the sample of Fashion-MNIST in the repository:
//! 1000 training and all 1000 test pictures, a network of two convolutions with batch normalisation,
//! batches of 32 and a learning rate that falls to 0 along a cosine. The search is that of
//! [`nabla_train::comparison`].
//!
//! Inside the `run` of your own claim about your own optimizer:
//!
//! ```
//! use burn::optim::SgdConfig;
//! use nabla_claims::{Bench, ClaimError, Measurement, Table, Task, Variant};
//! use nabla_optim_experiments::training_contest::{
//!     ACCURACY, Contest, entrant, metrics, other_entrant,
//! };
//! use nabla_train::optimizer::{Method, OtherOptimizer};
//!
//! const MINE: Variant = Variant::method("mine");
//! const SGD: Variant = Variant::baseline("SGD");
//! const TRAINING: Task = Task::named("training");
//!
//! fn run(bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
//!     // Anything that implements Burn's `Optimizer` goes in place of SGD.
//!     let mine = OtherOptimizer::new("mine", 0.05, |_weight_decay| SgdConfig::new().build());
//!     let sgd = Method::named("momentum").map_err(ClaimError::experiment)?;
//!     let entrants = vec![other_entrant(MINE, mine, 0.0), entrant(SGD, sgd, 0.0)];
//!     let contest = Contest::new(bench.context(), 6, entrants)?;
//!
//!     let mut table = Table::new(bench.seeds(), metrics(), [MINE, SGD], [TRAINING])?;
//!     let mut notes = vec![contest.describe()];
//!     let plot = contest.hold(bench, &TRAINING, &mut table, &mut notes, &mut |_, _| {})?;
//!     let check = table.compare(&TRAINING, &ACCURACY, &MINE, &SGD)?.headline();
//!     let mut measurement = Measurement::new(table, vec![check]).with_plot(plot);
//!     measurement.notes = notes;
//!     Ok(measurement)
//! }
//! # struct Mine;
//! # impl nabla_claims::Claim for Mine {
//! #     fn slug(&self) -> &str { "adamp" }
//! #     fn statement(&self) -> &str { "" }
//! #     fn criterion(&self) -> &str { "" }
//! #     fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> { run(bench) }
//! # }
//! # let progress = nabla_base::progress::NoProgress;
//! # let context = nabla_claims::ClaimContext::quick(burn::tensor::Device::flex(), &progress);
//! # nabla_claims::run_claim(&Mine, &context)?;
//! # Ok::<(), nabla_claims::ClaimError>(())
//! ```

use std::ops::ControlFlow;

use nabla_base::vector::norm;
use nabla_train::classification::TrainingConfig;
use nabla_train::cnn::{self, Cnn, CnnConfig};
use nabla_train::comparison::{Comparison, ComparisonEvent, Contender, Phase};
use nabla_train::data_set::{DataConfig, DataSet};
use nabla_train::examples::InputShape;
use nabla_train::experiment::{Experiment, ModelConfig};
use nabla_train::history::{EpochRecord, StepRecord};
use nabla_train::initialization::he_normal;
use nabla_train::normalization::Normalization;
use nabla_train::optimizer::{Method, OptimizerConfig, OtherOptimizer};

use nabla_claims::{
    Bench, Cell, ClaimContext, ClaimError, LinePlot, Metric, Series, Stage, Table, TableError,
    Task, Variant,
};
use serde::{Deserialize, Serialize};

/// The last epoch's accuracy on the test examples.
pub const ACCURACY: Metric = Metric::higher("test accuracy", "%");
/// The last epoch's loss on the test examples.
pub const LOSS: Metric = Metric::lower("test loss", "");
/// The learning rate that the search found.
pub const RATE: Metric = Metric::informative("learning rate", "");

/// The metrics of a training.
pub fn metrics() -> [Metric; 3] {
    [ACCURACY, LOSS, RATE]
}

/// The number of learning rates tried for each optimizer in a wide search, √10 apart: a range of a factor of
/// a thousand.
const WIDE: usize = 7;

/// The middle of a wide search for methods that divide a step by the size of the gradients. Five rates
/// around their customary 1e-3 end at 1e-2, which is the best of them for most on this small task.
pub const ADAPTIVE: f64 = 3e-3;

/// An entrant: a row of the table and its optimizer.
#[derive(Debug, Clone)]
pub struct Entrant {
    /// The row.
    pub variant: Variant,
    /// The optimizer; its learning rate is the middle of the search.
    pub optimizer: OptimizerConfig,
}

impl Entrant {
    /// Sets the middle of the search to `rate`.
    pub fn around(mut self, rate: f64) -> Self {
        self.optimizer.learning_rate = Some(rate);
        self
    }

    fn contender(&self) -> Contender {
        Contender {
            label: Some(self.variant.name().to_owned()),
            optimizer: self.optimizer.clone(),
        }
    }
}

/// Creates an entrant with your own optimizer, whose customary rate is the middle of its search.
pub fn other_entrant(variant: Variant, other: OtherOptimizer, weight_decay: f64) -> Entrant {
    Entrant {
        variant,
        optimizer: OptimizerConfig {
            weight_decay,
            ..OptimizerConfig::of(other)
        },
    }
}

/// Creates an entrant whose customary rate is the middle of its search.
pub fn entrant(variant: Variant, method: Method, weight_decay: f64) -> Entrant {
    Entrant {
        variant,
        optimizer: OptimizerConfig {
            weight_decay,
            ..OptimizerConfig::new(method)
        },
    }
}

/// The task and the entrants; see the [module documentation](self).
#[derive(Debug)]
pub struct Contest {
    comparison: Comparison,
    entrants: Vec<Entrant>,
    network: CnnConfig,
    data: DataSet,
}

/// The result of one training.
#[derive(Debug, Serialize, Deserialize)]
pub struct Trained {
    /// Its epochs, fewer than requested if it diverged.
    pub epochs: Vec<EpochRecord>,
    /// Its steps.
    pub steps: Vec<StepRecord>,
    /// The norm of a kernel at the end relative to that at the start, averaged over the kernels.
    pub growth: f64,
    /// Whether it diverged.
    pub diverged: bool,
}

impl Trained {
    /// The last epoch's accuracy in percent and loss on the test pictures; NaN if it diverged.
    fn last(&self) -> (f64, f64) {
        match self.epochs.last() {
            Some(last) if !self.diverged => (100.0 * last.test_accuracy, last.test_loss),
            _ => (f64::NAN, f64::NAN),
        }
    }

    /// Records the result in the table.
    ///
    /// # Errors
    /// If the table has no such task, variant, seed or metric, or already has the value.
    pub fn record(
        &self,
        table: &mut Table,
        task: &Task,
        variant: &Variant,
        rate: f64,
        seed: u64,
    ) -> Result<(), TableError> {
        let (accuracy, loss) = self.last();
        table.record(task, variant, &ACCURACY, seed, accuracy)?;
        table.record(task, variant, &LOSS, seed, loss)?;
        table.record(task, variant, &RATE, seed, rate)
    }
}

impl Contest {
    /// Creates a contest on the usual task with `epochs` epochs; the quick form is much smaller.
    ///
    /// # Errors
    /// If the data cannot be read.
    pub fn new(
        context: &ClaimContext<'_>,
        epochs: usize,
        entrants: Vec<Entrant>,
    ) -> Result<Self, ClaimError> {
        let network = CnnConfig {
            channels: vec![4, 8],
            normalization: Normalization::Batch,
        };
        let data = DataConfig {
            source: "fashion".into(),
            limit: Some(if context.quick { 160 } else { 1000 }),
            ..DataConfig::default()
        };
        let training = TrainingConfig {
            epochs: if context.quick { 1 } else { epochs },
            batch: 32,
            ..TrainingConfig::default()
        };
        let trials = if context.quick { 2 } else { 5 };
        Self::on(data, network, training, trials, entrants)
    }

    /// Creates a contest on another task.
    ///
    /// - `data`: must consist of pictures
    /// - `training`: the optimizer and the seed in it are replaced
    /// - `trials`: the number of learning rates tried for each entrant, √10 apart
    ///
    /// # Errors
    /// If the data cannot be read, or are not pictures.
    pub fn on(
        data: DataConfig,
        network: CnnConfig,
        training: TrainingConfig,
        trials: usize,
        entrants: Vec<Entrant>,
    ) -> Result<Self, ClaimError> {
        let experiment = Experiment {
            data,
            model: ModelConfig::Cnn(network.clone()),
            training,
            ..Experiment::default()
        };
        let data = experiment.data.open().map_err(ClaimError::experiment)?;
        if !matches!(data.shape, InputShape::Picture(_)) {
            return Err(ClaimError::experiment("the examples have to be pictures"));
        }
        let comparison = Comparison {
            experiment,
            contenders: entrants.iter().map(Entrant::contender).collect(),
            trials,
            ..Comparison::default()
        };
        Ok(Self {
            comparison,
            entrants,
            network,
            data,
        })
    }

    /// Returns the contest with a wider search for all entrants.
    pub fn searched_widely(mut self, context: &ClaimContext<'_>) -> Self {
        if !context.quick {
            self.comparison.trials = WIDE;
        }
        self
    }

    /// Describes the task in words.
    pub fn describe(&self) -> String {
        let data = match self.data.name.as_str() {
            "fashion" => "the bundled Fashion-MNIST",
            other => other,
        };
        let channels: Vec<String> = self.network.channels.iter().map(usize::to_string).collect();
        let count = match channels.len() {
            2 => "two".to_owned(),
            other => other.to_string(),
        };
        format!(
            "Training: {} of {data} pictures, {} of them for the test, a network of {count} convolutions \
             ({} channels) with batch normalisation, {} epochs in batches of {}; {} learning rates, √10 \
             apart, were tried for each optimizer on a fifth of the training pictures.",
            self.data.training.len() + self.data.test.len(),
            self.data.test.len(),
            channels.join(" and "),
            self.comparison.experiment.training.epochs,
            self.comparison.experiment.training.batch,
            self.comparison.trials,
        )
    }

    /// The entrants.
    pub fn entrants(&self) -> &[Entrant] {
        &self.entrants
    }

    /// The task, the entrants and the search, in the form of [`nabla_train::comparison`].
    pub fn comparison(&self) -> &Comparison {
        &self.comparison
    }

    /// The configuration of the trainings.
    pub fn training(&self) -> &TrainingConfig {
        &self.comparison.experiment.training
    }

    /// The number of trained parameters: kernels of 3 x 3 without biases, gains and shifts, and the last
    /// layer.
    pub fn parameters(&self) -> usize {
        let InputShape::Picture([mut inputs, mut height, mut width]) = self.data.shape else {
            return 0;
        };
        let mut count = 0;
        for &channels in &self.network.channels {
            count += 9 * inputs * channels + 2 * channels;
            (inputs, height, width) = (channels, height / 2, width / 2);
        }
        count + (inputs * height * width + 1) * self.data.classes.len()
    }

    /// The number of steps per epoch.
    pub fn steps_per_epoch(&self) -> usize {
        let batch = self.comparison.experiment.training.batch;
        self.data.training.len().div_ceil(batch)
    }

    /// Searches the best learning rate of each entrant, and notes in words which of them are at an end of the
    /// rates tried. Each entrant's search is a cell.
    ///
    /// # Errors
    /// If a value of the task is out of range, or an entrant diverged at every rate.
    pub fn search(
        &self,
        bench: &Bench<'_>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<Found>, ClaimError> {
        let trials = self.comparison.trials;
        let found = bench.measure(
            &Stage::new("search of learning rates", &self.comparison),
            &self.entrants,
            |entrant| {
                let cell = Cell::whole().variant(&entrant.variant);
                cell.steps(trials as u64)
            },
            |entrant| self.searched(bench, entrant),
        )?;
        let pairs = || self.entrants.iter().zip(&found);
        let edge: Vec<&str> = pairs()
            .filter(|(_, found)| found.at_edge)
            .map(|(entrant, _)| entrant.variant.name())
            .collect();
        if !edge.is_empty() {
            notes.push(format!(
                "The best learning rate is the lowest or highest that was tried for: {}.",
                edge.join(", ")
            ));
        }
        pairs()
            .map(|(entrant, found)| match found.rate {
                Some(rate) => Ok(Found {
                    rate,
                    accuracy: found.accuracy,
                    loss: found.loss,
                }),
                None => {
                    let variant = &entrant.variant;
                    let reason = format!("{variant} diverged at every learning rate");
                    Err(ClaimError::experiment(reason))
                }
            })
            .collect()
    }

    fn searched(&self, bench: &Bench<'_>, entrant: &Entrant) -> Result<Searched, ClaimError> {
        let comparison = Comparison {
            contenders: vec![entrant.contender()],
            ..self.comparison.clone()
        };
        let mut observe = |event: ComparisonEvent<'_>| match event {
            // The trainings with these rates run where their weights can be observed.
            ComparisonEvent::Begin {
                phase: Phase::Final,
                ..
            } => ControlFlow::Break(()),
            ComparisonEvent::End(_) => {
                bench.progress().advance(1);
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        };
        let (standings, runs) = comparison
            .run(&bench.context().device, None, &mut observe)
            .map_err(ClaimError::experiment)?;
        let standing = standings.first();
        let rate = standing.and_then(|s| s.learning_rate);
        let best = runs
            .iter()
            .find(|run| run.phase == Phase::Search && Some(run.learning_rate) == rate);
        let last = best.and_then(|run| run.epochs.last());
        Ok(Searched {
            rate,
            at_edge: standing.is_some_and(|s| s.at_edge),
            accuracy: last.map_or(f64::NAN, |e| 100.0 * e.test_accuracy),
            loss: last.map_or(f64::NAN, |e| e.test_loss),
        })
    }

    /// Trains a network; `watch` sees it before the first and after each step. A training that diverges is
    /// not an error.
    ///
    /// # Errors
    /// If a value is out of range, or `watch` fails.
    pub fn train(
        &self,
        context: &ClaimContext<'_>,
        mut training: TrainingConfig,
        optimizer: &OptimizerConfig,
        rate: f64,
        seed: u64,
        watch: &mut dyn FnMut(&Cnn) -> Result<(), ClaimError>,
    ) -> Result<Trained, ClaimError> {
        training.seed = seed;
        training.optimizer = OptimizerConfig {
            learning_rate: Some(rate),
            ..optimizer.clone()
        };
        let InputShape::Picture(shape) = self.data.shape else {
            return Err(ClaimError::experiment("the examples have to be pictures"));
        };
        let device = context.device.clone().autodiff();
        let model = self
            .network
            .init(shape, self.data.classes.len(), &device)
            .map_err(ClaimError::experiment)?;
        let model = he_normal(model, seed).map_err(ClaimError::experiment)?;
        let data = &self.data;
        let mut trainer = training
            .trainer(&data.training, &data.test, data.shape, model)
            .map_err(ClaimError::experiment)?;
        let first = kernels(trainer.model())?;
        watch(trainer.model())?;
        let mut diverged = false;
        while trainer.step() < trainer.steps() && !diverged {
            match trainer.train_step() {
                Ok(_) => watch(trainer.model())?,
                Err(error) if error.is_divergence() => diverged = true,
                Err(error) => return Err(ClaimError::experiment(error)),
            }
        }
        Ok(Trained {
            epochs: trainer.history().epochs.clone(),
            steps: trainer.history().steps.clone(),
            growth: mean_of_kernels(&first, &kernels(trainer.model())?, |a, b| norm(b) / norm(a)),
            diverged,
        })
    }

    /// Searches the learning rates, trains with them once per seed, each training as a cell, and records the
    /// results; `see` gets every training. Returns the curves of the mean test accuracy.
    ///
    /// # Errors
    /// As [`search`](Self::search) and [`train`](Self::train), and if the table has other variants.
    pub fn hold(
        &self,
        bench: &Bench<'_>,
        task: &Task,
        table: &mut Table,
        notes: &mut Vec<String>,
        see: &mut dyn FnMut(&Variant, &Trained),
    ) -> Result<LinePlot, ClaimError> {
        let found = self.search(bench, notes)?;
        let rates: Vec<f64> = found.iter().map(|found| found.rate).collect();
        self.hold_with(bench, &rates, task, table, see)
    }

    /// Runs the contest like [`hold`](Self::hold), with known learning rates: those of [`search`](Self::search), in
    /// the order of the entrants.
    ///
    /// # Errors
    /// The errors of [`train`](Self::train), and an error if the table has other variants.
    pub fn hold_with(
        &self,
        bench: &Bench<'_>,
        rates: &[f64],
        task: &Task,
        table: &mut Table,
        see: &mut dyn FnMut(&Variant, &Trained),
    ) -> Result<LinePlot, ClaimError> {
        let entrants = self.entrants.iter().zip(rates);
        let points: Vec<(&Entrant, f64, u64)> = entrants
            .flat_map(|(entrant, &rate)| bench.seeds().iter().map(move |&s| (entrant, rate, s)))
            .collect();
        let trained = bench.measure(
            &Stage::new("trainings", &(&self.comparison, rates)),
            &points,
            |(entrant, _, seed)| Cell::of(task).variant(&entrant.variant).seed(*seed),
            |&(entrant, rate, seed)| {
                let training = self.training().clone();
                let watch = &mut |_: &Cnn| Ok(());
                self.train(
                    bench.context(),
                    training,
                    &entrant.optimizer,
                    rate,
                    seed,
                    watch,
                )
            },
        )?;
        let name = match self.data.name.as_str() {
            "fashion" => "Fashion-MNIST",
            other => other,
        };
        let mut plot = LinePlot::new(
            format!("{name}: mean test accuracy with the searched learning rates"),
            "epoch",
            "test accuracy (%)",
        );
        let seeds = bench.seeds().len();
        for (points, trainings) in points.chunks(seeds).zip(trained.chunks(seeds)) {
            let variant = &points[0].0.variant;
            let mut curve = vec![0.0; self.training().epochs];
            for (&(_, rate, seed), trained) in points.iter().zip(trainings) {
                trained.record(table, task, variant, rate, seed)?;
                for (i, sum) in curve.iter_mut().enumerate() {
                    *sum += trained
                        .epochs
                        .get(i)
                        .map_or(f64::NAN, |e| 100.0 * e.test_accuracy);
                }
                see(variant, trained);
            }
            let points = curve
                .iter()
                .enumerate()
                .filter(|(_, sum)| sum.is_finite())
                .map(|(i, sum)| [(i + 1) as f64, sum / seeds as f64]);
            plot = plot.with_series(Series::new(variant.name(), points));
        }
        Ok(plot)
    }
}

/// The result of the search for an entrant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// The best learning rate.
    pub rate: f64,
    /// The accuracy with it, in percent, on the training pictures that the search uses for measuring; NaN if
    /// there was only one rate to try, and so no search.
    pub accuracy: f64,
    /// The loss on the same pictures.
    pub loss: f64,
}

/// The result of a search, as its cell stores it.
#[derive(Serialize, Deserialize)]
struct Searched {
    /// `None` if the entrant diverged at every rate.
    rate: Option<f64>,
    at_edge: bool,
    accuracy: f64,
    loss: f64,
}

/// The kernels of a network, each as one vector.
///
/// # Errors
/// If the kernels cannot be read back.
pub fn kernels(model: &Cnn) -> Result<Vec<Vec<f64>>, ClaimError> {
    let read = |stage: &cnn::Stage| {
        let weight = stage.convolution.weight.val().without_autodiff();
        let values = weight
            .into_data()
            .try_to_vec::<f32>()
            .map_err(|e| ClaimError::experiment(format!("cannot read a kernel: {e}")))?;
        Ok(values.into_iter().map(f64::from).collect())
    };
    model.stages.iter().map(read).collect()
}

/// The mean of `f` of each kernel before and after.
pub fn mean_of_kernels(
    before: &[Vec<f64>],
    after: &[Vec<f64>],
    f: impl Fn(&[f64], &[f64]) -> f64,
) -> f64 {
    let sum: f64 = before.iter().zip(after).map(|(a, b)| f(a, b)).sum();
    sum / before.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use nabla_base::progress::NoProgress;

    const SGD: Variant = Variant::method("SGD");

    /// A watched training is that of [`Experiment`] bit for bit, and so is the count of parameters.
    #[test]
    fn a_watched_training_is_the_experiments() {
        let context = ClaimContext::quick(Device::flex(), &NoProgress);
        let sgd = entrant(SGD, "momentum".parse().unwrap(), 1e-4);
        let contest = Contest::new(&context, 9, vec![sgd]).unwrap();
        let mut seen = 0;
        let trained = contest
            .train(
                &context,
                contest.training().clone(),
                &contest.entrants()[0].optimizer,
                0.03,
                5,
                &mut |_| {
                    seen += 1;
                    Ok(())
                },
            )
            .unwrap();
        assert_eq!(seen, contest.steps_per_epoch() + 1);
        let mut experiment = contest.comparison.experiment.clone();
        experiment.training.seed = 5;
        experiment.training.optimizer = OptimizerConfig {
            learning_rate: Some(0.03),
            ..contest.entrants()[0].optimizer.clone()
        };
        let go = &mut |_: nabla_train::trainer::Progress<'_>| ControlFlow::Continue(());
        let whole = experiment.run(&Device::flex(), None, go).unwrap();
        assert_eq!(trained.epochs, whole.history.epochs);
        assert_eq!(trained.steps, whole.history.steps);
        assert_eq!(contest.parameters(), whole.parameters);
    }

    #[test]
    fn what_diverged_has_no_accuracy() {
        let trained = Trained {
            epochs: Vec::new(),
            steps: Vec::new(),
            growth: 1.0,
            diverged: true,
        };
        let task = Task::named("task");
        let mut table = Table::new(&[0], metrics(), [SGD], [task.clone()]).unwrap();
        trained.record(&mut table, &task, &SGD, 1e9, 0).unwrap();
        assert!(table.mean(&task, &SGD, &ACCURACY).unwrap().is_nan());
    }
}
