//! The checks of the claim on the measured numbers.

use nabla_claims::{Check, ClaimError, Table};

use super::{
    DDIM, DDIM_250, DDIM_1000, DDIM_ALL, DISTANCE, F_PNDM, F_PNDM_41, F_PNDM_50, FON,
    MIXTURE_STEPS, ORDERS, PRIOR_STEPS, S_PNDM, SLOPE, Size, mixture_task, prior_task,
};

/// The headlines test the abstract: 50 steps are better than 1000 and than 250 steps of DDIM.
pub(super) fn checks(table: &Table, size: &Size) -> Result<Vec<Check>, ClaimError> {
    let mut checks = Vec::new();
    for (task, all) in [(MIXTURE_STEPS, DDIM_1000), (PRIOR_STEPS, DDIM_ALL)] {
        for other in [&all, &DDIM_250] {
            let check = table.compare(&task, &DISTANCE, &F_PNDM_50, other)?;
            checks.push(check.headline());
        }
        checks.push(table.compare(&task, &DISTANCE, &F_PNDM_41, &all)?);
    }
    let steps = format!("{:?} steps", size.steps);
    for (variant, word, least, most) in [
        (DDIM, "first", 0.8, 1.3),
        (S_PNDM, "second", 1.8, f64::INFINITY),
        (F_PNDM, "second", 1.8, f64::INFINITY),
    ] {
        let order = table.mean(&ORDERS, &variant, &SLOPE)?;
        checks.push(Check::new(
            format!("{variant}: {word} order"),
            (least..=most).contains(&order),
            format!("order {order:.2} over {steps}"),
        ));
    }
    for task in [mixture_task, prior_task] {
        for calls in [20, 40] {
            for other in [DDIM, FON] {
                checks.push(table.compare(&task(calls), &DISTANCE, &F_PNDM, &other)?);
            }
        }
    }
    Ok(checks)
}
