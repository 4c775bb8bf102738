//! `nabla train model --domains` and `nabla compare --domains` from outside.

use std::fs;

use serde_json::Value;

use crate::desk::{Desk, files};

/// Pictures of three domains, whose classes differ in brightness.
fn put_pictures(desk: &Desk) {
    for (i, domain) in ["photo", "sketch", "art"].iter().enumerate() {
        for (j, class) in ["cat", "dog"].iter().enumerate() {
            for k in 0..8 {
                let folder = desk.path(&format!("pictures/{domain}/{class}"));
                fs::create_dir_all(&folder).unwrap();
                let value = (20 * i + 120 * j + 3 * k) as f32 / 255.0;
                let raster = nabla::data::Raster::new(3, 5, 5, vec![value; 75]).unwrap();
                let picture = nabla::data::Picture::new(raster, nabla::data::BitDepth::Eight);
                let path = folder.join(format!("{k}.png"));
                picture
                    .write(&path, &nabla::data::WriteOptions::default())
                    .unwrap();
            }
        }
    }
}

/// Domains from a folder and built in, their objectives, and what is wrong with them.
#[test]
fn a_training_on_domains_is_measured_in_one_that_it_has_not_seen() {
    let desk = Desk::empty();
    let line = "train model --domains coloured-digits --test-domain -90% --objective vrex \
                --objective-option anneal_steps=5 --epochs 3 --model mlp";
    let (out, _) = desk.told(line);
    assert!(
        out.contains("vrex on domains, share of right answers:"),
        "{out}"
    );
    assert!(out.contains("+90%: ") && out.contains("  -90%: "), "{out}");
    let json = desk.json(&format!("{line} --out coloured"));
    let domains = &json["domains"];
    assert_eq!(domains["test_domain"], "-90%");
    assert_eq!(domains["training_domains"].as_array().unwrap().len(), 2);
    // The folder has everything for the same training again, which is done.
    let again = desk.json("train model --config coloured/experiment.toml --out coloured");
    assert_eq!(again["domains"], *domains);

    put_pictures(&desk);
    let line = "train model --domains pictures --test-domain sketch --side 4 --epochs 40 --batch 4";
    let json = desk.json(line);
    assert!(
        json["domains"]["test_accuracy"].as_f64().unwrap() > 0.9,
        "{json}"
    );

    for (line, told) in [
        ("", "there are: art, photo, sketch"),
        ("--test-domain clipart", "there is no domain \"clipart\""),
        (
            "--test-domain art --objective best",
            "there is no objective",
        ),
        (
            "--test-domain art --objective irm --objective-option eta=1",
            "no option \"eta\"",
        ),
        (
            "--test-domain art --objective irm --objective-option penalty=much",
            "the option penalty of the objective irm cannot be much: expected a number",
        ),
        (
            "--test-domain art --objective irm --objective-option anneal_steps=-2",
            "expected a whole number of at least 0",
        ),
        (
            "--test-domain art --robust-gradient winsorized",
            "leave out",
        ),
        (
            "--test-domain art --side 4096",
            "48 pictures of 4096 x 4096 pixels need 9.0 GiB of memory, but at most 8 GiB may be used: choose a smaller side",
        ),
        ("--test-domain art --keep all", "invalid value 'all'"),
    ] {
        desk.refused(
            &format!("train model --domains pictures {line} --out out"),
            told,
        );
    }
    desk.refused("train model --objective irm", "are for --domains");
    desk.refused("train model --keep last", "are for --domains");
    desk.refused(
        "train model --domains cats --test-domain art",
        "nor a folder",
    );
    desk.put("wrong.toml", "[domains]\nside = \"big\"\n");
    desk.refused(
        "train model --config wrong.toml",
        "expected a whole number of at least 0",
    );
}

/// The values of a column of a CSV file.
fn column(text: &str, name: &str) -> Vec<f64> {
    let mut lines = text.lines();
    let place = lines.next().unwrap().split(',').position(|n| n == name);
    let place = place.unwrap_or_else(|| panic!("no {name} in {text}"));
    lines
        .map(|line| line.split(',').nth(place).unwrap().parse().unwrap())
        .collect()
}

