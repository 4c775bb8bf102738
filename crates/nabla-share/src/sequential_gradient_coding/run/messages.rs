//! The messages of a coded run as bytes, little-endian.

use super::super::MiniTask;
use super::RunError;
use crate::communicator::Tag;
use crate::communicator::numbers::{from_bytes, to_bytes};

/// From the leader to a worker.
pub(super) const TASKS: Tag = Tag::new(0x5601);
/// From a worker to the leader.
pub(super) const ANSWERS: Tag = Tag::new(0x5602);

/// What the leader sends.
#[derive(Debug, PartialEq)]
pub(super) enum Order<'a> {
    Work {
        round: usize,
        /// For every worker that the rank stands for, its tasks.
        tasks: Vec<(usize, Vec<MiniTask>)>,
        /// A job that starts, and the state of its model.
        state: Option<(usize, &'a [u8])>,
    },
    /// The leader is there, but has nothing new.
    Wait,
    Stop,
}

/// What a worker sends.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    Results {
        round: usize,
        worker: usize,
        computed_seconds: f64,
        /// The results of the tasks, in their order.
        results: Vec<Vec<f32>>,
    },
    Failure {
        worker: usize,
        job: usize,
        chunk: usize,
        reason: String,
    },
}

fn put(bytes: &mut Vec<u8>, number: usize) {
    bytes.extend_from_slice(&(number as u64).to_le_bytes());
}

/// The bytes that have not been read.
struct Reader<'a> {
    rank: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn wrong(&self, what: &'static str) -> RunError {
        RunError::Message {
            rank: self.rank,
            what,
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], RunError> {
        let parts = self.rest.split_at_checked(count);
        let (taken, rest) = parts.ok_or_else(|| self.wrong("it is too short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<usize, RunError> {
        let mut own = [0; 8];
        own.copy_from_slice(self.take(8)?);
        usize::try_from(u64::from_le_bytes(own)).map_err(|_| self.wrong("a number is too large"))
    }

    /// As many as `read` returns, each of which takes at least 8 bytes.
    fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, RunError>,
    ) -> Result<Vec<T>, RunError> {
        let count = self.number()?;
        if count > self.rest.len() / 8 {
            return Err(self.wrong("it is too short"));
        }
        (0..count).map(|_| read(self)).collect()
    }
}

impl<'a> Order<'a> {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Stop => put(&mut bytes, 0),
            Self::Wait => put(&mut bytes, 1),
            Self::Work {
                round,
                tasks,
                state,
            } => {
                put(&mut bytes, if state.is_some() { 3 } else { 2 });
                put(&mut bytes, *round);
                put(&mut bytes, tasks.len());
                for (worker, tasks) in tasks {
                    put(&mut bytes, *worker);
                    put(&mut bytes, tasks.len());
                    for task in tasks {
                        put(&mut bytes, task.job);
                        put(&mut bytes, task.part);
                    }
                }
                if let Some((job, state)) = state {
                    put(&mut bytes, *job);
                    bytes.extend_from_slice(state);
                }
            }
        }
        bytes
    }

    pub fn read(rank: usize, bytes: &'a [u8]) -> Result<Self, RunError> {
        let mut reader = Reader { rank, rest: bytes };
        let kind = reader.number()?;
        match kind {
            0 => Ok(Self::Stop),
            1 => Ok(Self::Wait),
            2 | 3 => {
                let round = reader.number()?;
                let task = |reader: &mut Reader<'_>| {
                    let (job, part) = (reader.number()?, reader.number()?);
                    Ok(MiniTask { job, part })
                };
                let tasks = reader.list(|reader| Ok((reader.number()?, reader.list(task)?)))?;
                let state = match kind {
                    3 => Some((reader.number()?, reader.rest)),
                    _ => None,
                };
                Ok(Self::Work {
                    round,
                    tasks,
                    state,
                })
            }
            _ => Err(reader.wrong("there is no such order")),
        }
    }
}

impl Answer {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Results {
                round,
                worker,
                computed_seconds,
                results,
            } => {
                put(&mut bytes, 0);
                put(&mut bytes, *round);
                put(&mut bytes, *worker);
                bytes.extend_from_slice(&computed_seconds.to_le_bytes());
                put(&mut bytes, results.len());
                for result in results {
                    put(&mut bytes, result.len());
                    bytes.extend_from_slice(&to_bytes(result));
                }
            }
            Self::Failure {
                worker,
                job,
                chunk,
                reason,
            } => {
                put(&mut bytes, 1);
                put(&mut bytes, *worker);
                put(&mut bytes, *job);
                put(&mut bytes, *chunk);
                bytes.extend_from_slice(reason.as_bytes());
            }
        }
        bytes
    }

    pub fn read(rank: usize, bytes: &[u8]) -> Result<Self, RunError> {
        let mut reader = Reader { rank, rest: bytes };
        match reader.number()? {
            0 => Ok(Self::Results {
                round: reader.number()?,
                worker: reader.number()?,
                computed_seconds: from_bytes(reader.take(8)?)[0],
                results: reader.list(|reader| {
                    let length = reader.number()?;
                    let bytes = length.checked_mul(size_of::<f32>());
                    let bytes = bytes.ok_or_else(|| reader.wrong("a number is too large"))?;
                    Ok(from_bytes(reader.take(bytes)?))
                })?,
            }),
            1 => Ok(Self::Failure {
                worker: reader.number()?,
                job: reader.number()?,
                chunk: reader.number()?,
                reason: String::from_utf8_lossy(reader.rest).into_owned(),
            }),
            _ => Err(reader.wrong("there is no such answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_read_as_it_was_written() {
        let task = MiniTask { job: 7, part: 1 };
        let work = |state| Order::Work {
            round: 3,
            tasks: vec![(0, vec![task, task]), (5, Vec::new())],
            state,
        };
        for order in [
            Order::Stop,
            Order::Wait,
            work(None),
            work(Some((3, &[1, 2]))),
        ] {
            assert_eq!(Order::read(0, &order.to_bytes()).unwrap(), order);
        }
        let results = Answer::Results {
            round: 2,
            worker: 1,
            computed_seconds: 0.25,
            results: vec![vec![1.5, -2.0], vec![]],
        };
        let failure = Answer::Failure {
            worker: 1,
            job: 2,
            chunk: 3,
            reason: "no".to_owned(),
        };
        for answer in [results, failure] {
            let bytes = answer.to_bytes();
            assert_eq!(Answer::read(1, &bytes).unwrap(), answer);
        }
    }

    #[test]
    fn no_prefix_of_a_message_panics() {
        let answer = Answer::Results {
            round: 2,
            worker: 1,
            computed_seconds: 0.25,
            results: vec![vec![1.5, -2.0]],
        };
        let bytes = answer.to_bytes();
        for end in 0..bytes.len() {
            assert!(Answer::read(1, &bytes[..end]).is_err(), "{end}");
        }
        assert!(Order::read(0, &[9; 8]).is_err());
        assert!(Answer::read(0, &[[0; 8], [0; 8], [0; 8], [0; 8], [0xff; 8]].concat()).is_err());
    }
}
