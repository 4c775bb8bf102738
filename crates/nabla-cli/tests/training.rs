//! `nabla train model` and `nabla compare` from outside.

use std::fs;

use crate::desk::{Desk, files};
use serde_json::Value;

/// A table that a line separates, and its experiment.
fn put_table(desk: &Desk) {
    let row = |i: usize| {
        let [x, y] = [i % 8, i / 8];
        let class = if x + 2 * y > 11 { "high" } else { "low" };
        format!("{x},{y},{class}\n")
    };
    let rows: String = (0..64).map(row).collect();
    fs::write(desk.path("table.csv"), format!("x,y,class\n{rows}")).unwrap();
    let experiment = "data = { source = \"table.csv\", test_share = 0.25 }\n\
        model = { name = \"mlp\", hidden = [8] }\n\
        [training]\nepochs = 3\nbatch = 8\nschedule = { decay = { name = \"constant\" } }\n\
        [training.optimizer]\nlearning_rate = 0.02\nmethod = { name = \"adabelief\", rectify = false }\n";
    fs::write(desk.path("table.toml"), experiment).unwrap();
}

#[test]
fn a_training_leaves_its_weights_logs_and_plots() {
    let desk = Desk::empty();
    let line = "train model --epochs 2 --optimizer adamp --learning-rate 2e-3 --out digits";
    let (out, err) = desk.told(line);
    assert!(
        out.contains("mlp with 17226 parameters on digits, adamp at learning rate 0.002"),
        "{out}"
    );
    // No terminal: a line per epoch.
    assert_eq!(err.lines().count(), 2, "{err}");
    assert!(
        err.contains("epoch 1/2: training loss") && err.contains(" left"),
        "{err}"
    );
    for name in [
        "accuracy.svg",
        "checkpoint.safetensors",
        "epochs.csv",
        "experiment.toml",
        "history.json",
        "loss.svg",
        "model.safetensors",
        "steps.csv",
    ] {
        assert!(desk.path("digits").join(name).is_file(), "{name}");
    }
    let steps = fs::read_to_string(desk.path("digits/steps.csv")).unwrap();
    assert_eq!(steps.lines().count(), 1 + 2 * 23);
    let history = fs::read(desk.path("digits/history.json")).unwrap();
    let history: Value = serde_json::from_slice(&history).unwrap();
    assert_eq!(history["epochs"].as_array().unwrap().len(), 2);
    // What it wrote is an experiment for it, which is done.
    let config = "train model --config digits/experiment.toml --out digits";
    let again = desk.json(config);
    assert_eq!(again["steps"], 46);
    assert_eq!(again["epochs"], history["epochs"]);
    assert_eq!(again["optimizer"], "adamp");
}