/// The weights after the best epoch are left, also by a training that was broken off after it.
#[test]
fn the_best_weights_are_kept_and_resumed() {
    let desk = Desk::empty();
    let line = |epochs: usize, rest: &str| {
        format!(
            "train model --domains coloured-digits --test-domain -90% --schedule constant --learning-rate 0.02 \
             --epochs {epochs} {rest}"
        )
    };
    let (told, err) = desk.told(&line(12, "--out whole"));
    assert!(
        err.contains("validation loss") && !err.contains("test loss"),
        "{err}"
    );
    let epochs = desk.get("whole/epochs.csv");
    assert!(epochs.starts_with(
        "epoch,training_loss,training_accuracy,validation_loss,validation_accuracy\n"
    ));
    let accuracies = column(&epochs, "validation_accuracy");
    let highest = accuracies.iter().copied().fold(0.0, f64::max);
    let best = 1 + accuracies.iter().position(|a| *a == highest).unwrap();
    assert!(
        best < 12,
        "the test needs a training that gets worse: {accuracies:?}"
    );
    assert!(
        told.contains(&format!(
            "right after epoch {best}, whose weights are kept, the best of 12 epochs"
        )),
        "{told}"
    );
    for name in ["loss.svg", "accuracy.svg"] {
        let plot = desk.get(&format!("whole/{name}"));
        assert!(
            plot.contains("validation") && plot.contains("on coloured-digits"),
            "{name}"
        );
    }
    // The report is of these weights: the mean over the domains, which count alike.
    let json = desk.json(&line(12, "--out whole"));
    assert_eq!(json["kept_epoch"], best);
    let of_domains: Vec<f64> = json["domains"]["training_domains"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair[1].as_f64().unwrap())
        .collect();
    let mean = of_domains.iter().sum::<f64>() / of_domains.len() as f64;
    assert!(
        (mean - highest).abs() < 1e-12,
        "{of_domains:?} for {highest}"
    );
    assert_eq!(json["epochs"][best - 1]["validation_accuracy"], highest);
    // They are those of a training that ends there.
    desk.done(&line(best, "--keep last --out short"));
    let weights =
        |folder: &str| fs::read(desk.path(&format!("{folder}/model.safetensors"))).unwrap();
    assert!(weights("short") == weights("whole"));
    let last = desk.json(&line(12, "--keep last --out last"));
    assert_eq!(last.get("kept_epoch"), None);
    assert!(weights("last") != weights("whole"));

    desk.done(&line(best + 1, "--out parts"));
    desk.done(&line(12, "--out parts"));
    for name in [
        "model.safetensors",
        "epochs.csv",
        "steps.csv",
        "accuracy.svg",
        "experiment.toml",
    ] {
        let [a, b] = ["whole", "parts"].map(|f| fs::read(desk.path(f).join(name)).unwrap());
        assert!(a == b, "{name}");
    }
    desk.refused(
        &line(12, "--keep last --out whole"),
        "is of another training: keep was best there, but last is asked for",
    );
}

/// What differs is said in words, not in hashes.
#[test]
fn another_training_on_domains_is_refused_in_words() {
    let desk = Desk::empty();
    put_pictures(&desk);
    let line = |test: &str, side: usize| {
        format!(
            "train model --domains pictures --test-domain {test} --side {side} --epochs 2 --batch 4 --out out"
        )
    };
    desk.done(&line("art", 4));
    desk.refused(
        &line("photo", 4),
        "is of another training: test domain was art there, but photo is asked for",
    );
    desk.refused(
        &line("art", 5),
        "is of another training: side was 4 there, but 5 is asked for",
    );
    desk.refused(
        &format!("{} --objective vrex", line("art", 4)),
        "domains: erm there, but domains: vrex is asked for",
    );
    fs::copy(
        desk.path("pictures/photo/dog/0.png"),
        desk.path("pictures/photo/cat/0.png"),
    )
    .unwrap();
    desk.refused(&line("art", 4), "the examples were others there");
    // Weights of another model.
    let config = desk.get("out/classifier.json");
    desk.put("out/classifier.json", &config.replace("64", "32"));
    desk.refused(
        "inspect sharpness out --data digits",
        "does not hold the weights that classifier.json describes: ",
    );
}

