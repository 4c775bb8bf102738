//! Runs claims and stores their measurements.

use crate::cells::Bench;
use crate::claim::{Claim, ClaimContext, ClaimError};
use crate::measurement::Measurement;
use crate::plot::LinePlot;
use crate::result::{ClaimResult, RESULT_FORMAT, ResultError, Verdict};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The folder beside the results in which the cells of unfinished runs are stored.
pub const CELLS_FOLDER: &str = ".cells";

/// Runs one claim, and stores nothing.
///
/// # Errors
/// [`ClaimContext::validate`]'s errors before anything runs, also for an experiment's own seeds; the
/// experiment's own; and errors for an experiment that breaks the contract: missing values, wrong seeds, no
/// headline, no paper. An experiment that panics is reported as [`ClaimError::Panicked`].
pub fn run_claim(claim: &dyn Claim, context: &ClaimContext<'_>) -> Result<ClaimResult, ClaimError> {
    run_on(claim, &Bench::new(claim, context))
}

fn run_on(claim: &dyn Claim, bench: &Bench<'_>) -> Result<ClaimResult, ClaimError> {
    let context = bench.context();
    context.check_seeds(bench.seeds())?;
    let slug = claim.slug().to_owned();
    let Some(paper) = claim.paper() else {
        return Err(ClaimError::NoPaper(slug));
    };
    let start = Instant::now();
    // A panic in one experiment, such as a device out of memory, must not cost the others.
    let outcome = catch_unwind(AssertUnwindSafe(|| claim.run(bench)));
    let Measurement {
        table,
        checks,
        plots,
        notes,
    } = match outcome {
        Ok(measurement) => measurement?,
        Err(panic) => {
            return Err(ClaimError::Panicked {
                slug,
                message: nabla_base::words::panic_message(panic.as_ref()),
            });
        }
    };
    let seconds = start.elapsed().as_secs_f64() + bench.seconds_before();
    if table.seeds() != bench.seeds() {
        return Err(ClaimError::OtherSeeds {
            slug,
            measured: table.seeds().to_vec(),
            given: bench.seeds().to_vec(),
        });
    }
    table.check_complete()?;
    let Some(verdict) = Verdict::of(&checks) else {
        return Err(ClaimError::NoHeadline(slug));
    };
    Ok(ClaimResult {
        format: RESULT_FORMAT,
        slug,
        quick: context.quick,
        paper,
        claim: claim.statement().to_owned(),
        criterion: claim.criterion().to_owned(),
        verdict,
        checks,
        notes,
        measured: table,
        plots: plots.iter().map(LinePlot::thinned).collect(),
        device: context.device_name.clone(),
        seconds: (seconds * 1000.0).round() / 1000.0,
        program: context.source.program.clone(),
        version: context.source.version.clone(),
        commit: context.source.commit.clone(),
        date: now(),
    })
}

/// The current time to the second: UTC, RFC 3339.
fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second())
        .unwrap_or(now)
        .to_string()
}

/// A failure of one claim in a run of several.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no measurement.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// There is one, but it could not be stored.
    #[error(transparent)]
    Result(#[from] ResultError),
}

/// The outcome of several claims.
#[derive(Debug, Default)]
pub struct RunSummary {
    /// The measured results, with the file of each stored one.
    pub results: Vec<(ClaimResult, Option<PathBuf>)>,
    /// The claims that failed, by slug. A result that could not be written is in both lists.
    pub failures: Vec<(String, RunError)>,
}

/// Runs claims one after the other, each saved as soon as it is measured, so that neither a
/// failure nor an interruption of a later one loses it.
///
/// With `results` a full run is written to `<results>/<slug>.json`, and its cells are stored in
/// `<results>/.cells/<slug>/` until then; quick runs are never written. `before` is called with each claim's
/// slug before it runs.
pub fn run_claims<'c>(
    claims: impl IntoIterator<Item = &'c dyn Claim>,
    context: &ClaimContext<'_>,
    results: Option<&Path>,
    mut before: impl FnMut(&str),
) -> RunSummary {
    let mut summary = RunSummary::default();
    for claim in claims {
        let slug = claim.slug().to_owned();
        before(&slug);
        let folder = results.filter(|_| !context.quick);
        let cells = folder.map(|folder| folder.join(CELLS_FOLDER).join(&slug));
        let bench = match &cells {
            Some(cells) => Bench::keeping(claim, context, cells),
            None => Bench::new(claim, context),
        };
        let result = run_on(claim, &bench);
        if bench.resumed() > 0 {
            let cells = bench.resumed();
            let line = format!("{slug}: {cells} cells are those of a run that did not finish");
            context.progress.note(&line);
        }
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                summary.failures.push((slug, error.into()));
                continue;
            }
        };
        let path = match folder.map(|folder| result.save(folder)) {
            Some(Ok(path)) => {
                remove_cells(cells.as_deref());
                Some(path)
            }
            Some(Err(error)) => {
                summary.failures.push((slug, error.into()));
                None
            }
            None => None,
        };
        summary.results.push((result, path));
    }
    summary
}

/// Removes the cells of a claim whose result is written, and the folder of all cells after the last. An error
/// is ignored, because remaining cells are not reused for another commit.
fn remove_cells(cells: Option<&Path>) {
    if let Some(cells) = cells {
        let _ = std::fs::remove_dir_all(cells);
        if let Some(parent) = cells.parent() {
            let _ = std::fs::remove_dir(parent);
        }
    }
}
