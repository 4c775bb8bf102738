//! What one gradient gives away, and the generator that helps.

use crate::desk::Desk;

#[test]
fn pictures_are_rebuilt_with_and_without_each_defence() {
    let desk = Desk::empty();
    let line = "audit leakage --steps 300 --out found.png";
    let found = desk.json(line);
    let lines = found["defences"].as_array().unwrap();
    let names: Vec<&str> = lines
        .iter()
        .map(|line| line["defence"]["name"].as_str().unwrap())
        .collect();
    let all = [
        "none", "noise", "clip", "sparsify", "sketch", "soteria", "dp",
    ];
    assert_eq!(names, all);
    let psnr = |i: usize| lines[i]["psnr"][0].as_f64().unwrap();
    assert!(psnr(0) > 20.0 && psnr(6) < 15.0, "{found}");
    assert_eq!(lines[0]["labels"], found["labels"]);
    assert!(desk.path("found.png").exists());
    // The same seed, the same numbers.
    assert_eq!(desk.json(line), found);
    // Several pictures, of a network that was trained.
    desk.told("train model --epochs 1 --model cnn --out trained");
    let line = "audit leakage --network trained --judge trained --batch 3 --steps 5 --defence noise --noise 0.1";
    let found = desk.json(line);
    assert_eq!(
        found["defences"][0]["perceptual"].as_array().unwrap().len(),
        3
    );
    assert_eq!(found["defences"][0]["defence"]["deviation"], 0.1);
    // What is for other pictures, or would lose the network.
    let line = "audit leakage --network trained --data fashion";
    desk.refused(line, "name its examples by --data");
    let line = "train generator --epochs 1 --out trained";
    desk.refused(line, "a model that is no generator");
}

#[test]
fn several_searches_match_the_statistics_of_a_network_that_has_them() {
    let desk = Desk::empty();
    let line =
        "audit leakage --attack grad-inversion --steps 4 --restarts 2 --batch 2 --defence none";
    let (told, notes) = desk.told(line);
    assert!(told.contains("right"), "{told}");
    assert!(
        notes.contains("no batch normalisation that was trained"),
        "{notes}"
    );
    let normalised = desk.json(&format!("{line} --model cnn"));
    let without = desk.json(&format!("{line} --model cnn --normalization group"));
    for found in [&normalised, &without] {
        assert_eq!(found["defences"][0]["psnr"].as_array().unwrap().len(), 2);
        assert_eq!(found["defences"][0]["label_source"], "inferred");
    }
    assert_eq!(desk.json(&format!("{line} --model cnn")), normalised);
}

#[test]
fn a_sketch_tells_labels_if_it_is_long_enough() {
    let desk = Desk::empty();
    let line = "audit leakage --defence sketch --steps 3 --sketch-share";
    for family in ["count", "sparse", "srht"] {
        let found = desk.json(&format!("{line} 0.2 --sketch-family {family}"));
        let line = &found["defences"][0];
        assert_eq!(line["label_source"], "inferred", "{found}");
        assert_eq!(line["labels"], found["labels"]);
        assert_eq!(line["defence"]["family"]["name"], family);
    }
    let told = desk.done(&format!("{line} 0.0005"));
    assert!(told.contains("too short to tell the labels"), "{told}");
}

#[test]
fn a_generator_is_trained_and_pictures_are_rebuilt_through_it() {
    let desk = Desk::empty();
    desk.told("train generator --data digits --out generator --epochs 2");
    // What is there is more than what is asked for, or of another kind.
    desk.refused(
        "train generator --data digits --out generator --epochs 1",
        "the generator in generator already has 2 epochs, more than --epochs 1",
    );
    desk.refused(
        "train model --epochs 1 --out generator",
        "generator holds a model that is no classifier",
    );
    let line =
        "audit leakage --generator generator --steps 5 --restarts 1 --batch 2 --defence sketch";
    let found = desk.json(line);
    assert_eq!(desk.json(line), found);
    for attack in ["latent", "gias"] {
        let other = desk.json(&format!("{line} --attack {attack}"));
        assert_ne!(other["defences"][0]["psnr"], found["defences"][0]["psnr"]);
    }
    // Without derivatives, through what is supposed of each defence.
    let line = "audit leakage --generator generator --steps 3 --attack ggl --batch 2";
    let found = desk.json(line);
    assert_eq!(found["defences"].as_array().unwrap().len(), 7);
    assert_eq!(desk.json(line), found);
    desk.refused(
        "audit leakage --data fashion --generator generator",
        "makes pictures of 64 numbers, but the model sees 784",
    );
}

