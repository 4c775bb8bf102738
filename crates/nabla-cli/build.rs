//! Links functions with the same machine code once, where the linker can (LLD, which is rustc's own on Linux): of the many
//! copies of generic functions some differ only in their types. That makes the program smaller.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

const ONCE: &str = "-Wl,--icf=all";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_CFG_UNIX").is_some() && is_understood().unwrap_or(false) {
        println!("cargo::rustc-link-arg-bins={ONCE}");
    }
}

/// Whether an empty program can be linked in this way, with the flags and the linker of this build.
fn is_understood() -> Option<bool> {
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
    rustc.arg(format!("-Clink-arg={ONCE}"));
    Some(rustc.output().ok()?.status.success())
}
