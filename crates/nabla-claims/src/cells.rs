//! The cells of an experiment, which are measured one by one, stored, and reused when a run resumes.
//!
//! A cell is the smallest part of an experiment that is measured separately: usually one variant on one task
//! with one seed. An experiment declares the cells of a [`Stage`] and how to measure one of them;
//! [`Bench::measure`] does the rest. The value of a cell is written to a small file as soon as it is
//! measured, so a crash or Ctrl-C loses at most one cell, and the next run of the same experiment continues
//! from there. A run that finishes removes its files.
//!
//! A stored cell is reused by another run only if everything that its numbers depend on is the same: the
//! experiment and its [version](crate::Claim::version), the program with its version and commit, the device,
//! the quick or full form, all seeds, the stage's budget, and the cell's own task, variant and seed.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use nabla_base::progress::ProgressSink;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::claim::{Claim, ClaimContext, ClaimError};
use crate::names::{Task, Variant};

/// A part of an experiment with cells of one kind.
#[derive(Debug, Clone)]
pub struct Stage {
    name: String,
    budget: String,
}

impl Stage {
    /// Creates a stage.
    ///
    /// - `name`: shown by the progress bar; the stages of an experiment must have different names
    /// - `budget`: everything that the numbers depend on besides the cell itself, such as the number of steps
    pub fn new(name: impl Into<String>, budget: &impl Debug) -> Self {
        Self {
            name: name.into(),
            budget: format!("{budget:?}"),
        }
    }
}

/// The identity of a cell within its stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    task: Option<Task>,
    variant: Option<String>,
    seed: Option<u64>,
    part: Option<String>,
    #[serde(skip)]
    steps: Option<u64>,
}

impl Cell {
    /// The cell of a task, for all variants and seeds.
    pub fn of(task: &Task) -> Self {
        Self {
            task: Some(task.clone()),
            ..Self::whole()
        }
    }

    /// The only cell of a stage.
    pub fn whole() -> Self {
        Self {
            task: None,
            variant: None,
            seed: None,
            part: None,
            steps: None,
        }
    }

    /// The cell of one variant.
    pub fn variant(mut self, variant: &Variant) -> Self {
        self.variant = Some(variant.name().to_owned());
        self
    }

    /// The cell of one seed.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The cell of one part of a task, such as a picture.
    pub fn part(mut self, part: impl Into<String>) -> Self {
        self.part = Some(part.into());
        self
    }

    /// A long cell: measuring it advances the progress by `steps` in total, instead of by one at its end.
    pub fn steps(mut self, steps: u64) -> Self {
        self.steps = Some(steps);
        self
    }
}

/// Everything on which the numbers of a cell depend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    slug: String,
    version: u32,
    program: String,
    commit: String,
    device: String,
    quick: bool,
    seeds: Vec<u64>,
    stage: String,
    budget: String,
    cell: Cell,
}

/// A cell's file.
#[derive(Debug, Serialize, Deserialize)]
struct Kept<O> {
    key: Key,
    seconds: f64,
    outcome: O,
}

/// The bench on which an experiment is measured: its context, and the stored cells.
pub struct Bench<'a> {
    context: &'a ClaimContext<'a>,
    slug: String,
    version: u32,
    seeds: Vec<u64>,
    folder: Option<PathBuf>,
    /// The seconds that the stored cells took when they were measured.
    before: Mutex<f64>,
    /// The number of reused cells.
    resumed: AtomicUsize,
    /// Whether a note was printed that cells cannot be stored.
    complained: AtomicBool,
}

impl<'a> Bench<'a> {
    /// Creates a bench that stores nothing.
    pub fn new(claim: &dyn Claim, context: &'a ClaimContext<'a>) -> Self {
        Self {
            context,
            slug: claim.slug().to_owned(),
            version: claim.version(),
            seeds: context.seeds_of(claim),
            folder: None,
            before: Mutex::new(0.0),
            resumed: AtomicUsize::new(0),
            complained: AtomicBool::new(false),
        }
    }

    /// Creates a bench that stores its cells in `folder`, which is created for the first cell.
    pub fn keeping(claim: &dyn Claim, context: &'a ClaimContext<'a>, folder: &Path) -> Self {
        Self {
            folder: Some(folder.to_owned()),
            ..Self::new(claim, context)
        }
    }

    /// The context of the experiment.
    pub fn context(&self) -> &'a ClaimContext<'a> {
        self.context
    }

