//! The flags by which `nabla train model` averages gradients robustly.

use clap::Args;
use nabla::probe::robust_gradients::RobustGradient;

use crate::choice::{choice, chosen};
use crate::errors::Failure;

/// Each flag overrides the file.
#[derive(Args)]
pub struct RobustFlags {
    /// Average gradients so that directions which serve few examples don't count
    #[arg(long, value_parser = choice::<RobustGradient>())]
    robust_gradient: Option<RobustGradient>,
    /// The percentage of a weight's gradients that is clipped at either end by `winsorized` [default: 10]
    #[arg(long, value_name = "PERCENT")]
    winsorize: Option<f64>,
}

impl RobustFlags {
    /// What the file says, overridden by the flags.
    ///
    /// # Errors
    /// If the percentage is out of range, or is given for another method.
    pub fn apply(&self, file: Option<RobustGradient>) -> Result<Option<RobustGradient>, Failure> {
        let mut robust = match (self.robust_gradient, file) {
            (Some(given), Some(file)) => Some(chosen(Some(given), file)),
            (given, file) => given.or(file),
        };
        if let Some(wanted) = self.winsorize {
            let Some(RobustGradient::Winsorized { percent }) = &mut robust else {
                return Err(Failure::input(
                    "--winsorize is for --robust-gradient winsorized, but the gradients are averaged in another way",
                ));
            };
            *percent = wanted;
        }
        if let Some(robust) = &robust {
            robust.validate().map_err(Failure::input)?;
        }
        Ok(robust)
    }
}
