//! The quick forms of a family's experiments beside their committed results, for the tests of the family.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;
use nabla_base::progress::NoProgress;

use crate::claim::ClaimContext;
use crate::experiments::{Experiments, MakeClaim};
use crate::result::{ClaimResult, read_result};
use crate::runner::{RunError, run_claim};

/// A result that is there once its experiment has run.
type Slot = Arc<Mutex<Option<Arc<ClaimResult>>>>;

/// The quick forms of a family's experiments on the CPU. Each runs at most once, however many tests ask
/// for it; a test that asks while another one runs it waits.
pub struct QuickForms {
    family: &'static [MakeClaim],
    root: PathBuf,
    results: Mutex<BTreeMap<String, Slot>>,
}

/// The quick forms of a crate's experiments as `QUICK`, for its tests.
///
/// - the list that contains the experiments
#[macro_export]
macro_rules! quick_forms {
    ($family:expr) => {
        static QUICK: std::sync::LazyLock<$crate::QuickForms> = std::sync::LazyLock::new(|| {
            // The folder of the crate that calls this.
            let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
            $crate::QuickForms::new($family, root)
        });
    };
}

impl QuickForms {
    /// - `family`: the list that contains the experiments
    /// - `root`: the repository, with its folders `assets` and `results`
    pub fn new(family: &'static [MakeClaim], root: impl Into<PathBuf>) -> Self {
        Self {
            family,
            root: root.into(),
            results: Mutex::default(),
        }
    }

    /// The result of an experiment's quick form.
    ///
    /// # Errors
    /// If the family has no such experiment, or its quick form fails.
    pub fn result(&self, slug: &str) -> Result<Arc<ClaimResult>, RunError> {
        // A test that failed in the middle has left its slot empty, as it found it.
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = Arc::clone(results.entry(slug.to_owned()).or_default());
        drop(results);
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = &*slot {
            return Ok(Arc::clone(result));
        }
        let context =
            ClaimContext::quick(Device::flex(), &NoProgress).with_assets(self.root.join("assets"));
        let result = run_claim(Experiments::of([self.family]).find(slug)?, &context)?;
        Ok(Arc::clone(slot.insert(Arc::new(result))))
    }

    /// The committed result of an experiment.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn committed(&self, slug: &str) -> Result<ClaimResult, RunError> {
        Ok(read_result(
            &self.root.join(format!("results/{slug}.json")),
        )?)
    }

    /// The differences between the headlines of committed results and those of the quick forms, each in a
    /// sentence: a statement that both have must be a headline in both or in neither, and at least one
    /// headline of the quick form must be a statement of the committed result.
    ///
    /// # Errors
    /// As [`QuickForms::result`] and [`QuickForms::committed`].
    pub fn headline_differences(&self, slugs: &[&str]) -> Result<Vec<String>, RunError> {
        let mut differences = Vec::new();
        for slug in slugs {
            let (quick, committed) = (self.result(slug)?, self.committed(slug)?);
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
}
