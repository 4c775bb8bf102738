//! The flags of jobs that follow a gradient back through all steps of the sampler.

use std::fmt;

use clap::Args;
use nabla::base::choices::Choices;
use nabla::base::progress::ProgressSink;
use nabla::diffusion::adjoint_dpm::{AdjointDpm, GradientMode, OdeMethod, TuningProgress};
use serde::Serialize;

use crate::choice::choice;

/// How the sampler runs, and which gradient is taken of it.
#[derive(Clone, Copy, Debug, Args)]
pub struct AdjointFlags {
    /// How the sampler's equation is solved
    #[arg(long, value_parser = choice::<OdeMethod>(), default_value = "euler")]
    method: OdeMethod,
    /// Which gradient is followed
    #[arg(long, value_parser = choice::<GradientMode>(), default_value = "exact")]
    gradient: GradientMode,
}

impl AdjointFlags {
    /// The configuration that the flags choose.
    pub fn config(self) -> AdjointDpm {
        AdjointDpm::new()
            .with_method(self.method)
            .with_mode(self.gradient)
    }

    /// The flags for a report.
    pub fn told(self) -> AdjointTold {
        AdjointTold {
            method: self.method.choice_name(),
            gradient: self.gradient.choice_name(),
        }
    }
}

/// The names of what the flags chose.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AdjointTold {
    method: Option<&'static str>,
    gradient: Option<&'static str>,
}

impl fmt::Display for AdjointTold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [method, gradient] = [self.method, self.gradient].map(Option::unwrap_or_default);
        write!(f, "method {method}, gradient {gradient}")
    }
}

/// Shows an iteration, and notes the loss of every tenth.
pub fn show_iteration(progress: &dyn ProgressSink, step: TuningProgress) {
    progress.advance(1);
    if step.done.is_multiple_of(10) {
        progress.note(&format!("iteration {}: loss {:.5}", step.done, step.loss));
    }
}
