//! Training with coded gradients: a leader at rank 0 and a worker at every other rank.
//!
//! The leader has the models, in a [`Models`] of yours: it hands out the state of a model (its weights, the choice of
//! its batch) when a job starts, and takes the step when the gradient is there. A worker has a closure that computes
//! the gradient of one chunk of the batch from this state. Neither knows which scheme is used, so the same code trains
//! uncoded and coded. Job `t` belongs to model `t mod M`. A model's next job starts when the last one is decoded, so
//! the scheme needs `M ≥ T + 1` models.
//!
//! ```text
//! leader, round r:
//!   send to every worker its mini-tasks, and the state of job r
//!   first answer after τ:  cut-off κ = (1 + μ) τ
//!   wait until all answers are there, or κ has passed and the WaitRule is satisfied
//!   decode, in the order of the jobs, whatever can be decoded; take the steps
//! worker:
//!   compute the mini-tasks of the newest round, and send all results together
//! ```
//!
//! Answers carry the number of their round, so those of an earlier one are recognised, counted and dropped. A worker
//! that hears of a newer round drops the older one between two chunks.
//!
//! **Dead workers.** A worker whose thread ends, or which is silent while the leader needs it for the time limit of
//! the communicator, is dead. With [`DeathRule::TakeOver`] another worker does its tasks from then on, and the
//! gradients stay exact. With [`DeathRule::Endure`] it is a straggler for ever, and the run ends in an error when the
//! scheme cannot do without it.
//!
//! **Gradients are sums.** The gradient of a job is the sum of what the closure returns for its chunks, so weight a
//! chunk by its true size ([`Chunk::examples`]). Several workers compute the same chunk and must get the same
//! gradient: seed dropout by job and chunk, and use no batch statistics.
//!
//! **Bits.** With uncoded and repetition codes, and M-SGC with λ = n, the gradient has the same bits whoever
//! straggled: sums have a fixed order, and equal answers replace each other. A cyclic code weights the answers by who
//! gave them, so its last bits depend on the stragglers.
//!
//! ```
//! use std::time::Duration;
//!
//! use nabla_share::communicator::faults::Faults;
//! use nabla_share::communicator::numbers::{from_bytes, to_bytes};
//! use nabla_share::sequential_gradient_coding::run::{BoxedError, Chunk, CodedRun, Models};
//! use nabla_share::sequential_gradient_coding::{CodeKind, MSgc};
//!
//! /// Two models with one weight each, and the loss Σ (w − x)²/2 over 100 examples x = 0, 0.01, …
//! struct Means([f32; 2]);
//!
//! impl Models for Means {
//!     fn state(&mut self, _job: usize, model: usize) -> Result<Vec<u8>, BoxedError> {
//!         Ok(to_bytes(&[self.0[model]]))
//!     }
//!
//!     fn step(&mut self, _job: usize, model: usize, gradient: Vec<f32>) -> Result<(), BoxedError> {
//!         self.0[model] -= 0.005 * gradient[0];
//!         Ok(())
//!     }
//! }
//!
//! let scheme = MSgc::new(4, 1, 2, 1, CodeKind::Fitting)?;
//! let run = CodedRun { jobs: 20, models: 2, ..CodedRun::default() };
//! let mut means = Means([0.0, 1.0]);
//! let limit = Duration::from_secs(20);
//! let report = run.on_threads(&scheme, limit, &Faults::new(), &mut means, |_worker| {
//!     |chunk: &Chunk<'_>| {
//!         let weight = from_bytes::<f32>(chunk.state)[0];
//!         let gradients = chunk.examples(100).map(|example| weight - example as f32 / 100.0);
//!         Ok(vec![gradients.sum::<f32>()])
//!     }
//! })?;
//! assert!(means.0.iter().all(|mean| (mean - 0.495).abs() < 1e-2));
//! assert_eq!(report.gradients, 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ops::Range;
use std::time::Duration;

