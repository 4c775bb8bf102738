//! Ranks that are threads of one process.
//!
//! [`run`] starts a thread for every rank and returns what all of them return. A rank that returns before the others,
//! with a result, an error or a panic, tells the others, so that nobody waits for it in vain.

use std::error::Error;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nabla_base::range::{self, OutOfRange};
use nabla_base::words::panic_message;

use super::mailbox::{Envelope, Mailbox};
use super::{Communicator, CommunicatorError, Tag, Traffic, check_peer};

/// The error of a rank.
#[derive(Debug, thiserror::Error)]
pub enum RankError<E: Error + 'static> {
    /// The rank returned an error.
    #[error("rank {rank} failed: {source}")]
    Failed {
        /// The rank.
        rank: usize,
        /// Its error.
        source: E,
    },
    /// The rank panicked.
    #[error("rank {rank} panicked: {message}")]
    Panicked {
        /// The rank.
        rank: usize,
        /// The message of the panic.
        message: String,
    },
    /// The ranks could not be started.
    #[error(transparent)]
    Start(CommunicatorError),
}

/// What arrives at a rank.
enum Event {
    Message(Envelope),
    /// The last event of a rank.
    Ended {
        rank: usize,
        panicked: bool,
    },
}

/// One thread's end.
pub struct ThreadCommunicator {
    rank: usize,
    time_limit: Duration,
    /// To every rank, this one included.
    peers: Vec<Sender<Event>>,
    arriving: Receiver<Event>,
    mailbox: Mailbox,
    /// For every rank that has ended, whether it panicked.
    ended: Vec<Option<bool>>,
    traffic: Traffic,
}

impl std::fmt::Debug for ThreadCommunicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadCommunicator")
            .field("rank", &self.rank)
            .field("size", &self.peers.len())
            .finish_non_exhaustive()
    }
}

/// The ends of `size` ranks, for threads that you start yourself.
///
/// # Errors
/// If `size` is 0.
pub fn connected(
    size: usize,
    time_limit: Duration,
) -> Result<Vec<ThreadCommunicator>, CommunicatorError> {
    range::at_least("number of ranks", size, 1)?;
    let (peers, ends): (Vec<_>, Vec<_>) = (0..size).map(|_| mpsc::channel()).unzip();
    let end = |(rank, arriving)| ThreadCommunicator {
        rank,
        time_limit,
        peers: peers.clone(),
        arriving,
        mailbox: Mailbox::default(),
        ended: vec![None; size],
        traffic: Traffic::default(),
    };
    Ok(ends.into_iter().enumerate().map(end).collect())
}

/// Runs a closure on every rank, each in its own thread, and returns the result of every rank.
///
/// It returns when all closures have returned: the time limit ends their waiting for each other, not their computing.
///
/// # Errors
/// If `size` is 0, or the system refuses a thread.
pub fn run_each<T, E, F>(
    size: usize,
    time_limit: Duration,
    on_rank: F,
) -> Result<Vec<Result<T, RankError<E>>>, CommunicatorError>
where
    T: Send,
    E: Error + Send + 'static,
    F: Fn(&mut ThreadCommunicator) -> Result<T, E> + Sync,
{
    let ends = connected(size, time_limit)?;
    let on_rank = &on_rank;
    thread::scope(|scope| {
        let mut threads = Vec::with_capacity(size);
        for mut end in ends {
            let name = format!("rank {}", end.rank);
            let thread = thread::Builder::new().name(name);
            let started = thread.spawn_scoped(scope, move || on_rank(&mut end));
            threads.push(started.map_err(|error| CommunicatorError::Start(error.to_string()))?);
        }
        let results = threads.into_iter().enumerate();
        Ok(results
            .map(|(rank, thread)| match thread.join() {
                Ok(Ok(result)) => Ok(result),
                Ok(Err(source)) => Err(RankError::Failed { rank, source }),
                Err(panic) => Err(RankError::Panicked {
                    rank,
                    message: panic_message(&*panic),
                }),
            })
            .collect())
    })
}

/// Runs a closure on every rank, each in its own thread, and returns the results in the order of the ranks; see
/// [`run_each`].
///
/// # Errors
/// If `size` is 0, the system refuses a thread, or a rank fails. Of several failures it returns the one that is
/// rather the cause of the others than their consequence: a panic, or else the first that doesn't come from another
/// rank's end.
pub fn run<T, E, F>(size: usize, time_limit: Duration, on_rank: F) -> Result<Vec<T>, RankError<E>>
where
    T: Send,
    E: Error + Send + 'static,
    F: Fn(&mut ThreadCommunicator) -> Result<T, E> + Sync,
{
    let mut results = Vec::with_capacity(size);
    let mut failures = Vec::new();
    for result in run_each(size, time_limit, on_rank).map_err(RankError::Start)? {
        match result {
            Ok(result) => results.push(result),
            Err(failure) => failures.push(failure),
        }
    }
    failures.sort_by_key(|failure| match failure {
        RankError::Panicked { .. } | RankError::Start(_) => 0,
        RankError::Failed { source, .. } if comes_from_an_end(source) => 2,
        RankError::Failed { .. } => 1,
    });
    match failures.into_iter().next() {
        None => Ok(results),
        Some(failure) => Err(failure),
    }
}

