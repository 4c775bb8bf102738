//! Neural ODEs and SDEs through the program.

use std::fmt::Write;
use std::fs;

use crate::desk::Desk;
use crate::interrupts::interrupted_after;

/// A damped oscillator, `x'' = −x − 0.2 x'`, from several starts at irregular times; every seventh number is missing, but
/// not in first rows.
fn oscillators(count: usize, rows: usize) -> String {
    let mut text = "id,t,x,v\n".to_owned();
    let mut number = 0;
    for id in 0..count {
        let angle = 2.4 * id as f64;
        let [x, v] = [angle.cos(), angle.sin()];
        for row in 0..rows {
            let t = 0.3 * row as f64 + 0.1 * ((row * row) % 3) as f64;
            let turn = 0.99_f64.sqrt();
            let (sine, cosine) = (turn * t).sin_cos();
            let falls = (-0.1 * t).exp();
            let state = [
                falls * (x * cosine + (v + 0.1 * x) / turn * sine),
                falls * (v * cosine - (x + 0.1 * v) / turn * sine),
            ];
            write!(text, "run {id},{t}").unwrap();
            for value in state {
                number += 1;
                match number % 7 {
                    0 if row > 0 => text.push(','),
                    _ => write!(text, ",{value}").unwrap(),
                }
            }
            text.push('\n');
        }
    }
    text
}

#[test]
fn an_equation_is_fitted_and_simulated() {
    let desk = Desk::empty();
    desk.put("data.csv", &oscillators(6, 25));
    let line = "train ode --data data.csv --hidden 16 --learning-rate 0.02";
    let json = desk.json(&format!("{line} --steps 400 --out model"));
    assert_eq!(json["trajectories"], 6);
    assert_eq!(json["rows"], 150);
    assert_eq!(json["gaps"], 41);
    let number = |part: &str, of: &str| json[part][of].as_f64().unwrap();
    for part in ["validation", "to_the_end"] {
        assert!(
            number(part, "model") < 0.3 * number(part, "constant"),
            "{json}"
        );
    }
    for file in [
        "dynamics.json",
        "model.safetensors",
        "recipe.toml",
        "measurements.csv",
        "loss.csv",
        "loss.svg",
    ] {
        assert!(desk.path("model").join(file).exists(), "{file}");
    }
    assert_eq!(desk.get("model/measurements.csv").lines().count(), 21);

    // From a state: the oscillator half a period later.
    let until = std::f64::consts::PI / 0.99_f64.sqrt();
    let line = format!("simulate ode model --from x=0.9,v=0 --until {until} --points 40");
    let json = desk.json(&format!("{line} --out path.csv --plot path.svg"));
    let last = json["trajectories"][0]["last"][0].as_f64().unwrap();
    let expected = -0.9 * (-0.1 * until).exp();
    assert!((last - expected).abs() < 0.1, "{last} {expected}");
    let table = desk.get("path.csv");
    assert_eq!(table.lines().count(), 41);
    assert!(table.starts_with("t,x,v\n"), "{table}");
    assert!(desk.get("path.svg").starts_with("<svg"));
    // What was simulated is a table that can be gone on from.
    let json = desk.json("simulate ode model --from path.csv --times 4,5");
    assert_eq!(json["trajectories"][0]["from"].as_f64().unwrap(), until);
    // From the rows of a table, of which the last is at 7.2 or later.
    let (out, _) = desk.told("simulate ode model --from data.csv --until 9 --out all.csv");
    assert!(out.contains("run 3: from 7.19"), "{out}");
    assert_eq!(desk.get("all.csv").lines().count(), 1 + 6 * 200);
    let json = desk.json("simulate ode model --from data.csv --from-first --times 0.4,0.7,0.9");
    assert!(
        json["trajectories"][2]["error"].as_f64().unwrap() < 0.2,
        "{json}"
    );
    // With another method.
    let euler = desk.json(&format!("{line} --method euler --step 0.001"));
    let other = euler["trajectories"][0]["last"][0].as_f64().unwrap();
    assert!((last - other).abs() < 0.02, "{last} {other}");
    assert!(euler["trajectories"][0]["evaluations"].as_u64().unwrap() > 3000);
}

