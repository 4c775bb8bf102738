//! Training by workers whose gradients are coded against stragglers.
//!
//! A leader has the models, and the workers compute the gradients of the chunks of a batch, some of them twice, as a
//! [scheme](crate::sequential_gradient_coding) says. The sequential schemes take up to `T` rounds for a gradient, so
//! `M ≥ T + 1` models are trained in turn, each with a seed of its own, and with the optimizer, the schedule, the
//! measurements and the checkpoint that it has when it is trained alone:
//!
//! ```text
//! leader, job t:   model m = t mod M hands out its weights and the number of its step, for its seed + m
//! workers:         Σ_{i∈chunk} ∇L_i / |B| of their chunks, with the sum of the losses and the number of right answers
//! leader:          decodes the gradient of the batch; the model takes its step
//! ```
//!
//! [`train`] runs it on threads of this process, and [`train_on`] is one rank of any [`Communicator`]: rank 0 leads,
//! and the others are the workers. With repetition codes the bits don't depend on who straggles, so that threads and
//! processes give the same; see [`run`](crate::sequential_gradient_coding::run).
//!
//! A model that normalises by the batch is refused: a chunk has other statistics than its batch.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::thread;

use burn::tensor::Device;
use nabla_base::range::OutOfRange;
use nabla_base::words::panic_message;
use nabla_train::data_set::DataSet;
use nabla_train::error::TrainingError;
use nabla_train::experiment::{Experiment, ExperimentError, Outcome};
use nabla_train::trainer::Progress;
use serde::{Deserialize, Serialize};

use crate::communicator::threads::{ThreadCommunicator, connected, led};
use crate::communicator::{Communicator, CommunicatorError};
use crate::sequential_gradient_coding::run::{RunError, RunReport};
use crate::sequential_gradient_coding::{CodingError, CodingScheme};

mod config;
mod models;
mod worker;

pub use config::{Coding, CodingConfig};
use models::{Coded, Ending, InTurn, Said, ToLeader, ToModel};
use worker::Working;

/// What the leader of a training has seen since it was started or resumed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CodedReport {
    /// Workers.
    pub workers: usize,
    /// The scheme with its parameters.
    pub scheme: String,
    /// The share of a batch that a worker computes in a round, by the scheme.
    pub load: f64,
    /// Models.
    pub models: usize,
    /// Gradients.
    pub gradients: usize,
    /// Rounds.
    pub rounds: usize,
    /// Seconds of all rounds.
    pub seconds: f64,
    /// Rounds that lasted longer than until the cut-off.
    pub waits: usize,
    /// Answers that were not there when their round ended.
    pub stragglers: usize,
    /// The seconds that the rounds would have taken at least without coding.
    pub uncoded_seconds: f64,
    /// Workers that died, with the round in which it was noticed.
    pub dead: Vec<(usize, usize)>,
    /// Bytes that the leader has sent to the workers and received from them.
    pub leader_bytes: [u64; 2],
}

/// The reason why workers do not train with coded gradients.
#[derive(Debug, thiserror::Error)]
enum CodedError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The code.
    #[error(transparent)]
    Coding(#[from] CodingError),
    /// The model normalises by the batch.
    #[error(
        "{layer} normalises by the batch, of which a worker has only chunks: use group normalisation \
         (`--normalization group`, or `normalization = \"group\"` of the model in the experiment)"
    )]
    BatchNorm {
        /// The layer.
        layer: String,
    },
    /// The run.
    #[error("{0}")]
    Run(#[from] RunError),
    /// The training of a model has ended.
    #[error("the training of model {0} has failed")]
    Model(usize),
    /// The leader has ended.
    #[error("the leader of the workers has ended")]
    Leader,
    /// The leader sent no weights of the model.
    #[error("the leader sent {found} bytes for a model's weights, but {expected} were expected")]
    Weights {
        /// Bytes.
        expected: usize,
        /// Bytes.
        found: usize,
    },
    /// A training panicked.
    #[error("the training of model {model} panicked: {message}")]
    Panicked {
        /// The model.
        model: usize,
        /// The message of the panic.
        message: String,
    },
    /// The decoded gradient has another length.
    #[error("a decoded gradient has {found} numbers, but {expected} were expected")]
    Decoded {
        /// Of the model, and what is told with its gradient.
        expected: usize,
        /// In it.
        found: usize,
    },
}

