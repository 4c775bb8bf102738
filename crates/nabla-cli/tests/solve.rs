//! `nabla solve` from outside, on real data, against the optima of scikit-learn and CVXPY that
//! `nabla-solve` keeps.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::desk::Desk;
use serde_json::Value;

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../nabla-solve/tests/reference")
}

/// What other programs found.
fn optima(file: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(reference().join(file)).unwrap()).unwrap()
}

/// A folder with the reference data.
fn desk() -> Desk {
    let desk = Desk::empty();
    for name in ["breast_cancer", "diabetes", "digits"] {
        let file = format!("{name}.libsvm");
        fs::copy(reference().join(&file), desk.path(name)).unwrap();
    }
    desk
}

fn model(desk: &Desk, name: &str) -> Value {
    serde_json::from_str(&desk.get(name)).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|v| v.as_f64().unwrap()).collect()
}

fn near(found: f64, expected: f64, tolerance: f64) {
    assert!(
        (found - expected).abs() <= tolerance * expected.abs().max(1.0),
        "{found} is not {expected}"
    );
}

/// The objective of scikit-learn and others, their weights, and a gap that holds what it promises.
#[test]
fn block_descent_finds_the_optima_of_others() {
    let desk = desk();
    let optima = optima("block_coordinate_descent.json");
    let problems = [
        ("ridge", "diabetes --l2 0.1"),
        ("lasso", "diabetes --l1 100"),
        ("positive_lasso", "diabetes --l1 100 --non-negative"),
        ("non_negative", "diabetes --non-negative"),
        ("box", "diabetes --bounds=-200,300"),
        ("logistic", "breast_cancer --loss logistic"),
        ("l1_logistic", "breast_cancer --loss logistic --l1 5"),
        ("softmax", "digits --loss softmax --features 64"),
    ];
    for (name, line) in problems {
        let line = format!("solve bcd {line} -o model.json --tolerance 1e-9");
        let found = desk.json(&line);
        let expected = &optima[name];
        let objective = expected["objective"].as_f64().unwrap();
        assert_eq!(found["converged"], true, "{name}");
        near(found["objective"].as_f64().unwrap(), objective, 1e-9);
        let gap = &found["certificate"]["duality_gap"];
        if let Some(gap) = gap.as_f64() {
            let above = found["objective"].as_f64().unwrap() - objective;
            assert!(above <= gap + 1e-9 * objective, "{name}: {above} {gap}");
            assert!(gap <= 1e-6 * objective, "{name}: {gap}");
        } else {
            assert_eq!(name, "non_negative");
        }
        let model = model(&desk, "model.json");
        assert_eq!(model["result"], found, "{name}");
        let weights: Vec<Vec<f64>> = model["predictor"]["linear"]
            .as_array()
            .unwrap()
            .iter()
            .map(numbers)
            .collect();
        // The reference has the outputs of a feature side by side.
        let outputs = weights.len();
        let x = numbers(&expected["x"]);
        let size = x.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
        for (i, x) in x.iter().enumerate() {
            near(weights[i % outputs][i / outputs] / size, x / size, 1e-5);
        }
    }
}

