//! Several optimizers on one task, each at its best learning rate.
//!
//! 1. *Search.* Each optimizer gets the same number `n` of trials. With its own centre `η₀` (its [learning
//!    rate](crate::optimizer::OptimizerConfig::learning_rate)) and the spacing `s`, trial `k` has the
//!    learning rate `η₀ s^(k − (n − 1)/2)`, rounded down in the exponent for even `n`. The model is trained
//!    on the training examples without the [validation
//!    part](crate::data_set::DataConfig::open_for_validation), and measured on that part. The seed is the
//!    experiment's. The best accuracy wins; with equal accuracies, the lowest loss. A trial that diverges
//!    ranks last.
//! 2. *Final.* With that learning rate, the model is trained on all training examples, once per seed, and
//!    measured on the test examples, which the search has not seen.
//!
//! A best learning rate at an end of the grid is reported
//! ([`Standing::at_edge`]): the optimizer might do better beyond it.
//!
//! Every finished run is stored in a file, and is not repeated.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use nabla_base::Repeated;
use nabla_base::range::{self, OutOfRange};
use nabla_base::words::csv_field;
use nabla_grad::fingerprint::fingerprint;
use serde::{Deserialize, Serialize};

use crate::data_set::DataSet;
use crate::error::TrainingError;
use crate::experiment::{Experiment, ExperimentError};
use crate::history::EpochRecord;
use crate::optimizer::OptimizerConfig;
use crate::run_store::{RunStore, RunStoreError};
use crate::trainer::Progress;

/// The reason why a comparison fails.
#[derive(Debug, thiserror::Error)]
pub enum ComparisonError {
    /// A training.
    #[error("{label}: {source}")]
    Training {
        /// The optimizer's label.
        label: String,
        /// The error.
        source: Box<ExperimentError>,
    },
    /// The data.
    #[error(transparent)]
    Data(Box<ExperimentError>),
    /// A value is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// Two optimizers or seeds are the same.
    #[error(transparent)]
    Repeated(#[from] Repeated),
    /// The file of runs.
    #[error(transparent)]
    Runs(#[from] RunStoreError),
}

/// One of the optimizers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contender {
    /// Its name in tables and plots; `None` for the method's name.
    #[serde(default)]
    pub label: Option<String>,
    /// The optimizer; its learning rate is the middle of the search.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
}

impl Contender {
    /// Its label.
    pub fn label(&self) -> &str {
        let name = || self.optimizer.name();
        self.label.as_deref().unwrap_or_else(name)
    }
}

/// A comparison; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Comparison {
    /// The task; its optimizer is replaced.
    pub experiment: Experiment,
    /// The optimizers. Default: momentum, AdamW, AdamP, AdaBelief and diffGrad.
    pub contenders: Vec<Contender>,
    /// The number of learning rates to try for each. Default 5.
    pub trials: usize,
    /// The ratio of neighbouring learning rates, above 1. Default √10.
    pub spacing: f64,
    /// Seeds of the final runs. Default 1, 2 and 3.
    pub seeds: Vec<u64>,
}

impl Default for Comparison {
    fn default() -> Self {
        let contender = |name: &str| Contender {
            label: None,
            optimizer: OptimizerConfig::named(name).unwrap_or_default(),
        };
        Self {
            experiment: Experiment::default(),
            contenders: ["momentum", "adamw", "adamp", "adabelief", "diffgrad"]
                .map(contender)
                .to_vec(),
            trials: 5,
            spacing: 10_f64.sqrt(),
            seeds: vec![1, 2, 3],
        }
    }
}

/// The purpose of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// To choose the learning rate.
    Search,
    /// To be reported.
    Final,
}

/// A finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The optimizer's label.
    pub label: String,
    /// Its purpose.
    pub phase: Phase,
    /// The highest learning rate of the schedule.
    pub learning_rate: f64,
    /// The seed.
    pub seed: u64,
    /// The epochs; fewer than requested if it diverged.
    pub epochs: Vec<EpochRecord>,
    /// Why it ended early.
    pub diverged: Option<String>,
    /// Steps done.
    pub steps: usize,
    /// Seconds per step, in total.
    pub step_seconds: f64,
    /// Seconds of the optimizer's part of a step.
    pub optimizer_seconds: f64,
    /// Bytes that the optimizer stores between two steps.
    pub state_bytes: u64,
}

impl RunRecord {
    /// The value that the search compares: higher is better.
    fn rank(&self) -> (f64, f64) {
        match (&self.diverged, self.epochs.last()) {
            (None, Some(last)) if last.test_loss.is_finite() => {
                (last.test_accuracy, -last.test_loss)
            }
            _ => (f64::NEG_INFINITY, f64::NEG_INFINITY),
        }
    }
}

