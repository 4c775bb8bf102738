//! Messages between the ranks of one computation: threads, MPI processes, or either with injected faults.
//!
//! A [`Communicator`] is one rank's end. It must send bytes with a [`Tag`] and receive the first message of some
//! ranks with a tag; everything else is built on these two, so that a new communicator is small:
//!
//! | Method | What it does |
//! |---|---|
//! | [`receive`](Communicator::receive), [`receive_within`](Communicator::receive_within) | waits for one rank |
//! | [`try_receive`](Communicator::try_receive) | does not wait |
//! | [`exchange`](Communicator::exchange) | both ends of an edge send and receive, for gossip |
//! | [`broadcast`](Communicator::broadcast), [`all_gather`](Communicator::all_gather), [`barrier`](Communicator::barrier) | all ranks |
//! | [`all_reduce_sum_f32`](Communicator::all_reduce_sum_f32), [`all_reduce_sum_f64`](Communicator::all_reduce_sum_f64) | sums over all ranks |
//!
//! A sum is taken from rank 0 to the last rank by rank 0, which then sends it to all. So the bits don't depend on
//! which rank was ready first, nor on the communicator: threads and MPI processes give the same ones.
//!
//! No call waits longer than it is told to, or else than the communicator's [time limit](Communicator::time_limit). A rank that doesn't answer
//! within it, has returned, or has panicked becomes a [`CommunicatorError`] that names it. The bytes of every
//! message are counted at both ends; see [`Traffic`].
//!
//! ```
//! use std::time::Duration;
//!
//! use nabla_share::communicator::{Communicator, CommunicatorError, Kind, Tag, threads};
//!
//! let limit = Duration::from_secs(10);
//! let sums = threads::run(3, limit, |ranks| -> Result<_, CommunicatorError> {
//!     let mut values = [ranks.rank() as f32, 1.0];
//!     ranks.all_reduce_sum_f32(&mut values)?;
//!     // A ring: every rank sends its number to the next one.
//!     let (next, before) = ((ranks.rank() + 1) % 3, (ranks.rank() + 2) % 3);
//!     ranks.send(next, Tag::new(7), &[ranks.rank() as u8])?;
//!     assert_eq!(ranks.receive(before, Tag::new(7))?, [before as u8]);
//!     assert_eq!(ranks.traffic().sent(Kind::Message).bytes, 1);
//!     Ok(values)
//! })?;
//! assert_eq!(sums, [[3.0, 3.0]; 3]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::time::Duration;

use nabla_base::range::OutOfRange;

mod collectives;
pub mod delays;
pub mod faults;
mod mailbox;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod numbers;
pub mod threads;
pub mod trace;
mod traffic;

pub use traffic::{Kind, Tag, Traffic, Volume};

/// The reason why ranks cannot communicate.
#[derive(Debug, thiserror::Error)]
pub enum CommunicatorError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// No message came in time.
    #[error("rank {rank} sent no {kind} within {waited:.3?}")]
    Silent {
        /// The rank that was waited for.
        rank: usize,
        /// What was waited for.
        kind: Kind,
        /// How long.
        waited: Duration,
    },
    /// The rank has ended, and all of its messages have been received.
    #[error("rank {rank} has ended{}", if *panicked { " by a panic" } else { "" })]
    Ended {
        /// The rank.
        rank: usize,
        /// Whether it panicked.
        panicked: bool,
    },
    /// There is no such rank.
    #[error("there is no rank {rank} among {size} ranks to exchange messages with rank {own}")]
    Rank {
        /// The rank asked for.
        rank: usize,
        /// The number of ranks.
        size: usize,
        /// The rank that asked; a rank sends itself nothing.
        own: usize,
    },
    /// A message has another length than its receiver expects.
    #[error("rank {rank} sent {found} bytes, but {expected} were expected")]
    Length {
        /// The sender.
        rank: usize,
        /// The length expected, in bytes.
        expected: String,
        /// The length of the message, in bytes.
        found: usize,
    },
    /// Fault injection ended this rank.
    #[error("fault injection ended rank {rank} in round {round}")]
    Killed {
        /// This rank.
        rank: usize,
        /// The round, from 0.
        round: usize,
    },
    /// The ranks cannot be started.
    #[error("cannot start the ranks: {0}")]
    Start(String),
}

/// One rank's end of the messages between all ranks; see the [module documentation](self).
///
/// Messages of one sender and tag arrive in the order in which they were sent.
pub trait Communicator {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn size(&self) -> usize;

    /// The longest time that a call waits for another rank.
    fn time_limit(&self) -> Duration;

    /// The bytes sent and received so far.
    fn traffic(&self) -> &Traffic;

    /// Sends a message, which its receiver must ask for by the same tag.
    ///
    /// # Errors
    /// If `to` is this rank or none, or has ended.
    fn send(&mut self, to: usize, tag: Tag, bytes: &[u8]) -> Result<(), CommunicatorError>;

    /// Returns the sender and the bytes of the first message with this tag from one of the ranks, or `None` if there is
    /// none within `wait`, which may be 0.
    ///
    /// # Errors
    /// If one of the ranks is this one or none; or if one has ended, and no message with this tag is left from any of
    /// them.
    fn receive_first(
        &mut self,
        from: &[usize],
        tag: Tag,
        wait: Duration,
    ) -> Result<Option<(usize, Vec<u8>)>, CommunicatorError>;

