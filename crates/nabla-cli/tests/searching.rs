//! `nabla search steps` and `nabla sample --plan` from outside.

use std::fs;
use std::path::Path;

use nabla::data::{BitDepth, Picture, Raster, WriteOptions};
use serde_json::Value;

use crate::desk::{Desk, files};

/// A small network and a classifier of the digits, both hardly trained.
pub fn put_models(desk: &Desk) {
    desk.put(
        "small.toml",
        "[data]\nsource = \"digits\"\n[training]\nbatch = 8\nwarmup = 2\n\
         [model.network]\nbase_channels = 32\nblocks_per_level = 1\n",
    );
    desk.done("train denoiser --recipe small.toml --steps 3 --out model");
    desk.done("train model --data digits --epochs 1 --out judge");
}

pub const SEARCH: &str =
    "search steps --model model --judge judge --data digits -n 20 --final-pictures 30";

#[test]
fn a_search_leaves_a_plan_that_is_drawn_with() {
    let desk = Desk::empty();
    put_models(&desk);
    let line = format!("{SEARCH} --steps 3 --population 8 --epochs 2 --out found");
    let (out, _) = desk.told(&line);
    assert!(
        out.contains("FD (mlp)") && out.contains("trailing"),
        "{out}"
    );
    assert!(
        out.contains("16 plans scored: 320 pictures, 960 evaluations of the network"),
        "{out}"
    );
    for name in ["history.csv", "plan.json", "search.json", "search.svg"] {
        assert!(desk.path("found").join(name).is_file(), "{name}");
    }
    let history = desk.get("found/history.csv");
    assert_eq!(history.lines().count(), 1 + 16, "{history}");
    let plan: Value = serde_json::from_str(&desk.get("found/plan.json")).unwrap();
    assert_eq!(plan["steps"].as_array().unwrap().len(), 3);
    assert_eq!(
        (&plan["guidance"], &plan["sampler"]),
        (&"none".into(), &"ddim".into())
    );
    assert_eq!(plan["sampler_options"]["clip"], 1.0);
    assert_eq!(plan["space"]["blocks"], 6);

    // Everything is known: the same files again.
    let before = files(&desk.path("found"));
    let json = desk.json(&line);
    assert_eq!(files(&desk.path("found")), before);
    let compared = json["compared"].as_array().unwrap();
    assert_eq!(compared.len(), 5);
    assert_eq!(compared[0]["name"], "found");
    assert_eq!(compared[0]["pictures"], 30);
    assert_eq!(json["report"]["evaluations"], 16);
    // The same seed finds the same plan.
    desk.done(&line.replace("--out found", "--out again"));
    assert_eq!(desk.get("again/plan.json"), desk.get("found/plan.json"));

    let sampled = desk.json("sample --model model --plan found/plan.json --class 3 -o out.png");
    assert_eq!(sampled["steps"], 3);
    assert_eq!(sampled["network_evaluations"], 3);
    assert_eq!(sampled["sampler_options"]["rederive_epsilon"], true);
    // Whoever asks for another sampler or guidance gets it.
    let other = "sample --model model --plan found/plan.json --class 3 --sampler plms \
                 --guidance-scale 2 --guidance classifier-free -o other.png";
    let sampled = desk.json(other);
    assert_eq!(sampled["network_evaluations"], 8);
    assert!(fs::read(desk.path("out.png")).unwrap() != fs::read(desk.path("other.png")).unwrap());

    desk.refused(
        &line.replace("--steps 3", "--steps 4"),
        "holds a search with other settings",
    );
    desk.refused(
        "sample --model model --plan small.toml --class 3 -o none.png",
        "small.toml is not a plan of `nabla search steps`",
    );
    let of_another = desk
        .get("found/plan.json")
        .replace("class-denoiser", "stable-diffusion");
    desk.put("sd.json", &of_another);
    desk.refused(
        "sample --model model --plan sd.json --class 3 -o none.png",
        "the plan is for a Stable Diffusion model with 1000 training steps and 6 blocks, but the model is a \
         denoiser of labelled pictures",
    );
    assert!(!desk.path("none.png").exists());
}