#[test]
fn a_training_that_is_resumed_gives_the_same_files() {
    let desk = Desk::empty();
    put_table(&desk);
    desk.done("train model --config table.toml --epochs 5 --out whole");
    desk.done("train model --config table.toml --epochs 2 --out parts");
    let (_, err) = desk.told("train model --config table.toml --epochs 5 --out parts");
    assert_eq!(
        err.lines().count(),
        3,
        "only the epochs that were left: {err}"
    );
    for name in [
        "model.safetensors",
        "epochs.csv",
        "steps.csv",
        "loss.svg",
        "experiment.toml",
    ] {
        let [a, b] = ["whole", "parts"].map(|f| fs::read(desk.path(f).join(name)).unwrap());
        assert!(a == b, "{name}");
    }
    desk.refused(
        "train model --config table.toml --seed 9 --out parts",
        "is of another training: seed was 0 there, but 9 is asked for",
    );
    let path = desk.path("parts/checkpoint.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
    let line = "train model --config table.toml --epochs 5 --out parts";
    desk.refused(line, "cannot be resumed");
}

#[test]
fn a_comparison_leaves_a_table_and_plots_and_goes_on() {
    let desk = Desk::empty();
    put_table(&desk);
    let line = "compare --data table.csv --epochs 2 --batch 8 --optimizers momentum,diffgrad,lion \
                --trials 2 --seeds 4,5 --out all";
    let (out, err) = desk.told(line);
    let lines: Vec<&str> = out.lines().collect();
    assert!(
        lines[0].contains("test accuracy, %") && lines[0].contains("state, KiB"),
        "{out}"
    );
    assert!(lines[2].starts_with("diffgrad"), "{out}");
    // A line for the beginning, and one for each of the 3 · (2 + 2) runs.
    assert_eq!(err.lines().count(), 13, "{err}");
    for name in [
        "comparison.csv",
        "comparison.json",
        "comparison.svg",
        "comparison.toml",
        "curves.svg",
        "runs.json",
    ] {
        assert!(desk.path("all").join(name).is_file(), "{name}");
    }
    let before = files(&desk.path("all"));
    // Everything is known: the same files again.
    let json = desk.json(line);
    assert_eq!(files(&desk.path("all")), before);
    let standings = json["standings"].as_array().unwrap();
    assert_eq!(standings.len(), 3);
    assert_eq!(standings[1]["method"], "diffgrad");
    assert_eq!(standings[1]["accuracies"].as_array().unwrap().len(), 2);

    // Half of the runs taken away are done again, with the same outcome but for the time.
    let path = desk.path("all/runs.json");
    let mut runs: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    runs["runs"].as_array_mut().unwrap().truncate(6);
    fs::write(&path, serde_json::to_vec(&runs).unwrap()).unwrap();
    let again = desk.json(line);
    for (a, b) in again["standings"].as_array().unwrap().iter().zip(standings) {
        assert_eq!(
            (&a["curve"], &a["accuracies"]),
            (&b["curve"], &b["accuracies"])
        );
    }
    desk.refused(
        "compare --data table.csv --epochs 2 --batch 8 --optimizers momentum,diffgrad,lion --trials 3 --seeds 4,5 \
         --out all",
        "all/runs.json holds the runs of another comparison (trials was 2 there, but 3 is asked for): choose another",
    );
    // Another table of the same name.
    let table = desk.get("table.csv").replace("0,0,low", "0,0,high");
    desk.put("table.csv", &table);
    desk.refused(line, "holds the runs of other examples");
}

/// A table of pandas that is sorted by class, and whose only column says nothing about it.
#[test]
fn row_numbers_are_no_feature_unless_they_are_asked_for() {
    let desk = Desk::empty();
    let rows: String = (0..80)
        .map(|i| format!("{i},{},{}\n", i % 2, i / 40))
        .collect();
    desk.put("pandas.csv", &format!(",x,y\n{rows}"));
    let line =
        "train model --data pandas.csv --model logistic --batch 8 --epochs 20 --learning-rate 0.1";
    let told = desk.done(line);
    assert!(
        told.contains("left out the first column, which has no name: only row numbers"),
        "{told}"
    );
    let accuracy = |flags: &str| {
        let told = desk.json(&format!("{line} {flags}"));
        let epochs = told["epochs"].as_array().unwrap();
        let last = epochs.last().unwrap()["test_accuracy"].as_f64().unwrap();
        (last, told["reading"]["row_names"].clone())
    };
    let (blind, row_names) = accuracy("");
    assert_eq!(row_names, serde_json::json!([""]));
    assert!(blind < 0.8, "{blind}");
    let (seen, row_names) = accuracy("--keep-index");
    assert_eq!(row_names, serde_json::json!([]));
    assert!(seen > 0.9, "{seen}");
    desk.put("again.csv", &format!("Unnamed: 0,x,y\n{rows}"));
    let again = desk.done(&line.replace("pandas", "again"));
    assert!(
        again.contains("left out the first column, \"Unnamed: 0\": only row numbers"),
        "{again}"
    );
    // Whatever has a name is a feature until it is said to be none.
    desk.put("named.csv", &format!("id,x,y\n{rows}"));
    let named = line.replace("pandas", "named");
    assert_eq!(desk.json(&named)["parameters"], 6);
    let dropped = desk.json(&format!("{named} --drop-column id --out out"));
    assert_eq!(dropped["parameters"], 4);
    assert_eq!(
        dropped["epochs"][0]["training_loss"],
        desk.json(line)["epochs"][0]["training_loss"]
    );
    assert!(
        desk.get("out/experiment.toml")
            .contains("drop_columns = [\"id\"]")
    );
    desk.refused(
        &format!("{named} --drop-column ids"),
        "has no column \"ids\", only id, x, y",
    );
    desk.refused(
        &format!("{named} --label-column y --drop-column y"),
        "holds the labels",
    );
    desk.refused(
        &format!("{named} --drop-column id --drop-column x"),
        "without \"id\", \"x\", the table has 1 column",
    );
    let compared = "compare --data again.csv --model logistic --epochs 1 --batch 8 --optimizers sgd \
                    --trials 1 --seeds 1";
    assert!(
        desk.done(compared)
            .contains("left out the first column, \"Unnamed: 0\"")
    );
    let compared = desk.json(compared);
    assert_eq!(
        compared["reading"]["row_names"],
        serde_json::json!(["Unnamed: 0"])
    );
}

#[test]
fn a_training_says_and_keeps_from_where_indices_count() {
    let desk = Desk::empty();
    let rows: String = (0..40)
        .map(|i| format!("{} 0:{i} 1:{}\n", i / 20, i % 3))
        .collect();
    desk.put("zero.libsvm", &rows);
    let line = "train model --data zero.libsvm --model logistic --epochs 1 --batch 8 --out out";
    assert!(
        desk.done(line)
            .contains("\nfeature indices start at 0, as the file shows\n")
    );
    assert!(
        desk.get("out/experiment.toml")
            .contains("index_base = \"zero\"")
    );
    let again = desk.json("train model --config out/experiment.toml --out out");
    assert_eq!(
        (&again["reading"]["index_base"], &again["parameters"]),
        (&"zero".into(), &6.into())
    );
    desk.refused(
        &format!("{line} --index-base one"),
        "zero.libsvm: line 1 has an index 0",
    );
    desk.put(
        "one.libsvm",
        &rows.replace(" 0:", " 2:").replace(" 1:", " 3:"),
    );
    let told = desk.json("train model --data one.libsvm --model logistic --epochs 1");
    assert_eq!(
        (&told["reading"]["index_base"], &told["parameters"]),
        (&"one".into(), &8.into())
    );
    let zero =
        desk.json("train model --data one.libsvm --model logistic --epochs 1 --index-base zero");
    assert_eq!(
        (&zero["reading"]["index_base"], &zero["parameters"]),
        (&"zero".into(), &10.into())
    );
}

#[test]
fn wrong_inputs_get_one_sentence_and_leave_nothing() {
    let desk = Desk::empty();
    put_table(&desk);
    fs::write(desk.path("wrong.toml"), "[training]\nepoch = 3\n").unwrap();
    fs::write(desk.path("broken.csv"), "1,2,a\n3,b\n").unwrap();
    fs::write(desk.path("cell.csv"), "1,2,a\n3,?,b\n").unwrap();
    fs::write(desk.path("broken.libsvm"), "1 1:x\n").unwrap();
    fs::create_dir(desk.path("empty")).unwrap();
    fs::create_dir(desk.path("mnist")).unwrap();
    fs::write(
        desk.path("mnist/train-images-idx3-ubyte"),
        [0, 0, 8, 3, 0, 0],
    )
    .unwrap();
    fs::write(
        desk.path("mnist/train-labels-idx1-ubyte"),
        [0, 0, 8, 1, 0, 0, 0, 0],
    )
    .unwrap();
    for (flags, told) in [
        ("--data nowhere", "no data set \"nowhere\""),
        ("--data broken.csv", "broken.csv: the text is not a table"),
        (
            "--data cell.csv",
            "row 2, column \"2\": \"?\" is not a finite number",
        ),
        ("--data broken.libsvm", "line 1 is not a LIBSVM example"),
        ("--data empty", "holds neither MNIST files"),
        ("--data mnist", "the IDX data is damaged or truncated"),
        (
            "--data digits --test table.csv",
            "can only be given with a CSV or LIBSVM file",
        ),
        ("--data table.csv --model cnn", "a cnn needs pictures"),
        ("--batch 0", "the training's batch is 0"),
        ("--epochs 0", "the training's number of epochs is 0"),
        ("--epochs many", "--epochs"),
        ("--warmup 1.5", "the schedule's warmup is 1.5"),
        ("--clip-norm=-1", "clip_norm is -1"),
        ("--model transformer", "logistic, mlp, cnn, resnet20"),
        ("--config wrong.toml", "unknown field `epoch`"),
        ("--config absent.toml", "cannot read absent.toml"),
    ] {
        desk.refused(&format!("train model {flags} --out out"), told);
        if !flags.starts_with("--config wrong") {
            desk.refused(&format!("compare {flags} --out out"), told);
        }
    }
    let train = |flags: &str| format!("train model --epochs 1 --out out {flags}");
    desk.refused(
        &train("--optimizer newton"),
        "there is no optimizer \"newton\"",
    );
    desk.refused(
        &train("--learning-rate 0"),
        "the learning rate of the optimizer is 0",
    );
    desk.refused(
        &train("--weight-decay=-1"),
        "the weight decay of the optimizer is -1",
    );
    desk.refused(&train("--out table.csv"), "--out");
    desk.refused("compare --optimizers sgd,newton", "no optimizer \"newton\"");
    desk.refused(
        "compare --optimizers sgd,sgd",
        "the optimizer sgd is given twice",
    );
    desk.refused("compare --seeds 1,1", "the seed 1 is given twice");
    desk.refused("compare --trials 0", "number of trials is 0");
}

/// What runs away is a failure of the run, not of the input.
#[test]
fn a_training_that_diverges_says_so() {
    let desk = Desk::empty();
    let output = desk.nabla("train model --optimizer sgd --learning-rate 1e30");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("lower the learning rate or limit the gradient"),
        "{error}"
    );
}

