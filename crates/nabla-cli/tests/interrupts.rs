//! Signals from outside: every job that takes long ends with the code of the signal and one line, and
//! leaves no output behind.

#![cfg(unix)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nabla::data::BitDepth;

use crate::desk::{Desk, files};
use crate::program::{panorama, put, put_model};
use crate::searching::{SEARCH, put_models};

fn spawned(desk: &Desk, line: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_nabla"))
        .args(line.split_whitespace())
        .current_dir(desk.folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill")
        .args(["-s", signal, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success(), "the job had ended before the signal");
}

/// What a job that has got a signal ends with.
fn ended(mut child: Child, line: &str, code: i32, err: &str) {
    let mut out = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(code), "{line}: {err}");
    assert!(out.is_empty(), "{line}: {out}");
    assert!(err.ends_with("nabla: interrupted\n"), "{line}: {err}");
    assert_eq!(err.matches("nabla: ").count(), 1, "{line}: {err}");
}

/// Sends a job a signal as soon as it shows that it works.
fn interrupted(desk: &Desk, line: &str, signal: &str, code: i32) {
    let mut child = spawned(desk, line);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut err = String::new();
    stderr.read_line(&mut err).unwrap();
    send(signal, &child);
    stderr.read_to_string(&mut err).unwrap();
    ended(child, line, code, &err);
}

/// Sends a job the signal of Ctrl+C as soon as it has written a file.
pub fn interrupted_after(desk: &Desk, line: &str, file: &str) {
    let mut child = spawned(desk, line);
    while !desk.path(file).exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    send("INT", &child);
    let mut err = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut err).unwrap();
    ended(child, line, 130, &err);
}

#[test]
fn a_solver_that_is_interrupted_leaves_no_model() {
    let desk = Desk::empty();
    // No hyperplane separates these.
    desk.put("both.libsvm", "1 1:1\n-1 1:1\n");
    let before = files(desk.folder());
    let line = "solve separate both.libsvm --max-iterations 1000000000000 -o m.json --trace t.csv";
    interrupted(&desk, line, "INT", 130);
    interrupted(&desk, line, "TERM", 143);
    assert_eq!(files(desk.folder()), before);
}

/// The job waits for examples that never come.
#[test]
fn a_solver_that_reads_is_interrupted() {
    let desk = Desk::empty();
    for solver in ["bcd", "separate", "relu"] {
        let line = format!("solve {solver} - -o m.json");
        let mut child = spawned(&desk, &line);
        // More than a pipe holds: once all of it is written, the job reads.
        let mut stdin = child.stdin.take().unwrap();
        stdin
            .write_all("1 1:1\n".repeat(100_000).as_bytes())
            .unwrap();
        send("INT", &child);
        let mut err = String::new();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_to_string(&mut err).unwrap();
        ended(child, &line, 130, &err);
        drop(stdin);
    }
    assert!(files(desk.folder()).is_empty());
}

#[test]
fn an_upscaling_that_is_interrupted_is_no_wrong_input() {
    let desk = Desk::empty();
    put_model(&desk);
    put(&desk, "large.png", &panorama(256, BitDepth::Eight));
    fs::create_dir(desk.path("in")).unwrap();
    put(&desk, "in/large.png", &panorama(256, BitDepth::Eight));
    let before = files(desk.folder());
    let flags = "--model model --steps 100";
    interrupted(
        &desk,
        &format!("upscale large.png -o a.png {flags}"),
        "INT",
        130,
    );
    assert_eq!(files(desk.folder()), before);
    interrupted(
        &desk,
        &format!("upscale in -o out {flags} --json"),
        "INT",
        130,
    );
    assert!(files(&desk.path("out")).is_empty());
}

#[test]
fn a_sampling_that_is_interrupted_leaves_no_picture() {
    let desk = Desk::empty();
    let tiny =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../nabla-diffusion/tests/reference/tiny");
    crate::tiny_single_file::copy_folder(&tiny.join("sd15"), &desk.path("sd15"), true);
    let before = files(desk.folder());
    let line = "sample --model sd15 --prompt x --size 64 --steps 900 --sampler ddim -o a.png";
    interrupted(&desk, line, "INT", 130);
    assert_eq!(files(desk.folder()), before);
}

#[test]
fn trainings_and_comparisons_are_interrupted() {
    let desk = Desk::empty();
    interrupted(&desk, "train model --epochs 100000", "INT", 130);
    interrupted(
        &desk,
        "compare --optimizers sgd,adamw --epochs 10000",
        "INT",
        130,
    );
    assert!(files(desk.folder()).is_empty());
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets");
    let assets = format!("--assets {}", assets.display());
    interrupted(&desk, &format!("train prior -o prior {assets}"), "INT", 130);
    assert!(!desk.path("prior/model.safetensors").exists());
    interrupted(&desk, &format!("claims run adamp {assets}"), "TERM", 143);
    assert!(files(&desk.path("results")).is_empty());
}

/// In the middle of the search, and then the same command again.
#[test]
fn a_search_that_is_interrupted_goes_on() {
    let desk = Desk::empty();
    put_models(&desk);
    let line = |out: &str| format!("{SEARCH} --steps 3 --population 8 --epochs 2 --out {out}");
    interrupted_after(&desk, &line("parts"), "parts/search.json");
    assert!(!desk.path("parts/plan.json").exists());
    for out in ["parts", "whole"] {
        desk.done(&line(out));
    }
    for name in ["plan.json", "history.csv", "search.svg"] {
        let [parts, whole] = ["parts", "whole"].map(|out| desk.get(&format!("{out}/{name}")));
        assert_eq!(parts, whole, "{name}");
    }
}
