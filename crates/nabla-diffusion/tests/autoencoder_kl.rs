//! Autoencoders against `diffusers`, on the tiny models of `reference/stable_diffusion.py`.
use std::fs;

use crate::tiny_models::{Reference, distance, folder, path};
use burn::tensor::{Device, Tensor};
use nabla_diffusion::seeded_noise::SeededNoise;
use nabla_diffusion::stable_diffusion::autoencoder_kl::{
    AutoencoderError, AutoencoderKl, AutoencoderKlConfig, TileOptions, Tiling,
};
use nabla_diffusion::stable_diffusion::model_folder::Part;
use nabla_diffusion::stable_diffusion::weights::Precision;

const MODELS: [&str; 3] = ["sd15", "sd21", "sdxl"];
const PIXELS: [usize; 4] = [1, 3, 32, 48];
const POSITIONS: [usize; 4] = [1, 4, 4, 6];
const LARGE_PIXELS: [usize; 4] = [1, 3, 40, 64];
const LARGE_POSITIONS: [usize; 4] = [1, 4, 5, 8];
/// As the script cuts them: of 32 pixels, a quarter of which overlaps.
const TILES: TileOptions = TileOptions {
    size: 4,
    overlap: 1,
};

fn part(model: &str) -> Part {
    folder(model).part("vae", &["AutoencoderKL"]).unwrap()
}

fn load(model: &str, precision: Precision) -> AutoencoderKl {
    let (network, _) = AutoencoderKl::load(&part(model), &Device::flex(), precision).unwrap();
    network
}

fn recorded(model: &str, name: &str, shape: [usize; 4]) -> Tensor<4> {
    let tensor = Reference::of(model).tensor(name);
    assert_eq!(tensor.dims(), shape);
    tensor
}

fn check(name: &str, ours: Tensor<4>, theirs: Tensor<4>, most: f32) {
    let difference = distance(ours, theirs);
    println!("{name}: {difference:.1e}");
    assert!(difference < most, "{name}: {difference}");
}

#[test]
fn pictures_and_latents_are_those_of_diffusers() {
    for model in MODELS {
        let network = load(model, Precision::F32);
        let posterior = network
            .encode(recorded(model, "vae.image", PIXELS))
            .unwrap();
        for (name, ours) in [("mean", &posterior.mean), ("logvar", &posterior.logvar)] {
            let name = format!("vae.{name}");
            let theirs = recorded(model, &name, POSITIONS);
            check(&format!("{model} {name}"), ours.clone(), theirs, 1e-4);
        }
        let latent = recorded(model, "vae.latent", POSITIONS);
        let decoded = network.decode(latent).unwrap();
        let theirs = recorded(model, "vae.decoded", PIXELS);
        check(&format!("{model} vae.decoded"), decoded, theirs, 1e-4);
    }
}

#[test]
fn tiles_are_those_of_diffusers() {
    let whole = load("sd15", Precision::F32);
    let tiled = whole.clone().with_tiling(Tiling::Faded(TILES)).unwrap();
    let image = recorded("sd15", "image", LARGE_PIXELS) * 2.0 - 1.0;
    let latent = recorded("sd15", "vae.large_latent", LARGE_POSITIONS);
    for (kind, network) in [("untiled", whole), ("tiled", tiled)] {
        let posterior = network.encode(image.clone()).unwrap();
        let decoded = network.decode(latent.clone()).unwrap();
        for (name, shape, ours) in [
            ("mean", LARGE_POSITIONS, posterior.mean),
            ("logvar", LARGE_POSITIONS, posterior.logvar),
            ("decoded", LARGE_PIXELS, decoded),
        ] {
            let name = format!("vae.large_{name}_{kind}");
            check(&name, ours, recorded("sd15", &name, shape), 1e-4);
        }
    }
    // The two differ, so that the one cannot pass for the other.
    let name = |kind: &str| recorded("sd15", &format!("vae.large_decoded_{kind}"), LARGE_PIXELS);
    assert!(distance(name("tiled"), name("untiled")) > 1e-2);
}

fn random(seed: u64, shape: [usize; 4]) -> Tensor<4> {
    SeededNoise::new(seed, 0).normal(shape, &Device::flex())
}

