//! Guidances in a file: those whose numbers were found for a model and a schedule.
//!
//! ```json
//! { "kind": "linear", "scale": 7.5, "rescale": 0.0, "plan": ["Guided", "Estimated", "Conditional"], "coefficients": … }
//! { "kind": "policy", "steps": [{ "ClassifierFree": 7.5 }, "Conditional"] }
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nabla_base::range::OutOfRange;
use nabla_base::{OutputError, write_bytes_atomically};
use serde::{Deserialize, Serialize};

use super::{
    ClassifierFree, Guidance, GuidancePolicy, LinearAdaptive, LinearCoefficients, LinearStep,
};

/// The reason why a file holds no guidance.
#[derive(Debug, thiserror::Error)]
pub enum StoredGuidanceError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no guidance: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The parts do not fit together.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// A guidance that was found for a model, its schedule and a number of steps.
///
/// ```
/// use nabla_diffusion::guidance::{GuidancePolicy, StoredGuidance};
///
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("policy.json");
/// let policy = StoredGuidance::Policy(GuidancePolicy::early(20, 8, 5.0));
/// policy.write(&file)?;
/// let read = StoredGuidance::read(&file)?;
/// assert_eq!((read.steps(), read.evaluations()), (20, 28));
/// let guidance = read.init::<4>()?;
/// # let _ = guidance;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum StoredGuidance {
    /// [LinearAG](LinearAdaptive).
    Linear {
        /// The guidance of the guided and the estimated steps.
        #[serde(flatten)]
        guidance: ClassifierFree,
        /// What happens in each step, the noisiest first.
        plan: Vec<LinearStep>,
        /// What the estimates are computed with.
        coefficients: LinearCoefficients,
    },
    /// A [policy](GuidancePolicy).
    Policy(GuidancePolicy),
}

impl StoredGuidance {
    /// Reads a file.
    ///
    /// # Errors
    /// If the file cannot be read, or holds no guidance.
    pub fn read(path: &Path) -> Result<Self, StoredGuidanceError> {
        let text = fs::read(path).map_err(|source| StoredGuidanceError::Read {
            path: path.into(),
            source,
        })?;
        serde_json::from_slice(&text).map_err(|source| StoredGuidanceError::Parse {
            path: path.into(),
            source,
        })
    }

    /// Writes a file, which [`read`](Self::read) reads.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), StoredGuidanceError> {
        let text =
            serde_json::to_vec_pretty(self).map_err(|source| StoredGuidanceError::Parse {
                path: path.into(),
                source,
            })?;
        Ok(write_bytes_atomically(path, &text)?)
    }

    /// The number of steps that it is for.
    pub fn steps(&self) -> usize {
        match self {
            Self::Linear { plan, .. } => plan.len(),
            Self::Policy(policy) => policy.steps.len(),
        }
    }

    /// The evaluations of the network in a run.
    pub fn evaluations(&self) -> usize {
        match self {
            Self::Linear { plan, .. } => plan
                .iter()
                .map(|step| match step {
                    LinearStep::Guided => 2,
                    LinearStep::Estimated | LinearStep::Conditional => 1,
                })
                .sum(),
            Self::Policy(policy) => policy.evaluations(),
        }
    }

    /// The guidance.
    ///
    /// # Errors
    /// If its parts do not fit together.
    pub fn init<const D: usize>(&self) -> Result<Box<dyn Guidance<D>>, OutOfRange> {
        Ok(match self {
            Self::Linear {
                guidance,
                plan,
                coefficients,
            } => Box::new(LinearAdaptive::<D>::new(
                coefficients.clone(),
                *guidance,
                plan.clone(),
            )?),
            Self::Policy(policy) => Box::new(policy.clone()),
        })
    }
}
