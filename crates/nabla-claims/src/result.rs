//! The record of a measured claim, as stored in `results/<slug>.json`.

use crate::measurement::Check;
use crate::plot::LinePlot;
use crate::result_text::to_text;
use crate::table::Table;
use burn::tensor::Device;
use nabla_base::methods::Paper;
use nabla_base::{OutputError, write_bytes_atomically};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of the file format that this crate writes. The crate can also read the previous one.
///
/// Version 2: checks state whether they are headlines, which decide the verdict, and curves are
/// [thinned](LinePlot::thinned). In files of format 1, every check is a headline.
pub const RESULT_FORMAT: u32 = 2;

/// The verdict on a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every headline holds.
    Held,
    /// A headline does not hold.
    #[serde(alias = "held_in_part")]
    NotHeld,
}

impl Verdict {
    /// The verdict on these checks; `None` if none of them is a headline.
    pub fn of(checks: &[Check]) -> Option<Self> {
        let mut headlines = checks.iter().filter(|check| check.headline).peekable();
        headlines.peek()?;
        Some(match headlines.all(|check| check.holds) {
            true => Self::Held,
            false => Self::NotHeld,
        })
    }

    /// The verdict in words: `held` or `not held`.
    pub fn words(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::NotHeld => "not held",
        }
    }
}

/// The program of a result that does not name one.
pub(crate) const NABLA: &str = "Nabla";

fn nabla() -> String {
    NABLA.to_owned()
}

fn is_nabla(program: &str) -> bool {
    program == NABLA
}

/// The state of the source with which a result was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The commit's full hash, or `unknown` outside a checkout.
    pub hash: String,
    /// Whether the working tree differed from the commit, results and reports aside.
    pub dirty: bool,
}

impl Commit {
    /// The commit of the working tree around `directory`, according to `git`.
    ///
    /// Results and reports do not count as differences, because the first result written would mark all
    /// following ones. If `git` or the checkout is missing, or the checkout is not Nabla's, the commit is the
    /// one that the environment variable `NABLA_COMMIT` named when this crate was built, otherwise `unknown`.
    pub fn around(directory: &Path) -> Self {
        Self::from_git(directory).unwrap_or_else(|| Self {
            hash: option_env!("NABLA_COMMIT").unwrap_or("unknown").to_owned(),
            dirty: false,
        })
    }

    /// The commit of any checkout around `directory`, according to `git`; `unknown` if there is none.
    /// Differences count as in [`around`](Self::around).
    pub fn of_checkout(directory: &Path) -> Self {
        let top = git(directory, &["rev-parse", "--show-toplevel"]);
        let commit = top.and_then(|top| Self::at(Path::new(&top)));
        commit.unwrap_or_else(|| Self {
            hash: "unknown".to_owned(),
            dirty: false,
        })
    }

    fn from_git(directory: &Path) -> Option<Self> {
        let top = PathBuf::from(git(directory, &["rev-parse", "--show-toplevel"])?);
        // An installed program may run inside any checkout; only Nabla's own identifies the program.
        match top.join("crates/nabla-claims/Cargo.toml").is_file() {
            true => Self::at(&top),
            false => None,
        }
    }

    /// - `top`: the top folder of a checkout
    fn at(top: &Path) -> Option<Self> {
        let hash = git(top, &["rev-parse", "HEAD"])?;
        let outside = [":(exclude)results", ":(exclude)RESULTS.md"];
        let mut status = vec!["status", "--porcelain", "--", "."];
        status.extend(outside);
        let dirty = !git(top, &status)?.is_empty();
        Some(Self { hash, dirty })
    }

    /// The hash, with a `+` if the tree was dirty.
    pub fn full(&self) -> String {
        let mark = if self.dirty { "+" } else { "" };
        format!("{}{mark}", self.hash)
    }

    /// The first twelve digits of the hash, with a `+` if the tree was dirty.
    pub fn short(&self) -> String {
        let hash: String = self.hash.chars().take(12).collect();
        if self.dirty { format!("{hash}+") } else { hash }
    }
}