/// Runs rank 0 in this thread and every other rank in one of its own, and returns the result of rank 0. If several
/// fail, its error is rather the cause than the consequence.
///
/// - `failed`: the error of a rank that has panicked, or of ranks that cannot be started
///
/// # Errors
/// If there are no ranks, the system refuses a thread, or a rank fails.
pub(crate) fn led<T, E, L, W>(
    ends: Vec<ThreadCommunicator>,
    lead: L,
    work: W,
    failed: impl Fn(RankError<E>) -> E,
) -> Result<T, E>
where
    E: Error + Send + 'static,
    L: FnOnce(ThreadCommunicator) -> Result<T, E>,
    W: Fn(ThreadCommunicator) -> Result<(), E> + Sync,
{
    let mut ends = ends.into_iter();
    let Some(own) = ends.next() else {
        let none = OutOfRange::new("number of ranks", 0, "at least 1");
        return Err(failed(RankError::Start(none.into())));
    };
    let work = &work;
    thread::scope(|scope| {
        let mut others = Vec::new();
        for end in ends {
            let thread = thread::Builder::new().name(format!("rank {}", end.rank));
            let started = thread.spawn_scoped(scope, move || work(end));
            match started {
                Ok(thread) => others.push(thread),
                Err(error) => {
                    let refused = CommunicatorError::Start(error.to_string());
                    return Err(failed(RankError::Start(refused)));
                }
            }
        }
        let result = lead(own);
        let joined = others.into_iter().enumerate();
        let failures = joined.filter_map(|(other, thread)| match thread.join() {
            Ok(result) => result.err(),
            Err(panic) => Some(failed(RankError::Panicked {
                rank: other + 1,
                message: panic_message(&*panic),
            })),
        });
        // All of them are joined before the first cause is taken.
        let failures: Vec<E> = failures.collect();
        let cause = failures.into_iter().find(|error| !comes_from_an_end(error));
        match (result, cause) {
            // What ended one of them, not that it has ended.
            (Err(error), Some(cause)) if comes_from_an_end(&error) => Err(cause),
            (result, _) => result,
        }
    })
}

/// Whether an error, or one that it wraps, says that another rank has ended.
pub(crate) fn comes_from_an_end(error: &(dyn Error + 'static)) -> bool {
    if let Some(CommunicatorError::Ended { .. }) = error.downcast_ref() {
        return true;
    }
    error.source().is_some_and(comes_from_an_end)
}

impl ThreadCommunicator {
    fn take_in(&mut self, event: Event) {
        match event {
            Event::Message(envelope) => self.mailbox.put(envelope),
            Event::Ended { rank, panicked } => self.ended[rank] = Some(panicked),
        }
    }

    fn ended(&self, rank: usize) -> Result<(), CommunicatorError> {
        match self.ended[rank] {
            None => Ok(()),
            Some(panicked) => Err(CommunicatorError::Ended { rank, panicked }),
        }
    }
}

impl Communicator for ThreadCommunicator {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.peers.len()
    }

    fn time_limit(&self) -> Duration {
        self.time_limit
    }

    fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn send(&mut self, to: usize, tag: Tag, bytes: &[u8]) -> Result<(), CommunicatorError> {
        check_peer(self.rank, self.size(), to)?;
        let envelope = Envelope {
            from: self.rank,
            tag,
            bytes: bytes.to_vec(),
        };
        if self.peers[to].send(Event::Message(envelope)).is_err() {
            // The rank's end is gone, so its last event is here already.
            while let Ok(event) = self.arriving.try_recv() {
                self.take_in(event);
            }
            self.ended(to)?;
            return Err(CommunicatorError::Ended {
                rank: to,
                panicked: false,
            });
        }
        self.traffic.count_sent(tag, bytes.len());
        Ok(())
    }

    fn receive_first(
        &mut self,
        from: &[usize],
        tag: Tag,
        wait: Duration,
    ) -> Result<Option<(usize, Vec<u8>)>, CommunicatorError> {
        for &rank in from {
            check_peer(self.rank, self.size(), rank)?;
        }
        let begun = Instant::now();
        loop {
            while let Ok(event) = self.arriving.try_recv() {
                self.take_in(event);
            }
            if let Some((rank, bytes)) = self.mailbox.take(from, tag) {
                self.traffic.count_received(tag, bytes.len());
                return Ok(Some((rank, bytes)));
            }
            from.iter().try_for_each(|&rank| self.ended(rank))?;
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            match self.arriving.recv_timeout(left) {
                Ok(event) => self.take_in(event),
                // This rank holds a sender to itself, so the channel stays connected.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }
}

impl Drop for ThreadCommunicator {
    fn drop(&mut self) {
        let panicked = thread::panicking();
        for peer in &self.peers {
            // A peer that has ended itself needs no word.
            let _ = peer.send(Event::Ended {
                rank: self.rank,
                panicked,
            });
        }
    }
}
