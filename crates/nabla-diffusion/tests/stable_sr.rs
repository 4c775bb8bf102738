//! StableSR against the official code, on a tiny model of random weights in the published names: the
//! model in a `safetensors` file, the autoencoder with feature wrapping in a checkpoint of PyTorch.

use std::fs;

use crate::tiny_models::{Reference, distance, path};
use burn::tensor::{DType, Device, Tensor};
use nabla_diffusion::stable_diffusion::stable_sr::{StableSr, StableSrError};
use nabla_diffusion::stable_diffusion::weights::Precision;

fn model(precision: Precision) -> (StableSr, Reference) {
    let folder = path("stable_sr");
    let model = StableSr::load(&folder, &Device::flex(), precision).unwrap();
    (model, Reference::tensors_of("stable_sr"))
}

/// The largest difference, relative to the largest expected value above 1.
fn difference<const D: usize>(found: Tensor<D>, reference: &Reference, name: &str) -> f32 {
    let expected = reference.tensor::<D>(name);
    let largest = expected.clone().abs().max().into_scalar::<f32>();
    assert!(largest > 0.1, "{name}: {largest}");
    distance(found.cast(DType::F32), expected) / largest.max(1.0)
}

/// Of every stage, by its name.
fn differences(precision: Precision) -> Vec<(String, f32)> {
    let (model, reference) = model(precision);
    let tensor = |name: &str| reference.tensor::<4>(name);
    let mut all = vec![(
        "text".to_owned(),
        difference(model.text().clone(), &reference, "text"),
    )];
    let mut compare = |found: Tensor<4>, name: &str| {
        all.push((name.to_owned(), difference(found, &reference, name)));
    };
    for t in [1, 500, 999] {
        let maps = model.structure(tensor("latent"), f64::from(t));
        assert_eq!(maps.len(), 2);
        for (level, map) in maps.into_iter().enumerate() {
            compare(map, &format!("features_t{t}.{level}"));
        }
        let found = model
            .predict(tensor("sample"), f64::from(t), &tensor("latent"), None)
            .unwrap();
        compare(found, &format!("prediction_t{t}"));
    }
    let tiles = Some(model.config().tiles());
    let found = model
        .predict(tensor("wide"), 500.0, &tensor("wide_latent"), tiles)
        .unwrap();
    compare(found, "prediction_tiled_t500");
    let posterior = model.encode(tensor("pixels")).unwrap();
    compare(posterior.mean, "mean");
    compare(posterior.logvar, "logvar");
    compare(model.decode(tensor("z")).unwrap(), "decoded");
    for (name, w) in [("0.0", 0.0), ("0.5", 0.5), ("1.0", 1.0)] {
        let found = model
            .decode_wrapped(tensor("z"), tensor("pixels"), w)
            .unwrap();
        compare(found, &format!("wrapped_w{name}"));
    }
    all
}

#[test]
fn every_stage_is_that_of_the_official_code() {
    for (name, difference) in differences(Precision::F32) {
        println!("{name}: {difference:e}");
        assert!(difference < 1e-4, "{name}: {difference}");
    }
}

#[test]
fn half_precision_is_near() {
    for (precision, tolerance) in [(Precision::F16, 0.03), (Precision::Bf16, 0.2)] {
        for (name, difference) in differences(precision) {
            println!("{precision:?} {name}: {difference:e}");
            assert!(difference < tolerance, "{precision:?} {name}: {difference}");
        }
    }
}

/// In the tests above conditions and weights matter: other ones give other results.
#[test]
fn the_condition_changes_the_prediction() {
    let (model, reference) = model(Precision::F32);
    let x = reference.tensor::<4>("sample");
    let latent = reference.tensor::<4>("latent");
    let predict = |condition: &Tensor<4>, t| model.predict(x.clone(), t, condition, None).unwrap();
    let here = predict(&latent, 500.0);
    assert!(distance(here.clone(), predict(&latent.clone().neg(), 500.0)) > 0.05);
    assert!(distance(here, predict(&latent, 1.0)) > 0.01);
}

#[test]
fn tiles_of_the_whole_size_change_nothing() {
    let (model, reference) = model(Precision::F32);
    let x = reference.tensor::<4>("sample");
    let condition = reference.tensor::<4>("latent");
    let predict = |tiles| model.predict(x.clone(), 7.0, &condition, tiles).unwrap();
    let difference = distance(predict(None), predict(Some(model.config().tiles())));
    assert_eq!(difference, 0.0);
}

