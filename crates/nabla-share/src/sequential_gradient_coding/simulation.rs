//! A simulator of the leader and its workers: how long a run takes, from recorded or drawn delays.
//!
//! The events of a round are the arrivals of the answers. Worker `i` with the load `ℓ` (its tasks of the round) is
//! there after
//!
//! ```text
//! d[i, r] + α (ℓ − ℓ₀)
//! ```
//!
//! with the [`Delays`] `d`, measured at the load `ℓ₀`, and α fitted to rounds of several loads
//! ([`Trace::load_fit`](crate::communicator::trace::Trace::load_fit)). The round ends at the cut-off, `1 + μ` times the
//! first arrival, or with the last answer if that is earlier, or later if the [`WaitRule`] says so. The run ends when
//! all jobs are decodable. Decoding and the messages take no time of their own: what they take is in the delays.

use nabla_base::range::{self, OutOfRange};

use super::{CodingScheme, History, WaitRule, Waiting};
use crate::communicator::delays::Delays;

/// The reason why a scheme cannot be simulated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SimulationError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The delays are those of other workers.
    #[error("the scheme has {scheme} workers, but the delays are those of {delays}")]
    Workers {
        /// The workers of the scheme.
        scheme: usize,
        /// The workers of the delays.
        delays: usize,
    },
    /// The scheme doesn't keep its promise; for your own schemes.
    #[error("the scheme {scheme} lost job {job}, though its stragglers fitted the wait rule")]
    Lost {
        /// The scheme.
        scheme: String,
        /// The job.
        job: usize,
    },
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Simulation<'a> {
    /// The delays of every worker and round.
    pub delays: &'a Delays,
    /// α, the seconds of a whole batch.
    pub slope: f64,
    /// The number of gradients.
    pub jobs: usize,
    /// μ: the round is cut off at `1 + μ` times the time of the fastest worker.
    pub tolerance: f64,
    /// What happens after the cut-off.
    pub rule: WaitRule,
}

/// The result of a simulation.
#[derive(Clone, Debug, PartialEq)]
pub struct Simulated {
    /// The time of the run, in seconds.
    pub seconds: f64,
    /// The number of rounds.
    pub rounds: usize,
    /// The number of rounds that lasted longer than until the cut-off.
    pub waits: usize,
    /// How much longer they lasted in all, in seconds.
    pub waited_seconds: f64,
    /// The number of answers that came too late.
    pub stragglers: usize,
    /// The mean share of a batch that a worker processed per round.
    pub load: f64,
}

impl<'a> Simulation<'a> {
    /// The published settings: μ = 1 and 80 jobs. The wait rule is the default, not theirs.
    pub fn new(delays: &'a Delays, slope: f64) -> Self {
        Self {
            delays,
            slope,
            jobs: 80,
            tolerance: 1.0,
            rule: WaitRule::default(),
        }
    }

    /// Runs a scheme.
    ///
    /// # Errors
    /// If μ or α is negative, there are no jobs, or the delays are those of other workers.
    ///
    /// ```
    /// use nabla_share::communicator::delays::TwoStateDelays;
    /// use nabla_share::sequential_gradient_coding::simulation::Simulation;
    /// use nabla_share::sequential_gradient_coding::{CodeKind, GradientCode, MSgc};
    ///
    /// let delays = TwoStateDelays::default().draw(16, 100, 0)?;
    /// let simulation = Simulation::new(&delays, 2.2);
    /// let uncoded = simulation.run(&GradientCode::uncoded(16)?)?;
    /// let coded = simulation.run(&MSgc::new(16, 1, 2, 3, CodeKind::Fitting)?)?;
    /// assert!(coded.seconds < uncoded.seconds);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run(&self, scheme: &dyn CodingScheme) -> Result<Simulated, SimulationError> {
        range::at_least("number of jobs", self.jobs, 1)?;
        range::not_negative("tolerance", self.tolerance)?;
        range::not_negative("seconds of a whole batch", self.slope)?;
        let workers = scheme.workers();
        if workers != self.delays.workers() {
            return Err(SimulationError::Workers {
                scheme: workers,
                delays: self.delays.workers(),
            });
        }
        let mut history = History::new(scheme, self.jobs);
        let mut result = Simulated {
            seconds: 0.0,
            rounds: 0,
            waits: 0,
            waited_seconds: 0.0,
            stragglers: 0,
            load: 0.0,
        };
        while !history.is_finished() {
            let tasks = scheme.assign(&history);
            history.begin_round(tasks);
            let all: usize = (0..workers).map(|worker| history.tasks(worker).len()).sum();
            result.load += scheme.part_load() * all as f64 / workers as f64;
            self.round(scheme, &mut history, &mut result);
            history.newly_decodable(scheme);
            if let Some(job) = history.due_job().filter(|&job| !history.is_decoded(job)) {
                let scheme = scheme.label();
                return Err(SimulationError::Lost { scheme, job });
            }
            result.stragglers += history.missing().iter().filter(|&&late| late).count();
            history.end_round();
        }
        result.rounds = history.round();
        result.load /= result.rounds as f64;
        Ok(result)
    }

    /// Lets the answers of a round arrive until it ends.
    fn round(&self, scheme: &dyn CodingScheme, history: &mut History, result: &mut Simulated) {
        let delays = self.delays.of_round(history.round());
        let mut arrivals: Vec<(f64, usize)> = delays
            .iter()
            .enumerate()
            .filter(|(worker, _)| !history.tasks(*worker).is_empty())
            .map(|(worker, delay)| {
                let load = scheme.part_load() * history.tasks(worker).len() as f64;
                // Extrapolated to a lower load, a time could become negative.
                let seconds = delay + self.slope * (load - self.delays.load());
                (seconds.max(0.0), worker)
            })
            .collect();
        arrivals.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (Some(first), Some(last)) = (arrivals.first(), arrivals.last()) else {
            return;
        };
        let cutoff = (1.0 + self.tolerance) * first.0;
        let in_time = arrivals.partition_point(|arrival| arrival.0 <= cutoff);
        for &(_, worker) in &arrivals[..in_time] {
            history.record(worker);
        }
        let mut end = cutoff.min(last.0);
        let mut waiting = Waiting::new(self.rule);
        for &(seconds, worker) in &arrivals[in_time..] {
            if waiting.is_over(scheme, history) {
                break;
            }
            history.record(worker);
            end = seconds;
        }
        if end > cutoff {
            result.waits += 1;
            result.waited_seconds += end - cutoff;
        }
        result.seconds += end;
    }
}