/// The recipe of a small network, so that the test is quick.
const SMALL: &str = "[data]\nsource = \"digits\"\n[training]\nbatch = 8\nwarmup = 2\n\
    [model.network]\nbase_channels = 32\nblocks_per_level = 1\n";

#[test]
fn a_denoiser_is_trained_and_draws_a_row_for_each_class() {
    let desk = Desk::empty();
    desk.put("small.toml", SMALL);
    let trained = desk.json("train denoiser --recipe small.toml --steps 3 --out digits");
    assert_eq!(trained["steps"], 3);
    for name in [
        "checkpoint.safetensors",
        "denoiser.json",
        "loss.csv",
        "loss.svg",
        "model.safetensors",
        "recipe.toml",
    ] {
        assert!(desk.path("digits").join(name).is_file(), "{name}");
    }
    // What it wrote is a recipe for it, which is done.
    let again = desk.json("train denoiser --recipe digits/recipe.toml --steps 3 --out digits");
    assert_eq!(again["loss"], trained["loss"]);

    let line =
        "sample --model digits --class 7 --class all -n 2 --steps 3 --sampler euler -o out.png";
    let drawn = desk.json(line);
    assert_eq!(
        (&drawn["width"], &drawn["height"]),
        (&16.into(), &88.into())
    );
    let first = fs::read(desk.path("out.png")).unwrap();
    desk.done(line);
    assert_eq!(fs::read(desk.path("out.png")).unwrap(), first);

    let flow = "train denoiser --recipe small.toml --flow --steps 2 --out flow";
    desk.done(flow);
    desk.done("sample --model flow --class 0 --steps 2 --sampler heun --guidance none -o flow.png");

    let line = "train denoiser --recipe small.toml --path kinetic-optimal --steps 2 --out least";
    let energies = desk.json(line)["energies"].clone();
    let [least, straight] = [0, 1].map(|i| energies[i].as_f64().unwrap());
    assert!(0.5 * straight < least && least < straight, "{energies}");
    let drawn = desk.json("sample --model least --class 0 --steps 2 -o least.png");
    assert_eq!(drawn["sampler"], "velocity");
    desk.done("train denoiser --recipe small.toml --path ve --prediction v --steps 1 --out ve");
    desk.done("sample --model ve --class 0 --steps 2 --sampler dpm++2m -o ve.png");

    desk.refused(
        "sample --model digits --class dress -o none.png",
        "there is no class \"dress\": the model has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
    );
    desk.refused(
        "sample --model digits --prompt dress -o none.png",
        "the model digits draws pictures of classes: choose one with --class, not with --prompt",
    );
    desk.refused(
        "sample --model none --class 1 -o none.png",
        "there is no model folder none",
    );
    put_table(&desk);
    desk.refused(
        "train denoiser --data table.csv --out none",
        "table.csv is a table",
    );
    assert!(!desk.path("none").exists() && !desk.path("none.png").exists());
}

