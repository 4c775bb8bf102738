//! Looking into trained models.

use crate::desk::Desk;

/// A small network of digits.
fn trained(desk: &Desk) {
    desk.done(
        "train model --data digits --model logistic --optimizer sgd --learning-rate 0.1 --epochs 3 --out model",
    );
}

#[test]
fn sharpness_tells_what_the_loss_is_like_around_the_weights() {
    let desk = Desk::empty();
    trained(&desk);
    let quick = "inspect sharpness model --examples 200 --runs 4 --products 8";
    let line = format!("{quick} --learning-rate 0.001");
    let told = desk.done(&format!("{line} --out density.svg"));
    for part in [
        "logistic-regression of model with 650 parameters on 200 training examples: loss",
        "largest eigenvalues",
        "SGD, batches of 64",
        "32 products with the Hessian",
        "gradient descent could rest here, and SGD, batches of 64 could rest here",
        "density.svg: the density",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(desk.get("density.svg").starts_with("<svg"));
    let json = desk.json(&line);
    let number = |pointer: &str| json.pointer(pointer).unwrap().as_f64().unwrap();
    let (trace, exact) = (number("/trace/value"), number("/gauss_newton_trace"));
    // Of a linear model they are the same matrix.
    assert!(
        (trace - exact).abs() < 4.0 * number("/trace/standard_error"),
        "{json}"
    );
    let largest = number("/largest/0/value");
    let found = number("/gauss_newton_largest/value");
    assert!((largest - found).abs() < 0.05 * largest, "{json}");
    let [low, high] = ["rests_up_to", "leaves_above"].map(|b| number(&format!("/sgd/rates/{b}")));
    assert!(0.0 < low && low <= high && high <= number("/gradient_descent/rates/leaves_above"));
    assert_eq!(json["sgd"]["rest"], "rests");
    // Again, and of other examples.
    assert_eq!(json, desk.json(&line));
    assert_ne!(
        json["loss"],
        desk.json(&format!("{line} --test-set"))["loss"]
    );
    assert_ne!(json["loss"], desk.json(&format!("{line} --seed 1"))["loss"]);
    let fast = desk.json(&format!("{quick} --double --batch 1 --learning-rate 50"));
    assert_eq!(fast["sgd"]["rest"], "leaves");
}

#[test]
fn what_cannot_be_inspected_is_refused_in_one_sentence() {
    let desk = Desk::empty();
    trained(&desk);
    for (line, told) in [
        ("inspect sharpness nowhere", "there is no folder nowhere"),
        (
            "inspect sharpness model --data nowhere",
            "there is no data set \"nowhere\"",
        ),
        (
            "inspect sharpness model --data fashion",
            "model classifies pictures of 1 x 8 x 8 into 10 classes, but fashion",
        ),
        (
            "inspect sharpness model --examples 0",
            "the number of examples is 0",
        ),
        ("inspect sharpness model --runs 0", "number of Lanczos runs"),
        (
            "inspect sharpness model --products 1",
            "number of products of a Lanczos run",
        ),
        ("inspect sharpness model --top 0", "number of eigenvalues"),
        ("inspect sharpness model --batch 0", "the batch size is 0"),
        (
            "inspect sharpness model --batch 100000",
            "the batch size is 100000",
        ),
        (
            "inspect sharpness model --learning-rate=-1",
            "learning rate",
        ),
        ("inspect sharpness model --out density.txt", "name it .svg"),
        (
            "inspect sharpness model --out nowhere/density.svg",
            "nowhere",
        ),
        ("inspect sharpness", "MODEL"),
    ] {
        desk.refused(line, told);
    }
    std::fs::remove_file(desk.path("model/experiment.toml")).unwrap();
    desk.refused("inspect sharpness model", "name the data by --data");
    desk.done("inspect sharpness model --data digits --examples 50 --runs 1 --products 2");
    desk.put("model/classifier.json", "{}");
    desk.refused("inspect sharpness model --data digits", "classifier.json");
}

#[test]
fn coherence_tells_how_much_examples_agree() {
    let desk = Desk::empty();
    desk.done(
        "train model --data digits --model cnn --optimizer sgd --learning-rate 0.05 --epochs 2 --out model",
    );
    let line = "inspect coherence model --examples 150 --extremes 3";
    let told = desk.done(line);
    for part in [
        "cnn of model on 150 training examples: loss",
        "m-coherence",
        "all weights",
        "output",
        "hardest examples by their alignment",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let json = desk.json(line);
    let whole = &json["coherence"]["whole"];
    assert_eq!(whole["examples"], 150);
    let m = whole["m_coherence"].as_f64().unwrap();
    assert!(m > 0.0 && m <= 150.0);
    let hardest = json["hardest"].as_array().unwrap();
    let alignment = |k: usize| hardest[k]["alignment"].as_f64().unwrap();
    assert!(hardest.len() == 3 && alignment(0) <= alignment(2));
    assert_eq!(json, desk.json(line));

    let over = desk.json(&format!("{line} --over-training --out curve.svg"));
    let moments = over["over_training"]["moments"].as_array().unwrap();
    assert_eq!(moments[0]["step"], 0);
    // The training was repeated to the bit: it ends where the model is.
    let last = moments.last().unwrap();
    let (repeated, measured) = (
        last["loss"].as_f64().unwrap(),
        json["loss"].as_f64().unwrap(),
    );
    assert!((repeated - measured).abs() < 1e-6, "{repeated} {measured}");
    assert!(desk.get("curve.svg").contains("all weights"));
    for (line, told) in [
        ("inspect coherence nowhere", "there is no folder nowhere"),
        (
            "inspect coherence model --examples 1",
            "at least 2 examples",
        ),
        ("inspect coherence model --out curve.svg", "--over-training"),
        (
            "inspect coherence model --over-training --test-set",
            "leave out --data and --test-set",
        ),
        (
            "inspect coherence model --over-training --out curve.png",
            "name it .svg",
        ),
    ] {
        desk.refused(line, told);
    }
}

#[test]
fn gradients_are_averaged_robustly_when_asked_for() {
    let desk = Desk::empty();
    let line =
        "train model --data digits --model mlp --optimizer sgd --learning-rate 0.1 --epochs 2";
    let accuracy = |flags: &str| {
        let json = desk.json(&format!("{line} {flags}"));
        json["epochs"][1]["test_accuracy"].as_f64().unwrap()
    };
    for method in ["winsorized", "median-of-means", "rolling-median"] {
        assert!(
            accuracy(&format!("--robust-gradient {method}")) > 0.5,
            "{method}"
        );
    }
    desk.done(&format!(
        "{line} --robust-gradient winsorized --winsorize 4 --out model"
    ));
    let recipe = desk.get("model/experiment.toml");
    assert!(
        recipe.contains("[robust]") && recipe.contains("percent = 4.0"),
        "{recipe}"
    );
    desk.done(&format!(
        "{line} --config model/experiment.toml --print-config"
    ));
    for (flags, told) in [
        (
            "--winsorize 10",
            "--winsorize is for --robust-gradient winsorized",
        ),
        (
            "--robust-gradient winsorized --winsorize 50",
            "less than 50",
        ),
        ("--robust-gradient mean", "winsorized"),
        (
            "--robust-gradient winsorized --workers 2",
            "leave out --robust-gradient",
        ),
        (
            "--robust-gradient winsorized --model cnn",
            "--normalization group",
        ),
        (
            "--robust-gradient median-of-means --batch 2",
            "batch of a median of means",
        ),
    ] {
        // Each flag once.
        let line = match flags.contains("--model") {
            true => line.replace("--model mlp ", ""),
            false => line.to_owned(),
        };
        desk.refused(&format!("{line} {flags}"), told);
    }
}

/// A model of two blocks, whose letters are a to p, and a text of them.
fn letters(desk: &Desk) {
    let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../nabla-language/tests/reference/tiny_llama.gguf");
    std::fs::copy(model, desk.path("tiny.gguf")).unwrap();
    let text: String = (0..4000_u32)
        .map(|i| char::from(b'a' + (i.wrapping_mul(2_654_435_761) >> 20) as u8 % 16))
        .collect();
    std::fs::write(desk.path("text.txt"), text).unwrap();
}

#[test]
fn features_are_found_shown_and_steered_by() {
    let desk = Desk::empty();
    letters(&desk);
    let quick =
        "inspect features tiny.gguf --text text.txt --tokens 600 --length 32 --steps 20 --batch 32";
    let told = desk.done(&format!(
        "{quick} --active 4,8 --encoder gradient,top-k --seeds 1,2 --latents 40 --page page.html --out plot.svg --save kept"
    ));
    for part in [
        "tiny.gguf before block 1 of 2: 40 directions for 32 values",
        "own prediction",
        "true next piece",
        "plot.svg: the loss recovered",
        "page.html: the texts",
        "kept: the first dictionary",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    // Two encoders, two numbers of latents, two seeds; the first with three kinds of gradient.
    assert_eq!(
        told.lines().filter(|line| line.contains(" %")).count(),
        16,
        "{told}"
    );
    assert!(desk.get("page.html").contains("<mark"));
    assert!(desk.get("plot.svg").starts_with("<svg"));
    let steer = "--steer 3:2 --prompt abc --more 5";
    let again =
        "inspect features tiny.gguf --text text.txt --tokens 600 --length 32 --dictionary kept";
    let json = desk.json(&format!("{again} {steer}"));
    assert_eq!(json["dictionaries"].as_array().unwrap().len(), 3);
    assert_eq!(json["latents"], 40);
    let plain = json["steering"]["plain"].as_str().unwrap();
    assert!(plain.starts_with("abc") && plain.len() > 5, "{json}");
    desk.refused(
        &format!("{again} --block 2"),
        "is of activations before block 1, but --block says 2",
    );
    // The same numbers again, and on disk.
    let line = format!("{quick} --active 4 --latents 40");
    let first = desk.json(&line);
    assert_eq!(first["on_disk"], false);
    let mut second = desk.json(&format!("{line} --memory 0"));
    assert_eq!(second["on_disk"], true);
    second["on_disk"] = false.into();
    assert_eq!(first, second);
}

#[test]
fn what_has_no_features_is_refused_in_one_sentence() {
    let desk = Desk::empty();
    letters(&desk);
    std::fs::create_dir(desk.path("empty")).unwrap();
    std::fs::write(desk.path("short.txt"), "abc").unwrap();
    std::fs::write(desk.path("bytes.txt"), [0xff, 0xfe, 0x00]).unwrap();
    let line = |rest: &str| format!("inspect features tiny.gguf {rest}");
    for (line, told) in [
        (line("--text nowhere.txt"), "cannot read nowhere.txt"),
        (line("--text empty"), "the folder empty has no .txt file"),
        (line("--text bytes.txt"), "bytes.txt is no text in UTF-8"),
        (line("--text short.txt --length 32"), "32 are needed"),
        (
            line("--text text.txt"),
            "length of a passage is 128, but it must be from 8 to 64",
        ),
        (
            line("--text text.txt --length 32 --block 2"),
            "the block is 2",
        ),
        (
            line("--text text.txt --length 32 --active 0"),
            "number of active latents",
        ),
        (
            line("--text text.txt --length 32 --encoder gated"),
            "--penalty",
        ),
        (line("--text text.txt --steer 1"), "such as 17:1.5"),
        (line("--text text.txt --page page.txt"), "name it .html"),
        (line("--text text.txt --out plot.png"), "name it .svg"),
        (
            line("--text text.txt --length 32 --dictionary empty"),
            "autoencoder.json",
        ),
        (
            line("--text text.txt --length 32 --encoder top-k,gated"),
            "the encoder gated has a penalty",
        ),
        (
            line("--text text.txt --length 32 --latents 100000000000"),
            "number of latents is 100000000000",
        ),
        (
            line("--text text.txt --length 32 --latents 9 --active 3 --steer 9:1 --prompt abc"),
            "the feature is 9, but it must be from 0 to 8",
        ),
        (
            line("--text text.txt --length 32 --steer 1:1 --prompt abc --more 0"),
            "number of pieces to go on",
        ),
        (
            line("--text text.txt --length 0"),
            "length of a passage is 0",
        ),
        (
            line("--text text.txt --length 32 --steps 0"),
            "number of steps is 0",
        ),
        (
            line("--text text.txt --length 32 --batch 0"),
            "batch of activations is 0",
        ),
        (
            line("--text text.txt --length 32 --save text.txt"),
            "text.txt is no folder",
        ),
        (
            "inspect features text.txt --text text.txt".to_owned(),
            "is not a GGUF file",
        ),
        (
            "inspect features nothing --text text.txt".to_owned(),
            "there is no file or folder nothing",
        ),
        (
            "inspect features empty --text text.txt".to_owned(),
            "is no model",
        ),
    ] {
        desk.refused(&line, told);
    }
}

#[test]
fn dimensions_are_read_from_a_denoiser() {
    let desk = Desk::empty();
    desk.done("train denoiser --data digits --steps 3 --out den");
    let quick = "inspect dimension den --data digits --pictures 2 --sigmas 0.2,0.5";
    let told = desk.done(&format!("{quick} --out plot.svg"));
    for part in [
        "den at 2 pictures of digits, each 64 numbers",
        "dimensions by the distances of neighbours",
        "asymmetry",
        "plot.svg: the singular values",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(desk.get("plot.svg").starts_with("<svg"));
    let json = desk.json(quick);
    let neighbours = json["two_nn"].as_f64().unwrap();
    assert!((5.0..20.0).contains(&neighbours), "{json}");
    for level in json["levels"].as_array().unwrap() {
        let number = |key: &str| level[key].as_f64().unwrap();
        assert!((0.0..=64.0).contains(&number("mean_dimension")), "{level}");
        assert!((0.0..2.0).contains(&number("asymmetry")), "{level}");
        assert!((0.0..=1.0).contains(&number("gauge_share")), "{level}");
        assert_eq!(level["singular_values"].as_array().unwrap().len(), 64);
    }
    assert_eq!(json, desk.json(quick));
    for (line, told) in [
        ("inspect dimension nowhere --data digits", "nowhere"),
        (
            "inspect dimension den --data fashion",
            "den is of pictures of [1, 8, 8] (channels, height, width), but fashion has [1, 28, 28]",
        ),
        (
            "inspect dimension den --data digits --pictures 0",
            "number of pictures is 0",
        ),
        (
            "inspect dimension den --data digits --sigmas 0.1,0",
            "level of noise is 0",
        ),
        (
            "inspect dimension den --data digits --out plot.png",
            "name it .svg",
        ),
    ] {
        desk.refused(line, told);
    }
}
