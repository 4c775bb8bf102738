use nabla_base::registry::Options;

use super::*;
use crate::objective::{DomainPlan, ObjectiveError};
use crate::objectives::reference::{Tiny, gradients, reference};

fn names() -> Vec<&'static str> {
    plain_objectives::<Tiny>()
}

fn plan(domains: usize) -> DomainPlan {
    DomainPlan {
        batches: vec![6; domains],
        steps: 10,
        shape: None,
    }
}

/// What holds for every objective: it accepts the model and the plan, gives a finite gradient and the answers, the same
/// bits again, and can be taken up from its state.
#[test]
fn every_objective_steps_and_is_taken_up_from_its_state() {
    let model = Tiny::of(&reference(), false);
    for name in names() {
        let make = || objectives::<Tiny>().get(name).unwrap();
        make().check(&model, &plan(3)).unwrap();
        assert_eq!(make().name(), name);
        let run = |from: Option<Vec<u8>>, skip: usize, steps: usize| {
            let mut objective = make();
            if let Some(state) = from {
                objective.restore(&state).unwrap();
            }
            let mut state = Vec::new();
            let mut answers = Vec::new();
            let mut count = 0;
            let found = gradients(steps, false, |step| {
                count += 1;
                if count <= skip {
                    // Only to come to the same step.
                    let loss = step.pooled().loss();
                    step.learner().backward(loss)?;
                    return Ok(());
                }
                objective.step(step)?;
                answers.push(step.answers());
                state = objective.state()?;
                Ok(())
            });
            (found, state, answers)
        };
        let (first, state, answers) = run(None, 0, 1);
        let (whole, _, _) = run(None, 0, 2);
        assert_eq!(first[0], whole[0], "{name}");
        if name != "mixup" {
            assert_eq!(answers[0].examples, 18, "{name}");
        }
        for (loss, gradient) in &whole {
            assert!(
                loss.is_finite() && gradient.iter().all(|x| x.is_finite()),
                "{name}"
            );
            // Fish moves the weights itself, by a step that the recording optimizer does not take.
            assert!(
                name == "fish" || gradient.iter().any(|&x| x != 0.0),
                "{name}"
            );
        }
        let (resumed, _, _) = run(Some(state), 1, 2);
        // Fish records a gradient of every domain in a step.
        if name != "fish" {
            assert_eq!(resumed[1], whole[1], "{name}");
        }
    }
}

/// An objective that compares domains says so when there is one, and any other works on one.
#[test]
fn one_domain_is_enough_for_objectives_that_do_not_compare() {
    let model = Tiny::of(&reference(), false);
    let refuse: Vec<&str> = names()
        .into_iter()
        .filter(|name| {
            let objective = objectives::<Tiny>().get(name).unwrap();
            match objective.check(&model, &plan(1)) {
                Ok(()) => false,
                Err(error) => {
                    assert!(
                        matches!(error, ObjectiveError::Domains { .. }),
                        "{name}: {error}"
                    );
                    true
                }
            }
        })
        .collect();
    assert_eq!(
        refuse,
        ["vrex", "coral", "mmd", "fishr", "iga", "hgp", "hutchinson"]
    );
}

/// Objectives of the last layer refuse a model whose last layer they cannot see.
#[test]
fn a_model_without_a_linear_head_is_refused_where_it_is_needed() {
    let model = Tiny::of(&reference(), true);
    for name in names() {
        let objective = objectives::<Tiny>().get(name).unwrap();
        let found = objective.check(&model, &plan(3));
        let needs = ["fishr", "hgp", "hutchinson", "udim"].contains(&name);
        assert_eq!(found.is_err(), needs, "{name}");
    }
}

#[test]
fn options_are_named_and_checked() {
    let make = |name: &str, options: &[&str]| {
        objectives::<Tiny>().make(name, &Options::parse(options).unwrap())
    };
    assert!(
        make(
            "hgp",
            &[
                "alpha=3",
                "anneal={\"steps\":5,\"weight\":10,\"divide\":true}"
            ]
        )
        .is_ok()
    );
    assert!(make("udim", &["perturbation=style", "base={\"sagm\":0.001}"]).is_ok());
    let error = make("vrex", &["eta=3"]).err().unwrap().to_string();
    assert!(error.contains("it has: anneal_steps, penalty"), "{error}");
    let error = make("irmm", &[]).err().unwrap().to_string();
    assert!(error.contains("there are: erm, irm, vrex"), "{error}");
    // Out of range is found with the model.
    let model = Tiny::of(&reference(), false);
    for (name, option) in [
        ("irm", "penalty=-1"),
        ("vrex", "penalty=-1"),
        ("group-dro", "eta=-1"),
        ("mixup", "alpha=0"),
        ("coral", "penalty=-1"),
        ("mmd", "kernels=[]"),
        ("fish", "meta_rate=0"),
        ("fishr", "average=1"),
        ("iga", "difference=0"),
        ("sam", "rho=0"),
        ("sagm", "alpha=-1"),
        ("hgp", "beta=-1"),
        ("hutchinson", "probes=0"),
        ("udim", "rho=0"),
        ("gaqat", "window=1"),
        ("gaqat", "threshold=2"),
    ] {
        let objective = make(name, &[option]).unwrap();
        let error = objective.check(&model, &plan(3)).unwrap_err();
        assert!(matches!(error, ObjectiveError::Range(_)), "{name}: {error}");
    }
    // Damaged states.
    for (name, state) in [
        ("group-dro", vec![0; 7]),
        ("fishr", vec![2, 0, 0, 0, 1]),
        ("fishr", Vec::new()),
        ("gaqat", vec![1]),
    ] {
        let error = make(name, &[]).unwrap().restore(&state).unwrap_err();
        assert!(
            matches!(error, ObjectiveError::State { .. }),
            "{name}: {error}"
        );
    }
}