use nabla_base::choices;
use nabla_base::range::{self, OutOfRange};
use serde::{Deserialize, Serialize};

use super::{CodingError, CodingScheme, WaitRule};
use crate::communicator::faults::{Faults, Faulty};
use crate::communicator::trace::{Trace, TraceError};
use crate::communicator::{Communicator, CommunicatorError, Traffic, threads};

mod leader;
mod messages;
mod worker;

/// The error of your own code.
pub type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// The reason why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The scheme cannot encode or decode.
    #[error(transparent)]
    Coding(#[from] CodingError),
    /// The ranks cannot communicate. It is a cause of its own, so that a rank that has ended is found among the causes.
    #[error("{0}")]
    Communicator(#[from] CommunicatorError),
    /// What a run recorded is no profile.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The ranks are not the workers of the scheme and a leader.
    #[error(
        "the scheme has {workers} workers and needs one rank more, but there are {ranks} ranks"
    )]
    Ranks {
        /// The workers of the scheme.
        workers: usize,
        /// The number of ranks.
        ranks: usize,
    },
    /// There are too few models.
    #[error(
        "the scheme {scheme} takes {needed} rounds for a gradient, so it needs at least {needed} models, \
         but there are {models}"
    )]
    Models {
        /// The scheme.
        scheme: String,
        /// `T + 1`.
        needed: usize,
        /// The number of models.
        models: usize,
    },
    /// Workers are dead that the scheme cannot do without.
    #[error("round {round} cannot be completed: {dead}")]
    Dead {
        /// The round, from 0.
        round: usize,
        /// The workers and what is known about each.
        dead: String,
    },
    /// The scheme doesn't keep its promise; for your own schemes.
    #[error("the scheme {scheme} lost job {job}, though its stragglers fitted the wait rule")]
    Lost {
        /// The scheme.
        scheme: String,
        /// The job.
        job: usize,
    },
    /// The leader's code returned an error.
    #[error("the models failed in job {job}: {source}")]
    Step {
        /// The job.
        job: usize,
        /// The error.
        source: BoxedError,
    },
    /// The closure of a worker returned an error.
    #[error("worker {worker} failed in job {job} at chunk {chunk}: {reason}")]
    Chunk {
        /// The worker, from 0.
        worker: usize,
        /// The job.
        job: usize,
        /// The chunk.
        chunk: usize,
        /// The error's message.
        reason: String,
    },
    /// A message is none of this run.
    #[error("rank {rank} sent what is no message of a coded run: {what}")]
    Message {
        /// The sender.
        rank: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// What happens when a worker has died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeathRule {
    /// Another worker does its tasks.
    #[default]
    TakeOver,
    /// It is a straggler for ever.
    Endure,
}

choices! {
    DeathRule: "death rule" {
        "take-over" => Self::TakeOver, "Another worker does the tasks of a dead one";
        "endure" => Self::Endure, "A dead worker is a straggler for ever";
    }
}

/// The models at the leader.
pub trait Models {
    /// Whether the job, which is next, is still wanted. If it is not, the run ends with the jobs before it. Default
    /// yes.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn wants(&mut self, job: usize, model: usize) -> Result<bool, BoxedError> {
        let _ = (job, model);
        Ok(true)
    }

    /// What the workers need to compute the gradient of a job that starts: the weights of its model, and which batch.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn state(&mut self, job: usize, model: usize) -> Result<Vec<u8>, BoxedError>;

    /// Takes the step of a job whose gradient is there.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn step(&mut self, job: usize, model: usize, gradient: Vec<f32>) -> Result<(), BoxedError>;
}

/// A chunk whose gradient a worker is to compute.
#[derive(Clone, Debug)]
pub struct Chunk<'a> {
    /// The job, from 0.
    pub job: usize,
    /// The model: the job modulo the number of models.
    pub model: usize,
    /// The number of the chunk in the batch, from 0.
    pub index: usize,
    /// What [`Models::state`] returned for the job.
    pub state: &'a [u8],
    /// The parts of the batch before the chunk and up to its end.
    bounds: (f64, f64),
}