/// A recipe of a small flow.
const SMALL_FLOW: &str =
    "[training]\nsteps = 4\nbatch = 16\n[flow]\npath = \"Vp\"\nhidden = [16, 16]\n";

#[test]
fn a_flow_is_trained_on_points_and_draws_new_ones() {
    let desk = Desk::empty();
    desk.put("small.toml", SMALL_FLOW);
    let rows: String = (0..60)
        .map(|i| format!("{},{},red\n", i % 2, 10 + i % 3))
        .collect();
    desk.put("points.csv", &format!("x,y,colour\n{rows}"));
    let train =
        "train flow --recipe small.toml --data points.csv --drop colour --draw 7 --draw-steps 3";
    let trained = desk.json(&format!("{train} --out flow"));
    assert_eq!(trained["path"], "vp");
    for (name, expected) in [
        ("points", 54),
        ("dimension", 2),
        ("measured", 6),
        ("steps", 4),
    ] {
        assert_eq!(trained[name], expected, "{name}");
    }
    assert!(trained["log_density"].as_f64().unwrap().is_finite());
    for name in [
        "checkpoint.safetensors",
        "flow.json",
        "loss.csv",
        "loss.svg",
        "model.safetensors",
        "recipe.toml",
    ] {
        assert!(desk.path("flow").join(name).is_file(), "{name}");
    }
    let samples = fs::read_to_string(desk.path("flow/samples.csv")).unwrap();
    assert!(samples.starts_with("x,y\n") && samples.lines().count() == 8);
    // What it wrote is a recipe for it, which is done.
    let again = "train flow --recipe flow/recipe.toml --draw 7 --draw-steps 3 --out flow";
    assert_eq!(desk.json(again)["loss"], trained["loss"]);
    let drawn = fs::read_to_string(desk.path("flow/samples.csv")).unwrap();
    assert_eq!(drawn, samples);

    for path in ["cond-ot", "ve", "kinetic-optimal"] {
        let line = format!("{train} --path {path} --method adams2 --out {path}");
        let trained = desk.json(&line);
        assert_eq!(trained["path"], path);
        assert_eq!(trained["energies"].is_array(), path == "kinetic-optimal");
    }
    desk.done("train flow --recipe small.toml --steps 1 --draw 0 --out digits");
    assert!(!desk.path("digits/samples.csv").exists());

    desk.refused(
        "train flow --data points.csv --out none",
        "\"red\" is not a finite number",
    );
    desk.refused("train flow --data none.csv --out none", "none.csv");
    desk.refused(
        "train flow --data points.csv --drop weight --out none",
        "no column \"weight\", only x, y, colour",
    );
    desk.refused(
        "train flow --path straight --out none",
        "cond-ot, vp, ve, kinetic-optimal",
    );
    desk.refused(
        &format!("{train} --path ve --out flow"),
        "checkpoint.safetensors",
    );
    desk.put("few.csv", "x\n1\n2\n");
    desk.refused(
        "train flow --data few.csv --out none",
        "2 points are too few",
    );
    assert!(!desk.path("none").exists());
}

