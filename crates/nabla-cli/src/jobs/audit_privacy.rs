//! `nabla audit privacy`: at least how much a private training reveals.

use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use nabla::private::canaries::CanaryConfig;
use nabla::private::private_training::{AuditedTraining, PrivacyReport};
use nabla::train::validation::Measured;
use serde::Serialize;

use crate::dashboard::Dashboard;
use crate::devices::DeviceFlag;
use crate::errors::Failure;
use crate::job::{Context, Job, Report};
use crate::jobs::experiment_flags::ExperimentFlags;
use crate::jobs::privacy_flags::{self, PrivacyFlags};
use crate::jobs::training_recipe::TrainingRecipe;

/// The command line of the job.
#[derive(Args)]
pub struct Arguments {
    /// The experiment of a training (TOML), as in its folder
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: ExperimentFlags,
    #[command(flatten)]
    privacy: PrivacyFlags,
    /// Canaries: examples that are made for the audit
    #[arg(long, value_name = "N", default_value_t = CanaryConfig::default().count)]
    canaries: usize,
    /// How long their gradients are before clipping, in multiples of the clip
    #[arg(long, value_name = "FACTOR", default_value_t = CanaryConfig::default().length)]
    length: f64,
    /// The confidence of the lower bound
    #[arg(long, value_name = "SHARE", default_value_t = 0.95)]
    confidence: f64,
    #[command(flatten)]
    device: DeviceFlag,
}

#[derive(Serialize)]
struct Audited<'a> {
    confidence: f64,
    /// Whether the audit found more than the account allows.
    refuted: bool,
    report: &'a PrivacyReport,
}

impl Job for Arguments {
    fn run(&self, context: &Context) -> Result<Report, Failure> {
        let (mut experiment, sources) = TrainingRecipe::read(self.config.as_deref())?.parts();
        self.flags.apply(&mut experiment)?;
        privacy_flags::without_scaling(&mut experiment);
        if sources.sharing.is_some() {
            return Err(Failure::input(
                "a private training has one worker: leave out `sharing` of the experiment",
            ));
        }
        let privacy = self.privacy.over(sources.privacy.unwrap_or_default())?;
        let sources = AuditedTraining {
            privacy,
            canaries: CanaryConfig {
                count: self.canaries,
                length: self.length,
                seed: experiment.training.seed,
            },
            confidence: self.confidence,
        };
        sources.validate().map_err(Failure::input)?;
        let device = self.device.open()?;
        let data = experiment.open()?;
        let mut dashboard = None;
        let epochs = experiment.training.epochs;
        let outcome = experiment.run_with(&sources, &data, &device, None, &mut |progress| {
            dashboard
                .get_or_insert_with(|| Dashboard::new(epochs, Measured::Test))
                .step(&progress);
            ControlFlow::Continue(())
        });
        if let Some(dashboard) = &dashboard {
            dashboard.finish();
        }
        let report: PrivacyReport = serde_json::from_value(outcome?.told).map_err(Failure::run)?;
        let Some(audit) = report.audit else {
            return Err(Failure::run("the training told nothing of its canaries"));
        };
        let refuted = audit.epsilon > report.epsilon;
        let audited = Audited {
            confidence: self.confidence,
            refuted,
            report: &report,
        };
        context.report(&audited, || {
            let verdict = match refuted {
                true => "the account is refuted: more is revealed than it allows",
                false => "the account is not refuted",
            };
            format!(
                "ε is at least {:.3} with {} % confidence, by {} right guesses of {} about {} canaries, and at most \
                 {:.3} by the account: {verdict}\n{}",
                audit.epsilon,
                100.0 * self.confidence,
                audit.right,
                audit.guesses,
                audit.canaries,
                report.epsilon,
                privacy_flags::told(&report, false),
            )
        })
    }
}
