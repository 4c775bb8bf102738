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
}

#[test]
fn a_generator_is_trained_and_pictures_are_rebuilt_through_it() {
    let desk = Desk::empty();
    desk.told("train generator --data digits --out generator --epochs 1");
    let line =
        "audit leakage --generator generator --steps 5 --restarts 1 --batch 2 --defence sketch";
    let found = desk.json(line);
    assert_eq!(desk.json(line), found);
    let latent = desk.json(&format!("{line} --attack latent"));
    assert_ne!(latent["defences"][0]["psnr"], found["defences"][0]["psnr"]);
    desk.refused(
        "audit leakage --data fashion --generator generator",
        "makes pictures of 64 numbers, but the model sees 784",
    );
}

#[test]
fn what_cannot_be_attacked_is_refused() {
    let desk = Desk::empty();
    for (line, told) in [
        ("audit leakage --attack gifd", "add --generator DIR"),
        (
            "audit leakage --attack dlg --generator x",
            "--generator is for latent and gifd",
        ),
        ("audit leakage --radii 3", "--radii is for gifd"),
        ("audit leakage --batch 17", "it must be from 1 to 16"),
        ("audit leakage --batch 0", "it must be from 1 to 16"),
        ("audit leakage --out found.txt", "found.txt"),
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
            "train generator --out generator --latent 0",
            "width of a generator's stage",
        ),
        ("train generator --out generator --data nowhere", "nowhere"),
    ] {
        desk.refused(line, told);
    }
}