impl From<CodedError> for TrainingError {
    fn from(error: CodedError) -> Self {
        match error {
            CodedError::Range(_)
            | CodedError::Coding(_)
            | CodedError::BatchNorm { .. }
            | CodedError::Run(
                RunError::Range(_)
                | RunError::Coding(_)
                | RunError::Ranks { .. }
                | RunError::Models { .. },
            ) => Self::task(error),
            _ => Self::Failed(error.into()),
        }
    }
}

fn failed(error: impl Into<CodedError>) -> ExperimentError {
    ExperimentError::Training(error.into().into())
}

/// Is called after every step of a model, with its number; if it breaks, all models end after the same step.
pub type ObserveModels<'a> =
    &'a mut (dyn FnMut(usize, Progress<'_>) -> ControlFlow<()> + Send + 'a);

/// What a training leads to: the outcome of every model, and what the leader has seen.
pub type CodedOutcome = (Vec<Outcome>, CodedReport);

/// How all models end after the same step.
#[derive(Default)]
struct Stop {
    asked: AtomicBool,
    /// The step after which all end, plus 1; 0 for none.
    last: AtomicUsize,
}

/// Leads the training at rank 0, and works at the others, which return `None`. All ranks call it with the same
/// arguments.
///
/// - `checkpoints`: the file of a model's checkpoint, with its number
///
/// # Errors
/// If a value is out of range, the model normalises by the batch, a training fails, or workers die that cannot be
/// replaced.
pub fn train_on<C: Communicator>(
    experiment: &Experiment,
    config: &CodingConfig,
    ranks: &mut C,
    data: &DataSet,
    device: &Device,
    checkpoints: &(dyn Fn(usize) -> Option<PathBuf> + Sync),
    observe: ObserveModels<'_>,
) -> Result<Option<CodedOutcome>, ExperimentError> {
    let scheme = config.scheme().map_err(failed)?;
    let scheme = scheme.as_ref();
    if ranks.rank() > 0 {
        // The number of jobs is the leader's.
        let run = config.run(scheme, 1);
        let working = Working { run, scheme, ranks };
        let (model, examples) = experiment.begin(data, device)?;
        working.work(model, examples).map_err(failed).map(|()| None)
    } else {
        lead(
            experiment,
            config,
            scheme,
            ranks,
            data,
            device,
            checkpoints,
            observe,
        )
        .map(Some)
    }
}

