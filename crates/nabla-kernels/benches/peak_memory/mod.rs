//! The most memory that some work needs at once: it runs in a process of its own, whose peak is read.

use std::process::Command;

/// A number of `/proc/self/status` in MiB; nothing on other systems than Linux.
fn status(field: &str) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: f64 = line
        .trim_matches([':', '\t', ' '])
        .strip_suffix(" kB")?
        .parse()
        .ok()?;
    Some(kibibytes / 1024.0)
}

/// Runs `work` and prints by how much the process has grown at most.
pub fn print_growth(work: impl FnOnce()) {
    let before = status("VmRSS");
    work();
    if let (Some(before), Some(peak)) = (before, status("VmHWM")) {
        println!("peak {}", peak - before);
    }
}

/// What [`print_growth`] prints in a process that runs this program again with these arguments, in MiB.
pub fn growth_of(arguments: &[&str]) -> Option<f64> {
    let program = std::env::current_exe().ok()?;
    let out = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines()
        .find_map(|line| line.strip_prefix("peak ")?.parse().ok())
}