impl Chunk<'_> {
    /// The examples of the chunk in a batch of `batch` examples. All chunks together cover the batch, each example
    /// once.
    pub fn examples(&self, batch: usize) -> Range<usize> {
        let at = |share: f64| ((batch as f64 * share).round() as usize).min(batch);
        at(self.bounds.0)..at(self.bounds.1)
    }
}

/// A run of coded gradients; see the [module documentation](self).
#[derive(Clone, Debug, PartialEq)]
pub struct CodedRun {
    /// The number of gradients. Default 80.
    pub jobs: usize,
    /// `M`, the number of models that are trained in turn. Default 4.
    pub models: usize,
    /// μ: a round is cut off at `1 + μ` times the time of the fastest worker. Default 1.
    pub tolerance: f64,
    /// What happens after the cut-off. Default [`WaitRule::UntilRecoverable`].
    pub rule: WaitRule,
    /// What happens when a worker has died. Default [`DeathRule::TakeOver`].
    pub deaths: DeathRule,
}

impl Default for CodedRun {
    fn default() -> Self {
        Self {
            jobs: 80,
            models: 4,
            tolerance: 1.0,
            rule: WaitRule::default(),
            deaths: DeathRule::default(),
        }
    }
}

/// What the leader saw.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// The number of gradients that were decoded.
    pub gradients: usize,
    /// The number of rounds.
    pub rounds: usize,
    /// The time of each round, in seconds, without the steps of the models.
    pub round_seconds: Vec<f64>,
    /// The number of rounds that lasted longer than until the cut-off.
    pub waits: usize,
    /// The number of answers that were not there when their round ended.
    pub stragglers: usize,
    /// The number of answers that came after the end of their round, and were dropped.
    pub late: usize,
    /// The workers that died, with the round in which it was noticed.
    pub dead: Vec<(usize, usize)>,
    /// When each answer came.
    pub trace: Trace,
    /// What the leader sent and received.
    pub traffic: Traffic,
}

impl RunReport {
    /// The time of all rounds, in seconds, without the steps of the models.
    pub fn seconds(&self) -> f64 {
        self.round_seconds.iter().sum()
    }

    /// The seconds that the gradients would have taken at least, had every worker computed its share of a batch once
    /// and been waited for.
    ///
    /// A worker's answer of a round is taken to have come earlier by the time in which it computed more than that
    /// share. One that never came counts as if it had come at the end of the round.
    pub fn uncoded_seconds(&self) -> f64 {
        let rows = self.trace.rows();
        let workers = rows.iter().map(|row| row.worker + 1).max().unwrap_or(0);
        let mut slowest = vec![0.0_f64; self.rounds];
        let mut answered = vec![vec![false; workers]; self.rounds];
        for row in rows {
            let Some(first) = answered.get_mut(row.round) else {
                continue;
            };
            // Of an answer that was computed twice, the first counts.
            if !std::mem::replace(&mut first[row.worker], true) {
                let more = (1.0 - 1.0 / (workers as f64 * row.load)).max(0.0);
                let came = row.answered_seconds - row.computed_seconds * more;
                slowest[row.round] = slowest[row.round].max(came);
            }
        }
        let rounds = slowest.iter().zip(&answered).zip(&self.round_seconds);
        let least = rounds.map(|((&slowest, answered), &round)| {
            match answered.iter().all(|&answered| answered) {
                true => slowest,
                false => slowest.max(round),
            }
        });
        least.take(self.gradients).sum()
    }
}

impl CodedRun {
    /// The same run without a cut-off: every round waits for all workers, for
    /// [profiles](super::selection::Profile).
    #[must_use]
    pub fn waiting_for_all(mut self) -> Self {
        self.tolerance = f64::MAX;
        self
    }

