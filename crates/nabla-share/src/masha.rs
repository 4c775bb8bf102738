//! MASHA: compressed messages for saddle points and other variational inequalities.
//!
//! `M` workers and a server look for a point `z*` with
//!
//! ```text
//! ⟨F(z*), z − z*⟩ + h(z) − h(z*) ≥ 0 for all z,   F = (1/M) Σ_m F_m
//! ```
//!
//! which is the saddle point of `min_x max_y f` if `z = (x, y)` and `F = (∇_x f, −∇_y f)`
//! ([`Operator::of_saddle_point`]). Worker `m` knows `F_m`, its part of the data; messages are what costs. An operator
//! is not small at the solution, as a gradient is not with different data, so compressing it, however unbiased, leaves
//! noise that does not fall, and around a saddle point it grows. MASHA compresses what does fall: differences to a
//! snapshot `w`, whose whole `F(w)` everyone knows.
//!
//! [`Masha1`] is for unbiased compressors `Q`, [`Masha2`] for contractions `C` such as TopK, with error feedback and
//! without `h`. With `γ` the step and `1 − τ` the probability of a new snapshot:
//!
//! ```text
//! z = w = z⁰;  all send F_m(w) as it is, and receive F(w)
//! loop:
//!   z̄ = τ z + (1 − τ) w
//!   zh = prox_γh(z̄ − γ F(w))                            on every worker
//!   MASHA1   worker m:  Q_m(F_m(zh) − F_m(w))
//!            server:    Δ = Q(mean of the messages)
//!            z ← prox_γh(z̄ − γ (F(w) + Δ))
//!   MASHA2   worker m:  u = γ (F_m(zh) − F_m(w)) + e_m;  g_m = C_m(u);  e_m = u − g_m
//!            server:    u = mean of the g_m + e;  g = C(u);  e = u − g
//!            z ← zh − g
//!   with probability 1 − τ:  w ← z;  all send F_m(w) as it is, and receive F(w)
//! ```
//!
//! Variants: workers whose `F_m` is a mean of components ([`Operator::mean_of`]) may take the difference of a few of
//! them, the same in `zh` and `w` ([`Schedule::batch`]); a round may ask a few workers only
//! ([`Masha1::participants`]). [`Uplink::PermK`] gives each worker other coordinates of one common permutation, so that
//! the mean is exact if all workers agree.
//!
//! With `q_m`, `q` such that `E‖Q(v)‖² ≤ q ‖v‖²`, and `L_m`-Lipschitz, `μ`-strongly monotone operators, MASHA1
//! converges linearly for the step of [`theoretical_step`]; several times that step is usually faster. The step must
//! not change during a run of MASHA2, for it is inside the memories.
//!
//! What only one operator depends on, as the perturbations of a worker's examples in adversarial training, never
//! travels ([`Operator::with_own`]). In theory this is the compressor that keeps those coordinates as they are, so every
//! guarantee above stands; and as nothing of them is fed back, MASHA2 takes a composite term of theirs.
//!
//! A worker keeps `F_m(w)` while `w` stays, so an iteration asks each operator once, and once more at a new snapshot.
//!
//! Every message is counted at both ends, snapshots included, in [`Sent`]: the numbers, and the bits that a message
//! really takes. Numbers travel as f32, so the error does not fall below about `1e-7 ‖F_m(z*)‖`. A server that
//! broadcasts uncompressed sends more than it saves: what is won is the uplink.
//!
//! The loop is the same in [one process](OneProcess) and between the [`Ranks`] of a communicator, and gives the same
//! bits. [`extragradient`] has the methods without snapshots.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use nabla_grad::compressor::RandK;
//! use nabla_share::masha::{Masha1, OneProcess, Operator, Problem, Schedule, Uplink};
//!
//! // min_x max_y x y + (x² − y²)/10 + (s − 1/2) x, with s = 0 at one worker and s = 1 at the other.
//! let operator = |s: f64| Operator::new(move |z: &[f64]| vec![z[1] + 0.2 * z[0] + s - 0.5, 0.2 * z[1] - z[0]]);
//! let problem = Problem::new(2, vec![operator(0.0), operator(1.0)])?;
//! let masha = Masha1 {
//!     schedule: Schedule { step: 0.2, iterations: 300, ..Schedule::default() },
//!     ..Masha1::new(Uplink::Independent(Box::new(RandK::new(1)?)))
//! };
//! let outcome = masha.run(&problem, &[1.0, 1.0], &mut OneProcess::new(2), |_| ControlFlow::Continue(()))?;
//! assert!(outcome.z.iter().all(|z| z.abs() < 1e-3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Sources: Beznosikov, Richtárik, Diskin, Ryabinin, Gasnikov, *Distributed Methods with Compressed Communication for
//! Solving Variational Inequalities, with Theoretical Guarantees*, NeurIPS 2022, arXiv 2110.03313 (their abstract;
//! `w ← z` with the new `z` is our choice); Alacaoglu, Malitsky, *Stochastic Variance Reduction for Variational
//! Inequality Methods*, COLT 2022, arXiv 2102.08352 (the snapshot); Szlendak, Tyurin, Richtárik, *Permutation
//! Compressors for Provably Faster Distributed Nonconvex Optimization*, ICLR 2022, arXiv 2110.03300.

