//! The program from outside: exit codes, one sentence for what is wrong, nothing left behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::desk::{Desk, files};
use burn::tensor::Device;
use nabla::data::{BitDepth, Metadata, PhotoSphere, Picture, Raster, WriteOptions};
use nabla::diffusion::prior::{PriorConfig, SuperResolutionPrior};
use serde_json::Value;

/// Smooth on the sphere: what depends on the longitude vanishes at the poles.
pub fn panorama(height: usize, depth: BitDepth) -> Picture {
    use std::f32::consts::{PI, TAU};
    Picture::new(
        Raster::from_fn(3, height, 2 * height, |c, y, x| {
            let longitude = (x as f32 + 0.5) / (2 * height) as f32 * TAU;
            let from_pole = (y as f32 + 0.5) / height as f32 * PI;
            let turns = (c + 1) as f32;
            0.5 + 0.25 * from_pole.sin().powf(turns) * (turns * longitude).sin()
                + 0.2 * from_pole.cos()
        }),
        depth,
    )
}

/// A folder with a small panorama.
fn desk() -> Desk {
    let desk = Desk::empty();
    put(&desk, "pano.png", &panorama(16, BitDepth::Eight));
    desk
}

pub fn put(desk: &Desk, name: &str, picture: &Picture) {
    picture
        .write(&desk.path(name), &WriteOptions::default())
        .unwrap();
}

pub fn get(desk: &Desk, name: &str) -> Picture {
    Picture::read(&desk.path(name)).unwrap()
}

/// A folder `model` with a network that is small, and has learnt nothing.
pub fn put_model(desk: &Desk) {
    let device = Device::flex();
    let mut config = PriorConfig::new();
    config.network.base_channels = 8;
    config.network.head_channels = 8;
    let network = config.init_network(&device).unwrap();
    let prior = SuperResolutionPrior::new(config, network, &device).unwrap();
    fs::create_dir(desk.path("model")).unwrap();
    prior.save(&desk.path("model")).unwrap();
}

#[test]
fn a_wrong_command_line_gets_one_sentence() {
    let desk = desk();
    desk.refused("paint", "'paint'");
    desk.refused("evaluate pano.png", "<REF>");
    desk.refused(
        "upscale pano.png -o out.png --scale 3",
        "[possible values: 2, 4]",
    );
    desk.refused("upscale pano.png -o out.png --steps 0", "--steps");
    desk.refused("upscale pano.png -o out.png --steps many", "--steps");
    desk.refused(
        "train model --epochs many",
        "invalid value 'many' for '--epochs <N>': expected a whole number",
    );
    desk.refused(
        "train prior --out x --steps 0",
        "expected a whole number of at least 1",
    );
    desk.refused(&format!("paint{}", "t".repeat(300)), "'paint");
    desk.refused(
        "upscale pano.png -o out.png --device abacus",
        "cpu, cuda, wgpu",
    );
    desk.refused("upscale pano.png", "nabla upscale IN -o OUT");
    desk.refused(
        "project pano.png -o out.png --to globe",
        "tangent, cubemap, erp",
    );
    desk.refused("claims run no-such-claim", "no-such-claim");
    desk.refused("claims run dgno", "planned");
}

#[test]
fn help_and_version_are_no_errors() {
    let desk = desk();
    assert!(desk.done("--version").starts_with("nabla "));
    for job in [
        "",
        "upscale",
        "evaluate",
        "project",
        "train",
        "train model",
        "train prior",
        "train ode",
        "simulate ode",
        "compare",
        "claims",
        "claims run",
        "list",
        "doctor",
    ] {
        let help = desk.done(&format!("{job} --help"));
        assert!(help.contains("Usage:"), "{job}");
    }
    let output = desk.nabla("");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Usage:"));
}

