//! Makes the program smaller, where the linker can (LLD, which is rustc's own on Linux):
//!
//! * functions with the same machine code are linked once: of the many copies of generic functions some differ only in
//!   their types;
//! * addresses in tables of functions, which the loader shifts to where the program lies, are listed as bits and not as 24
//!   bytes each. Loaders know this from glibc 2.36 on.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

const ONCE: &str = "-Wl,--icf=all";
const PACKED: &str = "-Wl,-z,pack-relative-relocs";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_CFG_UNIX").is_none() {
        return;
    }
    for (flag, must_run) in [(ONCE, false), (PACKED, true)] {
        if is_understood(flag, must_run).unwrap_or(false) {
            println!("cargo::rustc-link-arg-bins={flag}");
        }
    }
}

/// Whether an empty program can be linked in this way, with the flags and the linker of this build.
///
/// - `must_run`: whether it must also run here, which no program for another machine does
fn is_understood(flag: &str, must_run: bool) -> Option<bool> {
    let folder = env::var_os("OUT_DIR")?;
    let (source, program) = (
        Path::new(&folder).join("empty.rs"),
        Path::new(&folder).join("empty"),
    );
    fs::write(&source, "fn main() {}").ok()?;
    let mut rustc = Command::new(env::var_os("RUSTC")?);
    rustc.arg(&source).arg("-o").arg(&program);
    rustc.arg("--target").arg(env::var_os("TARGET")?);
    if let Ok(flags) = env::var("CARGO_ENCODED_RUSTFLAGS") {
        rustc.args(flags.split('\u{1f}').filter(|flag| !flag.is_empty()));
    }
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut flag = std::ffi::OsString::from("-Clinker=");
        flag.push(linker);
        rustc.arg(flag);
    }
    rustc.arg(format!("-Clink-arg={flag}"));
    let links = rustc.output().ok()?.status.success();
    Some(links && (!must_run || Command::new(&program).status().ok()?.success()))
}