#[test]
fn blocks_are_skipped_for_more_steps() {
    let desk = Desk::empty();
    put_models(&desk);
    let line = format!(
        "{SEARCH} --units 12 --population 6 --epochs 4 --first-stage 1 --guidance-scale 1.5 --out joint"
    );
    let found = desk.json(&line);
    assert!(found["units"].as_u64().unwrap() <= 12);
    // Some of the candidates skip blocks; the history says which.
    let history = desk.get("joint/history.csv");
    assert!(history.contains('('), "{history}");
    desk.done("sample --model model --plan joint/plan.json --class all -o out.png");
    let plan = desk.get("joint/plan.json");
    assert!(plan.contains("\"guidance_scale\": 1.5"), "{plan}");

    for (line, told) in [
        (
            "--units 5",
            "the budget is 5 blocks, but one step of the whole network has 6",
        ),
        ("--steps 1001", "1001 steps were asked for"),
        (
            "--steps 2 --guidance apg",
            "the guidance apg has a scale: give it with --guidance-scale",
        ),
        (
            "--steps 2 --guidance none --guidance-scale 2",
            "the guidance none has no scale",
        ),
        (
            "--steps 2 --guidance better",
            "there is no guidance \"better\"",
        ),
        (
            "--steps 2 --sampler-option speed=3",
            "has no option \"speed\"",
        ),
        ("--steps 2 --population 0", "population of the search is 0"),
    ] {
        desk.refused(&format!("{SEARCH} {line} --out none"), told);
    }
    assert!(!desk.path("none").exists());
}

#[test]
fn stable_diffusion_is_judged_by_pictures() {
    let desk = Desk::empty();
    let tiny =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../nabla-diffusion/tests/reference/tiny");
    for (from, to) in [("sd15", "sd15"), ("attachments/ip/image_encoder", "clip")] {
        crate::tiny_single_file::copy_folder(&tiny.join(from), &desk.path(to), true);
    }
    fs::create_dir(desk.path("real")).unwrap();
    for number in 0..3 {
        let picture = Raster::from_fn(3, 40, 64, |c, y, x| {
            0.5 + 0.4 * ((x * (c + number + 1) + y) as f32 / 9.0).sin()
        });
        Picture::new(picture, BitDepth::Eight)
            .write(
                &desk.path(&format!("real/{number}.png")),
                &WriteOptions::default(),
            )
            .unwrap();
    }
    let line = "search steps --model sd15 --reference real --encoder clip --prompt cat --prompt dog --size 64x40 \
                --units 76 --population 3 --epochs 2 --first-stage 1 -n 10 --final-pictures 10 --out found";
    let found = desk.json(line);
    assert_eq!(
        (&found["judge"], &found["blocks"]),
        (&"CLIP".into(), &38.into())
    );
    let plan: Value = serde_json::from_str(&desk.get("found/plan.json")).unwrap();
    assert_eq!(plan["model"], "stable-diffusion");
    assert_eq!(plan["guidance_scale"], 7.5);
    let drawn = "sample --model sd15 --plan found/plan.json --prompt cat --size 64x40 -o out.png";
    let drawn = desk.json(drawn);
    assert_eq!(drawn["steps"], plan["steps"].as_array().unwrap().len());
    assert_eq!(
        (&drawn["sampler"], &drawn["guidance_scale"]),
        (&"ddim".into(), &7.5.into())
    );

    let few = line.replace("real", "sd15");
    desk.refused(&few.replace("found", "none"), "holds 0 pictures");
    desk.refused(
        "search steps --model sd15 --judge clip --steps 2 --out none",
        "the model sd15 is not one of nabla train denoiser: give --reference, --encoder and --prompt",
    );
}

#[test]
fn a_guidance_is_found_and_drawn_with() {
    let desk = Desk::empty();
    put_models(&desk);
    let line = "search guidance --model model --steps 6 -n 10 --guidance-scale 3";
    let linear = desk.json(&format!("{line} -o linear.json"));
    assert_eq!(
        (&linear["evaluations"], &linear["of_classifier_free"]),
        (&8.into(), &12.into())
    );
    assert!(linear["explained"].as_f64().unwrap() > 0.5, "{linear}");
    let policy = desk.json(&format!(
        "{line} --kind policy --evaluations 9 --epochs 2 -o policy.json"
    ));
    assert!(policy["evaluations"].as_u64().unwrap() <= 9, "{policy}");
    for (file, found) in [("linear.json", linear), ("policy.json", policy)] {
        let sample = "sample --model model --class 3 -n 2 -o out.png --guidance-file";
        let drawn = desk.json(&format!("{sample} {file} --steps 6"));
        let each = drawn["network_evaluations"].as_u64().unwrap() / 2;
        assert_eq!(Some(each), found["evaluations"].as_u64(), "{file}");
        desk.refused(
            &format!("{sample} {file} --steps 5"),
            &format!("{file} is a guidance for 6 steps, but the run has 5"),
        );
    }
    desk.put("none.json", "{}");
    desk.refused(
        "sample --model model --class 3 -o out.png --guidance-file none.json",
        "none.json holds no guidance",
    );
    desk.refused(
        &format!("{line} --evaluations 5 -o x.json"),
        "it must be from 6",
    );
}