/// Mean and spread over the seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the sample; 0 for one seed.
    pub deviation: f64,
    /// Least.
    pub min: f64,
    /// Highest.
    pub max: f64,
}

impl Spread {
    /// The spread of some values; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Some(Self {
            mean,
            deviation: (squares / (n - 1.0).max(1.0)).sqrt(),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    }
}

/// The result for one optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// Its label.
    pub label: String,
    /// The method's name.
    pub method: String,
    /// The learning rate that the search found; `None` if all trials diverged.
    pub learning_rate: Option<f64>,
    /// Whether it is the lowest or the highest that was tried.
    pub at_edge: bool,
    /// Mean training loss of the last epoch, over the seeds that did not diverge.
    pub training_loss: Option<Spread>,
    /// Test loss after it.
    pub test_loss: Option<Spread>,
    /// Test accuracy after it, in `[0, 1]`.
    pub test_accuracy: Option<Spread>,
    /// The test accuracy of every seed, in their order; `None` where it diverged.
    pub accuracies: Vec<Option<f64>>,
    /// The mean over the seeds of every epoch.
    pub curve: Vec<EpochRecord>,
    /// Seconds of a step.
    pub step_seconds: Option<f64>,
    /// Seconds of the optimizer's part of it.
    pub optimizer_seconds: Option<f64>,
    /// Bytes that the optimizer stores between two steps.
    pub state_bytes: Option<u64>,
}

