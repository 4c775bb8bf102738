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

fn run(comparison: &DomainComparison, domains: &Domains) -> Vec<DomainTable> {
    let go = &mut |_: DomainEvent<'_>| ControlFlow::Continue(());
    comparison
        .run_on(domains, &Device::flex(), None, go)
        .unwrap()
}

/// Every objective gets as many trainings, the same rates and batches, and its own options; options that are given stay.
#[test]
fn every_objective_has_the_same_budget() {
    let mut comparison = small();
    comparison.objectives[1] = DomainObjective::named("irm").with("penalty", 7.0);
    let (mut trainings, mut steps) = (Vec::new(), 0);
    let tables = comparison
        .run_on(&domains(), &Device::flex(), None, &mut |event| {
            match event {
                DomainEvent::Begin { runs } => assert_eq!(runs, 12),
                DomainEvent::Step => steps += 1,
                DomainEvent::End(run) => trainings.push(run.clone()),
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!((trainings.len(), steps), (2 * 2 * 3, 12 * 12));
    let purpose = &trainings[5].purpose;
    assert_eq!(
        (purpose.objective.as_str(), purpose.seed, purpose.trial),
        ("erm", 1, 2)
    );
    let [table] = &tables[..] else {
        panic!("{tables:?}");
    };
    for row in &table.rows {
        assert_eq!((row.reached.len(), row.reached[0].len()), (1, 2));
        let reached: Vec<&Reached> = row.reached[0].iter().flatten().collect();
        let found: Vec<f64> = reached.iter().map(|r| r.accuracy).collect();
        let mean = (found[0] + found[1]) / 2.0;
        let told = row.accuracies[0].unwrap();
        assert!((told.mean - mean).abs() < 1e-12);
        assert!((told.error.unwrap() - (found[0] - found[1]).abs() / 2.0).abs() < 1e-12);
        // One test domain is the mean.
        assert_eq!(row.mean, Some(told));
        assert!(reached.iter().all(|r| [5, 10, 12].contains(&r.chosen.step)));
    }
    let irm = &comparison.objectives[1];
    let settings: Vec<Setting> = (0..3)
        .map(|t| comparison.setting(irm, t, 0).unwrap())
        .collect();
    let erm = comparison.setting(&comparison.objectives[0], 2, 0).unwrap();
    assert_eq!(
        (settings[2].learning_rate, settings[2].batch),
        (erm.learning_rate, erm.batch)
    );
    assert_eq!((settings[0].learning_rate, settings[0].batch), (1e-3, 64));
    for setting in &settings {
        assert_eq!(setting.objective.options.get("penalty"), Some(&7.0.into()));
    }
    // 500 of 5000 by default, so 1 of 12, and then drawn.
    let first = &settings[0].objective.options;
    assert_eq!(first.get("anneal_steps"), Some(&1_u64.into()));
    assert!(settings[1].objective.options.get("anneal_steps").is_some());
    let text = table.markdown();
    assert!(
        text.starts_with("| objective | -90% | mean | rank |\n|---|---|---|---|\n| "),
        "{text}"
    );
    // The same bits again.
    assert_eq!(run(&comparison, &domains()), tables);
}

/// What is stored is not repeated, and gives the same table and file as a comparison that was never stopped.
#[test]
fn a_comparison_that_was_stopped_goes_on() {
    let [whole, parts] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let comparison = DomainComparison {
        selections: vec![Selection::LeaveOneDomainOut, Selection::TrainingDomains],
        trials: 2,
        seeds: vec![5],
        ..small()
    };
    let domains = domains();
    let comparison = DomainComparison {
        objectives: vec![DomainObjective::named("erm"), DomainObjective::named("sam")],
        ..comparison
    };
    let from = |folder: &tempfile::TempDir, stop: usize| {
        let (mut steps, mut known) = (0, 0);
        let tables = comparison.run_on(
            &domains,
            &Device::flex(),
            Some(folder.path()),
            &mut |event| {
                match event {
                    DomainEvent::Step => steps += 1,
                    DomainEvent::End(_) => known += 1,
                    DomainEvent::Begin { runs } => assert_eq!(runs, 2 * 2 * 3),
                }
                match steps == stop {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            },
        );
        (tables, steps, known)
    };
    let (tables, steps, _) = from(&whole, usize::MAX);
    let tables = tables.unwrap();
    assert_eq!(steps, 12 * 12);
    assert_eq!(tables.len(), 2);
    // In the middle of the fourth training.
    let (stopped, ..) = from(&parts, 40);
    assert!(matches!(stopped, Err(DomainComparisonError::Stopped)));
    let (again, steps, known) = from(&parts, usize::MAX);
    assert_eq!(again.unwrap(), tables);
    assert_eq!((steps, known), (9 * 12, 12));
    let [a, b] = [&whole, &parts].map(|f| std::fs::read(f.path().join("runs.json")).unwrap());
    assert_eq!(a, b);
    // Everything is known.
    let (again, steps, known) = from(&parts, usize::MAX);
    assert_eq!((again.unwrap(), steps, known), (tables, 0, 12));
    // Another comparison, and other examples.
    let other = DomainComparison {
        steps: 13,
        ..comparison.clone()
    };
    let told = other.check_folder(parts.path()).unwrap_err().to_string();
    assert!(
        told.contains("steps was 12 there, but 13 is asked for"),
        "{told}"
    );
    let others = Coloured::default()
        .of(&nabla_data::digits().unwrap(), 2)
        .unwrap();
    let go = &mut |_: DomainEvent<'_>| ControlFlow::Continue(());
    let told = comparison
        .run_on(&others, &Device::flex(), Some(parts.path()), go)
        .unwrap_err()
        .to_string();
    assert!(told.contains("runs of other examples"), "{told}");
}

/// The rule that leaves domains out trains once more without each training domain.
#[test]
fn domains_are_left_out_to_choose() {
    let comparison = DomainComparison {
        selections: vec![Selection::LeaveOneDomainOut],
        trials: 2,
        seeds: vec![0],
        objectives: vec![DomainObjective::named("erm")],
        ..small()
    };
    let mut runs = Vec::new();
    let tables = comparison
        .run_on(&domains(), &Device::flex(), None, &mut |event| {
            if let DomainEvent::End(run) = event {
                runs.push(run.clone());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    let left: Vec<Option<String>> = runs.iter().map(|r| r.purpose.left_out.clone()).collect();
    let once = [None, Some("+90%".to_owned()), Some("+80%".to_owned())];
    assert_eq!(left, [once.clone(), once].concat());
    let accuracy = tables[0].rows[0].accuracies[0].unwrap();
    assert_eq!(accuracy.error, None);
    // By hand: the mean over the domains that were left out, the first of the highest.
    let mut best: Option<(f64, usize, usize)> = None;
    for trial in 0..2 {
        for check in 0..3 {
            let of = |domain: usize| runs[3 * trial + domain].checks[check].held_out;
            let score = (of(1) + of(2)) / 2.0;
            if best.is_none_or(|(highest, ..)| score > highest) {
                best = Some((score, trial, check));
            }
        }
    }
    let (score, trial, check) = best.unwrap();
    let reached = tables[0].rows[0].reached[0][0].as_ref().unwrap();
    assert_eq!((reached.chosen.trial, reached.chosen.score), (trial, score));
    assert_eq!(reached.accuracy, runs[3 * trial].checks[check].held_out);
    // Objectives that compare domains have one alone then.
    let comparison = DomainComparison {
        objectives: vec![DomainObjective::named("vrex")],
        ..comparison
    };
    let told = comparison
        .fits(&comparison.objectives[0], &domains())
        .unwrap_err()
        .to_string();
    assert!(told.contains("at least two to train on"), "{told}");
}

/// A trial that diverges is none that can be chosen, and an objective of which all do has no place.
#[test]
fn a_comparison_goes_on_where_a_trial_diverges() {
    let comparison = DomainComparison {
        learning_rate: 1e30,
        trials: 1,
        seeds: vec![0],
        objectives: vec![DomainObjective::named("erm")],
        ..small()
    };
    let tables = run(&comparison, &domains());
    let row = &tables[0].rows[0];
    assert_eq!(
        (row.rank, &row.accuracies[..], row.mean),
        (None, &[None][..], None)
    );
    assert!(
        tables[0]
            .markdown()
            .ends_with("| erm | diverged | diverged | - |\n")
    );
    assert_eq!(tables[0].csv_lines(), "training-domains,,erm,,,,\n");
}

/// Accuracies by hand: two domains, two seeds.
#[test]
fn objectives_are_ranked_by_their_means() {
    let mut table = DomainTable::new(
        Selection::TrainingDomains,
        &["art".to_owned(), "a, b".to_owned()],
    );
    let reached = |accuracy: f64| {
        let chosen = Chosen {
            trial: 0,
            step: 1,
            score: 0.5,
        };
        Some(Reached {
            seed: 0,
            chosen,
            learning_rate: 1e-3,
            batch: 8,
            options: Options::new(),
            accuracy,
        })
    };
    let mut push = |name: &str, rows: [[f64; 2]; 2]| {
        table.push(name, rows.map(|row| row.map(reached).to_vec()).to_vec());
    };
    push("erm", [[0.5, 0.75], [0.25, 0.5]]);
    push("irm", [[0.75, 1.0], [0.5, 0.25]]);
    push("vrex", [[0.25, 0.5], [0.5, 0.75]]);
    table.rank();
    let ranks: Vec<Option<usize>> = table.rows.iter().map(|row| row.rank).collect();
    assert_eq!(ranks, [Some(2), Some(1), Some(2)]);
    // The seeds' means are 0.375 and 0.625: half of their distance is the standard error of two.
    let mean = Accuracy {
        mean: 0.5,
        error: Some(0.125),
    };
    assert_eq!(table.rows[0].mean, Some(mean));
    let text = table.markdown();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "| objective | art | a, b | mean | rank |");
    assert_eq!(
        lines[2],
        "| irm | 87.5 ± 12.5 | 37.5 ± 12.5 | 62.5 ± 0.0 | 1 |"
    );
    assert!(lines[3].ends_with(" | 2 |") && lines[4].ends_with(" | 2 |"));
    assert!(lines[3].starts_with("| erm |") && lines[4].starts_with("| vrex |"));
    assert_eq!(
        table.csv_head(),
        "selection,rank,objective,art,art error,\"a, b\",\"a, b error\",mean,mean error\n"
    );
    let lines = table.csv_lines();
    assert!(
        lines.starts_with("training-domains,1,irm,0.875,0.125,0.375,0.125,0.625,0\n"),
        "{lines}"
    );
}

#[test]
fn wrong_comparisons_are_refused_in_one_sentence() {
    let told = |comparison: DomainComparison| {
        let go = &mut |_: DomainEvent<'_>| ControlFlow::Continue(());
        let run = comparison.run_on(&domains(), &Device::flex(), None, go);
        run.unwrap_err().to_string()
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
    assert!(
        told(DomainComparison {
            seeds: vec![1, 2, 1],
            ..small()
        })
        .contains("the seed 1 is given twice")
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
                .setting(&DomainObjective::named(name), trial, 3)
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
