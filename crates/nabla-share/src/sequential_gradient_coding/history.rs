//! What has been asked and returned so far.

use std::collections::VecDeque;
use std::ops::Range;

use super::{CodingScheme, StragglerModel};

/// A worker's mini-task: its part of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MiniTask {
    /// The job, from 0.
    pub job: usize,
    /// The number of the mini-task among the worker's mini-tasks of the job, from 0.
    pub part: usize,
}

/// The mini-tasks of a job that have been returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    workers: usize,
    /// Part by part, each worker: `[parts, workers]`.
    done: Vec<bool>,
}

impl Returned {
    /// Nothing.
    pub fn new(workers: usize, parts: usize) -> Self {
        Self {
            workers,
            done: vec![false; workers * parts],
        }
    }

    /// Adds a worker's part.
    pub fn insert(&mut self, worker: usize, part: usize) {
        self.done[part * self.workers + worker] = true;
    }

    /// Whether a worker's part has been returned.
    pub fn has(&self, worker: usize, part: usize) -> bool {
        self.done[part * self.workers + worker]
    }

    /// For every worker whether it has returned its part of this number.
    pub fn of_part(&self, part: usize) -> &[bool] {
        &self.done[part * self.workers..(part + 1) * self.workers]
    }
}

/// The rounds of a run so far, as a [`CodingScheme`] sees them.
///
/// A round is [begun](Self::begin_round) with its tasks; every answer that arrives in time is
/// [recorded](Self::record); then the round [ends](Self::end_round), and whoever had tasks and has not answered is a
/// straggler of the round.
///
/// ```
/// use nabla_share::sequential_gradient_coding::{CodeKind, CodingScheme, GradientCode, History};
///
/// let code = GradientCode::new(4, 1, CodeKind::Repetition)?;
/// let mut history = History::new(&code, 1);
/// history.begin_round(code.assign(&history));
/// for worker in [0, 3] {
///     history.record(worker);
/// }
/// assert!(code.recoverable(&history));
/// assert_eq!(history.newly_decodable(&code), [0]);
/// history.end_round();
/// assert!(history.is_finished());
/// # Ok::<(), nabla_share::sequential_gradient_coding::CodingError>(())
/// ```
#[derive(Clone, Debug)]
pub struct History {
    workers: usize,
    parts: usize,
    delay: usize,
    jobs: usize,
    round: usize,
    /// The first of the jobs in `returned`.
    first_open: usize,
    returned: VecDeque<Returned>,
    /// For every job whether it has been decodable.
    decoded: Vec<bool>,
    tasks: Vec<Vec<MiniTask>>,
    answered: Vec<bool>,
    stragglers: Vec<Vec<bool>>,
    /// The scheme's models that all rounds so far fit.
    models: Vec<StragglerModel>,
}

impl History {
    /// Before the first round.
    ///
    /// - `jobs`: the number of gradients to compute
    pub fn new(scheme: &(impl CodingScheme + ?Sized), jobs: usize) -> Self {
        let workers = scheme.workers();
        Self {
            workers,
            parts: scheme.parts(),
            delay: scheme.delay(),
            jobs,
            round: 0,
            first_open: 0,
            returned: VecDeque::new(),
            decoded: vec![false; jobs],
            tasks: vec![Vec::new(); workers],
            answered: vec![false; workers],
            stragglers: Vec::new(),
            models: scheme.models(),
        }
    }

    /// The current round, from 0.
    pub fn round(&self) -> usize {
        self.round
    }

    /// The number of jobs.
    pub fn jobs(&self) -> usize {
        self.jobs
    }

    /// Leaves out the job that would start in the current round, and all after it.
    pub fn end_jobs(&mut self) {
        self.jobs = self.jobs.min(self.round);
        self.decoded.truncate(self.jobs);
    }

    /// Whether all jobs have been decodable.
    pub fn is_finished(&self) -> bool {
        self.decoded.iter().all(|&decoded| decoded)
    }

    /// The jobs whose slots include the current round: those started in it or in the `T` rounds before.
    pub fn open_jobs(&self) -> Range<usize> {
        self.round.saturating_sub(self.delay)..(self.round + 1).min(self.jobs)
    }

    /// The job that must be decodable at the end of the current round.
    pub fn due_job(&self) -> Option<usize> {
        let due = self.round.checked_sub(self.delay)?;
        (due < self.jobs).then_some(due)
    }

    /// Whether a job has been decodable.
    pub fn is_decoded(&self, job: usize) -> bool {
        self.decoded.get(job).copied().unwrap_or(false)
    }

    /// What has been returned of a job; `None` if it is not open.
    pub fn returned(&self, job: usize) -> Option<&Returned> {
        self.returned.get(job.checked_sub(self.first_open)?)
    }

    /// The current tasks of a worker.
    pub fn tasks(&self, worker: usize) -> &[MiniTask] {
        &self.tasks[worker]
    }

    /// For every worker whether it has tasks in this round that it has not returned.
    pub fn missing(&self) -> Vec<bool> {
        let workers = self.tasks.iter().zip(&self.answered);
        workers
            .map(|(tasks, &answered)| !tasks.is_empty() && !answered)
            .collect()
    }

    /// For every round that has ended the workers that straggled, `[rounds][workers]`.
    pub fn stragglers(&self) -> &[Vec<bool>] {
        &self.stragglers
    }

    /// Whether the stragglers of all rounds fit a model of the scheme if the current round ends now. Each round is
    /// looked at once, with the window before it.
    pub fn fits_a_model(&self) -> bool {
        let missing = self.missing();
        let mut models = self.models.iter();
        models.any(|model| model.admits(&self.stragglers, &missing))
    }

    /// Begins the round with the tasks of every worker.
    pub fn begin_round(&mut self, tasks: Vec<Vec<MiniTask>>) {
        let open = self.open_jobs();
        while self.first_open < open.start {
            self.returned.pop_front();
            self.first_open += 1;
        }
        while self.first_open + self.returned.len() < open.end {
            let nothing = Returned::new(self.workers, self.parts);
            self.returned.push_back(nothing);
        }
        self.tasks = tasks;
        self.tasks.resize(self.workers, Vec::new());
        self.answered = vec![false; self.workers];
    }

    /// Records that a worker has returned all its tasks of the round. One that isn't recorded loses all of them.
    pub fn record(&mut self, worker: usize) {
        self.answered[worker] = true;
        for task in &self.tasks[worker] {
            let index = task.job.checked_sub(self.first_open);
            if let Some(returned) = index.and_then(|index| self.returned.get_mut(index)) {
                returned.insert(worker, task.part);
            }
        }
    }

    /// The open jobs whose answers have come to suffice, in order. Each is returned once.
    pub fn newly_decodable(&mut self, scheme: &(impl CodingScheme + ?Sized)) -> Vec<usize> {
        let open = self.open_jobs().filter(|&job| {
            let returned = self.returned(job);
            !self.decoded[job] && returned.is_some_and(|returned| scheme.decodable(returned))
        });
        let jobs: Vec<usize> = open.collect();
        for &job in &jobs {
            self.decoded[job] = true;
        }
        jobs
    }

    /// Ends the round.
    pub fn end_round(&mut self) {
        let missing = self.missing();
        let past = &self.stragglers;
        self.models.retain(|model| model.admits(past, &missing));
        self.stragglers.push(missing);
        self.round += 1;
    }
}