    /// How long this rank should hold back its answer of a round, which it has computed in the time `computed`.
    /// Only [fault injection](faults) returns more than 0. A method that wants its workers' delays injected waits for
    /// this long, or until it has something better to do.
    ///
    /// # Errors
    /// If fault injection ends this rank.
    fn hold_back(
        &mut self,
        round: usize,
        computed: Duration,
    ) -> Result<Duration, CommunicatorError> {
        let _ = (round, computed);
        Ok(Duration::ZERO)
    }

    /// Waits for a message from a rank, at most for `limit`.
    ///
    /// # Errors
    /// If `from` sends nothing in time, has ended, or is this rank or none.
    fn receive_within(
        &mut self,
        from: usize,
        tag: Tag,
        limit: Duration,
    ) -> Result<Vec<u8>, CommunicatorError> {
        match self.receive_first(&[from], tag, limit)? {
            Some((_, bytes)) => Ok(bytes),
            None => Err(CommunicatorError::Silent {
                rank: from,
                kind: tag.kind(),
                waited: limit,
            }),
        }
    }

    /// Waits for a message from a rank, at most for the communicator's time limit.
    ///
    /// # Errors
    /// As those of [`receive_within`](Self::receive_within).
    fn receive(&mut self, from: usize, tag: Tag) -> Result<Vec<u8>, CommunicatorError> {
        self.receive_within(from, tag, self.time_limit())
    }

    /// Returns a message from a rank if there is one, without waiting.
    ///
    /// # Errors
    /// If `from` has ended, or is this rank or none.
    fn try_receive(&mut self, from: usize, tag: Tag) -> Result<Option<Vec<u8>>, CommunicatorError> {
        let first = self.receive_first(&[from], tag, Duration::ZERO)?;
        Ok(first.map(|(_, bytes)| bytes))
    }

    /// Sends a message to a rank and receives its message with the same tag.
    ///
    /// # Errors
    /// As those of [`send`](Self::send) and [`receive`](Self::receive).
    fn exchange(
        &mut self,
        with: usize,
        tag: Tag,
        bytes: &[u8],
    ) -> Result<Vec<u8>, CommunicatorError> {
        self.send(with, tag, bytes)?;
        self.receive(with, tag)
    }

    /// Replaces `bytes` by those of rank `root` on all ranks.
    ///
    /// # Errors
    /// If a rank is silent or has ended, or there is no rank `root`.
    fn broadcast(&mut self, root: usize, bytes: &mut Vec<u8>) -> Result<(), CommunicatorError> {
        collectives::broadcast(self, root, bytes, Kind::Broadcast)
    }

    /// Returns the messages of all ranks on all ranks, in the order of the ranks. Their lengths may differ.
    ///
    /// # Errors
    /// If a rank is silent or has ended.
    fn all_gather(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CommunicatorError> {
        collectives::all_gather(self, bytes)
    }

    /// Replaces `values` by their sum over all ranks, from rank 0 to the last one.
    ///
    /// # Errors
    /// If a rank is silent, has ended, or has another number of values.
    fn all_reduce_sum_f32(&mut self, values: &mut [f32]) -> Result<(), CommunicatorError> {
        collectives::all_reduce_sum(self, values)
    }

    /// Replaces `values` by their sum over all ranks, from rank 0 to the last one.
    ///
    /// # Errors
    /// If a rank is silent, has ended, or has another number of values.
    fn all_reduce_sum_f64(&mut self, values: &mut [f64]) -> Result<(), CommunicatorError> {
        collectives::all_reduce_sum(self, values)
    }

    /// Returns when all ranks have called it.
    ///
    /// # Errors
    /// If a rank is silent or has ended.
    fn barrier(&mut self) -> Result<(), CommunicatorError> {
        collectives::barrier(self)
    }
}

impl<C: Communicator + ?Sized> Communicator for &mut C {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn size(&self) -> usize {
        (**self).size()
    }

    fn time_limit(&self) -> Duration {
        (**self).time_limit()
    }

    fn traffic(&self) -> &Traffic {
        (**self).traffic()
    }

    fn send(&mut self, to: usize, tag: Tag, bytes: &[u8]) -> Result<(), CommunicatorError> {
        (**self).send(to, tag, bytes)
    }

    fn receive_first(
        &mut self,
        from: &[usize],
        tag: Tag,
        wait: Duration,
    ) -> Result<Option<(usize, Vec<u8>)>, CommunicatorError> {
        (**self).receive_first(from, tag, wait)
    }

    fn hold_back(
        &mut self,
        round: usize,
        computed: Duration,
    ) -> Result<Duration, CommunicatorError> {
        (**self).hold_back(round, computed)
    }
}

/// Checks that `rank` exists and is not `own`.
fn check_peer(own: usize, size: usize, rank: usize) -> Result<(), CommunicatorError> {
    match rank < size && rank != own {
        true => Ok(()),
        false => Err(CommunicatorError::Rank { rank, size, own }),
    }
}