fn git(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(directory)
        .args(arguments)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// A device in words: the processor's model name and the number of threads for the CPU backends,
/// the backend's own words for others.
pub fn describe_device(device: &Device) -> String {
    let backend = format!("{device:?}");
    let lower = backend.to_lowercase();
    let on_cpu = ["flex", "ndarray", "cpu"]
        .iter()
        .any(|name| lower.contains(name));
    if !on_cpu {
        return backend;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let plural = if threads == 1 { "" } else { "s" };
    format!("{}, {threads} thread{plural}", processor_name())
}

fn processor_name() -> String {
    let linux = || {
        let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let macos = || {
        let brand = ["-n", "machdep.cpu.brand_string"];
        let output = Command::new("sysctl").args(brand).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let name = if cfg!(target_os = "linux") {
        linux()
    } else if cfg!(target_os = "macos") {
        macos()
    } else {
        std::env::var("PROCESSOR_IDENTIFIER").ok()
    };
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH))
}

/// A measured claim with everything that is needed to judge and to repeat it.
///
/// The fields are in the order of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClaimResult {
    /// [`RESULT_FORMAT`].
    pub format: u32,
    /// The method's slug.
    pub slug: String,
    /// Whether this is a quick run, whose numbers are not results.
    pub quick: bool,
    /// The paper.
    pub paper: Paper,
    /// What the paper claims.
    pub claim: String,
    /// The criterion.
    pub criterion: String,
    /// The verdict: whether all headlines among the checks hold.
    pub verdict: Verdict,
    /// The criterion statement by statement.
    pub checks: Vec<Check>,
    /// Remarks.
    pub notes: Vec<String>,
    /// The numbers, with the seeds.
    pub measured: Table,
    /// The curves.
    pub plots: Vec<LinePlot>,
    /// The device in words.
    pub device: String,
    /// The wall time of the experiment.
    pub seconds: f64,
    /// The program of the experiment; not in the file if it is Nabla.
    #[serde(default = "nabla", skip_serializing_if = "is_nabla")]
    pub program: String,
    /// The version of the program.
    pub version: String,
    /// The commit of the working tree at run time.
    pub commit: Commit,
    /// When the experiment ended: UTC, RFC 3339.
    pub date: String,
}

/// The reason why a result cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// A quick run is not a result.
    #[error("the quick run of '{0}' is not a result; only full runs are written to results")]
    QuickIsNoResult(String),
    /// A full run was saved as a quick one.
    #[error("the run of '{0}' is a full run; save it with the results instead")]
    NotQuick(String),
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The file system returned an error.
    #[error("cannot {action} '{}': {source}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A file is not JSON, or not a claim's result.
    #[error("'{}' is not a claim result: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        source: serde_json::Error,
    },
    /// A result contradicts itself or its file name.
    #[error("'{}' is not a valid claim result: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl ClaimResult {
    /// The result as the text of its file: JSON with a line for each key and lists of numbers on one line,
    /// keys always in the same order.
    ///
    /// # Errors
    /// Never for a result from [`run_claim`](crate::run_claim).
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        to_text(self)
    }

    /// Writes the result to `<directory>/<slug>.json`, creating the directory if necessary, and returns that
    /// path. The file is written completely or not at all.
    ///
    /// # Errors
    /// [`ResultError::QuickIsNoResult`] for a quick run, [`ResultError::Io`] if the file system returns an
    /// error.
    pub fn save(&self, directory: &Path) -> Result<PathBuf, ResultError> {
        if self.quick {
            return Err(ResultError::QuickIsNoResult(self.slug.clone()));
        }
        std::fs::create_dir_all(directory).map_err(|source| ResultError::Io {
            action: "write",
            path: directory.to_owned(),
            source,
        })?;
        let path = directory.join(format!("{}.json", self.slug));
        self.write(&path)?;
        Ok(path)
    }

    /// Writes a quick run to a path of the caller's choice, for inspection; the file is marked
    /// `"quick": true` and [`read_result`] refuses it among results.
    ///
    /// # Errors
    /// [`ResultError::NotQuick`] for a full run, [`ResultError::Io`] if the file system returns an error.
    pub fn save_quick(&self, path: &Path) -> Result<(), ResultError> {
        if !self.quick {
            return Err(ResultError::NotQuick(self.slug.clone()));
        }
        self.write(path)
    }

    /// The statements that both results have, but only one of them as a headline: a result whose headlines
    /// are not those of its experiment has been edited.
    pub fn other_headlines<'r>(&'r self, other: &ClaimResult) -> Vec<&'r str> {
        let differs = |check: &&Check| {
            let mut same = other.checks.iter().filter(|c| c.text == check.text);
            same.any(|c| c.headline != check.headline)
        };
        let differing = self.checks.iter().filter(differs);
        differing.map(|check| check.text.as_str()).collect()
    }

    fn write(&self, path: &Path) -> Result<(), ResultError> {
        let text = self.to_json().map_err(|source| ResultError::Malformed {
            path: path.to_owned(),
            source,
        })?;
        Ok(write_bytes_atomically(path, text.as_bytes())?)
    }

    fn contradiction(&self, stem: &str) -> Option<String> {
        if !(1..=RESULT_FORMAT).contains(&self.format) {
            return Some(format!(
                "its format is {}, expected 1 to {RESULT_FORMAT}",
                self.format
            ));
        }
        if self.quick {
            return Some("it is a quick run, whose numbers are not results".to_owned());
        }
        if self.slug != stem {
            return Some(format!(
                "it is the result of '{}', expected '{stem}'",
                self.slug
            ));
        }
        if Verdict::of(&self.checks) != Some(self.verdict) {
            let words = self.verdict.words();
            return Some(format!(
                "its verdict '{words}' does not follow from its checks"
            ));
        }
        if self.measured.seeds().len() < crate::MIN_SEEDS {
            let seeds = self.measured.seeds().len();
            return Some(format!(
                "it has {seeds} seeds, expected at least {}",
                crate::MIN_SEEDS
            ));
        }
        if self.date.parse::<jiff::Timestamp>().is_err() {
            return Some(format!("its date '{}' is not an RFC 3339 time", self.date));
        }
        self.measured
            .check_complete()
            .err()
            .map(|error| error.to_string())
    }
}

