//! `nabla privacy` from outside.

use serde_json::Value;

use crate::desk::Desk;

/// The name, the noise and ε of every answer.
fn answers(report: &Value) -> Vec<(&str, Option<f64>, Option<f64>)> {
    let answers = report["answers"].as_array().unwrap().iter();
    let of = |answer: &'_ Value| [&answer["noise"], &answer["epsilon"]].map(Value::as_f64);
    answers
        .map(|answer| {
            let [noise, epsilon] = of(answer);
            (answer["accountant"].as_str().unwrap(), noise, epsilon)
        })
        .collect()
}

#[test]
fn every_accountant_says_what_it_thinks() {
    let desk = Desk::empty();
    let line = "privacy --noise 1.1 --rate 0.01 --steps 1000 --delta 1e-5";
    let report = desk.json(line);
    let answers = answers(&report);
    let names: Vec<&str> = answers.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names, ["rdp", "pld", "prv", "gaussian"]);
    let epsilon = |index: usize| answers[index].2.unwrap();
    assert!((epsilon(0) - 1.71177).abs() < 1e-4 && (epsilon(1) - 1.51536).abs() < 1e-4);
    assert!(epsilon(1) < epsilon(2) && epsilon(2) < 1.52);
    assert_eq!(answers[3].2, None);
    assert_eq!(report["answers"][0]["order"], 9.6);

    let text = desk.done(line);
    assert!(
        text.starts_with("noise multiplier 1.1, sampling rate 0.01, 1000 steps, δ = 1e-5\n"),
        "{text}"
    );
    assert!(
        text.contains("1.71177") && text.contains("ask rdp, pld or prv"),
        "{text}"
    );
    // The same, told by its epochs.
    let epochs = "privacy --noise 1.1 --examples 60000 --batch 600 --epochs 10";
    assert_eq!(desk.done(epochs), text);
}

#[test]
fn a_budget_gets_its_noise() {
    let desk = Desk::empty();
    let report = desk.json("privacy --epsilon 2 --rate 0.1 --steps 50");
    let answers = answers(&report);
    let [rdp, pld] = [0, 1].map(|i| answers[i].1.unwrap());
    assert!((rdp - 1.88993).abs() < 1e-4, "{rdp}");
    assert!(
        pld < rdp
            && answers
                .iter()
                .all(|(.., epsilon)| epsilon.is_none_or(|e| e <= 2.0))
    );
    // On all examples, the exact account has the least noise.
    let report = desk.json("privacy --epsilon 4.3771776 --rate 1 --steps 1 --delta 1e-5");
    let exact = self::answers(&report)[3].1.unwrap();
    assert!((exact - 1.0).abs() < 1e-4, "{exact}");
    let text = desk.done("privacy --epsilon 4.3771776 --rate 1 --steps 1");
    assert!(
        text.starts_with("the noise for ε = 4.3771776, sampling rate 1, 1 step,"),
        "{text}"
    );
}

#[test]
fn a_wrong_number_gets_one_sentence() {
    let desk = Desk::empty();
    for (line, told) in [
        (
            "--noise 0 --rate 0.1 --steps 10",
            "the noise multiplier is 0",
        ),
        (
            "--noise 1e38 --rate 0.1 --steps 10",
            "the noise multiplier is 1e38, but it must be from 0.0001 to 1000000000",
        ),
        (
            "--noise 1 --rate 0.1 --steps 1e3",
            "invalid value '1e3' for '--steps <N>': expected a whole number",
        ),
        ("--noise x --rate 0.1 --steps 10", "expected a number"),
        (
            "--noise nan --rate 0.1 --steps 10",
            "the noise multiplier is NaN",
        ),
        (
            "--noise 1 --rate 1.5 --steps 10",
            "the sampling rate is 1.5",
        ),
        (
            "--noise 1 --rate 0.1 --steps 10 --delta 1",
            "the delta is 1",
        ),
        ("--epsilon -1 --rate 0.1 --steps 10", "-1"),
        ("--epsilon 0 --rate 0.1 --steps 10", "the epsilon is 0"),
        (
            "--epsilon 1 --rate 0.1 --steps 0",
            "the number of steps is 0",
        ),
        ("--noise 1 --epsilon 1 --rate 0.1 --steps 10", "--epsilon"),
        ("--rate 0.1 --steps 10", "--noise"),
        ("--noise 1 --rate 0.1", "--steps"),
        ("--noise 1 --steps 5", "--rate"),
        ("--noise 1", "--rate"),
        ("--noise 1 --examples 100 --batch 10", "--epochs"),
        (
            "--noise 1 --examples 10 --batch 100 --epochs 1",
            "a batch has 100 of 10 examples",
        ),
        ("--noise 1 --examples 10 --batch 5 --epochs -1", "-1"),
        (
            "--noise 1 --examples 10 --batch 5 --epochs 0",
            "the number of epochs is 0",
        ),
        (
            "--noise 1 --examples 10 --batch 5 --epochs 1 --rate 0.1 --steps 1",
            "--rate",
        ),
    ] {
        desk.refused(&format!("privacy {line}"), told);
    }
    let huge = "9".repeat(300);
    let line = format!("privacy --noise 1 --rate 0.1 --steps {huge}");
    desk.refused(&line, "1e300' for '--steps <N>': the number is too large");
    let line = format!("privacy --noise {huge} --rate 0.1 --steps 10");
    desk.refused(&line, "the noise multiplier is 1e300, but");
}
