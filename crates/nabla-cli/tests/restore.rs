//! `nabla restore`.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use nabla::data::{BitDepth, NiftiVolume, NpyArray, NpyValues, Picture, Raster, WriteOptions};
use nabla::diffusion::class_denoiser::{ClassDenoiser, ClassDenoiserConfig};
use nabla::diffusion::restore::{CoilMaps, LinearOperator, MultiCoilMri};

use crate::desk::Desk;

fn value(i: usize) -> f32 {
    0.5 + 0.4 * (i as f32 * 0.21).sin()
}

fn put_picture(desk: &Desk, name: &str, channels: usize, side: usize) {
    let raster = Raster::from_fn(channels, side, side, |c, y, x| {
        value(7 * c + 5 * y + x * x / 9)
    });
    let picture = Picture::new(raster, BitDepth::Eight);
    picture
        .write(&desk.path(name), &WriteOptions::default())
        .unwrap();
}

fn put_array(desk: &Desk, name: &str, shape: &[usize], values: NpyValues) {
    let shape = shape.to_vec();
    std::fs::write(desk.path(name), NpyArray { shape, values }.encode()).unwrap();
}

/// A model of `channels` channels and 16 x 16 pixels with random weights.
fn put_model(desk: &Desk, name: &str, channels: usize) {
    let device = Device::flex();
    let mut config = ClassDenoiserConfig::for_pictures(vec!["all".to_owned()], [channels, 16, 16]);
    config.network.base_channels = 16;
    config.network.head_channels = 16;
    let network = config.init_network(&device).unwrap();
    let model = ClassDenoiser::new(config, network, &device).unwrap();
    model.save(&desk.path(name)).unwrap();
}

fn reals(desk: &Desk, name: &str) -> (Vec<usize>, Vec<f64>) {
    let array = NpyArray::read(&desk.path(name)).unwrap();
    match array.values {
        NpyValues::Real(values) => (array.shape, values),
        NpyValues::Complex(values) => panic!("{values:?}"),
    }
}

#[test]
fn a_picture_is_measured_and_restored_at_once() {
    let desk = Desk::empty();
    put_picture(&desk, "rgb.png", 3, 32);
    put_picture(&desk, "grey.png", 1, 32);
    for line in [
        "rgb.png -o a.png --measurement small.png --operator-option scale=2",
        "rgb.png -o b.png --operator inpainting --noise 0.05",
        "grey.png -o c.png --operator blur --operator-option deviation=1 --noise 0.02 --method ddnm",
        "grey.png -o d.png --operator blur --sampler dpm++2m",
    ] {
        let found = desk.json(&format!("restore {line} --simulate --steps 3"));
        assert_eq!(found["steps"], 3, "{line}");
        assert_eq!(found["network_evaluations"], 3, "{line}");
        assert!(found["psnr"].as_f64().unwrap() > 10.0, "{line}: {found}");
        assert!(found["ssim"].is_f64(), "{line}");
    }
    let small = Picture::read(&desk.path("small.png")).unwrap();
    assert_eq!(small.raster.shape(), [3, 16, 16]);
    let restored = Picture::read(&desk.path("a.png")).unwrap();
    assert_eq!(restored.raster.shape(), [3, 32, 32]);
    assert!(restored.metadata.texts[0].1.contains("Method: dds"));
    assert_eq!(
        Picture::read(&desk.path("c.png"))
            .unwrap()
            .raster
            .channels(),
        1
    );
    // The same seed, the same picture; and the measurement in a file is as good as the simulated one.
    desk.done("restore rgb.png -o again.png --operator-option scale=2 --simulate --steps 3");
    let bytes = |name: &str| std::fs::read(desk.path(name)).unwrap();
    assert_eq!(bytes("a.png"), bytes("again.png"));
    let line = "restore small.png -o large.png --operator-option scale=2 --truth rgb.png --steps 3";
    assert!(desk.json(line)["psnr"].as_f64().unwrap() > 10.0);
}