#[expect(clippy::too_many_arguments)]
fn lead<C: Communicator>(
    experiment: &Experiment,
    config: &CodingConfig,
    scheme: &dyn CodingScheme,
    ranks: &mut C,
    data: &DataSet,
    device: &Device,
    checkpoints: &(dyn Fn(usize) -> Option<PathBuf> + Sync),
    observe: ObserveModels<'_>,
) -> Result<CodedOutcome, ExperimentError> {
    let models = config.models_for(scheme);
    let stop = Stop::default();
    let observe = Mutex::new(observe);
    let train = |model: usize, line: ToLeader| {
        let said = line.said.clone();
        let mut experiment = experiment.clone();
        experiment.training.seed = experiment.training.seed.wrapping_add(model as u64);
        let sources = Coded {
            config,
            line: Mutex::new(Some(line)),
        };
        let checkpoint = checkpoints(model);
        let outcome = experiment.run_with(
            &sources,
            data,
            device,
            checkpoint.as_deref(),
            &mut |progress| {
                let step = progress.step;
                let mut observe = observe.lock().unwrap_or_else(PoisonError::into_inner);
                if observe(model, progress).is_break() {
                    stop.asked.store(true, Ordering::Relaxed);
                }
                // No model begins a step before model 0 does.
                if model == 0 && stop.asked.load(Ordering::Relaxed) {
                    stop.last.store(step + 1, Ordering::Relaxed);
                }
                match stop.last.load(Ordering::Relaxed) {
                    last if last > 0 && step + 1 >= last => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            },
        );
        let ending = match &outcome {
            Ok(outcome) if outcome.finished => Ending::Finished,
            Ok(_) => Ending::Stopped,
            Err(_) => Ending::Failed,
        };
        // The leader may have ended already.
        let _ = said.send(Said::Ended(ending));
        outcome
    };
    let train = &train;
    thread::scope(|scope| {
        let mut lines = Vec::with_capacity(models);
        let mut trainings = Vec::with_capacity(models);
        for model in 0..models {
            let (say, said) = channel();
            let (give, gradients) = channel();
            let line = ToLeader {
                said: say,
                gradients,
            };
            lines.push(ToModel {
                said,
                gradients: give,
                last: None,
            });
            let thread = thread::Builder::new().name(format!("model {model}"));
            let started = thread.spawn_scoped(scope, move || train(model, line));
            let refused = |error: std::io::Error| CommunicatorError::Start(error.to_string());
            trainings.push(started.map_err(|error| failed(RunError::from(refused(error))))?);
        }
        let mut in_turn = InTurn::new(lines);
        let run = config.run(scheme, in_turn.jobs.max(1));
        let report = run.lead(ranks, scheme, &mut in_turn);
        drop(in_turn);
        let joined = trainings.into_iter().enumerate();
        let outcomes: Vec<_> = joined
            .map(|(model, training)| match training.join() {
                Ok(outcome) => outcome,
                Err(panic) => Err(failed(CodedError::Panicked {
                    model,
                    message: panic_message(&*panic),
                })),
            })
            .collect();
        let mut good = Vec::with_capacity(models);
        for outcome in outcomes {
            match outcome {
                Ok(outcome) => good.push(outcome),
                // It is told by what has ended the leader.
                Err(error) if is_consequence(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let report = told(config, scheme, &report.map_err(failed)?);
        Ok((good, report))
    })
}

/// Whether a training has failed only because the leader has ended.
fn is_consequence(error: &ExperimentError) -> bool {
    matches!(
        error,
        ExperimentError::Training(TrainingError::Failed(cause))
            if matches!(cause.downcast_ref(), Some(CodedError::Leader))
    )
}

fn told(config: &CodingConfig, scheme: &dyn CodingScheme, report: &RunReport) -> CodedReport {
    CodedReport {
        workers: config.workers,
        scheme: scheme.label(),
        load: scheme.load(),
        models: config.models_for(scheme),
        gradients: report.gradients,
        rounds: report.rounds,
        seconds: report.seconds(),
        waits: report.waits,
        stragglers: report.stragglers,
        uncoded_seconds: report.uncoded_seconds(),
        dead: report.dead.clone(),
        leader_bytes: [
            report.traffic.all_sent().bytes,
            report.traffic.all_received().bytes,
        ],
    }
}

/// Trains by threads of this process: one for the leader, one for every model and one for every worker.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use burn::tensor::Device;
/// use nabla_share::coded_training::{Coding, CodingConfig, train};
/// use nabla_train::experiment::Experiment;
///
/// let mut experiment = Experiment::default(); // an MLP on the built-in digits
/// experiment.training.epochs = 1;
/// let config = CodingConfig {
///     workers: 4,
///     coding: Coding::MSgc { burst: 1, window: 2, stragglers: 2 },
///     ..CodingConfig::default()
/// };
/// let data = experiment.open()?;
/// let go = &mut |_: usize, _: nabla_train::trainer::Progress<'_>| ControlFlow::Continue(());
/// let (outcomes, report) = train(&experiment, &config, &data, &Device::flex(), &|_| None, go)?;
/// assert_eq!(outcomes.len(), 2);
/// let steps = outcomes.iter().map(|outcome| outcome.history.steps.len());
/// assert_eq!(report.gradients, steps.sum::<usize>());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As those of [`train_on`].
pub fn train(
    experiment: &Experiment,
    config: &CodingConfig,
    data: &DataSet,
    device: &Device,
    checkpoints: &(dyn Fn(usize) -> Option<PathBuf> + Sync),
    observe: ObserveModels<'_>,
) -> Result<CodedOutcome, ExperimentError> {
    config.scheme().map_err(failed)?;
    let ends = connected(config.workers + 1, config.limit()).map_err(RunError::from);
    let rank = |mut end: ThreadCommunicator, observe: ObserveModels<'_>| {
        let ranks = &mut end;
        train_on(
            experiment,
            config,
            ranks,
            data,
            device,
            checkpoints,
            observe,
        )
    };
    let led = led(
        ends.map_err(failed)?,
        |end| rank(end, observe),
        |end| rank(end, &mut |_, _| ControlFlow::Continue(())).map(drop),
        |error| ExperimentError::Training(TrainingError::Failed(error.into())),
    )?;
    led.ok_or_else(|| failed(CodedError::Leader))
}