#[test]
fn what_does_not_fit_is_told() {
    let (model, reference) = model(Precision::F32);
    let x = reference.tensor::<4>("sample");
    let wrong = reference.tensor::<4>("wide");
    let error = model.predict(x, 1.0, &wrong, None).unwrap_err();
    assert!(matches!(error, StableSrError::Latents { .. }));
    assert!(error.to_string().contains("[1, 4, 10, 14]"), "{error}");
    let pixels = reference.tensor::<4>("pixels");
    let odd = pixels.slice_dim(2, 0..15);
    assert!(model.encode(odd.clone()).is_err());
    let z = reference.tensor::<4>("z");
    assert!(model.decode_wrapped(z, odd, 0.5).is_err());
}

#[test]
fn a_folder_that_lacks_something_is_told() {
    let source = path("stable_sr");
    let folder = tempfile::tempdir().unwrap();
    let told = || {
        StableSr::load(folder.path(), &Device::flex(), Precision::F32)
            .unwrap_err()
            .to_string()
    };
    let copy = |from: &str, to: &str| {
        fs::copy(source.join(from), folder.path().join(to)).unwrap();
    };
    assert!(!StableSr::is_in(folder.path()));
    assert!(told().contains("stablesr_*.ckpt"), "{}", told());
    copy("stablesr_tiny.safetensors", "stablesr_a.safetensors");
    assert!(StableSr::is_in(folder.path()));
    assert!(told().contains("vqgan_cfw_*.ckpt"), "{}", told());
    copy("vqgan_cfw_tiny.ckpt", "vqgan_cfw_a.ckpt");
    // Without a configuration it must be the published model.
    let error = told();
    assert!(
        error.contains("model.diffusion_model.input_blocks.0.0.weight")
            && error.contains("[320, 4"),
        "{error}"
    );
    let text = fs::read_to_string(source.join("config.json")).unwrap();
    for (old, new, expected) in [
        (
            "\"layers_per_block\": 2",
            "\"layers_per_block\": 1",
            "input_blocks.2.0.op.weight",
        ),
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 1",
            "has no place",
        ),
        (
            "\"layers_per_block\": 2",
            "\"layers_per_block\": 3",
            "holds no tensor model.diffusion_model.",
        ),
        ("\"model_channels\": 4", "\"model_channels\": 5", "even"),
        (
            "\"channel_mult\": [\n      1,\n      2\n    ]",
            "\"channel_mult\": [1]",
            "levels",
        ),
        ("\"tile\": 8", "\"tile\": 4", "tile_overlap"),
        ("\"tile\": 8", "\"tiles\": 8", "tiles = 8"),
        ("\"num_heads\": 2", "\"heads\": 2", "structure_encoder"),
    ] {
        assert!(text.contains(old), "{old}");
        fs::write(
            folder.path().join("config.json"),
            text.replacen(old, new, 1),
        )
        .unwrap();
        assert!(told().contains(expected), "{new}: {}", told());
    }
    copy("vqgan_cfw_tiny.ckpt", "vqgan_cfw_b.ckpt");
    fs::write(folder.path().join("config.json"), text).unwrap();
    assert!(told().contains("several"), "{}", told());
}

/// A checkpoint is recognised by what it holds, not by its name.
#[test]
fn the_kind_of_a_file_is_its_content() {
    let source = path("stable_sr");
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("stablesr_tiny.safetensors", "stablesr_x.ckpt"),
        ("vqgan_cfw_tiny.ckpt", "vqgan_cfw_x.safetensors"),
        ("config.json", "config.json"),
    ] {
        fs::copy(source.join(from), folder.path().join(to)).unwrap();
    }
    StableSr::load(folder.path(), &Device::flex(), Precision::F32).unwrap();
    let damaged = folder.path().join("vqgan_cfw_x.safetensors");
    let bytes = fs::read(&damaged).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() / 2]).unwrap();
    let error = StableSr::load(folder.path(), &Device::flex(), Precision::F32).unwrap_err();
    assert!(error.to_string().contains("vqgan_cfw_x"), "{error}");
}

/// A folder of the published sizes, named by `NABLA_STABLE_SR`; it needs about 3 GiB.
#[test]
#[ignore = "needs the published files"]
fn the_published_model_loads() {
    let folder = std::env::var("NABLA_STABLE_SR").unwrap();
    let device = Device::flex();
    let model = StableSr::load(folder.as_ref(), &device, Precision::F16).unwrap();
    assert_eq!(model.text().dims(), [1, 77, 1024]);
}