use std::ops::ControlFlow;

use nabla_base::range::{self, OutOfRange};
use nabla_base::vector::add_scaled;
use nabla_grad::compressor::{
    Compressed, Compressor, CompressorError, Constant, Identity, WireError,
};
use nabla_grad::error_feedback::{ErrorFeedback, ErrorFeedbackError};

use crate::communicator::CommunicatorError;

mod draws;
pub mod extragradient;
mod network;
mod problem;
mod uplink;

use draws::Draws;
use problem::{Point, Value};
use uplink::{compress, dense, mean};

pub use network::{Amount, Network, OneProcess, Ranks, Sent};
pub use problem::{Operator, Problem};
pub use uplink::Uplink;

/// The reason why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum MashaError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// A compressor is biased.
    #[error("MASHA1 needs unbiased compressors, but the {0} is biased: use MASHA2")]
    Biased(&'static str),
    /// MASHA2 has no composite term.
    #[error("MASHA2 has no proximal step, but the problem has a composite term: use MASHA1")]
    Composite,
    /// A vector has another length.
    #[error("the {what} must have {expected} elements, but it has {found}")]
    Length {
        /// The start, or the value of an operator.
        what: &'static str,
        /// The dimension of the problem.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// An operator has no finite value: it is wrong there, or the step is too long.
    #[error("element {index} of the operator of worker {worker} is {value}")]
    NotFinite {
        /// The worker.
        worker: usize,
        /// The element.
        index: usize,
        /// Its value.
        value: f64,
    },
    /// A batch is to be drawn where there are no components.
    #[error("the operator of worker {worker} has no components to draw a batch from")]
    NoComponents {
        /// The worker.
        worker: usize,
    },
    /// The server has nothing to broadcast; for your own networks.
    #[error("the server has no message for the workers")]
    NoBroadcast,
    /// A vector cannot be compressed.
    #[error(transparent)]
    Compressor(#[from] CompressorError),
    /// Error feedback failed.
    #[error(transparent)]
    ErrorFeedback(#[from] ErrorFeedbackError),
    /// A message cannot be read.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The ranks cannot communicate. It is a cause of its own, so that a rank that has ended is found among the causes.
    #[error("{0}")]
    Communicator(#[from] CommunicatorError),
}

/// Steps, snapshots and randomness.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// `γ`. Default 0.1.
    pub step: f64,
    /// `1 − τ`, above 0 and at most 1. Default 0.1; the numbers of a vector over those that are sent is usual.
    pub snapshot_probability: f64,
    /// How many components of its operator a worker draws for a difference; all of them by default.
    pub batch: Option<usize>,
    /// Default 1000.
    pub iterations: usize,
    /// Default 0.
    pub seed: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            step: 0.1,
            snapshot_probability: 0.1,
            batch: None,
            iterations: 1000,
            seed: 0,
        }
    }
}

/// What an observer sees after every iteration.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The iteration, from 0.
    pub iteration: usize,
    /// `z`, with the same bits on every rank.
    pub z: &'a [f64],
    /// The own variables of every worker in this process.
    pub own: &'a [Vec<f64>],
    /// What has been sent so far.
    pub sent: Sent,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The last `z`.
    pub z: Vec<f64>,
    /// The own variables of every worker in this process.
    pub own: Vec<Vec<f64>>,
    /// The iterations made.
    pub iterations: usize,
    /// What has been sent.
    pub sent: Sent,
}