#[test]
fn gradients_go_through_both_kinds_of_models() {
    let desk = Desk::empty();
    put_picture(&desk, "a.png", 3, 16);
    put_model(&desk, "model", 1);
    for method in ["dps", "pigdm"] {
        for model in ["", "--model model"] {
            let line = format!(
                "restore a.png -o b.png {model} --method {method} --operator inpainting --simulate --steps 2"
            );
            let found = desk.json(&line);
            assert!(found["psnr"].as_f64().unwrap() > 0.0, "{line}");
        }
    }
}

#[test]
fn scans_are_restored_from_arrays() {
    let desk = Desk::empty();
    put_model(&desk, "model", 1);
    put_model(&desk, "complex", 2);
    let slices: Vec<f64> = (0..3 * 256).map(|i| 900.0 * f64::from(value(i))).collect();
    put_array(
        &desk,
        "volume.npy",
        &[3, 16, 16],
        NpyValues::Real(slices.clone()),
    );
    // What a network with random weights says must be kept within black and white.
    let clip = "--method-option clip=1";
    // CT, from the clean volume and from its sinograms.
    let ct = format!("--operator ct --operator-option views=40 --model model --steps 4 {clip}");
    let line = format!("restore volume.npy -o out.npy {ct} --simulate --measurement sinograms.npy");
    let found = desk.json(&line);
    assert!(found["residual"].as_f64().unwrap() < 0.3, "{found}");
    assert_eq!(reals(&desk, "out.npy").0, [3, 16, 16]);
    assert_eq!(reals(&desk, "sinograms.npy").0, [3, 40, 16]);
    let line = format!("restore sinograms.npy -o again.npy {ct} --truth volume.npy");
    assert!(desk.json(&line)["psnr"].as_f64().unwrap() > 5.0);
    // Slices that depend on each other, and a volume that keeps its header.
    let volume = NiftiVolume::new([3, 16, 16], slices.iter().map(|v| *v as f32).collect());
    let mut bytes = volume.encode();
    bytes[88..92].copy_from_slice(&3f32.to_le_bytes());
    std::fs::write(desk.path("in.nii"), bytes).unwrap();
    let tv = "--method-option tv_weight=0.04";
    desk.done(&format!(
        "restore in.nii -o out.nii.gz {ct} {tv} --simulate"
    ));
    let found = NiftiVolume::read(&desk.path("out.nii.gz")).unwrap();
    assert_eq!(found.shape, [3, 16, 16]);
    assert_eq!(found.encode()[88..92], 3f32.to_le_bytes());
    // MRI: with the simulation's coils, with estimated ones, and from k-space alone.
    let mri =
        "--operator mri --operator-option acceleration=2 --operator-option centre=0.5 --steps 2";
    let line = format!("restore volume.npy -o m.npy {mri} --model model --simulate");
    assert_eq!(desk.json(&line)["coil_maps"], "simulated");
    assert_eq!(
        desk.json(&format!("{line} --estimate-coils"))["coil_maps"],
        "estimated"
    );
    let maps = CoilMaps::simulated(3, [16, 16]).unwrap();
    let all = MultiCoilMri::new(1, maps.clone(), vec![true; 256]).unwrap();
    let data = burn::tensor::TensorData::new(slices[..256].to_vec(), [1, 1, 16, 16]);
    let x = burn::tensor::Tensor::<4>::from_data(data, &Device::flex());
    let kspace: Vec<f64> = all.apply(x).unwrap().try_into_vec_as().unwrap();
    let pairs = |planes: &[f64]| {
        let (re, im) = planes.split_at(256);
        re.iter()
            .zip(im)
            .map(|(re, im)| [*re, *im])
            .collect::<Vec<[f64; 2]>>()
    };
    let kspace: Vec<[f64; 2]> = kspace.chunks_exact(512).flat_map(pairs).collect();
    put_array(
        &desk,
        "kspace.npy",
        &[3, 16, 16],
        NpyValues::Complex(kspace),
    );
    let values: Vec<[f64; 2]> = maps.values().collect();
    put_array(&desk, "coils.npy", &[3, 16, 16], NpyValues::Complex(values));
    for (model, coils, told) in [
        ("model", "", "estimated"),
        ("complex", "", "estimated"),
        ("model", "--coils coils.npy", "given"),
    ] {
        let line = format!(
            "restore kspace.npy -o k.png --operator mri --model {model} {coils} --steps 2 {clip}"
        );
        let found = desk.json(&line);
        assert_eq!(found["coil_maps"], told, "{line}");
        assert!(found["residual"].as_f64().unwrap() < 0.3, "{line}: {found}");
        assert_eq!(
            Picture::read(&desk.path("k.png")).unwrap().raster.shape(),
            [1, 16, 16]
        );
    }
}

