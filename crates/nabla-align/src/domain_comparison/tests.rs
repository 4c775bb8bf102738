use nabla_train::mlp::MlpConfig;

use super::*;
use crate::coloured::Coloured;
use crate::objectives::plain_objectives;

fn domains() -> Domains {
    Coloured::default()
        .of(&nabla_data::digits().unwrap(), 1)
        .unwrap()
}

fn small() -> DomainComparison {
    DomainComparison {
        objectives: vec![DomainObjective::named("erm"), DomainObjective::named("irm")],
        model: ModelConfig::Mlp(MlpConfig { hidden: vec![8] }),
        tests: vec!["-90%".into()],
        steps: 12,
        check_every: 5,
        trials: 3,
        seeds: vec![0, 1],
        ..DomainComparison::default()
    }
}

/// Every objective gets as many trainings, the same rates and batches, and its own options; options that are given stay.
#[test]
fn every_objective_has_the_same_budget() {
    let mut comparison = small();
    comparison.objectives[1] = DomainObjective::named("irm").with("penalty", 7.0);
    let mut trainings = Vec::new();
    let table = comparison
        .run(&domains(), &mut |done| {
            assert_eq!((done.test, done.left_out), ("-90%", None));
            trainings.push((done.objective.to_owned(), done.seed, done.trial));
            true
        })
        .unwrap();
    assert_eq!(trainings.len(), 2 * 2 * 3);
    assert_eq!(trainings[5], ("erm".to_owned(), 1, 2));
    for row in &table.rows {
        assert_eq!((row.reached.len(), row.reached[0].len()), (1, 2));
        let found: Vec<f64> = row.reached[0].iter().map(|r| r.accuracy).collect();
        let mean = (found[0] + found[1]) / 2.0;
        let (told, error) = row.accuracies[0];
        assert!((told - mean).abs() < 1e-12 && (row.mean - mean).abs() < 1e-12);
        assert!((error.unwrap() - (found[0] - found[1]).abs() / 2.0).abs() < 1e-12);
        assert!(
            row.reached[0]
                .iter()
                .all(|r| [5, 10, 12].contains(&r.chosen.step))
        );
    }
    let irm = &comparison.objectives[1];
    let settings: Vec<Trial> = (0..3)
        .map(|t| comparison.trial(irm, t, 0).unwrap())
        .collect();
    let erm = comparison.trial(&comparison.objectives[0], 2, 0).unwrap();
    assert_eq!((settings[2].rate, settings[2].batch), (erm.rate, erm.batch));
    assert_eq!((settings[0].rate, settings[0].batch), (1e-3, 64));
    for (trial, setting) in settings.iter().enumerate() {
        assert_eq!(setting.objective.options.get("penalty"), Some(&7.0.into()));
        assert_eq!(
            setting.objective.options.get("anneal_steps").is_some(),
            trial > 0
        );
    }
    let text = table.markdown();
    assert!(
        text.starts_with("| objective | -90% | mean |\n|---|---|---|\n| erm | "),
        "{text}"
    );
    // The same bits again.
    assert_eq!(comparison.run(&domains(), &mut |_| true).unwrap(), table);
}

/// The rule that leaves domains out trains once more without each training domain.
#[test]
fn domains_are_left_out_to_choose() {
    let comparison = DomainComparison {
        selection: Selection::LeaveOneDomainOut,
        trials: 2,
        seeds: vec![0],
        objectives: vec![DomainObjective::named("erm")],
        ..small()
    };
    let mut left = Vec::new();
    let table = comparison
        .run(&domains(), &mut |done| {
            left.push(done.left_out.map(str::to_owned));
            true
        })
        .unwrap();
    let once = [None, Some("+90%".to_owned()), Some("+80%".to_owned())];
    assert_eq!(left, [once.clone(), once].concat());
    assert_eq!(table.rows[0].accuracies[0].1, None);
    let stopped = comparison.run(&domains(), &mut |_| false).unwrap_err();
    assert!(matches!(stopped, DomainComparisonError::Stopped));
}

/// A trial that diverges is none that can be chosen.
#[test]
fn a_comparison_goes_on_where_a_trial_diverges() {
    let comparison = DomainComparison {
        rate: 1e30,
        trials: 1,
        seeds: vec![0],
        objectives: vec![DomainObjective::named("erm")],
        ..small()
    };
    let error = comparison
        .run(&domains(), &mut |_| true)
        .unwrap_err()
        .to_string();
    assert!(error.contains("every trial of erm"), "{error}");
}

#[test]
fn wrong_comparisons_are_refused_in_one_sentence() {
    let told = |comparison: DomainComparison| {
        comparison
            .run(&domains(), &mut |_| true)
            .unwrap_err()
            .to_string()
    };
    assert!(
        told(DomainComparison {
            objectives: Vec::new(),
            ..small()
        })
        .contains("number of objectives")
    );
    assert!(
        told(DomainComparison {
            check_every: 13,
            ..small()
        })
        .contains("from 1 to 12")
    );
    assert!(
        told(DomainComparison {
            tests: vec!["x".into()],
            ..small()
        })
        .contains("there is no domain")
    );
    let unknown = vec![DomainObjective::named("best")];
    assert!(
        told(DomainComparison {
            objectives: unknown,
            ..small()
        })
        .contains("there is no objective")
    );
    // Everything that is searched is an option of the objective, within its range.
    let model = MlpConfig { hidden: vec![4] }
        .init(128, 2, &Device::flex().autodiff())
        .unwrap();
    let plan = crate::objective::DomainPlan {
        batches: vec![8; 3],
        steps: 12,
        shape: None,
    };
    for name in plain_objectives::<Mlp>() {
        for trial in 1..6 {
            let setting = small()
                .trial(&DomainObjective::named(name), trial, 3)
                .unwrap();
            setting
                .objective
                .make::<Mlp>()
                .unwrap()
                .check(&model, &plan)
                .unwrap();
        }
    }
}
