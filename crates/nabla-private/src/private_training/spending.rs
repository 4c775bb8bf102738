//! What a private training has spent, and its report.

use nabla_train::error::TrainingError;
use nabla_train::gradient_source::Plan;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{PrivacyConfig, PrivacyError, PrivateMethod};
use crate::accountant::History;
use crate::clipping::Clipping;
use crate::one_run_audit::Audit;
use crate::secret_noise::NoiseKey;

/// What in a training's folder is computed from the training examples without noise: losses and accuracies.
const NOT_COVERED: [&str; 6] = [
    "checkpoint.safetensors",
    "history.json",
    "epochs.csv",
    "steps.csv",
    "loss.svg",
    "accuracy.svg",
];

/// What a private training has revealed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrivacyReport {
    /// The guarantee: `ε`, by the chosen accountant.
    pub epsilon: f64,
    /// `δ`.
    pub delta: f64,
    /// The accountant.
    pub accountant: String,
    /// Between which data sets there is almost no difference.
    pub neighbours: String,
    /// What is released of a step.
    pub method: PrivateMethod,
    /// How gradients are clipped.
    pub clipping: Clipping,
    /// What the accountant has counted.
    pub history: History,
    /// Steps so far, and all.
    pub steps: [u64; 2],
    /// Training examples.
    pub examples: usize,
    /// Examples that a step is expected to see.
    pub batch: usize,
    /// The share of gradients that were longer than the clip.
    pub clipped: f64,
    /// Whether nobody can know the noise.
    pub secret_noise: bool,
    /// Where the guarantee does not reach, in sentences.
    pub caveats: Vec<String>,
    /// What in a training's folder the guarantee does not cover.
    pub not_covered: Vec<String>,
    /// What the canaries show, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
}

/// What a training has done so far.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Spending {
    /// Steps.
    pub(crate) steps: u64,
    /// Gradients longer than the clip, of those seen.
    clipped: u64,
    seen: u64,
}

/// What a method has to tell.
pub(crate) struct Report {
    pub(crate) history: History,
    pub(crate) caveat: Option<String>,
    pub(crate) audit: Option<Audit>,
}

impl Spending {
    /// One more step, that saw so many gradients.
    pub(crate) fn add(&mut self, clipped: u64, seen: u64) {
        self.steps += 1;
        self.clipped += clipped;
        self.seen += seen;
    }

    /// The key for a checkpoint: none after the last step, when nothing is to be repeated.
    pub(crate) fn key(&self, key: &NoiseKey, plan: Plan) -> Option<NoiseKey> {
        (self.steps < plan.steps as u64).then(|| key.clone())
    }

    /// The report of a training.
    pub(crate) fn told(
        &self,
        config: &PrivacyConfig,
        plan: Plan,
        key: &NoiseKey,
        report: Report,
    ) -> Result<Value, TrainingError> {
        let Report {
            history,
            caveat,
            audit,
        } = report;
        let delta = config.delta(plan.examples);
        let accountant = config.accountant().map_err(PrivacyError::from)?;
        let spent = accountant.epsilon(&history, delta);
        let spent = spent.map_err(PrivacyError::from)?;
        let mut caveats = Vec::from_iter(caveat);
        if delta * plan.examples as f64 >= 1.0 {
            caveats.push(format!(
                "δ is {delta:.1e}, but a promise that may fail for one in {} examples is worth little: it should be \
                 well below {:.1e}",
                plan.examples,
                1.0 / plan.examples as f64
            ));
        }
        if !key.is_secret() {
            caveats.push(
                "the noise follows from a seed: whoever knows the seed can take the noise off"
                    .into(),
            );
        }
        let report = PrivacyReport {
            epsilon: spent.epsilon,
            delta,
            accountant: config.accountant.clone(),
            neighbours: "one example more or less".into(),
            method: config.method,
            clipping: config.clipping,
            history,
            steps: [self.steps, plan.steps as u64],
            examples: plan.examples,
            batch: plan.batch,
            clipped: self.clipped as f64 / self.seen.max(1) as f64,
            secret_noise: key.is_secret(),
            caveats,
            not_covered: NOT_COVERED.iter().map(|&file| file.into()).collect(),
            audit,
        };
        serde_json::to_value(report).map_err(TrainingError::task)
    }
}
