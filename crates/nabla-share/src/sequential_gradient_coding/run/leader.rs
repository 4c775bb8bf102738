//! The leader's side of a coded run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::messages::{ANSWERS, Answer, Order, TASKS};
use super::{CodedRun, DeathRule, Models, RunError, RunReport};
use crate::communicator::trace::{Trace, TraceRow};
use crate::communicator::{Communicator, CommunicatorError, Traffic};
use crate::sequential_gradient_coding::{CodingScheme, History, MiniTask, Waiting, decode};

/// The share of the time limit after which the leader, if it waits, tells the workers that it is there.
const WORD: u32 = 4;

pub(super) fn lead<C: Communicator>(
    run: &CodedRun,
    ranks: &mut C,
    scheme: &dyn CodingScheme,
    models: &mut impl Models,
) -> Result<RunReport, RunError> {
    let result = run.check(scheme, ranks.size()).and_then(|()| {
        let mut leader = Leader::new(run, &mut *ranks, scheme);
        leader.run(models)?;
        Ok(leader.report)
    });
    // Whatever happened, nobody waits for another round. Whoever doesn't hear it is dead.
    let stop = Order::Stop.to_bytes();
    for rank in 1..ranks.size() {
        let _ = ranks.send(rank, TASKS, &stop);
    }
    result.map(|report| RunReport {
        traffic: ranks.traffic().clone(),
        ..report
    })
}

struct Leader<'a, C> {
    run: &'a CodedRun,
    ranks: &'a mut C,
    scheme: &'a dyn CodingScheme,
    history: History,
    /// The rank that does the tasks of each worker.
    deputies: Vec<usize>,
    /// By rank, what is known about those that are dead.
    dead: BTreeMap<usize, String>,
    /// The answers to the open jobs, by job, worker and part.
    answers: BTreeMap<(usize, usize, usize), Vec<f32>>,
    /// When each round began.
    begun: Vec<Instant>,
    report: RunReport,
}

impl<'a, C: Communicator> Leader<'a, C> {
    fn new(run: &'a CodedRun, ranks: &'a mut C, scheme: &'a dyn CodingScheme) -> Self {
        Self {
            run,
            ranks,
            scheme,
            history: History::new(scheme, run.jobs),
            deputies: (1..=scheme.workers()).collect(),
            dead: BTreeMap::new(),
            answers: BTreeMap::new(),
            begun: Vec::new(),
            report: RunReport {
                gradients: 0,
                rounds: 0,
                round_seconds: Vec::new(),
                waits: 0,
                stragglers: 0,
                late: 0,
                dead: Vec::new(),
                trace: Trace::default(),
                traffic: Traffic::default(),
            },
        }
    }

    fn run(&mut self, models: &mut impl Models) -> Result<(), RunError> {
        loop {
            let job = self.history.round();
            let model = job % self.run.models;
            let failed = |job| move |source| RunError::Step { job, source };
            if job < self.history.jobs() && !models.wants(job, model).map_err(failed(job))? {
                self.history.end_jobs();
            }
            if self.history.is_finished() {
                break;
            }
            let state = match job < self.history.jobs() {
                true => Some((job, models.state(job, model).map_err(failed(job))?)),
                false => None,
            };
            let tasks = self.scheme.assign(&self.history);
            self.history.begin_round(tasks);
            let begun = Instant::now();
            self.begun.push(begun);
            self.send_out(state)?;
            self.collect(begun)?;
            let seconds = begun.elapsed().as_secs_f64();
            self.report.round_seconds.push(seconds);
            for job in self.history.newly_decodable(self.scheme) {
                let gradient = self.decoded(job)?;
                let step = models.step(job, job % self.run.models, gradient);
                step.map_err(failed(job))?;
                self.report.gradients += 1;
            }
            let due = self.history.due_job();
            if let Some(job) = due.filter(|&job| !self.history.is_decoded(job)) {
                let scheme = self.scheme.label();
                return Err(RunError::Lost { scheme, job });
            }
            let late = self.history.missing();
            self.report.stragglers += late.iter().filter(|&&late| late).count();
            self.history.end_round();
        }
        self.report.rounds = self.history.round();
        Ok(())
    }