/// Each reader of the program meets the same wrong files.
#[test]
fn wrong_inputs_get_one_sentence_and_leave_nothing() {
    let desk = desk();
    let whole = fs::read(desk.path("pano.png")).unwrap();
    fs::write(desk.path("empty.png"), "").unwrap();
    fs::write(desk.path("text.png"), "this is no image at all").unwrap();
    fs::write(desk.path("truncated.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(desk.path("huge.png"), huge_png()).unwrap();
    let square = Picture::new(Raster::zeros(3, 16, 16), BitDepth::Eight);
    put(&desk, "square.png", &square);
    fs::create_dir(desk.path("folder")).unwrap();
    let wrong = [
        ("empty.png", "is empty"),
        ("text.png", "is not an image"),
        ("truncated.png", "damaged or truncated"),
        ("huge.png", "too large"),
        ("square.png", "twice as wide as high"),
        ("absent.png", "cannot read"),
    ];
    for (name, told) in wrong {
        desk.refused(&format!("upscale {name} -o out.png"), told);
        desk.refused(&format!("evaluate {name} pano.png"), told);
        desk.refused(&format!("evaluate pano.png {name}"), told);
        desk.refused(&format!("project {name} -o out.png --to cubemap"), told);
        desk.refused(&format!("project {name} -o out --to tangent"), told);
    }
    desk.refused("evaluate folder pano.png", "is a folder");
    desk.refused("upscale folder -o out", "contains no PNG");
    desk.refused("project folder -o out.png --to erp", "holds neither");
    desk.refused("project square.png -o out.png --to erp", "neither 6:1");
    put(&desk, "larger.png", &panorama(32, BitDepth::Eight));
    desk.refused("evaluate larger.png pano.png", "must have the same size");
}

/// A PNG whose header claims 2³¹ − 1 pixels a side.
fn huge_png() -> Vec<u8> {
    let mut header = b"IHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0".to_vec();
    let mut crc = u32::MAX;
    for &byte in &header {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    header.extend((!crc).to_be_bytes());
    [
        &b"\x89PNG\r\n\x1a\n\0\0\0\r"[..],
        &header,
        b"\0\0\0\0IDAT\x35\xaf\x06\x1e",
    ]
    .concat()
}

#[test]
fn wrong_outputs_are_refused_before_the_work() {
    let desk = desk();
    let mut glass = panorama(16, BitDepth::Eight);
    glass.alpha = Some(Raster::zeros(1, 16, 32));
    put(&desk, "glass.png", &glass);
    desk.refused("upscale pano.png -o no/where/out.png", "does not exist");
    desk.refused("upscale pano.png -o out.gif", "extension");
    desk.refused("upscale pano.png -o out", "extension");
    desk.refused("upscale pano.png -o pano.png", "is the input");
    desk.refused("upscale pano.png -o ./pano.png", "is the input");
    desk.refused("upscale pano.png -o .", "is the input");
    desk.refused("upscale . -o .", "is the input");
    desk.refused("upscale . -o pano.png", "the output must be a folder");
    desk.refused("upscale glass.png -o out.jpg", "alpha");
    desk.refused("upscale -o no/where/out.png", "does not exist");
    desk.refused("project pano.png -o pano.png --to cubemap", "is the input");
    desk.refused("project pano.png -o . --to tangent", "not empty");
    desk.refused(
        "project glass.png -o glass.png --to tangent",
        "is the input",
    );
    desk.refused("project pano.png -o glass.png --to tangent", "it is a file");
    desk.refused(
        "project pano.png -o out --to cubemap --layout dice",
        "--layout",
    );
    desk.refused("project pano.png -o out --to tangent --fov 20", "plane");
    desk.refused("claims report --markdown no/where.md", "no/where.md");
}

#[cfg(unix)]
#[test]
fn a_folder_that_cannot_be_written_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let desk = desk();
    let closed = desk.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(closed.join("probe"), "").is_ok() {
        return; // root may write everywhere
    }
    desk.refused("upscale pano.png -o closed/out.png", "cannot write");
}

#[test]
fn unknown_and_wrong_models_are_told() {
    let desk = desk();
    desk.refused(
        "upscale pano.png -o out.png --model nowhere",
        "no model folder nowhere",
    );
    fs::create_dir(desk.path("model")).unwrap();
    desk.refused("upscale pano.png -o out.png --model model", "holds no");
    fs::write(desk.path("model/prior.json"), "{").unwrap();
    fs::write(desk.path("model/model.safetensors"), "no weights").unwrap();
    desk.refused("upscale pano.png -o out.png --model model", "prior.json");
    fs::remove_dir_all(desk.path("model")).unwrap();
    put_model(&desk);
    let config = fs::read_to_string(desk.path("model/prior.json")).unwrap();
    let other = config.replace("\"base_channels\": 8", "\"base_channels\": 16");
    assert_ne!(config, other);
    fs::write(desk.path("model/prior.json"), other).unwrap();
    desk.refused(
        "upscale pano.png -o out.png --model model",
        "model.safetensors",
    );
}

/// A folder `stablesr` with a StableSR of random weights.
fn put_stable_sr(desk: &Desk) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../nabla-diffusion/tests/reference/tiny/stable_sr");
    fs::create_dir(desk.path("stablesr")).unwrap();
    for name in [
        "stablesr_tiny.safetensors",
        "vqgan_cfw_tiny.ckpt",
        "config.json",
    ] {
        fs::copy(source.join(name), desk.path("stablesr").join(name)).unwrap();
    }
}

#[test]
fn stable_sr_upscales_whole_panoramas() {
    let desk = desk();
    put_stable_sr(&desk);
    let line = "upscale pano.png --scale 2 --steps 3 --model stablesr";
    let told = desk.json(&format!("{line} -o out.png"));
    assert_eq!(
        [&told["width"], &told["height"], &told["steps"]],
        [64, 32, 3]
    );
    // It reduces to what it was made of.
    assert!(told["inconsistency"].as_f64().unwrap() < 1e-4, "{told}");
    assert_eq!(get(&desk, "out.png").size(), [64, 32]);
    desk.done(&format!("{line} -o again.png"));
    let bytes = |name| fs::read(desk.path(name)).unwrap();
    assert_eq!(bytes("out.png"), bytes("again.png"));
    desk.done(&format!("{line} -o seed.png --seed 1"));
    assert_ne!(bytes("out.png"), bytes("seed.png"));
    desk.done(&format!("{line} -o half.png --precision f16"));
    assert_ne!(bytes("out.png"), bytes("half.png"));
}

#[test]
fn folders_that_are_no_models_of_super_resolution_are_told() {
    let desk = desk();
    let line = "upscale pano.png -o out.png --steps 2 --model";
    desk.refused("upscale pano.png -o out.png --precision f16", "--model");
    put_model(&desk);
    desk.refused(&format!("{line} model --precision f16"), "for StableSR");
    fs::create_dir(desk.path("diffusers")).unwrap();
    desk.put("diffusers/model_index.json", "{}");
    desk.refused(&format!("{line} diffusers"), "from texts");
    put_stable_sr(&desk);
    fs::remove_file(desk.path("stablesr/vqgan_cfw_tiny.ckpt")).unwrap();
    desk.refused(&format!("{line} stablesr"), "vqgan_cfw_*.ckpt");
    fs::write(desk.path("stablesr/vqgan_cfw_a.ckpt"), "no weights").unwrap();
    desk.refused(&format!("{line} stablesr"), "not a file of weights");
}

#[test]
fn devices_that_are_not_built_in_are_told() {
    let desk = desk();
    for (device, built_in) in [
        ("cuda", cfg!(feature = "cuda")),
        ("wgpu", cfg!(feature = "wgpu")),
    ] {
        if !built_in {
            let line = format!("upscale pano.png -o out.png --device {device}");
            desk.refused(&line, &format!("--features {device}"));
        }
    }
}

#[test]
fn lists_and_checks_are_told_to_people_and_programs() {
    let desk = desk();
    assert!(desk.done("list").contains("omnissr"));
    let listed = desk.json("list");
    assert_eq!(listed.as_array().unwrap().len(), 56);
    let omnissr = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|m| m["slug"] == "omnissr")
        .unwrap();
    assert_eq!(omnissr["paper"]["arxiv"], "2404.10312");
    assert!(omnissr["state"].is_string() && omnissr["claim"].is_null());
    // Every method that is done has an experiment, and only one.
    desk.done("claims list");
    let slugs = |json: &Value| -> Vec<String> {
        let all = json.as_array().unwrap().iter();
        all.map(|m| m["slug"].as_str().unwrap().to_owned())
            .collect()
    };
    let mut done = listed.clone();
    done.as_array_mut()
        .unwrap()
        .retain(|m| m["state"] == "done");
    assert_eq!(slugs(&desk.json("claims list")), slugs(&done));

    assert!(desk.done("doctor").contains("works"));
    let doctor = desk.json("doctor");
    assert_eq!(doctor["nabla"], env!("CARGO_PKG_VERSION"));
    assert!(doctor["threads"].as_u64().unwrap() > 0);
    let cpu = &doctor["devices"][0];
    assert_eq!(
        (&cpu["device"], &cpu["state"]),
        (&"cpu".into(), &"works".into())
    );
    for speed in [
        "linear_gflops",
        "linear_training_gflops",
        "convolution_gflops",
        "convolution_training_gflops",
    ] {
        assert!(cpu["check"][speed].as_f64().unwrap() > 0.0, "{speed}");
    }
}