/// Stopped after its first checkpoint, a training has the same generator as one that ran whole.
#[test]
fn a_generator_s_training_goes_on_after_an_interrupt() {
    let desk = Desk::empty();
    let line = "train generator --data digits --epochs 40 --latent 4 --hidden 16";
    desk.told(&format!("{line} --out whole"));
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_nabla"))
        .args(format!("{line} --out stopped").split_whitespace())
        .current_dir(desk.folder())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !desk.path("stopped/checkpoint.safetensors").exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    // It may have ended by now.
    let _ = child.kill();
    child.wait().unwrap();
    desk.told(&format!("{line} --out stopped"));
    let weights =
        |folder: &str| std::fs::read(desk.path(folder).join("model.safetensors")).unwrap();
    assert_eq!(weights("whole"), weights("stopped"));
    // Another training does not take its place.
    desk.refused(
        "train generator --data digits --epochs 40 --latent 5 --hidden 16 --out stopped",
        "checkpoint.safetensors",
    );
}

/// Of all defences, a private step is left out for a network that no private training takes.
#[test]
fn a_network_with_batch_normalisation_has_no_private_step() {
    let desk = Desk::empty();
    let line = "audit leakage --model cnn --attack inverting-gradients --steps 1";
    let (told, notes) = desk.told(line);
    assert!(
        told.contains("soteria") && !told.contains("dp clip"),
        "{told}"
    );
    assert!(notes.contains("the defence dp is left out"), "{notes}");
    let (told, notes) = desk.told(&format!("{line} --normalization group --defence dp"));
    assert!(
        told.contains("dp clip") && !notes.contains("left out"),
        "{told}{notes}"
    );
}

#[test]
fn what_cannot_be_attacked_is_refused() {
    let desk = Desk::empty();
    for (line, told) in [
        ("audit leakage --attack gifd", "add --generator DIR"),
        (
            "audit leakage --attack dlg --generator x",
            "--generator is for latent, gifd, gias and ggl",
        ),
        ("audit leakage --radii 3", "--radii is for gifd"),
        ("audit leakage --batch 17", "it must be from 1 to 16"),
        ("audit leakage --batch 0", "it must be from 1 to 16"),
        ("audit leakage --out found.txt", "found.txt"),
        ("audit leakage --out nowhere/found.png", "nowhere"),
        (
            "audit leakage --defence dp --sketch-family count",
            "--sketch-family is for the defence sketch",
        ),
        (
            "audit leakage --attack dlg --restarts 3",
            "--restarts is for latent, gifd, gias and grad-inversion",
        ),
        (
            "audit leakage --attack grad-inversion --restarts 0",
            "number of seeds",
        ),
        ("audit leakage --attack ggl", "add --generator DIR"),
        ("audit leakage --attack gias", "add --generator DIR"),
        (
            "audit leakage --defence noise --noise=-1",
            "deviation of the noise",
        ),
        (
            "audit leakage --defence dp --sparsity 3",
            "--sparsity is for the defence sparsify",
        ),
        ("audit leakage --sketch-share 0", "share of the sketch"),
        ("audit leakage --defence nothing", "nothing"),
        ("audit leakage --generator nowhere", "nowhere"),
        ("audit leakage --network nowhere", "nowhere"),
        (
            "audit leakage --model logistic",
            "a logistic regression starts at zero",
        ),
        ("audit leakage --judge nowhere", "nowhere"),
        (
            "audit leakage --defence clip --clip 1e30",
            "the norm to which gradients are clipped is 1e30, but it must be positive and at most 1e9",
        ),
        (
            "audit leakage --defence noise --noise 1e38",
            "the deviation of the noise is 1e38, but it must be at least 0 and at most 1e15",
        ),
        (
            "audit leakage --defence dp --clip 1e9 --noise-multiplier 1e9",
            "the product of the noise multiplier and the norm to which gradients are clipped is 1000000000000000000",
        ),
        (
            "audit leakage --model cnn --defence dp",
            "normalises by the batch in training, so that no example has a gradient of its own to clip, and no training of \
             the network is private: use group normalisation (`--normalization group`)",
        ),
        (
            "train generator --out generator --latent 0",
            "width of a generator's stage",
        ),
        ("train generator --out generator --data nowhere", "nowhere"),
    ] {
        desk.refused(line, told);
    }
}
