//! A folder to run the program in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// The folder.
pub struct Desk(TempDir);

impl Desk {
    /// An empty one.
    pub fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Writes a text file.
    pub fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Reads a text file.
    pub fn get(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs a line.
    pub fn nabla(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_nabla"))
            .args(line.split_whitespace())
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a line that must succeed, and returns what it said on both streams.
    pub fn told(&self, line: &str) -> (String, String) {
        let output = self.nabla(line);
        let [out, err] = [output.stdout, output.stderr].map(|s| String::from_utf8(s).unwrap());
        assert!(output.status.success(), "{line}: {out}{err}");
        (out, err)
    }

    /// Runs a line that must succeed, and returns its standard output.
    pub fn done(&self, line: &str) -> String {
        self.told(line).0
    }

    /// Runs a line with `--json` that must succeed.
    pub fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.done(&format!("{line} --json"))).unwrap()
    }

    /// Runs a line that must be refused with code 2 and one sentence, and change no file.
    pub fn refused(&self, line: &str, told: &str) {
        let before = files(self.folder());
        let output = self.nabla(line);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{line}: {error}");
        assert!(error.starts_with("nabla: "), "{line}: {error}");
        assert!(
            error.contains(told),
            "{line}: {error:?} should contain {told:?}"
        );
        assert!(output.stdout.is_empty(), "{line}");
        assert_eq!(files(self.folder()), before, "{line}");
    }
}

/// Everything below a folder, with its bytes.
pub fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.push((path.clone(), Vec::new()));
            all.extend(files(&path));
        } else {
            all.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}