#[test]
fn a_report_of_no_results_is_a_report() {
    let desk = desk();
    let readme = "# A\n<!-- methods:begin -->\n<!-- methods:end -->\nthe end\n";
    fs::write(desk.path("README.md"), readme).unwrap();
    let told = desk.done("claims report --readme README.md");
    assert!(told.starts_with("0 results"), "{told}");
    // The page is written only if it is asked for.
    assert!(desk.path("RESULTS.md").is_file());
    assert!(fs::read_dir(desk.path(".")).unwrap().all(|entry| {
        let path = entry.unwrap().path();
        path.extension().is_none_or(|extension| extension != "html")
    }));
    let told = desk.done("claims report --html page.html");
    assert!(told.contains("RESULTS.md and page.html"), "{told}");
    assert!(desk.path("page.html").is_file());
    let readme = fs::read_to_string(desk.path("README.md")).unwrap();
    assert!(readme.contains("`omnissr`") && readme.ends_with("the end\n"));
    fs::create_dir(desk.path("results")).unwrap();
    fs::write(desk.path("results/omnissr.json"), "{}").unwrap();
    let output = desk.nabla("claims report");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("omnissr.json"));
}

#[test]
fn equal_pictures_have_no_error_and_others_have() {
    let desk = desk();
    put(&desk, "a.png", &panorama(32, BitDepth::Eight));
    let mut other = panorama(32, BitDepth::Eight);
    other.raster = other.raster.map(|v| (v + 0.1).min(1.0));
    put(&desk, "b.tif", &other);
    assert!(desk.done("evaluate a.png b.tif").contains("WS-PSNR"));
    let equal = desk.json("evaluate a.png a.png");
    assert_eq!(equal["ws_psnr"], Value::Null);
    assert_eq!(equal["ws_ssim"], 1.0);
    let differ = desk.json("evaluate a.png b.tif");
    assert!(
        (differ["psnr"].as_f64().unwrap() - 20.0).abs() < 0.5,
        "{differ}"
    );
}

