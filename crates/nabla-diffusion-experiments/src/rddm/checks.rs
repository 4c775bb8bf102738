//! What the numbers say of the claim.

use nabla_claims::{Check, ClaimError, Table, Task};
use nabla_diffusion::rddm::Objective;
use serde::{Deserialize, Serialize};

use super::{
    DDIM, DISTANCE, EQUAL, GENERATION, NOISE_FIRST, PATHS, PSNR, REGRESSION, RESIDUAL_FIRST,
    RESTORATION, SM_N, SM_RES, SM_RES_N, SWAPPED,
};

/// What AOSA has chosen.
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

/// What a changed path may cost.
const TOLERANCE_DB: f64 = 1.0;

/// The headlines are the abstract's: residuals make restoration, a generic UNet competes with the state of the
/// art, and the noise is for diversity.
pub(super) fn checks(table: &Table, choices: &[Vec<Choice>; 2]) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    for (_, task) in &RESTORATION {
        checks.push(table.compare(task, &PSNR, &SM_RES, &DDIM)?.headline());
        checks.push(competes(table, task)?.headline());
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

/// That SM-Res is not below plain regression by more than the spread of the regression; one seed alone has no
/// spread.
fn competes(table: &Table, task: &Task) -> Result<Check, ClaimError> {
    let ours = table.summary(task, &SM_RES, &PSNR)?;
    let theirs = table.summary(task, &REGRESSION, &PSNR)?;
    Ok(Check::new(
        format!(
            "{task}, {PSNR}: {SM_RES} is not below {REGRESSION} by more than the spread of the latter"
        ),
        ours.mean >= theirs.mean - theirs.spread.unwrap_or(0.0),
        format!("{ours} dB against {theirs} dB"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn competing_is_within_the_spread_of_the_other() {
        let task = Task::named("restoration");
        for (ours, holds) in [(25.0, true), (19.1, true), (18.9, false)] {
            let variants = [SM_RES, REGRESSION];
            let mut table = Table::new(&[0, 1, 2], [PSNR], variants, [task.clone()]).unwrap();
            table
                .record_for_every_seed(&task, &SM_RES, &PSNR, ours)
                .unwrap();
            // The mean is 20 dB, the spread 1 dB.
            for (seed, value) in [(0, 19.0), (1, 20.0), (2, 21.0)] {
                table
                    .record(&task, &REGRESSION, &PSNR, seed, value)
                    .unwrap();
            }
            assert_eq!(competes(&table, &task).unwrap().holds, holds, "{ours}");
        }
    }
}