    fn check(&self, scheme: &dyn CodingScheme, ranks: usize) -> Result<(), RunError> {
        range::at_least("number of jobs", self.jobs, 1)?;
        range::not_negative("tolerance", self.tolerance)?;
        let (workers, needed) = (scheme.workers(), scheme.delay() + 1);
        if ranks != workers + 1 {
            return Err(RunError::Ranks { workers, ranks });
        }
        if self.models < needed {
            return Err(RunError::Models {
                scheme: scheme.label(),
                needed,
                models: self.models,
            });
        }
        Ok(scheme.prepare()?)
    }

    /// Leads the run, at rank 0, until all gradients are decoded. The workers end with it, whether it succeeds or not.
    ///
    /// # Errors
    /// If a setting is out of range, the scheme doesn't fit the ranks or the models, your code fails here or at a
    /// worker, or workers die that cannot be replaced.
    pub fn lead(
        &self,
        ranks: &mut impl Communicator,
        scheme: &dyn CodingScheme,
        models: &mut impl Models,
    ) -> Result<RunReport, RunError> {
        range::check(ranks.rank() == 0, "rank of the leader", ranks.rank(), "0")?;
        leader::lead(self, ranks, scheme, models)
    }

    /// Works, at any other rank, until the leader ends the run.
    ///
    /// - `gradient`: computes the gradient of a chunk, `[d]`
    ///
    /// # Errors
    /// If a setting is out of range, the scheme doesn't fit the ranks or the models, or the leader is silent or has
    /// ended without a word. An error of `gradient` ends the run at the leader.
    pub fn work(
        &self,
        ranks: &mut impl Communicator,
        scheme: &dyn CodingScheme,
        gradient: impl FnMut(&Chunk<'_>) -> Result<Vec<f32>, BoxedError>,
    ) -> Result<(), RunError> {
        range::at_least("rank of a worker", ranks.rank(), 1)?;
        worker::work(self, ranks, scheme, gradient)
    }

    /// Runs the leader in this thread and every worker in a thread of its own.
    ///
    /// - `limit`: the time after which a silent worker is dead; longer than any chunk and any step
    /// - `faults`: what is injected, if anything
    /// - `worker`: makes the closure of a worker, in its thread
    ///
    /// # Errors
    /// As those of [`lead`](Self::lead), or if the system refuses a thread. What a dead worker died of is not an
    /// error.
    pub fn on_threads<F>(
        &self,
        scheme: &dyn CodingScheme,
        limit: Duration,
        faults: &Faults,
        models: &mut impl Models,
        worker: impl Fn(usize) -> F + Sync,
    ) -> Result<RunReport, RunError>
    where
        F: FnMut(&Chunk<'_>) -> Result<Vec<f32>, BoxedError>,
    {
        let mut ends = threads::connected(scheme.workers() + 1, limit)?.into_iter();
        let Some(mut own) = ends.next() else {
            return Err(RunError::Ranks {
                workers: scheme.workers(),
                ranks: 0,
            });
        };
        let worker = &worker;
        std::thread::scope(|scope| {
            let mut threads = Vec::with_capacity(scheme.workers());
            for end in ends {
                let rank = end.rank();
                let thread = std::thread::Builder::new().name(format!("worker {}", rank - 1));
                let work = move || {
                    // The leader learns from the end of the thread that this worker has died.
                    let gradient = worker(rank - 1);
                    self.work(&mut Faulty::new(end, faults.clone()), scheme, gradient)
                };
                let started = thread.spawn_scoped(scope, work);
                threads.push(started.map_err(|error| CommunicatorError::Start(error.to_string()))?);
            }
            let result = self.lead(&mut own, scheme, models);
            // A panic that nobody joins would end this thread too. What it means to the run, the leader knows.
            for thread in threads {
                let _ = thread.join();
            }
            result
        })
    }
}
