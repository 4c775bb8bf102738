//! Private trainings and their audit from outside.

use serde_json::Value;

use crate::desk::Desk;

#[test]
fn a_private_training_says_what_it_reveals_and_goes_on_from_its_folder() {
    let desk = Desk::empty();
    let line =
        "train model --private --epsilon 3 --delta 1e-5 --epochs 2 --noise-seed 1 --out digits";
    let (out, _) = desk.told(line);
    assert!(
        out.contains("private: ε = 3.0000 at δ = 1.000e-5, by the accountant pld")
            || out.contains("private: ε = 2.999"),
        "{out}"
    );
    assert!(
        out.contains("after 46 of 46 steps") && out.contains("not covered"),
        "{out}"
    );
    assert!(out.contains("note: the noise follows from a seed"), "{out}");
    let report: Value = serde_json::from_str(&desk.get("digits/privacy.json")).unwrap();
    let epsilon = report["epsilon"].as_f64().unwrap();
    assert!(epsilon <= 3.0 && epsilon > 2.99);
    assert_eq!(report["history"][0]["steps"], 46);
    // What it wrote is an experiment for it, which is done: nothing more is spent.
    let again = desk.json("train model --config digits/experiment.toml --out digits");
    assert_eq!(again["privacy"]["epsilon"], report["epsilon"]);
    assert_eq!(again["steps"], 46);
    // What the job counted is what `nabla privacy` counts.
    let noise = report["history"][0]["noise_multiplier"].as_f64().unwrap();
    let rate = report["history"][0]["sampling_rate"].as_f64().unwrap();
    let asked = format!("privacy --noise {noise} --rate {rate} --steps 46 --delta 1e-5");
    let answers = desk.json(&asked)["answers"].clone();
    assert_eq!(answers[1]["accountant"], "pld");
    assert!((answers[1]["epsilon"].as_f64().unwrap() - epsilon).abs() < 1e-9);
}

#[test]
fn wrong_private_trainings_are_refused() {
    let desk = Desk::empty();
    for (line, told) in [
        ("train model --epsilon 3", "add --private"),
        ("train model --private", "none is given"),
        ("train model --private --epsilon 0", "epsilon is 0"),
        ("train model --private --epsilon 3 --delta 2", "delta is 2"),
        ("train model --private --epsilon 3 --clip 0", "clipped is 0"),
        (
            "train model --private --epsilon 3 --clip 1e30",
            "clipped is 1e30, but it must be positive and at most 1e9",
        ),
        (
            "train model --private --noise-multiplier 1e38",
            "the noise multiplier is 1e38",
        ),
        (
            "train model --private --epsilon 3 --model cnn",
            "`stages.0.norm` (BatchNorm) normalises by the batch",
        ),
        ("train model --normalization group", "the model is mlp"),
        (
            "train model --private --epsilon 3 --private-method diff2",
            "the batch must be 1438",
        ),
        (
            "train model --private --noise-multiplier 1 --private-method dice-sgd",
            "give a budget",
        ),
        (
            "audit privacy --epsilon 3 --confidence 1",
            "confidence is 1",
        ),
        (
            "audit privacy --epsilon 3 --canaries 1",
            "number of canaries is 1",
        ),
        ("audit privacy --epsilon 3 --private-method diff2", "diff2"),
    ] {
        desk.refused(line, told);
    }
}

#[test]
fn an_audit_stands_beside_the_account() {
    let desk = Desk::empty();
    let line = "audit privacy --epsilon 8 --delta 1e-5 --epochs 2 --batch 360 --canaries 500 --noise-seed 3";
    let audit = desk.json(line);
    let [lower, upper] = [
        &audit["report"]["audit"]["epsilon"],
        &audit["report"]["epsilon"],
    ]
    .map(|e| e.as_f64().unwrap());
    assert!(lower <= upper && upper <= 8.0);
    assert_eq!(audit["refuted"], false);
    let text = desk.done(line);
    assert!(
        text.contains("and at most 8.000 by the account") || text.contains("at most 7.99"),
        "{text}"
    );
}

#[test]
fn the_methods_have_their_options_in_a_file() {
    let desk = Desk::empty();
    desk.put(
        "dice.toml",
        "[training]\nepochs = 1\n[privacy]\nepsilon = 3.0\naccountant = \"rdp\"\n\
         method = { name = \"dice-sgd\", error_clip = 1.0, accounting = \"paper\" }\n",
    );
    let told = desk.done("train model --config dice.toml");
    assert!(told.contains("note: the account is the paper's"), "{told}");
    desk.put(
        "diff2.toml",
        "[training]\nepochs = 3\nbatch = 1438\n[privacy]\nepsilon = 3.0\n\
         method = { name = \"diff2\", difference_clip = 2.0, restart = 2, clients = 4, trust = \"local-noise\", \
         routine = { name = \"local-steps\", steps = 2, batch = 50, clip = 5.0, share = 0.3 } }\n",
    );
    let trained = desk.json("train model --config diff2.toml --optimizer sgd");
    assert_eq!(trained["steps"], 3);
    assert_eq!(trained["privacy"]["history"].as_array().unwrap().len(), 3);
}

#[test]
fn a_method_named_again_keeps_its_options_and_unknown_ones_are_refused() {
    let desk = Desk::empty();
    desk.put(
        "own.toml",
        "[privacy]\nepsilon = 3.0\nmethod = { name = \"dice-sgd\", error_clip = 0.25 }\n",
    );
    let line = "train model --config own.toml --print-config --private-method";
    assert!(
        desk.done(&format!("{line} dice-sgd"))
            .contains("error_clip = 0.25")
    );
    assert!(!desk.done(&format!("{line} dp-sgd")).contains("error_clip"));
    for (file, told) in [
        (
            "[privacy]\nepsilon = 3.0\nmethod = { name = \"dp-sgd\", clients = 3 }",
            "clients",
        ),
        (
            "[sharing]\ncompression = { name = \"natural\", share = 0.1 }",
            "natural has no option `share`",
        ),
    ] {
        desk.put("wrong.toml", file);
        desk.refused("train model --config wrong.toml", told);
    }
}
