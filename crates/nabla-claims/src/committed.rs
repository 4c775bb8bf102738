//! Comparing committed results with their experiments, for the tests of a family.

use std::path::Path;

use burn::tensor::Device;
use nabla_base::progress::NoProgress;

use crate::claim::ClaimContext;
use crate::experiments::{Experiments, MakeClaim};
use crate::result::{ClaimResult, read_result};
use crate::runner::{RunError, run_claim};

/// Runs the quick form of an experiment on the CPU, and reads the committed result; returns both, in this
/// order.
///
/// - `family`: the list that contains the experiment
/// - `root`: the repository, with its folders `assets` and `results`
///
/// # Errors
/// If the family has no such experiment, its quick form fails, or the committed result cannot be read.
pub fn quick_and_committed(
    family: &[MakeClaim],
    root: &Path,
    slug: &str,
) -> Result<[ClaimResult; 2], RunError> {
    let context = ClaimContext::quick(Device::flex(), &NoProgress).with_assets(root.join("assets"));
    let quick = run_claim(Experiments::of([family]).find(slug)?, &context)?;
    let committed = read_result(&root.join(format!("results/{slug}.json")))?;
    Ok([quick, committed])
}

/// The differences between the headlines of committed results and those of their experiments' quick forms,
/// each in a sentence: a statement that both have must be a headline in both or in neither, and at least one
/// headline of the quick form must be a statement of the committed result.
///
/// # Errors
/// As [`quick_and_committed`].
pub fn headline_differences(
    family: &[MakeClaim],
    root: &Path,
    slugs: &[&str],
) -> Result<Vec<String>, RunError> {
    let mut differences = Vec::new();
    for slug in slugs {
        let [quick, committed] = quick_and_committed(family, root, slug)?;
        for text in committed.other_headlines(&quick) {
            differences.push(format!(
                "{slug}: only one of both has '{text}' as a headline"
            ));
        }
        let shared = |text: &str| committed.checks.iter().any(|c| c.text == text);
        if !quick.checks.iter().any(|c| c.headline && shared(&c.text)) {
            differences.push(format!(
                "{slug}: no headline of the quick form is committed"
            ));
        }
    }
    Ok(differences)
}