/// What comes back from planes and faces is the panorama, within what resampling loses.
#[test]
fn projections_come_back() {
    let desk = desk();
    let mut picture = panorama(64, BitDepth::Sixteen);
    picture.alpha = Some(Raster::from_fn(1, 64, 128, |_, y, _| y as f32 / 63.0));
    put(&desk, "a.png", &picture);
    let made = desk.json("project a.png -o planes --to tangent");
    assert_eq!(made["files"].as_array().unwrap().len(), 18);
    desk.done("project a.png -o faces --to cubemap");
    assert_eq!(get(&desk, "faces/front.png").size(), [32, 32]);
    for (layout, size) in [
        ("strip", [192, 32]),
        ("dice", [96, 64]),
        ("cross", [128, 96]),
    ] {
        desk.done(&format!(
            "project a.png -o {layout}.png --to cubemap --layout {layout}"
        ));
        assert_eq!(get(&desk, &format!("{layout}.png")).size(), size);
    }
    for input in ["planes", "faces", "strip.png", "dice.png", "cross.png"] {
        desk.done(&format!("project {input} -o back.tif --to erp"));
        let back = get(&desk, "back.tif");
        assert_eq!(back.size(), [128, 64], "{input}");
        assert_eq!(back.bit_depth, BitDepth::Sixteen, "{input}");
        assert!(back.alpha.is_some(), "{input}");
        assert_eq!(
            back.metadata.photosphere().unwrap(),
            Some(PhotoSphere::full(128, 64))
        );
        let errors = back.raster.data().iter().zip(picture.raster.data());
        let worst = errors.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 0.03, "{input}: {worst}");
    }
    let small = desk.json("project faces -o small.png --to erp --size 32");
    assert_eq!(small["size"], serde_json::json!([64, 32]));
}

#[test]
fn a_damaged_folder_of_planes_is_told() {
    let desk = desk();
    desk.done("project pano.png -o planes --to tangent");
    let description = fs::read_to_string(desk.path("planes/tangent.json")).unwrap();
    fs::remove_file(desk.path("planes/plane_07.png")).unwrap();
    desk.refused("project planes -o out.png --to erp", "plane_07.png");
    for (wrong, told) in [
        ("{".to_owned(), "tangent.json"),
        (
            description.replace("plane_07.png", "../pano.png"),
            "not the name of a file",
        ),
        (
            description.replace("\"fov\": 75.0", "\"fov\": 1e9"),
            "field of view",
        ),
        (
            description.replacen("\"plane_07.png\",", "", 1),
            "names 17 planes",
        ),
    ] {
        fs::write(desk.path("planes/tangent.json"), wrong).unwrap();
        desk.refused("project planes -o out.png --to erp", told);
    }
}

