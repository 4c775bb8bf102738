//! Networks of few bits through the program.

use std::fs;

use burn::tensor::{Device, Tensor};
use nabla::train::trained_classifier::TrainedClassifier;
use serde_json::Value;

use crate::desk::Desk;

fn check(json: &Value, layers: u64, rounded: u64) {
    let told = &json["quantization"];
    assert_eq!(told["layers"], layers);
    assert_eq!(told["rounded_layers"], rounded);
    assert_eq!(
        told["different"], 0,
        "integers have other bits than the simulation: {json}"
    );
    assert_eq!(told["integer_accuracy"], told["simulated_accuracy"]);
}

/// A training from a trained network, in three bits, is left with integers that answer the same, and goes on where it
/// was.
#[test]
fn a_trained_network_is_trained_on_in_three_bits() {
    let desk = Desk::empty();
    let model = "--data digits --model cnn --batch 64 --epochs 1";
    desk.done(&format!("train model {model} --out full"));
    let line = "train model --data digits --model cnn --batch 64 --schedule constant --start full --quantize 3 \
                --quantize-edges 8";
    let (out, _) = desk.told(&format!("{line} --epochs 2 --out whole"));
    assert!(
        out.contains("3 of 3 layers rounded: weights of 3 bits, inputs of 3"),
        "{out}"
    );
    assert!(out.contains("the same bits"), "{out}");
    let json = desk.json(&format!("{line} --epochs 1 --out parts"));
    check(&json, 3, 3);
    let json = desk.json("train model --config whole/experiment.toml --epochs 2 --out parts");
    check(&json, 3, 3);
    for name in [
        "model.safetensors",
        "integers.safetensors",
        "classifier.json",
        "epochs.csv",
    ] {
        let [a, b] = ["whole", "parts"].map(|f| fs::read(desk.path(f).join(name)).unwrap());
        assert!(a == b, "{name}");
    }
    let size = |path: &str| fs::metadata(desk.path(path)).unwrap().len();
    assert!(3 * size("whole/integers.safetensors") < size("full/model.safetensors"));
    // The file is the network of the folder, to the bit.
    let device = Device::flex();
    let folder = desk.path("whole");
    let pictures = Tensor::<2>::ones([3, 64], &device) * 0.3;
    let [simulated, integers] = [
        TrainedClassifier::load(&folder, &device).unwrap(),
        TrainedClassifier::load_integers(&folder, &device).unwrap(),
    ]
    .map(|network| network.logits(pictures.clone()).unwrap().into_data());
    assert_eq!(simulated, integers);
    let plain = TrainedClassifier::load_integers(&desk.path("full"), &device);
    assert!(plain.unwrap_err().to_string().contains("not rounded"));
    // Better than a guess after three epochs in all.
    let accuracy = json["quantization"]["integer_accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.5, "{accuracy}");
    desk.refused("inspect sharpness whole", "rounded");
    desk.refused(
        "train model --config whole/experiment.toml --quantize 4 --out whole",
        "is of another training",
    );
}

/// Objectives of domains train networks of few bits, and GAQAT tells what it has frozen.
#[test]
fn objectives_train_networks_of_few_bits() {
    let desk = Desk::empty();
    let line = "train model --domains rotated-digits --test-domain 75 --model cnn --epochs 2 --batch 60 --quantize 4";
    for objective in ["gaqat --objective-option window=3", "sagm", "fishr"] {
        let json = desk.json(&format!("{line} --objective {objective}"));
        check(&json, 3, 1);
        assert_eq!(json["domains"]["test_domain"], "75");
        let quantizers = json["domains"]["told"]["quantizers"].as_array();
        assert_eq!(
            quantizers.map_or(0, Vec::len),
            if objective.starts_with("gaqat") { 2 } else { 0 }
        );
    }
}

#[test]
fn what_cannot_be_quantised_is_refused() {
    let desk = Desk::empty();
    desk.done("train model --data digits --model mlp --epochs 1 --out mlp");
    for (line, told) in [
        (
            "--quantize 1",
            "the number of bits is 1, but it must be from 2 to 8",
        ),
        ("--quantize 4 --quantize-inputs 9", "from 2 to 8"),
        ("--quantize-edges 8", "are for --quantize"),
        (
            "--model logistic --quantize 4",
            "nothing is left to quantise",
        ),
        ("--quantize 4 --private --epsilon 3", "leave out --quantize"),
        (
            "--quantize 4 --robust-gradient winsorized",
            "leave out --quantize",
        ),
        ("--start nowhere", "there is no model folder"),
        ("--model cnn --start mlp", "its model is"),
        ("--data fashion --start mlp", "its shape of an example is"),
        (
            "--domains rotated-digits --test-domain 0 --objective gaqat",
            "quantise it (--quantize 4)",
        ),
    ] {
        desk.refused(&format!("train model --epochs 1 {line} --out out"), told);
        assert!(!desk.path("out").exists(), "{line}");
    }
}
