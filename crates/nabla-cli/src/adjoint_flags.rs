//! The flags of jobs that follow a gradient back through all steps of the sampler.

use clap::Args;
use nabla::diffusion::adjoint_dpm::{AdjointDpm, GradientMode, OdeMethod};

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
}