#[test]
fn an_interrupted_fit_goes_on_to_the_same_files() {
    let desk = Desk::empty();
    desk.put("data.csv", &oscillators(6, 25));
    for kind in ["ode", "sde"] {
        let line = format!("train ode --kind {kind} --data data.csv --hidden 8 --steps 120");
        let (whole, parts) = (format!("{kind}-whole"), format!("{kind}-parts"));
        desk.done(&format!("{line} --out {whole}"));
        let checkpoint = format!("{parts}/checkpoint.safetensors");
        interrupted_after(&desk, &format!("{line} --out {parts}"), &checkpoint);
        assert!(!desk.path(&parts).join("model.safetensors").exists());
        desk.done(&format!("{line} --out {parts}"));
        for file in [
            "model.safetensors",
            "dynamics.json",
            "measurements.csv",
            "loss.csv",
        ] {
            let [a, b] = [&whole, &parts].map(|f| fs::read(desk.path(f).join(file)).unwrap());
            assert!(a == b, "{kind}: {file}");
        }
        // Another fit does not go on there, and the recipe is enough for the same one.
        desk.refused(
            &format!("{line} --seed 3 --out {parts}"),
            "is of another training",
        );
        desk.done(&format!(
            "train ode --recipe {whole}/recipe.toml --out {kind}-again"
        ));
        let again = format!("{kind}-again/model.safetensors");
        let [a, b] =
            [format!("{whole}/model.safetensors"), again].map(|f| fs::read(desk.path(&f)).unwrap());
        assert!(a == b, "{kind}");
    }
    let line = "simulate ode sde-whole --from x=1,v=0 --until 2 --points 4 --paths 50";
    let json = desk.json(&format!("{line} --out paths.csv --plot paths.svg"));
    assert_eq!(json["paths"], 50);
    let table = desk.get("paths.csv");
    assert!(
        table.starts_with("t,x_mean,x_p10,x_p90,v_mean,v_p10,v_p90\n"),
        "{table}"
    );
    let row: Vec<f64> = table
        .lines()
        .nth(4)
        .unwrap()
        .split(',')
        .map(|x| x.parse().unwrap())
        .collect();
    assert!(row[2] < row[1] && row[1] < row[3], "{row:?}");
    desk.json(&format!("{line} --out again.csv"));
    assert_eq!(desk.get("again.csv"), table);
}

