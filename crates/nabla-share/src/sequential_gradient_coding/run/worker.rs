//! The worker's side of a coded run.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::messages::{ANSWERS, Answer, Order, TASKS};
use super::{BoxedError, Chunk, CodedRun, RunError};
use crate::communicator::Communicator;
use crate::sequential_gradient_coding::{CodingError, CodingScheme, MiniTask, encode};

const LEADER: usize = 0;

/// What the leader has asked for.
#[derive(Default)]
struct Orders {
    /// The newest round.
    round: usize,
    /// The tasks in it, by the worker that this rank stands for.
    tasks: VecDeque<(usize, Vec<MiniTask>)>,
    /// The states of the open jobs.
    states: BTreeMap<usize, Vec<u8>>,
    stopped: bool,
}

impl Orders {
    fn take_in(&mut self, bytes: &[u8], delay: usize) -> Result<(), RunError> {
        match Order::read(LEADER, bytes)? {
            Order::Stop => self.stopped = true,
            Order::Wait => {}
            Order::Work {
                round,
                tasks,
                state,
            } => {
                if round > self.round {
                    self.round = round;
                    self.tasks.clear();
                }
                self.tasks.extend(tasks);
                self.states
                    .extend(state.map(|(job, state)| (job, state.to_vec())));
                self.states.retain(|&job, _| job + delay >= round);
            }
        }
        Ok(())
    }

    /// Whether nobody waits any more for the answers of a round.
    fn outdate(&self, round: usize) -> bool {
        self.stopped || self.round > round
    }
}

/// Why a worker has no result.
enum NoResult {
    Outdated,
    Refused(RunError),
    Failed {
        job: usize,
        chunk: usize,
        reason: String,
    },
}

impl From<CodingError> for NoResult {
    fn from(error: CodingError) -> Self {
        Self::Refused(error.into())
    }
}

pub(super) fn work<C: Communicator>(
    run: &CodedRun,
    ranks: &mut C,
    scheme: &dyn CodingScheme,
    mut gradient: impl FnMut(&Chunk<'_>) -> Result<Vec<f32>, BoxedError>,
) -> Result<(), RunError> {
    run.check(scheme, ranks.size())?;
    let delay = scheme.delay();
    // Where each chunk begins, and where the last one ends.
    let mut bounds = vec![0.0];
    let mut sum = 0.0;
    for share in scheme.chunk_shares() {
        sum += share;
        bounds.push(sum);
    }
    // Up to rounding it is.
    bounds.last_mut().into_iter().for_each(|end| *end = 1.0);
    let mut orders = Orders::default();
    while !orders.stopped {
        let Some((worker, tasks)) = orders.tasks.pop_front() else {
            orders.take_in(&ranks.receive(LEADER, TASKS)?, delay)?;
            continue;
        };
        if tasks.is_empty() {
            continue;
        }
        let round = orders.round;
        let begun = Instant::now();
        let results = tasks
            .iter()
            .map(|&MiniTask { job, part }| {
                encode(scheme, worker, part, |index| {
                    while let Some(bytes) = ranks.try_receive(LEADER, TASKS).map_err(refused)? {
                        orders.take_in(&bytes, delay).map_err(NoResult::Refused)?;
                    }
                    if orders.outdate(round) {
                        return Err(NoResult::Outdated);
                    }
                    let state = orders.states.get(&job).ok_or_else(|| {
                        refused(RunError::Message {
                            rank: LEADER,
                            what: "it asks for a job whose state it has not sent",
                        })
                    })?;
                    let chunk = Chunk {
                        job,
                        model: job % run.models,
                        index,
                        state,
                        bounds: (bounds[index], bounds[index + 1]),
                    };
                    gradient(&chunk).map_err(|error| NoResult::Failed {
                        job,
                        chunk: index,
                        reason: error.to_string(),
                    })
                })
            })
            .collect();
        let answer = match results {
            Ok(results) => Answer::Results {
                round,
                worker,
                computed_seconds: begun.elapsed().as_secs_f64(),
                results,
            },
            Err(NoResult::Outdated) => continue,
            Err(NoResult::Refused(error)) => return Err(error),
            Err(NoResult::Failed { job, chunk, reason }) => Answer::Failure {
                worker,
                job,
                chunk,
                reason,
            },
        };
        let answer = answer.to_bytes();
        let held_back = ranks.hold_back(round, begun.elapsed())?;
        if hold_back(ranks, &mut orders, round, held_back, delay)? {
            ranks.send(LEADER, ANSWERS, &answer)?;
        }
    }
    Ok(())
}

fn refused(error: impl Into<RunError>) -> NoResult {
    NoResult::Refused(error.into())
}

/// Waits for `time`, and returns whether the answer is still asked for.
fn hold_back(
    ranks: &mut impl Communicator,
    orders: &mut Orders,
    round: usize,
    time: Duration,
    delay: usize,
) -> Result<bool, RunError> {
    let begun = Instant::now();
    while !orders.outdate(round) {
        let left = time.saturating_sub(begun.elapsed());
        match ranks.receive_first(&[LEADER], TASKS, left)? {
            Some((_, bytes)) => orders.take_in(&bytes, delay)?,
            None if left.is_zero() => return Ok(true),
            None => {}
        }
    }
    Ok(false)
}
