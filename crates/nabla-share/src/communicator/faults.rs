//! Delays, silence and death of workers, injected into any communicator.
//!
//! A worker that wants its delays injected asks [`hold_back`](Communicator::hold_back) after it has computed the
//! answer of a round. [`Faulty`] answers from [`Faults`]:
//!
//! * a table of [`Delays`], drawn from a seed or recorded: the worker waits until it has taken as long as the table
//!   says, where the own time of the machine counts;
//! * silence from a round on: nothing that the rank sends arrives any more, but it goes on;
//! * death in a round: every call returns [`CommunicatorError::Killed`].
//!
//! ```
//! use std::time::Duration;
//!
//! use nabla_share::communicator::delays::TwoStateDelays;
//! use nabla_share::communicator::faults::{Faults, Faulty};
//! use nabla_share::communicator::{Communicator, CommunicatorError, threads};
//!
//! let delays = TwoStateDelays { base_seconds: 0.01, ..Default::default() }.draw(2, 20, 42)?;
//! let faults = Faults::new().with_delays(delays).with_death(1, 3);
//! threads::run(3, Duration::from_secs(5), |ranks| -> Result<_, CommunicatorError> {
//!     // The workers of the table are the ranks from 1; rank 0 leads and has no delays.
//!     let mut ranks = Faulty::new(ranks, faults.clone());
//!     if ranks.rank() == 2 {
//!         let held_back = ranks.hold_back(0, Duration::ZERO)?;
//!         assert!(held_back > Duration::from_millis(5));
//!         // Worker 1 is rank 2, and dies in round 3.
//!         assert!(ranks.hold_back(3, Duration::ZERO).is_err());
//!     }
//!     Ok(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::Arc;
use std::time::Duration;

use nabla_base::range::{self, OutOfRange};
use nabla_grad::SeededNoise;
use rand::RngExt;

use super::delays::Delays;
use super::{Communicator, CommunicatorError, Tag, Traffic};

/// What happens to a worker from a round on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Silence,
    Death,
}

/// The faults of all workers; see the [module documentation](self). Worker `w` is rank `w + 1`.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    delays: Option<Arc<Delays>>,
    ends: Vec<(usize, usize, End)>,
}

impl Faults {
    /// No faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Injects the delays of a table. Workers that it doesn't have are not delayed.
    #[must_use]
    pub fn with_delays(mut self, delays: Delays) -> Self {
        self.delays = Some(Arc::new(delays));
        self
    }

    /// Lets a worker fall silent in a round, from 0, and for ever.
    #[must_use]
    pub fn with_silence(mut self, worker: usize, round: usize) -> Self {
        self.ends.push((worker, round, End::Silence));
        self
    }

    /// Ends a worker in a round, from 0.
    #[must_use]
    pub fn with_death(mut self, worker: usize, round: usize) -> Self {
        self.ends.push((worker, round, End::Death));
        self
    }

    /// Lets each of `workers` workers die in each of the first `rounds` rounds with a probability, drawn from a seed.
    /// Each worker has its own stream of the seed.
    ///
    /// # Errors
    /// If the probability is not from 0 to 1.
    pub fn with_random_deaths(
        mut self,
        workers: usize,
        rounds: usize,
        probability: f64,
        seed: u64,
    ) -> Result<Self, OutOfRange> {
        range::within("probability of a death", probability, 0.0..=1.0)?;
        for worker in 0..workers {
            let mut noise = SeededNoise::new(seed, worker as u64);
            if let Some(round) = (0..rounds).find(|_| noise.random_bool(probability)) {
                self = self.with_death(worker, round);
            }
        }
        Ok(self)
    }

    /// The workers that die, each with the round, from 0.
    pub fn deaths(&self) -> impl Iterator<Item = (usize, usize)> {
        let deaths = self.ends.iter().filter(|end| end.2 == End::Death);
        deaths.map(|&(worker, round, _)| (worker, round))
    }

    fn end(&self, worker: usize, round: usize, end: End) -> bool {
        let mut ends = self.ends.iter();
        ends.any(|&(w, r, e)| w == worker && r <= round && e == end)
    }

    /// The seconds of a worker in a round.
    fn seconds(&self, worker: usize, round: usize) -> f64 {
        let row = self.delays.as_ref().map(|delays| delays.of_round(round));
        row.and_then(|row| row.get(worker)).copied().unwrap_or(0.0)
    }
}

/// A communicator with injected faults; see the [module documentation](self).
#[derive(Debug)]
pub struct Faulty<C> {
    inner: C,
    faults: Faults,
    silent: bool,
    /// The round of this rank's death.
    dead: Option<usize>,
}

impl<C: Communicator> Faulty<C> {
    /// Injects faults into a communicator.
    pub fn new(inner: C, faults: Faults) -> Self {
        Self {
            inner,
            faults,
            silent: false,
            dead: None,
        }
    }

    fn alive(&self) -> Result<(), CommunicatorError> {
        match self.dead {
            None => Ok(()),
            Some(round) => Err(CommunicatorError::Killed {
                rank: self.rank(),
                round,
            }),
        }
    }
}

impl<C: Communicator> Communicator for Faulty<C> {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn time_limit(&self) -> Duration {
        self.inner.time_limit()
    }

    fn traffic(&self) -> &Traffic {
        self.inner.traffic()
    }

    fn send(&mut self, to: usize, tag: Tag, bytes: &[u8]) -> Result<(), CommunicatorError> {
        self.alive()?;
        match self.silent {
            true => Ok(()),
            false => self.inner.send(to, tag, bytes),
        }
    }

    fn receive_first(
        &mut self,
        from: &[usize],
        tag: Tag,
        wait: Duration,
    ) -> Result<Option<(usize, Vec<u8>)>, CommunicatorError> {
        self.alive()?;
        self.inner.receive_first(from, tag, wait)
    }

    fn hold_back(
        &mut self,
        round: usize,
        computed: Duration,
    ) -> Result<Duration, CommunicatorError> {
        self.alive()?;
        let Some(worker) = self.rank().checked_sub(1) else {
            return Ok(Duration::ZERO);
        };
        self.silent = self.faults.end(worker, round, End::Silence);
        if self.faults.end(worker, round, End::Death) {
            self.dead = Some(round);
        }
        self.alive()?;
        let seconds = self.faults.seconds(worker, round);
        // Longer than any run, in place of an overflow.
        let delay = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        Ok(delay.saturating_sub(computed))
    }
}
