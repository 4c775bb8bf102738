//! The checks of the claim on the measured numbers.

use nabla_claims::{Check, ClaimError, Table, Task, Variant};

use super::{
    COSINE_4, DISTANCE, DPM_4, FIXED, JOINT, LINEAR_4, OTHER_LINEAR_4, PLMS_4, RANDOM, SEARCHED,
    STEPS_ALONE, Setting, UNIFORM, UNITS_18, UNITS_24,
};

/// What steps with blocks may be worse than steps alone where the gain is not claimed.
const ALLOWED: f64 = 1.05;

/// The headlines test the abstract: searched steps are far better than uniform ones at four steps, with any sampler, and
/// on other models. The rest is how the search compares with random search, and what the blocks add.
pub(super) fn checks(table: &Table, settings: &[Setting]) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    checks.push(half(table, &LINEAR_4)?.headline());
    for task in [COSINE_4, DPM_4, PLMS_4] {
        checks.push(
            table
                .compare(&task, &DISTANCE, &SEARCHED, &UNIFORM)?
                .headline(),
        );
    }
    checks.push(half(table, &OTHER_LINEAR_4)?.headline());
    for setting in settings {
        let task = &setting.task;
        if setting.searches.len() > 1 {
            checks.push(at_most(table, task, &SEARCHED, 1.0, &RANDOM)?);
        }
        // The best fixed plan, known only afterwards.
        let mut best: Option<(&Variant, f64)> = None;
        for (variant, _) in &FIXED {
            let mean = table.mean(task, variant, &DISTANCE)?;
            if best.is_none_or(|(_, lowest)| mean < lowest) {
                best = Some((variant, mean));
            }
        }
        if let Some((variant, _)) = best {
            let check = table.compare(task, &DISTANCE, &SEARCHED, variant)?;
            // The best fixed plan may be the uniform one of a headline.
            if checks.iter().all(|known| known.text != check.text) {
                checks.push(check);
            }
        }
    }
    checks.push(table.compare(&UNITS_24, &DISTANCE, &JOINT, &STEPS_ALONE)?);
    checks.push(at_most(table, &UNITS_18, &JOINT, ALLOWED, &STEPS_ALONE)?);
    Ok(checks)
}

/// Whether the searched steps have at most half the distance of the uniform ones.
fn half(table: &Table, task: &Task) -> Result<Check, ClaimError> {
    at_most(table, task, &SEARCHED, 0.5, &UNIFORM)
}

fn at_most(
    table: &Table,
    task: &Task,
    variant: &Variant,
    share: f64,
    other: &Variant,
) -> Result<Check, ClaimError> {
    let found = table.summary(task, variant, &DISTANCE)?;
    let reference = table.summary(task, other, &DISTANCE)?;
    let times = match share == 1.0 {
        true => String::new(),
        false => format!("{share} times "),
    };
    Ok(Check::new(
        format!("{task}: the distance of {variant} is at most {times}that of {other}"),
        found.mean <= share * reference.mean,
        format!("{found} against {reference}"),
    ))
}