#[test]
fn several_workers_train_together() {
    let desk = Desk::empty();
    let line =
        "train model --epochs 2 --workers 3 --compress topk --compress-share 0.05 --out shared";
    let (out, _) = desk.told(line);
    assert!(
        out.contains("3 workers:") && out.contains("without compression"),
        "{out}"
    );
    let again = desk.json("train model --config shared/experiment.toml --out shared");
    assert_eq!(again["sharing"]["workers"], 3);
    assert_eq!(again["steps"], 46);
    for (line, told) in [
        ("train model --compress topk", "add --workers"),
        ("train model --workers 0", "number of workers is 0"),
        (
            "train model --workers 2 --compress qsgd --compress-share 0.1",
            "for randk, topk and sketch",
        ),
        (
            "train model --workers 2 --compress randk --compress-share 2",
            "share of the compression is 2",
        ),
        (
            "train model --workers 2 --compress randk --sketch-family srht",
            "add --compress sketch",
        ),
        (
            "train model --workers 2 --local-steps 2",
            "add --compress sketch",
        ),
        ("train model --sketch-family srht", "add --workers"),
        (
            "train model --workers 2 --compress sketch --local-steps 0",
            "number of local steps is 0",
        ),
        (
            "train model --workers 2 --compress sketch --local-steps 99",
            "at most 32, the examples of a worker in a batch",
        ),
        (
            "train model --workers 2 --compress sketch --sketch-family square",
            "srht",
        ),
        (
            "train model --workers 2 --coding gc --local-steps 2",
            "coded gradients aren't compressed",
        ),
        (
            "train model --workers 2 --private --epsilon 1",
            "one worker",
        ),
        (
            "train model --workers 2 --coding gc --compress qsgd",
            "coded gradients aren't compressed",
        ),
        (
            "train model --workers 2 --coding gc --stragglers 2",
            "number of stragglers is 2",
        ),
        (
            "train model --workers 2 --coding gc --burst 2",
            "for sr-sgc and m-sgc",
        ),
        ("train model --workers 2 --models 2", "add --coding"),
        ("train model --coding m-sgc --models 1", "at least 2 models"),
        (
            "train model --coding sr-sgc --models 100000",
            "it must be from 0 to 1024",
        ),
        (
            "train model --coding m-sgc --window 99999999999",
            "the window is 99999999999, but it must be greater than the burst, 1, and at most 1000",
        ),
        (
            "train model --coding m-sgc --burst 3 --window 3",
            "the window is 3, but it must be greater than the burst, 3",
        ),
        (
            "train model --coding sr-sgc --burst 2 --window 4",
            "the window is 4 and the burst is 2",
        ),
        (
            "train model --coding m-sgc --stragglers 9",
            "the number of stragglers is 9, but it must be from 0 to 4",
        ),
        (
            "train model --coding gc --tolerance=-1",
            "the tolerance is -1",
        ),
        (
            "train model --workers 1 --coding gc",
            "the number of workers with coded gradients is 1, but it must be at least 2",
        ),
    ] {
        Desk::empty().refused(line, told);
    }
}

