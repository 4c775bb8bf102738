//! Output files that are written completely or not at all, and folders of files that belong together.
//!
//! The bytes go to a temporary file in the folder of the output, which is renamed over the output when
//! everything has been written. A failure or an interrupt before that leaves an older file of the same name
//! unchanged. A program that must end calls [`remove_unfinished_files`], so that no temporary file remains
//! either. For files that are useless without each other, [`write_folder_atomically`] creates all of them or
//! none.
//!
//! A program that is killed can remove nothing. A temporary file has the name of its output in its own, and is locked
//! while it is written, so that whoever writes the same output next finds those that nobody has locked, and removes them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::{NamedTempFile, TempDir};

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

/// The existing temporary files and folders. Code that creates, renames or removes one holds the lock.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // The set is consistent between any two statements that hold the lock.
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the temporary files of all outputs that are being written, and prevents threads from starting or
/// finishing other ones. For a program that ends because it was interrupted: outputs are unchanged, and no
/// temporary files remain.
pub fn remove_unfinished_files() {
    let paths = unfinished();
    remove(&paths);
    std::mem::forget(paths);
}

/// Removes files, and folders with everything in them.
fn remove(paths: &BTreeSet<PathBuf>) {
    paths.iter().for_each(|path| remove_path(path));
}

fn remove_path(path: &Path) {
    // If a path cannot be removed, nothing more can be done.
    let _ = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
}

/// A temporary file or folder. It is listed as unfinished until it is dropped, which removes it, or
/// persisted.
struct Partial<T> {
    /// `None` after it was renamed to its output.
    temporary: Option<T>,
    path: PathBuf,
    /// Open while it is in use.
    _lock: Option<File>,
}

/// What the names of the temporary files of an output begin and end with. Between them are characters drawn at random.
const SUFFIX: &str = ".part";
const DRAWN: usize = 6;

fn prefix(output: &Path) -> OsString {
    let mut prefix = OsString::from(".nabla-");
    // Names have at most 255 bytes. One that is too long stands for nothing here.
    let name = output.file_name().unwrap_or_default();
    if name.len() <= 200 {
        prefix.push(name);
        prefix.push("-");
    }
    prefix
}

/// Whether a file can be locked, so that nobody uses it. Where nothing can be locked, everything is in use.
fn lock(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    match file.try_lock() {
        Ok(()) => Some(file),
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => None,
    }
}

/// Removes what programs that were killed have left of an output.
fn remove_stale(folder: &Path, prefix: &OsStr) {
    let [begin, end] = [prefix.as_encoded_bytes(), SUFFIX.as_bytes()];
    let of_output = |name: &OsStr| {
        let name = name.as_encoded_bytes();
        name.len() == begin.len() + DRAWN + end.len()
            && name.starts_with(begin)
            && name.ends_with(end)
    };
    // What cannot be listed or removed stays.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if of_output(&entry.file_name())
            && let Some(locked) = lock(&entry.path())
        {
            remove_path(&entry.path());
            drop(locked);
        }
    }
}

impl<T> Partial<T> {
    /// - `path`: the output; `folder`: where the temporary file or folder is created
    /// - `mode`: the permissions on Unix. A temporary file is private by default; the output gets ordinary
    ///   permissions, according to the umask.
    /// - `make`, `path_of`: creates the temporary file or folder in a folder, and returns its path
    /// - `hold`: locks it until it is dropped, or what is returned is
    fn create(
        path: &Path,
        folder: &Path,
        mode: u32,
        make: impl Fn(&tempfile::Builder<'_, '_>, &Path) -> io::Result<T>,
        path_of: impl Fn(&T) -> &Path,
        hold: impl Fn(&T) -> Option<File>,
    ) -> Result<Self, OutputError> {
        let prefix = prefix(path);
        remove_stale(folder, &prefix);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(SUFFIX).rand_bytes(DRAWN);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(mode));
        }
        #[cfg(not(unix))]
        let _ = mode;
        let mut paths = unfinished();
        loop {
            let temporary = make(&builder, folder).map_err(|source| OutputError::Io {
                path: path.into(),
                source,
            })?;
            let path = path_of(&temporary).to_owned();
            let lock = hold(&temporary);
            // Before it was locked, another program may have taken it for a stale one.
            if !path.exists() {
                continue;
            }
            paths.insert(path.clone());
            return Ok(Self {
                temporary: Some(temporary),
                path,
                _lock: lock,
            });
        }
    }
}

impl<T> Drop for Partial<T> {
    fn drop(&mut self) {
        if self.temporary.is_some() {
            let mut paths = unfinished();
            self.temporary = None;
            paths.remove(&self.path);
        }
    }
}