    fn decoded(&mut self, job: usize) -> Result<Vec<f32>, RunError> {
        let Some(returned) = self.history.returned(job) else {
            return Ok(Vec::new());
        };
        let answer = |worker, part| {
            let values = self.answers.get(&(job, worker, part));
            values.map(Vec::as_slice)
        };
        let gradient = decode(self.scheme, returned, answer)?;
        self.answers.retain(|&(other, ..), _| other != job);
        Ok(gradient)
    }

    fn living(&self) -> Vec<usize> {
        let ranks = 1..self.ranks.size();
        ranks.filter(|rank| !self.dead.contains_key(rank)).collect()
    }

    /// The workers that the rank stands for, with those of their tasks of this round that are not done.
    fn left_to(&self, rank: usize) -> Vec<(usize, Vec<MiniTask>)> {
        let missing = self.history.missing();
        let own = (0..missing.len()).filter(|&w| missing[w] && self.deputies[w] == rank);
        own.map(|w| (w, self.history.tasks(w).to_vec())).collect()
    }

    /// Begins the round at all ranks, those first that were in time last: to send to a busy rank can take long.
    fn send_out(&mut self, state: Option<(usize, Vec<u8>)>) -> Result<(), RunError> {
        let mut living = self.living();
        if let Some(late) = self.history.stragglers().last() {
            living.sort_by_key(|&rank| late[rank - 1]);
        }
        let mut ended = Vec::new();
        for rank in living {
            let order = Order::Work {
                round: self.history.round(),
                tasks: self.left_to(rank),
                state: state.as_ref().map(|(job, state)| (*job, &state[..])),
            };
            match self.ranks.send(rank, TASKS, &order.to_bytes()) {
                Ok(()) => {}
                Err(CommunicatorError::Ended { rank, panicked }) => ended.push((rank, panicked)),
                Err(error) => return Err(error.into()),
            }
        }
        // Only now: a rank must have the state of the new job before it takes over tasks.
        for (rank, panicked) in ended {
            self.bury(CommunicatorError::Ended { rank, panicked }, rank)?;
        }
        Ok(())
    }

