//! The checks of the claim on the measured numbers.

use nabla_claims::{Check, Table, TableError, Task, Variant};

use super::SUPERLINEAR;
use super::names::*;

/// The fraction of the others' steps up to which a rule counts as faster: a difference below 1% does not count.
const FEWER: f64 = 0.99;

/// One comparison of a check: its name, the cell that should have fewer steps, and those that should have more.
struct Fewer {
    name: String,
    better: (Task, Variant),
    others: Vec<(Task, Variant)>,
}

/// The check that in every comparison the mean number of steps of the first cell is at least 1% lower than that
/// of each other measured cell. Comparisons without measured cells are left out.
fn fewer(
    table: &Table,
    text: impl Into<String>,
    comparisons: &[Fewer],
) -> Result<Check, TableError> {
    let (mut holds, mut details) = (true, Vec::new());
    for Fewer {
        name,
        better: (task, variant),
        others,
    } in comparisons
    {
        if !table.has(task, variant, &STEPS) {
            continue;
        }
        let own = table.mean(task, variant, &STEPS)?;
        let mut least: Option<(f64, &Variant)> = None;
        for (task, other) in others {
            if table.has(task, other, &STEPS) {
                let mean = table.mean(task, other, &STEPS)?;
                if least.is_none_or(|(value, _)| mean < value) {
                    least = Some((mean, other));
                }
            }
        }
        let Some((value, other)) = least else {
            continue;
        };
        // If neither ever ends, neither is faster, although 99% of infinity is infinity.
        let better = own < value && own <= FEWER * value;
        holds &= better;
        let mark = match (better, own < value) {
            (true, _) => "",
            (false, true) => " (fewer by less than 1%)",
            (false, false) => " (not fewer)",
        };
        details.push(format!(
            "{name}: {} against {} ({other}){mark}",
            whole(own),
            whole(value)
        ));
    }
    let compared = !details.is_empty();
    Ok(Check::new(text, holds && compared, details.join("; ")))
}

/// A mean number of steps.
fn whole(steps: f64) -> String {
    if steps.is_infinite() {
        "∞".to_owned()
    } else if steps < 10.0 {
        format!("{steps:.1}")
    } else {
        format!("{steps:.0}")
    }
}

/// The headlines test the abstract: rules that guarantee more progress than the Gauss-Southwell rule, each with
/// the update that it is made for, message passing on huge blocks, and superlinear convergence after the active
/// set has been found.
pub(super) fn checks(table: &Table, problems: &[Smooth]) -> Result<Vec<Check>, TableError> {
    let mut checks = Vec::new();
    // Within one part of each problem.
    let within = |part: Part, better: &Variant, others: &[Variant]| -> Vec<Fewer> {
        let comparison = |problem: &Smooth| {
            let task = problem.task(part);
            let others = others.iter().map(|o| (task.clone(), o.clone())).collect();
            Fewer {
                name: problem.name().to_owned(),
                better: (task, better.clone()),
                others,
            }
        };
        problems.iter().map(comparison).collect()
    };
    for way in WAYS {
        for rule in [GS, GSL, GSD, GSQ, OMP, MI] {
            let comparisons = within(way, &rule, &NOT_GREEDY);
            let measured = |c: &Fewer| table.has(&c.better.0, &c.better.1, &STEPS);
            if comparisons.iter().any(measured) {
                let way = way.name();
                let text = format!(
                    "{way} updates: {rule} takes fewer steps than cyclic, random and Lipschitz sampling"
                );
                checks.push(fewer(table, text, &comparisons)?);
            }
        }
        for rule in [GSL, GSQ] {
            let text = format!("{} updates: {rule} takes fewer steps than GS", way.name());
            let check = fewer(table, text, &within(way, &rule, &[GS]))?;
            // GSL guarantees the most progress for a gradient update with L_b, GSQ for a matrix update.
            let matrix = matches!(way, Part::Rules { matrix: true, .. });
            checks.push(check.headline_if((rule == GSQ) == matrix));
        }
    }
    for (better, worse) in [(STEP_LB, STEP_L), (MATRIX, STEP_LB), (NEWTON, MATRIX)] {
        let text = format!("GS, fixed blocks: {better} updates take fewer steps than {worse}");
        checks.push(fewer(
            table,
            text,
            &within(Part::Updates, &better, &[worse]),
        )?);
    }
    let text = "GS, gradient updates: sorted blocks take fewer steps than other partitions";
    let others = [IN_ORDER, AT_RANDOM, AVERAGED];
    checks.push(fewer(
        table,
        text,
        &within(Part::Partitions, &SORTED, &others),
    )?);
    for (fixed, variable, update) in [(WAYS[0], WAYS[2], "gradient"), (WAYS[1], WAYS[3], "matrix")]
    {
        let comparison = |problem: &Smooth| Fewer {
            name: problem.name().to_owned(),
            better: (problem.task(variable), GS),
            others: vec![(problem.task(fixed), GS)],
        };
        let text =
            format!("GS, {update} updates: variable blocks take fewer steps than fixed ones");
        let comparisons: Vec<Fewer> = problems.iter().map(comparison).collect();
        checks.push(fewer(table, text, &comparisons)?);
    }
    for part in [Part::SizesGradient, Part::SizesMatrix] {
        for [(_, smaller), (_, larger)] in
            SIZES.windows(2).filter_map(|pair| pair.first_chunk::<2>())
        {
            let text = format!("{}: {larger} take fewer steps than {smaller}", part.name());
            let comparisons = within(part, larger, std::slice::from_ref(smaller));
            checks.push(fewer(table, text, &comparisons)?);
        }
    }
    for (better, worse, headline) in [
        (GREEDY_TREES, vec![DENSE, DENSE_L], true),
        (GREEDY_TREES, vec![RANDOM_TREES, FIXED_TREES], false),
        (GREEDY_TREES_L, vec![RANDOM_TREES, FIXED_TREES], false),
        (FIXED_TREES, vec![RED_BLACK], false),
        (RED_BLACK, vec![DENSE, DENSE_L], false),
    ] {
        let names: Vec<&str> = worse.iter().map(Variant::name).collect();
        let text = format!(
            "label propagation: {better} take fewer steps than {}",
            names.join(" and ")
        );
        let comparison = Fewer {
            name: PROPAGATION.name().to_owned(),
            better: (PROPAGATION, better),
            others: worse.into_iter().map(|w| (PROPAGATION, w)).collect(),
        };
        let check = fewer(table, text, &[comparison])?;
        checks.push(check.headline_if(headline));
    }
    // The cost of steps over such large blocks is the number of updated coordinates.
    for dense in [DENSE, DENSE_L] {
        checks.push(table.compare(&PROPAGATION, &ROUNDS, &GREEDY_TREES, &dense)?);
    }
    for task in SPARSE {
        checks.extend(sparse_checks(table, &task)?);
    }
    Ok(checks)
}