#[test]
fn coded_gradients_train_several_models_in_turn() {
    let desk = Desk::empty();
    let line = "train model --epochs 2 --workers 3 --coding sr-sgc --out coded";
    let (out, _) = desk.told(line);
    assert!(
        out.contains("3 workers with SR-SGC") && out.contains("model-0 to model-1"),
        "{out}"
    );
    let again = desk.json("train model --config coded/experiment.toml --out coded");
    assert_eq!(again["models"].as_array().unwrap().len(), 2);
    assert_eq!(again["models"][1]["steps"], 46);
    // They were complete already.
    assert_eq!(again["coding"]["gradients"], 0);
    let alone = desk.json("train model --epochs 2 --seed 1");
    let [coded, alone] =
        [&again["models"][1], &alone].map(|m| m["epochs"][1]["test_loss"].as_f64());
    assert!((coded.unwrap() - alone.unwrap()).abs() < 1e-4);
    // One model has no folder of its own.
    let one = desk.json("train model --epochs 1 --workers 3 --coding gc --stragglers 2 --out one");
    assert_eq!(one["coding"]["scheme"], "GC(n=3, s=2, repetition)");
    assert!(desk.path("one/model.safetensors").exists());
}

#[cfg(unix)]
#[test]
fn two_trainings_do_not_share_a_folder() {
    let desk = Desk::empty();
    put_table(&desk);
    let line = "train model --config table.toml --epochs 1 --out mine";
    let told = desk.done(line);
    assert!(told.contains("right after 1 epoch\n"), "{told}");
    // As another training does, until it has ended or was killed.
    let other = fs::File::open(desk.path("mine")).unwrap();
    other.try_lock().unwrap();
    for line in [
        line,
        "train flow --data table.csv --drop class --out mine",
        "train denoiser --data digits --steps 1 --out mine",
        "compare --data table.csv --optimizers sgd,adam --epochs 1 --out mine",
    ] {
        desk.refused(line, "another training is running in mine");
    }
    drop(other);
    desk.done(line);
}