/// The progress of a comparison.
#[derive(Clone, Copy, Debug)]
pub enum ComparisonEvent<'a> {
    /// The data were read; reported once, before the first run.
    Data(&'a DataSet),
    /// A run begins.
    Begin {
        /// Its number, from 0.
        run: usize,
        /// The number of runs in all.
        runs: usize,
        /// The optimizer's label.
        label: &'a str,
        /// Its purpose.
        phase: Phase,
        /// Its learning rate.
        learning_rate: f64,
        /// Its seed.
        seed: u64,
    },
    /// A step of it.
    Step(Progress<'a>),
    /// It is finished, now or in an earlier call.
    End(&'a RunRecord),
}

impl Comparison {
    fn validate(&self) -> Result<(), ComparisonError> {
        let optimizers = self.contenders.len();
        range::at_least("comparison's number of optimizers", optimizers, 1)?;
        range::check(
            (1..=101).contains(&self.trials),
            "comparison's number of trials",
            self.trials,
            "between 1 and 101",
        )?;
        range::check(
            self.spacing > 1.0 && self.spacing.is_finite(),
            "comparison's spacing",
            self.spacing,
            "more than 1 and finite",
        )?;
        range::at_least("comparison's number of seeds", self.seeds.len(), 1)?;
        Repeated::check("seed", &self.seeds, u64::to_string)?;
        let labels: Vec<&str> = self.contenders.iter().map(Contender::label).collect();
        Repeated::check("optimizer", &labels, |label| (*label).to_owned())?;
        for contender in &self.contenders {
            let label = contender.label();
            contender
                .optimizer
                .validate()
                .map_err(|e| failed(label, TrainingError::from(e).into()))?;
        }
        let training = self.experiment.training.validate();
        training.map_err(|e| ComparisonError::Data(Box::new(e.into())))
    }

    /// The learning rates of the search for one optimizer, rising.
    pub fn grid(&self, optimizer: &OptimizerConfig) -> Vec<f64> {
        let middle = (self.trials as i32 - 1) / 2;
        (0..self.trials as i32)
            .map(|k| optimizer.learning_rate() * self.spacing.powi(k - middle))
            .collect()
    }

    /// The number of runs in all.
    pub fn runs(&self) -> usize {
        // One learning rate needs no search.
        let search = if self.trials > 1 { self.trials } else { 0 };
        self.contenders.len() * (search + self.seeds.len())
    }

    /// Runs the comparison, or resumes it.
    ///
    /// - `device`: where to compute, without autodiff
    /// - `folder`: where finished runs are [stored](crate::run_store)
    /// - `observe`: is called after every step; if it breaks, the function returns the results so far
    /// - returns the results, in the order of the contenders, and every run
    ///
    /// # Errors
    /// If a value is out of range, the data cannot be read, the folder belongs to another comparison, or a
    /// file cannot be written. A run that diverges is not an error.
    pub fn run(
        &self,
        device: &Device,
        folder: Option<&Path>,
        observe: &mut dyn FnMut(ComparisonEvent<'_>) -> ControlFlow<()>,
    ) -> Result<(Vec<Standing>, Vec<RunRecord>), ComparisonError> {
        self.validate()?;
        // Before the data are read, which may take long.
        let mut store = RunStore::open(self, folder)?;
        let data = |open: Result<DataSet, _>| {
            open.map_err(|e: crate::data_set::DataError| ComparisonError::Data(Box::new(e.into())))
        };
        let whole = data(self.experiment.data.open())?;
        for contender in &self.contenders {
            let mut experiment = self.experiment.clone();
            experiment.training.optimizer = contender.optimizer.clone();
            experiment
                .check(&whole, device)
                .map_err(|source| failed(contender.label(), source))?;
        }
        let examples = [&whole.training, &whole.test].map(|part| part.fingerprint());
        store.of_examples(&fingerprint(examples.concat().as_bytes()))?;
        if observe(ComparisonEvent::Data(&whole)).is_break() {
            return Ok(self.ended(store));
        }
        let mut number = 0;
        if self.trials > 1 {
            let tuning = data(self.experiment.data.open_for_validation())?;
            for contender in &self.contenders {
                for rate in self.grid(&contender.optimizer) {
                    let run = Run {
                        comparison: self,
                        contender,
                        data: &tuning,
                        phase: Phase::Search,
                        rate,
                        seed: self.experiment.training.seed,
                        number,
                    };
                    number += 1;
                    if run.done(device, &mut store, observe)?.is_break() {
                        return Ok(self.ended(store));
                    }
                }
            }
        }
        for contender in &self.contenders {
            let rate = self.chosen(contender, store.runs());
            for &seed in &self.seeds {
                // If every trial diverged, there is nothing to report.
                let Some(rate) = rate else {
                    number += 1;
                    continue;
                };
                let run = Run {
                    comparison: self,
                    contender,
                    data: &whole,
                    phase: Phase::Final,
                    rate,
                    seed,
                    number,
                };
                number += 1;
                if run.done(device, &mut store, observe)?.is_break() {
                    return Ok(self.ended(store));
                }
            }
        }
        Ok(self.ended(store))
    }

    fn ended(&self, store: RunStore<RunRecord>) -> (Vec<Standing>, Vec<RunRecord>) {
        let runs = store.into_runs();
        (self.standings(&runs), runs)
    }

    /// The learning rate of the best trial.
    fn chosen(&self, contender: &Contender, runs: &[RunRecord]) -> Option<f64> {
        if self.trials == 1 {
            return Some(contender.optimizer.learning_rate());
        }
        let trials = runs
            .iter()
            .filter(|r| r.phase == Phase::Search && r.label == contender.label());
        let best = trials.max_by(|a, b| {
            let ((a, a_loss), (b, b_loss)) = (a.rank(), b.rank());
            a.total_cmp(&b).then(a_loss.total_cmp(&b_loss))
        })?;
        best.rank().0.is_finite().then_some(best.learning_rate)
    }

    fn standings(&self, runs: &[RunRecord]) -> Vec<Standing> {
        let standing = |contender: &Contender| {
            let label = contender.label();
            let rate = self.chosen(contender, runs);
            let grid = self.grid(&contender.optimizer);
            let all: Vec<&RunRecord> = runs
                .iter()
                .filter(|r| r.phase == Phase::Final && r.label == label)
                .collect();
            let whole: Vec<&&RunRecord> = all.iter().filter(|r| r.diverged.is_none()).collect();
            let last = |value: fn(&EpochRecord) -> f64| {
                let values = whole.iter().filter_map(|r| r.epochs.last().map(value));
                Spread::of(&values.collect::<Vec<_>>())
            };
            let mean = |value: fn(&RunRecord) -> f64| {
                let values: Vec<f64> = whole.iter().map(|r| value(r)).collect();
                Spread::of(&values).map(|s| s.mean)
            };
            let epochs = whole.iter().map(|r| r.epochs.len()).min().unwrap_or(0);
            let curve = (0..epochs).map(|i| {
                let mean = |value: fn(&EpochRecord) -> f64| {
                    let sum: f64 = whole.iter().map(|r| value(&r.epochs[i])).sum();
                    sum / whole.len() as f64
                };
                EpochRecord {
                    epoch: i + 1,
                    training_loss: mean(|e| e.training_loss),
                    training_accuracy: mean(|e| e.training_accuracy),
                    test_loss: mean(|e| e.test_loss),
                    test_accuracy: mean(|e| e.test_accuracy),
                }
            });
            Standing {
                label: label.to_owned(),
                method: contender.optimizer.name().to_owned(),
                at_edge: self.trials > 1
                    && rate.is_some()
                    && (rate == grid.first().copied() || rate == grid.last().copied()),
                learning_rate: rate,
                training_loss: last(|e| e.training_loss),
                test_loss: last(|e| e.test_loss),
                test_accuracy: last(|e| e.test_accuracy),
                accuracies: all
                    .iter()
                    .map(|r| {
                        let last = r.epochs.last().map(|e| e.test_accuracy);
                        last.filter(|_| r.diverged.is_none())
                    })
                    .collect(),
                curve: curve.collect(),
                step_seconds: mean(|r| r.step_seconds),
                optimizer_seconds: mean(|r| r.optimizer_seconds),
                state_bytes: whole.first().map(|r| r.state_bytes),
            }
        };
        self.contenders.iter().map(standing).collect()
    }
}

/// The results as a CSV table with a header: means and deviations over the seeds; cells of diverged runs are
/// empty.
pub fn standings_csv(standings: &[Standing]) -> String {
    let mut text = String::from(
        "optimizer,method,learning_rate,at_edge,test_accuracy,test_accuracy_deviation,test_loss,\
         test_loss_deviation,training_loss,training_loss_deviation,step_seconds,optimizer_seconds,\
         state_bytes\n",
    );
    let number = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
    for s in standings {
        let mut cells = vec![
            csv_field(&s.label),
            s.method.clone(),
            number(s.learning_rate),
            s.at_edge.to_string(),
        ];
        for value in [s.test_accuracy, s.test_loss, s.training_loss] {
            cells.push(number(value.map(|v| v.mean)));
            cells.push(number(value.map(|v| v.deviation)));
        }
        cells.push(number(s.step_seconds));
        cells.push(number(s.optimizer_seconds));
        cells.push(s.state_bytes.map_or(String::new(), |b| b.to_string()));
        text += &(cells.join(",") + "\n");
    }
    text
}

fn failed(label: &str, source: ExperimentError) -> ComparisonError {
    ComparisonError::Training {
        label: label.to_owned(),
        source: Box::new(source),
    }
}

struct Run<'a> {
    comparison: &'a Comparison,
    contender: &'a Contender,
    data: &'a DataSet,
    phase: Phase,
    rate: f64,
    seed: u64,
    number: usize,
}

impl Run<'_> {
    /// Makes the run, unless it is stored.
    fn done(
        &self,
        device: &Device,
        store: &mut RunStore<RunRecord>,
        observe: &mut dyn FnMut(ComparisonEvent<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ComparisonError> {
        let label = self.contender.label();
        let begin = ComparisonEvent::Begin {
            run: self.number,
            runs: self.comparison.runs(),
            label,
            phase: self.phase,
            learning_rate: self.rate,
            seed: self.seed,
        };
        if observe(begin).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let is_this = |r: &&RunRecord| {
            r.label == label
                && r.phase == self.phase
                && r.learning_rate.to_bits() == self.rate.to_bits()
                && r.seed == self.seed
        };
        if let Some(known) = store.runs().iter().find(is_this) {
            return Ok(observe(ComparisonEvent::End(known)));
        }
        let mut experiment = self.comparison.experiment.clone();
        experiment.training.seed = self.seed;
        experiment.training.optimizer = OptimizerConfig {
            learning_rate: Some(self.rate),
            ..self.contender.optimizer.clone()
        };
        let mut epochs: Vec<EpochRecord> = Vec::new();
        let mut steps = 0;
        let outcome = experiment.run_on(self.data, device, None, &mut |progress| {
            epochs.extend(progress.epoch);
            steps = progress.step;
            observe(ComparisonEvent::Step(progress))
        });
        let record = |epochs, diverged, [step, optimizer]: [f64; 2], state_bytes| RunRecord {
            label: label.to_owned(),
            phase: self.phase,
            learning_rate: self.rate,
            seed: self.seed,
            epochs,
            diverged,
            steps,
            step_seconds: step,
            optimizer_seconds: optimizer,
            state_bytes,
        };
        let record = match outcome {
            Ok(outcome) if !outcome.finished => return Ok(ControlFlow::Break(())),
            Ok(outcome) => {
                let timing = outcome.history.timing;
                let times = [timing.steps, timing.optimizer].map(|s| s / steps.max(1) as f64);
                record(epochs, None, times, outcome.state_bytes)
            }
            Err(error) if error.is_divergence() => {
                record(epochs, Some(error.to_string()), [0.0; 2], 0)
            }
            Err(error) => return Err(failed(label, error)),
        };
        let flow = observe(ComparisonEvent::End(&record));
        store.push(record)?;
        Ok(flow)
    }
}

#[cfg(test)]
mod tests;
