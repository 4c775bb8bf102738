//! Checks shared by the claims about optimizers.

use nabla_claims::{Check, Direction, Metric, Table, TableError, Task, Variant};

/// The check that the mean of `ours` is not worse than that of `theirs` by more than the spread of `theirs`
/// over the seeds. This is the meaning of "as good as" and "competitive" here. A single seed has no spread.
///
/// # Errors
/// The errors of [`Table::summary`], and [`TableError::NotComparable`] for an informative metric.
pub fn not_worse(
    table: &Table,
    task: &Task,
    metric: &Metric,
    ours: &Variant,
    theirs: &Variant,
) -> Result<Check, TableError> {
    let a = table.summary(task, ours, metric)?;
    let b = table.summary(task, theirs, metric)?;
    let spread = b.spread.unwrap_or(0.0);
    let (side, holds) = match metric.direction() {
        Direction::HigherIsBetter => ("below", a.mean >= b.mean - spread),
        Direction::LowerIsBetter => ("above", a.mean <= b.mean + spread),
        Direction::Informative => {
            return Err(TableError::NotComparable(metric.name().to_owned()));
        }
    };
    let unit = match metric.unit() {
        "" => String::new(),
        unit => format!(" {unit}"),
    };
    Ok(Check::new(
        format!(
            "{task}, {metric}: {ours} is not {side} {theirs} by more than the spread of the latter"
        ),
        holds,
        format!("{a}{unit} against {b}{unit}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training_contest::{ACCURACY, LOSS, RATE};

    const SGD: Variant = Variant::method("SGD");

    #[test]
    fn as_good_is_within_the_spread_of_the_other() {
        const MINE: Variant = Variant::method("mine");
        let task = Task::named("task");
        let found = |metric: &Metric, mine: f64| {
            let metrics = [metric.clone()];
            let mut table = Table::new(&[0, 1, 2], metrics, [MINE, SGD], [task.clone()]).unwrap();
            table
                .record_for_every_seed(&task, &MINE, metric, mine)
                .unwrap();
            for (seed, value) in [(0, 1.0), (1, 2.0), (2, 3.0)] {
                table.record(&task, &SGD, metric, seed, value).unwrap();
            }
            not_worse(&table, &task, metric, &MINE, &SGD)
        };
        // The mean is 2, and the spread is 1.
        for (metric, mine, holds) in [
            (ACCURACY, 9.0, true),
            (ACCURACY, 1.01, true),
            (ACCURACY, 0.99, false),
            (LOSS, -9.0, true),
            (LOSS, 2.99, true),
            (LOSS, 3.01, false),
            (LOSS, f64::NAN, false),
        ] {
            assert_eq!(
                found(&metric, mine).unwrap().holds,
                holds,
                "{metric} {mine}"
            );
        }
        let check = found(&ACCURACY, 1.5).unwrap();
        assert_eq!(
            check.text,
            "task, test accuracy: mine is not below SGD by more than the spread of the latter"
        );
        assert_eq!(check.detail, "1.5 % against 2.0 ± 1.0 %");
        assert!(matches!(
            found(&RATE, 1.0),
            Err(TableError::NotComparable(_))
        ));
    }
}