#[test]
fn what_is_wrong_is_told_in_one_sentence() {
    let desk = Desk::empty();
    put_picture(&desk, "a.png", 3, 18);
    put_model(&desk, "model", 1);
    desk.put("text.npy", "no array");
    put_array(
        &desk,
        "nan.npy",
        &[1, 2],
        NpyValues::Real(vec![0.0, f64::NAN]),
    );
    put_array(&desk, "flat.npy", &[4], NpyValues::Real(vec![0.0; 4]));
    let refused = |line: &str, told: &str| desk.refused(&format!("restore {line}"), told);
    refused("a.png -o a.png --simulate", "is the input");
    refused("none.png -o b.png", "none.png");
    refused("text.npy -o b.png", "not a NumPy array");
    refused("nan.npy -o b.png", "not a finite number");
    refused("flat.npy -o b.png", "2 to 4 dimensions");
    refused("a.png -o b.txt", "is not the name of a picture");
    desk.put("text.h5", "no array");
    refused("text.h5 -o b.png", "cannot be read as an HDF5 file");
    // As fastMRI has it: two slices of three coils.
    let arrays = "../nabla-data/tests/reference/arrays.h5";
    let arrays = Path::new(env!("CARGO_MANIFEST_DIR")).join(arrays);
    fs::copy(arrays, desk.path("kspace.h5")).unwrap();
    refused(
        "kspace.h5 -o b.png --operator mri --model model",
        "has 5 x 4 pixels, but the model knows pictures of 16 x 16",
    );
    refused("a.png -o b.png --operator telescope", "telescope");
    refused(
        "a.png -o b.png --operator-option zoom=2",
        "it has: filter, scale",
    );
    refused(
        "a.png -o b.png --method-option zoom=2",
        "it has: cg_iterations",
    );
    refused(
        "a.png -o b.png --method-option eta=2 --simulate --operator blur",
        "eta of DDS is 2",
    );
    refused(
        "a.png -o b.png --noise -1",
        "noise of the measurement is -1",
    );
    refused("a.png -o b.png --range 3,1", "the lower one first");
    refused(
        "a.png -o b.png --kernel a.png",
        "--kernel is for the operator blur",
    );
    refused("a.png -o b.png --simulate", "multiples of 4");
    refused(
        "a.png -o b.png --operator mri",
        "give a model of nabla train denoiser",
    );
    refused(
        "a.png -o b.png --class all --simulate",
        "a class is for a model",
    );
    refused(
        "a.png -o b.png --model model --operator blur",
        "has 18 x 18 pixels, but the model knows pictures of 16 x 16",
    );
    refused(
        "a.png -o b.png --model nowhere --operator blur",
        "there is no model folder nowhere",
    );
    refused(
        "a.png -o b.png --operator mri --model model",
        "k-space is complex",
    );
    refused(
        "a.png -o b.png --operator inpainting --mask flat.npy",
        "2 to 4 dimensions",
    );
    put_picture(&desk, "mask.png", 1, 6);
    refused(
        "a.png -o b.png --operator inpainting --mask mask.png",
        "the mask must be 18 x 18, as the picture, but it is 6 x 6",
    );
    refused(
        "a.png -o b.png --operator blur --truth mask.png",
        "the truth has the shape",
    );
}