const COMPARE: &str = "compare --domains pictures --side 4 --batch 4 --steps 30 --check-every 10 --tries 2 --seeds 1,2 \
    --objectives erm,sam --selection training-domains,leave-one-domain-out";

#[test]
fn a_comparison_of_objectives_leaves_tables_and_plots() {
    let desk = Desk::empty();
    put_pictures(&desk);
    let (out, err) = desk.told(&format!("{COMPARE} --out all"));
    // A line for the beginning, and one for each of the 2 objectives, 3 test domains, 2 seeds and 2 trials: with all
    // training domains, and without each of two.
    assert_eq!(err.lines().count(), 1 + 2 * 3 * 2 * 2 * 3, "{err}");
    assert!(!err.contains("test accuracy"), "{err}");
    let heads: Vec<&str> = out.lines().filter(|l| l.starts_with("objective")).collect();
    assert_eq!(heads.len(), 2, "{out}");
    assert!(
        heads[0].contains("sketch") && heads[0].ends_with("rank"),
        "{out}"
    );
    assert!(
        out.contains(
            "mean ± standard error over 2 seeds, 2 trials each, chosen by the validation examples"
        ),
        "{out}"
    );
    for name in [
        "comparison.csv",
        "comparison.json",
        "comparison.md",
        "comparison.toml",
        "leave-one-domain-out.svg",
        "runs.json",
        "training-domains.svg",
    ] {
        assert!(desk.path("all").join(name).is_file(), "{name}");
    }
    let csv = desk.get("all/comparison.csv");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "selection,rank,objective,art,art error,photo,photo error,sketch,sketch error,mean,mean error"
    );
    assert_eq!(lines.len(), 1 + 2 * 2);
    assert!(lines[3].starts_with("leave-one-domain-out,1,"), "{csv}");
    let markdown = desk.get("all/comparison.md");
    assert_eq!(
        markdown
            .matches("| objective | art | photo | sketch | mean | rank |")
            .count(),
        2
    );

    // Everything is known, also by its file: the same files again.
    let before = files(&desk.path("all"));
    let json = desk.json(&format!("{COMPARE} --out all"));
    desk.done("compare --config all/comparison.toml --out all");
    assert!(files(&desk.path("all")) == before);
    let tables = json["tables"].as_array().unwrap();
    assert_eq!(tables[1]["selection"], "leave-one-domain-out");
    let row = &tables[0]["rows"][0];
    assert_eq!(row["objective"], "erm");
    // The mean of the accuracies of the test domain, by what was chosen among the runs.
    let runs: Value = serde_json::from_str(&desk.get("all/runs.json")).unwrap();
    for (seed, reached) in [1, 2].iter().zip(row["reached"][0].as_array().unwrap()) {
        let chosen = &reached["chosen"];
        let of = |run: &&Value| {
            let purpose = &run["purpose"];
            purpose["objective"] == "erm"
                && purpose["test"] == "art"
                && purpose["seed"] == *seed
                && purpose["trial"] == chosen["trial"]
                && purpose.get("left_out").is_none()
        };
        let run = runs["runs"].as_array().unwrap().iter().find(of).unwrap();
        let checks = run["checks"].as_array().unwrap();
        let check = checks.iter().find(|c| c["step"] == chosen["step"]).unwrap();
        assert_eq!(check["held_out"], reached["accuracy"]);
    }
    // One test domain of the three, in JSON alone.
    let one = desk.json(
        "compare --domains pictures --side 4 --batch 4 --steps 5 --trials 1 --seeds 0 --test-domain art --objectives all",
    );
    assert_eq!(one["tables"][0]["tests"][0], "art");
    assert_eq!(
        one["tables"][0]["rows"][0]["accuracies"][0]["error"],
        Value::Null
    );
    let unfit = one["unfit"].as_array().map_or(0, Vec::len);
    assert_eq!(
        one["tables"][0]["rows"].as_array().unwrap().len() + unfit,
        16
    );
}