/// Whatever the blocks, the rule and the update: the same minimum.
#[test]
fn every_way_leads_to_the_same_minimum() {
    let desk = desk();
    let optima = optima("block_coordinate_descent.json");
    let objective = optima["logistic"]["objective"].as_f64().unwrap();
    for flags in [
        "--rule cyclic --blocks fixed --block-size 6",
        "--rule random --block-size 10",
        "--rule gsl --partition average --block-size 6",
        "--rule gsq --blocks fixed --block-size 5 --update matrix",
        "--rule mi --block-size 10",
        "--rule gs --update backtracking",
        "--rule omp",
    ] {
        let line = format!("solve bcd breast_cancer --loss logistic --tolerance 1e-5 {flags}");
        let found = desk.json(&line);
        assert_eq!(found["converged"], true, "{flags}");
        near(found["objective"].as_f64().unwrap(), objective, 1e-5);
    }
    let objective = optima["group_lasso"]["objective"].as_f64().unwrap();
    let line = "solve bcd diabetes --group-l1 150 --tolerance 1e-9 --group-sizes";
    let unequal = desk.json(&format!("{line} 2,2,4,2"));
    assert_eq!(unequal["converged"], true);
    near(unequal["objective"].as_f64().unwrap(), objective, 1e-6);
    desk.refused(
        &format!("{line} 2,2,4"),
        "have 8 weights in total, but the model has 10",
    );
    // The reference's groups are of 2, 2, 4 and 2: only a bound for those of 2.
    let pairs = desk.json("solve bcd diabetes --group-l1 150 --group-size 2 --tolerance 1e-9");
    assert_eq!(pairs["converged"], true);
    assert!(pairs["objective"].as_f64().unwrap() > objective);
    assert!(pairs["certificate"]["duality_gap"].as_f64().unwrap() < 1.0);
}