/// MASHA1; see the [module documentation](self).
pub struct Masha1 {
    /// `Q_m`.
    pub uplink: Uplink,
    /// The server's unbiased compressor; none by default, which broadcasts the mean as it is.
    pub downlink: Option<Box<dyn Compressor>>,
    /// How many workers, drawn anew in every round, send differences; all of them by default.
    pub participants: Option<usize>,
    /// Steps, snapshots and randomness.
    pub schedule: Schedule,
}

impl Masha1 {
    /// With a plain broadcast and the other defaults.
    pub fn new(uplink: Uplink) -> Self {
        Self {
            uplink,
            downlink: None,
            participants: None,
            schedule: Schedule::default(),
        }
    }

    /// Runs until the observer breaks or the iterations are over. On a network of ranks every rank calls this with the
    /// same settings; only its own operator is asked there.
    ///
    /// # Errors
    /// If a setting is out of range, a compressor is biased, the start has another length than the problem, an operator
    /// is not finite, or a rank fails.
    pub fn run<N: Network>(
        &self,
        problem: &Problem<'_>,
        start: &[f64],
        network: &mut N,
        observe: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Outcome, MashaError> {
        let workers = problem.workers();
        let participants = self.participants.unwrap_or(workers);
        range::within("number of participants", participants, 1..=workers)?;
        self.uplink.check(problem.dimension(), participants)?;
        let plain: &dyn Compressor = &Identity;
        let downlink = self.downlink.as_deref().unwrap_or(plain);
        if let Constant::Contraction(_) = downlink.constant(problem.dimension()) {
            return Err(MashaError::Biased("compressor of the server"));
        }
        let messages = Unbiased {
            uplink: &self.uplink,
            downlink,
            step: self.schedule.step,
        };
        let loop_ = Loop {
            problem,
            schedule: &self.schedule,
            participants,
        };
        loop_.run(start, messages, network, observe)
    }
}

/// MASHA2; see the [module documentation](self).
pub struct Masha2 {
    /// `C_m`. An unbiased compressor is shrunk to a contraction.
    pub uplink: Box<dyn Compressor>,
    /// The server's contraction; none by default, which broadcasts the mean as it is.
    pub downlink: Option<Box<dyn Compressor>>,
    /// Steps, snapshots and randomness.
    pub schedule: Schedule,
}

impl Masha2 {
    /// With a plain broadcast and the other defaults.
    pub fn new(uplink: Box<dyn Compressor>) -> Self {
        Self {
            uplink,
            downlink: None,
            schedule: Schedule::default(),
        }
    }