/// Where the sample is the whole picture, so that the statistics are exact, nothing is left of the tiles:
/// they see as much of their neighbourhood as the convolutions reach.
#[test]
fn seamless_tiles_are_the_whole_picture_where_the_sample_is() {
    for model in MODELS {
        let whole = load(model, Precision::F32);
        let image = random(1, [2, 3, 128, 120]);
        let latent = random(2, [2, 4, 16, 15]);
        for size in [5, 8] {
            let tiling = Tiling::Seamless { size };
            let tiled = whole.clone().with_tiling(tiling).unwrap();
            let decode = |network: &AutoencoderKl| network.decode(latent.clone()).unwrap();
            let encode = |network: &AutoencoderKl| network.encode(image.clone()).unwrap().mean;
            let name = format!("{model}, tiles of {size}");
            check(&name, decode(&tiled), decode(&whole), 1e-4);
            check(&name, encode(&tiled), encode(&whole), 1e-4);
        }
    }
}

/// A picture that is larger than the sample: nearer to the whole than faded tiles, and without a step
/// from column to column.
#[test]
fn seamless_tiles_are_nearer_to_the_whole_than_faded_ones() {
    let whole = load("sd15", Precision::F32);
    // Darker on the left, so that tiles differ.
    let slope: Vec<f32> = (0..48).map(|i| i as f32 / 16.0 - 1.5).collect();
    let slope = Tensor::<1>::from_floats(slope.as_slice(), &Device::flex()).reshape([1, 1, 1, 48]);
    let latent = random(3, [1, 4, 24, 48]) * 0.5 + slope;
    let decode = |tiling| {
        let network = whole.clone().with_tiling(tiling).unwrap();
        network.decode(latent.clone()).unwrap()
    };
    let expected = decode(Tiling::Whole);
    let (size, overlap) = (16, 4);
    let [faded, seamless] = [
        Tiling::Faded(TileOptions { size, overlap }),
        Tiling::Seamless { size },
    ]
    .map(|tiling| decode(tiling) - expected.clone());
    let most = |x: Tensor<4>| x.abs().max().into_scalar::<f32>();
    let steps = |x: &Tensor<4>| {
        let width = x.dims()[3];
        x.clone().slice_dim(3, 1..width) - x.clone().slice_dim(3, 0..width - 1)
    };
    let numbers = [&faded, &seamless].map(|x| [most(x.clone()), most(steps(x))]);
    println!("faded, seamless: largest difference, largest step {numbers:?}");
    assert!(4.0 * numbers[1][0] < numbers[0][0], "{numbers:?}");
    assert!(4.0 * numbers[1][1] < numbers[0][1], "{numbers:?}");
}

/// What fits a tile is computed whole, to the bit.
#[test]
fn a_small_picture_is_one_tile() {
    let whole = load("sd15", Precision::F32);
    let tiles = TileOptions::of(&AutoencoderKlConfig::read(&part("sd15")).unwrap());
    assert_eq!((tiles.size, tiles.overlap), (8, 2));
    let tiled = whole.clone().with_tiling(Tiling::Faded(tiles)).unwrap();
    let latent = recorded("sd15", "vae.large_latent", LARGE_POSITIONS);
    let ours = tiled.decode(latent.clone()).unwrap().into_data();
    ours.assert_eq(&whole.decode(latent).unwrap().into_data(), true);
}

/// The posterior has the mean and the spread it says.
#[test]
fn samples_follow_the_posterior() {
    let network = load("sd15", Precision::F32);
    let posterior = network
        .encode(recorded("sd15", "vae.image", PIXELS))
        .unwrap();
    let device = Device::flex();
    let none = posterior.sample(Tensor::zeros(POSITIONS, &device));
    assert_eq!(distance(none, posterior.mode()), 0.0);
    let one = posterior.sample(Tensor::ones(POSITIONS, &device)) - posterior.mode();
    let variance = one.powi_scalar(2);
    check("variance", variance.log(), posterior.logvar, 1e-2);
}