/// The lines of a LIBSVM file with indices from 0, as scikit-learn's dump_svmlight_file writes them.
fn from_zero(text: &str) -> String {
    let word = |word: &str| match word.split_once(':') {
        Some((index, value)) => format!("{}:{value}", index.parse::<usize>().unwrap() - 1),
        None => word.to_owned(),
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ") + "\n";
    text.lines().map(line).collect()
}

#[test]
fn files_that_count_from_zero_give_the_same_model() {
    let desk = desk();
    desk.put("zero", &from_zero(&desk.get("breast_cancer")));
    for way in [
        "bcd --loss logistic",
        "separate --max-iterations 10",
        "relu --loss hinge --patterns 3",
    ] {
        let (method, flags) = way.split_once(' ').unwrap();
        let solve = |data: &str| {
            let told = desk.json(&format!("solve {method} {data} {flags} -o {data}.json"));
            (told, model(&desk, &format!("{data}.json")))
        };
        let ((one_told, one), (zero_told, zero)) = (solve("breast_cancer"), solve("zero"));
        assert_eq!(
            (&one_told["index_base"], &zero_told["index_base"]),
            (&"one".into(), &"zero".into())
        );
        assert_eq!(
            (&one["index_base"], &zero["index_base"]),
            (&"one".into(), &"zero".into())
        );
        assert_eq!(one["predictor"], zero["predictor"], "{way}");
        assert_eq!(
            (&one["features"], &zero["features"]),
            (&30.into(), &30.into())
        );
    }
    let line = "solve bcd zero --loss logistic -o zero.json";
    assert!(
        desk.done(line)
            .contains("\nfeature indices start at 0, as the file shows\n")
    );
    let line = "solve bcd breast_cancer --loss logistic -o one.json";
    assert!(
        desk.done(line)
            .contains("\nfeature indices start at 1, since no index is 0")
    );

    // A later file without an index 0 is read as that of the model.
    let later = |text: &str| {
        let lines = text.lines().take(40);
        let without: Vec<String> = lines
            .map(|line| {
                let mut words: Vec<&str> = line.split(' ').collect();
                words.remove(1);
                words.join(" ") + "\n"
            })
            .collect();
        without.concat()
    };
    desk.put("later_one", &later(&desk.get("breast_cancer")));
    desk.put("later_zero", &later(&desk.get("zero")));
    let one = desk.json("solve predict one.json later_one");
    let zero = desk.json("solve predict zero.json later_zero");
    assert_eq!(one["scores"], zero["scores"]);
    assert_eq!(
        (&one["index_base"], &zero["index_base"]),
        (&"one".into(), &"zero".into())
    );
    assert!(
        desk.done("solve predict zero.json later_zero")
            .contains("feature indices start at 0, as in the model's file\n")
    );
    // A file of another origin, where it is said.
    let other = desk.json("solve predict zero.json later_one --index-base one");
    assert_eq!(other["scores"], one["scores"]);
    let other = desk.json("solve predict one.json zero --index-base zero");
    let own = desk.json("solve predict zero.json zero");
    assert_eq!(other["scores"], own["scores"]);
    desk.refused(
        "solve predict one.json zero",
        "start at 0, but those of the model's file at 1",
    );
    desk.refused(
        "solve predict zero.json breast_cancer",
        "breast_cancer has a feature 30, but the model has 30",
    );

    // Test and training files are read alike, and by what both show.
    desk.put("alike", &later(&desk.get("zero")));
    let both = desk.json("solve bcd alike --loss logistic --features 30 --test zero");
    assert_eq!(both["index_base"], "zero");
    let said =
        desk.json("solve bcd alike --loss logistic --features 30 --test alike --index-base zero");
    assert_eq!(
        (&said["objective"], &said["index_base"]),
        (&both["objective"], &"zero".into())
    );
    desk.refused(
        "solve bcd zero --index-base one",
        "zero: line 1 has an index 0",
    );
    desk.refused("solve bcd zero --features 29", "have 30 features, but 29");

    // Models of before counted from 1.
    let mut old = model(&desk, "one.json");
    old.as_object_mut().unwrap().remove("index_base").unwrap();
    desk.put("old.json", &old.to_string());
    assert_eq!(
        desk.json("solve predict old.json later_one")["scores"],
        one["scores"]
    );

    desk.put("twice", "1 1:2\n-1 2:1 2:3\n");
    desk.refused(
        "solve bcd twice",
        "line 2 is not a LIBSVM example, at column 8: the index 2 occurs twice",
    );
}

/// A limit of the steps is a result, and the gap says how good it is.
#[test]
fn a_solver_that_is_stopped_tells_how_far_it_is() {
    let desk = desk();
    let optima = optima("block_coordinate_descent.json");
    let objective = optima["logistic"]["objective"].as_f64().unwrap();
    let line = "solve bcd breast_cancer --loss logistic --max-iterations 20";
    assert!(desk.done(line).contains("NOT reached"));
    let found = desk.json(line);
    assert_eq!(
        (&found["converged"], &found["iterations"]),
        (&false.into(), &20.into())
    );
    let above = found["objective"].as_f64().unwrap() - objective;
    let gap = found["certificate"]["duality_gap"].as_f64().unwrap();
    assert!(0.0 < above && above <= gap, "{above} {gap}");
}

#[test]
fn steps_are_written_and_plotted() {
    let desk = desk();
    let told = desk.done(
        "solve bcd breast_cancer --loss logistic -o m.json --trace steps.csv --plot steps.svg",
    );
    assert!(told.ends_with("model in m.json, steps in steps.csv, plot in steps.svg\n"));
    let csv = desk.get("steps.csv");
    let mut lines = csv.lines();
    assert_eq!(
        lines.next(),
        Some("problem,step,epochs,objective,relative_residual,free")
    );
    let rows: Vec<Vec<&str>> = lines.map(|l| l.split(',').collect()).collect();
    let objective = |row: &[&str]| row[3].parse::<f64>().unwrap();
    // At 0 every example costs log 2, and no step makes it worse.
    near(objective(&rows[0]), 569.0 * 2f64.ln(), 1e-12);
    assert!(
        rows.windows(2)
            .all(|pair| objective(&pair[1]) <= objective(&pair[0]) + 1e-9)
    );
    let result = &model(&desk, "m.json")["result"];
    near(
        objective(rows.last().unwrap()),
        result["objective"].as_f64().unwrap(),
        1e-9,
    );
    assert!(
        desk.get("steps.svg")
            .contains("objective less its lower bound")
    );
}

/// The first 400 examples to learn from and the others to test on, by two ways.
#[test]
fn a_model_predicts_what_it_was_measured_with() {
    let desk = desk();
    let text = desk.get("breast_cancer");
    let lines: Vec<&str> = text.lines().collect();
    desk.put("train", &(lines[..400].join("\n") + "\n"));
    desk.put("held", &(lines[400..].join("\n") + "\n"));
    for solver in [
        "bcd train --loss logistic --bias",
        "bcd train --loss softmax",
        "separate train --bias --max-iterations 200",
        "relu train --units 100 --tolerance 1e-3",
    ] {
        let found = desk.json(&format!("solve {solver} --test held -o model.json"));
        let accuracy = found["test"]["accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.9, "{solver}: {accuracy}");
        let predicted = desk.json("solve predict model.json held -o labels.csv");
        assert_eq!(predicted["measured"], found["test"], "{solver}");
        let known = desk.json("solve predict model.json train");
        assert_eq!(known["measured"], found["training"], "{solver}");
        let csv = desk.get("labels.csv");
        let labels: Vec<&str> = csv
            .lines()
            .skip(1)
            .map(|l| l.split(',').next().unwrap())
            .collect();
        let right = labels
            .iter()
            .zip(&lines[400..])
            .filter(|(label, line)| line.split(' ').next() == Some(label))
            .count();
        near(right as f64 / 169.0, accuracy, 1e-12);
    }
}

#[test]
fn one_label_against_the_others() {
    let desk = desk();
    let found = desk.json("solve bcd digits --loss logistic --positive 3 -o model.json");
    assert!(found["training"]["accuracy"].as_f64().unwrap() > 0.97);
    let predicted = desk.json("solve predict model.json digits");
    assert_eq!(predicted["measured"], found["training"]);
    let text = desk.get("digits");
    let threes = text.lines().filter(|l| l.starts_with("3 ")).count();
    let found = numbers(&predicted["labels"]);
    let ones = found.iter().filter(|&&y| y == 1.0).count();
    assert!(ones.abs_diff(threes) <= 5, "{ones} {threes}");
}

/// Two examples on either side of a plane at a distance that can be seen.
#[test]
fn a_hyperplane_within_the_steps_of_the_theorem() {
    let desk = desk();
    // The margin is 1, of the hyperplane whose normal is the first axis.
    desk.put("two", "1 1:1 2:3\n1 1:1 2:-3\n-1 1:-1 2:2\n-1 1:-2 2:-3\n");
    for rule in [
        "normalized-lr --step-size 0.1",
        "normalized-lr --step-size 100",
        "batch-perceptron",
        "normalized-batch-perceptron",
        "perceptron",
    ] {
        let found = desk.json(&format!(
            "solve separate two --rule {rule} --margin-tolerance 1e-6"
        ));
        let certificate = &found["certificate"];
        let value = |name: &str| certificate[name].as_f64().unwrap();
        assert_eq!(found["separated"], true, "{rule}");
        near(value("largest_margin"), 1.0, 1e-5);
        near(value("radius"), 13f64.sqrt(), 1e-12);
        assert!(0.0 < value("margin") && value("margin") <= 1.0 + 1e-9);
        let steps = found["iterations"].as_f64().unwrap();
        assert!(steps <= value("iteration_bound"), "{rule}");
    }
    let found = desk.json("solve separate breast_cancer --bias --max-iterations 30");
    assert_eq!(found["separated"], false);
    assert!(found["certificate"]["margin_at_most"].as_f64().unwrap() > 0.0);
    let told = desk.done("solve separate breast_cancer --bias --max-iterations 30");
    assert!(told.contains("NOT separated within 30 steps"), "{told}");
}

/// CVXPY solved the program of 14 patterns: they are among all patterns, so that no lower bound for
/// those is above that optimum.
#[test]
fn the_bound_of_all_patterns_holds_for_every_network() {
    let desk = desk();
    let reference = optima("convex_relu.json");
    let examples = reference["x"].as_array().unwrap().iter().map(numbers);
    let lines: Vec<String> = examples
        .zip(numbers(&reference["y"]))
        .map(|(x, y)| format!("{y} 1:{} 2:{}\n", x[0], x[1]))
        .collect();
    desk.put("all", &lines.concat());
    desk.put("ten", &lines[..10].concat());
    let value = |found: &Value, name: &str| found["certificate"][name].as_f64().unwrap();

    let line = "solve relu all --loss squared --beta 0.05 --all-patterns --max-iterations 1000";
    let all = desk.json(line);
    // Cover's count of the cells of n hyperplanes through the origin, in 3 dimensions.
    assert_eq!(all["patterns"], 2 * (1 + 23 + 23 * 22 / 2));
    let some = reference["optima"]["squared"]["relu"].as_f64().unwrap();
    assert!(0.0 < value(&all, "lower_bound") && value(&all, "lower_bound") < some);

    for loss in ["squared", "hinge", "cross-entropy"] {
        let line = format!("solve relu ten --loss {loss} --beta 0.05");
        let best = desk.json(&format!("{line} --all-patterns --max-iterations 4000"));
        assert_eq!(best["patterns"], 2 * (1 + 9 + 9 * 8 / 2));
        assert_eq!(best["certificate"]["bounds_every_network"], true);
        assert!(value(&best, "relative_gap") < 0.01, "{best}");
        let objective = value(&best, "objective");
        near(value(&best, "network_objective"), objective, 1e-3);
        let bound = value(&best, "lower_bound");
        for other in ["--patterns 5 --method interior-point", "--units 200"] {
            let found = desk.json(&format!("{line} {other}"));
            let found = value(&found, "network_objective");
            assert!(found >= bound - 1e-9, "{other}: {found} {bound}");
        }
    }
}

/// The worst loss of the program bounds what an attack finds.
#[test]
fn a_robust_network_withstands_attacks() {
    let desk = desk();
    desk.put("xor", "1 1:1 2:1\n1 1:-1 2:-1\n-1 1:1 2:-1\n-1 1:-1 2:1\n");
    let found = desk.json(
        "solve relu xor --loss hinge --beta 0.01 --robust 0.3 --patterns 40 --test xor -o m.json",
    );
    for part in ["attacked_training", "attacked_test"] {
        assert_eq!(found["robust"][part]["accuracy"], 1.0, "{part}");
    }
    assert_eq!(
        desk.json("solve predict m.json xor")["measured"]["wrong"],
        0
    );
}

#[test]
fn labels_spread_over_near_examples() {
    let desk = desk();
    let line = "solve bcd digits --loss label-propagation";
    let found = desk.json(&format!(
        "{line} --known 60 -o labels.json --trace steps.csv"
    ));
    assert_eq!(found["converged"], true);
    assert_eq!(found["unknowns"], 140);
    // Guessing would be right in a tenth.
    assert!(
        found["test"]["accuracy"].as_f64().unwrap() > 0.85,
        "{found}"
    );
    let labels = numbers(&model(&desk, "labels.json")["predictor"]["labels"]);
    assert_eq!(labels.len(), 200);
    desk.refused(
        "solve predict labels.json digits",
        "only the examples of its own file",
    );
    // Two moons' worth: a chain of points with its ends known.
    desk.put(
        "chain",
        "1 1:0\n0 1:1\n0 1:2.1\n0 1:3.3\n0 1:4.4\n-1 1:5.4\n",
    );
    let line = "solve bcd chain --loss label-propagation --neighbours 1";
    desk.refused(&format!("{line} --known 1"), "at least 3");
    let found = desk
        .json("solve bcd chain --loss label-propagation --neighbours 2 --unknown 0 -o chain.json");
    assert_eq!(found["unknowns"], 4);
    let labels = numbers(&model(&desk, "chain.json")["predictor"]["labels"]);
    assert_eq!(labels, [1.0, 1.0, 1.0, -1.0, -1.0, -1.0]);
}

#[test]
fn the_standard_input_is_read_and_the_seed_decides() {
    let desk = desk();
    let from_input = |line: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nabla"))
            .args(line.split_whitespace())
            .current_dir(desk.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let text = desk.get("diabetes");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(child.wait_with_output().unwrap().status.success(), "{line}");
    };
    let line = "--rule random --max-iterations 7 --json";
    from_input(&format!("solve bcd - {line} -o a.json"));
    desk.done(&format!("solve bcd diabetes {line} -o b.json"));
    desk.done(&format!("solve bcd diabetes {line} -o c.json --seed 1"));
    let weights = |name: &str| model(&desk, name)["predictor"].clone();
    assert_eq!(weights("a.json"), weights("b.json"));
    assert_ne!(weights("a.json"), weights("c.json"));
}

#[test]
fn bad_input_gets_one_sentence() {
    let desk = desk();
    desk.put("empty", "# nothing\n");
    desk.put("nan", "1 1:nan\n-1 1:2\n");
    desk.put("torn", "1 1:2\n-1 1:2 3\n");
    desk.put("wide", "1 1:2 9:1\n-1 1:1\n");
    desk.put("bare", "1\n-1\n");
    desk.put("huge", "1 4000000000:1\n-1 1:1\n");
    desk.put("one", "1 1:1\n1 1:2\n");
    desk.refused("solve bcd nothing", "cannot read nothing");
    desk.refused("solve bcd empty", "no LIBSVM examples");
    desk.refused("solve bcd nan", "line 1 is not a LIBSVM example");
    desk.refused("solve separate torn", "line 2 is not a LIBSVM example");
    desk.refused("solve bcd bare", "have no features");
    desk.refused("solve bcd huge", "4000000001 weights");
    desk.refused("solve relu huge", "weights");
    desk.refused(
        "solve bcd one --loss softmax",
        "at least 2 classes, but there are 1",
    );
    desk.refused("solve bcd wide --features 3", "9 features");
    for solver in [
        "bcd diabetes --loss logistic",
        "separate diabetes",
        "relu diabetes",
    ] {
        desk.refused(
            &format!("solve {solver} -o model.json"),
            "example 1 has the label 151, but it must be -1 or 1",
        );
    }
    desk.refused(
        "solve separate digits --positive 12",
        "no example has the label 12",
    );
    desk.refused("solve bcd diabetes --l2 -1", "l2 weight is -1");
    desk.refused("solve bcd diabetes --l1 nan", "penalty weight is NaN");
    desk.refused("solve bcd diabetes --tolerance -1", "tolerance is -1");
    desk.refused("solve bcd diabetes --block-size 11", "1 to 10");
    desk.refused("solve bcd diabetes --bounds=2,1", "the lower must be less");
    desk.refused("solve bcd diabetes --bounds=2", "it must have 2");
    desk.refused("solve bcd diabetes --rule best", "'best'");
    desk.refused("solve bcd diabetes --update two-metric", "two-metric");
    desk.refused("solve bcd diabetes --known 5", "--known is for");
    desk.refused(
        "solve bcd digits --loss label-propagation",
        "--unknown LABEL",
    );
    desk.refused(
        "solve separate breast_cancer --step-size 0",
        "step size is 0",
    );
    desk.refused("solve relu breast_cancer --beta 0", "regularizer is 0");
    desk.refused(
        "solve relu breast_cancer --units 3 --robust 0.1",
        "--units is for",
    );
    desk.refused("solve relu breast_cancer --all-patterns", "sample patterns");
    desk.refused("solve bcd diabetes -o diabetes", "named twice");
    desk.refused("solve bcd diabetes -o no/model.json", "does not exist");
    desk.refused("solve predict diabetes diabetes", "is not a model");

    desk.done("solve bcd diabetes -o model.json");
    desk.refused(
        "solve predict model.json digits",
        "but the model has 10 features",
    );
    desk.refused(
        "solve bcd diabetes --test digits",
        "but the model has 10 features",
    );
    let mut model = model(&desk, "model.json");
    model["features"] = 11.into();
    desk.put("torn.json", &model.to_string());
    desk.refused("solve predict torn.json diabetes", "1 times 11 numbers");
}
