//! Ranks that are MPI processes, with the cargo feature `mpi`.
//!
//! It needs an MPI library and, to build its bindings, libclang. On Debian and Ubuntu:
//!
//! ```text
//! apt-get install -y libopenmpi-dev openmpi-bin libclang-dev
//! cargo build --release -p nabla-share --features mpi --example mpi_ranks
//! mpirun -n 4 target/release/examples/mpi_ranks
//! ```
//!
//! As root, and with more processes than cores, `mpirun` also needs `--allow-run-as-root --oversubscribe`.
//!
//! All operations are those of [`Communicator`], so the bits are those of [`threads`](super::threads) with the same
//! number of ranks. Two things differ, because MPI is what it is:
//!
//! * a process that dies ends the whole job: `mpirun` ends the others. A process that is silent becomes an error at
//!   its peers, as everywhere. After an error, call [`abort`](MpiCommunicator::abort): a process that returns waits
//!   for the others to do so too;
//! * a large message (above the eager limit, usually some kilobytes) is sent only while its receiver receives. The
//!   sender takes in other messages meanwhile, so two ranks can send to each other at the same time. A message that
//!   nobody takes within the time limit cannot be taken back, so it ends the job with a line on the standard error.

use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::collective::CommunicatorCollectives;
use mpi::environment::Universe;
use mpi::point_to_point::{Destination, MatchedReceiveVec, Source};
use mpi::request;
use mpi::topology::{Communicator as _, SimpleCommunicator};
use nabla_base::range;

use super::mailbox::{Envelope, Mailbox};
use super::{Communicator, CommunicatorError, Tag, Traffic, check_peer};

/// The pause between two looks for a message.
const PAUSE: Duration = Duration::from_micros(50);

/// The exit code of a process that has panicked, as Rust has it.
const PANICKED: i32 = 101;

/// One process's end; see the [module documentation](self).
pub struct MpiCommunicator {
    world: SimpleCommunicator,
    session: MpiSession,
    rank: usize,
    size: usize,
    time_limit: Duration,
    mailbox: Mailbox,
    traffic: Traffic,
}

impl std::fmt::Debug for MpiCommunicator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MpiCommunicator")
            .field("rank", &self.rank)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// What keeps MPI running. Keep one if the communicator is given away: MPI ends when the last is dropped, and a process
/// that ends MPI waits for the others to do so too.
#[derive(Clone)]
pub struct MpiSession(Rc<Running>);

impl std::fmt::Debug for MpiSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MpiSession")
    }
}

struct Running(Universe);

impl Drop for Running {
    fn drop(&mut self) {
        let world = self.0.world();
        // Nobody waits for a process that has panicked.
        if thread::panicking() {
            world.abort(PANICKED);
        }
        // A large message is sent only while its receiver receives, and one who ends MPI receives no more: its sender
        // would never come to its own end. So all take in what is sent to them until all are here.
        let mut all_here = world.immediate_barrier();
        while let Err(unfinished) = all_here.test() {
            all_here = unfinished;
            take_in(&world, &mut Mailbox::default());
            thread::sleep(PAUSE);
        }
    }
}

impl MpiSession {
    /// Ends the processes of all ranks with an exit code.
    pub fn abort(&self, code: i32) -> ! {
        self.0.0.world().abort(code)
    }
}

impl MpiCommunicator {
    /// Starts MPI, which a process can do once.
    ///
    /// # Errors
    /// If this process has started it already, or the time limit is 0.
    pub fn start(time_limit: Duration) -> Result<Self, CommunicatorError> {
        range::positive("time limit in seconds", time_limit.as_secs_f64())?;
        let started = mpi::initialize_with_threading(Threading::Funneled);
        let (universe, _) = started.ok_or_else(|| {
            CommunicatorError::Start("this process has started MPI before".to_owned())
        })?;
        let world = universe.world();
        let whole = |number: i32| {
            usize::try_from(number)
                .map_err(|_| CommunicatorError::Start(format!("MPI counts {number} ranks")))
        };
        let (rank, size) = (whole(world.rank())?, whole(world.size())?);
        Ok(Self {
            world,
            session: MpiSession(Rc::new(Running(universe))),
            rank,
            size,
            time_limit,
            mailbox: Mailbox::default(),
            traffic: Traffic::default(),
        })
    }

    /// What keeps MPI running.
    pub fn session(&self) -> MpiSession {
        self.session.clone()
    }

    /// Sets the longest time that a call waits for another rank.
    ///
    /// # Errors
    /// If it is 0.
    pub fn set_time_limit(&mut self, time_limit: Duration) -> Result<(), CommunicatorError> {
        range::positive("time limit in seconds", time_limit.as_secs_f64())?;
        self.time_limit = time_limit;
        Ok(())
    }

    /// Ends the processes of all ranks with an exit code.
    pub fn abort(&self, code: i32) -> ! {
        self.world.abort(code)
    }
}

/// Takes in all messages that have arrived, whatever their senders and tags.
fn take_in(world: &SimpleCommunicator, mailbox: &mut Mailbox) {
    while let Some(arrived) = world.any_process().immediate_matched_probe() {
        let (bytes, status) = arrived.matched_receive_vec::<u8>();
        let from = usize::try_from(status.source_rank()).ok();
        let tag = u32::try_from(status.tag()).ok().and_then(Tag::from_code);
        // A message with another tag is none of a communicator's.
        if let Some((from, tag)) = from.zip(tag) {
            mailbox.put(Envelope { from, tag, bytes });
        }
    }
}

impl Communicator for MpiCommunicator {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn time_limit(&self) -> Duration {
        self.time_limit
    }

    fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    fn send(&mut self, to: usize, tag: Tag, bytes: &[u8]) -> Result<(), CommunicatorError> {
        check_peer(self.rank, self.size, to)?;
        // MPI counts in i32.
        let length = bytes.len();
        range::within(
            "number of bytes of a message",
            length,
            0..=i32::MAX as usize,
        )?;
        self.traffic.count_sent(tag, length);
        let begun = Instant::now();
        let Self { world, mailbox, .. } = self;
        request::scope(|scope| {
            // The numbers fit: MPI gave the ranks, and codes are small.
            let process = world.process_at_rank(to as i32);
            let mut sending = process.immediate_send_with_tag(scope, bytes, tag.code() as i32);
            while let Err(unfinished) = sending.test() {
                sending = unfinished;
                // The receiver may be sending to this rank, and waiting for it to receive.
                take_in(world, mailbox);
                if begun.elapsed() > self.time_limit {
                    let (own, waited) = (self.rank, begun.elapsed());
                    eprintln!("rank {own}: rank {to} took no message within {waited:.3?}");
                    world.abort(1);
                }
                thread::sleep(PAUSE);
            }
        });
        Ok(())
    }

    fn receive_first(
        &mut self,
        from: &[usize],
        tag: Tag,
        wait: Duration,
    ) -> Result<Option<(usize, Vec<u8>)>, CommunicatorError> {
        for &rank in from {
            check_peer(self.rank, self.size, rank)?;
        }
        let begun = Instant::now();
        loop {
            take_in(&self.world, &mut self.mailbox);
            if let Some((rank, bytes)) = self.mailbox.take(from, tag) {
                self.traffic.count_received(tag, bytes.len());
                return Ok(Some((rank, bytes)));
            }
            let left = wait.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            thread::sleep(left.min(PAUSE));
        }
    }
}
