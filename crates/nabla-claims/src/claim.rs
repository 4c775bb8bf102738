//! The contract of an experiment.

use std::error::Error;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use nabla_base::methods::{Paper, method};
use nabla_base::progress::ProgressSink;

use crate::cells::Bench;
use crate::measurement::Measurement;
use crate::result::{Commit, NABLA};
use crate::table::TableError;

/// The minimum number of seeds of a result.
pub const MIN_SEEDS: usize = 3;

/// The program whose experiment is run, as named in results.
///
/// ```
/// use burn::tensor::Device;
/// use nabla_base::progress::NoProgress;
/// use nabla_claims::{ClaimContext, Commit, Source};
/// use std::path::Path;
///
/// // In your own program:
/// let source = Source {
///     program: env!("CARGO_PKG_NAME").to_owned(),
///     version: env!("CARGO_PKG_VERSION").to_owned(),
///     commit: Commit::of_checkout(Path::new(env!("CARGO_MANIFEST_DIR"))),
/// };
/// let context = ClaimContext::new(Device::flex(), &NoProgress).with_source(source);
/// # let _ = context;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub program: String,
    /// Its version.
    pub version: String,
    /// The state of its source.
    pub commit: Commit,
}

impl Source {
    /// Nabla itself, with the commit of the working tree around the current directory.
    pub fn nabla() -> Self {
        Self {
            program: NABLA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: Commit::around(Path::new(".")),
        }
    }
}

/// The settings and services with which an experiment runs.
pub struct ClaimContext<'a> {
    /// Whether to run the quick form, which takes seconds and only checks that the experiment works; its
    /// numbers are never results.
    pub quick: bool,
    /// One run of each variant per seed: at least [`MIN_SEEDS`] unless `quick`, all different. With `None`, an
    /// experiment uses [its own](Claim::seeds), and a quick run only the first of those.
    pub seeds: Option<Vec<u64>>,
    /// The device of the tensors.
    pub device: Device,
    /// The device in words, such as `AMD EPYC 9R14, 2 threads`, as named in results.
    pub device_name: String,
    /// The folder with the repository's files (models, panoramas).
    pub assets: PathBuf,
    /// The progress sink.
    pub progress: &'a dyn ProgressSink,
    /// The program to which the experiment belongs.
    pub source: Source,
}

impl<'a> ClaimContext<'a> {
    /// The context of a full run: each experiment's own seeds, the folder `assets`, the device's name as
    /// [`describe_device`](crate::describe_device) gives it, and [Nabla](Source::nabla) as its source.
    pub fn new(device: Device, progress: &'a dyn ProgressSink) -> Self {
        Self {
            quick: false,
            seeds: None,
            device_name: crate::describe_device(&device),
            device,
            assets: PathBuf::from("assets"),
            progress,
            source: Source::nabla(),
        }
    }

    /// The context of a quick run: like [`ClaimContext::new`], with only the first seed.
    pub fn quick(device: Device, progress: &'a dyn ProgressSink) -> Self {
        Self {
            quick: true,
            ..Self::new(device, progress)
        }
    }

    /// Sets the seeds of all experiments.
    pub fn with_seeds(mut self, seeds: Vec<u64>) -> Self {
        self.seeds = Some(seeds);
        self
    }

    /// Sets the folder of the repository's files.
    pub fn with_assets(mut self, assets: impl Into<PathBuf>) -> Self {
        self.assets = assets.into();
        self
    }

    /// Sets the device's name, if the caller knows a better one.
    pub fn with_device_name(mut self, name: impl Into<String>) -> Self {
        self.device_name = name.into();
        self
    }