#[test]
fn wrong_tables_models_and_flags_get_one_sentence_and_leave_nothing() {
    let desk = Desk::empty();
    desk.put("data.csv", &oscillators(2, 8));
    desk.done("train ode --data data.csv --hidden 4 --steps 2 --out model");
    let train = "train ode --steps 2 --out new";
    desk.refused(train, "--data");
    desk.refused(&format!("{train} --data none.csv"), "cannot read none.csv");
    for (text, told) in [
        ("", "no rows below its header"),
        ("0,1\n1,2\n", "must name the columns"),
        (
            "t,x\n0,1\n1,NaN\n",
            "wrong.csv: line 3, column \"x\": \"NaN\" is not a finite number",
        ),
        ("t,x\n0,1\n1,two\n", "line 3, column \"x\""),
        (
            "t,x\n0,1\n0,2\n",
            "line 3, column \"t\": the time 0 follows 0",
        ),
        ("t,x\n0,1\n1,2,3\n", "line 3 has 3 cells"),
        ("t,x\n0,\n1,\n", "the column \"x\" has no values"),
        ("t,x\n0,1\n", "has 1 row(s), but at least 2"),
        (
            "id,t,x\na,0,1\na,1,2\nb,0,1\n",
            "the trajectory \"b\" has 1 row(s)",
        ),
    ] {
        desk.put("wrong.csv", text);
        desk.refused(&format!("{train} --data wrong.csv"), told);
    }
    let train = format!("{train} --data data.csv");
    for (flags, told) in [
        ("--time s", "no column \"s\""),
        ("--columns x,y", "no column \"y\""),
        (
            "--time t --columns x,t",
            "cannot be both the time and a value",
        ),
        ("--hidden 3,x", "expected whole numbers such as 32,32"),
        ("--hidden 0", "hidden layer is 0"),
        ("--window 1", "rows of a window is 1"),
        ("--method rk4", "no error estimate"),
        ("--method rodas4 --adjoint backsolve", "rodas4"),
        (
            "--adjoint interpolating --regularise ernode",
            "ernode needs",
        ),
        ("--kind sde --regularise local", "without a solver"),
        (
            "--regularise local --heuristic both",
            "of errors or of stiffness",
        ),
        ("--atol 0", "absolute tolerance is 0"),
        ("--validation 1", "held out is 1"),
        ("--optimizer best", "best"),
        ("--learning-rate 0", "learning"),
        ("--steps 3 --epochs 2", "--epochs"),
        ("--regularise all", "none, ernode, local"),
    ] {
        let train = match flags.contains("--epochs") {
            true => train.replace("--steps 2 ", ""),
            false => train.clone(),
        };
        desk.refused(&format!("{train} {flags}"), told);
    }
    desk.put("recipe.toml", "[fit]\nhiden = [3]\n");
    desk.refused(&format!("{train} --recipe recipe.toml"), "is not a recipe");
    // A folder of another model.
    fs::create_dir(desk.path("other")).unwrap();
    desk.put("other/model.safetensors", "");
    desk.refused(
        "train ode --data data.csv --steps 2 --out other",
        "holds a model that is no neural ODE or SDE",
    );

    let simulate = "simulate ode model";
    desk.refused(
        "simulate ode none --from x=1,v=0 --until 1",
        "no model folder none",
    );
    desk.refused(
        "simulate ode other --from x=1,v=0 --until 1",
        "holds no dynamics.json",
    );
    for (flags, told) in [
        ("--from x=1,v=0", "--until"),
        ("--from x=1 --until 1", "no value of \"v\""),
        ("--from x=1,v=0,y=2 --until 1", "no column \"y\", only x, v"),
        ("--from x=1,v=a --until 1", "\"v=a\" is no value"),
        ("--from x=1,v=inf --until 1", "\"v=inf\" is no value"),
        ("--from x=1,x=2 --until 1", "\"x\" is given twice"),
        ("--from x=1,v=0 --until 0", "is not after the start"),
        (
            "--from x=1,v=0 --times 2,1",
            "greater than the one before, 2",
        ),
        ("--from x=1,v=0 --until 1 --times 2", "--times"),
        ("--from x=1,v=0 --until 1 --method rk4", "no error estimate"),
        (
            "--from x=1,v=0 --until 1 --noise-tolerance 0",
            "tolerance of a step with noise is 0",
        ),
        ("--from x=1,v=0 --until 1 --plot a.png", "a.png is no plot"),
        (
            "--from x=1,v=0 --until 1 --plot-columns y --plot a.svg",
            "no column \"y\" to plot",
        ),
        ("--from x=1,v=0 --until 1 --from-first", "is for a table"),
        ("--from none.csv --until 1", "cannot read none.csv"),
        (
            "--from data.csv --until 1",
            "is not after the start of \"run 0\"",
        ),
        ("--from data.csv --until 9 --at 3", "--at is for a state"),
    ] {
        desk.refused(&format!("{simulate} {flags}"), told);
    }
    desk.put("gaps.csv", "t,x,v\n0,1,\n1,2,\n2,3,4\n");
    desk.refused(
        &format!("{simulate} --from gaps.csv --from-first --until 1"),
        "the column \"v\" has no value to begin with",
    );
    let text = desk
        .get("model/dynamics.json")
        .replacen("\"unit\": ", "\"unit\": -", 1);
    desk.put("model/dynamics.json", &text);
    desk.refused(
        &format!("{simulate} --from x=1,v=0 --until 1"),
        "unit of time is not positive",
    );
}