    /// The seeds: one run of each variant for each.
    pub fn seeds(&self) -> &[u64] {
        &self.seeds
    }

    /// Whether the run should only check, in seconds, that the experiment works.
    pub fn quick(&self) -> bool {
        self.context.quick
    }

    /// The progress sink, for cells of many [steps](Cell::steps).
    pub fn progress(&self) -> &'a dyn ProgressSink {
        self.context.progress
    }

    /// The number of cells reused from an earlier run, so far.
    pub fn resumed(&self) -> usize {
        self.resumed.load(Ordering::Relaxed)
    }

    pub(crate) fn seconds_before(&self) -> f64 {
        *self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures the cells of a stage, one after the other, and returns their values in order.
    ///
    /// - `points`: the points to measure
    /// - `cell`: the cell of a point; all must be different
    /// - `measure`: measures one point; it is not called for a stored cell. It may cache what several cells
    ///   have in common, if that does not change their numbers
    ///
    /// # Errors
    /// The first error that `measure` returns, and [`ClaimError::SameCell`] if two points are the same cell.
    /// If a cell cannot be stored, that is not an error, only a note in the progress: the run continues.
    pub fn measure<P, O>(
        &self,
        stage: &Stage,
        points: &[P],
        cell: impl Fn(&P) -> Cell,
        mut measure: impl FnMut(&P) -> Result<O, ClaimError>,
    ) -> Result<Vec<O>, ClaimError>
    where
        O: Serialize + DeserializeOwned,
    {
        let cells = self.begin(stage, points, cell)?;
        let pairs = points.iter().zip(&cells);
        pairs
            .map(|(point, cell)| self.one(stage, cell, || measure(point)))
            .collect()
    }

    /// Like [`measure`](Self::measure), on as many threads as there are cores.
    ///
    /// # Errors
    /// As [`measure`](Self::measure): the error of the first failed cell in their order.
    pub fn measure_side_by_side<P, O>(
        &self,
        stage: &Stage,
        points: &[P],
        cell: impl Fn(&P) -> Cell,
        measure: impl Fn(&P) -> Result<O, ClaimError> + Sync,
    ) -> Result<Vec<O>, ClaimError>
    where
        P: Sync,
        O: Serialize + DeserializeOwned + Send,
    {
        let cells = self.begin(stage, points, cell)?;
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<Option<Result<O, ClaimError>>>> =
            Mutex::new(points.iter().map(|_| None).collect());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let (Some(point), Some(cell)) = (points.get(i), cells.get(i)) else {
                    return;
                };
                let outcome = self.one(stage, cell, || measure(point));
                if outcome.is_err() {
                    // Measuring further cells would be useless.
                    next.store(points.len(), Ordering::Relaxed);
                }
                done.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(outcome);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..cores.min(points.len()) {
                scope.spawn(work);
            }
        });
        let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(i) = done.iter().position(|o| matches!(o, Some(Err(_))))
            && let Some(Err(error)) = done.swap_remove(i)
        {
            return Err(error);
        }
        let missing = || Err(ClaimError::experiment("the thread of a cell stopped"));
        done.into_iter()
            .map(|outcome| outcome.unwrap_or_else(missing))
            .collect()
    }

    fn begin<P>(
        &self,
        stage: &Stage,
        points: &[P],
        cell: impl Fn(&P) -> Cell,
    ) -> Result<Vec<Cell>, ClaimError> {
        let cells: Vec<Cell> = points.iter().map(cell).collect();
        for (i, cell) in cells.iter().enumerate() {
            if cells[..i].contains(cell) {
                return Err(ClaimError::SameCell {
                    slug: self.slug.clone(),
                    stage: stage.name.clone(),
                    cell: format!("{cell:?}"),
                });
            }
        }
        let steps = cells.iter().map(|cell| cell.steps.unwrap_or(1)).sum();
        self.context.progress.begin(&stage.name, steps);
        Ok(cells)
    }

    /// One cell: read from its file, or measured and stored.
    fn one<O>(
        &self,
        stage: &Stage,
        cell: &Cell,
        measure: impl FnOnce() -> Result<O, ClaimError>,
    ) -> Result<O, ClaimError>
    where
        O: Serialize + DeserializeOwned,
    {
        let key = self.key(stage, cell);
        let file = self.folder.as_deref().map(|folder| file_of(folder, &key));
        if let Some(kept) = file.as_deref().and_then(|file| read::<O>(file, &key)) {
            *self.before.lock().unwrap_or_else(PoisonError::into_inner) += kept.seconds;
            self.resumed.fetch_add(1, Ordering::Relaxed);
            self.context.progress.advance(cell.steps.unwrap_or(1));
            return Ok(kept.outcome);
        }
        let start = Instant::now();
        let outcome = measure()?;
        let seconds = start.elapsed().as_secs_f64();
        if cell.steps.is_none() {
            self.context.progress.advance(1);
        }
        match file {
            None => Ok(outcome),
            Some(file) => {
                let kept = Kept {
                    key,
                    seconds,
                    outcome,
                };
                if let Err(reason) = write(&file, &kept)
                    && !self.complained.swap(true, Ordering::Relaxed)
                {
                    let file = file.display();
                    let line = format!("what is measured cannot be kept in '{file}': {reason}");
                    self.context.progress.note(&line);
                }
                Ok(kept.outcome)
            }
        }
    }

    fn key(&self, stage: &Stage, cell: &Cell) -> Key {
        let source = &self.context.source;
        Key {
            slug: self.slug.clone(),
            version: self.version,
            program: format!("{} {}", source.program, source.version),
            commit: source.commit.full(),
            device: self.context.device_name.clone(),
            quick: self.context.quick,
            seeds: self.seeds.clone(),
            stage: stage.name.clone(),
            budget: stage.budget.clone(),
            cell: Cell {
                // The way of counting progress does not affect the numbers.
                steps: None,
                ..cell.clone()
            },
        }
    }
}

