//! Runs claims and keeps what they measured.

use crate::claim::{Claim, ClaimContext, ClaimError};
use crate::measurement::Measurement;
use crate::result::{ClaimResult, RESULT_FORMAT, ResultError, Verdict};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Runs one claim.
///
/// # Errors
/// [`ClaimContext::validate`]'s errors before anything runs; the experiment's own; and errors for
/// an experiment that breaks the contract: values missing, other seeds than given, no checks. An
/// experiment that panics is reported as [`ClaimError::Panicked`].
pub fn run_claim(claim: &dyn Claim, context: &ClaimContext<'_>) -> Result<ClaimResult, ClaimError> {
    context.validate()?;
    let slug = claim.slug().to_owned();
    let start = Instant::now();
    // A panic in one experiment, such as a device out of memory, must not cost the others.
    let outcome = catch_unwind(AssertUnwindSafe(|| claim.run(context)));
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
    let seconds = start.elapsed().as_secs_f64();
    if table.seeds() != context.seeds {
        return Err(ClaimError::OtherSeeds {
            slug,
            measured: table.seeds().to_vec(),
            given: context.seeds.clone(),
        });
    }
    table.check_complete()?;
    let Some(verdict) = Verdict::of(&checks) else {
        return Err(ClaimError::NoChecks(slug));
    };
    Ok(ClaimResult {
        format: RESULT_FORMAT,
        slug,
        quick: context.quick,
        paper: claim.paper(),
        claim: claim.statement().to_owned(),
        criterion: claim.criterion().to_owned(),
        verdict,
        checks,
        notes,
        measured: table,
        plots,
        device: context.device_name.clone(),
        seconds: (seconds * 1000.0).round() / 1000.0,
        program: context.source.program.clone(),
        version: context.source.version.clone(),
        commit: context.source.commit.clone(),
        date: now(),
    })
}

/// The present time to the second: UTC, RFC 3339.
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
    /// There is one, but it could not be kept.
    #[error(transparent)]
    Result(#[from] ResultError),
}

/// What became of several claims.
#[derive(Debug, Default)]
pub struct RunSummary {
    /// The measured results, with the file of each that was kept.
    pub results: Vec<(ClaimResult, Option<PathBuf>)>,
    /// The claims that failed, by slug. A result that could not be written is in both lists.
    pub failures: Vec<(String, RunError)>,
}

/// Runs claims one after the other, each saved as soon as it is measured, so that neither a
/// failure nor an interruption of a later one loses it.
///
/// With `results` a full run is written to `<results>/<slug>.json`; quick runs are never written.
/// `before` is called with each claim's slug before it runs.
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
        let result = match run_claim(claim, context) {
            Ok(result) => result,
            Err(error) => {
                summary.failures.push((slug, error.into()));
                continue;
            }
        };
        let path = match results {
            Some(directory) if !context.quick => match result.save(directory) {
                Ok(path) => Some(path),
                Err(error) => {
                    summary.failures.push((slug, error.into()));
                    None
                }
            },
            _ => None,
        };
        summary.results.push((result, path));
    }
    summary
}