    /// As [`Masha1::run`].
    ///
    /// # Errors
    /// Those of [`Masha1::run`], and [`MashaError::Composite`] if the problem has a composite term.
    pub fn run<N: Network>(
        &self,
        problem: &Problem<'_>,
        start: &[f64],
        network: &mut N,
        observe: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Outcome, MashaError> {
        if problem.is_composite() {
            return Err(MashaError::Composite);
        }
        let dimension = problem.dimension();
        let downlink = self.downlink.as_deref();
        let workers = (0..problem.workers()).map(|_| ErrorFeedback::new(&*self.uplink, dimension));
        let messages = Feedback {
            workers: workers.collect(),
            server: downlink.map(|downlink| ErrorFeedback::new(downlink, dimension)),
            step: self.schedule.step,
        };
        let loop_ = Loop {
            problem,
            schedule: &self.schedule,
            participants: problem.workers(),
        };
        loop_.run(start, messages, network, observe)
    }
}

/// The largest step for which theory promises that MASHA1 converges: `min(√(1−τ) / (2 C), (1−τ) / (2 μ))`,
/// `C² = (q/M²) Σ_m (q_m L_m² + (M − 1) L̃²)`, where `L̃²` is the mean of the `L_m²`.
///
/// - `lipschitz`: `L_m` of every worker; `strong`: `μ`, or 0
/// - `up`, `down`: `ω` of the workers' compressors and of the server's, so that `q = 1 + ω`
/// - `snapshot_probability`: `1 − τ`
///
/// # Errors
/// If there are no workers, or a number is out of range.
///
/// ```
/// // One worker without compression: 1 / (2 L).
/// assert_eq!(nabla_share::masha::theoretical_step(&[2.0], 0.0, 0.0, 0.0, 1.0)?, 0.25);
/// # Ok::<(), nabla_base::OutOfRange>(())
/// ```
pub fn theoretical_step(
    lipschitz: &[f64],
    strong: f64,
    up: f64,
    down: f64,
    snapshot_probability: f64,
) -> Result<f64, OutOfRange> {
    range::at_least("number of workers", lipschitz.len(), 1)?;
    for &l in lipschitz {
        range::positive("Lipschitz constant", l)?;
    }
    range::not_negative("strong monotonicity μ", strong)?;
    range::not_negative("variance ω of the uplink", up)?;
    range::not_negative("variance ω of the downlink", down)?;
    check_probability(snapshot_probability)?;
    let workers = lipschitz.len() as f64;
    let squares: f64 = lipschitz.iter().map(|l| l * l).sum();
    let c = ((1.0 + down) / (workers * workers) * squares * (1.0 + up + workers - 1.0)).sqrt();
    let variance = snapshot_probability.sqrt() / (2.0 * c);
    Ok(match strong > 0.0 {
        true => variance.min(snapshot_probability / (2.0 * strong)),
        false => variance,
    })
}

fn check_probability(value: f64) -> Result<(), OutOfRange> {
    let fits = value > 0.0 && value <= 1.0;
    let name = "probability of a snapshot";
    range::check(fits, name, value, "greater than 0 and at most 1")
}

/// How differences become messages.
trait Differences {
    /// The factor of what the server broadcasts in the step.
    fn factor(&self) -> f64;

    /// The length of the message of the participant at a position.
    fn length(&self, draws: &Draws, position: usize, of: usize) -> usize;

    /// The message of a worker, the participant at a position of so many.
    fn answer(
        &mut self,
        draws: &Draws,
        worker: usize,
        place: (usize, usize),
        difference: Vec<f64>,
    ) -> Result<Compressed, MashaError>;

    /// The broadcast of the server.
    fn combine(&mut self, draws: &Draws, messages: &[Compressed])
    -> Result<Compressed, MashaError>;
}

/// MASHA1.
struct Unbiased<'a> {
    uplink: &'a Uplink,
    downlink: &'a dyn Compressor,
    step: f64,
}

impl Differences for Unbiased<'_> {
    fn factor(&self) -> f64 {
        self.step
    }

    fn length(&self, draws: &Draws, position: usize, of: usize) -> usize {
        self.uplink.length(draws, position, of)
    }

    fn answer(
        &mut self,
        draws: &Draws,
        worker: usize,
        place: (usize, usize),
        difference: Vec<f64>,
    ) -> Result<Compressed, MashaError> {
        self.uplink.message(draws, worker, place, &difference)
    }

    fn combine(
        &mut self,
        draws: &Draws,
        messages: &[Compressed],
    ) -> Result<Compressed, MashaError> {
        let mean = self.uplink.mean(draws, messages);
        Ok(compress(self.downlink, &mean, &mut draws.server())?)
    }
}

/// MASHA2.
struct Feedback<'a> {
    workers: Vec<ErrorFeedback<&'a dyn Compressor>>,
    server: Option<ErrorFeedback<&'a dyn Compressor>>,
    step: f64,
}

impl Differences for Feedback<'_> {
    fn factor(&self) -> f64 {
        // γ is inside the messages already.
        1.0
    }

    fn length(&self, draws: &Draws, _position: usize, _of: usize) -> usize {
        draws.dimension
    }

    fn answer(
        &mut self,
        draws: &Draws,
        worker: usize,
        _place: (usize, usize),
        mut difference: Vec<f64>,
    ) -> Result<Compressed, MashaError> {
        difference.iter_mut().for_each(|x| *x *= self.step);
        let update = uplink::tensor(&difference);
        Ok(self.workers[worker].compress(&update, &mut draws.worker(worker))?)
    }

    fn combine(
        &mut self,
        draws: &Draws,
        messages: &[Compressed],
    ) -> Result<Compressed, MashaError> {
        let mean = mean(messages, draws.dimension);
        match &mut self.server {
            Some(server) => Ok(server.compress(&uplink::tensor(&mean), &mut draws.server())?),
            None => Ok(dense(&mean)?),
        }
    }
}