/// The active set and the end of the runs of a sparse problem.
fn sparse_checks(table: &Table, task: &Task) -> Result<Vec<Check>, TableError> {
    let all = [
        PROXIMAL_NEWTON,
        TWO_METRIC,
        PROXIMAL_GRADIENT,
        SMALL_NEWTON,
        CYCLIC_COORDINATES,
    ];
    let (mut early, mut details) = (true, Vec::new());
    for variant in &all {
        let found = table.values(task, variant, &SUPPORT)?;
        let ends = table.values(task, variant, &STEPS)?;
        early &= found
            .iter()
            .zip(&ends)
            .all(|(found, end)| found.is_finite() && found <= end);
        let mean = |values: &[f64]| whole(values.iter().sum::<f64>() / values.len() as f64);
        details.push(format!("{variant}: {} of {}", mean(&found), mean(&ends)));
    }
    let text = format!("{task}: every method has the solution's support when it ends");
    let support = Check::new(text, early, details.join("; "));
    let mut checks = vec![support.headline()];
    for variant in all {
        let superlinear = [PROXIMAL_NEWTON, TWO_METRIC].contains(&variant);
        let worst = table.values(task, &variant, &CONTRACTION)?;
        let holds = worst
            .iter()
            .all(|c| (*c < SUPERLINEAR) == superlinear && !c.is_nan());
        let word = if superlinear { "less" } else { "no less" };
        let text = format!(
            "{task}: the last step of {variant} leaves {word} than {SUPERLINEAR} of the excess"
        );
        let shown: Vec<String> = worst.iter().map(|c| format!("{c:.1e}")).collect();
        let check = Check::new(text, holds, shown.join(", "));
        checks.push(check.headline_if(superlinear));
    }
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Task = Task::named("a");
    const B: Task = Task::named("b");

    #[test]
    fn a_check_needs_every_comparison_and_names_the_best_of_the_others() {
        let mut table = Table::new(&[0, 1], [STEPS], [GS, RANDOM, CYCLIC], [A, B]).unwrap();
        for (task, variant, steps) in [
            (A, GS, [4.0, 6.0]),
            (A, RANDOM, [9.0, 5.0]),
            (A, CYCLIC, [6.0, 6.0]),
            (B, GS, [20.0, 20.0]),
            (B, RANDOM, [20.0, 20.0]),
        ] {
            for (seed, value) in steps.into_iter().enumerate() {
                let seed = seed as u64;
                table.record(&task, &variant, &STEPS, seed, value).unwrap();
            }
        }
        let comparison = |task: Task| Fewer {
            name: task.name().to_owned(),
            better: (task.clone(), GS),
            others: vec![(task.clone(), RANDOM), (task, CYCLIC)],
        };
        let one = fewer(&table, "a", &[comparison(A)]).unwrap();
        assert!(one.holds);
        assert_eq!(one.detail, "a: 5.0 against 6.0 (cyclic)");
        let both = fewer(&table, "both", &[comparison(A), comparison(B)]).unwrap();
        assert!(
            !both.holds
                && both
                    .detail
                    .ends_with("b: 20 against 20 (random) (not fewer)")
        );
        // Without comparisons the check does not hold.
        assert!(!fewer(&table, "none", &[]).unwrap().holds);
    }

    #[test]
    fn one_step_of_thousands_is_no_difference() {
        let check = |own: f64, other: f64| {
            let mut table = Table::new(&[0], [STEPS], [GSL, GS], [A]).unwrap();
            table.record(&A, &GSL, &STEPS, 0, own).unwrap();
            table.record(&A, &GS, &STEPS, 0, other).unwrap();
            let comparison = Fewer {
                name: "a".to_owned(),
                better: (A, GSL),
                others: vec![(A, GS)],
            };
            fewer(&table, "a", &[comparison]).unwrap()
        };
        let close = check(6756.0, 6757.0);
        assert!(!close.holds);
        assert_eq!(
            close.detail,
            "a: 6756 against 6757 (GS) (fewer by less than 1%)"
        );
        assert!(check(98.9, 100.0).holds && !check(99.1, 100.0).holds);
        let never = f64::INFINITY;
        assert!(check(5.0, never).holds && !check(never, never).holds && !check(never, 5.0).holds);
    }
}