    /// Sets the program that results name, because a version of Nabla does not identify your own experiment.
    pub fn with_source(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// The seeds of an experiment's run: the given ones, or else [its own](Claim::seeds), of which a quick run uses
    /// only the first.
    pub fn seeds_of(&self, claim: &dyn Claim) -> Vec<u64> {
        match &self.seeds {
            Some(seeds) => seeds.clone(),
            None if self.quick => claim.seeds().into_iter().take(1).collect(),
            None => claim.seeds(),
        }
    }

    /// Checks the seeds, if any were given.
    ///
    /// # Errors
    /// [`ClaimError::TooFewSeeds`] for fewer than [`MIN_SEEDS`] in a full run or none at all, and
    /// [`ClaimError::RepeatedSeed`] for a seed given twice.
    pub fn validate(&self) -> Result<(), ClaimError> {
        match &self.seeds {
            Some(seeds) => self.check_seeds(seeds),
            None => Ok(()),
        }
    }

    /// # Errors
    /// The errors of [`validate`](Self::validate), for any seeds.
    pub(crate) fn check_seeds(&self, seeds: &[u64]) -> Result<(), ClaimError> {
        let needed = if self.quick { 1 } else { MIN_SEEDS };
        if seeds.len() < needed {
            return Err(ClaimError::TooFewSeeds {
                given: seeds.len(),
                needed,
            });
        }
        for (i, seed) in seeds.iter().enumerate() {
            if seeds[..i].contains(seed) {
                return Err(ClaimError::RepeatedSeed(*seed));
            }
        }
        Ok(())
    }
}

/// An experiment that measures what a paper claims about its method.
///
/// The method and its baselines run on the same data with the same budget, once per seed of the context.
/// The outcome is reported, whatever it is: an experiment is never tuned until it looks better.
///
/// ```
/// use nabla_base::methods::Paper;
/// use nabla_claims::{
///     Bench, Cell, Claim, ClaimError, Measurement, Metric, Stage, Table, Task, Variant,
/// };
///
/// /// Halving beats doing nothing.
/// struct Halving;
///
/// // Each name is written once; a misspelt name does not compile.
/// const NUMBERS: Task = Task::named("numbers");
/// const HALVING: Variant = Variant::method("halving");
/// const NOTHING: Variant = Variant::baseline("nothing");
/// const SIZE: Metric = Metric::lower("size", "");
///
/// impl Claim for Halving {
///     fn slug(&self) -> &str {
///         "halving"
///     }
///     fn paper(&self) -> Option<Paper> {
///         Some(Paper::new("On Halving", "A. Author", 2024, "2401.00001"))
///     }
///     fn statement(&self) -> &str {
///         "Halving a number makes it smaller."
///     }
///     fn criterion(&self) -> &str {
///         "The mean size is lower than without halving."
///     }
///     fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError> {
///         let mut points = Vec::new();
///         for (variant, factor) in [(HALVING, 0.5), (NOTHING, 1.0)] {
///             points.extend(bench.seeds().iter().map(|&seed| (variant.clone(), factor, seed)));
///         }
///         let found = bench.measure(
///             &Stage::new("halving", &"one step"),
///             &points,
///             |(variant, _, seed)| Cell::of(&NUMBERS).variant(variant).seed(*seed),
///             |(_, factor, seed)| Ok(factor * (1.0 + *seed as f64)),
///         )?;
///         let mut table = Table::new(bench.seeds(), [SIZE], [HALVING, NOTHING], [NUMBERS])?;
///         for ((variant, _, seed), value) in points.iter().zip(found) {
///             table.record(&NUMBERS, variant, &SIZE, *seed, value)?;
///         }
///         let check = table.compare(&NUMBERS, &SIZE, &HALVING, &NOTHING)?.headline();
///         Ok(Measurement::new(table, vec![check]))
///     }
/// }
/// # use nabla_base::progress::NoProgress;
/// # use nabla_claims::{ClaimContext, Verdict, run_claim};
/// # let device = burn::tensor::Device::default();
/// # let result = run_claim(&Halving, &ClaimContext::quick(device, &NoProgress)).unwrap();
/// # assert_eq!(result.verdict, Verdict::Held);
/// ```
pub trait Claim: Send + Sync {
    /// The method's name in commands and file names: lower case, digits and hyphens.
    fn slug(&self) -> &str;
    /// The paper that makes the claim; that of the [method](nabla_base::methods::METHODS) with this slug,
    /// by default.
    fn paper(&self) -> Option<Paper> {
        method(self.slug()).map(|method| method.paper.clone())
    }
    /// The version of the experiment, which must be raised with each change that affects its numbers: cells
    /// stored by an interrupted run of another version are not reused.
    fn version(&self) -> u32 {
        1
    }
    /// The default seeds of a full run. Use more than three if a comparison would otherwise be within the spread of
    /// three.
    fn seeds(&self) -> Vec<u64> {
        vec![0, 1, 2]
    }
    /// What the paper claims, in a sentence or two.
    fn statement(&self) -> &str;
    /// The criterion for the claim to hold here: exactly what the checks test. Write it, and choose the
    /// [headlines](crate::Check), from the paper's abstract before measuring.
    fn criterion(&self) -> &str;
    /// Measures.
    ///
    /// # Errors
    /// Any error that prevents the measurement; a claim that does not hold is not an error, but a
    /// [`Check`](crate::Check) that does not hold.
    fn run(&self, bench: &Bench<'_>) -> Result<Measurement, ClaimError>;
}

/// The reason why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The slug has no experiment.
    #[error("there is no claim named '{slug}'{}; 'nabla claims list' shows all", nearest.as_ref().map(|n| format!(" (did you mean '{n}'?)")).unwrap_or_default())]
    Unknown {
        /// The requested slug.
        slug: String,
        /// The most similar slug that has an experiment.
        nearest: Option<String>,
    },
    /// The experiment of this method is not written yet.
    #[error("the method '{0}' is planned; it has no claim to run yet")]
    Planned(String),
    /// There are too few seeds for a result.
    #[error("{given} seeds were given; a full run needs at least {needed}")]
    TooFewSeeds {
        /// The number of seeds given.
        given: usize,
        /// The number of seeds needed.
        needed: usize,
    },
    /// A seed was given twice: its runs would count double.
    #[error("seed {0} was given twice; the seeds have to differ")]
    RepeatedSeed(u64),
    /// The experiment recorded its numbers wrongly.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The seeds of the experiment's table are not those of the context.
    #[error("the claim '{slug}' measured seeds {measured:?}, but was given {given:?}")]
    OtherSeeds {
        /// The claim.
        slug: String,
        /// The seeds of its table.
        measured: Vec<u64>,
        /// The seeds of the context.
        given: Vec<u64>,
    },
    /// The experiment has no headline check.
    #[error("the claim '{0}' returned no headline check; a verdict needs at least one")]
    NoHeadline(String),
    /// The experiment is not about a listed method, and names no paper.
    #[error("the claim '{0}' names no paper; a claim is what a paper says")]
    NoPaper(String),
    /// Two points of a stage are the same cell, so their values would be mixed up.
    #[error("the stage '{stage}' of the claim '{slug}' has a cell twice: {cell}")]
    SameCell {
        /// The claim.
        slug: String,
        /// The stage.
        stage: String,
        /// The cell.
        cell: String,
    },
    /// A file that the experiment needs cannot be read.
    #[error("cannot read '{}', which the claim needs: {reason}", path.display())]
    Asset {
        /// The file.
        path: PathBuf,
        /// Why it cannot be read.
        reason: String,
    },
    /// The method or a baseline failed.
    #[error("{0}")]
    Experiment(#[source] Box<dyn Error + Send + Sync>),
    /// The experiment panicked, which a device that runs out of memory can cause.
    #[error("the claim '{slug}' stopped: {message}")]
    Panicked {
        /// The claim.
        slug: String,
        /// The message of the panic.
        message: String,
    },
}

impl ClaimError {
    /// Wraps a method's own error: `.map_err(ClaimError::experiment)?`.
    pub fn experiment(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Experiment(error.into())
    }

    /// A file or folder that the experiment needs and that cannot be read:
    /// `.map_err(|e| ClaimError::asset(&folder, e))?`.
    pub fn asset(path: &Path, reason: impl Display) -> Self {
        Self::Asset {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}