#[test]
fn the_scale_of_a_latent_is_the_configurations() {
    for (model, scale) in [("sd15", 0.18215_f32), ("sdxl", 0.13025)] {
        let network = load(model, Precision::F32);
        let latent = recorded(model, "vae.latent", POSITIONS);
        let scaled = network.normalize(latent.clone());
        check("scaled", scaled.clone(), latent.clone() * scale, 1e-6);
        check("and back", network.denormalize(scaled), latent, 1e-5);
    }
}

/// In 16 bits sd15 and sd21 are near; sdxl, which says `force_upcast`, is as exact as in 32 unless the
/// type has the range of `f32`.
#[test]
fn sixteen_bits_are_near() {
    for (model, precision, most) in [
        ("sd15", Precision::F16, 3e-2),
        ("sd21", Precision::F16, 3e-2),
        ("sdxl", Precision::F16, 5e-3),
        ("sd15", Precision::Bf16, 3e-1),
        ("sd21", Precision::Bf16, 3e-1),
        ("sdxl", Precision::Bf16, 3e-1),
    ] {
        let network = load(model, precision);
        let latent = recorded(model, "vae.latent", POSITIONS).cast(precision.dtype());
        let decoded = network.decode(latent).unwrap();
        assert_eq!(decoded.dtype(), precision.dtype());
        let theirs = recorded(model, "vae.decoded", PIXELS);
        check(
            &format!("{model} {precision:?} decoded"),
            decoded,
            theirs,
            most,
        );
        let image = recorded(model, "vae.image", PIXELS).cast(precision.dtype());
        let mean = network.encode(image).unwrap().mean;
        let theirs = recorded(model, "vae.mean", POSITIONS);
        check(&format!("{model} {precision:?} mean"), mean, theirs, most);
    }
}

#[test]
fn wrong_pictures_are_told() {
    let network = load("sd15", Precision::F32);
    let zeros = |shape: [usize; 4]| Tensor::zeros(shape, &Device::flex());
    let size = network.encode(zeros([1, 3, 36, 64])).unwrap_err();
    assert!(matches!(
        size,
        AutoencoderError::Size {
            height: 36,
            factor: 8,
            ..
        }
    ));
    let empty = network.decode(zeros([1, 4, 0, 8])).unwrap_err();
    assert!(matches!(empty, AutoencoderError::Size { .. }));
    for error in [
        network.encode(zeros([1, 4, 32, 32])).unwrap_err(),
        network.decode(zeros([1, 3, 4, 4])).unwrap_err(),
    ] {
        assert!(matches!(error, AutoencoderError::Channels { .. }));
    }
    for (size, overlap) in [(0, 0), (4, 3)] {
        let tiles = TileOptions { size, overlap };
        let error = network
            .clone()
            .with_tiling(Tiling::Faded(tiles))
            .unwrap_err();
        assert_eq!(error, AutoencoderError::Tiles { size, overlap });
    }
    let error = network
        .with_tiling(Tiling::Seamless { size: 0 })
        .unwrap_err();
    assert!(matches!(error, AutoencoderError::Tiles { size: 0, .. }));
}

#[test]
fn wrong_folders_are_told() {
    for (change, told) in [
        (r#""act_fn": "relu""#, "act_fn"),
        (r#""norm_num_groups": 3"#, "norm_num_groups"),
        (r#""up_block_types": ["UpBlock2D"]"#, "UpBlock2D"),
        (r#""down_block_types": ["DownEncoderBlock2D"]"#, "4 levels"),
        (r#""layers_per_block": 3"#, "resnets.2"),
        (r#""latents_mean": [0.1]"#, "latents_mean"),
        (r#""use_quant_conv": false"#, "quant_conv"),
        (r#""mid_block_add_attention": false"#, "attentions.0"),
        (r#""latent_channels": 16"#, "conv_out"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for file in fs::read_dir(path("sd15").join("vae")).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        let path = folder.path().join("config.json");
        let mut values: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        values.extend(
            serde_json::from_str::<serde_json::Map<_, _>>(&format!("{{{change}}}")).unwrap(),
        );
        fs::write(&path, serde_json::to_string(&values).unwrap()).unwrap();
        let part = Part::open(folder.path(), "AutoencoderKL").unwrap();
        let error = AutoencoderKl::load(&part, &Device::flex(), Precision::F32).unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
}