/// The file of a cell. Its name is a hash (FNV-1a, 64 bits) of the key; the file contains the whole key.
fn file_of(folder: &Path, key: &Key) -> PathBuf {
    let text = format!("{key:?}");
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    folder.join(format!("{hash:016x}.cbor"))
}

/// The value stored under exactly this key. A damaged file, or one with another key, is ignored: the cell is
/// measured again.
fn read<O: DeserializeOwned>(file: &Path, key: &Key) -> Option<Kept<O>> {
    let bytes = std::fs::read(file).ok()?;
    let kept: Kept<O> = ciborium::from_reader(bytes.as_slice()).ok()?;
    (kept.key == *key).then_some(kept)
}

/// # Errors
/// The reason, in words.
fn write<O: Serialize>(file: &Path, kept: &Kept<O>) -> Result<(), String> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    }
    let mut bytes = Vec::new();
    ciborium::into_writer(kept, &mut bytes).map_err(|e| e.to_string())?;
    nabla_base::write_bytes_atomically(file, &bytes).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::Source;
    use crate::measurement::Measurement;
    use crate::result::Commit;
    use burn::tensor::Device;
    use nabla_base::progress::NoProgress;
    use std::cell::Cell as Count;

    struct Toy {
        version: u32,
    }

    impl Claim for Toy {
        fn slug(&self) -> &str {
            "toy"
        }
        fn version(&self) -> u32 {
            self.version
        }
        fn statement(&self) -> &str {
            ""
        }
        fn criterion(&self) -> &str {
            ""
        }
        fn run(&self, _: &Bench<'_>) -> Result<Measurement, ClaimError> {
            Err(ClaimError::experiment("a toy"))
        }
    }

    const TASK: Task = Task::named("squares");

    fn context(seeds: &[u64]) -> ClaimContext<'static> {
        let source = Source {
            program: "toys".into(),
            version: "1.0.0".into(),
            commit: Commit {
                hash: "abc".into(),
                dirty: false,
            },
        };
        ClaimContext::new(Device::flex(), &NoProgress)
            .with_seeds(seeds.to_vec())
            .with_source(source)
    }

    /// Measures the squares of the seeds but fails at `broken`; returns what came out and how many were measured.
    fn squares(
        bench: &Bench<'_>,
        budget: usize,
        broken: Option<u64>,
    ) -> (Result<Vec<f64>, ClaimError>, usize) {
        let count = Count::new(0);
        let found = bench.measure(
            &Stage::new("squaring", &budget),
            bench.seeds(),
            |&seed| Cell::of(&TASK).seed(seed),
            |&seed| {
                if broken == Some(seed) {
                    return Err(ClaimError::experiment("broken"));
                }
                count.set(count.get() + 1);
                // Numbers that JSON does not have survive, too.
                Ok(if seed == 0 {
                    f64::NEG_INFINITY
                } else {
                    (seed as f64).sqrt()
                })
            },
        );
        (found, count.get())
    }

    #[test]
    fn a_run_that_failed_goes_on_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let seeds = [0, 2, 3, 5];
        let context = context(&seeds);
        let toy = Toy { version: 1 };
        let bench = Bench::keeping(&toy, &context, folder.path());
        let (found, measured) = squares(&bench, 10, Some(3));
        assert!(found.is_err() && measured == 2);
        let bench = Bench::keeping(&toy, &context, folder.path());
        let (found, measured) = squares(&bench, 10, None);
        let exact = [f64::NEG_INFINITY, 2_f64.sqrt(), 3_f64.sqrt(), 5_f64.sqrt()];
        assert_eq!((found.unwrap(), measured), (exact.to_vec(), 2));
        assert_eq!(bench.resumed(), 2);
        // Without a folder nothing is kept.
        let (found, measured) = squares(&Bench::new(&toy, &context), 10, None);
        assert_eq!((found.unwrap(), measured), (exact.to_vec(), 4));
    }

    /// Each of what the numbers depend on makes other cells.
    #[test]
    fn cells_of_other_numbers_are_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let seeds = [1, 2, 3];
        let first = context(&seeds);
        let toy = Toy { version: 1 };
        let measured = |toy: &Toy, context: &ClaimContext<'_>, budget: usize| {
            let bench = Bench::keeping(toy, context, folder.path());
            squares(&bench, budget, None).1
        };
        assert_eq!(measured(&toy, &first, 10), 3);
        assert_eq!(measured(&toy, &first, 10), 0);
        assert_eq!(measured(&toy, &first, 11), 3);
        assert_eq!(measured(&Toy { version: 2 }, &first, 10), 3);
        assert_eq!(measured(&toy, &context(&[1, 2, 4]), 10), 3);
        let mut other = context(&seeds);
        other.quick = true;
        assert_eq!(measured(&toy, &other, 10), 3);
        let other = context(&seeds).with_device_name("another device");
        assert_eq!(measured(&toy, &other, 10), 3);
        let mut other = context(&seeds);
        other.source.commit.dirty = true;
        assert_eq!(measured(&toy, &other, 10), 3);
        assert_eq!(measured(&toy, &first, 10), 0);
    }

    #[test]
    fn a_damaged_file_is_measured_again() {
        let folder = tempfile::tempdir().unwrap();
        let context = context(&[1, 2, 3]);
        let toy = Toy { version: 1 };
        let bench = Bench::keeping(&toy, &context, folder.path());
        let (found, _) = squares(&bench, 1, None);
        let mut files = std::fs::read_dir(folder.path()).unwrap();
        let file = files.next().unwrap().unwrap().path();
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
        let (again, measured) = squares(&bench, 1, None);
        assert_eq!((again.unwrap(), measured), (found.unwrap(), 1));
    }

    #[test]
    fn two_points_of_one_cell_are_refused() {
        let context = context(&[1, 2, 3]);
        let bench = Bench::new(&Toy { version: 1 }, &context);
        let stage = Stage::new("twice", &());
        let found = bench.measure(&stage, &[1, 2], |_| Cell::of(&TASK), |&p| Ok(p));
        let error = found.unwrap_err().to_string();
        assert!(
            error.contains("'toy'") && error.contains("'twice'"),
            "{error}"
        );
    }

    #[test]
    fn cells_side_by_side_keep_their_order_and_their_errors() {
        let folder = tempfile::tempdir().unwrap();
        let context = context(&[1, 2, 3]);
        let toy = Toy { version: 1 };
        let bench = Bench::keeping(&toy, &context, folder.path());
        let points: Vec<u64> = (0..50).collect();
        let stage = Stage::new("squaring", &());
        let cell = |&point: &u64| Cell::whole().seed(point);
        let error = bench.measure_side_by_side(&stage, &points, cell, |&point| match point {
            7 => Err(ClaimError::experiment("seven")),
            _ => Ok(point * point),
        });
        assert_eq!(error.err().map(|e| e.to_string()).as_deref(), Some("seven"));
        let found = bench.measure_side_by_side(&stage, &points, cell, |&p| Ok(p * p));
        let squares: Vec<u64> = points.iter().map(|p| p * p).collect();
        assert_eq!(found.unwrap(), squares);
        assert!(bench.resumed() >= 7);
    }
}