/// Reads one result and checks that it does not contradict itself: format, name, verdict, seeds,
/// date and the derived numbers of its table.
///
/// # Errors
/// A [`ResultError`] that names the file.
pub fn read_result(path: &Path) -> Result<ClaimResult, ResultError> {
    let text = std::fs::read_to_string(path).map_err(|source| ResultError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let mut result: ClaimResult =
        serde_json::from_str(&text).map_err(|source| ResultError::Malformed {
            path: path.to_owned(),
            source,
        })?;
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    match result.contradiction(stem) {
        None => {
            // A result that is written again is written in the current format.
            result.format = RESULT_FORMAT;
            Ok(result)
        }
        Some(reason) => Err(ResultError::Invalid {
            path: path.to_owned(),
            reason,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_from_checks() {
        let detail = |holds| Check::new("a", holds, "b");
        let headline = |holds| detail(holds).headline();
        assert_eq!(Verdict::of(&[]), None);
        assert_eq!(Verdict::of(&[detail(true)]), None);
        for (checks, verdict) in [
            (vec![headline(true)], Verdict::Held),
            (vec![headline(true), detail(false)], Verdict::Held),
            (vec![headline(true), headline(false)], Verdict::NotHeld),
            (vec![headline(false), detail(true)], Verdict::NotHeld),
        ] {
            assert_eq!(Verdict::of(&checks), Some(verdict), "{checks:?}");
        }
    }

    /// A checkout of our own making: clean, dirty by a result only, dirty by a source file.
    #[test]
    fn the_commit_is_the_checkouts_and_results_do_not_make_it_dirty() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path();
        if git(top, &["init", "-q", "."]).is_none() {
            return; // without git there is nothing to ask
        }
        assert_eq!(
            Commit::from_git(top),
            None,
            "a checkout that is not Nabla's"
        );
        std::fs::create_dir_all(top.join("crates/nabla-claims")).unwrap();
        std::fs::write(top.join("crates/nabla-claims/Cargo.toml"), "").unwrap();
        git(top, &["add", "."]).unwrap();
        let author = ["-c", "user.name=a", "-c", "user.email=a@example.org"];
        let commit = [
            "commit",
            "-q",
            "--no-gpg-sign",
            "--no-verify",
            "-m",
            "first",
        ];
        git(top, &[author.as_slice(), commit.as_slice()].concat()).unwrap();
        let clean = Commit::around(top);
        assert_eq!(clean.hash, git(top, &["rev-parse", "HEAD"]).unwrap());
        assert!(!clean.dirty);
        std::fs::create_dir(top.join("results")).unwrap();
        std::fs::write(top.join("results/a.json"), "{}").unwrap();
        std::fs::write(top.join("RESULTS.md"), "").unwrap();
        assert!(!Commit::around(&top.join("results")).dirty);
        std::fs::write(top.join("crates/nabla-claims/Cargo.toml"), "# changed").unwrap();
        let dirty = Commit::around(top);
        assert!(dirty.dirty);
        assert_eq!(dirty.short(), format!("{}+", &clean.hash[..12]));
    }

    #[test]
    fn devices_are_named() {
        let name = describe_device(&Device::default());
        assert!(name.contains("thread"), "{name}");
    }
}