#[test]
fn wrong_comparisons_of_objectives_get_one_sentence_and_leave_nothing() {
    let desk = Desk::empty();
    put_pictures(&desk);
    for (flags, told) in [
        ("--domains cats", "nor a folder"),
        (
            "--domains pictures --objectives best",
            "there is no objective \"best\"",
        ),
        (
            "--domains pictures --objectives erm,erm",
            "the objective erm is given twice",
        ),
        (
            "--domains pictures --objectives all,erm",
            "leave out the others",
        ),
        (
            "--domains pictures --test-domain clipart",
            "there are: art, photo, sketch",
        ),
        (
            "--domains pictures --test-domain art --test-domain art",
            "\"art\" is given twice",
        ),
        (
            "--domains pictures --trials 0",
            "number of trials of the comparison is 0",
        ),
        (
            "--domains pictures --steps 10 --check-every 20",
            "from 1 to 10",
        ),
        (
            "--domains pictures --seeds 1,1",
            "the seed 1 is given twice",
        ),
        (
            "--domains pictures --selection oracle",
            "invalid value 'oracle'",
        ),
        ("--domains pictures --side 4096", "choose a smaller side"),
        (
            "--domains pictures --batch 1",
            "batch of the comparison is 1",
        ),
        (
            "--domains pictures --learning-rate 0",
            "learning rate of the comparison is 0",
        ),
        (
            "--domains pictures --optimizers sgd",
            "leave out --optimizers",
        ),
        (
            "--domains pictures --epochs 3",
            "--epochs is not for a comparison of objectives",
        ),
        ("--domains pictures --seed 3", "--seed is not for"),
        (
            "--objectives erm",
            "--objectives is for a comparison of objectives: give --domains, too",
        ),
        ("--test-domain art", "give --domains"),
        (
            "--domains coloured-digits --selection leave-one-domain-out --objectives erm,vrex",
            "V-REx compares domains, so it needs at least two to train on",
        ),
        ("--config absent.toml", "cannot read absent.toml"),
    ] {
        desk.refused(&format!("compare {flags} --out out"), told);
    }
    desk.put(
        "wrong.toml",
        "[domains]\nsource = \"pictures\"\n[optimizer]\n",
    );
    desk.refused(
        "compare --config wrong.toml",
        "is not a comparison of objectives: unknown field",
    );
}

/// In the middle of the trainings, and then the same command again.
#[cfg(unix)]
#[test]
fn a_comparison_of_objectives_that_is_interrupted_goes_on() {
    use crate::interrupts::interrupted_after;

    let desk = Desk::empty();
    put_pictures(&desk);
    let line = |out: &str| format!("{COMPARE} --out {out}");
    interrupted_after(&desk, &line("parts"), "parts/runs.json");
    assert!(!desk.path("parts/comparison.json").exists());
    for other in ["--tries 3", "--side 5", "--objectives erm,sagm"] {
        let flag = other.split(' ').next().unwrap();
        let mut words: Vec<&str> = COMPARE.split_whitespace().collect();
        let place = words.iter().position(|word| *word == flag).unwrap();
        words.splice(place..place + 2, other.split(' '));
        let line = format!("{} --out parts", words.join(" "));
        desk.refused(&line, "holds the runs of another comparison (");
    }
    for out in ["parts", "whole"] {
        desk.done(&line(out));
    }
    let [parts, whole] = ["parts", "whole"].map(|out| {
        let found = files(&desk.path(out)).into_iter();
        let named = found.map(|(path, bytes)| (path.file_name().unwrap().to_owned(), bytes));
        named.collect::<Vec<_>>()
    });
    assert_eq!(parts, whole);
}