/// What both methods have in common.
struct Loop<'a> {
    problem: &'a Problem<'a>,
    schedule: &'a Schedule,
    participants: usize,
}

impl Loop<'_> {
    fn run<N: Network>(
        &self,
        start: &[f64],
        mut messages: impl Differences,
        network: &mut N,
        observe: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Outcome, MashaError> {
        let (problem, schedule) = (self.problem, self.schedule);
        range::positive("step γ", schedule.step)?;
        check_probability(schedule.snapshot_probability)?;
        problem.check(start, schedule.batch, network.workers())?;
        let share = schedule.snapshot_probability;
        let mut draws = Draws::new(schedule.seed, problem.workers(), problem.dimension());
        let first = network.here().start;
        let start = problem.start(start, network.here());
        let mut w = start.clone();
        let mut f_w = plain_mean(problem, &w, &mut draws, network)?;
        let (dimension, step) = (problem.dimension(), schedule.step);
        iterate(
            schedule.iterations,
            start,
            network,
            observe,
            |point, network| {
                draws.next_round();
                // z̄ − γ F(w), from which both steps start.
                let mut start = point.between(&w, share);
                start.step(step, &f_w);
                let mut zh = start.clone();
                problem.prox(step, &mut zh);

                let senders = draws.participants(self.participants);
                let of = senders.len();
                let length = |position| messages.length(&draws, position, of);
                let lengths: Vec<usize> = (0..of).map(length).collect();
                let difference = |worker: usize| {
                    let here = worker - first;
                    let [ahead, before] = [&zh, &w].map(|at| (&at.z[..], &at.own[here][..]));
                    let drawn = (schedule.batch, &draws);
                    problem.difference(worker, ahead, before, &f_w.each[here], drawn)
                };
                let own = &mut start.own;
                let received = network.to_server(&senders, &lengths, |position| {
                    let worker = senders[position];
                    let mut difference = difference(worker)?;
                    let kept = difference.split_off(dimension);
                    add_scaled(&mut own[worker - first], -step, &kept);
                    messages.answer(&draws, worker, (position, of), difference)
                })?;
                let combined = received.map(|received| messages.combine(&draws, &received));
                let delta = network.to_all(combined.transpose()?, dimension)?;
                // Who is not asked in this round moves its own variables all the same: it costs no message.
                for worker in network.here().filter(|worker| !senders.contains(worker)) {
                    if !own[worker - first].is_empty() {
                        let kept = difference(worker)?;
                        add_scaled(&mut own[worker - first], -step, &kept[dimension..]);
                    }
                }
                *point = start;
                delta.add_to(&mut point.z, -messages.factor());
                problem.prox(step, point);

                // The server's bit, which everyone draws from the common seed.
                if draws.snapshot(share) {
                    w.clone_from(point);
                    f_w = plain_mean(problem, &w, &mut draws, network)?;
                }
                Ok(())
            },
        )
    }
}

/// Iterates a step until the observer breaks.
fn iterate<N: Network>(
    iterations: usize,
    mut point: Point,
    network: &mut N,
    mut observe: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    mut step: impl FnMut(&mut Point, &mut N) -> Result<(), MashaError>,
) -> Result<Outcome, MashaError> {
    let mut done = 0;
    for iteration in 0..iterations {
        step(&mut point, network)?;
        done = iteration + 1;
        let progress = Progress {
            iteration,
            z: &point.z,
            own: &point.own,
            sent: network.sent(),
        };
        if observe(progress).is_break() {
            break;
        }
    }
    let sent = network.sent();
    let Point { z, own } = point;
    Ok(Outcome {
        z,
        own,
        iterations: done,
        sent,
    })
}

/// `F` on all workers, from messages that are not compressed.
fn plain_mean<N: Network>(
    problem: &Problem<'_>,
    point: &Point,
    draws: &mut Draws,
    network: &mut N,
) -> Result<Value, MashaError> {
    let plain = Uplink::Independent(Box::new(Identity));
    extragradient::mean_operator(problem, point, &plain, draws, network)
}

fn numbers_of(message: &Compressed) -> Vec<f64> {
    message.values().into_iter().map(f64::from).collect()
}

#[cfg(test)]
mod tests;
