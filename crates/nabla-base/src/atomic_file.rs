//! Output files that are written completely or not at all.
//!
//! The bytes go to a temporary file in the folder of the output, which is renamed over the output when
//! everything has been written. A failure or an interrupt before that leaves an older file of the same name
//! unchanged. A program that must end calls [`remove_unfinished_files`], so that no temporary file remains
//! either.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::NamedTempFile;

/// The output file cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The folder that should hold the output does not exist.
    #[error("cannot write {}: the folder {} does not exist", path.display(), folder.display())]
    NoFolder {
        /// The output.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// The output exists and is a folder or a device, which a file must not replace.
    #[error("cannot write {}: it exists and is not a regular file", path.display())]
    NotAFile {
        /// The output.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The output.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// The folder that holds `path`, which is `.` for a bare file name.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The existing temporary files. Code that creates, renames or removes one holds the lock.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // The set is consistent between any two statements that hold the lock.
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the temporary files of all outputs that are being written, and prevents threads from starting or
/// finishing other ones. For a program that ends because it was interrupted: outputs are unchanged, and no
/// temporary files remain.
pub fn remove_unfinished_files() {
    let files = unfinished();
    for file in files.iter() {
        // If a file cannot be removed, nothing more can be done.
        let _ = fs::remove_file(file);
    }
    std::mem::forget(files);
}

/// A temporary file that is listed as unfinished until it is dropped or persisted.
struct PartialFile {
    /// `None` after it was renamed to its output.
    file: Option<NamedTempFile>,
    path: PathBuf,
}

impl PartialFile {
    fn persist(mut self, path: &Path) -> io::Result<()> {
        let mut files = unfinished();
        let persisted = match self.file.take() {
            Some(file) => file.persist(path).map(drop).map_err(|e| e.error),
            None => Ok(()),
        };
        files.remove(&self.path);
        persisted
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            let mut files = unfinished();
            self.file = None;
            files.remove(&self.path);
        }
    }
}

fn temporary_file(path: &Path) -> Result<PartialFile, OutputError> {
    let folder = folder_of(path);
    if !folder.is_dir() {
        return Err(OutputError::NoFolder {
            path: path.into(),
            folder: folder.into(),
        });
    }
    if path.file_name().is_none() || fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Err(OutputError::NotAFile { path: path.into() });
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(".nabla-").suffix(".part");
    #[cfg(unix)]
    {
        // A temporary file is private by default; the output gets ordinary permissions, according to the
        // umask.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut files = unfinished();
    let file = builder
        .tempfile_in(folder)
        .map_err(|source| OutputError::Io {
            path: path.into(),
            source,
        })?;
    files.insert(file.path().to_owned());
    Ok(PartialFile {
        path: file.path().to_owned(),
        file: Some(file),
    })
}

/// Checks, before a long job, that `path` can be written: its folder exists, a file can be created in it, and
/// `path` itself is not a folder or device.
///
/// # Errors
/// One sentence that names the path.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// assert!(nabla_base::check_writable(&folder.path().join("out.png")).is_ok());
/// assert!(nabla_base::check_writable(&folder.path().join("absent/out.png")).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn check_writable(path: &Path) -> Result<(), OutputError> {
    temporary_file(path).map(drop)
}

/// Calls `write` to fill a temporary file, then renames it to `path`.
///
/// # Errors
/// The error of `write`, or an [`OutputError`]; the temporary file is then removed, and `path` is unchanged.
///
/// ```
/// use std::io::Write;
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("out.txt");
/// nabla_base::write_atomically(&path, |out| {
///     writeln!(out, "whole").map_err(|source| nabla_base::OutputError::Io { path: path.clone(), source })
/// })?;
/// assert_eq!(std::fs::read_to_string(&path)?, "whole\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_atomically<E: From<OutputError>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> Result<(), E>,
) -> Result<(), E> {
    let mut partial = temporary_file(path)?;
    let io = |source| OutputError::Io {
        path: path.into(),
        source,
    };
    if let Some(file) = &mut partial.file {
        let mut out = BufWriter::with_capacity(1 << 16, file.as_file_mut());
        write(&mut out)?;
        out.flush().map_err(io)?;
        drop(out);
        // Without this a crash of the machine could leave a renamed file without its contents.
        file.as_file().sync_all().map_err(io)?;
    }
    partial.persist(path).map_err(io)?;
    Ok(())
}

/// Writes `bytes` to `path` like [`write_atomically`].
///
/// # Errors
/// An [`OutputError`]; `path` is then unchanged.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("out.json");
/// nabla_base::write_bytes_atomically(&path, b"{}")?;
/// assert_eq!(std::fs::read(&path)?, b"{}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_bytes_atomically(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    write_atomically(path, |out| {
        out.write_all(bytes).map_err(|source| OutputError::Io {
            path: path.into(),
            source,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_older_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        fs::write(&path, "old").unwrap();
        let result = write_atomically(&path, |out| {
            out.write_all(b"half").unwrap();
            Err(OutputError::NotAFile { path: path.clone() })
        });
        assert!(result.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_written_file_replaces_the_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        fs::write(&path, "old").unwrap();
        write_atomically(&path, |out| {
            out.write_all(b"new").unwrap();
            Ok::<(), OutputError>(())
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_no_more_private_than_others() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (ours, plain) = (folder.path().join("ours"), folder.path().join("plain"));
        write_atomically(&ours, |_| Ok::<(), OutputError>(())).unwrap();
        fs::write(&plain, "").unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }

    #[test]
    fn folders_devices_and_absent_folders_are_refused_with_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = check_writable(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
        let error = check_writable(&folder.path().join("no/x.png"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("does not exist") && error.contains("x.png"),
            "{error}"
        );
        #[cfg(unix)]
        assert!(matches!(
            check_writable(Path::new("/dev/null")),
            Err(OutputError::NotAFile { .. })
        ));
        assert!(check_writable(Path::new("/")).is_err());
    }
}
