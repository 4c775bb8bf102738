//! Checks that compare two variants in what predictions and trainings take, and in how good they are.

use nabla_claims::{Check, ClaimError, Metric, Table, Task, Variant};

use crate::training::{ACCURACY, SQUARED_ERROR};

/// The mean of a metric, as a share of another variant's.
pub(crate) fn share(
    table: &Table,
    task: &Task,
    metric: &Metric,
    ours: &Variant,
    theirs: &Variant,
) -> Result<(f64, String), ClaimError> {
    let (a, b) = (
        table.summary(task, ours, metric)?,
        table.summary(task, theirs, metric)?,
    );
    let share = a.mean / b.mean;
    let unit = match metric.unit() {
        "" => String::new(),
        unit => format!(" {unit}"),
    };
    Ok((share, format!("{share:.3}: {a}{unit} against {b}{unit}")))
}

/// The check that a metric is at most a share of another variant's.
pub(crate) fn at_most(
    table: &Table,
    task: &Task,
    metric: &Metric,
    (ours, theirs): (&Variant, &Variant),
    most: f64,
) -> Result<Check, ClaimError> {
    let (share, detail) = share(table, task, metric, ours, theirs)?;
    let text = format!("{task}, {metric}: {ours} takes at most {most} of {theirs}");
    Ok(Check::new(text, share <= most, detail))
}

/// The check that an accuracy is at most some points below another, or an error at most 1.5 of another.
pub(crate) fn as_good(
    table: &Table,
    task: &Task,
    (ours, theirs): (&Variant, &Variant),
) -> Result<Check, ClaimError> {
    if table.has(task, ours, &ACCURACY) {
        let (a, b) = (
            table.summary(task, ours, &ACCURACY)?,
            table.summary(task, theirs, &ACCURACY)?,
        );
        return Ok(Check::new(
            format!("{task}: the accuracy of {ours} is at most one point below that of {theirs}"),
            a.mean >= b.mean - 1.0,
            format!("{a} % against {b} %"),
        ));
    }
    let (share, detail) = share(table, task, &SQUARED_ERROR, ours, theirs)?;
    Ok(Check::new(
        format!("{task}: the test error of {ours} is at most 1.5 of that of {theirs}"),
        share <= 1.5,
        detail,
    ))
}