    fn send(&mut self, rank: usize, order: &Order<'_>) -> Result<(), RunError> {
        if self.dead.contains_key(&rank) {
            return Ok(());
        }
        match self.ranks.send(rank, TASKS, &order.to_bytes()) {
            Ok(()) => Ok(()),
            Err(CommunicatorError::Ended { rank, panicked }) => {
                self.bury(CommunicatorError::Ended { rank, panicked }, rank)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes note of a dead rank, and has another one do its tasks if the run says so.
    fn bury(&mut self, cause: CommunicatorError, rank: usize) -> Result<(), RunError> {
        if self.dead.insert(rank, cause.to_string()).is_some() {
            return Ok(());
        }
        let round = self.history.round();
        self.report.dead.push((rank - 1, round));
        if self.run.deaths == DeathRule::Endure {
            return Ok(());
        }
        let orphans = self.left_to(rank);
        for worker in 0..self.deputies.len() {
            if self.deputies[worker] != rank {
                continue;
            }
            let burden = |rank: &usize| {
                let tasks = self.deputies.iter().filter(|&deputy| deputy == rank);
                (tasks.count(), *rank)
            };
            match self.living().into_iter().min_by_key(burden) {
                Some(deputy) => self.deputies[worker] = deputy,
                None => return Err(self.lost()),
            }
        }
        for (worker, tasks) in orphans {
            // It can die in turn meanwhile; its own end then passes the tasks on.
            let order = Order::Work {
                round,
                tasks: vec![(worker, tasks)],
                state: None,
            };
            self.send(self.deputies[worker], &order)?;
        }
        Ok(())
    }

    fn lost(&self) -> RunError {
        let dead: Vec<&str> = self.dead.values().map(String::as_str).collect();
        RunError::Dead {
            round: self.history.round(),
            dead: dead.join(" and "),
        }
    }

    /// Takes in answers until the round ends.
    fn collect(&mut self, begun: Instant) -> Result<(), RunError> {
        let limit = self.ranks.time_limit();
        let mut waiting = Waiting::new(self.run.rule);
        let mut cutoff: Option<Duration> = None;
        let mut waited = false;
        // The last sign of progress, and the last word to the workers.
        let (mut sign, mut word) = (begun, begun);
        loop {
            let missing = self.history.missing();
            if missing.iter().all(|&missing| !missing) {
                break;
            }
            let passed = cutoff.is_some_and(|cutoff| begun.elapsed() >= cutoff);
            if passed && waiting.is_over(self.scheme, &self.history) {
                break;
            }
            waited = waited || passed;
            let needed: Vec<usize> = (0..missing.len()).filter(|&w| missing[w]).collect();
            let all_dead = |&w: &usize| self.dead.contains_key(&self.deputies[w]);
            if needed.iter().all(all_dead) {
                if waiting.is_over(self.scheme, &self.history) {
                    break;
                }
                return Err(self.lost());
            }
            if sign.elapsed() >= limit {
                // Listed before any of their tasks pass to others, who have just begun.
                let silent: BTreeSet<usize> = needed.iter().map(|&w| self.deputies[w]).collect();
                for rank in silent {
                    let cause = CommunicatorError::Silent {
                        rank,
                        kind: ANSWERS.kind(),
                        waited: sign.elapsed(),
                    };
                    self.bury(cause, rank)?;
                }
                sign = Instant::now();
                continue;
            }
            let until_cutoff = cutoff.map_or(limit, |cutoff| match passed {
                true => limit,
                false => cutoff.saturating_sub(begun.elapsed()),
            });
            let wait = until_cutoff
                .min(limit.saturating_sub(sign.elapsed()))
                .min(limit / WORD);
            let (deaths, living) = (self.dead.len(), self.living());
            match self.ranks.receive_first(&living, ANSWERS, wait) {
                Ok(Some((rank, bytes))) => {
                    if self.take_in(rank, &bytes)? {
                        sign = Instant::now();
                        let first = begun.elapsed().as_secs_f64() * (1.0 + self.run.tolerance);
                        // Longer than any round, in place of an overflow.
                        let first = Duration::try_from_secs_f64(first).unwrap_or(Duration::MAX);
                        cutoff.get_or_insert(first);
                    }
                }
                Ok(None) => {}
                Err(CommunicatorError::Ended { rank, panicked }) => {
                    self.bury(CommunicatorError::Ended { rank, panicked }, rank)?;
                }
                Err(error) => return Err(error.into()),
            }
            if self.dead.len() > deaths {
                // A deputy has the whole time limit.
                sign = Instant::now();
            }
            if word.elapsed() >= limit / WORD {
                word = Instant::now();
                for rank in self.living() {
                    self.send(rank, &Order::Wait)?;
                }
            }
        }
        self.report.waits += usize::from(waited);
        Ok(())
    }

    /// Takes in a message, and returns whether it is an answer of this round.
    fn take_in(&mut self, rank: usize, bytes: &[u8]) -> Result<bool, RunError> {
        let wrong = |what| RunError::Message { rank, what };
        let (round, worker, computed_seconds, results) = match Answer::read(rank, bytes)? {
            Answer::Results {
                round,
                worker,
                computed_seconds,
                results,
            } => (round, worker, computed_seconds, results),
            Answer::Failure {
                worker,
                job,
                chunk,
                reason,
            } => {
                return Err(RunError::Chunk {
                    worker,
                    job,
                    chunk,
                    reason,
                });
            }
        };
        let begun = self.begun.get(round);
        let begun = *begun.ok_or_else(|| wrong("it answers a round that has not begun"))?;
        if worker >= self.deputies.len() {
            return Err(wrong("there is no such worker"));
        }
        self.report.trace.push(TraceRow {
            round,
            worker,
            load: self.scheme.part_load() * results.len() as f64,
            computed_seconds,
            answered_seconds: begun.elapsed().as_secs_f64(),
        });
        if round != self.history.round() {
            self.report.late += 1;
            return Ok(false);
        }
        let tasks = self.history.tasks(worker);
        if tasks.len() != results.len() {
            return Err(wrong(
                "it has another number of results than the worker has tasks",
            ));
        }
        for (task, result) in tasks.iter().zip(results) {
            self.answers.insert((task.job, worker, task.part), result);
        }
        self.history.record(worker);
        Ok(true)
    }
}
