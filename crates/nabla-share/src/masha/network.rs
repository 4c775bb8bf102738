//! The messages between the workers and the server, in one process or between ranks.

use std::ops::Range;

use nabla_grad::compressor::Compressed;

use super::MashaError;
use crate::communicator::{Communicator, Tag};

/// An amount of data in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// The numbers, whatever their precision.
    pub numbers: u64,
    /// The bits of the messages in a code of fixed length, indices included.
    pub bits: u64,
}

impl Amount {
    fn add(&mut self, message: &Compressed, receivers: usize) {
        let numbers = match message.sparse() {
            Some((indices, _)) => indices.len(),
            None => message.dimension(),
        };
        self.numbers += (numbers * receivers) as u64;
        self.bits += message.size_in_bits() * receivers as u64;
    }
}

/// What all workers together have sent and received. A worker in the server's own process counts as any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// From the workers to the server.
    pub up: Amount,
    /// From the server to the workers, once for each of them.
    pub down: Amount,
}

/// What connects the workers with the server.
pub trait Network {
    /// `M`.
    fn workers(&self) -> usize;

    /// The workers in this process.
    fn here(&self) -> Range<usize>;

    /// Takes the messages of some workers to the server: `message` gives that of the sender at a position. Returns all
    /// of them, in the order of the senders, where the server is, and `None` elsewhere.
    ///
    /// - `lengths`: of the vector in each sender's message
    ///
    /// # Errors
    /// If a message cannot be made, or a rank fails.
    fn to_server(
        &mut self,
        senders: &[usize],
        lengths: &[usize],
        message: impl FnMut(usize) -> Result<Compressed, MashaError>,
    ) -> Result<Option<Vec<Compressed>>, MashaError>;

    /// Takes the message of the server, which is `None` elsewhere, to all workers.
    ///
    /// - `length`: of the vector in it
    ///
    /// # Errors
    /// If the server has no message, or a rank fails.
    fn to_all(
        &mut self,
        message: Option<Compressed>,
        length: usize,
    ) -> Result<Compressed, MashaError>;

    /// What has been sent: at the server by and to all workers, and at another rank by and to its own worker.
    fn sent(&self) -> Sent;
}

/// All workers and the server in one loop.
#[derive(Clone, Debug)]
pub struct OneProcess {
    workers: usize,
    sent: Sent,
}

impl OneProcess {
    /// For `workers` workers, which must be those of the problem.
    pub fn new(workers: usize) -> Self {
        Self {
            workers,
            sent: Sent::default(),
        }
    }
}

impl Network for OneProcess {
    fn workers(&self) -> usize {
        self.workers
    }

    fn here(&self) -> Range<usize> {
        0..self.workers
    }

    fn to_server(
        &mut self,
        senders: &[usize],
        _lengths: &[usize],
        message: impl FnMut(usize) -> Result<Compressed, MashaError>,
    ) -> Result<Option<Vec<Compressed>>, MashaError> {
        let messages: Vec<Compressed> =
            (0..senders.len()).map(message).collect::<Result<_, _>>()?;
        messages.iter().for_each(|m| self.sent.up.add(m, 1));
        Ok(Some(messages))
    }

    fn to_all(
        &mut self,
        message: Option<Compressed>,
        _length: usize,
    ) -> Result<Compressed, MashaError> {
        let message = message.ok_or(MashaError::NoBroadcast)?;
        self.sent.down.add(&message, self.workers);
        Ok(message)
    }

    fn sent(&self) -> Sent {
        self.sent
    }
}

const UP: Tag = Tag::new(0x4d41);

/// A worker at every rank of a communicator, and the server at rank 0 besides its worker.
#[derive(Debug)]
pub struct Ranks<C> {
    ranks: C,
    sent: Sent,
}

impl<C: Communicator> Ranks<C> {
    /// With as many workers as there are ranks. A mutable reference to a communicator is one, too.
    pub fn new(ranks: C) -> Self {
        Self {
            ranks,
            sent: Sent::default(),
        }
    }
}

impl<C: Communicator> Network for Ranks<C> {
    fn workers(&self) -> usize {
        self.ranks.size()
    }

    fn here(&self) -> Range<usize> {
        self.ranks.rank()..self.ranks.rank() + 1
    }

    fn to_server(
        &mut self,
        senders: &[usize],
        lengths: &[usize],
        mut message: impl FnMut(usize) -> Result<Compressed, MashaError>,
    ) -> Result<Option<Vec<Compressed>>, MashaError> {
        let own = self.ranks.rank();
        let mut messages = Vec::with_capacity(senders.len());
        for (position, (&sender, &length)) in senders.iter().zip(lengths).enumerate() {
            if sender == own {
                let made = message(position)?;
                self.sent.up.add(&made, 1);
                if own != 0 {
                    self.ranks.send(0, UP, &made.to_bytes())?;
                }
                messages.push(made);
            } else if own == 0 {
                let bytes = self.ranks.receive(sender, UP)?;
                let read = Compressed::from_bytes(&bytes, length)?;
                self.sent.up.add(&read, 1);
                messages.push(read);
            }
        }
        Ok((own == 0).then_some(messages))
    }

    fn to_all(
        &mut self,
        message: Option<Compressed>,
        length: usize,
    ) -> Result<Compressed, MashaError> {
        let receivers = if self.ranks.rank() == 0 {
            self.ranks.size()
        } else {
            1
        };
        let mut bytes = message.map_or_else(Vec::new, |message| message.to_bytes());
        self.ranks.broadcast(0, &mut bytes)?;
        let message = Compressed::from_bytes(&bytes, length)?;
        self.sent.down.add(&message, receivers);
        Ok(message)
    }

    fn sent(&self) -> Sent {
        self.sent
    }
}
