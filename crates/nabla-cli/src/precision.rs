//! The precisions that `--precision` names.

use clap::ValueEnum;
use nabla::diffusion::stable_diffusion::weights::Precision;

/// In what precision a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PrecisionChoice {
    /// 32 bits
    #[default]
    F32,
    /// 16 bits, as models are published
    F16,
    /// 16 bits with the range of 32
    Bf16,
}

impl From<PrecisionChoice> for Precision {
    fn from(choice: PrecisionChoice) -> Self {
        match choice {
            PrecisionChoice::F32 => Self::F32,
            PrecisionChoice::F16 => Self::F16,
            PrecisionChoice::Bf16 => Self::Bf16,
        }
    }
}