impl Partial<NamedTempFile> {
    fn persist(mut self, path: &Path) -> io::Result<()> {
        let mut paths = unfinished();
        let persisted = match self.temporary.take() {
            Some(file) => file.persist(path).map(drop).map_err(|e| e.error),
            None => Ok(()),
        };
        paths.remove(&self.path);
        persisted
    }
}

impl Partial<TempDir> {
    /// Renames the folder to `path`, or moves its files into an existing folder `path`.
    fn persist(mut self, path: &Path) -> io::Result<()> {
        // While this holds the lock, no interrupt can come between two files.
        let mut paths = unfinished();
        match path.is_dir() {
            true => move_files(&self.path, path)?,
            false => fs::rename(&self.path, path)?,
        }
        // If the files were moved, this removes the empty temporary folder.
        self.temporary = None;
        paths.remove(&self.path);
        Ok(())
    }
}

/// Moves either all files from one folder to another or none.
fn move_files(from: &Path, to: &Path) -> io::Result<()> {
    let entries = fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
    for (index, entry) in entries.iter().enumerate() {
        if let Err(error) = fs::rename(entry.path(), to.join(entry.file_name())) {
            for moved in &entries[..index] {
                // The first error is reported, not those of moving back.
                let _ = fs::rename(to.join(moved.file_name()), moved.path());
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Permissions of an ordinary output, less those of the umask, and of one that only its owner may read.
const ORDINARY: u32 = 0o666;
const SECRET: u32 = 0o600;

fn temporary_file(path: &Path, mode: u32) -> Result<Partial<NamedTempFile>, OutputError> {
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
    Partial::create(
        path,
        folder,
        mode,
        |builder, folder| builder.tempfile_in(folder),
        NamedTempFile::path,
        |file| {
            // By its own handle: another one could keep this from writing. Without a lock it does as well.
            let _ = file.as_file().try_lock();
            None
        },
    )
}

/// Creates a temporary folder beside the folder `path`, or in it if it exists.
fn temporary_folder(path: &Path) -> Result<Partial<TempDir>, OutputError> {
    let io = |source| OutputError::Io {
        path: path.into(),
        source,
    };
    let parent = match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            Some(_) => return Err(io(io::ErrorKind::DirectoryNotEmpty.into())),
            None => path,
        },
        Err(_) if path.exists() => return Err(io(io::ErrorKind::NotADirectory.into())),
        Err(_) => folder_of(path),
    };
    if !parent.is_dir() {
        return Err(OutputError::NoFolder {
            path: path.into(),
            folder: parent.into(),
        });
    }
    Partial::create(
        path,
        parent,
        0o777,
        |builder, folder| builder.tempdir_in(folder),
        TempDir::path,
        |folder| lock(folder.path()),
    )
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
    temporary_file(path, ORDINARY).map(drop)
}

/// The same for a folder that [`write_folder_atomically`] is to write: `path` does not exist yet, or is an empty
/// folder.
///
/// # Errors
/// One sentence that names the path.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// assert!(nabla_base::check_writable_folder(&folder.path().join("out")).is_ok());
/// std::fs::write(folder.path().join("there.txt"), "1")?;
/// assert!(nabla_base::check_writable_folder(folder.path()).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn check_writable_folder(path: &Path) -> Result<(), OutputError> {
    temporary_folder(path).map(drop)
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
    write_with_mode(path, ORDINARY, write)
}

/// Writes `bytes` to `path` like [`write_bytes_atomically`], for its owner's eyes alone on Unix.
///
/// # Errors
/// An [`OutputError`]; `path` is then unchanged.
///
/// ```
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("key");
/// nabla_base::write_secret_atomically(&path, b"secret")?;
/// #[cfg(unix)]
/// {
///     use std::os::unix::fs::PermissionsExt;
///     assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_secret_atomically(path: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    write_bytes_with_mode(path, SECRET, bytes)
}

fn write_bytes_with_mode(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), OutputError> {
    write_with_mode(path, mode, |out| {
        out.write_all(bytes).map_err(|source| OutputError::Io {
            path: path.into(),
            source,
        })
    })
}

