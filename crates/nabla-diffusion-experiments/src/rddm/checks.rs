//! The checks of the claim on the measured numbers.

use nabla_claims::{Check, ClaimError, Table};
use nabla_diffusion::rddm::Objective;
use serde::{Deserialize, Serialize};

use super::{
    DDIM, DISTANCE, EQUAL, GENERATION, NOISE_FIRST, PATHS, PSNR, REGRESSION, RESIDUAL_FIRST,
    RESTORATION, SM_N, SM_RES, SM_RES_N, SWAPPED,
};

/// The choices of AOSA.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Choice {
    Residual,
    Noise,
    Another,
    None,
}

impl Choice {
    pub(super) fn of(objective: Option<Objective>) -> Self {
        match objective {
            Some(Objective::Residual) => Self::Residual,
            Some(Objective::Noise) => Self::Noise,
            Some(_) => Self::Another,
            None => Self::None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Residual => "SM-Res",
            Self::Noise => "SM-N",
            Self::Another => "another",
            Self::None => "none",
        }
    }
}

/// The loss allowed for a changed path.
const TOLERANCE_DB: f64 = 1.0;

/// The headlines test the abstract: a diffusion of residuals restores pictures, a generic UNet competes with the
/// state of the art, and the noise provides diversity. Two groups of checks are details. SM-Res must restore
/// better than SM-N because of SM-N's first division, which is by zero, and the changed paths were judged after
/// the task had been exchanged.
pub(super) fn checks(table: &Table, choices: &[Vec<Choice>; 2]) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    for (_, task) in &RESTORATION {
        checks.push(table.compare(task, &PSNR, &SM_RES, &DDIM)?.headline());
        let competes = table.not_worse(task, &PSNR, &SM_RES, &REGRESSION)?;
        checks.push(competes.headline());
    }
    let five = &RESTORATION[1].1;
    checks.push(table.compare(five, &PSNR, &SM_RES, &SM_N)?);
    let generation = table.compare(&GENERATION, &DISTANCE, &SM_N, &SM_RES)?;
    checks.push(generation.headline());
    for ((task, expected), found) in [
        ("restoration", Choice::Residual),
        ("generation", Choice::Noise),
    ]
    .into_iter()
    .zip(choices)
    {
        let names: Vec<_> = found.iter().map(|choice| choice.name()).collect();
        checks.push(Check::new(
            format!("AOSA chooses {} for {task}", expected.name()),
            found.iter().all(|choice| *choice == expected),
            format!("chosen per seed: {}", names.join(", ")),
        ));
    }
    let trained = table.mean(&PATHS, &SM_RES_N, &PSNR)?;
    for variant in [EQUAL, SWAPPED, RESIDUAL_FIRST, NOISE_FIRST] {
        let changed = table.summary(&PATHS, &variant, &PSNR)?;
        checks.push(Check::new(
            format!("{PATHS}: {variant} costs at most {TOLERANCE_DB} dB"),
            changed.mean >= trained - TOLERANCE_DB,
            format!("{changed} dB against {trained:.3} dB"),
        ));
    }
    Ok(checks)
}
