//! The checks of the claim on the measured numbers.

use nabla_claims::{Check, Table, TableError, Task};

use super::{
    CLASSIFIER, EVOLUTION, GAUSSIAN, GUMBEL, JUMPS, MANY_ALL, MANY_BEST, MANY_TEN, PAIRS,
    QUADRATIC, RANKS, RANKS_PLAIN, ROSENBROCK, SLOPE, VALUE, VALUES,
};

/// The tasks without noise.
const EXACT: [Task; 3] = [QUADRATIC, ROSENBROCK, CLASSIFIER];

/// The margin by which the logarithm of ZO-RankSGD's value may exceed ZO-SGD's, which is a factor of 2. With a
/// factor of 10, a classifier that guesses would pass: its logarithm is 0.36, and ZO-SGD ends near 0.
const WITHIN: f64 = std::f64::consts::LOG10_2;

/// The shares of the first gradient's norm below which the last one must be, with their words: that of the headline
/// and that of the detail. The theorem bounds the smallest norm by an unknown multiple of `√(d/T) log T`, which
/// guarantees no particular share after the few hundred steps here. A method that does not move, or moves at
/// random, fails the first; the second is a full order of magnitude.
const SHARES: [(f64, &str); 2] = [(0.5, "half"), (0.1, "a tenth")];

/// The headlines test the abstract: rankings alone lead to a stationary point.
pub(super) fn checks(table: &Table) -> Result<Vec<Check>, TableError> {
    let mut checks = Vec::new();
    for task in EXACT {
        let [half, tenth] = SHARES;
        checks.push(stationary(table, &task, half)?.headline());
        checks.push(stationary(table, &task, tenth)?);
        checks.push(within(table, &task)?);
        for worse in [PAIRS, JUMPS] {
            checks.push(table.compare(&task, &VALUE, &RANKS, &worse)?);
        }
        for (better, worse) in [
            (RANKS, RANKS_PLAIN),
            (MANY_ALL, MANY_TEN),
            (MANY_TEN, MANY_BEST),
        ] {
            checks.push(table.compare(&task, &VALUE, &better, &worse)?);
        }
    }
    for task in [GAUSSIAN, GUMBEL] {
        for worse in [PAIRS, JUMPS] {
            checks.push(table.compare(&task, &VALUE, &RANKS, &worse)?);
        }
    }
    Ok(checks)
}

/// The check that the gradient's norm has fallen below a share of the first.
fn stationary(table: &Table, task: &Task, (share, word): (f64, &str)) -> Result<Check, TableError> {
    let slope = table.summary(task, &RANKS, &SLOPE)?;
    Ok(Check::new(
        format!("{task}: {RANKS} ends with a gradient norm below {word} of the first"),
        slope.mean < share,
        format!("{slope} of the first"),
    ))
}

/// The check that rankings suffice: no more than [`WITHIN`] above the result of methods that see values.
fn within(table: &Table, task: &Task) -> Result<Check, TableError> {
    let own = table.summary(task, &RANKS, &VALUE)?;
    let values = table.summary(task, &VALUES, &VALUE)?;
    Ok(Check::new(
        format!("{task}: {RANKS} ends at no more than twice the value of {VALUES}"),
        own.mean <= values.mean + WITHIN,
        format!("{own} against {values} ({VALUE})"),
    ))
}

/// The tasks, in words, on which CMA-ES, which is not judged, is ahead.
pub(super) fn evolution(table: &Table) -> Result<String, TableError> {
    let mut ahead = Vec::new();
    for task in EXACT {
        if table.mean(&task, &EVOLUTION, &VALUE)? < table.mean(&task, &RANKS, &VALUE)? {
            ahead.push(task.name().to_owned());
        }
    }
    let tasks = match ahead.is_empty() {
        true => "none".to_owned(),
        false => format!("{} ({})", ahead.len(), ahead.join(", ")),
    };
    Ok(format!(
        "Of the {} tasks without noise {EVOLUTION}, which sees orders too, has a lower mean than {RANKS} on \
         {tasks}.",
        EXACT.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nabla_claims::{Metric, Variant};

    fn table(values: &[(Variant, Metric, f64)]) -> Table {
        let variants = [RANKS, VALUES, EVOLUTION];
        let mut table = Table::new(&[0], [VALUE, SLOPE], variants, EXACT).unwrap();
        for (variant, metric, value) in values {
            for task in EXACT {
                table.record(&task, variant, metric, 0, *value).unwrap();
            }
        }
        table
    }

    #[test]
    fn twice_above_is_within_and_more_is_not() {
        let holds = |own: f64, values: f64| {
            let table = table(&[(RANKS, VALUE, own), (VALUES, VALUE, values)]);
            within(&table, &QUADRATIC).unwrap().holds
        };
        assert!(holds(-3.0, -2.0) && holds(-1.7, -2.0) && !holds(-1.69, -2.0));
        // A classifier that guesses is not within the margin of ZO-SGD.
        assert!(!holds(10_f64.ln().log10(), 0.0));
    }

    #[test]
    fn a_method_that_stays_where_it_is_fails() {
        let holds = |slope: f64| {
            let table = table(&[(RANKS, SLOPE, slope)]);
            SHARES.map(|share| stationary(&table, &CLASSIFIER, share).unwrap().holds)
        };
        assert_eq!(holds(1.0), [false, false]);
        assert_eq!(holds(0.4), [true, false]);
        assert_eq!(holds(0.09), [true, true]);
        assert_eq!(holds(f64::INFINITY), [false, false]);
    }

    #[test]
    fn evolution_is_ahead_where_its_mean_is() {
        let told = |other: f64| {
            let table = table(&[(RANKS, VALUE, 1.0), (EVOLUTION, VALUE, other)]);
            evolution(&table).unwrap()
        };
        assert!(told(2.0).ends_with("on none."), "{}", told(2.0));
        let all = "on 3 (quadratic, Rosenbrock, digit classifier by preference).";
        assert!(told(0.0).ends_with(all), "{}", told(0.0));
    }
}