#[test]
fn a_panorama_is_upscaled_with_all_that_belongs_to_it() {
    let desk = desk();
    put_model(&desk);
    let mut picture = panorama(16, BitDepth::Sixteen);
    picture.alpha = Some(Raster::from_fn(1, 16, 32, |_, y, _| f32::from(y as u8 / 8)));
    let sphere = |w| PhotoSphere {
        pose_heading_degrees: Some(30.0),
        ..PhotoSphere::full(w, w / 2)
    };
    picture.metadata = Metadata {
        icc: Some(b"a profile".to_vec()),
        xmp: Some(sphere(32).to_xmp()),
        ..Metadata::default()
    };
    put(&desk, "a.png", &picture);
    let told = desk.json("upscale a.png -o b.tif --scale 2 --steps 1 --model model");
    assert_eq!((&told["width"], &told["height"]), (&64.into(), &32.into()));
    let large = get(&desk, "b.tif");
    assert_eq!(
        (large.size(), large.bit_depth),
        ([64, 32], BitDepth::Sixteen)
    );
    assert_eq!(large.metadata.icc.as_deref(), Some(&b"a profile"[..]));
    assert_eq!(large.metadata.photosphere().unwrap(), Some(sphere(64)));
    let alpha = large.alpha.unwrap();
    assert!(alpha.get(0, 0, 0) < 0.01 && alpha.get(0, 31, 63) > 0.99);
    // The same seed gives the same file, another one another.
    desk.done("upscale a.png -o c.tif --scale 2 --steps 1 --model model");
    desk.done("upscale a.png -o d.tif --scale 2 --steps 1 --model model --tile 16");
    assert_eq!(
        fs::read(desk.path("b.tif")).unwrap(),
        fs::read(desk.path("c.tif")).unwrap()
    );
    let (a, b) = (get(&desk, "b.tif").raster, get(&desk, "d.tif").raster);
    let worst = a
        .data()
        .iter()
        .zip(b.data())
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(worst < 1e-3, "tiles must not show: {worst}");
}

#[test]
fn grey_stays_grey_and_a_panorama_is_declared_one() {
    let desk = desk();
    put_model(&desk);
    let grey = Picture::new(
        Raster::from_fn(1, 16, 32, |_, y, x| (x + y) as f32 / 64.0),
        BitDepth::Eight,
    );
    put(&desk, "grey.png", &grey);
    desk.done("upscale grey.png -o out.png --scale 2 --steps 1 --model model");
    let large = get(&desk, "out.png");
    assert_eq!(large.raster.shape(), [1, 32, 64]);
    assert_eq!(
        large.metadata.photosphere().unwrap(),
        Some(PhotoSphere::full(64, 32))
    );
}

#[test]
fn a_folder_is_upscaled_as_far_as_it_can_be() {
    let desk = desk();
    put_model(&desk);
    fs::create_dir(desk.path("in")).unwrap();
    for name in ["in/a.jpg", "in/b.webp"] {
        put(&desk, name, &panorama(16, BitDepth::Eight));
    }
    desk.done("upscale in -o out --scale 2 --steps 1 --model model");
    for name in ["out/a.jpg", "out/b.webp"] {
        assert_eq!(get(&desk, name).size(), [64, 32]);
    }
    fs::write(desk.path("in/c.png"), "broken").unwrap();
    fs::write(desk.path("in/notes.txt"), "not looked at").unwrap();
    let output = desk.nabla("upscale in -o out --scale 2 --steps 1 --model model --json");
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("c.png is not an image") && error.contains("1 of 3"),
        "{error}"
    );
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["done"].as_array().unwrap().len(), 2);
    assert_eq!(told["failed"].as_array().unwrap().len(), 1);
    assert_eq!(files(&desk.path("out")).len(), 2);
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_no_file() {
    use std::time::Duration;
    let desk = desk();
    put_model(&desk);
    put(&desk, "large.png", &panorama(256, BitDepth::Eight));
    let before = files(desk.folder());
    let mut child = Command::new(env!("CARGO_BIN_EXE_nabla"))
        .args([
            "upscale",
            "large.png",
            "-o",
            "out.png",
            "--model",
            "model",
            "--steps",
            "100",
        ])
        .current_dir(desk.folder())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let told = Command::new("kill")
        .args(["-s", "INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(
        told.success(),
        "the job had ended before it was interrupted"
    );
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(files(desk.folder()), before);
}