fn write_with_mode<E: From<OutputError>>(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> Result<(), E>,
) -> Result<(), E> {
    let mut partial = temporary_file(path, mode)?;
    let io = |source| OutputError::Io {
        path: path.into(),
        source,
    };
    if let Some(file) = &mut partial.temporary {
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
    write_bytes_with_mode(path, ORDINARY, bytes)
}

/// Calls `write` to fill a temporary folder, then renames it to `path`. If `path` is an empty folder, the files
/// are moved into it together.
///
/// - `write`: gets the path of the temporary folder; it may create files, but no folders
///
/// # Errors
/// The error of `write`, or an [`OutputError`], also if `path` is a file or a folder that is not empty; the
/// temporary folder is then removed, and `path` is unchanged.
///
/// ```
/// use nabla_base::{OutputError, write_bytes_atomically, write_folder_atomically};
///
/// let desk = tempfile::tempdir()?;
/// let path = desk.path().join("pair");
/// write_folder_atomically(&path, |folder| {
///     write_bytes_atomically(&folder.join("left.txt"), b"1")?;
///     write_bytes_atomically(&folder.join("right.txt"), b"2")?;
///     Ok::<(), OutputError>(())
/// })?;
/// assert_eq!(std::fs::read(path.join("right.txt"))?, b"2");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_folder_atomically<E: From<OutputError>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let partial = temporary_folder(path)?;
    write(&partial.path)?;
    partial.persist(path).map_err(|source| OutputError::Io {
        path: path.into(),
        source,
    })?;
    Ok(())
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

    fn two_files(folder: &Path) -> Result<(), OutputError> {
        write_bytes_atomically(&folder.join("a"), b"1")?;
        write_bytes_atomically(&folder.join("b"), b"2")
    }

    #[test]
    fn a_folder_is_filled_whole_or_not_at_all() {
        let desk = tempfile::tempdir().unwrap();
        let (new, empty) = (desk.path().join("new"), desk.path().join("empty"));
        fs::create_dir(&empty).unwrap();
        let count = |path: &Path| fs::read_dir(path).unwrap().count();
        for path in [&new, &empty] {
            let broken = write_folder_atomically(path, |folder| {
                two_files(folder)?;
                Err(OutputError::NotAFile { path: path.clone() })
            });
            assert!(broken.is_err());
            assert!(!new.exists() || path == &empty);
            assert_eq!(count(&empty), 0);
            write_folder_atomically(path, two_files).unwrap();
            assert_eq!(fs::read(path.join("b")).unwrap(), b"2");
            assert_eq!(count(path), 2);
            // A folder with files is not replaced.
            assert!(write_folder_atomically(path, two_files).is_err());
            assert_eq!(count(path), 2);
        }
        assert_eq!(count(desk.path()), 2);
        assert!(write_folder_atomically(&new.join("a"), two_files).is_err());
        let absent = write_folder_atomically(&desk.path().join("no/new"), two_files);
        assert!(matches!(absent, Err(OutputError::NoFolder { .. })));
    }

    #[test]
    fn what_a_killed_program_left_is_removed_by_the_next_writer_of_the_same_output() {
        let desk = tempfile::tempdir().unwrap();
        let path = desk.path().join("a.json");
        let stale = desk.path().join(".nabla-a.json-XyZ123.part");
        let of_another = desk.path().join(".nabla-b-a.json-XyZ123.part");
        for path in [&stale, &of_another] {
            fs::write(path, "half").unwrap();
        }
        let folder = desk.path().join(".nabla-a.json-Xyz124.part");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("half"), "").unwrap();
        write_atomically(&path, |_| {
            assert!(!stale.exists());
            // One that is being written stays.
            write_bytes_atomically(&path, b"inner")?;
            assert_eq!(fs::read(&path).unwrap(), b"inner");
            Ok::<(), OutputError>(())
        })
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert!(of_another.exists());
        assert_eq!(folder.exists(), !cfg!(unix));
        // However long the name is.
        let long = desk.path().join("l".repeat(240));
        write_bytes_atomically(&long, b"1").unwrap();
    }

    #[test]
    fn what_an_interrupt_removes_are_files_and_folders() {
        let desk = tempfile::tempdir().unwrap();
        let (file, folder) = (desk.path().join("file"), desk.path().join("folder"));
        fs::write(&file, "").unwrap();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a"), "").unwrap();
        let paths = [file, folder.join("a"), folder, desk.path().join("absent")];
        remove(&BTreeSet::from(paths));
        assert_eq!(fs::read_dir(desk.path()).unwrap().count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn files_and_folders_are_no_more_private_than_others() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let [ours, plain, our_folder, plain_folder] =
            ["ours", "plain", "our_folder", "plain_folder"].map(|name| folder.path().join(name));
        write_atomically(&ours, |_| Ok::<(), OutputError>(())).unwrap();
        fs::write(&plain, "").unwrap();
        write_folder_atomically(&our_folder, two_files).unwrap();
        fs::create_dir(&plain_folder).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
        assert_eq!(mode(&our_folder), mode(&plain_folder));
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
